"""In a checkout a run names the files that git would add, with lines for .gitignore; it writes nothing."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from nanogpt_compat.system.checkout import notice_unignored
from tests.disks import tool
from tests.faults import Args, make_text, prepare

NANOGPT_IGNORES = """\
.DS_Store
.idea
.ipynb_checkpoints/
.vscode
__pycache__/
*.bin
*.pkl
*.pt
*.pyc
input.txt
env/
venv/
"""


def git(folder: Path, *words: str) -> str:
    command = [tool("git"), "-c", "user.name=me", "-c", "user.email=me@host", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """nanoGPT's checkout, in a folder whose name has a space."""
    root = tmp_path / "nano gpt"
    root.mkdir()
    git(root, "init", "-q")
    (root / ".gitignore").write_text(NANOGPT_IGNORES)
    git(root, "add", ".")
    git(root, "commit", "-qm", "one")
    return root


def would_add(root: Path) -> list[str]:
    return sorted(git(root, "ls-files", "--others", "--exclude-standard").splitlines())


def test_in_nanogpts_checkout_it_offers_lines_for_the_report_and_the_input(root: Path) -> None:
    folder = root / "data" / "it's [my] web"
    folder.mkdir(parents=True)
    args: Args = ("--input", make_text(folder / "train_fineweb.txt", 100_000), "--output-dir", folder)
    done = prepare(*args)
    assert done.returncode == 0, done.stderr
    named = "data/it's [my] web/prepare.json, data/it's [my] web/train_fineweb.txt"
    assert f"notice: git does not ignore {named} in {root}; to add them" in done.stderr
    assert len(would_add(root)) == 2
    before = (root / ".gitignore").read_text()
    (command,) = (line for line in done.stderr.splitlines() if line.startswith("    printf"))
    subprocess.run(["bash", "-c", command], check=True)
    assert would_add(root) == []
    assert (root / ".gitignore").read_text().startswith(before)
    assert git(root, "check-ignore", str(folder / "prepare.json"))
    again = prepare(*args, "--overwrite")
    assert (again.returncode, "git does not" in again.stderr) == (0, False)


def test_many_files_alike_have_one_line_and_one_that_does_not_end_is_ended(root: Path) -> None:
    (root / ".gitignore").write_text("*.pt")
    args = ("--format", "npy", "--shard-tokens", "2000", "--output-dir", root)
    done = prepare("--input", make_text(root.parent / "a.txt", 100_000), *args)
    assert ", ... in " in done.stderr
    assert "a.txt" not in done.stderr.split("git does not ignore")[1]
    (command,) = (line for line in done.stderr.splitlines() if line.startswith("    printf"))
    assert len(shlex.split(command)) == len(["printf", "form", "/prepare.json", "/*.npy", ">>", "file"])
    subprocess.run(["bash", "-c", command], check=True)
    assert would_add(root) == []
    assert (root / ".gitignore").read_text().splitlines()[0] == "*.pt"


def test_quiet_and_what_is_tracked_ignored_or_elsewhere_get_no_notice(root: Path) -> None:
    path, elsewhere = make_text(root / "a.txt", 100_000), make_text(root.parent / "b.txt", 100_000)
    args: Args = ("--input", path, elsewhere, "--output-dir", root)
    assert "git" not in prepare(*args, "--quiet").stderr
    (root / ".gitignore").write_text("*.bin\n/prepare.json\n")
    git(root, "add", "a.txt")
    assert "git" not in prepare(*args, "--overwrite").stderr
    outside: Args = ("--input", elsewhere, "--output-dir", root.parent / "out")
    assert "git" not in prepare(*outside).stderr


def test_ranks_get_none(root: Path) -> None:
    args: Args = (
        "--input",
        make_text(root / "a.txt", 100_000),
        "--output-dir",
        root,
        "--work-dir",
        root / "w",
    )
    assert "git" not in prepare(*args, "--rank", "0", "--world-size", "1").stderr


@pytest.mark.parametrize("what", ["no git", "not a checkout after all", "git fails", "git hangs"])
def test_problems_with_git_are_no_error(
    what: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_text(root / "a.txt", 100)
    assert notice_unignored(root, [path])
    if what == "not a checkout after all":
        (root / ".git").rename(root / "git")
        (root / ".git").touch()
    else:
        stub = tmp_path / "bin" / "git"
        stub.parent.mkdir()
        stub.write_text(f"#!/bin/sh\n{'exec sleep 60' if what == 'git hangs' else 'exit 128'}\n")
        stub.chmod(0o755)
        monkeypatch.setattr("nanogpt_compat.system.checkout._TIMEOUT_S", 0.2)
        folders = [] if what == "no git" else [str(stub.parent), os.environ["PATH"]]
        monkeypatch.setenv("PATH", os.pathsep.join(folders))
    assert notice_unignored(root, [path]) == ""


def test_variables_of_a_hook_do_not_mislead_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_text(root / "a.txt", 100)
    monkeypatch.setenv("GIT_DIR", str(root / "nowhere"))
    monkeypatch.setenv("GIT_WORK_TREE", "/")
    assert "git does not ignore a.txt in" in notice_unignored(root, [path])


def test_git_is_started_no_more_often_for_many_files(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub, log = tmp_path / "bin" / "git", tmp_path / "starts"
    stub.parent.mkdir()
    stub.write_text(f'#!/bin/sh\necho start >> {shlex.quote(str(log))}\nexec {tool("git")} "$@"\n')
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(stub.parent), os.environ["PATH"]]))
    paths = [root / f"{k}.txt" for k in range(500)]
    for path in paths:
        path.write_text("to be")
    n_starts = []
    for some in (paths[:1], paths):
        log.write_text("")
        assert notice_unignored(root, some)
        n_starts.append(len(log.read_text().split()))
    assert n_starts[0] == n_starts[1] > 0
