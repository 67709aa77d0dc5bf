"""Turn one block into tokens: a stretch of text, or its documents one by one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.blocks import Block, Records
from nanogpt_compat.config import Format, Location
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
from nanogpt_compat.sources.records import parse_records
from nanogpt_compat.sources.repairs import BadRecord
from nanogpt_compat.sources.text import as_utf8, cut_text, find_invalid_bytes

_JOINED_BYTES = 1024 * 1024


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


def encode_block(
    block: Block,
    encoder: Encoder,
    errors: str,
    path: Location,
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
        return _encode_records(block, encoder, documents, path, form, check_at)
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
    parts, counts = split_documents(text, documents, before=start.document, after=end.document)
    return replace(_encode_parts(empty, parts, encoder, documents.eot, check_at), documents=counts)


def _encode_records(
    block: Block,
    encoder: Encoder,
    documents: Documents,
    path: Location,
    form: Format,
    check_at: Sequence[int] | None,
) -> Encoded:
    """Do the same for records.

    Raises:
        BadRecord: a record is bad and not to be skipped.
        InputError: the engine fails.
        EngineMismatch: the engine has erred.
    """
    try:
        found = parse_records(block, documents, skip_bad=documents.skip_bad)
        parts, counts = arrange(found.texts, documents, n_empty=found.n_empty)
        gone = replace(found, texts=[])
        empty = Encoded(replace(block, raw=b"", rows=None), (), documents=counts, records=gone)
        return _encode_parts(empty, parts, encoder, documents.eot, check_at)
    except BadRecord as error:
        raise error.of(path, form) from error
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
        has_mark = any(MARK[0] in part and part is not MARK and MARK in part for part in some)
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


def _undecodable(block: Block, path: Location, error: UnicodeDecodeError) -> InputError:
    """Say which bytes of which file are not UTF-8."""
    found = block.raw[error.start : error.end].hex(" ")
    return InputError(
        f"{path}: byte {block.start.offset + error.start:,} is not UTF-8: found {found} ({error.reason}); "
        "--errors ignore drops such bytes, --errors replace puts U+FFFD in their place"
    )
