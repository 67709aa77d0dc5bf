"""The oracle of exactness: whole files in text mode, one `encode_ordinary` each, cuts found by character.

It is slow and simple on purpose, and shares nothing with the program.
"""

import csv
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import tiktoken
from numpy.typing import NDArray

from nanogpt_compat.text import cuts
from nanogpt_compat.text.documents import END_OF_TEXT

Tokens = NDArray[np.uint16]


@cache
def class_of(char: str) -> str:
    """L, N, S, P by the program's table; `'`; x: valid, without a class; !: an invalid byte."""
    if char == "'":
        return "'"
    if "\ud800" <= char <= "\udfff":
        return "!"
    table = {"L": cuts.LETTERS, "N": cuts.NUMBERS, "S": cuts.SPACES, "P": cuts.OTHERS}
    return next((name for name, chars in table.items() if re.fullmatch(f"[{chars}]", char)), "x")


def is_cut(left: str, right: str) -> bool:
    """Whether a text always breaks between these two characters."""
    pair = class_of(left) + class_of(right)
    if pair[1] == "S":
        return pair[0] not in "S!" and left != "\u180e"
    return pair in {"LN", "NL", "LP", "L'", "NP", "N'", "PN", "'N", "PL"}


def exact_cuts(raw: bytes) -> list[int]:
    """Every exact cut of a file's bytes, as byte offsets."""
    text = raw.decode("utf-8", "surrogateescape")
    found, offset = [], 0
    for left, right in pairwise(text):
        offset += len(left.encode("utf-8", "surrogateescape"))
        if is_cut(left, right):
            found.append(offset)
    return found


def forced_pieces(text: bytes, piece_bytes: int) -> list[bytes]:
    """Cut a text, valid UTF-8, by force where it has no exact cut for more than `piece_bytes`.

    A forced cut is the last place at most `piece_bytes` after the cut before it where a character begins.
    """
    forced = []
    for start, end in pairwise([0, *exact_cuts(text), len(text)]):
        while end - start > piece_bytes:
            start += piece_bytes
            while text[start] & 0xC0 == 0x80:
                start -= 1
            forced.append(start)
    return [text[start:end] for start, end in pairwise([0, *forced, len(text)])]


def read_as_text(path: Path, errors: str) -> str:
    with path.open("r", encoding="utf-8", errors=errors) as file:
        return file.read()


def text_of(raw: bytes, errors: str) -> str:
    return raw.decode("utf-8", errors).replace("\r\n", "\n").replace("\r", "\n")


def whole_tokens(path: Path, encoding: tiktoken.Encoding, errors: str = "ignore") -> Tokens:
    """The tokens of a file, as the first `prepare.py` made them of files that fitted into memory."""
    return np.array(encoding.encode_ordinary(read_as_text(path, errors)), dtype=np.uint16)


def expected_pair(
    paths: Sequence[Path],
    encoding: tiktoken.Encoding,
    *,
    windows: Sequence[tuple[int, int]] = (),
    errors: str = "ignore",
    max_chars: int | None = None,
) -> tuple[Tokens, Tokens]:
    """Return the right train.bin and val.bin: whole files, then divided at the edges of the windows."""
    train: list[Tokens] = []
    val: list[Tokens] = []
    file_start, n_chars = 0, 0
    for path in paths:
        raw = path.read_bytes()
        breaks = [0, *exact_cuts(raw), len(raw)]
        end = len(raw)
        if max_chars is not None:
            end = next((c for c in breaks if n_chars + len(text_of(raw[:c], errors)) >= max_chars), len(raw))
        tokens = whole_tokens(path, encoding, errors)

        def index_of(place: int, raw: bytes = raw, tokens: Tokens = tokens) -> int:
            before = encoding.encode_ordinary(text_of(raw[:place], errors))
            assert before == tokens[: len(before)].tolist(), f"{place} is no exact cut"
            return len(before)

        done = 0
        for window in windows:
            clipped = [min(max(edge - file_start, 0), len(raw)) for edge in window]
            first, last = (min(next(c for c in breaks if c >= edge), end) for edge in clipped)
            train.append(tokens[index_of(done) : index_of(max(done, first))])
            val.append(tokens[index_of(max(done, first)) : index_of(max(done, last))])
            done = max(done, last)
        train.append(tokens[index_of(done) : index_of(end)])
        file_start += len(raw)
        n_chars += len(text_of(raw[:end], errors))
        if max_chars is not None and n_chars >= max_chars:
            break
    return _joined(train), _joined(val)


