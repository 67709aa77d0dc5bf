"""After a power cut, everything promised is on the disk, and the same command resumes at the last checkpoint.

ext4 and XFS can stop at once and lose all data that is only in memory, as in a power cut; then they are
mounted again. `python -m pytest -m slow -s tests/test_power_cut.py` cuts the power at every call that changes
the disk, and 100 times at random moments: about 600 cuts.
"""

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_compat.resume.journal import read_journal
from tests import faults
from tests.disks import MIB, Disk, Disks
from tests.failing import Call, FailingCalls, Fault, read_log
from tests.faults import (
    OLD_REPORT,
    SHUFFLED,
    SMALL_SHUFFLE,
    Args,
    Expected,
    expect,
    make_old_files,
    make_text,
)

pytestmark = pytest.mark.costly

SETTINGS: dict[str, Any] = {"every_bytes": 80_000, "window_bytes": 1 << 16, **SMALL_SHUFFLE}
KINDS = pytest.mark.parametrize(("kind", "size_bytes"), [("ext4", 64 * MIB), ("xfs", 300 * MIB)])


def assert_promises_kept(expected: Expected, out: Path) -> None:
    """Check: a final name has the final content, and a report exists only with complete files."""
    expected.assert_nothing_partial(out)
    if (out / "prepare.json").exists() and faults.report_of(out) != OLD_REPORT:
        assert faults.report_of(out)["fingerprint"] == expected.report["fingerprint"]
        assert faults.sha256s(out) == expected.sha256s


def n_synced_records(calls: list[Call]) -> int:
    """Count the records of the journal whose sync has returned: those before the last one begun."""
    return max(0, sum(call.name == "write" and call.path.name == "journal" for call in calls) - 1)


