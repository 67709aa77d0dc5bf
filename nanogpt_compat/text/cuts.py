r"""Find where a text can be cut so that its pieces, tokenised alone, give the tokens of the whole.

GPT-2's pre-tokeniser splits text with

    '(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

and BPE merges nothing across its pieces. With L a letter, N a number, S white space and P any other
character, the pattern always breaks between these neighbours, regardless of the text around them:

    L|N  N|L  L|P  N|P  P|N  P|L (unless the left one is an apostrophe)  and  (L or N or P)|S

An *exact cut* is such a place. A place after white space never is: `\s+(?!\S)` looks ahead. All
positions here are byte offsets into UTF-8. Whether a character is valid, and so whether a place is an
exact cut, depends only on the few bytes around it. Source of the pattern: openai/gpt-2, src/encoder.py;
of the table: the Unicode Character Database, versions 3.2 to 17.
"""

import re

MAX_PIECE_BYTES = 512 * 1024
"""The longest stretch that is tokenised in one piece. GPT-2's BPE needs about 45 bytes of memory for each
byte of an unbroken stretch, and cannot be interrupted."""

# The tables list only characters whose class is the same in every version of Unicode since 3.2, so that the
# tables of this Python, of tiktoken and of any other engine agree; and among them only frequent ones. Next
# to a character that is not listed there is no cut, except before white space.
LETTERS = (
    "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u0220\u0250-\u02ad\u03a3-\u03ce\u0400-\u0481\u05d0-\u05ea"
    "\u0621-\u063a\u0641-\u064a\u0905-\u0939\u0e01-\u0e30\u10d0-\u10f0\u1e00-\u1e9b\u1ea0-\u1ef9"
    "\u3041-\u3094\u30a1-\u30fa\u3105-\u312c\u3400-\u4db5\u4e00-\u9fa5\uac00-\ud7a3"
    "\uff21-\uff3a\uff41-\uff5a\uff66-\uff9d\U00020000-\U0002a6d6"
)
NUMBERS = "0-9\u00b2\u00b3\u00b9\u00bc-\u00be\u0660-\u0669\u06f0-\u06f9\u0966-\u096f\uff10-\uff19"
SPACES = "\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
OTHERS = (  # control characters, punctuation, symbols, combining marks
    "\\0-\\x08\\x0e-\\x1f!-&(-/:-@\\[-`{-\u0084\u0086-\u009f\u00a1-\u00a9\u00ab-\u00b1\u00b4\u00b6-\u00b8"
    "\u00bb\u00bf\u00d7\u00f7\u0300-\u034e\u060c\u061b\u061f\u064b-\u0652\u0964\u0965\u0e31\u0e34-\u0e3a"
    "\u0e47-\u0e4e\u2010-\u2027\u2030-\u2046\u20a0-\u20af\u2190-\u21ff\u2500-\u25f7\u3001-\u3003"
    "\u3008-\u3020\u3099-\u309c\u30fb\ufe30-\ufe44\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
)
# U+180E was white space until Unicode 6.3; lone surrogates represent invalid bytes.
_NEVER_LEFT_OF_SPACE = SPACES + "\u180e\ud800-\udfff"

_EXACT_CUT = re.compile(
    f"(?<=[^{_NEVER_LEFT_OF_SPACE}])(?=[{SPACES}])"
    f"|(?<=[{LETTERS}])(?=[{NUMBERS}{OTHERS}'])"
    f"|(?<=[{NUMBERS}])(?=[{LETTERS}{OTHERS}'])"
    f"|(?<=[{OTHERS}])(?=[{LETTERS}{NUMBERS}])"
    f"|(?<=')(?=[{NUMBERS}])"
)

_MAX_CHAR_BYTES = 4
_FIRST_SPAN_BYTES = 16  # in most text, any 16 bytes contain a cut
_CELL_BYTES = 16 * 1024


def _cuts_in(data: bytes, start: int, end: int) -> list[int]:
    """List every exact cut `p` of `data` with `start <= p <= end`, in order.

    Invalid bytes are decoded to lone surrogates, which are in no class. UTF-8 is self-synchronising, so
    decoding from four bytes before `start` to four after `end` gives both neighbours of each place the
    same characters as decoding the whole.
    """
    left = max(0, start - _MAX_CHAR_BYTES)
    text = data[left : end + _MAX_CHAR_BYTES].decode("utf-8", "surrogateescape")
    cuts = []
    done_chars, position = 0, left
    for match in _EXACT_CUT.finditer(text):
        position += len(text[done_chars : match.start()].encode("utf-8", "surrogateescape"))
        done_chars = match.start()
        if start <= position <= end:
            cuts.append(position)
    return cuts


def last_cut(data: bytes, start: int, end: int) -> int | None:
    """Find the last exact cut `p` of `data` with `start <= p <= end`; None if there is none.

    Both neighbours of a cut must be inside `data`, so its two ends are never cuts.

    >>> last_cut(b"to be, or not", 0, 13)
    9
    """
    span = _FIRST_SPAN_BYTES
    while end >= start:
        low = max(start, end - span)
        cuts = _cuts_in(data, low, end)
        if cuts:
            return cuts[-1]
        end = low - 1
        span *= 4
    return None


def first_cut(data: bytes, start: int, end: int) -> int | None:
    """Find the first exact cut `p` of `data` with `start <= p <= end`; None if there is none.

    >>> first_cut(b"to be, or not", 3, 13)
    5
    """
    span = _FIRST_SPAN_BYTES
    while start <= end:
        high = min(end, start + span)
        cuts = _cuts_in(data, start, high)
        if cuts:
            return cuts[0]
        start = high + 1
        span *= 4
    return None


def longest_stretch_bytes(data: bytes) -> int:
    """Return an upper bound of the longest stretch of `data` without an exact cut; at most 32 KiB too high.

    Looks for one cut in each 16 KiB. That does several GB/s on prose; listing all cuts does 20 MB/s.
    """
    longest = last = 0
    for start in range(0, len(data), _CELL_BYTES):
        cut = first_cut(data, start, min(start + _CELL_BYTES, len(data)) - 1)
        if cut is not None:
            longest = max(longest, cut - last)
            last = cut
    return max(longest, len(data) - last)
