"""P1: the tokens are those of the whole file, whatever the engine, blocks, workers and bytes."""

import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanogpt_compat.encoders.interface import Encoder
from nanogpt_compat.errors import InputError
from nanogpt_compat.resume.counters import Tally
from nanogpt_compat.text.cuts import MAX_PIECE_BYTES
from nanogpt_compat.text.val_split import SPLITS, val_windows
from tests.engines import tokenise
from tests.reference import Tokens, expected_pair, whole_tokens
from tests.texts import any_bytes, real_text, valid_bytes

pytestmark = pytest.mark.costly

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def as_if_unchecked(tally: Tally) -> Tally:
    """Return the counts without those that depend on block boundaries."""
    return replace(tally, checked_slices=0, fallback_blocks=0)


def assert_same(found: tuple[Tokens, Tokens], expected: tuple[Tokens, Tokens]) -> None:
    for name, one, other in zip(("train", "val"), found, expected, strict=True):
        assert one.tolist() == other.tolist(), name


@given(raw=any_bytes, block_bytes=st.integers(1, 40), errors=st.sampled_from(["ignore", "replace"]))
@settings(same_folder, max_examples=400)
def test_any_bytes_in_blocks_of_any_size_have_the_tokens_of_the_whole_file(
    gpt2: tiktoken.Encoding, encoder: Encoder, tmp_path: Path, raw: bytes, block_bytes: int, errors: str
) -> None:
    path = tmp_path / "text"
    path.write_bytes(raw)
    found, tally = tokenise([path], encoder, errors=errors, block_bytes=block_bytes)
    assert_same(found, (whole_tokens(path, gpt2, errors), np.array([], dtype=np.uint16)))
    assert tally.bytes_read == len(raw)
    assert tally.forced_cuts == 0
    assert tally.invalid_bytes == len(raw) - len(raw.decode("utf-8", "ignore").encode())


@given(raw=valid_bytes, block_bytes=st.integers(1, 40))
@settings(same_folder)
def test_strict_text_has_the_tokens_of_the_whole_file(
    gpt2: tiktoken.Encoding, encoder: Encoder, tmp_path: Path, raw: bytes, block_bytes: int
) -> None:
    path = tmp_path / "text"
    path.write_bytes(raw)
    found, _ = tokenise([path], encoder, errors="strict", block_bytes=block_bytes)
    assert_same(found, (whole_tokens(path, gpt2, "strict"), np.array([], dtype=np.uint16)))


@given(
    raws=st.lists(any_bytes, min_size=1, max_size=4),
    block_bytes=st.integers(1, 60),
    split=st.sampled_from(SPLITS),
    ratio=st.floats(0, 0.99),
    n_workers=st.integers(1, 8),
    max_chars=st.none() | st.integers(1, 200),
)
@settings(same_folder, max_examples=400)
def test_val_tokens_put_back_in_their_place_give_the_whole_files(
    gpt2: tiktoken.Encoding,
    encoder: Encoder,
    tmp_path: Path,
    raws: list[bytes],
    block_bytes: int,
    split: str,
    ratio: float,
    n_workers: int,
    max_chars: int | None,
) -> None:
    paths = [tmp_path / f"text{k}" for k in range(len(raws))]
    for path, raw in zip(paths, raws, strict=True):
        path.write_bytes(raw)
    windows = val_windows(sum(map(len, raws)), ratio, split)
    expected = expected_pair(paths, gpt2, windows=windows, max_chars=max_chars)
    found, _ = tokenise(
        paths, encoder, windows=windows, n_workers=n_workers, block_bytes=block_bytes, max_chars=max_chars
    )
    assert_same(found, expected)


@given(
    raw=any_bytes,
    windows=st.lists(st.integers(0, 300), max_size=8, unique=True).map(sorted),
    block_bytes=st.integers(1, 60),
)
@settings(same_folder, max_examples=400)
def test_windows_anywhere_begin_and_end_at_the_first_exact_cut(
    gpt2: tiktoken.Encoding,
    encoder: Encoder,
    tmp_path: Path,
    raw: bytes,
    windows: list[int],
    block_bytes: int,
) -> None:
    path = tmp_path / "text"
    path.write_bytes(raw)
    pairs = list(zip(windows[::2], windows[1::2], strict=False))
    found, _ = tokenise([path], encoder, windows=pairs, block_bytes=block_bytes)
    assert_same(found, expected_pair([path], gpt2, windows=pairs))


@pytest.mark.parametrize("block_bytes", [7, 4096, 1 << 20])
def test_line_ends_and_characters_on_every_buffer_edge(
    gpt2: tiktoken.Encoding, encoder: Encoder, tmp_path: Path, block_bytes: int
) -> None:
    for shift in range(2 * 8):
        path = tmp_path / "text"
        path.write_bytes(
            b"x" * shift
            + "ab\r\nc\r\u4e2d\u6587\u3002\U0001f600 \xe9\r\r\n\n".encode() * 40
            + b"\xe2\x82\r\n\xff"
        )
        found, _ = tokenise([path], encoder, block_bytes=block_bytes)
        assert_same(found, (whole_tokens(path, gpt2), np.array([], dtype=np.uint16)))


