"""Write tokens to working files, and give full shards their final names."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.output.ends import END, ends_stream
from nanogpt_compat.output.folders import work_folder
from nanogpt_compat.output.layout import Outputs, Shards
from nanogpt_compat.output.token_file import TOKEN, GrowingMemmap
from nanogpt_compat.output.written import Segment, publish_some
from nanogpt_compat.system.checksum import crc32


class Sink(Protocol):
    """What the pipeline writes to."""

    def append(
        self, tokens: NDArray[np.uint16], *, is_val: bool, ends: NDArray[np.int64] | None = None
    ) -> None:
        """Append `(n,) uint16` to a split.

        `ends`: the places from 0 to n where a document of this split ends, `(k,) int64`; None if they are not
        needed.
        """


class _OpenShards:
    """A stream of tokens being written: the open shard, and the full shards before it."""

    def __init__(self, shards: Shards, *, n_tokens: int, window_bytes: int) -> None:
        """Open the unfinished shard, and truncate it so that the stream has `n_tokens`."""
        self.n_tokens = n_tokens
        self._shards = shards
        self._window_bytes = window_bytes
        self._header_tokens = shards.header_bytes // TOKEN.itemsize
        self._file: GrowingMemmap | None = None
        if n_tokens == 0 or n_tokens % shards.shard_tokens:
            self._open(shards.n_full(n_tokens), n_tokens % shards.shard_tokens)

    def _open(self, k: int, n_tokens: int) -> GrowingMemmap:
        """Open shard `k` with `n_tokens` in it, and reserve the place of its header."""
        before = self._header_tokens + n_tokens if n_tokens else 0
        path = self._shards.partial(k)
        self._file = GrowingMemmap(path, n_tokens=before, window_bytes=self._window_bytes)
        if not before:
            self._file.append(np.zeros(self._header_tokens, TOKEN))
        return self._file

    def append(self, tokens: NDArray[np.uint16]) -> None:
        """Append `(n,) uint16`; finish each shard that is full, which makes it durable."""
        start = self.n_tokens
        for k, first, last in self._shards.pieces(start, start + len(tokens)) if len(tokens) else ():
            file = self._file or self._open(k, first)
            begin = self.n_tokens - start
            file.append(tokens[begin : begin + last - first])
            self.n_tokens += last - first
            if last == self._shards.shard_tokens:
                self._finish_shard(last)

    def _finish_shard(self, n_tokens: int) -> None:
        if self._file is not None:
            self._file.finish(header=self._shards.header(n_tokens))
            self._file = None

    def begin_sync(self) -> Callable[[], None]:
        """Start to make the whole stream durable, as `GrowingMemmap.begin_sync`."""
        return self._file.begin_sync() if self._file is not None else lambda: None  # synced when finished

    def drop_pages(self) -> None:
        """Write back, which releases all mapped and cached memory until the next append."""
        if self._file is not None:
            self._file.sync()

    def finish(self) -> None:
        """Finish the last shard."""
        self._finish_shard(self.n_tokens - self._shards.n_full(self.n_tokens) * self._shards.shard_tokens)

    def close(self) -> None:
        """Close the open file as it is."""
        if self._file is not None:
            self._file.close()


class TokenFiles:
    """The output being written, in `.prepare/`: train.bin and val.bin, or shards.

    `temporary` are streams that exist only while the run lasts. They hold anything, as `(n,) uint16`, and
    are as durable as the output, but are never published.
    """

    def __init__(
        self,
        outputs: Outputs,
        *,
        n_tokens: Mapping[str, int],
        window_bytes: int,
        temporary: Outputs | None = None,
    ) -> None:
        """Open the unfinished files, and truncate each stream to its `n_tokens` (0 if missing)."""
        self._outputs = outputs
        self._all = outputs | (temporary or {})
        self._begin_segment()
        self._n_published = dict.fromkeys(outputs, 0)
        with contextlib.ExitStack() as stack:
            self._streams = {}
            for split, shards in self._all.items():
                work_folder(shards.folder)
                stream = _OpenShards(shards, n_tokens=n_tokens.get(split, 0), window_bytes=window_bytes)
                self._streams[split] = stack.enter_context(contextlib.closing(stream))
            self._stack = stack.pop_all()

    @property
    def tokens(self) -> dict[str, int]:
        """The number of tokens so far, by stream."""
        return {split: stream.n_tokens for split, stream in self._streams.items()}

    @property
    def n_tokens(self) -> int:
        """The number of tokens of the output so far."""
        return sum(self._streams[split].n_tokens for split in self._outputs)

    def append(
        self, tokens: NDArray[np.uint16], *, is_val: bool, ends: NDArray[np.int64] | None = None
    ) -> None:
        """Append `(n,) uint16` to a split, and its ends to their stream, if there is one."""
        split = "val" if is_val else "train"
        n_before = self._streams[split].n_tokens
        self.write(split, tokens)
        if ends is not None and len(ends) and ends_stream(split) in self._streams:
            self.write(ends_stream(split), (ends + n_before).astype(END, copy=False).view(TOKEN))

    def write(self, split: str, tokens: NDArray[np.uint16]) -> None:
        """Append `(n,) uint16` to a stream."""
        stream, shards, n_done = self._streams[split], self._all[split], 0
        start = stream.n_tokens
        stream.append(tokens)  # at once: if a disk is full, it takes all or none
        for _, first, last in shards.sections(start, start + len(tokens)):
            n_before, n_done = n_done, n_done + last - first
            self._crcs[split] = crc32(tokens[n_before:n_done].data, self._crcs[split])
            if shards.ends_section(last):
                self._section_crcs[split].append(self._crcs[split])

    def begin_checkpoint(self) -> tuple[Segment, Callable[[], None]]:
        """End the segment; return it and a function that waits, in any thread, until it is durable."""
        waits = [stream.begin_sync() for stream in reversed(self._streams.values())]
        segment = Segment(self.tokens, self._crcs, self._section_crcs)
        self._begin_segment()

        def wait() -> None:
            for wait_for_one in waits:
                wait_for_one()

        return segment, wait

    def _begin_segment(self) -> None:
        self._crcs = dict.fromkeys(self._all, 0)
        self._section_crcs: dict[str, list[int]] = {split: [] for split in self._all}

    def publish_full(self, tokens: Mapping[str, int]) -> None:
        """Rename each shard that is full at `tokens`, which must be journaled, to its final name.

        Always call it from the same thread, which need not be the one that writes.
        """
        for split, shards in self._outputs.items():
            n_full = shards.n_full(tokens[split])
            publish_some(shards, range(self._n_published[split], n_full), may_replace=False)
            self._n_published[split] = n_full

    def drop_pages(self) -> None:
        """Write everything back, and release all memory of the output."""
        for stream in self._streams.values():
            stream.drop_pages()

    def finish(self) -> None:
        """Truncate the files to their exact sizes and make them durable."""
        for stream in self._streams.values():
            stream.finish()

    def __enter__(self) -> "TokenFiles":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
