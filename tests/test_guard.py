"""The guard on this machine: real figures, real children that take memory, real limits of the kernel."""

import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from nanogpt_compat.encoders.interface import Encoder
from nanogpt_compat.errors import MemoryLimitError, TooSmallError
from nanogpt_compat.memory import guard, limits, malloc, policy
from nanogpt_compat.memory.guard import MemoryGuard, Sampler, check_fits, describe_abort, describe_limits
from nanogpt_compat.memory.policy import Level, Reading, Step
from nanogpt_compat.text.blocks import Need
from tests.faults import settled_available_bytes

pytestmark = [pytest.mark.alone, pytest.mark.costly]

MIB, GIB, MB, GB = 1 << 20, 1 << 30, 10**6, 10**9
PLENTY = Reading("--max-memory", "the command line", 4 * GIB, 1 * GIB)
NEAR = Reading("--max-memory", "the command line", 4 * GIB, 4 * GIB - 500 * MIB)
FULL = Reading("--max-memory", "the command line", 4 * GIB, 4 * GIB - 100 * MIB)


class Scripted(Sampler):
    """Returns the readings that it was given."""

    def __init__(self, *readings: Reading) -> None:
        super().__init__()
        self.readings = list(readings)
        self.error: BaseException | None = None

    def sample(self, *, is_fresh: bool = False) -> list[Reading]:
        if self.error is not None:
            raise self.error
        return self.readings


def wait_until(is_so: Callable[[], bool], *, timeout_s: float, what: str) -> float:
    """Wait and return how many seconds it took."""
    start_s = time.monotonic()
    while not is_so():
        if time.monotonic() - start_s > timeout_s:
            pytest.fail(f"waited {timeout_s} s for {what}")
        time.sleep(0.005)
    return time.monotonic() - start_s


def run_python(code: str, *, timeout_s: float = 60) -> str:
    """Run `code` in a fresh interpreter and return what it prints."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Sampling


def test_the_machine_and_the_options_give_a_reading_each() -> None:
    sampler = Sampler(max_memory_bytes=3 * GB, min_available_bytes=5 * MIB)
    found = {reading.name: reading for reading in sampler.sample()}
    assert found["MemAvailable"].floor_bytes == 5 * MIB
    assert found["--max-memory"].limit_bytes == 3 * GB
    assert 10 * MIB < found["--max-memory"].used_bytes < 3 * GB


def test_a_near_limit_is_read_at_every_poll_and_a_far_one_twice_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, read = [1000.0], list[str]()

    def note(what: str, reading: Reading) -> Callable[..., Reading]:
        def take(*_: object) -> Reading:
            read.append(what)
            return reading

        return take

    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(limits, "read_available", note("far", PLENTY))
    monkeypatch.setattr(limits, "read_own_use", note("near", FULL))
    sampler = Sampler(max_memory_bytes=GIB, root=tmp_path)
    for _ in range(20):
        assert sampler.sample() == [PLENTY, FULL]
        now_s[0] += 0.0501
    assert (read.count("near"), read.count("far")) == (20, 2)


def v2_machine(root: Path, *, limit: str, current: int = 100 * MIB) -> Path:
    """Lay out a machine with one v2 cgroup below `root` and return the cgroup's folder."""
    folder = root / "sys/fs/cgroup/job"
    folder.mkdir(parents=True)
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    (root / "proc/self/cgroup").write_text("0::/job\n")
    (folder / "memory.max").write_text(limit)
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text("inactive_file 0\nactive_file 0\n")
    return folder


def test_a_limit_that_shrinks_while_running_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "REFRESH_EVERY_S", 0.2)
    folder = v2_machine(tmp_path, limit="max\n")
    with MemoryGuard(Sampler(root=tmp_path)) as watched:
        assert watched.state.level is Level.OK
        (folder / "memory.max").write_text(f"{130 * MIB}\n")
        wait_until(lambda: watched.state.level is Level.THROTTLE, timeout_s=2, what="THROTTLE")
        (folder / "memory.max").write_text(f"{105 * MIB}\n")
        wait_until(watched.aborting.is_set, timeout_s=2, what="ABORT")
        assert str(folder / "memory.max") in watched.explain()


