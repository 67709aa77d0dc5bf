"""The unit of work: a run of input bytes that can be tokenised on its own."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

_MIB = 1024 * 1024
MAX_LISTED = 10  # records that are no documents
LONG_RECORD_BYTES = 1024 * 1024
"""Longer ones are blocks of their own, and room in memory is made for them before they are read."""


@dataclass(frozen=True, slots=True)
class Need:
    """Memory that a record needs, or something else in a file; what is held of it already is included."""

    what: str  # its file and place, and its size
    n_bytes: int
    most_bytes: int  # what it may need later
    way_out: str = "divide the record into several"


MakeRoom: TypeAlias = Callable[[int, Callable[[], Need]], None]
"""Asks for so many bytes of memory besides what is held, and raises what ends the run if they cannot be had.
The other argument is called in that case."""


def has_room(_n_bytes: int, _need: Callable[[], Need]) -> None:
    """Take it that there is enough memory."""


def need_of_record(what: str, n_bytes: int) -> Need:
    """Return what a record of `n_bytes` needs: these and its text, and later its text and its tokens.

    Text takes no more bytes than what it was read from, in a buffer that grows by an eighth, and a token two
    for each byte of it at most. The rest is for pieces, and at the end for the engine: `encode_block` then
    asks for what it really takes.
    """
    return Need(what, n_bytes * 17 // 8 + 8 * _MIB, n_bytes * 13 // 4 + 50 * _MIB)


@dataclass(frozen=True, slots=True)
class Position:
    """Where reading goes on: everything the reader needs to know of the bytes before.

    `anchor` is the last exact cut (or the beginning of the file) at or before `offset`; the two differ
    only inside a stretch so long that it had to be cut by force. `after_cr`: the last character
    before `offset` is a carriage return, so a line feed that comes next belongs to it.
    """

    input_index: int
    offset: int = 0  # bytes from the beginning of this input: uncompressed, and of parquet only the texts
    anchor: int = 0
    after_cr: bool = False
    crc: int = 0  # zlib.crc32 of this input's logical content before `offset`
    document: str = ""  # the split of the document that `offset` lies inside; "" between two
    records: int = 0  # lines or rows of this input before `offset`
    stored_bytes: int = 0  # of the file, read so far; 0 where that is `offset`
    at_end: bool = False  # the input ends here, as far as the reader knew


@dataclass(slots=True)
class Records:
    """What some lines or rows hold."""

    texts: list[bytes] = field(default_factory=list)  # UTF-8, none of them empty
    n_empty: int = 0
    n_replaced: int = 0  # lone surrogates, which became U+FFFD
    n_bad: int = 0  # that are no documents
    bad: list[str] = field(default_factory=list)  # the first ten of these: where, and why

    def add_bad(self, where_and_why: str) -> None:
        """Count a record that is no document."""
        self.n_bad += 1
        if len(self.bad) < MAX_LISTED:
            self.bad.append(where_and_why)

    def add(self, more: "Records") -> None:
        """Append what follows."""
        self.texts += more.texts
        self.n_empty += more.n_empty
        self.n_replaced += more.n_replaced
        self.n_bad += more.n_bad
        self.bad = [*self.bad, *more.bad][:MAX_LISTED]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a row group, whose texts stand one after another in a block."""

    row_group: int
    column_start: int  # byte of the file at which the column of the row group begins
    first_row: int  # of the file; it and the row group count from 0
    lengths: NDArray[np.int64]  # (n,) bytes of each text; -1 for null
    is_void: bool = False  # the type of the column has no text: its rows are always skipped, and counted


@dataclass(slots=True)
class Block:
    """Bytes `[start.offset, end.offset)` of one input, all of one split."""

    raw: bytes  # a long record's are dropped once it has been taken apart, whoever else holds the block
    start: Position
    end: Position
    is_val: bool
    n_chars: int = 0  # counted only where somebody asked for a number of characters
    rows: Rows | None = None  # what `raw` is made of, where it comes from parquet

    @property
    def ends_by_force(self) -> bool:
        """Whether the block ends at a forced cut, so that tokens may differ around it."""
        return self.end.anchor != self.end.offset


Blocks: TypeAlias = Generator[Block, None, None]
