"""The real command in a real memory cgroup, v1 or v2, if this machine allows us to create one."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nanogpt_compat.memory import limits
from nanogpt_compat.system.filesystem import file_system
from tests.conftest import IMPOSSIBLE, REPOSITORY
from tests.faults import Expected, command, expect, make_text, report_of
from tests.test_memory_stop import LEAK, MANY_TOKENS, SETTINGS, SLOW, hog, resume, take, wait_for_checkpoint

pytestmark = pytest.mark.costly

pytestmark = pytest.mark.alone

LIMIT_BYTES = 400_000_000
LIMIT_FILES = ("memory.max", "memory.limit_in_bytes")
USAGE = ("memory.current", "memory.usage_in_bytes")
KILL_COUNTS = ("memory.events", "memory.oom_control")


@dataclass(frozen=True)
class Cgroup:
    """A folder below the topmost one that can be seen, with a limit."""

    folder: Path
    limit: Path

    def run(self, program: list[str]) -> "subprocess.Popen[str]":
        """Start a program in it."""
        enter = ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self.folder / "cgroup.procs")]
        return subprocess.Popen([*enter, *program], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)

    def usage_bytes(self) -> int:
        """Return the use that the kernel counts, page cache included."""
        return int(
            "".join((self.folder / name).read_text() for name in USAGE if (self.folder / name).exists())
        )

    def n_killed(self) -> int:
        """Count the processes in it that the OOM killer has killed."""
        text = "".join(
            (self.folder / name).read_text() for name in KILL_COUNTS if (self.folder / name).exists()
        )
        return int(dict(line.split() for line in text.splitlines())["oom_kill"])


def make_cgroup(limit_bytes: int) -> Cgroup | None:
    for chain in limits.cgroup_chains("memory"):
        folder = chain[-1] / f"prepare-test-{uuid.uuid4().hex}"
        with contextlib.suppress(OSError):
            folder.mkdir()
            for limit in (folder / name for name in LIMIT_FILES):
                if limit.exists():
                    limit.write_text(f"{limit_bytes}\n")
                    return Cgroup(folder, limit)
            folder.rmdir()  # no memory controller there
    return None


def remove(cgroup: Cgroup) -> None:
    deadline_s = time.monotonic() + 10
    while True:
        for pid in (cgroup.folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        try:
            return cgroup.folder.rmdir()
        except OSError:  # its processes have ended, but the kernel still has them
            assert time.monotonic() < deadline_s, (cgroup.folder / "cgroup.procs").read_text()
            time.sleep(0.05)


@contextlib.contextmanager
def own_cgroup(limit_bytes: int) -> Iterator[Cgroup]:
    """Make a cgroup with a limit, and remove it afterwards with all processes in it."""
    made = make_cgroup(limit_bytes)
    if made is None:
        pytest.skip(IMPOSSIBLE + "no memory cgroup can be made (it takes root, and a controller to hand out)")
    try:
        yield made
    finally:
        remove(made)


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    with own_cgroup(LIMIT_BYTES) as made:
        yield made


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text(tmp_path_factory.mktemp("cgroup") / "text.txt", 20_000_000)


@pytest.fixture(scope="module")
def expected(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Expected:
    return expect(tmp_path_factory.mktemp("cgroup") / "whole", "--input", text, **SETTINGS)


def with_fault(fault: str, *args: str | Path) -> list[str]:
    program = f"import sys\n{fault}\nfrom nanogpt_compat.__main__ import start\nsys.exit(start())"
    return [sys.executable, "-c", program, *map(str, args)]


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    try:
        _, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, stderr


def test_within_the_limit_it_runs_undisturbed_and_names_the_limit(
    cgroup: Cgroup, text: Path, expected: Expected, tmp_path: Path
) -> None:
    code, stderr = finish(cgroup.run(command("--input", text, "--output-dir", tmp_path, **SETTINGS)))
    assert code == 0, stderr
    assert f"limit 400 MB from cgroup {cgroup.limit.name}, reserve 60.0 MB" in stderr
    assert expected.assert_reached(tmp_path)["guard"]["state_changes"] == 0


def test_a_cgroup_full_of_page_cache_does_not_disturb_it(
    cgroup: Cgroup, text: Path, expected: Expected, tmp_path: Path
) -> None:
    if file_system(tmp_path) in ("tmpfs", "ramfs"):
        pytest.skip(f"{tmp_path} is in memory: its files are not page cache")
    fill = ["dd", "if=/dev/zero", f"of={tmp_path / 'file'}", "bs=1M", "count=600", "conv=fsync"]
    assert finish(cgroup.run(fill))[0] == 0
    assert cgroup.usage_bytes() > 0.9 * LIMIT_BYTES
    folder = tmp_path / "out"
    code, stderr = finish(cgroup.run(command("--input", text, "--output-dir", folder, **SETTINGS)))
    assert code == 0, stderr
    assert expected.assert_reached(folder)["guard"]["state_changes"] == 0


def test_more_output_than_the_limit_does_not_disturb_it(cgroup: Cgroup, text: Path, tmp_path: Path) -> None:
    options = ("--input", text, "--output-dir", tmp_path, "--block-size", "64KiB", "--engine", "tiktoken")
    code, stderr = finish(cgroup.run(with_fault(MANY_TOKENS, *options)))
    assert code == 0, stderr
    report = report_of(tmp_path)
    assert sum(one["bytes"] for one in report["files"]) > 3 * LIMIT_BYTES
    assert report["guard"]["state_changes"] == 0
    assert cgroup.n_killed() == 0


def test_it_stops_before_the_kernel_kills_it_and_resumes_later(
    cgroup: Cgroup, text: Path, expected: Expected, tmp_path: Path
) -> None:
    options = ("--input", text, "--output-dir", tmp_path, "--block-size", "100K")
    code, stderr = finish(cgroup.run(with_fault(LEAK, *options)))
    assert code == 75, stderr
    assert f"cgroup {cgroup.limit.name} ({cgroup.limit}) is 400 MB, 60.0 MB kept in reserve" in stderr
    assert "tried: flushed" in stderr
    assert cgroup.n_killed() == 0
    resume(text, tmp_path, expected)


@pytest.mark.slow
def test_it_stops_when_another_program_fills_the_cgroup(
    cgroup: Cgroup, text: Path, expected: Expected, tmp_path: Path
) -> None:
    options = ("--input", text, "--output-dir", tmp_path, "--block-size", "200K")
    is_slow = tmp_path.with_name(f"{tmp_path.name}.slow")
    is_slow.touch()
    process = cgroup.run(with_fault(SLOW.format(is_slow=is_slow), *options))
    wait_for_checkpoint(tmp_path)
    with hog() as other:
        (cgroup.folder / "cgroup.procs").write_text(str(other.pid))
        take(other)
        limit_bytes = LIMIT_BYTES
        while process.poll() is None:  # limits do change, and are read again every three seconds
            limit_bytes -= 10_000_000
            with contextlib.suppress(OSError):  # v1 refuses a limit below the memory that it cannot reclaim
                cgroup.limit.write_text(f"{limit_bytes}\n")
            time.sleep(1)
        code, stderr = finish(process)
    assert code == 75, stderr
    assert f"({cgroup.limit}) is " in stderr
    assert cgroup.n_killed() == 0
    resume(text, tmp_path, expected)


@pytest.mark.slow
def test_without_the_guard_the_kernel_would_have_killed_it(
    cgroup: Cgroup, text: Path, tmp_path: Path
) -> None:
    fault = LEAK + "\nfrom nanogpt_compat.memory import policy\npolicy.READINGS_TO_ABORT = 1 << 30\n"
    options = ("--input", text, "--output-dir", tmp_path, "--block-size", "100K")
    code, _ = finish(cgroup.run(with_fault(fault, *options)))
    assert code == -9
    assert cgroup.n_killed() == 1
