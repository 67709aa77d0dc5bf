"""--val-input: val is all of its own inputs, train all of the others, in every format and after any stop."""

import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import tiktoken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nanogpt_compat
from nanogpt_compat import config
from nanogpt_compat.encoders.interface import Encoder
from nanogpt_compat.encoders.reference import TiktokenEncoder, with_mark
from nanogpt_compat.errors import UsageError
from nanogpt_compat.resume.checkpoint import journal_in, load_tally, read_found
from nanogpt_compat.text.documents import Documents
from tests import faults, reference, test_streams
from tests.conftest import RunPrepare
from tests.engines import tokenise
from tests.faults import Args, Stopped, expect, make_text, prepare, report_of, sha256s
from tests.test_fields import NO_JQ
from tests.test_records import write
from tests.test_resume import run_with_stops
from tests.test_shards import READ
from tests.texts import any_bytes

pytestmark = pytest.mark.costly

SEPARATOR = "\n\n"
SHARD = 5_003
BLOCKS: Args = ("--block-size", "10000")
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Two texts for train, then two for val."""
    return [make_text(tmp_path / f"{k}.txt", 100_000 + 1_000 * k, seed=k, n_invalid=3) for k in range(4)]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def both(paths: list[Path], n_train: int = 2) -> Args:
    return ("--input", *paths[:n_train], "--val-input", *paths[n_train:])


def tokens_in(folder: Path) -> tuple[list[int], list[int]]:
    """Return the tokens of each split in a folder of any format, known only by the names of its files."""
    found: dict[str, list[int]] = {"train": [], "val": []}
    for path in sorted(folder.glob("*.bin")) + sorted(folder.glob("*.npy")):
        has_header = path.name.startswith(("fineweb", "edufineweb"))
        form = "npy" if path.suffix == ".npy" else "llmc" if has_header else "bin"
        found["val" if "val" in path.name else "train"] += READ[form](path)
    return found["train"], found["val"]


def expected_pair(
    paths: list[Path], gpt2: tiktoken.Encoding, n_train: int = 2, *, max_chars: int | None = None
) -> tuple[list[int], list[int]]:
    train, _ = reference.expected_pair(paths[:n_train], gpt2, max_chars=max_chars)
    val, _ = reference.expected_pair(paths[n_train:], gpt2)
    return train.tolist(), val.tolist()


# Content of train and val


@given(
    raws=st.lists(any_bytes, min_size=2, max_size=5),
    n_train=st.integers(1, 4),
    block_bytes=st.integers(1, 60),
    n_workers=st.integers(1, 3),
    max_chars=st.none() | st.integers(1, 100),
    separator=st.none() | st.sampled_from(["\n", "a", "  "]),
)
@settings(same_folder, max_examples=200)
def test_val_is_all_of_its_inputs_and_train_all_of_the_others_up_to_the_limit(
    gpt2: tiktoken.Encoding,
    encoder: Encoder,
    tmp_path: Path,
    raws: list[bytes],
    n_train: int,
    block_bytes: int,
    n_workers: int,
    max_chars: int | None,
    separator: str | None,
) -> None:
    n_train = min(n_train, len(raws) - 1)
    paths = [tmp_path / str(k) for k in range(len(raws))]
    for path, raw in zip(paths, raws, strict=True):
        path.write_bytes(raw)
    documents = None if separator is None else Documents(separator, "none", 0.0)
    found, tally = tokenise(
        paths,
        encoder if separator is None else TiktokenEncoder(with_mark(gpt2)),
        n_val_inputs=len(paths) - n_train,
        block_bytes=block_bytes,
        n_workers=n_workers,
        max_chars=max_chars,
        documents=documents,
    )
    expected = expected_pair(paths, gpt2, n_train, max_chars=max_chars)
    if separator is not None:
        texts = [reference.read_as_text(path, "ignore") for path in paths]
        some = [*reference.up_to(texts[:n_train], separator, max_chars), *texts[n_train:]]
        tokens = [[*chain(*map(gpt2.encode_ordinary, text.split(separator)))] for text in some]
        expected = [*chain(*tokens[:n_train])], [*chain(*tokens[n_train:])]
    assert [one.tolist() for one in found] == list(expected)
    assert tally.val_tokens == sum(one.val_tokens for one in tally.inputs[n_train:]) == len(expected[1])
    assert [one.bytes_read for one in tally.inputs[n_train:]] == [len(raw) for raw in raws[n_train:]]


@pytest.mark.sample(4)
@pytest.mark.parametrize("form", ["bin", "bin in shards", "npy", "llmc"])
@pytest.mark.parametrize("kind", ["text", "separated", "jsonl", "jsonl.zst", "parquet"])
def test_each_split_has_a_stream_and_files_of_its_own(
    kind: str, form: str, gpt2: tiktoken.Encoding, tmp_path: Path, out: Path
) -> None:
    prose = [make_text(tmp_path / name, size).read_text("utf-8", "ignore") for name, size in SIZES.items()]
    splits = [text.split(SEPARATOR) for text in prose]
    options: Args = ("--engine", "tiktoken", "--eot", "append")
    if kind in ("text", "separated"):
        inputs = [tmp_path / name for name in SIZES]
        options = ("--engine", "tiktoken") if kind == "text" else (*options, "--document-separator", r"\n\n")
    else:
        inputs = [write(tmp_path, kind, some, name=f"part {k}") for k, some in enumerate(splits)]
    if form != "bin":
        options = (*options, "--format", form.split()[0], "--shard-tokens", str(SHARD))
    args: Args = (*both(inputs, 1), *options, "--output-dir", out)
    done = prepare(*args)
    assert done.returncode == 0, done.stderr
    found = tokens_in(out)
    if kind == "text":
        assert found == tuple(gpt2.encode_ordinary(text) for text in prose)
    else:
        expected = ([*map(gpt2.encode_ordinary, filter(None, some))] for some in splits)
        assert found == tuple([token for one in some for token in (*one, 50256)] for some in expected)
    made = report_of(out)
    assert made["tokens"] == {"train": len(found[0]), "val": len(found[1])}
    assert [one["split"] for one in made["inputs"]] == ["train", "val"]
    assert [one["val_tokens"] for one in made["inputs"]] == [0, len(found[1])]
    assert made["val_split"] == {"name": "--val-input", "ratio": None, "inputs": 1}
    names = sorted(one["name"] for one in made["files"])
    assert names == sorted(expected_names(form, *map(len, found)))
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, "prepare.json"])
    for more in ((), ("--verify",), ("--check",)):
        again = prepare(*(args if more != ("--check",) else ("--output-dir", out)), *more)
        assert again.returncode == 0, again.stderr


SIZES = {"train.txt": 60_000, "val.txt": 40_000}


def expected_names(form: str, n_train: int, n_val: int) -> Iterator[str]:
    """Yield file names: shards of val count from 0, and those of train from 1, as if val had only one."""
    train, val = (range(-(-n_tokens // SHARD)) for n_tokens in (n_train, n_val))
    assert len(train) > 1
    assert len(val) > 1
    if form.startswith("bin"):
        yield "val.bin"
        yield from ["train.bin"] if form == "bin" else (f"train_shard_{k:04d}.bin" for k in train)
        return
    word, suffix = ("edufineweb", "npy") if form == "npy" else ("fineweb", "bin")
    yield from (f"{word}_val_{k:06d}.{suffix}" for k in val)
    yield from (f"{word}_train_{k + 1:06d}.{suffix}" for k in train)


def test_without_val_input_a_report_is_unchanged(paths: list[Path], out: Path) -> None:
    assert prepare("--input", *paths, "--output-dir", out).returncode == 0
    assert not any("split" in one for one in report_of(out)["inputs"])


def test_a_report_of_a_version_without_val_input_still_counts(paths: list[Path], out: Path) -> None:
    args: Args = ("--input", *paths, "--output-dir", out)
    assert prepare(*args).returncode == 0
    made = report_of(out)
    del made["options"]["n_val_inputs"]
    (out / "prepare.json").write_text(json.dumps(made))
    assert "already complete" in prepare(*args).stderr
    for more in (("--verify",), ("--check",)):
        again = prepare(*(args if more != ("--check",) else args[-2:]), *more)
        assert again.returncode == 0, again.stderr


@pytest.mark.sample(2)
@pytest.mark.parametrize("other", ["fifo", "txt.gz", "stdin"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_either_may_be_a_pipe(split: str, other: str, paths: list[Path], tmp_path: Path, out: Path) -> None:
    assert prepare(*both([paths[0], paths[2]], 1), "--output-dir", tmp_path / "plain").returncode == 0
    index = 0 if split == "train" else 2
    with test_streams.given(other, paths[index].read_bytes(), tmp_path) as name:
        train, val = (name, paths[2]) if split == "train" else (paths[0], name)
        done = prepare("--input", train, "--val-input", val, "--output-dir", out)
    assert done.returncode == 0, done.stderr
    assert sha256s(out) == sha256s(tmp_path / "plain")


def test_one_pipe_cannot_be_both(paths: list[Path], tmp_path: Path) -> None:
    with test_streams.given("stdin", b"some text", tmp_path):
        done = prepare("--input", "-", "--val-input", "-", "--output-dir", tmp_path / "out")
    assert done.returncode == 3
    assert "standard input is given with --input and --val-input, and can be read only once" in done.stderr
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)  # it has no writer: opening it would wait forever
    done = prepare("--input", fifo, "--val-input", fifo, "--output-dir", tmp_path / "out")
    assert done.returncode == 3
    assert f"{fifo} is given with --input and --val-input" in done.stderr


# A stopped run


@pytest.mark.sample(2)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("form", ["bin", "npy", "llmc"])
def test_stopped_at_any_point_it_ends_in_the_same_files(
    form: str, seed: int, paths: list[Path], tmp_path: Path, out: Path
) -> None:
    args: Args = (*both(paths), "--format", form)
    if form != "bin":
        args = (*args, "--shard-tokens", str(SHARD))
    if seed % 2:
        args = (*args, "--document-separator", r"\n")
    with patch.object(config, "CHARS_PER_CHUNK", 130_000):
        if seed > 1:
            args = (*args, "--n", "1")
        expected = expect_here(tmp_path / "expected", *args)
        run_with_stops(random.Random(seed), out, *args, n_stops=6, mean_checks=25)
        made = expected.assert_reached(out)
    assert made["resumes"] > 1
    if seed > 1:
        assert made["bytes_read"] < made["bytes_total"]
        assert made["inputs"][2]["bytes_read"] == made["inputs"][2]["bytes"]


def expect_here(folder: Path, *args: str | Path) -> faults.Expected:
    """Run without interruption in this process, with the settings of the test."""
    assert prepare(*args, "--output-dir", folder).returncode == 0
    return faults.Expected(sha256s(folder), report_of(folder), seconds=0)


@pytest.mark.sample(2)
@pytest.mark.parametrize("form", ["bin", "npy"])
@pytest.mark.parametrize("skip", range(0, 14, 2))
def test_killed_before_any_checkpoint_it_ends_in_the_same_files(
    form: str, skip: int, paths: list[Path], tmp_path: Path, out: Path
) -> None:
    args: Args = (*both(paths), "--format", form, *BLOCKS)
    args = args if form == "bin" else (*args, "--shard-tokens", str(SHARD))
    expected = expect(tmp_path / "expected", *args, every_bytes=20_000)
    killed = faults.run(
        *args, "--output-dir", out, every_bytes=20_000, at="write journal", skip=skip, do="SIGKILL"
    )
    assert killed.returncode == -9, killed.stderr
    expected.assert_nothing_partial(out)
    done = prepare(*args, "--output-dir", out)
    assert done.returncode == 0, done.stderr
    expected.assert_reached(out)


def begin(out: Path, *args: str | Path, after_bytes: int) -> None:
    with pytest.raises(Stopped):
        prepare(*args, *BLOCKS, "--output-dir", out, stop_after_bytes=after_bytes)


def position_in(out: Path) -> int:
    """Return the number of the input at which a stopped run resumes."""
    found = read_found(journal_in(out))
    assert found.header is not None
    tally = load_tally(journal_in(out), n_inputs=len(found.header["inputs"]), end_byte=found.end_byte)
    return tally.position.input_index


IN_TRAIN, IN_VAL = 150_000, 250_000


def test_while_train_is_read_the_inputs_of_val_may_change(
    paths: list[Path], tmp_path: Path, out: Path
) -> None:
    more = make_text(tmp_path / "more.txt", 50_000, seed=9)
    for new in (
        *(both(paths[:3]), both([*paths, more]), both([*paths[:2], more])),
        both([*paths[:2], more, *paths[2:]], 3),  # one more for train
    ):
        begin(out, *both(paths), after_bytes=IN_TRAIN)
        assert position_in(out) == 1
        done = prepare(*new, "--output-dir", out)
        assert done.returncode == 0, done.stderr
        expected = expect_here(tmp_path / "expected", *new)
        assert expected.assert_reached(out)["resumes"] == 1
        shutil.rmtree(out)
        shutil.rmtree(tmp_path / "expected")


def test_while_val_is_read_only_its_later_inputs_may_change(
    paths: list[Path], tmp_path: Path, out: Path
) -> None:
    begin(out, *both(paths), after_bytes=IN_VAL)
    assert position_in(out) == 2
    more = make_text(tmp_path / "more.txt", 50_000, seed=9)
    others: tuple[tuple[Args, str], ...] = (
        (
            both([*paths[:2], more, *paths[2:]], 3),
            f"{more} is for train, but the saved part has an input for val in its place "
            "(--input now has 3 inputs)",
        ),
        (
            both(paths, 1),
            f"{paths[1]} is for val, but the saved part has an input for train in its place "
            "(--input now has 1 input)",
        ),
        (both(paths[:2], 1), "the number of inputs was 4, is 2, but the saved part comes from the first 3"),
        (both([*paths[:2], more, paths[3]]), f"{more} was changed within the"),
        (("--input", *paths), "--val-split was --val-input and is spread"),
    )
    for new, message in others:
        refused = prepare(*new, "--output-dir", out)
        assert refused.returncode == 5, refused.stderr
        assert message in refused.stderr
    new = both([*paths[:3], more])
    done = prepare(*new, "--output-dir", out)
    assert done.returncode == 0, done.stderr
    assert expect_here(tmp_path / "expected", *new).assert_reached(out)["resumes"] == 1


def test_train_may_get_more_inputs_until_some_of_val_is_read(tmp_path: Path, out: Path) -> None:
    paths = [make_text(tmp_path / f"{k}.txt", 50_000, seed=k) for k in range(3)]
    text = paths[2].read_bytes()
    paths[2].write_bytes(b"\xff" + text)
    strict: Args = ("--errors", "strict", "--output-dir", out)
    assert prepare(*both(paths), *strict).returncode == 3
    assert position_in(out) == 2
    paths[2].write_bytes(text)
    more = make_text(tmp_path / "more.txt", 50_000, seed=9)
    new = both([*paths[:2], more, paths[2]], 3)
    done = prepare(*new, *strict)
    assert done.returncode == 0, done.stderr
    expected = expect_here(tmp_path / "expected", *new, "--errors", "strict")
    assert expected.assert_reached(out)["resumes"] == 1


def test_a_run_without_val_input_is_not_resumed_with_it(paths: list[Path], out: Path) -> None:
    begin(out, "--input", *paths, after_bytes=IN_TRAIN)
    refused = prepare(*both(paths), "--output-dir", out)
    assert refused.returncode == 5
    assert "--val-split was spread and is --val-input" in refused.stderr


def test_the_part_of_train_after_the_limit_may_change_while_val_is_read(
    paths: list[Path], tmp_path: Path, out: Path
) -> None:
    with patch.object(config, "CHARS_PER_CHUNK", 50_000):
        args: Args = (*both(paths), "--n", "1")
        expected = expect_here(tmp_path / "expected", *args)
        begin(out, *args, after_bytes=100_000)
        assert position_in(out) == 2
        with paths[0].open("ab") as file:
            file.write(b" and more, which is not read")
        paths[1].write_bytes(b"other text, which is not read")
        done = prepare(*args, "--output-dir", out)
    assert done.returncode == 0, done.stderr
    assert sha256s(out) == expected.sha256s
    inputs = report_of(out)["inputs"]
    assert 50_000 <= inputs[0]["bytes_read"] < 60_000
    assert inputs[1]["bytes_read"] == 0


def test_the_part_of_train_before_the_limit_may_not_change_while_val_is_read(
    paths: list[Path], out: Path
) -> None:
    with patch.object(config, "CHARS_PER_CHUNK", 50_000):
        args: Args = (*both(paths), "--n", "1")
        begin(out, *args, after_bytes=100_000)
        with paths[0].open("r+b") as file:
            file.write(b"edited")
        refused = prepare(*args, "--output-dir", out)
    assert refused.returncode == 5
    assert f"{paths[0]} was changed within the" in refused.stderr


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_pipe_is_compared_once_when_val_is_resumed(
    split: str, paths: list[Path], tmp_path: Path, out: Path
) -> None:
    expected = expect_here(tmp_path / "expected", *both(paths[:2], 1))
    raw = paths[split == "val"].read_bytes()

    def run(raw: bytes, stop_after_bytes: int | None = None) -> faults.Outcome:
        with test_streams.given("stdin", raw, tmp_path) as name:
            inputs = (name, paths[1]) if split == "train" else (paths[0], name)
            options: Args = (*BLOCKS, "--n", "1", "--output-dir", out)
            args: Args = ("--input", inputs[0], "--val-input", inputs[1], *options)
            return prepare(*args, stop_after_bytes=stop_after_bytes)

    with patch.object(config, "CHARS_PER_CHUNK", 50_000):
        with pytest.raises(Stopped):
            run(raw, stop_after_bytes=100_000)
        assert position_in(out) == 1
        refused = run(b"~" + raw[1:])
        assert refused.returncode == 5, refused.stderr
        assert "standard input was changed within the" in refused.stderr
        done = run(raw)
    assert done.returncode == 0, done.stderr
    # The input at which it resumes is compared while it is read.
    assert ("of standard input to compare them" in done.stderr) == (split == "train")
    assert sha256s(out)["val.bin"] == expected.sha256s["val.bin"]


def test_a_stopped_run_is_described_with_val_input(
    paths: list[Path], out: Path, run_prepare: RunPrepare
) -> None:
    begin(out, *both(paths), after_bytes=IN_TRAIN)
    shown = " ".join(run_prepare("--inspect", out).stdout.split())
    assert "resume it with the command that began it, which had --val-input" in shown


# Complete output


def test_the_same_files_in_other_splits_are_another_run(paths: list[Path], out: Path) -> None:
    args: Args = ("--output-dir", out)
    assert prepare(*both(paths), *args).returncode == 0
    assert "already complete" in prepare(*both(paths), *args).stderr
    others: tuple[tuple[Args, str], ...] = (
        (both(paths, 3), f"{paths[2]} was for val and is for train."),
        (("--input", *paths), "--val-split was --val-input and is spread."),
        (both(paths[:3]), "the number of inputs was 4, is 3."),
    )
    for new, message in others:
        refused = prepare(*new, *args)
        assert refused.returncode == 4, refused.stderr
        assert message in refused.stderr
        belongs = prepare(*new, *args, "--verify")
        assert belongs.returncode == 5, belongs.stderr
        assert message[:-1] in belongs.stderr


@pytest.mark.parametrize("form", ["npy", "llmc"])
def test_shards_of_another_run_are_removed_or_refused(
    form: str, paths: list[Path], tmp_path: Path, out: Path
) -> None:
    options: Args = ("--format", form, "--shard-tokens", str(SHARD), "--output-dir", out)
    ways: tuple[Args, ...] = (both(paths), ("--input", *paths), ("--input", *paths, "--val-split", "none"))
    for old in ways:
        for new in ways:
            assert prepare(*old, *options).returncode == 0
            if new != old:
                assert prepare(*new, *options).returncode == 4
            done = prepare(*new, *options, "--overwrite")
            assert done.returncode == 0, done.stderr
            assert sorted(sha256s(out)) == sorted(one["name"] for one in report_of(out)["files"])
            assert prepare("--output-dir", out, "--check").returncode == 0
            shutil.rmtree(out)


def test_a_damaged_token_of_val_is_traced_to_its_input(paths: list[Path], out: Path) -> None:
    args: Args = (*both(paths), "--output-dir", out)
    assert prepare(*args).returncode == 0
    n_tokens = [one["tokens"] for one in report_of(out)["inputs"]]
    for index, place in ((2, 0), (3, n_tokens[2] + 5)):
        tokens = np.fromfile(out / "val.bin", np.uint16)
        tokens[place] ^= 1
        tokens.tofile(out / "val.bin")
        differs = prepare(*args, "--verify")
        assert differs.returncode == 1
        assert (
            f"which comes from the block of bytes 0 to {paths[index].stat().st_size:,} of {paths[index]}"
            in (differs.stderr)
        )
        tokens[place] ^= 1
        tokens.tofile(out / "val.bin")


def test_each_token_of_a_split_is_from_one_of_its_inputs(
    paths: list[Path], out: Path, run_prepare: RunPrepare
) -> None:
    assert (
        prepare(*both(paths), "--format", "npy", "--shard-tokens", "5003", "--output-dir", out).returncode
        == 0
    )
    n_tokens = [one["tokens"] for one in report_of(out)["inputs"]]
    for place, index, position in (
        ("train:0", 0, 0),
        (f"train:{n_tokens[0]}", 1, 0),
        ("val:0", 2, 0),
        (f"val:{n_tokens[2]}", 3, 0),
        ("val:-1", 3, n_tokens[3] - 1),
    ):
        done = run_prepare("--inspect", out, "--at", place)
        found = f"{paths[index].name}, token {position:,} of its {n_tokens[index]:,} in {place.split(':')[0]}"
        # A long path may be wrapped anywhere.
        assert "".join(found.split()) in "".join(done.stdout.split())
    assert "2.txt (val)" in run_prepare("--inspect", out).stdout


# Refusals and warnings


@pytest.mark.parametrize(
    "options",
    [
        *[("--val-ratio", "0.1"), ("--val-ratio", "0"), ("--val-split", "tail"), ("--val-split", "none")],
        *[("--val-split", "documents"), ("--format", "npy", "--val-split", "none")],
    ],
)
def test_the_options_of_a_split_exclude_val_input(options: Args, paths: list[Path], out: Path) -> None:
    done = prepare(*both(paths), *options, "--output-dir", out)
    assert done.returncode == 2
    assert f"{options[-2]} {options[-1]}" in done.stderr.replace("0.0 ", "0 ")
    assert "does not go with --val-input" in done.stderr
    assert not out.exists()


def test_text_without_documents_does_not_go_with_documents_in_the_other_split(
    paths: list[Path], tmp_path: Path, out: Path
) -> None:
    records = write(tmp_path, "jsonl", ["one document"])
    for pair in ((paths[0], records), (records, paths[0])):
        refused = prepare(*both([*pair], 1), "--output-dir", out)
        assert refused.returncode == 2
        assert f"{paths[0]} is plain text, and another input holds documents" in refused.stderr
        done = prepare(*both([*pair], 1), "--output-dir", out, "--document-separator", r"\n")
        assert done.returncode == 0, done.stderr
        shutil.rmtree(out)


def test_a_file_in_both_splits_is_a_warning(paths: list[Path], tmp_path: Path, out: Path) -> None:
    link = tmp_path / "link.txt"
    link.symlink_to(paths[0])
    for again, message in (
        ([paths[0]], f"{paths[0]} is in both --input and --val-input"),
        ([link, paths[1]], f"{link} and 1 more are in both --input and --val-input"),
    ):
        done = prepare("--input", *paths[:2], "--val-input", *again, "--output-dir", out)
        assert done.returncode == 0, done.stderr
        assert f"warning: {message}, so the validation loss will be" in done.stderr
        shutil.rmtree(out)
    twice = prepare("--input", paths[0], "--val-input", paths[1], paths[1], "--output-dir", out)
    assert twice.returncode == 3
    assert "is given twice" in twice.stderr


def test_inputs_without_text_for_train_are_refused(paths: list[Path], tmp_path: Path, out: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_bytes(b"")
    refused = prepare("--input", empty, "--val-input", paths[0], "--output-dir", out)
    assert refused.returncode == 3
    assert "there is no text: empty.txt has 0 bytes" in refused.stderr
    no_documents = write(tmp_path, "jsonl", ["", ""])
    val = write(tmp_path, "jsonl", ["a document"], name="val")
    refused = prepare("--input", no_documents, "--val-input", val, "--output-dir", out)
    assert refused.returncode == 3
    assert "there is no text in part.jsonl; 2 documents are empty" in refused.stderr
    assert not (out / ".prepare").exists()


def test_too_little_text_for_val_is_a_warning_that_advises_only_more_text(
    paths: list[Path], tmp_path: Path, out: Path
) -> None:
    little = tmp_path / "little.txt"
    for text in (b"", b"a few words"):
        little.write_bytes(text)
        args: Args = ("--input", paths[0], "--val-input", little, "--output-dir", out)
        for done in (prepare(*args, "--dry-run"), prepare(*args)):
            assert done.returncode == 0, done.stderr
            before, _, after = done.stderr.partition("memory: ")
            assert "warning: val.bin would have about" in before
            assert "give more text with --val-input" in before
            assert "--val-ratio" not in done.stderr
            assert "--val-split" not in done.stderr
            assert "next:" not in after
        shutil.rmtree(out)


def test_advice_on_a_refused_input_of_val_names_its_own_option(
    paths: list[Path], tmp_path: Path, out: Path
) -> None:
    packed = tmp_path / "packed.zip"
    packed.write_bytes(b"PK\x03\x04" + bytes(100))
    missing = tmp_path / "nothing.txt"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.dat").write_text("text")
    for val, advice in (
        (packed, "--val-input"),
        (missing, "name an existing file with --val-input"),
        (tmp_path / "folder", f"--val-input '{tmp_path}/folder/*.dat'"),
    ):
        done = prepare("--input", paths[0], "--val-input", val, "--output-dir", out)
        assert done.returncode == 3
        assert advice in done.stderr
        commands = [line for line in done.stderr.splitlines() if line.startswith("    ")]
        assert not any("--input -" in command for command in commands)


@pytest.mark.skipif(not shutil.which("jq"), reason=NO_JQ)
def test_the_commands_that_convert_inputs_of_both_work_one_after_the_other(
    tmp_path: Path, out: Path, run_prepare: RunPrepare
) -> None:
    paths = [tmp_path / f"{name}.json" for name in ("train", "val")]
    for path in paths:
        path.write_text(json.dumps([{"text": f"{path.stem} {k} " * 40} for k in range(100)]))
    done = run_prepare(*both(paths, 1), "--output-dir", out)
    for path in paths:
        assert done.returncode == 3
        assert f"{path} is a JSON array; to convert it:" in done.stderr
        (line,) = (line for line in done.stderr.splitlines() if line.startswith("    "))
        done = subprocess.run(["bash", "-ec", line], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [Path(one["path"]).name for one in report_of(out)["inputs"]] == ["train.jsonl", "val.jsonl"]


def test_the_forecast_is_for_each_split(paths: list[Path], tmp_path: Path, out: Path) -> None:
    options: Args = (*both(paths, 1), "--progress", "json", "--dry-run", "--output-dir", out)
    done = faults.run(*options)
    assert done.returncode == 0, done.stderr
    tokens = json.loads(done.stdout.splitlines()[-1])["forecast"]["tokens"]
    assert prepare(*both(paths, 1), "--output-dir", out).returncode == 0
    made = report_of(out)["tokens"]
    assert {split: round(tokens[split] / made[split], 1) for split in made} == {"train": 1.0, "val": 1.0}


# Many machines, and Python


@pytest.mark.sample(2)
@pytest.mark.parametrize("form", ["bin", "npy"])
@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_many_processes_make_the_output_of_one(kind: str, form: str, tmp_path: Path) -> None:
    inputs = [make_text(tmp_path / f"{k}.txt", 60_000, seed=k) for k in range(3)]
    if kind == "jsonl":
        texts = (path.read_text("utf-8", "ignore").split("\n") for path in inputs)
        inputs = [write(tmp_path, kind, some, name=str(k)) for k, some in enumerate(texts)]
    options: Args = ("--engine", "tiktoken", "--format", form)
    options = options if form == "bin" else (*options, "--shard-tokens", str(SHARD))
    one, many, work = (tmp_path / name for name in ("one", "many", "work"))
    assert prepare(*both(inputs, 1), *options, "--output-dir", one).returncode == 0
    shared: Args = (*options, "--work-dir", work, "--output-dir", many, "--span-size", "20k")
    for rank in ("0", "1"):
        done = prepare(*both(inputs, 1), *shared, "--rank", rank, "--world-size", "2")
        assert done.returncode == 0, done.stderr
    index = json.loads((work / "index.json").read_text())
    assert index["tokens"] == report_of(one)["tokens"]
    for split in ("train", "val"):
        parts = (work / part["name"] for part in index["files"] if part["split"] == split)
        tokens = [token for part in parts for token in READ["bin"](part)]
        assert tokens == tokens_in(one)[split == "val"]
    moved = prepare(*both(inputs, 2), *shared, "--merge")
    assert moved.returncode == 5
    assert "the number of inputs of --val-input was 2, is 1" in moved.stderr
    merged = prepare(*both(inputs, 1), *shared, "--merge")
    assert merged.returncode == 0, merged.stderr
    assert sha256s(many) == sha256s(one)
    assert report_of(many)["fingerprint"] == report_of(one)["fingerprint"]
    assert "already complete" in prepare(*both(inputs, 1), *options, "--output-dir", many).stderr


def test_compressed_text_needs_no_windows_in_many_processes(tmp_path: Path) -> None:
    train, val = (make_text(tmp_path / f"{k}.txt", 30_000, seed=k) for k in range(2))
    with test_streams.given("txt.gz", train.read_bytes(), tmp_path) as name:
        args: Args = ("--input", name, "--val-input", val)
    shared: Args = (*args, "--work-dir", tmp_path / "work", "--output-dir", tmp_path / "many")
    done = prepare(*shared, "--rank", "0", "--world-size", "1")
    assert done.returncode == 0, done.stderr
    assert prepare(*shared, "--merge").returncode == 0
    assert prepare(*args, "--output-dir", tmp_path / "one").returncode == 0
    assert sha256s(tmp_path / "many") == sha256s(tmp_path / "one")


def test_val_input_works_from_python_too(paths: list[Path], out: Path) -> None:
    made = nanogpt_compat.prepare(paths[0], out, val_input=paths[1])
    assert [one["split"] for one in made["inputs"]] == ["train", "val"]
    again = nanogpt_compat.prepare(paths[:1], out, val_input=paths[1:2])
    assert again["tokens"] == made["tokens"]
    with pytest.raises(UsageError, match="val_input is empty"):
        nanogpt_compat.prepare(paths[0], out, val_input=[])
