"""What an input file holds and how it is compressed, by its name and its first bytes."""

import json
from pathlib import PurePath

from nanogpt_compat.config import Compression, Container, Format, Location
from nanogpt_compat.errors import InputError
from nanogpt_compat.pipes import Pipe
from nanogpt_compat.sources.compressed import (
    GZIP_MAGIC,
    ZSTD_MAGIC,
    ByteStream,
    is_skippable_frame,
)
from nanogpt_compat.sources.opened import open_input
from nanogpt_compat.sources.text import InputFile

PARQUET_MAGIC = b"PAR1"

_COMPRESSED_SUFFIXES = (".gz", ".gzip", ".zst", ".zstd")
_JSONL_SUFFIXES = (".jsonl", ".ndjson")
_SNIFF_BYTES = 1024 * 1024


def has_known_suffix(name: str) -> bool:
    """Whether a file is text, JSON lines or parquet by its name; `.json` may be a note beside them."""
    suffixes = PurePath(name.lower()).suffixes
    is_compressed = bool(suffixes) and suffixes[-1] in _COMPRESSED_SUFFIXES
    suffix = (suffixes[-2:-1] if is_compressed else suffixes[-1:]) or [""]
    return suffix[0] in (*_JSONL_SUFFIXES, ".parquet", ".txt") or (suffix[0] == ".json" and is_compressed)


def detect_format(path: Location) -> Format:
    """Find out what `path` holds.

    How it is compressed its first bytes say, whatever the name; and what begins and ends as a parquet file
    is one. What else is inside the name says: `.jsonl` and `.ndjson`, `.json` where it is compressed,
    `.parquet`, `.txt`. Other names are text, except when the file is compressed, a pipe, or called `.json`
    and its first line is a JSON object. Takes a file read of a few bytes, or of up to 1 MiB of text.

    Raises:
        InputError: the file cannot be read, or not decompressed; or it is parquet and a pipe.
    """
    with open_input(path) as file:
        compression = _compression(file.read(4, 0))
        suffixes = [suffix.lower() for suffix in PurePath(path.name).suffixes]
        if suffixes and suffixes[-1] in _COMPRESSED_SUFFIXES:
            suffixes.pop()
        suffix = suffixes[-1] if suffixes else ""
        return Format(_container(file, suffix, compression), compression)


def _compression(head: bytes) -> Compression:
    if head.startswith(GZIP_MAGIC):
        return "gz"
    if head == ZSTD_MAGIC or is_skippable_frame(head):
        return "zst"
    return "none"


def _container(file: InputFile, suffix: str, compression: Compression) -> Container:
    if _is_parquet(file) or suffix == ".parquet":
        return "parquet"  # if it is not, or compressed as a whole, its reader says so
    if suffix in _JSONL_SUFFIXES or (suffix == ".json" and compression != "none"):
        return "jsonl"
    may_be_jsonl = suffix == ".json" or (
        (compression != "none" or isinstance(file.path, Pipe)) and suffix != ".txt"
    )
    return "jsonl" if may_be_jsonl and _begins_with_object(ByteStream(file, compression)) else "text"


def _is_parquet(file: InputFile) -> bool:
    if isinstance(file.path, Pipe):
        if file.read(4, 0) != PARQUET_MAGIC:
            return False
        raise InputError(
            f"{file.path} is parquet, which begins to be read at its end: write it to a file, and name that"
        )
    end = max(0, file.size_bytes - len(PARQUET_MAGIC))
    return file.read(4, 0) == PARQUET_MAGIC == file.read(4, end) and end >= len(PARQUET_MAGIC)


def _begins_with_object(stream: ByteStream) -> bool:
    """Whether the first line that is not blank is a JSON object, or the beginning of one if it is long.

    To take text for JSON lines is an error that shows at once; the other way round nobody would see it.
    """
    head = stream.read(_SNIFF_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")
    if not head.startswith(b"{"):
        return False
    line, line_end, _ = head.partition(b"\n")
    if not line_end and stream.read(1):
        return True
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
