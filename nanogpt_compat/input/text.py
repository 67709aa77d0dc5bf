r"""Read a plain text file in blocks; they decode as with `open(path, "r", encoding="utf-8", errors=...)`.

At most one block, one piece of 512 KiB and one read-ahead are in memory. Files are read with `pread` and
never mapped: if another program truncates a mapped file, reading it raises SIGBUS. Bytes that have been read
are dropped from the page cache, so that a run over 1 TB does not evict other programs' files.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from nanogpt_compat.errors import InputError
from nanogpt_compat.input.location import Location
from nanogpt_compat.system.checksum import crc32
from nanogpt_compat.system.filesystem import advise_sequential, drop_cache
from nanogpt_compat.text.blocks import Block, Position
from nanogpt_compat.text.cuts import MAX_PIECE_BYTES, first_cut, last_cut
from nanogpt_compat.text.utf8 import char_start, is_utf8
from nanogpt_compat.text.val_split import Windows, val_at

_DROP_EVERY_BYTES = 8 * 1024 * 1024  # at this step, 0 of 512 MiB stay in the page cache
# A large page that is dropped only in part stays cached: without rounding, up to a quarter of a file did.
_LARGE_PAGE_BYTES = 2 * 1024 * 1024
_LOOK_BYTES = 4  # the longest character; a cut depends on the one to its right
INVALID = re.compile("[\udc80-\udcff]")  # what `surrogateescape` decodes an invalid byte to
_MAX_OFFSETS = 10


class TextFile:
    """An open local file, whose size must not change while it is read."""

    def __init__(self, path: Path, *, size_bytes: int | None = None) -> None:
        """Open `path`; `size_bytes` is its size when the run began, if the run began earlier.

        Raises:
            InputError: it is missing, a folder, or unreadable, or its size has changed.
        """
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        self._stat = os.fstat(self._fd)
        self.size_bytes = self._stat.st_size if size_bytes is None else size_bytes
        if self.size_bytes != self._stat.st_size:
            os.close(self._fd)
            raise self._changed_size(self._stat.st_size)
        self._dropped_bytes = 0
        advise_sequential(self._fd)

    def __enter__(self) -> "TextFile":
        return self

    def __exit__(self, *exc: object) -> None:
        """Close it, and drop from the page cache what this run read."""
        drop_cache(self._fd, 0, self.size_bytes)
        os.close(self._fd)

    @property
    def hints(self) -> list[int]:
        """The parts of the file's status that change when another process writes to it."""
        return [self._stat.st_mtime_ns, self._stat.st_ctime_ns, self._stat.st_ino]

    def read(self, n_bytes: int, offset: int) -> bytes:
        """Read exactly `[offset, offset + n_bytes)`, or up to the size that the file had when opened.

        Raises:
            InputError: the device fails, or the file has become shorter.
        """
        n_bytes = min(n_bytes, self.size_bytes - offset)
        parts = []
        while n_bytes > 0:
            try:
                part = _pread(self._fd, n_bytes, offset)
            except OSError as error:
                raise InputError(f"cannot read {self.path} at byte {offset:,}: {error.strerror}") from error
            if not part:
                raise InputError(
                    f"{self.path} ends at byte {offset:,} but had {self.size_bytes:,} bytes when it was "
                    "opened: something is writing to it; wait until that is done and run again"
                )
            parts.append(part)
            offset += len(part)
            n_bytes -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def drop_before(self, offset: int) -> None:
        """Drop the bytes before `offset` from the page cache, every few megabytes."""
        offset -= offset % _LARGE_PAGE_BYTES
        if offset - self._dropped_bytes >= _DROP_EVERY_BYTES:
            drop_cache(self._fd, self._dropped_bytes, offset)
            self._dropped_bytes = offset

    def check_unchanged(self) -> None:
        """Raise InputError if the file's size or time of modification has changed since it was opened."""
        now = os.fstat(self._fd)
        if now.st_size != self.size_bytes:
            raise self._changed_size(now.st_size)
        if now.st_mtime_ns != self._stat.st_mtime_ns:
            raise InputError(
                f"{self.path} was modified while it was read, so the tokens may belong to neither version; "
                "wait until nothing writes to it any more and run again"
            )

    def _changed_size(self, now_bytes: int) -> InputError:
        return InputError(
            f"{self.path} had {self.size_bytes:,} bytes when the run began and has {now_bytes:,} now: "
            "something is writing to it; wait until that is done and run again"
        )


def _pread(fd: int, n_bytes: int, offset: int) -> bytes:
    """Call `os.pread`, or do the same on Windows, which has none."""
    if hasattr(os, "pread"):
        return os.pread(fd, n_bytes, offset)
    os.lseek(fd, offset, os.SEEK_SET)
    return os.read(fd, n_bytes)


class Readable(Protocol):
    """What a `Window` reads from."""

    size_bytes: int  # UNKNOWN for a stream, until a read has reached the end

    def read(self, n_bytes: int, offset: int) -> bytes:
        """Read exactly `[offset, offset + n_bytes)`, or up to the end."""
        ...

    def drop_before(self, offset: int) -> None:
        """Release what lies before `offset`: it will not be read again."""
        ...


class InputFile(Readable, Protocol):
    """An open input: a local file, a remote file or a pipe."""

    @property
    def path(self) -> Location:
        """Where it is; also its name in messages."""
        ...

    @property
    def hints(self) -> Sequence[object]:
        """Values that very likely change when the content changes (such as mtime), storable as JSON."""
        ...

    def check_unchanged(self) -> None:
        """Raise InputError if it has changed since it was opened."""
        ...

    def __enter__(self) -> "InputFile": ...

    def __exit__(self, *exc: object) -> None: ...


