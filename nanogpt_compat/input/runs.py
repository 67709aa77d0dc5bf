"""Cut a stream of bytes into runs of whole records: lines of JSON, or records of CSV."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import TypeAlias

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


FindEnds: TypeAlias = Callable[[bytes], tuple[int, int, int]]
"""Finds where records end in bytes that are passed piece by piece. Returns the first and the last place after
the end of a record, 0 for none, and their number."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What the records are."""

    noun: str  # for messages
    find_ends: FindEnds
    if_too_long: str  # what to do about a record over the limit


def place_of(noun: str, number: int, offset: int) -> str:
    """Return the place of a record, for messages."""
    return f"{noun} {number:,}, at byte {offset:,}"


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
    not. A record of more than `MAX_RECORD_BYTES` is an error.
    """
    read_more = partial(read, min(block_bytes, MAX_RECORD_BYTES))
    held = BytesIO()  # the beginning of a record; it grows in place, since joining parts would hold it twice

    def n_bytes_with(n_bytes: int, end: int, data: bytes) -> int:
        """Return the size of a record of `n_bytes` with `data`, up to its `end` if that is not 0."""
        n_bytes += end - 1 if end else len(data)
        if n_bytes > MAX_RECORD_BYTES:
            raise InputError(
                f"{where} has more than {format_bytes(n_bytes)}; the limit is "
                f"{format_bytes(MAX_RECORD_BYTES)}. {kind.if_too_long}"
            )
        return n_bytes

    def need_of_whole() -> Need:
        """Read to the end of the record without keeping it; return the memory that the whole record needs."""
        n_whole, end = n_bytes, first_end
        while not end and (more := read_more()):
            end, _, _ = kind.find_ends(more)
            n_whole = n_bytes_with(n_whole, end, more)
        return need_of_record(f"{where} has {format_bytes(n_whole)}", n_whole)

    while data := read_more():
        where = f"{path}: {place_of(kind.noun, first, offset)},"
        first_end, last_end, n_ends = kind.find_ends(data)
        n_bytes = n_bytes_with(held.tell(), first_end, data)
        ends = [(last_end, n_ends)]
        if n_bytes > LONG_RECORD_BYTES:
            make_room(need_of_record(where, n_bytes).n_bytes - held.tell(), need_of_whole)
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
