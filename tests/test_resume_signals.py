"""A signal: the run saves, prints how to resume, and dies by it; a second signal ends it at once."""

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import faults
from tests.faults import Args, Expected, expect, make_text, prepare

pytestmark = [pytest.mark.alone, pytest.mark.costly]

SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"]
# The promise is one second; 0.1 s is usual. The work that it must not wait for takes a minute.
MAX_S = 30.0


@pytest.fixture(scope="module", autouse=True)
def as_on_a_terminal() -> Iterator[None]:
    """Let programs started here ignore no signal, even if pytest itself runs under nohup or `&`."""
    ignored = [n for n in map(signal.Signals.__getitem__, SIGNALS) if signal.getsignal(n) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text(tmp_path_factory.mktemp("input") / "a.txt", 1_500_000)


@pytest.fixture(scope="module")
def expected(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Expected:
    return expect(tmp_path_factory.mktemp("expected") / "out", "--input", path)


@pytest.fixture(scope="module")
def begun(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the output folder of a run that was killed before its end."""
    out = tmp_path_factory.mktemp("begun") / "out"
    args: Args = ("--input", path, "--output-dir", out, "--block-size", "20000")
    assert faults.run(*args, at="write journal", skip=4).returncode == -signal.SIGKILL
    return out


def stop_while_it_encodes(*args: str | Path, prefix: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    """Start a run, and stop it in the middle with SIGSTOP."""
    process = faults.start(
        *args, "--block-size", "20000", prefix=prefix, at="write journal", skip=4, do="SIGSTOP"
    )
    faults.wait_until_stopped(process)
    return process


@pytest.mark.parametrize("name", SIGNALS)
def test_it_saves_its_work_within_a_second_and_dies_by_the_signal(
    name: str, path: Path, expected: Expected, tmp_path: Path
) -> None:
    number = signal.Signals[name]
    args: Args = ("--input", path, "--output-dir", tmp_path)
    process = stop_while_it_encodes(*args)
    process.send_signal(number)
    began_s = time.monotonic()
    done = faults.let_finish(process)
    elapsed_s = time.monotonic() - began_s
    assert done.returncode == -number, done.stderr
    assert f"prepare: stopped by {name}" in done.stderr
    assert "saved: " in done.stderr
    assert "the same command resumes from there" in done.stderr
    assert "Traceback" not in done.stderr
    assert elapsed_s < MAX_S
    resumed = prepare(*args)
    assert "resuming at" in resumed.stderr
    assert expected.assert_reached(tmp_path)["resumes"] == 1


def test_the_saved_work_is_reported_correctly(path: Path, expected: Expected, tmp_path: Path) -> None:
    args: Args = ("--input", path, "--output-dir", tmp_path)
    process = stop_while_it_encodes(*args)
    process.send_signal(signal.SIGTERM)
    done = faults.let_finish(process)
    saved = done.stderr.partition("saved: ")[2].partition(";")[0]
    assert re.search(rf"resuming at {re.escape(saved)}: .* of work already done\n", prepare(*args).stderr)


def test_a_second_signal_ends_it_at_once_even_while_it_waits_for_a_slow_disk(
    path: Path, expected: Expected, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    args: Args = ("--input", path, "--output-dir", tmp_path / "out")
    process = faults.start(*args, log=str(log), at="fsync train.bin.partial", skip=2, do="sleep")
    try:
        wait_for(lambda: log.exists() and log.read_text().count("fsync train.bin.partial") == 3)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):  # it waits for the disk: this work is not saved yet
            process.wait(0.5)
        process.send_signal(signal.SIGINT)
        began_s = time.monotonic()
        process.wait(MAX_S)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGINT
    assert time.monotonic() - began_s < MAX_S
    expected.assert_nothing_partial(tmp_path / "out")
    assert prepare(*args).returncode == 0
    expected.assert_reached(tmp_path / "out")


def test_it_does_not_wait_for_a_block_that_takes_long(path: Path, expected: Expected, tmp_path: Path) -> None:
    log = tmp_path / "log"
    args: Args = ("--input", path, "--output-dir", tmp_path / "out", "--workers", "2")
    process = faults.start(
        *args, "--block-size", "20000", log=str(log), at="encode text", skip=48, do="sleep"
    )
    wait_for(lambda: log.exists() and log.read_text().count("encode text") > 53)
    process.send_signal(signal.SIGTERM)
    began_s = time.monotonic()
    done = faults.let_finish(process)
    assert time.monotonic() - began_s < MAX_S
    assert done.returncode == -signal.SIGTERM
    assert "resuming at" in prepare(*args).stderr
    expected.assert_reached(tmp_path / "out")


def test_a_signal_while_finished_work_is_checked_is_obeyed_too(
    path: Path, expected: Expected, tmp_path: Path
) -> None:
    args: Args = ("--input", path, "--output-dir", tmp_path)
    assert faults.run(*args, at="remove prepare.json").returncode == -signal.SIGKILL
    done = faults.run(*args, at="mkdir lock.*", do="SIGTERM")  # noticed at the first segment
    assert done.returncode == -signal.SIGTERM
    assert "saved: 100% (1.5 MB of 1.5 MB, " in done.stderr
    assert "the same command resumes from there" in done.stderr
    assert prepare(*args).returncode == 0
    expected.assert_reached(tmp_path)


@pytest.mark.parametrize("n_workers", [1, 4])
def test_the_largest_blocks_and_windows_do_not_delay_it(n_workers: int, tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 40_000_000)
    out, log = tmp_path / "out", tmp_path / "log"
    args: Args = ("--input", path, "--output-dir", out, "--workers", str(n_workers), "--block-size", "4M")
    process = faults.start(*args, log=str(log), every_bytes=64 << 20)
    partial = out / ".prepare" / "train.bin.partial"
    wait_for(lambda: partial.exists() and partial.stat().st_size > 10_000_000)
    process.send_signal(signal.SIGTERM)
    n_before = log.read_text().count("encode text")
    _, stderr = process.communicate()
    assert process.returncode == -signal.SIGTERM
    assert "saved: " in stderr
    # It waits for no block, but blocks that the threads have already taken may be finished.
    assert log.read_text().count("encode text") <= n_before + 2 * n_workers


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + faults.TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_under_nohup_a_hangup_is_ignored(path: Path, expected: Expected, tmp_path: Path) -> None:
    process = stop_while_it_encodes("--input", path, "--output-dir", tmp_path, prefix=("nohup", "--"))
    process.send_signal(signal.SIGHUP)
    done = faults.let_finish(process)
    assert done.returncode == 0, done.stderr
    expected.assert_reached(tmp_path)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_that_is_ignored_from_the_start_stays_ignored(
    name: str, path: Path, expected: Expected, tmp_path: Path
) -> None:
    shell = ("sh", "-c", f"trap '' {name.removeprefix('SIG')}; exec \"$@\"", "sh")
    process = stop_while_it_encodes("--input", path, "--output-dir", tmp_path, prefix=shell)
    process.send_signal(signal.Signals[name])
    done = faults.let_finish(process)
    assert done.returncode == 0, done.stderr
    expected.assert_reached(tmp_path)


# The moment of a signal: just before one of these calls, after a number of them.
PHASES = {
    "looking into the input": ("encode samples", 0),
    "taking the lock": ("mkdir lock.*", 0),
    "opening the journal": ("open journal", 0),
    "writing the first record": ("write journal", 0),
    "writing the first tokens": ("mmap train.bin.partial", 0),
    "cutting to the exact size": ("truncate train.bin.partial", 1),
    "removing the old report": ("remove prepare.json", 0),
    "publishing val.bin": ("rename val.bin.partial", 0),
    "publishing train.bin": ("rename train.bin.partial", 0),
    "writing the report": ("write prepare.json.*", 0),
    "clearing up": ("remove journal", 0),
}
FIRST_TOO_LATE = {"nothing": "cutting to the exact size", "a part": "removing the old report"}


@pytest.mark.sample(8)
@pytest.mark.parametrize("done_before", FIRST_TOO_LATE)
@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_in_any_phase_is_obeyed_unless_the_work_is_done(
    phase: str, done_before: str, path: Path, expected: Expected, begun: Path, tmp_path: Path
) -> None:
    call, n_before = PHASES[phase]
    args: Args = ("--input", path, "--output-dir", tmp_path)
    if done_before == "a part":
        shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    done = faults.run(*args, at=call, skip=n_before, do="SIGTERM")
    expected.assert_nothing_partial(tmp_path)
    phases = list(PHASES)
    if phases.index(phase) < phases.index(FIRST_TOO_LATE[done_before]):
        assert done.returncode == -signal.SIGTERM, done.stderr
        assert "prepare: stopped by SIGTERM" in done.stderr
        assert "Traceback" not in done.stderr
        if done_before == "a part" and phases.index(phase) > 1:  # it has seen the saved work
            assert "the same command resumes from there" in done.stderr
        assert prepare(*args).returncode == 0
    else:  # the rest takes a few milliseconds
        assert done.returncode == 0, done.stderr
    expected.assert_reached(tmp_path)
