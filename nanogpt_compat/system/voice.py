"""What connects a run with its user."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from nanogpt_compat.system.display import CalmStream
from nanogpt_compat.system.feed import Feed
from nanogpt_compat.system.progress import Bar, Display, Lines, Screen


@dataclass(frozen=True, slots=True)
class Voice:
    """What connects a run with its user: messages, warnings and progress, and the signal to stop."""

    stderr: CalmStream
    is_quiet: bool
    check: Callable[[], None] = lambda: None  # called several times a second; raises if the run should stop
    stdout: CalmStream | None = None  # takes the messages in place of stderr
    progress: str = "auto"  # one of PROGRESS
    feed: Feed | None = None  # with --progress json

    def warn(self, *lines: str) -> None:
        """Print lines, with `--quiet` too."""
        for line in lines:
            self.stderr.write(line + "\n")

    def say(self, *lines: str) -> None:
        """Print lines; with `--quiet`, only warnings."""
        for line in lines:
            if not self.is_quiet or line.startswith("warning:"):
                (self.stdout or self.stderr).write(line + "\n")

    def enter(self, state: str) -> None:
        """Report the state that the run has reached to a program that reads the progress."""
        if self.feed is not None:
            self.feed.enter(state)

    def found_complete(self) -> None:
        """Report to such a program, at the end, that there was nothing to do."""
        if self.feed is not None:
            self.feed.found_complete()

    def open_display(
        self,
        total_bytes: int | None,
        done_bytes: int,
        memory_bytes: Callable[[], int],
        *,
        state: str = "running",
    ) -> Display:
        """Open the progress display; `total_bytes` is None if the size is unknown."""
        screen: Screen | None = None
        if self.feed is not None:
            screen = self.feed.at(state)
        elif not self.is_quiet:
            is_bar = self.progress == "bar"
            if self.progress == "auto":  # on a dumb terminal, a line cannot be drawn again
                is_bar = self.stderr.isatty() and os.environ.get("TERM") != "dumb"
            screen = Bar(self.stderr) if is_bar else Lines(self.stderr)
        return Display(screen, total_bytes=total_bytes, done_bytes=done_bytes, memory_bytes=memory_bytes)