def test_a_signal_that_cannot_be_read_is_dropped_with_one_debug_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(guard, "REFRESH_EVERY_S", 0.0)  # so that every sample tries again
    folder = v2_machine(tmp_path, limit=f"{GIB}\n")
    (folder / "memory.stat").write_text("garbled\n")
    sampler = Sampler(root=tmp_path)
    for _ in range(5):
        assert [reading.name for reading in sampler.sample()] == ["MemAvailable"]
    assert len(caplog.records) == 1
    assert "memory.max" in caplog.text
    assert caplog.records[0].levelno == logging.DEBUG
    (folder / "memory.stat").write_text("inactive_file 0\nactive_file 0\n")
    assert [reading.name for reading in sampler.sample()] == ["MemAvailable", "cgroup memory.max"]


def test_a_dropped_signal_is_not_tried_again_at_every_poll(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def fail() -> None:
        calls.append(1)
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "virtual_memory", fail)
    sampler = Sampler()
    for _ in range(10):
        assert sampler.sample() == []
    assert len(calls) == 1


def test_a_machine_without_readings_neither_throttles_nor_aborts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: (_ for _ in ()).throw(OSError("no /proc")))
    with MemoryGuard(Sampler()) as watched:
        time.sleep(0.2)
        assert watched.state.level is Level.OK
        assert watched.budget_bytes == 64 * MIB
        assert watched.admit(60 * MIB, 1)
        assert not watched.admit(64 * MIB, 1)


def test_a_child_that_cannot_be_listed_does_not_hide_our_own_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(self: psutil.Process, recursive: bool = False) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "children", deny)
    assert "--max-memory" in {reading.name for reading in Sampler(max_memory_bytes=GIB).sample()}


# Admission and steps


def test_the_first_block_is_always_admitted() -> None:
    watched = MemoryGuard(Scripted(FULL), most_bytes=MIB, smallest_bytes=MIB)
    watched.poll()
    watched.poll()
    assert watched.admit(GIB, 0)
    assert not watched.admit(1, 1)


def test_blocks_are_admitted_up_to_the_budget() -> None:
    watched = MemoryGuard(Scripted(PLENTY), most_bytes=100 * MIB)
    watched.poll()
    assert watched.admit(40 * MIB, 60 * MIB)
    assert not watched.admit(41 * MIB, 60 * MIB)


def test_a_block_is_admitted_into_half_of_what_is_left_above_the_reserve() -> None:
    watched = MemoryGuard(Scripted(NEAR, PLENTY), most_bytes=GIB)  # 500 - 256 MiB
    watched.poll()
    assert watched.admit(122 * MIB, 1)
    assert not watched.admit(123 * MIB, 1)


