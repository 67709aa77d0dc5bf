"""A gigatoken tokenizer that is built anew when the words it remembers take too much memory.

It never forgets a word (in 0.10): 630 MB of random ones took it to 7 GB. Building it anew takes 40 ms.
"""

import contextlib
import os
import tempfile
import threading
from binascii import b2a_base64
from collections.abc import Callable, Iterator, Mapping
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.encoders.interface import TOKEN_DTYPE, EngineMismatch
from nanogpt_compat.memory.malloc import large_bytes, return_large_blocks, trim_heap, used_bytes

_MIB = 1024 * 1024
_LOOK_EVERY_BYTES = _MIB  # of random words: 8 MB of table, and one doubling at most
_LOOK_LATER_EVERY_BYTES = 3 * _MIB  # a look takes 0.2 ms
_FULL_OF_NEW_BYTES = 16 * _MIB
_LONGEST_S = 2.0  # more than any block takes


class BoundedTokenizer:
    """A tokenizer for several threads, all of whose words stay within bounds together."""

    def __init__(
        self,
        gigatoken: Any,
        ranks: Mapping[bytes, int],
        *,
        special_tokens: Mapping[str, int] | None = None,
        own_bytes: Callable[[], int],
        most_bytes: float = inf,
    ) -> None:
        """Build it from `ranks`; `own_bytes` reads this process's anonymous memory.

        From now on, that may grow by `most_bytes`, counted as `held_bytes` does.
        """
        return_large_blocks()
        self.most_bytes = most_bytes
        self._gigatoken = gigatoken
        self._rank_lines = _rank_lines(ranks)
        self._special_tokens = dict(special_tokens or {})
        self._last_token = max(*ranks.values(), *self._special_tokens.values())
        self._own_bytes = own_bytes
        self._changed = threading.Condition()
        self._n_active = 0
        self._unseen_bytes = 0  # encoded since the last look at memory
        self._seen_bytes = 0  # encoded before that, since it was built
        self._share = 1.0
        self._is_changing = False  # it is being built anew
        self.generation = 0  # how often it was
        self._tokenizer: Any = self._build()
        trim_heap()  # 6 MB that the building took
        self._base_bytes = 0
        self._base_bytes = self.held_bytes()

    def encode(self, text: bytes) -> NDArray[np.uint16]:
        """Encode with the GIL released; then look after the memory.

        Raises:
            EngineMismatch: there is a token that the vocabulary does not have.
        """
        if not text:
            return np.empty(0, TOKEN_DTYPE)
        with self._changed:
            self._changed.wait_for(lambda: not self._is_changing)
            if self._tokenizer is None:  # whoever was to build it anew has failed
                self._tokenizer = self._build()
            tokenizer, generation = self._tokenizer, self.generation
            self._n_active += 1
        try:
            ids = self._encode_with(tokenizer, text)
        finally:
            del tokenizer  # it can go only when nobody has it
            with self._changed:
                self._n_active -= 1
                self._changed.notify_all()
        if self._is_time_to_look(len(text)) and self.held_bytes() > self._share * self.most_bytes:
            self._renew(generation)
        return ids

    def _encode_with(self, tokenizer: Any, text: bytes) -> NDArray[np.uint16]:
        # The call with the least around it: an array comes back, and awkward (0.3 s, 15 MB) is not imported.
        # Up to 1 MiB is encoded in the calling thread, with one of the pool's memories.
        matrix, _ = tokenizer.encode_batch_padded(self._gigatoken.BytesSource([text]), 0, parallel=True)
        if matrix.max(initial=0) > self._last_token:  # the cast would make another token of it
            raise EngineMismatch(0, len(text))
        ids: NDArray[np.uint16] = matrix[0].astype(TOKEN_DTYPE)
        return ids

    def renew(self) -> None:
        """Forget all words."""
        self._renew(self.generation)

    def held_bytes(self) -> int:
        """Say by how much the process has grown since this was built, the large tables counted twice.

        A full one is replaced by one of twice the size, and both are there while its words move over. What
        others have said that they use (`malloc.uses_block`) is left out.
        """
        return self._own_bytes() + large_bytes() - used_bytes() - self._base_bytes

    def _is_time_to_look(self, n_bytes: int) -> bool:
        """Whether so much has been encoded that another look at memory is worth its time."""
        with self._changed:
            self._unseen_bytes += n_bytes
            is_early = self._seen_bytes < _FULL_OF_NEW_BYTES
            if self._unseen_bytes < (_LOOK_EVERY_BYTES if is_early else _LOOK_LATER_EVERY_BYTES):
                return False
            self._seen_bytes += self._unseen_bytes
            self._unseen_bytes = 0
        return True

    def _renew(self, generation: int) -> None:
        """Build it anew once nobody uses it, unless somebody has done so since `generation`."""
        with self._changed:
            if self._is_changing or self.generation != generation:
                return
            self._is_changing = True  # nobody begins
            try:
                # A thread that was refused memory never comes back.
                if self._changed.wait_for(lambda: self._n_active == 0, timeout=_LONGEST_S):
                    self._tokenizer = None
                    self.generation += 1
                    # In text full of new words all threads' tables double at once: be early for that.
                    self._share = 2 / 3 if self._seen_bytes < _FULL_OF_NEW_BYTES else 1.0
                    self._seen_bytes = 0
                    trim_heap()
                    self._tokenizer = self._build()
            finally:  # also when there was no memory to build it: nobody is to wait for ever
                self._is_changing = False
                self._changed.notify_all()

    def _build(self) -> Any:
        with _named_file(self._rank_lines) as path:
            return self._gigatoken.Tokenizer.from_tiktoken(
                path, pretokenizer="gpt2", special_tokens=self._special_tokens
            )


def _rank_lines(ranks: Mapping[bytes, int]) -> bytes:
    """Write ranks as a .tiktoken file has them."""
    return b"".join([b"%b %d\n" % (b2a_base64(token, newline=False), rank) for token, rank in ranks.items()])


@contextlib.contextmanager
def _named_file(content: bytes) -> Iterator[str]:
    """Give bytes a path, for gigatoken wants one; in memory where that can be."""
    with contextlib.ExitStack() as stack:
        if hasattr(os, "memfd_create"):
            file: Any = stack.enter_context(os.fdopen(os.memfd_create("ranks"), "wb"))
            path = f"/proc/self/fd/{file.fileno()}"
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            path = os.path.join(folder, "ranks.tiktoken")  # noqa: PTH118 - a str, like the one above
            file = stack.enter_context(open(path, "wb"))  # noqa: PTH123
        file.write(content)
        file.flush()
        yield path
