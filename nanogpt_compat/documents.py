"""Documents in text: where they go, and how many of them are encoded in one call.

A document is encoded as if it were a whole file. One call for each would be slow, since most have a few
kilobytes, so they are joined by a mark that the encoders know as GPT-2's end-of-text token. A text that holds
the mark itself is encoded document by document.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

END_OF_TEXT = 50256
END_OF_TEXT_NAME = "<|endoftext|>"
MARK = b"\x01\x02\x0e\x0f\x10\x11\x12\x03"
"""Stands for the end-of-text token on the way to an encoder. No exact cut falls into it, and it is ASCII, so
that it makes no text slower."""

HEAD_BYTES = 64 * 1024
_SALT = b"2357"  # the seed of the validation split in nanoGPT's own scripts
EOTS = ("append", "prepend", "none")


@dataclass(frozen=True, slots=True)
class Documents:
    """What a run does about documents."""

    separator: str
    eot: str  # where the end-of-text token goes, one of EOTS
    val_ratio: float  # of documents, 0 for none


@dataclass(frozen=True, slots=True)
class Piece:
    """A document, or what of it is in one block: UTF-8."""

    text: bytes
    is_val: bool
    starts: bool = True  # the document begins here
    ends: bool = True


def is_val_document(head: bytes, ratio: float) -> bool:
    """Choose a document for validation by its first 64 KiB of UTF-8: copies of it stay on one side.

    >>> sum(is_val_document(b"%d" % k, 0.1) for k in range(1000))
    99
    """
    digest = hashlib.blake2b(head[:HEAD_BYTES], digest_size=8, salt=_SALT).digest()
    return int.from_bytes(digest, "big") < ratio * (1 << 64)


def split_documents(
    text: bytes, documents: Documents, *, before: str, after: str, is_first: bool
) -> tuple[list[Piece], int]:
    r"""Split the text of a block at the separator; return the pieces of documents, and how many were empty.

    `before` and `after` are the splits of the documents that are open where the block begins and ends, "" for
    none. `is_first`: there was no document before this block, so the first goes to val.

    >>> lines = Documents("\n", "none", 0.0)
    >>> pieces, n_empty = split_documents(b"a\n\nb\n", lines, before="", after="", is_first=True)
    >>> [piece.text for piece in pieces], n_empty
    ([b'a', b'b'], 1)
    """
    texts = text.split(documents.separator.encode())
    first, last = 0, len(texts)
    pieces, tail = [], []
    if before:
        ends = last > 1 or not after
        pieces.append(Piece(texts[0], before == "val", starts=False, ends=ends))
        first = 1
    if after and last > first:
        tail.append(Piece(texts[-1], after == "val", ends=False))
        last -= 1
    elif last > first and not texts[-1]:
        last -= 1  # behind the last separator
    n_empty, ratio = 0, documents.val_ratio
    is_first = is_first and ratio > 0
    for one in texts[first:last]:
        if one:
            pieces.append(Piece(one, is_first or (ratio > 0 and is_val_document(one, ratio))))
            is_first = False
        else:
            n_empty += 1
    return pieces + tail, n_empty


def join_documents(pieces: Sequence[Piece], eot: str, *, most_bytes: int) -> Iterator[bytes]:
    """Join pieces with the mark where an end-of-text token belongs; some `most_bytes` at a time."""
    parts: list[bytes] = []
    n_bytes = 0
    for piece in pieces:
        if eot == "prepend":
            parts += (MARK, piece.text) if piece.starts else (piece.text,)
        else:
            parts += (piece.text, MARK) if piece.ends else (piece.text,)
        n_bytes += len(piece.text) + len(MARK)
        if n_bytes >= most_bytes:
            yield b"".join(parts)
            parts, n_bytes = [], 0
    if parts:
        yield b"".join(parts)
