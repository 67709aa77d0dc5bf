"""Read the buffers of an Arrow record batch in pieces: they may be of any size, and compressed.

Only the parts that are needed are read; a compressed buffer is read forward, through pyarrow.
"""

import io
from abc import ABC, abstractmethod
from typing import Any

from nanogpt_compat.input.compressed import zstd_window_bytes
from nanogpt_compat.input.messages import Buffer, Read

_LENGTH_BYTES = 8  # the size before a compressed buffer
_STORED_AS_IT_IS = -1  # in the place of this size
_KEPT_BYTES = 16  # the last bytes read from a compressed buffer: the next read may overlap them by a value
_PIECE_BYTES = 1024 * 1024
_ZSTD_HEADER_BYTES = 18  # the longest header of a frame


class Source(ABC):
    """The bytes of a buffer, uncompressed."""

    n_bytes: int

    @property
    def window_bytes(self) -> int:
        """The memory that its decoder takes."""
        return 0

    @abstractmethod
    def read(self, n_bytes: int, offset: int) -> bytes:
        """Return `[offset, offset + n_bytes)`; raise ValueError if it ends earlier."""


class Stored(Source):
    """A buffer that is in the file as it is."""

    def __init__(self, read: Read, place: Buffer) -> None:
        self.n_bytes = place.n_bytes
        self._read = read
        self._start = place.start

    def read(self, n_bytes: int, offset: int) -> bytes:
        if offset < 0 or n_bytes < 0 or offset + n_bytes > self.n_bytes:
            raise ValueError(f"{n_bytes:,} bytes from {offset:,} on, in a buffer of {self.n_bytes:,}")
        return self._read(n_bytes, self._start + offset) if n_bytes else b""


class Held(Source):
    """A buffer in memory."""

    def __init__(self, data: bytes) -> None:
        self.n_bytes = len(data)
        self._data = data

    def read(self, n_bytes: int, offset: int) -> bytes:
        if offset < 0 or n_bytes < 0 or offset + n_bytes > self.n_bytes:
            raise ValueError(f"{n_bytes:,} bytes from {offset:,} on, in a buffer of {self.n_bytes:,}")
        return self._data[offset : offset + n_bytes]


class Packed(Source):
    """A compressed buffer, which is read forward; to go back, it is read from its beginning again."""

    def __init__(self, pyarrow: Any, read: Read, place: Buffer, codec: str, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self._pyarrow = pyarrow
        self._stored = read, place.start, place.start + place.n_bytes
        self._codec = codec
        self._errors = (pyarrow.ArrowException, OSError)
        self._stream: Any = None
        self._place = 0  # in the stream
        self._kept = b""  # the bytes before it

    @property
    def window_bytes(self) -> int:
        """The window that its frame needs; for lz4 it is small."""
        read, start, _ = self._stored
        return zstd_window_bytes(read(_ZSTD_HEADER_BYTES, start)) if self._codec == "zstd" else 0

    def read(self, n_bytes: int, offset: int) -> bytes:
        if offset < 0 or n_bytes < 0 or offset + n_bytes > self.n_bytes:
            raise ValueError(f"{n_bytes:,} bytes from {offset:,} on, in a buffer of {self.n_bytes:,}")
        if self._stream is None or offset < self._place - len(self._kept):
            file = self._pyarrow.PythonFile(_Range(*self._stored), mode="r")
            self._stream = self._pyarrow.CompressedInputStream(file, self._codec)
            self._place, self._kept = 0, b""
        while self._place < offset:
            self._take_some(min(_PIECE_BYTES, offset - self._place))
        kept = self._kept[len(self._kept) - (self._place - offset) :][:n_bytes]
        parts, n_left = [kept] if kept else [], n_bytes - len(kept)
        while n_left:  # in pieces: a damaged size must not be allocated at once
            parts.append(self._take_some(min(_PIECE_BYTES, n_left)))
            n_left -= len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _take_some(self, n_bytes: int) -> bytes:
        try:
            data: bytes = self._stream.read(n_bytes)
        except self._errors as error:
            raise ValueError(f"its compressed data is damaged ({error})") from error
        if len(data) < n_bytes:
            raise ValueError(f"its compressed data ends after {self._place + len(data):,} bytes")
        self._place += n_bytes
        self._kept = (self._kept + data[-_KEPT_BYTES:])[-_KEPT_BYTES:]
        return data


class _Range(io.RawIOBase):
    """A part of a file, with the interface of a Python file."""

    def __init__(self, read: Read, start: int, end: int) -> None:
        self._read_at = read
        self._place = start
        self._end = end

    def readable(self) -> bool:
        return True

    def read(self, n_bytes: int = -1) -> bytes:
        n_left = self._end - self._place
        data = self._read_at(n_left if n_bytes < 0 else min(n_bytes, n_left), self._place)
        self._place += len(data)
        return data


def open_buffer(pyarrow: Any, read: Read, place: Buffer, codec: str | None) -> Source:
    """Open a buffer of a record batch; raise ValueError if it makes no sense."""
    if codec is None or not place.n_bytes:
        return Stored(read, place)
    n_bytes = int.from_bytes(read(_LENGTH_BYTES, place.start), "little", signed=True)
    inside = Buffer(place.start + _LENGTH_BYTES, place.n_bytes - _LENGTH_BYTES)
    if n_bytes == _STORED_AS_IT_IS and inside.n_bytes >= 0:
        return Stored(read, inside)
    if n_bytes < 0 or inside.n_bytes < 0:
        raise ValueError(f"a buffer of {n_bytes:,} bytes")
    return Packed(pyarrow, read, inside, codec, n_bytes)
