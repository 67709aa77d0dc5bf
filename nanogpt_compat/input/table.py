"""The reader of a column of texts, for any format of tables: blocks of rows of one row group."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import ClassVar

from nanogpt_compat.input.columns import Column, NoTextColumn
from nanogpt_compat.input.fieldpath import alternatives
from nanogpt_compat.input.location import Location, Url
from nanogpt_compat.input.open import InputFile, open_input
from nanogpt_compat.input.reader import Check, Consumed, Fault, Reader, Reading, go_on
from nanogpt_compat.input.repairs import BadRecord, Steps, convert_table
from nanogpt_compat.input.rows import LENGTH_BYTES, RowGroup, Rows, crc_of_rows, parse_rows, place_of_row
from nanogpt_compat.input.samples import N_PLACES, Excerpts, Sample, Share, shorten, spread
from nanogpt_compat.system.units import plural
from nanogpt_compat.text.blocks import Blocks, MakeRoom, Need, Position, RecordBlock, Records, has_room

_CHUNK_BYTES = 1024 * 1024
_N_ROW_GROUPS = 32
_N_REMOTE_ROW_GROUPS = 8
_ROW_BYTES = 32 * 1024 * 1024  # text, read at 370 to 490 MB/s
_REMOTE_ROW_BYTES = 4 * 1024 * 1024
_RUN_BYTES = 128 * 1024
_PROSE = b"What is in a text that is not looked at is taken to be much like this sentence here. "


class Table(Reader):
    """Reads documents from a column of a table. Its places are rows; a span begins with a row group."""

    __slots__ = ()
    # For pyarrow, which takes 30 MB with row groups of 4 MB. Without it, cached words were dropped too early.
    memory_bytes = 64 << 20

    column_type: ClassVar[type[Column]]

    def _open(self, check: Check = go_on, *, size_bytes: int | None = None) -> Column:
        """Open the column; raise NoTextColumn if there is none of texts."""
        stored = open_input(self.location, size_bytes=size_bytes, check=check)
        return self.column_type(stored, text_field=self.documents.text_field)

    def blocks(self, start: Position, how: Reading) -> Blocks:
        with self._open(how.check, size_bytes=self.size_bytes) as column:
            is_reading = False
            groups = (one for one in column.row_groups if one.n_rows)
            for group, following in pairwise(chain(groups, [None])):
                assert group is not None
                how.check()
                if group.first_row == how.end:
                    break
                if start.records >= group.end_row:
                    continue
                if not is_reading:
                    column.read_ahead(group)
                    is_reading = True
                runs = column.read_rows(
                    group, block_bytes=how.block_bytes, first_row=start.records, make_room=how.make_room
                )
                for raw, rows in runs:
                    end_row = rows.first_row + len(rows.lengths)
                    at_end = following is None and end_row == group.end_row
                    stored_bytes = column.size_bytes if at_end else group.bytes_before(end_row)
                    crc = crc_of_rows(raw, rows.lengths, start.crc)
                    end = start.after(
                        len(raw), len(rows.lengths), at_end=at_end, stored_bytes=stored_bytes, crc=crc
                    )
                    block = _Rows(raw, start, end, is_val=False, rows=rows, reader=self)
                    del raw  # only the block must hold it
                    if at_end:
                        column.check_unchanged()
                    yield block
                    start = block.end
            if not start.at_end:
                column.check_unchanged()

    def position(self, input_index: int, place: int) -> Position:
        return Position(input_index, records=place)

    def place(self, at: Position) -> int:
        return at.records

    def logical_bytes(self, n_bytes: int, n_records: int) -> int:
        return n_bytes + LENGTH_BYTES * n_records

    def bounds(self, start: int, end: int, check: Check = go_on) -> tuple[int, int]:
        """Count the rows before the first row group at or after each byte.

        Row groups are read in the order of the footer, which may differ from their order in the file.
        """
        n_rows = [0, 0]
        with self._open(check, size_bytes=self.size_bytes) as column:
            for k, offset in enumerate((start, end)):
                for group in column.row_groups:
                    check()
                    if group.start >= offset and offset < column.size_bytes:
                        break
                    n_rows[k] += group.n_rows
        return n_rows[0], n_rows[1]

    def change(self, read: Consumed, check: Check) -> str:
        """Compare each row's length (-1 for null) and its text."""
        crc = n_rows = 0
        has_more = False
        with self._open(check) as column:
            for group in (one for one in column.row_groups if one.n_rows):
                check()
                has_more = group.end_row > read.n_records
                if n_rows == read.n_records:
                    break
                if not n_rows:
                    column.read_ahead(group)
                for raw, rows in column.read_rows(group, block_bytes=_CHUNK_BYTES):
                    check()
                    lengths = rows.lengths[: read.n_records - n_rows]
                    crc = crc_of_rows(raw[: int(lengths.clip(0).sum())], lengths, crc)
                    n_rows += len(lengths)
                    if n_rows == read.n_records:
                        break
                if has_more:
                    break
            if n_rows < read.n_records or crc != read.crc:
                return f"was changed within the {plural(read.n_records, 'row')} already read"
            if read.is_all and has_more:
                return f"ended after {plural(n_rows, 'row')} when it was read, and has grown since"
        return ""

    def sample(self, _file: InputFile, _samples: list[Sample], share: Share, check: Check) -> Excerpts:
        """Take the rows at bytes spread over the text, from row groups spread over the file.

        Only the first rows of a large row group are read, since all rows before a row must be decoded. A row
        group that begins with a large page is not read, and assumed to hold English prose.
        """
        texts: list[str] = []
        weights: list[float] = []
        n_taken = 0
        is_remote = isinstance(self.location, Url)
        with self._open(check) as column:
            groups = [group for group in column.row_groups if group.text_bytes]
            n_groups = min(len(groups), share.of(_N_REMOTE_ROW_GROUPS if is_remote else _N_ROW_GROUPS))
            most_bytes = share.of(_REMOTE_ROW_BYTES if is_remote else _ROW_BYTES) // max(1, n_groups)
            for k in spread(n_groups, len(groups)):
                found = _texts_of(column, groups[k], share.of(N_PLACES) // n_groups + 1, most_bytes)
                pieces = [shorten(text, share) for text in found]
                texts += [text + self.mark for text, _ in pieces]
                weights += [
                    weight / len(text) * groups[k].text_bytes / len(found)
                    for (_, weight), text in zip(pieces, found, strict=True)
                ]
                n_taken += groups[k].text_bytes
            text_bytes = sum(group.text_bytes for group in groups)
            n_bytes = column.size_bytes * n_taken / max(1, text_bytes)
        return Excerpts(texts, weights, max(1.0, n_bytes), text_bytes)

    def fault(self, check: Check) -> Fault | None:
        """Look at the schema."""
        try:
            with self._open(check):
                return None
        except NoTextColumn as error:
            return Fault(self, error.found)

    def first_records(self) -> list[object]:
        try:
            with self._open() as column:
                return column.first_rows()
        except NoTextColumn as error:
            return error.rows

    def conversion(
        self, paths: Sequence[Location], steps: Steps, *, is_number: bool, parts: str, is_piped: bool
    ) -> str:
        text_field, *_ = alternatives(self.documents.text_field)
        return convert_table(
            paths,
            steps,
            container=self.form.container,
            text_field=text_field,
            is_number=is_number,
            is_piped=is_piped,
        )


@dataclass(slots=True)
class _Rows(RecordBlock):
    """A block of rows of one row group, whose texts are concatenated."""

    rows: Rows = field(kw_only=True)
    reader: Table = field(kw_only=True)

    @property
    def where(self) -> str:
        """Rows: a text in a table has no byte position in the file."""
        return f"rows {self.start.records:,} to {self.end.records:,} (counted from 0)"

    @property
    def place(self) -> str:
        return place_of_row(self.rows.first_row, self.rows.group)

    def documents(self, *, skip_bad: bool, make_room: MakeRoom = has_room) -> Records:
        try:
            return parse_rows(self.raw, self.rows, skip_bad=skip_bad)
        except BadRecord as error:
            raise error.of(self.reader.location, self.reader.form) from error

    def singles(self) -> Iterator[RecordBlock]:
        start, at = self.start, 0
        for k, length in enumerate(self.rows.lengths.tolist()):
            raw = self.raw[at : at + max(0, length)]
            rows = replace(self.rows, first_row=self.rows.first_row + k, lengths=self.rows.lengths[k : k + 1])
            at_end = self.end.at_end and k == len(self.rows.lengths) - 1
            end = start.after(len(raw), 1, stored_bytes=self.end.stored_bytes, at_end=at_end)
            yield replace(self, raw=raw, start=start, end=end, rows=rows)
            start, at = end, at + len(raw)

    def up_to(self, end: Position) -> RecordBlock:
        raw = self.raw[: end.offset - self.start.offset]
        rows = replace(self.rows, lengths=self.rows.lengths[: end.records - self.start.records])
        end = replace(end, crc=crc_of_rows(raw, rows.lengths, self.start.crc))
        return replace(self, raw=raw, end=end, rows=rows)

    def count_as_bad(self, error: Exception, *, skip_bad: bool) -> Records:
        if not skip_bad:
            raise BadRecord(f"{self.reader.location}: {self.place}", str(error), noun="row") from error
        # Does not depend on the file's row groups.
        return Records(n_bad=1, bad=[f"row {self.rows.first_row:,}: {error}"])


def _texts_of(column: Column, group: RowGroup, n_places: int, most_bytes: int) -> list[bytes]:
    """Return the texts at places spread over the first `most_bytes` of text in a row group."""
    found: list[bytes] = []
    n_bytes, step_bytes = 0, min(group.text_bytes, most_bytes) // n_places + 1
    is_local = isinstance(column.path, Path)  # on a server, the sizes of the pages are not known beforehand
    runs = column.read_rows(
        group, block_bytes=min(_RUN_BYTES, most_bytes), make_room=_have_none if is_local else has_room
    )
    try:
        for raw, rows in runs:
            ends = rows.lengths.clip(0).cumsum()
            for place in range(-n_bytes % step_bytes, len(raw), step_bytes):
                k = int(ends.searchsorted(place, side="right"))
                found.append(raw[ends[k] - rows.lengths[k] : ends[k]])
            n_bytes += len(raw)
            if n_bytes >= most_bytes:
                break
    except _TooLarge:
        found = found or [_PROSE]
    return found


class _TooLarge(Exception):
    """The next page would take more memory than a forecast is worth."""


def _have_none(_n_bytes: int, _need: Callable[[], Need]) -> None:
    raise _TooLarge
