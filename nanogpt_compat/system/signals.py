"""Stop at a signal: the first one ends the run at the next block, the second one at once."""

import os
import signal
from types import FrameType

from nanogpt_compat.system.shutdown import STOP_SIGNALS, end_at_once


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
        self._received: int | None = None
        self._before: dict[int, object] = {}

    def check(self) -> None:
        """Raise StoppedBySignal if a signal has arrived."""
        if self._received is not None:
            raise StoppedBySignal(self._received)

    def __enter__(self) -> "StopSignals":
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # `signal` takes what it returned

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Record the signal, and let the next one end the process at once."""
        self._received = number
        for other in self._before:
            signal.signal(other, signal.SIG_DFL)  # this also works while the main thread is in a library
        if os.getpid() == 1:  # the kernel drops a signal to process 1 that has no handler
            end_at_once(self._before)
