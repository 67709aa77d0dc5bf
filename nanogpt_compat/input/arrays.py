"""Arrow arrays of texts, of every layout, read in pieces.

Source: the Arrow columnar format, "Physical memory layout" and "Recordbatch message".
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.input.buffers import Source, open_buffer
from nanogpt_compat.input.columns import fields_of
from nanogpt_compat.input.messages import BatchLayout, Read

Texts = Callable[[int, int], bytes]
"""Returns the texts of rows `[a, b)` of those whose lengths came with it, concatenated."""

_VIEW_BYTES = 16
_MOST_INLINE_BYTES = 12  # a text up to this length is in its view
_VALUES_AT_A_TIME = 4096
# Buffers of an array by its type, without those of the arrays inside; unions differ, all others have 2.
_N_BUFFERS = {
    **dict.fromkeys(("null", "run_end_encoded"), 0),
    **dict.fromkeys(("struct", "fixed_size_list"), 1),
    **dict.fromkeys(("string", "large_string", "binary", "large_binary", "list_view", "large_list_view"), 3),
}


@dataclass(slots=True)
class Array(ABC):
    """An array of texts."""

    n_rows: int
    valid: Sequence[Source]  # one bit for each row: of the array, and of each struct around it
    opened: list[Source] = field(default_factory=list, kw_only=True)  # all buffers of the array

    @property
    @abstractmethod
    def n_bytes(self) -> int:
        """About how many bytes its texts have."""

    @abstractmethod
    def rows(self, first: int, n_rows: int) -> tuple[NDArray[np.int64], Texts]:
        """Return the lengths of some rows (-1 for null), and a function that reads their texts."""

    def nulls(self, first: int, n_rows: int) -> NDArray[np.bool_]:
        """Return which rows are null."""
        start, end = first // 8, (first + n_rows + 7) // 8
        are_valid = np.ones(n_rows, np.bool_)
        for one in self.valid:
            bits = np.unpackbits(np.frombuffer(one.read(end - start, start), np.uint8), bitorder="little")
            are_valid &= bits[first % 8 :][:n_rows].astype(np.bool_)
        return ~are_valid


@dataclass(slots=True)
class Nulls(Array):
    """No texts."""

    @property
    def n_bytes(self) -> int:
        return 0

    def rows(self, _first: int, n_rows: int) -> tuple[NDArray[np.int64], Texts]:
        return np.full(n_rows, -1), lambda _a, _b: b""


@dataclass(slots=True)
class Joined(Array):
    """Texts one after the other."""

    data: Source

    @property
    def n_bytes(self) -> int:
        return self.data.n_bytes

    @abstractmethod
    def ends(self, first: int, n_rows: int) -> NDArray[np.int64]:
        """Return the places in `data` where some texts begin, and where the last one ends."""

    def rows(self, first: int, n_rows: int) -> tuple[NDArray[np.int64], Texts]:
        ends = self.ends(first, n_rows)
        lengths = np.diff(ends)
        nulls = self.nulls(first, n_rows)
        has_gaps = bool(lengths[nulls].any())  # a null may have any text
        lengths[nulls] = -1

        def texts(a: int, b: int) -> bytes:
            data = self.data.read(int(ends[b] - ends[a]), int(ends[a]))
            if not has_gaps:
                return data
            starts, sizes = (ends[a:b] - ends[a]).tolist(), lengths[a:b].clip(0).tolist()
            return b"".join(data[k : k + n] for k, n in zip(starts, sizes, strict=True))

        return lengths, texts


@dataclass(slots=True)
class Strings(Joined):
    """Texts with the places where they begin."""

    offsets: Source
    offset_type: Any  # int32 or int64

    def ends(self, first: int, n_rows: int) -> NDArray[np.int64]:
        size = np.dtype(self.offset_type).itemsize
        raw = self.offsets.read((n_rows + 1) * size, first * size)
        ends = np.frombuffer(raw, self.offset_type).astype(np.int64)
        if ends[0] < 0 or ends[-1] > self.data.n_bytes or np.diff(ends).min(initial=0) < 0:
            raise ValueError("texts that overlap or are outside their buffer")
        return ends


@dataclass(slots=True)
class FixedStrings(Joined):
    """Texts of one length."""

    width: int

    def ends(self, first: int, n_rows: int) -> NDArray[np.int64]:
        return np.arange(first, first + n_rows + 1) * self.width


@dataclass(slots=True)
class Views(Array):
    """Texts anywhere in several buffers; a short one is in its view itself."""

    views: Source
    buffers: Sequence[Source]

    @property
    def n_bytes(self) -> int:
        return sum(one.n_bytes for one in self.buffers)

    def rows(self, first: int, n_rows: int) -> tuple[NDArray[np.int64], Texts]:
        raw = self.views.read(n_rows * _VIEW_BYTES, first * _VIEW_BYTES)
        fields = np.frombuffer(raw, "<i4").reshape(n_rows, 4)  # length, first bytes, buffer, offset in it
        lengths = fields[:, 0].astype(np.int64)
        if lengths.min(initial=0) < 0:
            raise ValueError("a text of negative length")
        lengths[self.nulls(first, n_rows)] = -1

        def parts(a: int, b: int) -> Iterator[bytes]:
            """Yield the texts; read those that follow one another in a buffer at once."""
            held, index, start, end = b"", -1, 0, 0  # `held` is `[start, end)` of a buffer
            places = fields[a:b, 2:].tolist()
            sizes = lengths[a:b].tolist()
            for row, (n_bytes, (buffer, offset)) in enumerate(zip(sizes, places, strict=True)):
                if n_bytes <= _MOST_INLINE_BYTES:
                    place = (a + row) * _VIEW_BYTES + 4
                    yield raw[place : place + max(0, n_bytes)]
                    continue
                if buffer != index or not start <= offset <= offset + n_bytes <= end:
                    index, start = buffer, offset
                    end = _end_of_run(sizes, places, row)
                    if not 0 <= index < len(self.buffers):
                        raise ValueError(f"a text in buffer {index:,} of {len(self.buffers):,}")
                    held = self.buffers[index].read(end - start, start)
                yield held[offset - start : offset - start + n_bytes]

        return lengths, lambda a, b: b"".join(parts(a, b))


def _end_of_run(sizes: Sequence[int], places: Sequence[Sequence[int]], row: int) -> int:
    """Return where the texts from `row` on end that are in the same buffer without a gap."""
    index, end = places[row]
    for k in range(row, len(sizes)):
        if sizes[k] > _MOST_INLINE_BYTES:
            if places[k] != [index, end]:
                break
            end += sizes[k]
    return end


@dataclass(slots=True)
class Values:
    """The values of a dictionary, in memory."""

    parts: list[bytes] = field(default_factory=list)
    lengths: list[NDArray[np.int64]] = field(default_factory=list)  # -1 for null

    def add(self, array: Array) -> None:
        """Read all texts of an array, and append them."""
        for first in range(0, array.n_rows, _VALUES_AT_A_TIME):
            n_rows = min(_VALUES_AT_A_TIME, array.n_rows - first)
            lengths, texts = array.rows(first, n_rows)
            data, start = texts(0, n_rows), 0
            for length in lengths.tolist():
                self.parts.append(data[start : start + max(0, length)])
                start += max(0, length)
            self.lengths.append(lengths)


@dataclass(slots=True)
class Indices(Array):
    """Texts by their places in a dictionary."""

    indices: Source
    index_type: Any
    values: Values

    @property
    def n_bytes(self) -> int:
        return self.n_rows * sum(map(len, self.values.parts)) // max(1, len(self.values.parts))

    def rows(self, first: int, n_rows: int) -> tuple[NDArray[np.int64], Texts]:
        size = np.dtype(self.index_type).itemsize
        raw = self.indices.read(n_rows * size, first * size)
        indices = np.frombuffer(raw, self.index_type).astype(np.int64)
        nulls = self.nulls(first, n_rows)
        indices[nulls] = 0
        n_values = len(self.values.parts)
        if n_rows and not nulls.all() and not 0 <= indices.min() <= indices.max() < n_values:
            raise ValueError(f"a text that is not among the {n_values:,} of its dictionary")
        of_values = np.concatenate([*self.values.lengths, [-1]])
        lengths = of_values[np.where(nulls, -1, indices)]

        def texts(a: int, b: int) -> bytes:
            parts = self.values.parts
            rows = zip(indices[a:b].tolist(), lengths[a:b].tolist(), strict=True)
            return b"".join(parts[k] for k, length in rows if length > 0)

        return lengths, texts


class Opener:
    """Opens the array of one column in each batch of a schema."""

    def __init__(self, pyarrow: Any, read: Read, kinds: Sequence[Any], way: Sequence[int]) -> None:
        """`kinds` are the types of all columns, `way` the index of one, and those in structs that lead on."""
        self._pyarrow = pyarrow
        self._read = read
        self._all = _count(kinds, pyarrow)
        self._before: list[Counter[str]] = []  # before the column, and each field of structs on the way
        self._kind: Any = None
        before = Counter[str]()
        for index in way:
            if self._kind is not None:  # the struct itself
                before += Counter(arrays=1, buffers=1)
            before += _count(kinds[:index], pyarrow)
            self._before.append(before.copy())
            self._kind = kinds[index]
            kinds = [one.type for one in fields_of(self._kind)]

    def open(self, layout: BatchLayout, values: Values) -> Array:
        """Open the array of a batch with the values of its dictionary; raise ValueError if it is damaged."""
        n_views = len(layout.n_variadic)
        n_buffers = len(layout.buffers) - sum(layout.n_variadic)
        if self._all != Counter(arrays=len(layout.nulls), buffers=n_buffers, views=n_views):
            raise ValueError("the buffers of its batch are not those of its schema")
        places = [one["buffers"] + sum(layout.n_variadic[: one["views"]]) for one in self._before]
        valid = [
            place for place, one in zip(places, self._before, strict=True) if layout.nulls[one["arrays"]]
        ]
        place, view = places[-1], self._before[-1]["views"]
        opened = list[Source]()

        def source(k: int) -> Source:
            opened.append(open_buffer(self._pyarrow, self._read, layout.buffers[k], layout.codec))
            return opened[-1]

        types, kind, n_rows = self._pyarrow.types, self._kind, layout.n_rows
        if not n_rows or types.is_null(kind):
            return Nulls(n_rows, ())
        bits = [source(k) for k in valid]
        if isinstance(kind, self._pyarrow.BaseExtensionType):
            kind = kind.storage_type
        made: Array
        if types.is_dictionary(kind):
            made = Indices(n_rows, bits, source(place + 1), kind.index_type.to_pandas_dtype(), values)
        elif types.is_fixed_size_binary(kind):
            made = FixedStrings(n_rows, bits, source(place + 1), kind.byte_width)
        elif types.is_string_view(kind) or types.is_binary_view(kind):
            n_data = layout.n_variadic[view] if view < n_views else 0
            made = Views(n_rows, bits, source(place + 1), [source(place + 2 + k) for k in range(n_data)])
        else:
            offset_type = np.int64 if types.is_large_string(kind) or types.is_large_binary(kind) else np.int32
            made = Strings(n_rows, bits, source(place + 2), source(place + 1), offset_type)
        made.opened = opened
        return made


def _count(kinds: Iterable[Any], pyarrow: Any) -> Counter[str]:
    """Count the arrays of some types, their buffers without those of views, and the arrays of views."""
    found, types = Counter[str](), pyarrow.types
    for kind in kinds:
        if isinstance(kind, pyarrow.BaseExtensionType):
            found += _count([kind.storage_type], pyarrow)
            continue
        names = (name for name in _N_BUFFERS if getattr(types, f"is_{name}")(kind))
        n_buffers = _N_BUFFERS.get(next(names, ""), 2)
        if types.is_union(kind):
            n_buffers = 1 if kind.mode == "sparse" else 2
        n_views = int(types.is_string_view(kind) or types.is_binary_view(kind))
        found += Counter(arrays=1, buffers=n_buffers, views=n_views)
        found += _count((one.type for one in fields_of(kind)), pyarrow)
    return found
