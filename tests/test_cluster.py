"""Many processes, some of them killed, make the output of one: local processes, ranks, and a Dask cluster."""

import gzip
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow
import pyarrow.parquet
import pytest

from nanogpt_compat.cluster import driver, worker
from nanogpt_compat.cluster import plan as plan_module
from nanogpt_compat.cluster.parts import parts_folder, spans_to_do
from nanogpt_compat.cluster.plan import Plan, read_plan
from nanogpt_compat.cluster.worker import Outcome, attempt
from nanogpt_compat.config import Config
from nanogpt_compat.encoders.vocabulary import find_gpt2
from nanogpt_compat.errors import (
    CheckpointError,
    MemoryLimitError,
    OutputError,
    PrepareError,
    TooSmallError,
    UsageError,
)
from nanogpt_compat.input.location import Format, Input
from nanogpt_compat.input.parquet import Parquet, TextColumn
from nanogpt_compat.input.rows import RowGroup
from nanogpt_compat.options import parse_options
from nanogpt_compat.resolve import resolve
from nanogpt_compat.system.ranks import rank_of
from tests import faults
from tests.conftest import REPOSITORY
from tests.faults import TIMEOUT_S, Args, lasting, make_text, prepare, report_of, sha256s
from tests.pages import blocks, read
from tests.servers import serve
from tests.test_records import some_documents, write
from tests.texts import real_text

pytestmark = pytest.mark.costly

RANK: Args = ("--rank", "0", "--world-size", "1")

SMALL: Args = ("--span-size", "300k", "--block-size", "50k")


