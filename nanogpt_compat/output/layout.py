"""Names, headers and lengths of the output files: shards of equal length, or one file without a limit.

All formats hold the tokens as uint16, little-endian:

    bin   only tokens, as nanoGPT reads them: train.bin, or train_shard_0000.bin, ..., and val.bin
    npy   what np.save writes, as in build-nanogpt's fineweb.py: edufineweb_val_000000.npy, then
          edufineweb_train_000001.npy, ...
    llmc  256 int32, then tokens, as in llm.c's dev/data/data_common.py: fineweb_val_000000.bin, ...

npy and llmc are one stream of tokens, of which the first shard is for validation. With inputs for validation
alone they are two streams, each with a file name for its split; that of train still begins with number 1.
"""

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from nanogpt_compat.errors import OutputError
from nanogpt_compat.output.token_file import TOKEN
from nanogpt_compat.system.units import plural

WORK_FOLDER = ".prepare"
SHARD_TOKENS = 100_000_000  # as in the scripts of both
MAX_LLMC_TOKENS = (2**31 - 1 - 1024) // 2  # llm.c's loader has a shard's size in bytes in an int
FIRST_WORDS = {"npy": "edufineweb", "llmc": "fineweb"}

# Journals and prepare.json have checksums of sections: with another length, their keys need other names.
SECTION_BYTES = 64 << 20
"""A file has a checksum in prepare.json for each section, which locates damage; 1 TB has 15,000 of them."""

