"""What the readers of JSON lines and of CSV share: records that follow one another in a stream of bytes."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from nanogpt_compat.input.compressed import ByteStream
from nanogpt_compat.input.local import InputFile
from nanogpt_compat.input.location import Url
from nanogpt_compat.input.reader import Reading, Streamed
from nanogpt_compat.input.repairs import BadRecord
from nanogpt_compat.input.runs import Kind, place_of, read_runs
from nanogpt_compat.input.samples import N_PLACES, Excerpts, Share, spread
from nanogpt_compat.system.checksum import crc32
from nanogpt_compat.text.blocks import Position, RecordBlock, Records
from nanogpt_compat.text.val_split import LOOK_AHEAD_BYTES

_N_REMOTE_PLACES = 64  # each is a request


class RecordStream(Streamed):
    """Reads documents from records that follow one another."""

    __slots__ = ()

    block_type: "ClassVar[type[RunBlock]]"

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

    def places(self, file: InputFile, share: Share, window_bytes: int) -> list[int]:
        """Return places to sample, spread over the file; none if it can only be read in order, or is short.

        They fall on long records more often than on short ones, so each counts by its tokens per byte.
        """
        n_places = share.of(_N_REMOTE_PLACES if isinstance(file.path, Url) else N_PLACES)
        is_short = file.size_bytes <= n_places * window_bytes // 8
        return [] if self.is_in_order or is_short else spread(n_places, file.size_bytes)

    def text_bytes(self, stream: ByteStream) -> int | None:
        """Return the size of the text; None if it is unknown, because `stream` has more than a megabyte."""
        if self.form.compression == "none":
            return self.size_bytes
        stream.skip(LOOK_AHEAD_BYTES + 1 - stream.offset)
        return stream.offset if stream.offset <= LOOK_AHEAD_BYTES else None

    def excerpts(
        self, pieces: Sequence[tuple[str, float]], n_bytes: float, text_bytes: int | None
    ) -> Excerpts:
        """Return pieces of documents, each with its weight, for the forecast."""
        texts, weights = [text + self.mark for text, _ in pieces], [weight for _, weight in pieces]
        return Excerpts(texts, weights, n_bytes, text_bytes)


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