class InMemory:
    """Bytes in memory, readable like a file."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size_bytes = len(data)

    def read(self, n_bytes: int, offset: int) -> bytes:
        """Return the bytes `[offset, offset + n_bytes)`, fewer at the end."""
        return self._data[offset : offset + n_bytes]

    def drop_before(self, offset: int) -> None:
        """Do nothing: the caller owns the bytes."""


def cut_text(text: bytes, *, block_bytes: int) -> Iterator[tuple[bytes, bool]]:
    """Cut valid UTF-8 as `read_blocks` cuts a file; yield each piece, and whether it ends at a forced cut."""
    file = InMemory(text)
    for block in read_blocks(file, start=Position(0), block_bytes=block_bytes, errors="strict"):
        yield block.raw, block.ends_by_force


class Window:
    """The bytes `[base, base + len(data))` of a file that are in memory."""

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
        self.reach(offset + 1)
        return offset < self.file.size_bytes

    def take(self, end: int) -> bytes:
        """Remove the bytes before `end` from the window and return them."""
        taken = self.data[: end - self.base]
        self.data = self.data[end - self.base :]
        self.base = end
        self.file.drop_before(end)
        return taken

    def last_cut(self, start: int, end: int) -> int | None:
        """Do the same as `cuts.last_cut`, with offsets in the file."""
        self.reach(end + _LOOK_BYTES)
        cut = last_cut(self.data, start - self.base, end - self.base)
        return None if cut is None else self.base + cut

    def first_cut(self, start: int, end: int) -> int | None:
        """Do the same as `cuts.first_cut`, with offsets in the file; read no further than necessary."""
        while start <= min(end, self.file.size_bytes - 1):
            high = min(end, max(start, self.base + len(self.data) - _LOOK_BYTES))
            self.reach(high + _LOOK_BYTES)
            cut = first_cut(self.data, start - self.base, high - self.base)
            if cut is not None:
                return self.base + cut
            self.reach(high + 2 * _LOOK_BYTES)  # reads one more step, of the current step size
            start = high + 1
        return None

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
    after the last one. The block boundaries depend on `block_bytes`; the tokens do not.
    """
    window = Window(file, start.offset, block_bytes)
    while window.has(start.offset):
        is_val, edge = val_at(windows, bytes_before + start.anchor)
        offset, anchor = block_end(window, start, block_bytes, edge - bytes_before)
        raw = window.take(offset)
        after_cr = anchor != offset and ends_in_cr(raw, errors, start.after_cr)
        end = Position(
            start.input_index,
            offset,
            anchor,
            after_cr,
            crc32(raw, start.crc),
            at_end=offset == window.file.size_bytes,
        )
        yield Block(raw, start, end, is_val=is_val)
        start = end


def block_end(window: Window, start: Position, block_bytes: int, edge: int) -> tuple[int, int]:
    """Return the offset where a block ends, and the last exact cut at or before it.

    The block ends at the first exact cut at or after `edge`, if not earlier. This goes from exact cut to
    exact cut in steps of at most one piece: otherwise it would miss the stretches that need a forced cut.
    """
    target = start.offset + block_bytes
    window.reach(target + 1)  # a stream's size is known afterwards, if it ends within this block
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


def ends_in_cr(raw: bytes, errors: str, before: bool) -> bool:
    """Whether the text up to the end of `raw` ends in a carriage return.

    `errors` decides which bytes are text. `before` is the answer for the text before `raw`.
    """
    text = raw.decode("utf-8", errors if errors == "ignore" else "replace")
    return text.endswith("\r") if text else before


def decode(block: Block, errors: str) -> str:
    r"""Decode a block as text mode does: invalid bytes according to `errors`, `\r\n` and `\r` to `\n`.

    Raises:
        UnicodeDecodeError: `errors` is `strict` and a byte is invalid; `start` is its offset in `block.raw`.
    """
    text = block.raw.decode("utf-8", errors)
    if block.start.after_cr and text.startswith("\n"):
        text = text[1:]
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text


def lenient(errors: str) -> str:
    """Return a policy that never raises, for inspecting text: the encoder enforces `strict`."""
    return "ignore" if errors == "strict" else errors


def as_utf8(block: Block, errors: str) -> bytes:
    r"""Return what `decode` returns, as UTF-8; without a copy if the block is valid and has no `\r`.

    Raises:
        UnicodeDecodeError: as `decode` does.
    """
    raw = block.raw
    if not is_utf8(raw):
        return decode(block, errors).encode()
    if block.start.after_cr:
        raw = raw.removeprefix(b"\n")
    if b"\r" in raw:  # which is never a part of another character
        raw = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return raw


def find_invalid_bytes(raw: bytes) -> tuple[int, tuple[int, ...]]:
    r"""Count the bytes that are not valid UTF-8; return also the offsets of the first ten.

    >>> find_invalid_bytes(b"caf\xe9 \xff")
    (2, (3, 5))
    """
    text = raw.decode("utf-8", "surrogateescape")
    n_invalid = len(text) - len(INVALID.sub("", text))
    offsets: list[int] = []
    done_chars = position = 0
    for match in INVALID.finditer(text):
        position += len(text[done_chars : match.start()].encode("utf-8", "surrogateescape"))
        done_chars = match.start()
        offsets.append(position)
        if len(offsets) == _MAX_OFFSETS:
            break
    return n_invalid, tuple(offsets)
