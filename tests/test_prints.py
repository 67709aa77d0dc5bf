"""An input that is edited near the place where a run stopped: refused, or resumed with the right result.

Constants that matter only for long texts are small here, so that every rule is tested often.
"""

import contextlib
import gzip
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch
from zlib import crc32

import pyarrow
import pyarrow.parquet
import pytest
import tiktoken

from nanogpt_compat import pipeline
from nanogpt_compat.encoders.interface import Encoder
from nanogpt_compat.encoders.reference import with_mark
from nanogpt_compat.errors import CheckpointError, InputError
from nanogpt_compat.input import separated as document_reader
from nanogpt_compat.input.location import Compression, Container, Format, Input
from nanogpt_compat.input.reader import Consumed
from nanogpt_compat.input.source import Source, reader_of
from nanogpt_compat.resume.counters import InputTally, Tally
from nanogpt_compat.resume.state import consumed_at
from nanogpt_compat.text import cutting
from nanogpt_compat.text import documents as documents_module
from nanogpt_compat.text.blocks import Position
from nanogpt_compat.text.documents import Documents
from tests.engines import Lists, open_encoder
from tests.texts import INVALID, PIECES

pytestmark = pytest.mark.costly

PIECE_BYTES = 40  # instead of 512 KiB
HEAD_BYTES = 24  # instead of 64 KiB
POLICIES = ("ignore", "replace", "strict")


@pytest.fixture(params=[50, pytest.param(300, marks=pytest.mark.slow)])
def n_cases(request: pytest.FixtureRequest) -> int:
    """The number of edits to try of each kind."""
    return int(request.param)


class _Stopped(Exception):
    """Ends a run."""


@dataclass(frozen=True)
class Case:
    """A way to read a file."""

    form: Format
    documents: Documents | None
    errors: str
    block_bytes: int
    max_chars: int | None = None
    max_tokens: int | None = None
    windows: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True)
class Made:
    """The output of a run."""

    tokens: tuple[list[int], list[int]]
    counts: dict[str, Any]
    tally: Tally


@pytest.fixture(scope="module")
def encoder(gpt2: tiktoken.Encoding) -> Encoder:
    return open_encoder("tiktoken", with_mark(gpt2))


@pytest.fixture(autouse=True)
def small_constants() -> Any:
    with (
        patch.object(cutting, "MAX_PIECE_BYTES", PIECE_BYTES),
        patch.object(documents_module, "HEAD_BYTES", HEAD_BYTES),
        patch.object(document_reader, "HEAD_BYTES", HEAD_BYTES),
        patch.object(document_reader, "_HEAD_IN_BYTES", 100),
    ):
        yield


def make(
    path: Path,
    case: Case,
    encoder: Encoder,
    *,
    stop_after: int | None = None,
    tally: Tally | None = None,
    before: Made | None = None,
) -> Made:
    """Read a file from the position of `tally` to its end, or for `stop_after` blocks."""
    sink, n_blocks = Lists(), 0
    tally = tally or Tally([InputTally()])
    source = Source(
        inputs=[Input(path, case.form, {"size": path.stat().st_size})],
        windows=case.windows,
        documents=case.documents,
        errors=case.errors,
        block_bytes=case.block_bytes,
    )

    def after_block() -> None:
        nonlocal n_blocks
        n_blocks += 1
        if n_blocks == stop_after:
            raise _Stopped

    with contextlib.suppress(_Stopped):
        pipeline.run(
            source,
            tally,
            sink,
            encoder,
            n_workers=1,
            max_chars=case.max_chars,
            max_tokens=case.max_tokens,
            admit=lambda cost, in_flight: cost + in_flight < 1 << 20,
            after_block=after_block,
            check=lambda: None,
        )
    train, val = (one.tolist() for one in sink.pair())
    if before is not None:
        train, val = before.tokens[0] + train, before.tokens[1] + val
    counts = asdict(tally)
    for name in ("position", "checked_slices", "fallback_blocks"):
        del counts[name]
    return Made((train, val), counts, tally)


def resume_after_edit(
    path: Path, case: Case, now: Case, encoder: Encoder, rng: random.Random, edit: Callable[[int], None]
) -> bool:
    """Stop, edit, and resume if allowed; return whether it was. `now` is the case after the edit."""
    try:
        saved = make(path, case, encoder, stop_after=rng.randrange(1, 8))
    except InputError:
        return False  # a bad record or byte comes first
    at, tally = saved.tally.position, saved.tally
    edit(at.records if case.form.container in ("parquet", "arrow") else at.offset)
    if case.errors != now.errors and tally.invalid_bytes:
        return False
    if case.documents != now.documents and tally.skipped_records:
        return False
    limits = (case.max_chars, tally.chars), (case.max_tokens, tally.tokens)
    is_enough = any(most is not None and n >= most for most, n in limits)
    is_stream = case.form.compression != "none"
    try:
        expected = make(path, now, encoder)
        reader = reader_of(path, now.form, documents=now.documents, errors=now.errors)
        change = reader.change(consumed_at(tally)[0], lambda: None)
    except InputError:
        return False
    if change:
        if is_stream and not is_enough:
            with pytest.raises(CheckpointError, match=re.escape(change)):
                make(path, now, encoder, tally=tally)
        return False
    found = make(path, now, encoder, tally=tally, before=saved)
    if is_enough:  # the file may hold this text in other bytes, and more text after it
        for name in ("bytes_read", "is_left"):
            found.counts["inputs"][0][name] = expected.counts["inputs"][0][name]
    assert found.tokens == expected.tokens, at
    assert found.counts == expected.counts, at
    return True


