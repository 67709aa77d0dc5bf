"""What the readers of tables that need pyarrow have in common: the column of texts of an open table."""

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.errors import InputError
from nanogpt_compat.input.fieldpath import Way, deepest, first_there, in_words, name_of, value_at, ways_to
from nanogpt_compat.input.location import Location
from nanogpt_compat.input.open import InputFile
from nanogpt_compat.input.rows import RowGroup, Rows, place_of_row
from nanogpt_compat.system.commands import install, show
from nanogpt_compat.system.units import format_bytes
from nanogpt_compat.text.blocks import MAX_LISTED, MakeRoom, has_room
from nanogpt_compat.text.documents import MAX_RECORD_BYTES

_C = TypeVar("_C", bound="Column")


class NoTextColumn(InputError):
    """A table has no text column of the requested name: what was found instead, and some rows."""

    def __init__(self, found: str, rows: list[Any]) -> None:
        super().__init__(f"{found}; name the column of the text with --text-field")
        self.found = found
        self.rows = rows


class Column(ABC):
    """The column of texts of an open table that must not change while it is read."""

    kind: ClassVar[str]  # what the file is, for messages

    def __init__(self, stored: InputFile, *, text_field: str) -> None:
        """Find the column in `stored`, which is closed with the column, or if this raises.

        Raises:
            NoTextColumn: the table has rows, but no such column, or it is not of strings.
            InputError: pyarrow is missing; the file is unreadable, truncated or of another kind.
        """
        self.path = stored.path
        self.name = text_field  # the column's name, once it is found
        self._stored = stored
        self._is_void = False  # whether the column has only nulls
        try:
            self._pyarrow = import_pyarrow(self.path, self.kind)
            self._open()
        except BaseException:
            stored.__exit__()
            raise

    def __enter__(self: _C) -> _C:
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the file, and have pyarrow release the memory that it keeps for reuse."""
        self._stored.__exit__()
        self._pyarrow.default_memory_pool().release_unused()

    @abstractmethod
    def _open(self) -> None:
        """Check the file, and find the column."""

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self._stored.size_bytes

    @property
    @abstractmethod
    def row_groups(self) -> Iterable[RowGroup]:
        """The row groups of the file, in the order of their rows."""

    @abstractmethod
    def first_rows(self) -> list[Any]:
        """Read some rows with all columns, to show what the file holds; return none if that fails."""

    @abstractmethod
    def read_ahead(self, group: RowGroup) -> None:
        """Announce that all row groups from this one on will be read, so that they can be fetched ahead."""

    @abstractmethod
    def read_rows(
        self, group: RowGroup, *, block_bytes: int, first_row: int = 0, make_room: MakeRoom = has_room
    ) -> Iterator[tuple[bytes, Rows]]:
        """Yield a row group from row `first_row` of the file on in runs with about `block_bytes` of text.

        A run is the concatenated texts, and the rows that they are from; `parse_rows` splits it. A text of
        more than `LONG_RECORD_BYTES` is a run by itself. `make_room` is called before large parts are read.
        Where runs begin and end depends on `block_bytes`; the rows do not.
        """

    def check_unchanged(self) -> None:
        """Raise InputError if the file has changed since it was opened."""
        self._stored.check_unchanged()

    def _find(self, fields: Sequence[Any]) -> Way:
        """Return the way to the text column of a table with rows; `fields` are all columns, of pyarrow."""
        text_field, columns = self.name, _kinds_of(fields)
        names = [one.name for one in fields]

        def kind_at(way: Way) -> object:
            """Return the type of a column, None if it holds only nulls; what `value_at` returns otherwise."""
            kind = value_at(columns, way)
            is_type = isinstance(kind, self._pyarrow.DataType)
            is_void = is_type and (self._pyarrow.types.is_null(kind) or self._holds_nulls_alone(way))
            return None if is_void else kind

        found = first_there(ways_to(text_field), kind_at)
        if found is None:
            way, there = deepest(text_field, columns)
            missing = f"{self.path} has no column {in_words(text_field)}"
            if isinstance(there, Mapping):
                where = f"the fields of its column {name_of(way)!r}" if way else "its columns"
                missing += f" among {where} ({list_names(list(there))})"
            else:
                missing += f": its column {name_of(way)!r} is of type {there}, not struct"
            raise NoTextColumn(missing, self.first_rows())
        way, kind = found
        if names.count(way[0]) > 1:
            raise InputError(
                f"{self.path} has two columns {way[0]!r} among its columns ({list_names(names)}); "
                "rename one of them and write the file again"
            )
        is_struct = isinstance(kind, Mapping)
        if is_struct or not (kind is None or holds_text(self._pyarrow, kind)):
            shown = "struct" if is_struct else kind
            raise NoTextColumn(
                f"{self.path}: its column {name_of(way)!r} is of type {shown}, not string", self.first_rows()
            )
        self.name, self._is_void = name_of(way), kind is None
        return way

    def _holds_nulls_alone(self, _way: Way) -> bool:
        """Whether a column whose type is not null is known to hold only nulls."""
        return False

    def _check_lengths(self, group: RowGroup, row: int, lengths: NDArray[np.int64]) -> None:
        """Raise InputError if a text from `row` on is over `MAX_RECORD_BYTES`."""
        if lengths.max(initial=0) > MAX_RECORD_BYTES:
            k = int(lengths.argmax())
            raise self._too_long(group, row + k, int(lengths[k]))

    def _too_long(self, group: RowGroup, row: int, n_bytes: int) -> InputError:
        return InputError(
            f"{self.path}, {place_of_row(row, group)}: its field {self.name!r} has {format_bytes(n_bytes)}, "
            f"but the limit is {format_bytes(MAX_RECORD_BYTES)}; split the text, or remove the row"
        )

    def _damaged(self, group: RowGroup, row: int, reason: object) -> InputError:
        return InputError(
            f"{self.path}, {place_of_row(row, group)} or a little further on: its column {self.name!r} is "
            f"damaged ({reason}); fetch or make the file again"
        )


def holds_text(pyarrow: Any, kind: Any) -> bool:
    """Whether a column of this type holds strings, or bytes: some writers store strings as bytes."""
    types = pyarrow.types
    if isinstance(kind, pyarrow.BaseExtensionType):  # a UUID is not text, but JSON is
        return bool(types.is_string(kind.storage_type))
    if types.is_dictionary(kind):
        kind = kind.value_type
    kinds = "string", "large_string", "string_view", "binary", "large_binary", "binary_view"
    return types.is_fixed_size_binary(kind) or any(getattr(types, f"is_{name}")(kind) for name in kinds)


def _kinds_of(fields: Iterable[Any]) -> dict[str, Any]:
    """Return the type of each field of a pyarrow schema by name; for a struct, those of its fields."""
    from pyarrow.types import is_struct

    return {one.name: _kinds_of(fields_of(one.type)) if is_struct(one.type) else one.type for one in fields}


def fields_of(kind: Any) -> list[Any]:
    """Return the fields inside a type of pyarrow."""
    return [kind.field(k) for k in range(kind.num_fields)]


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

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Choose where the next read begins."""
        self._offset = offset + (0, self._offset, self._stored.size_bytes)[whence]
        return self._offset

    def read(self, n_bytes: int = -1) -> bytes:
        """Read `n_bytes`, or up to the end."""
        data = self._stored.read(self._stored.size_bytes if n_bytes < 0 else n_bytes, self._offset)
        self._offset += len(data)
        return data
