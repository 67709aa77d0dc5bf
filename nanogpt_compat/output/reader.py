"""Finished files of tokens, read off the disk and compared with what should be in them.

At most 1 MiB of them is held.
"""

import hashlib
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.errors import DifferenceError, OutputError
from nanogpt_compat.output.layout import OutputFile, Outputs, Shards, describe_files
from nanogpt_compat.output.token_file import TOKEN
from nanogpt_compat.system.filesystem import advise_sequential, drop_cache
from nanogpt_compat.system.units import plural
from nanogpt_compat.text.documents import END_OF_TEXT

MAKE_AGAIN = "the same command with --restart --overwrite in the place of --verify makes the output again"

_CHUNK_TOKENS = 512 * 1024
_DROP_EVERY_BYTES = 8 * 1024 * 1024


class Difference(Exception):
    """A token that is not as it should be: number `n_same` of `expected`, which is a block's."""

    def __init__(
        self, path: Path, index: int, byte: int, found: int | None, expected: NDArray[np.uint16], n_same: int
    ):
        super().__init__(f"{path}, token {index}")
        self.path = path
        self.is_val = False
        self.place = 0  # among all tokens of the split
        self.index = index  # in the file
        self.byte = byte  # where it stands there
        self.found = found  # None: the file ends there
        self.expected = expected
        self.n_same = n_same


class _FinishedFile:
    """A finished file of tokens that is read once, from the beginning, off the disk."""

    def __init__(self, path: Path, *, header_bytes: int) -> None:
        """Open it, and read its header.

        Raises:
            OutputError: it cannot be read.
        """
        self.path = path
        self.n_tokens = 0  # that were compared
        self.sha256 = hashlib.sha256()
        self._offset = self._dropped_bytes = 0
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise self._unreadable(error) from error
        self._drop_all()  # what is in the page cache need not be what is on the disk
        advise_sequential(self._file.fileno())
        self._header = self._read(header_bytes // TOKEN.itemsize).tobytes()
        self._header_bytes = header_bytes

    def close(self) -> None:
        """Close it; nothing of it stays in the page cache."""
        if not self._file.closed:
            self._drop_all()
            self._file.close()

    def compare(self, tokens: NDArray[np.uint16], start: int, end: int) -> None:
        """Read on, as far as `tokens[start:end]` go.

        Raises:
            OutputError: the disk is failing.
            Difference: there are other tokens, or fewer.
        """
        for first in range(start, end, _CHUNK_TOKENS):
            expected = tokens[first : min(first + _CHUNK_TOKENS, end)]
            found = self._read(len(expected))
            if not np.array_equal(found, expected):
                differs = np.flatnonzero(found != expected[: len(found)])
                n_same = int(differs[0]) if len(differs) else len(found)
                one = int(found[n_same]) if len(differs) else None
                index = self.n_tokens + n_same
                byte = self._header_bytes + TOKEN.itemsize * index
                raise Difference(self.path, index, byte, one, tokens, first + n_same)
            self.n_tokens += len(expected)

    def check_ends(self, header: bytes) -> None:
        """Make sure that there is no more, and that it began with `header`.

        Raises:
            DifferenceError: it is not so.
        """
        if self._header != header:
            place = next(k for k in range(len(header)) if self._header[k : k + 1] != header[k : k + 1])
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

    def _read(self, n_tokens: int) -> NDArray[np.uint16]:
        """Read so many whole tokens, or as many as there are."""
        tokens = np.empty(n_tokens, TOKEN)
        data, n_read = tokens.view(np.uint8).data, 0
        try:
            while n_read < len(data) and (n_new := self._file.readinto(data[n_read:])):
                n_read += n_new
        except OSError as error:
            raise self._unreadable(error) from error
        self.sha256.update(data[:n_read])
        self._offset += n_read
        if self._offset - self._dropped_bytes >= _DROP_EVERY_BYTES:
            drop_cache(self._file.fileno(), self._dropped_bytes, self._offset)
            self._dropped_bytes = self._offset
        return tokens[: n_read // TOKEN.itemsize]

    def _drop_all(self) -> None:
        drop_cache(self._file.fileno(), 0, os.fstat(self._file.fileno()).st_size)

    def _unreadable(self, error: OSError) -> OutputError:
        return OutputError(f"cannot read {self.path} at byte {self._offset:,}: {error.strerror}")


class _FinishedShards:
    """The files of one stream, one after the other."""

    def __init__(self, shards: Shards) -> None:
        """Open the first.

        Raises:
            OutputError: it cannot be read.
        """
        self.described: list[dict[str, Any]] = []  # those that were compared, as `files` of prepare.json
        self.n_tokens = 0
        self._shards = shards
        self._file = self._open(0)

    def _open(self, k: int) -> _FinishedFile:
        return _FinishedFile(self._shards.path(k), header_bytes=self._shards.header_bytes)

    def compare(self, tokens: NDArray[np.uint16]) -> None:
        """Read on, as far as `tokens` go.

        Raises:
            OutputError: the disk is failing, or a shard is missing.
            DifferenceError: a shard that should end has not the right header, or goes on.
            Difference: there are other tokens, or fewer.
        """
        start = self.n_tokens
        for k, first, last in self._shards.pieces(start, start + len(tokens)) if len(tokens) else ():
            if first == 0 and k:
                self.finish()
                self._file = self._open(k)
            begin = self.n_tokens - start
            self._file.compare(tokens, begin, begin + last - first)
            self.n_tokens += last - first

    def finish(self) -> None:
        """Make sure that the open file ends here.

        Raises:
            DifferenceError: it does not.
        """
        file = self._file
        file.check_ends(self._shards.header(file.n_tokens))
        file.close()
        (described,) = describe_files([OutputFile("", self._shards, len(self.described), file.n_tokens)])
        self.described.append(described | {"sha256": file.sha256.hexdigest()})

    def close(self) -> None:
        """Close the file that is open."""
        self._file.close()


class FinishedFiles:
    """The output as a sink that compares where `TokenFiles` writes."""

    def __init__(self, outputs: Outputs) -> None:
        """Open the first file of each stream.

        Raises:
            OutputError: one cannot be read.
        """
        self.n_ends = 0  # end-of-text tokens so far
        with ExitStack() as stack:
            self._streams = {}
            for split, shards in outputs.items():
                self._streams[split] = _FinishedShards(shards)
                stack.callback(self._streams[split].close)
            self._stack = stack.pop_all()

    def __enter__(self) -> "FinishedFiles":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def describe(self) -> list[dict[str, Any]]:
        """Describe what was compared, as `files` of prepare.json."""
        return [one for stream in reversed(self._streams.values()) for one in stream.described]

    def summary(self) -> str:
        """Say in words how much that is."""
        counts = []
        for stream in reversed(self._streams.values()):
            first, last = stream.described[0]["name"], stream.described[-1]["name"]
            names = first if first == last else f"{first} to {last}"
            counts.append(f"{names} {plural(stream.n_tokens, 'token')}")
        return ", ".join(counts)

    def append(self, tokens: NDArray[np.uint16], *, is_val: bool) -> None:
        """Compare `(n,) uint16` with what comes next in a split."""
        stream = self._streams["val" if is_val else "train"]
        n_before = stream.n_tokens
        try:
            stream.compare(tokens)
        except Difference as difference:
            difference.is_val = is_val
            difference.place = n_before + difference.n_same
            raise
        self.n_ends += int(np.count_nonzero(tokens == END_OF_TEXT))

    def finish(self) -> None:
        """Make sure that all files end here.

        Raises:
            DifferenceError: one does not.
        """
        for stream in reversed(self._streams.values()):
            stream.finish()
