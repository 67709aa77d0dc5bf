"""The limits of this process: imitated file trees for other machines, and the real limits of this one."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanogpt_compat.memory import limits
from nanogpt_compat.memory.policy import Reading
from tests.test_cgroups import own_cgroup

MIB, GIB = 1 << 20, 1 << 30
V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNT = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
V2_STAT = "anon 1000\nfile 300\ninactive_file 200\nactive_file 100\nfile_dirty 0\nfile_writeback 0\n"
SENTINELS = ("9223372036854771712", "9223372036854710272", "9223372036854775807", "18446744073709551615")


class Machine:
    """A folder that looks like the root of some machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str | bytes) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)

    def mounts(self, *lines: str) -> None:
        self.write("proc/self/mountinfo", "22 1 254:0 / / rw - ext4 /dev/root rw\n" + "\n".join(lines) + "\n")

    def groups(self, *lines: str) -> None:
        self.write("proc/self/cgroup", "\n".join(lines) + "\n")

    def v2(self, folder: str, *, limit: str = "max", high: str = "max", current: int = 1300) -> None:
        for name, text in {"max": limit, "high": high, "current": str(current)}.items():
            self.write(f"{folder}/memory.{name}", text + "\n")
        self.write(f"{folder}/memory.stat", V2_STAT)

    def v1(self, folder: str, *, limit: str = SENTINELS[0], usage: int = 1300, tightest: str = "") -> None:
        self.write(f"{folder}/memory.limit_in_bytes", limit + "\n")
        self.write(f"{folder}/memory.usage_in_bytes", f"{usage}\n")
        stat = f"cache 9\nhierarchical_memory_limit {tightest or limit}\n"
        self.write(f"{folder}/memory.stat", stat + "total_inactive_file 200\ntotal_active_file 100\n")

    def readings(self) -> list[Reading]:
        return [limits.read_cgroup(limit) for limit in limits.cgroup_limits(self.root)]

    def headrooms(self) -> dict[str, int]:
        """Map the folders of all limits found, below the root, to the headroom there."""
        found = {}
        for reading in self.readings():
            found["/" + str(Path(reading.source).parent.relative_to(self.root))] = reading.headroom_bytes
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# The places of the limits


def test_a_v2_limit_is_set_against_usage_without_clean_file_pages(machine: Machine) -> None:
    machine.mounts(V2_MOUNT)
    machine.groups("0::/user.slice/job")
    machine.v2("/sys/fs/cgroup/user.slice/job", limit="5000", current=1300)
    (reading,) = machine.readings()
    assert reading.name == "cgroup memory.max"
    assert reading.source == str(machine.root / "sys/fs/cgroup/user.slice/job/memory.max")
    assert (reading.limit_bytes, reading.used_bytes, reading.headroom_bytes) == (5000, 1000, 4000)


def test_a_v1_limit_is_set_against_usage_without_clean_file_pages(machine: Machine) -> None:
    machine.mounts(V1_MOUNT)
    machine.groups("9:name=systemd:/", "4:memory:/job", "1:cpu,cpuacct:/elsewhere")
    machine.v1("/sys/fs/cgroup/memory/job", limit="5000", usage=1300)
    (reading,) = machine.readings()
    assert reading.name == "cgroup memory.limit_in_bytes"
    assert (reading.limit_bytes, reading.used_bytes, reading.headroom_bytes) == (5000, 1000, 4000)


