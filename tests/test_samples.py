"""A look across the input first: other charsets are named, UTF-8 never is."""

import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanogpt_compat.errors import InputError
from nanogpt_compat.sources.samples import Sample, check_is_utf8, take_samples
from nanogpt_compat.sources.text import TextFile
from tests.texts import valid_bytes

KIB = 1024
ENGLISH = "It was the best of times, it was the worst of times; we had everything before us.\n"
FRENCH = (
    "Longtemps, je me suis couch\xe9 de bonne heure. Parfois, \xe0 peine ma bougie \xe9teinte, mes ye"
    "ux se fermaient si vite que je n'avais pas le temps de me dire: \xabJe m'endors.\xbb Et, une dem"
    "i-heure apr\xe8s, la pens\xe9e qu'il \xe9tait temps de chercher le sommeil m'\xe9veillait.\n"
)
RUSSIAN = (
    "\u0412\u0441\u0435 \u0441\u0447\u0430\u0441\u0442\u043b\u0438\u0432\u044b\u0435 \u0441\u0435"
    "\u043c\u044c\u0438 \u043f\u043e\u0445\u043e\u0436\u0438 \u0434\u0440\u0443\u0433 \u043d\u0430 "
    "\u0434\u0440\u0443\u0433\u0430, \u043a\u0430\u0436\u0434\u0430\u044f \u043d\u0435\u0441\u0447"
    "\u0430\u0441\u0442\u043b\u0438\u0432\u0430\u044f \u0441\u0435\u043c\u044c\u044f \u043d\u0435"
    "\u0441\u0447\u0430\u0441\u0442\u043b\u0438\u0432\u0430 \u043f\u043e-\u0441\u0432\u043e\u0435"
    "\u043c\u0443.\n"
)
ARABIC = (
    "\u064a\u0648\u0644\u062f \u062c\u0645\u064a\u0639 \u0627\u0644\u0646\u0627\u0633 \u0623\u062d"
    "\u0631\u0627\u0631\u0627 \u0645\u062a\u0633\u0627\u0648\u064a\u0646 \u0641\u064a \u0627\u0644"
    "\u0643\u0631\u0627\u0645\u0629 \u0648\u0627\u0644\u062d\u0642\u0648\u0642.\n"
)
CHINESE = (
    "\u8bdd\u8bf4\u5929\u4e0b\u5927\u52bf\uff0c\u5206\u4e45\u5fc5\u5408\uff0c\u5408\u4e45\u5fc5\u5206\u3002"
    "\u5468\u672b\u4e03\u56fd\u5206\u4e89\uff0c\u5e76\u5165\u4e8e\u79e6\u3002"
)
TAIWANESE = (
    "\u8a71\u8aaa\u5929\u4e0b\u5927\u52e2\uff0c\u5206\u4e45\u5fc5\u5408\uff0c\u5408\u4e45\u5fc5\u5206\u3002"
    "\u5468\u672b\u4e03\u570b\u5206\u722d\uff0c\u5e76\u5165\u65bc\u79e6\u3002"
)
JAPANESE = (
    "\u543e\u8f29\u306f\u732b\u3067\u3042\u308b\u3002\u540d\u524d\u306f\u307e\u3060\u7121\u3044\u3002"
    "\u3069\u3053\u3067\u751f\u308c\u305f\u304b\u3068\u3093\u3068\u898b\u5f53\u304c\u3064\u304b\u306c\u3002"
)
KOREAN = (
    "\ub3d9\ud574\ubb3c\uacfc \ubc31\ub450\uc0b0\uc774 \ub9c8\ub974\uace0 \ub2f3\ub3c4\ub85d \ud558"
    "\ub290\ub2d8\uc774 \ubcf4\uc6b0\ud558\uc0ac \uc6b0\ub9ac\ub098\ub77c \ub9cc\uc138. \ubb34\uad81"
    "\ud654 \uc0bc\ucc9c\ub9ac \ud654\ub824\uac15\uc0b0 \ub300\ud55c \uc0ac\ub78c \ub300\ud55c\uc73c"
    "\ub85c \uae38\uc774 \ubcf4\uc804\ud558\uc138.\n"
)


