"""Check before anything is encoded that each input has text in the field that was asked for.

One error names all inputs that fail, and says where the text is instead. If all inputs have another field
with text, the advice is the option that names it; otherwise a command that converts the records to documents.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from nanogpt_compat.errors import InputError
from nanogpt_compat.input.reader import Fault, Reader
from nanogpt_compat.input.repairs import Steps, convert_lines
from nanogpt_compat.system.commands import show, this_command
from nanogpt_compat.text.blocks import MAX_LISTED

_MOST_COMPARED = 100  # inputs: advice that fits 100 of them is taken to fit all


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


def check_text_fields(
    readers: Iterable[Reader], *, n_inputs: int, may_pipe: bool, check: Callable[[], None]
) -> None:
    """Raise one InputError for all inputs of records that do not begin with a document.

    If bad records are skipped, so are those at the beginning; but if no record of the first megabyte has the
    field, the input is refused. `n_inputs`: all inputs. `may_pipe`: this run can read standard input. `check`
    is called for each input.
    """
    faults: list[Fault] = []
    sound: list[Reader] = []
    for reader in (one for one in readers if one.form.has_records):
        check()
        fault = reader.fault(check)
        if fault is not None:
            faults.append(fault)
        elif len(sound) < _MOST_COMPARED:
            sound.append(reader)
    if faults:
        raise InputError(_explain(faults, sound, n_inputs=n_inputs, may_pipe=may_pipe))


def _explain(faults: Sequence[Fault], sound: Sequence[Reader], *, n_inputs: int, may_pipe: bool) -> str:
    """Return the message that names all inputs without text in the field, and what to do about them."""
    compared = faults[:_MOST_COMPARED]
    ways = [_way_out(one) for one in compared]
    way = ways[0]
    form = faults[0].reader.form
    is_same = all((one.reader.form, two) == (form, way) for one, two in zip(compared, ways, strict=True))
    advice = ""
    if {one.field for one in ways} == {way.field} and way.field and _all_have(way.field, sound):
        advice = _name_field(way)
    elif is_same and may_pipe and len(faults) == n_inputs <= _MOST_COMPARED:
        advice = _convert(faults, way, is_piped=True)
    if len(faults) == 1:
        return f"{faults[0].found}; {advice or _convert(faults, way)}"
    items = [
        one.found if advice else f"{one.found}; {_convert([one], two)}"
        for one, two in zip(faults[:MAX_LISTED], ways, strict=False)
    ]
    n_more = len(faults) - len(items)
    head = f"{len(faults):,} of {n_inputs:,} inputs cannot be read as they are:"
    more = [f"and {n_more:,} more"] if n_more else []
    return "\n  ".join([head, *items, *more]) + (f"\n{advice}" if advice else "")


def _all_have(field: str, readers: Sequence[Reader]) -> bool:
    """Return whether the inputs without a fault have text in this field, too."""
    for reader in readers:
        ways = text_ways(reader.first_records())
        if ways and 2 * ways[field,] < ways[reader.documents.text_field,]:
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


def _convert(faults: Sequence[Fault], way: _WayOut, *, is_piped: bool = False) -> str:
    """Return the advice to convert the records."""
    if way.words:
        return way.words
    paths, reader = [one.reader.location for one in faults], faults[0].reader
    if way.repair:
        return convert_lines(paths, reader.form, way.repair, is_piped=is_piped)
    steps = (way.field,) if way.steps is None else way.steps
    return reader.conversion(paths, steps, is_number=way.is_number, parts=way.parts, is_piped=is_piped)


def _way_out(fault: Fault) -> _WayOut:
    """Find what to do about an input."""
    if fault.repair:
        return _WayOut(repair=fault.repair)
    text_field = fault.reader.documents.text_field
    records = fault.reader.first_records()
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
