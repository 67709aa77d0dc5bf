"""Documents without an exact cut for more than 512 KiB: cut at the same places in any format, and counted."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tiktoken

from nanogpt_compat.encoders.bounded import BoundedTokenizer
from nanogpt_compat.text.cuts import MAX_PIECE_BYTES
from nanogpt_compat.text.documents import END_OF_TEXT, MARK
from tests.faults import Args, prepare, report_of
from tests.reference import forced_pieces

pytestmark = pytest.mark.costly

KINDS = ("txt", "jsonl", "parquet")
SEPARATOR = "\x1e"
# Units of runs, each without an exact cut in it.
RUNS = (" ", "\n", "\t", "\u3000", "\xa0", " \n\t\xa0", "a", "7", "!", "'", "\u0301", "\u6c13", "\U0001f600")


def write(path: Path, documents: Sequence[str]) -> Path:
    """Put documents into a file of the format that its suffix names."""
    if path.suffix == ".txt":
        path.write_text(SEPARATOR.join(documents), encoding="utf-8", newline="")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": one}) + "\n" for one in documents))
    else:
        pyarrow.parquet.write_table(pyarrow.table({"text": documents}), path)
    return path


def options_for(kind: str) -> tuple[str, ...]:
    return ("--val-split", "none", *(("--document-separator", SEPARATOR) if kind == "txt" else ()))


def expected_tokens(
    documents: Sequence[str], gpt2: tiktoken.Encoding, piece_bytes: int
) -> tuple[list[int], int]:
    """Return the tokens of all documents and the number of forced cuts in them."""
    tokens: list[int] = []
    n_forced = 0
    for document in documents:
        pieces = forced_pieces(document.encode(), piece_bytes)
        n_forced += len(pieces) - 1
        tokens += [token for piece in pieces for token in gpt2.encode_ordinary(piece.decode())]
        tokens.append(END_OF_TEXT)
    return tokens, n_forced


def run_of(chars: str, n_bytes: int) -> str:
    """Repeat `chars` to `n_bytes` at most."""
    return (chars * (n_bytes // len(chars.encode()) + 1)).encode()[:n_bytes].decode("utf-8", "ignore")


def long_runs() -> list[str]:
    """Documents around 512 KiB and 1 MiB, one with a run that tiktoken cannot take whole."""
    return [
        "A million of them:" + " " * 1_000_001 + "x, and the end.",
        "a" + " " * (MAX_PIECE_BYTES - 1) + "b",  # just short enough
        "a" + "\n" * MAX_PIECE_BYTES + "b",
        "Short.",
        run_of("\u3000", MAX_PIECE_BYTES + 2) + "b",
        "a b" + run_of("7", 1_100_000),  # longer than one call encodes
        MARK.decode() + run_of("\t \n", 600_000) + "x",  # goes another way
        "Short, too.",
    ]


@pytest.mark.sample(2)
@pytest.mark.parametrize("kind", KINDS)
def test_a_document_of_any_source_with_a_long_run_is_cut_at_the_same_places(
    kind: str, gpt2: tiktoken.Encoding, tmp_path: Path, engine: str
) -> None:
    documents = long_runs()
    expected, n_forced = expected_tokens(documents, gpt2, MAX_PIECE_BYTES)
    assert n_forced == 6
    path = write(tmp_path / f"a.{kind}", documents)
    for block_size in ("100K", "4MiB"):  # parts of documents, all of them
        out = tmp_path / block_size
        options: Args = (
            *options_for(kind),
            "--output-dir",
            out,
            "--block-size",
            block_size,
            "--engine",
            engine,
        )
        done = prepare("--input", path, *options)
        assert done.returncode == 0, done.stderr
        assert np.fromfile(out / "train.bin", np.uint16).tolist() == expected
        assert report_of(out)["forced_cuts"] == n_forced
        assert "6 forced cuts in stretches of over 512 KiB" in done.stderr


@pytest.mark.sample(6)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_runs_of_anything_at_any_place_are_cut_by_the_same_rule(
    kind: str, seed: int, gpt2: tiktoken.Encoding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece_bytes = 1_000
    for module in ("encoders.block", "text.cutting"):
        monkeypatch.setattr(f"nanogpt_compat.{module}.MAX_PIECE_BYTES", piece_bytes)
    monkeypatch.setattr("nanogpt_compat.encoders.block._JOINED_BYTES", 3_000)
    rng = random.Random(seed)
    lengths = (1, 7, 400, 990, 996, 997, 998, 999, 1000, 1001, 1002, 1005, 2000, 2004, 3001, 5000)
    documents = [
        "".join(
            rng.choice(("a", "1", "x y. ", "")) + run_of(rng.choice(RUNS), rng.choice(lengths))
            for _ in range(rng.randrange(1, 5))
        )
        for _ in range(60)
    ]
    if kind == "txt":  # with an exact cut at the end; otherwise the last stretch would include the separator
        documents = [one + "a1!" for one in documents]
    documents = [one for one in documents if one]
    expected, n_forced = expected_tokens(documents, gpt2, piece_bytes)
    assert n_forced > 20
    path = write(tmp_path / f"a.{kind}", documents)
    for engine, block_size in (("tiktoken", "1500"), ("gigatoken", "700"), ("gigatoken", "1MiB")):
        out = tmp_path / f"{engine} {block_size}"
        options: Args = (
            *options_for(kind),
            "--output-dir",
            out,
            "--block-size",
            block_size,
            "--engine",
            engine,
        )
        done = prepare("--input", path, *options)
        assert done.returncode == 0, done.stderr
        assert np.fromfile(out / "train.bin", np.uint16).tolist() == expected
        assert report_of(out)["forced_cuts"] == n_forced


def test_text_that_grows_when_bytes_are_replaced_is_cut_again(
    gpt2: tiktoken.Encoding, tmp_path: Path, engine: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"It was 1 " + b"\xff" * 400_000 + b" end\n")  # 1.2 MB of U+FFFD
    text = path.read_bytes().decode("utf-8", "replace")
    expected = expected_tokens([text], gpt2, MAX_PIECE_BYTES)
    for block_size in ("50K", "1MiB"):
        out = tmp_path / block_size
        options = ("--errors", "replace", "--block-size", block_size, "--engine", engine, "--output-dir", out)
        done = prepare("--input", path, "--val-split", "none", *options)
        assert done.returncode == 0, done.stderr
        assert np.fromfile(out / "train.bin", np.uint16).tolist() == expected[0][:-1]
        assert report_of(out)["forced_cuts"] == expected[1] == 2


class PanicException(BaseException):
    """Named like Rust's panic, whose class cannot be imported."""


