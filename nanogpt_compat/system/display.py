"""Show progress, logs and warnings: a bar on a terminal, a plain line every ten seconds elsewhere."""

import contextlib
import io
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, TextIO

from nanogpt_compat.system.redaction import redact, redact_known
from nanogpt_compat.system.units import format_bytes, format_count, format_duration, format_rate

_LINE_EVERY_S = 10.0
_BAR_EVERY_S = 0.1
_JOINERS = "\u200c\u200d"  # of letters in Persian and Hindi, and of emoji
_ERASE = "\r\x1b[K"  # the line that the cursor is on

LOG = "nanogpt_compat"
"""The name of this program's logger; each module has a child of it."""


class CalmStream(io.TextIOBase):
    r"""A text stream that never raises: a closed pager must not stop a run of hours.

    It writes ASCII, with other characters escaped as `\xe9` or `\u4e2d`, and hides the secrets that this
    process knows.
    """

    _encoding = "ascii"

    def __init__(self, stream: TextIO | None) -> None:
        """Wrap `sys.stdout` or `sys.stderr`, which is None if the program was started with it closed."""
        self._stream = stream._stream if isinstance(stream, CalmStream) else stream
        self.failure: OSError | None = None  # the last failed write; a closed pipe does not count

    def write(self, text: str) -> int:
        """Write `text`; if that fails, drop it. The next call tries again: a full disk may have room then."""
        data = self._redact(text).encode(self._encoding, "backslashreplace")
        try:
            # Bypass the buffer: what stayed in it would be written at exit, and could end it with code 120.
            raw = getattr(getattr(self._stream, "buffer", None), "raw", None)
            if raw is not None:
                while data:
                    data = data[raw.write(data) or 0 :]
            elif self._stream is not None:
                self._stream.write(data.decode(self._encoding))
                self._stream.flush()
        except (BrokenPipeError, ValueError):
            pass
        except OSError as error:
            self.failure = error
        return len(text)

    def _redact(self, text: str) -> str:
        return redact(text)

    def flush(self) -> None:
        """Do nothing: `write` does not buffer."""

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        with contextlib.suppress(OSError, ValueError):
            return self._stream is not None and self._stream.isatty()
        return False

    def fileno(self) -> int:
        """Return the stream's file descriptor, from which tqdm reads the width of the terminal."""
        if self._stream is None:
            raise OSError("the stream is closed")
        return self._stream.fileno()


class TextStream(CalmStream):
    """A calm stream for excerpts of texts: in the encoding of the stream, with addresses in them unchanged.

    Escape the excerpts with `visible` first.
    """

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__(stream)
        self._encoding = getattr(self._stream, "encoding", None) or "ascii"

    def _redact(self, text: str) -> str:
        return redact_known(text)


def visible(text: str) -> str:
    r"""Escape what is invisible, or would move the cursor or turn the text around, as Python writes it.

    Bytes that are no characters come as `surrogateescape` has them.

    >>> print(visible("Two lines\n\x1b[31mC:\\ \udce4\u202e"))
    Two lines\n\x1b[31mC:\\ \xe4\u202e
    """
    return "".join(map(_visible_char, text))


def _visible_char(char: str) -> str:
    if (char.isprintable() and char != "\\") or char in _JOINERS:
        return char
    return f"\\x{ord(char) - 0xDC00:02x}" if "\udc80" <= char <= "\udcff" else repr(char)[1:-1]


class Notices(logging.Handler):
    """Prints what is logged where it cannot be returned to a caller, such as the wait for a server."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record on a line of its own; on a terminal it overwrites the bar."""
        stream = CalmStream(sys.stderr)
        stream.write(f"{_ERASE if stream.isatty() else ''}notice: {record.getMessage()}\n")


def use_calm_streams() -> logging.Handler:
    """Send everything that Python prints through `CalmStream`, including warnings, logs and tracebacks.

    Drop what libraries log unless a handler is installed: this program reports their errors itself. Return
    the handler of this program's own log.
    """
    sys.stdout, sys.stderr = CalmStream(sys.stdout), CalmStream(sys.stderr)
    sys.excepthook = _print_crash
    if not logging.getLogger().handlers:
        logging.getLogger().addHandler(logging.NullHandler())
    notices = Notices()
    logging.getLogger(LOG).addHandler(notices)
    return notices


