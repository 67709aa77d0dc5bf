"""Guess the charset of text that is not UTF-8, by iconv's names. Pure.

UTF-16 and UTF-32 are recognised by their spaces and full stops, ISO-2022 by its escapes. charset_normalizer
recognises most of the older charsets. It cannot choose between those of the Latin alphabet, since each can
decode the text: the one whose letters fit the alphabet of one language wins.
"""

import codecs
import re
from collections.abc import Iterator, Sequence
from typing import Any

from nanogpt_compat.text.utf8 import is_utf8

MAX_BAD_SHARE = 0.01

# UTF-32's little-endian byte order mark begins with UTF-16's, so it comes first.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_WIDE = ("UTF-32LE", "UTF-32BE", "UTF-16LE", "UTF-16BE")
_SEVEN_BITS = ((b"\x1b$B", "ISO-2022-JP"), (b"\x1b$@", "ISO-2022-JP"), (b"\x1b$)C", "ISO-2022-KR"))
_ESCAPED_EVERY_BYTES = 500  # at least one escape in 500: on all lines, not in one mail of a mailbox
_FREQUENT = " \n.,\u3000\u3001\u3002\uff0c"
_FREQUENT_SHARE = 0.01
_NO_TEXT = re.compile("[\0-\x08\x0e-\x1a\x1c-\x1f\x7f\ufffd\ufffe\uffff]")
_WIDE_BYTES = 8 * 1024
_GUESSED_BYTES = (8 * 1024, 1024)  # charset_normalizer may fail for one length and succeed for another
_NEAR_CHAOS = 0.05
_NEAR_FITNESS = 0.3
_NEARLY_ALL = 0.7
_MAX_NAMED = 3

# If several charsets decode a text alike, the first is named.
_MULTIBYTE = ("gb18030", "big5", "cp932", "euc_jp", "cp949")
_LATIN = ("cp1252", "cp1250", "iso8859_2", "cp1254", "cp850", "cp437", "cp852")
_OTHERS = (
    *("cp1251", "koi8_r", "koi8_u", "cp866", "iso8859_5", "cp1253", "iso8859_7", "cp1255", "iso8859_8"),
    *("cp1256", "iso8859_6", "cp874"),
)
_CHARSETS = (*_LATIN, *_OTHERS, *_MULTIBYTE)
_ALPHABETS = [
    set(letters + letters.upper())
    for letters in (
        "\xe0\xe2\xe6\xe7\xe8\xe9\xea\xeb\xee\xef\xf4\xf9\xfb\xfc\xff\u0153",  # French
        "\xe1\xe9\xed\xf1\xf3\xfa\xfc\xe7\xe0\xe8\xef\xf2",  # Spanish, Catalan
        "\xe4\xf6\xfc\xdf\xe9\xe0",  # German
        "\xe0\xe1\xe2\xe3\xe7\xe9\xea\xed\xf3\xf4\xf5\xfa\xfc",  # Portuguese
        "\xe0\xe8\xe9\xec\xee\xf2\xf9",  # Italian
        "\xe4\xe5\xe6\xe9\xf6\xf8\xfc",  # Scandinavian
        "\xe0\xe1\xe8\xe9\xeb\xef\xf3\xf6\xfc",  # Dutch
        "\xe1\xe9\xed\xf3\xfa\xfd\xe6\xf0\xf6\xfe",  # Icelandic
        "\u0105\u0107\u0119\u0142\u0144\xf3\u015b\u017a\u017c",  # Polish
        "\xe1\u010d\u010f\xe9\u011b\xed\u0148\xf3\u0159\u0161\u0165\xfa\u016f\xfd\u017e",  # Czech
        "\xe1\xe4\u010d\u010f\xe9\xed\u013a\u013e\u0148\xf3\xf4\u0155\u0161\u0165\xfa\xfd\u017e",  # Slovak
        "\xe1\xe9\xed\xf3\xf6\u0151\xfa\xfc\u0171",  # Hungarian
        "\u0103\xe2\xee\u0219\u015f\u021b\u0163",  # Romanian
        "\u010d\u0107\u0111\u0161\u017e",  # Croatian, Slovenian
        "\xe2\xe7\u011f\u0131\xee\xf6\u015f\xfb\xfc",  # Turkish
    )
]
_PUNCTUATION = set(
    "\xa0\xa1\xa7\xa9\xab\xae\xb0\xb7\xbb\xbf\u2013\u2014\u2018\u2019\u201a\u201c\u201d\u201e\u2022\u2026"
)


