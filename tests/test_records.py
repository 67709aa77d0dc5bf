"""JSON lines and tables, end to end: equal documents give equal files in any format, stopped or not."""

import csv
import gzip
import io
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tiktoken

from nanogpt_compat.input.location import Format
from nanogpt_compat.input.reader import Reading
from nanogpt_compat.input.source import reader_of
from nanogpt_compat.text.blocks import Position
from nanogpt_compat.text.documents import MARK, Documents
from tests import faults
from tests.faults import Args, Expected, expect, make_text, prepare, report_of, sha256s
from tests.reference import goes_to_val, texts_of_table
from tests.test_documents import assert_same, expected_pair
from tests.test_streams import given
from tests.texts import real_text, zstd

pytestmark = pytest.mark.costly

KINDS = ("jsonl", "jsonl.gz", "jsonl.zst", "json.gz", "csv", "tsv.gz", "parquet", "arrow", "feather")
ROWS = ("parquet", "arrow", "feather")  # these count rows, others bytes
VAL: Args = ("--val-ratio", "0.05")


def write(folder: Path, kind: str, documents: list[str], *, name: str = "part") -> Path:
    """Put documents into a file of some format, in several gzip members, zstd frames or row groups."""
    path = folder / f"{name}.{kind}"
    if kind == "parquet":
        table = pyarrow.table({"id": list(range(len(documents))), "text": documents})
        pyarrow.parquet.write_table(table, path, row_group_size=max(1, len(documents) // 3))
        return path
    if kind in ROWS:
        table = pyarrow.table({"id": list(range(len(documents))), "text": documents})
        opener = pyarrow.ipc.new_stream if kind == "arrow" else pyarrow.ipc.new_file
        packed = pyarrow.ipc.IpcWriteOptions(compression=None if kind == "arrow" else "lz4")
        with opener(str(path), table.schema, options=packed) as file:
            file.write_table(table, max_chunksize=max(1, len(documents) // 3))
        return path
    lines = [json.dumps({"id": k, "text": one}).encode() + b"\n" for k, one in enumerate(documents)]
    if kind.startswith(("csv", "tsv")):
        text = io.StringIO(newline="")
        rows = csv.writer(text, delimiter="," if kind == "csv" else "\t", quoting=csv.QUOTE_NONNUMERIC)
        rows.writerows([("id", "text"), *enumerate(documents)])
        lines = [text.getvalue().encode()]
    third = -(-len(lines) // 3)
    parts = [b"".join(lines[start : start + third]) for start in range(0, len(lines), max(1, third))]
    if kind.endswith("gz"):
        parts = [gzip.compress(part, 1) for part in parts]
    if kind.endswith("zst"):
        parts = [zstd.compress(part) for part in parts]
    path.write_bytes(b"".join(parts))
    return path


def some_documents() -> list[str]:
    """Return real text in pieces of all lengths, with all that a text file could not hold unchanged."""
    rng = random.Random(0)
    prose = real_text()[:1_500_000].decode("utf-8", "ignore")
    documents, start = [], 0
    while start < len(prose):
        end = start + rng.choice([0, 1, 10, 300, 3000, 3000, 3000, 20_000])
        documents.append(prose[start:end])
        start = end
    return [
        *(
            "",
            "a\r\nb\rc\n",
            "\n",
            " ",
            MARK.decode(),
            f"between {MARK.decode()} two",
            "\x00\x1e<|endoftext|>",
        ),
        *documents,
        prose[:1_400_000],  # longer than a block
        "x" * 20_000,
    ]


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return some_documents()


def expected_tokens(
    documents: list[str], eot: str, ratio: float, gpt2: tiktoken.Encoding
) -> tuple[list[int], list[int]]:
    """Return the tokens of the same documents in a text, with a separator that none of them contains."""
    separator = "\x1f\x1f separator \x1f\x1f"
    return expected_pair([separator.join(documents)], Documents(separator, eot, ratio), gpt2)


def tokens_of(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    train, val = (np.fromfile(folder / f"{name}.bin", np.uint16) for name in ("train", "val"))
    return train, val


@pytest.mark.sample(10)
@pytest.mark.parametrize("eot", ["append", "prepend", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_each_document_unchanged(
    kind: str, eot: str, documents: list[str], gpt2: tiktoken.Encoding, tmp_path: Path, engine: str
) -> None:
    path = write(tmp_path, kind, documents)
    done = prepare("--input", path, "--output-dir", tmp_path, *VAL, "--eot", eot, "--engine", engine)
    assert done.returncode == 0, done.stderr
    assert_same(tokens_of(tmp_path), expected_tokens(documents, eot, 0.05, gpt2))
    report = report_of(tmp_path)
    assert report["documents"] == sum(map(bool, documents))
    assert report["empty_documents"] == len(documents) - report["documents"]
    assert report["longest_document_bytes"] == max(len(one.encode()) for one in documents)
    assert report["bytes_read"] == report["bytes_total"] == path.stat().st_size
    name = kind.replace("json.", "jsonl.").replace("feather", "arrow")
    assert report["inputs"][0]["format"] == name
    again = prepare("--input", path, "--output-dir", tmp_path, *VAL, "--eot", eot, "--engine", engine)
    assert "already complete" in again.stderr
    verified = prepare("--input", path, "--output-dir", tmp_path, *VAL, "--eot", eot, "--verify")
    assert verified.returncode == 0, verified.stderr


def test_inputs_without_records_are_read_too(tmp_path: Path) -> None:
    lines = b'{"text": "one two three"}\n' * 2521  # somewhat more than 64 KiB, in blocks that end with a line
    (tmp_path / "1.jsonl.gz").write_bytes(gzip.compress(lines[:65_520]) + gzip.compress(b"") * 5_000)
    (tmp_path / "2.jsonl.gz").write_bytes(gzip.compress(b""))
    last = tmp_path / "3.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), last)
    done = prepare(
        *("--input", tmp_path / "1.jsonl.gz", tmp_path / "2.jsonl.gz", last, "--output-dir", tmp_path),
        *("--block-size", "65520"),
    )
    assert done.returncode == 0, done.stderr
    report = report_of(tmp_path)
    assert [one["bytes_read"] for one in report["inputs"]] == [one["bytes"] for one in report["inputs"]]
    assert report["bytes_read"] == report["bytes_total"]


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("kind", [*KINDS, "txt"])
def test_a_wrong_token_is_traced_to_the_block_that_holds_its_document(
    kind: str, split: str, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    some = [f"Number {k} of many.\n" + "All alike. " * (k % 90) for k in range(900)]
    options: Args = ("--val-ratio", "0.1", "--output-dir", tmp_path, "--block-size", "100K")
    if kind == "txt":
        path = tmp_path / "part.txt"
        path.write_text("\x1e".join(some), encoding="utf-8", newline="")
        options = (*options, "--document-separator", r"\x1e")
    else:
        path = write(tmp_path, kind, ["", *some[:450], "", *some[450:]])
    assert prepare("--input", path, *options).returncode == 0
    final = tmp_path / f"{split}.bin"
    tokens = np.fromfile(final, "<u2")
    at = len(tokens) * 3 // 4
    n_documents = int(np.count_nonzero(tokens[:at] == 50256))
    is_val = split == "val"
    which = [k for k, one in enumerate(some) if goes_to_val(one, 0.1) == is_val][n_documents]
    tokens[at] ^= 1
    tokens.tofile(final)
    done = prepare("--input", path, *options, "--verify")
    assert done.returncode == 1
    assert f"{final}: token {at:,}, at byte {2 * at:,}, is {tokens[at]} (" in done.stderr
    unit = "rows" if kind in ROWS else "bytes"
    block = re.search(rf"the block of {unit} ([\d,]+) to ([\d,]+) .*{re.escape(str(path))}; run", done.stderr)
    assert block is not None, done.stderr
    first, end = (int(number.replace(",", "")) for number in block.groups())
    n_before = which + 1 + (which >= 450)
    if kind in ROWS:
        assert first <= n_before < end
        return
    if kind == "txt":
        ends = [len("\x1e".join([*some[:k], ""])) for k in (which, which + 1)]
    elif "sv" in kind:
        plain = write(tmp_path, kind.removesuffix(".gz"), ["", *some[:450], "", *some[450:]], name="plain")
        text = plain.read_bytes()
        start = text.index(some[which].encode())
        ends = [start, start + len(some[which])]
    else:  # its place in the uncompressed lines
        lines = write(tmp_path, "jsonl", ["", *some[:450], "", *some[450:]], name="plain").read_bytes()
        ends = [len(b"".join(lines.splitlines(keepends=True)[:k])) for k in (n_before, n_before + 1)]
    assert first < ends[1]
    assert ends[0] < end
    assert end - first < 150_000


@pytest.mark.parametrize("kinds", [("txt", "txt"), ("jsonl", "parquet"), ("parquet", "jsonl.gz")])
def test_a_wrong_token_at_the_beginning_of_an_input_is_traced_to_that_input(
    kinds: tuple[str, str], tmp_path: Path
) -> None:
    paths = []
    for name, kind in zip("ab", kinds, strict=True):
        some = [f"Document {k} of file {name}.\n" for k in range(40)]
        if kind == "txt":
            paths.append(tmp_path / f"{name}.txt")
            paths[-1].write_text("".join(some), encoding="utf-8")
        else:
            paths.append(write(tmp_path, kind, some, name=name))
    options: Args = ("--val-split", "none", "--output-dir", tmp_path)
    assert prepare("--input", *paths, *options).returncode == 0
    first = report_of(tmp_path)["inputs"][0]["tokens"]
    tokens = np.fromfile(tmp_path / "train.bin", "<u2")
    tokens[first] ^= 1
    tokens.tofile(tmp_path / "train.bin")
    done = prepare("--input", *paths, *options, "--verify")
    assert done.returncode == 1
    assert f"train.bin: token {first:,}, at byte" in done.stderr
    unit = "rows" if kinds[1] == "parquet" else "bytes"
    assert f"comes from the block of {unit} 0 to " in done.stderr
    assert f" of {paths[1]}; run the same command" in done.stderr


def test_a_folder_saved_by_datasets_is_read_without_its_caches(
    documents: list[str], gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    some = [one for one in documents if len(one) < 5000][:300]
    kind = pyarrow.struct([("text", pyarrow.string()), ("n", pyarrow.int64())])
    paths = []
    for k in range(11):
        rows = [None if j % 9 == 8 else {"text": one, "n": j} for j, one in enumerate(some[k::11])]
        table = pyarrow.table({"id": range(len(rows)), "meta": pyarrow.array(rows, kind)})
        paths.append(folder / f"data-{k:05}-of-00011.arrow")
        with pyarrow.ipc.new_stream(str(paths[-1]), table.schema) as file:
            file.write_table(table, max_chunksize=10)
    shutil.copy(paths[0], folder / "cache-0123456789abcdef.arrow")
    for name in ("state.json", "dataset_info.json"):
        (folder / name).write_text("{}")
    out = tmp_path / "out"
    args: Args = ("--text-field", "meta.text", "--skip-bad-records", "--val-ratio", "0.1")
    done = prepare("--input", folder, "--output-dir", out, *args)
    assert done.returncode == 0, done.stderr
    assert "skipped 3 other entries" in done.stderr
    found = [one for path in paths for one in texts_of_table(path, "meta.text")]
    assert_same(tokens_of(out), expected_tokens([one for one in found if one], "append", 0.1, gpt2))
    assert report_of(out)["skipped_records"] == found.count(None) > 20


@pytest.mark.parametrize("kind", ["stdin", "stdin.gz"])
def test_a_pipe_of_csv_is_resumed_from_its_beginning_and_must_be_the_same(
    kind: str, documents: list[str], gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    path = write(tmp_path, "csv", documents * 2)  # more than the kept beginning of a pipe
    raw, out = path.read_bytes(), tmp_path / "out"
    assert len(raw) > 3_000_000
    n_bytes = 2_500_000 if kind == "stdin" else 1_000_000  # as stored
    same: Args = ("--output-dir", out, "--text-field", "text", "--val-ratio", "0.05", "--block-size", "50000")
    with given(kind, raw, tmp_path) as name, pytest.raises(faults.Stopped):
        prepare("--input", name, *same, stop_after_bytes=n_bytes, every_bytes=100_000)
    with given(kind, raw.replace(b"the", b"teh", 1), tmp_path) as name:
        assert prepare("--input", name, *same).returncode == 5
    with given(kind, raw, tmp_path) as name:
        done = prepare("--input", name, *same)
    assert done.returncode == 0, done.stderr
    found = [one for one in texts_of_table(path, "text") if one]
    assert found == [one for one in documents * 2 if one]
    assert_same(tokens_of(out), expected_tokens(found, "append", 0.05, gpt2))
    assert report_of(out)["resumes"] == 1


def test_several_inputs_of_all_formats_are_one_run(
    documents: list[str], gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    some = [one for one in documents if "\x1e" not in one and "\r" not in one][: 15 * len(KINDS)]
    parts = [some[start : start + 15] for start in range(0, 15 * len(KINDS), 15)]
    paths = [
        write(tmp_path, kind, part, name=str(k))
        for k, (kind, part) in enumerate(zip(KINDS, parts, strict=True))
    ]
    paths.append(tmp_path / "last.txt")
    paths[-1].write_text("\x1e".join(parts[0]), encoding="utf-8", newline="")
    out = tmp_path / "out"
    options: Args = ("--document-separator", r"\x1e", "--val-ratio", "0.1", "--output-dir", out)
    done = prepare("--input", *paths, *options, "--block-size", "10000")
    assert done.returncode == 0, done.stderr
    assert_same(tokens_of(out), expected_tokens([*some, *parts[0]], "append", 0.1, gpt2))
    before = sha256s(out)
    assert prepare("--input", *paths, *options, "--restart", "--overwrite", "--workers", "3").returncode == 0
    assert sha256s(out) == before


@pytest.mark.sample(3)
@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst", "csv", "tsv.gz", *ROWS])
def test_stopped_after_any_block_it_resumes_at_the_record(
    kind: str, documents: list[str], tmp_path: Path
) -> None:
    path = write(tmp_path, kind, documents[:400])
    same: Args = ("--input", path, *VAL, "--block-size", "20000")
    expected = expect(tmp_path / "expected", *same)
    out = tmp_path / "out"
    n_stops = 0
    for n_bytes in range(1, path.stat().st_size, path.stat().st_size // 7):
        try:  # the last block may be so long that there is nothing left
            prepare(*same, "--output-dir", out, stop_after_bytes=n_bytes)
        except faults.Stopped:
            n_stops += 1
    assert n_stops > 2
    prepare(*same, "--output-dir", out)
    expected.assert_reached(out)


@pytest.mark.sample(1)
@pytest.mark.parametrize("n_kills", [2, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst", "csv", "tsv.gz", *ROWS])
def test_killed_at_random_moments_it_ends_in_the_same_files(
    kind: str, n_kills: int, documents: list[str], tmp_path: Path
) -> None:
    path = write(tmp_path, kind, documents * 2)
    same: Args = ("--input", path, *VAL)
    expected: Expected = expect(tmp_path / "expected", *same)
    rng = random.Random(0)
    n_done, out = 0, tmp_path / "out"

    def choose() -> tuple[Args, dict[str, Any]]:
        block_bytes = rng.choice([20_000, 200_000])
        return (*same, "--output-dir", out, "--block-size", str(block_bytes)), {"every_bytes": 100_000}

    while n_done < n_kills:
        n_done += faults.kill_until_done(rng, expected, out, choose, seconds=expected.seconds)[0]
        shutil.rmtree(out)


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "csv", *ROWS])
def test_an_input_changed_within_the_part_already_read_is_refused(
    kind: str, documents: list[str], tmp_path: Path
) -> None:
    path = write(tmp_path, kind, documents[:300])
    out = tmp_path / "out"
    same: Args = ("--input", path, *VAL, "--block-size", "20000", "--output-dir", out)
    with pytest.raises(faults.Stopped):
        prepare(*same, stop_after_bytes=path.stat().st_size // 2)
    changed = [one.replace("e", "i") if k == 100 else one for k, one in enumerate(documents[:300])]
    write(tmp_path, kind, changed)
    refused = prepare(*same)
    assert refused.returncode == 5, refused.stderr
    assert "--restart" in refused.stderr


def test_reading_through_an_earlier_runs_part_can_be_stopped(documents: list[str], tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl.gz", documents)
    reader = reader_of(path, Format("jsonl", "gz"), size_bytes=path.stat().st_size)
    *_, last = reader.blocks(Position(0), Reading(block_bytes=1 << 20))

    def stop() -> None:
        raise faults.Stopped

    again = reader.blocks(last.start, Reading(block_bytes=1000, check=stop))
    with pytest.raises(faults.Stopped):
        next(again)


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_of_characters_ends_with_a_document(
    kind: str, documents: list[str], gpt2: tiktoken.Encoding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanogpt_compat.config.CHARS_PER_CHUNK", 100_000)
    some = [one for one in documents if len(one) < 50_000]
    path = write(tmp_path, kind, some)
    done = prepare("--input", path, "--output-dir", tmp_path, "--n", "2", "--val-ratio", "0.1")
    assert done.returncode == 0, done.stderr
    n_kept = next(k for k in range(len(some)) if sum(map(len, some[:k])) >= 200_000)
    assert_same(tokens_of(tmp_path), expected_tokens(some[:n_kept], "append", 0.1, gpt2))


def test_with_a_number_of_characters_no_line_ends_early(
    gpt2: tiktoken.Encoding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanogpt_compat.config.CHARS_PER_CHUNK", 10)
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"id": 1,\r "text": "seven ch"}\n{"id": 2,\r"text": "and more"}\n{"text": "no more"}\n'
    )
    done = prepare("--input", path, "--output-dir", tmp_path, "--n", "1", "--val-split", "none")
    assert done.returncode == 0, done.stderr
    train = np.fromfile(tmp_path / "train.bin", np.uint16)
    assert gpt2.decode(train.tolist()) == "seven ch<|endoftext|>and more<|endoftext|>"


def test_bad_records_stop_it_or_are_counted(documents: list[str], tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl", documents[:50])
    lines = path.read_bytes().splitlines(keepends=True)
    lines[20:20] = [b'{"text": 1}\n', b'{"title": "x"}\n', b"{broken\n", b'"text"\n', b'{"text": "\xff"}\n']
    path.write_bytes(b"".join(lines))
    out = tmp_path / "out"
    stopped = prepare("--input", path, "--output-dir", out, "--block-size", "5000")
    assert stopped.returncode == 3
    at = sum(map(len, lines[:20]))
    assert f"{path}: line 21, at byte {at:,}: its field 'text' is a number" in stopped.stderr
    assert "--skip-bad-records" in stopped.stderr
    done = prepare("--input", path, "--output-dir", out, "--skip-bad-records")
    assert done.returncode == 0, done.stderr
    report = report_of(out)
    assert report["skipped_records"] == 5
    assert [why.split(":")[0] for _, why in report["first_skipped_records"]] == [
        f"line {k}, at byte {sum(map(len, lines[: k - 1])):,}" for k in range(21, 26)
    ]
    assert f"5 records were skipped, the first in {path}: line 21" in done.stderr


def test_bad_rows_stop_it_or_are_counted_and_it_continues_after_them(
    documents: list[str], gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    good = [one for one in documents[:200] if one]
    rows: list[bytes | None] = [one.encode() for one in good]
    rows[30:30] = [None, b"caf\xe9", b""]
    rows[0:0] = [b"\xe9 first"]
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": pyarrow.array(rows).view(pyarrow.string())})
    pyarrow.parquet.write_table(table, path, row_group_size=25)
    out = tmp_path / "out"
    same: Args = ("--input", path, "--output-dir", out, "--block-size", "16KiB", "--val-ratio", "0.1")
    stopped = prepare(*same)
    assert stopped.returncode == 3
    assert (
        f"{path}: row 0 (of row group 0, whose column begins at byte 4): byte 0 of its field 'text' is not "
        "UTF-8: found e9" in stopped.stderr
    )
    assert "--skip-bad-records" in stopped.stderr
    shutil.rmtree(out)
    with pytest.raises(faults.Stopped):
        prepare(*same, "--skip-bad-records", stop_after_bytes=path.stat().st_size // 2)
    assert prepare(*same, "--skip-bad-records").returncode == 0
    assert_same(tokens_of(out), expected_tokens(good, "append", 0.1, gpt2))
    report = report_of(out)
    assert report["resumes"] == 1
    assert report["empty_documents"] == 1
    assert [re.sub(r" \(of .*?\)", "", why) for _, why in report["first_skipped_records"]] == [
        "row 0: byte 0 of its field 'text' is not UTF-8: found e9",
        "row 31: its field 'text' is null",
        "row 32: byte 3 of its field 'text' is not UTF-8: found e9",
    ]


def test_another_field_is_taken_if_it_is_named(gpt2: tiktoken.Encoding, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"content": "one"}\n{"content": "two \\ud800"}\n')
    refused = prepare("--input", path, "--output-dir", tmp_path)
    assert refused.returncode == 3
    assert "no field 'text' among its fields ('content')" in refused.stderr
    done = prepare(
        "--input", path, "--output-dir", tmp_path, "--text-field", "content", "--val-split", "none"
    )
    assert done.returncode == 0, done.stderr
    train = np.fromfile(tmp_path / "train.bin", np.uint16)
    assert gpt2.decode(train.tolist()) == "one<|endoftext|>two \ufffd<|endoftext|>"
    assert "1 half of a character (surrogates) became U+FFFD" in done.stderr


def test_inputs_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    text, lines = tmp_path / "a.txt", tmp_path / "a.jsonl"
    text.write_text("plain")
    lines.write_text('{"text": "one"}\n')
    mixed = prepare("--input", text, lines, "--output-dir", tmp_path)
    assert mixed.returncode == 2
    assert f"{text} is plain text, and another input holds documents" in mixed.stderr
    assert prepare("--input", lines, "--output-dir", tmp_path, "--val-split", "spread").returncode == 2


def test_a_damaged_file_stops_it_with_its_name(documents: list[str], tmp_path: Path) -> None:
    for kind in ("jsonl.gz", "jsonl.zst", "tsv.gz", *ROWS):
        path = write(tmp_path, kind, documents[:200])
        path.write_bytes(path.read_bytes()[:-1000])
        done = prepare("--input", path, "--output-dir", tmp_path / kind)
        assert done.returncode == 3, done.stderr
        assert str(path) in done.stderr


def test_the_forecast_is_near(tmp_path: Path) -> None:
    prose = make_text(tmp_path / "prose", 3_000_000).read_text("utf-8", "ignore")
    some = [prose[start : start + 3000] for start in range(0, len(prose), 3000)]
    for kind in KINDS:
        path = write(tmp_path, kind, some)
        args: Args = ("--input", path, "--output-dir", tmp_path / kind)
        stdout = faults.run(*args, "--dry-run").stdout
        assert prepare(*args).returncode == 0
        n_tokens = sum(report_of(tmp_path / kind)["tokens"].values())
        about = float(stdout.split("about ")[1].split("M tokens")[0]) * 1e6
        assert 0.8 < about / n_tokens < 1.25, (kind, stdout)
