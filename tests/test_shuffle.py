"""`--shuffle`: each document once, in the order of the oracle, for any way of running or stopping."""

import gzip
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nanogpt_compat import config
from nanogpt_compat.output.open import open_tokens
from nanogpt_compat.resume.journal import read_journal
from nanogpt_compat.text.documents import END_OF_TEXT, Documents
from tests import faults
from tests.conftest import REPOSITORY
from tests.faults import (
    SHUFFLED,
    SMALL_SHUFFLE,
    Args,
    Expected,
    Outcome,
    expect,
    make_text,
    prepare,
    report_of,
)
from tests.reference import each_document, shuffled
from tests.test_index import index_in
from tests.test_shuffle_order import sizes
from tests.texts import PIECES

pytestmark = pytest.mark.costly

SETTINGS: dict[str, Any] = {"every_bytes": 80_000, "window_bytes": 1 << 16, **SMALL_SHUFFLE}
GROUPS = {**SETTINGS, "most_windows": 3}
LINES: Args = SHUFFLED


def in_order(
    text: str, documents: Documents, encoding: tiktoken.Encoding, *, seed: int = 2357
) -> tuple[list[int], list[int]]:
    """Return train and val of the oracle."""
    each = each_document(
        text.split(documents.separator), encoding, eot=documents.eot, ratio=documents.val_ratio
    )
    return shuffled([*each], seed)


@dataclass(frozen=True)
class Text:
    """A text of lines, and the options that make each line a document."""

    path: Path
    documents: Documents

    @property
    def args(self) -> Args:
        return ("--input", self.path, *LINES)

    def expected(self, encoding: tiktoken.Encoding, *, seed: int = 2357) -> tuple[list[int], list[int]]:
        return in_order(self.path.read_text(), self.documents, encoding, seed=seed)


def make(folder: Path, n_bytes: int, ratio: float = 0.0, eot: str = "append") -> Text:
    return Text(make_text(folder / "a.txt", n_bytes), Documents("\n", eot, ratio))


def tokens_in(folder: Path, split: str) -> list[int]:
    paths = sorted(path for path in folder.iterdir() if split in path.name and path.suffix != ".json")
    found: list[int] = []
    for path in paths:
        if path.stat().st_size:
            found += open_tokens(path).tolist()
    return found


def prepare_small(*args: str | Path, most_windows: int = 256, **options: Any) -> Outcome:
    """Run the program in this process, with small windows and ranges."""
    with sizes(SETTINGS["spill_bytes"], SETTINGS["range_bytes"], SETTINGS["chunk_tokens"], most_windows):
        return prepare(*args, **options)


# The order


