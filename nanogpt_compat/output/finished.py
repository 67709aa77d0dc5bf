"""Read finished output back: token files, and indexes with the documents that they should list."""

import hashlib
from contextlib import ExitStack, closing
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.errors import DifferenceError, OutputError
from nanogpt_compat.output.checksums import SectionCrcs
from nanogpt_compat.output.index import PLACE, IndexFile, describe_index, index_name, read_counts, tables_of
from nanogpt_compat.output.layout import Outputs, Shards
from nanogpt_compat.output.reader import MAKE_AGAIN, FinishedShards, read_chunks
from nanogpt_compat.system.filesystem import drop_cache
from nanogpt_compat.text.documents import END_OF_TEXT

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
        sizes, pointers, documents = tables_of(ends, self._n_tokens, self._n_sequences)
        self._compare(0, sizes, self._n_sequences)
        self._compare(1, pointers, self._n_sequences)
        self._compare(2, documents, self._n_documents + 1)
        self._n_tokens, self._n_sequences = int(ends[-1]), int(documents[-1])
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


class FinishedFiles:
    """Finished output as a sink: compares instead of writing."""

    def __init__(self, outputs: Outputs, indexes: Outputs) -> None:
        """Open the first file of each stream, and the indexes, by name, if there are any."""
        self.n_ends = 0  # end-of-text tokens so far
        self.described: list[dict[str, Any]] = []  # the compared files, as `files` of prepare.json
        with ExitStack() as stack:
            self._streams = {
                split: stack.enter_context(closing(FinishedShards(shards)))
                for split, shards in outputs.items()
            }
            self._indexes = {
                name: stack.enter_context(closing(_FinishedIndex(shards))) for name, shards in indexes.items()
            }
            self._stack = stack.pop_all()

    def __enter__(self) -> "FinishedFiles":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def append(
        self, tokens: NDArray[np.uint16], *, is_val: bool, ends: NDArray[np.int64] | None = None
    ) -> None:
        """Compare `tokens`, (n,) uint16, with the next tokens of a split, and `ends` with its index.

        Raises:
            Difference: a token is different or missing.
            DifferenceError: a shard has a wrong header, or is too long, or an index is wrong.
        """
        split = "val" if is_val else "train"
        n_before = self._streams[split].n_tokens
        self._streams[split].compare(tokens)
        self.n_ends += int(np.count_nonzero(tokens == END_OF_TEXT))
        if self._indexes and ends is not None and len(ends):
            self._indexes[index_name(split)].compare(ends + n_before)

    def finish(self) -> None:
        """Raise DifferenceError unless all files end here."""
        for stream in reversed(self._streams.values()):
            stream.finish()
            self.described += stream.described
        self.described += [one.finish(name) for name, one in reversed(self._indexes.items())]
