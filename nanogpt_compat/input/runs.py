"""Cut a stream of bytes into runs of whole records: lines of JSON, or records of CSV."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from typing import Protocol

from nanogpt_compat.errors import InputError
from nanogpt_compat.input.location import Location
from nanogpt_compat.system.units import format_bytes
from nanogpt_compat.text.blocks import LONG_RECORD_BYTES, MakeRoom, Need, has_room, need_of_record
from nanogpt_compat.text.documents import MAX_RECORD_BYTES


@dataclass(frozen=True, slots=True)
class Run:
    """A run of whole records; only the last record of the input may lack its line end."""

    raw: bytes
    n_ends: int  # number of records that have their line end
    first: int  # number of the first record, from 1
    offset: int  # bytes of the (uncompressed) input before the run


class Ends(Protocol):
    """Finds where records end in bytes that are passed piece by piece."""

    def find(self, data: bytes) -> tuple[int, int, int]:
        """Return the first and the last place after the end of a record, 0 for none, and their number."""
        ...


@dataclass(frozen=True, slots=True)
class Kind:
    """What the records are."""

    place: Callable[[int, int], str]  # names a record by its number and its byte, for messages
    ends: Ends
    if_too_long: str  # what to do about a record over the limit


def read_runs(
    read: Callable[[int], bytes],
    kind: Kind,
    *,
    path: Location,
    block_bytes: int,
    first: int = 1,
    offset: int = 0,
    make_room: MakeRoom = has_room,
) -> Iterator[Run]:
    """Cut the bytes that `read` returns into runs of whole records of about `block_bytes`.

    `read(n)` returns up to n bytes, and none only at the end. Its first byte is at `offset`, where record
    `first` begins. One run is held in memory. A record of more than `LONG_RECORD_BYTES` is a run by itself,
    and `make_room` is called as it grows. Where runs begin and end depends on `block_bytes`; the records do
    not.

    Raises:
        InputError: a record is longer than `MAX_RECORD_BYTES`.
    """
    read_more = partial(read, min(block_bytes, MAX_RECORD_BYTES))
    held = BytesIO()  # the beginning of a record; it grows in place, since joining parts would hold it twice
    while data := read_more():
        first_end, last_end, n_ends = kind.ends.find(data)
        record = _Record(kind, f"{path}: {kind.place(first, offset)},", held.tell())
        record = record.with_more(len(data), first_end)
        ends = [(last_end, n_ends)]
        if record.n_bytes > LONG_RECORD_BYTES:
            make_room(record.need.n_bytes - held.tell(), partial(record.need_of_whole, read_more))
            ends = [(first_end, min(1, n_ends)), (last_end, n_ends - 1)]
        start = 0
        for end, n_records in ends:
            if end > start:
                held.write(memoryview(data)[start:end])
                start, run, held = end, [Run(held.getvalue(), n_records, first, offset)], BytesIO()
                first, offset = first + n_records, offset + len(run[0].raw)
                yield run.pop()  # `run` must not keep a reference to it
        held.write(memoryview(data)[start:])
    if held.tell():
        yield Run(held.getvalue(), 0, first, offset)


@dataclass(frozen=True, slots=True)
class _Record:
    """The size of a record, as far as it has been read."""

    kind: Kind
    place: str  # file, number and byte
    n_bytes: int
    is_whole: bool = False

    def with_more(self, n_bytes: int, end: int) -> "_Record":
        """Add `n_bytes`, or only those before `end`, where the record ends, if that is not 0.

        Raises:
            InputError: the record is too long.
        """
        n_bytes = self.n_bytes + (end - 1 if end else n_bytes)
        if n_bytes > MAX_RECORD_BYTES:
            raise InputError(
                f"{self.place} has more than {format_bytes(n_bytes)}; the limit is "
                f"{format_bytes(MAX_RECORD_BYTES)}. {self.kind.if_too_long}"
            )
        return replace(self, n_bytes=n_bytes, is_whole=end > 0)

    @property
    def need(self) -> Need:
        """The memory that it needs."""
        return need_of_record(f"{self.place} has {format_bytes(self.n_bytes)}", self.n_bytes)

    def need_of_whole(self, read_more: Callable[[], bytes]) -> Need:
        """Read to the end of the record without keeping it; return the memory that the whole record needs."""
        record = self
        while not record.is_whole and (data := read_more()):
            end, _, _ = self.kind.ends.find(data)
            record = record.with_more(len(data), end)
        return record.need
