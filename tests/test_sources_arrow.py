"""Arrow: the documents given to pyarrow, in files and streams of every layout, in bounded memory."""

import os
import random
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt_compat.errors import InputError
from nanogpt_compat.input.arrow import Arrow, ArrowColumn
from nanogpt_compat.input.location import Format
from nanogpt_compat.input.open import open_input
from nanogpt_compat.input.reader import Reading
from nanogpt_compat.input.rows import Rows, parse_rows
from nanogpt_compat.text.blocks import LONG_RECORD_BYTES, Need, Position, Records
from nanogpt_compat.text.documents import Documents
from tests.conftest import REPOSITORY

pyarrow = pytest.importorskip("pyarrow")

DOCUMENTS = [f"{k} caf\xe9 \U0001f600 " * (k % 13) for k in range(100)]
TEXTS = [document.encode() for document in DOCUMENTS if document]
OPENERS = {"stream": pyarrow.ipc.new_stream, "file": pyarrow.ipc.new_file}
Run = tuple[Rows, Records]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.arrow"


def write(
    path: Path,
    texts: Any = DOCUMENTS,
    *,
    name: str = "text",
    rows: int = 30,
    form: str = "stream",
    **options: Any,
) -> None:
    table = pyarrow.table({"id": list(range(len(texts))), name: texts, "score": [0.5] * len(texts)})
    write_table(path, table, rows=rows, form=form, **options)


def write_table(path: Path, table: Any, *, rows: int = 30, form: str = "stream", **options: Any) -> None:
    with OPENERS[form](str(path), table.schema, options=pyarrow.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows)


def read_all(
    path: Path, *, block_bytes: int = 1 << 20, skip_bad: bool = False, text_field: str = "text"
) -> list[Run]:
    with ArrowColumn(open_input(path), text_field=text_field) as column:
        found = [
            (rows, parse_rows(raw, rows, skip_bad=skip_bad))
            for group in column.row_groups
            for raw, rows in column.read_rows(group, block_bytes=block_bytes)
        ]
        column.check_unchanged()
    return found


def texts_of(runs: list[Run]) -> list[bytes]:
    return [text for _, records in runs for text in records.texts]


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        read_all(path, **options)
    assert str(path) in str(error.value)
    return str(error.value)


KINDS = [
    pyarrow.string(),
    pyarrow.large_string(),
    pyarrow.string_view(),
    pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
    pyarrow.dictionary(pyarrow.uint8(), pyarrow.large_string()),
    pyarrow.binary(),
    pyarrow.large_binary(),
    pyarrow.binary_view(),
    pyarrow.dictionary(pyarrow.int64(), pyarrow.binary()),
]


def cast(texts: Sequence[str | None], kind: Any) -> Any:
    if pyarrow.types.is_dictionary(kind):
        return pyarrow.array(texts).cast(kind.value_type).dictionary_encode().cast(kind)
    return pyarrow.array(texts, pyarrow.string()).cast(kind)


@pytest.mark.parametrize("form", OPENERS)
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_documents_are_those_that_were_written(
    kind: Any, compression: str | None, form: str, path: Path
) -> None:
    write(path, cast(DOCUMENTS, kind), form=form, compression=compression)
    for block_bytes in (1, 100, 1 << 20):
        runs = read_all(path, block_bytes=block_bytes)
        assert texts_of(runs) == TEXTS
        assert sum(records.n_empty for _, records in runs) == len(DOCUMENTS) - len(TEXTS)
        assert [
            row for rows, _ in runs for row in range(rows.first_row, rows.first_row + len(rows.lengths))
        ] == list(range(100))


