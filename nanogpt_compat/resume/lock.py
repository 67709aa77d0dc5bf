"""The lock: one run at a time in a working folder.

It is a folder with one file in it, the mark, which names the run that holds it; made under another name and
renamed into place, which succeeds for one run only. Each mark has its own name: whoever removes that of a run
that has ended cannot remove that of the next. A run holds its mark with flock, which the kernel undoes when
the run ends, however it ends. Where flock does not work (Lustre without -o flock, Windows), host, boot and
process must tell; from another host, and without /proc, they cannot.
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
_N_TRIES = 100  # each one that fails means that another run came or went meanwhile


@dataclass(frozen=True, slots=True)
class Owner:
    """The run that a mark names."""

    host: str
    pid: int
    boot_id: str  # "" if unknown
    pid_namespace: str  # containers may share the host's name, and count their processes from 1
    started: int  # clock ticks after boot: tells it from a later process with its id; 0 if unknown
    flock: bool = False  # whether it holds its mark with flock


def this_process() -> Owner:
    """Describe the process that asks."""
    boot_id, namespace, started = "", "", 0
    with contextlib.suppress(OSError):  # only Linux has these
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
        started = start_ticks(os.getpid())
    return Owner(platform.node(), os.getpid(), boot_id, namespace, started)


def start_ticks(pid: int) -> int:
    """Give the start of a process in clock ticks after boot; -1 if it has ended, 0 if unknown. Linux only."""
    try:
        os.kill(pid, 0)  # on Windows this would end it
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return -1 if isinstance(error, ProcessLookupError) else 0  # PermissionError: someone else's, alive
    fields = stat.rpartition(")")[2].split()  # from the third on: proc_pid_stat(5)
    return -1 if fields[0] in "ZX" else int(fields[19])


def has_ended(owner: Owner, here: Owner) -> bool:
    """Say whether `owner` has certainly ended, by all that the process `here` can see."""
    if owner.host != here.host or not (owner.boot_id and here.boot_id):
        return False
    if owner.boot_id != here.boot_id:
        return True
    return owner.pid_namespace == here.pid_namespace and start_ticks(owner.pid) not in (0, owner.started)


def _flock(fd: int, kind: str) -> bool | None:
    """Try LOCK_EX or LOCK_SH; False if another process has it, None if flock does not work here."""
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
    """Raise OutputError if the run of a mark may still be at work."""
    owner = None
    with mark.open("rb") as file, contextlib.suppress(ValueError, TypeError):  # damaged: nobody can tell
        owner = Owner(**json.load(file))
        is_free = _flock(file.fileno(), "LOCK_SH") if owner.flock else None  # shared: two may look at once
        if is_free or (is_free is None and has_ended(owner, this_process())):
            return
    who = f"process {owner.pid} on {owner.host}" if owner else "an unknown process"
    raise OutputError(
        f"{mark.parent.parent} is in use by another run, {who}: wait for it, or stop it. If that process is "
        f"certainly gone, remove its lock and run the same command again:{show(join('rm', mark))}"
    )


def check_free(path: Path) -> None:
    """Make sure that a `FolderLock` of this path could be entered now.

    Raises:
        OutputError: another run has it, or may have it.
    """
    try:
        with contextlib.suppress(FileNotFoundError):  # nobody holds it, or who did has just left
            for mark in path.iterdir():
                _check_ended(mark)
    except OSError as error:
        raise _cannot_lock(path, error) from error


def _make_mark(mark: Path) -> int | None:
    """Write the mark of this process; return the open file that holds it with flock, if that works."""
    with mark.open("x", encoding="ascii") as file:
        is_held = _flock(file.fileno(), "LOCK_EX") is True
        json.dump(asdict(replace(this_process(), flock=is_held)), file)
        file.flush()
        os.fsync(file.fileno())  # a power cut must not leave a mark that names nobody
        return os.dup(file.fileno()) if is_held else None  # Windows renames no folder with an open file in it


def _move_in(temp: Path, lock: Path) -> None:
    """Clear away what has ended, and rename `temp` to `lock` if that is not there, or empty."""
    for _ in range(_N_TRIES):
        with contextlib.suppress(FileNotFoundError):  # nobody holds it, or who did has just left
            for mark in lock.iterdir():
                _check_ended(mark)
                mark.unlink()
        with contextlib.suppress(OSError):  # Windows renames nothing over an empty folder
            lock.rmdir()
        with contextlib.suppress(OSError):  # each system has its own errno for a folder that is not empty
            temp.rename(lock)
            return
    temp.rename(lock)


def _cannot_lock(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path}: cannot lock the folder: {error}; {advice(error)} and run the same command again"
    )


class FolderLock:
    """The right to work in a folder, from entering to leaving; `path` is the lock's name inside that folder.

    Entering raises OutputError if another run has it or may have it. A child made by fork does not have it.
    Remove the folder after leaving and with rmdir: the next run may be in it already.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mark: Path | None = None
        self._fd: int | None = None
        if hasattr(os, "register_at_fork"):  # the child would keep the flock of a parent that is killed
            os.register_at_fork(after_in_child=self._let_go)

    def __enter__(self) -> "FolderLock":
        temp = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}")
        self._mark = temp / temp.name
        try:
            temp.mkdir()
            self._fd = _make_mark(self._mark)
            _move_in(temp, self.path)
            self._mark = self.path / temp.name
        except OSError as error:
            raise _cannot_lock(self.path, error) from error
        finally:
            if self._mark.parent == temp:
                self.__exit__()
        return self

    def _let_go(self) -> Path | None:
        """Close the mark, no more: LOCK_UN in a child would undo the lock of its parent."""
        fd, mark, self._fd, self._mark = self._fd, self._mark, None, None
        if fd is not None:
            os.close(fd)
        return mark

    def __exit__(self, *_: object) -> None:
        mark = self._let_go()  # before removing it: NFS keeps an open file under another name
        if mark is not None:
            with contextlib.suppress(OSError):  # what stays, names a run that has ended
                mark.unlink(missing_ok=True)
                mark.parent.rmdir()
