"""gigatoken, kept in bounds, and checked against tiktoken.

With gigatoken 0.10 on a 2-core AMD EPYC VM: 120 to 380 MB/s on one core, where tiktoken makes 16 to 22.
What it costs to trust it:

- It remembers every word it has met and never forgets one (in 0.10; later versions can be told to): when that
  takes too much memory it is built anew (40 ms), which forgets them.
- Its Unicode tables are not tiktoken's: text with a character on which they differ goes through tiktoken.
- It is young: of the rest, a sample is encoded by tiktoken too.
"""

import base64
import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tiktoken
from numpy.typing import NDArray

from nanogpt_compat.cuts import first_cut, last_cut
from nanogpt_compat.encoders.classes import ClassDifferences, Encode
from nanogpt_compat.encoders.interface import TOKEN_DTYPE, EngineMismatch, Tokens
from nanogpt_compat.encoders.reference import TiktokenEncoder, is_panic
from nanogpt_compat.heap import return_large_blocks, trim_heap

_MIB = 1024 * 1024
SLICE_BYTES = 8 * 1024  # 0.5 ms of tiktoken
_NEAR_BYTES = 64 * 1024  # how far a cut is looked for, to either side of a slice
_AT_A_TIME = 2  # blocks that tiktoken encodes at a time; each may take 45 times 512 KiB


