r"""Take documents out of JSON lines: one JSON object a line, the text in one of its fields.

>>> parse_lines(b'{"text": "caf\\u00e9"}\n{"text": ""}\n', text_field="text").texts
[b'caf\xc3\xa9']
"""

import codecs
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from io import BytesIO
from typing import Any

from nanogpt_compat.errors import InputError
from nanogpt_compat.input.location import Location
from nanogpt_compat.input.repairs import (
    ARRAYS,
    ELEMENTS,
    NO_MARK,
    NO_NUL,
    NO_SEPARATOR,
    ONE_A_LINE,
    BadRecord,
)
from nanogpt_compat.input.strings import LONG_STRING_BYTES, BadString, encode, take_out
from nanogpt_compat.system.units import format_bytes
from nanogpt_compat.text.blocks import (
    LONG_RECORD_BYTES,
    MAX_LISTED,
    MakeRoom,
    Need,
    Records,
    has_room,
    need_of_record,
)
from nanogpt_compat.text.documents import MAX_RECORD_BYTES
from nanogpt_compat.text.utf8 import is_utf8

_MAX_NAME_CHARS = 40
_BLANK = " \t\r\n"  # what JSON allows around values
_STRAY = {  # what is before a record where files were put together, or not written to their end
    "\0": ("NUL bytes, as space that was never written", NO_NUL),
    "\x1e": ("a record separator (U+001E)", NO_SEPARATOR),
    "\ufeff": ("a byte order mark (U+FEFF)", NO_MARK),
}
_JSON_FACTOR = 24  # bytes of memory that `json` takes for each of `{},{},{}`, the worst there is
# Numbers are looked at by nobody, and int() refuses those of more than 4,300 digits.
_decode = json.JSONDecoder(parse_int=float).raw_decode


@dataclass(frozen=True, slots=True)
class Lines:
    """A run of whole lines; only the last line of the input may lack its line end."""

    raw: bytes
    n_ends: int  # of lines
    first_line: int  # the number of its first line, counted from 1
    offset: int  # bytes of the (uncompressed) input before it


def read_lines(
    read: Callable[[int], bytes],
    *,
    path: Location,
    block_bytes: int,
    first_line: int = 1,
    offset: int = 0,
    make_room: MakeRoom = has_room,
) -> Iterator[Lines]:
    """Cut what `read` gives into runs of whole lines of about `block_bytes`.

    `read(n)` returns up to n bytes, none only at the end; its first byte is at `offset`, where line
    `first_line` begins. Holds a run; or a line of more than `LONG_RECORD_BYTES`, which is a run by itself,
    with room made for it as it grows. Where runs begin and end depends on `block_bytes`; which lines there
    are does not.

    Raises:
        InputError: a line is longer than `MAX_RECORD_BYTES`; or what `read` and `make_room` raise.
    """
    read_more = partial(read, min(block_bytes, MAX_RECORD_BYTES))
    held = BytesIO()  # the beginning of a line, grown in place: joining parts would hold it twice
    while data := read_more():
        place = f"{path}: line {first_line:,}, at byte {offset:,},"
        line = _Line(place, held.tell()).with_more(data)
        ends = [data.rfind(b"\n") + 1]
        if line.n_bytes > LONG_RECORD_BYTES:
            make_room(line.need.n_bytes - held.tell(), partial(line.need_of_whole, read_more))
            ends.insert(0, data.find(b"\n") + 1)
        start = 0
        for end in ends:
            if end > start:
                held.write(memoryview(data)[start:end])
                start, run, held = end, [_run_of(held, first_line, offset)], BytesIO()
                first_line, offset = first_line + run[0].n_ends, offset + len(run[0].raw)
                yield run.pop()  # so that nobody else holds it
        held.write(memoryview(data)[start:])
    if held.tell():
        yield _run_of(held, first_line, offset)


