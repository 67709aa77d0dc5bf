"""The lock: one run at a time in a working folder.

The lock is a folder with one file, the mark, which names the run that holds the lock. It is created under
another name and renamed into place, which succeeds for one run only. Each mark has a unique name, so removing
the mark of a dead run cannot remove the mark of the next run.

A run holds its mark with flock, which the kernel releases whenever the run ends. Where flock does not work
(Lustre without -o flock, Windows), the mark's host, boot id and process show whether the run has ended; from
another host, or without /proc, they cannot.
"""

import contextlib
import errno
import json
import os
import platform
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nanogpt_compat.errors import OutputError
from nanogpt_compat.system.commands import join, show
from nanogpt_compat.system.filesystem import advice

_NO_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
_N_TRIES = 100  # a try fails only if another run takes or releases the lock at the same time


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that holds a lock, as its mark describes it."""

    host: str
    pid: int
    boot_id: str  # "" if unknown
    pid_namespace: str  # containers may share the host's name, but have process ids of their own
    started: int  # clock ticks after boot, to detect a reused pid; 0 if unknown
    flock: bool = False  # whether it holds its mark with flock


def this_process() -> Owner:
    """Return the description of this process."""
    boot_id, namespace, started = "", "", 0
    with contextlib.suppress(OSError):  # only Linux has these files
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
        started = start_ticks(os.getpid())
    return Owner(platform.node(), os.getpid(), boot_id, namespace, started)


def start_ticks(pid: int) -> int:
    """Return when a process started (Linux: ticks after boot); -1 if it has ended, 0 if unknown."""
    try:
        os.kill(pid, 0)  # would end the process on Windows
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return -1 if isinstance(error, ProcessLookupError) else 0  # PermissionError: alive, of another user
    fields = stat.rpartition(")")[2].split()  # from field 3 on, see proc_pid_stat(5)
    return -1 if fields[0] in "ZX" else int(fields[19])


def has_ended(owner: Owner, here: Owner) -> bool:
    """Return whether `owner` has certainly ended, as far as the process `here` can find out."""
    if owner.host != here.host or not (owner.boot_id and here.boot_id):
        return False
    if owner.boot_id != here.boot_id:
        return True
    return owner.pid_namespace == here.pid_namespace and start_ticks(owner.pid) not in (0, owner.started)


def _flock(fd: int, kind: str) -> bool | None:
    """Try LOCK_EX or LOCK_SH; return False if another process has the lock, None if flock does not work."""
    try:
        import fcntl  # Windows has none

        fcntl.flock(fd, getattr(fcntl, kind) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_FLOCK:
            raise
        return None
    return True


def _check_ended(mark: Path) -> None:
    """Raise OutputError if the run of a mark may still be running."""
    owner = None
    with mark.open("rb") as file, contextlib.suppress(ValueError, TypeError):  # damaged: owner unknown
        owner = Owner(**json.load(file))
        is_free = _flock(file.fileno(), "LOCK_SH") if owner.flock else None  # shared: two may check at once
        if is_free or (is_free is None and has_ended(owner, this_process())):
            return
    who = f"process {owner.pid} on {owner.host}" if owner else "an unknown process"
    raise OutputError(
        f"{mark.parent.parent} is in use by another run, {who}: wait for it, or stop it. If that process has "
        f"certainly ended, remove its lock and run the same command again:{show(join('rm', mark))}"
    )


def check_free(path: Path) -> None:
    """Raise OutputError if a `FolderLock` of this path cannot be entered now."""
    try:
        with contextlib.suppress(FileNotFoundError):  # no lock, or just released
            for mark in path.iterdir():
                _check_ended(mark)
    except OSError as error:
        raise _cannot_lock(path, error) from error


def _move_in(temp: Path, lock: Path) -> None:
    """Remove the marks of runs that have ended, and rename `temp` to `lock`."""
    for _ in range(_N_TRIES):
        with contextlib.suppress(FileNotFoundError):  # no lock, or just released
            for mark in lock.iterdir():
                _check_ended(mark)
                mark.unlink()
        with contextlib.suppress(OSError):  # Windows cannot rename over an empty folder
            lock.rmdir()
        with contextlib.suppress(OSError):  # the errno for a non-empty folder depends on the system
            temp.rename(lock)
            return
    temp.rename(lock)


def _cannot_lock(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path}: cannot lock the folder: {error}; {advice(error)} and run the same command again"
    )


class FolderLock:
    """A context manager that locks a folder; `path` is the path of the lock inside that folder.

    Entering raises OutputError if another run has, or may have, the lock. A forked child does not have it.
    After leaving, remove the folder only with rmdir: the next run may already use it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mark: Path | None = None
        self._fd: int | None = None
        if hasattr(os, "register_at_fork"):  # else a child keeps the flock if its parent is killed
            os.register_at_fork(after_in_child=self._let_go)

    def __enter__(self) -> "FolderLock":
        temp = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}")
        self._mark = temp / temp.name
        try:
            temp.mkdir()
            with self._mark.open("x", encoding="ascii") as file:
                is_held = _flock(file.fileno(), "LOCK_EX") is True
                json.dump(asdict(replace(this_process(), flock=is_held)), file)
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave an empty mark
                fd = os.dup(file.fileno()) if is_held else None
            self._fd = fd  # the file is closed: Windows cannot rename a folder with an open one
            _move_in(temp, self.path)
            self._mark = self.path / temp.name
        except OSError as error:
            raise _cannot_lock(self.path, error) from error
        finally:
            if self._mark.parent == temp:
                self.__exit__()
        return self

    def _let_go(self) -> Path | None:
        """Close the mark and return its path. No LOCK_UN: in a child, it would release the parent's lock."""
        fd, mark, self._fd, self._mark = self._fd, self._mark, None, None
        if fd is not None:
            os.close(fd)
        return mark

    def __exit__(self, *_: object) -> None:
        mark = self._let_go()  # before unlinking: NFS only renames an open file
        if mark is not None:
            with contextlib.suppress(OSError):  # a leftover mark names a run that has ended
                mark.unlink(missing_ok=True)
                mark.parent.rmdir()
