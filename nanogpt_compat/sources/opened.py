"""Open an input, wherever it is."""

from collections.abc import Callable
from pathlib import Path

from nanogpt_compat.config import Location
from nanogpt_compat.pipes import Pipe
from nanogpt_compat.sources.remote import RemoteFile
from nanogpt_compat.sources.text import InputFile, TextFile


def open_input(
    location: Location, *, size_bytes: int | None = None, check: Callable[[], None] = lambda: None
) -> InputFile:
    """Open an input; `size_bytes` is what it had when the run began, if that was before.

    `check` is called several times a second while anything is waited for; what it raises ends the wait.

    Raises:
        InputError: it is missing or unreadable, or its size is another by now.
    """
    if isinstance(location, Pipe):
        location.check = check
        return location
    if isinstance(location, Path):
        return TextFile(location, size_bytes=size_bytes)
    return RemoteFile(location, size_bytes=size_bytes, check=check)
