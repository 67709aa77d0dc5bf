"""A process that has not finished never exits with 0, not even in its first moments or as process 1."""

import configparser
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import psutil
import pytest

from tests import faults
from tests.conftest import REPOSITORY
from tests.disks import tool
from tests.faults import Args, make_text
from tests.servers import serve

pytestmark = pytest.mark.costly

Process: TypeAlias = "subprocess.Popen[str]"
Prefix: TypeAlias = tuple[str, ...]

SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"]


def in_a_container() -> Prefix:
    """Return the command that makes the next one process 1 of a namespace of its own."""
    as_root = ("--map-root-user",) if os.geteuid() else ()
    prefix = (tool("unshare"), *as_root, "--pid", "--fork", "--mount-proc", "--kill-child")
    done = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no process may have process ids of its own here: {done.stderr.strip()}")
    return prefix


@pytest.fixture(params=["outside", "as process 1"])
def prefix(request: pytest.FixtureRequest) -> Prefix:
    return in_a_container() if request.param == "as process 1" else ()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_text(tmp_path / "a.txt", 600_000)


def exit_code(name: str, prefix: Prefix) -> int:
    """Return the return code of a process that ends by this signal."""
    return 128 + signal.Signals[name] if prefix else -signal.Signals[name]


def start(*args: str | Path, prefix: Prefix = (), program: Sequence[str] = ("prepare.py",)) -> Process:
    return subprocess.Popen(
        [*prefix, sys.executable, *program, *map(str, args)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(what: Callable[[], bool], process: Process) -> None:
    deadline_s = time.monotonic() + faults.TIMEOUT_S
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


def program_of(process: Process, prefix: Prefix) -> int:
    """Find the program that the prefix has started or is about to start."""
    if not prefix:
        return process.pid
    parent = psutil.Process(process.pid)
    wait_for(lambda: bool(parent.children()), process)
    return parent.children()[0].pid


@contextlib.contextmanager
def ended_by(name: str, process: Process, prefix: Prefix) -> Iterator[None]:
    """Send a signal once the block has waited for the right moment; expect an end by that signal."""
    try:
        yield
        os.kill(program_of(process, prefix), signal.Signals[name])
        _, stderr = process.communicate(timeout=faults.TIMEOUT_S)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == exit_code(name, prefix), stderr
    assert stderr.splitlines()[-1] == f"prepare: stopped by {name}"
    assert "Traceback" not in stderr


def has_mapped(pid: int, name: str) -> bool:
    """Whether a process has loaded the library of this name."""
    with contextlib.suppress(OSError):
        return name in Path(f"/proc/{pid}/maps").read_text()
    return False


# From the first moment on


@pytest.mark.parametrize(
    ("name", "program"),
    [*((name, "prepare.py") for name in SIGNALS), ("SIGINT", "-m nanogpt_compat"), ("SIGTERM", "script")],
)
def test_while_packages_are_imported_a_signal_ends_it_with_one_line(
    name: str, program: str, path: Path, prefix: Prefix
) -> None:
    if program == "script":  # the one that pip writes
        setup = configparser.ConfigParser()
        setup.read(REPOSITORY / "setup.cfg")
        module, _, name_there = setup["options.entry_points"]["console_scripts"].split()[-1].partition(":")
        program = f"-c import\tsys,{module}\tas\tm;sys.exit(m.{name_there}())"
    args: Args = ("--input", path, "--output-dir", path.parent / "out")
    process = start(*args, prefix=prefix, program=program.split(" "))
    with ended_by(name, process, prefix):
        pid = program_of(process, prefix)
        wait_for(lambda: has_mapped(pid, "_multiarray_umath"), process)


def test_an_interrupt_before_there_is_a_handler_prints_no_traceback(tmp_path: Path) -> None:
    code = (
        "import nanogpt_compat.system.signals as s, nanogpt_compat.__main__ as m; "
        "s.end_at_once = {}; m.start()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code.format("__import__('_thread').interrupt_main")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "prepare: stopped by SIGINT\n")


def test_a_pager_that_has_stopped_reading_does_not_keep_it_alive(path: Path) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    out = path.parent / "out"
    command = [sys.executable, REPOSITORY / "prepare.py", "--input", path, "--output-dir", out]
    process = subprocess.Popen(list(map(str, command)), stderr=writing, text=True)
    wait_for(lambda: has_mapped(process.pid, "_multiarray_umath"), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(faults.TIMEOUT_S) == -signal.SIGTERM
    os.close(reading)
    os.close(writing)


# While it waits


@pytest.mark.parametrize("mode", [(), ("--dry-run",), ("--verify",)])
def test_while_it_waits_for_a_writer_to_a_fifo(mode: Args, tmp_path: Path, prefix: Prefix) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = start("--input", fifo, "--output-dir", tmp_path / "out", *mode, prefix=prefix)
    with ended_by("SIGTERM", process, prefix):
        pid = program_of(process, prefix)
        wait_for(lambda: "wait_for_partner" in Path(f"/proc/{pid}/wchan").read_text(), process)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("SIGINT", ()),
        ("SIGTERM", ("--dry-run",)),
        ("SIGTERM", ("--rank", "0", "--world-size", "1", "--work-dir", "work")),
    ],
)
def test_while_it_waits_for_a_server(name: str, mode: Args, tmp_path: Path, prefix: Prefix) -> None:
    mode = tuple(tmp_path / "work" if one == "work" else one for one in mode)
    make_text(tmp_path / "a.txt", 600_000)
    with serve(tmp_path, hangs_from=2) as server:
        args: Args = ("--input", server.url("a.txt"), "--output-dir", tmp_path / "out", *mode)
        process = start(*args, prefix=prefix)
        with ended_by(name, process, prefix):
            assert server.is_hanging.wait(faults.TIMEOUT_S)


def test_while_nothing_more_comes_through_a_pipe(path: Path, tmp_path: Path, prefix: Prefix) -> None:
    out = tmp_path / "out"
    process = start("--input", "-", "--output-dir", out, prefix=prefix)
    with ended_by("SIGTERM", process, prefix):
        assert process.stdin is not None
        for _ in range(6):  # more than the look into the input reads
            process.stdin.write(path.read_text(errors="ignore"))
        process.stdin.flush()
        wait_for(lambda: (out / ".prepare" / "journal").exists(), process)


# While it works


def finished(out: Path, path: Path) -> None:
    assert faults.prepare("--input", path, "--output-dir", out).returncode == 0


def begun(out: Path, path: Path) -> None:
    args: Args = ("--input", path, "--output-dir", out, "--block-size", "20000")
    assert faults.run(*args, at="write journal", skip=3).returncode == -9


def planned(out: Path, path: Path) -> None:
    args: Args = ("--input", path, "--output-dir", out, "--work-dir", out / "work", "--span-size", "100k")
    assert faults.prepare(*args, "--rank", "0", "--world-size", "1").returncode == 0


MODES: dict[str, tuple[Callable[[Path, Path], None] | None, Args, str]] = {
    "a dry run": (None, ("--dry-run",), "encode samples"),
    "looking into the input": (None, (), "encode samples"),
    "a run": (None, ("--block-size", "20000"), "encode text"),
    "resuming": (begun, (), "open journal"),
    "verifying": (finished, ("--verify",), "encode text"),
    "planning": (None, ("--work-dir", "work", "--rank", "0", "--world-size", "2"), "encode samples"),
    "a rank": (None, ("--work-dir", "work", "--rank", "0", "--world-size", "2"), "encode text"),
    "a driver": (None, ("--work-dir", "work", "--cluster", "local"), "encode samples"),
    "merging": (planned, ("--work-dir", "work", "--span-size", "100k", "--merge"), "open train.bin.partial"),
}


@pytest.mark.sample(6)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "SIGTERM" else pytest.mark.slow) for name in SIGNALS]
)
def test_in_every_mode_it_ends_by_the_signal(
    name: str, mode: str, path: Path, tmp_path: Path, prefix: Prefix
) -> None:
    before, options, call = MODES[mode]
    out = tmp_path / "out"
    if before is not None:
        before(out, path)
    options = tuple(out / "work" if one == "work" else one for one in options)
    args: Args = ("--input", path, "--output-dir", out, *options)
    done = faults.run(*args, prefix=prefix, at=call, do=name)
    assert done.returncode == exit_code(name, prefix), done.stderr
    assert done.stderr.splitlines()[-1] == f"prepare: stopped by {name}"
    assert "Traceback" not in done.stderr


