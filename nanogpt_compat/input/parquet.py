"""The reader of parquet files."""

from collections.abc import Sequence

from nanogpt_compat.input.fieldpath import alternatives
from nanogpt_compat.input.location import Location
from nanogpt_compat.input.open import open_input
from nanogpt_compat.input.reader import Check, go_on
from nanogpt_compat.input.repairs import Steps, convert_table
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

    def conversion(
        self, paths: Sequence[Location], steps: Steps, *, is_number: bool, parts: str, is_piped: bool
    ) -> str:
        text_field, *_ = alternatives(self.documents.text_field)
        return convert_table(
            paths,
            steps,
            container="parquet",
            text_field=text_field,
            is_number=is_number,
            is_piped=is_piped,
        )
