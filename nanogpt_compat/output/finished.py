"""Read finished indexes back, and compare them with the documents that they should list."""

import hashlib
from contextlib import ExitStack
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.errors import DifferenceError, OutputError
from nanogpt_compat.output.checksums import SectionCrcs
from nanogpt_compat.output.index import PLACE, IndexFile, describe_index, index_name, read_counts, tables_of
from nanogpt_compat.output.layout import Outputs, Shards
from nanogpt_compat.output.reader import MAKE_AGAIN, FinishedFiles, read_chunks
from nanogpt_compat.system.filesystem import drop_cache

_BUFFER_BYTES = 64 * 1024
_ENTRIES = ("size of sequence", "pointer of sequence", "entry of document")


class _FinishedIndex:
    """A finished index, whose three tables are read in parallel."""

    def __init__(self, shards: Shards) -> None:
        """Open the file; raise DifferenceError unless it is an index."""
        self._path = shards.path(0)
        self._n_documents = self._n_sequences = self._n_tokens = 0  # so far
        counts = read_counts(self._path)
        if counts is None:
            raise DifferenceError(f"{self._path} is damaged, or no index of uint16 tokens; {MAKE_AGAIN}")
        self._counts = counts
        self._tables: list[BinaryIO] = []
        with ExitStack() as stack:
            for start in counts.starts:
                try:
                    file = stack.enter_context(self._path.open("rb", buffering=_BUFFER_BYTES))
                    drop_cache(file.fileno(), 0, counts.n_bytes)  # the page cache may differ from the disk
                    file.seek(start)
                except OSError as error:
                    raise self._unreadable(error) from error
                self._tables.append(file)
            self._stack = stack.pop_all()
        self._compare(2, np.zeros(1, PLACE), 0)

    def compare(self, ends: NDArray[np.int64]) -> None:
        """Raise DifferenceError unless the next documents are those that end at `ends` tokens."""
        tables = tables_of(ends, self._n_tokens, self._n_sequences)
        self._compare(0, tables.sizes, self._n_sequences)
        self._compare(1, tables.pointers, self._n_sequences)
        self._compare(2, tables.documents, self._n_documents + 1)
        self._n_tokens, self._n_sequences = int(ends[-1]), int(tables.documents[-1])
        self._n_documents += len(ends)

    def _compare(self, k: int, expected: NDArray[Any], first: int) -> None:
        """Compare the next entries of table `k`; the first of them has the number `first`."""
        file = self._tables[k]
        at = file.tell()
        end = (*self._counts.starts[1:], self._counts.n_bytes)[k]
        try:
            found = np.frombuffer(file.read(min(expected.nbytes, end - at)), expected.dtype)
        except OSError as error:
            raise self._unreadable(error) from error
        if np.array_equal(found, expected):
            return
        differs = np.flatnonzero(found != expected[: len(found)])
        n_same = int(differs[0]) if len(differs) else len(found)
        value = f"{found[n_same]:,}" if len(differs) else "missing (the table ends there)"
        raise DifferenceError(
            f"{self._path}: the {_ENTRIES[k]} {first + n_same:,}, at byte "
            f"{at + n_same * expected.itemsize:,}, is {value} and should be {expected[n_same]:,}; "
            f"{MAKE_AGAIN}"
        )

    def finish(self, name: str) -> dict[str, Any]:
        """Raise DifferenceError unless the index ends here; return its entry of prepare.json."""
        if (self._n_sequences, self._n_documents) != (self._counts.n_sequences, self._counts.n_documents):
            raise DifferenceError(
                f"{self._path} has {self._counts.n_documents:,} documents and should have "
                f"{self._n_documents:,}; {MAKE_AGAIN}"
            )
        crcs, digest = SectionCrcs(), hashlib.sha256()
        for chunk in read_chunks(self._path):
            crcs.update(chunk)
            digest.update(chunk)
        made = IndexFile(name, self._path, self._n_documents, crcs.n_bytes)
        return describe_index(made, crcs.crcs) | {"sha256": digest.hexdigest()}

    def close(self) -> None:
        """Close the file."""
        self._stack.close()

    def _unreadable(self, error: OSError) -> OutputError:
        return OutputError(f"cannot read {self._path}: {error.strerror}")


class FinishedIndexes:
    """Finished token files with their indexes as a sink: compares instead of writing."""

    def __init__(self, files: FinishedFiles, indexes: Outputs) -> None:
        """Open the indexes, by name, if there are any; the caller closes `files`."""
        self._files = files
        self._described: list[dict[str, Any]] = []
        self._n_tokens = {"train": 0, "val": 0}
        with ExitStack() as stack:
            self._indexes: dict[str, _FinishedIndex] = {}
            for name, shards in indexes.items():
                self._indexes[name] = _FinishedIndex(shards)
                stack.callback(self._indexes[name].close)
            self._stack = stack.pop_all()

    def __enter__(self) -> "FinishedIndexes":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def append(
        self, tokens: NDArray[np.uint16], *, is_val: bool, ends: NDArray[np.int64] | None = None
    ) -> None:
        """Compare `tokens` as `FinishedFiles.append` does, and the ends of documents with the indexes.

        Raises:
            Difference, DifferenceError, OutputError: as that does.
        """
        self._files.append(tokens, is_val=is_val)
        split = "val" if is_val else "train"
        if self._indexes and ends is not None and len(ends):
            self._indexes[index_name(split)].compare(ends + self._n_tokens[split])
        self._n_tokens[split] += len(tokens)

    def finish(self) -> None:
        """Raise DifferenceError unless all files end here."""
        self._files.finish()
        self._described = [one.finish(name) for name, one in reversed(self._indexes.items())]

    def describe(self) -> list[dict[str, Any]]:
        """Return the entries of `files` in prepare.json for the compared files."""
        return self._files.describe() + self._described
