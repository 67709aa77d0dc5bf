"""--verify: right output passes, and wrong output is found, with its place."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken

from nanogpt_compat import __version__
from nanogpt_compat.encoders import block as encode
from nanogpt_compat.run.supervise import locked
from nanogpt_compat.system.units import plural
from nanogpt_compat.text.val_split import val_windows
from tests import faults
from tests.conftest import REPOSITORY
from tests.faults import Args, Outcome, assert_refused, make_text, prepare, report_of, sha256s, snapshot
from tests.reference import exact_cuts, whole_tokens
from tests.test_resume_changes import unsampled

pytestmark = pytest.mark.costly

N_BYTES = 600_000  # more than the samples hold
OPTIONS: Args = ("--val-ratio", "0.2", "--block-size", "20000")
MAX_BLOCK_BYTES = 22_000  # a block ends at the next exact cut
MAX_S = 30.0  # a second is promised; a busy machine may take longer
MAX_PEAK_BYTES = 256_000_000


@dataclass(frozen=True)
class Made:
    """A finished output that a test may spoil, and its input."""

    path: Path
    out: Path

    @property
    def args(self) -> Args:
        return ("--input", self.path, "--output-dir", self.out, *OPTIONS)

    def verify(self, *more: str | Path) -> Outcome:
        return prepare(*self.args, *more, "--verify")

    def tokens(self, name: str) -> list[int]:
        return np.fromfile(self.out / name, "<u2").tolist()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("original")
    made = Made(make_text(folder / "a.txt", N_BYTES), folder / "out")
    plain = made.path.read_bytes().decode("utf-8", "ignore").replace("\r", "\n").encode()
    made.path.write_bytes(plain[:-1] + b".")  # so a place in the text is the same in the file
    assert prepare(*made.args).returncode == 0
    return made


@pytest.fixture
def made(original: Made, tmp_path: Path) -> Made:
    """Copy the output, to another inode; the input is that of the original."""
    shutil.copytree(original.out, tmp_path / "out")
    return Made(original.path, tmp_path / "out")


@pytest.fixture
def own(made: Made, tmp_path: Path) -> Made:
    """Like `made`, with an input of its own that may be changed."""
    shutil.copy2(made.path, tmp_path / "a.txt")
    return Made(tmp_path / "a.txt", made.out)


def refused(made: Made, exit_code: int, *messages: str, options: Args = ()) -> str:
    """Verify: it must end with this code and all of these messages, and leave the folder as it was."""
    return assert_refused(made.out, lambda: made.verify(*options), exit_code, *messages)


# Right output


def test_right_output_of_either_engine_passes_and_only_the_report_changes(
    tmp_path: Path, engine: str
) -> None:
    paths = [make_text(tmp_path / f"{k}.txt", 150_000, seed=k, n_invalid=10 * k) for k in range(2)]
    paths[1].write_bytes(paths[1].read_bytes().replace(b"\n", b"\r\n"))
    out = tmp_path / "out"
    args: Args = ("--input", *paths, "--output-dir", out, *OPTIONS, "--engine", engine)
    assert prepare(*args).returncode == 0
    old, before = report_of(out), snapshot(out)
    assert old["engine"] == engine
    done = prepare(*args, "--verify")
    assert done.returncode == 0, done.stderr
    tokens = old["tokens"]
    line = f"train.bin {tokens['train']:,} tokens, val.bin {tokens['val']:,} tokens"
    assert f"\nverified: {line}, all as tiktoken {tiktoken.__version__} makes them\n" in done.stderr
    report = str(out / "prepare.json")
    after = snapshot(out)
    assert {name for name in after if after[name] != before.get(name)} == {report}
    assert after.keys() == before.keys()
    found = sha256s(out)
    assert report_of(out) == old | {"files": [one | {"sha256": found[one["name"]]} for one in old["files"]]}
    again = prepare(*args)
    assert (again.returncode, "already complete" in again.stderr) == (0, True), again.stderr
    assert snapshot(out) == after


def with_documents(folder: Path) -> Made:
    (folder / "a.jsonl").write_text('{"text": "one"}\n{"text": ""}\n{"text": 2}\n' * 3 + '{"text": "last"}')
    return Made(folder / "a.jsonl", folder / "out")


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *(("documents", 3), ("documents", None), ("empty_documents", 2), ("skipped_records", 0)),
        *(("invalid_bytes", 1), ("tokens", {"train": 7, "val": 1})),
    ],
)
def test_a_report_with_other_counts_is_found(name: str, count: object, tmp_path: Path) -> None:
    made = with_documents(tmp_path)
    skip: Args = ("--skip-bad-records",)
    assert prepare(*made.args, *skip).returncode == 0
    report = report_of(made.out)
    right = report[name]
    (made.out / "prepare.json").write_text(json.dumps(report | {name: count}))
    refused(made, 1, f"prepare.json: {name} is {count!r} and should be {right!r}; run the same", options=skip)


@pytest.mark.parametrize("eot", ["append", "none"])
def test_documents_without_their_ends_are_found(
    eot: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = with_documents(tmp_path)
    options: Args = ("--skip-bad-records", "--eot", eot)
    encode_pieces, other = encode._encode_pieces, "none" if eot == "append" else "append"

    def encode_with_other(*args: Any) -> encode.Encoded:
        empty, pieces, encoder, check_at, documents = args
        return encode_pieces(empty, pieces, encoder, check_at, replace(documents, eot=other))

    with monkeypatch.context() as patch:  # in the run and in its verification
        patch.setattr(encode, "_encode_pieces", encode_with_other)
        assert prepare(*made.args, *options).returncode == 0
        n_documents, n_ends = (4, 0) if eot == "append" else (0, 4)
        refused(made, 1, f"{n_documents} documents have {n_ends} end-of-text", options=options)


@pytest.mark.parametrize(
    "options",
    [
        *("--val-split head", "--val-split tail", "--val-split none", "--val-ratio 0", "--n 1"),
        *("--errors replace", "--workers 1", "--block-size 777", "--max-memory 4G", "--overwrite"),
    ],
)
def test_it_takes_the_options_of_a_run(own: Made, tmp_path: Path, options: str) -> None:
    make_text(own.path, N_BYTES, n_invalid=20)
    args: Args = ("--input", own.path, "--output-dir", tmp_path / "with options", *options.split())
    assert prepare(*args).returncode == 0
    done = prepare(*args, "--verify")
    assert done.returncode == 0, done.stderr


def test_threads_block_size_and_engine_may_differ_from_the_run(made: Made) -> None:
    assert made.verify("--workers", "3", "--block-size", "50K", "--engine", "gigatoken").returncode == 0


def test_with_quiet_nothing_is_printed(made: Made) -> None:
    assert made.verify("--quiet") == Outcome(0, "")


def test_n_is_verified_up_to_its_end(own: Made, tmp_path: Path) -> None:
    own.path.write_bytes(b"one two three four five\n" * 450_000)
    args: Args = ("--input", own.path, "--output-dir", tmp_path / "n", "--n", "1")
    assert prepare(*args).returncode == 0
    done = prepare(*args, "--verify")
    assert done.returncode == 0, done.stderr


# A wrong token


LOCATED = re.compile(
    r"prepare: error: (?P<file>.*?): token (?P<token>[\d,]+), at byte (?P<byte>[\d,]+), is (?P<found>.*) and "
    r"should be (?P<expected>\d+) \((?P<text>b.*)\), which comes from the block of bytes "
    r"(?P<first>[\d,]+) to (?P<end>[\d,]+) of (?P<input>.*); run the same command with --overwrite "
    r"instead of --verify to make the output again\n"
)


def number(text: str) -> int:
    return int(text.replace(",", ""))


def place_of(made: Made, name: str, index: int, gpt2: tiktoken.Encoding) -> int:
    """Find the place in the input that a token of a file comes from, by encoding the whole."""
    raw = made.path.read_bytes()
    ((edge, _),) = val_windows(len(raw), 0.2, "spread")
    first_of_val = edge + exact_cuts(raw[edge - 4 : edge + 1000])[0] - 4
    while first_of_val < edge:
        first_of_val += exact_cuts(raw[first_of_val:][:1000])[0]
    whole = whole_tokens(made.path, gpt2).tolist()
    starts = np.cumsum([0, *map(len, gpt2.decode_tokens_bytes(whole))]).tolist()
    n_before = starts.index(first_of_val)
    n_val = report_of(made.out)["tokens"]["val"]
    if name == "val.bin":
        return int(starts[n_before + index])
    return int(starts[index if index < n_before else index + n_val])


def assert_located(
    made: Made, name: str, index: int, expected: int, found: str, gpt2: tiktoken.Encoding
) -> None:
    error = refused(made, 1)
    match = LOCATED.fullmatch(error)
    assert match is not None, error
    assert match["file"] == str(made.out.resolve() / name)
    assert (number(match["token"]), number(match["byte"])) == (index, 2 * index)
    assert (match["found"], int(match["expected"])) == (found, expected)
    assert match["input"] == str(made.path)
    assert match["text"] == repr(gpt2.decode_single_token_bytes(expected))
    assert_in_block(match, place_of(made, name, index, gpt2))


def assert_in_block(match: re.Match[str], place: int) -> None:
    first, end = number(match["first"]), number(match["end"])
    assert first <= place < end
    assert end - first <= MAX_BLOCK_BYTES


def flip(path: Path, index: int, bit: int) -> tuple[int, int]:
    """Flip a bit of a token; return the token before and after."""
    tokens = np.fromfile(path, "<u2")
    was = int(tokens[index])
    tokens[index] ^= 1 << bit
    tokens.tofile(path)
    return was, int(tokens[index])


@pytest.mark.parametrize("name", ["train.bin", "val.bin"])
@pytest.mark.parametrize("where", ["first", "second", "middle", "last"])
def test_one_flipped_bit_is_found_and_located(
    made: Made, gpt2: tiktoken.Encoding, name: str, where: str
) -> None:
    n_tokens = len(made.tokens(name))
    index = {"first": 0, "second": 1, "middle": n_tokens // 2, "last": n_tokens - 1}[where]
    was, now = flip(made.out / name, index, bit=0)
    found = f"{now} ({gpt2.decode_single_token_bytes(now)!r})"
    assert_located(made, name, index, was, found, gpt2)


def test_the_first_of_two_flipped_bits_is_reported(made: Made, gpt2: tiktoken.Encoding) -> None:
    flip(made.out / "train.bin", 40_000, bit=3)
    was, now = flip(made.out / "train.bin", 20_000, bit=3)
    found = f"{now} ({gpt2.decode_single_token_bytes(now)!r})"
    assert_located(made, "train.bin", 20_000, was, found, gpt2)


def test_an_invalid_token_is_reported(made: Made, gpt2: tiktoken.Encoding) -> None:
    tokens = np.fromfile(made.out / "train.bin", "<u2")
    was = int(tokens[1234])
    tokens[1234] = 50257
    tokens.tofile(made.out / "train.bin")
    assert_located(made, "train.bin", 1234, was, "50257, which is no token of GPT-2", gpt2)


def test_the_block_in_the_second_input_is_found_past_line_ends_and_invalid_bytes(
    tmp_path: Path, gpt2: tiktoken.Encoding
) -> None:
    lines = [b"line %d of \xff\xfe many caf\xc3\xa9 \xe4\xb8\xad\r\n" % k for k in range(9000)]
    (tmp_path / "0.txt").write_bytes(b"".join(lines[:2000]))
    (tmp_path / "1.txt").write_bytes(b"".join(lines))
    out = tmp_path / "out"
    args: Args = (
        "--input",
        tmp_path / "0.txt",
        tmp_path / "1.txt",
        "--output-dir",
        out,
        "--errors",
        "ignore",
    )
    assert prepare(*args, "--val-split", "none", "--block-size", "20000").returncode == 0
    tokens = np.fromfile(out / "train.bin", "<u2")
    parts = gpt2.decode_tokens_bytes(tokens.tolist())
    place = b"".join(parts).rindex(b"line 8765") + len(b"line")
    index = int(np.searchsorted(np.cumsum(list(map(len, parts))), place, side="right"))
    flip(out / "train.bin", index, bit=0)
    done = prepare(*args, "--val-split", "none", "--block-size", "20000", "--verify")
    match = LOCATED.fullmatch(done.stderr[done.stderr.index("prepare: error: ") :])
    assert match is not None, done.stderr
    assert match["input"] == str(tmp_path / "1.txt")
    assert_in_block(match, (tmp_path / "1.txt").read_bytes().index(b"line 8765") + len(b"line"))


def test_an_unnoticed_error_of_an_engine_is_found(tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 300_000)
    raw = path.read_bytes()
    path.write_bytes(raw[:200_000] + b" xyzzyq " + raw[200_000:])
    args: Args = ("--input", path, "--output-dir", tmp_path / "out", "--block-size", "20000")
    done = faults.run(*args, "--engine", "gigatoken", errs_at="xyzzyq")
    assert (done.returncode, report_of(tmp_path / "out")["engine_mismatch"]) == (0, ""), done.stderr
    done = faults.run(*args, "--engine", "gigatoken", "--verify", errs_at="xyzzyq")
    assert done.returncode == 1
    match = LOCATED.search(done.stderr)
    assert match is not None, done.stderr
    assert_in_block(match, 200_000)


# Wrong files


@pytest.mark.parametrize("n_bytes_less", [1, 2, 7, 50_000])
@pytest.mark.parametrize("name", ["train.bin", "val.bin"])
def test_a_file_that_is_too_short_is_reported_with_its_end(
    made: Made, gpt2: tiktoken.Encoding, name: str, n_bytes_less: int
) -> None:
    tokens = made.tokens(name)
    n_bytes = max(0, 2 * len(tokens) - n_bytes_less)
    os.truncate(made.out / name, n_bytes)
    assert_located(made, name, n_bytes // 2, tokens[n_bytes // 2], "missing (the file ends there)", gpt2)


@pytest.mark.parametrize("n_bytes_more", [1, 2, 50_000])
@pytest.mark.parametrize("name", ["train.bin", "val.bin"])
def test_a_file_that_is_too_long_is_reported_with_its_right_end(
    made: Made, name: str, n_bytes_more: int
) -> None:
    n_tokens = len(made.tokens(name))
    with (made.out / name).open("ab") as file:
        file.write(bytes(n_bytes_more))
    end = f"{name} should end after {n_tokens:,} tokens, at byte {2 * n_tokens:,}, and "
    refused(made, 1, f"{end}has {plural(n_bytes_more, 'byte')} more")


def test_swapped_files_are_found(made: Made, gpt2: tiktoken.Encoding) -> None:
    (made.out / "train.bin").rename(made.out / "other")
    (made.out / "val.bin").rename(made.out / "train.bin")
    (made.out / "other").rename(made.out / "val.bin")
    pairs = zip(made.tokens("train.bin"), made.tokens("val.bin"), strict=False)
    # Both may begin with the same tokens: the text depends on the version of Python.
    index, (wrong, right) = next((k, pair) for k, pair in enumerate(pairs) if pair[0] != pair[1])
    found = f"{wrong} ({gpt2.decode_single_token_bytes(wrong)!r})"
    assert_located(made, "train.bin", index, right, found, gpt2)


def test_an_extra_val_bin_is_reported(own: Made, tmp_path: Path) -> None:
    out = tmp_path / "none"
    args: Args = ("--input", own.path, "--output-dir", out, "--val-split", "none")
    assert prepare(*args).returncode == 0
    (out / "val.bin").write_bytes(b"old")
    done = prepare(*args, "--verify")
    assert done.returncode == 1
    assert f"{out / 'val.bin'} exists, but this run makes no val.bin" in done.stderr


@pytest.mark.parametrize("name", ["prepare.json", "train.bin", "val.bin"])
def test_verifying_needs_complete_output(made: Made, name: str) -> None:
    (made.out / name).unlink()
    refused(made, 4, "there is no complete output to verify", name, "without --verify")


def test_a_missing_folder_is_not_made(made: Made, tmp_path: Path) -> None:
    done = prepare("--input", made.path, "--output-dir", tmp_path / "no" / "such", "--verify")
    assert done.returncode == 4
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("content", ["{}", "[]", "", '{"inputs": 3, "options": [], "versions": null}'])
def test_a_report_of_another_form_is_refused(made: Made, content: str) -> None:
    (made.out / "prepare.json").write_text(content)
    refused(made, 4, "prepare.json")


# Another input, other options, another run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--val-ratio 0.1", "--val-ratio was 0.2 and is 0.1"),
        ("--val-split tail", "--val-split was spread and is tail"),
        ("--errors replace", "--errors was ignore and is replace"),
        ("--n 3", "--n was not given and is 3"),
    ],
)
def test_options_that_differ_from_the_run_are_named(made: Made, options: str, message: str) -> None:
    refused(
        made,
        5,
        message,
        "prepare.json belongs to a different run",
        options=(*options.split(),),
    )


def test_another_version_of_tiktoken_or_of_the_tokens_is_refused(made: Made) -> None:
    report = made.out / "prepare.json"
    text = report.read_text()
    report.write_text(re.sub(r'"tiktoken": "[^"]*"', '"tiktoken": "0.1.2"', text))
    refused(made, 5, f"tiktoken was 0.1.2 and is {tiktoken.__version__}")
    report.write_text(re.sub(r'"fingerprint": "[^"]*"', '"fingerprint": "0"', text))
    refused(made, 5, "the vocabulary or the version of this program")


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b" and more")


def edit(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b" edited ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (grow, "had {0:,} bytes and has {1:,}"),
        (lambda path: edit(path, 100), "has different content than before"),
        (
            lambda path: edit(path, unsampled(path, 100_000, 500_000)),
            "was changed within the {0:,} bytes already read",
        ),
    ],
    ids=["grown", "edited in a sample", "edited between samples"],
)
def test_an_input_that_has_changed_is_named(own: Made, change: Callable[[Path], None], message: str) -> None:
    n_bytes = own.path.stat().st_size
    change(own.path)
    refused(own, 5, f"{own.path} {message.format(n_bytes, n_bytes + 9)}")


def test_other_inputs_are_counted(made: Made, tmp_path: Path) -> None:
    more = make_text(tmp_path / "more.txt", 1000)
    refused(made, 5, "the number of inputs was 1, is 2", options=("--input", more))


def test_an_input_with_only_a_new_timestamp_is_read_again_and_passes(own: Made) -> None:
    own.path.touch()
    done = own.verify()
    assert done.returncode == 0, done.stderr
    assert "may have changed: reading 600 kB of it again to check" in done.stderr


def test_a_folder_in_use_by_another_run_is_not_verified(made: Made) -> None:
    with locked([made.out]):
        before = snapshot(made.out)
        done = made.verify()
        assert (done.returncode, "in use by another run" in done.stderr) == (4, True), done.stderr
        assert snapshot(made.out) == before


def test_a_stopped_run_next_to_the_output_can_still_resume(made: Made) -> None:
    args: Args = (*made.args, "--overwrite")
    with pytest.raises(faults.Stopped):
        prepare(*args, stop_after_bytes=N_BYTES // 2)
    stopped = snapshot(made.out / ".prepare")
    assert made.verify().returncode == 0
    assert snapshot(made.out / ".prepare") == stopped


@pytest.mark.parametrize("option", ["--dry-run", "--restart"])
def test_it_cannot_be_combined_with_another_task(made: Made, option: str) -> None:
    refused(made, 2, "--verify only reads what a run has made", options=(option,))


# Stops and memory


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_it_within_a_second(made: Made, name: str) -> None:
    before = snapshot(made.out)
    process = faults.start(*made.args, "--verify", at="encode text", skip=8, do="SIGSTOP")
    faults.wait_until_stopped(process)
    number = signal.Signals[name]
    process.send_signal(number)
    began_s = time.monotonic()
    done = faults.let_finish(process)
    assert time.monotonic() - began_s < MAX_S
    assert done.returncode == -number, done.stderr
    assert f"prepare: stopped by {name}" in done.stderr
    assert "verified" not in done.stderr
    assert snapshot(made.out) == before
    assert not (made.out / ".prepare").exists()


def test_a_lack_of_memory_stops_it_like_a_run(made: Made) -> None:
    done = faults.run(*made.args, "--verify", at="encode text", skip=8, do="MemoryError")
    assert done.returncode == 75, done.stderr
    assert "the system refused memory" in done.stderr
    assert " --verify" in done.stderr.splitlines()[-1]


PEAK = """
import sys
from nanogpt_compat.cli import main
from nanogpt_compat.memory.limits import peak_rss_bytes
code = main(sys.argv[1:])
print(code, peak_rss_bytes())
"""


def test_memory_does_not_grow_with_the_verified_files(tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 60_000_000)
    args = ["--input", path, "--output-dir", tmp_path, "--val-ratio", "0.3", "--workers", "2"]
    peaks = []
    for more in ([], ["--verify"]):
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *map(str, args), *more],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        code, peak_bytes = map(int, done.stdout.split())
        assert code == 0, done.stderr
        peaks.append(peak_bytes)
    assert peaks[1] < MAX_PEAK_BYTES
    assert peaks[1] < 160_000_000  # the most that a run with tiktoken takes
    found = {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in faults.FINALS}
    assert {one["name"]: one["sha256"] for one in report_of(tmp_path)["files"]} == found
    assert report_of(tmp_path)["versions"]["nanogpt_compat"] == __version__
