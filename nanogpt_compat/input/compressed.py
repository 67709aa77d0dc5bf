"""Read a gzip, zstd or plain file as one stream of uncompressed bytes, in bounded memory.

A stream holds a chunk of the file, a piece of decompressed bytes, and the decoder's window: 32 KiB for gzip;
for zstd, what the frame asks for, up to 128 MiB.
"""

import zlib
from collections.abc import Callable, Iterator

from nanogpt_compat.errors import CheckpointError, InputError
from nanogpt_compat.input.location import Compression
from nanogpt_compat.input.pipes import UNKNOWN, Pipe
from nanogpt_compat.input.text import InputFile
from nanogpt_compat.memory.malloc import uses_block
from nanogpt_compat.system.commands import install, show
from nanogpt_compat.system.units import format_bytes, plural
from nanogpt_compat.text.blocks import MakeRoom, Need, Position, has_room

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MEASURED_BYTES = 4 * 1024 * 1024  # of text: several chunks of the file, enough to measure its ratio
MAX_WINDOW_BYTES = 128 * 1024 * 1024  # also the limit of `zstd -d` and of `--long=27`

_LARGE_WINDOW_BYTES = 8 * 1024 * 1024  # zstd's window up to level 19
_CHUNK_BYTES = 64 * 1024
_PIECE_BYTES = 128 * 1024  # the most that a zstd block can hold
_GZIP_WBITS = 31
_RLE_BLOCK = 1


class ByteStream:
    """The uncompressed bytes of an open file, in order.

    How much of the file has been read depends only on how many uncompressed bytes have been read, not on the
    sizes of the single reads.
    """

    def __init__(
        self,
        file: InputFile,
        compression: Compression = "none",
        *,
        start: int = 0,
        make_room: MakeRoom = has_room,
    ) -> None:
        """Begin at byte `start`, which must be 0 if the file is compressed.

        `make_room` is called before a large window is allocated.
        """
        if start and compression != "none":
            raise ValueError(f"a compressed file is read from its beginning, not from byte {start}")
        self.offset = start  # uncompressed bytes before the next `read`
        self._stored = _Stored(file, start, make_room)
        self._pieces = None if compression == "none" else _DECODERS[compression](self._stored)
        self.skipped_tail = b""  # the last piece that `skip` has read
        self._held: list[bytes] = []
        self._held_bytes = 0

    @property
    def stored_bytes(self) -> int:
        """How far the file itself has been read: up to a chunk and a piece further than necessary."""
        return self._stored.end

    def read(self, n_bytes: int) -> bytes:
        """Return the next `n_bytes`; fewer only at the end.

        Raises:
            InputError: the file cannot be read, is truncated or damaged, has other data after its compressed
                data, or needs too large a window; or the package that reads zstd is missing.
        """
        if self._pieces is None and not self._held:
            # One large read, not many small ones: each read waits for the interpreter's lock.
            data = self._stored.read(n_bytes)
            self.offset += len(data)
            return data
        while self._held_bytes < n_bytes:
            if self._pieces is None:
                piece = self._stored.read(n_bytes - self._held_bytes)
            else:
                piece = self._next_piece(self._pieces)
            if not piece:
                break
            self._held.append(piece)
            self._held_bytes += len(piece)
        data = self._held[0] if len(self._held) == 1 else b"".join(self._held)
        rest = data[n_bytes:]
        self._held = [rest] if rest else []
        self._held_bytes = len(rest)
        data = data[:n_bytes]
        self.offset += len(data)
        return data

    def peek(self, n_bytes: int) -> bytes:
        """Return the next `n_bytes`, fewer only at the end, and keep them for `read`."""
        data = self.read(n_bytes)
        if data:
            self._held.insert(0, data)
        self._held_bytes += len(data)
        self.offset -= len(data)
        return data

    def skip(self, n_bytes: int, check: Callable[[], None] = lambda: None) -> int | None:
        """Read and discard the next `n_bytes`; return their zlib.crc32, or None if there are fewer.

        `check` is called for each piece; an exception that it raises stops the reading.
        """
        crc = 0
        end = self.offset + n_bytes
        while self.offset < end:
            check()
            n_left = end - self.offset
            data = self.read(n_left % _PIECE_BYTES or _PIECE_BYTES)  # the last piece is a full one
            if not data:
                return None
            crc = zlib.crc32(data, crc)
            self.skipped_tail = data
        return crc

    def _next_piece(self, pieces: Iterator[bytes]) -> bytes:
        try:
            return next(pieces, b"")
        except _Damaged as error:
            stored, text_bytes = self._stored, self.offset + self._held_bytes
            size_bytes = stored.file.size_bytes
            of_all = "" if size_bytes == UNKNOWN else f" of {size_bytes:,}"
            where = f"byte {error.offset:,}{of_all} ({text_bytes:,} bytes uncompressed)"
            raise InputError(f"{stored.file.path}, {where}: {error.found}; {error.advice}") from error


