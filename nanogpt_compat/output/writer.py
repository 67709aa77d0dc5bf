"""Write tokens to working files, check them, and rename them to their final names when complete."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.errors import OutputError
from nanogpt_compat.output.layout import WORK_FOLDER, Outputs, Shards
from nanogpt_compat.output.token_file import TOKEN, GrowingMemmap
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


class Sink(Protocol):
    """What the pipeline writes to."""

    def append(
        self, tokens: NDArray[np.uint16], *, is_val: bool, ends: NDArray[np.int64] | None = None
    ) -> None:
        """Append `(n,) uint16` to a split.

        `ends`: the places from 0 to n where a document of this split ends, `(k,) int64`; None if they are not
        needed.
        """
        ...


def work_folder(folder: Path) -> Path:
    """Create `.prepare/` for unfinished files in `folder`, durably and hidden from git; return its path."""
    work = folder / WORK_FOLDER
    try:
        made = [one for one in (work, *work.parents) if not one.exists()]
        work.mkdir(parents=True, exist_ok=True)
        for one in made:  # ext4 and XFS do this anyway when the first file inside is synced
            sync_folder(one.parent)
        ignore = work / ".gitignore"
        if not ignore.exists() or not ignore.stat().st_size:  # empty if a full disk refused the two bytes
            ignore.write_text("*\n", encoding="ascii")
    except OSError as error:
        raise _not_writable(folder, error) from error
    return work


def check_writable(folders: Iterable[Path]) -> None:
    """Raise OutputError if `work_folder` would fail in one of `folders`, as far as visible without a try."""
    for folder in folders:
        work = folder / WORK_FOLDER
        try:
            nearest = next(one for one in (work, *work.parents) if one.exists())
            for one in (nearest, folder) if nearest == work else (nearest,):
                _check_access(one)
        except OSError as error:
            raise _not_writable(folder, error) from error


def _check_access(folder: Path) -> None:
    """Raise the OSError that creating a file in `folder` would raise."""
    number = 0
    if not folder.is_dir():
        number = errno.ENOTDIR
    elif not os.access(folder, os.W_OK | os.X_OK):
        is_read_only = hasattr(os, "statvfs") and os.statvfs(folder).f_flag & os.ST_RDONLY
        number = errno.EROFS if is_read_only else errno.EACCES
    if number:
        raise OSError(number, os.strerror(number))


def _not_writable(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write to {folder}: {error.strerror}; {advice(error)} and run the same command again, or "
        "give another --output-dir"
    )


class _OpenShards:
    """A stream of tokens being written: the open shard, and the full shards before it."""

    def __init__(self, shards: Shards, *, n_tokens: int, window_bytes: int) -> None:
        """Open the unfinished shard, and truncate it so that the stream has `n_tokens`."""
        self.n_tokens = n_tokens
        self._shards = shards
        self._window_bytes = window_bytes
        self._header_tokens = shards.header_bytes // TOKEN.itemsize
        self._file: GrowingMemmap | None = None
        if n_tokens == 0 or n_tokens % shards.shard_tokens:
            self._open(shards.n_full(n_tokens), n_tokens % shards.shard_tokens)

    def _open(self, k: int, n_tokens: int) -> GrowingMemmap:
        """Open shard `k` with `n_tokens` in it, and reserve the place of its header."""
        before = self._header_tokens + n_tokens if n_tokens else 0
        path = self._shards.partial(k)
        self._file = GrowingMemmap(path, n_tokens=before, window_bytes=self._window_bytes)
        if not before:
            self._file.append(np.zeros(self._header_tokens, TOKEN))
        return self._file

    def append(self, tokens: NDArray[np.uint16]) -> None:
        """Append `(n,) uint16`; finish each shard that is full, which makes it durable."""
        start = self.n_tokens
        for k, first, last in self._shards.pieces(start, start + len(tokens)) if len(tokens) else ():
            file = self._file or self._open(k, first)
            begin = self.n_tokens - start
            file.append(tokens[begin : begin + last - first])
            self.n_tokens += last - first
            if last == self._shards.shard_tokens:
                self._finish_shard(last)

    def _finish_shard(self, n_tokens: int) -> None:
        if self._file is not None:
            self._file.finish(header=self._shards.header(n_tokens))
            self._file = None

    def begin_sync(self) -> Callable[[], None]:
        """Start to make the whole stream durable, as `GrowingMemmap.begin_sync`."""
        return self._file.begin_sync() if self._file is not None else _nothing_to_wait_for

    def drop_pages(self) -> None:
        """Write back and release memory, as `GrowingMemmap.drop_pages`."""
        if self._file is not None:
            self._file.drop_pages()

    def finish(self) -> None:
        """Finish the last shard."""
        self._finish_shard(self.n_tokens - self._shards.n_full(self.n_tokens) * self._shards.shard_tokens)

    def close(self) -> None:
        """Close the open file as it is."""
        if self._file is not None:
            self._file.close()


def _nothing_to_wait_for() -> None:
    """Return at once: a full shard was synced when it was finished."""


class TokenFiles:
    """The output being written, in `.prepare/`: train.bin and val.bin, or shards.

    `beside` are streams that are only needed while the run lasts. They hold anything, as `(n,) uint16`, and
    are as durable as the output, but are never published.
    """

    def __init__(
        self,
        outputs: Outputs,
        *,
        n_tokens: Mapping[str, int],
        window_bytes: int,
        beside: Outputs | None = None,
    ) -> None:
        """Open the unfinished files, and truncate each stream to its `n_tokens` (0 if missing).

        Raises:
            OutputError: a file cannot be created, or is shorter.
        """
        self._outputs = outputs
        self._all = outputs | (beside or {})
        self._begin_segment()
        self._n_published = dict.fromkeys(outputs, 0)
        with contextlib.ExitStack() as stack:
            self._streams = {}
            for split, shards in self._all.items():
                work_folder(shards.folder)
                stream = _OpenShards(shards, n_tokens=n_tokens.get(split, 0), window_bytes=window_bytes)
                stack.callback(stream.close)
                self._streams[split] = stream
            self._stack = stack.pop_all()

    @property
    def tokens(self) -> dict[str, int]:
        """The number of tokens so far, by stream."""
        return {split: stream.n_tokens for split, stream in self._streams.items()}

    @property
    def n_tokens(self) -> int:
        """The number of tokens of the output so far."""
        return sum(self._streams[split].n_tokens for split in self._outputs)

    def append(
        self, tokens: NDArray[np.uint16], *, is_val: bool, ends: NDArray[np.int64] | None = None
    ) -> None:
        """Append `(n,) uint16` to a split, as `write` does."""
        self.write("val" if is_val else "train", tokens)

    def write(self, split: str, tokens: NDArray[np.uint16]) -> None:
        """Append `(n,) uint16` to a stream.

        Raises:
            OutputError: the disk is full or failing.
            MemoryError: the next window cannot be mapped.
        """
        stream, shards, n_done = self._streams[split], self._all[split], 0
        start = stream.n_tokens
        stream.append(tokens)  # at once: if a disk is full, it takes all or none
        for _, first, last in shards.sections(start, start + len(tokens)):
            n_before, n_done = n_done, n_done + last - first
            self._crcs[split] = crc32(tokens[n_before:n_done].data, self._crcs[split])
            if shards.ends_section(last):
                self._section_crcs[split].append(self._crcs[split])

    def begin_checkpoint(self) -> tuple[Segment, Callable[[], None]]:
        """End the segment; return it and a function that waits, in any thread, until it is durable."""
        waits = [stream.begin_sync() for stream in reversed(self._streams.values())]
        segment = Segment(self.tokens, self._crcs, self._section_crcs)
        self._begin_segment()

        def wait() -> None:
            for wait_for_one in waits:
                wait_for_one()

        return segment, wait

    def _begin_segment(self) -> None:
        self._crcs = dict.fromkeys(self._all, 0)
        self._section_crcs: dict[str, list[int]] = {split: [] for split in self._all}

    def publish_full(self, tokens: Mapping[str, int]) -> None:
        """Rename each shard that is full at `tokens`, which must be journaled, to its final name.

        Always call it from the same thread, which need not be the one that writes.

        Raises:
            OutputError: a rename failed, or another file has the final name.
        """
        for split, shards in self._outputs.items():
            n_full = shards.n_full(tokens[split])
            _publish_some(shards, range(self._n_published[split], n_full), may_replace=False)
            self._n_published[split] = n_full

    def drop_pages(self) -> None:
        """Write everything back, and release all memory of the output."""
        for stream in self._streams.values():
            stream.drop_pages()

    def finish(self) -> None:
        """Truncate the files to their exact sizes and make them durable."""
        for stream in self._streams.values():
            stream.finish()

    def __enter__(self) -> "TokenFiles":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


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
    return all(
        _crc_of(one, start.get(split, 0), segment.tokens[split]) == segment.crcs[split]
        for split, one in files.items()
        if split in segment.crcs
    )


def _crc_of(written: Written, start: int, end: int) -> int | None:
    """Compute the CRC-32 of tokens `[start, end)`; None if the files end earlier."""
    shards, crc = written.shards, 0
    header_bytes = shards.header_bytes
    for k, first, last in shards.pieces(start, end):
        header = shards.header(last) if last == shards.shard_tokens else None
        span = (header_bytes + place * TOKEN.itemsize for place in (first, last))
        found = _crc_of_bytes(written.path(k), *span, crc=crc, header=header)
        if found is None:
            return None
        crc = found
    return crc


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

    Raises:
        OutputError: a rename failed, or the disk is full or failing.
    """
    for split, written in files.items():
        shards, n_tokens = written.shards, tokens.get(split, 0)
        n_full = shards.n_full(n_tokens)
        for k in range(n_full, written.n_named):
            if written.path(k) == shards.path(k) and is_there(shards.path(k)):
                _make_unfinished(shards, k)
        if n_tokens % shards.shard_tokens and written.path(n_full) == shards.path(n_full):
            if shards.is_endless:  # a copy may be as large as all output
                _make_unfinished(shards, n_full)
            else:
                _copy(shards.path(n_full), shards.partial(n_full))


