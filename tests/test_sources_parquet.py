"""Parquet: the documents given to pyarrow, in bounded memory, and every fault by row group and row."""

import base64
import gc
import os
import random
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from nanogpt_compat.errors import InputError
from nanogpt_compat.input.open import open_input
from nanogpt_compat.input.parquet import TextColumn
from nanogpt_compat.input.rows import Rows, parse_rows
from nanogpt_compat.text.blocks import Records
from tests.conftest import REPOSITORY

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
encryption = pytest.importorskip("pyarrow.parquet.encryption")

DOCUMENTS = [f"{k} caf\xe9 \U0001f600 " * (k % 13) for k in range(100)]
TEXTS = [document.encode() for document in DOCUMENTS if document]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.parquet"


def write(path: Path, texts: Any = DOCUMENTS, *, name: str = "text", rows: int = 30, **options: Any) -> None:
    table = pyarrow.table({"id": list(range(len(texts))), name: texts, "score": [0.5] * len(texts)})
    parquet.write_table(table, path, row_group_size=rows, **options)


def open_column(path: Path, **options: Any) -> TextColumn:
    stored = open_input(path, size_bytes=options.pop("size_bytes", None))
    return TextColumn(stored, **({"text_field": "text"} | options))


Run = tuple[Rows, Records]


def runs_of(column: TextColumn, row_group: int, *, skip_bad: bool = False, **options: Any) -> list[Run]:
    return [
        (rows, parse_rows(raw, rows, skip_bad=skip_bad))
        for raw, rows in column.read_rows(
            column.row_groups[row_group], **({"block_bytes": 1 << 20} | options)
        )
    ]


