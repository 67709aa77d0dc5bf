"""Characters of a text that are not ASCII are found without reading through all of it."""

from hypothesis import example, given
from hypothesis import strategies as st

from nanogpt_compat.text.blocks import Block, Position
from nanogpt_compat.text.decoding import as_utf8, decode
from nanogpt_compat.text.utf8 import is_utf8, non_ascii_part
from tests.texts import any_bytes

far_apart = st.lists(st.tuples(st.integers(0, 200), any_bytes)).map(
    lambda parts: b"".join(b"." * n_dots + some for n_dots, some in parts)
)


def chars_of(raw: bytes) -> list[str]:
    """Return the characters that are not ASCII, undecodable bytes too."""
    return [char for char in raw.decode("utf-8", "surrogateescape") if not char.isascii()]


@given(raw=far_apart)
@example(raw=b"." * 20 + b"\xc3" + b"." * 20 + b"\xa9" + b"." * 20)
@example(raw=b"." * 39 + b"\xc3" + b"." * 40 + b"\xa9" + b"." * 39)
@example(raw=b"." * 39 + b"\xe4\xb8\xad" + b"." * 38)
@example(raw=b"." * 39 + b"\xc3" + b"." * 40 + b"\xa9")
@example(raw=b"." * 40 + b"\xc3")
@example(raw=b"." * 47 + b"\xc3\xa9")
def test_the_part_has_the_same_characters_and_is_valid_if_the_whole_is(raw: bytes) -> None:
    part = non_ascii_part(raw)
    assert chars_of(part) == chars_of(raw)
    assert is_utf8(raw) == (raw.decode("utf-8", "replace") == raw.decode("utf-8", "surrogateescape"))


def test_the_part_of_a_text_with_few_such_characters_is_small() -> None:
    raw = (b"word " * 1000 + b"\xc3\xa9") * 100
    assert len(non_ascii_part(raw)) < len(raw) // 100
    assert len(non_ascii_part(b"word " * 1000)) <= 8


@given(
    raw=st.lists(st.sampled_from([b"\r\n"] * 3 + [b"\r", b"\n", b"a", b"\xc3\xa9"])).map(b"".join),
    after_cr=st.booleans(),
)
@example(raw=b"a\r\nb\r\n", after_cr=False)  # all are pairs
@example(raw=b"a\r\nb\r", after_cr=False)
def test_line_ends_become_line_feeds_as_in_text_mode(raw: bytes, after_cr: bool) -> None:
    block = Block(raw, Position(0, after_cr=after_cr), Position(0), is_val=False)
    text, non_ascii = as_utf8(block, "strict")
    assert text == decode(block, "strict").encode()
    assert non_ascii is not None
    assert chars_of(non_ascii) == chars_of(text)
