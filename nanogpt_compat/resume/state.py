"""Decide whether a run can resume what an earlier one has left, with the inputs and options as they are now.

The options that decide the tokens must be the same. Those that say what to do about faults may change as long
as no fault was met. Inputs must be the same as far as they were read: see `input.print`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from nanogpt_compat.input.location import Format, Location
from nanogpt_compat.input.pipes import Pipe
from nanogpt_compat.input.print import Consumed, find_change
from nanogpt_compat.input.source import Source
from nanogpt_compat.resume.counters import Tally
from nanogpt_compat.resume.fingerprint import (
    TEXT_BYTES,
    may_have_changed,
    option_differences,
    size_differences,
)
from nanogpt_compat.system.units import format_bytes

ABOUT_FAULTS = {"--errors": "invalid_bytes", "--skip-bad-records": "skipped_records"}
"""The options that may change while nothing of what they are about was met, which `Tally` counts."""


def fixed_differences(old: Mapping[str, Any], new: Mapping[str, Any], paths: Sequence[object]) -> list[str]:
    """Say what differs that must never do so between two runs, whose headers are `old` and `new`."""
    options = [
        {name: value for name, value in header["options"].items() if name not in ABOUT_FAULTS}
        for header in (old, new)
    ]
    found = option_differences(*options)
    if options[0].get(TEXT_BYTES) != options[1].get(TEXT_BYTES):
        found += size_differences(old["inputs"], new["inputs"], paths)
    return found


def differences_at(
    tally: Tally, old: Mapping[str, Any], new: Mapping[str, Any], paths: Sequence[object]
) -> list[str]:
    """Say what else differs so that a run cannot resume at `tally`, as far as no input has to be read."""
    found = []
    for name, count in ABOUT_FAULTS.items():
        n_met = getattr(tally, count)
        was, now = ({name: header["options"].get(name)} for header in (old, new))
        if n_met and was != now:
            (text,) = option_differences(was, now)
            noun = count.replace("_", " ").removesuffix("s" if n_met == 1 else "")
            found.append(f"{text}, and what is saved holds {n_met:,} {noun}")
    n_begun = _n_begun(tally)
    if len(new["inputs"]) < n_begun:
        found.append(
            f"the number of inputs was {len(old['inputs']):,}, is {len(new['inputs']):,}, and what is saved "
            f"comes from {'the first' if n_begun == 1 else f'the first {n_begun:,}'}"
        )
    rows = zip(paths[:n_begun], old["inputs"], new["inputs"], strict=False)
    containers = [(path, *(Format.named(one["format"]).container for one in pair)) for path, *pair in rows]
    return found + [f"{path} was {was} and is {now}" for path, was, now in containers if was != now]


def consumed_at(tally: Tally) -> list[Consumed]:
    """List what was read of each input that was begun."""
    found = []
    for index in range(_n_begun(tally)):
        one = tally.inputs[index]
        position = tally.position if index == tally.position.input_index else None
        is_all = position is None or position.at_end
        found.append(Consumed(one.text_bytes, one.records, one.crc, is_all, position))
    return found


def consumed_in(made: Mapping[str, Any], max_chars: int | None) -> list[Consumed]:
    """List what was read of each input by a run that is complete, out of its report.

    Raises:
        KeyError, TypeError: it is no report of this version.
    """
    is_all = max_chars is None or made["chars"] < max_chars
    return [Consumed(one["text_bytes"], one["records"], one["crc32"], is_all) for one in made["inputs"]]


def _n_begun(tally: Tally) -> int:
    at = tally.position
    return at.input_index + bool(at.offset or at.records)


def changed_inputs(
    source: Source,
    read: Sequence[Consumed],
    old: Sequence[Mapping[str, Any]],
    new: Sequence[Mapping[str, Any]],
    *,
    say: Callable[[str], None],
    check: Callable[[], None],
    only: Iterable[int] | None = None,
    is_read_later: bool = False,
) -> Iterator[tuple[Location, str]]:
    """Yield each input that is not what it was, as far as it was `read`, and in words what has changed.

    An input is read again only if something hints at a change, a pipe always. With `is_read_later`, the pipe
    at which reading is to resume is left to its reader, since it can be read only once. `only`: the indices
    of the inputs to look at. `old` and `new` are as `describe_input` has them.

    Raises:
        InputError: an input cannot be read. And what `check` raises.
    """
    same_samples = [one["size"] for one in old] == [one["size"] for one in new]
    # Pipes come last: to read one for nothing would be the end of it.
    some = range(len(read)) if only is None else only
    for index in sorted(some, key=lambda index: isinstance(source.paths[index], Pipe)):
        path, one = source.paths[index], read[index]
        if not (one.n_bytes or one.n_records or one.is_all):
            continue
        if isinstance(path, Pipe):
            if is_read_later and one.position is not None:
                continue
            say(f"reading {format_bytes(one.n_bytes)} of {path} to compare them with what was read before")
        elif not may_have_changed(old[index], new[index], same_samples=same_samples):
            continue
        elif one.n_bytes:
            say(f"{path} has been touched: reading {format_bytes(one.n_bytes)} of it again to be sure")
        change = find_change(
            path,
            source.formats[index],
            one,
            documents=source.documents,
            errors=source.errors,
            check=check,
        )
        if change:
            yield path, change
