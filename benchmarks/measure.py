"""Run a command in a fresh process; record its memory over time, its peak, its time, its exit code. Linux.

The peak is the kernel's own high-water mark, from wait4(2), so that nothing between two samples is missed.
Beware: a child begins life as a copy of its parent, and Linux counts that copy in the child's ru_maxrss. This
module must therefore be used from a small process (no numpy, no matplotlib); where the mark is not above this
process's own, the highest VmHWM seen in /proc is taken in its place.
"""

import importlib.metadata
import os
import platform
import resource
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLES_PER_S = 20
_STDERR_CHARS = 2000
_PACKAGES = ("numpy", "psutil", "tiktoken", "tqdm", "gigatoken")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run. `samples` are (seconds since the start, resident bytes of the process and its children)."""

    command: tuple[str, ...]
    exit_code: int  # negative: the signal that ended it
    wall_s: float
    cpu_s: float
    peak_rss_bytes: int
    samples: tuple[tuple[float, int], ...]
    stderr: str  # its last 2,000 characters


def measure(command: Sequence[str], cwd: Path | None = None) -> Measurement:
    """Run `command` to its end, sampling 20 times a second."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr)
        samples, high_water_bytes, status, usage = _watch(process.pid, started)
        wall_s = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)  # reaped above: Popen must not wait again
        stderr.seek(0)
        message = stderr.read().decode(errors="replace")[-_STDERR_CHARS:]
    reported_bytes = usage.ru_maxrss * 1024
    own_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak_bytes = reported_bytes if reported_bytes > own_bytes else high_water_bytes
    cpu_s = usage.ru_utime + usage.ru_stime
    return Measurement(tuple(command), process.returncode, wall_s, cpu_s, peak_bytes, tuple(samples), message)


def _watch(pid: int, started: float) -> tuple[list[tuple[float, int]], int, int, resource.struct_rusage]:
    """Sample until the process ends; return the samples, the highest VmHWM seen, its status and its usage."""
    process = psutil.Process(pid)
    samples: list[tuple[float, int]] = []
    high_water_bytes = 0
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            return samples, high_water_bytes, status, usage
        samples.append((round(time.monotonic() - started, 3), _tree_rss(process)))
        high_water_bytes = max(high_water_bytes, _high_water(pid))
        time.sleep(1 / SAMPLES_PER_S)


def _tree_rss(process: psutil.Process) -> int:
    """Add up the resident bytes of a process and its descendants; what has just ended counts as 0."""
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    return sum(map(_rss, family))


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _high_water(pid: int) -> int:
    """Read VmHWM, in bytes; 0 once the process has given its memory back."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def describe_machine() -> dict[str, str | int]:
    """Say on what, and with what, the measurements were made."""
    record: dict[str, str | int] = {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "n_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            record[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            record[package] = "not installed"
    return record


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
