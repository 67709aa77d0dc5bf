"""Recognise files that are not text by the bytes that they begin with. Pure.

A signature made of letters counts only if binary data follows: a novel may begin with "BM" or "PK".
"""

import re
import struct

import numpy as np

from nanogpt_compat.input import kinds
from nanogpt_compat.input.kinds import Kind, Remedy, convert, other, unpack
from nanogpt_compat.input.location import Compression
from nanogpt_compat.system.commands import python

COMPRESSION_MAGIC: dict[Compression, bytes] = {
    "gz": b"\x1f\x8b",
    "bz2": b"BZh",
    "xz": b"\xfd7zXZ\0",
    "zst": b"\x28\xb5\x2f\xfd",
}
PARQUET_MAGIC = b"PAR1"
ARROW_MAGIC = b"ARROW1\0\0"  # the messages of a file follow
TAIL_BYTES = 8  # parquet ends with the size of its footer, and the signature again

_AFTER_MAGIC: dict[Compression, bytes] = {  # patterns
    "gz": rb"\x08|\Z",
    "bz2": rb"[1-9](?:1AY&SY|\x17rE8P\x90)",  # the digits of pi, or of its root
}
_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")  # a zstd frame without text
_CONTROLS = bytes(range(32))
_TAR_BLOCK_BYTES = 512
_MOST_HEADER_BYTES = 1 << 30
_MOST_FOOTER_BYTES = 1 << 29  # four letters, read as a size, exceed it
_GPT2_TOKENS = 50_257
_MERGED = 1000  # GPT-2's tokens of several letters have larger numbers
_COMMA_AND_STOP = (11, 13)  # GPT-2's tokens; 0 is an exclamation mark
_LEAST_STOPS = 0.01


def _extract(name: str, command: str = "7z x -bd -bso0 -o{new} {old}") -> Kind:
    return Kind(name, Remedy("unpack it", command, makes="folder"))


