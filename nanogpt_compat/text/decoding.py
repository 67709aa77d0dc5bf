"""Decode blocks as text mode does: `open(path, "r", encoding="utf-8", errors=...)`."""

import re

from nanogpt_compat.text.blocks import Block
from nanogpt_compat.text.utf8 import is_utf8

INVALID = re.compile("[\udc80-\udcff]")  # what `surrogateescape` decodes an invalid byte to
_MAX_OFFSETS = 10


def ends_in_cr(raw: bytes, errors: str, before: bool) -> bool:
    """Whether the text up to the end of `raw` ends in a carriage return.

    `errors` decides which bytes are text. `before` is the answer for the text before `raw`.
    """
    text = raw.decode("utf-8", errors if errors == "ignore" else "replace")
    return text.endswith("\r") if text else before


def decode(block: Block, errors: str) -> str:
    r"""Decode a block as text mode does: invalid bytes according to `errors`, `\r\n` and `\r` to `\n`.

    Raises:
        UnicodeDecodeError: `errors` is `strict` and a byte is invalid; `start` is its offset in `block.raw`.
    """
    text = block.raw.decode("utf-8", errors)
    if block.start.after_cr and text.startswith("\n"):
        text = text[1:]
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text


def lenient(errors: str) -> str:
    """Return a policy that never raises, for inspecting text: the encoder enforces `strict`."""
    return "ignore" if errors == "strict" else errors


def as_utf8(block: Block, errors: str) -> bytes:
    r"""Return what `decode` returns, as UTF-8; without a copy if the block is valid and has no `\r`.

    Raises:
        UnicodeDecodeError: as `decode` does.
    """
    raw = block.raw
    if not is_utf8(raw):
        return decode(block, errors).encode()
    if block.start.after_cr:
        raw = raw.removeprefix(b"\n")
    if b"\r" in raw:  # which is never a part of another character
        raw = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return raw


def find_invalid_bytes(raw: bytes) -> tuple[int, tuple[int, ...]]:
    r"""Count the bytes that are not valid UTF-8; return also the offsets of the first ten.

    >>> find_invalid_bytes(b"caf\xe9 \xff")
    (2, (3, 5))
    """
    text = raw.decode("utf-8", "surrogateescape")
    n_invalid = len(text) - len(INVALID.sub("", text))
    offsets: list[int] = []
    done_chars = position = 0
    for match in INVALID.finditer(text):
        position += len(text[done_chars : match.start()].encode("utf-8", "surrogateescape"))
        done_chars = match.start()
        offsets.append(position)
        if len(offsets) == _MAX_OFFSETS:
            break
    return n_invalid, tuple(offsets)
