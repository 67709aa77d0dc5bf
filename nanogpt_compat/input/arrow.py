"""Read one string column of an Arrow file or stream, record batch by record batch. Needs pyarrow.

Memory does not grow with the size of the batches: only the buffers of this one column are read, and these in
pieces. pyarrow itself reads the column of a batch as a whole.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.errors import InputError
from nanogpt_compat.input import messages
from nanogpt_compat.input.arrays import Array, Opener, Values, Views
from nanogpt_compat.input.buffers import Held, Packed
from nanogpt_compat.input.columns import AsFile, Column, fields_of, holds_text
from nanogpt_compat.input.messages import BatchLayout, Damaged, Message, layout_of, read_message
from nanogpt_compat.input.remote import read_ahead
from nanogpt_compat.input.rows import RowGroup, Rows, place_of_row
from nanogpt_compat.input.signatures import ARROW_MAGIC
from nanogpt_compat.input.table import Table
from nanogpt_compat.system.units import format_bytes
from nanogpt_compat.text.blocks import LONG_RECORD_BYTES, MakeRoom, Need, has_room, need_of_record

_P = ParamSpec("_P")
_T = TypeVar("_T")

_N_SHOWN_ROWS = 4
_END_BYTES = 8  # the mark at the end of a stream
_MOST_SHOWN_BYTES = 32 << 20  # rows are shown if their batch ends by then: pyarrow reads all of it
_LARGE_BYTES = 8 << 20  # `Table.memory_bytes` is enough for less
_MAX_ROWS = 16 * 1024  # rows whose lengths are in memory at a time


@dataclass(frozen=True, slots=True)
class Batch(RowGroup):
    """A record batch."""

    dictionaries: tuple[int, ...] = ()  # the bytes at which the parts of the column's dictionary begin

    def __str__(self) -> str:
        return f"record batch {self.index:,}, which begins at byte {self.start:,}"


class ArrowColumn(Column):
    """The column of texts of an open Arrow file or stream."""

    kind = "an Arrow file"

    def _open(self) -> None:
        self._column: Opener | None = None  # None if there are no rows
        self._entries: Opener | None = None  # opens the dictionary; None if the column has none
        self._dictionary = 0
        self._values: tuple[tuple[int, ...], Values] = ((), Values())  # the dictionary read last
        is_file = self._stored.read(len(ARROW_MAGIC), 0) == ARROW_MAGIC
        self._start = len(ARROW_MAGIC) if is_file else 0  # where the messages begin
        n_bytes = len(messages.MAGIC)
        tail = self._stored.read(n_bytes, max(0, self.size_bytes - n_bytes))
        if is_file and tail != messages.MAGIC:
            raise InputError(
                f"{self.path} is truncated: it ends at byte {self.size_bytes:,} with {tail!r}, not with "
                f"{messages.MAGIC!r}; fetch or make it again"
            )
        schema = self._read_message(self._start)
        if schema is None or schema.kind != "schema":
            raise self._unreadable("it does not begin with a schema", self._start)
        if not self._checked(self._start, messages.is_little_endian, schema):
            raise InputError(
                f"{self.path} is from a big-endian machine; write it again on another one, or as parquet"
            )
        self._schema_end = schema.end
        try:
            self._fields = list(self._pyarrow.ipc.read_schema(self._pyarrow.py_buffer(schema.framed)))
        except (self._pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise self._unreadable(f"its schema is damaged ({error})", self._start) from error
        place = schema.end
        while (message := self._read_message(place)) is not None:
            if message.kind == "batch" and self._layout(message).n_rows:
                self._open_column(schema)
                break
            place = message.end

    @property
    def row_groups(self) -> Iterator[Batch]:
        """Find the record batches, one after the other; only their metadata are read."""
        place, n_batches, n_rows = self._schema_end, 0, 0
        dictionaries: tuple[int, ...] = ()
        while (message := self._read_message(place)) is not None:
            place = message.end
            if message.kind == "dictionary" and self._entries is not None:
                number, adds = self._checked(message.start, messages.dictionary_of, message)
                if number == self._dictionary:
                    dictionaries = (*dictionaries, message.start) if adds else (message.start,)
            if message.kind == "batch":
                layout = self._layout(message)
                n_bytes = self._text_bytes(layout, dictionaries)
                yield Batch(
                    n_batches, n_rows, layout.n_rows, message.start, message.n_bytes, n_bytes, dictionaries
                )
                n_batches, n_rows = n_batches + 1, n_rows + layout.n_rows
        if not self._start and place + _END_BYTES < self.size_bytes:
            raise InputError(
                f"{self.path}: its Arrow stream ends at byte {place:,}, and something else follows; if these "
                "are several streams, make a file of each"
            )

    def first_rows(self) -> list[Any]:
        """Read some rows; if the first batch is large, return only the names of the columns of strings."""
        batch = next((one for one in self.row_groups if one.n_rows), None)
        if batch is not None and batch.start + batch.stored_bytes <= _MOST_SHOWN_BYTES:
            file = AsFile(self._stored)
            file.seek(self._start)
            try:
                with self._pyarrow.ipc.open_stream(self._pyarrow.PythonFile(file, mode="r")) as stream:
                    found = (one.slice(0, _N_SHOWN_ROWS).to_pylist() for one in stream if len(one))
                    return next(found, [])
            except (self._pyarrow.ArrowException, OSError, ValueError):
                return []
        return [{one.name: one.name for one in self._fields if holds_text(self._pyarrow, one.type)}]

    def read_ahead(self, group: RowGroup) -> None:
        read_ahead(self._stored, [(group.start, self.size_bytes)])

    def read_rows(
        self, group: RowGroup, *, block_bytes: int, first_row: int = 0, make_room: MakeRoom = has_room
    ) -> Iterator[tuple[bytes, Rows]]:
        assert isinstance(group, Batch)
        if self._column is None:  # there are no rows
            return
        if self._entries is not None and self._values[0] != group.dictionaries:
            values = Values()
            for place in group.dictionaries:
                what = f"the dictionary at byte {place:,}"
                array = self._array_at(self._entries, place)
                way_out = "write the texts without a dictionary"
                self._make_room_for_all(what, array.n_bytes, make_room, way_out)
                self._checked(place, values.add, self._held(array, what, make_room))
            self._values = group.dictionaries, values
        array = self._held(self._array_at(self._column, group.start), str(group), make_room)
        window_bytes = sum(one.window_bytes for one in array.opened)
        what = f"the zstd window of {group},"
        self._make_room_for_all(what, window_bytes, make_room, "write it at a lower compression level")
        for first in range(max(0, first_row - group.first_row), group.n_rows, _MAX_ROWS):
            row = group.first_row + first
            n_rows = min(_MAX_ROWS, group.n_rows - first)
            lengths, texts = self._rows_of(group, row, array.rows, first, n_rows)
            self._check_lengths(group, row, lengths)
            for a, b in cut_rows(lengths, block_bytes):
                if lengths[a] > LONG_RECORD_BYTES:
                    self._make_room_for(group, row + a, int(lengths[a]), make_room)
                rows = Rows(group, row + a, lengths[a:b], self.name, is_void=self._is_void)
                yield self._rows_of(group, row + a, texts, a, b), rows
                self._stored.drop_before(group.bytes_before(row + b))

    def _rows_of(self, group: Batch, row: int, read: Callable[[int, int], _T], first: int, second: int) -> _T:
        """Read some rows from `row` of the file on; name the place if they are damaged."""
        try:
            return read(first, second)
        except ValueError as error:
            raise self._damaged(group, row, error) from error

    def _make_room_for(self, group: Batch, row: int, n_bytes: int, make_room: MakeRoom) -> None:
        what = f"{self.path}: {place_of_row(row, group)} has {format_bytes(n_bytes)}"
        need = need_of_record(what, n_bytes)
        make_room(need.n_bytes, lambda: need)

    def _make_room_for_all(self, what: str, n_bytes: int, make_room: MakeRoom, way_out: str) -> None:
        if n_bytes > _LARGE_BYTES:
            need = Need(f"{self.path}: {what} has {format_bytes(n_bytes)}", 2 * n_bytes, 2 * n_bytes, way_out)
            make_room(need.n_bytes, lambda: need)

    def _unreadable(self, found: object, offset: int) -> InputError:
        return InputError(
            f"{self.path} cannot be read as Arrow: {found}, at byte {offset:,}; fetch or make it again"
        )

    def _checked(self, offset: int, parse: Callable[_P, _T], *args: _P.args, **options: _P.kwargs) -> _T:
        """Call a function that parses what is at `offset`; raise InputError if that is damaged."""
        try:
            return parse(*args, **options)
        except Damaged as error:
            raise self._unreadable(error.found, error.offset) from error
        except ValueError as error:
            raise self._unreadable(error, offset) from error

    def _read_message(self, place: int) -> Message | None:
        message = self._checked(place, read_message, self._stored.read, place)
        if message is not None and message.end > self.size_bytes:
            raise InputError(
                f"{self.path} is truncated: it ends at byte {self.size_bytes:,}, within a message of "
                f"{message.n_bytes:,} bytes that begins at byte {message.start:,}; fetch or make it again"
            )
        return message

    def _layout(self, message: Message) -> BatchLayout:
        return self._checked(message.start, layout_of, message)

    def _open_column(self, schema: Message) -> None:
        """Find the text column; raise NoTextColumn if there is none."""
        kinds = [one.type for one in self._fields]
        steps, fields = list[int](), self._fields
        leaf: Any = None
        for name in self._find(self._fields):
            steps.append([one.name for one in fields].index(name))
            leaf = fields[steps[-1]].type
            fields = fields_of(leaf)
        self._column = Opener(self._pyarrow, self._stored.read, kinds, steps)
        if self._pyarrow.types.is_dictionary(leaf):
            self._entries = Opener(self._pyarrow, self._stored.read, [leaf.value_type], (0,))
            self._dictionary = self._checked(self._start, messages.dictionary_number, schema, way=steps)

    # The arrays of a batch:

    def _text_bytes(self, layout: BatchLayout, dictionaries: Sequence[int]) -> int:
        """Return about how many bytes of text a batch has."""
        if self._column is None or not layout.n_rows:
            return 0
        if self._entries is None:
            return self._array(self._column, layout).n_bytes
        found = [self._array_at(self._entries, place) for place in dictionaries]
        n_values = sum(one.n_rows for one in found)
        return layout.n_rows * sum(one.n_bytes for one in found) // max(1, n_values)

    def _array(self, opener: Opener, layout: BatchLayout) -> Array:
        return self._checked(layout.start, opener.open, layout, self._values[1])

    def _array_at(self, opener: Opener, place: int) -> Array:
        message = self._read_message(place)
        assert message is not None
        return self._array(opener, self._layout(message))

    def _held(self, array: Array, what: str, make_room: MakeRoom) -> Array:
        """Decompress the buffers of an array of views into memory: its texts are anywhere in them."""
        if not isinstance(array, Views):
            return array
        packed = [one for one in array.buffers if isinstance(one, Packed)]
        n_bytes = sum(one.n_bytes for one in packed)
        self._make_room_for_all(what, n_bytes, make_room, "write it in smaller batches")
        try:
            held = {id(one): Held(one.read(one.n_bytes, 0)) for one in packed}
        except ValueError as error:
            raise InputError(
                f"{self.path}: {what} is damaged ({error}); fetch or make the file again"
            ) from error
        return replace(array, buffers=[held.get(id(one), one) for one in array.buffers])


class Arrow(Table):
    """Reads documents from a column of an Arrow file or stream, such as the data of Hugging Face datasets."""

    __slots__ = ()
    column_type = ArrowColumn


def cut_rows(lengths: NDArray[np.int64], block_bytes: int) -> Iterator[tuple[int, int]]:
    """Cut rows into ranges with at most `block_bytes` of text, or of one row; a long row is by itself.

    >>> list(cut_rows(np.array([3, -1, 4, 9, 1]), 8))
    [(0, 3), (3, 4), (4, 5)]
    """
    ends = np.concatenate([[0], lengths.clip(0).cumsum()])
    long = np.flatnonzero(lengths > LONG_RECORD_BYTES)
    a = 0
    while a < len(lengths):
        b = max(a + 1, int(ends.searchsorted(ends[a] + block_bytes, side="right")) - 1)
        for k in islice(long[long.searchsorted(a) :], 1):
            b = min(b, max(a + 1, int(k)))
        yield a, b
        a = b
