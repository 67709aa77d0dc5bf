"""Each refused input comes with a command, and the command, run as printed, makes the tokens."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.orc
import pyarrow.parquet
import pytest
import tiktoken

from tests.conftest import REPOSITORY, RunPrepare
from tests.faults import report_of
from tests.texts import zstd

pytestmark = pytest.mark.costly

TEXTS = ["Once upon a time there was a caf\xe9.", "The second one:\nwith two lines.", "And the last."]
PROSE = "It was the best of times, it was the worst of times; na\xefve caf\xe9s were everywhere.\n" * 30
PLAIN = ("--val-split", "none", "--engine", "tiktoken")


def command_in(message: str) -> str:
    """Return the first command in a message."""
    return next(line.strip() for line in message.splitlines() if line.startswith("    "))


def tokens_in(folder: Path) -> list[int]:
    return [int(token) for token in np.fromfile(folder / "train.bin", np.uint16)]


def of_documents(gpt2: tiktoken.Encoding, texts: list[str]) -> list[int]:
    return [token for text in texts for token in [*gpt2.encode_ordinary(text), gpt2.eot_token]]


def run_in(folder: Path, command: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | more,
    )


def as_json(**more: object) -> bytes:
    return json.dumps([{"text": text} for text in TEXTS], **more).encode()  # type: ignore[arg-type]


def in_tar(name: str, *, mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        member = tarfile.TarInfo(f"books/{name}")
        member.size = len(PROSE.encode())
        archive.addfile(member, io.BytesIO(PROSE.encode()))
    return stream.getvalue()


def without_end(tar: bytes) -> bytes:
    """Return a tar archive without the final blocks of zeros."""
    return tar[: (len(tar.rstrip(b"\0")) + 511) // 512 * 512]


def in_zip(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(f"books/{name}", PROSE)
    return stream.getvalue()


def in_7z(folder: Path) -> bytes:
    assert shutil.which("7z"), "7z is missing: Debian has it in p7zip-full"
    (folder / "a.txt").write_text(PROSE, encoding="utf-8")
    subprocess.run(["7z", "a", "-bd", "-bso0", "made.7z", "a.txt"], cwd=folder, check=True)
    made = (folder / "made.7z").read_bytes()
    (folder / "made.7z").unlink()
    (folder / "a.txt").unlink()
    return made


def saved(write: Callable[[io.BytesIO], object]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def in_arrow(opener: Callable[[io.BytesIO, Any], Any]) -> bytes:
    table = pyarrow.table({"text": TEXTS})
    stream = io.BytesIO()
    with opener(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return stream.getvalue()


def in_csv(delimiter: str = ",", *, end: str = "\r\n") -> str:
    file = io.StringIO(newline="")
    rows = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    rows.writerows([("id", "text"), *enumerate(TEXTS)])
    return file.getvalue()


LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
RECORDS: dict[str, Callable[[], bytes]] = {
    "a.json": as_json,
    "b.json": lambda: as_json(indent=2),
    "strings.json": lambda: json.dumps(TEXTS).encode(),
    "objects.json": lambda: "".join(json.dumps({"text": text}, indent=1) for text in TEXTS).encode(),
    "a.json.gz": lambda: gzip.compress(as_json()),
    "a.json.zst": lambda: zstd.compress(as_json(indent=1)),
    "a.json.xz": lambda: lzma.compress(as_json()),
    "b.json.bz2": lambda: bz2.compress(as_json(indent=1)),
    "a.jsonl": lambda: LINES.encode("utf-16"),
    "b.jsonl": lambda: json.dumps({"text": TEXTS}).encode("utf-8"),
    "seq": lambda: b"".join(b"\x1e" + line.encode() + b"\n" for line in LINES.splitlines()),
    "stream.arrow.gz": lambda: gzip.compress(in_arrow(pyarrow.ipc.new_stream)),
    "file.feather.zst": lambda: zstd.compress(in_arrow(pyarrow.ipc.new_file)),
    "a.csv": lambda: in_csv().encode("utf-16"),
    "c.tsv": lambda: in_csv("\t").encode("utf-16-le"),
    "d.csv": lambda: in_csv(end="\r").encode(),
    "e.csv.gz": lambda: gzip.compress(in_csv(end="\r").encode()),
    "a.orc": lambda: saved(lambda to: pyarrow.orc.write_table(pyarrow.table({"text": TEXTS}), to)),
    "a.parquet.gz": lambda: gzip.compress(
        saved(lambda to: pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), to))
    ),
}
del RECORDS["b.jsonl"]  # a list of texts is for the check of records


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", RECORDS)
def test_records_in_another_form_are_converted_by_the_command(
    name: str, run_prepare: RunPrepare, tmp_path: Path, gpt2: tiktoken.Encoding
) -> None:
    folder = tmp_path / "it's data"
    folder.mkdir()
    (folder / name).write_bytes(RECORDS[name]())
    refused = run_prepare("--input", folder / name, "--output-dir", "out", *PLAIN)
    assert refused.returncode == 3, refused.stderr
    assert not (tmp_path / "out").exists()
    done = run_in(tmp_path, command_in(refused.stderr))
    assert done.returncode == 0, done.stderr
    assert tokens_in(tmp_path / "out") == of_documents(gpt2, TEXTS)


TEXT: dict[str, Callable[[Path], bytes]] = {
    "a.tar": lambda _: in_tar("a.txt"),
    "a.tar.gz": lambda _: gzip.compress(in_tar("a.txt")),
    "a.tgz": lambda _: gzip.compress(without_end(in_tar("a.txt"))),
    "a.txt": lambda _: in_tar("a.txt"),
    "a.tar.xz": lambda _: in_tar("a.txt", mode="w:xz"),
    "a.tar.zst": lambda _: zstd.compress(in_tar("a.txt")),
    "a.zip": lambda _: in_zip("a.txt"),
    "a.zip.gz": lambda _: gzip.compress(in_zip("a.txt")),
    "a.7z": in_7z,
    "a.txt.gz": lambda _: gzip.compress(gzip.compress(PROSE.encode())),
    "b.txt.gz": lambda _: gzip.compress(lzma.compress(PROSE.encode())),
    "c.txt.bz2": lambda _: bz2.compress(lzma.compress(PROSE.encode())),
    "d.txt.xz": lambda _: lzma.compress(PROSE.encode("utf-16")),
    "a.txt.lz4": lambda _: (
        subprocess.run(["lz4", "-c"], input=PROSE.encode(), capture_output=True, check=True).stdout
    ),
    "utf16.txt": lambda _: PROSE.encode("utf-16"),
    "utf32": lambda _: PROSE.encode("utf-32-be"),
    "c.txt.gz": lambda _: gzip.compress(PROSE.encode("utf-16-le")),
    "latin.txt": lambda _: PROSE.encode("cp1252"),
    "nul.txt": lambda _: PROSE.encode() + bytes(500),
}


@pytest.mark.sample(6)
@pytest.mark.parametrize("name", TEXT)
def test_text_in_another_form_is_converted_by_the_command(
    name: str, run_prepare: RunPrepare, tmp_path: Path, gpt2: tiktoken.Encoding
) -> None:
    (tmp_path / name).write_bytes(TEXT[name](tmp_path))
    message = ""
    done = run_prepare("--input", name, "--output-dir", "out", *PLAIN)
    for _ in range(2):  # one layer after another
        assert done.returncode == 3, done.stderr
        assert not (tmp_path / "out").exists()
        message = done.stderr
        done = run_in(tmp_path, command_in(message))
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stderr
    assert tokens_in(tmp_path / "out") == gpt2.encode_ordinary(PROSE)


STUBS = {"a.pdf": "pdftotext", "a.rtf": "pandoc", "a.html": "pandoc", "a.docx": "pandoc", "a.ps": "ps2ascii"}


@pytest.mark.parametrize("name", STUBS)
def test_documents_go_through_the_program_that_extracts_their_text(
    name: str, run_prepare: RunPrepare, tmp_path: Path, gpt2: tiktoken.Encoding
) -> None:
    """The programs are stubs that read the input and print the expected text."""
    contents = {
        "a.pdf": b"%PDF-1.1\n1 0 obj\n<<>>\nendobj\n",
        "a.rtf": b"{\\rtf1\\ansi Hello.}",
        "a.html": b"<!DOCTYPE html><html><head><title>A title</title></head></html>",
        "a.docx": in_zip_of("word/document.xml"),
        "a.ps": b"%!PS-Adobe-3.0\n",
    }
    (tmp_path / name).write_bytes(contents[name])
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / STUBS[name]
    program.write_text(
        f'#!/bin/sh\nfor last; do :; done\n[ "$last" = - ] || set -- - "$last"\n'
        f"cmp -s {name} {name} && cat <<'END'\n{PROSE}END\n",
        encoding="utf-8",
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    refused = run_prepare("--input", name, "--output-dir", "out", *PLAIN)
    assert refused.returncode == 3, refused.stderr
    command = command_in(refused.stderr)
    assert command.startswith(STUBS[name])
    assert name in command
    done = run_in(tmp_path, command, PATH=f"{programs}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert tokens_in(tmp_path / "out") == gpt2.encode_ordinary(PROSE)


def in_zip_of(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, "<xml/>")
    return stream.getvalue()


def test_a_pointer_is_replaced_by_its_file_and_the_same_command_reads_that(
    run_prepare: RunPrepare, tmp_path: Path, gpt2: tiktoken.Encoding
) -> None:
    (tmp_path / "set").mkdir()
    path = tmp_path / "set" / "a.txt"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 12345\n")
    programs = tmp_path / "bin"
    programs.mkdir()
    text = tmp_path / "text"
    text.write_text(PROSE, encoding="utf-8")
    (programs / "git").write_text(f'#!/bin/sh\n[ "$*" = "-C set lfs pull" ] && cp {text} set/a.txt\n')
    (programs / "git").chmod(0o755)
    refused = run_prepare("--input", "set/a.txt", "--output-dir", "out", *PLAIN)
    assert refused.returncode == 3
    done = run_in(tmp_path, command_in(refused.stderr), PATH=f"{programs}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert tokens_in(tmp_path / "out") == gpt2.encode_ordinary(PROSE)


@pytest.mark.parametrize("name", ["a.json", "b.txt.gz", "a.tar"])
def test_for_a_pipe_it_names_the_program_to_put_in_between(
    name: str, tmp_path: Path, gpt2: tiktoken.Encoding
) -> None:
    content = RECORDS[name]() if name in RECORDS else TEXT[name](tmp_path)
    (tmp_path / name).write_bytes(content)
    program = f"{sys.executable} {REPOSITORY}/prepare.py --input - --output-dir out {' '.join(PLAIN)}"
    refused = run_in(tmp_path, f"cat {name} | {program}")
    assert refused.returncode == 3, refused.stderr
    _, between, _ = refused.stderr.split("`")
    done = run_in(tmp_path, f"cat {name} | {between} | {program}")
    assert done.returncode == 0, done.stderr
    expected = of_documents(gpt2, TEXTS) if name == "a.json" else gpt2.encode_ordinary(PROSE)
    assert tokens_in(tmp_path / "out") == expected


def test_parquet_from_a_pipe_is_to_be_written_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(
        saved(lambda to: pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), to))
    )
    refused = run_in(tmp_path, f"cat a | {sys.executable} {REPOSITORY}/prepare.py --input -")
    assert refused.returncode == 3
    assert "standard input is parquet; write it to a file and name that file with --input" in refused.stderr


@pytest.mark.parametrize("name", ["a.json", "a.txt.lz4"])
def test_an_incomplete_conversion_does_not_end_as_success(
    name: str, run_prepare: RunPrepare, tmp_path: Path
) -> None:
    content = RECORDS[name]() if name in RECORDS else TEXT[name](tmp_path)
    (tmp_path / name).write_bytes(content[: len(content) * 2 // 3])
    refused = run_prepare("--input", name, "--output-dir", "out", *PLAIN)
    done = run_in(tmp_path, command_in(refused.stderr))
    assert done.returncode != 0, done.stderr


def test_some_of_many_are_converted_in_their_place_and_the_same_command_reads_all(
    run_prepare: RunPrepare, tmp_path: Path
) -> None:
    """In a folder of plain texts some are in another charset, packed, or in an archive."""
    folder = tmp_path / "it's data"
    folder.mkdir()
    contents = {f"{k}.txt": PROSE.encode() for k in range(8)}
    contents |= {
        "1.txt": PROSE.encode("utf-16"),
        "2 b.txt": PROSE.encode("cp1252"),
        "3.txt": PROSE.encode("utf-16"),
        "4.txt": in_tar("a.txt"),
        "5.txt.xz": lzma.compress(gzip.compress(PROSE.encode())),
        "notes.md": b"skipped",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    args = ("--input", folder, "--output-dir", "out", *PLAIN)
    refused = run_prepare(*args)
    assert refused.returncode == 3
    assert "5 of 10 inputs cannot be read as they are" in refused.stderr
    assert "it's data/1.txt, " in refused.stderr
    commands = [line.strip() for line in refused.stderr.splitlines() if line.startswith("    ")]
    assert len(commands) == 4
    for command in commands:
        done = run_in(tmp_path, command)
        assert done.returncode == 0, done.stderr
    done = run_prepare(*args)
    assert done.returncode == 0, done.stderr
    report = report_of(tmp_path / "out")
    assert len(report["inputs"]) == 10
    assert {one["text_bytes"] for one in report["inputs"]} == {len(PROSE.encode())}
    assert (folder / ".1.txt").read_bytes() == contents["1.txt"]  # nothing is lost


def test_if_all_inputs_are_refused_the_converted_files_go_to_a_folder(
    run_prepare: RunPrepare, tmp_path: Path, gpt2: tiktoken.Encoding
) -> None:
    for k in range(12):
        (tmp_path / f"{k}.json").write_bytes(json.dumps([{"text": f"Text {k} of some."}]).encode())
    refused = run_prepare("--input", "*.json", "--output-dir", "out", *PLAIN)
    assert "12 of 12 inputs cannot be read as they are" in refused.stderr
    assert "8.json, 9.json and 2 more: a JSON array" in refused.stderr
    convert, read = (line.strip() for line in refused.stderr.splitlines() if line.startswith("    "))
    assert run_in(tmp_path, convert).returncode == 0
    done = run_in(tmp_path, read)
    assert done.returncode == 0, done.stderr
    assert tokens_in(tmp_path / "out") == of_documents(gpt2, [f"Text {k} of some." for k in range(12)])


def test_an_original_is_kept_when_its_content_is_converted_too(
    run_prepare: RunPrepare, tmp_path: Path
) -> None:
    packed = TEXT["a.txt.lz4"](tmp_path)
    twice = subprocess.run(["lz4", "-c"], input=packed, capture_output=True, check=True).stdout
    (tmp_path / "a.txt").write_text(PROSE, encoding="utf-8")
    (tmp_path / "b.lz4").write_bytes(twice)
    args = ("--input", "a.txt", "b.lz4", "--output-dir", "out", *PLAIN)
    for _ in range(2):
        refused = run_prepare(*args)
        assert refused.returncode == 3
        assert run_in(tmp_path, command_in(refused.stderr)).returncode == 0
    assert run_prepare(*args).returncode == 0
    assert (tmp_path / ".b.lz4").read_bytes() == twice
    assert (tmp_path / ".b.lz4~").read_bytes() == packed


def test_more_inputs_than_one_command_converts_are_all_read(
    run_prepare: RunPrepare, tmp_path: Path, gpt2: tiktoken.Encoding
) -> None:
    for k in range(101):
        (tmp_path / f"{k}.json").write_bytes(json.dumps([{"text": f"Text {k} of some."}]).encode())
    args = ("--input", "*.json", "--output-dir", "out", *PLAIN)
    for n_refused in (101, 1):
        refused = run_prepare(*args)
        assert f"{n_refused} of 101 inputs cannot be read as they are" in refused.stderr
        (command,) = (line.strip() for line in refused.stderr.splitlines() if line.startswith("    "))
        assert run_in(tmp_path, command).returncode == 0
    assert run_prepare(*args).returncode == 0
    assert tokens_in(tmp_path / "out") == of_documents(gpt2, [f"Text {k} of some." for k in range(101)])


@pytest.mark.parametrize(
    "contents",
    [
        {"a.txt.lz4": TEXT["a.txt.lz4"], "_b.pages": TEXT["a.txt.lz4"]},
        {"a.txt.lz4": TEXT["a.txt.lz4"], "b.zip": lambda _: in_zip("b.txt")},
        {"a.zip": lambda _: in_zip("a.txt"), "b.tar": lambda _: in_tar("b.txt")},
    ],
    ids=lambda contents: " and ".join(contents),
)
def test_converted_files_are_read_whatever_their_names(
    contents: dict[str, Callable[[Path], bytes]], run_prepare: RunPrepare, tmp_path: Path
) -> None:
    """In a folder, files are chosen by their names, and an unpacked file keeps its name."""
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content(tmp_path))
    args = ("--input", *contents, "--output-dir", "out", *PLAIN)
    refused = run_prepare(*args)
    for command in (line.strip() for line in refused.stderr.splitlines() if line.startswith("    ")):
        done = run_in(tmp_path, command)
        assert done.returncode == 0, done.stderr
    if "then run:" not in refused.stderr:
        done = run_prepare(*args)
        assert done.returncode == 0, done.stderr
    assert report_of(tmp_path / "out")["text_bytes"] == 2 * len(PROSE.encode())


def test_a_table_called_txt_is_read_as_text_and_its_column_by_the_command(
    run_prepare: RunPrepare, tmp_path: Path, gpt2: tiktoken.Encoding
) -> None:
    (tmp_path / "a.txt").write_text(in_csv(), encoding="utf-8", newline="")
    plain = run_prepare("--input", "a.txt", "--output-dir", "plain", *PLAIN)
    assert plain.returncode == 0
    assert "notice: a.txt: CSV, read as plain text because of the name; to read its column" in plain.stderr
    done = run_in(tmp_path, command_in(plain.stderr).replace("plain", "out"))
    assert done.returncode == 0, done.stderr
    assert tokens_in(tmp_path / "out") == of_documents(gpt2, TEXTS)


def test_json_lines_called_txt_are_read_as_text_and_as_lines_by_the_command(
    run_prepare: RunPrepare, tmp_path: Path, gpt2: tiktoken.Encoding
) -> None:
    (tmp_path / "a.txt").write_text(LINES, encoding="utf-8")
    plain = run_prepare("--input", "a.txt", "--output-dir", "plain", *PLAIN)
    assert plain.returncode == 0
    assert tokens_in(tmp_path / "plain") == gpt2.encode_ordinary(LINES)
    done = run_in(tmp_path, command_in(plain.stderr).replace("plain", "out"))
    assert done.returncode == 0, done.stderr
    assert tokens_in(tmp_path / "out") == of_documents(gpt2, TEXTS)


@pytest.mark.parametrize(
    "mode", [("--dry-run",), ("--cluster", "local", "--work-dir", "work"), ("--verify",)]
)
def test_a_dry_run_and_a_plan_check_inputs_like_a_run(
    mode: tuple[str, ...], run_prepare: RunPrepare, tmp_path: Path
) -> None:
    (tmp_path / "a.json").write_bytes(as_json())
    (tmp_path / "b.txt").write_bytes(bytes(5000))
    options = ("--input", "a.json", "b.txt", "--output-dir", "out")
    plain, other = run_prepare(*options), run_prepare(*options, *mode)
    assert plain.returncode == other.returncode == 3
    assert "2 of 2 inputs cannot be read as they are" in other.stderr
    assert plain.stderr.splitlines()[1:3] == other.stderr.splitlines()[1:3]
    assert not (tmp_path / "work").exists()


def test_a_plan_is_not_offered_a_pipe(run_prepare: RunPrepare, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(as_json())
    work = ("--rank", "0", "--world-size", "1", "--work-dir", "work")
    refused = run_prepare("--input", "a.json", "--output-dir", "out", *work)
    command = command_in(refused.stderr)
    assert command.startswith("jq -c '.[]' a.json > a.jsonl && ")
    done = run_in(tmp_path, command)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "work" / "index.json").exists()


def test_output_of_the_program_is_no_text(run_prepare: RunPrepare, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(PROSE, encoding="utf-8")
    for form in ("bin", "npy", "llmc"):
        out = tmp_path / form
        split = PLAIN if form == "bin" else ("--format", form)
        assert run_prepare("--input", "a.txt", "--output-dir", out, *split).returncode == 0
        (made,) = [path for path in out.iterdir() if path.suffix in (".bin", ".npy")]
        refused = run_prepare("--input", made, "--output-dir", "again")
        assert refused.returncode == 3
        assert "a NumPy array" in refused.stderr if form == "npy" else "a file of tokens" in refused.stderr
        assert "--errors" not in refused.stderr
