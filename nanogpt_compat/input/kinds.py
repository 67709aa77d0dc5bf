"""The kinds of input that cannot be read as they are, and the commands that convert them.

Those that are named once are in `signatures` and `sniff`, next to what they are recognised by.
"""

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from nanogpt_compat.input.location import Compression

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
    options: tuple[str, ...] = ()  # of prepare.py, instead of a command
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


def convert(name: str, command: str, *, makes: Makes = "text", stdin: str = "") -> Kind:
    """Return a kind that a filter converts; `stdin` is its name for standard input."""
    piped = " ".join(command.replace("< {old}", "").replace("{old}", stdin).split())
    return Kind(name, Remedy("convert it", command, piped, makes, to_file=makes != "records"))


def text_in(charset: str, name: str) -> Kind:
    """Return the kind of text in a charset that iconv knows."""
    return convert(name, f"iconv -f {charset} -t UTF-8 {{old}}")


def unpack(name: str, program: str) -> Kind:
    """Return the kind of a compressed file."""
    return Kind(f"compressed with {name}", Remedy("unpack it", f"{program} {{old}}", program, makes="inside"))


def other(name: str) -> Kind:
    """Return the kind of a file that no command can turn into text."""
    return Kind(name, advice="give a text file")


UNPACKERS: dict[Compression, str] = {
    "gz": "gzip -dc",
    "bz2": "bzip2 -dc",
    "xz": "xz -dc",
    "zst": "zstd -dc --long=31",
}
# These can be read as they are, unless something else is inside.
COMPRESSED = {form: unpack(program.partition(" ")[0], program) for form, program in UNPACKERS.items()}

ARROW_PACKED = Kind("Arrow", Remedy("write it to a file", "cat {old}", "cat", "arrow", to_file=True))
PARQUET_PACKED = Kind("parquet", Remedy("write it to a file", "cat {old}", "cat", "table", to_file=True))
PARQUET_CUT_OFF = Kind("a truncated parquet file", advice="fetch or make the file again")

# pandoc reads the formats of most word processors.
PDF = convert("a PDF document", "pdftotext {old} -", stdin="-")
POSTSCRIPT = convert("PostScript", "ps2ascii {old}")
RTF = convert("an RTF document", "pandoc -f rtf -t plain {old}")
HTML = replace(
    convert("an HTML page", "pandoc -f html -t plain {old}"),
    advice="if it should be something else, a server may have sent this page instead: fetch the file again",
)

JSON_LINES = Kind(
    "JSON lines", Remedy("read it as JSON lines", "", makes="itself", options=("--text-field", "text"))
)
GIVE_THE_TEXT = "give the text that they were made from"
TOKENS = Kind("a file of tokens", advice=f"train on the tokens as they are, or {GIVE_THE_TEXT}")
BINARY = Kind("not text", Remedy("see what it is", "file {old}", makes="nothing"))
NUL_BYTES = convert("text with NUL bytes in it", "tr -d '\\000' < {old}")


def inside(outer: Kind, inner: Kind) -> Kind:
    """Return the kind of a file of kind `outer` that holds a file of kind `inner`, such as PDF in bzip2."""
    unpack, remedy = outer.remedy, inner.remedy
    if unpack is not None and remedy is not None:
        if inner in (PARQUET_PACKED, ARROW_PACKED):
            remedy = replace(unpack, to_file=True, makes=remedy.makes)
        elif not remedy.piped:
            remedy = replace(unpack, to_file=True)
        elif inner in COMPRESSED.values():
            remedy = unpack
        elif not remedy.unpacks:
            command, piped = f"{unpack.command} | {remedy.piped}", f"{unpack.piped} | {remedy.piped}"
            remedy = replace(remedy, command=command, piped=piped)
    return Kind(f"{inner.name}, {outer.name}", remedy, inner.advice)
