r"""Parse records of CSV and TSV, as RFC 4180 has them and Python's `csv` reads them. Pure.

A quote at the beginning of a cell opens it. Up to the next quote that is not doubled, delimiters and line
ends are data. A quote elsewhere is data, too. Records end with LF or CR LF.

Python's `csv` needs decoded lines, takes some twelve bytes of memory for each byte of a long cell, and does
not report at which byte a record begins. A test compares the two.

>>> parse_record(b'1,"a ""b"",\nc"\r\n2,d\n', 0, b",", 1)
Record(end=16, n_cells=2, text=b'a "b",\nc', fault='')
"""

from codecs import BOM_UTF8
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from io import BytesIO

from nanogpt_compat.system.units import format_bytes
from nanogpt_compat.text.blocks import LONG_RECORD_BYTES

DELIMITERS = (",", ";", "\t", "|")
_SHOWN_BYTES = 10


@dataclass(frozen=True, slots=True)
class Record:
    """A record: where the next one begins, and the text of one of its cells."""

    end: int
    n_cells: int  # 0 for a blank line
    text: bytes | None  # None if there is no such cell
    fault: str = ""  # what is wrong with its quotes


def parse_record(raw: bytes, start: int, delimiter: bytes, column: int) -> Record:
    """Parse the record that begins at `start`; return the text of the cell in `column`, from 0."""
    line_end = raw.find(b"\n", start)
    end, after = (len(raw), len(raw)) if line_end < 0 else (line_end, line_end + 1)
    if raw.find(b'"', start, end) >= 0:
        return _parse_quoted(raw, start, delimiter, column)
    end -= raw.endswith(b"\r", start, end)
    if end == start:
        return Record(after, 0, None)
    cells = raw[start:end].split(delimiter)
    return Record(after, len(cells), cells[column] if column < len(cells) else None)


def _parse_quoted(raw: bytes, place: int, delimiter: bytes, column: int) -> Record:
    n_cells, line_end, fault = 0, -1, ""
    text: bytes | None = None
    while True:
        start, close = place, -1
        if raw.startswith(b'"', start):
            close = _closing(raw, start + 1)
            if close < 0:
                n_left = format_bytes(len(raw) - start)
                fault = (
                    f"its cell {n_cells + 1:,} has no closing quote in the {n_left} to the end of the file"
                )
                return Record(len(raw), n_cells + 1, None, fault)
            place = close + 1
        if line_end < place:
            line_end = raw.find(b"\n", place) % (len(raw) + 1)  # -1 becomes the end
        cell_end = raw.find(delimiter, place, line_end)
        is_last = cell_end < 0
        if is_last:
            cell_end = line_end - raw.endswith(b"\r", place, line_end)
        if close >= 0 and cell_end > place and not fault:
            shown = raw[place : min(cell_end, place + _SHOWN_BYTES)].decode(errors="replace")
            fault = (
                f"{shown!a} follows the closing quote of its cell {n_cells + 1:,}; double the quotes inside"
            )
        if n_cells == column:
            text = raw[start:cell_end] if close < 0 else _unquoted(raw, start + 1, close)
        n_cells += 1
        if is_last:
            return Record(min(line_end + 1, len(raw)), n_cells, text, fault)
        place = cell_end + 1


def _closing(raw: bytes, place: int) -> int:
    """Return the place of the next quote that is not doubled; -1 if there is none."""
    place = raw.find(b'"', place)
    while place >= 0 and raw.startswith(b'"', place + 1):
        place = raw.find(b'"', place + 2)
    return place


def _unquoted(raw: bytes, start: int, end: int) -> bytes:
    """Return what is between two quotes, with single quotes for doubled ones."""
    if end - start <= LONG_RECORD_BYTES:
        return raw[start:end].replace(b'""', b'"')
    text, view = BytesIO(), memoryview(raw)  # holds less than a slice, and a copy of it with other quotes
    while (place := raw.find(b'""', start, end)) >= 0:
        text.write(view[start : place + 1])
        start = place + 2
    text.write(view[start:end])
    return text.getvalue()


class RecordEnds:
    """Finds where records end in bytes that are passed piece by piece, from the beginning of a record on."""

    def __init__(self, delimiter: bytes, *, n_skipped: int = 0) -> None:
        """`n_skipped`: bytes before the first record."""
        self._openers = (delimiter, b"\n")  # a quote after one of these opens a cell
        self._n_skipped = n_skipped
        self._last = b"\n"  # the byte before the next piece
        self._is_inside = False  # whether the next byte is inside quotes
        self._may_close = False  # the last byte is a quote inside quotes: it closes them unless one follows

    def find(self, data: bytes) -> tuple[int, int, int]:
        """Return the first and the last place after the end of a record, 0 for none, and their number."""
        first = last = n_ends = 0
        place = first_place = min(self._n_skipped, len(data))
        self._n_skipped -= place
        before, self._last = self._last, data[-1:] if place < len(data) else b"\n"
        if self._may_close and data:
            self._may_close, self._is_inside = False, data.startswith(b'"')
            place, before = (1, b"") if self._is_inside else (0, b'"')
        while place < len(data):
            if self._is_inside:
                place = _closing(data, place)
                self._may_close = place == len(data) - 1
                self._is_inside = place < 0 or self._may_close
                place = len(data) if self._is_inside else place + 1
                continue
            start, place = place, data.find(b'"', place)
            while place >= 0:
                if (data[place - 1 : place] if place > first_place else before) in self._openers:
                    break
                place = data.find(b'"', place + 1)
            end = place if place >= 0 else len(data)
            if n := data.count(b"\n", start, end):
                first = first or data.find(b"\n", start, end) + 1
                last, n_ends = data.rfind(b"\n", start, end) + 1, n_ends + n
            self._is_inside, place = place >= 0, end + 1
        return first, last, n_ends


@dataclass(frozen=True, slots=True)
class Header:
    """The names of the columns, from the first record."""

    columns: tuple[str, ...]
    delimiter: str
    start: int  # where the first record begins, after a byte order mark and blank lines
    end: int


def parse_header(
    head: bytes, delimiters: Sequence[str] = DELIMITERS, *, wanted: Collection[str] = ()
) -> Header | None:
    """Parse the first record of a table that begins with `head`; None if there is none.

    The delimiter is one that makes a column with one of the `wanted` names, or else the one that makes the
    most columns.
    """
    start = len(BOM_UTF8) if head.startswith(BOM_UTF8) else 0
    while start < len(head) and head[start : start + 1] in (b"\n", b"\r"):
        start += 1
    found = []
    for delimiter in delimiters if start < len(head) else ():
        cells, end = all_cells(head, start, delimiter.encode())
        columns = tuple(one.decode(errors="replace") for one in cells)
        found.append(Header(columns, delimiter, start, end))
    return max(found, key=lambda one: (not {*wanted}.isdisjoint(one.columns), len(one.columns)), default=None)


def all_cells(raw: bytes, start: int, delimiter: bytes) -> tuple[list[bytes], int]:
    """Return all cells of the record that begins at `start`, and where it ends; for a few records only."""
    record = parse_record(raw, start, delimiter, 0)
    if raw.find(b'"', start, record.end) < 0:
        line = raw[start : record.end].removesuffix(b"\n").removesuffix(b"\r")
        return line.split(delimiter), record.end
    cells = [parse_record(raw, start, delimiter, k).text for k in range(record.n_cells)]
    return [one for one in cells if one is not None], record.end
