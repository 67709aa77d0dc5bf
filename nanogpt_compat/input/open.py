"""Open an input: a local file, a remote file or a pipe. At most what is asked for is in memory.

Local files are read with `pread` and never mapped: if another program truncates a mapped file, reading it
raises SIGBUS. Bytes that have been read are dropped from the page cache, so that a run over 1 TB does not
evict other programs' files.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from nanogpt_compat.errors import InputError
from nanogpt_compat.input.location import Location
from nanogpt_compat.input.pipes import Pipe
from nanogpt_compat.input.remote import RemoteFile
from nanogpt_compat.system.filesystem import advise_sequential, drop_cache

_DROP_EVERY_BYTES = 8 * 1024 * 1024  # at this step, 0 of 512 MiB stay in the page cache
# A large page that is dropped only in part stays cached: without rounding, up to a quarter of a file did.
_LARGE_PAGE_BYTES = 2 * 1024 * 1024


class LocalFile:
    """An open local file, whose size must not change while it is read."""

    reads_anywhere = True

    def __init__(self, path: Path, *, size_bytes: int | None = None, end: int | None = None) -> None:
        """Open `path`; see `open_input`."""
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        self._stat = os.fstat(self._fd)
        self._file_bytes = self._stat.st_size if size_bytes is None else size_bytes
        self.size_bytes = self._file_bytes if end is None else end
        if self._file_bytes != self._stat.st_size:
            os.close(self._fd)
            raise self._changed_size(self._stat.st_size)
        self._dropped_bytes = 0
        advise_sequential(self._fd)

    def __enter__(self) -> "LocalFile":
        return self

    def __exit__(self, *exc: object) -> None:
        """Close it, and drop from the page cache what this run read."""
        drop_cache(self._fd, 0, self._file_bytes)
        os.close(self._fd)

    @property
    def hints(self) -> list[int]:
        """The parts of the file's status that change when another process writes to it."""
        return [self._stat.st_mtime_ns, self._stat.st_ctime_ns, self._stat.st_ino]

    def read(self, n_bytes: int, offset: int) -> bytes:
        """Read exactly `[offset, offset + n_bytes)`, or up to `size_bytes`."""
        n_bytes = min(n_bytes, self.size_bytes - offset)
        parts = []
        while n_bytes > 0:
            try:
                if hasattr(os, "pread"):
                    part = os.pread(self._fd, n_bytes, offset)
                else:  # on Windows
                    os.lseek(self._fd, offset, os.SEEK_SET)
                    part = os.read(self._fd, n_bytes)
            except OSError as error:
                raise InputError(f"cannot read {self.path} at byte {offset:,}: {error.strerror}") from error
            if not part:
                now_bytes = os.fstat(self._fd).st_size
                raise InputError(
                    f"{self.path} ends at byte {now_bytes:,} but had {self._file_bytes:,} bytes when it was "
                    "opened: something is writing to it; wait until that is done and run again"
                )
            parts.append(part)
            offset += len(part)
            n_bytes -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def drop_before(self, offset: int) -> None:
        """Drop the bytes before `offset` from the page cache, every few megabytes."""
        offset -= offset % _LARGE_PAGE_BYTES
        if offset - self._dropped_bytes >= _DROP_EVERY_BYTES:
            drop_cache(self._fd, self._dropped_bytes, offset)
            self._dropped_bytes = offset

    def check_unchanged(self) -> None:
        """Raise InputError if the file's size or time of modification has changed since it was opened."""
        now = os.fstat(self._fd)
        if now.st_size != self._file_bytes:
            raise self._changed_size(now.st_size)
        if now.st_mtime_ns != self._stat.st_mtime_ns:
            raise InputError(
                f"{self.path} was modified while it was read, so the tokens may belong to neither version; "
                "wait until nothing writes to it any more and run again"
            )

    def _changed_size(self, now_bytes: int) -> InputError:
        return InputError(
            f"{self.path} had {self._file_bytes:,} bytes when the run began and has {now_bytes:,} now: "
            "something is writing to it; wait until that is done and run again"
        )


InputFile: TypeAlias = LocalFile | RemoteFile | Pipe
"""`path` is also its name in messages. `hints` are values, storable as JSON, that very likely change when the
content changes, such as mtime."""


def open_input(
    location: Location,
    *,
    size_bytes: int | None = None,
    check: Callable[[], None] = lambda: None,
    end: int | None = None,
) -> InputFile:
    """Open an input; `size_bytes` is its size when the run began, if the run began earlier.

    With `end`, the input appears to end at that byte (a pipe does not). `check` is called several times a
    second while waiting for data; an exception that it raises ends the wait.
    """
    if isinstance(location, Pipe):
        location.check = check
        return location
    if isinstance(location, Path):
        return LocalFile(location, size_bytes=size_bytes, end=end)
    return RemoteFile(location, size_bytes=size_bytes, check=check, end=end)
