"""Look across an input before reading it: is it UTF-8 text, and what will come of it."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanogpt_compat.errors import InputError
from nanogpt_compat.sources.text import TextFile, find_invalid_bytes

_SAMPLE_BYTES = 16 * 1024
_MIN_SAMPLE_BYTES = 512
_N_SAMPLES = 32  # over all inputs: 512 KiB, 25 ms of encoding
_N_EACH = 4  # of each input at least, while there are not too many
_MANY_INPUTS = 256
_MAX_BAD_SHARE = 0.01

# UTF-32's little-endian mark begins with UTF-16's, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32LE"),
    (codecs.BOM_UTF32_BE, "UTF-32BE"),
    (codecs.BOM_UTF16_LE, "UTF-16LE"),
    (codecs.BOM_UTF16_BE, "UTF-16BE"),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """Some bytes of an input, without the pieces of characters at its two ends."""

    offset: int
    data: bytes


def take_samples(path: Path, *, total_bytes: int, n_inputs: int) -> list[Sample]:
    """Read samples of 16 KiB, evenly spaced over an input that is one of `n_inputs` with `total_bytes`.

    At least four; but with hundreds of inputs fewer and smaller ones, so that all of them take a few
    seconds at most. The bytes depend on nothing but the arguments and the input.

    Raises:
        InputError: it cannot be read.
    """
    sample_bytes = max(_MIN_SAMPLE_BYTES, min(_SAMPLE_BYTES, 64 * _SAMPLE_BYTES // n_inputs))
    n_each = _N_EACH if n_inputs <= _MANY_INPUTS else 1
    with TextFile(path) as file:
        n_samples = max(n_each, _N_SAMPLES * file.size_bytes // max(1, total_bytes))
        if file.size_bytes <= n_samples * sample_bytes:
            offsets = list(range(0, file.size_bytes, sample_bytes))
        else:
            offsets = [
                k * (file.size_bytes - sample_bytes) // max(1, n_samples - 1) for k in range(n_samples)
            ]
        return [_trim(offset, file.read(sample_bytes, offset)) for offset in offsets]


def _trim(offset: int, data: bytes) -> Sample:
    """Cut off the character that the sample's beginning or end falls into: it is not invalid."""
    start = 0
    while offset and start < min(3, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    decoder.decode(data[start:])
    unfinished = decoder.getstate()[0]
    return Sample(offset + start, data[start : len(data) - len(unfinished)])


def check_is_utf8(path: Path, samples: Sequence[Sample]) -> None:
    """Refuse an input that is text in another charset, or no text at all.

    In the wrong charset text goes quietly: UTF-16 is mostly valid UTF-8, and of GB18030 38 % survives
    as garbage.

    Raises:
        InputError: a mark of UTF-16 or UTF-32, or over 1 % of NUL or undecodable bytes in the samples.
    """
    head = samples[0].data if samples and samples[0].offset == 0 else b""
    for mark, charset in _MARKS:
        if head.startswith(mark):
            raise _not_utf8(path, f"begins with the byte order mark of {charset}", charset)
    n_bytes = sum(len(sample.data) for sample in samples)
    n_bad = sum(find_invalid_bytes(sample.data)[0] + sample.data.count(0) for sample in samples)
    if n_bad > n_bytes * _MAX_BAD_SHARE:
        found = f"has {n_bad / n_bytes:.0%} NUL or undecodable bytes in samples across the file"
        raise _not_utf8(path, found, _guess_charset(b"".join(sample.data for sample in samples)))


def _guess_charset(data: bytes) -> str | None:
    """Name the likely charset, or None."""
    even, odd = data[::2].count(0), data[1::2].count(0)
    if even + odd > len(data) // 20:
        if min(even, odd) > len(data) // 4:
            return None  # mostly NUL: a binary file
        return "UTF-16LE" if odd > even else "UTF-16BE"
    try:
        from charset_normalizer import from_bytes  # comes with requests, and that with tiktoken
    except ImportError:
        return None
    best = from_bytes(data[: 4 * _SAMPLE_BYTES]).best()
    return None if best is None else best.encoding.upper().replace("_", "-")


def _not_utf8(path: Path, found: str, charset: str | None) -> InputError:
    """Say what was found and how to convert it."""
    advice = (
        f"it looks like {charset}; convert it with\n  iconv -f {charset} -t UTF-8 '{path}' > '{path}.utf8'\n"
        if charset is not None
        else "it does not look like text in any charset known here\n"
    )
    return InputError(
        f"{path} {found}: {advice}"
        "or give --errors ignore (or replace) to take it as it is, dropping what is not UTF-8"
    )
