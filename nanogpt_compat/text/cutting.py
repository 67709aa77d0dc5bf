"""Cut text into blocks that can be encoded one by one, because they end at exact cuts.

At most one block, one piece of 512 KiB and one read-ahead are in memory.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

from nanogpt_compat.text.blocks import Block, Position
from nanogpt_compat.text.cuts import MAX_PIECE_BYTES, first_cut, last_cut
from nanogpt_compat.text.decoding import ends_in_cr
from nanogpt_compat.text.utf8 import char_start
from nanogpt_compat.text.val_split import Windows, val_at

_LOOK_BYTES = 4  # the longest character; a cut depends on the one to its right
_NEAR_BYTES = 1024  # nearly all text has a cut in the last kilobyte of a block


class Readable(Protocol):
    """What a `Window` reads from."""

    size_bytes: int  # UNKNOWN for a stream, until a read has reached the end

    @property
    def reads_anywhere(self) -> bool:
        """Whether reading back and forth costs nothing."""

    def read(self, n_bytes: int, offset: int) -> bytes:
        """Read exactly `[offset, offset + n_bytes)`, or up to the end."""

    def drop_before(self, offset: int) -> None:
        """Release what lies before `offset`: it will not be read again."""


class InMemory:
    """Bytes in memory, readable like a file that ends with them; the first is at `start`."""

    reads_anywhere = True

    def __init__(self, data: bytes, start: int = 0) -> None:
        self._data = data
        self._start = start
        self.size_bytes = start + len(data)

    def read(self, n_bytes: int, offset: int) -> bytes:
        """Return the bytes `[offset, offset + n_bytes)`, fewer at the end."""
        return self._data[offset - self._start : offset - self._start + n_bytes]

    def drop_before(self, offset: int) -> None:
        """Do nothing: the caller owns the bytes."""


def cut_text(text: bytes, *, block_bytes: int) -> Iterator[tuple[bytes, bool]]:
    """Cut valid UTF-8 as `read_blocks` cuts a file; yield each piece, and whether it ends at a forced cut."""
    file = InMemory(text)
    for block in read_blocks(file, start=Position(0), block_bytes=block_bytes, errors="strict"):
        yield block.raw, block.ends_by_force


class Window:
    """The bytes `[base, base + len(data))` of a file that are in memory.

    While a look at the end of a block is enough to find the cut, the window is empty: `take` then reads just
    the block, and no byte is copied.
    """

    looks_first = True

    def __init__(self, file: Readable, base: int, step_bytes: int) -> None:
        self.file = file
        self.base = base
        self.data = b""
        self._step_bytes = step_bytes

    def reach(self, offset: int) -> None:
        """Read until the window includes `offset`, or the file ends."""
        end = self.base + len(self.data)
        while end < min(offset, self.file.size_bytes):
            # Doubling keeps the copying linear when the window must grow far beyond a small step.
            new = self.file.read(max(self._step_bytes, len(self.data), offset - end), end)
            self.data += new
            end += len(new)

    def has(self, offset: int) -> bool:
        """Whether the file has a byte at `offset`, which must not be before the window."""
        if not self.file.reads_anywhere:  # its size may be unknown
            self.reach(offset + 1)
        return offset < self.file.size_bytes

    def take(self, end: int) -> bytes:
        """Remove the bytes before `end` from the window and return them."""
        if not self.data:
            taken = self.file.read(end - self.base, self.base)
        else:
            taken = self.data[: end - self.base]
            self.data = b"" if self.file.reads_anywhere else self.data[end - self.base :]
        self.base = end
        self.file.drop_before(end)
        return taken

    def last_cut(self, start: int, end: int) -> int | None:
        """Find the same cut as `cuts.last_cut`, with offsets in the file."""
        if self._may_look:
            near = max(start, end - _NEAR_BYTES)
            cut = self._look_for(last_cut, near, end)
            if cut is not None or near == start:
                return cut
        self.reach(end + _LOOK_BYTES)
        cut = last_cut(self.data, start - self.base, end - self.base)
        return None if cut is None else self.base + cut

    def first_cut(self, start: int, end: int) -> int | None:
        """Find the same cut as `cuts.first_cut`, with offsets in the file; read no further than necessary."""
        if self._may_look:
            near = min(end, start + _NEAR_BYTES)
            cut = self._look_for(first_cut, start, near)
            if cut is not None or near == end:
                return cut
        while start <= min(end, self.file.size_bytes - 1):
            high = min(end, max(start, self.base + len(self.data) - _LOOK_BYTES))
            self.reach(high + _LOOK_BYTES)
            cut = first_cut(self.data, start - self.base, high - self.base)
            if cut is not None:
                return self.base + cut
            self.reach(high + 2 * _LOOK_BYTES)  # reads one more step, of the current step size
            start = high + 1
        return None

    @property
    def _may_look(self) -> bool:
        return self.looks_first and self.file.reads_anywhere and not self.data

    def _look_for(self, find: Callable[[bytes, int, int], int | None], start: int, end: int) -> int | None:
        """Find a cut by reading only the bytes that decide about the places from `start` to `end`."""
        low = max(self.base, start - _LOOK_BYTES)
        cut = find(self.file.read(end + _LOOK_BYTES - low, low), start - low, end - low)
        return None if cut is None else low + cut

    def forced_cut(self, nominal: int) -> int:
        """Find the character boundary at or just before `nominal`; both are offsets in the file."""
        self.reach(nominal + 1)
        return self.base + char_start(self.data, nominal - self.base)


def read_blocks(
    file: Readable,
    *,
    start: Position,
    block_bytes: int,
    errors: str,
    windows: Windows = (),
    bytes_before: int = 0,
) -> Iterator[Block]:
    """Yield the file from `start` on in blocks of about `block_bytes`, which must be at least 1.

    `windows` are the validation ranges in the concatenation of all inputs; this input begins `bytes_before`
    bytes into it. Each edge of a window moves to the first exact cut at or after it. A block ends at an exact
    cut or at the end of the file. It ends at a forced cut only if there is no exact cut for `MAX_PIECE_BYTES`
    after the last one. The block boundaries depend on `block_bytes`; the tokens do not. The CRC of positions
    is left to the reader.
    """
    window = Window(file, start.offset, block_bytes)
    while window.has(start.offset):
        is_val, edge = val_at(windows, bytes_before + start.anchor)
        offset, anchor = block_end(window, start, block_bytes, edge - bytes_before)
        raw = window.take(offset)
        after_cr = anchor != offset and ends_in_cr(raw, errors, start.after_cr)
        at_end = offset == window.file.size_bytes
        end = Position(start.input_index, offset, anchor, after_cr, at_end=at_end)
        yield Block(raw, start, end, is_val=is_val)
        start = end


def block_end(window: Window, start: Position, block_bytes: int, edge: int) -> tuple[int, int]:
    """Return the offset where a block ends, and the last exact cut at or before it.

    The block ends at the first exact cut at or after `edge`, if not earlier. The search moves from exact
    cut to exact cut in steps of at most one piece: otherwise it would miss stretches that need a forced cut.
    """
    target = start.offset + block_bytes
    window.has(target)  # a stream's size is known afterwards, if it ends within this block
    edge = min(edge, window.file.size_bytes)
    offset, anchor = start.offset, start.anchor
    while True:
        end, is_exact = _next_end(window, offset, min(target, offset + MAX_PIECE_BYTES), edge)
        if not is_exact:
            # Text before the stretch, if any, becomes a block of its own.
            return (offset, anchor) if offset > start.offset else (end, anchor)
        done = target <= offset + MAX_PIECE_BYTES or end >= edge
        offset = anchor = end
        if done:
            return offset, anchor


def _next_end(window: Window, offset: int, target: int, edge: int) -> tuple[int, bool]:
    """Return the next place to stop after `offset`, itself a cut, and whether it is an exact cut.

    It is the last exact cut up to `target`, else the first one after it; or the first one at or after `edge`,
    if that comes earlier. The end of the file counts as an exact cut.
    """
    forced = offset + MAX_PIECE_BYTES
    goal = min(target, forced, max(edge, offset))
    last = window.last_cut(offset + 1, goal)
    if last is not None:
        if goal < edge:
            return last, True
        forced = last + MAX_PIECE_BYTES
    first = window.first_cut(max(goal, offset + 1), forced)
    if first is not None:
        return first, True
    if window.file.size_bytes <= forced:
        return window.file.size_bytes, True
    return (last, True) if last is not None else (window.forced_cut(forced), False)


def is_same_cut(window: Window, at: Position) -> bool:
    """Whether a block that ended at `at` would still end there, now that the text after it has changed.

    The bytes before `at` are unchanged; `window` begins some bytes before it.
    """
    if at.anchor == at.offset:
        return not window.has(at.offset) or window.first_cut(at.offset, at.offset) is not None
    n_pieces = (at.offset - at.anchor + _LOOK_BYTES - 1) // MAX_PIECE_BYTES
    nominal = at.anchor + n_pieces * MAX_PIECE_BYTES
    return (
        window.has(nominal)  # otherwise the block would end at the end of the file
        and window.first_cut(at.offset, nominal) is None
        and window.forced_cut(nominal) == at.offset
    )
