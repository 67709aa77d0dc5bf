"""Disks that run full, limits, and file systems that turn read-only, fail, or cannot lock.

The forecast refuses a disk that is too small before anything is written. So these tests take the space away,
or make the file system fail, while the program is stopped in the middle of its work. Some cases run only with
`python -m pytest -m slow tests/test_full_disk.py`.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nanogpt_compat.resume.journal import read_journal
from tests import faults
from tests.conftest import REPOSITORY
from tests.disks import MIB, MIN_BYTES, Disk, Disks, tool
from tests.failing import FailingCalls, Fault
from tests.faults import SHUFFLED, SMALL_SHUFFLE, Expected, expect, make_text, prepare

pytestmark = pytest.mark.costly

SETTINGS: dict[str, Any] = {"every_bytes": 80_000, "window_bytes": 1 << 16, **SMALL_SHUFFLE}

Args = tuple[str | Path, ...]
Done = subprocess.CompletedProcess[str]


@pytest.fixture
def args(tmp_path: Path) -> Args:
    return ("--input", make_text(tmp_path / "a.txt", 600_000), "--block-size", "30000")


@pytest.fixture
def expected(tmp_path: Path, args: Args) -> Expected:
    return expect(tmp_path / "expected", *args, **SETTINGS)


def saved_tokens(out: Path) -> int:
    """Return the number of tokens in the last checkpoint of the journal, all splits together."""
    records = [entry.record for entry in read_journal(out / ".prepare" / "journal")]
    tokens: list[dict[str, int]] = [record["tokens"] for record in records if "tokens" in record]
    return sum(tokens[-1].values()) if tokens else 0


def assert_stopped(done: Done, *messages: str) -> None:
    """Check for an exit code and a message, and for no signal or traceback."""
    assert done.returncode == 4, f"{done.returncode} {done.stderr}"
    assert "Traceback" not in done.stderr
    error = done.stderr[done.stderr.index("prepare: error: ") :]
    for message in messages:
        assert re.search(message, error), error


def assert_resumes(expected: Expected, out: Path, *args: str | Path, resumes: int) -> None:
    done = faults.run(*args, **SETTINGS)
    assert done.returncode == 0, done.stderr
    assert expected.assert_reached(out)["resumes"] == resumes


# Full


FULL = "No space left on device"
MAPPED, WRITTEN = ("ext4", "xfs", "tmpfs"), ("btrfs",)


def make_disk(disks: Disks, kind: str) -> Disk:
    options = ("-m", "0") if kind == "ext4" else ()  # root may use the blocks that are reserved
    return disks.make(kind, max(MIN_BYTES[kind], 64 * MIB), *options)


def full_just_before(
    call: str, skip: int, resumes: int, *kinds: str, also: tuple[str, ...] = ()
) -> list[object]:
    """Cases: the kinds of disk for CI, and those for `-m slow`."""
    return [
        pytest.param(
            kind, call, skip, resumes, id=f"{kind} {call}", marks=pytest.mark.slow if kind in also else []
        )
        for kind in (*kinds, *also)
    ]


@pytest.mark.sample(5)
@pytest.mark.parametrize(
    ("kind", "call", "skip", "resumes"),
    [
        *full_just_before("fallocate train.bin.partial", 3, 1, *MAPPED),
        *full_just_before("pwrite train.bin.partial", 14, 1, *WRITTEN),
        *full_just_before("fallocate val.bin.partial", 0, 1, "ext4", also=("xfs", "tmpfs")),
        *full_just_before("pwrite val.bin.partial", 0, 1, also=WRITTEN),
        *full_just_before("write journal", 0, 0, also=(*MAPPED, *WRITTEN)),
        *full_just_before("write journal", 1, 1, "ext4", "btrfs", also=("xfs", "tmpfs")),
        *full_just_before("write journal", 3, 1, "ext4", also=("xfs", "tmpfs", "btrfs")),
        *full_just_before("open prepare.json.tmp", 0, 0, "tmpfs", "btrfs", also=("ext4", "xfs")),
    ],
)
def test_a_disk_that_runs_full_is_an_error_until_there_is_room_again(
    kind: str, call: str, skip: int, resumes: int, args: Args, expected: Expected, disks: Disks
) -> None:
    disk = make_disk(disks, kind)
    out = disk.folder / "out"
    args = (*args, "--output-dir", out)
    process = faults.start(*args, at=call, skip=skip, do="SIGSTOP", **SETTINGS)
    faults.wait_until_stopped(process)
    disk.fill()
    done = faults.let_finish(process)
    if call.endswith("partial"):
        assert_stopped(
            done, f"cannot take .* more: {FULL}.* are free there. Free some space and run the same"
        )
    else:  # another thread may have met the full disk before this call
        assert_stopped(done, f"{FULL}.*([Ff]ree some space|check the disk).* run the same command")
    expected.assert_nothing_partial(out)
    saved = saved_tokens(out)
    assert (saved > 0) == (resumes > 0 or "prepare.json" in call)
    disk.fill()
    again = faults.run(*args, **SETTINGS)  # it is still full
    assert_stopped(again, f"{FULL}.*; free some space|output will need about .* has .* for it; make room")
    expected.assert_nothing_partial(out)
    assert saved_tokens(out) == saved
    disk.make_room()
    if not saved:  # the journal has room of its own, so its header may have been written
        resumes = int(any(read_journal(out / ".prepare" / "journal")))
    assert_resumes(expected, out, *args, resumes=resumes)


@pytest.mark.sample(2)
@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
@pytest.mark.parametrize("stream", ["spill-0-tokens", "spill-0-records", "train.bin"])
def test_a_shuffle_resumes_after_a_full_disk_in_either_pass(
    stream: str, kind: str, tmp_path: Path, disks: Disks
) -> None:
    args: Args = ("--input", make_text(tmp_path / "a.txt", 1_500_000), "--block-size", "30000", *SHUFFLED)
    expected = expect(tmp_path / "expected", *args, **SETTINGS)
    disk = make_disk(disks, kind)
    out = disk.folder / "out"
    args = (*args, "--output-dir", out)
    call = f"fallocate {stream}.partial"
    process = faults.start(*args, at=call, skip=2, do="SIGSTOP", **SETTINGS)
    faults.wait_until_stopped(process)
    disk.fill()
    assert_stopped(
        faults.let_finish(process), f"cannot take .* more: {FULL}.* Free some space and run the same"
    )
    expected.assert_nothing_partial(out)
    assert saved_tokens(out)
    disk.make_room()
    assert_resumes(expected, out, *args, resumes=1)


def test_shards_on_a_disk_that_runs_full_stay_and_the_rest_follows(
    args: Args, disks: Disks, tmp_path: Path
) -> None:
    args = (*args, "--format", "llmc", "--shard-tokens", "20011")
    expected = expect(tmp_path / "shards", *args, **SETTINGS)
    disk = make_disk(disks, "ext4")
    out = disk.folder / "out"
    args = (*args, "--output-dir", out)
    process = faults.start(*args, at=r"fallocate .*_000007\.bin\.partial", do="SIGSTOP", **SETTINGS)
    faults.wait_until_stopped(process)
    disk.fill()
    assert_stopped(faults.let_finish(process), rf"_000007\.bin\.partial cannot take .* more: {FULL}")
    before = faults.sha256s(out)
    assert before
    disk.make_room()
    assert_resumes(expected, out, *args, resumes=1)
    assert before.items() <= faults.sha256s(out).items()


# Limits


def test_a_limit_of_the_file_size_is_an_error_that_names_it(
    args: Args, expected: Expected, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    args = (*args, "--output-dir", out)
    for _ in range(2):
        done = faults.run(*args, prefix=[tool("prlimit"), "--fsize=200000"], **SETTINGS)
        assert_stopped(done, r"cannot take .* more: File too large\..*Raise the limit on file sizes")
        expected.assert_nothing_partial(out)
        assert saved_tokens(out) > 0
    assert_resumes(expected, out, *args, resumes=2)


# Read-only and failed file systems


def test_a_folder_that_has_become_read_only_keeps_what_was_saved(
    args: Args, expected: Expected, tmp_path: Path, disks: Disks
) -> None:
    out = tmp_path / "out"
    args = (*args, "--output-dir", out)
    assert faults.run(*args, at="write journal", skip=3, **SETTINGS).returncode == -9
    saved = saved_tokens(out)
    assert saved > 0
    disks.bind(out)
    subprocess.run(["mount", "-o", "remount,ro,bind", out], check=True)
    for _ in range(2):
        done = faults.run(*args, **SETTINGS)
        assert_stopped(
            done, "Read-only file system.*; make the file system writable and run the same command"
        )
        assert saved_tokens(out) == saved
    subprocess.run(["mount", "-o", "remount,rw,bind", out], check=True)
    assert_resumes(expected, out, *args, resumes=1)


@pytest.mark.sample(2)
@pytest.mark.parametrize("call", ["fallocate train.bin.partial", "encode text", "write journal"])
def test_a_file_system_that_turns_read_only_in_the_middle_is_an_error(
    call: str, args: Args, expected: Expected, disks: Disks
) -> None:
    disk = disks.make("ext4", 64 * MIB)
    out = disk.folder / "out"
    args = (*args, "--output-dir", out)
    process = faults.start(*args, at=call, skip=8 if call == "encode text" else 4, do="SIGSTOP", **SETTINGS)
    faults.wait_until_stopped(process)
    subprocess.run(["mount", "-o", "remount,abort", disk.folder], check=True)  # as after a disk error
    assert_stopped(faults.let_finish(process), "Read-only file system|Input/output error", "the same command")
    assert_stopped(faults.run(*args, **SETTINGS), "Read-only file system", "the same command")
    disk.unmount()
    subprocess.run([tool("e2fsck"), "-fy", disk.image], capture_output=True, check=False)  # 1: repaired
    disk.mount()
    expected.assert_nothing_partial(out)
    assert_resumes(expected, out, *args, resumes=1)


def test_an_input_that_can_no_longer_be_read_ends_the_run_with_all_that_is_sound_saved(
    tmp_path: Path, disks: Disks
) -> None:
    disk = disks.make("ext4", 64 * MIB)
    out = tmp_path / "out"
    args: Args = ("--input", make_text(disk.folder / "a.txt", 12_000_000), "--block-size", "20000")
    expected = expect(tmp_path / "expected", *args)  # reading is up to 8 MB ahead of writing
    disk.sync()
    args = (*args, "--output-dir", out)
    process = faults.start(*args, at="encode text", skip=100, do="SIGSTOP", every_bytes=1 << 40)
    faults.wait_until_stopped(process)
    assert saved_tokens(out) == 0
    disk.cut_power()  # the output is on another disk
    done = faults.let_finish(process)
    assert done.returncode == 3, done.stderr
    assert re.search(r"cannot read .*a\.txt at byte [\d,]+: Input/output error", done.stderr)
    assert saved_tokens(out) > 0
    assert prepare(*args).returncode == 3  # it still cannot be read
    disk.remount_after_cut()
    assert_resumes(expected, out, *args, resumes=1)


APPEND = """
import sys
import numpy as np
from pathlib import Path
from nanogpt_compat.output import token_file
from nanogpt_compat.errors import OutputError
reserve = token_file._Mapped.reserve
def reserve_and_wait(form, end_tokens):
    reserve(form, end_tokens)
    print("reserved", flush=True)
    input()
