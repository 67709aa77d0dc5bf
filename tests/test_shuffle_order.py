"""The order of a shuffle: uniform, and that of the oracle for any sizes of windows and ranges."""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nanogpt_compat.errors import OutputError
from nanogpt_compat.output import pieces, shuffle, spill
from nanogpt_compat.output.pieces import KEY_END, chunk_ends, gather, keys_of
from nanogpt_compat.output.shuffle import Place, most_spill_bytes, regroup, write_out
from nanogpt_compat.output.spill import Spill, SpillFiles, SpillReader, SpillWriter
from nanogpt_compat.output.token_file import TOKEN
from nanogpt_compat.output.writer import TokenFiles
from nanogpt_compat.resume.checkpoint import Checkpointer
from nanogpt_compat.resume.counters import InputTally, Tally
from nanogpt_compat.resume.journal import Journal
from tests.engines import Lists
from tests.reference import shuffled

FILE_WINDOW_BYTES = 1 << 16
Document = tuple[bool, list[int]]


@contextmanager
def sizes(window: int, range_: int, chunk: int, most_windows: int = 256) -> Iterator[None]:
    """Make windows, ranges and chunks small."""
    with (
        patch.object(spill, "WINDOW_BYTES", window),
        patch.object(shuffle, "RANGE_BYTES", range_),
        patch.object(pieces, "CHUNK_TOKENS", chunk),
        patch.object(shuffle, "MOST_WINDOWS", most_windows),
    ):
        yield


def nothing(*_: object) -> None:
    pass


def put(documents: list[Document], sink: Spill, cuts: list[int], rng: random.Random) -> None:
    """Append documents as a pipeline does: cut at `cuts`, train before val, with checkpoints in between."""
    parts: dict[bool, tuple[list[int], list[int]]] = {False: ([], []), True: ([], [])}

    def flush(first: bool) -> None:
        for is_val in (first, not first):
            tokens, ends = parts[is_val]
            if tokens or ends:
                sink.append(np.array(tokens, TOKEN), is_val=is_val, ends=np.array(ends, np.int64))
            parts[is_val] = ([], [])

    n_done = 0
    for is_val, tokens in documents:
        for token in tokens:
            if n_done in cuts:
                flush(False if not parts[is_val][0] else not is_val)
            parts[is_val][0].append(token)
            n_done += 1
        if n_done in cuts and rng.random() < 0.5:  # the end of the document follows with the next block
            flush(not is_val)
        if n_done in cuts and rng.random() < 0.3:
            sink.begin_checkpoint()[1]()
        parts[is_val][1].append(len(parts[is_val][0]))
    flush(False)
    sink.begin_checkpoint()[1]()
    sink.finish()


def read_back(folder: Path, place: Place) -> tuple[Lists, list[tuple[Place, int, int, int, int]]]:
    """Read a spill in order, regrouped if it has many windows; return also each place with its counts."""
    while not place.is_last:
        with (
            SpillReader(SpillFiles(folder, place.number), place.n_windows) as reader,
            SpillWriter(
                SpillFiles(folder, place.number + 1), n_tokens={}, window_bytes=FILE_WINDOW_BYTES
            ) as writer,
        ):
            regroup(reader, place, writer, after=nothing, check=nothing)
            writer.finish()
            place = Place(place.number + 1, writer.n_windows)
    found, places = Lists(), []

    def note(place: Place) -> None:
        n_train, n_val = (sum(map(len, found.parts[is_val])) for is_val in (False, True))
        places.append((place, n_train, n_val, len(found.ends[False]), len(found.ends[True])))

    with SpillReader(SpillFiles(folder, place.number), place.n_windows) as reader:
        write_out(reader, place, found, after=note, check=nothing)
    return found, places


def ends_of(documents: list[Document], seed: int) -> dict[bool, list[int]]:
    """Return the ends of documents in the order of the oracle."""
    numbered = [(is_val, [index] * len(tokens)) for index, (is_val, tokens) in enumerate(documents)]
    pair = shuffled(numbered, seed)
    return {
        is_val: [k + 1 for k in range(len(one)) if one[k + 1 : k + 2] != [one[k]]]
        for is_val, one in zip((False, True), pair, strict=True)
    }


@given(
    lengths=st.lists(
        st.tuples(st.booleans(), st.sampled_from([1, 2, 3, 10, 60, 500])), min_size=1, max_size=60
    ),
    seed=st.integers(0, 2**64 - 1),
    window=st.sampled_from([128, 300, 1000, 20_000]),
    range_bytes=st.sampled_from([130, 300, 2000, 1 << 20]),
    chunk=st.sampled_from([1, 3, 50, 10_000]),
    most_windows=st.sampled_from([2, 3, 256]),
    rng=st.randoms(use_true_random=False),
)
@settings(max_examples=25, deadline=None)
def test_documents_come_back_in_the_order_of_their_keys_for_any_sizes(
    lengths: list[tuple[bool, int]],
    seed: int,
    window: int,
    range_bytes: int,
    chunk: int,
    most_windows: int,
    rng: random.Random,
) -> None:
    n_tokens = sum(n for _, n in lengths)
    numbers = iter(range(n_tokens))
    documents = [(is_val, [next(numbers) for _ in range(n)]) for is_val, n in lengths]
    cuts = rng.sample(range(n_tokens), min(n_tokens, rng.choice([0, 3, 20])))
    with TemporaryDirectory() as name, sizes(window, range_bytes, chunk, most_windows):
        folder = Path(name)
        with Spill(
            SpillFiles(folder, 0), seed=seed, n_tokens={}, file_window_bytes=FILE_WINDOW_BYTES
        ) as sink:
            put(documents, sink, cuts, rng)
            place = Place(0, sink.n_windows)
        found, places = read_back(folder, place)
        expected = shuffled(documents, seed)
        assert [one.tolist() for one in found.pair()] == list(expected)
        assert found.ends == ends_of(documents, seed)
        place, *done = places[rng.randrange(len(places))]
        assert place.n_tokens == done[0] + done[1]
        with SpillReader(SpillFiles(folder, place.number), place.n_windows) as reader:
            rest = Lists()
            write_out(reader, place, rest, after=nothing, check=nothing)
    for is_val, n_before, n_ends in ((False, done[0], done[2]), (True, done[1], done[3])):
        assert rest.pair()[is_val].tolist() == expected[is_val][n_before:]
        assert [end + n_before for end in rest.ends[is_val]] == found.ends[is_val][n_ends:]


