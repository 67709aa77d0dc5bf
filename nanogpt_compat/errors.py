"""Everything this program can say went wrong.

    PrepareError            1   internal error
    |-- DifferenceError     1   --verify found a difference
    |-- UsageError          2   options that make no sense
    |-- InputError          3   the input, or no vocabulary
    |   `-- EngineFailure   3   a text that no engine can encode
    |-- OutputError         4   disk, permissions, lock held, final files exist
    |-- CheckpointError     5   the checkpoint, or the plan, does not belong to this input or these options
    |-- SpansError          6   spans of a plan failed, or are still to be done
    |-- MemoryLimitError   75   stopped before memory ran out, resumable
    `-- TooSmallError      78   the smallest settings cannot fit, a retry is useless

The number is the exit code. A message says what, where, found and expected, and what to do next.
"""


class PrepareError(Exception):
    """Any failure that has been understood; `exit_code` is what the shell will see."""

    exit_code = 1


class DifferenceError(PrepareError):
    """The output is not what the input makes."""


class UsageError(PrepareError):
    """Options that contradict one another or are out of range."""

    exit_code = 2


class InputError(PrepareError):
    """An input, or the vocabulary, is missing, unreadable, changing or not what it claims to be."""

    exit_code = 3


class EngineFailure(InputError):
    """An engine raised an error on a text, and so did tiktoken; the caller adds where the text stands."""


class OutputError(PrepareError):
    """The output folder cannot take the result."""

    exit_code = 4


class CheckpointError(PrepareError):
    """What an earlier run left behind does not belong to this input or these options."""

    exit_code = 5


class SpansError(PrepareError):
    """Some spans of a plan have failed for good, or are not done yet; all others are done."""

    exit_code = 6


class MemoryLimitError(PrepareError):
    """The run stopped before memory ran out; the same command goes on."""

    exit_code = 75

    def __init__(self, message: str, *, smaller_helps: bool = True) -> None:
        """`smaller_helps`: with smaller settings it may go on at once; else when there is more memory."""
        super().__init__(message)
        self.smaller_helps = smaller_helps


class TooSmallError(PrepareError):
    """Even the smallest settings do not fit into the memory that is allowed."""

    exit_code = 78

    def __init__(
        self, message: str, *, way_out: str = "", enough_max_memory_bytes: int | None = None
    ) -> None:
        """`way_out`: what to do about the one record that does not fit, where others may.

        With so much of `--max-memory`, it would.
        """
        super().__init__(message)
        self.way_out = way_out
        self.enough_max_memory_bytes = enough_max_memory_bytes
