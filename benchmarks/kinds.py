"""The kinds of input that the benchmarks use: one generator for each, listed in the table at the end.

A generator yields bytes without end, or until real text runs out; the writer decides on the size.
"""

import base64
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from benchmarks.markov import invent, learn

_CHAIN_CHARS = 60_000_000  # text to learn from; takes up to 800 MB of memory while a file is made
_CHUNK_BYTES = 1 << 20
_INVALID_EVERY_BYTES = 100


@dataclass(frozen=True, slots=True)
class Text:
    """Where documents come from. `name` is also the folder of the corpora made from them."""

    name: str
    fingerprint: str  # changes whenever the text may have changed
    documents: Callable[[int, str], Iterator[str]]  # (seed, "" or "cjk" or "en") -> each once, shuffled


Make: TypeAlias = Callable[[Text, int], Iterator[bytes]]  # the bytes of a kind, from a text and a seed


def _prose(change: Callable[[str], str] = str, only: str = "") -> Make:
    """Return a generator of each document once, changed by `change`, and then of generated ones."""

    def make(text: Text, seed: int) -> Iterator[bytes]:
        for document in text.documents(seed, only):
            yield change(document).encode()
        for document in invent(learn(text.documents(seed, only), _CHAIN_CHARS), seed):
            yield change(document).encode()

    return make


def _real(only: str = "") -> Make:
    """Return a generator of each document once."""
    return lambda text, seed: (document.encode() for document in text.documents(seed, only))


def _separate_pieces(document: str) -> str:
    """Cut a document into pieces of about 50 bytes, each with U+001E after it: 20 million in 1 GB."""
    starts = range(0, len(document), 38)  # characters, of 1.3 bytes on average
    return "".join(document[start : start + 38] + "\x1e" for start in starts)


def _invalid(text: Text, seed: int) -> Iterator[bytes]:
    """Yield prose in which about one byte in a hundred is replaced by one from 0x80 to 0xFF.

    This makes lone continuation bytes, incomplete sequences, bytes that UTF-8 never uses, and characters of
    two to four bytes that are broken in the middle.
    """
    rng = np.random.default_rng(seed)
    chunk = bytearray()
    for document in _prose()(text, seed):
        chunk += document
        if len(chunk) >= _CHUNK_BYTES:
            data = np.frombuffer(chunk, np.uint8)
            places = rng.integers(0, len(data), len(data) // _INVALID_EVERY_BYTES)
            data[places] = rng.integers(0x80, 0x100, len(places))
            yield data.tobytes()
            chunk = bytearray()


def _letters(_: Text, seed: int) -> Iterator[bytes]:
    """Yield random letters a-z and A-Z, with no break at all."""
    alphabet = np.frombuffer(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", np.uint8)
    rng = np.random.default_rng(seed)
    while True:
        yield alphabet[rng.integers(0, len(alphabet), _CHUNK_BYTES)].tobytes()


def _words(_: Text, seed: int) -> Iterator[bytes]:
    """Yield random words of eight letters: hardly any repeats, so a cache of words only grows."""
    rng = np.random.default_rng(seed)
    while True:
        table = rng.integers(ord("a"), ord("z") + 1, (_CHUNK_BYTES // 9, 9), dtype=np.uint8)
        table[:, 8] = ord(" ")
        table[15::16, 8] = ord("\n")
        yield table.tobytes()


def _hex_lines(_: Text, seed: int) -> Iterator[bytes]:
    """Yield random hexadecimal digits in lines of 64, like a list of checksums."""
    rng = np.random.default_rng(seed)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    while True:
        lines = np.full((_CHUNK_BYTES // 65, 65), ord("\n"), np.uint8)
        lines[:, :64] = digits[rng.integers(0, 16, (len(lines), 64), dtype=np.uint8)]
        yield lines.tobytes()


def _written(write: Callable[[bytes], bytes]) -> Make:
    """Return a generator of random bytes written as text, 57 * 16,384 at a time: 57 fill a line of base64."""

    def make(_: Text, seed: int) -> Iterator[bytes]:
        rng = random.Random(seed)
        return (write(rng.randbytes(57 * 16_384)) for _ in itertools.count())

    return make


KINDS: dict[str, tuple[Make, str]] = {
    "prose": (_prose(), "prose in many languages"),
    "english": (_prose(only="en"), "prose in English"),
    "real": (_real(), "only the real part of that; --size must not be larger"),
    "repeated": (
        lambda text, seed: itertools.cycle([*_real("en")(text, seed)]),
        "only the real part of english, again and again",
    ),
    "one_line": (_prose(lambda document: " ".join(document.split()) + " "), "prose, one line"),
    "no_space": (_prose(lambda document: "".join(document.split())), "prose, all white space removed"),
    "cjk": (_prose(lambda document: document.replace("\n", ""), "cjk"), "Chinese and Japanese, one line"),
    "letters": (_letters, "random letters, no break"),
    "short_lines": (_prose(lambda document: "\n".join(document.split()) + "\n"), "prose, one word a line"),
    "separated": (_prose(lambda document: f"{document}\x1e"), "prose, documents with a separator"),
    "fifty": (_prose(_separate_pieces), "prose, documents of 50 bytes with a separator"),
    "crlf": (_prose(lambda document: document.replace("\n", "\r\n")), "prose, Windows line ends"),
    "invalid": (_invalid, "prose, invalid bytes throughout"),
    "words": (_words, "random 8-letter words"),
    "hex": (_written(lambda chunk: chunk.hex().encode()), "random hexadecimal digits"),
    "hex_lines": (_hex_lines, "random hexadecimal digits, in lines of 64"),
    "base64": (_written(base64.encodebytes), "random base64, in lines"),
}
