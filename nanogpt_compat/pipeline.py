"""The one loop: blocks in, encoded by threads, tokens out in order."""

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FuturesTimeoutError  # another class before Python 3.11
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import TypeAlias
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.blocks import Block, Position, Records
from nanogpt_compat.config import Format
from nanogpt_compat.cuts import first_cut
from nanogpt_compat.documents import (
    END_OF_TEXT,
    MARK,
    Counts,
    Documents,
    arrange,
    join_parts,
    split_documents,
)
from nanogpt_compat.encoders import Encoder, EngineMismatch, Tokens
from nanogpt_compat.errors import InputError
from nanogpt_compat.refusals import start_pool
from nanogpt_compat.sinks import Sink
from nanogpt_compat.sources.documents import end_block, end_of_chars, read_documents
from nanogpt_compat.sources.records import parse_records, read_records
from nanogpt_compat.sources.text import (
    TextFile,
    as_utf8,
    cut_text,
    decode,
    find_invalid_bytes,
    read_blocks,
)
from nanogpt_compat.split import edges_in
from nanogpt_compat.tally import Tally

IN_FLIGHT_BYTES = 64 * 1024 * 1024
"""What blocks between reading and writing may take: two unbroken pieces at tiktoken's 26 MiB each, or
the 2 MiB that 512 KiB of prose take for each of 32 threads."""

_MIN_BLOCK_BYTES = 16 * 1024
_BLOCK_OVERHEAD_BYTES = 4096  # its future, its object, its array; what matters for blocks of a few bytes
_DOCUMENT_OVERHEAD_BYTES = 512  # its objects, and the mark behind it
_JOINED_BYTES = 1024 * 1024
_LOOK_UP_EVERY_S = 0.1
_CHECK_EVERY_BYTES = 16 * 1024 * 1024  # a slice of 8 KiB in these: 1 % of gigatoken's time at most

Blocks: TypeAlias = Generator[Block, None, None]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A block's tokens and what was lost on the way to them."""

    block: Block  # its `raw` is empty by now
    tokens: tuple[tuple[bool, NDArray[np.uint16]], ...]  # for val or train, in order
    n_checked: int = 0  # slices
    by_reference: bool = False
    n_invalid: int = 0
    invalid_offsets: tuple[int, ...] = ()  # into the file
    documents: Counts | None = None
    records: Records | None = None  # its texts are gone
    n_forced: int = 0  # cuts inside documents


