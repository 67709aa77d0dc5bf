"""List a parquet column's pages and their sizes in advance: reading a page takes several times its size.

In a row group, a column is a sequence of pages, each after a header in Thrift's compact protocol. The footer
does not list them. Source: apache/parquet-format, `PageHeader` in parquet.thrift.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

_HEADER_BYTES = 512  # enough for a header without statistics
_MOST_HEADER_BYTES = 1024 * 1024
_SIZE, _STORED_SIZE = 2, 3  # fields of the header
_DICTIONARY = 2  # a type of page
_ABOUT = {0: 5, _DICTIONARY: 7, 3: 8}  # type of a page -> the field with more about it
_N_VALUES = 1  # a field of these structs
_ENCODINGS = {0: 2, 3: 4}  # type of a page of values -> a field of these structs
_INDICES = (2, 8)  # encodings: the page holds indices into the dictionary


@dataclass(frozen=True, slots=True)
class Page:
    """A page of values; sizes are uncompressed."""

    first_row: int
    n_rows: int
    n_bytes: int
    has_indices: bool = False  # into the dictionary, so that its texts may take more than `n_bytes`


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages of a column of a row group."""

    dictionary_bytes: int  # 0 for none
    pages: Sequence[Page]  # each with at least one row
    n_repeats: int = 0  # rows with indices, minus entries of the dictionary

    def at(self, row: int) -> Page:
        """Return the page of a row."""
        return self.pages[self._index_of(row)]

    def rows_within(self, row: int, most_bytes: int) -> int:
        """Count the rows from `row` to the end of its page, or of a later one if all fit in `most_bytes`.

        If the pages hold indices, their texts fit in twice `most_bytes` even if each is the longest entry.
        Where no entry is used twice, all together are no more than the dictionary, which has been read.
        """
        n_bytes = n_rows = 0
        has_indices = self.at(row).has_indices
        for page in islice(self.pages, self._index_of(row), None):
            n_bytes += page.n_bytes
            if n_rows and (n_bytes > most_bytes or page.has_indices != has_indices):
                break
            n_rows = page.first_row + page.n_rows - row
        n_indices = max(1, 2 * most_bytes // max(1, self.dictionary_bytes))
        return min(n_rows, n_indices) if has_indices and not 0 <= self.n_repeats < n_indices else n_rows

    def _index_of(self, row: int) -> int:
        return bisect_right(self.pages, row, key=lambda page: page.first_row) - 1


def list_pages(read: Callable[[int, int], bytes], start: int, end: int, first_row: int) -> Pages | None:
    """List the pages in `[start, end)` of a file; their column has no lists, and begins with `first_row`.

    `read(n, offset)` returns n bytes of the file. Returns None if the headers make no sense.
    """
    dictionary_bytes, n_entries, pages = 0, 0, list[Page]()
    while start < end:
        found = _read_header(read, start, end)
        if found is None:
            return None
        header, header_bytes = found
        kind, n_bytes = header[1], header[_SIZE]
        if kind in _ABOUT:
            about = header[_ABOUT[kind]]
            n_values = about[_N_VALUES]
            if kind == _DICTIONARY:
                dictionary_bytes, n_entries = n_bytes, n_values
            elif n_values:
                has_indices = about.get(_ENCODINGS[kind]) in _INDICES
                pages.append(Page(first_row, n_values, n_bytes, has_indices))
                first_row += n_values
        start += header_bytes + header[_STORED_SIZE]
    n_repeats = sum(page.n_rows for page in pages if page.has_indices) - n_entries
    return Pages(dictionary_bytes, pages, n_repeats) if start == end else None


def _read_header(
    read: Callable[[int, int], bytes], start: int, end: int
) -> tuple[dict[int, Any], int] | None:
    n_bytes = _HEADER_BYTES
    while n_bytes <= _MOST_HEADER_BYTES:
        data = read(min(n_bytes, end - start), start)
        try:
            header, header_bytes = parse_struct(data, 0)
            counts = [header[_ABOUT[header[1]]][_N_VALUES]] if header[1] in _ABOUT else []
            return (header, header_bytes) if min(header[_SIZE], header[_STORED_SIZE], *counts) >= 0 else None
        except IndexError:  # the header is longer than `n_bytes`
            n_bytes *= 4
        except (KeyError, TypeError, ValueError, RecursionError):
            return None
    return None


def parse_struct(data: bytes, place: int) -> tuple[dict[int, Any], int]:
    r"""Parse a struct at `place`; return its integers and structs by field, and where it ends.

    >>> parse_struct(b"\x15\x04\x15\x80\x01\x00", 0)
    ({1: 2, 2: 64}, 6)

    Raises:
        IndexError: the struct continues after the end of `data`.
        ValueError: it is not a struct.
    """
    fields: dict[int, Any] = {}
    field = 0
    while True:
        byte = data[place]
        place += 1
        if byte == 0:
            return fields, place
        if byte >> 4:
            field += byte >> 4
        else:
            field, place = _parse_int(data, place)
        if byte & 15 > 2:  # types 1 and 2 are true and false, and have no value
            fields[field], place = _parse_value(data, place, byte & 15)


def _parse_value(data: bytes, place: int, kind: int) -> tuple[Any, int]:
    if kind in (4, 5, 6):
        return _parse_int(data, place)
    if kind == 12:
        return parse_struct(data, place)
    if kind in (1, 2, 3):  # a byte; a boolean in a list
        return None, place + 1
    if kind == 7:
        return None, place + 8
    if kind == 8:
        n_bytes, place = _parse_varint(data, place)
        return None, place + n_bytes
    if kind in (9, 10):
        n_items, item_kind = data[place] >> 4, data[place] & 15
        place += 1
        if n_items == 15:
            n_items, place = _parse_varint(data, place)
        for _ in range(n_items):
            _, place = _parse_value(data, place, item_kind)
        return None, place
    raise ValueError(f"a value of type {kind}")


def _parse_varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _parse_int(data: bytes, place: int) -> tuple[int, int]:
    value, place = _parse_varint(data, place)
    return (value >> 1) ^ -(value & 1), place