@pytest.mark.parametrize(
    ("private", "others_mib", "need_mib", "error"),
    [
        (True, 0, 100, None),
        (True, 0, 450, TooSmallError),
        (False, 0, 100, None),
        (False, 0, 450, TooSmallError),
        (False, 200, 100, None),
        (False, 350, 100, MemoryLimitError),  # alone it would fit
        (False, 350, 450, TooSmallError),
    ],
)
def test_a_record_that_does_not_fit_is_refused_for_good_unless_others_hold_the_memory(
    private: bool,
    others_mib: int,
    need_mib: int,
    error: type[Exception] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own_bytes = 200 * MIB  # as below
    limit_bytes = policy.limit_for(own_bytes + 425 * MIB)
    limit = Reading("limit", "set", limit_bytes, own_bytes + others_mib * MIB, private=private)
    sampler, need = Scripted(PLENTY), Need("file: line 3 has 1 MB", need_mib * MIB, need_mib * MIB)
    monkeypatch.setattr(sampler, "own_bytes", lambda: own_bytes)
    with MemoryGuard(sampler, smallest_bytes=MIB) as watched:
        sampler.readings = [limit, PLENTY]
        if error is None:
            watched.check_room(need_mib * MIB, lambda: need)
            return
        with pytest.raises(
            error, match=r"^file: line 3 has 1 MB, which needs up to \d+ MB of memory; limit"
        ) as found:
            watched.check_room(need_mib * MIB, lambda: need)
    assert getattr(found.value, "smaller_helps", False) is False
    assert ("running it again unchanged will not help" in str(found.value)) == (error is TooSmallError)


def test_the_memory_that_a_refusal_advises_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    own_bytes = 200 * MIB  # not that of this process, which may free memory of earlier tests
    limit = Reading("--max-memory", "the command line", own_bytes + 100 * MIB, own_bytes, private=True)
    sampler, need = Scripted(PLENTY), Need("it", 200 * MIB, 300 * MIB)
    monkeypatch.setattr(sampler, "own_bytes", lambda: own_bytes)
    with MemoryGuard(sampler, smallest_bytes=MIB) as watched:
        sampler.readings = [limit]
        with pytest.raises(TooSmallError) as found:
            watched.check_room(200 * MIB, lambda: need)
        enough_bytes = found.value.enough_max_memory_bytes
        assert enough_bytes is not None
        sampler.readings = [replace(limit, limit_bytes=enough_bytes)]
        watched.check_room(300 * MIB, lambda: need)


def test_throttling_hands_out_its_steps_and_halves_what_may_be_in_flight() -> None:
    sampler = Scripted(PLENTY)
    with MemoryGuard(sampler, most_bytes=100 * MIB, smallest_bytes=40 * MIB) as watched:
        assert watched.take_step() is None
        assert watched.in_flight_bytes == 100 * MIB
        sampler.readings = [NEAR]
        steps = list[Step]()

        def take() -> bool:
            step = watched.take_step()
            steps.extend([] if step is None else [step])
            return len(steps) == 4

        took_s = wait_until(take, timeout_s=6, what="four steps")
    assert steps == [Step.FLUSH, Step.DROP_CACHES, Step.HALVE, Step.HALVE]
    assert 2.9 < took_s < 4.5
    assert watched.in_flight_bytes == 40 * MIB  # not 25: the smallest
    assert "tried: flushed and dropped output pages, dropped the engine's caches, halved" in watched.explain()


def test_steps_that_are_not_taken_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(seconds)))
    watched = MemoryGuard(Scripted(NEAR), most_bytes=GIB)
    for _ in range(100):
        watched.poll()
    assert {watched.take_step() for _ in range(3)} == set(Step)
    assert watched.take_step() is None
    assert watched.in_flight_bytes == policy.SMALLEST_BYTES


def test_trimming_the_heap_returns_freed_memory() -> None:
    grown = run_python(
        """
        import psutil
        from nanogpt_compat.memory.guard import Sampler
        from nanogpt_compat.memory.malloc import trim_heap
        sampler = Sampler()
        trim_heap()
        start = sampler.own_bytes()
        blocks = [bytes(100_000) + bytes([i % 256]) for i in range(1500)]
        keep = blocks[-1]  # at the end of the heap: free() cannot shrink it
        del blocks
        trim_heap()
        print(sampler.own_bytes() - start)
        """
    )
    assert int(grown) < 20 * MIB


def test_an_older_psutil_without_heap_trim_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(psutil, "heap_trim", raising=False)
    malloc.trim_heap()


# Before starting, and messages


def test_a_limit_below_our_own_smallest_use_is_refused_for_good() -> None:
    mine = Reading("--max-memory", "the command line", 100 * MB, 80 * MB, private=True)
    with pytest.raises(TooSmallError, match=r"need 127 MB.*--max-memory.*is 100 MB, 15\.0 MB kept.*80\.0 MB"):
        check_fits([PLENTY, mine], own_bytes=0, smallest_bytes=32 * MB)
    shared = Reading("cgroup memory.max", "/memory.max", 100 * MB, 60 * MB)
    with pytest.raises(TooSmallError):
        check_fits([shared], own_bytes=60 * MB, smallest_bytes=32 * MB)


