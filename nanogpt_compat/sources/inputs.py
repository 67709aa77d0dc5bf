"""From what was typed after `--input` to files, in order."""

import glob
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from nanogpt_compat.config import Location
from nanogpt_compat.errors import InputError, UsageError
from nanogpt_compat.pipes import Pipe

_DIGITS = re.compile(r"(\d+)", re.ASCII)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which part2 comes before part10; ties fall to the plain order.

    >>> sorted(["part10.txt", "part2.txt"], key=natural_key)
    ['part2.txt', 'part10.txt']
    """
    parts = _DIGITS.split(name)
    key = [(0, int(part), part) if k % 2 else (1, 0, part) for k, part in enumerate(parts)]
    return [*key, (2, 0, name)]


def find_inputs(patterns: Sequence[str], *, home: Path | None) -> tuple[Location, ...]:
    """Turn paths and globs into files: in the order given, each glob in natural order; `-` is standard input.

    A FIFO is opened, which waits for whoever writes to it.

    `home` is the folder of prepare.py, looked at only to say that a missing file stands there.

    Raises:
        InputError: a file is missing, unreadable or of a kind that is not read, a glob matches nothing, or
            the same file comes twice.
        UsageError: standard input is a terminal.
    """
    paths = [path for pattern in patterns for path in _expand(pattern, home)]
    seen: dict[tuple[int, int], Location] = {}
    for path in paths:
        identity = path.identity if isinstance(path, Pipe) else _identity(path)
        other = seen.setdefault(identity, path)
        if other is not path:
            same = "twice" if str(other) == str(path) else f"also as {other}"
            raise InputError(f"{path} is given {same}; its text would be in the output twice: give it once")
    return tuple(Pipe(_open(path), str(path)) if _is_fifo(path) else path for path in paths)


def _identity(path: Path) -> tuple[int, int]:
    _check_readable(path)
    status = path.stat()
    return status.st_dev, status.st_ino


def _is_fifo(path: Path | Pipe) -> bool:
    return isinstance(path, Path) and path.is_fifo()


def _open(path: Path | Pipe) -> int:
    try:
        return os.open(str(path), os.O_RDONLY)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _standard_input() -> Pipe:
    if os.isatty(0):
        raise UsageError(
            "--input - reads standard input, and that is a terminal here: put a pipe or a file there, as in "
            "`zstdcat part-*.zst | python prepare.py --input -`"
        )
    return Pipe(0, "standard input")


def _expand(pattern: str, home: Path | None) -> Sequence[Path | Pipe]:
    """List the files that one argument stands for; a file whose name looks like a glob is that file."""
    if not pattern:
        raise InputError("--input has an empty name; give a file, or leave the option away")
    if pattern == "-":
        return [_standard_input()]
    path = Path(pattern)
    if _exists(path) or path.is_symlink():
        return [path]
    if glob.has_magic(pattern):
        matches = sorted(glob.glob(pattern, recursive=True), key=natural_key)  # noqa: PTH207 - Path.glob takes no absolute one
        files = [Path(match) for match in matches if not Path(match).is_dir()]
        if not files:
            raise InputError(f"no file matches {pattern!r} (looked from {Path.cwd()})")
        return files
    if path.is_absolute():
        raise InputError(f"there is no {path}; put it there, or name another file with --input")
    advice = "name a file that is there with --input"
    if home is not None and _exists(home / path):
        advice = f"one stands beside prepare.py: use --input {shlex.quote(str(home / path))}"
    raise InputError(f"there is no {path} (looked from {Path.cwd()}); {advice}")


def _exists(path: Path) -> bool:
    """As `path.exists()`.

    Raises:
        InputError: nobody can say, since a folder above may not be entered or the name is too long.
    """
    try:
        return path.exists()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _check_readable(path: Path) -> None:
    """Refuse what is neither a file nor a FIFO."""
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path} is a link to {path.readlink()}, which is not there")
    if path.is_dir():
        files = shlex.quote(f"{path}/*.txt")
        raise InputError(f"{path} is a folder; name its files, for example --input {files}")
    if not path.is_file() and not path.is_fifo():
        raise InputError(f"{path} is not a file, nor a pipe; write what comes out of it to a file first")
    if not os.access(path, os.R_OK):
        raise InputError(f"cannot read {path}: permission denied")
