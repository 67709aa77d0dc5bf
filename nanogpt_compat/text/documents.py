"""Documents in text: where they go, and how many of them are encoded in one call.

A document is encoded as if it were a whole file. One call for each would be slow, since most have a few
kilobytes, so they are joined by a mark that the encoders know as GPT-2's end-of-text token. A text that holds
the mark itself is encoded document by document.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from math import ceil

END_OF_TEXT = 50256
END_OF_TEXT_NAME = "<|endoftext|>"
MARK = b"\x01\x02\x0e\x0f\x10\x11\x12\x03"
"""Stands for the end-of-text token on the way to an encoder. No exact cut falls into it, and it is ASCII, so
that it makes no text slower."""

HEAD_BYTES = 64 * 1024
MAX_RECORD_BYTES = 64 * 1024 * 1024  # of a line of JSON, or of a text in parquet
_SALT = b"2357"  # the seed of the validation split in nanoGPT's own scripts
EOTS = ("append", "prepend", "none")


@dataclass(frozen=True, slots=True)
class Documents:
    """What a run does about documents."""

    separator: str | None  # in plain text
    eot: str  # where the end-of-text token goes, one of EOTS
    val_ratio: float  # of documents, as `val_split.document_ratio` raises it; 0 for none
    text_field: str = "text"  # of a record
    skip_bad: bool = False  # records


@dataclass(frozen=True, slots=True)
class Counts:
    """The documents of a block: whole ones, and parts of such as go beyond it. Sizes are of UTF-8."""

    n_whole: int
    longest_bytes: int  # of the whole ones
    n_empty: int
    head_bytes: int | None = None  # of a document that began before
    head_ends: bool = False
    tail_bytes: int | None = None  # of a document that goes on


def are_val(documents: Sequence[bytes], ratio: float) -> list[bool]:
    """Choose documents for validation, each by its first 64 KiB of UTF-8: copies of it stay on one side.

    Chosen are those whose hash, taken for a fraction, is below the ratio; 1 us each.

    >>> sum(are_val([b"%d" % k for k in range(1000)], 0.1))
    95
    """
    limit = ceil(ratio * (1 << 64)).to_bytes(9, "big")[1:]
    return [
        blake2b(document[:HEAD_BYTES], digest_size=8, salt=_SALT).digest() < limit for document in documents
    ]


def split_documents(
    text: bytes, documents: Documents, *, before: str, after: str
) -> tuple[dict[str, list[bytes]], Counts]:
    r"""Split the text of a block at the separator.

    Returns for each split its documents, and `MARK` wherever an end-of-text token belongs, or would if there
    were any. `before` and `after` are the splits of the documents that are open where the block begins
    and ends, "" for none.

    >>> lines = Documents("\n", "append", 0.0)
    >>> parts, _ = split_documents(b"a\n\nb\n", lines, before="", after="")
    >>> [part if part != MARK else None for part in parts["train"]]
    [b'a', None, b'b', None]
    """
    texts = text.split((documents.separator or "").encode())
    head = texts.pop(0) if before else None
    head_ends = bool(texts) or not after
    tail = texts.pop() if after and texts else None
    if not after and texts and not texts[-1]:
        texts.pop()  # behind the last separator
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
    """Do for whole documents, none of them empty, what `split_documents` does."""
    parts: dict[str, list[bytes]] = {"train": [], "val": []}
    is_val = are_val(whole, documents.val_ratio) if documents.val_ratio else [False] * len(whole)
    for one, goes_to_val in zip(whole, is_val, strict=True):
        parts["val" if goes_to_val else "train"] += (MARK, one) if documents.eot == "prepend" else (one, MARK)
    return parts, Counts(len(whole), max(map(len, whole), default=0), n_empty)
