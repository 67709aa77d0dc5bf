"""What a run will make and how long it will take, from a few samples of the input."""

import time
from collections.abc import Callable, Mapping, Sequence
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


def estimate(
    texts: Mapping[int, Sequence[str]],
    sizes: Sequence[int],
    encode: Callable[[str], Any],
    *,
    text_bytes: int,
    n_workers: int,
) -> Estimate:
    """Encode samples, on one thread, and scale to the first `text_bytes` of the inputs.

    `texts`: samples by input index; `sizes`: bytes of each input. Each input has its own samples, for a
    byte gives from 0.2 tokens (English) to 0.7 (Chinese).
    """
    first = next((text for of_input in texts.values() for text in of_input), "")
    encode(first)  # what the first call sets up is not the speed
    n_bytes = 0
    tokens = 0.0
    started_s = time.perf_counter()
    for index, of_input in texts.items():
        bytes_here = sum(len(text.encode()) for text in of_input)
        tokens_here = sum(len(encode(text)) for text in of_input)
        tokens += sizes[index] * tokens_here / max(1, bytes_here)
        n_bytes += bytes_here
    elapsed_s = time.perf_counter() - started_s
    threads = 1 if n_workers == 1 else n_workers * _THREAD_YIELD
    seconds = elapsed_s * text_bytes / max(1, n_bytes) / threads
    return Estimate(text_bytes, round(tokens * text_bytes / max(1, sum(sizes))), seconds)
