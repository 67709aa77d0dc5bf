"""The parts of throughput.py: which strategies run on which inputs, and the ratios that they must reach.

The short form is for CI: tens of megabytes, on busy machines. There, prepare.py with gigatoken spends more
time on starting Python and importing (0.4 to 0.7 s) than on the work. Every other strategy starts as slowly,
so all ratios are nearer to 1. The thresholds are what a busy 2-core machine still reaches; a strategy that
has lost its speed misses them all the same.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.contest import Case
from benchmarks.stored import FORMS
from benchmarks.strategies import BY_NAME
from benchmarks.thresholds import Ratio

M, G = 10**6, 10**9


@dataclass(frozen=True, slots=True)
class Part:
    """Cases that run in turn, and the ratios between them."""

    cases: tuple[Case, ...] = ()
    ratios: tuple[Ratio, ...] = ()


def _cases(kind: str, size_bytes: int, *names: str) -> tuple[Case, ...]:
    return tuple(Case(BY_NAME[name], kind, size_bytes) for name in names)


def _ratio(kind: str, size_bytes: int, ours: str, at_least: float, other: str, start_bytes: int = 0) -> Ratio:
    of_input = Case(BY_NAME[ours], kind, size_bytes), Case(BY_NAME[other], kind, size_bytes)
    return Ratio(*of_input, at_least, start_bytes)


def compare(*, is_short: bool) -> Part:
    """Compare prepare.py with the scripts that it replaces and its neighbours, on text like FineWeb's."""
    if is_short:
        size = 40 * M
        return Part(
            _cases("prose", size, "gigatoken", "tiktoken", "stream", "encode_files"),
            (
                _ratio("prose", size, "gigatoken", 2.5, "stream"),
                _ratio("prose", size, "gigatoken", 0.5, "encode_files"),
                _ratio("prose", size, "tiktoken", 1.1, "stream"),
            ),
        )
    names = ("gigatoken", "tiktoken", "stream", "datasets", "pool", "encode_files", "whole", "list")
    return Part(_cases("english", 300 * M, *names), _against_others("english", 300 * M, stream=10))


def compare_large(*, is_short: bool) -> Part:
    """Compare on enough text that start-up does not count; the short form has none."""
    size = 2 * G
    names = ("gigatoken", "tiktoken", "stream", "encode_files")
    return Part() if is_short else Part(_cases("english", size, *names), _against_others("english", size, 12))


def compare_languages(*, is_short: bool) -> Part:
    """Compare on text in many languages, where a cache of words helps less; the short form has none."""
    size = 300 * M
    names = ("gigatoken", "tiktoken", "stream", "encode_files")
    return Part() if is_short else Part(_cases("prose", size, *names), _against_others("prose", size, 5, 1))


def memory(*, is_short: bool) -> Part:
    """Compare with more memory for words, on text in many languages; the short form has none."""
    if is_short:
        return Part()
    size, names = 300 * M, ("gigatoken", "gigatoken-700M", "gigatoken-1G", "gigatoken-2G", "gigatoken-4G")
    return Part(_cases("prose", size, *names), (_ratio("prose", size, names[-1], 1.05, names[0]),))


def _against_others(
    kind: str, size: int, stream: float, encode_files: float = 0.95, tiktoken: float = 1.8
) -> tuple[Ratio, ...]:
    return (
        _ratio(kind, size, "gigatoken", stream, "stream"),
        _ratio(kind, size, "gigatoken", encode_files, "encode_files"),
        _ratio(kind, size, "tiktoken", tiktoken, "stream"),
    )


def one_core(*, is_short: bool) -> Part:
    """Compare prepare.py on one core with the simple loop of most scripts."""
    size, at_least = (24 * M, 1.5) if is_short else (300 * M, 8)
    ours, bare = "gigatoken-one-core", "ordinary-one-core"
    kind = "prose" if is_short else "english"
    return Part(_cases(kind, size, ours, bare), (_ratio(kind, size, ours, at_least, bare),))


def overhead(*, is_short: bool) -> Part:
    """Compare with the same engine and threads without any safety: that may be at most a sixth faster."""
    gigatoken, tiktoken = (40 * M, 24 * M) if is_short else (2 * G, 300 * M)
    at_least = 0.4 if is_short else 0.85
    kind = "prose" if is_short else "english"
    return Part(
        (
            *_cases(kind, gigatoken, "gigatoken-two-threads", "bare-gigatoken"),
            *_cases(kind, tiktoken, "tiktoken-two-threads", "bare-tiktoken"),
        ),
        (
            _ratio(kind, gigatoken, "gigatoken-two-threads", at_least, "bare-gigatoken"),
            _ratio(kind, tiktoken, "tiktoken-two-threads", at_least, "bare-tiktoken"),
        ),
    )


