"""End the process when it is asked to stop: from the first moment on, and where a signal alone cannot.

The kernel drops a signal without a handler that is sent to process 1 of a container; so each gets one.
Python 2.7 and 3.0 to 3.9 must be able to read this file.
"""

import os
import select
import signal
import sys

MYPY = False
if MYPY:  # typing takes 5 ms to import, and Python 2.7 has none
    from collections.abc import Iterable
    from typing import NoReturn

# Slurm sends USR1 or USR2, as told, before a job's time is up; schedulers and terminals send the rest.
_NAMES = ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"]
STOP_SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]  # Windows has only two


def end_at_once(numbers=STOP_SIGNALS):
    # type: (Iterable[int]) -> None
    """Let each of these signals end the process with one line, as long as there is no work to save.

    A signal that is ignored stays ignored: nohup and background jobs rely on that.
    """
    for number in numbers:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number, frame):
    # type: (int, object) -> None
    name = next(name for name in _NAMES if getattr(signal, name, None) == number)
    try:
        if sys.platform == "win32" or select.select([], [2], [], 0)[1]:  # a pager may have stopped reading
            os.write(2, ("prepare: stopped by " + name + "\n").encode("ascii"))
    except (OSError, ValueError):  # stderr is closed
        pass
    die_by(number)


def die_by(number):
    # type: (int) -> NoReturn
    """End this process by a signal, so that a shell's loop or a scheduler sees what ended it."""
    signal.signal(number, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):  # a parent may have blocked it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # we are process 1
