"""Read a plain, gzip, bzip2, xz or zstd file as one stream of uncompressed bytes, in bounded memory.

A stream holds a chunk of the file, a piece of decompressed bytes, and the decoder's window: 32 KiB for gzip;
4 MB for bzip2; for xz and zstd, what the file asks for, up to 128 MiB.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from nanogpt_compat.errors import InputError
from nanogpt_compat.input.location import Compression
from nanogpt_compat.input.open import InputFile
from nanogpt_compat.input.pipes import UNKNOWN
from nanogpt_compat.input.signatures import COMPRESSION_MAGIC, compression_of
from nanogpt_compat.memory.malloc import uses_block
from nanogpt_compat.system.checksum import crc32
from nanogpt_compat.system.commands import install, show
from nanogpt_compat.system.units import format_bytes
from nanogpt_compat.text.blocks import MakeRoom, Need, has_room

MEASURED_BYTES = 4 * 1024 * 1024  # text from several chunks of the file, enough to measure its ratio
MAX_WINDOW_BYTES = 128 * 1024 * 1024  # also the limit of `zstd -d` and of `--long=27`

UNPACK_BYTES_PER_S: dict[Compression, float] = {"gz": 300e6, "bz2": 30e6, "xz": 75e6, "zst": 500e6}
"""How much text one thread unpacks, measured with English prose; for forecasts."""

_LARGE_WINDOW_BYTES = 8 * 1024 * 1024  # the largest of zstd up to level 19, and of xz up to 6
_CHUNK_BYTES = 64 * 1024
_PIECE_BYTES = 128 * 1024
_GZIP_WBITS = 31
_HEADER_BYTES = 12 + 1024  # the longest header, of an xz stream and its first block
_XZ_BYTES = 1024 * 1024  # the most that an xz decoder takes in addition to its window


class ByteStream:
    """The uncompressed bytes of an open file, in order. A `Window` can read from it.

    How much of the file has been read depends only on how many uncompressed bytes have been read, not on the
    sizes of the single reads.
    """

    reads_anywhere = False

    def __init__(
        self,
        file: InputFile,
        compression: Compression = "none",
        *,
        start: int = 0,
        make_room: MakeRoom = has_room,
    ) -> None:
        """Begin at byte `start`, 0 if the file is compressed; call `make_room` before a large window."""
        if start and compression != "none":
            raise ValueError(f"a compressed file is read from its beginning, not from byte {start}")
        self.file = file
        self.make_room = make_room
        self.offset = start  # uncompressed bytes before the next `read`
        self.size_bytes = UNKNOWN  # until a read has reached the end
        self.skipped_tail = b""  # the last piece that `skip` has read
        self._held = b""  # read, but not yet returned
        self._end = start  # an uncompressed file has been read up to here
        self._stored = None if compression == "none" else ByteStream(file, make_room=make_room)
        self._pieces = None if self._stored is None else _unpack(self._stored, compression)

    @property
    def stored_bytes(self) -> int:
        """How far the file itself has been read: up to a chunk and a piece further than necessary."""
        return self._end if self._stored is None else self._stored.stored_bytes

    def read(self, n_bytes: int, offset: int | None = None) -> bytes:
        """Return the next `n_bytes`, which begin at `offset`; fewer only at the end.

        Raise an InputError if the file cannot be read, is truncated or damaged, has other data after its
        compressed data, or needs too large a window; or if the package that reads it is missing.
        """
        parts, n_left = [self._held] if self._held else [], n_bytes - len(self._held)
        self._held = b""
        while n_left > 0:
            try:
                piece = self._read_file(n_left) if self._pieces is None else next(self._pieces, b"")
            except _Damaged as error:
                file, text_bytes = self.file, self.offset + n_bytes - n_left
                of_all = "" if file.size_bytes == UNKNOWN else f" of {file.size_bytes:,}"
                where = f"byte {error.offset:,}{of_all} ({text_bytes:,} bytes uncompressed)"
                raise InputError(f"{file.path}, {where}: {error.found}; {error.advice}") from error
            if not piece:
                break
            parts.append(piece)
            n_left -= len(piece)
        if n_left < 0:
            parts[-1], self._held = parts[-1][:n_left], parts[-1][n_left:]
        self.offset += n_bytes - max(0, n_left)
        if n_left > 0:
            self.size_bytes = self.offset
        return b"".join(parts)  # does not copy a single part

    def _read_file(self, n_bytes: int) -> bytes:
        """Read all at once: each read waits for the interpreter's lock."""
        data = self.file.read(n_bytes, self._end)
        self._end += len(data)
        self.file.drop_before(self._end)
        return data

    def take_some(self) -> bytes:
        """Return the bytes that are held, or those up to a multiple of 64 KiB; nothing only at the end."""
        return self.read(len(self._held) or _CHUNK_BYTES - self._end % _CHUNK_BYTES)

    def put_back(self, data: bytes) -> None:
        """Hold the end of what was read last for the next read."""
        self._held = data + self._held
        self.offset -= len(data)

    def peek(self, n_bytes: int) -> bytes:
        """Return the next `n_bytes`, fewer only at the end, and keep them for `read`."""
        data = self.read(n_bytes)
        self.put_back(data)
        return data

    def skip(self, n_bytes: int, check: Callable[[], None] = lambda: None) -> int | None:
        """Read and discard the next `n_bytes`; return their zlib.crc32, or None if there are fewer."""
        crc = 0
        end = self.offset + n_bytes
        while self.offset < end:
            check()
            n_left = end - self.offset
            data = self.read(n_left % _PIECE_BYTES or _PIECE_BYTES)  # the last piece is a full one
            if not data:
                return None
            crc = crc32(data, crc)
            self.skipped_tail = data
        return crc

    def drop_before(self, offset: int) -> None:
        """Do nothing: the stream does not keep what was read."""