class Unpacked:
    """A stream with the interface that `Window` reads from: in order, and of unknown size."""

    def __init__(self, stream: ByteStream) -> None:
        self.size_bytes = UNKNOWN
        self._stream = stream

    def read(self, n_bytes: int, offset: int) -> bytes:
        """Read the next `n_bytes`, or up to the end; `offset` must be where the last read ended."""
        data = self._stream.read(n_bytes)
        if len(data) < n_bytes:
            self.size_bytes = self._stream.offset
        return data

    def drop_before(self, offset: int) -> None:
        """Do nothing: the stream does not keep what was read."""


def open_stream(
    file: InputFile,
    compression: Compression,
    start: Position,
    check: Callable[[], None],
    make_room: MakeRoom = has_room,
) -> ByteStream:
    """Open an input at `start`, where an earlier run stopped.

    A compressed file or a pipe is read from its beginning, and its bytes before `start` are compared with
    what the earlier run read; `check` is called often meanwhile. `make_room` is as for `ByteStream`.

    Raises:
        InputError: the input cannot be read, or is damaged.
        CheckpointError: its bytes before `start` have changed.
    """
    if compression == "none" and not isinstance(file.path, Pipe):
        return ByteStream(file, start=start.offset)
    stream = ByteStream(file, compression, make_room=make_room)
    change = skip_consumed(stream, start.offset, start.crc, is_all=start.at_end, check=check)
    if change:
        raise CheckpointError(f"{file.path} {change}")
    return stream


def skip_consumed(
    stream: ByteStream, n_bytes: int, crc: int, *, is_all: bool, check: Callable[[], None]
) -> str:
    """Skip what an earlier run has read; return how that has changed, or "" if it has not.

    `n_bytes` and `crc` are of what the run read. If `is_all`, the input ended there, and still must.
    """
    if stream.skip(n_bytes, check) != crc:
        return f"was changed within the {plural(n_bytes, 'byte')} already read"
    if is_all and stream.peek(1):
        return f"ended after {plural(n_bytes, 'byte')} when it was read, and has grown since"
    return ""


class _Damaged(Exception):
    """Describe damage of compressed data: what was found, at which byte of the file, and what to do."""

    def __init__(self, found: str, offset: int, advice: str = "fetch or make the file again") -> None:
        super().__init__(found)
        self.found = found
        self.offset = offset
        self.advice = advice


class _Stored:
    """The bytes of the file itself, read in chunks that end at multiples of 64 KiB."""

    def __init__(self, file: InputFile, start: int, make_room: MakeRoom) -> None:
        self.file = file
        self.make_room = make_room
        self.end = start  # of what has been read
        self._data = b""

    @property
    def offset(self) -> int:
        """Where in the file the next `take` begins."""
        return self.end - len(self._data)

    def take_some(self) -> bytes:
        """Return the bytes that are buffered, or the next chunk; nothing only at the end."""
        data = self._data or self._read_chunk()
        self._data = b""
        return data

    def put_back(self, data: bytes) -> None:
        """Return to the buffer the end of what was taken last."""
        self._data = data + self._data

    def peek(self, n_bytes: int) -> bytes:
        """Return the next `n_bytes`, fewer only at the end, and keep them in the buffer."""
        while len(self._data) < n_bytes:
            chunk = self._read_chunk()
            if not chunk:
                break
            self._data += chunk
        return self._data[:n_bytes]

    def take(self, n_bytes: int) -> bytes:
        """Return exactly `n_bytes` (a few hundred KiB at most); raise `_Damaged` if the file ends before."""
        data = self.peek(n_bytes)
        if len(data) < n_bytes:
            raise self.cut_short()
        self._data = self._data[n_bytes:]
        return data

    def cut_short(self) -> _Damaged:
        return _Damaged("it ends in the middle of its compressed data", self.end)

    def read(self, n_bytes: int) -> bytes:
        """Read the next `n_bytes` of the file, bypassing the buffer."""
        data = self.file.read(n_bytes, self.end)
        self.end += len(data)
        self.file.drop_before(self.end)
        return data

    def _read_chunk(self) -> bytes:
        return self.read(_CHUNK_BYTES - self.end % _CHUNK_BYTES)


def _read_gzip(stored: _Stored) -> Iterator[bytes]:
    """Decompress all members; zeros after a member are padding, as gzip(1) treats them."""
    while True:
        yield from _read_member(stored)
        _skip_zeros(stored)
        magic = stored.peek(len(GZIP_MAGIC))
        if not magic:
            return
        _check_magic(stored, magic, GZIP_MAGIC)


def _read_member(stored: _Stored) -> Iterator[bytes]:
    decoder = zlib.decompressobj(_GZIP_WBITS)
    while not decoder.eof:
        offset = stored.offset
        data = stored.take_some()
        if not data:
            raise stored.cut_short()
        try:
            yield from _inflate(decoder, data)
        except zlib.error as error:
            raise _Damaged(
                f"its gzip data is damaged here or a little further on ({error})", offset
            ) from error
        stored.put_back(decoder.unused_data)


