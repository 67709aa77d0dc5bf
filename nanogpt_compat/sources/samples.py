"""Look across the inputs first: are they UTF-8 text, and what will come of them."""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanogpt_compat.errors import InputError
from nanogpt_compat.sources.text import TextFile, find_invalid_bytes

SAMPLE_BYTES = 16 * 1024
_N_SAMPLES = 32  # over all inputs: 512 KiB, 25 ms of encoding
_MIN_SAMPLES = 4  # for each input
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

    path: Path
    offset: int
    data: bytes


def take_samples(paths: Sequence[Path]) -> Iterator[Sample]:
    """Yield samples of 16 KiB, evenly spaced over each input; at least four of each, unless it is small.

    Raises:
        InputError: an input cannot be read.
    """
    total_bytes = sum(path.stat().st_size for path in paths) or 1
    for path in paths:
        with TextFile(path) as file:
            n_samples = max(_MIN_SAMPLES, _N_SAMPLES * file.size_bytes // total_bytes)
            if file.size_bytes <= n_samples * SAMPLE_BYTES:
                yield from _cover(file)
                continue
            for k in range(n_samples):
                offset = k * (file.size_bytes - SAMPLE_BYTES) // (n_samples - 1)
                yield _trim(path, offset, file.read(SAMPLE_BYTES, offset))


def _cover(file: TextFile) -> Iterator[Sample]:
    """Yield all of a small file."""
    for offset in range(0, file.size_bytes, SAMPLE_BYTES):
        yield _trim(file.path, offset, file.read(SAMPLE_BYTES, offset))


def _trim(path: Path, offset: int, data: bytes) -> Sample:
    """Cut off the character that the sample's beginning or end falls into: it is not invalid."""
    start = 0
    while offset and start < min(3, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    end = len(data)
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    decoder.decode(data[start:])
    end -= len(decoder.getstate()[0])
    return Sample(path, offset + start, data[start:end])


def check_is_utf8(samples: Sequence[Sample]) -> None:
    """Refuse inputs that are text in another charset, or no text at all.

    In the wrong charset text goes quietly: UTF-16 is mostly valid UTF-8, and of GB18030 38 % survives
    as garbage.

    Raises:
        InputError: a mark of UTF-16 or UTF-32, or over 1 % of NUL or undecodable bytes in the samples.
    """
    for path in dict.fromkeys(sample.path for sample in samples):
        of_path = [sample for sample in samples if sample.path == path]
        head = of_path[0].data if of_path[0].offset == 0 else b""
        for mark, charset in _MARKS:
            if head.startswith(mark):
                raise _not_utf8(path, f"begins with the byte order mark of {charset}", charset)
        _check_shares(path, of_path)


def _check_shares(path: Path, samples: Sequence[Sample]) -> None:
    """Count NUL and undecodable bytes over one input's samples."""
    n_bytes = sum(len(sample.data) for sample in samples)
    n_invalid = sum(find_invalid_bytes(sample.data)[0] for sample in samples)
    n_nul = sum(sample.data.count(0) for sample in samples)
    share = (n_invalid + n_nul) / max(1, n_bytes)
    if share > _MAX_BAD_SHARE:
        found = f"{share:.0%} of the bytes sampled are NUL or not UTF-8"
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
    best = from_bytes(data[: 4 * SAMPLE_BYTES]).best()
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
