"""CSV and TSV: the documents given to Python's `csv`, in blocks of any size; faults by record and byte."""

import csv
import gzip
import io
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt_compat.errors import InputError
from nanogpt_compat.input.delimited import Delimited
from nanogpt_compat.input.location import Container, Format
from nanogpt_compat.input.reader import Consumed, Reading
from nanogpt_compat.text.blocks import LONG_RECORD_BYTES, Need, Position, RecordBlock, has_room
from nanogpt_compat.text.documents import Documents
from tests.conftest import REPOSITORY, RunPrepare
from tests.texts import zstd

TEXTS = [
    "",
    "plain",
    'with "quotes", and a comma',
    "two\nlines\r\n and CR \r",
    "\u4e2d\u6587 \U0001f600",
    '"',
    "\n",
]
DOCUMENTS = [f"{k} {TEXTS[k % 7]}" * (k % 5) for k in range(200)]


BEGINNING = Position(0)


def written(texts: Sequence[str], *, delimiter: str = ",", end: str = "\r\n", **options: Any) -> bytes:
    file = io.StringIO(newline="")
    rows = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_NONNUMERIC, **options)
    rows.writerows([("id", "text", "more"), *((k, text, f"{text},{k}") for k, text in enumerate(texts))])
    return file.getvalue().encode()


def reader_of(
    path: Path, *, container: Container = "csv", skip_bad: bool = False, text_field: str = "text"
) -> Delimited:
    suffix = path.suffix.removeprefix(".")
    compression: Any = suffix if suffix in ("gz", "zst") else "none"
    documents = Documents(None, "append", 0.0, text_field=text_field, skip_bad=skip_bad)
    return Delimited(path, Format(container, compression), documents)


def blocks_of(
    reader: Delimited, *, block_bytes: int = 1 << 20, start: Position = BEGINNING, make_room: Any = has_room
) -> Iterator[RecordBlock]:
    for block in reader.blocks(start, Reading(block_bytes=block_bytes, make_room=make_room)):
        assert isinstance(block, RecordBlock)
        yield block


def texts_of(reader: Delimited, **options: Any) -> list[bytes]:
    skip_bad = reader.documents.skip_bad
    return [
        text for block in blocks_of(reader, **options) for text in block.documents(skip_bad=skip_bad).texts
    ]


