"""Records of CSV: those that Python's `csv` finds, at any cut of the bytes."""

import csv
import io
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nanogpt_compat.input.cells import RecordEnds, parse_header, parse_record

# A lone CR, which ends a record for Python's csv, is data here.
MARKS = st.text(st.sampled_from('ab,;\t"\n é\U0001f600'), max_size=40)


def rows_of(raw: bytes, delimiter: str) -> list[list[str]]:
    """Parse all records, with all cells."""
    rows, start = [], 0
    while start < len(raw):
        cells = list[str]()
        while (record := parse_record(raw, start, delimiter.encode(), len(cells))).text is not None:
            cells.append(record.text.decode())
        assert len(cells) == record.n_cells or record.fault
        rows.append(cells)
        start = record.end
    return rows


def ends_of(raw: bytes, delimiter: str, piece_bytes: int) -> list[int]:
    """Find all ends, from pieces of a size; check the numbers returned for each piece."""
    ends = RecordEnds(delimiter.encode())
    found = list[int]()
    for start in range(0, len(raw), piece_bytes):
        first, last, n_ends = ends.find(raw[start : start + piece_bytes])
        if n_ends == 1:
            assert first == last
        found += [start + one for one in dict.fromkeys((first, last)) if n_ends]
    return found


@given(
    rows=st.lists(st.lists(MARKS, min_size=2, max_size=4), min_size=1, max_size=6),
    delimiter=st.sampled_from(",;\t"),
    line_end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_output_of_csv_is_read(
    rows: list[list[str]], delimiter: str, line_end: str, quoting: Literal[0, 1]
) -> None:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, lineterminator=line_end, quoting=quoting).writerows(rows)
    raw = file.getvalue().encode()
    assert rows_of(raw, delimiter) == rows
    for piece_bytes in (1, 2, 3, 7, len(raw)):
        ends = ends_of(raw, delimiter, piece_bytes)
        assert ends[-1] == len(raw)
        if piece_bytes == 1:
            assert len(ends) == len(rows)


@given(text=st.text(st.sampled_from('ab,"\n'), max_size=30), delimiter=st.sampled_from(",;"))
@example('a"b,c"\n"d""e"f,"\n', ",")
@example('"a\n', ",")
@example('""\n', ",")
@example('a,"b"c""d\n"e",\n', ",")
def test_malformed_text_is_cut_like_in_csv(text: str, delimiter: str) -> None:
    raw = text.encode()
    expected = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    found, start, ends = [], 0, list[int]()
    has_fault = False
    while start < len(raw):
        cells = list[str]()
        while (record := parse_record(raw, start, delimiter.encode(), len(cells))).text is not None:
            cells.append(record.text.decode())
        has_fault |= record.fault != ""
        found.append(cells)
        start = record.end
        if raw.endswith(b"\n", 0, start) and "no closing" not in record.fault:
            ends.append(start)
    assert len(found) == len(expected)
    if not has_fault:
        assert found == expected
    assert ends_of(raw, delimiter, 1) == ends


@pytest.mark.parametrize(
    ("head", "columns", "delimiter"),
    [
        (b"id,text\n1,a\n", ("id", "text"), ","),
        (b"\xef\xbb\xbfid;text\r\n", ("id", "text"), ";"),
        (b'\r\n\n"id","the ""body"""\n', ("id", 'the "body"'), ","),
        (b"text\n", ("text",), ","),
        (b"text;a,b,c\n", ("text", "a,b,c"), ";"),
        (b'"a\nb"|text|"c"', ("a\nb", "text", "c"), "|"),
        (b"a\ttext", ("a", "text"), "\t"),
    ],
)
def test_the_names_are_in_the_first_record(head: bytes, columns: tuple[str, ...], delimiter: str) -> None:
    header = parse_header(head, wanted=["text"])
    assert header is not None
    assert (header.columns, header.delimiter) == (columns, delimiter)


def test_an_empty_file_has_no_names() -> None:
    assert parse_header(b"") is None
    assert parse_header(b"\xef\xbb\xbf\r\n\n") is None


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 4, 50])
def test_a_byte_order_mark_is_no_part_of_the_first_cell(piece_bytes: int) -> None:
    raw = b'\xef\xbb\xbf"id\n",text\n1,"a\nb"\n'
    header = parse_header(raw, wanted=["text"])
    assert header is not None
    assert (header.columns, header.start, header.end) == (("id\n", "text"), 3, 14)
    ends = RecordEnds(b",", n_skipped=header.start)
    pieces = [raw[k : k + piece_bytes] for k in range(0, len(raw), piece_bytes)]
    assert sum(ends.find(one)[2] for one in pieces) == 2
