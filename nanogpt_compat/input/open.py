"""Open an input: a local file, a remote file or a pipe."""

from collections.abc import Callable
from pathlib import Path

from nanogpt_compat.input.local import InputFile, LocalFile
from nanogpt_compat.input.location import Location
from nanogpt_compat.input.pipes import Pipe
from nanogpt_compat.input.remote import RemoteFile


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

    Raises:
        InputError: the input is missing or unreadable, or its size has changed.
    """
    if isinstance(location, Pipe):
        location.check = check
        return location
    if end is not None:
        return _Beginning(open_input(location, size_bytes=size_bytes, check=check), end)
    if isinstance(location, Path):
        return LocalFile(location, size_bytes=size_bytes)
    return RemoteFile(location, size_bytes=size_bytes, check=check)


class _Beginning:
    """An open input that appears to end after its first `size_bytes` bytes."""

    def __init__(self, file: InputFile, size_bytes: int) -> None:
        self._file = file
        self.size_bytes = size_bytes
        self.path = file.path
        self.hints = file.hints
        self.reads_anywhere = file.reads_anywhere
        self.drop_before = file.drop_before
        self.check_unchanged = file.check_unchanged

    def read(self, n_bytes: int, offset: int) -> bytes:
        return self._file.read(min(n_bytes, self.size_bytes - offset), offset)

    def __enter__(self) -> InputFile:
        self._file.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.__exit__(*exc)
