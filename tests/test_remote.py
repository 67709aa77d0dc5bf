"""Inputs on a server: the output is that of a file, despite faults of the server, and little else is read."""

import base64
import gzip
import json
import random
import re
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import fsspec
import huggingface_hub
import huggingface_hub.constants
import pyarrow
import pyarrow.parquet
import pytest

from nanogpt_compat.errors import InputError
from nanogpt_compat.input import remote
from nanogpt_compat.input import server as server_module
from nanogpt_compat.input.find import find_inputs
from nanogpt_compat.input.location import Url
from nanogpt_compat.input.open import open_input
from tests import faults
from tests.conftest import REPOSITORY
from tests.faults import Args, Outcome, Stopped, make_text, prepare, report_of, sha256s
from tests.servers import Server, serve
from tests.test_records import some_documents, write

pytestmark = pytest.mark.costly

VAL: Args = ("--val-ratio", "0.05")
KINDS = ("txt", "txt.gz", "documents", "jsonl", "jsonl.gz", "jsonl.zst", "parquet")


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serve a folder, to a reader that waits only briefly before it tries again."""
    monkeypatch.setattr(server_module, "_WAITS_S", (0.01,) * 6)
    (tmp_path / "served").mkdir()
    with serve(tmp_path / "served") as server:
        yield server


def make(folder: Path, kind: str) -> tuple[str, Args]:
    """Make an input; return its name and its options."""
    if kind == "txt.gz":
        text = make_text(folder.parent / "part.txt", 3_000_000, n_invalid=10).read_bytes()
        (folder / "part.txt.gz").write_bytes(gzip.compress(text, 1))
        return "part.txt.gz", VAL
    if kind in ("txt", "documents"):
        make_text(folder / "part.txt", 700_000, n_invalid=10)
        return "part.txt", (*VAL, *(("--document-separator", r"\n") if kind == "documents" else ()))
    return write(folder, kind, some_documents()[:150]).name, VAL


def input_of(served: Server, name: str) -> Args:
    return "--input", served.url(name)


def lasting(folder: Path) -> dict[str, Any]:
    """Return the part of a report that does not depend on the input's place, nor on stops."""
    found = faults.lasting(report_of(folder))
    found["inputs"] = [one | {"path": None} for one in found["inputs"]]
    found["invalid_offsets"] = [offset for _, offset in found["invalid_offsets"]]
    return found


@pytest.fixture
def same(tmp_path: Path) -> Callable[[str, Args], Callable[[Path], None]]:
    """Make the output of a local file; return a function that compares another output with it."""

    def make_it(name: str, options: Args) -> Callable[[Path], None]:
        done = prepare("--input", tmp_path / "served" / name, "--output-dir", tmp_path / "local", *options)
        assert done.returncode == 0, done.stderr

        def compare(folder: Path) -> None:
            assert sha256s(folder) == sha256s(tmp_path / "local")
            assert lasting(folder) == lasting(tmp_path / "local")

        return compare

    return make_it


Same = Callable[[str, Args], Callable[[Path], None]]


@pytest.mark.sample(3)
@pytest.mark.parametrize("kind", KINDS)
def test_the_output_is_that_of_the_file(kind: str, served: Server, same: Same, tmp_path: Path) -> None:
    name, options = make(served.folder, kind)
    compare = same(name, options)
    options = (*input_of(served, name), "--output-dir", tmp_path / "out", *options)
    assert prepare(*options).returncode == 0
    compare(tmp_path / "out")
    assert "already complete" in prepare(*options).stderr
    assert prepare(*options, "--verify").returncode == 0


