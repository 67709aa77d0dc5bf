"""Take documents out of one string column of a parquet file, row group by row group. Needs pyarrow.

What is held does not grow with the row groups: some pages (1 MiB each, unless the writer was told otherwise),
a dictionary, some rows. The process takes 101 MiB at its peak where row groups have 1,000 documents of 4 KB,
and 99 where a single one has 469 MB; 64 of them with the file just open. What that hangs on, for the 469 MB:
a `buffer_size` (336 MiB without: the whole column of the row group is read at once), no `memory_map` (333,
in the page cache), no `read_row_group` (1,211), few rows a batch (121 with 1,000). Of what was used, the
system's allocator gives nearly all back when asked to, jemalloc nothing, and mimalloc makes the peak 141.
Large pages do cost: 313 MiB where the 469 MB are written with a page size of 1 GiB. Reads 370 to 490 MB/s of
text on one thread. (pyarrow 26, Python 3.11, 2-core VM.)
"""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanogpt_compat.config import Location
from nanogpt_compat.errors import InputError
from nanogpt_compat.sources.text import InputFile
from nanogpt_compat.units import format_bytes

_MAGIC = b"PAR1"  # at both ends of a file
_BUFFER_BYTES = 64 * 1024
_MAX_BATCH_ROWS = 64  # 2.4 million rows/s where they are short; fewer to a batch where they are long
_MAX_LISTED = 10


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A row group, and what its text column takes."""

    index: int
    n_rows: int
    start: int  # byte of the file at which the column begins
    stored_bytes: int  # of the column in the file
    text_bytes: int  # uncompressed, but as encoded: a dictionary holds equal texts once


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no document."""

    row_group: int
    row: int  # of the row group; both count from 0
    reason: str


