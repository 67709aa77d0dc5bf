"""Determine what an input holds from its first bytes, and from its name if they do not decide it. Pure.

A signature made of letters is not enough to refuse a text: a novel may begin with "BM", prose with "[" or
'"', and Markdown with a piece of HTML. The bytes that follow must confirm it.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from nanogpt_compat.input import kinds
from nanogpt_compat.input.cells import parse_header, parse_record
from nanogpt_compat.input.charsets import MAX_BAD_SHARE, quiet_charset
from nanogpt_compat.input.jsonshape import Shape, shape_of
from nanogpt_compat.input.kinds import Kind, Makes, Remedy, convert, inside, text_in
from nanogpt_compat.input.location import Container
from nanogpt_compat.input.signatures import are_tokens, is_arrow, is_parquet, signature_of
from nanogpt_compat.text.utf8 import is_utf8

HEAD_BYTES = 64 * 1024  # bytes at the beginning of an input that are looked at, uncompressed

_COMPRESSED_SUFFIXES = (".gz", ".gzip", ".zst", ".zstd", ".bz2", ".xz")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".jl", ".jsonlines", ".ldjson", ".json")

CONTAINERS: dict[str, Container] = {
    **dict.fromkeys(JSON_SUFFIXES, "jsonl"),
    ".parquet": "parquet",  # the reader of a binary table refuses anything else
    ".arrow": "arrow",
    ".feather": "arrow",
    ".csv": "csv",
    ".tsv": "tsv",
}
RECORDS_IN_TEXT: dict[Container, tuple[Makes, str]] = {
    "jsonl": ("records", "lines"),
    "csv": ("csv", "records"),
    "tsv": ("tsv", "records"),
}
"""What a command that changes the charset makes of them, and what they consist of."""

_BOM = b"\xef\xbb\xbf"
_BINARY = bytes({*range(32), 127} - set(b"\b\t\n\v\f\r\x1a\x1b"))  # bytes not used in text; man pages have \b
_HTML = re.compile(r"<(?:!doctype\s+html|html)\b", re.IGNORECASE)
_HTML_INSIDE = re.compile(r"<(?:head|body|title|meta)\b|</html>", re.IGNORECASE)
_TITLE = re.compile(r"<title[^>]*>\s*([^<]{1,60})", re.IGNORECASE)
_SERVER_ERROR = re.compile(r"<\?xml[^>]*>\s*<Error>\s*<Code>(\w+)")
# Pointers to a file elsewhere: a pattern for all of one, the name, and the command that fetches the file.
_POINTERS = (
    (r"version https://(?:git-lfs|hawser)\.github\.com/spec/v1\n", "Git LFS", "lfs pull"),
    (r"/annex/objects/[^\n]+\n?\Z", "git-annex", "annex get ."),
)
_JSON_SEQUENCE = convert("a JSON text sequence", "tr -d '\\036' < {old}", makes="records")
# jq holds all of an array in memory, some ten times its size.
_OTHER_SHAPES: dict[Shape, Kind] = {
    "array": convert("a JSON array", "jq -c '.[]' {old}", makes="records"),
    "strings": convert("a JSON array of strings", "jq -c '.[] | {text: .}' {old}", makes="records"),
    "numbers": Kind("a JSON array of numbers", advice=kinds.GIVE_THE_TEXT),
    "indented": convert("JSON objects over several lines", "jq -c . {old}", makes="records"),
}
_MARKUP = {"<mediawiki": Kind("a MediaWiki dump"), "<?xml": Kind("XML"), "WARC/1.": Kind("a WARC archive")}
# Text may have some, such as mIRC's colours and other programs' separators; compressed data has 10 %.
_MAX_CONTROL_SHARE = 0.05
_BEGINNING_BYTES = 64  # a binary header has sizes, flags and the like here
_MOST_POINTER_CHARS = 1024


@dataclass(frozen=True, slots=True)
class Look:
    """How an input is read. `kind` is what it is, if the user must know, or why it is refused."""

    container: Container = "text"
    kind: Kind | None = None
    is_refused: bool = False


def unpacked(name: str) -> PurePath:
    """Return the name of a file without the suffix of its compression."""
    path = PurePath(name)
    return path.with_suffix("") if path.suffix.lower() in _COMPRESSED_SUFFIXES else path


def sniff(
    head: bytes, *, name: str, tail: bytes | None = b"", is_whole: bool = True, separator: str | None = None
) -> Look:
    r"""Determine what an input holds if it begins with `head` and ends with `tail`, both uncompressed.

    `tail`: None if it is not known. `name`: without the suffix of the compression. `is_whole`: `head` is all
    of the input. `separator` stands between documents, and is ignored. Text in an older charset counts as
    text here.

    >>> sniff(b"%PDF-1.7\n1 0 obj", name="a.txt").kind.name, sniff(b"%PDF- begins PDF", name="a.txt").kind
    ('a PDF document', None)
    """
    suffix = PurePath(name.lower()).suffix
    by_name = CONTAINERS.get(suffix, "text")
    if tail is not None and is_parquet(head, tail):
        return Look("parquet")
    if is_arrow(head):  # such a table must be a file
        return Look("arrow") if tail is not None else Look("arrow", kinds.ARROW_PACKED, is_refused=True)
    text = head if separator is None else head.replace(separator.encode(), b"")
    binary = find_binary([text])
    is_text = binary is None and find_binary([head[:_BEGINNING_BYTES]]) is None
    kind = signature_of(head, is_text=is_text)
    if kind is kinds.PARQUET_CUT_OFF and tail is None:
        kind = kinds.PARQUET_PACKED
    if kind is None and text.startswith(b"\x1e{"):
        kind = _JSON_SEQUENCE
    if kind is None and binary is not None and are_tokens(text):
        kind = kinds.TOKENS
    if kind is None and (binary is not None or b"\x1b$" in text or not is_utf8(text)):
        if (charset := quiet_charset(text)) is not None:
            return _look_inside(text, charset, name)
        kind = None if by_name in ("parquet", "arrow") else binary
    lines = Look("jsonl")
    if kind is kinds.NUL_BYTES and sniff(text.translate(None, b"\0"), name=name, is_whole=is_whole) == lines:
        return lines  # their reader reports the bad line, or skips it if an option says so
    if kind is not None:
        return Look(by_name, kind, is_refused=True)
    return _look_at_text(text.removeprefix(_BOM).decode("latin-1"), suffix, by_name, is_whole=is_whole)


def find_table(head: bytes, wanted: Collection[str]) -> Container | None:
    """Return the format of a table in text that begins with `head`, and has a column of a wanted name.

    Only the header distinguishes it from other text. So all records in `head` must have as many cells.
    """
    header = parse_header(head, wanted=wanted)
    if header is None or len(header.columns) < 2 or {*wanted}.isdisjoint(header.columns):
        return None
    n_records, start = 0, header.end
    while start < len(head):
        record = parse_record(head, start, header.delimiter.encode(), 0)
        start = record.end
        if start < len(head) or len(head) < HEAD_BYTES:
            if record.fault or record.n_cells not in (0, len(header.columns)):
                return None
            n_records += 1
    return None if not n_records else "tsv" if header.delimiter == "\t" else "csv"


def find_binary(parts: Sequence[bytes]) -> Kind | None:
    """Return the kind of data with many bytes that text does not have; None if there are few of them."""
    n_bytes, n_nul = sum(map(len, parts)), sum(part.count(0) for part in parts)
    n_binary = sum(len(part) - len(part.translate(None, _BINARY)) for part in parts)
    if n_nul <= n_bytes * MAX_BAD_SHARE and n_binary <= n_bytes * _MAX_CONTROL_SHARE:
        return None
    is_text = n_binary == n_nul < n_bytes and all(  # each part is mostly UTF-8
        len(part.decode("utf-8", "ignore").encode()) >= len(part) * (1 - MAX_BAD_SHARE) for part in parts
    )
    return kinds.NUL_BYTES if is_text else kinds.BINARY


def _look_inside(head: bytes, charset: str, name: str) -> Look:
    """Look at text whose charset is known."""
    text = head[: len(head) // 4 * 4].decode(charset, "replace").removeprefix("\ufeff")
    look = sniff(text.encode(), name=name)
    outer = text_in(charset, f"{charset} text")
    if look.is_refused and look.kind is not None:
        return replace(look, kind=inside(outer, look.kind))
    if look.container in RECORDS_IN_TEXT:
        remedy = outer.remedy and replace(outer.remedy, makes=RECORDS_IN_TEXT[look.container][0])
        name = "JSON lines" if look.container == "jsonl" else look.container.upper()
        return Look(look.container, Kind(f"{name} in {charset}", remedy), is_refused=True)
    return Look("text", outer, is_refused=True)


def _look_at_text(text: str, suffix: str, by_name: Container, *, is_whole: bool) -> Look:
    """Look at bytes that may be text, decoded as Latin-1: only the ASCII characters are what they seem."""
    start = text.lstrip()
    if (kind := _kind_of_document(start, suffix, is_whole=is_whole)) is not None:
        return Look(by_name, kind, is_refused=True)
    shape = shape_of(start)
    if by_name in ("csv", "tsv") and shape in (None, "lines"):
        if "\r" not in start.partition("\n")[0].rstrip("\r"):
            return Look(by_name)
        name = f"{by_name.upper()} whose lines end with CR alone"  # as the first Macintosh computers wrote it
        makes, _ = RECORDS_IN_TEXT[by_name]
        return Look(by_name, convert(name, r"tr '\r' '\n' < {old}", makes=makes), is_refused=True)
    if shape == "lines":
        # A file named .txt is meant to be read as text.
        return Look("text", kinds.JSON_LINES) if suffix == ".txt" else Look("jsonl")
    if shape is not None:
        return Look("jsonl", _OTHER_SHAPES[shape], is_refused=True)
    if by_name != "text":
        return Look(by_name)
    if _is_html(start):
        return Look("text", Kind("HTML pages"))
    return Look("text", next((kind for opening, kind in _MARKUP.items() if start.startswith(opening)), None))


def _kind_of_document(start: str, suffix: str, *, is_whole: bool) -> Kind | None:
    """Return the kind of text that is probably not what was meant, such as an HTML page or a pointer."""
    if is_whole and len(start) < _MOST_POINTER_CHARS:
        for pattern, name, command in _POINTERS:
            if re.match(pattern, start):
                remedy = Remedy("fetch it", f"git -C {{folder}} {command}", makes="itself")
                return Kind(f"a {name} pointer instead of the file", remedy)
    if start.startswith("%PDF-") and " obj" in start:
        return kinds.PDF
    if re.match(r"%!PS-Adobe|%!PS\s", start):
        return kinds.POSTSCRIPT
    if re.match(r"\{\\rtf\d?\\", start):
        return kinds.RTF
    if (match := _SERVER_ERROR.match(start)) is not None:
        return Kind("a server's error message", advice="fetch the file again", detail=f" ({match[1]})")
    # A .txt made of many HTML pages is meant to be the text.
    if _is_html(start) and (is_whole or suffix != ".txt"):
        if (title := _TITLE.search(start)) is None:
            return kinds.HTML
        title_in_utf8 = title[1].encode("latin-1").decode("utf-8", "replace")
        return replace(kinds.HTML, detail=f" with the title {title_in_utf8.strip()!a}")
    return None


def _is_html(start: str) -> bool:
    """Check for the beginning of an HTML page, perhaps after an XML declaration and comments."""
    for opening, closing in (("<?xml", "?>"), ("<!--", "-->"), ("<!--", "-->")):
        if start.startswith(opening):
            start = start.partition(closing)[2].lstrip()
    return _HTML.match(start) is not None and _HTML_INSIDE.search(start) is not None
