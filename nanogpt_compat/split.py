"""Which bytes of the input are for validation: decided from the input alone.

All inputs count as one concatenation of S bytes. A window is a range of nominal byte offsets in it;
the reader moves each edge to the first exact cut at or after it, so that a stopped, resumed or
distributed run draws the same line.
"""

from collections.abc import Sequence

CHARS_PER_CHUNK = 10_000_000  # what one unit of --n has always meant
SPLITS = ("spread", "head", "tail", "documents", "none")

_WINDOW_BYTES = 64 * 1024
_MIN_VAL_BYTES = 32 * 1024  # about 8,000 tokens: nanoGPT samples blocks of 1,024 from val.bin


def val_bytes(total_bytes: int, ratio: float) -> int:
    """Return how many bytes are nominally for validation: `ratio` of them, but enough to sample from.

    >>> val_bytes(15_000_000_000, 0.0005), val_bytes(1_000_000, 0.0005), val_bytes(1_000_000, 0.0)
    (7500000, 32768, 0)
    """
    if ratio == 0:
        return 0
    return max(round(total_bytes * ratio), min(_MIN_VAL_BYTES, total_bytes // 10))


def val_windows(total_bytes: int, ratio: float, split: str) -> list[tuple[int, int]]:
    """List the nominal windows `[start, end)`, in order, none overlapping another.

    >>> val_windows(100_000_000, 0.0005, "tail")
    [(99950000, 100000000)]
    """
    n_val = val_bytes(total_bytes, ratio)
    if split in ("documents", "none") or n_val == 0:
        return []
    if split == "head":
        return [(0, n_val)]
    if split == "tail":
        return [(total_bytes - n_val, total_bytes)]
    n_windows = max(1, n_val // _WINDOW_BYTES)
    width = n_val // n_windows
    # Centred at (k + 1/2) S / n: exact in integers, so the same on every machine.
    starts = ((2 * k + 1) * total_bytes // (2 * n_windows) - width // 2 for k in range(n_windows))
    return [(start, start + width) for start in starts]


def edges_in(windows: Sequence[tuple[int, int]], file_start: int, file_end: int) -> list[int]:
    """Clip the windows to one file and list their edges, as offsets from the file's beginning.

    Val begins at the even places of the list and ends at the odd ones.

    >>> edges_in([(10, 20), (50, 60)], 15, 55)
    [0, 5, 35, 40]
    """
    return [
        edge - file_start
        for start, end in windows
        if start < file_end and end > file_start
        for edge in (max(start, file_start), min(end, file_end))
    ]
