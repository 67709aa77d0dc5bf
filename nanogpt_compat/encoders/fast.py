"""gigatoken, kept in bounds, and checked against tiktoken.

gigatoken 0.10 encodes 120 to 380 MB/s on one core of a 2-core AMD EPYC VM, tiktoken 16 to 22. Three things
keep its memory bounded and its tokens tiktoken's:

- It never drops a word from its cache, so it is rebuilt when that takes too much memory: bounded.py.
- Its Unicode tables are newer than tiktoken's, so text with a letter that is not in both goes through
  tiktoken: new_letters.py.
- It is young, so tiktoken encodes a sample of the rest too.
"""

import os
import threading
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.encoders.bounded import BoundedTokenizer
from nanogpt_compat.encoders.interface import EngineMismatch, Tokens, is_failure
from nanogpt_compat.encoders.new_letters import has_new_letter
from nanogpt_compat.encoders.reference import TiktokenEncoder
from nanogpt_compat.text.cuts import first_cut, last_cut
from nanogpt_compat.text.documents import END_OF_TEXT, MARK
from nanogpt_compat.text.utf8 import non_ascii_part

MOST_WORKERS = 8  # the one thread that reads and writes does 0.6 to 1 GB/s: docs/engines.md, "Many cores"
_MIB = 1024 * 1024
SLICE_BYTES = 8 * 1024  # tiktoken takes 1 to 2 ms
_NEAR_BYTES = 64 * 1024  # how far from a slice to look for a cut, on either side
_AT_A_TIME = 2  # blocks that tiktoken encodes at the same time; each may take 45 times 512 KiB


class GigatokenEncoder:
    """The fast engine: gigatoken."""

    name = "gigatoken"
    slowness = 2.5  # in prose: the time for words that are not in the cache yet, over that for cached ones

    def __init__(
        self,
        reference: TiktokenEncoder,
        *,
        version: str,
        n_workers: int,
        own_bytes: Callable[[], int],
        cache_bytes: int | None = None,
    ) -> None:
        """Build it from the reference's ranks; `own_bytes` reads this process's anonymous memory.

        Word caches and blocks may take `cache_bytes` of it; default: `cache_bytes_for`.
        """
        # It has one word cache for each thread of its pool; any further threads of ours would spin.
        os.environ.setdefault("RAYON_NUM_THREADS", str(n_workers))
        import gigatoken

        self.version = version
        self.most_workers = n_workers
        default_bytes = cache_bytes_for(n_workers)
        self.cache_bytes = default_bytes if cache_bytes is None else cache_bytes
        more_bytes = max(0, self.cache_bytes - default_bytes)
        self.peak_bytes = 256_000_000 + 34_000_000 * (n_workers - 2) + more_bytes
        self._gigatoken: Any = gigatoken
        self._reference = reference
        has_limit = hasattr(gigatoken, "set_max_cache_bytes")  # not in 0.10
        if has_limit:
            self._gigatoken.set_max_cache_bytes(self.cache_bytes // n_workers)
        ranks = reference.encoding._mergeable_ranks
        special = dict.fromkeys(reference.encoding.special_tokens_set & {MARK.decode()}, END_OF_TEXT)
        self._length_of = np.zeros(END_OF_TEXT + 1, np.uint8)
        self._length_of[list(ranks.values())] = [len(token) for token in ranks]
        self._length_of[END_OF_TEXT] = len(MARK)
        self._few = threading.BoundedSemaphore(_AT_A_TIME)
        self._tokenizer = BoundedTokenizer(
            gigatoken,
            ranks,
            special_tokens=special,
            own_bytes=own_bytes,
            most_bytes=inf if has_limit else self.cache_bytes,
        )
        self._tokenizer.encode(b"to be, or not to be")  # a broken package fails now, not at the first block

    def lower_cache_bytes(self, n_bytes: int) -> None:
        """Lower the limit of the word caches."""
        self.cache_bytes = n_bytes
        self._tokenizer.most_bytes = min(self._tokenizer.most_bytes, n_bytes)

    def encode(self, text: bytes) -> NDArray[np.uint16]:
        """Encode any text with gigatoken, the GIL released; with tiktoken if gigatoken fails."""
        try:
            return self._tokenizer.encode(text)
        except BaseException as error:
            if not (is_failure(error) or isinstance(error, EngineMismatch)):
                raise
            return self._encode_by_reference(text).ids

    def encode_literally(self, text: bytes) -> NDArray[np.uint16]:
        """Encode with tiktoken."""
        return self._reference.encode_literally(text)

    def encode_checked(
        self, text: bytes, check_at: Sequence[int] | None, non_ascii: bytes | None = None
    ) -> Tokens:
        """Encode with gigatoken, and check slices; with tiktoken where gigatoken would differ or fails."""
        try:
            if has_new_letter(non_ascii_part(text) if non_ascii is None else non_ascii):
                return self._encode_by_reference(text)
            ids = self._tokenizer.encode(text)
        except BaseException as error:
            if not is_failure(error):
                raise
            return self._encode_by_reference(text)
        return Tokens(ids, self._check(text, ids, check_at))

    def cost_bytes(self, text: bytes) -> int:
        """Bound the memory for the raw text, gigatoken's tokens (4 bytes each, doubling), and ours.

        Unlike in tiktoken, a long word takes no more than other text.
        """
        return 16 * len(text)

    def drop_caches(self) -> None:
        """Drop the word caches."""
        self._tokenizer.renew()

    def _encode_by_reference(self, text: bytes) -> Tokens:
        with self._few:
            return Tokens(self._reference.encode(text), by_reference=True)

    def _check(self, text: bytes, ids: NDArray[np.uint16], check_at: Sequence[int] | None) -> int:
        """Encode slices with tiktoken too, and compare; return the number of slices."""
        if check_at is None:
            slices = [(0, len(text))]
        else:
            slices = [found for place in check_at if (found := slice_at(text, place)) is not None]
        if not slices:
            return 0
        ends = np.cumsum(self._length_of[ids], dtype=np.uint32)
        for start, end in slices:
            # A token ends at every exact cut.
            first, last = np.searchsorted(ends, (start, end), side="right").tolist()
            with self._few:
                expected = self._reference.encode(text[start:end])
            if not np.array_equal(ids[first:last], expected):
                raise EngineMismatch(start, end)
        return len(slices)


def cache_bytes_for(n_workers: int) -> int:
    """Return how much the process may grow by word caches and the blocks that are being encoded.

    Each thread's table of words starts at 4 MiB and doubles. With 128 MiB for two threads, a rebuild comes
    after some 30 MB of prose in eighty languages, and after 4 MB of random words.
    """
    return (64 + 32 * n_workers) * _MIB


def slice_at(text: bytes, place: int) -> tuple[int, int] | None:
    """Return a slice of about 8 KiB around `place`, between exact cuts; None if there are no cuts near it.

    >>> slice_at(b"to be, or not", 8)
    (6, 13)
    """
    start = last_cut(text, max(1, place - _NEAR_BYTES), place)
    if start is None:
        if place > _NEAR_BYTES:
            return None
        start = 0
    nominal = start + SLICE_BYTES
    end = first_cut(text, nominal, min(nominal + _NEAR_BYTES, len(text) - 1))
    if end is None:
        if nominal + _NEAR_BYTES < len(text):
            return None
        end = len(text)
    return start, end