def test_a_key_depends_only_on_the_seed_the_split_and_the_number_of_the_document() -> None:
    for seed, is_val in ((2357, False), (2357, True), (2**64 - 1, False)):
        keys = keys_of(seed, is_val=is_val, first=0, n=40)
        for first in range(20):
            assert keys_of(seed, is_val=is_val, first=first, n=7).tolist() == keys[first : first + 7].tolist()
        assert ((keys >> np.uint64(63)) == (not is_val)).all()
    # While these stay the same, a run begun with an older numpy can be resumed.
    assert keys_of(2357, is_val=False, first=0, n=2).tolist() == FIRST_KEYS


FIRST_KEYS = [10_541_278_999_031_066_354, 16_618_374_678_110_832_961]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=50), st.integers(1, 60))
def test_chunks_hold_all_pieces_in_order(lengths: list[int], chunk: int) -> None:
    with patch.object(pieces, "CHUNK_TOKENS", chunk):
        found = list(chunk_ends(np.array(lengths)))
    assert [first for first, _ in found] == [0, *(last for _, last in found)][: len(found)]
    assert found[-1][1] == len(lengths)
    for first, last in found:
        assert last > first
        assert sum(lengths[first:last]) <= max(chunk, max(lengths[first:last]))


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 100)), min_size=1, max_size=20))
def test_pieces_are_gathered_one_after_another_short_or_long(found: list[tuple[int, int]]) -> None:
    tokens = np.arange(200, dtype=TOKEN)
    starts, lengths = (np.array(one, np.int64) for one in zip(*found, strict=True))
    expected = [k for start, length in found for k in range(start, start + length)]
    assert gather(tokens, starts, lengths).tolist() == expected


def chi_square_p(counts: NDArray[np.int64]) -> float:
    """Return the probability of counts at least as uneven, if all are equally likely (Wilson, Hilferty)."""
    mean, n_free = counts.mean(), counts.size - 1
    statistic = float(((counts - mean) ** 2 / mean).sum())
    spread = 2 / (9 * n_free)
    return 0.5 * math.erfc(((statistic / n_free) ** (1 / 3) - 1 + spread) / math.sqrt(2 * spread))


@pytest.mark.parametrize("seed", [2357, 0, 1, 2**64 - 1])
def test_an_order_of_100_000_documents_is_uniform(seed: int) -> None:
    n, n_parts = 100_000, 50
    order = np.argsort(keys_of(seed, is_val=False, first=0, n=n), kind="stable")
    part = np.arange(n) * n_parts // n
    positions = np.zeros((n_parts, n_parts), np.int64)  # place of the documents of each part of the input
    np.add.at(positions, (part[order], part), 1)
    neighbours = np.zeros((n_parts, n_parts), np.int64)  # part of the input that the next document is from
    np.add.at(neighbours, (part[order[:-1]], part[order[1:]]), 1)
    distances = np.bincount((order[1:] - order[:-1]) % n * n_parts // n, minlength=n_parts)
    for counts in (positions, neighbours, distances):
        assert 0.001 < chi_square_p(counts.ravel()) < 0.999
    assert not (order[1:] - order[:-1] == 1).sum() > 10  # documents still next to each other; one is expected


def test_the_forecast_of_disk_space_counts_two_spills_if_windows_are_merged() -> None:
    assert most_spill_bytes(1_000_000, 1_000) == 2_016_000
    assert most_spill_bytes(3_000_000_000, 1_000_000) == 2 * (6_000_000_000 + 16_000_000)
    assert most_spill_bytes(400_000_000, 40_000_000) == 2 * (800_000_000 + 640_000_000)


def test_another_seed_gives_another_order() -> None:
    first, second = (np.argsort(keys_of(seed, is_val=False, first=0, n=1000)) for seed in (1, 2))
    assert (first == second).mean() < 0.02
    assert int(keys_of(1, is_val=False, first=0, n=1000).max()) < KEY_END


def test_if_the_disk_is_full_between_tokens_and_their_records_no_checkpoint_counts_them(
    tmp_path: Path,
) -> None:
    write = TokenFiles.write

    def write_tokens_only(files: TokenFiles, stream: str, tokens: NDArray[np.uint16]) -> None:
        if stream.endswith("records"):
            raise OutputError("the disk is full")
        write(files, stream, tokens)

    tally = Tally([InputTally()], shuffled=Place(0, 300))
    with (
        SpillWriter(SpillFiles(tmp_path, 1), n_tokens={}, window_bytes=FILE_WINDOW_BYTES) as writer,
        Journal(tmp_path / "journal", valid_bytes=0) as journal,
        Checkpointer(journal, writer, tally, publishes=False) as checkpointer,
    ):
        with patch.object(TokenFiles, "write", write_tokens_only), pytest.raises(OutputError, match="full"):
            writer.add(np.zeros(3, TOKEN), np.zeros(1, np.uint64), np.array([3]), np.zeros(1, np.bool_))
        with pytest.raises(OutputError, match="only partly written"):
            checkpointer.now()
