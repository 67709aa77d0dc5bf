"""The plan of a run on many machines: its inputs, options and spans, frozen in plan.json.

A span is a nominal byte range of one input; `Reader.bounds` finds where it really begins and ends. Each
part carries the plan's hash, and parts of another plan are never used.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanogpt_compat import __version__
from nanogpt_compat.config import SPAN_BYTES, Config
from nanogpt_compat.errors import CheckpointError, OutputError
from nanogpt_compat.input.location import Format, Location, Url, is_url
from nanogpt_compat.input.open import open_input
from nanogpt_compat.input.samples import take_samples
from nanogpt_compat.preflight import Job, look_into
from nanogpt_compat.resume.fingerprint import describe_input, differences, has_hint_of_change, split_of
from nanogpt_compat.resume.state import ABOUT_FAULTS
from nanogpt_compat.system.filesystem import advice, write_json

PLAN_NAME = "plan.json"


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes `[start, end)` of an input, nominally."""

    index: int
    input_index: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What all processes of a run have in common."""

    options: Mapping[str, Any]  # the options that decide the tokens, and the program's version
    locations: tuple[Location, ...]  # of the inputs; those read from plan.json are only good for messages
    formats: tuple[Format, ...]
    inputs: tuple[Mapping[str, Any], ...]  # as returned by `describe_input`
    text_bytes: int | None  # of all inputs, uncompressed; None if unknown
    span_bytes: int
    document_ratio: float  # the share of documents for validation
    spans: tuple[Span, ...]
    hash: str


def find_plan(config: Config, work_dir: Path, *, span_bytes: int, check: Callable[[], None]) -> Plan:
    """Return the plan in a work folder, which must be for the inputs of `config`; make it if there is none.

    `check` is called for each input; if it raises, nothing is written.
    """
    plan = read_plan(work_dir)
    if plan is None:
        made = make_plan(look_into(config, is_planned=True, check=check), span_bytes=span_bytes)
        plan = write_plan(work_dir, made)
        if plan is made:
            return plan
    return check_inputs(plan, config.inputs, work_dir, n_val_inputs=config.n_val_inputs, check=check)


def make_plan(job: Job, *, span_bytes: int = SPAN_BYTES) -> Plan:
    """Make the plan for a job."""
    config = job.config
    return _plan(
        options_of(job),
        _absolute(config.inputs),
        config.formats,
        job.inputs,
        job.text_bytes,
        span_bytes,
        job.document_ratio,
    )


def options_of(job: Job) -> dict[str, Any]:
    """Return the options that all tasks of a plan must share.

    Options about faults of the input are not included: each part records those that it needed.
    """
    options = {name: value for name, value in job.token_options.items() if name not in ABOUT_FAULTS}
    return {"version": __version__, **options}


def _plan(
    options: Mapping[str, Any],
    locations: tuple[Location, ...],
    formats: tuple[Format, ...],
    inputs: tuple[Mapping[str, Any], ...],
    text_bytes: int | None,
    span_bytes: int,
    document_ratio: float,
) -> Plan:
    rows = zip(formats, inputs, strict=True)
    certain = [[str(form), one["size"], one["samples"], *split_of(one)] for form, one in rows]
    text = json.dumps([options, certain, text_bytes, span_bytes, document_ratio], sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    spans = cut_spans([one["size"] for one in inputs], formats, span_bytes)
    return Plan(options, locations, formats, inputs, text_bytes, span_bytes, document_ratio, spans, digest)


def _absolute(locations: Sequence[Location]) -> tuple[Location, ...]:
    """Return absolute paths, for processes with another current folder."""
    return tuple(one.absolute() if isinstance(one, Path) else one for one in locations)


def cut_spans(sizes: Sequence[int], formats: Sequence[Format], span_bytes: int) -> tuple[Span, ...]:
    """Cut each input into equal spans of at most `span_bytes`; some formats are one span.

    >>> [(one.start, one.end) for one in cut_spans([10], [Format("text")], 4)]
    [(0, 3), (3, 6), (6, 10)]
    """
    spans: list[Span] = []
    for index, (size, form) in enumerate(zip(sizes, formats, strict=True)):
        n_spans = -(-size // span_bytes)
        if form.is_one_span:
            n_spans = min(1, n_spans)
        for k in range(n_spans):
            spans.append(Span(len(spans), index, size * k // n_spans, size * (k + 1) // n_spans))
    return tuple(spans)


def write_plan(work_dir: Path, plan: Plan) -> Plan:
    """Write plan.json unless it exists; return the plan that is in it then."""
    path = work_dir / PLAN_NAME
    temp = path.with_name(f"{PLAN_NAME}.{uuid.uuid4().hex}")
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        write_json(temp, _as_record(plan), indent=1)
        try:
            os.link(temp, path)  # if several ranks begin at once, only one of them makes the plan
            is_ours = True
        except FileExistsError:
            is_ours = False
        except OSError:  # this file system has no hard links; all ranks write the same plan
            temp.replace(path)
            is_ours = True
        temp.unlink(missing_ok=True)
    except OSError as error:
        raise _not_written(path, error) from error
    found = plan if is_ours else read_plan(work_dir)
    if found is None:
        raise OutputError(f"{path} was removed right after it was written; run the same command again")
    return found


def _as_record(plan: Plan) -> dict[str, Any]:
    """Return the contents of plan.json, with addresses of inputs, but without their passwords and queries."""
    rows = zip(plan.locations, plan.formats, plan.inputs, strict=True)
    return {
        "hash": plan.hash,
        "text_bytes": plan.text_bytes,
        "span_bytes": plan.span_bytes,
        "document_ratio": plan.document_ratio,
        "options": plan.options,
        "inputs": [{"location": str(one), "format": str(form), **described} for one, form, described in rows],
    }


def read_plan(work_dir: Path) -> Plan | None:
    """Read plan.json; return None if there is none. Raise a CheckpointError if it is damaged or edited."""
    path = work_dir / PLAN_NAME
    try:
        made = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; {_start_over(work_dir)}") from error
    try:
        inputs = made["inputs"]
        places = [one.pop("location") for one in inputs]
        plan = _plan(
            made["options"],
            tuple(Url(one) if is_url(one) else Path(one) for one in places),
            tuple(Format.named(one.pop("format")) for one in inputs),
            tuple(inputs),
            made["text_bytes"],
            made["span_bytes"],
            made["document_ratio"],
        )
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"{path} is not a plan of this program; {_start_over(work_dir)}") from error
    if plan.hash != made.get("hash"):
        raise CheckpointError(f"{path} was changed after it was made; {_start_over(work_dir)}")
    return plan


def _start_over(work_dir: Path) -> str:
    return f"give another --work-dir, or remove {work_dir} to start over"


def check_options(plan: Plan, job: Job, work_dir: Path) -> None:
    """Raise a CheckpointError with the differences if a job would not make the plan's tokens."""
    _refuse(work_dir, differences(plan.options, options_of(job), [], [], []))