def test_on_a_hybrid_machine_v1_is_read_where_v2_has_no_memory_controller(machine: Machine) -> None:
    machine.mounts(V2_MOUNT.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified"), V1_MOUNT)
    machine.groups("4:memory:/job", "0::/job")
    machine.write("/sys/fs/cgroup/unified/job/cgroup.procs", "1\n")
    machine.v1("/sys/fs/cgroup/memory/job", limit="5000")
    assert machine.headrooms() == {"/sys/fs/cgroup/memory/job": 4000}


def test_every_level_up_to_the_mount_is_watched_with_its_own_usage(machine: Machine) -> None:
    machine.mounts(V2_MOUNT)
    machine.groups("0::/pod/container")
    machine.v2("/sys/fs/cgroup/pod/container", limit="9000", current=1300)
    machine.v2("/sys/fs/cgroup/pod", limit="8000", current=7300)
    machine.v2("/sys/fs/cgroup", current=99_999)
    assert machine.headrooms() == {"/sys/fs/cgroup/pod/container": 8000, "/sys/fs/cgroup/pod": 1000}


def test_each_v1_level_has_its_own_usage_too(machine: Machine) -> None:
    machine.mounts(V1_MOUNT)
    machine.groups("4:memory:/pod/container")
    machine.v1("/sys/fs/cgroup/memory/pod/container", limit="9000", usage=1300, tightest="8000")
    machine.v1("/sys/fs/cgroup/memory/pod", limit="8000", usage=7300, tightest="8000")
    machine.v1("/sys/fs/cgroup/memory")
    found = machine.headrooms()
    assert found == {"/sys/fs/cgroup/memory/pod/container": 8000, "/sys/fs/cgroup/memory/pod": 1000}


def test_max_is_no_limit(machine: Machine) -> None:
    machine.mounts(V2_MOUNT)
    machine.groups("0::/job")
    machine.v2("/sys/fs/cgroup/job")
    assert machine.readings() == []


@pytest.mark.parametrize("sentinel", SENTINELS)
def test_the_sentinel_of_v1_is_no_limit_for_any_page_size(machine: Machine, sentinel: str) -> None:
    machine.mounts(V1_MOUNT)
    machine.groups("4:memory:/job")
    machine.v1("/sys/fs/cgroup/memory/job", limit=sentinel)
    machine.v1("/sys/fs/cgroup/memory", limit=sentinel)
    assert machine.readings() == []


def test_memory_high_alone_is_a_limit(machine: Machine) -> None:
    machine.mounts(V2_MOUNT)
    machine.groups("0::/job")
    machine.v2("/sys/fs/cgroup/job", high="4000")
    (reading,) = machine.readings()
    assert (reading.name, reading.headroom_bytes) == ("cgroup memory.high", 3000)


@pytest.mark.parametrize(("limit", "high", "name"), [("5000", "4000", "high"), ("4000", "5000", "max")])
def test_the_lower_of_memory_max_and_memory_high_binds(
    machine: Machine, limit: str, high: str, name: str
) -> None:
    machine.mounts(V2_MOUNT)
    machine.groups("0::/job")
    machine.v2("/sys/fs/cgroup/job", limit=limit, high=high)
    (reading,) = machine.readings()
    assert (reading.name, reading.limit_bytes) == (f"cgroup memory.{name}", 4000)


def test_a_tighter_hidden_ancestor_of_a_v1_container_is_known_by_its_limit(machine: Machine) -> None:
    machine.mounts(V1_MOUNT.replace(" / ", " /docker/abc ", 1))
    machine.groups("4:memory:/docker/abc/inner")
    machine.v1("/sys/fs/cgroup/memory/inner", usage=1300, tightest="6000")
    machine.v1("/sys/fs/cgroup/memory", limit="9000", usage=2300, tightest="6000")
    (reading,) = machine.readings()
    assert reading.name == "cgroup hierarchical_memory_limit"
    assert (reading.limit_bytes, reading.used_bytes) == (6000, 2000)


# Our own place


@pytest.mark.parametrize("name", ["a:b", "a b", "a\tb", "a\\b", "0::", "weird\r\u2028\x0b", "\udcff"])
def test_a_path_may_hold_anything_but_a_newline(machine: Machine, name: str) -> None:
    path = name.encode("utf-8", "surrogateescape")
    machine.mounts(V2_MOUNT)
    machine.write("proc/self/cgroup", b"7:cpu:/x\n0::/" + path + b"/leaf\n")
    machine.v2(f"/sys/fs/cgroup/{name}/leaf", limit="5000")
    machine.v2(f"/sys/fs/cgroup/{name}", limit="4000")
    assert sorted(reading.limit_bytes for reading in machine.readings()) == [4000, 5000]


def test_a_mount_point_is_unescaped(machine: Machine) -> None:
    machine.mounts(V2_MOUNT.replace("/sys/fs/cgroup", r"/mnt/a\040b\134c\011d"))
    machine.groups("0::/job")
    machine.v2("/mnt/a b\\c\td/job", limit="5000")
    assert [reading.limit_bytes for reading in machine.readings()] == [5000]


def test_a_mount_root_is_unescaped(machine: Machine) -> None:
    machine.mounts(V2_MOUNT.replace(" / ", r" /a\040b ", 1))
    machine.groups("0::/a b/job")
    machine.v2("/sys/fs/cgroup/job", limit="5000")
    assert [reading.limit_bytes for reading in machine.readings()] == [5000]


def test_a_container_without_a_namespace_finds_its_own_group_at_the_mount_point(machine: Machine) -> None:
    machine.mounts(V1_MOUNT.replace(" / ", " /docker/abc ", 1))
    machine.groups("4:memory:/docker/abc")
    machine.v1("/sys/fs/cgroup/memory", limit="5000")
    assert machine.headrooms() == {"/sys/fs/cgroup/memory": 4000}


def test_a_path_that_is_not_mounted_here_leads_to_the_nearest_mounted_level(machine: Machine) -> None:
    machine.mounts(V1_MOUNT)  # old Docker: the path is the host's, the mount shows only the container's group
    machine.groups("4:memory:/docker/abc")
    machine.v1("/sys/fs/cgroup/memory", limit="5000")
    assert machine.headrooms() == {"/sys/fs/cgroup/memory": 4000}


@pytest.mark.parametrize(
    ("path", "mount_root", "below"),
    [
        ("/", "/", []),  # the root of a namespace
        ("/job", "/", ["job"]),
        ("/", "/../..", []),  # the mount is older than the namespace: the names between are hidden
        ("/job", "/..", []),
        ("/..", "/../..", []),
        ("/../..", "/../..", []),
        ("/../other", "/..", ["other"]),  # moved from the namespace, still below the mount
        ("/..", "/", None),  # above the mount: its limits are not ours
        ("/../..", "/", None),
        ("/../other", "/", None),
        ("/../../other", "/..", None),
        ("/docker/abc", "/docker/abd", None),
        ("/docker/abcd", "/docker/abc", None),  # a prefix of the letters, not of the names
        ("/", "/../sibling", None),
        ("//a//b/", "/a", ["b"]),
    ],
)
def test_only_levels_that_contain_us_are_read(path: str, mount_root: str, below: list[str] | None) -> None:
    assert limits.below_mount(path, mount_root) == below


def test_in_a_namespace_younger_than_the_mount_the_mount_point_is_read(machine: Machine) -> None:
    machine.mounts(V2_MOUNT.replace(" / ", " /../.. ", 1))
    machine.groups("0::/")
    machine.v2("/sys/fs/cgroup", limit="5000")
    assert machine.headrooms() == {"/sys/fs/cgroup": 4000}


def test_an_invalid_path_leads_nowhere(machine: Machine) -> None:
    machine.mounts(V2_MOUNT)
    machine.groups("0::/a\0b")
    assert machine.readings() == []


def test_a_hierarchy_that_is_mounted_twice_counts_once(machine: Machine) -> None:
    machine.mounts(V2_MOUNT, V2_MOUNT.replace("/sys/fs/cgroup", "/mnt/again"))
    machine.groups("0::/job")
    machine.v2("/sys/fs/cgroup/job", limit="5000")
    machine.v2("/mnt/again/job", limit="5000")
    assert len(machine.readings()) == 1


# Memory that counts as used


def test_dirty_file_pages_count_as_use_and_are_known_to_be_flushable(machine: Machine) -> None:
    machine.mounts(V2_MOUNT)
    machine.groups("0::/job")
    machine.v2("/sys/fs/cgroup/job", limit="5000", current=1300)
    stat = V2_STAT.replace("file_dirty 0", "file_dirty 50").replace("writeback 0", "writeback 30")
    machine.write("/sys/fs/cgroup/job/memory.stat", stat)
    (reading,) = machine.readings()
    assert (reading.used_bytes, reading.flushable_bytes) == (1080, 80)


def test_dirty_file_pages_of_v1_are_flushable_too(machine: Machine) -> None:
    machine.mounts(V1_MOUNT)
    machine.groups("4:memory:/job")
    machine.v1("/sys/fs/cgroup/memory/job", limit="5000", usage=1300)
    stat = "dirty 7\ntotal_inactive_file 200\ntotal_active_file 100\ntotal_dirty 50\ntotal_writeback 30\n"
    machine.write("/sys/fs/cgroup/memory/job/memory.stat", stat)
    (reading,) = machine.readings()
    assert (reading.used_bytes, reading.flushable_bytes) == (1080, 80)


def test_more_file_pages_than_usage_count_as_no_use_not_as_negative_use(machine: Machine) -> None:
    machine.mounts(V2_MOUNT)  # the two files are read at two moments
    machine.groups("0::/job")
    machine.v2("/sys/fs/cgroup/job", limit="5000", current=250)
    assert machine.headrooms() == {"/sys/fs/cgroup/job": 5000}


@pytest.mark.parametrize("name", ["memory.current", "memory.stat"])
@pytest.mark.parametrize("text", [None, "", "max", "inactive_file 1\n", "active_file x\ninactive_file y\n"])
def test_usage_that_makes_no_sense_is_an_error_and_not_a_number(
    machine: Machine, name: str, text: str | None
) -> None:
    machine.mounts(V2_MOUNT)
    machine.groups("0::/job")
    machine.v2("/sys/fs/cgroup/job", limit="5000")
    file = machine.root / "sys/fs/cgroup/job" / name
    file.unlink() if text is None else file.write_text(text)
    (limit,) = limits.cgroup_limits(machine.root)
    with pytest.raises((OSError, ValueError)):
        limits.read_cgroup(limit)


@pytest.mark.parametrize("missing", ["proc/self/cgroup", "proc/self/mountinfo", "sys/fs/cgroup/j/memory.max"])
def test_a_missing_file_is_no_limit(machine: Machine, missing: str) -> None:
    machine.mounts(V2_MOUNT)
    machine.groups("0::/j")
    machine.v2("/sys/fs/cgroup/j", limit="5000")
    (machine.root / missing).unlink()
    assert limits.cgroup_limits(machine.root) == []


FILES = [
    "proc/self/cgroup",
    "proc/self/mountinfo",
    *(f"sys/fs/cgroup/job/{name}" for name in ("memory.max", "memory.high", "memory.current", "memory.stat")),
    *(f"sys/fs/cgroup/job/{name}" for name in ("cpu.max", "memory.limit_in_bytes", "memory.usage_in_bytes")),
]
WORDS = [
    b"max",
    b"-1",
    b"0",
    b"1e9",
    b"+5",
    b"1_000",
    b" 12 ",
    b"\xc2\xb2",
    b"9" * 5000,
    b"\xff",
    b"",
]
LINES = [
    b"0::/job",
    b"0::/a\0b",
    b"0::",
    b"::",
    V2_MOUNT.encode(),
    b"1 2 3 / /\\777 - cgroup cgroup",
    b"file_dirty 99",
]
GARBLED = st.one_of(
    st.binary(max_size=60),
    st.lists(st.sampled_from(WORDS), max_size=4).map(b" ".join),
    st.lists(st.sampled_from(LINES + WORDS), max_size=4).map(b"\n".join),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(files=st.dictionaries(st.sampled_from(FILES), GARBLED, min_size=1, max_size=4))
def test_garbled_files_never_do_more_than_drop_their_signal(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    machine = Machine(tmp_path_factory.mktemp("machine"))
    machine.mounts(V2_MOUNT, V1_MOUNT)
    machine.groups("0::/job", "4:memory,cpu:/job")
    machine.v2("/sys/fs/cgroup/job", limit="5000")
    for name, text in files.items():
        machine.write(name, text)
    for limit in limits.cgroup_limits(machine.root):
        assert 0 <= limit.limit_bytes < 1 << 60
        try:
            reading = limits.read_cgroup(limit)
        except (OSError, ValueError):
            continue
        assert 0 <= reading.flushable_bytes <= reading.used_bytes
    assert 1 <= limits.available_cpus(machine.root) <= (os.cpu_count() or 1)


# CPUs


def cpus_of_a_job(machine: Machine, *, leaf: str, parent: str = "max 100000") -> int:
    machine.mounts(V2_MOUNT)
    machine.groups("0::/slice/job")
    machine.write("/sys/fs/cgroup/slice/job/cpu.max", leaf)
    machine.write("/sys/fs/cgroup/slice/cpu.max", parent)
    return limits.available_cpus(machine.root)


@pytest.mark.parametrize(
    ("leaf", "parent", "expected"),
    [
        ("max 100000\n", "max 100000\n", 8),
        ("200000 100000\n", "max 100000\n", 2),
        ("600000 100000\n", "300000 100000\n", 3),
        ("250000 100000\n", "max 100000\n", 2),
        ("10000 100000\n", "max 100000\n", 1),
        ("9900000 100000\n", "max 100000\n", 8),
        ("200000\n", "max\n", 8),
        ("200000 0\n", "garbled\n", 8),
        ("-1 100000\n", "1 2 3\n", 8),
    ],
)
def test_the_cpu_quota_of_every_level_counts(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, leaf: str, parent: str, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    assert cpus_of_a_job(machine, leaf=leaf, parent=parent) == expected


@pytest.mark.parametrize(
    ("quota", "expected"), [("-1", 8), ("400000", 4), ("150000", 1), ("5000", 1), ("", 8)]
)
def test_the_cpu_quota_of_v1_counts(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    machine.mounts("33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct")
    machine.groups("3:cpu,cpuacct:/job", "0::/")
    machine.write("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", f"{quota}\n")
    machine.write("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n")
    assert limits.available_cpus(machine.root) == expected


def test_the_affinity_of_this_process_counts() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from nanogpt_compat.memory.limits import available_cpus; print(available_cpus())"
    assert run_python(code) == "1\n"


def test_without_an_affinity_the_machine_s_cpus_count(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert limits.available_cpus(machine.root) == os.cpu_count()


@pytest.mark.parametrize(("cpus", "workers"), [(1, 1), (2, 2), (4, 4), (5, 4), (6, 5), (128, 127)])
def test_one_cpu_is_left_free_above_four(cpus: int, workers: int) -> None:
    assert limits.default_workers(cpus) == workers


# This machine


def run_python(code: str, *, timeout_s: float = 60) -> str:
    """Run `code` in a fresh interpreter and return what it prints."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def own_cgroups() -> list[Path]:
    """Find the real folders of this process's memory cgroups that count usage."""
    folders = [folder for chain in limits.cgroup_chains("memory") for folder in chain]
    names = ("memory.current", "memory.usage_in_bytes")
    found = [folder / name for folder in folders for name in names if (folder / name).exists()]
    if not found:
        pytest.skip("this machine has no memory cgroup that counts its usage")
    return found


def with_limit(usage: Path, limit_bytes: int) -> Reading:
    """Read a real cgroup's usage as if its limit were `limit_bytes`."""
    name = "memory.max" if usage.name == "memory.current" else "memory.limit_in_bytes"
    return limits.read_cgroup(limits.CgroupLimit(f"cgroup {name}", usage.parent / name, limit_bytes))


@pytest.mark.skipif(not Path("/proc/self/cgroup").exists(), reason="there is no /proc/self/cgroup here")
def test_the_real_leaf_of_every_chain_is_the_group_this_process_is_in() -> None:
    chains = limits.cgroup_chains("memory")
    assert chains
    for chain in chains:
        pids = (chain[0] / "cgroup.procs").read_text().split()
        assert str(os.getpid()) in pids


def in_a_cgroup_of_its_own(function: Callable[..., None], *args: object) -> None:
    """Call a function of this module in a process that shares its memory cgroup with no other."""
    code = f"import sys; from tests import test_limits; test_limits.{function.__name__}(*sys.argv[1:])"
    with own_cgroup(4 * GIB) as cgroup:
        process = cgroup.run([sys.executable, "-c", code, *map(str, args)])
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors


@pytest.mark.alone
def test_real_memory_taken_shows_in_the_usage_of_the_real_cgroup() -> None:
    in_a_cgroup_of_its_own(take_memory)


def take_memory() -> None:
    leaf = own_cgroups()[0]
    before_bytes = with_limit(leaf, GIB).used_bytes
    block = bytearray(b"x") * (128 * MIB)
    taken_bytes = with_limit(leaf, GIB).used_bytes - before_bytes
    del block
    assert 100 * MIB < taken_bytes < 160 * MIB


@pytest.mark.alone
def test_available_memory_is_psutils_without_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(psutil, "swap_memory")
    reading = limits.read_available()
    memory = psutil.virtual_memory()
    assert reading.limit_bytes == memory.total
    assert abs(reading.headroom_bytes - memory.available) < 512 * MIB


@pytest.mark.alone
def test_own_use_is_anonymous_memory_and_not_mapped_files(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * (64 * MIB))
    measured = run_python(
        f"""
        import mmap, psutil
        from nanogpt_compat.memory.limits import anonymous_bytes
        me = psutil.Process()
        def grown(start): return anonymous_bytes(me) - start
        start = anonymous_bytes(me)
        with open({str(file)!r}, "r+b") as opened:
            shared = mmap.mmap(opened.fileno(), 0)
            for offset in range(0, len(shared), 4096): shared[offset] = 1
            print(grown(start))
        block = bytearray(b"x") * {64 * MIB}
        print(grown(start))
        """
    )
    mapped_bytes, anonymous_bytes = map(int, measured.split())
    assert mapped_bytes < 4 * MIB
    assert 63 * MIB < anonymous_bytes < 72 * MIB


def test_swapped_out_memory_is_our_use_too(machine: Machine) -> None:
    status = "Name:\tpython\nVmRSS:\t 900 kB\nRssAnon:\t   500 kB\nRssFile:\t 400 kB\nVmSwap:\t   300 kB\n"
    machine.write(f"proc/{os.getpid()}/status", status)
    assert limits.anonymous_bytes(psutil.Process(), machine.root) == 800 * 1024


@pytest.mark.alone
def test_psutils_figures_are_used_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    with_proc = limits.anonymous_bytes(psutil.Process())
    monkeypatch.setattr(sys, "platform", "darwin")
    assert abs(limits.anonymous_bytes(psutil.Process()) - with_proc) < 32 * MIB
    assert limits.read_rlimit("RLIMIT_AS", psutil.Process()) is None


def test_on_macos_readings_are_only_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert limits.read_available().advisory
    assert limits.read_own_use(GIB, [psutil.Process()]).advisory


@pytest.mark.alone
def test_own_use_includes_children_but_not_those_that_ended() -> None:
    block = f"import sys; x = bytearray(b'x') * {64 * MIB}; print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", block]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin and child.stdout
        child.stdout.readline()
        processes = [psutil.Process(), psutil.Process(child.pid)]
        alone_bytes = limits.read_own_use(GIB, processes[:1]).used_bytes
        together_bytes = limits.read_own_use(GIB, processes).used_bytes
        child.stdin.close()
        child.wait()
    assert 64 * MIB < together_bytes - alone_bytes < 128 * MIB
    assert abs(limits.read_own_use(GIB, processes).used_bytes - alone_bytes) < 16 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="rlimits on memory are Linux's")
@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_an_rlimit_binds_if_it_is_set_and_our_use_is_counted_as_in_the_kernel(name: str) -> None:
    measured = run_python(
        f"""
        import mmap, psutil, resource
        from nanogpt_compat.memory.limits import read_rlimit
        me = psutil.Process()
        assert read_rlimit("{name}", me) is None
        resource.setrlimit(resource.{name}, ({GIB}, resource.RLIM_INFINITY))
        reading = read_rlimit("{name}", me)
        print(reading.limit_bytes)
        try:
            mmap.mmap(-1, reading.headroom_bytes - {MIB}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
            mmap.mmap(-1, reading.headroom_bytes + {MIB}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            print(error.errno)
        """
    )
    assert measured == f"{GIB}\n12\n"


def filesystem_of(path: Path) -> str:
    command = ["stat", "-f", "-c", "%T", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.alone
def test_page_cache_of_a_real_file_is_no_use_once_it_is_on_disk(tmp_path: Path) -> None:
    if filesystem_of(tmp_path) in ("tmpfs", "ramfs"):
        pytest.skip(f"{tmp_path} is in memory: its files are not page cache")
    in_a_cgroup_of_its_own(write_file, tmp_path)


def write_file(folder: str) -> None:
    leaf = own_cgroups()[0]
    start = with_limit(leaf, GIB)
    current_bytes = int(leaf.read_text())
    block = b"x" * MIB
    with (Path(folder) / "file").open("wb") as file:
        for _ in range(512):
            file.write(block)
        dirty = with_limit(leaf, GIB)
        os.fsync(file.fileno())
    clean = with_limit(leaf, GIB)
    assert int(leaf.read_text()) - current_bytes > 400 * MIB  # the kernel counts it
    assert dirty.flushable_bytes - start.flushable_bytes > 200 * MIB
    assert clean.used_bytes - start.used_bytes < 64 * MIB
