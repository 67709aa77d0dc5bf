"""Read the tokens of one file, or of many as if they were one, in bounded memory."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.errors import OutputError
from nanogpt_compat.output.open import TokenFile
from nanogpt_compat.output.reader import fill, read_chunks
from nanogpt_compat.output.token_file import TOKEN
from nanogpt_compat.text.documents import END_OF_TEXT

_WHOLE_TOKENS = 32 * 1024 * 1024  # 64 MiB: fewer are all read
# 16 MiB in 64 places: a second on a cold hard disk, and about 1 % precise for a share of 1 in 1,000.
_N_SAMPLES, _SAMPLE_TOKENS = 64, 128 * 1024


class TokenStream:
    """The tokens of some files, in their order. Positions are tokens from the beginning of the first file."""

    def __init__(self, files: Sequence[TokenFile]) -> None:
        self.files = files
        self._starts = [0, *accumulate(one.n_tokens for one in files)]

    @property
    def n_tokens(self) -> int:
        """The number of tokens."""
        return self._starts[-1]

    @property
    def n_bytes(self) -> int:
        """The size of the files, with their headers."""
        return sum(one.n_bytes for one in self.files)

    def place_of(self, position: int) -> tuple[TokenFile, int]:
        """Return the file that a token is in, and its position there."""
        index = bisect_right(self._starts, position) - 1
        return self.files[index], position - self._starts[index]

    def read(self, start: int, end: int) -> NDArray[np.uint16]:
        """Read the tokens `[start, end)`; raise OutputError if a file is unreadable, or shorter by now."""
        found = [np.empty(0, TOKEN)]
        while start < end:
            file, first = self.place_of(start)
            last = min(first + end - start, file.n_tokens)
            found.append(_read(file, first, last))
            start += last - first
        return np.concatenate(found)

    def chunks(self) -> Iterator[tuple[int, NDArray[np.uint16]]]:
        """Yield all tokens in chunks of at most 1 MiB, each with its position, in the same memory."""
        for index, file in enumerate(self.files):
            n_bytes = 0
            for chunk in read_chunks(file.path):
                first = max(0, n_bytes - file.header_bytes) // TOKEN.itemsize
                data = chunk[max(0, file.header_bytes - n_bytes) : file.n_bytes - n_bytes]
                n_bytes += len(chunk)
                if len(data) > 1:
                    tokens = np.frombuffer(data, TOKEN, len(data) // TOKEN.itemsize)
                    yield self._starts[index] + first, tokens
            if n_bytes < file.n_bytes:
                raise _shorter(file, n_bytes)


def _read(file: TokenFile, first: int, last: int) -> NDArray[np.uint16]:
    tokens = np.empty(last - first, TOKEN)
    offset, data = file.header_bytes + first * TOKEN.itemsize, tokens.view(np.uint8).data
    try:
        with file.path.open("rb", buffering=0) as source:
            source.seek(offset)
            n_read = fill(data, source)
    except OSError as error:
        raise OutputError(f"cannot read {file.path} at byte {offset:,}: {error.strerror}") from error
    if n_read < len(data):
        raise _shorter(file, offset + n_read)
    return tokens


def _shorter(file: TokenFile, n_bytes: int) -> OutputError:
    return OutputError(f"{file.path} ends at byte {n_bytes:,}: it has become shorter")


@dataclass(frozen=True, slots=True)
class Survey:
    """Counts of the tokens of a stream."""

    n_seen: int  # all, or those of evenly spread samples
    lowest: int
    highest: int
    n_ends: int  # end-of-text tokens


def survey(stream: TokenStream) -> Survey:
    """Look at all tokens of a stream of up to 64 MiB, or at 64 samples of 256 KiB; there must be one."""
    if stream.n_tokens <= _WHOLE_TOKENS:
        parts = (tokens for _, tokens in stream.chunks())
    else:
        room = stream.n_tokens - _SAMPLE_TOKENS
        starts = (room * k // (_N_SAMPLES - 1) for k in range(_N_SAMPLES))
        parts = (stream.read(start, start + _SAMPLE_TOKENS) for start in starts)
    n_seen = n_ends = highest = 0
    lowest = END_OF_TEXT
    for tokens in parts:
        n_seen += len(tokens)
        lowest, highest = min(lowest, int(tokens.min())), max(highest, int(tokens.max()))
        n_ends += int(np.count_nonzero(tokens == END_OF_TEXT))
    return Survey(n_seen, lowest, highest, n_ends)


def count_documents(stream: TokenStream, eot: str) -> int:
    """Count the documents that begin in a stream, by its end-of-text tokens; reads all of it.

    `eot`: whether each document has its token at the end ("append") or at the beginning ("prepend"). The rest
    after the last appended token counts as a document, too.
    """
    n_ends = sum(int(np.count_nonzero(tokens == END_OF_TEXT)) for _, tokens in stream.chunks())
    is_open = eot == "append" and stream.n_tokens > 0 and not is_end(stream, -1)
    return n_ends + is_open


def find_document(stream: TokenStream, number: int, eot: str) -> tuple[int, int] | None:
    """Return the tokens `[start, end)` of a document, with its end-of-text token; None if there are fewer.

    `number` counts from 0, and `eot` is as for `count_documents`. Reads up to the end of the document.
    """
    # The document is between two end-of-text tokens, numbered from 0; -1 is the beginning.
    before = number - (eot == "append")
    start = 0 if before < 0 else None
    n_ends = 0
    for first, tokens in stream.chunks():
        is_end = tokens == END_OF_TEXT
        n_new = int(np.count_nonzero(is_end))
        if n_ends + n_new > before:
            for place in first + np.flatnonzero(is_end)[max(0, before - n_ends) :][:2]:
                if start is None:
                    start = int(place) + (eot == "append")
                else:
                    return start, int(place) + (eot == "append")
        n_ends += n_new
    if start is None or start == stream.n_tokens:
        return None
    return start, stream.n_tokens


def is_end(stream: TokenStream, position: int) -> bool:
    """Return whether a token is an end-of-text token; -1 is the last one."""
    position %= stream.n_tokens
    return int(stream.read(position, position + 1)[0]) == END_OF_TEXT
