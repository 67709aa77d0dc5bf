"""Where documents end: temporary streams next to the tokens.

Each split has one, with an int64 for each document, in order: the number of tokens of the split up to the end
of that document.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.errors import OutputError
from nanogpt_compat.output.layout import Outputs, Shards
from nanogpt_compat.output.token_file import TOKEN
from nanogpt_compat.system.checksum import crc32

END = np.dtype("<i8")
_CHUNK_BYTES = 64 * 1024


def ends_stream(split: str) -> str:
    """Return the name of the stream with the ends of the documents of a split."""
    return f"{split}.ends"


def lay_out_ends(outputs: Outputs) -> Outputs:
    """Return the streams with the ends for a layout in which one file holds each split; see `TokenFiles`."""
    return {
        ends_stream(split): Shards(shards.folder, f"{shards.word}.ends") for split, shards in outputs.items()
    }


def n_ends(tokens: Mapping[str, int], split: str) -> int:
    """Return the number of documents of a split, from the length of each stream."""
    return tokens[ends_stream(split)] * TOKEN.itemsize // END.itemsize


def read_ends(path: Path) -> Iterator[NDArray[np.int64]]:
    """Yield the ends of documents from a file, 8,192 at a time."""
    try:
        with path.open("rb") as file:
            while data := file.read(_CHUNK_BYTES):
                yield np.frombuffer(data, END).astype(np.int64, copy=False)
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror}") from error


class EndsReader:
    """Reads the ends of documents from a file, in order; holds 64 KiB and what it returns."""

    def __init__(self, file: BinaryIO) -> None:
        self.n_ends = 0  # read so far
        self.crc = 0  # the CRC-32 of these
        self._file = file
        self._ahead = np.empty(0, END)

    def up_to(self, n_tokens: int) -> NDArray[np.int64]:
        """Return the next ends that are at most `n_tokens`, `(n,) int64`."""
        parts = []
        while True:
            n_taken = int(np.searchsorted(self._ahead, n_tokens, side="right"))
            parts.append(self._ahead[:n_taken])
            self._ahead = self._ahead[n_taken:]
            if len(self._ahead):
                break
            try:
                data = self._file.read(_CHUNK_BYTES)
            except OSError as error:
                raise OutputError(f"cannot read {self._file.name}: {error.strerror}") from error
            if not data:
                break
            self.crc = crc32(data, self.crc)
            self._ahead = np.frombuffer(data, END, len(data) // END.itemsize)
            self.n_ends += len(self._ahead)
        return np.concatenate(parts).astype(np.int64, copy=False)
