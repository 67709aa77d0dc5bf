"""Run the spans of a plan on an executor or as one rank of many, and merge their parts.

drive        run spans on a concurrent.futures.Executor (executors.py has two)
Driver       run all spans; or, as a rank, every Nth one in this process, for Slurm arrays, Kubernetes indexed
             jobs or a loop over ssh; or merge the parts to the files that one machine would have made
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanogpt_compat.cluster.executors import open_executor
from nanogpt_compat.cluster.parts import Parts, list_some, remove_parts, spans_to_do, write_index
from nanogpt_compat.cluster.plan import (
    PLAN_NAME,
    Plan,
    Span,
    check_inputs,
    find_plan,
    read_plan,
    with_locations,
)
from nanogpt_compat.cluster.worker import Outcome, attempt, job_of
from nanogpt_compat.config import Config, Share
from nanogpt_compat.encoders.forecast import Estimate
from nanogpt_compat.errors import (
    CheckpointError,
    MemoryLimitError,
    OutputError,
    PrepareError,
    SpansError,
    TooSmallError,
    UsageError,
)
from nanogpt_compat.input.location import Input
from nanogpt_compat.memory.limits import rss_bytes
from nanogpt_compat.preflight.checks import check_names
from nanogpt_compat.preflight.look import look_into
from nanogpt_compat.report import read_report, warn_of_empty
from nanogpt_compat.resume.checkpoint import Found, journal_in, read_found
from nanogpt_compat.resume.lock import FolderLock
from nanogpt_compat.run.run import Run
from nanogpt_compat.run.supervise import Check
from nanogpt_compat.system.filesystem import advice
from nanogpt_compat.system.signals import StoppedBySignal
from nanogpt_compat.system.units import plural
from nanogpt_compat.system.voice import Voice

MAX_TRIES = 3
_DIED = 128 + 9  # the exit code for a worker that has died, as a shell reports a killed process
_MET_BY_ALL = {one.exit_code: one for one in (UsageError, OutputError, CheckpointError, TooSmallError)}
"""Errors of the options, the shared folder or the program. All other spans would fail with them too."""
_LOST = "its part was made, but is missing or no longer valid"
_LOOK_UP_EVERY_S = 0.2
_MEMORY_PAUSE_S = 30.0  # else a worker short of memory would fail spans faster than other workers do them


class Driver:
    """One process's share of a run on many machines.

    An error that `voice.check` raises ends the work, and finished spans are kept.
    """

    def __init__(self, config: Config, inputs: Sequence[Input], share: Share, voice: Voice) -> None:
        self._config = config
        self._inputs = inputs
        self._modest = replace(config, engine="tiktoken")  # for steps that encode only samples
        self._share = share
        self._voice = voice

    def do(self, *, restart: bool) -> None:
        """Do this process's share: a rank's spans, or all spans, or the merge, or both."""
        share = self._share
        if share.rank is not None:
            if not self._has_nothing_to_do(restart=False):
                self._do_rank(*share.rank)
            return
        try:
            share.work_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make {share.work_dir}: {error.strerror}; {advice(error)}") from error
        with FolderLock(share.work_dir / "lock"):
            if self._has_nothing_to_do(restart=restart):
                if share.merge:
                    remove_parts(share.work_dir)
                return
            if share.scheduler is not None:
                self._do_all(share.scheduler, restart=restart)
            if share.merge:
                plan = read_plan(share.work_dir)
                if plan is None:
                    raise SpansError(
                        f"{share.work_dir} has no {PLAN_NAME}, so there is nothing to merge; run with "
                        "--cluster or --rank first"
                    )
                run, _ = self._run_of(plan)
                run.do(restart=restart)
                remove_parts(share.work_dir)

    def _has_nothing_to_do(self, *, restart: bool) -> bool:
        """Return whether the output is complete and is not to be made again; print that.

        A task that runs again after the merge then has nothing to do.
        """
        if restart or self._config.overwrite:
            return False
        if read_report(self._config.output_dir) is None:  # the usual case is cheap
            return False
        return Run(look_into(self._modest, self._inputs), self._voice).has_nothing_to_do(restart=restart)

    def _find_plan(self) -> Plan:
        """Check that the plan is for this run; make it if there is none."""
        work_dir = self._share.work_dir
        span_bytes, check = self._share.span_bytes, self._voice.check
        plan = find_plan(self._modest, self._inputs, work_dir, span_bytes=span_bytes, check=check)
        job_of(plan, self._modest, work_dir)  # refuses another vocabulary or version
        self._voice.say(
            f"plan {plan.hash[:12]}: {plural(len(plan.spans), 'span')} of {plural(len(plan.inputs), 'input')}"
        )
        return plan

    def _do_all(self, scheduler: str, *, restart: bool) -> None:
        work_dir = self._share.work_dir
        if self._share.merge:  # refuse now to replace files that it would refuse to replace hours later
            found = Found() if restart else read_found(journal_in(self._config.output_dir))
            if found.report is None:  # otherwise, an earlier merge may have published some of them
                check_names(self._config, self._inputs, found, is_restart=restart)
        if restart:
            remove_parts(work_dir)
        plan = self._find_plan()
        with open_executor(scheduler, self._config.n_workers, self._voice.check) as (executor, window):
            settings = replace(self._config, n_workers=1)
            drive(plan, executor, work_dir=work_dir, settings=settings, window=window, voice=self._voice)
        self._voice.say(f"done: {plural(len(plan.spans), 'span')}, with parts in {work_dir}")
        if not self._share.merge:
            self._write_index(plan)

    def _do_rank(self, rank: int, size: int) -> None:
        """Do the spans with numbers `rank`, `rank + size`, `rank + 2 * size` and so on."""
        work_dir = self._share.work_dir
        plan, settings = self._find_plan(), _for_tasks(self._config)
        self._voice.say(job_of(plan, settings, work_dir).engine_line)
        drive(
            plan,
            _ThisProcess(self._voice.check),
            work_dir=work_dir,
            settings=settings,
            window=lambda: 1,
            voice=self._voice,
            spans=plan.spans[rank::size],
        )
        self._voice.say(f"rank {rank} of {size} is done: its parts are in {work_dir}")
        if self._config.shuffle:  # the parts are of no use before the merge shuffles them
            return
        if next(spans_to_do(work_dir, plan, settings), None) is None:  # this was the last rank at work
            self._write_index(plan)

    def _write_index(self, plan: Plan) -> None:
        """Write the index: the files of all parts, which are not merged, and the report of a whole run."""
        run, parts = self._run_of(plan)
        made = run.build_report(parts.tally, parts.mismatch)
        path = write_index(self._share.work_dir, {**made, "files": parts.files()})
        self._voice.warn(*warn_of_empty(made["inputs"]))
        self._voice.say(f"{path} lists the parts in order")

    def _run_of(self, plan: Plan) -> tuple[Run, Parts]:
        """Return the run that merges all parts of a plan, and the parts."""
        work_dir, config = self._share.work_dir, self._config
        plan = check_inputs(
            plan, self._inputs, work_dir, n_val_inputs=config.n_val_inputs, check=self._voice.check
        )
        job = job_of(plan, self._modest, work_dir)  # reports options that differ before missing parts
        parts = Parts(work_dir, plan, config)
        tally = parts.tally
        self._voice.say(parts.line())
        parts.check_texts(job.source, say=self._voice.say, check=self._voice.check)
        job = replace(
            job,
            config=replace(job.config, engine=config.engine),
            inputs=with_locations(plan.inputs, self._inputs),
            forecast=Estimate(plan.n_bytes, tally.tokens, 0.0, tally.val_tokens, tally.documents),
        )
        return Run(job, self._voice, fill=parts), parts


def drive(
    plan: Plan,
    executor: Executor,
    *,
    work_dir: Path,
    settings: Config,
    window: Callable[[], int],
    voice: Voice,
    spans: Sequence[Span] | None = None,
) -> None:
    """Run all spans (or `spans`) that are not done yet on an executor, `window()` of them at a time.

    A span that fails is tried again after the other spans, up to `MAX_TRIES` times in all; but not if one of
    its records needs too much memory. A span whose worker has died is tried once more, alone, so that it
    cannot take other spans down with it.
    """
    settings = _for_tasks(settings)
    asked = plan.spans if spans is None else spans
    queue, n_most = _Queue(), 1

    def list_todo() -> list[Span]:
        return [one for one in spans_to_do(work_dir, plan, settings, asked) if one.index not in queue.failed]

    done_bytes, n_tokens = _bytes_of(asked) - _bytes_of(list_todo()), 0
    with voice.open_display(_bytes_of(asked), done_bytes, rss_bytes) as display:
        for _ in range(MAX_TRIES):  # more than once only if finished parts turn out to be invalid
            queue.todo.extend(list_todo())
            while queue.todo or queue.pending:
                voice.check()
                for future in wait(queue.pending, _LOOK_UP_EVERY_S, FIRST_COMPLETED).done:
                    span = queue.pending.pop(future)
                    outcome = _outcome_of(future, span)
                    if outcome.error:
                        voice.warn(_describe_failure(plan, outcome))
                        queue.put_back(span, outcome)
                    else:
                        done_bytes += span.end - span.start
                        n_tokens += outcome.tokens
                        display.show(bytes_read=done_bytes, tokens=n_tokens)
                n_before, n_most = n_most, _ask(window)
                if n_before and not n_most:
                    voice.warn("no worker is available; waiting for one")
                while next_one := queue.take(n_most):
                    location = plan.inputs[next_one.input_index].location
                    arguments = (str(work_dir), next_one.index, plan.hash, settings, location)
                    queue.pending[_ask(executor.submit, attempt_elsewhere, *arguments)] = next_one
    lost = [Outcome(one.index, "an unknown host", error=_LOST) for one in list_todo()]
    _refuse_failed(plan, [*queue.failed.values(), *lost])


class _Queue:
    """The spans to do, the spans under way, and those that have failed for good."""

    def __init__(self) -> None:
        self.todo = deque[Span]()
        self.pending: dict[Future[Outcome], Span] = {}
        self.failed: dict[int, Outcome] = {}
        self._n_failures = Counter[int]()
        self._deadly = set[int]()  # spans whose worker has died

    def take(self, n_most: int) -> Span | None:
        """Return the next span, or None if none may begin now; at most `n_most` may be under way."""
        if not self.todo:
            return None
        is_alone = any(one.index in self._deadly for one in (self.todo[0], *self.pending.values()))
        if len(self.pending) >= (1 if is_alone else max(1, n_most)):
            return None
        return self.todo.popleft()

    def put_back(self, span: Span, outcome: Outcome) -> None:
        """Queue a failed span again after the other spans, or count it as failed for good."""
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
    """Do a span in a worker process; if it ran out of memory, pause before the next."""
    outcome = attempt(*arguments)
    if outcome.exit_code == MemoryLimitError.exit_code:
        time.sleep(_MEMORY_PAUSE_S)
    return outcome


def _ask(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of an executor. If the executor has ended, turn its own error into a SpansError."""
    try:
        return call(*arguments)
    except (PrepareError, StoppedBySignal):
        raise
    except Exception as error:
        raise SpansError(_gone(error)) from error


