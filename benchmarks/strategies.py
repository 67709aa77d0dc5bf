"""The strategies that throughput.py compares: name, command, and bounds."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

# Placeholders in a command: the file, the folder, and prepare.py of an earlier version.
INPUT, OUTPUT, EARLIER = "INPUT", "OUTPUT", "EARLIER"
# The bounds on the peak: with gigatoken, with more memory for its words, and on tables with any engine.
_MAX_GIGATOKEN_BYTES = 256_000_000
_MAX_BYTES = {"700M": 320_000_000, "1G": 415_000_000, "2G": 730_000_000, "4G": 1_600_000_000}
_MAX_TABLE_BYTES = 400_000_000


@dataclass(frozen=True, slots=True)
class Strategy:
    """A command, and what the benchmark has to know about it."""

    name: str  # in the record, and for --only
    label: str  # in tables and pictures
    arguments: tuple[str, ...]  # for Python
    engine: str = ""  # prepare.py's; empty for other programs
    has_children: bool = False  # its memory is the sum over its processes
    is_pinned: bool = False  # to one core
    memory_per_byte: float = 0.0  # bytes needed for each byte of input; skipped if there is less memory

    def max_peak_bytes(self, kind: str) -> int | None:
        """Return the bound on the peak, or None; peak_rss.py checks that of tiktoken on text."""
        if self.engine and kind.endswith((".parquet", ".arrow")):
            return _MAX_TABLE_BYTES
        most_bytes = _MAX_BYTES.get(self.name.removeprefix("gigatoken-"), _MAX_GIGATOKEN_BYTES)
        return most_bytes if self.engine == "gigatoken" else None

    def command(self, path: Path, output_dir: Path, earlier: Path | None = None) -> list[str]:
        """Return the command for this file, this folder, and this checkout of an earlier version."""
        words = {INPUT: str(path), OUTPUT: str(output_dir)}
        if earlier:
            words[EARLIER] = str(earlier / "prepare.py")
        pin = ["taskset", "--cpu-list", str(max(os.sched_getaffinity(0)))] if self.is_pinned else []
        return [*pin, sys.executable, *(words.get(word, word) for word in self.arguments)]


# All tokens go to train.bin, so that outputs can be compared.
_OPTIONS = ("--input", INPUT, "--output-dir", OUTPUT, "--val-split", "none", "--engine")


def _prepare(name: str, label: str, *options: str, is_pinned: bool = False) -> Strategy:
    """Return a run of prepare.py, with gigatoken unless the name begins with `tiktoken`."""
    engine = "tiktoken" if name.startswith("tiktoken") else "gigatoken"
    command = ("prepare.py", *_OPTIONS, engine, *options)
    return Strategy(name, f"prepare.py, {label}", command, engine, is_pinned=is_pinned)


def _other(name: str, label: str, *, has_children: bool = False, memory_per_byte: float = 0.0) -> Strategy:
    """Return a run of others.py."""
    arguments = ("-m", "benchmarks.others", name, INPUT, OUTPUT)
    return Strategy(name, label, arguments, has_children=has_children, memory_per_byte=memory_per_byte)


def _bare(engine: str, name: str, label: str, n_threads: int, *, is_pinned: bool = False) -> Strategy:
    arguments = ("-m", "benchmarks.bare_loop", engine, INPUT, OUTPUT, "--threads", str(n_threads))
    return Strategy(name, f"bare loop, {label}", arguments, is_pinned=is_pinned)


_TWO = ("--workers", "2")
_ONE = ("--workers", "1")
_SEPARATOR = ("--document-separator", r"\x1e")  # for the kinds `separated` and `fifty`
_WHOLE = "--one-document-per-file"
_FIELDS = ("--text-field", "content,text")
_ALL = (
    _prepare("gigatoken", "gigatoken"),
    _prepare("tiktoken", "tiktoken"),
    # No engine is named, so that its tokens and memory are not judged.
    Strategy(
        "gigatoken-earlier", "prepare.py, gigatoken, earlier version", (EARLIER, *_OPTIONS, "gigatoken")
    ),
    _prepare("in-order", "documents", *_SEPARATOR),
    _prepare("shuffled", "documents, --shuffle", *_SEPARATOR, "--shuffle"),
    *(
        _prepare(f"gigatoken-{size}", f"gigatoken, --max-memory {size}", "--max-memory", size)
        for size in _MAX_BYTES
    ),
    _other("whole", "whole file at once", memory_per_byte=18),
    _other("list", "chunks into one list", memory_per_byte=13),
    _other("stream", "chunk by chunk to the file"),
    _other("datasets", "HF datasets, 2 processes", has_children=True),
    _other("pool", "pool of 2 processes", has_children=True),
    _other("encode_files", "gigatoken's encode_files", memory_per_byte=5),
    _prepare("gigatoken-one-core", "gigatoken, one core", *_ONE, is_pinned=True),
    _bare("ordinary", "ordinary-one-core", "encode_ordinary, one core", 0, is_pinned=True),
    _prepare("gigatoken-two-threads", "gigatoken, 2 threads", *_TWO),
    _bare("gigatoken", "bare-gigatoken", "gigatoken, 2 threads", 2),
    _prepare("tiktoken-two-threads", "tiktoken, 2 threads", *_TWO),
    _bare("tiktoken", "bare-tiktoken", "tiktoken, 2 threads", 2),
    _prepare("gigatoken-index", "gigatoken, --index", "--index"),
    _prepare("gigatoken-max-tokens", "gigatoken, --max-tokens", "--max-tokens", "1T"),
    _prepare("gigatoken-fields", f"gigatoken, {' '.join(_FIELDS)}", *_FIELDS),
    _prepare("gigatoken-whole", f"gigatoken, {_WHOLE}", _WHOLE),
)
BY_NAME = {strategy.name: strategy for strategy in _ALL}