@pytest.mark.parametrize("eot", ["append", "prepend", "none"])
@pytest.mark.parametrize("n_bytes", [30_000, 400_000])
def test_documents_are_in_the_order_of_the_oracle(
    n_bytes: int, eot: str, tmp_path: Path, gpt2: tiktoken.Encoding
) -> None:
    text = make(tmp_path, n_bytes, 0.25, eot)
    args = (*text.args, "--val-ratio", "0.25", "--eot", eot, "--block-size", "20000")
    done = prepare_small(*args, "--output-dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    expected = text.expected(gpt2)
    assert [tokens_in(tmp_path / "out", split) for split in ("train", "val")] == list(expected)
    report = report_of(tmp_path / "out")
    assert report["shuffle"] == {"seed": 2357}
    assert "shuffled with seed 2357" in done.stderr
    assert not (tmp_path / "out" / ".prepare").exists()


@pytest.mark.parametrize("form", ["npy", "llmc"])
def test_shards_are_cut_from_the_whole_stream_in_its_new_order(
    form: str, tmp_path: Path, gpt2: tiktoken.Encoding
) -> None:
    text = make(tmp_path, 200_000, eot="prepend")
    args = (*text.args, "--format", form, "--shard-tokens", "9001", "--output-dir", tmp_path / "out")
    assert prepare_small(*args).returncode == 0
    found = tokens_in(tmp_path / "out", "val") + tokens_in(tmp_path / "out", "train")
    assert found == text.expected(gpt2)[0]
    assert len(list((tmp_path / "out").glob("*_train_*"))) > 3


def test_shards_of_bin_are_the_pieces_of_its_train_bin(tmp_path: Path) -> None:
    text = make(tmp_path, 200_000)
    assert prepare_small(*text.args, "--output-dir", tmp_path / "one").returncode == 0
    args = (*text.args, "--shard-tokens", "9001", "--output-dir", tmp_path / "many")
    assert prepare_small(*args).returncode == 0
    shards = sorted((tmp_path / "many").glob("train_shard_*"))
    assert len(shards) > 3
    assert b"".join(path.read_bytes() for path in shards) == (tmp_path / "one" / "train.bin").read_bytes()
    assert faults.sha256s(tmp_path / "one")["val.bin"] == faults.sha256s(tmp_path / "many")["val.bin"]


def test_each_document_is_there_once_and_another_seed_gives_another_order(tmp_path: Path) -> None:
    text = make(tmp_path, 200_000)
    plain = tuple(word for word in text.args if word != "--shuffle")
    orders = []
    for name, args in (("plain", plain), ("a", text.args), ("b", (*text.args, "--seed", "7"))):
        assert prepare_small(*args, "--output-dir", tmp_path / name).returncode == 0
        for split in ("train", "val"):
            raw = np.array(tokens_in(tmp_path / name, split), "<u2")
            ends = np.flatnonzero(raw == END_OF_TEXT) + 1
            orders.append([one.tobytes() for one in np.split(raw, ends)])
    train, val = orders[::2], orders[1::2]
    for one in (train, val):
        assert Counter(one[0]) == Counter(one[1]) == Counter(one[2])
    assert train[0] != train[1] != train[2] != train[0]
    assert report_of(tmp_path / "b")["shuffle"] == {"seed": 7}
    assert report_of(tmp_path / "plain")["shuffle"] is None


RUNS: list[Args] = [
    ("--workers", "1", "--block-size", "20000"),
    ("--workers", "4", "--block-size", "70001"),
    ("--engine", "tiktoken"),
]


@pytest.mark.sample(2)
@pytest.mark.parametrize("args", RUNS, ids=["small blocks", "other blocks", "tiktoken"])
def test_blocks_workers_engine_and_windows_change_nothing(args: Args, tmp_path: Path) -> None:
    text = make(tmp_path, 300_000)
    assert prepare(*text.args, "--output-dir", tmp_path / "one").returncode == 0
    for number, most_windows in enumerate((256, 3)):
        out = tmp_path / f"other{number}"
        done = prepare_small(*text.args, *args, "--output-dir", out, most_windows=most_windows)
        assert done.returncode == 0, done.stderr
        assert faults.sha256s(out) == faults.sha256s(tmp_path / "one")


def test_spans_change_nothing(tmp_path: Path) -> None:
    text = make(tmp_path, 300_000)
    assert prepare(*text.args, "--output-dir", tmp_path / "one").returncode == 0
    many = ("--work-dir", tmp_path / "work", "--output-dir", tmp_path / "many", "--span-size", "70000")
    done = prepare_small(*text.args, "--cluster", "local", *many)
    assert done.returncode == 2
    assert "--merge" in done.stderr
    for rank in ("0", "1"):
        done = prepare_small(*text.args, *many, "--rank", rank, "--world-size", "2")
        assert done.returncode == 0, done.stderr
    assert not (tmp_path / "work" / "index.json").exists()  # the parts would not be in the new order
    done = prepare_small(*text.args, *many, "--merge", "--seed", "1")
    assert done.returncode == 5
    assert "--seed" in done.stderr
    done = prepare_small(*text.args, *many, "--merge")
    assert done.returncode == 0, done.stderr
    assert faults.sha256s(tmp_path / "many") == faults.sha256s(tmp_path / "one")
    made = [report_of(tmp_path / name) for name in ("one", "many")]
    assert made[0]["shuffle"] == made[1]["shuffle"]
    assert made[0]["fingerprint"] == made[1]["fingerprint"]


def test_records_streams_and_compressed_text_are_shuffled_like_text(
    tmp_path: Path, gpt2: tiktoken.Encoding
) -> None:
    text = make(tmp_path, 200_000)
    assert prepare(*text.args, "--val-ratio", "0", "--output-dir", tmp_path / "text").returncode == 0
    lines = [line for line in text.path.read_text().split("\n") if line]
    json_lines = "".join(json.dumps({"text": line}) + "\n" for line in lines)
    (tmp_path / "a.jsonl").write_text(json_lines)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text.path.read_bytes()))
    ways: dict[str, Args] = {
        "jsonl": ("--input", tmp_path / "a.jsonl", "--shuffle"),
        "gz": ("--input", tmp_path / "a.txt.gz", *LINES),
    }
    for name, args in ways.items():
        done = prepare_small(*args, "--val-ratio", "0", "--output-dir", tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert faults.sha256s(tmp_path / name) == faults.sha256s(tmp_path / "text")
    command = [sys.executable, "-m", "nanogpt_compat", "-", *LINES, "--val-ratio", "0"]
    command += ["--output-dir", tmp_path / "pipe"]
    with text.path.open("rb") as file:
        subprocess.run(command, stdin=file, capture_output=True, cwd=REPOSITORY, check=True)
    assert faults.sha256s(tmp_path / "pipe") == faults.sha256s(tmp_path / "text")


def test_tables_are_shuffled_like_text(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    text = make(tmp_path, 200_000)
    assert prepare(*text.args, "--val-ratio", "0", "--output-dir", tmp_path / "text").returncode == 0
    lines = [line for line in text.path.read_text().split("\n") if line]
    parquet.write_table(pyarrow.table({"text": lines}), tmp_path / "a.parquet", row_group_size=300)
    args = ("--input", tmp_path / "a.parquet", "--shuffle", "--val-ratio", "0")
    assert prepare_small(*args, "--output-dir", tmp_path / "table").returncode == 0
    assert faults.sha256s(tmp_path / "table") == faults.sha256s(tmp_path / "text")


@given(
    documents=st.lists(
        st.lists(st.sampled_from([one for one in PIECES if "\0" not in one]), max_size=6).map("".join),
        min_size=1,
        max_size=30,
    ),
    long_words=st.sampled_from([0, 2000, 30_000]),
    block_bytes=st.sampled_from([64, 1000, 100_000]),
    every_bytes=st.sampled_from([500, 40_000]),
    eot=st.sampled_from(["append", "prepend", "none"]),
    windows=st.sampled_from([(128, 130, 1), (700, 2000, 100), (60_000, 50_000, 3000)]),
    most_windows=st.sampled_from([2, 256]),
)
@settings(max_examples=12)
def test_documents_of_any_length_and_any_text_are_in_the_order_of_the_oracle(
    documents: list[str],
    long_words: int,
    block_bytes: int,
    every_bytes: int,
    eot: str,
    windows: tuple[int, int, int],
    most_windows: int,
    gpt2: tiktoken.Encoding,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    documents.insert(len(documents) // 2, "longer than a window " * (long_words // 4))
    raw = "\x1e".join(documents).encode()
    (folder / "a.txt").write_bytes(raw)
    text = (folder / "a.txt").read_text()
    assume(text.replace("\x1e", ""))
    args: Args = ("--input", folder / "a.txt", "--document-separator", r"\x1e", "--shuffle", "--eot", eot)
    args = (*args, "--val-ratio", "0", "--block-size", str(block_bytes), "--output-dir", folder / "out")
    with sizes(*windows, most_windows):
        done = prepare(*args, every_bytes=every_bytes)
    assume(done.returncode != 3)  # input that does not look like text is refused
    assert done.returncode == 0, done.stderr
    expected, _ = in_order(text, Documents("\x1e", eot, 0.0), gpt2)
    assert tokens_in(folder / "out", "train") == expected


def test_300_windows_are_merged_in_groups_first(tmp_path: Path, gpt2: tiktoken.Encoding) -> None:
    text = make(tmp_path, 500_000, 0.1)
    args = (*text.args, "--val-ratio", "0.1", "--block-size", "16384", "--workers", "1")
    with sizes(3_000, 100_000, 3_000):
        done = prepare(*args, "--output-dir", tmp_path / "out", every_bytes=40_000)
    assert done.returncode == 0, done.stderr
    assert [tokens_in(tmp_path / "out", split) for split in ("train", "val")] == list(text.expected(gpt2))


# Stops


@pytest.mark.sample(1)
@pytest.mark.parametrize("options", [(), ("--format", "npy", "--shard-tokens", "20011")], ids=["bin", "npy"])
@pytest.mark.parametrize("settings", [SETTINGS, GROUPS], ids=["two passes", "groups"])
@pytest.mark.parametrize("step", [23, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def test_killed_at_any_call_it_ends_in_the_same_files(
    step: int, settings: dict[str, Any], options: Args, tmp_path: Path
) -> None:
    text = make(tmp_path, 500_000)
    args = (*text.args, *options, "--block-size", "30000", "--workers", "1", "--engine", "tiktoken")
    log, out = tmp_path / "log", tmp_path / "out"
    expected = expect(tmp_path / "expected", *args, log=str(log), **settings)
    n_calls = len(log.read_text().splitlines())
    passes = set()
    for skip in range(step // 2, n_calls - 5, step):
        done = faults.run(*args, "--output-dir", out, at=".*", skip=skip, **settings)
        if done.returncode == 0:  # threads may make fewer calls
            assert skip > n_calls - 20
            break
        assert done.returncode == -9, done.stderr
        expected.assert_nothing_partial(out)
        again = faults.run(*args, "--output-dir", out, **settings)
        assert again.returncode == 0, again.stderr
        expected.assert_reached(out)
        passes |= {word for word in ("first of two passes", "second pass") if word in again.stderr}
        shutil.rmtree(out)
    assert len(passes) == 2


def test_killed_a_few_calls_later_each_time_it_finishes(tmp_path: Path) -> None:
    text = make(tmp_path, 500_000)
    args = (*text.args, "--block-size", "30000", "--engine", "tiktoken")
    expected = expect(tmp_path / "expected", *args, **GROUPS)
    out = tmp_path / "out"
    for n_calls in range(20, 2000, 17):
        done = faults.run(*args, "--output-dir", out, at=".*", skip=n_calls, **GROUPS)
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        expected.assert_nothing_partial(out)
    expected.assert_reached(out)


def stop_in_second_pass(text: Text, out: Path, *args: str | Path, skip: int = 6) -> None:
    """Kill a run in its second pass, with a part of it saved."""
    done = faults.run(
        *text.args, *args, "--output-dir", out, at=r"mmap train\.bin\.partial", skip=skip, **SETTINGS
    )
    assert done.returncode == -9, done.stderr
    (last,) = [*read_journal(out / ".prepare" / "journal")][-1:]
    tally = last.record["tally"]
    assert isinstance(tally, dict)
    assert tally["shuffled"]["n_tokens"] > 0


@pytest.fixture
def stopped(tmp_path: Path) -> tuple[Text, Expected, Path]:
    text = make(tmp_path, 900_000)
    expected = expect(tmp_path / "expected", *text.args, **SETTINGS)
    stop_in_second_pass(text, tmp_path / "out")
    return text, expected, tmp_path / "out"


def test_the_second_pass_resumes_without_reading_the_input_again(
    stopped: tuple[Text, Expected, Path], tmp_path: Path
) -> None:
    text, expected, out = stopped
    log = tmp_path / "log"
    done = faults.run(*text.args, "--output-dir", out, log=str(log), **SETTINGS)
    assert done.returncode == 0, done.stderr
    assert "% of the second pass" in done.stderr
    assert "encode text" not in log.read_text()
    assert expected.assert_reached(out)["resumes"] == 1


def another(path: Path) -> Path:
    return make_text(path.with_name("b.txt"), 1000)


CHANGES: dict[str, tuple[Callable[[Text], Args], str]] = {
    "another seed": (lambda text: (*text.args, "--seed", "1"), "--seed was 2,357 and is 1"),
    "no shuffle": (lambda text: text.args[:-1], "--shuffle was given and is not given"),
    "one more input": (
        lambda text: (*text.args, "--input", another(text.path)),
        "the number of inputs was 1, is 2",
    ),
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("change", CHANGES)
def test_another_order_or_another_input_does_not_resume_it(
    change: str, stopped: tuple[Text, Expected, Path]
) -> None:
    text, _, out = stopped
    args, message = CHANGES[change]
    done = prepare(*args(text), "--output-dir", out)
    assert done.returncode == 5, done.stderr
    assert message in done.stderr
    assert "of the second pass" in done.stderr or "saved: " in done.stderr
    assert prepare_small(*text.args, "--output-dir", out).returncode == 0


def test_an_input_that_has_changed_is_noticed_in_the_second_pass(
    stopped: tuple[Text, Expected, Path],
) -> None:
    text, expected, out = stopped
    whole = text.path.read_bytes()
    for changed in (whole + b"\nmore", whole[:-1], whole[:1000].upper() + whole[1000:]):
        text.path.write_bytes(changed)
        done = prepare(*text.args, "--output-dir", out)
        assert done.returncode == 5, done.stderr
    text.path.write_bytes(whole)  # has another timestamp, so it is read again
    assert prepare_small(*text.args, "--output-dir", out).returncode == 0
    assert faults.sha256s(out) == expected.sha256s


def test_an_unshuffled_run_is_not_resumed_as_a_shuffled_one(tmp_path: Path) -> None:
    text = make(tmp_path, 300_000)
    plain = (*text.args[:-1], "--output-dir", tmp_path / "out")
    assert faults.run(*plain, at="write journal", skip=3, **SETTINGS).returncode == -9
    done = prepare(*text.args, "--output-dir", tmp_path / "out")
    assert done.returncode == 5
    assert "--shuffle was not given and is given" in done.stderr


@pytest.mark.sample(3)
@pytest.mark.parametrize("what", ["tokens", "records", "windows"])
@pytest.mark.parametrize("damage", ["a flipped bit", "cut short", "gone"])
def test_a_damaged_spill_is_noticed_before_it_is_read(
    damage: str, what: str, stopped: tuple[Text, Expected, Path]
) -> None:
    text, expected, out = stopped
    path = out / ".prepare" / f"spill-0-{what}.partial"
    raw = bytearray(path.read_bytes())
    if damage == "a flipped bit":
        raw[len(raw) // 2] ^= 64
        path.write_bytes(raw)
    elif damage == "cut short":
        path.write_bytes(raw[: len(raw) // 2])
    else:
        path.unlink()
    done = faults.run(*text.args, "--output-dir", out, **SETTINGS)
    assert done.returncode == 0, done.stderr
    assert faults.sha256s(out) == expected.sha256s
    assert report_of(out)["checkpoint_fallbacks"] > 0


def test_damaged_output_of_the_second_pass_is_made_again(stopped: tuple[Text, Expected, Path]) -> None:
    text, expected, out = stopped
    path = out / ".prepare" / "train.bin.partial"
    raw = bytearray(path.read_bytes())
    raw[100] ^= 1
    path.write_bytes(raw)
    done = faults.run(*text.args, "--output-dir", out, **SETTINGS)
    assert done.returncode == 0, done.stderr
    assert faults.sha256s(out) == expected.sha256s


@pytest.mark.sample(2)
@pytest.mark.parametrize("call", ["spill-0-tokens", "spill-0-records", "spill-1-tokens", "train.bin"])
def test_a_failed_allocation_in_any_pass_is_an_error_and_the_next_run_resumes(
    call: str, tmp_path: Path
) -> None:
    text = make(tmp_path, 500_000)
    expected = expect(tmp_path / "expected", *text.args, **GROUPS)
    args = (*text.args, "--output-dir", tmp_path / "out")
    at = rf"fallocate {call}\.partial"
    done = faults.run(*args, at=at, skip=1, do="OSError", **GROUPS)
    assert done.returncode == 4, done.stderr
    assert "run the same command again" in done.stderr
    again = faults.run(*args, **GROUPS)
    assert again.returncode == 0, again.stderr
    expected.assert_reached(tmp_path / "out")


def test_a_stop_in_either_pass_reports_the_saved_work(tmp_path: Path) -> None:
    text = make(tmp_path, 500_000)
    args = (*text.args, "--block-size", "30000", "--output-dir", tmp_path / "out")
    for at, words in (
        ("fallocate spill-0-tokens.partial", "of the first of two passes"),
        ("fallocate train.bin.partial", "% of the second pass"),
    ):
        done = faults.run(*args, at=at, skip=2, do="OSError", **SETTINGS)
        assert done.returncode == 4, done.stderr
        saved = next(line for line in done.stderr.splitlines() if line.startswith("saved: "))
        assert words in saved


# Options, checks and reports


def test_it_is_refused_without_documents_and_a_seed_without_it(tmp_path: Path) -> None:
    text = make(tmp_path, 10_000)
    for args, words in (
        (("--shuffle",), "--document-separator"),
        ((*LINES[:2], "--seed", "3"), "no effect without it"),
        ((*LINES, "--seed", "-1"), "0 to 2^64 - 1"),
        ((*LINES, "--seed", str(2**64)), "0 to 2^64 - 1"),
    ):
        done = prepare("--input", text.path, *args, "--output-dir", tmp_path / "out")
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
    assert not (tmp_path / "out").exists()


def test_complete_output_is_left_unchanged_and_another_seed_is_refused(tmp_path: Path) -> None:
    text = make(tmp_path, 100_000)
    args = (*text.args, "--output-dir", tmp_path / "out")
    assert prepare(*args).returncode == 0
    before = faults.snapshot(tmp_path / "out")
    assert "already complete" in prepare(*args).stderr
    done = prepare(*args, "--seed", "1")
    assert done.returncode == 4
    assert "--seed was 2,357 and is 1" in done.stderr
    assert faults.snapshot(tmp_path / "out") == before


def test_a_disk_too_small_for_output_and_spill_is_refused_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = make(tmp_path, 3_000_000)
    plain = (*text.args[:-1], "--output-dir", tmp_path / "out", "--dry-run")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=4_000_000))
    assert prepare(*plain).returncode == 0
    done = prepare(*text.args, *plain[4:])
    assert done.returncode == 4, done.stderr
    assert "while it is shuffled" in done.stderr


def test_the_spill_takes_no_more_space_than_forecast(tmp_path: Path) -> None:
    text = make(tmp_path, 3_000_000)
    out = tmp_path / "out"
    process = faults.start(*text.args, "--output-dir", out, at="rename val.bin.partial", do="SIGSTOP")
    faults.wait_until_stopped(process)
    work = list((out / ".prepare").iterdir())
    spill_bytes = sum(path.stat().st_size for path in work if path.name.startswith("spill"))
    all_bytes = sum(path.stat().st_size for path in work if path.suffix == ".partial")
    assert faults.let_finish(process).returncode == 0
    report = report_of(out)
    output_bytes = sum(one["bytes"] for one in report["files"])
    assert spill_bytes <= output_bytes + 17 * report["documents"] + 10_000
    assert all_bytes == spill_bytes + output_bytes


def test_verify_shuffles_again_and_compares(tmp_path: Path) -> None:
    text = make(tmp_path, 300_000)
    out = tmp_path / "out"
    args = (*text.args, "--output-dir", out)
    assert prepare(*args).returncode == 0
    for most_windows in (256, 2):
        done = prepare_small(*args, "--verify", most_windows=most_windows)
        assert done.returncode == 0, done.stderr
        assert "verified: " in done.stderr
        assert not (out / ".prepare").exists()
    assert all(len(one["sha256"]) == 64 for one in report_of(out)["files"])
    raw = bytearray((out / "train.bin").read_bytes())
    raw[5000:5002] = b"\x01\x00"
    (out / "train.bin").write_bytes(raw)
    done = prepare_small(*args, "--verify")
    assert done.returncode == 1
    assert "token 2,500, at byte 5,000" in done.stderr
    assert "because the documents are shuffled" in done.stderr
    assert not (out / ".prepare").exists()


def test_verify_leaves_the_saved_work_of_a_stopped_run_alone(tmp_path: Path) -> None:
    text = make(tmp_path, 900_000)
    out = tmp_path / "out"
    assert prepare(*text.args, "--output-dir", out).returncode == 0
    stop_in_second_pass(text, out, "--overwrite")
    saved = {path.name: path.read_bytes() for path in (out / ".prepare").glob("*.partial")}
    assert prepare_small(*text.args, "--output-dir", out, "--verify").returncode == 0
    assert {path.name: path.read_bytes() for path in (out / ".prepare").glob("*.partial")} == saved


def test_inspect_reports_the_input_of_a_token_as_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = make(tmp_path, 100_000)
    assert prepare(*text.args, "--output-dir", tmp_path / "out").returncode == 0
    assert prepare("--inspect", tmp_path / "out", "--at", "train:100").returncode == 0
    assert "because the documents are shuffled" in capsys.readouterr().out
    assert prepare("--inspect", tmp_path / "out").returncode == 0
    assert "shuffled with seed 2357" in " ".join(capsys.readouterr().out.split())


def test_inspect_reports_the_progress_of_a_stopped_shuffle(
    stopped: tuple[Text, Expected, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare("--inspect", stopped[2]).returncode == 0
    assert "of them are shuffled" in " ".join(capsys.readouterr().out.split())


def test_n_limits_the_part_that_is_read(
    tmp_path: Path, gpt2: tiktoken.Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "CHARS_PER_CHUNK", 50_000)
    text = make(tmp_path, 300_000)
    args = (*text.args, "--val-ratio", "0", "--n", "1")
    assert prepare_small(*args, "--output-dir", tmp_path / "out").returncode == 0
    whole = text.path.read_text()
    some = whole[: whole.index("\n", 50_000)]
    expected, _ = in_order(some, text.documents, gpt2)
    assert tokens_in(tmp_path / "out", "train") == expected


def test_the_feed_has_a_state_for_the_second_pass(tmp_path: Path) -> None:
    text = make(tmp_path, 100_000)
    command = [sys.executable, "-m", "nanogpt_compat", *map(str, text.args), "--progress", "json"]
    command += ["--output-dir", str(tmp_path / "out")]
    fed = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    states = [json.loads(line)["state"] for line in fed.stdout.splitlines()]
    assert list(dict.fromkeys(states)) == ["preparing", "running", "shuffling", "finishing", "done"]


def test_empty_documents_and_an_empty_val_are_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n\nonly one\n\n")
    done = prepare("--input", tmp_path / "a.txt", *LINES, "--output-dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert sorted(map(len, (tokens_in(tmp_path / "out", "val"), tokens_in(tmp_path / "out", "train")))) == [
        0,
        3,
    ]
    (tmp_path / "a.txt").write_text("\n\n\n")
    done = prepare("--input", tmp_path / "a.txt", *LINES, "--output-dir", tmp_path / "none")
    assert done.returncode == 3
    assert "there is no text" in done.stderr
    assert not list((tmp_path / "none").glob("**/*"))


@pytest.mark.parametrize("eot", ["append", "none"])
def test_an_index_is_of_the_documents_in_their_new_order(
    eot: str, tmp_path: Path, gpt2: tiktoken.Encoding
) -> None:
    text = make(tmp_path, 300_000, 0.25, eot)
    args = (*text.args, "--val-ratio", "0.25", "--eot", eot, "--index", "--block-size", "30000")
    out = tmp_path / "out"
    done = prepare_small(*args, "--output-dir", out, most_windows=3)
    assert done.returncode == 0, done.stderr
    lines = text.path.read_text().split("\n")
    documents = [*each_document(lines, gpt2, eot=eot, ratio=0.25)]
    numbered = [(is_val, [index] * len(tokens)) for index, (is_val, tokens) in enumerate(documents)]
    for split, order in zip(("train", "val"), shuffled(numbered, 2357), strict=True):
        lengths = [len(documents[index][1]) for index in dict.fromkeys(order)]
        assert index_in(out, split).sizes == lengths
    assert prepare_small(*args, "--output-dir", out, "--verify").returncode == 0


def test_max_tokens_limits_the_part_that_is_read(tmp_path: Path, gpt2: tiktoken.Encoding) -> None:
    text = make(tmp_path, 300_000)
    args = (*text.args, "--val-ratio", "0", "--max-tokens", "20000", "--block-size", "30000")
    assert prepare_small(*args, "--output-dir", tmp_path / "out").returncode == 0
    documents = [*each_document(text.path.read_text().split("\n"), gpt2, eot="append", ratio=0.0)]
    n = next(k for k in range(len(documents)) if sum(len(one) for _, one in documents[:k]) >= 20_000)
    assert tokens_in(tmp_path / "out", "train") == shuffled(documents[:n], 2357)[0]
