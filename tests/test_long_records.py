"""A record that needs much memory: its tokens, or exit code 78 and the memory it needs, under any limit."""

import gzip
import json
import random
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tests.conftest import REPOSITORY
from tests.faults import Args, report_of, run, sha256s
from tests.test_cgroups import own_cgroup
from tests.test_memory_stop import BOTH_ENGINES, finish, start_with
from tests.texts import real_text, zstd

pytestmark = [pytest.mark.alone, pytest.mark.costly]

CONTENTS = ("ASCII", "escapes", "unicode escapes", "CJK", "one emoji", "spaces", "empty objects")


@cache
def prose() -> str:
    return real_text().decode("utf-8", "ignore")


def line_of(content: str, n_bytes: int) -> bytes:
    """Return a JSON object of about `n_bytes` bytes."""
    ascii_prose = prose().encode("ascii", "ignore").decode().replace("\r", "")

    def repeat(part: str) -> str:
        return (part * (n_bytes // len(part) + 1))[:n_bytes]

    if content == "empty objects":
        return b'{"text": "short", "x": [' + b"{}," * (n_bytes // 3) + b"{}]}"
    if content == "unicode escapes":
        return b'{"text": "' + b"\\u5929\\u5730\\u7384\\u9ec4\\uff0c" * (n_bytes // 30) + b'"}'
    texts: dict[str, Callable[[], str]] = {
        "ASCII": lambda: repeat(" ".join(ascii_prose.replace("\\", "").replace('"', "").split())),
        "escapes": lambda: repeat(ascii_prose.replace(" ", '\n "'))[: n_bytes * 9 // 10],
        "CJK": lambda: repeat("\u5929\u5730\u7384\u9ec4\uff0c")[: n_bytes // 3],
        "one emoji": lambda: repeat(ascii_prose.replace('"', "").replace("\n", " ")) + "\U0001f600",
        "spaces": lambda: "a" + " " * n_bytes + "b",
    }
    return json.dumps({"text": texts[content]()}, ensure_ascii=False).encode()


def write_lines(path: Path, long: bytes) -> Path:
    """Write a long line among short ones."""
    short = b"".join(json.dumps({"text": f"Number {k}."}).encode() + b"\n" for k in range(3))
    path.write_bytes(short + long + b"\n" + short)
    return path


def write_rows(path: Path, long: str, **options: object) -> Path:
    texts = ["Number 0.", "Number 1.", "Number 2.", long, "Number 4."]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, **options)
    return path


@dataclass(frozen=True)
class Done:
    returncode: int
    stderr: str


def prepare_within(limit: str, limit_bytes: int, *args: str | Path) -> Done:
    """Run the program in a memory cgroup of its own, or with `--max-memory`, or below a resource limit."""
    command = [sys.executable, str(REPOSITORY / "prepare.py"), *map(str, args)]
    if limit == "--max-memory":
        command += [limit, str(limit_bytes)]
    if limit == "RLIMIT_DATA":
        command = ["prlimit", f"--data={limit_bytes}", *command]
    if limit != "cgroup":
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        return Done(done.returncode, done.stderr)
    with own_cgroup(limit_bytes) as cgroup:
        process = cgroup.run(command)
        _, stderr = process.communicate(timeout=300)
        assert cgroup.n_killed() == 0
        return Done(process.returncode, stderr)


def whole(path: Path, folder: Path) -> dict[str, str]:
    """Return the checksums of the output made with all the memory of this machine."""
    done = run("--input", path, "--output-dir", folder, "--engine", "gigatoken")
    assert done.returncode == 0, done.stderr
    return sha256s(folder)


LIMITS = ("cgroup", "cgroup", "--max-memory", "RLIMIT_DATA")


@pytest.mark.sample(3)
@pytest.mark.parametrize("seed", range(8))
def test_a_long_line_gives_its_tokens_or_the_memory_it_needs(seed: int, tmp_path: Path) -> None:
    """Each seed draws a size, content, limit and engine; no run may be killed, or retry forever."""
    rng = random.Random(seed)
    content, limit = rng.choice(CONTENTS), rng.choice(LIMITS)
    size_mb, limit_mb = rng.choice([5, 12, 20, 25, 60]), rng.choice([120, 150, 200, 300, 500])
    engine = rng.choice(["tiktoken", "gigatoken", "auto"]) if size_mb < 25 else "gigatoken"
    path = write_lines(tmp_path / "a.jsonl", line_of(content, size_mb * 1_000_000))
    args: Args = ("--input", path, "--output-dir", tmp_path / "out", "--engine", engine)
    done = prepare_within(limit, limit_mb * 1_000_000, *args)
    if done.returncode == 0:
        assert sha256s(tmp_path / "out") == whole(path, tmp_path / "whole")
        return
    assert done.returncode == 78, (content, size_mb, limit, limit_mb, engine, done.stderr)
    assert "will not help" in done.stderr
    if "the smallest settings need" not in done.stderr:
        assert f"{path}: line 4, at byte {path.read_bytes().index(b'{', 50):,}" in done.stderr
        assert f"{path.stat().st_size / 1e6:.0f}"[:1] in done.stderr


def test_a_line_of_20_mb_of_prose_is_read_within_150_mb(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", line_of("escapes", 20_000_000))
    args: Args = ("--input", path, "--output-dir", tmp_path / "out", "--engine", "tiktoken")
    done = prepare_within("cgroup", 150_000_000, *args)
    assert done.returncode == 0, done.stderr
    assert sha256s(tmp_path / "out") == whole(path, tmp_path / "whole")


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
def test_the_saved_work_is_finished_with_the_memory_that_the_message_names(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    long = line_of("escapes", 30_000_000)
    if kind == "parquet":
        write_rows(path, json.loads(long)["text"], row_group_size=2)
    else:
        write_lines(path, long)
    if kind == "jsonl.gz":
        path.write_bytes(gzip.compress(path.read_bytes(), 1))
    out = tmp_path / "out"
    args: Args = ("--input", path, "--output-dir", out, "--engine", "tiktoken")
    done = prepare_within("--max-memory", 140_000_000, *args)
    assert done.returncode == 78, done.stderr
    assert "saved: " in done.stderr  # the records before it
    place = "a page of 2 rows, from row 2 (of row group 1" if kind == "parquet" else "line 4, at byte"
    assert f"{path}: {place}" in done.stderr
    command = shlex.split(done.stderr.splitlines()[-1])
    assert command[-2] == "--max-memory"
    done = Done(*_run(command))
    assert done.returncode == 0, done.stderr
    assert report_of(out)["resumes"] == 1
    assert sha256s(out) == whole(path, tmp_path / "whole")


def _run(command: list[str]) -> tuple[int, str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stderr


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "options",
    [
        {"compression": "none", "use_dictionary": False},
        {"compression": "snappy"},
        {"compression": "zstd", "data_page_version": "2.0"},
        {"row_group_size": 1},
    ],
)
@pytest.mark.parametrize("limit_mb", [150, 200, 300])
def test_a_long_row_gives_its_tokens_or_the_memory_it_needs(
    options: dict[str, object], limit_mb: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.parquet"
    write_rows(path, json.loads(line_of("ASCII", 20_000_000))["text"], **options)
    args: Args = ("--input", path, "--output-dir", tmp_path / "out", "--engine", "tiktoken")
    done = prepare_within("cgroup", limit_mb * 1_000_000, *args)
    if done.returncode == 0:
        assert sha256s(tmp_path / "out") == whole(path, tmp_path / "whole")
    else:
        assert done.returncode == 78, done.stderr
        assert re.search(rf"{path}: (a page of \d rows, from )?row ", done.stderr)
        assert "MB of memory; cgroup" in done.stderr


def test_many_long_rows_are_held_one_by_one(tmp_path: Path) -> None:
    """They follow many short rows, several of which are read at a time."""
    text = json.loads(line_of("ASCII", 4_000_000))["text"]
    texts = ["short"] * 200 + [text[k:] for k in range(40)] + ["short"] * 200
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": texts})
    pyarrow.parquet.write_table(table, path, use_dictionary=False, write_batch_size=1)
    args: Args = ("--input", path, "--output-dir", tmp_path / "out", "--engine", "gigatoken")
    done = prepare_within("cgroup", 500_000_000, *args, "--max-memory", "450M")
    assert done.returncode == 0, done.stderr
    assert report_of(tmp_path / "out")["guard"]["state_changes"] == 0


def test_a_text_that_a_dictionary_holds_once_is_not_held_many_times(tmp_path: Path) -> None:
    text = json.loads(line_of("ASCII", 5_000_000))["text"]
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["short"] * 200 + [text] * 60}), path)
    args: Args = ("--input", path, "--output-dir", tmp_path / "out", "--engine", "gigatoken")
    done = prepare_within("cgroup", 400_000_000, *args)
    assert done.returncode == 0, done.stderr
    assert report_of(tmp_path / "out")["documents"] == 260


def test_a_text_that_is_too_long_for_a_row_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.parquet", "x" * 150_000_000, row_group_size=1)
    done = prepare_within("cgroup", 200_000_000, "--input", path, "--output-dir", tmp_path / "out")
    assert done.returncode == 3, done.stderr
    assert f"{path}, row 3 (of row group 3, whose column begins at byte" in done.stderr
    assert "has 150 MB, but the limit is 67.1 MB" in done.stderr


def test_a_window_of_zstd_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    parameters = {zstd.CompressionParameter.compression_level: 1, zstd.CompressionParameter.window_log: 27}
    text = prose().encode()
    path.write_bytes(zstd.compress(text * (160_000_000 // len(text)), options=parameters))
    args: Args = ("--input", path, "--output-dir", tmp_path / "out", "--engine", "tiktoken")
    done = prepare_within("cgroup", 170_000_000, *args, "--n", "1")
    assert done.returncode == 78, done.stderr
    assert f"{path}: a zstd frame, at byte 0, has a window of 134 MB" in done.stderr
    assert "compress the text again without --long or --ultra" in done.stderr


@pytest.mark.slow
def test_a_span_with_a_long_line_fails_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    short = b'{"text": "A line of a few words."}\n' * 30_000  # 1 MB
    path.write_bytes(short + line_of("ASCII", 40_000_000) + b"\n" + short)
    shared: Args = ("--input", path, "--output-dir", tmp_path / "out", "--work-dir", tmp_path / "work")
    rank: Args = (*shared, "--rank", "0", "--world-size", "1", "--span-size", "500K", "--engine", "tiktoken")
    done = prepare_within("--max-memory", 150_000_000, *rank)
    assert done.returncode == 78, done.stderr
    assert re.search(r"span 2 \(bytes [\d,]+ to [\d,]+ of .*: line [\d,]+, at byte 1,050,000,", done.stderr)
    assert "counted from byte" in done.stderr
    assert "split the record" not in done.stderr  # a changed input needs a new plan
    again = run(*rank, "--max-memory", "400M")
    assert again.returncode == 0, again.stderr
    assert run(*shared, "--merge").returncode == 0
    assert sha256s(tmp_path / "out") == whole(path, tmp_path / "whole")


def test_without_msgspec_too_the_message_names_the_file(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", line_of("empty objects", 12_000_000))
    args: Args = ("--input", path, "--output-dir", tmp_path / "out", "--max-memory", "250M")
    code, stderr = finish(start_with("import sys; sys.modules['msgspec'] = None", *args))
    assert code == 78, stderr
    assert f"{path}: line 4, at byte" in stderr
    assert "has 12.0 MB, which needs up to 3" in stderr


GROWS_AT_ONCE = f"""{BOTH_ENGINES}
import time
kept = []
def grow():
    while True:
        kept.append(bytearray(b"x") * 3_000_000)
        time.sleep(0.01)
before_each_block(grow)
"""
GROWS_SLOWLY = GROWS_AT_ONCE.replace("while True", "for _ in range(4)")


@pytest.mark.parametrize("settings", [(), ("--workers", "1", "--block-size", "128KiB")])
def test_the_smallest_settings_do_not_advise_themselves(settings: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(prose().encode()[:3_000_000])
    args: Args = ("--input", path, "--output-dir", tmp_path / "out", "--max-memory", "300M", *settings)
    code, stderr = finish(start_with(GROWS_AT_ONCE, *args))
    if settings:
        assert code == 78, stderr
        assert "Nothing could be written, with the smallest settings: allow more memory" in stderr
        assert "resume" not in stderr
    else:
        assert code == 75, stderr
        assert "resume with smaller settings:" in stderr
        assert stderr.splitlines()[-1].endswith("--workers 1 --block-size 128KiB")


def test_a_run_that_advances_with_the_smallest_settings_is_to_be_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes((prose().encode() * 4)[:4_000_000])
    args: Args = ("--input", path, "--output-dir", tmp_path / "out", "--max-memory", "300M")
    small = ("--workers", "1", "--block-size", "128KiB")
    process = start_with(GROWS_SLOWLY, *args, *small)
    code, stderr = finish(process)
    assert code == 75, stderr
    assert "smaller settings will not help" in stderr
    assert stderr.splitlines()[-1].endswith("--workers 1 --block-size 128KiB")
    assert "saved: " in stderr
