"""Find the field that `--text-field` names, in a record or among the columns of a table. Pure.

`a.b` is the field of that name or, if there is none, the field `b` of the object `a`. `a,b` is the field of
that name or, if there is none, the first of `a` and `b` that is there. A null counts as missing there, as
merging data sets leaves nulls; but if there is nothing else, the null is found. A way leads through
objects only, not through lists.

>>> find("meta.text,content", {"meta": {"text": "a"}, "content": "b"})
(('meta', 'text'), 'a')
>>> find("meta.text,content", {"meta": {"text": None}, "content": "b", "meta.text,content": None})
(('content',), 'b')
>>> find("meta.text", {"meta.text": None, "meta": {"text": "a"}})
(('meta.text',), None)
>>> find("text", {"content": "b"}) is None
True
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from typing import Final, TypeAlias, TypeVar

Way: TypeAlias = tuple[str, ...]
"""The names that lead to a field, the outermost first."""

ABSENT: Final = object()
"""Marks a missing field; None marks one that is null."""

_Place = TypeVar("_Place")


def alternatives(text_field: str) -> tuple[str, ...]:
    """Return the names that `--text-field` lists."""
    return tuple(dict.fromkeys(text_field.split(",")))


@cache
def ways_to(text_field: str) -> tuple[tuple[Way, ...], ...]:
    """Return the ways to try for each name in turn; the first that exists is used.

    >>> ways_to("a.b.c")
    ((('a.b.c',), ('a', 'b.c'), ('a', 'b', 'c')),)
    >>> ways_to("text,content")
    ((('text,content',),), (('text',),), (('content',),))
    """
    names = alternatives(text_field)
    ways = list[tuple[Way, ...]]()
    for name in names:
        steps = name.split(".")
        ways.append(tuple((*steps[:k], ".".join(steps[k:])) for k in range(len(steps))))
    return tuple(ways) if len(names) == 1 else (((text_field,),), *ways)


def first_there(
    places: Iterable[Iterable[_Place]], look: Callable[[_Place], object]
) -> tuple[_Place, object] | None:
    """Return the first place with a value, and that value; a place with None if there are only nulls.

    `places` are those to try for each name, as from `ways_to`. `look` returns the value at a place.
    """
    null: tuple[_Place, None] | None = None
    for some in places:
        for place in some:
            value = look(place)
            if value is ABSENT:
                continue
            if value is not None:
                return place, value
            null = null or (place, None)
            break
    return null


def value_at(fields: object, way: Way) -> object:
    """Return what is at the end of a way through nested mappings; `ABSENT` if nothing is there."""
    for name in way:
        if not isinstance(fields, Mapping) or name not in fields:
            return ABSENT
        fields = fields[name]
    return fields


def find(text_field: str, fields: Mapping[str, object]) -> tuple[Way, object] | None:
    """Find the field in a record, or in the columns of a table: names, with a mapping for each struct."""
    return first_there(ways_to(text_field), partial(value_at, fields))


def deepest(text_field: str, fields: Mapping[str, object]) -> tuple[Way, object]:
    """Return how far the way to a missing field leads, and what is there; no way for a list of names.

    >>> deepest("meta.text.en", {"meta": {"text": "a"}}), deepest("text", {"meta": 1})
    ((('meta', 'text'), 'a'), ((), {'meta': 1}))
    """
    names = alternatives(text_field)
    steps = tuple(names[0].split(".")) if len(names) == 1 else ()
    return next(
        (steps[:k], value)
        for k in range(len(steps), -1, -1)
        if (value := value_at(fields, steps[:k])) is not ABSENT
    )


def in_words(text_field: str) -> str:
    """Return the name, or the names, for a message.

    >>> print(in_words("text,content,body"))
    'text', 'content' or 'body'
    """
    *names, last = map(repr, alternatives(text_field))
    return f"{', '.join(names)} or {last}" if names else last


def name_of(way: Way) -> str:
    """Return the name of a field as it is typed."""
    return ".".join(way)
