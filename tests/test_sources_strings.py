"""Long JSON strings, decoded in parts: the same texts and errors as if decoded whole."""

import json
import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nanogpt_compat.input import jsonl, strings
from nanogpt_compat.input.jsonl import parse_lines
from nanogpt_compat.input.strings import encode, head_of_line, take_out
from nanogpt_compat.text.blocks import Need

PARTS = (
    *("a", "x" * 9, " ", "\u00e9", "\u6c13", "\U0001f600", "\\n", '\\"', "\\\\", "\\/", "\\u0041", "\\u6c13"),
    *("\\ud83d\\ude00", "\\ud83d", "\\ude00", "\\uD83D\\uDE00", "ud83d"),
)
BAD_PARTS = ("\\q", "\\u12", "\t", '"', "\\", "\n", "\udcff")


def have_none(_n_bytes: int, need: Callable[[], Need]) -> None:
    """Imitate a lack of room for parsing a long line as a whole."""
    need()


@pytest.fixture(autouse=True)
def small_parts() -> Iterator[None]:
    """Count strings as long from 50 bytes, and make parts of 40 bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strings, "_PART_BYTES", 40)
        patch.setattr(strings, "LONG_STRING_BYTES", 50)
        yield


def literals(parts: tuple[str, ...]) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(parts), max_size=80).map("".join)


@given(before=literals(PARTS), text=literals(PARTS), after=literals(PARTS))
@example(before="", text="\\ude00" * 30, after="")
@example(before="", text="\\\\" * 60, after="\\\\" * 60)
@example(before="\\\\", text="\\ud83d\\ude00" * 20, after="\\\\\\" + '"' + "x" * 60)
def test_a_string_is_the_same_whole_and_in_parts(before: str, text: str, after: str) -> None:
    line = f'{{"a": "{before}", "text": "{text}", "b": ["{after}"]}}'
    short, found = take_out(line.encode())
    record = json.loads(short)
    texts = [found[one].decode() if one in found else encode(one) for one in (record["a"], record["text"])]
    expected = json.loads(line)
    assert texts == [encode(expected["a"]), encode(expected["text"])]
    assert all(one.end - one.start > 50 for one in found.values())
    assert len(short) < 400
    for one in found.values():
        one.check()


@given(data=st.data())
def test_a_long_line_gives_the_result_of_parsing_it_whole(data: st.DataObject) -> None:
    """Also if it is no JSON or cut off: only the message differs."""
    parts = data.draw(st.sampled_from([PARTS, PARTS + BAD_PARTS]))
    values = literals(parts).map(lambda text: f'"{text}"') | st.sampled_from(
        ["1", "NaN", "{}", "[1, {}]", "?"]
    )
    names = st.sampled_from(["text", "text", "other", "x" * 70])
    fields = data.draw(st.lists(st.tuples(names, values), max_size=4))
    line = "{" + ", ".join(f'"{name}": {value}' for name, value in fields) + "}"
    raw = line.encode("utf-8", "surrogateescape")
    raw = raw[: data.draw(st.integers(0, len(raw)) | st.just(len(raw)))] + data.draw(
        st.sampled_from([b"", b"\n", b" \r\n", b"{}"])
    )
    raw = data.draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + raw
    whole = parse_lines(raw, text_field="text", skip_bad=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl, "LONG_RECORD_BYTES", 0)
        found = parse_lines(raw, text_field="text", skip_bad=True, make_room=have_none)
    assert (found.texts, found.n_empty, found.n_replaced, found.n_bad) == (
        whole.texts,
        whole.n_empty,
        whole.n_replaced,
        whole.n_bad,
    )
    assert [one.split(":")[0] for one in found.bad] == [one.split(":")[0] for one in whole.bad]


@pytest.mark.parametrize(
    ("literal", "reason"),
    [
        ("x" * 99 + "\\q", "not JSON: Invalid \\escape at byte 110 of the line"),
        ("x" * 99 + "\t", "not JSON: Invalid control character at byte 110 of the line"),
        ("\u00e9" * 50 + "\\u12", "not JSON: Invalid \\uXXXX escape at byte 112 of the line"),
        ("x" * 99 + "\udcff", "byte 109 of the line is not UTF-8: found ff"),
    ],
)
def test_a_fault_in_a_long_string_is_reported_with_its_byte(
    literal: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "LONG_RECORD_BYTES", 0)
    line = f'{{"text": "{literal}"}}'.encode("utf-8", "surrogateescape")
    lines = parse_lines(line, text_field="text", skip_bad=True, first_line=7, offset=100, make_room=have_none)
    (found,) = lines.bad
    assert found == f"line 7, at byte 100: {reason}"


def test_the_beginning_of_a_line_holds_all_of_its_text_so_far() -> None:
    rng = random.Random(0)
    text = "".join(rng.choices(PARTS, k=300))
    line = f'{{"id": 1, "text": "{text}", "x": 1}}'.encode()
    whole = json.loads(line)["text"]
    shortest = len(line)
    for n_bytes in range(60, len(line) - 10):
        found = json.loads(head_of_line(line[:n_bytes]))["text"]
        assert whole.startswith(found.removesuffix("\ud83d"))
        shortest = min(shortest, len(found) - len(line[:n_bytes].decode(errors="ignore")) // 12)
    assert shortest > -20
    assert json.loads(head_of_line(b'{"a": 1, "b": {"c": {"d": "e ', 3)) == {"a": 1, "b": {"c": {"d": "e"}}}
    assert head_of_line(b'{"a": 1, "b": {"c": {"d": "e ', 2) == b""
    assert head_of_line(b'["a", ') == b""
    assert head_of_line(b'{"text": [1, 2') == b""
