"""Where the tokens go: nanoGPT's train.bin and val.bin, under these names only when they are complete."""

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.errors import OutputError
from nanogpt_compat.files import advice, drop_cache, replace_durably, sync_folder
from nanogpt_compat.memmap import TOKEN, GrowingMemmap

WORK_FOLDER = ".prepare"
_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Segment:
    """What was appended to each split since the checkpoint before: where it ends, and its CRC-32."""

    tokens: Mapping[str, int]  # by split, counted from the beginning of the file
    crcs: Mapping[str, int]


class Sink(Protocol):
    """What the pipeline writes to."""

    def append(self, tokens: NDArray[np.uint16], *, is_val: bool) -> None:
        """Append `(n,) uint16` to a split."""
        ...


def work_folder(folder: Path) -> Path:
    """Make the folder for unfinished files inside `folder`, hidden from git; its name is durable then.

    Raises:
        OutputError: it cannot be made.
    """
    work = folder / WORK_FOLDER
    try:
        made = [one for one in (work, *work.parents) if not one.exists()]
        work.mkdir(parents=True, exist_ok=True)
        for one in made:  # ext4 and XFS do so of themselves with the first file inside that is synced
            sync_folder(one.parent)
        ignore = work / ".gitignore"
        if not ignore.exists() or not ignore.stat().st_size:  # a full disk might refuse the two bytes
            ignore.write_text("*\n", encoding="ascii")
    except OSError as error:
        raise OutputError(
            f"cannot write to {folder}: {error.strerror}; {advice(error)} and run the same command again, or "
            "give another --output-dir"
        ) from error
    return work


def final_files(output_dir: Path, *, has_val: bool) -> dict[str, Path]:
    """Name the files of a run by split, in the order in which they are published; links are followed.

    Raises:
        OutputError: a link leads back to itself.
    """
    splits = ["val", "train"] if has_val else ["train"]
    try:
        return {split: Path(output_dir, f"{split}.bin").resolve() for split in splits}
    except (OSError, RuntimeError) as error:
        raise OutputError(f"cannot follow the links in {output_dir}: {error}") from error


def partial_file(final: Path) -> Path:
    """Name the unfinished file: beside the final one, for a rename cannot cross file systems."""
    return final.parent / WORK_FOLDER / f"{final.name}.partial"


class BinPair:
    """train.bin and val.bin being written, in `.prepare/`."""

    def __init__(self, finals: Mapping[str, Path], *, n_tokens: Mapping[str, int], window_bytes: int) -> None:
        """Open the unfinished files and cut each to its `n_tokens`, none for a split that is not named.

        Raises:
            OutputError: they cannot be created, or are shorter.
        """
        self._crcs = dict.fromkeys(finals, 0)
        with contextlib.ExitStack() as stack:
            self._files = {}
            for split, final in finals.items():
                work_folder(final.parent)
                file = GrowingMemmap(
                    partial_file(final), n_tokens=n_tokens.get(split, 0), window_bytes=window_bytes
                )
                self._files[split] = stack.enter_context(file)
            self._stack = stack.pop_all()

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens so far, by split."""
        return {split: file.n_tokens for split, file in self._files.items()}

    def append(self, tokens: NDArray[np.uint16], *, is_val: bool) -> None:
        """Append `(n,) uint16` to a split.

        Raises:
            OutputError: the disk is full or failing.
        """
        split = "val" if is_val else "train"
        self._files[split].append(tokens)
        self._crcs[split] = crc32(tokens.data, self._crcs[split])

    def begin_checkpoint(self) -> tuple[Segment, Callable[[], None]]:
        """End the segment; it is durable once the returned call has returned, in whatever thread.

        Raises:
            OutputError: an earlier write failed.
        """
        waits = [file.begin_sync() for file in reversed(self._files.values())]
        segment = Segment(self.tokens, self._crcs)
        self._crcs = dict.fromkeys(self._files, 0)

        def wait() -> None:
            for wait_for_one in waits:
                wait_for_one()

        return segment, wait

    def drop_pages(self) -> None:
        """Write back and give back all memory that the output takes.

        Raises:
            OutputError: an earlier write failed.
        """
        for file in self._files.values():
            file.drop_pages()

    def finish(self) -> None:
        """Cut the files to their exact sizes and make them durable.

        Raises:
            OutputError: the disk is full or failing.
        """
        for file in self._files.values():
            file.finish()

    def __enter__(self) -> "BinPair":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


def written_files(finals: Mapping[str, Path]) -> dict[str, Path]:
    """Name the files that a run has written by split: unfinished, or renamed already.

    Raises:
        OutputError: it cannot be seen which.
    """
    partials = {split: partial_file(final) for split, final in finals.items()}
    return {split: partials[split] if is_there(partials[split]) else final for split, final in finals.items()}


def is_there(path: Path) -> bool:
    """Look for a file; `exists` takes what a failing disk says for an answer, from Python 3.14 on for no.

    Raises:
        OutputError: it cannot be seen whether it is there.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise OutputError(
            f"cannot look for {path}: {error.strerror}; {advice(error)} and run the same command again"
        ) from error
    return True


