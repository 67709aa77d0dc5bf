"""The reference engine: tiktoken."""

from collections.abc import Sequence, Set

import numpy as np
import tiktoken
from numpy.typing import NDArray

from nanogpt_compat.encoders.interface import TOKEN_DTYPE, Tokens, is_failure
from nanogpt_compat.errors import EngineFailure, InputError
from nanogpt_compat.text.cuts import longest_stretch_bytes
from nanogpt_compat.text.documents import END_OF_TEXT, MARK

_MARK = MARK.decode()


def with_mark(encoding: tiktoken.Encoding) -> tiktoken.Encoding:
    """Return an encoding that has the mark between documents as its end-of-text token; takes 50 ms."""
    return tiktoken.Encoding(
        encoding.name,
        pat_str=encoding._pat_str,
        mergeable_ranks=encoding._mergeable_ranks,
        special_tokens={_MARK: END_OF_TEXT},
    )


class TiktokenEncoder:
    """tiktoken, without its detour through a Python list. Its tokens are right by definition."""

    name = "tiktoken"
    version = tiktoken.__version__
    peak_bytes = 160_000_000
    cache_bytes = 0
    most_workers = 1 << 10  # no limit
    slowness = 1.0

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        """Raise InputError if tokens of the encoding do not fit into uint16, which would corrupt them."""
        if encoding.n_vocab > 1 << 16:
            raise InputError(f"{encoding.name} has {encoding.n_vocab:,} tokens; uint16 holds 65,536")
        self.encoding = encoding

    def encode(self, text: bytes) -> NDArray[np.uint16]:
        """Encode like tiktoken's `encode_ordinary`, but at 22 instead of 16 MB/s, with the GIL released.

        Raises:
            EngineFailure: tiktoken failed, as 0.14 does on a million white-space characters before a word,
                and versions before 0.12 on long runs of one character.

        >>> from nanogpt_compat.encoders.vocabulary import load_gpt2
        >>> TiktokenEncoder(load_gpt2()).encode(b"hello world")
        array([31373,   995], dtype=uint16)
        """
        return self._encode(text, self.encoding.special_tokens_set & {_MARK})

    def encode_literally(self, text: bytes) -> NDArray[np.uint16]:
        """Encode like tiktoken's `encode_ordinary`, with `MARK` as ordinary text."""
        return self._encode(text, set())

    def _encode(self, text: bytes, special: Set[str]) -> NDArray[np.uint16]:
        try:
            ids = self.encoding.encode_to_numpy(text.decode(), allowed_special=special, disallowed_special=())
        except BaseException as error:
            if not is_failure(error):
                raise
            raise EngineFailure(f"tiktoken {tiktoken.__version__} failed: {error}") from error
        return ids.astype(TOKEN_DTYPE)

    def encode_checked(
        self, text: bytes, check_at: Sequence[int] | None, non_ascii: bytes | None = None
    ) -> Tokens:
        """Encode; there is nothing to check it against."""
        return Tokens(self.encode(text))

    def cost_bytes(self, text: bytes) -> int:
        """Bound the memory: 8 bytes a byte for raw, text and tokens, 45 more for BPE in unbroken text."""
        return 8 * len(text) + 45 * longest_stretch_bytes(text)

    def lower_cache_bytes(self, n_bytes: int) -> None:
        """Do nothing: there is no cache."""

    def drop_caches(self) -> None:
        """Do nothing: there is no cache."""