def up_to(texts: Sequence[str], separator: str, max_chars: int | None) -> list[str]:
    """Cut the texts after the document, and its separator, that completes `max_chars`."""
    found, n_chars = [], 0
    for text in texts:
        places = [0, *(match.end() for match in re.finditer(re.escape(separator), text)), len(text)]
        end = len(text)
        if max_chars is not None:
            end = next((place for place in places if n_chars + place >= max_chars), len(text))
        found.append(text[:end])
        n_chars += end
    return found


def _joined(parts: list[Tokens]) -> Tokens:
    return np.concatenate(parts) if parts else np.array([], dtype=np.uint16)


def goes_to_val(document: str, ratio: float) -> bool:
    """Decide as documented: by blake2b-64 of the first KiB and then every 64th byte up to 64 KiB."""
    raw = document.encode()[: 64 * 1024]
    sample = bytes(byte for k, byte in enumerate(raw) if k < 1024 or k % 64 == 0)
    digest = hashlib.blake2b(sample, digest_size=8, salt=b"2357").hexdigest()
    return int(digest, 16) / 2**64 < ratio


def each_document(
    documents: Iterable[str], encoding: tiktoken.Encoding, *, eot: str, ratio: float
) -> Iterator[tuple[bool, list[int]]]:
    """Yield for each document whether it is for validation, and its tokens with the end token."""
    for document in filter(None, documents):
        tokens = encoding.encode_ordinary(document)
        tokens = [END_OF_TEXT] * (eot == "prepend") + tokens + [END_OF_TEXT] * (eot == "append")
        yield goes_to_val(document, ratio), tokens


def document_pair(
    documents: Iterable[str], encoding: tiktoken.Encoding, *, eot: str, ratio: float
) -> tuple[list[int], list[int]]:
    """Return the right train.bin and val.bin, one document after another."""
    pair: dict[bool, list[int]] = {False: [], True: []}
    for is_val, tokens in each_document(documents, encoding, eot=eot, ratio=ratio):
        pair[is_val] += tokens
    return pair[False], pair[True]


def field_of(record: Any, text_field: str) -> Any:
    """Return the field of a record, as the documentation defines it; raise LookupError if there is none."""
    found = [record[text_field]] if text_field in record else []
    for name in text_field.split(","):
        found += _under(record, name)
    return next((one for one in found if one is not None), found[0])


def _under(record: Any, name: str) -> list[Any]:
    if name in record:
        return [record[name]]
    outer, _, inner = name.partition(".")
    return _under(record[outer], inner) if "." in name and isinstance(record.get(outer), dict) else []


def texts_of_table(path: Path, text_field: str) -> list[str | None]:
    """The texts in a column of a whole CSV, TSV, parquet or Arrow file."""
    if path.suffix in (".csv", ".tsv"):
        with path.open(encoding="utf-8-sig", newline="") as file:
            csv.field_size_limit(1 << 30)
            rows = csv.DictReader(file, delimiter="," if path.suffix == ".csv" else "\t")
            return [row[text_field] for row in rows]
    if path.suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
    else:
        raw = path.read_bytes()
        is_file = raw.startswith(b"ARROW1")
        table = (pyarrow.ipc.open_file(raw) if is_file else pyarrow.ipc.open_stream(raw)).read_all()
    records = table.select([text_field.partition(".")[0]]).to_pylist()
    found = [_under(record, text_field) for record in records]
    return [one[0] if one else None for one in found]


def shuffled(documents: Sequence[tuple[bool, list[int]]], seed: int) -> tuple[list[int], list[int]]:
    """Train and val of `--shuffle`: each split in the order of the numbers that a generator gives it."""
    pair: dict[bool, list[int]] = {False: [], True: []}
    for is_val, tokens in pair.items():
        some = [one for goes_to_val, one in documents if goes_to_val == is_val]
        generator = np.random.Philox(key=np.array([seed, is_val], np.uint64))
        keys = [int(number) >> 1 for number in generator.random_raw(len(some))] if some else []
        for index in sorted(range(len(some)), key=keys.__getitem__):
            tokens += some[index]
    return pair[False], pair[True]
