"""The charsets of many languages are recognised, and decoding with them gives the text."""

import shutil
import subprocess

import pytest

from nanogpt_compat.input.charsets import guess_charsets, quiet_charset
from tests.paragraphs import LANGUAGES

CASES = [(name, charset) for name, language in LANGUAGES.items() for charset in language.charsets]


def encoded(name: str, charset: str, n_bytes: int) -> bytes:
    """A text over and over, up to a character's end."""
    once = LANGUAGES[name].text.encode(charset)
    raw = (once * (n_bytes // len(once) + 1))[:n_bytes]
    return raw.decode(charset, "ignore").encode(charset)


@pytest.mark.parametrize(("name", "charset"), CASES, ids=[" in ".join(case) for case in CASES])
@pytest.mark.parametrize("n_bytes", [350, 1000, 5001, 16_384])
def test_the_charset_is_named_first(name: str, charset: str, n_bytes: int) -> None:
    raw = encoded(name, charset, n_bytes)
    named = guess_charsets([b"Some English before it, all of it ASCII.\n", raw])
    assert named
    assert raw.decode(named[0]) == raw.decode(charset), named


@pytest.mark.parametrize(("name", "charset"), CASES, ids=[" in ".join(case) for case in CASES])
def test_a_line_or_two_is_enough_to_list_the_charset(name: str, charset: str) -> None:
    raw = encoded(name, charset, 130)
    if raw.isascii():
        return
    named = guess_charsets([raw])
    assert raw.decode(charset) in [raw.decode(one, "replace") for one in named], named


def test_western_europe_comes_first_where_the_letters_do_not_decide() -> None:
    for name in ("French", "Spanish", "German", "Portuguese", "Italian", "Dutch", "Swedish"):
        assert guess_charsets([LANGUAGES[name].text.encode("cp1252")])[0] == "CP1252"
    assert guess_charsets([b"A caf\xe9 in a long text that is English but for that.\n" * 9])[0] == "CP1252"


@pytest.mark.parametrize("name", ["French", "German"])
def test_a_dos_charset_is_among_those_named(name: str) -> None:
    raw = LANGUAGES[name].text.encode("cp850")
    assert raw.decode("cp850") in [raw.decode(one, "replace") for one in guess_charsets([raw])]


def test_the_charset_named_first_reads_all_samples() -> None:
    western = LANGUAGES["French"].text.encode("cp1252")
    only_in_other = "\u0165\u0164\u0179".encode("cp1250")  # no letters in CP1252
    named = guess_charsets([western, western + only_in_other + western])
    assert "CP1252" not in named


@pytest.mark.parametrize("charset", ["iso2022_jp", "iso2022_kr"])
def test_a_charset_of_seven_bits_is_found_and_a_few_escapes_are_none(charset: str) -> None:
    language = "Japanese" if charset.endswith("jp") else "Korean"
    text = LANGUAGES[language].text.replace("\u3002", "\u3002\n")
    raw = text.encode(charset)
    name = "ISO-2022-JP" if charset.endswith("jp") else "ISO-2022-KR"
    if charset.endswith("kr"):
        raw = b"".join(line.encode(charset) for line in text.splitlines(keepends=True))
    assert quiet_charset(raw) == name
    assert quiet_charset(raw[:100] + b"English mail. " * 1000) is None


def test_iconv_knows_all_names() -> None:
    assert shutil.which("iconv"), "iconv is missing: Debian has it in libc-bin"
    for name, charset in CASES:
        for one in guess_charsets([LANGUAGES[name].text.encode(charset)]):
            subprocess.run(["iconv", "-f", one, "-t", "UTF-8"], input=b"text", check=True)


def test_text_that_no_charset_reads_has_none() -> None:
    assert guess_charsets([bytes(range(128, 256)) * 20]) == []
    assert guess_charsets([b"ASCII"]) == []
    assert guess_charsets([]) == []