def is_sound(files: Mapping[str, Path], start: Mapping[str, int], segment: Segment) -> bool:
    """Whether `files` hold a segment that begins at `start`, to the bit, on the disk.

    Raises:
        OutputError: a file is there but cannot be read.
    """
    return all(
        _crc_of(path, start.get(split, 0), segment.tokens[split]) == segment.crcs[split]
        for split, path in files.items()
    )


def _crc_of(path: Path, start_tokens: int, end_tokens: int) -> int | None:
    """Compute the CRC-32 of tokens `[start, end)`; None if the file does not reach so far."""
    offset, end = start_tokens * TOKEN.itemsize, end_tokens * TOKEN.itemsize
    crc = 0
    try:
        with path.open("rb", buffering=0) as file:
            # What a failed write left in the page cache is not what is on the disk.
            size_bytes = os.fstat(file.fileno()).st_size
            drop_cache(file.fileno(), 0, size_bytes)
            if size_bytes < end:  # most segments have nothing of val in them, but val must have come so far
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


def check_vacant(finals: Mapping[str, Path]) -> None:
    """Refuse to publish where another file has got the name.

    Raises:
        OutputError: it has.
    """
    for final in finals.values():
        if is_there(partial_file(final)) and is_there(final):
            raise OutputError(
                f"{final} is there and not of this run; give --overwrite to replace it, or move it away and "
                "run the same command again"
            )


def publish(finals: Mapping[str, Path], *, may_replace: bool) -> None:
    """Give finished files their final names, val first; those that have them already are left alone.

    Raises:
        OutputError: a rename is refused, or another file has got the name meanwhile.
    """
    for split, final in finals.items():
        partial = partial_file(final)
        if not is_there(partial):
            continue  # an earlier run came so far
        if not may_replace:
            check_vacant({split: final})
        try:
            replace_durably(partial, final)
        except OSError as error:
            raise OutputError(
                f"cannot rename {partial} to {final}: {error.strerror}; mend that and run the same "
                "command again"
            ) from error


def remove_work_files(folder: Path) -> None:
    """Empty `.prepare/` of everything but the lock, which must be held; the journal goes last.

    While it is there, a killed run's other files are known to be of no use any more.
    """
    work = folder / WORK_FOLDER
    for path in sorted(work.glob("*"), key=lambda path: path.name == "journal"):
        if path.suffix and path.is_dir():  # `lock.` and a word: somebody was killed while taking the lock
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file():
            with contextlib.suppress(OSError):  # what stays is hidden and harmless
                path.unlink()


def remove_work_folder(folder: Path) -> None:
    """Remove `.prepare/` if no run has anything in it."""
    work = folder / WORK_FOLDER
    with contextlib.suppress(OSError):
        if all(path.name == ".gitignore" for path in work.iterdir()):
            (work / ".gitignore").unlink(missing_ok=True)
            work.rmdir()
