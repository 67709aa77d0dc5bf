"""Inputs in S3, on a real server: the output is that of local files, and final errors end the run at once."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import faults
from tests.conftest import REPOSITORY
from tests.faults import Args, make_text, report_of, sha256s
from tests.object_store import Store, open_refusing_store, open_store
from tests.test_records import some_documents, write

pytestmark = pytest.mark.costly

pytest.importorskip("moto")
pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with open_store(tmp_path_factory.mktemp("store")) as store:
        store.put("texts")
        store.put("empty")
        yield store


@pytest.fixture
def in_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Return the store, for programs that are started from here."""
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    return store


def run(*args: str | Path, **settings: Any) -> "subprocess.CompletedProcess[str]":
    return faults.run(*args, every_bytes=40_000, **settings)


def refused(*args: str | Path) -> str:
    """Run the program, which must be refused at the first try; return the message."""
    done = run("--input", *args, "--dry-run")
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "trying again" not in done.stderr
    assert "times in a row" not in done.stderr
    assert "when the server answers" not in done.stderr
    assert "hf auth" not in done.stderr
    return done.stderr


def make(folder: Path, kind: str) -> Path:
    if kind == "txt":
        return make_text(folder / "a.txt", 700_000, n_invalid=10)
    return write(folder, kind, some_documents()[:150])


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", ["txt", "jsonl.gz", "parquet"])
def test_an_object_makes_the_output_of_the_file_also_after_a_kill(
    kind: str, in_store: Store, tmp_path: Path
) -> None:
    path = make(tmp_path, kind)
    in_store.put(f"texts/some folder/{path.name}", path.read_bytes())
    common: Args = ("--val-ratio", "0.05", "--engine", "tiktoken")
    assert run("--input", path, "--output-dir", tmp_path / "local", *common).returncode == 0
    args: Args = ("--input", f"s3://texts/some folder/{path.name}", "--output-dir", tmp_path / "out", *common)
    killed = run(*args, at="fdatasync journal", skip=2, do="SIGKILL")
    assert killed.returncode == -9, killed.stderr
    done = run(*args)
    assert done.returncode == 0, done.stderr
    assert "resuming at" in done.stderr
    assert sha256s(tmp_path / "out") == sha256s(tmp_path / "local")
    assert report_of(tmp_path / "out")["tokens"] == report_of(tmp_path / "local")["tokens"]


def test_an_object_that_is_replaced_while_it_is_read_ends_the_run(in_store: Store, tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 9_000_000)
    in_store.put("texts/changing.txt", path.read_bytes())
    args: Args = ("--input", "s3://texts/changing.txt", "--output-dir", tmp_path / "out")
    process = faults.start(*args, "--block-size", "50K", at="encode text", do="SIGSTOP")
    faults.wait_until_stopped(process)
    in_store.put("texts/changing.txt", make_text(path, 9_000_000, seed=1).read_bytes())
    done = faults.let_finish(process)
    assert done.returncode == 3, done.stderr
    assert "s3://texts/changing.txt was changed while it was read" in done.stderr


LIST = """
import json, sys
from nanogpt_compat.errors import PrepareError
from nanogpt_compat.input.find import find_inputs

def found(pattern):
    try:
        return [str(one) for one in find_inputs([pattern], home=None).inputs]
    except PrepareError as error:
        return str(error)

print(json.dumps([found(pattern) for pattern in sys.argv[1:]]))
"""


