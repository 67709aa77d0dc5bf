"""Read documents that stand one by one in a file, in blocks: JSON lines, and rows of parquet."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from nanogpt_compat.blocks import Block, Position, Records
from nanogpt_compat.config import Format, Location
from nanogpt_compat.documents import Documents
from nanogpt_compat.errors import CheckpointError
from nanogpt_compat.sources.compressed import ByteStream
from nanogpt_compat.sources.jsonl import MAX_LINE_BYTES, parse_lines, read_lines
from nanogpt_compat.sources.opened import open_input
from nanogpt_compat.sources.parquet import Rows, TextColumn
from nanogpt_compat.sources.text import InputFile
from nanogpt_compat.units import format_bytes

MAX_ROW_GROUP_BYTES = 4 << 30  # it is read page by page; this is no file that people have
_SAMPLE_BYTES = 256 * 1024
_MOST_TEXT_BYTES = 32 * 1024
_MEASURED_BYTES = 4 * 1024 * 1024
_N_SAMPLED_GROUPS = 8
_CHUNK_BYTES = 1024 * 1024


def read_records(
    path: Location,
    form: Format,
    *,
    size_bytes: int,
    start: Position,
    block_bytes: int,
    documents: Documents,
    check: Callable[[], None],
) -> Iterator[Block]:
    """Yield an input from `start` on in blocks of about `block_bytes` of whole records.

    `size_bytes` is what the file had when the run began. `check` is called often while what lies before
    `start` is read through; what it raises ends it.

    Raises:
        InputError: it is damaged, or changes while it is read; a record is too long, or bad and not to be
            skipped.
        CheckpointError: what was read before `start` is not what it was.
    """
    if form.container == "parquet":
        yield from _read_parquet(path, size_bytes, start, block_bytes, documents, check)
        return
    with open_input(path, size_bytes=size_bytes, check=check) as file:
        yield from _read_jsonl(file, form, start, block_bytes, documents, check)
        file.check_unchanged()


def _read_jsonl(
    file: InputFile,
    form: Format,
    start: Position,
    block_bytes: int,
    documents: Documents,
    check: Callable[[], None],
) -> Iterator[Block]:
    is_plain = form.compression == "none"
    stream = ByteStream(file, form.compression, start=start.offset if is_plain else 0)
    if not is_plain and stream.skip(start.offset, check) != start.crc:
        raise CheckpointError(
            f"{file.path} has another text in the {format_bytes(start.offset)} that an earlier run read; "
            "--restart begins anew"
        )
    lines = read_lines(
        stream.read,
        path=file.path,
        block_bytes=block_bytes,
        first_line=start.records + 1,
        offset=start.offset,
    )
    for one in lines:
        any_document = start.any_document or bool(
            parse_records(one.raw, documents, start, skip_bad=True).texts
        )
        end = replace(
            start,
            offset=one.offset + len(one.raw),
            anchor=one.offset + len(one.raw),
            crc=zlib.crc32(one.raw, start.crc),
            any_document=any_document,
            records=start.records + one.raw.count(b"\n"),
            stored_bytes=0 if is_plain else stream.stored_bytes,
        )
        yield Block(one.raw, start, end, is_val=False)
        start = end


def parse_records(raw: bytes, documents: Documents, start: Position, *, skip_bad: bool) -> Records:
    """Parse a block of JSON lines that begins at `start`.

    Raises:
        InputError: a record is bad and `skip_bad` is false; with its line and byte, but not the file.
    """
    found = parse_lines(
        raw,
        text_field=documents.text_field,
        first_line=start.records + 1,
        offset=start.offset,
        skip_bad=skip_bad,
    )
    bad = [f"line {one.line:,}, at byte {one.offset:,}: {one.reason}" for one in found.bad]
    return Records(found.texts, found.n_empty, found.n_surrogates, found.n_bad, bad)


def _read_parquet(
    path: Location,
    size_bytes: int,
    start: Position,
    block_bytes: int,
    documents: Documents,
    check: Callable[[], None],
) -> Iterator[Block]:
    with _open_column(path, documents.text_field, check, size_bytes) as column:
        n_before = 0  # rows of the row groups that are passed over
        for group in column.row_groups:
            first_row = max(0, start.records - n_before)
            n_before += group.n_rows
            if first_row >= group.n_rows:
                continue
            for rows in column.read_rows(
                group.index, block_bytes=block_bytes, first_row=first_row, skip_bad=documents.skip_bad
            ):
                n_bytes = sum(map(len, rows.texts))
                end = replace(
                    start,
                    offset=start.offset + n_bytes,
                    anchor=start.offset + n_bytes,
                    crc=_crc_of(rows, start.crc),
                    any_document=start.any_document or bool(rows.texts),
                    records=start.records + rows.n_rows,
                    stored_bytes=column.bytes_before(group.index, rows.first_row + rows.n_rows),
                )
                bad = [f"row group {one.row_group:,}, row {one.row:,}: {one.reason}" for one in rows.bad]
                records = Records(rows.texts, rows.n_empty, 0, rows.n_bad, bad)
                yield Block(b"", start, end, is_val=False, records=records)
                start = end
        column.check_unchanged()


def _open_column(
    path: Location,
    text_field: str,
    check: Callable[[], None] = lambda: None,
    size_bytes: int | None = None,
) -> TextColumn:
    return TextColumn(
        open_input(path, size_bytes=size_bytes, check=check),
        text_field=text_field,
        max_row_group_bytes=MAX_ROW_GROUP_BYTES,
    )


def _crc_of(rows: Rows, crc: int) -> int:
    for text in rows.texts:
        crc = zlib.crc32(text, crc)
    return crc


def crc_of_text(
    path: Location, form: Format, *, text_field: str, n_bytes: int, check: Callable[[], None]
) -> int | None:
    """Compute the CRC-32 of an input's first `n_bytes`, as blocks count them; None if it has fewer."""
    if form.container == "parquet":
        crc = n_done = 0
        with _open_column(path, text_field, check) as column:
            for group in column.row_groups:
                for rows in column.read_rows(group.index, block_bytes=_CHUNK_BYTES, skip_bad=True):
                    check()
                    for text in rows.texts:
                        if n_done == n_bytes:
                            return crc
                        crc, n_done = zlib.crc32(text, crc), n_done + len(text)
        return crc if n_done == n_bytes else None
    crc = 0
    with open_input(path, check=check) as file:
        stream = ByteStream(file, form.compression)
        while stream.offset < n_bytes:
            check()
            data = stream.read(min(_CHUNK_BYTES, n_bytes - stream.offset))
            if not data:
                return None
            crc = zlib.crc32(data, crc)
    return crc


