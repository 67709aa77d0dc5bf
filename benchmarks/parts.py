"""The parts of throughput.py: which strategies run on which inputs, and what is demanded of them.

The short form is for CI: tens of megabytes, on machines that others use too. There, starting Python and
importing (0.4 to 0.7 s) takes prepare.py with gigatoken longer than the work does, and every other strategy
about as long, so all ratios are nearer to 1. What is demanded of them is what a run on a busy 2-core machine
still gives; a strategy that has lost its speed fails all the same.
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


def _ratio(kind: str, size_bytes: int, ours: str, at_least: float, other: str) -> Ratio:
    return Ratio(Case(BY_NAME[ours], kind, size_bytes), Case(BY_NAME[other], kind, size_bytes), at_least)


def compare(*, is_short: bool) -> Part:
    """Set prepare.py against what it replaces, and its neighbours, on text like FineWeb's."""
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
    """Do the same with more, where start-up does not count; the short form has nothing of that size."""
    size = 2 * G
    names = ("gigatoken", "tiktoken", "stream", "encode_files")
    return Part() if is_short else Part(_cases("english", size, *names), _against_others("english", size, 12))


def compare_languages(*, is_short: bool) -> Part:
    """Do the same where words of eighty languages come in turn, so that a memory of words helps less."""
    size = 300 * M
    names = ("gigatoken", "tiktoken", "stream", "encode_files")
    return Part() if is_short else Part(_cases("prose", size, *names), _against_others("prose", size, 5, 0.8))


def _against_others(
    kind: str, size: int, stream: float, encode_files: float = 0.95, tiktoken: float = 1.8
) -> tuple[Ratio, ...]:
    return (
        _ratio(kind, size, "gigatoken", stream, "stream"),
        _ratio(kind, size, "gigatoken", encode_files, "encode_files"),
        _ratio(kind, size, "tiktoken", tiktoken, "stream"),
    )


def one_core(*, is_short: bool) -> Part:
    """Give one core to all of it, and to the loop that most scripts are."""
    size, at_least = (24 * M, 1.5) if is_short else (300 * M, 6)
    ours, bare = "gigatoken-one-core", "ordinary-one-core"
    kind = "prose" if is_short else "english"
    return Part(_cases(kind, size, ours, bare), (_ratio(kind, size, ours, at_least, bare),))


def overhead(*, is_short: bool) -> Part:
    """Put a price on safety: the same engine and threads without any. At most 10 % more time."""
    gigatoken, tiktoken = (40 * M, 24 * M) if is_short else (2 * G, 300 * M)
    at_least = 0.35 if is_short else 1 / 1.1
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


def linear(*, is_short: bool) -> Part:
    """Ask for ten times the text in ten times the time."""
    small, large = (40 * M, 120 * M) if is_short else (400 * M, 4 * G)
    names = ("gigatoken",) if is_short else ("gigatoken", "tiktoken")
    kind = "prose" if is_short else "english"
    pairs = [(Case(BY_NAME[name], kind, large), Case(BY_NAME[name], kind, small)) for name in names]
    return Part(tuple(itertools.chain(*pairs)), tuple(Ratio(*pair, at_least=0.9) for pair in pairs))


def hard(*, is_short: bool) -> Part:
    """Take text on which a cache of words is of no use."""
    size, at_least = (8 * M, 0.5) if is_short else (G, 1)
    kinds = ("words", "hex_lines", "base64")
    return Part(
        tuple(case for kind in kinds for case in _cases(kind, size, "gigatoken", "tiktoken")),
        tuple(_ratio(kind, size, "gigatoken", at_least, "tiktoken") for kind in kinds),
    )


def documents(*, is_short: bool) -> Part:
    """Take documents out of the files that people have, beside a pool that does."""
    text, size = ("prose", 24 * M) if is_short else ("english", 300 * M)
    gigatoken, tiktoken = (1.2, 0.6) if is_short else (6, 1)  # a sixth of gigatoken's time is start-up
    kinds = [f"{text}.{form}" for form in FORMS]
    return Part(
        tuple(case for kind in kinds for case in _cases(kind, size, "gigatoken", "tiktoken", "pool")),
        tuple(
            _ratio(kind, size, ours, at_least, "pool")
            for kind in kinds
            for ours, at_least in (("gigatoken", gigatoken), ("tiktoken", tiktoken))
        ),
    )


def documents_large(*, is_short: bool) -> Part:
    """Do the same with more, where start-up does not count; the short form has nothing of that size."""
    if is_short:
        return Part()
    kinds = [f"english.{form}" for form in FORMS]
    return Part(
        tuple(case for kind in kinds for case in _cases(kind, 2 * G, "gigatoken", "pool")),
        tuple(_ratio(kind, 2 * G, "gigatoken", 8, "pool") for kind in kinds),
    )


PARTS: dict[str, Callable[..., Part]] = {
    "compare": compare,
    "compare-large": compare_large,
    "compare-languages": compare_languages,
    "one-core": one_core,
    "overhead": overhead,
    "linear": linear,
    "hard": hard,
    "documents": documents,
    "documents-large": documents_large,
}
