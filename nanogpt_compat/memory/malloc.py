"""Make the C library return freed memory to the system. Where it cannot, these functions do nothing."""

import contextlib
import ctypes
from collections.abc import Iterator
from functools import cache
from typing import Any

import psutil

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # <malloc.h>
_LARGE_BYTES = 8 << 20
_KEPT_BYTES = 16 << 20
_used_blocks: list[int] = []  # the sizes given to `uses_block`; a list, because its methods are atomic


def trim_heap() -> None:
    """Return freed memory to the system, which free() does not do for small objects; takes 1 to 50 ms."""
    if hasattr(psutil, "heap_trim"):  # psutil >= 7.2, not on musl
        psutil.heap_trim()
        return
    with contextlib.suppress(OSError, AttributeError):
        _libc().malloc_trim(0)


def return_large_blocks() -> None:
    """Make free() return allocations of 8 MiB and more to the system at once.

    By default glibc does that from 128 KiB on, but raises this bound, up to 32 MiB, whenever a larger
    allocation is freed. It would keep a tokeniser's freed tables of 8 and 16 MiB for ever. Smaller
    allocations are kept on purpose: the next block of text needs the same sizes, and new pages each time cost
    a tenth of the speed.
    """
    with contextlib.suppress(OSError, AttributeError):
        _libc().mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        _libc().mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        _libc().mallopt(_M_ARENA_MAX, 2)  # each keeps what is freed: one arena a thread takes 10 MB more


@contextlib.contextmanager
def uses_block(n_bytes: int) -> Iterator[None]:
    """Register an allocation that is not the tokeniser's cache, for as long as the context is entered."""
    _used_blocks.append(n_bytes)
    try:
        yield
    finally:
        _used_blocks.remove(n_bytes)


def used_bytes() -> int:
    """Return the sum of the sizes that `uses_block` has registered."""
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
    """Return the sum of the allocations that free() returns at once, without those of `uses_block`.

    0 if unknown. Takes 5 us.
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
