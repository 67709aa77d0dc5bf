"""`prepare.py` starts the package next to it from any folder, or prints in one message what is missing."""

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nanogpt_compat
from nanogpt_compat.__main__ import PACKAGES

REPOSITORY = Path(__file__).parent.parent
OLD_PYTHONS_READ = ("__init__", "__main__", "system/__init__", "system/signals")
STUB_CLI = """
import sys
def main(argv=None, home=None):
    print("home", home, "arguments", sys.argv[1:])
    return 7
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Copy the program like a user, with a stub command line that prints how it was called."""
    package = tmp_path / "nano gpt" / "data" / "fineweb" / "nanogpt_compat"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "nanogpt_compat", package, ignore=ignored)
    shutil.copy(REPOSITORY / "prepare.py", package.parent)
    (package / "cli.py").write_text(STUB_CLI)
    return package.parent


def python(
    *args: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=cwd,
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        check=False,
    )


def assert_refused(run: "subprocess.CompletedProcess[str]", *messages: str) -> None:
    assert run.returncode == 2
    assert run.stdout == ""
    assert "Traceback" not in run.stderr
    for message in messages:
        assert message in run.stderr


def test_it_hands_over_its_folder_and_the_arguments_from_any_current_folder(folder: Path) -> None:
    for cwd, path in ((Path("/"), folder / "prepare.py"), (folder, Path("prepare.py"))):
        run = python(path, "--n", "3", cwd=cwd)
        assert (run.returncode, run.stderr) == (7, "")
        assert run.stdout == f"home {folder} arguments ['--n', '3']\n"


def test_the_module_hands_over_no_folder(folder: Path) -> None:
    run = python("-m", "nanogpt_compat", "--dry-run", cwd=folder)
    assert (run.returncode, run.stdout, run.stderr) == (7, "home None arguments ['--dry-run']\n", "")


@pytest.mark.parametrize("module", ["prepare", "nanogpt_compat.__main__"])
def test_importing_it_starts_nothing_so_spawned_processes_can_import_it(module: str, folder: Path) -> None:
    run = python("-c", f"import {module}", cwd=folder)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.parametrize("left", ["nothing", "an empty folder"])
def test_copied_alone_it_prints_what_else_to_copy_and_where_to(left: str, folder: Path) -> None:
    shutil.rmtree(folder / "nanogpt_compat")
    if left == "an empty folder":
        (folder / "nanogpt_compat").mkdir()
    installed = {"PYTHONPATH": str(REPOSITORY)}  # perhaps of another version
    run = python(folder / "prepare.py", cwd=folder.parent, env=installed)
    assert_refused(run, f"nanogpt_compat/; copy it to {folder} ")


@pytest.mark.parametrize("start", ["prepare.py", "-m nanogpt_compat"])
def test_one_pip_command_names_all_missing_packages_and_no_others(
    start: str, folder: Path, tmp_path: Path
) -> None:
    no_uv = {"PATH": ""}
    run = python("-S", *start.split(), cwd=folder, env=no_uv)  # -S: a Python with nothing installed
    assert_refused(run, f"\n    {sys.executable} -m pip install numpy psutil tiktoken tqdm\n")
    (tmp_path / "numpy.py").touch()
    (tmp_path / "tqdm").mkdir()
    (tmp_path / "tqdm" / "__init__.py").touch()
    run = python("-S", *start.split(), cwd=folder, env=no_uv | {"PYTHONPATH": str(tmp_path)})
    assert_refused(run, " -m pip install psutil tiktoken\n")
    for name in ("psutil", "tiktoken"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('looked for, not imported')")
    assert python("-S", *start.split(), cwd=folder, env={"PYTHONPATH": str(tmp_path)}).returncode == 7


@pytest.mark.parametrize("version", [(3, 6, 15), (3, 9, 25)])
def test_an_old_python_gets_only_the_version_message(version: tuple[int, ...], folder: Path) -> None:
    program = (
        "import runpy, sys; sys.version_info = {}; sys.path[0] = {!r}; "
        "runpy.run_path('prepare.py', run_name='__main__')"
    )
    run = python("-S", "-c", program.format((*version, "final", 0), str(folder)), cwd=folder)
    found = ".".join(map(str, version))
    assert_refused(run, "Python 3.10 or newer is needed", f"is Python {found}\n")
    assert "pip" not in run.stderr


@pytest.mark.parametrize("name", ["prepare.py", *(f"nanogpt_compat/{name}.py" for name in OLD_PYTHONS_READ)])
def test_python_3_6_can_read_the_code_that_runs_before_the_version_is_known(name: str) -> None:
    tree = ast.parse((REPOSITORY / name).read_text(encoding="utf-8"), feature_version=(3, 6))
    for node in ast.walk(tree):
        annotation = getattr(node, "returns", None) or getattr(node, "annotation", None)
        assert isinstance(annotation, ast.Constant | ast.Name | None)  # evaluated, so new syntax is quoted


def read_setup() -> configparser.ConfigParser:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    return setup


def test_it_looks_for_the_packages_that_pip_installs_with_it() -> None:
    required = read_setup()["options"]["install_requires"].split()
    assert [re.match(r"[\w-]+", line)[0] for line in required] == PACKAGES  # type: ignore[index]


def test_the_version_is_the_one_that_pip_sees() -> None:
    assert read_setup()["metadata"]["version"] == nanogpt_compat.__version__


# The promise of tests/conftest.py, tested in the same way: by a program started as in CI


SKIPPING = {
    "a call": "def test_it():\n    pytest.skip('no strace')",
    "a mark": "@pytest.mark.skipif(True, reason='no strace')\ndef test_it(): pass",
    "a fixture": "@pytest.fixture\ndef need(): pytest.skip('no strace')\ndef test_it(need): pass",
    "a module": "pytest.skip('no strace', allow_module_level=True)",
}


@pytest.mark.costly
@pytest.mark.sample(2)
@pytest.mark.parametrize("how", SKIPPING)
def test_a_skip_passes_unless_everything_is_required(how: str, tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "tests" / "conftest.py", tmp_path)
    known_failure = "@pytest.mark.xfail(strict=True)\ndef test_other(): raise OSError"
    (tmp_path / "test_skip.py").write_text(f"import pytest\n{SKIPPING[how]}\n")
    (tmp_path / "test_xfail.py").write_text(f"import pytest\n{known_failure}\n")
    command = ("-m", "pytest", "-p", "no:cacheprovider", "-rA", "--rootdir", tmp_path, tmp_path)
    env = {"PYTHONPATH": str(REPOSITORY)}
    run = python(*command, cwd=tmp_path, env=env)
    assert (run.returncode, "1 skipped, 1 xfailed" in run.stdout) == (0, True), run.stdout
    run = python(*command, "--require-all", cwd=tmp_path, env=env)
    assert run.returncode in (1, 2), run.stdout
    assert re.search(r"--require-all: nothing may be skipped, and this was: .*no strace", run.stdout)
    # an error while collecting ends the run; otherwise a known failure stays one
    assert ("1 error" if how == "a module" else "1 xfailed") in run.stdout.splitlines()[-1]


def test_the_command_is_uvs_if_uv_made_the_environment_without_pip(folder: Path, tmp_path: Path) -> None:
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    run = python("-S", "prepare.py", cwd=folder, env={"PATH": str(uv.parent)})
    assert_refused(run, f"\n    {uv} pip install --python {sys.executable} numpy psutil tiktoken tqdm\n")
