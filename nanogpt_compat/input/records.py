"""Read files of separate documents in blocks: JSON lines, and rows of parquet."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from nanogpt_compat.input.compressed import ByteStream, open_stream
from nanogpt_compat.input.jsonl import lines_of, parse_lines, place_of_line, read_lines
from nanogpt_compat.input.local import InputFile
from nanogpt_compat.input.location import Format, Location
from nanogpt_compat.input.open import open_input
from nanogpt_compat.input.tables import LENGTH_BYTES, TextColumn, crc_of_rows, parse_rows, place_of_row
from nanogpt_compat.system.checksum import crc32
from nanogpt_compat.text.blocks import (
    LONG_RECORD_BYTES,
    Block,
    Blocks,
    MakeRoom,
    Position,
    Records,
    Rows,
    has_room,
)
from nanogpt_compat.text.documents import Documents
from nanogpt_compat.text.val_split import LOOK_AHEAD_BYTES

MAX_ROW_GROUP_BYTES = 4 << 30  # larger than any real row group; it is read page by page anyway
# For pyarrow, which takes 30 MB with row groups of 4 MB. Without it, cached words were dropped too early.
READER_BYTES = 64 << 20


def read_records(
    path: Location,
    form: Format,
    *,
    size_bytes: int | None,
    start: Position,
    block_bytes: int,
    documents: Documents,
    check: Callable[[], None],
    end: int | None = None,
    make_room: MakeRoom = has_room,
) -> Blocks:
    """Yield an input from `start` on in blocks of about `block_bytes` of whole records.

    `size_bytes` is the size of the file when the run began. `end` is the byte (in parquet, the row) to stop
    at; by default, the end of the file. `check` is called often while the bytes before `start` are skipped,
    and `make_room` before a long record is read.

    Raises:
        InputError: the input is damaged, or changes while it is read; or a record is too long.
        CheckpointError: the bytes before `start` have changed since they were read.
    """
    if form.container == "parquet":
        yield from _read_parquet(path, size_bytes, start, block_bytes, documents, check, end, make_room)
        return
    with open_input(path, size_bytes=size_bytes, check=check, end=end) as file:
        yield from _read_jsonl(file, form, start, block_bytes, check, make_room)


def _read_jsonl(
    file: InputFile,
    form: Format,
    start: Position,
    block_bytes: int,
    check: Callable[[], None],
    make_room: MakeRoom,
) -> Iterator[Block]:
    stream = open_stream(file, form.compression, start, check, make_room)
    lines = read_lines(
        stream.read,
        path=file.path,
        block_bytes=block_bytes,
        first_line=start.records + 1,
        offset=start.offset,
        make_room=make_room,
    )
    for one in lines:
        is_plain = form.compression == "none"
        stored_bytes = 0 if is_plain else stream.stored_bytes
        # If a stream ends after a line end, that is not known yet, and does not matter.
        is_last = is_plain and one.offset + len(one.raw) == file.size_bytes
        at_end = is_last or not one.raw.endswith(b"\n")
        block = _make_block(one.raw, start, n_records=one.n_ends, stored_bytes=stored_bytes, at_end=at_end)
        del one  # only the block must hold the bytes
        if at_end:
            file.check_unchanged()  # or, if it has grown, a checkpoint would say that it ends here
        yield block
        start = block.end
    if not start.at_end:
        file.check_unchanged()


def _read_parquet(
    path: Location,
    size_bytes: int | None,
    start: Position,
    block_bytes: int,
    documents: Documents,
    check: Callable[[], None],
    last: int | None,
    make_room: MakeRoom,
) -> Iterator[Block]:
    """Read the row groups; `last` is the row to stop at, where a row group begins."""
    with open_column(path, documents.text_field, check, size_bytes) as column:
        is_reading = False
        for group in column.row_groups:
            if group.first_row == last:
                break
            if not group.n_rows or start.records >= group.first_row + group.n_rows:
                continue
            if not is_reading:
                column.read_ahead(group.index)
                is_reading = True
            runs = column.read_rows(
                group.index, block_bytes=block_bytes, first_row=start.records, make_room=make_room
            )
            for raw, rows in runs:
                n_rows = len(rows.lengths)
                stored_bytes = column.bytes_before(group.index, rows.first_row + n_rows)
                at_end = rows.first_row + n_rows == column.n_rows
                block = _make_block(
                    raw,
                    start,
                    n_records=n_rows,
                    stored_bytes=stored_bytes,
                    at_end=at_end,
                    rows=rows,
                )
                del raw  # only the block must hold it
                if at_end:
                    column.check_unchanged()
                yield block
                start = block.end
        if not start.at_end:
            column.check_unchanged()


def _make_block(
    raw: bytes,
    start: Position,
    *,
    n_records: int,
    stored_bytes: int,
    at_end: bool,
    rows: Rows | None = None,
) -> Block:
    """Return the block of whole records that begins at `start`."""
    offset = start.offset + len(raw)
    end = replace(
        start,
        offset=offset,
        anchor=offset,
        crc=crc32(raw, start.crc) if rows is None else crc_of_rows(raw, rows.lengths, start.crc),
        records=start.records + n_records,
        stored_bytes=stored_bytes,
        at_end=at_end,
    )
    return Block(raw, start, end, is_val=False, rows=rows)


def parse_records(
    block: Block, documents: Documents, *, skip_bad: bool, make_room: MakeRoom = has_room
) -> Records:
    """Parse the records of a block.

    Raises:
        BadRecord: a record is bad and `skip_bad` is false. It names the place, but not the file.
    """
    if block.rows is not None:
        return parse_rows(block.raw, block.rows, text_field=documents.text_field, skip_bad=skip_bad)
    return parse_lines(
        block.raw,
        text_field=documents.text_field,
        first_line=block.start.records + 1,
        offset=block.start.offset,
        skip_bad=skip_bad,
        make_room=make_room,
    )


def is_long_record(block: Block) -> bool:
    """Whether a block of records is a single one of more than `LONG_RECORD_BYTES`."""
    return len(block.raw) > LONG_RECORD_BYTES and block.end.records - block.start.records <= 1


def place_of(record: Block) -> str:
    """Return the place of a block's only record, for messages."""
    rows = record.rows
    if rows is not None:
        return place_of_row(rows.first_row, rows.row_group, rows.column_start)
    return place_of_line(record.start.records + 1, record.start.offset)


