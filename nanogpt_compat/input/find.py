"""Turn the arguments of `--input` and `--val-input` into an ordered list of files."""

import contextlib
import difflib
import glob
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePath

from nanogpt_compat.errors import InputError, UsageError
from nanogpt_compat.input.location import Location, Url, is_url, local_path
from nanogpt_compat.input.pipes import Pipe
from nanogpt_compat.input.remote import find_urls
from nanogpt_compat.input.sniff import JSON_SUFFIXES, unpacked
from nanogpt_compat.system.commands import quote, show, this_command
from nanogpt_compat.system.redaction import redact
from nanogpt_compat.system.units import format_bytes

_HIDDEN = re.compile(r"[._]")  # other programs leave markers such as `_temporary` and `_SUCCESS`
_DIGITS = re.compile(r"(\d+)", re.ASCII)
_DATA_SUFFIXES = {".txt", ".parquet", ".arrow", ".feather", *JSON_SUFFIXES} - {".json"}
# One of many: part-00000 (Spark), train-00000-of-00004 (datasets), wiki_00 (WikiExtractor).
_ONE_OF_MANY = re.compile(
    r"(?:part-(?:[mr]-)?\d+[\w-]*|.*\d{2,}-of-\d{2,}[\w-]*)(?:\.json|\.data)?|[^.]*\d|[^.]+\.\d{2,}", re.ASCII
)
# Read from a folder only if nothing else is: next to other data, they list its files and the like.
_TABLES_IN_TEXT = {".csv", ".tsv"}
_CACHE = re.compile(r"cache-[0-9a-f]{16}(?:_\d+_of_\d+)?\.arrow")  # from `datasets`: copies other data
_MOST_NAMED = 3
_MOST_NAMES = 10_000  # the most names to compare with one that was not found
_SIMILAR = 0.8  # a letter more, less or exchanged in a name of five


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key that puts part2 before part10; ties are sorted by the plain name.

    >>> sorted(["part10.txt", "part2.txt"], key=natural_key)
    ['part2.txt', 'part10.txt']
    """
    parts = _DIGITS.split(name)
    key = [(0, int(part), part) if k % 2 else (1, 0, part) for k, part in enumerate(parts)]
    return [*key, (2, 0, name)]


def is_data(name: str) -> bool:
    """Check by its name whether a file in a folder is an input. A plain `.json` is not: it may be metadata.

    >>> [is_data(name) for name in ("a.txt.gz", "part-00000", "0.json.gz", "0.json", "README.md", "LICENSE")]
    [True, True, True, False, False, False]
    """
    path = unpacked(name.lower())
    if path.suffix == ".json" and path.name != name.lower():
        return True
    if _CACHE.fullmatch(path.name):
        return False
    return path.suffix in _DATA_SUFFIXES or _ONE_OF_MANY.fullmatch(path.name) is not None


@dataclass(frozen=True, slots=True)
class Found:
    """The inputs, and notices for the user about how they were found."""

    inputs: tuple[Location, ...]
    notices: tuple[str, ...] = ()
    n_val_inputs: int = 0  # the last of `inputs`, from --val-input


@dataclass(frozen=True, slots=True)
class _Typed:
    """An option that names inputs, with its arguments."""

    option: str
    patterns: Sequence[str]

    def with_skipped(self, folder: str, files: Sequence[str], kept: Sequence[str]) -> str:
        """Return the command that also reads those files of a folder that are not `kept`, by their suffix.

        If kept files have the same suffix, or if it is empty, all files are named instead of the folder.
        """
        skipped = sorted({*files} - {*kept}, key=natural_key)
        shown = [name for name in skipped if not _is_hidden(name)] or skipped
        suffixes = Counter(PurePath(name).suffix for name in shown)
        suffix = suffixes.most_common(1)[0][0]
        if kept and suffix in {"", *(PurePath(name).suffix for name in kept)}:
            shown, suffix = [*files], ""
        inside = "**/" if any("/" in name for name in shown) else ""
        more = f"{glob.escape(folder.rstrip('/'))}/{inside}*{suffix}"
        others = [one for one in self.patterns if one != folder or (kept and suffix)]
        return this_command(self.option, *others, more, without=[self.option])


def find_inputs(patterns: Sequence[str], *, home: Path | None, val_patterns: Sequence[str] = ()) -> Found:
    """Return the files that paths, globs, folders and URLs name, those of `val_patterns` last.

    The order of the arguments is kept; the files of a glob or folder are in natural order. `-` is standard
    input. A FIFO is opened, which waits until a program writes to it.

    `home` is the folder of prepare.py. It only serves to suggest a file there when one is missing.
    """
    train, notices = _find(_Typed("--input", patterns), home)
    val, more = _find(_Typed("--val-input", val_patterns), home)
    both = [one for identity, one in val.items() if identity in train]
    for pipe in (one for one in both if isinstance(one, Pipe) or _is_fifo(one)):
        raise InputError(f"{pipe} is given with --input and --val-input, and can be read only once")
    if both:
        more.append(
            f"warning: {both[0]}{f' and {len(both) - 1:,} more are' if both[1:] else ' is'} in both --input "
            "and --val-input, so the validation loss will be measured on text that was trained on"
        )
    # Addresses that look the same in messages, because only their secrets differ, get a number.
    inputs: list[Location] = [*train.values(), *val.values()]
    n_named = Counter(str(one) for one in inputs if isinstance(one, Url))
    inputs = [
        replace(one, mark=f" (input {k})") if isinstance(one, Url) and n_named[str(one)] > 1 else one
        for k, one in enumerate(inputs, start=1)
    ]
    opened = (Pipe(_open(one), str(one)) if _is_fifo(one) else one for one in inputs)
    return Found(tuple(opened), (*notices, *more), len(val))


def _find(typed: _Typed, home: Path | None) -> tuple[dict[object, Location], list[str]]:
    """Return the inputs that one option names, by what they are, and notices."""
    seen: dict[object, Location] = {}
    notices: list[str] = []
    for pattern in map(local_path, typed.patterns):
        inputs, notice = _list_inputs(pattern, typed, home)
        notices += [notice] if notice else []
        new: dict[object, Location] = {}
        doubles: list[tuple[Location, Location]] = []
        for one in inputs:
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
            n = len(doubles)
            count, are = ("1 file has", "is") if n == 1 else (f"{n:,} files have", "are")
            one, other = doubles[0]
            notices.append(
                f"notice: {redact(pattern)}: {count} another name too, and {are} read once ({one} is {other})"
            )
    return seen, notices


def _identity(one: Location) -> object:
    """Return what identifies an input, whatever its name; raise an InputError if it cannot be read."""
    if isinstance(one, Pipe):
        return one.identity
    if isinstance(one, Url):
        return one
    if one.is_symlink() and not one.exists():
        raise InputError(f"{one} is a link to {one.readlink()}, which does not exist")
    if not one.is_file() and not one.is_fifo():
        raise InputError(f"{one} is neither a file nor a pipe; write its contents to a file first")
    if not os.access(one, os.R_OK):
        raise InputError(f"cannot read {one}: permission denied")
    status = one.stat()
    return status.st_dev, status.st_ino


def _is_fifo(one: Location) -> bool:
    return isinstance(one, Path) and one.is_fifo()


def _open(path: Location) -> int:
    try:
        return os.open(str(path), os.O_RDONLY)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _list_inputs(pattern: str, typed: _Typed, home: Path | None) -> tuple[Sequence[Location], str]:
    """List the inputs that one argument names; return with them a notice about skipped entries, or "".

    Hidden folders are skipped. So are links to folders, which may lead in a circle.
    """
    if is_url(pattern):
        found, prefix = find_urls(pattern)
        if not prefix:
            return sorted(found, key=lambda url: natural_key(url.address)), ""
        names = {url.address.removeprefix(prefix): size for url, size in found.items()}
        kept, notice = _choose(names, (), pattern, typed)
        return [Url(prefix + name) for name in kept], notice
    folder = Path(pattern)
    if not pattern or not _exists(folder) or not folder.is_dir():
        return _expand(pattern, typed.option, home)
    sizes: dict[str, int] = {}
    others: list[str] = []
    for parent, folders, files in os.walk(folder, onerror=_cannot_list):
        here = Path(parent)
        for name in files:
            path = (here / name).relative_to(folder).as_posix()
            sizes[path] = 0
            with contextlib.suppress(OSError):  # a link that leads nowhere
                sizes[path] = (here / name).stat().st_size
        passed = [name for name in folders if _HIDDEN.match(name) or (here / name).is_symlink()]
        others += [(here / name).relative_to(folder).as_posix() for name in passed]
        folders[:] = [name for name in folders if name not in passed]
    kept, notice = _choose(sizes, others, pattern, typed)
    return [folder / name for name in kept], notice


def _choose(
    sizes: Mapping[str, int], others: Sequence[str], folder: str, typed: _Typed
) -> tuple[list[str], str]:
    """Choose which files of a folder to read, in natural order; return with them a notice about the others.

    `sizes` has the size of each file by its path within the folder; `others` are entries that are not files.
    """
    names = {name: name.rpartition("/")[2] for name in sizes if not _is_hidden(name)}
    kept = [name for name, last in names.items() if is_data(last)] or [
        name for name, last in names.items() if unpacked(last.lower()).suffix in _TABLES_IN_TEXT
    ]
    skipped = sorted({*sizes, *others} - set(kept), key=natural_key)
    kept.sort(key=natural_key)
    named = redact(folder)
    if not kept and not skipped:
        raise InputError(f"the folder {named} is empty; name another with {typed.option}")
    # A glob finds all but these, and other entries than files.
    found = [name for name in sizes if "/." not in f"/{name}"]
    if not kept:
        text = f"the folder {named} has no .txt, .jsonl, .parquet or similar files, only {_entries(skipped)}"
        if not found:
            raise InputError(f"{text}; name what to read with {typed.option}")
        command = typed.with_skipped(folder, found, kept)
        raise InputError(f"{text}; to read files with other names:{show(command)}")
    text = f"{named}: skipped {_entries(skipped, sum(sizes.get(name, 0) for name in skipped))}"
    n_shown = sum(sizes[name] for name in skipped if name in names)
    if n_shown <= sum(sizes[name] for name in kept):
        return kept, f"notice: {text}" if skipped else ""
    command = typed.with_skipped(folder, found, kept)
    return kept, f"warning: {text}, which is more than is read; to read these too:{show(command)}"


def _is_hidden(name: str) -> bool:
    return any(map(_HIDDEN.match, name.split("/")))


def _entries(names: Sequence[str], n_bytes: int = 0) -> str:
    """Describe skipped entries: how many there are, their size if they have one, and the first names."""
    entries = "1 other entry" if len(names) == 1 else f"{len(names):,} other entries"
    size = f", {format_bytes(n_bytes)}" if n_bytes else ""
    more = ", ..." if len(names) > _MOST_NAMED else ""
    return f"{entries}{size} ({', '.join(names[:_MOST_NAMED])}{more})"


def _cannot_list(error: OSError) -> None:
    raise InputError(f"cannot read the folder {error.filename}: {error.strerror}") from error


def _expand(pattern: str, option: str, home: Path | None) -> tuple[Sequence[Location], str]:
    """List the inputs that a path or a glob names; a glob skips folders, and the notice names them.

    If a file has exactly this name, the name is not a glob. `**` also matches the files inside folders, so it
    skips none.
    """
    if not pattern:
        raise InputError(f"{option} has an empty name; name a file, or omit the option")
    if pattern == "-":
        if os.isatty(0):
            raise UsageError(
                f"{option} - reads standard input, which is a terminal here: pipe text into this command, or "
                f"name files with {option}"
            )
        return [Pipe(0, "standard input")], ""
    path = Path(pattern)
    if _exists(path) or path.is_symlink():
        return [path], ""
    if glob.has_magic(pattern):
        matches = sorted(glob.glob(pattern, recursive=True), key=natural_key)  # noqa: PTH207 - Path.glob takes no absolute pattern
        files = [Path(match) for match in matches if not Path(match).is_dir()]
        if not files:
            similar = _similar(path)
            meant = "" if similar is None else f"; did you mean {quote(similar)}?"
            raise InputError(f"no file matches {pattern!r} (current folder: {Path.cwd()}){meant}")
        folders = [] if "**" in pattern else [one for one in matches if Path(one).is_dir()]
        return files, f"notice: {redact(pattern)}: skipped {_entries(folders)}" if folders else ""
    where = "" if path.is_absolute() else f" in {Path.cwd()}"
    if home is not None and _exists(home / path):
        advice = f"did you mean {quote(home / path)}, which is next to prepare.py?"
    elif (similar := _similar(path)) is not None:
        advice = f"did you mean {quote(similar)}?"
    else:
        advice = f"name an existing file with {option}"
    raise InputError(f"{path} not found{where}; {advice}")


def _similar(path: Path) -> Path | None:
    """Return the existing path or glob that is most like this missing one; None if none is.

    It differs in the first name on the path that does not exist.
    """
    missing = next((one for one in reversed(path.parents) if not os.path.lexists(one)), path)
    rest = path.relative_to(missing)
    with contextlib.suppress(OSError):  # a folder that may not be read
        names = [one.name for one in islice(missing.parent.iterdir(), _MOST_NAMES)]
        if glob.has_magic(missing.name):  # *.jsnol for *.jsonl
            ends = (
                end for name in names for end in (PurePath(name).suffix, "".join(PurePath(name).suffixes))
            )
            names = [f"*{end}" for end in ends]
        for name in difflib.get_close_matches(missing.name, {*names} - {missing.name}, 3, cutoff=_SIMILAR):
            found = missing.with_name(name) / rest
            if os.path.lexists(found) or glob.glob(str(found), recursive=True):  # noqa: PTH207 - as above
                return found
    return None


def _exists(path: Path) -> bool:
    """Check that a path exists; raise an InputError if a parent folder is closed or the name is too long."""
    try:
        return path.exists()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
