"""What a run reads, and how it is cut into blocks."""

from collections.abc import Sequence
from dataclasses import dataclass

from nanogpt_compat.input.location import Format, Location
from nanogpt_compat.text.documents import Documents
from nanogpt_compat.text.val_split import Windows


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What is read, and how it is cut into blocks."""

    paths: Sequence[Location]
    sizes: Sequence[int | None]  # None of a pipe: nobody knows
    formats: Sequence[Format]
    windows: Windows = ()  # of text that is one stream, what is for validation
    documents: Documents | None = None
    errors: str
    block_bytes: int
    end: int | None = None
    """A byte, of parquet a row, where a document or an exact cut ends: the input that it is in ends there."""
