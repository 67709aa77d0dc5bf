"""End the process on a signal while there is no work to save.

The kernel drops a signal to process 1 of a container unless there is a handler for it; so all get one.
Python 3.6 to 3.9 read this file before the message that they are too old: use no newer syntax here.
"""

import os
import select
import signal
import sys
from collections.abc import Iterable

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing takes 5 ms
    from collections.abc import Callable
    from types import FrameType
    from typing import NoReturn

# Slurm sends USR1 or USR2, as the job asks, before its time is up; schedulers and terminals send the rest.
_NAMES = ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"]
STOP_SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]  # Windows has only two


def end_at_once(numbers: "Iterable[int]" = STOP_SIGNALS) -> None:
    """Let each of these signals end the process with one line on stderr.

    A signal that is ignored stays ignored: nohup and background jobs rely on that.
    """
    for number in numbers:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)


last_words: "list[Callable[[int], str]]" = []  # what else to print, on stdout, with the signal's number


def _end(number: int, frame: "FrameType | None") -> None:
    name = next(name for name in _NAMES if getattr(signal, name, None) == number)
    _tell(2, f"prepare: stopped by {name}\n")
    for words in last_words:
        _tell(1, words(number))
    die_by(number)


def _tell(fd: int, text: str) -> None:
    try:
        if sys.platform == "win32" or select.select([], [fd], [], 0)[1]:  # a pager may have stopped reading
            os.write(fd, text.encode("ascii"))
    except (OSError, ValueError):  # it is closed
        pass


def die_by(number: int) -> "NoReturn":
    """End this process by a signal, so that a shell's loop or a scheduler sees what ended it."""
    signal.signal(number, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):  # a parent may have blocked it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # process 1 survives such a signal
