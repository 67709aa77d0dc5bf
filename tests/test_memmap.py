"""The growing memmap on real disks: full ones, failing ones, and after a power cut."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nanogpt_compat.errors import OutputError
from nanogpt_compat.output.token_file import WINDOW_BYTES, GrowingMemmap
from nanogpt_compat.system.filesystem import file_system
from tests.disks import MIB, MIN_BYTES, Disk, Disks, tool

pytestmark = pytest.mark.costly

REPOSITORY = Path(__file__).parent.parent
FORMS = pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "pwrite"])


def some_tokens(n: int, seed: int = 0) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(0, 50257, n, dtype=np.uint16)


# Functions that run in their own process, where a SIGBUS kills nothing else, and their helpers.


def run_apart(function: Callable[..., Any], *args: object, under: tuple[str, ...] = ()) -> dict[str, Any]:
    """Call a function of this file in a new process, with `args` as JSON; return the dict it returns."""
    code = (
        f"import json, sys; from {function.__module__} import {function.__name__} as function; "
        "print(json.dumps(function(*map(json.loads, sys.argv[1:]))))"
    )
    command = [*under, sys.executable, "-c", code, *(json.dumps(arg, default=str) for arg in args)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"exit {done.returncode} (-7 is SIGBUS)\n{done.stdout}{done.stderr}"
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def leave_free(folder: Path, n_bytes: int) -> None:
    """Take all space of the small disk at `folder` but `n_bytes`."""
    with (folder / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free - n_bytes)
        os.fsync(file.fileno())


def mapped_bytes(path: Path) -> int:
    """Return how much of `path` this process has mapped."""
    spans = re.findall(rf"^(\w+)-(\w+) .* {re.escape(str(path))}$", Path("/proc/self/maps").read_text(), re.M)
    return sum(int(end, 16) - int(start, 16) for start, end in spans)


def peak_rss_bytes() -> int:
    return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) * 1024


def cached_bytes(path: Path) -> int:
    return int(subprocess.check_output([tool("fincore"), "-b", "-n", "-o", "RES", str(path)], text=True))


# Writing.


@FORMS
@pytest.mark.parametrize("n", [0, 1, 2047, 2048, 2049, 4096, 100_003])
def test_one_append_of_any_length_writes_the_same_as_tofile(tmp_path: Path, mapped: bool, n: int) -> None:
    with GrowingMemmap(tmp_path / "a", window_bytes=4096, mapped=mapped) as tokens:
        tokens.append(some_tokens(n))
        assert tokens.n_tokens == n
        tokens.finish()
    assert (tmp_path / "a").read_bytes() == some_tokens(n).astype("<u2").tobytes()


LENGTHS = st.integers(0, 9000) | st.sampled_from([2047, 2048, 2049, 4096, 6144])
STEPS = st.lists(
    st.tuples(st.just("append"), LENGTHS)
    | st.tuples(st.just("append strided"), LENGTHS)
    | st.tuples(st.sampled_from(["begin_sync", "wait", "sync"]), st.just(0))
    | st.tuples(st.just("reopen"), st.integers(0, 100)),
    max_size=20,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, window_pages=st.integers(1, 5), mapped=st.booleans())
def test_any_sequence_of_calls_writes_the_same_as_tofile(
    tmp_path: Path, steps: list[tuple[str, int]], window_pages: int, mapped: bool
) -> None:
    path = tmp_path / "tokens"
    path.unlink(missing_ok=True)
    expected = np.empty(0, np.uint16)
    waits: list[Callable[[], None]] = []
    tokens = GrowingMemmap(path, window_bytes=window_pages * 4096, mapped=mapped)
    for seed, (step, n) in enumerate(steps):
        if step.startswith("append"):
            new = some_tokens(2 * n, seed)[::-2] if step == "append strided" else some_tokens(n, seed)
            new.setflags(write=False)
            tokens.append(new)
            expected = np.concatenate([expected, new])
        elif step == "begin_sync":
            waits.append(tokens.begin_sync())
        elif step == "wait":
            for wait in waits:
                wait()
        elif step == "reopen":
            tokens.close()
            expected = expected[: len(expected) * n // 100]
            n, window_bytes = len(expected), window_pages * 4096
            tokens = GrowingMemmap(path, n_tokens=n, window_bytes=window_bytes, mapped=mapped)
        else:
            getattr(tokens, step)()
        assert tokens.n_tokens == len(expected)
    tokens.finish()
    expected.astype("<u2").tofile(tmp_path / "expected")
    assert path.read_bytes() == (tmp_path / "expected").read_bytes()


@FORMS
@pytest.mark.parametrize(
    "wrong",
    [
        np.array([50256, 100277]),
        np.array([1], np.uint32),
        np.array([1], np.int16),
        np.array([1], ">u2"),
        np.array([1.0]),
        np.array([[1]], np.uint16),
    ],
    ids=lambda wrong: f"{wrong.dtype}-{wrong.shape}",
)
def test_anything_but_one_row_of_uint16_is_refused_and_not_cast(
    tmp_path: Path, mapped: bool, wrong: NDArray[Any]
) -> None:
    with GrowingMemmap(tmp_path / "a", mapped=mapped) as tokens:
        with pytest.raises(TypeError, match=re.escape(f"found {wrong.shape} {wrong.dtype}")):
            tokens.append(wrong)
        assert tokens.n_tokens == 0
        tokens.finish()
    assert (tmp_path / "a").stat().st_size == 0


@FORMS
def test_bytes_after_the_checkpoint_are_thrown_away_at_once(tmp_path: Path, mapped: bool) -> None:
    some_tokens(5000).tofile(tmp_path / "a")
    with GrowingMemmap(tmp_path / "a", n_tokens=3001, mapped=mapped) as tokens:
        assert (tmp_path / "a").stat().st_size == 6002
        assert tokens.n_tokens == 3001
    assert (tmp_path / "a").read_bytes() == some_tokens(5000)[:3001].tobytes()


def test_a_file_shorter_than_its_checkpoint_is_an_error_and_stays_unchanged(tmp_path: Path) -> None:
    some_tokens(10).tofile(tmp_path / "a")
    with pytest.raises(OutputError, match=r"/a holds 10 tokens, but 11 were saved there.*--restart"):
        GrowingMemmap(tmp_path / "a", n_tokens=11)
    assert (tmp_path / "a").stat().st_size == 20


def test_a_file_that_cannot_be_opened_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=rf"{tmp_path} cannot be opened for writing: Is a directory"):
        GrowingMemmap(tmp_path)
    with pytest.raises(OutputError, match="missing/a cannot be opened for writing: No such file") as caught:
        GrowingMemmap(tmp_path / "missing" / "a")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_the_name_of_a_new_file_is_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    with GrowingMemmap(tmp_path / "a"):
        assert synced == [tmp_path.stat().st_ino]


@FORMS
def test_leaving_without_finish_leaves_the_file_and_the_error_alone(tmp_path: Path, mapped: bool) -> None:
    tokens = GrowingMemmap(tmp_path / "a", window_bytes=4096, mapped=mapped)
    with pytest.raises(KeyError, match="of the caller"), tokens:
        tokens.append(some_tokens(3000))
        raise KeyError("of the caller")
    tokens.close()
    assert tokens.n_tokens == 3000
    assert (tmp_path / "a").read_bytes()[:6000] == some_tokens(3000).tobytes()
    assert mapped_bytes(tmp_path / "a") == 0
    uses: list[Callable[[], None]] = [lambda: tokens.append(some_tokens(1)), tokens.sync, tokens.finish]
    for use in uses:
        with pytest.raises((ValueError, RuntimeError), match=r"closed|after shutdown"):
            use()


def test_a_platform_without_these_calls_writes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("posix_fallocate", "posix_fadvise", "pwrite", "O_DIRECTORY"):
        monkeypatch.delattr(os, name)
    with GrowingMemmap(tmp_path / "a", window_bytes=4096) as tokens:
        for seed in range(5):
            tokens.append(some_tokens(3000, seed))
            tokens.begin_sync()
        tokens.finish()
    expected = b"".join(some_tokens(3000, seed).tobytes() for seed in range(5))
    assert (tmp_path / "a").read_bytes() == expected


# Memory.


@FORMS
def test_at_most_one_window_is_mapped_and_none_after_a_sync(tmp_path: Path, mapped: bool) -> None:
    path = tmp_path / "a"
    with GrowingMemmap(path, window_bytes=64 << 10, mapped=mapped) as tokens:
        for seed in range(50):
            tokens.append(some_tokens(10_000, seed))
            assert mapped_bytes(path) <= 64 << 10
        assert (mapped_bytes(path) > 0) == mapped
        tokens.begin_sync()
        assert mapped_bytes(path) == 0
        tokens.append(some_tokens(1))
        tokens.sync()
        assert mapped_bytes(path) == 0


def write_through(path: str, n_bytes: int, mapped: bool) -> dict[str, int]:
    block = some_tokens(850_000)
    before, most_cached = peak_rss_bytes(), 0
    with GrowingMemmap(Path(path), mapped=mapped) as tokens:
        n_blocks = n_bytes // block.nbytes
        for number in range(n_blocks):
            tokens.append(block)
            if number > n_blocks // 2 and number % 5 == 0:
                tokens.begin_sync()
            if number % 10 == 0:
                most_cached = max(most_cached, cached_bytes(Path(path)))
        tokens.finish()
    return {"rss": peak_rss_bytes() - before, "most_cached": most_cached, "cached": cached_bytes(Path(path))}


@FORMS
def test_any_amount_takes_one_window_of_memory_and_leaves_nothing_in_the_page_cache(
    disks: Disks, mapped: bool
) -> None:
    path = disks.make("ext4", 400 * MIB).folder / "a"
    used = run_apart(write_through, path, 300 * MIB, mapped)
    assert used["rss"] <= 1.5 * WINDOW_BYTES
    assert used["most_cached"] <= 4 * WINDOW_BYTES
    assert used["cached"] == 0


@FORMS
def test_a_slow_disk_stops_the_writer_at_two_dirty_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped: bool
) -> None:
    tokens = GrowingMemmap(tmp_path / "a", window_bytes=64 << 10, mapped=mapped)
    disk_is_fast, fsync = threading.Event(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (disk_is_fast.wait(60), fsync(fd)))
    writer = threading.Thread(target=tokens.append, args=(some_tokens(5 * 32768),))
    writer.start()
    wait_until(lambda: tokens.n_tokens == 2 * 32768)  # the second window fills while the first is written
    time.sleep(0.2)
    assert tokens.n_tokens == 2 * 32768
    assert writer.is_alive()
    disk_is_fast.set()
    writer.join()
    tokens.finish()
    assert (tmp_path / "a").read_bytes() == some_tokens(5 * 32768).tobytes()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@FORMS
def test_begin_sync_lets_the_writer_continue_and_the_wait_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped: bool
) -> None:
    with GrowingMemmap(tmp_path / "a", window_bytes=64 << 10, mapped=mapped) as tokens:
        tokens.append(some_tokens(1001))
        disk_is_fast, fsync = threading.Event(), os.fsync
        monkeypatch.setattr(os, "fsync", lambda fd: (disk_is_fast.wait(60), fsync(fd)))
        waiter = threading.Thread(target=tokens.begin_sync())
        waiter.start()
        tokens.append(some_tokens(1001, 1))
        waiter.join(0.1)
        assert waiter.is_alive()
        disk_is_fast.set()
        waiter.join()
        tokens.finish()
    assert (tmp_path / "a").read_bytes() == some_tokens(1001).tobytes() + some_tokens(1001, 1).tobytes()


# Faults of disks.


def works(use: Callable[[], object]) -> bool:
    try:
        use()
    except (OSError, OutputError):
        return False
    return True


def fill_up(path: str, mapped: bool | None) -> dict[str, Any]:
    """Append until it fails; then return the file's state and the calls that still work."""
    block = some_tokens(100_003)
    with GrowingMemmap(Path(path), window_bytes=MIB, mapped=mapped) as tokens:
        tokens.append(block)
        was_mapped = mapped_bytes(Path(path)) > 0
        try:
            while True:
                tokens.append(block)
        except OutputError as error:
            message, cause = str(error), type(error.__cause__).__name__
        size_bytes = Path(path).stat().st_size
        can_journal = works(lambda: Path(path).with_name("journal").write_bytes(b"x" * 8192))
        can_sync = works(tokens.sync)
    content = np.fromfile(path, "<u2")
    n_blocks = len(content) // len(block)
    return {
        "message": message,
        "cause": cause,
        "was_mapped": was_mapped,
        "can_journal": can_journal,
        "can_sync": can_sync,
        "is_exact": size_bytes == tokens.n_tokens * 2 == n_blocks * block.nbytes,
        "is_right": bool(np.array_equal(content, np.tile(block, n_blocks))),
        "n_bytes": size_bytes,
    }


