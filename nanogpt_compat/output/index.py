"""Write and check train.idx and val.idx, an index of documents in Megatron's form.

With it, train.bin is also a dataset of Megatron-LM, GPT-NeoX and NeMo, under the name without a suffix:

    9 bytes             MMIDIDX, and two of zero
    uint64, uint8       version 1; the type of tokens, 8 for uint16
    uint64, uint64      the number of sequences, and of entries of the last table
    int32, int64, ...   the tokens of each sequence; then the byte of the .bin where each begins
    int64, ...          the number of sequences before each document, and of all

All are little-endian. A document is one sequence, or several if it has more tokens than an int32 holds.
"""

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.errors import OutputError
from nanogpt_compat.output.checksums import CRC, SECTIONS, SectionCrcs, combine_sections
from nanogpt_compat.output.ends import read_ends
from nanogpt_compat.output.folders import work_folder
from nanogpt_compat.output.layout import Outputs, Shards
from nanogpt_compat.output.token_file import TOKEN, GrowingMemmap, window_for

SUFFIX = ".idx"
MAX_SEQUENCE_TOKENS = 2**31 - 1
SIZE, PLACE = np.dtype("<i4"), np.dtype("<i8")
DOCUMENT_BYTES = SIZE.itemsize + 2 * PLACE.itemsize  # in an index, if it is one sequence
_HEADER = struct.Struct("<9sQBQQ")
_MAGIC, _VERSION, _UINT16 = b"MMIDIDX\0\0", 1, 8


def index_name(split: str) -> str:
    """Return the name of the index of a split."""
    return f"{split}{SUFFIX}"


def lay_out_indexes(output_dir: Path, outputs: Outputs) -> Outputs:
    """Return the indexes of a layout, by name; none if the output is in shards. Links are followed.

    An index is next to the name of its .bin in the output folder, also if that is a link to another folder:
    Megatron adds both suffixes to one name.
    """
    found = {}
    for split, shards in outputs.items():
        if not shards.is_endless:
            continue
        name = index_name(split)
        try:
            path = Path(output_dir, name).resolve()
        except (OSError, RuntimeError) as error:
            raise OutputError(f"cannot follow the links in {output_dir}: {error}") from error
        found[name] = Shards(path.parent, path.name)
    return found


Tables = tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]
"""The entries of some documents in the three tables: sizes, pointers, documents."""


def tables_of(ends: NDArray[np.int64], n_tokens: int, n_sequences: int) -> Tables:
    """Return the entries of documents that end at `ends`; before them are `n_tokens` and `n_sequences`."""
    starts = np.concatenate(([n_tokens], ends[:-1]))
    counts = np.maximum(1, -(-(ends - starts) // MAX_SEQUENCE_TOKENS))
    last = np.cumsum(counts)
    within = np.arange(last[-1]) - np.repeat(last - counts, counts)  # which sequence of its document
    places = np.repeat(starts, counts) + within * MAX_SEQUENCE_TOKENS
    sizes = np.minimum(np.repeat(ends, counts) - places, MAX_SEQUENCE_TOKENS)
    pointers = (places * TOKEN.itemsize).astype(PLACE, copy=False)
    return sizes.astype(SIZE), pointers, (n_sequences + last).astype(PLACE, copy=False)


def _each_table(ends: Iterable[NDArray[np.int64]]) -> Iterator[Tables]:
    """Yield the entries of all documents, some at a time."""
    n_tokens = n_sequences = 0
    for some in ends:
        if len(some):
            tables = tables_of(some, n_tokens, n_sequences)
            n_tokens, n_sequences = int(some[-1]), int(tables[2][-1])
            yield tables


@dataclass(frozen=True, slots=True)
class Counts:
    """The header of an index, and where its tables are."""

    n_sequences: int
    n_documents: int

    @property
    def starts(self) -> tuple[int, int, int]:
        """The bytes where the tables begin."""
        pointers = _HEADER.size + self.n_sequences * SIZE.itemsize
        return _HEADER.size, pointers, pointers + self.n_sequences * PLACE.itemsize

    @property
    def n_bytes(self) -> int:
        """The size of the file."""
        return self.starts[2] + (self.n_documents + 1) * PLACE.itemsize


def read_counts(path: Path) -> Counts | None:
    """Read the header of an index of uint16 tokens; None if the file is no such index, or of another size."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
            n_bytes = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror}") from error
    if len(head) < _HEADER.size:
        return None
    *kind, n_sequences, n_entries = _HEADER.unpack(head)
    counts = Counts(n_sequences, n_entries - 1)
    return counts if kind == [_MAGIC, _VERSION, _UINT16] and counts.n_bytes == n_bytes else None


def index_parts(read: Callable[[], Iterable[NDArray[np.int64]]]) -> Iterator[NDArray[Any]]:
    """Yield an index in pieces. `read` is called for each table, and returns the ends of documents in pieces.

    >>> parts = index_parts(lambda: [np.array([3, 5])])
    >>> [part.tolist() for part in parts][1:]
    [[3, 2], [0, 6], [0], [1, 2]]
    """
    n_documents = n_sequences = 0
    for sizes, _, documents in _each_table(read()):
        n_documents += len(documents)
        n_sequences += len(sizes)
    header = _HEADER.pack(_MAGIC, _VERSION, _UINT16, n_sequences, n_documents + 1)
    yield np.frombuffer(header, np.uint8)
    yield from (sizes for sizes, _, _ in _each_table(read()))
    yield from (pointers for _, pointers, _ in _each_table(read()))
    yield np.zeros(1, PLACE)
    yield from (documents for _, _, documents in _each_table(read()))


@dataclass(frozen=True, slots=True)
class IndexFile:
    """A finished index."""

    name: str  # in the output folder, where it may be a link
    path: Path
    n_documents: int
    n_bytes: int


def describe_index(file: IndexFile, crcs: list[int]) -> dict[str, Any]:
    """Return the entry of prepare.json for an index whose sections have these CRC-32."""
    return {
        "name": file.name,
        "documents": file.n_documents,
        "bytes": file.n_bytes,
        CRC: combine_sections(crcs, file.n_bytes),
        SECTIONS: crcs,
    }


def is_index(listed: Any) -> bool:
    """Return whether an entry of `files` in prepare.json is about an index, and not about tokens."""
    return str(listed["name"]).endswith(SUFFIX)


def write_index(
    name: str, shards: Shards, ends: Path, n_documents: int, check: Callable[[], None]
) -> dict[str, Any]:
    """Write an unfinished index from the file with the ends of documents; return its entry of prepare.json.

    It is durable and has its exact size when this returns. `check` may raise to stop.
    """
    crcs = SectionCrcs()
    work_folder(shards.folder)
    window_bytes = window_for(n_documents * DOCUMENT_BYTES)
    with GrowingMemmap(shards.partial(0), window_bytes=window_bytes) as file:
        for part in index_parts(lambda: read_ends(ends)):
            check()
            data = part.view(np.uint8)
            file.append(data.view(TOKEN))
            crcs.update(data.data)
        file.finish()
    return describe_index(IndexFile(name, shards.path(0), n_documents, crcs.n_bytes), crcs.crcs)
