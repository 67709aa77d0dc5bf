"""From what was typed after `--input` to files, in order."""

import glob
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nanogpt_compat.commands import quote
from nanogpt_compat.config import Location, Url, is_url, local_path
from nanogpt_compat.errors import InputError, UsageError
from nanogpt_compat.pipes import Pipe
from nanogpt_compat.redaction import redact
from nanogpt_compat.sources.formats import has_known_suffix
from nanogpt_compat.sources.remote import find_urls

_HIDDEN = re.compile(r"(?:^|/)[._]")  # `_temporary`, `_SUCCESS` and the like are notes of other programs
_DIGITS = re.compile(r"(\d+)", re.ASCII)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which part2 comes before part10; ties fall to the plain order.

    >>> sorted(["part10.txt", "part2.txt"], key=natural_key)
    ['part2.txt', 'part10.txt']
    """
    parts = _DIGITS.split(name)
    key = [(0, int(part), part) if k % 2 else (1, 0, part) for k, part in enumerate(parts)]
    return [*key, (2, 0, name)]


@dataclass(frozen=True, slots=True)
class Found:
    """The inputs, and what is to be said of how they were found."""

    inputs: tuple[Location, ...]
    notices: tuple[str, ...] = ()


def find_inputs(patterns: Sequence[str], *, home: Path | None) -> Found:
    """Turn paths, globs, folders and URLs into files: in this order, each glob or folder in natural order.

    `-` is standard input. A FIFO is opened, which waits for whoever writes to it.

    `home` is the folder of prepare.py, looked at only to say that a missing file stands there.

    Raises:
        InputError: a file is missing, unreadable or of a kind that is not read, a glob matches nothing, a
            folder has no input in it, or the same file comes twice.
        UsageError: standard input is a terminal.
    """
    inputs: list[Location] = []
    notices: list[str] = []
    for pattern in map(local_path, patterns):
        some, left_out = _find_urls(pattern) if is_url(pattern) else _find_files(pattern, home)
        inputs += some
        if left_out:
            notices.append(
                f"notice: {redact(pattern)} holds {len(left_out):,} more that are folders, hidden "
                f"or of no known suffix and are left out, the first of them {left_out[0]}"
            )
    seen: dict[object, Location] = {}
    for one in inputs:
        other = seen.setdefault(_identity(one), one)
        if other is not one:
            same = "twice" if str(other) == str(one) else f"also as {other}"
            raise InputError(f"{one} is given {same}; its text would be in the output twice: give it once")
    opened = (Pipe(_open(one), str(one)) if _is_fifo(one) else one for one in _told_apart(inputs))
    return Found(tuple(opened), tuple(notices))


def _told_apart(inputs: Sequence[Location]) -> list[Location]:
    """Give a number to addresses that are printed the same, since only their secrets differ."""
    n_named = Counter(str(one) for one in inputs if isinstance(one, Url))
    return [
        replace(one, mark=f" (input {k})") if isinstance(one, Url) and n_named[str(one)] > 1 else one
        for k, one in enumerate(inputs, start=1)
    ]


def _identity(one: Location) -> object:
    if isinstance(one, Pipe):
        return one.identity
    if isinstance(one, Url):
        return one
    _check_readable(one)
    status = one.stat()
    return status.st_dev, status.st_ino


def _is_fifo(one: Location) -> bool:
    return isinstance(one, Path) and one.is_fifo()


def _open(path: Location) -> int:
    try:
        return os.open(str(path), os.O_RDONLY)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _standard_input() -> Pipe:
    if os.isatty(0):
        raise UsageError(
            "--input - reads standard input, which is a terminal here: pipe text into this command, or name "
            "files with --input"
        )
    return Pipe(0, "standard input")


def _find_urls(pattern: str) -> tuple[Sequence[Location], list[str]]:
    """List what an address stands for, and what is left out of a folder."""
    urls, folder = find_urls(pattern)
    if not folder:
        return sorted(urls, key=lambda url: natural_key(url.address)), []
    kept, left_out = _choose([url.address.removeprefix(folder) for url in urls], pattern)
    return [Url(folder + name) for name in kept], left_out


def _find_files(pattern: str, home: Path | None) -> tuple[Sequence[Location], list[str]]:
    """List the files that one argument stands for, and what is left out of a folder or a glob.

    Links to folders are not followed, since they may lead in a circle: they are left out.
    """
    folder = Path(pattern)
    if not pattern or not _exists(folder) or not folder.is_dir():
        return _expand(pattern, home)
    names: list[str] = []
    links: list[str] = []
    for parent, folders, files in os.walk(folder, onerror=_cannot_list):
        here = Path(parent)
        names += [(here / name).relative_to(folder).as_posix() for name in files]
        links += [
            (here / name).relative_to(folder).as_posix() for name in folders if (here / name).is_symlink()
        ]
    kept, left_out = _choose(names, pattern)
    return [folder / name for name in kept], sorted(left_out + links, key=natural_key)


def _choose(names: Sequence[str], folder: str) -> tuple[list[str], list[str]]:
    """Part the files of a folder, named from there: those to read, in natural order, and those left out.

    Raises:
        InputError: there is none to read.
    """
    names = sorted(names, key=natural_key)
    kept = [name for name in names if has_known_suffix(name) and not _HIDDEN.search(name)]
    if not kept:
        raise InputError(
            f"the folder {redact(folder)} has no input in it: of {len(names):,} files none is a "
            ".txt, .jsonl, .parquet or the like; name its files, if they are called otherwise"
        )
    return kept, [name for name in names if name not in set(kept)]


def _cannot_list(error: OSError) -> None:
    raise InputError(f"cannot read the folder {error.filename}: {error.strerror}") from error


def _expand(pattern: str, home: Path | None) -> tuple[Sequence[Path | Pipe], list[str]]:
    """List the files, and the folders, that a path or a glob stands for.

    A file whose name looks like a glob is that file. Of `**`, which takes what is in the folders, no folders
    are listed.
    """
    if not pattern:
        raise InputError("--input has an empty name; give a file, or leave the option away")
    if pattern == "-":
        return [_standard_input()], []
    path = Path(pattern)
    if _exists(path) or path.is_symlink():
        return [path], []
    if glob.has_magic(pattern):
        matches = sorted(glob.glob(pattern, recursive=True), key=natural_key)  # noqa: PTH207 - Path.glob takes no absolute one
        files = [Path(match) for match in matches if not Path(match).is_dir()]
        if not files:
            raise InputError(f"no file matches {pattern!r} (looked from {Path.cwd()})")
        return files, [] if "**" in pattern else [match for match in matches if Path(match).is_dir()]
    if path.is_absolute():
        raise InputError(f"there is no {path}; put it there, or name another file with --input")
    advice = "name a file that is there with --input"
    if home is not None and _exists(home / path):
        advice = f"did you mean {quote(home / path)}, which is next to prepare.py?"
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
    if not path.is_file() and not path.is_fifo():
        raise InputError(f"{path} is not a file, nor a pipe; write what comes out of it to a file first")
    if not os.access(path, os.R_OK):
        raise InputError(f"cannot read {path}: permission denied")