def test_as_process_1_that_has_started_others(path: Path, tmp_path: Path) -> None:
    prefix, work = in_a_container(), tmp_path / "work"
    make_text(path, 6_000_000)
    args: Args = ("--input", path, "--engine", "tiktoken", "--span-size", "100k", "--cluster", "local")
    process = start(*args, "--work-dir", work, "--output-dir", tmp_path / "out", prefix=prefix)
    with ended_by("SIGTERM", process, prefix):
        wait_for(lambda: any(work.glob("parts-*/*.json")), process)


def test_as_process_1_a_second_signal_ends_it_at_once(path: Path, tmp_path: Path) -> None:
    prefix, log = in_a_container(), tmp_path / "log"
    args: Args = ("--input", path, "--output-dir", tmp_path / "out")
    process = faults.start(*args, prefix=prefix, log=str(log), at="fsync train.bin.partial", do="sleep")
    wait_for(lambda: log.exists() and "fsync train.bin.partial" in log.read_text(), process)
    pid = program_of(process, prefix)
    while process.poll() is None:  # the first may still be on its way when the second is sent
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        time.sleep(0.1)
    _, stderr = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "saved" not in stderr, "it has waited for the disk"


# Other ends


@pytest.mark.parametrize("asked", ["--dry-run", "--help", "--version"])
def test_output_that_cannot_be_printed_is_no_success(asked: str, path: Path) -> None:
    out = path.parent / "out"
    words = [asked, "--input", path, "--output-dir", out]
    args = [sys.executable, *map(str, (REPOSITORY / "prepare.py", *words))]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(args, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 4
    assert "cannot write to standard output: No space left on device; free some space" in done.stderr
    reading, writing = os.pipe()
    os.close(reading)  # like `head` when it has enough
    assert subprocess.run(args, stdout=writing, stderr=subprocess.DEVNULL, check=False).returncode == 0
    os.close(writing)


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("call", "skip"),
    [
        ("encode samples", 0),
        ("mmap memory", 4),  # the second thread that encodes is started
        ("encode text", 5),
        ("fsync train.bin.partial", 1),  # the write back of a full window, in a thread of its own
        ("write journal", 2),
        ("rename val.bin.partial", 0),
    ],
)
@pytest.mark.parametrize("error", ["SystemExit", "KeyboardInterrupt"])
def test_an_exception_of_any_kind_ends_it_with_another_code(
    error: str, call: str, skip: int, path: Path, tmp_path: Path
) -> None:
    args: Args = ("--input", path, "--output-dir", tmp_path / "out", "--block-size", "20000")
    args = (*args, "--engine", "tiktoken", "--workers", "2")  # without threads that may start at any time
    settings: dict[str, Any] = {"window_bytes": 1 << 16, "every_bytes": 300_000}
    done = faults.run(*args, at=call, skip=skip, do=error, **settings)
    assert done.returncode != 0, done.stderr
    assert done.stderr
    assert not (tmp_path / "out" / "prepare.json").exists()
    assert faults.run(*args, **settings).returncode == 0
