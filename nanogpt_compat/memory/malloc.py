"""How to make the C library give freed memory back; where that cannot be done, nothing is."""

import contextlib
import ctypes
from collections.abc import Iterator
from functools import cache
from typing import Any

import psutil

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # <malloc.h>
_LARGE_BYTES = 8 << 20
_KEPT_BYTES = 16 << 20
_used_blocks: list[int] = []  # sizes of what is in `uses_block`; a list, for its methods are atomic


def trim_heap() -> None:
    """Give freed memory back to the system, which free() alone does not for small objects: 1 to 50 ms."""
    if hasattr(psutil, "heap_trim"):  # psutil >= 7.2, not on musl
        psutil.heap_trim()
        return
    with contextlib.suppress(OSError, AttributeError):
        _libc().malloc_trim(0)


def return_large_blocks() -> None:
    """Have blocks of 8 MiB and more given back as soon as they are freed.

    glibc does so from 128 KiB on, but only until the first such block is freed: then it raises the bound, up
    to 32 MiB, and keeps what is smaller. A tokeniser's tables of 8 and 16 MiB would so stay for ever, freed.
    Smaller blocks are kept on purpose: those of a block of text come again with the next one, and pages that
    are new each time cost a tenth of the speed.
    """
    with contextlib.suppress(OSError, AttributeError):
        _libc().mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        _libc().mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        _libc().mallopt(_M_ARENA_MAX, 2)  # each keeps what it has; with one for each thread, 10 MB more


@contextlib.contextmanager
def uses_block(n_bytes: int) -> Iterator[None]:
    """Say that a block of this size is in use while this is entered, and not for remembering words."""
    _used_blocks.append(n_bytes)
    try:
        yield
    finally:
        _used_blocks.remove(n_bytes)


def used_bytes() -> int:
    """Add up the blocks of `uses_block`."""
    return sum(tuple(_used_blocks))


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def large_bytes() -> int:
    """Add up the blocks that are given back as soon as they are freed, but for those of `uses_block`.

    0 where it is not known. 5 us.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallinfo2 = _libc().mallinfo2  # glibc >= 2.33
        mallinfo2.restype = _Mallinfo2
        return int(mallinfo2().hblkhd) - sum(one for one in tuple(_used_blocks) if one >= _LARGE_BYTES)
    return 0


@cache
def _libc() -> Any:
    try:
        return ctypes.CDLL(None)
    except TypeError:  # Windows
        return None