NESTED = pyarrow.struct([("n", pyarrow.int8()), ("text", pyarrow.string_view()), ("more", pyarrow.string())])
ROW = st.one_of(st.none(), st.text(max_size=20))
OTHERS: list[Any] = [  # columns before and after the text, of every layout
    pyarrow.array([[1, 2], None]),
    pyarrow.array([[("k", 1)], []], pyarrow.map_(pyarrow.string(), pyarrow.int32())),
    pyarrow.array([["z"], None], pyarrow.list_view(pyarrow.string_view())),
    pyarrow.array([[1, 2, 3], None], pyarrow.list_(pyarrow.int8(), 3)),
    pyarrow.RunEndEncodedArray.from_arrays(pyarrow.array([2], pyarrow.int32()), pyarrow.array(["s"])),
    pyarrow.UnionArray.from_sparse(pyarrow.array([0, 0], pyarrow.int8()), [pyarrow.array([1, 2])]),
    pyarrow.UnionArray.from_dense(
        pyarrow.array([0, 0], pyarrow.int8()), pyarrow.array([0, 1], pyarrow.int32()), [pyarrow.array([1, 2])]
    ),
    pyarrow.nulls(2),
    pyarrow.array([True, None]),
    pyarrow.array(["x", "y"]).dictionary_encode(),
    pyarrow.array(["a text of more than twelve bytes", None], pyarrow.string_view()),
    pyarrow.array([{"a": {"b": "c"}}, None]),
]