def _inflate(decoder: "zlib._Decompress", data: bytes) -> Iterator[bytes]:
    """Decompress `data`, and yield all the output that is available by then, in pieces."""
    while True:
        piece = decoder.decompress(data, _PIECE_BYTES)
        if piece:
            yield piece
        data = decoder.unconsumed_tail
        if decoder.eof or (not data and len(piece) < _PIECE_BYTES):
            return


def _skip_zeros(stored: _Stored) -> None:
    while data := stored.take_some():
        data = data.lstrip(b"\0")
        if data:
            stored.put_back(data)
            return


def _check_magic(stored: _Stored, found: bytes, magic: bytes) -> None:
    """Raise `_Damaged` unless the next part of the compressed data begins here, with `magic`."""
    if found == magic:
        return
    if magic.startswith(found):
        stored.take(len(magic))  # raises: the file ends within it
    raise _Damaged(
        f"its compressed data ends here and something else follows, found {found.hex(' ')}",
        stored.offset,
        "if no text is missing, cut the file off here (truncate -s); otherwise fetch or make it again",
    )


def _read_zstd(stored: _Stored) -> Iterator[bytes]:
    """Decompress all frames (RFC 8878) but the skippable ones.

    The decoder is given one block at a time: its output cannot be limited, and a block holds at most 128 KiB.
    """
    try:
        import zstandard
    except ImportError as error:
        raise InputError(
            f"{stored.file.path} is compressed with zstd, and the package that reads it is missing:"
            f"{show(install('zstandard'))}"
        ) from error
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    while magic := stored.peek(len(ZSTD_MAGIC)):
        if is_skippable_frame(magic):
            stored.take(len(magic))
            _skip(stored, int.from_bytes(stored.take(4), "little"))
            continue
        _check_magic(stored, magic, ZSTD_MAGIC)
        offset = stored.offset
        header = _take_frame_header(stored)
        try:
            parameters = zstandard.get_frame_parameters(header)
        except zstandard.ZstdError as error:
            raise _Damaged(f"the header of a zstd frame is damaged ({error})", offset) from error
        _check_window(parameters.window_size, stored, offset)
        decoder = decompressor.decompressobj()
        with uses_block(parameters.window_size):
            for part_offset, part in _frame_parts(stored, offset, header, parameters.has_checksum):
                try:
                    piece = decoder.decompress(part)
                except zstandard.ZstdError as error:
                    raise _Damaged(f"its zstd data is damaged ({error})", part_offset) from error
                if piece:
                    yield piece


def is_skippable_frame(head: bytes) -> bool:
    """Whether `head` (four bytes) begins a skippable zstd frame, which holds no text."""
    return len(head) == 4 and head[0] & 0xF0 == 0x50 and head[1:] == b"\x2a\x4d\x18"


def _skip(stored: _Stored, n_bytes: int) -> None:
    while n_bytes:
        n_bytes -= len(stored.take(min(_CHUNK_BYTES, n_bytes)))


def _take_frame_header(stored: _Stored) -> bytes:
    start = stored.take(5)
    descriptor = start[4]
    is_single_segment = descriptor >> 5 & 1
    n_size_bytes = (is_single_segment, 2, 4, 8)[descriptor >> 6]
    n_dictionary_bytes = (0, 1, 2, 4)[descriptor & 3]
    return start + stored.take(n_size_bytes + n_dictionary_bytes + (1 - is_single_segment))


def _check_window(window_bytes: int, stored: _Stored, offset: int) -> None:
    """Refuse a window over the limit; make room in memory for a large one."""
    size = format_bytes(window_bytes)
    if window_bytes > MAX_WINDOW_BYTES:
        raise _Damaged(
            f"a zstd frame needs a window of {size} in memory; the limit is {format_bytes(MAX_WINDOW_BYTES)}",
            offset,
            "compress the text again without --long or --ultra (zstd -d --long=31 unpacks it)",
        )
    if window_bytes > _LARGE_WINDOW_BYTES:
        what = f"{stored.file.path}: a zstd frame, at byte {offset:,}, has a window of {size}"
        n_bytes = window_bytes + _LARGE_WINDOW_BYTES
        way_out = "compress the text again without --long or --ultra"
        stored.make_room(n_bytes, lambda: Need(what, n_bytes, n_bytes, way_out))


def _frame_parts(
    stored: _Stored, offset: int, header: bytes, has_checksum: bool
) -> Iterator[tuple[int, bytes]]:
    """Yield a frame's header, each of its blocks and its checksum, each with its offset in the file."""
    yield offset, header
    is_last = False
    while not is_last:
        offset = stored.offset
        start = stored.take(3)
        block = int.from_bytes(start, "little")
        is_last, kind, n_bytes = bool(block & 1), block >> 1 & 3, block >> 3
        yield offset, start + stored.take(1 if kind == _RLE_BLOCK else n_bytes)
    if has_checksum:
        yield stored.offset, stored.take(4)


_DECODERS: dict[Compression, Callable[[_Stored], Iterator[bytes]]] = {
    "gz": _read_gzip,
    "zst": _read_zstd,
}