def single_records(block: Block) -> Iterator[Block]:
    """Yield blocks of one record each."""
    start, rows = block.start, block.rows
    lengths = list(map(len, lines_of(block.raw))) if rows is None else rows.lengths.tolist()
    for k, length in enumerate(lengths):
        at = start.offset - block.start.offset
        raw = block.raw[at : at + max(0, length)]
        one = rows and replace(rows, first_row=rows.first_row + k, lengths=rows.lengths[k : k + 1])
        single = _make_block(
            raw,
            start,
            n_records=1,
            stored_bytes=block.end.stored_bytes,
            at_end=block.end.at_end and k == len(lengths) - 1,
            rows=one,
        )
        yield single
        start = single.end


def up_to(block: Block, end: Position) -> Block:
    """Shorten a block to the records before `end`."""
    rows = block.rows
    if rows is not None:
        rows = replace(rows, lengths=rows.lengths[: end.records - block.start.records])
    return replace(block, raw=block.raw[: end.offset - block.start.offset], end=end, rows=rows)


def rows_before(
    path: Location, offsets: tuple[int, int], *, size_bytes: int, text_field: str
) -> tuple[int, int]:
    """Return, for two byte offsets, the number of rows before the first row group at or after that byte.

    Row groups are read in the order of the footer, which may differ from their order in the file.
    """
    with open_column(path, text_field, size_bytes=size_bytes) as column:
        groups = column.row_groups
    n_rows = [0, 0]
    for k, offset in enumerate(offsets):
        for group in groups:
            if group.start >= offset and offset < size_bytes:
                break
            n_rows[k] += group.n_rows
    return n_rows[0], n_rows[1]


def open_column(
    path: Location,
    text_field: str,
    check: Callable[[], None] = lambda: None,
    size_bytes: int | None = None,
) -> TextColumn:
    """Open the text column of a parquet file; raises what `TextColumn` raises."""
    return TextColumn(
        open_input(path, size_bytes=size_bytes, check=check),
        text_field=text_field,
        max_row_group_bytes=MAX_ROW_GROUP_BYTES,
    )


def logical_bytes(form: Format, n_bytes: int, n_records: int) -> int:
    """Return the size of the logical content, of which the CRC is taken, after `n_bytes` of text."""
    return n_bytes + (LENGTH_BYTES * n_records if form.container == "parquet" else 0)


def size_of_text(
    path: Location, form: Format, *, size_bytes: int | None, text_field: str, check: Callable[[], None]
) -> int | None:
    """Return the size of an input's text: of the uncompressed file, or of the text column of parquet.

    Returns None for more than `LOOK_AHEAD_BYTES` of compressed text, and for an uncompressed pipe.
    `size_bytes` is the size of the file, None for a pipe.

    Raises:
        InputError: the input cannot be read, or is damaged.
    """
    if form.container == "parquet":
        with open_column(path, text_field, check) as column:
            return sum(group.text_bytes for group in column.row_groups)
    if form.compression == "none":
        return size_bytes
    with open_input(path, check=check) as file:
        n_bytes = len(ByteStream(file, form.compression).read(LOOK_AHEAD_BYTES + 1))
        return n_bytes if n_bytes <= LOOK_AHEAD_BYTES else None
