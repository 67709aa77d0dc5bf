"""Damage between two runs is found and repaired: the final files are the same."""

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from nanogpt_compat.errors import OutputError
from nanogpt_compat.output.layout import Shards
from nanogpt_compat.output.written import Written, publish
from nanogpt_compat.resume.journal import read_journal
from nanogpt_compat.system.units import format_count
from tests import faults
from tests.faults import Args, Expected, Outcome, Stopped, expect, make_text, prepare

pytestmark = pytest.mark.costly

ResumesFrom: TypeAlias = Callable[..., Outcome]

N_MARKS = 8  # checkpoints of the stopped run


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text(tmp_path_factory.mktemp("input") / "a.txt", 600_000, n_invalid=10)


@pytest.fixture(scope="module")
def args(path: Path) -> Args:
    # Windows for val throughout the text, so that most segments have tokens of both splits.
    return ("--input", path, "--val-ratio", "0.4")


@pytest.fixture(scope="module")
def expected(args: Args, tmp_path_factory: pytest.TempPathFactory) -> Expected:
    return expect(tmp_path_factory.mktemp("expected") / "out", *args)


@pytest.fixture(scope="module")
def stopped(args: Args, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the output folder of a run that was killed before its end."""
    return run_until(tmp_path_factory.mktemp("stopped") / "out", args, at="write journal", skip=N_MARKS + 1)


@pytest.fixture(scope="module")
def finished(args: Args, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the output folder of a run that was killed before it could rename the files."""
    return run_until(tmp_path_factory.mktemp("finished") / "out", args, at="rename val.bin.partial", skip=0)


def run_until(out: Path, args: Args, *, at: str, skip: int) -> Path:
    options: Args = ("--output-dir", out, "--block-size", "5000")
    assert faults.run(*args, *options, at=at, skip=skip, every_bytes=30_000).returncode == -9
    return out


@pytest.fixture
def out(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "out"))


@pytest.fixture
def journal(out: Path) -> Path:
    return out / ".prepare" / "journal"


def flip(path: Path, byte: int, bit: int = 3) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


def cut(path: Path, n_bytes: int) -> None:
    with path.open("r+b") as file:
        file.truncate(n_bytes)


def line_ends(journal: Path) -> list[int]:
    return [entry.end_byte for entry in read_journal(journal)]


def tokens_at(out: Path) -> list[dict[str, int]]:
    """Return the tokens of each split at each checkpoint, with zeros for the beginning."""
    lines = [json.loads(line[9:]) for line in (out / ".prepare" / "journal").read_bytes().splitlines()]
    return [{"train": 0, "val": 0}, *(line["tokens"] for line in lines[1:])]


def partial(out: Path, split: str) -> Path:
    return out / ".prepare" / f"{split}.bin.partial"


@pytest.fixture
def resumes_from(stopped: Path, out: Path, args: Args, expected: Expected) -> Callable[..., Outcome]:
    """Run again and check where it resumes: at a checkpoint, or at none."""
    n_tokens = [sum(tokens.values()) for tokens in tokens_at(stopped)]

    def check(mark: int | None, **counts: int) -> Outcome:
        done = prepare(*args, "--output-dir", out)
        assert done.returncode == 0, done.stderr
        assert ("resuming at" in done.stderr) == (mark is not None)
        if mark is not None:
            assert f" {format_count(n_tokens[mark])} tokens): " in done.stderr
        report = expected.assert_reached(out, **counts)
        assert report["resumes"] >= (mark is not None)
        return done

    return check


def test_undamaged_it_resumes_from_the_last_checkpoint(out: Path, resumes_from: ResumesFrom) -> None:
    assert len(tokens_at(out)) == N_MARKS + 1
    assert "journal" not in resumes_from(N_MARKS).stderr


# The journal


@pytest.mark.parametrize("line", range(1, N_MARKS + 1))
def test_a_flipped_bit_in_a_line_of_the_journal_costs_the_lines_from_there(
    line: int, journal: Path, resumes_from: ResumesFrom
) -> None:
    ends = line_ends(journal)
    flip(journal, random.Random(line).randrange(ends[line - 1], ends[line]))
    assert f"{journal} is torn or damaged at byte {ends[line - 1]:,}" in resumes_from(line - 1).stderr


@pytest.mark.parametrize("byte", [0, 9, 100, -1])
def test_a_flipped_bit_in_the_first_line_costs_all(
    byte: int, journal: Path, resumes_from: ResumesFrom
) -> None:
    flip(journal, byte % line_ends(journal)[0])
    assert f"{journal} is torn or damaged at byte 0:" in resumes_from(None).stderr


