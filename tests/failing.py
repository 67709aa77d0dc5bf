"""Make system calls fail: programs started here load tests/failing_calls.c."""

import errno
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "failing_calls.c"


@dataclass(frozen=True)
class Fault:
    """A failure: the `at`-th `call` (from 1) below the folder fails in this way."""

    call: str  # its name, or `any`
    at: int
    way: str  # `EIO` or another errno; `short`, `kill`, `cut`: see failing_calls.c
    for_good: bool = False  # all later ones too


@dataclass(frozen=True)
class Call:
    """A call that was made."""

    name: str
    path: Path


@dataclass(frozen=True)
class FailingCalls:
    """The compiled library."""

    library: Path

    def prefix(self, below: Path, log: Path, fault: Fault | None = None) -> list[str]:
        """Put before a command: makes `fault` happen to it, and logs all calls below a folder."""
        settings = {"LD_PRELOAD": str(self.library), "FAIL_BELOW": str(below), "FAIL_LOG": str(log)}
        if fault is not None:
            way = str(getattr(errno, fault.way)) if fault.way.startswith("E") else fault.way
            settings |= {"FAIL_CALL": fault.call, "FAIL_AT": str(fault.at), "FAIL_WITH": way}
            if fault.for_good:
                settings["FAIL_ON"] = "1"
        return ["env", *(f"{name}={value}" for name, value in settings.items())]


def compile_failing_calls(folder: Path) -> FailingCalls:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    library = folder / "failing_calls.so"
    options = ["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library)]
    subprocess.run([compiler, *options, str(SOURCE), "-ldl"], check=True)
    return FailingCalls(library)


def read_log(log: Path) -> list[Call]:
    """The calls of a program in order; the order between two threads is not certain."""
    if not log.exists():  # it made none
        return []
    lines = os.fsdecode(log.read_bytes()).splitlines()
    return [Call(name, Path(path)) for name, path in (line.split(" ", 1) for line in lines)]
