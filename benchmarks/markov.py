"""Generate any amount of text like a given one: draw each word from those that followed the last two words.

The model is the source itself, as word numbers, with its positions grouped by the two words before them. A
step looks up the group of the current position and continues at a random member of it, so no table of
probabilities is needed. Thousands of texts take their steps together, in numpy. Order-2 chains: Shannon, "A
Mathematical Theory of Communication" (1948), section 3.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_N_CHAINS = 4096  # texts that grow at the same time
_WORDS_PER_TEXT = 512

# A word includes the white space after it. Scripts without spaces between words (kana, Han, Thai, Lao, Khmer,
# Burmese) are cut into pieces of one or two characters.
_UNSPACED = "\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e01-\u0e5b\u0e81-\u0edf\u1000-\u109f\u1780-\u17ff"
_WORD = re.compile(rf"(?:[{_UNSPACED}]{{1,2}}|[^\s{_UNSPACED}]+)\s*")


@dataclass(frozen=True, slots=True)
class Chain:
    """A source of n words. Memory: about 20 bytes for each of them, and the distinct words."""

    words: list[str]
    ids: NDArray[np.int32]  # (n,): position -> word
    followers: NDArray[np.int32]  # (n,): positions after each occurrence of a pair, grouped by the pair
    first: NDArray[np.int32]  # (n,): position -> where the group of its last two words begins in followers
    count: NDArray[np.int32]  # (n,): position -> how many members that group has


def learn(documents: Iterable[str], max_chars: int) -> Chain:
    """Read the first `max_chars` characters of `documents` into a chain."""
    numbers: dict[str, int] = {}
    parts = []
    for text in documents:
        found = _WORD.findall(text[:max_chars])
        parts.append(
            np.fromiter((numbers.setdefault(word, len(numbers)) for word in found), np.int32, len(found))
        )
        max_chars -= len(text)
        if max_chars <= 0:
            break
    ids, words = np.concatenate(parts), list(numbers)
    # Group positions by (word before, word); the end continues at the start, so each has a follower.
    pairs = np.roll(ids, 1).astype(np.int64) * len(words) + ids
    order = np.argsort(pairs, kind="stable")
    starts = np.flatnonzero(np.diff(pairs[order], prepend=-1))
    sizes = np.diff(starts, append=len(ids))
    first, count = np.empty_like(ids), np.empty_like(ids)
    first[order] = np.repeat(starts, sizes)
    count[order] = np.repeat(sizes, sizes)
    followers = ((order + 1) % len(ids)).astype(np.int32)
    return Chain(words, ids, followers, first, count)


def invent(chain: Chain, seed: int) -> Iterator[str]:
    """Yield texts of 512 words without end; the same seed gives the same texts. Holds about 20 MB."""
    rng = np.random.default_rng(seed)
    while True:
        at = rng.integers(0, len(chain.ids), _N_CHAINS, dtype=np.int32)
        taken = np.empty((_WORDS_PER_TEXT, _N_CHAINS), np.int32)
        for step in taken:
            step[:] = chain.ids[at]
            chosen = (rng.random(_N_CHAINS) * chain.count[at]).astype(np.int32)
            at = chain.followers[chain.first[at] + chosen]
        for row in np.ascontiguousarray(taken.T):
            yield "".join(map(chain.words.__getitem__, row.tolist())) + "\n\n"