def start(*args: str | Path, **settings: Any) -> "subprocess.Popen[str]":
    """Start the program as a user does."""
    return subprocess.Popen(
        [sys.executable, REPOSITORY / "prepare.py", *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )


def run(*args: str | Path, **settings: Any) -> "subprocess.CompletedProcess[str]":
    with start(*args, **settings) as process:
        try:
            stdout, stderr = process.communicate(timeout=TIMEOUT_S)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def wait_for(what: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def plan_in(work_dir: Path) -> Plan:
    plan = read_plan(work_dir)
    assert plan is not None
    return plan


def n_parts(work_dir: Path) -> int:
    return len(list(work_dir.glob("parts-*/*.json")))


def of_one_machine(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a report that does not depend on the number of machines."""
    return {name: value for name, value in lasting(report).items() if name not in ("cluster", "versions")}


def assert_indexed(work: Path, expected: Path) -> None:
    """Check that the parts, in the order of index.json, and the report are those of one machine."""
    index = json.loads((work / "index.json").read_text())
    for split in ("train", "val"):
        files = [one for one in index["files"] if one["split"] == split]
        tokens = b"".join((work / one["name"]).read_bytes() for one in files)
        path = expected / f"{split}.bin"
        assert tokens == (path.read_bytes() if path.exists() else b"")
        assert len(tokens) == sum(one["bytes"] for one in files) == 2 * sum(one["tokens"] for one in files)
    assert of_one_machine(index) | {"files": []} == of_one_machine(report_of(expected)) | {"files": []}


def assert_merged(out: Path, expected: Path, work_dir: Path) -> None:
    """Check that files and report are those of one machine, and that the work folder is empty."""
    assert sha256s(out) == sha256s(expected)
    assert of_one_machine(report_of(out)) == of_one_machine(report_of(expected))
    assert not list(work_dir.glob("*"))


def make_inputs(folder: Path, kind: str) -> Args:
    """Inputs of a kind, and the options that go with them."""
    documents = some_documents()
    if kind == "text":
        return ("--input", make_text(folder / "a.txt", 1_500_000, seed=1, n_invalid=20))
    if kind == "texts":
        sizes = (400_000, 0, 700_000, 1_000)
        paths = [make_text(folder / f"{k}.txt", size, seed=k) for k, size in enumerate(sizes)]
        return ("--input", *paths)
    if kind == "text.gz":
        paths = [make_text(folder / f"{k}.txt", 500_000, seed=k) for k in range(2)]
        packed = folder / "b.txt.gz"
        packed.write_bytes(gzip.compress(paths[1].read_bytes(), 1))
        return ("--input", paths[0], packed, "--val-split", "none")
    if kind == "separator":
        path = folder / "a.txt"
        lines = real_text()[:1_500_000].decode("utf-8", "ignore").splitlines()
        path.write_bytes(b"\n\n" + "\r\n\r\n".join(lines).encode() + b"\n\n\n")
        return ("--input", path, "--document-separator", r"\n\n")
    if kind == "all":
        some = [write(folder, kind, documents) for kind in ("jsonl.gz", "parquet", "jsonl")]
        return ("--input", *some, make_text(folder / "a.txt", 400_000), "--document-separator", r"\n")
    return ("--input", write(folder, kind, ["", "", *documents]))


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "kind", ["text", "texts", "text.gz", "separator", "jsonl", "parquet", "jsonl.zst", "csv", "arrow", "all"]
)
def test_processes_make_what_one_makes(kind: str, tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path, kind)
    if kind != "text.gz":  # it has none for validation
        inputs = (*inputs, "--val-ratio", "0.02")
    one, many, work = (tmp_path / name for name in ("one", "many", "work"))
    assert prepare(*inputs, *SMALL, "--output-dir", one).returncode == 0
    shared: Args = (*inputs, *SMALL, "--work-dir", work, "--output-dir", many)
    done = run(*shared, "--cluster", "local", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert not many.exists()
    plan = plan_in(work)
    assert n_parts(work) == len(plan.spans)
    assert_indexed(work, one)
    merged = prepare(*shared, "--merge")
    assert merged.returncode == 0, merged.stderr
    assert_merged(many, one, work)
    assert report_of(many)["cluster"]["plan"] == plan.hash
    again = prepare(*shared, "--merge")
    assert again.returncode == 0, again.stderr
    assert "already complete" in again.stderr
    verified = prepare(*inputs, *SMALL, "--output-dir", many, "--verify")
    assert verified.returncode == 0, verified.stderr


@pytest.mark.parametrize("span_size", ["3k", "100k", "10M"])
@pytest.mark.parametrize("kind", ["separator", "jsonl", "parquet", "arrow"])
def test_any_size_of_spans_makes_the_same(kind: str, span_size: str, tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path, kind)
    if span_size == "3k":  # only a small text: each span takes some milliseconds
        (path := Path(inputs[1])).write_bytes(path.read_bytes()[:60_000].rpartition(b"\n")[0])
        if kind in ("parquet", "arrow"):
            path = write(tmp_path, kind, some_documents()[:60])
        inputs = ("--input", path, *inputs[2:])
    options: Args = (*inputs, "--val-ratio", "0.05", "--engine", "tiktoken")
    one, many, work = (tmp_path / name for name in ("one", "many", "work"))
    assert prepare(*options, "--output-dir", one).returncode == 0
    shared: Args = (*options, "--work-dir", work, "--output-dir", many, "--span-size", span_size)
    for rank in range(3):
        done = prepare(*shared, "--rank", str(rank), "--world-size", "3")
        assert done.returncode == 0, done.stderr
    merged = prepare(*shared, "--merge")
    assert merged.returncode == 0, merged.stderr
    assert_merged(many, one, work)


def slow_inputs(folder: Path) -> Args:
    """A text in 25 spans that takes one process some seconds."""
    path = make_text(folder / "a.txt", 15_000_000, seed=3)
    return ("--input", path, "--engine", "tiktoken", "--span-size", "600k")


def one_machine(folder: Path, options: Args) -> Path:
    """Make the output of one machine."""
    done = prepare(*options, "--output-dir", folder / "one", every_bytes=10_000_000)
    assert done.returncode == 0, done.stderr
    return folder / "one"


def children_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Return the workers, without the process that multiprocessing has for cleaning up after them."""
    children = psutil.Process(process.pid).children()
    return [one for one in children if "spawn_main" in " ".join(one.cmdline())]


def test_a_worker_that_is_killed_costs_one_span(tmp_path: Path) -> None:
    options = slow_inputs(tmp_path)
    work, out = tmp_path / "work", tmp_path / "many"
    args: Args = (*options, "--work-dir", work, "--output-dir", out, "--cluster", "local", "--workers", "2")
    with start(*args, "--merge") as process:
        for n_done in (1, 5, 9):
            wait_for(lambda n=n_done: n_parts(work) >= n, process)  # type: ignore[misc]
            children_of(process)[0].kill()
        _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, stderr
    assert 1 <= stderr.count("BrokenProcessPool") <= 3, stderr  # one that is killed between spans costs none
    assert_merged(out, one_machine(tmp_path, options), work)


def test_a_driver_that_is_killed_takes_its_workers_along_and_the_next_one_resumes(tmp_path: Path) -> None:
    options = slow_inputs(tmp_path)
    work, out = tmp_path / "work", tmp_path / "many"
    args: Args = (*options, "--work-dir", work, "--output-dir", out, "--cluster", "local", "--workers", "2")
    with start(*args) as process:
        wait_for(lambda: n_parts(work) >= 3, process)
        workers = children_of(process)
        second = run(*args)
        assert second.returncode == 4
        assert "in use by another run" in second.stderr
        process.kill()
    assert len(workers) == 2
    assert not psutil.wait_procs(workers, timeout=TIMEOUT_S)[1]
    done = sorted(path.name for path in work.glob("parts-*/*.json"))
    with start(*args) as process:
        wait_for(lambda: n_parts(work) >= len(done) + 3, process)
        workers = children_of(process)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == -signal.SIGTERM
    assert stderr.splitlines()[-1] == "prepare: stopped by SIGTERM"
    assert not psutil.wait_procs(workers, timeout=TIMEOUT_S)[1]
    last = run(*args, "--merge")
    assert last.returncode == 0, last.stderr
    assert_merged(out, one_machine(tmp_path, options), work)


def test_an_interrupt_from_the_terminal_ends_workers_that_have_just_been_started_without_a_traceback(
    tmp_path: Path,
) -> None:
    args: Args = (*slow_inputs(tmp_path), "--work-dir", tmp_path / "work", "--output-dir", tmp_path / "many")
    with start(*args, "--cluster", "local", "--workers", "2", start_new_session=True) as process:
        wait_for(lambda: len(children_of(process)) == 2, process)
        workers = children_of(process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == -signal.SIGINT
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1] == "prepare: stopped by SIGINT"
    assert not psutil.wait_procs(workers, timeout=TIMEOUT_S)[1]


def small_run(folder: Path, *more: str) -> tuple[Args, Path]:
    """The options of a run in ten spans, planned, and its work folder."""
    path = make_text(folder / "a.txt", 100_000, seed=2)
    args: Args = ("--input", path, "--engine", "tiktoken", "--val-ratio", "0.1", "--span-size", "10k", *more)
    work = folder / "work"
    args = (*args, "--work-dir", work, "--output-dir", folder / "many")
    planned = prepare(*args, "--rank", "99", "--world-size", "100")  # there is no span for it
    assert planned.returncode == 0, planned.stderr
    return args, work


def test_a_bad_record_fails_its_span_alone_and_its_place_is_named(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"document {k} " * 20}) for k in range(400)]
    lines[300] = "{broken"
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines) + "\n")
    args: Args = ("--input", path, "--work-dir", tmp_path / "work", "--output-dir", tmp_path / "many")
    args = (*args, "--engine", "tiktoken", "--span-size", "10k")
    done = run(*args, "--cluster", "local", "--workers", "2")
    assert done.returncode == 6
    byte = sum(len(line) + 1 for line in lines[:300])
    assert f"at byte {byte:,}" in done.stderr
    assert str(path) in done.stderr
    assert "(lines are counted from byte" in done.stderr
    assert (
        "begins); give --skip-bad-records to skip such lines" in done.stderr
    )  # a plan is for a file as it is
    assert f") failed on {platform.node()}: " in done.stderr
    assert len([*spans_to_do(tmp_path / "work", plan_in(tmp_path / "work"), config_of(args))]) == 1
    merged = run(*args, "--merge")
    assert merged.returncode == 6
    assert "1 of" in merged.stderr
    assert not (tmp_path / "many").exists() or not list((tmp_path / "many").iterdir())
    before = sidecars(tmp_path / "work")
    assert prepare(*args, *RANK, "--skip-bad-records").returncode == 0
    after = sidecars(tmp_path / "work")
    assert len(after.items() - before.items()) == 1  # nothing was skipped in the others
    assert prepare(*args, "--merge").returncode == 6
    assert prepare(*args, "--merge", "--skip-bad-records").returncode == 0
    one = one_machine(tmp_path, (*args[:2], "--engine", "tiktoken", "--skip-bad-records"))
    assert_merged(tmp_path / "many", one, tmp_path / "work")


