r"""Take the long strings from a long line of JSON, and decode them part by part.

Parsing a line of 25 MB at once takes 50 to 250 MB: Python holds a string in up to four bytes per character,
in addition to the line and the text in UTF-8. Decoded in parts, a string takes its UTF-8 and 2 MB.

>>> short, strings = take_out(b'{"id": "a", "text": "' + b"caf\\u00e9 " * 10_000 + b'"}')
>>> len(short), [len(one.decode()[0]) for one in strings.values()]
(56, [60000])
"""

import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

LONG_STRING_BYTES = 64 * 1024
_PART_BYTES = 256 * 1024  # many times longer than an escape or a character, which must not be cut
_LOOK_BACK_BYTES = 4096
_FIRST_LOOK_BYTES = 256  # for the end of a string with a backslash before its first quote
_ESCAPE_BYTES = 6  # \ud83d
_PAIR = re.compile(rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]", re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
_PREFIX = uuid.uuid4().hex  # begins the names that replace long strings; no text contains it
_decode = json.JSONDecoder().raw_decode


class BadString(Exception):
    """A string is not valid JSON, and why."""


@dataclass(frozen=True, slots=True)
class LongString:
    """A string in a line of JSON, without its quotes: `line[start:end]`."""

    line: bytes
    start: int
    end: int

    def decode(self) -> tuple[bytes, int]:
        """Return the string in UTF-8 and how many lone surrogates became U+FFFD, or raise BadString."""
        made, n_replaced = BytesIO(), 0
        for part, n_new in self._decoded_parts():
            made.write(part)
            n_replaced += n_new
        return made.getvalue(), n_replaced

    def check(self) -> None:
        """Raise BadString if `decode` would, without keeping the decoded string in memory."""
        for _ in self._decoded_parts():
            pass

    def _decoded_parts(self) -> Iterator[tuple[bytes, int]]:
        start = self.start
        while start < self.end:
            end = _divide(self.line, start, min(start + _PART_BYTES, self.end), self.end)
            try:
                text = self.line[start:end].decode()
            except UnicodeDecodeError as error:
                place = start + error.start
                found = self.line[place : start + error.end].hex(" ")
                raise BadString(f"byte {place:,} of the line is not UTF-8: found {found}") from error
            try:
                decoded: str = _decode(f'"{text}"')[0]
            except json.JSONDecodeError as error:
                place = start + len(text[: error.pos - 1].encode())
                reason = f"not JSON: {error.msg.removesuffix(' at')} at byte {place + 1:,} of the line"
                raise BadString(reason) from error
            yield encode(decoded)
            start = end


def encode(text: str) -> tuple[bytes, int]:
    """Return a text as UTF-8, and how many lone surrogates became U+FFFD: UTF-8 cannot encode them."""
    try:
        return text.encode(), 0
    except UnicodeEncodeError:
        text, n_replaced = _SURROGATE.subn("\ufffd", text)
        return text.encode(), n_replaced


def take_out(line: bytes, done: int = 0) -> tuple[bytes, dict[str, LongString]]:
    """Replace each long string of a line by a short name; return the short line, and the strings by name.

    The line counts from byte `done`. It is valid JSON if and only if the short line and all the strings are.
    """
    parts: list[bytes] = []
    strings: dict[str, LongString] = {}
    start = line.find(b'"', done) + 1
    while start:
        end = _string_end(line, start)
        if end < 0:
            if len(line) - start > LONG_STRING_BYTES:  # not JSON, as its opening quote alone shows
                parts.append(line[done:start])
                done = len(line.rstrip(b"\r\n")) if line.endswith(b"\n") else len(line)
            break
        if end - start > LONG_STRING_BYTES:
            name = f"{_PREFIX}{len(strings)}"
            strings[name] = LongString(line, start, end)
            parts += [line[done:start], name.encode()]
            done = end
        start = line.find(b'"', end + 1) + 1
    return b"".join([*parts, line[done:]]) if parts else line[done:], strings


def head_of_line(head: bytes, depth: int = 1) -> bytes:
    """Complete the beginning of a line to valid JSON; it must end inside or after a string of its object.

    That may be one of at most `depth` nested objects. Returns nothing if it ends anywhere else.
    """
    end = _divide(head, 0, len(head) - 1, len(head))  # the last character may be incomplete
    for closing in (quote + b"}" * n for n in range(1, depth + 1) for quote in (b'"', b"")):
        try:
            _decode((head[:end] + closing).decode())
        except (ValueError, RecursionError):
            continue
        return head[:end] + closing
    return b""


def _string_end(line: bytes, start: int) -> int:
    """Return the place of the quote that ends the string which begins at `start`, -1 if there is none."""
    end, n_bytes = line.find(b'"', start), _FIRST_LOOK_BYTES
    if end <= start or line[end - 1] != ord("\\"):
        return end
    while start < len(line):
        # Escaped backslashes and quotes are masked all at once: one by one, they take a microsecond each.
        stop = min(start + n_bytes, len(line))
        stop += _n_backslashes(line, start, stop) % 2
        end = line[start:stop].replace(rb"\\", b"..").replace(rb"\"", b"..").find(b'"')
        if end >= 0:
            return start + end
        start, n_bytes = stop, min(2 * n_bytes, LONG_STRING_BYTES)
    return -1


def _n_backslashes(line: bytes, start: int, end: int) -> int:
    """Count the consecutive backslashes just before `end`, back to `start` at most."""
    n_all, step = 0, 64
    while True:
        low = max(start, end - n_all - step)
        some = line[low : end - n_all]
        n_new = len(some) - len(some.rstrip(b"\\"))
        n_all += n_new
        if n_new < len(some) or low == start:
            return n_all
        step *= 2


def _divide(line: bytes, start: int, nominal: int, end: int) -> int:
    """Find where to divide the string `line[start:end]` between characters: at or just before `nominal`."""
    if nominal >= end:
        return end
    for place in range(nominal, max(start, nominal - _LOOK_BACK_BYTES), -1):
        if line[place : place + 1] == b"\\":
            if _n_backslashes(line, start, place) % 2 == 0 and not _PAIR.match(
                line, max(start, place - _ESCAPE_BYTES)
            ):
                return place
        elif (not line[place : place + 1] or line[place] & 0xC0 != 0x80) and b"\\" not in line[
            max(start, place - 2 * _ESCAPE_BYTES) : place
        ]:
            return place
    return nominal  # no character or escape is this long, so the string is invalid anyway