def block_size(n_workers: int, most_bytes: int) -> int:
    """Choose a block size so that all workers together stay inside the budget, two blocks each.

    >>> block_size(2, 1048576), block_size(64, 1048576)
    (1048576, 65536)
    """
    return max(_MIN_BLOCK_BYTES, min(most_bytes, IN_FLIGHT_BYTES // (16 * n_workers)))


def run(
    *,
    paths: Sequence[Path],
    sizes: Sequence[int],
    formats: Sequence[Format],
    tally: Tally,
    sink: Sink,
    encoder: Encoder,
    windows: Sequence[tuple[int, int]],
    errors: str,
    documents: Documents | None,
    n_workers: int,
    block_bytes: int,
    max_chars: int | None,
    admit: Callable[[int, int], bool],
    after_block: Callable[[], None],
    check: Callable[[], None],
) -> None:
    """Tokenise `paths`, one after another, into `sink`, from `tally.position` on.

    Before a block is given to a thread, `admit(its cost, cost of those in flight)` is asked; while it says
    no, the oldest one is waited for and written. `tally` is at every call of `after_block` what `sink`
    holds. `check` is called several times a second; what it raises ends the run there.

    Raises:
        InputError: an input is unreadable or changes, or cannot be decoded and `errors` is `strict`.
        OutputError: the disk is full or failing.
        EngineMismatch: the engine is not to be trusted; the message says which bytes of which file show it.
    """
    beginning = tally.position
    blocks = all_blocks(
        paths,
        sizes,
        formats,
        start=tally.position,
        windows=windows,
        documents=documents,
        block_bytes=block_bytes,
        errors=errors,
        check=check,
    )
    if max_chars is not None:
        n_left = max_chars - tally.chars
        if documents is None:
            blocks = _limit_chars(blocks, n_left, tally.position, errors)
        else:
            blocks = _limit_documents(blocks, n_left, documents, formats, errors)

    def encode(block: Block) -> Encoded:
        check_at = None if block.start == beginning else places_to_check(block)
        index = block.start.input_index
        return encode_block(block, encoder, errors, paths[index], check_at, documents, formats[index])

    def cost(block: Block) -> int:
        n_documents = 0
        if block.records is not None:
            n_documents = len(block.records.texts)
        elif documents is not None:
            n_documents = block.raw.count((documents.separator or "\n").encode())
        text = block.raw if block.records is None else b"".join(block.records.texts)
        return _BLOCK_OVERHEAD_BYTES + encoder.cost_bytes(text) + n_documents * _DOCUMENT_OVERHEAD_BYTES

    with closing(blocks), closing(_in_order(blocks, encode, cost, n_workers, admit, check)) as results:
        for encoded in results:
            for is_val, ids in encoded.tokens:
                sink.append(ids, is_val=is_val)
            _count(tally, encoded)
            after_block()


def _count(tally: Tally, encoded: Encoded) -> None:
    """Add a written block to what the run counts."""
    block = encoded.block
    records = encoded.records
    n_val = sum(len(ids) for is_val, ids in encoded.tokens if is_val)
    tally.count_block(
        block.end,
        n_train_tokens=sum(len(ids) for _, ids in encoded.tokens) - n_val,
        n_val_tokens=n_val,
        n_chars=block.n_chars,
        n_forced=block.ends_by_force + encoded.n_forced,
    )
    tally.count_invalid(encoded.n_invalid, encoded.invalid_offsets)
    if encoded.documents is not None:
        tally.count_documents(encoded.documents)
    if records is not None:
        tally.count_records(records)
    tally.checked_slices += encoded.n_checked
    tally.fallback_blocks += encoded.by_reference


def all_blocks(
    paths: Sequence[Path],
    sizes: Sequence[int],
    formats: Sequence[Format],
    *,
    start: Position,
    windows: Sequence[tuple[int, int]],
    documents: Documents | None,
    block_bytes: int,
    errors: str,
    check: Callable[[], None],
) -> Blocks:
    """Yield the blocks of every input in turn, from `start` on; `check` is for where that takes a while."""
    file_start = sum(sizes[: start.input_index])
    for index in range(start.input_index, len(paths)):
        at = start if index == start.input_index else Position(index, any_document=start.any_document)
        if documents is None:
            edges = edges_in(windows, file_start, file_start + sizes[index])
            with TextFile(paths[index], size_bytes=sizes[index]) as file:
                yield from read_blocks(file, start=at, block_bytes=block_bytes, edges=edges, errors=errors)
                file.check_unchanged()
        else:
            some = _documents_of(
                paths[index], sizes[index], formats[index], at, documents, block_bytes, errors, check
            )
            with closing(some):
                for block in some:
                    start = block.end
                    yield block
        file_start += sizes[index]


def _documents_of(
    path: Path,
    size_bytes: int,
    form: Format,
    start: Position,
    documents: Documents,
    block_bytes: int,
    errors: str,
    check: Callable[[], None],
) -> Blocks:
    """Yield the blocks of an input that holds documents."""
    if form.has_records:
        yield from read_records(
            path,
            form,
            size_bytes=size_bytes,
            start=start,
            block_bytes=block_bytes,
            documents=documents,
            check=check,
        )
        return
    with TextFile(path, size_bytes=size_bytes) as file:
        yield from read_documents(
            file,
            start=start,
            block_bytes=block_bytes,
            documents=documents,
            separator=documents.separator or "",
            errors=_lenient(errors),
        )
        file.check_unchanged()


def _limit_chars(blocks: Blocks, n_left: int, start: Position, errors: str) -> Blocks:
    """Pass blocks on, up to the first exact cut with at least `n_left` characters before it."""
    if n_left <= 0 and start.anchor == start.offset:
        return
    with closing(blocks):
        for block in blocks:
            n_chars = len(decode(block, _lenient(errors)))
            if n_left <= n_chars:
                last = _cut_at(block, n_left, errors)
                yield replace(last, n_chars=len(decode(last, _lenient(errors))))
                if not last.ends_by_force:
                    return
            else:
                yield replace(block, n_chars=n_chars)
            n_left -= n_chars


def _limit_documents(
    blocks: Blocks, n_left: int, documents: Documents, formats: Sequence[Format], errors: str
) -> Blocks:
    """Pass blocks on, up to the first end of a document with at least `n_left` characters before it."""
    separator = documents.separator or ""
    with closing(blocks):
        for block in blocks:
            if n_left <= 0 and not block.start.document:
                return
            if formats[block.start.input_index].has_records:
                block = _limit_records(block, n_left, documents)
                yield block
                n_left -= block.n_chars
                continue
            text = decode(block, _lenient(errors))
            n_end = 0
            for piece in text.split(separator)[:-1]:
                n_end += len(piece) + len(separator)
                if n_end >= n_left:
                    raw = block.raw[: end_of_chars(block, n_end, _lenient(errors))]
                    end = block.start.offset + len(raw)
                    last = end_block(block, raw, end, separator, _lenient(errors))
                    yield replace(last, is_val=block.is_val, n_chars=n_end)
                    return
            yield replace(block, n_chars=len(text))
            n_left -= len(text)


def _limit_records(block: Block, n_left: int, documents: Documents) -> Block:
    """Count a block's characters, and shorten it to the first document with `n_left` up to its end."""
    n_chars = n_bytes = 0
    if block.records is None:
        for line in block.raw.splitlines(keepends=True):
            texts = parse_records(line, documents, block.start, skip_bad=True).texts
            n_chars += sum(len(text.decode()) for text in texts)
            n_bytes += len(line)
            if n_chars >= n_left:
                break
        raw = block.raw[:n_bytes]
        offset, n_records = block.start.offset + n_bytes, raw.count(b"\n")
        end = replace(
            block.end,
            offset=offset,
            anchor=offset,
            crc=crc32(raw, block.start.crc),
            records=block.start.records + n_records,
        )
        return replace(block, raw=raw, end=end, n_chars=n_chars)
    for k, text in enumerate(block.records.texts, 1):
        n_chars += len(text.decode())
        if n_chars >= n_left:
            texts = block.records.texts[:k]
            raw = b"".join(texts)
            offset = block.start.offset + len(raw)
            end = replace(block.end, offset=offset, anchor=offset, crc=crc32(raw, block.start.crc))
            return replace(block, records=replace(block.records, texts=texts), end=end, n_chars=n_chars)
    return replace(block, n_chars=n_chars)


def _cut_at(block: Block, n_chars: int, errors: str) -> Block:
    """Shorten a block to the first exact cut with at least `n_chars` characters before it, if it has one."""
    low = end_of_chars(block, max(0, n_chars), _lenient(errors))
    end = first_cut(block.raw, max(low, 1), len(block.raw) - 1)
    if end is None:
        return block
    raw, offset = block.raw[:end], block.start.offset + end
    return replace(
        block,
        raw=raw,
        end=replace(
            block.start, offset=offset, anchor=offset, after_cr=False, crc=crc32(raw, block.start.crc)
        ),
    )


def _lenient(errors: str) -> str:
    """Count characters by a policy that never raises; `strict` is for the encoder to enforce."""
    return "ignore" if errors == "strict" else errors


def _in_order(
    blocks: Blocks,
    encode: Callable[[Block], Encoded],
    cost: Callable[[Block], int],
    n_workers: int,
    admit: Callable[[int, int], bool],
    check: Callable[[], None],
) -> Generator[Encoded, None, None]:
    """Encode blocks on threads and yield the results in the order of the blocks."""
    pending: deque[tuple[Future[Encoded], int]] = deque()
    in_flight_bytes = 0
    pool = start_pool(n_workers, "encode")
    try:
        for block in blocks:
            block_cost = cost(block)
            while pending and (pending[0][0].done() or not admit(block_cost, in_flight_bytes)):
                future, done_cost = pending.popleft()
                yield _result(future, check)
                in_flight_bytes -= done_cost
                del future  # or its tokens would stay until the next one is done
            check()
            pending.append((pool.submit(encode, block), block_cost))
            in_flight_bytes += block_cost
            del block
        while pending:
            yield _result(pending.popleft()[0], check)
    finally:
        # Whoever stops has no time to wait for blocks that will not be written.
        pool.shutdown(wait=False, cancel_futures=True)


def _result(future: Future[Encoded], check: Callable[[], None]) -> Encoded:
    """Wait for a block, and look up every now and then."""
    while True:
        check()
        with contextlib.suppress(TimeoutError, FuturesTimeoutError):
            return future.result(timeout=_LOOK_UP_EVERY_S)


def places_to_check(block: Block) -> list[int]:
    """Choose where in a block the engine is checked: one place in every 16 MiB of each input.

    Which they are depends on neither the size of blocks nor where a run was stopped.
    """
    start, end = block.start.offset, block.end.offset
    places = []
    for k in range(start // _CHECK_EVERY_BYTES, end // _CHECK_EVERY_BYTES + 1):
        place = _place_to_check(block.start.input_index, k, _CHECK_EVERY_BYTES)
        if start <= place < end:
            places.append(place - start)
    return places


@lru_cache(maxsize=64)
def _place_to_check(input_index: int, k: int, every_bytes: int) -> int:
    return k * every_bytes + Random(f"{input_index} {k}").randrange(every_bytes)


def encode_block(
    block: Block,
    encoder: Encoder,
    errors: str,
    path: Path,
    check_at: Sequence[int] | None,
    documents: Documents | None,
    form: Format,
) -> Encoded:
    """Decode and encode one block; what is lost is counted. `check_at` is for `Encoder.encode_checked`.

    Raises:
        InputError: `errors` is `strict` and a byte cannot be decoded, or the engine fails; with the
            file and the place in it.
        EngineMismatch: the engine has erred; with the file and the place.
    """
    if documents is not None and form.has_records:
        return _encode_records(block, encoder, documents, path, check_at)
    n_invalid, offsets = 0, tuple[int, ...]()
    try:
        text = as_utf8(block, "strict")
    except UnicodeDecodeError as error:
        if errors == "strict":
            raise _undecodable(block, path, error) from error
        text = as_utf8(block, errors)
        n_invalid, offsets = find_invalid_bytes(block.raw)
    offsets = tuple(block.start.offset + offset for offset in offsets)
    empty = Encoded(replace(block, raw=b""), (), n_invalid=n_invalid, invalid_offsets=offsets)
    try:
        if documents is not None:
            return _encode_documents(empty, text, encoder, documents, check_at)
        made = encoder.encode_checked(text, check_at)
    except InputError as error:
        where = f"{path}, bytes {block.start.offset:,} to {block.end.offset:,}"
        raise InputError(f"{where}: {error}") from error
    except EngineMismatch as error:
        raise error.at(path, block.start.offset) from error
    tokens = ((block.is_val, made.ids),)
    return replace(empty, tokens=tokens, n_checked=made.n_checked, by_reference=made.by_reference)


def _encode_documents(
    empty: Encoded, text: bytes, encoder: Encoder, documents: Documents, check_at: Sequence[int] | None
) -> Encoded:
    """Encode the documents of a block: those for train, then those for val."""
    start, end = empty.block.start, empty.block.end
    parts, counts = split_documents(
        text, documents, before=start.document, after=end.document, is_first=not start.any_document
    )
    return replace(_encode_parts(empty, parts, encoder, documents.eot, check_at), documents=counts)


def _encode_records(
    block: Block, encoder: Encoder, documents: Documents, path: Path, check_at: Sequence[int] | None
) -> Encoded:
    """Do the same for records.

    Raises:
        InputError: a record is bad and not to be skipped, or the engine fails.
        EngineMismatch: the engine has erred.
    """
    try:
        found = block.records
        if found is None:
            found = parse_records(block.raw, documents, block.start, skip_bad=documents.skip_bad)
        parts, counts = arrange(
            found.texts, documents, is_first=not block.start.any_document, n_empty=found.n_empty
        )
        gone = replace(found, texts=[])
        empty = Encoded(replace(block, raw=b"", records=None), (), documents=counts, records=gone)
        return _encode_parts(empty, parts, encoder, documents.eot, check_at)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except EngineMismatch as error:
        raise error.at(path, block.start.offset) from error


def _encode_parts(
    empty: Encoded,
    parts: Mapping[str, Sequence[bytes]],
    encoder: Encoder,
    eot: str,
    check_at: Sequence[int] | None,
) -> Encoded:
    """Encode what `split_documents` gives, in pieces that are bounded however long a document is."""
    made: list[tuple[str, Tokens]] = []
    n_forced = 0
    for split, some in parts.items():
        has_mark = any(part is not MARK and MARK in part for part in some)
        for text in some if has_mark else join_parts(some, most_bytes=_JOINED_BYTES):
            if text is MARK:
                made.append((split, Tokens(np.array([END_OF_TEXT], np.uint16))))
                continue
            for piece, is_forced in _pieces_of(text):
                if has_mark:
                    tokens = Tokens(encoder.encode_literally(piece))
                else:
                    tokens = encoder.encode_checked(piece, check_at)
                    check_at = []  # the places are in the first of them
                made.append((split, tokens))
                n_forced += is_forced
    return replace(
        empty,
        tokens=tuple((split == "val", _with_ends(one.ids, eot)) for split, one in made),
        n_checked=sum(one.n_checked for _, one in made),
        by_reference=any(one.by_reference for _, one in made),
        n_forced=n_forced,
    )


def _pieces_of(text: bytes) -> Iterable[tuple[bytes, bool]]:
    """Cut a long document; nothing else is long."""
    return ((text, False),) if len(text) <= _JOINED_BYTES else cut_text(text, block_bytes=_JOINED_BYTES)


def _with_ends(ids: NDArray[np.uint16], eot: str) -> NDArray[np.uint16]:
    return ids[ids != END_OF_TEXT] if eot == "none" else ids


def _undecodable(block: Block, path: Path, error: UnicodeDecodeError) -> InputError:
    """Say which bytes of which file are not UTF-8."""
    found = block.raw[error.start : error.end].hex(" ")
    return InputError(
        f"{path}: byte {block.start.offset + error.start:,} is not UTF-8: found {found} ({error.reason}); "
        "--errors ignore drops such bytes, --errors replace puts U+FFFD in their place"
    )
