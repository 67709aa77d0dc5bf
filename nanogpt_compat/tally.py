"""What a run counts, so that everything read is accounted for."""

from collections.abc import Sequence
from dataclasses import dataclass, field

MAX_OFFSETS = 10


@dataclass(slots=True)
class InputTally:
    """What came out of one input."""

    tokens: int = 0
    invalid_bytes: int = 0


@dataclass(slots=True)
class Tally:
    """All counters of a run, in the order of the input."""

    inputs: list[InputTally]
    bytes_read: int = 0
    forced_cuts: int = 0
    invalid_offsets: list[tuple[int, int]] = field(default_factory=list)  # (input index, byte offset)

    @property
    def tokens(self) -> int:
        """All tokens so far, train and val."""
        return sum(one.tokens for one in self.inputs)

    @property
    def invalid_bytes(self) -> int:
        """All undecodable bytes so far."""
        return sum(one.invalid_bytes for one in self.inputs)

    def count_block(self, input_index: int, *, n_bytes: int, n_tokens: int, is_forced: bool) -> None:
        """Count a block that has been written."""
        self.inputs[input_index].tokens += n_tokens
        self.bytes_read += n_bytes
        self.forced_cuts += is_forced

    def count_invalid(self, input_index: int, n_bytes: int, offsets: Sequence[int]) -> None:
        """Count undecodable bytes of a block, and keep the first ten offsets of the run."""
        self.inputs[input_index].invalid_bytes += n_bytes
        for offset in offsets[: MAX_OFFSETS - len(self.invalid_offsets)]:
            self.invalid_offsets.append((input_index, offset))