def sample_records(path: Location, form: Format, *, text_field: str) -> tuple[list[bytes], int]:
    """Take some documents of an input; return them, and how many bytes of the file they stand for.

    Raises:
        InputError: it cannot be read, or its beginning is damaged.
    """
    if form.container == "parquet":
        return _shorten(*_sample_parquet(path, text_field))
    with open_input(path) as file:
        if form.compression == "none":
            return _shorten(*_sample_lines(file, text_field))
        stream = ByteStream(file, form.compression)
        head = stream.read(_SAMPLE_BYTES)
        while b"\n" not in head and len(head) < MAX_LINE_BYTES and (more := stream.read(len(head))):
            head += more
        used = head[: head.rfind(b"\n") + 1] or head
        texts = parse_lines(used, text_field=text_field, skip_bad=True).texts
        stream.read(_MEASURED_BYTES)  # the file is read in chunks: after a few, the ratio is known
        return _shorten(texts, stream.stored_bytes * len(used) // max(1, stream.offset))


def _shorten(texts: list[bytes], n_bytes: int) -> tuple[list[bytes], int]:
    """Leave of each text what is encoded in no time, and of the bytes that they stand for as many less."""
    kept = [text[:_MOST_TEXT_BYTES].decode(errors="ignore").encode() for text in texts]
    n_kept = n_bytes * sum(map(len, kept)) // max(1, sum(map(len, texts)))
    return kept, max(1, n_kept)


def _sample_lines(file: InputFile, text_field: str) -> tuple[list[bytes], int]:
    """Take whole lines from places spread over the file."""
    texts: list[bytes] = []
    n_bytes = 0
    step = max(_SAMPLE_BYTES // _N_SAMPLED_GROUPS, file.size_bytes // _N_SAMPLED_GROUPS)
    for offset in range(0, file.size_bytes, step):
        data = file.read(_SAMPLE_BYTES // _N_SAMPLED_GROUPS, offset)
        start = data.find(b"\n") + 1 if offset else 0
        end = data.rfind(b"\n") + 1 if offset + len(data) < file.size_bytes else len(data)
        lines = data[start:end]
        texts += parse_lines(lines, text_field=text_field, offset=offset + start, skip_bad=True).texts
        n_bytes += len(lines)
    if not texts:  # each line is longer than that
        head = file.read(1, 0)
        while b"\n" not in head and len(head) < min(file.size_bytes, MAX_LINE_BYTES):
            head = file.read(2 * max(len(head), _SAMPLE_BYTES), 0)
        lines = head[: head.find(b"\n") + 1] or head
        texts, n_bytes = parse_lines(lines, text_field=text_field, skip_bad=True).texts, len(lines)
    return texts, n_bytes


def _sample_parquet(path: Location, text_field: str) -> tuple[list[bytes], int]:
    """Take the first rows of row groups spread over the file."""
    texts: list[bytes] = []
    with _open_column(path, text_field) as column:
        groups = column.row_groups
        for group in groups[:: max(1, len(groups) // _N_SAMPLED_GROUPS)]:
            block_bytes = _SAMPLE_BYTES // _N_SAMPLED_GROUPS
            for rows in column.read_rows(group.index, block_bytes=block_bytes, skip_bad=True):
                texts += rows.texts
                break
        share = sum(map(len, texts)) / max(1, sum(group.text_bytes for group in groups))
        return texts, round(min(1.0, share) * column.size_bytes)
