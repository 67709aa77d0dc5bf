"""--max-tokens: the first N tokens in the order of the input, and nothing after them is read."""

import gzip
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tiktoken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import nanogpt_compat
from nanogpt_compat.encoders.interface import Encoder
from nanogpt_compat.encoders.reference import with_mark
from nanogpt_compat.resume.counters import Tally
from nanogpt_compat.text import cutting
from nanogpt_compat.text.documents import EOTS, Documents
from nanogpt_compat.text.val_split import SPLITS, val_windows
from tests import faults
from tests.conftest import REPOSITORY
from tests.engines import Lists, open_encoder, tokenise
from tests.faults import Args, assert_refused, expect, make_text, prepare, report_of, sha256s
from tests.reference import exact_cuts, read_as_text, text_of
from tests.test_documents import each_of, raw_documents
from tests.texts import any_bytes, real_text

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
SETTINGS: dict[str, Any] = {"every_bytes": 40_000, "window_bytes": 1 << 16}


pytestmark = pytest.mark.costly


class InOrder(Lists):
    """A sink that also keeps the order of the splits."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[tuple[bool, int]] = []

    def append(
        self, tokens: NDArray[np.uint16], *, is_val: bool, ends: NDArray[np.int64] | None = None
    ) -> None:
        super().append(tokens, is_val=is_val, ends=ends)
        self.order += [(is_val, token) for token in tokens.tolist()]


@pytest.fixture(scope="module")
def marked(gpt2: tiktoken.Encoding) -> Encoder:
    return open_encoder("tiktoken", with_mark(gpt2))


def counted(tally: Tally) -> Tally:
    """Drop the counts that depend on where blocks begin."""
    return replace(tally, checked_slices=0, fallback_blocks=0)


# Text that is one stream


@given(
    raws=st.lists(any_bytes, min_size=1, max_size=3),
    blocks=st.tuples(st.integers(1, 60), st.sampled_from([7, 1 << 20])),
    split=st.sampled_from([one for one in SPLITS if one not in ("tail", "documents")]),
    errors=st.sampled_from(["ignore", "replace"]),
    max_tokens=st.integers(1, 120),
    n_workers=st.integers(1, 3),
)
@settings(same_folder, max_examples=300)
def test_text_ends_after_exactly_max_tokens_for_any_blocks(
    gpt2: tiktoken.Encoding,
    marked: Encoder,
    tmp_path: Path,
    raws: list[bytes],
    blocks: tuple[int, int],
    split: str,
    errors: str,
    max_tokens: int,
    n_workers: int,
) -> None:
    paths = [tmp_path / str(k) for k in range(len(raws))]
    for path, raw in zip(paths, raws, strict=True):
        path.write_bytes(raw)
    windows = val_windows(sum(map(len, raws)), 0.3, split)
    everything = InOrder()
    tokenise(paths, marked, windows=windows, errors=errors, n_workers=1, sink=everything)
    made = []
    for block_bytes in blocks:
        sink = InOrder()
        _, tally = tokenise(
            paths,
            marked,
            windows=windows,
            errors=errors,
            block_bytes=block_bytes,
            n_workers=n_workers,
            max_tokens=max_tokens,
            sink=sink,
        )
        assert sink.order == everything.order[:max_tokens]
        assert tally.tokens == len(sink.order)
        made.append(counted(tally))
    assert made[0] == made[1]
    if max_tokens <= len(everything.order):  # reading ended at the first exact cut after the last token
        at = made[0].position
        raw, before = raws[at.input_index], sum(one.tokens for one in made[0].inputs[: at.input_index])
        cuts = [*exact_cuts(raw), len(raw)]
        place = next(
            cut
            for cut in cuts
            if before + len(gpt2.encode_ordinary(text_of(raw[:cut], errors))) >= max_tokens
        )
        assert (at.offset, at.anchor) == (place, place)


def test_a_stretch_that_is_cut_by_force_is_read_to_its_end(tmp_path: Path, marked: Encoder) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"before " + b"\xe4\xb8\xad" * 100 + b" after it, and more")
    with patch.object(cutting, "MAX_PIECE_BYTES", 50):
        everything = InOrder()
        tokenise([path], marked, sink=everything)
        for max_tokens in range(1, len(everything.order) + 1, 7):
            made = []
            for block_bytes in (5, 40, 70, 1 << 20):
                sink = InOrder()
                _, tally = tokenise([path], marked, block_bytes=block_bytes, max_tokens=max_tokens, sink=sink)
                assert sink.order == everything.order[:max_tokens]
                assert tally.position.anchor == tally.position.offset
                made.append(counted(tally))
            assert all(one == made[0] for one in made)


def test_a_run_resumed_at_its_end_reads_nothing_more(tmp_path: Path, marked: Encoder) -> None:
    path = make_text(tmp_path / "a.txt", 20_000)
    sink = InOrder()
    _, tally = tokenise([path], marked, max_tokens=1_000, block_bytes=3_000, sink=sink)
    before = counted(tally)
    path.unlink()
    path.write_bytes(b"")
    tokenise([path], marked, max_tokens=1_000, tally=tally, sink=sink)
    assert counted(tally) == before
    assert len(sink.order) == 1_000


# Documents


def documents_up_to(
    max_tokens: int, texts: Sequence[str], documents: Documents, gpt2: tiktoken.Encoding
) -> list[tuple[bool, list[int]]]:
    """Return the documents in order, up to the one with which the tokens reach `max_tokens`."""
    found = [*each_of(texts, documents, gpt2)]
    sums = accumulate(len(tokens) for _, tokens in found)
    n = next((k for k, n_tokens in enumerate(sums, 1) if n_tokens >= max_tokens), len(found))
    return found[:n]


def pair_of(found: Sequence[tuple[bool, list[int]]]) -> tuple[list[int], list[int]]:
    train, val = (
        [token for is_val, tokens in found if is_val == chosen for token in tokens]
        for chosen in (False, True)
    )
    return train, val


@given(
    raws=st.lists(raw_documents(), min_size=1, max_size=3),
    blocks=st.tuples(st.integers(1, 60), st.sampled_from([9, 1 << 20])),
    errors=st.sampled_from(["ignore", "replace"]),
    eot=st.sampled_from(EOTS),
    max_tokens=st.integers(1, 100),
    n_workers=st.integers(1, 3),
)
@settings(same_folder, max_examples=300)
def test_documents_end_with_the_one_that_reaches_the_limit_for_any_blocks(
    gpt2: tiktoken.Encoding,
    marked: Encoder,
    tmp_path: Path,
    raws: list[tuple[bytes, str]],
    blocks: tuple[int, int],
    errors: str,
    eot: str,
    max_tokens: int,
    n_workers: int,
) -> None:
    documents = Documents(raws[0][1], eot, 0.4, needs_ends=True)
    paths = [tmp_path / f"{k}.txt" for k in range(len(raws))]
    for path, (raw, _) in zip(paths, raws, strict=True):
        path.write_bytes(raw)
    texts = [read_as_text(path, errors) for path in paths]
    expected = documents_up_to(max_tokens, texts, documents, gpt2)
    made = []
    for block_bytes in blocks:
        sink = Lists()
        found, tally = tokenise(
            paths,
            marked,
            documents=documents,
            errors=errors,
            block_bytes=block_bytes,
            n_workers=n_workers,
            max_tokens=max_tokens,
            sink=sink,
        )
        assert tuple(one.tolist() for one in found) == pair_of(expected)
        assert len(sink.ends[False]) + len(sink.ends[True]) == len(expected) == tally.documents
        made.append(counted(tally))
    assert made[0] == made[1]


@given(
    raws=st.lists(any_bytes, min_size=1, max_size=5),
    block_bytes=st.integers(1, 60),
    eot=st.sampled_from(EOTS),
    max_tokens=st.integers(1, 120),
)
@settings(same_folder, max_examples=150)
def test_files_that_are_documents_end_with_the_one_that_reaches_the_limit(
    gpt2: tiktoken.Encoding,
    marked: Encoder,
    tmp_path: Path,
    raws: list[bytes],
    block_bytes: int,
    eot: str,
    max_tokens: int,
) -> None:
    paths = [tmp_path / f"{k}.txt" for k in range(len(raws))]
    for path, raw in zip(paths, raws, strict=True):
        path.write_bytes(raw)
    # The separator, which is in none of the texts, only joins them for the oracle.
    texts = [read_as_text(path, "ignore") for path in paths]
    joined = Documents("\ue000", eot, 0.4)
    expected = documents_up_to(max_tokens, ["\ue000".join(texts)], joined, gpt2)
    sink = Lists()
    whole = Documents(None, eot, 0.4, needs_ends=True)
    found, tally = tokenise(
        paths, marked, documents=whole, block_bytes=block_bytes, max_tokens=max_tokens, sink=sink
    )
    assert tuple(one.tolist() for one in found) == pair_of(expected)
    for is_val in (False, True):
        lengths = [len(tokens) for goes_to_val, tokens in expected if goes_to_val == is_val]
        assert sink.ends[is_val] == list(accumulate(lengths))
    assert tally.documents == len(expected)


def some_texts(n: int) -> list[str]:
    rng, prose = random.Random(4), real_text().decode()
    return [prose[at : at + rng.choice([0, 10, 400, 5_000])] for at in rng.sample(range(200_000), n)]


def write(path: Path, texts: Sequence[str], form: str) -> None:
    lines = "".join(json.dumps({"text": one}) + "\n" for one in texts).encode()
    if form == "jsonl":
        path.write_bytes(lines)
    elif form == "jsonl.gz":
        path.write_bytes(gzip.compress(lines))
    else:
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=17)


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "parquet"])
def test_records_of_every_kind_end_at_the_same_document(
    form: str, tmp_path: Path, gpt2: tiktoken.Encoding
) -> None:
    texts = some_texts(150)
    path = tmp_path / f"a.{form}"
    write(path, texts, form)
    for max_tokens in (1, 777, 20_000, 10**9):
        made = []
        for k, (block_size, workers) in enumerate([(500, 1), (20_000, 3), (1_000_000, 2)]):
            out = tmp_path / f"{max_tokens} {k}"
            report = nanogpt_compat.prepare(
                path,
                out,
                max_tokens=max_tokens,
                block_size=block_size,
                workers=workers,
                val_ratio=0.3,
                engine="tiktoken",
            )
            documents = Documents("\x00", "append", report["val_split"]["document_ratio"])
            expected = documents_up_to(max_tokens, ["\x00".join(texts)], documents, gpt2)
            found = [np.fromfile(out / f"{split}.bin", "<u2").tolist() for split in ("train", "val")]
            assert tuple(found) == pair_of(expected)
            assert report["documents"] == len(expected)
            if form != "jsonl":  # the number of unpacked bytes depends on the blocks
                report["inputs"][0]["bytes_read"] = None
            made.append({name: report[name] for name in ("tokens", "stopped_at", "text_bytes", "inputs")})
        assert made[0] == made[1] == made[2]
        assert (made[0]["stopped_at"] is None) == (max_tokens == 10**9)
        n_records = made[0]["inputs"][0]["records"]
        n_read = next(k for k in range(len(texts) + 1) if sum(map(bool, texts[:k])) == len(expected))
        if made[0]["stopped_at"] is not None:
            assert n_records == n_read
            unit = "rows" if form == "parquet" else "lines"
            assert made[0]["stopped_at"][unit] == n_read


def test_only_records_before_the_limit_can_be_wrong(tmp_path: Path) -> None:
    good = [json.dumps({"text": f"document {k} " * 10}) for k in range(100)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([*good[:50], "{broken", *good[50:]]))
    per_document = nanogpt_compat.count_tokens(path, skip_bad_records=True) // 100
    for block_size in ("700", "1M"):
        args: Args = ("--input", path, "--block-size", block_size, "--engine", "tiktoken", "--val-ratio", "0")
        out = tmp_path / block_size
        done = prepare(*args, "--max-tokens", str(50 * per_document), "--output-dir", out)
        assert done.returncode == 0, done.stderr
        assert report_of(out)["documents"] <= 50
        done = prepare(
            *args, "--max-tokens", str(60 * per_document), "--output-dir", tmp_path / f"{block_size} too"
        )
        assert done.returncode == 3, done.stderr
        assert "line 51" in done.stderr


def test_undecodable_bytes_after_the_limit_are_not_met(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"word " * 3_000 + b"\xff and the rest " * 100)
    for block_size in ("700", "1M"):
        args: Args = (
            "--input",
            path,
            "--errors",
            "strict",
            "--block-size",
            block_size,
            "--val-split",
            "none",
        )
        done = prepare(*args, "--max-tokens", "2990", "--output-dir", tmp_path / block_size)
        assert done.returncode == 0, done.stderr
        done = prepare(*args, "--max-tokens", "3100", "--output-dir", tmp_path / f"{block_size} too")
        assert done.returncode == 3
        assert "byte 15,000 is not UTF-8" in done.stderr


# Runs


@pytest.mark.parametrize("kind", ["text", "documents"])
def test_killed_at_any_point_it_resumes_and_ends_at_the_same_place(kind: str, tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 900_000, n_invalid=20)
    more: Args = ("--document-separator", r"\n", "--index") if kind == "documents" else ()
    args: Args = ("--input", path, "--max-tokens", "123k", "--val-ratio", "0.1", *more)
    expected = expect(tmp_path / "expected", *args, "--block-size", "30000", **SETTINGS)
    n_tokens = sum(expected.report["tokens"].values())
    assert n_tokens == 123_000 if kind == "text" else 123_000 <= n_tokens < 124_000
    assert expected.report["stopped_at"]["option"] == "--max-tokens"
    assert expected.report["bytes_read"] < 700_000
    rng = random.Random(kind)
    for skip in (2, 4, 6):
        out = tmp_path / str(skip)
        sized: Args = (*args, "--block-size", str(rng.choice([3_000, 20_000, 200_000])))
        killed = faults.run(*sized, "--output-dir", out, at="write journal", skip=skip, **SETTINGS)
        if killed.returncode == 0:
            continue
        assert killed.returncode == -9, killed.stderr
        other = faults.run(*args, "--max-tokens", "124k", "--output-dir", out)
        assert other.returncode == 5
        assert "--max-tokens was 123,000 and is 124,000" in other.stderr
        for step in range(3):
            again = faults.run(
                *args,
                "--block-size",
                "7000",
                "--output-dir",
                out,
                at="write journal",
                skip=step + 1,
                **SETTINGS,
            )
            if again.returncode == 0:
                break
        else:
            assert faults.run(*args, "--output-dir", out, **SETTINGS).returncode == 0
        assert sha256s(out) == expected.sha256s
        assert faults.lasting(report_of(out)) == faults.lasting(expected.report)


def test_a_run_that_was_stopped_at_the_limit_reads_nothing_more(tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 300_000)
    out = tmp_path / "out"
    args: Args = ("--input", path, "--max-tokens", "30000", "--val-ratio", "0", "--output-dir", out)
    calls = tmp_path / "calls"
    assert faults.run(*args, "--block-size", "30k", log=str(calls), **SETTINGS).returncode == 0
    shutil.rmtree(out)
    n_lines = calls.read_text().splitlines().count("write journal")
    killed = faults.run(*args, "--block-size", "30k", at="write journal", skip=n_lines - 1, **SETTINGS)
    assert killed.returncode == -9, killed.stderr
    with path.open("ab") as file:  # text after the limit does not count
        file.write(b" and more")
    again = faults.run(*args, **SETTINGS)
    assert again.returncode == 0, again.stderr
    assert "resuming at" in again.stderr
    assert report_of(out)["tokens"] == {"train": 30_000}


def test_a_last_document_that_grew_after_the_limit_was_reached_in_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\n--\n" + "two " * 20)
    out = tmp_path / "out"
    args: Args = (
        "--input",
        path,
        "--document-separator",
        r"\n--\n",
        "--val-ratio",
        "0",
        "--max-tokens",
        "10",
    )
    calls = tmp_path / "calls"
    assert faults.run(*args, "--output-dir", out, log=str(calls)).returncode == 0
    assert report_of(out)["stopped_at"]["bytes"] == path.stat().st_size
    shutil.rmtree(out)
    n_lines = calls.read_text().splitlines().count("write journal")
    killed = faults.run(*args, "--output-dir", out, at="write journal", skip=n_lines - 1)
    assert killed.returncode == -9, killed.stderr
    with path.open("a") as file:
        file.write("and more")
    again = faults.run(*args, "--output-dir", out)
    assert again.returncode == 5, again.stderr
    assert "has grown since" in again.stderr


def test_complete_output_is_known_verified_and_not_taken_for_another_limit(tmp_path: Path) -> None:
    paths = [make_text(tmp_path / f"{k}.txt", 60_000, seed=k) for k in range(3)]
    out = tmp_path / "out"
    args: Args = ("--input", *paths, "--output-dir", out)
    done = prepare(*args, "--max-tokens", "30k")
    assert done.returncode == 0, done.stderr
    made = report_of(out)
    assert f"stopped by --max-tokens after {made['stopped_at']['bytes']:,} bytes of {paths[1]}" in done.stderr
    assert made["stopped_at"] == {
        "option": "--max-tokens",
        "input": str(paths[1]),
        "bytes": made["inputs"][1]["text_bytes"],
    }
    assert made["inputs"][2]["bytes_read"] == made["inputs"][2]["tokens"] == 0
    assert sum(made["tokens"].values()) == 30_000
    assert "already complete" in prepare(*args, "--max-tokens", "30K").stderr
    assert prepare(*args, "--max-tokens", "0.03M", "--verify").returncode == 0
    assert prepare("--check", "--output-dir", out).returncode == 0
    for other, name in ((("--max-tokens", "31k"), "is 31,000"), ((), "is not given")):
        done = prepare(*args, *other)
        assert done.returncode == 4
        assert f"--max-tokens was 30,000 and {name}" in done.stderr
    for path in paths:
        path.touch()  # compared up to where they were read
    assert "already complete" in prepare(*args, "--max-tokens", "30k").stderr


def test_an_input_that_ends_before_the_limit_is_reported(tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 50_000)
    done = prepare("--input", path, "--max-tokens", "1B", "--output-dir", tmp_path / "out")
    assert done.returncode == 0
    assert "notice: the input ended before the 1,000,000,000 tokens of --max-tokens" in done.stderr
    assert report_of(tmp_path / "out")["stopped_at"] is None
    assert prepare("--input", path, "--output-dir", tmp_path / "all").returncode == 0
    assert sha256s(tmp_path / "out") == sha256s(tmp_path / "all")


def test_the_first_of_two_limits_ends_it(tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 100_000)
    made = {}
    with patch.object(nanogpt_compat.config, "CHARS_PER_CHUNK", 20_000):
        for name, options in {
            "n": ("--n", "1"),
            "both": ("--n", "1", "--max-tokens", "1M"),
            "tokens": ("--n", "4", "--max-tokens", "2000"),
        }.items():
            done = prepare("--input", path, *options, "--val-ratio", "0", "--output-dir", tmp_path / name)
            assert done.returncode == 0, done.stderr
            made[name] = report_of(tmp_path / name)
    assert made["both"]["tokens"] == made["n"]["tokens"]
    assert made["both"]["stopped_at"]["option"] == made["n"]["stopped_at"]["option"] == "--n"
    assert made["tokens"]["tokens"] == {"train": 2_000}
    assert made["tokens"]["stopped_at"]["option"] == "--max-tokens"


def test_a_pipe_is_read_up_to_the_limit(tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 400_000)
    args = ["-", "--max-tokens", "30k", "--val-ratio", "0", "--output-dir"]
    expected = prepare("--input", path, *args[1:], tmp_path / "file")
    assert expected.returncode == 0, expected.stderr
    for _ in range(2):  # the second run compares
        with path.open("rb") as file:
            done = subprocess.run(
                [sys.executable, REPOSITORY / "prepare.py", *args, tmp_path / "pipe"],
                stdin=file,
                capture_output=True,
                text=True,
                check=False,
            )
        assert done.returncode == 0, done.stderr
    assert "already complete" in done.stderr
    assert sha256s(tmp_path / "pipe") == sha256s(tmp_path / "file")


def test_inputs_only_for_val_are_not_limited(tmp_path: Path) -> None:
    paths = [make_text(tmp_path / f"{k}.txt", 40_000, seed=k) for k in range(4)]
    args: Args = ("--input", *paths[:2], "--val-input", *paths[2:])
    expected = prepare(*args, "--output-dir", tmp_path / "all")
    assert expected.returncode == 0, expected.stderr
    limited: Args = (*args, "--max-tokens", "20000", "--block-size", "5000")
    for skip in (None, 2, 5):
        out = tmp_path / f"out {skip}"
        if skip is not None:
            faults.run(*limited, "--output-dir", out, at="write journal", skip=skip, every_bytes=10_000)
        done = prepare(*limited, "--output-dir", out)
        assert done.returncode == 0, done.stderr
        made, whole = report_of(out), report_of(tmp_path / "all")
        assert made["tokens"] == {"train": 20_000, "val": whole["tokens"]["val"]}
        assert made["stopped_at"]["input"] == str(paths[1])
        assert made["stopped_at"]["bytes"] == made["inputs"][1]["text_bytes"] < 40_000
        train = (tmp_path / "all" / "train.bin").read_bytes()
        assert (out / "train.bin").read_bytes() == train[:40_000]
        assert sha256s(out)["val.bin"] == sha256s(tmp_path / "all")["val.bin"]
        assert "already complete" in prepare(*limited, "--output-dir", out).stderr
        assert prepare(*limited, "--output-dir", out, "--verify").returncode == 0


def test_a_record_of_many_megabytes_may_be_the_last(tmp_path: Path) -> None:
    texts = ["short", real_text().decode()[:2_500_000], "after it"]
    write(tmp_path / "a.jsonl", texts, "jsonl")
    args: Args = ("--input", tmp_path / "a.jsonl", "--val-ratio", "0", "--max-tokens", "1000")
    done = prepare(*args, "--output-dir", tmp_path / "out", "--index")
    assert done.returncode == 0, done.stderr
    made = report_of(tmp_path / "out")
    assert made["documents"] == made["stopped_at"]["lines"] == 2
    assert made["tokens"]["train"] > 100_000


def test_csv_reports_the_record_after_which_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,n\n"one\ntwo",1\nthree four,2\nfive,3\n')
    args: Args = ("--input", path, "--max-tokens", "5", "--val-ratio", "0", "--output-dir", tmp_path / "out")
    done = prepare(*args)
    assert done.returncode == 0, done.stderr
    made = report_of(tmp_path / "out")
    assert made["documents"] == 2
    n_bytes = path.read_text().index("five")
    assert made["stopped_at"] == {
        "option": "--max-tokens",
        "input": str(path),
        "bytes": n_bytes,
        "records": 3,
    }
    assert f"stopped by --max-tokens after 3 records of {path}" in done.stderr


def test_a_dry_run_forecasts_no_more_than_max_tokens(tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 2_000_000)
    args: Args = ("--input", path, "--max-tokens", "100k", "--output-dir", tmp_path / "out", "--dry-run")
    done = faults.run(*args)
    assert done.returncode == 0
    assert "-> about 100K tokens, 200 kB" in done.stdout


def test_the_windows_for_validation_are_in_the_part_that_will_be_read(tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 3_000_000)
    for split in ("spread", "head"):
        args: Args = ("--input", path, "--max-tokens", "50k", "--val-split", split, "--val-ratio", "0.05")
        assert prepare(*args, "--output-dir", tmp_path / split).returncode == 0
        made = report_of(tmp_path / split)
        assert made["val_split"]["bytes"] == 4 * 50_000 // 10
        assert made["tokens"]["val"] > 3_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--val-split", "tail"),
            "--val-split tail is the end of the input, which --max-tokens may not reach",
        ),
        (("--cluster", "local", "--work-dir", "work"), "--max-tokens counts tokens from the beginning"),
        (("--max-tokens", "0"), "'0' is not a whole number of at least 1"),
        (("--max-tokens", "10X"), "'10X' is not a whole number of at least 1"),
        (("--max-tokens", "0.5"), "'0.5' is not a whole number of at least 1"),
    ],
)
def test_options_that_exclude_max_tokens_are_refused(options: Args, message: str, tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 1_000)
    out = tmp_path / "out"
    out.mkdir()
    args: Args = ("--input", path, "--max-tokens", "100", *options, "--output-dir", out)
    assert_refused(out, lambda: prepare(*args), 2, message)


def test_a_report_of_a_version_without_the_option_is_still_complete(tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 30_000)
    args: Args = ("--input", path, "--n", "1", "--output-dir", tmp_path)
    assert prepare(*args).returncode == 0
    made = report_of(tmp_path)
    del made["stopped_at"], made["options"]["max_tokens"]
    (tmp_path / "prepare.json").write_text(json.dumps(made))
    path.touch()
    assert "already complete" in prepare(*args).stderr
    assert prepare(*args, "--verify").returncode == 0
