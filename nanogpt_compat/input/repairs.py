r"""Shell commands that convert records to documents.

JSON lines are converted with jq; tables with Python, which is installed and reads a table in bounded memory.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from nanogpt_compat.errors import InputError
from nanogpt_compat.input.kinds import UNPACKERS
from nanogpt_compat.input.location import Format, Location
from nanogpt_compat.input.sniff import CONTAINERS, unpacked
from nanogpt_compat.system.commands import join, python, quote, show, this_command

# Commands that turn almost valid JSON lines into valid ones. Valid lines stay as they are, or equivalent.
ONE_A_LINE = "jq -c ."
ELEMENTS = join("jq", "-cR", r'"[\(sub(",\\s*$"; ""))]" | fromjson[]')
ARRAYS = join("jq", "-c", 'if type == "array" then .[] else . end')
NO_NUL = r"tr -d '\000'"
NO_SEPARATOR = r"tr -d '\036'"
NO_MARK = r"LC_ALL=C sed 's/^\xef\xbb\xbf//'"

# If a command fails half-way, that must not look like the end of the text: this is an invalid record.
FAILED = "echo '{\"failed\":'"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEYWORDS = {
    *("and", "as", "catch", "def", "elif", "else", "end", "foreach", "if", "import", "include", "label"),
    *("module", "or", "reduce", "then", "try"),
}

Steps: TypeAlias = tuple[str | int | None, ...]
"""The way to a text in a record: a field's name, None for every item of a list, 1 for the value in a map."""


class BadRecord(InputError):
    """A record cannot be read as a document: its place, the reason, and what to do about it."""

    def __init__(
        self, where: str, reason: str, *, todo: str = "", repair: str = "", line: int = 1, noun: str = "line"
    ) -> None:
        """`repair` is a command that turns the lines from `line` on into valid JSON lines."""
        self.where = where
        self.reason = reason
        self.advice = f"{todo or f'fix the {noun}'}, or skip such {noun}s with --skip-bad-records"
        self.repair = repair
        self.line = line
        self.noun = noun
        self._todo = todo
        super().__init__(f"{where}: {reason}; {self.advice}")

    def of(self, path: Location, form: Format) -> "BadRecord":
        """Return the error with the name of the input, and a command that repairs it from this record on."""
        todo = convert_lines([path], form, self.repair, first_line=self.line) if self.repair else self._todo
        return BadRecord(f"{path}: {self.where}", self.reason, todo=todo, noun=self.noun)


def convert_lines(
    paths: Sequence[Location], form: Format, command: str, *, first_line: int = 1, is_piped: bool = False
) -> str:
    """Return the advice to convert JSON lines with a command: piped to this program, or to a new file."""
    if not all(isinstance(path, Path) for path in paths):
        return f"pipe it through this command first: {command}"
    names = " ".join(map(quote, paths))
    cat = f"{UNPACKERS.get(form.compression, 'cat')} {names}"
    if first_line > 1:
        made = f"({cat} | head -n {first_line - 1}; {cat} | tail -n +{first_line} | {command})"
    else:
        is_named = command.startswith("jq ") and form.compression == "none"
        made = f"{command} {names}" if is_named else f"{cat} | {command}"
    return _read_instead(paths, made, is_piped=is_piped)


_BATCHES = {
    "parquet": (
        "import pyarrow.parquet as p; batches = lambda f: p.ParquetFile(f).iter_batches(64, "
        "columns=sys.argv[1:2])"
    ),
    "arrow": (
        "from pyarrow import OSFile, ipc; "
        "each = lambda r: map(r.get_batch, range(r.num_record_batches)); "
        "batches = lambda f: each(ipc.open_file(OSFile(f))) if open(f, 'rb').read(6) == b'ARROW1' "
        "else ipc.open_stream(OSFile(f))"
    ),
}


