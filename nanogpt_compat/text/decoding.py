"""Decode blocks as text mode does: `open(path, "r", encoding="utf-8", errors=...)`."""

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from nanogpt_compat.text.blocks import Block, Position
from nanogpt_compat.text.utf8 import valid_non_ascii

INVALID = re.compile("[\udc80-\udcff]")  # what `surrogateescape` decodes an invalid byte to
_MAX_OFFSETS = 10
_CR, _LF = b"\r\n"
_PART_BYTES = 16 * 1024
_PART_START = re.compile(rb"[\0-\t\v-\x7f]")  # begins a character; not LF, which may follow a CR


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


def as_utf8(block: Block, errors: str) -> tuple[bytes, bytes | None]:
    r"""Return what `decode` returns, as UTF-8; without a copy if the block is valid and has no `\r`.

    Returns also the part of it that is not ASCII (`utf8.non_ascii_part`), or None if a byte is not valid.
    Raises as `decode` does.
    """
    raw = block.raw
    non_ascii = valid_non_ascii(raw)
    if non_ascii is None:
        return decode(block, errors).encode(), None
    if block.start.after_cr:
        raw = raw.removeprefix(b"\n")
    # A carriage return is never a part of another character.
    return _with_line_feeds(raw) if b"\r" in raw else raw, non_ascii


def _with_line_feeds(raw: bytes) -> bytes:
    r"""Replace each `\r\n` and `\r` with `\n`.

    >>> _with_line_feeds(b"a\r\nb\rc\r"), _with_line_feeds(b"a\r\n")
    (b'a\nb\nc\n', b'a\n')
    """
    data = np.frombuffer(raw, np.uint8)
    is_cr = data == _CR
    if np.count_nonzero(is_cr) == np.count_nonzero(is_cr[:-1] & (data[1:] == _LF)):
        return raw.replace(b"\r", b"")  # a quarter of the time of the other way
    return raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


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


def end_of_chars(block: Block, n_chars: int, errors: str) -> int:
    """Return the smallest number of a block's bytes that decode to its first `n_chars` characters."""
    n_before = 0
    for part in _parts_of(block):
        n_new = len(decode(part, errors))
        if n_chars <= n_new:
            break
        n_chars -= n_new
        n_before += len(part.raw)
    else:
        return n_before
    text = decode(part, errors)[:n_chars]

    def prefix(n_bytes: int) -> str:
        return decode(replace(part, raw=part.raw[:n_bytes]), errors)

    low = bisect_left(range(len(part.raw)), n_chars, key=lambda n_bytes: len(prefix(n_bytes)))
    while low < len(part.raw) and prefix(low) != text:  # with `replace`, half a character counts as one
        low += 1
    return n_before + low


def _parts_of(block: Block) -> Iterator[Block]:
    """Cut a block into parts of 16 KiB, or more if ASCII is rare; each decodes to a part of its text."""
    start = 0
    while start < len(block.raw):
        found = _PART_START.search(block.raw, start + _PART_BYTES)
        end = found.start() if found else len(block.raw)
        part = replace(block, raw=block.raw[start:end])
        yield part if start == 0 else replace(part, start=Position(0))
        start = end
