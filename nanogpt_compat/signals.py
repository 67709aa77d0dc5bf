"""Being asked to stop: the first signal ends the run at the next block, the second ends it at once."""

import os
import signal
from types import FrameType

# Slurm announces the end of a job's time with USR1 or USR2, as told; schedulers and shells send the rest.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


class StoppedBySignal(Exception):
    """The run was asked to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class StopSignals:
    """Turns the first signal into a `StoppedBySignal` at the next `check`.

    A signal that is ignored when the run starts stays ignored: so nohup and background jobs mean it.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[int, object] = {}

    def check(self) -> None:
        """Raise StoppedBySignal if a signal has come."""
        if self._received is not None:
            raise StoppedBySignal(self._received)

    def __enter__(self) -> "StopSignals":
        for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what `signal` returned, it takes

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Take note, and let the next signal do what it does by default."""
        self._received = number
        for other in self._before:
            signal.signal(other, signal.SIG_DFL)


def die_by(number: int) -> None:
    """End this process by a signal, so that a shell's loop or a scheduler sees how it ended."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