def convert_table(
    paths: Sequence[Location],
    steps: Steps,
    *,
    container: str,
    text_field: str,
    is_number: bool,
    is_piped: bool,
) -> str:
    """Return the advice to convert a column of a table to JSON lines."""
    if not all(isinstance(path, Path) for path in paths):
        return "download it and convert the column to strings"
    column, *rest = steps
    script = (
        f"import json, sys; {_BATCHES[container]}; sys.stdout.writelines("
        f'json.dumps({{{_literal(text_field)}: {_python(rest, is_number=is_number)}}}) + "\\n" '
        f"for f in sys.argv[2:] for b in batches(f) "
        f"for t in b[sys.argv[1]].to_pylist())"
    )
    return _read_instead(paths, f"{python(script)} {join(column, *paths)}", is_piped=is_piped)


def convert_delimited(
    paths: Sequence[Location], form: Format, column: str, delimiter: str, text_field: str, *, is_piped: bool
) -> str:
    """Return the advice to convert a column of a CSV or TSV file to JSON lines."""
    code = (
        "import csv, json; csv.field_size_limit(1 << 30); "
        "rows = csv.DictReader(open(0, encoding='utf-8-sig', newline=''), "
        f"delimiter={delimiter!r}); "
        f"[print(json.dumps({{{_literal(text_field)}: row[{_literal(column)}]}})) for row in rows]"
    )
    return convert_lines(paths, form, python(code), is_piped=is_piped)


def _read_instead(paths: Sequence[Location], made: str, *, is_piped: bool) -> str:
    if is_piped:
        command = f"({made} || {FAILED}) | {this_command('--input', '-', without=['--input'])}"
        return f"convert it with:{show(command)}"
    (path,) = paths
    assert isinstance(path, Path)
    name = unpacked(path.name)
    stem = name.stem if name.suffix.lower() in CONTAINERS else name.name
    target = unused(path.with_name(f"{stem}.text.jsonl"))
    return f"convert it with:{show(f'{made} > {quote(target)}')}\nand read {target} in its place"


def unused(path: Path) -> Path:
    """Return the path, with a number in its name if it exists already."""
    number, free = 2, path
    while free.exists() or free.is_symlink():
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
    return free


def jq(steps: Steps, *, text_field: str, is_number: bool = False, parts: str = "") -> str:
    r"""Return the command that makes documents of the strings at the end of `steps`.

    With `parts`, some of these may be lists of objects, each with a part of the text in this field.

    >>> print(jq(("meta", "my text"), text_field="text"))
    jq -c '{text: .meta["my text"]}'
    >>> print(jq(("messages", None, "content"), text_field="text"))
    jq -c '{text: ([.messages[]?.content] | join("\n"))}'
    """
    path = "".join(map(_step, steps))
    path = path if path.startswith(".") else f".{path}"
    if parts:
        path += f' | if type == "array" then .[]{_step(parts)} else . end'
    if is_number:
        path = f"({path} | if . == null then . else tostring end)"
    key = text_field if _is_plain(text_field) else _literal(text_field)
    text = f'([{path}] | join("\\n"))' if None in steps else path
    return join("jq", "-c", f"{{{key}: {text}}}")


def _step(step: str | int | None) -> str:
    if step is None:
        return "[]?"
    return f".{step}" if isinstance(step, str) and _is_plain(step) else f"[{_literal(step)}]"


def _is_plain(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and name not in _KEYWORDS


def _python(steps: Sequence[str | int | None], *, is_number: bool) -> str:
    """Return a Python expression for the text at the end of `steps` from the value `t`."""
    loops, value = "", "t"
    for k, step in enumerate(steps):
        if step is None:
            loops += f" for v{k} in {value} or []"
            value = f"v{k}"
        elif isinstance(step, str):
            value = f"({value} or {{}}).get({_literal(step)})"
        else:
            value = f"{value}[{step}]"
    if is_number:
        value = f"None if {value} is None else str({value})"
    return f'"\\n".join({value} or ""{loops})' if loops else value


def _literal(value: str | int) -> str:
    """Return a string or number as a literal that is the same in JSON, jq and Python."""
    return json.dumps(value, ensure_ascii=False)
