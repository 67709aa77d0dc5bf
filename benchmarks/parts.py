"""The parts of throughput.py: which strategies run on which inputs, and the ratios that they must reach.

The short form is for CI: tens of megabytes, on busy machines. There, prepare.py with gigatoken spends more
time on starting Python and importing (0.4 to 0.7 s) than on the work. Every other strategy starts as slowly,
so all ratios are nearer to 1. The thresholds are what a busy 2-core machine still reaches; a strategy that
has lost its speed misses them all the same.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from benchmarks.contest import Case, Ratio
from benchmarks.strategies import BY_NAME

M, G = 10**6, 10**9
_SCRIPTS = "gigatoken tiktoken stream encode_files"
_START_BYTES = 2000


@dataclass(frozen=True, slots=True)
class Part:
    """Cases that run in turn, and the ratios between them."""

    cases: tuple[Case, ...]
    ratios: tuple[Ratio, ...] = ()

    def __add__(self, other: Part) -> Part:
        return Part(self.cases + other.cases, self.ratios + other.ratios)

    def only(self, names: Collection[str] | None) -> Part:
        """Return the part with the cases of these strategies, or with all if there are no names."""
        cases = tuple(case for case in self.cases if not names or case.strategy.name in names)
        return Part(cases, self.ratios)


def _on(kinds: str, size_bytes: int, names: str, ratios: str = "", *, start_bytes: int = 0) -> Part:
    """Return a part in which each of these strategies runs on each of these kinds.

    The ratio `a 2 b` means that a must be at least 2 times as fast as b.
    """
    part = Part(())
    for kind in kinds.split():
        cases = {name: Case(BY_NAME[name], kind, size_bytes) for name in names.split()}
        of_kind = [ratio.split() for ratio in ratios.split(", ") if ratio]
        part += Part(
            tuple(cases.values()),
            tuple(
                Ratio(cases[ours], cases[other], float(least), start_bytes) for ours, least, other in of_kind
            ),
        )
    return part


def _pair(kinds: str, size_bytes: int, ours: str, at_least: float, other: str) -> Part:
    return _on(kinds, size_bytes, f"{ours} {other}", f"{ours} {at_least} {other}")


def _between(name: str, ours: tuple[str, int], other: tuple[str, int], at_least: float) -> Part:
    """Return a part in which one strategy runs on two inputs (kind, size)."""
    cases = Case(BY_NAME[name], *ours), Case(BY_NAME[name], *other)
    return Part(cases, (Ratio(*cases, at_least),))


FULL = {
    # Against the scripts that prepare.py replaces and its neighbours, on text like FineWeb's.
    "compare": _on(
        *("english", 300 * M, "gigatoken tiktoken stream datasets pool encode_files whole list"),
        "gigatoken 10 stream, gigatoken 0.95 encode_files, tiktoken 1.8 stream",
    ),
    # On enough text that start-up does not count.
    "compare-large": _on(
        *("english", 2 * G, _SCRIPTS),
        "gigatoken 12 stream, gigatoken 0.95 encode_files, tiktoken 1.8 stream",
    ),
    # On text in many languages, where a cache of words helps less.
    "compare-languages": _on(
        *("prose", 300 * M, _SCRIPTS),
        "gigatoken 5 stream, gigatoken 1 encode_files, tiktoken 1.8 stream",
    ),
    # With more memory for words, on text in many languages.
    "memory": _on(
        *("prose", 300 * M, "gigatoken gigatoken-700M gigatoken-1G gigatoken-2G gigatoken-4G"),
        "gigatoken-4G 1.05 gigatoken",
    ),
    # On one core, against the simple loop of most scripts.
    "one-core": _pair("english", 300 * M, "gigatoken-one-core", 8, "ordinary-one-core"),
    # Against the same engine and threads without any safety: that may be at most a sixth faster.
    "overhead": (
        _pair("english", 2 * G, "gigatoken-two-threads", 0.85, "bare-gigatoken")
        + _pair("english", 300 * M, "tiktoken-two-threads", 0.85, "bare-tiktoken")
    ),
    # Against an earlier version, the same engine without any safety, and neighbours, on real text.
    "earlier": (
        _on("repeated", _START_BYTES, "gigatoken gigatoken-earlier bare-gigatoken")
        + _on(
            *("repeated", 570 * M, "gigatoken gigatoken-earlier bare-gigatoken encode_files"),
            "gigatoken 0.85 bare-gigatoken, gigatoken 1.2 gigatoken-earlier",
            start_bytes=_START_BYTES,
        )
        + _on(
            *("prose", 300 * M, "gigatoken gigatoken-earlier bare-gigatoken encode_files"),
            "gigatoken 1 gigatoken-earlier, gigatoken 1 encode_files",
        )
        + _on(
            *("english.jsonl", 300 * M, "gigatoken gigatoken-earlier pool"),
            "gigatoken 1 gigatoken-earlier, gigatoken 8 pool",
        )
    ),
    # On a text and on one that is ten times as large.
    "linear": (
        _between("gigatoken", ("english", 4 * G), ("english", 400 * M), 0.9)
        + _between("tiktoken", ("english", 4 * G), ("english", 400 * M), 0.9)
    ),
    # On 20 GB, which is read from the disk, and on 2 GB.
    "largest": _between("gigatoken", ("repeated", 20 * G), ("repeated", 2 * G), 0.9),
    # On text with Windows line ends and on the same text without.
    "line-ends": _between("gigatoken", ("crlf", 300 * M), ("prose", 300 * M), 0.95),
    # On text for which a cache of words does not help.
    "hard": _pair("words hex_lines base64", G, "gigatoken", 1, "tiktoken"),
    # Against a pool of processes on JSON lines and tables.
    "documents": _on(
        "english.jsonl english.parquet english.csv english.arrow",
        *(300 * M, "gigatoken tiktoken pool", "gigatoken 8 pool, tiktoken 1 pool"),
    ),
    # On enough documents that start-up does not count.
    "documents-large": _pair("english.jsonl english.parquet", 2 * G, "gigatoken", 11, "pool"),
    # With an option and without, on documents.
    "options": (
        _on(
            *("english.jsonl", 2 * G, "gigatoken gigatoken-index gigatoken-max-tokens gigatoken-fields"),
            "gigatoken-index 0.9 gigatoken, gigatoken-max-tokens 0.9 gigatoken, "
            "gigatoken-fields 0.9 gigatoken",
        )
        + _on("english", 2 * G, "gigatoken gigatoken-whole", "gigatoken-whole 0.9 gigatoken")
    ),
    # Shuffled, which takes a second pass, and in the order of the input.
    "shuffle": (
        _on("separated", 2 * G, "in-order shuffled", "shuffled 0.5 in-order")
        + _on("fifty", G, "in-order shuffled", "shuffled 0.5 in-order")
    ),
}
SHORT = {
    "compare": _on(
        *("prose", 40 * M, _SCRIPTS),
        "gigatoken 2.5 stream, gigatoken 0.5 encode_files, tiktoken 1.1 stream",
    ),
    "one-core": _pair("prose", 24 * M, "gigatoken-one-core", 1.5, "ordinary-one-core"),
    "overhead": (
        _pair("prose", 40 * M, "gigatoken-two-threads", 0.4, "bare-gigatoken")
        + _pair("prose", 24 * M, "tiktoken-two-threads", 0.4, "bare-tiktoken")
    ),
    "linear": _between("gigatoken", ("prose", 120 * M), ("prose", 40 * M), 0.9),
    "hard": _pair("words hex_lines base64", 8 * M, "gigatoken", 0.5, "tiktoken"),
    # A sixth of gigatoken's time is start-up.
    "documents": _on(
        *("prose.jsonl prose.parquet", 24 * M, "gigatoken tiktoken pool"),
        "gigatoken 1.2 pool, tiktoken 0.6 pool",
    ),
    "shuffle": (
        _on("separated", 40 * M, "in-order shuffled", "shuffled 0.35 in-order")
        + _on("fifty", 24 * M, "in-order shuffled", "shuffled 0.35 in-order")
    ),
}
