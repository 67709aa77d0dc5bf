"""The kinds of input that the benchmarks use: one generator for each, listed in the table at the end.

A generator yields bytes without end, or until real text runs out; the writer decides on the size.
"""

import base64
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from benchmarks.markov import invent, learn

_CHAIN_CHARS = 60_000_000  # text to learn from; takes up to 800 MB of memory while a file is made
_CHUNK_BYTES = 1 << 20
_INVALID_EVERY_BYTES = 100


class Text(Protocol):
    """Where documents come from: `RealText` or `BuiltinText`."""

    @property
    def name(self) -> str:
        """Name of the folder for corpora made from this text."""

    @property
    def fingerprint(self) -> str:
        """A string that changes whenever the text may have changed."""

    def documents(self, seed: int, *, only: str = "") -> Iterator[str]:
        """Yield each document, or each in `cjk` or `en`, once, in an order drawn from `seed`."""


def _real_then_invented(text: Text, seed: int, *, only: str = "") -> Iterator[str]:
    """Yield every document of `text` once, then generated ones, so that no document is repeated."""
    yield from text.documents(seed, only=only)
    chain = learn(text.documents(seed, only=only), _CHAIN_CHARS)
    yield from invent(chain, seed)


def prose(text: Text, seed: int) -> Iterator[bytes]:
    """Yield documents in many languages."""
    return (document.encode() for document in _real_then_invented(text, seed))


def english(text: Text, seed: int) -> Iterator[bytes]:
    """Yield documents in English only, like FineWeb's."""
    return (document.encode() for document in _real_then_invented(text, seed, only="en"))


def real(text: Text, seed: int) -> Iterator[bytes]:
    """Yield only the real documents, each once."""
    return (document.encode() for document in text.documents(seed))


def repeated(text: Text, seed: int) -> Iterator[bytes]:
    """Yield the real documents in English again and again."""
    return itertools.cycle([document.encode() for document in text.documents(seed, only="en")])


def one_line(text: Text, seed: int) -> Iterator[bytes]:
    """Yield prose with single spaces and no newline."""
    return ((" ".join(document.split()) + " ").encode() for document in _real_then_invented(text, seed))


def no_space(text: Text, seed: int) -> Iterator[bytes]:
    """Yield prose without any white space: letters, digits and punctuation stay."""
    return ("".join(document.split()).encode() for document in _real_then_invented(text, seed))


def cjk(text: Text, seed: int) -> Iterator[bytes]:
    """Yield Chinese and Japanese prose without a newline."""
    documents = _real_then_invented(text, seed, only="cjk")
    return (document.replace("\n", "").encode() for document in documents)


def short_lines(text: Text, seed: int) -> Iterator[bytes]:
    """Yield prose with one word a line."""
    return (("\n".join(document.split()) + "\n").encode() for document in _real_then_invented(text, seed))


def separated(text: Text, seed: int) -> Iterator[bytes]:
    """Yield documents in many languages, each with U+001E after it."""
    return (f"{document}\x1e".encode() for document in _real_then_invented(text, seed))


def fifty(text: Text, seed: int) -> Iterator[bytes]:
    """Yield documents of about 50 bytes, each with U+001E after it: 20 million in 1 GB."""
    for document in _real_then_invented(text, seed):
        starts = range(0, len(document), 38)  # characters, of 1.3 bytes on average
        yield "".join(document[start : start + 38] + "\x1e" for start in starts).encode()


def crlf(text: Text, seed: int) -> Iterator[bytes]:
    """Yield prose with Windows line ends."""
    return (document.replace("\n", "\r\n").encode() for document in _real_then_invented(text, seed))


