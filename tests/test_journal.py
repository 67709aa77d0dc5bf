"""The journal: damaged in every way, on full and failing disks, and after a power cut."""

import contextlib
import json
import os
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanogpt_compat.errors import InputError, OutputError
from nanogpt_compat.resume import journal
from nanogpt_compat.resume.journal import Entry, Journal, format_line, parse_line, read_journal
from tests.disks import MIB, Disk, Disks, tool, unmount

pytestmark = pytest.mark.costly

REPOSITORY = Path(__file__).parent.parent
Record = dict[str, Any]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
records = st.dictionaries(st.text(), values, max_size=4)
# The file in tmp_path is written again for each example.
on_disk = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def line_of(payload: bytes) -> bytes:
    """Format a line, independently of the code under test."""
    return format(zlib.crc32(payload), "08x").encode() + b" " + payload + b"\n"


def checkpoint(n: int) -> Record:
    return {"position": n * 64 * MIB, "tokens": {"train": n * 15_000_000, "val": n * 75}, "crc": "89abcdef"}


def write_journal(path: Path, n_records: int) -> None:
    path.write_bytes(b"".join(format_line(checkpoint(n)) for n in range(n_records)))


def read_records(path: Path) -> list[Record]:
    """Read the records, and check that each one's end is the end of its line."""
    entries = list(read_journal(path))
    lines = path.read_bytes().splitlines(keepends=True)
    end_byte = 0
    for entry, line in zip(entries, lines, strict=False):
        end_byte += len(line)
        assert entry.end_byte == end_byte
    return [dict(entry.record) for entry in entries]


# Lines.


def test_a_line_is_the_checksum_a_space_compact_json_and_a_newline() -> None:
    assert format_line({"a": 1, "b": [2, "é\n"]}) == line_of(b'{"a":1,"b":[2,"\\u00e9\\n"]}')


@given(records)
def test_every_record_comes_back_from_its_line(record: Record) -> None:
    line = format_line(record)
    assert line.count(b"\n") == 1
    assert parse_line(line) == record


def test_a_path_that_is_not_utf8_comes_back_as_it_was() -> None:
    path = os.fsdecode(b"/data/\xff\xfe.txt")
    assert parse_line(format_line({"path": path})) == {"path": path}


