"""Tell whether an input is still what it was: what was read of it, and the place where reading stopped.

What was read is compared by a CRC-32 of its logical content: the bytes of text and JSON lines after
decompression; of a table each row's length, -1 for null, and its text. The place is decided again from the
bytes around it as they are now: it must still be an exact cut, the end of a record or of a document. A place
at the end of the input holds only if the input still ends there.
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
from nanogpt_compat.input.text import Window, is_same_cut, lenient
from nanogpt_compat.system.units import plural
from nanogpt_compat.text.blocks import Position
from nanogpt_compat.text.documents import Documents

_AHEAD_BYTES = 4096  # a cut is decided by a few bytes after it
_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Consumed:
    """What a run has read of an input."""

    n_bytes: int  # of text
    n_records: int
    crc: int  # of the logical content
    is_all: bool  # the input ended there
    position: Position | None = None  # where reading is to resume; None where it is not


def find_change(
    path: Location,
    form: Format,
    read: Consumed,
    *,
    documents: Documents | None,
    errors: str,
    check: Callable[[], None],
) -> str:
    """Return in words how an input has changed so that what was read of it does not count; "" if it has not.

    Reads the input again as far as it was read, and calls `check` often; what that raises ends it.

    Raises:
        InputError: it cannot be read.
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
    """Do the same for the place that a stream of text has been skipped to.

    Raises:
        InputError: it cannot be read.
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
    return f"was changed just after the {at.offset:,} bytes already read, so that it cannot be cut there now"


class _Around:
    """The bytes around the place that a stream has come to, as a window takes them."""

    def __init__(self, stream: ByteStream) -> None:
        ahead = stream.peek(_AHEAD_BYTES)
        self.start = stream.offset - len(stream.behind)
        self.size_bytes = UNKNOWN
        self._data = stream.behind + ahead

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
            return f"ended after {plural(n_rows, 'row')}, which were read, and has more now"
    return ""
