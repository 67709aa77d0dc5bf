"""End a run at a number of tokens.

The place depends on the inputs alone, not on the blocks in which they are read. So the block that reaches the
number is encoded again, up to the first place where a run may end. Without documents that place is
an exact cut, and the tokens between the number and the cut are dropped.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from nanogpt_compat.encoders.block import Encoded
from nanogpt_compat.errors import InputError
from nanogpt_compat.input.source import Source
from nanogpt_compat.resume.counters import Tally
from nanogpt_compat.text.blocks import Block, MakeRoom


@dataclass(frozen=True, slots=True)
class TokenLimit:
    """A run's limit of tokens: of train and val together, in the order of the input."""

    source: Source
    encode: Callable[[Block], Encoded]
    max_tokens: int
    make_room: MakeRoom

    def is_reached(self, tally: Tally) -> bool:
        """Return whether the run ends at `tally`."""
        at = tally.position
        return tally.tokens >= self.max_tokens and self.source.reader(at.input_index).may_end_at(at)

    def shorten(self, encoded: Callable[[], Encoded], block: Block | None, n_before: int) -> Encoded:
        """Return the tokens of a block, up to the limit if it is in the block.

        `encoded` returns those of the whole block, or raises an InputError, which counts only if the limit is
        not reached before the fault. `block` is None for a single record. `n_before`: the tokens before it.
        """
        n_left = self.max_tokens - n_before
        try:
            found = encoded()
        except InputError:
            shorter = None if block is None else self._shortest(block, n_left)
            if shorter is None:
                raise
            return self._cut(shorter, n_left)
        if found.n_tokens < n_left:
            return found
        if block is not None and self.source.reader(block.start.input_index).may_end_at(block.end):
            found = self._shortest(block, n_left) or found
        return self._cut(found, n_left)

    def _shortest(self, block: Block, n_tokens: int) -> Encoded | None:
        """Encode the shortest beginning of a block with `n_tokens` that ends where a run may end.

        None if only the whole block has them, or if what holds them cannot be encoded.
        """
        reader = self.source.reader(block.start.input_index)
        found: Encoded | None = None
        low, high = 1, len(block.raw) + 1  # characters; a beginning with `high` is long enough
        while low < high:
            middle = (low + high) // 2
            some = reader.shorten(block, middle, self.make_room)
            n_chars = some.n_chars
            some = replace(some, n_chars=n_chars if block.n_chars else 0)  # counted only with --n
            made = None
            if (some.end.offset, some.end.records) != (block.end.offset, block.end.records):
                with suppress(InputError):
                    made = self.encode(some)
            if made is None or made.n_tokens >= n_tokens:
                found, high = made, middle
            else:
                low = max(middle, n_chars) + 1
        return found

    def _cut(self, encoded: Encoded, n_tokens: int) -> Encoded:
        """Drop what is beyond `n_tokens`, if the text is one stream."""
        if self.source.documents is not None:
            return encoded
        stretches = []
        for one in encoded.stretches:  # all of one split
            stretches.append(replace(one, ids=one.ids[: max(0, n_tokens)]))
            n_tokens -= len(one.ids)
        return replace(encoded, stretches=tuple(stretches))
