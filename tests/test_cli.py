"""The command line: options, output, and files on the disk. Refusals are in test_refusals.py."""

import json
import os
import pydoc_data.topics
import re
import shutil
import subprocess
import sys
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken

from nanogpt_compat import __version__
from nanogpt_compat.text.val_split import val_windows
from tests.conftest import REPOSITORY, RunPrepare
from tests.engines import NAMES
from tests.reference import exact_cuts, expected_pair, is_cut, whole_tokens

pytestmark = pytest.mark.costly

ENGLISH = Path(pydoc_data.topics.__file__).read_bytes().replace(b"\r", b"")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(ENGLISH[:300_000])
    return path


@pytest.fixture
def dataset(tmp_path: Path, text: Path) -> Path:
    """The files that a user copies into nanoGPT, and the text."""
    folder = tmp_path / "nanoGPT" / "data" / "fineweb"
    folder.mkdir(parents=True)
    shutil.copy(REPOSITORY / "prepare.py", folder)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "nanogpt_compat", folder / "nanogpt_compat", ignore=ignored)
    return folder


def python(*args: str | Path, cwd: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-B", *map(str, args)],
        cwd=cwd,
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
    )


def tokens_in(path: Path) -> list[int]:
    return np.fromfile(path, dtype="<u2").tolist()  # type: ignore[no-any-return]


