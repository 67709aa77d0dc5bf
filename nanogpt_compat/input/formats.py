"""Determine the format of every input from its first bytes, and from its name if they do not decide it.

The first 64 KiB are read, uncompressed if the input is compressed; also the last bytes of a file that begins
like parquet. A pipe keeps the bytes that were looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nanogpt_compat.errors import InputError
from nanogpt_compat.input import kinds
from nanogpt_compat.input.compressed import ByteStream
from nanogpt_compat.input.fieldpath import alternatives
from nanogpt_compat.input.kinds import Kind, Remedy, inside, unpack
from nanogpt_compat.input.location import Compression, Format, Location, Url
from nanogpt_compat.input.open import open_input
from nanogpt_compat.input.pipes import Pipe
from nanogpt_compat.input.remedies import notices, refusal
from nanogpt_compat.input.samples import foreign_kind, take_samples, trim
from nanogpt_compat.input.signatures import PARQUET_MAGIC, TAIL_BYTES, compression_of
from nanogpt_compat.input.sniff import HEAD_BYTES, RECORDS_IN_TEXT, Look, find_table, sniff, unpacked
from nanogpt_compat.text.documents import NO_DOCUMENTS
from nanogpt_compat.text.utf8 import is_utf8


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options say about the inputs."""

    separator: str | None = None  # between documents
    errors_given: bool = False  # --errors: what to do with undecodable bytes
    skips_bad_records: bool = False
    text_field: str | None = None  # the field of records; None if the option is not given
    may_pipe: bool = True  # one process reads everything, so standard input can be an input
    option: str = "--input"  # the option that names these inputs


def find_formats(
    locations: Sequence[Location], asked: Asked = Asked()
) -> tuple[tuple[Format, ...], list[str]]:
    """Return the format of each input, and notices for the user.

    Raise an InputError that names all inputs that cannot be read or are not text, JSON lines or a table.
    """
    formats: list[Format] = []
    refused: list[tuple[Location, Kind]] = []
    doubtful: list[tuple[Location, Kind]] = []
    damaged: list[InputError] = []
    n_inputs = len(locations)
    for location in locations:
        try:
            compression, look = look_at(location, asked, n_inputs=n_inputs)
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
        raise refusal(refused, damaged, n_inputs=n_inputs, may_pipe=asked.may_pipe, option=asked.option)
    return tuple(formats), notices(doubtful)


def look_at(location: Location, asked: Asked, *, n_inputs: int) -> tuple[Compression, Look]:
    """Return how an input, one of `n_inputs`, is compressed, and what it holds."""
    with open_input(location) as file:
        head = file.read(HEAD_BYTES, 0)
        compression = compression_of(head)
        is_packed = compression != "none"
        is_stored = not is_packed and not isinstance(location, Pipe)  # so any part of it can be read
        if is_packed:
            head = ByteStream(file, compression).read(HEAD_BYTES)
        tail = b"" if is_stored else None
        if is_stored and head.startswith(PARQUET_MAGIC):
            tail = file.read(TAIL_BYTES, max(0, file.size_bytes - TAIL_BYTES))
        is_whole = len(head) < HEAD_BYTES
        look = sniff(
            head, name=unpacked(location.name).name, tail=tail, is_whole=is_whole, separator=asked.separator
        )
        if look.kind is kinds.BINARY and not is_packed and location.name.lower().endswith(".br"):
            look = replace(look, kind=unpack("brotli", "brotli -dc"))  # it has no signature
        look = _look_for_records(look, head, asked)
        is_table = look.container in ("parquet", "arrow") and not is_packed
        is_skipped = look.container != "text" and asked.skips_bad_records  # a record that is not UTF-8
        if not (look.is_refused or is_utf8(head) or is_table or is_skipped):
            samples = [trim(0, head)]
            if is_stored:
                samples = take_samples(file, total_bytes=file.size_bytes, n_inputs=n_inputs)
            kind = foreign_kind(samples, separator=asked.separator, errors_given=asked.errors_given)
            if kind is not None and kind.remedy is not None and look.container in RECORDS_IN_TEXT:
                makes, noun = RECORDS_IN_TEXT[look.container]
                advice = f"or skip such {noun} with --skip-bad-records"
                kind = replace(kind, remedy=replace(kind.remedy, makes=makes), advice=advice)
            if kind is not None:
                look = Look(look.container, kind, is_refused=True)
    if is_packed and look.is_refused and look.kind is not None:
        look = replace(look, kind=inside(kinds.COMPRESSED[compression], look.kind))
    return compression, look


def _look_for_records(look: Look, head: bytes, asked: Asked) -> Look:
    """Look for records in an input that its name makes text; the options decide whether they are meant."""
    wants_records = asked.text_field is not None or asked.skips_bad_records
    if look.kind is kinds.JSON_LINES:
        return Look("jsonl") if wants_records else look
    if look.container != "text" or look.is_refused:
        return look
    names = alternatives(asked.text_field or NO_DOCUMENTS.text_field)
    container = find_table(head, names)
    if container is None:
        return look
    if wants_records:
        return Look(container)
    options = ("--text-field", names[0])
    remedy = Remedy(f"read its column {names[0]!a}", "", makes="itself", options=options)
    return replace(look, kind=Kind(container.upper(), remedy))
