"""The lock: real processes that compete for it, are killed or fork, also where flock does not work."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from nanogpt_compat.errors import OutputError
from nanogpt_compat.resume.lock import FolderLock, Owner, has_ended, start_ticks, this_process
from tests.disks import MIB, Disks, tool

pytestmark = pytest.mark.costly

REPOSITORY = Path(__file__).parent.parent
N_CONTENDERS = 20


def no_flock(error: str = "ENOSYS", *more: str) -> list[str]:
    """Start a command so that flock fails, as on Lustre without -o flock."""
    probe = subprocess.run([tool("strace"), "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"strace may not trace here: {probe.stderr.strip()}")
    quiet = ["-f", "--seccomp-bpf", "-o", os.devnull]
    return [tool("strace"), *quiet, "-e", "trace=flock", "-e", f"inject=flock:error={error}", *more]


WITH_FLOCK: Callable[[], list[str]] = list
FORMS = pytest.mark.parametrize("form", [WITH_FLOCK, no_flock], ids=["flock", "no flock"])
Form = Callable[[], list[str]]


# Programs that run in a process of their own.


def start(function: Callable[..., object], *args: object, under: list[str]) -> "subprocess.Popen[str]":
    code = (
        f"import sys, json; from tests import test_lock as t; t.{function.__name__}(*json.loads(sys.argv[1]))"
    )
    command = [*under, sys.executable, "-c", code, json.dumps(args, default=str)]
    return subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def report(**fields: object) -> None:
    print(json.dumps(fields), flush=True)  # noqa: T201 - these programs answer by printing


def attempt(path: str) -> None:
    """Take the lock, report it and leave it; or report why not."""
    try:
        with FolderLock(Path(path)):
            report(taken=True)
    except OutputError as error:
        report(taken=False, why=str(error))


def hold(path: str) -> None:
    """Take the lock, report it, and keep it until stdin ends."""
    with FolderLock(Path(path)):
        report(pid=os.getpid())
        sys.stdin.read()


def hold_and_fork(path: str) -> None:
    """Hold the lock while a child, forked without an exec, lives on."""
    with FolderLock(Path(path)):
        child = os.fork()
        if child == 0:
            time.sleep(600)
            os._exit(0)
        report(pid=os.getpid(), child=child)
        sys.stdin.read()


def hold_while_a_child_leaves(path: str) -> None:
    """Hold the lock while a forked child runs to the end of the with block, as after an exception."""
    with FolderLock(Path(path)):
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            report(pid=os.getpid())
            sys.stdin.read()


def hold_and_run_a_program(path: str) -> None:
    with FolderLock(Path(path)), subprocess.Popen(["sleep", "600"], close_fds=False) as program:
        report(pid=os.getpid(), child=program.pid)
        sys.stdin.read()


def answer(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise AssertionError(process.communicate()[1])
    reply: dict[str, Any] = json.loads(line)
    return reply


def try_lock(path: Path, under: list[str]) -> dict[str, Any]:
    """Attempt the lock from another process."""
    process = start(attempt, path, under=under)
    reply = answer(process)
    process.communicate(timeout=60)
    return reply


@contextlib.contextmanager
def holding(function: Callable[..., object], path: Path, under: list[str]) -> Iterator[dict[str, Any]]:
    """Let another process hold the lock; end it, if it still runs, by closing its stdin."""
    process = start(function, path, under=under)
    try:
        yield answer(process)
    finally:
        process.communicate(timeout=60)


def mark_of(path: Path) -> Path:
    (mark,) = path.iterdir()
    return mark


def leave_mark(path: Path, owner: Owner | bytes) -> Path:
    """Leave the lock of another run."""
    path.mkdir()
    content = owner if isinstance(owner, bytes) else json.dumps(asdict(owner)).encode()
    (path / "mark").write_bytes(content)
    return path / "mark"


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


# One run at a time.


@FORMS
def test_a_second_run_is_refused_with_the_first_process_and_what_to_do(tmp_path: Path, form: Form) -> None:
    path = tmp_path / "lock"
    with holding(hold, path, form()) as holder:
        reply = try_lock(path, form())
        assert not reply["taken"]
        mark = mark_of(path)
        for part in (str(tmp_path), f"process {holder['pid']} on {os.uname().nodename}", f"rm {mark}"):
            assert part in reply["why"]
        assert json.loads(mark.read_text())["flock"] == (form is WITH_FLOCK)
        assert list(tmp_path.iterdir()) == [path]
    assert list(tmp_path.iterdir()) == []
    assert try_lock(path, form())["taken"]


def test_a_second_lock_in_one_process_is_refused(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "lock"), pytest.raises(OutputError, match=f"process {os.getpid()} on "):
        FolderLock(tmp_path / "lock").__enter__()
    with FolderLock(tmp_path / "lock") as taken, pytest.raises(OutputError), FolderLock(taken.path):
        pass


def test_the_lock_is_released_when_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), FolderLock(tmp_path / "lock"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_leaving_does_not_remove_the_lock_of_a_run_that_took_over(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "lock"):
        mark_of(tmp_path / "lock").unlink()  # like the command in the message, though this run has not ended
        second = FolderLock(tmp_path / "lock").__enter__()
    assert json.loads(mark_of(tmp_path / "lock").read_text())["pid"] == os.getpid()
    second.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


# Runs that are killed.


@FORMS
def test_the_lock_of_a_killed_run_is_taken_over(tmp_path: Path, form: Form) -> None:
    path = tmp_path / "lock"
    with holding(hold, path, form()) as holder:
        os.kill(holder["pid"], signal.SIGKILL)
        wait_until_ended(holder["pid"])
        left = mark_of(path)
        assert try_lock(path, form())["taken"]
        assert not left.exists()
    assert list(tmp_path.iterdir()) == []


@FORMS
@pytest.mark.parametrize("holder_program", [hold_and_fork, hold_and_run_a_program])
def test_a_child_that_outlives_a_killed_run_does_not_keep_its_lock(
    tmp_path: Path, form: Form, holder_program: Callable[[str], None]
) -> None:
    path = tmp_path / "lock"
    with holding(holder_program, path, form()) as holder:
        os.kill(holder["pid"], signal.SIGKILL)
        wait_until_ended(holder["pid"])
        try:
            assert start_ticks(holder["child"]) > 0
            assert try_lock(path, form())["taken"]
        finally:
            os.kill(holder["child"], signal.SIGKILL)


@FORMS
def test_a_forked_child_that_leaves_does_not_give_up_its_parents_lock(tmp_path: Path, form: Form) -> None:
    with holding(hold_while_a_child_leaves, tmp_path / "lock", form()) as holder:
        assert f"process {holder['pid']} on" in try_lock(tmp_path / "lock", form())["why"]


def test_with_flock_the_lock_of_a_run_killed_on_another_host_is_taken_over(tmp_path: Path) -> None:
    left = leave_mark(tmp_path / "lock", replace(this_process(), host="elsewhere", flock=True))
    assert try_lock(tmp_path / "lock", [])["taken"]
    assert not left.exists()


def test_with_flock_a_run_that_seems_dead_but_holds_its_mark_is_alive(tmp_path: Path) -> None:
    mark = leave_mark(tmp_path / "lock", replace(this_process(), pid=4711, boot_id="another", flock=True))
    with mark.open() as file:  # like another machine of the same name, over NFS
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "process 4711 on" in try_lock(tmp_path / "lock", [])["why"]
    assert try_lock(tmp_path / "lock", [])["taken"]


def wait_until_ended(pid: int) -> None:
    deadline = time.monotonic() + 10
    while start_ticks(pid) != -1:
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Twenty at once.


def contend(path_text: str, n_rounds: int, stale: bool) -> None:
    """Let N_CONTENDERS processes try at the same moment; report which one wins each round."""
    path = Path(path_text)
    for _ in range(n_rounds):
        if stale:
            die_holding(path)
        results = [line.split(" ", 2) for line in one_round(path)]
        winners = [int(pid) for pid, outcome, *_ in results if outcome == "won"]
        others = [rest[0] for _, outcome, *rest in results if outcome == "lost"]
        report(winners=winners, n=len(results), others=others)


def die_holding(path: Path) -> None:
    child = os.fork()
    if child == 0:
        FolderLock(path).__enter__()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def one_round(path: Path) -> list[str]:
    """Fork the contenders, start them by closing a pipe, and let the winner leave when all have tried."""
    go, done, results = os.pipe(), os.pipe(), os.pipe()
    children = []
    for _ in range(N_CONTENDERS):
        children.append(os.fork())
        if children[-1] == 0:
            os.close(go[1])
            os.close(done[1])
            contender(path, go[0], done[0], results[1])
    os.close(results[1])
    os.close(go[1])
    with open(results[0], encoding="utf-8") as file:  # noqa: PTH123 - a pipe
        lines = [file.readline().rstrip("\n") for _ in children]
    os.close(done[1])
    for child in children:
        os.waitpid(child, 0)
    os.close(go[0])
    os.close(done[0])
    return lines


def contender(path: Path, go: int, done: int, results: int) -> None:
    os.read(go, 1)
    try:
        with FolderLock(path):
            os.write(results, f"{os.getpid()} won\n".encode())
            os.read(done, 1)
    except OutputError as error:
        reason = str(error).splitlines()[0]  # a command follows
        os.write(results, f"{os.getpid()} lost {reason}\n".encode())
    except BaseException as error:  # noqa: BLE001 - a forked child must not continue as its parent
        os.write(results, f"{os.getpid()} failed {error!r}\n".encode())
    finally:
        os._exit(0)


# Calls that take 2 ms each leave time for the others in between.
SLOWLY = ["-e", "trace=flock,?unlink,?unlinkat,?rename,?renameat,?renameat2,?rmdir"]
SLOWLY += ["-e", "inject=?unlink,?unlinkat,?rename,?renameat,?renameat2,?rmdir:delay_enter=2000"]


@pytest.mark.parametrize("slow", [False, True], ids=["fast", "slowed"])
@pytest.mark.parametrize("stale", [False, True], ids=["free", "stale"])
@FORMS
def test_exactly_one_of_twenty_wins_and_the_others_name_it(
    tmp_path: Path, form: Form, stale: bool, slow: bool
) -> None:
    under = form()
    if slow:
        under = [*(under or [tool("strace"), "-f", "--seccomp-bpf", "-o", os.devnull]), *SLOWLY]
    process = start(contend, tmp_path / "lock", 10, stale, under=under)
    output, errors = process.communicate(timeout=120)
    rounds = [json.loads(line) for line in output.splitlines()]
    assert len(rounds) == 10, errors
    for one in rounds:
        assert (len(one["winners"]), len(one["others"])) == (1, N_CONTENDERS - 1), one
        assert all(f"process {one['winners'][0]} on " in why for why in one["others"]), one
    assert set(tmp_path.iterdir()) <= {tmp_path / "lock"}


def come_and_go(path_text: str, n_times: int) -> None:
    """Take and leave the lock, and count; FileExistsError if another run is in the folder meanwhile."""
    path, n_taken, why = Path(path_text), 0, set()
    for _ in range(n_times):
        try:
            with FolderLock(path):
                (path.parent / "inside").touch(exist_ok=False)
                (path.parent / "inside").unlink()
                n_taken += 1
        except OutputError as error:
            why.add(str(error).partition(" is ")[2].partition(",")[0])
    report(n_taken=n_taken, why=sorted(why))


@FORMS
def test_runs_that_come_and_go_are_never_in_the_folder_together(tmp_path: Path, form: Form) -> None:
    processes = [start(come_and_go, tmp_path / "lock", 200, under=form()) for _ in range(4)]
    answers = [answer(process) for process in processes]
    for process in processes:
        process.communicate(timeout=60)
    assert sum(each["n_taken"] for each in answers) > 0
    assert {why for each in answers for why in each["why"]} <= {"in use by another run"}
    assert list(tmp_path.iterdir()) == []


# Without a working flock.


@pytest.mark.parametrize("error", ["ENOSYS", "ENOLCK", "EOPNOTSUPP", "ENOTSUP"])
def test_every_error_of_an_unsupported_flock_is_understood(tmp_path: Path, error: str) -> None:
    name = "EOPNOTSUPP" if error == "ENOTSUP" else error  # one number on Linux; strace knows only one name
    assert getattr(errno, error) == getattr(errno, name)
    with holding(hold, tmp_path / "lock", no_flock(name)):
        assert not try_lock(tmp_path / "lock", no_flock(name))["taken"]


def test_any_other_failure_of_flock_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    reply = try_lock(tmp_path / "lock", no_flock("EIO"))
    assert "cannot lock the folder: [Errno 5] Input/output error" in reply["why"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lacking", ["the module", "the function"])
def test_the_lock_works_in_a_python_without_flock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    if lacking == "the module":
        monkeypatch.setitem(sys.modules, "fcntl", None)
    else:
        monkeypatch.delattr(fcntl, "flock")
    monkeypatch.delattr(os, "register_at_fork")
    with FolderLock(tmp_path / "lock"):
        assert json.loads(mark_of(tmp_path / "lock").read_text())["flock"] is False
        with pytest.raises(OutputError, match="in use by another run"), FolderLock(tmp_path / "lock"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_the_lock_works_if_nothing_can_be_renamed_over_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def rename_as_windows_does(source: Path, target: Path) -> Path:
        if target.exists():
            raise FileExistsError(errno.EEXIST, "Cannot create a file when that file already exists")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", rename_as_windows_does)
    (tmp_path / "lock").mkdir()
    with FolderLock(tmp_path / "lock"):
        mark_of(tmp_path / "lock")


def ended_as(**changes: object) -> Owner:
    return replace(this_process(), **changes)  # type: ignore[arg-type] # the names are tested here


@pytest.mark.parametrize(
    ("changes", "ended"),
    [
        ({}, False),
        ({"host": "elsewhere"}, False),
        ({"host": "elsewhere", "boot_id": "another", "pid": None}, False),
        ({"boot_id": "another"}, True),
        ({"boot_id": ""}, False),
        ({"pid": None}, True),  # a process that has ended
        ({"started": 1}, True),  # the id is in use again
        ({"started": 1, "pid_namespace": "pid:[1]"}, False),
        ({"pid": None, "pid_namespace": "pid:[1]"}, False),
        ({"pid": None, "boot_id": ""}, False),
    ],
)
def test_a_run_has_ended_only_if_that_is_certain(changes: dict[str, Any], ended: bool) -> None:
    if changes.get("pid", 0) is None:
        changes = changes | {"pid": dead_pid()}
    assert has_ended(ended_as(**changes), this_process()) is ended


def test_without_a_boot_id_nothing_is_certain() -> None:
    here = replace(this_process(), boot_id="")
    assert not has_ended(replace(here, pid=dead_pid()), here)
    assert not has_ended(replace(this_process(), pid=dead_pid()), here)


def test_a_zombie_has_ended() -> None:
    with subprocess.Popen(["true"]) as process:
        deadline = time.monotonic() + 10
        while start_ticks(process.pid) != -1:
            assert time.monotonic() < deadline
        assert process.returncode is None  # no process has waited for it
        os.kill(process.pid, 0)


def test_a_process_of_another_user_is_alive() -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming another user takes root")
    code = (
        "import os; from nanogpt_compat.resume.lock import Owner, has_ended; os.setuid(65534); "
        "assert not has_ended(Owner('h', 1, 'b', 'n', 77), Owner('h', os.getpid(), 'b', 'n', 78))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


@FORMS
def test_a_run_in_another_container_on_this_host_is_not_taken_for_dead(tmp_path: Path, form: Form) -> None:
    if os.geteuid() != 0:
        pytest.skip("a process-id namespace takes root")
    with holding(
        hold, tmp_path / "lock", [*form(), tool("unshare"), "--pid", "--fork", "--mount-proc"]
    ) as holder:
        assert holder["pid"] == 1  # as its namespace counts; here that is alive, and started at another time
        assert not try_lock(tmp_path / "lock", form())["taken"]


def test_a_lock_from_another_host_stays_until_the_printed_command_removes_it(tmp_path: Path) -> None:
    mark = leave_mark(tmp_path / "lock", replace(this_process(), host="node7", pid=4711))
    reply = try_lock(tmp_path / "lock", no_flock())
    assert (
        "process 4711 on node7: wait for it, or stop it. If that process has certainly ended" in reply["why"]
    )
    assert mark.exists()
    assert subprocess.run(reply["why"].splitlines()[-1], shell=True, check=False).returncode == 0
    assert try_lock(tmp_path / "lock", no_flock())["taken"]


@pytest.mark.sample(3)
@FORMS
@pytest.mark.parametrize("content", [b"", b"\0" * 120, b"{", b"[1]", b'{"host": "x"}', b"\xff\xfe"])
def test_a_damaged_lock_stays_until_it_is_removed(tmp_path: Path, form: Form, content: bytes) -> None:
    mark = leave_mark(tmp_path / "lock", content)
    assert "an unknown process: wait for it, or stop it." in try_lock(tmp_path / "lock", form())["why"]
    mark.unlink()
    assert try_lock(tmp_path / "lock", form())["taken"]


def test_a_run_with_flock_and_one_without_do_not_take_each_other_for_dead(tmp_path: Path) -> None:
    with holding(hold, tmp_path / "lock", no_flock()) as holder:
        assert f"process {holder['pid']} on" in try_lock(tmp_path / "lock", [])["why"]
    with holding(hold, tmp_path / "lock", []) as holder:
        assert f"process {holder['pid']} on" in try_lock(tmp_path / "lock", no_flock())["why"]


# No lock at all.


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a" / "lock"
    with pytest.raises(OutputError, match=r"cannot lock the folder: .*No such file"), FolderLock(path):
        pass


def test_a_file_in_the_place_of_the_lock_is_an_error_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("mine")
    with pytest.raises(OutputError, match=r"cannot lock the folder: .*Not a directory"), FolderLock(path):
        pass
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_on_a_full_disk_the_lock_is_an_error_and_leaves_nothing(disks: Disks) -> None:
    disk = disks.make("tmpfs", 16 << 10)
    disk.fill()
    before = set(disk.folder.iterdir())
    with pytest.raises(OutputError, match="No space left on device"), FolderLock(disk.folder / "lock"):
        pass
    assert set(disk.folder.iterdir()) == before


def test_after_a_power_cut_the_lock_still_names_its_run_and_is_taken_over(disks: Disks) -> None:
    disk = disks.make("ext4", 16 * MIB)
    path = disk.folder / "lock"
    with holding(hold, path, []) as holder:
        with (disk.folder / "train.bin.partial").open("wb") as file:
            file.write(b"x" * 4096)
            os.fsync(file.fileno())  # makes the names of the lock durable too
        disk.cut_power()
    disk.remount_after_cut()
    assert json.loads(mark_of(path).read_text())["pid"] == holder["pid"]
    assert try_lock(path, [])["taken"]
