"""Read CSV and TSV with a header, plain or compressed, in blocks of whole records."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from nanogpt_compat.errors import InputError
from nanogpt_compat.input.cells import (
    DELIMITERS,
    Header,
    Record,
    RecordEnds,
    all_cells,
    parse_header,
    parse_record,
)
from nanogpt_compat.input.columns import NoTextColumn, list_names
from nanogpt_compat.input.compressed import ByteStream
from nanogpt_compat.input.fieldpath import alternatives, find, in_words, name_of
from nanogpt_compat.input.location import Location
from nanogpt_compat.input.open import InputFile, open_input
from nanogpt_compat.input.reader import Check, Fault, Find, Reading
from nanogpt_compat.input.records import HEAD_BYTES, RecordStream, RunBlock
from nanogpt_compat.input.remote import read_ahead
from nanogpt_compat.input.repairs import BadRecord, Steps, convert_delimited
from nanogpt_compat.input.rows import fault_of_text
from nanogpt_compat.input.runs import Kind, place_of
from nanogpt_compat.input.samples import Excerpts, Sample, Share, shorten, trim
from nanogpt_compat.system.units import format_bytes, plural
from nanogpt_compat.text.blocks import Blocks, MakeRoom, Position, Records, has_room
from nanogpt_compat.text.utf8 import is_utf8
from nanogpt_compat.text.val_split import LOOK_AHEAD_BYTES

_N_SHOWN_RECORDS = 20
_MOST_TRIED = 256  # line ends in a window, which may be inside quotes
_TOO_LONG = (
    "Is the closing quote of one of its cells missing? Correct it, or remove it (--skip-bad-records does not "
    "skip it)"
)


@dataclass(frozen=True, slots=True)
class _Table:
    """The header of a table, and which column has the texts."""

    header: Header
    column: int
    name: str  # the column's name

    @property
    def delimiter(self) -> bytes:
        """The character between two cells."""
        return self.header.delimiter.encode()

    def fault_of(self, record: Record, *, may_be_invalid: bool = True) -> str:
        """Return why a record is not a document; "" if it is one, or a blank line."""
        n_columns = len(self.header.columns)
        if record.fault or not record.n_cells:
            return record.fault
        if record.n_cells != n_columns:
            return f"it has {plural(record.n_cells, 'cell')}, the header {n_columns:,}"
        return (fault_of_text(record.text or b"", self.name) or "") if may_be_invalid else ""

    def piece_of(self, data: bytes, share: Share) -> tuple[str, float]:
        """Return a piece of the text at the middle of `data`, weighted for one byte of the file.

        If the record there is not whole in `data`, or not found, it is a piece of the file as it is.
        """
        middle, first = len(data) // 2, 0
        for _ in range(_MOST_TRIED):
            first = data.find(b"\n", first, middle) + 1
            if not first:
                break
            # It may be inside quotes. It is not if all records after it have the right number of cells.
            start, is_sound = first, True
            at_middle = None
            while start < len(data) and is_sound:
                record = parse_record(data, start, self.delimiter, self.column)
                is_sound = record.end == len(data) or not self.fault_of(record)
                if start <= middle < record.end < len(data):
                    at_middle = record.text or b"", record.end - start
                start = record.end
            if is_sound and at_middle:
                text, weight = shorten(at_middle[0], share)
                return text, weight / at_middle[1]
            if is_sound:
                break
        piece = trim(1, data[middle : middle + share.piece_bytes]).data
        return piece.decode(errors="ignore"), 1 / max(1, len(piece))


@dataclass(slots=True)
class _Block(RunBlock):
    """A block of whole records; the first one of a file begins with the header."""

    noun = "record"
    reader: "Delimited" = field(kw_only=True)

    @property
    def _header_end(self) -> int:
        table = self.reader.table
        return 0 if self.start.offset or table is None else min(len(self.raw), table.header.end)

    def documents(self, *, skip_bad: bool, make_room: MakeRoom = has_room) -> Records:
        records, table = Records(), self.reader.table
        place, number = self._header_end, self.start.records + (1 if self._header_end else 0)
        are_utf8 = is_utf8(self.raw)
        while table is not None and place < len(self.raw):
            record = parse_record(self.raw, place, table.delimiter, table.column)
            number += 1
            reason = table.fault_of(record, may_be_invalid=not are_utf8)
            where = place_of("record", number, self.start.offset + place) if reason else ""
            place = record.end
            if reason and not skip_bad:
                error = BadRecord(where, reason, noun="record")
                raise error.of(self.reader.location, self.reader.form)
            if reason:
                records.add_bad(f"{where}: {reason}")
            elif record.text:
                records.texts.append(record.text)
            elif record.n_cells:
                records.n_empty += 1
        return records

    def each(self) -> Iterator[bytes]:
        table = self.reader.table
        delimiter = b"," if table is None else table.delimiter
        place = self._header_end
        if place:
            yield self.raw[:place]
        while place < len(self.raw):
            end = parse_record(self.raw, place, delimiter, 0).end
            yield self.raw[place:end]
            place = end


@dataclass(frozen=True, slots=True)
class Delimited(RecordStream):
    """Reads documents from a column of a CSV or TSV file.

    What is inside quotes is known only when reading from the beginning. So such a file is one span.
    """

    table: _Table | None = None  # known while it is read
    block_type = _Block
    window_bytes = 16 * 1024

    def _header(self, head: bytes) -> Header | None:
        """Parse the header; raise an InputError if the table cannot be read with it."""
        delimiters = ("\t",) if self.form.container == "tsv" else DELIMITERS
        header = parse_header(head, delimiters, wanted=alternatives(self.documents.text_field))
        if header is not None and header.end == len(head) >= LOOK_AHEAD_BYTES:
            raise InputError(
                f"{self.location} has no header: its first record has more than "
                f"{format_bytes(LOOK_AHEAD_BYTES)}; the first record must name the columns"
            )
        return header

    def _table(self, head: bytes) -> _Table | None:
        """Find the column of the texts in a file that begins with `head`; return None if it has no records.

        Raises:
            NoTextColumn: there is none.
            InputError: there are two.
        """
        header = self._header(head)
        if header is None or header.end == len(head):
            return None
        names = list_names(header.columns)
        found = find(self.documents.text_field, dict.fromkeys(header.columns, ""))
        if found is None:
            text_field = in_words(self.documents.text_field)
            raise NoTextColumn(f"{self.location} has no column {text_field} among its columns ({names})", [])
        name = name_of(found[0])
        if header.columns.count(name) > 1:
            raise InputError(
                f"{self.location} has two columns {name!r} among its columns ({names}); rename one of them"
            )
        return _Table(header, header.columns.index(name), name)

    def _open_table(self, check: Check) -> _Table | None:
        with open_input(self.location, size_bytes=self.size_bytes, check=check) as file:
            return self._table(ByteStream(file, self.form.compression).read(LOOK_AHEAD_BYTES))

    def blocks(self, start: Position, how: Reading) -> Blocks:
        reader = replace(self, table=self._open_table(how.check))
        return RecordStream.blocks(reader, start, how)

    def kind(self, start: Position) -> Kind:
        table = self.table
        n_skipped = table.header.start if table is not None and not start.offset else 0
        ends = RecordEnds(b"," if table is None else table.delimiter, n_skipped=n_skipped)
        return Kind("record", ends.find, _TOO_LONG)

    @property
    def finder(self) -> tuple[Find, int, int]:
        raise NotImplementedError  # a span is a whole file

    def fault(self, check: Check) -> Fault | None:
        """Look at the header, and at the first record."""
        with open_input(self.location, check=check) as file:
            head, is_all = self._read_head(file)
        try:
            table = self._table(head)
        except NoTextColumn as error:
            return Fault(self, error.found)
        if table is None:
            return None
        first = parse_record(head, table.header.end, table.delimiter, table.column)
        reason = table.fault_of(first)
        if self.documents.skip_bad or not reason or (first.end == len(head) and not is_all):
            return None
        bad = BadRecord(place_of("record", 2, table.header.end), reason, noun="record")
        return Fault(self, f"{self.location}: {bad.where}: {bad.reason}", bad.advice)

    def first_records(self) -> list[object]:
        with open_input(self.location) as file:
            head, _ = self._read_head(file)
        header = self._header(head)
        records = list[object]()
        start = len(head) if header is None else header.end
        while header is not None and start < len(head) and len(records) < _N_SHOWN_RECORDS:
            cells, start = all_cells(head, start, header.delimiter.encode())
            texts = [one.decode(errors="replace") for one in cells]
            records += [dict(zip(header.columns, texts, strict=False))]
        return records

    def _read_head(self, file: InputFile) -> tuple[bytes, bool]:
        """Return the first bytes, with at least a record after the header if it ends within a megabyte."""
        stream = ByteStream(file, self.form.compression)
        head = stream.read(HEAD_BYTES)
        if len(head) == HEAD_BYTES and b"\n" not in head:
            head += stream.read(LOOK_AHEAD_BYTES - len(head))
        return head, len(head) not in (HEAD_BYTES, LOOK_AHEAD_BYTES)

    def sample(self, file: InputFile, samples: list[Sample], share: Share, check: Check) -> Excerpts:
        reader = replace(self, table=self._open_table(check))
        return RecordStream.sample(reader, file, samples, share, check)

    def first_texts(self, head: bytes) -> tuple[list[bytes], int]:
        table, texts = self.table, list[bytes]()
        start = 0 if table is None else table.header.end
        while table is not None and start < len(head):
            record = parse_record(head, start, table.delimiter, table.column)
            is_cut = record.end == len(head) == HEAD_BYTES
            if is_cut and texts:
                break
            if is_cut:  # a long text: assume that it is all of the record
                texts.append(head[start:])
            elif record.text and not table.fault_of(record):
                texts.append(record.text)
            start = record.end
        return texts, max(1, start)

    def pieces_at(self, places: Sequence[int], file: InputFile, share: Share) -> list[tuple[str, float]]:
        windows = [(place, min(file.size_bytes, place + self.window_bytes)) for place in places]
        read_ahead(file, windows)
        table = self.table
        return [table.piece_of(file.read(b - a, a), share) for a, b in windows] if table is not None else []

    def conversion(
        self, paths: Sequence[Location], steps: Steps, *, is_number: bool, parts: str, is_piped: bool
    ) -> str:
        with open_input(self.location) as file:
            header = self._header(self._read_head(file)[0])
        text_field, *_ = alternatives(self.documents.text_field)
        delimiter = "," if header is None else header.delimiter
        return convert_delimited(paths, self.form, str(steps[0]), delimiter, text_field, is_piped=is_piped)
