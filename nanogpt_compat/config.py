"""The options of a run, checked and complete."""

from dataclasses import dataclass, fields
from pathlib import Path

from nanogpt_compat.text.documents import Documents
from nanogpt_compat.text.val_split import CHARS_PER_CHUNK

DEFAULT_INPUT = "train_fineweb.txt"
DEFAULT_TEXT_FIELD = "text"
VAL_RATIO = 0.0005
SEED = 2357  # nanoGPT's
SPAN_BYTES = 1 << 30
"""Nominal size of a span: large, because each costs the scheduler 1 ms and 3 KiB; not larger, because a lost
span is encoded again."""


@dataclass(frozen=True, slots=True)
class Share:
    """The part of this process in a run on many machines."""

    work_dir: Path
    span_bytes: int
    scheduler: str | None = None  # where spans run: `local`, or the address or file of a Dask scheduler
    rank: tuple[int, int] | None = None  # (R, N): do every Nth span in this process, from number R on
    merge: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """The options of one run, checked against its inputs and complete."""

    output_dir: Path
    has_documents: bool = False  # else the text is one continuous stream
    n_val_inputs: int = 0  # the last of the inputs, from --val-input
    n_chunks: int | None = None  # a chunk has 10,000,000 characters
    max_tokens: int | None = None  # train and val together
    val_ratio: float = VAL_RATIO
    val_split: str = "spread"
    separator: str | None = None  # between documents of plain text; None: it is one stream
    one_document_per_file: bool = False  # plain text otherwise has documents only with a separator
    eot: str = "append"
    output_format: str = "bin"
    shard_tokens: int | None = None
    shard_name: str | None = None
    index: bool = False  # write train.idx and val.idx, too
    shuffle: bool = False  # documents, in an order that `seed` decides
    seed: int | None = None  # None without `shuffle`
    text_field: str = DEFAULT_TEXT_FIELD
    skip_bad_records: bool = False
    errors: str = "ignore"
    errors_given: bool = False  # --errors is on the command line: text in an older charset is accepted
    vocab_dir: Path | None = None
    engine: str = "auto"
    n_workers: int = 1
    block_bytes: int | None = None  # None: by the number of workers
    overwrite: bool = False
    max_memory_bytes: int | None = None
    min_available_bytes: int | None = None

    @property
    def documents(self) -> Documents | None:
        """How documents are separated, marked and split; None if the text is one stream."""
        if not self.has_documents:
            return None
        return Documents(
            self.separator,
            self.eot,
            self.val_ratio if self.val_split == "documents" else 0.0,
            text_field=self.text_field,
            skip_bad=self.skip_bad_records,
            needs_ends=self.index or self.shuffle,
        )

    @property
    def max_chars(self) -> int | None:
        """The limit that `--n` sets, in characters."""
        return None if self.n_chunks is None else self.n_chunks * CHARS_PER_CHUNK

    @property
    def most_bytes(self) -> int | None:
        """How many bytes of text a limit allows the run to read, for the split; None without a limit.

        A character counts as one byte, and a token as four, as in English.
        """
        limits = [self.max_chars, None if self.max_tokens is None else 4 * self.max_tokens]
        return min((one for one in limits if one is not None), default=None)

    @property
    def has_val(self) -> bool:
        """Whether there is a val.bin at all."""
        return self.val_split != "none" and self.val_ratio > 0

    def as_options(self) -> dict[str, object]:
        """Return the options by name, as JSON can hold them."""
        names = [one.name for one in fields(self) if one.name != "has_documents"]
        values = ((name, getattr(self, name)) for name in names)
        return {name: str(value) if isinstance(value, Path) else value for name, value in values}
