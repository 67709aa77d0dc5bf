"""What a run was asked to do."""

from dataclasses import dataclass, fields
from pathlib import Path

from nanogpt_compat.input.location import Format, Location
from nanogpt_compat.input.pipes import Pipe
from nanogpt_compat.text.documents import Documents

DEFAULT_INPUT = "train_fineweb.txt"
DEFAULT_TEXT_FIELD = "text"
VAL_RATIO = 0.0005
SPAN_BYTES = 1 << 30
"""A task costs a scheduler 1 ms and 3 KiB, and a lost one is done again: so not much less, nor more."""


@dataclass(frozen=True, slots=True)
class Share:
    """What is asked of this process, of a run that others have a share in."""

    work_dir: Path
    span_bytes: int
    scheduler: str | None = None  # whom to give spans to: `local`, an address, a scheduler file
    rank: tuple[int, int] | None = None  # R of N: which spans to do here
    merge: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """The options of one run, checked and complete."""

    inputs: tuple[Location, ...]
    formats: tuple[Format, ...]  # of each of them
    output_dir: Path
    n_chunks: int | None = None  # of 10,000,000 characters each
    val_ratio: float = VAL_RATIO
    val_split: str = "spread"
    separator: str | None = None  # between documents; None: there are none
    eot: str = "append"
    output_format: str = "bin"
    shard_tokens: int | None = None
    shard_name: str | None = None
    text_field: str = DEFAULT_TEXT_FIELD
    skip_bad_records: bool = False
    errors: str = "ignore"
    errors_given: bool = False  # whoever says what to do with undecodable bytes knows of them
    vocab_dir: Path | None = None
    engine: str = "auto"
    n_workers: int = 1
    block_bytes: int | None = None  # None: by the number of workers
    overwrite: bool = False
    max_memory_bytes: int | None = None
    min_available_bytes: int | None = None

    @property
    def documents(self) -> Documents | None:
        """What to do about documents; None if the text is one stream."""
        if self.separator is None and not any(one.has_records for one in self.formats):
            return None
        return Documents(
            self.separator,
            self.eot,
            self.val_ratio if self.val_split == "documents" else 0.0,
            text_field=self.text_field,
            skip_bad=self.skip_bad_records,
        )

    @property
    def has_streams(self) -> bool:
        """Whether there is text of which nobody knows how much it is before it has been read."""
        return any(isinstance(one, Pipe) for one in self.inputs) or any(
            one.is_packed_text for one in self.formats
        )

    @property
    def has_val(self) -> bool:
        """Whether there is a val.bin at all."""
        return self.val_split != "none" and self.val_ratio > 0

    def as_options(self) -> dict[str, object]:
        """List the options as JSON can hold them."""
        names = [one.name for one in fields(self) if one.name not in ("inputs", "formats")]
        values = ((name, getattr(self, name)) for name in names)
        return {name: str(value) if isinstance(value, Path) else value for name, value in values}
