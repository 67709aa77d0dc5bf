"""Read finished token files from the disk, and compare them with the expected tokens.

At most 1 MiB of a file is in memory.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.errors import DifferenceError, OutputError
from nanogpt_compat.output.checksums import SectionCrcs, describe
from nanogpt_compat.output.layout import OutputFile, Shards
from nanogpt_compat.output.token_file import TOKEN
from nanogpt_compat.system.filesystem import advise_sequential, drop_cache, is_cached
from nanogpt_compat.system.units import plural

MAKE_AGAIN = "run the same command with --overwrite instead of --verify to make the output again"

_CHUNK_TOKENS = 512 * 1024
_DROP_EVERY_BYTES = 8 * 1024 * 1024


def fill(data: memoryview, file: FileIO) -> int:
    """Read into `data` until it is full or the file ends; return the number of bytes read."""
    n_read = 0
    while n_read < len(data) and (n_new := file.readinto(data[n_read:])):
        n_read += n_new
    return n_read


def read_chunks(path: Path) -> Iterator[memoryview]:
    """Read a file, and leave the page cache as it was; yields 1 MiB at a time, in the same memory."""
    buffer = memoryview(bytearray(_CHUNK_TOKENS * TOKEN.itemsize))
    n_done = 0
    try:
        with path.open("rb", buffering=0) as file:
            fd = file.fileno()
            steps = range(0, os.fstat(fd).st_size, _DROP_EVERY_BYTES)
            foreign = [is_cached(fd, start) for start in steps]  # before reading ahead
            advise_sequential(fd)
            while n_read := fill(buffer, file):
                yield buffer[:n_read]
                n_done += n_read
                if n_done % _DROP_EVERY_BYTES == 0 or n_done >= steps.stop:
                    step = (n_done - 1) // _DROP_EVERY_BYTES
                    if foreign[step : step + 1] == [False]:
                        drop_cache(fd, steps[step], n_done)
    except OSError as error:
        raise OutputError(f"cannot read {path} at byte {n_done:,}: {error.strerror}") from error


def first_difference(found: bytes | memoryview, expected: bytes) -> int | None:
    """Return the first byte at which `found`, which may be shorter, differs; None if it does not."""
    if found == expected:
        return None
    return next(k for k in range(len(expected)) if found[k : k + 1] != expected[k : k + 1])


@dataclass(eq=False)
class Difference(Exception):
    """A token in a file that is not the expected one."""

    path: Path
    index: int  # in the file
    byte: int  # in the file
    found: int | None  # None: the file ends there
    expected: int


class _FinishedFile:
    """A finished token file, read once from beginning to end, from the disk and not from the page cache."""

    def __init__(self, path: Path, *, header_bytes: int) -> None:
        """Open the file and read its header."""
        self.path = path
        self.n_tokens = 0  # compared so far
        self.sha256 = hashlib.sha256()
        self.sections = SectionCrcs()
        self._offset = self._dropped_bytes = 0
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise self._unreadable(error) from error
        self._drop_all()  # the page cache may differ from the disk
        advise_sequential(self._file.fileno())
        self._header = self._read(header_bytes // TOKEN.itemsize).tobytes()
        self._header_bytes = header_bytes

    def close(self) -> None:
        """Close the file and drop it from the page cache."""
        if not self._file.closed:
            self._drop_all()
            self._file.close()

    def compare(self, tokens: NDArray[np.uint16]) -> None:
        """Raise Difference unless the next tokens are these."""
        for first in range(0, len(tokens), _CHUNK_TOKENS):
            expected = tokens[first : first + _CHUNK_TOKENS]
            found = self._read(len(expected))
            if not np.array_equal(found, expected):
                differs = np.flatnonzero(found != expected[: len(found)])
                n_same = int(differs[0]) if len(differs) else len(found)
                index = self.n_tokens + n_same
                raise Difference(
                    self.path,
                    index,
                    self._header_bytes + TOKEN.itemsize * index,
                    found=int(found[n_same]) if len(differs) else None,
                    expected=int(expected[n_same]),
                )
            self.n_tokens += len(expected)

    def finish(self, header: bytes) -> None:
        """Raise DifferenceError unless the file ends here and began with `header`; close it."""
        if (place := first_difference(self._header, header)) is not None:
            raise DifferenceError(
                f"{self.path} should begin with the {len(header):,} bytes of a header for {self.n_tokens:,} "
                f"tokens, and differs at byte {place:,}; {MAKE_AGAIN}"
            )
        n_more = os.fstat(self._file.fileno()).st_size - self._offset
        if n_more:
            raise DifferenceError(
                f"{self.path} should end after {self.n_tokens:,} tokens, at byte {self._offset:,}, and "
                f"has {plural(n_more, 'byte')} more; {MAKE_AGAIN}"
            )
        self.close()

    def _read(self, n_tokens: int) -> NDArray[np.uint16]:
        """Read `n_tokens` whole tokens, or fewer at the end of the file."""
        tokens = np.empty(n_tokens, TOKEN)
        data = tokens.view(np.uint8).data
        try:
            n_read = fill(data, self._file)
        except OSError as error:
            raise self._unreadable(error) from error
        self.sha256.update(data[:n_read])
        self.sections.update(data[:n_read])
        self._offset += n_read
        if self._offset - self._dropped_bytes >= _DROP_EVERY_BYTES:
            drop_cache(self._file.fileno(), self._dropped_bytes, self._offset)
            self._dropped_bytes = self._offset
        return tokens[: n_read // TOKEN.itemsize]

    def _drop_all(self) -> None:
        drop_cache(self._file.fileno(), 0, os.fstat(self._file.fileno()).st_size)

    def _unreadable(self, error: OSError) -> OutputError:
        return OutputError(f"cannot read {self.path} at byte {self._offset:,}: {error.strerror}")


class FinishedShards:
    """The files of one stream, read one after another."""

    def __init__(self, shards: Shards) -> None:
        """Open the first file."""
        self.described: list[dict[str, Any]] = []  # the files compared so far, as `files` of prepare.json
        self.n_tokens = 0
        self._shards = shards
        self._file = self._open(0)

    def _open(self, k: int) -> _FinishedFile:
        return _FinishedFile(self._shards.path(k), header_bytes=self._shards.header_bytes)

    def compare(self, tokens: NDArray[np.uint16]) -> None:
        """Compare the next tokens of the stream with `tokens`, and each shard that ends with its header."""
        start = self.n_tokens
        for k, first, last in self._shards.pieces(start, start + len(tokens)) if len(tokens) else ():
            if first == 0 and k:
                self.finish()
                self._file = self._open(k)
            begin = self.n_tokens - start
            self._file.compare(tokens[begin : begin + last - first])
            self.n_tokens += last - first

    def finish(self) -> None:
        """Raise DifferenceError unless the open file ends here; close it."""
        file = self._file
        file.finish(self._shards.header(file.n_tokens))
        finished = OutputFile("", self._shards, len(self.described), file.n_tokens)
        self.described.append(describe(finished, file.sections.crcs) | {"sha256": file.sha256.hexdigest()})

    def close(self) -> None:
        """Close the open file."""
        self._file.close()