def read_all(path: Path, *, block_bytes: int = 1 << 20, skip_bad: bool = False, **options: Any) -> list[Run]:
    with open_column(path, **options) as column:
        found = [
            run
            for group in column.row_groups
            for run in runs_of(column, group.index, block_bytes=block_bytes, skip_bad=skip_bad)
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


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
@pytest.mark.parametrize("options", [{}, {"use_dictionary": False}, {"data_page_version": "2.0"}])
def test_documents_are_those_that_were_written(compression: str, options: dict[str, Any], path: Path) -> None:
    write(path, compression=compression, **options)
    runs = read_all(path)
    assert texts_of(runs) == TEXTS
    assert sum(records.n_empty for _, records in runs) == len(DOCUMENTS) - len(TEXTS)
    assert sum(len(rows.lengths) for rows, _ in runs) == len(DOCUMENTS)
    assert sum(records.n_bad for _, records in runs) == 0


@pytest.mark.parametrize(
    "kind",
    [
        pyarrow.string(),
        pyarrow.large_string(),
        pyarrow.string_view(),
        pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
        pyarrow.dictionary(pyarrow.int8(), pyarrow.large_string()),
        pyarrow.binary(),
        pyarrow.large_binary(),
        pyarrow.binary_view(),
        pyarrow.dictionary(pyarrow.int32(), pyarrow.binary()),
    ],
    ids=str,
)
def test_strings_of_every_kind_are_read(kind: Any, path: Path) -> None:
    is_dictionary = pyarrow.types.is_dictionary(kind)
    column = pyarrow.array(DOCUMENTS).cast(kind.value_type if is_dictionary else kind)
    write(path, column.dictionary_encode().cast(kind) if is_dictionary else column)
    assert texts_of(read_all(path)) == TEXTS


@pytest.mark.parametrize("block_bytes", [1, 100, 1000, 1 << 20])
def test_runs_of_every_size_hold_the_same_rows_and_their_places(block_bytes: int, path: Path) -> None:
    write(path)
    runs = read_all(path, block_bytes=block_bytes)
    assert texts_of(runs) == TEXTS
    row = 0
    for rows, _ in runs:
        assert (rows.group.index, rows.first_row) == (row // 30, row)
        row += len(rows.lengths)
    assert row == 100


def test_reading_resumes_at_any_row(path: Path) -> None:
    write(path)
    with open_column(path) as column:
        for first_row in range(31):
            runs = runs_of(column, 1, block_bytes=500, first_row=30 + first_row)
            assert texts_of(runs) == [text.encode() for text in DOCUMENTS[30 + first_row : 60] if text]
            assert runs == [] or runs[0][0].first_row == 30 + first_row


def test_row_groups_are_listed_with_their_rows_and_sizes(path: Path) -> None:
    write(path, ["x" * 1000 + str(k) for k in range(100)], rows=60, use_dictionary=False, compression="none")
    with open_column(path) as column:
        assert [(group.index, group.n_rows) for group in column.row_groups] == [(0, 60), (1, 40)]
        for group in column.row_groups:
            assert group.n_rows * 1000 < group.text_bytes < group.n_rows * 1100
            assert 0 < group.stored_bytes < path.stat().st_size - group.start


def test_files_without_rows_hold_nothing(path: Path) -> None:
    write(path, pyarrow.array([], pyarrow.string()))
    assert read_all(path) == []


def test_another_column_can_be_named(path: Path) -> None:
    write(path, name="meta.content")
    assert texts_of(read_all(path, text_field="meta.content")) == TEXTS


def test_rows_that_are_no_documents_are_refused_with_their_place_or_counted(path: Path) -> None:
    bad = pyarrow.array([b"a", b"caf\xe9", b"", b"b"]).view(pyarrow.string())
    write(path, pyarrow.concat_arrays([pyarrow.array(["x"] * 35 + [None]), bad]))
    with open_column(path) as column:
        of_group = f"(of row group 1, whose column begins at byte {column.row_groups[1].start:,})"
    with pytest.raises(
        InputError, match=rf"^row 35 {re.escape(of_group)}: its field 'text' is null; fix the row"
    ):
        read_all(path)
    runs = read_all(path, skip_bad=True)
    assert texts_of(runs) == [b"x"] * 35 + [b"a", b"b"]
    assert [fault for _, records in runs for fault in records.bad] == [
        "row 35: its field 'text' is null",
        "row 37: byte 3 of its field 'text' is not UTF-8: found e9",
    ]
    assert [(len(rows.lengths), found.n_empty, found.n_bad) for rows, found in runs] == [
        (30, 0, 0),
        (10, 1, 2),
    ]


def test_a_character_that_continues_in_the_next_row_is_none(path: Path) -> None:
    write(path, pyarrow.array([b"caf\xc3", b"\xa9", b"", "caf\xe9".encode()]).view(pyarrow.string()))
    (records,) = (records for _, records in read_all(path, skip_bad=True))
    assert (records.texts, records.n_empty, records.n_bad) == (["caf\xe9".encode()], 1, 2)


def test_the_first_ten_bad_rows_are_kept_and_all_are_counted(path: Path) -> None:
    write(path, pyarrow.array([None] * 30, pyarrow.string()))
    ((_, records),) = read_all(path, skip_bad=True)
    places = [fault.split(":")[0] for fault in records.bad]
    assert (records.n_bad, places) == (30, [f"row {k}" for k in range(10)])


def test_a_missing_column_is_named_with_the_existing_ones(path: Path) -> None:
    write(path, name="content")
    expected = (
        "has no column 'text' among its columns ('id', 'content', 'score'); name the column of the text"
    )
    assert expected in refusal(path)


@pytest.mark.parametrize(
    "values",
    [[1], [["list"]], [{"text": "struct"}], [0.5], [True]],
    ids=["int64", "list", "struct", "double", "bool"],
)
def test_a_column_of_no_strings_is_refused_with_its_type(
    values: list[Any], path: Path, request: pytest.FixtureRequest
) -> None:
    write(path, values)
    assert f"its column 'text' is of type {request.node.callspec.id}" in refusal(path)


def texts_in(path: Path, text_field: str) -> list[bytes]:
    return [text for _, found in read_all(path, text_field=text_field, skip_bad=True) for text in found.texts]


@pytest.mark.parametrize(
    ("text_field", "texts"),
    [
        ("meta.text", ["n0", "n2"]),
        ("meta.deep.text", ["d0", "d2"]),
        ("meta.deep.en.us", ["e0", "e2"]),
        ("a.b", ["flat0", "flat1", "flat2", "flat3"]),
        ("a.c", ["c0"]),
        ("none,meta.text", ["n0", "n2"]),
        ("void,void.b,a.b", ["flat0", "flat1", "flat2", "flat3"]),
        ("a,b", ["comma0", "comma1", "comma2", "comma3"]),
    ],
)
def test_a_field_of_a_struct_is_read_and_a_null_struct_is_a_null(
    path: Path, text_field: str, texts: list[str]
) -> None:
    metas = [
        {"id": k, "deep": {"en.us": f"e{k}", "text": f"d{k}"}, "text": f"n{k}"} if k % 2 == 0 else None
        for k in range(4)
    ]
    columns: dict[str, Any] = {
        "void": pyarrow.nulls(4),
        "meta": metas,
        "a": [{"b": f"nested{k}", "c": f"c{k}" if k == 0 else None} for k in range(4)],
        "a.b": [f"flat{k}" for k in range(4)],
        "a,b": [f"comma{k}" for k in range(4)],
    }
    parquet.write_table(pyarrow.table(columns), path, row_group_size=3)
    assert texts_in(path, text_field) == [text.encode() for text in texts]


def test_a_flat_column_before_a_struct_with_a_field_of_its_name_is_not_confused_with_it(path: Path) -> None:
    columns = {"x": [[1, 2]], "a.b": ["flat"], "m": [{"l": [{"k": 1}]}], "a": [{"z": 1, "b": "nested"}]}
    parquet.write_table(pyarrow.table(columns), path)
    assert texts_in(path, "a.b") == [b"flat"]
    parquet.write_table(pyarrow.table(dict(reversed(columns.items()))), path)
    assert texts_in(path, "a.b") == [b"flat"]


@pytest.mark.parametrize(
    ("text_field", "reason"),
    [
        ("meta.body", "has no column 'meta.body' among the fields of its column 'meta' ('text')"),
        ("talk.0.say", "has no column 'talk.0.say': its column 'talk' is of type list<"),
        ("one,two", "has no column 'one' or 'two' among its columns ('meta', 'talk')"),
        ("meta", "its column 'meta' is of type struct, not string"),
    ],
)
def test_a_table_without_the_column_is_refused_with_its_columns(
    path: Path, text_field: str, reason: str
) -> None:
    columns = {"meta": [{"text": "a"}], "talk": [[{"say": "a"}]]}
    parquet.write_table(pyarrow.table(columns), path)
    assert reason in refusal(path, text_field=text_field)


def test_only_the_text_field_of_a_struct_is_read(path: Path) -> None:
    texts = [{"text": f"text {k}", "other": "x" * 10_000} for k in range(100)]
    parquet.write_table(pyarrow.table({"meta": texts}), path)
    group = parquet.ParquetFile(path).metadata.row_group(0)
    (other,) = (group.column(k) for k in range(2) if group.column(k).path_in_schema == "meta.other")
    with path.open("r+b") as file:
        file.seek(other.dictionary_page_offset)
        file.write(b"\xff" * other.total_compressed_size)
    assert texts_in(path, "meta.text") == [f"text {k}".encode() for k in range(100)]
    with pytest.raises(InputError, match=r"'meta\.other' is damaged"):
        texts_in(path, "meta.other")


def test_bytes_of_one_length_are_read_and_those_that_are_no_utf8_are_bad_rows(path: Path) -> None:
    write(path, pyarrow.array([b"one", b"tw\xff", None, b"\xe2\x82\xac"], pyarrow.binary(3)))
    (found,) = (records for _, records in read_all(path, skip_bad=True))
    assert (found.texts, found.n_bad) == ([b"one", "\u20ac".encode()], 2)
    with pytest.raises(InputError, match=r"^row 1 .* byte 2 of its field 'text' is not UTF-8: found ff;"):
        read_all(path)


@pytest.mark.parametrize(
    "column",
    [
        pyarrow.array([], pyarrow.null()),
        pyarrow.array([], pyarrow.int64()),
        pyarrow.array([], pyarrow.list_(pyarrow.string())),
        pyarrow.array([], pyarrow.struct([("text", pyarrow.string())])),
    ],
    ids=lambda column: str(column.type),
)
@pytest.mark.parametrize("name", ["text", "other"])
def test_a_table_without_rows_may_have_any_columns(name: str, column: Any, path: Path) -> None:
    write(path, column, name=name)
    assert read_all(path) == []
    with parquet.ParquetWriter(path, pyarrow.schema([(name, column.type)])):
        pass
    assert read_all(path) == []


def test_row_groups_without_rows_among_others_are_skipped(path: Path) -> None:
    schema = pyarrow.schema([("text", pyarrow.string())])
    with parquet.ParquetWriter(path, schema) as writer:
        for texts in ([], ["a", "b"], [], ["c"], []):
            writer.write_table(pyarrow.table({"text": texts}, schema))
    assert texts_of(read_all(path)) == [b"a", b"b", b"c"]


@pytest.mark.parametrize(
    "kind", [pyarrow.null(), pyarrow.float64(), pyarrow.string(), pyarrow.int32()], ids=str
)
def test_a_column_of_only_nulls_is_skipped_and_counted_under_any_option(kind: Any, path: Path) -> None:
    write(path, pyarrow.nulls(50, kind))
    for skip_bad in (False, True):
        runs = read_all(path, skip_bad=skip_bad)
        assert [(len(rows.lengths), found.n_bad) for rows, found in runs] == [(30, 30), (20, 20)]
        assert runs[0][1].bad[0].endswith("its field 'text' is null")


class KeysByName(encryption.KmsClient):  # type: ignore[name-defined, misc]
    """Keeps keys for tests: only encoded, not encrypted."""

    def wrap_key(self, key: bytes, _name: str) -> bytes:
        return base64.b64encode(key)


@pytest.mark.parametrize("is_plain", [False, True])
def test_an_encrypted_file_is_reported_as_such(is_plain: bool, path: Path) -> None:
    factory = encryption.CryptoFactory(lambda _: KeysByName())
    settings = encryption.EncryptionConfiguration(
        "key", column_keys={"key": ["text"]}, plaintext_footer=is_plain
    )
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), settings)
    write(path, encryption_properties=properties)
    assert f"{path} is an encrypted parquet file; write it again without encryption" in refusal(path)


