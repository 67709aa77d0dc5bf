"""Compressed text, standard input and FIFOs, end to end: the tokens of the plain file, stopped or not."""

import bz2
import fcntl
import gzip
import json
import lzma
import os
import random
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow
import pyarrow.parquet
import pytest
import tiktoken

from nanogpt_compat.resume.journal import read_journal
from nanogpt_compat.text.blocks import Position
from nanogpt_compat.text.documents import Documents
from nanogpt_compat.text.val_split import LOOK_AHEAD_BYTES
from tests import faults, reference, test_documents
from tests.conftest import REPOSITORY
from tests.faults import Args, Expected, make_text, prepare, report_of, sha256s
from tests.servers import serve
from tests.texts import zstd

pytestmark = pytest.mark.costly

KIB = 1024
N_BYTES = 1_300_000
RATIO = 0.25
PERIOD = 256 * KIB  # 64 KiB / 0.25
VAL: Args = ("--val-ratio", str(RATIO))


def _gzip(text: bytes) -> bytes:
    return gzip.compress(text, 1, mtime=0)


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda text: _gzip(text[:500_000]) + _gzip(text[500_000:]),
    "bz2": lambda text: bz2.compress(text[:500_000]) + bz2.compress(text[500_000:]),
    "xz": lambda text: lzma.compress(text[:500_000]) + lzma.compress(text[500_000:]),
    "zst": lambda text: zstd.compress(text[:500_000]) + zstd.compress(text[500_000:]),
}
KINDS = ("txt.gz", "txt.bz2", "txt.xz", "txt.zst", "stdin", "stdin.gz", "stdin.zst", "fifo", "fifo.gz")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    r"""Prose with invalid bytes, `\r\n`, and a stretch without a cut across an edge of val."""
    path = make_text(tmp_path_factory.mktemp("text") / "text", N_BYTES, n_invalid=100)
    raw = bytearray(path.read_bytes())
    raw[:100_000] = raw[:100_000].replace(b"\n", b"\r\n")[:100_000]
    raw[3 * PERIOD - 50_000 : 3 * PERIOD + 90_000] = b"x" * 140_000
    path.write_bytes(raw)
    return path


@contextmanager
def given(kind: str, text: bytes, folder: Path) -> Iterator[str]:
    """Give a text to the program in some way; yield the value of `--input`."""
    where, _, compression = kind.partition(".")
    stored = PACKED[compression](text) if compression else text
    if where == "fifo":
        path = folder / "fifo"
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        thread = threading.Thread(target=_write_all, args=(path, stored), daemon=True)
        thread.start()
        yield str(path)
        return
    path = folder / f"part.{kind}"
    if not path.exists() or path.read_bytes() != stored:
        path.write_bytes(stored)
    if where == "txt":
        yield str(path)
        return
    before, now = os.dup(0), os.open(path, os.O_RDONLY)
    try:
        os.dup2(now, 0)
        yield "-"
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(now)


