"""Which files the tokens go to: shards of equal length, of which train.bin is one without end.

The formats, each of uint16, little-endian:

    bin   nothing but tokens, as nanoGPT has them: train.bin, or train_shard_0000.bin, ..., and val.bin
    npy   what np.save writes, as in build-nanogpt's fineweb.py: edufineweb_val_000000.npy, then
          edufineweb_train_000001.npy, ...
    llmc  256 int32 before the tokens, as in llm.c's dev/data/data_common.py: fineweb_val_000000.bin, ...
"""

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanogpt_compat.errors import OutputError
from nanogpt_compat.output.token_file import TOKEN

WORK_FOLDER = ".prepare"
FORMATS = ("bin", "npy", "llmc")
SHARD_TOKENS = 100_000_000  # in both scripts
MAX_LLMC_TOKENS = (2**31 - 1 - 1024) // 2  # llm.c's loader takes a shard's size in bytes for an int
FIRST_WORDS = {"npy": "edufineweb", "llmc": "fineweb"}

_ENDLESS = 1 << 62
_SUFFIXES = {"bin": "bin", "npy": "npy", "llmc": "bin"}
_LLMC_MAGIC, _LLMC_VERSION = 20240520, 1


@dataclass(frozen=True, slots=True)
class Shards:
    """The files of one stream of tokens; a place in it is counted in tokens from its beginning."""

    folder: Path
    word: str  # with which the names begin; of an endless one, the name that links lead to
    form: str = "bin"
    shard_tokens: int = _ENDLESS
    first_is_val: bool = False

    @property
    def is_endless(self) -> bool:
        """Whether there is one file, however many tokens there are."""
        return self.shard_tokens == _ENDLESS

    def name(self, k: int) -> str:
        """Name shard `k`.

        >>> Shards(Path(), "fineweb", "llmc", 1000, first_is_val=True).name(0)
        'fineweb_val_000000.bin'
        """
        if self.is_endless:
            return self.word
        if self.form == "bin":
            return f"{self.word}_shard_{k:04d}.bin"
        return f"{self.word}_{self.split(k)}_{k:06d}.{_SUFFIXES[self.form]}"

    def number(self, name: str) -> int:
        """Return the number of the shard of this name, which `pattern` matches.

        >>> Shards(Path(), "fineweb", "llmc", 1000).number("fineweb_val_000012.bin")
        12
        """
        return int(name.rpartition("_")[2].partition(".")[0])

    def listed_name(self, k: int) -> str:
        """Name shard `k` as the output folder has it, where train.bin and val.bin may be links."""
        return f"{self.split(k)}.bin" if self.is_endless else self.name(k)

    def path(self, k: int) -> Path:
        """Name shard `k` when it is complete."""
        return self.folder / self.name(k)

    def partial(self, k: int) -> Path:
        """Name the unfinished shard: beside the complete one, for a rename cannot cross file systems."""
        return self.folder / WORK_FOLDER / f"{self.name(k)}.partial"

    @property
    def pattern(self) -> re.Pattern[str]:
        """Match the name of any shard that a run with other options may have left here, too."""
        if self.is_endless:
            return re.compile(re.escape(self.word))
        middle = r"shard_\d{4,}" if self.form == "bin" else r"(?:val|train)_\d{6,}"
        return re.compile(rf"{re.escape(self.word)}_{middle}\.{_SUFFIXES[self.form]}", re.ASCII)

    def split(self, k: int) -> str:
        """Say what shard `k` is for."""
        return "val" if k == 0 and self.first_is_val else "train"

    def n_full(self, n_tokens: int) -> int:
        """Count the full shards among `n_tokens`."""
        return n_tokens // self.shard_tokens

    def n_shards(self, n_tokens: int) -> int:
        """Count the shards that `n_tokens` make: none is empty, but the only one.

        >>> [Shards(Path(), "train", shard_tokens=10).n_shards(n) for n in (0, 10, 11)]
        [1, 1, 2]
        """
        return max(1, -(-n_tokens // self.shard_tokens))

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Cut `[start, end)` at the ends of shards: `(shard, first, last)`, both counted inside the shard.

        What is empty is one piece, in the shard that ends there, if one does.

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

    def header(self, n_tokens: int) -> bytes:
        """Make what stands before the tokens of a shard; as long whatever their number."""
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
        """How long that is."""
        return len(self.header(0))

    def size_bytes(self, n_tokens: int) -> int:
        """Say how large all files are together."""
        return self.n_shards(n_tokens) * self.header_bytes + n_tokens * TOKEN.itemsize


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file of a run that is complete."""

    stream: str
    shards: Shards
    k: int
    n_tokens: int

    @property
    def name(self) -> str:
        """Its final name in the output folder, be that a link or not."""
        return self.shards.listed_name(self.k)

    @property
    def path(self) -> Path:
        """The same, with the folder."""
        return self.shards.path(self.k)

    @property
    def split(self) -> str:
        """What it is for."""
        return self.shards.split(self.k)

    @property
    def n_bytes(self) -> int:
        """Its size, header included."""
        return self.shards.header_bytes + self.n_tokens * TOKEN.itemsize


Outputs = dict[str, Shards]
"""The streams of a run, by the split whose tokens go there, in the order in which they are published."""


def lay_out(
    output_dir: Path, *, form: str, shard_tokens: int | None, word: str | None, has_val: bool
) -> dict[str, Shards]:
    """Name the files of a run; links are followed, but not those of single shards.

    Where the first shard is for validation, all tokens are one stream, which is train's.

    Raises:
        OutputError: a link leads back to itself.
    """
    try:
        folder = output_dir.resolve()
        if form != "bin":
            shards = Shards(folder, word or "", form, shard_tokens or SHARD_TOKENS, first_is_val=has_val)
            return {"train": shards}
        outputs = {}
        if has_val:
            val = Path(output_dir, "val.bin").resolve()
            outputs["val"] = Shards(val.parent, val.name, first_is_val=True)
        if shard_tokens is not None:
            return outputs | {"train": Shards(folder, "train", shard_tokens=shard_tokens)}
        train = Path(output_dir, "train.bin").resolve()
        return outputs | {"train": Shards(train.parent, train.name)}
    except (OSError, RuntimeError) as error:
        raise OutputError(f"cannot follow the links in {output_dir}: {error}") from error


def files_of(outputs: Outputs, tokens: Mapping[str, int]) -> Iterator[OutputFile]:
    """List the files that so many tokens in each stream make, those of train first."""
    for split, shards in reversed(outputs.items()):
        for k in range(shards.n_shards(tokens[split])):
            n_tokens = min(tokens[split] - k * shards.shard_tokens, shards.shard_tokens)
            yield OutputFile(split, shards, k, n_tokens)


def by_split(outputs: Outputs, tokens: Mapping[str, int]) -> dict[str, int]:
    """Count the tokens for train and, if there is any such file, for val out of those in each stream."""
    counts = {"train": 0} | {shards.split(0): 0 for shards in outputs.values()}
    for split, shards in outputs.items():
        n_first = min(tokens[split], shards.shard_tokens)
        counts[shards.split(0)] += n_first
        counts["train"] += tokens[split] - n_first
    return counts


def by_stream(outputs: Outputs, tokens: Mapping[str, int]) -> dict[str, int]:
    """Do the reverse."""
    return dict(tokens) if len(outputs) > 1 else {"train": sum(tokens.values())}


def describe_files(files: Iterable[OutputFile]) -> list[dict[str, Any]]:
    """Describe finished files."""
    return [{"name": one.name, "tokens": one.n_tokens, "bytes": one.n_bytes} for one in files]
