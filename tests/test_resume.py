"""P4: killed at any moment, failing anywhere, the same command resumes and makes the same files.

`python -m pytest -m slow -s tests/test_resume.py` kills 550 times and prints the count; it takes 10 minutes.
"""

import contextlib
import os
import platform
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanogpt_compat import config, pipeline
from nanogpt_compat.encoders.fast import GigatokenEncoder
from nanogpt_compat.resume import checkpoint
from nanogpt_compat.resume.checkpoint import Checkpointer
from nanogpt_compat.text import cutting
from tests import faults
from tests.faults import Args, Expected, Stopped, expect, make_old_files, make_text, prepare
from tests.texts import any_bytes

pytestmark = pytest.mark.costly

EVERY_CALL = "(?!encode).*"  # calls that change the disk
FIRST_OF_PUBLISHING = "remove prepare.json"


def stop_at(k: int) -> Callable[[], None]:
    """Make a check that ends the run at its k-th call, counted from 0."""
    left = iter([*[None] * k, Stopped()])

    def check() -> None:
        error = next(left, None)
        if error is not None:
            raise error

    return check


# SIGKILL


@pytest.mark.parametrize("n_kills", [6, pytest.param(300, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_in_the_same_files(n_kills: int, tmp_path: Path) -> None:
    rng = random.Random(n_kills)
    inputs = [
        make_text(tmp_path / "a.txt", 4_000_000, seed=1, n_invalid=50),
        make_text(tmp_path / "b.txt", 2_000_000, seed=2, n_invalid=50),
    ]
    expected = expect(tmp_path / "expected", "--input", *inputs)
    seconds = expected.seconds
    n_done = n_ends = 0
    while n_done < n_kills:
        out = tmp_path / f"out{n_ends}"
        old, options = make_old_files(out) if rng.random() < 0.3 else ({}, ())
        this = replace(expected, old=old)

        def choose(out: Path = out, options: Args = options) -> tuple[Args, dict[str, Any]]:
            n_workers, block_bytes = rng.randint(1, 4), rng.choice([5_000, 50_000, 1 << 20])
            args: Args = ("--input", *inputs, "--output-dir", out, *options)
            return (*args, "--workers", str(n_workers), "--block-size", str(block_bytes)), {
                "every_bytes": rng.choice([100_000, 400_000]),
                "window_bytes": rng.choice([1 << 16, 1 << 18, 16 << 20]),
                "mapped": rng.choice([None, False]),
            }

        n_here, last_s = faults.kill_until_done(rng, this, out, choose, seconds=seconds)
        if not n_here:  # the duration on a machine that is also busy with other work
            seconds = last_s
        n_done += n_here
        n_ends += 1
        shutil.rmtree(out)
    print(f"{n_done} kills, {n_ends} times to the end")  # noqa: T201 - for the closing note, with pytest -s


def test_killed_at_any_one_call_of_publishing_it_ends_in_the_same_files(tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 300_000)
    expected = expect(tmp_path / "expected", "--input", path)
    old_files, overwrite = make_old_files(tmp_path / "over")
    ways: list[tuple[str, Expected, Args]] = [
        ("new", expected, ()),
        ("over", replace(expected, old=old_files), overwrite),
    ]
    for name, _, options in ways:
        args: Args = ("--input", path, *options, "--output-dir", tmp_path / name)
        assert faults.run(*args, at=FIRST_OF_PUBLISHING).returncode == -9
    shutil.copytree(tmp_path / "new", tmp_path / "logged")
    faults.run("--input", path, "--output-dir", tmp_path / "logged", log=str(tmp_path / "log"))
    calls = [call for call in (tmp_path / "log").read_text().splitlines() if "encode" not in call]
    for index in range(calls.index(FIRST_OF_PUBLISHING), len(calls), 3):
        name, this, options = ways[index % 2]  # the slow tests try all of both
        out = tmp_path / f"out{index}"
        shutil.copytree(tmp_path / name, out)
        args = ("--input", path, *options, "--output-dir", out)
        done = faults.run(*args, at=EVERY_CALL, skip=index)
        assert done.returncode == -9, done.stderr
        this.assert_nothing_partial(out)
        resumed = prepare(*args)
        assert resumed.returncode == 0, resumed.stderr
        this.assert_reached(out)


def test_killed_a_few_calls_later_each_time_it_finishes(tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 600_000)
    expected = expect(tmp_path / "expected", "--input", path)
    out = tmp_path / "out"
    args: Args = ("--input", path, "--output-dir", out, "--block-size", "30000")
    for n_calls in range(0, 1000, 7):
        done = faults.run(*args, at=EVERY_CALL, skip=n_calls)
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        expected.assert_nothing_partial(out)
    assert n_calls > 20
    expected.assert_reached(out)


@pytest.mark.slow
@pytest.mark.parametrize("old", [False, True], ids=["", "with --overwrite"])
@pytest.mark.parametrize("begun", ["nothing", "a part"])
def test_killed_at_any_one_call_it_ends_in_the_same_files(begun: str, old: bool, tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 600_000)
    expected = expect(tmp_path / "expected", "--input", path)
    begin = tmp_path / "begin"
    options: Args = ()
    if old:
        expected.old, options = make_old_files(begin)
    args: Args = ("--input", path, "--block-size", "30000", *options)
    if begun == "a part":
        assert faults.run(*args, "--output-dir", begin, at="write journal", skip=4).returncode == -9
    begin.mkdir(exist_ok=True)
    for n_calls in range(1000):
        out = tmp_path / "out"
        shutil.copytree(begin, out)
        done = faults.run(*args, "--output-dir", out, at=EVERY_CALL, skip=n_calls)
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        expected.assert_nothing_partial(out)
        done = faults.run(*args, "--output-dir", out)
        assert done.returncode == 0, done.stderr
        expected.assert_reached(out)
        shutil.rmtree(out)
    assert n_calls > 40
    print(f"{n_calls} kills")  # noqa: T201 - for the closing note, with pytest -s


# Exceptions


@pytest.mark.sample(1)
@pytest.mark.parametrize(("error", "exit_code"), [("RuntimeError", 1), ("MemoryError", 75)])
def test_an_error_in_a_worker_ends_the_run_with_all_sound_work_saved(
    error: str, exit_code: int, tmp_path: Path
) -> None:
    path = make_text(tmp_path / "a.txt", 2_000_000)
    expected = expect(tmp_path / "expected", "--input", path)
    args: Args = ("--input", path, "--output-dir", tmp_path / "out")
    done = faults.run(*args, "--block-size", "20000", at="encode text", skip=100, do=error)
    assert done.returncode == exit_code
    assert "the same command resumes from there" in done.stderr
    expected.assert_nothing_partial(tmp_path / "out")
    done = faults.run(*args)
    assert "resuming at" in done.stderr
    assert expected.assert_reached(tmp_path / "out")["resumes"] == 1


def test_an_input_cut_while_it_is_read_ends_the_run_which_resumes_once_it_is_restored(tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 12_000_000)  # more than it reads ahead
    whole = path.read_bytes()
    expected = expect(tmp_path / "expected", "--input", path)
    args: Args = ("--input", path, "--output-dir", tmp_path / "out", "--block-size", "20000")
    process = faults.start(*args, at="write journal", skip=4, do="SIGSTOP")
    faults.wait_until_stopped(process)
    with path.open("r+b") as file:
        file.truncate(2_000_000)
    done = faults.let_finish(process)
    assert done.returncode == 3
    assert "a.txt" in done.stderr
    assert faults.run(*args).returncode == 5  # the run was begun with another input
    path.write_bytes(whole)
    done = faults.run(*args)
    assert "may have changed" in done.stderr
    expected.assert_reached(tmp_path / "out")


@pytest.mark.sample(1)
@pytest.mark.parametrize("k", [0, 1, 7, 30])
def test_after_any_exception_in_the_main_thread_it_resumes(k: int, tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 500_000, n_invalid=10)
    args: Args = ("--input", path, "--block-size", "10000")
    expected = expect(tmp_path / "expected", "--input", path)
    with pytest.raises(Stopped):
        prepare(*args, "--output-dir", tmp_path / "out", check=stop_at(k))
    expected.assert_nothing_partial(tmp_path / "out")
    prepare(*args, "--output-dir", tmp_path / "out")
    assert expected.assert_reached(tmp_path / "out")["resumes"] == 1


def test_a_block_that_is_written_but_not_counted_is_not_saved(tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 400_000)
    expected = expect(tmp_path / "expected", "--input", path)
    args: Args = ("--input", path, "--output-dir", tmp_path / "out")
    count, left = pipeline._count, iter(range(25))

    def failing(*args: Any) -> None:
        if next(left, None) is None:
            raise Stopped
        count(*args)

    with patch.object(pipeline, "_count", failing), pytest.raises(Stopped):
        prepare(*args, "--block-size", "10000")
    assert "resuming at" in prepare(*args).stderr
    expected.assert_reached(tmp_path / "out")


@pytest.mark.parametrize("is_time", [False, True])
def test_a_checkpoint_is_written_in_time_even_for_little_output(is_time: bool, tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 500_000)
    args: Args = ("--input", path, "--output-dir", tmp_path / "out")
    assert (checkpoint.EVERY_S, checkpoint.EVERY_OUTPUT_BYTES) == (30, 64 << 20)
    with (
        patch.object(checkpoint, "EVERY_S", 0 if is_time else 1e9),
        patch.object(Checkpointer, "now", side_effect=Stopped),  # as if killed
        pytest.raises(Stopped),
    ):
        prepare(*args, "--block-size", "10000", every_bytes=1 << 40, stop_after_bytes=400_000)
    stderr = prepare(*args).stderr
    assert ("resuming at 8" in stderr) == is_time
    assert ("nothing was saved" in stderr) == (not is_time)


# The report, and independence from the stops


def run_with_stops(rng: random.Random, out: Path, *args: str | Path, n_stops: int, mean_checks: int) -> None:
    """Run to the end in this process, with `n_stops` stops and new settings after each."""
    for n_left in range(n_stops, -1, -1):
        n_checks = round(rng.expovariate(1 / mean_checks))
        settings = ("--workers", str(rng.randint(1, 4)), "--block-size", str(rng.randint(1, 20_000)))
        with contextlib.ExitStack() as stack:
            if n_left:
                stack.enter_context(contextlib.suppress(Stopped))
                if rng.random() < 0.5:  # as if killed: the work after the last checkpoint is lost
                    stack.enter_context(patch.object(Checkpointer, "now", side_effect=Stopped))
            done = prepare(
                *(*args, "--output-dir", out, *settings),
                every_bytes=rng.choice([2, 1_000, 30_000]),
                check=stop_at(n_checks) if n_left else None,
            )
            assert done.returncode == 0, done.stderr
            assert "did not match" not in done.stderr


@pytest.mark.sample(1)
@pytest.mark.parametrize("seed", range(3))
def test_the_report_of_a_stopped_run_is_that_of_an_uninterrupted_one(seed: int, tmp_path: Path) -> None:
    inputs = [make_text(tmp_path / f"{k}.txt", 150_000, seed=k, n_invalid=4) for k in range(3)]
    with inputs[1].open("ab") as file:
        file.write(b"a" * 5_000 + b" b\xff")
    args: Args = ("--input", *inputs, "--errors", "ignore", "--n", "4", "--val-ratio", "0.5")
    with patch.object(config, "CHARS_PER_CHUNK", 100_000), patch.object(cutting, "MAX_PIECE_BYTES", 1_000):
        assert prepare(*args, "--output-dir", tmp_path / "expected").returncode == 0
        expected = expected_of(tmp_path / "expected")
        run_with_stops(random.Random(seed), tmp_path / "out", *args, n_stops=6, mean_checks=20)
    report = expected.assert_reached(tmp_path / "out")
    assert report["invalid_bytes"] > 8
    assert report["forced_cuts"] >= 4
    assert report["val_split"]["windows"] > 1
    assert report["bytes_read"] < report["bytes_total"]  # --n ended it
    assert report["resumes"] > 2


@pytest.mark.sample(3)
@pytest.mark.parametrize("after_bytes", range(1, 800, 100))
def test_it_resumes_within_a_stretch_that_is_cut_by_force_and_between_cr_and_lf(
    after_bytes: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" + b"\r\n" * 500 + b" y z")
    with patch.object(cutting, "MAX_PIECE_BYTES", 101):  # every second cut is between CR and LF
        assert prepare("--input", path, "--output-dir", tmp_path / "expected").returncode == 0
        args: Args = ("--input", path, "--output-dir", tmp_path / "out")
        with pytest.raises(Stopped):
            prepare(*args, "--block-size", "1", stop_after_bytes=after_bytes)
        assert prepare(*args).returncode == 0
    assert expected_of(tmp_path / "expected").assert_reached(tmp_path / "out")["forced_cuts"] > 5


def expected_of(folder: Path) -> Expected:
    return Expected(faults.sha256s(folder), faults.report_of(folder), seconds=0)


@given(
    raws=st.lists(any_bytes.map(lambda raw: raw.replace(b"\0", b"a") + b"x"), min_size=1, max_size=3),
    n_copies=st.integers(1, 20),
    seed=st.integers(0, 1 << 32),
    n_stops=st.integers(0, 4),
    errors=st.sampled_from(["ignore", "replace"]),
    val=st.sampled_from(["spread", "head", "tail", "none"]),
    piece_bytes=st.sampled_from([16, 1 << 19]),
)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
    max_examples=10,
)
def test_any_bytes_stopped_at_any_point_give_the_files_of_an_uninterrupted_run(
    raws: list[bytes],
    n_copies: int,
    seed: int,
    n_stops: int,
    errors: str,
    val: str,
    piece_bytes: int,
    tmp_path: Path,
) -> None:
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    inputs = [tmp_path / f"{k}.txt" for k in range(len(raws))]
    for path, raw in zip(inputs, raws, strict=True):
        path.write_bytes(b"Words by which this is text. " * 100 + raw * n_copies)
    ratio = () if val == "none" else ("--val-ratio", "0.3")
    args: Args = ("--input", *inputs, "--errors", errors, "--val-split", val, *ratio)
    with patch.object(cutting, "MAX_PIECE_BYTES", piece_bytes):
        assert prepare(*args, "--output-dir", tmp_path / "expected").returncode == 0
        run_with_stops(random.Random(seed), tmp_path / "out", *args, n_stops=n_stops, mean_checks=10)
    expected_of(tmp_path / "expected").assert_reached(tmp_path / "out")


def test_an_encoder_that_fails_once_at_a_place_succeeds_there_at_the_second_try(tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 400_000)
    expected = expect(tmp_path / "expected", "--input", path)
    encode = GigatokenEncoder.encode_checked
    for k in (10, 12, 14):
        left = iter(range(k))

        def failing(engine: GigatokenEncoder, *args: Any, left: Iterator[int] = left) -> object:
            if next(left, None) is None:
                raise Stopped
            return encode(engine, *args)

        with patch.object(GigatokenEncoder, "encode_checked", failing), pytest.raises(Stopped):
            prepare("--input", path, "--output-dir", tmp_path / "out", "--block-size", "10000")
    assert prepare("--input", path, "--output-dir", tmp_path / "out").returncode == 0
    expected.assert_reached(tmp_path / "out")


# Two runs at once


def test_a_second_run_in_the_same_folder_names_the_first_one(tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 1_000_000)
    expected = expect(tmp_path / "expected", "--input", path)
    args: Args = ("--input", path, "--output-dir", tmp_path / "out")
    process = faults.start(*args, "--block-size", "20000", at="write journal", skip=3, do="SIGSTOP")
    faults.wait_until_stopped(process)
    for options in ((), ("--restart",), ("--overwrite",), ("--val-ratio", "0.5", "--restart")):
        done = prepare(*args, *options)
        assert done.returncode == 4
        assert f"process {process.pid} on {platform.node()}" in done.stderr
    finished = faults.let_finish(process)
    assert finished.returncode == 0, finished.stderr
    assert expected.assert_reached(tmp_path / "out")["resumes"] == 0


def test_a_second_run_is_refused_too_if_links_lead_both_to_one_file(tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 1_000_000)
    expected = expect(tmp_path / "expected", "--input", path)
    elsewhere = tmp_path / "elsewhere"
    for folder in (elsewhere, tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
    for name in ("one", "two"):
        (tmp_path / name / "train.bin").symlink_to(elsewhere / "big.bin")
    args: Args = ("--input", path, "--output-dir", tmp_path / "one")
    process = faults.start(*args, "--block-size", "20000", at="write journal", skip=3, do="SIGSTOP")
    faults.wait_until_stopped(process)
    done = prepare("--input", path, "--val-ratio", "0.5", "--output-dir", tmp_path / "two")
    assert done.returncode == 4
    assert (
        f"{elsewhere / '.prepare'} is in use by another run, process {process.pid} on {platform.node()}"
        in done.stderr
    )
    assert [one.name for one in (tmp_path / "two").iterdir()] == ["train.bin"]
    finished = faults.let_finish(process)
    assert finished.returncode == 0, finished.stderr
    expected.assert_reached(tmp_path / "one")
    assert [one.name for one in elsewhere.iterdir()] == ["big.bin"]


def test_a_child_that_outlives_a_killed_run_does_not_block_the_next(tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 1_000_000)
    expected = expect(tmp_path / "expected", "--input", path)
    args: Args = ("--input", path, "--output-dir", tmp_path / "out")
    command = faults.command(*args, "--block-size", "20000", at="write journal", skip=3, do="fork+SIGKILL")
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        assert process.wait(faults.TIMEOUT_S) == -9
        os.killpg(process.pid, 0)  # its child is alive
        resumed = prepare(*args)
        assert resumed.returncode == 0, resumed.stderr
        assert expected.assert_reached(tmp_path / "out")["resumes"] == 1
    finally:
        os.killpg(process.pid, signal.SIGKILL)
