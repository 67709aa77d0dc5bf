"""Start the program, stop it, and check what it leaves on the disk: for all tests of resuming."""

import atexit
import codecs
import contextlib
import hashlib
import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias
from unittest.mock import patch

import psutil

from nanogpt_compat import cli
from nanogpt_compat.encoders.forecast import Estimator
from nanogpt_compat.encoders.vocabulary import Vocabulary, find_gpt2
from nanogpt_compat.output import layout
from nanogpt_compat.preflight import look
from nanogpt_compat.resume import checkpoint
from nanogpt_compat.resume.checkpoint import Checkpointer
from nanogpt_compat.system.signals import StopSignals
from tests.texts import real_text

DRIVER = Path(__file__).parent / "driver.py"
SECTION_BYTES = 50_000  # so that small files have several sections with checksums
FINALS = ("train.bin", "val.bin")
SHUFFLED = ("--document-separator", r"\n", "--shuffle")  # for a text of lines
# A window is a part of the output between two checkpoints, and a range a part of a window.
SMALL_SHUFFLE = {"spill_bytes": 60_000, "range_bytes": 50_000, "chunk_tokens": 3_000}
SUFFIXES = (".bin", ".npy", ".idx")
Args: TypeAlias = tuple[str | Path, ...]
TIMEOUT_S = 120.0  # every run here takes seconds; a hang must fail

# Fields that may differ between the reports of a stopped and of an uninterrupted run.
_PASSING = {"wall_s", "resumes", "checkpoint_fallbacks", "peak_rss_bytes", "peak_own_bytes", "guard"}
# Each process checks its first block, and the size of blocks decides how many of them tiktoken encodes.
_PASSING |= {"engine_checked_slices", "engine_fallback_blocks"}
_PASSING |= {"engine"}  # with less memory available, a resumed run uses tiktoken
_LASTING_OPTIONS = (  # a resumed run may change all other options
    *("errors", "n_chunks", "val_ratio", "val_split", "separator", "eot", "text_field", "skip_bad_records"),
    *("output_format", "shard_tokens", "shard_name", "one_document_per_file", "index", "max_tokens"),
    *("shuffle", "seed"),
)


@cache
def _lines() -> tuple[bytes, ...]:
    return tuple(real_text().splitlines(keepends=True))


def make_text(path: Path, n_bytes: int, *, seed: int = 0, n_invalid: int = 0) -> Path:
    """Write `n_bytes` of real prose; `seed` decides the order of lines and the places of invalid bytes."""
    rng = random.Random(seed)
    with path.open("wb") as file:
        while (n_left := n_bytes - file.tell()) > 0:
            lines = list(_lines())
            rng.shuffle(lines)
            part = b"".join(lines)[:n_left]
            # The character cut in two at the end depends on the installed packages.
            n_whole = codecs.utf_8_decode(part, "ignore", False)[1]
            file.write(part[:n_whole].ljust(len(part)))
        for offset in rng.sample(range(n_bytes), n_invalid):
            file.seek(offset)
            file.write(b"\xff")
    return path


def command(*args: str | Path, **settings: Any) -> list[str]:
    """Return the command that runs the program in tests/driver.py, with its settings."""
    settings = {"section_bytes": SECTION_BYTES, **settings}
    return [sys.executable, str(DRIVER), json.dumps(settings), *map(str, args)]


def start(*args: str | Path, prefix: Sequence[str] = (), **settings: Any) -> "subprocess.Popen[str]":
    """Start the program; `prefix` goes before the command, for example `nohup`."""
    process = subprocess.Popen(
        [*prefix, *command(*args, **settings)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.kill)  # a process that a failed test left stopped would stay for ever
    return process


def run(*args: str | Path, prefix: Sequence[str] = (), **settings: Any) -> "subprocess.CompletedProcess[str]":
    """Run the program to its end."""
    return _finish(start(*args, prefix=prefix, **settings))


def _finish(process: "subprocess.Popen[str]") -> "subprocess.CompletedProcess[str]":
    try:
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def run_for(seconds: float, *args: str | Path, **settings: Any) -> "subprocess.CompletedProcess[str]":
    """Run the program and kill it after `seconds`; its exit code is -9 if it was still running."""
    process = start(*args, **settings)
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def wait_until_stopped(process: "subprocess.Popen[str]") -> None:
    """Wait for the SIGSTOP that a run sends to itself (`do="SIGSTOP"`)."""
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), f"it has ended, with status {status}"


