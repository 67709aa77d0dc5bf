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
    """
    if isinstance(location, Pipe):
        location.check = check
        return location
    if isinstance(location, Path):
        return LocalFile(location, size_bytes=size_bytes, end=end)
    return RemoteFile(location, size_bytes=size_bytes, check=check, end=end)
