"""Read a spill in the order of its keys, range by range, in bounded memory.

    spill 0 --(groups of 256 windows, while there are more)--> spill 1 --> ... --> the output

A range of keys takes one contiguous read from each window, since the pieces there are sorted; a stable sort
of what was read gives the order. Keys are random, so ranges of equal width hold about as much. Pieces that do
not fit, such as a long document, are left to the next range.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.output.pieces import FIRST_TRAIN_KEY, KEY_END, chunk_ends, gather
from nanogpt_compat.output.spill import (
    CONTINUES,
    PIECE_BYTES,
    WINDOW_BYTES,
    Rows,
    SpillReader,
    SpillWriter,
    spill_bytes,
)
from nanogpt_compat.output.token_file import TOKEN
from nanogpt_compat.output.writer import Sink

RANGE_BYTES = 32 << 20
"""The memory that a range takes: tokens, records and what sorting needs."""

MOST_WINDOWS = 256
"""The most windows to read at a time: with more, one read for one range would fall below 128 KiB."""

_FILL = 0.9  # how full a range is on average; pieces that do not fit are read twice


def most_spill_bytes(n_tokens: int, n_documents: int) -> int:
    """Return the disk space that spills take at most: there are two while windows are merged in groups."""
    window_bytes = TOKEN.itemsize * n_tokens + PIECE_BYTES * n_documents
    are_many = window_bytes > MOST_WINDOWS * WINDOW_BYTES // 2  # a window that a checkpoint ends is not full
    return spill_bytes(n_tokens, n_documents) * (1 + are_many)


@dataclass(frozen=True, slots=True)
class Place:
    """How far spill `number` is read: up to a piece of a key, in a group of windows."""

    number: int
    n_windows: int  # in that spill
    group: int = 0
    key: int = 0  # all pieces with smaller keys are done
    n_pieces: int = 0  # how many pieces with this key are done
    n_tokens: int = 0  # done, in all groups

    @property
    def is_last(self) -> bool:
        """Whether the output is made of this spill."""
        return self.n_windows <= MOST_WINDOWS


@dataclass(frozen=True, slots=True)
class Chunk:
    """Pieces of one split in their order, and the place after them within their group.

    The memory of the tokens is used again for later chunks.
    """

    tokens: NDArray[np.uint16]
    keys: NDArray[np.uint64]
    lengths: NDArray[np.int64]
    continues: NDArray[np.bool_]
    key: int
    n_pieces: int


def write_out(
    spill: SpillReader, place: Place, sink: Sink, *, after: Callable[[Place], None], check: Callable[[], None]
) -> None:
    """Append all documents after `place` to `sink`, in the order of their keys.

    At each call of `after`, the sink holds exactly the pieces before that place. `check` may raise to stop;
    no chunk is lost then.
    """
    n_tokens = place.n_tokens
    for chunk in _in_order(spill, 0, place.n_windows, place.key, place.n_pieces, check):
        ends = np.cumsum(chunk.lengths)[~chunk.continues]
        sink.append(chunk.tokens, is_val=chunk.key < FIRST_TRAIN_KEY, ends=ends)
        n_tokens += len(chunk.tokens)
        after(Place(place.number, place.n_windows, 0, chunk.key, chunk.n_pieces, n_tokens))


def regroup(
    spill: SpillReader,
    place: Place,
    sink: SpillWriter,
    *,
    after: Callable[[Place], None],
    check: Callable[[], None],
) -> None:
    """Merge the windows of a spill after `place`, in groups, to a spill with fewer windows."""
    n_tokens, key, n_pieces = place.n_tokens, place.key, place.n_pieces
    for group in range(place.group, -(-place.n_windows // MOST_WINDOWS)):
        first = group * MOST_WINDOWS
        last = min(first + MOST_WINDOWS, place.n_windows)
        for chunk in _in_order(spill, first, last, key, n_pieces, check):
            sink.add(chunk.tokens, chunk.keys, chunk.lengths, chunk.continues)
            n_tokens += len(chunk.tokens)
            after(Place(place.number, place.n_windows, group, chunk.key, chunk.n_pieces, n_tokens))
        sink.write_window(spill.windows[last - 1 : last].copy())
        key = n_pieces = 0
        after(Place(place.number, place.n_windows, group + 1, n_tokens=n_tokens))


def _in_order(
    spill: SpillReader, first: int, last: int, key: int, n_pieces: int, check: Callable[[], None]
) -> Iterator[Chunk]:
    """Yield the pieces of windows `[first, last)` in the order of their keys, from a place on."""
    for is_val, start, end in ((True, 0, FIRST_TRAIN_KEY), (False, FIRST_TRAIN_KEY, KEY_END)):
        if key >= end:
            continue
        if key < start:
            key, n_pieces = start, 0
        merge = _Merge(spill, first, last, is_val=is_val)
        merge.seek(key)
        width = (end - start) // merge.n_ranges
        while key < end and merge.n_records:
            check()
            chosen = merge.choose(min(key + width, end), n_pieces)
            yield from chosen.chunks(key, n_pieces)
            key, n_pieces = chosen.key, chosen.n_pieces


@dataclass(slots=True)
class _Cursor:
    """The records of one split in a window, and the next one to read."""

    next: int
    end: int
    end_token: int
    n_expected: int = 0  # in a range


@dataclass(frozen=True, slots=True)
class _Range:
    """The pieces of a range in their order, and the place after them."""

    tokens: NDArray[np.uint16]  # all pieces, window by window
    keys: NDArray[np.uint64]
    starts: NDArray[np.int64]  # in `tokens`
    lengths: NDArray[np.int64]
    continues: NDArray[np.bool_]
    key: int
    n_pieces: int

    def chunks(self, key: int, n_done: int) -> Iterator[Chunk]:
        """Yield them chunk by chunk; `n_done` pieces of `key` come before them."""
        for first, last in chunk_ends(self.lengths):
            some = slice(first, last)
            keys = self.keys[some]
            n_same = len(keys) - int(np.searchsorted(keys, keys[-1]))
            n_done = n_same + (n_done if int(keys[0]) == int(keys[-1]) == key else 0)
            key = int(keys[-1])
            tokens = gather(self.tokens, self.starts[some], self.lengths[some])
            yield Chunk(tokens, keys, self.lengths[some], self.continues[some], key, n_done)


class _Merge:
    """The pieces of one split in some windows of a spill, read in parallel."""

    def __init__(self, spill: SpillReader, first: int, last: int, *, is_val: bool) -> None:
        self._spill = spill
        low, high = {}, {}  # where the pieces of the split begin and end in each window: val comes first
        for what in ("records", "tokens"):
            ends, val_ends = (spill.windows[name].astype(np.int64) for name in (what, f"val_{what}"))
            starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
            middles = starts + np.diff(val_ends, prepend=0)
            edges = (starts, middles) if is_val else (middles, ends)
            low[what], high[what] = (edge[first:last].tolist() for edge in edges)
        rows = zip(low["records"], high["records"], high["tokens"], strict=True)
        self._cursors = [_Cursor(*row) for row in rows]
        n_tokens = sum(high["tokens"]) - sum(low["tokens"])
        self.n_records = sum(one.end - one.next for one in self._cursors)
        n_bytes = TOKEN.itemsize * n_tokens + PIECE_BYTES * self.n_records
        self.n_ranges = 1 + int(n_bytes / (_FILL * RANGE_BYTES))
        """With this number of ranges of equal width, each holds about as much as it may."""
        for one in self._cursors:
            mean = (one.end - one.next) / self.n_ranges
            one.n_expected = int(mean + 4 * mean**0.5) + 8
        self._buffer = np.empty(min(n_tokens, RANGE_BYTES // TOKEN.itemsize), TOKEN)

    def seek(self, key: int) -> None:
        """Move each cursor on to the first record whose key is not smaller, by binary search."""
        for one in self._cursors if key % FIRST_TRAIN_KEY else ():
            one.next += bisect_left(
                range(one.next, one.end), key, key=lambda k: int(self._spill.records(k, k + 1)["key"][0])
            )

    def choose(self, end_key: int, n_done: int) -> _Range:
        """Return the pieces from the cursors to `end_key` without the first `n_done`, or what fits."""
        found = [self._read(one, end_key) for one in self._cursors]
        counts = [len(rows) for rows, _ in found]
        keys = np.concatenate([rows["key"] for rows, _ in found])
        starts = np.concatenate([rows["start"] for rows, _ in found])
        end_tokens = [end for _, end in found]
        del found
        continues = starts >= np.uint64(CONTINUES)
        starts = (starts & np.uint64(CONTINUES - 1)).astype(np.int64)
        lengths = np.empty_like(starts)
        lengths[:-1] = starts[1:]
        for last, n, end_token in zip(accumulate(counts), counts, end_tokens, strict=True):
            if n:
                lengths[last - 1] = end_token
        lengths -= starts
        order = np.argsort(keys, kind="stable")
        costs = np.cumsum(TOKEN.itemsize * lengths[order[n_done:]] + PIECE_BYTES)
        n_chosen = min(max(1, int(np.searchsorted(costs, RANGE_BYTES, side="right"))), len(costs))
        chosen = order[n_done : n_done + n_chosen]
        key, n_pieces = end_key, 0
        if n_chosen < len(costs):
            key = int(keys[chosen[-1]])
            n_pieces = n_done + n_chosen - int(np.searchsorted(keys[order], np.uint64(key)))
        is_chosen = np.zeros(len(keys), np.bool_)
        is_chosen[chosen] = True
        tokens = self._read_tokens(starts, lengths, is_chosen, counts)
        # Move each cursor on to the first record whose key is not smaller.
        for cursor, last, n in zip(self._cursors, accumulate(counts), counts, strict=True):
            cursor.next += _n_below(keys[last - n : last], key)
        return _Range(tokens, keys[chosen], starts[chosen], lengths[chosen], continues[chosen], key, n_pieces)

    def _read(self, cursor: _Cursor, end_key: int) -> tuple[Rows, int]:
        """Return the records from the cursor to `end_key`, and where the tokens of the last one end."""
        parts, start = [], cursor.next
        while True:
            end = min(start + cursor.n_expected, cursor.end)
            rows = self._spill.records(start, end)
            n_below = _n_below(rows["key"], end_key)
            parts.append(rows[:n_below])
            if n_below < len(rows):
                end_token = int(rows["start"][n_below]) & (CONTINUES - 1)
                break
            if end == cursor.end:
                end_token = cursor.end_token
                break
            start = end
        return np.concatenate(parts), end_token

    def _read_tokens(
        self,
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        is_chosen: NDArray[np.bool_],
        counts: Sequence[int],
    ) -> NDArray[np.uint16]:
        """Read the tokens of the chosen pieces, and turn their `starts` into places in what is returned.

        The pieces of a window that are chosen are next to each other there, so it takes one read.
        """
        n_tokens = int(lengths[is_chosen].sum())
        if len(self._buffer) < n_tokens:  # one piece that is larger than a range
            self._buffer = np.empty(n_tokens, TOKEN)
        done = 0
        for last, n in zip(accumulate(counts), counts, strict=True):
            some = slice(last - n, last)
            of_window = np.flatnonzero(is_chosen[some])
            if not len(of_window):
                continue
            first = last - n + int(of_window[0])
            start, end = int(starts[first]), int(starts[first + len(of_window) - 1])
            end += int(lengths[first + len(of_window) - 1])
            self._spill.read_into("tokens", self._buffer[done : done + end - start], start)
            starts[some] += done - start
            done += end - start
        return self._buffer[:done]


def _n_below(keys: NDArray[np.uint64], key: int) -> int:
    """Return how many sorted keys are smaller; `key` may be `KEY_END`."""
    return len(keys) if key >= KEY_END else int(np.searchsorted(keys, np.uint64(key)))
