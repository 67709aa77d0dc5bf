"""The strategies that throughput.py compares: name, command, and bounds."""

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

# Placeholders in a command: the file, the folder, and prepare.py of an earlier version.
INPUT, OUTPUT, EARLIER = "INPUT", "OUTPUT", "EARLIER"
_MAX_GIGATOKEN_BYTES = 256_000_000
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
    memory_per_byte: float = (
        0.0  # bytes that it needs for each byte of input; skipped if there is less memory
    )
    max_bytes: int = _MAX_GIGATOKEN_BYTES  # the bound on the peak with gigatoken

    def max_peak_bytes(self, kind: str) -> int | None:
        """Return the bound on the peak, or None; peak_rss.py checks that of tiktoken on text."""
        if self.engine and kind.endswith((".parquet", ".arrow")):
            return _MAX_TABLE_BYTES
        return self.max_bytes if self.engine == "gigatoken" else None

    def command(self, path: Path, output_dir: Path, earlier: Path | None = None) -> list[str]:
        """Return the command for this file, this folder, and this checkout of an earlier version."""
        words = {INPUT: str(path), OUTPUT: str(output_dir)}
        if earlier:
            words[EARLIER] = str(earlier / "prepare.py")
        pin = ["taskset", "--cpu-list", str(max(os.sched_getaffinity(0)))] if self.is_pinned else []
        return [*pin, sys.executable, *(words.get(word, word) for word in self.arguments)]

    @property
    def shown_command(self) -> str:
        """The command, without the parts that differ from machine to machine."""
        pin = ["taskset --cpu-list CORE"] if self.is_pinned else []
        return " ".join([*pin, "python", *self.arguments])


def _prepare(engine: str, name: str, label: str, *options: str, is_pinned: bool = False) -> Strategy:
    """Return a run of prepare.py, with all tokens in train.bin so that outputs can be compared."""
    command = ("prepare.py", "--input", INPUT, "--output-dir", OUTPUT, "--val-split", "none")
    return Strategy(name, label, (*command, "--engine", engine, *options), engine, is_pinned=is_pinned)


def _earlier() -> Strategy:
    """Return a run of an earlier version, whose tokens and memory are not judged."""
    now = _prepare("gigatoken", "gigatoken-earlier", "prepare.py, gigatoken, earlier version")
    return replace(now, arguments=(EARLIER, *now.arguments[1:]), engine="")


def _allowed(size: str, max_bytes: int) -> Strategy:
    """Return a run with more memory for gigatoken's words."""
    name = f"--max-memory {size}"
    prepared = _prepare("gigatoken", f"gigatoken-{size}", f"prepare.py, gigatoken, {name}", *name.split())
    return replace(prepared, max_bytes=max_bytes)


def _naive(name: str, label: str, memory_per_byte: float = 0.0) -> Strategy:
    return Strategy(
        name, label, ("-m", "benchmarks.naive", name, INPUT, OUTPUT), memory_per_byte=memory_per_byte
    )


def _neighbour(
    name: str, label: str, *, has_children: bool = False, memory_per_byte: float = 0.0
) -> Strategy:
    arguments = ("-m", "benchmarks.neighbours", name, INPUT, OUTPUT)
    return Strategy(name, label, arguments, has_children=has_children, memory_per_byte=memory_per_byte)


def _bare(engine: str, name: str, label: str, n_threads: int, *, is_pinned: bool = False) -> Strategy:
    arguments = ("-m", "benchmarks.bare_loop", engine, INPUT, OUTPUT, "--threads", str(n_threads))
    return Strategy(name, label, arguments, is_pinned=is_pinned)


_TWO = ("--workers", "2")
_ONE = ("--workers", "1")
_DOCUMENTS = ("--document-separator", r"\x1e")  # for the kinds `separated` and `fifty`
BY_NAME = {
    strategy.name: strategy
    for strategy in (
        _prepare("gigatoken", "gigatoken", "prepare.py, gigatoken"),
        _prepare("tiktoken", "tiktoken", "prepare.py, tiktoken"),
        _earlier(),
        _prepare("gigatoken", "in-order", "prepare.py, documents", *_DOCUMENTS),
        _prepare("gigatoken", "shuffled", "prepare.py, documents, --shuffle", *_DOCUMENTS, "--shuffle"),
        _allowed("700M", 320_000_000),
        _allowed("1G", 415_000_000),
        _allowed("2G", 730_000_000),
        _allowed("4G", 1_600_000_000),
        _naive("whole", "whole file at once", memory_per_byte=18),
        _naive("list", "chunks into one list", memory_per_byte=13),
        _naive("stream", "chunk by chunk to the file"),
        _neighbour("datasets", "HF datasets, 2 processes", has_children=True),
        _neighbour("pool", "pool of 2 processes", has_children=True),
        _neighbour("encode_files", "gigatoken's encode_files", memory_per_byte=5),
        _prepare("gigatoken", "gigatoken-one-core", "prepare.py, gigatoken, one core", *_ONE, is_pinned=True),
        _bare("ordinary", "ordinary-one-core", "bare loop, encode_ordinary, one core", 0, is_pinned=True),
        _prepare("gigatoken", "gigatoken-two-threads", "prepare.py, gigatoken, 2 threads", *_TWO),
        _bare("gigatoken", "bare-gigatoken", "bare loop, gigatoken, 2 threads", 2),
        _prepare("tiktoken", "tiktoken-two-threads", "prepare.py, tiktoken, 2 threads", *_TWO),
        _bare("tiktoken", "bare-tiktoken", "bare loop, tiktoken, 2 threads", 2),
        _prepare("gigatoken", "gigatoken-index", "prepare.py, gigatoken, --index", "--index"),
        _prepare(
            "gigatoken", "gigatoken-max-tokens", "prepare.py, gigatoken, --max-tokens", "--max-tokens", "1T"
        ),
        _prepare(
            *("gigatoken", "gigatoken-fields", "prepare.py, gigatoken, --text-field content,text"),
            *("--text-field", "content,text"),
        ),
        _prepare(
            *("gigatoken", "gigatoken-whole", "prepare.py, gigatoken, --one-document-per-file"),
            "--one-document-per-file",
        ),
    )
}
