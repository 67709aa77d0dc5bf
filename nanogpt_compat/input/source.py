"""What a run reads, and how it is cut into blocks."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from nanogpt_compat.input.lines import JsonLines
from nanogpt_compat.input.location import Container, Format, Location
from nanogpt_compat.input.parquet import Parquet
from nanogpt_compat.input.reader import Check, Reader, Reading
from nanogpt_compat.input.separated import SeparatedText
from nanogpt_compat.input.text import Text
from nanogpt_compat.text.blocks import Blocks, MakeRoom, Position, has_room
from nanogpt_compat.text.documents import NO_DOCUMENTS, Documents
from nanogpt_compat.text.val_split import Windows

_READERS: Mapping[Container, type[Reader]] = {"text": Text, "jsonl": JsonLines, "parquet": Parquet}


def reader_of(
    location: Location,
    form: Format,
    *,
    documents: Documents | None = None,
    errors: str = "ignore",
    size_bytes: int | None = None,
) -> Reader:
    """Return the reader of an input; `documents` is None if the text is one continuous stream."""
    reader = _READERS[form.container]
    if reader is Text and documents is not None:
        reader = SeparatedText
    return reader(location, form, documents or NO_DOCUMENTS, errors, size_bytes)


def reader_bytes(formats: Iterable[Format]) -> int:
    """Return the memory that reading inputs of these formats takes, in addition to their blocks."""
    return max((_READERS[one.container].memory_bytes for one in formats), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The inputs, in order, and the options that decide the blocks."""

    paths: Sequence[Location]
    sizes: Sequence[int | None]  # bytes of each file; None for a pipe
    formats: Sequence[Format]
    windows: Windows = ()  # the validation ranges, if the text is one continuous stream
    documents: Documents | None = None  # None if it is
    errors: str
    block_bytes: int
    end: int | None = None
    """The place where this run stops reading, from `Reader.bounds`."""

    def reader(self, index: int) -> Reader:
        """Return the reader of an input."""
        return reader_of(
            self.paths[index],
            self.formats[index],
            documents=self.documents,
            errors=self.errors,
            size_bytes=self.sizes[index],
        )

    def blocks(
        self, start: Position, *, bytes_before: int, check: Check, make_room: MakeRoom = has_room
    ) -> Blocks:
        """Yield the blocks of every input in turn, from `start` on.

        `bytes_before`: size of the text of all inputs before that of `start`. `make_room` is called before a
        long record is read, and `check` repeatedly while the next block takes long.
        """
        n_inputs = len(self.paths) if self.end is None else start.input_index + 1
        for index in range(start.input_index, n_inputs):
            how = Reading(
                block_bytes=self.block_bytes,
                end=self.end,
                windows=self.windows,
                bytes_before=bytes_before,
                check=check,
                make_room=make_room,
            )
            with closing(self.reader(index).blocks(start, how)) as blocks:
                for block in blocks:
                    start = block.end
                    yield block
            bytes_before += start.offset
            start = Position(index + 1)

    def limit(self, blocks: Blocks, n_chars: int, start: Position, make_room: MakeRoom) -> Blocks:
        """Yield the blocks up to the first place with at least `n_chars` before it where a run may end."""
        if n_chars <= 0 and self.reader(start.input_index).may_end_at(start):
            return
        with closing(blocks):
            for block in blocks:
                reader = self.reader(block.start.input_index)
                block = reader.shorten(block, n_chars, make_room)
                yield block
                n_chars -= block.n_chars
                if n_chars <= 0 and reader.may_end_at(block.end):
                    return
