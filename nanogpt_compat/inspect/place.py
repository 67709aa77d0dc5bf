"""Show one place in token files: the text around a token, or a document."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from nanogpt_compat.encoders.decode import excerpt, tokens_for
from nanogpt_compat.errors import UsageError
from nanogpt_compat.inspect.dataset import Dataset, Part
from nanogpt_compat.inspect.overview import Decode, text_lines
from nanogpt_compat.inspect.table import fold
from nanogpt_compat.output.layout import split_in_name
from nanogpt_compat.output.stream import count_documents, find_document, is_end
from nanogpt_compat.output.token_file import TOKEN
from nanogpt_compat.report import REPORT_NAME
from nanogpt_compat.system.display import visible
from nanogpt_compat.system.redaction import redact
from nanogpt_compat.system.units import plural
from nanogpt_compat.text.val_split import FIRST_SHARD, VAL_INPUT

_INSTEAD = "give a token, such as --at 0"
_PLACE = re.compile(r"(?:(train|val):)?(document:)?(-?\d[\d,_]*)", re.ASCII)
_N_IDS = 5  # on each side of the token
_AROUND_CHARS = 120  # on each side
_DOCUMENT_CHARS = 500  # at each end


@dataclass(frozen=True, slots=True)
class Place:
    """A place as it was typed. A negative number counts from the end."""

    split: str  # "" if it was not given
    is_document: bool
    number: int


def parse_place(text: str) -> Place:
    """Parse the value of `--at`.

    >>> parse_place("train:123,456"), parse_place("document:-1")
    (Place(split='train', is_document=False, number=123456), Place(split='', is_document=True, number=-1))
    """
    match = _PLACE.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"--at {text}: give a token such as train:123456, val:0 or val:-1 (the last one), or a document "
            "such as document:17 or val:document:0; all count from 0"
        )
    return Place(match[1] or "", bool(match[2]), int(re.sub("[,_]", "", match[3])))


def show_place(dataset: Dataset, place: Place, decode: Decode | None, *, width: int) -> Iterator[str]:
    """Yield the lines about a place; without `decode` there are no texts."""
    if dataset.is_folder:
        part = dataset.part(place.split or "train")
    else:
        (part,) = dataset.parts
        if place.split:
            raise UsageError(f"{dataset.path} is one file: give --at without {place.split}:")
    if place.is_document:
        return _show_document(dataset, part, place.number, decode, width)
    return _show_token(dataset, part, place.number, decode, width)


def _show_token(
    dataset: Dataset, part: Part, number: int, decode: Decode | None, width: int
) -> Iterator[str]:
    stream = part.stream
    position = number + (stream.n_tokens if number < 0 else 0)
    if not 0 <= position < stream.n_tokens:
        raise UsageError(f"there is no token {number:,}: {part.name} has {_range(stream.n_tokens, 'token')}")
    n_around = tokens_for(_AROUND_CHARS)
    first, last = max(0, position - n_around), min(stream.n_tokens, position + 1 + n_around)
    ids = stream.read(first, last)
    before, token, after = ids[: position - first], int(ids[position - first]), ids[position - first + 1 :]
    file, index = stream.place_of(position)
    byte = file.header_bytes + index * TOKEN.itemsize
    around = [*map(str, before[-_N_IDS:]), f"[[{token}]]", *map(str, after[:_N_IDS])]
    for line in (
        f"{_name(dataset, part, position)} of {plural(stream.n_tokens, 'token')}: token {index:,} of "
        f"{file.path.name}, at byte {byte:,}",
        _input_of(dataset, part, position),
        f"ids: {' '.join(around)}",
    ):
        yield from fold(visible(line), width=width, indent="  ")
    if decode is not None:
        earlier = excerpt(decode(before.tolist()), _AROUND_CHARS, from_end=True)
        later = excerpt(decode(after.tolist()), _AROUND_CHARS)
        yield from text_lines("text: ", f"{earlier}[[{decode([token])}]]{later}", width=width)


def _name(dataset: Dataset, part: Part, position: int) -> str:
    """Return the place of a token as `--at` takes it, for the folder or the file that was given."""
    return f"{part.split}:{position:,}" if dataset.is_folder else f"{position:,}"


def _range(n: int, noun: str) -> str:
    return plural(n, noun) + (f", 0 to {n - 1:,}" if n else "")


def _input_of(dataset: Dataset, part: Part, position: int) -> str:
    made = dataset.made
    if made is None:
        return f"input: unknown, without the {REPORT_NAME} of the run"
    if dataset.misfits:
        return f"input: unknown, because some files are not as {REPORT_NAME} says"
    if made.get("shuffle"):
        return "input: unknown, because the documents are shuffled"
    origin = _origin_of(made, part.split, dataset.offset + position)
    if origin is None:
        return f"input: unknown, because {REPORT_NAME} is of a version that did not count by input and split"
    path, position, n_tokens = origin
    is_one_stream = made["val_split"]["name"] == FIRST_SHARD
    where = f" in {part.split}" if part.split and not is_one_stream else ""
    return f"input: {redact(path)}, token {position:,} of its {n_tokens:,}{where}"


def _origin_of(made: Mapping[str, Any], split: str, position: int) -> tuple[str, int, int] | None:
    """Return the input of a token, its position among the tokens of that input, and how many these are.

    In each split, the tokens of the inputs are in the order of the inputs. Return None if prepare.json does
    not show where the token came from.
    """
    n_val = made["tokens"].get("val", 0)
    inputs = made["inputs"]
    if made["val_split"]["name"] == FIRST_SHARD:  # one stream, of which val is the beginning
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
    return inputs[index]["path"], position - starts[index], counts[index]


def _show_document(
    dataset: Dataset, part: Part, number: int, decode: Decode | None, width: int
) -> Iterator[str]:
    stream, eot = part.stream, _eot_of(dataset, part)
    if number < 0:
        number += count_documents(stream, eot)
    found = find_document(stream, number, eot) if number >= 0 else None
    if found in (None, (0, stream.n_tokens)):
        n_documents = count_documents(stream, eot)
        if not stream.n_tokens or (eot == "append" and n_documents == 1 and not is_end(stream, -1)):
            raise UsageError(f"{part.name} has no end-of-text tokens, which end documents; {_INSTEAD}")
    if found is None:
        raise UsageError(f"there is no such document: {part.name} has {_range(n_documents, 'document')}")
    start, end = found
    first, last = _name(dataset, part, start), _name(dataset, part, end - 1)
    for line in (
        f"document {number:,}, counted from 0: {plural(end - start, 'token')}, {first} to {last}",
        _input_of(dataset, part, start),
    ):
        yield from fold(visible(line), width=width, indent="  ")
    if _may_continue(dataset, part, end, eot):
        yield "it may continue in the next file"
    if decode is None:
        return
    n_tokens = tokens_for(2 * _DOCUMENT_CHARS)
    beginning = decode(stream.read(start, min(end, start + n_tokens)).tolist())
    if len(beginning) <= 2 * _DOCUMENT_CHARS:
        yield from text_lines("text: ", beginning, width=width)
        return
    ending = decode(stream.read(max(start, end - n_tokens), end).tolist())
    yield from text_lines("first: ", excerpt(beginning, _DOCUMENT_CHARS), width=width)
    yield from text_lines("last:  ", excerpt(ending, _DOCUMENT_CHARS, from_end=True), width=width)


def _eot_of(dataset: Dataset, part: Part) -> str:
    """Return where each document has its end-of-text token: "append" or "prepend"."""
    made, stream = dataset.made, part.stream
    if made is None:
        # Files with a header are made by scripts that put it first, but a shard may begin inside a document.
        has_header = stream.files[0].header_bytes > 0
        is_first = stream.n_tokens > 0 and (is_end(stream, 0) or (has_header and not is_end(stream, -1)))
        return "prepend" if is_first else "append"
    if made["documents"] is None:
        raise UsageError(f"the text was one stream, without documents; {_INSTEAD}")
    if made["options"]["eot"] == "none":
        raise UsageError(f"with --eot none, no token marks the end of a document; {_INSTEAD}")
    return str(made["options"]["eot"])


def _may_continue(dataset: Dataset, part: Part, end: int, eot: str) -> bool:
    """Return whether a document may continue after the tokens of `part`: shards are cut anywhere."""
    if end < part.stream.n_tokens:
        return False
    if eot == "append":
        return not is_end(part.stream, -1)
    _, _, number = split_in_name(part.stream.files[-1].path.name) or ("", "", -1)
    is_val_its_own = dataset.made is not None and dataset.made["val_split"]["name"] == VAL_INPUT
    return number >= 0 and (not dataset.is_folder or (part.split == "val" and not is_val_its_own))
