"""Sample an input before reading it: check that it is UTF-8 text, and provide text for the forecast."""

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nanogpt_compat.input.charsets import MAX_BAD_SHARE, guess_charsets, has_detector, quiet_charset
from nanogpt_compat.input.compressed import MEASURED_BYTES, ByteStream
from nanogpt_compat.input.kinds import Kind, text_in
from nanogpt_compat.input.local import InputFile
from nanogpt_compat.input.location import Compression
from nanogpt_compat.input.pipes import UNKNOWN, Pipe
from nanogpt_compat.input.remote import read_ahead
from nanogpt_compat.input.sniff import find_binary
from nanogpt_compat.system.commands import install, show
from nanogpt_compat.text.cutting import InMemory, Readable
from nanogpt_compat.text.decoding import find_invalid_bytes
from nanogpt_compat.text.utf8 import is_utf8
from nanogpt_compat.text.val_split import LOOK_AHEAD_BYTES

_SAMPLE_BYTES = 16 * 1024
_MIN_SAMPLE_BYTES = 512
_N_SAMPLES = 32  # over all inputs: 512 KiB, 25 ms of encoding
_N_EACH = 4  # at least, from each input, unless there are too many
_MANY_INPUTS = 256
_NON_ASCII = re.compile("[^\0-\x7f]")


@dataclass(frozen=True, slots=True)
class Sample:
    """Some bytes of an input, without incomplete characters at the two ends."""

    offset: int
    data: bytes


def take_samples(file: Readable, *, total_bytes: int, n_inputs: int) -> list[Sample]:
    """Read samples of 16 KiB, evenly spaced over an input; all `n_inputs` inputs have `total_bytes`.

    Takes at least four samples. With hundreds of inputs it takes fewer and smaller ones, so that all inputs
    together take a few seconds at most. If the size is unknown, only the beginning is sampled. The result
    depends only on the arguments and the input.
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
    """Sample the beginning of a compressed text.

    Returns the samples; the number of bytes of the file that they represent; and the size of the text, None
    if it is more than `LOOK_AHEAD_BYTES`.

    Raises:
        InputError: the input cannot be read, or its beginning is damaged.
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
    """Remove incomplete characters from both ends of a sample, since they are not invalid text."""
    start = 0
    while offset and start < min(3, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    decoder.decode(data[start:])
    unfinished = decoder.getstate()[0]
    return Sample(offset + start, data[start : len(data) - len(unfinished)])


def foreign_kind(samples: Sequence[Sample], *, separator: str | None, errors_given: bool) -> Kind | None:
    """Return what a file is, judged by samples, if it is not UTF-8 text; None if it is.

    Text in another charset can pass without an error: UTF-16 is mostly valid UTF-8, and 38 % of GB18030
    survives as garbage. `errors_given`: the user chose --errors, so other text with invalid bytes is
    accepted. Separators between documents are not part of the text, and are ignored.
    """
    parts = [sample.data for sample in samples]
    if separator is not None:
        parts = [part.replace(separator.encode(), b"") for part in parts]
    binary = find_binary(parts)
    n_invalid = sum(find_invalid_bytes(part)[0] for part in parts if not is_utf8(part))
    is_utf8_mostly = n_invalid <= sum(map(len, parts)) * MAX_BAD_SHARE
    if binary is None and is_utf8_mostly and not any(b"\x1b$" in part for part in parts):
        return None
    charsets = (quiet_charset(sample.data, sample.offset) for sample in samples)
    charset = next((one for one in charsets if one is not None), None)
    if charset is not None:
        return text_in(charset, f"{charset} text")
    if binary is not None or is_utf8_mostly or errors_given:
        return binary
    return _narrow_kind(parts, n_invalid)


def _narrow_kind(parts: Sequence[bytes], n_invalid: int) -> Kind:
    """Return the likely charset of text that is not UTF-8; no command converts text in mixed charsets."""
    drop = "give --errors ignore (or replace) to take it as it is, and drop what is not UTF-8"
    n_valid = sum(len(_NON_ASCII.findall(part.decode("utf-8", "ignore"))) for part in parts)
    if n_valid > n_invalid:
        return Kind("UTF-8 with pieces of other charsets in it", advice=drop)
    if not has_detector():
        advice = (
            f"{drop}; the package charset-normalizer can identify the charset:"
            f"{show(install('charset_normalizer'))}"
        )
        return Kind("text that is not UTF-8", advice=advice)
    charsets = guess_charsets(parts)
    if not charsets:
        return Kind("not UTF-8, nor text in any charset known here", advice=f"convert it to UTF-8, or {drop}")
    others = f" (or else {' or '.join(charsets[1:])})" if len(charsets) > 1 else ""
    kind = text_in(charsets[0], f"not UTF-8: it looks like {charsets[0]}{others}")
    return replace(kind, advice=f"or {drop}")