def _write_all(path: Path, data: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        while data:
            data = data[file.write(data[:100_000]) :]


def tokens_of(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    train, val = (np.fromfile(folder / f"{name}.bin", np.uint16) for name in ("train", "val"))
    return train, val


def every(period: int, n_bytes: int) -> list[tuple[int, int]]:
    return [(start, start + 64 * KIB) for start in range(0, n_bytes, period)]


@pytest.fixture(scope="module")
def expected(text: Path, gpt2: tiktoken.Encoding) -> tuple[np.ndarray, np.ndarray]:
    windows = [(start, min(end, N_BYTES)) for start, end in every(PERIOD, N_BYTES)]
    return reference.expected_pair([text], gpt2, windows=windows)


@pytest.mark.sample(5)
@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_are_those_of_the_plain_file(
    kind: str, text: Path, expected: tuple[np.ndarray, np.ndarray], tmp_path: Path, engine: str
) -> None:
    raw, out = text.read_bytes(), tmp_path / "out"
    rng = random.Random(kind)
    with given(kind, raw, tmp_path) as name:
        options: Args = ("--input", name, "--output-dir", out, *VAL, "--engine", engine)
        done = prepare(*options, "--block-size", str(rng.randrange(20_000, 400_000)))
    assert done.returncode == 0, done.stderr
    for found, one in zip(tokens_of(out), expected, strict=True):
        assert np.array_equal(found, one)
    report = report_of(out)
    stored = len(PACKED[kind.partition(".")[2]](raw)) if "." in kind else len(raw)
    assert report["bytes_read"] == report["bytes_total"] == report["inputs"][0]["bytes"] == stored
    assert report["text_bytes"] == N_BYTES
    assert report["invalid_bytes"] > 50
    assert report["val_split"] == {
        "name": "spread",
        "ratio": RATIO,
        "window_bytes": 64 * KIB,
        "every_bytes": PERIOD,
    }
    with given(kind, raw, tmp_path) as name:
        again = prepare("--input", name, *options[2:])
    assert again.returncode == 0
    assert "already complete" in again.stderr
    with given(kind, raw, tmp_path) as name:
        verified = prepare("--input", name, "--output-dir", out, *VAL, "--verify")
    assert verified.returncode == 0, verified.stderr


@pytest.mark.parametrize("kind", ["txt.gz", "stdin", "stdin.zst"])
@pytest.mark.parametrize("separator", ["\n\n", " the "])
def test_with_documents_each_is_encoded_alone(
    kind: str, separator: str, text: Path, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    with given(kind, text.read_bytes(), tmp_path) as name:
        options: Args = ("--document-separator", separator, *VAL, "--block-size", "50000")
        done = prepare("--input", name, "--output-dir", tmp_path, *options)
    assert done.returncode == 0, done.stderr
    documents = Documents(separator, "append", RATIO)
    texts = [reference.read_as_text(text, "ignore")]
    test_documents.assert_same(tokens_of(tmp_path), test_documents.expected_pair(texts, documents, gpt2))


@pytest.mark.sample(2)
@pytest.mark.parametrize("kind", ["txt.gz", "stdin"])
@pytest.mark.parametrize("n_more", [-1, 0, 1])
def test_a_stream_that_ends_early_is_split_like_a_file_and_a_longer_one_by_intervals(
    n_more: int, kind: str, text: Path, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    raw = text.read_bytes()[: LOOK_AHEAD_BYTES + n_more]
    plain = tmp_path / "plain.txt"
    plain.write_bytes(raw)
    assert prepare("--input", plain, "--output-dir", tmp_path / "plain", *VAL).returncode == 0
    with given(kind, raw, tmp_path) as name:
        assert prepare("--input", name, "--output-dir", tmp_path / "out", *VAL).returncode == 0
    assert report_of(tmp_path / "plain")["val_split"]["windows"] == 4
    assert (sha256s(tmp_path / "out") == sha256s(tmp_path / "plain")) == (n_more <= 0)
    if n_more > 0:
        expected = reference.expected_pair([plain], gpt2, windows=every(PERIOD, len(raw)))
        assert np.array_equal(tokens_of(tmp_path / "out")[1], expected[1])


def test_intervals_continue_from_input_to_input(text: Path, gpt2: tiktoken.Encoding, tmp_path: Path) -> None:
    raw = text.read_bytes()
    parts = [raw[:300_001], raw[300_001:300_011], b"", raw[300_011:]]
    paths = [tmp_path / f"{k}.txt" for k in range(4)]
    for path, part in zip(paths, parts, strict=True):
        path.write_bytes(part)
    packed = tmp_path / "0.txt.gz"
    packed.write_bytes(gzip.compress(parts[0]))
    options: Args = ("--output-dir", tmp_path / "out", *VAL)
    with given("stdin", parts[3], tmp_path) as name, pytest.raises(faults.Stopped):
        args: Args = ("--input", packed, paths[1], paths[2], name, *options, "--block-size", "20000")
        prepare(*args, stop_after_bytes=500_000)  # within the last input
    with given("stdin", parts[3], tmp_path) as name:
        done = prepare("--input", packed, paths[1], paths[2], name, *options)
    assert done.returncode == 0, done.stderr
    assert report_of(tmp_path / "out")["resumes"] == 1
    expected = reference.expected_pair(paths, gpt2, windows=every(PERIOD, len(raw)))
    for found, one in zip(tokens_of(tmp_path / "out"), expected, strict=True):
        assert np.array_equal(found, one)


@pytest.mark.sample(2)
@pytest.mark.parametrize("kind", ["txt.gz", "txt.zst", "stdin", "stdin.gz"])
@pytest.mark.parametrize("separator", [None, "\n\n"])
def test_stopped_after_any_block_it_reads_through_and_resumes(
    separator: str | None, kind: str, text: Path, tmp_path: Path
) -> None:
    raw, out = text.read_bytes(), tmp_path / "out"
    rng = random.Random(f"{kind} {separator}")
    options: Args = VAL if separator is None else (*VAL, "--document-separator", separator)
    with given(kind, raw, tmp_path) as name:
        assert prepare("--input", name, "--output-dir", tmp_path / "whole", *options).returncode == 0
    expected = Expected(sha256s(tmp_path / "whole"), report_of(tmp_path / "whole"), 0)
    stored_bytes = expected.report["bytes_read"]
    for place in sorted(rng.sample(range(1, stored_bytes * 9 // 10), 4)):
        block_bytes = str(rng.randrange(10_000, 100_000))
        with given(kind, raw, tmp_path) as name, pytest.raises(faults.Stopped):
            args: Args = ("--input", name, "--output-dir", out, *options)
            prepare(*args, "--block-size", block_bytes, stop_after_bytes=place)
    with given(kind, raw, tmp_path) as name:
        done = prepare("--input", name, "--output-dir", out, *options)
    assert done.returncode == 0, done.stderr
    assert expected.assert_reached(out)["resumes"] == 4


def through_a_pipe(path: Path) -> tuple[str, ...]:
    """Return the beginning of a command that reads `path` from a real pipe and keeps its process id."""
    return ("bash", "-c", 'f=$1; shift; exec "$@" < <(exec cat "$f")', "bash", str(path))


@pytest.mark.sample(1)
@pytest.mark.parametrize("n_kills", [2, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["stdin", "stdin.gz", "txt.gz", "txt.zst", "url"])
def test_killed_at_random_moments_it_ends_in_the_same_files(kind: str, n_kills: int, tmp_path: Path) -> None:
    raw = make_text(tmp_path / "raw", 4_000_000).read_bytes()
    path = tmp_path / "a.txt"
    if "." in kind:
        path = tmp_path / f"a.txt.{kind.partition('.')[2]}"
        raw = PACKED[kind.partition(".")[2]](raw)
    path.write_bytes(raw)
    prefix = through_a_pipe(path) if kind.startswith("stdin") else ()
    with serve(tmp_path) as server:
        given = "-" if prefix else server.url(path.name) if kind == "url" else path
        same: Args = ("--input", given, *VAL)
        expected = faults.expect(tmp_path / "expected", *same, prefix=prefix)
        rng = random.Random(0)
        n_done, out = 0, tmp_path / "out"

        def choose() -> tuple[Args, dict[str, Any]]:
            block_bytes = rng.choice([20_000, 200_000])
            args: Args = (*same, "--output-dir", out, "--block-size", str(block_bytes))
            return args, {"every_bytes": 100_000, "prefix": prefix}

        while n_done < n_kills:
            n_done += faults.kill_until_done(rng, expected, out, choose, seconds=expected.seconds)[0]
            shutil.rmtree(out)


@pytest.mark.sample(3)
@pytest.mark.parametrize("kind", ["txt.gz", "stdin", "stdin.zst"])
@pytest.mark.parametrize("change", ["within the beginning", "after the beginning", "shorter"])
def test_another_text_is_refused(change: str, kind: str, text: Path, tmp_path: Path) -> None:
    raw = text.read_bytes() + make_text(tmp_path / "more", 1_000_000, seed=9).read_bytes()
    other = bytearray(raw)
    if change == "shorter":
        del other[LOOK_AHEAD_BYTES + 100 :]
    else:
        at = 17 if change == "within the beginning" else LOOK_AHEAD_BYTES + 100
        other[at : at + 9] = b"Something"
    out = tmp_path / "out"
    options: Args = ("--output-dir", out, "--block-size", "20000", *VAL)
    with given(kind, raw, tmp_path) as name, pytest.raises(faults.Stopped):
        prepare("--input", name, *options, stop_after_bytes=len(raw) if kind == "stdin" else 10**9)
        raise faults.Stopped  # unless it was stopped already
    shutil.rmtree(out)
    with given(kind, raw, tmp_path) as name, pytest.raises(faults.Stopped):
        n_bytes = int(0.95 * (len(raw) if kind == "stdin" else len(PACKED[kind[-3:].strip(".")](raw))))
        prepare("--input", name, *options, stop_after_bytes=n_bytes)
    before = sha256s(out), (out / ".prepare" / "journal").read_bytes()
    with given(kind, bytes(other), tmp_path) as name:
        refused = prepare("--input", name, *options)
    assert refused.returncode == 5, refused.stderr
    assert "--restart" in refused.stderr
    assert (sha256s(out), (out / ".prepare" / "journal").read_bytes()[: len(before[1])]) == before


@pytest.mark.sample(2)
@pytest.mark.parametrize("kind", ["txt.zst", "stdin", "fifo.gz"])
@pytest.mark.parametrize("separator", [(), ("--document-separator", r"\n\n")], ids=["text", "documents"])
def test_the_unread_part_of_a_stream_may_change(
    separator: Args, kind: str, text: Path, tmp_path: Path
) -> None:
    raw, out = text.read_bytes(), tmp_path / "out"
    options: Args = ("--block-size", "20000", "--output-dir", out, *VAL, *separator)
    with given(kind, raw, tmp_path) as name, pytest.raises(faults.Stopped):
        prepare("--input", name, *options, stop_after_bytes=len(raw) // 4)
    at = position_in(out)
    place = at.offset
    assert place < 1_100_000
    if at.document or not separator:  # at a cut, and two equal characters never make one
        with given(kind, raw[:place] + raw[place - 1 : place] + raw[place + 1 :], tmp_path) as name:
            refused = prepare("--input", name, *options)
        assert refused.returncode == 5, refused.stderr
        assert f"was changed just after the {place:,} bytes already read" in refused.stderr
    other = raw[: place + 100_000] + b" and more " + raw[place + 200_000 :]
    with given(kind, other, tmp_path) as name:
        done = prepare("--input", name, *options)
    assert done.returncode == 0, done.stderr
    with given(kind, other, tmp_path) as name:
        assert prepare("--input", name, *options[2:3], tmp_path / "fresh", *options[4:]).returncode == 0
    assert report_of(out)["resumes"] == 1
    assert sha256s(out) == sha256s(tmp_path / "fresh")


def position_in(out: Path) -> Position:
    """Return the position at which a stopped run resumes."""
    *_, last = read_journal(out / ".prepare" / "journal")
    tally: Any = last.record["tally"]
    return Position(**tally["position"])


def test_a_complete_output_is_not_that_of_another_stream(text: Path, tmp_path: Path) -> None:
    raw, out = text.read_bytes(), tmp_path / "out"

    def run(stream: bytes, *options: str) -> faults.Outcome:
        with given("stdin", stream, tmp_path) as name:
            return prepare("--input", name, "--output-dir", out, *VAL, *options)

    assert run(raw).returncode == 0
    for other, change in (
        (raw + b" more", f"ended after {len(raw):,} bytes when it was read, and has grown since"),
        (raw[:-1], f"was changed within the {len(raw):,} bytes already read"),
        (raw[:-1] + b"~", f"was changed within the {len(raw):,} bytes already read"),
    ):
        refused = run(other)
        assert refused.returncode == 5, refused.stderr
        assert f"standard input {change}, and cannot be read again" in refused.stderr
        assert f"; pass --overwrite to make the output in {out} again" in refused.stderr
        differs = run(other, "--verify")
        assert differs.returncode == 1
        assert "of standard input, if that text has not changed" in differs.stderr or len(other) < len(raw)
    done = run(raw + b" more", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert report_of(out)["text_bytes"] == len(raw) + 5


def test_a_number_of_characters_is_taken_from_a_stream(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanogpt_compat.config.CHARS_PER_CHUNK", 300_000)
    raw = text.read_bytes()
    options: Args = ("--val-split", "none", "--n", "2")
    assert prepare("--input", text, "--output-dir", tmp_path / "plain", *options).returncode == 0
    for kind in ("txt.gz", "stdin"):
        out = tmp_path / kind
        with given(kind, raw, tmp_path) as name:
            assert prepare("--input", name, "--output-dir", out, *options).returncode == 0
        assert sha256s(out) == sha256s(tmp_path / "plain")
    with given("stdin", raw[:-1], tmp_path) as name:  # the rest of the stream does not count
        assert "already complete" in prepare("--input", name, "--output-dir", out, *options).stderr
    with given("stdin", raw, tmp_path) as name:
        assert prepare("--input", name, "--output-dir", tmp_path / "all", *options[:3], "9").returncode == 0
    with given("stdin", raw + b" more", tmp_path) as name:
        assert prepare("--input", name, "--output-dir", tmp_path / "all", *options[:3], "9").returncode == 5


def test_json_lines_are_recognised_in_a_pipe(text: Path, tmp_path: Path) -> None:
    documents = text.read_bytes().decode("utf-8", "ignore").split("\n\n")
    lines = b"".join(json.dumps({"text": one}).encode() + b"\n" for one in documents)
    (tmp_path / "a.jsonl").write_bytes(lines)
    assert prepare("--input", tmp_path / "a.jsonl", "--output-dir", tmp_path / "plain", *VAL).returncode == 0
    for kind in ("stdin", "stdin.gz", "stdin.zst", "fifo"):
        with given(kind, lines, tmp_path) as name:
            done = prepare("--input", name, "--output-dir", tmp_path / f"of {kind}", *VAL)
        assert done.returncode == 0, done.stderr
        assert sha256s(tmp_path / f"of {kind}") == sha256s(tmp_path / "plain")
        with given(kind, lines, tmp_path) as name, pytest.raises(faults.Stopped):
            prepare("--input", name, "--output-dir", tmp_path / "out", *VAL, stop_after_bytes=1)
        with given(kind, lines, tmp_path) as name:
            done = prepare("--input", name, "--output-dir", tmp_path / "out", *VAL)
        assert done.returncode == 0, done.stderr
        assert report_of(tmp_path / "out")["resumes"] == 1
        assert sha256s(tmp_path / "out") == sha256s(tmp_path / "plain")
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("split", ["head", "tail"])
@pytest.mark.parametrize("kind", ["txt.gz", "stdin"])
def test_a_stream_of_unknown_size_has_no_tail(kind: str, split: str, tmp_path: Path) -> None:
    with given(kind, b"some text", tmp_path) as name:
        done = prepare("--input", name, "--output-dir", tmp_path, "--val-split", split)
    assert done.returncode == 2
    assert f"--val-split {split} needs the size of the text, which is unknown for a pipe" in done.stderr


@pytest.mark.parametrize("kind", ["txt.gz", "txt.zst", "stdin", "stdin.gz", "fifo"])
def test_a_stream_without_text_is_refused(kind: str, tmp_path: Path) -> None:
    with given(kind, b"", tmp_path) as name:
        done = prepare("--input", name, "--output-dir", tmp_path / "out")
    assert done.returncode == 3
    assert "there is no text" in done.stderr


def test_parquet_in_a_pipe_is_refused_with_advice(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["A document."]}), tmp_path / "a.parquet")
    with given("stdin", (tmp_path / "a.parquet").read_bytes(), tmp_path) as name:
        done = prepare("--input", name, "--output-dir", tmp_path / "out")
    assert done.returncode == 3
    assert "standard input is parquet" in done.stderr
    assert "write it to a file" in done.stderr


@pytest.mark.parametrize("kind", ["txt.gz", "txt.zst", "stdin.gz", "stdin.zst"])
def test_a_writer_that_dies_is_noticed_and_the_run_resumes_with_the_whole_stream(
    kind: str, tmp_path: Path
) -> None:
    raw, out = make_text(tmp_path / "text", 5_000_000).read_bytes(), tmp_path / "out"
    name = kind.partition(".")[2]
    path = tmp_path / f"part.{kind}"
    stored = PACKED[name](raw)
    options: Args = ("--output-dir", out, *VAL, "--block-size", "20000")
    assert len(stored) > 1_100_000
    with given(kind, raw, tmp_path) as input_name:
        path.write_bytes(stored[:-1000])
        died = prepare("--input", input_name, *options)
    assert died.returncode == 3
    called = "standard input" if kind.startswith("stdin") else str(path)
    assert f"{called}, byte {len(stored) - 1000:,}" in died.stderr
    assert "it ends in the middle of its compressed data" in died.stderr
    assert sha256s(out) == {}
    with given(kind, raw, tmp_path) as input_name:
        whole = prepare("--input", input_name, *options, *(["--restart"] if kind[0] == "t" else []))
    assert whole.returncode == 0, whole.stderr
    assert report_of(out)["resumes"] == (kind[0] == "s")  # a file of another size is another file
    with given(kind, raw, tmp_path) as input_name:
        verified = prepare("--input", input_name, "--output-dir", out, *VAL, "--verify")
    assert verified.returncode == 0, verified.stderr


def waits_for_more(process: "subprocess.Popen[bytes]") -> bool:
    """Return whether a process has read all of its standard input, and no thread of it has work."""
    assert process.stdin is not None
    n_left = fcntl.ioctl(process.stdin, termios.FIONREAD, bytes(4))
    if any(n_left):
        return False
    times_before = psutil.Process(process.pid).cpu_times()[:2]
    for _ in range(5):  # a thread that waits for a CPU is not asleep
        time.sleep(0.05)
        stats = [path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/stat")]
        if any(stat.rpartition(")")[2].split()[0] != "S" for stat in stats):
            return False
    times = psutil.Process(process.pid).cpu_times()[:2]
    return sum(times) - sum(times_before) < 0.05  # it checks for signals every 0.1 s


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noticed_while_no_input_comes(number: int, tmp_path: Path) -> None:
    text = make_text(tmp_path / "a.txt", 4_000_000).read_bytes()
    command = [sys.executable, str(REPOSITORY / "prepare.py"), "--input", "-", "--block-size", "100000", *VAL]

    def start(out: Path) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [*command, "--output-dir", str(out)], stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )

    whole = start(tmp_path / "whole")
    whole.communicate(text, timeout=faults.TIMEOUT_S)
    process = start(tmp_path / "out")
    assert process.stdin is not None
    process.stdin.write(text[:3_000_000])
    process.stdin.flush()
    while not (tmp_path / "out" / ".prepare" / "journal").exists() or not waits_for_more(process):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=20) == -number  # the pipe is still open
    assert b"saved: " in process.stderr.read()  # type: ignore[union-attr]
    process.stdin.close()
    process.stderr.close()  # type: ignore[union-attr]
    again = start(tmp_path / "out")
    _, stderr = again.communicate(text, timeout=faults.TIMEOUT_S)
    assert again.returncode == 0, stderr
    assert b"resuming at 2." in stderr
    assert sha256s(tmp_path / "out") == sha256s(tmp_path / "whole")


def test_an_engine_that_errs_is_replaced_when_the_stream_comes_again(tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 4_000_000)
    path.write_bytes(path.read_bytes()[:3_000_000] + b" errsherenow " * 2000)
    args: Args = ("--input", "-", "--output-dir", tmp_path / "out", "--engine", "gigatoken", *VAL)
    settings: dict[str, Any] = {"errs_at": "errsherenow", "check_every_bytes": 10_000}
    settings |= {"prefix": through_a_pipe(path)}
    erred = faults.run(*args, **settings)
    assert erred.returncode == 3, erred.stderr
    assert "standard input cannot be read twice: run the same command again" in erred.stderr
    again = faults.run(*args, **settings)
    assert again.returncode == 0, again.stderr
    assert report_of(tmp_path / "out")["engine"] == "tiktoken"
    assert "errsherenow" not in again.stderr
    verified = faults.run(*args, "--verify", prefix=through_a_pipe(path))
    assert verified.returncode == 0, verified.stderr


def peak_rss_bytes(source: str, folder: Path, **pipes: Any) -> int:
    command = [sys.executable, str(REPOSITORY / "prepare.py"), "--input", source, "--engine", "tiktoken"]
    done = subprocess.run([*command, "--output-dir", str(folder)], capture_output=True, check=False, **pipes)
    assert done.returncode == 0, done.stderr
    return int(report_of(folder)["peak_rss_bytes"])


@pytest.mark.slow
def test_memory_does_not_grow_with_a_stream_nor_with_a_bomb(tmp_path: Path) -> None:
    small = make_text(tmp_path / "small", 2_000_000).read_bytes()
    with gzip.open(tmp_path / "large.txt.gz", "wb", compresslevel=1) as file:
        for _ in range(40):
            file.write(small)
    with gzip.open(tmp_path / "bomb.txt.gz", "wb", compresslevel=1) as file:
        for _ in range(40):
            file.write(b"a" * 1_000_000)
    assert (tmp_path / "bomb.txt.gz").stat().st_size < 500_000
    assert peak_rss_bytes(str(tmp_path / "large.txt.gz"), tmp_path / "1") < 160e6
    assert peak_rss_bytes(str(tmp_path / "bomb.txt.gz"), tmp_path / "2") < 160e6
    assert report_of(tmp_path / "2")["text_bytes"] == 40_000_000
    with subprocess.Popen(["zcat", str(tmp_path / "large.txt.gz")], stdout=subprocess.PIPE) as zcat:
        assert peak_rss_bytes("-", tmp_path / "3", stdin=zcat.stdout) < 160e6
    assert sha256s(tmp_path / "3") == sha256s(tmp_path / "1")


def test_a_dry_run_reports_the_size_of_a_stream_as_unknown(text: Path, tmp_path: Path) -> None:
    done = faults.run(
        "--input", "-", "--output-dir", tmp_path / "out", "--dry-run", prefix=through_a_pipe(text)
    )
    assert done.returncode == 0, done.stderr
    assert "standard input, size unknown (" in done.stdout
    assert "from samples of its beginning" in done.stdout
    assert "the size of the input is unknown" in done.stdout
    assert "val.bin: 65.5 kB of every 131 MB" in done.stdout
    assert not (tmp_path / "out").exists()
