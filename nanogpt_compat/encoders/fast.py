"""gigatoken, kept in bounds, and checked against tiktoken.

With gigatoken 0.10 on a 2-core AMD EPYC VM: 120 to 380 MB/s on one core, where tiktoken makes 16 to 22.
What it costs to trust it:

- It never forgets a word, so it is built anew when they take too much memory: bounded.py.
- Its Unicode tables are not tiktoken's, so text with a character on which they differ goes through tiktoken:
  classes.py.
- It is young, so a sample of the rest is encoded by tiktoken too.
"""

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from typing import Any

import numpy as np
import tiktoken
from numpy.typing import NDArray

from nanogpt_compat.encoders.bounded import BoundedTokenizer
from nanogpt_compat.encoders.classes import ClassDifferences, Encode
from nanogpt_compat.encoders.interface import EngineMismatch, Tokens, is_failure
from nanogpt_compat.encoders.reference import TiktokenEncoder
from nanogpt_compat.text.cuts import first_cut, last_cut
from nanogpt_compat.text.documents import END_OF_TEXT, MARK

MOST_WORKERS = 8  # the one thread that reads and writes does 570 MB/s, and keeps no more of them busy
_MIB = 1024 * 1024
SLICE_BYTES = 8 * 1024  # 0.5 ms of tiktoken
_NEAR_BYTES = 64 * 1024  # how far a cut is looked for, to either side of a slice
_AT_A_TIME = 2  # blocks that tiktoken encodes at a time; each may take 45 times 512 KiB


