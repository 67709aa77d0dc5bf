"""Inputs and options that may change between two runs: the result is that of a run from the beginning.

Any other change is refused with what differs, and nothing is changed.
"""

import csv
import gzip
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow
import pyarrow.parquet
import pytest

from nanogpt_compat import config
from nanogpt_compat.resume.checkpoint import load_tally, read_found
from nanogpt_compat.text.blocks import Position
from tests import faults
from tests.faults import Args, Expected, Outcome, Stopped, make_text, prepare
from tests.texts import zstd

pytestmark = pytest.mark.costly

BLOCKS: Args = ("--block-size", "2000")
NO_WINDOWS: Args = ("--val-split", "none")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def begin(out: Path, *args: str | Path, after_bytes: int = 1) -> Position:
    """Make a run that stops before its end; return the position."""
    with pytest.raises(Stopped):
        prepare(*args, *BLOCKS, "--output-dir", out, stop_after_bytes=after_bytes)
    return saved_position(out)


def saved_position(out: Path) -> Position:
    journal = out / ".prepare" / "journal"
    found = read_found(journal)
    assert found.header is not None
    n_inputs = len(found.header["inputs"])
    return load_tally(journal, n_inputs=n_inputs, end_byte=found.marks[-1].end_byte).position


def assert_resumes(out: Path, *args: str | Path, resumes: int = 1) -> Outcome:
    """Resume with these inputs and options; check that the result is that of a run from the beginning."""
    done = prepare(*args, *BLOCKS, "--output-dir", out)
    assert done.returncode == 0, done.stderr
    assert "resuming at" in done.stderr
    fresh = out.with_name("fresh")
    assert prepare(*args, "--output-dir", fresh).returncode == 0
    expected = Expected(faults.sha256s(fresh), faults.report_of(fresh), seconds=0)
    assert expected.assert_reached(out)["resumes"] == resumes
    shutil.rmtree(fresh)
    return done


def assert_refused(out: Path, *args: str | Path, why: str) -> None:
    """Check that a run is refused for this reason, and that nothing is lost."""
    before = files_below(out)
    done = prepare(*args, *BLOCKS, "--output-dir", out)
    assert done.returncode == 5, done.stderr
    assert why in done.stderr
    for message in (
        str(out / ".prepare"),
        "Run with the original input and settings",
        "--restart",
        "saved: ",
    ):
        assert message in done.stderr
    assert files_below(out) == before


def files_below(folder: Path) -> dict[str, bytes]:
    files = (one for one in folder.rglob("*") if one.is_file() and not one.name.startswith("lock."))
    return {str(one): one.read_bytes() for one in files}


def splice(path: Path, place: int, new: bytes, n_gone: int = 0) -> None:
    """Put other bytes into a file at a place."""
    raw = path.read_bytes()
    path.write_bytes(raw[:place] + new + raw[place + n_gone :])


# Text that is one stream


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return make_text(tmp_path / "a.txt", 20_000)


def test_a_cut_is_decided_again_by_the_character_after_it(text: Path, out: Path) -> None:
    args: Args = ("--input", text, *NO_WINDOWS)
    at = begin(out, *args).offset
    raw = text.read_bytes()
    splice(text, at, raw[at - 1 : at], 1)  # between equal characters there is no cut
    assert_refused(out, *args, why=f"{text} was changed just after the {at:,} bytes already read")
    text.write_bytes(raw)
    splice(text, at, b"\n\n and more ")
    assert_resumes(out, *args)


