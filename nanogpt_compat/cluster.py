"""Many spans at once: on any executor, or as one of many ranks; then what has become of them put together.

drive        spans on a concurrent.futures.Executor: processes of this machine, or a Dask cluster
do_rank      every Nth span, in this process: Slurm arrays, Kubernetes indexed jobs, a loop over ssh
merge        all parts to the files that one machine would have made
"""

import multiprocessing
import os
import shlex
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from nanogpt_compat.config import Config, Share
from nanogpt_compat.errors import CheckpointError, InputError, MemoryLimitError, OutputError, SpansError
from nanogpt_compat.estimate import Estimate
from nanogpt_compat.files import advice
from nanogpt_compat.job import Job, look_into
from nanogpt_compat.lock import FolderLock
from nanogpt_compat.parts import Parts, remove_parts, spans_to_do
from nanogpt_compat.plan import PLAN_NAME, Plan, Span, check_inputs, make_plan, read_plan, write_plan
from nanogpt_compat.progress import Display
from nanogpt_compat.report import rss_bytes
from nanogpt_compat.run import Run
from nanogpt_compat.span import Outcome, attempt, job_of
from nanogpt_compat.watch import Check, Say

MAX_TRIES = 3
LOCAL = "local"
_PER_WORKER = 4  # spans given to a cluster ahead of time, so that no worker waits for this process
_LOOK_UP_EVERY_S = 0.2
_SCHEDULER_STARTS_S = 30.0  # Python and Dask, from a file system that many read from
_MAX_LISTED = 10

OpenDisplay = Callable[[int, int], Display]
"""Takes how many bytes there are, and how many of them are done."""


class Driver:
    """One process's share of a run on many machines; `say` is for whoever reads along, `warn` for everybody.

    `check` is called several times a second; what it raises ends the work. What is done by then stays done.
    """

    def __init__(
        self, config: Config, share: Share, *, open_display: OpenDisplay, say: Say, warn: Say, check: Check
    ):
        self._config = config
        self._modest = replace(config, engine="tiktoken")  # for what encodes nothing but samples
        self._share = share
        self._open_display = open_display
        self._say = say
        self._warn = warn
        self._check = check

    def do(self, *, restart: bool) -> None:
        """Do what is asked of this process.

        Raises:
            CheckpointError: the work folder holds another plan.
            SpansError: spans have failed, or are still to be done.
            OutputError: another driver is at work in the work folder; or as a run does.
            InputError, MemoryLimitError: as a run does.
        """
        share = self._share
        if share.rank is not None:
            self._do_rank(*share.rank)
            return
        try:
            share.work_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make {share.work_dir}: {error.strerror}; {advice(error)}") from error
        with FolderLock(share.work_dir / "lock"):
            if share.merge and self._is_merged(restart=restart):
                return
            if share.scheduler is not None:
                self._do_all(share.scheduler, restart=restart)
            if share.merge:
                self._merge(restart=restart)

    def _find_plan(self) -> Plan:
        """Make sure that the plan is about this run; make it if there is none."""
        config, work_dir = self._config, self._share.work_dir
        plan = read_plan(work_dir)
        if plan is None:
            plan = write_plan(work_dir, make_plan(look_into(self._modest), span_bytes=self._share.span_bytes))
        else:
            check_inputs(plan, config.inputs, work_dir)
        job_of(plan, self._modest, work_dir)  # which would refuse another vocabulary or version
        self._say(f"plan {plan.hash[:12]}: {len(plan.spans):,} spans of {len(plan.inputs):,} inputs")
        return plan

    def _do_all(self, scheduler: str, *, restart: bool) -> None:
        work_dir = self._share.work_dir
        if restart:
            remove_parts(work_dir)
        plan = self._find_plan()
        with open_executor(scheduler, self._config.n_workers) as (executor, window):
            drive(
                plan,
                executor,
                work_dir=work_dir,
                settings=self._config,
                window=window,
                open_display=self._open_display,
                warn=self._warn,
                check=self._check,
            )
        self._say(f"all {len(plan.spans):,} spans are done, their parts in {work_dir}")

    def _do_rank(self, rank: int, size: int) -> None:
        """Do every `size`th span from number `rank` on."""
        work_dir = self._share.work_dir
        plan, settings = self._find_plan(), _without_inputs(self._config)
        self._say(job_of(plan, settings, work_dir).engine_line)
        failed: dict[int, Outcome] = {}

        def list_mine() -> list[Span]:
            return [
                span
                for span in spans_to_do(work_dir, plan)
                if span.index % size == rank and span.index not in failed
            ]

        with closing(_Progress(list_mine(), 0, self._open_display)) as progress:
            while mine := list_mine():  # again, if an engine has turned out to err on what was done before
                for span in mine:
                    self._check()
                    outcome = attempt(str(work_dir), span.index, plan.hash, settings, self._check)
                    if outcome.exit_code == MemoryLimitError.exit_code:
                        raise MemoryLimitError(outcome.error)
                    if outcome.error:
                        self._warn(_describe_failure(plan, outcome))
                        failed[span.index] = outcome
                    else:
                        progress.add(span, outcome)
        _refuse_failed(plan, failed)
        self._say(f"rank {rank} of {size} is done: its parts are in {work_dir}")

    def _is_merged(self, *, restart: bool) -> bool:
        """Whether all is done and put together: then the plan is gone, too."""
        if restart or read_plan(self._share.work_dir) is not None:
            return False
        run = self._run(look_into(self._modest), None)
        if run.is_complete():
            self._say("already complete; --restart --overwrite makes it again")
            remove_parts(self._share.work_dir)
            return True
        if self._share.scheduler is None:
            raise SpansError(
                f"there is no {PLAN_NAME} in {self._share.work_dir}, so nothing to put together: begin with "
                "--cluster or --rank"
            )
        return False

    def _merge(self, *, restart: bool) -> None:
        """Put the parts together, and remove them."""
        work_dir, config = self._share.work_dir, self._config
        plan = read_plan(work_dir)
        if plan is None:
            raise SpansError(f"{work_dir / PLAN_NAME} is gone: begin again with --cluster or --rank")
        check_inputs(plan, config.inputs, work_dir)
        parts = Parts(work_dir, plan)
        self._say(parts.line())
        job = job_of(plan, self._modest, work_dir)
        n_bytes = sum(one["size"] for one in plan.inputs)
        job = replace(
            job,
            config=replace(job.config, inputs=config.inputs, engine=config.engine),
            forecast=Estimate(n_bytes, parts.n_tokens, 0.0),
        )
        self._run(job, parts).do(restart=restart)
        remove_parts(work_dir)

    def _run(self, job: Job, parts: Parts | None) -> Run:
        n_bytes = job.forecast.text_bytes
        return Run(
            job,
            open_display=lambda done_bytes: self._open_display(n_bytes, done_bytes),
            say=self._say,
            warn=self._warn,
            check=self._check,
            parts=parts,
        )