class GigatokenEncoder:
    """The fast engine."""

    name = "gigatoken"
    most_block_bytes = 1024 * 1024
    slowness = 2.5  # of words met for the first time, in prose, to those met before

    def __init__(
        self,
        reference: TiktokenEncoder,
        *,
        version: str,
        n_workers: int,
        own_bytes: Callable[[], int],
        cache_bytes: int | None = None,
        reader_bytes: int = 0,
    ) -> None:
        """Build it from the reference's own ranks; `own_bytes` reads this process's anonymous memory.

        `reader_bytes` of that will go to whatever reads the input.

        Raises:
            ImportError: it, or what it needs, is not installed.
        """
        # It has a memory of words for each thread of its pool, and threads in excess of them would spin.
        os.environ.setdefault("RAYON_NUM_THREADS", str(n_workers))
        import gigatoken

        self.version = version
        self.most_workers = n_workers
        self.peak_bytes = 256_000_000 + 34_000_000 * (n_workers - 2) + reader_bytes
        self._gigatoken: Any = gigatoken
        self._reference = reference
        self._own_bytes = own_bytes
        self.cache_bytes = cache_bytes_for(n_workers) + reader_bytes if cache_bytes is None else cache_bytes
        has_limit = hasattr(gigatoken, "set_max_cache_bytes")  # later than 0.10
        if has_limit:
            self._gigatoken.set_max_cache_bytes(self.cache_bytes // n_workers)
        ranks = reference.encoding._mergeable_ranks
        special = {
            mark: END_OF_TEXT for mark in reference.encoding.special_tokens_set if mark == MARK.decode()
        }
        self._length_of = np.zeros(END_OF_TEXT + 1, np.uint8)
        self._length_of[list(ranks.values())] = [len(token) for token in ranks]
        self._length_of[END_OF_TEXT] = len(MARK)
        self._differences = ClassDifferences(self._make_probes)
        self._is_expecting = False
        self._few = threading.BoundedSemaphore(_AT_A_TIME)
        self._tokenizer = BoundedTokenizer(
            gigatoken,
            ranks,
            special_tokens=special,
            own_bytes=own_bytes,
            most_bytes=inf if has_limit else self.cache_bytes,
        )
        self._tokenizer.encode(b"to be, or not to be")  # a broken package fails now, not at the first block

    def expect(self, text: bytes) -> None:
        """Probe the characters of `text`, in the background: until the first block is read a core is free."""
        if not (text.isascii() or self._is_expecting):
            self._is_expecting = True
            threading.Thread(target=self._probe_ahead, args=(text,), name="probe", daemon=True).start()

    def _probe_ahead(self, text: bytes) -> None:
        # The block that needs the probe repeats it, and reports the error.
        with suppress(MemoryError, EngineMismatch):
            try:
                self._differences.are_in(text)
            except BaseException as error:
                if not is_failure(error):
                    raise

    def lower_cache_bytes(self, n_bytes: int) -> None:
        """Keep less than was planned."""
        self.cache_bytes = n_bytes
        self._tokenizer.most_bytes = min(self._tokenizer.most_bytes, n_bytes)

    def encode(self, text: bytes) -> NDArray[np.uint16]:
        """Encode with gigatoken whatever comes, the GIL released; with tiktoken if it fails."""
        try:
            return self._tokenizer.encode(text)
        except BaseException as error:
            if not (is_failure(error) or isinstance(error, EngineMismatch)):
                raise
            return self._encode_by_reference(text).ids

    def encode_literally(self, text: bytes) -> NDArray[np.uint16]:
        """Encode with tiktoken."""
        return self._reference.encode_literally(text)

    def encode_checked(self, text: bytes, check_at: Sequence[int] | None) -> Tokens:
        """Encode, with tiktoken if gigatoken would err or fails, and check slices.

        Raises:
            EngineMismatch: a slice has other tokens than tiktoken gives it, or one is no token of GPT-2.
            EngineFailure: tiktoken failed too.
        """
        try:
            if self._differences.are_in(text):
                return self._encode_by_reference(text)
            ids = self._tokenizer.encode(text)
        except BaseException as error:
            if not is_failure(error):
                raise
            return self._encode_by_reference(text)
        return Tokens(ids, self._check(text, ids, check_at))

    def cost_bytes(self, text: bytes) -> int:
        """Count raw, its tokens of four bytes and their doubling, and ours; a long word takes no more."""
        return 16 * len(text)

    def drop_caches(self) -> None:
        """Forget all words."""
        self._tokenizer.renew()

    def _encode_by_reference(self, text: bytes) -> Tokens:
        with self._few:
            return Tokens(self._reference.encode(text), by_reference=True)

    def _make_probes(self, ranks: dict[bytes, int]) -> tuple[Encode, Encode]:
        pattern = self._reference.encoding._pat_str
        probe = tiktoken.Encoding("probe", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        tokenizer = BoundedTokenizer(self._gigatoken, ranks, own_bytes=self._own_bytes)
        return TiktokenEncoder(probe).encode, tokenizer.encode

    def _check(self, text: bytes, ids: NDArray[np.uint16], check_at: Sequence[int] | None) -> int:
        """Encode slices by tiktoken too; return how many."""
        if check_at is None:
            slices = [(0, len(text))]
        else:
            slices = [found for place in check_at if (found := slice_at(text, place)) is not None]
        if not slices:
            return 0
        ends = np.cumsum(self._length_of[ids], dtype=np.uint32)
        for start, end in slices:
            # The tokens of the bytes up to a cut end there.
            first, last = np.searchsorted(ends, (start, end), side="right").tolist()
            with self._few:
                expected = self._reference.encode(text[start:end])
            if not np.array_equal(ids[first:last], expected):
                raise EngineMismatch(start, end)
        return len(slices)


def cache_bytes_for(n_workers: int) -> int:
    """Choose how much the process may grow while words are remembered, blocks at work included.

    Each thread has a table of words that doubles from 4 MiB on. With 128 MiB for two threads, they are built
    anew when one comes to 32 MiB: every 50 MB in prose of eighty languages, every 4 MB in random words.
    """
    return (64 + 32 * n_workers) * _MIB


def slice_at(text: bytes, place: int) -> tuple[int, int] | None:
    """Find a slice of about 8 KiB around `place` between exact cuts; None where there are no cuts near.

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