def edit_bytes(
    read: Callable[[], bytes], write: Callable[[bytes], None], rng: random.Random, pieces: Sequence[bytes]
) -> Callable[[int], None]:
    """Change a few bytes near a place, most often just after it."""

    def edit(place: int) -> None:
        raw = read()
        start = max(0, min(len(raw), place + rng.choice((0, 0, 0, 1, 2, 3, 5, 10, 50, -1, -5))))
        new = b"".join(rng.choice([*pieces, b"\x80", b"\n"]) for _ in range(rng.randrange(3)))
        n_gone = rng.choice((0, 0, len(new), 1, 2, 4, len(raw)))
        write(raw[:start] + new + raw[start + n_gone :])

    return edit


TEXT_PIECES = (
    *[piece.encode() for piece in PIECES],
    *[b"aa", b"b" * 50, b"\xe4\xb8\xad" * 20, b" " * 45, b"-\n", b"\r"],
    *[b" w-", b" w1"] * 5,  # the beginning of a separator
    *[b" word"] * 20,
    *[b"\n\n"] * 5,
)
LINES = (
    *[json.dumps({"text": text}).encode() + b"\n" for text in ("a", "", "one\n\ntwo", "x" * 50, "\ud800")],
    *[b"\n", b" \r\n", b'{"text": 1}\n', b"{broken\n", b'{"text": "no line end"}'],
)


def pack(path: Path, compression: str) -> tuple[Callable[[], bytes], Callable[[bytes], None]]:
    """Return functions that read and write a file of some compression."""
    if compression == "gz":
        return lambda: gzip.decompress(path.read_bytes()), lambda raw: write(path, gzip.compress(raw, 1))
    return path.read_bytes, lambda raw: write(path, raw)


def write(path: Path, raw: bytes) -> None:
    path.write_bytes(raw)


@pytest.mark.parametrize("compression", ["none", "gz"])
@pytest.mark.parametrize("separator", [None, "\n", "\n\n", "aa", "-\n", " ", "1a"])
def test_text_that_was_edited_is_refused_or_resumed_as_from_the_beginning(
    separator: str | None, compression: Compression, encoder: Encoder, tmp_path: Path, n_cases: int
) -> None:
    read, write = pack(tmp_path / "a", compression)
    rng = random.Random(f"text {separator} {compression}")
    n_resumed = 0
    for _ in range(n_cases):
        documents = (
            None if separator is None else Documents(separator, rng.choice(("append", "prepend")), 0.3)
        )
        case = Case(
            Format("text", compression), documents, rng.choice(POLICIES), rng.choice((1, 20, 60, 200))
        )
        if rng.random() < 0.2:
            case = replace(case, max_chars=rng.randrange(1, 300))
        elif rng.random() < 0.2:
            case = replace(case, max_tokens=rng.randrange(1, 150))
        if documents is None:
            edges = sorted(rng.sample(range(1000), 4))
            case = replace(case, windows=((edges[0], edges[1]), (edges[2], edges[3])))
        now = replace(case, errors=rng.choice(POLICIES)) if rng.random() < 0.3 else case
        pieces = [*TEXT_PIECES, *(INVALID if rng.random() < 0.4 else ())]
        write(b"".join(rng.choice(pieces) for _ in range(120)))
        edit = edit_bytes(read, write, rng, pieces)
        n_resumed += resume_after_edit(tmp_path / "a", case, now, encoder, rng, edit)
    assert n_cases * 0.2 < n_resumed < n_cases * 0.9


@pytest.mark.parametrize("compression", ["none", "gz"])
def test_json_lines_that_were_edited_are_refused_or_resumed_as_from_the_beginning(
    compression: Compression, encoder: Encoder, tmp_path: Path, n_cases: int
) -> None:
    read, write = pack(tmp_path / "a", compression)
    rng = random.Random(f"lines {compression}")
    n_resumed = 0
    for _ in range(n_cases):
        case, now = lines_case(rng, Format("jsonl", compression))
        pieces = LINES if rng.random() < 0.5 else LINES[:5]
        write(b"".join(rng.choice(pieces) for _ in range(40)))
        n_resumed += resume_after_edit(
            tmp_path / "a", case, now, encoder, rng, edit_bytes(read, write, rng, pieces)
        )
    assert n_cases * 0.2 < n_resumed < n_cases * 0.9


