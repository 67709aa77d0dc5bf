"""Messages about inputs that cannot be read as they are, with commands that convert them.

A single input is converted through a pipe, or into a file next to it. Several refused inputs are listed at
once. If all inputs are refused, the converted files go into a new folder, which is the new input. Otherwise
they replace the originals, and the same command reads them.
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from nanogpt_compat.errors import InputError
from nanogpt_compat.input import kinds
from nanogpt_compat.input.kinds import Kind, Remedy
from nanogpt_compat.input.location import Location, Url
from nanogpt_compat.input.pipes import Pipe
from nanogpt_compat.input.repairs import FAILED, unused
from nanogpt_compat.input.sniff import unpacked
from nanogpt_compat.system.commands import join, quote, show, this_command

_MOST_NAMED = 10
_MOST_IN_COMMAND = 100
_SUFFIXES = {
    "text": ".txt",
    "records": ".jsonl",
    "table": ".parquet",
    "arrow": ".arrow",
    "csv": ".csv",
    "tsv": ".tsv",
}
_FOR_RECORDS = ("--text-field", "--skip-bad-records")
_FOR_TEXT = ("--errors", "--document-separator", "--one-document-per-file")
_FILES = ("table", "arrow")  # made of a stream that must be a file
_RECORDS = ("records", "csv", "tsv", *_FILES)
_PAGE = re.compile(r"https://(huggingface\.co|github\.com)/.+/blob/")  # shows a file
_OF_FILE = {"huggingface.co": "resolve", "github.com": "raw"}  # instead of `blob`
_KEPT = "the originals are kept under names that begin with a dot; then run the same command again"


def refusal(
    refused: Sequence[tuple[Location, Kind]],
    damaged: Sequence[InputError] = (),
    *,
    n_inputs: int,
    may_pipe: bool,
    option: str,
) -> InputError:
    """Return the error that lists all refused inputs with commands that convert them, and the damaged ones.

    `may_pipe`: this run can read standard input. `option`: the one that names these inputs; "" if there are
    several.
    """
    if n_inputs == 1 and not damaged:
        return InputError(_about_one(*refused[0], may_pipe=may_pipe, option=option))
    makes = {
        path.name: kind.remedy.makes
        for path, kind in refused
        if isinstance(path, Path) and kind.remedy is not None and kind.remedy.makes_file
    }
    # A folder can be the new input if the commands convert all inputs, and their names differ. Its files are
    # named by a glob: a folder would skip `a.txt.lz4`, which keeps its name. A glob skips folders.
    has_folders = "folder" in makes.values()
    has_both = has_folders and {*makes.values()} != {"folder"}
    are_all = len(makes) == n_inputs <= _MOST_IN_COMMAND
    folder = unused(Path("converted")) if option and are_all and not has_both else None
    lines = [f"{len(refused) + len(damaged):,} of {n_inputs:,} inputs cannot be read as they are:"]
    lines += map(str, damaged)
    is_made = False
    for kind, paths in _groups(refused):
        said, remedy = f"{_list(paths)}: {kind.name}", kind.remedy
        files = [path for path in paths if isinstance(path, Path)]
        if remedy is None or not files:
            lines.append(f"{said}; {kind.advice or 'run it on its own to see how to convert it'}")
            continue
        lines.append(f"{said}; to {_of_many(remedy.aim, len(files))}:{show(_loop(remedy, files, folder))}")
        lines += [kind.advice] if kind.advice else []
        is_made |= remedy.makes_file
    if folder is not None:
        made = folder if has_folders else f"{folder}/*"
        lines.append(f"then run:{show(this_command(option, made, without=[option]))}")
    elif is_made:
        lines.append(_KEPT)
    return InputError("\n".join(lines))


def notices(doubtful: Sequence[tuple[Location, Kind]]) -> list[str]:
    """Return notices about inputs that are read as plain text but may be meant as something else."""
    lines = []
    for kind, paths in _groups(doubtful):
        line = f"notice: {_list(paths)}: {kind.name}, read as plain text"
        if kind.remedy is None:
            line += "; its markup and delimiters become tokens too"
        else:
            command = this_command(*kind.remedy.options, without=_FOR_TEXT)
            why = "" if isinstance(paths[0], Pipe) else " because of the name"
            line += f"{why}; to {_of_many(kind.remedy.aim, len(paths))}:{show(command)}"
        lines.append(line)
    return lines


def _about_one(path: Location, kind: Kind, *, may_pipe: bool, option: str) -> str:
    remedy, said = kind.remedy, f"{path} is {kind.name}{kind.detail}"
    page = _PAGE.match(path.address) if isinstance(path, Url) else None
    if page is not None and kind.name == kinds.HTML.name:
        address = page.string.replace("/blob/", f"/{_OF_FILE[page[1]]}/", 1)
        command = this_command(option, address, without=[option])
        return f"{said}; the file itself is at another address:{show(command)}"
    if remedy is None:
        return f"{said}; {kind.advice}"
    more = f"\n{kind.advice}" if kind.advice else ""
    if isinstance(path, Pipe):
        if not remedy.piped or remedy.makes in _FILES:
            return f"{said}; write it to a file and name that file with {option}{more}"
        return f"{said}; to {remedy.aim}, send it through `{remedy.piped}` first{more}"
    if isinstance(path, Path):
        return f"{said}; to {remedy.aim}:{show(_command(remedy, path, option, may_pipe=may_pipe))}{more}"
    if path.address.startswith(("http://", "https://")) and remedy.piped and may_pipe:
        fetch = f"{join('curl', '-fL', path.address)} | {remedy.piped}"
        read = _with_input("-", remedy, option)
        return f"{said}; to {remedy.aim}:{show(f'(set -o pipefail; {fetch} | {read})')}{more}"
    command = _command(remedy, Path(path.name or "input"), option, may_pipe=may_pipe)
    return f"{said}; download it, then run:{show(command)}{more}"


def _command(remedy: Remedy, path: Path, option: str, *, may_pipe: bool) -> str:
    """Return the command that converts one input and reads the result."""
    made = _made(remedy, quote(path), folder=quote(path.parent))
    if remedy.makes == "nothing":
        return made
    if remedy.makes == "itself":
        return f"{made} && {this_command()}"
    if remedy.is_filter and not remedy.to_file and may_pipe:
        read = _with_input("-", remedy, option)
        if remedy.makes == "records":
            return f"({made} || {FAILED}) | {read}"
        return f"(set -o pipefail; {made} | {read})"
    new = _new_name(remedy, path)
    return f"{_made(remedy, quote(path), new=quote(new))} && {_with_input(new, remedy, option)}"


def _loop(remedy: Remedy, paths: Sequence[Path], folder: Path | None) -> str:
    """Return the command that converts several files, into `folder` or, if that is None, in place."""
    paths = paths[:_MOST_IN_COMMAND]
    names = join(*paths)
    if remedy.makes == "nothing":
        return _made(remedy, names)
    if remedy.makes == "itself":
        parents = dict.fromkeys(path.parent for path in paths)
        return " && ".join(_made(remedy, "", folder=quote(parent)) for parent in parents)
    made = _made(remedy, '"$f"', new='"$n"' if folder is not None else '"$n.new"')
    if folder is not None:
        suffix = _SUFFIXES.get(remedy.makes, "")
        one = f'n={folder}/"$(basename "$f"){suffix}"; {made} || break'
        return f"mkdir -p {folder} && for f in {names}; do {one}; done"
    # `.name` is taken if a file is converted twice, such as lz4 in lz4.
    return (
        f'for f in {names}; do n="$(dirname "$f")/.$(basename "$f")"; while [ -e "$n" ]; do n="$n~"; done; '
        f'{made} && mv "$f" "$n" && mv "$n.new" "$f"; done'
    )


def _made(remedy: Remedy, old: str, *, new: str = "", folder: str = "") -> str:
    """Put names into the command of a remedy; without `new`, a filter writes to standard output."""
    command = remedy.command.replace("{old}", old).replace("{folder}", folder).replace("{new}", new)
    return f"{command} > {new}" if new and remedy.is_filter else command


def _with_input(new: object, remedy: Remedy, option: str) -> str:
    """Return the command that reads a converted input, without the options that no longer apply to it."""
    without = _FOR_RECORDS if remedy.makes == "text" else _FOR_TEXT if remedy.makes in _RECORDS else ()
    return this_command(option, new, without=[option, *without])


def _new_name(remedy: Remedy, path: Path) -> Path:
    """Choose an unused name next to the file, or in the current folder if the file's is not writable."""
    if not os.access(path.parent, os.W_OK):
        path = Path(path.name)
    stem, suffix = unpacked(path.name), _SUFFIXES.get(remedy.makes, "")
    has_suffix = suffix != "" and stem.suffix.lower() == suffix
    if remedy.makes == "inside" or (has_suffix and remedy.makes in _FILES):
        return unused(path.with_name(stem.name))
    return unused(path.with_name(f"{stem.stem}{'.utf8' if has_suffix else ''}{suffix}"))


def _groups(found: Iterable[tuple[Location, Kind]]) -> list[tuple[Kind, list[Location]]]:
    """Group inputs by their kind and command, in order."""
    groups: dict[tuple[str, str], tuple[Kind, list[Location]]] = {}
    for path, kind in found:
        command = "" if kind.remedy is None else kind.remedy.command
        groups.setdefault((kind.name, command), (kind, []))[1].append(path)
    return list(groups.values())


def _list(paths: Sequence[Location]) -> str:
    more = f" and {len(paths) - _MOST_NAMED:,} more" if len(paths) > _MOST_NAMED else ""
    return ", ".join(map(str, paths[:_MOST_NAMED])) + more


def _of_many(aim: str, n_files: int) -> str:
    """Put the aim of a remedy into the plural: "unpack it" becomes "unpack them"."""
    return re.sub(r"\bit\b", "them", re.sub(r"\bit is\b", "they are", aim)) if n_files > 1 else aim