def test_a_line_with_any_one_bit_flipped_is_invalid() -> None:
    line = format_line(checkpoint(41) | {"checksum has a letter": True})
    assert any(byte in b"abcdef" for byte in line[:8])  # a letter's case is one bit
    for bit in range(8 * len(line)):
        flipped = bytearray(line)
        flipped[bit // 8] ^= 1 << bit % 8
        assert parse_line(bytes(flipped)) is None


@pytest.mark.parametrize(
    "payload",
    [b"", b"1", b"null", b"[1]", b'"{}"', b"{", b"{} {}", b'{"a":1', b"\xff", b"\0" * 20, b"[" * 200_000],
)
def test_a_right_checksum_over_anything_but_an_object_is_invalid(payload: bytes) -> None:
    assert parse_line(line_of(payload)) is None


# Reading a damaged file.


@on_disk
@given(written=st.lists(records, max_size=6), data=st.data())
def test_a_file_cut_anywhere_gives_the_whole_records(
    tmp_path: Path, written: list[Record], data: st.DataObject
) -> None:
    lines = [format_line(record) for record in written]
    content = b"".join(lines)
    n_bytes = data.draw(st.integers(0, len(content)))
    (tmp_path / "journal").write_bytes(content[:n_bytes])
    n_whole = sum(len(b"".join(lines[: i + 1])) <= n_bytes for i in range(len(lines)))
    assert read_records(tmp_path / "journal") == written[:n_whole]


@on_disk
@given(written=st.lists(records, min_size=1, max_size=6), data=st.data())
def test_a_flipped_bit_ends_the_journal_before_its_line(
    tmp_path: Path, written: list[Record], data: st.DataObject
) -> None:
    lines = [format_line(record) for record in written]
    content = bytearray(b"".join(lines))
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    (tmp_path / "journal").write_bytes(content)
    n_before = sum(len(b"".join(lines[: i + 1])) <= bit // 8 for i in range(len(lines)))
    assert read_records(tmp_path / "journal") == written[:n_before]


GARBAGE = [
    b"\0" * 5000,
    b"\n",
    b"\0\n" + format_line({"after": "zeros"}),
    b"not a line\n" + format_line({"after": "an invalid line"}),
    format_line({"without": "its newline"})[:-1],
    format_line({"with": "another end"})[:-1] + b"\r\n",
    format_line({"upper": "case"})[:8].upper() + b"!" + format_line({"upper": "case"})[9:],
    line_of(b"[]"),
]


@on_disk
@given(written=st.lists(records, max_size=6), garbage=st.binary(max_size=300) | st.sampled_from(GARBAGE))
def test_garbage_after_the_records_is_not_read(tmp_path: Path, written: list[Record], garbage: bytes) -> None:
    (tmp_path / "journal").write_bytes(b"".join(map(format_line, written)) + garbage)
    assert read_records(tmp_path / "journal") == written


def test_a_missing_and_an_empty_journal_hold_no_records(tmp_path: Path) -> None:
    assert list(read_journal(tmp_path / "missing")) == []
    (tmp_path / "empty").touch()
    assert read_records(tmp_path / "empty") == []


def test_a_journal_that_cannot_be_read_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    with pytest.raises(OutputError, match=r"cannot read the journal: Is a directory; .*run the same"):
        list(read_journal(tmp_path / "journal"))


# Memory for reading.


@contextlib.contextmanager
def peak_memory_below(limit_bytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit_bytes
    finally:
        tracemalloc.stop()


def test_the_journal_of_a_terabyte_is_read_in_a_megabyte(tmp_path: Path) -> None:
    write_journal(tmp_path / "journal", 40_000)
    with peak_memory_below(MIB):
        assert sum(1 for _ in read_journal(tmp_path / "journal")) == 40_000


def test_garbage_of_any_size_is_read_in_bounded_memory(tmp_path: Path) -> None:
    write_journal(tmp_path / "journal", 2)
    os.truncate(tmp_path / "journal", 1 << 40)  # zeros, a terabyte of them
    with peak_memory_below(4 * journal.MAX_LINE_BYTES):
        assert len(list(read_journal(tmp_path / "journal"))) == 2


# Appending.


@on_disk
@given(
    written=st.lists(records, max_size=4),
    garbage=st.binary(max_size=50),
    later=st.lists(records, max_size=4),
    data=st.data(),
)
def test_a_journal_opened_again_continues_after_the_given_record(
    tmp_path: Path, written: list[Record], garbage: bytes, later: list[Record], data: st.DataObject
) -> None:
    path = tmp_path / "journal"
    path.unlink(missing_ok=True)
    with Journal(path, valid_bytes=0) as opened:
        for record in written:
            opened.append(record)
    with path.open("ab") as file:
        file.write(garbage)
    ends = [0, *(entry.end_byte for entry in read_journal(path))]
    n_kept = data.draw(st.integers(0, len(written)))
    with Journal(path, valid_bytes=ends[n_kept]) as opened:
        for record in later:
            opened.append(record)
        assert opened.end_byte == path.stat().st_size
    assert path.read_bytes() == b"".join(map(format_line, written[:n_kept] + later))
    assert read_records(path) == written[:n_kept] + later


def test_a_record_can_be_read_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal", valid_bytes=0) as opened:
        for n in range(5):
            opened.append(checkpoint(n))
            assert list(read_journal(tmp_path / "journal"))[-1] == Entry(checkpoint(n), opened.end_byte)


def test_a_journal_that_became_shorter_is_refused_and_left_alone(tmp_path: Path) -> None:
    write_journal(tmp_path / "journal", 3)
    before = (tmp_path / "journal").read_bytes()
    open_fds = os.listdir("/proc/self/fd")  # noqa: PTH208 - the names are compared, not used
    with (
        pytest.raises(OutputError, match=f"shorter than the {len(before) + 1} bytes"),
        Journal(tmp_path / "journal", valid_bytes=len(before) + 1),
    ):
        pass
    assert (tmp_path / "journal").read_bytes() == before
    assert os.listdir("/proc/self/fd") == open_fds  # noqa: PTH208


def test_a_journal_that_cannot_be_opened_is_an_error_with_path_and_reason(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"gone/journal: cannot open the journal: No such file"),
        Journal(tmp_path / "gone" / "journal", valid_bytes=0),
    ):
        pass


def test_a_record_too_long_for_any_reader_is_refused_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest: Record = {"x": "y" * 80}
    monkeypatch.setattr(journal, "MAX_LINE_BYTES", len(format_line(longest)))
    with Journal(tmp_path / "journal", valid_bytes=0) as opened:
        opened.append(longest)
        with pytest.raises(OutputError, match="only 0 of 99 bytes"):
            opened.append({"x": "y" * 81})
    assert read_records(tmp_path / "journal") == [longest]


def test_a_list_of_inputs_that_may_make_the_last_record_too_long_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header: Record = {"inputs": ["a.txt"] * 10}
    monkeypatch.setattr(journal, "MAX_HEADER_BYTES", len(format_line(header)) - 1)
    with Journal(tmp_path / "journal", valid_bytes=0) as opened:
        with pytest.raises(InputError, match=r"too many inputs.*join small files"):
            opened.append(header)
        opened.append({"inputs": ["a.txt"] * 9})
        opened.append(header)  # a later record may be longer
    assert len(read_records(tmp_path / "journal")) == 2


@pytest.mark.parametrize("record", [{"x": float("nan")}, {"x": {1}}])
def test_a_record_that_is_not_json_changes_nothing(tmp_path: Path, record: Record) -> None:
    with Journal(tmp_path / "journal", valid_bytes=0) as opened:
        opened.append({"n": 1})
        with pytest.raises((ValueError, TypeError)):
            opened.append(record)
        opened.append({"n": 2})
    assert read_records(tmp_path / "journal") == [{"n": 1}, {"n": 2}]


def test_a_closed_journal_takes_no_more_records(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal", valid_bytes=0) as opened:
        pass
    with pytest.raises(OutputError, match="closed, or an append failed"):
        opened.append({"n": 1})


def test_without_fdatasync_it_uses_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.delattr(os, "fdatasync")
    with Journal(tmp_path / "journal", valid_bytes=0) as opened:
        monkeypatch.setattr(os, "fsync", synced.append)
        opened.append({"n": 1})
    assert len(synced) == 1


# Real disks, and system calls that fail.


def append_until_it_fails(path: Path, valid_bytes: int, record: Record) -> str:
    """Append copies of `record`; after the failure, and after room is made, nothing more may be taken."""
    with Journal(path, valid_bytes=valid_bytes) as opened:
        with pytest.raises(OutputError) as caught:
            while True:
                opened.append(record)
        (path.parent / "filler").unlink()
        with pytest.raises(OutputError, match="an append failed; run the command again"):
            opened.append(record)
    return str(caught.value)


@pytest.mark.parametrize(
    ("line_bytes", "reason"), [(4096, "No space left on device"), (3000, r"only 2768 of 3000 bytes taken")]
)
def test_a_full_disk_ends_the_run_and_the_next_one_resumes_from_the_last_record(
    disks: Disks, line_bytes: int, reason: str
) -> None:
    disk = disks.make("tmpfs", 64 << 10).folder
    (disk / "filler").write_bytes(b"x" * (32 << 10))
    record = {"x": "y" * (line_bytes - len(format_line({"x": ""})))}
    message = append_until_it_fails(disk / "journal", 0, record)
    entries = list(read_journal(disk / "journal"))
    assert len(entries) == (32 << 10) // line_bytes
    assert f"journal: cannot append at byte {entries[-1].end_byte} to the journal: {reason}" in message
    with Journal(disk / "journal", valid_bytes=entries[-1].end_byte) as opened:
        opened.append({"n": "after room was made"})
    assert read_records(disk / "journal") == [record] * len(entries) + [{"n": "after room was made"}]


def append_three(path_text: str) -> list[str]:
    """Append three records, even after failures; return the outcome of each."""
    outcomes = []
    with Journal(Path(path_text), valid_bytes=0) as opened:
        for n in range(1, 4):
            try:
                opened.append({"n": n})
                outcomes.append("taken")
            except (OutputError, KeyboardInterrupt) as error:
                outcomes.append(f"{type(error).__name__}: {error}")
    return outcomes


def append_under_strace(path: Path, *inject: str) -> tuple[list[str], list[str]]:
    """Run `append_three` with system calls made to fail; return its outcomes and the calls made."""
    log = path.with_name("strace.log")
    code = f"import json; from tests.test_journal import *; print(json.dumps(append_three({str(path)!r})))"
    strace = [tool("strace"), "-o", str(log), "-P", str(path), "-P", str(path.parent), *inject]
    command = [*strace, "-e", "trace=write,fsync,fdatasync,ftruncate,fallocate", sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    if "ptrace" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    outcomes: list[str] = json.loads(done.stdout)
    calls = [line.split("(")[0] for line in log.read_text().splitlines() if "(" in line]
    return outcomes, calls


OPENING = ["fallocate", "fsync", "fsync"]  # room after its end; the file, then its folder


def test_opening_syncs_file_and_folder_and_each_record_is_one_write_then_one_sync(tmp_path: Path) -> None:
    outcomes, calls = append_under_strace(tmp_path / "journal")
    assert outcomes == ["taken"] * 3
    assert calls == OPENING + ["write", "fdatasync"] * 3


@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "EDQUOT"])
def test_a_failed_sync_is_reported_and_never_repeated(tmp_path: Path, error: str) -> None:
    outcomes, calls = append_under_strace(tmp_path / "journal", f"-einject=fdatasync:error={error}:when=2")
    assert [outcome.split(":")[0] for outcome in outcomes] == ["taken", "OutputError", "OutputError"]
    assert "cannot append at byte 17 to the journal" in outcomes[1]
    assert "closed, or an append failed" in outcomes[2]
    assert calls == [*OPENING, "write", "fdatasync", "write", "fdatasync"]


@pytest.mark.parametrize("fault", ["error=EIO", "error=ENOSPC", "retval=10"])
def test_a_failed_or_short_write_is_reported_and_is_the_last(tmp_path: Path, fault: str) -> None:
    outcomes, calls = append_under_strace(tmp_path / "journal", f"-einject=write:{fault}:when=2")
    assert [outcome.split(":")[0] for outcome in outcomes] == ["taken", "OutputError", "OutputError"]
    assert "cannot append at byte 17 to the journal" in outcomes[1]
    assert calls == [*OPENING, "write", "fdatasync", "write"]


@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_an_append_broken_off_by_a_signal_is_the_last(tmp_path: Path, call: str) -> None:
    outcomes, calls = append_under_strace(tmp_path / "journal", f"-einject={call}:signal=INT:when=2")
    assert [outcome.split(":")[0] for outcome in outcomes] == ["taken", "KeyboardInterrupt", "OutputError"]
    assert calls.count("write") == 2


@pytest.mark.parametrize("call", ["fsync", "ftruncate"])
def test_a_journal_that_cannot_be_made_durable_is_not_opened(tmp_path: Path, call: str) -> None:
    (tmp_path / "journal").write_bytes(b"what a stopped run has left, to be cut off")
    with pytest.raises(AssertionError, match=r"OutputError: .*cannot open the journal: Input/output error"):
        append_under_strace(tmp_path / "journal", f"-einject={call}:error=EIO:when=1")


def test_a_power_cut_loses_no_record_and_brings_no_cut_one_back(disks: Disks) -> None:
    disk = disks.make("ext4", 16 * MIB)
    path = disk.folder / "journal"
    with Journal(path, valid_bytes=0) as opened:
        for n in range(5):
            opened.append(checkpoint(n))
    disk.cut_power()
    disk.remount_after_cut()
    assert read_records(path) == [checkpoint(n) for n in range(5)]
    with Journal(path, valid_bytes=list(read_journal(path))[2].end_byte):
        pass
    disk.cut_power()
    disk.remount_after_cut()
    assert read_records(path) == [checkpoint(n) for n in range(3)]


def test_records_left_in_the_page_cache_are_durable_once_the_journal_is_opened(disks: Disks) -> None:
    disk = disks.make("ext4", 16 * MIB)
    path = disk.folder / "journal"
    write_journal(path, 3)  # like a run that is killed before its sync
    with Journal(path, valid_bytes=path.stat().st_size):
        pass
    disk.cut_power()
    disk.remount_after_cut()
    assert read_records(path) == [checkpoint(n) for n in range(3)]


def mount_thin(thin: Disk, folder: Path) -> Disk:
    """Mount at `folder` a disk in `thin` that is larger than it: writing a block back may fail."""
    disk = Disk(folder, thin.folder / "image")
    folder.mkdir()
    disk.image.touch()
    os.truncate(disk.image, 4 * thin.free_bytes)
    mkfs = [tool("mkfs.ext4"), "-q", "-O", "^has_journal", "-b", "4096", "-E", "lazy_itable_init=0"]
    subprocess.run([*mkfs, disk.image], check=True, capture_output=True)
    disk.mount()
    return disk


def test_a_record_whose_sync_failed_is_not_trusted_though_the_page_cache_has_it(
    tmp_path: Path, disks: Disks
) -> None:
    thin = disks.make("tmpfs", 8 * MIB)
    disk = mount_thin(thin, tmp_path / "disk")
    path = disk.folder / "journal"
    try:
        with Journal(path, valid_bytes=0) as opened:
            opened.append({"x": "y" * (4096 - len(format_line({"x": ""})))})  # fills the first block
            disk.sync()
            thin.fill()
            with pytest.raises(OutputError, match="cannot append at byte 4096"):
                opened.append({"n": 2})
        assert path.read_bytes().endswith(format_line({"n": 2}))
        assert [entry.end_byte for entry in read_journal(path)] == [4096]
    finally:
        unmount(disk.folder)
