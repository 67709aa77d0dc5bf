"""Texts that provoke faults, for hypothesis to draw from, and real prose that any machine with Python has."""

import pydoc_data.topics
import sys
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

zstd: Any = import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")

# Each piece is for a place in the pattern, in UTF-8 or in text mode that is easy to get wrong.
PIECES = (
    *"aZ'!? .,-_0179\t\n\r\0",
    *("'s", "'ll", "'ve", "'re", "'d", "don't", " '", "''", "'\n", "l'", "O'Neil's"),
    *(
        " ",
        "  ",
        "   ",
        "\n\n",
        "\r\n",
        "\r\r\n",
        "\n\r",
        " \n",
        "\n ",
        "\t\t",
        "\x0b",
        "\x0c",
        "\x1c",
        "\x1f",
    ),
    *(
        "\x85",
        "\xa0",
        "\u1680",
        "\u180e",
        "\u2003",
        "\u200b",
        "\u2028",
        "\u2029",
        "\u202f",
        "\u205f",
        "\u3000",
    ),
    *("1a", "a1", "\u00b2", "\u2167", "\u0663", "\u0e51", "x\u0301", "\u0301", "\u00e9", "\u00df", "\ufb01"),
    *(
        "\u4e2d\u6587",
        "\u65e5\u672c\u8a9e\u3067\u3059\u3002",
        "\uff0c",
        "\u300c",
        "\uff11",
        "\ud55c\uad6d\uc5b4 ",
    ),
    *(
        "\u0421\u043b\u043e\u0432\u043e",
        "\u0643\u062a\u0627\u0628",
        "\u0939\u093f\u0928\u094d\u0926\u0940",
        "\u0e44\u0e17\u0e22",
    ),
    *(
        "\u10d0\u10d1",
        "\u0b85",
        "\u1200",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "\U0001f1e9\U0001f1ea",
        "\ufeff",
    ),
    *("\U00020000", "\U0001d7d8", "\u2014", "\u2019s", "\u00ab", "<|endoftext|>", "\ufffd", "\U0010ffff"),
)
INVALID = (
    *(
        b"\xff",
        b"\xfe",
        b"\x80",
        b"\xbf",
        b"\xc0\xaf",
        b"\xc3",
        b"\xe2\x82",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
    ),
    *(
        b"\xf0\x9f\x98",
        b"\xf0",
        b"\xf8\x88\x80\x80\x80",
        b"\xf4\x90\x80\x80",
        b"\xed\xb0\x80",
        b"\xc3\xc3\xa9",
    ),
)

valid_bytes = st.lists(st.sampled_from(PIECES), max_size=60).map(lambda parts: "".join(parts).encode())
any_bytes = st.lists(
    st.one_of(
        st.sampled_from([piece.encode() for piece in PIECES]),
        st.sampled_from(INVALID),
        st.text(max_size=8).map(lambda text: text.encode("utf-8", "ignore")),
        st.binary(max_size=6),
    ),
    max_size=60,
).map(b"".join)


_LETTERS = (
    "оеаинтсрвлкмдпуяыьгзбчйхж",
    "αοιετσνηυρπκμλωδγχθφβ",
    "اليمونرتبةعدسفهكقحج",
    "कानरेससतीमिहलपयवदग",
    "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出",
    "のにはをたがでてとしれさいなあるもかっこす",
    "านรอกเงมยลวดทสตะปบคห",
    "enisratdhulcgmobwfkzäöüß",
    "이다는에가을의한로고지기",
)


def documents_in_many_languages(n_bytes: int) -> list[tuple[int, str]]:
    """Documents of very different lengths, and the number of the language of each; English is real."""
    rng = np.random.default_rng(0)
    english = real_text().decode(errors="ignore")
    words = [["".join(rng.choice(list(one), rng.integers(1, 9))) for _ in range(2000)] for one in _LETTERS]
    weights = 1 / np.arange(1, 2001)
    documents: list[tuple[int, str]] = []
    while n_bytes > 0:
        language, n_words = int(rng.integers(2 * len(words))), int(np.exp(rng.normal(5.0, 1.2))) + 3
        if language < len(words):
            text = " ".join(rng.choice(words[language], n_words, p=weights / weights.sum())) + ".\n"
        else:
            start, language = int(rng.integers(len(english) - 9 * n_words)), -1
            text = english[start : start + 6 * n_words] + "\n"
        documents.append((language, text))
        n_bytes -= len(text.encode())
    return documents


def real_text() -> bytes:
    """Some megabytes of real prose in real languages: Python's manual and the papers that packages carry."""
    parts = [Path(pydoc_data.topics.__file__).read_bytes()]
    for one in sorted(distributions(), key=lambda one: one.metadata["Name"] or ""):
        text = one.read_text("METADATA") or ""
        parts.append(text.encode("utf-8", "surrogatepass"))
    return b"\n".join(parts).replace(b"<|endoftext|>", b"")  # a run would print a notice about it
