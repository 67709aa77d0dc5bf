"""System calls on files that several modules need: durable writes, page cache, kinds of file systems.

Linux has all of them. Where a platform lacks one (posix_fadvise on macOS; pwrite and fsync of a folder
on Windows), the function does what it can. It looks the name up at each call, so that a test can remove it.
Errors are the system's OSError; the caller explains them.
"""

import contextlib
import ctypes
import errno
import json
import os
import re
import struct
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanogpt_compat.system.redaction import redact_record

_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE
_SET_FLAGS, _NO_COPY_ON_WRITE = 0x40086602, 0x00800000  # FS_IOC_SETFLAGS, FS_NOCOW_FL

_MOUNTINFO = Path("/proc/self/mountinfo")

_ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of the quota, or have it raised",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EROFS: "make the file system writable",
    errno.EIO: "look at the disk (dmesg)",
}


def advice(error: OSError) -> str:
    """Return what to do about a failed write before the same command is run again."""
    return _ADVICE.get(error.errno or 0, "fix that")


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable: fsync of a file alone can still lose its name."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder, but journals names itself
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def advise_sequential(fd: int) -> None:
    """Ask for a larger read-ahead. A hint that never fails; it does nothing on a pipe."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)


def drop_cache(fd: int, start_bytes: int, end_bytes: int) -> None:
    """Drop clean, unmapped pages of `[start_bytes, end_bytes)` from the page cache. A hint; never fails."""
    if end_bytes > start_bytes and hasattr(os, "posix_fadvise"):  # a length of 0 means up to the end
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, start_bytes, end_bytes - start_bytes, os.POSIX_FADV_DONTNEED)


def is_cached(fd: int, offset: int) -> bool:
    """Return whether the byte at `offset` is in the page cache; False if the system does not report it."""
    with contextlib.suppress(OSError, AttributeError):  # EAGAIN: it would have to be read from the disk
        return os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    return False


def reserve_behind(fd: int, end_bytes: int) -> None:
    """Allocate a file's blocks up to `end_bytes` but keep its size: they stay available on a full disk.

    A hint that never fails. ext4, XFS, btrfs, tmpfs and more support it. posix_fallocate changes the size.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        fallocate = getattr(libc, "fallocate64", None) or libc.fallocate  # in musl, this one takes 64 bits
        fallocate(fd, _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(end_bytes))


def never_copy_on_write(fd: int) -> None:
    """Let btrfs overwrite the blocks of a file, which must be empty; without it, reserved blocks do not help.

    A hint that never fails. btrfs keeps no checksums of such a file.
    """
    with contextlib.suppress(ImportError, OSError):
        import fcntl  # Windows has none

        fcntl.ioctl(fd, _SET_FLAGS, struct.pack("l", _NO_COPY_ON_WRITE))


def file_system(path: Path) -> str:
    """Return the type of the file system of `path`, as mount(8) names it: `ext4`, `nfs4`, `fuse.sshfs`.

    `path` must exist. Return `unknown` if there is no /proc/self/mountinfo, or no line of it matches.
    """
    try:
        mountinfo = _MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")
        device = path.stat().st_dev
    except OSError:
        return "unknown"
    return mounted_type(mountinfo, path.resolve(), f"{os.major(device)}:{os.minor(device)}")


def mounted_type(mountinfo: str, real_path: Path, device: str) -> str:
    """Return the type of the mount that holds `real_path`, a file of `device` ("major:minor").

    Among the mounts above the path, prefer those of the same device (a later mount further up may hide one),
    then the longest path, then the last line. The device of a btrfs subvolume is in no line; then all mounts
    above the path count. Format: proc_pid_mountinfo(5).

    >>> mounted_type("27 1 254:0 / / rw - ext4 /dev/vda rw", Path("/home/a.bin"), "254:0")
    'ext4'
    """
    above: list[tuple[str, Path, str]] = []
    for line in mountinfo.splitlines():
        left, dash, right = line.partition(" - ")  # the number of fields before the dash varies
        if dash:
            fields = left.split(" ")
            mount_point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4]))
            if real_path.is_relative_to(mount_point):
                above.append((fields[2], mount_point, right.split(" ")[0]))
    matching = [mount for mount in above if mount[0] == device] or above
    deepest = max(reversed(matching), key=lambda mount: len(mount[1].parts), default=("", Path(), "unknown"))
    return deepest[2]


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data` (a memoryview must be of bytes), in several calls if one writes only a part."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def pwrite_all(fd: int, data: bytes | memoryview, offset_bytes: int) -> None:
    """Write all of `data` (a memoryview must be of bytes) at `offset_bytes`; Windows moves the position."""
    if not hasattr(os, "pwrite"):
        os.lseek(fd, offset_bytes, os.SEEK_SET)
        write_all(fd, data)
        return
    rest = memoryview(data)
    while rest:
        n_written = os.pwrite(fd, rest, offset_bytes)
        rest, offset_bytes = rest[n_written:], offset_bytes + n_written


def replace_durably(temp: Path, final: Path) -> None:
    """Rename `temp`, fsynced and closed, to `final` in the same folder, and make the name durable."""
    temp.replace(final)
    sync_folder(final.parent)


def write_json(path: Path, record: Mapping[str, Any], *, indent: int | None, is_locked: bool = False) -> None:
    """Write a record as ASCII JSON with `write_atomically`, without the secrets that this process knows."""
    text = json.dumps(redact_record(record), indent=indent)
    write_atomically(path, (text + "\n").encode("ascii"), is_locked=is_locked)


def write_atomically(path: Path, data: bytes, *, is_locked: bool = False) -> None:
    """Write `data` so that `path` holds either the old or the new content, even after a power loss.

    The temporary name is random, since two tasks on two machines may write the same file. With `is_locked`
    (the caller holds a lock) it is always the same, so that a temporary file of a killed run is overwritten.
    Takes 0.32 ms (ext4, 2-core VM).
    """
    temp = path.with_name(f"{path.name}.tmp" if is_locked else f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        if is_locked:
            temp.unlink(missing_ok=True)
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        replace_durably(temp, path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
