"""Read the text of a JSON line with msgspec, which makes no objects for the fields that it skips.

msgspec is as strict as `json` (there is a test), except about UTF-8 in those fields. The
caller passes a line that msgspec refuses to `json`.
"""

from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import Any, TypeAlias

from nanogpt_compat.input.fieldpath import ABSENT, Way, first_there, ways_to

_Tree: TypeAlias = dict[str, "_Tree"]


@cache
def native_decoder(text_field: str) -> Callable[[bytes], str | None] | None:
    """Return a function that returns the text of a line, or None if `json` must parse the line.

    Returns None if msgspec is not installed, or cannot handle the name of the field.
    """
    try:
        import msgspec  # not at the top: it is an optional dependency
    except ImportError:
        return None
    try:
        if ways_to(text_field) != (((text_field,),),):
            return _first_of(msgspec, text_field)
        record: Any = msgspec.defstruct("Record", [("text", str)], rename={"text": text_field}, gc=False)
        decode = msgspec.json.Decoder(record).decode
    except ValueError:  # a name has a quote, a backslash, a control character or a lone surrogate
        return None

    def text_of(line: bytes) -> str | None:
        try:
            text: str = decode(line).text
        except (msgspec.MsgspecError, RecursionError):
            return None
        return text

    return text_of


def _first_of(msgspec: Any, text_field: str) -> Callable[[bytes], str | None]:
    """Return such a function for a field that may be nested, or for the first of several."""
    tree: _Tree = {}
    ways = ways_to(text_field)
    ends = {way for some in ways for way in some}
    for way in sorted(ends):
        node = tree
        for name in way:
            node = node.setdefault(name, {})
    decode = msgspec.json.Decoder(_struct(msgspec, tree, (), ends)).decode
    getters = [[_getter(tree, way) for way in some] for some in ways]

    def text_of(line: bytes) -> str | None:
        try:
            record = decode(line)
        except (msgspec.MsgspecError, RecursionError):
            return None
        found = first_there(getters, lambda get: get(record))
        return found[1] if found is not None and isinstance(found[1], str) else None

    return text_of


def _struct(msgspec: Any, tree: _Tree, way: Way, ends: set[Way]) -> Any:
    """Return the type of an object with the fields of `tree`; `f0` is the first of them, and so on."""
    fields = []
    for k, (name, inner) in enumerate(tree.items()):
        inside = (*way, name)
        kind: Any = str | None if inside in ends else None
        if inner:
            kind |= _struct(msgspec, inner, inside, ends)
        fields.append((f"f{k}", kind, ABSENT))
    return msgspec.defstruct(
        "Record", fields, rename={f"f{k}": name for k, name in enumerate(tree)}, gc=False
    )


def _getter(tree: _Tree, way: Way) -> Callable[[Any], object]:
    names = []
    for name in way:
        names.append(f"f{list(tree).index(name)}")
        tree = tree[name]
    get = attrgetter(".".join(names))

    def look(record: Any) -> object:
        try:
            return get(record)
        except AttributeError:  # what should be an object is null, a string or not there
            return ABSENT

    return look