@given(
    rows=st.lists(ROW, max_size=40),
    parents=st.lists(st.booleans(), min_size=40, max_size=40),
    kind=st.sampled_from([pyarrow.string(), pyarrow.large_string(), pyarrow.string_view(), KINDS[3]]),
    n_rows=st.integers(1, 50),
    block_bytes=st.sampled_from([1, 30, 1000]),
    compression=st.sampled_from([None, "lz4", "zstd"]),
    form=st.sampled_from([*OPENERS]),
)
@settings(max_examples=60, deadline=None)
def test_rows_are_those_of_pyarrow_among_columns_of_all_kinds_and_inside_a_struct(
    rows: list[str | None],
    parents: list[bool],
    kind: Any,
    n_rows: int,
    block_bytes: int,
    compression: str | None,
    form: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("data") / "a.arrow"
    inner: list[Any] = [
        {"n": 1, "text": row, "more": "m"} if there else None
        for row, there in zip(rows, parents, strict=False)
    ]
    others = {
        f"c{k}": pyarrow.concat_arrays([one] * (len(rows) // 2 + 1))[: len(rows)]
        for k, one in enumerate(OTHERS)
    }
    table = pyarrow.table(
        {
            **others,
            "text": cast(rows, kind),
            "deep": pyarrow.array(inner, NESTED),
            **{f"after {name}": one for name, one in others.items()},
        }
    )
    write_table(path, table, rows=n_rows, form=form, compression=compression)
    for field, expected in (
        ("text", rows),
        ("deep.text", [one and one["text"] for one in inner]),
        ("deep.more", [one and one["more"] for one in inner]),
    ):
        runs = read_all(path, block_bytes=block_bytes, skip_bad=True, text_field=field)
        assert texts_of(runs) == [one.encode() for one in expected if one]
        assert sum(records.n_bad for _, records in runs) == expected.count(None)


def test_a_null_may_have_any_text_and_an_array_may_begin_anywhere(path: Path) -> None:
    offsets = pyarrow.py_buffer(b"".join(k.to_bytes(4, "little") for k in (2, 4, 6, 6, 8)))
    array = pyarrow.Array.from_buffers(
        pyarrow.string(), 4, [pyarrow.py_buffer(b"\x0d"), offsets, pyarrow.py_buffer(b"..aaNNbb")]
    )
    assert array.to_pylist() == ["aa", None, "", "bb"]
    write_table(path, pyarrow.table({"text": array}))
    (run,) = read_all(path, skip_bad=True)
    assert (run[1].texts, run[1].n_empty, run[1].n_bad) == ([b"aa", b"bb"], 1, 1)


def test_views_may_share_bytes_and_go_back(path: Path) -> None:
    data = [b"0123456789" * 10, b"abcdefghijklmnopqrstuvwxyz"]
    places = [(20, 0, 3), (30, 0, 23), (13, 1, 13), (40, 0, 3), (26, 1, 0), (100, 0, 0), (12, 0, 0)]
    views = b"".join(struct.pack("<i4sii", n, data[k][at : at + 4], k, at) for n, k, at in places[:-1])
    views += struct.pack("<i12s", 12, b"twelve bytes")
    buffers = [None, *map(pyarrow.py_buffer, (views, *data))]
    array = pyarrow.Array.from_buffers(pyarrow.string_view(), len(places), buffers)
    expected = [data[k][at : at + n] for n, k, at in places[:-1]] + [b"twelve bytes"]
    for compression in (None, "zstd"):
        write_table(path, pyarrow.table({"text": array}), compression=compression)
        for block_bytes in (1, 60, 1 << 20):
            assert texts_of(read_all(path, block_bytes=block_bytes)) == expected


def test_a_dictionary_may_grow_and_be_replaced(path: Path) -> None:
    kind = pyarrow.dictionary(pyarrow.int8(), pyarrow.string())
    schema = pyarrow.schema([("text", kind)])
    parts = [["a", "b"], ["a", "b", "c"], ["x"], [None]]
    for emits in (True, False):
        options = pyarrow.ipc.IpcWriteOptions(emit_dictionary_deltas=emits)
        with pyarrow.ipc.new_stream(str(path), schema, options=options) as writer:
            for part in parts:
                column = pyarrow.array(part, pyarrow.string()).dictionary_encode().cast(kind)
                writer.write_batch(pyarrow.record_batch([column], schema=schema))
        runs = read_all(path, skip_bad=True)
        assert texts_of(runs) == [b"a", b"b", b"a", b"b", b"c", b"x"]
        assert runs[-1][1].bad == ["row 6: its field 'text' is null"]


def test_files_written_before_2019_are_read(path: Path) -> None:
    for form in OPENERS:
        write(path, form=form, use_legacy_format=True)
        assert texts_of(read_all(path)) == TEXTS
    raw = path.read_bytes()
    assert raw.count(b"\xff\xff\xff\xff") < 2  # the marker of messages


def test_rows_that_are_no_documents_are_refused_with_their_place(path: Path) -> None:
    bad = pyarrow.array([b"a", b"caf\xe9", b"", b"b"]).view(pyarrow.string())
    write(path, pyarrow.concat_arrays([pyarrow.array(["x"] * 35 + [None]), bad]))
    with pytest.raises(
        InputError, match=r"^row 35 \(of record batch 1, which begins at byte [\d,]+\): its field"
    ):
        read_all(path)
    runs = read_all(path, skip_bad=True)
    assert [fault for _, records in runs for fault in records.bad] == [
        "row 35: its field 'text' is null",
        "row 37: byte 3 of its field 'text' is not UTF-8: found e9",
    ]


def test_columns_that_are_missing_or_no_text_are_named(path: Path) -> None:
    write(path, name="content")
    assert "has no column 'text' among its columns ('id', 'content', 'score'); name" in refusal(path)
    for values, kind in (([1], "int64"), ([["list"]], "list<item: string>"), ([{"a": "b"}], "struct")):
        write(path, values)
        assert f"its column 'text' is of type {kind}, not string" in refusal(path)
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    write_table(path, table)
    assert "has two columns 'text'" in refusal(path)
    write(path, [], name="content")
    assert read_all(path) == []  # without rows, it may have any columns
    write(path, pyarrow.nulls(3))
    ((_, records),) = read_all(path)
    assert records.n_bad == 3


def test_a_file_cut_off_anywhere_is_refused_or_ends_with_a_batch(path: Path) -> None:
    for form in OPENERS:
        write(path, form=form)
        whole = path.read_bytes()
        for n_bytes in [*range(0, len(whole) - 8, 61), len(whole) - 9]:
            path.write_bytes(whole[:n_bytes])
            try:
                runs = read_all(path)
            except InputError as error:
                assert str(path) in str(error)
                continue
            assert form == "stream"  # its end mark may be missing
            assert len(runs) in (1, 2, 3, 4)


def test_flipped_bits_end_in_an_error_that_names_the_file_or_in_other_text(path: Path) -> None:
    rng = random.Random(7)
    for form, compression in (("file", None), ("stream", "lz4"), ("file", "zstd")):
        write(path, cast(DOCUMENTS[:20], KINDS[rng.randrange(4)]), form=form, compression=compression)
        whole = path.read_bytes()
        n_found = 0
        for place in range(0, len(whole), 3):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            try:
                read_all(path, skip_bad=True)
            except InputError as error:
                assert str(path) in str(error)
                n_found += 1
        assert n_found > 10


def test_bytes_after_a_stream_are_not_skipped(path: Path) -> None:
    write(path)
    path.write_bytes(path.read_bytes() * 2)
    assert "and something else follows; if these are several streams, make a file of each" in refusal(path)


def reader_of(path: Path) -> Arrow:
    return Arrow(path, Format("arrow"), Documents(None, "append", 0.0))


@pytest.mark.parametrize("form", OPENERS)
def test_spans_cover_each_row_once_and_begin_with_a_batch(form: str, path: Path) -> None:
    write(path, form=form)
    reader, size_bytes = reader_of(path), path.stat().st_size
    for span_bytes in (100, 1000, 3333, size_bytes):
        rows = []
        for start in range(0, size_bytes, span_bytes):
            first, end = reader.bounds(start, min(size_bytes, start + span_bytes))
            assert first % 30 == 0 or first == 100
            position = reader.position(0, first)
            blocks = list(reader.blocks(position, Reading(block_bytes=400, end=end))) if end > first else []
            rows += [row for block in blocks for row in range(block.start.records, block.end.records)]
            assert all(block.end.at_end == (block.end.records == 100) for block in blocks)
        assert rows == list(range(100))


def test_from_any_row_only_its_batch_and_those_after_it_are_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, [f"{k} " * 500 for k in range(100)])
    reads: list[tuple[int, int]] = []
    pread = os.pread

    def record(fd: int, n_bytes: int, offset: int) -> bytes:
        reads.append((offset, n_bytes))
        return pread(fd, n_bytes, offset)

    monkeypatch.setattr(os, "pread", record)
    *_, last = reader_of(path).blocks(Position(0), Reading(block_bytes=3000))
    reads.clear()
    blocks = list(reader_of(path).blocks(last.start, Reading(block_bytes=1 << 20)))
    assert [(block.raw, block.start.records) for block in blocks] == [(last.raw, last.start.records)]
    assert sum(n_bytes for _, n_bytes in reads) < 10_000  # the file has 150 kB; this is metadata and one row


def test_the_other_columns_are_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pyarrow.table({"text": ["a"] * 100, "image": [bytes(10_000)] * 100})
    write_table(path, table, compression="lz4")
    write_table(path, table)
    n_bytes = 0
    pread = os.pread

    def count(fd: int, n: int, offset: int) -> bytes:
        nonlocal n_bytes
        data = pread(fd, n, offset)
        n_bytes += len(data)
        return data

    monkeypatch.setattr(os, "pread", count)
    assert texts_of(read_all(path)) == [b"a"] * 100
    assert n_bytes < 20_000 < path.stat().st_size


def test_room_is_made_for_large_parts_before_they_are_read(path: Path) -> None:
    long = "x" * (LONG_RECORD_BYTES + 1)
    asked: list[str] = []

    def make_room(_n_bytes: int, need: Callable[[], Need]) -> None:
        asked.append(f"{need().what}; {need().way_out}")

    def ask(texts: Any, **options: Any) -> list[str]:
        asked.clear()
        write(path, texts, **options)
        with ArrowColumn(open_input(path), text_field="text") as column:
            for group in column.row_groups:
                for raw, rows in column.read_rows(group, block_bytes=1 << 22, make_room=make_room):
                    assert len(rows.lengths) == 1 or len(raw) < LONG_RECORD_BYTES
        return [one.removeprefix(f"{path}: ") for one in asked]

    assert ask(["a"] * 5) == []
    (one,) = ask(["a", "b", long, "c"])
    assert one.startswith("row 2 (of record batch 0, which begins at byte ")
    assert one.endswith(") has 1.0 MB; split the record into several")
    many = [f"{k}{long}" for k in range(9)]
    whole, *_ = ask(cast(many, pyarrow.string_view()), compression="lz4")
    assert re.match(
        r"record batch 0, which begins at byte \d+ has 9.4 MB; write it in smaller batches", whole
    )
    dictionary, *_ = ask(cast(many, KINDS[3]))
    assert re.match(
        r"the dictionary at byte \d+ has 9.4 MB; write the texts without a dictionary", dictionary
    )


def test_a_text_over_the_limit_is_refused_with_its_row_and_size(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanogpt_compat.input.columns.MAX_RECORD_BYTES", 1000)
    write(path, ["a" * 10] * 45 + ["b" * 1001] + ["c"] * 20)
    message = refusal(path, skip_bad=True)
    assert f"{path}, row 45 (of record batch 1, which begins at byte " in message
    assert ": its field 'text' has 1.0 kB, but the limit is 1.0 kB; split the text, or" in message


READ = """
import re, sys
import os
import random
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from nanogpt_compat.input.arrow import ArrowColumn
from nanogpt_compat.input.open import open_input

with ArrowColumn(open_input(Path(sys.argv[1])), text_field="text") as column:
    runs = (run for group in column.row_groups for run in column.read_rows(group, block_bytes=1 << 20))
    n_bytes = sum(len(raw) for raw, _ in runs)
print(n_bytes, int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10)
"""


@pytest.mark.costly
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_a_batch_larger_than_the_memory_it_takes_is_read(compression: str | None, path: Path) -> None:
    # The peak is 70 to 77 MB, and 204 MB if pyarrow reads the column as a whole.
    text = random.Random(5).randbytes(2_500).hex()
    write(path, [f"{k} {text}" for k in range(30_000)], rows=30_000, form="file", compression=compression)
    command = [sys.executable, "-c", READ, str(path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    n_bytes, peak_bytes = map(int, done.stdout.split())
    assert n_bytes > 150_000_000
    assert peak_bytes < 110_000_000


def test_without_pyarrow_its_pip_command_is_given(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "is an Arrow file, and the package that reads it is missing:" in refusal(path)


def test_room_is_made_for_a_large_window_of_zstd(path: Path) -> None:
    text = random.Random(1).randbytes(30_000).hex()
    asked: list[str] = []

    def make_room(n_bytes: int, need: Callable[[], Need]) -> None:
        asked.append(f"{n_bytes:,}: {need().what}; {need().way_out}")

    for level, expected in ((1, 0), (20, 1)):
        write(path, [text] * 500, rows=500, compression=pyarrow.Codec("zstd", compression_level=level))
        with ArrowColumn(open_input(path), text_field="text") as column:
            for group in column.row_groups:
                n_rows = sum(
                    len(rows.lengths)
                    for _, rows in column.read_rows(group, block_bytes=1 << 20, make_room=make_room)
                )
                assert n_rows == 500
        assert len(asked) == expected
    assert re.match(
        rf"[\d,]+: {re.escape(str(path))}: the zstd window of record batch 0, which begins at byte \d+, has "
        r"[\d.]+ MB; write it at a lower compression level",
        asked[0],
    )
