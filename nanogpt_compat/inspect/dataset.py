"""Find the token files of a folder, and compare them with its prepare.json."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanogpt_compat.errors import OutputError, UsageError
from nanogpt_compat.output.index import index_name, is_index, read_counts
from nanogpt_compat.output.layout import split_in_name
from nanogpt_compat.output.open import TokenFile, look_at
from nanogpt_compat.output.stream import TokenStream
from nanogpt_compat.report import REPORT_NAME, read_report
from nanogpt_compat.system.units import plural


@dataclass(frozen=True, slots=True)
class Part:
    """The files of one split, read as one stream of tokens."""

    split: str  # "train" or "val"; "" if unknown
    stream: TokenStream

    @property
    def name(self) -> str:
        """The name of its only file, or of the first and the last."""
        first, last = self.stream.files[0].path.name, self.stream.files[-1].path.name
        n_files = len(self.stream.files)
        return first if n_files == 1 else f"{first} to {last}, {n_files:,} shards"


@dataclass(frozen=True, slots=True)
class Dataset:
    """The token files of a folder, or one file."""

    path: Path
    made: Mapping[str, Any] | None  # its prepare.json
    parts: tuple[Part, ...]
    misfits: Mapping[str, str] = field(default_factory=dict)  # how files differ from prepare.json, by name
    unlisted: tuple[str, ...] = ()  # token files that prepare.json does not list
    offset: int = 0  # for one file: the tokens of its split in the files before it
    indexes: Mapping[str, int] = field(default_factory=dict)  # the documents in each index, by name

    @property
    def is_folder(self) -> bool:
        """Whether these are the files of a folder, and not just one file."""
        return self.path.is_dir()

    def part(self, split: str) -> Part:
        """Return the files of a split; raise UsageError if there are none, or several sets.

        If they are missing or damaged, that is an OutputError.
        """
        found = [one for one in self.parts if one.split == split]
        if len(found) == 1:
            return found[0]
        if found:
            names = "; ".join(one.name for one in found)
            raise UsageError(f"{self.path} has several sets of {split} files: {names}; give --inspect FILE")
        for name, misfit in self.misfits.items():
            if split_of(name) == split:
                raise OutputError(f"{self.path} has no {split} tokens: {misfit}")
        raise UsageError(f"{self.path} has no {split} tokens")


def split_of(name: str) -> str:
    """Return the split in the name of a token file; "" if there is none."""
    found = split_in_name(name)
    return found[1] if found else ""


def open_dataset(path: Path) -> Dataset:
    """Find the token files of a folder, or look at one file."""
    if not path.is_dir():
        return _open_file(path)
    made = _read(path)
    try:
        there = [one.name for one in path.iterdir() if one.is_file() and split_of(one.name)]
    except OSError as error:
        raise OutputError(f"cannot list {path}: {error.strerror}") from error
    there.sort(key=lambda name: split_in_name(name) or ("", "", 0))
    files = [] if made is None else made["files"]
    listed = {one["name"]: one for one in files if not is_index(one)} if files else dict.fromkeys(there)
    found = dict[tuple[str, str, bool], list[TokenFile]]()
    misfits = dict[str, str]()
    for name, expected in listed.items():
        one, misfit = _look(path / name, expected)
        misfits |= {name: misfit} if misfit else {}
        if one is not None:
            word, split, number = split_in_name(name) or (name, "", -1)
            found.setdefault((split, word, number < 0), []).append(one)
    parts = [Part(split, TokenStream(files)) for (split, *_), files in sorted(found.items())]
    listed_indexes = {one["name"]: one for one in files if is_index(one)}
    indexes = dict[str, int]()  # the documents in each
    for name in map(index_name, ("train", "val")):
        counts = read_counts(path / name) if (path / name).is_file() else None
        if counts is not None:
            indexes[name] = counts.n_documents
        if name in listed_indexes and (counts is None or counts.n_bytes != listed_indexes[name]["bytes"]):
            misfits[name] = (
                f"{path / name} is missing, or not the index that {REPORT_NAME} lists, of "
                f"{plural(listed_indexes[name]['documents'], 'document')}"
            )
    unlisted = {*there, *indexes} - listed.keys() - listed_indexes.keys() if files else ()
    return Dataset(path, made, tuple(parts), misfits, tuple(unlisted), indexes=indexes)


def _open_file(path: Path) -> Dataset:
    """Look at one file, and find its place in its dataset, if it is part of one."""
    file, split = look_at(path), split_of(path.name)
    parts = (Part(split, TokenStream([file])),)
    made = _read(path.parent)
    offset = 0
    for one in made["files"] if made is not None else ():
        if is_index(one):
            continue
        if one["name"] == path.name and one["tokens"] == file.n_tokens:
            return Dataset(path, made, parts, offset=offset)
        offset += one["tokens"] if split_of(one["name"]) == split else 0
    return Dataset(path, None, parts)


def _look(path: Path, expected: Mapping[str, Any] | None) -> tuple[TokenFile | None, str]:
    """Return a token file if it can be read, and how it differs from what prepare.json says of it."""
    try:
        file = look_at(path)
    except OutputError as error:
        return None, str(error)
    for unit, n_found in (("byte", file.n_bytes), ("token", file.n_tokens)):
        if expected is not None and n_found != expected[f"{unit}s"]:
            return file, f"{path} has {plural(n_found, unit)}; {REPORT_NAME} says {expected[f'{unit}s']:,}"
    return file, ""


def _read(folder: Path) -> Mapping[str, Any] | None:
    """Return the prepare.json of a folder; None if it is missing, or not from this program."""
    made = read_report(folder)
    try:
        if made is not None:  # look at all that is used later
            for one in made["files"]:
                split_of(one["name"]), one["documents" if is_index(one) else "tokens"] + one["bytes"]
            for one in made["inputs"]:
                one["path"] + "", one["tokens"] + one["text_bytes"] + (one["documents"] or 0)
            made["tokens"]["train"] + 0, made["options"]["eot"], made["val_split"]["name"]
            (made["documents"] or 0) + 0, made["versions"]["nanogpt_compat"]
    except (AttributeError, KeyError, TypeError):
        return None
    return made
