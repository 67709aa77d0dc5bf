"""Stop after the number of characters that --n asks for: at an exact cut, or at the end of a document."""

from contextlib import closing
from dataclasses import replace

from nanogpt_compat.input.records import parse_records, single_records, up_to
from nanogpt_compat.input.separated import end_block, end_of_chars
from nanogpt_compat.input.source import Source
from nanogpt_compat.system.checksum import crc32
from nanogpt_compat.text.blocks import Block, Blocks, MakeRoom, Position, naming
from nanogpt_compat.text.cuts import first_cut
from nanogpt_compat.text.decoding import decode, lenient
from nanogpt_compat.text.documents import Documents
from nanogpt_compat.text.utf8 import count_chars


def limit_chars(blocks: Blocks, n_left: int, start: Position, errors: str) -> Blocks:
    """Yield the blocks up to the first exact cut with at least `n_left` characters before it."""
    if n_left <= 0 and start.anchor == start.offset:
        return
    with closing(blocks):
        for block in blocks:
            n_chars = len(decode(block, lenient(errors)))
            if n_left <= n_chars:
                last = _cut_at(block, n_left, errors)
                yield replace(last, n_chars=len(decode(last, lenient(errors))))
                if not last.ends_by_force:
                    return
            else:
                yield replace(block, n_chars=n_chars)
            n_left -= n_chars


def limit_documents(
    blocks: Blocks,
    n_left: int,
    start: Position,
    source: Source,
    documents: Documents,
    make_room: MakeRoom,
) -> Blocks:
    """Yield the blocks up to the first end of a document with at least `n_left` characters before it.

    `make_room` is as for `parse_records`.
    """
    separator, errors = documents.separator or "", source.errors
    if n_left <= 0 and not start.document:
        return
    with closing(blocks):
        for block in blocks:
            if n_left <= 0 and not block.start.document:
                return
            index = block.start.input_index
            if source.formats[index].has_records:
                block = _limit_records(block, n_left, documents, naming(source.paths[index], make_room))
                yield block
                n_left -= block.n_chars
                continue
            text = decode(block, lenient(errors))
            n_end = 0
            for piece in text.split(separator)[:-1]:
                n_end += len(piece) + len(separator)
                if n_end >= n_left:
                    raw = block.raw[: end_of_chars(block, n_end, lenient(errors))]
                    end = block.start.offset + len(raw)
                    last = end_block(block, raw, end, lenient(errors))
                    crc = crc32(raw, block.start.crc)
                    end_position = replace(last.end, stored_bytes=block.end.stored_bytes, crc=crc)
                    yield replace(last, end=end_position, is_val=block.is_val, n_chars=n_end)
                    return
            yield replace(block, n_chars=len(text))
            n_left -= len(text)


def _limit_records(block: Block, n_left: int, documents: Documents, make_room: MakeRoom) -> Block:
    """Count a block's characters; shorten it to end with the first document that completes `n_left`."""
    n_chars = _count_chars(block, documents, make_room)
    if n_chars < n_left:
        return replace(block, n_chars=n_chars)
    n_chars, end = 0, block.end
    for one in single_records(block):
        n_chars += _count_chars(one, documents, make_room)
        if n_chars >= n_left:
            end = one.end
            break
    return replace(up_to(block, end), n_chars=n_chars)


def _count_chars(block: Block, documents: Documents, make_room: MakeRoom) -> int:
    return sum(map(count_chars, parse_records(block, documents, skip_bad=True, make_room=make_room).texts))


def _cut_at(block: Block, n_chars: int, errors: str) -> Block:
    """Shorten a block to the first exact cut with at least `n_chars` characters before it, if it has one."""
    low = end_of_chars(block, max(0, n_chars), lenient(errors))
    cut = first_cut(block.raw, max(low, 1), len(block.raw) - 1)
    if cut is None:
        return block
    raw, offset = block.raw[:cut], block.start.offset + cut
    crc = crc32(raw, block.start.crc)
    end = replace(block.end, offset=offset, anchor=offset, after_cr=False, crc=crc, at_end=False)
    return replace(block, raw=raw, end=end)
