"""Read documents from one string column of a parquet file, row group by row group. Needs pyarrow.

The column may be a field of a struct: parquet stores each such field by itself, and only it is read.

Memory does not grow with the size of the row groups. It holds some pages (1 MiB each by default), a
dictionary and some rows. The process peaks at 101 MiB with row groups of 1,000 documents of 4 KB, and at
99 MiB with a single row group of 469 MB. 64 MiB of that are in use as soon as the file is open.

These keep it low; the peak for the 469 MB without each of them:

    a `buffer_size`           336 MiB: without one, the whole column of the row group is read at once
    no `memory_map`           333 MiB, in the page cache
    no `read_row_group`       1,211 MiB
    few rows per batch        121 MiB with 1,000 rows
    the system's allocator    141 MiB with mimalloc; and jemalloc, unlike it, never gives memory back

Long rows are read one per batch. The footer does not say how long rows are, and a dictionary holds equal ones
only once. Large pages do take memory: 313 MiB if the 469 MB are written with a page size of 1 GiB.
Reads 370 to 490 MB/s of text on one thread. (pyarrow 26, Python 3.11, 2-core VM.)
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.errors import InputError, MemoryLimitError, TooSmallError
from nanogpt_compat.input.columns import AsFile, Column, fields_of
from nanogpt_compat.input.fieldpath import Way, name_of
from nanogpt_compat.input.pages import Page, Pages, list_pages
from nanogpt_compat.input.remote import read_ahead
from nanogpt_compat.input.rows import RowGroup, Rows, place_of_row
from nanogpt_compat.input.signatures import PARQUET_MAGIC
from nanogpt_compat.input.table import Table
from nanogpt_compat.system.units import format_bytes
from nanogpt_compat.text.blocks import LONG_RECORD_BYTES, MakeRoom, Need, has_room
from nanogpt_compat.text.documents import MAX_RECORD_BYTES

_ENCRYPTED_MAGIC = b"PARE"
_SIGNATURE_BYTES = 28  # after a plain-text footer of a file with encrypted columns
_BUFFER_BYTES = 64 * 1024
_N_SHOWN_ROWS = 4
_LARGE_PAGE_BYTES = 8 << 20  # `Parquet.memory_bytes` is enough for smaller pages
_MAX_ROW_GROUP_BYTES = 4 << 30  # larger than any real row group; it is read page by page anyway
_PAGE_OVERHEAD_BYTES = 1024  # in a page with a single text
_MAX_BATCH_ROWS = 64  # with rows of 4 kB, 10 % faster than 32 and 6 times as fast as 1


class TextColumn(Column):
    """The text column of an open parquet file."""

    kind = "a parquet file"
    row_groups: tuple[RowGroup, ...] = ()

    def __exit__(self, *exc: object) -> None:
        self._file.close(force=True)
        super().__exit__(*exc)

    def _open(self) -> None:
        self._leaf: int | None = None  # its index among the columns that are stored; None without rows
        head = self._stored.read(len(PARQUET_MAGIC), 0)
        if head == _ENCRYPTED_MAGIC:
            raise self._encrypted()
        if head != PARQUET_MAGIC:
            raise InputError(
                f"{self.path} is not a parquet file: it begins with {head!r}, not with {PARQUET_MAGIC!r}; "
                "fetch or make it again, or rename it to match its format"
            )
        tail = self._stored.read(len(PARQUET_MAGIC), max(0, self.size_bytes - len(PARQUET_MAGIC)))
        if tail != PARQUET_MAGIC or self.size_bytes < 3 * len(PARQUET_MAGIC):
            raise InputError(
                f"{self.path} is truncated: it ends at byte {self.size_bytes:,} without a parquet footer; "
                "fetch or make it again"
            )
        try:
            self._file = self._open_file()
            # Asking pyarrow for the size of encrypted columns would end the process.
            tail = self._stored.read(2 * len(PARQUET_MAGIC), self.size_bytes - 2 * len(PARQUET_MAGIC))
            footer_bytes = int.from_bytes(tail[: len(PARQUET_MAGIC)], "little")
            if footer_bytes - self._file.metadata.serialized_size == _SIGNATURE_BYTES:
                raise self._encrypted()
            if self._file.metadata.num_rows:
                self._leaf = self._leaf_at(self._find(list(self._file.schema_arrow)))
            self.row_groups = self._list_row_groups()
        except UnicodeDecodeError as error:  # in the name of a column
            raise self._damaged_footer(error) from error

    def first_rows(self) -> list[Any]:
        try:
            batch = next(self._file.iter_batches(_N_SHOWN_ROWS), None)
            return [] if batch is None else list(batch.to_pylist())
        except (self._pyarrow.ArrowException, OSError, ValueError):
            return []

    def read_ahead(self, group: RowGroup) -> None:
        groups = self.row_groups[group.index :]
        read_ahead(self._stored, ((one.start, one.start + one.stored_bytes) for one in groups))

    def read_rows(
        self, group: RowGroup, *, block_bytes: int, first_row: int = 0, make_room: MakeRoom = has_room
    ) -> Iterator[tuple[bytes, Rows]]:
        """Yield runs of rows; rows before `first_row` must be decoded, too."""
        first_row = max(first_row, group.first_row)
        texts, all_lengths, n_bytes = list[memoryview](), list[NDArray[np.int64]](), 0

        def take() -> tuple[bytes, Rows]:
            """Return the collected rows, and start over with the row after them."""
            nonlocal first_row, n_bytes
            raw, lengths = b"".join(texts), np.concatenate(all_lengths)
            rows = Rows(group, first_row, lengths, self.name, is_void=self._is_void)
            first_row, n_bytes = first_row + len(lengths), 0
            texts.clear()
            all_lengths.clear()
            return raw, rows

        for batch in self._read_batches(group, block_bytes, first_row, make_room):
            parts = _apart(*batch.pop())
            while parts:
                text, lengths = parts.pop(0)
                n_new = len(text)
                if texts and n_new > LONG_RECORD_BYTES:
                    yield take()
                texts.append(text)
                all_lengths.append(lengths)
                n_bytes += n_new
                del text  # only the list must hold it, so that `take` frees it
                if n_bytes + n_new > block_bytes:  # another part of this size would be too much
                    yield take()
        if texts:
            yield take()

    def _read_batches(
        self, group: RowGroup, block_bytes: int, first_row: int, make_room: MakeRoom
    ) -> Iterator[list[tuple[memoryview, NDArray[np.int64]]]]:
        """Yield texts and lengths of some rows at a time; drop what was read from the page cache.

        Each pair comes in a list, so that the caller can pop it and hold the only reference.
        """
        n_rows, row, end = 1, group.first_row, group.first_row + group.n_rows
        pages, page = self._pages_of(group, make_room), None
        # `ParquetFile.iter_batches` takes names, and a column `a.b` and a field `b` of `a` have the same.
        batches = self._file.reader.iter_batches(
            n_rows, row_groups=[group.index], column_indices=[self._leaf], use_threads=False
        )
        while row < end:
            if page is not (page := pages.at(row)) and page.n_bytes > _LARGE_PAGE_BYTES:
                self._make_room_for(group, page, make_room)
            n_rows = min(n_rows, pages.rows_within(row, _LARGE_PAGE_BYTES))
            if page.n_bytes > _LARGE_PAGE_BYTES:
                n_rows = min(n_rows, max(1, page.n_rows * block_bytes // page.n_bytes))
            self._file.reader.set_batch_size(n_rows)
            text, lengths = self._next_batch(batches, group, row)
            self._check_lengths(group, row, lengths)
            n_before, n_bytes = max(0, first_row - row), len(text)
            if n_before < len(lengths):
                batch = [(text[int(lengths[:n_before].clip(0).sum()) :], lengths[n_before:])]
                del text
                yield batch
            row += len(lengths)
            self._stored.drop_before(group.bytes_before(row))
            n_rows = max(1, min(2 * n_rows, _MAX_BATCH_ROWS, block_bytes * len(lengths) // max(1, n_bytes)))

    def _pages_of(self, group: RowGroup, make_room: MakeRoom) -> Pages:
        """List the pages of a row group; if that is not possible, return one page for all of it.

        On a server, that takes one request per page. So there, pages are listed only if the whole row group
        would not fit in memory.
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
        """Make room in memory for a large page; raise InputError if it is one text over `MAX_RECORD_BYTES`.

        Reading a page of 20 MB with one text takes 3.2 times its size if it is stored uncompressed, and 5.5
        times if it is compressed with snappy or zstd (pyarrow 26).
        """
        if page.n_rows == 1 and page.n_bytes > MAX_RECORD_BYTES + _PAGE_OVERHEAD_BYTES:
            raise self._too_long(group, page.first_row, page.n_bytes)
        place, size = place_of_row(page.first_row, group), format_bytes(page.n_bytes)
        if page.n_rows == 1:
            what = f"{self.path}: {place} has {size}"
        else:
            what = f"{self.path}: a page of {page.n_rows:,} rows, from {place} on, has {size}"
        n_bytes = page.n_bytes * 11 // 2 + _LARGE_PAGE_BYTES
        most_bytes = page.n_bytes * 6 + 6 * _LARGE_PAGE_BYTES
        way_out = "split the text into several rows" if page.n_rows == 1 else "write it in smaller pages"
        make_room(n_bytes, lambda: Need(what, n_bytes, most_bytes, way_out))

    def _next_batch(
        self, batches: Iterator[Any], group: RowGroup, row: int
    ) -> tuple[memoryview, NDArray[np.int64]]:
        """Return the text and lengths of the next rows from pyarrow's buffers, with no object per text."""
        try:
            column = next(batches).column(0)
            while self._pyarrow.types.is_struct(column.type):
                (column,) = column.flatten()  # null where the struct is
            if self._is_void and column.null_count == len(column):
                return memoryview(b""), np.full(len(column), -1)
            column = column.cast(self._pyarrow.large_binary())
            null = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
            if null is not None:
                column = column.fill_null(b"")
        except (self._pyarrow.ArrowException, OSError, StopIteration) as error:
            raise self._damaged(group, row, str(error) or "the row group ends here") from error
        _, offsets, text = column.buffers()
        ends = np.frombuffer(offsets, np.int64, len(column) + 1, column.offset * np.int64().itemsize)
        lengths = np.diff(ends)
        if null is not None:
            lengths[null] = -1
        return memoryview(text or b"")[ends[0] : ends[-1]], lengths

    def _open_file(self) -> Any:
        from pyarrow.parquet import ParquetFile

        try:
            path = self.path  # passed as bytes: pyarrow would encode a str in UTF-8
            return ParquetFile(
                self._pyarrow.OSFile(os.fsencode(path)) if isinstance(path, Path) else AsFile(self._stored),
                memory_map=False,
                buffer_size=_BUFFER_BYTES,
                pre_buffer=False,
                page_checksum_verification=True,
            )
        except (self._pyarrow.ArrowException, OSError) as error:
            raise self._damaged_footer(error) from error

    def _holds_nulls_alone(self, way: Way) -> bool:
        """Whether the footer says that each row is null: pandas writes a column without text that way."""
        leaf = self._leaf_at(way)
        if leaf is None:
            return False  # it is a list
        metadata = self._file.metadata
        columns = (metadata.row_group(k).column(leaf) for k in range(metadata.num_row_groups))
        found = ((column.num_values, column.statistics) for column in columns)
        return all(not n or (counts is not None and counts.null_count == n) for n, counts in found)

    def _leaf_at(self, way: Way) -> int | None:
        """Return the index of a column among those that are stored: all fields of structs, in order."""
        schema = self._file.metadata.schema
        leaves = [k for k in range(len(schema)) if schema.column(k).path == name_of(way)]
        if len(leaves) < 2:
            return leaves[0] if leaves else None
        place, fields = 0, list(self._file.schema_arrow)
        for name in way:
            index = [field.name for field in fields].index(name)
            place += sum(_n_leaves(field.type) for field in fields[:index])
            fields = fields_of(fields[index].type)
        return place

    def _list_row_groups(self) -> tuple[RowGroup, ...]:
        """List the row groups from the footer; none if the file has no rows.

        The footer has no checksum, and an error that pyarrow raises inside `group.column` ends the process.
        In one footer, flipping any of 11 of its 6,840 bits causes that; all are in the histograms of the
        statistics.
        """
        metadata = self._file.metadata
        groups, n_rows = [], 0
        for k in range(metadata.num_row_groups):
            group = metadata.row_group(k)
            if self._leaf is not None:
                column = group.column(self._leaf)
                if column.num_values != group.num_rows:
                    found = f"{column.num_values:,} of {group.num_rows:,} rows in row group {k:,}"
                    raise self._damaged_footer(found)
                start = column.dictionary_page_offset or column.data_page_offset
                n_bytes = column.total_compressed_size, column.total_uncompressed_size
                groups.append(RowGroup(k, n_rows, group.num_rows, start, *n_bytes))
                if n_bytes[1] > _MAX_ROW_GROUP_BYTES:
                    raise InputError(
                        f"{self.path}, row group {k:,}: its column {self.name!r}, which begins at byte "
                        f"{start:,}, has {format_bytes(n_bytes[1])} of text, but the limit is "
                        f"{format_bytes(_MAX_ROW_GROUP_BYTES)}; "
                        "write the file again in smaller row groups (1,000 rows are usual)"
                    )
            n_rows += group.num_rows
        if n_rows != metadata.num_rows:
            raise self._damaged_footer(f"{metadata.num_rows:,} rows, {n_rows:,} in the row groups")
        return tuple(groups)

    def _damaged_footer(self, found: object) -> InputError:
        return InputError(
            f"{self.path} cannot be read as parquet: its footer is damaged ({str(found).strip()}); fetch or "
            "make the file again"
        )

    def _encrypted(self) -> InputError:
        return InputError(f"{self.path} is an encrypted parquet file; write it again without encryption")


class Parquet(Table):
    """Reads documents from a column of a parquet file."""

    __slots__ = ()
    column_type = TextColumn


def _apart(text: memoryview, lengths: NDArray[np.int64]) -> list[tuple[memoryview, NDArray[np.int64]]]:
    """Split the rows of a batch so that each long one is alone."""
    if len(text) <= LONG_RECORD_BYTES or len(lengths) == 1:
        return [(text, lengths)]
    long = np.flatnonzero(lengths > LONG_RECORD_BYTES)
    edges = np.unique(np.concatenate([[0, len(lengths)], long, long + 1]))
    ends = np.concatenate([[0], lengths.clip(0).cumsum()])
    return [(text[ends[first] : ends[last]], lengths[first:last]) for first, last in pairwise(edges.tolist())]


def _n_leaves(kind: Any) -> int:
    """Return how many columns parquet stores for a column of this type."""
    kind = getattr(kind, "storage_type", kind)
    return sum(_n_leaves(one.type) for one in fields_of(kind)) or 1
