"""The reference: tiktoken itself."""

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
    """Make an encoding that knows the mark between documents as its end-of-text token; 50 ms."""
    return tiktoken.Encoding(
        encoding.name,
        pat_str=encoding._pat_str,
        mergeable_ranks=encoding._mergeable_ranks,
        special_tokens={_MARK: END_OF_TEXT},
    )


class TiktokenEncoder:
    """tiktoken without the detour over a Python list; its tokens are right by definition."""

    name = "tiktoken"
    version = tiktoken.__version__
    peak_bytes = 160_000_000
    cache_bytes = 0
    most_workers = 1 << 10  # whatever the machine has
    most_block_bytes = 1024 * 1024
    slowness = 1.0

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        """Take an encoding whose tokens fit into uint16.

        Raises:
            InputError: they do not; storing them would corrupt them silently.
        """
        if encoding.n_vocab > 1 << 16:
            raise InputError(f"{encoding.name} has {encoding.n_vocab:,} tokens; uint16 holds 65,536")
        self.encoding = encoding

    def encode(self, text: bytes) -> NDArray[np.uint16]:
        """Encode as `encode_ordinary` does (22 against 16 MB/s), with the GIL released.

        Raises:
            EngineFailure: tiktoken cannot: 0.14 on a million white-space characters with a word after them,
                versions before 0.12 on long runs of one character.

        >>> from nanogpt_compat.encoders.vocabulary import load_gpt2
        >>> TiktokenEncoder(load_gpt2()).encode(b"hello world")
        array([31373,   995], dtype=uint16)
        """
        return self._encode(text, self.encoding.special_tokens_set & {_MARK})

    def encode_literally(self, text: bytes) -> NDArray[np.uint16]:
        """Encode as `encode_ordinary` does, whatever the text holds."""
        return self._encode(text, set())

    def _encode(self, text: bytes, special: Set[str]) -> NDArray[np.uint16]:
        try:
            ids = self.encoding.encode_to_numpy(text.decode(), allowed_special=special, disallowed_special=())
        except BaseException as error:
            if not is_failure(error):
                raise
            raise EngineFailure(f"tiktoken {tiktoken.__version__} failed: {error}") from error
        return ids.astype(TOKEN_DTYPE)

    def encode_checked(self, text: bytes, check_at: Sequence[int] | None) -> Tokens:
        """Encode; there is nothing to check it against."""
        return Tokens(self.encode(text))

    def expect(self, text: bytes) -> None:
        """There is nothing to get ready."""

    def cost_bytes(self, text: bytes) -> int:
        """Count raw, text and tokens (8 bytes a byte), and BPE's own tables (45 for each unbroken one)."""
        return 8 * len(text) + 45 * longest_stretch_bytes(text)

    def lower_cache_bytes(self, n_bytes: int) -> None:
        """Nothing is kept."""

    def drop_caches(self) -> None:
        """Nothing is kept."""
