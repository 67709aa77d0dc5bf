"""Start threads where the system may refuse memory: a ulimit, or no overcommit (vm.overcommit_memory=2)."""

import mmap
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Thread

_THREAD_BYTES = 16 << 20  # a stack of 8 MiB, and what Python and the C library allocate for a thread
_START_S = 60.0  # it takes 50 us, but a thread that is refused memory as it starts never reaches the barrier


def start_pool(n_threads: int, name: str) -> ThreadPoolExecutor:
    """Return a pool whose threads have all started.

    CPython 3.10 to 3.13 hangs in Thread.start if the new thread is refused memory. So all threads start here,
    after a check that there is room, and none later, when memory may be short.

    Raises:
        MemoryError: not all threads can be started.
    """
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix=name)
    all_run = Barrier(n_threads + 1)
    try:
        for _ in range(n_threads):
            _check_room()
            pool.submit(all_run.wait)  # no thread is idle, so this starts one
        all_run.wait(_START_S)
    except BaseException as error:
        all_run.abort()  # or the threads that did start would wait for ever, and so would the process
        pool.shutdown()
        if not isinstance(error, MemoryError | RuntimeError):  # "can't start new thread", BrokenBarrierError
            raise
        raise MemoryError(f"not all of {n_threads} threads can be started") from error
    return pool


def start_daemon(run: Callable[[], None]) -> None:
    """Run `run` in a thread that the process does not wait for when it ends.

    Raises:
        MemoryError: the thread cannot be started.
    """
    _check_room()
    try:
        Thread(target=run, daemon=True).start()
    except RuntimeError as error:
        raise MemoryError("one more thread cannot be started") from error


def _check_room() -> None:
    """Raise MemoryError if the limits leave no room for one more thread; checked on Linux only.

    The mapping takes no memory until it is written, but the limits count it (RLIMIT_DATA only if private).
    """
    if sys.platform != "linux":
        return
    try:
        mmap.mmap(-1, _THREAD_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError as error:
        raise MemoryError("there is no room for one more thread") from error
