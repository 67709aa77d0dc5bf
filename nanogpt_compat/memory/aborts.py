"""A native library that is refused memory calls abort(): keep its thread from that, so that the run can save.

    Rust gets no memory -> abort() -> SIGABRT, in the thread that asked -> faulthandler: leaves a trace
                                                                        -> the C library's sleep()
    the main thread, at its next check: a trace -> who sleeps? -> is memory refused? -> MemoryError

abort() ends the process when the handler returns, so the handler must not; and in that thread no memory can
be had, and no lock may be waited for. The C library's own `sleep` does nothing else, and the argument it gets
is the signal's number: 6 s. So if nobody comes (the main thread is the one that aborts, or the thread holds
the GIL), or saving takes longer, the process dies by SIGABRT after all; and it does so at once when memory
can be had, for then something else is wrong. A SIGABRT from outside takes those 6 s to end the process.

Linux only; and not where faulthandler is in use already (PYTHONFAULTHANDLER), which then has the last word.
"""

import contextlib
import ctypes
import errno
import faulthandler
import mmap
import os
import signal
import sys
import time
from pathlib import Path

from nanogpt_compat.errors import MemoryLimitError, TooSmallError
from nanogpt_compat.system.threads import is_refused, reserve

# What blocks in flight may take all together, twice: if so much can be had now, no less was refused just
# before, whatever the other threads have freed meanwhile.
PROBE_BYTES = 128 << 20
# Not touched, so it is no memory; but let go, it leaves so much of a limit to the way out.
BALLAST_BYTES = 16 << 20
_LOOK_FOR_S = 1.0  # from the trace to sleep() it takes some ms, more on a busy machine
_STOPS = (MemoryLimitError, TooSmallError, MemoryError)
_TASKS = Path("/proc/self/task")


class NativeAborts:
    """Turns the abort() of a thread that is refused memory into a `MemoryError` at the next `check`.

    A thread may be refused memory after the main thread was: leave the process by `leave` in any such case.
    """

    def __init__(self) -> None:
        self._trace_fd: int | None = None
        self._ballast: mmap.mmap | None = None
        self._sleeping_line = b""  # of a thread's status
        self._has_parked = False

    def __enter__(self) -> "NativeAborts":
        if sys.platform == "linux" and not faulthandler.is_enabled():
            with contextlib.suppress(OSError, AttributeError, ValueError):  # no /proc, an odd C library
                self._install()
        return self

    def _install(self) -> None:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        if signal.SIGABRT in blocked:
            return
        mask = sum(1 << (number - 1) for number in {*blocked, signal.SIGABRT})
        self._sleeping_line = b"\nSigBlk:\t%016x\n" % mask
        if b"\nSigBlk:\t" not in (_TASKS / str(os.getpid()) / "status").read_bytes():
            return
        libc = ctypes.CDLL(None)
        libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
        sleep = ctypes.cast(libc.sleep, ctypes.c_void_p)
        if signal.getsignal(signal.SIGABRT) is not signal.SIG_DFL:
            return  # somebody else's, set with Python
        if before := libc.signal(signal.SIGABRT, None):
            libc.signal(signal.SIGABRT, before)  # somebody else's, set by a library
            return
        self._ballast = reserve(BALLAST_BYTES)
        self._trace_fd = os.memfd_create("abort")
        libc.signal(signal.SIGABRT, sleep)
        no_c_stack = {"c_stack": False} if sys.version_info >= (3, 14) else {}  # it would ask for memory
        faulthandler.enable(self._trace_fd, all_threads=False, **no_c_stack)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._ballast is not None:
            self._ballast.close()
        # After a stop for memory other threads are still at work, and may be refused some too.
        if self._trace_fd is None or (kind is not None and issubclass(kind, _STOPS)):
            return
        faulthandler.disable()
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
        os.close(self._trace_fd)
        self._trace_fd = None

    def check(self) -> None:
        """Do nothing unless a thread has called abort(); 1 us.

        Raises:
            MemoryError: it was refused memory. If it was not, the process dies here, as abort() wants it to.
        """
        if self._has_parked or not self._has_trace():
            return
        self._has_parked = True  # first, for all that follows asks for memory
        may_be_memory = is_refused(PROBE_BYTES)
        if self._ballast is not None:
            self._ballast.close()
        if not (may_be_memory and self._is_one_sleeping()):
            signal.signal(signal.SIGABRT, signal.SIG_DFL)
            os.abort()
        raise MemoryError("refused to a native library")

    def _has_trace(self) -> bool:
        return self._trace_fd is not None and os.fstat(self._trace_fd).st_size > 0

    def _is_one_sleeping(self) -> bool:
        """Look for a thread that blocks SIGABRT and nothing else, as in our handler and nowhere else."""
        end_s = time.monotonic() + _LOOK_FOR_S
        while time.monotonic() < end_s:
            try:
                tasks = list(_TASKS.iterdir())
            except OSError as error:
                return error.errno == errno.ENOMEM  # nobody can look, for want of memory
            for task in tasks:
                with contextlib.suppress(OSError):  # it has ended
                    if self._sleeping_line in (task / "status").read_bytes():
                        return True
            time.sleep(0.01)
        return False

    def leave(self, exit_code: int) -> int:
        """Leave the process at once, for a thread that was refused memory can never be joined.

        Return `exit_code` where that cannot be.
        """
        if self._trace_fd is not None:
            os._exit(exit_code)
        return exit_code
