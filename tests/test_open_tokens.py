"""`open_tokens` reads every form of token file, and reports what it found in any other file."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiktoken

from nanogpt_compat.errors import OutputError
from nanogpt_compat.output.open import open_tokens
from tests.paragraphs import LANGUAGES
from tests.test_shards import llmc_bytes, npy_bytes, raw_bytes

IDS = [464, 3290, 50256, 0, 13, *range(1000, 1100)]


def in_npy_version(path: Path, version: tuple[int, int]) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array(file, np.array(IDS, "<u2"), version=version)


FORMS: dict[str, Callable[[Path], object]] = {
    "raw": lambda path: path.write_bytes(raw_bytes(IDS)),
    "npy": lambda path: path.write_bytes(npy_bytes(IDS)),
    "npy 2.0": lambda path: in_npy_version(path, (2, 0)),
    "npy 3.0": lambda path: in_npy_version(path, (3, 0)),
    "llmc": lambda path: path.write_bytes(llmc_bytes(IDS)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_and_cannot_be_written(form: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    FORMS[form](path)
    before = path.read_bytes()
    tokens = open_tokens(path)
    assert isinstance(tokens, np.memmap)
    assert tokens.dtype == np.uint16
    assert tokens.tolist() == IDS
    assert open_tokens(str(path))[-3:].tolist() == IDS[-3:]
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1
    assert path.read_bytes() == before


def test_a_single_token_is_enough(tmp_path: Path) -> None:
    (tmp_path / "one.bin").write_bytes(raw_bytes([50256]))
    assert open_tokens(tmp_path / "one.bin").tolist() == [50256]


def saved(array: object) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, np.asarray(array))

    return write


def written(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


WIDE = list(range(40_000, 40_100))
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda _: None, "there is no file"),
    "a folder": (lambda path: path.mkdir(), "is a folder"),
    "a pipe": (os.mkfifo, "is a pipe or a device"),
    "no bytes": (written(b""), "holds no tokens: it has 0 bytes"),
    "half a token": (written(raw_bytes(IDS)[:-1]), "209 bytes, and tokens take two each"),
    "uint32, raw": (written(np.array(WIDE, "<u4").tobytes()), "32 bits"),
    "uint32 of a large vocabulary": (written(np.array([*WIDE, 151_000], "<u4").tobytes()), "32 bits"),
    "int64, raw": (written(np.array(WIDE, "<i8").tobytes()), "64 bits"),
    "int64": (saved(np.array(IDS)), "holds <i8 of shape (105,), and a token file holds <u2"),
    "uint32": (saved(np.array(IDS, "<u4")), "holds <u4"),
    "the other byte order": (saved(np.array(IDS, ">u2")), "holds >u2"),
    "a matrix": (saved(np.zeros((3, 4), "<u2")), "of shape (3, 4)"),
    "objects": (saved(np.array([{}])), "holds |O"),
    "npy, cut off": (
        written(npy_bytes(IDS)[:-2]),
        "its header says 105 tokens, so 338 bytes, and it has 336",
    ),
    "npy, too long": (written(npy_bytes(IDS) + b"ab"), "and it has 340"),
    "npy, without an end of its header": (written(npy_bytes(IDS)[:40]), "NumPy cannot read its header"),
    "npy, damaged": (written(npy_bytes(IDS)[:6] + b"\x09\x00" + npy_bytes(IDS)[8:]), "NumPy cannot read"),
    "llmc, cut off": (written(llmc_bytes(IDS)[:-2]), "its header says 105 tokens, so 1,234 bytes"),
    "llmc, too long": (written(llmc_bytes(IDS) + b"ab"), "and it has 1,236"),
    "llmc, of a negative number": (written(llmc_bytes([])[:8] + b"\xff" * 4 + b"\0" * 1012), "-1 tokens"),
    "Llama's of llm.c": (written(np.array([20240801, 7, 5] + [0] * 253, "<i4").tobytes()), "Llama 3"),
    "an index": (written(b"MMIDIDX\0\0" + b"\0" * 33), "index"),
    "text": (written(LANGUAGES["German"].text.encode()), "looks like text"),
    "text that ends in half a character": (
        written(LANGUAGES["German"].text.encode()[:500].rpartition(b"\xc3")[0] + b"\xc3"),
        "looks like text",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_other_files_are_refused_with_what_was_found(what: str, tmp_path: Path) -> None:
    make, message = REFUSED[what]
    path = tmp_path / "it"
    make(path)
    with pytest.raises(OutputError) as refused:
        open_tokens(path)
    assert message in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_folder_is_refused_with_the_name_of_a_token_file_in_it(tmp_path: Path) -> None:
    (tmp_path / "train.bin").write_bytes(raw_bytes(IDS))
    (tmp_path / "a.txt").touch()
    with pytest.raises(OutputError, match=r"such as .*/train\.bin"):
        open_tokens(tmp_path)


def test_real_tokens_of_any_language_are_neither_text_nor_wide(
    tmp_path: Path, gpt2: tiktoken.Encoding
) -> None:
    path = tmp_path / "train.bin"
    for language in LANGUAGES.values():
        ids = gpt2.encode_ordinary(language.text)
        path.write_bytes(raw_bytes(ids))
        assert open_tokens(path).tolist() == ids


@pytest.mark.parametrize("phrase", [" green", " green!", "!", " a!", " of the green"])
def test_a_repeated_phrase_is_neither_text_nor_wide(
    phrase: str, tmp_path: Path, gpt2: tiktoken.Encoding
) -> None:
    ids = gpt2.encode_ordinary(phrase * 5000)
    (tmp_path / "train.bin").write_bytes(raw_bytes(ids))
    assert open_tokens(tmp_path / "train.bin").tolist() == ids
