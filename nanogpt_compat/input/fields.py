"""Check before anything is encoded that each input has text in the field that was asked for.

One error names all inputs that fail, and where the text is instead. If the text of all inputs is in
fields that one `--text-field` can name, the advice is that option; otherwise, as for the items of a list, it
is a command that converts the records to documents.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from nanogpt_compat.errors import InputError
from nanogpt_compat.input.fieldpath import ABSENT, alternatives, find, in_words, name_of, value_at
from nanogpt_compat.input.reader import Fault, Reader
from nanogpt_compat.input.repairs import Steps, convert_lines
from nanogpt_compat.system.commands import show, this_command
from nanogpt_compat.text.blocks import MAX_LISTED

_MOST_COMPARED = 100  # inputs: advice that fits 100 of them is assumed to fit all


@dataclass(frozen=True, slots=True)
class _WayOut:
    """What to do about an input: `repair`, `field`, `steps` or `words`."""

    repair: str = ""  # a command that converts the input to JSON lines
    field: str = ""  # the field at the end of `steps`, as it is typed
    others: tuple[str, ...] = ()  # more fields that have strings
    steps: Steps = ()  # the way to strings in a record
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
    if (option := _common_option(compared, ways, sound)) is not None:
        advice = _name_field(option, way.others)
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


def _common_option(faults: Sequence[Fault], ways: Sequence[_WayOut], sound: Sequence[Reader]) -> str | None:
    """Return a `--text-field` with which all inputs have their text; None if there is none."""
    fields = list(dict.fromkeys(way.field for way in ways))
    if "" in fields:
        return None
    own = faults[0].reader.documents.text_field
    options = [",".join([own, *fields]) if sound else ",".join(fields)]
    options[:0] = fields if len(fields) == 1 else []
    for option in options:
        wanted = [(one.reader, way.field, 1) for one, way in zip(faults, ways, strict=True)]
        if not option.startswith(f"{own},"):  # else they keep their text
            wanted += [(reader, own, 2) for reader in sound]
        for reader, field, factor in wanted:
            records = reader.first_records() if field != option else []
            if factor * _n_chars(option, records) < _n_chars(field, records):
                break
        else:
            return option
    return None


def _n_chars(text_field: str, records: Iterable[object]) -> int:
    """Count the characters of the text in a field of some records."""
    found = (find(text_field, one) for one in records if isinstance(one, dict))
    return sum(text_ways([one[1]])[()] for one in found if one is not None)


def _name_field(option: str, others: Sequence[str]) -> str:
    """Return the advice to name another field."""
    more = [name for name in others if name not in alternatives(option)]
    also = f" (strings are also in {', '.join(map(repr, more[:MAX_LISTED]))})" if more else ""
    is_dashed = option.startswith("-")  # argparse would take it for an option
    words = [f"--text-field={option}"] if is_dashed else ["--text-field", option]
    command = this_command(*words, without=["--text-field"])
    return f"if the text is in {in_words(option)}{also}, run:{show(command)}"


def _convert(faults: Sequence[Fault], way: _WayOut, *, is_piped: bool = False) -> str:
    """Return the advice to convert the records."""
    if way.words:
        return way.words
    paths, reader = [one.reader.location for one in faults], faults[0].reader
    if way.repair:
        return convert_lines(paths, reader.form, way.repair, is_piped=is_piped)
    return reader.conversion(paths, way.steps, is_number=way.is_number, parts=way.parts, is_piped=is_piped)


def _way_out(fault: Fault) -> _WayOut:
    """Find what to do about an input."""
    if fault.repair:
        return _WayOut(repair=fault.repair)
    text_field = fault.reader.documents.text_field
    records = fault.reader.first_records()
    ways = text_ways(records)
    fields = [one for one in records if isinstance(one, dict)]
    found = [one for one in (find(text_field, record) for record in fields) if one is not None]
    if fault.advice and any(isinstance(value, str) for _, value in found):
        return _WayOut(words=fault.advice)  # the records after it have the field
    numbers = [way for way, value in found if isinstance(value, int | float)]
    if not ways and numbers:
        return _WayOut(steps=numbers[0], is_number=True)
    if not ways:
        is_named = bool(fields) or not fault.advice
        return _WayOut(words="name the text's field with --text-field" if is_named else fault.advice)
    # In the field that was asked for, of an object or a list, or in an item of a list of its name.
    inside = [steps for steps in ways if any(steps[: len(way)] == way for way, _ in found)]
    names = [tuple(step for step in one.split(".") if not step.isdigit()) for one in alternatives(text_field)]
    inside = inside or [
        steps for steps in ways if None in steps and tuple(one for one in steps if one is not None) in names
    ]
    steps = max(inside or ways, key=ways.__getitem__)
    named = {name: one for one in inside or ways if (name := _name_of(one, fields))}
    sorted_names = sorted(named, key=lambda name: -ways[named[name]])
    asked = [one.lower() for one in alternatives(text_field)]
    alike = [name for name in sorted_names if name.lower() in asked]
    if alike or (sorted_names and steps == named[sorted_names[0]]):
        first, *others = dict.fromkeys(alike + sorted_names)
        return _WayOut(field=first, steps=named[first], others=tuple(others))
    if steps[:-2] in ways and steps[-2:-1] == (None,):
        return _WayOut(steps=steps[:-2], parts=str(steps[-1]))
    parts = [one[-1] for one in ways if one[:-1] == (*steps, None)]
    return _WayOut(steps=steps, parts=str(parts[0]) if parts else "")


def _name_of(steps: Steps, records: Iterable[dict[str, object]]) -> str:
    """Return the `--text-field` that finds the strings at the end of `steps`; "" if there is none."""
    way = tuple(one for one in steps if isinstance(one, str))
    found = (find(name_of(way), one) for one in records if value_at(one, way) is not ABSENT)
    return name_of(way) if way == steps and all(one is not None and one[0] == way for one in found) else ""


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
