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
from nanogpt_compat.input.location import Format, Input, Location, Url, is_url
from nanogpt_compat.input.open import open_input
from nanogpt_compat.input.samples import take_samples
from nanogpt_compat.preflight.job import Job
from nanogpt_compat.preflight.look import look_into
from nanogpt_compat.resume.fingerprint import certain_of, describe_input, differences, has_hint_of_change
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
    """What is the same in all processes of a run."""

    options: Mapping[str, Any]  # the options that decide the tokens, and the program's version
    inputs: tuple[Input, ...]  # locations read from plan.json are only good for messages
    text_bytes: int | None  # all inputs together, uncompressed; None if unknown
    span_bytes: int
    document_ratio: float  # the share of documents for validation
    spans: tuple[Span, ...]
    hash: str

    @property
    def n_bytes(self) -> int:
        """The size of all inputs."""
        return sum(one.size_bytes or 0 for one in self.inputs)


def find_plan(
    config: Config, inputs: Sequence[Input], work_dir: Path, *, span_bytes: int, check: Callable[[], None]
) -> Plan:
    """Return the plan in a work folder, which must be for these inputs; make it if there is none.

    `check` is called for each input; if it raises, nothing is written.
    """
    plan = read_plan(work_dir)
    if plan is None:
        made = make_plan(look_into(config, inputs, is_planned=True, check=check), span_bytes=span_bytes)
        plan = write_plan(work_dir, made)
        if plan is made:
            return plan
    return check_inputs(plan, inputs, work_dir, n_val_inputs=config.n_val_inputs, check=check)


def make_plan(job: Job, *, span_bytes: int = SPAN_BYTES) -> Plan:
    """Make the plan for a job."""
    return _plan(
        options_of(job), tuple(map(_absolute, job.inputs)), job.text_bytes, span_bytes, job.document_ratio
    )


def options_of(job: Job) -> dict[str, Any]:
    """Return the options that all tasks of a plan must share.

    Options about faults of the input are not included: each part records those that it needed.
    """
    options = {name: value for name, value in job.token_options.items() if name not in ABOUT_FAULTS}
    return {"version": __version__, **options}


def _plan(
    options: Mapping[str, Any],
    inputs: tuple[Input, ...],
    text_bytes: int | None,
    span_bytes: int,
    document_ratio: float,
) -> Plan:
    certain = [[str(one.form), *certain_of(one.description)] for one in inputs]
    text = json.dumps([options, certain, text_bytes, span_bytes, document_ratio], sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    spans = cut_spans(inputs, span_bytes)
    return Plan(options, inputs, text_bytes, span_bytes, document_ratio, spans, digest)


def _absolute(one: Input) -> Input:
    """Return an input with an absolute path, for processes with another current folder."""
    return replace(one, location=one.location.absolute()) if isinstance(one.location, Path) else one


def cut_spans(inputs: Sequence[Input], span_bytes: int) -> tuple[Span, ...]:
    """Cut each input into equal spans of at most `span_bytes`; some formats are one span.

    >>> [(one.start, one.end) for one in cut_spans([Input(Path("a"), Format("text"), {"size": 10})], 4)]
    [(0, 3), (3, 6), (6, 10)]
    """
    spans: list[Span] = []
    for index, one in enumerate(inputs):
        size = one.size_bytes or 0
        n_spans = -(-size // span_bytes)
        if one.form.is_one_span:
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
        record = {
            "hash": plan.hash,
            "text_bytes": plan.text_bytes,
            "span_bytes": plan.span_bytes,
            "document_ratio": plan.document_ratio,
            "options": plan.options,
            # Addresses are stored without password and query.
            "inputs": [{"location": str(one.location), **one.as_record()} for one in plan.inputs],
        }
        write_json(temp, record, indent=1)
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
        raise OutputError(f"cannot write {path}: {error.strerror}; {advice(error)} and run again") from error
    found = plan if is_ours else read_plan(work_dir)
    if found is None:
        raise OutputError(f"{path} was removed right after it was written; run the same command again")
    return found


def read_plan(work_dir: Path) -> Plan | None:
    """Read plan.json; return None if there is none. Raise a CheckpointError if it is damaged or edited."""
    path = work_dir / PLAN_NAME
    try:
        made = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror}; {advice(error)} and run again") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}; {_start_over(path)}") from error
    try:
        plan = _plan(
            made["options"],
            tuple(map(_input_of, made["inputs"])),
            made["text_bytes"],
            made["span_bytes"],
            made["document_ratio"],
        )
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"{path} is not a plan of this program; {_start_over(path)}") from error
    if plan.hash != made.get("hash"):
        raise CheckpointError(f"{path} was changed after it was made; {_start_over(path)}")
    return plan


