"""Find the record batches of an Arrow stream or file, and the buffers in them, without reading the buffers.

A stream is a sequence of messages: a marker, the size of the metadata, the metadata, and a body of buffers. A
file is a stream between two signatures, with a list of its batches at the end, which is not needed here. The
metadata are FlatBuffers. pyarrow reads a batch as a whole, so its size would be the memory that it takes.
Source: apache/arrow, Message.fbs and Schema.fbs.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Read = Callable[[int, int], bytes]
"""Returns n bytes of the file at an offset; fewer only at its end."""

MAGIC = b"ARROW1"  # at both ends of a file; at its beginning padded to 8 bytes
_MARKER = b"\xff\xff\xff\xff"  # before each message, since 2019
_MOST_METADATA_BYTES = 16 << 20
_KINDS: dict[int, Literal["schema", "dictionary", "batch"]] = {1: "schema", 2: "dictionary", 3: "batch"}
_CODECS = {0: "lz4", 1: "zstd"}


@dataclass(eq=False)
class Damaged(Exception):
    """A message makes no sense."""

    found: str
    offset: int


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a stream; places are bytes of the file."""

    kind: Literal["schema", "dictionary", "batch", "other"]
    start: int
    body_start: int
    end: int
    framed: bytes  # the marker, size and metadata
    header: "Flat"

    @property
    def n_bytes(self) -> int:
        """Its size in the file."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Buffer:
    """The place of a buffer in the file."""

    start: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class BatchLayout:
    """The contents of a record batch, column by column: what the metadata say of its arrays."""

    start: int  # where its message begins
    n_rows: int
    nulls: tuple[int, ...]  # in each array; nested arrays come after the one that they are in
    buffers: tuple[Buffer, ...]
    codec: str | None  # the compression of each buffer
    n_variadic: tuple[int, ...]  # data buffers of each array of string views


def read_message(read: Read, start: int) -> Message | None:
    """Read a message up to its body; return None at the end of the stream. Raise Damaged if it is cut off."""
    head = read(8, start)
    if not head:
        return None
    n_head = 8 if head.startswith(_MARKER) else 4  # before 2019, there was no marker
    if len(head) < n_head:
        raise Damaged("it ends within a message", start)
    n_bytes = int.from_bytes(head[n_head - 4 : n_head], "little")
    if n_bytes == 0:
        return None
    if not 16 <= n_bytes <= _MOST_METADATA_BYTES:
        raise Damaged(f"no message begins there, found {head[:8].hex(' ')}", start)
    framed = head + read(n_head + n_bytes - len(head), start + len(head))
    if len(framed) < n_head + n_bytes:
        raise Damaged("it ends within a message", start)
    try:
        root = Flat.root(framed[n_head:])
        kind, header, body_bytes = root.number(1, "B"), root.table(2), root.number(3, "q")
    except ValueError as error:
        raise Damaged(f"the metadata of a message make no sense ({error})", start) from error
    body_start = start + len(framed)
    if body_bytes < 0 or header is None:
        raise Damaged("the metadata of a message make no sense", start)
    return Message(_KINDS.get(kind, "other"), start, body_start, body_start + body_bytes, framed, header)


def layout_of(message: Message) -> BatchLayout:
    """Return the contents of a record batch, or of the values of a dictionary."""
    try:
        batch = message.header.table(1) if message.kind == "dictionary" else message.header
        if batch is None:
            raise ValueError("there is no batch")  # noqa: TRY301 - the same as other damage
        n_rows = batch.number(0, "q")
        nodes, places = batch.pairs(1), batch.pairs(2)
        compression = batch.table(3)
        codec = None if compression is None else _CODECS[compression.number(0, "b")]
        n_variadic = batch.numbers(4)
    except (KeyError, ValueError) as error:
        raise Damaged(f"the metadata of a record batch make no sense ({error})", message.start) from error
    buffers = tuple(Buffer(message.body_start + start, n_bytes) for start, n_bytes in places)
    if (
        min((n_rows, *n_variadic, *(n for pair in (*nodes, *places) for n in pair))) < 0
        or max((one.start + one.n_bytes for one in buffers), default=0) > message.end
    ):
        raise Damaged("the metadata of a record batch make no sense", message.start)
    return BatchLayout(message.start, n_rows, tuple(nulls for _, nulls in nodes), buffers, codec, n_variadic)


def dictionary_of(message: Message) -> tuple[int, bool]:
    """Return the number of the dictionary whose values a message holds, and whether it adds to them."""
    try:
        return message.header.number(0, "q"), bool(message.header.number(2, "B"))
    except ValueError as error:
        raise Damaged(f"the metadata of a dictionary make no sense ({error})", message.start) from error


def dictionary_number(schema: Message, *, way: Sequence[int]) -> int:
    """Return the number of a column's dictionary; `way` has its index, and those inside structs."""
    try:
        column = schema.header.tables(1)[way[0]]
        for k in way[1:]:
            column = column.tables(5)[k]
        encoding = column.table(4)
        return 0 if encoding is None else encoding.number(0, "q")
    except (ValueError, IndexError) as error:
        raise Damaged(f"the schema makes no sense ({error})", schema.start) from error