@dataclass(slots=True)
class Rows:
    """What some rows of a row group hold."""

    row_group: int
    first_row: int
    n_rows: int = 0  # bad ones too
    texts: list[bytes] = field(default_factory=list)  # UTF-8, none of them empty
    n_empty: int = 0
    n_bad: int = 0
    bad: list[BadRow] = field(default_factory=list)  # the first ten


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
        try:
            self._pyarrow = _import_pyarrow(self.path)
            _check_magic(self._stored)
            self._file = self._open()
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
        self._file.close()
        self._stored.__exit__()
        self._pyarrow.default_memory_pool().release_unused()

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return self._stored.size_bytes

    def bytes_before(self, row_group: int, row: int) -> int:
        """Say how far the file has been read before a row of a row group; all of it behind the last."""
        group = self.row_groups[row_group]
        if row == group.n_rows and not any(one.n_rows for one in self.row_groups[row_group + 1 :]):
            return self.size_bytes
        return group.start + group.stored_bytes * row // group.n_rows

    def check_unchanged(self) -> None:
        """As `InputFile.check_unchanged`."""
        self._stored.check_unchanged()

    def read_rows(
        self, row_group: int, *, block_bytes: int, first_row: int = 0, skip_bad: bool = False
    ) -> Iterator[Rows]:
        """Yield a row group from `first_row` on in runs of rows with about `block_bytes` of text.

        The rows before `first_row` are decoded too. Where runs begin and end depends on `block_bytes`; the
        documents do not.

        Raises:
            InputError: the row group is damaged; or a record is bad and `skip_bad` is false.
        """
        group = self.row_groups[row_group]
        rows = Rows(row_group, first_row)
        n_bytes = 0
        for values in self._read_batches(group, block_bytes, first_row):
            for value in values:
                self._add(rows, value, skip_bad)
                n_bytes += len(value or b"")
            if n_bytes >= block_bytes:
                yield rows
                rows = Rows(row_group, rows.first_row + rows.n_rows)
                n_bytes = 0
        if rows.n_rows:
            yield rows

    def _add(self, rows: Rows, value: bytes | None, skip_bad: bool) -> None:
        """Add what the next row holds."""
        row = rows.first_row + rows.n_rows
        rows.n_rows += 1
        reason = self._fault(value)
        if reason is not None:
            if not skip_bad:
                raise InputError(
                    f"{self._where(rows.row_group, row)}: {reason}; mend the row, or leave such rows out "
                    "with --skip-bad-records"
                )
            rows.n_bad += 1
            if len(rows.bad) < _MAX_LISTED:
                rows.bad.append(BadRow(rows.row_group, row, reason))
        elif value:
            rows.texts.append(value)
        else:
            rows.n_empty += 1

    def _fault(self, value: bytes | None) -> str | None:
        """Say why a value is no document, if it is none; pyarrow does not look whether it is UTF-8."""
        if value is None:
            return f"its field {self.text_field!r} is null"
        if not value.isascii():
            try:
                value.decode()
            except UnicodeDecodeError as error:
                found = value[error.start : error.end].hex(" ")
                return f"byte {error.start:,} of its field {self.text_field!r} is not UTF-8: found {found}"
        return None

    def _read_batches(
        self, group: RowGroup, block_bytes: int, first_row: int
    ) -> Iterator[list[bytes | None]]:
        """Yield the values of the column, some rows at a time; drops what was read from the page cache."""
        batch_rows = block_bytes * group.n_rows // max(1, group.text_bytes)
        batches = self._file.iter_batches(
            batch_size=min(max(1, batch_rows), _MAX_BATCH_ROWS),
            row_groups=[group.index],
            columns=[self.text_field],
            use_threads=False,
        )
        row = 0
        while row < group.n_rows:
            values = self._next_values(batches, group.index, row)
            if row + len(values) > first_row:
                yield values[max(0, first_row - row) :]
            row += len(values)
            self._stored.drop_before(self.bytes_before(group.index, row))

    def _next_values(self, batches: Iterator[Any], row_group: int, row: int) -> list[bytes | None]:
        pyarrow = self._pyarrow
        try:
            column = next(batches).column(self.text_field)
            values: list[bytes | None] = column.cast(pyarrow.large_binary()).to_pylist()
        except (pyarrow.ArrowException, OSError, StopIteration) as error:
            raise InputError(
                f"{self._where(row_group, row)} or a little further on: its column {self.text_field!r} is "
                f"damaged ({str(error) or 'the row group ends here'}); fetch or make the file again"
            ) from error
        return values

    def _open(self) -> Any:
        from pyarrow.parquet import ParquetFile

        try:
            return ParquetFile(
                self.path if isinstance(self.path, Path) else _AsFile(self._stored),
                memory_map=False,
                buffer_size=_BUFFER_BYTES,
                pre_buffer=False,
                page_checksum_verification=True,
            )
        except (self._pyarrow.ArrowException, OSError) as error:
            raise self._damaged_footer(error) from error

    def _check_column(self) -> None:
        """Refuse a file that has no column of strings of that name."""
        schema = self._file.schema_arrow
        advice = "name the column of the text with --text-field"
        if schema.names.count(self.text_field) != 1:
            count = "two columns" if self.text_field in schema.names else "no column"
            there = ", ".join(map(repr, schema.names))
            raise InputError(
                f"{self.path} has {count} {self.text_field!r} among its columns ({there}); {advice}"
            )
        types = self._pyarrow.types
        kind = schema.field(self.text_field).type
        of = kind.value_type if types.is_dictionary(kind) else kind
        if not (types.is_string(of) or types.is_large_string(of) or types.is_string_view(of)):
            raise InputError(
                f"{self.path}: its column {self.text_field!r} is of type {kind}, not string; {advice}"
            )

    def _list_row_groups(self) -> tuple[RowGroup, ...]:
        """Take out of the footer what there is of the column.

        The footer has no checksum, and what pyarrow raises inside `group.column` ends the process: that
        happens with 11 of the 6,840 bits of one, all in the histograms that go with its statistics.
        """
        metadata = self._file.metadata
        paths = [metadata.schema.column(k).path for k in range(metadata.num_columns)]
        column_index = paths.index(self.text_field)
        groups = []
        for k in range(metadata.num_row_groups):
            group = metadata.row_group(k)
            column = group.column(column_index)
            if column.num_values != group.num_rows:
                found = f"{column.num_values:,} of {group.num_rows:,} rows in row group {k:,}"
                raise self._damaged_footer(found)
            start = column.dictionary_page_offset or column.data_page_offset
            n_bytes = column.total_compressed_size, column.total_uncompressed_size
            groups.append(RowGroup(k, group.num_rows, start, *n_bytes))
        n_rows = sum(group.n_rows for group in groups)
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
                    f"{self.path}, row group {group.index:,}: its column {self.text_field!r} has "
                    f"{format_bytes(group.text_bytes)} of text, and may have {format_bytes(max_bytes)}; "
                    "write the file again in smaller row groups (1,000 rows are usual)"
                )

    def _where(self, row_group: int, row: int) -> str:
        return f"{self.path}, row group {row_group:,}, row {row:,}"


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
            f"{path} is a parquet file, and the package that reads it is missing: `pip install pyarrow`"
        ) from error
    return pyarrow


def _check_magic(stored: InputFile) -> None:
    head = stored.read(len(_MAGIC), 0)
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
