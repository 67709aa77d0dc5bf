"""Sample short pieces of an input for the forecast, from many places: languages come in long stretches.

Each piece has a weight, so that the forecast is right on average for documents of any length. From JSON
lines, the record at a given byte is taken. That takes long records more often than short ones, so each counts
by its tokens per byte. Places are spread by a low-discrepancy sequence: it does not align with patterns in
the input, and depends only on the input's size.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

from nanogpt_compat.input.compressed import MEASURED_BYTES, ByteStream
from nanogpt_compat.input.jsonl import parse_lines
from nanogpt_compat.input.local import InputFile
from nanogpt_compat.input.location import Format, Location, Url
from nanogpt_compat.input.open import open_input
from nanogpt_compat.input.pipes import UNKNOWN, Pipe
from nanogpt_compat.input.records import open_column
from nanogpt_compat.input.remote import read_ahead
from nanogpt_compat.input.samples import Sample, trim
from nanogpt_compat.input.strings import head_of_line
from nanogpt_compat.input.tables import RowGroup, TextColumn
from nanogpt_compat.text.blocks import Need, has_room
from nanogpt_compat.text.cutting import Readable

# Over all inputs. With two in three languages different, the forecast is within 3 % two times in three.
_N_PLACES = 256
_N_REMOTE_PLACES = 64  # each is a request
_N_ROW_GROUPS = 32
_N_REMOTE_ROW_GROUPS = 8
_ROW_BYTES = 32 * 1024 * 1024  # of text, read at 370 to 490 MB/s
_REMOTE_ROW_BYTES = 4 * 1024 * 1024
_RUN_BYTES = 128 * 1024
_N_EACH = 4  # at least, from each input, unless there are too many
_MANY_INPUTS = 256
_PIECE_BYTES = 2048
_MIN_PIECE_BYTES = 512
_LINE_BYTES = 8 * 1024  # read around a place, at first
_MOST_LINE_BYTES = 128 * 1024  # from a longer line, a piece is taken without parsing the record
_HEAD_BYTES = 256 * 1024
_GOLDEN = (sqrt(5) - 1) / 2
_PROSE = b"What is in a text that is not looked at is taken to be much like this sentence here. "
_BROKEN_ESCAPE = re.compile(rb"\\(?:u[0-9a-fA-F]{0,3})?$")


@dataclass(frozen=True, slots=True)
class Excerpts:
    """Pieces of an input: `n_bytes` of the file have about sum(weights[k] * tokens of texts[k]) tokens."""

    texts: list[str]
    weights: list[float]
    n_bytes: float


@dataclass(frozen=True, slots=True)
class Share:
    """The share of one input in all inputs, which decides how many pieces are taken from it."""

    n_inputs: int
    n_bytes: int  # of this one
    total_bytes: int

    def of(self, n_places: int) -> int:
        """Return how many of `n_places`, shared by all inputs, this one gets."""
        n_each = _N_EACH if self.n_inputs <= _MANY_INPUTS else 1
        return max(n_each, n_places * self.n_bytes // max(1, self.total_bytes))

    @property
    def piece_bytes(self) -> int:
        """The size of a piece: smaller with hundreds of inputs, so that the total stays small."""
        return max(_MIN_PIECE_BYTES, min(_PIECE_BYTES, _MANY_INPUTS * _PIECE_BYTES // self.n_inputs))


def spread(n_places: int, n_bytes: int) -> list[int]:
    """Spread places over `[0, n_bytes)`, one in each of `n_places` equal parts.

    >>> spread(4, 100)
    [0, 40, 55, 96]
    """
    return [int((k + k * _GOLDEN % 1) * n_bytes / n_places) for k in range(n_places)]


def take_text(file: Readable, share: Share) -> list[Sample]:
    """Take pieces of a text of known size, or all of a short text."""
    n_places, piece_bytes = share.of(_N_PLACES), share.piece_bytes
    if file.size_bytes <= n_places * piece_bytes:
        places = list(range(0, file.size_bytes, piece_bytes))
    else:
        places = spread(n_places, file.size_bytes - piece_bytes)
    return [trim(place, file.read(piece_bytes, place)) for place in places]


def take_records(path: Location, form: Format, *, text_field: str, share: Share) -> Excerpts:
    """Take pieces of the documents in JSON lines or parquet.

    Raises:
        InputError: the input cannot be read, or its beginning is damaged.
    """
    if form.container == "parquet":
        return _take_rows(path, text_field, share)
    with open_input(path) as file:
        is_known = form.compression == "none" and not isinstance(path, Pipe) and file.size_bytes != UNKNOWN
        return _take_lines(file, text_field, share) if is_known else _take_head(file, form, text_field, share)


def _take_head(file: InputFile, form: Format, text_field: str, share: Share) -> Excerpts:
    """Take the first records, from an input that can only be read in order."""
    stream = ByteStream(file, form.compression)
    head = stream.read(_HEAD_BYTES)
    used = head if len(head) < _HEAD_BYTES else head[: head.rfind(b"\n") + 1]
    # From a line longer than the head, take the part of its text that is there, or else of its JSON.
    texts = parse_lines(used or head_of_line(head), text_field=text_field, skip_bad=True).texts
    if not used:
        used, texts = head, texts or [_piece_of_string(head).encode()]
    if form.compression != "none" and not isinstance(file.path, Pipe):
        stream.read(MEASURED_BYTES)
    pieces = [_shorten(text, share) for text in texts]
    n_bytes = stream.stored_bytes * len(used) // max(1, stream.offset)
    return Excerpts([text for text, _ in pieces], [weight for _, weight in pieces], max(1, n_bytes))


def _take_lines(file: InputFile, text_field: str, share: Share) -> Excerpts:
    """Take the records at places spread over the file; each represents one byte."""
    n_places = share.of(_N_REMOTE_PLACES if isinstance(file.path, Url) else _N_PLACES)
    if file.size_bytes <= n_places * _LINE_BYTES // 8:
        return _take_head(file, Format("jsonl"), text_field, share)
    places = spread(n_places, file.size_bytes)
    windows = [_window(place, _LINE_BYTES, file.size_bytes) for place in places]
    read_ahead(file, windows)
    texts, weights = [], []
    for place, (start, end) in zip(places, windows, strict=True):
        data = file.read(end - start, start)
        line = _line_at(file, place, start, data)
        if line is None:
            piece = data[max(0, place - start - share.piece_bytes) : place - start + share.piece_bytes]
            texts.append(_piece_of_string(piece))
            weights.append(1 / len(piece))
            continue
        for found in parse_lines(line, text_field=text_field, skip_bad=True, offset=1).texts:
            text, weight = _shorten(found, share)
            texts.append(text)
            weights.append(weight / len(line))
    return Excerpts(texts, weights, n_places)


def _window(place: int, n_bytes: int, size_bytes: int) -> tuple[int, int]:
    return max(0, place - n_bytes // 2), min(size_bytes, place + n_bytes // 2)


def _line_at(file: InputFile, place: int, start: int, data: bytes) -> bytes | None:
    """Return the line that contains the byte at `place`, with its line end; None if it is very long.

    `data` is the part of the file around the place, beginning at `start`.
    """
    n_bytes = _LINE_BYTES
    while True:
        first = data.rfind(b"\n", 0, place - start) + 1
        last = data.find(b"\n", place - start) + 1
        if (first or not start) and (last or start + len(data) == file.size_bytes):
            return data[first : last or len(data)]
        n_bytes *= 4
        if n_bytes > _MOST_LINE_BYTES:
            return None
        start, end = _window(place, n_bytes, file.size_bytes)
        data = file.read(end - start, start)


def _piece_of_string(data: bytes) -> str:
    """Decode a piece of a JSON string, cut at any two places."""
    data = data[data.find(b" ") + 1 :] or data  # an escape before the first space may be incomplete
    data = _BROKEN_ESCAPE.sub(b"", data)
    text = trim(1, data).data.decode(errors="ignore")
    try:
        return str(json.loads(f'"{text}"', strict=False))
    except ValueError:  # the piece contains the end of the string
        return text


def _shorten(text: bytes, share: Share) -> tuple[str, float]:
    """Return the beginning of a document, and the length of the document as a multiple of that."""
    kept = text[: 2 * share.piece_bytes]
    return kept.decode(errors="ignore"), len(text) / max(1, len(kept))


def _take_rows(path: Location, text_field: str, share: Share) -> Excerpts:
    """Take the rows at bytes spread over the text, from row groups spread over the file.

    Only the first rows of a large row group are read, since all rows before a row must be decoded. A row
    group that begins with a large page is not read, and assumed to hold English prose.
    """
    texts: list[str] = []
    weights: list[float] = []
    n_taken = 0
    is_remote = isinstance(path, Url)
    with open_column(path, text_field) as column:
        groups = [group for group in column.row_groups if group.text_bytes]
        n_groups = min(len(groups), share.of(_N_REMOTE_ROW_GROUPS if is_remote else _N_ROW_GROUPS))
        most_bytes = share.of(_REMOTE_ROW_BYTES if is_remote else _ROW_BYTES) // max(1, n_groups)
        for k in spread(n_groups, len(groups)):
            found = _rows_of(column, groups[k], share.of(_N_PLACES) // n_groups + 1, most_bytes)
            pieces = [_shorten(text, share) for text in found]
            texts += [text for text, _ in pieces]
            weights += [
                weight / len(text) * groups[k].text_bytes / len(found)
                for (_, weight), text in zip(pieces, found, strict=True)
            ]
            n_taken += groups[k].text_bytes
        n_bytes = column.size_bytes * n_taken / max(1, sum(group.text_bytes for group in groups))
    return Excerpts(texts, weights, max(1.0, n_bytes))


def _rows_of(column: TextColumn, group: RowGroup, n_places: int, most_bytes: int) -> list[bytes]:
    """Return the texts at places spread over the first `most_bytes` of text in a row group."""
    found: list[bytes] = []
    n_bytes, step_bytes = 0, min(group.text_bytes, most_bytes) // n_places + 1
    is_local = isinstance(column.path, Path)  # on a server, the sizes of the pages are not known beforehand
    runs = column.read_rows(
        group.index,
        block_bytes=min(_RUN_BYTES, most_bytes),
        make_room=_have_none if is_local else has_room,
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
