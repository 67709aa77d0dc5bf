"""Disks that run full, limits, and file systems that turn read-only, fail, or cannot lock.

The forecast refuses a disk that is too small before anything is written; so here the space goes, or the
file system fails, while the program is stopped in the middle of its work.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nanogpt_compat.journal import read_journal
from tests import faults
from tests.disks import MIN_BYTES, Disk, Disks, tool
from tests.failing import FailingCalls, Fault
from tests.faults import Expected, expect, make_text

SETTINGS = {"every_bytes": 80_000, "window_bytes": 1 << 16}
MIB = 1 << 20

Args = tuple[str | Path, ...]


@pytest.fixture
def args(tmp_path: Path) -> Args:
    return ("--input", make_text(tmp_path / "a.txt", 600_000), "--block-size", "30000")


@pytest.fixture
def expected(tmp_path: Path, args: Args) -> Expected:
    return expect(tmp_path / "expected", *args, **SETTINGS)


def saved_tokens(out: Path) -> int:
    """How many tokens the last checkpoint in the journal has, in all splits."""
    counts = [
        sum(entry.record["tokens"].values())  # type: ignore[attr-defined] # JSON
        for entry in read_journal(out / ".prepare" / "journal")
        if "tokens" in entry.record
    ]
    return max(counts, default=0)


def assert_stopped(done: "subprocess.CompletedProcess[str]", *messages: str) -> None:
    """An exit code and a message, and no signal or traceback."""
    assert done.returncode == 4, f"{done.returncode} {done.stderr}"
    assert "Traceback" not in done.stderr
    error = done.stderr[done.stderr.index("prepare: error: ") :]
    for message in messages:
        assert re.search(message, error), error


def run_out_of_space(disk: Disk, *args: str | Path, at: str, skip: int = 0) -> "subprocess.CompletedProcess[str]":
    """Let the disk run full just before a call of the program."""
    process = faults.start(*args, at=at, skip=skip, do="SIGSTOP", **SETTINGS)
    faults.wait_until_stopped(process)
    disk.fill()
    return faults.go_on(process)


FULL = "No space left on device"
KINDS = pytest.mark.parametrize("kind", ["ext4", "tmpfs", "xfs", "btrfs"])


def make_disk(disks: Disks, kind: str) -> Disk:
    options = ("-m", "0") if kind == "ext4" else ()  # root may use the blocks that are reserved
    return disks.make(kind, max(MIN_BYTES[kind], 64 * MIB), *options)


@KINDS
@pytest.mark.parametrize(
    ("at", "skip"),
    [
        ("(fallocate|pwrite) train.bin.partial", 3),
        ("(fallocate|pwrite) val.bin.partial", 0),
        ("write journal", 3),
        ("open prepare.json.*", 0),
    ],
    ids=["data", "val", "journal", "report"],
)
def test_a_disk_that_runs_full_is_an_error_until_there_is_room_again(
    at: str, skip: int, kind: str, args: Args, expected: Expected, disks: Disks
) -> None:
    disk = make_disk(disks, kind)
    out = disk.folder / "out"
    args = (*args, "--output-dir", out)
    done = run_out_of_space(disk, *args, at=at, skip=skip)
    assert_stopped(done, FULL, "free some space|Free some space|see to the disk", "the same command")
    expected.assert_nothing_partial(out)
    saved = saved_tokens(out)
    for _ in range(2):  # it is still full
        disk.fill()
        assert_stopped(faults.run(*args, **SETTINGS), f"{FULL}|will need about .* has .* for it; make room")
        expected.assert_nothing_partial(out)
        assert saved_tokens(out) >= saved
    disk.make_room()
    done = faults.run(*args, **SETTINGS)
    assert done.returncode == 0, done.stderr
    report = expected.assert_reached(out)
    if skip:
        assert saved > 0
        assert report["resumes"] == 1
