"""What a run reads, and how it is cut into blocks."""

from collections.abc import Sequence
from dataclasses import dataclass

from nanogpt_compat.input.location import Format, Location
from nanogpt_compat.text.documents import Documents
from nanogpt_compat.text.val_split import Windows


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The inputs, in order, and the options that decide the blocks."""

    paths: Sequence[Location]
    sizes: Sequence[int | None]  # bytes of each file; None for a pipe
    formats: Sequence[Format]
    windows: Windows = ()  # the validation ranges, if the text is one continuous stream
    documents: Documents | None = None  # None if it is
    errors: str
    block_bytes: int
    end: int | None = None
    """The byte (in parquet, the row) where this run stops reading: an exact cut or the end of a document."""
