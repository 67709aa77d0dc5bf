"""Many spans at once: on any executor, or as one of many ranks; then what has become of them put together.

drive        spans on a concurrent.futures.Executor (executors.py has some)
Driver       all of them; or, as a rank, every Nth in this process: Slurm arrays, Kubernetes indexed jobs, a
             loop over ssh; or their merging to the files that one machine would have made
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanogpt_compat.cluster.executors import open_executor
from nanogpt_compat.cluster.parts import Parts, list_some, remove_parts, spans_to_do, write_index
from nanogpt_compat.cluster.plan import PLAN_NAME, Plan, Span, check_inputs, find_plan, read_plan
from nanogpt_compat.cluster.worker import Outcome, attempt, job_of
from nanogpt_compat.config import Config, Share
from nanogpt_compat.errors import (
    CheckpointError,
    MemoryLimitError,
    OutputError,
    PrepareError,
    SpansError,
    TooSmallError,
    UsageError,
)
from nanogpt_compat.forecast import Estimate
from nanogpt_compat.memory.usage import rss_bytes
from nanogpt_compat.preflight import Job, check_names, look_into
from nanogpt_compat.report import read_report, warn_of_empty
from nanogpt_compat.resume.checkpoint import Found, journal_in, read_found
from nanogpt_compat.resume.lock import FolderLock
from nanogpt_compat.run import Run
from nanogpt_compat.supervise import Check, Say
from nanogpt_compat.system.display import Display
from nanogpt_compat.system.filesystem import advice
from nanogpt_compat.system.signals import StoppedBySignal
from nanogpt_compat.system.units import plural

MAX_TRIES = 3
_DIED = 128 + 9  # the exit code of an outcome that nobody has told, as a shell has it of a process killed
_MET_BY_ALL = {one.exit_code: one for one in (UsageError, OutputError, CheckpointError, TooSmallError)}
"""What is wrong with the options, the shared folder or the program: no other span would go better."""
_LOST = "it was done, and its part is gone or does not count any more"
_LOOK_UP_EVERY_S = 0.2
_MEMORY_PAUSE_S = 30.0  # or a worker short of memory would fail span after span, faster than others do them

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
            InputError, MemoryLimitError, TooSmallError: as a run does.
        """
        share = self._share
        if share.rank is not None:
            if not self._is_complete():
                self._do_rank(*share.rank)
            return
        try:
            share.work_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make {share.work_dir}: {error.strerror}; {advice(error)}") from error
        with FolderLock(share.work_dir / "lock"):
            if not restart and self._is_complete():
                if share.merge:
                    remove_parts(share.work_dir)
                return
            if share.scheduler is not None:
                self._do_all(share.scheduler, restart=restart)
            if share.merge:
                self._merge(restart=restart)

    def _is_complete(self) -> bool:
        """Whether the output is there: a task that is run again after the merge has nothing to do."""
        if read_report(self._config.output_dir) is None:  # what nearly always is so costs nothing
            return False
        if not self._run(look_into(self._modest), None).is_complete():
            return False
        self._say("already complete; --restart --overwrite makes it again")
        return True

    def _check_names(self, *, restart: bool) -> None:
        """Refuse now to replace what the merge, hours later, would refuse to replace."""
        found = Found() if restart else read_found(journal_in(self._config.output_dir))
        if found.report is None:  # or else an earlier merge may have named some of them
            check_names(self._config, found, is_restart=restart)

    def _find_plan(self) -> Plan:
        """Make sure that the plan is about this run; make it if there is none."""
        work_dir = self._share.work_dir
        plan = find_plan(self._modest, work_dir, span_bytes=self._share.span_bytes, check=self._check)
        job_of(plan, self._modest, work_dir)  # which would refuse another vocabulary or version
        self._say(
            f"plan {plan.hash[:12]}: {plural(len(plan.spans), 'span')} of {plural(len(plan.inputs), 'input')}"
        )
        return plan

    def _do_all(self, scheduler: str, *, restart: bool) -> None:
        work_dir = self._share.work_dir
        if self._share.merge:
            self._check_names(restart=restart)
        if restart:
            remove_parts(work_dir)
        plan = self._find_plan()
        with open_executor(scheduler, self._config.n_workers, self._check) as (executor, window):
            self._drive(plan, executor, replace(self._config, n_workers=1), window)
        self._say(f"done: {plural(len(plan.spans), 'span')}, with parts in {work_dir}")
        if not self._share.merge:
            self._write_index(plan)

    def _do_rank(self, rank: int, size: int) -> None:
        """Do every `size`th span from number `rank` on."""
        work_dir = self._share.work_dir
        plan, settings = self._find_plan(), _without_inputs(self._config)
        self._say(job_of(plan, settings, work_dir).engine_line)
        self._drive(plan, _ThisProcess(self._check), settings, lambda: 1, plan.spans[rank::size])
        self._say(f"rank {rank} of {size} is done: its parts are in {work_dir}")
        if not spans_to_do(work_dir, plan, settings):  # it is the last
            self._write_index(plan)

    def _drive(
        self,
        plan: Plan,
        executor: Executor,
        settings: Config,
        window: Callable[[], int],
        spans: Sequence[Span] | None = None,
    ) -> None:
        drive(
            plan,
            executor,
            work_dir=self._share.work_dir,
            settings=settings,
            window=window,
            open_display=self._open_display,
            warn=self._warn,
            check=self._check,
            spans=spans,
        )

    def _write_index(self, plan: Plan) -> None:
        """Write down what files the parts are that stay as they are, with the report of a whole run."""
        run, parts = self._run_of(plan)
        made = run.build_report(parts.tally, parts.mismatch)
        path = write_index(self._share.work_dir, {**made, "files": parts.files()})
        for line in warn_of_empty(made["inputs"]):
            self._warn(line)
        self._say(f"{path} lists the parts in order")

    def _merge(self, *, restart: bool) -> None:
        """Put the parts together, and remove them."""
        work_dir = self._share.work_dir
        plan = read_plan(work_dir)
        if plan is None:
            raise SpansError(
                f"there is no {PLAN_NAME} in {work_dir}, so nothing to put together: begin with --cluster or "
                "--rank"
            )
        run, _ = self._run_of(plan)
        run.do(restart=restart)
        remove_parts(work_dir)

    def _run_of(self, plan: Plan) -> tuple[Run, Parts]:
        """Build the run that all parts of a plan make."""
        work_dir, config = self._share.work_dir, self._config
        plan = check_inputs(plan, config.inputs, work_dir, check=self._check)
        job = job_of(plan, self._modest, work_dir)  # what does not fit is said before what is missing
        parts = Parts(work_dir, plan, config)
        self._say(parts.line())
        parts.check_texts(job.source, say=self._say, check=self._check)
        n_bytes = sum(one["size"] for one in plan.inputs)
        job = replace(
            job,
            config=replace(job.config, inputs=config.inputs, engine=config.engine),
            forecast=Estimate(n_bytes, parts.n_tokens, 0.0),
        )
        return self._run(job, parts), parts

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
    spans: Sequence[Span] | None = None,
) -> None:
    """Have all spans done, or these, that are not done yet, `window()` of them under way at a time.

    One that fails is tried again after the others, until it has failed `MAX_TRIES` times; but not if a record
    in it needs too much memory. One whose worker has died is tried once more, with no other under way: so it
    takes none along.

    Raises:
        SpansError: some have failed for good, and all others are done; or the executor has ended.
        MemoryLimitError, TooSmallError: the same, and each of them for want of memory.
        UsageError, OutputError, CheckpointError, TooSmallError: a worker has met what the next would, too.
        And what `check` raises.
    """
    settings = _without_inputs(settings)
    asked = plan.spans if spans is None else spans
    wanted = {one.index for one in asked}
    queue, n_most = _Queue(), 1

    def list_todo() -> list[Span]:
        out = queue.failed
        to_do = spans_to_do(work_dir, plan, settings)
        return [one for one in to_do if one.index in wanted and one.index not in out]

    done_bytes = _bytes_of(asked) - _bytes_of(list_todo())
    with closing(_Progress(asked, done_bytes, open_display)) as progress:
        for _ in range(MAX_TRIES):  # more than once only if what was done turns out not to count
            queue.todo.extend(list_todo())
            while queue.todo or queue.pending:
                check()
                for future in wait(queue.pending, _LOOK_UP_EVERY_S, FIRST_COMPLETED).done:
                    span = queue.pending.pop(future)
                    outcome = _outcome_of(future, span)
                    if outcome.error:
                        warn(_describe_failure(plan, outcome))
                        queue.put_back(span, outcome)
                    else:
                        progress.add(span, outcome)
                n_before, n_most = n_most, _ask(window)
                if n_before and not n_most:
                    warn("no worker is there: waiting for one to come")
                while next_one := queue.take(n_most):
                    location = plan.locations[next_one.input_index]
                    arguments = (str(work_dir), next_one.index, plan.hash, settings, location)
                    queue.pending[_ask(executor.submit, attempt_elsewhere, *arguments)] = next_one
    lost = [Outcome(one.index, "an unknown host", error=_LOST) for one in list_todo()]
    _refuse_failed(plan, [*queue.failed.values(), *lost])


