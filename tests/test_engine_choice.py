"""Which engine a run gets, and that the output does not depend on it."""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from itertools import product
from pathlib import Path

import pytest
import tiktoken

from nanogpt_compat.encoders import choose
from nanogpt_compat.encoders.choose import Choice, choose_encoder, is_tested, needed_bytes
from nanogpt_compat.encoders.fast import GigatokenEncoder
from nanogpt_compat.encoders.reference import TiktokenEncoder
from nanogpt_compat.errors import UsageError
from tests.conftest import REPOSITORY
from tests.engines import NAMES
from tests.faults import Args, Stopped, make_text, prepare, report_of, sha256s

pytestmark = pytest.mark.costly

ENOUGH = 1 << 40


def chosen(engine: str, gpt2: tiktoken.Encoding, *, spare_bytes: int = ENOUGH) -> Choice:
    return choose_encoder(engine, gpt2, n_workers=2, own_bytes=lambda: 0, spare_bytes=spare_bytes)


def test_auto_takes_gigatoken_where_it_is_installed(gpt2: tiktoken.Encoding) -> None:
    for engine in ("auto", "gigatoken"):
        choice = chosen(engine, gpt2)
        assert isinstance(choice.encoder, GigatokenEncoder)
        version, reference = choice.encoder.version, tiktoken.__version__
        assert choice.line == f"engine: gigatoken {version}, checked against tiktoken {reference} as it goes"
        assert is_tested(version)


def test_tiktoken_is_taken_when_it_is_asked_for(gpt2: tiktoken.Encoding) -> None:
    choice = chosen("tiktoken", gpt2)
    assert isinstance(choice.encoder, TiktokenEncoder)
    assert choice.line == f"engine: tiktoken {tiktoken.__version__}"


def test_auto_does_not_take_a_version_that_was_not_tested(
    gpt2: tiktoken.Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "version", lambda _name: "0.11.2")
    choice = chosen("auto", gpt2)
    assert isinstance(choice.encoder, TiktokenEncoder)
    assert (
        "gigatoken 0.11.2 is installed, but only 0.10 was tested; --engine gigatoken uses it anyway"
        in choice.line
    )
    assert isinstance(chosen("gigatoken", gpt2).encoder, GigatokenEncoder)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.10.0", True),
        ("0.10", True),
        ("0.10.7.post1", True),
        ("0.1", False),
        ("0.100.0", False),
        ("", False),
    ],
)
def test_a_version_is_known_by_its_first_two_numbers(version: str, expected: bool) -> None:
    assert is_tested(version) == expected


def test_auto_does_not_take_it_where_its_memory_cannot_be_had(gpt2: tiktoken.Encoding) -> None:
    choice = chosen("auto", gpt2, spare_bytes=needed_bytes(2) - 1)
    assert isinstance(choice.encoder, TiktokenEncoder)
    assert choice.line.endswith("; gigatoken needs 159 MB more memory, but only 159 MB is available")
    assert "but only 0 bytes is available" in chosen("auto", gpt2, spare_bytes=-5).line
    assert isinstance(chosen("auto", gpt2, spare_bytes=needed_bytes(2)).encoder, GigatokenEncoder)
    assert isinstance(chosen("gigatoken", gpt2, spare_bytes=0).encoder, GigatokenEncoder)


