"""Forecast tokens and time from a few samples of the input."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Any

from nanogpt_compat.errors import EngineFailure
from nanogpt_compat.text.documents import MARK

_THREAD_YIELD = 0.75  # speed-up by n threads, divided by n: measured with two tiktoken threads on 2 cores
_TIMED_CHARS = 128 * 1024
_CALL_CHARS = 16 * 1024  # encoded in one call: enough that the cost of a call does not count


@dataclass(frozen=True, slots=True)
class Estimate:
    """A forecast for `text_bytes` of input."""

    text_bytes: int
    tokens: int
    seconds: float
    val_tokens: int = 0  # from inputs for val alone
    documents: int = 0  # as far as the samples mark their ends

    @property
    def output_bytes(self) -> int:
        """Size of train.bin and val.bin together."""
        return 2 * self.tokens


class Estimator:
    """Encode samples of each input in turn, on one thread, and scale them to the whole input.

    Inputs are scaled one by one: tokens per byte range from 0.2 (English) to 0.7 (Chinese), and bytes per
    character differ too.
    """

    def __init__(
        self,
        encode: Callable[[bytes], Any],
        *,
        slowness: float = 1.0,
        max_chars: int | None = None,
        max_tokens: int | None = None,
    ) -> None:
        """Forecast for the first `max_chars` characters, or `max_tokens`, of all inputs; None is all of them.

        Inputs for val alone do not count, and are never limited.

        An engine that remembers words meets most words of such short samples for the first time, which is
        slow. So the time is that of encoding them a second time, multiplied by `slowness`.
        """
        self._encode = encode
        self._slowness = slowness
        self._left_chars = float("inf") if max_chars is None else float(max_chars)
        self._left_tokens = float("inf") if max_tokens is None else float(max_tokens)
        self._timed_chars = 0
        self._text_bytes = self._chars = self._tokens = self._elapsed_s = self._reading_s = 0.0
        self._val_tokens = self._documents = 0.0

    def add(
        self,
        texts: Sequence[str],
        *,
        weights: Sequence[float] | None = None,
        sampled_bytes: float,
        size_bytes: int,
        read_bytes_per_s: float = float("inf"),
        is_val: bool = False,
    ) -> None:
        """Add an input of `size_bytes`; `texts` are what `sampled_bytes` of it decode to.

        `is_val`: it is for val alone. `weights`: how many times each text counts; None: once.
        `read_bytes_per_s`: how fast its text is read, if that may take longer than encoding it.
        """
        weights = [1.0] * len(texts) if weights is None else weights
        counts = list(map(self._count, texts))
        timed = _join(texts)
        started_s = time.perf_counter()
        for text in timed:
            self._count(text)
        self._elapsed_s += self._slowness * (time.perf_counter() - started_s)
        scale = size_bytes / max(1, sampled_bytes)
        n_chars = scale * sum(map(mul, map(len, texts), weights))
        n_tokens = scale * sum(map(mul, counts, weights))
        share = 1.0
        if not is_val:
            share = min(1.0, self._left_chars / max(1.0, n_chars), self._left_tokens / max(1.0, n_tokens))
            self._left_chars -= share * n_chars
            self._left_tokens -= share * n_tokens
        self._text_bytes += share * size_bytes
        self._timed_chars += sum(map(len, timed))
        self._chars += share * n_chars
        self._tokens += share * n_tokens
        self._val_tokens += n_tokens if is_val else 0.0
        marks = [text.count(MARK.decode()) for text in texts]
        self._documents += share * scale * sum(map(mul, marks, weights))
        self._reading_s += share * n_chars / read_bytes_per_s

    def _count(self, text: str) -> int:
        """Count the tokens of a sample; guess if no engine can encode it, since the run names the place."""
        try:
            return len(self._encode(text.encode()))
        except EngineFailure:
            return len(text) // 4

    def estimate(self, *, n_workers: int) -> Estimate:
        """Return the forecast for all inputs that were added."""
        threads = 1 if n_workers == 1 else n_workers * _THREAD_YIELD
        seconds = self._elapsed_s * self._chars / max(1, self._timed_chars) / threads
        # One thread reads while the others encode.
        seconds = max(seconds, self._reading_s)
        counts = map(round, (self._val_tokens, self._documents))
        return Estimate(round(self._text_bytes), round(self._tokens), seconds, *counts)


def _join(texts: Sequence[str]) -> list[str]:
    """Return about `_TIMED_CHARS` of the texts, taken evenly, in pieces of `_CALL_CHARS`."""
    step = sum(map(len, texts)) // _TIMED_CHARS + 1
    text = "".join(texts[::step])[: 2 * _TIMED_CHARS]
    return [text[place : place + _CALL_CHARS] for place in range(0, len(text), _CALL_CHARS)]
