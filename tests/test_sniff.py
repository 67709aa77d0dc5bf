"""The content of an input, by its first bytes: files of real programs, and texts that look like them."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import random
import sqlite3
import struct
import subprocess
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.orc
import pyarrow.parquet
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_compat.input.sniff import Look, find_table, sniff
from tests.texts import zstd

PROSE = (
    "It was the best of times, it was the worst of times; we had everything before us, we had nothing.\n"
    "The first of them, who had been silent until then, said that it was late, and that they should go.\n"
) * 40
LINES = '{"text": "Once upon a time."}\n{"text": "The end."}\n'


def look_at(data: bytes | str, name: str = "a", **more: Any) -> Look:
    raw = data.encode() if isinstance(data, str) else data
    return sniff(raw[: 64 * 1024], name=name, tail=raw[-8:], is_whole=len(raw) < 64 * 1024, **more)


def verdict(look: Look) -> str:
    """Return how data is read, and its kind if it is refused or read with a notice."""
    if look.kind is None:
        return look.container
    return f"{'no' if look.is_refused else look.container}: {look.kind.name}"


def packed_in_tar(*, form: int = tarfile.USTAR_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        member = tarfile.TarInfo("books/one.txt")
        member.size = len(PROSE)
        archive.addfile(member, io.BytesIO(PROSE.encode()))
    return stream.getvalue()


def old_tar() -> bytes:
    """Return a tar archive from before POSIX: no `ustar`, nothing after the name of a link."""
    raw = bytearray(packed_in_tar())
    raw[257:512] = bytes(255)
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw[:512])
    return bytes(raw)


def packed_in_zip(*names: str, stored: str = "") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        if stored:
            archive.writestr("mimetype", stored)
        for name in names:
            archive.writestr(name, PROSE)
    return stream.getvalue()


def saved(write: Any) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def arrow(opener: Any) -> bytes:
    table = pyarrow.table({"text": [PROSE]})
    stream = io.BytesIO()
    with opener(stream, table.schema) as writer:
        writer.write_table(table)
    return stream.getvalue()


def sqlite(folder: Path) -> bytes:
    path = folder / "a.db"
    connection = sqlite3.connect(path)
    connection.execute("create table texts (text)")
    connection.commit()
    connection.close()
    return path.read_bytes()


PARQUET = saved(lambda to: pyarrow.parquet.write_table(pyarrow.table({"text": [PROSE]}), to))
HTML = (
    "<!DOCTYPE html>\n<html lang=en><head><title>404 Not Found</title></head><body><p>No.</p></body></html>\n"
)
TABLE = pyarrow.table({"text": [PROSE]})
PDF = b"%PDF-1.5\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog >>\nendobj\n" + zlib.compress(PROSE.encode())
SAFETENSORS = (
    struct.pack("<Q", 60) + b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}     ' + bytes(16)
)

FILES: list[tuple[str, bytes, str]] = [
    # Accepted.
    ("plain text", PROSE.encode(), "text"),
    ("parquet", PARQUET, "parquet"),
    ("JSON lines", LINES.encode(), "jsonl"),
    # Compressed; four of these kinds are read one layer deep, and here they are inside that layer.
    ("gzip", gzip.compress(PROSE.encode()), "no: compressed with gzip"),
    ("zstd", zstd.compress(PROSE.encode()), "no: compressed with zstd"),
    ("bzip2", bz2.compress(PROSE.encode()), "no: compressed with bzip2"),
    ("xz", lzma.compress(PROSE.encode()), "no: compressed with xz"),
    ("lz4", subprocess.run(["lz4", "-c"], input=PROSE.encode(), capture_output=True, check=True).stdout,
     "no: compressed with lz4"),
    ("compress", b"\x1f\x9d\x90" + random.Random(0).randbytes(500), "no: compressed with compress"),
    ("snappy", b"\xff\x06\0\0sNaPpY" + random.Random(0).randbytes(500), "no: compressed with snappy"),
    # Archives.
    ("tar", packed_in_tar(), "no: a tar archive"),
    ("GNU tar", packed_in_tar(form=tarfile.GNU_FORMAT), "no: a tar archive"),
    ("PAX tar", packed_in_tar(form=tarfile.PAX_FORMAT), "no: a tar archive"),
    ("old tar", old_tar(), "no: a tar archive"),
    ("tar without padding", packed_in_tar().rstrip(b"\0"), "no: a tar archive"),
    ("zip", packed_in_zip("books/one.txt"), "no: a zip archive"),
    ("empty zip", packed_in_zip(), "no: a zip archive"),
    ("jar", packed_in_zip("META-INF/MANIFEST.MF"), "no: a zip archive"),
    ("Word", packed_in_zip("[Content_Types].xml", "word/document.xml"), "no: a Word document"),
    ("Excel", packed_in_zip("[Content_Types].xml", "xl/workbook.xml"), "no: an office document"),
    ("EPUB", packed_in_zip("a.xhtml", stored="application/epub+zip"), "no: an EPUB book"),
    ("OpenDocument", packed_in_zip("a.xml", stored="application/vnd.oasis.opendocument.text"),
     "no: an OpenDocument text"),
    ("torch.save", packed_in_zip("archive/data.pkl"), "no: a torch.save file"),
    ("npz", saved(lambda to: np.savez(to, a=np.arange(9))), "no: a NumPy array"),
    ("7z", b"7z\xbc\xaf\x27\x1c\0\x04" + random.Random(0).randbytes(500), "no: a 7z archive"),
    ("rar", b"Rar!\x1a\x07\x01\0" + random.Random(0).randbytes(500), "no: a rar archive"),
    ("ar", b"!<arch>\n" + b"a.txt/          0           0     0     644     5         `\nhello\n",
     "no: an archive (ar, cab or cpio)"),
    ("cpio", b"070701" + b"0" * 104 + b"a.txt\0" + PROSE.encode(), "no: an archive (ar, cab or cpio)"),
    # Tables.
    ("parquet without its end", PARQUET[:-20], "no: a truncated parquet file"),
    ("encrypted parquet", b"PARE" + random.Random(0).randbytes(500) + b"PARE", "no: encrypted parquet"),
    ("Arrow file", arrow(pyarrow.ipc.new_file), "arrow"),
    ("Arrow stream", arrow(pyarrow.ipc.new_stream), "arrow"),
    ("Feather 1", b"FEA1" + bytes(100) + b"FEA1",
     "no: a Feather file of version 1"),
    ("ORC", saved(lambda to: pyarrow.orc.write_table(TABLE, to)), "no: an ORC file"),
    ("Avro", b"Obj\x01\x04\x14avro.codec\x08null" + PROSE.encode(), "no: an Avro file"),
    ("HDF5", b"\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x08\0" + bytes(500), "no: an HDF5 file"),
    # JSON that is not one object a line.
    ("array of objects", b'[{"text": "a"}, {"text": "b"}]', "no: a JSON array"),
    ("array, indented", json.dumps([{"text": "a"}], indent=2).encode(), "no: a JSON array"),
    ("array, a line for each", b'[\n{"text": "a"},\n{"text": "b"}\n]\n', "no: a JSON array"),
    ("array with a comma too many", b'[\n{"text": "a"},\n{"text": "b"},\n]\n', "no: a JSON array"),
    ("long array", json.dumps([{"text": PROSE}] * 20).encode(), "no: a JSON array"),
    ("array of one long text", json.dumps([{"text": PROSE * 20}]).encode(), "no: a JSON array"),
    ("empty array", b"[]\n", "no: a JSON array"),
    ("array of arrays of objects", b'[[{"role": "user"}], [{"role": "user"}]]', "no: a JSON array"),
    ("array of strings", b'["one text", "another"]', "no: a JSON array of strings"),
    ("long array of strings", json.dumps([PROSE] * 20).encode(), "no: a JSON array of strings"),
    ("array of numbers", json.dumps([list(range(9999))] * 5).encode(), "no: a JSON array of numbers"),
    ("indented object", json.dumps({"text": "a"}, indent=2).encode(), "no: JSON objects over several lines"),
    ("indented objects", json.dumps({"text": "a"}, indent=1).encode() * 3,
     "no: JSON objects over several lines"),
    ("long indented object", json.dumps({"rows": [{"text": PROSE}] * 20}, indent=2).encode(),
     "no: JSON objects over several lines"),
    ("JSON text sequence", b"\x1e" + b"\x1e".join(line.encode() + b"\n" for line in LINES.splitlines()),
     "no: a JSON text sequence"),
    ("array with a byte order mark", b'\xef\xbb\xbf[{"text": "a"}]', "no: a JSON array"),
    # Documents, and replies of a server instead of a file.
    ("PDF", PDF, "no: a PDF document"),
    ("plain PDF", b"%PDF-1.1\n1 0 obj\n<<>>\nendobj\n" + PROSE.encode(), "no: a PDF document"),
    ("PostScript", b"%!PS-Adobe-3.0\n%%Title: a\n(Hello) show\n", "no: PostScript"),
    ("RTF", b"{\\rtf1\\ansi{\\fonttbl\\f0 Arial;}\\f0 Hello.}", "no: an RTF document"),
    ("old Word", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "no: an office document"),
    ("HTML", HTML.encode(), "no: an HTML page"),
    ("HTML after a comment", f"<!-- saved from somewhere -->\n{HTML}".encode(), "no: an HTML page"),
    ("XHTML", f'<?xml version="1.0"?>\n{HTML}'.encode(), "no: an HTML page"),
    ("S3's answer", b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>',
     "no: a server's error message"),
    ("Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
     "no: a Git LFS pointer instead of the file"),
    ("git-annex", b"/annex/objects/SHA256E-s12345--4d7a.txt\n",
     "no: a git-annex pointer instead of the file"),
    # Numbers.
    ("npy", saved(lambda to: np.save(to, np.arange(9, dtype=np.uint16))), "no: a NumPy array"),
    ("pickle", pickle.dumps({"stoi": {"a": 1}}), "no: a Python pickle"),
    ("safetensors", SAFETENSORS, "no: model weights"),
    ("GGUF", b"GGUF\x03\0\0\0" + bytes(500), "no: model weights"),
    ("index of tokens", b"MMIDIDX\0\0" + struct.pack("<QB", 1, 8), "no: a file of tokens"),
    # Other bytes.
    ("PNG", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(100), "no: a picture (PNG)"),
    ("BMP", b"BM\x36\0\x0c\0\0\0\0\0\x36\0\0\0" + bytes(100), "no: a picture (BMP)"),
    ("JPEG", b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(100), "no: a picture (JPEG)"),
    ("WAV", b"RIFF\x24\x08\0\0WAVEfmt " + bytes(100), "no: sound, video or a picture (RIFF)"),
    ("MP4", b"\0\0\0\x20ftypisom\0\0\2\0" + bytes(100), "no: a video or a picture (MP4)"),
    ("ELF", b"\x7fELF\2\1\1" + bytes(100), "no: a program"),
    ("EXE", b"MZ\x90\0\3\0\0\0\4\0\0\0" + bytes(100), "no: a program"),
    ("zeros", bytes(50_000), "no: not text"),
    ("random bytes", random.Random(1).randbytes(50_000), "no: not text"),
    ("floats", np.random.default_rng(0).standard_normal(5000).tobytes(), "no: not text"),
    ("integers", np.arange(5000, dtype=np.int32).tobytes(), "no: not text"),
    ("text after a crash", PROSE.encode() + bytes(4096), "no: text with NUL bytes in it"),
    # Text in which only the charset is wrong.
    *((one, PROSE.encode(f"utf-{one}"), f"no: UTF-{one} text") for one in ("16LE", "16BE", "32LE", "32BE")),
    ("UTF-16", PROSE.encode("utf-16"), "no: UTF-16 text"),
    ("UTF-32", PROSE.encode("utf-32"), "no: UTF-32 text"),
    ("UTF-16 whose bytes are UTF-8, too", b"\xff\xfe" + b"quite valid UTF-8 " * 100, "no: UTF-16 text"),
    ("JSON lines in UTF-16", LINES.encode("utf-16"), "no: JSON lines in UTF-16"),
    ("JSON array in UTF-16", '[{"text": "a"}]'.encode("utf-16"), "no: a JSON array, UTF-16 text"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), [one[1:] for one in FILES], ids=[one[0] for one in FILES])
@pytest.mark.parametrize("name", ["part-00000", "a.txt", "a.bin"])
def test_a_file_is_recognised_by_its_bytes_under_any_name(data: bytes, expected: str, name: str) -> None:
    if name == "a.txt":  # a .txt file is read as text
        expected = {"jsonl": "text: JSON lines", "no: JSON lines in UTF-16": "no: UTF-16 text"}.get(
            expected, expected
        )
    assert verdict(look_at(data, name)) == expected


@pytest.mark.parametrize("name", ["a.jsonl", "part-00000"])
def test_json_lines_padded_with_nul_bytes_are_json_lines(name: str) -> None:
    raw = LINES.encode() + bytes(4096)
    assert verdict(look_at(raw, name)) == "jsonl"
    assert verdict(look_at(raw, "a.txt")) == "no: text with NUL bytes in it"


def test_an_sqlite_database_is_recognised(tmp_path: Path) -> None:
    assert verdict(look_at(sqlite(tmp_path))) == "no: an SQLite database"


@pytest.mark.parametrize("n_bytes", [300, 5000, 10**6])
def test_tokens_without_a_header_are_recognised_by_their_commas(
    gpt2: tiktoken.Encoding, n_bytes: int
) -> None:
    raw = np.array(gpt2.encode_ordinary(PROSE * 40), np.uint16).tobytes()[:n_bytes]
    assert verdict(look_at(raw, "train.bin")) == "no: a file of tokens"
    header = np.zeros(256, np.int32)
    header[:3] = 20240520, 1, len(raw) // 2
    assert verdict(look_at(header.tobytes() + raw)) == "no: a file of tokens"
    code = "def f(x, y):\n    return [x for x in range(10) if x != y]\n" * 100
    raw = np.array(gpt2.encode_ordinary(code), np.uint16).tobytes()
    assert look_at(raw).is_refused


# Each begins like one of the files above, and is text.
TEXTS = {
    "a note": "[Illustration: the castle]\n\nCHAPTER I\n",
    "a reference": "[1] Smith, J. (1999). A title.\n[2] Jones, K. Another.\n",
    "a bracket of numbers": "[1, 2, 3] are the first numbers.\n",
    "a task": "[ ] buy milk\n[x] write\n",
    "a log": "[2024-01-01 12:00:00] started\n[2024-01-01 12:00:01] stopped\n",
    "a chat": "[12:30:15] <ann> hello\n[12:30:16] <bob> hi\n",
    "a list of Python": "['a', 'b', 'c']\n",
    "a quoted word in brackets": '["Hello," he said, "is what they say."]\n',
    "a dialogue": '"Hello," she said.\n\n"Goodbye," he said.\n\nThey left.\n',
    "a quotation": '"All happy families are alike."\n\nSo it begins, and so it ends.\n',
    "an article": '"Weird Al" is the name of a musician. He was born in 1959.\n\nHe sings.\n',
    "a docstring": '"""Do something."""\n\nimport os\n',
    "strict JavaScript": '"use strict";\nvar a = {"b": 1};\n',
    "a table in quotes": '"id","text"\n"1","one"\n',
    "a template of Wikipedia": "{{Infobox person\n| name = A\n}}\n'''A''' is a person.\n",
    "a table of Wikipedia": '{| class="wikitable"\n! Year\n|}\n',
    "a template": "{% extends 'base.html' %}\n{{ title }}\n",
    "a block of C": "{\n    int x = 1;\n}\n",
    "a set": "{1, 2, 3} is a set of numbers.\n",
    "LaTeX": "{\\bf Bold} text, {\\it italic} text.\n",
    "a word in braces": '{"word"} in braces and quotes, and more of it.\n',
    "an example of JSON": 'Such a file has lines like\n\n{"text": "a"}\n\nand no others.\nThat is it.\n\n',
    "numbers": "1\n2\n3\n4\n",
    "a word about PDF": "%PDF-1.4 is what a PDF begins with, as one can read.\n",
    "TeX": "% A comment\n\\documentclass{article}\n",
    "a word about PostScript": "%!PSfoo is no PostScript.\n",
    "a word about HTML": "<html> is the root of a page, as everybody knows.\n",
    "a word about doctypes": "<!DOCTYPE html> stands at the beginning of a page.\n",
    "Markdown with HTML on top": '<h1 align="center">\n  <img src="a.png">\n</h1>\n\n# A title\n\nText.\n',
    "Markdown after a comment": "<!-- A comment. -->\n\n# A title\n\nText with <b>bold</b> in it.\n",
    "a fence": "```html\n<!DOCTYPE html>\n<html><head></head></html>\n```\n",
    "the word PK": "PK\nis a short name for Pakistan.\n",
    "the word BM": "BM was an old shop in the village.\n",
    "the word MZ": "MZ motorcycles were made in Zschopau.\n",
    "the word ORC": "ORC, n.: a monster.\n",
    "the word RIFF": "RIFF raff.\n",
    "the word PAR1": "PAR1 is a word of mine, and so is PAR1",
    "the word ID3": "ID3 is an algorithm of Quinlan's.\n",
    "the word GIF89a": "GIF89a is a version of a format.\n",
    "the word BZh": "BZh9 begins a compressed file.\n",
    "the word 7z": "7z archives are small.\n",
    "the word Rar": "Rar! he shouted.\n",
    "a word about LFS": "version https://git-lfs.github.com/spec/v1 stands in pointers.\n",
    "a path": "/annex/objects/ is a folder.\nIn it are files.\n",
    "a byte order mark": "\ufeffOnce upon a time.\n",
    "one word": "word",
    "one letter": "a",
    "an empty line": "\n",
    "nothing": "",
    "a man page with bold type": "N\bNA\bAM\bME\bE\n       ls - list\n",
    "colours": "\x1b[1mbold\x1b[0m and \x1b[31mred\x1b[0m\n" * 9,
    "pages": "one\ftwo\fthree\v\n",
    "a file of DOS": "one line\r\nanother\r\n\x1a",
    "other scripts": "\u4e2d\u6587 \u0440\u0443\u0441 \u05e2\u05d1\u05e8 \U0001f600\n",
    "an archive's word": "!<arch> is a magic word.\n",
    "octal": "070707 is a number in octal, 0707010 is another.\n",
    "letters for a tar": "a" * 600,
    "base64": "H4sIAAAAAAAAA8tIzcnJVyjPL8pJAQCFEUoNCwAAAA==\n" * 9,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("name", ["part-00000", "a.txt", "a.md"])
@pytest.mark.parametrize("is_long", [False, True], ids=["short", "long"])
def test_text_that_begins_like_another_kind_is_text(text: str, name: str, is_long: bool) -> None:
    assert verdict(look_at(text + PROSE * 20 if is_long else text, name)) == "text"


@pytest.mark.parametrize(
    ("line", "is_alone"),
    [
        ('{"text":"a"}{"text":"b"}', True),
        ('{"text":"a\tb"}', True),
        ('{"text": "no end', True),
        ('{"n": ' + "1" * 5000 + ', "text": "a"}', True),
        ('{"a": ' * 10_000, True),
        ('{"text": ' + json.dumps(PROSE * 20) + "}", True),
        ("{}", True),
        ('"a string"', True),
        (json.dumps(PROSE * 20), True),
        ("1" * 5000, False),
        ("null", False),
        ("# exported in 2024", False),
        ('["text"]', False),
        ("{not JSON}", False),
        ("{text: 1}", False),
    ],
)
def test_json_lines_with_a_bad_first_line_are_not_taken_for_prose(line: str, is_alone: bool) -> None:
    for following in (LINES, *([""] if is_alone else [])):
        data = f"{line}\n{following}"
        assert verdict(look_at(data)) == verdict(look_at(data, "a.json")) == "jsonl"
        assert verdict(look_at(f"\ufeff\n {data}", "a.data")) == "jsonl"
    assert verdict(look_at(f"{line}\n{LINES}", "a.txt")) == "text: JSON lines"


def test_lists_of_messages_on_lines_are_json_lines_for_their_reader_to_refuse() -> None:
    line = '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]\n'
    assert verdict(look_at(line * 3)) == "jsonl"
    assert verdict(look_at('"one"\n"two"\n"three"\n')) == "jsonl"


@pytest.mark.parametrize(
    ("name", "expected"),
    [*((f"a.{one}", "jsonl") for one in ("jsonl", "ndjson", "jl", "json")), ("a.PARQUET", "parquet")],
)
def test_the_name_decides_if_the_bytes_may_be_any_text(name: str, expected: str) -> None:
    assert verdict(look_at(PROSE, name)) == verdict(look_at("", name)) == expected
    assert look_at(HTML, name).is_refused
    assert look_at(packed_in_tar(), name).is_refused


def test_unknown_bytes_called_parquet_are_for_its_reader_to_refuse() -> None:
    assert verdict(look_at(random.Random(0).randbytes(5000), "a.parquet")) == "parquet"


def test_parquet_is_not_read_if_its_end_is_not_available() -> None:
    look = sniff(PARQUET, name="a", tail=None)
    assert look.is_refused
    assert verdict(look) == "no: parquet"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('<?xml version="1.0"?>\n<book><p>Hello</p></book>\n', "text: XML"),
        ('<mediawiki xml:lang="en">\n<page></page>', "text: a MediaWiki dump"),
        ("WARC/1.0\r\nWARC-Type: conversion\r\n\r\nHello\r\n", "text: a WARC archive"),
        (HTML * 1000, "text: HTML pages"),
    ],
)
def test_markup_is_read_as_text_with_a_notice(text: str, expected: str) -> None:
    assert verdict(look_at(text, "a.txt")) == expected


def test_a_table_in_text_is_known_by_its_name() -> None:
    assert verdict(look_at("id,body\n1,Some text\n", "a.csv")) == "csv"
    assert verdict(look_at("id\tbody\n1\tSome text\n", "a.TSV")) == "tsv"
    assert verdict(look_at("", "a.csv")) == verdict(look_at('"open\n' * 5, "a.csv")) == "csv"
    assert verdict(look_at('{"text": "a"}\n' * 5, "a.csv")) == "csv"
    assert verdict(look_at("id,text\n1,Some text\n", "a.txt")) == "text"
    assert look_at('[{"text": "a"}]', "a.csv").is_refused
    assert look_at(HTML, "a.csv").is_refused


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id,text\n1,a\n", "csv"),
        ('id;text\r\n1;"a\nb"\r\n\r\n2;c', "csv"),
        ("id\ttext\n1\ta\n", "tsv"),
        ("id,text\n", None),  # no record
        ("text\nSome text.\n", None),  # one column
        ("id,body\n1,a\n", None),
        ("The id, the text,text\nand two cells,b\n", None),
        ('id,text\n1,"a" b\n', None),
    ],
)
def test_a_table_in_text_is_known_by_its_header_if_all_records_are_like_it(
    text: str, expected: str | None
) -> None:
    assert find_table(text.encode(), ["text", "content"]) == expected
    assert find_table(text.encode(), ["nothing"]) is None


def test_a_separator_of_control_characters_does_not_make_text_binary() -> None:
    for separator in ("\0", "\x1e"):
        text = separator.join(["A short one."] * 500)
        assert look_at(text).is_refused
        assert verdict(look_at(text, separator=separator)) == "text"


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]) | st.sampled_from("\n\t "), min_size=1))
def test_prose_of_any_characters_is_never_refused(text: str) -> None:
    assert not look_at(f"So: {text}").is_refused
    assert verdict(look_at(f"So it went on. {text}\n{PROSE}")) == "text"


@given(data=st.binary(max_size=600), name=st.sampled_from(["a", "a.txt", "a.json", "a.csv", "a.parquet"]))
def test_any_bytes_are_classified_without_an_error(data: bytes, name: str) -> None:
    look_at(data, name)


@given(index=st.integers(0, len(FILES) - 1), n_bytes=st.integers(0, 600))
def test_a_file_may_end_anywhere(index: int, n_bytes: int) -> None:
    look_at(FILES[index][1][:n_bytes])
