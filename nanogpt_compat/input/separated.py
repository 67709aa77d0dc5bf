"""Read the documents of text files in blocks: many whole documents, or a part of a long one.

There are separators between them, or each file is one document.
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import replace

from nanogpt_compat.input.open import InputFile, open_input
from nanogpt_compat.input.pipes import UNKNOWN
from nanogpt_compat.input.reader import Check, Find, Reading, go_on
from nanogpt_compat.input.samples import Excerpts, Sample, Share
from nanogpt_compat.input.text import Text
from nanogpt_compat.system.checksum import crc32
from nanogpt_compat.text.blocks import Block, MakeRoom, Position
from nanogpt_compat.text.cutting import Readable, Window, block_end, is_same_cut
from nanogpt_compat.text.decoding import INVALID, decode, end_of_chars, ends_in_cr, lenient
from nanogpt_compat.text.documents import HEAD_BYTES, Documents, are_val
from nanogpt_compat.text.utf8 import is_utf8

_MAX_CHAR_BYTES = 4
_HEAD_IN_BYTES = 8 * 1024 * 1024  # more than any block has
_STEP_BYTES = 16 * 1024


class DocumentText(Text):
    """Reads text that holds documents."""

    __slots__ = ()

    def _cut(self, text: Readable, start: Position, how: Reading) -> Iterator[Block]:
        return read_documents(
            text,
            start=start,
            block_bytes=how.block_bytes,
            documents=self.documents,
            errors=lenient(self.errors),
        )

    def may_end_at(self, at: Position) -> bool:
        return not at.document


class SeparatedText(DocumentText):
    """Reads text whose documents are divided by separators."""

    __slots__ = ()

    @property
    def _separator(self) -> str:
        return self.documents.separator or ""

    def shorten(self, block: Block, n_chars: int, _make_room: MakeRoom) -> Block:
        errors = lenient(self.errors)
        text = decode(block, errors)
        n_end = 0
        for piece in text.split(self._separator)[:-1]:
            n_end += len(piece) + len(self._separator)
            if n_end >= n_chars:
                raw = block.raw[: end_of_chars(block, n_end, errors)]
                last = end_block(block, raw, block.start.offset + len(raw), errors)
                crc = crc32(raw, block.start.crc)
                end = replace(last.end, crc=crc, stored_bytes=block.end.stored_bytes)
                return replace(last, end=end, is_val=block.is_val, n_chars=n_end)
        return replace(block, n_chars=len(text))

    def _is_same_place(self, file: Readable, start: int, at: Position) -> bool:
        if not at.document and at.anchor == at.offset:
            return True  # a separator ends there, regardless of what follows
        errors = lenient(self.errors)
        window = _DocumentWindow(file, replace(at, offset=start), _STEP_BYTES, self._separator, errors)
        # At the end of the file, the open document would have ended, too.
        return window.has(at.offset) and is_same_cut(window, at)

    @property
    def finder(self) -> tuple[Find, int, int]:
        """Find the end of a separator that counts as one regardless of how the text before it is split.

        Separators may overlap: in three line feeds, which two are the separator depends on the text before.
        A separator is certain if no other one begins within its length before it. Places close after invalid
        bytes, or right after a carriage return, are not used.
        """
        separator, n_chars = self._separator, len(self._separator)
        most_bytes = _MAX_CHAR_BYTES * (n_chars + 1)  # a separator, with a character to spare
        escaped = re.escape(separator.encode()).replace(b"\\\n", b"\r?\n")
        pattern = re.compile(b"(?=(" + escaped + b"))", re.DOTALL)  # finds overlapping ones, too

        def find(data: bytes, start: int, end: int) -> int | None:
            for match in pattern.finditer(data, max(0, start - most_bytes), end):
                place = match.end(1)
                if not start <= place <= end or data.endswith(b"\r", 0, place):
                    continue
                raw = data[max(0, place - 2 * most_bytes) : place]
                text = raw.decode("utf-8", "surrogateescape").replace("\r\n", "\n").replace("\r", "\n")
                if INVALID.search(text[-2 * n_chars - 1 :]):
                    continue
                if text.find(separator, max(0, len(text) - 2 * n_chars + 1)) == len(text) - n_chars:
                    return place
            return None

        return find, 2 * most_bytes, 1


class WholeText(DocumentText):
    """Reads text that is one document. There is no block of an empty file, which is an empty document."""

    __slots__ = ()

    def shorten(self, block: Block, _n_chars: int, _make_room: MakeRoom) -> Block:
        return replace(block, n_chars=len(decode(block, lenient(self.errors))))

    def sample(self, file: InputFile, samples: list[Sample], share: Share, check: Check) -> Excerpts:
        """Take pieces of the text, and the same share of its one end-of-text token."""
        found = super().sample(file, samples, share, check)
        if not self.size_bytes:
            return found
        weights = [*found.weights, found.n_bytes / self.size_bytes]
        return replace(found, texts=[*found.texts, self.mark], weights=weights)

    def bounds(self, start: int, end: int, check: Check = go_on) -> tuple[int, int]:
        """Give the whole file to the span that begins with it."""
        if self.form.compression != "none":
            return start, end
        check()
        with open_input(self.location, size_bytes=self.size_bytes, check=check) as file:
            return (0, file.size_bytes) if start == 0 else (end, end)


class _DocumentWindow(Window):
    """A window that has no cuts inside a possible separator."""

    looks_first = False  # the text before a cut decides, too

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


def read_documents(
    file: Readable, *, start: Position, block_bytes: int, documents: Documents, errors: str
) -> Iterator[Block]:
    """Yield the file from `start` on in blocks of about `block_bytes`.

    A block holds whole documents, each with the separator after it; if there is no separator, the whole file.
    Or it holds a part of a document that is longer than a block. Such a part ends at an exact cut, or at a
    forced cut if there is no exact one for `MAX_PIECE_BYTES`. Separators are found as `str.split` finds them
    in the file's text. `errors` must be a policy that never raises.
    """
    if documents.separator is None:
        window = Window(file, start.offset, block_bytes)
    else:
        window = _DocumentWindow(file, start, block_bytes, documents.separator, errors)
    while window.has(start.offset):
        yield (block := _next_block(window, start, block_bytes, documents, errors))
        start = block.end


def _next_block(
    window: Window, start: Position, block_bytes: int, documents: Documents, errors: str
) -> Block:
    reached, separator = start, documents.separator
    while True:
        offset, anchor = block_end(window, reached, block_bytes, UNKNOWN)
        window.reach(offset)
        block = Block(window.data[: offset - window.base], start, start, is_val=False)
        n_bytes = None
        if separator is not None:
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
                document = "val" if are_val([head], documents.val_ratio)[0] else "train"
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
    that later changes after that block cannot affect it. If hardly any byte is text, the 8 MiB that begin
    with the first character decide. A document that fits in a block is looked at as a whole, with the same
    result.
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

    If the separator ends with a carriage return, a line feed after it goes to the next block, whose
    `after_cr` marks that it belongs to the carriage return.

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
