"""Read continuous text, plain or compressed, in blocks that end at exact cuts."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from nanogpt_compat.input.compressed import ByteStream
from nanogpt_compat.input.open import InputFile
from nanogpt_compat.input.reader import Check, Find, Reading, Streamed
from nanogpt_compat.input.samples import Excerpts, Sample, Share, take_samples, take_text
from nanogpt_compat.system.checksum import crc32
from nanogpt_compat.text.blocks import Block, MakeRoom, Position
from nanogpt_compat.text.cuts import first_cut
from nanogpt_compat.text.cutting import InMemory, Readable, Window, is_same_cut, read_blocks
from nanogpt_compat.text.decoding import decode, end_of_chars, lenient
from nanogpt_compat.text.documents import END_OF_TEXT_NAME
from nanogpt_compat.text.val_split import LOOK_AHEAD_BYTES

_AHEAD_BYTES = 4096  # more than enough: a cut depends on only a few bytes after it
_LOOK_BYTES = 4  # the longest character


class Text(Streamed):
    """Reads text that is one stream, without documents."""

    __slots__ = ()

    def cut(self, file: InputFile, stream: ByteStream, start: Position, how: Reading) -> Iterator[Block]:
        return self._cut(stream if self.is_in_order else file, start, how)

    def _cut(self, text: Readable, start: Position, how: Reading) -> Iterator[Block]:
        return read_blocks(
            text,
            start=start,
            block_bytes=how.block_bytes,
            errors=self.errors,
            windows=how.windows,
            bytes_before=how.bytes_before,
        )

    def may_end_at(self, at: Position) -> bool:
        return at.anchor == at.offset

    def shorten(self, block: Block, n_chars: int, _make_room: MakeRoom) -> Block:
        errors = lenient(self.errors)
        n_all = len(decode(block, errors))
        if n_chars <= n_all:
            low = end_of_chars(block, max(0, n_chars), errors)
            cut = first_cut(block.raw, max(low, 1), len(block.raw) - 1)
            if cut is not None:
                raw, offset = block.raw[:cut], block.start.offset + cut
                crc = crc32(raw, block.start.crc)
                end = replace(block.end, offset=offset, anchor=offset, after_cr=False, crc=crc, at_end=False)
                block = replace(block, raw=raw, end=end)
                n_all = len(decode(block, errors))
        return replace(block, n_chars=n_all)

    def sample(self, file: InputFile, samples: list[Sample], share: Share, _check: Check) -> Excerpts:
        """Take pieces spread over a local file; for other inputs, and compressed ones, use the samples."""
        pieces, text_bytes = samples, self.size_bytes
        stream = None
        if self.form.compression != "none":
            stream = ByteStream(file, self.form.compression)
            head = stream.read(LOOK_AHEAD_BYTES + 1)
            text_bytes = None if len(head) > LOOK_AHEAD_BYTES else len(head)
            pieces = samples = take_samples(
                InMemory(head), total_bytes=share.total_bytes, n_inputs=share.n_inputs
            )
        elif isinstance(self.location, Path):
            pieces = take_text(file, share)
        n_bytes = sum(len(piece.data) for piece in pieces)
        if stream is not None:
            n_bytes = self.stored_bytes(stream, n_bytes)
        texts = [piece.data.decode("utf-8", lenient(self.errors)) for piece in pieces]
        looked_at = [one.data for one in (*samples, *pieces)]
        lacks_separator = None
        if separator := self.documents.separator:
            texts = [one.replace(separator, self.mark) for one in texts]
            between = separator.encode()
            unix = (one.replace(b"\r\n", b"\n").replace(b"\r", b"\n") for one in looked_at)
            lacks_separator = not any(between in one for one in unix)
            looked_at = [one.replace(between, b"") for one in looked_at]
        return Excerpts(
            texts,
            [1.0] * len(pieces),
            n_bytes,
            text_bytes,
            text=samples,
            shows_end_of_text=any(END_OF_TEXT_NAME.encode() in one for one in looked_at),
            lacks_separator=lacks_separator,
        )

    def change_of_place(self, stream: ByteStream, at: Position) -> str:
        if at.offset == 0:
            return ""
        tail, ahead = stream.skipped_tail, stream.peek(_AHEAD_BYTES)
        start = at.offset - len(tail)
        if self._is_same_place(InMemory(tail + ahead, start), start, at):
            return ""
        return (
            f"was changed just after the {at.offset:,} bytes already read, so it can no longer be cut there"
        )

    def _is_same_place(self, file: Readable, start: int, at: Position) -> bool:
        """Whether a block that ended at `at` would still end there; `file` is in memory from `start` on."""
        return is_same_cut(Window(file, start, _AHEAD_BYTES), at)

    @property
    def finder(self) -> tuple[Find, int, int]:
        return first_cut, _LOOK_BYTES, _LOOK_BYTES
