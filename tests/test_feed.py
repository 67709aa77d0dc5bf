"""`--progress json`: a program that starts this one reads every line, and relies on the last one."""

import itertools
import json
import os
import select
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nanogpt_compat.system.feed import Feed
from nanogpt_compat.system.progress import Moment
from tests import faults
from tests.conftest import REPOSITORY
from tests.disks import tool
from tests.faults import Args, make_text, report_of, sha256s
from tests.pages import blocks, section

pytestmark = pytest.mark.costly

NUMBERS = {
    *("percent", "bytes", "bytes_total", "tokens", "bytes_per_s", "left_s", "memory_bytes"),
}
FIELDS = {"state", *NUMBERS, "exit_code", "message", "forecast"}
UNDER_WAY = ("preparing", "running", "merging", "shuffling", "finishing", "saving")
ENDS = {"done", "complete", "stopped", "memory", "failed"}

Line = dict[str, Any]


def lines_in(stdout: str) -> list[Line]:
    """Parse the output of a run, as a wrapper does, and check the rules for every run."""
    assert stdout.endswith("\n")
    assert stdout.isascii()
    lines: list[Line] = [json.loads(line) for line in stdout.splitlines()]
    *before, last = lines
    for line in lines:
        assert line.keys() == FIELDS
        assert all(isinstance(line[name], int | float | None) for name in NUMBERS)
        assert line["percent"] is None or 0 <= line["percent"] <= 100
    assert all(line["exit_code"] is None and line["state"] in UNDER_WAY for line in before)
    assert last["state"] in ENDS
    assert isinstance(last["exit_code"], int)
    assert (last["message"] is None) == (last["exit_code"] == 0)
    return lines


def states(lines: list[Line]) -> list[str]:
    return [state for state, _ in itertools.groupby(line["state"] for line in lines)]


@pytest.fixture
def args(tmp_path: Path) -> Args:
    path = make_text(tmp_path / "a.txt", 1_500_000)
    slow = ("--workers", "1", "--block-size", "50K")
    return ("--input", path, "--output-dir", tmp_path / "out", "--progress", "json", *slow)


def test_a_run_reports_its_progress_and_ends_with_done(args: Args, tmp_path: Path) -> None:
    done = faults.run(*args)
    lines = lines_in(done.stdout)
    assert states(lines) == ["preparing", "running", "finishing", "done"]
    assert "train.bin: " in done.stderr
    assert "%|" not in done.stderr
    (first, *_, running), last = [line for line in lines if line["state"] == "running"], lines[-1]
    made = report_of(tmp_path / "out")
    assert (first["bytes"], first["percent"], first["tokens"], first["bytes_per_s"]) == (0, 0.0, None, None)
    assert (running["bytes"], running["bytes_total"], running["percent"]) == (1_500_000, 1_500_000, 100.0)
    assert running["tokens"] == sum(made["tokens"].values())
    assert running["bytes_per_s"] > 0
    assert 10_000_000 < running["memory_bytes"] < 300_000_000
    assert {name: last[name] for name in NUMBERS} == {name: running[name] for name in NUMBERS}
    assert (last["exit_code"], last["left_s"]) == (0, 0.0)


def test_quiet_leaves_the_feed_alone(args: Args) -> None:
    done = faults.run(*args, "--quiet")
    assert done.stderr == ""
    assert states(lines_in(done.stdout))[-1] == "done"


def test_a_second_run_is_complete_and_one_with_overwrite_is_done(args: Args) -> None:
    assert faults.run(*args).returncode == 0
    (_, last) = lines_in(faults.run(*args).stdout)
    assert (last["state"], last["percent"], last["bytes"], last["exit_code"]) == ("complete", 100.0, None, 0)
    (_, last) = lines_in(faults.run(*args, "--dry-run").stdout)[-2:]
    assert last["state"] == "complete"
    assert lines_in(faults.run(*args, "--overwrite").stdout)[-1]["state"] == "done"
    verified = lines_in(faults.run(*args, "--verify").stdout)
    assert states(verified) == ["preparing", "running", "done"]
    assert verified[-1]["bytes"] == 1_500_000


def test_a_dry_run_reports_that_gigatoken_uses_what_max_memory_allows(args: Args) -> None:
    pytest.importorskip("gigatoken", exc_type=ImportError)

    def most_bytes(*more: str) -> int:
        forecast: dict[str, int] = lines_in(faults.run(*args, "--dry-run", *more).stdout)[-1]["forecast"]
        return forecast["memory_bytes"]

    sizes = [most_bytes("--max-memory", size) for size in ("300M", "1G", "4G")]
    assert most_bytes() == sizes[0] < sizes[1] < sizes[2] < 4_000_000_000 / 2


