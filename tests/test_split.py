"""Which bytes are for validation: windows that never overlap, never leave the input, and are enough."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from nanogpt_compat.split import SPLITS, edges_in, val_bytes, val_windows

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


@given(
    sizes=st.lists(st.integers(0, 300_000), min_size=1, max_size=9),
    ratio=some_ratios,
    split=st.sampled_from(SPLITS),
)
def test_windows_clipped_to_the_files_are_the_windows_of_the_whole(
    sizes: list[int], ratio: float, split: str
) -> None:
    windows = val_windows(sum(sizes), ratio, split)
    found = set[int]()
    file_start = 0
    for size in sizes:
        edges = edges_in(windows, file_start, file_start + size)
        assert len(edges) % 2 == 0
        assert edges == sorted(edges)
        assert all(0 <= edge <= size for edge in edges)
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            found.update(range(file_start + start, file_start + end))
        file_start += size
    assert found == {place for start, end in windows for place in range(start, end)}
