r"""Take documents out of JSON lines: one JSON object a line, the text in one of its fields.

>>> parse_lines(b'{"text": "caf\\u00e9"}\n{"text": ""}\n', text_field="text").texts
[b'caf\xc3\xa9']
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np

from nanogpt_compat.blocks import MAX_LISTED, Records
from nanogpt_compat.config import Location
from nanogpt_compat.documents import MAX_RECORD_BYTES
from nanogpt_compat.errors import InputError
from nanogpt_compat.sources.repairs import (
    ARRAYS,
    ELEMENTS,
    NO_MARK,
    NO_NUL,
    NO_SEPARATOR,
    ONE_A_LINE,
    BadRecord,
)
from nanogpt_compat.units import format_bytes
from nanogpt_compat.utf8 import is_utf8

_MAX_NAME_CHARS = 40
_BLANK = " \t\r\n"  # what JSON allows around values
_STRAY = {  # what is before a record where files were put together, or not written to their end
    "\0": ("NUL bytes, as space that was never written", NO_NUL),
    "\x1e": ("a record separator (U+001E)", NO_SEPARATOR),
    "\ufeff": ("a byte order mark (U+FEFF)", NO_MARK),
}
_SURROGATE = re.compile("[\ud800-\udfff]")
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
    read: Callable[[int], bytes], *, path: Location, block_bytes: int, first_line: int = 1, offset: int = 0
) -> Iterator[Lines]:
    """Cut what `read` gives into runs of whole lines of about `block_bytes`.

    `read(n)` returns up to n bytes, none only at the end; its first byte is at `offset`, where line
    `first_line` begins. Holds a run and a line, twice while they are put together. Where runs begin and end
    depends on `block_bytes`; which lines there are does not.

    Raises:
        InputError: a line is longer than `MAX_RECORD_BYTES`; or what `read` raises.
    """
    parts: list[bytes] = []
    held_bytes = 0  # in `parts`: the beginning of a line
    while data := read(min(block_bytes, MAX_RECORD_BYTES)):
        first_end = data.find(b"\n")
        line_bytes = held_bytes + (len(data) if first_end < 0 else first_end)
        if line_bytes > MAX_RECORD_BYTES:
            raise InputError(
                f"{path}: line {first_line:,}, which begins at byte {offset:,}, has more than "
                f"{format_bytes(line_bytes)} and may have {format_bytes(MAX_RECORD_BYTES)}: is this one JSON "
                "object a line? Split it into lines, or take it out: --skip-bad-records does not skip it"
            )
        end = data.rfind(b"\n") + 1
        if end:
            raw = b"".join([*parts, memoryview(data)[:end]])
            parts.clear()
            n_ends = int(np.count_nonzero(np.frombuffer(raw, np.uint8) == ord("\n")))
            yield Lines(raw, n_ends, first_line, offset)
            first_line += n_ends
            offset += len(raw)
            del raw
        parts.append(data[end:])
        held_bytes = len(data) - end + (0 if end else held_bytes)
    if held_bytes:
        yield Lines(b"".join(parts), 0, first_line, offset)


def parse_lines(
    raw: bytes, *, text_field: str, first_line: int = 1, offset: int = 0, skip_bad: bool = False
) -> Records:
    r"""Parse a run of whole lines, of which the first is number `first_line` and begins at byte `offset`.

    Takes 1 to 2 times the memory of `raw` beside it for ASCII, 8 times with characters past U+FFFF in it;
    24 times (1.5 GiB for one of 64 MiB) for a line of nothing but empty objects that msgspec does not take.

    Blank lines are passed over, and so is a byte order mark at offset 0. Lone surrogates, which JSON can
    write and UTF-8 cannot, become U+FFFD. `NaN` and `Infinity` pass as numbers, as json.dumps writes them.

    Raises:
        BadRecord: a record is bad and `skip_bad` is false; with its line and byte, but not the file.
    """
    if offset == 0 and raw.startswith(codecs.BOM_UTF8):
        raw, offset = raw[len(codecs.BOM_UTF8) :], len(codecs.BOM_UTF8)
    records = Records()
    # msgspec is as strict as `json` (there is a test), but for UTF-8 in fields that it passes over. It makes
    # no objects of those: a line of 64 MiB of empty ones takes no memory. What it refuses is looked at again.
    decode, refusals = _native_decoder(text_field) or (None, ())
    are_utf8 = is_utf8(raw)
    lines = BytesIO(raw)
    for number, line in enumerate(lines, first_line):
        try:
            text: str | None = decode(line).text if decode and (are_utf8 or is_utf8(line)) else None
        except refusals:
            text = None
        try:
            if text is None:
                text = _parse_line(line, text_field)
        except _NoDocument as error:
            where = f"line {number:,}, at byte {offset + lines.tell() - len(line):,}"
            if not skip_bad:
                raise BadRecord(
                    where, error.reason, todo=error.todo, repair=error.repair, line=number
                ) from error
            records.add_bad(f"{where}: {error.reason}")
            continue
        if text:
            _add_text(records, text)
        elif text is not None:
            records.n_empty += 1
    return records


_Native: TypeAlias = tuple[Callable[[bytes], Any], tuple[type[Exception], ...]]


@cache
def _native_decoder(text_field: str) -> _Native | None:
    """Make what msgspec parses lines with, and its errors; None without it, or if it takes no such name."""
    try:
        import msgspec  # here: it is an extra
    except ImportError:
        return None
    try:
        record = msgspec.defstruct("Record", [("text", str)], rename={"text": text_field}, gc=False)
    except ValueError:  # a quote, a backslash, a control character, or none that UTF-8 has
        return None
    return msgspec.json.Decoder(record).decode, (msgspec.MsgspecError, RecursionError)


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


def _add_text(records: Records, text: str) -> None:
    try:
        records.texts.append(text.encode())
    except UnicodeEncodeError:
        text, n_replaced = _SURROGATE.subn("\ufffd", text)
        records.texts.append(text.encode())
        records.n_replaced += n_replaced


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
