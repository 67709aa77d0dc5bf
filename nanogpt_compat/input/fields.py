"""Check before anything is encoded that each input has text in the field that was asked for.

This reads the first record of JSON lines, and the schema of a table. One error names all inputs that fail.
"""

import json
from collections.abc import Callable, Sequence
from io import BytesIO

from nanogpt_compat.errors import InputError
from nanogpt_compat.input.compressed import ByteStream
from nanogpt_compat.input.jsonl import parse_lines
from nanogpt_compat.input.location import Format, Location
from nanogpt_compat.input.open import open_input
from nanogpt_compat.input.pipes import Pipe
from nanogpt_compat.input.repairs import BadRecord
from nanogpt_compat.input.tables import NoTextColumn
from nanogpt_compat.input.ways_out import STEP_BYTES, Fault, explain, open_table, values_of
from nanogpt_compat.system.units import plural
from nanogpt_compat.text.documents import MAX_RECORD_BYTES
from nanogpt_compat.text.val_split import LOOK_AHEAD_BYTES


def check_text_fields(
    paths: Sequence[Location],
    formats: Sequence[Format],
    *,
    text_field: str,
    skip_bad: bool,
    may_pipe: bool,
    check: Callable[[], None],
) -> None:
    """Raise one InputError for all inputs that do not begin with a document.

    With `skip_bad`, bad records at the beginning are skipped; but if no record of the first megabyte has the
    field, the input is refused. `may_pipe`: this run can read standard input. `check` is called for each
    input.
    """
    faults = []
    inputs = [(path, form) for path, form in zip(paths, formats, strict=True) if form.has_records]
    for path, form in inputs:
        check()
        fault = _look(path, form, text_field, skip_bad, check)
        if fault is not None:
            faults.append(fault)
    if faults:
        raise InputError(explain(faults, inputs, text_field, n_inputs=len(paths), may_pipe=may_pipe))


def _look(
    path: Location, form: Format, text_field: str, skip_bad: bool, check: Callable[[], None]
) -> Fault | None:
    """Check that an input begins with a document; return what is wrong otherwise."""
    try:
        if form.container == "parquet":
            with open_table(path, text_field, check):
                return None
        with open_input(path, check=check) as file:
            stream = ByteStream(file, form.compression)
            found = _look_at_lines(stream, text_field, skip_bad, isinstance(path, Pipe))
            return Fault(path, form, f"{path}: {found}") if found else None
    except NoTextColumn as error:
        return Fault(path, form, error.found)
    except BadRecord as error:
        return Fault(path, form, f"{path}: {error.where}: {error.reason}", error.advice, error.repair)


def _look_at_lines(stream: ByteStream, text_field: str, skip_bad: bool, is_pipe: bool) -> str:
    """Return what is wrong with the beginning of an input; "" if nothing is, or it cannot be known yet.

    Raises:
        BadRecord: the first record is bad, and `skip_bad` is false.
    """
    head = lines = b""
    for n_bytes in (STEP_BYTES, LOOK_AHEAD_BYTES):
        head += stream.read(n_bytes - len(head))
        is_all = len(head) < n_bytes
        lines = head if is_all else head[: head.rfind(b"\n") + 1]
        # If the whole input has no document, the end of the run reports it.
        if _has_document(lines, text_field, skip_bad) or is_all:
            return ""
    if not skip_bad:
        return "" if is_pipe else _look_along_line(stream, head, lines, text_field)
    values = values_of(lines)
    if not values or any(not isinstance(one, dict) or text_field in one for one in values):
        return ""
    (first, *_) = parse_lines(lines, text_field=text_field, skip_bad=True).bad
    return f"none of its first {plural(len(values), 'record')} has the field; {first}"


def _has_document(lines: bytes, text_field: str, skip_bad: bool) -> bool:
    """Return whether the first lines of an input have a document, which may be empty.

    Raises:
        BadRecord: a bad record comes first, and `skip_bad` is false.
    """
    offset = 0
    for number, line in enumerate(BytesIO(lines), 1):
        found = parse_lines(line, text_field=text_field, first_line=number, offset=offset, skip_bad=skip_bad)
        if found.texts or found.n_empty:
            return True
        offset += len(line)
    return False


def _look_along_line(stream: ByteStream, head: bytes, blank: bytes, text_field: str) -> str:
    """Search a first record of more than a megabyte for the field's name, without holding it in memory."""
    name, part = json.dumps(text_field).encode(), head[len(blank) :]
    if not part.lstrip().startswith(b"{") or not text_field.isascii():
        return ""
    n_bytes = 0
    while part and n_bytes < MAX_RECORD_BYTES:
        part, line_end, _ = part.partition(b"\n")
        if name in part:
            return ""
        if line_end:
            break
        n_bytes += len(part)
        rest = stream.read(STEP_BYTES)
        part = part[-len(name) :] + rest if rest else b""
    number = blank.count(b"\n") + 1
    where = f"line {number:,}, at byte {len(blank):,}"
    return f"{where}: no field {text_field!r} in this record"