def test_text_may_change_its_size_only_if_no_window_moves(
    text: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = text.read_bytes()
    at = begin(out, "--input", text).offset
    splice(text, at + 100, b"some words more")
    assert_refused(out, "--input", text, why=f"{text} had 20,000 bytes and has 20,015")
    text.write_bytes(raw)
    splice(text, at + 100, b"of this size   ", 15)
    assert_resumes(out, "--input", text)
    shutil.rmtree(out)
    monkeypatch.setattr(config, "CHARS_PER_CHUNK", 10_000)  # the windows are in that many bytes of the text
    begin(out, "--input", text, "--n", "1")
    splice(text, at + 100, b"some words more")
    assert_resumes(out, "--input", text, "--n", "1")


def test_a_run_resumes_at_the_end_of_a_file_only_if_it_still_ends_there(
    tmp_path: Path, text: Path, out: Path
) -> None:
    other = make_text(tmp_path / "b.txt", 20_000, seed=1)
    args: Args = ("--input", text, other, *NO_WINDOWS)
    assert begin(out, *args, after_bytes=20_000).at_end
    raw = text.read_bytes()
    splice(text, 20_000, b" and more")
    assert_refused(out, *args, why=f"{text} ended after 20,000 bytes when it was read, and has grown since")
    text.write_bytes(raw)
    splice(other, 0, b"another one, which was not begun ", 100)
    assert_resumes(out, *args)


@pytest.mark.parametrize("new", [b" ", "\u00e9 ".encode(), b"\x80\x80"], ids=["cut", "character", "half"])
def test_a_forced_cut_is_decided_again_by_the_text_there(new: bytes, tmp_path: Path, out: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"begin" + "\u00e9".encode() * 700_000)
    args: Args = ("--input", path, *NO_WINDOWS, "--engine", "gigatoken")
    at = begin(out, *args, after_bytes=10_000)
    assert at.anchor < at.offset  # 512 KiB after the last exact cut, the beginning
    raw = path.read_bytes()
    if new != "\u00e9 ".encode():
        splice(path, at.offset, new, 2)
        assert_refused(out, *args, why="was changed just after")
        path.write_bytes(raw)
    splice(path, at.offset + 10, "\u00e9 ".encode(), 2)
    assert_resumes(out, *args)


def test_the_forced_cut_of_a_shortened_stretch_is_not_kept(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 1_200_000)
    args: Args = ("--input", path, *NO_WINDOWS, "--engine", "gigatoken")
    at = begin(out, *args, after_bytes=10_000)
    os.truncate(path, at.offset)
    assert_refused(out, *args, why="was changed just after")


# Documents in text

BLANK: Args = ("--document-separator", "\\n\\n")


def long_documents(path: Path) -> Path:
    """Write documents of 70 kB each, longer than a block."""
    words = " ".join(f"word{k % 97}" for k in range(10_000)).encode()
    path.write_bytes(b"".join(b"%d %s\n\n" % (k, words) for k in range(4)))
    return path


DASHES: Args = ("--document-separator", "- END")


def stop_after_a_dash(tmp_path: Path, out: Path, *args: str | Path) -> tuple[Path, int]:
    """Stop within a document, after the beginning of a separator: nearly all cuts are there."""
    path = tmp_path / "a.txt"
    path.write_bytes((b"- " + b"x" * 1000) * 300)
    at = begin(out, "--input", path, *DASHES, *args)
    assert path.read_bytes()[: at.offset].endswith(b"-")
    assert at.document
    return path, at.offset


def test_a_separator_that_would_lie_across_the_place_is_noticed(tmp_path: Path, out: Path) -> None:
    path, place = stop_after_a_dash(tmp_path, out)
    raw = path.read_bytes()
    splice(path, place, b" END", 4)
    assert_refused(out, "--input", path, *DASHES, why="was changed just after")
    path.write_bytes(raw)
    splice(path, place, b" AND", 4)
    assert_resumes(out, "--input", path, *DASHES)


def test_the_split_of_an_open_document_does_not_depend_on_its_unread_part(tmp_path: Path, out: Path) -> None:
    path = long_documents(tmp_path / "a.txt")
    args: Args = ("--input", path, *BLANK, "--val-ratio", "0.5")
    at = begin(out, *args)
    assert at.document
    assert at.offset >= 64 * 1024
    splice(path, at.offset, b" other words", 3000)
    assert_resumes(out, *args)


def test_an_open_document_must_continue(tmp_path: Path, out: Path) -> None:
    path = long_documents(tmp_path / "a.txt")
    args: Args = ("--input", path, *BLANK, "--val-ratio", "0.5")
    at = begin(out, *args)
    os.truncate(path, at.offset)
    assert_refused(out, *args, why="was changed just after")


@pytest.mark.parametrize("is_packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize(
    ("end", "more"),
    [(b"", b" and more"), (b"\r", b"\nand more"), (b"\n\n", b"and more")],
    ids=["text", "cr", "sep"],
)
def test_a_document_that_ended_with_the_file_must_still_end_with_it(
    end: bytes, more: bytes, is_packed: bool, tmp_path: Path, out: Path
) -> None:
    paths = [tmp_path / name for name in ("a.txt.gz", "b.txt.gz")]
    pack: Callable[[bytes], bytes] = gzip.compress if is_packed else bytes
    paths[0].write_bytes(pack(b"one\n\ntwo" + end))
    paths[1].write_bytes(pack(b"three " * 3000))
    args: Args = ("--input", *paths, *BLANK)
    begin(out, *args)
    paths[0].write_bytes(pack(b"one\n\ntwo" + end + more))
    assert_refused(out, *args, why="when it was read, and has grown since")


def test_a_line_feed_added_to_a_separators_carriage_return_is_no_second_line_end(
    tmp_path: Path, out: Path
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"some words\r\rand more words\r\r" * 1000)
    args: Args = ("--input", path, *BLANK)
    at = begin(out, *args)
    assert (at.after_cr, at.document) == (True, "")
    splice(path, at.offset, b"\nwords\n\n")
    assert_resumes(out, *args)


# Records


def lines_of(n: int, name: str = "document") -> list[bytes]:
    return [json.dumps({"text": f"{name} {k}, some words of it"}).encode() + b"\n" for k in range(n)]


def write_lines(path: Path, lines: Sequence[bytes]) -> Path:
    raw = b"".join(lines)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.fixture(params=["a.jsonl", "a.jsonl.gz"])
def bad_lines(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Write lines, the last but one of which is no document."""
    return write_lines(tmp_path / request.param, [*lines_of(998), b"{broken\n", *lines_of(1)])


def test_a_bad_line_near_the_end_costs_none_of_the_lines_read(bad_lines: Path, out: Path) -> None:
    args: Args = ("--input", bad_lines)
    stopped = prepare(*args, *BLOCKS, "--output-dir", out)
    assert stopped.returncode == 3
    assert re.search(r"^saved: \d+% \(", stopped.stderr, re.M)
    assert "once that is fixed, the same command resumes from there\n" in stopped.stderr
    write_lines(bad_lines, [*lines_of(998), b'{"text": "it is longer now"}\n', *lines_of(1)])
    assert_resumes(out, *args)


def test_a_bad_line_near_the_end_may_be_skipped_and_the_rest_is_kept(bad_lines: Path, out: Path) -> None:
    assert prepare("--input", bad_lines, *BLOCKS, "--output-dir", out).returncode == 3
    assert_resumes(out, "--input", bad_lines, "--skip-bad-records")


def test_skipping_may_be_turned_off_if_nothing_was_skipped(tmp_path: Path, out: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", lines_of(1000))
    begin(out, "--input", path, "--skip-bad-records")
    assert_resumes(out, "--input", path)
    shutil.rmtree(out)
    write_lines(path, [*lines_of(1), b"{broken\n", *lines_of(1000)])
    begin(out, "--input", path, "--skip-bad-records")
    why = "--skip-bad-records was given and is not given, but the saved part has 1 skipped record."
    assert_refused(out, "--input", path, why=why)


def test_a_last_line_that_had_no_line_end_must_not_continue(tmp_path: Path, out: Path) -> None:
    lines = lines_of(50)
    path = write_lines(tmp_path / "a.jsonl", [*lines[:-1], lines[-1][:-1]])
    other = write_lines(tmp_path / "b.jsonl", lines_of(1000))
    args: Args = ("--input", path, other)
    begin(out, *args, after_bytes=path.stat().st_size)
    splice(path, path.stat().st_size, b" ")  # the line is still the same document
    assert_refused(out, *args, why="when it was read, and has grown since")


def test_lines_after_the_place_may_be_added_and_removed(tmp_path: Path, out: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", lines_of(1000))
    begin(out, "--input", path, "--val-ratio", "0.1")
    write_lines(path, [*lines_of(500), b'{"text": "another"}\n', *lines_of(700)])
    assert_resumes(out, "--input", path, "--val-ratio", "0.1")


def test_another_share_of_documents_for_validation_is_refused(tmp_path: Path, out: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", lines_of(20_000))
    begin(out, "--input", path)
    write_lines(path, lines_of(200_000))  # a smaller share of more lines suffices
    assert_refused(out, "--input", path, why="the share of documents for validation was ")


def write_rows(
    path: Path, values: Sequence[str | None], *, row_group_size: int = 100, codec: str = "none"
) -> Path:
    table = pyarrow.table({"text": pyarrow.array(values, pyarrow.string())})
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=row_group_size, compression=codec)
        return path
    options = pyarrow.ipc.IpcWriteOptions(compression=None if codec == "none" else codec)
    with pyarrow.ipc.new_stream(str(path), table.schema, options=options) as file:
        file.write_table(table, max_chunksize=row_group_size)
    return path


VALUES = [f"document {k}, some words of it" for k in range(1000)]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_rows_before_the_place_must_be_the_same_but_may_be_stored_differently(
    name: str, tmp_path: Path, out: Path
) -> None:
    path = write_rows(tmp_path / name, VALUES)
    args: Args = ("--input", path)
    n_rows = begin(out, *args).records
    assert 0 < n_rows < 500
    write_rows(path, [*VALUES[:500], "another", *VALUES[600:]], row_group_size=77, codec="zstd")
    assert_resumes(out, *args)


@pytest.mark.parametrize(
    "change",
    [
        lambda values: [values[0] + values[1][:1], values[1][1:], *values[2:]],
        lambda values: [values[0] + values[1], "", *values[2:]],
        lambda values: ["", values[0], *values[1:]],
        lambda values: [None, *values[1:]],
    ],
    ids=["boundary", "joined", "empty", "null"],
)
@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_the_same_text_in_other_rows_is_refused(
    change: Callable[[list[str]], list[str | None]], name: str, tmp_path: Path, out: Path
) -> None:
    values = ["", *VALUES] if change([""] * 3)[0] is None else VALUES
    path = write_rows(tmp_path / name, values)
    args: Args = ("--input", path, "--skip-bad-records")
    n_rows = begin(out, *args).records
    write_rows(path, change([*values]))
    assert_refused(out, *args, why=f"was changed within the {n_rows:,} rows already read")


# CSV


def write_csv(path: Path, texts: Sequence[str]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "text"), *enumerate(texts)])
    return path


QUOTED = [f'document {k},\nsome "words" of it' for k in range(1000)]


def test_records_after_the_place_may_be_added_and_removed(tmp_path: Path, out: Path) -> None:
    path = write_csv(tmp_path / "a.csv", QUOTED)
    args: Args = ("--input", path, "--val-split", "none")
    at = begin(out, *args)
    assert path.read_bytes()[at.offset - 2 : at.offset] == b"\r\n"
    write_csv(path, [*QUOTED[:500], "another", *QUOTED[700:], 'and "one" more'])
    assert_resumes(out, *args)


@pytest.mark.parametrize("change", [("id,", "no,"), ("document 0", "document O"), ('""words""', "w")])
def test_records_before_the_place_must_be_the_same(
    change: tuple[str, str], tmp_path: Path, out: Path
) -> None:
    path = write_csv(tmp_path / "a.csv", QUOTED)
    args: Args = ("--input", path, "--val-split", "none", "--text-field", "text")
    n_bytes = begin(out, *args).offset
    path.write_bytes(path.read_text().replace(*change, 1).encode())
    assert_refused(out, *args, why=f"was changed within the {n_bytes:,} bytes already read")


# Compressed text


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst"])
def test_a_truncated_file_is_resumed_once_it_is_fetched_again(name: str, tmp_path: Path, out: Path) -> None:
    path = tmp_path / name
    raw = make_text(tmp_path / "raw", 9_000_000).read_bytes()
    packed = gzip.compress(raw) if name.endswith("gz") else in_zstd(raw)
    path.write_bytes(packed[: len(packed) * 4 // 5])
    stopped = prepare("--input", path, "--output-dir", out, "--block-size", "200000")
    assert stopped.returncode == 3
    assert "fetch or make the file again" in stopped.stderr
    assert "once that is fixed, the same command resumes from there" in stopped.stderr
    path.write_bytes(packed)
    assert_resumes(out, "--input", path)


def in_zstd(raw: bytes) -> bytes:
    return bytes(zstd.compress(raw))


def test_a_stream_may_be_compressed_differently(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "a.txt.gz"
    raw = make_text(tmp_path / "raw", 60_000).read_bytes()
    path.write_bytes(gzip.compress(raw, 1))
    begin(out, "--input", path, *NO_WINDOWS)
    path.write_bytes(gzip.compress(raw[:-9], 9))
    assert_resumes(out, "--input", path, *NO_WINDOWS)


# Several inputs


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [write_lines(tmp_path / f"{k}.jsonl", lines_of(300 + k, f"file {k} line")) for k in range(3)]


def test_inputs_after_the_current_one_may_be_added_removed_and_replaced(
    paths: list[Path], tmp_path: Path, out: Path
) -> None:
    size = paths[0].stat().st_size
    extra = write_lines(tmp_path / "extra.jsonl.gz", lines_of(7))
    for later in ([paths[2], extra], [extra], []):
        at = begin(out, "--input", *paths, after_bytes=size + 1000)
        assert at.input_index == 1
        assert_resumes(out, "--input", *paths[:2], *later)
        shutil.rmtree(out)


def test_inputs_up_to_the_current_one_must_be_given_in_their_order(paths: list[Path], out: Path) -> None:
    size = paths[0].stat().st_size
    begin(out, "--input", *paths, after_bytes=size + 1000)
    why = "the number of inputs was 3, is 1, but the saved part comes from the first 2"
    assert_refused(out, "--input", paths[0], why=why)
    assert_refused(out, "--input", paths[1], paths[0], why=f"{paths[1]} was changed within")
    splice(paths[0], size, b"\n")
    assert_refused(out, "--input", *paths, why=f"{paths[0]} ended after {size:,} bytes when it was read")


def test_an_input_that_was_empty_must_still_be(tmp_path: Path, out: Path) -> None:
    empty = write_lines(tmp_path / "empty.jsonl", [])
    path = write_lines(tmp_path / "a.jsonl", lines_of(500))
    begin(out, "--input", empty, path)
    write_lines(empty, lines_of(1))
    assert_refused(out, "--input", empty, path, why=f"{empty} ended after 0 bytes when it was read")


def test_an_input_that_was_not_begun_may_be_fixed(paths: list[Path], out: Path) -> None:
    write_lines(paths[2], [*lines_of(3), b"{broken\n"])
    stopped = prepare("--input", *paths, *BLOCKS, "--output-dir", out)
    assert stopped.returncode == 3
    assert saved_position(out).input_index == 1
    write_lines(paths[2], lines_of(4))
    assert_resumes(out, "--input", *paths)


def test_an_error_that_keeps_a_run_from_resuming_costs_nothing(paths: list[Path], out: Path) -> None:
    begin(out, "--input", *paths)
    raw = paths[2].read_bytes()
    splice(paths[2], 0, b"{broken\n")
    before = files_below(out)
    stopped = prepare("--input", *paths, *BLOCKS, "--output-dir", out)
    assert stopped.returncode == 3
    assert re.search(r"^saved: \S+ tokens, kept as before$", stopped.stderr, re.M)
    assert files_below(out) == before
    paths[2].write_bytes(raw)
    assert_resumes(out, "--input", *paths)


def test_the_same_lines_may_be_stored_differently_but_not_as_a_table(tmp_path: Path, out: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", lines_of(500))
    args: Args = ("--val-split", "none")
    begin(out, "--input", path, *args)
    table = write_rows(tmp_path / "a.parquet", [json.loads(line)["text"] for line in lines_of(500)])
    assert_refused(out, "--input", table, *args, why=f"{table} was jsonl and is parquet")
    packed = write_lines(tmp_path / "a.jsonl.gz", lines_of(500))
    assert_resumes(out, "--input", packed, *args)


@pytest.mark.parametrize("kind", ["text", "documents", "lines"])
def test_no_end_is_saved_for_an_input_that_grows_while_it_is_read(
    kind: str, tmp_path: Path, out: Path
) -> None:
    """The message advises to wait until the writing is done; running again then resumes."""
    path = make_text(tmp_path / "a.txt", 12_000_000)  # more than it reads ahead
    if kind == "lines":
        words = path.read_bytes().decode(errors="ignore")
        texts = (words[k : k + 5000] for k in range(0, len(words), 5000))
        path = write_lines(
            tmp_path / "a.jsonl", [json.dumps({"text": text}).encode() + b"\n" for text in texts]
        )
    args: Args = ("--input", path, *{"text": NO_WINDOWS, "documents": BLANK, "lines": ()}[kind])
    options: Args = ("--block-size", "20000", "--output-dir", out)
    process = faults.start(*args, *options, at="encode text", do="SIGSTOP")
    faults.wait_until_stopped(process)
    with path.open("ab") as file:
        file.write(lines_of(1)[0])
    done = faults.let_finish(process)
    assert done.returncode == 3
    assert "something is writing to it; wait until that is done" in done.stderr
    assert not saved_position(out).at_end
    assert_resumes(out, *args)


# Options for faults


@pytest.mark.sample(4)
@pytest.mark.parametrize(("old", "new"), [*permutations(("ignore", "replace", "strict"), 2)])
@pytest.mark.parametrize("separator", [(), BLANK], ids=["one stream", "documents"])
def test_the_policy_for_undecodable_bytes_may_change_if_there_were_none(
    old: str, new: str, separator: Args, text: Path, out: Path
) -> None:
    args: Args = ("--input", text, *separator)
    at = begin(out, *args, "--errors", old, after_bytes=5_000)
    splice(text, at.offset + 4_000, b"\xff", 1)
    if new != "strict":
        assert_resumes(out, *args, "--errors", new)
        return
    done = prepare(*args, *BLOCKS, "--output-dir", out, "--errors", new)
    assert done.returncode == 3
    assert "--errors ignore drops such bytes" in done.stderr
    assert_resumes(out, *args, "--errors", "ignore", resumes=2)


def test_the_policy_for_undecodable_bytes_must_not_change_once_it_was_applied(text: Path, out: Path) -> None:
    splice(text, 100, b"\xff", 1)
    begin(out, "--input", text)
    why = "--errors was ignore and is replace, but the saved part has 1 invalid byte."
    assert_refused(out, "--input", text, "--errors", "replace", why=why)
    assert_resumes(out, "--input", text)


def test_the_new_policy_decides_about_a_separator_across_the_place(tmp_path: Path, out: Path) -> None:
    path, place = stop_after_a_dash(tmp_path, out, "--errors", "replace")
    splice(path, place, b" \xffEND", 5)  # across the place only if the byte is ignored
    args: Args = ("--input", path, *DASHES)
    assert_refused(out, *args, "--errors", "ignore", why="was changed just after")
    assert_resumes(out, *args, "--errors", "replace")


# The journal of a run that was changed


def headers(out: Path) -> list[dict[str, Any]]:
    lines = (out / ".prepare" / "journal").read_bytes().splitlines()
    return [record for line in lines if "options" in (record := json.loads(line[9:]))]


def test_a_change_is_in_the_journal_with_the_first_checkpoint_after_it(
    paths: list[Path], tmp_path: Path, out: Path
) -> None:
    size = paths[0].stat().st_size
    begin(out, "--input", *paths, after_bytes=1000)
    begin(out, "--input", *paths[:2], after_bytes=size)
    assert [len(one["inputs"]) for one in headers(out)] == [3, 2]
    assert_refused(out, "--input", paths[1], why=f"{paths[1]} was changed within")
    begin(out, "--input", *paths[:2], "--skip-bad-records", after_bytes=size + 1000)
    assert [len(one["inputs"]) for one in headers(out)] == [3, 2, 2]
    assert_resumes(out, "--input", *paths[:2], resumes=3)


@pytest.mark.parametrize("is_before", [False, True])
def test_from_a_checkpoint_before_a_change_it_still_ends_as_from_the_beginning(
    is_before: bool, text: Path, out: Path
) -> None:
    """The last checkpoints do not match the files, as if the disk had lost writes."""
    args: Args = ("--input", text, *NO_WINDOWS)
    first = begin_often(out, *args, after_bytes=6_000)
    splice(text, first.offset, b" edited once", 12)
    begin_often(out, *args, "--errors", "replace", after_bytes=12_000)
    found = read_found(out / ".prepare" / "journal")
    assert len(headers(out)) == 2
    lost = next(k for k, mark in enumerate(found.marks) if mark.end_byte > found.header_end_byte)
    lost += -1 if is_before else 1
    assert 1 < lost < len(found.marks) - 1
    n_tokens = found.marks[lost].segment.tokens["train"]
    os.truncate(out / ".prepare" / "train.bin.partial", 2 * n_tokens - 2)
    done = prepare(*args, *BLOCKS, "--output-dir", out, "--errors", "replace")
    assert done.returncode == 0, done.stderr
    fresh = out.with_name("fresh")
    assert prepare(*args, "--output-dir", fresh, "--errors", "replace").returncode == 0
    expected = Expected(faults.sha256s(fresh), faults.report_of(fresh), seconds=0)
    n_fallbacks = sum(mark.segment.tokens.get("train", 0) >= n_tokens for mark in found.marks)
    expected.assert_reached(out, fallbacks=n_fallbacks)


def begin_often(out: Path, *args: str | Path, after_bytes: int) -> Position:
    """Like `begin`, with a checkpoint after nearly every block."""
    with pytest.raises(Stopped):
        prepare(*args, *BLOCKS, "--output-dir", out, stop_after_bytes=after_bytes, every_bytes=1000)
    return saved_position(out)


def test_a_changed_run_stopped_before_its_first_checkpoint_has_changed_nothing(text: Path, out: Path) -> None:
    args: Args = ("--input", text, *NO_WINDOWS)
    at = begin(out, *args)
    splice(text, at.offset + 100, b"edited")
    for at_call in ("write journal", "fdatasync journal"):
        done = faults.run(*args, "--output-dir", out, at=at_call)
        assert done.returncode == -9
        assert len(headers(out)) <= 2
    assert_resumes(out, *args, resumes=1)


# All input is read, only the final names are missing


@pytest.fixture
def unnamed(text: Path, out: Path) -> Args:
    args: Args = ("--input", text, *NO_WINDOWS)
    assert faults.run(*args, "--output-dir", out, at="rename train.bin.partial").returncode == -9
    return args


def test_the_input_of_a_finished_run_must_be_the_same(unnamed: Args, text: Path, out: Path) -> None:
    raw = text.read_bytes()
    splice(text, 10_000, b"?", 1)
    assert_refused(out, *unnamed, why="was changed within the 20,000 bytes already read")
    text.write_bytes(raw + b" and more")
    assert_refused(out, *unnamed, why="when it was read, and has grown since")
    text.write_bytes(raw)
    assert_resumes(out, *unnamed)


def test_a_finished_run_may_still_get_another_input(
    unnamed: Args, text: Path, tmp_path: Path, out: Path
) -> None:
    other = make_text(tmp_path / "b.txt", 5_000, seed=1)
    assert_resumes(out, "--input", text, other, *NO_WINDOWS)


def test_a_run_killed_between_two_names_resumes_with_another_option(text: Path, out: Path) -> None:
    args: Args = ("--input", text)
    assert faults.run(*args, "--output-dir", out, at="rename train.bin.partial").returncode == -9
    assert (out / "val.bin").exists()
    assert_resumes(out, *args, "--errors", "replace")


def test_paths_may_change_while_only_the_names_are_missing(
    unnamed: Args, text: Path, tmp_path: Path, out: Path
) -> None:
    text.rename(tmp_path / "moved.txt")
    assert_resumes(out, "--input", tmp_path / "moved.txt", *NO_WINDOWS)


# A limit on characters


def test_the_place_is_decided_again_once_enough_was_read(text: Path, out: Path) -> None:
    with patch.object(config, "CHARS_PER_CHUNK", 5_000):
        args: Args = ("--input", text, "--n", "1")
        at = begin(out, *args, after_bytes=5_000).offset
        raw = text.read_bytes()
        splice(text, at, raw[at - 1 : at], 1)
        assert_refused(out, *args, why="was changed just after")
        text.write_bytes(raw)
        splice(text, at + 10, b"edited", 6)
        assert_resumes(out, *args)


def test_advice_to_start_over_names_the_tokens_it_discards(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"One document.<|endoftext|>\n" * 20_000)
    args: Args = ("--input", path, *BLOCKS, "--output-dir", out)
    with pytest.raises(Stopped):
        prepare(*args, stop_after_bytes=100_000)
    n_tokens = sum(read_found(out / ".prepare" / "journal").tokens.values())
    stderr = prepare(*args).stderr
    assert f"start over with (which discards {n_tokens:,} saved tokens):" in stderr
    shutil.rmtree(out)
    assert "start over with:" in prepare(*args).stderr
