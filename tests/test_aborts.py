"""A native library is refused memory and calls abort(): the real tiktoken, real limits, the real command."""

import atexit
import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults import Expected, expect, go_on, run, start, wait_until_stopped

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere abort() is left alone"),
]

MIB = 1 << 20
SETTINGS: dict[str, Any] = {"every_bytes": 2_000_000}
# So that a large piece of memory is asked of the system each time, and not found among what was freed before
# or (RLIMIT_AS) in the 64 MiB of addresses that glibc keeps for each thread.
ENVIRONMENT = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000", "MALLOC_ARENA_MAX": "1"}
# With it Rust reads its own debug symbols before it calls abort().
ENVIRONMENT.pop("RUST_BACKTRACE", None)


PROGRAM = """
import ctypes, os, signal, sys, threading, time
from nanogpt_compat.system.signals import StopSignals
from nanogpt_compat.encoders.reference import TiktokenEncoder
from nanogpt_compat import cli
from nanogpt_compat.memory import policy
policy.READINGS_TO_ABORT = 1 << 30  # the guard is not to come first
encode, calls = TiktokenEncoder.encode, []
def encode_with_fault(self, text):
    if threading.current_thread().name.startswith("encode"):
        {fault}
    return encode(self, text)
TiktokenEncoder.encode = encode_with_fault
abort = ctypes.CDLL(None).abort  # as a library calls it, without the GIL
sys.exit(cli.main(sys.argv[1:]))
"""