def _input_of(record: Mapping[str, Any]) -> Input:
    place, form = record["location"], Format.named(record["format"])
    described = {name: value for name, value in record.items() if name not in ("location", "format")}
    return Input(Url(place) if is_url(place) else Path(place), form, described)


def _start_over(path: Path) -> str:
    """Return advice about a plan; parts that were made for the same plan stay valid when it is made again."""
    return f"give another --work-dir, or remove {path} to make a new plan"


def check_options(plan: Plan, job: Job, work_dir: Path) -> None:
    """Raise a CheckpointError with the differences if a job would not make the plan's tokens."""
    _refuse(work_dir, differences(plan.options, options_of(job), [], []))


def check_input(plan: Plan, index: int, work_dir: Path, *, path: Location | None = None) -> None:
    """Raise a CheckpointError if an input is not the planned one. It may have moved to `path`."""
    planned = plan.inputs[index]
    old = planned.description
    path = planned.location if path is None else path
    # Files uploaded together may have the same date and size, and addresses that differ only in a query.
    is_shown_whole = not isinstance(path, Url) or str(path) == path.address
    is_same_place = is_shown_whole and str(path) == str(planned.location)
    with open_input(path) as file:
        new = describe_input(file.size_bytes, file.hints, (), split=old.get("split", ""))
        if not is_same_place or has_hint_of_change(old, new) or old["size"] != new["size"]:
            samples = take_samples(file, total_bytes=plan.n_bytes, n_inputs=len(plan.inputs))
            data = (sample.data for sample in samples)
            new = describe_input(file.size_bytes, file.hints, data, split=old.get("split", ""))
            _refuse(work_dir, differences({}, {}, [old], [Input(path, planned.form, new)]))


def check_inputs(
    plan: Plan,
    inputs: Sequence[Input],
    work_dir: Path,
    *,
    n_val_inputs: int = 0,
    check: Callable[[], None] = lambda: None,
) -> Plan:
    """Raise a CheckpointError unless the inputs are the planned ones; return the plan with their paths.

    Each process takes the paths from its own command line: plan.json has no passwords, a signed address may
    have been renewed, and a file may have been moved.
    """
    n_planned = sum(one.description.get("split") == "val" for one in plan.inputs)
    for what, was, now in (
        ("inputs", len(plan.inputs), len(inputs)),
        ("inputs of --val-input", n_planned, n_val_inputs),
    ):
        if was != now:
            _refuse(work_dir, [f"the number of {what} was {was:,}, is {now:,}"])
    found = with_locations(plan.inputs, [_absolute(one) for one in inputs])
    for index, one in enumerate(found):
        check()
        check_input(plan, index, work_dir, path=one.location)
    return replace(plan, inputs=found)


def with_locations(planned: Sequence[Input], given: Sequence[Input]) -> tuple[Input, ...]:
    """Return planned inputs at the locations given now."""
    return tuple(replace(one, location=now.location) for one, now in zip(planned, given, strict=True))


def _refuse(work_dir: Path, found: Sequence[str]) -> None:
    if found:
        path = work_dir / PLAN_NAME
        raise CheckpointError(
            f"{path} was made for a different run: {'; '.join(found)}. Run with the original inputs and "
            f"options, or {_start_over(path)}"
        )
