"""Look across an input before reading it: is it UTF-8 text, and what will come of it."""

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanogpt_compat.commands import quote, show
from nanogpt_compat.config import Compression, Location
from nanogpt_compat.errors import InputError
from nanogpt_compat.pipes import UNKNOWN, Pipe
from nanogpt_compat.sources.compressed import MEASURED_BYTES, ByteStream
from nanogpt_compat.sources.remote import read_ahead
from nanogpt_compat.sources.text import InMemory, InputFile, Readable, find_invalid_bytes
from nanogpt_compat.split import LOOK_AHEAD_BYTES

_SAMPLE_BYTES = 16 * 1024
_MIN_SAMPLE_BYTES = 512
_N_SAMPLES = 32  # over all inputs: 512 KiB, 25 ms of encoding
_N_EACH = 4  # of each input at least, while there are not too many
_MANY_INPUTS = 256
_MAX_BAD_SHARE = 0.01

# UTF-32's little-endian mark begins with UTF-16's, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_FREQUENT = " \n.,\u3000\u3001\u3002\uff0c"
_FREQUENT_SHARE = 0.01
# What text that is not Unicode is mostly in; iconv knows them all by these names, with `-` for `_`.
_CHARSETS = [
    *("gb18030", "big5", "cp932", "euc_jp", "cp949", "cp1252", "cp1251", "koi8_r", "iso8859_5", "cp866"),
    *("cp1250", "cp1253", "cp1254", "cp1255", "cp1256", "cp874"),
]


@dataclass(frozen=True, slots=True)
class Sample:
    """Some bytes of an input, without the pieces of characters at its two ends."""

    offset: int
    data: bytes


def take_samples(file: Readable, *, total_bytes: int, n_inputs: int) -> list[Sample]:
    """Read samples of 16 KiB, evenly spaced over an input that is one of `n_inputs` with `total_bytes`.

    At least four; but with hundreds of inputs fewer and smaller ones, so that all of them take a few
    seconds at most; of an unknown size only its beginning. The bytes depend on nothing but the arguments and
    the input.

    Raises:
        InputError: it cannot be read.
    """
    sample_bytes = max(_MIN_SAMPLE_BYTES, min(_SAMPLE_BYTES, 64 * _SAMPLE_BYTES // n_inputs))
    n_each = _N_EACH if n_inputs <= _MANY_INPUTS else 1
    size_bytes = LOOK_AHEAD_BYTES if file.size_bytes == UNKNOWN else file.size_bytes
    n_samples = max(n_each, _N_SAMPLES * size_bytes // max(1, total_bytes))
    if size_bytes <= n_samples * sample_bytes:
        offsets = list(range(0, size_bytes, sample_bytes))
    else:
        offsets = [k * (size_bytes - sample_bytes) // max(1, n_samples - 1) for k in range(n_samples)]
    read_ahead(file, ((offset, min(offset + sample_bytes, size_bytes)) for offset in offsets))
    return [trim(offset, file.read(sample_bytes, offset)) for offset in offsets]


def take_packed_samples(
    file: InputFile, compression: Compression, *, total_bytes: int, n_inputs: int
) -> tuple[list[Sample], int, int | None]:
    """Do the same with the beginning of a compressed text.

    Returns also how many bytes of the file the samples stand for; and the size of the text, None if it goes
    on behind `LOOK_AHEAD_BYTES`.

    Raises:
        InputError: it cannot be read, or its beginning is damaged.
    """
    stream = ByteStream(file, compression)
    head = stream.read(LOOK_AHEAD_BYTES + 1)
    samples = take_samples(InMemory(head), total_bytes=total_bytes, n_inputs=n_inputs)
    if not isinstance(file.path, Pipe):
        stream.read(MEASURED_BYTES)
    n_bytes = sum(len(sample.data) for sample in samples)
    stored_bytes = max(1, stream.stored_bytes * n_bytes // max(1, stream.offset))
    return samples, stored_bytes, None if len(head) > LOOK_AHEAD_BYTES else len(head)


def trim(offset: int, data: bytes) -> Sample:
    """Cut off the character that the sample's beginning or end falls into: it is not invalid."""
    start = 0
    while offset and start < min(3, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    decoder.decode(data[start:])
    unfinished = decoder.getstate()[0]
    return Sample(offset + start, data[start : len(data) - len(unfinished)])


def check_is_utf8(path: Location, samples: Sequence[Sample]) -> None:
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
        raise _not_utf8(path, found, _guess_charset(samples))


def _guess_charset(samples: Sequence[Sample]) -> str | None:
    """Name the likely charset as iconv does, or None."""
    guesses = (guess(sample) for guess in (_guess_wide, _guess_narrow) for sample in samples)
    return next((charset for charset in guesses if charset is not None), None)


def _guess_wide(sample: Sample) -> str | None:
    """Tell UTF-32 and UTF-16 by their spaces and full stops, which only the right one of the four finds."""
    aligned = sample.data[-sample.offset % 4 :]
    for charset in ("UTF-32LE", "UTF-32BE", "UTF-16LE", "UTF-16BE"):
        text = aligned.decode(charset, "replace")
        if sum(map(text.count, _FREQUENT)) > len(text) * _FREQUENT_SHARE:
            return charset
    return None


def _guess_narrow(sample: Sample) -> str | None:
    """Ask charset_normalizer about a sample that begins and ends with a character, as far as one can see."""
    if find_invalid_bytes(sample.data)[0] <= len(sample.data) * _MAX_BAD_SHARE:
        return None  # the ASCII part of a file that is something else further on
    try:
        from charset_normalizer import from_bytes  # comes with requests, and that with tiktoken
    except ImportError:
        return None
    # No second byte of a character is a space or a line end.
    start = re.match(rb"[^ \n]*[ \n]|", sample.data).end() if sample.offset else 0  # type: ignore[union-attr]
    for n_cut in range(4):
        best = from_bytes(sample.data[start : len(sample.data) - n_cut], cp_isolation=_CHARSETS).best()
        if best is not None:
            return best.encoding.upper().replace("_", "-")
    return None


def _not_utf8(path: Location, found: str, charset: str | None) -> InputError:
    """Say what was found and how to convert it."""
    old = path if isinstance(path, Path) else Path(path.name)
    fetch = "" if isinstance(path, Path) else "fetch it and "
    command = f"iconv -f {charset} -t UTF-8 {quote(old)} > {quote(old.with_name(f'{old.name}.utf8'))}"
    advice = (
        f"it looks like {charset}: if so, {fetch}convert it with:{show(command)}\n"
        if charset is not None
        else "it does not look like text in any charset known here\n"
    )
    return InputError(
        f"{path} {found}; {advice}"
        "or give --errors ignore (or replace) to take it as it is, dropping what is not UTF-8"
    )
