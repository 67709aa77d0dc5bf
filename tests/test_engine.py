"""gigatoken returns tiktoken's tokens on any text, and its memory stays bounded."""

import random
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt_compat.encoders.bounded import BoundedTokenizer
from nanogpt_compat.encoders.fast import GigatokenEncoder
from nanogpt_compat.encoders.interface import EngineMismatch
from nanogpt_compat.encoders.reference import TiktokenEncoder
from nanogpt_compat.errors import InputError
from nanogpt_compat.memory.malloc import uses_block
from tests.conftest import REPOSITORY
from tests.engines import SURROGATES, new_letters, open_gigatoken, tokenise
from tests.reference import whole_tokens
from tests.texts import PIECES, real_text

pytestmark = pytest.mark.costly

MB = 1_000_000
any_text = st.one_of(
    st.text(), st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4))).map("".join)
)


@pytest.fixture(scope="module")
def fast(gpt2: tiktoken.Encoding) -> GigatokenEncoder:
    return open_gigatoken(gpt2)


@pytest.fixture(scope="module")
def slow(gpt2: tiktoken.Encoding) -> TiktokenEncoder:
    return TiktokenEncoder(gpt2)


def assert_equal(fast: GigatokenEncoder, slow: TiktokenEncoder, text: bytes) -> bool:
    """Compare without the engine's own check, tested elsewhere; return whether tiktoken had to help."""
    made = fast.encode_checked(text, [])
    expected = slow.encode(text)
    if not np.array_equal(made.ids, expected):  # pytest would take minutes to show the difference
        shorter = min(len(made.ids), len(expected))
        first = int(np.argmin(np.append(made.ids[:shorter] == expected[:shorter], False)))
        before = slow.encoding.decode_bytes(expected[:first].tolist())
        pytest.fail(f"other tokens from byte {len(before)} on, at {text[len(before) :][:20]!r}")
    return made.by_reference


# No token is cast