def lines_case(rng: random.Random, form: Format) -> tuple[Case, Case]:
    """Choose how to read records, before and after an edit."""
    documents = Documents(None, rng.choice(("append", "prepend")), 0.3, skip_bad=rng.random() < 0.5)
    case = Case(form, documents, "ignore", rng.choice((1, 100, 300)))
    if rng.random() < 0.2:
        case = replace(case, max_chars=rng.randrange(1, 200))
    elif rng.random() < 0.2:
        case = replace(case, max_tokens=rng.randrange(1, 100))
    skips = rng.random() < 0.5
    return case, replace(case, documents=replace(documents, skip_bad=skips)) if rng.random() < 0.3 else case


VALUES = ("a", "", None, "one two", "x" * 50, "\u4e2d\u6587")


@pytest.mark.parametrize("container", ["parquet", "arrow"])
def test_rows_that_were_edited_are_refused_or_resumed_as_from_the_beginning(
    container: Container, encoder: Encoder, tmp_path: Path, n_cases: int
) -> None:
    path = tmp_path / f"a.{container}"
    rng = random.Random("rows")
    n_resumed = 0

    def write(values: Sequence[str | None]) -> None:
        table = pyarrow.table({"text": pyarrow.array(values, pyarrow.string())})
        codec = rng.choice(("none", "lz4", "zstd"))
        n_rows = rng.choice((3, 7, 100))
        if container == "parquet":
            pyarrow.parquet.write_table(table, path, row_group_size=n_rows, compression=codec)
            return
        options = pyarrow.ipc.IpcWriteOptions(compression=None if codec == "none" else codec)
        with pyarrow.ipc.new_stream(str(path), table.schema, options=options) as file:
            file.write_table(table, max_chunksize=n_rows)

    def read() -> list[str | None]:
        if container == "parquet":
            found: list[str | None] = pyarrow.parquet.read_table(path)["text"].to_pylist()
            return found
        return list(pyarrow.ipc.open_stream(path.read_bytes()).read_all()["text"].to_pylist())

    def edit(place: int) -> None:
        values = read()
        start = max(0, min(len(values), place + rng.choice((0, 0, 1, 2, 5, -1, -2))))
        new = [rng.choice(VALUES) for _ in range(rng.randrange(3))]
        write(values[:start] + new + values[start + rng.choice((0, len(new), 1, len(values))) :])

    for _ in range(n_cases):
        case, now = lines_case(rng, Format(container))
        some = VALUES if rng.random() < 0.5 else [one for one in VALUES if one is not None]
        write([rng.choice(some) for _ in range(30)])
        n_resumed += resume_after_edit(path, case, now, encoder, rng, edit)
    assert n_cases * 0.2 < n_resumed < n_cases * 0.9


CELLS = ("a", "", '"one\n""two"""', '"x,y"', 'z"', "x" * 50, "\u4e2d\u6587", "a,b", '"open', '"a"b')


@pytest.mark.parametrize("compression", ["none", "gz"])
def test_records_that_were_edited_are_refused_or_resumed_as_from_the_beginning(
    compression: Compression, encoder: Encoder, tmp_path: Path, n_cases: int
) -> None:
    path = tmp_path / "a.csv"
    rng = random.Random(f"records {compression}")
    n_resumed = 0

    def write(raw: bytes) -> None:
        path.write_bytes(gzip.compress(raw) if compression == "gz" else raw)

    def edit(place: int) -> None:
        raw = gzip.decompress(path.read_bytes()) if compression == "gz" else path.read_bytes()
        start = max(0, min(len(raw), place + rng.choice((0, 0, 1, 3, 9, -1, -2))))
        new = "".join(rng.choice((*CELLS, "\n", ",")) for _ in range(rng.randrange(3))).encode()
        write(raw[:start] + new + raw[start + rng.choice((0, len(new), 1, len(raw))) :])

    for _ in range(n_cases):
        case, now = lines_case(rng, Format("csv", compression))
        some = CELLS[: rng.choice((7, len(CELLS)))]
        end = rng.choice(("\n", "\r\n"))
        rows = [f"{k},{rng.choice(some)}" for k in range(30)]
        write(end.join(["id,text", *rows, ""][: rng.choice((31, 32))]).encode())
        n_resumed += resume_after_edit(path, case, now, encoder, rng, edit)
    assert n_cases * 0.2 < n_resumed < n_cases * 0.9


@pytest.mark.parametrize(("after", "is_changed"), [(b"b more", False), (b"c less", False), (b"a more", True)])
def test_a_separator_that_now_begins_before_the_saved_place_is_a_change(
    after: bytes, is_changed: bool, tmp_path: Path
) -> None:
    read = b"a word 1"
    path = tmp_path / "a"
    path.write_bytes(read + after)
    documents = Documents("1a", "append", 0.0)
    at = Position(0, len(read), len(read), crc=crc32(read), document="train")
    reader = reader_of(path, Format("text"), documents=documents, errors="ignore")
    consumed = Consumed(at.offset, at.records, at.crc, at.at_end, at)
    assert bool(reader.change(consumed, lambda: None)) == is_changed
