"""Read JSON lines, plain or compressed, in blocks of whole lines."""

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO

from nanogpt_compat.input.compressed import ByteStream
from nanogpt_compat.input.fieldpath import alternatives, find, in_words, ways_to
from nanogpt_compat.input.jsonl import LINES, lines_of, parse_lines
from nanogpt_compat.input.location import Location
from nanogpt_compat.input.open import InputFile, open_input
from nanogpt_compat.input.pipes import Pipe
from nanogpt_compat.input.reader import Check, Fault, Find
from nanogpt_compat.input.records import HEAD_BYTES, RecordStream, RunBlock
from nanogpt_compat.input.remote import read_ahead
from nanogpt_compat.input.repairs import BadRecord, Steps, convert_lines, jq
from nanogpt_compat.input.runs import Kind, place_of
from nanogpt_compat.input.samples import Share, shorten, trim
from nanogpt_compat.input.strings import head_of_line
from nanogpt_compat.system.units import plural
from nanogpt_compat.text.blocks import MakeRoom, Position, Records, has_room
from nanogpt_compat.text.documents import MAX_RECORD_BYTES
from nanogpt_compat.text.val_split import LOOK_AHEAD_BYTES

_STEP_BYTES = 64 * 1024
_BROKEN_ESCAPE = re.compile(rb"\\(?:u[0-9a-fA-F]{0,3})?$")
_CLOSINGS = ('"}', '"}]}', '"]}', '"}}')  # to complete a record that is cut off within its text


@dataclass(slots=True)
class _Lines(RunBlock):
    """A block of whole lines."""

    noun = "line"
    reader: "JsonLines" = field(kw_only=True)

    def documents(self, *, skip_bad: bool, make_room: MakeRoom = has_room) -> Records:
        try:
            return parse_lines(
                self.raw,
                text_field=self.reader.documents.text_field,
                first_line=self.start.records + 1,
                offset=self.start.offset,
                skip_bad=skip_bad,
                make_room=make_room,
            )
        except BadRecord as error:
            raise error.of(self.reader.location, self.reader.form) from error

    def each(self) -> Iterator[bytes]:
        return iter(lines_of(self.raw))


class JsonLines(RecordStream):
    """Reads documents from the lines of a file."""

    __slots__ = ()
    block_type = _Lines
    window_bytes = 8 * 1024

    def kind(self, _start: Position) -> Kind:
        return LINES

    @property
    def finder(self) -> tuple[Find, int, int]:
        return (lambda data, start, end: data.find(b"\n", start - 1, end) + 1 or None), 1, 0

    def counted_from(self, start: int) -> str:
        return f" (lines are counted from byte {start:,}, where the span begins)" if start else ""

    def first_texts(self, head: bytes) -> tuple[list[bytes], int]:
        used = head if len(head) < HEAD_BYTES else head[: head.rfind(b"\n") + 1]
        if used:
            return self._texts_of(used), len(used)
        # Take the part of the text that is there, or else of the JSON.
        depth = max(len(way) for some in ways_to(self.documents.text_field) for way in some)
        texts = self._texts_of(head_of_line(head, depth))
        return texts or [_piece_of_string(head).encode()], len(head)

    def pieces_at(self, places: Sequence[int], file: InputFile, share: Share) -> list[tuple[str, float]]:
        read_ahead(file, [_window(place, self.window_bytes, file.size_bytes) for place in places])
        pieces = []
        for place in places:
            # From a line that is longer than all of these, a piece is taken without parsing it.
            for n_bytes in (self.window_bytes, 4 * self.window_bytes, 16 * self.window_bytes):
                start, end = _window(place, n_bytes, file.size_bytes)
                data, at = file.read(end - start, start), place - start
                first, last = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at) + 1
                if (first or not start) and (last or end == file.size_bytes):
                    line = data[first : last or len(data)]
                    shortened = [shorten(text, share) for text in self._texts_of(line, offset=1)]
                    pieces += [(text, weight / len(line)) for text, weight in shortened]
                    break
            else:
                piece = data[max(0, at - share.piece_bytes) : at + share.piece_bytes]
                pieces.append((_piece_of_string(piece), 1 / len(piece)))
        return pieces

    def _texts_of(self, lines: bytes, offset: int = 0) -> list[bytes]:
        return parse_lines(lines, text_field=self.documents.text_field, skip_bad=True, offset=offset).texts

    def fault(self, check: Check) -> Fault | None:
        """Read the first record; skip bad ones if the run does.

        If bad records are skipped and no record of the first megabyte has the field, that is a fault.
        """
        try:
            with open_input(self.location, check=check) as file:
                found = self._look_at(ByteStream(file, self.form.compression))
                return Fault(self, f"{self.location}: {found}") if found else None
        except BadRecord as error:
            found = f"{self.location}: {error.where}: {error.reason}"
            return Fault(self, found, error.advice, error.repair)

    def _look_at(self, stream: ByteStream) -> str:
        """Return what is wrong with the beginning; "" if nothing is, or it cannot be known yet.

        Raise BadRecord if the first record is bad, and bad records are not skipped.
        """
        text_field, skip_bad = self.documents.text_field, self.documents.skip_bad
        head = lines = b""
        for n_bytes in (_STEP_BYTES, LOOK_AHEAD_BYTES):
            head += stream.read(n_bytes - len(head))
            is_all = len(head) < n_bytes
            lines = head if is_all else head[: head.rfind(b"\n") + 1]
            offset = 0
            for number, line in enumerate(BytesIO(lines), 1):
                found = parse_lines(
                    line, text_field=text_field, first_line=number, offset=offset, skip_bad=skip_bad
                )
                if found.texts or found.n_empty:  # a document, which may be empty
                    return ""
                offset += len(line)
            if is_all:  # if the whole input has no document, the end of the run reports it
                return ""
        if not skip_bad:
            is_pipe = isinstance(self.location, Pipe)
            return "" if is_pipe else _look_along_line(stream, head, lines, text_field)
        values = _values_of(lines)
        if not values or any(not isinstance(one, dict) or find(text_field, one) for one in values):
            return ""
        (first, *_) = parse_lines(lines, text_field=text_field, skip_bad=True).bad
        return f"none of its first {plural(len(values), 'record')} has the field; {first}"

    def first_records(self) -> list[object]:
        with open_input(self.location) as file:
            stream = ByteStream(file, self.form.compression)
            head = stream.read(_STEP_BYTES)
            if b"\n" not in head.strip():
                head += stream.read(LOOK_AHEAD_BYTES - len(head))
            whole = head[: head.rfind(b"\n") + 1]
            return _values_of(whole if whole.strip() else head)

    def conversion(
        self, paths: Sequence[Location], steps: Steps, *, is_number: bool, parts: str, is_piped: bool
    ) -> str:
        text_field, *_ = alternatives(self.documents.text_field)
        command = jq(steps, text_field=text_field, is_number=is_number, parts=parts)
        return convert_lines(paths, self.form, command, is_piped=is_piped)


