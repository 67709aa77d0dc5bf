"""The forecast: scaled for each input, limited by `--n`, and close to the truth on real text."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_compat.config import Config
from nanogpt_compat.encoders.forecast import Estimate, Estimator
from nanogpt_compat.encoders.interface import Encoder
from nanogpt_compat.input.location import Container, Format, Input
from nanogpt_compat.input.open import LocalFile
from nanogpt_compat.input.samples import Share
from nanogpt_compat.input.source import reader_of
from nanogpt_compat.preflight.look import look_into
from nanogpt_compat.text.documents import MARK
from tests.engines import open_encoder
from tests.texts import documents_in_many_languages, real_text


def one_token_each(text: bytes) -> str:
    return text.decode()


def one_token_for_four(text: bytes) -> str:
    return text.decode()[::4]


def forecast(estimator: Estimator, n_workers: int = 1) -> tuple[int, int]:
    found = estimator.estimate(n_workers=n_workers)
    assert found.output_bytes == 2 * found.tokens
    return found.text_bytes, found.tokens


@given(sizes=st.lists(st.integers(0, 10**12), min_size=1, max_size=5))
def test_every_input_counts_by_its_own_tokens_per_byte(sizes: list[int]) -> None:
    estimator = Estimator(one_token_each)
    expected = 0.0
    for k, size in enumerate(sizes):
        if size:
            estimator.add(["x" * 10 * (k + 1)], sampled_bytes=100, size_bytes=size)
        else:
            estimator.add([], sampled_bytes=0, size_bytes=0)  # an empty file has no samples
        expected += size * (k + 1) / 10
    text_bytes, tokens = forecast(estimator)
    assert text_bytes == pytest.approx(sum(sizes))
    assert tokens == pytest.approx(expected, abs=1)


def test_a_text_that_takes_longer_to_unpack_than_to_encode_takes_that_long() -> None:
    estimator = Estimator(one_token_each)
    estimator.add(["x" * 100], sampled_bytes=50, size_bytes=10**9, read_bytes_per_s=10)
    assert estimator.estimate(n_workers=8).seconds == pytest.approx(2 * 10**9 / 10)


def test_bytes_that_are_dropped_make_no_tokens() -> None:
    estimator = Estimator(one_token_for_four)
    estimator.add(["abcd"], sampled_bytes=16, size_bytes=16_000)
    assert forecast(estimator) == (16_000, 1000)
    nothing = Estimator(one_token_for_four)
    nothing.add(["", ""], sampled_bytes=16, size_bytes=16_000)
    assert forecast(nothing) == (16_000, 0)


def test_n_counts_characters_over_the_inputs_and_not_bytes() -> None:
    chinese = Estimator(one_token_each, max_chars=1000)
    chinese.add(["\u4e2d" * 10], sampled_bytes=30, size_bytes=900_000)
    assert forecast(chinese) == (3000, 1000)
    two = Estimator(one_token_each, max_chars=1000)
    two.add(["\u4e2d" * 10], sampled_bytes=30, size_bytes=1200)  # 400 characters
    two.add(["x" * 8], sampled_bytes=8, size_bytes=10_000)
    two.add(["x" * 8], sampled_bytes=8, size_bytes=10_000)
    assert forecast(two) == (1200 + 600, 1000)
    enough = Estimator(one_token_each, max_chars=1000)
    enough.add(["x" * 8], sampled_bytes=8, size_bytes=999)
    assert forecast(enough) == (999, 999)


def test_max_tokens_counts_tokens_over_the_inputs_except_those_for_val_alone() -> None:
    limited = Estimator(one_token_each, max_tokens=1000)
    limited.add(["x" * 8], sampled_bytes=8, size_bytes=700)
    limited.add(["x" * 8], sampled_bytes=8, size_bytes=10_000, is_val=True)
    limited.add(["x" * 8], sampled_bytes=16, size_bytes=4_000)  # half of its bytes are tokens
    limited.add(["x" * 8], sampled_bytes=8, size_bytes=10_000)
    assert forecast(limited) == (700 + 10_000 + 600, 11_000)


def test_documents_are_as_many_as_the_samples_have_marks() -> None:
    estimator = Estimator(one_token_each)
    mark = MARK.decode()
    estimator.add([f"one{mark}two{mark}", "x" * 2], weights=[1.0, 3.0], sampled_bytes=100, size_bytes=5_000)
    assert estimator.estimate(n_workers=1).documents == 100


def test_real_text_sampled_at_a_few_places_is_forecast_within_five_percent(encoder: Encoder) -> None:
    raw = real_text()[:1_500_000]
    estimator = Estimator(encoder.encode)
    places = range(0, len(raw) - 16_384, len(raw) // 31)
    texts = [raw[place : place + 16_384].decode("utf-8", "ignore") for place in places]
    estimator.add(texts, sampled_bytes=16_384 * len(texts), size_bytes=len(raw))
    tokens = len(encoder.encode(raw.decode("utf-8", "ignore").encode()))
    assert forecast(estimator)[1] == pytest.approx(tokens, rel=0.05)


def test_time_is_that_of_the_samples_over_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    estimator = Estimator(one_token_each)
    estimator.add(["x" * 100], sampled_bytes=100, size_bytes=60_000)
    seconds = {n: estimator.estimate(n_workers=n).seconds for n in (1, 2, 8)}
    assert seconds == {1: 1200.0, 2: 800.0, 8: 200.0}  # 0.75 of linear


def test_an_empty_forecast_is_nothing() -> None:
    assert Estimator(one_token_each).estimate(n_workers=2) == Estimate(0, 0, 0.0)


# Text in many languages: the places of the samples decide


@pytest.fixture(scope="module")
def documents() -> list[tuple[int, str]]:
    return documents_in_many_languages(8_000_000)


@pytest.fixture(scope="module")
def n_tokens(documents: list[tuple[int, str]], gpt2: tiktoken.Encoding) -> int:
    encode = open_encoder("gigatoken", gpt2).encode
    return sum(len(encode(text.encode())) for _, text in documents)


@pytest.mark.sample(3)
@pytest.mark.parametrize("order", ["shuffled", "by language", "in stretches", "by length"])
@pytest.mark.parametrize("form", ["text", "jsonl", "parquet", "one row group"])
def test_text_in_many_languages_is_forecast_within_ten_percent(
    form: str, order: str, documents: list[tuple[int, str]], n_tokens: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    keys: dict[str, Callable[[tuple[int, tuple[int, str]]], Any]] = {
        "shuffled": lambda one: one[0],
        "by language": lambda one: one[1][0],
        "in stretches": lambda one: (one[0] // 500, one[1][0]),
        "by length": lambda one: len(one[1][1]),
    }
    texts = [text for _, (_, text) in sorted(enumerate(documents), key=keys[order])]
    path = tmp_path / "a file"
    container: Container = "jsonl" if form == "jsonl" else "text" if form == "text" else "parquet"
    if form == "text":
        path.write_text("".join(texts))
    elif form == "jsonl":
        is_ascii = rng.integers(2, size=len(texts)).tolist()
        records = zip(({"id": k, "text": one} for k, one in enumerate(texts)), is_ascii, strict=True)
        path.write_text("".join(json.dumps(one, ensure_ascii=bool(some)) + "\n" for one, some in records))
    else:
        pq = pytest.importorskip("pyarrow.parquet")
        table = pytest.importorskip("pyarrow").table({"text": texts})
        pq.write_table(table, path, row_group_size=200 if form == "parquet" else len(texts))
    config = Config(tmp_path, has_documents=form != "text", eot="none", val_split="none")
    assert look_into(config, [Input(path, Format(container))]).forecast.tokens == pytest.approx(
        n_tokens, rel=0.1
    )


def test_lines_that_are_very_long_are_forecast_by_pieces_of_them(
    documents: list[tuple[int, str]], n_tokens: int, tmp_path: Path
) -> None:
    """Books, or all documents of a language in one."""
    books: dict[int, list[str]] = {}
    for language, text in documents:
        books.setdefault(language, []).append(text)
    path = tmp_path / "books.jsonl"
    path.write_text("".join(json.dumps({"text": "".join(book)}) + "\n" for book in books.values()))
    config = Config(tmp_path, has_documents=True, eot="none", val_split="none")
    assert look_into(config, [Input(path, Format("jsonl"))]).forecast.tokens == pytest.approx(
        n_tokens, rel=0.1
    )


def test_many_inputs_take_no_more_samples_than_one(
    documents: list[tuple[int, str]], gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    n_chars = 0
    paths = [tmp_path / f"{k}.jsonl" for k in range(500)]
    for k, path in enumerate(paths):
        some = documents[k::500]
        path.write_text("".join(json.dumps({"text": text}) + "\n" for _, text in some))
    share = Share(len(paths), paths[0].stat().st_size, sum(path.stat().st_size for path in paths))
    for path in paths:
        with LocalFile(path) as file:
            found = reader_of(path, Format("jsonl")).sample(file, [], share, lambda: None)
        n_chars += sum(map(len, found.texts))
    assert n_chars < 4_000_000
