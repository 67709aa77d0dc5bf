"""The errors of this program, and their exit codes.

    PrepareError            1   internal error
    |-- DifferenceError     1   --verify or --check found a difference
    |-- UsageError          2   options that make no sense
    |-- InputError          3   the input, or no vocabulary
    |   `-- EngineFailure   3   a text that no engine can encode
    |-- OutputError         4   disk, permissions, lock held, final files exist
    |-- CheckpointError     5   the checkpoint, or the plan, belongs to other inputs or options
    |-- SpansError          6   spans of a plan failed, or are still to be done
    |-- MemoryLimitError   75   stopped before memory ran out; the same command resumes
    `-- TooSmallError      78   too little memory for the smallest settings, or for one record;
                                running it again unchanged will not help

The number is the exit code. A message says what is wrong, where, what was found and expected, and what to do
next.
"""


class PrepareError(Exception):
    """A failure that the program understands; the process ends with `exit_code`."""

    exit_code = 1


class DifferenceError(PrepareError):
    """The output files do not hold the tokens of the input, or are not as they were written."""


class UsageError(PrepareError):
    """Options contradict one another or are out of range."""

    exit_code = 2


class InputError(PrepareError):
    """An input, or the vocabulary, is missing, unreadable, changing or not what it claims to be."""

    exit_code = 3


class EngineFailure(InputError):
    """No engine can encode a text, not even tiktoken; the caller adds the place of the text."""


class OutputError(PrepareError):
    """The output cannot be written or replaced, or is not there to be verified."""

    exit_code = 4


class CheckpointError(PrepareError):
    """What an earlier run saved belongs to other inputs or options."""

    exit_code = 5


class SpansError(PrepareError):
    """Some spans of a plan failed for good, or are not done yet; all other spans are done."""

    exit_code = 6


class MemoryLimitError(PrepareError):
    """The run stopped before memory ran out; the same command resumes."""

    exit_code = 75

    def __init__(self, message: str, *, smaller_helps: bool = True) -> None:
        """`smaller_helps`: whether smaller settings may be enough to resume; if not, only more memory is."""
        super().__init__(message)
        self.smaller_helps = smaller_helps


class TooSmallError(PrepareError):
    """The smallest settings, or one record, do not fit into the memory that is allowed."""

    exit_code = 78

    def __init__(
        self, message: str, *, way_out: str = "", enough_max_memory_bytes: int | None = None
    ) -> None:
        """`way_out`: what to do if a single record does not fit.

        `enough_max_memory_bytes`: the `--max-memory` with which the record would fit, if that is the limit.
        """
        super().__init__(message)
        self.way_out = way_out
        self.enough_max_memory_bytes = enough_max_memory_bytes
