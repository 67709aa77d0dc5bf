"""The reader of parquet files."""

from nanogpt_compat.input.open import open_input
from nanogpt_compat.input.reader import Check, go_on
from nanogpt_compat.input.table import Table
from nanogpt_compat.input.tables import TextColumn

MAX_ROW_GROUP_BYTES = 4 << 30  # larger than any real row group; it is read page by page anyway


class Parquet(Table):
    """Reads documents from a column of a parquet file."""

    __slots__ = ()

    def _open(self, check: Check = go_on, *, size_bytes: int | None = None) -> TextColumn:
        """Open the text column; raise what `TextColumn` raises."""
        return TextColumn(
            open_input(self.location, size_bytes=size_bytes, check=check),
            text_field=self.documents.text_field,
            max_row_group_bytes=MAX_ROW_GROUP_BYTES,
        )
