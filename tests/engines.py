"""The engines for tests, the characters on which they are known to differ, and the pipeline around one."""

from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from numpy.typing import NDArray

from nanogpt_compat import pipeline
from nanogpt_compat.encoders.fast import GigatokenEncoder
from nanogpt_compat.encoders.interface import Encoder
from nanogpt_compat.encoders.new_letters import NEW_LETTERS
from nanogpt_compat.encoders.reference import TiktokenEncoder
from nanogpt_compat.input.location import Format, Input
from nanogpt_compat.input.source import Source
from nanogpt_compat.resume.counters import InputTally, Tally
from nanogpt_compat.text.documents import Documents
from tests.reference import Tokens

NAMES = ("tiktoken", "gigatoken")
SURROGATES = range(0xD800, 0xE000)


def open_encoder(name: str, gpt2: tiktoken.Encoding) -> Encoder:
    return TiktokenEncoder(gpt2) if name == "tiktoken" else open_gigatoken(gpt2)


def open_gigatoken(
    gpt2: tiktoken.Encoding,
    *,
    n_workers: int = 2,
    own_bytes: Callable[[], int] = lambda: 0,
    cache_bytes: int | None = None,
) -> GigatokenEncoder:
    """Open it; without `own_bytes`, it is never rebuilt."""
    pytest.importorskip("gigatoken", exc_type=ImportError)
    return GigatokenEncoder(
        TiktokenEncoder(gpt2),
        version=version("gigatoken"),
        n_workers=n_workers,
        own_bytes=own_bytes,
        cache_bytes=cache_bytes,
    )


@cache
def new_letters() -> tuple[str, ...]:
    """Every character that some versions of Unicode do not know: those that need tiktoken."""
    return tuple(chr(code) for first, last in NEW_LETTERS for code in range(first, last + 1))


class Lists:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.parts: dict[bool, list[NDArray[np.uint16]]] = {False: [], True: []}
        self.ends: dict[bool, list[int]] = {False: [], True: []}  # document ends, in all tokens of the split
        self._n_tokens = {False: 0, True: 0}

    def append(
        self, tokens: NDArray[np.uint16], *, is_val: bool, ends: NDArray[np.int64] | None = None
    ) -> None:
        self.parts[is_val].append(tokens.copy())  # a shuffle uses its memory again
        self.ends[is_val] += [] if ends is None else (ends + self._n_tokens[is_val]).tolist()
        self._n_tokens[is_val] += len(tokens)

    def pair(self) -> tuple[Tokens, Tokens]:
        empty = np.array([], dtype=np.uint16)
        train, val = (np.concatenate([empty, *self.parts[is_val]]) for is_val in (False, True))
        return train, val


def tokenise(
    paths: Sequence[Path],
    encoder: Encoder,
    *,
    windows: Sequence[tuple[int, int]] = (),
    errors: str = "ignore",
    documents: Documents | None = None,
    n_workers: int = 2,
    block_bytes: int = 1 << 20,
    max_chars: int | None = None,
    max_tokens: int | None = None,
    tally: Tally | None = None,
    end: int | None = None,
    sink: Lists | None = None,
    n_val_inputs: int = 0,
) -> tuple[tuple[Tokens, Tokens], Tally]:
    """Run the pipeline from the place of `tally` up to byte `end` of that input, if given."""
    sink = sink or Lists()
    tally = tally or Tally([InputTally() for _ in paths])
    source = Source(
        inputs=[Input(path, Format("text"), {"size": path.stat().st_size}) for path in paths],
        n_val_inputs=n_val_inputs,
        windows=windows,
        documents=documents,
        errors=errors,
        block_bytes=block_bytes,
        end=end,
    )
    pipeline.run(
        source,
        tally,
        sink,
        encoder,
        n_workers=n_workers,
        max_chars=max_chars,
        max_tokens=max_tokens,
        admit=lambda cost, in_flight: cost + in_flight < 1 << 20,
        after_block=lambda: None,
        check=lambda: None,
    )
    return sink.pair(), tally
