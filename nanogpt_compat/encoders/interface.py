"""What the pipeline needs of an engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TOKEN_DTYPE = np.dtype("<u2")  # what nanoGPT's train.py maps train.bin as


class EngineMismatch(Exception):
    """An engine made other tokens of some bytes than tiktoken; whatever it made before is suspect.

    No error of the user's: the run begins again, and ends well.
    """

    def __init__(self, start: int, end: int, *, path: object = None) -> None:
        """Name the bytes, counted from the beginning of the text or, with `path`, of a file."""
        super().__init__(f"bytes {start:,} to {end:,}" + (f" of {path}" if path else ""))
        self._start = start
        self._end = end

    def at(self, path: object, offset: int) -> "EngineMismatch":
        """Say the same of a file in which the text begins at `offset`."""
        return EngineMismatch(offset + self._start, offset + self._end, path=path)


def is_failure(error: BaseException) -> bool:
    """Whether an engine has failed on a text, as opposed to memory that is short or a stop by the user.

    Rust's panic reaches Python as a BaseException of no importable class.
    """
    if isinstance(error, Exception):
        return not isinstance(error, MemoryError | EngineMismatch)
    return type(error).__name__ == "PanicException"


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a block, and how they came about."""

    ids: NDArray[np.uint16]  # (n,)
    n_checked: int = 0  # slices that tiktoken has encoded too
    by_reference: bool = False  # the engine would have erred on this text, so tiktoken has encoded it


class Encoder(Protocol):
    """An engine; its methods are called from several threads at once. All text is valid UTF-8.

    One that is opened for documents takes `documents.MARK` in the text for GPT-2's end-of-text token.
    """

    name: str
    version: str
    peak_bytes: int  # what a run with it takes at most, all told: benchmarks/peak_rss.py holds it to that
    cache_bytes: int  # what it may keep from one block to the next, with the blocks it is at work on
    most_workers: int  # more are of no use
    slowness: float  # how much longer text takes than the same text a second time
    most_block_bytes: int  # larger blocks are not faster, and take longer to stop for

    def encode(self, text: bytes) -> NDArray[np.uint16]:
        """Return tokens of `text`, `(n,) uint16`, as fast as it can; not sure to be `encode_ordinary`'s."""
        ...

    def encode_checked(self, text: bytes, check_at: Sequence[int] | None) -> Tokens:
        """Return the tokens that `encode_ordinary` gives.

        A slice at each offset of `check_at` (all of `text` if it is None) is encoded by tiktoken too, unless
        this is tiktoken.

        Raises:
            EngineMismatch: they are not the same.
            EngineFailure: tiktoken cannot encode the text either.
        """
        ...

    def encode_literally(self, text: bytes) -> NDArray[np.uint16]:
        """Return the tokens that `encode_ordinary` gives, the mark between documents being text, too."""
        ...

    def expect(self, text: bytes) -> None:
        """Get ready for text like this, without waiting for it."""
        ...

    def cost_bytes(self, text: bytes) -> int:
        """Bound the memory that encoding `text` takes, what is read and what comes out included."""
        ...

    def lower_cache_bytes(self, n_bytes: int) -> None:
        """Keep no more than so much from now on."""
        ...

    def drop_caches(self) -> None:
        """Give back what it keeps from one block to the next."""
        ...
