"""System calls that fail, one at a time: a clear error, nothing partial, and the next run resumes.

By default the first, the middle and the last call of a kind fail. `python -m pytest -m slow -s
tests/test_failing_calls.py` lets every call fail in every way, in a fresh run and in a resumed one: some 750
faults.
"""

import errno
import os
import random
import shutil
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests import faults
from tests.failing import Call, FailingCalls, Fault, read_log
from tests.faults import SMALL_SHUFFLE, Args, Expected, expect, make_text

pytestmark = pytest.mark.costly

Done = subprocess.CompletedProcess[str]

WAYS = {
    "mkdir": ["EIO", "ENOSPC"],
    "open": ["EIO", "ENOSPC"],
    "flock": ["EIO", "ENOSYS"],
    "write": ["EIO", "ENOSPC", "short"],
    "fallocate": ["EIO", "ENOSPC", "EDQUOT"],
    "reserve": ["ENOSPC", "EOPNOTSUPP"],
    "ftruncate": ["EIO"],
    "mmap": ["ENOMEM", "EIO"],
    "madvise": ["ENOMEM", "EINVAL"],  # EINVAL: Linux before 5.14
    "pwrite": ["EIO", "ENOSPC", "short"],
    "fsync": ["EIO", "ENOSPC"],  # ENOSPC: NFS and thin volumes find out here
    "fdatasync": ["EIO", "ENOSPC"],
    "rename": ["EIO", "ENOSPC"],
    "unlink": ["EIO"],
    "rmdir": ["EIO"],
}
SYNCS = ("fsync", "fdatasync")
SETTINGS: dict[str, Any] = {"every_bytes": 80_000, "window_bytes": 1 << 16, **SMALL_SHUFFLE}
# These may fail without harm to the final files: the remaining files are hidden, and the next run removes
# them.
MAY_FAIL = {"unlink", "rmdir"}
BEGUN = ["nothing", "a part", "nothing, with an index", "nothing of a shuffle", "its second pass"]
TIMES = pytest.mark.parametrize(
    "times", ["first, middle, last", pytest.param("every", marks=pytest.mark.slow)]
)


@dataclass(frozen=True)
class Scene:
    """A run in which calls fail: its folder at the start, and its result if none fails."""

    args: tuple[str | Path, ...]
    begin: Path
    expected: Expected
    calls: Counter[str]  # how often it makes each
    is_mapped: bool
    failing_calls: FailingCalls

    def run(self, out: Path, log: Path, fault: Fault | None) -> Done:
        shutil.rmtree(out, ignore_errors=True)
        log.unlink(missing_ok=True)
        shutil.copytree(self.begin, out)
        prefix = self.failing_calls.prefix(out, log, fault)
        return faults.run(*self.args, "--output-dir", out, prefix=prefix, mapped=self.is_mapped, **SETTINGS)


class Scenes:
    """The runs by the state of the folder at the start, each made when a test first asks for it."""

    def __init__(self, folder: Path, failing_calls: FailingCalls) -> None:
        self.folder = folder
        self.failing_calls = failing_calls
        plain: Args = ("--input", make_text(folder / "a.txt", 600_000), "--block-size", "30000")
        documents = (*plain, "--document-separator", r"\n", "--index")
        shuffled = (*documents, "--shuffle")
        self.args = dict(zip(BEGUN, (plain, plain, documents, shuffled, shuffled), strict=True))
        self.expected = cache(self._expect)
        self.begin = cache(self._begin)
        self.get = cache(self._make)

    def _expect(self, args: Args) -> Expected:
        return expect(self.folder / f"expected of {len(args)}", *args, **SETTINGS)

    def _begin(self, begun: str) -> Path:
        at = {BEGUN[1]: "write journal", BEGUN[4]: "fallocate train.bin.partial"}.get(begun)
        folder = self.folder / begun
        if at:
            done = faults.run(*self.args[begun], "--output-dir", folder, at=at, skip=3, **SETTINGS)
            assert done.returncode == -9
        folder.mkdir(exist_ok=True)
        return folder

    def _make(self, begun: str, is_mapped: bool) -> Scene:
        args = self.args[begun]
        begin, expected, out, log = (
            self.begin(begun),
            self.expected(args),
            self.folder / "out",
            self.folder / "log",
        )
        scene = Scene(args, begin, expected, Counter(), is_mapped, self.failing_calls)
        assert scene.run(out, log, None).returncode == 0
        expected.assert_reached(out)
        scene.calls.update(call.name for call in read_log(log))
        return scene


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory, failing_calls: FailingCalls) -> Scenes:
    return Scenes(tmp_path_factory.mktemp("scenes"), failing_calls)


