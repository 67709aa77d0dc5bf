"""All characters on which two tokenisers disagree are found, wherever they are in a text."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nanogpt_compat.encoders.classes import _TOGETHER, GROUP, ClassDifferences, Encode, probe_ranks
from nanogpt_compat.encoders.fast import GigatokenEncoder
from tests.engines import SURROGATES, open_gigatoken

# At the ends of what begins with one byte, of groups, and of the whole; and some among others.
EDGES = (
    *(0x80, 0xBF, 0xC0, 0xFF, 0x100, 0x13F, 0x140, 0x7BF, 0x7C0, 0x7FF, 0x800, 0xC5C, 0xFFF, 0x1000, 0x1FFF),
    *(0x2000, 0x4E2D, 0xA7CE, 0xCFFF, 0xD000, 0xD7FF, 0xE000, 0xEFFF, 0xF000, 0xFFFD, 0xFFFF, 0x10000),
    *(0x10940, 0x10FFF, 0x11000, 0x33376, 0x3FFFF, 0x40000, 0x7FFFF, 0x80000, 0xFFFFF, 0x100000, 0x10FFFF),
)


class FakePair:
    """Two tokenisers that make a token of each byte; one of them makes `?` of some characters."""

    def __init__(self, odd: str) -> None:
        self.n_made = self.n_asked = 0
        self._odd = [char.encode() for char in odd]

    def make(self, _ranks: dict[bytes, int]) -> tuple[Encode, Encode]:
        self.n_made += 1
        return self._one, self._other

    def _one(self, text: bytes) -> NDArray[np.uint16]:
        self.n_asked += 1
        return np.frombuffer(text, np.uint8).astype(np.uint16)

    def _other(self, text: bytes) -> NDArray[np.uint16]:
        for char in self._odd:
            text = text.replace(char, b"?")
        return np.frombuffer(text, np.uint8).astype(np.uint16)


def found_by(odd: str, *texts: str) -> list[bool]:
    differences = ClassDifferences(FakePair(odd).make)
    return [differences.are_in(text.encode()) for text in texts]


ODD = ["\xe9", "\u0100", "\u0800", "\u4e2d", "\ufffd", "\U00010000", "\U00033376", "\U0010ffff"]


@pytest.mark.parametrize("odd", ODD)
def test_one_is_found_at_the_beginning_in_the_middle_and_at_the_end(odd: str) -> None:
    for before in ("", "plain ", "\xe8\u4e2c\ufffc\U00010001\U0010fffe "):
        for after in ("", " plain", " \xe8\u4e2c\ufffc\U00010001\U0010fffe"):
            assert found_by(odd, before + odd + after) == [True]
            assert found_by(odd, before + after) == [False]


@pytest.mark.parametrize("odd", ODD)
def test_one_is_found_after_all_others_have_been_seen_and_were_let_pass(odd: str) -> None:
    others = "".join(chr(code) for code in EDGES if chr(code) != odd)
    assert found_by(odd, others, "plain", odd, others, others + odd) == [False, False, True, False, True]


@given(
    odd=st.text(st.sampled_from(EDGES).map(chr), max_size=3),
    texts=st.lists(st.text(st.sampled_from(EDGES).map(chr) | st.sampled_from("a 1"), max_size=6), max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_whatever_was_asked_before_a_text_is_found_if_and_only_if_it_holds_one(
    odd: str, texts: list[str]
) -> None:
    assert found_by(odd, *texts) == [any(char in odd for char in text) for text in texts]


def test_ascii_is_never_probed() -> None:
    pair = FakePair("\xe9")
    differences = ClassDifferences(pair.make)
    assert not any(differences.are_in(text) for text in (b"", b"a", bytes(range(128)) * 1000))
    assert pair.n_made == 0


def test_a_group_is_probed_once_and_only_when_it_is_met_but_those_of_one_text_at_once() -> None:
    pair = FakePair("\U00010000")
    differences = ClassDifferences(pair.make)
    letters, ideographs = _TOGETHER
    for text in ("caf\xe9", "caf\xe9 na\xefve", "\u0e44\u0e17\u0e22", "\u3042", "\U0001f600"):
        assert not differences.are_in(text.encode())
    assert (pair.n_made, pair.n_asked) == (1, len(letters))
    for text in ("\u4e2d\u6587", "\ud55c"):
        assert not differences.are_in(text.encode())
    assert (pair.n_made, pair.n_asked) == (2, len(letters | ideographs))
    for text in ("\U00020000", "\U00020001\U00021000", "\U00020000"):
        assert not differences.are_in(text.encode())
    assert (pair.n_made, pair.n_asked) == (4, len(letters | ideographs) + 2)
    assert differences._differing.keys() == letters | ideographs | {0x20, 0x21}


def test_what_begins_no_character_that_is_looked_for_is_looked_for_no_more() -> None:
    differences = ClassDifferences(FakePair("\u1000").make)
    assert set(differences._suspects) == set(range(0xC2, 0xF5))
    assert not differences.are_in("\xe9".encode())
    assert set(differences._suspects) == {0xE1, *range(0xE4, 0xEF), 0xF0, 0xF1, 0xF2, 0xF3, 0xF4}
    assert differences._suspects[0xE1].nonzero()[0].tolist() == [0x80]
    assert not differences._suspects[0xF0][0x9F]  # emoji
    assert differences.are_in("\u1000".encode())
    assert 0xE1 in differences._suspects


def test_many_threads_may_be_the_first(gpt2: tiktoken.Encoding) -> None:
    chars = [chr(code) for code in EDGES]
    odd = "".join(chars[::3])
    pair = FakePair(odd)
    differences = ClassDifferences(pair.make)
    all_run = threading.Barrier(8)

    def ask(k: int) -> list[bool]:
        all_run.wait(timeout=30)
        return [differences.are_in(char.encode()) for char in chars[k:] + chars[:k]]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    expected = [char in odd for char in chars]
    assert answers == [expected[k:] + expected[:k] for k in range(8)]
    together = set[int]().union(*_TOGETHER)
    assert differences._differing.keys() == together | {ord(char) // GROUP for char in chars}
    assert pair.n_made <= len(differences._differing) - len(together) + len(_TOGETHER)


# The real ones


@pytest.fixture(scope="module")
def fast(gpt2: tiktoken.Encoding) -> GigatokenEncoder:
    return open_gigatoken(gpt2)


def classes_by_tiktoken() -> Callable[[str], str]:
    """Class a character by patterns that take nothing but one class; what they leave has no tokens."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    patterns = {"L": r"\p{L}", "N": r"\p{N}", "S": r"\s"}
    encodings = {
        name: tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        for name, pattern in patterns.items()
    }

    def class_of(char: str) -> str:
        return next((name for name, one in encodings.items() if one.encode_ordinary(char)), "P")

    return class_of