def test_memory_that_others_hold_now_is_refused_for_now() -> None:
    machine = Reading("MemAvailable", "the machine", 4 * GIB, 4 * GIB - 260 * MIB)
    with pytest.raises(MemoryLimitError, match=r"need 384 MB.*MemAvailable.*is 4\.3 GB.*other programs"):
        check_fits([machine], own_bytes=80 * MIB, smallest_bytes=30 * MIB)


def test_a_run_that_just_fits_may_start() -> None:
    mine = Reading("--max-memory", "the command line", 100 * MB, 80 * MB, private=True)
    check_fits([mine], own_bytes=0, smallest_bytes=5 * MB)
    with pytest.raises(TooSmallError):
        check_fits([mine], own_bytes=0, smallest_bytes=5 * MB + 1)


def test_advice_refuses_nothing() -> None:
    check_fits([Reading("MemAvailable", "x", GIB, GIB, advisory=True)], own_bytes=0, smallest_bytes=MIB)


def test_a_guard_that_cannot_start_leaves_no_thread() -> None:
    before = threading.active_count()
    with pytest.raises(TooSmallError), MemoryGuard(Sampler(max_memory_bytes=20 * MIB)):
        pytest.fail("it started")
    assert threading.active_count() == before


def test_the_start_line_names_what_is_free_and_the_limit_that_is_set() -> None:
    machine = Reading("MemAvailable", "the machine", 25 * GB, 2 * GB)
    cgroup = Reading("cgroup memory.max", "/sys/fs/cgroup/memory.max", 4 * GB, GB)
    looser = Reading("--max-memory", "the command line", 20 * GB, GB)
    expected = "memory: 23.0 GB available, limit 4.0 GB from cgroup memory.max, reserve 268 MB, budget 1.0 GB"
    assert describe_limits([machine, looser, cgroup], GB) == expected
    assert describe_limits([machine], GB) == "memory: 23.0 GB available, reserve 537 MB, budget 1.0 GB"
    assert describe_limits([], 64 * MB) == "memory: budget 64.0 MB"


def test_the_last_message_names_the_limit_its_source_the_use_and_what_was_tried() -> None:
    cgroup = Reading("cgroup memory.max", "/sys/fs/cgroup/job/memory.max", 4 * GB, 3800 * MB)
    message = describe_abort(cgroup, {Step.FLUSH: 1, Step.HALVE: 3})
    assert message == (
        "memory is about to run out: cgroup memory.max (/sys/fs/cgroup/job/memory.max) is 4.0 GB, "
        "268 MB kept in reserve, 3.8 GB in use. tried: flushed and dropped output pages, halved the work in "
        "flight 3 times"
    )
    assert "nothing, it came too fast" in describe_abort(cgroup, {})
    assert describe_abort(None, {}, refused=True).startswith("the system refused memory. tried")


# The thread


def test_the_guard_watches_while_it_is_entered_and_not_after() -> None:
    before = threading.active_count()
    with MemoryGuard(Sampler()) as watched:
        assert threading.active_count() == before + 1
        assert watched.state.level is Level.OK
        assert not watched.aborting.is_set()
        assert policy.SMALLEST_BYTES <= watched.budget_bytes <= GIB
        message = describe_limits(watched.readings, watched.budget_bytes)
        assert message.startswith("memory: ")
    assert threading.active_count() == before
    assert watched.summary()["state_changes"] == 0


def test_memory_refused_to_the_monitor_itself_is_an_answer() -> None:
    sampler = Scripted(PLENTY)
    with MemoryGuard(sampler) as watched:
        sampler.error = MemoryError()
        wait_until(watched.aborting.is_set, timeout_s=2, what="ABORT")
    assert watched.explain().startswith("the system refused memory: --max-memory")