class GigatokenEncoder:
    """The fast engine, with all its threads' caches together inside `cache_bytes`."""

    name = "gigatoken"
    most_workers = 8
    most_block_bytes = 512 * 1024

    def __init__(
        self,
        reference: TiktokenEncoder,
        *,
        version: str,
        n_workers: int,
        own_bytes: Callable[[], int],
        cache_bytes: int | None = None,
    ) -> None:
        """Build it from the reference's own ranks; `own_bytes` reads this process's anonymous memory.

        Raises:
            ImportError: it, or what it needs, is not installed.
        """
        # It has a cache for each thread of its pool, and threads in excess of them would spin.
        os.environ.setdefault("RAYON_NUM_THREADS", str(n_workers))
        import gigatoken

        self.version = version
        self.cache_bytes = cache_bytes_for(n_workers) if cache_bytes is None else cache_bytes
        self.peak_bytes = 144_000_000 + cache_bytes_for(n_workers)
        self._gigatoken: Any = gigatoken
        self._reference = reference
        self._own_bytes = own_bytes
        self._has_limit = hasattr(gigatoken, "set_max_cache_bytes")  # later than 0.10
        if self._has_limit:
            self._gigatoken.set_max_cache_bytes(self.cache_bytes // n_workers)
        return_large_blocks()
        self._ranks = dict(reference.encoding._mergeable_ranks)
        lengths = {rank: len(token) for token, rank in self._ranks.items()}
        self._length_of = np.array([lengths[rank] for rank in range(len(lengths))], np.uint8)
        self._differences = ClassDifferences(self._make_probes)
        self._few = threading.BoundedSemaphore(_AT_A_TIME)
        self._changed = threading.Condition()
        self._n_active = 0
        self._is_changing = False  # it is being built anew
        self._generation = 0  # how often it was
        self._tokenizer: Any = self._build(self._ranks)
        self._base_bytes = own_bytes()

    def encode(self, text: bytes) -> NDArray[np.uint16]:
        """Encode with gigatoken whatever comes, the GIL released; with tiktoken if it panics."""
        try:
            return self._encode(text)
        except BaseException as error:
            if not is_panic(error):
                raise
            return self._encode_by_reference(text).ids

    def encode_checked(self, text: bytes, check_at: Sequence[int] | None) -> Tokens:
        """Encode, with tiktoken if gigatoken would err or fails, and check slices.

        Raises:
            EngineMismatch: a slice has other tokens than tiktoken gives it.
            InputError: tiktoken failed too.
        """
        try:
            if self._differences.are_in(text):
                return self._encode_by_reference(text)
            ids = self._encode(text)
        except BaseException as error:
            if not is_panic(error):
                raise
            return self._encode_by_reference(text)
        return Tokens(ids, self._check(text, ids, check_at))

    def cost_bytes(self, text: bytes) -> int:
        """Count raw, its tokens of four bytes and their doubling, and ours; a long word takes no more."""
        return 12 * len(text)

    def drop_caches(self) -> None:
        """Forget all words."""
        self._renew(self._generation)

    def _encode(self, text: bytes) -> NDArray[np.uint16]:
        if not text:
            return np.empty(0, TOKEN_DTYPE)
        with self._changed:
            self._changed.wait_for(lambda: not self._is_changing)
            if self._tokenizer is None:  # whoever was to build it anew has failed
                self._tokenizer = self._build(self._ranks)
            tokenizer, generation = self._tokenizer, self._generation
            self._n_active += 1
        try:
            ids = self._encode_with(tokenizer, text)
        finally:
            del tokenizer  # it can go only when nobody has it
            with self._changed:
                self._n_active -= 1
                self._changed.notify_all()
        if not self._has_limit and self._own_bytes() - self._base_bytes > self.cache_bytes:
            self._renew(generation)
        return ids

    def _encode_by_reference(self, text: bytes) -> Tokens:
        with self._few:
            return Tokens(self._reference.encode(text), by_reference=True)

    def _encode_with(self, tokenizer: Any, text: bytes) -> NDArray[np.uint16]:
        # The call with the least around it: an array comes back, and awkward is not imported (0.3 s, 15 MB).
        # Up to 1 MiB is encoded in the calling thread, with one of the pool's caches.
        source = self._gigatoken.BytesSource([text])
        matrix, _ = tokenizer.encode_batch_padded(source, 0, parallel=True)
        ids: NDArray[np.uint16] = matrix[0].astype(TOKEN_DTYPE)
        return ids

    def _renew(self, generation: int) -> None:
        """Build the tokenizer anew once nobody uses it, unless somebody has done so since `generation`."""
        with self._changed:
            if self._is_changing or self._generation != generation:
                return
            self._is_changing = True  # nobody begins
            try:
                self._changed.wait_for(lambda: self._n_active == 0)
                self._tokenizer = None
                self._generation += 1
                trim_heap()
                self._tokenizer = self._build(self._ranks)
            finally:  # also when there was no memory to build it: nobody is to wait for ever
                self._is_changing = False
                self._changed.notify_all()

    def _build(self, ranks: Mapping[bytes, int]) -> Any:
        with _rank_file(ranks) as path:
            return self._gigatoken.Tokenizer.from_tiktoken(path, pretokenizer="gpt2", special_tokens={})

    def _make_probes(self, ranks: dict[bytes, int]) -> tuple[Encode, Encode]:
        pattern = self._reference.encoding._pat_str
        probe = tiktoken.Encoding("probe", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        tokenizer = self._build(ranks)
        return TiktokenEncoder(probe).encode, lambda text: self._encode_with(tokenizer, text)

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
    """Choose how much memory words and blocks may take together: 112 MiB for two threads.

    Each thread has its own table of words, of 4, 8 or 16 MiB. With 112 MiB for two, prose in eighty languages
    has them built anew every 60 MB, and is encoded as fast as without a bound; with 96, a third slower.
    """
    return (64 + 24 * n_workers) * _MIB


def slice_at(text: bytes, place: int) -> tuple[int, int] | None:
    """Find a slice of about 8 KiB around `place` between exact cuts; None where there are no cuts near.

    >>> slice_at(b"to be, or not", 8)
    (5, 13)
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


@contextlib.contextmanager
def _rank_file(ranks: Mapping[bytes, int]) -> Iterator[str]:
    """Write ranks as a .tiktoken file, which gigatoken wants; in memory where that can be."""
    lines = b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())
    with contextlib.ExitStack() as stack:
        if hasattr(os, "memfd_create"):
            file: Any = stack.enter_context(os.fdopen(os.memfd_create("ranks"), "wb"))
            path = f"/proc/self/fd/{file.fileno()}"
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            path = os.path.join(folder, "ranks.tiktoken")  # noqa: PTH118 - a str, like the one above
            file = stack.enter_context(open(path, "wb"))  # noqa: PTH123
        file.write(lines)
        file.flush()
        yield path
