"""What the readers of JSON lines and of CSV share: records that follow one another in a stream of bytes."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from nanogpt_compat.input.compressed import ByteStream
from nanogpt_compat.input.location import Url
from nanogpt_compat.input.open import InputFile
from nanogpt_compat.input.reader import Check, Reading, Streamed
from nanogpt_compat.input.repairs import BadRecord
from nanogpt_compat.input.runs import Kind, place_of, read_runs
from nanogpt_compat.input.samples import N_PLACES, Excerpts, Sample, Share, shorten, spread
from nanogpt_compat.system.checksum import crc32
from nanogpt_compat.text.blocks import Position, RecordBlock, Records
from nanogpt_compat.text.val_split import LOOK_AHEAD_BYTES

HEAD_BYTES = 256 * 1024  # looked at for the first records
_N_REMOTE_PLACES = 64  # each is a request


class RecordStream(Streamed):
    """Reads documents from records that follow one another."""

    __slots__ = ()

    block_type: "ClassVar[type[RunBlock]]"
    window_bytes: ClassVar[int]  # read around a place to sample it

    @abstractmethod
    def kind(self, start: Position) -> Kind:
        """Return what the records from `start` on are."""

    def cut(
        self, file: InputFile, stream: ByteStream, start: Position, how: Reading
    ) -> Iterator[RecordBlock]:
        runs = read_runs(
            stream.read,
            self.kind(start),
            path=self.location,
            block_bytes=how.block_bytes,
            first=start.records + 1,
            offset=start.offset,
            make_room=how.make_room,
        )
        for run in runs:
            # Whether a stream ends after a line end is not known yet, and does not matter.
            is_last = self.form.compression == "none" and run.offset + len(run.raw) == file.size_bytes
            end = start.after(len(run.raw), run.n_ends, at_end=is_last or not run.n_ends)
            block = self.block_type(run.raw, start, end, is_val=False, reader=self)
            del run  # only the block must hold the bytes
            yield block
            start = block.end

    def sample(self, file: InputFile, _samples: list[Sample], share: Share, _check: Check) -> Excerpts:
        """Take the records at places spread over the file, or the first if it is short or read in order.

        Places fall on long records more often than on short ones, so each counts by its tokens per byte.
        """
        n_places = share.of(_N_REMOTE_PLACES if isinstance(file.path, Url) else N_PLACES)
        text_bytes = self.size_bytes
        if self.is_in_order or file.size_bytes <= n_places * self.window_bytes // 8:
            stream = ByteStream(file, self.form.compression)
            found, n_used = self.first_texts(stream.read(HEAD_BYTES))
            pieces = [shorten(text, share) for text in found]
            n_bytes = self.stored_bytes(stream, n_used)
            if self.form.compression != "none":  # the size of its text is known only if it is small
                stream.skip(LOOK_AHEAD_BYTES + 1 - stream.offset)
                text_bytes = stream.offset if stream.offset <= LOOK_AHEAD_BYTES else None
        else:
            pieces = self.pieces_at(spread(n_places, file.size_bytes), file, share)
            n_bytes = n_places
        texts, weights = [text + self.mark for text, _ in pieces], [weight for _, weight in pieces]
        return Excerpts(texts, weights, n_bytes, text_bytes)

    @abstractmethod
    def first_texts(self, head: bytes) -> tuple[list[bytes], int]:
        """Return the texts in the first `HEAD_BYTES`, and how many bytes they were taken from.

        If the first record is longer, treat the part of its text that was read as the whole text.
        """

    @abstractmethod
    def pieces_at(self, places: Sequence[int], file: InputFile, share: Share) -> list[tuple[str, float]]:
        """Return pieces of the texts at some places, each weighted for one byte of the file."""


@dataclass(slots=True)
class RunBlock(RecordBlock):
    """A block that is a run of whole records."""

    noun: ClassVar[str]  # what a record is called in messages
    reader: RecordStream = field(kw_only=True)

    @abstractmethod
    def each(self) -> Iterator[bytes]:
        """Yield the bytes of each record, which together are the block."""

    @property
    def place(self) -> str:
        return place_of(self.noun, self.start.records + 1, self.start.offset)

    def singles(self) -> Iterator[RecordBlock]:
        start, left_bytes = self.start, len(self.raw)
        for raw in self.each():
            left_bytes -= len(raw)
            at_end = self.end.at_end and not left_bytes
            end = start.after(len(raw), 1, stored_bytes=self.end.stored_bytes, at_end=at_end)
            yield replace(self, raw=raw, start=start, end=end)
            start = end

    def up_to(self, end: Position) -> RecordBlock:
        raw = self.raw[: end.offset - self.start.offset]
        return replace(self, raw=raw, end=replace(end, crc=crc32(raw, self.start.crc)))

    def count_as_bad(self, error: Exception, *, skip_bad: bool) -> Records:
        if not skip_bad:
            raise BadRecord(f"{self.reader.location}: {self.place}", str(error), noun=self.noun) from error
        return Records(n_bad=1, bad=[f"{self.place}: {error}"])