def test_without_it_auto_names_its_benefit_and_asking_for_it_is_an_error(
    gpt2: tiktoken.Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_found(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(choose, "version", not_found)
    assert "gigatoken, many times as fast, is not installed" in chosen("auto", gpt2).line
    with pytest.raises(UsageError, match="it is not installed"):
        chosen("gigatoken", gpt2)


# The program if it is not installed, or broken


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder with all installed packages except gigatoken."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for place in map(Path, sys.path):
        if place.name in ("site-packages", "dist-packages") and place.is_dir():
            for one in place.iterdir():
                if not one.name.lower().startswith("gigatoken") and not (folder / one.name).exists():
                    (folder / one.name).symlink_to(one)
    return folder


def install(folder: Path, *, version: str, code: str) -> None:
    (folder / "gigatoken").mkdir()
    (folder / "gigatoken" / "__init__.py").write_text(code)
    (folder / f"gigatoken-{version}.dist-info").mkdir()
    metadata = f"Metadata-Version: 2.1\nName: gigatoken\nVersion: {version}\n"
    (folder / f"gigatoken-{version}.dist-info" / "METADATA").write_text(metadata)


def prepare_with(packages: Path, *args: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run prepare.py with these packages and no others."""
    return subprocess.run(
        [sys.executable, "-S", str(REPOSITORY / "prepare.py"), *map(str, args)],
        env=os.environ | {"PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_program_without_it_names_the_benefit_of_installing_it(packages: Path, tmp_path: Path) -> None:
    text = make_text(tmp_path / "text.txt", 200_000)
    done = prepare_with(packages, "--input", text, "--output-dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("engine: "))
    plain = f"engine: tiktoken {tiktoken.__version__}"
    assert line == f"{plain}; gigatoken, many times as fast, is not installed:"
    assert f"\n    {sys.executable} -m pip install 'gigatoken==0.10.*'\n" in done.stderr
    report = report_of(tmp_path / "out")
    assert (report["engine"], report["versions"]["gigatoken"]) == ("tiktoken", "not installed")
    assert report["engine_checked_slices"] == 0
    refused = prepare_with(packages, "--input", text, "--output-dir", tmp_path / "o", "--engine", "gigatoken")
    assert refused.returncode == 2
    assert refused.stderr == (
        "prepare: error: --engine gigatoken: it is not installed; give --engine auto, or install it:\n"
        f"    {sys.executable} -m pip install 'gigatoken==0.10.*'\n"
    )
    assert prepare("--input", text, "--output-dir", tmp_path / "fast").returncode == 0
    assert report_of(tmp_path / "fast")["engine"] == "gigatoken"
    assert sha256s(tmp_path / "fast") == sha256s(tmp_path / "out")


@pytest.mark.parametrize(
    "code",
    [
        "raise ImportError('libwhatever.so: cannot open shared object file')",
        "raise OSError('of another architecture')",
        "",
        "class Tokenizer: from_tiktoken = None",
        "class Tokenizer:\n def from_tiktoken(*_, **__): return None",
        "class PanicException(BaseException): pass\nraise PanicException('index out of bounds')",
        "class Tokenizer:\n def from_tiktoken(*_, **__): raise RuntimeError('no such ranks')",
    ],
)
def test_one_that_is_broken_is_not_taken(code: str, packages: Path, tmp_path: Path) -> None:
    install(packages, version="0.10.1", code=code)
    text = make_text(tmp_path / "text.txt", 20_000)
    done = prepare_with(packages, "--input", text, "--output-dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "; gigatoken 0.10.1 is installed, but fails: " in done.stderr
    assert report_of(tmp_path / "out")["engine"] == "tiktoken"
    refused = prepare_with(packages, "--input", text, "--output-dir", tmp_path / "o", "--engine", "gigatoken")
    assert refused.returncode == 2
    assert "--engine gigatoken: version 0.10.1 fails: " in refused.stderr


# Output that does not depend on it


def test_the_output_is_the_same_whatever_the_engine_the_workers_and_the_blocks(tmp_path: Path) -> None:
    text = make_text(tmp_path / "text.txt", 300_000, n_invalid=20)
    made = {}
    for engine, n_workers, block_size in product(NAMES, (1, 2, 3, 4), ("900", "20000", "64KiB", "4MiB")):
        out = tmp_path / f"{engine} {n_workers} {block_size}"
        options: Args = ("--engine", engine, "--workers", str(n_workers), "--block-size", block_size)
        done = prepare("--input", text, "--output-dir", out, "--val-ratio", "0.1", *options)
        assert done.returncode == 0, done.stderr
        assert report_of(out)["engine"] == engine
        made[out.name] = sha256s(out)
    expected = made[f"{NAMES[0]} 1 900"]
    assert len(expected) == 2
    assert {name: files for name, files in made.items() if files != expected} == {}


@pytest.mark.parametrize("engines", [NAMES, NAMES[::-1]], ids=" then ".join)
def test_a_stopped_run_resumes_with_the_other_engine(engines: tuple[str, str], tmp_path: Path) -> None:
    inputs = [make_text(tmp_path / f"{k}.txt", 400_000, seed=k, n_invalid=20) for k in range(2)]
    args: Args = ("--input", *inputs, "--block-size", "20000", "--val-ratio", "0.1")
    assert prepare(*args, "--output-dir", tmp_path / "expected").returncode == 0
    for k, stop_after_bytes in enumerate((150_000, 350_000, 600_000)):
        with pytest.raises(Stopped):
            prepare(
                *(*args, "--output-dir", tmp_path / "out", "--engine", engines[k % 2]),
                stop_after_bytes=stop_after_bytes,
            )
    done = prepare(*args, "--output-dir", tmp_path / "out", "--engine", engines[1])
    assert done.returncode == 0, done.stderr
    assert sha256s(tmp_path / "out") == sha256s(tmp_path / "expected")
    report = report_of(tmp_path / "out")
    assert report["resumes"] == 3
    assert report["engine_mismatch"] == ""
    assert report["tokens"] == report_of(tmp_path / "expected")["tokens"]