@contextlib.contextmanager
def calm_streams() -> Iterator[None]:
    """Use calm streams inside the context. The crash hook stays, so a later traceback is redacted too."""
    streams = sys.stdout, sys.stderr
    notices = use_calm_streams()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        logging.getLogger(LOG).removeHandler(notices)


def _print_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    CalmStream(sys.stderr).write("".join(traceback.format_exception(kind, error, trace)))


class Display(Protocol):
    """Shows the progress of a run."""

    def show(self, *, bytes_read: int, tokens: int, memory_bytes: int) -> None:
        """Show the state of the run; called a few times a second at most."""
        ...

    def close(self) -> None:
        """Stop showing."""
        ...


class Nobody:
    """Shows nothing, for `--quiet`."""

    def show(self, *, bytes_read: int, tokens: int, memory_bytes: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Bar:
    """A tqdm bar, for a terminal."""

    def __init__(self, stream: CalmStream, *, total_bytes: int | None, done_bytes: int = 0) -> None:
        """Start the bar at `done_bytes`, which do not count towards its speed."""
        from tqdm import tqdm  # only for a terminal

        self._bar = tqdm(
            total=total_bytes,
            initial=done_bytes,
            unit="B",
            unit_scale=True,
            file=stream,
            ascii=True,
            dynamic_ncols=True,
            mininterval=_BAR_EVERY_S,
        )

    def show(self, *, bytes_read: int, tokens: int, memory_bytes: int) -> None:
        """Move the bar."""
        self._bar.set_postfix_str(
            f"{format_count(tokens)} tokens, {format_bytes(memory_bytes)} memory", refresh=False
        )
        self._bar.update(bytes_read - self._bar.n)

    def close(self) -> None:
        """Close the bar, and leave it on the screen."""
        self._bar.close()


class Lines:
    """A line every ten seconds, for a log."""

    def __init__(self, stream: CalmStream, *, total_bytes: int | None, done_bytes: int = 0) -> None:
        """Take the start time; `done_bytes` do not count towards the speed."""
        self._stream = stream
        self._total_bytes = total_bytes
        self._done_bytes = done_bytes
        self._started_s = self._shown_s = time.monotonic()

    def show(self, *, bytes_read: int, tokens: int, memory_bytes: int) -> None:
        """Print a line if the last one is ten seconds old."""
        now_s = time.monotonic()
        if now_s - self._shown_s < _LINE_EVERY_S:
            return
        self._shown_s = now_s
        new_bytes, elapsed_s = bytes_read - self._done_bytes, now_s - self._started_s
        done, left = format_bytes(bytes_read), ""
        if self._total_bytes is not None:
            # With --n the total is a forecast, which may be too low.
            share = min(1.0, bytes_read / max(1, self._total_bytes))
            left_s = max(0, self._total_bytes - bytes_read) * elapsed_s / max(1, new_bytes)
            done = f"{share:4.0%}  {done} of {format_bytes(self._total_bytes)}"
            left = f"  {format_duration(left_s)} left"
        self._stream.write(
            f"{done}  {format_rate(new_bytes, elapsed_s)}  {format_count(tokens)} tokens  "
            f"{format_bytes(memory_bytes)} memory{left}\n"
        )

    def close(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Voice:
    """What connects a run with its user: messages, warnings and progress, and the signal to stop."""

    stderr: CalmStream
    is_quiet: bool
    check: Callable[[], None] = lambda: None  # called several times a second; raises if the run should stop
    stdout: CalmStream | None = None  # takes the messages in place of stderr

    def warn(self, line: str) -> None:
        """Print a line, with `--quiet` too."""
        self.stderr.write(line + "\n")

    def say(self, line: str) -> None:
        """Print a line; with `--quiet`, only a warning."""
        if not self.is_quiet or line.startswith("warning:"):
            (self.stdout or self.stderr).write(line + "\n")

    def open_display(self, total_bytes: int | None, done_bytes: int) -> Display:
        """Open the progress display that fits stderr; `total_bytes` is None if the size is unknown."""
        if self.is_quiet:
            return Nobody()
        kind = Bar if self.stderr.isatty() else Lines
        return kind(self.stderr, total_bytes=total_bytes, done_bytes=done_bytes)