def let_engines_fail(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let both engines raise an error on a text with a certain word in it."""
    encode_to_numpy, encode_with = tiktoken.Encoding.encode_to_numpy, BoundedTokenizer._encode_with

    def encode_or_fail(self: tiktoken.Encoding, text: str, **options: Any) -> Any:
        if "unencodable" in text:
            raise error("Max stack size exceeded")
        return encode_to_numpy(self, text, **options)

    def fail_or_encode(self: BoundedTokenizer, tokenizer: Any, text: bytes) -> Any:
        if b"unencodable" in text:
            raise error("Max stack size exceeded")
        return encode_with(self, tokenizer, text)

    monkeypatch.setattr(tiktoken.Encoding, "encode_to_numpy", encode_or_fail)
    monkeypatch.setattr(BoundedTokenizer, "_encode_with", fail_or_encode)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        *((kind, ValueError) for kind in ("txt", "jsonl", "parquet", "plain")),
        *(("jsonl", error) for error in (KeyError, PanicException)),
        ("plain", RuntimeError),
    ],
)
def test_a_text_that_no_engine_takes_is_named_and_can_be_skipped(
    kind: str,
    error: type[BaseException],
    gpt2: tiktoken.Encoding,
    tmp_path: Path,
    engine: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    let_engines_fail(error, monkeypatch)
    documents = [f"Document {k}, of a few words. " * 40 for k in range(400)]
    documents[300] += "unencodable"
    suffix = "txt" if kind == "plain" else kind
    path = write(tmp_path / f"a.{suffix}", documents)
    same: Args = (
        *("--input", path, "--output-dir", tmp_path / "out", "--engine", engine),
        *(("--val-split", "none") if kind == "plain" else options_for(kind)),
    )
    done = prepare(*same)
    assert done.returncode == 3, done.stderr
    assert f"tiktoken {tiktoken.__version__} failed: " in done.stderr
    assert "Max stack size exceeded" in done.stderr
    if kind in ("txt", "plain"):
        place = path.read_bytes().index(b"unencodable")
        named = done.stderr.split(f"{path}, bytes ")[1].split(":")[0]
        start, end = (int(number.replace(",", "")) for number in named.split(" to "))
        assert start <= place < end <= start + 10_000
        return
    if kind == "jsonl":
        at = len(b"".join(path.read_bytes().splitlines(keepends=True)[:300]))
        assert f"{path}: line 301, at byte {at:,}: tiktoken" in done.stderr
    else:
        assert f"{path}: row 300 (of row group 0" in done.stderr
    done = prepare(*same, "--skip-bad-records", "--restart")
    assert done.returncode == 0, done.stderr
    expected, _ = expected_tokens([*documents[:300], *documents[301:]], gpt2, MAX_PIECE_BYTES)
    assert np.fromfile(tmp_path / "out" / "train.bin", np.uint16).tolist() == expected
    report = report_of(tmp_path / "out")
    assert report["skipped_records"] == 1
    assert "Max stack size exceeded" in report["first_skipped_records"][0][1]
