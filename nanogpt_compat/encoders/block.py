"""Turn one block into tokens: a stretch of text, or its documents one by one."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.encoders.interface import Encoder, EngineMismatch, Tokens
from nanogpt_compat.errors import EngineFailure, InputError
from nanogpt_compat.system.units import format_bytes
from nanogpt_compat.text.blocks import (
    Block,
    MakeRoom,
    Need,
    Position,
    RecordBlock,
    Records,
    fits,
    has_room,
    naming,
)
from nanogpt_compat.text.cuts import MAX_PIECE_BYTES, longest_stretch_bytes
from nanogpt_compat.text.cutting import InMemory, cut_text, read_blocks
from nanogpt_compat.text.decoding import as_utf8, find_invalid_bytes
from nanogpt_compat.text.documents import END_OF_TEXT, MARK, Counts, Documents, arrange, split_documents

_JOINED_BYTES = 1024 * 1024
_N_SAMPLES, _SAMPLE_BYTES = 16, 8192  # take 6 ms of tiktoken
_LOCATED_BYTES = 4096  # how precisely a message locates text that an engine fails on


@dataclass(frozen=True, slots=True)
class _Piece:
    """Text that is encoded in one call."""

    text: bytes
    is_val: bool
    non_ascii: bytes | None = None  # the part of it that is not ASCII, if known
    is_literal: bool = False  # it may hold `MARK` as ordinary text
    ends_by_force: bool = False


@dataclass(frozen=True, slots=True)
class Stretch:
    """Tokens of one split, `(n,) uint16`."""

    ids: NDArray[np.uint16]
    is_val: bool
    ends: NDArray[np.int64] | None = None
    """The places from 0 to n where a document ends, with its end-of-text token; one at 0 began before. None
    if `Documents.needs_ends` is false."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A block's tokens, and counts of what was checked, skipped or replaced."""

    block: Block  # with an empty `raw`
    stretches: tuple[Stretch, ...]  # those of each split in order
    n_checked: int = 0  # slices that tiktoken has encoded too
    by_reference: bool = False
    n_invalid: int = 0
    invalid_offsets: tuple[int, ...] = ()  # into the file
    documents: Counts | None = None
    records: Records = field(default_factory=Records)  # without their texts
    n_forced: int = 0  # cuts inside the block

    @property
    def n_tokens(self) -> int:
        """The number of tokens, train and val."""
        return sum(len(one.ids) for one in self.stretches)


def encode_block(
    block: Block,
    encoder: Encoder,
    errors: str,
    path: object,
    check_at: Sequence[int] | None,
    documents: Documents | None,
    make_room: MakeRoom = has_room,
) -> Encoded:
    """Decode and encode one block of the input `path`, and count what is skipped or replaced.

    `check_at` is as for `Encoder.encode_checked`, `make_room` as for `RecordBlock.documents`, whose errors
    this raises too. The bytes of a long record are dropped from the block.

    Raises:
        InputError: `errors` is `strict` and a byte cannot be decoded, or the engine fails; names the file and
            the place in it.
        EngineMismatch: the engine's tokens are not tiktoken's; names the file and the place in it.
    """
    if documents is not None and isinstance(block, RecordBlock):
        return _encode_records(block, encoder, documents, path, check_at, naming(path, make_room))
    n_invalid, offsets = 0, tuple[int, ...]()
    try:
        text, non_ascii = as_utf8(block, "strict")
    except UnicodeDecodeError as error:
        if errors == "strict":
            found = block.raw[error.start : error.end].hex(" ")
            raise InputError(
                f"{path}: byte {block.start.offset + error.start:,} is not UTF-8: found {found} "
                f"({error.reason}); --errors ignore drops such bytes, --errors replace puts U+FFFD in their "
                "place"
            ) from error
        text, non_ascii = as_utf8(block, errors)
        n_invalid, offsets = find_invalid_bytes(block.raw)
    offsets = tuple(block.start.offset + offset for offset in offsets)
    empty = Encoded(block.without_text(), (), n_invalid=n_invalid, invalid_offsets=offsets)
    try:
        if documents is not None:
            before, after = block.start.document, block.end.document
            parts, counts = split_documents(
                text, documents, before=before, after=after, is_end=block.end.at_end
            )
            empty = replace(empty, documents=counts)
            return _encode_pieces(empty, _pieces_of(parts), encoder, check_at, documents)
        # The reader has cut long stretches already, but each U+FFFD makes three bytes of one.
        if len(text) <= len(block.raw):
            pieces = [_Piece(text, block.is_val, non_ascii)]
        else:
            cut = cut_text(text, block_bytes=_JOINED_BYTES)
            pieces = [_Piece(one, block.is_val, ends_by_force=is_forced) for one, is_forced in cut]
        return _encode_pieces(empty, pieces, encoder, check_at)
    except EngineFailure as error:
        start, end = _failing_bytes(block, encoder, errors)
        raise InputError(
            f"{path}, bytes {start:,} to {end:,}: {error}; change the text there, or try a later version: "
            "pip install --upgrade tiktoken"
        ) from error
    except EngineMismatch as error:
        raise error.at(path, block.start.offset) from error


