"""Read the documents of a text file in blocks: many whole documents, or a part of a long one."""

import codecs
import re
from collections.abc import Iterator
from dataclasses import replace

from nanogpt_compat.input.pipes import UNKNOWN
from nanogpt_compat.text.blocks import Block, Position
from nanogpt_compat.text.cutting import Readable, Window, block_end, is_same_cut
from nanogpt_compat.text.decoding import decode, ends_in_cr
from nanogpt_compat.text.documents import HEAD_BYTES, Documents, are_val
from nanogpt_compat.text.utf8 import is_utf8

_MAX_CHAR_BYTES = 4
_HEAD_IN_BYTES = 8 * 1024 * 1024  # more than any block has
_PART_BYTES = 16 * 1024
_PART_START = re.compile(rb"[\0-\t\v-\x7f]")  # begins a character, and is no LF: a CR may precede that


class _DocumentWindow(Window):
    """A window that has no cuts inside a possible separator."""

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
                return first  # the block will end after that separator, so this cut is not used
            cut = super().forced_cut(cut - 1)
        return cut

    def _is_pending(self, cut: int) -> bool:
        """Whether a separator may cross `cut`: one begins in the text before it and continues after it."""
        separator, n_chars = self._separator, len(self._separator) - 1
        n_bytes = _MAX_CHAR_BYTES * n_chars
        raw, text = b"", ""
        while n_chars:
            low = max(self.base, cut - n_bytes)
            raw = self.data[low - self.base : cut - self.base]
            text = self._decode(raw)
            if len(text) >= n_chars or low == self.base:
                break
            n_bytes *= 4  # most of these bytes are invalid and dropped
        begun = [k for k in range(1, n_chars + 1) if text.endswith(separator[:k])]
        if not begun:
            return False
        end = cut + _MAX_CHAR_BYTES * (n_chars + 1)  # if most of these are dropped, one may still continue
        self.reach(end)
        after = self._decode(raw + self.data[cut - self.base : end - self.base])[len(text) :]
        return any(separator[k:].startswith(after[: n_chars + 1 - k]) for k in begun)

    def _decode(self, raw: bytes) -> str:
        return decode(Block(raw, Position(0), Position(0), is_val=False), self._errors)


def is_same_place(file: Readable, base: int, at: Position, separator: str, errors: str) -> bool:
    """Whether a block that ended at `at` would still end there, now that the text after it has changed.

    The bytes before `at` are unchanged; those from `base` on are read.
    """
    if not at.document and at.anchor == at.offset:
        return True  # a separator ends there, regardless of what follows
    window = _DocumentWindow(file, replace(at, offset=base), _PART_BYTES, separator, errors)
    # At the end of the file, the open document would have ended, too.
    return window.has(at.offset) and is_same_cut(window, at)


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

    A block holds whole documents, each with the separator after it. Or it holds a part of a document that is
    longer than a block. Such a part ends at an exact cut, or at a forced cut if there is no exact one for
    `MAX_PIECE_BYTES`. Separators are found as `str.split` finds them in the file's text. `errors` must be a
    policy that never raises.
    """
    window = _DocumentWindow(file, start, block_bytes, separator, errors)
    while window.has(start.offset):
        yield (block := _next_block(window, start, block_bytes, documents.val_ratio, separator, errors))
        start = block.end


def _next_block(
    window: _DocumentWindow, start: Position, block_bytes: int, val_ratio: float, separator: str, errors: str
) -> Block:
    reached = start
    while True:
        offset, anchor = block_end(window, reached, block_bytes, UNKNOWN)
        window.reach(offset)
        block = Block(window.data[: offset - window.base], start, start, is_val=False)
        n_bytes = separator_end(block, separator, errors, is_first=bool(start.document))
        is_last, document = offset == window.file.size_bytes, ""
        if n_bytes is not None and (start.document or not is_last):
            offset = anchor = start.offset + n_bytes
        elif start.document and not is_last:
            document = start.document
        elif not is_last:
            head = _head_of(block, errors)
            if head is None:
                reached = replace(start, offset=offset, anchor=anchor)
                continue
            if head:  # otherwise the document has no text yet
                document = "val" if are_val([head], val_ratio)[0] else "train"
        at_end = offset == window.file.size_bytes
        return end_block(block, window.take(offset), anchor, errors, document, at_end=at_end)


def end_block(
    block: Block, raw: bytes, anchor: int, errors: str, document: str = "", *, at_end: bool = False
) -> Block:
    """Return the block that begins where `block` does and holds `raw`."""
    start = block.start
    block = replace(block, raw=raw)
    end = replace(
        start,
        offset=start.offset + len(raw),
        anchor=anchor,
        after_cr=(start.after_cr or b"\r" in raw) and ends_in_cr(raw, errors, start.after_cr),
        document=document,
        at_end=at_end,
    )
    return replace(block, end=end, is_val=end.document == "val")


def _head_of(block: Block, errors: str) -> bytes | None:
    """Return 64 KiB or more of the text of a document that begins in `block` and continues after it.

    Returns None if the block holds less: the split of a document must depend on its first block alone, so
    that later changes after that block cannot affect it. If hardly any byte is text, the 8 MiB from the first
    character on decide. A document that fits in a block is looked at as a whole, with the same result.
    """
    text = decode(block, errors).encode()
    if not text or len(text) >= HEAD_BYTES:
        return text
    most_bytes = _HEAD_IN_BYTES + end_of_chars(block, 1, errors)
    if len(block.raw) < most_bytes:
        return None
    raw = block.raw[:most_bytes]
    n_whole = codecs.utf_8_decode(raw, "ignore", False)[1]  # without an incomplete character at the end
    return decode(replace(block, raw=raw[:n_whole]), errors).encode()


def separator_end(block: Block, separator: str, errors: str, *, is_first: bool) -> int | None:
    r"""Return the byte of a block where its first separator ends, or its last; None if it has none.

    If the separator ends with a carriage return, a line feed after it is left to the next block, whose
    `after_cr` tells that it belongs to the carriage return.

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
    """Return the smallest number of a block's bytes that decode to its first `n_chars` characters."""
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
    while low < len(part.raw) and prefix(low) != text:  # with `replace`, half a character counts as one
        low += 1
    return n_before + low


def _parts_of(block: Block) -> Iterator[Block]:
    """Cut a block into parts of 16 KiB, or more if ASCII is rare; each decodes to a part of its text."""
    start = 0
    while start < len(block.raw):
        found = _PART_START.search(block.raw, start + _PART_BYTES)
        end = found.start() if found else len(block.raw)
        part = replace(block, raw=block.raw[start:end])
        yield part if start == 0 else replace(part, start=Position(0))
        start = end
