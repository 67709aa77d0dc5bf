"""The format of a file: by its first bytes, or by its name if they do not decide."""

import bz2
import gzip
import json
import lzma
import random
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from nanogpt_compat.errors import InputError
from nanogpt_compat.input.compressed import ByteStream
from nanogpt_compat.input.formats import Asked, find_formats
from nanogpt_compat.input.jsonl import LINES, parse_lines
from nanogpt_compat.input.location import Format
from nanogpt_compat.input.open import LocalFile, open_input
from nanogpt_compat.input.parquet import TextColumn
from nanogpt_compat.input.rows import parse_rows
from nanogpt_compat.input.runs import read_runs
from tests.texts import zstd

TEXT = b"Once upon a time.\n"
JSONL = b'{"text": "Once upon"}\n{"text": "a time."}\n'
PARQUET = b"PAR1 columns and a footer \x09\0\0\0PAR1"
SKIPPABLE = b"\x53\x2a\x4d\x18\x03\0\0\0abc"


def gz(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def zst(data: bytes) -> bytes:
    return bytes(zstd.compress(data))


NOTHING = Asked()


def format_of(path: Path, asked: Asked = NOTHING) -> str:
    formats, _ = find_formats([path], asked)
    return str(formats[0])


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        # The name and the content agree.
        ("a.txt", TEXT, "text"),
        ("a.jsonl", JSONL, "jsonl"),
        ("a.ndjson", JSONL, "jsonl"),
        ("a.parquet", PARQUET, "parquet"),
        ("a.txt.gz", gz(TEXT), "text.gz"),
        ("a.txt.zst", zst(TEXT), "text.zst"),
        ("a.jsonl.gz", gz(JSONL), "jsonl.gz"),
        ("a.jsonl.zst", zst(JSONL), "jsonl.zst"),
        ("a.ndjson.zst", zst(JSONL), "jsonl.zst"),
        ("c4-train.00000-of-01024.json.gz", gz(JSONL), "jsonl.gz"),
        ("A.JSONL.GZ", gz(JSONL), "jsonl.gz"),
        ("a.parquet", b"", "parquet"),
        # The content decides about the compression.
        ("a.txt", gz(TEXT), "text.gz"),
        ("a.txt", zst(TEXT), "text.zst"),
        ("a.txt", SKIPPABLE + zst(TEXT), "text.zst"),
        ("a.gz", zst(TEXT), "text.zst"),
        ("a.jsonl", gz(JSONL), "jsonl.gz"),
        ("a.jsonl.zst", gz(JSONL), "jsonl.gz"),
        ("a.gz", TEXT, "text"),
        ("a.txt.gz", TEXT, "text"),
        ("a.jsonl.gz", JSONL, "jsonl"),
        ("a.jsonl.zst", b"", "jsonl"),
        ("a.gz", b"", "text"),
        # The content decides about the data inside, too.
        ("a", PARQUET, "parquet"),
        ("a.txt", PARQUET, "parquet"),
        ("a.jsonl", PARQUET, "parquet"),
        ("a", b"PAR1 is a word of mine", "text"),
        ("a", b"PAR1", "text"),
        ("a.gz", gz(JSONL), "jsonl.gz"),
        ("a", zst(JSONL), "jsonl.zst"),
        ("a", JSONL, "jsonl"),
        ("a.md", JSONL, "jsonl"),
        ("a.data", JSONL, "jsonl"),
        ("part-00000", gz(JSONL.replace(b"\n", b"\r\n")), "jsonl.gz"),
        ("a.gz", gz(b"\xef\xbb\xbf\n " + JSONL), "jsonl.gz"),
        ("a.gz", gz(JSONL.split(b"\n")[0]), "jsonl.gz"),
        ("a.gz", gz(TEXT), "text.gz"),
        ("a.gz", gz(b""), "text.gz"),
        ("a.gz", gz(b"{not JSON}\n" + JSONL), "jsonl.gz"),
        ("a.gz", gz(b'{"text": "' + b"long " * 300_000 + b'"}\n'), "jsonl.gz"),
        ("a.gz", gz(b'{"a": ' * 100_000 + b"\n"), "jsonl.gz"),
        ("a.json", JSONL, "jsonl"),
        # A .txt file is text.
        ("a.txt", JSONL, "text"),
        ("a.txt.gz", gz(JSONL), "text.gz"),
        ("a", b"", "text"),
        # A .parquet or .json name is believed; the reader refuses the file if its content does not match.
        ("a.parquet", TEXT, "parquet"),
        ("a.parquet", gz(TEXT), "parquet.gz"),
        ("a.jsonl", TEXT, "jsonl"),
        ("a.json", TEXT, "jsonl"),
    ],
)
def test_a_format_is_recognised_from_content_and_name(
    name: str, content: bytes, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert format_of(path) == expected


def test_json_lines_called_txt_are_read_as_json_lines_if_an_option_is_about_records(
    tmp_path: Path,
) -> None:
    for name, content in (("a.txt", JSONL), ("a.txt.gz", gz(JSONL)), ("b.txt", TEXT)):
        path = tmp_path / name
        path.write_bytes(content)
        expected = "text" if content == TEXT else "jsonl"
        assert format_of(path, Asked(text_field="text")).startswith(expected)
    _, notices = find_formats([tmp_path / "a.txt", tmp_path / "b.txt"])
    (notice,) = notices
    assert notice.startswith(f"notice: {tmp_path}/a.txt: JSON lines, read as plain text because of the name")
    assert notice.endswith("--text-field text")


def test_a_format_is_a_pair(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gz(JSONL))
    formats, _ = find_formats([path])
    assert formats == (Format("jsonl", "gz"),) == (Format(compression="gz", container="jsonl"),)


def refusal(*paths: Path, asked: Asked = NOTHING) -> str:
    with pytest.raises(InputError) as error:
        find_formats(paths, asked)
    return str(error.value)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    assert "cannot read" in refusal(tmp_path / "missing.txt")
    damaged = tmp_path / "damaged"
    damaged.write_bytes(gz(JSONL)[:15])
    assert "it ends in the middle of its compressed data" in refusal(damaged)


ARRAY = b'[{"text": "a"}]'


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json.gz", gz(ARRAY), "a JSON array, compressed with gzip"),
        ("a.json.zst", zst(ARRAY), "a JSON array, compressed with zstd"),
        ("a.json.xz", lzma.compress(ARRAY), "a JSON array, compressed with xz"),
        ("a.json.bz2", bz2.compress(ARRAY), "a JSON array, compressed with bzip2"),
        ("a.txt.bz2", bz2.compress(gz(TEXT)), "compressed with gzip, compressed with bzip2"),
        ("a.txt.gz", gz(gz(TEXT)), "compressed with gzip, compressed with gzip"),
        ("a.txt.gz", gz(lzma.compress(TEXT)), "compressed with xz, compressed with gzip"),
        ("a.parquet.gz", gz(PARQUET), "parquet, compressed with gzip"),
        ("a.txt.gz", gz("\u4e2d\u6587\u3002\n".encode("utf-16") * 99), "UTF-16 text, compressed with gzip"),
        ("a.txt.gz", gz("Caf\xe9 cr\xe8me.\n".encode("cp1252") * 99), "not UTF-8: it looks like CP1252"),
        ("a.jsonl", JSONL.replace(b"Once", b"D\xe9j\xe0") * 99, "not UTF-8: it looks like CP1252"),
        ("a.br", random.Random(0).randbytes(500), "compressed with brotli"),
    ],
)  # fmt: skip
def test_compressed_content_is_recognised(name: str, content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert f"{path} is {expected}" in refusal(path)


def test_skipped_bad_records_may_be_in_any_charset(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(JSONL.replace(b"Once", b"D\xe9j\xe0") * 99)
    assert format_of(path, Asked(skips_bad_records=True)) == "jsonl"


def test_an_errors_option_does_not_change_the_refusal_of_other_data(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    asked = Asked(errors_given=True)
    path.write_bytes("Caf\xe9 cr\xe8me.\n".encode("cp1252") * 99)
    assert "--errors ignore" in refusal(path)
    assert format_of(path, asked) == "text"
    for content in (
        bytes(500),
        ARRAY,
        gz(bytes(500)),
        "Caf\xe9.\n".encode("utf-16"),
        b"\x93NUMPY" + bytes(99),
    ):
        path.write_bytes(content)
        assert refusal(path, asked=asked) == refusal(path)
        assert "--errors" not in refusal(path)


def test_all_refused_inputs_are_named_at_once(tmp_path: Path) -> None:
    contents = {
        "a.json": ARRAY,
        "b.json": ARRAY,
        "c.txt": TEXT,
        "d.gz": gz(TEXT)[:15],
        "e.txt": TEXT.decode().encode("utf-16"),
        "f.bin": bytes(500),
        "g.pkl": b"\x80\x04\x95" + bytes(99),
        **{f"h{k:02}.pdf": b"%PDF-1.1\n1 0 obj\n" for k in range(12)},
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    message = refusal(*(tmp_path / name for name in contents))
    lines = message.splitlines()
    assert lines[0] == "18 of 19 inputs cannot be read as they are:"
    assert f"{tmp_path}/a.json, {tmp_path}/b.json: a JSON array; to convert them:" in lines
    assert f"{tmp_path}/e.txt: UTF-16 text; to convert it:" in lines
    assert f"{tmp_path}/f.bin: not text; to see what it is:" in lines
    assert f"{tmp_path}/g.pkl: a Python pickle; write its texts to JSON lines" in lines
    assert f"{tmp_path}/h09.pdf and 2 more: a PDF document; to convert them:" in message
    assert f"{tmp_path}/h11.pdf" in message  # in the command
    assert "d.gz" in lines[1]
    assert "c.txt" not in message


DOCUMENTS = [f"{k} caf\xe9 \U0001f600\r\n" * (k % 50) for k in range(500)]


def read_documents(path: Path, block_bytes: int) -> list[bytes]:
    """Read a file by its format."""
    (found,), _ = find_formats([path])
    if found.container == "parquet":
        with TextColumn(open_input(path), text_field="text") as column:
            groups = [column.read_rows(group, block_bytes=block_bytes) for group in column.row_groups]
            runs = [run for group in groups for run in group]
            return [text for run in runs for text in parse_rows(*run).texts]
    with LocalFile(path) as file:
        stream = ByteStream(file, found.compression)
        texts = []
        for lines in read_runs(stream.read, LINES, path=path, block_bytes=block_bytes):
            texts += parse_lines(
                lines.raw, text_field="text", first_line=lines.first, offset=lines.offset
            ).texts
        return texts


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json.gz", "a.jsonl.zst", "a.zst", "a.parquet"])
def test_every_format_gives_the_same_documents(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    raw = "".join(json.dumps({"id": k, "text": text}) + "\n" for k, text in enumerate(DOCUMENTS)).encode()
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.table({"text": DOCUMENTS}), path, row_group_size=70)
    else:
        path.write_bytes(gz(raw) if name.endswith("gz") else zst(raw) if name.endswith("zst") else raw)
    for block_bytes in (1000, 1 << 20):
        assert read_documents(path, block_bytes) == [text.encode() for text in DOCUMENTS if text]