@pytest.mark.parametrize(("container", "delimiter"), [("csv", ","), ("csv", ";"), ("tsv", "\t")])
@pytest.mark.parametrize("name", ["a", "a.gz", "a.zst"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_documents_are_those_that_were_written(
    container: Container, delimiter: str, name: str, mark: bytes, tmp_path: Path
) -> None:
    raw = mark + written(DOCUMENTS, delimiter=delimiter, end="\n")
    path = tmp_path / name
    path.write_bytes({"": bytes, ".gz": gzip.compress, ".zst": zstd.compress}[path.suffix](raw))
    reader = reader_of(path, container=container)
    for block_bytes in (1, 100, 4096, 1 << 20):
        blocks = list(blocks_of(reader, block_bytes=block_bytes))
        found = [block.documents(skip_bad=False) for block in blocks]
        assert [text for one in found for text in one.texts] == [one.encode() for one in DOCUMENTS if one]
        assert sum(one.n_empty for one in found) == DOCUMENTS.count("")
        assert b"".join(block.raw for block in blocks) == raw
        assert blocks[-1].end.records == len(DOCUMENTS) + 1


@given(
    texts=st.lists(st.text(st.sampled_from('ab",;\n\r\t \u4e2d'), max_size=12), max_size=12),
    end=st.sampled_from(["\n", "\r\n"]),
    block_bytes=st.integers(1, 40),
    is_whole=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_any_text_comes_back_from_any_blocks_and_from_any_place(
    texts: list[str], end: str, block_bytes: int, is_whole: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("data") / "a.csv"
    raw = written(texts, end=end)
    path.write_bytes(raw if is_whole else raw.removesuffix(end.encode()))
    reader = reader_of(path)
    blocks = list(blocks_of(reader, block_bytes=block_bytes))
    assert [text for one in blocks for text in one.documents(skip_bad=False).texts] == [
        text.encode() for text in texts if text
    ]
    for k, block in enumerate(blocks):
        again = list(blocks_of(reader, block_bytes=1 << 20, start=block.end)) if k + 1 < len(blocks) else []
        later = [text for one in blocks[k + 1 :] for text in one.documents(skip_bad=False).texts]
        assert [text for one in again for text in one.documents(skip_bad=False).texts] == later
        singles = list(block.singles())
        assert b"".join(one.raw for one in singles) == block.raw
        assert singles[-1].end.records - block.start.records == len(singles)
        assert [text for one in singles for text in one.documents(skip_bad=False).texts] == block.documents(
            skip_bad=False
        ).texts
        assert reader.change(Consumed(block.end.offset, 0, block.end.crc, is_all=False), lambda: None) == ""


@pytest.mark.parametrize("name", ["a.csv", "a.gz"])
@pytest.mark.parametrize("last", [b"2,b", b'2,"b\n"'])
def test_a_last_record_without_line_end_ends_the_input(name: str, last: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    raw = b"id,text\n1,a\n" + last
    path.write_bytes(gzip.compress(raw) if name == "a.gz" else raw)
    for block_bytes in (1, 1000):
        *_, block = blocks_of(reader_of(path), block_bytes=block_bytes)
        assert block.end.at_end
        assert block.documents(skip_bad=False).texts[-1].startswith(b"b")


BAD = b"""id,text
1,good
2
3,a,b
4,"a"b"
5,"",
6,caf\xe9
\r
7,"and
so"
"""


def test_records_that_are_no_documents_are_named_by_number_and_byte_or_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(BAD)
    ends = list(accumulate(len(line) for line in BAD.splitlines(keepends=True)))
    places = [f"record {k + 1}, at byte {ends[k - 1]}" for k in range(2, 7)]
    with pytest.raises(InputError) as error:
        texts_of(reader_of(path))
    assert str(error.value) == (
        f"{path}: {places[0]}: it has 1 cell, the header 2; fix the record, or skip such records with "
        "--skip-bad-records"
    )
    for block_bytes in (1, 1000):
        found = [
            one.documents(skip_bad=True)
            for one in blocks_of(reader_of(path, skip_bad=True), block_bytes=block_bytes)
        ]
        assert [text for one in found for text in one.texts] == [b"good", b"and\nso"]
        assert [bad for one in found for bad in one.bad] == [
            f"{places[0]}: it has 1 cell, the header 2",
            f"{places[1]}: it has 3 cells, the header 2",
            f"{places[2]}: 'b\"' follows the closing quote of its cell 2; double the quotes inside",
            f"{places[3]}: it has 3 cells, the header 2",
            f"{places[4]}: byte 3 of its field 'text' is not UTF-8: found e9",
        ]


def test_a_quote_that_is_never_closed_is_named_with_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\n1,a\n2,"open\n' + b"3,b\n" * 100)
    message = "record 3, at byte 12: its cell 2 has no closing quote in the 406 bytes to the end of the file"
    with pytest.raises(InputError, match=message):
        texts_of(reader_of(path))
    assert texts_of(reader_of(path, skip_bad=True)) == [b"a"]
    monkeypatch.setattr("nanogpt_compat.input.runs.MAX_RECORD_BYTES", 300)
    for skip_bad in (False, True):
        with pytest.raises(InputError, match=r"record 3, at byte 12, has more than \d+ bytes; the limit"):
            texts_of(reader_of(path, skip_bad=skip_bad), block_bytes=64)


def test_an_option_of_several_names_takes_the_existing_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"id;content;meta.text\n1;a;b\n")
    assert texts_of(reader_of(path, text_field="text,content")) == [b"a"]
    assert texts_of(reader_of(path, text_field="meta.text")) == [b"b"]
    fault = reader_of(path, text_field="text").fault(lambda: None)
    assert fault is not None
    assert fault.found == f"{path} has no column 'text' among its columns ('id', 'content', 'meta.text')"


@pytest.mark.parametrize("raw", [b"", b"\xef\xbb\xbf", b"\n\r\n", b"id,body\n", b"text"])
def test_a_file_without_records_may_have_any_header(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(raw)
    assert reader_of(path).fault(lambda: None) is None
    assert texts_of(reader_of(path)) == []


def test_two_columns_of_the_name_and_a_header_that_does_not_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,text\na,b\n")
    with pytest.raises(InputError, match="has two columns 'text' among its columns"):
        texts_of(reader_of(path))
    path.write_bytes(b'"text,' + b"a" * 2_000_000)
    with pytest.raises(InputError, match=r"has no header: its first record has more than 1.0 MB"):
        texts_of(reader_of(path))


def test_a_long_record_is_a_block_and_room_is_made_for_it_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    long = ('He said "yes",\n' * (LONG_RECORD_BYTES // 10))[: LONG_RECORD_BYTES * 5 // 4]
    path.write_bytes(written(["a", long, "b"]))
    asked: list[str] = []

    class Refused(Exception):
        pass

    def refuse(n_bytes: int, need: Callable[[], Need]) -> None:
        asked.append(f"{n_bytes} {need().what}")
        raise Refused

    blocks = list(blocks_of(reader_of(path), block_bytes=100_000))
    (block,) = (one for one in blocks if one.is_long_record)
    assert block.documents(skip_bad=False).texts == [long.encode()]
    with pytest.raises(Refused):
        list(blocks_of(reader_of(path), block_bytes=100_000, make_room=refuse))
    assert re.match(rf"\d+ {re.escape(str(path))}: record 3, at byte \d+, has [23].\d MB", asked[0])


def test_the_forecast_samples_places_throughout_the_file(run_prepare: RunPrepare, tmp_path: Path) -> None:
    texts = ["one two three\n" * 30] * 3000 + ["\u4e2d\u6587 " * 100, '"a"\n\n'] * 3000
    (tmp_path / "a.csv").write_bytes(written(texts))
    stdout = run_prepare("--input", "a.csv", "--output-dir", "out", "--dry-run").stdout
    assert run_prepare("--input", "a.csv", "--output-dir", "out").returncode == 0
    n_tokens = sum((tmp_path / "out" / f"{one}.bin").stat().st_size // 2 for one in ("train", "val"))
    about = float(stdout.split("about ")[1].split("M tokens")[0]) * 1e6
    assert 0.7 < about / n_tokens < 1.3


@pytest.mark.costly
@pytest.mark.parametrize("source", ["a.txt", "a.txt.gz", "pipe"])
def test_csv_under_another_name_is_read_if_the_option_names_one_of_its_columns(
    source: str, run_prepare: RunPrepare, tmp_path: Path
) -> None:
    raw = written(["a text"] * 50)
    (tmp_path / source).write_bytes(gzip.compress(raw) if source.endswith("gz") else raw)

    def run(*options: str) -> str:
        words = [
            sys.executable,
            str(REPOSITORY / "prepare.py"),
            "--overwrite",
            "--output-dir",
            "out",
            *options,
        ]
        with (tmp_path / source).open("rb") as file:
            done = subprocess.run(
                [*words, "--input", "-" if source == "pipe" else source],
                stdin=file,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=True,
            )
        return done.stderr

    stderr = run()
    assert "CSV, read as plain text" in stderr
    assert "to read its column 'text':\n" in stderr
    assert "--text-field text" in stderr
    assert "50 documents" in run("--text-field", "text")
    assert "50 documents" in run("--text-field", "nothing,more")