def test_a_dry_run_gives_its_forecast(args: Args, tmp_path: Path) -> None:
    done = faults.run(*args, "--dry-run")
    assert "tokens per byte: " in done.stderr
    lines = lines_in(done.stdout)
    forecast = lines[-1]["forecast"]
    assert (lines[-1]["state"], lines[-1]["percent"], lines[0]["forecast"]) == ("done", None, None)
    assert faults.run(*args, "--dry-run", "--quiet").stderr == ""
    assert faults.run(*args).returncode == 0
    made = report_of(tmp_path / "out")
    for split, n_tokens in made["tokens"].items():
        assert forecast["tokens"][split] == pytest.approx(n_tokens, rel=0.1)
    assert forecast["output_bytes"] == 2 * sum(forecast["tokens"].values())
    assert (forecast["text_bytes"], forecast["engine"], forecast["workers"]) == (1_500_000, made["engine"], 1)
    assert forecast["free_bytes"] > forecast["output_bytes"]
    assert forecast["wall_s"] >= 0
    assert forecast["tokens_per_byte"] == pytest.approx(sum(made["tokens"].values()) / 1_500_000, rel=0.1)


def test_the_total_and_figures_from_it_are_unknown_for_a_pipe(tmp_path: Path) -> None:
    text = make_text(tmp_path / "a.txt", 3_000_000)
    command = f"cat {text} | {sys.executable} prepare.py - --progress json --output-dir {tmp_path}/"
    for more in ("one", "two --dry-run"):
        done = subprocess.run(
            ["bash", "-c", command + more], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
        lines = lines_in(done.stdout)
        assert all(line["bytes_total"] is None for line in lines)
        assert all(line["percent"] is None and not line["left_s"] for line in lines[:-1])
        if more == "one":
            assert (lines[-1]["bytes"], lines[-1]["percent"]) == (3_000_000, 100.0)
        else:
            assert (lines[-1]["forecast"]["tokens"], lines[-1]["forecast"]["wall_s"]) == (None, None)


@pytest.mark.parametrize(
    ("fault", "state", "exit_code", "message"),
    [
        ({"at": "encode samples", "do": "SIGTERM"}, "stopped", 143, "stopped by SIGTERM"),
        ({"at": "write journal", "skip": 3, "do": "SIGINT"}, "stopped", 130, "stopped by SIGINT"),
        ({"at": "encode text", "skip": 9, "do": "MemoryError"}, "memory", 75, "stopped: the system refused"),
        ({"at": "encode text", "skip": 9, "do": "KeyError"}, "failed", 1, "KeyError: 'injected'"),
        ({"at": "encode text", "skip": 9, "do": "SystemExit"}, "failed", 1, "RuntimeError: a library has"),
        ({"at": "fdatasync journal", "skip": 3, "do": "OSError"}, "failed", 4, "error: /"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_last_line_names_what_has_ended_a_run(
    fault: dict[str, Any], state: str, exit_code: int, message: str, args: Args, tmp_path: Path
) -> None:
    stopped = faults.run(*args, "--workers", "2", **fault)
    assert stopped.returncode == (128 - exit_code if state == "stopped" else exit_code), stopped.stderr
    lines = lines_in(stopped.stdout)
    last = lines[-1]
    assert (last["state"], last["exit_code"]) == (state, exit_code), stopped.stderr
    assert last["message"].startswith(message), stopped.stderr
    if state != "failed" and fault["at"] != "encode samples":
        assert last["message"] in stopped.stderr
        assert states(lines)[-2] == "saving"
        assert last["bytes"] > 0
    resumed = faults.run(*args)
    assert lines_in(resumed.stdout)[-1]["state"] == "done"
    assert sha256s(tmp_path / "out")


def test_a_resumed_run_begins_where_the_stopped_one_had_come_to(args: Args) -> None:
    assert faults.run(*args, at="write journal", skip=3, do="SIGKILL").returncode == -signal.SIGKILL
    lines = lines_in(faults.run(*args).stdout)
    first = next(line for line in lines if line["state"] == "running")
    assert 0 < first["bytes"] < 1_500_000
    assert first["percent"] == pytest.approx(100 * first["bytes"] / 1_500_000, abs=0.1)
    assert first["bytes_per_s"] is first["left_s"] is None


@pytest.mark.parametrize(
    ("options", "exit_code", "message"),
    [
        ("--verfy", 2, "error: unrecognized arguments: --verfy; did you mean --verify?"),
        ("--val-ratio 2", 2, "error: argument --val-ratio"),
        ("--val-split documents", 2, "error: --val-split documents needs documents"),
        ("nosuch.txt", 3, "error: nosuch.txt not found"),
        ("--max-memory 10M", 78, "error: the smallest settings need"),
        ("--output-dir /dev/null", 4, "error: --output-dir /dev/null is not a folder"),
        ("--verify", 4, "error: there is no complete output"),
        ("--merge --work-dir {}/work", 6, "error: "),
    ],
)
def test_a_refusal_has_a_last_line_too(
    options: str, exit_code: int, message: str, args: Args, tmp_path: Path
) -> None:
    done = faults.run(*args, *options.format(tmp_path).split())
    assert done.returncode == exit_code, done.stderr
    last = lines_in(done.stdout)[-1]
    assert (last["state"], last["exit_code"]) == ("failed", exit_code)
    assert last["message"].startswith(message)
    assert last["message"] in done.stderr


def test_help_is_for_people(args: Args) -> None:
    assert faults.run(*args, "--help").stdout.startswith("usage: ")


def test_ranks_processes_and_merges_report_too(args: Args, tmp_path: Path) -> None:
    many = (*args, "--work-dir", tmp_path / "work", "--span-size", "300K")
    ranks = lines_in(faults.run(*many, "--rank", "0", "--world-size", "2").stdout)
    assert states(ranks) == ["preparing", "running", "done"]
    assert ranks[-1]["percent"] == 100.0
    rest = lines_in(faults.run(*many, "--cluster", "local", "--merge").stdout)
    assert states(rest) == ["preparing", "running", "merging", "finishing", "done"]
    assert next(line for line in rest if line["state"] == "running")["percent"] > 40
    assert next(line for line in rest if line["state"] == "merging")["bytes"] == 0
    assert lines_in(faults.run(*many, "--rank", "0", "--world-size", "2").stdout)[-1]["state"] == "complete"


def test_a_reader_that_leaves_stops_nothing(args: Args, tmp_path: Path) -> None:
    process = faults.start(*args)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(faults.TIMEOUT_S) == 0
    assert report_of(tmp_path / "out")["bytes_read"] == 1_500_000


def test_a_disk_that_is_full_spoils_a_forecast_and_no_run(args: Args) -> None:
    command = f"{shlex.join(faults.command(*args))} > /dev/full"
    shell = tool("bash")
    quiet = {"capture_output": True, "text": True, "check": False}
    dry: Any = subprocess.run([shell, "-c", command.replace(">", "--dry-run >")], **quiet)  # type: ignore[call-overload]
    assert (dry.returncode, "cannot write to standard output" in dry.stderr) == (4, True), dry.stderr
    done: Any = subprocess.run([shell, "-c", command], **quiet)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr


def test_lines_come_at_once_while_the_run_is_at_work(args: Args) -> None:
    process = faults.start(*args, at="write journal", skip=3, do="SIGSTOP")
    faults.wait_until_stopped(process)
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 0)[0]
    seen = os.read(process.stdout.fileno(), 65536).decode()
    assert [json.loads(line)["state"] for line in seen.splitlines()][:2] == ["preparing", "running"]
    assert faults.let_finish(process).returncode == 0


class Kept:
    """A stream that keeps its lines."""

    encoding = "ascii"

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def write_as_is(self, text: str) -> None:
        self.lines.append(json.loads(text))


def test_a_second_signal_adds_no_second_last_line() -> None:
    feed = Feed(Kept())  # type: ignore[arg-type]  # the methods of a terminal are not for a feed
    assert feed.last_line("stopped", 130, "stopped by SIGINT")
    assert feed.last_line("stopped", 143, "stopped by SIGTERM") == ""


def test_messages_hide_secrets_and_keep_names_of_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanogpt_compat.system.redaction._known", {"running", "tokens", "hunter2hunter2"})
    kept = Kept()
    feed = Feed(kept)  # type: ignore[arg-type]
    feed.at("running").draw(Moment(1, 2))
    feed.finish("failed", 3, "error: https://me:hunter2hunter2@host/a.txt?key=abc not found")
    assert kept.lines[0].keys() == FIELDS
    assert kept.lines[0]["state"] == "running"
    assert "hunter2" not in kept.lines[1]["message"]


def test_the_wrapper_on_the_page_works(tmp_path: Path) -> None:
    (code,) = blocks(section(REPOSITORY / "docs" / "options.md", "Progress as JSON"), "python")
    for name in ("prepare.py", "nanogpt_compat"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    make_text(tmp_path / "train_fineweb.txt", 300_000)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[0] == "preparing None None"
    assert done.stdout.endswith("done 100.0 0.0\nexit code 0 \n")
    assert done.stderr == ""


def test_the_fields_and_states_are_those_of_the_page() -> None:
    text = section(REPOSITORY / "docs" / "options.md", "Progress as JSON")
    names = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}
    assert names == FIELDS | {*UNDER_WAY} | ENDS