class _Queue:
    """Spans that are to be tried, under way, or failed for good."""

    def __init__(self) -> None:
        self.todo = deque[Span]()
        self.pending: dict[Future[Outcome], Span] = {}
        self.failed: dict[int, Outcome] = {}
        self._n_failures = Counter[int]()
        self._deadly = set[int]()  # whose worker has died

    def take(self, n_most: int) -> Span | None:
        """Take the next one, if it may begin beside those under way, of which there may be so many."""
        if not self.todo:
            return None
        is_alone = any(one.index in self._deadly for one in (self.todo[0], *self.pending.values()))
        if len(self.pending) >= (1 if is_alone else max(1, n_most)):
            return None
        return self.todo.popleft()

    def put_back(self, span: Span, outcome: Outcome) -> None:
        """Put one that has failed behind the others, or with those that have failed for good."""
        self._n_failures[span.index] += 1
        has_died = outcome.exit_code == _DIED
        is_last = self._n_failures[span.index] == MAX_TRIES or outcome.of_record
        if is_last or (has_died and span.index in self._deadly):
            self.failed[span.index] = outcome
            return
        if has_died:
            self._deadly.add(span.index)
        self.todo.append(span)


def attempt_elsewhere(*arguments: Any) -> Outcome:
    """Do a span in a process that others are waiting for."""
    outcome = attempt(*arguments)
    if outcome.exit_code == MemoryLimitError.exit_code:
        time.sleep(_MEMORY_PAUSE_S)
    return outcome


