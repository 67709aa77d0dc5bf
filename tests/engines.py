"""Both engines, for tests of what they have in common and of where they differ."""

from importlib.metadata import version

import pytest
import tiktoken

from nanogpt_compat.encoders import Encoder, TiktokenEncoder
from nanogpt_compat.encoders.fast import GigatokenEncoder

NAMES = ("tiktoken", "gigatoken")


def open_encoder(name: str, gpt2: tiktoken.Encoding) -> Encoder:
    return TiktokenEncoder(gpt2) if name == "tiktoken" else open_gigatoken(gpt2)


def open_gigatoken(gpt2: tiktoken.Encoding) -> GigatokenEncoder:
    """Open it for two workers, with nothing that would have it built anew."""
    pytest.importorskip("gigatoken", exc_type=ImportError)
    return GigatokenEncoder(
        TiktokenEncoder(gpt2), version=version("gigatoken"), n_workers=2, own_bytes=lambda: 0
    )
