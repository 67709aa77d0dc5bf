"""An input that can only be read forward, and once: standard input, or a FIFO."""

import contextlib
import os
import select
import sys
from collections.abc import Callable

from nanogpt_compat.errors import InputError
from nanogpt_compat.system.filesystem import drop_cache

UNKNOWN = sys.maxsize
"""The size of an input whose size is unknown, until a read has reached its end."""

KEPT_BYTES = 2 * 1024 * 1024
_CHUNK_BYTES = 64 * 1024  # the capacity of a pipe
_DROP_EVERY_BYTES = 8 * 1024 * 1024
_WAIT_MS = 100


class Pipe:
    """An open pipe, with the interface of an input file.

    The first `KEPT_BYTES` are kept until more than that has been read, so that the beginning can be inspected
    and then read again. While a read waits for data, it calls `check` every 0.1 s.
    """

    reads_anywhere = False
    hints: tuple[object, ...] = ()  # none: a change shows only when all of it is read again

    def __init__(self, fd: int, name: str) -> None:
        """Read from an open file descriptor, which must have no other reader."""
        self.name = name
        self.path = self  # its name in messages
        self.size_bytes = UNKNOWN
        self.check: Callable[[], None] = lambda: None  # an exception that it raises ends a read
        self._fd = fd
        self._data = bytearray()
        self._base = 0  # bytes before those of `_data`
        self._dropped_bytes = 0

    def __str__(self) -> str:
        return self.name

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode: the same for every name of one pipe."""
        status = os.fstat(self._fd)
        return status.st_dev, status.st_ino

    def __enter__(self) -> "Pipe":
        return self

    def __exit__(self, *exc: object) -> None:
        """Leave it open: it cannot be opened again."""

    def read(self, n_bytes: int, offset: int) -> bytes:
        """Read exactly `[offset, offset + n_bytes)`, or up to the end; wait until the data is there."""
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
        self.check()
        if hasattr(select, "poll"):  # not on Windows: there, a signal waits for the read to end
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            while not poll.poll(_WAIT_MS):
                self.check()
        try:
            data = os.read(self._fd, _CHUNK_BYTES)
        except BlockingIOError:  # another process set O_NONBLOCK, and has read the data first
            return
        except OSError as error:
            raise InputError(f"cannot read {self} at byte {end:,}: {error.strerror}") from error
        if not data:
            self.check()  # Ctrl-C also ends the writer: then this is not the end of the text
            self.size_bytes = end
        self._data += data

    def drop_before(self, offset: int) -> None:
        """Drop the bytes before `offset` from the page cache, if this is a redirected file (`< file`)."""
        if offset - self._dropped_bytes >= _DROP_EVERY_BYTES:
            with contextlib.suppress(OSError):  # a real pipe cannot seek
                here = os.lseek(self._fd, 0, os.SEEK_CUR)
                drop_cache(self._fd, 0, here - here % _DROP_EVERY_BYTES)
            self._dropped_bytes = offset

    def check_unchanged(self) -> None:
        """Do nothing: what was read cannot be read again."""