def classes_by_gigatoken(fast: GigatokenEncoder) -> Callable[[str], str]:
    """Class a character by what it is joined with."""
    ranks = probe_ranks()
    _, encode = fast._make_probes(ranks)

    def class_of(char: str) -> str:
        raw = char.encode()
        found = encode(b"a" + raw + b"1" + raw + b"!").tolist()
        joined = {"L": b"a" + raw[:1], "N": b"1" + raw[:1], "P": raw[-1:] + b"!"}
        return next((name for name, token in joined.items() if ranks[token] in found), "S")

    return class_of


@pytest.mark.parametrize("group", [0x0, 0x2, 0x3, 0xA, 0x10, 0x16, 0x33])
def test_a_group_is_what_asking_about_one_character_at_a_time_says(
    fast: GigatokenEncoder, group: int
) -> None:
    one, other = classes_by_tiktoken(), classes_by_gigatoken(fast)
    chars = [chr(code) for code in range(max(0x80, group * GROUP), (group + 1) * GROUP)]
    slowly = [ord(char) % GROUP for char in chars if one(char) != other(char)]
    assert np.flatnonzero(fast._differences.in_groups({group})[group]).tolist() == slowly
    assert {one(char) for char in chars} <= set("LNSP")
    if group == 0:
        assert [one(char) for char in "\xe9\xb2\xa0\xd7"] == list("LNSP")
        assert [other(char) for char in "\xe9\xb2\xa0\xd7"] == list("LNSP")


def test_the_group_of_surrogates_holds_no_difference_among_them(fast: GigatokenEncoder) -> None:
    group = SURROGATES[0] // GROUP
    found = fast._differences.in_groups({group})[group]
    assert not found[SURROGATES[0] % GROUP :].any()
