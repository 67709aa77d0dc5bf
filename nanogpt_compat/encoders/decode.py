"""Turn tokens back into text, to show it."""

from collections.abc import Iterable

import tiktoken


def decode(ids: Iterable[int], encoding: tiktoken.Encoding) -> str:
    r"""Return the text of tokens. Bytes that are no characters become lone surrogates (`surrogateescape`).

    Numbers that are no tokens are shown as such.

    >>> from nanogpt_compat.encoders.vocabulary import load_gpt2
    >>> decode([15496, 50256, 160, 51000], load_gpt2())
    'Hello<|endoftext|>\udce4<|51000|>'
    """
    raw = b"".join(
        encoding.decode_single_token_bytes(one) if one < encoding.n_vocab else b"<|%d|>" % one for one in ids
    )
    return raw.decode("utf-8", "surrogateescape")


def tokens_for(n_chars: int) -> int:
    """Return how many tokens have more than `n_chars` whole characters: one may take four, and be cut."""
    return 4 * n_chars + 4


def excerpt(text: str, n_chars: int, *, from_end: bool = False) -> str:
    """Return the first characters of a text, or the last, with dots if there are more.

    >>> excerpt("It was the best of times", 10), excerpt("It was the best of times", 5, from_end=True)
    ('It was the...', '...times')
    """
    if len(text) <= n_chars:
        return text
    return f"...{text[-n_chars:]}" if from_end else f"{text[:n_chars]}..."