def places(scene: Scene, call: str, way: str, times: str) -> list[int]:
    """Choose the calls that fail, from 1: three in the first way, and one of these in each other way."""
    n_calls = scene.calls[call]
    if times == "every":
        return list(range(1, n_calls + 1))
    three = sorted({1, (n_calls + 1) // 2, n_calls} - {0})
    return three if way == WAYS[call][0] else random.Random(call + way).sample(three, 1)


def the_failed(fault: Fault, calls: list[Call]) -> int | None:
    """Return the index of the failed call, or None if this run made fewer of them: threads vary."""
    same = [index for index, call in enumerate(calls) if call.name == fault.call]
    return same[fault.at - 1] if fault.at <= len(same) else None


def assert_ended_well(done: Done, fault: Fault, calls: list[Call], out: Path) -> None:
    failed = the_failed(fault, calls)
    if failed is None:
        assert done.returncode == 0, done.stderr
        return
    path = calls[failed].path
    if fault.way == "kill":
        assert done.returncode == -9, done.stderr
        return
    assert "Traceback" not in done.stderr
    if fault.call in SYNCS:
        assert done.returncode == 4, f"a sync of {path} failed, and the run continued"
        later = [call for call in calls[failed + 1 :] if call.name in SYNCS]
        assert path not in [call.path for call in later], "a sync that failed was tried again"
    if done.returncode == 0:
        assert fault.call in MAY_FAIL or is_harmless(fault, path), f"{path} failed unnoticed"
        return
    if fault.way == "ENOMEM":
        assert done.returncode == 75, done.stderr
        assert "prepare: stopped: the system refused memory" in done.stderr
        return
    assert done.returncode == 4, done.stderr
    error = done.stderr[done.stderr.index("prepare: error: ") :]
    assert str(out) in error
    if fault.way != "short":
        assert os.strerror(getattr(errno, fault.way)) in error
    assert "the same command" in error


def is_harmless(fault: Fault, path: Path) -> bool:
    """Whether a run has good reason to continue after this call has failed."""
    return (
        (fault.call == "mkdir" and path.name == ".prepare")  # it was there already
        or (fault.call == "flock" and fault.way == "ENOSYS")  # host, boot and process are compared instead
        or (fault.call == "madvise" and fault.way == "EINVAL")  # a precaution: the store itself does it
        or fault.call == "reserve"  # room for later, which may be missing
        or (fault.call == "rename" and path.name == "lock")  # tried again, as if another run had held it
        or (fault.way == "short" and path.name != "journal")  # the rest is written by a second call
    )


def run_all(chosen: list[tuple[Scene, Fault]], folder: Path) -> Counter[int]:
    """Let each of these faults happen, check the files, and run again; count the exit codes."""

    def run_one(number: int) -> Done:
        scene, fault = chosen[number]
        return scene.run(folder / f"out{number}", folder / f"log{number}", fault)

    codes = Counter[int]()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, done in enumerate(pool.map(run_one, range(len(chosen)))):
            scene, fault = chosen[number]
            out = folder / f"out{number}"
            scene.expected.assert_nothing_partial(out)
            assert_ended_well(done, fault, read_log(folder / f"log{number}"), out)
            again = faults.prepare(*scene.args, "--output-dir", out)
            assert again.returncode == 0, again.stderr
            scene.expected.assert_reached(out)
            shutil.rmtree(out)
            codes[done.returncode] += 1
    return codes


@pytest.mark.sample(5)
@TIMES
@pytest.mark.parametrize("call", WAYS)
def test_a_call_that_fails_is_reported_and_the_same_command_resumes(
    call: str, times: str, scenes: Scenes, tmp_path: Path
) -> None:
    chosen = []
    for way in [*WAYS[call], "kill"]:
        for begun in BEGUN if times == "every" else random.Random(call + way).sample(BEGUN, 1):
            scene = scenes.get(begun, call != "pwrite")
            chosen += [(scene, Fault(call, at, way)) for at in places(scene, call, way, times)]
    assert chosen, f"the program makes no {call}"
    codes = run_all(chosen, tmp_path)
    print(f"{call}: {len(chosen)} faults; exit codes {dict(codes)}")  # noqa: T201 - for pytest -s


def test_the_program_calls_no_msync_since_fsync_writes_what_was_mapped(
    scenes: Scenes,
) -> None:
    assert not any(scenes.get(begun, True).calls["msync"] for begun in BEGUN)


def test_folders_above_the_journal_are_durable_before_the_first_record(
    failing_calls: FailingCalls, tmp_path: Path
) -> None:
    folder, log = tmp_path / "folder", tmp_path / "log"
    folder.mkdir()
    args = ("--input", make_text(tmp_path / "a.txt", 600_000), "--output-dir", folder / "one" / "two")
    assert faults.run(*args, prefix=failing_calls.prefix(folder, log)).returncode == 0
    calls = [call for call in read_log(log) if call.name in ("mkdir", *SYNCS)]
    work = folder / "one" / "two" / ".prepare"
    first_record = calls.index(Call("fdatasync", work / "journal"))
    for one in (work, *work.parents[:2]):
        made = calls.index(Call("mkdir", one), 0, first_record)
        assert Call("fsync", one.parent) in calls[made:first_record], one


@TIMES
def test_a_disk_on_which_every_sync_fails_from_some_time_on_keeps_the_checkpoint_before(
    times: str, scenes: Scenes, tmp_path: Path
) -> None:
    scene = scenes.get("a part", True)
    chosen = places(scene, "fsync", "EIO", times)
    codes = run_all([(scene, Fault("fsync", at, "EIO", for_good=True)) for at in chosen], tmp_path)
    assert set(codes) <= {0, 4}  # 0 if threads made a call less
