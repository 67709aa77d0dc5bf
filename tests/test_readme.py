"""README.md and docs/ are true: their links, options, numbers and commands."""

import configparser
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import peak_rss
from nanogpt_compat import errors
from nanogpt_compat.encoders.fast import cache_bytes_for
from nanogpt_compat.encoders.reference import TiktokenEncoder
from nanogpt_compat.system.units import format_bytes
from tests.conftest import REPOSITORY
from tests.pages import (
    PAGES,
    README,
    anchors,
    commands,
    inline_commands,
    links,
    prose,
    read,
    section,
)

MAX_README_LINES = 220
N_EVERYDAY_OPTIONS = 8
RESULTS = REPOSITORY / "benchmarks" / "results"
CONFTEST = REPOSITORY / "tests" / "conftest.py"
EACH_PAGE = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)


@pytest.fixture(scope="module")
def program_options() -> set[str]:
    shown = subprocess.run(
        [sys.executable, "prepare.py", "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    return set(re.findall(r"--[a-z][a-z-]*", re.sub(r"-\n +", "-", shown)))


def test_the_readme_is_short() -> None:
    assert len(read(README).splitlines()) <= MAX_README_LINES


@EACH_PAGE
def test_every_link_has_a_target(path: Path) -> None:
    for target in links(read(path)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        page = path.parent / name if name else path
        assert page.exists(), target
        assert not anchor or anchor in anchors(read(page)), target


def test_every_page_can_be_reached_from_the_readme() -> None:
    found, new = set(), {README}
    while new:
        found |= new
        targets = {
            (page.parent / link.partition("#")[0]).resolve() for page in new for link in links(read(page))
        }
        new = {page for page in targets if page.suffix == ".md" and page.exists()} - found
    assert set(PAGES) <= found


def test_options_and_tables_of_measurements_equal_their_sources() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/docs", "--check"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_table_that_was_edited_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    for name in ("docs", "benchmarks", "prepare.py", "nanogpt_compat"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    program = shutil.copy(REPOSITORY / "scripts" / "docs", tmp_path / "scripts")
    (tmp_path / "README.md").write_text(read(README).replace("220 MB |", "120 MB |"))
    command = [sys.executable, program]
    checked = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (1, "README.md is out of date; run scripts/docs\n")
    assert subprocess.run(command, check=False).returncode == 0
    assert read(tmp_path / "README.md") == read(README)


@EACH_PAGE
def test_every_named_option_exists(path: Path, program_options: set[str]) -> None:
    sources = [*(REPOSITORY / "benchmarks").glob("*.py"), REPOSITORY / "scripts" / "docs", CONFTEST]
    others = {name for source in sources for name in re.findall(r'"(--[a-z-]+)"', read(source))}
    for name in re.findall(r"`(--[a-z][a-z-]*)", prose(read(path))):
        assert name in program_options | others, name


def test_the_everyday_options_are_eight() -> None:
    rows = re.findall(r"^\| `(--[a-z-]+)", section(README, "The eight everyday options"), re.MULTILINE)
    assert len(set(rows)) == len(rows) == N_EVERYDAY_OPTIONS


@EACH_PAGE
def test_every_command_names_files_modules_options_and_packages_that_exist(
    path: Path, program_options: set[str]
) -> None:
    for command in [*commands(read(path)), *inline_commands(read(path))]:
        for words in _simple_commands(command):
            _check_command(words, program_options)


def _simple_commands(line: str) -> list[list[str]]:
    """Split a line of shell at pipes, `&&` and the like, and inside `sh -c`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("|&;()<>"):
            found.append([])
        else:
            found[-1].append(word)
    for words in list(found):
        if "-c" in words and ("sh" in words or "bash" in words):
            found += _simple_commands(words[words.index("-c") + 1])
    return [words for words in found if words]


def _check_command(words: list[str], program_options: set[str]) -> None:
    options = {word.split("=")[0] for word in words if re.match(r"--[a-z]", word)}
    names = [Path(word).name for word in words]
    if "prepare.py" in names and "docker" not in names and "cp" not in names:
        at = names.index("prepare.py")
        own = {word.split("=")[0] for word in words[at:] if re.match(r"--[a-z]", word)}
        assert own <= program_options, words
    elif "-m" in words and words[words.index("-m") + 1].startswith(("benchmarks.", "nanogpt_compat")):
        found = importlib.util.find_spec(words[words.index("-m") + 1])
        assert found is not None, words
        assert found.origin is not None
        assert all(f'"{name}"' in read(Path(found.origin)) for name in options), words
    elif "pip" in names and "install" in words:
        _check_packages(words[words.index("install") + 1 :])
    for word in words:
        if word.startswith("scripts/"):
            assert os.access(REPOSITORY / word, os.X_OK), word


def _check_packages(words: list[str]) -> None:
    """Check that setup.cfg knows these packages and extras."""
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg")
    extras = config["options.extras_require"]
    known = config["options"]["install_requires"] + "".join(extras.values())
    for word in words:
        if word.startswith(".["):
            assert set(word[2:-1].split(",")) <= set(extras), word
        elif not word.startswith("-"):
            assert re.search(rf"^{re.split('[=<>]', word)[0]}\b", known, re.MULTILINE), word


def test_the_exit_codes_are_those_of_the_errors() -> None:
    rows = re.findall(r"^\| (\d+) \|", section(README, "Guarantees"), re.MULTILINE)
    classes = [one for one in vars(errors).values() if isinstance(one, type)]
    codes = {one.exit_code for one in classes if issubclass(one, errors.PrepareError)}
    assert list(map(int, rows)) == [0, *sorted(codes)]
    table = read(REPOSITORY / "docs" / "options.md").split("exit codes:\n")[1].split("A signal")[0]
    assert list(map(int, re.findall(r"^ +(\d+)  ", table, re.MULTILINE))) == [0, *sorted(codes)]


def test_the_headline_names_the_bounds_of_the_benchmark_and_of_the_engines() -> None:
    text = " ".join(read(README).split())
    more_bytes = cache_bytes_for(3) - cache_bytes_for(2)
    assert f"**At most {peak_rss.MAX_PEAK_GIGATOKEN_BYTES // 1_000_000} MB of memory**" in text
    assert f"each further thread takes {format_bytes(more_bytes).replace('33.6', '34')} more" in text
    assert f"With tiktoken it is {peak_rss.MAX_PEAK_BYTES // 1_000_000} MB" in text
    assert TiktokenEncoder.peak_bytes == peak_rss.MAX_PEAK_BYTES
    sizes = [one["case"]["size_bytes"] for one in _record("peak_rss")["results"]]
    sizes += [case["size_bytes"] for part in _record("throughput").values() for case in part["cases"]]
    assert f"The largest file measured has {max(sizes) / 1e9:g} GB." in text


def test_the_speeds_of_the_headline_are_those_of_the_records() -> None:
    text = " ".join(read(README).split())
    english, languages = (_factors(part) for part in ("compare", "compare-languages"))
    assert f"**{english['gigatoken']:.0f} times as fast**" in text
    assert f"in many languages it is {languages['gigatoken']:.0f} times" in text
    assert f"with tiktoken alone {english['tiktoken']:.0f} times" in text


def test_all_records_are_from_the_machine_that_is_named() -> None:
    short, long = (" ".join(read(path).split()) for path in (README, REPOSITORY / "docs" / "benchmarks.md"))
    machines = {name: part["machine"] for name, part in _record("throughput").items()}
    for part, machine in {"peaks": _record("peak_rss")["machine"], **machines}.items():
        processor = re.sub(r"\(R\)| Processor.*", "", machine["processor"])
        summary = f"{machine['n_cores']} cores of an {processor}"
        memory = f"{machine['memory_bytes'] / 1e9:.0f} GB of memory"
        assert summary in long
        assert memory in long
        if part not in ("earlier", "largest"):  # the README has no figures from these
            assert f"{summary} and {memory}" in short
        assert f"{' '.join(re.findall(r'Linux [0-9]+[.][0-9]+', machine['system']))}," in long
        for name in ("python", "numpy", "tiktoken", "gigatoken", "psutil"):
            assert f"{name} {machine[name]}" in long.replace("Python", "python")


def test_every_figure_of_the_comparison_and_the_picture_is_in_the_record() -> None:
    recorded = read(RESULTS / "peak_rss.md")
    pictures = " ".join(re.findall(r"!\[(.*?)\]", read(README), re.DOTALL))
    texts = (section(README, "The old script and this one"), pictures)
    figures = [figure for text in texts for figure in re.findall(r"[\d.]+ [MG]B\b", text)]
    assert len(figures) > 3
    for figure in figures:
        assert f"| {figure} |" in recorded, figure


def _record(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read(RESULTS / f"{name}.json"))
    return found


def _factors(part: str) -> dict[str, float]:
    """Return the speed of each strategy of a part as a multiple of the chunk-by-chunk script's."""
    rates = {case["strategy"]: case["rate_mb_per_s"] for case in _record("throughput")[part]["cases"]}
    return {name: rate / rates["stream"] for name, rate in rates.items()}
