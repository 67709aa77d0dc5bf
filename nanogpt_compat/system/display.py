"""Standard streams that never fail a run, for messages, logs, warnings and progress."""

import contextlib
import io
import logging
import sys
import traceback
from collections.abc import Iterator
from typing import TextIO

from nanogpt_compat.system.redaction import redact, redact_known

_JOINERS = "\u200c\u200d"  # they join letters in Persian and Hindi, and emoji
_ERASE_REST = "\x1b[K"  # the rest of the cursor's line
_ERASE = f"\r{_ERASE_REST}"

LOG = "nanogpt_compat"
"""The name of this program's logger; each module has a child of it."""


class CalmStream(io.TextIOBase):
    r"""A text stream that never raises: a closed pager must not stop a run of hours.

    `write` writes ASCII, with other characters escaped as `\xe9` or `\u4e2d`, and hides the secrets that this
    process knows. On a terminal it may have a bar below everything else that is written.
    """

    def __init__(self, stream: TextIO | None) -> None:
        """Wrap `sys.stdout` or `sys.stderr`, which is None if the program was started with it closed."""
        self._stream = stream._stream if isinstance(stream, CalmStream) else stream
        self._has_bar = False  # the cursor is at the end of it
        self.failure: OSError | None = None  # the last failed write; a closed pipe does not count

    def write(self, text: str) -> int:
        """Write `text`; if that fails, drop it. The next call tries again: a full disk may have room then."""
        self._put((_ERASE if self._has_bar else "") + redact(text), "ascii")
        self._has_bar = False  # it is drawn again below the text
        return len(text)

    def write_as_is(self, text: str) -> None:
        """Write text in the stream's own encoding; escape what is missing there, and hide known secrets.

        Addresses in the text stay as they are. `visible` makes an excerpt of an input safe for a terminal.
        """
        self._put(redact_known(text), self.encoding)

    def draw_bar(self, line: str) -> None:
        """Replace the bar, or draw one, on a line of its own."""
        self.write_as_is(f"\r{line}{_ERASE_REST}")
        self._has_bar = True

    def end_bar(self) -> None:
        """Leave the bar as it is, and begin a new line."""
        if self._has_bar:
            self.write_as_is("\n")
        self._has_bar = False

    def _put(self, text: str, encoding: str) -> None:
        data = text.encode(encoding, "backslashreplace")
        try:
            # Bypass the buffer: Python would write the rest of it at exit, and could end with code 120.
            raw = getattr(getattr(self._stream, "buffer", None), "raw", None)
            if raw is not None:
                while data:
                    data = data[raw.write(data) or 0 :]
            elif self._stream is not None:
                self._stream.write(data.decode(encoding))
                self._stream.flush()
        except (BrokenPipeError, ValueError):
            pass
        except OSError as error:
            self.failure = error

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a variable there, which nothing sets
        """The encoding that the stream was opened with."""
        return getattr(self._stream, "encoding", None) or "ascii"

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


def calm(stream: TextIO | None) -> CalmStream:
    """Return a stream as a CalmStream; there is one for each, because it knows about the bar."""
    return stream if isinstance(stream, CalmStream) else CalmStream(stream)


def visible(text: str) -> str:
    r"""Escape what is invisible, or would move the cursor or turn the text around, as Python writes it.

    Bytes that are no characters come as `surrogateescape` has them.

    >>> print(visible("Two lines\n\x1b[31mC:\\ \udce4\u202e"))
    Two lines\n\x1b[31mC:\\ \xe4\u202e
    """
    shown = []
    for char in text:
        if (char.isprintable() and char != "\\") or char in _JOINERS:
            shown.append(char)
        elif "\udc80" <= char <= "\udcff":
            shown.append(f"\\x{ord(char) - 0xDC00:02x}")
        else:
            shown.append(repr(char)[1:-1])
    return "".join(shown)


class Notices(logging.Handler):
    """Prints what is logged where it cannot be returned to a caller, such as the wait for a server."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record on a line of its own."""
        calm(sys.stderr).write(f"notice: {record.getMessage()}\n")


def use_calm_streams() -> logging.Handler:
    """Send everything that Python prints through `CalmStream`, including warnings, logs and tracebacks.

    Drop what libraries log unless a handler is installed: this program reports their errors itself. Return
    the handler of this program's own log.
    """
    sys.stdout, sys.stderr = calm(sys.stdout), calm(sys.stderr)
    sys.excepthook = lambda kind, error, trace: calm(sys.stderr).write(
        "".join(traceback.format_exception(kind, error, trace))
    )
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
