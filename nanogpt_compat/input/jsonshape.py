r"""How JSON is laid out in a file, by its first bytes: a value a line, or otherwise. Pure.

>>> shape_of('{"text": "a"}\n{"text": "b"}\n'), shape_of('[{"text": "a"}]'), shape_of('{\n "text": "a"\n}\n')
('lines', 'array', 'indented')
>>> shape_of('"No," she said.\n'), shape_of("[Illustration]\n"), shape_of("{{Infobox}}\n")
(None, None, None)
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

Shape: TypeAlias = Literal["lines", "array", "strings", "numbers", "indented"]
"""An `array` of objects or arrays; of `strings`, or `numbers`; `indented`: objects over several lines."""

_MAX_LINES = 64  # that are parsed
_BLANK = " \t\r\n"
_KEY = re.compile(r'\{\s*(?:"(?:[^"\\\n]|\\.)*"\s*:|\})')
_SHORT_CHARS = 1000
_LONGEST_ESCAPE = len("\\ud83d")
# int() refuses numbers of more than 4,300 digits, and no number is looked at.
_parse = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode


def shape_of(text: str) -> Shape | None:
    """Return how JSON is laid out in what begins with `text`; None if it is no JSON.

    A line that is wrong does not make JSON lines something else: that is for their reader to report.
    """
    text = text.lstrip(_BLANK)
    if text.startswith("["):
        return _shape_of_array(text)
    if text.startswith("{") and _KEY.match(text):
        return _shape_of_objects(text)
    if text.startswith('"') and (_is_long_string(text) or _are_values(text)):
        return "lines"
    return "lines" if _are_objects(_later_lines(text)) else None


def _shape_of_objects(text: str) -> Shape:
    """Tell objects over several lines from one on each line, the first of which may be wrong."""
    line_end = text.find("\n")
    if line_end < 0:
        return "lines"
    try:
        _, end = _parse(text)
    except RecursionError:
        return "lines"
    except json.JSONDecodeError as error:
        # No string goes on behind a line end, so what is parsed beyond one is laid out over lines.
        goes_on = error.pos > line_end
        return "indented" if goes_on and not _are_objects(_later_lines(text)) else "lines"
    return "indented" if end > line_end else "lines"


def _shape_of_array(text: str) -> Shape | None:
    try:
        found, end = _parse(text)
    except RecursionError:
        return "array"
    except json.JSONDecodeError as error:
        return _kind_of_array(text) if _is_cut_off(text, error) or _has_element(text) else None
    rest = text[end:].lstrip(" \t\r")
    following = rest.lstrip(_BLANK)
    if not following:
        return _kind_of_array(text) if found else "array"
    return "lines" if rest.startswith("\n") and following[0] in "[{" else None


def _has_element(text: str) -> bool:
    """Whether an object and a comma begin an array; what follows may be wrong, such as a comma too many."""
    start = len(text) - len(text[1:].lstrip(_BLANK))
    if not text.startswith("{", start):
        return False
    try:
        found, end = _parse(text, start)
    except (json.JSONDecodeError, RecursionError):
        return False
    return isinstance(found, dict) and bool(found) and text[end:].lstrip(_BLANK).startswith(",")


def _kind_of_array(text: str) -> Shape:
    """Tell arrays by the first thing that is no bracket.

    >>> [_kind_of_array(text) for text in ('["a"]', "[[1, 2]]", '[[{"role"', "[true")]
    ['strings', 'numbers', 'array', 'array']
    """
    inner = text.lstrip("[" + _BLANK)
    if inner.startswith('"'):
        return "strings" if text[1:].lstrip(_BLANK).startswith('"') else "array"
    return "numbers" if inner[:1] in "-0123456789" and inner else "array"


def _is_cut_off(text: str, error: json.JSONDecodeError) -> bool:
    """Whether the text is good up to its end, where a value is unfinished; in a long one perhaps a number."""
    end = len(text) - (_LONGEST_ESCAPE if len(text) > _SHORT_CHARS else 0)
    return len(text) > 1 and (error.msg.startswith("Unterminated string") or error.pos >= end)


def _is_long_string(text: str) -> bool:
    """Whether all there is to see is the beginning of one string, with something that had to be escaped."""
    try:
        _parse(text)
    except json.JSONDecodeError as error:
        is_open = error.pos == 0 and error.msg.startswith("Unterminated string")
        return is_open and len(text) > _SHORT_CHARS and "\\" in text
    return False


def _are_values(text: str) -> bool:
    """Whether all lines are JSON values: a text in which each line is in quotes is rare."""
    lines = list(_lines(text))
    return all(_value(line) is not None for line in lines)


def _are_objects(lines: list[str]) -> bool:
    """Whether at least half of the lines, and at least one, are JSON objects."""
    n_objects = sum(isinstance(_value(line), dict) for line in lines if line.startswith("{"))
    return n_objects > 0 and 2 * n_objects >= len(lines)


def _later_lines(text: str) -> list[str]:
    return list(_lines(text))[1:]


def _lines(text: str) -> Iterator[str]:
    """Yield the first lines that are not blank, of the last one only if it is whole or the only one."""
    n_lines = start = 0
    while start < len(text) and n_lines < _MAX_LINES:
        end = text.find("\n", start)
        line = text[start : end if end >= 0 else len(text)].strip(_BLANK)
        if line and (end >= 0 or n_lines == 0 or _value(line) is not None):
            yield line
            n_lines += 1
        start = end + 1 if end >= 0 else len(text)


def _value(line: str) -> Any:
    """Parse a line; None if it is no JSON value, or null."""
    try:
        found, end = _parse(line)
    except (json.JSONDecodeError, RecursionError):
        return None
    return None if end < len(line) else found
