"""Text files as documents, one each: for any ends of blocks and spans, and any content."""

import gzip
import json
import os
import random
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tiktoken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanogpt_compat.encoders.interface import Encoder
from nanogpt_compat.encoders.reference import with_mark
from nanogpt_compat.text.cuts import MAX_PIECE_BYTES
from nanogpt_compat.text.documents import END_OF_TEXT, EOTS, Documents
from tests import faults
from tests.conftest import RunPrepare
from tests.engines import open_encoder, tokenise
from tests.faults import Args, expect, make_text, prepare, report_of, sha256s
from tests.reference import document_pair, read_as_text
from tests.texts import any_bytes, real_text

pytestmark = pytest.mark.costly

WHOLE: Args = ("--one-document-per-file",)
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture(scope="module", params=["tiktoken", "gigatoken"])
def marked(request: pytest.FixtureRequest, gpt2: tiktoken.Encoding) -> Encoder:
    return open_encoder(request.param, with_mark(gpt2))


def write_files(folder: Path, raws: Sequence[bytes]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{k}.txt" for k in range(len(raws))]
    for path, raw in zip(paths, raws, strict=True):
        path.write_bytes(raw)
    return paths


def assert_holds(
    folder: Path, texts: Sequence[str], encoding: tiktoken.Encoding, *, eot: str = "append"
) -> None:
    ratio = report_of(folder)["val_split"].get("document_ratio", 0.0)
    pair = document_pair(texts, encoding, eot=eot, ratio=ratio)
    for name, expected in zip(("train", "val"), pair, strict=True):
        path = folder / f"{name}.bin"
        found = np.fromfile(path, np.uint16).tolist() if path.exists() else []
        assert found == expected, name


@given(
    raws=st.lists(any_bytes, min_size=1, max_size=4),
    block_bytes=st.integers(1, 60),
    errors=st.sampled_from(["ignore", "replace"]),
    eot=st.sampled_from(EOTS),
    ratio=st.sampled_from([0.0, 0.3]),
    n_workers=st.integers(1, 3),
    max_chars=st.none() | st.integers(1, 200),
)
@settings(same_folder, max_examples=200)
def test_files_in_blocks_of_any_size_have_the_tokens_of_each_file_alone(
    gpt2: tiktoken.Encoding,
    marked: Encoder,
    tmp_path: Path,
    raws: list[bytes],
    block_bytes: int,
    errors: str,
    eot: str,
    ratio: float,
    n_workers: int,
    max_chars: int | None,
) -> None:
    paths = write_files(tmp_path, raws)
    found, tally = tokenise(
        paths,
        marked,
        documents=Documents(None, eot, ratio),
        errors=errors,
        block_bytes=block_bytes,
        n_workers=n_workers,
        max_chars=max_chars,
    )
    texts, n_chars = [], 0
    for path in paths:
        if max_chars is None or n_chars < max_chars:  # the document that reaches `max_chars` is the last
            texts.append(read_as_text(path, errors))
            n_chars += len(texts[-1])
    expected = document_pair(texts, gpt2, eot=eot, ratio=ratio)
    assert [one.tolist() for one in found] == list(expected)
    assert tally.documents == sum(map(bool, texts))
    assert tally.empty_documents == sum(
        not text and bool(raw) for text, raw in zip(texts, raws, strict=False)
    )
    assert tally.longest_document_bytes == max(len(text.encode()) for text in texts)
    assert tally.open_document_bytes == 0


@pytest.mark.parametrize("max_chars", [None, 20_000, 100_000])
@pytest.mark.parametrize("block_bytes", [5_000, 200_000, 1 << 20])
def test_a_file_longer_than_a_block_goes_to_one_side_as_a_whole(
    gpt2: tiktoken.Encoding, marked: Encoder, tmp_path: Path, block_bytes: int, max_chars: int | None
) -> None:
    prose = real_text()
    lengths = [10, 70_000, 300_000, 64 * 1024, 64 * 1024 + 1, 1, 150_000, 1_500_000]
    raws = [prose[k * 1000 :][:length] for k, length in enumerate(lengths)]
    raws.append(b"\xff" * 1_300_000 + prose[:200_000])
    n_read = {None: 9, 20_000: 2, 100_000: 3}[max_chars]
    paths = write_files(tmp_path, raws)
    found, tally = tokenise(
        paths,
        marked,
        documents=Documents(None, "prepend", 0.5),
        block_bytes=block_bytes,
        max_chars=max_chars,
    )
    texts = [read_as_text(path, "ignore") for path in paths[:n_read]]
    expected = document_pair(texts, gpt2, eot="prepend", ratio=0.5)
    assert max_chars or min(map(len, expected)) > 10_000
    assert [one.tolist() for one in found] == list(expected)
    assert (tally.documents, tally.empty_documents, tally.open_document_bytes) == (n_read, 0, 0)


def test_a_stretch_without_a_cut_is_cut_by_force_at_the_same_places(marked: Encoder, tmp_path: Path) -> None:
    (path,) = write_files(tmp_path, [b"first " + b"x" * (2 * MAX_PIECE_BYTES + 5)])
    found = [
        tokenise([path], marked, documents=Documents(None, "append", 0.0), block_bytes=block_bytes)
        for block_bytes in (20_000, 1 << 20)
    ]
    assert found[0][0][0].tolist() == found[1][0][0].tolist()
    assert {tally.forced_cuts for _, tally in found} == {2}


def test_each_file_of_a_folder_is_a_document_and_empty_files_are_counted(
    gpt2: tiktoken.Encoding, tmp_path: Path, engine: str
) -> None:
    raws = [f"Story {k}.\r\nOnce upon a time.\r".encode() * (k % 7) for k in range(60)]
    raws[10], raws[20] = b"\xff\xff\xfa", b"only \xff some is text"
    paths = write_files(tmp_path / "stories", raws)
    same: Args = ("--input", tmp_path / "stories", "--output-dir", tmp_path / "out", *WHOLE)
    same = (*same, "--errors", "ignore", "--engine", engine)
    done = prepare(*same)
    assert done.returncode == 0, done.stderr
    texts = [read_as_text(path, "ignore") for path in paths]
    assert_holds(tmp_path / "out", texts, gpt2)
    report = report_of(tmp_path / "out")
    assert (report["documents"], report["empty_documents"]) == (50, 10)
    assert "50 documents, the longest of 168 bytes; 10 empty ones dropped" in done.stderr
    again = prepare(*same)
    assert (again.returncode, "already complete" in again.stderr) == (0, True)
    verified = prepare(*same, "--verify")
    assert verified.returncode == 0, verified.stderr


def test_compressed_and_piped_files_are_documents_and_records_may_be_among_them(
    gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    texts = [f"The {kind} one. " * 9_000 for kind in ("plain", "packed", "piped", "line's", "row's")]
    (tmp_path / "a.txt").write_text(texts[0])
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(texts[1].encode()))
    (tmp_path / "empty.txt.gz").write_bytes(gzip.compress(b""))
    os.mkfifo(tmp_path / "c")
    threading.Thread(target=(tmp_path / "c").write_text, args=(texts[2],), daemon=True).start()
    (tmp_path / "d.jsonl").write_text(json.dumps({"text": texts[3]}) + "\n")
    pyarrow.parquet.write_table(pyarrow.table({"text": [texts[4]]}), tmp_path / "e.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], "string")}), tmp_path / "f.parquet")
    names = ("a.txt", "b.txt.gz", "empty.txt.gz", "c", "d.jsonl", "e.parquet", "f.parquet")
    inputs = [tmp_path / name for name in names]
    done = prepare("--input", *inputs, "--output-dir", tmp_path / "out", *WHOLE, "--val-ratio", "0.4")
    assert done.returncode == 0, done.stderr
    assert_holds(tmp_path / "out", texts, gpt2)
    assert report_of(tmp_path / "out")["empty_documents"] == 1


def test_killed_at_random_moments_it_ends_in_the_same_files(tmp_path: Path) -> None:
    sizes = [0, 700_000, 3_000, 0, 64_000, 1_500_000, 10, 0, 90_000, 0]
    write_files(tmp_path / "in", [b""] * len(sizes))
    for k, size in enumerate(sizes):
        make_text(tmp_path / "in" / f"{k}.txt", size, seed=k, n_invalid=min(size, 5))
    same: Args = ("--input", tmp_path / "in", *WHOLE, "--val-ratio", "0.3", "--errors", "ignore")
    expected = expect(tmp_path / "expected", *same)
    assert expected.report["empty_documents"] == 4
    rng = random.Random(0)
    n_kills, out = 0, tmp_path / "out"

    def choose() -> tuple[Args, dict[str, Any]]:
        block_bytes = rng.choice([20_000, 200_000])
        return (*same, "--output-dir", out, "--block-size", str(block_bytes)), {"every_bytes": 100_000}

    while n_kills < 5:
        n_kills += faults.kill_until_done(rng, expected, out, choose, seconds=expected.seconds)[0]
        for one in sorted(out.rglob("*"), reverse=True):
            one.unlink()


def test_a_file_that_grew_is_a_change_even_if_it_was_empty_when_read(tmp_path: Path) -> None:
    paths = write_files(tmp_path / "in", [b"", b"words " * 50_000, b"", b"more words " * 50_000])
    for changed in (paths[0], paths[1]):
        raw = changed.read_bytes()
        out = tmp_path / f"out {changed.name}"
        same: Args = ("--input", *paths, "--output-dir", out, *WHOLE, "--block-size", "20K")
        with pytest.raises(faults.Stopped):
            prepare(*same, stop_after_bytes=400_000)
        changed.write_bytes(raw + b"grown")
        refused = prepare(*same)
        assert refused.returncode == 5
        assert f"{changed} ended after" in refused.stderr
        changed.write_bytes(raw)
        assert prepare(*same).returncode == 0


@pytest.mark.parametrize("span_size", ["10K", "100K"])
def test_spans_make_the_same_output_and_cut_no_file(
    gpt2: tiktoken.Encoding, tmp_path: Path, span_size: str
) -> None:
    raws = [b"", b"few words", real_text()[:250_000], b"\xff\xff", b""]
    paths = write_files(tmp_path / "in", raws)
    (tmp_path / "in" / "z.txt.gz").write_bytes(gzip.compress(b"packed words"))
    texts = [*(read_as_text(path, "ignore") for path in paths), "packed words"]
    same: Args = ("--input", tmp_path / "in", *WHOLE, "--val-ratio", "0.3", "--errors", "ignore")
    assert prepare(*same, "--output-dir", tmp_path / "one").returncode == 0
    many: Args = (
        "--output-dir",
        tmp_path / "many",
        "--work-dir",
        tmp_path / "work",
        "--span-size",
        span_size,
    )
    done = prepare(*same, *many, "--rank", "0", "--world-size", "1")
    assert done.returncode == 0, done.stderr
    done = prepare(*same, *many, "--merge")
    assert done.returncode == 0, done.stderr
    assert_holds(tmp_path / "many", texts, gpt2)
    assert sha256s(tmp_path / "many") == sha256s(tmp_path / "one")
    for name in ("documents", "empty_documents", "longest_document_bytes", "invalid_bytes"):
        assert report_of(tmp_path / "many")[name] == report_of(tmp_path / "one")[name], name


@pytest.mark.parametrize("limit", [(), ("--n", "1")])
def test_files_only_for_val_are_documents_too_and_empty_ones_that_are_read_are_counted(
    gpt2: tiktoken.Encoding, tmp_path: Path, limit: Args, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanogpt_compat.config.CHARS_PER_CHUNK", 100)
    train = [b"", b"some words " * 7, b"more words " * 7, b"", b"unread with --n"]
    write_files(tmp_path / "train", train)
    val = [b"", b"words for val", b"others"]
    write_files(tmp_path / "val", val)
    done = prepare(
        *("--input", tmp_path / "train", "--val-input", tmp_path / "val", "--output-dir", tmp_path / "out"),
        *(*WHOLE, *limit),
    )
    assert done.returncode == 0, done.stderr
    read = train[: 3 if limit else 5]
    for name, raws in (("train", read), ("val", val)):
        expected, _ = document_pair([raw.decode() for raw in raws], gpt2, eot="append", ratio=0.0)
        assert np.fromfile(tmp_path / "out" / f"{name}.bin", np.uint16).tolist() == expected
    assert report_of(tmp_path / "out")["empty_documents"] == (2 if limit else 3)


def test_the_forecast_counts_one_end_of_text_for_each_file(tmp_path: Path) -> None:
    write_files(tmp_path / "in", [b"word" if k % 2 else b"word " * 3_000 for k in range(2_000)])
    (tmp_path / "in" / "z.txt.gz").write_bytes(gzip.compress(b"word"))
    same: Args = ("--input", tmp_path / "in", "--output-dir", tmp_path / "out", "--dry-run", *WHOLE)
    found = {}
    for eot in ("append", "none"):
        done = faults.run(*same, "--eot", eot, "--progress", "json")
        assert done.returncode == 0, done.stderr
        forecast = json.loads(done.stdout.splitlines()[-1])["forecast"]
        found[eot] = sum(forecast["tokens"].values())
    assert found["append"] - found["none"] == pytest.approx(2_001, abs=5)


@pytest.mark.parametrize(
    ("names", "options", "why"),
    [
        ("a.txt", ("--document-separator", r"\n", *WHOLE), "both say where a document ends: give only one"),
        ("a.jsonl", WHOLE, "--one-document-per-file has no effect: all of the input is JSON lines"),
        ("a.txt", (*WHOLE, "--val-split", "tail"), "would cut documents in two"),
        ("a.txt a.jsonl", (), "the --document-separator of the text or --one-document-per-file"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    names: str, options: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("Some text.")
    (tmp_path / "a.jsonl").write_text('{"text": "Some text."}\n')
    inputs = [tmp_path / name for name in names.split()]
    refused = prepare("--input", *inputs, "--output-dir", tmp_path / "out", *options)
    assert refused.returncode == 2
    assert why in refused.stderr


def test_output_and_saved_work_of_a_version_without_the_option_stay_valid(tmp_path: Path) -> None:
    path, out = make_text(tmp_path / "a.txt", 400_000), tmp_path / "out"
    same: Args = ("--input", path, "--output-dir", out, "--block-size", "20K")
    with pytest.raises(faults.Stopped):
        prepare(*same, stop_after_bytes=200_000)
    assert b"one-document-per-file" not in (out / ".prepare" / "journal").read_bytes()
    refused = prepare(*same, *WHOLE)
    assert refused.returncode == 5
    assert "--one-document-per-file was not given and is given" in refused.stderr
    assert prepare(*same).returncode == 0
    report = report_of(out)
    del report["options"]["one_document_per_file"]
    (out / "prepare.json").write_text(json.dumps(report))
    assert "already complete" in prepare(*same).stderr
    assert prepare(*same, "--verify").returncode == 0
    refused = prepare(*same, *WHOLE)
    assert refused.returncode == 4
    assert "--one-document-per-file was not given and is given" in refused.stderr


def test_for_many_small_files_the_command_that_makes_each_a_document_is_offered(
    run_prepare: RunPrepare, tmp_path: Path
) -> None:
    raws = [f"Story {k}. ".encode() * 90 for k in range(10)]
    write_files(tmp_path / "in", raws)
    done = run_prepare("--input", "in", "--output-dir", "out", "--val-split", "head")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    (k,) = (k for k, line in enumerate(lines) if "If each is a document:" in line)
    assert lines[k].startswith(
        "notice: 10 small text files (the median has 810 bytes) are read as one stream"
    )
    done = subprocess.run(
        ["bash", "-c", lines[k + 1]], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "If each is a document" not in done.stderr
    assert report_of(tmp_path / "out")["documents"] == 10


@pytest.mark.parametrize("kind", ["few", "large", "separated", "records"])
def test_the_command_is_not_offered_if_it_would_not_help(kind: str, tmp_path: Path) -> None:
    n_files, text, suffix = 10, "Some words.", "txt"
    if kind == "few":
        n_files = 9
    elif kind == "large":
        text = "Some words. " * 6_000
    elif kind == "separated":
        text = "Some words.<|endoftext|>And more."
    else:
        text, suffix = '{"text": "Some words."}\n', "jsonl"
    for k in range(n_files):
        (tmp_path / f"{k}.{suffix}").write_text(text)
    done = prepare("--input", tmp_path, "--output-dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "If each is a document" not in done.stderr


def test_each_file_has_one_end_of_text_token(tmp_path: Path) -> None:
    write_files(tmp_path / "in", [b"<|endoftext|> is text here"] * 30)
    done = prepare("--input", tmp_path / "in", "--output-dir", tmp_path / "out", *WHOLE)
    assert done.returncode == 0, done.stderr
    assert "--document-separator '<|endoftext|>' --restart" in done.stderr
    assert "--one-document-per-file --document" not in done.stderr
    tokens = [np.fromfile(tmp_path / "out" / f"{name}.bin", np.uint16) for name in ("train", "val")]
    assert sum(int(np.count_nonzero(one == END_OF_TEXT)) for one in tokens) == 30
