"""Decide which bytes of the input are for validation, from the input alone.

All inputs count as one concatenation of S bytes of text, uncompressed. A window is a range of nominal byte
offsets in it. The reader moves each edge to the first exact cut at or after it, so that a stopped, resumed or
distributed run makes the same split.

With a stream or a compressed file, S is unknown before its end. So up to `LOOK_AHEAD_BYTES` are read before
anything is decided: if all inputs end within them, S is known; otherwise windows come at even intervals.
"""

import sys
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

CHARS_PER_CHUNK = 10_000_000  # one unit of --n; it has always been this
SPLITS = ("spread", "head", "tail", "documents", "none")
LOOK_AHEAD_BYTES = 1024 * 1024
FIRST_SHARD = "first shard"  # set by some output formats; not a choice of --val-split
VAL_INPUT = "--val-input"  # the same: val is all of its own inputs, and nothing else
ALL_VAL = ((0, sys.maxsize),)  # the windows in an input for validation

_WITH_WINDOWS = ("spread", "head", "tail")
_WINDOW_BYTES = 64 * 1024
_MAX_RAISED_RATIO = 0.1
_MIN_VAL_BYTES = 32 * 1024  # about 8,000 tokens: nanoGPT samples blocks of 1,024 from val.bin


@dataclass(frozen=True, slots=True)
class Interval:
    """A window of `width` bytes at the beginning of every `period` bytes, up to the end of the text."""

    width: int
    period: int


Windows: TypeAlias = Sequence[tuple[int, int]] | Interval
"""Nominal windows: ranges `[start, end)`, in order and without overlap; or an endless series of them."""


def val_bytes(total_bytes: int, ratio: float) -> int:
    """Return how many bytes are nominally for validation: the ratio's share, but enough to sample from.

    >>> val_bytes(15_000_000_000, 0.0005), val_bytes(1_000_000, 0.0005), val_bytes(1_000_000, 0.0)
    (7500000, 32768, 0)
    """
    if ratio == 0:
        return 0
    return max(round(total_bytes * ratio), min(_MIN_VAL_BYTES, total_bytes // 10))


def total_bytes(sizes: Sequence[int | None], *, has_streams: bool) -> int | None:
    """Add up the text of all inputs; return None if it is unknown, so that `windows_for` returns an interval.

    `sizes` are the bytes of text of each input; None for a stream of more than `LOOK_AHEAD_BYTES`. With
    `has_streams`, a total of more than `LOOK_AHEAD_BYTES` counts as unknown, too.

    >>> total_bytes([700_000, 300_000], has_streams=True), total_bytes([2_000_000, 1], has_streams=True)
    (1000000, None)
    """
    known = [size for size in sizes if size is not None]
    is_unknown = len(known) < len(sizes) or (has_streams and sum(known) > LOOK_AHEAD_BYTES)
    return None if is_unknown else sum(known)


def document_ratio(sizes: Sequence[int | None], ratio: float, *, max_bytes: int | None = None) -> float:
    """Return the share of documents for validation: for little text it is raised, to 64 KiB or at most 10 %.

    `sizes` are the bytes of text of each input. If one is None, for unknown, `ratio` stays as it is.
    `max_bytes` is the most that is read of all inputs together. The size is rounded up to a power of two, so
    that a text that grows a little usually keeps its ratio. The ratio never rises when inputs are added, so
    no document then moves from training to validation.

    >>> document_ratio([15_000_000_000], 0.0005), document_ratio([3_000_000], 0.0005)
    (0.0005, 0.015625)
    """
    known = [size for size in sizes if size is not None]
    n_bytes = min(sum(known), sys.maxsize if max_bytes is None else max_bytes)
    if ratio == 0 or len(known) < len(sizes) or n_bytes == 0:
        return ratio
    rounded_bytes = 1 << (n_bytes - 1).bit_length()
    return max(ratio, min(_WINDOW_BYTES / rounded_bytes, _MAX_RAISED_RATIO))


def windows_for(n_bytes: int | None, ratio: float, split: str) -> Windows:
    """Choose the nominal windows in `n_bytes` of text, which is None if the size is unknown.

    >>> windows_for(100_000_000, 0.0005, "spread"), windows_for(None, 0.0005, "spread")
    ([(49975000, 50025000)], Interval(width=65536, period=131072000))
    """
    if n_bytes is not None:
        return val_windows(n_bytes, ratio, split)
    if split not in _WITH_WINDOWS or ratio == 0:
        return []
    period = round(min(_WINDOW_BYTES / ratio, sys.maxsize // 2))
    return Interval(_WINDOW_BYTES, max(period, _WINDOW_BYTES + 1))


def val_windows(total_bytes: int, ratio: float, split: str) -> list[tuple[int, int]]:
    """List the nominal windows `[start, end)`, in order and without overlap.

    >>> val_windows(100_000_000, 0.0005, "tail")
    [(99950000, 100000000)]
    """
    n_val = val_bytes(total_bytes, ratio)
    if split not in _WITH_WINDOWS or n_val == 0:
        return []
    if split == "head":
        return [(0, n_val)]
    if split == "tail":
        return [(total_bytes - n_val, total_bytes)]
    n_windows = max(1, n_val // _WINDOW_BYTES)
    width = n_val // n_windows
    # Centred at (k + 1/2) S / n, in exact integers, so the same on every machine.
    starts = ((2 * k + 1) * total_bytes // (2 * n_windows) - width // 2 for k in range(n_windows))
    return [(start, start + width) for start in starts]


def val_at(windows: Windows, offset: int) -> tuple[bool, int]:
    """Return whether the byte at `offset` is for validation, and the offset up to which that stays so.

    >>> val_at([(10, 20), (50, 60)], 15), val_at([(10, 20)], 20)[0], val_at(Interval(10, 100), 210)
    ((True, 20), False, (False, 300))
    """
    if isinstance(windows, Interval):
        start = offset - offset % windows.period
        is_val = offset - start < windows.width
        return is_val, start + (windows.width if is_val else windows.period)
    n_begun = bisect_right(windows, (offset, sys.maxsize))
    if n_begun and offset < windows[n_begun - 1][1]:
        return True, windows[n_begun - 1][1]
    return False, windows[n_begun][0] if n_begun < len(windows) else sys.maxsize