def report_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "prepare.json").read_text(encoding="ascii"))  # type: ignore[no-any-return]


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    folders = {f"{path}/": (0, b"") for path in folder.rglob("*") if path.is_dir()}
    return folders | {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


# Places of input and output


def test_without_options_it_reads_and_writes_next_to_itself_from_any_current_folder(
    dataset: Path, text: Path, gpt2: tiktoken.Encoding
) -> None:
    source = text.rename(dataset / "train_fineweb.txt")
    (dataset.parent.parent / "train.py").touch()
    before = tree(dataset)
    done = python(dataset / "prepare.py", cwd=Path("/"))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.endswith(
        f"next:\n    cd {dataset.parent.parent} && {sys.executable} train.py --dataset=fineweb\n"
    )
    made = {str(dataset / name) for name in ("train.bin", "val.bin", "prepare.json")}
    after = tree(dataset)
    assert after.keys() - before.keys() == made
    assert all(after[path] == before[path] for path in before)
    windows = val_windows(source.stat().st_size, 0.0005, "spread")
    train, val = expected_pair([source], gpt2, windows=windows)
    assert tokens_in(dataset / "train.bin") == train.tolist()
    assert tokens_in(dataset / "val.bin") == val.tolist()


def test_the_module_reads_and_writes_in_the_current_folder(tmp_path: Path, text: Path) -> None:
    text.rename(tmp_path / "train_fineweb.txt")
    done = python("-m", "nanogpt_compat", cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    assert done.returncode == 0, done.stderr
    assert "next:" not in done.stderr  # this is no checkout of nanoGPT
    assert {path.name for path in tmp_path.iterdir()} == {
        *("train_fineweb.txt", "train.bin", "val.bin", "prepare.json")
    }


def test_a_relative_input_is_against_the_current_folder(run_prepare: RunPrepare, text: Path) -> None:
    done = run_prepare("--input", "text.txt", "--output-dir", "made/here")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (text.parent / "made/here").iterdir()} == {
        *("train.bin", "val.bin", "prepare.json")
    }


def test_several_inputs_keep_the_order_given_and_globs_have_natural_order(
    run_prepare: RunPrepare, tmp_path: Path, gpt2: tiktoken.Encoding, engine: str
) -> None:
    order = ["zero.txt", "part1.txt", "part2.txt", "part10.txt"]
    for k, name in enumerate(order):
        (tmp_path / name).write_bytes(ENGLISH[k * 30_000 : (k + 1) * 30_000])
    done = run_prepare(
        *("--input", "zero.txt", "part*.txt", "--output-dir", "out", "--val-split", "none"),
        *("--engine", engine),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("zero.txt and 3 more 120 kB -> ")
    expected = [token for name in order for token in whole_tokens(tmp_path / name, gpt2)]
    assert tokens_in(tmp_path / "out" / "train.bin") == expected
    repeated = run_prepare(
        *("--input", "zero.txt", "--input", "part1.txt"),
        *("--output-dir", "two", "--val-split", "none", "--engine", engine),
    )
    assert repeated.returncode == 0, repeated.stderr
    assert tokens_in(tmp_path / "two" / "train.bin") == expected[: len(tokens_in(tmp_path / "two/train.bin"))]


@pytest.mark.parametrize("name", ["it's $HOME.txt", "new\nline.txt", "caf\xe9 \u4e2d\udcff.txt", "-x.txt"])
def test_a_file_of_any_name_is_read_and_what_is_printed_is_ascii(
    run_prepare: RunPrepare, tmp_path: Path, text: Path, name: str
) -> None:
    text.rename(tmp_path / name)
    folder = f"out of {name}"
    done = run_prepare(f"--input={name}", f"--output-dir={folder}")
    assert done.returncode == 0, done.stderr
    assert done.stderr.isascii()
    (described,) = report_in(tmp_path / folder)["inputs"]
    assert described["path"] == name
    refused = run_prepare(f"--input={name}.missing", f"--output-dir={folder}")
    assert refused.returncode == 3
    assert refused.stderr.isascii()
    assert refused.stdout.isascii()


# Printed lines


def test_the_lines_printed_have_their_form(run_prepare: RunPrepare, tmp_path: Path, text: Path) -> None:
    raw = bytearray(ENGLISH[:300_000])
    for place in (100_000, 200_000):
        raw[place] = 0xFF
    raw[50_000:50_000] = b"y" * 600_000
    text.write_bytes(raw)
    done = run_prepare("--input", text, "--output-dir", "out", "--val-ratio", "0.2", "--workers", "2")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.isascii()
    size = r"\d+(\.\d)? (kB|MB|GB|TB)"
    time = r"\d+(\.\d)? (s|min)"
    lines = [
        rf"text.txt 900 kB -> about \d+(\.\d)?K tokens, {size} \({size} free\); 2 threads; about {time}",
        r"engine: gigatoken [\d.]+, checked against tiktoken [\d.]+ as it goes",
        rf"train.bin: [\d,]+ tokens, {size}",
        rf"val.bin: [\d,]+ tokens, {size}: 2 windows spread over the input",
        rf"900 kB in {time}: \d+\.\d MB/s, peak memory \d+(\.\d)? MB, \d+(\.\d)? MB with mapped files",
        r"\d slices? checked against tiktoken: 0 differ",
        rf"2 bytes were not UTF-8, the first at byte 700,000 of {text}",
        "1 forced cut in stretches of over 512 KiB without a break; only tokens next to a cut may differ",
    ]
    found = [line for line in done.stderr.splitlines() if not line.startswith("memory: ")]
    assert len(found) == len(lines), done.stderr
    for line, pattern in zip(found, lines, strict=True):
        assert re.fullmatch(pattern, line), line


@pytest.mark.parametrize(("split", "where"), [("head", "the first"), ("tail", "the last"), ("none", None)])
def test_it_names_the_source_of_val_bin_if_there_is_one(
    run_prepare: RunPrepare, tmp_path: Path, text: Path, split: str, where: str | None
) -> None:
    done = run_prepare("--input", text, "--output-dir", "out", "--val-split", split, "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "; 1 thread; " in done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    if where is None:
        assert "val.bin" not in done.stderr
        assert names == {"train.bin", "prepare.json"}
    else:
        assert re.search(
            rf"^val.bin: [\d,]+ tokens, \d\d\.\d kB: {where} 30\.0 kB$", done.stderr, re.MULTILINE
        )
        assert names == {"train.bin", "val.bin", "prepare.json"}


def test_quiet_prints_only_warnings_and_errors(run_prepare: RunPrepare, text: Path) -> None:
    done = run_prepare("--input", text, "--output-dir", "out", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    refused = run_prepare("--input", "missing", "--output-dir", "out", "--quiet")
    assert (refused.returncode, refused.stdout) == (3, "")
    assert refused.stderr.startswith("prepare: error: missing not found in ")
    (text.parent / "set").mkdir()
    text.rename(text.parent / "set" / "a.txt")
    (text.parent / "set" / "b.dat").write_bytes(b"x" * 1_000_000)
    warned = run_prepare("--input", "set", "--output-dir", "other", "--quiet")
    assert warned.returncode == 0
    assert warned.stderr.startswith("warning: set: skipped 1 other entry, 1.0 MB (b.dat), which is more than")


def test_version_and_help_go_to_stdout(run_prepare: RunPrepare) -> None:
    done = run_prepare("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"nanogpt-compat {__version__}\n", "")
    done = run_prepare("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    for option in (
        *(
            "input",
            "output-dir",
            "n",
            "val-ratio",
            "val-split",
            "errors",
            "vocab-dir",
            "engine",
            "workers",
            "block-size",
        ),
        *("dry-run", "verify", "overwrite", "restart", "quiet", "version"),
    ):
        assert re.search(rf"^  --{option}\b", done.stdout, re.MULTILINE), option


def test_a_val_bin_that_nanogpt_cannot_sample_gets_a_warning(run_prepare: RunPrepare, text: Path) -> None:
    text.write_bytes(ENGLISH[:20_000])
    done = run_prepare("--input", text, "--output-dir", "out")
    assert done.returncode == 0, done.stderr
    n_tokens = (text.parent / "out" / "val.bin").stat().st_size // 2
    assert n_tokens < 1025
    assert f"warning: val.bin has {n_tokens:,} tokens, but sampling a block of 1,024 takes" in done.stderr
    assert "notice: val.bin was raised from 10 bytes to 2.0 kB of text" in done.stderr
    enough = run_prepare("--input", text, "--output-dir", "more", "--val-ratio", "0.5")
    assert "warning" not in enough.stderr
    assert "notice" not in enough.stderr


def test_files_that_train_py_would_take_from_another_dataset_get_a_warning(
    run_prepare: RunPrepare, tmp_path: Path, text: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "meta.pkl").write_bytes(b"of Shakespeare, by characters")
    (out / "val.bin").write_bytes(b"old")
    done = run_prepare("--input", text, "--output-dir", "out", "--val-split", "none")
    assert done.returncode == 0, done.stderr
    assert "warning: out/meta.pkl is from another dataset" in done.stderr
    assert "warning: out/val.bin is from another run, and this run makes no val.bin" in done.stderr
    assert (out / "meta.pkl").read_bytes() == b"of Shakespeare, by characters"
    assert (out / "val.bin").read_bytes() == b"old"


# Readers that leave


@pytest.mark.parametrize(
    "redirection", ["2>&-", "2>/dev/full", "2>&1 | head -c 1", "2>&1 | true", "<&- >&- 2>&-"]
)
def test_a_missing_reader_is_no_reason_to_stop(tmp_path: Path, text: Path, redirection: str) -> None:
    command = [sys.executable, str(REPOSITORY / "prepare.py"), "--input", "text.txt", "--output-dir", "out"]
    script = f"set -o pipefail; {' '.join(command)} {redirection}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert set(tree(tmp_path)) == {
        *(str(text), f"{tmp_path}/out/"),
        *(f"{tmp_path}/out/{name}" for name in ("train.bin", "val.bin", "prepare.json")),
    }


def test_a_dry_run_whose_reader_leaves_is_no_failure(tmp_path: Path, text: Path) -> None:
    command = f"{sys.executable} {REPOSITORY}/prepare.py --input text.txt --output-dir out --dry-run"
    script = f"set -o pipefail; {command} | true"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --dry-run


def test_a_dry_run_writes_nothing_and_forecasts_the_output(
    run_prepare: RunPrepare, tmp_path: Path, text: Path, engine: str
) -> None:
    text.write_bytes(ENGLISH)
    before = tree(tmp_path)
    options = ("--input", text, "--output-dir", "out", "--engine", engine, "--workers", "2")
    dry = run_prepare(*options, "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert tree(tmp_path) == before
    assert run_prepare(*options).returncode == 0
    n_tokens = sum((tmp_path / "out" / name).stat().st_size for name in ("train.bin", "val.bin")) // 2
    found = re.match(r"text\.txt \d+ kB -> about ([\d.]+)K tokens, ([\d.]+) kB \(.* free\); ", dry.stdout)
    assert found is not None, dry.stdout
    assert float(found[1]) * 1000 == pytest.approx(n_tokens, rel=0.03)
    assert float(found[2]) * 1000 == pytest.approx(2 * n_tokens, rel=0.03)
    per_byte = re.search(
        r"^tokens per byte: (0\.\d+), from samples across the input$", dry.stdout, re.MULTILINE
    )
    assert per_byte is not None
    assert float(per_byte[1]) == pytest.approx(n_tokens / len(ENGLISH), rel=0.03)
    assert re.search(r"^output: \d+ kB of .* free in out$", dry.stdout, re.MULTILINE)
    peak = {"tiktoken": "160 MB", "gigatoken": r"2\d\d MB"}[engine]
    assert re.search(rf"^memory: at most {peak} of its own$", dry.stdout, re.MULTILINE)
    assert re.search(r"^memory: .* available, .*reserve .*, budget \d+", dry.stdout, re.MULTILINE)
    assert re.search(rf"^engine: {engine} [\d.]+", dry.stdout, re.MULTILINE)
    assert "vocab.bpe\n" in dry.stdout
    assert "\nval.bin: 1 window in the middle\n" in dry.stdout
    assert dry.stdout.endswith("\ndry run: nothing was written\n")


def test_a_dry_run_finds_what_is_wrong_with_the_input_too(run_prepare: RunPrepare, text: Path) -> None:
    text.write_text("It was the best of times.\n" * 100, encoding="utf-16")
    done = run_prepare("--input", text, "--output-dir", "out", "--dry-run")
    assert (done.returncode, done.stdout) == (3, "")


# --n


def test_n_stops_at_the_first_exact_cut_after_that_many_characters_of_all_inputs(
    run_prepare: RunPrepare, tmp_path: Path, gpt2: tiktoken.Encoding, engine: str
) -> None:
    part = ENGLISH.decode().replace("a", "\xe4").encode()  # so that bytes are not characters
    first = part * (6_000_000 // len(part.decode()))
    (tmp_path / "one.txt").write_bytes(first)
    (tmp_path / "two.txt").write_bytes(first[::-1].decode("utf-8", "ignore").encode() + b" and more")
    done = run_prepare(
        *("--input", "one.txt", "two.txt", "--output-dir", "out", "--n", "1", "--val-split", "none"),
        *("--engine", engine),
    )
    assert done.returncode == 0, done.stderr
    whole = first + (tmp_path / "two.txt").read_bytes()
    n_bytes = sum(map(len, gpt2.decode_tokens_bytes(tokens_in(tmp_path / "out" / "train.bin"))))
    assert report_in(tmp_path / "out")["bytes_read"] == n_bytes < len(whole)
    tail = whole[n_bytes - 200 : n_bytes + 200].decode("utf-8", "ignore")
    before = whole[:n_bytes].decode()
    assert is_cut(before[-1], tail[tail.index(before[-50:]) + 50])
    assert len(before) >= 10_000_000
    # Between the 10,000,000th character and the end there is no other cut.
    extra = len(before[10_000_000:].encode())
    cuts = exact_cuts(whole[n_bytes - extra - 4 : n_bytes + 4])
    assert [cut - 4 for cut in cuts if 4 <= cut < 4 + extra] == []
    assert report_in(tmp_path / "out")["bytes_total"] == len(whole)


def test_n_of_more_than_there_is_changes_nothing(run_prepare: RunPrepare, tmp_path: Path, text: Path) -> None:
    assert run_prepare("--input", text, "--output-dir", "all").returncode == 0
    assert run_prepare("--input", text, "--output-dir", "n", "--n", "1").returncode == 0
    for name in ("train.bin", "val.bin"):
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "n" / name).read_bytes()


# Files


def test_the_report_is_complete_and_adds_up(
    run_prepare: RunPrepare, tmp_path: Path, text: Path, engine: str
) -> None:
    raw = bytearray(ENGLISH[:200_000])
    for place in range(500, 150_500, 10_000):
        raw[place] = 0xFE
    (tmp_path / "bad.txt").write_bytes(raw)
    (tmp_path / "empty.txt").write_bytes(b"")
    options = ["--val-ratio", "0.1", "--workers", "2", "--block-size", "50K", "--output-dir", "out"]
    options += ["--engine", engine]
    done = run_prepare("--input", "text.txt", "empty.txt", "bad.txt", *options)
    assert done.returncode == 0, done.stderr
    report = report_in(tmp_path / "out")
    inputs, files, tokens = report["inputs"], report["files"], report["tokens"]
    assert report["bytes_read"] == report["bytes_total"] == report["text_bytes"] == 500_000
    assert [(one["path"], one["format"], one["bytes"], one["invalid_bytes"]) for one in inputs] == [
        ("text.txt", "text", 300_000, 0),
        ("empty.txt", "text", 0, 0),
        ("bad.txt", "text", 200_000, 15),
    ]
    assert sum(one["tokens"] for one in inputs) == tokens["train"] + tokens["val"]
    assert inputs[1]["tokens"] == 0
    assert report["invalid_bytes"] == 15
    assert report["invalid_offsets"] == [["bad.txt", place] for place in range(500, 100_500, 10_000)]
    assert {one["name"]: one["bytes"] for one in files} == {
        name: (tmp_path / "out" / name).stat().st_size for name in ("train.bin", "val.bin")
    }
    assert {one["name"]: one["tokens"] for one in files} == {f"{k}.bin": n for k, n in tokens.items()}
    assert report["forced_cuts"] == report["resumes"] == 0
    assert report["engine"] == engine
    assert (report["engine_checked_slices"] > 0) == (engine == "gigatoken")
    assert (report["engine_fallback_blocks"], report["engine_mismatch"]) == (0, "")
    assert report["val_split"] == {"name": "spread", "ratio": 0.1, "windows": 1, "bytes": 50_000}
    assert 50e6 < report["peak_rss_bytes"] < (160e6 if engine == "tiktoken" else 256e6)
    assert 0 < report["wall_s"] < 60
    assert report["options"]["n_workers"] == 2
    assert report["options"]["block_bytes"] == 50_000
    assert report["versions"]["nanogpt_compat"] == __version__
    assert {"python", "numpy", "psutil", "tiktoken", "tqdm", "gigatoken"} < report["versions"].keys()


def test_the_result_reads_as_nanogpt_reads_it(
    run_prepare: RunPrepare, tmp_path: Path, text: Path, gpt2: tiktoken.Encoding, engine: str
) -> None:
    assert run_prepare("--input", text, "--output-dir", "out", "--engine", engine).returncode == 0
    source = text.read_text(encoding="utf-8")
    rng = np.random.default_rng(1337)
    for name in ("train.bin", "val.bin"):
        data = np.memmap(tmp_path / "out" / name, dtype=np.uint16, mode="r")  # as in train.py's get_batch
        block_size = 1024
        n_found = 0
        for i in rng.integers(len(data) - block_size, size=32):
            x, y = (
                data[i : i + block_size].astype(np.int64),
                data[i + 1 : i + 1 + block_size].astype(np.int64),
            )
            assert (x[1:] == y[:-1]).all()
            n_found += gpt2.decode(x.tolist()).strip("\ufffd") in source
        assert n_found >= 31  # one may lie across the place of the validation window


def test_tokens_are_little_endian_whatever_the_machine(
    run_prepare: RunPrepare, tmp_path: Path, engine: str
) -> None:
    (tmp_path / "a.txt").write_text("hello world")
    done = run_prepare("--input", "a.txt", "--output-dir", "o", "--val-split", "none", "--engine", engine)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o" / "train.bin").read_bytes() == b"\x8d\x7a\xe3\x03"  # 31373, 995


def test_engine_workers_and_block_size_do_not_show_in_the_output(
    run_prepare: RunPrepare, tmp_path: Path, text: Path
) -> None:
    settings = [("1", "700"), ("8", "4MiB"), ("64", "1KiB"), ("3", "65536")]
    made = []
    for engine, (n_workers, block_size) in product(NAMES, settings):
        out = tmp_path / f"{engine} {n_workers}"
        done = run_prepare(
            *("--input", text, "--output-dir", out, "--workers", n_workers, "--block-size", block_size),
            *("--engine", engine),
        )
        assert done.returncode == 0, done.stderr
        made.append([(out / name).read_bytes() for name in ("train.bin", "val.bin")])
    assert all(one == other for one, other in pairwise(made))
