"""The interface of a reader: everything that differs from one format of inputs to another.

Each format has one class, in a module of its own; `source.reader_of` chooses it. No other code needs to know
the format, or whether a place in an input is a byte or a row.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from nanogpt_compat.errors import CheckpointError
from nanogpt_compat.input.compressed import MEASURED_BYTES, ByteStream
from nanogpt_compat.input.location import Format, Location
from nanogpt_compat.input.open import InputFile, open_input
from nanogpt_compat.input.pipes import Pipe
from nanogpt_compat.input.repairs import Steps
from nanogpt_compat.input.samples import Excerpts, Sample, Share
from nanogpt_compat.system.checksum import crc32
from nanogpt_compat.system.units import plural
from nanogpt_compat.text.blocks import Block, Blocks, MakeRoom, Position, RecordBlock, has_room, naming
from nanogpt_compat.text.documents import MARK, NO_DOCUMENTS, Documents
from nanogpt_compat.text.utf8 import count_chars
from nanogpt_compat.text.val_split import Windows

Check = Callable[[], None]
"""Called often while reading takes long; an exception that it raises ends the reading."""

Find = Callable[[bytes, int, int], int | None]
"""Finds the first place in `data[start:end]` where reading can start."""

_STEP_BYTES = 64 * 1024


def go_on() -> None:
    """Let the reading continue; a `Check`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Which blocks of an input to read."""

    block_bytes: int
    end: int | None = None  # the place to stop at, from `Reader.bounds`; None: the end of the input
    windows: Windows = ()  # the validation ranges in the concatenation of all inputs
    bytes_before: int = 0  # in the concatenation, before this input
    check: Check = go_on
    make_room: MakeRoom = has_room  # called before a long record is read


@dataclass(frozen=True, slots=True)
class Consumed:
    """How much of an input a run has read."""

    n_bytes: int  # the text that was read
    n_records: int
    crc: int  # CRC-32 of the logical content
    is_all: bool  # the input ended there
    position: Position | None = None  # where reading resumes; None if it does not


@dataclass(frozen=True, slots=True)
class Fault:
    """An input without text in the field that was asked for."""

    reader: "Reader"
    found: str  # what the input has instead, and where
    advice: str = ""  # what to do if only that record is bad
    repair: str = ""  # a command that converts the input to JSON lines


@dataclass(frozen=True, slots=True)
class Reader(ABC):
    """Reads one input. Its methods raise InputError if the input is unreadable, damaged, or changes."""

    location: Location
    form: Format
    documents: Documents = NO_DOCUMENTS
    errors: str = "ignore"
    size_bytes: int | None = None  # the file's size when the run began, if that was earlier; None for a pipe

    memory_bytes: ClassVar[int] = 0  # what the package that reads the format takes

    @property
    def mark(self) -> str:
        """The text that represents the end-of-text token in samples."""
        return "" if self.documents.eot == "none" else MARK.decode()

    @abstractmethod
    def blocks(self, start: Position, how: Reading) -> Blocks:
        """Yield the input from `start` on in blocks of about `how.block_bytes`.

        Raise a CheckpointError if the bytes before `start`, of an input that is read from its beginning, or
        the place itself have changed.
        """

    def may_end_at(self, _at: Position) -> bool:
        """Whether `--n` may end a run at this position, where a block has ended."""
        return True

    def shorten(self, block: Block, n_chars: int, make_room: MakeRoom) -> Block:
        """Count a block's characters; end it at the first place with at least `n_chars`, if there is one.

        Unless overridden, that is the end of a record.
        """
        if not isinstance(block, RecordBlock):
            raise NotImplementedError
        make_room = naming(self.location, make_room)

        def count(some: RecordBlock) -> int:
            return sum(map(count_chars, some.documents(skip_bad=True, make_room=make_room).texts))

        n_all = count(block)
        if n_all < n_chars:
            return replace(block, n_chars=n_all)
        n_all, end = 0, block.end
        for one in block.singles():
            n_all += count(one)
            if n_all >= n_chars:
                end = one.end
                break
        return replace(block.up_to(end), n_chars=n_all)

    @abstractmethod
    def sample(self, file: InputFile, samples: list[Sample], share: Share, check: Check) -> Excerpts:
        """Take pieces of the input for the forecast. `samples` are from `file`, which is this input."""

    @abstractmethod
    def change(self, read: Consumed, check: Check) -> str:
        """Return in words which change makes the part of the input already read invalid; "" if there is none.

        That part is read again, and compared by the CRC-32 of its logical content. There must still be an
        exact cut, or the end of a record, a document or the input, where reading stopped.
        """

    @abstractmethod
    def bounds(self, start: int, end: int, check: Check = go_on) -> tuple[int, int]:
        """Return the places where the span of the nominal bytes `[start, end)` begins and ends.

        Each is the first place at or after its nominal byte where reading can start. Both are the same if the
        span has none. A place depends only on the bytes around it, so the workers of two neighbouring spans
        need not communicate.
        """

    def position(self, input_index: int, place: int) -> Position:
        """Return the position to start at for a place from `bounds`."""
        return Position(input_index, place, anchor=place)

    def place(self, at: Position) -> int:
        """Return the place of a position, as `bounds` does."""
        return at.offset

    def counted_from(self, _start: int) -> str:
        """Return a note on how messages count in a span that begins at the place `start`; "" if as usual."""
        return ""

    def logical_bytes(self, n_bytes: int, _n_records: int) -> int:
        """Return the size of the logical content, of which the CRC is taken, after `n_bytes` of text."""
        return n_bytes

    # Only for formats that hold records:

    def fault(self, _check: Check) -> Fault | None:
        """Check that the input begins with a document; return what is wrong otherwise."""
        return None

    def first_records(self) -> list[object]:
        """Return the first records of the input, to look for text in other fields."""
        return []

    def conversion(
        self, _paths: Sequence[Location], _steps: Steps, *, is_number: bool, parts: str, is_piped: bool
    ) -> str:
        """Return the advice to convert inputs of this format, with the text at `steps`, to documents."""
        return ""


class Streamed(Reader):
    """Reads an input that is one run of bytes, perhaps compressed: text or lines."""

    __slots__ = ()

    @property
    def is_in_order(self) -> bool:
        """Whether the input can only be read from its beginning."""
        return self.form.compression != "none" or isinstance(self.location, Pipe)

    def blocks(self, start: Position, how: Reading) -> Blocks:
        """Open the input at `start`, and cut it."""
        form = self.form
        with open_input(self.location, size_bytes=self.size_bytes, check=how.check, end=how.end) as file:
            if self.is_in_order:
                stream = ByteStream(file, form.compression, make_room=how.make_room)
                read = Consumed(start.offset, start.records, start.crc, start.at_end, start)
                if change := self._change_in(stream, read, how.check):
                    raise CheckpointError(f"{self.location} {change}")
            else:
                stream = ByteStream(file, start=start.offset)
            for block in self.cut(file, stream, start, how):
                stored_bytes = 0 if form.compression == "none" else stream.stored_bytes
                block.start = start
                block.end = replace(block.end, crc=crc32(block.raw, start.crc), stored_bytes=stored_bytes)
                if block.end.at_end:
                    file.check_unchanged()  # an input that has grown must not be saved as read to its end
                yield block
                start = block.end
            if not start.at_end:
                file.check_unchanged()

    @abstractmethod
    def cut(self, file: InputFile, stream: ByteStream, start: Position, how: Reading) -> Iterator[Block]:
        """Yield blocks with their ends; `stream` reads `file` from `start` on."""

    @property
    @abstractmethod
    def finder(self) -> tuple[Find, int, int]:
        """A function that finds a place to start at, and how many bytes before and after it decide."""

    def stored_bytes(self, stream: ByteStream, n_bytes: int) -> int:
        """Return about how many bytes of the file hold the first `n_bytes`, which `stream` has read.

        The stream of a compressed file reads more for that.
        """
        if self.form.compression != "none" and not isinstance(self.location, Pipe):
            stream.read(MEASURED_BYTES)
        return max(1, stream.stored_bytes * n_bytes // max(1, stream.offset))

    def change(self, read: Consumed, check: Check) -> str:
        """Compare the bytes after decompression."""
        with open_input(self.location, check=check) as file:
            return self._change_in(ByteStream(file, self.form.compression), read, check)

    def _change_in(self, stream: ByteStream, read: Consumed, check: Check) -> str:
        """Return what `change` does, for an open stream; it is then at the end of what was read."""
        if stream.skip(read.n_bytes, check) != read.crc:
            return f"was changed within the {plural(read.n_bytes, 'byte')} already read"
        if read.is_all:
            n_bytes = plural(read.n_bytes, "byte")
            return f"ended after {n_bytes} when it was read, and has grown since" if stream.peek(1) else ""
        return "" if read.position is None else self.change_of_place(stream, read.position)

    def change_of_place(self, _stream: ByteStream, _at: Position) -> str:
        """Describe a change after `at`, to which `stream` was skipped, that means that it moved."""
        return ""

    def bounds(self, start: int, end: int, check: Check = go_on) -> tuple[int, int]:
        """Read no further than necessary, in steps of 64 KiB; call `check` before each."""
        if self.form.is_one_span:
            return start, end
        find, before, after = self.finder

        def search(file: InputFile, start: int, stop: int) -> int:
            """Find the first place in `[start, stop)`; return `stop` if there is none."""
            while start < stop:
                check()
                last = min(start + _STEP_BYTES, stop - 1)
                low = max(0, start - before)
                place = find(file.read(last + after - low, low), start - low, last - low)
                if place is not None:
                    return low + place
                start = last + 1
            return stop

        with open_input(self.location, size_bytes=self.size_bytes, check=check) as file:
            begin = search(file, start, end) if start > 0 else 0
            return begin, end if begin == end else search(file, end, file.size_bytes)
