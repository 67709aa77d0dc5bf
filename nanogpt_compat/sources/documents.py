"""Read the documents of a text file in blocks: many whole ones, or a part of a long one."""

import codecs
import re
import zlib
from collections.abc import Iterator
from dataclasses import replace

from nanogpt_compat.blocks import Block, Position
from nanogpt_compat.documents import HEAD_BYTES, Documents, are_val
from nanogpt_compat.pipes import UNKNOWN
from nanogpt_compat.sources.text import Readable, Window, block_end, decode, ends_in_cr
from nanogpt_compat.utf8 import is_utf8

_MAX_CHAR_BYTES = 4
_HEAD_IN_BYTES = 8 * 1024 * 1024  # more than any block has
_PART_BYTES = 16 * 1024
_PART_START = re.compile(rb"[\0-\t\v-\x7f]")  # a character begins here, and no line end goes on


class _DocumentWindow(Window):
    """A window in which there is no cut that a separator might lie across."""

    def __init__(self, file: Readable, start: Position, step_bytes: int, separator: str, errors: str) -> None:
        super().__init__(file, start.offset, step_bytes)
        self._separator = separator
        self._errors = errors

    def last_cut(self, start: int, end: int) -> int | None:
        cut = super().last_cut(start, end)
        while cut is not None and self._is_pending(cut):
            cut = super().last_cut(start, cut - 1)
        return cut

    def first_cut(self, start: int, end: int) -> int | None:
        cut = super().first_cut(start, end)
        while cut is not None and self._is_pending(cut):
            cut = super().first_cut(cut + 1, end)
        return cut

    def forced_cut(self, nominal: int) -> int:
        first = cut = super().forced_cut(nominal)
        while self._is_pending(cut):
            if self._separator in self._decode(self.data[: cut - self.base].removeprefix(b"\n")):
                return first  # the block ends behind that separator, wherever it might be cut by force
            cut = super().forced_cut(cut - 1)
        return cut

    def _is_pending(self, cut: int) -> bool:
        """Whether a separator may lie across `cut`: the text before it ends as one begins, and goes on so."""
        separator, n_chars = self._separator, len(self._separator) - 1
        n_bytes = _MAX_CHAR_BYTES * n_chars
        raw, text = b"", ""
        while n_chars:
            low = max(self.base, cut - n_bytes)
            raw = self.data[low - self.base : cut - self.base]
            text = self._decode(raw)
            if len(text) >= n_chars or low == self.base:
                break
            n_bytes *= 4  # most of it is dropped
        begun = [k for k in range(1, n_chars + 1) if text.endswith(separator[:k])]
        if not begun:
            return False
        end = cut + _MAX_CHAR_BYTES * (n_chars + 1)  # if most of that is dropped, it may still go on
        self.reach(end)
        after = self._decode(raw + self.data[cut - self.base : end - self.base])[len(text) :]
        return any(separator[k:].startswith(after[: n_chars + 1 - k]) for k in begun)

    def _decode(self, raw: bytes) -> str:
        return decode(Block(raw, Position(0), Position(0), is_val=False), self._errors)


def read_documents(
    file: Readable,
    *,
    start: Position,
    block_bytes: int,
    documents: Documents,
    separator: str,
    errors: str,
) -> Iterator[Block]:
    """Yield the file from `start` on in blocks of about `block_bytes`.

    A block holds whole documents, with the separators behind them; or, if one is longer than a block, a part
    of it that ends at an exact cut, by force only where there is none for `MAX_PIECE_BYTES`. Separators are
    found as `str.split` finds them in the file's text. `errors` is one that never raises.
    """
    window = _DocumentWindow(file, start, block_bytes, separator, errors)
    while window.has(start.offset):
        offset, anchor = block_end(window, start, block_bytes, UNKNOWN)
        window.reach(offset)
        block = Block(window.data[: offset - window.base], start, start, is_val=False)
        is_inside = bool(start.document)
        n_bytes = separator_end(block, separator, errors, is_first=is_inside)
        document = ""
        if n_bytes is not None and (is_inside or offset < file.size_bytes):
            offset = anchor = start.offset + n_bytes
        elif offset < file.size_bytes:
            document = start.document
            if not is_inside and decode(block, errors):  # or else it has still to begin
                document = _split_of(window, block, documents.val_ratio, separator, errors)
        yield (block := end_block(block, window.take(offset), anchor, errors, document))
        start = block.end