def _make_unfinished(shards: Shards, k: int) -> None:
    _rename(shards.path(k), shards.partial(k))
    sync_folder(shards.folder)


def _copy(final: Path, partial: Path) -> None:
    """Copy a file durably."""
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


def others(shards: Shards, *, n_own: int, n_tokens: int | None = None) -> list[Path]:
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
        for path in others(written.shards, n_own=written.n_named):
            raise _taken(path)


def publish(files: Mapping[str, Written], *, may_replace: bool) -> None:
    """Rename finished files to their final names, val first; skip those that already have them.

    With `may_replace`, also remove the surplus shards of an earlier run, which would be read as well.

    Raises:
        OutputError: a rename failed, or another file has a final name.
    """
    for written in files.values():
        _publish_some(written.shards, range(written.n_named), may_replace=may_replace)
        for path in others(written.shards, n_own=written.n_named):
            if not may_replace:
                raise _taken(path)
            try:
                path.unlink()
            except OSError as error:
                raise OutputError(
                    f"{path} is from an earlier run and cannot be removed: {error.strerror}; fix that and "
                    "run the same command again"
                ) from error


def _publish_some(shards: Shards, some: Iterable[int], *, may_replace: bool) -> None:
    for k in some:
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


def remove_work_files(folders: Iterable[Path]) -> None:
    """Remove everything in the `.prepare/` of each folder but the lock, which must be held.

    The journal goes last. Without it, the files that an interrupted removal leaves would look like lost work.
    """
    for folder in folders:
        for path in sorted((folder / WORK_FOLDER).glob("*"), key=lambda path: path.name == "journal"):
            if path.suffix and path.is_dir():  # `lock.*`: a process was killed while taking the lock
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_file():
                with contextlib.suppress(OSError):  # a leftover is hidden and harmless
                    path.unlink()


def remove_work_folder(folder: Path) -> None:
    """Remove `.prepare/` if it holds nothing of a run."""
    work = folder / WORK_FOLDER
    with contextlib.suppress(OSError):
        if all(path.name == ".gitignore" for path in work.iterdir()):
            (work / ".gitignore").unlink(missing_ok=True)
            work.rmdir()
