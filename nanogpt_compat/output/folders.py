"""The folder of a run's unfinished files, `.prepare/`."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from nanogpt_compat.errors import OutputError
from nanogpt_compat.output.layout import WORK_FOLDER
from nanogpt_compat.system.filesystem import advice, sync_folder


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


def check_is_folder(option: str, folder: Path) -> None:
    """Raise OutputError if `folder`, the value of an option, is no folder and cannot become one."""
    nearest = next(one for one in (folder, *folder.absolute().parents) if os.path.lexists(one))
    if not nearest.is_dir():
        where = "" if nearest == folder else f": {nearest}"
        raise OutputError(f"{option} {folder}{where} is not a folder; give another {option}")


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