def test_a_part_in_which_bytes_were_dropped_counts_only_under_the_policy_it_names(tmp_path: Path) -> None:
    args, work = small_run(tmp_path)
    text = bytearray((tmp_path / "a.txt").read_bytes())
    text[text.index(b" ", 42_000)] = 0xFF  # not within a longer character, where more would be dropped
    (tmp_path / "a.txt").write_bytes(text)
    shutil.rmtree(work)
    assert prepare(*args, *RANK).returncode == 0
    before = sidecars(work)
    replaces: Args = ("--errors", "replace")
    refused = prepare(*args, *replaces, "--merge")
    assert refused.returncode == 6
    assert "1 of 10 spans not done (4)" in refused.stderr
    assert prepare(*args, *replaces, *RANK).returncode == 0
    assert len(sidecars(work).items() - before.items()) == 1
    assert prepare(*args, *replaces, "--merge").returncode == 0
    one = one_machine(tmp_path, (*args[:6], *replaces))
    assert report_of(one)["invalid_bytes"] == 1
    assert_merged(tmp_path / "many", one, work)


def sidecars(work: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in work.glob("parts-*/*.json")}


def config_of(args: Args) -> Config:
    return resolve(parse_options([*map(str, args), "--merge"], home=None), home=None).config


def test_a_skipped_line_is_counted_from_the_beginning_of_its_file(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"document {k} " * 20}) for k in range(400)]
    lines[300] = "{broken"
    lines[7] = "[]"
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    args: Args = ("--input", tmp_path / "a.jsonl", "--engine", "tiktoken", "--skip-bad-records")
    one = one_machine(tmp_path, args)
    shared: Args = (*args, "--work-dir", tmp_path / "work", "--output-dir", tmp_path / "many")
    done = run(*shared, "--span-size", "5k", "--cluster", "local", "--workers", "1", "--merge")
    assert done.returncode == 0, done.stderr
    assert report_of(one)["skipped_records"] == 2
    assert_merged(tmp_path / "many", one, tmp_path / "work")


@pytest.mark.parametrize("change", ["options", "input", "version", "vocabulary"])
def test_another_plan_is_refused(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args, work = small_run(tmp_path)
    more: Args = ()
    if change == "options":
        more = ("--val-ratio", "0.2")
    elif change == "input":
        make_text(tmp_path / "a.txt", 100_000, seed=7)
    elif change == "version":
        monkeypatch.setattr(plan_module, "__version__", "9.9.9")
    else:
        monkeypatch.setattr(faults, "gpt2", lambda: replace(find_gpt2(), sha256="0" * 64))
        worker._open_engine.cache_clear()
    for how in (("--rank", "0", "--world-size", "1"), ("--cluster", "local"), ("--merge",)):
        done = prepare(*args, *more, *how)
        assert done.returncode == 5, done.stderr
        assert "plan.json was made for a different run: " in done.stderr
    worker._open_engine.cache_clear()
    assert not n_parts(work)


def test_advice_about_a_short_split_names_the_options_for_all_ranks(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"{k} words and numbers " * 200}) for k in range(20)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    rank: Args = ("--rank", "0", "--world-size", "1")
    args: Args = ("--input", tmp_path / "a.jsonl", "--work-dir", tmp_path / "w", "--output-dir", tmp_path)
    assert prepare(*args, *rank).returncode == 0
    done = prepare(*args, "--merge")
    found = re.search(r"val\.bin has \d+ tokens, .*: (--val-ratio \S+ --overwrite), for all", done.stderr)
    assert found, done.stderr
    more = found[1].split()
    assert prepare(*args, *rank, *more).returncode == 0
    done = prepare(*args, "--merge", *more)
    assert done.returncode == 0
    assert "warning" not in done.stderr
    assert report_of(tmp_path)["tokens"]["val"] > 1024


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"hash"'])
def test_a_damaged_plan_is_made_again_as_advised_and_the_parts_are_kept(
    tmp_path: Path, damage: bytes
) -> None:
    args, work = small_run(tmp_path)
    rank: Args = (*args, "--rank", "0", "--world-size", "1")
    assert prepare(*rank).returncode == 0
    parts = {path: path.stat().st_mtime_ns for path in work.glob("parts-*/*")}
    (work / "plan.json").write_bytes(damage)
    for how in (rank, (*args, "--merge")):
        done = prepare(*how)
        assert done.returncode == 5
        assert f"or remove {work / 'plan.json'} to make a new plan" in done.stderr
    (work / "plan.json").unlink()
    assert prepare(*rank).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in work.glob("parts-*/*")} == parts
    assert prepare(*args, "--merge").returncode == 0
    assert_merged(tmp_path / "many", one_machine(tmp_path, args[:6]), work)


