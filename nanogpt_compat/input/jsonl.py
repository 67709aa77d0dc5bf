r"""Read documents from JSON lines: one JSON object per line, with the text in one of its fields.

>>> parse_lines(b'{"text": "caf\\u00e9"}\n{"text": ""}\n', text_field="text").texts
[b'caf\xc3\xa9']
"""

import codecs
import json
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO

import numpy as np

from nanogpt_compat.input.fieldpath import deepest, find, in_words, name_of
from nanogpt_compat.input.native import native_decoder
from nanogpt_compat.input.repairs import (
    ARRAYS,
    ELEMENTS,
    NO_MARK,
    NO_NUL,
    NO_SEPARATOR,
    ONE_A_LINE,
    BadRecord,
)
from nanogpt_compat.input.runs import Kind, place_of
from nanogpt_compat.input.strings import LONG_STRING_BYTES, BadString, encode, take_out
from nanogpt_compat.system.units import format_bytes
from nanogpt_compat.text.blocks import LONG_RECORD_BYTES, MAX_LISTED, MakeRoom, Need, Records, fits, has_room
from nanogpt_compat.text.utf8 import is_utf8

_MAX_NAME_CHARS = 40
_LINE_END = ord("\n")
_BLANK = " \t\r\n"  # what JSON allows around values
_STRAY = {  # found before a record in files that were concatenated, or not completely written
    "\0": ("NUL bytes, as space that was never written", NO_NUL),
    "\x1e": ("a record separator (U+001E)", NO_SEPARATOR),
    "\ufeff": ("a byte order mark (U+FEFF)", NO_MARK),
}
_MOST_WHOLE_BYTES = 4 * LONG_RECORD_BYTES
_WHOLE_FACTOR = 8  # bytes of memory per byte of a line with one string: up to 4 a character, more than once
_JSON_FACTOR = 24  # bytes of memory that `json` takes per byte of `{},{},{}`, the worst case
# Numbers are never used, and int() refuses those of more than 4,300 digits.
_decode = json.JSONDecoder(parse_int=float).raw_decode


def _find_ends(data: bytes) -> tuple[int, int, int]:
    last = data.rfind(b"\n") + 1
    if not last:
        return 0, 0, 0
    # A sixth of the time of bytes.count, in the thread that reads.
    n_ends = int(np.count_nonzero(np.frombuffer(data, np.uint8) == _LINE_END))
    return data.find(b"\n") + 1, last, n_ends


LINES = Kind(
    "line",
    _find_ends,
    "Is this one JSON object per line? Split it into lines, or remove it (--skip-bad-records does not skip "
    "it)",
)


def lines_of(raw: bytes) -> Iterable[bytes]:
    """Return the lines of a run, without a copy if it is a single line."""
    return BytesIO(raw) if raw.find(b"\n", 0, -1) >= 0 else (raw,) if raw else ()


def parse_lines(
    raw: bytes,
    *,
    text_field: str,
    first_line: int = 1,
    offset: int = 0,
    skip_bad: bool = False,
    make_room: MakeRoom = has_room,
) -> Records:
    r"""Parse a run of whole lines; the first is number `first_line` and begins at byte `offset`.

    In addition to `raw`, this takes 2 to 8 times the memory of `raw`. A line of more than 4 MiB, or of more
    than `LONG_RECORD_BYTES` if memory is short, takes only the memory of its text in UTF-8, since its long
    strings are decoded in parts. If the rest of such a line is longer than `LONG_RECORD_BYTES`, too, and
    msgspec refuses it, `make_room` is called before `json` parses it.

    Blank lines are skipped, and so is a byte order mark at offset 0. Lone surrogates, which JSON can express
    and UTF-8 cannot, become U+FFFD. `NaN` and `Infinity` count as numbers, since json.dumps writes them.

    Raises:
        BadRecord: a record is bad and `skip_bad` is false. It names line and byte, but not the file.
    """
    records = Records()
    n_skipped = len(codecs.BOM_UTF8) if offset == 0 and raw.startswith(codecs.BOM_UTF8) else 0
    parse = _Parser(text_field, are_utf8=is_utf8(raw))
    for number, line in enumerate(lines_of(raw), first_line):
        try:
            # Parsing a long line as a whole takes half the time of doing it in parts.
            if len(line) > LONG_RECORD_BYTES and not (
                len(line) <= _MOST_WHOLE_BYTES and fits(make_room, _WHOLE_FACTOR * len(line))
            ):
                found = parse.long_line(line, n_skipped, place_of("line", number, offset), make_room)
            else:
                text = parse.line(line[n_skipped:] if n_skipped else line)
                found = None if text is None else encode(text)
        except _NoDocument as error:
            place = place_of("line", number, offset + n_skipped)
            if not skip_bad:
                raise BadRecord(place, str(error), line=number, **error.advice) from error
            records.add_bad(f"{place}: {error}")
            found = None
        offset, n_skipped = offset + len(line), 0
        if found is None:
            continue
        if found[0]:
            records.texts.append(found[0])
        else:
            records.n_empty += 1
        records.n_replaced += found[1]
    return records