def test_memory_refused_to_the_pipeline_takes_the_same_way_out() -> None:
    with MemoryGuard(Scripted(PLENTY)) as watched:
        watched.abort()
        assert watched.aborting.is_set()
    assert "refused" in watched.explain()


def test_the_lowest_headroom_is_remembered() -> None:
    sampler = Scripted(PLENTY)
    watched = MemoryGuard(sampler)
    for readings in ([PLENTY], [NEAR, PLENTY], [PLENTY]):
        sampler.readings = readings
        watched.poll()
    assert watched.summary() == {
        "state_changes": 1,
        "lowest_headroom_bytes": 500 * MIB,
        "lowest_headroom_of": "--max-memory",
    }


class Timed(Sampler):
    """Records the times of its calls."""

    def __init__(self) -> None:
        super().__init__(max_memory_bytes=8 * GB)
        self.at_s = list[float]()

    def sample(self, *, is_fresh: bool = False) -> list[Reading]:
        readings = super().sample(is_fresh=is_fresh)
        self.at_s.append(time.monotonic())
        return readings


def worst_delay_s(encode: Callable[[], object]) -> float:
    """Encode on every CPU and return the worst delay of a poll; one is due every 50 ms."""
    sampler, n_threads = Timed(), os.cpu_count() or 1
    with ThreadPoolExecutor(n_threads) as pool, MemoryGuard(sampler):
        start_s = time.monotonic()
        while time.monotonic() < start_s + 0.6:
            for future in [pool.submit(encode) for _ in range(4 * n_threads)]:
                future.result()
        end_s = time.monotonic()
    at_s = [start_s, *(at for at in sampler.at_s if start_s < at < end_s), end_s]
    assert len(at_s) > 5
    return max(later - earlier for earlier, later in pairwise(at_s)) - 0.05