def test_restart_starts_over_with_other_options(tmp_path: Path) -> None:
    args, work = small_run(tmp_path)
    options: Args = (*args[:4], "--val-ratio", "0.2")
    again: Args = (*options, *args[6:], "--cluster", "local", "--workers", "1", "--restart", "--merge")
    done = run(*again)
    assert done.returncode == 0, done.stderr
    assert_merged(tmp_path / "many", one_machine(tmp_path, options), work)


def test_files_that_are_there_are_refused_before_anything_is_done(tmp_path: Path) -> None:
    args, work = small_run(tmp_path)
    out = tmp_path / "many"
    out.mkdir(exist_ok=True)
    (out / "train.bin").write_bytes(b"another")
    args = (*args, "--cluster", "local", "--workers", "1", "--merge")
    for more in ((), ("--restart",)):
        refused = run(*args, *more)
        assert refused.returncode == 4
        assert f"{out / 'train.bin'} exists already; pass --overwrite" in refused.stderr
        assert not n_parts(work)
    done = run(*args, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert_merged(out, one_machine(tmp_path, args[:6]), work)


def test_an_engine_that_errs_on_one_span_makes_all_of_them_suspect(tmp_path: Path) -> None:
    pytest.importorskip("gigatoken")
    path = make_text(tmp_path / "a.txt", 200_000, seed=2)
    text = path.read_bytes()
    path.write_bytes(text[:150_000] + b" xylophonist " + text[150_000:])
    args: Args = ("--input", path, "--output-dir", tmp_path / "many", "--work-dir", tmp_path / "work")
    args = (*args, "--span-size", "20k")
    one = one_machine(tmp_path, ("--input", path, "--engine", "tiktoken"))
    # Each span's first block is checked as a whole.
    done = faults.run(*args, "--rank", "0", "--world-size", "1", errs_at="xylophonist")
    assert done.returncode == 0, done.stderr
    plan = plan_in(tmp_path / "work")
    parts = [json.loads(one.read_text()) for one in parts_folder(tmp_path / "work", plan).glob("*.json")]
    assert {part["engine"] for part in parts} == {"tiktoken"}
    merged = prepare(*args, "--merge")
    assert merged.returncode == 0, merged.stderr
    assert "gave other tokens than tiktoken" in report_of(tmp_path / "many")["engine_mismatch"]
    assert sha256s(tmp_path / "many") == sha256s(one)


def test_a_bad_line_after_an_engine_error_is_named_as_without_one(tmp_path: Path) -> None:
    pytest.importorskip("gigatoken")
    lines = [json.dumps({"text": f"Number {k} is as good as the others. " * 20}) for k in range(400)]
    lines[20] = json.dumps({"text": "a xylophonist"})
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([*lines, "not JSON"]), encoding="utf-8")
    args: Args = ("--input", path, "--output-dir", tmp_path / "many", "--work-dir", tmp_path / "work")
    args = (*args, "--block-size", "20k", "--rank", "0", "--world-size", "1")
    failed = [faults.run(*args, errs_at=word) for word in ("no such word", "xylophonist")]
    assert [done.returncode for done in failed] == [6, 6]
    for done in failed:
        assert "not JSON: Expecting value at character 1" in done.stderr
        assert "fix the line" not in done.stderr  # that would need another plan


def test_a_rank_that_is_killed_at_any_call_is_repeated(tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 60_000, seed=2)
    options: Args = ("--input", path, "--engine", "tiktoken", "--val-ratio", "0.3")
    one = one_machine(tmp_path, options)
    args: Args = (*options, "--span-size", "20k", "--output-dir", tmp_path / "many")
    rank = ("--rank", "0", "--world-size", "1")
    log = tmp_path / "log"
    assert faults.run(*args, *rank, "--work-dir", tmp_path / "logged", log=str(log)).returncode == 0
    calls = [line for line in log.read_text().splitlines() if not line.startswith("encode")]
    n_calls = len(calls)
    assert n_calls > 60
    work = tmp_path / "work"
    for index in range(0, n_calls, 9):
        done = faults.run(*args, *rank, "--work-dir", work, at="(?!encode).*", skip=index)
        assert done.returncode in (0, -9), done.stderr
    assert faults.run(*args, *rank, "--work-dir", work).returncode == 0
    assert prepare(*args, "--merge", "--work-dir", work).returncode == 0
    assert_merged(tmp_path / "many", one, work)


