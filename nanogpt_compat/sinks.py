"""Where the tokens go: nanoGPT's train.bin and val.bin, under these names only when they are complete."""

import contextlib
import shutil
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.errors import OutputError
from nanogpt_compat.files import replace_durably
from nanogpt_compat.memmap import GrowingMemmap

WORK_FOLDER = ".prepare"


def work_folder(folder: Path) -> Path:
    """Make the folder for unfinished files inside `folder`, hidden from git.

    Raises:
        OutputError: it cannot be made.
    """
    work = folder / WORK_FOLDER
    try:
        work.mkdir(parents=True, exist_ok=True)
        (work / ".gitignore").write_text("*\n", encoding="ascii")
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}") from error
    return work


def final_files(output_dir: Path, *, has_val: bool) -> list[Path]:
    """List the files of a run, in the order in which they are published; links are followed."""
    names = ["val.bin", "train.bin"] if has_val else ["train.bin"]
    return [Path(output_dir, name).resolve() for name in names]


class Sink(Protocol):
    """What the pipeline writes to."""

    def append(self, tokens: NDArray[np.uint16], *, is_val: bool) -> None:
        """Append `(n,) uint16` to a split."""
        ...


class BinPair:
    """train.bin and val.bin being written; `publish` gives them their names.

    A name that is a link is followed, and the unfinished file stands beside the file that it names, since
    a rename cannot cross file systems.
    """

    def __init__(self, output_dir: Path, *, has_val: bool) -> None:
        """Begin both files from nothing in `.prepare/`.

        Raises:
            OutputError: they cannot be created.
        """
        self._finals = final_files(output_dir, has_val=has_val)
        self._partials = [work_folder(one.parent) / f"{one.name}.partial" for one in self._finals]
        with contextlib.ExitStack() as stack:
            self._files = [stack.enter_context(GrowingMemmap(one)) for one in self._partials]
            self._stack = stack.pop_all()

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens appended so far, by split."""
        return {"train": self._files[-1].n_tokens, "val": self._files[0].n_tokens if self._has_val else 0}

    @property
    def _has_val(self) -> bool:
        return len(self._files) == 2

    def append(self, tokens: NDArray[np.uint16], *, is_val: bool) -> None:
        """Append `(n,) uint16` to a split.

        Raises:
            OutputError: the disk is full or failing.
        """
        self._files[0 if is_val else -1].append(tokens)

    def publish(self) -> list[Path]:
        """Make both files durable, give them their final names, val first, and remove `.prepare/`.

        Raises:
            OutputError: the disk is full or failing, or a rename is refused.
        """
        for file in self._files:
            file.finish()
        for partial, final in zip(self._partials, self._finals, strict=True):
            try:
                replace_durably(partial, final)
            except OSError as error:
                raise OutputError(
                    f"cannot rename {partial} to {final}: {error.strerror}; it is complete where it stands"
                ) from error
        return self._finals

    def __enter__(self) -> "BinPair":
        """Return the pair itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close what is open; what was not published stays unfinished."""
        self._stack.close()


def remove_work_folders(finals: list[Path], output_dir: Path) -> None:
    """Remove `.prepare/` beside every final file and in the output folder."""
    for folder in {output_dir, *(final.parent for final in finals)}:
        shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)
