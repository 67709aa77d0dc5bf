"""What the readers of tables that need pyarrow have in common."""

import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from nanogpt_compat.errors import InputError
from nanogpt_compat.input.fieldpath import Way, deepest, first_there, in_words, name_of, value_at, ways_to
from nanogpt_compat.input.local import InputFile
from nanogpt_compat.input.location import Location
from nanogpt_compat.system.commands import install, show
from nanogpt_compat.text.blocks import MAX_LISTED


class NoTextColumn(InputError):
    """A table has no text column of the requested name: what was found instead, and some rows."""

    def __init__(self, found: str, rows: list[Any]) -> None:
        super().__init__(f"{found}; name the column of the text with --text-field")
        self.found = found
        self.rows = rows


def holds_text(pyarrow: Any, kind: Any) -> bool:
    """Whether a column of this type holds strings, or bytes: some writers store strings as bytes."""
    types = pyarrow.types
    if isinstance(kind, pyarrow.BaseExtensionType):  # a UUID is not text, but JSON is
        return bool(types.is_string(kind.storage_type))
    if types.is_dictionary(kind):
        kind = kind.value_type
    kinds = "string", "large_string", "string_view", "binary", "large_binary", "binary_view"
    return types.is_fixed_size_binary(kind) or any(getattr(types, f"is_{name}")(kind) for name in kinds)


def find_column(
    pyarrow: Any,
    path: Location,
    fields: Iterable[Any],
    text_field: str,
    *,
    first_rows: Callable[[], list[Any]],
    holds_nulls_alone: Callable[[Way], bool] = lambda _way: False,
) -> tuple[Way, bool]:
    """Return the way to the text column of a table with rows, and whether it holds only nulls.

    `fields` are the columns, of pyarrow. `holds_nulls_alone` is asked of columns of any type but null.

    Raises:
        NoTextColumn: there is no such column, or it is not of strings.
        InputError: there are two.
    """

    def kind_at(way: Way) -> object:
        """Return the type of a column, None if it holds only nulls; what `value_at` returns otherwise."""
        kind = value_at(columns, way)
        is_type = isinstance(kind, pyarrow.DataType)
        return None if is_type and (pyarrow.types.is_null(kind) or holds_nulls_alone(way)) else kind

    fields = list(fields)
    columns, names = columns_of(fields), [one.name for one in fields]
    found = first_there(ways_to(text_field), kind_at)
    if found is None:
        way, there = deepest(text_field, columns)
        missing = f"{path} has no column {in_words(text_field)}"
        if isinstance(there, Mapping):
            where = f"the fields of its column {name_of(way)!r}" if way else "its columns"
            missing += f" among {where} ({list_names(list(there))})"
        else:
            missing += f": its column {name_of(way)!r} is of type {there}, not struct"
        raise NoTextColumn(missing, first_rows())
    way, kind = found
    if names.count(way[0]) > 1:
        raise InputError(
            f"{path} has two columns {way[0]!r} among its columns ({list_names(names)}); "
            "rename one of them and write the file again"
        )
    is_struct = isinstance(kind, Mapping)
    if is_struct or not (kind is None or holds_text(pyarrow, kind)):
        shown = "struct" if is_struct else kind
        raise NoTextColumn(
            f"{path}: its column {name_of(way)!r} is of type {shown}, not string", first_rows()
        )
    return way, kind is None


def columns_of(schema: Any) -> dict[str, Any]:
    """Return the type of each column of a pyarrow schema by name; for a struct, those of its fields."""
    from pyarrow.types import is_struct

    columns: dict[str, Any] = {}
    for field in schema:
        kind = field.type
        columns[field.name] = (
            columns_of(kind.field(k) for k in range(kind.num_fields)) if is_struct(kind) else kind
        )
    return columns


def list_names(names: Sequence[str]) -> str:
    """Return the first names, for messages."""
    return ", ".join(map(repr, names[:MAX_LISTED])) + ", ..." * (len(names) > MAX_LISTED)


def import_pyarrow(path: Location, kind: str) -> Any:
    """Import pyarrow only when it is needed: it takes 55 MB. `kind` is what the file is, for the message."""
    # Read when the library is loaded. After `set_memory_pool`, pages would still use the other allocator.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    try:
        import pyarrow
    except ImportError as error:
        raise InputError(
            f"{path} is {kind}, and the package that reads it is missing:{show(install('pyarrow'))}"
        ) from error
    return pyarrow


class AsFile(io.RawIOBase):
    """An input with the interface of a Python file, which pyarrow needs."""

    def __init__(self, stored: InputFile) -> None:
        self._stored = stored
        self._offset = 0

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def seekable(self) -> bool:
        """Return that it can seek."""
        return True

    def tell(self) -> int:
        """Return where the next read begins."""
        return self._offset

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Choose where the next read begins."""
        self._offset = offset + (0, self._offset, self._stored.size_bytes)[whence]
        return self._offset

    def read(self, n_bytes: int = -1) -> bytes:
        """Read `n_bytes`, or up to the end."""
        data = self._stored.read(self._stored.size_bytes if n_bytes < 0 else n_bytes, self._offset)
        self._offset += len(data)
        return data