def end_block(block: Block, raw: bytes, anchor: int, errors: str, document: str = "") -> Block:
    """Make the block that begins where `block` does and holds `raw`."""
    start = block.start
    block = replace(block, raw=raw)
    end = replace(
        start,
        offset=start.offset + len(raw),
        anchor=anchor,
        after_cr=(start.after_cr or b"\r" in raw) and ends_in_cr(raw, errors, start.after_cr),
        crc=zlib.crc32(raw, start.crc),
        document=document,
    )
    return replace(block, end=end, is_val=end.document == "val")


def _split_of(window: Window, block: Block, val_ratio: float, separator: str, errors: str) -> str:
    """Choose the split of the long document that begins in `block`, by its first 64 KiB."""
    if not val_ratio:
        return "train"
    head = _head_of(window, block, separator, errors)
    return "val" if are_val([head], val_ratio)[0] else "train"


def _head_of(window: Window, block: Block, separator: str, errors: str) -> bytes:
    """Read the first 64 KiB, at least, of the text of the document that begins in `block`, or all of it.

    If hardly any byte is text, it is what the 8 MiB from its first character on hold. A document that is no
    longer than a block is looked at as a whole, and comes to the same.
    """
    start = block.start
    wanted_bytes = HEAD_BYTES + len(separator.encode())  # so that no separator begins within the 64 KiB
    n_bytes, most_bytes = 2 * wanted_bytes, _HEAD_IN_BYTES + end_of_chars(block, 1, errors)
    while True:
        window.reach(start.offset + n_bytes)
        raw = window.data[:n_bytes]
        is_all = start.offset + n_bytes >= window.file.size_bytes
        if not is_all:  # half a character at the end is none yet
            raw = raw[: codecs.utf_8_decode(raw, "ignore", False)[1]]
        text, *more = decode(replace(block, raw=raw), errors).split(separator, 1)
        head = text.encode()
        if more or is_all or len(head) >= wanted_bytes or n_bytes == most_bytes:
            return head
        n_bytes = min(2 * n_bytes, most_bytes)


def separator_end(block: Block, separator: str, errors: str, *, is_first: bool) -> int | None:
    r"""Find where in a block's bytes its first separator ends, or its last; None if it has none.

    The line feed behind a carriage return is left to the next block, which knows that it belongs there.

    >>> block = Block(b"a\r\n\r\nb\n\nc", Position(0), Position(0), is_val=False)
    >>> [separator_end(block, "\n\n", "ignore", is_first=is_first) for is_first in (True, False)]
    [4, 8]
    """
    raw = block.raw
    if b"\r" not in raw and not block.start.after_cr and is_utf8(raw):
        pieces = raw.split(separator.encode())
        if len(pieces) == 1:
            return None
        return len(pieces[0]) + len(separator.encode()) if is_first else len(raw) - len(pieces[-1])
    text = decode(block, errors)
    parts = text.split(separator)
    if len(parts) == 1:
        return None
    n_chars = len(parts[0]) + len(separator) if is_first else len(text) - len(parts[-1])
    return end_of_chars(block, n_chars, errors)


def end_of_chars(block: Block, n_chars: int, errors: str) -> int:
    """Find the fewest of a block's bytes that decode to its first `n_chars` characters."""
    n_before = 0
    for part in _parts_of(block):
        n_new = len(decode(part, errors))
        if n_chars <= n_new:
            break
        n_chars -= n_new
        n_before += len(part.raw)
    else:
        return n_before
    text = decode(part, errors)[:n_chars]

    def prefix(n_bytes: int) -> str:
        return decode(replace(part, raw=part.raw[:n_bytes]), errors)

    low, high = 0, len(part.raw)
    while low < high:
        middle = (low + high) // 2
        if len(prefix(middle)) < n_chars:
            low = middle + 1
        else:
            high = middle
    while low < len(part.raw) and prefix(low) != text:  # `replace` counts half a character as one
        low += 1
    return n_before + low


def _parts_of(block: Block) -> Iterator[Block]:
    """Cut a block into parts that decode to parts of its text, of 16 KiB where there is enough ASCII."""
    start = 0
    while start < len(block.raw):
        found = _PART_START.search(block.raw, start + _PART_BYTES)
        end = found.start() if found else len(block.raw)
        part = replace(block, raw=block.raw[start:end])
        yield part if start == 0 else replace(part, start=Position(0))
        start = end