def _ask(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call an executor, or who knows of it; once they have ended, each raises something of its own.

    Raises:
        SpansError: it has ended.
    """
    try:
        return call(*arguments)
    except (PrepareError, StoppedBySignal):
        raise
    except Exception as error:
        raise SpansError(_gone(error)) from error


def _gone(error: Exception) -> str:
    return (
        f"whoever does the spans has ended or cannot be reached any more ({type(error).__name__}: {error}); "
        "what is done stays done: run the same command again to go on"
    )


def _without_inputs(config: Config) -> Config:
    """Leave out what is in the plan, for a task is to be small; another folder may be current there."""
    vocab_dir = None if config.vocab_dir is None else config.vocab_dir.absolute()
    return replace(config, inputs=(), formats=(), vocab_dir=vocab_dir)


def _outcome_of(future: "Future[Outcome]", span: Span) -> Outcome:
    """Take the outcome of an attempt; a worker that has died is one, too.

    Raises:
        SpansError: the executor has dropped it, as one does that has lost its scheduler.
        UsageError, OutputError, CheckpointError, TooSmallError: other spans would meet the same.
    """
    try:
        outcome = future.result()
    except CancelledError as error:
        raise SpansError(_gone(error)) from error
    except Exception as error:  # noqa: BLE001 - what executors raise when a worker dies is their own
        return Outcome(
            span.index, "an unknown host", error=f"{type(error).__name__}: {error}", exit_code=_DIED
        )
    if outcome.exit_code in _MET_BY_ALL and not outcome.of_record:
        raise _MET_BY_ALL[outcome.exit_code](f"{outcome.host}: {outcome.error}")
    return outcome


def _describe_failure(plan: Plan, outcome: Outcome) -> str:
    span = plan.spans[outcome.index]
    where = f"bytes {span.start:,} to {span.end:,} of {plan.locations[span.input_index]}"
    return f"span {span.index:,} ({where}) failed on {outcome.host}: {outcome.error}"


def _refuse_failed(plan: Plan, failed: Sequence[Outcome]) -> None:
    """Raise SpansError if there are any, or the error for want of memory if all of them failed with it."""
    if not failed:
        return
    codes = {one.exit_code for one in failed}
    same = [one for one in (MemoryLimitError, TooSmallError) if codes == {one.exit_code}]
    lines = list_some([_describe_failure(plan, one) for one in failed], separator="\n  ")
    raise (same[0] if same else SpansError)(
        f"{plural(len(failed), 'span')} failed, all others to be done here are done; fix what follows and "
        f"run the same command again (a changed input needs a new plan)\n  {lines}"
    )


def _bytes_of(spans: Iterable[Span]) -> int:
    return sum(span.end - span.start for span in spans)


class _Progress:
    """How far all spans together are."""

    def __init__(self, spans: Iterable[Span], done_bytes: int, open_display: OpenDisplay) -> None:
        self._display = open_display(_bytes_of(spans), done_bytes)
        self._done_bytes = done_bytes
        self._n_tokens = 0  # of what this process has seen done

    def add(self, span: Span, outcome: Outcome) -> None:
        self._done_bytes += span.end - span.start
        self._n_tokens += outcome.tokens
        self._display.show(bytes_read=self._done_bytes, tokens=self._n_tokens, memory_bytes=rss_bytes())

    def close(self) -> None:
        self._display.close()


class _ThisProcess(Executor):
    """Does a span, which is all it is given, there and then; if memory runs short, it is this one's own."""

    def __init__(self, check: Check) -> None:
        self._check = check

    def submit(self, _: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        work_dir, index, plan_hash, settings, location = args
        outcome = attempt(work_dir, index, plan_hash, settings, location, self._check)
        if outcome.exit_code == MemoryLimitError.exit_code:
            raise MemoryLimitError(outcome.error)
        future: Future[Any] = Future()
        future.set_result(outcome)
        return future