def drive(
    plan: Plan,
    executor: Executor,
    *,
    work_dir: Path,
    settings: Config,
    window: Callable[[], int],
    open_display: OpenDisplay,
    warn: Say,
    check: Check,
) -> None:
    """Have all spans done that are not done yet, `window()` of them under way at a time.

    One that fails is tried again after the others, `MAX_TRIES` times in all, and takes no other along. Each
    is encoded by one thread.

    Raises:
        SpansError: some have failed for good, and all others are done; or the executor is broken.
        CheckpointError: a worker has another program, vocabulary or input. And what `check` raises.
    """
    settings = _without_inputs(replace(settings, n_workers=1))
    todo = deque(spans_to_do(work_dir, plan))
    done_bytes = _bytes_of(plan.spans) - _bytes_of(todo)
    pending: dict[Future[Outcome], Span] = {}
    tries: Counter[int] = Counter()
    failed: dict[int, Outcome] = {}
    with closing(_Progress(plan.spans, done_bytes, open_display)) as progress:
        while todo or pending:
            check()
            while todo and len(pending) < max(1, window()):
                span = todo.popleft()
                tries[span.index] += 1
                pending[_submit(executor, str(work_dir), plan, span, settings)] = span
            for future in wait(pending, _LOOK_UP_EVERY_S, FIRST_COMPLETED).done:
                span = pending.pop(future)
                outcome = _outcome_of(future, span)
                if not outcome.error:
                    progress.add(span, outcome)
                    continue
                warn(_describe_failure(plan, outcome))
                if tries[span.index] < MAX_TRIES:
                    todo.append(span)
                else:
                    failed[span.index] = outcome
            if not todo and not pending:  # an engine may have turned out to err on what was done before
                todo.extend(one for one in spans_to_do(work_dir, plan) if tries[one.index] < MAX_TRIES)
    _refuse_failed(plan, failed)


def _submit(executor: Executor, work_dir: str, plan: Plan, span: Span, settings: Config) -> "Future[Outcome]":
    try:
        return executor.submit(attempt, work_dir, span.index, plan.hash, settings)
    except BrokenExecutor as error:
        raise SpansError(f"the executor is broken ({error}); run the same command again to go on") from error


def _without_inputs(config: Config) -> Config:
    """Leave out what is in the plan, for a task is to be small; another folder may be current there."""
    vocab_dir = None if config.vocab_dir is None else config.vocab_dir.absolute()
    return replace(config, inputs=(), formats=(), vocab_dir=vocab_dir)


def _outcome_of(future: "Future[Outcome]", span: Span) -> Outcome:
    """Take the outcome of an attempt; a worker that has died is one, too.

    Raises:
        CheckpointError: trying again would not help, nor other spans.
    """
    try:
        outcome = future.result()
    except Exception as error:  # noqa: BLE001 - what executors raise when a worker dies is their own
        return Outcome(span.index, "an unknown host", error=f"{type(error).__name__}: {error}", exit_code=1)
    if outcome.exit_code == CheckpointError.exit_code:
        raise CheckpointError(f"{outcome.host}: {outcome.error}")
    return outcome


