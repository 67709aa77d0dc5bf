"""What a run will make and how long it will take, from a few samples of the input."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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

    Each input has its own tokens per byte: from 0.2 (English) to 0.7 (Chinese).
    """

    def __init__(self, encode: Callable[[str], Any]) -> None:
        self._encode = encode
        self._sampled_bytes = self._input_bytes = 0
        self._tokens = self._elapsed_s = 0.0

    def add(self, texts: Sequence[str], size_bytes: int) -> None:
        """Take samples of an input of `size_bytes`."""
        if not self._sampled_bytes and texts:
            self._encode(texts[0])  # what the first call sets up is not the speed
        started_s = time.perf_counter()
        n_tokens = sum(len(self._encode(text)) for text in texts)
        self._elapsed_s += time.perf_counter() - started_s
        n_bytes = sum(len(text.encode()) for text in texts)
        self._tokens += size_bytes * n_tokens / max(1, n_bytes)
        self._sampled_bytes += n_bytes
        self._input_bytes += size_bytes

    def estimate(self, *, text_bytes: int, n_workers: int) -> Estimate:
        """Forecast for the first `text_bytes` of all inputs together."""
        tokens = self._tokens * text_bytes / max(1, self._input_bytes)
        threads = 1 if n_workers == 1 else n_workers * _THREAD_YIELD
        seconds = self._elapsed_s * text_bytes / max(1, self._sampled_bytes) / threads
        return Estimate(text_bytes, round(tokens), seconds)