def test_a_column_of_nulls_with_one_value_has_its_own_type(path: Path) -> None:
    write(path, pyarrow.array([None] * 40 + [1.5]))
    assert "its column 'text' is of type double" in refusal(path)
    write(path, pyarrow.array([None] * 40 + ["a"]))
    with pytest.raises(InputError, match=r"^row 0 .* is null; fix the row"):
        read_all(path)
    write(path, pyarrow.nulls(5, pyarrow.float64()), write_statistics=False)  # unknown without reading it
    assert "its column 'text' is of type double" in refusal(path)


def test_two_columns_of_one_name_are_refused(path: Path) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    parquet.write_table(table, path)
    assert "has two columns 'text'" in refusal(path)


def test_a_row_group_over_the_budget_is_refused_with_its_size_before_it_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanogpt_compat.input.parquet._MAX_ROW_GROUP_BYTES", 50_000)
    write(path, ["a" * 10, "b" * 100_000], rows=1)
    message = refusal(path)
    assert "has 100 kB of text, but the limit is 50.0 kB; write the file" in message
    assert re.search(r"row group 1: its column 'text', which begins at byte [\d,]+, has 100 kB of", message)


def test_a_text_over_the_budget_is_refused_with_its_row_and_size(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanogpt_compat.input.columns.MAX_RECORD_BYTES", 1000)
    write(path, ["a" * 1000] * 3, rows=2)
    assert len(texts_of(read_all(path))) == 3
    write(path, ["a" * 10] * 45 + ["b" * 1001] + ["c"] * 20)
    message = refusal(path, skip_bad=True)
    assert "row 45 (of row group 1, whose column begins at byte " in message
    assert ": its field 'text' has 1.0 kB, but the limit is 1.0 kB; split the text, or" in message


@pytest.mark.parametrize(
    "content", [b"", b"PAR", b"version https://git-lfs.github.com/spec/v1\n", b"\x1f\x8b\x08\0"]
)
def test_a_file_that_is_not_parquet_is_refused_with_its_first_bytes(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    assert f"is not a parquet file: it begins with {content[:4]!r}, not with b'PAR1'" in refusal(path)


def test_a_file_cut_off_anywhere_is_refused(path: Path) -> None:
    write(path)
    whole = path.read_bytes()
    for n_bytes in [4, 5, 8, 11, 12, *range(20, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:n_bytes])
        assert f"is truncated: it ends at byte {n_bytes:,} without a parquet footer; fetch" in refusal(path)
    path.write_bytes(b"PAR1\0\0\0\0PAR1")
    assert re.search(r"its footer is damaged \(.*\); fetch or make the file again$", refusal(path))


def test_a_damaged_row_group_is_named_and_those_before_it_are_read(path: Path) -> None:
    write(path, write_page_checksum=True, use_dictionary=False)
    with open_column(path) as column:
        group = column.row_groups[2]
    damaged = bytearray(path.read_bytes())
    damaged[group.start + group.stored_bytes - 10] ^= 1
    path.write_bytes(damaged)
    with open_column(path) as column:
        assert texts_of(runs_of(column, 1))
        with pytest.raises(
            InputError,
            match=rf"row 60 \(of row group 2, whose column begins at byte {group.start:,}\) or a little "
            "further on: its column 'text' is damaged",
        ):
            list(column.read_rows(group, block_bytes=1 << 20))


def test_flipped_bits_are_found_or_do_no_harm(path: Path) -> None:
    write(path, DOCUMENTS[:20], write_page_checksum=True)
    whole = path.read_bytes()
    with open_column(path) as column:
        (group,) = column.row_groups
    rng = random.Random(4)
    for place in range(group.start, group.start + group.stored_bytes):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with suppress(InputError):
            assert texts_of(read_all(path)) == [text.encode() for text in DOCUMENTS[:20] if text]


def test_a_damaged_footer_is_refused(path: Path) -> None:
    write(path)
    whole = path.read_bytes()
    n_bytes = int.from_bytes(whole[-8:-4], "little")
    before, footer = whole[: -8 - n_bytes], whole[-8 - n_bytes : -8]
    for damaged in (
        bytes(n_bytes),
        footer[: n_bytes // 2] + bytes(n_bytes - n_bytes // 2),
        footer.replace(b"score", b"sc\xe9re"),
        footer.replace(b"\x16\xc8\x01", b"\x16\xca\x01", 1),  # 101 rows in all, not 100
    ):
        assert damaged != footer
        path.write_bytes(before + damaged + whole[-8:])
        assert "cannot be read as parquet: its footer is damaged (" in refusal(path)
    for length in (n_bytes - 1, n_bytes + 1, 0, len(whole), 2**32 - 1):
        path.write_bytes(whole[:-8] + length.to_bytes(4, "little") + b"PAR1")
        assert "its footer is damaged (" in refusal(path)


def test_a_file_that_has_changed_its_size_is_refused(path: Path) -> None:
    write(path)
    assert "had 5 bytes when the run began" in refusal(path, size_bytes=5)


def test_files_are_closed_after_any_error(path: Path) -> None:
    write(path)
    for text_field in ("text", "none", "score"):
        with suppress(InputError):
            read_all(path, text_field=text_field)
    gc.collect()
    assert path not in [fd.resolve() for fd in Path("/proc/self/fd").iterdir()]


READ = """
import re, sys
from pathlib import Path
from nanogpt_compat.input.open import open_input
from nanogpt_compat.input.parquet import TextColumn

with TextColumn(open_input(Path(sys.argv[1])), text_field="text") as column:
    n_bytes = sum(len(raw) for raw, _ in column.read_rows(column.row_groups[0], block_bytes=1 << 20))
status = Path("/proc/self/status").read_text()
print(n_bytes, *(int(re.search(rf"{name}:\\s+(\\d+)", status)[1]) << 10 for name in ("VmHWM", "RssAnon")))
"""


def read_elsewhere(path: Path) -> tuple[int, int, int]:
    """Read the first row group in a fresh process; return bytes of text, peak memory and kept memory."""
    shown = subprocess.run(
        [sys.executable, "-c", READ, path], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    n_bytes, peak_bytes, kept_bytes = map(int, shown.split())
    return n_bytes, peak_bytes, kept_bytes


def test_a_row_group_larger_than_the_memory_it_takes_is_read_and_the_memory_given_back(path: Path) -> None:
    # The peak is 100 MB, and 235 MB if the column is read as a whole.
    text = random.Random(5).randbytes(2_500).hex()
    write(path, [f"{k} {text}" for k in range(30_000)], rows=30_000, use_dictionary=False, compression="none")
    n_bytes, peak_bytes, kept_bytes = read_elsewhere(path)
    assert n_bytes > 150_000_000
    assert peak_bytes < 130_000_000
    assert kept_bytes < 40_000_000


def test_equal_texts_of_one_dictionary_entry_are_not_decoded_many_at_a_time(path: Path) -> None:
    write(path, ["short"] * 10 + ["a long one, " * 200_000] * 32, rows=50)  # 220 MB if all are decoded
    n_bytes, peak_bytes, _ = read_elsewhere(path)
    assert n_bytes == 50 + 32 * 2_400_000
    assert peak_bytes < 130_000_000


def test_a_name_that_is_no_utf8_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.parquet")
    write(tmp_path / "other", DOCUMENTS)
    (tmp_path / "other").rename(path)
    assert texts_of(read_all(path)) == TEXTS


def test_without_pyarrow_its_pip_command_is_given(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "-m pip install pyarrow" in refusal(path)
