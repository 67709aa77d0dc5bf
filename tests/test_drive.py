"""Spans on executors of every kind: the number that run at a time, and the handling of failures."""

import io
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nanogpt_compat.cluster import driver
from nanogpt_compat.cluster.driver import MAX_TRIES, drive
from nanogpt_compat.cluster.executors import LocalProcesses, open_executor
from nanogpt_compat.cluster.parts import parts_folder, spans_to_do
from nanogpt_compat.cluster.worker import Outcome, attempt
from nanogpt_compat.config import Config
from nanogpt_compat.errors import (
    CheckpointError,
    InputError,
    MemoryLimitError,
    OutputError,
    PrepareError,
    SpansError,
    TooSmallError,
    UsageError,
)
from nanogpt_compat.system.display import CalmStream
from nanogpt_compat.system.voice import Voice
from tests.faults import Args, prepare
from tests.test_cluster import assert_merged, config_of, one_machine, plan_in, small_run


def do_all(
    work: Path,
    args: Args,
    executor: Executor,
    window: Callable[[], int],
    check: Callable[[], None] = lambda: None,
) -> list[str]:
    """Do the spans of a planned run, `window` of them at a time; return the warnings."""
    stderr = io.StringIO()
    drive(
        plan_in(work),
        executor,
        work_dir=work,
        settings=config_of(args),
        window=window,
        voice=Voice(CalmStream(stderr), is_quiet=True, check=check),
    )
    return stderr.getvalue().splitlines()


def to_do(work: Path) -> list[int]:
    return [one.index for one in spans_to_do(work, plan_in(work), Config(work))]


def remove_sidecar(work: Path, index: int) -> None:
    (parts_folder(work, plan_in(work)) / f"{index:08d}.json").unlink()


class Dead(Exception):
    """An exception that an executor may raise for a worker that died."""


class OneByOne(Executor):
    """Runs the call that has waited longest at each call of `check`: nothing is left to chance.

    `instead` replaces an attempt, and may make one.
    """

    def __init__(self, instead: Callable[..., Outcome] = attempt) -> None:
        self._instead = instead
        self._waiting: list[tuple[Future[Any], tuple[Any, ...]]] = []
        self.tried: list[int] = []
        self.n_under_way: list[int] = []  # at each submit

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        assert fn is driver.attempt_elsewhere
        future: Future[Any] = Future()
        self._waiting.append((future, args))
        self.n_under_way.append(len(self._waiting))
        return future

    def check(self) -> None:
        if self._waiting:
            future, args = self._waiting.pop(0)
            self.tried.append(args[1])
            try:
                future.set_result(self._instead(*args))
            except Dead as error:
                future.set_exception(error)


def failing(how: Callable[[int, int], Outcome | None]) -> Callable[..., Outcome]:
    """Return an attempt that fails depending on the number of its span and of earlier tries."""
    n_tried = [0] * 100

    def attempt_or_fail(work_dir: str, index: int, *rest: Any) -> Outcome:
        n_tried[index] += 1
        return how(index, n_tried[index] - 1) or attempt(work_dir, index, *rest)

    return attempt_or_fail


def test_as_many_are_under_way_as_there_is_room_for(tmp_path: Path) -> None:
    args, work = small_run(tmp_path)
    rooms = [0, 4, 4, 4, 2, 2, 2, 2]
    executor = OneByOne()
    warnings = do_all(
        work, args, executor, lambda: rooms.pop(0) if len(rooms) > 1 else rooms[0], executor.check
    )
    # With no room, one is submitted; then up to four; with room for two, two end before the next.
    assert executor.n_under_way == [1, 1, 2, 3, 4, 4, 4, 2, 2, 2]
    assert executor.tried == list(range(10))
    assert warnings == ["no worker is available; waiting for one"]
    assert not to_do(work)


def test_a_span_that_fails_is_tried_again_after_the_others(tmp_path: Path) -> None:
    args, work = small_run(tmp_path)
    outcome = Outcome(4, "far.away", error="no luck", exit_code=3)
    executor = OneByOne(failing(lambda index, n: outcome if index == 4 and n < MAX_TRIES - 1 else None))
    warnings = do_all(work, args, executor, lambda: 3, executor.check)
    assert executor.tried == [*range(10), 4, 4]
    where = f"bytes 40,000 to 50,000 of {tmp_path / 'a.txt'}"
    assert warnings == [f"span 4 ({where}) failed on far.away: no luck"] * 2
    assert not to_do(work)


@pytest.mark.parametrize("n_lost", [1, 100])
def test_a_span_whose_part_does_not_count_any_more_is_done_again_or_reported(
    n_lost: int, tmp_path: Path
) -> None:
    """A part becomes invalid after its span's last try, as when an engine turns out to err."""
    args, work = small_run(tmp_path)
    n_tried = 0

    def attempt_and_lose(work_dir: str, index: int, *rest: Any) -> Outcome:
        nonlocal n_tried
        n_tried += index == 4
        if index == 4 and n_tried < MAX_TRIES:
            return Outcome(4, "a host", error="no luck", exit_code=3)
        outcome = attempt(work_dir, index, *rest)
        if index == 4 and n_tried - MAX_TRIES < n_lost:
            (parts_folder(work, plan_in(work)) / "00000004.json").unlink()
        return outcome

    executor = OneByOne(attempt_and_lose)
    if n_lost == 1:
        do_all(work, args, executor, lambda: 1, executor.check)
        assert not to_do(work)
    else:
        with pytest.raises(
            SpansError, match=r"(?s)1 span failed.*span 4 .* its part was made, but is missing or no"
        ):
            do_all(work, args, executor, lambda: 1, executor.check)
        assert to_do(work) == [4]
    assert executor.tried[:13] == [*range(10), 4, 4, 4]


