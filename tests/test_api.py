"""From Python: the same files as from the command line, nothing printed, and errors that can be caught."""

import json
import logging
import os
import re
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import tiktoken

import nanogpt_compat
from nanogpt_compat import api, options
from tests.faults import lasting, make_text, report_of, run, sha256s
from tests.reference import whole_tokens

ROOT = Path(__file__).parent.parent
# Options without a parameter: locations, modes that make no files, and many machines.
ELSEWHERE = {
    "--input",
    "--output-dir",
    "--dry-run",
    "--verify",
    "--check",
    "--inspect",
    "--at",
    "--quiet",
    "--progress",
    "--version",
    "--help",
}
FOR_MANY = {"--cluster", "--rank", "--world-size", "--merge", "--work-dir", "--span-size"}


def python(code: str, *args: str | Path, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run a program of a user, who has `nanogpt_compat` imported."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys, nanogpt_compat\n{code}", *map(str, args)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_call_makes_the_files_and_the_report_of_the_command_line(tmp_path: Path) -> None:
    text = make_text(tmp_path / "a.txt", 300_000, n_invalid=3)
    made = nanogpt_compat.prepare(text, tmp_path / "called", val_ratio=0.2, errors="replace", workers=1)
    words = ["--val-ratio", "0.2", "--errors", "replace", "--workers", "1"]
    done = run("--input", text, "--output-dir", tmp_path / "typed", *words)
    assert done.returncode == 0, done.stderr
    assert sha256s(tmp_path / "called") == sha256s(tmp_path / "typed")
    assert made == report_of(tmp_path / "called")
    assert lasting(made) == lasting(report_of(tmp_path / "typed"))


def test_several_inputs_are_read_in_order_whatever_their_names(tmp_path: Path) -> None:
    names = ["b.txt", "-n.txt", "two words.txt", "a.txt"]
    for name in names:
        (tmp_path / name).write_text(f"{name} and more\n" * 2000)
    code = "import json; print(json.dumps(nanogpt_compat.prepare(sys.argv[1:], 'out')['inputs']))"
    done = python(code, *names, cwd=tmp_path)
    assert done.stderr == ""
    assert [Path(one["path"]).name for one in json.loads(done.stdout)] == names


@pytest.mark.costly
def test_nothing_is_printed_unless_asked_for(tmp_path: Path) -> None:
    make_text(tmp_path / "a.txt", 20_000, n_invalid=3)  # with notices and a warning
    code = "nanogpt_compat.prepare('a.txt', sys.argv[1], verbose=len(sys.argv) > 2)"
    silent = python(code, "silent", cwd=tmp_path)
    assert (silent.returncode, silent.stdout, silent.stderr) == (0, "", "")
    loud = python(code, "loud", "please", cwd=tmp_path)
    assert (loud.returncode, loud.stdout) == (0, "")
    assert "train.bin: " in loud.stderr
    assert "not UTF-8" in loud.stderr


def test_messages_go_to_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "nanogpt_compat")
    text = make_text(tmp_path / "a.txt", 20_000)
    nanogpt_compat.prepare(text, tmp_path / "out", val_ratio=0)
    assert any("train.bin: " in record.getMessage() for record in caplog.records)
    assert "".join(f"{record.levelname}\n" for record in caplog.records).strip("INFO\n") == ""
    (tmp_path / "out" / "val.bin").touch()  # from an older script
    nanogpt_compat.prepare(text, tmp_path / "out", val_ratio=0, shard_tokens=5000)
    assert any("val.bin" in one.getMessage() for one in caplog.records if one.levelname == "WARNING")


