"""Take documents out of one string column of a parquet file, row group by row group. Needs pyarrow.

What is held does not grow with the row groups: some pages (1 MiB each, unless the writer was told otherwise),
a dictionary, some rows. The process takes 101 MiB at its peak where row groups have 1,000 documents of 4 KB,
and 99 where a single one has 469 MB; 64 of them with the file just open. What that hangs on, for the 469 MB:
a `buffer_size` (336 MiB without: the whole column of the row group is read at once), no `memory_map` (333,
in the page cache), no `read_row_group` (1,211), few rows a batch (121 with 1,000; where they are long, one:
how long, the footer does not say, and a dictionary holds equal ones once). Of what was used, the system's
allocator gives nearly all back when asked to, jemalloc nothing, and mimalloc makes the peak 141.
Large pages do cost: 313 MiB where the 469 MB are written with a page size of 1 GiB. Reads 370 to 490 MB/s of
text on one thread. (pyarrow 26, Python 3.11, 2-core VM.)
"""

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.errors import InputError, MemoryLimitError, TooSmallError
from nanogpt_compat.input.location import Location
from nanogpt_compat.input.pages import Page, Pages, list_pages
from nanogpt_compat.input.remote import read_ahead
from nanogpt_compat.input.repairs import BadRecord
from nanogpt_compat.input.text import InputFile
from nanogpt_compat.system.commands import install, show
from nanogpt_compat.system.units import format_bytes
from nanogpt_compat.text.blocks import LONG_RECORD_BYTES, MAX_LISTED, MakeRoom, Need, Records, Rows, has_room
from nanogpt_compat.text.documents import MAX_RECORD_BYTES
from nanogpt_compat.text.utf8 import is_utf8

_MAGIC = b"PAR1"  # at both ends of a file
_ENCRYPTED_MAGIC = b"PARE"
_SIGNATURE_BYTES = 28  # behind a footer that is not encrypted, though columns may be
_BUFFER_BYTES = 64 * 1024
_N_SHOWN_ROWS = 4
LENGTH_BYTES = 8  # of a row's length in what `frame_rows` makes
_LARGE_PAGE_BYTES = 8 << 20  # `records.READER_BYTES` is enough for smaller ones
_PAGE_OVERHEAD_BYTES = 1024  # of one text in it
_MAX_BATCH_ROWS = 64  # rows of 4 kB come 10 % faster than with 32, and 6 times as fast as one by one


