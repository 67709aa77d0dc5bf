"""Find the characters that two tokenisers classify differently: as letter, number, white space or other.

Each tokeniser has its own Unicode tables, and a newer one knows letters that are unassigned in an older one.
So both are probed through their own pre-tokenisers, with a small vocabulary. It has a token for each pair of
bytes that a class would join, so the tokens show where the pattern has split the text:

    text for the character c: a c 1 c !      a letter joins the a, a number the 1, other characters the !,
                                             and white space nothing
"""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.system.threads import start_pool
from nanogpt_compat.text.utf8 import non_ascii_part

GROUP = 4096  # code points that are probed at once, in 6 ms; from E1 to EF, those of one lead byte
# Groups that occur together: alphabets, punctuation and most emoji; the rest of the basic plane, which is
# mostly Chinese, Japanese and Korean.
_TOGETHER = ({*range(4), 0xF, 0x1F}, {*range(4, 0xF)})
_N_THREADS = 2  # the threads that encode wait for the probe, so CPUs are free
_N_BYTES = 256
_FIRST_LEAD, _LAST_LEAD = 0xC2, 0xF4  # the first bytes of characters of more than one byte
_CONTINUATION = 0x3F  # the payload bits of a continuation byte

Encode = Callable[[bytes], NDArray[np.uint16]]


def probe_ranks() -> dict[bytes, int]:
    """Return the vocabulary that shows where a text is split, as tiktoken's ranks."""
    leads = [bytes([byte]) for byte in (*range(0x80), *range(_FIRST_LEAD, _LAST_LEAD + 1))]
    last_bytes = [bytes([byte]) for byte in range(0xC0)]
    tokens = [bytes([byte]) for byte in range(_N_BYTES)]
    tokens += [left + lead for left in (b"a", b"1") for lead in leads]
    tokens += [last + b"!" for last in last_bytes]
    return {token: rank for rank, token in enumerate(dict.fromkeys(tokens))}


class ClassDifferences:
    """Finds text with a character on which two tokenisers disagree.

    A group of 4,096 code points is probed before the first text that has a character of it is encoded; groups
    that often occur together are probed together. So no run waits until all of Unicode is probed.
    """

    def __init__(self, make_encoders: Callable[[dict[bytes, int]], tuple[Encode, Encode]]) -> None:
        """`make_encoders` returns both tokenisers for given ranks; it is called for each probe."""
        self._make_encoders = make_encoders
        self._lock = threading.Lock()
        self._differing: dict[int, NDArray[np.bool_]] = {}  # by group, (4096,)
        # By the first byte of a character, (256,) bool by the second: may the tokenisers disagree on it?
        self._suspects = {lead: self._suspects_after(lead) for lead in range(_FIRST_LEAD, _LAST_LEAD + 1)}

    def are_in(self, text: bytes) -> bool:
        """Whether `text`, which is valid UTF-8, has such a character; takes 0.1 to 0.5 ms a megabyte."""
        if text.isascii():
            return False
        text = non_ascii_part(text)
        data = np.frombuffer(text, np.uint8)
        top = data.max()
        codes = [
            _codes_at(places, data)
            for lead, suspects in self._suspects.items()
            if lead <= top and bytes((lead,)) in text and len(places := _places(data, lead, suspects))
        ]
        groups = {group for some in codes for group in np.flatnonzero(np.bincount(some // GROUP)).tolist()}
        differing = self.in_groups(groups)
        return any(
            differing[group][some[some // GROUP == group] % GROUP].any() for some in codes for group in groups
        )

    def in_groups(self, groups: set[int]) -> dict[int, NDArray[np.bool_]]:
        """Return (4096,) bool for each group: the tokenisers disagree on a code point. Probe each once."""
        with self._lock:
            unknown = groups - self._differing.keys()
            for together in _TOGETHER:
                if unknown & together:
                    unknown |= together - self._differing.keys()
            if unknown:
                self._differing |= self._probe(sorted(unknown))
                suspects = {lead: self._suspects_after(lead) for lead in self._suspects}
                self._suspects = {lead: some for lead, some in suspects.items() if some.any()}
            return {group: self._differing[group] for group in groups}

    def _probe(self, groups: list[int]) -> dict[int, NDArray[np.bool_]]:
        encoders = self._make_encoders(probe_ranks())  # 10 ms, and 40 MB until they are dropped
        with start_pool(_N_THREADS, "probe") as pool:
            return dict(zip(groups, pool.map(lambda group: _probe(group, *encoders), groups), strict=True))

    def _suspects_after(self, lead: int) -> NDArray[np.bool_]:
        """Return (256,) bool: a character may differ that starts with `lead` and this second byte."""
        unknown = np.ones(GROUP, np.bool_)
        suspects = np.zeros(_N_BYTES, np.bool_)
        if lead >= 0xF0:
            groups = ((lead & 0x07) << 6) + np.arange(64)
            suspects[0x80:0xC0] = [self._differing.get(group, unknown).any() for group in groups.tolist()]
        elif lead >= 0xE0:
            suspects[0x80:0xC0] = self._differing.get(lead & 0x0F, unknown).reshape(64, 64).any(axis=1)
        else:
            suspects[0x80:0xC0] = self._differing.get(0, unknown).reshape(64, 64)[lead & 0x1F]
        return suspects


def _places(data: NDArray[np.uint8], lead: int, suspects: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Find where `lead` is followed by one of the second bytes `suspects`."""
    places = np.flatnonzero(data == lead)
    return places[suspects[data[places + 1]]]


def _codes_at(places: NDArray[np.intp], data: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Decode the characters at `places`, which have the same first byte."""
    lead = int(data[places[0]])
    n_more = 1 + (lead >= 0xE0) + (lead >= 0xF0)
    codes: NDArray[Any] = np.full(len(places), lead & (_CONTINUATION >> n_more), np.uint32)
    for k in range(1, n_more + 1):
        codes = codes << 6 | data[places + k] & _CONTINUATION
    return codes


def _probe(group: int, one: Encode, other: Encode) -> NDArray[np.bool_]:
    """Return (4096,) bool: the tokenisers disagree on this code point of the group."""
    codes = np.arange(group * GROUP, (group + 1) * GROUP)
    codes = codes[(codes < 0xD800) | (codes > 0xDFFF)]  # surrogates are not characters
    differing = np.zeros(GROUP, np.bool_)
    differing[_find_differing(codes, one, other) % GROUP] = True
    return differing


def _find_differing(codes: NDArray[np.int_], one: Encode, other: Encode) -> NDArray[np.int_]:
    """Return the `codes` that differ: split what differs into smaller parts. Most groups do not differ."""
    units = np.empty((len(codes), 5), "<u4")
    units[:, 0], units[:, 2], units[:, 4] = map(ord, "a1!")
    units[:, 1] = units[:, 3] = codes
    text = units.tobytes().decode("utf-32-le").encode()
    if np.array_equal(one(text), other(text)):
        return codes[:0]
    if len(codes) == 1:
        return codes
    parts = np.array_split(codes, min(16, len(codes)))
    return np.concatenate([_find_differing(part, one, other) for part in parts])