def test_a_merge_that_is_killed_at_any_call_resumes(tmp_path: Path) -> None:
    args, work = small_run(tmp_path)
    one = one_machine(tmp_path, args[:6])
    assert prepare(*args, "--rank", "0", "--world-size", "1").returncode == 0
    kept = tmp_path / "kept"
    shutil.copytree(work, kept)
    log = tmp_path / "log"
    every = 40_000
    assert faults.run(*args, "--merge", log=str(log), every_bytes=every).returncode == 0
    assert_merged(tmp_path / "many", one, work)
    n_calls = len(log.read_text().splitlines())
    n_resumed = 0
    for index in range(3, n_calls, 17):
        shutil.rmtree(tmp_path / "many", ignore_errors=True)
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(kept, work)
        killed = faults.run(*args, "--merge", at=".*", skip=index, every_bytes=every)
        assert killed.returncode == -9, killed.stderr
        again = faults.run(*args, "--merge", every_bytes=every)
        assert again.returncode == 0, again.stderr
        n_resumed += "resuming at" in again.stderr and "resuming at 0%" not in again.stderr
        assert_merged(tmp_path / "many", one, work)
    assert n_resumed


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "longer"])
def test_a_damaged_part_is_found_and_made_again(damage: str, tmp_path: Path) -> None:
    args, work = small_run(tmp_path)
    rank = ("--rank", "0", "--world-size", "1")
    assert prepare(*args, *rank).returncode == 0
    part = next(work.glob("parts-*/00000004.*.train.bin"))
    data = bytearray(part.read_bytes())
    data[100] ^= 1
    if damage == "gone":
        part.unlink()
    else:
        part.write_bytes({"flipped": data, "cut": data[:-2], "longer": data + b"\1\1"}[damage])
    done = prepare(*args, "--merge")
    assert done.returncode == 6
    assert f"{part} is missing or damaged; to make span 4 again, " in done.stderr
    assert not (tmp_path / "many" / "train.bin").exists()
    assert prepare(*args, *rank).returncode == 0
    assert prepare(*args, "--merge").returncode == 0
    assert_merged(tmp_path / "many", one_machine(tmp_path, args[:6]), work)


def test_the_last_rank_lists_the_parts_that_are_all_whole(tmp_path: Path) -> None:
    args, work = small_run(tmp_path)
    one = one_machine(tmp_path, args[:6])
    assert prepare(*args, "--rank", "1", "--world-size", "2").returncode == 0
    assert not (work / "index.json").exists()
    last = ("--rank", "0", "--world-size", "2")
    done = prepare(*args, *last)
    assert done.returncode == 0, done.stderr
    assert f"{work / 'index.json'} lists the parts in order" in done.stderr
    assert_indexed(work, one)
    part = next(work.glob("parts-*/00000004.*.train.bin"))
    part.write_bytes(part.read_bytes()[:-2])
    done = prepare(*args, *last)
    assert done.returncode == 6
    assert f"{part} is missing or damaged; to make span 4 again, " in done.stderr
    assert prepare(*args, *last).returncode == 0
    assert_indexed(work, one)


@pytest.mark.parametrize("how", [("--rank", "0", "--world-size", "1"), ("--cluster", "local"), ("--merge",)])
def test_after_the_merge_there_is_nothing_to_do(how: Args, tmp_path: Path) -> None:
    args, work = small_run(tmp_path)
    assert prepare(*args, "--rank", "0", "--world-size", "1").returncode == 0
    plan = (work / "plan.json").read_bytes()
    assert prepare(*args, "--merge").returncode == 0
    again = prepare(*args, *how)
    assert again.returncode == 0, again.stderr
    assert "already complete" in again.stderr
    assert not list(work.iterdir())
    (work / "plan.json").write_bytes(plan)  # from a task that began when the merge ended
    again = prepare(*args, *how)
    assert again.returncode == 0, again.stderr
    assert "already complete" in again.stderr
    assert how != ("--merge",) or not list(work.iterdir())


@pytest.mark.parametrize(
    "how", [("--rank", "0", "--world-size", "1"), ("--cluster", "local", "--workers", "1")]
)
def test_with_overwrite_ranks_or_processes_make_complete_output_again(how: Args, tmp_path: Path) -> None:
    args, work = small_run(tmp_path)
    out, one = tmp_path / "many", one_machine(tmp_path, args[:6])
    for _ in range(2):  # the second time like the first
        assert run(*args, *how, "--overwrite").returncode == 0
        assert n_parts(work)
        kept = {path.name for path in work.rglob("*.bin")}
        assert (
            run(*args, *how, "--overwrite").returncode == 0
        )  # finished spans are not repeated before the merge
        assert {path.name for path in work.rglob("*.bin")} == kept
        assert run(*args, "--merge", "--overwrite").returncode == 0
        assert_merged(out, one, work)


