"""A real Dask cluster that loses workers, drivers and its scheduler."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nanogpt_compat.cluster import driver
from nanogpt_compat.cluster.executors import open_executor
from nanogpt_compat.cluster.worker import Outcome, attempt
from nanogpt_compat.errors import SpansError
from tests.conftest import REPOSITORY
from tests.faults import TIMEOUT_S, Args, make_text
from tests.test_cluster import (
    assert_merged,
    n_parts,
    one_machine,
    plan_in,
    run,
    slow_inputs,
    small_run,
    start,
    wait_for,
)
from tests.test_drive import do_all, to_do

pytestmark = pytest.mark.costly


@dataclass
class Dask:
    """A scheduler and its workers, in processes of their own."""

    scheduler_file: Path
    processes: list["subprocess.Popen[str]"]

    def start(self, *command: str | Path) -> "subprocess.Popen[str]":
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}
        with (self.scheduler_file.parent / f"dask-{len(self.processes)}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *map(str, command), "--scheduler-file", self.scheduler_file],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                cwd=self.scheduler_file.parent,
            )
        self.processes.append(process)
        return process

    def start_worker(self, *, n_threads: int = 1, nanny: str = "--no-nanny") -> "subprocess.Popen[str]":
        """Without a nanny, killing it is for good."""
        quiet = ("--nthreads", str(n_threads), "--memory-limit", "0", "--no-dashboard", nanny)
        return self.start("worker", *quiet, "--death-timeout", "60")

    def address(self) -> str:
        """Wait for the scheduler; return its address."""
        wait_for(self.scheduler_file.exists, self.processes[0])
        address: str = json.loads(self.scheduler_file.read_text())["address"]
        return address


@contextmanager
def a_scheduler(folder: Path) -> Iterator[Dask]:
    pytest.importorskip("distributed")
    dask = Dask(folder / "dask.json", [])
    try:
        dask.start("scheduler", "--port", "0", "--no-dashboard", "--host", "127.0.0.1")
        yield dask
    finally:
        for process in dask.processes:
            process.kill()
            process.wait(TIMEOUT_S)


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[Dask]:
    with a_scheduler(tmp_path) as dask:
        yield dask


def test_a_dask_cluster_loses_a_worker_and_then_its_driver_and_makes_the_same(
    dask: Dask, tmp_path: Path
) -> None:
    options = slow_inputs(tmp_path)
    work, out = tmp_path / "work", tmp_path / "many"
    args: Args = (*options, "--work-dir", work, "--output-dir", out, "--cluster", dask.scheduler_file)
    workers = [dask.start_worker() for _ in range(2)]
    wait_for(dask.scheduler_file.exists, dask.processes[0])
    with start(*args) as process:
        wait_for(lambda: n_parts(work) >= 2, process)
        workers[0].kill()
        wait_for(lambda: n_parts(work) >= 6, process)
        process.kill()
    n_done = n_parts(work)
    assert n_done < len(plan_in(work).spans)
    dask.start_worker()
    last = run(*args, "--merge")
    assert last.returncode == 0, last.stderr
    assert_merged(out, one_machine(tmp_path, options), work)


def attempt_badly(work_dir: str, index: int, *rest: Any) -> Outcome:
    """Die on span 0 each time; fail on span 4 the first time."""
    if index == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if index == 4 and not Path(work_dir, "once").exists():
        Path(work_dir, "once").write_text("")
        return Outcome(index, "far.away", error="no luck", exit_code=3)
    return attempt(work_dir, index, *rest)


def test_a_dask_cluster_does_a_failed_span_again_and_a_poison_span_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A worker's return after a death takes seconds, so Dask gives up after one death.
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")
    args, work = small_run(tmp_path)
    monkeypatch.setattr(driver, "attempt_elsewhere", attempt_badly)
    with a_scheduler(tmp_path) as dask:
        dask.start_worker(n_threads=2, nanny="--nanny")
        with (
            open_executor(dask.address(), 1, lambda: None) as (executor, window),
            pytest.raises(SpansError, match=r"(?s)1 span failed, all other spans.*span 0 .*KilledWorker"),
        ):
            do_all(work, args, executor, window)
    assert to_do(work) == [0]
    assert (work / "once").exists()


def test_a_dask_cluster_without_workers_is_waited_for_and_without_a_scheduler_it_is_over(
    dask: Dask, tmp_path: Path
) -> None:
    options = slow_inputs(tmp_path)
    args: Args = (*options, "--work-dir", tmp_path / "work", "--output-dir", tmp_path / "many")
    worker = dask.start_worker()
    environment = os.environ | {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "1s"}
    with start(*args, "--cluster", dask.address(), env=environment) as process:
        assert process.stderr is not None
        wait_for(lambda: n_parts(tmp_path / "work") >= 1, process)
        worker.kill()
        while "no worker is available; waiting for one" not in (line := process.stderr.readline()):
            assert line, "it has ended"
        dask.processes[0].kill()
        _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 6, stderr
    assert "run the same command again to resume" in stderr
    assert "nanogpt_compat/cluster/driver.py" not in stderr  # Dask's own log may have tracebacks


def test_a_missing_scheduler_or_a_missing_dask_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    path = make_text(tmp_path / "a.txt", 1000)
    args: Args = ("--input", path, "--work-dir", tmp_path / "w", "--cluster")
    environment = os.environ | {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "1s"}
    done = run(*args, "tcp://127.0.0.1:9", env=environment)
    assert done.returncode == 3, done.stderr
    assert "no Dask scheduler answers there" in done.stderr
    (tmp_path / "distributed.py").write_text("raise ImportError('not here')")
    done = run(*args, "tcp://127.0.0.1:9", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 3, done.stderr
    assert "pip install dask distributed" in done.stderr