def _describe_failure(plan: Plan, outcome: Outcome) -> str:
    span = plan.spans[outcome.index]
    where = f"bytes {span.start:,} to {span.end:,} of {plan.location(span.input_index)}"
    return f"span {span.index:,} ({where}) failed on {outcome.host}: {outcome.error}"


def _refuse_failed(plan: Plan, failed: Mapping[int, Outcome]) -> None:
    """Raise SpansError if there are any."""
    if failed:
        lines = [_describe_failure(plan, one) for one in list(failed.values())[:_MAX_LISTED]]
        more = [f"and {len(failed) - _MAX_LISTED:,} more"] if len(failed) > _MAX_LISTED else []
        raise SpansError(
            f"{len(failed):,} spans failed, all others are done; mend what follows and run the same command "
            "again\n  " + "\n  ".join(lines + more)
        )


def _bytes_of(spans: Iterable[Span]) -> int:
    return sum(span.end - span.start for span in spans)


class _Progress:
    """How far all spans together are."""

    def __init__(self, spans: Sequence[Span], done_bytes: int, open_display: OpenDisplay) -> None:
        self._display = open_display(_bytes_of(spans), done_bytes)
        self._done_bytes = done_bytes
        self._n_tokens = 0  # of what this process has seen done

    def add(self, span: Span, outcome: Outcome) -> None:
        self._done_bytes += span.end - span.start
        self._n_tokens += outcome.tokens
        self._display.show(bytes_read=self._done_bytes, tokens=self._n_tokens, memory_bytes=rss_bytes())

    def close(self) -> None:
        self._display.close()


@contextmanager
def open_executor(scheduler: str, n_workers: int) -> Iterator[tuple[Executor, Callable[[], int]]]:
    """Open processes of this machine, or a Dask cluster by its address or scheduler file.

    Also gives a function that says how many spans should be under way.

    Raises:
        InputError: Dask is not installed, or cannot be reached.
    """
    if scheduler == LOCAL:
        with LocalProcesses(n_workers) as processes:
            yield processes, lambda: n_workers
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(
            f"--cluster {scheduler} needs Dask here and on the workers: `pip install dask distributed`"
        ) from error
    is_file = ":" not in scheduler
    if is_file:
        _wait_for_file(Path(scheduler))
    try:
        client = Client(scheduler_file=scheduler) if is_file else Client(scheduler)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--cluster {scheduler}: no Dask scheduler answers there ({error}); give its address, or the "
            "file that `dask scheduler --scheduler-file` has written"
        ) from error
    with client:
        yield client.get_executor(), lambda: _PER_WORKER * sum(client.nthreads().values())


def _wait_for_file(path: Path) -> None:
    """Wait for a scheduler that was started a moment ago."""
    end_s = time.monotonic() + _SCHEDULER_STARTS_S
    while not path.exists():
        if time.monotonic() > end_s:
            raise InputError(
                f"--cluster {path}: no scheduler has written such a file; start one with\n"
                f"  dask scheduler --scheduler-file {shlex.quote(str(path))}"
            )
        time.sleep(_LOOK_UP_EVERY_S)


class LocalProcesses(Executor):
    """Processes of this machine, each an executor of its own: one that dies takes no other's span along.

    They end when this process does, however it ends.
    """

    def __init__(self, n_workers: int) -> None:
        self._lock = threading.Lock()
        self._n_pending = [0] * n_workers
        self._pools = [_Process() for _ in range(n_workers)]

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Give a call to the process that has the fewest; a new one takes the place of one that died."""
        with self._lock:
            k = min(range(len(self._pools)), key=self._n_pending.__getitem__)
            self._n_pending[k] += 1
        try:
            future = self._pools[k].executor.submit(fn, *args, **kwargs)
        except BrokenExecutor:
            self._pools[k].close()
            self._pools[k] = _Process()
            future = self._pools[k].executor.submit(fn, *args, **kwargs)

        def count_down(_: "Future[Any]") -> None:
            with self._lock:
                self._n_pending[k] -= 1

        future.add_done_callback(count_down)
        return future

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for what is under way, or, if something went wrong here, end it."""
        self.shutdown(wait=kind is None, cancel_futures=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes; without `wait` at once."""
        for one in self._pools:
            if wait:
                one.executor.shutdown(cancel_futures=cancel_futures)
            one.close()


class _Process:
    """An executor with a single process, and the end of a pipe that keeps it alive."""

    def __init__(self) -> None:
        # A forked process would inherit locks that threads hold; this program's main modules can be spawned.
        context = multiprocessing.get_context("spawn")
        reader, self._writer = context.Pipe(duplex=False)
        self.executor = ProcessPoolExecutor(
            1, mp_context=context, initializer=_live_with_parent, initargs=(reader,)
        )

    def close(self) -> None:
        self._writer.close()
        self.executor.shutdown(wait=False, cancel_futures=True)


def _live_with_parent(reader: Connection) -> None:
    """End this process when the other end of the pipe is closed; a Ctrl-C is for the parent to act on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        with suppress(EOFError, OSError):
            reader.recv_bytes()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