def _gone(error: Exception) -> str:
    return (
        f"the workers have ended or cannot be reached any more ({type(error).__name__}: {error}); finished "
        "spans are kept: run the same command again to resume"
    )


def _for_tasks(config: Config) -> Config:
    """Return the options with an absolute path: a worker may have another current folder."""
    return replace(config, vocab_dir=config.vocab_dir and config.vocab_dir.absolute())


def _outcome_of(future: "Future[Outcome]", span: Span) -> Outcome:
    """Return the outcome of an attempt, or of a worker's death; raise an error that all spans would meet.

    An executor cancels the future when it has lost its scheduler, which is a SpansError.
    """
    try:
        outcome = future.result()
    except CancelledError as error:
        raise SpansError(_gone(error)) from error
    except Exception as error:  # noqa: BLE001 - each executor has its own error for a worker's death
        return Outcome(
            span.index, "an unknown host", error=f"{type(error).__name__}: {error}", exit_code=_DIED
        )
    if outcome.exit_code in _MET_BY_ALL and not outcome.of_record:
        raise _MET_BY_ALL[outcome.exit_code](f"{outcome.host}: {outcome.error}")
    return outcome


def _describe_failure(plan: Plan, outcome: Outcome) -> str:
    span = plan.spans[outcome.index]
    where = f"bytes {span.start:,} to {span.end:,} of {plan.inputs[span.input_index].location}"
    return f"span {span.index:,} ({where}) failed on {outcome.host}: {outcome.error}"


def _refuse_failed(plan: Plan, failed: Sequence[Outcome]) -> None:
    """Raise SpansError if any spans failed, or the memory error if all of them failed with it."""
    if not failed:
        return
    codes = {one.exit_code for one in failed}
    same = [one for one in (MemoryLimitError, TooSmallError) if codes == {one.exit_code}]
    lines = list_some([_describe_failure(plan, one) for one in failed], separator="\n  ")
    raise (same[0] if same else SpansError)(
        f"{plural(len(failed), 'span')} failed, all other spans of this process are done; fix these errors "
        f"and run the same command again (a changed input needs a new plan):\n  {lines}"
    )


def _bytes_of(spans: Iterable[Span]) -> int:
    return sum(span.end - span.start for span in spans)


class _ThisProcess(Executor):
    """An executor that does each span at once in this process, and raises MemoryLimitError itself."""

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
