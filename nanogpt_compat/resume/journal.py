"""The journal: one line of JSON per checkpoint, each with its own checksum, only ever appended to.

The checksum is zlib's CRC-32 of the JSON. It has to find torn lines, pages of zeros after a power cut and
flipped bits, not an adversary: it finds every burst of up to 32 bits, any three flipped bits in one of 11 KiB
(https://users.ece.cmu.edu/~koopman/crc/crc32.html), and lets other damage pass once in 2^32.
"""

import contextlib
import errno
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nanogpt_compat.errors import OutputError
from nanogpt_compat.system.filesystem import (
    drop_cache,
    file_system,
    never_copy_on_write,
    reserve_behind,
    sync_folder,
)
from nanogpt_compat.system.redaction import redact_record

# Reserved behind the last line: the next ones need no more of a disk that is full by then.
ROOM_BYTES = 64 << 10

# Bounds what a reader holds when the file is garbage; a header that names 100,000 inputs fits.
MAX_LINE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A record, and where its line ends: the length of a journal in which it is the last."""

    record: Mapping[str, object]
    end_byte: int


def format_line(record: Mapping[str, object]) -> bytes:
    r"""Make the line of `record`; pure ASCII, so that a path that is not UTF-8 comes back as it was.

    >>> format_line({"position": 67108864})
    b'73e89cea {"position":67108864}\n'
    """
    payload = json.dumps(redact_record(record), separators=(",", ":"), allow_nan=False).encode("ascii")
    return b"%08x %b\n" % (zlib.crc32(payload), payload)


def parse_line(line: bytes) -> dict[str, object] | None:
    """Give the record of a line that `format_line` made, or None for anything else."""
    payload = line[9:-1]
    # Compared as text: read as a number, "A" and "a", one bit apart, would be the same checksum.
    if line[:9] != b"%08x " % zlib.crc32(payload) or line[-1:] != b"\n":
        return None
    try:
        record = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def read_journal(path: Path) -> Iterator[Entry]:
    """Yield the records from the first up to the first invalid line; none if the file is missing or empty.

    What follows an invalid line means nothing, even if it looks whole. One record is held at a time: the
    40,000 of 1 TB of text would be 133 MB as a list of dicts; they take 0.5 s on a 2-core VM.

    Raises:
        OutputError: the file is there and cannot be read. Never for what is in it.
    """
    with _explained(path, "read"), contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        # A line whose sync failed is still in the page cache, marked clean: believe the disk.
        drop_cache(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        end_byte = 0
        while (record := parse_line(line := file.readline(MAX_LINE_BYTES))) is not None:
            end_byte += len(line)
            yield Entry(record, end_byte)


class Journal:
    """The journal of a running preparation, open for appending by one thread.

    `valid_bytes` is the `end_byte` of the last record to keep. Entering cuts off what follows it (0 starts
    anew), and raises OutputError if that cannot be done durably or the file is shorter.
    """

    def __init__(self, path: Path, *, valid_bytes: int) -> None:
        self.path = path
        self.end_byte = valid_bytes  # of the last durable line
        self._room_end = 0
        self._is_sound = False

    def __enter__(self) -> "Journal":
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        with _explained(self.path, "open"), contextlib.ExitStack() as undo:
            self._fd = os.open(self.path, flags, 0o666)
            undo.callback(os.close, self._fd)
            n_bytes = os.fstat(self._fd).st_size
            if n_bytes < self.end_byte:  # ftruncate would fill it up with zeros
                raise OutputError(f"{self.path}: shorter than the {self.end_byte} bytes just read; run again")
            if n_bytes > self.end_byte:  # or else it would only lose its room
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
        """Make `record` durable: one write, one sync; a second try might succeed with the data gone.

        Raises:
            OutputError: this record, or an earlier one, was not made durable; or it is over MAX_LINE_BYTES.
        """
        if not self._is_sound:
            raise OutputError(f"{self.path}: closed, or an append failed; run the command again to go on")
        line = format_line(record)
        self._is_sound = False  # until the line is durable: an exception of any kind leaves it so
        with _explained(self.path, f"append at byte {self.end_byte} to"):
            _write_once(self._fd, line)
            getattr(os, "fdatasync", os.fsync)(self._fd)
        is_header = not self.end_byte
        self.end_byte += len(line)
        self._is_sound = True
        self._make_room(0 if is_header else len(line))

    def _make_room(self, line_bytes: int) -> None:
        """Keep room for two more lines of this length, and for some short ones at least."""
        if self._room_end - self.end_byte < max(ROOM_BYTES // 2, 2 * line_bytes):
            self._room_end = self.end_byte + max(ROOM_BYTES, 4 * line_bytes)
            reserve_behind(self._fd, self._room_end)

    def __exit__(self, *_: object) -> None:
        self._is_sound = False
        with contextlib.suppress(OSError):  # what was promised is synced, what failed is reported
            os.close(self._fd)


def _write_once(fd: int, line: bytes) -> None:
    n_written = os.write(fd, line) if len(line) <= MAX_LINE_BYTES else 0  # no reader would take a longer one
    if n_written < len(line):
        raise OSError(errno.ENOSPC, f"only {n_written} of {len(line)} bytes taken (limit: {MAX_LINE_BYTES})")


@contextlib.contextmanager
def _explained(path: Path, verb: str) -> Iterator[None]:
    """Turn the system's error into one that says where, and what to do."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path}: cannot {verb} the journal: {error.strerror}; see to the disk (space, permissions, the"
            " system log), then run the same command again: it goes on from the last checkpoint"
        ) from error