def some_or_all(calls: list[Call], n_cuts: int | None, *, only_publishing: bool) -> list[int]:
    """Choose the calls at which to cut, counted from 1: half of them while publishing, or all."""
    first_of_publishing = [call.path.name for call in calls].index("prepare.json") + 1
    if n_cuts is None:
        return list(range(first_of_publishing if only_publishing else 1, len(calls) + 1))
    rng = random.Random(n_cuts)
    if only_publishing:
        return rng.sample(range(first_of_publishing, len(calls) + 1), n_cuts)
    early = rng.sample(range(1, first_of_publishing), n_cuts // 2)
    late = rng.sample(range(first_of_publishing, len(calls) + 1), n_cuts - n_cuts // 2)
    return [*early, *late]


@pytest.mark.sample(2)
@KINDS
@pytest.mark.parametrize(
    "begun", ["nothing", "a part", "old files", "an index", "a shuffle", "its second pass"]
)
@pytest.mark.parametrize("n_cuts", [4, pytest.param(None, marks=pytest.mark.slow)], ids=["some", "all"])
def test_after_a_power_cut_at_any_call_it_resumes_from_the_last_checkpoint(
    n_cuts: int | None,
    begun: str,
    kind: str,
    size_bytes: int,
    tmp_path: Path,
    disks: Disks,
    failing_calls: FailingCalls,
) -> None:
    disk = disks.make(kind, size_bytes)
    text = make_text(tmp_path / "a.txt", 600_000)
    args: Args = ("--input", text, "--block-size", "30000", "--workers", "1")
    if begun == "an index":
        args = (*args, "--document-separator", r"\n", "--index")
    if begun in ("a shuffle", "its second pass"):
        args = (*args, *SHUFFLED, "--index")
    expected = expect(tmp_path / "expected", *args, **SETTINGS)
    begin = tmp_path / "begin"
    if begun in ("nothing", "an index", "a shuffle"):
        begin.mkdir()
    elif begun == "old files":
        expected.old, overwrite = make_old_files(begin)
        args = (*args, *overwrite)
    else:
        call = "write journal" if begun == "a part" else "fallocate train.bin.partial"
        done = faults.run(*args, "--output-dir", begin, at=call, skip=3, **SETTINGS)
        assert done.returncode == -9
    out, log = disk.folder / "out", tmp_path / "log"
    shutil.copytree(begin, out)
    whole = faults.run(*args, "--output-dir", out, prefix=failing_calls.prefix(out, log), **SETTINGS)
    assert whole.returncode == 0, whole.stderr
    cuts = some_or_all(read_log(log), n_cuts, only_publishing=begun == "old files")
    for at in cuts:
        shutil.rmtree(out)
        log.unlink()
        shutil.copytree(begin, out)
        disk.sync()
        prefix = failing_calls.prefix(out, log, Fault("any", at, "cut"))
        done = faults.run(*args, "--output-dir", out, prefix=prefix, **SETTINGS)
        if done.returncode == 0:  # threads may make one call fewer
            assert at > cuts[-1] - 5
            continue
        # A thread that still stores before the process is dead may find its page on a dead file system.
        assert done.returncode in (-signal.SIGKILL, -signal.SIGBUS), f"{done.returncode} {done.stderr}"
        disk.remount_after_cut()
        assert_promises_kept(expected, out)
        n_begun = sum(1 for _ in read_journal(begin / ".prepare" / "journal"))
        calls = read_log(log)
        if not any(call.name == "unlink" and call.path.name == "journal" for call in calls):
            journal = out / ".prepare" / "journal"
            assert sum(1 for _ in read_journal(journal)) >= n_begun + n_synced_records(calls)
        again = faults.prepare(*args, "--output-dir", out)
        assert again.returncode == 0, again.stderr
        expected.assert_reached(out)
    print(f"{len(cuts)} cuts on {kind}")  # noqa: T201 - for the closing note, with pytest -s


def ends_before_cut(disk: Disk, seconds: float, out: Path, *args: str | Path) -> bool:
    """Start the program and cut the power after `seconds`; return whether it ended before that."""
    process = faults.start(*args, "--output-dir", out, **SETTINGS)
    try:
        _, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        disk.cut_power()
        process.kill()
        _, stderr = process.communicate()
        disk.remount_after_cut()
        # Between cut and kill it may end with an error, or, while it clears up, with all files in place.
        assert process.returncode in (-9, 4, 0), f"{process.returncode} {stderr}"
        assert process.returncode != 0 or (out / "prepare.json").exists()
        return False
    assert process.returncode == 0, f"{process.returncode} {stderr}"
    return True


@pytest.mark.sample(1)
@KINDS
@pytest.mark.parametrize("n_cuts", [3, pytest.param(50, marks=pytest.mark.slow)], ids=["some", "all"])
def test_it_finishes_despite_repeated_power_cuts_at_random_moments(
    n_cuts: int, kind: str, size_bytes: int, tmp_path: Path, disks: Disks
) -> None:
    rng = random.Random(n_cuts)
    disk = disks.make(kind, size_bytes)
    text = make_text(tmp_path / "a.txt", 3_000_000)
    args = ("--input", text, "--block-size", "30000")
    expected = expect(tmp_path / "expected", *args, **SETTINGS)
    n_done = n_ends = 0
    while n_done < n_cuts or n_ends == 0:
        out = disk.folder / "out"
        while not ends_before_cut(disk, rng.uniform(0.4, 1.1) * expected.seconds, out, *args):
            n_done += 1
            assert_promises_kept(expected, out)
        n_ends += 1
        expected.assert_reached(out)
        shutil.rmtree(out)
    print(f"{n_done} cuts on {kind}, {n_ends} times to the end")  # noqa: T201 - for the closing note


@KINDS
def test_a_finished_run_is_still_complete_after_a_power_cut(
    kind: str, size_bytes: int, tmp_path: Path, disks: Disks
) -> None:
    disk = disks.make(kind, size_bytes)
    args: Args = ("--input", make_text(tmp_path / "a.txt", 600_000))
    expected = expect(tmp_path / "expected", *args, **SETTINGS)
    out = disk.folder / "out"
    args = (*args, "--output-dir", out)
    process = faults.start(*args, at="remove journal", do="SIGSTOP", **SETTINGS)
    faults.wait_until_stopped(process)
    disk.cut_power()
    assert faults.let_finish(process).returncode == 0  # the files it could not clear away are hidden
    disk.remount_after_cut()
    assert_promises_kept(expected, out)
    assert (out / "prepare.json").exists()
    assert (out / ".prepare").exists()
    assert "already complete" in faults.prepare(*args).stderr
    expected.assert_reached(out)


@pytest.mark.sample(1)
@KINDS
@pytest.mark.parametrize("skip", [5, 9])
def test_a_shard_with_its_final_name_is_on_the_disk(
    skip: int, kind: str, size_bytes: int, tmp_path: Path, disks: Disks
) -> None:
    disk = disks.make(kind, size_bytes)
    args: Args = ("--input", make_text(tmp_path / "a.txt", 600_000), "--block-size", "30000")
    args = (*args, "--format", "npy", "--shard-tokens", "20011")
    expected = expect(tmp_path / "expected", *args, **SETTINGS)
    out = disk.folder / "out"
    process = faults.start(*args, "--output-dir", out, at=r"rename .*npy\.partial", skip=skip, do="SIGSTOP")
    faults.wait_until_stopped(process)
    disk.cut_power()
    process.kill()
    process.communicate()
    disk.remount_after_cut()
    assert len(faults.sha256s(out)) >= skip
    assert_promises_kept(expected, out)
    again = faults.prepare(*args, "--output-dir", out)
    assert again.returncode == 0, again.stderr
    expected.assert_reached(out)


@pytest.mark.sample(1)
@KINDS
@pytest.mark.parametrize(("split", "skip"), [("train", 0), ("val", 2)])  # the first with tokens
def test_nothing_is_promised_before_it_is_on_a_slow_disk(
    split: str, skip: int, kind: str, size_bytes: int, tmp_path: Path, disks: Disks
) -> None:
    disk = disks.make(kind, size_bytes)
    args = ("--input", make_text(tmp_path / "a.txt", 600_000), "--block-size", "10000", "--val-ratio", "0.4")
    expected = expect(tmp_path / "expected", *args, **SETTINGS)
    out, log, sync = disk.folder / "out", tmp_path / "log", f"fsync {split}.bin.partial"
    slow: dict[str, Any] = {"at": sync, "skip": skip, "do": "sleep", "log": str(log)}
    # Three checkpoints fit into the first window of 64 KiB: until then each sync is for a checkpoint.
    process = faults.start(*args, "--output-dir", out, every_bytes=25_000, **slow)
    wait_until(lambda: log.exists() and log.read_text().split("\n").count(sync) > skip)
    time.sleep(0.5)  # time to promise data that is not on the disk yet
    assert process.poll() is None
    disk.cut_power()
    process.kill()
    process.communicate()
    disk.remount_after_cut()
    done = faults.run(*args, "--output-dir", out, **SETTINGS)
    assert done.returncode == 0, done.stderr
    assert expected.assert_reached(out, fallbacks=0)["resumes"] == 1


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)