def test_the_monitor_looks_in_time_while_blocks_are_encoded(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "poll_delay_s", lambda _readings: 0.05)
    text = b"The quick brown fox jumps over the lazy dog, and thinks nothing of it. " * (8 * MB // 71)
    # The best of three: other programs cause most delays on a shared machine (8 ms alone).
    delays_s = list[float]()
    while len(delays_s) < 3 and min(delays_s, default=1.0) >= 0.2:
        delays_s.append(worst_delay_s(lambda: encoder.encode(text)))
    assert min(delays_s) < 0.2


def test_many_polls_take_no_memory() -> None:
    grown = run_python(
        """
        from nanogpt_compat.memory import policy
        from nanogpt_compat.memory.guard import MemoryGuard, Sampler
        policy.poll_delay_s = lambda readings: 0.0  # so that every poll reads every limit
        sampler = Sampler(max_memory_bytes=10**9)
        watched = MemoryGuard(sampler)
        for _ in range(2_000): watched.poll()
        before = sampler.own_bytes()
        for _ in range(20_000): watched.poll()
        print(sampler.own_bytes() - before)
        """
    )
    assert int(grown) < 256 * 1024


# Real memory, taken


HOG = """
import sys, time
held = []
for line in sys.stdin:
    n_mib = int(line)
    while sum(map(len, held)) < n_mib << 20:
        held.append(bytearray(b"x") * (64 << 20))
        time.sleep(0.1)
    if not n_mib:
        held.clear()
    print(flush=True)
"""


class Hog:
    """A child that takes a given amount of memory, 64 MiB every 100 ms, or gives all back."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", HOG]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._start_bytes = limits.read_available().headroom_bytes
        self._held_bytes = 0
        self.drift_bytes = 0  # the most that others took or gave back meanwhile

    def __enter__(self) -> "Hog":
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.communicate()

    def hold(self, n_bytes: int) -> None:
        assert self._child.stdin and self._child.stdout
        self._child.stdin.write(f"{n_bytes // MIB}\n")
        self._child.stdin.flush()
        self._child.stdout.readline()
        self._held_bytes = n_bytes
        self.look_for_others()

    def look_for_others(self) -> None:
        taken_bytes = self._start_bytes - limits.read_available().headroom_bytes
        self.drift_bytes = max(self.drift_bytes, abs(taken_bytes - self._held_bytes))

    def grow_until(self, is_so: Callable[[], bool], *, expected_bytes: int) -> None:
        """Grow to the expected size, or up to 1 GiB more if other programs free as much."""
        for n_mib in range(64, expected_bytes // MIB + 1024, 64):
            if is_so():
                return
            self.hold(n_mib * MIB)
        wait_until(is_so, timeout_s=1, what="the level to change")


def floor_for(*, throttle_after_bytes: int) -> tuple[int, policy.Reserves]:
    """Choose a `--min-available` that throttles after this many more bytes are in use here."""
    settled_available_bytes()
    now = limits.read_available()
    usual = policy.reserves_for(now)
    floor_bytes = now.headroom_bytes - throttle_after_bytes - (usual.throttle_bytes - usual.abort_bytes)
    if floor_bytes < 0:
        pytest.skip(f"there is too little memory for a hog: {now.headroom_bytes / GB:.1f} GB")
    return floor_bytes, usual


def on_a_quiet_machine(test: Callable[[Hog], None]) -> None:
    """Run a test that depends on available memory; repeat it only if others took or freed memory."""
    for attempts_left in (4, 3, 2, 1, 0):
        with Hog() as hog:
            try:
                test(hog)
                break
            except (AssertionError, pytest.fail.Exception):
                hog.look_for_others()
                if not attempts_left or hog.drift_bytes < 128 * MIB:
                    raise


def test_a_program_that_takes_memory_makes_us_throttle_and_then_abort() -> None:
    def test(hog: Hog) -> None:
        floor_bytes, usual = floor_for(throttle_after_bytes=200 * MIB)
        seen = list[Level]()
        with MemoryGuard(Sampler(min_available_bytes=floor_bytes)) as watched:

            def is_aborting() -> bool:
                seen.append(watched.state.level)
                return watched.aborting.is_set()

            zone_bytes = usual.throttle_bytes - usual.abort_bytes
            hog.grow_until(is_aborting, expected_bytes=200 * MIB + zone_bytes)
            lowest = watched.summary()["lowest_headroom_bytes"]
            message = watched.explain()
        assert list(dict.fromkeys(seen)) == [Level.OK, Level.THROTTLE, Level.ABORT]
        assert "MemAvailable (the machine, --min-available)" in message
        assert isinstance(lowest, int)
        assert floor_bytes - 256 * MIB < lowest < floor_bytes
        assert watched.summary()["state_changes"] == 2

    on_a_quiet_machine(test)


@pytest.mark.slow  # test_memory_stop has the same with a whole run
def test_a_program_that_lets_go_lets_us_go_back_to_normal_and_nothing_flaps() -> None:
    def test(hog: Hog) -> None:
        floor_bytes, _ = floor_for(throttle_after_bytes=GIB)
        with MemoryGuard(Sampler(min_available_bytes=floor_bytes)) as watched:
            hog.grow_until(lambda: watched.state.level is Level.THROTTLE, expected_bytes=GIB)
            hog.hold(0)
            took_s = wait_until(lambda: watched.state.level is Level.OK, timeout_s=90, what="OK")
            time.sleep(1)
        assert took_s > policy.HOLD_S - 0.6
        assert watched.state.level is Level.OK
        assert watched.summary()["state_changes"] == 2
        assert not watched.aborting.is_set()

    on_a_quiet_machine(test)


GROW = """
import mmap, resource, sys, time
from nanogpt_compat.memory.guard import MemoryGuard, Sampler
from nanogpt_compat.memory.policy import Level

def grow(watched):
    held, levels = [], []
    while not watched.aborting.is_set():
        held.append(bytearray(b"x") * (8 << 20))
        time.sleep(0.01)
        level = watched.state.level.value
        if not levels or levels[-1] != level:
            levels.append(level)
    held.clear()
    print(*levels)
    print(watched.explain())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="rlimits on memory are Linux's")
