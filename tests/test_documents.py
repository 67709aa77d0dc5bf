"""Documents in text: each is encoded like a file of its own, wherever blocks end and runs stop."""

import gzip
import json
import random
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanogpt_compat.encoders.interface import Encoder
from nanogpt_compat.encoders.reference import with_mark
from nanogpt_compat.input import separated as sources_documents
from nanogpt_compat.input.compressed import ByteStream
from nanogpt_compat.input.open import LocalFile
from nanogpt_compat.input.separated import read_documents
from nanogpt_compat.resume.counters import Tally
from nanogpt_compat.text.blocks import Position
from nanogpt_compat.text.cuts import MAX_PIECE_BYTES
from nanogpt_compat.text.documents import END_OF_TEXT, EOTS, MARK, Documents
from tests import faults
from tests.engines import Lists, open_encoder, tokenise
from tests.faults import Args, expect, make_text, prepare, report_of
from tests.reference import Tokens, each_document, goes_to_val, read_as_text
from tests.texts import PIECES, real_text

pytestmark = pytest.mark.costly

SEPARATORS = ("\n", "\n\n", "\n\n\n", "\x1e", "<|endoftext|>", "aa", "aba", "'s", " ", "\u3000", "\n-\n", "1")
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture(scope="module", params=["tiktoken", "gigatoken"])
def marked(request: pytest.FixtureRequest, gpt2: tiktoken.Encoding) -> Encoder:
    return open_encoder(request.param, with_mark(gpt2))


def expected_pair(
    texts: Sequence[str], documents: Documents, encoding: tiktoken.Encoding
) -> tuple[list[int], list[int]]:
    """Return the right train.bin and val.bin, one document after another."""
    pair: dict[bool, list[int]] = {False: [], True: []}
    for is_val, tokens in each_of(texts, documents, encoding):
        pair[is_val] += tokens
    return pair[False], pair[True]


def each_of(
    texts: Sequence[str], documents: Documents, encoding: tiktoken.Encoding
) -> Iterator[tuple[bool, list[int]]]:
    """Yield for each document whether it is for validation, and its tokens with the end token."""
    split = (one for text in texts for one in text.split(documents.separator))
    return each_document(split, encoding, eot=documents.eot, ratio=documents.val_ratio)


def expected_ends(
    texts: Sequence[str], documents: Documents, encoding: tiktoken.Encoding
) -> dict[bool, list[int]]:
    """Return the end of each document in the tokens of its split."""
    lengths: dict[bool, list[int]] = {False: [], True: []}
    for is_val, tokens in each_of(texts, documents, encoding):
        lengths[is_val].append(len(tokens))
    return {is_val: list(accumulate(some)) for is_val, some in lengths.items()}


def assert_same(found: tuple[Tokens, Tokens], expected: tuple[list[int], list[int]]) -> None:
    for name, one, other in zip(("train", "val"), found, expected, strict=True):
        assert one.tolist() == other, name


def assert_counts(tally: Tally, texts: Sequence[str], separator: str) -> None:
    """Every document is counted, a final separator opens none, and an empty one is no document."""
    split = [text.split(separator) for text in texts]
    all_documents = [one for parts in split for one in parts]
    assert tally.documents == sum(map(bool, all_documents))
    assert tally.empty_documents == len(all_documents) - tally.documents - sum(not one[-1] for one in split)
    assert tally.longest_document_bytes == max(len(one.encode()) for one in all_documents)
    assert tally.open_document_bytes == 0


