"""A dry run checks what a run checks: the same exit code and message, and nothing is written."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nanogpt_compat.resume.lock import FolderLock
from tests import faults
from tests.disks import Disks, require_root
from tests.faults import Args, make_text, report_of

pytestmark = pytest.mark.costly

Setup = Callable[[Path], Args]


def small_text(folder: Path) -> Path:
    return make_text(folder / "text.txt", 100_000)


def options(folder: Path, *more: str | Path) -> Args:
    return ("--input", folder / "text.txt", "--output-dir", folder / "out", *more)


def stop(folder: Path, *more: str | Path) -> None:
    """Leave a run that was killed when half of it was saved."""
    make_text(folder / "text.txt", 3_000_000)
    args = options(folder, "--workers", "1", "--block-size", "100K", *more)
    done = faults.run(*args, at="write journal", skip=3, do="SIGKILL")
    assert done.returncode == -9, done.stderr


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files} | {
        str(path): (0, b"") for path in folder.rglob("*") if path.is_dir()
    }


def refusal(done: "subprocess.CompletedProcess[str]") -> str:
    found = done.stderr[done.stderr.index("prepare: ") :] if "prepare: " in done.stderr else ""
    return re.sub(
        r"[\d.]+ [MG]B in use|[\d.]+ [MG]B of memory", "...", found
    )  # these numbers differ between runs


def too_little_memory(folder: Path) -> Args:
    small_text(folder)
    return options(folder, "--max-memory", "80M")


def too_much_memory_taken(folder: Path) -> Args:
    small_text(folder)
    return options(folder, "--min-available", "1000T")


def output_there(folder: Path) -> Args:
    small_text(folder)
    (folder / "out").mkdir()
    (folder / "out" / "val.bin").touch()
    return options(folder)


def shards_there(folder: Path) -> Args:
    small_text(folder)
    (folder / "out").mkdir()
    (folder / "out" / "train_shard_0007.bin").touch()
    return options(folder, "--shard-tokens", "10K")


def folder_in_the_way(folder: Path) -> Args:
    small_text(folder)
    (folder / "out" / "train.bin").mkdir(parents=True)
    return options(folder, "--overwrite")


def link_to_itself(folder: Path) -> Args:
    small_text(folder)
    (folder / "out").mkdir()
    (folder / "out" / "train.bin").symlink_to("train.bin")
    return options(folder)


def output_below_a_file(folder: Path) -> Args:
    small_text(folder)
    (folder / "out").touch()
    return options(folder)


def other_options_than_saved(folder: Path) -> Args:
    stop(folder)
    return options(folder, "--val-ratio", "0.01")


def other_text_than_saved(folder: Path) -> Args:
    stop(folder)
    make_text(folder / "text.txt", 3_000_000, seed=1)
    return options(folder)


def damage_without_a_way_back(folder: Path) -> Args:
    stop(folder)
    (folder / "out" / ".prepare" / "train.bin.partial").unlink()
    (folder / "out" / ".prepare" / "train.bin.partial").mkdir()
    return options(folder)


def no_vocabulary(folder: Path) -> Args:
    small_text(folder)
    return options(folder, "--vocab-dir", folder)


def no_text(folder: Path) -> Args:
    (folder / "text.txt").touch()
    return options(folder)


def another_charset(folder: Path) -> Args:
    (folder / "text.txt").write_text("C'\xe9tait le meilleur des temps.\n" * 1000, encoding="utf-16")
    return options(folder)


@pytest.mark.sample(5)
@pytest.mark.parametrize(
    ("setup", "exit_code"),
    [
        (too_little_memory, 78),
        (too_much_memory_taken, 78),
        (output_there, 4),
        (shards_there, 4),
        (folder_in_the_way, 4),
        (link_to_itself, 4),
        (output_below_a_file, 4),
        (other_options_than_saved, 5),
        (other_text_than_saved, 5),
        (damage_without_a_way_back, 4),
        (no_vocabulary, 3),
        (no_text, 3),
        (another_charset, 3),
    ],
)
def test_a_dry_run_refuses_with_the_message_of_a_run(setup: Setup, exit_code: int, tmp_path: Path) -> None:
    args = setup(tmp_path)
    before = everything(tmp_path)
    dry = faults.run(*args, "--dry-run")
    assert dry.returncode == exit_code, dry.stderr
    assert everything(tmp_path) == before
    done = faults.run(*args)
    assert done.returncode == exit_code, done.stderr
    assert refusal(dry).replace(" --dry-run", "") == refusal(done) != ""


def test_a_disk_that_is_too_small_is_refused_as_by_a_run(tmp_path: Path, disks: Disks) -> None:
    make_text(tmp_path / "text.txt", 25_000_000)
    args: Args = ("--input", tmp_path / "text.txt", "--output-dir", disks.make("tmpfs", 18 << 20).folder)
    dry, done = faults.run(*args, "--dry-run"), faults.run(*args)
    assert (dry.returncode, done.returncode) == (4, 4)
    assert refusal(dry) == refusal(done) != ""


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder that cannot be written to, not even by root."""
    require_root("a read-only mount")
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("name", ["out", "out/new/folder"])
def test_a_folder_that_may_not_be_written_to_is_refused_as_by_a_run(name: str, tmp_path: Path) -> None:
    text = small_text(tmp_path)
    (tmp_path / "out").mkdir()
    args: Args = ("--input", text, "--output-dir", tmp_path / name)
    with read_only(tmp_path / "out"):
        dry, done = faults.run(*args, "--dry-run"), faults.run(*args)
    assert (dry.returncode, done.returncode) == (4, 4)
    assert "Read-only file system" in refusal(dry)
    assert refusal(dry) == refusal(done)


