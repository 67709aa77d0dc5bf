"""Find letters and numbers that Unicode has added since version 14.

Each tokeniser has its own Unicode tables, and treats a letter that is missing there as a symbol. Characters
that are in Unicode 14 have been letters, numbers, white space or none of these in every version since; a test
asks both engines about all characters there are.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Ranges from first to last, of Unicode 15.0, 15.1, 16, 17 and 18: the output of scripts/new_letters.
# fmt: off
NEW_LETTERS = (
    (0x558, 0x558), (0x58b, 0x58c), (0x88f, 0x88f), (0xc5c, 0xc5c), (0xcdc, 0xcdc), (0x1c89, 0x1c8a),
    (0x208f, 0x208f), (0x209d, 0x209f), (0xa7cb, 0xa7cf), (0xa7d2, 0xa7d2), (0xa7d4, 0xa7d4),
    (0xa7da, 0xa7dd), (0xa7e2, 0xa7e2), (0xa7f1, 0xa7f1), (0xab6c, 0xab6d), (0x105c0, 0x105f3),
    (0x107bb, 0x107bf), (0x10940, 0x10959), (0x10d40, 0x10d65), (0x10d6f, 0x10d85), (0x10ec2, 0x10ec7),
    (0x10ed9, 0x10eee), (0x1123f, 0x11240), (0x11380, 0x11389), (0x1138b, 0x1138b), (0x1138e, 0x1138e),
    (0x11390, 0x113b5), (0x113b7, 0x113b7), (0x113d1, 0x113d1), (0x113d3, 0x113d3), (0x116d0, 0x116e3),
    (0x11b0a, 0x11b0a), (0x11bc0, 0x11be0), (0x11bf0, 0x11bf9), (0x11db0, 0x11ddb), (0x11de0, 0x11de9),
    (0x11df1, 0x11df1), (0x11f02, 0x11f02), (0x11f04, 0x11f10), (0x11f12, 0x11f33), (0x11f50, 0x11f59),
    (0x1246f, 0x1246f), (0x12475, 0x1247f), (0x12550, 0x12686), (0x1342f, 0x1342f), (0x13441, 0x13446),
    (0x13460, 0x143fa), (0x16100, 0x1611d), (0x16130, 0x16139), (0x16d40, 0x16d6c), (0x16d70, 0x16d79),
    (0x16ea0, 0x16eb8), (0x16ebb, 0x16ed3), (0x16ff2, 0x16ff6), (0x187f8, 0x187ff), (0x18cd6, 0x18cda),
    (0x18cff, 0x18cff), (0x18d09, 0x18d20), (0x18d80, 0x18df2), (0x18e00, 0x19191), (0x191a0, 0x191d2),
    (0x1b123, 0x1b128), (0x1b132, 0x1b132), (0x1b155, 0x1b155), (0x1b168, 0x1b168), (0x1ccf0, 0x1ccf9),
    (0x1d2c0, 0x1d2d3), (0x1d6a6, 0x1d6a6), (0x1df1f, 0x1df81), (0x1df90, 0x1df96), (0x1dfcd, 0x1dfff),
    (0x1e030, 0x1e06d), (0x1e4d0, 0x1e4eb), (0x1e4f0, 0x1e4f9), (0x1e5d0, 0x1e5ed), (0x1e5f0, 0x1e5fa),
    (0x1e6c0, 0x1e6de), (0x1e6e0, 0x1e6e2), (0x1e6e4, 0x1e6e5), (0x1e6e7, 0x1e6ed), (0x1e6f0, 0x1e6f4),
    (0x1e6fe, 0x1e6ff), (0x2b739, 0x2b73f), (0x2b81e, 0x2b81e), (0x2cea2, 0x2cead), (0x2ebf0, 0x2ee5d),
    (0x31350, 0x33479), (0x3d000, 0x3fc3f),
)
# fmt: on

_CONTINUATION = 0x3F  # the payload bits of a continuation byte
_FEW = 3


def has_new_letter(text: bytes) -> bool:
    """Return whether `text`, which is valid UTF-8, has such a character; takes 1 to 4 ms a megabyte.

    For a long text, pass only the part that is not ASCII (`utf8.non_ascii_part`).
    """
    data = np.frombuffer(text, np.uint8)
    beginnings, firsts, lasts = _tables()
    for lead, seconds in beginnings.items():
        if bytes((lead,)) not in text:
            continue
        n_more = 1 + (lead >= 0xE0) + (lead >= 0xF0)
        is_lead = data[:-1] == lead
        # Comparing with a few second bytes takes less time than listing all places.
        is_few = len(seconds) <= _FEW
        for found in (is_lead & (data[1:] == second) for second in seconds) if is_few else (is_lead,):
            if not found.any():
                continue
            places = np.flatnonzero(found)
            codes: NDArray[Any] = np.full(len(places), lead & (_CONTINUATION >> n_more), np.uint32)
            for k in range(1, n_more + 1):
                codes = codes << 6 | data[places + k] & _CONTINUATION
            ranges = np.searchsorted(firsts, codes, side="right")  # 0 is before the first
            if (codes <= lasts[ranges - 1])[ranges > 0].any():
                return True
    return False


@cache
def _tables() -> tuple[dict[int, bytes], NDArray[np.uint32], NDArray[np.uint32]]:
    """Return the first bytes of these characters, each with the second bytes that may follow.

    Return also the first characters of the ranges, and the last ones.
    """
    found: dict[int, set[int]] = {}
    for first, last in NEW_LETTERS:
        for code in {*range(first, last, 64), last}:  # characters with the same first bytes come 64 in a row
            lead, second, *_ = chr(code).encode()
            found.setdefault(lead, set()).add(second)
    firsts, lasts = np.array(NEW_LETTERS, np.uint32).T
    return {lead: bytes(sorted(seconds)) for lead, seconds in found.items()}, firsts, lasts