def let_finish(process: "subprocess.Popen[str]") -> "subprocess.CompletedProcess[str]":
    """Let a run that has stopped itself continue to its end."""
    os.kill(process.pid, signal.SIGCONT)
    return _finish(process)


@dataclass(frozen=True)
class Outcome:
    """The result of a run in this process."""

    returncode: int
    stderr: str


class Stopped(Exception):
    """Raised by a test to end a run."""


def prepare(
    *args: str | Path,
    every_bytes: int = 40_000,
    check: Callable[[], None] | None = None,
    stop_after_bytes: int | None = None,
) -> Outcome:
    """Run the program in this process, which is faster; `check` is called with each check of signals.

    Raises Stopped after the block that completes `stop_after_bytes` of input, and any exception that the
    program does not expect, such as one from `check`.
    """
    stderr = io.StringIO()

    def check_both(signals: StopSignals) -> None:
        check_signals(signals)
        if check is not None:
            check()

    def after_block(checkpointer: Checkpointer) -> None:
        begin_checkpoint(checkpointer)
        if stop_after_bytes is not None and checkpointer._tally.bytes_read >= stop_after_bytes:
            raise Stopped

    def add_little(
        estimator: Estimator,
        texts: Sequence[str],
        *,
        weights: Sequence[float] | None,
        sampled_bytes: float,
        size_bytes: int,
        **others: Any,
    ) -> None:
        few = texts[: len(texts) // 8 + 1]  # a forecast from all of them takes a third of the time
        add(
            estimator,
            few,
            weights=weights and weights[: len(few)],
            sampled_bytes=sampled_bytes * len(few) / max(1, len(texts)),
            size_bytes=size_bytes,
            **others,
        )

    check_signals, begin_checkpoint, add = StopSignals.check, Checkpointer.after_block, Estimator.add
    with (
        patch.object(checkpoint, "EVERY_OUTPUT_BYTES", every_bytes),
        patch.object(layout, "SECTION_BYTES", SECTION_BYTES),
        patch.object(look, "find_gpt2", _find_gpt2),
        patch.object(StopSignals, "check", check_both),
        patch.object(Checkpointer, "after_block", after_block),
        patch.object(Estimator, "add", add_little),
        contextlib.redirect_stderr(stderr),
    ):
        returncode = cli.main(list(map(str, args)))
    return Outcome(returncode, stderr.getvalue())


@cache
def gpt2() -> Vocabulary:
    return find_gpt2()


def _find_gpt2(folder: Path | None) -> Vocabulary:
    return gpt2() if folder is None else find_gpt2(folder)


def sha256s(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each token file with a final name."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*"))
        if path.suffix in SUFFIXES
    }


def assert_checksums(folder: Path, *, section_bytes: int = 64 << 20) -> None:
    """Check that prepare.json has the CRC-32 of each file, and of each section of it."""
    for one in report_of(folder)["files"]:
        data = (folder / one["name"]).read_bytes()
        sections = [data[start : start + section_bytes] for start in range(0, len(data), section_bytes)]
        assert one["crc32"] == zlib.crc32(data)
        assert one["crc32_per_64_mib"] == list(map(zlib.crc32, sections))


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "prepare.json").read_text(encoding="ascii"))
    return report


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    files = (one for one in sorted(folder.rglob("*")) if one.is_file())
    return {str(one): (one.stat().st_ino, one.stat().st_mtime_ns, one.read_bytes()) for one in files}


def assert_refused(folder: Path, call: Callable[[], Outcome], exit_code: int, *messages: str) -> str:
    """Check that a run ends with this code and all of these messages, and leaves the folder as it was.

    Return the error.
    """
    before = snapshot(folder)
    done = call()
    assert done.returncode == exit_code, done.stderr
    assert snapshot(folder) == before
    assert not (folder / ".prepare").exists()
    error = done.stderr[done.stderr.index("prepare: error: ") :]
    assert error.isascii()
    for message in messages:
        assert message in error
    return error


