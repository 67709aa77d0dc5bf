"""Decide whether a run can resume an earlier one with its present inputs and options.

Options that decide the tokens must be the same. Options about faults in the input may change as long as no
such fault was found. Inputs must be the same as far as they were read: see `input.reader`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from nanogpt_compat.input.location import Format, Input, Location
from nanogpt_compat.input.pipes import Pipe
from nanogpt_compat.input.reader import Consumed
from nanogpt_compat.input.source import Source
from nanogpt_compat.resume.counters import Tally
from nanogpt_compat.resume.fingerprint import (
    TEXT_BYTES,
    may_have_changed,
    option_differences,
    size_differences,
)
from nanogpt_compat.system.units import format_bytes, plural

ABOUT_FAULTS = {"--errors": "invalid_bytes", "--skip-bad-records": "skipped_records"}
"""Options about faults in the input, and the counter of `Tally` that must be 0 for the option to change."""


def fixed_differences(
    old: Mapping[str, Any], options: Mapping[str, Any], inputs: Sequence[Input]
) -> list[str]:
    """Return phrases for differences from an old header that always prevent resuming."""
    was, now = (
        {name: value for name, value in one.items() if name not in ABOUT_FAULTS}
        for one in (old["options"], options)
    )
    found = option_differences(was, now)
    if was.get(TEXT_BYTES) != now.get(TEXT_BYTES):
        found += size_differences(old["inputs"], inputs)
    return found


def differences_at(
    tally: Tally, old: Mapping[str, Any], options: Mapping[str, Any], inputs: Sequence[Input]
) -> list[str]:
    """Return phrases for other differences that prevent resuming at `tally`; reads no input."""
    found = []
    for name, count in ABOUT_FAULTS.items():
        n_met = getattr(tally, count)
        was, now = ({name: one.get(name)} for one in (old["options"], options))
        if n_met and was != now:
            (text,) = option_differences(was, now)
            noun = count.replace("_", " ").removesuffix("s" if n_met == 1 else "")
            found.append(f"{text}, but the saved part has {n_met:,} {noun}")
    n_inputs = f"the number of inputs was {len(old['inputs']):,}, is {len(inputs):,}"
    if tally.shuffled is not None and len(inputs) != len(old["inputs"]):
        found.append(f"{n_inputs}, but all of them are read, and their documents are being shuffled")
        return found
    n_begun = _n_begun(tally)
    if len(inputs) < n_begun:
        first = "the first" if n_begun == 1 else f"the first {n_begun:,}"
        found.append(f"{n_inputs}, but the saved part comes from {first}")
    begun = list(zip(old["inputs"][:n_begun], inputs, strict=False))
    for was, one in begun:
        split = one.description.get("split")
        if was.get("split") != split:  # an input for the other split was in this place
            n_now = sum(one.description.get("split") == "train" for one in inputs)
            found.append(
                f"{one.location} is for {split}, but the saved part has an input for {was['split']} in its "
                f"place (--input now has {plural(n_now, 'input')})"
            )
            break  # the first such input is enough
    for was, one in begun:
        container = Format.named(was["format"]).container
        if container != one.form.container:
            found.append(f"{one.location} was {container} and is {one.form.container}")
    return found


def consumed_at(tally: Tally) -> list[Consumed]:
    """Return how much was read of each input that was begun."""
    found = []
    for index in range(_n_begun(tally)):
        one = tally.inputs[index]
        position = tally.position if index == tally.position.input_index else None
        is_all = (position is None or position.at_end) and not one.is_left
        found.append(Consumed(one.text_bytes, one.records, one.crc, is_all, position))
    return found


def consumed_by(tally: Tally, has_ended: bool, *, n_limited: int) -> list[Consumed]:
    """Return how much was read of each input by a run that has read all that it will read.

    `has_ended`: no limit was reached in the first `n_limited` inputs.
    """
    return [
        Consumed(one.text_bytes, one.records, one.crc, has_ended or index >= n_limited)
        for index, one in enumerate(tally.inputs)
    ]


def consumed_in(made: Mapping[str, Any], max_chars: int | None) -> list[Consumed]:
    """Return how much a complete run has read of each input, from its report.

    Raises:
        KeyError, TypeError: it is not a report of this version.
    """
    if "stopped_at" in made:
        has_ended = made["stopped_at"] is None
    else:  # from an earlier version
        has_ended = max_chars is None or made["chars"] < max_chars
    return [
        Consumed(one["text_bytes"], one["records"], one["crc32"], has_ended or one.get("split") == "val")
        for one in made["inputs"]
    ]


def _n_begun(tally: Tally) -> int:
    at = tally.position
    return at.input_index + bool(at.offset or at.records)


def changed_inputs(
    source: Source,
    read: Sequence[Consumed],
    old: Sequence[Mapping[str, Any]],
    *,
    say: Callable[[str], None],
    check: Callable[[], None],
    only: Iterable[int] | None = None,
    is_read_later: bool = False,
) -> Iterator[tuple[Location, str]]:
    """Yield each input that has changed within the part that was `read`, and a phrase that describes how.

    `old` are earlier descriptions of the inputs. An input is read again only if its description suggests a
    change, but a pipe always. With `is_read_later`, skip the pipe at which reading resumes: it can be read
    only once, and its reader checks it. `only`: the indices of the inputs to check.
    """
    inputs = source.inputs
    same_samples = [one["size"] for one in old] == [one.size_bytes for one in inputs]
    # Pipes come last: reading one uses it up, for nothing if another input has changed.
    some = range(len(read)) if only is None else only
    for index in sorted(some, key=lambda index: isinstance(inputs[index].location, Pipe)):
        path, one = inputs[index].location, read[index]
        if not (one.n_bytes or one.n_records or one.is_all):
            continue
        if isinstance(path, Pipe):
            if is_read_later and one.position is not None:
                continue
            say(f"reading {format_bytes(one.n_bytes)} of {path} to compare them with what was read before")
        elif not may_have_changed(old[index], inputs[index].description, same_samples=same_samples):
            continue
        elif one.n_bytes:
            say(f"{path} may have changed: reading {format_bytes(one.n_bytes)} of it again to check")
        change = source.reader(index).change(one, check)
        if change:
            yield path, change