@dataclass(eq=False)
class _Damaged(Exception):
    """Describe damage of compressed data."""

    found: str
    offset: int  # in the file
    advice: str = "fetch or make the file again"


class _Gzip:
    """Unpacks a gzip member, with the interface of `BZ2Decompressor`: zlib's returns the input it left."""

    def __init__(self, zlib: Any) -> None:
        self._decoder = zlib.decompressobj(_GZIP_WBITS)
        self.needs_input, self.eof, self.unused_data = True, False, b""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        decoder = self._decoder
        piece: bytes = decoder.decompress(decoder.unconsumed_tail + data, max_length)
        self.needs_input = not decoder.unconsumed_tail and len(piece) < max_length
        self.eof, self.unused_data = decoder.eof, decoder.unused_data
        return piece


def zstd_window_bytes(header: bytes) -> int:
    """Return the window that a zstd frame asks for (RFC 8878, 3.1.1.1)."""
    if not header.startswith(COMPRESSION_MAGIC["zst"]) or len(header) < 6:  # a skippable frame has none
        return 0
    descriptor = header[4]
    if not descriptor & 0x20:
        base = 1 << 10 + (header[5] >> 3)
        return base + base // 8 * (header[5] & 7)
    start, n_bytes = 5 + (0, 1, 2, 4)[descriptor & 3], (1, 2, 4, 8)[descriptor >> 6]
    return int.from_bytes(header[start : start + n_bytes], "little")  # the size of the text


def _xz_window_bytes(header: bytes) -> int:
    """Return the dictionary size of the first block of an xz stream (The .xz File Format, 3.1 and 5.3.1)."""
    n_bytes = header[12] * 4 if len(header) > 12 else 0  # the block's header; 0: the stream has no blocks
    block, crc = header[12 : 12 + n_bytes], header[12 + n_bytes : 16 + n_bytes]
    if crc32(block) != int.from_bytes(crc, "little") or not block:
        return 0  # the decoder reports the damage
    bits = block[block.rindex(b"\x21\x01") + 2]  # LZMA2, the last filter, has one byte of properties
    return (2 | bits & 1) << bits // 2 + 11


@dataclass(frozen=True, slots=True)
class _Codec:
    """How one compression is read."""

    name: str
    modules: tuple[str, ...]  # the first that can be imported
    open: Callable[[Any, int], Any]  # from the module and the size of the window to a decompressor
    errors: str = "error"  # the module's exception, in addition to OSError
    unpack: str = ""  # the command that does it where this program cannot
    is_padded: bool = False  # with zeros after a part
    # Only where a file decides how large the window is:
    part: str = ""  # the part of a file that has a window
    window_bytes: Callable[[bytes], int] = lambda _header: 0
    smaller: str = ""  # how to make a file with a smaller window

    def load(self, file: InputFile) -> Any:
        """Import the module; raise an InputError if it is missing."""
        for name in self.modules:
            with suppress(ImportError):
                return import_module(name)
        if self.modules[-1].startswith("backports.") and sys.version_info < (3, 14):
            todo = f"the package that reads it is missing:{show(install(self.modules[-1]))}"
        else:
            todo = f"this Python has no module {self.modules[0]}; unpack the file with {self.unpack}"
        raise InputError(f"{file.path} is compressed with {self.name}, and {todo}")


