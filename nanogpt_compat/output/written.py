"""What runs have written: shards that are unfinished, or have their final names."""

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nanogpt_compat.errors import OutputError
from nanogpt_compat.output.layout import WORK_FOLDER, Outputs, Shards
from nanogpt_compat.output.token_file import TOKEN
from nanogpt_compat.system.checksum import crc32
from nanogpt_compat.system.filesystem import advice, drop_cache, replace_durably, sync_folder

_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Segment:
    """The tokens appended since the last checkpoint: where they end in each stream, and their CRC-32.

    `section_crcs` are the CRC-32 of the tokens from the beginning of the segment up to each end of a section
    of a file in it; see `output.checksums`.
    """

    tokens: Mapping[str, int]  # by stream, counted from its beginning
    crcs: Mapping[str, int]
    section_crcs: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Written:
    """The shards of a stream as a run left them: unfinished, or with their final names."""

    shards: Shards
    n_named: int  # this many, from the first on, may have their final names; the rest is unfinished
    has_lost: bool = False  # the journal has lost records, so one more shard may have its final name

    def path(self, k: int) -> Path:
        """Return the path of shard `k`: its final path only if there is no unfinished file."""
        partial = self.shards.partial(k)
        return self.shards.path(k) if k < self.n_named + self.has_lost and not is_there(partial) else partial


def full_shards(outputs: Outputs, tokens: Mapping[str, int]) -> dict[str, Written]:
    """Return the files of a run that has journaled `tokens`: full shards may have their final names."""
    return {split: Written(shards, shards.n_full(tokens.get(split, 0))) for split, shards in outputs.items()}


def found_shards(outputs: Outputs, tokens: Mapping[str, int], *, is_torn: bool) -> dict[str, Written]:
    """Return the same for a journal that may have lost records."""
    files = full_shards(outputs, tokens)
    return {
        split: replace(one, has_lost=n_begun(one.shards, tokens.get(split, 0), is_torn=is_torn) > one.n_named)
        for split, one in files.items()
    }


def unpublished(streams: Outputs) -> dict[str, Written]:
    """Return the files of streams that never get final names."""
    return {name: Written(shards, 0) for name, shards in streams.items()}


def all_shards(outputs: Outputs, tokens: Mapping[str, int]) -> dict[str, Written]:
    """Return the files of a complete run with `tokens` in each stream."""
    return {split: Written(shards, shards.n_shards(tokens[split])) for split, shards in outputs.items()}


def written_bytes(files: Mapping[str, Written]) -> int:
    """Return the size on the disk of all that runs have written here, unfinished or with final names."""
    folders = {written.shards.folder for written in files.values()}
    partials = [path for folder in folders for path in (folder / WORK_FOLDER).glob("*.partial")]
    places = ((one.shards, k) for one in files.values() for k in range(one.n_named))
    named = [shards.path(k) for shards, k in places if not is_there(shards.partial(k))]
    return sum(path.stat().st_size for path in (*partials, *named) if path.exists())