def _failing_bytes(block: Block, encoder: Encoder, errors: str) -> tuple[int, int]:
    """Return the bytes of the file that no engine can encode: a few kilobytes, or else all of the block."""
    start, end = Position(0, after_cr=block.start.after_cr), block.end.offset - block.start.offset
    found = 0, end
    for part in read_blocks(InMemory(block.raw), start=start, block_bytes=_LOCATED_BYTES, errors=errors):
        try:
            encoder.encode_literally(as_utf8(part, errors)[0])
        except EngineFailure:
            found = part.start.offset, part.end.offset
            break
    return block.start.offset + found[0], block.start.offset + found[1]


def _encode_records(
    block: RecordBlock,
    encoder: Encoder,
    documents: Documents,
    path: object,
    check_at: Sequence[int] | None,
    make_room: MakeRoom,
) -> Encoded:
    try:
        found = block.documents(skip_bad=documents.skip_bad, make_room=make_room)
        if block.is_long_record:
            block.raw = b""
            for text in found.texts:
                _make_room_for(text, encoder, block, make_room)
        try:
            return _encode_found(block, found, encoder, documents, check_at)
        except EngineFailure as error:
            if not block.raw:
                found = block.count_as_bad(error, skip_bad=documents.skip_bad)
            else:
                found = _without_failing(block, encoder, documents)
            return _encode_found(block, found, encoder, documents, check_at)
    except EngineFailure as error:  # on several records together, but on none alone
        start, end = block.start.offset, block.end.offset
        raise InputError(f"{path}, bytes {start:,} to {end:,} of its text: {error}") from error
    except EngineMismatch as error:
        raise error.at(path, block.start.offset) from error