def start_with(fault: str, *args: str | Path, options: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    """Start the program, with `fault` in the threads that encode, before each call of tiktoken."""
    program = PROGRAM.format(fault=fault)
    command = [sys.executable, *options, "-c", program, *map(str, args), "--engine", "tiktoken"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    atexit.register(process.kill)  # one that a failed test has left standing still would stay for ever
    return process


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text without breaks: each piece of 500 kB takes tiktoken 22 MB, 16 MB of it in one piece."""
    path = tmp_path_factory.mktemp("aborts") / "letters.txt"
    rng = random.Random(1)
    lines = ["".join(rng.choices("abcdefghijklmnop", k=500_000)) for _ in range(10)]
    path.write_text("\n".join(lines), encoding="ascii")
    return path


@pytest.fixture(scope="module")
def expected(letters: Path, tmp_path_factory: pytest.TempPathFactory) -> Expected:
    return expect(tmp_path_factory.mktemp("aborts") / "whole", "--input", letters, **SETTINGS)


def lower(name: str, pid: int, *, spare_bytes: int) -> None:
    """Lower a limit of a running process to what it uses now, and a little more or less."""
    memory = psutil.Process(pid).memory_info()
    limit_bytes = (memory.vms if name == "RLIMIT_AS" else memory.data) + spare_bytes
    resource.prlimit(pid, getattr(resource, name), (limit_bytes, limit_bytes))


def resume(letters: Path, folder: Path, expected: Expected) -> None:
    done = run("--input", letters, "--output-dir", folder, **SETTINGS)
    assert done.returncode == 0, done.stderr
    expected.assert_reached(folder)


@pytest.mark.sample(2)
@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_memory_refused_to_rust_in_a_thread_is_a_stop_for_memory(
    name: str, workers: str, letters: Path, expected: Expected, tmp_path: Path
) -> None:
    options = ("--input", letters, "--workers", workers, "--block-size", "512KiB")
    fault = "calls.append(1); len(calls) == 6 and os.kill(os.getpid(), signal.SIGSTOP)"
    for attempt in range(8):  # until it is Rust, and not Python or the map of the output, that comes first
        folder = tmp_path / str(attempt)
        process = start_with(fault, *options, "--output-dir", folder)
        wait_until_stopped(process)  # in the thread, just before it calls tiktoken
        lower(name, process.pid, spare_bytes=-16 * MIB)  # below what is in use: some is given back in time
        began_s = time.monotonic()
        done = go_on(process)
        assert done.returncode == 75, done.stderr
        assert time.monotonic() - began_s < 5  # 0.2 s on an idle machine; after 6 s abort() would go on
        assert "prepare: stopped: the system refused memory" in done.stderr
        assert "saved: " in done.stderr
        assert "--workers 1 --block-size 128KiB" in done.stderr
        assert "Traceback" not in done.stderr
        if "memory allocation of" in done.stderr:  # Rust's last words
            return resume(letters, folder, expected)
    pytest.fail("Rust was never refused memory")


@pytest.mark.slow
@pytest.mark.parametrize("guard", ["guarded", "unguarded"])
@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_whenever_a_limit_is_lowered_it_stops_for_memory_and_goes_on(
    name: str, guard: str, letters: Path, expected: Expected, tmp_path: Path
) -> None:
    rng = random.Random(name + guard)
    for n in range(25):
        folder = tmp_path / str(n)
        options = ("--input", letters, "--output-dir", folder, "--workers", rng.choice("124"))
        process = start(*options, **SETTINGS) if guard == "guarded" else start_with("pass", *options)
        while not (folder / ".prepare" / "journal").exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(rng.uniform(0, expected.seconds / 2))
        with contextlib.suppress(psutil.Error, ProcessLookupError):  # finished already
            lower(name, process.pid, spare_bytes=rng.choice([-32, -16, -8, 0, 1, 4, 16]) * MIB)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode in (75, 0), (n, process.returncode, stderr)
        resume(letters, folder, expected)


def run_with(fault: str, *args: str | Path, options: tuple[str, ...] = ()) -> tuple[int, str, float]:
    """Run the program with `fault` to its end; exit code, stderr and when that was."""
    process = start_with(fault, *args, options=options)
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr, time.monotonic()


def test_an_abort_that_memory_is_not_the_reason_of_still_ends_the_process(
    letters: Path, tmp_path: Path
) -> None:
    fault = 'sys.stderr.write(f"{time.monotonic()} it aborts\\n"); abort()'
    code, stderr, ended_s = run_with(fault, "--input", letters, "--output-dir", tmp_path)
    assert code == -signal.SIGABRT, stderr
    assert "saved" not in stderr
    began_s = min(float(line.split()[0]) for line in stderr.splitlines() if line.endswith(" it aborts"))
    assert ended_s - began_s < 5  # at once, and not when sleep() returns


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "fault",
    [
        "os.abort()",  # with the GIL
        "StopSignals.check = lambda self: abort(); time.sleep(1)",  # in the main thread
        "os.kill(os.getpid(), signal.SIGABRT); time.sleep(1)",  # as if from outside
    ],
    ids=["GIL", "main", "outside"],
)
def test_an_abort_that_nobody_can_look_at_ends_the_process_later(
    fault: str, letters: Path, tmp_path: Path
) -> None:
    code, stderr, _ = run_with(fault, "--input", letters, "--output-dir", tmp_path)
    assert code == -signal.SIGABRT, stderr


def test_where_faulthandler_is_in_use_it_has_the_last_word(letters: Path, tmp_path: Path) -> None:
    options = ("-X", "faulthandler")
    code, stderr, _ = run_with("os.abort()", "--input", letters, "--output-dir", tmp_path, options=options)
    assert code == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in stderr
    assert "encode_with_fault" in stderr


def run_python(code: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_after_the_run_abort_is_what_it_was() -> None:
    began_s = time.monotonic()
    done = run_python(
        """
        import faulthandler, os, signal
        from nanogpt_compat.memory.aborts import NativeAborts
        fds = os.listdir("/proc/self/fd")
        with NativeAborts() as aborts:
            assert faulthandler.is_enabled()
            aborts.check()
        assert not faulthandler.is_enabled()
        assert os.listdir("/proc/self/fd") == fds
        assert aborts.leave(75) == 75
        os.abort()
        """
    )
    assert done.returncode == -signal.SIGABRT, done.stderr
    assert time.monotonic() - began_s < 6


@pytest.mark.parametrize(
    "before",
    [
        "signal.signal(signal.SIGABRT, lambda *_: None)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGABRT])",
        "import ctypes; ctypes.CDLL(None).signal(6, ctypes.CFUNCTYPE(None, ctypes.c_int)(print))",
        "del os.memfd_create",
        "sys.platform = 'darwin'",
    ],
)
def test_where_it_cannot_be_had_or_is_somebody_else_s_abort_is_left_alone(before: str) -> None:
    done = run_python(
        f"""
        import faulthandler, os, signal, sys
        from nanogpt_compat.memory.aborts import NativeAborts
        {before}
        with NativeAborts() as aborts:
            assert not faulthandler.is_enabled()
            aborts.check()
        """
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_memory_is_refused_near_a_limit_and_only_there(name: str) -> None:
    done = run_python(
        f"""
        import psutil, resource
        from nanogpt_compat.memory.aborts import PROBE_BYTES
        from nanogpt_compat.system.threads import is_refused
        assert not is_refused(PROBE_BYTES)
        memory = psutil.Process().memory_info()
        used = memory.vms if "{name}" == "RLIMIT_AS" else memory.data
        for spare, expected in ((PROBE_BYTES * 2, False), (PROBE_BYTES // 2, True)):
            resource.setrlimit(resource.{name}, (used + spare, resource.RLIM_INFINITY))
            assert is_refused(PROBE_BYTES) is expected
        """
    )
    assert done.returncode == 0, done.stderr
