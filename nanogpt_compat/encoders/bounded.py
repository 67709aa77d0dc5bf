"""A gigatoken tokenizer that is rebuilt when its word cache takes too much memory.

gigatoken 0.10 never drops a word from its cache: 630 MB of random words took it to 7 GB. Rebuilding it
takes 40 ms.
"""

import contextlib
import os
import tempfile
import threading
from binascii import b2a_base64
from collections.abc import Callable, Mapping
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.encoders.interface import TOKEN_DTYPE, EngineMismatch
from nanogpt_compat.memory.malloc import large_bytes, return_large_blocks, trim_heap, used_bytes

_MIB = 1024 * 1024
_LOOK_EVERY_BYTES = _MIB  # random words of this size add 8 MB to the tables, with one doubling at most
_LOOK_LATER_EVERY_BYTES = 3 * _MIB  # reading the memory takes 0.2 ms
_FULL_OF_NEW_BYTES = 16 * _MIB
_LONGEST_S = 2.0  # more than any block takes


class BoundedTokenizer:
    """A tokenizer for several threads, with one memory limit for the word caches of all of them."""

    def __init__(
        self,
        gigatoken: Any,
        ranks: Mapping[bytes, int],
        *,
        special_tokens: Mapping[str, int] | None = None,
        own_bytes: Callable[[], int],
        most_bytes: float = inf,
    ) -> None:
        """Build a tokenizer from `ranks`; `own_bytes` reads this process's anonymous memory.

        From now on, that memory may grow by `most_bytes`, as counted by `held_bytes`.
        """
        return_large_blocks()
        self.most_bytes = most_bytes
        self._gigatoken = gigatoken
        self._rank_lines = b"".join(  # like a .tiktoken file
            [b"%b %d\n" % (b2a_base64(token, newline=False), rank) for token, rank in ranks.items()]
        )
        self._special_tokens = dict(special_tokens or {})
        self._last_token = max(*ranks.values(), *self._special_tokens.values())
        self._own_bytes = own_bytes
        self._changed = threading.Condition()
        self._n_active = 0
        self._unseen_bytes = 0  # encoded since memory was last read
        self._seen_bytes = 0  # encoded before that, since the last build
        self._share = 1.0  # it is rebuilt above this share of `most_bytes`
        self._is_changing = False  # a rebuild is under way
        self.generation = 0  # the number of rebuilds
        self._tokenizer: Any = self._build()
        trim_heap()  # the build has left 6 MB
        self._base_bytes = 0
        self._base_bytes = self.held_bytes()

    def encode(self, text: bytes) -> NDArray[np.uint16]:
        """Encode with the GIL released; rebuild afterwards if the cache has grown too large.

        Raises:
            EngineMismatch: a token is not in the vocabulary.
        """
        if not text:
            return np.empty(0, TOKEN_DTYPE)
        with self._changed:
            self._changed.wait_for(lambda: not self._is_changing)
            if self._tokenizer is None:  # the last rebuild has failed
                self._tokenizer = self._build()
            tokenizer, generation = self._tokenizer, self.generation
            self._n_active += 1
        try:
            ids = self._encode_with(tokenizer, text)
        finally:
            del tokenizer  # a rebuild frees it only when no thread refers to it
            with self._changed:
                self._n_active -= 1
                self._changed.notify_all()
        with self._changed:
            self._unseen_bytes += len(text)
            is_early = self._seen_bytes < _FULL_OF_NEW_BYTES
            is_due = self._unseen_bytes >= (_LOOK_EVERY_BYTES if is_early else _LOOK_LATER_EVERY_BYTES)
            if is_due:  # to read the memory again
                self._seen_bytes += self._unseen_bytes
                self._unseen_bytes = 0
        if is_due and self.held_bytes() > self._share * self.most_bytes:
            self.renew(generation)
        return ids

    def _encode_with(self, tokenizer: Any, text: bytes) -> NDArray[np.uint16]:
        # The call with the least overhead: it returns an array, and does not import awkward (0.3 s, 15 MB).
        # Up to 1 MiB is encoded in the calling thread, with one of the pool's word caches.
        matrix, _ = tokenizer.encode_batch_padded(self._gigatoken.BytesSource([text]), 0, parallel=True)
        if matrix.max(initial=0) > self._last_token:  # the cast would turn it into another token
            raise EngineMismatch(0, len(text))
        ids: NDArray[np.uint16] = matrix[0].astype(TOKEN_DTYPE)
        return ids

    def held_bytes(self) -> int:
        """Return how much the process has grown since the build, with large tables counted twice.

        Twice, because a full table moves to one of twice the size, and both exist meanwhile. Allocations of
        other code (`malloc.uses_block`) do not count.
        """
        return self._own_bytes() + large_bytes() - used_bytes() - self._base_bytes

    def renew(self, generation: int | None = None) -> None:
        """Rebuild the tokenizer when no thread uses it, unless it was rebuilt since `generation`."""
        with self._changed:
            if self._is_changing or generation not in (None, self.generation):
                return
            self._is_changing = True  # from now on, no thread starts to encode
            try:
                # With a timeout, as a thread that was refused memory never returns.
                if self._changed.wait_for(lambda: self._n_active == 0, timeout=_LONGEST_S):
                    self._tokenizer = None
                    self.generation += 1
                    # In text full of new words, all threads' tables double at the same time: rebuild earlier.
                    self._share = 2 / 3 if self._seen_bytes < _FULL_OF_NEW_BYTES else 1.0
                    self._seen_bytes = 0
                    trim_heap()
                    self._tokenizer = self._build()
            finally:  # also if the build was refused memory, or other threads would wait for ever
                self._is_changing = False
                self._changed.notify_all()

    def _build(self) -> Any:
        """Build the tokenizer from a file, which gigatoken needs; in memory where possible."""
        with contextlib.ExitStack() as stack:
            if hasattr(os, "memfd_create"):
                file: Any = stack.enter_context(os.fdopen(os.memfd_create("ranks"), "wb"))
                path = f"/proc/self/fd/{file.fileno()}"
            else:
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                path = os.path.join(folder, "ranks.tiktoken")  # noqa: PTH118 - a str, like the one above
                file = stack.enter_context(open(path, "wb"))  # noqa: PTH123
            file.write(self._rank_lines)
            file.flush()
            return self._gigatoken.Tokenizer.from_tiktoken(
                path, pretokenizer="gpt2", special_tokens=self._special_tokens
            )