ALL = _ENDLESS = 1 << 62  # more than all shards; more tokens than any file has
_SUFFIXES = {"bin": "bin", "npy": "npy", "llmc": "bin"}
_LLMC_MAGIC, _LLMC_VERSION = 20240520, 1
LLMC_HEADER_BYTES = 256 * 4
_SPLIT_IN_NAME = re.compile(r"(.*?)(?:^|_)(train|val)(?:_shard)?(?:_(\d+))?\.(?:bin|npy)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Shards:
    """The files of one stream of tokens. Positions are tokens from the beginning of the stream."""

    folder: Path
    word: str  # the prefix of the names; if endless, the whole name, with links followed
    form: str = "bin"
    shard_tokens: int = _ENDLESS
    n_val: int = 0  # this many shards, from the first on, are for validation
    first_number: int = 0  # in the name of the first shard; not 0 if shards for val are another stream

    @property
    def is_endless(self) -> bool:
        """Whether one file holds all tokens."""
        return self.shard_tokens == _ENDLESS

    def name(self, k: int) -> str:
        """Return the file name of shard `k`.

        >>> Shards(Path(), "fineweb", "llmc", 1000, n_val=1).name(0)
        'fineweb_val_000000.bin'
        """
        if self.is_endless:
            return self.word
        if self.form == "bin":
            return f"{self.word}_shard_{k:04d}.bin"
        return f"{self.word}_{self.split(k)}_{self.first_number + k:06d}.{_SUFFIXES[self.form]}"

    def index(self, name: str) -> int:
        """Return which shard has this name, which must match `pattern`.

        >>> Shards(Path(), "fineweb", "llmc", 1000, first_number=1).index("fineweb_train_000012.bin")
        11
        """
        return int(name.rpartition("_")[2].partition(".")[0]) - self.first_number

    def listed_name(self, k: int) -> str:
        """Return the name of shard `k` in the output folder, where train.bin and val.bin may be links."""
        return f"{self.split(k)}.bin" if self.is_endless else self.name(k)

    def path(self, k: int) -> Path:
        """Return the final path of shard `k`."""
        return self.folder / self.name(k)

    def partial(self, k: int) -> Path:
        """Return the path of shard `k` while unfinished, on the same file system: it is renamed later."""
        return self.folder / WORK_FOLDER / f"{self.name(k)}.partial"

    @property
    def pattern(self) -> re.Pattern[str]:
        """A regex for shard names in this folder, also from runs with other options."""
        if self.is_endless:
            return re.compile(re.escape(self.word))
        middle = r"shard_\d{4,}"
        if self.form != "bin":  # both splits, unless the other split is another stream
            splits = "val" if self.n_val == ALL else "train" if self.first_number else "val|train"
            middle = rf"(?:{splits})_\d{{6,}}"
        return re.compile(rf"{re.escape(self.word)}_{middle}\.{_SUFFIXES[self.form]}", re.ASCII)

    def split(self, k: int) -> str:
        """Return the split of shard `k`."""
        return "val" if k < self.n_val else "train"

    def n_full(self, n_tokens: int) -> int:
        """Return how many shards `n_tokens` fill completely."""
        return n_tokens // self.shard_tokens

    def n_shards(self, n_tokens: int) -> int:
        """Return how many shards hold `n_tokens`; 0 tokens still make one empty shard.

        >>> [Shards(Path(), "train", shard_tokens=10).n_shards(n) for n in (0, 10, 11)]
        [1, 1, 2]
        """
        return max(1, -(-n_tokens // self.shard_tokens))

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Cut `[start, end)` at shard boundaries: yields `(shard, first, last)`, counted inside the shard.

        An empty range gives one empty piece; at a boundary it is in the shard before.

        >>> list(Shards(Path(), "train", shard_tokens=10).pieces(7, 20))
        [(0, 7, 10), (1, 0, 10)]
        """
        if start == end:
            k = self.n_shards(start) - 1
            yield k, start - k * self.shard_tokens, end - k * self.shard_tokens
        while start < end:
            k, first = divmod(start, self.shard_tokens)
            last = min(first + end - start, self.shard_tokens)
            yield k, first, last
            start += last - first

    def sections(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Cut `[start, end)` like `pieces`, and also where a section of a file ends; none for an empty range.

        >>> from unittest.mock import patch
        >>> with patch("nanogpt_compat.output.layout.SECTION_BYTES", 8):
        ...     list(Shards(Path(), "train", shard_tokens=10).sections(7, 15))
        [(0, 7, 8), (0, 8, 10), (1, 0, 4), (1, 4, 5)]
        """
        for k, first, last in self.pieces(start, end):
            while first < last:
                n_before = (self.header_bytes + first * TOKEN.itemsize) // SECTION_BYTES
                edge = ((n_before + 1) * SECTION_BYTES - self.header_bytes) // TOKEN.itemsize
                yield k, first, min(edge, last)
                first = edge

    def ends_section(self, place: int) -> bool:
        """Return whether a section ends at token `place` of a shard: every 64 MiB, and where it is full."""
        n_bytes = self.header_bytes + place * TOKEN.itemsize
        return place == self.shard_tokens or n_bytes % SECTION_BYTES == 0

    def header(self, n_tokens: int) -> bytes:
        """Return the header of a shard of `n_tokens`; its length does not depend on their number."""
        if self.form == "npy":
            head = io.BytesIO()
            fields = {"descr": TOKEN.str, "fortran_order": False, "shape": (n_tokens,)}
            np.lib.format.write_array_header_1_0(head, fields)
            return head.getvalue()
        if self.form == "llmc":
            return np.array([_LLMC_MAGIC, _LLMC_VERSION, n_tokens] + [0] * 253, "<i4").tobytes()
        return b""

    @property
    def header_bytes(self) -> int:
        """The length of `header`."""
        return _header_bytes(self.form)

    def size_bytes(self, n_tokens: int) -> int:
        """Return the size of all files together, if the stream has `n_tokens`."""
        return self.n_shards(n_tokens) * self.header_bytes + n_tokens * TOKEN.itemsize


@cache  # to make one of npy takes 20 us, and each block of tokens asks
def _header_bytes(form: str) -> int:
    return len(Shards(Path(), "", form).header(0))


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file of complete output."""

    stream: str
    shards: Shards
    k: int
    n_tokens: int

    @property
    def name(self) -> str:
        """Its name in the output folder, where it may be a link."""
        return self.shards.listed_name(self.k)

    @property
    def path(self) -> Path:
        """Its path, with links followed."""
        return self.shards.path(self.k)

    @property
    def split(self) -> str:
        """Whether it is for "train" or "val"."""
        return self.shards.split(self.k)

    @property
    def n_bytes(self) -> int:
        """Its size, header included."""
        return self.shards.header_bytes + self.n_tokens * TOKEN.itemsize


Outputs = dict[str, Shards]
"""The streams of a run, by split, in the order of publishing."""


def count_in_llmc(head: bytes) -> int | None:
    """Return the number of tokens in the header of a file that begins with `head`; None if it is not llm.c's.

    >>> count_in_llmc(Shards(Path(), "fineweb", "llmc").header(12)), count_in_llmc(b"no header")
    (12, None)
    """
    fields = np.frombuffer(head[:LLMC_HEADER_BYTES].ljust(LLMC_HEADER_BYTES, b"\0"), "<i4")
    return int(fields[2]) if tuple(fields[:2]) == (_LLMC_MAGIC, _LLMC_VERSION) else None


def split_in_name(name: str) -> tuple[str, str, int] | None:
    """Return the first word, the split and the number of a token file, from any program.

    None if the name has no split. A file without a number has -1.

    >>> split_in_name("fineweb_train_000012.bin"), split_in_name("train_shard_0003.bin")
    (('fineweb', 'train', 12), ('', 'train', 3))
    >>> split_in_name("TinyStories_val.bin"), split_in_name("train.idx")
    (('TinyStories', 'val', -1), None)
    """
    match = _SPLIT_IN_NAME.fullmatch(name)
    return None if match is None else (match[1], match[2], -1 if match[3] is None else int(match[3]))


def lay_out(
    output_dir: Path,
    *,
    form: str,
    shard_tokens: int | None,
    word: str | None,
    has_val: bool,
    has_val_inputs: bool = False,
) -> dict[str, Shards]:
    """Return the streams of a run. Links are followed for train.bin, val.bin and the folder, not for shards.

    If the first shard is for validation, all tokens are one stream, named "train". `has_val_inputs`: they
    are two streams in every format.
    """
    try:
        folder = output_dir.resolve()
        if form != "bin":
            shards = Shards(folder, word or "", form, shard_tokens or SHARD_TOKENS)
            if has_val_inputs:
                return {"val": replace(shards, n_val=ALL), "train": replace(shards, first_number=1)}
            return {"train": replace(shards, n_val=int(has_val))}
        outputs = {}
        if has_val:
            val = Path(output_dir, "val.bin").resolve()
            outputs["val"] = Shards(val.parent, val.name, n_val=ALL)
        if shard_tokens is not None:
            return outputs | {"train": Shards(folder, "train", shard_tokens=shard_tokens)}
        train = Path(output_dir, "train.bin").resolve()
        return outputs | {"train": Shards(train.parent, train.name)}
    except (OSError, RuntimeError) as error:
        raise OutputError(f"cannot follow the links in {output_dir}: {error}") from error


def files_of(outputs: Outputs, tokens: Mapping[str, int]) -> Iterator[OutputFile]:
    """Yield the files that hold `tokens`, the number of each stream; those of train first."""
    for split, shards in reversed(outputs.items()):
        for k in range(shards.n_shards(tokens[split])):
            n_tokens = min(tokens[split] - k * shards.shard_tokens, shards.shard_tokens)
            yield OutputFile(split, shards, k, n_tokens)


def name_tokens(files: Sequence[OutputFile]) -> str:
    """Return the names of the files and the number of tokens in each stream, for a message."""
    counts = []
    for stream in dict.fromkeys(one.stream for one in files):
        some = [one for one in files if one.stream == stream]
        first, last = some[0].name, some[-1].name
        names = first if first == last else f"{first} to {last}"
        counts.append(f"{names} {plural(sum(one.n_tokens for one in some), 'token')}")
    return ", ".join(counts)


def by_split(outputs: Outputs, tokens: Mapping[str, int]) -> dict[str, int]:
    """Convert numbers of tokens by stream into numbers by split; without "val" if no file is for it."""
    counts = {"train": 0} | {shards.split(0): 0 for shards in outputs.values()}
    for stream, shards in outputs.items():
        n_val = min(tokens[stream], shards.n_val * shards.shard_tokens)
        counts["train"] += tokens[stream] - n_val
        if n_val:
            counts["val"] += n_val
    return counts


def by_stream(outputs: Outputs, tokens: Mapping[str, int]) -> dict[str, int]:
    """Convert numbers of tokens by split into numbers by stream."""
    return dict(tokens) if len(outputs) > 1 else {"train": sum(tokens.values())}


def describe_files(files: Iterable[OutputFile]) -> list[dict[str, Any]]:
    """Return the entries of prepare.json for finished files."""
    return [{"name": one.name, "tokens": one.n_tokens, "bytes": one.n_bytes} for one in files]
