"""Calls to the operating system: against the real one, and without the names that other platforms lack."""

import errno
import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from nanogpt_compat.input.open import LocalFile
from nanogpt_compat.system import filesystem

# A desktop with a btrfs subvolume, a USB stick with a space in its name, NFS, and mounts hidden under others.
MOUNTINFO = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw
28 27 0:25 / /dev/shm rw - tmpfs tmpfs rw
29 27 0:40 /@home /home rw - btrfs /dev/vdb rw,subvol=/@home
30 29 8:1 / /media/USB\040stick rw - vfat /dev/sda1 rw
31 27 0:50 / /mnt/nas rw - nfs4 nas:/data rw
32 27 8:17 / /srv/data/deep rw - xfs /dev/sdb1 rw
33 27 8:33 / /srv rw - ext4 /dev/sdc1 rw
34 27 0:60 / /mnt/remote rw - fuse.sshfs host:/ rw
35 27 254:0 /var/cache /mnt/same rw - ext4 /dev/vda rw
36 27 8:49 / /mnt/twice rw - ext4 /dev/sdd1 rw
37 36 0:70 / /mnt/twice rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "device", "expected"),
    [
        ("/root/train.bin", "254:0", "ext4"),
        ("/dev/shm/train.bin", "0:25", "tmpfs"),
        ("/homework/train.bin", "254:0", "ext4"),
        ("/home/me/train.bin", "0:41", "btrfs"),  # a subvolume has a device of its own
        ("/media/USB stick/train.bin", "8:1", "vfat"),
        ("/mnt/nas/train.bin", "0:50", "nfs4"),
        ("/mnt/nas", "0:50", "nfs4"),
        ("/mnt/remote/a/b", "0:60", "fuse.sshfs"),
        ("/srv/data/deep/train.bin", "8:33", "ext4"),  # /srv was mounted over /srv/data/deep
        ("/mnt/same/train.bin", "254:0", "ext4"),
        ("/mnt/twice/train.bin", "0:70", "tmpfs"),
        ("/mnt/twice/train.bin", "0:71", "tmpfs"),  # by path alone the last mount is the visible one
    ],
)
def test_the_type_of_a_mount_is_found_by_device_then_path_then_order(
    path: str, device: str, expected: str
) -> None:
    assert filesystem.mounted_type(MOUNTINFO, Path(path), device) == expected


@pytest.mark.parametrize("mountinfo", ["", "\n", "garbage\n", "32 27 8:17 / /srv rw - xfs /dev/sdb1 rw\n"])
def test_a_path_that_no_mount_holds_is_unknown(mountinfo: str) -> None:
    assert filesystem.mounted_type(mountinfo, Path("/mnt/x"), "8:17") == "unknown"


def test_the_file_system_of_a_real_folder_is_that_of_findmnt(tmp_path: Path) -> None:
    for folder in (tmp_path, Path("/dev/shm"), Path("/proc/self")):
        command = ["findmnt", "-n", "-o", "FSTYPE", "-T", str(folder)]
        assert filesystem.file_system(folder) == subprocess.check_output(command, text=True).split()[-1]


def test_a_link_is_followed_to_the_file_system_of_its_target(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/shm")
    assert filesystem.file_system(tmp_path / "link") == "tmpfs"


def test_the_file_system_is_unknown_without_proc_or_without_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert filesystem.file_system(tmp_path / "missing") == "unknown"
    monkeypatch.setattr(filesystem, "_MOUNTINFO", tmp_path / "no such file")
    assert filesystem.file_system(tmp_path) == "unknown"


def test_write_all_continues_when_a_pipe_takes_only_a_part() -> None:
    reader, writer = os.pipe()
    data = os.urandom(1 << 20)  # a pipe takes 64 KiB
    received = bytearray()

    def read_to_the_end() -> None:
        while part := os.read(reader, 8191):
            received.extend(part)

    thread = threading.Thread(target=read_to_the_end)
    thread.start()
    filesystem.write_all(writer, data)
    os.close(writer)
    thread.join()
    os.close(reader)
    assert received == data


@pytest.mark.parametrize("has_pwrite", [True, False])
def test_pwrite_all_continues_after_short_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_pwrite: bool
) -> None:
    real_pwrite, real_write = os.pwrite, os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real_write(fd, data[:7]))
    if has_pwrite:
        monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real_pwrite(fd, data[:7], offset))
    else:
        monkeypatch.delattr(os, "pwrite")
    path = tmp_path / "file"
    path.write_bytes(b"." * 60)
    with path.open("r+b", buffering=0) as file:
        filesystem.pwrite_all(file.fileno(), bytes(range(40)), 10)
        filesystem.pwrite_all(file.fileno(), b"", 0)
    assert path.read_bytes() == b"." * 10 + bytes(range(40)) + b"." * 10