_TAR_COMMAND = "mkdir -p {new} && tar -xf {old} -C {new}"
_TAR = Kind("a tar archive", Remedy("unpack it", _TAR_COMMAND, "tar -xO", "folder", unpacks=True))
_ZIP = _extract("a zip archive", "mkdir -p {new} && unzip -q {old} -d {new}")
_OTHER_ARCHIVE = _extract("an archive (ar, cab or cpio)")
_NUMPY = Kind("a NumPy array", advice=f"if it holds tokens, {kinds.GIVE_THE_TEXT}")
_WEIGHTS = other("model weights")
_OFFICE = Kind("an office document", advice="save it as text")
_TEXTS_INSIDE = "write its texts to JSON lines"
_ORC = (
    "import sys; from pyarrow import orc, parquet as pq; "
    "pq.write_table(orc.read_table(sys.argv[1]), sys.argv[2])"
)
_SIGNATURES: dict[Kind, tuple[bytes, ...]] = {
    kinds.COMPRESSED["bz2"]: (COMPRESSION_MAGIC["bz2"],),  # damaged
    unpack("lz4", "lz4 -dc"): (b"\x04\x22\x4d\x18", b"\x02\x21\x4c\x18"),
    unpack("lzip", "lzip -dc"): (b"LZIP",),
    unpack("lzop", "lzop -dc"): (b"\x89LZO\0",),
    unpack("compress", "gzip -dc"): (b"\x1f\x9d", b"\x1f\xa0"),
    Kind("compressed with snappy", advice="unpack it first"): (b"\xff\x06\0\0sNaPpY",),
    _extract("a 7z archive"): (b"7z\xbc\xaf\x27\x1c",),
    _extract("a rar archive"): (b"Rar!\x1a\x07",),
    _OTHER_ARCHIVE: (b"MSCF\0\0\0\0", b"\xc7\x71", b"\x71\xc7"),
    Kind("encrypted parquet", advice="write it without encryption"): (b"PARE",),
    Kind("a Feather file of version 1", advice="write it as parquet"): (b"FEA1",),
    Kind("an ORC file", Remedy("convert it", f"{python(_ORC)} {{old}} {{new}}", makes="table")): (b"ORC",),
    Kind("an Avro file", advice="write it as parquet or JSON lines"): (b"Obj\x01",),
    Kind("an SQLite database", advice=_TEXTS_INSIDE): (b"SQLite format 3\0",),
    Kind("an HDF5 file", advice=_TEXTS_INSIDE): (b"\x89HDF\r\n\x1a\n",),
    _NUMPY: (b"\x93NUMPY",),
    kinds.TOKENS: (b"MMIDIDX\0\0", *(struct.pack("<i", number) for number in (20240520, 20240801))),  # llm.c
    _WEIGHTS: (b"GGUF", *(struct.pack("<i", number) for number in (20240326, 20240327))),
    Kind("a Python pickle", advice=_TEXTS_INSIDE): (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5"),
    _OFFICE: (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",),
    kinds.PDF: (b"%PDF-",),
    kinds.RTF: (b"{\\rtf",),
    kinds.POSTSCRIPT: (b"%!PS", b"\xc5\xd0\xd3\xc6"),
    other("a message catalogue (.mo)"): (b"\xde\x12\x04\x95", b"\x95\x04\x12\xde"),
    other("a DjVu document"): (b"AT&TFORM",),
    other("a program"): (b"\x7fELF", b"MZ", b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe", b"\0asm"),
    other("a picture (PNG)"): (b"\x89PNG\r\n\x1a\n",),
    other("a picture (JPEG)"): (b"\xff\xd8\xff",),
    other("a picture (GIF)"): (b"GIF8",),
    other("a picture (BMP)"): (b"BM",),
    other("a picture (TIFF)"): (b"II*\0", b"MM\0*"),
    other("sound, video or a picture (RIFF)"): (b"RIFF",),
    other("sound (Ogg)"): (b"OggS",),
    other("sound (FLAC)"): (b"fLaC",),
    other("sound (MP3)"): (b"ID3",),
    other("a video (Matroska)"): (b"\x1a\x45\xdf\xa3",),
}
_ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_ZIP_MEMBERS = {  # a pattern for a file's name, and for `mimetype` also the beginning of its content
    rb"word/": convert("a Word document", "pandoc -f docx -t plain {old}"),
    rb"(?:xl|ppt)/": _OFFICE,
    rb"mimetypeapplication/epub\+zip": convert("an EPUB book", "pandoc -f epub -t plain {old}"),
    rb"mimetypeapplication/vnd\.oasis\.opendocument\.text": convert(
        "an OpenDocument text", "pandoc -f odt -t plain {old}"
    ),
    rb"mimetypeapplication/vnd\.oasis\.opendocument": _OFFICE,
    rb"[^/]*/?data\.pkl$": Kind("a torch.save file", advice=_TEXTS_INSIDE),
    rb"[^/]*\.npy$": _NUMPY,
}


def compression_of(head: bytes) -> Compression:
    """Return how a file that begins with `head` is compressed, of the ways that can be read."""
    for compression, magic in COMPRESSION_MAGIC.items():
        more = _AFTER_MAGIC.get(compression, b"")
        if head.startswith(magic) and re.match(more, head[len(magic) :]):
            return compression
    return "zst" if _SKIPPABLE.match(head) else "none"


def is_parquet(head: bytes, tail: bytes) -> bool:
    """Check that a file with this beginning and end is parquet."""
    n_footer_bytes = int.from_bytes(tail[-TAIL_BYTES : -len(PARQUET_MAGIC)], "little")
    ends = len(tail) >= TAIL_BYTES and tail.endswith(PARQUET_MAGIC) and n_footer_bytes < _MOST_FOOTER_BYTES
    return head.startswith(PARQUET_MAGIC) and ends


def is_arrow(head: bytes) -> bool:
    """Check for an Arrow file, or a stream: it begins with a marker and the size of the metadata."""
    if head.startswith(ARROW_MAGIC):
        return True
    if not head.startswith(b"\xff\xff\xff\xff") or len(head) < 16:
        return False
    n_bytes = int.from_bytes(head[4:8], "little")
    return n_bytes % 8 == 0 and 0 < n_bytes < 1 << 28


def signature_of(head: bytes, *, is_text: bool) -> Kind | None:
    """Return the kind of a file that begins with `head`; None if its signature is not known.

    `is_text`: all bytes of it may be text. Parquet is recognised by its end, in `is_parquet`.
    """
    if _is_tar(head):
        return _TAR
    if (compression := compression_of(head)) != "none":
        return kinds.COMPRESSED[compression]
    # An ar or cpio archive is ASCII except for the files inside, so it may look like text.
    is_ar = head.startswith(b"!<arch>\n") and head[66:68] == b"`\n"
    if is_ar or re.match(rb"07070[127][0-7a-fA-F]{40}", head) is not None:
        return _OTHER_ARCHIVE
    if head.startswith(_ZIP_MAGICS):
        return _kind_of_zip(head)
    if head.startswith(PARQUET_MAGIC) and not is_text:
        return kinds.PARQUET_CUT_OFF
    if head[8:10] == b'{"' and 0 < int.from_bytes(head[:8], "little") < _MOST_HEADER_BYTES:
        return _WEIGHTS  # safetensors
    if head[:2] == b"\0\0" and head[4:8] == b"ftyp":
        return other("a video or a picture (MP4)")
    return next(
        (
            kind
            for kind, magics in _SIGNATURES.items()
            for magic in magics
            if head.startswith(magic) and not (is_text and magic.translate(None, _CONTROLS) == magic)
        ),
        None,
    )


def _is_tar(head: bytes) -> bool:
    """Check that `head` begins with a tar header, by its checksum: older ones have no `ustar` in them."""
    block = head[:_TAR_BLOCK_BYTES]
    if len(block) < _TAR_BLOCK_BYTES or not block[0]:
        return False
    try:
        stored = int(block[148:156].strip(b"\0 "), 8)
    except ValueError:
        return False
    rest = block[:148] + b" " * 8 + block[156:]
    return stored in (sum(rest), sum(np.frombuffer(rest, np.int8).tolist()))  # some programs sum signed bytes


def _kind_of_zip(head: bytes) -> Kind:
    """Return the kind of a zip archive by the first files in it: a Word document is one, for example."""
    for match in re.finditer(rb"PK\x03\x04", head):
        header = head[match.start() : match.start() + 30]
        if len(header) < 30:
            break
        n_name, n_extra = struct.unpack("<HH", header[26:30])
        name = head[match.start() + 30 :][:n_name]
        if name == b"mimetype":
            name += head[match.start() + 30 + n_name + n_extra :][:64]
        for pattern, kind in _ZIP_MEMBERS.items():
            if re.match(pattern, name):
                return kind
    return _ZIP


def are_tokens(head: bytes) -> bool:
    """Check for GPT-2's tokens as uint16: many commas and full stops, few exclamation marks."""
    numbers = np.frombuffer(head[: len(head) // 2 * 2], "<u2")
    if not len(numbers) or not _MERGED < numbers.max() < _GPT2_TOKENS:
        return False
    n_stops, n_zeros = np.isin(numbers, _COMMA_AND_STOP).sum(), (numbers == 0).sum()
    return bool(n_stops > len(numbers) * _LEAST_STOPS and n_zeros < n_stops)