def test_a_span_whose_worker_dies_is_tried_once_more_and_alone(tmp_path: Path) -> None:
    args, work = small_run(tmp_path)

    def die(index: int, n_before: int) -> None:
        if index == 0 or (index == 1 and not n_before):
            raise Dead("the worker is gone")

    executor = OneByOne(failing(die))
    with pytest.raises(
        SpansError, match=r"(?s)1 span failed, all other spans .*span 0 .*Dead: the worker is gone"
    ):
        do_all(work, args, executor, lambda: 3, executor.check)
    assert executor.tried == [*range(10), 0, 1]
    assert executor.n_under_way[-3:] == [3, 1, 1]
    assert to_do(work) == [0]


@pytest.mark.parametrize("error", [UsageError, OutputError, CheckpointError, TooSmallError])
def test_an_error_that_all_spans_would_meet_ends_the_work(error: type[PrepareError], tmp_path: Path) -> None:
    args, work = small_run(tmp_path)
    outcome = Outcome(2, "far.away", error="it cannot be", exit_code=error.exit_code)
    executor = OneByOne(failing(lambda index, _: outcome if index == 2 else None))
    with pytest.raises(error, match=r"far.away: it cannot be"):
        do_all(work, args, executor, lambda: 1, executor.check)
    assert executor.tried == [0, 1, 2]


@pytest.mark.parametrize("other_fails", [False, True])
def test_spans_that_fail_for_lack_of_memory_alone_end_with_75(other_fails: bool, tmp_path: Path) -> None:
    args, work = small_run(tmp_path)

    def fail(index: int, _: int) -> Outcome | None:
        exit_code = {2: MemoryLimitError.exit_code, 7: InputError.exit_code if other_fails else 0}.get(index)
        return Outcome(index, "a host", error="too bad", exit_code=exit_code) if exit_code else None

    executor = OneByOne(failing(fail))
    with pytest.raises(
        SpansError if other_fails else MemoryLimitError, match=r"span 2 .* failed on a host: too bad"
    ):
        do_all(work, args, executor, lambda: 2, executor.check)
    assert executor.tried.count(2) == MAX_TRIES
    assert to_do(work) == ([2, 7] if other_fails else [2])


def test_a_worker_that_is_short_of_memory_waits_before_it_takes_another_span(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    for exit_code in (0, InputError.exit_code, MemoryLimitError.exit_code):
        outcome = Outcome(0, "a host", exit_code=exit_code)
        monkeypatch.setattr(driver, "attempt", lambda *_, outcome=outcome: outcome)
        assert driver.attempt_elsewhere("work", 0, "hash", None) is outcome
    assert slept == [30.0]


def test_waiting_for_a_scheduler_can_be_ended(tmp_path: Path) -> None:
    pytest.importorskip("distributed")

    def stop() -> None:
        raise Dead

    with pytest.raises(Dead), open_executor(str(tmp_path / "dask.json"), 1, stop):
        pass


def attempt_or_die(work_dir: str, index: int, *rest: Any) -> Outcome:
    """Die on span 3 each time, and on span 5 the first time."""
    if index == 3 or (index == 5 and not Path(work_dir, "once").exists()):
        Path(work_dir, "once" if index == 5 else "poison").write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return attempt(work_dir, index, *rest)


@pytest.mark.costly
def test_a_span_that_kills_its_worker_takes_no_neighbour_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args, work = small_run(tmp_path)
    monkeypatch.setattr(driver, "attempt_elsewhere", attempt_or_die)
    with LocalProcesses(2) as processes, pytest.raises(SpansError) as caught:
        do_all(work, args, processes, lambda: 2)
    assert to_do(work) == [3]
    assert str(caught.value).startswith("1 span failed, all other spans of this process are done")
    assert f"span 3 (bytes 30,000 to 40,000 of {tmp_path / 'a.txt'})" in str(caught.value)
    monkeypatch.undo()
    with LocalProcesses(1) as processes:
        do_all(work, args, processes, lambda: 1)
    assert not to_do(work)


@pytest.mark.costly
def test_a_pool_that_ends_with_one_of_its_workers_ends_the_work_and_the_next_one_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args, work = small_run(tmp_path)
    monkeypatch.setattr(driver, "attempt_elsewhere", attempt_or_die)
    spawn = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(2, spawn) as pool,
        pytest.raises(SpansError, match=r"BrokenProcessPool.* to resume"),
    ):
        do_all(work, args, pool, lambda: 2)
    assert len(to_do(work)) > 1
    monkeypatch.undo()
    with ProcessPoolExecutor(2, spawn) as pool:
        do_all(work, args, pool, lambda: 2)
    assert not to_do(work)


def test_threads_are_an_executor_too_and_any_number_may_be_under_way(tmp_path: Path) -> None:
    args, work = small_run(tmp_path)
    with ThreadPoolExecutor(3) as threads:
        do_all(work, args, threads, lambda: 7)
    assert not to_do(work)
    assert prepare(*args, "--merge").returncode == 0
    assert_merged(tmp_path / "many", one_machine(tmp_path, args[:6]), work)


class Twice(Executor):
    """Runs each call twice at once, like a scheduler that has lost contact with a worker."""

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(4)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        self.threads.submit(fn, *args, **kwargs)
        return self.threads.submit(fn, *args, **kwargs)


def test_a_span_that_is_done_twice_at_once_is_done(tmp_path: Path) -> None:
    args, work = small_run(tmp_path)
    twice = Twice()
    do_all(work, args, twice, lambda: 3)
    twice.threads.shutdown()
    assert prepare(*args, "--merge").returncode == 0
    assert_merged(tmp_path / "many", one_machine(tmp_path, args[:6]), work)