@st.composite
def raw_documents(draw: st.DrawFn) -> tuple[bytes, str]:
    """Bytes full of a separator, halves of it, and bytes that are dropped or translated."""
    separator = draw(st.sampled_from(SEPARATORS))
    raw = separator.encode()
    parts = [raw, raw[: len(raw) // 2], raw[-1:], b"\r\n", b"\r", b"\n", b"\xff", b"\xe3\x80", MARK, MARK[:3]]
    parts += [piece.encode() for piece in PIECES]
    return b"".join(draw(st.lists(st.sampled_from(parts), max_size=25))), separator


@given(
    raws=st.lists(raw_documents(), min_size=1, max_size=3),
    block_bytes=st.integers(1, 60),
    errors=st.sampled_from(["ignore", "replace"]),
    eot=st.sampled_from(EOTS),
    ratio=st.sampled_from([0.0, 0.3]),
    n_workers=st.integers(1, 3),
)
@settings(same_folder, max_examples=300)
def test_documents_in_blocks_of_any_size_have_the_tokens_of_each_alone(
    gpt2: tiktoken.Encoding,
    marked: Encoder,
    tmp_path: Path,
    raws: list[tuple[bytes, str]],
    block_bytes: int,
    errors: str,
    eot: str,
    ratio: float,
    n_workers: int,
) -> None:
    documents = Documents(raws[0][1], eot, ratio, needs_ends=True)
    paths = [tmp_path / f"{k}.txt" for k in range(len(raws))]
    for path, (raw, _) in zip(paths, raws, strict=True):
        path.write_bytes(raw)
    sink = Lists()
    found, tally = tokenise(
        paths,
        marked,
        documents=documents,
        errors=errors,
        block_bytes=block_bytes,
        n_workers=n_workers,
        sink=sink,
    )
    texts = [read_as_text(path, errors) for path in paths]
    assert_same(found, expected_pair(texts, documents, gpt2))
    assert sink.ends == expected_ends(texts, documents, gpt2)
    assert_counts(tally, texts, raws[0][1])
    assert tally.bytes_read == sum(len(raw) for raw, _ in raws)
    assert tally.forced_cuts == 0


@pytest.mark.parametrize("separator", SEPARATORS)
def test_a_separator_on_any_edge_of_a_block_is_found(
    gpt2: tiktoken.Encoding, marked: Encoder, tmp_path: Path, separator: str
) -> None:
    path = tmp_path / "text"
    text = (
        separator.join(["A few, words", "", "caf\u00e9 \u6c13", "abab", "x" * 30, " \n a\n", "1 2"])
        + separator
    )
    path.write_bytes(text.replace("\n", "\r\n").encode())
    documents = Documents(separator, "append", 0.4)
    expected = expected_pair([text], documents, gpt2)
    for block_bytes in range(1, path.stat().st_size + 2):
        found, tally = tokenise([path], marked, documents=documents, block_bytes=block_bytes)
        assert_same(found, expected)
        assert_counts(tally, [text], separator)


@pytest.mark.parametrize("separator", SEPARATORS)
def test_a_separator_after_a_long_document_is_found_on_any_edge_of_a_block(
    gpt2: tiktoken.Encoding, marked: Encoder, tmp_path: Path, separator: str
) -> None:
    """A block may end within a separator only after a document's first 64 KiB, which one block holds."""
    path = tmp_path / "text"
    long = "word " * 13_200
    text = separator.join([long, "A few, words", "1 2"]) + separator
    path.write_bytes(text.encode())
    documents = Documents(separator, "append", 0.4)
    expected = expected_pair([text], documents, gpt2)
    for block_bytes in range(len(long) - 2, len(long + separator) + 3):
        found, tally = tokenise([path], marked, documents=documents, block_bytes=block_bytes)
        assert_same(found, expected)
        assert_counts(tally, [text], separator)


def test_a_separator_with_many_dropped_bytes_in_it_is_found_on_any_edge_of_a_block(
    gpt2: tiktoken.Encoding, marked: Encoder, tmp_path: Path
) -> None:
    """The bytes looked at after a cut may then hold only a part of the separator."""
    path = tmp_path / "text"
    long = b"word " * 13_200
    path.write_bytes(long + b"a " + b"\xff" * 40 + b"bA few words")
    documents = Documents("a b", "append", 0.0)
    expected = expected_pair([read_as_text(path, "ignore")], documents, gpt2)
    for block_bytes in range(len(long) - 2, len(long) + 8):
        found, _ = tokenise([path], marked, documents=documents, block_bytes=block_bytes)
        assert_same(found, expected)


@pytest.mark.parametrize("errors", ["ignore", "replace"])
def test_a_separator_made_by_dropped_bytes_is_found_before_a_later_one(
    gpt2: tiktoken.Encoding, marked: Encoder, tmp_path: Path, errors: str
) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"one two\n\xff\n\nthree four\n\xe3\x80\n\n\nfive six\r\xff\n\nseven eight")
    documents = Documents("\n\n", "append", 0.0)
    expected = expected_pair([read_as_text(path, errors)], documents, gpt2)
    for block_bytes in range(1, path.stat().st_size + 1):
        found, _ = tokenise([path], marked, documents=documents, errors=errors, block_bytes=block_bytes)
        assert_same(found, expected)


@pytest.mark.parametrize("block_bytes", [5_000, 200_000, 1 << 20])
def test_a_document_longer_than_a_block_goes_to_one_side_as_a_whole(
    gpt2: tiktoken.Encoding, marked: Encoder, tmp_path: Path, block_bytes: int
) -> None:
    prose = real_text().decode("utf-8", "ignore").replace("\x1e", "")
    lengths = [10, 70_000, 300_000, 64 * 1024, 64 * 1024 + 1, 1, 150_000, 150_000]
    texts = [prose[k * 1000 :][:length] for k, length in enumerate(lengths)]
    path = tmp_path / "text"
    path.write_text("\x1e".join(texts), encoding="utf-8", newline="")
    documents = Documents("\x1e", "prepend", 0.5)
    text = read_as_text(path, "ignore")
    expected = expected_pair([text], documents, gpt2)
    assert min(map(len, expected)) > 10_000
    found, tally = tokenise([path], marked, documents=documents, block_bytes=block_bytes)
    assert_same(found, expected)
    assert_counts(tally, [text], "\x1e")


def test_a_long_document_that_begins_with_dropped_bytes_is_chosen_by_its_text(
    gpt2: tiktoken.Encoding, marked: Encoder, tmp_path: Path
) -> None:
    prose = real_text().decode("ascii", "ignore").replace("\r", "")
    for k in range(4):  # some of them for val, some for train
        path = tmp_path / "text"
        long = b"\xff" * 250_000 + prose[k:][:200_000].encode()
        path.write_bytes(b"first\x1e\xff\x1e" + long + b"\x1e" + long)
        documents = Documents("\x1e", "append", 0.5)
        found, tally = tokenise([path], marked, documents=documents, block_bytes=20_000)
        assert_same(found, expected_pair([read_as_text(path, "ignore")], documents, gpt2))
        assert tally.documents == 3
        assert tally.empty_documents == 1


@pytest.mark.parametrize("errors", ["ignore", "replace"])
def test_the_side_of_a_document_of_about_64_kib_depends_on_its_text_alone(
    gpt2: tiktoken.Encoding, marked: Encoder, tmp_path: Path, errors: str
) -> None:
    """Line ends and dropped bytes use up bytes of the window, and characters lie across its end."""
    path = tmp_path / "text"
    head_bytes = 64 * 1024
    documents = Documents("<|endoftext|>", "append", 0.5)
    lines, dropped = b"a\r\n" * 102, b"\xff" * 700
    for some in (lines, dropped, lines + dropped, b""):
        raws = []
        for k in range(-14, 3):
            word = b"%d " % k
            text = (
                word + (b"\xe3\x81\x82 " * head_bytes)[: head_bytes + k - len(word) - some.count(b"\n") * 2]
            )
            raws.append(text.decode("utf-8", "ignore").encode() + some)
            raws.append(some + text.decode("utf-8", "ignore").encode() + b"and some more")
        path.write_bytes(b"first<|endoftext|>" + b"<|endoftext|>".join(raws))
        expected = expected_pair([read_as_text(path, errors)], documents, gpt2)
        for block_bytes in (16 * 1024, 50_000):
            found, _ = tokenise([path], marked, documents=documents, errors=errors, block_bytes=block_bytes)
            assert_same(found, expected)


def test_a_document_of_hardly_any_text_is_on_one_side_and_takes_no_more_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Watched(ByteStream):
        """A stream that records how far it was read before the first block."""

        n_read = 0

        def read(self, n_bytes: int, offset: int | None = None) -> bytes:
            data = super().read(n_bytes, offset)
            self.n_read = self.offset
            return data

    path = tmp_path / "text"
    documents = Documents("--", "append", 0.5)
    monkeypatch.setattr(sources_documents, "_HEAD_IN_BYTES", 1 << 20)
    sides = set()
    for k in range(8):
        dropped = b"\xff" * 600_000 * (k % 2) + b"%d" % k + b"\xff" * 4_000_000
        path.write_bytes(dropped + b"second--third")
        found = {}
        for block_bytes in (1 << 16, 1 << 19):
            with LocalFile(path) as file:
                text = Watched(file)
                position = Position(0)
                blocks = read_documents(
                    text,
                    start=position,
                    block_bytes=block_bytes,
                    documents=documents,
                    errors="ignore",
                )
                block = next(one for one in blocks if one.end.document)
                found[block_bytes] = block.end.document
                assert text.n_read < 3 << 20
        assert len(set(found.values())) == 1, found
        sides |= set(found.values())
    assert sides == {"train", "val"}


def test_a_stretch_without_a_cut_is_cut_by_force_and_a_separator_still_found(
    gpt2: tiktoken.Encoding, marked: Encoder, tmp_path: Path
) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"first--" + b"x" * (MAX_PIECE_BYTES - 1) + b"xx-x--last")
    documents = Documents("x--", "append", 0.0)
    (train, _), tally = tokenise([path], marked, documents=documents, block_bytes=100_000)
    assert tally.documents == 2
    assert train.tolist().count(END_OF_TEXT) == 2
    assert (
        gpt2.decode(train.tolist()).encode()
        == path.read_bytes().replace(b"x--", b"<|endoftext|>") + b"<|endoftext|>"
    )


