"""An input that can only be read forward, and once: standard input, or a FIFO."""

import contextlib
import os
import select
import sys
from collections.abc import Callable

from nanogpt_compat.errors import InputError
from nanogpt_compat.system.filesystem import drop_cache

UNKNOWN = sys.maxsize
"""The size of what nobody knows the size of, until a read has met its end."""

KEPT_BYTES = 2 * 1024 * 1024
_CHUNK_BYTES = 64 * 1024  # what a pipe holds
_DROP_EVERY_BYTES = 8 * 1024 * 1024
_WAIT_MS = 100


class Pipe:
    """An open pipe, with the interface of an input file.

    The first `KEPT_BYTES` are kept until more is read: its beginning can be looked at, and then read again. A
    read waits for the other end no longer than 0.1 s without a call of `check`.
    """

    hints: tuple[object, ...] = ()  # nothing but reading it all tells whether it is the same

    def __init__(self, fd: int, name: str) -> None:
        """Take an open file descriptor, which nobody else reads from."""
        self.name = name
        self.size_bytes = UNKNOWN
        self.check: Callable[[], None] = lambda: None  # what it raises ends a read
        self._fd = fd
        self._data = bytearray()
        self._base = 0  # bytes before those of `_data`
        self._dropped_bytes = 0

    def __str__(self) -> str:
        return self.name

    @property
    def path(self) -> "Pipe":
        """What to call it."""
        return self

    @property
    def identity(self) -> tuple[int, int]:
        """What is the same for every name of one pipe."""
        status = os.fstat(self._fd)
        return status.st_dev, status.st_ino

    def __enter__(self) -> "Pipe":
        return self

    def __exit__(self, *exc: object) -> None:
        """Leave it open: it cannot be opened again."""

    def read(self, n_bytes: int, offset: int) -> bytes:
        """Wait for exactly `[offset, offset + n_bytes)`, or for the end.

        Raises:
            InputError: it fails, or `offset` was read before and is not kept. And what `check` raises.
        """
        if offset < self._base:
            raise InputError(
                f"{self} cannot be read twice: run the same command again, with the same text from its "
                "beginning"
            )
        end = offset + n_bytes
        while self._base + len(self._data) < min(end, self.size_bytes):
            self._read_some()
        data = bytes(self._data[offset - self._base : end - self._base])
        if self._base + len(self._data) > KEPT_BYTES:
            n_done = offset + len(data) - self._base
            del self._data[:n_done]
            self._base += n_done
        return data

    def _read_some(self) -> None:
        end = self._base + len(self._data)
        self._wait()
        try:
            data = os.read(self._fd, _CHUNK_BYTES)
        except BlockingIOError:  # somebody else has made it so, and has read what there was
            return
        except OSError as error:
            raise InputError(f"cannot read {self} at byte {end:,}: {error.strerror}") from error
        if not data:
            self.check()  # Ctrl-C ends whoever writes, too: that is no end of the text
            self.size_bytes = end
        self._data += data

    def _wait(self) -> None:
        self.check()
        if hasattr(select, "poll"):  # not on Windows, where a signal waits for the read to end
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            while not poll.poll(_WAIT_MS):
                self.check()

    def drop_before(self, offset: int) -> None:
        """Let the page cache forget what lies before, if it is a file after all (`< file`)."""
        if offset - self._dropped_bytes >= _DROP_EVERY_BYTES:
            with contextlib.suppress(OSError):  # it is a pipe
                here = os.lseek(self._fd, 0, os.SEEK_CUR)
                drop_cache(self._fd, 0, here - here % _DROP_EVERY_BYTES)
            self._dropped_bytes = offset

    def check_unchanged(self) -> None:
        """Do nothing: what was read is not there any more."""
