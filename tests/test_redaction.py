"""No secret leaves the process: neither in its output and files nor in error texts of libraries."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from nanogpt_compat.input.location import Url
from nanogpt_compat.system.redaction import hide, learn, learn_all, redact, redact_record
from tests.conftest import REPOSITORY
from tests.faults import Args, command, make_text
from tests.servers import Server, serve

pytestmark = pytest.mark.costly

USER, PASSWORD, SIGNATURE = "somebody", "Geheim/42 word", "SIGNATURE0123"
# A secret in every form in which it might be printed: one part is enough to find it.
TRACES = re.compile(r"Geheim|42(?:%20| |\+)word|SIGNATURE0123|VARIABLE0123")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://me:x@h/a?k=v", "https://...@h/a?..."),
        ("https://ghp_0123456789@h/a", "https://...@h/a"),
        ("https://me:p@ss@h/a", "https://...@h/a"),
        ("https://me:p?ss#w@h/a", "https://...@h/a"),
        ("HTTPS://h/a#b", "HTTPS://h/a?..."),
        ("https://h:8080/a@b/c", "https://h:8080/a@b/c"),
        ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
        ("s3://KEY:se/cr+et@bucket/a.txt", "s3://...@bucket/a.txt"),
        ("s3://bucket/part-?.txt", "s3://bucket/part-?.txt"),
        ("s3://bucket/a.txt?versionId=1", "s3://bucket/a.txt?..."),
        ("hf://datasets/some/set@main/a.txt", "hf://datasets/some/set@main/a.txt"),
        ("abfs://container@account.host/a", "abfs://container@account.host/a"),
        ("abfs://name:word@account.host/a", "abfs://...@account.host/a"),
        ("github://org:repository@main/a", "github://org:repository@main/a"),
        ("zip://a.txt::https://me:word@h/b.zip?c=d", "zip://a.txt::https://...@h/b.zip?..."),
    ],
)
def test_an_address_is_shown_without_its_secrets(address: str, shown: str) -> None:
    assert hide(address) == shown == str(Url(address))
    assert redact(f"cannot read {address}, sorry") == f"cannot read {shown}, sorry"
    assert address not in repr(Url(address))


@pytest.mark.parametrize(
    "word", ["Geheim/42", "a%20bit%2Fof", "p'q\"rst", "gr\xfc\xdfe vom Meer", "back\\slash", "x+y=z&"]
)
def test_a_secret_is_found_in_every_form_that_a_library_may_quote(word: str) -> None:
    learn(f"--input=https://somebody:{word}@host/a.txt")
    plain = {word, word.replace("%20", " ").replace("%2F", "/")}
    for secret in plain:
        encoded = base64.b64encode(f"somebody:{secret}".encode()).decode()
        percent = quote(secret, safe="")
        lower = re.sub("%..", lambda match: match[0].lower(), percent)
        for form in (secret, percent, lower, repr(secret)[1:-1]):
            assert redact(f"so: {form} and more") == "so: ... and more"
        assert encoded.rstrip("=") not in redact(f"Authorization: Basic {encoded}")
        assert json.dumps(secret)[1:-1] not in json.dumps(redact_record({"why": f"so: {secret}!"}))


def test_the_part_of_a_key_before_its_slash_is_found() -> None:
    learn("s3://AKIA0123:SEC/RET0123456@bucket/a")
    assert redact('Invalid bucket name "AKIA0123:SEC": no') == 'Invalid bucket name "...": no'


def test_short_values_and_ordinary_words_blank_nothing() -> None:
    learn_all(
        ["https://me:abc@host/a.txt?x=1&format=parquet&sig=ab", "--n=3"],
        {
            "TIKTOKEN_CACHE_DIR": "/tmp/some-folder",
            "HOME_KEY": "/tmp",
            "TOKEN": "short",
            "A": "0123456789abc",
        },
    )
    text = "me, abc, x=1, parquet, ab, a.txt, /tmp/some-folder, short, 0123456789abc"
    assert redact(text) == text


def test_the_name_of_a_file_in_its_own_query_is_no_secret() -> None:
    learn("https://host/part-00000-of-00128.parquet?filename=part-00000-of-00128.parquet")
    assert redact("read part-00000-of-00128.parquet") == "read part-00000-of-00128.parquet"


def test_keys_in_the_environment_are_secrets() -> None:
    names = ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "AZURE_STORAGE_KEY", "GH_TOKEN"]
    names += ["AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_CLIENT_SECRET", "FTP_PASSWORD"]
    learn_all([], {name: f"value-of-{name}" for name in names})
    for name in names:
        assert redact(f"{name}=value-of-{name}") == f"{name}=..."
    learn_all(
        [],
        {
            "https_proxy": "http://someone:proxypass@proxy:3128",
            "AZURE_STORAGE_CONNECTION_STRING": "AccountName=a;AccountKey=0123456789==;EndpointSuffix=b",
        },
    )
    assert redact("proxypass and 0123456789==") == "... and ..."


def test_words_of_the_program_stay_unchanged_in_records_that_it_reads_back() -> None:
    for word in ("train", "spread", "documents"):
        learn(f"https://me:{word}@host/a")
    record = {"val_split": "spread", "files": [{"name": "train.bin", "tokens": 1}], "documents": None}
    assert redact_record(record) == record
    assert redact("the password is spread") == "the password is ..."


# From here on: runs.


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    with serve(tmp_path / "served") as server:
        yield server


def secret_address(served: Server, name: str, extra: str = "") -> str:
    user = f"{USER}:{quote(PASSWORD, safe='')}@"
    return served.url(name).replace("://", f"://{user}") + f"?signature={SIGNATURE}{extra}"


def run(tmp_path: Path, *args: str | Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run the program, and search its output and its files for secrets."""
    done = subprocess.run(
        command(*args, every_bytes=20_000),
        cwd=tmp_path,
        env=os.environ | {"AWS_SECRET_ACCESS_KEY": "VARIABLE0123"} | env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert_no_traces(tmp_path, done)
    return done


def assert_no_traces(tmp_path: Path, done: "subprocess.CompletedProcess[str]") -> None:
    assert not TRACES.search(done.stdout + done.stderr), done.stdout + done.stderr
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.suffix != ".bin" and "served" not in path.parts:
            assert not TRACES.search(path.read_bytes().decode("latin-1")), path
        assert not TRACES.search(path.name)


def options(served: Server, tmp_path: Path, extra: str = "") -> Args:
    address = secret_address(served, "a.txt", extra)
    return ("--input", address, "--output-dir", tmp_path / "out", "--engine", "tiktoken")


def test_a_run_its_dry_run_its_resume_and_its_verification_keep_the_secrets(
    served: Server, tmp_path: Path
) -> None:
    make_text(served.folder / "a.txt", 400_000, n_invalid=10)
    args = options(served, tmp_path)
    assert run(tmp_path, *args, "--dry-run").returncode == 0
    killed = subprocess.run(
        command(*args, at="fdatasync journal", skip=3, every_bytes=20_000),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert killed.returncode == -9
    assert (tmp_path / "out" / ".prepare" / "journal").stat().st_size
    assert_no_traces(tmp_path, killed)
    done = run(tmp_path, *args)
    assert done.returncode == 0
    assert "resuming at" in done.stderr
    assert run(tmp_path, *args, "--verify").returncode == 0
    assert (
        f"://...@{served.base.partition('//')[2]}/a.txt?..."
        in (tmp_path / "out" / "prepare.json").read_text()
    )


@pytest.mark.parametrize("how", ["403", pytest.param("500", marks=pytest.mark.slow)])
def test_a_run_that_fails_keeps_the_secrets(served: Server, tmp_path: Path, how: str) -> None:
    make_text(served.folder / "a.txt", 100_000)
    served.fails_from, served.how = 1, how
    served.retry_after = ""
    assert run(tmp_path, *options(served, tmp_path)).returncode == 3
    assert run(tmp_path, *options(served, tmp_path), "--workers", "-1").returncode == 2
    assert run(tmp_path, "--work-dir", *options(served, tmp_path)[1:2], "--merge").returncode in (2, 3, 6)


def test_ranks_a_local_cluster_and_a_merge_keep_the_secrets(served: Server, tmp_path: Path) -> None:
    """Two addresses that differ only in their secrets are two inputs, each read with its own secret."""
    make_text(served.folder / "a.txt", 300_000, seed=1)
    make_text(served.folder / "b.txt", 300_000, seed=2)
    served.by_query = True
    first, second = (secret_address(served, "get", f"&token={one}.txt") for one in "ab")
    common: Args = ("--engine", "tiktoken", "--val-split", "none")
    whole: Args = ("--input", served.folder / "a.txt", served.folder / "b.txt", *common)
    assert run(tmp_path, *whole, "--output-dir", tmp_path / "one").returncode == 0
    for k, how in enumerate((("--cluster", "local", "--workers", "2"), ("--rank", "0", "--world-size", "1"))):
        out = tmp_path / f"many-{k}"
        args: Args = ("--input", first, second, *common, "--output-dir", out)
        args = (*args, "--work-dir", tmp_path / f"work-{k}", "--span-size", "100k")
        done = run(tmp_path, *args, *how)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"work-{k}" / "plan.json").exists()
        assert (tmp_path / f"work-{k}" / "index.json").exists()
        merged = run(tmp_path, *args, "--merge")
        assert merged.returncode == 0, merged.stderr
        assert (out / "train.bin").read_bytes() == (tmp_path / "one" / "train.bin").read_bytes()
    args = (*common, "--output-dir", tmp_path / "swapped", "--work-dir", tmp_path / "work", "--rank", "9")
    assert run(tmp_path, "--input", first, second, *args, "--world-size", "10").returncode == 0
    done = run(tmp_path, "--input", second, first, *args, "--world-size", "10")
    assert done.returncode == 5
    assert "has different content than before" in done.stderr


def test_spans_that_fail_are_reported_without_secrets(served: Server, tmp_path: Path) -> None:
    make_text(served.folder / "a.txt", 300_000)
    args = (*options(served, tmp_path), "--work-dir", tmp_path / "work", "--val-split", "none")
    assert run(tmp_path, *args, "--rank", "9", "--world-size", "10").returncode == 0  # makes the plan
    served.fails_from, served.how = served.n_requests + 2, "404"
    done = run(tmp_path, *args, "--cluster", "local")
    assert done.returncode in (3, 6)


CRASH = """
import logging, sys, threading, warnings
from nanogpt_compat import cli, resolve
from nanogpt_compat.input import find

def fail(patterns, home, val_patterns):
    logging.getLogger("some.library").warning("lost %s", patterns[0])
    handler = logging.StreamHandler()
    logging.getLogger("another").addHandler(handler)
    logging.getLogger("another").warning("shown %s", patterns[0])
    warnings.warn("odd " + patterns[0][-20:])
    thread = threading.Thread(target=lambda: 1 / len(patterns[9:]), name=patterns[0])
    thread.start()
    thread.join()
    print("printed", patterns[0])
    raise RuntimeError(f"bad thing: {patterns[0]!r}; {patterns[0].partition('@')[0]}")

resolve.find_inputs = fail
cli.main(sys.argv[1:])
"""


def test_a_crash_a_warning_and_a_log_are_printed_without_secrets(served: Server, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CRASH, *map(str, options(served, tmp_path))],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert_no_traces(tmp_path, done)
    assert "RuntimeError: bad thing: " in done.stderr
    assert "shown http" in done.stderr
    assert "UserWarning: odd " in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert "printed http" in done.stdout
    assert "lost" not in done.stderr
