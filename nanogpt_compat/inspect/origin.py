"""Find the input that a token came from, with the counts in prepare.json."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from nanogpt_compat.text.val_split import FIRST_SHARD


@dataclass(frozen=True, slots=True)
class Origin:
    """The input of a token, and which of its tokens it is."""

    path: str
    position: int
    n_tokens: int
    split: str  # these are the tokens of the input in this split; "" for all


def origin_of(made: Mapping[str, Any], split: str, position: int) -> Origin | None:
    """Return where the token at `position` of a split came from; None if prepare.json does not show it.

    In each split, the tokens of the inputs are in the order of the inputs.
    """
    n_val = made["tokens"].get("val", 0)
    inputs = made["inputs"]
    is_one_stream = made["val_split"]["name"] == FIRST_SHARD  # val is its beginning
    if is_one_stream:
        counts = [one["tokens"] for one in inputs]
        position += n_val if split == "train" else 0
    else:
        of_val = [one.get("val_tokens") if n_val else 0 for one in inputs]
        if len(inputs) == 1:
            of_val = [n_val]
        if None in of_val:  # an earlier version did not count them
            return None
        counts = [n if split == "val" else one["tokens"] - n for one, n in zip(inputs, of_val, strict=True)]
    starts = [0, *accumulate(counts)]
    index = bisect_right(starts, position) - 1  # the last of equal starts: those before it have no tokens
    if index >= len(inputs):
        return None
    return Origin(
        inputs[index]["path"], position - starts[index], counts[index], "" if is_one_stream else split
    )
