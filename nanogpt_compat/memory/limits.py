r"""Read the memory limits of this process (cgroups, rlimits, the machine, the user), and count its CPUs.

    /proc/self/mountinfo  which part of which cgroup hierarchy is mounted where
    /proc/self/cgroup     where in each hierarchy this process is
    together              the folders from our own cgroup up to the mount: [leaf, ..., mount point]

psutil gives the machine's figures. It does not read cgroups (psutil #2100), so those are parsed here. All
paths start at `root`, so that a test can lay out any machine in a folder. A figure that cannot be read raises
OSError or ValueError; the caller that polls decides what that means.
"""

import contextlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from nanogpt_compat.memory.policy import Reading

# v1's "no limit" is 2^63 rounded down to a page, so it depends on the page size. No machine has an exabyte.
_NO_LIMIT_BYTES = 1 << 60
MAX_MEMORY = "--max-memory"
_V2_LIMITS = ("memory.max", "memory.high")
_V1_LIMITS = ("memory.limit_in_bytes",)
# `total_inactive_file 4096` (memory.stat) and `VmSwap:\t  8 kB` (status) alike. Only the fields used
# here: these files have fifty lines and more, and are read at every poll.
_STAT_LINE = re.compile(
    r"^((?:total_)?(?:in)?active_file|(?:file|total)_(?:dirty|writeback)|hierarchical_memory_limit"
    r"|RssAnon|VmSwap|VmRSS|VmHWM):?[ \t]+(\d{1,19})(?: kB)?$",
    re.ASCII | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class CgroupLimit:
    """A limit that one cgroup level sets."""

    name: str
    path: Path  # the file that holds it; that level's usage is in the same folder
    limit_bytes: int


def _read(path: Path | str) -> str:
    r"""Read a /proc or cgroup file unchanged; `read_text` would turn a `\r` in a cgroup's name into `\n`."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123  takes half as long as Path.read_bytes
        return file.read().decode("utf-8", "surrogateescape")


def _read_if_any(path: Path | str) -> str:
    try:
        return _read(path)
    except (OSError, ValueError):  # ValueError: a garbled path with a NUL in it
        return ""


def parse_amount(text: str) -> int | None:
    r"""Parse `4096`; return None for `max`, v1's sentinel, and anything garbled.

    >>> parse_amount("4096\n"), parse_amount("max\n"), parse_amount("9223372036854771712\n")
    (4096, None, None)
    """
    match = re.fullmatch(r"\s*([0-9]{1,20})\s*", text)
    return int(match[1]) if match and int(match[1]) < _NO_LIMIT_BYTES else None


def parse_stat(text: str) -> dict[str, int]:
    r"""Parse the fields used here of memory.stat or status; skip all other lines.

    >>> parse_stat("active_file 1\nfile_dirty x\nVmSwap:\t 8 kB\n")
    {'active_file': 1, 'VmSwap': 8}
    """
    return {name: int(number) for name, number in _STAT_LINE.findall(text)}


def parse_membership(text: str) -> dict[str, str]:
    r"""Map each v1 controller, and "" for v2, to our cgroup's path, which may hold colons and spaces.

    >>> parse_membership("4:cpu,memory:/a b:c\n0::/\n")
    {'cpu': '/a b:c', 'memory': '/a b:c', '': '/'}
    """
    paths = {}
    for line in text.split("\n"):  # not splitlines(): a cgroup's name may hold any control character but \n
        hierarchy, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if hierarchy.isdecimal() and colon:
            paths.update(dict.fromkeys(controllers.split(","), path))
    return paths


def parse_mounts(text: str) -> list[tuple[list[str], str, str]]:
    r"""List mountinfo's cgroup mounts as (controllers, mount root, mount point); v2's controllers are [""].

    >>> parse_mounts("30 23 0:26 / /sys/fs/cg\\040roup rw shared:4 - cgroup2 cgroup2 rw\n")
    [([''], '/', '/sys/fs/cg roup')]
    """
    mounts = []
    for line in text.split("\n"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 6 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        # `\040` is a space.
        mount_root, mount_point = (
            re.sub(r"\\([0-3][0-7]{2})", lambda escape: chr(int(escape[1], 8)), field)
            for field in fields[3:5]
        )
        mounts.append(([""] if kind[0] == "cgroup2" else kind[2].split(","), mount_root, mount_point))
    return mounts


def below_mount(path: str, mount_root: str) -> list[str] | None:
    """Return the folders from a mount point down to the cgroup at `path`; None if it is not below the mount.

    Both paths are relative to the root of our cgroup namespace. That root may itself lie below the mount
    (`/../..`). The names between are then hidden, and the mount point is the nearest level that we can see.

    >>> below_mount("/docker/abc/init", "/docker/abc"), below_mount("/", "/../.."), below_mount("/b", "/a")
    (['init'], [], None)
    """
    parts, above = ([part for part in name.split("/") if part] for name in (path, mount_root))
    if parts[: len(above)] == above:
        below = parts[len(above) :]
        return None if ".." in below else below  # not below what is mounted: those limits are not ours
    return [] if set(above) == {".."} else None


def cgroup_chains(controller: str, root: Path = Path("/")) -> list[list[Path]]:
    """List the folders of our cgroups from the leaf up to the mount, for v1's `controller` and for v2.

    Both are needed: on a hybrid machine v2 is mounted without controllers, and its folders lack the files.
    """
    paths = parse_membership(_read_if_any(root / "proc/self/cgroup"))
    chains: dict[str, list[Path]] = {}  # by hierarchy, since one may be mounted twice; the later mount wins
    for controllers, mount_root, mount_point in parse_mounts(_read_if_any(root / "proc/self/mountinfo")):
        key = next((name for name in ("", controller) if name in controllers and name in paths), None)
        below = None if key is None else below_mount(paths[key], mount_root)
        if key is not None and below is not None:
            top = root / mount_point.lstrip("/")
            chains[key] = [top.joinpath(*below[:depth]) for depth in range(len(below), -1, -1)]
    return list(chains.values())


def cgroup_limits(root: Path = Path("/")) -> list[CgroupLimit]:
    """Find the memory limit of every cgroup level that has one; a missing or garbled file sets no limit."""
    limits = []
    for chain in cgroup_chains("memory", root):
        for directory in chain:
            found = [
                CgroupLimit(f"cgroup {name}", directory / name, limit_bytes)
                for name in (*_V2_LIMITS, *_V1_LIMITS)
                if (limit_bytes := parse_amount(_read_if_any(directory / name))) is not None
            ]
            # v1 reports the tightest limit of all ancestors. In the topmost folder that we see, that may be a
            # hidden ancestor's, which uses at least as much as this folder. Further down, it would be
            # compared with the usage of the wrong level.
            stat_path = directory / "memory.stat"
            stat = parse_stat(_read_if_any(stat_path)) if directory == chain[-1] else {}
            hidden_bytes = stat.get("hierarchical_memory_limit", _NO_LIMIT_BYTES)
            if hidden_bytes < _NO_LIMIT_BYTES:
                found.append(CgroupLimit("cgroup hierarchical_memory_limit", stat_path, hidden_bytes))
            if found:  # the lower of memory.max and memory.high binds, since both count the same usage
                limits.append(min(found, key=lambda limit: limit.limit_bytes))
    return limits


def read_cgroup(limit: CgroupLimit) -> Reading:
    """Read the usage of the cgroup level that sets `limit`.

    File pages count only while they are dirty: page cache counted as use has caused years of false kills (Ray
    #29103, Kubernetes #43916, dask #4304). Shared memory (tmpfs) is not among the kernel's file pages.

    Raises:
        OSError, ValueError: usage or memory.stat cannot be read. Without memory.stat, page cache would count.
    """
    v2, directory = limit.path.name in _V2_LIMITS, limit.path.parent
    # Build no Path in a poll: each one interns its parts, and Python's table of interned strings grows.
    usage_path = f"{directory}/{'memory.current' if v2 else 'memory.usage_in_bytes'}"
    current_bytes, stat = parse_amount(_read(usage_path)), parse_stat(_read(f"{directory}/memory.stat"))
    prefix, dirty = ("", "file_") if v2 else ("total_", "total_")
    pages = [stat[key] for key in (f"{prefix}inactive_file", f"{prefix}active_file") if key in stat]
    if current_bytes is None or len(pages) < 2:
        raise ValueError(f"{usage_path} and memory.stat next to it hold no valid usage")
    file_bytes = min(sum(pages), current_bytes)
    dirty_bytes = min(stat.get(f"{dirty}dirty", 0) + stat.get(f"{dirty}writeback", 0), file_bytes)
    used_bytes = current_bytes - file_bytes + dirty_bytes
    return Reading(limit.name, str(limit.path), limit.limit_bytes, used_bytes, flushable_bytes=dirty_bytes)


def read_available(floor_bytes: int | None = None) -> Reading:
    """Read MemAvailable, the kernel's estimate of what is available without swapping, page cache included."""
    memory = psutil.virtual_memory()
    source = "the machine" if floor_bytes is None else "the machine, --min-available"
    advisory = sys.platform == "darwin"  # memory compression makes "available" a guess there
    used_bytes, name = memory.total - memory.available, "MemAvailable"
    return Reading(name, source, memory.total, used_bytes, advisory=advisory, floor_bytes=floor_bytes)


def anonymous_bytes(process: psutil.Process, root: Path = Path("/")) -> int:
    """Return a process's anonymous memory, in RAM or swapped out, without file-backed pages.

    Takes 20 us; psutil's memory_full_info, which also knows about swap, takes 757 us.
    """
    status = parse_stat(_read_if_any(f"{root}/proc/{process.pid}/status")) if sys.platform == "linux" else {}
    if "RssAnon" in status:
        return (status["RssAnon"] + status.get("VmSwap", 0)) * 1024
    info = process.memory_info()
    return int(getattr(info, "private", info.rss - getattr(info, "shared", 0)))  # Windows: `private`


def rss_bytes() -> int:
    """Return the resident memory of this process now; its peak where only that is known."""
    return _status_bytes("VmRSS") or peak_rss_bytes()


def peak_rss_bytes() -> int:
    """Return the peak resident memory of this process; 0 if unknown."""
    peak_bytes = _status_bytes("VmHWM")  # ru_maxrss includes what the parent had when it forked
    if peak_bytes:
        return peak_bytes
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status_bytes(field: str) -> int:
    return 1024 * parse_stat(_read_if_any("/proc/self/status")).get(field, 0)


def own_bytes_reader() -> Callable[[], int]:
    """Return a function that reads this process's anonymous memory, without what is swapped out, in 20 us."""
    process = psutil.Process()

    def read() -> int:
        info = process.memory_info()
        return int(info.rss - getattr(info, "shared", 0))

    return read


def read_own_use(limit_bytes: int, processes: list[psutil.Process], root: Path = Path("/")) -> Reading:
    """Read the anonymous memory of `processes`, this one first, as the use of `--max-memory`."""
    used_bytes = anonymous_bytes(processes[0], root)
    for child in processes[1:]:
        with contextlib.suppress(OSError, psutil.Error):  # it has ended
            used_bytes += anonymous_bytes(child, root)
    advisory = sys.platform == "darwin"  # only the whole resident set is known there
    source = "the command line"
    return Reading(MAX_MEMORY, source, limit_bytes, used_bytes, private=True, advisory=advisory)


def read_rlimit(name: str, process: psutil.Process) -> Reading | None:
    """Read this process's use of `RLIMIT_AS` or `RLIMIT_DATA`; None if that limit is not set."""
    if sys.platform != "linux":
        return None  # macOS does not enforce them, Windows has none
    import resource

    limit_bytes = resource.getrlimit(getattr(resource, name))[0]  # the soft one; prlimit can change it
    if limit_bytes == resource.RLIM_INFINITY:
        return None
    info = process.memory_info()
    used_bytes = info.vms if name == "RLIMIT_AS" else info.data
    return Reading(name, "ulimit or prlimit", limit_bytes, used_bytes, private=True)


def available_cpus(root: Path = Path("/")) -> int:
    """Count the CPUs this process may use: the least of its affinity and every cgroup's quota, at least 1.

    A container's os.cpu_count() is the host's. A level's quota is v2's `cpu.max` ("150000 100000") or v1's
    two files. One of 1.5 counts as 1; the rest is for I/O.
    """
    n_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for directory in (one for chain in cgroup_chains("cpu", root) for one in chain):
        is_v2 = (directory / "cpu.max").exists()
        names = ("cpu.max",) if is_v2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        words = " ".join(_read_if_any(directory / name) for name in names).split()
        quota, period = map(parse_amount, words) if len(words) == 2 else (None, None)
        if quota and period:
            n_cpus = min(n_cpus, int(quota / period))
    return max(1, n_cpus)


def default_workers(cpus: int) -> int:
    """Return the number of workers: leave the desktop a CPU if that costs less than a quarter of the speed.

    >>> [default_workers(cpus) for cpus in (1, 4, 5, 64)]
    [1, 4, 4, 63]
    """
    return cpus - 1 if cpus > 4 else cpus
