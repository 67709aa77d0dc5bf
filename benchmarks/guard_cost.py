"""Measure what the memory guard costs: CPU while it watches, time per poll, memory over many polls.

    python -m benchmarks.guard_cost            a minute
    python -m benchmarks.guard_cost --short    ten seconds
    python -m benchmarks.guard_cost --check    exit 1 if a bound is broken

It watches all limits that need no root: MemAvailable, RLIMIT_AS, RLIMIT_DATA, `--max-memory` with child
processes, and two levels of a cgroup, imitated by files in a folder.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks import new_parser
from nanogpt_compat.memory import guard, limits, policy
from nanogpt_compat.memory.guard import MemoryGuard, Sampler

MAX_CPU_SHARE = 0.005  # also within 300 MB of a reserve, where there are 10 polls a second
MAX_GROWTH_BYTES = 64 * 1024  # an allocator may keep this much; a leak of one byte a poll is more
GIB = 1 << 30


def main() -> int:
    """Measure, print, and return 1 if a bound is broken."""
    parser = new_parser("guard_cost", __doc__)
    parser.add_argument("--short", action="store_true", help="a tenth of the polls, a fifth of the time")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bound is broken")
    options = parser.parse_args()
    n_polls, watch_s = (10_000, 2.0) if options.short else (100_000, 10.0)
    if sys.platform == "linux":  # limits too high to matter, so that the guard reads them
        import resource

        for number in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            resource.setrlimit(number, (1 << 42, resource.getrlimit(number)[1]))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        lay_out_cgroup(root)
        plenty = Sampler(max_memory_bytes=1 << 40, root=root)
        small = Sampler(max_memory_bytes=120_000_000, root=root)
        names = ", ".join(reading.name for reading in plenty.sample())
        print(f"{os.cpu_count()} CPUs, {len(psutil.pids())} processes; watching {names}")
        floor_bytes = limits.read_available().headroom_bytes - 300_000_000
        near_end = Sampler(max_memory_bytes=1 << 40, min_available_bytes=floor_bytes, root=root)
        broken = [
            *check_cpu("memory is plenty", plenty, watch_s),
            *check_cpu("--max-memory is small", small, watch_s),
            *check_cpu("memory is near its end", near_end, watch_s),
            *check_growth(Sampler(max_memory_bytes=1 << 40, root=root), n_polls),
        ]
    for line in broken:
        print(f"BROKEN: {line}")
    return 1 if broken and options.check else 0


def lay_out_cgroup(root: Path) -> None:
    """Write the files of a cgroup of two levels, with a memory.stat as long as a real one."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/pod/container\n")
    mount = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    (root / "proc/self/mountinfo").write_text("22 1 254:0 / /mnt rw - ext4 /dev/sda rw\n" * 40 + mount)
    for folder in (root / "sys/fs/cgroup/pod", root / "sys/fs/cgroup/pod/container"):
        folder.mkdir(parents=True)
        (folder / "memory.max").write_text(f"{64 * GIB}\n")
        (folder / "memory.current").write_text(f"{GIB}\n")
        others = "".join(f"some_other_figure_{n} {n * 4096}\n" for n in range(50))
        (folder / "memory.stat").write_text(f"{others}inactive_file 4096\nactive_file 4096\nfile_dirty 0\n")


def check_cpu(situation: str, sampled: Sampler, watch_s: float) -> list[str]:
    """Let the guard watch an idle process, and compare its CPU time with the time that passes."""
    with MemoryGuard(sampled) as watched:
        time.sleep(0.1)  # do not count the first readings and the start of the thread
        cpu_s, start_s = time.process_time(), time.monotonic()
        time.sleep(watch_s)
        share = (time.process_time() - cpu_s) / (time.monotonic() - start_s)
        level = watched.state.level.value
    print(f"CPU while {situation} ({level}): {share:.2%} of one")
    return [f"CPU while {situation}: not below {MAX_CPU_SHARE:.1%}"] if share >= MAX_CPU_SHARE else []


def check_growth(sampled: Sampler, n_polls: int) -> list[str]:
    """Poll all limits many times, with a new look-up every 20 ms, and compare memory before and after."""
    guard.REFRESH_EVERY_S = 0.02
    policy.poll_delay_s = lambda readings: 0.0 * len(readings)
    watched = MemoryGuard(sampled)
    for _ in range(10_000):
        watched.poll()
    before_bytes, cpu_s = sampled.own_bytes(), time.process_time()
    for _ in range(n_polls):
        watched.poll()
    cost_us = (time.process_time() - cpu_s) / n_polls * 1e6
    grown_bytes = sampled.own_bytes() - before_bytes
    print(f"{n_polls:,} polls: {cost_us:.0f} us of CPU each, memory grew by {grown_bytes / 1024:.0f} KiB")
    return [f"memory grew by {grown_bytes:,} bytes"] if grown_bytes > MAX_GROWTH_BYTES else []


if __name__ == "__main__":
    sys.exit(main())
