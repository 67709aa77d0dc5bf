"""Tell whether an input is still the same, and whether the same options would make the same tokens."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

TOKEN_FORMAT = 2
"""Raise it by hand whenever the program makes other tokens or other splits of the same input."""

_DIGEST_BYTES = 16
_HINTS = "mtime_ctime_inode"  # may differ without the content being another


def describe_input(
    size_bytes: int | None, hints: Sequence[object], samples: Iterable[bytes]
) -> dict[str, Any]:
    """Describe an input by size and sampled content, and by hints that it may have changed."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for sample in samples:
        digest.update(sample)
    return {
        "size": size_bytes,
        "samples": digest.hexdigest(),
        _HINTS: list(hints),
    }


def has_hint_of_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a file should be read again to be sure that it is as it was."""
    return bool(old[_HINTS] != new[_HINTS])


def digest_of(config: Mapping[str, Any], inputs: Sequence[Mapping[str, Any]]) -> str:
    """Put everything that decides the tokens into one word."""
    certain = [[one["size"], one["samples"]] for one in inputs]
    text = json.dumps([config, certain], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()


def _say(value: object) -> str:
    return "not given" if value is None else str(value)


def _count(n_bytes: int | None) -> str:
    return "an unknown number of" if n_bytes is None else f"{n_bytes:,}"


def differences(
    old_config: Mapping[str, Any],
    new_config: Mapping[str, Any],
    old_inputs: Sequence[Mapping[str, Any]],
    new_inputs: Sequence[Mapping[str, Any]],
    paths: Sequence[object],
) -> list[str]:
    """Say, for a person, what is not the same.

    >>> differences({"errors": "ignore"}, {"errors": "replace"}, [], [], [])
    ['errors was ignore and is replace']
    """
    found = [
        f"{name} was {_say(old_config.get(name))} and is {_say(new_config.get(name))}"
        for name in sorted({*old_config, *new_config})
        if old_config.get(name) != new_config.get(name)
    ]
    if len(old_inputs) != len(new_inputs):
        found.append(f"there were {len(old_inputs):,} inputs and are {len(new_inputs):,}")
        return found
    for path, old, new in zip(paths, old_inputs, new_inputs, strict=True):
        if old["size"] != new["size"]:
            found.append(f"{path} had {_count(old['size'])} bytes and has {_count(new['size'])}")
        elif old["samples"] != new["samples"]:
            found.append(f"{path} has other content than it had")
    return found
