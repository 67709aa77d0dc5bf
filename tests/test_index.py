"""train.idx and val.idx as Megatron-LM reads them: by a reader written from the format's description."""

import json
import os
import random
import re
import shutil
import struct
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tiktoken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import nanogpt_compat
from nanogpt_compat.output import index
from nanogpt_compat.output.index import index_parts
from nanogpt_compat.output.layout import Shards
from nanogpt_compat.text.documents import END_OF_TEXT, Documents
from tests import faults
from tests.disks import MIB, Disks
from tests.faults import Args, Expected, assert_refused, expect, prepare, report_of, sha256s
from tests.test_documents import each_of
from tests.texts import real_text

pytestmark = pytest.mark.costly

SEPARATOR = "\n--\n"
SEPARATED: Args = ("--document-separator", r"\n--\n")
MANY: Args = (*SEPARATED, "--index", "--val-ratio", "0.2")
SETTINGS: dict[str, Any] = {"every_bytes": 40_000, "window_bytes": 1 << 16}


@dataclass(frozen=True)
class Index:
    """The content of a .idx file."""

    sizes: list[int]  # the length of each sequence, in tokens
    pointers: list[int]  # where each begins, in bytes
    documents: list[int]  # each one's first sequence; last, the number of sequences

    def sequences_of(self, tokens: NDArray[np.uint16]) -> list[list[int]]:
        """Return the tokens of each sequence."""
        rows = zip(self.sizes, self.pointers, strict=True)
        return [tokens[at // 2 : at // 2 + size].tolist() for size, at in rows]

    def documents_of(self, tokens: NDArray[np.uint16]) -> list[list[int]]:
        """Return the tokens of each document."""
        sequences = self.sequences_of(tokens)
        ends = zip(self.documents, self.documents[1:], strict=False)
        return [[token for some in sequences[start:end] for token in some] for start, end in ends]


def parse(data: bytes) -> Index:
    """Read an index by the format's description; every byte must be accounted for."""
    assert data[:9] == b"MMIDIDX\x00\x00"
    assert struct.unpack_from("<Q", data, 9) == (1,)
    assert data[17] == 8  # uint16
    n_sequences, n_entries = struct.unpack_from("<QQ", data, 18)
    sizes = struct.unpack_from(f"<{n_sequences}i", data, 34)
    pointers = struct.unpack_from(f"<{n_sequences}q", data, 34 + 4 * n_sequences)
    documents = struct.unpack_from(f"<{n_entries}q", data, 34 + 12 * n_sequences)
    assert len(data) == 34 + 12 * n_sequences + 8 * n_entries
    return Index([*sizes], [*pointers], [*documents])


def tokens_in(folder: Path, split: str = "train") -> NDArray[np.uint16]:
    return np.fromfile(folder / f"{split}.bin", "<u2")


def index_in(folder: Path, split: str = "train") -> Index:
    return parse((folder / f"{split}.idx").read_bytes())


def some_texts(n: int = 300, *, seed: int = 1) -> list[str]:
    """Documents of up to 3,000 characters, some of them empty."""
    rng, prose = random.Random(seed), real_text().decode()
    return [prose[at : at + rng.choice([0, 20, 3_000])] for at in rng.sample(range(200_000), n)]


def write_text(path: Path, texts: Sequence[str]) -> Path:
    path.write_text(SEPARATOR.join(texts), encoding="utf-8", newline="")
    return path


def many_documents(folder: Path) -> Path:
    return write_text(folder / "a.txt", some_texts(1_200))


# Content


def reference(sizes: Sequence[int], most: int) -> bytes:
    """Build the whole index in memory, sequence by sequence."""
    sequences, documents = list[int](), [0]
    for size in sizes:
        left = size
        while left > most:
            sequences.append(most)
            left -= most
        sequences.append(left)
        documents.append(len(sequences))
    pointers = [2 * at for at in accumulate(sequences, initial=0)][:-1]
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, len(sequences), len(documents))
    body = struct.pack(f"<{len(sequences)}i{len(sequences)}q", *sequences, *pointers)
    return head + body + struct.pack(f"<{len(documents)}q", *documents)


@given(
    st.lists(st.integers(1, 50), max_size=40),
    st.integers(1, 60),
    st.lists(st.integers(0, 40), max_size=5),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_documents_of_any_sizes_are_indexed_from_any_pieces_of_their_ends(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int], most: int, cuts: list[int]
) -> None:
    ends = np.cumsum(np.array(sizes, np.int64), dtype=np.int64)
    with monkeypatch.context() as patch:
        patch.setattr(index, "MAX_SEQUENCE_TOKENS", most)
        parts = index_parts(lambda: np.split(ends, sorted(min(cut, len(ends)) for cut in cuts)))
        made = b"".join(part.tobytes() for part in parts)
    assert made == reference(sizes, most)
    found = parse(made)
    tokens = np.arange(sum(sizes), dtype=np.uint16)
    assert found.documents_of(tokens) == [some.tolist() for some in np.split(tokens, ends[:-1]) if len(some)]


def test_a_document_of_more_than_two_billion_tokens_is_several_sequences() -> None:
    most = 2**31 - 1
    sizes = [5, most, most + 1, 3 * most + 7, 1]
    made = b"".join(one.tobytes() for one in index_parts(lambda: [np.cumsum(np.array(sizes, np.int64))]))
    found = parse(made)
    assert found.sizes == [5, most, most, 1, most, most, most, 7, 1]
    assert found.documents == [0, 1, 2, 4, 8, 9]
    assert found.pointers[-1] == 2 * sum(sizes[:-1])


def test_writing_the_index_keeps_nothing_per_document_in_memory(tmp_path: Path) -> None:
    n_documents = 2_000_000
    np.arange(1, n_documents + 1, dtype="<i8").tofile(tmp_path / "ends")
    shards = Shards(tmp_path, "train.idx")
    tracemalloc.start()
    made = index.write_index("train.idx", shards, tmp_path / "ends", n_documents, lambda: None)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert made["documents"] == n_documents
    assert made["bytes"] == shards.partial(0).stat().st_size == 34 + 20 * n_documents + 8
    assert peak_bytes < 3_000_000 < 2 * n_documents


@pytest.mark.parametrize("eot", ["append", "prepend", "none"])
@pytest.mark.parametrize("form", ["text", "jsonl", "parquet"])
def test_every_document_is_found_through_the_index(
    form: str, eot: str, tmp_path: Path, gpt2: tiktoken.Encoding
) -> None:
    texts = some_texts(120)
    path = tmp_path / f"a.{form}"
    options: dict[str, Any] = {"eot": eot, "index": True, "val_ratio": 0.2}
    if form == "text":
        write_text(path, texts)
        options["document_separator"] = SEPARATOR
    elif form == "jsonl":
        path.write_text("".join(json.dumps({"text": one}) + "\n" for one in texts))
    else:
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=7)
    made = nanogpt_compat.prepare(path, tmp_path, block_size=5_000, engine="tiktoken", **options)
    documents = Documents(SEPARATOR, eot, made["val_split"]["document_ratio"])
    expected = [*each_of([SEPARATOR.join(texts)], documents, gpt2)]
    for is_val, split in ((False, "train"), (True, "val")):
        tokens, found = tokens_in(tmp_path, split), index_in(tmp_path, split)
        assert found.documents_of(tokens) == [some for goes_to_val, some in expected if goes_to_val == is_val]
        assert found.documents == list(range(len(found.sizes) + 1))
        places = np.flatnonzero(tokens == END_OF_TEXT)
        if eot == "append":
            assert np.array_equal(np.cumsum(found.sizes), places + 1)
        elif eot == "prepend":
            assert np.array_equal(np.array(found.pointers) // 2, places)
        else:
            assert not len(places)
    (entry,) = (one for one in made["files"] if one["name"] == "train.idx")
    assert entry["documents"] == len(index_in(tmp_path).sizes)
    assert [one["name"] for one in made["files"]] == ["train.bin", "val.bin", "train.idx", "val.idx"]
    faults.assert_checksums(tmp_path)


def test_block_size_workers_and_engine_do_not_change_it(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", some_texts(200))
    made = []
    for k, (block_size, workers, engine) in enumerate(
        [("1M", 1, "tiktoken"), ("1k", 3, "tiktoken"), ("700", 2, "gigatoken")]
    ):
        options = ("--block-size", block_size, "--workers", str(workers), "--engine", engine)
        assert prepare("--input", path, *MANY, *options, "--output-dir", tmp_path / str(k)).returncode == 0
        made.append(sha256s(tmp_path / str(k)))
    assert made[0].keys() == {"train.bin", "val.bin", "train.idx", "val.idx"}
    assert made[0] == made[1] == made[2]


def test_a_document_that_is_longer_than_many_blocks_is_one_sequence(tmp_path: Path) -> None:
    texts = ["short", real_text().decode()[:60_000], "x" * 700_000, "end"]
    path = write_text(tmp_path / "a.txt", texts)
    done = prepare(
        "--input",
        path,
        *SEPARATED,
        "--index",
        "--val-ratio",
        "0",
        "--block-size",
        "3k",
        "--output-dir",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    places = np.flatnonzero(tokens_in(tmp_path) == END_OF_TEXT)
    assert np.cumsum(index_in(tmp_path).sizes).tolist() == (places + 1).tolist()
    assert len(places) == len(texts)
    assert not (tmp_path / "val.idx").exists()


def test_a_split_without_documents_has_an_index_of_none(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", ["one", "two"])
    for ratio in ("0.0000001", "0.9999999"):
        args = ("--input", path, *SEPARATED, "--index", "--val-ratio", ratio, "--output-dir", tmp_path)
        done = prepare(*args, "--overwrite")
        assert done.returncode == 0, done.stderr
        counts = {split: len(index_in(tmp_path, split).sizes) for split in ("train", "val")}
        assert sorted(counts.values()) in ([0, 2], [1, 1])
        assert prepare(*args, "--verify").returncode == 0
        if 0 in counts.values():
            empty = min(counts, key=lambda split: counts[split])
            assert index_in(tmp_path, empty) == Index([], [], [0])
            return
    pytest.fail("no split was empty")


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--index needs documents: JSON lines, tables, or text with --document-separator"),
        ((*SEPARATED, "--format", "npy"), "--index is for one train.bin, which --format npy does not make"),
        ((*SEPARATED, "--format", "llmc"), "--index is for one train.bin, which --format llmc does not make"),
        ((*SEPARATED, "--shard-tokens", "1000"), "which --shard-tokens 1000 does not make: omit either"),
    ],
)
def test_options_that_allow_no_index_are_refused(options: Args, message: str, tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", ["one", "two"])
    out = tmp_path / "out"
    out.mkdir()
    assert_refused(
        out, lambda: prepare("--input", path, "--index", *options, "--output-dir", out), 2, message
    )


# Stops


@pytest.fixture
def args(tmp_path: Path) -> Args:
    return ("--input", many_documents(tmp_path), "--block-size", "30000", "--workers", "1", *MANY)


@pytest.fixture
def expected(tmp_path: Path, args: Args) -> Expected:
    return expect(tmp_path / "expected", *args, **SETTINGS)


def calls_of(args: Args, out: Path, log: Path) -> list[str]:
    assert faults.run(*args, "--output-dir", out, log=str(log), **SETTINGS).returncode == 0
    shutil.rmtree(out)
    return log.read_text().splitlines()


def test_killed_at_any_call_of_the_finish_it_resumes_and_ends_in_the_same_files(
    args: Args, expected: Expected, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    calls = calls_of(args, out, tmp_path / "log")
    first = next(k for k, call in enumerate(calls) if call.endswith("train.idx.partial"))
    n_index = sum("idx" in call for call in calls)
    assert n_index > 6
    renames = [call for call in calls if call.startswith("rename") and call.endswith(".partial")]
    names = ("val.idx", "val.bin", "train.idx", "train.bin")
    assert renames == [f"rename {name}.partial" for name in names]
    some = [*range(first, len(calls), 3)]
    for k in some:
        shutil.rmtree(out, ignore_errors=True)
        same = sum(call == calls[k] for call in calls[:k])
        call = calls[k].replace(".", r"\.")
        killed = faults.run(*args, "--output-dir", out, at=call, skip=same, **SETTINGS)
        if killed.returncode == 0:  # a thread has made one call fewer
            continue
        assert killed.returncode == -9, killed.stderr
        expected.assert_nothing_partial(out)
        again = prepare(*args, "--output-dir", out)
        assert again.returncode == 0, again.stderr
        expected.assert_reached(out)


def test_killed_while_reading_it_resumes_with_the_documents_so_far(
    args: Args, expected: Expected, tmp_path: Path
) -> None:
    rng = random.Random(5)
    out = tmp_path / "out"
    for skip in (1, 2):
        shutil.rmtree(out, ignore_errors=True)
        killed = faults.run(*args, "--output-dir", out, at="write journal", skip=skip + 1, **SETTINGS)
        assert killed.returncode == -9, killed.stderr
        ends = out / ".prepare" / "train.bin.ends.partial"
        with ends.open("rb+") as file:  # bytes after the last checkpoint do not count
            file.seek(0, os.SEEK_END)
            file.write(rng.randbytes(4_000))
        again = faults.run(*args, "--output-dir", out, **SETTINGS)
        assert again.returncode == 0, again.stderr
        assert "resuming at" in again.stderr
        assert expected.assert_reached(out)["resumes"] == 1


def test_damaged_ends_of_a_stopped_run_are_made_again(args: Args, expected: Expected, tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed = faults.run(*args, "--output-dir", out, at="write journal", skip=4, **SETTINGS)
    assert killed.returncode == -9, killed.stderr
    ends = out / ".prepare" / "train.bin.ends.partial"
    data = bytearray(ends.read_bytes())
    data[8] ^= 1
    ends.write_bytes(data)
    again = faults.run(*args, "--output-dir", out, **SETTINGS)
    assert again.returncode == 0, again.stderr
    assert sha256s(out) == expected.sha256s


def test_a_disk_that_is_full_when_the_index_is_written_is_an_error_until_there_is_room(
    args: Args, expected: Expected, tmp_path: Path, disks: Disks
) -> None:
    disk = disks.make("tmpfs", 64 * MIB)
    out = disk.folder / "out"
    args = (*args, "--output-dir", out)
    process = faults.start(*args, at=r"fallocate train\.idx\.partial", do="SIGSTOP", **SETTINGS)
    faults.wait_until_stopped(process)
    disk.fill()
    done = faults.let_finish(process)
    assert done.returncode == 4, done.stderr
    assert "train.idx.partial cannot take" in done.stderr
    assert "No space left on device" in done.stderr
    expected.assert_nothing_partial(out)
    again = faults.run(*args, **SETTINGS)
    assert again.returncode == 4, again.stderr
    disk.make_room()
    last = faults.run(*args, **SETTINGS)
    assert last.returncode == 0, last.stderr
    expected.assert_reached(out)


def test_a_disk_without_room_for_the_index_is_found_before_anything_is_read(
    tmp_path: Path, disks: Disks
) -> None:
    path = write_text(tmp_path / "a.txt", ["x"] * 400_000)
    disk = disks.make("tmpfs", 8 * MIB)
    args: Args = ("--input", path, *SEPARATED, "--val-ratio", "0", "--output-dir", disk.folder / "out")
    done = prepare(*args, "--index")
    assert done.returncode == 4, done.stderr
    assert "the output will need about" in done.stderr
    assert prepare(*args).returncode == 0


def test_another_option_than_the_saved_run_had_is_refused(args: Args, tmp_path: Path) -> None:
    out = tmp_path / "out"
    faults.run(*args, "--output-dir", out, at="write journal", skip=2, **SETTINGS)
    without: Args = tuple(one for one in args if one != "--index")
    done = prepare(*without, "--output-dir", out)
    assert done.returncode == 5
    assert "--index was given and is not given" in done.stderr
    assert prepare(*args, "--output-dir", out).returncode == 0


def test_a_run_begun_by_a_version_without_the_option_resumes(tmp_path: Path) -> None:
    path = many_documents(tmp_path)
    args: Args = ("--input", path, *SEPARATED, "--output-dir", tmp_path / "out")
    faults.run(*args, at="write journal", skip=2, **SETTINGS)
    journal = tmp_path / "out" / ".prepare" / "journal"
    assert b'"--index"' not in journal.read_bytes()  # such a version wrote it like this
    assert prepare(*args).returncode == 0
    report = report_of(tmp_path / "out")
    del report["options"]["index"]
    (tmp_path / "out" / "prepare.json").write_text(json.dumps(report))
    done = prepare(*args)
    assert done.returncode == 0
    assert "already complete" in done.stderr
    assert prepare(*args, "--verify").returncode == 0
    done = prepare(*args, "--index")
    assert done.returncode == 4
    assert "does not match this run: --index was not given and is given" in done.stderr


# Complete output


@pytest.fixture
def made(tmp_path: Path) -> tuple[Args, Path]:
    path, out = write_text(tmp_path / "a.txt", some_texts(100)), tmp_path / "out"
    args: Args = ("--input", path, *MANY, "--output-dir", out)
    assert prepare(*args).returncode == 0
    return args, out


def test_complete_output_is_left_unchanged_and_is_checked_and_verified(made: tuple[Args, Path]) -> None:
    args, out = made
    done = prepare(*args)
    assert "already complete" in done.stderr
    assert "train.idx and val.idx: where each document is" in done.stderr
    assert prepare("--check", "--output-dir", out).returncode == 0
    done = prepare(*args, "--verify")
    assert done.returncode == 0, done.stderr
    assert re.search(r"verified: .*, train\.idx, val\.idx, all as tiktoken", done.stderr)
    assert all("sha256" in one for one in report_of(out)["files"])
    assert prepare("--check", "--output-dir", out).returncode == 0
    shown = faults.run("--inspect", out)
    n_documents = len(index_in(out).sizes)
    assert f"train.idx: an index of {n_documents} documents, as Megatron reads it" in shown.stdout
    assert "not made by this run" not in shown.stdout


@pytest.mark.parametrize("damage", ["size", "pointer", "document", "header", "cut", "gone", "of another"])
def test_an_index_changed_since_it_was_written_is_named(
    damage: str, made: tuple[Args, Path], tmp_path: Path
) -> None:
    args, out = made
    path = out / "train.idx"
    data = bytearray(path.read_bytes())
    n = len(parse(bytes(data)).sizes)
    at = {"size": 34 + 8, "pointer": 34 + 4 * n + 16, "document": 34 + 12 * n + 24, "header": 3}.get(
        damage, 0
    )
    data[at] ^= 1
    verified = {
        "size": f"{path}: the size of sequence 2, at byte 42, is",
        "pointer": f"{path}: the pointer of sequence 2, at byte {34 + 4 * n + 16:,}, is",
        "document": f"{path}: the entry of document 3, at byte {34 + 12 * n + 24:,}, is",
        "gone": f"{path} is missing",
        "of another": f"{path}: the size of sequence",
    }.get(damage, f"{path} is damaged, or no index")
    if damage == "of another":
        other = write_text(tmp_path / "b.txt", some_texts(100, seed=2))
        assert prepare("--input", other, *MANY, "--output-dir", tmp_path / "other").returncode == 0
        shutil.copy(tmp_path / "other" / "train.idx", path)
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-8] if damage == "cut" else data)
    done = prepare("--check", "--output-dir", out)
    assert done.returncode == (4 if damage == "gone" else 1)
    assert str(path) in done.stderr
    done = prepare(*args, "--verify")
    assert done.returncode == (4 if damage == "gone" else 1), done.stderr
    assert verified in done.stderr
    if damage in ("gone", "cut", "of another"):
        done = prepare(*args)
        assert done.returncode == 4
        assert f"{path} is gone" in done.stderr or f"{path} had " in done.stderr
        assert "train.idx" in faults.run("--inspect", out).stdout
    assert prepare(*args, "--overwrite").returncode == 0
    assert prepare(*args, "--verify").returncode == 0


def test_an_index_of_other_tokens_never_stays_next_to_new_ones(made: tuple[Args, Path]) -> None:
    args, out = made
    without: Args = tuple(one for one in args if one != "--index")
    for name in ("train.bin", "val.bin", "prepare.json"):
        (out / name).unlink()
    done = prepare(*without)
    assert done.returncode == 4
    assert (
        "exists, but this run makes no index, and Megatron would read it with the new tokens" in done.stderr
    )
    assert prepare(*without, "--overwrite").returncode == 0
    assert {path.name for path in out.iterdir()} == {"train.bin", "val.bin", "prepare.json"}
    (out / "train.idx").write_bytes(b"MMIDIDX")
    assert "already complete" in prepare(*without).stderr  # it may be the user's own file
    done = prepare(*args)
    assert done.returncode == 4


def test_files_with_the_names_of_the_indexes_are_not_replaced_without_the_option(tmp_path: Path) -> None:
    path, out = write_text(tmp_path / "a.txt", some_texts(50)), tmp_path / "out"
    args: Args = ("--input", path, *MANY, "--output-dir", out)
    out.mkdir()
    (out / "val.idx").write_bytes(b"mine")
    message = f"{out / 'val.idx'} exists already; pass --overwrite to replace it"
    assert_refused(out, lambda: prepare(*args), 4, message)
    assert prepare(*args, "--overwrite").returncode == 0
    assert len(index_in(out, "val").sizes)


def test_the_index_is_next_to_the_name_of_a_linked_file(tmp_path: Path) -> None:
    path, out, large = write_text(tmp_path / "a.txt", some_texts(50)), tmp_path / "out", tmp_path / "large"
    for folder in (out, large):
        folder.mkdir()
    (out / "train.bin").symlink_to(large / "tokens.bin")
    (out / "val.idx").symlink_to(large / "val.idx")
    args: Args = ("--input", path, *MANY, "--output-dir", out)
    done = prepare(*args)
    assert done.returncode == 0, done.stderr
    assert {one.name for one in large.iterdir()} == {"tokens.bin", "val.idx"}
    assert sum(index_in(out).sizes) == len(tokens_in(out))
    assert sum(index_in(out, "val").sizes) == len(tokens_in(out, "val"))
    assert (out / "val.idx").is_symlink()
    assert "already complete" in prepare(*args).stderr
    assert prepare("--check", "--output-dir", out).returncode == 0
    assert prepare(*args, "--verify").returncode == 0


# Many machines


def test_a_cluster_makes_the_same_index(tmp_path: Path) -> None:
    path = many_documents(tmp_path)
    args: Args = ("--input", path, *MANY)
    assert prepare(*args, "--output-dir", tmp_path / "one").returncode == 0
    many: Args = (
        *args,
        "--output-dir",
        tmp_path / "many",
        "--work-dir",
        tmp_path / "work",
        "--span-size",
        "90k",
    )
    for rank in ("0", "1"):
        done = prepare(*many, "--rank", rank, "--world-size", "2")
        assert done.returncode == 0, done.stderr
    without: Args = tuple(one for one in many if one != "--index")
    assert prepare(*without, "--merge").returncode == 5
    killed = faults.run(*many, "--merge", at="write journal", skip=2, every_bytes=20_000)
    assert killed.returncode == -9, killed.stderr
    again = faults.run(*many, "--merge", every_bytes=20_000)
    assert again.returncode == 0, again.stderr
    assert "resuming at" in again.stderr
    assert sha256s(tmp_path / "many") == sha256s(tmp_path / "one")
    assert not list((tmp_path / "work").glob("*"))
