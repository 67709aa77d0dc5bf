"""Pieces of documents on the disk, sorted by their keys within windows: what a shuffle reads its output from.

A spill is three streams in `.prepare/`, as durable as the output:

    tokens    the pieces of the first window in the order of their keys, then those of the second, ...
    records   the key of each piece, and its first token in `tokens`: 16 bytes for each
    windows   how far each window reaches, and how many documents have ended by then

A piece ends where the next one begins, or its window ends.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.errors import OutputError
from nanogpt_compat.memory.malloc import uses_block
from nanogpt_compat.output.layout import Outputs, Shards
from nanogpt_compat.output.pieces import FIRST_TRAIN_KEY, chunk_ends, gather, keys_of
from nanogpt_compat.output.reader import fill
from nanogpt_compat.output.token_file import TOKEN
from nanogpt_compat.output.writer import TokenFiles
from nanogpt_compat.output.written import Segment
from nanogpt_compat.system.filesystem import advice, drop_cache

RECORD = np.dtype([("key", "<u8"), ("start", "<u8")])
CONTINUES = 1 << 63
"""In `start`: the document continues in a later piece."""

WINDOW = np.dtype(
    [
        *(("records", "<u8"), ("tokens", "<u8")),  # where the window ends in these streams
        *(("val_records", "<u8"), ("val_tokens", "<u8")),  # how many of them are for val
        *(("train_documents", "<u8"), ("val_documents", "<u8")),  # the documents that have ended so far
    ]
)
WINDOW_BYTES = 16 << 20
"""The memory that a window takes until it is written: tokens, records and what sorting needs."""

SORTING_BYTES = WINDOW_BYTES * 3 // 2
"""The memory that writing a spill takes in all."""

_PAGE_BYTES = 4096
_MAPPED_BYTES = 2 << 20  # for each of the three streams at a time
PIECE_BYTES = 64
"""The part of that for each piece."""

Rows = NDArray[Any]  # RECORD or WINDOW


def spill_bytes(n_tokens: int, n_documents: int) -> int:
    """Return the disk space that a spill takes; its windows take too little to count."""
    return n_tokens * TOKEN.itemsize + n_documents * RECORD.itemsize


@dataclass(frozen=True, slots=True)
class SpillFiles:
    """The names of a spill's streams. Spill 0 is written first; each later one is made from the last."""

    folder: Path
    number: int
    word: str = "spill"

    def name(self, what: str) -> str:
        """Return the name of a stream: "tokens", "records" or "windows"."""
        return f"{self.word}-{self.number}-{what}"

    @property
    def outputs(self) -> Outputs:
        """The streams, by name."""
        names = map(self.name, ("tokens", "records", "windows"))
        return {name: Shards(self.folder, name) for name in names}

    def path(self, what: str) -> Path:
        """Return the path of a stream."""
        return Shards(self.folder, self.name(what)).partial(0)


def remove_spill(names: SpillFiles) -> None:
    """Remove the files of a spill, if they are there."""
    for what in ("tokens", "records", "windows"):
        with contextlib.suppress(OSError):  # the end of the run removes them at the latest
            names.path(what).unlink()


class SpillWriter(TokenFiles):
    """A spill being written: windows of sorted pieces, in streams that are never published."""

    def __init__(self, names: SpillFiles, *, n_tokens: Mapping[str, int], window_bytes: int) -> None:
        """Open the files, and truncate each stream to its `n_tokens` (0 if missing)."""
        self._names = names
        window_bytes = min(window_bytes, _MAPPED_BYTES)
        super().__init__({}, n_tokens=n_tokens, window_bytes=window_bytes, temporary=names.outputs)

    def _length(self, what: str, row: np.dtype[Any]) -> int:
        """Return the number of rows in a stream, each of which takes some tokens of two bytes."""
        return self._streams[self._names.name(what)].n_tokens * TOKEN.itemsize // row.itemsize

    @property
    def n_tokens(self) -> int:
        """The number of tokens so far."""
        return self._length("tokens", TOKEN)

    @property
    def n_windows(self) -> int:
        """The number of windows that are written."""
        return self._length("windows", WINDOW)

    def add(
        self,
        tokens: NDArray[np.uint16],
        keys: NDArray[np.uint64],
        lengths: NDArray[np.int64],
        continues: NDArray[np.bool_],
    ) -> None:
        """Append pieces to the window, in the order of their keys."""
        rows = np.empty(len(keys), RECORD)
        rows["key"] = keys
        rows["start"] = self._length("tokens", TOKEN) + np.cumsum(lengths) - lengths
        rows["start"] |= np.where(continues, np.uint64(CONTINUES), np.uint64(0))
        self.write(self._names.name("tokens"), tokens)
        self.write(self._names.name("records"), rows.view(TOKEN))

    def write_window(self, row: Rows) -> None:
        """End the window. `row`, `(1,) WINDOW`, has everything except where it ends."""
        row["records"], row["tokens"] = self._length("records", RECORD), self._length("tokens", TOKEN)
        self.write(self._names.name("windows"), row.view(TOKEN))

    def __enter__(self) -> "SpillWriter":
        return self


