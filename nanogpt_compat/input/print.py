"""Check that an input has not changed: neither what was read of it, nor the place where reading stopped.

What was read is compared by the CRC-32 of its logical content: for text and JSON lines, the bytes after
decompression; for a table, each row's length (-1 for null) and its text. The place is checked against the
bytes that are around it now: it must still be an exact cut, or the end of a record or document. If the place
was the end of the input, the input must still end there.
"""

from collections.abc import Callable
from dataclasses import dataclass

from nanogpt_compat.input.compressed import ByteStream, skip_consumed
from nanogpt_compat.input.location import Format, Location
from nanogpt_compat.input.open import open_input
from nanogpt_compat.input.pipes import UNKNOWN
from nanogpt_compat.input.records import open_column
from nanogpt_compat.input.separated import is_same_place
from nanogpt_compat.input.tables import crc_of_rows
from nanogpt_compat.system.units import plural
from nanogpt_compat.text.blocks import Position
from nanogpt_compat.text.cutting import Window, is_same_cut
from nanogpt_compat.text.decoding import lenient
from nanogpt_compat.text.documents import Documents

_AHEAD_BYTES = 4096  # more than enough: a cut depends on only a few bytes after it
_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Consumed:
    """How much of an input a run has read."""

    n_bytes: int  # of text
    n_records: int
    crc: int  # of the logical content
    is_all: bool  # the input ended there
    position: Position | None = None  # where reading resumes; None if it does not


def find_change(
    path: Location,
    form: Format,
    read: Consumed,
    *,
    documents: Documents | None,
    errors: str,
    check: Callable[[], None],
) -> str:
    """Return in words which change of an input makes what was read of it invalid; "" if there is none.

    Reads the input again as far as it was read. `check` is called often, and stops that if it raises.

    Raises:
        InputError: the input cannot be read.
    """
    if form.container == "parquet":
        text_field = "text" if documents is None else documents.text_field
        return _change_of_rows(path, read, text_field, check)
    with open_input(path, check=check) as file:
        stream = ByteStream(file, form.compression)
        change = skip_consumed(stream, read.n_bytes, read.crc, is_all=read.is_all, check=check)
        if change or read.is_all or read.position is None or form.container != "text":
            return change
        return change_of_place(stream, read.position, documents, errors)


def change_of_place(stream: ByteStream, at: Position, documents: Documents | None, errors: str) -> str:
    """Return in words if a change after `at` means that reading can no longer stop there; "" otherwise.

    `stream`, of text, has been skipped to `at`.
    """
    if at.offset == 0 or at.at_end:
        return ""
    file = _Around(stream)
    if documents is None:
        holds = is_same_cut(Window(file, file.start, _AHEAD_BYTES), at)
    else:
        holds = is_same_place(file, file.start, at, documents.separator or "", lenient(errors))
    if holds:
        return ""
    return f"was changed just after the {at.offset:,} bytes already read, so it can no longer be cut there"


class _Around:
    """The bytes before and after the place that a stream has reached, for a `Window` to read."""

    def __init__(self, stream: ByteStream) -> None:
        ahead = stream.peek(_AHEAD_BYTES)
        self.start = stream.offset - len(stream.skipped_tail)
        self.size_bytes = UNKNOWN
        self._data = stream.skipped_tail + ahead

    def read(self, n_bytes: int, offset: int) -> bytes:
        data = self._data[offset - self.start : offset - self.start + n_bytes]
        if len(data) < n_bytes:
            self.size_bytes = self.start + len(self._data)
        return data

    def drop_before(self, offset: int) -> None:
        """Do nothing: the bytes are in memory."""


def _change_of_rows(path: Location, read: Consumed, text_field: str, check: Callable[[], None]) -> str:
    crc = n_rows = 0
    with open_column(path, text_field, check) as column:
        column.read_ahead(0)
        for group in column.row_groups:
            if n_rows == read.n_records:
                break
            for raw, rows in column.read_rows(group.index, block_bytes=_CHUNK_BYTES):
                check()
                lengths = rows.lengths[: read.n_records - n_rows]
                crc = crc_of_rows(raw[: int(lengths.clip(0).sum())], lengths, crc)
                n_rows += len(lengths)
                if n_rows == read.n_records:
                    break
        if n_rows < read.n_records or crc != read.crc:
            return f"was changed within the {plural(read.n_records, 'row')} already read"
        if read.is_all and column.n_rows > n_rows:
            return f"ended after {plural(n_rows, 'row')} when it was read, and has grown since"
    return ""