@pytest.mark.parametrize(
    ("kind", "is_mapped"), [("tmpfs", True), ("ext4", True), ("xfs", True), ("btrfs", False)]
)
def test_a_full_disk_is_an_error_that_leaves_whole_appends_and_room_to_save_them(
    disks: Disks, kind: str, is_mapped: bool
) -> None:
    disk = disks.make(kind, max(30 * MIB, MIN_BYTES[kind]))
    leave_free(disk.folder, 10 * MIB)
    result = run_apart(fill_up, disk.folder / "a.partial", None)
    assert result["was_mapped"] == is_mapped
    assert re.search(
        r"/a\.partial cannot take 200 kB more: No space left on device\. "
        r"It grows by up to 1\.0 MB at a time; \d.* are free there\. "
        r"Free some space and run the same command again",
        result["message"],
    )
    assert result["cause"] == "OSError"
    assert result["is_exact"]
    assert result["is_right"]
    assert result["can_sync"] == is_mapped  # a failed pwrite may report an earlier loss
    if is_mapped:  # btrfs frees space only at its next commit
        assert result["can_journal"]
    assert result["n_bytes"] > 4 * MIB


@FORMS
def test_an_append_longer_than_the_disk_is_refused_whole(disks: Disks, mapped: bool) -> None:
    folder = disks.make("ext4", 30 * MIB).folder
    with GrowingMemmap(folder / "a", window_bytes=MIB, mapped=mapped) as tokens:
        tokens.append(some_tokens(1001))
        with pytest.raises(OutputError, match=r"cannot take 100 MB more: No space left on device"):
            tokens.append(np.zeros(50_000_000, np.uint16))
        assert tokens.n_tokens == 1001
        assert mapped_bytes(folder / "a") == 0  # else the mapping would reach past the end of the file
    assert (folder / "a").read_bytes() == some_tokens(1001).tobytes()


