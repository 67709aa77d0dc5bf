"""Which bytes are for validation: windows that never overlap, stay within the input, and are large enough."""

import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_compat.text.val_split import (
    LOOK_AHEAD_BYTES,
    SPLITS,
    Interval,
    document_ratio,
    total_bytes,
    val_at,
    val_bytes,
    val_windows,
    windows_for,
)

KIB = 1024
totals = st.one_of(st.integers(0, 400_000), st.integers(0, 10**13))
ratios = st.one_of(st.floats(0, 0.999999), st.sampled_from([0.0, 0.0005, 0.01, 0.1, 0.5, 5e-324]))
some_ratios = st.floats(1e-6, 0.5)


@given(total=totals, ratio=some_ratios)
def test_the_share_is_the_ratio_but_at_least_32_kib_or_a_tenth(total: int, ratio: float) -> None:
    assert val_bytes(total, ratio) == max(round(total * ratio), min(32 * KIB, total // 10))


@given(total=totals, split=st.sampled_from(SPLITS))
def test_a_ratio_of_0_is_no_validation_at_all(total: int, split: str) -> None:
    assert val_bytes(total, 0.0) == 0
    assert val_windows(total, 0.0, split) == []


@given(total=totals, ratio=ratios)
def test_none_is_no_validation_at_all(total: int, ratio: float) -> None:
    assert val_windows(total, ratio, "none") == []


@given(total=totals, ratio=ratios, split=st.sampled_from(SPLITS))
def test_windows_are_in_order_apart_and_inside_the_input(total: int, ratio: float, split: str) -> None:
    total = min(total, 10**10)  # thousands of windows, not millions
    windows = val_windows(total, ratio, split)
    places = [0, *(edge for window in windows for edge in window), total]
    assert all(one <= other for one, other in pairwise(places))
    assert all(start < end for start, end in windows)


@given(total=totals, ratio=some_ratios)
def test_spread_windows_are_the_share_in_equal_parts_of_64_kib_or_more(total: int, ratio: float) -> None:
    total = min(total, 10**10)
    windows, share = val_windows(total, ratio, "spread"), val_bytes(total, ratio)
    if share == 0:
        assert windows == []
        return
    assert len(windows) == max(1, share // (64 * KIB))
    assert len({end - start for start, end in windows}) == 1
    assert 0 <= share - sum(end - start for start, end in windows) < len(windows)
    for k, (start, end) in enumerate(windows):  # centred at (k + 1/2) S / n, to the byte
        assert abs((start + end) / 2 - (k + 0.5) * total / len(windows)) <= 1.5


@given(total=totals, ratio=some_ratios)
def test_head_and_tail_are_the_share_in_one_piece_at_an_end(total: int, ratio: float) -> None:
    share = val_bytes(total, ratio)
    expected = {"head": (0, share), "tail": (total - share, total)}
    for split, window in expected.items():
        assert val_windows(total, ratio, split) == ([window] if share else [])


def test_the_windows_of_15_gb_are_those_of_the_design() -> None:
    windows = val_windows(15_000_000_000, 0.0005, "spread")
    assert len(windows) == 7_500_000 // (64 * KIB) == 114
    assert windows[0] == (65_789_473 - 65_789 // 2, 65_789_473 - 65_789 // 2 + 65_789)
    assert val_windows(1000, 0.0005, "spread") == [(450, 550)]


@given(total=totals, ratio=ratios, split=st.sampled_from(SPLITS), data=st.data())
def test_every_byte_is_on_the_side_of_its_window_up_to_the_next_edge(
    total: int, ratio: float, split: str, data: st.DataObject
) -> None:
    windows = val_windows(min(total, 10**9), ratio, split)
    places = [place for edges in windows for edge in edges for place in (edge - 1, edge)]
    for offset in [*places[:200], data.draw(st.integers(0, 10**13))]:
        is_val, edge = val_at(windows, offset)
        assert is_val == any(start <= offset < end for start, end in windows)
        assert edge > offset
        nearest = min((end for one in windows for end in one if end > offset), default=sys.maxsize)
        assert edge == nearest


@given(ratio=st.one_of(some_ratios, st.sampled_from([5e-324, 0.999999])), offset=st.integers(0, 10**15))
def test_without_a_known_size_each_interval_begins_with_64_kib(ratio: float, offset: int) -> None:
    interval = windows_for(None, ratio, "spread")
    assert isinstance(interval, Interval)
    assert interval.width == 64 * KIB
    assert interval.period == sys.maxsize // 2 or abs(interval.period - 64 * KIB / ratio) <= 1
    is_val, edge = val_at(interval, offset)
    assert is_val == (offset % interval.period < 64 * KIB)
    assert offset < edge <= offset + interval.period
    assert val_at(interval, edge - 1) == (is_val, edge)
    assert val_at(interval, edge)[0] != is_val


@pytest.mark.parametrize("split", ["documents", "none"])
def test_without_a_known_size_there_are_no_windows_for_documents_or_none(split: str) -> None:
    assert windows_for(None, 0.1, split) == []
    assert windows_for(None, 0.0, "spread") == []


def test_the_size_is_known_if_all_ends_within_the_look_ahead_and_not_a_byte_later() -> None:
    rest = LOOK_AHEAD_BYTES - 1000
    assert total_bytes([1000, 0, rest], has_streams=True) == LOOK_AHEAD_BYTES
    assert total_bytes([1000, 1, rest], has_streams=True) is None
    assert total_bytes([1000, 1, rest], has_streams=False) == LOOK_AHEAD_BYTES + 1
    assert total_bytes([None], has_streams=True) is None
    assert windows_for(LOOK_AHEAD_BYTES, 0.1, "spread") == val_windows(LOOK_AHEAD_BYTES, 0.1, "spread")


@given(
    sizes=st.lists(st.integers(0, 1 << 40), min_size=1, max_size=4),
    more=st.integers(0, 1 << 40) | st.none(),
    ratio=st.sampled_from([0.0, 0.0005, 0.05, 0.3]),
)
def test_more_inputs_never_raise_the_ratio_so_no_document_moves_to_validation(
    sizes: list[int], more: int | None, ratio: float
) -> None:
    before, after = document_ratio(sizes, ratio), document_ratio([*sizes, more], ratio)
    if sum(sizes):
        assert after <= before
    assert ratio <= before <= max(ratio, 0.1)
    assert ratio > 0 or before == 0
    assert document_ratio(sizes, ratio, max_bytes=1 << 50) == before


def test_the_ratio_gives_64_kib_of_the_next_power_of_two() -> None:
    assert document_ratio([1 << 27], 0.0001) == 2**-11
    assert document_ratio([(1 << 27) - 99, 100], 0.0001) == 2**-12
    assert document_ratio([1 << 40], 0.0001, max_bytes=10_000_000) == 2**-8
    assert document_ratio([1000], 0.0005) == 0.1
    assert document_ratio([1000, None], 0.0005) == 0.0005