def check_input(plan: Plan, index: int, work_dir: Path, *, path: Location | None = None) -> None:
    """Raise a CheckpointError if an input is not the planned one. It may have moved to `path`."""
    old, planned = plan.inputs[index], plan.locations[index]
    path = planned if path is None else path
    # Files uploaded together may have the same date and size, and addresses that differ only in a query.
    is_same_place = str(path) == str(planned) and not (isinstance(path, Url) and not path.is_shown_whole)
    with open_input(path) as file:
        new = describe_input(file.size_bytes, file.hints, (), split=old.get("split", ""))
        if not is_same_place or has_hint_of_change(old, new) or old["size"] != new["size"]:
            total_bytes = sum(one["size"] for one in plan.inputs)
            samples = take_samples(file, total_bytes=total_bytes, n_inputs=len(plan.inputs))
            data = (sample.data for sample in samples)
            new = describe_input(file.size_bytes, file.hints, data, split=old.get("split", ""))
            _refuse(work_dir, differences({}, {}, [old], [new], [path]))


def check_inputs(
    plan: Plan,
    paths: Sequence[Location],
    work_dir: Path,
    *,
    n_val_inputs: int = 0,
    check: Callable[[], None] = lambda: None,
) -> Plan:
    """Raise a CheckpointError unless the inputs are the planned ones; return the plan with these paths.

    Each process takes the paths from its own command line: plan.json has no passwords, a signed address may
    have been renewed, and a file may have been moved.
    """
    n_planned = sum(one.get("split") == "val" for one in plan.inputs)
    for what, was, now in (
        ("inputs", len(plan.inputs), len(paths)),
        ("inputs of --val-input", n_planned, n_val_inputs),
    ):
        if was != now:
            _refuse(work_dir, [f"the number of {what} was {was:,}, is {now:,}"])
    locations = _absolute(paths)
    for index, path in enumerate(locations):
        check()
        check_input(plan, index, work_dir, path=path)
    return replace(plan, locations=locations)


def _not_written(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {path}: {error.strerror}; {advice(error)} and run again")


def _refuse(work_dir: Path, found: Sequence[str]) -> None:
    if found:
        raise CheckpointError(
            f"{work_dir / PLAN_NAME} was made for a different run: {'; '.join(found)}. Run with the original "
            f"inputs and options, or {_start_over(work_dir)}"
        )