def check(path: Path, *, total_bytes: int | None = None, n_inputs: int = 1) -> list[Sample]:
    total_bytes = path.stat().st_size if total_bytes is None else total_bytes
    with TextFile(path) as file:
        samples = take_samples(file, total_bytes=total_bytes, n_inputs=n_inputs)
    check_is_utf8(path, samples)
    return samples


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as error:
        check(path)
    return str(error.value)


def filled(path: Path, line: str, charset: str, n_bytes: int) -> Path:
    """`line` over and over, to `n_bytes` or up to three less: UTF-32 is in fours."""
    once = line.encode(charset)
    path.write_bytes((once * (n_bytes // len(once) + 1))[: n_bytes // 4 * 4])
    return path


def test_samples_lie_evenly_over_the_whole_input(tmp_path: Path) -> None:
    path = filled(tmp_path / "text", ENGLISH, "ascii", 3_000_000)
    samples = check(path)
    assert len(samples) == 32
    assert samples[0].offset == 0
    assert samples[-1].offset + len(samples[-1].data) == path.stat().st_size
    steps = [right.offset - left.offset for left, right in pairwise(samples)]
    assert max(steps) - min(steps) <= 1
    raw = path.read_bytes()
    assert all(sample.data == raw[sample.offset :][: len(sample.data)] for sample in samples)


def test_a_small_input_is_sampled_whole(tmp_path: Path) -> None:
    path = filled(tmp_path / "text", ENGLISH, "ascii", 100_000)
    assert b"".join(sample.data for sample in check(path)) == path.read_bytes()
    path.write_bytes(b"")
    assert check(path) == []


def test_an_input_among_many_is_sampled_too_but_less(tmp_path: Path) -> None:
    path = filled(tmp_path / "text", ENGLISH, "ascii", 1_000_000)

    def sampled_bytes(n_inputs: int) -> int:
        return sum(len(sample.data) for sample in check(path, total_bytes=n_inputs << 20, n_inputs=n_inputs))

    assert 64 * KIB <= sampled_bytes(8) <= 80 * KIB
    for n_inputs in (1000, 100_000):
        assert 512 <= sampled_bytes(n_inputs) <= 4 * KIB  # of 100,000: 400 MB at most, one after another


@given(raw=valid_bytes.filter(lambda raw: b"\0" not in raw), repeats=st.integers(1, 3000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_utf_8_is_never_taken_for_anything_else(tmp_path: Path, raw: bytes, repeats: int) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"a" + raw * repeats)
    check(path)


@pytest.mark.parametrize("line", ["\u4e2d\u6587", "\U0001f600", "\xe9", "x\u3042"])
def test_characters_that_a_sample_cuts_through_are_not_invalid(tmp_path: Path, line: str) -> None:
    path = filled(tmp_path / "text", line, "utf-8", 2_000_003)
    for sample in check(path):
        sample.data.decode("utf-8", "strict")


@pytest.mark.parametrize("charset", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("line", [ENGLISH, RUSSIAN, CHINESE], ids=["English", "Russian", "Chinese"])
@pytest.mark.parametrize("n_bytes", [20_000, 2_000_003])
def test_utf_16_and_32_without_a_mark_are_told_apart(
    tmp_path: Path, line: str, charset: str, n_bytes: int
) -> None:
    name = charset.upper().replace("-LE", "LE").replace("-BE", "BE")
    path = filled(tmp_path / "text", line, charset, n_bytes)
    assert f"it looks like {name}: if so, convert it with:\n    iconv -f {name} -t UTF-8" in refusal(path)


@pytest.mark.parametrize("charset", ["UTF-16LE", "UTF-16BE"])
def test_it_is_told_further_on_where_the_beginning_says_nothing(tmp_path: Path, charset: str) -> None:
    path = tmp_path / "text"
    path.write_text("\u4e2d\u6587" * 20_000 + RUSSIAN * 10_000, encoding=charset)
    assert f"it looks like {charset}" in refusal(path)


@pytest.mark.parametrize("charset", ["UTF-16", "UTF-32"])
@pytest.mark.parametrize("order", ["le", "be"])
def test_a_mark_is_enough_also_where_all_the_rest_is_valid(tmp_path: Path, charset: str, order: str) -> None:
    path = tmp_path / "text"
    path.write_bytes("\ufeff".encode(f"{charset}-{order}") + b"quite valid UTF-8 " * 100)
    assert f"begins with the byte order mark of {charset}" in refusal(path)
    assert f"iconv -f {charset} -t UTF-8" in refusal(path)


def test_the_mark_of_utf_8_is_welcome(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"\xef\xbb\xbf" + b"text " * 100)
    check(path)


@pytest.mark.parametrize(
    ("line", "charset", "name"),
    [
        *((CHINESE, "gb18030", "GB18030"), (TAIWANESE, "big5", "BIG5"), (JAPANESE, "shift_jis", "CP932")),
        *((JAPANESE, "euc_jp", "EUC-JP"), (KOREAN, "cp949", "CP949"), (RUSSIAN, "cp1251", "CP1251")),
        *((RUSSIAN, "koi8-r", "KOI8-R"), (ARABIC, "cp1256", "CP1256"), (FRENCH, "latin-1", "CP1252")),
    ],
    ids=lambda value: value if value.isascii() and "\n" not in value else "",
)
@pytest.mark.parametrize("n_bytes", [5001, 2_000_003])
def test_an_older_charset_is_refused_with_a_guess_at_its_name(
    tmp_path: Path, line: str, charset: str, name: str, n_bytes: int
) -> None:
    assert f"it looks like {name}: if so" in refusal(filled(tmp_path / "text", line, charset, n_bytes))


def test_a_charset_that_begins_far_into_the_file_is_found_too(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(ENGLISH.encode() * 20_000 + RUSSIAN.encode("cp1251") * 2000)
    assert "it looks like CP1251" in refusal(path)


@pytest.mark.parametrize("charset", ["utf-16", "utf-32", "utf-16-be", "utf-32-le", "cp1251"])
def test_the_line_it_gives_converts_the_file_whatever_its_name(tmp_path: Path, charset: str) -> None:
    path = tmp_path / "it's $HOME.txt"
    path.write_text(RUSSIAN * 500, encoding=charset)
    message = refusal(path)
    line = re.search(r"\n    (iconv .*)\n", message)
    assert line is not None
    assert shutil.which("iconv"), "iconv is missing: Debian has it in libc-bin"
    subprocess.run(line[1], shell=True, check=True)
    converted = tmp_path / "it's $HOME.txt.utf8"
    assert converted.read_text(encoding="utf-8") == RUSSIAN * 500
    check(converted)


@pytest.mark.parametrize("raw", [bytes(50_000), bytes(range(256)) * 100])
def test_what_is_no_text_at_all_is_said_to_be_none(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "data"
    path.write_bytes(raw)
    assert "it does not look like text in any charset known here" in refusal(path)
    assert "or give --errors ignore" in refusal(path)


@pytest.mark.parametrize("bad", [b"\0", b"\xff"])
def test_one_percent_of_what_does_not_belong_is_let_through_and_more_is_not(
    tmp_path: Path, bad: bytes
) -> None:
    path = tmp_path / "text"
    path.write_bytes((b"x" * 99 + bad) * 100)
    check(path)
    path.write_bytes((b"x" * 98 + bad) * 100)
    assert "has 1% NUL or undecodable bytes in samples across the file" in refusal(path)
