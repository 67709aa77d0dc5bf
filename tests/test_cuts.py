"""The rule of exact cuts, compared with tiktoken's own pattern."""

import re
from itertools import pairwise
from unittest.mock import patch

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt_compat.text import cuts, cutting
from nanogpt_compat.text.blocks import Position
from nanogpt_compat.text.cuts import first_cut, last_cut, longest_stretch_bytes
from nanogpt_compat.text.utf8 import char_start
from tests.reference import class_of, exact_cuts, is_cut
from tests.texts import PIECES, any_bytes

TABLE = {"L": cuts.LETTERS, "N": cuts.NUMBERS, "S": cuts.SPACES, "P": cuts.OTHERS}


@pytest.fixture(scope="session")
def probe(gpt2: tiktoken.Encoding) -> tiktoken.Encoding:
    """GPT-2's pattern over a vocabulary that merges any byte with `a`, `1` or `!` after it: a break shows."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    for last in b"a1!":
        for byte in range(256):
            ranks[bytes([byte, last])] = len(ranks)
    return tiktoken.Encoding("probe", pat_str=gpt2._pat_str, mergeable_ranks=ranks, special_tokens={})


def test_every_character_of_the_table_has_its_class_in_the_installed_tiktoken(
    probe: tiktoken.Encoding,
) -> None:
    wrong = []
    members = {name: re.compile(f"[{chars}]") for name, chars in TABLE.items()}
    for code in (*range(0xD800), *range(0xE000, 0x30000)):
        char = chr(code)
        listed = [name for name, chars in members.items() if chars.match(char)]
        if not listed and char != "'":
            continue
        n_bytes = len(char.encode())
        # A character merges with `a`, `1` or `!` after it if it is of the same class; a space with each.
        joined = [
            name for name, other in zip("LNP", "a1!", strict=True) if _merges(probe, char + other, n_bytes)
        ]
        found = "S" if char == " " or not joined else "".join(joined)
        if [found] != (listed or ["P"]):
            wrong.append((hex(code), listed, found))
    assert wrong == []


def _merges(probe: tiktoken.Encoding, text: str, n_bytes_of_first: int) -> bool:
    return len(probe.encode_ordinary(text)) == n_bytes_of_first


def test_the_table_holds_every_white_space_that_tiktoken_knows(probe: tiktoken.Encoding) -> None:
    # Before a space that is followed by a letter, white space is a token of its own: "\u2003" + " a".
    # Unicode assigns nothing in most planes above the third: one in a hundred is tried there.
    for code in (*range(0xD800), *range(0xE000, 0x40000), *range(0x40000, 0x110000, 101)):
        char = chr(code)
        is_space = not any(_merges(probe, char + other, len(char.encode())) for other in "a1!") or char == " "
        if is_space:
            assert class_of(char) == "S", hex(code)


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=40).map("".join))
@settings(max_examples=500)
def test_text_cut_at_every_exact_cut_has_the_tokens_of_the_whole(gpt2: tiktoken.Encoding, text: str) -> None:
    raw = text.encode()
    places = [0, *exact_cuts(raw), len(raw)]
    pieces = [raw[start:end].decode() for start, end in pairwise(places)]
    assert [token for piece in pieces for token in gpt2.encode_ordinary(piece)] == gpt2.encode_ordinary(text)


@given(left=st.text(max_size=6), right=st.text(max_size=6))
@settings(max_examples=500)
def test_two_texts_that_meet_in_an_exact_cut_do_not_see_each_other(
    gpt2: tiktoken.Encoding, left: str, right: str
) -> None:
    if left and right and is_cut(left[-1], right[0]):
        apart = gpt2.encode_ordinary(left) + gpt2.encode_ordinary(right)
        assert gpt2.encode_ordinary(left + right) == apart


@given(raw=any_bytes, data=st.data())
@settings(max_examples=500)
def test_the_fast_searches_find_what_the_slow_one_finds(raw: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(0, len(raw)))
    inside = [cut for cut in exact_cuts(raw) if start <= cut <= end]
    assert first_cut(raw, start, end) == (inside[0] if inside else None)
    assert last_cut(raw, start, end) == (inside[-1] if inside else None)


def test_searches_continue_beyond_their_first_span() -> None:
    raw = b"x y" + b"z" * 100_000 + b" z"
    assert last_cut(raw, 0, len(raw) - 3) == 1
    assert first_cut(raw, 2, len(raw)) == 100_003


@given(any_bytes)
def test_a_cut_never_touches_an_invalid_byte_and_never_divides_a_line_end(raw: bytes) -> None:
    for cut in exact_cuts(raw):
        for char in (
            raw[:cut].decode("utf-8", "surrogateescape")[-1],
            raw[cut:].decode("utf-8", "surrogateescape")[0],
        ):
            assert not "\ud800" <= char <= "\udfff"
        assert raw[cut - 1 : cut + 1] != b"\r\n"


@given(any_bytes.filter(lambda raw: len(raw) > 4), st.data())
def test_a_forced_cut_divides_no_character(raw: bytes, data: st.DataObject) -> None:
    nominal = data.draw(st.integers(4, len(raw)))
    cut = char_start(raw, nominal)
    assert nominal - 3 <= cut <= nominal
    for errors in ("ignore", "replace"):
        apart = raw[:cut].decode("utf-8", errors) + raw[cut:].decode("utf-8", errors)
        assert apart == raw.decode("utf-8", errors)


def test_the_longest_stretch_is_never_underestimated_and_small_for_prose() -> None:
    assert longest_stretch_bytes(b"to be or not to be " * 10_000) < 40_000
    assert longest_stretch_bytes(b"a" * 300_000) == 300_000
    for where in (0, 5_000, 100_000, 250_000):
        raw = b"a b " * (where // 4) + b"z" * 200_000 + b" a b" * ((300_000 - where) // 4)
        assert 200_000 <= longest_stretch_bytes(raw) <= 240_000


class InOrder(cutting.InMemory):
    """Bytes that can only be read in order."""

    reads_anywhere = False


@given(
    raw=st.lists(
        st.sampled_from([b" ", b"\n", b"1", b"\xe4\xb8\xad", b"word", b"word" * 30]) | any_bytes
    ).map(b"".join),
    block_bytes=st.integers(1, 200),
    windows=st.lists(st.integers(0, 400), min_size=2, max_size=2, unique=True).map(sorted),
)
@settings(max_examples=300, deadline=None)
def test_a_look_at_the_ends_of_blocks_finds_the_blocks_of_reading_in_order(
    raw: bytes, block_bytes: int, windows: list[int]
) -> None:
    def blocks(file: cutting.InMemory) -> list[object]:
        start, end = windows
        found = cutting.read_blocks(
            file, start=Position(0), block_bytes=block_bytes, errors="ignore", windows=[(start, end)]
        )
        return list(found)

    with patch.object(cutting, "_NEAR_BYTES", 16), patch.object(cutting, "MAX_PIECE_BYTES", 80):
        assert blocks(cutting.InMemory(raw)) == blocks(InOrder(raw))
