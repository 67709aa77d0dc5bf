"""The one loop: blocks in, encoded by threads, tokens out in order."""

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FuturesTimeoutError  # another class before Python 3.11
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from nanogpt_compat.encoders.block import Encoded, encode_block
from nanogpt_compat.encoders.interface import Encoder
from nanogpt_compat.errors import InputError
from nanogpt_compat.input.source import Source
from nanogpt_compat.memory.policy import IN_FLIGHT_BYTES
from nanogpt_compat.output.writer import Sink
from nanogpt_compat.resume.counters import Tally
from nanogpt_compat.system.threads import start_pool
from nanogpt_compat.text.blocks import (
    LONG_RECORD_BYTES,
    Block,
    Blocks,
    MakeRoom,
    Need,
    Position,
    has_room,
    need_of_record,
)
from nanogpt_compat.token_limit import TokenLimit

_MIN_BLOCK_BYTES = 16 * 1024
_MAX_BLOCK_BYTES = 1024 * 1024  # larger blocks are not faster with any engine, and delay a stop
_BLOCK_OVERHEAD_BYTES = 4096  # a block's future, object and array; this counts for blocks of a few bytes
_DOCUMENT_OVERHEAD_BYTES = 512  # a document's objects, and the mark after it
_LOOK_UP_EVERY_S = 0.1
_CHECK_EVERY_BYTES = 16 * 1024 * 1024  # each has one slice of 8 KiB checked: 2 to 4 % of gigatoken's time
_N_AT_FIRST = 16  # slices of the first block, so 128 KiB; all of 1 MiB would add 0.15 s to the start-up
_SHORT_BYTES = 128 * 1024


