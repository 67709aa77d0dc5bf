"""End the process at a signal: at once while there is no work to save, else at the next block.

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


class StoppedBySignal(Exception):
    """A signal asked the run to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class StopSignals:
    """Turns the first signal into a `StoppedBySignal` at the next `check`.

    A signal that is ignored when the run starts stays ignored: nohup and background jobs rely on that.
    """

    def __init__(self) -> None:
        self._received = 0  # the number of the signal
        before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        self._before = {number: one for number, one in before.items() if one is not signal.SIG_IGN}

    def check(self) -> None:
        """Raise StoppedBySignal if a signal has arrived."""
        if self._received:
            raise StoppedBySignal(self._received)

    def __enter__(self) -> "StopSignals":
        for number in self._before:
            signal.signal(number, self._receive)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: "FrameType | None") -> None:
        """Record the signal, and let the next one end the process at once."""
        self._received = number
        for other in self._before:
            signal.signal(other, signal.SIG_DFL)  # this also works while the main thread is in a library
        if os.getpid() == 1:  # the kernel drops a signal to process 1 that has no handler
            end_at_once(self._before)