@pytest.mark.sample(6)
@pytest.mark.parametrize("how", ["500", "503", "429", "reset", "short", "less"])
@pytest.mark.parametrize("kind", ["txt", "jsonl.gz", "parquet"])
def test_failed_requests_are_repeated(
    kind: str, how: str, served: Server, same: Same, tmp_path: Path
) -> None:
    name, options = make(served.folder, kind)
    compare = same(name, options)
    served.how, served.fails_every = how, 3
    done = prepare("--input", served.url(name), "--output-dir", tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    compare(tmp_path / "out")


@pytest.mark.sample(3)
@pytest.mark.parametrize("how", ["500", "reset", "short"])
@pytest.mark.parametrize("kind", ["txt", "jsonl.gz", "parquet"])
def test_a_server_that_fails_for_good_ends_the_run_and_it_resumes_later(
    kind: str, how: str, served: Server, same: Same, tmp_path: Path
) -> None:
    name, options = make(served.folder, kind)
    compare = same(name, options)
    options = (
        *input_of(served, name),
        "--output-dir",
        tmp_path / "out",
        "--block-size",
        "100K",
        *options,
    )
    assert prepare(*options, "--dry-run").returncode == 0
    served.fails_from, served.how = served.n_requests + 4, how
    done = prepare(*options)
    assert done.returncode == 3
    assert re.search(rf"cannot read {served.url(name)} at byte [\d,]+, 7 times in a row: ", done.stderr)
    assert {"500": "500 Internal Server Error", "reset": "ServerDisconnected|reset", "short": "payload"}[how]
    served.fails_from = 1 << 60
    done = prepare(*options)
    assert done.returncode == 0, done.stderr
    compare(tmp_path / "out")


def run(served: Server, name: str, out: Path, *options: str) -> Outcome:
    return prepare("--input", served.url(name), "--output-dir", out, *options)


@pytest.mark.parametrize("kind", ["txt", "parquet"])
def test_a_slow_server_only_takes_longer(kind: str, served: Server, same: Same, tmp_path: Path) -> None:
    name, options = make(served.folder, kind)
    compare = same(name, options)
    served.bytes_per_s = 1_000_000
    done = prepare(*input_of(served, name), "--output-dir", tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    compare(tmp_path / "out")


def test_final_errors_are_not_tried_again(served: Server, tmp_path: Path) -> None:
    make_text(served.folder / "a.txt", 100_000)
    done = run(served, "b.txt", tmp_path)
    assert done.returncode == 3
    assert f"{served.url('b.txt')} not found (404 Not Found)" in done.stderr
    served.fails_every, served.how = 1, "403"
    served.forget()
    done = run(served, "a.txt", tmp_path)
    assert done.returncode == 3
    assert (
        f"{served.url('a.txt')}: access denied (403 Forbidden); a signed address may have expired"
        in done.stderr
    )
    assert served.n_requests == 1


def test_a_servers_retry_after_is_obeyed(
    served: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    class Recorder(Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout or 0)
            return super().wait(0)

    monkeypatch.setattr(server_module, "Event", Recorder)
    make_text(served.folder / "a.txt", 100_000)
    served.fails_every, served.how, served.retry_after = 2, "503", "7"
    assert run(served, "a.txt", tmp_path).returncode == 0
    assert set(waited) == {7.0}
    served.retry_after = "soon"
    waited.clear()
    assert run(served, "a.txt", tmp_path, "--restart", "--overwrite").returncode == 0
    assert set(waited) == {0.01}


def test_a_server_without_parts_or_lengths_is_refused(served: Server, tmp_path: Path) -> None:
    make_text(served.folder / "a.txt", 1_000_000)
    for behaviour in ("has_ranges", "has_length"):
        setattr(served, behaviour, False)
        done = run(served, "a.txt", tmp_path)
        assert done.returncode == 3
        assert "does not report the size of the file, or does not send parts of files" in done.stderr
        setattr(served, behaviour, True)


def test_a_missing_server_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_WAITS_S", ())
    with serve(tmp_path) as server:
        address = server.url("a.txt")
    done = prepare("--input", address, "--output-dir", tmp_path)
    assert done.returncode == 3
    assert f"cannot read {address}: " in done.stderr


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_a_file_that_changes_meanwhile_ends_the_run(kind: str, served: Server, tmp_path: Path) -> None:
    name, options = make(served.folder, kind)

    def change() -> None:
        served.etag = "two"

    options = (*input_of(served, name), "--output-dir", tmp_path / "out", "--block-size", "50K", *options)
    done = prepare(*options, check=change)
    assert done.returncode == 3
    assert f"{served.url(name)} was changed while it was read" in done.stderr


@pytest.mark.parametrize("kind", ["txt", "jsonl.gz", "parquet"])
def test_a_file_that_may_have_changed_since_a_stop_is_read_again(
    kind: str, served: Server, same: Same, tmp_path: Path
) -> None:
    name, options = make(served.folder, kind)
    compare = same(name, options)
    options = (*input_of(served, name), "--output-dir", tmp_path / "out", "--block-size", "50K", *options)
    with pytest.raises(Stopped):
        prepare(*options, stop_after_bytes=(served.folder / name).stat().st_size // 2)
    served.etag = "two"
    done = prepare(*options)
    assert done.returncode == 0, done.stderr
    assert f"{served.url(name)} may have changed: reading" in done.stderr
    compare(tmp_path / "out")


@pytest.mark.sample(3)
@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_resumes_at_the_next_record(
    kind: str, served: Server, same: Same, tmp_path: Path
) -> None:
    name, options = make(served.folder, kind)
    compare = same(name, options)
    n_bytes = (served.folder / name).stat().st_size
    options = (*input_of(served, name), "--output-dir", tmp_path / "out", *options)
    stops = sorted(random.Random(kind).sample(range(1, n_bytes), 3))
    for stop in stops:
        with pytest.raises(Stopped):
            prepare(*options, "--block-size", "50K", stop_after_bytes=stop)
    served.forget()
    done = prepare(*options)
    assert done.returncode == 0
    assert "resuming at" in done.stderr
    compare(tmp_path / "out")


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_the_part_read_before_a_stop_is_not_read_again(kind: str, served: Server, tmp_path: Path) -> None:
    if kind == "txt":
        path = make_text(served.folder / "a.txt", 12_000_000)
    else:
        path = write(served.folder, kind, some_documents() * 4)
    n_bytes = path.stat().st_size
    options: Args = (*input_of(served, path.name), "--output-dir", tmp_path / "out")
    assert prepare(*options, "--dry-run").returncode == 0
    before_bytes = served.n_bytes  # samples
    with pytest.raises(Stopped):
        prepare(*options, "--block-size", "200K", stop_after_bytes=n_bytes * 3 // 4)
    served.forget()
    assert prepare(*options, "--block-size", "200K").returncode == 0
    assert n_bytes // 5 < served.n_bytes - before_bytes < n_bytes // 2


def test_other_columns_are_not_transferred(served: Server, tmp_path: Path) -> None:
    rng = random.Random(0)
    documents = [text for text in some_documents() if len(text) < 10_000][:600]
    columns = {"id": [rng.randbytes(20_000).hex() for _ in documents], "text": documents}
    table = pyarrow.table(columns | {"end": columns["id"]})
    path = served.folder / "part.parquet"
    pyarrow.parquet.write_table(
        table, path, row_group_size=50, compression="none", use_dictionary=False, write_statistics=False
    )
    metadata = pyarrow.parquet.read_metadata(path)
    groups = [metadata.row_group(k).column(1) for k in range(metadata.num_row_groups)]
    text_bytes = sum(group.total_compressed_size for group in groups)
    assert prepare("--input", served.url(path.name), "--output-dir", tmp_path / "out").returncode == 0
    assert text_bytes < served.n_bytes < 2 * text_bytes + 1_500_000 < path.stat().st_size // 10
    ranges = {one[1:] for one in served.ranges}
    starts = [group.data_page_offset for group in groups]
    sizes = [group.total_compressed_size for group in groups]
    assert {(start, start + size) for start, size in zip(starts, sizes, strict=True)} <= ranges


@pytest.mark.parametrize("kind", ["arrow", "feather", "csv", "tsv.gz"])
def test_tables_of_other_formats_are_read_and_resumed_like_files_on_the_disk(
    kind: str, served: Server, tmp_path: Path
) -> None:
    path = write(served.folder, kind, some_documents()[:300])
    same: Args = ("--val-ratio", "0.05", "--block-size", "20000")
    assert prepare("--input", path, "--output-dir", tmp_path / "expected", *same).returncode == 0
    options: Args = ("--input", served.url(path.name), "--output-dir", tmp_path / "out", *same)
    with pytest.raises(Stopped):
        prepare(*options, stop_after_bytes=path.stat().st_size // 2)
    assert prepare(*options).returncode == 0
    assert sha256s(tmp_path / "out") == sha256s(tmp_path / "expected")
    assert report_of(tmp_path / "out")["resumes"] == 1


def test_magic_bytes_decide_if_the_address_has_no_name(served: Server, same: Same, tmp_path: Path) -> None:
    for kind in ("jsonl.gz", "parquet", "arrow"):
        path = write(served.folder, kind, some_documents()[:20])
        address = served.url(path.rename(served.folder / "get").name)
        out = tmp_path / kind
        assert prepare("--input", f"{address}?file=a.txt", "--output-dir", out).returncode == 0
        assert report_of(out)["inputs"][0]["format"] == kind


def test_secrets_in_an_address_are_sent_and_never_printed(served: Server, tmp_path: Path) -> None:
    text = make_text(served.folder / "a.txt", 200_000)
    text.write_bytes(b"one<|endoftext|>two\n" * 10_000)
    address = served.url("a.txt").replace("://", "://me:pass%20word@") + "?signature=hidden&x=1"
    for behaviour in (0, 1, 1 << 60):  # errors: none, from the first request, none
        served.fails_from, served.how = 1 << 60, "500"
        if behaviour:
            served.fails_from = behaviour
        done = prepare("--input", address, "--output-dir", tmp_path / "out", "--restart", "--overwrite")
        assert done.returncode in (0, 3)
        seen = done.stderr + "".join(
            one.read_bytes().decode("latin-1") for one in (tmp_path / "out").rglob("*") if one.is_file()
        )
        assert not re.search("hidden|pass|word", seen)
        assert "://...@127.0.0.1" in seen
    assert base64.b64encode(b"me:pass word").decode() in served.authorizations


def begin(*args: str | Path) -> "subprocess.Popen[str]":
    return faults.start(*args, every_bytes=20_000)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", ["txt", "jsonl.gz", "parquet"])
def test_a_signal_ends_the_wait_for_a_server(
    kind: str, number: signal.Signals, served: Server, same: Same, tmp_path: Path
) -> None:
    name, options = make(served.folder, kind)
    compare = same(name, options)
    options = (*input_of(served, name), "--output-dir", tmp_path / "out", "--block-size", "50K", *options)
    assert prepare(*options, "--dry-run").returncode == 0
    served.hangs_from = served.n_requests * 2 + 2  # after the same requests again, and one that reads
    process = begin(*options)
    assert served.is_hanging.wait(60)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)  # the answer would take 60 s
    assert not served.released.is_set()
    assert process.returncode == -number, stderr
    served.hangs_from = 1 << 60
    assert prepare(*options).returncode == 0
    compare(tmp_path / "out")


def test_any_end_of_a_run_ends_the_wait(served: Server, tmp_path: Path) -> None:
    make_text(served.folder / "a.txt", 3_000_000)
    assert run(served, "a.txt", tmp_path / "out", "--dry-run").returncode == 0
    served.hangs_from = served.n_requests * 2 + 3

    def check() -> None:  # like the check of the memory guard
        if served.is_hanging.is_set():
            raise Stopped

    with pytest.raises(Stopped):
        prepare("--input", served.url("a.txt"), "--output-dir", tmp_path / "out", check=check)
    assert not served.released.is_set()


READ = """
import re, sys, time, zlib
from pathlib import Path
from nanogpt_compat.input.location import Url
from nanogpt_compat.input.open import open_input

crc = offset = 0
with open_input(Url(sys.argv[1])) as file:
    while data := file.read(100_000, offset):
        crc, offset = zlib.crc32(data, crc), offset + len(data)
        if offset % 10_000_000 == 0:
            time.sleep(0.02)  # lets it read ahead as far as it may
print(offset, crc, int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10)
"""


def read_in_a_process(address: str) -> tuple[int, int, int]:
    shown = subprocess.run(
        [sys.executable, "-c", READ, address], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    n_bytes, crc, peak_bytes = map(int, shown.split())
    return n_bytes, crc, peak_bytes


def test_memory_does_not_grow_with_the_file(served: Server) -> None:
    for name, n_bytes in (("small", 200_000), ("large", 400_000_000)):
        with (served.folder / name).open("wb") as file:
            file.truncate(n_bytes)
    _, _, small_bytes = read_in_a_process(served.url("small"))
    n_bytes, crc, large_bytes = read_in_a_process(served.url("large"))
    assert (n_bytes, crc) == (400_000_000, zlib.crc32(bytes(400_000_000)))
    assert large_bytes - small_bytes < 64_000_000  # measured: 35 MB


def test_reading_anywhere_and_in_any_order_gives_the_bytes(
    served: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_FIRST_PIECE_BYTES", 100)
    monkeypatch.setattr(remote, "_PIECE_BYTES", 1_000)
    rng = random.Random(0)
    data = rng.randbytes(20_000)
    (served.folder / "a").write_bytes(data)
    with open_input(Url(served.url("a"))) as file:
        for _ in range(30):
            if rng.random() < 0.5:
                cuts = sorted(rng.sample(range(20_001), 6))
                remote.read_ahead(file, zip(cuts[::2], cuts[1::2], strict=True))
            offset = rng.randrange(20_500)
            for _ in range(rng.randrange(10)):
                n_bytes = rng.choice([0, 1, 50, 300, 5000])
                assert file.read(n_bytes, offset) == data[offset : offset + n_bytes]
                offset += n_bytes + rng.choice([0, 0, 0, 700, -300])
                offset = max(0, offset)


@pytest.fixture
def memory() -> Iterator[Callable[[str, bytes], None]]:
    files = fsspec.filesystem("memory")
    yield lambda name, data: files.pipe_file(name, data)
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def found(*patterns: str) -> list[str]:
    return [str(one) for one in find_inputs(patterns, home=None).inputs]


def test_servers_that_list_files_have_globs_and_folders(memory: Callable[[str, bytes], None]) -> None:
    for name in ("p10.jsonl", "p2.jsonl", "sub/p1.txt.gz", "notes.md", ".hidden.txt", "_tmp/p3.txt"):
        memory(f"/set/{name}", b'{"text": "a"}\n')
    assert found("memory://set/*.jsonl") == ["memory://set/p2.jsonl", "memory://set/p10.jsonl"]
    assert found("memory://set/**/p?.*") == [
        "memory://set/_tmp/p3.txt",
        "memory://set/p2.jsonl",
        "memory://set/sub/p1.txt.gz",
    ]
    for folder in ("memory://set", "memory://set/"):
        listed = find_inputs([folder], home=None)
        assert [str(one) for one in listed.inputs] == [
            "memory://set/p2.jsonl",
            "memory://set/p10.jsonl",
            "memory://set/sub/p1.txt.gz",
        ]
        assert listed.notices == (
            f"notice: {folder}: skipped 3 other entries, 42 bytes (.hidden.txt, _tmp/p3.txt, notes.md)",
        )


def refusal(*patterns: str) -> str:
    with pytest.raises(InputError) as error:
        found(*patterns)
    return str(error.value)


def test_inputs_missing_on_a_server_are_refused(memory: Callable[[str, bytes], None]) -> None:
    memory("/set/a.md", b"a")
    assert "no file matches memory://set/*.txt" in refusal("memory://set/*.txt")
    assert "memory://set has no .txt, .jsonl, .parquet or similar files, only 1 other entry" in refusal(
        "memory://set"
    )
    assert "a web server has no list of its files" in refusal("https://host/a/*.txt")
    assert "a web server has no list of its files" in refusal("https://host/a/")
    assert "is given twice" in refusal("https://host/a?*", "https://host/a?*")
    assert "nosuch://a/b is not an address that can be read" in refusal("nosuch://a/b")


@pytest.mark.parametrize("option", ["--output-dir", "--work-dir", "--vocab-dir"])
def test_only_inputs_may_be_addresses(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = prepare("--input", "a.txt", option, "s3://KEY:word@bucket/folder")
    assert done.returncode == 2
    assert f"argument {option}: 's3://...@bucket/folder' is an address; give a folder of this" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_address_of_a_local_file_is_its_path(tmp_path: Path) -> None:
    path = make_text(tmp_path / "my text.txt", 1000)
    for address in (f"file://{path}", f"FILE://localhost{path}", f"local://{path}", path.as_uri()):
        assert found(address) == [str(path)]
    assert found(f"file://{tmp_path}/*.txt") == found(f"file://{tmp_path}") == [str(path)]


@pytest.mark.parametrize(
    "address",
    ["zip://a.txt::https://h/a.zip", "simplecache::s3://b/a", "filecache::/a/b.txt", "tar://a.txt"],
)
def test_files_are_not_read_through_archives_and_caches(address: str) -> None:
    assert f"{address} leads through an archive or a cache" in refusal(address)


def test_a_wait_for_a_server_is_shown(
    served: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_WAITS_S", (0.001, 0.002, 0.3))
    monkeypatch.setattr(server_module, "_QUIET_WAIT_S", 0.1)
    make_text(served.folder / "a.txt", 100_000)
    served.fails_from, served.how = 1, "503"
    done = run(served, "a.txt", tmp_path)
    assert done.returncode == 3
    notice = f"notice: {served.url('a.txt')}: 503 Service Unavailable; trying again in 0.3 s\n"
    assert done.stderr.startswith(notice)
    assert f"cannot read {served.url('a.txt')} at byte 0, 4 times in a row: 503" in done.stderr
    assert notice not in run(served, "a.txt", tmp_path, "--quiet").stderr


def test_a_server_that_never_answered_is_given_up_sooner(
    served: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_STRANGER_S", 0.0)
    make_text(served.folder / "a.txt", 100_000)
    served.fails_from, served.how = 1, "reset"  # after the reply with the size
    done = run(served, "a.txt", tmp_path)
    assert "a.txt at byte 0, 7 times in a row: " in done.stderr
    assert done.stderr.endswith("; run the same command again when the server answers\n")
    with serve(tmp_path) as server:
        address = server.url("a.txt")
    done = prepare("--input", address, "--output-dir", tmp_path)
    assert f"cannot read {address}: " in done.stderr
    assert "; check the address, or run the same command again when the server answers\n" in done.stderr


def test_addresses_that_differ_only_in_their_queries_are_numbered() -> None:
    assert found("https://h/get?id=1", "https://h/other?id=1", "https://h/get?id=2") == [
        "https://h/get?... (input 1)",
        "https://h/other?...",
        "https://h/get?... (input 3)",
    ]


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pip = f"is not installed; install it with:\n    {sys.executable} -m pip install"
    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert f"the package that reads s3://a/b {pip} fsspec s3fs" in refusal("s3://a/b")
    for scheme, module, package in PACKAGES_OF_SCHEMES:
        monkeypatch.setitem(sys.modules, module, None)
        for name in [one for one in sys.modules if one.startswith("fsspec.implementations.")]:
            monkeypatch.delitem(sys.modules, name)
        assert refusal(f"{scheme}://a/b").endswith(f"{pip} {package}")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    assert f"{pip} fsspec huggingface_hub" in refusal("hf://datasets/a/b/c.parquet")
    assert refusal("sftp://a/b").endswith(f"{pip} fsspec")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(InputError, match="-m pip install fsspec aiohttp"):
        open_input(Url("https://a/b"))


# The package of each scheme by fsspec's list, and the module that is missing without it.
PACKAGES_OF_SCHEMES = [
    ("sftp", "paramiko", "paramiko"),
    ("smb", "smbclient", "smbprotocol"),
    ("webdav", "webdav4", "webdav4"),
    ("dropbox", "dropboxdrivefs", "dropboxdrivefs"),
    ("github", "requests", "requests"),
    ("oci", "ocifs", "ocifs"),
    ("root", "fsspec_xrootd", "fsspec_xrootd"),
    ("tosfs", "tosfs", "tosfs"),
]


def test_a_file_elsewhere_is_read_through_fsspec(
    memory: Callable[[str, bytes], None], tmp_path: Path
) -> None:
    lines = [json.dumps({"text": f"number {k}"}).encode() + b"\n" for k in range(2_000)]
    memory("/set/p1.jsonl", b"".join(lines[:1_000]))
    memory("/set/p2.jsonl", b"".join(lines[1_000:]))
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines))
    assert prepare("--input", "memory://set", "--output-dir", tmp_path / "out").returncode == 0
    assert prepare("--input", tmp_path / "a.jsonl", "--output-dir", tmp_path / "local").returncode == 0
    assert sha256s(tmp_path / "out") == sha256s(tmp_path / "local")


@pytest.fixture
def hub(served: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Imitate the Hub."""
    served.hub_commit = "c0ffee" * 6 + "abcd"
    template = f"{served.base}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", served.base)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    huggingface_hub.HfFileSystem.clear_instance_cache()
    yield served
    huggingface_hub.HfFileSystem.clear_instance_cache()


@pytest.mark.parametrize("what", ["sample/*.parquet", "sample", "sample/", "**/part*"])
def test_a_dataset_on_the_hub_is_read_at_its_current_commit(
    what: str, hub: Server, same: Same, tmp_path: Path
) -> None:
    (hub.folder / "sample").mkdir()
    documents = some_documents()[:300]
    for k, start in ((2, 0), (10, 100), (11, 200)):
        write(hub.folder / "sample", "parquet", documents[start : start + 100], name=f"part-{k}")
    (hub.folder / "README.md").write_text("a note")
    compare = same("sample", VAL)
    out = tmp_path / "out"
    done = prepare("--input", f"hf://datasets/some/set/{what}", "--output-dir", out, *VAL)
    assert done.returncode == 0, done.stderr
    compare(out)
    at = f"hf://datasets/some/set@{hub.hub_commit}/sample"
    names = [one["path"] for one in report_of(out)["inputs"]]
    assert names == [f"{at}/part-{k}.parquet" for k in (2, 10, 11)]