def is_there(path: Path) -> bool:
    """Return whether a file exists, or raise OutputError if the disk fails.

    From Python 3.14 on, `Path.exists` returns False for a failing disk.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise OutputError(
            f"cannot check whether {path} exists: {error.strerror}; {advice(error)} and run the same command "
            "again"
        ) from error
    return True


def is_sound(files: Mapping[str, Written], start: Mapping[str, int], segment: Segment) -> bool:
    """Return whether `files` hold exactly this segment, which begins at `start`, on the disk.

    Streams that are only in one of the two do not count: each pass of a shuffle writes streams of its own.
    """
    for split, written in files.items():
        if split not in segment.crcs:
            continue
        shards, crc = written.shards, 0
        header_bytes = shards.header_bytes
        for k, first, last in shards.pieces(start.get(split, 0), segment.tokens[split]):
            header = shards.header(last) if last == shards.shard_tokens else None
            span = (header_bytes + place * TOKEN.itemsize for place in (first, last))
            found = _crc_of_bytes(written.path(k), *span, crc=crc, header=header)
            if found is None:  # the file ends earlier
                return False
            crc = found
        if crc != segment.crcs[split]:
            return False
    return True


def _crc_of_bytes(path: Path, offset: int, end: int, *, crc: int, header: bytes | None) -> int | None:
    """Update a CRC-32 with bytes `[offset, end)` of a file; None if the file ends earlier.

    With `header`, the file is full: it must begin with that header and end at `end`, else None.
    """
    try:
        with path.open("rb", buffering=0) as file:
            # After a failed write, the page cache may differ from the disk.
            size_bytes = os.fstat(file.fileno()).st_size
            drop_cache(file.fileno(), 0, size_bytes)
            if size_bytes < end:  # also if the range is empty, as val's often is
                return None
            if header is not None and (size_bytes > end or file.read(len(header)) != header):
                return None
            file.seek(offset)
            while offset < end:
                chunk = file.read(min(_CHUNK_BYTES, end - offset))
                if not chunk:
                    return None
                crc = crc32(chunk, crc)
                offset += len(chunk)
            drop_cache(file.fileno(), 0, end)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror}") from error
    return crc


def take_back(files: Mapping[str, Written], tokens: Mapping[str, int]) -> None:
    """Rename shards that reach beyond `tokens` from their final names back to unfinished.

    If the journal has lost the record that a shard is full, the shard keeps its name and is copied.
    """
    for split, written in files.items():
        shards, n_tokens = written.shards, tokens.get(split, 0)
        n_full = shards.n_full(n_tokens)
        for k in range(n_full, written.n_named):
            if written.path(k) == shards.path(k) and is_there(shards.path(k)):
                _rename(shards.path(k), shards.partial(k))
                sync_folder(shards.folder)
        if n_tokens % shards.shard_tokens and written.path(n_full) == shards.path(n_full):
            if shards.is_endless:  # a copy may be as large as all output
                _rename(shards.path(n_full), shards.partial(n_full))
                sync_folder(shards.folder)
            else:
                _copy(shards.path(n_full), shards.partial(n_full))


def _copy(final: Path, partial: Path) -> None:
    copy = partial.with_suffix(".copy")
    try:
        shutil.copyfile(final, copy)
        with copy.open("rb+") as file:
            os.fsync(file.fileno())
        replace_durably(copy, partial)
    except OSError as error:
        raise OutputError(
            f"cannot copy {final} to {partial.parent}: {error.strerror}; {advice(error)} and run the same "
            "command again"
        ) from error


def n_begun(shards: Shards, n_tokens: int, *, is_torn: bool) -> int:
    """Return how many shards, from the first on, are from this run if they have their final names.

    These are the shards that the `n_tokens` in the journal fill. If the journal has lost records, there may
    be more: all shards before an unfinished one and, if it is torn, all existing ones in a row.
    """
    n_full = shards.n_full(n_tokens)
    if shards.is_endless:
        return n_full + (is_torn and n_tokens > 0)
    unfinished = (name.removesuffix(".partial") for name in _names(shards.folder / WORK_FOLDER))
    n = max(n_full, *(shards.index(name) for name in unfinished if shards.pattern.fullmatch(name)), 0)
    while is_torn and is_there(shards.path(n)):
        n += 1
    return n


def _names(folder: Path) -> list[str]:
    """Return the names in a folder, none if it is missing."""
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - a Path for each of a million names is slow
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OutputError(f"cannot list {folder}: {error.strerror}") from error


def foreign_files(shards: Shards, *, n_own: int, n_tokens: int | None = None) -> list[Path]:
    """Return the files with final names of this stream that are not from this run.

    The first `n_own` shards are from this run. If one of them also has an unfinished file, the two must be
    equal: up to `n_tokens` of the stream, or completely if that is None.
    """
    if shards.is_endless:
        named = [path for path in (shards.path(0),) if is_there(path)]
    else:
        named = [shards.folder / name for name in _names(shards.folder) if shards.pattern.fullmatch(name)]
    if not named:
        return []
    own = {shards.path(k): k for k in range(n_own)}
    return [path for path in named if path not in own or not _is_own(shards, own[path], n_tokens)]


def _is_own(shards: Shards, k: int, n_tokens: int | None) -> bool:
    final, partial = shards.path(k), shards.partial(k)
    if not is_there(partial):
        return True
    if n_tokens is None:
        return _hold_same(final, partial)
    n_saved = min(max(0, n_tokens - k * shards.shard_tokens), shards.shard_tokens)
    return _hold_same(
        final, partial, start=shards.header_bytes, end=shards.header_bytes + n_saved * TOKEN.itemsize
    )


def _hold_same(final: Path, partial: Path, *, start: int = 0, end: int | None = None) -> bool:
    """Return whether two files have the same bytes, completely or in `[start, end)`."""
    try:
        with final.open("rb") as one, partial.open("rb") as other:
            n_bytes = os.fstat(one.fileno()).st_size
            if end is None and n_bytes != os.fstat(other.fileno()).st_size:
                return False
            one.seek(start)
            other.seek(start)
            for at in range(start, n_bytes if end is None else end, _CHUNK_BYTES):
                size = _CHUNK_BYTES if end is None else min(_CHUNK_BYTES, end - at)
                if one.read(size) != other.read(size):
                    return False
    except OSError as error:
        raise OutputError(f"cannot compare {final} with {partial}: {error.strerror}") from error
    return True


def check_vacant(files: Mapping[str, Written]) -> None:
    """Raise OutputError if a file that is not from this run has a final name."""
    for written in files.values():
        for path in foreign_files(written.shards, n_own=written.n_named):
            raise _taken(path)


def publish(files: Mapping[str, Written], *, may_replace: bool) -> None:
    """Rename finished files to their final names, val first; skip those that already have them.

    With `may_replace`, also remove the surplus shards of an earlier run, which would be read as well.
    """
    for written in files.values():
        publish_some(written.shards, range(written.n_named), may_replace=may_replace)
        for path in foreign_files(written.shards, n_own=written.n_named):
            if not may_replace:
                raise _taken(path)
            try:
                path.unlink()
            except OSError as error:
                raise OutputError(
                    f"{path} is from an earlier run and cannot be removed: {error.strerror}; fix that and "
                    "run the same command again"
                ) from error


def publish_some(shards: Shards, numbers: Iterable[int], *, may_replace: bool) -> None:
    """Rename these shards of a stream to their final names."""
    for k in numbers:
        partial, final = shards.partial(k), shards.path(k)
        if not is_there(partial):
            continue  # an earlier run has renamed it
        if may_replace or not is_there(final):
            _rename(partial, final)
        elif not _hold_same(final, partial):
            raise _taken(final)
        else:  # an earlier run has renamed it, but the journal lost its record
            with contextlib.suppress(OSError):  # a leftover is hidden and harmless
                partial.unlink()


def _rename(old: Path, new: Path) -> None:
    try:
        replace_durably(old, new)
    except OSError as error:
        raise OutputError(
            f"cannot rename {old} to {new}: {error.strerror}; fix that and run the same command again"
        ) from error


def _taken(path: Path) -> OutputError:
    return OutputError(
        f"{path} exists and is not from this run; pass --overwrite to replace it, or move it away and "
        "run the same command again"
    )
