"""JSON lines: the documents of json.loads, for any ends of blocks, and bad lines by number and byte."""

import io
import json
import random
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt_compat.errors import InputError
from nanogpt_compat.input import runs
from nanogpt_compat.input.jsonl import LINES, parse_lines
from nanogpt_compat.input.native import native_decoder
from nanogpt_compat.input.runs import read_runs
from nanogpt_compat.text import documents
from nanogpt_compat.text.blocks import Records
from tests.reference import field_of

PATH = Path("data.jsonl")
MORE_THAN_ASCII = 'caf\xe9 \u2028 \u4e2d\u6587 \U0001f600 \x85 \ufeff "quoted" \\ \n \r\n \t \0'

texts = st.one_of(st.text(max_size=30), st.sampled_from(["", "\n", MORE_THAN_ASCII, "}\n{", '"}', "\ud800"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
records = st.dictionaries(texts, values, max_size=3)


@pytest.fixture(params=["msgspec", "json"], scope="module", autouse=True)
def parser(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run every test with msgspec, and as if it were not installed."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "json":
            patch.setitem(sys.modules, "msgspec", None)
        native_decoder.cache_clear()
        assert (native_decoder("text") is None) == (request.param == "json")
        yield request.param
    native_decoder.cache_clear()


def parse(raw: bytes, **options: Any) -> Records:
    return parse_lines(raw, **({"text_field": "text"} | options))


def places(records: Records) -> list[str]:
    return [where_and_why.split(": ")[0] for where_and_why in records.bad]


def refusal(raw: bytes, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        parse(raw, **options)
    return str(error.value)


def reference(raw: bytes, text_field: str) -> tuple[list[bytes], int, list[tuple[int, int]]]:
    """Return the documents, the number of empty ones and the places of bad ones, by json.loads."""
    documents: list[bytes] = []
    bad: list[tuple[int, int]] = []
    n_empty = offset = 0
    for k, line in enumerate(raw.split(b"\n")):
        try:
            # json.loads would guess at UTF-16.
            text = field_of(json.loads(line.decode()), text_field)
            if not isinstance(text, str):
                raise TypeError  # noqa: TRY301 - one list of what makes a line bad
        except (ValueError, LookupError, TypeError, RecursionError):
            if line.strip(b" \t\r"):
                bad.append((k + 1, offset))
        else:
            documents += [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()] * bool(
                text
            )
            n_empty += not text
        offset += len(line) + 1
    return documents, n_empty, bad


def check(raw: bytes, text_field: str = "text") -> None:
    documents, n_empty, bad = reference(raw, text_field)
    parsed = parse(raw, text_field=text_field, skip_bad=True)
    assert parsed.texts == documents
    assert parsed.n_empty == n_empty
    assert places(parsed) == [f"line {line:,}, at byte {offset:,}" for line, offset in bad[:10]]
    assert parsed.n_bad == len(bad)


@given(
    records=st.lists(st.tuples(records, texts), max_size=5),
    ascii_only=st.booleans(),
    ends=st.sampled_from(["\n", "\r\n"]),
)
def test_documents_are_those_of_json_loads_on_each_line(
    records: list[tuple[dict[str, Any], str]], ascii_only: bool, ends: str
) -> None:
    lines = [json.dumps(record | {"text": text}, ensure_ascii=ascii_only) + ends for record, text in records]
    raw = "".join(lines).encode("utf-8", "replace")
    check(raw)
    assert parse(raw) == parse(raw, skip_bad=True)


names = st.sampled_from(["a", "b", "a.b", "a,b", "b.a.b"])
nested = st.recursive(
    st.sampled_from([None, None, "", "one", "two", "\ud800", 1, ["three"]]),
    lambda inner: st.dictionaries(names, inner, min_size=1, max_size=3),
    max_leaves=6,
)


@given(
    lines=st.lists(st.dictionaries(names, nested, max_size=4), min_size=3, max_size=6),
    text_field=st.lists(names, min_size=1, max_size=2).map(",".join),
)
@settings(max_examples=120)
def test_nested_and_alternative_fields_are_those_of_the_definition(
    lines: list[dict[str, Any]], text_field: str
) -> None:
    check("\n".join(map(json.dumps, lines)).encode(), text_field)


@pytest.mark.parametrize(
    ("text_field", "record", "reason"),
    [
        ("meta.text", {"meta": {"body": "a"}}, "no field 'meta.text' among the fields of 'meta' ('body')"),
        ("meta.text", {"id": 1}, "no field 'meta.text' among its fields ('id')"),
        ("meta.text", {"meta": {"text": None}}, "its field 'meta.text' is null, not a string"),
        ("meta.text", {"meta.text": None, "meta": {"text": "a"}}, "its field 'meta.text' is null"),
        ("meta.text", {"meta": None}, "no field 'meta.text': its field 'meta' is null, not an object"),
        ("talk.0.say", {"talk": [{"say": "a"}]}, "'talk.0.say': its field 'talk' is an array, not an object"),
        ("text,body", {"id": 1}, "no field 'text' or 'body' among its fields ('id')"),
        ("text,body", {"body": None, "id": 1}, "its field 'body' is null, not a string"),
        ("text,body", {"text": 1, "body": "a"}, "its field 'text' is a number, not a string"),
    ],
)
def test_a_record_without_the_text_is_named_with_its_fields(
    text_field: str, record: dict[str, Any], reason: str
) -> None:
    raw = b'{"meta.text": "flat", "talk.0.say": "flat", "text": "flat"}\n' + json.dumps(record).encode()
    assert reason in refusal(raw, text_field=text_field)


@pytest.mark.parametrize("n_bytes", [100, 1 << 18, 5 << 20])
def test_a_nested_text_of_any_length_is_read(n_bytes: int) -> None:
    text = ("words \u00e9 " * (n_bytes // 8))[:n_bytes]
    raw = json.dumps({"id": "x" * 70_000, "meta": {"note": text[:80_000], "text": text}}).encode() + b"\n"
    assert parse(raw, text_field="none,meta.text").texts == [text.encode()]


@given(
    lines=st.lists(st.one_of(values.map(lambda value: json.dumps(value).encode()), st.binary(max_size=20)))
)
def test_lines_of_any_sort_are_distinguished(lines: list[bytes]) -> None:
    check(b"\n".join([b'{"text": "first"}', *lines, b'{"text": "last"}']))


@given(
    record=records,
    text=texts,
    ascii_only=st.booleans(),
    place=st.integers(0, 1 << 16),
    n_lost=st.integers(0, 3),
    junk=st.one_of(
        st.binary(max_size=3), st.sampled_from([b"\\", b'"', b",", b"\\u12", b"\t", b"\xff", b"-"])
    ),
)
def test_a_damaged_line_is_read_or_refused_like_in_json(
    record: dict[str, Any], text: str, ascii_only: bool, place: int, n_lost: int, junk: bytes
) -> None:
    line = json.dumps(record | {"text": text}, ensure_ascii=ascii_only).encode("utf-8", "replace")
    place %= len(line) + 1
    check(b'{"text": "first"}\n' + line[:place] + junk + line[place + n_lost :] + b'\n{"text": "last"}')


FRAGMENTS = [
    '{"text": "a"}',
    '{"text": "a"',
    '"text": "b"}',
    ', {"text": "b"}',
    "[",
    "]",
    '{"a": [',
    "}",
    '"',
    ",",
    " ",
    "\r",
    "{}",
    "1",
]


@given(parts=st.lists(st.sampled_from([*FRAGMENTS, "\n"]), max_size=12))
def test_json_across_lines_is_no_record(parts: list[str]) -> None:
    check("".join(parts).encode())


def test_a_record_spread_over_lines_is_refused_at_its_first_line() -> None:
    raw = b'{"text": "a"}\n{\n"text": "b"\n}\n'
    assert refusal(raw).startswith("line 2, at byte 14: not JSON: ")


def test_the_last_line_may_lack_its_end_and_blank_lines_are_skipped() -> None:
    parsed = parse(b'\n{"text": "a"}\r\n \t\r\n\n{"text": "b"}')
    assert (parsed.texts, parsed.n_empty, parsed.n_bad) == ([b"a", b"b"], 0, 0)
    assert parse(b"") == Records()


def test_a_byte_order_mark_is_skipped_only_at_the_beginning() -> None:
    raw = b'\xef\xbb\xbf{"text": "a"}\n'
    assert parse(raw).texts == [b"a"]
    assert places(parse(raw + b"?", skip_bad=True)) == [f"line 2, at byte {len(raw)}"]
    assert "line 7, at byte 100: not JSON" in refusal(raw, first_line=7, offset=100)


def test_lone_surrogates_are_replaced_and_counted() -> None:
    parsed = parse(b'{"text": "\\ud83d\\ude00 \\ud800 \\udc00\\ud800"}\n{"text": "\\ud83d"}\n')
    assert parsed.texts == ["\U0001f600 \ufffd \ufffd\ufffd".encode(), "\ufffd".encode()]
    assert parsed.n_replaced == 4


def test_numbers_of_any_length_in_other_fields_are_no_fault() -> None:
    raw = b'{"n": %s, "x": 1e999, "y": NaN, "text": "a"}\n' % (b"9" * 5000)
    assert parse(raw).texts == [b"a"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"hello", "not JSON: Expecting value at character 1, found 'hello'"),
        (b'{"text": "a', "not JSON: Unterminated string starting at character 10, found '\"a'"),
        (
            b'{"text": "a"} "text"',
            "not JSON: Expecting the end of the line at character 14, found ' \"text\"'",
        ),
        (b'{"text": "a"}{"text": "b"}', "a second JSON object begins on the line at character 14"),
        (b' {"text": "a"} \r{"text": "b"} ', "a second JSON object begins on the line at character 16"),
        (b'{"text": "a"},', "a comma follows the JSON object at character 14, as in an array"),
        (b'{"text": "a"} , {"text": "b"}', "a comma follows the JSON object at character 15, as in an array"),
        (b"\0" * 70_000, "not JSON: it begins with NUL bytes"),
        (b'\x1e{"text": "a"}', "not JSON: it begins with a record separator (U+001E)"),
        (b"\xef\xbb\xbf" * 2 + b'{"text": "a"}', "not JSON: it begins with a byte order mark (U+FEFF)"),
        (b'{"text": "a\tb"}', "not JSON: Invalid control character at character 12, found '\\tb\"}'"),
        (b'{"text": ', "not JSON: Expecting value at character 9, found the end of the line"),
        (b'["a"]', "not a JSON object but an array"),
        (b'"text"', "not a JSON object but a string"),
        (b"7", "not a JSON object but a number"),
        (
            b'{"id": 1, "content": "a"}',
            "no field 'text' among its fields ('id', 'content'); fix the line, or skip such lines with",
        ),
        (b"{}", "no field 'text' among its fields ()"),
        (b'{"text": null}', "its field 'text' is null, not a string"),
        (b'{"text": 7}', "its field 'text' is a number, not a string"),
        (b'{"text": true}', "its field 'text' is true or false, not a string"),
        (b'{"text": {}}', "its field 'text' is an object, not a string"),
        (b'{"text": "caf\xe9 a"}', "byte 13 of the line is not UTF-8: found e9"),
        (b'{"id": "\xff", "text": "a"}', "byte 8 of the line is not UTF-8: found ff"),
        (b'{"id": "\\q", "text": "a"}', "not JSON: Invalid \\escape at character 9, found"),
        (b'{"text": "\xed\xa0\x80"}', "byte 10 of the line is not UTF-8: found ed"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"x": ' * 100_000, "nested too deeply"),
        (b"\xff\xfe{\x00", "byte 0 of the line is not UTF-8: found ff"),
    ],
)
def test_a_bad_line_is_refused_with_its_place_and_reason_or_counted(line: bytes, reason: str) -> None:
    raw = b'{"text": "a"}\n\n' + line + b'\n{"text": "b"}\n'
    message = refusal(raw, first_line=11, offset=1_000_000)
    assert message.startswith(f"line 13, at byte 1,000,015: {reason}")
    assert message.endswith("--skip-bad-records")
    parsed = parse(raw, first_line=11, offset=1_000_000, skip_bad=True)
    assert (parsed.texts, parsed.n_bad) == ([b"a", b"b"], 1)
    (found,) = parsed.bad
    assert found.startswith("line 13, at byte 1,000,015: ")
    assert message.startswith(found)
    assert parse(line, skip_bad=True).n_bad == 1


@pytest.mark.parametrize(
    "line", [b"{", b'{"text', b'{"text": "a', b'{"text": "a\\', b'{"text": "a"', b'{"text": "caf\xc3', b"[1,"]
)
def test_an_input_that_ends_within_a_record_is_reported_as_such(line: bytes) -> None:
    raw = b'{"text": "a"}\n' + line
    what = "a character" if line.endswith(b"\xc3") else "a record"
    assert refusal(raw).startswith(f"line 2, at byte 14: the file ends within {what}, so it was cut off")
    assert "the file ends" not in refusal(raw + b"\n")
    assert parse(raw, skip_bad=True).texts == [b"a"]


def test_many_and_long_field_names_are_shortened() -> None:
    record = {f"{k} {'long ' * 1000}": 1 for k in range(1000)}
    assert len(refusal(json.dumps(record).encode())) < 1000


def test_the_first_ten_bad_records_are_kept_and_all_are_counted() -> None:
    parsed = parse(b"?\n" * 1000, skip_bad=True)
    assert parsed.n_bad == 1000
    assert places(parsed) == [f"line {k + 1}, at byte {2 * k}" for k in range(10)]


def test_another_field_can_be_named() -> None:
    assert parse(b'{"content": "a", "text": 1}', text_field="content").texts == [b"a"]


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\x01b", "\u4e2d", "", "a\udce9b"])
def test_a_field_may_have_any_name(name: str) -> None:
    raw = json.dumps({name: "a"}).encode() + b'\n{"text": "b"}\n'
    parsed = parse(raw, text_field=name, skip_bad=True)
    assert (parsed.texts, places(parsed)) == ([b"a"], [f"line 2, at byte {raw.index(b'{', 1)}"])
    assert f"line 2, at byte {raw.index(b'{', 1)}: no field {name!r}" in refusal(raw, text_field=name)


def test_runs_of_every_size_hold_the_same_lines_and_their_places() -> None:
    lines = [json.dumps({"text": "x" * (k % 7), "k": k}).encode() + b"\n" for k in range(12)]
    lines[5:5] = [b"\n", b"\r\n"]
    raw = b"".join(lines)[:-1]
    whole = parse(raw)
    for block_bytes in range(1, len(raw) + 2):
        runs = list(read_runs(io.BytesIO(raw).read, LINES, path=PATH, block_bytes=block_bytes))
        assert b"".join(run.raw for run in runs) == raw
        assert all(run.raw.endswith(b"\n") for run in runs[:-1])
        assert max(len(run.raw) for run in runs) < block_bytes + max(map(len, lines))
        assert all(run.first == raw[: run.offset].count(b"\n") + 1 for run in runs)
        assert [run.offset for run in runs[1:]] == [run.offset + len(run.raw) for run in runs[:-1]]
        parsed = [parse_lines(r.raw, text_field="text", first_line=r.first, offset=r.offset) for r in runs]
        assert [text for each in parsed for text in each.texts] == whole.texts
        assert all(run.n_ends == run.raw.count(b"\n") for run in runs)


def test_reading_resumes_at_any_run() -> None:
    raw = b"".join(b'{"text": "%d"}\n' % k for k in range(30))
    runs = list(read_runs(io.BytesIO(raw).read, LINES, path=PATH, block_bytes=40))
    for k, run in enumerate(runs):
        rest = io.BytesIO(raw[run.offset :]).read
        again = read_runs(rest, LINES, path=PATH, block_bytes=40, first=run.first, offset=run.offset)
        assert b"".join(later.raw for later in again) == b"".join(later.raw for later in runs[k:])


def test_reads_that_give_less_than_asked_make_no_difference() -> None:
    raw = b'{"text": "a"}\n' * 50
    stream = io.BytesIO(raw)
    rng = random.Random(1)
    runs = read_runs(lambda n: stream.read(rng.randint(1, n)), LINES, path=PATH, block_bytes=64)
    assert b"".join(run.raw for run in runs) == raw


def test_an_empty_input_has_no_runs() -> None:
    assert list(read_runs(io.BytesIO().read, LINES, path=PATH, block_bytes=10)) == []


@pytest.mark.parametrize("block_bytes", [1, 7, 64, 1000])
def test_a_line_may_have_exactly_the_allowed_bytes(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MAX_RECORD_BYTES", 100)
    fits = b"\nab\n" + b"x" * 100 + b"\n"
    whole = read_runs(io.BytesIO(fits).read, LINES, path=PATH, block_bytes=block_bytes)
    assert b"".join(run.raw for run in whole) == fits
    for too_long in (b"\nab\n" + b"x" * 101 + b"\nc\n", b"\nab\n" + b"x" * 1000):
        with pytest.raises(InputError, match=r"data.jsonl: line 3, at byte 4, has more than \d+ bytes"):
            list(read_runs(io.BytesIO(too_long).read, LINES, path=PATH, block_bytes=block_bytes))


@pytest.mark.parametrize(
    "around", [b"", b"\n", b'{"text": "\\ud800"}\n', b'{"text": "", "x": NaN}\n', b"?\n", b'{"x": "\xff"}\n']
)
def test_fields_that_are_not_used_take_no_memory_with_msgspec(around: bytes, parser: str) -> None:
    raw = around + b'{"list": [' + b"{}, " * 200_000 + b'{}], "text": "a"}\n' + around
    parse(raw, skip_bad=True)  # so that later imports are not counted
    tracemalloc.start()
    try:
        assert parse(raw, skip_bad=True).texts[around.count(b"ud800")] == b"a"
        n_times = tracemalloc.get_traced_memory()[1] / len(raw)
    finally:
        tracemalloc.stop()
    assert n_times < (1.5 if parser == "msgspec" else 30)


def test_a_line_without_end_is_refused_before_it_fills_the_memory() -> None:
    def endless(n_bytes: int) -> bytes:
        return b"x" * n_bytes

    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"line 1, at byte 0, has more than 68.2 MB; the limit"):
            list(read_runs(endless, LINES, path=PATH, block_bytes=1 << 20))
        assert tracemalloc.get_traced_memory()[1] < documents.MAX_RECORD_BYTES + (4 << 20)
    finally:
        tracemalloc.stop()