def listed(*patterns: str) -> list[str | list[str]]:
    """Return the inputs that addresses stand for."""
    done = subprocess.run(
        [sys.executable, "-c", LIST, *patterns],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found: list[str | list[str]] = json.loads(done.stdout)
    return found


def test_folders_globs_and_a_bucket_are_the_objects_in_them(in_store: Store) -> None:
    in_store.put("sets")
    in_store.put("sets/a/")  # like a folder made in the consoles of S3 and MinIO
    in_store.put("sets/hollow/")
    for name in ("a/p10.jsonl", "a/p2.jsonl", "a/sub dir/p1.jsonl", "a/[x].jsonl", "a/notes.md"):
        in_store.put(f"sets/{name}", b'{"text": "some text"}\n')
    inside = ["a/[x].jsonl", "a/p2.jsonl", "a/p10.jsonl", "a/sub dir/p1.jsonl"]
    everything = [f"s3://sets/{name}" for name in inside]
    results = listed(
        *("s3://sets/a", "s3://sets/a/", "S3://sets/a", "s3://sets", "s3://sets/**/*.jsonl"),
        *("s3://sets/a/p*.jsonl", "s3://sets/a/p?.jsonl", "s3://sets/a/[x].jsonl", "s3a://sets/a/p2.jsonl"),
        *("s3://sets/hollow", "s3://empty", "s3://empty/", "s3://sets/a/*.txt", "s3://", "s3:///"),
    )
    assert results[:5] == [everything] * 5
    assert results[5:9] == [everything[1:3], everything[1:2], everything[:1], ["s3a://sets/a/p2.jsonl"]]
    assert results[9:12] == [
        f"{place} is empty: there is no file in it"
        for place in ("s3://sets/hollow", "s3://empty", "s3://empty/")
    ]
    assert results[12] == "no file matches s3://sets/a/*.txt"
    assert results[13:] == [f"{place} names no file, folder or bucket" for place in ("s3://", "s3:///")]


ACCESS = "give credentials by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, by AWS_PROFILE"


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("address", "environment", "message"),
    [
        ("s3://nowhere/a.txt", {}, "s3://nowhere/a.txt not found (404 NoSuchBucket: "),
        ("s3://nowhere", {}, "s3://nowhere not found (404 Not Found)"),
        ("s3://texts/nothing.txt", {}, "s3://texts/nothing.txt not found ("),
        ("s3://a bucket/a.txt", {}, 'Invalid bucket name "a bucket"'),
        ("s3://KEY0123:sec/ret+word@texts/a.txt", {}, "s3://...@texts/a.txt: credentials in the address"),
        ("s3://texts/a.txt", {"AWS_ACCESS_KEY_ID": ""}, f"NoCredentialsError: Unable to locate.*{ACCESS}"),
        ("s3://texts/a.txt", {"AWS_SECRET_ACCESS_KEY": ""}, f"PartialCredentialsError: .*{ACCESS}"),
        ("s3://texts/a.txt", {"AWS_PROFILE": "none"}, f"ProfileNotFound: .*{ACCESS}"),
        ("s3://texts/a.txt", {"FSSPEC_S3_ANON": "true"}, rf"access denied \(403 .*{ACCESS}"),
        ("s3://texts/a.txt", {"AWS_ENDPOINT_URL": "127.0.0.1:9"}, "Invalid endpoint: .*AWS_ENDPOINT_URL"),
    ],
)
def test_final_errors_are_reported_at_once(
    address: str,
    environment: dict[str, str],
    message: str,
    in_store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_store.put("texts/a.txt", b"some text\n")
    for name, value in environment.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    stderr = refused(address, "--output-dir", tmp_path)
    pattern = message if ".*" in message else re.escape(message)
    assert re.search(pattern, stderr), stderr
    assert not re.search("KEY0123|sec/ret|ret.word|KEYOFTHETESTS", stderr)


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, "ExpiredToken", "access denied (400 ExpiredToken: as told); get new credentials"),
        (400, "AuthorizationHeaderMalformed", "400 AuthorizationHeaderMalformed: as told; check the name"),
        (301, "PermanentRedirect", "the server redirects every request; check the name of the bucket"),
        (403, "SignatureDoesNotMatch", f"(403 SignatureDoesNotMatch: as told); {ACCESS}"),
        (403, "RequestTimeTooSkewed", "set the clock of this machine"),
        (405, "MethodNotAllowed", "405 MethodNotAllowed: as told"),
        (501, "NotImplemented", "501 NotImplemented: as told"),
    ],
)
def test_a_final_answer_is_requested_once(
    status: int, code: str, message: str, in_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_refusing_store(status, code) as refusing:
        monkeypatch.setenv("AWS_ENDPOINT_URL", refusing.base)
        stderr = refused("s3://texts/a.txt", "--output-dir", tmp_path)
    assert message in stderr
    assert (
        len(set(refusing.requests)) == len(refusing.requests) or status == 301
    )  # botocore asks for the region


def test_a_missing_server_is_soon_given_up_and_the_wait_is_shown(
    in_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    done = run("--input", "s3://texts/a.txt", "--output-dir", tmp_path)
    assert done.returncode == 3
    assert re.search(
        "notice: s3://texts/a.txt: EndpointConnectionError: .*; trying again in 2 s", done.stderr
    )
    assert re.search(r"cannot read s3://texts/a.txt, [2-4] times in a row: EndpointConn", done.stderr)
    assert "AWS_ENDPOINT_URL" in done.stderr
    quiet = run("--input", "s3://texts/a.txt", "--output-dir", tmp_path, "--quiet")
    assert "trying again" not in quiet.stderr


def test_a_busy_server_is_asked_again(
    in_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_refusing_store(503, "SlowDown") as busy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", busy.base)
        process = faults.start("--input", "s3://texts/a.txt", "--output-dir", tmp_path, "--dry-run")
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "notice: s3://texts/a.txt: 503 SlowDown: as told; trying again in 2 s" in line
        busy.status, busy.code = 404, "NoSuchKey"
        _, message = process.communicate(timeout=faults.TIMEOUT_S)
    assert process.returncode == 3
    assert "s3://texts/a.txt not found" in message


SCHEMES = """
import json, sys
from fsspec.registry import known_implementations
from nanogpt_compat.errors import InputError
from nanogpt_compat.input import server
from nanogpt_compat.input.find import find_inputs
from nanogpt_compat.input.open import open_input

server._WAITS_S = (0.01,)
found = {}
for scheme in sorted({*known_implementations} - {"gs", "gcs"}):  # which try for a minute by themselves
    for address in (f"{scheme}://host.invalid/folder/a.txt", f"{scheme.upper()}://a.txt"):
        try:
            for one in find_inputs([address], home=None).inputs:
                open_input(one)
            found[address] = "it was found"
        except InputError as error:
            found[address] = str(error)
print(json.dumps(found))
"""


def test_no_scheme_that_fsspec_knows_ends_in_a_traceback(in_store: Store) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCHEMES],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) > 60
    for address, message in found.items():
        assert re.search(EXPECTED, message), (address, message)


EXPECTED = (
    "not found|not installed; install|be opened by|cannot read|denied|not an addr|leads through|names no"
)