@pytest.mark.costly
def test_it_works_in_a_thread_and_leaves_signals_and_streams_alone(tmp_path: Path) -> None:
    make_text(tmp_path / "a.txt", 100_000)
    code = """
import signal, threading
def state():
    return [signal.getsignal(n) for n in signal.valid_signals()], sys.stdout, sys.stderr, sys.excepthook
before, made = state(), []
def prepare(k):
    made.append(nanogpt_compat.prepare("a.txt", f"out{k}"))
threads = [threading.Thread(target=prepare, args=(k,)) for k in (0, 1)]
[one.start() for one in threads]
[one.join() for one in threads]
assert made[0]["tokens"] == made[1]["tokens"]
assert state() == before
assert threading.active_count() == 1
"""
    done = python(code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert sha256s(tmp_path / "out0") == sha256s(tmp_path / "out1")


@pytest.mark.costly
def test_a_second_call_leaves_complete_output_as_it_is(tmp_path: Path) -> None:
    text = make_text(tmp_path / "a.txt", 50_000)
    first = nanogpt_compat.prepare(text, tmp_path / "out")
    inode = (tmp_path / "out" / "train.bin").stat().st_ino
    assert nanogpt_compat.prepare(text, tmp_path / "out") == first
    assert (tmp_path / "out" / "train.bin").stat().st_ino == inode
    again = nanogpt_compat.prepare(text, tmp_path / "out", overwrite=True, restart=True)
    assert again["tokens"] == first["tokens"]
    assert (tmp_path / "out" / "train.bin").stat().st_ino != inode


@pytest.mark.costly
def test_an_interrupted_call_has_saved_its_work_and_the_next_one_resumes(tmp_path: Path) -> None:
    make_text(tmp_path / "a.txt", 600_000)
    expected = nanogpt_compat.prepare(tmp_path / "a.txt", tmp_path / "expected", workers=1, block_size=20_000)
    # Ctrl-C as soon as there is a checkpoint.
    code = """
import os, signal
from nanogpt_compat.resume.checkpoint import Checkpointer
import nanogpt_compat.resume.checkpoint as checkpoint
checkpoint.EVERY_OUTPUT_BYTES = 40_000
settle = Checkpointer._settle
def interrupt(self):
    settle(self)
    if self.saved.n_tokens and not os.path.exists("interrupted"):
        open("interrupted", "w").close()
        os.kill(os.getpid(), signal.SIGINT)
Checkpointer._settle = interrupt
try:
    nanogpt_compat.prepare("a.txt", "out", workers=1, block_size=20_000)
except KeyboardInterrupt:
    print("interrupted")
made = nanogpt_compat.prepare("a.txt", "out", workers=1, block_size=20_000)
print(made["resumes"], made["tokens"])
"""
    done = python(code, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout == f"interrupted\n1 {expected['tokens']}\n"
    assert sha256s(tmp_path / "out") == sha256s(tmp_path / "expected")


@pytest.mark.parametrize(
    ("inputs", "given", "exit_code", "text"),
    [
        ("missing.txt", {}, 3, "missing.txt not found"),
        ([], {}, 2, "inputs is empty"),
        ("a.txt", {"val_rato": 0.1}, 2, "did you mean val_ratio?"),
        ("a.txt", {"dry_run": True}, 2, "there is no option 'dry_run' here"),
        ("a.txt", {"val_ratio": 2}, 2, "'2' is not a ratio"),
        ("a.txt", {"engine": True}, 2, "--engine"),
        ("a.txt", {"max_memory": "10M"}, 78, "smallest"),
        ("a.txt", {"text_field": "content"}, 2, "no effect"),
    ],
)
def test_errors_are_raised_with_the_exit_code(
    tmp_path: Path,
    inputs: str | list[str],
    given: dict[str, object],
    exit_code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_text(tmp_path / "a.txt", 20_000)
    with pytest.raises(nanogpt_compat.PrepareError, match=re.escape(text)) as caught:
        nanogpt_compat.prepare(inputs, "out", **given)  # type: ignore[arg-type]  # which is the point
    assert caught.value.exit_code == exit_code


@pytest.mark.costly
def test_the_command_that_an_error_offers_does_what_the_call_would_have_done(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_bytes(
        "Les \xe9l\xe8ves \xe9taient l\xe0, tr\xe8s press\xe9s.\n".encode("cp1252") * 800
    )
    # The program is next to the package, and has arguments of its own.
    (tmp_path / "train.py").write_text(
        "import nanogpt_compat\nnanogpt_compat.prepare('old.txt', 'my data', val_ratio=0.1)"
    )
    (tmp_path / "nanogpt_compat").symlink_to(ROOT / "nanogpt_compat")
    done = subprocess.run(
        [sys.executable, "train.py", "--epochs", "3"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    (command,) = re.findall(r"^    (.*iconv.*)$", done.stderr, re.MULTILINE)[:1]
    assert "train.py" not in command
    assert subprocess.run(["bash", "-c", command], cwd=tmp_path, check=False).returncode == 0
    assert report_of(tmp_path / "my data")["options"]["val_ratio"] == 0.1


@pytest.mark.costly
def test_no_error_shows_a_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    address = "http://me:hush-hush@127.0.0.1:9/a.txt?sig=abcdef0123456789"
    with pytest.raises(nanogpt_compat.PrepareError) as caught:
        nanogpt_compat.prepare(address, tmp_path)
    text = "".join([*traceback.format_exception(caught.value), *(one.getMessage() for one in caplog.records)])
    assert "127.0.0.1:9" in text
    assert "hush-hush" not in text
    assert "abcdef0123456789" not in text


@pytest.mark.costly
@pytest.mark.parametrize("separator", ["\\n", "\n\n", "--", "\\"])
def test_a_separator_is_taken_as_it_is(tmp_path: Path, separator: str) -> None:
    documents = [f"One document, {k}." for k in range(5)]
    (tmp_path / "a.txt").write_text(separator.join(documents))
    made = nanogpt_compat.prepare(tmp_path / "a.txt", tmp_path / "out", document_separator=separator)
    assert made["documents"] == 5
    assert made["options"]["separator"] == separator


def test_counting_gives_what_would_be_written_and_writes_nothing(
    tmp_path: Path, gpt2: tiktoken.Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = make_text(tmp_path / "a.txt", 300_000, n_invalid=2)
    lines = tmp_path / "b.jsonl"
    lines.write_text("".join(json.dumps({"content": f"A story, {k}."}) + "\n" for k in range(100)))
    before = sorted(tmp_path.iterdir())
    assert nanogpt_compat.count_tokens(text) == len(whole_tokens(text, gpt2))
    n_tokens = nanogpt_compat.count_tokens(lines, text_field="content")
    assert n_tokens == sum(len(gpt2.encode_ordinary(f"A story, {k}.")) + 1 for k in range(100))
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(nanogpt_compat.PrepareError, match="no option 'format'"):
        nanogpt_compat.count_tokens(text, format="npy")  # type: ignore[call-arg]  # counting has no format


@pytest.mark.costly
def test_counting_falls_back_to_tiktoken_if_the_engine_errs(
    tmp_path: Path, gpt2: tiktoken.Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gigatoken")

    text = tmp_path / "a.txt"
    text.write_text("A wrong word is here, quite often.\n" * 20_000)
    code = f"sys.path.insert(0, {str(ROOT)!r})\nfrom tests.driver import err_at\nerr_at(b'wrong')\n"
    done = python(f"{code}print(nanogpt_compat.count_tokens('a.txt', engine='gigatoken'))", cwd=tmp_path)
    assert done.stderr == ""
    assert int(done.stdout) == len(whole_tokens(text, gpt2))


def test_each_option_of_the_command_line_is_one_of_a_call_or_known_not_to_be() -> None:
    known = {one for action in options._parser("")._actions for one in action.option_strings if len(one) > 2}
    ours = {f"--{name.replace('_', '-')}" for name in api.PrepareOptions.__optional_keys__}
    assert known == ours | ELSEWHERE | FOR_MANY


def test_the_package_imports_nothing_heavy_until_it_is_used(tmp_path: Path) -> None:
    done = python(
        "print({'numpy', 'tiktoken', 'argparse'} & set(sys.modules), dir(nanogpt_compat))", cwd=tmp_path
    )
    assert done.stdout.startswith("set()")
    assert all(name in done.stdout for name in nanogpt_compat.__all__)
    with pytest.raises(AttributeError, match="no attribute 'tokenise'"):
        _ = nanogpt_compat.tokenise