def earlier(*, is_short: bool) -> Part:
    """Compare with an earlier version, the same engine without any safety, and neighbours, on real text."""
    if is_short:
        return Part()
    ours, before, bare, start = "gigatoken", "gigatoken-earlier", "bare-gigatoken", 2000
    english, languages, lines = ("repeated", 570 * M), ("prose", 300 * M), ("english.jsonl", 300 * M)
    return Part(
        (
            *_cases("repeated", start, ours, before, bare),
            *_cases(*english, ours, before, bare, "encode_files"),
            *_cases(*languages, ours, before, bare, "encode_files"),
            *_cases(*lines, ours, before, "pool"),
        ),
        (
            _ratio(*english, ours, 0.85, bare, start),
            _ratio(*english, ours, 1.2, before, start),
            _ratio(*languages, ours, 1, before),
            _ratio(*languages, ours, 1, "encode_files"),
            _ratio(*lines, ours, 1, before),
            _ratio(*lines, ours, 8, "pool"),
        ),
    )


def largest(*, is_short: bool) -> Part:
    """Compare the rates on 20 GB, which is read from the disk, and on 2 GB; the short form has none."""
    if is_short:
        return Part()
    small, large = (Case(BY_NAME["gigatoken"], "repeated", size) for size in (2 * G, 20 * G))
    return Part((small, large), (Ratio(large, small, at_least=0.9),))


def linear(*, is_short: bool) -> Part:
    """Compare the rates on a text and on one that is ten times as large."""
    small, large = (40 * M, 120 * M) if is_short else (400 * M, 4 * G)
    names = ("gigatoken",) if is_short else ("gigatoken", "tiktoken")
    kind = "prose" if is_short else "english"
    pairs = [(Case(BY_NAME[name], kind, large), Case(BY_NAME[name], kind, small)) for name in names]
    return Part(tuple(itertools.chain(*pairs)), tuple(Ratio(*pair, at_least=0.9) for pair in pairs))


def line_ends(*, is_short: bool) -> Part:
    """Compare text with Windows line ends with the same text without; the short form has none."""
    kinds, size = ("prose", "crlf"), 300 * M
    if is_short:
        return Part()
    prose, crlf = (Case(BY_NAME["gigatoken"], kind, size) for kind in kinds)
    return Part((prose, crlf), (Ratio(crlf, prose, at_least=0.95),))


def hard(*, is_short: bool) -> Part:
    """Compare on text for which a cache of words does not help."""
    size, at_least = (8 * M, 0.5) if is_short else (G, 1)
    kinds = ("words", "hex_lines", "base64")
    return Part(
        tuple(case for kind in kinds for case in _cases(kind, size, "gigatoken", "tiktoken")),
        tuple(_ratio(kind, size, "gigatoken", at_least, "tiktoken") for kind in kinds),
    )


def documents(*, is_short: bool) -> Part:
    """Compare prepare.py with a pool of processes on JSON lines and tables; the short form has only some."""
    text, size = ("prose", 24 * M) if is_short else ("english", 300 * M)
    gigatoken, tiktoken = (1.2, 0.6) if is_short else (8, 1)  # a sixth of gigatoken's time is start-up
    kinds = [f"{text}.{form}" for form in (FORMS[:2] if is_short else FORMS)]
    return Part(
        tuple(case for kind in kinds for case in _cases(kind, size, "gigatoken", "tiktoken", "pool")),
        tuple(
            _ratio(kind, size, ours, at_least, "pool")
            for kind in kinds
            for ours, at_least in (("gigatoken", gigatoken), ("tiktoken", tiktoken))
        ),
    )


def documents_large(*, is_short: bool) -> Part:
    """Compare on enough documents that start-up does not count; the short form has none."""
    if is_short:
        return Part()
    kinds = [f"english.{form}" for form in FORMS[:2]]
    return Part(
        tuple(case for kind in kinds for case in _cases(kind, 2 * G, "gigatoken", "pool")),
        tuple(_ratio(kind, 2 * G, "gigatoken", 11, "pool") for kind in kinds),
    )


def options(*, is_short: bool) -> Part:
    """Compare a run on documents with the same run with an option; the short form has none."""
    if is_short:
        return Part()
    of_documents = ("gigatoken-index", "gigatoken-max-tokens", "gigatoken-fields")
    names = {"english.jsonl": of_documents, "english": ("gigatoken-whole",)}
    return Part(
        tuple(case for kind, some in names.items() for case in _cases(kind, 2 * G, "gigatoken", *some)),
        tuple(_ratio(kind, 2 * G, name, 0.9, "gigatoken") for kind, some in names.items() for name in some),
    )


def shuffle(*, is_short: bool) -> Part:
    """Compare a shuffled run, which has a second pass, with one in the order of the input."""
    sizes = {"separated": 40 * M, "fifty": 24 * M} if is_short else {"separated": 2 * G, "fifty": G}
    at_least = 0.35 if is_short else 0.5
    return Part(
        tuple(case for kind, size in sizes.items() for case in _cases(kind, size, "in-order", "shuffled")),
        tuple(_ratio(kind, size, "shuffled", at_least, "in-order") for kind, size in sizes.items()),
    )


PARTS: dict[str, Callable[..., Part]] = {
    "compare": compare,
    "compare-large": compare_large,
    "compare-languages": compare_languages,
    "memory": memory,
    "one-core": one_core,
    "overhead": overhead,
    "earlier": earlier,
    "linear": linear,
    "largest": largest,
    "line-ends": line_ends,
    "hard": hard,
    "documents": documents,
    "documents-large": documents_large,
    "options": options,
    "shuffle": shuffle,
}