token_file._Mapped.reserve = reserve_and_wait
with token_file.GrowingMemmap(Path(sys.argv[1])) as tokens:
    try:
        tokens.append(np.zeros(4_000_000, np.uint16))
        tokens.append(np.zeros(4_000_000, np.uint16))
        tokens.finish()
    except OutputError as error:
        print(error)
"""


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_file_system_that_shuts_down_at_the_last_moment_is_an_error_and_no_bus_error(
    kind: str, disks: Disks
) -> None:
    disk = disks.make(kind, max(MIN_BYTES[kind], 64 * MIB))
    process = subprocess.Popen(
        [sys.executable, "-c", APPEND, disk.folder / "a"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "reserved\n"
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "reserved\n"
    disk.cut_power()
    stdout, _ = process.communicate("\n")
    assert process.returncode == 0, "-7 is SIGBUS"
    assert re.search("cannot take 8.0 MB more: Input/output error|could not be written to the disk", stdout)


# Without flock


def test_without_flock_a_second_run_is_refused_too(
    args: Args, expected: Expected, tmp_path: Path, failing_calls: FailingCalls
) -> None:
    out = tmp_path / "out"
    args = (*args, "--output-dir", out)
    no_flock = failing_calls.prefix(out, tmp_path / "log", Fault("flock", 1, "ENOSYS", for_good=True))
    process = faults.start(*args, prefix=no_flock, at="write journal", skip=3, do="SIGSTOP", **SETTINGS)
    faults.wait_until_stopped(process)
    assert_stopped(faults.run(*args, prefix=no_flock, **SETTINGS), f"in use by .* process {process.pid} on ")
    process.kill()
    process.communicate()
    done = faults.run(*args, prefix=no_flock, **SETTINGS)
    assert done.returncode == 0, done.stderr
    assert expected.assert_reached(out)["resumes"] == 1