@pytest.mark.parametrize("n_lines", [1, 2, N_MARKS])
@pytest.mark.parametrize("tail", [b"", b"\n\xff{}\n", bytes(5000)], ids=["", "then garbage", "then zeros"])
def test_a_torn_journal_counts_up_to_the_tear(
    tail: bytes, n_lines: int, journal: Path, resumes_from: ResumesFrom
) -> None:
    ends = line_ends(journal)
    cut(journal, random.Random(n_lines).randrange(ends[n_lines - 1], ends[n_lines]))
    with journal.open("ab") as file:
        file.write(tail)
    resumes_from(n_lines - 1)


@pytest.mark.parametrize("tail", [b"", b"00000000 {", b"\n\xff{}\n", bytes(5000)])
def test_work_saved_after_a_tear_is_found(
    tail: bytes, out: Path, journal: Path, args: Args, expected: Expected
) -> None:
    cut(journal, line_ends(journal)[2] - 1)
    with journal.open("ab") as file:
        file.write(tail)
    with pytest.raises(Stopped):
        prepare(*args, "--output-dir", out, "--block-size", "5000", stop_after_bytes=500_000)
    assert "resuming at 8" in prepare(*args, "--output-dir", out).stderr
    expected.assert_reached(out)


def test_work_saved_after_going_back_is_found(out: Path, args: Args, expected: Expected) -> None:
    cut(partial(out, "train"), 2 * tokens_at(out)[1]["train"])
    with pytest.raises(Stopped):
        prepare(*args, "--output-dir", out, "--block-size", "5000", stop_after_bytes=500_000)
    assert "resuming at 8" in prepare(*args, "--output-dir", out).stderr
    expected.assert_reached(out, fallbacks=N_MARKS - 1)


@pytest.mark.parametrize("content", [b"{}\n", b"\n", bytes(10_000), b"\xff" * 10_000])
def test_a_file_that_is_no_journal_does_not_count(
    content: bytes, journal: Path, resumes_from: ResumesFrom
) -> None:
    journal.write_bytes(content)
    assert f"{journal} is torn or damaged at byte 0:" in resumes_from(None).stderr


@pytest.mark.parametrize("is_there", [False, True])
def test_without_a_journal_it_starts_over(is_there: bool, journal: Path, resumes_from: ResumesFrom) -> None:
    journal.unlink()
    if is_there:
        journal.touch()
    assert f"{journal} is missing or empty: starting from scratch" in resumes_from(None).stderr


# The unfinished files


@pytest.mark.parametrize("which", [0, -1])
def test_a_flipped_bit_in_the_last_segment_costs_that_one(
    which: int, out: Path, resumes_from: ResumesFrom
) -> None:
    before, after = tokens_at(out)[-2:]
    # The text, and whether the segment has tokens of both splits, depend on the installed packages.
    split = [split for split in after if after[split] > before[split]][which]
    flip(partial(out, split), random.Random(split).randrange(2 * before[split], 2 * after[split]))
    assert "going back" in resumes_from(N_MARKS - 1, fallbacks=1).stderr


