"""The text field is looked for in every input before anything is encoded, and the offered options work."""

import gzip
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tiktoken

from nanogpt_compat.input.fields import text_ways
from tests.conftest import RunPrepare
from tests.faults import report_of
from tests.texts import zstd

pytestmark = pytest.mark.costly

GOOD = '{"text": "one good text"}\n'
NO_JQ = "jq is missing (apt install jq)"


def write_lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def write_table(path: Path, **columns: Any) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def write_records(path: Path, *records: Any) -> Path:
    """A table of records."""
    table = pyarrow.Table.from_pylist(list(records))
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
        return path
    opener = pyarrow.ipc.new_file if "file" in path.name else pyarrow.ipc.new_stream
    with opener(str(path), table.schema) as file:
        file.write_table(table)
    return path


def commands_in(message: str) -> list[str]:
    """Find the commands in a message: the lines indented by four spaces."""
    return [line.strip() for line in message.splitlines() if line.startswith("    ")]


def run_in_shell(command: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Paste a command."""
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def documents_of(folder: Path, gpt2: tiktoken.Encoding) -> list[str]:
    """Read all documents back, those for training first."""
    files = [folder / name for name in ("train.bin", "val.bin")]
    tokens = np.concatenate([np.fromfile(file, np.uint16) for file in files if file.exists()])
    return gpt2.decode(tokens.tolist()).split("<|endoftext|>")[:-1]


def test_another_field_in_the_last_of_forty_inputs_is_found_before_anything_is_made(
    run_prepare: RunPrepare, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for k in range(39):
        (folder / f"part-{k}.jsonl").write_text(GOOD)
    write_lines(folder / "part-39.jsonl", {"id": 1, "content": "the text"})
    for options in (["--quiet"], ["--dry-run"], ["--rank", "0", "--world-size", "1", "--work-dir", "work"]):
        done = run_prepare("--input", "data", "--output-dir", "out", *options)
        assert done.returncode == 3
        assert (
            "data/part-39.jsonl: line 1, at byte 0: no field 'text' among its fields ('id', 'content')"
            in (done.stderr)
        )
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / "work").exists()


def test_all_inputs_that_fail_are_named_ten_of_them_and_their_number(
    run_prepare: RunPrepare, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text(GOOD)
    for k in range(12):
        write_lines(tmp_path / f"b{k}.jsonl", {"body": "x"})
    write_table(tmp_path / "c.parquet", text=[1])
    done = run_prepare("--input", "*.jsonl", "c.parquet", "--output-dir", "out")
    assert done.returncode == 3
    assert "13 of 14 inputs cannot be read as they are:" in done.stderr
    assert [f"b{k}.jsonl: line 1, at byte 0" in done.stderr for k in range(12)] == [True] * 10 + [False] * 2
    assert "and 3 more" in done.stderr


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet", "pipe"])
def test_the_field_that_all_inputs_have_is_offered_and_works(
    kind: str, run_prepare: RunPrepare, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    records = [{"id": f"{k}", "content": f"the text of {k}, which is long"} for k in range(3)]
    raw = "".join(json.dumps(record) + "\n" for record in records).encode()
    path = tmp_path / f"my data.{kind}"
    if kind == "parquet":
        write_table(path, **{name: [one[name] for one in records] for name in records[0]})
    elif kind == "pipe":
        os.mkfifo(path)
        threading.Thread(target=path.write_bytes, args=(raw,), daemon=True).start()
    else:
        pack = {"gz": gzip.compress, "zst": zstd.compress}.get(kind[6:], bytes)
        path.write_bytes(pack(raw))
    done = run_prepare("--input", path, "--output-dir", "out", "--val-split", "none")
    assert done.returncode == 3
    assert "'text' among its" in done.stderr
    assert "the text is in 'content' (strings are also in 'id')" in done.stderr
    (command,) = commands_in(done.stderr)
    assert command.endswith("--text-field content")
    if kind == "pipe":
        threading.Thread(target=path.write_bytes, args=(raw,), daemon=True).start()
    again = run_in_shell(command, tmp_path)
    assert again.returncode == 0, again.stderr
    assert documents_of(tmp_path / "out", gpt2) == [one["content"] for one in records]


def test_a_field_is_not_offered_that_other_inputs_have_for_something_else(
    run_prepare: RunPrepare, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    write_lines(tmp_path / "a.jsonl", {"text": "a long text, longer than its title", "content": "x"})
    write_lines(tmp_path / "b.jsonl", {"content": "the text of b"})
    options = ("--output-dir", "out", "--val-split", "none")
    done = run_prepare("--input", "a.jsonl", "b.jsonl", *options)
    assert done.returncode == 3
    assert "if the text is in 'text' or 'content', run:" in done.stderr
    (command,) = commands_in(done.stderr)
    assert command.endswith("--text-field text,content")
    again = run_in_shell(command, tmp_path)
    assert again.returncode == 0, again.stderr
    texts = ["a long text, longer than its title", "the text of b"]
    assert documents_of(tmp_path / "out", gpt2) == texts


@pytest.mark.skipif(not shutil.which("jq"), reason=NO_JQ)
def test_an_input_is_converted_where_no_list_of_fields_fits_all(
    run_prepare: RunPrepare, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    write_lines(tmp_path / "a.jsonl", {"text": "the text of a"})
    write_lines(tmp_path / "b.jsonl", {"text": 7, "content": "the text of b"})
    options = ("--output-dir", "out", "--val-split", "none")
    done = run_prepare("--input", "a.jsonl", "b.jsonl", *options)
    assert done.returncode == 3
    assert "--text-field" not in done.stderr
    (command,) = commands_in(done.stderr)
    assert run_in_shell(command, tmp_path).returncode == 0
    assert "read b.text.jsonl in its place" in done.stderr
    again = run_prepare("--input", "a.jsonl", "b.text.jsonl", *options)
    assert again.returncode == 0, again.stderr
    assert documents_of(tmp_path / "out", gpt2) == ["the text of a", "the text of b"]


def test_fields_of_lines_and_tables_that_differ_are_offered_together(
    run_prepare: RunPrepare, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    write_lines(tmp_path / "a.jsonl", {"content": "the text of a", "body": ""})
    write_table(tmp_path / "b.parquet", body=["the text of b"], id=[1])
    write_table(tmp_path / "c.parquet", meta=[{"text": "the text of c"}])
    (tmp_path / "d.jsonl").write_text(GOOD)
    options = ("--output-dir", "out", "--val-split", "none")
    done = run_prepare("--input", "a.jsonl", "b.parquet", "c.parquet", "d.jsonl", *options)
    assert done.returncode == 3
    assert "3 of 4 inputs cannot be read as they are:" in done.stderr
    assert "\nif the text is in 'text', 'content', 'body' or 'meta.text', run:" in done.stderr
    (command,) = commands_in(done.stderr)
    again = run_in_shell(command, tmp_path)
    assert again.returncode == 0, again.stderr
    texts = ["the text of a", "the text of b", "the text of c", "one good text"]
    assert documents_of(tmp_path / "out", gpt2) == texts


CHAT = [{"role": "user", "content": "Who is there,\nplease?"}, {"role": "assistant", "content": "A \u20ac"}]
CHAT_TEXT = "Who is there,\nplease?\nA \u20ac"
PARTS = [{"role": "user", "content": [{"type": "text", "text": "See:"}, {"type": "text", "text": "this"}]}]
ELSEWHERE = {
    "chat": ({"id": "abc", "messages": CHAT}, CHAT_TEXT),
    "sharegpt": ({"talk": [{"by": "human", "say": "Who is it?"}, {"by": "me", "say": "I"}]}, "Who is it?\nI"),
    "list in an object": ({"id": 1, "my data": {"the \"text\"": ["two", "words"]}}, "two\nwords"),
    "keyword": ({"and": {"if": ["then"]}}, "then"),
    "a comma in a name": ({"my data": {"a,b": "one"}}, "one"),
    "list": ({"id": "abc", "text": ["one", "two words"]}, "one\ntwo words"),
    "number": ({"text": 1234, "other": 5.5}, "1234"),
}  # fmt: skip
NESTED = {
    "nested": ({"id": "abc", "meta": {"text": "it's nested", "lang": "en"}}, "it's nested", "meta.text"),
    "odd names": ({"my data": {'the "text"': "quoted", "and": ""}}, "quoted", 'my data.the "text"'),
    "a dash": ({"-m": {"x": {"y": "deep"}}}, "deep", "-m.x.y"),
    "a dot in a name": ({"meta": {"the.text": "dotted"}}, "dotted", "meta.the.text"),
    "object": ({"id": "abcdefghijklm", "text": {"en": "hello"}}, "hello", "text.en"),
    "another case": ({"id": "abcdefghijklm", "Text": "hello"}, "hello", "Text"),
}
ONLY_LINES = {
    "parts": ({"messages": PARTS}, "See:\nthis"),
    "some parts": ({"messages": [*PARTS, *CHAT]}, f"See:\nthis\n{CHAT_TEXT}"),
    "line is a list": (["one", "two"], "one\ntwo"),
    "line is a string": ("one", "one"),
    "two levels": ({"pages": [["a", "b"], ["c"]]}, "a\nb\nc"),
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "arrow"])
@pytest.mark.parametrize("name", NESTED)
def test_a_text_in_an_object_comes_with_the_option_that_finds_it(
    name: str, kind: str, run_prepare: RunPrepare, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    record, text, field = NESTED[name]
    path = tmp_path / f"it's.{kind}"
    if kind == "jsonl":
        write_lines(path, record, record)
    else:
        write_records(path, record, record)
    done = run_prepare("--input", path, "--output-dir", "out", "--val-split", "none")
    assert done.returncode == 3
    assert f"the text is in {field!r}" in done.stderr
    (command,) = commands_in(done.stderr)
    assert "--text-field" in command
    again = run_in_shell(command, tmp_path)
    assert again.returncode == 0, (command, again.stderr)
    assert documents_of(tmp_path / "out", gpt2) == [text, text]


@pytest.mark.skipif(not shutil.which("jq"), reason=NO_JQ)
@pytest.mark.parametrize("field", ["messages.content", "messages.0.content", "messages"])
def test_a_way_through_a_list_is_refused_with_a_jq_line(
    field: str, run_prepare: RunPrepare, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    record = {"summary": "much longer than the messages " * 9, "messages": CHAT}
    path = write_lines(tmp_path / "a.jsonl", record)
    done = run_prepare(
        "--input", path, "--output-dir", "out", "--val-split", "none", "--text-field", f"text,{field}"
    )
    assert done.returncode == 3
    (command,) = commands_in(done.stderr)
    assert "jq -c " in command
    again = run_in_shell(command, tmp_path)
    assert again.returncode == 0, (command, again.stderr)
    assert documents_of(tmp_path / "out", gpt2) == [CHAT_TEXT]


@pytest.mark.sample(5)
@pytest.mark.skipif(not shutil.which("jq"), reason=NO_JQ)
@pytest.mark.parametrize(
    ("name", "kind"),
    [("chat", "jsonl.gz"), ("chat", "jsonl.zst"), *((name, "jsonl") for name in ELSEWHERE | ONLY_LINES)],
)
def test_lines_with_their_text_elsewhere_come_with_a_jq_line_that_works(
    name: str, kind: str, run_prepare: RunPrepare, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    record, text = (ELSEWHERE | ONLY_LINES)[name]
    path = write_lines(tmp_path / "it's.jsonl", record, record)
    if kind != "jsonl":
        subprocess.run(["gzip" if kind.endswith("gz") else "zstd", "-q", path], check=True)
    done = run_prepare("--input", f"it's.{kind}", "--output-dir", "out", "--val-split", "none")
    assert done.returncode == 3
    (command,) = commands_in(done.stderr)
    assert "jq -c " in command
    again = run_in_shell(command, tmp_path)
    assert again.returncode == 0, (command, again.stderr)
    assert documents_of(tmp_path / "out", gpt2) == [text, text]


@pytest.mark.sample(3)
@pytest.mark.parametrize("kind", ["parquet", "stream.arrow", "file.arrow"])
@pytest.mark.parametrize("name", ELSEWHERE)
def test_tables_with_their_text_elsewhere_come_with_a_line_that_works(
    name: str, kind: str, run_prepare: RunPrepare, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    record, text = ELSEWHERE[name]
    path = write_records(tmp_path / f"it's.{kind}", record, record)
    done = run_prepare("--input", path, "--output-dir", "out", "--val-split", "none")
    assert done.returncode == 3
    (command,) = commands_in(done.stderr)
    again = run_in_shell(command, tmp_path)
    assert again.returncode == 0, (command, again.stderr)
    assert documents_of(tmp_path / "out", gpt2) == [text, text]


def test_tables_in_text_with_different_columns_come_with_the_option_or_a_line_for_each(
    run_prepare: RunPrepare, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text('id,"the ""body"""\n1,"one, two\nthree"\n')
    options = ("--output-dir", "out", "--val-split", "none")
    refused = run_prepare("--input", "a.csv", *options)
    (command,) = commands_in(refused.stderr)
    assert "--text-field" in command
    again = run_in_shell(command, tmp_path)
    assert again.returncode == 0, (command, again.stderr)
    assert documents_of(tmp_path / "out", gpt2) == ["one, two\nthree"]
    (tmp_path / "b.tsv").write_text('text\tsome\tthe "body"\na\tb\tmuch longer than a\n')
    (tmp_path / "a.csv").write_text('id;body\n1;"one; ""two""\nthree"\n')
    refused = run_prepare("--input", "a.csv", "b.tsv", *options, "--overwrite")
    (command,) = commands_in(refused.stderr)
    again = run_in_shell(command, tmp_path)
    assert again.returncode == 0, (command, again.stderr)


def test_a_map_and_rows_of_null_are_converted_too(
    run_prepare: RunPrepare, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    kind = pyarrow.map_(pyarrow.string(), pyarrow.string())
    write_table(tmp_path / "a.parquet", text=pyarrow.array([[("k", "one"), ("l", "two")], None], kind))
    write_table(tmp_path / "b.parquet", text=pyarrow.array([7, None]))
    for name, text in (("a", "one\ntwo"), ("b", "7")):
        options = ("--output-dir", name, "--val-split", "none", "--skip-bad-records")
        done = run_prepare("--input", f"{name}.parquet", *options)
        (command,) = commands_in(done.stderr)
        again = run_in_shell(command, tmp_path)
        assert again.returncode == 0, (command, again.stderr)
        assert documents_of(tmp_path / name, gpt2) == [text]


@pytest.mark.skipif(not shutil.which("jq"), reason=NO_JQ)
def test_a_folder_of_chats_is_converted_in_one_command(
    run_prepare: RunPrepare, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    for k in range(12):
        write_lines(tmp_path / f"{k}.jsonl", {"messages": [{"role": "user", "content": f"chat {k}"}]})
    done = run_prepare(
        "--input", *(f"{k}.jsonl" for k in range(12)), "--output-dir", "out", "--val-split", "none"
    )
    assert "12 of 12 inputs" in done.stderr
    (command,) = commands_in(done.stderr)
    again = run_in_shell(command, tmp_path)
    assert again.returncode == 0, (command, again.stderr)
    assert documents_of(tmp_path / "out", gpt2) == [f"chat {k}" for k in range(12)]


@pytest.mark.skipif(not shutil.which("jq"), reason=NO_JQ)
def test_a_conversion_that_fails_half_way_is_no_complete_output(
    run_prepare: RunPrepare, tmp_path: Path
) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"text": ["one"]})
    done = run_prepare("--input", path, "--output-dir", "out")
    path.write_text(path.read_text() + "{broken\n" + path.read_text())
    (command,) = commands_in(done.stderr)
    again = run_in_shell(command, tmp_path)
    assert again.returncode == 3
    assert "line 2, at byte" in again.stderr
    assert not (tmp_path / "out" / "train.bin").exists()


NEARLY_LINES = {
    "two on a line": (b'{"text":"b"}{"text": "c, } {"} \r{"text":"d"}\n', ["b", "c, } {", "d"]),
    "commas": (b'{"text":"b,"},\n{"text":"c"} , {"text":"d"},\n', ["b,", "c", "d"]),
    "an array": (b'[\n{"text":"b"},\n{"text":"c"}\n]\n', ["b", "c"]),
    "an array on a line": (b'[{"text":"b"},{"text":"c"}]\n', ["b", "c"]),
    "indented": (b'{\n  "text": "b"\n}\n{\n  "text": "c"\n}\n', ["b", "c"]),
    "padding": (b"\0" * 100 + b'{"text":"b"}\n' + b"\0" * 70_000 + b"\n", ["b"]),
    "text sequence": (b'\x1e{"text":"b"}\n\x1e{"text":"c"}\n', ["b", "c"]),
    "mark": (b'\xef\xbb\xbf{"text":"b \xef\xbb\xbf"}\n', ["b \ufeff"]),
}


@pytest.mark.sample(3)
@pytest.mark.skipif(not shutil.which("jq"), reason=NO_JQ)
@pytest.mark.parametrize(
    ("name", "kind"), [("two on a line", "jsonl.gz"), *((name, "jsonl") for name in NEARLY_LINES)]
)
def test_nearly_json_lines_come_with_a_command_that_keeps_what_was_read_as_it_is(
    name: str, kind: str, run_prepare: RunPrepare, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    good = b'{"n":1.0,  "text":"caf\\u00e9 a"}\n' * 3
    lines, texts = NEARLY_LINES[name]
    pack = gzip.compress if kind.endswith("gz") else bytes
    (tmp_path / f"it's.{kind}").write_bytes(pack(good + lines + b'{"text":"last"}\n'))
    options = ("--output-dir", "out", "--val-split", "none")
    done = run_prepare("--input", f"it's.{kind}", *options)
    assert done.returncode == 3
    assert f"it's.{kind}: line 4, at byte {len(good)}: " in done.stderr
    (command,) = commands_in(done.stderr)
    assert run_in_shell(command, tmp_path).returncode == 0
    made = tmp_path / "it's.text.jsonl"
    assert f"and read {made.name} in its place, or skip such lines with --skip-bad-records" in done.stderr
    assert made.read_bytes().startswith(good)
    again = run_prepare("--input", made, *options)
    assert again.returncode == 0, again.stderr
    assert documents_of(tmp_path / "out", gpt2) == ["caf\xe9 a"] * 3 + texts + ["last"]


@pytest.mark.skipif(not shutil.which("jq"), reason=NO_JQ)
def test_the_command_overwrites_no_file(run_prepare: RunPrepare, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ["one", "two"]}\n', encoding="utf-8")
    (tmp_path / "a.text.jsonl").write_text("mine", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "sound"}\n', encoding="utf-8")
    done = run_prepare("--input", "a.jsonl", "b.jsonl", "--output-dir", "out")
    (command,) = commands_in(done.stderr)
    assert run_in_shell(command, tmp_path).returncode == 0
    assert (tmp_path / "a.text.jsonl").read_text(encoding="utf-8") == "mine"
    assert "read a.text-2.jsonl in its place" in done.stderr


@pytest.mark.sample(1)
@pytest.mark.skipif(not shutil.which("jq"), reason=NO_JQ)
@pytest.mark.parametrize("remedy", ["convert", "skip"])
@pytest.mark.parametrize("name", ["two on a line", "padding"])
def test_either_remedy_resumes_what_is_saved_and_ends_as_a_fresh_run(
    name: str, remedy: str, run_prepare: RunPrepare, tmp_path: Path
) -> None:
    lines, _ = NEARLY_LINES[name]
    good = b"".join(b'{"n":1.0,  "text":"caf\\u00e9 %d %s"}\n' % (k, b"words " * 50) for k in range(200))
    (tmp_path / "a.jsonl").write_bytes(good + lines + good)
    options = ("--val-split", "none", "--block-size", "5000")
    done = run_prepare("--input", "a.jsonl", "--output-dir", "out", *options)
    assert done.returncode == 3
    args: tuple[str, ...] = ("--input", "a.jsonl", *options, "--skip-bad-records")
    if remedy == "skip":
        assert "or skip such lines with --skip-bad-records" in done.stderr
    else:
        (command,) = commands_in(done.stderr)
        assert run_in_shell(command, tmp_path).returncode == 0
        args = ("--input", "a.text.jsonl", *options)
    again = run_prepare(*args, "--output-dir", "out")
    assert again.returncode == 0, again.stderr
    assert report_of(tmp_path / "out")["resumes"] == 1
    assert run_prepare(*args, "--output-dir", "fresh").returncode == 0
    assert (tmp_path / "out" / "train.bin").read_bytes() == (tmp_path / "fresh" / "train.bin").read_bytes()


@pytest.mark.skipif(not shutil.which("jq"), reason=NO_JQ)
@pytest.mark.parametrize("name", ["two on a line", "commas"])
def test_nearly_json_lines_from_the_first_line_on_are_found_before_anything_is_made(
    name: str, run_prepare: RunPrepare, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    lines, texts = NEARLY_LINES[name]
    (tmp_path / "a.jsonl").write_bytes(lines)
    done = run_prepare("--input", "a.jsonl", "--output-dir", "out", "--val-split", "none")
    assert done.returncode == 3
    assert not (tmp_path / "out").exists()
    (command,) = commands_in(done.stderr)
    again = run_in_shell(command, tmp_path)
    assert again.returncode == 0, again.stderr
    assert documents_of(tmp_path / "out", gpt2) == texts


def test_several_fields_of_strings_are_listed_and_another_case_comes_first(
    run_prepare: RunPrepare, tmp_path: Path
) -> None:
    write_lines(tmp_path / "a.jsonl", {"url": "http://", "Text": "short", "body": "a longer string"})
    done = run_prepare("--input", "a.jsonl", "--output-dir", "out")
    assert "if the text is in 'Text' (strings are also in 'body', 'url'), run:" in done.stderr
    assert commands_in(done.stderr)[0].endswith("--text-field Text")


def test_the_first_record_alone_may_be_odd_where_bad_ones_are_skipped(
    run_prepare: RunPrepare, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    odd = ['{"_meta": {"version": 1, "comment": "no document"}}\n', '{"text": null}\n', "\n \n{broken\n"]
    for k, line in enumerate(odd):
        (tmp_path / f"{k}.jsonl").write_text(line + GOOD)
    options = ("--input", *(f"{k}.jsonl" for k in range(3)), "--output-dir", "out", "--val-split", "none")
    done = run_prepare(*options)
    assert done.returncode == 3
    assert "2.jsonl: line 3, at byte 3: not JSON" in done.stderr
    assert done.stderr.count("fix the line, or skip such lines with --skip-bad-records\n") == 1
    assert not commands_in(done.stderr)
    again = run_prepare(*options, "--skip-bad-records")
    assert again.returncode == 0, again.stderr
    assert documents_of(tmp_path / "out", gpt2) == ["one good text"] * 3
    assert report_of(tmp_path / "out")["skipped_records"] == 3


def test_a_large_input_without_the_field_is_refused_where_bad_records_are_skipped_too(
    run_prepare: RunPrepare, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text(GOOD)
    write_lines(tmp_path / "b.jsonl", *[{"content": "x" * 1000}] * 2000)
    done = run_prepare("--input", "a.jsonl", "b.jsonl", "--output-dir", "out", "--skip-bad-records")
    assert done.returncode == 3
    assert "b.jsonl: none of its first 1,032 records has the field; line 1, at byte 0" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz"])
def test_a_first_record_of_megabytes_is_looked_through_to_its_end(
    kind: str, run_prepare: RunPrepare, tmp_path: Path
) -> None:
    pack = gzip.compress if kind.endswith("gz") else bytes
    long = json.dumps({"content": "long " * 500_000}).encode()
    last = json.dumps({"content": "long " * 500_000, "text": "at the end"}).encode()
    for content, code in ((b"\n" + long + b"\n", 3), (long, 3), (last, 0)):
        (tmp_path / f"a.{kind}").write_bytes(pack(content + b"\n" * (code == 0)))
        done = run_prepare("--input", f"a.{kind}", "--output-dir", "out", "--dry-run")
        assert done.returncode == code, done.stderr
        if code:
            assert "no field 'text' in this record" in done.stderr
            assert commands_in(done.stderr)[0].endswith("--text-field content")


def test_a_record_that_begins_a_stream_is_looked_at_and_not_lost(
    gpt2: tiktoken.Encoding, run_prepare: RunPrepare, tmp_path: Path
) -> None:
    fifo = tmp_path / "stream.jsonl"
    os.mkfifo(fifo)
    raw = "".join(json.dumps({"text": f"text {k}"}) + "\n" for k in range(50_000)).encode()
    threading.Thread(target=fifo.write_bytes, args=(raw,), daemon=True).start()
    done = run_prepare("--input", fifo, "--output-dir", "out", "--val-split", "none")
    assert done.returncode == 0, done.stderr
    assert documents_of(tmp_path / "out", gpt2) == [f"text {k}" for k in range(50_000)]


def test_a_chat_from_a_stream_is_refused_with_the_program(run_prepare: RunPrepare, tmp_path: Path) -> None:
    fifo = tmp_path / "stream.jsonl"
    os.mkfifo(fifo)
    raw = json.dumps({"messages": CHAT}).encode()
    threading.Thread(target=fifo.write_bytes, args=(raw,), daemon=True).start()
    done = run_prepare("--input", fifo, "--output-dir", "out")
    assert done.returncode == 3
    assert (
        "pipe it through this command first: jq -c '{text: ([.messages[]?.content] | join(\"\\n\"))}'"
        in done.stderr
    )


@pytest.mark.parametrize(
    "options", [[], ["--quiet"], ["--cluster", "local", "--merge", "--work-dir", "work"]]
)
def test_an_input_with_nothing_left_gets_a_warning(
    options: list[str], run_prepare: RunPrepare, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text(GOOD + "{broken\n")
    (tmp_path / "b.jsonl").write_text('\n{"text": null}\n[]\n{broken\n')
    write_table(tmp_path / "c.parquet", text=pyarrow.array([None, b"\xff"], pyarrow.binary()))
    write_table(tmp_path / "d.parquet", text=pyarrow.nulls(1))
    write_table(tmp_path / "e.parquet", text=pyarrow.array([], pyarrow.float64()))
    names = ("a.jsonl", "b.jsonl", "c.parquet", "d.parquet", "e.parquet")
    done = run_prepare("--input", *names, "--output-dir", "out", "--skip-bad-records", *options)
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: nothing is left of")]
    assert len(warnings) == 3
    assert warnings[0].endswith("b.jsonl: line 2, at byte 1: its field 'text' is null, not a string")
    assert "b.jsonl: 3 records were skipped, the first in " in warnings[0]
    assert "c.parquet: 2 records were skipped, the first in " in warnings[1]
    assert "d.parquet: 1 record was skipped, the first in " in warnings[2]
    found = report_of(tmp_path / "out")
    assert [one["skipped_records"] for one in found["inputs"]] == [1, 3, 2, 1, 0]
    assert found["skipped_records"] == 7


def test_a_column_of_nulls_among_other_inputs_does_not_stop_a_run(
    run_prepare: RunPrepare, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text(GOOD)
    write_table(tmp_path / "b.parquet", text=pyarrow.nulls(3), other=pyarrow.nulls(3))
    write_table(tmp_path / "c.parquet", text=pyarrow.nulls(0))
    write_table(tmp_path / "d.parquet", other=pyarrow.array([], pyarrow.int32()))
    names = ("a.jsonl", "b.parquet", "c.parquet", "d.parquet")
    done = run_prepare("--input", *names, "--output-dir", "out")
    assert done.returncode == 0, done.stderr
    message = "3 records were skipped, the first in b.parquet: row 0: its field 'text' is null"
    assert f"warning: nothing is left of b.parquet: {message}" in done.stderr
    assert report_of(tmp_path / "out")["documents"] == 1


def test_when_nothing_at_all_is_left_the_error_reports_how_many_were_skipped_and_why(
    run_prepare: RunPrepare, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n')
    (tmp_path / "b.jsonl").write_text('{broken\n{"content": 1}\n')
    done = run_prepare("--input", "a.jsonl", "b.jsonl", "--output-dir", "out", "--skip-bad-records")
    assert done.returncode == 3
    assert (
        "there is no text in a.jsonl and 1 more; 1 document is empty; 2 records were skipped, the first in "
        "b.jsonl: line 1, at byte 0: not JSON"
    ) in done.stderr


def test_ways_to_text_are_found_however_deep_it_is() -> None:
    deep: Any = "end"
    for _ in range(5000):
        deep = [deep]
    assert list(text_ways([deep, {"a": b"\xff", "b": b"caf\xc3\xa9"}]).values()) == [4, 3]
