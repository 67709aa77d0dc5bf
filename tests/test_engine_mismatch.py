"""Wrong tokens from an engine are noticed, the run starts over with tiktoken, and the output is right."""

import json
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt_compat import pipeline
from nanogpt_compat.encoders import fast as fast_module
from nanogpt_compat.encoders.fast import GigatokenEncoder, slice_at
from nanogpt_compat.encoders.interface import EngineMismatch
from nanogpt_compat.encoders.reference import TiktokenEncoder
from nanogpt_compat.pipeline import places_to_check
from nanogpt_compat.text.blocks import Block, Position
from tests.engines import open_gigatoken
from tests.faults import Args, make_text, report_of, run
from tests.reference import exact_cuts, whole_tokens
from tests.texts import valid_bytes

pytestmark = pytest.mark.costly

WORD = "Xyzzyq"  # the engine errs here, with `errs_at`
SIZE = 1_500_000
OFTEN: dict[str, Any] = {"check_every_bytes": 200_000, "every_bytes": 100_000}
BLOCKS = ("--block-size", "64KiB", "--val-split", "none")


def place(path: Path, *offsets: int) -> Path:
    """Overwrite the text at these offsets with the word."""
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            file.write(f" {WORD} ".encode())
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return make_text(tmp_path / "text.txt", SIZE)


def tokens_in(folder: Path) -> list[int]:
    return np.fromfile(folder / "train.bin", dtype="<u2").tolist()  # type: ignore[no-any-return]


def right(gpt2: tiktoken.Encoding, *paths: Path) -> list[int]:
    return [token for path in paths for token in whole_tokens(path, gpt2).tolist()]


def blocks_cut_at(inputs: int, edges: list[int]) -> Iterator[Block]:
    for start, end in pairwise(edges):
        yield Block(b"", Position(inputs, start), Position(inputs, end), is_val=False)


def first_byte_of(report: dict[str, Any]) -> int:
    """Return the first of the bytes that a report names."""
    return int(report["engine_mismatch"].split(" for bytes ")[1].split()[0].replace(",", ""))


def assert_found_out(folder: Path, stderr: str, *, of: Path, at: int) -> None:
    """Check that the run and the report name the bytes and the file."""
    lines = [line for line in stderr.splitlines() if line.endswith(": starting over with tiktoken")]
    assert len(lines) == 1, stderr
    report = report_of(folder)
    assert report["engine"] == "tiktoken"
    assert lines[0] == f"{report['engine_mismatch']}: starting over with tiktoken"
    before, _, of_path = lines[0].partition(" of /")
    assert f"/{of_path}" == f"{of}: starting over with tiktoken"
    start, end = (int(word.replace(",", "")) for word in before.split(" for bytes ")[1].split(" to "))
    assert start <= at < end
    assert f"warning: {report['engine_mismatch']}; all tokens were made by tiktoken" in stderr
    assert "0 differ" not in stderr
    assert report["engine_checked_slices"] == report["engine_fallback_blocks"] == 0


