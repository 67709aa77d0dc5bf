"""The interface of an engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TOKEN_DTYPE = np.dtype("<u2")  # as which nanoGPT's train.py maps train.bin


class EngineMismatch(Exception):
    """An engine's tokens for some bytes are not tiktoken's, so all that it made before is suspect.

    This is not the user's error: the run starts over with tiktoken.
    """

    def __init__(self, start: int, end: int, *, path: object = None) -> None:
        """Name the bytes, counted from the start of the text or, with `path`, of the file."""
        super().__init__(f"bytes {start:,} to {end:,}" + (f" of {path}" if path else ""))
        self._start = start
        self._end = end

    def at(self, path: object, offset: int) -> "EngineMismatch":
        """Return the same error for a file in which the text starts at `offset`."""
        return EngineMismatch(offset + self._start, offset + self._end, path=path)


def is_failure(error: BaseException) -> bool:
    """Whether the error is an engine's failure on a text, not a lack of memory or a stop by the user.

    Rust's panic reaches Python as a BaseException whose class cannot be imported.
    """
    if isinstance(error, Exception):
        return not isinstance(error, MemoryError | EngineMismatch)
    return type(error).__name__ == "PanicException"


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a text, and how they were made."""

    ids: NDArray[np.uint16]  # (n,)
    n_checked: int = 0  # slices that tiktoken has encoded too
    by_reference: bool = False  # tiktoken has encoded it: the engine would have differed, or failed


class Encoder(Protocol):
    """An engine. Its methods are called from several threads at once. All text is valid UTF-8.

    An engine opened for documents encodes `documents.MARK` in the text as GPT-2's end-of-text token.
    """

    name: str
    version: str
    peak_bytes: int  # bound of the memory of a whole run, checked by benchmarks/peak_rss.py
    cache_bytes: int  # bound of the memory kept between blocks, with the blocks that are being encoded
    most_workers: int  # more do not make it faster
    slowness: float  # the time for a text over the time for the same text a second time

    def encode(self, text: bytes) -> NDArray[np.uint16]:
        """Return tokens of `text`, (n,) uint16, as fast as possible; they may differ from tiktoken's."""

    def encode_checked(
        self, text: bytes, check_at: Sequence[int] | None, non_ascii: bytes | None = None
    ) -> Tokens:
        """Return the tokens of tiktoken's `encode_ordinary`.

        Unless this engine is tiktoken, tiktoken encodes a slice at each offset of `check_at` too (all of
        `text` if that is None). `non_ascii` is the part of `text` that is not ASCII, if the caller knows it.

        Raises:
            EngineMismatch: the tokens differ.
            EngineFailure: tiktoken cannot encode the text either.
        """

    def encode_literally(self, text: bytes) -> NDArray[np.uint16]:
        """Return the tokens of tiktoken's `encode_ordinary`, with `documents.MARK` as ordinary text."""

    def cost_bytes(self, text: bytes) -> int:
        """Bound the memory that encoding `text` takes, with the text and its tokens."""

    def lower_cache_bytes(self, n_bytes: int) -> None:
        """Keep at most `n_bytes` from now on."""

    def drop_caches(self) -> None:
        """Free the memory that is kept between blocks."""
