"""Sizes, counts and durations, as typed and as printed."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_compat.errors import UsageError
from nanogpt_compat.system.units import format_bytes, format_count, format_duration, format_rate, parse_size

UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40} | {
    letter + end: 1000**k for k, letter in enumerate("KMGT", start=1) for end in ("", "B")
}


@given(
    number=st.integers(1, 10**18 - 1),
    unit=st.sampled_from(list(UNITS)),
    space=st.sampled_from(["", " "]),
    case=st.sampled_from([str, str.upper, str.lower]),
)
def test_every_number_with_every_unit_is_read_exactly(
    number: int,
    unit: str,
    space: str,
    case: Callable[[str], str],
) -> None:
    assert parse_size(f"{number}{space}{case(unit)}") == number * UNITS[unit]


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("1.5M", 1_500_000), ("0.5KiB", 512), (" 64 MiB ", 1 << 26), ("1.1K", 1100), ("07", 7)],
)
def test_fractions_are_read_exactly_too(text: str, n_bytes: int) -> None:
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "0", "0.0001K", "-1", "+1", "1e6", "1,000", "1_000", "1.", ".5", "M", "1MM", "1 i", "1iB"),
        *("1Mi", "1PB", "1 M B", "nan", "inf", "0x10", "1M\n2", "\u0663", "\u0661\u0662K", "9" * 400),
    ],
)
def test_an_invalid_size_is_refused_with_the_text_typed(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_size(text)
    assert repr(text) in str(error.value)


@given(n_bytes=st.integers(1, 10**17))
def test_a_printed_size_reads_back_to_within_five_percent(n_bytes: int) -> None:
    printed = format_bytes(n_bytes)
    assert printed.isascii()
    assert len(printed) <= len("999 bytes")
    if n_bytes < 999_500_000_000_000:  # a petabyte is printed, but need not be typed
        read = parse_size(printed.removesuffix("ytes").removesuffix("yte"))
        assert abs(read - n_bytes) <= 0.05 * n_bytes


@pytest.mark.parametrize(
    ("n", "text"),
    [
        *((0, "0"), (999, "999"), (1000, "1.0K"), (99_949, "99.9K"), (99_950, "100K"), (999_499, "999K")),
        *((999_500, "1.0M"), (999_949_999, "1.0B"), (3.3e9, "3.3B"), (15e12, "15.0T"), (2e18, "2000Q")),
    ],
)
def test_counts_have_three_digits_and_a_letter(n: float, text: str) -> None:
    assert format_count(n) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0.0 s"), (9.94, "9.9 s"), (10, "10 s"), (99.4, "99 s"), (100, "2 min"), (185, "3 min")),
        *((3569, "59 min"), (3599, "1 h 0 min"), (7500, "2 h 5 min"), (360_000, "100 h 0 min")),
    ],
)
def test_durations_have_a_useful_precision(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_a_rate_over_no_time_is_a_dash() -> None:
    assert format_rate(31_400_000, 2) == "15.7 MB/s"
    assert format_rate(5, 0) == "-"
