"""What a run will make and how long it will take, from a few samples of the input."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nanogpt_compat.errors import EngineFailure

# Threads over one tiktoken reach this share of linear: 0.75 of 2 on 2 cores.
_THREAD_YIELD = 0.75


@dataclass(frozen=True, slots=True)
class Estimate:
    """A forecast for `text_bytes` of input."""

    text_bytes: int
    tokens: int
    seconds: float

    @property
    def output_bytes(self) -> int:
        """Size of train.bin and val.bin together."""
        return 2 * self.tokens


class Estimator:
    """Encodes samples of one input after another, on one thread, and scales to the whole.

    Each input has its own tokens per byte, from 0.2 (English) to 0.7 (Chinese), and bytes per character.
    """

    def __init__(
        self, encode: Callable[[bytes], Any], *, slowness: float = 1.0, max_chars: int | None = None
    ) -> None:
        """Forecast for the first `max_chars` characters of all inputs together; None is all of them.

        Samples are so short that an engine which remembers words would meet all of them for the first time;
        if `slowness` is not 1, they are encoded twice, and the second time is taken that much longer.
        """
        self._encode = encode
        self._slowness = slowness
        self._left_chars = float("inf") if max_chars is None else float(max_chars)
        self._sampled_bytes = 0
        self._text_bytes = self._tokens = self._elapsed_s = 0.0

    def add(self, texts: Sequence[str], *, sampled_bytes: int, size_bytes: int) -> None:
        """Take what `sampled_bytes` of an input of `size_bytes` were decoded to."""
        if self._slowness != 1:
            for text in texts:
                self._count(text)
        elif not self._sampled_bytes and texts:
            self._count(texts[0])  # what the first call sets up is not the speed
        started_s = time.perf_counter()
        n_tokens = sum(map(self._count, texts))
        self._elapsed_s += self._slowness * (time.perf_counter() - started_s)
        self._sampled_bytes += sampled_bytes
        scale = size_bytes / max(1, sampled_bytes)
        n_chars = scale * sum(map(len, texts))
        share = min(1.0, self._left_chars / max(1.0, n_chars))
        self._left_chars -= share * n_chars
        self._text_bytes += share * size_bytes
        self._tokens += share * scale * n_tokens

    def _count(self, text: str) -> int:
        """Count the tokens of a sample; guess where no engine takes it: the run names the place."""
        try:
            return len(self._encode(text.encode()))
        except EngineFailure:
            return len(text) // 4

    def estimate(self, *, n_workers: int) -> Estimate:
        """Forecast for everything that was added."""
        threads = 1 if n_workers == 1 else n_workers * _THREAD_YIELD
        seconds = self._elapsed_s * self._text_bytes / max(1, self._sampled_bytes) / threads
        return Estimate(round(self._text_bytes), round(self._tokens), seconds)
