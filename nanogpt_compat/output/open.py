"""Open a finished file of tokens: raw, as NumPy's .npy, or with llm.c's header."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nanogpt_compat.errors import OutputError
from nanogpt_compat.output.layout import LLMC_HEADER_BYTES, count_in_llmc, split_in_name
from nanogpt_compat.output.token_file import TOKEN
from nanogpt_compat.system.units import plural
from nanogpt_compat.text.utf8 import char_start, is_utf8

_HEAD_BYTES = 64 * 1024
_NPY = b"\x93NUMPY"
_OTHERS = {
    struct.pack("<i", 20240801): "holds tokens of Llama 3 as uint32, for llm.c",
    b"MMIDIDX\0": "is an index of Megatron's; the tokens are in the .bin file next to it",
}
_FEW = 32  # with fewer different tokens, what looks like text or uint32 may be a repeated phrase
_MOST_HIGH = 3  # in the upper half of uint32 tokens; the largest vocabularies have 262,144


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A file of tokens: where they begin in it, and how many there are."""

    path: Path
    header_bytes: int
    n_tokens: int

    @property
    def n_bytes(self) -> int:
        """The size of the file."""
        return self.header_bytes + self.n_tokens * TOKEN.itemsize


def open_tokens(path: str | Path) -> "np.memmap[Any, np.dtype[np.uint16]]":
    """Map the tokens of a file into memory, read-only: (n,) uint16, without the file's header.

    It reads raw tokens (nanoGPT's train.bin), .npy (build-nanogpt) and llm.c's .bin. Little of the file is in
    memory: the system reads the parts that are used, and may drop them again.

    Raises:
        OutputError: there is no such file, it is empty or cut off, or holds something else.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.array([15496, 11, 995], "<u2").tofile(f"{folder}/train.bin")
    ...     open_tokens(f"{folder}/train.bin")[-2:].tolist()
    [11, 995]
    """
    file = look_at(Path(path))
    if not file.n_tokens:
        raise OutputError(f"{path} holds no tokens: it has {plural(file.n_bytes, 'byte')}")
    try:
        return np.memmap(file.path, TOKEN, "r", file.header_bytes, (file.n_tokens,))
    except OSError as error:
        raise _unreadable(file.path, error) from error


def look_at(path: Path) -> TokenFile:
    """Read the header of a file of tokens, if it has one, and check that its size fits. 0 tokens are fine."""
    try:
        if path.is_dir():
            names = sorted(one.name for one in path.iterdir() if split_in_name(one.name))
            example = f", such as {path / names[0]}" if names else ""
            raise OutputError(f"{path} is a folder; give the path of a token file{example}")
        if path.exists() and not path.is_file():  # a pipe would wait for its writer
            raise OutputError(f"{path} is a pipe or a device; token files are regular files")
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            if head.startswith(_NPY):
                return _look_at_npy(path, file)
            n_bytes = file.seek(0, 2)
    except OSError as error:
        raise _unreadable(path, error) from error
    n_tokens = count_in_llmc(head)
    if n_tokens is not None:
        return _checked(path, LLMC_HEADER_BYTES, n_tokens, n_bytes)
    if (found := _what_else(head)) is not None:
        raise OutputError(f"{path} {found}; GPT-2's tokens are uint16")
    if n_bytes % TOKEN.itemsize:
        raise OutputError(
            f"{path} has {n_bytes:,} bytes, and tokens take two each: it is cut off, or not a token file"
        )
    return TokenFile(path, 0, n_bytes // TOKEN.itemsize)


def _look_at_npy(path: Path, file: BinaryIO) -> TokenFile:
    """Return the same for a .npy file, whose header NumPy reads in all its versions."""
    n_bytes = file.seek(0, 2)
    file.seek(0)
    try:
        if np.lib.format.read_magic(file) == (1, 0):
            shape, _is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        else:  # version 3 differs from 2 only in the encoding of field names, which tokens do not have
            shape, _is_fortran, dtype = np.lib.format.read_array_header_2_0(file)
    except ValueError as error:
        raise OutputError(f"{path}: NumPy cannot read its header: {error}; make it again") from error
    if dtype != TOKEN or len(shape) != 1:
        raise OutputError(
            f"{path} holds {dtype.str} of shape {shape}, and a token file holds {TOKEN.str} (little-endian "
            "uint16) of shape (n,)"
        )
    return _checked(path, file.tell(), shape[0], n_bytes)


def _checked(path: Path, header_bytes: int, n_tokens: int, n_bytes: int) -> TokenFile:
    """Raise OutputError unless the size of the file fits its header."""
    expected_bytes = header_bytes + n_tokens * TOKEN.itemsize
    if n_tokens < 0 or n_bytes != expected_bytes:
        raise OutputError(
            f"{path}: its header says {plural(n_tokens, 'token')}, so {expected_bytes:,} bytes, and it has "
            f"{n_bytes:,}: it is cut off, or damaged"
        )
    return TokenFile(path, header_bytes, n_tokens)


def _what_else(head: bytes) -> str | None:
    """Return what a file without a known header seems to hold instead of uint16 tokens; None for tokens."""
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            return what
    halves = np.frombuffer(head[: len(head) // 4 * 4], TOKEN)
    if len(np.unique(halves[::2])) < _FEW:
        return None
    if halves[1::2].max() <= _MOST_HIGH < halves[::2].max():  # every second one is the upper half of a token
        is_64 = not halves[2::4].any()
        return f"looks like tokens of {64 if is_64 else 32} bits, such as GPT-NeoX's or Llama's"
    # Text is UTF-8 without zeros; tokens are neither, unless they are very few.
    is_text = b"\0" not in head and is_utf8(head[: char_start(head, len(head) - 1)])
    return "looks like text" if is_text else None


def _unreadable(path: Path, error: OSError) -> OutputError:
    if isinstance(error, FileNotFoundError):
        return OutputError(f"there is no file {path}")
    return OutputError(f"cannot read {path}: {error.strerror}")
