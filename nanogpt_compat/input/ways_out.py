"""Find where the text is if it is not in the field that was asked for, and advise how to read it.

If all inputs have another field with text, the advice is the option that names it; otherwise a command that
converts the records to documents.
"""

import json
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO

from nanogpt_compat.input.compressed import ByteStream
from nanogpt_compat.input.location import Format, Location
from nanogpt_compat.input.open import open_input
from nanogpt_compat.input.records import MAX_ROW_GROUP_BYTES
from nanogpt_compat.input.repairs import Steps, convert_lines, convert_table, jq
from nanogpt_compat.input.tables import NoTextColumn, TextColumn
from nanogpt_compat.system.commands import show, this_command
from nanogpt_compat.text.blocks import MAX_LISTED
from nanogpt_compat.text.val_split import LOOK_AHEAD_BYTES

STEP_BYTES = 64 * 1024
_MOST_COMPARED = 100  # inputs: advice that fits 100 of them is taken to fit all
_CLOSINGS = ('"}', '"}]}', '"]}', '"}}')  # to complete a record that is cut off within its text


@dataclass(frozen=True, slots=True)
class Fault:
    """An input without text in the field that was asked for."""

    path: Location
    form: Format
    found: str  # what the input has instead, and where
    advice: str = ""  # what to do if only that record is bad
    repair: str = ""  # a command that converts the input to JSON lines


@dataclass(frozen=True, slots=True)
class _WayOut:
    """What to do about an input: `repair`, `field`, `steps` or `words`."""

    repair: str = ""  # a command that converts the input to JSON lines
    field: str = ""  # another field that has strings
    others: tuple[str, ...] = ()  # more fields that have strings
    steps: Steps | None = None  # the way to strings deeper in a record
    parts: str = ""  # some of these are lists of objects, with part of the text in this field
    is_number: bool = False
    words: str = ""


def explain(
    faults: Sequence[Fault],
    inputs: Sequence[tuple[Location, Format]],
    text_field: str,
    *,
    n_inputs: int,
    may_pipe: bool,
) -> str:
    """Return the message that names all inputs without text in the field, and what to do about them."""
    compared = faults[:_MOST_COMPARED]
    ways = [_way_out(one, text_field) for one in compared]
    paths, form, way = [one.path for one in faults], faults[0].form, ways[0]
    is_same = all((one.form, two) == (form, way) for one, two in zip(compared, ways, strict=True))
    advice = ""
    if (
        {one.field for one in ways} == {way.field}
        and way.field
        and _all_have(way.field, faults, inputs, text_field)
    ):
        advice = _name_field(way)
    elif is_same and may_pipe and len(faults) == n_inputs <= _MOST_COMPARED:
        advice = _convert(paths, form, way, text_field, is_piped=True)
    if len(faults) == 1:
        return f"{faults[0].found}; {advice or _convert(paths, form, way, text_field)}"
    items = [
        one.found if advice else f"{one.found}; {_convert([one.path], one.form, two, text_field)}"
        for one, two in zip(faults[:MAX_LISTED], ways, strict=False)
    ]
    n_more = len(faults) - len(items)
    head = f"{len(faults):,} of {n_inputs:,} inputs cannot be read as they are:"
    more = [f"and {n_more:,} more"] if n_more else []
    return "\n  ".join([head, *items, *more]) + (f"\n{advice}" if advice else "")


def _all_have(
    field: str, faults: Sequence[Fault], inputs: Sequence[tuple[Location, Format]], text_field: str
) -> bool:
    """Return whether the inputs without a fault have text in this field, too."""
    failing = {one.path for one in faults}
    others = [one for one in inputs if one[0] not in failing]
    for path, form in others[:_MOST_COMPARED]:
        ways = text_ways(_sample(path, form, text_field))
        if ways and 2 * ways[field,] < ways[text_field,]:
            return False
    return True


def _name_field(way: _WayOut) -> str:
    """Return the advice to name another field."""
    others = ", ".join(map(repr, way.others[:MAX_LISTED]))
    also = f" (strings are also in {others})" if others else ""
    is_dashed = way.field.startswith("-")  # argparse would take it for an option
    words = [f"--text-field={way.field}"] if is_dashed else ["--text-field", way.field]
    command = this_command(*words, without=["--text-field"])
    return f"if the text is in {way.field!r}{also}, run:{show(command)}"


