"""README.md says what is true: its files, its options, its numbers."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import peak_rss
from nanogpt_compat.encoders import TiktokenEncoder
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def files_in_tree() -> set[str]:
    """The paths that the tree under "Files" shows, by their indentation of two spaces a level."""
    found: set[str] = set()
    folders: list[str] = []
    for line in section("Files").split("```")[1].strip("\n").splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        folders[depth:] = [name.rstrip("/")]
        if not name.endswith("/"):
            found.add("/".join(folders))
    return found


def test_the_tree_shows_every_file_of_the_program_and_no_other() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not in a git checkout")
    shown = files_in_tree()
    hidden = {".gitignore", "nanogpt_compat/py.typed", "tests/__init__.py", "benchmarks/__init__.py"}
    is_there = {path for path in listed.stdout.splitlines() if (REPOSITORY / path).exists()}
    assert shown == is_there - hidden


def test_the_options_are_those_of_the_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = subprocess.run(
        [sys.executable, "prepare.py", "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    # argparse breaks lines in other places from one Python to the next.
    assert section("Options").split("```")[1].split() == shown.split()


def test_the_peaks_are_the_bounds_of_the_benchmark() -> None:
    assert f"**{peak_rss.MAX_PEAK_GIGATOKEN_BYTES // 1_000_000} MB of memory**" in README
    assert f"{peak_rss.MAX_PEAK_BYTES // 1_000_000} MB with tiktoken" in README
    assert TiktokenEncoder.peak_bytes == peak_rss.MAX_PEAK_BYTES


def test_the_table_of_peaks_is_the_one_of_the_recorded_run() -> None:
    recorded = REPOSITORY / "benchmarks" / "results"
    table = (recorded / "peak_rss.md").read_text(encoding="utf-8").strip()
    assert table in README
    json.loads((recorded / "peak_rss.json").read_text(encoding="utf-8"))


def test_the_table_of_speeds_is_in_the_recorded_run() -> None:
    table = "| strategy" + section("Benchmarks").split("| strategy")[1].split("\n\n")[0]
    assert table in (REPOSITORY / "benchmarks" / "results" / "throughput.md").read_text(encoding="utf-8")


def test_links_and_pictures_lead_to_files() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert Path(REPOSITORY, target).exists(), target