_CODECS: dict[Compression, _Codec] = {
    "gz": _Codec("gzip", ("isal.isal_zlib", "zlib"), lambda zlib, _window: _Gzip(zlib), is_padded=True),
    "bz2": _Codec("bzip2", ("bz2",), lambda bz2, _window: bz2.BZ2Decompressor(), errors="", unpack="bzcat"),
    "xz": _Codec(
        "xz",
        ("lzma",),
        lambda lzma, window_bytes: lzma.LZMADecompressor(memlimit=window_bytes + _XZ_BYTES),
        errors="LZMAError",
        unpack="xz -d",
        is_padded=True,
        part="an xz stream",
        window_bytes=_xz_window_bytes,
        smaller="with xz -6",
    ),
    "zst": _Codec(
        "zstd",
        ("compression.zstd", "backports.zstd"),
        lambda zstd, _window: zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: MAX_WINDOW_BYTES.bit_length() - 1}
        ),
        errors="ZstdError",
        unpack="zstd -d --long=31",
        part="a zstd frame",
        window_bytes=zstd_window_bytes,
        smaller="without --long or --ultra",
    ),
}


def _next_header(stored: ByteStream) -> bytes:
    """Return at least the longest header, or all up to the end, and leave it in the stream."""
    head = stored.take_some()
    while len(head) < _HEADER_BYTES and (more := stored.take_some()):
        head += more
    stored.put_back(head)
    return head


def _unpack(stored: ByteStream, compression: Compression) -> Iterator[bytes]:
    """Unpack all parts of a file: gzip's members, zstd's frames, the streams of bzip2 and xz.

    The file objects of `bz2` and `lzma` are not used: they take other data after the first part, or a second
    part whose beginning is damaged, for the end of the text. Zeros after a part of gzip or xz are padding, as
    gzip(1) and xz(1) treat them.
    """
    codec = _CODECS[compression]
    module = codec.load(stored.file)
    head = _next_header(stored)
    while head:
        window_bytes = codec.window_bytes(head)
        _make_room_for_window(window_bytes, codec, stored)
        with uses_block(window_bytes):
            yield from _unpack_part(stored, codec, module, window_bytes)
        while codec.is_padded and (head := stored.take_some()):
            if head := head.lstrip(b"\0"):
                stored.put_back(head)
                break
        head, magic = _next_header(stored), COMPRESSION_MAGIC[compression]
        if not magic.startswith(head[: len(magic)]) and compression_of(head) != compression:
            raise _Damaged(
                f"its compressed data ends here and something else follows, found {head[:4].hex(' ')}",
                stored.offset,
                "if no text is missing, cut the file off here (truncate -s); otherwise fetch or make it "
                "again",
            )


def _unpack_part(stored: ByteStream, codec: _Codec, module: Any, window_bytes: int) -> Iterator[bytes]:
    decoder = codec.open(module, window_bytes)
    errors = (OSError, getattr(module, codec.errors)) if codec.errors else OSError
    while not decoder.eof:
        offset, data = stored.offset, b""
        if decoder.needs_input and not (data := stored.take_some()):
            raise _Damaged("it ends in the middle of its compressed data", stored.stored_bytes)
        try:
            piece = decoder.decompress(data, _PIECE_BYTES)
        except errors as error:
            raise _Damaged(
                f"its {codec.name} data is damaged here or a little further on ({error})", offset
            ) from error
        if piece:
            yield piece
    stored.put_back(decoder.unused_data)


def _make_room_for_window(window_bytes: int, codec: _Codec, stored: ByteStream) -> None:
    """Refuse a window over the limit; make room in memory for a large one."""
    size, way_out = format_bytes(window_bytes), f"compress the text again {codec.smaller}"
    if window_bytes > MAX_WINDOW_BYTES:
        raise _Damaged(
            f"{codec.part} needs a window of {size} in memory; the limit is {format_bytes(MAX_WINDOW_BYTES)}",
            stored.offset,
            f"{way_out} ({codec.unpack} unpacks it)",
        )
    if window_bytes > _LARGE_WINDOW_BYTES:
        what = f"{stored.file.path}: {codec.part}, at byte {stored.offset:,}, has a window of {size}"
        n_bytes = window_bytes + _LARGE_WINDOW_BYTES
        stored.make_room(n_bytes, lambda: Need(what, n_bytes, n_bytes, way_out))