def test_a_vocabulary_that_has_no_room_in_uint16_is_refused(gpt2: tiktoken.Encoding) -> None:
    ranks, pattern = gpt2._mergeable_ranks, gpt2._pat_str
    for last, is_taken in [((1 << 16) - 1, True), (1 << 16, False)]:
        one = tiktoken.Encoding("big", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|x|>": last})
        if is_taken:
            TiktokenEncoder(one)
        else:
            with pytest.raises(InputError, match="big has 65,537 tokens; uint16 holds 65,536"):
                TiktokenEncoder(one)


@pytest.mark.parametrize("odd", [50257, 65536 + 464])
def test_a_token_that_gpt2_does_not_have_shows_that_the_engine_errs(
    odd: int, gpt2: tiktoken.Encoding, slow: TiktokenEncoder
) -> None:
    class Erring:
        def encode_batch_padded(self, *_: object, **__: object) -> tuple[np.ndarray[Any, Any], None]:
            return np.array([[464, odd]], np.uint32), None

    fast = open_gigatoken(gpt2)
    fast._tokenizer._tokenizer = Erring()
    with pytest.raises(EngineMismatch):
        fast.encode_checked(b"The dog", [])
    assert np.array_equal(fast.encode(b"The dog"), slow.encode(b"The dog"))  # as in the forecast


# The same tokens


@given(text=any_text)
@settings(max_examples=500, deadline=None)
def test_any_text_has_the_tokens_of_tiktoken(
    fast: GigatokenEncoder, slow: TiktokenEncoder, text: str
) -> None:
    assert_equal(fast, slow, text.encode())


def in_contexts(chars: list[str]) -> bytes:
    """Each between letters, after digits, by spaces, before punctuation, doubled, after an apostrophe."""
    return "\n".join(f"a{c}b1{c} {c}! {c}{c}'{c}" for c in chars).encode()


def test_every_character_has_the_tokens_of_tiktoken_in_several_contexts(
    fast: GigatokenEncoder, slow: TiktokenEncoder
) -> None:
    new = set(new_letters())
    n_swept = 0
    for start in range(0, 0x110000, 4096):
        chars = {chr(code) for code in range(start, start + 4096) if code not in SURROGATES}
        # With new ones among them, the others would go through tiktoken, too.
        for some, is_helped in ((chars - new, False), (chars & new, True)):
            if some:
                assert assert_equal(fast, slow, in_contexts(sorted(some))) == is_helped
                n_swept += len(some)
    assert n_swept == 0x110000 - len(SURROGATES)


@pytest.mark.parametrize("char", [*"a=- \n1'\0", "\t", "\u4e2d", "\xe9", "\u0301", "\u3000", "\U0001f600"])
def test_long_runs_of_one_character_have_the_tokens_of_tiktoken(
    fast: GigatokenEncoder, slow: TiktokenEncoder, char: str
) -> None:
    for n_chars in (1, 2, 3, 63, 64, 65, 1000, 4097, 512 * 1024 // len(char.encode())):
        run = char * n_chars
        assert not assert_equal(fast, slow, run.encode())
        if n_chars < 10_000:
            assert not assert_equal(fast, slow, f"as {run} is, {run}".encode())


def test_real_text_has_the_tokens_of_tiktoken_in_any_number_of_threads(
    fast: GigatokenEncoder, slow: TiktokenEncoder
) -> None:
    raw = real_text().decode("utf-8", "ignore")[: 2 * MB]
    texts = [raw[start : start + 100_000].encode() for start in range(0, len(raw), 100_000)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda text: fast.encode_checked(text, []).ids, texts))
    assert all(np.array_equal(one, slow.encode(text)) for one, text in zip(made, texts, strict=True))


@pytest.mark.parametrize("errors", ["ignore", "replace"])
def test_random_bytes_have_the_tokens_of_the_whole_file(
    fast: GigatokenEncoder, gpt2: tiktoken.Encoding, tmp_path: Path, errors: str
) -> None:
    path = tmp_path / "random"
    path.write_bytes(random.Random(errors).randbytes(1_000_000))
    (train, _), tally = tokenise([path], fast, errors=errors, block_bytes=50_000)
    assert np.array_equal(train, whole_tokens(path, gpt2, errors))
    assert tally.invalid_bytes > 400_000


def test_strict_finds_the_same_byte_with_both(
    fast: GigatokenEncoder, slow: TiktokenEncoder, tmp_path: Path
) -> None:
    path = tmp_path / "random"
    path.write_bytes(b"to be " * 20_000 + random.Random(0).randbytes(1000))
    messages = []
    for encoder in (fast, slow):
        with pytest.raises(InputError, match="is not UTF-8: found") as caught:
            tokenise([path], encoder, errors="strict", block_bytes=50_000)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


# Known differences between the two


def test_text_full_of_new_letters_goes_through_tiktoken(
    fast: GigatokenEncoder, slow: TiktokenEncoder
) -> None:
    new = new_letters()
    rng = random.Random(0)
    neighbours = ["", "'s", "'", "a", "1", " ", "!", "\n", "\u6c13", "\u87af", " a"]
    n_would_differ = 0
    for start in range(0, len(new), 50):
        text = "".join(char + rng.choice(neighbours) for char in new[start : start + 50]).encode()
        assert assert_equal(fast, slow, text)
        n_would_differ += not np.array_equal(fast.encode(text), slow.encode(text))
    assert n_would_differ > 50, "the installed versions agree on most: this test can hardly fail any more"


def test_one_such_character_in_a_long_text_is_enough(fast: GigatokenEncoder, slow: TiktokenEncoder) -> None:
    prose = real_text()[:400_000].decode("utf-8", "ignore")
    assert not assert_equal(fast, slow, prose.encode())
    n_would_differ = 0
    for char in "\u088f\u0c5c\ua7ce\U00010940\U00016ea0\U000323b0\U00033479":
        for place in (0, 1, 1000, 399, len(prose) // 2, len(prose) - 1, len(prose)):
            text = f"{prose[:place]}{char}'s{prose[place:]}".encode()
            assert assert_equal(fast, slow, text)
            n_would_differ += not np.array_equal(fast.encode(text), slow.encode(text))
    assert n_would_differ > 40


class PanicException(BaseException):
    """Named like Rust's panic, whose class cannot be imported."""


def test_a_panic_has_the_block_go_through_tiktoken(
    slow: TiktokenEncoder, gpt2: tiktoken.Encoding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_with = BoundedTokenizer._encode_with

    def encode_or_panic(self: BoundedTokenizer, tokenizer: Any, text: bytes) -> Any:
        if b"panic" in text:
            raise PanicException("index out of bounds")
        return encode_with(self, tokenizer, text)

    monkeypatch.setattr(BoundedTokenizer, "_encode_with", encode_or_panic)
    panicking = open_gigatoken(gpt2)
    assert not assert_equal(panicking, slow, b"keep calm")
    assert assert_equal(panicking, slow, b"do not panic")
    assert np.array_equal(
        panicking.encode(b"do not panic"), slow.encode(b"do not panic")
    )  # as in the forecast
    path = tmp_path / "text"
    path.write_bytes(b"calm words " * 4000 + b"panic " + b"calm words " * 4000)
    (train, _), tally = tokenise([path], panicking, block_bytes=5000)
    assert np.array_equal(train, whole_tokens(path, gpt2))
    assert tally.fallback_blocks == 1
    panicking.drop_caches()  # it does not wait for threads that have ended
    assert not assert_equal(panicking, slow, b"keep calm")


def test_errors_other_than_panics_are_raised(
    gpt2: tiktoken.Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: object, _tokenizer: object, _text: bytes) -> object:
        raise MemoryError

    monkeypatch.setattr(BoundedTokenizer, "_encode_with", fail)
    with pytest.raises(MemoryError):
        open_gigatoken(gpt2).encode_checked(b"text", [])


# Its memory


def run_python(program: str, *args: str) -> list[int]:
    """Run it in a process of its own, which measures its memory alone; return the numbers it prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *args],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return list(map(int, done.stdout.split()))


RANDOM_WORDS = """
    import sys
    from concurrent.futures import ThreadPoolExecutor
    import numpy
    from nanogpt_compat.encoders.reference import TiktokenEncoder
    from nanogpt_compat.encoders.fast import GigatokenEncoder
    from nanogpt_compat.memory.limits import own_bytes_reader
    from nanogpt_compat.memory.limits import peak_rss_bytes
    from nanogpt_compat.encoders.vocabulary import load_gpt2

    own_bytes = own_bytes_reader()
    cache_bytes = int(sys.argv[1]) or None
    reference = TiktokenEncoder(load_gpt2())
    fast = GigatokenEncoder(
        reference, version="0.10.0", n_workers=2, own_bytes=own_bytes, cache_bytes=cache_bytes
    )

    def encode(seed):
        words = numpy.random.default_rng(seed).integers(97, 123, (512 * 1024 // 9, 9), numpy.uint8)
        words[:, 8] = 32
        return len(fast.encode(words.tobytes()))

    n_blocks = int(sys.argv[2])
    with ThreadPoolExecutor(2) as pool:
        n_tokens = sum(pool.map(encode, range(n_blocks)))
    held = own_bytes()
    fast.drop_caches()
    print(peak_rss_bytes(), fast._tokenizer.generation, n_tokens, held - own_bytes())
"""


def test_the_cache_is_bounded_over_a_long_stream_of_words_that_never_come_again() -> None:
    peak, n_built, n_tokens, _ = run_python(RANDOM_WORDS, "0", "120")  # 63 MB
    assert n_tokens > 20 * MB
    assert n_built > 1
    assert peak < 256 * MB


def test_without_the_bound_the_same_stream_takes_more_and_dropping_the_cache_returns_it() -> None:
    peak, n_built, _, dropped = run_python(RANDOM_WORDS, str(1 << 60), "30")  # 16 MB
    assert n_built == 1  # when the cache was dropped
    assert peak > 256 * MB
    assert dropped > 100 * MB


def test_dropping_the_cache_is_safe_while_others_encode(
    gpt2: tiktoken.Encoding, slow: TiktokenEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = open_gigatoken(gpt2)
    tokenizer, in_use = fast._tokenizer, list[int]()
    build = tokenizer._build

    def build_and_look() -> Any:
        in_use.append(tokenizer._n_active)
        return build()

    monkeypatch.setattr(tokenizer, "_build", build_and_look)
    text = real_text()[:500_000].decode("utf-8", "ignore").encode()
    expected = slow.encode(text)
    assert not assert_equal(fast, slow, text)
    stop = threading.Event()

    def encode_on() -> int:
        n_times = 0
        while not stop.is_set():
            assert np.array_equal(fast.encode_checked(text, []).ids, expected)
            n_times += 1
        return n_times

    with ThreadPoolExecutor(5) as pool:
        encoding = [pool.submit(encode_on) for _ in range(3)]
        dropping = [pool.submit(drop_often, fast) for _ in range(2)]
        for future in dropping:
            future.result(timeout=60)
        stop.set()
        assert all(future.result(timeout=60) for future in encoding)
    assert 2 <= fast._tokenizer.generation <= 10  # drops during a rebuild do nothing
    assert in_use == [0] * fast._tokenizer.generation  # otherwise two of them would be in memory


def drop_often(fast: GigatokenEncoder) -> None:
    for _ in range(5):
        time.sleep(0.02)  # until the others are at work again
        fast.drop_caches()


def test_memory_of_others_in_this_process_has_it_rebuilt_but_not_without_end(
    gpt2: tiktoken.Encoding, slow: TiktokenEncoder
) -> None:
    readings = iter([0, *[10**12] * 3, *[0] * 10])
    fast = open_gigatoken(gpt2, own_bytes=lambda: next(readings))
    text = b"to be, or not " * 100_000  # enough for a look at the memory after each
    for _ in range(6):
        assert np.array_equal(fast.encode(text), slow.encode(text))
    assert fast._tokenizer.generation == 3


def test_blocks_that_others_declare_do_not_count_as_words(
    gpt2: tiktoken.Encoding, slow: TiktokenEncoder
) -> None:
    readings = iter([0, *[100_000_000] * 12])
    fast = open_gigatoken(gpt2, own_bytes=lambda: next(readings), cache_bytes=50_000_000)
    text = b"to be, or not " * 100_000
    block = np.empty(100_000_000, np.uint8)
    with uses_block(block.nbytes):
        for _ in range(6):
            assert np.array_equal(fast.encode(text), slow.encode(text))
        assert fast._tokenizer.generation == 0
    assert np.array_equal(fast.encode(text), slow.encode(text))
    assert fast._tokenizer.generation == 1


@pytest.mark.parametrize(("cache_bytes", "n_rebuilt"), [(50_000_000, 1), (70_000_000, 0)])
def test_without_mallinfo2_the_blocks_of_the_pipeline_are_subtracted_once(
    gpt2: tiktoken.Encoding, monkeypatch: pytest.MonkeyPatch, cache_bytes: int, n_rebuilt: int
) -> None:
    monkeypatch.setattr(
        "nanogpt_compat.memory.malloc._libc", lambda: None
    )  # glibc before 2.33, or another libc
    readings = iter([0, *[160_000_000] * 4])
    fast = open_gigatoken(gpt2, own_bytes=lambda: next(readings), cache_bytes=cache_bytes)
    with uses_block(100_000_000):
        fast.encode(b"to be, or not " * 100_000)
    assert fast._tokenizer.generation == n_rebuilt


def test_a_tokenizer_that_could_not_be_built_blocks_no_thread(
    gpt2: tiktoken.Encoding, slow: TiktokenEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = open_gigatoken(gpt2)

    def refuse(_self: object) -> object:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(BoundedTokenizer, "_build", refuse)
        with pytest.raises(MemoryError):
            fast.drop_caches()
        with ThreadPoolExecutor(1) as pool, pytest.raises(MemoryError):
            pool.submit(fast.encode, b"to be").result(timeout=10)
    assert np.array_equal(fast.encode(b"to be"), slow.encode(b"to be"))


def test_versions_that_can_bound_their_cache_are_set_to_and_never_rebuilt(
    gpt2: tiktoken.Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    gigatoken = pytest.importorskip("gigatoken", exc_type=ImportError)
    bounds: list[int] = []
    monkeypatch.setattr(gigatoken, "set_max_cache_bytes", bounds.append, raising=False)
    fast = open_gigatoken(gpt2, n_workers=4, own_bytes=always(10**12))
    assert bounds == [fast.cache_bytes // 4]
    fast.encode(b"to be, or not to be")
    assert fast._tokenizer.generation == 0


def always(value: int) -> Callable[[], int]:
    return lambda: value
