"""Read the documents of a text file in blocks: many whole ones, or a part of a long one."""

import zlib
from collections.abc import Iterator
from dataclasses import replace

from nanogpt_compat.blocks import Block, Position
from nanogpt_compat.documents import HEAD_BYTES, Documents, is_val_document
from nanogpt_compat.pipes import UNKNOWN
from nanogpt_compat.sources.text import Readable, Window, block_end, decode, ends_in_cr
from nanogpt_compat.utf8 import is_utf8

_MAX_CHAR_BYTES = 4


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
        """Never back: the reader counts in full pieces from the last exact cut."""
        cut = super().forced_cut(nominal)
        while cut < self.file.size_bytes and self._is_pending(cut):
            nominal += 1
            cut = super().forced_cut(nominal)
        return cut

    def _is_pending(self, cut: int) -> bool:
        """Whether the text before `cut` ends as a separator may begin."""
        n_chars = len(self._separator) - 1
        n_bytes = _MAX_CHAR_BYTES * n_chars
        text = ""
        while n_chars:
            low = max(self.base, cut - n_bytes)
            raw = self.data[low - self.base : cut - self.base]
            text = decode(Block(raw, Position(0), Position(0), is_val=False), self._errors)
            if len(text) >= n_chars or low == self.base:
                break
            n_bytes *= 4  # most of it is dropped
        return any(text.endswith(self._separator[:k]) for k in range(1, n_chars + 1))


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
        ends = separator_ends(block, separator, errors)
        document = ""
        if ends is not None and (start.document or offset < file.size_bytes):
            offset = anchor = start.offset + ends[0 if start.document else 1]
        elif offset < file.size_bytes:
            document = start.document
            if not document and decode(block, errors):  # or else it has still to begin
                document = _split_of(window, start, documents.val_ratio, separator, errors)
        yield (block := end_block(block, window.take(offset), anchor, separator, errors, document))
        start = block.end


def end_block(
    block: Block, raw: bytes, anchor: int, separator: str, errors: str, document: str = ""
) -> Block:
    """Make the block that begins where `block` does and holds `raw`."""
    start = block.start
    block = replace(block, raw=raw)
    any_document = start.any_document or any(decode(block, errors).split(separator))
    end = replace(
        start,
        offset=start.offset + len(raw),
        anchor=anchor,
        after_cr=(start.after_cr or b"\r" in raw) and ends_in_cr(raw, errors, start.after_cr),
        crc=zlib.crc32(raw, start.crc),
        document=document,
        any_document=any_document,
    )
    return replace(block, end=end, is_val=end.document == "val")


def _split_of(window: Window, start: Position, val_ratio: float, separator: str, errors: str) -> str:
    """Choose the split of the long document that begins at `start`, by its first 64 KiB."""
    if not val_ratio:
        return "train"
    if not start.any_document:
        return "val"
    n_bytes = HEAD_BYTES + 2 * _MAX_CHAR_BYTES * len(separator)
    while True:
        window.reach(start.offset + n_bytes)
        block = Block(window.data[:n_bytes], start, start, is_val=False)
        text, *more = decode(block, errors).split(separator, 1)
        head = text.encode()
        if more or len(head) >= HEAD_BYTES or start.offset + n_bytes >= window.file.size_bytes:
            return "val" if is_val_document(head, val_ratio) else "train"
        n_bytes *= 2  # most of it is dropped


def separator_ends(block: Block, separator: str, errors: str) -> tuple[int, int] | None:
    r"""Find where in a block's bytes its first and its last separator end; None if it has none.

    >>> separator_ends(Block(b"a\r\n\r\nb", Position(0), Position(0), is_val=False), "\n\n", "ignore")
    (4, 4)
    """
    raw = block.raw
    if b"\r" not in raw and not block.start.after_cr and is_utf8(raw):
        pieces = raw.split(separator.encode())
        n_bytes = len(separator.encode())
        return (len(pieces[0]) + n_bytes, len(raw) - len(pieces[-1])) if len(pieces) > 1 else None
    text = decode(block, errors)
    parts = text.split(separator)
    if len(parts) == 1:
        return None
    first, last = len(parts[0]) + len(separator), len(text) - len(parts[-1])
    return end_of_chars(block, first, errors), end_of_chars(block, last, errors)


def end_of_chars(block: Block, n_chars: int, errors: str) -> int:
    """Find the fewest of a block's bytes that decode to its first `n_chars` characters."""
    text = decode(block, errors)[:n_chars]

    def prefix(n_bytes: int) -> str:
        return decode(replace(block, raw=block.raw[:n_bytes]), errors)

    low, high = 0, len(block.raw)
    while low < high:
        middle = (low + high) // 2
        if len(prefix(middle)) < n_chars:
            low = middle + 1
        else:
            high = middle
    while low < len(block.raw) and prefix(low) != text:  # `replace` counts half a character as one
        low += 1
    return low