def _make_room_for(text: bytes, encoder: Encoder, record: RecordBlock, make_room: MakeRoom) -> None:
    """Make room to encode a long text; raise what `make_room` raises.

    If the upper bound does not fit, make room for an estimate: with as many tokens as in the
    densest of some samples, and the longest stretch there is.
    """
    if fits(make_room, _bytes_to_encode(len(text), MAX_PIECE_BYTES)):
        return
    step = max(1, len(text) // _N_SAMPLES)
    samples = [text[start : start + _SAMPLE_BYTES] for start in range(0, len(text), step)]
    densest = max(len(encoder.encode(one.decode(errors="ignore").encode())) / len(one) for one in samples)
    n_bytes = _bytes_to_encode(densest * len(text), longest_stretch_bytes(text))
    all_bytes = len(text) + n_bytes
    what = f"{record.place}, has {format_bytes(len(text))} of text"
    make_room(n_bytes, lambda: Need(what, all_bytes, all_bytes))


def _bytes_to_encode(n_tokens: float, stretch_bytes: int) -> int:
    """Return the memory to encode a long text piece by piece and to hold its tokens.

    A token has two bytes, with an eighth lost between arrays. A piece takes up to 16 times its size, plus 65
    bytes of tiktoken's for each byte of a run of white space before a word.
    """
    return round(n_tokens * 9 / 4) + 16 * _JOINED_BYTES + 65 * min(stretch_bytes, MAX_PIECE_BYTES)


def _encode_found(
    block: Block, found: Records, encoder: Encoder, documents: Documents, check_at: Sequence[int] | None
) -> Encoded:
    parts, counts = arrange(found.texts, documents, n_empty=found.n_empty)
    gone = replace(found, texts=[])
    empty = Encoded(block.without_text(), (), documents=counts, records=gone)
    return _encode_pieces(empty, _pieces_of(parts), encoder, check_at, documents)


def _without_failing(block: RecordBlock, encoder: Encoder, documents: Documents) -> Records:
    """Parse a block again, one record at a time, and count those that no engine can encode as bad."""
    all_found = Records()
    for one in block.singles():
        found = one.documents(skip_bad=documents.skip_bad)
        try:
            for text in found.texts:
                for piece, _ in cut_text(text, block_bytes=_JOINED_BYTES):
                    encoder.encode_literally(piece)
        except EngineFailure as error:
            found = one.count_as_bad(error, skip_bad=documents.skip_bad)
        all_found.add(found)
    return all_found


def _pieces_of(parts: Mapping[str, Sequence[bytes]]) -> Iterator[_Piece]:
    """Join the short parts of `split_documents` up to 1 MiB at a time, and cut the long ones.

    A part without an exact cut for more than `MAX_PIECE_BYTES` is cut by force, at places that depend on its
    own text alone.
    """
    for split, some in parts.items():
        is_val = split == "val"
        has_mark = any(MARK[0] in part and part is not MARK and MARK in part for part in some)
        most_bytes = 0 if has_mark else _JOINED_BYTES
        joined: list[bytes] = []
        n_bytes = 0
        for part in some:
            is_long = len(part) > MAX_PIECE_BYTES
            if joined and (is_long or n_bytes + len(part) > most_bytes):
                yield _Piece(_join(joined), is_val, is_literal=has_mark)
                joined, n_bytes = [], 0
            if is_long:
                for text, is_forced in cut_text(part, block_bytes=_JOINED_BYTES):
                    yield _Piece(text, is_val, is_literal=has_mark, ends_by_force=is_forced)
            else:
                joined.append(part)
                n_bytes += len(part)
        if joined:
            yield _Piece(_join(joined), is_val, is_literal=has_mark)


def _join(parts: Sequence[bytes]) -> bytes:
    """Join parts; return a single one itself, as `MARK` is recognised by identity."""
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _encode_pieces(
    empty: Encoded,
    pieces: Iterable[_Piece],
    encoder: Encoder,
    check_at: Sequence[int] | None,
    documents: Documents | None = None,
) -> Encoded:
    stretches: list[Stretch] = []
    n_checked = n_forced = 0
    by_reference = False
    for piece in pieces:
        if piece.text is MARK:
            made = Tokens(np.array([END_OF_TEXT], np.uint16))
        elif piece.is_literal:
            made = Tokens(encoder.encode_literally(piece.text))
        else:
            made = encoder.encode_checked(piece.text, check_at, piece.non_ascii)
            check_at = []  # all of these places are in the first piece
        stretches.append(Stretch(made.ids, piece.is_val))
        n_checked += made.n_checked
        n_forced += piece.ends_by_force
        by_reference |= made.by_reference
    if documents is not None and documents.needs_ends:
        stretches = _with_ends(stretches, documents.eot, empty.block)
    if documents is not None and documents.eot == "none":
        stretches = [replace(one, ids=one.ids[one.ids != END_OF_TEXT]) for one in stretches]
    return replace(
        empty, stretches=tuple(stretches), n_checked=n_checked, by_reference=by_reference, n_forced=n_forced
    )


def _with_ends(stretches: Sequence[Stretch], eot: str, block: Block) -> list[Stretch]:
    """Find where documents end in tokens that have a mark for each, also if `eot` is "none"."""
    before, after = block.start.document, block.end.document
    is_open = {False: before == "train", True: before == "val"}
    found = []
    for one in stretches:
        marks = np.flatnonzero(one.ids == END_OF_TEXT).astype(np.int64, copy=False)
        ends = marks + 1
        if eot == "none":  # the marks will be removed
            ends = marks - np.arange(len(marks))
        elif eot == "prepend":  # a mark begins the next document
            ends = marks if is_open[one.is_val] else marks[1:]
            is_open[one.is_val] |= bool(len(marks))
        found.append(replace(one, ends=ends))
    for is_val, split in ((False, "train"), (True, "val")) if eot == "prepend" else ():
        if is_open[is_val] and after != split:
            found.append(Stretch(np.empty(0, np.uint16), is_val, np.zeros(1, np.int64)))
    return found
