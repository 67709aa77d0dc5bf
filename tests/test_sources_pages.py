"""The pages of a parquet column are found without reading them."""

import io
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_compat.input.pages import Page, Pages, list_pages


def pages_of(texts: list[str], **options: Any) -> list[tuple[Pages, int]]:
    """Return the pages and the uncompressed size of the text column of each row group."""
    file = io.BytesIO()
    table = pyarrow.table({"id": list(range(len(texts))), "text": texts})
    pyarrow.parquet.write_table(table, file, **options)
    raw = file.getvalue()
    metadata = pyarrow.parquet.ParquetFile(file).metadata
    found, first_row = [], 0
    for k in range(metadata.num_row_groups):
        column = metadata.row_group(k).column(1)
        start = column.dictionary_page_offset or column.data_page_offset
        end = start + column.total_compressed_size
        pages = list_pages(lambda n, offset: raw[offset : offset + n], start, end, first_row)
        assert pages is not None
        found.append((pages, column.total_uncompressed_size))
        first_row += metadata.row_group(k).num_rows
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dictionary": False},
        {"compression": "zstd", "data_page_version": "2.0"},
        {"compression": "none", "data_page_size": 1000},
        {"row_group_size": 700, "write_page_checksum": True, "compression": "gzip"},
        {"use_dictionary": False, "write_statistics": True, "write_page_index": True},
    ],
)
def test_all_pages_are_found_with_their_rows_and_sizes(options: dict[str, Any]) -> None:
    texts = [f"Row {k} of many. " * (k % 50) for k in range(3000)] + ["x" * 100_000] + ["a long one " * 400]
    groups = pages_of(texts, **options)
    row = 0
    for pages, n_bytes in groups:
        for page in pages.pages:
            assert page.first_row == row
            assert pages.at(row) == pages.at(row + page.n_rows - 1) == page
            row += page.n_rows
        total = pages.dictionary_bytes + sum(page.n_bytes for page in pages.pages)
        assert (
            n_bytes - 2000 * (len(pages.pages) + 1) < total <= n_bytes
        )  # the rest are headers, with statistics
    assert row == len(texts)
    assert (groups[0][0].dictionary_bytes > 0) == options.get("use_dictionary", True)


def test_rows_are_counted_up_to_the_first_large_page() -> None:
    pages = Pages(0, [Page(10, 5, 100), Page(15, 1, 50), Page(16, 4, 900), Page(20, 2, 10)])
    assert [pages.rows_within(row, 150) for row in (10, 14, 15, 16, 19, 20)] == [6, 2, 1, 4, 1, 2]
    assert pages.rows_within(10, 10_000) == 12
    assert pages.rows_within(12, 0) == 3


@pytest.mark.parametrize(
    ("n_repeats", "expected"),
    # Up to two repeats of 60 bytes fit in 200 with the dictionary; more entries than rows are invalid.
    [(0, 15), (2, 15), (3, 3), (10, 3), (-1, 3)],
)
def test_rows_that_repeat_entries_of_a_dictionary_count_as_the_longest(n_repeats: int, expected: int) -> None:
    indices = [Page(0, 10, 20, has_indices=True), Page(10, 5, 10, has_indices=True)]
    pages = Pages(60, [*indices, Page(15, 50, 90)], n_repeats)
    assert pages.rows_within(0, 100) == expected
    assert pages.rows_within(15, 100) == 50


def test_repeated_texts_are_counted() -> None:
    for texts, n_repeats in ((["a", "b", "c"], 0), (["a", "b", "a", "a"], 2), (["a"] * 5, 4)):
        ((pages, _),) = pages_of(texts)
        assert pages.n_repeats == n_repeats
        assert all(page.has_indices for page in pages.pages)
        ((plain, _),) = pages_of(texts, use_dictionary=False)
        assert not any(page.has_indices for page in plain.pages)
        assert plain.n_repeats == 0


@given(st.binary(max_size=200), st.integers(0, 300))
def test_bytes_that_are_no_column_have_no_pages(raw: bytes, n_bytes: int) -> None:
    found = list_pages(lambda n, offset: raw[offset : offset + n], 0, n_bytes, 0)
    assert found is None or n_bytes <= len(raw)
