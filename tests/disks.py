"""Small file systems for tests, which run full, lose power or turn read-only."""

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

MIB = 1 << 20
MIN_BYTES = {"tmpfs": MIB, "ext4": 2 * MIB, "xfs": 300 * MIB, "btrfs": 128 * MIB}

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, and XFS's
_NO_LOG_FLUSH = struct.pack("I", 2)
_FILLER = "filler"


def tool(name: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def require_root(what: str) -> None:
    if os.geteuid() != 0:
        pytest.skip(f"{what} takes root")


@dataclass(frozen=True)
class Disk:
    """A small file system, mounted at `folder`."""

    folder: Path
    image: Path

    @property
    def free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free

    def fill(self) -> None:
        """Take all space there is, to the last block."""
        with (self.folder / _FILLER).open("wb", buffering=0) as file:
            for step_bytes in (MIB, 4096, 512):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"x" * step_bytes)
            with contextlib.suppress(OSError):  # btrfs finds out only here
                os.fsync(file.fileno())

    def make_room(self) -> None:
        (self.folder / _FILLER).unlink()
        self.sync()  # btrfs gives space back when it commits

    def sync(self) -> None:
        """Make everything on it durable."""
        subprocess.run(["sync", "-f", self.folder], check=True)

    def cut_power(self) -> None:
        """Lose everything that is not durable."""
        fd = os.open(self.folder, os.O_RDONLY)
        fcntl.ioctl(fd, _SHUTDOWN, _NO_LOG_FLUSH)
        os.close(fd)

    def mount(self, *options: str) -> None:
        subprocess.run(["mount", "-o", ",".join(["loop", *options]), self.image, self.folder], check=True)

    def remount_after_cut(self) -> None:
        """Mount it again after a shutdown; the file system then recovers from its log."""
        self.unmount()
        self.mount()

    def unmount(self) -> None:
        unmount(self.folder)
        _wait_until_gone(self.image)


def unmount(folder: Path) -> None:
    subprocess.run(["umount", folder], check=True)


def _wait_until_gone(image: Path) -> None:
    """Wait until no other mount namespace (any `unshare --mount` copies all mounts) holds the image."""
    deadline = time.monotonic() + 60
    while subprocess.check_output([tool("losetup"), "-j", image]):
        assert time.monotonic() < deadline, f"something keeps {image} mounted"
        time.sleep(0.01)


class Disks:
    """Makes file systems below a folder; unmounts them at the end, the last first, whatever happens."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._mounted: list[Path] = []

    def make(self, kind: str, size_bytes: int, *mkfs_options: str, mount_options: str = "") -> Disk:
        """Mount a new file system; skips where that is not possible."""
        require_root(f"mounting {kind}")
        folder = self._parent / f"{kind}{len(self._mounted)}"
        folder.mkdir()
        if kind == "tmpfs":
            self._mount("-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder))
            return Disk(folder, folder)
        # The image is in memory, so that syncs of its files do not wait for this machine's disk.
        disk = Disk(folder, self.make("tmpfs", 2 * size_bytes).folder / f"{kind}.img")
        with disk.image.open("wb") as file:
            file.truncate(size_bytes)
        mkfs = [tool(f"mkfs.{kind}"), "-q", *mkfs_options, str(disk.image)]
        subprocess.run(mkfs, check=True, capture_output=True)
        self._mount("-o", ",".join(filter(None, ["loop", mount_options])), str(disk.image), str(folder))
        return disk

    def bind(self, folder: Path) -> None:
        """Mount `folder` over itself, so that it alone can be made read-only."""
        require_root("a bind mount")
        self._mount("--bind", str(folder), str(folder))

    def _mount(self, *args: str) -> None:
        mount = subprocess.run(["mount", *args], capture_output=True, text=True, check=False)
        if mount.returncode != 0:
            pytest.skip(f"this machine cannot mount: {mount.stderr.strip()}")
        self._mounted.append(Path(args[-1]))

    def unmount_all(self) -> None:
        for folder in reversed(self._mounted):
            done = subprocess.run(["umount", folder], capture_output=True, check=False)
            if done.returncode != 0:  # a test failed and something still runs there
                subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def open_disks(parent: Path) -> Iterator[Disks]:
    disks = Disks(parent)
    try:
        yield disks
    finally:
        disks.unmount_all()
