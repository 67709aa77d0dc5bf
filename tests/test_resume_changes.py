"""Changes between two runs: those that do not matter are accepted, and the others refused."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from nanogpt_compat import report
from nanogpt_compat.input.open import LocalFile
from nanogpt_compat.input.samples import take_samples
from nanogpt_compat.preflight import job
from nanogpt_compat.resume.fingerprint import TOKEN_FORMAT
from tests import faults
from tests.faults import Args, Expected, Outcome, Stopped, make_text, prepare

pytestmark = pytest.mark.costly

N_BYTES = 600_000
BLOCKS: Args = ("--block-size", "20000")
N_CONSUMED = 300_000  # where a test's first run stops, or at most one block later


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_text(tmp_path / "a.txt", N_BYTES)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def begin(out: Path, *args: str | Path, after_bytes: int = N_CONSUMED) -> None:
    """Make a run that stops before its end."""
    with pytest.raises(Stopped):
        prepare(*args, *BLOCKS, "--output-dir", out, stop_after_bytes=after_bytes)


MADE: dict[tuple[str, ...], Expected] = {}


def expected_now(tmp_path: Path, *args: str | Path) -> Expected:
    """Return the output of a run over the inputs as they are now."""
    contents = (one.read_bytes() if isinstance(one, Path) else one.encode() for one in args)
    key = tuple(hashlib.sha256(content).hexdigest() for content in contents)
    if key not in MADE:
        folder = tmp_path / "expected"
        assert prepare(*args, "--output-dir", folder).returncode == 0
        MADE[key] = Expected(faults.sha256s(folder), faults.report_of(folder), seconds=0)
        shutil.rmtree(folder)
    expected = MADE[key]
    paths = (str(one) for one in args if isinstance(one, Path))
    inputs = [one | {"path": path} for one, path in zip(expected.report["inputs"], paths, strict=True)]
    return replace(expected, report=expected.report | {"inputs": inputs})


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return all files below a folder, each with values that change when it is written to."""
    files = (one for one in folder.rglob("*") if one.is_file() and not one.name.startswith((".git", "lock.")))
    found = ((str(one.relative_to(folder)), one.stat()) for one in files)
    return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in found}


def unsampled(path: Path, start: int, end: int, paths: Sequence[Path] = ()) -> int:
    """Find a place that no sample covers: a change there shows only in time and content."""
    total_bytes = sum(one.stat().st_size for one in paths or [path])
    with LocalFile(path) as file:
        samples = take_samples(file, total_bytes=total_bytes, n_inputs=len(paths or [path]))
    covered = [(sample.offset, sample.offset + len(sample.data)) for sample in samples]
    return next(
        place for place in range(start, end, 1000) if not any(a - 8 <= place < b + 8 for a, b in covered)
    )


def edit(path: Path, place: int) -> None:
    """Change some bytes in place."""
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b" edited ")


def test_all_files_of_a_stopped_run_are_in_one_folder_that_git_ignores(
    path: Path, out: Path, tmp_path: Path
) -> None:
    begin(out, "--input", path)
    assert [one.name for one in out.iterdir()] == [".prepare"]
    names = sorted(one.name for one in (out / ".prepare").iterdir())
    assert names == [".gitignore", "journal", "train.bin.partial", "val.bin.partial"]
    assert (out / ".prepare" / ".gitignore").read_text() == "*\n"


# The input changes between two runs


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b" and more")


def cut(path: Path) -> None:
    os.truncate(path, N_BYTES - 9)