def invalid(text: Text, seed: int) -> Iterator[bytes]:
    """Yield prose in which about one byte in a hundred is replaced by one from 0x80 to 0xFF.

    This makes lone continuation bytes, incomplete sequences, bytes that UTF-8 never uses, and characters of
    two to four bytes that are broken in the middle.
    """
    rng = np.random.default_rng(seed)
    for chunk in _chunked(prose(text, seed)):
        data = np.frombuffer(chunk, np.uint8).copy()
        places = rng.integers(0, len(data), len(data) // _INVALID_EVERY_BYTES)
        data[places] = rng.integers(0x80, 0x100, len(places))
        yield data.tobytes()


def _chunked(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Join small parts into chunks of about 1 MiB."""
    held: list[bytes] = []
    n_held = 0
    for part in parts:
        held.append(part)
        n_held += len(part)
        if n_held >= _CHUNK_BYTES:
            yield b"".join(held)
            held, n_held = [], 0
    yield b"".join(held)


def letters(text: Text, seed: int) -> Iterator[bytes]:
    """Yield random letters a-z and A-Z, with no break at all."""
    del text
    alphabet = np.frombuffer(
        bytes(range(ord("a"), ord("z") + 1)) + bytes(range(ord("A"), ord("Z") + 1)), np.uint8
    )
    rng = np.random.default_rng(seed)
    while True:
        yield alphabet[rng.integers(0, len(alphabet), _CHUNK_BYTES)].tobytes()


def words(text: Text, seed: int) -> Iterator[bytes]:
    """Yield random words of eight letters: hardly any repeats, so a cache of words only grows."""
    del text
    rng = np.random.default_rng(seed)
    while True:
        table = rng.integers(ord("a"), ord("z") + 1, (_CHUNK_BYTES // 9, 9), dtype=np.uint8)
        table[:, 8] = ord(" ")
        table[15::16, 8] = ord("\n")
        yield table.tobytes()


def hexadecimal(text: Text, seed: int) -> Iterator[bytes]:
    """Yield random hexadecimal digits, with no white space."""
    del text
    return (chunk.hex().encode() for chunk in _random_chunks(seed))


def hex_lines(text: Text, seed: int) -> Iterator[bytes]:
    """Yield random hexadecimal digits in lines of 64, like a list of checksums."""
    del text
    rng = np.random.default_rng(seed)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    while True:
        lines = np.full((_CHUNK_BYTES // 65, 65), ord("\n"), np.uint8)
        lines[:, :64] = digits[rng.integers(0, 16, (len(lines), 64), dtype=np.uint8)]
        yield lines.tobytes()


def base64_lines(text: Text, seed: int) -> Iterator[bytes]:
    """Yield random base64 in lines of 76 characters."""
    del text
    return (base64.encodebytes(chunk) for chunk in _random_chunks(seed))


def _random_chunks(seed: int) -> Iterator[bytes]:
    """Yield random bytes; the size of a chunk is a multiple of 57, which fills a line of base64."""
    rng = random.Random(seed)
    return (rng.randbytes(57 * 16_384) for _ in itertools.count())


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of input; `make(text, seed)` yields its bytes."""

    make: Callable[[Text, int], Iterator[bytes]]
    summary: str


KINDS = {
    "prose": Kind(prose, "prose in many languages"),
    "english": Kind(english, "prose in English"),
    "real": Kind(real, "only the real part of that; --size must not be larger"),
    "repeated": Kind(repeated, "only the real part of english, again and again"),
    "one_line": Kind(one_line, "prose, one line"),
    "no_space": Kind(no_space, "prose, all white space removed"),
    "cjk": Kind(cjk, "Chinese and Japanese, one line"),
    "letters": Kind(letters, "random letters, no break"),
    "short_lines": Kind(short_lines, "prose, one word a line"),
    "separated": Kind(separated, "prose, documents with a separator"),
    "fifty": Kind(fifty, "prose, documents of 50 bytes with a separator"),
    "crlf": Kind(crlf, "prose, Windows line ends"),
    "invalid": Kind(invalid, "prose, invalid bytes throughout"),
    "words": Kind(words, "random 8-letter words"),
    "hex": Kind(hexadecimal, "random hexadecimal digits"),
    "hex_lines": Kind(hex_lines, "random hexadecimal digits, in lines of 64"),
    "base64": Kind(base64_lines, "random base64, in lines"),
}
