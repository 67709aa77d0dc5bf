"""Find the characters on which two tokenisers disagree: letter, number, white space or none of these.

Each brings its own Unicode tables along, and a newer one knows letters that are unassigned in an older one.
So the two are asked, each through its own pre-tokeniser. The means is a small vocabulary that has a token for
a byte and its neighbour wherever these are to be told apart, and so shows where the pattern has broken:

    text for the character c: a c 1 c !      a letter joins the a, a number the 1, other characters the !,
                                             and white space nothing
"""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUP = 4096  # code points that are probed at once, 9 ms; those of one lead byte from E1 to EF
_N_BYTES = 256
_FIRST_LEAD, _LAST_LEAD = 0xC2, 0xF4  # the bytes that begin a character of more than one byte
_CONTINUATION = 0x3F  # the bits of a byte that continues a character

Encode = Callable[[bytes], NDArray[np.uint16]]


def probe_ranks() -> dict[bytes, int]:
    """Build the vocabulary that shows where a text is broken, as tiktoken wants it."""
    leads = [bytes([byte]) for byte in (*range(0x80), *range(_FIRST_LEAD, _LAST_LEAD + 1))]
    last_bytes = [bytes([byte]) for byte in range(0xC0)]
    tokens = [bytes([byte]) for byte in range(_N_BYTES)]
    tokens += [left + lead for left in (b"a", b"1") for lead in leads]
    tokens += [last + b"!" for last in last_bytes]
    return {token: rank for rank, token in enumerate(dict.fromkeys(tokens))}


class ClassDifferences:
    """Finds text that holds a character on which two tokenisers disagree.

    A group of 4,096 code points is probed when a character of it is first met, and before any text that has
    one is let pass. So English costs two groups, and nobody waits for all of Unicode (0.6 s).
    """

    def __init__(self, make_encoders: Callable[[dict[bytes, int]], tuple[Encode, Encode]]) -> None:
        """Take what makes both tokenisers from ranks; made for each round of probing, and dropped."""
        self._make_encoders = make_encoders
        self._lock = threading.Lock()
        self._differing: dict[int, NDArray[np.bool_]] = {}  # by group, (4096,)
        self._leads = tuple(range(_FIRST_LEAD, _LAST_LEAD + 1))  # those that may begin such a character

    def are_in(self, text: bytes) -> bool:
        """Whether `text`, valid UTF-8, holds such a character; at most 0.2 ms a megabyte of most text."""
        if text.isascii():
            return False
        data = np.frombuffer(text, np.uint8)
        top = data.max()
        leads = [lead for lead in self._leads if lead <= top and bytes((lead,)) in text]
        codes = [_codes_after(lead, data) for lead in leads]
        groups = [np.flatnonzero(np.bincount(some // GROUP)).tolist() for some in codes]
        differing = self.in_groups({group for some in groups for group in some})
        return any(
            differing[group].any() and differing[group][some[some // GROUP == group] % GROUP].any()
            for some, its_groups in zip(codes, groups, strict=True)
            for group in its_groups
        )

    def in_groups(self, groups: set[int]) -> dict[int, NDArray[np.bool_]]:
        """Say of all code points of `groups` whether the tokenisers disagree on them; each is probed once."""
        with self._lock:
            unknown = groups - self._differing.keys()
            if unknown:
                encoders = self._make_encoders(probe_ranks())  # 10 ms, and 24 MB until they are dropped
                self._differing |= {group: _probe(group, *encoders) for group in unknown}
                self._leads = tuple(lead for lead in self._leads if self._may_differ(lead))
            return {group: self._differing[group] for group in groups}

    def _may_differ(self, lead: int) -> bool:
        """Whether a lead byte must still be looked for: its group is unknown, or has differences."""
        if lead >= 0xF0:
            return True  # it has 64 groups
        group, width = (0, 64) if lead < 0xE0 else (lead & 0x0F, GROUP)
        first = (lead & 0x1F) * 64 if lead < 0xE0 else 0
        known = self._differing.get(group)
        return known is None or bool(known[first : first + width].any())


def _codes_after(lead: int, data: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Decode the characters that begin with `lead`."""
    places = np.flatnonzero(data == lead)
    n_more = 1 + (lead >= 0xE0) + (lead >= 0xF0)
    codes: NDArray[Any] = np.full(len(places), lead & (_CONTINUATION >> n_more), np.uint32)
    for k in range(1, n_more + 1):
        codes = codes << 6 | data[places + k] & _CONTINUATION
    return codes


def _probe(group: int, one: Encode, other: Encode) -> NDArray[np.bool_]:
    """Ask both tokenisers about a group."""
    codes = np.arange(group * GROUP, (group + 1) * GROUP, dtype=np.uint32)
    codes = codes[(codes < 0xD800) | (codes > 0xDFFF)]  # surrogates are no characters
    differing = np.zeros(GROUP, np.bool_)
    units = np.empty((len(codes), 5), "<u4")
    units[:, 0], units[:, 2], units[:, 4] = map(ord, "a1!")
    units[:, 1] = units[:, 3] = codes
    text = units.tobytes().decode("utf-32-le").encode()
    if np.array_equal(one(text), other(text)):
        return differing
    for code in codes.tolist():
        unit = f"a{chr(code)}1{chr(code)}!".encode()
        differing[code % GROUP] = not np.array_equal(one(unit), other(unit))
    return differing