def is_little_endian(schema: Message) -> bool:
    """Whether numbers in the batches have their lowest byte first; raise Damaged if that is not known."""
    try:
        return schema.header.number(0, "h") == 0
    except ValueError as error:
        raise Damaged(f"the schema makes no sense ({error})", schema.start) from error


@dataclass(frozen=True, slots=True)
class Flat:
    """A table of a FlatBuffer: numbers, tables and vectors by the number of their field.

    A field that is missing is 0, None or empty. Raises ValueError where the data make no sense.
    """

    data: bytes
    place: int

    @classmethod
    def root(cls, data: bytes) -> "Flat":
        """Return the outermost table."""
        return cls(data, _unpack("I", data, 0))

    def number(self, field: int, form: str) -> int:
        """Return a number; `form` is its type as in `struct`."""
        place = self._find(field)
        return _unpack(form, self.data, place) if place else 0

    def table(self, field: int) -> "Flat | None":
        """Return a table."""
        place = self._find(field)
        return Flat(self.data, place + _unpack("I", self.data, place)) if place else None

    def tables(self, field: int) -> list["Flat"]:
        """Return a vector of tables."""
        start, n = self._vector(field, 4)
        places = range(start, start + 4 * n, 4)
        return [Flat(self.data, place + _unpack("I", self.data, place)) for place in places]

    def numbers(self, field: int) -> tuple[int, ...]:
        """Return a vector of int64."""
        start, n = self._vector(field, 8)
        return struct.unpack_from(f"<{n}q", self.data, start)

    def pairs(self, field: int) -> list[tuple[int, int]]:
        """Return a vector of structs of two int64."""
        start, n = self._vector(field, 16)
        numbers = struct.unpack_from(f"<{2 * n}q", self.data, start)
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    def _vector(self, field: int, item_bytes: int) -> tuple[int, int]:
        """Return where the items of a vector begin, and their number."""
        place = self._find(field)
        if not place:
            return 0, 0
        place += _unpack("I", self.data, place)
        n = _unpack("I", self.data, place)
        if place + 4 + n * item_bytes > len(self.data):
            raise ValueError(f"a list of {n:,} items")
        return place + 4, n

    def _find(self, field: int) -> int:
        """Return where a field is; 0 if it is missing."""
        vtable = self.place - _unpack("i", self.data, self.place)
        slot = 4 + 2 * field
        if slot >= _unpack("H", self.data, vtable):
            return 0
        offset = _unpack("H", self.data, vtable + slot)
        return self.place + offset if offset else 0


def _unpack(form: str, data: bytes, place: int) -> int:
    if place < 0:  # struct counts it from the end
        raise ValueError(f"a place {-place:,} bytes before the beginning")
    try:
        (value,) = struct.unpack_from(f"<{form}", data, place)
    except struct.error as error:
        raise ValueError(str(error)) from error
    return int(value)
