"""From what was typed after `--input` to files, in order."""

import glob
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from nanogpt_compat.errors import InputError, UsageError
from nanogpt_compat.input.location import Location, Url, is_url, local_path
from nanogpt_compat.input.pipes import Pipe
from nanogpt_compat.input.remote import find_urls
from nanogpt_compat.input.sniff import COMPRESSED_SUFFIXES, JSON_SUFFIXES
from nanogpt_compat.system.commands import quote, show, this_command
from nanogpt_compat.system.redaction import redact
from nanogpt_compat.system.units import format_bytes

_HIDDEN = re.compile(r"[._]")  # `_temporary`, `_SUCCESS` and the like are notes of other programs
_DIGITS = re.compile(r"(\d+)", re.ASCII)
_DATA_SUFFIXES = {".txt", ".parquet", ".arrow", ".feather", *JSON_SUFFIXES} - {".json"}
# One of many: part-00000 of Spark, train-00000-of-00004 of datasets, wiki_00 of WikiExtractor.
_ONE_OF_MANY = re.compile(
    r"(?:part-(?:[mr]-)?\d+[\w-]*|.*\d{2,}-of-\d{2,}[\w-]*)(?:\.json|\.data)?|[^.]*\d|[^.]+\.\d{2,}", re.ASCII
)
_MOST_NAMED = 3


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which part2 comes before part10; ties fall to the plain order.

    >>> sorted(["part10.txt", "part2.txt"], key=natural_key)
    ['part2.txt', 'part10.txt']
    """
    parts = _DIGITS.split(name)
    key = [(0, int(part), part) if k % 2 else (1, 0, part) for k, part in enumerate(parts)]
    return [*key, (2, 0, name)]


def is_data(name: str) -> bool:
    """Whether a file in a folder is an input by its name; `.json` may be a note beside them.

    >>> [is_data(name) for name in ("a.txt.gz", "part-00000", "0.json.gz", "0.json", "README.md", "LICENSE")]
    [True, True, True, False, False, False]
    """
    path = PurePath(name.lower())
    if path.suffix in COMPRESSED_SUFFIXES:
        path = path.with_suffix("")
        if path.suffix == ".json":
            return True
    return path.suffix in _DATA_SUFFIXES or _ONE_OF_MANY.fullmatch(path.name) is not None


@dataclass(frozen=True, slots=True)
class Found:
    """The inputs, and what is to be said of how they were found."""

    inputs: tuple[Location, ...]
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Listed:
    """What one argument stands for, and what of it is skipped."""

    inputs: Sequence[Location]
    skipped: Sequence[str] = ()
    skipped_bytes: int = 0
    is_worth_a_warning: bool = False  # more is skipped than read


def find_inputs(patterns: Sequence[str], *, home: Path | None) -> Found:
    """Turn paths, globs, folders and URLs into files: in this order, each glob or folder in natural order.

    `-` is standard input. A FIFO is opened, which waits for whoever writes to it.

    `home` is the folder of prepare.py, looked at only to say that a missing file is there.

    Raises:
        InputError: a file is missing, unreadable or of a kind that is not read, a glob matches nothing, a
            folder has no input in it, or the same file comes twice.
        UsageError: standard input is a terminal.
    """
    seen: dict[object, Location] = {}
    notices: list[str] = []
    for pattern in map(local_path, patterns):
        listed = _find_urls(pattern, patterns) if is_url(pattern) else _find_files(pattern, patterns, home)
        if listed.skipped:
            notices.append(_say_skipped(pattern, listed, patterns))
        new: dict[object, Location] = {}
        doubles: list[tuple[Location, Location]] = []
        for one in listed.inputs:
            identity = _identity(one)
            if (other := seen.get(identity)) is not None:
                same = "twice" if str(other) == str(one) else f"also as {other}"
                raise InputError(
                    f"{one} is given {same}; its text would be in the output twice: give it once"
                )
            if (other := new.setdefault(identity, one)) is not one:
                doubles.append((one, other))
        seen |= new
        if doubles:
            count = "1 file has" if len(doubles) == 1 else f"{len(doubles):,} files have"
            one, other = doubles[0]
            notices.append(
                f"notice: {redact(pattern)}: {count} another name too, and {_is(len(doubles))} read "
                f"once ({one} is {other})"
            )
    opened = (Pipe(_open(one), str(one)) if _is_fifo(one) else one for one in _told_apart([*seen.values()]))
    return Found(tuple(opened), tuple(notices))


def _told_apart(inputs: Sequence[Location]) -> list[Location]:
    """Give a number to addresses that are printed the same, since only their secrets differ."""
    n_named = Counter(str(one) for one in inputs if isinstance(one, Url))
    return [
        replace(one, mark=f" (input {k})") if isinstance(one, Url) and n_named[str(one)] > 1 else one
        for k, one in enumerate(inputs, start=1)
    ]


def _is(n_files: int) -> str:
    return "is" if n_files == 1 else "are"


def _say_skipped(pattern: str, listed: _Listed, patterns: Sequence[str]) -> str:
    """Say what of a folder or a glob is not read; if it is most of it, as a warning with a way to read it."""
    names = ", ".join(listed.skipped[:_MOST_NAMED]) + (", ..." if len(listed.skipped) > _MOST_NAMED else "")
    entries = "1 other entry" if len(listed.skipped) == 1 else f"{len(listed.skipped):,} other entries"
    size = f", {format_bytes(listed.skipped_bytes)}" if listed.skipped_bytes else ""
    said = f"{redact(pattern)}: skipped {entries}{size} ({names})"
    if not listed.is_worth_a_warning:
        return f"notice: {said}"
    command = this_command("--input", *patterns, *_glob_of(pattern, listed.skipped), without=["--input"])
    return f"warning: {said}, which is more than is read; to read these, too:{show(command)}"


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


def _find_urls(pattern: str, patterns: Sequence[str]) -> _Listed:
    """List what an address stands for."""
    sizes, folder = find_urls(pattern)
    if not folder:
        urls: list[Url] = sorted(sizes, key=lambda url: natural_key(url.address))
        return _Listed(urls)
    names = {url.address.removeprefix(folder): size for url, size in sizes.items()}
    kept, listed = _choose(names, (), pattern, patterns)
    return replace(listed, inputs=[Url(folder + name) for name in kept])


def _find_files(pattern: str, patterns: Sequence[str], home: Path | None) -> _Listed:
    """List the files that one argument stands for.

    Links to folders are not followed, since they may lead in a circle: they are skipped, and so are hidden
    folders.
    """
    folder = Path(pattern)
    if not pattern or not _exists(folder) or not folder.is_dir():
        return _expand(pattern, home)
    sizes: dict[str, int] = {}
    others: list[str] = []
    for parent, folders, files in os.walk(folder, onerror=_cannot_list):
        here = Path(parent)
        for name in files:
            path = here / name
            sizes[path.relative_to(folder).as_posix()] = _size_of(path)
        passed = [name for name in folders if _HIDDEN.match(name) or (here / name).is_symlink()]
        others += [(here / name).relative_to(folder).as_posix() for name in passed]
        folders[:] = [name for name in folders if name not in passed]
    kept, listed = _choose(sizes, others, pattern, patterns)
    return replace(listed, inputs=[folder / name for name in kept])


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a link that leads nowhere
        return 0


def _choose(
    sizes: Mapping[str, int], others: Sequence[str], folder: str, patterns: Sequence[str]
) -> tuple[list[str], _Listed]:
    """Choose the files of a folder to read, named from there with their sizes, in natural order.

    Raises:
        InputError: there is none to read.
    """
    is_hidden = {name: any(map(_HIDDEN.match, name.split("/"))) for name in sizes}
    kept = [name for name in sizes if not is_hidden[name] and is_data(name.rpartition("/")[2])]
    skipped = sorted({*sizes, *others} - set(kept), key=natural_key)
    n_bytes = sum(sizes.get(name, 0) for name in skipped)
    if kept:
        n_shown = sum(sizes[name] for name in skipped if not is_hidden.get(name, True))
        is_much = n_shown > sum(sizes[name] for name in kept)
        return sorted(kept, key=natural_key), _Listed((), skipped, n_bytes, is_much)
    named = redact(folder)
    if not skipped:
        raise InputError(f"the folder {named} is empty; name another with --input")
    files = "1 entry" if len(skipped) == 1 else f"{len(skipped):,} entries"
    words = [word for word in patterns if word != folder]
    command = this_command("--input", *words, *_glob_of(folder, skipped), without=["--input"])
    raise InputError(
        f"the folder {named} has no .txt, .jsonl, .parquet or the like in it but {files} "
        f"({', '.join(skipped[:_MOST_NAMED])}{', ...' if len(skipped) > _MOST_NAMED else ''}); to read what "
        f"has another name:{show(command)}"
    )


def _glob_of(folder: str, names: Sequence[str]) -> list[str]:
    """Write a glob for the files of a folder whose suffix is the commonest among those that were skipped."""
    shown = [name for name in names if not any(map(_HIDDEN.match, name.split("/")))] or names
    suffixes = Counter(PurePath(name).suffix for name in shown)
    suffix = suffixes.most_common(1)[0][0]
    inside = "**/" if any("/" in name for name in shown) else ""
    return [f"{folder.rstrip('/')}/{inside}*{suffix}"]


def _cannot_list(error: OSError) -> None:
    raise InputError(f"cannot read the folder {error.filename}: {error.strerror}") from error


def _expand(pattern: str, home: Path | None) -> _Listed:
    """List the files, and the folders, that a path or a glob stands for.

    A file whose name looks like a glob is that file. Of `**`, which takes what is in the folders, no folders
    are listed.
    """
    if not pattern:
        raise InputError("--input has an empty name; give a file, or leave the option away")
    if pattern == "-":
        return _Listed([_standard_input()])
    path = Path(pattern)
    if _exists(path) or path.is_symlink():
        return _Listed([path])
    if glob.has_magic(pattern):
        matches = sorted(glob.glob(pattern, recursive=True), key=natural_key)  # noqa: PTH207 - Path.glob takes no absolute one
        files = [Path(match) for match in matches if not Path(match).is_dir()]
        if not files:
            raise InputError(f"no file matches {pattern!r} (looked from {Path.cwd()})")
        return _Listed(files, [] if "**" in pattern else [one for one in matches if Path(one).is_dir()])
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
