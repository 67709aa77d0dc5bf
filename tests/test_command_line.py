"""The command line as a language: inputs without an option, mistakes and suggestions, and the help."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, RunPrepare
from tests.faults import make_text, report_of, sha256s

pytestmark = pytest.mark.costly


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder with a.txt, b.txt, stories/c1.txt, stories/c10.txt, stories/c2.txt and -d.txt."""
    (tmp_path / "stories").mkdir()
    for k, name in enumerate(
        ("a.txt", "b.txt", "stories/c1.txt", "stories/c10.txt", "stories/c2.txt", "-d.txt")
    ):
        make_text(tmp_path / name, 5_000, seed=k)
    return tmp_path


def inputs_of(folder: Path) -> list[str]:
    return [one["path"] for one in report_of(folder)["inputs"]]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["b.txt", "a.txt"], ["b.txt", "a.txt"]),
        (["--quiet", "b.txt", "--n", "1", "a.txt"], ["b.txt", "a.txt"]),
        (["stories/*.txt", "a.txt"], ["stories/c1.txt", "stories/c2.txt", "stories/c10.txt", "a.txt"]),
        (
            ["b.txt", "--input", "stories", "--n=1", "a.txt"],
            ["b.txt", "stories/c1.txt", "stories/c2.txt", "stories/c10.txt", "a.txt"],
        ),
        (["--input=b.txt", "a.txt"], ["b.txt", "a.txt"]),
        (["a.txt", "--", "-d.txt", "b.txt"], ["a.txt", "-d.txt", "b.txt"]),
    ],
)
def test_inputs_need_no_option_and_are_read_in_the_order_of_the_command_line(
    words: list[str], expected: list[str], run_prepare: RunPrepare, texts: Path
) -> None:
    done = run_prepare("--val-split", "none", "--output-dir", "out", *words)
    assert done.returncode == 0, done.stderr
    assert inputs_of(texts / "out") == expected
    same = [word for name in expected for word in (f"--input={name}",)]
    assert run_prepare(*same, "--val-split", "none", "--output-dir", "same").returncode == 0
    assert sha256s(texts / "out") == sha256s(texts / "same")


def test_standard_input_needs_no_option_either(texts: Path) -> None:
    command = f"cat a.txt | {sys.executable} {REPOSITORY}/prepare.py --output-dir out --val-split none -"
    subprocess.run(["bash", "-c", command], cwd=texts, check=True, capture_output=True)
    assert inputs_of(texts / "out") == ["standard input"]


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        ("verify", 2, "verify is not a file; did you mean --verify?"),
        ("\u2014dry-run", 2, "\\u2014dry-run is not a file; did you mean --dry-run?"),
        ("\u2013input a.txt", 2, "did you mean --input?"),
        ("-input a.txt", 2, "unrecognized arguments: -input; did you mean --input?"),
        ("-help", 2, "unrecognized arguments: -help; did you mean --help?"),
        ("--input h", 3, "h not found in"),
        ("-n=3", 2, "did you mean --n?"),
        ("--quite a.txt", 2, "did you mean --quiet?"),
        ("--val_ratio 0.1 a.txt", 2, "did you mean --val-ratio?"),
        ("--OUTPUT-DIR x a.txt", 2, "did you mean --output-dir?"),
        ("--format nyp a.txt", 2, "did you mean npy?"),
        ("--errors ingore a.txt", 2, "did you mean ignore?"),
        ("--val-split documnts a.txt", 2, "did you mean documents?"),
        ("--progress JSON a.txt", 2, "did you mean json?"),
        ("--text-field -x a.txt", 2, "one that begins with a dash is given as --text-field=NAME)"),
        ("storeis", 3, "did you mean stories?"),
        ("--input storeis/c1.txt", 3, "did you mean stories/c1.txt?"),
        (
            "storeis/c*.txt",
            3,
            "no file matches 'storeis/c*.txt' (current folder: {}); did you mean 'stories/c*.txt'?",
        ),
        ("stories/*.txtt", 3, "did you mean 'stories/*.txt'?"),
        ("a.txt a.txt", 3, "a.txt is given twice"),
    ],
)
def test_a_mistake_gets_a_suggestion(
    words: str, exit_code: int, message: str, run_prepare: RunPrepare, texts: Path
) -> None:
    if "/" in words:
        (texts / "stores").mkdir()  # a more similar name than `stories`, but without the file
    done = run_prepare("--output-dir", "out", *words.split())
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert message.format(texts) in done.stderr
    assert not (texts / "out").exists()


@pytest.mark.parametrize(
    "words", ["--verbose a.txt", "--format parquet a.txt", "--text-field --dry-run", "zzz", "zzz/*.txt", "-3"]
)
def test_words_like_no_other_get_no_guess(words: str, run_prepare: RunPrepare, texts: Path) -> None:
    done = run_prepare("--output-dir", "out", *words.split())
    assert done.returncode in (2, 3)
    assert "did you mean" not in done.stderr
    assert "is given as" not in done.stderr