def _window(place: int, n_bytes: int, size_bytes: int) -> tuple[int, int]:
    return max(0, place - n_bytes // 2), min(size_bytes, place + n_bytes // 2)


def _piece_of_string(data: bytes) -> str:
    """Decode a piece of a JSON string, cut at any two places."""
    data = data[data.find(b" ") + 1 :] or data  # an escape before the first space may be incomplete
    data = _BROKEN_ESCAPE.sub(b"", data)
    text = trim(1, data).data.decode(errors="ignore")
    try:
        return str(json.loads(f'"{text}"', strict=False))
    except ValueError:  # the piece contains the end of the string
        return text


def _look_along_line(stream: ByteStream, head: bytes, blank: bytes, text_field: str) -> str:
    """Search a first record of more than a megabyte for the field's name, without holding it in memory."""
    part = head[len(blank) :]
    if not part.lstrip().startswith(b"{") or not text_field.isascii():
        return ""
    ways = [{json.dumps(name).encode() for name in way} for some in ways_to(text_field) for way in some]
    missing = set[bytes]().union(*ways)
    n_kept = max(map(len, missing))
    n_bytes = 0
    while part and n_bytes < MAX_RECORD_BYTES:
        part, line_end, _ = part.partition(b"\n")
        missing = {name for name in missing if name not in part}
        if not all(way & missing for way in ways):
            return ""
        if line_end:
            break
        n_bytes += len(part)
        rest = stream.read(_STEP_BYTES)
        part = part[-n_kept:] + rest if rest else b""
    where = place_of("line", blank.count(b"\n") + 1, len(blank))
    return f"{where}: no field {in_words(text_field)} in this record"


def _values_of(lines: bytes) -> list[object]:
    """Parse the lines that are JSON; if none is, parse the beginning of the first."""
    values = []
    for line in BytesIO(lines.removeprefix(BOM_UTF8)):
        with suppress(ValueError, RecursionError):
            values.append(json.loads(line, parse_int=float))
    head = lines.decode(errors="ignore")
    for closing in _CLOSINGS if not values else ():
        with suppress(ValueError, RecursionError):
            return [json.loads(head.rstrip("\\") + closing, parse_int=float)]
    return values
