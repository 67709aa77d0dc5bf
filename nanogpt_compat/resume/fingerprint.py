"""Describe inputs and options, and decide whether they would give the same tokens."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nanogpt_compat.input.location import Input
from nanogpt_compat.system.redaction import redact_record

TOKEN_FORMAT = 3
"""Increase it by hand whenever the program makes other tokens or splits from the same input."""

TEXT_BYTES = "bytes of text"
DOCUMENT_SHARE = "share of documents for validation"
_DERIVED = {
    TEXT_BYTES: "the size of all text, which decides the validation windows,",
    DOCUMENT_SHARE: f"the {DOCUMENT_SHARE}",
}
"""Values derived from inputs and options together, compared like options, and their names in messages."""

_DIGEST_BYTES = 16
_HINTS = "mtime_ctime_inode"  # may change although the content is the same


def describe_input(
    size_bytes: int | None, hints: Sequence[object], samples: Iterable[bytes], *, split: str = ""
) -> dict[str, Any]:
    """Return a description of an input: size, a digest of `samples`, and hints of a change (timestamps).

    `split`: all of it is for that split; "" for both.
    """
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for sample in samples:
        digest.update(sample)
    return {
        "size": size_bytes,
        "samples": digest.hexdigest(),
        _HINTS: list(hints),
        **({"split": split} if split else {}),
    }


def has_hint_of_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether timestamps or the like suggest that the content may have changed."""
    return bool(old[_HINTS] != new[_HINTS])


def may_have_changed(old: Mapping[str, Any], new: Mapping[str, Any], *, same_samples: bool) -> bool:
    """Return whether an input must be read again to know if it is still the same.

    `same_samples`: the samples of both are from the same places, which depend on the sizes of all inputs.
    """
    if old["size"] != new["size"] or has_hint_of_change(old, new):
        return True
    return bool(old["samples"] != new["samples"]) if same_samples else not new[_HINTS]


def digest_of(config: Mapping[str, Any], inputs: Sequence[Input]) -> str:
    """Return a digest of everything that decides the tokens."""
    certain = [certain_of(one.description) for one in inputs]
    text = json.dumps([config, certain], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()


def certain_of(described: Mapping[str, Any]) -> list[Any]:
    """Return what must be equal for the same input: size, digest, and split if it is not for both."""
    return [described["size"], described["samples"], *([described["split"]] if "split" in described else [])]


def _show(value: object) -> str:
    if isinstance(value, bool):
        return "given" if value else "not given"
    if isinstance(value, int):
        return f"{value:,}"
    return "not given" if value is None else str(value)


def option_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return a phrase for each option that differs, for a message.

    >>> option_differences({"--errors": "ignore"}, {"--errors": "replace"})
    ['--errors was ignore and is replace']
    """
    old, new = redact_record(old), redact_record(new)  # as in journals and reports
    names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    # If only one of the two has a derived value, it depends on an option that differs: name only that.
    shown = [name for name in names if name not in _DERIVED or (name in old and name in new)] or names
    return [
        f"{_DERIVED.get(name, name)} was {_show(old.get(name))} and is {_show(new.get(name))}"
        for name in shown
    ]


def _count(n_bytes: int | None) -> str:
    return "an unknown number of" if n_bytes is None else f"{n_bytes:,}"


def differences(
    old_config: Mapping[str, Any],
    new_config: Mapping[str, Any],
    old_inputs: Sequence[Mapping[str, Any]],
    inputs: Sequence[Input],
) -> list[str]:
    """Return a phrase for each option or input that differs, for a message."""
    found = option_differences(old_config, new_config)
    if len(old_inputs) != len(inputs):
        return [*found, f"the number of inputs was {len(old_inputs):,}, is {len(inputs):,}"]
    found += size_differences(old_inputs, inputs)
    for old, one in zip(old_inputs, inputs, strict=True):
        new = one.description
        if old["size"] == new["size"] and old["samples"] != new["samples"]:
            found.append(f"{one.location} has different content than before")
        was, now = old.get("split"), new.get("split")
        if was and now and was != now:
            found.append(f"{one.location} was for {was} and is for {now}")
    return found


def size_differences(old_inputs: Sequence[Mapping[str, Any]], inputs: Sequence[Input]) -> list[str]:
    """Return a phrase for each input whose size differs; compares only as many as both have."""
    return [
        f"{one.location} had {_count(old['size'])} bytes and has {_count(one.size_bytes)}"
        for old, one in zip(old_inputs, inputs, strict=False)
        if old["size"] != one.size_bytes
    ]