def cut_before_the_place(path: Path) -> None:
    os.truncate(path, N_CONSUMED // 2)


def edit_within_a_sample(path: Path) -> None:
    edit(path, 100)


def edit_the_read_part(path: Path) -> None:
    edit(path, unsampled(path, 100_000, 250_000))


def edit_it_and_set_the_time_back(path: Path) -> None:
    stat = path.stat()
    edit_the_read_part(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def edit_the_first_bytes_of_a_copy_of_the_same_age(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy2(path, copy)
    stat = path.stat()
    edit_the_read_part(copy)
    os.utime(copy, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    copy.replace(path)


def write_something_else(path: Path) -> None:
    make_text(path, N_BYTES, seed=1)


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (grow, "had 600,000 bytes and has 600,009"),
        (cut, "had 600,000 bytes and has 599,991"),
        (cut_before_the_place, "had 600,000 bytes and has 150,000"),
        (edit_within_a_sample, "changed within the 3"),
        (write_something_else, "changed within the 3"),
        (edit_the_read_part, "changed within the 3"),
        (edit_it_and_set_the_time_back, "changed within the 3"),
        (edit_the_first_bytes_of_a_copy_of_the_same_age, "changed within the 3"),
    ],
)
def test_an_input_that_has_changed_is_refused_until_restart(
    change: Callable[[Path], None], message: str, path: Path, out: Path, tmp_path: Path
) -> None:
    args: Args = ("--input", path)
    begin(out, *args)
    change(path)
    assert_refused(prepare(*args, "--output-dir", out), out, str(path), message)
    assert_restarts(out, tmp_path, *args)


def assert_refused(done: Outcome, out: Path, *messages: str) -> None:
    assert done.returncode == 5, done.stderr
    for message in (*messages, str(out / ".prepare"), "Run with the original input", "--restart"):
        assert message in done.stderr
    assert "; it is kept" in done.stderr


def assert_restarts(out: Path, tmp_path: Path, *args: str | Path) -> None:
    assert prepare(*args, "--output-dir", out, "--restart").returncode == 0
    assert expected_now(tmp_path, *args).assert_reached(out)["resumes"] == 0


def test_a_refused_run_stays_unchanged_and_resumes_once_the_input_fits_again(
    path: Path, out: Path, tmp_path: Path
) -> None:
    args: Args = ("--input", path)
    begin(out, *args)
    before = snapshot(out)
    os.truncate(path, N_BYTES - 9)
    assert prepare(*args, "--output-dir", out).returncode == 5
    assert snapshot(out) == before
    make_text(path, N_BYTES)  # the original
    done = prepare(*args, "--output-dir", out)
    assert "may have changed" in done.stderr
    assert "resuming at 5" in done.stderr
    expected_now(tmp_path, *args).assert_reached(out)


def touch(path: Path) -> None:
    path.touch()


def change_its_mode(path: Path) -> None:
    mtime_ns = path.stat().st_mtime_ns
    path.chmod(0o600)
    assert path.stat().st_mtime_ns == mtime_ns  # only ctime has changed


def put_a_copy_in_its_place(path: Path) -> None:
    shutil.copy2(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


def edit_the_unread_part(path: Path) -> None:
    edit(path, unsampled(path, 450_000, N_BYTES))


@pytest.mark.parametrize("change", [touch, change_its_mode, put_a_copy_in_its_place, edit_the_unread_part])
def test_it_resumes_after_a_check_if_the_part_already_read_is_the_same(
    change: Callable[[Path], None], path: Path, out: Path, tmp_path: Path
) -> None:
    args: Args = ("--input", path)
    begin(out, *args)
    change(path)
    done = prepare(*args, "--output-dir", out)
    assert done.returncode == 0, done.stderr
    assert f"{path} may have changed: reading 3" in done.stderr
    assert expected_now(tmp_path, *args).assert_reached(out)["resumes"] == 1


def test_an_input_with_its_old_timestamp_is_not_read_again(path: Path, out: Path) -> None:
    begin(out, "--input", path)
    assert "may have changed" not in prepare("--input", path, "--output-dir", out).stderr


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [make_text(tmp_path / f"{k}.txt", 250_000 + k, seed=k) for k in range(3)]


@pytest.mark.parametrize("index", range(3))
def test_those_of_several_inputs_already_read_must_be_the_same(
    index: int, paths: list[Path], out: Path, tmp_path: Path
) -> None:
    args: Args = ("--input", *paths)
    begin(out, *args, after_bytes=375_000)
    edit(paths[index], unsampled(paths[index], 50_000, 150_000, paths))
    done = prepare(*args, "--output-dir", out)
    if index < 2:
        assert_refused(done, out, f"{paths[index]} was changed within the ")
        assert_restarts(out, tmp_path, *args)
    else:
        assert done.returncode == 0
        expected_now(tmp_path, *args).assert_reached(out)


def test_an_added_missing_or_moved_input_is_refused_until_restart(
    paths: list[Path], out: Path, tmp_path: Path
) -> None:
    begin(out, "--input", *paths[:2], after_bytes=375_000)
    done = prepare("--input", *paths, "--output-dir", out)  # would move the validation windows
    assert_refused(
        done, out, "the size of all text, which decides the validation windows, was 500,001 and is"
    )
    done = prepare("--input", paths[0], "--output-dir", out)
    assert_refused(done, out, "was 500,001 and is 250,000")
    done = prepare("--input", paths[1], paths[0], "--output-dir", out)
    assert_refused(done, out, f"{paths[1]} was changed within the 250,000 bytes already read")
    assert_restarts(out, tmp_path, "--input", *paths)


# The options change between two runs

VERSIONS = dict(report.versions())


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ((), ("--val-ratio", "0.1"), "--val-ratio was 0.0005 and is 0.1"),
        ((), ("--val-ratio", "0"), "--val-ratio was 0.0005 and is 0"),
        ((), ("--val-split", "tail"), "--val-split was spread and is tail"),
        ((), ("--val-split", "none"), "--val-split was spread and is none"),
        (("--val-split", "none"), (), "--val-split was none and is spread"),
        ((), ("--n", "1"), "--n was not given and is 1"),
        (("--n", "2"), ("--n", "1"), "--n was 2 and is 1"),
        (("--n", "2"), (), "--n was 2 and is not given"),
    ],
)
def test_an_option_that_changes_the_tokens_is_refused_until_restart(
    old: Args, new: Args, message: str, path: Path, out: Path, tmp_path: Path
) -> None:
    begin(out, "--input", path, *old)
    before = snapshot(out)
    assert_refused(prepare("--input", path, *new, "--output-dir", out), out, message)
    assert snapshot(out) == before
    assert_restarts(out, tmp_path, "--input", path, *new)


@pytest.mark.parametrize(
    ("where", "name", "value", "message"),
    [
        (job, "TOKEN_FORMAT", TOKEN_FORMAT + 1, f"token format was {TOKEN_FORMAT} and is "),
        (report, "versions", lambda: VERSIONS | {"tiktoken": "99.0"}, "and is 99.0"),
        (faults, "_find_gpt2", lambda folder: replace(faults.gpt2(), sha256="0" * 64), "and is 000000"),
    ],
    ids=["token format", "tiktoken", "vocabulary"],
)
def test_another_tokeniser_is_refused_until_restart(
    where: object, name: str, value: object, message: str, path: Path, out: Path, tmp_path: Path
) -> None:
    begin(out, "--input", path)
    with patch.object(where, name, value), patch.dict(MADE, clear=True):
        assert_refused(prepare("--input", path, "--output-dir", out), out, message)
        assert_restarts(out, tmp_path, "--input", path)


@pytest.mark.parametrize(
    "options",
    [
        *[("--block-size", "1000"), ("--block-size", "1M"), ("--workers", "1"), ("--workers", "5")],
        *[("--quiet",), ("--max-memory", "20G"), ("--overwrite",)],
    ],
)
def test_an_option_that_does_not_matter_to_the_tokens_may_change(
    options: Args, path: Path, out: Path, tmp_path: Path
) -> None:
    begin(out, "--input", path)
    done = prepare("--input", path, *options, "--output-dir", out)
    assert done.returncode == 0, done.stderr
    assert expected_now(tmp_path, "--input", path).assert_reached(out)["resumes"] == 1


def test_the_same_files_and_folders_may_have_other_names(
    path: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(out, "--input", path)
    (tmp_path / "link").symlink_to(out)
    path.rename(tmp_path / "moved.txt")
    monkeypatch.chdir(tmp_path)
    assert prepare("--input", "moved.txt", "--output-dir", "link").returncode == 0
    expected_now(tmp_path, "--input", Path("moved.txt")).assert_reached(out)
    assert (tmp_path / "link").is_symlink()


def test_the_same_vocabulary_may_come_from_elsewhere(path: Path, out: Path, tmp_path: Path) -> None:
    begin(out, "--input", path)
    shutil.copy(faults.gpt2().source, tmp_path / "vocab.bpe")
    assert prepare("--input", path, "--output-dir", out, "--vocab-dir", tmp_path).returncode == 0
    assert expected_now(tmp_path, "--input", path).assert_reached(out)["resumes"] == 1


# Complete output


@pytest.fixture
def complete(path: Path, out: Path) -> Path:
    assert prepare("--input", path, "--output-dir", out).returncode == 0
    return out


def test_complete_output_is_left_unchanged(path: Path, complete: Path) -> None:
    before = snapshot(complete)
    for options in ((), ("--workers", "3"), ("--block-size", "1000")):
        done = prepare("--input", path, *options, "--output-dir", complete)
        assert done.returncode == 0
        assert "already complete" in done.stderr
        assert snapshot(complete) == before
    assert list(complete.glob(".*")) == []


def test_complete_output_stays_so_if_the_input_has_a_new_timestamp(path: Path, complete: Path) -> None:
    path.touch()
    before = snapshot(complete)
    done = prepare("--input", path, "--output-dir", complete)
    assert done.returncode == 0
    assert "may have changed: reading 600 kB of it again" in done.stderr
    assert "already complete" in done.stderr
    assert snapshot(complete) == before


def test_the_option_named_for_making_it_again_works(path: Path, complete: Path, tmp_path: Path) -> None:
    before = snapshot(complete)
    stderr = prepare("--input", path, "--output-dir", complete).stderr
    options = [word.strip(",.;") for word in stderr.split() if word.startswith("--")]
    assert options == ["--overwrite"]
    assert prepare("--input", path, *options, "--output-dir", complete).returncode == 0
    assert not {*snapshot(complete).values()} & {*before.values()}
    expected_now(tmp_path, "--input", path).assert_reached(complete)


def forget(complete: Path) -> None:
    (complete / "prepare.json").unlink()


def garble(content: str) -> Callable[[Path], None]:
    def change(complete: Path) -> None:
        (complete / "prepare.json").write_text(content)

    return change


def lose_a_part(name: str) -> Callable[[Path], None]:
    """Set a field of prepare.json to null."""

    def change(complete: Path) -> None:
        made = faults.report_of(complete)
        (complete / "prepare.json").write_text(json.dumps(made | {name: None}))

    return change


def cut_train(complete: Path) -> None:
    os.truncate(complete / "train.bin", 1000)


def grow_val(complete: Path) -> None:
    with (complete / "val.bin").open("ab") as file:
        file.write(b"\0\0")


def remove_train(complete: Path) -> None:
    (complete / "train.bin").unlink()


@pytest.mark.sample(8)
@pytest.mark.parametrize(
    "change",
    [
        *[forget, cut_train, grow_val, remove_train],
        *[garble(content) for content in ("", "{", "[]", "{}", "[" * 100_000, "null", '{"files": 3}')],
        *[lose_a_part(name) for name in ("fingerprint", "files", "inputs")],
    ],
)
def test_output_that_looks_incomplete_is_kept_without_overwrite(
    change: Callable[[Path], None], path: Path, complete: Path, tmp_path: Path
) -> None:
    change(complete)
    has_size = change not in (cut_train, grow_val, remove_train)
    assert_kept("exists already" if has_size else MISMATCH, path, complete, tmp_path)


MISMATCH = "holds complete output that does not match this run: "


def assert_kept(why: str, path: Path, complete: Path, tmp_path: Path) -> None:
    """Check that a run reports why it changes nothing, and replaces the files with --overwrite."""
    before = snapshot(complete)
    done = prepare("--input", path, "--output-dir", complete)
    assert done.returncode == 4, done.stderr
    assert why in done.stderr
    assert "--overwrite" in done.stderr
    assert snapshot(complete) == before
    assert not (complete / ".prepare").exists()
    done = prepare("--input", path, "--output-dir", complete, "--overwrite")
    assert done.returncode == 0, done.stderr
    expected_now(tmp_path, "--input", path).assert_reached(complete)


@pytest.mark.parametrize("change", [grow, edit_within_a_sample, edit_the_read_part])
def test_output_of_another_input_is_kept_without_overwrite(
    change: Callable[[Path], None], path: Path, complete: Path, tmp_path: Path
) -> None:
    change(path)
    assert_kept("exists already" if change is edit_the_read_part else MISMATCH, path, complete, tmp_path)


def test_a_report_without_its_files_is_ignored(path: Path, complete: Path, tmp_path: Path) -> None:
    for name in faults.FINALS:
        (complete / name).unlink()
    assert prepare("--input", path, "--output-dir", complete).returncode == 0
    expected_now(tmp_path, "--input", path).assert_reached(complete)


# --overwrite and --restart


@pytest.mark.parametrize("options", [(), ("--val-ratio", "0.1")], ids=["the same", "others"])
def test_old_files_stay_until_the_new_are_complete_and_a_stopped_run_resumes(
    options: Args, path: Path, complete: Path, tmp_path: Path
) -> None:
    edit(path, 100)
    old = {name: sha for name, sha in snapshot(complete).items() if not name.startswith(".")}
    args: Args = ("--input", path, *options)
    begin(complete, *args, "--overwrite")
    assert {name: snapshot(complete)[name] for name in old} == old
    done = prepare(*args, "--output-dir", complete)
    assert done.returncode == 4  # the old files are still there
    assert {name: snapshot(complete)[name] for name in old} == old
    done = prepare(*args, "--output-dir", complete, "--overwrite")
    assert "resuming at 5" in done.stderr
    assert expected_now(tmp_path, *args).assert_reached(complete)["resumes"] == 1


def test_old_files_and_their_report_stay_if_a_finished_run_may_no_longer_replace_them(
    path: Path, complete: Path, tmp_path: Path
) -> None:
    args: Args = ("--input", path, "--val-ratio", "0.1", "--output-dir", complete)
    assert faults.run(*args, "--overwrite", at="remove prepare.json").returncode == -9
    before = snapshot(complete)
    done = prepare(*args)
    assert done.returncode == 4
    assert "--overwrite" in done.stderr
    assert snapshot(complete) == before
    assert prepare(*args, "--overwrite").returncode == 0
    expected_now(tmp_path, "--input", path, "--val-ratio", "0.1").assert_reached(complete)


def test_a_stopped_run_stays_next_to_complete_output(path: Path, complete: Path, tmp_path: Path) -> None:
    others: Args = ("--input", path, "--val-ratio", "0.1")
    begin(complete, *others, "--overwrite")
    before = snapshot(complete)
    assert "already complete" in prepare("--input", path, "--output-dir", complete).stderr
    assert snapshot(complete) == before
    assert "resuming at" in prepare(*others, "--overwrite", "--output-dir", complete).stderr
    expected_now(tmp_path, *others).assert_reached(complete)


def test_a_finished_run_stays_next_to_complete_output(path: Path, complete: Path, tmp_path: Path) -> None:
    args: Args = ("--input", path, "--val-ratio", "0.1", "--overwrite", "--output-dir", complete)
    assert faults.run(*args, at="remove prepare.json").returncode == -9
    before = snapshot(complete)
    assert "already complete" in prepare("--input", path, "--output-dir", complete).stderr
    assert snapshot(complete) == before
    assert prepare(*args).returncode == 0
    expected_now(tmp_path, "--input", path, "--val-ratio", "0.1").assert_reached(complete)


def test_overwrite_makes_it_again_each_time_and_resumes_in_between(
    path: Path, complete: Path, tmp_path: Path
) -> None:
    args: Args = ("--input", path, "--overwrite", "--output-dir", complete)
    first = snapshot(complete)
    begin(complete, "--input", path, "--overwrite")
    resumed = prepare(*args)
    assert (resumed.returncode, "resuming at 5" in resumed.stderr) == (0, True), resumed.stderr
    assert expected_now(tmp_path, "--input", path).assert_reached(complete)["resumes"] == 1
    second = snapshot(complete)
    assert not {*first.values()} & {*second.values()}
    again = prepare(*args)
    assert (again.returncode, "resuming" in again.stderr) == (0, False), again.stderr
    assert expected_now(tmp_path, "--input", path).assert_reached(complete)["resumes"] == 0
    assert not {*second.values()} & {*snapshot(complete).values()}


def test_a_run_killed_after_all_files_got_their_names_is_only_finished(path: Path, complete: Path) -> None:
    args: Args = ("--input", path, "--overwrite", "--output-dir", complete)
    assert faults.run(*args, at="remove journal").returncode == -9
    files = {name: known for name, known in snapshot(complete).items() if name.endswith(".bin")}
    done = prepare(*args)
    assert done.returncode == 0, done.stderr
    assert {name: known for name, known in snapshot(complete).items() if name.endswith(".bin")} == files
    assert list(complete.glob(".*")) == []


def test_complete_output_is_kept_next_to_a_stopped_run_of_the_same(path: Path, complete: Path) -> None:
    before = snapshot(complete)
    begin(complete, "--input", path, "--overwrite")
    assert "already complete" in prepare("--input", path, "--output-dir", complete).stderr
    assert snapshot(complete) == before


def test_restart_discards_the_saved_work(path: Path, out: Path, tmp_path: Path) -> None:
    begin(out, "--input", path)
    done = prepare("--input", path, "--output-dir", out, "--restart")
    assert "resuming at" not in done.stderr
    assert expected_now(tmp_path, "--input", path).assert_reached(out)["resumes"] == 0


def test_restart_with_nothing_to_discard_is_an_ordinary_run(path: Path, out: Path, tmp_path: Path) -> None:
    assert prepare("--input", path, "--output-dir", out, "--restart").returncode == 0
    expected_now(tmp_path, "--input", path).assert_reached(out)


def test_restart_alone_does_not_replace_files(path: Path, complete: Path) -> None:
    before = snapshot(complete)
    assert prepare("--input", path, "--output-dir", complete, "--restart").returncode == 4
    assert snapshot(complete) == before


def test_a_file_that_appears_between_two_runs_is_not_replaced(path: Path, out: Path, tmp_path: Path) -> None:
    begin(out, "--input", path)
    (out / "train.bin").write_bytes(b"mine")
    done = prepare("--input", path, "--output-dir", out)
    assert done.returncode == 4
    assert (out / "train.bin").read_bytes() == b"mine"
    (out / "train.bin").unlink()
    assert "resuming at 5" in prepare("--input", path, "--output-dir", out).stderr
    expected_now(tmp_path, "--input", path).assert_reached(out)


@pytest.mark.parametrize("name", faults.FINALS)
def test_a_file_that_appears_during_the_run_is_not_replaced(
    name: str, path: Path, out: Path, tmp_path: Path
) -> None:
    process = faults.start("--input", path, "--output-dir", out, at="remove prepare.json", do="SIGSTOP")
    faults.wait_until_stopped(process)
    (out / name).write_bytes(b"mine")
    done = faults.let_finish(process)
    assert done.returncode == 4
    assert f"{name} exists and is not from this run" in done.stderr
    assert (out / name).read_bytes() == b"mine"
    (out / name).unlink()
    assert prepare("--input", path, "--output-dir", out).returncode == 0
    expected_now(tmp_path, "--input", path).assert_reached(out)


def test_links_to_files_elsewhere_are_followed_and_stay(path: Path, out: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    out.mkdir()
    (out / "train.bin").symlink_to(elsewhere / "big.bin")
    begin(out, "--input", path)
    assert not (elsewhere / "big.bin").exists()
    assert "resuming at 5" in prepare("--input", path, "--output-dir", out).stderr
    assert (out / "train.bin").is_symlink()
    assert [one.name for one in elsewhere.iterdir()] == ["big.bin"]
    expected_now(tmp_path, "--input", path).assert_reached(out)
