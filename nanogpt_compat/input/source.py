"""What a run reads, and how it is cut into blocks."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib import import_module

from nanogpt_compat.input.location import Container, Format, Input, Location
from nanogpt_compat.input.reader import Check, Reader, Reading
from nanogpt_compat.text.blocks import Blocks, MakeRoom, Position, has_room
from nanogpt_compat.text.documents import NO_DOCUMENTS, Documents
from nanogpt_compat.text.val_split import ALL_VAL, Windows

_READERS: dict[Container, str] = {
    "jsonl": "lines.JsonLines",
    "parquet": "parquet.Parquet",
    "arrow": "arrow.Arrow",
    "csv": "delimited.Delimited",
    "tsv": "delimited.Delimited",
}


def _class_of(container: Container, documents: Documents | None = None) -> type[Reader]:
    """Return the class of a reader. Imported here, as all of them would delay the start of each run."""
    text = "separated.SeparatedText"
    if documents is None:
        text = "text.Text"
    elif documents.separator is None:
        text = "separated.WholeText"
    module, _, name = _READERS.get(container, text).partition(".")
    found: type[Reader] = getattr(import_module(f"nanogpt_compat.input.{module}"), name)
    return found


def reader_of(
    location: Location,
    form: Format,
    *,
    documents: Documents | None = None,
    errors: str = "ignore",
    size_bytes: int | None = None,
) -> Reader:
    """Return the reader of an input; `documents` is None if the text is one continuous stream."""
    reader = _class_of(form.container, documents)
    return reader(location, form, documents or NO_DOCUMENTS, errors, size_bytes)


def reader_bytes(formats: Iterable[Format]) -> int:
    """Return the memory that reading inputs of these formats takes, in addition to their blocks."""
    return max((_class_of(one).memory_bytes for one in {form.container for form in formats}), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The inputs, in order, and the options that decide the blocks. Those for val alone come last."""

    inputs: Sequence[Input]
    n_val_inputs: int = 0  # all of their text is for val
    windows: Windows = ()  # the validation ranges in the other inputs, if their text is one stream
    documents: Documents | None = None  # None if their text is one stream
    errors: str
    block_bytes: int
    end: int | None = None
    """The place where this run stops reading, from `Reader.bounds`."""

    @property
    def n_train_inputs(self) -> int:
        """How many inputs come before those for val alone."""
        return len(self.inputs) - self.n_val_inputs

    def documents_in(self, index: int) -> Documents | None:
        """Return how the documents of an input are treated; None if its text is one continuous stream."""
        if self.documents is None or index < self.n_train_inputs:
            return self.documents
        return replace(self.documents, val_ratio=1.0)

    def reader(self, index: int) -> Reader:
        """Return the reader of an input."""
        one = self.inputs[index]
        return reader_of(
            one.location,
            one.form,
            documents=self.documents_in(index),
            errors=self.errors,
            size_bytes=one.size_bytes,
        )

    def phases(self, start: Position) -> Iterator[Position]:
        """Yield `start`, and then the beginning of the inputs for val alone, unless `start` is there.

        A limit such as `--n` ends only what is read from `start` on.
        """
        yield start
        if self.end is None and self.n_val_inputs and start.input_index < self.n_train_inputs:
            yield Position(self.n_train_inputs)

    def phase_end(self, start: Position) -> int:
        """Return the index of the first input after the phase of `start`."""
        n_train = self.n_train_inputs
        return n_train if start.input_index < n_train else len(self.inputs)

    def blocks(
        self, start: Position, *, bytes_before: int, check: Check, make_room: MakeRoom = has_room
    ) -> Blocks:
        """Yield the blocks of every input in turn, from `start` on, to the end of its phase.

        `bytes_before`: size of the text of all inputs before that of `start`. For the rest, see `Reading`.
        """
        is_val = start.input_index >= self.n_train_inputs
        last = self.phase_end(start) if self.end is None else start.input_index + 1
        for index in range(start.input_index, last):
            how = Reading(
                block_bytes=self.block_bytes,
                end=self.end,
                windows=ALL_VAL if is_val else self.windows,
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
