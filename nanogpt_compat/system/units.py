"""Parse and format sizes, counts and durations. ASCII only."""

import re
from fractions import Fraction

from nanogpt_compat.errors import UsageError

_UNITS = ("kB", "MB", "GB", "TB", "PB")
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?) *([kmgt]?)(i?b?)", re.ASCII | re.IGNORECASE)
_COUNT = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)([kmgbt]?)", re.ASCII | re.IGNORECASE)


def parse_size(text: str) -> int:
    """Parse `64M`, `1.5GB`, `512KiB` or `4096` into bytes; K, M, G, T are powers of 1000, KiB.. of 1024.

    Raises:
        UsageError: it is not a size, or less than one byte.

    >>> parse_size("1.5M"), parse_size("4MiB"), parse_size("77")
    (1500000, 4194304, 77)
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[3].lower() == "i":
        raise UsageError(
            f"{text!r} is not a size; write bytes, or a number with K, M, G, T, KiB, MiB, GiB or TiB"
        )
    if match[3].lower() == "ib" and not match[2]:
        raise UsageError(f"{text!r} is not a size; did you mean KiB, MiB, GiB or TiB?")
    base = 1024 if match[3].lower() == "ib" else 1000
    n_bytes = int(Fraction(match[1]) * base ** " kmgt".index(match[2].lower() or " "))
    if n_bytes < 1:
        raise UsageError(f"a size of {text!r} is less than one byte")
    return n_bytes


def parse_count(text: str) -> int:
    """Parse `100M` or `100000000` into a number; K, M, G (or B, for billions) and T are powers of 1000.

    Raises:
        UsageError: it is not a whole number of at least one.

    >>> parse_count("1.5M"), parse_count("10b") == parse_count("10G")
    (1500000, True)
    """
    match = _COUNT.fullmatch(text.strip())
    unit = match[2].lower().replace("b", "g") if match else ""
    number = Fraction(match[1]) * 1000 ** " kmgt".index(unit or " ") if match else Fraction()
    if number < 1 or number.denominator != 1:
        raise UsageError(f"{text!r} is not a whole number of at least 1, such as 100000000 or 100M")
    return int(number)


def format_bytes(n_bytes: float) -> str:
    """Format bytes with three digits and a decimal unit, like `ls --si` and disk makers.

    >>> format_bytes(15_000_000_000), format_bytes(999), format_bytes(6_640_000)
    ('15.0 GB', '999 bytes', '6.6 MB')
    """
    if abs(n_bytes) < 1000:
        return f"{n_bytes:.0f} byte{'' if n_bytes == 1 else 's'}"
    return _scaled(n_bytes, tuple(f" {unit}" for unit in _UNITS))


def format_part(n_bytes: float, total_bytes: float) -> str:
    """Format a part of a size, both in the unit of the whole.

    >>> format_part(6_700_000_000, 15_000_000_000), format_part(1_000, 317_000_000), format_part(3, 10)
    ('6.7/15.0 GB', '0/317 MB', '3/10 bytes')
    """
    total = format_bytes(total_bytes)
    number, unit = total.split()
    for _ in range(("byte", "bytes", *_UNITS).index(unit) - 1):
        n_bytes /= 1000
    return f"{n_bytes:.{1 if '.' in number else 0}f}/{total}"


def format_count(n: float) -> str:
    """Format a number of tokens the way papers do.

    >>> format_count(3_300_000_000), format_count(37_500), format_count(12)
    ('3.3B', '37.5K', '12')
    """
    return f"{n:.0f}" if abs(n) < 1000 else _scaled(n, ("K", "M", "B", "T", "Q"))


def plural(n: int, noun: str, more: str = "") -> str:
    """Format a number with its noun; `more` is the plural, if it is not the noun with an s.

    >>> plural(1, "token"), plural(2500, "token"), plural(0, "entry", "entries")
    ('1 token', '2,500 tokens', '0 entries')
    """
    return f"{n:,} {noun if n == 1 else more or noun + 's'}"


def _scaled(value: float, units: tuple[str, ...]) -> str:
    """Divide `value` (at least 1000) by the unit that leaves at most three digits before the point."""
    for unit in units:
        value /= 1000
        if abs(value) < 999.5 or unit == units[-1]:
            break
    return f"{value:.0f}{unit}" if abs(value) >= 99.95 else f"{value:.1f}{unit}"


def format_duration(seconds: float) -> str:
    """Format a duration with two digits or so.

    >>> format_duration(4.2), format_duration(185), format_duration(7500)
    ('4.2 s', '3 min', '2 h 5 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def format_short(seconds: float) -> str:
    """Format a duration in a few columns.

    >>> format_short(4.2), format_short(185), format_short(7500)
    ('4s', '3m', '2h05m')
    """
    if seconds < 100:
        return f"{seconds:.0f}s"
    minutes = round(seconds / 60)
    return f"{minutes}m" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02}m"


def format_rate(n_bytes: float, seconds: float) -> str:
    """Format a rate as `31.4 MB/s`; as `-` if no time has passed."""
    return f"{n_bytes / seconds / 1e6:.1f} MB/s" if seconds > 0 else "-"