@pytest.mark.parametrize("error", [OutputError, CheckpointError, TooSmallError, MemoryLimitError])
def test_a_rank_ends_at_an_error_that_all_its_spans_would_meet(
    error: type[PrepareError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args, _ = small_run(tmp_path)
    tried: list[int] = []

    def fail(work_dir: str, index: int, *rest: Any) -> Outcome:
        tried.append(index)
        return Outcome(index, "a host", error="it cannot be", exit_code=error.exit_code)

    monkeypatch.setattr(driver, "attempt", fail)
    done = prepare(*args, "--rank", "3", "--world-size", "4")
    assert done.returncode == error.exit_code
    assert "it cannot be" in done.stderr
    assert tried == [3]


def test_a_stopped_run_of_one_machine_is_not_mixed_with_parts(tmp_path: Path) -> None:
    args, work = small_run(tmp_path)
    assert prepare(*args, "--rank", "0", "--world-size", "1").returncode == 0
    with pytest.raises(faults.Stopped):
        prepare(*args[:6], "--block-size", "5k", "--output-dir", tmp_path / "many", stop_after_bytes=50_000)
    refused = prepare(*args, "--merge")
    assert refused.returncode == 5
    assert "merge of plan" in refused.stderr
    assert prepare(*args, "--merge", "--restart").returncode == 0
    assert_merged(tmp_path / "many", one_machine(tmp_path, args[:6]), work)


@pytest.mark.parametrize(
    ("options", "environment", "expected"),
    [
        (("3", 4), {}, (3, 4)),
        (
            ("auto", None),
            {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_COUNT": "5"},
            (4, 5),
        ),
        (("auto", 128), {"SLURM_ARRAY_TASK_ID": "70", "SLURM_ARRAY_TASK_MIN": "64"}, (70, 128)),
        (
            ("auto", None),
            {"SLURM_ARRAY_TASK_ID": "17", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "2"},
            "--rank 14 of 2 does not exist.* give the --world-size of the whole array",
        ),
        (("auto", None), {"SLURM_PROCID": "2", "SLURM_NTASKS": "3"}, (2, 3)),
        (("auto", 7), {"JOB_COMPLETION_INDEX": "6"}, (6, 7)),
        (("auto", None), {"JOB_COMPLETION_INDEX": "6"}, "needs --world-size"),
        (("auto", None), {}, "none of SLURM_ARRAY_TASK_ID"),
        (("auto", 4), {"JOB_COMPLETION_INDEX": ""}, "JOB_COMPLETION_INDEX is '', which is not a number"),
        (
            ("auto", None),
            {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "one"},
            "SLURM_ARRAY_TASK_MIN is 'one'.*; give --rank",
        ),
        (("auto", None), {"SLURM_PROCID": "2", "SLURM_NTASKS": "3(x2)"}, "SLURM_NTASKS is '3\\(x2\\)'"),
        (
            ("auto", None),
            {"SLURM_PROCID": "0", "SLURM_NTASKS": "0"},
            "SLURM_NTASKS is '0'; it must be at least 1",
        ),
        (("auto", 3), {"JOB_COMPLETION_INDEX": "-1"}, "JOB_COMPLETION_INDEX is '-1'; it must be at least 0"),
        (("4", 4), {}, "--rank 4 of 4 does not exist"),
        (("x", 4), {}, "neither a number nor auto"),
        (("0", None), {}, "needs --world-size"),
    ],
)
def test_a_rank_comes_from_the_command_line_or_a_scheduler(
    options: tuple[str, int | None], environment: dict[str, str], expected: Any
) -> None:
    if isinstance(expected, tuple):
        assert rank_of(*options, environment) == expected
    else:
        with pytest.raises(UsageError, match=expected):
            rank_of(*options, environment)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--cluster", "local"), "need --work-dir"),
        (("--work-dir", "w"), "give --cluster, --rank or --merge"),
        (("--work-dir", "w", "--merge", "--n", "3"), "--n counts characters"),
        (("--work-dir", "w", "--merge", "--verify"), "are for one machine"),
        (("--work-dir", "w", "--rank", "0", "--world-size", "1", "--merge"), "--rank only encodes its spans"),
        (("--world-size", "64"), "give --rank R or --rank auto too"),
        (("--work-dir", "w", "--merge", "--world-size", "64"), "give --rank R or --rank auto too"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: tuple[str, ...], found: str, tmp_path: Path
) -> None:
    done = prepare("--input", make_text(tmp_path / "a.txt", 1000), *options)
    assert done.returncode == 2
    assert found in done.stderr


def test_inputs_in_which_no_span_could_begin_are_refused(tmp_path: Path) -> None:
    args: Args = ("--work-dir", tmp_path / "w", "--cluster", "local", "--input")
    packed = tmp_path / "a.txt.gz"
    packed.write_bytes(gzip.compress(real_text()[:10_000]))
    done = run(*args, packed)
    assert done.returncode == 2
    assert "give --val-split none, --document-separator or --one-document-per-file" in done.stderr
    done = run(*args, "-")
    assert done.returncode == 2, done.stderr
    assert "a pipe can be read by one process only" in done.stderr


def test_a_merge_without_a_plan_names_the_first_step(tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 1000)
    done = prepare("--input", path, "--work-dir", tmp_path / "w", "--merge", "--output-dir", tmp_path / "o")
    assert done.returncode == 6
    assert "run with --cluster or --rank first" in done.stderr


@pytest.mark.parametrize("form", ["npy", "llmc", "bin"])
def test_parts_become_shards_as_those_of_one_machine(form: str, tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl", some_documents()[:200])
    args: Args = ("--input", path, "--engine", "tiktoken", "--format", form, "--shard-tokens", "20000")
    one, many, work = (tmp_path / name for name in ("one", "many", "work"))
    assert prepare(*args, "--output-dir", one).returncode == 0
    shared: Args = (*args, "--span-size", "50k", "--work-dir", work, "--output-dir", many)
    assert prepare(*shared, "--rank", "0", "--world-size", "1").returncode == 0
    merged = prepare(*shared, "--merge")
    assert merged.returncode == 0, merged.stderr
    names = sorted(path.name for path in one.iterdir())
    assert len(names) > 3
    assert sorted(path.name for path in many.iterdir()) == names
    for name in set(names) - {"prepare.json"}:
        assert (many / name).read_bytes() == (one / name).read_bytes(), name
    assert of_one_machine(report_of(many)) == of_one_machine(report_of(one))


def test_inputs_on_a_server_are_read_in_spans_too(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    (folder := tmp_path / "served").mkdir()
    inputs = [make_text(folder / "a.txt", 400_000), write(folder, "parquet", some_documents()[:300])]
    one, many, work = (tmp_path / name for name in ("one", "many", "work"))
    options: Args = ("--document-separator", r"\n", "--val-ratio", "0.05", "--engine", "tiktoken")
    assert prepare("--input", *inputs, *options, "--output-dir", one).returncode == 0
    with serve(folder) as server:
        urls = [server.url(path.name) for path in inputs]
        shared: Args = ("--input", *urls, *options, "--work-dir", work, "--output-dir", many)
        for rank in ("0", "1"):
            done = prepare(*shared, "--span-size", "100k", "--rank", rank, "--world-size", "2")
            assert done.returncode == 0, done.stderr
        assert len(plan_in(work).spans) > 5
        merged = prepare(*shared, "--merge")
        assert merged.returncode == 0, merged.stderr
    assert sha256s(many) == sha256s(one)
    assert [row["path"] for row in report_of(many)["inputs"]] == urls


def recipe(word: str) -> str:
    """Return the recipe of docs/cluster.md that contains a word, for the files of this test."""
    found = blocks(read(REPOSITORY / "docs" / "cluster.md"), "sh")
    script = next(block for block in found if word in block)
    assert "'fineweb/*.parquet'" in script
    return script.replace("'fineweb/*.parquet'", "'fineweb/*.parquet' --span-size 300k")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder as in docs/cluster.md, and an srun that starts two tasks here."""
    for name in ("prepare.py", "nanogpt_compat"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / "fineweb").mkdir()
    documents = some_documents()
    for k in range(2):
        write(tmp_path / "fineweb", "parquet", documents[k::2], name=str(k))
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text('#!/bin/bash\nshift 2\n"$@" & "$@" & trap "kill $(jobs -p | xargs)" TERM\nwait\n')
    srun.chmod(0o755)
    return tmp_path


def shell(script: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a script to its end, and end its remaining processes."""
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    with subprocess.Popen(
        ["bash", "-ec", script + "\nkill $(jobs -p) 2>/dev/null || true\nwait\n"],
        cwd=folder,
        env=os.environ | {"PATH": path} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=TIMEOUT_S)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, output)


@pytest.mark.slow
def test_the_recipe_with_dask_makes_what_one_machine_makes(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    pytest.importorskip("distributed")
    done = shell(recipe("dask scheduler"), checkout)
    assert done.returncode == 0, done.stdout
    one = one_machine(checkout, ("--input", "fineweb/*.parquet"))
    assert_merged(checkout / "data", one, checkout / "work")


def test_the_recipe_with_an_array_makes_what_one_machine_makes(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    script = recipe("#SBATCH")
    for task in ("1", "2", "1"):  # one of them is requeued
        environment = {
            "SLURM_ARRAY_TASK_ID": task,
            "SLURM_ARRAY_TASK_MIN": "1",
            "SLURM_ARRAY_TASK_COUNT": "2",
        }
        done = shell(script, checkout, **environment)
        assert done.returncode == 0, done.stdout
    merged = shell(script.replace("--rank auto", "--merge"), checkout)
    assert merged.returncode == 0, merged.stdout
    one = one_machine(checkout, ("--input", "fineweb/*.parquet"))
    assert_merged(checkout / "data", one, checkout / "work")


def test_a_text_that_was_edited_between_two_spans_is_not_put_together(tmp_path: Path) -> None:
    """The edit is in place, of the same size and outside the samples, so that spans do not see it."""
    path = make_text(tmp_path / "a.txt", 3_000_000, seed=2)
    args: Args = ("--input", path, "--engine", "tiktoken", "--span-size", "300k", "--val-split", "none")
    args = (*args, "--work-dir", tmp_path / "work", "--output-dir", tmp_path / "many")
    assert prepare(*args, "--rank", "0", "--world-size", "2").returncode == 0
    place = place_without_samples(path, tmp_path)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"edited")
    last = prepare(*args, "--rank", "1", "--world-size", "2")
    assert last.returncode == 5, last.stderr  # it would have written the index
    merged = prepare(*args, "--merge")
    assert merged.returncode == 5, merged.stderr
    folder = parts_folder(tmp_path / "work", plan_in(tmp_path / "work"))
    assert f"{path} was changed within the 3,000,000 bytes already read" in merged.stderr
    assert f"after some of its spans were done; remove {folder}" in merged.stderr
    shutil.rmtree(folder)
    assert prepare(*args, *RANK).returncode == 0
    merged = prepare(*args, "--merge")
    assert merged.returncode == 0, merged.stderr
    assert "may have changed" in merged.stderr
    assert sha256s(tmp_path / "many") == sha256s(one_machine(tmp_path, args[:4] + args[6:8]))


def place_without_samples(path: Path, folder: Path) -> int:
    """Return a place in an even span where a plan does not notice an edit."""
    text = path.read_bytes()
    plan = plan_in(folder / "work")
    for place in range(10_000, 300_000, 10_000):
        path.write_bytes(text[:place] + b"edited" + text[place + 6 :])
        with suppress(CheckpointError):
            plan_module.check_inputs(plan, [Input(path, Format("text"))], folder)
            return place
    raise AssertionError("samples are everywhere")


def test_an_input_that_has_moved_is_read_where_it_is(tmp_path: Path) -> None:
    args, _ = small_run(tmp_path)
    assert prepare(*args, "--rank", "0", "--world-size", "2").returncode == 0
    moved = (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    args = (args[0], moved, *args[2:])
    for how in (("--rank", "1", "--world-size", "2"), ("--merge",)):
        done = prepare(*args, *how)
        assert done.returncode == 0, done.stderr
    assert sha256s(tmp_path / "many") == sha256s(one_machine(tmp_path, args[:6]))


def test_a_worker_reads_an_input_from_the_path_that_the_driver_sends(tmp_path: Path) -> None:
    args, work = small_run(tmp_path)
    plan, settings = plan_in(work), config_of(args)
    assert not attempt(str(work), 0, plan.hash, settings, tmp_path / "a.txt").error
    moved = (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    assert "No such file" in attempt(str(work), 1, plan.hash, settings, tmp_path / "a.txt").error
    assert plan_module.check_inputs(plan, [Input(moved, Format("text"))], work).inputs[0].location == moved
    assert not attempt(str(work), 1, plan.hash, settings, moved).error


def test_a_merged_run_took_from_its_first_span_to_the_end_of_its_merge(tmp_path: Path) -> None:
    args, work = small_run(tmp_path)
    assert prepare(*args, *RANK).returncode == 0
    for path in work.glob("parts-*/*.json"):
        part = json.loads(path.read_text())
        part["tally"]["wall_s"] = 5000.0
        path.write_text(json.dumps(part))
    assert prepare(*args, "--merge").returncode == 0
    report = report_of(tmp_path / "many")
    assert report["cluster"]["span_s"] == 50_000
    assert 5000 < report["wall_s"] < 5600  # they were at work at the same time


def test_row_groups_in_another_order_than_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": [f"document {k} " * 30 for k in range(300)]})
    with pyarrow.parquet.ParquetWriter(path, table.schema, compression="none", use_dictionary=False) as file:
        for first, n_rows in ((0, 10), (10, 20), (30, 30), (60, 40), (100, 50), (150, 60), (210, 90)):
            file.write_table(table.slice(first, n_rows))
    list_row_groups = TextColumn._list_row_groups

    def shuffled(column: TextColumn) -> tuple[RowGroup, ...]:
        groups = list_row_groups(column)
        starts = random.Random(1).sample([one.start for one in groups], len(groups))
        return tuple(replace(one, start=start) for one, start in zip(groups, starts, strict=True))

    monkeypatch.setattr(TextColumn, "_list_row_groups", shuffled)
    options: Args = ("--input", path, "--engine", "tiktoken", "--val-split", "none")
    assert prepare(*options, "--output-dir", tmp_path / "one").returncode == 0
    args: Args = (*options, "--work-dir", tmp_path / "work", "--output-dir", tmp_path / "many")
    done = prepare(*args, "--span-size", "9k", *RANK)
    assert done.returncode == 0, done.stderr
    merged = prepare(*args, "--merge")
    assert merged.returncode == 0, merged.stderr
    assert sha256s(tmp_path / "many") == sha256s(tmp_path / "one")
    monkeypatch.setattr(Parquet, "bounds", lambda *_: (0, 7))
    again = prepare(
        *args, "--span-size", "9k", *RANK, "--work-dir", tmp_path / "again", "--output-dir", tmp_path / "b"
    )
    assert again.returncode == 6
    assert "the span from 0 to 7 was read up to 300" in again.stderr


def test_an_unreadable_note_of_an_engine_that_erred_is_not_taken_for_none(tmp_path: Path) -> None:
    args, work = small_run(tmp_path)
    assert prepare(*args, *RANK).returncode == 0
    (parts_folder(work, plan_in(work)) / "mismatch").mkdir()
    merged = prepare(*args, "--merge")
    assert merged.returncode == 4
    assert "mismatch: Is a directory" in merged.stderr


def test_planning_can_be_stopped(tmp_path: Path) -> None:
    """The flag that a signal sets is read for each input, in a first plan and in a later check."""
    paths = [make_text(tmp_path / f"{k}.txt", 2000, seed=k) for k in range(5)]
    args: Args = ("--input", *paths, "--engine", "tiktoken", "--work-dir", tmp_path / "work", *RANK)
    for _ in range(2):
        n_checks = 0

        def check() -> None:
            nonlocal n_checks
            n_checks += 1
            if n_checks == 4:
                raise faults.Stopped

        with pytest.raises(faults.Stopped):
            prepare(*args, "--output-dir", tmp_path / "many", check=check)
        plan = read_plan(tmp_path / "work")
        assert plan is None or not n_parts(tmp_path / "work")
        if plan is None:
            assert (
                prepare(
                    *args[:-4], "--rank", "9", "--world-size", "10", *("--output-dir", tmp_path / "many")
                ).returncode
                == 0
            )
