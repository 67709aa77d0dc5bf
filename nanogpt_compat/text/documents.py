"""Documents in text: choose their split, and join them so that one call encodes many.

A document is encoded as if it were a whole file. Most have only a few kilobytes, so one call for each would
be slow. Instead they are joined by a mark that the encoders know as GPT-2's end-of-text token. If the text
itself contains the mark, each document is encoded in its own call.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from math import ceil

END_OF_TEXT = 50256
END_OF_TEXT_NAME = "<|endoftext|>"
MARK = b"\x01\x02\x0e\x0f\x10\x11\x12\x03"
"""Represents the end-of-text token on the way to an encoder. It contains no exact cut. It is ASCII, so that
ASCII text stays fast."""

HEAD_BYTES = 64 * 1024  # the beginning of a document; some of these bytes decide its split
_DENSE_BYTES, _STRIDE = 1024, 64  # all of the first, then every 64th: 2,032 bytes at most
MAX_RECORD_BYTES = 64 * 1024 * 1024  # for a JSON line, a CSV record, or one text in a column
_SALT = b"2357"  # the seed of the validation split in nanoGPT's own scripts
EOTS = ("append", "prepend", "none")


@dataclass(frozen=True, slots=True)
class Documents:
    """How a run treats documents."""

    separator: str | None  # in plain text; None: each text file is one document
    eot: str  # where the end-of-text token goes, one of EOTS
    val_ratio: float  # the share of documents, after `val_split.document_ratio`; 0 for none, 1 for all
    text_field: str = "text"  # in a record
    skip_bad: bool = False  # skip bad records, instead of stopping at the first
    needs_ends: bool = False  # the places where documents end are needed with their tokens


NO_DOCUMENTS = Documents(separator=None, eot="none", val_ratio=0.0)
"""For text that is one stream."""


@dataclass(frozen=True, slots=True)
class Counts:
    """The documents of a block: whole ones, and parts of those that cross its edges. Sizes are of UTF-8."""

    n_whole: int
    longest_bytes: int  # the longest whole document
    n_empty: int
    head_bytes: int | None = None  # the part of a document that began before the block
    head_ends: bool = False  # that document ends in the block
    tail_bytes: int | None = None  # the part of a document that continues after the block


def are_val(documents: Sequence[bytes], ratio: float) -> list[bool]:
    """Choose documents for validation by a hash of their first 64 KiB: all copies go to the same split.

    The hash is of the first 1,024 bytes and of every 64th byte after these. A document is chosen if its hash,
    read as a fraction in [0, 1), is below the ratio. 1 to 3 us each; above 2,047 bytes, hashlib would release
    the GIL, which costs more than the hash.

    >>> sum(are_val([b"%d" % k for k in range(1000)], 0.1))
    95
    """
    if ratio in (0, 1):
        return [bool(ratio)] * len(documents)
    limit = ceil(ratio * (1 << 64)).to_bytes(9, "big")[1:]
    chosen = []
    for document in documents:
        sample = document[:HEAD_BYTES]
        if len(sample) > _DENSE_BYTES:
            sample = sample[:_DENSE_BYTES] + sample[_DENSE_BYTES::_STRIDE]
        chosen.append(blake2b(sample, digest_size=8, salt=_SALT).digest() < limit)
    return chosen


def split_documents(
    text: bytes, documents: Documents, *, before: str, after: str, is_end: bool = False
) -> tuple[dict[str, list[bytes]], Counts]:
    r"""Split the text of a block at the separator; without one, it is a file or a part of it.

    Returns the documents of each split, with `MARK` at each place of an end-of-text token (also if `eot` is
    "none"). `before` and `after` are the splits of the documents that are open where the block begins and
    ends, "" for none. `is_end`: the file ends with the block.

    >>> lines = Documents("\n", "append", 0.0)
    >>> parts, _ = split_documents(b"a\n\nb\n", lines, before="", after="")
    >>> [part if part != MARK else None for part in parts["train"]]
    [b'a', None, b'b', None]
    """
    if documents.separator is not None:
        texts = text.split(documents.separator.encode())
    else:
        texts = [text] if text or before or is_end else []  # else no byte of the file so far was text
    head = texts.pop(0) if before else None
    head_ends = bool(texts) or not after
    tail = texts.pop() if after and texts else None
    if documents.separator is not None and not after and texts and not texts[-1]:
        texts.pop()  # the empty rest after the last separator is not a document
    whole = [one for one in texts if one]
    parts, counts = arrange(whole, documents, n_empty=len(texts) - len(whole))
    is_prepended = documents.eot == "prepend"
    if head is not None:
        parts[before] = ([head, MARK] if head_ends and not is_prepended else [head]) + parts[before]
    if tail is not None:
        parts[after] += [MARK, tail] if is_prepended else [tail]
    head_bytes, tail_bytes = (None if one is None else len(one) for one in (head, tail))
    return parts, replace(counts, head_bytes=head_bytes, head_ends=head_ends, tail_bytes=tail_bytes)


def arrange(
    whole: Sequence[bytes], documents: Documents, *, n_empty: int
) -> tuple[dict[str, list[bytes]], Counts]:
    """Return the same as `split_documents` for documents that are already split; none may be empty."""
    parts: dict[str, list[bytes]] = {"train": [], "val": []}
    for one, goes_to_val in zip(whole, are_val(whole, documents.val_ratio), strict=True):
        parts["val" if goes_to_val else "train"] += (MARK, one) if documents.eot == "prepend" else (one, MARK)
    return parts, Counts(len(whole), max(map(len, whole), default=0), n_empty)