class Spill(SpillWriter):
    """A sink that sorts documents by their keys, window by window, into a spill.

    A checkpoint ends the window, so the journal is as if all tokens so far had been written in order.
    """

    def __init__(
        self, names: SpillFiles, *, seed: int, n_tokens: Mapping[str, int], file_window_bytes: int
    ) -> None:
        """Open the files as `SpillWriter` does, and resume where the last window ends."""
        super().__init__(names, n_tokens=n_tokens, window_bytes=file_window_bytes)
        self._seed = seed
        self._window_bytes = WINDOW_BYTES
        self._is_broken = False
        # Pages that were never written take no memory.
        self._tokens = np.empty(WINDOW_BYTES // TOKEN.itemsize + 1, TOKEN)
        self._keys = np.empty(WINDOW_BYTES // PIECE_BYTES + 1, np.uint64)
        self._starts = np.empty(len(self._keys) + 1, np.int64)
        self._continues = np.empty(len(self._keys), np.bool_)
        self._n_tokens = self._n_pieces = 0  # in the window so far
        self._row = np.zeros(1, WINDOW)
        self._is_val = False  # the split of the last piece
        if self.n_windows:
            with SpillReader(names, self.n_windows) as reader:
                self._row[:] = reader.windows[-1:]

    @property
    def n_tokens(self) -> int:
        """The number of tokens so far, with those that are not written yet."""
        return super().n_tokens + self._n_tokens

    def append(
        self, tokens: NDArray[np.uint16], *, is_val: bool, ends: NDArray[np.int64] | None = None
    ) -> None:
        """Append `(n,) uint16` to a split, whose documents end at `ends`."""
        if ends is None:
            raise TypeError("a shuffle needs the places where documents end")
        while True:
            # How many of the next tokens and ends fit into the window:
            left = self._window_bytes - TOKEN.itemsize * self._n_tokens - PIECE_BYTES * self._n_pieces
            costs = TOKEN.itemsize * ends + PIECE_BYTES * np.arange(1, len(ends) + 1)
            n_ends = int(np.searchsorted(costs, left, side="right"))
            done = int(ends[n_ends - 1]) if n_ends else 0
            most = done + max(0, left - TOKEN.itemsize * done - PIECE_BYTES * (n_ends + 1)) // TOKEN.itemsize
            n_tokens = min(most, int(ends[n_ends]) if n_ends < len(ends) else len(tokens))
            self._put(tokens[:n_tokens], ends[:n_ends], is_val=is_val)
            if n_tokens == len(tokens) and n_ends == len(ends):
                return
            self.end_window()
            tokens, ends = tokens[n_tokens:], ends[n_ends:] - n_tokens

    def _put(self, tokens: NDArray[np.uint16], ends: NDArray[np.int64], *, is_val: bool) -> None:
        """Add tokens to the window, which has room for them."""
        split = "val_documents" if is_val else "train_documents"
        first = int(self._row[split][0])
        is_open = len(tokens) > (int(ends[-1]) if len(ends) else 0)
        n_new = len(ends) + is_open
        if not n_new:
            return
        keys = keys_of(self._seed, is_val=is_val, first=first, n=n_new)
        starts = np.concatenate([np.zeros(1, np.int64), ends])[:n_new] + self._n_tokens
        at = self._n_pieces
        if at and self._continues[at - 1] and self._is_val == is_val:
            at -= 1  # the last piece is of this document: it becomes longer
            starts[0] = self._starts[at]
        self._keys[at : at + n_new] = keys
        self._starts[at : at + n_new] = starts
        self._continues[at : at + n_new] = False
        self._continues[at + n_new - 1] = is_open
        self._tokens[self._n_tokens : self._n_tokens + len(tokens)] = tokens
        self._n_tokens += len(tokens)
        self._n_pieces = at + n_new
        self._is_val = is_val
        self._row[split] += len(ends)
        self._row["val_tokens"] += len(tokens) if is_val else 0

    def end_window(self) -> None:
        """Sort the window and write it, unless it is empty."""
        if self._is_broken:
            raise OutputError("a window is only partly written; the checkpoint before it is valid")
        n_pieces, self._n_pieces = self._n_pieces, 0
        if not n_pieces:
            return
        self._is_broken = True  # unless all of it is written
        self._starts[n_pieces] = self._n_tokens
        order = np.argsort(self._keys[:n_pieces], kind="stable")
        keys, continues = self._keys[order], self._continues[order]
        starts = self._starts[order]
        lengths = self._starts[1:][order] - starts
        n_tokens, self._n_tokens = self._n_tokens, 0
        for first, last in chunk_ends(lengths):
            some = slice(first, last)
            found = gather(self._tokens[:n_tokens], starts[some], lengths[some])
            self.add(found, keys[some], lengths[some], continues[some])
        self._row["val_records"] += int(np.searchsorted(keys, np.uint64(FIRST_TRAIN_KEY)))
        self.write_window(self._row)
        self._is_broken = False

    def begin_checkpoint(self) -> tuple[Segment, Callable[[], None]]:
        """End the window, then as `TokenFiles.begin_checkpoint`."""
        self.end_window()
        return super().begin_checkpoint()

    def __enter__(self) -> "Spill":
        self._stack.enter_context(uses_block(self._window_bytes))
        return self


class SpillReader:
    """A spill that is complete, read by position; a context manager."""

    def __init__(self, names: SpillFiles, n_windows: int) -> None:
        """Open the files; raise OutputError if that fails, or a file is shorter than its windows require."""
        self._names = names
        self._files: dict[str, FileIO] = {}
        with contextlib.ExitStack() as stack:
            for what in ("tokens", "records", "windows"):
                path = names.path(what)
                try:
                    self._files[what] = stack.enter_context(path.open("rb", buffering=0))
                except OSError as error:
                    raise OutputError(
                        f"cannot open {path}: {error.strerror}; {advice(error)} and run the same command "
                        "again"
                    ) from error
            self.windows: Rows = self._read("windows", 0, n_windows, WINDOW)
            self._stack = stack.pop_all()

    def records(self, start: int, end: int) -> Rows:
        """Return records `[start, end)`."""
        return self._read("records", start, end, RECORD)

    def _read(self, what: str, start: int, end: int, row: np.dtype[Any]) -> Rows:
        rows = np.empty(end - start, row)
        self.read_into(what, rows, start)
        return rows

    def read_into(self, what: str, rows: NDArray[Any], start: int) -> None:
        """Fill `rows` with those of a stream from `start` on; drop pages of tokens from the page cache."""
        file, data, offset = self._files[what], rows.view(np.uint8).data, start * rows.itemsize
        try:
            file.seek(offset)
            n_read = fill(data, file)
        except OSError as error:
            raise OutputError(
                f"cannot read {self._names.path(what)} at byte {offset:,}: {error.strerror}; "
                f"{advice(error)} and run the same command again"
            ) from error
        if n_read < len(data):
            raise OutputError(
                f"{self._names.path(what)} ends at byte {offset + n_read:,}: another program has "
                "truncated or replaced it. Pass --restart to start from scratch"
            )
        if what == "tokens":  # a page is dropped only as a whole, so go back to where the first one begins
            drop_cache(file.fileno(), offset - offset % _PAGE_BYTES, offset + len(data))

    def __enter__(self) -> "SpillReader":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