def test_an_engine_that_does_not_err_is_checked_in_every_stretch(
    text: Path, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    done = run("--input", text, "--output-dir", tmp_path / "out", *BLOCKS, **OFTEN)
    assert done.returncode == 0, done.stderr
    assert "starting over" not in done.stderr
    report = report_of(tmp_path / "out")
    assert (report["engine"], report["engine_mismatch"]) == ("gigatoken", "")
    # Seven or eight stretches; the first block is checked as a whole, apart from the slices.
    assert 7 <= report["engine_checked_slices"] <= 9
    assert f"{report['engine_checked_slices']} slices checked against tiktoken: 0 differ" in done.stderr
    assert tokens_in(tmp_path / "out") == right(gpt2, text)


def test_one_that_errs_in_the_first_block_is_found_out(
    text: Path, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    place(text, 50_000)
    done = run("--input", text, "--output-dir", tmp_path / "out", *BLOCKS, errs_at=WORD, **OFTEN)
    assert done.returncode == 0, done.stderr
    assert_found_out(tmp_path / "out", done.stderr, of=text, at=50_000)
    assert tokens_in(tmp_path / "out") == right(gpt2, text)
    again = run("--input", text, "--output-dir", tmp_path / "out", *BLOCKS)
    assert "already complete" in again.stderr


def test_one_that_errs_often_but_only_later_is_found_out(
    text: Path, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    place(text, *range(700_000, SIZE - 100, 500))
    done = run("--input", text, "--output-dir", tmp_path / "out", *BLOCKS, errs_at=WORD, **OFTEN)
    assert done.returncode == 0, done.stderr
    at = first_byte_of(report_of(tmp_path / "out"))
    assert at > 690_000
    assert_found_out(tmp_path / "out", done.stderr, of=text, at=at)
    assert tokens_in(tmp_path / "out") == right(gpt2, text)


def test_one_that_errs_once_in_the_slice_of_a_stretch_of_16_mib_is_found_out(
    gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    size = 17_000_000
    text = make_text(tmp_path / "text.txt", size)
    (block,) = blocks_cut_at(0, [0, size])
    (at,) = (at for at in places_to_check(block) if at < pipeline._CHECK_EVERY_BYTES)
    place(text, at)
    done = run("--input", text, "--output-dir", tmp_path / "out", "--val-split", "none", errs_at=WORD)
    assert done.returncode == 0, done.stderr
    assert_found_out(tmp_path / "out", done.stderr, of=text, at=at)
    assert tokens_in(tmp_path / "out") == right(gpt2, text)


def test_one_that_errs_in_the_second_of_two_inputs_is_found_out_and_both_are_made_again(
    text: Path, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    other = make_text(tmp_path / "other.txt", 600_000, seed=1)
    place(other, *range(100_000, 590_000, 500))
    inputs: Args = ("--input", text, other)
    done = run(*inputs, "--output-dir", tmp_path / "out", *BLOCKS, errs_at=WORD, **OFTEN)
    assert done.returncode == 0, done.stderr
    at = int(
        report_of(tmp_path / "out")["engine_mismatch"].split(" for bytes ")[1].split()[0].replace(",", "")
    )
    assert_found_out(tmp_path / "out", done.stderr, of=other, at=at)
    assert tokens_in(tmp_path / "out") == right(gpt2, text, other)


def test_one_that_errs_only_after_a_resume_is_found_out(
    text: Path, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    place(text, *range(100, SIZE - 100, 2000))  # it has not erred on the first of them
    args: Args = ("--input", text, "--output-dir", tmp_path / "out", *BLOCKS)
    killed = run(*args, at="write journal", skip=5, **OFTEN)
    assert killed.returncode == -9
    done = run(*args, errs_at=WORD, **OFTEN)
    assert done.returncode == 0, done.stderr
    assert "resuming at" in done.stderr
    at = first_byte_of(report_of(tmp_path / "out"))
    assert at > 100_000
    assert_found_out(tmp_path / "out", done.stderr, of=text, at=at)
    assert tokens_in(tmp_path / "out") == right(gpt2, text)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("at", "skip", "is_remembered"),
    [
        ("remove .*", 0, False),  # it has erred, and all files are still there
        ("remove journal", 0, False),
        ("write journal", 1, False),  # before the header that records it
        ("fdatasync journal", 1, True),
        ("write journal", 2, True),  # before the first checkpoint
        ("write journal", 3, True),
        ("rename train.bin.partial", 0, True),
    ],
)
def test_a_run_killed_after_the_mismatch_resumes_with_tiktoken(
    at: str, skip: int, is_remembered: bool, text: Path, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    place(text, 50_000)
    args: Args = ("--input", text, "--output-dir", tmp_path / "out", *BLOCKS)
    killed = run(*args, at=at, skip=skip, errs_at=WORD, **OFTEN)
    assert killed.returncode == -9
    done = run(*args, errs_at=WORD, **OFTEN)
    assert done.returncode == 0, done.stderr
    assert ("starting over with tiktoken" in done.stderr) != is_remembered
    is_resumed = is_remembered and not at.startswith("rename")  # nothing is left to encode then
    assert (": resuming with tiktoken\n" in done.stderr) == is_resumed
    report = report_of(tmp_path / "out")
    assert report["engine"] == "tiktoken"
    assert "for bytes 0 to " in report["engine_mismatch"]
    assert report["engine_checked_slices"] == 0
    assert tokens_in(tmp_path / "out") == right(gpt2, text)


def test_an_engine_that_was_found_out_is_not_trusted_later_even_if_it_does_not_err(
    text: Path, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    place(text, 50_000)
    args: Args = ("--input", text, "--output-dir", tmp_path / "out", *BLOCKS)
    assert run(*args, at="write journal", skip=4, errs_at=WORD, **OFTEN).returncode == -9
    header = json.loads((tmp_path / "out/.prepare/journal").read_text().splitlines()[0].split(" ", 1)[1])
    assert "for bytes 0 to " in header["engine_mismatch"]
    done = run(*args, "--engine", "gigatoken", **OFTEN)
    assert done.returncode == 0, done.stderr
    assert report_of(tmp_path / "out")["engine"] == "tiktoken"
    assert report_of(tmp_path / "out")["engine_mismatch"] == header["engine_mismatch"]
    assert tokens_in(tmp_path / "out") == right(gpt2, text)
    restarted = run(*args, "--restart", "--overwrite")
    assert restarted.returncode == 0, restarted.stderr
    assert report_of(tmp_path / "out")["engine"] == "gigatoken"


# Places of the check


@given(sizes=st.lists(st.integers(1, 20_000_000), min_size=1, max_size=20), index=st.integers(0, 5))
def test_there_is_one_place_in_every_16_mib_whatever_the_blocks(sizes: list[int], index: int) -> None:
    edges = [0, *accumulate(sizes)]
    n_bytes = edges[-1]
    places = [
        block.start.offset + place
        for block in blocks_cut_at(index, edges)
        for place in places_to_check(block)
    ]
    (whole,) = blocks_cut_at(index, [0, n_bytes])
    assert places == places_to_check(whole)
    stretches = [at // (16 << 20) for at in places]
    n_full = n_bytes // (16 << 20)
    assert stretches[:n_full] == list(range(n_full))
    assert len(stretches) <= n_full + 1
    assert all(at < n_bytes for at in places)


def test_places_differ_from_stretch_to_stretch_and_from_input_to_input() -> None:
    places = {
        place % (16 << 20)
        for index in range(4)
        for block in blocks_cut_at(index, [0, 64 << 20])
        for place in places_to_check(block)
    }
    assert len(places) == 16
    assert max(places) - min(places) > 8 << 20


@pytest.fixture(scope="module")
def fast(gpt2: tiktoken.Encoding) -> GigatokenEncoder:
    return open_gigatoken(gpt2)


@given(parts=st.lists(valid_bytes, max_size=8), data=st.data(), near=st.integers(1, 80))
@settings(deadline=None)
def test_a_slice_lies_between_exact_cuts_and_has_its_tokens_there(
    parts: list[bytes], data: st.DataObject, near: int, fast: GigatokenEncoder
) -> None:
    text = b"".join(parts)
    place = data.draw(st.integers(0, len(text)), label="place")
    with patch.object(fast_module, "SLICE_BYTES", 20), patch.object(fast_module, "_NEAR_BYTES", near):
        found = slice_at(text, place)
        made = fast.encode_checked(text, [place])
    assert made.by_reference or made.n_checked == (found is not None)
    if found is None:
        assert all(not place - near <= cut <= place for cut in exact_cuts(text)) or len(text) > near
        return
    start, end = found
    breaks = {0, *exact_cuts(text), len(text)}
    assert start <= place <= len(text)
    assert {start, end} <= breaks
    assert end - start <= 2 * near + 20 + near or end == len(text)


def test_near_any_place_in_prose_there_is_a_slice(tmp_path: Path) -> None:
    text = make_text(tmp_path / "text", 300_000).read_bytes().decode("utf-8", "ignore").encode()
    for at in range(0, len(text), 7919):
        found = slice_at(text, at)
        assert found is not None
        start, end = found
        assert start <= at
        assert min(end - start, len(text) - start) >= min(8 * 1024, len(text) - start)
        assert end - start < 10 * 1024


@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_one_wrong_token_anywhere_in_a_slice_shows(where: str, gpt2: tiktoken.Encoding) -> None:
    text = b"It was the best of times, it was the worst of times, it was the age of wisdom. " * 100
    start, end = slice_at(text, 3000) or (0, 0)
    right_ids = TiktokenEncoder(gpt2).encode(text)
    fast = open_gigatoken(gpt2)
    ends = np.cumsum(fast._length_of[right_ids])
    first, last = np.searchsorted(ends, (start, end), side="right").tolist()
    index = {"first": first, "middle": (first + last) // 2, "last": last - 1}[where]

    def wrong(_tokenizer: object, _text: bytes) -> Any:
        ids = right_ids.copy()
        ids[index] ^= 1
        return ids

    with patch.object(fast._tokenizer, "_encode_with", wrong):
        with pytest.raises(EngineMismatch, match=rf"^bytes {start:,} to {end:,}$"):
            fast.encode_checked(text, [3000])
        with pytest.raises(EngineMismatch):
            fast.encode_checked(text, None)
        assert fast.encode_checked(text, []).n_checked == 0


@pytest.mark.parametrize("change", ["one missing", "one more", "two swapped", "none at all"])
def test_tokens_that_are_missing_added_or_in_another_order_show(change: str, gpt2: tiktoken.Encoding) -> None:
    text = b"It was the best of times, it was the worst of times, it was the age of wisdom. " * 50
    right_ids = TiktokenEncoder(gpt2).encode(text)
    changed = {
        "one missing": np.delete(right_ids, 100),
        "one more": np.insert(right_ids, 100, 11),
        "two swapped": right_ids[[*range(100), 101, 100, *range(102, len(right_ids))]],
        "none at all": right_ids[:0],
    }
    fast = open_gigatoken(gpt2)
    with patch.object(fast._tokenizer, "_encode_with", lambda _tokenizer, _text: changed[change]):
        for check_at in (None, [200]):
            with pytest.raises(EngineMismatch):
                fast.encode_checked(text, check_at)
