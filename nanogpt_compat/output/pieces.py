"""The random order of documents, and pieces of documents put into it: pure functions on arrays.

Each document has a key, and the order is that of the keys. The key of document i of a split is the i-th
number of a counter-based generator that has the seed and the split for its key. So the order depends on the
documents and the seed alone, and any process can compute the key of any document.

A document comes in pieces: its tokens within one block, or a part of them. Pieces are always sorted with a
stable sort, so those of a document stay in order.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.output.token_file import TOKEN

FIRST_TRAIN_KEY = 1 << 63
"""All keys of val are below it, so that val comes first."""

KEY_END = 1 << 64
CHUNK_TOKENS = 128 * 1024
# Copying a slice takes 250 to 500 ns, and picking tokens by their indices 5 ns for each (2-core AMD EPYC VM).
_SHORT_TOKENS = 64


def keys_of(seed: int, *, is_val: bool, first: int, n: int) -> NDArray[np.uint64]:
    """Return the keys of documents `[first, first + n)` of a split, `(n,) uint64`.

    Philox is a counter-based generator, whose numbers do not change between versions of numpy (NEP 19).
    """
    generator = np.random.Philox(key=np.array([seed, is_val], np.uint64), counter=first // 4)
    numbers: NDArray[np.uint64] = generator.random_raw(first % 4 + n)[first % 4 :]
    return (numbers >> np.uint64(1)) | np.uint64(0 if is_val else FIRST_TRAIN_KEY)


def chunk_ends(lengths: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Cut pieces into chunks of `CHUNK_TOKENS` at most, or of one piece: yields `(first, last)`.

    >>> list(chunk_ends(np.array([100_000, 30_000, 30_000, 900_000, 0])))
    [(0, 2), (2, 3), (3, 5)]
    """
    ends = np.cumsum(lengths)
    first = 0
    while first < len(lengths):
        before = int(ends[first - 1]) if first else 0
        last = int(np.searchsorted(ends, before + CHUNK_TOKENS, side="right"))
        last = max(last, first + 1)
        if last == first + 1:  # a piece without tokens joins the one before it
            last = int(np.searchsorted(ends, ends[first], side="right"))
        yield first, last
        first = last


def gather(
    tokens: NDArray[np.uint16], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.uint16]:
    """Return the pieces of `tokens` at `starts`, one after another; takes 16 bytes a token meanwhile."""
    n_tokens = int(lengths.sum())
    if len(starts) == 1:
        return tokens[starts[0] : starts[0] + n_tokens]
    if n_tokens >= _SHORT_TOKENS * len(starts):
        data = tokens.view(np.uint8).data
        edges = ((TOKEN.itemsize * some).tolist() for some in (starts, starts + lengths))
        return np.frombuffer(b"".join([data[start:end] for start, end in zip(*edges, strict=True)]), TOKEN)
    places = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    places += np.arange(n_tokens)
    return tokens.take(places)
