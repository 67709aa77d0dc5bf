"""The kinds of input that cannot be read as they are, and the commands that convert them."""

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from nanogpt_compat.input.location import Compression
from nanogpt_compat.system import commands

Makes: TypeAlias = Literal[
    "text", "records", "table", "arrow", "csv", "tsv", "folder", "inside", "itself", "nothing"
]
"""What a command makes: `inside` is the data that was compressed; `itself` is the same file, made readable;
`nothing` is for a command that only shows what the file is."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """A shell command that converts the file `{old}` to a format that can be read.

    It writes the result to `{new}`, or to standard output if it has no `{new}`. `piped` is the same command
    from standard input to standard output; "" if there is none.
    """

    aim: str  # follows "to" in messages, as in "convert it"; `it` is the file
    command: str
    piped: str = ""
    makes: Makes = "text"
    options: tuple[str, ...] = ()  # options of prepare.py that read the result
    to_file: bool = False  # the result goes to a file, not into a pipe
    unpacks: bool = False  # the command also undoes the compression around it, as tar does

    @property
    def makes_file(self) -> bool:
        """Whether the command makes something else of the file."""
        return self.makes not in ("itself", "nothing")

    @property
    def is_filter(self) -> bool:
        """Whether the command writes its result to standard output."""
        return "{new}" not in self.command and self.makes_file


@dataclass(frozen=True, slots=True)
class Kind:
    """What an input is, and what to do about it: a command, or advice if there is no command."""

    name: str  # follows "is" in messages
    remedy: Remedy | None = None
    advice: str = ""
    detail: str = ""  # about this file alone


def _convert(name: str, command: str, *, makes: Makes = "text", stdin: str = "") -> Kind:
    """Return a kind that a filter converts; `stdin` is its name for standard input."""
    piped = " ".join(command.replace("< {old}", "").replace("{old}", stdin).split())
    return Kind(name, Remedy("convert it", command, piped, makes, to_file=makes == "text"))


def _unpack(name: str, program: str) -> Kind:
    return Kind(f"compressed with {name}", Remedy("unpack it", f"{program} {{old}}", program, makes="inside"))


def _extract(name: str, command: str) -> Kind:
    return Kind(name, Remedy("unpack it", command, makes="folder"))


# Tables.
_ORC = (
    "import sys; from pyarrow import orc, parquet as pq; "
    "pq.write_table(orc.read_table(sys.argv[1]), sys.argv[2])"
)
ARROW_PACKED = Kind("Arrow", Remedy("write it to a file", "cat {old}", "cat", "arrow", to_file=True))
FEATHER = Kind("a Feather file of version 1", advice="write it as parquet")
ORC = Kind("an ORC file", Remedy("convert it", f"{commands.python(_ORC)} {{old}} {{new}}", makes="table"))
PARQUET_PACKED = Kind("parquet", Remedy("write it to a file", "cat {old}", "cat", "table", to_file=True))
PARQUET_CUT_OFF = Kind("a truncated parquet file", advice="fetch or make the file again")
PARQUET_ENCRYPTED = Kind("encrypted parquet", advice="write it without encryption")
AVRO = Kind("an Avro file", advice="write it as parquet or JSON lines")
SQLITE = Kind("an SQLite database", advice="write its texts to JSON lines")
HDF5 = Kind("an HDF5 file", advice="write its texts to JSON lines")

# JSON that is not one object a line. jq holds all of an array in memory, some ten times its size.
JSON_LINES = Kind(
    "JSON lines", Remedy("read it as JSON lines", "", makes="itself", options=("--text-field", "text"))
)
JSON_ARRAY = _convert("a JSON array", "jq -c '.[]' {old}", makes="records")
JSON_STRINGS = _convert("a JSON array of strings", "jq -c '.[] | {text: .}' {old}", makes="records")
_TEXT_OF_THEM = "give the text that they were made from"
JSON_NUMBERS = Kind("a JSON array of numbers", advice=_TEXT_OF_THEM)
JSON_INDENTED = _convert("JSON objects over several lines", "jq -c . {old}", makes="records")
JSON_SEQUENCE = _convert("a JSON text sequence", "tr -d '\\036' < {old}", makes="records")

# Archives and compressed files.
TAR = Kind(
    "a tar archive",
    Remedy("unpack it", "mkdir -p {new} && tar -xf {old} -C {new}", "tar -xO", "folder", unpacks=True),
)
ZIP = _extract("a zip archive", "mkdir -p {new} && unzip -q {old} -d {new}")
SEVEN_ZIP = _extract("a 7z archive", "7z x -bd -bso0 -o{new} {old}")
RAR = _extract("a rar archive", "7z x -bd -bso0 -o{new} {old}")
OTHER_ARCHIVE = _extract("an archive (ar, cab or cpio)", "7z x -bd -bso0 -o{new} {old}")
COMPRESSED: dict[Compression, Kind] = {  # what can be read as it is, unless something else is inside
    "gz": _unpack("gzip", "gzip -dc"),
    "bz2": _unpack("bzip2", "bzip2 -dc"),
    "xz": _unpack("xz", "xz -dc"),
    "zst": _unpack("zstd", "zstd -dc --long=31"),
}
LZ4 = _unpack("lz4", "lz4 -dc")
LZIP = _unpack("lzip", "lzip -dc")
LZOP = _unpack("lzop", "lzop -dc")
COMPRESS = _unpack("compress", "gzip -dc")
BROTLI = _unpack("brotli", "brotli -dc")
SNAPPY = Kind("compressed with snappy", advice="unpack it first")

# Documents. pandoc reads the formats of most word processors.
PDF = _convert("a PDF document", "pdftotext {old} -", stdin="-")
POSTSCRIPT = _convert("PostScript", "ps2ascii {old}")
RTF = _convert("an RTF document", "pandoc -f rtf -t plain {old}")
DOCX = _convert("a Word document", "pandoc -f docx -t plain {old}")
ODT = _convert("an OpenDocument text", "pandoc -f odt -t plain {old}")
EPUB = _convert("an EPUB book", "pandoc -f epub -t plain {old}")
OFFICE = Kind("an office document", advice="save it as text")
HTML = replace(
    _convert("an HTML page", "pandoc -f html -t plain {old}"),
    advice="if it should be something else, a server may have sent this page instead: fetch the file again",
)
SERVER_ERROR = Kind("a server's error message", advice="fetch the file again")

LFS_POINTER = Kind(
    "a Git LFS pointer instead of the file", Remedy("fetch it", "git -C {folder} lfs pull", makes="itself")
)
ANNEX_POINTER = Kind(
    "a git-annex pointer instead of the file",
    Remedy("fetch it", "git -C {folder} annex get .", makes="itself"),
)

# Numbers, and other data that is not text.
TOKENS = Kind("a file of tokens", advice=f"train on the tokens as they are, or {_TEXT_OF_THEM}")
NUMPY = Kind("a NumPy array", advice=f"if it holds tokens, {_TEXT_OF_THEM}")
PICKLE = Kind("a Python pickle", advice="write its texts to JSON lines")
TORCH = Kind("a torch.save file", advice="write its texts to JSON lines")
WEIGHTS = Kind("model weights", advice="give a text file")
BINARY = Kind("not text", Remedy("see what it is", "file {old}", makes="nothing"))
NUL_BYTES = _convert("text with NUL bytes in it", "tr -d '\\000' < {old}")


def other(name: str) -> Kind:
    """Return the kind of a file that no command can turn into text."""
    return Kind(name, advice="give a text file")


def text_in(charset: str, name: str) -> Kind:
    """Return the kind of text in a charset that iconv knows."""
    program = f"iconv -f {charset} -t UTF-8"
    return Kind(name, Remedy("convert it", f"{program} {{old}}", program, to_file=True))


def with_cr_alone(form: Makes) -> Kind:
    """Return the kind of a table in text as the first Macintosh computers wrote it."""
    program = r"tr '\r' '\n'"
    remedy = Remedy("convert it", f"{program} < {{old}}", program, makes=form, to_file=True)
    return Kind(f"{form.upper()} whose lines end with CR alone", remedy)


def inside(outer: Kind, inner: Kind | None) -> Kind:
    """Return the kind of a file of kind `outer` that holds a file of kind `inner`, such as PDF in bzip2.

    `inner` is None if the file inside can be read as it is.
    """
    unpack = outer.remedy
    if unpack is None or inner is None:
        return outer
    name, remedy = f"{inner.name}, {outer.name}", inner.remedy
    if inner in (PARQUET_PACKED, ARROW_PACKED) and remedy is not None:
        remedy = replace(unpack, to_file=True, makes=remedy.makes)
    elif remedy is not None and not remedy.piped:
        remedy = replace(unpack, to_file=True)
    elif inner in COMPRESSED.values():
        remedy = unpack
    elif remedy is not None and not remedy.unpacks:
        command, piped = f"{unpack.command} | {remedy.piped}", f"{unpack.piped} | {remedy.piped}"
        remedy = replace(remedy, command=command, piped=piped)
    return Kind(name, remedy, inner.advice)