def _run_of(held: BytesIO, first_line: int, offset: int) -> Lines:
    raw = held.getvalue()
    return Lines(raw, raw.count(b"\n"), first_line, offset)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line as far as it has been read."""

    place: str  # file, number and byte
    n_bytes: int
    is_whole: bool = False

    def with_more(self, data: bytes) -> "_Line":
        """Count what follows, up to its end.

        Raises:
            InputError: it is too long.
        """
        end = data.find(b"\n")
        part = data if end < 0 else data[:end]
        n_bytes = self.n_bytes + len(part)
        if n_bytes > MAX_RECORD_BYTES:
            raise InputError(
                f"{self.place} has more than {format_bytes(n_bytes)} and may have "
                f"{format_bytes(MAX_RECORD_BYTES)}: is this one JSON object a line? Split it into lines, or "
                "take it out: --skip-bad-records does not skip it"
            )
        return replace(self, n_bytes=n_bytes, is_whole=end >= 0)

    @property
    def need(self) -> Need:
        """What it needs of memory."""
        return need_of_record(f"{self.place} has {format_bytes(self.n_bytes)}", self.n_bytes)

    def need_of_whole(self, read_more: Callable[[], bytes]) -> Need:
        """Read on to its end, without holding it, and return what it needs."""
        line = self
        while not line.is_whole and (data := read_more()):
            line = line.with_more(data)
        return line.need


def lines_of(raw: bytes) -> Iterable[bytes]:
    """Return the lines of a run; a single one is not copied."""
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
    r"""Parse a run of whole lines, of which the first is number `first_line` and begins at byte `offset`.

    Beside `raw` this takes 2 to 8 times its memory, but of a line of more than `LONG_RECORD_BYTES` that of
    its text in UTF-8. If such a line has that much of JSON that is not long strings, and msgspec does not
    take it, `make_room` is asked for what `json` takes.

    Blank lines are passed over, and so is a byte order mark at offset 0. Lone surrogates, which JSON can
    write and UTF-8 cannot, become U+FFFD. `NaN` and `Infinity` pass as numbers, as json.dumps writes them.

    Raises:
        BadRecord: a record is bad and `skip_bad` is false; with its line and byte, but not the file.
    """
    records = Records()
    n_skipped = len(codecs.BOM_UTF8) if offset == 0 and raw.startswith(codecs.BOM_UTF8) else 0
    parse = _Parser(text_field, are_utf8=is_utf8(raw))
    for number, line in enumerate(lines_of(raw), first_line):
        try:
            if len(line) > LONG_RECORD_BYTES:
                found = parse.long_line(line, n_skipped, _place(number, offset), make_room)
            else:
                text = parse.line(line[n_skipped:] if n_skipped else line)
                found = None if text is None else encode(text)
        except _NoDocument as error:
            place = _place(number, offset + n_skipped)
            if not skip_bad:
                raise BadRecord(
                    place, error.reason, todo=error.todo, repair=error.repair, line=number
                ) from error
            records.add_bad(f"{place}: {error.reason}")
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


def _place(number: int, offset: int) -> str:
    return f"line {number:,}, at byte {offset:,}"


class _Parser:
    """Takes the text out of lines."""

    def __init__(self, text_field: str, *, are_utf8: bool) -> None:
        self._text_field = text_field
        self._are_utf8 = are_utf8
        # msgspec is as strict as `json` (there is a test), but for UTF-8 in fields that it passes over. It
        # makes no objects of those. What it refuses is looked at again.
        self._native = _native_decoder(text_field)

    def line(self, line: bytes, ask: Callable[[], None] = lambda: None) -> str | None:
        """Return the text of a line, None of a blank one; `ask` is called before `json` parses it.

        Raises:
            _NoDocument: it has none.
        """
        if self._native is not None and (self._are_utf8 or is_utf8(line)):
            text = self._native(line)
            if text is not None:
                return text
        ask()
        return _parse_line(line, self._text_field)

    def long_line(self, line: bytes, start: int, place: str, make_room: MakeRoom) -> tuple[bytes, int] | None:
        """Do the same for a line that is too long to hold what is in it as Python's objects.

        It begins at byte `start`. Returns the text in UTF-8, and how many surrogates in it were replaced.
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
            raise _NoDocument(error.reason) from error
        except _NoDocument as error:
            if not strings:
                raise
            note = f"a string of more than {format_bytes(LONG_STRING_BYTES)} counts as a short one"
            raise _NoDocument(f"{error.reason} ({note})", todo=error.todo, repair=error.repair) from error
        return made or (None if text is None else encode(text))


