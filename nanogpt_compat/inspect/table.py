"""Tables and folded text for a terminal of any width."""

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from nanogpt_compat.system.display import visible
from nanogpt_compat.system.redaction import redact
from nanogpt_compat.system.units import format_bytes, format_count, plural

_MOST_ROWS = 20
_SHOWN_CHAR = re.compile(r"\\(?:x..|u.{4}|U.{8}|.)|.", re.DOTALL)  # a character as `visible` returns it
_MIN_NAME = 12
_TITLES = ("tokens", "bytes", "tokens/byte", "documents")
_NARROW = 64  # columns; below, the titles are short, and the gaps small
_SHORT_TITLES = ("tokens", "bytes", "per byte", "docs")


def table_of(inputs: Sequence[Mapping[str, Any]], *, width: int) -> list[str]:
    """Return the table of `inputs` of prepare.json, at most 20 of them, and the sums.

    It has at most `width` columns, if that is 50 or more. Bytes are those of the text, unpacked; JSON lines
    count as whole lines.
    """
    paths = [visible(redact(one["path"])) for one in inputs]
    ends = [min(paths), max(paths)]  # commonpath would take addresses apart
    folder = "" if len(inputs) == 1 else os.path.commonprefix(ends).rpartition("/")[0]  # noqa: RUF071 - see above
    names = [name.removeprefix(folder).lstrip("/") if folder else name for name in paths[:_MOST_ROWS]]
    of_val = (" (val)" if one.get("split") == "val" else "" for one in inputs)
    names = [name + mark for name, mark in zip(names, of_val, strict=False)]
    rows = [_cells(one) for one in inputs[:_MOST_ROWS]]
    if more := inputs[_MOST_ROWS:]:
        names.append(f"and {len(more):,} more")
        rows.append(_cells(_sum(more)))
    if len(inputs) > 1:
        names.append(plural(len(inputs), "input"))
        rows.append(_cells(_sum(inputs)))
    is_narrow = width < _NARROW
    titles, gap = (_SHORT_TITLES, " ") if is_narrow else (_TITLES, "  ")
    columns = [[title, *cells] for title, cells in zip(titles, zip(*rows, strict=True), strict=True)]
    if not any(cells[-1] for cells in rows):  # no documents
        del columns[-1]
    widths = [max(map(len, cells)) for cells in columns]
    room = max(_MIN_NAME, width - sum(widths) - len(gap) * len(widths))
    heading = f"inputs in {folder}/" if folder else "input"
    title, above = (heading, []) if columns_of(heading) <= room else ("input", fold(heading, width=width))
    names = [_shorten(name, room) for name in (title, *names)]
    room = max(map(columns_of, names))
    lines = []
    for name, *cells in zip(names, *columns, strict=True):
        padded = (gap + cell.rjust(size) for cell, size in zip(cells, widths, strict=True))
        lines.append(name + " " * (room - columns_of(name)) + "".join(padded))
    return [*above, *lines]


def _cells(one: Mapping[str, Any]) -> tuple[str, str, str, str]:
    ratio = f"{one['tokens'] / one['text_bytes']:.3f}" if one["text_bytes"] else "-"
    documents = "" if one["documents"] is None else format_count(one["documents"])
    return format_count(one["tokens"]), format_bytes(one["text_bytes"]), ratio, documents


def _sum(inputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {name: sum(one[name] for one in inputs) for name in ("tokens", "text_bytes")}
    documents = [one["documents"] for one in inputs]
    return total | {"documents": None if None in documents else sum(documents)}


def _shorten(name: str, room: int) -> str:
    """Cut a name to `room` columns; keep the end, which matters more than the beginning."""
    if columns_of(name) <= room:
        return name
    while columns_of(name) > room - 3:
        name = name[1:]
    return f"...{name}"


def columns_of(text: str) -> int:
    r"""Return how many columns of a terminal a text takes.

    >>> columns_of("two"), columns_of("\u4e8c\u4e8c")
    (3, 4)
    """
    return sum(
        2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
        if not unicodedata.combining(char)
    )


def fold(text: str, *, width: int, first: str = "", indent: str = "") -> list[str]:
    r"""Fold a text into lines of at most `width` columns, after a space or `\n` near the end if there is one.

    It drops nothing, and keeps what `visible` has escaped in one piece.

    >>> fold("one two three", width=9, first="it: ", indent="  ")
    ['it: one ', '  two ', '  three']
    """
    lines, line, n_columns, end_of_word = [], first, columns_of(first), 0
    for char in _SHOWN_CHAR.findall(text):
        n_char = columns_of(char)
        if n_columns + n_char > width:
            at = end_of_word if end_of_word > width // 2 else len(line)
            lines.append(line[:at])
            line = indent + line[at:]
            n_columns, end_of_word = columns_of(line), 0
        line += char
        n_columns += n_char
        if char in (" ", r"\n"):
            end_of_word = len(line)
    return [*lines, line]
