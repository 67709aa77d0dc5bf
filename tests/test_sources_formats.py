"""What a file holds: by its first bytes, and by its name where they say nothing."""

import bz2
import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from nanogpt_compat.config import Format
from nanogpt_compat.errors import InputError
from nanogpt_compat.sources.compressed import ByteStream
from nanogpt_compat.sources.formats import detect_format
from nanogpt_compat.sources.jsonl import parse_lines, read_lines
from nanogpt_compat.sources.opened import open_input
from nanogpt_compat.sources.parquet import TextColumn, parse_rows
from nanogpt_compat.sources.text import TextFile

TEXT = b"Once upon a time.\n"
JSONL = b'{"text": "Once upon"}\n{"text": "a time."}\n'
PARQUET = b"PAR1 columns and a footer PAR1"
SKIPPABLE = b"\x53\x2a\x4d\x18\x03\0\0\0abc"


def gz(data: bytes) -> bytes:
    return gzip.compress(data)


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


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
        # How it is compressed the content says.
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
        # What is inside the content says where the name does not.
        ("a", PARQUET, "parquet"),
        ("a.txt", PARQUET, "parquet"),
        ("a.jsonl", PARQUET, "parquet"),
        ("a", b"PAR1 is a word of mine", "text"),
        ("a", b"PAR1", "text"),
        ("a.gz", gz(JSONL), "jsonl.gz"),
        ("a", zst(JSONL), "jsonl.zst"),
        ("part-00000", gz(JSONL.replace(b"\n", b"\r\n")), "jsonl.gz"),
        ("a.gz", gz(b"\xef\xbb\xbf\n " + JSONL), "jsonl.gz"),
        ("a.gz", gz(JSONL.split(b"\n")[0]), "jsonl.gz"),
        ("a.gz", gz(TEXT), "text.gz"),
        ("a.gz", gz(b""), "text.gz"),
        ("a.gz", gz(b"{not JSON}\n" + JSONL), "text.gz"),
        ("a.gz", gz(b"{\n}\n"), "text.gz"),
        ("a.gz", gz(b'["text"]\n'), "text.gz"),
        ("a.gz", gz(b'{"text": "' + b"long " * 300_000 + b'"}\n'), "jsonl.gz"),
        ("a.gz", gz(b'{"a": ' * 100_000 + b"\n"), "text.gz"),
        ("a.json", JSONL, "jsonl"),
        ("a.json", json.dumps([1, 2], indent=1).encode(), "text"),
        # What is called text is text, and other names are too.
        ("a.txt", JSONL, "text"),
        ("a.txt.gz", gz(JSONL), "text.gz"),
        ("a.md", JSONL, "text"),
        ("a", JSONL, "text"),
        ("a", b"", "text"),
        ("a", b"\x1f", "text"),
        ("a.bz2", bz2.compress(TEXT), "text"),
        # A name that promises more than the content keeps is for the reader to refuse.
        ("a.parquet", TEXT, "parquet"),
        ("a.parquet", gz(PARQUET), "parquet.gz"),
        ("a.jsonl", TEXT, "jsonl"),
    ],
)
def test_a_format_is_told_from_name_and_content(
    name: str, content: bytes, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert str(detect_format(path)) == expected


def test_a_format_is_a_pair(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gz(JSONL))
    assert detect_format(path) == Format("jsonl", "gz") == Format(compression="gz", container="jsonl")


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        detect_format(tmp_path / "missing.txt")
    damaged = tmp_path / "damaged"
    damaged.write_bytes(gz(JSONL)[:15])
    with pytest.raises(InputError, match="it ends in the middle of its compressed data"):
        detect_format(damaged)


DOCUMENTS = [f"{k} caf\xe9 \U0001f600\r\n" * (k % 50) for k in range(500)]


def read_documents(path: Path, block_bytes: int) -> list[bytes]:
    """Read a file as its format says."""
    found = detect_format(path)
    if found.container == "parquet":
        with TextColumn(open_input(path), text_field="text", max_row_group_bytes=1 << 30) as column:
            groups = [column.read_rows(group.index, block_bytes=block_bytes) for group in column.row_groups]
            runs = [run for group in groups for run in group]
            return [text for run in runs for text in parse_rows(*run, text_field="text").texts]
    with TextFile(path) as file:
        stream = ByteStream(file, found.compression)
        texts = []
        for lines in read_lines(stream.read, path=path, block_bytes=block_bytes):
            texts += parse_lines(
                lines.raw, text_field="text", first_line=lines.first_line, offset=lines.offset
            ).texts
        return texts


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json.gz", "a.jsonl.zst", "a.zst", "a.parquet"])
def test_the_same_documents_come_out_of_every_format(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    raw = "".join(json.dumps({"id": k, "text": text}) + "\n" for k, text in enumerate(DOCUMENTS)).encode()
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.table({"text": DOCUMENTS}), path, row_group_size=70)
    else:
        path.write_bytes(gz(raw) if name.endswith("gz") else zst(raw) if name.endswith("zst") else raw)
    for block_bytes in (1000, 1 << 20):
        assert read_documents(path, block_bytes) == [text.encode() for text in DOCUMENTS if text]