def lasting(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a report that depend neither on stops nor on timestamps of the input."""
    found = {name: value for name, value in report.items() if name not in _PASSING}
    found["options"] = {name: report["options"][name] for name in _LASTING_OPTIONS}
    found["inputs"] = [one | {"mtime_ctime_inode": None} for one in report["inputs"]]
    # Sections have 64 MiB only where neither `run` nor `prepare` has started the program.
    found["files"] = [one | {"crc32_per_64_mib": None} for one in report["files"]]
    return found


OLD_REPORT = {"made": "before"}


def make_old_files(folder: Path) -> tuple[dict[str, str], Args]:
    """Put files of an earlier run into `folder`; return their SHA-256, and the option to replace them."""
    folder.mkdir()
    for name in FINALS:
        (folder / name).write_bytes(name.encode() * 1000)
    (folder / "prepare.json").write_text(json.dumps(OLD_REPORT))
    return sha256s(folder), ("--overwrite",)


@dataclass
class Expected:
    """The result of an uninterrupted run on the same input with the same options."""

    sha256s: dict[str, str]
    report: dict[str, Any]
    seconds: float  # its duration, with start-up
    old: dict[str, str] = field(default_factory=dict)  # the files before a run with --overwrite

    def assert_nothing_partial(self, folder: Path) -> None:
        """Check the folder at any moment: a final name has the final content, or the old one."""
        found = sha256s(folder)
        for name, sha256 in found.items():
            assert sha256 in (self.sha256s.get(name), self.old.get(name)), f"{folder / name} is neither"
        if (folder / "prepare.json").exists():  # it is never next to files of another run
            is_old = self.old and report_of(folder) == OLD_REPORT
            assert found == (self.old if is_old else self.sha256s)

    def assert_reached(self, folder: Path, *, fallbacks: int = 0) -> dict[str, Any]:
        """Check the folder at the end: the same files and report, and nothing else."""
        assert sha256s(folder) == self.sha256s
        assert sorted(path.name for path in folder.iterdir()) == sorted([*self.sha256s, "prepare.json"])
        report = report_of(folder)
        assert lasting(report) == lasting(self.report)
        assert_checksums(folder, section_bytes=SECTION_BYTES)
        assert report["checkpoint_fallbacks"] == fallbacks
        return report


def expect(folder: Path, *args: str | Path, **settings: Any) -> Expected:
    """Run the program without interruption, with its output in `folder`."""
    began_s = time.monotonic()
    done = run(*args, "--output-dir", folder, **settings)
    assert done.returncode == 0, done.stderr
    expected = Expected(sha256s(folder), report_of(folder), time.monotonic() - began_s)
    assert expected.report["resumes"] == 0
    return expected


def settled_available_bytes() -> int:
    """Wait until freed memory has come back, on some machines at 40 MB/s; return the available bytes."""
    deadline_s = time.monotonic() + 90
    before, now = 0, psutil.virtual_memory().available
    while now - before > 20_000_000 and time.monotonic() < deadline_s:
        time.sleep(1)
        before, now = now, psutil.virtual_memory().available
    return now


def kill_until_done(
    rng: random.Random,
    expected: Expected,
    out: Path,
    choose: Callable[[], tuple[Args, dict[str, Any]]],
    *,
    seconds: float,
) -> tuple[int, float]:
    """Start a run with output in `out` again and again, killed later each time, until it reaches its end.

    `choose` returns the arguments and the driver's settings of each run. Returns the number of kills, and the
    seconds that the last run took.
    """
    for n_kills in itertools.count():
        args, settings = choose()
        began_s = time.monotonic()
        done = run_for(rng.uniform(0.3, 1.0 + 0.1 * n_kills) * seconds, *args, **settings)
        last_s = time.monotonic() - began_s
        assert "did not match" not in done.stderr  # SIGKILL does not undo writes
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        expected.assert_nothing_partial(out)
    expected.assert_reached(out)
    return n_kills, last_s