def test_write_all_to_a_full_device_is_an_oserror() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match="No space left"):
        filesystem.write_all(fd, b"x")
    os.close(fd)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The synced files in order: `folder`, or the name and size of the file."""
    calls: list[str] = []
    real_fsync = os.fsync

    def fsync(fd: int) -> None:
        status = os.fstat(fd)
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        calls.append("folder" if stat.S_ISDIR(status.st_mode) else f"{name} {status.st_size}")
        real_fsync(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    return calls


def test_the_content_is_durable_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real_replace = Path.replace

    def replace(self: Path, target: Path) -> Path:
        synced.append(f"{self.name} becomes {target.name}")
        return real_replace(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    filesystem.write_atomically(tmp_path / "a.json", b"12345")
    temp = synced[0].split()[0]
    assert temp.startswith("a.json.")
    assert synced == [f"{temp} 5", f"{temp} becomes a.json", "folder"]


def test_write_atomically_replaces_the_old_content_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for data in (b"old and long", b"new", b""):
        filesystem.write_atomically(path, data)
        assert path.read_bytes() == data
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_the_holder_of_a_lock_writes_over_files_of_a_killed_run(tmp_path: Path) -> None:
    (tmp_path / "a.json.tmp").write_bytes(b"half of")
    filesystem.write_atomically(tmp_path / "a.json", b"new", is_locked=True)
    assert (tmp_path / "a.json").read_bytes() == b"new"
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_the_mode_of_a_file_written_atomically_is_that_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "ordinary").write_bytes(b"")
    filesystem.write_atomically(tmp_path / "a.json", b"")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_a_failed_sync_leaves_the_old_content_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        filesystem.write_atomically(path, b"new")
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]
    assert path.read_bytes() == b"old"


def test_writers_of_the_same_name_do_not_disturb_one_another(tmp_path: Path) -> None:
    path = tmp_path / "part.json"
    contents = [bytes([65 + k]) * 4096 for k in range(8)]
    threads = [
        threading.Thread(target=filesystem.write_atomically, args=(path, data)) for data in contents * 5
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert [one.name for one in tmp_path.iterdir()] == ["part.json"]


def test_replace_durably_follows_the_rename_with_a_sync_of_the_folder(
    tmp_path: Path, synced: list[str]
) -> None:
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "final").write_bytes(b"old")
    filesystem.replace_durably(tmp_path / "new", tmp_path / "final")
    assert (tmp_path / "final").read_bytes() == b"new"
    assert synced == ["folder"]


def cached_bytes(path: Path) -> int:
    return int(subprocess.check_output(["fincore", "-b", "-n", "-o", "RES", str(path)], text=True))


def test_drop_cache_drops_its_range_and_nothing_after_it(tmp_path: Path) -> None:
    if filesystem.file_system(tmp_path) == "tmpfs":
        pytest.skip("tmp_path is a tmpfs, whose page cache is the file")
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.write(bytes(8 << 20))
        file.flush()
        os.fsync(file.fileno())
        whole = cached_bytes(path)
        filesystem.drop_cache(file.fileno(), 0, 0)  # to fadvise a length of 0 is the rest of the file
        filesystem.drop_cache(file.fileno(), 5, 4)
        assert cached_bytes(path) == whole == 8 << 20
        filesystem.drop_cache(file.fileno(), 0, 4 << 20)
        assert cached_bytes(path) == 4 << 20


def test_a_file_that_is_read_leaves_little_in_the_page_cache_at_any_time(tmp_path: Path) -> None:
    if filesystem.file_system(tmp_path) == "tmpfs":
        pytest.skip("tmp_path is a tmpfs, whose page cache is the file")
    path = tmp_path / "file"
    path.touch()
    os.truncate(path, 512 << 20)
    with LocalFile(path) as file:
        for offset in range(
            0, file.size_bytes, 1_000_003
        ):  # ends of reads are in the midst of pages, as cuts are
            file.read(1_000_003, offset)
            file.drop_before(offset)
        assert cached_bytes(path) < 64 << 20
    assert cached_bytes(path) == 0


def test_hints_never_fail_on_a_pipe_or_where_the_platform_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    for _ in range(2):
        filesystem.advise_sequential(reader)
        filesystem.drop_cache(reader, 0, 4096)
        monkeypatch.delattr(os, "posix_fadvise", raising=False)
    os.close(reader)
    os.close(writer)


def test_a_folder_that_cannot_be_opened_is_not_synced_where_names_need_no_sync(
    tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_DIRECTORY")
    filesystem.write_atomically(tmp_path / "a.json", b"1")
    assert len(synced) == 1
    assert (tmp_path / "a.json").read_bytes() == b"1"
