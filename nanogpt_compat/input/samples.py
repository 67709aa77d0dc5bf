"""Sample an input before reading it: check that it is UTF-8 text, and provide text for the forecast.

The pieces for the forecast are short and come from many places: languages come in long stretches. Each has a
weight, so that the forecast is right on average for documents of any length. Places are spread by a
low-discrepancy sequence: it does not align with patterns in the input, and depends only on its size.
"""

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import sqrt

from nanogpt_compat.input.charsets import MAX_BAD_SHARE, guess_charsets, quiet_charset
from nanogpt_compat.input.kinds import Kind, text_in
from nanogpt_compat.input.pipes import UNKNOWN
from nanogpt_compat.input.remote import read_ahead
from nanogpt_compat.input.sniff import find_binary
from nanogpt_compat.system.commands import install, show
from nanogpt_compat.text.cutting import Readable
from nanogpt_compat.text.decoding import find_invalid_bytes
from nanogpt_compat.text.utf8 import is_utf8
from nanogpt_compat.text.val_split import LOOK_AHEAD_BYTES

_SAMPLE_BYTES = 16 * 1024
_MIN_SAMPLE_BYTES = 512
_N_SAMPLES = 32  # over all inputs: 512 KiB, 25 ms of encoding
_N_EACH = 4  # at least, from each input, unless there are too many
_MANY_INPUTS = 256
# Over all inputs. With two in three languages different, the forecast is within 3 % two times in three.
N_PLACES = 256
_PIECE_BYTES = 2048
_MIN_PIECE_BYTES = 512
_GOLDEN = (sqrt(5) - 1) / 2
_NON_ASCII = re.compile("[^\0-\x7f]")


@dataclass(frozen=True, slots=True)
class Sample:
    """Some bytes of an input, without incomplete characters at the two ends."""

    offset: int
    data: bytes


def take_samples(file: Readable, *, total_bytes: int, n_inputs: int) -> list[Sample]:
    """Read four or more samples of 16 KiB, evenly spaced over an input; all inputs have `total_bytes`.

    With hundreds of inputs it takes fewer and smaller ones, so that all inputs together take a few seconds
    at most. If the size is unknown, only the beginning is sampled. The result depends only on the arguments
    and the input.
    """
    sample_bytes = max(_MIN_SAMPLE_BYTES, min(_SAMPLE_BYTES, 64 * _SAMPLE_BYTES // n_inputs))
    size_bytes = LOOK_AHEAD_BYTES if file.size_bytes == UNKNOWN else file.size_bytes
    n_samples = Share(n_inputs, size_bytes, total_bytes).of(_N_SAMPLES)
    if size_bytes <= n_samples * sample_bytes:
        offsets = [*range(0, size_bytes, sample_bytes)]
    else:
        offsets = [k * (size_bytes - sample_bytes) // max(1, n_samples - 1) for k in range(n_samples)]
    read_ahead(file, ((offset, min(offset + sample_bytes, size_bytes)) for offset in offsets))
    return [trim(offset, file.read(sample_bytes, offset)) for offset in offsets]


def trim(offset: int, data: bytes) -> Sample:
    """Remove incomplete characters from both ends of a sample, since they are not invalid text."""
    start = 0
    while offset and start < min(3, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    decoder.decode(data[start:])
    unfinished = decoder.getstate()[0]
    return Sample(offset + start, data[start : len(data) - len(unfinished)])


@dataclass(frozen=True, slots=True)
class Excerpts:
    """Pieces of an input: `n_bytes` of the file have about sum(weights[k] * tokens of texts[k]) tokens."""

    texts: list[str]  # with the marks of end-of-text tokens
    weights: list[float]
    n_bytes: float
    text_bytes: int | None = None  # the whole input, uncompressed; None: unknown until it is read
    text: Sequence[Sample] = ()  # what must be UTF-8 text; records are checked one by one
    shows_end_of_text: bool = False  # `<|endoftext|>` is in the text; records are documents already
    lacks_separator: bool | None = None  # no piece holds the separator of documents; None: none is needed


@dataclass(frozen=True, slots=True)
class Share:
    """The share of one input in all inputs; it decides how many pieces are taken from this one."""

    n_inputs: int
    n_bytes: int  # this input
    total_bytes: int

    def of(self, n_places: int) -> int:
        """Return how many of `n_places`, shared by all inputs, this one gets."""
        n_each = _N_EACH if self.n_inputs <= _MANY_INPUTS else 1
        return max(n_each, n_places * self.n_bytes // max(1, self.total_bytes))

    @property
    def piece_bytes(self) -> int:
        """The size of a piece: smaller with hundreds of inputs, so that the total stays small."""
        return max(_MIN_PIECE_BYTES, min(_PIECE_BYTES, _MANY_INPUTS * _PIECE_BYTES // self.n_inputs))


def spread(n_places: int, n_bytes: int) -> list[int]:
    """Spread places over `[0, n_bytes)`, one in each of `n_places` equal parts.

    >>> spread(4, 100)
    [0, 40, 55, 96]
    """
    return [int((k + k * _GOLDEN % 1) * n_bytes / n_places) for k in range(n_places)]


def take_text(file: Readable, share: Share) -> list[Sample]:
    """Take pieces of a text of known size, or all of a short text."""
    n_places, piece_bytes = share.of(N_PLACES), share.piece_bytes
    if file.size_bytes <= n_places * piece_bytes:
        places = list(range(0, file.size_bytes, piece_bytes))
    else:
        places = spread(n_places, file.size_bytes - piece_bytes)
    return [trim(place, file.read(piece_bytes, place)) for place in places]


def shorten(text: bytes, share: Share) -> tuple[str, float]:
    """Return the beginning of a document, and the length of the document as a multiple of that."""
    kept = text[: 2 * share.piece_bytes]
    return kept.decode(errors="ignore"), len(text) / max(1, len(kept))


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
    if find_spec("charset_normalizer") is None:  # it comes with requests, which comes with tiktoken
        command = show(install("charset_normalizer"))
        advice = f"{drop}; the package charset-normalizer can identify the charset:{command}"
        return Kind("text that is not UTF-8", advice=advice)
    charsets = guess_charsets(parts)
    if not charsets:
        return Kind("not UTF-8, nor text in any charset known here", advice=f"convert it to UTF-8, or {drop}")
    others = f" (or else {' or '.join(charsets[1:])})" if charsets[1:] else ""
    kind = text_in(charsets[0], f"not UTF-8: it looks like {charsets[0]}{others}")
    return replace(kind, advice=f"or {drop}")
