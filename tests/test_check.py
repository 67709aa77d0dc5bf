"""--check: it finds damaged files by their checksums, without the input and the vocabulary."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogpt_compat.output import layout
from nanogpt_compat.output.check import find_faults, list_files, outputs_of
from nanogpt_compat.output.checksums import combine_sections
from nanogpt_compat.run.supervise import locked
from nanogpt_compat.system import filesystem
from nanogpt_compat.system.checksum import crc32
from tests import faults
from tests.conftest import REPOSITORY, RunPrepare
from tests.faults import (
    SECTION_BYTES,
    Args,
    Outcome,
    Stopped,
    assert_refused,
    make_text,
    prepare,
    report_of,
    snapshot,
)
from tests.test_files import cached_bytes

pytestmark = pytest.mark.costly

KINDS: dict[str, Args] = {
    "bin": ("--val-ratio", "0.4"),
    "shards": ("--val-ratio", "0.4", "--shard-tokens", "30011"),
    "npy": ("--format", "npy", "--shard-tokens", "30011"),
    "llmc": ("--format", "llmc", "--shard-tokens", "30011"),
}


@dataclass(frozen=True)
class Made:
    """A finished output that a test may spoil, and the command that made it."""

    out: Path
    args: Args

    @property
    def names(self) -> list[str]:
        return [one["name"] for one in report_of(self.out)["files"]]

    def check(self, *more: str | Path, **settings: Any) -> Outcome:
        return prepare("--output-dir", self.out, "--check", *more, **settings)

    def is_as_written(self) -> bool:
        return self.check().returncode == 0


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text(tmp_path_factory.mktemp("input") / "a.txt", 600_000)


@pytest.fixture(scope="module")
def originals(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    made: dict[str, Made] = {}

    def make(kind: str) -> Made:
        if kind not in made:
            args: Args = ("--input", text, *KINDS[kind])
            made[kind] = Made(tmp_path_factory.mktemp(kind) / "out", args)
            assert prepare(*args, "--output-dir", made[kind].out).returncode == 0
        return made[kind]

    return make


def copy(original: Made, tmp_path: Path) -> Made:
    out = tmp_path / "copy"
    shutil.copytree(original.out, out)
    return Made(out, original.args)


@pytest.fixture(params=KINDS)
def any_kind(request: pytest.FixtureRequest, originals: Callable[[str], Made], tmp_path: Path) -> Made:
    return copy(originals(request.param), tmp_path)


@pytest.fixture
def made(originals: Callable[[str], Made], tmp_path: Path) -> Made:
    """Output as train.bin and val.bin."""
    return copy(originals("bin"), tmp_path)


@pytest.fixture
def shards(originals: Callable[[str], Made], tmp_path: Path) -> Made:
    """Output as shards of llm.c."""
    return copy(originals("llmc"), tmp_path)


def refused(made: Made, exit_code: int, *messages: str) -> str:
    """Check: it must end with this code and all of these messages, and leave the folder as it was."""
    return assert_refused(made.out, made.check, exit_code, *messages)


def flip(path: Path, byte: int) -> None:
    with path.open("r+b") as file:
        file.seek(byte)
        (old,) = file.read(1)
        file.seek(byte)
        file.write(bytes([old ^ 1]))


def edit_report(made: Made, edit: Callable[[dict[str, Any]], None]) -> None:
    report = report_of(made.out)
    edit(report)
    (made.out / "prepare.json").write_text(json.dumps(report))


# Right output


def test_output_as_it_was_written_passes_in_any_folder_and_nothing_is_written(any_kind: Made) -> None:
    before = snapshot(any_kind.out)
    done = any_kind.check()
    assert done.returncode == 0, done.stderr
    assert snapshot(any_kind.out) == before
    files = report_of(any_kind.out)["files"]
    n_tokens = sum(one["tokens"] for one in files)
    found = re.fullmatch(
        r"checked: (.*), all as they were written \((.*) in .* s, [\d.]+ [kMG]B/s\)\n", done.stderr
    )
    assert found is not None, done.stderr
    counts = [int(count.replace(",", "")) for count in re.findall(r"([\d,]+) tokens", found[1])]
    assert sum(counts) == n_tokens
    assert files[0]["name"] in found[1]
    assert files[-1]["name"] in found[1]


def test_with_quiet_nothing_is_printed(made: Made) -> None:
    assert made.check("--quiet") == Outcome(0, "")


def test_a_folder_that_cannot_be_written_to_is_checked(made: Made, tmp_path: Path) -> None:
    if os.geteuid():
        made.out.chmod(0o555)
        assert made.is_as_written()
        return
    script = f"mount --bind {made.out} {made.out} && mount -o remount,ro,bind {made.out} && exec "
    command = [sys.executable, *faults.command("--output-dir", made.out, "--check")[1:]]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script + '"$@"', "sh", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    if "permission denied" in done.stderr.lower():
        pytest.skip("impossible here: no mount is allowed")
    assert done.returncode == 0, done.stderr


def test_it_needs_neither_input_nor_vocabulary_nor_engine(
    run_prepare: RunPrepare, text: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes(text.read_bytes())
    assert run_prepare("--input", "a.txt", "--output-dir", "out").returncode == 0
    (tmp_path / "a.txt").unlink()
    code = (
        "import sys\n"
        "from nanogpt_compat.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--check", "--output-dir", tmp_path / "out"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    modules = set(done.stdout.split())
    assert not modules & {"tiktoken", "gigatoken", "pyarrow", "fsspec", "distributed", "msgspec"}
    read = {
        name for name in modules if name.startswith(("nanogpt_compat.encoders.", "nanogpt_compat.input."))
    }
    assert read <= {"nanogpt_compat.input.location", "nanogpt_compat.input.pipes"}  # the names of inputs


def test_the_page_cache_is_left_as_it_was(made: Made) -> None:
    if filesystem.file_system(made.out) == "tmpfs":
        pytest.skip("tmp_path is a tmpfs, whose page cache is the file")
    path = made.out / "train.bin"
    with path.open("rb") as file:
        os.fsync(file.fileno())  # dirty pages stay
        filesystem.drop_cache(file.fileno(), 0, path.stat().st_size)
    assert cached_bytes(path) == 0
    assert made.is_as_written()
    assert cached_bytes(path) == 0
    path.read_bytes()  # as a training program does
    assert made.is_as_written()
    assert cached_bytes(path) >= path.stat().st_size


# Damaged files


def test_a_flipped_bit_is_found_with_its_section_and_both_checksums(any_kind: Made) -> None:
    for one in report_of(any_kind.out)["files"]:
        path = any_kind.out / one["name"]
        n_sections = len(one["crc32_per_64_mib"])
        for k in {0, n_sections - 1}:
            start, end = k * SECTION_BYTES, min((k + 1) * SECTION_BYTES, one["bytes"])
            flip(path, end - 1)
            found = zlib.crc32(path.read_bytes()[start:end])
            line = (
                f"{path.resolve()}: bytes {start:,} to {end:,} have the crc32 {found} and should have "
                f"{one['crc32_per_64_mib'][k]}"
            )
            refused(any_kind, 1, line, "with --overwrite")
            flip(path, end - 1)
    assert any_kind.is_as_written()


def test_all_damaged_files_are_named_and_the_first_section_of_each(shards: Made) -> None:
    damaged = [shards.out / name for name in shards.names[1::2]]
    for path in damaged:
        flip(path, SECTION_BYTES - 1)
        flip(path, SECTION_BYTES + 5)
    error = refused(shards, 1)
    for path in damaged:
        start = (
            f"\n  {path.resolve()}: bytes 0 to {SECTION_BYTES:,}, the first of 2 damaged sections, have the "
        )
        assert start in error
    assert error.count("\n  ") == len(damaged) > 1


@pytest.mark.parametrize("change", [-1, -2, -SECTION_BYTES, 1, 2, SECTION_BYTES])
def test_a_file_of_another_size_is_reported_with_both_sizes(any_kind: Made, change: int) -> None:
    path = any_kind.out / any_kind.names[0]
    n_bytes = path.stat().st_size
    os.truncate(path, n_bytes + change)
    refused(any_kind, 1, f"{path.resolve()}: it has {n_bytes + change:,} bytes and should have {n_bytes:,}. ")


@pytest.mark.parametrize(("form", "byte"), [("npy", 70), ("llmc", 8)])
def test_a_header_of_another_number_of_tokens_is_reported(
    form: str, byte: int, originals: Callable[[str], Made], tmp_path: Path
) -> None:
    made = copy(originals(form), tmp_path)
    path = made.out / made.names[0]
    flip(path, byte)
    n_tokens = report_of(made.out)["files"][0]["tokens"]
    refused(made, 1, f"{path.resolve()}: bytes 0", f"not that of {n_tokens:,} tokens, from byte {byte} on")


def test_an_invalid_token_is_reported_even_if_the_checksum_is_right(any_kind: Made) -> None:
    one = report_of(any_kind.out)["files"][0]
    path, header_bytes = any_kind.out / one["name"], one["bytes"] - 2 * one["tokens"]
    index = one["tokens"] - 7
    tokens = np.memmap(path, "<u2", "r+", header_bytes)
    tokens[index], tokens[index + 3] = 50257, 65535
    tokens.flush()
    data = path.read_bytes()
    sections = [zlib.crc32(data[k : k + SECTION_BYTES]) for k in range(0, len(data), SECTION_BYTES)]

    def make_right(report: dict[str, Any]) -> None:
        report["files"][0] |= {"crc32": zlib.crc32(data), "crc32_per_64_mib": sections}

    edit_report(any_kind, make_right)
    place = f"token {index:,}, at byte {header_bytes + 2 * index:,}, is 50257, and GPT-2 has only 0 to 50256"
    refused(any_kind, 1, f"{path.resolve()}: {place}. ")


# Files that are missing, cannot be read, or should not be there


def test_a_missing_file_is_named_and_the_others_are_checked_all_the_same(shards: Made) -> None:
    (shards.out / shards.names[1]).unlink()
    refused(shards, 4, f"{shards.out.resolve() / shards.names[1]} is missing. ")
    flip(shards.out / shards.names[2], 5000)
    refused(shards, 1, f"{shards.names[1]} is missing\n  ", f"{shards.names[2]}: bytes 0 to 50,000 have ")


def test_an_unreadable_file_is_reported_with_the_reason(made: Made) -> None:
    path = made.out / "train.bin"
    path.unlink()
    path.mkdir()  # a folder has a size, but reading it is an error
    (path / "ab").touch()
    n_bytes = path.stat().st_size

    def list_it(report: dict[str, Any]) -> None:
        crcs = [0] * -(-n_bytes // SECTION_BYTES)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layout, "SECTION_BYTES", SECTION_BYTES)
            whole = combine_sections(crcs, n_bytes)
        checksums = {"crc32": whole, "crc32_per_64_mib": crcs}
        report["files"][0] |= {"tokens": n_bytes // 2, "bytes": n_bytes, **checksums}
        report["tokens"]["train"] = n_bytes // 2

    edit_report(made, list_it)
    done = made.check()
    assert done.returncode == 4
    assert f"cannot read {path.resolve()} at byte 0: Is a directory. " in done.stderr


@pytest.mark.parametrize("kind", ["shards", "npy", "llmc"])
def test_an_extra_shard_is_reported(kind: str, originals: Callable[[str], Made], tmp_path: Path) -> None:
    made = copy(originals(kind), tmp_path)
    last = next(name for name in reversed(made.names) if name != "val.bin")
    number = re.search(r"\d+(?=\.)", last)
    assert number is not None
    more = last.replace(number[0], f"{int(number[0]) + 1:0{len(number[0])}}")
    shutil.copy(made.out / last, made.out / more)
    error = refused(made, 1, f"{made.out.resolve() / more} exists, but this run makes no such shard")
    assert "damaged" not in error


def test_an_extra_val_bin_is_reported(text: Path, tmp_path: Path) -> None:
    made = Made(tmp_path / "out", ("--input", text, "--val-split", "none"))
    assert prepare(*made.args, "--output-dir", made.out).returncode == 0
    assert made.is_as_written()
    (made.out / "val.bin").write_bytes(b"old")
    refused(made, 1, f"{made.out / 'val.bin'} exists, but this run makes no val.bin")


# prepare.json


def test_a_report_of_an_older_version_is_named_as_such_and_verifying_adds_the_checksums(made: Made) -> None:
    files = report_of(made.out)["files"]

    def forget(report: dict[str, Any]) -> None:
        for one in report["files"]:
            del one["crc32"], one["crc32_per_64_mib"]

    edit_report(made, forget)
    refused(made, 4, "prepare.json has no checksums, because an older version wrote it", "--verify")
    done = prepare(*made.args, "--output-dir", made.out, "--verify")
    assert done.returncode == 0, done.stderr
    assert [
        {name: one[name] for name in one if name != "sha256"} for one in report_of(made.out)["files"]
    ] == (files)
    assert made.is_as_written()


def test_verifying_keeps_the_checksums_and_reports_wrong_ones(made: Made) -> None:
    files = report_of(made.out)["files"]
    assert prepare(*made.args, "--output-dir", made.out, "--verify").returncode == 0
    assert [
        one.keys() - old.keys() for one, old in zip(report_of(made.out)["files"], files, strict=True)
    ] == [{"sha256"}] * 2
    assert made.is_as_written()
    right = files[1]["crc32"]
    edit_report(made, lambda report: report["files"][1].update(crc32=5))
    done = prepare(*made.args, "--output-dir", made.out, "--verify")
    assert done.returncode == 1
    assert f"prepare.json: crc32 of val.bin is 5 and should be {right}; run " in done.stderr


def contradict(report: dict[str, Any]) -> None:
    report["files"][0]["crc32_per_64_mib"][1] ^= 1


def drop_section(report: dict[str, Any]) -> None:
    del report["files"][0]["crc32_per_64_mib"][1]


def count_otherwise(report: dict[str, Any]) -> None:
    report["tokens"]["train"] += 1


def forget_options(report: dict[str, Any]) -> None:
    del report["options"]["shard_tokens"]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (contradict, "the checksums of train.bin contradict one another"),
        (drop_section, "the checksums of train.bin contradict one another"),
        (count_otherwise, "the list of files does not fit the number of tokens"),
        (forget_options, "without 'shard_tokens'"),
        (dict.clear, "without 'options'"),
    ],
)
def test_a_damaged_report_is_not_called_damaged_files(
    spoil: Callable[[dict[str, Any]], None], why: str, made: Made
) -> None:
    edit_report(made, spoil)
    refused(made, 4, f"prepare.json is damaged, or not a report that this version can read ({why}); copy it")


def test_without_a_report_there_is_nothing_to_check(made: Made, tmp_path: Path) -> None:
    (made.out / "prepare.json").unlink()
    refused(made, 4, "no complete output to check", str(made.out / "prepare.json"), "with --output-dir")
    nowhere = tmp_path / "no" / "such"
    assert prepare("--output-dir", nowhere, "--check").returncode == 4
    assert not nowhere.parent.exists()


# Another run in the folder


def stop_half_way(made: Made, *more: str) -> None:
    with pytest.raises(Stopped):
        prepare(*made.args, "--output-dir", made.out, *more, stop_after_bytes=300_000)


def test_the_old_output_is_checked_next_to_a_stopped_run_that_would_replace_it(made: Made) -> None:
    stop_half_way(made, "--restart", "--overwrite")
    before = snapshot(made.out)
    done = made.check()
    assert done.returncode == 0, done.stderr
    assert "all as they were written" in done.stderr
    assert f"notice: {made.out / '.prepare'} holds an unfinished run, which was not checked" in done.stderr
    assert snapshot(made.out) == before
    flip(made.out / "val.bin", 0)
    assert made.check().returncode == 1


def test_the_old_output_is_checked_while_a_run_makes_a_new_one(made: Made) -> None:
    with locked([made.out]):
        assert made.is_as_written()


def test_an_unfinished_run_is_reported(text: Path, tmp_path: Path) -> None:
    made = Made(tmp_path / "out", ("--input", text))
    stop_half_way(made)
    done = made.check()
    assert done.returncode == 4
    assert "no complete output" in done.stderr
    assert "An unfinished run is there: its command, run again, completes it" in done.stderr
    with locked([made.out]):
        done = made.check()
    assert done.returncode == 4
    assert f"in use by another run, process {os.getpid()}" in done.stderr


def test_output_that_is_replaced_meanwhile_is_not_called_damaged(
    made: Made, text: Path, tmp_path: Path
) -> None:
    other = Made(tmp_path / "other", ("--input", text, "--val-ratio", "0.1"))
    assert prepare(*other.args, "--output-dir", other.out).returncode == 0

    def replace() -> None:
        for path in other.out.iterdir():
            shutil.copy(path, made.out / path.name)

    done = made.check(check=replace)
    assert done.returncode == 4
    assert f"another run has replaced the output in {made.out} while it was checked" in done.stderr


# Options, signals, memory


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--input", "a.txt"), "--input"),
        (("--restart",), "--restart"),
        (("--verify",), "--verify"),
        (("--dry-run",), "--dry-run"),
        (("--overwrite", "--val-ratio", "0.3"), "--val-ratio and --overwrite"),
        (("--format", "npy"), "--format"),
        (("--merge", "--work-dir", "w"), "--merge and --work-dir"),
        (("--max-memory", "1G"), "--max-memory"),
    ],
)
def test_options_that_mean_nothing_here_are_refused(options: Args, named: str, made: Made) -> None:
    before = snapshot(made.out)
    done = made.check(*options)
    assert done.returncode == 2
    assert done.stderr == (
        f"prepare: error: --check needs only the finished files and --output-dir: omit {named}\n"
    )
    assert snapshot(made.out) == before


def test_a_folder_without_its_option_is_answered_with_the_option(
    run_prepare: RunPrepare,
) -> None:
    done = run_prepare("--check", "my data")
    assert done.returncode == 2
    assert "or write --output-dir 'my data' if that is the folder to check" in done.stderr


SECTION = 64 << 20


def make_zeros(out: Path, n_sections: int) -> None:
    """Make complete output of zeros, which take no room on the disk."""
    out.mkdir()
    n_bytes = n_sections * SECTION
    with (out / "train.bin").open("wb") as file:
        file.truncate(n_bytes)
    crcs = [zlib.crc32(bytes(SECTION))] * n_sections
    described = {"name": "train.bin", "tokens": n_bytes // 2, "bytes": n_bytes}
    checksums = {"crc32": combine_sections(crcs, n_bytes), "crc32_per_64_mib": crcs}
    options = {
        "output_format": "bin",
        "shard_tokens": None,
        "shard_name": None,
        "val_split": "none",
        "val_ratio": 0,
    }
    report = {"tokens": {"train": n_bytes // 2}, "options": options, "files": [described | checksums]}
    (out / "prepare.json").write_text(json.dumps(report))


@pytest.mark.alone
def test_it_takes_little_more_than_to_read_the_files_and_to_compute_one_checksum(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_zeros(out, 4)
    outputs = outputs_of(out, report_of(out))
    (listed,) = list_files(outputs, {}, report_of(out)) or []

    def read_plainly() -> None:
        crc, buffer = 0, bytearray(1 << 20)
        with (out / "train.bin").open("rb", buffering=0) as file:
            while n_bytes := file.readinto(buffer):
                crc = crc32(memoryview(buffer)[:n_bytes], crc)
        assert crc == listed.crc

    def check() -> None:
        assert not find_faults(listed, lambda _: None)

    seconds: dict[Callable[[], None], list[float]] = {read_plainly: [], check: []}
    for work in [read_plainly, check] * 3:
        began_s = time.process_time()
        work()
        seconds[work].append(time.process_time() - began_s)
    assert min(seconds[check]) < 1.6 * min(seconds[read_plainly])


@pytest.fixture
def endless(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A check that would take minutes, and has begun to read."""
    make_zeros(tmp_path / "out", 3000)
    process = subprocess.Popen(
        [sys.executable, "prepare.py", "--output-dir", str(tmp_path / "out"), "--check"],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = Path(f"/proc/{process.pid}/fd")
    deadline_s = time.monotonic() + faults.TIMEOUT_S
    while not any(_leads_to(one, "train.bin") for one in folder.iterdir()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline_s
        time.sleep(0.002)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_it(endless: "subprocess.Popen[str]", name: str) -> None:
    number = signal.Signals[name]
    endless.send_signal(number)
    _, stderr = endless.communicate(timeout=faults.TIMEOUT_S)
    assert endless.returncode == -number, stderr
    assert stderr == f"prepare: stopped by {name}\n"


def test_damage_found_before_a_signal_is_reported(shards: Made) -> None:
    flip(shards.out / shards.names[0], 5000)

    n_checks = 0

    def stop() -> None:
        nonlocal n_checks
        n_checks += 1
        if n_checks == 2:  # a chunk of the second file
            raise Stopped

    with pytest.raises(Stopped), pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("nanogpt_compat.system.voice.Voice.warn", lambda _, *found: lines.extend(found))
        shards.check(check=stop)
    assert [line.partition(":")[0] for line in lines] == [str(shards.out.resolve() / shards.names[0])]


def test_memory_does_not_grow_with_the_files(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from nanogpt_compat.cli import main\n"
        "from nanogpt_compat.memory.limits import peak_rss_bytes\n"
        "print(main(sys.argv[1:]), peak_rss_bytes())\n"
    )
    peaks = []
    for n_sections in (1, 30):
        out = tmp_path / str(n_sections)
        make_zeros(out, n_sections)
        done = subprocess.run(
            [sys.executable, "-c", code, "--check", "--output-dir", out],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        exit_code, peak_bytes = map(int, done.stdout.split())
        assert exit_code == 0, done.stderr
        peaks.append(peak_bytes)
    assert peaks[1] < peaks[0] + 2_000_000
    assert peaks[1] < 60_000_000


def _leads_to(link: Path, name: str) -> bool:
    """Whether a link of /proc leads to a file of this name; the link may be gone by now."""
    with contextlib.suppress(FileNotFoundError):
        return str(link.readlink()).endswith(name)
    return False
