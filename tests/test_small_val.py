"""A val.bin that one evaluation draws a hundred times over gets a notice if a larger one is possible."""

import pydoc_data.topics
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, RunPrepare
from tests.faults import make_text, report_of, run

pytestmark = pytest.mark.costly

DRAWN_TOKENS = 200 * 12 * 1024  # eval_iters, batch_size and block_size of nanoGPT's train.py
NOTICE = re.compile(
    r"^notice: val\.bin (has|would have about) ([\d,]+) tokens\. Each evaluation of nanoGPT's train\.py "
    r"draws 2\.5M of them, so each about ([\d,]+) times\. For a val\.bin of about ([\d.]+[KM]) tokens:\n"
    r"    .* --val-ratio ([\d.]+)",
    re.MULTILINE,
)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return make_text(tmp_path / "a.txt", 5_000_000)


def test_for_a_large_text_it_offers_the_ratio_that_gives_a_million(
    run_prepare: RunPrepare, tmp_path: Path
) -> None:
    args = ("--input", make_text(tmp_path / "large.txt", 60_000_000), "--output-dir", "out")
    dry = run_prepare(*args, "--dry-run")
    ((verb, n_val, times, aim, ratio),) = NOTICE.findall(dry.stdout)
    assert (verb, aim) == ("would have about", "1.0M")
    assert int(times) == pytest.approx(DRAWN_TOKENS / int(n_val.replace(",", "")), abs=1)
    assert run_prepare(*args, "--val-ratio", ratio).returncode == 0
    assert report_of(tmp_path / "out")["tokens"]["val"] == pytest.approx(1_000_000, rel=0.1)


def test_for_a_smaller_text_it_offers_a_tenth_once_and_then_nothing(
    run_prepare: RunPrepare, tmp_path: Path, text: Path
) -> None:
    done = run_prepare("--input", text, "--output-dir", "out")
    ((verb, _, _, _, ratio),) = NOTICE.findall(done.stderr)
    assert (verb, ratio) == ("would have about", "0.1")
    assert done.stderr.count("val.bin was raised from") == 1
    larger = run_prepare("--input", text, "--output-dir", "out", "--overwrite", "--val-ratio", ratio)
    assert (larger.returncode, "notice: val.bin" in larger.stderr) == (0, False)
    assert report_of(tmp_path / "out")["tokens"]["val"] > DRAWN_TOKENS / 25


def test_after_a_pipe_it_counts_the_tokens_made(tmp_path: Path, text: Path) -> None:
    text.write_text("".join(pydoc_data.topics.topics.values()) * 12)
    command = f"cat {text} | {sys.executable} {REPOSITORY}/prepare.py - --output-dir {tmp_path}/out"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    ((verb, n_val, _, _, _),) = NOTICE.findall(done.stderr)
    assert (verb, int(n_val.replace(",", ""))) == ("has", report_of(tmp_path / "out")["tokens"]["val"])


def test_a_resumed_run_offers_no_command_that_would_discard_its_work(tmp_path: Path, text: Path) -> None:
    args = ("--input", text, "--output-dir", tmp_path / "out", "--workers", "1", "--block-size", "50K")
    stopped = run(*args, at="write journal", skip=3, do="SIGINT")
    assert "--restart --overwrite" in stopped.stderr  # nothing was saved yet
    resumed = run(*args)
    assert (resumed.returncode, "resuming at" in resumed.stderr) == (0, True), resumed.stderr
    ((verb, *_),) = NOTICE.findall(resumed.stderr)
    assert (verb, "--restart" in resumed.stderr) == ("has", False)


@pytest.mark.parametrize("options", ["--quiet", "--val-split none", "--val-ratio 0.05", "--format npy"])
def test_no_notice_is_printed_without_news(options: str, run_prepare: RunPrepare, text: Path) -> None:
    done = run_prepare("--input", text, "--output-dir", "out", *options.split())
    assert (done.returncode, "notice: val.bin has" in done.stderr) == (0, False)
    assert "Each evaluation" not in done.stderr


def test_a_text_too_small_for_an_evaluation_is_left_alone(run_prepare: RunPrepare, tmp_path: Path) -> None:
    args = ("--input", make_text(tmp_path / "small.txt", 1_000_000), "--output-dir", "out")
    assert "Each evaluation" not in run_prepare(*args).stderr
