"""Memory that the system refuses: for a ulimit, or since it does not overcommit (vm.overcommit_memory=2)."""

import mmap
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Thread

_THREAD_BYTES = 16 << 20  # a stack of 8 MiB, and what Python and the C library set up for a thread
_START_S = 60.0  # it takes 50 us; a thread that is refused memory once it runs never gets to the barrier


def start_pool(n_threads: int, name: str) -> ThreadPoolExecutor:
    """Make a pool whose threads have all started, and with room for that.

    A thread that is refused memory in the moment it starts is waited for without end (CPython 3.10 to 3.13,
    Thread.start); so none is started later, when memory may be short.

    Raises:
        MemoryError: they cannot be started.
    """
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix=name)
    all_run = Barrier(n_threads + 1)
    try:
        for _ in range(n_threads):
            _start_thread(pool, all_run)
        all_run.wait(_START_S)
    except BaseException as error:
        all_run.abort()  # or those that have started would wait for ever, and the process for them
        pool.shutdown()
        if not isinstance(error, MemoryError | RuntimeError):  # "can't start new thread", BrokenBarrierError
            raise
        raise MemoryError(f"of {n_threads} threads not all can be started") from error
    return pool


def _start_thread(pool: ThreadPoolExecutor, all_run: Barrier) -> None:
    """Start one more thread, which waits for the others."""
    _check_room()
    pool.submit(all_run.wait)


def start_daemon(run: Callable[[], None]) -> None:
    """Let `run` go on in a thread that the end of the process does not wait for.

    Raises:
        MemoryError: it cannot be started.
    """
    _check_room()
    try:
        Thread(target=run, daemon=True).start()
    except RuntimeError as error:
        raise MemoryError("one more thread cannot be started") from error


def _check_room() -> None:
    """Raise MemoryError if the limits leave no room for one more thread. Only Linux can tell without trying.

    A mapping takes no memory until it is touched, but the limits count it; RLIMIT_DATA only a private one.
    """
    if sys.platform != "linux":
        return
    try:
        mmap.mmap(-1, _THREAD_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError as error:
        raise MemoryError("there is no room for one more thread") from error