def block_size(n_workers: int) -> int:
    """Choose a block size with which all workers, at two blocks each, stay within the budget.

    >>> block_size(2), block_size(64)
    (1048576, 65536)
    """
    return max(_MIN_BLOCK_BYTES, min(_MAX_BLOCK_BYTES, IN_FLIGHT_BYTES // (16 * n_workers)))


def run(
    source: Source,
    tally: Tally,
    sink: Sink,
    encoder: Encoder,
    *,
    n_workers: int,
    max_chars: int | None,
    admit: Callable[[int, int], bool],
    after_block: Callable[[], None],
    check: Callable[[], None],
    make_room: MakeRoom = has_room,
    check_room: MakeRoom = has_room,
    max_tokens: int | None = None,
) -> None:
    """Tokenise a source into `sink`, from `tally.position` on.

    Reading ends at `max_chars`, or after the document that reaches `max_tokens`; without documents, exactly
    there. Inputs for val have no limit.

    `admit(cost, cost of all blocks in flight)` is asked before a block goes to a thread and before a long
    record is read. While it refuses, the oldest block in flight is waited for and written. For a long record
    `make_room` is called after that, and `check_room` in the thread for the further memory it takes. At each
    call of `after_block`, `tally` counts exactly what `sink` holds. `check` is called several times a second.
    An exception from any of these ends the run.

    Raises:
        EngineMismatch: the engine's tokens are wrong; the message names the bytes and the file.
    """

    def wait_for_room(n_bytes: int, need: Callable[[], Need]) -> None:
        in_flight.make_room(n_bytes)
        make_room(n_bytes, need)

    def write(future: Future[Encoded], block: Block | None) -> None:
        encoded = future.result() if limit is None else limit.shorten(future.result, block, tally.tokens)
        for one in encoded.stretches:
            sink.append(one.ids, is_val=one.is_val, ends=one.ends)
        _count_ended(tally, source, encoded.block.start.input_index)
        _count(tally, encoded)
        after_block()
        if limit is not None and limit.is_reached(tally):
            raise _Enough

    for start in source.phases(tally.position):
        tally.position = start
        is_val = start.input_index >= source.n_train_inputs
        blocks = source.blocks(
            start, bytes_before=tally.text_bytes_before, check=check, make_room=wait_for_room
        )
        if max_chars is not None and not is_val:
            blocks = source.limit(blocks, max_chars - tally.chars, start, wait_for_room)
        work = _Work(source, encoder, start, check_room)
        limit: TokenLimit | None = None
        if max_tokens is not None and not is_val:
            limit = TokenLimit(source, work.encode, max_tokens, make_room)
        in_flight = _InFlight(work, write, admit, n_workers, check, keeps_blocks=limit is not None)
        with closing(blocks), in_flight, suppress(_Enough):
            if limit is None or not limit.is_reached(tally):
                in_flight.put_through(blocks)
        has_enough = limit is not None and limit.is_reached(tally)
        has_enough |= max_chars is not None and not is_val and tally.chars >= max_chars
        _count_phase(tally, source, source.phase_end(start), has_enough=has_enough)


def _count_phase(tally: Tally, source: Source, end: int, *, has_enough: bool) -> None:
    """Count the inputs before number `end` when reading has ended: in full, or as far as they were read."""
    at = tally.position
    index = at.input_index
    if source.end is not None:
        # A compressed input is one span, so it has ended; another input may go beyond this span.
        _count_ended(tally, source, index + (source.inputs[index].form.compression != "none"))
    elif has_enough:
        for one in tally.inputs[index + at.at_end : end]:
            one.is_left = True
    else:
        _count_ended(tally, source, end)


class _Enough(Exception):
    """The limit of tokens is reached. Text read after it does not count, nor do errors in it."""


def _count_ended(tally: Tally, source: Source, end: int) -> None:
    """Count the inputs before number `end` as read in full: no block holds bytes after the last record."""
    for index in range(tally.position.input_index, end):
        one = tally.inputs[index]
        one.bytes_read = source.inputs[index].size_bytes or one.bytes_read


def _count(tally: Tally, encoded: Encoded) -> None:
    block = encoded.block
    n_val = sum(len(one.ids) for one in encoded.stretches if one.is_val)
    tally.count_block(
        block.end,
        n_train_tokens=encoded.n_tokens - n_val,
        n_val_tokens=n_val,
        n_chars=block.n_chars,
        n_forced=block.ends_by_force + encoded.n_forced,
        n_invalid=encoded.n_invalid,
        invalid_offsets=encoded.invalid_offsets,
        records=encoded.records,
    )
    if encoded.documents is not None:
        tally.count_documents(encoded.documents)
    tally.checked_slices += encoded.n_checked
    tally.fallback_blocks += encoded.by_reference


@dataclass(frozen=True, slots=True)
class _Work:
    """Encode blocks, and bound the memory that each takes."""

    source: Source
    encoder: Encoder
    beginning: Position  # where this phase of the run begins; more of the block there is checked
    check_room: MakeRoom

    def encode(self, block: Block) -> Encoded:
        """Encode a block, in a worker thread."""
        check_at: Sequence[int] | None
        if block.start != self.beginning:
            check_at = places_to_check(block)
        elif len(block.raw) > _SHORT_BYTES:
            check_at = range(0, len(block.raw), -(-len(block.raw) // _N_AT_FIRST))
        else:
            check_at = None  # everywhere
        source, path = self.source, self.source.inputs[block.start.input_index].location
        documents = source.documents_in(block.start.input_index)
        return encode_block(block, self.encoder, source.errors, path, check_at, documents, self.check_room)

    def cost_bytes(self, block: Block) -> int:
        """Bound the memory that a block takes until it is written."""
        documents = self.source.documents
        if block.is_long_record:
            need = need_of_record("", len(block.raw))
            # Without the engine's share, which is less for most texts: else even short books come one by one.
            engine_bytes = self.encoder.cost_bytes(block.raw[:LONG_RECORD_BYTES])
            return min(need.most_bytes, need.n_bytes + len(block.raw) * 9 // 8 + engine_bytes)
        n_documents = block.end.records - block.start.records
        if documents is not None and documents.separator is not None:
            n_documents += block.raw.count(documents.separator.encode())
        engine_bytes = self.encoder.cost_bytes(block.raw)
        return _BLOCK_OVERHEAD_BYTES + engine_bytes + n_documents * _DOCUMENT_OVERHEAD_BYTES


class _InFlight:
    """Blocks that threads encode, and that are written in the order in which they were read."""

    def __init__(
        self,
        work: _Work,
        write: Callable[[Future[Encoded], Block | None], None],
        admit: Callable[[int, int], bool],
        n_workers: int,
        check: Callable[[], None],
        *,
        keeps_blocks: bool = False,
    ) -> None:
        """`keeps_blocks`: hand blocks to `write`, too, except long records, whose text is freed earlier."""
        self._work = work
        self._write = write
        self._admit = admit
        self._check = check
        self._keeps_blocks = keeps_blocks
        self._pending: deque[tuple[Future[Encoded], Block | None, int]] = deque()
        self._n_bytes = 0  # the cost of all of them
        self._has_failed = False  # a block could not be encoded or written, so none after it may be written
        self._pool = start_pool(n_workers, "encode")

    def __enter__(self) -> "_InFlight":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After an error the blocks still in flight will not be written: do not wait for them.
        self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def put_through(self, blocks: Blocks) -> None:
        """Encode and write all blocks.

        If an input error ends the reading, all blocks before it are written first. At a stop, that is any
        other exception, only blocks that are encoded already are written, up to the first that is not.
        """
        try:
            while (block := next(blocks, None)) is not None:
                cost_bytes = self._work.cost_bytes(block)
                self.make_room(cost_bytes)
                self._check()
                kept = block if self._keeps_blocks and not block.is_long_record else None
                self._pending.append((self._pool.submit(self._work.encode, block), kept, cost_bytes))
                self._n_bytes += cost_bytes
                del block, kept
        except Exception as error:
            is_stop = not isinstance(error, InputError)
            while self._pending and not self._has_failed and (not is_stop or self._is_next_done):
                self._write_next()
            raise
        while self._pending:
            self._check()
            self._write_next()

    def make_room(self, cost_bytes: int) -> None:
        """Write blocks until a block of this cost is admitted, or none is in flight."""
        while self._pending and (self._is_next_done or not self._admit(cost_bytes, self._n_bytes)):
            self._check()
            self._write_next()

    @property
    def _is_next_done(self) -> bool:
        return self._pending[0][0].done()

    def _write_next(self) -> None:
        """Wait for the oldest block, calling `check` meanwhile, and write it."""
        future, block, cost_bytes = self._pending.popleft()
        self._has_failed = True
        while not future.done():
            self._check()
            with contextlib.suppress(TimeoutError, FuturesTimeoutError):
                future.exception(timeout=_LOOK_UP_EVERY_S)
        self._write(future, block)
        self._n_bytes -= cost_bytes
        self._has_failed = False


def places_to_check(block: Block) -> list[int]:
    """Choose where in a block the engine is checked: one place in every 16 MiB of each input.

    The places do not depend on the size of blocks, nor on where a run was stopped.
    """
    start, end = block.start.offset, block.end.offset
    spans = range(start // _CHECK_EVERY_BYTES, end // _CHECK_EVERY_BYTES + 1)
    places = [_place_to_check(block.start.input_index, k, _CHECK_EVERY_BYTES) for k in spans]
    return [place - start for place in places if start <= place < end]


@lru_cache(maxsize=64)
def _place_to_check(input_index: int, k: int, every_bytes: int) -> int:
    return k * every_bytes + Random(f"{input_index} {k}").randrange(every_bytes)