class NoTextColumn(InputError):
    """A table has no column of text of the name that was asked for: what it has instead, and some rows."""

    def __init__(self, found: str, rows: list[Any]) -> None:
        super().__init__(f"{found}; name the column of the text with --text-field")
        self.found = found
        self.rows = rows


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A row group, and what its text column takes."""

    index: int
    first_row: int  # of the file
    n_rows: int
    start: int  # byte of the file at which the column begins
    stored_bytes: int  # of the column in the file
    text_bytes: int  # uncompressed, but as encoded: a dictionary holds equal texts once


class TextColumn:
    """The text column of an open parquet file that must not change while it is read."""

    def __init__(self, stored: InputFile, *, text_field: str, max_row_group_bytes: int) -> None:
        """Read the footer of `stored`, which is closed with the column, or if there is none.

        Raises:
            InputError: pyarrow is missing; the file is unreadable, truncated or no parquet; it has no such
                column, or not of strings; a row group has more than `max_row_group_bytes` of text,
                uncompressed.
        """
        self.path = stored.path
        self.text_field = text_field
        self._stored = stored
        self._is_void = False  # it has a type of nulls alone: its writer met no text
        try:
            self._pyarrow = _import_pyarrow(self.path)
            _check_magic(self._stored)
            self._file = self._open()
            self._check_encryption()
            self._check_column()
            self.row_groups = self._list_row_groups()
            self._check_sizes(max_row_group_bytes)
        except UnicodeDecodeError as error:  # in a name
            self._stored.__exit__()
            raise self._damaged_footer(error) from error
        except BaseException:
            self._stored.__exit__()
            raise

    def __enter__(self) -> "TextColumn":
        """Return the column itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the file and give back what pyarrow has kept for later."""
        self._file.close(force=True)
        self._stored.__exit__()
        self._pyarrow.default_memory_pool().release_unused()

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return self._stored.size_bytes

    @property
    def n_rows(self) -> int:
        """Of all row groups."""
        return sum(group.n_rows for group in self.row_groups)

    def bytes_before(self, row_group: int, row: int) -> int:
        """Say how far the file has been read before a row of a row group; all of it behind the last."""
        group, last = self.row_groups[row_group], self.row_groups[-1]
        if row == last.first_row + last.n_rows:
            return self.size_bytes
        return group.start + group.stored_bytes * (row - group.first_row) // group.n_rows

    def first_rows(self) -> list[Any]:
        """Read some rows with all columns, to see what is there; none if that fails."""
        try:
            return [
                row
                for batch in islice(self._file.iter_batches(_N_SHOWN_ROWS), 1)
                for row in batch.to_pylist()
            ]
        except (self._pyarrow.ArrowException, OSError, ValueError):
            return []

    def read_ahead(self, row_group: int) -> None:
        """Take note that all row groups from this one on will be read."""
        groups = self.row_groups[row_group:]
        read_ahead(self._stored, ((one.start, one.start + one.stored_bytes) for one in groups))

    def check_unchanged(self) -> None:
        """As `InputFile.check_unchanged`."""
        self._stored.check_unchanged()

    def read_rows(
        self, row_group: int, *, block_bytes: int, first_row: int = 0, make_room: MakeRoom = has_room
    ) -> Iterator[tuple[bytes, Rows]]:
        """Yield a row group from row `first_row` of the file on in runs with about `block_bytes` of text.

        Each is the texts, one after another, and what they are made of; `parse_rows` takes them apart. A text
        of more than `LONG_RECORD_BYTES` is a run by itself. The rows before `first_row` are decoded too.
        `make_room` is asked before a large page is read. Where runs begin and end depends on `block_bytes`;
        the rows do not.

        Raises:
            InputError: the row group is damaged, or has a text of more than `MAX_RECORD_BYTES`.
            And what `make_room` raises.
        """
        group = self.row_groups[row_group]
        run = _Run(group, max(first_row, group.first_row), is_void=self._is_void)
        for batch in self._read_batches(group, block_bytes, run.first_row, make_room):
            parts = _apart(*batch.pop())
            while parts:
                text, lengths = parts.pop(0)
                n_bytes = len(text)
                if run.n_rows and n_bytes > LONG_RECORD_BYTES:
                    yield run.take()
                run.add(text, lengths)
                del text  # the run alone holds it, and no longer than it must
                if run.n_bytes + n_bytes > block_bytes:  # another one like this would be too much
                    yield run.take()
        if run.n_rows:
            yield run.take()

    def _read_batches(
        self, group: RowGroup, block_bytes: int, first_row: int, make_room: MakeRoom
    ) -> Iterator[list[tuple[memoryview, NDArray[np.int64]]]]:
        """Yield texts and lengths of some rows at a time; drops what was read from the page cache.

        They come in a list, for the caller to take them out, so that nothing else holds them.
        """
        n_rows, row, end = 1, group.first_row, group.first_row + group.n_rows
        pages, page = self._pages_of(group, make_room), None
        batches = self._file.iter_batches(
            batch_size=n_rows, row_groups=[group.index], columns=[self.text_field], use_threads=False
        )
        while row < end:
            if page is not (page := pages.at(row)) and page.n_bytes > _LARGE_PAGE_BYTES:
                self._make_room_for(group, page, make_room)
            n_rows = min(n_rows, pages.rows_within(row, _LARGE_PAGE_BYTES))
            if page.n_bytes > _LARGE_PAGE_BYTES:
                n_rows = min(n_rows, max(1, page.n_rows * block_bytes // page.n_bytes))
            if pages.dictionary_bytes > 0:
                n_rows = min(n_rows, max(1, 2 * _LARGE_PAGE_BYTES // pages.dictionary_bytes))
            self._file.reader.set_batch_size(n_rows)
            text, lengths = self._next_batch(batches, group, row)
            self._check_lengths(lengths, group, row)
            n_before, n_bytes = max(0, first_row - row), len(text)
            if n_before < len(lengths):
                batch = [(text[int(lengths[:n_before].clip(0).sum()) :], lengths[n_before:])]
                del text
                yield batch
            row += len(lengths)
            self._stored.drop_before(self.bytes_before(group.index, row))
            n_rows = max(1, min(2 * n_rows, _MAX_BATCH_ROWS, block_bytes * len(lengths) // max(1, n_bytes)))

    def _pages_of(self, group: RowGroup, make_room: MakeRoom) -> Pages:
        """List the pages of a row group; one for all of it where they cannot be told.

        On a server that takes a request for each, so there it is done only if not all of it would fit.
        """
        whole = Page(group.first_row, group.n_rows, group.text_bytes)
        if not isinstance(self.path, Path):
            if group.text_bytes <= _LARGE_PAGE_BYTES:
                return Pages(0, [whole])
            try:
                self._make_room_for(group, whole, make_room)
                return Pages(0, [replace(whole, n_bytes=_LARGE_PAGE_BYTES)])
            except (TooSmallError, MemoryLimitError):
                pass
        found = list_pages(self._stored.read, group.start, group.start + group.stored_bytes, group.first_row)
        if found is None or sum(page.n_rows for page in found.pages) != group.n_rows:
            found = Pages(0, [whole])
        if found.dictionary_bytes > _LARGE_PAGE_BYTES:
            self._make_room_for(group, replace(whole, n_bytes=found.dictionary_bytes), make_room)
        return found

    def _make_room_for(self, group: RowGroup, page: Page, make_room: MakeRoom) -> None:
        """Make room in memory for a large page.

        It takes 3.2 times its size uncompressed, 5.5 times with snappy or zstd, to read one of 20 MB with one
        text (pyarrow 26).

        Raises:
            InputError: it is one text of more than `MAX_RECORD_BYTES`. And what `make_room` raises.
        """
        if page.n_rows == 1 and page.n_bytes > MAX_RECORD_BYTES + _PAGE_OVERHEAD_BYTES:
            raise self._too_long(group, page.first_row, page.n_bytes)
        place, size = place_of_row(page.first_row, group.index, group.start), format_bytes(page.n_bytes)
        if page.n_rows == 1:
            what = f"{self.path}: {place} has {size}"
        else:
            what = f"{self.path}: a page of {page.n_rows:,} rows, from {place} on, has {size}"
        n_bytes = page.n_bytes * 11 // 2 + _LARGE_PAGE_BYTES
        most_bytes = page.n_bytes * 6 + 6 * _LARGE_PAGE_BYTES
        way_out = "divide the text into several rows" if page.n_rows == 1 else "write it in smaller pages"
        make_room(n_bytes, lambda: Need(what, n_bytes, most_bytes, way_out))

    def _check_lengths(self, lengths: NDArray[np.int64], group: RowGroup, row: int) -> None:
        """Refuse a text that does not fit in memory several times."""
        if lengths.max(initial=0) > MAX_RECORD_BYTES:
            k = int(lengths.argmax())
            raise self._too_long(group, row + k, int(lengths[k]))

    def _too_long(self, group: RowGroup, row: int, n_bytes: int) -> InputError:
        return InputError(
            f"{self.path}, {place_of_row(row, group.index, group.start)}: its field {self.text_field!r} has "
            f"{format_bytes(n_bytes)} and may have {format_bytes(MAX_RECORD_BYTES)}; divide the text, or "
            "take the row out"
        )

    def _next_batch(
        self, batches: Iterator[Any], group: RowGroup, row: int
    ) -> tuple[memoryview, NDArray[np.int64]]:
        """Take the buffers of the next rows as they are: no object for each text."""
        try:
            column = next(batches).column(self.text_field)
            if self._is_void and column.null_count == len(column):
                return memoryview(b""), np.full(len(column), -1)
            column = column.cast(self._pyarrow.large_binary())
            null = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
            if null is not None:
                column = column.fill_null(b"")
        except (self._pyarrow.ArrowException, OSError, StopIteration) as error:
            raise InputError(
                f"{self.path}, {place_of_row(row, group.index, group.start)} or a little further on: its "
                f"column {self.text_field!r} is damaged ({str(error) or 'the row group ends here'}); fetch "
                "or make the file again"
            ) from error
        _, offsets, text = column.buffers()
        ends = np.frombuffer(offsets, np.int64, len(column) + 1, column.offset * np.int64().itemsize)
        lengths = np.diff(ends)
        if null is not None:
            lengths[null] = -1
        return memoryview(text or b"")[ends[0] : ends[-1]], lengths

    def _open(self) -> Any:
        from pyarrow.parquet import ParquetFile

        try:
            path = self.path  # not as a str: pyarrow would have it in UTF-8
            return ParquetFile(
                self._pyarrow.OSFile(os.fsencode(path)) if isinstance(path, Path) else _AsFile(self._stored),
                memory_map=False,
                buffer_size=_BUFFER_BYTES,
                pre_buffer=False,
                page_checksum_verification=True,
            )
        except (self._pyarrow.ArrowException, OSError) as error:
            raise self._damaged_footer(error) from error

    def _check_encryption(self) -> None:
        """Refuse an encrypted column before pyarrow looks for its size, which ends the process."""
        tail = self._stored.read(2 * len(_MAGIC), self._stored.size_bytes - 2 * len(_MAGIC))
        footer_bytes = int.from_bytes(tail[: len(_MAGIC)], "little")
        if footer_bytes - self._file.metadata.serialized_size == _SIGNATURE_BYTES:
            raise _encrypted(self.path)

    def _check_column(self) -> None:
        """Refuse a file that has rows, but no column of text of that name."""
        schema = self._file.schema_arrow
        if not self._file.metadata.num_rows:
            return
        there = ", ".join(map(repr, schema.names[:MAX_LISTED])) + ", ..." * (len(schema) > MAX_LISTED)
        if self.text_field not in schema.names:
            found = f"{self.path} has no column {self.text_field!r} among its columns ({there})"
            raise NoTextColumn(found, self.first_rows())
        if schema.names.count(self.text_field) > 1:
            raise InputError(
                f"{self.path} has two columns {self.text_field!r} among its columns ({there}); "
                "write it again with another name for one of them"
            )
        kind = schema.field(self.text_field).type
        self._is_void = self._pyarrow.types.is_null(kind) or self._holds_nulls_alone()
        if not self._is_void and not self._holds_text(kind):
            found = f"{self.path}: its column {self.text_field!r} is of type {kind}, not string"
            raise NoTextColumn(found, self.first_rows())

    def _holds_nulls_alone(self) -> bool:
        """Whether by the footer each row is null: so pandas writes a column in which it met no text."""
        metadata = self._file.metadata
        paths = self._leaf_paths()
        if self.text_field not in paths:
            return False  # it is nested
        index = paths.index(self.text_field)
        columns = (metadata.row_group(k).column(index) for k in range(metadata.num_row_groups))
        found = ((column.num_values, column.statistics) for column in columns)
        return all(not n or (counts is not None and counts.null_count == n) for n, counts in found)

    def _leaf_paths(self) -> list[str]:
        schema = self._file.metadata.schema
        return [schema.column(k).path for k in range(len(schema))]

    def _holds_text(self, kind: Any) -> bool:
        """Whether a column of this type holds strings, or bytes, as some writers store strings."""
        types = self._pyarrow.types
        if isinstance(kind, self._pyarrow.BaseExtensionType):  # a UUID is no text, and JSON is
            return bool(types.is_string(kind.storage_type))
        if types.is_dictionary(kind):
            kind = kind.value_type
        kinds = "string", "large_string", "string_view", "binary", "large_binary", "binary_view"
        return types.is_fixed_size_binary(kind) or any(getattr(types, f"is_{name}")(kind) for name in kinds)

    def _list_row_groups(self) -> tuple[RowGroup, ...]:
        """Take out of the footer what there is of the column; nothing if the file has no rows.

        The footer has no checksum, and what pyarrow raises inside `group.column` ends the process: that
        happens with 11 of the 6,840 bits of one, all in the histograms that go with its statistics.
        """
        metadata = self._file.metadata
        column_index = self._leaf_paths().index(self.text_field) if metadata.num_rows else None
        groups, n_rows = [], 0
        for k in range(metadata.num_row_groups):
            group = metadata.row_group(k)
            if column_index is not None:
                column = group.column(column_index)
                if column.num_values != group.num_rows:
                    found = f"{column.num_values:,} of {group.num_rows:,} rows in row group {k:,}"
                    raise self._damaged_footer(found)
                start = column.dictionary_page_offset or column.data_page_offset
                n_bytes = column.total_compressed_size, column.total_uncompressed_size
                groups.append(RowGroup(k, n_rows, group.num_rows, start, *n_bytes))
            n_rows += group.num_rows
        if n_rows != metadata.num_rows:
            raise self._damaged_footer(f"{metadata.num_rows:,} rows, {n_rows:,} in the row groups")
        return tuple(groups)

    def _damaged_footer(self, found: object) -> InputError:
        return InputError(
            f"{self.path} cannot be read as parquet: its footer is damaged ({found}); fetch or make the "
            "file again"
        )

    def _check_sizes(self, max_bytes: int) -> None:
        for group in self.row_groups:
            if group.text_bytes > max_bytes:
                raise InputError(
                    f"{self.path}, row group {group.index:,}: its column {self.text_field!r}, which begins "
                    f"at byte {group.start:,}, has {format_bytes(group.text_bytes)} of text, and may have "
                    f"{format_bytes(max_bytes)}; "
                    "write the file again in smaller row groups (1,000 rows are usual)"
                )


class _Run:
    """Rows of a row group that are put together."""

    def __init__(self, group: RowGroup, first_row: int, *, is_void: bool) -> None:
        self.first_row = first_row
        self.n_rows = 0
        self.n_bytes = 0
        self._group = group
        self._is_void = is_void
        self._texts: list[memoryview] = []
        self._lengths: list[NDArray[np.int64]] = []

    def add(self, text: memoryview, lengths: NDArray[np.int64]) -> None:
        """Add the rows that follow."""
        self._texts.append(text)
        self._lengths.append(lengths)
        self.n_rows += len(lengths)
        self.n_bytes += len(text)

    def take(self) -> tuple[bytes, Rows]:
        """Hand out the rows, and begin with the one after them."""
        raw, lengths = b"".join(self._texts), np.concatenate(self._lengths)
        rows = Rows(self._group.index, self._group.start, self.first_row, lengths, is_void=self._is_void)
        self.first_row += self.n_rows
        self.n_rows = self.n_bytes = 0
        self._texts.clear()
        self._lengths.clear()
        return raw, rows


def _apart(text: memoryview, lengths: NDArray[np.int64]) -> list[tuple[memoryview, NDArray[np.int64]]]:
    """Part the rows of a batch so that each long one is alone."""
    if len(text) <= LONG_RECORD_BYTES or len(lengths) == 1:
        return [(text, lengths)]
    long = np.flatnonzero(lengths > LONG_RECORD_BYTES)
    edges = np.unique(np.concatenate([[0, len(lengths)], long, long + 1]))
    ends = np.concatenate([[0], lengths.clip(0).cumsum()])
    return [(text[ends[first] : ends[last]], lengths[first:last]) for first, last in pairwise(edges.tolist())]


def place_of_row(row: int, row_group: int, column_start: int) -> str:
    """Return where a row is, as messages name it."""
    return f"row {row:,} (of row group {row_group:,}, whose column begins at byte {column_start:,})"


def frame_rows(raw: bytes, lengths: NDArray[np.int64]) -> memoryview:
    r"""Put each row's length before its text, as little-endian int64, -1 for null: the logical content.

    Joined texts alone would not change when a row boundary moves. 0.5 ms a MiB for rows of 1 kB (2-core VM).

    >>> frame_rows(b"abc", np.array([1, 2])).tobytes()
    b'\x01\x00\x00\x00\x00\x00\x00\x00a\x02\x00\x00\x00\x00\x00\x00\x00bc'
    """
    framed = np.empty(len(raw) + LENGTH_BYTES * len(lengths), np.uint8)
    n_bytes = lengths.clip(0)
    starts = n_bytes.cumsum() - n_bytes + LENGTH_BYTES * np.arange(len(lengths))
    places = (starts[:, np.newaxis] + np.arange(LENGTH_BYTES)).ravel()
    is_text = np.ones(len(framed), np.bool_)
    is_text[places] = False
    framed[places] = lengths.astype("<i8").view(np.uint8)
    framed[is_text] = np.frombuffer(raw, np.uint8)
    return framed.data


def crc_of_rows(raw: bytes, lengths: NDArray[np.int64], crc: int) -> int:
    """Continue the CRC-32 of the logical content; a single row, which may be long, is not copied for it."""
    if len(lengths) == 1:
        return crc32(raw, crc32(lengths.astype("<i8").tobytes(), crc))
    return crc32(frame_rows(raw, lengths), crc)


def parse_rows(raw: bytes, rows: Rows, *, text_field: str, skip_bad: bool = False) -> Records:
    """Take a run of rows apart.

    Raises:
        BadRecord: a row is no document and `skip_bad` is false; with its place, but not the file.
    """
    ends = rows.lengths.clip(0).cumsum()
    starts = ends - rows.lengths.clip(0)
    values = [raw[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    records = Records()
    skip_bad = skip_bad or rows.is_void
    if rows.lengths.min(initial=0) < 0 or not _are_utf8(raw, starts):
        values = _good_values(values, rows, records, text_field=text_field, skip_bad=skip_bad)
    records.texts = [value for value in values if value]
    records.n_empty = len(values) - len(records.texts)
    return records


def _are_utf8(raw: bytes, starts: NDArray[np.int64]) -> bool:
    """Whether all texts are UTF-8, of which pyarrow does not make sure: all together, and none broken off."""
    if raw.isascii():
        return True
    firsts = np.frombuffer(raw, np.uint8)[starts[starts < len(raw)]]
    return is_utf8(raw) and not (firsts & 0xC0 == 0x80).any()


def _good_values(
    values: Sequence[bytes], rows: Rows, records: Records, *, text_field: str, skip_bad: bool
) -> list[bytes]:
    """Sort out what is no document, and count it in `records`."""
    good = []
    for row, (value, length) in enumerate(zip(values, rows.lengths.tolist(), strict=True), rows.first_row):
        reason = f"its field {text_field!r} is null" if length < 0 else _fault(value, text_field)
        where = place_of_row(row, rows.row_group, rows.column_start)
        if reason is None:
            good.append(value)
        elif skip_bad:
            records.add_bad(f"row {row:,}: {reason}")  # which is the same however the rows are grouped
        else:
            raise BadRecord(where, reason, noun="row")
    return good


def _fault(value: bytes, text_field: str) -> str | None:
    """Say where a text is not UTF-8, if it is not."""
    try:
        value.decode()
    except UnicodeDecodeError as error:
        found = value[error.start : error.end].hex(" ")
        return f"byte {error.start:,} of its field {text_field!r} is not UTF-8: found {found}"
    return None


class _AsFile(io.RawIOBase):
    """What pyarrow takes for a file."""

    def __init__(self, stored: InputFile) -> None:
        self._stored = stored
        self._offset = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._offset

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._offset = offset + (0, self._offset, self._stored.size_bytes)[whence]
        return self._offset

    def read(self, n_bytes: int = -1) -> bytes:
        data = self._stored.read(self._stored.size_bytes if n_bytes < 0 else n_bytes, self._offset)
        self._offset += len(data)
        return data


def _import_pyarrow(path: Location) -> Any:
    """Import pyarrow only where it is needed: it takes 55 MB."""
    # Read when the library is loaded; `set_memory_pool` would leave the pages to the other allocator.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    try:
        import pyarrow
    except ImportError as error:
        raise InputError(
            f"{path} is a parquet file, and the package that reads it is missing:{show(install('pyarrow'))}"
        ) from error
    return pyarrow


def _encrypted(path: Location) -> InputError:
    return InputError(f"{path} is an encrypted parquet file; write it again without encryption")


def _check_magic(stored: InputFile) -> None:
    head = stored.read(len(_MAGIC), 0)
    if head == _ENCRYPTED_MAGIC:
        raise _encrypted(stored.path)
    if head != _MAGIC:
        raise InputError(
            f"{stored.path} is no parquet file: it begins with {head!r} and not with {_MAGIC!r}; fetch or "
            "make it again, or give it the name of what it is"
        )
    tail = stored.read(len(_MAGIC), max(0, stored.size_bytes - len(_MAGIC)))
    if tail != _MAGIC or stored.size_bytes < 3 * len(_MAGIC):
        raise InputError(
            f"{stored.path} is truncated: at byte {stored.size_bytes:,}, where it ends, there is no parquet "
            f"footer (found {tail!r}, not {_MAGIC!r}); fetch or make it again"
        )
