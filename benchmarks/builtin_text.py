"""Text for machines without apt: Python's documentation, and generated words in ten scripts; about 6 MB."""

import hashlib
import importlib
import random
import sysconfig
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from benchmarks.extract import drop_seen_lines, is_cjk
from benchmarks.kinds import Text

_PATTERNS = (
    *("*.dist-info/METADATA", "*.dist-info/**/LICENSE*", "*.dist-info/**/COPYING*"),
    *("**/*.rst", "**/*.md"),
)
_N_DOCUMENTS = 60
_N_SENTENCES = 60
_NEWLINE_SHARE = 0.2
_WEIGHTS = list(accumulate(1 / rank for rank in range(1, 4001)))  # 4,000 words a script, by Zipf's law


def _letters(first: str, last: str) -> str:
    return "".join(map(chr, range(ord(first), ord(last) + 1)))


_LATIN = _letters("a", "z")
_SCRIPTS = (  # letters, what is between two words, the end of a sentence, the letters of the longest word
    (_LATIN + "äöüß", " ", ". ", 12),
    (_LATIN + "éèàçêîôûœ", " ", ". ", 9),
    (_letters("\u0430", "\u044f"), " ", ". ", 10),  # Cyrillic
    (_letters("\u03b1", "\u03c9"), " ", ". ", 9),  # Greek
    (_letters("\u0627", "\u063a") + _letters("\u0641", "\u064a"), " ", "\u061f ", 7),  # Arabic
    (_letters("\u0915", "\u0939") + _letters("\u093e", "\u094c"), " ", "\u0964 ", 8),  # Devanagari
    (_letters("\u0e01", "\u0e2e") + _letters("\u0e30", "\u0e3a"), "", " ", 8),  # Thai
    (_letters("\u4e00", "\u8fff"), "", "\u3002", 3),  # Han
    (_letters("\u3042", "\u3093") + _letters("\u4e00", "\u52ff"), "", "\u3002", 5),  # kana and kanji
    (_letters("\uac00", "\ud7a3"), " ", ". ", 5),  # Hangul
)


def builtin_text() -> Text:
    """Return the built-in text: always the same documents on the same machine; nothing is stored."""
    digest = hashlib.sha256("".join(_documents(0, "")).encode())
    return Text("builtin", f"builtin {digest.hexdigest()[:16]}", _documents)


def _documents(seed: int, only: str) -> Iterator[str]:
    everything = (*_found_documents(), *(() if only == "en" else _generated_documents()))
    found = [text for text in everything if is_cjk(text) or only != "cjk"]
    random.Random(seed).shuffle(found)
    yield from found


def _found_documents() -> Iterator[str]:
    """Yield the language reference that pydoc shows, and the documents of installed packages."""
    seen: set[int] = set()
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    site = Path(sysconfig.get_path("purelib"))
    files = sorted({file for pattern in _PATTERNS for file in site.glob(pattern) if file.is_file()})
    texts = (file.read_text(encoding="utf-8", errors="ignore") for file in files)
    return filter(None, (drop_seen_lines(text, seen) for text in (*topics.values(), *texts)))


def _generated_documents() -> Iterator[str]:
    for number, (letters, space, stop, longest_word) in enumerate(_SCRIPTS):
        rng = random.Random(number)
        words = ["".join(rng.choices(letters, k=rng.randint(1, longest_word))) for _ in _WEIGHTS]
        for _ in range(_N_DOCUMENTS):
            document = ""
            for _ in range(_N_SENTENCES):
                chosen = rng.choices(words, cum_weights=_WEIGHTS, k=rng.randint(4, 20))
                document += space.join(chosen) + stop + ("\n" if rng.random() < _NEWLINE_SHARE else "")
            yield document + "\n\n"
