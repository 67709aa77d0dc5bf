"""The unit of work: a range of input bytes that can be tokenised on its own."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

_MIB = 1024 * 1024
MAX_LISTED = 10  # bad records, and names of fields, in messages
LONG_RECORD_BYTES = 1024 * 1024
"""A longer record is a block of its own, and room in memory is made for it before it is read."""


@dataclass(frozen=True, slots=True)
class Need:
    """Memory needed by a record, or by another part of a file, including what is already held of it."""

    what: str  # its file, place and size, for a message
    n_bytes: int
    most_bytes: int  # the most that it may need later
    way_out: str = "split the record into several"


MakeRoom: TypeAlias = Callable[[int, Callable[[], Need]], None]
"""Makes room for a number of bytes, in addition to the memory already held. If there is not enough memory, it
calls the second argument for the message, and raises an error that ends the run."""


def has_room(_n_bytes: int, _need: Callable[[], Need]) -> None:
    """Assume that there is enough memory; a `MakeRoom`."""


class _NoRoom(Exception):
    """There is not enough memory, which ends nothing."""


def _refuse() -> Need:
    raise _NoRoom


def fits(make_room: MakeRoom, n_bytes: int) -> bool:
    """Return whether there is room, where something else can be done if there is not."""
    try:
        make_room(n_bytes, _refuse)
    except _NoRoom:
        return False
    return True


def naming(path: object, make_room: MakeRoom) -> MakeRoom:
    """Name a file in the needs of what is in it."""

    def make_room_for(n_bytes: int, need: Callable[[], Need]) -> None:
        def named() -> Need:
            one = need()
            return replace(one, what=f"{path}: {one.what}")

        make_room(n_bytes, named)

    return make_room_for


def need_of_record(what: str, n_bytes: int) -> Need:
    """Return the memory that a record of `n_bytes` needs: for its bytes and text, later for text and tokens.

    The text takes no more bytes than the record, in a buffer that grows by an eighth. Tokens take at most two
    bytes for each byte of text. The constants are for pieces, and later for the engine; `encode_block` then
    asks for the exact amount.
    """
    return Need(what, n_bytes * 17 // 8 + 8 * _MIB, n_bytes * 13 // 4 + 50 * _MIB)


@dataclass(frozen=True, slots=True)
class Position:
    """Where reading resumes, and everything the reader needs to know about the bytes before.

    `anchor` is the last exact cut (or the beginning of the file) at or before `offset`; the two differ
    only inside a stretch so long that it needed a forced cut. `after_cr`: the last character before
    `offset` is a carriage return, so a line feed that comes next belongs to it.
    """

    input_index: int
    offset: int = 0  # bytes from the beginning of this input, uncompressed; in parquet, only of the texts
    anchor: int = 0
    after_cr: bool = False
    crc: int = 0  # zlib.crc32 of this input's logical content before `offset`
    document: str = ""  # the split of the document that `offset` is inside of; "" between two
    records: int = 0  # lines or rows of this input before `offset`
    stored_bytes: int = 0  # of the file, read so far; 0 if the same as `offset`
    at_end: bool = False  # the input ends here, as far as the reader knows


@dataclass(slots=True)
class Records:
    """The documents of some lines or rows."""

    texts: list[bytes] = field(default_factory=list)  # UTF-8, none of them empty
    n_empty: int = 0
    n_replaced: int = 0  # lone surrogates, which became U+FFFD
    n_bad: int = 0  # records that are not documents
    bad: list[str] = field(default_factory=list)  # the first ten of these: where, and why

    def add_bad(self, where_and_why: str) -> None:
        """Count a record that is not a document."""
        self.n_bad += 1
        if len(self.bad) < MAX_LISTED:
            self.bad.append(where_and_why)

    def add(self, more: "Records") -> None:
        """Append the records that follow."""
        self.texts += more.texts
        self.n_empty += more.n_empty
        self.n_replaced += more.n_replaced
        self.n_bad += more.n_bad
        self.bad = [*self.bad, *more.bad][:MAX_LISTED]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a row group, whose texts are concatenated in a block."""

    row_group: int  # from 0
    column_start: int  # byte of the file at which the column of the row group begins
    first_row: int  # in the file, from 0
    lengths: NDArray[np.int64]  # (n,) bytes of each text; -1 for null
    is_void: bool = False  # the column has only nulls: its rows are always skipped, and counted


@dataclass(slots=True)
class Block:
    """Bytes `[start.offset, end.offset)` of one input, all of one split."""

    raw: bytes  # emptied once a long record has been parsed, to free its memory while the block is still held
    start: Position
    end: Position
    is_val: bool
    n_chars: int = 0  # counted only with --n
    rows: Rows | None = None  # the rows in `raw`, if it comes from parquet

    @property
    def ends_by_force(self) -> bool:
        """Whether the block ends at a forced cut, so that tokens may differ around it."""
        return self.end.anchor != self.end.offset


Blocks: TypeAlias = Generator[Block, None, None]
