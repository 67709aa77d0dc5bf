"""Arrow: the documents given to pyarrow, in files and streams of every layout, in bounded memory."""

from pathlib import Path
from typing import Any

import pytest

from nanogpt_compat.errors import InputError
from nanogpt_compat.input.arrow import ArrowColumn
from nanogpt_compat.input.open import open_input
from nanogpt_compat.input.rows import Rows, parse_rows
from nanogpt_compat.text.blocks import Records

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


def cast(texts: list[str | None], kind: Any) -> Any:
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
