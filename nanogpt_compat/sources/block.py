"""The unit of work: a run of input bytes that can be tokenised on its own."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Position:
    """Where reading goes on: everything the reader knows about the bytes before.

    `anchor` is the last exact cut (or the beginning of the file) at or before `offset`; the two differ
    only inside a stretch so long that it had to be cut by force. `after_cr`: the last character
    before `offset` is a carriage return, so a line feed that comes next belongs to it.
    """

    offset: int  # bytes from the beginning of this input
    anchor: int
    after_cr: bool = False


FILE_START = Position(offset=0, anchor=0)


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes `[start.offset, end.offset)` of one input, all of one split."""

    raw: bytes
    input_index: int
    start: Position
    end: Position
    is_val: bool

    @property
    def ends_by_force(self) -> bool:
        """Whether the block ends at a forced cut, so that tokens may differ around it."""
        return self.end.anchor != self.end.offset