def _convert(
    paths: Sequence[Location], form: Format, way: _WayOut, text_field: str, *, is_piped: bool = False
) -> str:
    """Return the advice to convert the records."""
    if way.words:
        return way.words
    if way.repair:
        return convert_lines(paths, form, way.repair, is_piped=is_piped)
    steps = (way.field,) if way.steps is None else way.steps
    if form.container == "parquet":
        return convert_table(paths, steps, text_field=text_field, is_number=way.is_number, is_piped=is_piped)
    command = jq(steps, text_field=text_field, is_number=way.is_number, parts=way.parts)
    return convert_lines(paths, form, command, is_piped=is_piped)


def _way_out(fault: Fault, text_field: str) -> _WayOut:
    """Find what to do about an input."""
    if fault.repair:
        return _WayOut(repair=fault.repair)
    records = _sample(fault.path, fault.form, text_field)
    ways = text_ways(records)
    if (text_field,) in ways and fault.advice:
        return _WayOut(words=fault.advice)  # the records after it have the field
    fields = [one for one in records if isinstance(one, dict)]
    if not ways and any(isinstance(one.get(text_field), int | float) for one in fields):
        return _WayOut(steps=(text_field,), is_number=True)
    if not ways:
        is_named = bool(fields) or not fault.advice
        return _WayOut(words="name the text's field with --text-field" if is_named else fault.advice)
    dotted = tuple(text_field.split("."))
    inside = [steps for steps in ways if steps[:1] == (text_field,)] or [
        steps for steps in ways if steps == dotted
    ]
    steps = max(inside or ways, key=ways.__getitem__)
    top = [one[0] for one in ways if len(one) == 1]
    names = sorted((one for one in top if isinstance(one, str)), key=lambda name: -ways[name,])
    alike = [name for name in names if name.lower() == text_field.lower()]
    if not inside and (alike or (names and steps == (names[0],))):
        first, *others = alike + [name for name in names if name not in alike]
        return _WayOut(field=first, others=tuple(others))
    if steps[:-2] in ways and steps[-2:-1] == (None,):
        return _WayOut(steps=steps[:-2], parts=str(steps[-1]))
    parts = [one[-1] for one in ways if one[:-1] == (*steps, None)]
    return _WayOut(steps=steps, parts=str(parts[0]) if parts else "")


def text_ways(records: Iterable[object]) -> Counter[Steps]:
    """Count the characters of all strings in some records, by the steps that lead to each.

    >>> text_ways([{"id": 1, "turns": [{"by": "A", "say": "Hello"}, {"by": "B", "say": "Hi"}]}])
    Counter({('turns', None, 'say'): 7, ('turns', None, 'by'): 2})
    """
    found: Counter[Steps] = Counter()
    open_: list[tuple[Steps, object]] = [((), record) for record in records]
    while open_:
        steps, value = open_.pop()
        if isinstance(value, bytes):
            with suppress(UnicodeDecodeError):
                value = value.decode()
        if isinstance(value, str):
            found[steps] += len(value)
        elif isinstance(value, dict):
            open_ += (((*steps, name), one) for name, one in value.items())
        elif isinstance(value, tuple):  # a key and value of a map in a table
            open_.append(((*steps, 1), value[1]))
        elif isinstance(value, list):
            open_ += (((*steps, None), one) for one in value)
    return found


def _sample(path: Location, form: Format, text_field: str) -> list[object]:
    """Return the first records of an input."""
    if form.container == "parquet":
        try:
            with open_table(path, text_field) as table:
                return table.first_rows()
        except NoTextColumn as error:
            return error.rows
    with open_input(path) as file:
        stream = ByteStream(file, form.compression)
        head = stream.read(STEP_BYTES)
        if b"\n" not in head.strip():
            head += stream.read(LOOK_AHEAD_BYTES - len(head))
        whole = head[: head.rfind(b"\n") + 1]
        return values_of(whole if whole.strip() else head)


def values_of(lines: bytes) -> list[object]:
    """Parse the lines that are JSON; if none is, parse the beginning of the first."""
    values = []
    for line in BytesIO(lines.removeprefix(BOM_UTF8)):
        with suppress(ValueError, RecursionError):
            values.append(json.loads(line, parse_int=float))
    head = lines.decode(errors="ignore")
    for closing in _CLOSINGS if not values else ():
        with suppress(ValueError, RecursionError):
            return [json.loads(head.rstrip("\\") + closing, parse_int=float)]
    return values


def open_table(path: Location, text_field: str, check: Callable[[], None] = lambda: None) -> TextColumn:
    """Open a table to look at it.

    Raises:
        NoTextColumn: it has rows, but no such column of text.
    """
    return TextColumn(
        open_input(path, check=check), text_field=text_field, max_row_group_bytes=MAX_ROW_GROUP_BYTES
    )
