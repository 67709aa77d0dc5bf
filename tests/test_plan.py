"""Spans: where they are cut, that neighbours agree, and that their parts equal one machine's output."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanogpt_compat.cluster.plan import Plan, check_inputs, cut_spans, make_plan, read_plan, write_plan
from nanogpt_compat.config import Config
from nanogpt_compat.encoders.interface import Encoder
from nanogpt_compat.encoders.reference import with_mark
from nanogpt_compat.errors import CheckpointError
from nanogpt_compat.input.location import Format, Input
from nanogpt_compat.input.source import reader_of
from nanogpt_compat.preflight.job import Job
from nanogpt_compat.preflight.look import look_into
from nanogpt_compat.resume.counters import InputTally, Tally
from nanogpt_compat.text.blocks import Position
from nanogpt_compat.text.cuts import MAX_PIECE_BYTES
from nanogpt_compat.text.documents import Documents
from nanogpt_compat.text.val_split import val_windows
from tests.engines import Lists, open_encoder, tokenise
from tests.reference import Tokens
from tests.test_documents import SEPARATORS, raw_documents
from tests.texts import any_bytes, real_text

pytestmark = pytest.mark.costly

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
TEXT = Format("text")


@pytest.fixture(scope="module")
def marked(gpt2: tiktoken.Encoding) -> Encoder:
    return open_encoder("tiktoken", with_mark(gpt2))


def bounds(path: Path, start: int, end: int, *, size_bytes: int, separator: str | None) -> tuple[int, int]:
    documents = None if separator is None else Documents(separator, "append", 0.0)
    return reader_of(path, TEXT, documents=documents, size_bytes=size_bytes).bounds(start, end)


def places(paths: list[Path], span_bytes: int, separator: str | None = None) -> list[tuple[int, int, int]]:
    """Return the input, the real beginning and the real end of each span."""
    sizes = [path.stat().st_size for path in paths]
    found = []
    for span in cut_spans([Input(path, TEXT, {"size": path.stat().st_size}) for path in paths], span_bytes):
        place = span.start, span.end
        size_bytes, path = sizes[span.input_index], paths[span.input_index]
        start, end = bounds(path, *place, size_bytes=size_bytes, separator=separator)
        found.append((span.input_index, start, end))
    return found


def in_spans(
    paths: list[Path],
    encoder: Encoder,
    *,
    span_bytes: int,
    windows: list[tuple[int, int]],
    errors: str,
    documents: Documents | None,
    block_bytes: int,
) -> tuple[tuple[Tokens, Tokens], Tally]:
    """Make the output of all spans one after another, each by itself."""
    sizes = [path.stat().st_size for path in paths]
    separator = None if documents is None else documents.separator
    sink = Lists()
    total = Tally([InputTally() for _ in paths])
    at = (0, 0)
    for index, start, end in places(paths, span_bytes, separator):
        if start == end:
            continue
        assert (at if index == at[0] else (index, 0)) == (index, start)
        at = (index, end)
        assert start < end
        before = [InputTally(text_bytes=size) for size in sizes[:index]]
        tally = Tally(
            [*before, *(InputTally() for _ in paths[index:])],
            Position(index, start, anchor=start),
        )
        made, _ = tokenise(
            paths,
            encoder,
            windows=windows,
            errors=errors,
            documents=documents,
            n_workers=1,
            block_bytes=block_bytes,
            tally=tally,
            end=end,
        )
        for tokens, is_val in zip(made, (False, True), strict=True):
            sink.append(tokens, is_val=is_val)
        assert tally.position.offset == end
        tally.inputs[index].text_bytes -= start
        end_position = Position(index, end, anchor=end)
        total.add(replace_inputs(tally, index), end_position, crc_bytes=end - start)
    return sink.pair(), total


def replace_inputs(tally: Tally, index: int) -> Tally:
    return replace(tally, inputs=[tally.inputs[index]])


def assert_same_as_whole(
    paths: list[Path],
    encoder: Encoder,
    *,
    span_bytes: int,
    ratio: float,
    errors: str = "ignore",
    documents: Documents | None = None,
    block_bytes: int = 1000,
) -> None:
    sizes = [path.stat().st_size for path in paths]
    windows = [] if documents is not None else val_windows(sum(sizes), ratio, "spread")
    whole, tally = tokenise(
        paths,
        encoder,
        windows=windows,
        errors=errors,
        documents=documents,
        n_workers=1,
        block_bytes=block_bytes,
    )
    found, total = in_spans(
        paths,
        encoder,
        span_bytes=span_bytes,
        windows=windows,
        errors=errors,
        documents=documents,
        block_bytes=block_bytes,
    )
    for one, other in zip(found, whole, strict=True):
        assert one.tolist() == other.tolist()
    for name in ("invalid_bytes", "documents", "empty_documents", "longest_document_bytes", "forced_cuts"):
        assert getattr(total, name) == getattr(tally, name), name
    assert total.invalid_offsets == tally.invalid_offsets
    assert total.inputs == tally.inputs


@given(
    raws=st.lists(any_bytes, min_size=1, max_size=3),
    span_bytes=st.integers(1, 60),
    block_bytes=st.integers(1, 60),
    errors=st.sampled_from(["ignore", "replace"]),
    ratio=st.sampled_from([0.0, 0.2, 0.9]),
)
@settings(same_folder, max_examples=150)
def test_spans_of_any_text_make_the_output_of_the_whole(
    gpt2: tiktoken.Encoding,
    tmp_path: Path,
    raws: list[bytes],
    span_bytes: int,
    block_bytes: int,
    errors: str,
    ratio: float,
) -> None:
    paths = [tmp_path / f"{k}.txt" for k in range(len(raws))]
    for path, raw in zip(paths, raws, strict=True):
        path.write_bytes(raw)
    assert_same_as_whole(
        paths,
        open_encoder("tiktoken", gpt2),
        span_bytes=span_bytes,
        ratio=ratio,
        errors=errors,
        block_bytes=block_bytes,
    )


@given(
    raws=st.lists(raw_documents(), min_size=1, max_size=3),
    span_bytes=st.integers(1, 60),
    block_bytes=st.integers(1, 60),
    errors=st.sampled_from(["ignore", "replace"]),
    ratio=st.sampled_from([0.0, 0.3]),
)
@settings(same_folder, max_examples=150)
def test_spans_of_any_documents_make_the_output_of_the_whole(
    marked: Encoder,
    tmp_path: Path,
    raws: list[tuple[bytes, str]],
    span_bytes: int,
    block_bytes: int,
    errors: str,
    ratio: float,
) -> None:
    paths = [tmp_path / f"{k}.txt" for k in range(len(raws))]
    for path, (raw, _) in zip(paths, raws, strict=True):
        path.write_bytes(raw)
    assert_same_as_whole(
        paths,
        marked,
        span_bytes=span_bytes,
        ratio=ratio,
        errors=errors,
        documents=Documents(raws[0][1], "append", ratio),
        block_bytes=block_bytes,
    )


@pytest.mark.parametrize("separator", [None, "\n\n", "aa", "\x1e"])
def test_real_text_is_cut_near_every_nominal_place(tmp_path: Path, separator: str | None) -> None:
    """A rule that never finds a place would be correct, too, but leave all work to one machine."""
    path = tmp_path / "a.txt"
    text = real_text()[:400_000].replace(b"\r", b"")
    lines = text.splitlines(keepends=True)
    if separator is not None:
        text = b"".join(line + separator.encode() * (k % 10 == 0) for k, line in enumerate(lines))[:400_000]
    path.write_bytes(text)
    found = places([path], 20_000, separator)
    assert len(found) == 20
    assert all(end - start < 40_000 for _, start, end in found)
    windows_text = text.replace(b"\n", b"\r\n")
    path.write_bytes(windows_text)
    assert all(end - start < 60_000 for _, start, end in places([path], 20_000, separator))


@pytest.mark.parametrize("separator", SEPARATORS)
def test_a_separator_that_overlaps_another_is_no_place_to_begin(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes((separator * 2 + separator[:1] + "x" + separator + "y").encode())
    size = path.stat().st_size
    found = {
        bounds(path, nominal, size, size_bytes=size, separator=separator)[0] for nominal in range(size + 1)
    }
    text = path.read_bytes().decode()
    ends = {0, size}
    at = 0
    for document in text.split(separator)[:-1]:
        at += len((document + separator).encode())
        ends.add(at)
    assert found <= ends  # only ends of separators in the split of the whole
    assert len(found) > 2


def test_a_stretch_without_a_cut_is_one_span_and_is_cut_by_force_as_on_one_machine(
    gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    rng = random.Random(1)
    letters = "".join(rng.choices("abcdefgh", k=3 * MAX_PIECE_BYTES + 1000))
    path = tmp_path / "a.txt"
    path.write_text("to be " * 20_000 + letters + " or not" * 20_000)
    found = places([path], 200_000)
    n_empty = sum(start == end for _, start, end in found)
    assert n_empty >= 6
    assert_same_as_whole(
        [path], open_encoder("tiktoken", gpt2), span_bytes=200_000, ratio=0.3, block_bytes=100_000
    )


def test_spans_cover_every_input_with_none_for_an_empty_one_and_one_for_one_read_in_order() -> None:
    formats = [TEXT, TEXT, Format("jsonl", "gz"), Format("parquet"), Format("csv")]
    rows = zip([0, 10, 10, 3, 10], formats, strict=True)
    spans = cut_spans([Input(Path("a"), form, {"size": size}) for size, form in rows], 4)
    found = [(one.index, one.input_index, one.start, one.end) for one in spans]
    assert found == [(0, 1, 0, 3), (1, 1, 3, 6), (2, 1, 6, 10), (3, 2, 0, 10), (4, 3, 0, 3), (5, 4, 0, 10)]


def small_plan(folder: Path, **options: object) -> tuple[Plan, Job]:
    path = folder / "a.txt"
    path.write_bytes(real_text()[:50_000])
    config = Config(folder, engine="tiktoken", **options)  # type: ignore[arg-type]
    job = look_into(config, [Input(path, TEXT)])
    return make_plan(job, span_bytes=10_000), job


def test_a_plan_is_read_as_it_was_written_and_the_first_one_stays(tmp_path: Path) -> None:
    plan, job = small_plan(tmp_path)
    assert write_plan(tmp_path, plan) == plan == read_plan(tmp_path)
    other = make_plan(job, span_bytes=20_000)
    assert other.hash != plan.hash
    assert write_plan(tmp_path, other) == plan
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "plan.json"]


@pytest.mark.parametrize("damage", ["span_bytes", "options", "cut off"])
def test_a_plan_that_was_changed_is_refused(tmp_path: Path, damage: str) -> None:
    write_plan(tmp_path, small_plan(tmp_path)[0])
    path = tmp_path / "plan.json"
    made = json.loads(path.read_text())
    if damage == "cut off":
        path.write_text(path.read_text()[:100])
    else:
        path.write_text(json.dumps(made | {damage: 20_000 if damage == "span_bytes" else {}}))
    with pytest.raises(CheckpointError, match=r"plan\.json"):
        read_plan(tmp_path)


def test_an_input_that_was_changed_is_refused_and_one_with_a_new_timestamp_is_not(tmp_path: Path) -> None:
    plan, _ = small_plan(tmp_path)
    path = tmp_path / "a.txt"
    text = path.read_bytes()
    path.write_bytes(text)
    given = Input(path, TEXT)
    check_inputs(plan, [given], tmp_path)
    path.write_bytes(text[:-1] + b"!")
    with pytest.raises(CheckpointError, match="has different content than before"):
        check_inputs(plan, [given], tmp_path)
    with pytest.raises(CheckpointError, match="the number of inputs was 1, is 2"):
        check_inputs(plan, [given, given], tmp_path)


def test_a_hundred_thousand_spans_are_planned_at_once(tmp_path: Path) -> None:
    spans = cut_spans([Input(Path("a"), TEXT, {"size": 44 << 30})] * 1000, 450 << 20)
    assert len(spans) > 100_000
    assert np.all(np.diff([span.index for span in spans]) == 1)
