"""Determine the format of every input from its first bytes; its name only decides what they leave open.

The first 64 KiB are read, uncompressed if the input is compressed; also the last bytes of a file that begins
like parquet. A pipe keeps the bytes that were looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from nanogpt_compat.errors import InputError
from nanogpt_compat.input import kinds
from nanogpt_compat.input.compressed import ByteStream
from nanogpt_compat.input.kinds import inside
from nanogpt_compat.input.local import InputFile
from nanogpt_compat.input.location import Compression, Format, Location, Url
from nanogpt_compat.input.open import open_input
from nanogpt_compat.input.pipes import Pipe
from nanogpt_compat.input.remedies import Found, notices, refusal
from nanogpt_compat.input.samples import Sample, foreign_kind, take_samples, trim
from nanogpt_compat.input.signatures import PARQUET_MAGIC, TAIL_BYTES, compression_of
from nanogpt_compat.input.sniff import COMPRESSED_SUFFIXES, HEAD_BYTES, Look, sniff
from nanogpt_compat.text.utf8 import is_utf8


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options say about the inputs."""

    separator: str | None = None  # between documents
    errors_given: bool = False  # --errors: what to do with undecodable bytes
    skips_bad_records: bool = False
    wants_records: bool = False
    may_pipe: bool = True  # one process reads everything, so standard input can be an input


def find_formats(
    locations: Sequence[Location], asked: Asked = Asked()
) -> tuple[tuple[Format, ...], list[str]]:
    """Return the format of each input, and notices for the user.

    Raise an InputError that names all inputs that cannot be read or are not text, JSON lines or parquet.
    """
    formats: list[Format] = []
    refused: list[Found] = []
    doubtful: list[Found] = []
    damaged: list[InputError] = []
    for location in locations:
        try:
            compression, look = look_at(location, asked, n_inputs=len(locations))
        except InputError as error:
            if isinstance(location, Url):  # a server that is down would have to be waited for again and again
                raise
            damaged.append(error)
            continue
        if look.kind is not None:
            (refused if look.is_refused else doubtful).append((location, look.kind))
        formats.append(Format(look.container, compression))
    if len(damaged) == 1 and not refused:
        raise damaged[0]
    if damaged or refused:
        raise refusal(refused, damaged, n_inputs=len(locations), may_pipe=asked.may_pipe)
    return tuple(formats), notices(doubtful, n_inputs=len(locations), may_pipe=asked.may_pipe)


def look_at(location: Location, asked: Asked = Asked(), *, n_inputs: int = 1) -> tuple[Compression, Look]:
    """Return how an input, one of `n_inputs`, is compressed, and what it holds.

    Raises:
        InputError: it cannot be read, or its beginning cannot be decompressed.
    """
    name = PurePath(location.name)
    if name.suffix.lower() in COMPRESSED_SUFFIXES:
        name = name.with_suffix("")
    with open_input(location) as file:
        head = file.read(HEAD_BYTES, 0)
        compression = compression_of(head)
        if compression == "none":
            return compression, _look_at_file(file, head, name.name, asked, n_inputs)
        contents = ByteStream(file, compression).read(HEAD_BYTES)
    look = _look_at_contents(contents, name.name, asked)
    if look.is_refused:
        look = replace(look, kind=inside(kinds.COMPRESSED[compression], look.kind))
    return compression, look


def _look_at_file(file: InputFile, head: bytes, name: str, asked: Asked, n_inputs: int) -> Look:
    """Look at a file that is not compressed, or in a way that cannot be read."""
    is_pipe = isinstance(file.path, Pipe)
    tail: bytes | None = None if is_pipe else b""
    if not is_pipe and head.startswith(PARQUET_MAGIC):
        tail = file.read(TAIL_BYTES, max(0, file.size_bytes - TAIL_BYTES))
    look = sniff(head, name=name, tail=tail, is_whole=len(head) < HEAD_BYTES, separator=asked.separator)
    if look.kind is kinds.BINARY and file.path.name.lower().endswith(".br"):  # brotli has no signature
        return replace(look, kind=kinds.BROTLI)
    if look.is_refused or look.container == "parquet" or is_utf8(head):
        return _as_asked(look, asked)
    if is_pipe:
        return _look_at_charset(look, [trim(0, head)], asked)
    samples = take_samples(file, total_bytes=file.size_bytes, n_inputs=n_inputs)
    return _look_at_charset(look, samples, asked)


def _look_at_contents(contents: bytes, name: str, asked: Asked) -> Look:
    """Look at the beginning of the uncompressed data."""
    is_whole = len(contents) < HEAD_BYTES
    look = sniff(contents, name=name, tail=None, is_whole=is_whole, separator=asked.separator)
    if look.is_refused or is_utf8(contents):
        return _as_asked(look, asked)
    return _look_at_charset(look, [trim(0, contents)], asked)


def _as_asked(look: Look, asked: Asked) -> Look:
    """Return JSON lines instead of text for a .txt file with JSON lines, if an option is about records."""
    if look.kind is kinds.JSON_LINES and asked.wants_records:
        return Look("jsonl")
    return look


def _look_at_charset(look: Look, samples: Sequence[Sample], asked: Asked) -> Look:
    """Refuse text that is not UTF-8, except JSON lines if bad ones are skipped."""
    look = _as_asked(look, asked)
    if look.container == "jsonl" and asked.skips_bad_records:
        return look
    kind = foreign_kind(samples, separator=asked.separator, errors_given=asked.errors_given)
    if kind is None:
        return look
    if look.container == "jsonl" and kind.remedy is not None:
        advice = "or skip such lines with --skip-bad-records"
        kind = replace(kind, remedy=replace(kind.remedy, makes="records"), advice=advice)
    return Look(look.container, kind, is_refused=True)