@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_we_stop_before_an_rlimit_makes_malloc_fail(name: str) -> None:
    output = run_python(
        GROW
        + f"""
resource.setrlimit(resource.{name}, ({GIB}, resource.RLIM_INFINITY))
with MemoryGuard(Sampler()) as watched:
    grow(watched)
"""
    )
    assert output.startswith("ok throttle")
    assert f"{name} (ulimit or prlimit) is 1.1 GB" in output


@pytest.mark.skipif(sys.platform != "linux", reason="rlimits on memory are Linux's")
@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_an_rlimit_that_is_set_while_we_run_is_obeyed(name: str) -> None:
    code = GROW + "with MemoryGuard(Sampler()) as watched:\n    print(flush=True)\n    grow(watched)\n"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        child.stdout.readline()
        number = psutil.RLIMIT_AS if name == "RLIMIT_AS" else psutil.RLIMIT_DATA
        psutil.Process(child.pid).rlimit(number, (1200 * MIB, 4 * GIB))
        output, _ = child.communicate(timeout=30)
    assert child.returncode == 0
    assert name in output


def test_max_memory_stops_us_when_we_grow() -> None:
    output = run_python(
        GROW + "with MemoryGuard(Sampler(max_memory_bytes=300_000_000)) as watched: grow(watched)"
    )
    assert output.startswith("ok throttle")
    assert "--max-memory (the command line) is 300 MB, 45.0 MB kept in reserve" in output


def test_max_memory_counts_children_too() -> None:
    sampler = Sampler(max_memory_bytes=4 * GB)
    with Hog() as hog:
        hog.hold(128 * MIB)
        with_child = next(one for one in sampler.sample() if one.name == "--max-memory")
        alone_bytes = sampler.own_bytes()
    assert with_child.used_bytes - alone_bytes > 120 * MIB


def test_output_written_through_a_map_is_no_use_under_max_memory(tmp_path: Path) -> None:
    levels = run_python(
        f"""
        import mmap, os
        from nanogpt_compat.memory.guard import MemoryGuard, Sampler
        from nanogpt_compat.memory.policy import Level
        with MemoryGuard(Sampler(max_memory_bytes=300_000_000)) as watched:
            fd = os.open({str(tmp_path / "out")!r}, os.O_RDWR | os.O_CREAT)
            os.truncate(fd, {GIB})
            with mmap.mmap(fd, {GIB}) as mapped:
                for offset in range(0, {GIB}, 1 << 20):
                    mapped[offset : offset + (1 << 20)] = b"x" * (1 << 20)
                watched.poll()
            print(watched.state.level.value, *watched.summary().values())
        """
    )
    assert levels.startswith("ok 0 ")


def test_a_page_cache_full_of_file_pages_does_not_throttle(tmp_path: Path) -> None:
    """Fill the cache with a file larger than the headroom that a real cgroup's usage would leave."""
    usages = [
        folder / name
        for chain in limits.cgroup_chains("memory")
        for folder in chain
        for name in ("memory.current", "memory.usage_in_bytes")
        if (folder / name).exists()
    ]
    if not usages:
        pytest.skip("this machine has no memory cgroup that reports its use")
    name = "memory.max" if usages[0].name == "memory.current" else "memory.limit_in_bytes"
    path = usages[0].parent / name
    now = limits.read_cgroup(limits.CgroupLimit(f"cgroup {name}", path, GIB))
    limit = limits.CgroupLimit(f"cgroup {name}", path, now.used_bytes + 1500 * MIB)
    sampler = Scripted()
    watched = MemoryGuard(sampler)
    block = b"x" * MIB
    with (tmp_path / "file").open("wb") as file:
        for n in range(2048):
            file.write(block)
            if n % 64 == 63:
                os.fsync(file.fileno())
                sampler.readings = [limits.read_cgroup(limit), limits.read_available()]
                watched.poll()
    assert int(usages[0].read_text()) > limit.limit_bytes  # if file pages had counted
    assert watched.summary()["state_changes"] == 0, watched.state
