"""Every letter or number that is new in Unicode is found, wherever it is in a text, and nothing else is."""

import unicodedata
from itertools import pairwise

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt_compat.encoders.new_letters import NEW_LETTERS, has_new_letter
from tests.engines import SURROGATES, new_letters

# At the ends of the ranges and next to them, and at the ends of the characters with one first byte.
EDGES = sorted(
    {edge + step for pair in NEW_LETTERS for edge in pair for step in (-1, 0, 1)}
    | {0x80, 0xFF, 0x100, 0x7FF, 0x800, 0xFFF, 0x1000, 0x20AC, 0x4E2D, 0xD7FF, 0xE000, 0xFFFD, 0xFFFF}
    | {0x10000, 0x1F600, 0x3FFFF, 0x40000, 0xFFFFF, 0x100000, 0x10FFFF}
)
any_edge = st.sampled_from(EDGES).map(chr)


def test_each_edge_of_them_is_found_alone_and_no_other_character_is() -> None:
    new = set(new_letters())
    alone = [char for char in new if ord(char) % 64 in (0, 63) or chr(ord(char) + 1) not in new]
    assert all(has_new_letter(char.encode()) for char in {*alone, *map(chr, EDGES)} & new)
    for start in range(0, 0x110000, 64):
        chars = {chr(code) for code in range(start, start + 64) if code not in SURROGATES}
        others = "".join(sorted(chars - new))
        assert not has_new_letter(others.encode()), hex(start)


@given(text=st.text(any_edge | st.sampled_from("a 1\n"), max_size=8), n_plain=st.integers(0, 100))
@settings(max_examples=300, deadline=None)
def test_a_text_is_reported_if_and_only_if_it_has_one(text: str, n_plain: int) -> None:
    expected = any(char in new_letters() for char in text)
    for before, after in ((0, n_plain), (n_plain, 0), (n_plain, n_plain)):
        assert has_new_letter(("plain" * before + text + "plain" * after).encode()) == expected


@pytest.mark.parametrize("char", ["\u0558", "\u088f", "\ua7ce", "\U00010940", "\U0003fc3f"])
@pytest.mark.parametrize("neighbour", ["a", "\xe9", "\u20ac", "\u0c4d", "\ud55c", "\u4e2d", "\U0001f600"])
def test_one_in_a_megabyte_of_others_is_found(char: str, neighbour: str) -> None:
    others = neighbour * (1_000_000 // len(neighbour.encode()))
    assert not has_new_letter(others.encode())
    for place in (0, 1, len(others) // 2, len(others)):
        assert has_new_letter((others[:place] + char + others[place:]).encode())


def test_the_table_has_each_letter_and_number_that_tiktoken_knows_and_this_python_does_not() -> None:
    letter = tiktoken.Encoding(
        "letters",
        pat_str=r"[\p{L}\p{N}]",
        mergeable_ranks={bytes([byte]): byte for byte in range(256)},
        special_tokens={},
    )
    assert all(first <= last for first, last in NEW_LETTERS)
    assert all(last < first for (_, last), (first, _) in pairwise(NEW_LETTERS))
    for code in range(0x80, 0x110000):
        char = chr(code)
        if unicodedata.category(char) == "Cn" and letter.encode_ordinary(char):
            assert char in new_letters(), hex(code)