def quiet_charset(data: bytes, offset: int = 0) -> str | None:
    """Return UTF-16, UTF-32 or a 7-bit charset if `data` is in one, else None: such text may pass as UTF-8.

    `data` begins at byte `offset` of a file.
    """
    for mark, charset in _SEVEN_BITS:
        if data.count(mark) * _ESCAPED_EVERY_BYTES > len(data):
            return charset
    if offset == 0:
        for mark, charset in _MARKS:
            if data.startswith(mark) and _is_text(data[:_WIDE_BYTES], charset):
                return charset
    aligned = data[-offset % 4 :][:_WIDE_BYTES]
    for charset in _WIDE:
        if _is_text(aligned, charset):
            # Spaces and full stops appear only if the text is decoded with the right charset.
            text = aligned.decode(charset, "replace")
            if sum(map(text.count, _FREQUENT)) > len(text) * _FREQUENT_SHARE:
                return charset
    return None


def _is_text(data: bytes, charset: str) -> bool:
    text = data[: len(data) // 4 * 4].decode(charset, "replace")
    return len(_NO_TEXT.findall(text)) <= len(text) * MAX_BAD_SHARE


def guess_charsets(samples: Sequence[bytes]) -> list[str]:
    """Return the likeliest charsets of a text, best first; one name for those that decode it alike.

    `samples` are cut where UTF-8 characters would begin. Each charset returned decodes all of them. The list
    is empty if none fits. Needs charset_normalizer.
    """
    foreign = [sample for sample in samples if not is_utf8(sample)]
    for sample in foreign:
        for piece in _pieces(sample):
            found = [
                one
                for one in _guess(piece)
                # Characters may be cut off at the beginning or end of a sample.
                if all("\ufffd" not in other.decode(one, "replace")[4:-4] for other in foreign)
            ]
            if found:
                return [one.upper().replace("_", "-") for one in found[:_MAX_NAMED]]
    return []


def _pieces(sample: bytes) -> Iterator[bytes]:
    """Yield pieces of a sample that may begin and end with a whole character.

    A piece begins after a space or line end, since neither is the second byte of a character. At its end,
    0 to 3 bytes are cut off.
    """
    start = re.match(rb"[^ \n]*[ \n]|", sample).end()  # type: ignore[union-attr]
    for n_bytes in _GUESSED_BYTES:
        piece = sample[start : start + n_bytes]
        for n_cut in range(4):
            yield piece[: len(piece) - n_cut]
    if start:
        yield sample


def _guess(data: bytes) -> list[str]:
    """Return the charsets, by Python's names, in which `data` is text of some language."""
    n_all = len(re.findall(rb"[\x80-\xff]", data))
    n_in_words = len(re.findall(rb"(?<=[A-Za-z])[\x80-\xff]|[\x80-\xff](?=[a-z])", data))
    if n_in_words > _NEARLY_ALL * n_all and _is_single_byte(data):  # accents in words of ASCII letters
        names = list(_LATIN)
    else:
        charsets = _LATIN + _OTHERS if _is_single_byte(data) else _CHARSETS
        from charset_normalizer import from_bytes

        matches: list[Any] = list(from_bytes(data, cp_isolation=list(charsets)))
        names = []
        for one in matches:
            if one.chaos <= matches[0].chaos + _NEAR_CHAOS:
                alike = {one.encoding, *one.could_be_from_charset}
                names += [name for name in charsets if name in alike and name not in names]
    if names and (_LATIN[0] in names or names[0] in _LATIN):
        fitness = {name: _fitness(data.decode(name, "replace")) for name in names}
        names = [name for name in names if fitness[name] >= max(fitness.values()) - _NEAR_FITNESS]
        names.sort(key=lambda name: (-fitness[name], _CHARSETS.index(name)))
    texts: dict[str, str] = {}
    for name in names:
        texts.setdefault(data.decode(name, "replace"), name)
    return list(texts.values())


def _is_single_byte(data: bytes) -> bool:
    """Return whether nearly all non-ASCII bytes stand alone, as accented letters do."""
    n_all = len(re.findall(rb"[\x80-\xff]", data))
    n_alone = len(re.findall(rb"(?<![\x80-\xff])[\x80-\xff](?=[\x00-\x7f]|$)", data))
    n_paired = len(re.findall(rb"[\x80-\xff][^ \n\x80-\xffA-Za-z,.'\"!?;:)-]", data))
    return n_alone - n_paired > _NEARLY_ALL * n_all


def _fitness(text: str) -> float:
    """Return the share of the non-ASCII characters that fit a single language.

    A sign within a word counts against it: in the right charset, that byte is a letter.
    """
    past_ascii = re.findall(r"[^\x00-\x7f]", text)
    if not past_ascii:
        return 0.0
    within = len(re.findall(r"(?<=[^\W\d_])[^\w\x00-\x7f\u2019](?=[^\W\d_])", text))
    n_signs = sum(char in _PUNCTUATION for char in past_ascii)
    n_letters = max(sum(char in alphabet for char in past_ascii) for alphabet in _ALPHABETS)
    return round((n_letters + n_signs - within) / len(past_ascii), 2)