class _Parser:
    """A parser of lines, for one text field."""

    def __init__(self, text_field: str, *, are_utf8: bool) -> None:
        self._text_field = text_field
        self._are_utf8 = are_utf8
        self._native = native_decoder(text_field)

    def line(self, line: bytes, ask: Callable[[], None] = lambda: None) -> str | None:
        """Return the text of a line, or None if it is blank; `ask` is called before `json` parses it."""
        if self._native is not None and (self._are_utf8 or is_utf8(line)):
            text = self._native(line)
            if text is not None:
                return text
        ask()
        try:
            decoded = line.decode()
        except UnicodeDecodeError as error:
            if not line.endswith(b"\n") and error.reason == "unexpected end of data":
                raise _unfinished("a character") from error
            found = line[error.start : error.end].hex(" ")
            raise _NoDocument(f"byte {error.start:,} of the line is not UTF-8: found {found}") from error
        decoded = decoded.strip(_BLANK)
        if not decoded:
            return None
        return _text_of(_load(decoded, is_last=not line.endswith(b"\n")), self._text_field)

    def long_line(self, line: bytes, start: int, place: str, make_room: MakeRoom) -> tuple[bytes, int] | None:
        """Return the text of a long line in UTF-8, and the number of replaced surrogates; None if blank.

        Long strings are decoded in parts: as Python objects they would take too much memory. The JSON begins
        at byte `start` of the line.
        """
        short, strings = take_out(line, start)
        made = None

        def ask() -> None:
            if len(short) > LONG_RECORD_BYTES:
                what = f"{place}, has {format_bytes(len(line))}"
                n_bytes = _JSON_FACTOR * len(short)
                make_room(n_bytes, lambda: Need(what, len(line) + n_bytes, len(line) + n_bytes))

        try:
            text = self.line(short, ask)
            for name, string in strings.items():
                if name == text:
                    made = string.decode()
                else:
                    string.check()
        except BadString as error:
            raise _NoDocument(str(error)) from error
        except _NoDocument as error:
            if not strings:
                raise
            note = f"a string of more than {format_bytes(LONG_STRING_BYTES)} counts as a short one"
            raise _NoDocument(f"{error} ({note})", **error.advice) from error
        return made or (None if text is None else encode(text))


class _NoDocument(Exception):
    """A line is not a document: why, and what to do (`todo`) or to run (`repair`) other than fixing it."""

    def __init__(self, reason: str, *, todo: str = "", repair: str = "") -> None:
        super().__init__(reason)
        self.advice = {"todo": todo, "repair": repair}


def _load(line: str, *, is_last: bool) -> object:
    """Parse a line of exactly one JSON value; `is_last`: the input ends here, without a line end."""
    try:
        value, end = _decode(line, 0)
    except json.JSONDecodeError as error:
        if line[0] in _STRAY:
            name, repair = _STRAY[line[0]]
            raise _NoDocument(f"not JSON: it begins with {name}", repair=repair) from error
        is_cut = error.pos == len(line)  # the line ends where `json` expects more
        if is_last and line[0] in "{[" and (is_cut or error.msg.startswith("Unterminated string")):
            raise _unfinished("a record") from error
        repair = ARRAYS if line[0] == "[" else ONE_A_LINE if line[0] == "{" and is_cut else ""
        raise _unexpected(line, error.pos, error.msg.removesuffix(" at"), repair) from error
    except RecursionError as error:
        raise _NoDocument("nested too deeply") from error
    rest = line[end:].lstrip(_BLANK)
    place = f"at character {len(line) - len(rest) + 1:,}"
    if rest.startswith("{"):
        raise _NoDocument(f"a second JSON object begins on the line {place}", repair=ONE_A_LINE)
    if rest.startswith(","):
        raise _NoDocument(f"a comma follows the JSON object {place}, as in an array", repair=ELEMENTS)
    if rest:
        raise _unexpected(line, end, "Expecting the end of the line")
    return value


def _unfinished(what: str) -> _NoDocument:
    reason = f"the file ends within {what}, so it was cut off, or is still being written"
    return _NoDocument(reason, todo="pass the complete file")


def _unexpected(line: str, n_chars: int, reason: str, repair: str = "") -> _NoDocument:
    found = _shorten(line[n_chars:]) if n_chars < len(line) else "the end of the line"
    return _NoDocument(f"not JSON: {reason} at character {n_chars + 1:,}, found {found}", repair=repair)


def _text_of(record: object, text_field: str) -> str:
    """Return the text of a record; raise _NoDocument with what it has instead."""
    if not isinstance(record, dict):
        is_array = isinstance(record, list) and record and isinstance(record[0], dict)
        raise _NoDocument(f"not a JSON object but {_kind(record)}", repair=ARRAYS if is_array else "")
    text = record.get(text_field)
    if isinstance(text, str):
        return text
    found = find(text_field, record)
    if found is not None:
        way, text = found
        if isinstance(text, str):
            return text
        raise _NoDocument(f"its field {name_of(way)!r} is {_kind(text)}, not a string")
    way, there = deepest(text_field, record)
    missing = f"no field {in_words(text_field)}"
    if not isinstance(there, Mapping):
        raise _NoDocument(f"{missing}: its field {name_of(way)!r} is {_kind(there)}, not an object")
    names = [_shorten(name) for name in there]
    listed = ", ".join(names[:MAX_LISTED]) + (", ..." if len(names) > MAX_LISTED else "")
    where = f"the fields of {name_of(way)!r}" if way else "its fields"
    raise _NoDocument(f"{missing} among {where} ({listed})")


def _kind(value: object) -> str:
    """Return JSON's name for the type of a value.

    >>> _kind(None), _kind(1.0), _kind([])
    ('null', 'a number', 'an array')
    """
    if value is None:
        return "null"
    kinds = {bool: "true or false", float: "a number", str: "a string", list: "an array", dict: "an object"}
    return kinds[type(value)]


def _shorten(text: str) -> str:
    """Quote the beginning of `text`, in ASCII."""
    return ascii(text) if len(text) <= _MAX_NAME_CHARS else ascii(text[:_MAX_NAME_CHARS]) + "..."