def test_a_file_with_the_name_of_an_option_is_a_file(run_prepare: RunPrepare, texts: Path) -> None:
    (texts / "a.txt").rename(texts / "verify")
    done = run_prepare("verify", "--output-dir", "out")
    assert done.returncode == 0, done.stderr
    assert inputs_of(texts / "out") == ["verify"]


# --help


def script(folder: Path) -> Path:
    """Write the script that pip makes for the entry point."""
    path = folder / "nanogpt-prepare"
    path.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from nanogpt_compat.__main__ import start\nsys.exit(start())\n"
    )
    path.chmod(0o755)
    return path


def shown(*command: str | Path, cwd: Path, columns: int = 80) -> str:
    done = subprocess.run(
        ["env", f"COLUMNS={columns}", f"PYTHONPATH={REPOSITORY}", *map(str, command)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


def helps(tmp_path: Path, columns: int = 80) -> dict[str, str]:
    """Return the help of each way to start the program."""
    ways = {
        "python prepare.py": (sys.executable, REPOSITORY / "prepare.py"),
        "python -m nanogpt_compat": (sys.executable, "-m", "nanogpt_compat"),
        "nanogpt-prepare": (script(tmp_path),),
    }
    return {name: shown(*way, "--help", cwd=tmp_path, columns=columns) for name, way in ways.items()}


def test_each_way_to_start_it_names_itself_and_its_folder(tmp_path: Path) -> None:
    found = helps(tmp_path)
    for name, text in found.items():
        assert text.startswith(f"usage: {name} [INPUT ...] [OPTION ...]\n")
        others = [other for other in ("prepare.py", "nanogpt_compat", "nanogpt-prepare") if other not in name]
        assert not any(other in text for other in others)
        examples = re.findall(r"^    (.+)$", text.split("examples:")[1].split("exit codes:")[0], re.MULTILINE)
        assert len(examples) == 6
        assert all(f"{name} " in example for example in examples)
        assert ("next to prepare.py" in text) == (name == "python prepare.py")
        assert ("in the current folder" in " ".join(text.split())) == (name != "python prepare.py")


@pytest.mark.parametrize("columns", [50, 80, 100])
def test_the_help_is_wrapped_to_the_terminal_and_no_option_is_broken(columns: int, tmp_path: Path) -> None:
    text = helps(tmp_path, columns)["python prepare.py"]
    options = text.split("examples:\n")[0]
    lines = [line for line in text.splitlines() if not re.match(r"    \S*python |    zcat ", line)]
    assert all(len(line) <= columns for line in lines if "{" not in line), max(lines, key=len)
    assert sum(len(line) > columns - 20 for line in lines) > 20  # and not to less
    assert not re.search(r"-$", options, re.MULTILINE)
    wide = helps(tmp_path, 1000)["python prepare.py"]
    assert " ".join(text.split()) == " ".join(wide.split())


def test_every_option_with_a_value_ends_with_its_default(tmp_path: Path) -> None:
    text = helps(tmp_path, 1000)["python prepare.py"].split("examples:\n")[0]
    described = re.findall(r"^  (--[a-z-]+)( \S.*?)?(?:  +|\n +)(\S.*)$", text, re.MULTILINE)
    assert len(described) > 25
    for option, value, words in described:
        if value:
            assert re.search(r" \(default: [^()]*\)$", words), option
        assert words.count("(default") <= 1
        assert words[0].islower()


def test_commands_in_messages_start_the_program_as_it_was_started(tmp_path: Path) -> None:
    make_text(tmp_path / "a.txt", 5_000_000)
    path = script(tmp_path)
    command = ("env", f"PYTHONPATH={REPOSITORY}", path, "a.txt", "--dry-run", "--output-dir", "out")
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, check=True)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("    "))
    assert line == f"    {path} --input a.txt --output-dir out --val-ratio 0.1"


# --quiet


def test_quiet_keeps_warnings_and_drops_notices(run_prepare: RunPrepare, texts: Path) -> None:
    (texts / "out").mkdir()
    (texts / "out" / "meta.pkl").touch()
    args = ("a.txt", "--output-dir", "out", "--quiet")
    for more in ((), ("--overwrite",)):
        done = run_prepare(*args, *more)
        assert done.returncode == 0
        assert all(line.startswith(("warning: ", "    ")) for line in done.stderr.splitlines())
        assert "warning: out/meta.pkl is from another dataset" in done.stderr
        assert "warning: val.bin has " in done.stderr
    many = ("a.txt", "--output-dir", "many", "--quiet", "--work-dir", "work")
    assert run_prepare(*many, "--rank", "0", "--world-size", "1").stderr == ""
    merged = run_prepare(*many, "--merge")
    assert (merged.returncode, merged.stderr.startswith("warning: val.bin has ")) == (0, True), merged.stderr
    assert run_prepare(*args, "--verify").stderr == ""
