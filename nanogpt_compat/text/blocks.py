"""The unit of work: a range of input bytes that can be tokenised on its own."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

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
    """There is not enough memory; the run continues."""


def _refuse() -> Need:
    raise _NoRoom


def fits(make_room: MakeRoom, n_bytes: int) -> bool:
    """Return whether there is room, without ending the run if there is not."""
    try:
        make_room(n_bytes, _refuse)
    except _NoRoom:
        return False
    return True


def naming(path: object, make_room: MakeRoom) -> MakeRoom:
    """Add the name of a file to the needs of its parts."""

    def with_name(need: Need) -> Need:
        return replace(need, what=f"{path}: {need.what}")

    return lambda n_bytes, need: make_room(n_bytes, lambda: with_name(need()))


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
    offset: int = 0  # bytes from the beginning of this input, uncompressed; in columns, only texts count
    anchor: int = 0
    after_cr: bool = False
    crc: int = 0  # zlib.crc32 of this input's logical content before `offset`
    document: str = ""  # the split of the document around `offset`; "" between two
    records: int = 0  # lines or rows of this input before `offset`
    stored_bytes: int = 0  # read from the file so far; 0 if the same as `offset`
    at_end: bool = False  # the input ends here, as far as the reader knows

    def after(
        self, n_bytes: int, n_records: int, *, at_end: bool, stored_bytes: int = 0, crc: int = 0
    ) -> "Position":
        """Return the position after whole records that begin here."""
        end = Position(self.input_index, self.offset + n_bytes, records=self.records + n_records, crc=crc)
        return replace(end, anchor=end.offset, stored_bytes=stored_bytes, at_end=at_end)


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


@dataclass(slots=True)
class Block:
    """Bytes `[start.offset, end.offset)` of one input, all of one split."""

    raw: bytes  # emptied once a long record has been parsed, to free its memory while the block is still held
    start: Position
    end: Position
    is_val: bool
    n_chars: int = 0  # counted only with --n

    @property
    def ends_by_force(self) -> bool:
        """Whether the block ends at a forced cut, so that tokens may differ around it."""
        return self.end.anchor != self.end.offset

    @property
    def is_long_record(self) -> bool:
        """Whether the block is a single record of more than `LONG_RECORD_BYTES`."""
        return False

    @property
    def where(self) -> str:
        """Where it is in its input, for messages."""
        return f"bytes {self.start.offset:,} to {self.end.offset:,}"

    def without_text(self) -> "Block":
        """Return a block at the same place that holds nothing."""
        return Block(b"", self.start, self.end, self.is_val, self.n_chars)


class RecordBlock(Block, ABC):
    """A block of whole records, which are documents already; each format that has records has its own."""

    __slots__ = ()

    @property
    def is_long_record(self) -> bool:
        """Whether the block is a single record of more than `LONG_RECORD_BYTES`."""
        return len(self.raw) > LONG_RECORD_BYTES and self.end.records - self.start.records <= 1

    @property
    @abstractmethod
    def place(self) -> str:
        """The place of the first record, for messages."""

    @abstractmethod
    def documents(self, *, skip_bad: bool, make_room: MakeRoom = has_room) -> Records:
        """Parse the records; raise an InputError for a bad one unless `skip_bad`."""

    @abstractmethod
    def singles(self) -> Iterator["RecordBlock"]:
        """Yield blocks of one record each."""

    @abstractmethod
    def up_to(self, end: Position) -> "RecordBlock":
        """Return the records before `end`, a position between two records."""

    @abstractmethod
    def count_as_bad(self, error: Exception, *, skip_bad: bool) -> Records:
        """Count the only record as bad, because of `error`; raise an InputError unless `skip_bad`."""


Blocks: TypeAlias = Generator[Block, None, None]
