"""The journal: an append-only file with one line of JSON per checkpoint, each with its own checksum.

The checksum is zlib's CRC-32 of the JSON. It has to detect torn lines, pages of zeros after a power cut and
flipped bits, but no adversary. It detects every burst of up to 32 bits and any three flipped bits in a line
of up to 11 KiB (https://users.ece.cmu.edu/~koopman/crc/crc32.html), and misses other damage once in 2^32.
"""

import contextlib
import errno
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpt_compat.errors import InputError, OutputError
from nanogpt_compat.system.filesystem import (
    drop_cache,
    file_system,
    never_copy_on_write,
    reserve_behind,
    sync_folder,
)
from nanogpt_compat.system.redaction import redact_record
from nanogpt_compat.system.units import format_bytes

# Reserved after the last line, so that the next lines can be written when the disk is full.
ROOM_BYTES = 64 << 10

# Limits the memory of a reader if the file is garbage. The last record has 300 to 800 bytes for each input.
MAX_LINE_BYTES = 96 << 20
# The header has some 200 for each: too many inputs must be noticed before the last record.
MAX_HEADER_BYTES = MAX_LINE_BYTES // 4


@dataclass(frozen=True, slots=True)
class Entry:
    """A record, and where its line ends in the journal."""

    record: Mapping[str, Any]
    end_byte: int


def format_line(record: Mapping[str, object]) -> bytes:
    r"""Return the line of `record`, in ASCII: paths that are not valid UTF-8 survive it.

    >>> format_line({"position": 67108864})
    b'73e89cea {"position":67108864}\n'
    """
    payload = json.dumps(redact_record(record), separators=(",", ":"), allow_nan=False).encode("ascii")
    return b"%08x %b\n" % (zlib.crc32(payload), payload)


def parse_line(line: bytes) -> dict[str, object] | None:
    """Return the record of a line that `format_line` has made, or None for anything else."""
    payload = line[9:-1]
    # Compared as text: as numbers, "A" and "a" would be equal, although a bit is flipped.
    if line[:9] != b"%08x " % zlib.crc32(payload) or line[-1:] != b"\n":
        return None
    try:
        record = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def read_journal(path: Path) -> Iterator[Entry]:
    """Yield the records before the first invalid line; none if the file is missing or empty.

    Lines after an invalid one do not count, even if they look valid. Only one record is in memory at a time:
    the 40,000 records of 1 TB of text would take 133 MB as a list. Reading them takes 0.5 s on a 2-core VM.
    """
    with _explained(path, "read"), contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        # After a failed sync, a line may be in the page cache but not on the disk.
        drop_cache(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        end_byte = 0
        while (record := parse_line(line := file.readline(MAX_LINE_BYTES))) is not None:
            end_byte += len(line)
            yield Entry(record, end_byte)


class Journal:
    """The journal of a run, open for appending from one thread; a context manager.

    `valid_bytes` is the `end_byte` of the last record to keep, or 0. Entering truncates the file there, and
    raises OutputError if that cannot be made durable or if the file is shorter.
    """

    def __init__(self, path: Path, *, valid_bytes: int) -> None:
        self.path = path
        self.end_byte = valid_bytes  # where the last durable line ends
        self._room_end = 0
        self._is_sound = False

    def __enter__(self) -> "Journal":
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        with _explained(self.path, "open"), contextlib.ExitStack() as undo:
            self._fd = os.open(self.path, flags, 0o666)
            undo.callback(os.close, self._fd)
            n_bytes = os.fstat(self._fd).st_size
            if n_bytes < self.end_byte:  # ftruncate would pad it with zeros
                raise OutputError(
                    f"{self.path} is shorter than the {self.end_byte} bytes just read; run again"
                )
            if n_bytes > self.end_byte:  # ftruncate to the same size would release the reserved space
                os.ftruncate(self._fd, self.end_byte)
            if not self.end_byte and file_system(self.path) == "btrfs":
                never_copy_on_write(self._fd)
            self._make_room(0)
            os.fsync(self._fd)
            sync_folder(self.path.parent)
            undo.pop_all()
        self._is_sound = True
        return self

    def append(self, record: Mapping[str, object]) -> None:
        """Make `record` durable: one write, one sync, no retry: a second sync may succeed with data lost."""
        if not self._is_sound:
            raise OutputError(f"{self.path}: closed, or an append failed; run the command again to resume")
        line = format_line(record)
        if not self.end_byte and len(line) > MAX_HEADER_BYTES:
            raise InputError(
                f"there are too many inputs: their list would take {format_bytes(len(line))} in "
                f"{self.path}, and {format_bytes(MAX_HEADER_BYTES)} are allowed, for some 100,000 of them; "
                "join small files into larger ones"
            )
        self._is_sound = False  # stays so if anything below raises
        with _explained(self.path, f"append at byte {self.end_byte} to"):
            n_written = os.write(self._fd, line) if len(line) <= MAX_LINE_BYTES else 0  # no reader takes more
            if n_written < len(line):
                what = f"only {n_written} of {len(line)} bytes taken (limit: {MAX_LINE_BYTES})"
                raise OSError(errno.ENOSPC, what)
            getattr(os, "fdatasync", os.fsync)(self._fd)
        is_header = not self.end_byte
        self.end_byte += len(line)
        self._is_sound = True
        self._make_room(0 if is_header else len(line))

    def _make_room(self, line_bytes: int) -> None:
        """Reserve disk space for two more lines of this length, or at least for some short ones."""
        if self._room_end - self.end_byte < max(ROOM_BYTES // 2, 2 * line_bytes):
            self._room_end = self.end_byte + max(ROOM_BYTES, 4 * line_bytes)
            reserve_behind(self._fd, self._room_end)

    def __exit__(self, *_: object) -> None:
        self._is_sound = False
        with contextlib.suppress(OSError):  # all complete records are synced already
            os.close(self._fd)


@contextlib.contextmanager
def _explained(path: Path, verb: str) -> Iterator[None]:
    """Turn an OSError into an OutputError with the path and advice."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path}: cannot {verb} the journal: {error.strerror}; check the disk (space, permissions, the"
            " system log), then run the same command again: it resumes from the last checkpoint"
        ) from error