@pytest.mark.skipif(os.geteuid() == 0, reason="impossible here: root may write everywhere")
def test_a_folder_of_another_user_is_refused_as_by_a_run(tmp_path: Path) -> None:
    text = small_text(tmp_path)
    (tmp_path / "out").mkdir(mode=0o555)
    args: Args = ("--input", text, "--output-dir", tmp_path / "out")
    dry, done = faults.run(*args, "--dry-run"), faults.run(*args)
    assert (dry.returncode, done.returncode) == (4, 4)
    assert "Permission denied" in refusal(dry)
    assert refusal(dry) == refusal(done)


def test_a_folder_in_which_another_run_is_at_work_is_refused_as_by_a_run(tmp_path: Path) -> None:
    text = small_text(tmp_path)
    work = tmp_path / "out" / ".prepare"
    work.mkdir(parents=True)
    args: Args = ("--input", text, "--output-dir", tmp_path / "out")
    with FolderLock(work / "lock"):
        before = everything(tmp_path)
        dry = faults.run(*args, "--dry-run")
        assert everything(tmp_path) == before
        done = faults.run(*args)
    assert (dry.returncode, done.returncode) == (4, 4)
    assert f"is in use by another run, process {os.getpid()}" in refusal(dry)
    assert refusal(dry) == refusal(done)


def resumed(output: str) -> list[str]:
    return [line for line in output.splitlines() if re.match("resuming at ", line)]


def test_a_dry_run_shows_how_far_a_stopped_run_is_and_costs_nothing_of_it(tmp_path: Path) -> None:
    stop(tmp_path)
    before = everything(tmp_path)
    dry = faults.run(*options(tmp_path), "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert everything(tmp_path) == before
    done = faults.run(*options(tmp_path))
    assert done.returncode == 0, done.stderr
    assert resumed(dry.stdout) == resumed(done.stderr) != []


def test_a_dry_run_reports_a_damaged_journal_as_a_run_does_and_removes_nothing(tmp_path: Path) -> None:
    stop(tmp_path)
    journal = tmp_path / "out" / ".prepare" / "journal"
    journal.write_bytes(journal.read_bytes()[:-20])
    before = everything(tmp_path)
    dry = faults.run(*options(tmp_path), "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert everything(tmp_path) == before
    done = faults.run(*options(tmp_path))
    assert "is torn or damaged at byte" in dry.stderr
    assert dry.stderr.splitlines()[0] in done.stderr
    assert resumed(dry.stdout) == resumed(done.stderr) != []


def test_a_dry_run_reports_that_complete_output_is_complete(tmp_path: Path) -> None:
    small_text(tmp_path)
    assert faults.run(*options(tmp_path)).returncode == 0
    dry = faults.run(*options(tmp_path), "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "already complete" in dry.stdout
    again = faults.run(*options(tmp_path, "--overwrite"), "--dry-run")
    assert (again.returncode, "already complete" in again.stdout) == (0, False), again.stderr


@pytest.mark.parametrize("form", [(), ("--shard-tokens", "20K")])
def test_with_restart_it_passes_where_the_run_passes_and_both_discard_all_that_was_saved(
    form: Args, tmp_path: Path
) -> None:
    stop(tmp_path, *form)
    args = options(tmp_path, "--shard-tokens", "30K", "--restart", *(["--overwrite"] if form else []))
    before = everything(tmp_path)
    dry = faults.run(*args, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert everything(tmp_path) == before
    assert resumed(dry.stdout) == []
    done = faults.run(*args)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {one["name"] for one in report_of(tmp_path / "out")["files"]} | {"prepare.json"}