@pytest.mark.parametrize("k", range(1, N_MARKS))
def test_a_flipped_bit_in_an_older_segment_is_found_at_the_end_and_repaired_from_there(
    k: int, out: Path, args: Args, expected: Expected
) -> None:
    tokens = tokens_at(out)
    split = next(split for split in ("val", "train") if tokens[k - 1][split] < tokens[k][split])
    flip(partial(out, split), 2 * tokens[k - 1][split])
    flip(partial(out, split), 2 * tokens[k][split] - 1)
    done = prepare(*args, "--output-dir", out)
    assert done.returncode == 0
    assert "going back" in done.stderr
    n_fallbacks = faults.report_of(out)["checkpoint_fallbacks"]
    assert n_fallbacks > N_MARKS - k
    expected.assert_reached(out, fallbacks=n_fallbacks)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("mark", [0, 1, N_MARKS // 2, N_MARKS - 1])
def test_a_file_cut_within_a_segment_costs_the_lost_segments(
    mark: int, split: str, out: Path, resumes_from: ResumesFrom
) -> None:
    tokens = tokens_at(out)
    cut(partial(out, split), tokens[mark][split] + tokens[mark + 1][split])
    n_left = max(k for k in range(N_MARKS + 1) if tokens[k][split] * 2 <= partial(out, split).stat().st_size)
    resumes_from(n_left, fallbacks=N_MARKS - n_left)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_missing_file_costs_all(split: str, out: Path, resumes_from: ResumesFrom) -> None:
    partial(out, split).unlink()
    resumes_from(0, fallbacks=N_MARKS)


@pytest.mark.parametrize("split", ["train", "val"])
def test_bytes_after_the_last_checkpoint_do_not_count(
    split: str, out: Path, resumes_from: ResumesFrom
) -> None:
    cut(partial(out, split), 2 * tokens_at(out)[-1][split])
    with partial(out, split).open("ab") as file:
        file.write(b"\xff" * 100_001)
    resumes_from(N_MARKS)


@pytest.mark.parametrize("name", ["journal", "train.bin.partial"])
def test_a_folder_where_a_file_should_be_is_an_error(name: str, out: Path, args: Args) -> None:
    place = out / ".prepare" / name
    place.unlink()
    place.mkdir()
    done = prepare(*args, "--output-dir", out)
    assert done.returncode == 4
    assert str(place) in done.stderr


# After the last checkpoint, before the final names


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("damage", ["gone", "cut", "grown", "flipped"])
def test_a_finished_file_damaged_before_it_has_its_name_is_made_again(
    damage: str, split: str, finished: Path, args: Args, expected: Expected, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    file = partial(out, split)
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        cut(file, file.stat().st_size - 2)
    elif damage == "grown":
        file.write_bytes(file.read_bytes() + b"\0\0")
    else:
        flip(file, file.stat().st_size // 2)
    done = prepare(*args, "--output-dir", out)
    assert done.returncode == 0, done.stderr
    expected.assert_reached(out, fallbacks=faults.report_of(out)["checkpoint_fallbacks"])


def test_a_file_that_cannot_be_checked_is_an_error_and_not_taken_for_renamed(
    tmp_path: Path,
) -> None:
    (tmp_path / ".prepare").mkdir()
    final = tmp_path / ("x" * 250)  # the name of the unfinished file is too long
    for may_replace in (False, True):
        with pytest.raises(
            OutputError, match=r"cannot check whether .*partial exists: File name too long; .* run the"
        ):
            publish({"train": Written(Shards(tmp_path, final.name), 1)}, may_replace=may_replace)


def test_a_final_file_lost_before_the_other_has_its_name_is_made_again(
    args: Args, expected: Expected, tmp_path: Path
) -> None:
    out = run_until(tmp_path / "out", args, at="rename train.bin.partial", skip=0)
    (out / "val.bin").unlink()
    done = prepare(*args, "--output-dir", out)
    assert done.returncode == 0, done.stderr
    expected.assert_reached(out, fallbacks=faults.report_of(out)["checkpoint_fallbacks"])


# The journal, while shards have their names

SHARDS: Args = ("--shard-tokens", "20011", "--block-size", "30000")


@pytest.fixture(scope="module", params=["bin", "npy", "llmc"])
def shard_args(request: pytest.FixtureRequest, path: Path) -> Args:
    return ("--input", path, "--format", request.param, *SHARDS)


@pytest.fixture(scope="module")
def shards(shard_args: Args, tmp_path_factory: pytest.TempPathFactory) -> Expected:
    out = tmp_path_factory.mktemp("shards") / "out"
    done = prepare(*shard_args, "--output-dir", out)
    assert done.returncode == 0, done.stderr
    return Expected(faults.sha256s(out), faults.report_of(out), 0.0)


@pytest.fixture(scope="module")
def some_shards(shard_args: Args, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("some shards") / "out"
    with pytest.raises(Stopped):
        prepare(*shard_args, "--output-dir", out, stop_after_bytes=400_000)
    assert len(named(out)) > 3
    return out


@pytest.fixture
def stopped_shards(some_shards: Path, tmp_path: Path) -> Path:
    """Copy the output folder of a run that has named some shards."""
    return Path(shutil.copytree(some_shards, tmp_path / "out"))


def named(out: Path) -> dict[str, tuple[int, int]]:
    """Return the files with final names, each with values that change when it is written again."""
    found = {path.name: path.stat() for path in out.glob("*") if path.suffix in faults.SUFFIXES}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found.items()}


def tear(journal: Path, how: str) -> None:
    ends = line_ends(journal)
    if how == "20 bytes off":
        cut(journal, ends[-1] - 20)
    elif how == "half of it":
        cut(journal, ends[len(ends) // 2] + 9)
    elif how == "half of it, at the end of a line":
        cut(journal, ends[len(ends) // 2])
    elif how == "all but the header":
        flip(journal, ends[0] + 20)
    elif how == "all":
        flip(journal, 20)
    elif how == "zeros":
        journal.write_bytes(bytes(ends[-1]))
    elif how == "empty":
        cut(journal, 0)
    else:
        journal.unlink()


TEARS = ["20 bytes off", "half of it", "half of it, at the end of a line", "all but the header"]
TEARS += ["all", "zeros", "empty", "gone"]


@pytest.mark.sample(8)
@pytest.mark.parametrize("how", TEARS)
def test_shards_named_by_lost_records_stay_unchanged(
    how: str, shard_args: Args, shards: Expected, stopped_shards: Path
) -> None:
    before = named(stopped_shards)
    tear(stopped_shards / ".prepare" / "journal", how)
    args: Args = (*shard_args, "--output-dir", stopped_shards)
    with pytest.raises(Stopped):  # stopped again, at a point where no tear is visible any more
        prepare(*args, stop_after_bytes=310_000)
    assert before.items() <= named(stopped_shards).items()  # it may have named another before it stopped
    done = prepare(*args)
    assert done.returncode == 0, done.stderr
    assert before.items() <= named(stopped_shards).items()
    shards.assert_reached(stopped_shards)


def test_a_journal_that_lost_little_costs_little(
    shard_args: Args, shards: Expected, stopped_shards: Path
) -> None:
    journal = stopped_shards / ".prepare" / "journal"
    tear(journal, "half of it")
    entries = [entry.record for entry in read_journal(journal)]
    n_tokens = sum(entries[-1]["tokens"].values())
    done = prepare(*shard_args, "--output-dir", stopped_shards)
    assert done.returncode == 0, done.stderr
    assert f" {format_count(n_tokens)} tokens): " in done.stderr
    shards.assert_reached(stopped_shards)


@pytest.mark.parametrize("how", ["20 bytes off", "all but the header", "all"])
def test_with_overwrite_a_torn_journal_resumes_as_well(
    how: str, shard_args: Args, shards: Expected, stopped_shards: Path
) -> None:
    tear(stopped_shards / ".prepare" / "journal", how)
    done = prepare(*shard_args, "--output-dir", stopped_shards, "--overwrite")
    assert done.returncode == 0, done.stderr
    shards.assert_reached(stopped_shards, fallbacks=faults.report_of(stopped_shards)["checkpoint_fallbacks"])


@pytest.mark.parametrize("k", [0, -2])
def test_no_shard_is_lost_if_one_of_them_is_damaged(
    k: int, shard_args: Args, shards: Expected, stopped_shards: Path
) -> None:
    tear(stopped_shards / ".prepare" / "journal", "all but the header")
    other = stopped_shards / sorted(name for name in named(stopped_shards) if name != "val.bin")[k]
    flip(other, other.stat().st_size // 2)
    before = faults.sha256s(stopped_shards)
    args: Args = (*shard_args, "--output-dir", stopped_shards)
    for _ in range(2):
        done = prepare(*args)
        assert done.returncode == 4
        assert f"{other} " in done.stderr
        assert faults.sha256s(stopped_shards) == before
    other.unlink()
    assert prepare(*args).returncode == 0
    shards.assert_reached(stopped_shards)


def test_an_extra_shard_is_refused_before_anything_is_changed(
    shard_args: Args, shards: Expected, stopped_shards: Path
) -> None:
    journal = stopped_shards / ".prepare" / "journal"
    tear(journal, "half of it")
    content = journal.read_bytes()
    last = sorted(name for name in named(stopped_shards) if name != "val.bin")[-1]
    other = stopped_shards / re.sub(r"\d+\.", "000099.", last)
    other.write_bytes(b"other")
    done = prepare(*shard_args, "--output-dir", stopped_shards)
    assert (done.returncode, f"{other} exists already" in done.stderr) == (4, True)
    assert journal.read_bytes() == content
    other.unlink()
    assert prepare(*shard_args, "--output-dir", stopped_shards).returncode == 0
    shards.assert_reached(stopped_shards)


@pytest.mark.sample(3)
@pytest.mark.parametrize("form", ["train.bin", "bin", "npy", "llmc"])
@pytest.mark.parametrize("n_named", ["the first", "all"])
def test_a_torn_last_record_costs_nothing_once_files_have_their_names(
    n_named: str, form: str, path: Path, tmp_path: Path
) -> None:
    args: Args = ("--input", path)
    args = args if form == "train.bin" else (*args, "--format", form, *SHARDS)
    expected = expect(tmp_path / "expected", *args)
    # The last file to be renamed is train.bin, or the last shard, which is not full.
    at, skip = ("rename .*partial", -1) if n_named == "the first" else ("open prepare.json.tmp", 0)
    if skip < 0:
        log = tmp_path / "log"
        done = faults.run(*args, "--output-dir", tmp_path / "whole", log=str(log))
        skip = (
            sum(line.startswith("rename") and "partial" in line for line in log.read_text().splitlines()) - 1
        )
    out = tmp_path / "out"
    assert faults.run(*args, "--output-dir", out, at=at, skip=skip).returncode == -9
    assert faults.sha256s(out)
    journal = out / ".prepare" / "journal"
    cut(journal, line_ends(journal)[-1] - 20)
    done = faults.run(*args, "--output-dir", out)
    assert done.returncode == 0, done.stderr
    assert "resuming at 100%" in done.stderr
    expected.assert_reached(out)