@pytest.mark.sample(3)
@pytest.mark.parametrize(("n_workers", "block_bytes"), [(1, 1000), (2, 1 << 20), (8, 100_000)])
def test_real_text_has_the_tokens_of_the_whole_file(
    gpt2: tiktoken.Encoding, encoder: Encoder, tmp_path: Path, n_workers: int, block_bytes: int
) -> None:
    path = tmp_path / "text"
    path.write_bytes(real_text())
    windows = val_windows(path.stat().st_size, 0.05, "spread")
    found, tally = tokenise([path], encoder, windows=windows, n_workers=n_workers, block_bytes=block_bytes)
    whole = whole_tokens(path, gpt2)
    assert len(found[0]) + len(found[1]) == len(whole) == tally.tokens
    assert_same(found, expected_pair([path], gpt2, windows=windows))


def long_stretch(kind: str) -> bytes:
    """1.3 MB without an exact cut, with a beginning and an end."""
    rng = random.Random(kind)
    middles = {
        "letters": "".join(rng.choices("abcdefghij", k=1_300_000)).encode(),
        "CJK": "".join(rng.choices("\u4e00\u6587\u5b57\u8a9e", k=433_333)).encode(),
        "line ends": b"\r\n" * 650_000,
        "invalid": b"\r" + b"\xff" * 1_300_000 + b"\n\n",
        "line ends among invalid": b"\r\xff\n\xff" * 325_000,
        "emoji": "\U0001f600".encode() * 325_000,
    }
    return b"It was, as ever, " + middles[kind] + b"x the end of 1 text.\n"


KINDS = ("letters", "CJK", "line ends", "invalid", "line ends among invalid", "emoji")


@pytest.mark.sample(4)
@pytest.mark.parametrize("kind", KINDS)
def test_a_stretch_without_a_cut_is_cut_at_the_same_places_whatever_the_blocks(
    gpt2: tiktoken.Encoding, encoder: Encoder, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "text"
    path.write_bytes(long_stretch(kind))
    results = [
        tokenise([path], encoder, n_workers=n_workers, block_bytes=block_bytes)
        for n_workers, block_bytes in ((1, 100), (2, 99_991), (3, 1 << 20), (2, 1 << 22))
    ]
    (train, _), tally = results[0]
    assert tally.forced_cuts == 2
    for found, other in results[1:]:
        assert_same(found, results[0][0])
        assert as_if_unchecked(other) == as_if_unchecked(tally)
    # The text is that of the whole file, also at the seams.
    whole = whole_tokens(path, gpt2)
    assert gpt2.decode_bytes(train.tolist()) == gpt2.decode_bytes(whole.tolist())


def test_around_a_forced_cut_nothing_else_changes(
    gpt2: tiktoken.Encoding, encoder: Encoder, tmp_path: Path
) -> None:
    path = tmp_path / "text"
    raw = long_stretch("letters")
    path.write_bytes(raw)
    (found, _), _ = tokenise([path], encoder)
    first_break = raw.index(b" ", 11)  # before the stretch, whose own space belongs to it
    places = [0, *(first_break + k * MAX_PIECE_BYTES for k in (0, 1, 2)), len(raw)]
    pieces = [raw[start:end].decode() for start, end in pairwise(places)]
    assert found.tolist() == [token for piece in pieces for token in gpt2.encode_ordinary(piece)]


def test_a_stretch_that_is_just_short_enough_is_not_cut(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "text"
    for n_extra, n_cuts in ((0, 0), (1, 1)):
        path.write_bytes(b"a b" + b"c" * (MAX_PIECE_BYTES - 2 + n_extra) + b" d")
        for block_bytes in (50, 1 << 20):
            _, tally = tokenise([path], encoder, block_bytes=block_bytes)
            assert tally.forced_cuts == n_cuts


def test_strict_names_the_file_the_offset_and_the_bytes(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(b"words and " * 1000 + b"caf\xe9 au lait " + b"and words " * 1000)
    with pytest.raises(InputError, match=r"bad\.txt: byte 10,003 is not UTF-8: found e9"):
        tokenise([path], encoder, errors="strict", block_bytes=512)


def test_the_first_offsets_of_invalid_bytes_are_reported(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "text"
    raw = bytearray(b"some words here " * 5000)
    places = list(range(100, 20_100, 1000))
    for place in places:
        raw[place] = 0xFF
    path.write_bytes(raw)
    _, tally = tokenise([path], encoder, block_bytes=700, n_workers=4)
    assert tally.invalid_bytes == len(places)
    assert tally.invalid_offsets == [(0, place) for place in places[:10]]