def fill_up_below_a_limit(path: str, mapped: bool) -> dict[str, Any]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (5 * MIB, 5 * MIB))
    return fill_up(path, mapped)


@FORMS
def test_a_limit_of_the_file_size_is_an_error_that_names_it(tmp_path: Path, mapped: bool) -> None:
    result = run_apart(fill_up_below_a_limit, tmp_path / "a.partial", mapped)
    assert "cannot take 200 kB more: File too large" in result["message"]
    assert "Raise the limit on file sizes (ulimit -f)" in result["message"]
    assert result["is_exact"]
    assert result["is_right"]


def strace_injecting(fault: str, log: Path) -> tuple[str, ...]:
    """Return the beginning of a command that makes a system call fail; skip if tracing is forbidden."""
    strace = tool("strace")
    if subprocess.run([strace, "-o", "/dev/null", "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here")
    call = fault.split(":")[0]
    return (strace, "-f", "-qq", "-o", str(log), "-e", f"trace={call}", "-e", f"inject={fault}")


def test_an_exhausted_quota_is_an_error_that_names_it(tmp_path: Path) -> None:
    strace = strace_injecting("fallocate:error=EDQUOT:when=3", tmp_path / "log")
    result = run_apart(fill_up, tmp_path / "a.partial", True, under=strace)
    assert "more: Disk quota exceeded" in result["message"]
    assert "Free some of the quota" in result["message"]
    assert result["is_exact"]
    assert result["can_sync"]


def use_after_failed_sync(path: str, mapped: bool) -> dict[str, str]:
    """Let the second write-back fail, then try every call; return the message of each."""
    seen = {}
    with GrowingMemmap(Path(path), window_bytes=MIB, mapped=mapped) as tokens:
        tokens.sync()
        tokens.append(some_tokens(MIB // 2))  # a full window: its write-back fails in the background
        wait_until(lambda: tokens._failure is not None)
        uses: list[Callable[[], object]] = [
            lambda: tokens.append(some_tokens(1)),
            tokens.begin_sync,
            tokens.sync,
            tokens.finish,
        ]
        for number, use in enumerate(uses):
            try:
                use()
                seen[f"{number}"] = "no error"
            except OutputError as error:
                seen[f"{number}"] = f"{error} ({error.__cause__})"
    return seen


def use_without_addresses(path: str) -> dict[str, Any]:
    """Append when no window can be mapped, and again when it can."""
    with GrowingMemmap(Path(path), window_bytes=MIB, mapped=True) as tokens:
        tokens.append(some_tokens(MIB // 2, 0))
        used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used_bytes + MIB // 2, resource.RLIM_INFINITY))
        found = "no error"
        try:
            tokens.append(some_tokens(1000, 1))
        except MemoryError as error:
            found = f"{error} ({error.__cause__})"
        n_tokens = tokens.n_tokens
        tokens.sync()
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        tokens.append(some_tokens(1000, 2))
        tokens.finish()
    return {"found": found, "n_tokens": n_tokens}


def test_a_window_that_cannot_be_mapped_is_a_lack_of_memory_and_nothing_is_lost(tmp_path: Path) -> None:
    seen = run_apart(use_without_addresses, tmp_path / "a")
    assert "/a cannot take 2,000 bytes more ([Errno 12]" in seen["found"]
    assert seen["n_tokens"] == MIB // 2
    expected = np.concatenate([some_tokens(MIB // 2, 0), some_tokens(1000, 2)])
    assert np.array_equal(np.fromfile(tmp_path / "a", dtype="<u2"), expected)


def fsyncs(log: Path) -> list[str]:
    """Return the results of the file's fsyncs, in order; the first one in the log is the folder's."""
    return re.findall(r"fsync.* = (.*)", log.read_text())[1:]


@FORMS
def test_after_a_failed_sync_everything_is_refused_and_no_sync_is_tried_again(
    tmp_path: Path, mapped: bool
) -> None:
    strace = strace_injecting("fsync:error=EIO:when=2", tmp_path / "log")
    seen = run_apart(use_after_failed_sync, tmp_path / "a.partial", mapped, under=strace)
    assert len(seen) == 4
    for message in seen.values():
        assert "/a.partial could not be written to the disk: Input/output error" in message
        assert "[Errno 5]" in message
    assert fsyncs(tmp_path / "log") == ["0", "-1 EIO (Input/output error) (INJECTED)"]


def queue_syncs(path: str, mapped: bool) -> dict[str, int]:
    """Queue three syncs before the first of them, the second of all, has failed; count the errors."""
    go, fsync = threading.Event(), os.fsync
    waits, n_errors = [], 0
    with GrowingMemmap(Path(path), window_bytes=MIB, mapped=mapped) as tokens:
        tokens.sync()
        os.fsync = lambda fd: (go.wait(60), fsync(fd))  # type: ignore[assignment] # a gate
        for seed in range(3):
            tokens.append(some_tokens(1000, seed))
            waits.append(tokens.begin_sync())
        go.set()
        for wait in waits:
            try:
                wait()
            except OutputError:
                n_errors += 1
    return {"n_errors": n_errors}


@FORMS
def test_syncs_queued_after_a_failed_one_fail_too_without_being_tried(tmp_path: Path, mapped: bool) -> None:
    strace = strace_injecting("fsync:error=EIO:when=2", tmp_path / "log")
    assert run_apart(queue_syncs, tmp_path / "a", mapped, under=strace) == {"n_errors": 3}
    assert fsyncs(tmp_path / "log") == ["0", "-1 EIO (Input/output error) (INJECTED)"]


def write_until_it_fails(path: str, mapped: bool) -> dict[str, Any]:
    block, errors = some_tokens(100_003), []
    with GrowingMemmap(Path(path), window_bytes=MIB, mapped=mapped) as tokens:
        tokens.append(block)
        tokens.sync()
        n_synced = tokens.n_tokens
        for _ in range(2):
            try:
                while True:
                    tokens.append(block)
            except OutputError as error:
                errors.append(str(error))
        try:
            tokens.sync()
        except OutputError as error:
            errors.append(str(error))
    return {"errors": errors, "n_bytes": tokens.n_tokens * 2, "n_synced": n_synced}


@FORMS
def test_a_disk_that_loses_writes_it_accepted_is_an_error_for_good(disks: Disks, mapped: bool) -> None:
    # With a journal, the file system could become read-only before a sync fails.
    disk = disks.make("ext4", 100 * MIB, "-O", "^has_journal")
    assert file_system(disk.image) == "tmpfs"
    leave_free(disk.image.parent, 20 * MIB)  # the disk can hold no more, and does not know it
    result = run_apart(write_until_it_fails, disk.folder / "a.partial", mapped)
    assert result["n_bytes"] < 60 * MIB
    assert len(result["errors"]) == 3
    for message in result["errors"]:
        assert "a.partial could not be written to the disk" in message


def append_after_shutdown(folder: str, mapped: bool) -> dict[str, Any]:
    """Shut the file system down between the allocation and the store of one append."""
    path = Path(folder) / "a.partial"
    with GrowingMemmap(path, window_bytes=16 * MIB, mapped=mapped) as tokens:
        tokens.append(some_tokens(1001))
        shut_down = Disk(Path(folder), path).cut_power
        try:
            with patch.object(tokens._form, "reserve", lambda _: shut_down()):
                tokens.append(some_tokens(8_000_000))  # more than became writable with the first page
            tokens.sync()
        except OutputError as error:
            return {"message": str(error), "mapped_bytes": mapped_bytes(path)}
    return {}


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
@FORMS
def test_a_file_system_that_shuts_down_is_an_error(disks: Disks, kind: str, mapped: bool) -> None:
    folder = disks.make(kind, max(64 * MIB, MIN_BYTES[kind])).folder
    result = run_apart(append_after_shutdown, folder, mapped)
    found = "could not be written to the disk" if kind == "ext4" and mapped else "cannot take 16.0 MB more"
    assert f"a.partial {found}: Input/output error" in result["message"]
    assert result["mapped_bytes"] == 0


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
@FORMS
def test_after_a_power_cut_everything_before_the_last_sync_is_there(
    disks: Disks, kind: str, mapped: bool
) -> None:
    disk = disks.make(kind, max(64 * MIB, MIN_BYTES[kind]))
    synced, later = some_tokens(1_500_001), some_tokens(700_001, 1)
    with GrowingMemmap(disk.folder / "a", window_bytes=MIB, mapped=mapped) as tokens:
        tokens.append(synced)
        wait = tokens.begin_sync()
        tokens.append(later)
        wait()
    disk.cut_power()
    disk.remount_after_cut()
    with GrowingMemmap(disk.folder / "a", n_tokens=len(synced), mapped=mapped) as tokens:
        tokens.append(later)
        tokens.finish()
    disk.cut_power()
    disk.remount_after_cut()
    assert (disk.folder / "a").read_bytes() == synced.tobytes() + later.tobytes()
