r"""Determine how JSON is laid out in a file, from its first bytes: one value a line, or otherwise. Pure.

>>> shape_of('{"text": "a"}\n{"text": "b"}\n'), shape_of('[{"text": "a"}]'), shape_of('{\n "text": "a"\n}\n')
('lines', 'array', 'indented')
>>> shape_of('"No," she said.\n'), shape_of("[Illustration]\n"), shape_of("{{Infobox}}\n")
(None, None, None)
"""

import json
import re
from typing import Any, Literal, TypeAlias

Shape: TypeAlias = Literal["lines", "array", "strings", "numbers", "indented"]
"""An `array` of objects or arrays; of `strings`, or `numbers`; `indented`: objects over several lines."""

_MAX_LINES = 64  # lines that are parsed
_BLANK = " \t\r\n"
_KEY = re.compile(r'\{\s*(?:"(?:[^"\\\n]|\\.)*"\s*:|\})')
_SHORT_CHARS = 1000
_LONGEST_ESCAPE = len("\\ud83d")
# Numbers stay strings: int() refuses more than 4,300 digits, and their values are not needed.
_parse = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode


def shape_of(text: str) -> Shape | None:
    """Return how JSON is laid out in a file that begins with `text`; None if it is not JSON.

    JSON lines may have invalid lines in them, which their reader reports.
    """
    text = text.lstrip(_BLANK)
    if text.startswith("["):
        return _shape_of_array(text)
    if text.startswith("{") and _KEY.match(text):
        n_first = len(text.partition("\n")[0])
        try:
            is_indented = _parse(text)[1] > n_first
        except RecursionError:
            is_indented = False
        except json.JSONDecodeError as error:
            # A string cannot contain a line end, so an error after the first line means that the object
            # continues there, unless the first line is an invalid record and the later lines are objects.
            is_indented = error.pos > n_first and not _later_lines_are_objects(text)
        return "indented" if is_indented else "lines"
    # Plain text in which every line is in quotes is rare.
    are_strings = text.startswith('"') and (
        _is_long_string(text) or all(_value(line) is not None for line in _lines(text))
    )
    return "lines" if are_strings or _later_lines_are_objects(text) else None


def _shape_of_array(text: str) -> Shape | None:
    try:
        found, end = _parse(text)
    except RecursionError:
        return "array"
    except json.JSONDecodeError as error:
        # The text may end within the array; a long text may end within an escape.
        end = len(text) - (_LONGEST_ESCAPE if len(text) > _SHORT_CHARS else 0)
        is_cut = len(text) > 1 and (error.msg.startswith("Unterminated string") or error.pos >= end)
        return _kind_of_array(text) if is_cut or _has_element(text) else None
    rest = text[end:].lstrip(" \t\r")
    following = rest.lstrip(_BLANK)
    if not following:
        return _kind_of_array(text) if found else "array"
    return "lines" if rest.startswith("\n") and following[0] in "[{" else None


def _has_element(text: str) -> bool:
    """Check that an array begins with an object and a comma; errors may follow, such as a stray comma."""
    start = len(text) - len(text[1:].lstrip(_BLANK))
    if not text.startswith("{", start):
        return False
    try:
        found, end = _parse(text, start)
    except (json.JSONDecodeError, RecursionError):
        return False
    return isinstance(found, dict) and bool(found) and text[end:].lstrip(_BLANK).startswith(",")


def _kind_of_array(text: str) -> Shape:
    """Return the kind of an array by its first character that is not a bracket.

    >>> [_kind_of_array(text) for text in ('["a"]', "[[1, 2]]", '[[{"role"', "[true")]
    ['strings', 'numbers', 'array', 'array']
    """
    inner = text.lstrip("[" + _BLANK)
    if inner.startswith('"'):
        return "strings" if text[1:].lstrip(_BLANK).startswith('"') else "array"
    return "numbers" if inner[:1] in "-0123456789" and inner else "array"


def _is_long_string(text: str) -> bool:
    """Check that the text is the beginning of one long string, with at least one escape in it."""
    try:
        _parse(text)
    except json.JSONDecodeError as error:
        is_open = error.pos == 0 and error.msg.startswith("Unterminated string")
        return is_open and len(text) > _SHORT_CHARS and "\\" in text
    return False


def _later_lines_are_objects(text: str) -> bool:
    """Check that at least half of the lines after the first, and at least one, are JSON objects."""
    lines = _lines(text)[1:]
    n_objects = sum(isinstance(_value(line), dict) for line in lines if line.startswith("{"))
    return n_objects > 0 and 2 * n_objects >= len(lines)


def _lines(text: str) -> list[str]:
    """Return the first lines that are not blank; the last one only if it is complete or the only one."""
    *lines, last = (line.strip(_BLANK) for line in text.split("\n"))
    lines = [line for line in lines if line]
    if last and (not lines or _value(last) is not None):
        lines.append(last)
    return lines[:_MAX_LINES]


def _value(line: str) -> Any:
    """Parse a line; return None if it is not a JSON value, or is null."""
    try:
        found, end = _parse(line)
    except (json.JSONDecodeError, RecursionError):
        return None
    return None if end < len(line) else found