@cache
def _native_decoder(text_field: str) -> Callable[[bytes], str | None] | None:
    """Make what takes the text out of a line with msgspec; None without it, or if it takes no such name.

    It returns None for what msgspec refuses.
    """
    try:
        import msgspec  # here: it is an extra
    except ImportError:
        return None
    try:
        record = msgspec.defstruct("Record", [("text", str)], rename={"text": text_field}, gc=False)
    except ValueError:  # a quote, a backslash, a control character, or none that UTF-8 has
        return None
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(record).decode

    def text_of(line: bytes) -> str | None:
        try:
            text: str = decode(line).text
        except (msgspec.MsgspecError, RecursionError):
            return None
        return text

    return text_of


class _NoDocument(Exception):
    """Why a line is no document, and what to do, or to run, unless it is to fix the line."""

    def __init__(self, reason: str, *, todo: str = "", repair: str = "") -> None:
        super().__init__(reason, todo, repair)
        self.reason = reason
        self.todo = todo
        self.repair = repair


def _parse_line(raw: bytes, text_field: str) -> str | None:
    """Take the text out of any line; None if it is blank."""
    try:
        line = raw.decode()
    except UnicodeDecodeError as error:
        if not raw.endswith(b"\n") and error.reason == "unexpected end of data":
            raise _unfinished("a character") from error
        found = raw[error.start : error.end].hex(" ")
        raise _NoDocument(f"byte {error.start:,} of the line is not UTF-8: found {found}") from error
    line = line.strip(_BLANK)
    if not line:
        return None
    return _text_of(_load(line, is_last=not raw.endswith(b"\n")), text_field)


def _load(line: str, *, is_last: bool) -> object:
    """Parse one JSON value and nothing else; `is_last`: the input ends here, without a line end."""
    try:
        value, end = _decode(line, 0)
    except json.JSONDecodeError as error:
        raise _not_json(line, error, is_last=is_last) from error
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


def _not_json(line: str, error: json.JSONDecodeError, *, is_last: bool) -> _NoDocument:
    """Say why a line is not JSON, and what makes JSON lines of it if it is nearly that."""
    is_cut = error.pos == len(line)  # where a value, or more of it, would be
    if line[0] in _STRAY:
        name, repair = _STRAY[line[0]]
        return _NoDocument(f"not JSON: it begins with {name}", repair=repair)
    if is_last and line[0] in "{[" and (is_cut or error.msg.startswith("Unterminated string")):
        return _unfinished("a record")
    repair = ARRAYS if line[0] == "[" else ONE_A_LINE if line[0] == "{" and is_cut else ""
    return _unexpected(line, error.pos, error.msg.removesuffix(" at"), repair)


def _unfinished(what: str) -> _NoDocument:
    reason = f"the file ends within {what}, so it was cut off, or is still being written"
    return _NoDocument(reason, todo="give all of it")


def _unexpected(line: str, n_chars: int, reason: str, repair: str = "") -> _NoDocument:
    found = _shorten(line[n_chars:]) if n_chars < len(line) else "the end of the line"
    return _NoDocument(f"not JSON: {reason} at character {n_chars + 1:,}, found {found}", repair=repair)


def _text_of(record: object, text_field: str) -> str:
    if not isinstance(record, dict):
        is_array = isinstance(record, list) and record and isinstance(record[0], dict)
        raise _NoDocument(f"not a JSON object but {_kind(record)}", repair=ARRAYS if is_array else "")
    if text_field not in record:
        names = [_shorten(name) for name in record]
        there = ", ".join(names[:MAX_LISTED]) + (", ..." if len(names) > MAX_LISTED else "")
        raise _NoDocument(f"no field {text_field!r} among its fields ({there})")
    text = record[text_field]
    if not isinstance(text, str):
        raise _NoDocument(f"its field {text_field!r} is {_kind(text)}, not a string")
    return text


def _kind(value: object) -> str:
    """Name what JSON calls the value.

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
