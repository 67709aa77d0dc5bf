r"""Find where a span of an input begins: the first place, from its nominal start on, where reading can start.

    text                     an exact cut
    text with a separator    after a separator that no other one can overlap from the left
    JSON lines               the beginning of a line
    parquet                  the beginning of a row group
    compressed               only the beginning and the end of the file

A span ends where the next span that is not empty begins; if there is none, at the end of the file. Each place
depends only on the bytes around it, so the workers of two neighbouring spans need not communicate. A span
without such a place is empty; its worker stops there.
"""

import re
from collections.abc import Callable

from nanogpt_compat.input.local import InputFile
from nanogpt_compat.input.location import Format, Location
from nanogpt_compat.input.open import open_input
from nanogpt_compat.input.records import rows_before
from nanogpt_compat.text.cuts import first_cut
from nanogpt_compat.text.decoding import INVALID

_STEP_BYTES = 64 * 1024
_LOOK_BYTES = 4  # the longest character


def bounds(
    path: Location,
    form: Format,
    start: int,
    end: int,
    *,
    size_bytes: int,
    separator: str | None,
    text_field: str,
    check: Callable[[], None] = lambda: None,
) -> tuple[int, int]:
    """Return where the span of the nominal bytes `[start, end)` begins and ends, in bytes (parquet: rows).

    Both are the same if the span is empty. Reads no further than necessary, in steps of 64 KiB, and calls
    `check` before each; an exception that it raises stops the search.

    Raises:
        InputError: the file is unreadable, damaged or changed.
    """
    if form.container == "parquet":
        return rows_before(path, (start, end), size_bytes=size_bytes, text_field=text_field)
    if form.compression != "none":
        return start, end  # the whole file
    before, after = _LOOK_BYTES, _LOOK_BYTES
    find: Callable[[bytes, int, int], int | None] = first_cut
    if form.container == "jsonl":
        before, after, find = 1, 0, _find_line
    elif separator is not None:
        find = _SeparatorEnd(separator)
        before, after = 2 * find.most_bytes, 1

    def search(file: InputFile, start: int, stop: int) -> int:
        """Find the first place in `[start, stop)`; return `stop` if there is none."""
        while start < stop:
            check()
            last = min(start + _STEP_BYTES, stop - 1)
            low = max(0, start - before)
            place = find(file.read(last + after - low, low), start - low, last - low)
            if place is not None:
                return low + place
            start = last + 1
        return stop

    with open_input(path, size_bytes=size_bytes, check=check) as file:
        begin = search(file, start, end) if start > 0 else 0
        return begin, end if begin == end else search(file, end, size_bytes)


def _find_line(data: bytes, start: int, end: int) -> int | None:
    place = data.find(b"\n", start - 1, end) + 1
    return place or None


class _SeparatorEnd:
    """Find the end of a separator that counts as one regardless of how the text before it is split.

    Separators may overlap: in three line feeds, which two are the separator depends on the text before. A
    separator is certain if no other one begins within its length before it. Places close after invalid bytes,
    or right after a carriage return, are not used.
    """

    def __init__(self, separator: str) -> None:
        self._separator = separator
        self._n_chars = len(separator)
        self.most_bytes = _LOOK_BYTES * (self._n_chars + 1)  # of a separator, with a character to spare
        pattern = re.escape(separator.encode()).replace(b"\\\n", b"\r?\n")
        self._pattern = re.compile(b"(?=(" + pattern + b"))", re.DOTALL)  # finds overlapping ones, too

    def __call__(self, data: bytes, start: int, end: int) -> int | None:
        for match in self._pattern.finditer(data, max(0, start - self.most_bytes), end):
            place = match.end(1)
            if start <= place <= end and self._is_sure(data, place):
                return place
        return None

    def _is_sure(self, data: bytes, place: int) -> bool:
        raw = data[max(0, place - 2 * self.most_bytes) : place]
        if raw.endswith(b"\r"):
            return False
        text = raw.decode("utf-8", "surrogateescape").replace("\r\n", "\n").replace("\r", "\n")
        n_chars = self._n_chars
        near = text[-2 * n_chars - 1 :]
        if INVALID.search(near):
            return False
        return text.find(self._separator, max(0, len(text) - 2 * n_chars + 1)) == len(text) - n_chars
