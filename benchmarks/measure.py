"""Run a command in a fresh process, and record its memory over time, peak, time and exit code. Linux only.

The peak is the kernel's own high-water mark, from wait4(2), so that nothing between two samples is missed.
But a child begins as a copy of its parent, and Linux counts that copy in the child's ru_maxrss. So use this
module from a small process (no numpy, no matplotlib), which makes inputs in another one too. If the mark is
not above that of this process, the highest VmHWM seen in /proc is used instead.
"""

import contextlib
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import ROOT

SAMPLES_PER_S = 20
_STDERR_CHARS = 2000


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run. `samples` are (seconds since the start, resident bytes)."""

    command: tuple[str, ...]
    exit_code: int  # negative: the signal that ended it
    wall_s: float
    cpu_s: float  # includes child processes that were waited for
    peak_rss_bytes: int
    samples: tuple[tuple[float, int], ...]
    stderr: str  # its last 2,000 characters


def make_input(kind: str, size_bytes: int, *, corpus_dir: Path, text: str) -> Path:
    """Return the path of a file of this kind and size, which is made unless it exists; see corpus.py."""
    command = [sys.executable, "-m", "benchmarks.corpus", "--kind", kind, "--size", str(size_bytes)]
    more = ["--text", text, "--dir", str(corpus_dir)]
    made = subprocess.run([*command, *more], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return Path(made.stdout.rstrip("\n"))


def measure(command: Sequence[str], *, with_children: bool = True) -> Measurement:
    """Run `command` in the repository to its end, sampling 20 times a second.

    Without `with_children` only the process itself is sampled: finding its descendants takes 1.3 ms among 80
    processes, which is 1.3 % of a 2-core machine.
    """
    started = time.monotonic()
    samples: list[tuple[float, int]] = []
    high_water_bytes = 0
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr)
        watched = psutil.Process(process.pid)
        ended = select.poll()
        pidfd = os.pidfd_open(process.pid)
        try:
            ended.register(pidfd, select.POLLIN)
            while not ended.poll(1000 / SAMPLES_PER_S):
                at_s = round(time.monotonic() - started, 3)
                samples.append((at_s, _resident_bytes(watched, with_children=with_children)))
                mark = proc_field(f"/proc/{process.pid}/status", "VmHWM") or "0 kB"  # none once it has ended
                high_water_bytes = max(high_water_bytes, int(mark.split()[0]) * 1024)
        finally:
            os.close(pidfd)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)  # reaped above: Popen must not wait again
        stderr.seek(0)
        message = stderr.read().decode(errors="replace")[-_STDERR_CHARS:]
    reported_bytes = usage.ru_maxrss * 1024
    own_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak_bytes = reported_bytes if reported_bytes > own_bytes else high_water_bytes
    cpu_s = usage.ru_utime + usage.ru_stime
    return Measurement(tuple(command), process.returncode, wall_s, cpu_s, peak_bytes, tuple(samples), message)


def _resident_bytes(process: psutil.Process, *, with_children: bool) -> int:
    """Return the resident bytes of a process and its descendants; one that has just ended counts as 0."""
    family, total_bytes = [process], 0
    with contextlib.suppress(psutil.Error):
        family += process.children(recursive=True) if with_children else []
    for one in family:
        with contextlib.suppress(psutil.Error):
            total_bytes += one.memory_info().rss
    return total_bytes


def proc_field(path: str, name: str) -> str:
    """Return the value of the first `name: value` in a file of /proc; empty if there is none."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")