@pytest.mark.parametrize("errors", ["ignore", "replace"])
def test_a_stretch_of_separator_prefixes_is_not_held_as_a_whole(errors: str, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"first ab" + b"a" * 5 * MAX_PIECE_BYTES + b"ab last")
    places = {}
    for block_bytes in (1 << 16, 1 << 20):
        with LocalFile(path) as file:
            blocks = list(
                read_documents(
                    file,
                    start=Position(0),
                    block_bytes=block_bytes,
                    documents=Documents("ab", "append", 0.0),
                    errors=errors,
                )
            )
        assert b"".join(block.raw for block in blocks) == path.read_bytes()
        assert max(len(block.raw) for block in blocks) <= MAX_PIECE_BYTES + (1 << 20)
        places[block_bytes] = [block.end.offset for block in blocks if block.ends_by_force]
    assert len(places[1 << 16]) == 5
    assert len({tuple(found) for found in places.values()}) == 1


@pytest.mark.parametrize("separator", ["aa", "\n\n", "aba"])
@pytest.mark.parametrize("dropped", [b"", b"\xff\xff"])
def test_a_stretch_of_separators_is_not_held_as_a_whole(
    separator: str,
    dropped: bytes,
    gpt2: tiktoken.Encoding,
    marked: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A separator may lie across any cut."""
    monkeypatch.setattr("nanogpt_compat.text.cutting.MAX_PIECE_BYTES", 1_000)
    path = tmp_path / "text"
    path.write_bytes(b"first" + (dropped + separator[:-1].encode()) * 4_000 + b"last, 1")
    documents = Documents(separator, "append", 0.0)
    with LocalFile(path) as file:
        blocks = list(
            read_documents(
                file,
                start=Position(0),
                block_bytes=100,
                documents=documents,
                errors="ignore",
            )
        )
    assert max(len(block.raw) for block in blocks) <= 1_200
    (train, _), _ = tokenise([path], marked, documents=documents, block_bytes=100)
    assert train.tolist() == expected_pair([read_as_text(path, "ignore")], documents, gpt2)[0]


@pytest.mark.parametrize("max_chars", [1, 5, 6, 7, 40, 41, 200, 1000, 10_000])
def test_a_number_of_characters_ends_with_the_document_they_end_in(
    gpt2: tiktoken.Encoding, marked: Encoder, tmp_path: Path, max_chars: int
) -> None:
    texts = [
        "ab\ncde\n\nf g\r\nh",
        "",
        "\n",
        "caf\u00e9\n" * 30 + "a long one, of many words " * 20 + "\nend",
    ]
    paths = [tmp_path / f"{k}.txt" for k in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text.encode())
    left, kept = max_chars, []
    for path in paths:
        part = ""
        for piece in read_as_text(path, "ignore").splitlines(keepends=True):
            if left > 0:
                part += piece
                left -= len(piece)
        kept.append(part)
    documents = Documents("\n", "append", 0.2)
    for block_bytes in (1, 7, 50, 100_000):
        found, _ = tokenise(paths, marked, documents=documents, block_bytes=block_bytes, max_chars=max_chars)
        assert_same(found, expected_pair(kept, documents, gpt2))


# The command


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text(tmp_path_factory.mktemp("documents") / "text.txt", 1_000_000, n_invalid=20)


def test_the_files_hold_each_document_with_its_end(
    text: Path, gpt2: tiktoken.Encoding, tmp_path: Path, engine: str
) -> None:
    done = prepare(
        *("--input", text, "--output-dir", tmp_path, "--document-separator", r"\n\n", "--engine", engine),
        *("--val-ratio", "0.05"),
    )
    assert done.returncode == 0, done.stderr
    whole = read_as_text(text, "ignore")
    raised = 64 * 1024 / (1 << 20)  # 64 KiB in 1,000,000 bytes, rounded up to a power of two
    expected = expected_pair([whole], Documents("\n\n", "append", raised), gpt2)
    found = [np.fromfile(tmp_path / f"{name}.bin", np.uint16) for name in ("train", "val")]
    assert_same((found[0], found[1]), expected)
    report = report_of(tmp_path)
    assert report["documents"] == sum(one.count(END_OF_TEXT) for one in expected)
    assert report["val_split"] == {"name": "documents", "ratio": 0.05, "document_ratio": raised}
    assert "notice: 6.25% of the documents are for validation instead of 5.00%" in done.stderr
    assert f"{report['documents']:,} documents, the longest of" in done.stderr
    assert f"{report['empty_documents']:,} empty" in done.stderr


def test_killed_at_random_moments_it_ends_in_the_same_files(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    prose = make_text(tmp_path / "prose", 1_500_000, n_invalid=20).read_bytes()
    path.write_bytes(prose + prose.replace(b"\n\n", b"\n"))  # the second half has only a few, long ones
    same: Args = ("--input", path, "--document-separator", r"\n\n", "--val-ratio", "0.3")
    expected = expect(tmp_path / "expected", *same)
    rng = random.Random(0)
    n_kills, out = 0, tmp_path / "out"

    def choose() -> tuple[Args, dict[str, Any]]:
        block_bytes = rng.choice([20_000, 200_000])
        return (*same, "--output-dir", out, "--block-size", str(block_bytes)), {"every_bytes": 100_000}

    while n_kills < 8:
        n_kills += faults.kill_until_done(rng, expected, out, choose, seconds=expected.seconds)[0]
        shutil.rmtree(out)


def test_other_separators_or_ends_are_another_run(text: Path, tmp_path: Path) -> None:
    same: Args = ("--input", text, "--output-dir", tmp_path, "--document-separator", r"\n\n")
    with pytest.raises(faults.Stopped):
        prepare(*same, stop_after_bytes=300_000)
    for other in (("--eot", "prepend"), ("--document-separator", r"\n")):
        refused = prepare(*same, *other)
        assert refused.returncode == 5
        assert f"{other[0]} was" in refused.stderr
    assert prepare(*same).returncode == 0


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--eot", "append"), "--eot needs documents"),
        (("--val-split", "documents"), "--val-split documents needs documents"),
        (("--document-separator", r"\n", "--val-split", "tail"), "would cut documents in two"),
        (("--document-separator", ""), "an empty separator"),
        (("--document-separator", r"\r\n"), "every line end"),
        (("--document-separator", r"\ud800"), "half a character"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    text: Path, tmp_path: Path, options: tuple[str, ...], why: str
) -> None:
    refused = prepare("--input", text, "--output-dir", tmp_path, *options)
    assert refused.returncode == 2
    assert why in refused.stderr


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (r"\n\n", "\n\n"),
        (r"\x1e", "\x1e"),
        (r"\u3000", "\u3000"),
        (r"\\n", r"\n"),
        ("\u00e9|", "\u00e9|"),
        (r"\d", r"\d"),
    ],
)
def test_escapes_are_understood(tmp_path: Path, typed: str, meant: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(meant.join(["one", "two", "three"]), encoding="utf-8", newline="")
    done = prepare("--input", path, "--output-dir", tmp_path, "--document-separator", typed)
    assert done.returncode == 0, done.stderr
    assert report_of(tmp_path)["documents"] == 3


def test_a_literal_end_of_text_is_text_and_the_command_that_makes_it_one_is_offered(
    gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    path = tmp_path / "a b.txt"
    whole = "A document.<|endoftext|>Another one." * 200
    path.write_text(whole)
    done = prepare("--input", path, "--output-dir", tmp_path / "one", "--val-split", "none")
    train = np.fromfile(tmp_path / "one" / "train.bin", np.uint16)
    assert train.tolist() == gpt2.encode_ordinary(whole)
    assert done.stderr.startswith("notice: <|endoftext|> is in the input")
    offered = options_offered(done.stderr)
    assert prepare(*offered, "--overwrite").returncode == 0
    assert report_of(tmp_path / "one")["documents"] == 201
    quiet = prepare(*offered, "--overwrite", "--restart")
    assert "notice: <|" not in quiet.stderr


def options_offered(stderr: str) -> list[str]:
    """Return the options of the command in a notice."""
    offered = shlex.split(stderr.splitlines()[1])
    return offered[offered.index("--input") :]


def test_the_offered_command_works_after_a_stopped_run_and_a_dry_run_offers_it_too(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("A document.<|endoftext|>Another one." * 10_000)
    same: Args = ("--input", path, "--output-dir", tmp_path / "out")
    dry = faults.run(*same, "--dry-run")
    assert dry.returncode == 0
    assert "If it ends a document there, run:\n" in dry.stderr
    with pytest.raises(faults.Stopped):
        prepare(*same, "--block-size", "50K", stop_after_bytes=100_000)
    assert prepare(*options_offered(dry.stderr)).returncode == 0
    assert report_of(tmp_path / "out")["documents"] == 10_001


def test_no_separator_is_offered_for_records(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "A document.<|endoftext|>Another one."}\n' * 200)
    done = prepare("--input", path, "--output-dir", tmp_path)
    assert (done.returncode, "notice: <|" in done.stderr) == (0, False)


def test_the_forecast_counts_the_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("word\n" * 10_000)
    same: Args = ("--input", path, "--output-dir", tmp_path, "--document-separator", r"\n", "--dry-run")
    for eot, n_tokens in (("append", "20.0K"), ("none", "10.0K")):
        done = faults.run(*same, "--eot", eot)
        assert f"about {n_tokens} tokens" in done.stdout, done.stderr


def test_a_single_document_is_for_training_and_an_empty_val_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("The only one. " * 100)
    done = prepare("--input", path, "--output-dir", tmp_path, "--document-separator", r"\x1e")
    assert done.returncode == 0, done.stderr
    assert report_of(tmp_path)["tokens"]["val"] == 0
    assert "val.bin has 0 tokens, but sampling a block of 1,024 takes" in done.stderr


def test_one_long_first_document_leaves_the_others_where_they_were(tmp_path: Path) -> None:
    """The split of a document depends on its content and not on its place."""
    others = [f"Document number {k}. " * 50 for k in range(300)]
    first = next(one for k in range(99) if not goes_to_val(one := f"{k} is long. " * 100_000, 0.1))
    path = tmp_path / "a.txt"
    path.write_text("\x1e".join([first, *others]))
    done = prepare("--input", path, "--output-dir", tmp_path, "--document-separator", r"\x1e")
    assert done.returncode == 0, done.stderr
    ratio = report_of(tmp_path)["val_split"]["document_ratio"]
    assert ratio == 64 * 1024 / (1 << 21)
    val = np.fromfile(tmp_path / "val.bin", np.uint16)
    assert np.count_nonzero(val == END_OF_TEXT) == sum(goes_to_val(one, ratio) for one in others) > 0


@pytest.mark.parametrize("packed", ["txt", "txt.gz", "jsonl", "jsonl.gz"])
def test_a_short_text_gives_more_of_its_documents_to_validation(packed: str, tmp_path: Path) -> None:
    texts = [f"Document {k} of a small corpus. " * 20 for k in range(1_000)]
    lines = [json.dumps({"text": one}) for one in texts] if "jsonl" in packed else texts
    data = "\n".join(lines).encode()
    path = tmp_path / f"a.{packed}"
    path.write_bytes(gzip.compress(data) if packed.endswith("gz") else data)
    more: Args = () if "jsonl" in packed else ("--document-separator", r"\n")
    done = prepare("--input", path, "--output-dir", tmp_path, *more)
    assert done.returncode == 0, done.stderr
    assert report_of(tmp_path)["val_split"]["document_ratio"] == 64 * 1024 / (1 << 20)
    val = np.fromfile(tmp_path / "val.bin", np.uint16)
    assert np.count_nonzero(val == END_OF_TEXT) == sum(goes_to_val(one, 1 / 16) for one in texts)


@pytest.mark.parametrize("n_more", [0, 1])
def test_a_stream_longer_than_the_part_looked_at_keeps_its_ratio(n_more: int, tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress((b"A line of text.\n" * (1 << 16))[: (1 << 20) - 1] + b"." * (1 + n_more)))
    done = prepare("--input", path, "--output-dir", tmp_path, "--document-separator", r"\n")
    assert done.returncode == 0, done.stderr
    assert report_of(tmp_path)["val_split"]["document_ratio"] == (0.0005 if n_more else 1 / 16)


def test_counts_of_documents_do_not_depend_on_blocks(marked: Encoder, text: Path) -> None:
    tallies = [
        tokenise([text], marked, documents=Documents("\n\n", "append", 0.1), block_bytes=block_bytes)[1]
        for block_bytes in (3_000, 1 << 20)
    ]
    one, other = (replace(tally, checked_slices=0, fallback_blocks=0) for tally in tallies)
    assert one == other


LACKS = {"before": "is in none of the samples of the text", "after": "is not in the text, so each text file"}


@pytest.mark.parametrize("kind", ["txt", "txt.gz"])
def test_a_separator_that_is_not_in_the_text_is_named_before_and_after(kind: str, tmp_path: Path) -> None:
    texts = [make_text(tmp_path / f"{name}.txt", 1_200_000).read_bytes() for name in "ab"]
    inputs = [tmp_path / f"{k}.{kind}" for k in range(2)]
    for path, raw in zip(inputs, texts, strict=True):
        path.write_bytes(gzip.compress(raw, 1) if kind.endswith("gz") else raw)
    args: Args = ("--input", *inputs, "--document-separator", "<|end|>", "--output-dir", tmp_path / "out")
    dry = faults.run(*args, "--dry-run").stdout
    assert f"notice: the separator '<|end|>' {LACKS['before']}" in dry
    assert LACKS["after"] not in dry
    done = prepare(*args)
    assert f"notice: the separator '<|end|>' {LACKS['before']}" in done.stderr
    assert f"warning: the separator '<|end|>' {LACKS['after']} is one document" in done.stderr


@pytest.mark.parametrize(
    "case", ["one of two texts", "line ends of Windows", "a short text", "a long record"]
)
def test_a_separator_of_some_text_is_not_called_missing(case: str, tmp_path: Path) -> None:
    raw = make_text(tmp_path / "a.txt", 1_200_000).read_bytes()
    inputs, separator = [tmp_path / "b.txt"], "<|end|>"
    if case == "one of two texts":
        inputs.append(tmp_path / "a.txt")
        inputs[0].write_bytes(b"<|end|>\n".join(raw.splitlines(keepends=True)))
    elif case == "line ends of Windows":
        inputs[0].write_bytes(raw.replace(b"\n", b"\r\n\r\n"))
        separator = r"\n\n"
    elif case == "a short text":
        inputs[0].write_bytes(raw[:100_000].decode(errors="ignore").encode())
    else:
        inputs.append(tmp_path / "b.jsonl")
        inputs[0].write_text("A short text.")
        inputs[1].write_text(json.dumps({"text": raw.decode(errors="ignore")}) + "\n")
    out = tmp_path / "out"
    done = prepare("--input", *inputs, "--document-separator", separator, "--output-dir", out)
    assert done.returncode == 0, done.stderr
    assert not any(line in done.stderr for line in LACKS.values())
