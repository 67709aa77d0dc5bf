"""Do one span of a plan: run the ordinary pipeline over a range of an input, and write a part.

A task may run any number of times on any machine, even twice at once: a part counts once its sidecar is
written, and every attempt writes the same tokens.
"""

import os
import platform
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from nanogpt_compat.cluster.parts import commit_part, parts_folder, read_mismatch, read_part, write_mismatch
from nanogpt_compat.cluster.plan import PLAN_NAME, Plan, Span, check_input, check_options, read_plan
from nanogpt_compat.config import Config
from nanogpt_compat.encoders.choose import Choice
from nanogpt_compat.encoders.forecast import Estimate
from nanogpt_compat.encoders.interface import EngineMismatch
from nanogpt_compat.encoders.vocabulary import Vocabulary
from nanogpt_compat.errors import CheckpointError, InputError, OutputError, PrepareError, TooSmallError
from nanogpt_compat.input.location import Location, Url
from nanogpt_compat.input.reader import Reader
from nanogpt_compat.input.repairs import BadRecord
from nanogpt_compat.input.source import reader_bytes
from nanogpt_compat.memory.limits import peak_rss_bytes
from nanogpt_compat.output.ends import ends_stream, lay_out_ends, n_ends
from nanogpt_compat.output.folders import work_folder
from nanogpt_compat.output.layout import Outputs, Shards
from nanogpt_compat.output.token_file import window_for
from nanogpt_compat.output.writer import TokenFiles
from nanogpt_compat.preflight.job import REPORTED_OPTIONS, Job, with_reference
from nanogpt_compat.preflight.look import open_engine
from nanogpt_compat.resume.counters import InputTally, Tally
from nanogpt_compat.resume.state import ABOUT_FAULTS
from nanogpt_compat.run.supervise import Check, Watch
from nanogpt_compat.system.display import CalmStream
from nanogpt_compat.system.filesystem import advice, replace_durably
from nanogpt_compat.system.redaction import learn_all, redact
from nanogpt_compat.system.signals import StoppedBySignal
from nanogpt_compat.system.voice import Voice
from nanogpt_compat.text.blocks import Position


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of an attempt at a span. It is small, since it goes through the scheduler."""

    index: int
    host: str
    tokens: int = 0
    error: str = ""  # "" if the part was made
    exit_code: int = 0
    of_record: bool = False  # a single record needs too much memory; other spans may succeed


def attempt(
    work_dir: str,
    index: int,
    plan_hash: str,
    settings: Config,
    location: Location,
    check: Check = lambda: None,
) -> Outcome:
    """Do a span in this process; errors are returned as an outcome, not raised.

    `location`: the input of this span, including the secrets of its address, which are not in the plan.
    """
    host = platform.node()
    learn_all([location.address] if isinstance(location, Url) else [], os.environ)
    try:
        plan = _load_plan(Path(work_dir), plan_hash)
        span = plan.spans[index]
        inputs = list(plan.inputs)
        inputs[span.input_index] = replace(inputs[span.input_index], location=location)
        plan = replace(plan, inputs=tuple(inputs))
        part = run_span(Path(work_dir), plan, span, settings, check=check)
    except StoppedBySignal:
        raise
    except Exception as error:  # noqa: BLE001 - no error of one span may end the other spans
        text = str(error) if isinstance(error, PrepareError) else repr(error)
        of_record = isinstance(error, TooSmallError) and bool(error.way_out)
        code = getattr(error, "exit_code", 1)
        return Outcome(index, host, error=redact(text), exit_code=code, of_record=of_record)
    return Outcome(index, host, tokens=sum(one["tokens"] for one in part["files"].values()))


def _load_plan(work_dir: Path, plan_hash: str) -> Plan:
    stat = None
    with suppress(OSError):  # reading the plan reports the error
        stat = (work_dir / PLAN_NAME).stat()
    plan = _read_plan(work_dir, stat and (stat.st_mtime_ns, stat.st_ino))
    if plan is None or plan.hash != plan_hash:
        raise CheckpointError(f"{work_dir} has another plan by now; run the same command again")
    return plan


@lru_cache(maxsize=2)
def _read_plan(work_dir: Path, _version: tuple[int, int] | None) -> Plan | None:
    """Read the plan, which may be large, once for each version of the file."""
    return read_plan(work_dir)


_open_engine = lru_cache(maxsize=2)(open_engine)


def job_of(plan: Plan, settings: Config, work_dir: Path) -> Job:
    """Return the job of a plan, with this machine's engine.

    Raise a CheckpointError if the options, the vocabulary, tiktoken or this program's version differ from the
    plan's.
    """
    opened: tuple[Vocabulary, Choice] = _open_engine(
        settings, reader_bytes=reader_bytes(one.form for one in plan.inputs)
    )
    vocabulary, chosen = opened
    config = replace(settings, n_workers=min(settings.n_workers, chosen.encoder.most_workers))
    forecast = Estimate(plan.n_bytes, 0, 0.0)
    job = Job(
        config,
        plan.inputs,
        vocabulary,
        chosen.encoder,
        chosen.line,
        forecast,
        plan.text_bytes,
        plan.document_ratio,
    )
    check_options(plan, job, work_dir)
    return job


def run_span(work_dir: Path, plan: Plan, span: Span, settings: Config, *, check: Check) -> dict[str, Any]:
    """Make the part of a span unless there is a valid one; return its sidecar."""
    mismatch = read_mismatch(work_dir, plan)
    part = read_part(work_dir, plan, span.index, settings, mismatch=mismatch)
    if part is not None:
        return part
    check_input(plan, span.input_index, work_dir)
    job = job_of(plan, settings, work_dir)
    if mismatch:
        job = with_reference(job)
    reader = job.source.reader(span.input_index)
    start, end = reader.bounds(span.start, span.end, check)
    most_bytes = job.encoder.cache_bytes
    counted = reader.counted_from(start)
    try:
        try:
            return _make_part(work_dir, plan, span, job, reader, start, end, check)
        except EngineMismatch as error:
            name = f"{job.encoder.name} {job.encoder.version}"
            write_mismatch(work_dir, plan, f"{name} gave other tokens than tiktoken for {error}")
            return _make_part(work_dir, plan, span, with_reference(job), reader, start, end, check)
    except BadRecord as error:  # do not advise repairing the file: that would need a new plan
        skip = f"give --skip-bad-records to skip such {error.noun}s"
        raise InputError(f"{error.where}: {error.reason}{counted}; {skip}") from error
    except InputError as error:
        if not counted:
            raise
        raise InputError(f"{error}{counted}") from error
    except TooSmallError as error:
        if not (counted and error.way_out):
            raise
        raise TooSmallError(f"{error}{counted}", way_out=error.way_out) from error
    finally:
        if job.encoder.cache_bytes < most_bytes:
            _open_engine.cache_clear()  # memory was short: the next span reads again how much is available


def _make_part(
    work_dir: Path, plan: Plan, span: Span, job: Job, reader: Reader, start: int, end: int, check: Check
) -> dict[str, Any]:
    folder = parts_folder(work_dir, plan)
    word = f"{span.index:08d}.{platform.node()}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
    splits = ["val", "train"] if job.config.has_val else ["train"]
    outputs = {split: Shards(folder, f"{word}.{split}.bin") for split in splits}
    temporary = lay_out_ends(outputs) if job.documents is not None and job.documents.needs_ends else {}
    at = reader.position(span.input_index, start)
    # The sizes of the inputs decide where the windows are.
    tally = Tally([InputTally(text_bytes=one.size_bytes or 0) for one in plan.inputs], at)
    one = tally.inputs[span.input_index]
    one.text_bytes, one.records = at.offset, at.records
    files: dict[str, Any] = {}
    try:
        work_folder(folder)
        window_bytes = window_for(2 * (span.end - span.start))
        if end > start:
            files = _fill(outputs, temporary, job, tally, end, window_bytes, check)
            _check_end(reader, tally.position, start, end)
        one.text_bytes -= at.offset
        one.records -= at.records
        part = {
            "plan": plan.hash,
            "span": span.index,
            "input": span.input_index,
            "start": start,
            "end": end,
            "files": files,
            "faults": {  # options such as --errors, for the faults that did occur
                name: getattr(job.config, REPORTED_OPTIONS[name])
                for name, count in ABOUT_FAULTS.items()
                if getattr(tally, count)
            },
            "tally": tally.to_record(since_input=span.input_index) | {"inputs": {"0": asdict(one)}},
            "engine": job.encoder.name,
            "host": platform.node(),
            "ended_s": round(time.time(), 3),
            "peak_rss_bytes": peak_rss_bytes(),
        }
        commit_part(work_dir, plan, part)
    except BaseException as error:
        for shards in (outputs | temporary).values():
            with suppress(OSError):
                shards.path(0).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OutputError(f"cannot write to {folder}: {error.strerror}; {advice(error)}") from error
        raise
    finally:
        for shards in (outputs | temporary).values():
            with suppress(OSError):
                shards.partial(0).unlink(missing_ok=True)
    return part


def _check_end(reader: Reader, at: Position, start: int, end: int) -> None:
    found = reader.place(at)
    if found != end and reader.form.compression == "none":
        raise InputError(
            f"{reader.location}: the span from {start:,} to {end:,} was read up to {found:,}, so the file is "
            "damaged or has changed; fetch or make it again"
        )


def _fill(
    outputs: Outputs, temporary: Outputs, job: Job, tally: Tally, end: int, window_bytes: int, check: Check
) -> dict[str, Any]:
    """Write the tokens from `tally.position` to `end`; return the files by split, as the sidecar has them.

    `temporary`: the streams with the ends of documents, if they are needed.
    """
    started_s = time.monotonic()
    watch = Watch(job, Voice(CalmStream(None), is_quiet=True, check=check))
    with watch, TokenFiles(outputs, n_tokens={}, window_bytes=window_bytes, temporary=temporary) as written:
        try:
            watch.go_through(job, written, tally, flush=written.drop_pages, end=end)
        except MemoryError as error:
            raise watch.memory_refused() from error
        segment, _ = written.begin_checkpoint()
        written.finish()
    files: dict[str, Any] = {}
    for split, shards in outputs.items():
        n_tokens = segment.tokens[split]
        if n_tokens:
            replace_durably(shards.partial(0), shards.path(0))
            files[split] = {"name": shards.name(0), "tokens": n_tokens, "crc32": segment.crcs[split]}
            if temporary:
                stream = ends_stream(split)
                ends = temporary[stream]
                replace_durably(ends.partial(0), ends.path(0))
                n_documents = n_ends(segment.tokens, split)
                files[split]["ends"] = {
                    "name": ends.name(0),
                    "documents": n_documents,
                    "crc32": segment.crcs[stream],
                }
    tally.wall_s = round(time.monotonic() - started_s, 3)
    return files
