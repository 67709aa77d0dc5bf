"""The samples of an input: other charsets are recognised, and UTF-8 is never taken for one."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanogpt_compat.input.open import LocalFile
from nanogpt_compat.input.samples import Sample, foreign_kind, take_samples
from tests.texts import valid_bytes

KIB = 1024
ENGLISH = "It was the best of times, it was the worst of times; we had everything before us.\n"
RUSSIAN = (
    "\u0412\u0441\u0435 \u0441\u0447\u0430\u0441\u0442\u043b\u0438\u0432\u044b\u0435 \u0441\u0435"
    "\u043c\u044c\u0438 \u043f\u043e\u0445\u043e\u0436\u0438 \u0434\u0440\u0443\u0433 \u043d\u0430 "
    "\u0434\u0440\u0443\u0433\u0430, \u043a\u0430\u0436\u0434\u0430\u044f \u043d\u0435\u0441\u0447"
    "\u0430\u0441\u0442\u043b\u0438\u0432\u0430\u044f \u0441\u0435\u043c\u044c\u044f \u043d\u0435"
    "\u0441\u0447\u0430\u0441\u0442\u043b\u0438\u0432\u0430 \u043f\u043e-\u0441\u0432\u043e\u0435"
    "\u043c\u0443.\n"
)
CHINESE = (
    "\u8bdd\u8bf4\u5929\u4e0b\u5927\u52bf\uff0c\u5206\u4e45\u5fc5\u5408\uff0c\u5408\u4e45\u5fc5\u5206\u3002"
    "\u5468\u672b\u4e03\u56fd\u5206\u4e89\uff0c\u5e76\u5165\u4e8e\u79e6\u3002"
)


def samples_of(path: Path, *, total_bytes: int | None = None, n_inputs: int = 1) -> list[Sample]:
    total_bytes = path.stat().st_size if total_bytes is None else total_bytes
    with LocalFile(path) as file:
        return take_samples(file, total_bytes=total_bytes, n_inputs=n_inputs)


def kind_of(path: Path, *, separator: str | None = None, errors_given: bool = False) -> str:
    """Return the kind of a file that is not text in UTF-8; "" if it is."""
    kind = foreign_kind(samples_of(path), separator=separator, errors_given=errors_given)
    return "" if kind is None else kind.name


def filled(path: Path, line: str, charset: str, n_bytes: int) -> Path:
    """Repeat `line` to `n_bytes` or up to three less: UTF-32 has four bytes a character."""
    once = line.encode(charset)
    path.write_bytes((once * (n_bytes // len(once) + 1))[: n_bytes // 4 * 4])
    return path


def test_samples_lie_evenly_over_the_whole_input(tmp_path: Path) -> None:
    path = filled(tmp_path / "text", ENGLISH, "ascii", 3_000_000)
    samples = samples_of(path)
    assert len(samples) == 32
    assert samples[0].offset == 0
    assert samples[-1].offset + len(samples[-1].data) == path.stat().st_size
    steps = [right.offset - left.offset for left, right in pairwise(samples)]
    assert max(steps) - min(steps) <= 1
    raw = path.read_bytes()
    assert all(sample.data == raw[sample.offset :][: len(sample.data)] for sample in samples)


def test_a_small_input_is_sampled_whole(tmp_path: Path) -> None:
    path = filled(tmp_path / "text", ENGLISH, "ascii", 100_000)
    assert b"".join(sample.data for sample in samples_of(path)) == path.read_bytes()
    path.write_bytes(b"")
    assert samples_of(path) == []


def test_an_input_among_many_is_sampled_too_but_less(tmp_path: Path) -> None:
    path = filled(tmp_path / "text", ENGLISH, "ascii", 1_000_000)

    def sampled_bytes(n_inputs: int) -> int:
        return sum(
            len(sample.data) for sample in samples_of(path, total_bytes=n_inputs << 20, n_inputs=n_inputs)
        )

    assert 64 * KIB <= sampled_bytes(8) <= 80 * KIB
    for n_inputs in (1000, 100_000):
        assert (
            512 <= sampled_bytes(n_inputs) <= 4 * KIB
        )  # for 100,000 inputs 400 MB at most, one after another


@given(raw=valid_bytes.filter(lambda raw: not set(raw) & {*range(32), 127}), repeats=st.integers(1, 3000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_utf_8_is_never_taken_for_anything_else(tmp_path: Path, raw: bytes, repeats: int) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"a" + raw * repeats)
    assert kind_of(path) == ""


@pytest.mark.parametrize("line", ["\u4e2d\u6587", "\U0001f600", "\xe9", "x\u3042"])
def test_characters_that_a_sample_cuts_through_are_not_invalid(tmp_path: Path, line: str) -> None:
    path = filled(tmp_path / "text", line, "utf-8", 2_000_003)
    for sample in samples_of(path):
        sample.data.decode("utf-8", "strict")


@pytest.mark.parametrize("charset", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("line", [ENGLISH, RUSSIAN, CHINESE], ids=["English", "Russian", "Chinese"])
@pytest.mark.parametrize("n_bytes", [20_000, 2_000_003])
def test_utf_16_and_32_without_a_mark_are_distinguished(
    tmp_path: Path, line: str, charset: str, n_bytes: int
) -> None:
    name = charset.upper().replace("-LE", "LE").replace("-BE", "BE")
    path = filled(tmp_path / "text", line, charset, n_bytes)
    assert kind_of(path) == kind_of(path, errors_given=True) == f"{name} text"


@pytest.mark.parametrize("charset", ["UTF-16LE", "UTF-16BE"])
def test_a_charset_is_recognised_later_if_the_beginning_is_not_enough(tmp_path: Path, charset: str) -> None:
    path = tmp_path / "text"
    path.write_text("\u4e2d\u6587" * 20_000 + RUSSIAN * 10_000, encoding=charset)
    assert kind_of(path) == f"{charset} text"


def test_the_mark_of_utf_8_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"\xef\xbb\xbf" + b"text " * 100)
    assert kind_of(path) == ""


def test_a_charset_that_begins_far_into_the_file_is_found_too(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(ENGLISH.encode() * 20_000 + RUSSIAN.encode("cp1251") * 2000)
    assert kind_of(path).startswith("not UTF-8: it looks like CP1251")
    assert kind_of(path, errors_given=True) == ""
    path.write_bytes(ENGLISH.encode() * 20_000 + bytes(range(256)) * 20_000)
    assert kind_of(path) == kind_of(path, errors_given=True) == "not text"


def test_pieces_of_another_charset_in_utf_8_get_no_command_to_convert_them(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(RUSSIAN.encode() * 1000 + RUSSIAN.encode("cp1251") * 300)
    kind = foreign_kind(samples_of(path), separator=None, errors_given=False)
    assert kind is not None
    assert kind.name == "UTF-8 with pieces of other charsets in it"
    assert kind.remedy is None


@pytest.mark.parametrize("raw", [bytes(50_000), bytes(range(256)) * 100])
def test_binary_data_is_reported_as_not_text(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "data"
    path.write_bytes(raw)
    assert kind_of(path) == kind_of(path, errors_given=True) == "not text"


def test_five_percent_of_control_characters_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes((b"x" * 19 + b"\1") * 100)
    assert kind_of(path) == kind_of(path, separator="\1") == ""
    path.write_bytes((b"x" * 18 + b"\1") * 100)
    assert kind_of(path) == kind_of(path, errors_given=True) == "not text"
    assert kind_of(path, separator="\1") == ""


@pytest.mark.parametrize("bad", [b"\0", b"\xff"])
def test_one_percent_of_invalid_bytes_is_accepted_and_more_is_not(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "text"
    path.write_bytes((b"x" * 99 + bad) * 100)
    assert kind_of(path) == ""
    path.write_bytes((b"x" * 98 + bad) * 100)
    assert kind_of(path) != ""
    assert (kind_of(path, errors_given=True) == "") == (bad == b"\xff")
    assert (kind_of(path, separator=bad.decode("latin-1")) == "") == (bad != b"\xff")
