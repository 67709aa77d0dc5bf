"""From `--input` to files: in order, each once, and none missing."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_compat.errors import InputError
from nanogpt_compat.input.find import find_inputs, natural_key

names = st.text("ab.-_ 019", max_size=12)


@given(numbers=st.lists(st.integers(0, 10**20), unique=True), seed=st.integers())
def test_numbered_names_sort_by_number(numbers: list[int], seed: int) -> None:
    expected = [f"part-{number}.txt" for number in sorted(numbers)]
    assert sorted(random.Random(seed).sample(expected, len(expected)), key=natural_key) == expected


@given(names=st.lists(names, unique=True), seed=st.integers())
def test_the_order_of_names_does_not_depend_on_the_order_they_came_in(names: list[str], seed: int) -> None:
    shuffled = random.Random(seed).sample(names, len(names))
    assert sorted(shuffled, key=natural_key) == sorted(names, key=natural_key)


@given(left=st.text("ab.", min_size=1), right=st.text("ab.", min_size=1))
def test_names_without_digits_sort_as_they_always_do(left: str, right: str) -> None:
    assert (natural_key(left) < natural_key(right)) == (left < right)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a10.txt", "a2.txt", "a1.txt", "b.txt", "sub/a3.txt", "[x].txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("text")
    return tmp_path


def found(*patterns: str, home: Path | None = None) -> list[str]:
    return [str(path) for path in find_inputs(patterns, home=home).inputs]


def test_arguments_stay_in_their_order_and_each_glob_is_in_natural_order(folder: Path) -> None:
    assert found("b.txt", "a*.txt", "sub/*") == ["b.txt", "a1.txt", "a2.txt", "a10.txt", "sub/a3.txt"]
    assert found("**/a?.txt") == ["a1.txt", "a2.txt", "sub/a3.txt"]
    assert found(f"{folder}/a[12].txt") == [f"{folder}/a1.txt", f"{folder}/a2.txt"]


def test_folders_that_a_glob_matches_are_skipped_and_named(folder: Path) -> None:
    listed = find_inputs(["*b*"], home=None)
    assert [str(one) for one in listed.inputs] == ["b.txt"]
    assert listed.notices == ("notice: *b*: skipped 1 other entry (sub)",)
    assert find_inputs(["**"], home=None).notices == ()


def test_a_file_whose_name_looks_like_a_glob_is_that_file(folder: Path) -> None:
    assert found("[x].txt") == ["[x].txt"]


def refusal(*patterns: str, home: Path | None = None) -> str:
    with pytest.raises(InputError) as error:
        find_inputs(patterns, home=home)
    return str(error.value)


def test_a_missing_file_is_named_with_the_folder_it_was_looked_for_from(folder: Path) -> None:
    assert f"c.txt not found in {folder}; " in refusal("c.txt")
    assert refusal("no/my txt").endswith("; name an existing file with --input")  # no such folder
    (folder / "my text").touch()
    assert refusal("my txt").endswith("; did you mean 'my text'?")
    assert refusal(f"{folder}/my-text").endswith(f"; did you mean '{folder}/my text'?")
    assert "/no/c.txt not found; " in refusal("/no/c.txt")


def test_a_missing_file_is_pointed_at_if_it_is_next_to_the_script(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = folder / "my data"
    home.mkdir()
    (home / "c.txt").write_text("text")
    message = refusal("c.txt", home=home)
    assert message.endswith(f"did you mean '{home}/c.txt', which is next to prepare.py?")
    assert "next to" not in refusal("d.txt", home=home)
    assert "next to" not in refusal("c.txt")


def test_unreadable_inputs_are_refused_with_the_reason(folder: Path) -> None:
    Path("link").symlink_to("nowhere")
    Path("loop").symlink_to("loop")
    assert "/dev/null is neither a file nor a pipe" in refusal("/dev/null")
    assert "link is a link to nowhere, which does not exist" in refusal("link")
    assert "link is a link to nowhere, which does not exist" in refusal("l*nk")
    assert "loop is a link to loop, which does not exist" in refusal("loop")
    assert "File name too long" in refusal("x" * 300)
    assert "empty name" in refusal("")
    assert f"no file matches 'c*.txt' (current folder: {folder})" in refusal("b.txt", "c*.txt")
    assert "no file matches 's*b'" in refusal("s*b")  # matches only a folder
    Path("outer/inner").mkdir(parents=True)
    assert refusal("outer/*").endswith(f"no file matches 'outer/*' (current folder: {folder})")


@pytest.mark.parametrize("how", ["again", "by another path", "by a symlink", "by a hard link", "by a glob"])
def test_the_same_file_twice_is_refused_under_any_name(folder: Path, how: str) -> None:
    second = {"again": "a1.txt", "by another path": "sub/../a1.txt", "by a glob": "a*.txt"}.get(
        how, "again.txt"
    )
    if how == "by a symlink":
        Path(second).symlink_to("a1.txt")
    elif how == "by a hard link":
        Path(second).hardlink_to("a1.txt")
    message = refusal("a1.txt", "b.txt", second)
    assert "its text would be in the output twice: give it once" in message
    assert "a1.txt is given twice" in message or f"{second} is given also as a1.txt" in message


def test_a_folder_stands_for_the_inputs_in_it_in_natural_order(folder: Path) -> None:
    for name in ("part-10.jsonl", "part-2.jsonl.gz", "Z/p.PARQUET", "Z/c4.json.gz", "sub/deep/er.ndjson"):
        (folder / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "set" / name).write_text("text")
    expected = ["Z/c4.json.gz", "Z/p.PARQUET", "part-2.jsonl.gz", "part-10.jsonl", "sub/deep/er.ndjson"]
    for name in ("set", "set/", f"{folder}/set"):
        assert found("b.txt", name) == ["b.txt", *(str(Path(name) / one) for one in expected)]
    assert find_inputs(["set"], home=None).notices == ()
    (folder / "link").symlink_to("set")
    assert len(found("link")) == 5
    (folder / "set" / "sub" / "loop").symlink_to(folder / "set")
    (folder / "set" / "more").symlink_to(folder / "sub")
    assert len(found("set")) == 5
    assert find_inputs(["set"], home=None).notices == (
        "notice: set: skipped 2 other entries (more, sub/loop)",
    )


def test_skipped_entries_of_a_folder_are_reported_with_their_size(folder: Path) -> None:
    assert find_inputs(["sub"], home=None).notices == ()
    (folder / "sub" / "a3.txt").write_text("text" * 20)
    for name in (
        *("README.md", "state.json", "_SUCCESS", ".part-00000.crc", ".git/a.txt", "_tmp/a.txt", "a.txt.part"),
        "train.bin",
    ):
        (folder / "sub" / name).parent.mkdir(exist_ok=True)
        (folder / "sub" / name).write_text("text")
    listed = find_inputs(["sub", "b.txt"], home=None)
    assert [str(one) for one in listed.inputs] == ["sub/a3.txt", "b.txt"]
    assert listed.notices == (
        "notice: sub: skipped 8 other entries, 24 bytes (.git, .part-00000.crc, README.md, ...)",
    )


def test_skipping_more_than_is_read_is_a_warning_with_a_command_that_reads_it(folder: Path) -> None:
    (folder / "sub" / ".git").mkdir()
    (folder / "sub" / ".git" / "pack").write_text("text" * 1000)  # hidden, so it does not count
    (folder / "sub" / "_old").write_text("text" * 1000)
    (warning,) = find_inputs(["sub"], home=None).notices
    assert warning == "notice: sub: skipped 2 other entries, 4.0 kB (.git, _old)"
    for name in ("a.md", "deep/b.md", "c.rst"):
        (folder / "sub" / name).parent.mkdir(exist_ok=True)
        (folder / "sub" / name).write_text("text" * 10)
    (warning,) = find_inputs(["b.txt", "sub"], home=None).notices
    assert warning.startswith(
        "warning: sub: skipped 5 other entries, 4.1 kB (.git, _old, a.md, ...), which is "
    )
    assert warning.endswith("--input b.txt sub 'sub/**/*.md'")
    assert found("b.txt", "sub", "sub/**/*.md") == ["b.txt", "sub/a3.txt", "sub/a.md", "sub/deep/b.md"]


@pytest.mark.parametrize(
    "name",
    [
        *("a.txt", "A.TXT.GZ", "a.jsonl", "a.jl", "a.ndjson.zst", "a.json.gz", "a.txt.xz", "a.jsonl.bz2"),
        *("a.parquet", "data-00000-of-00001.arrow", "part-00000", "part-00000.gz", "part-r-00001"),
        *("part-00000-0b5ac3f2-c000.json", "part-00000-0b5ac3f2-c000.snappy.parquet", "wiki_00", "enwik8"),
        *("train-00000-of-00004.json", "c4.00000-of-01024", "part.0001", "shard_12.zst"),
    ],
)
def test_data_in_a_folder_is_read_by_its_name(folder: Path, name: str) -> None:
    (folder / "set").mkdir()
    (folder / "set" / name).write_text("text")
    (folder / "set" / "0.txt").write_text("text")
    assert sorted(found("set")) == sorted(["set/0.txt", f"set/{name}"])


@pytest.mark.parametrize(
    "name",
    [
        *("README", "README.md", "LICENSE", "NOTICE.gz", "_SUCCESS", ".part-00000.crc", "Makefile", "a.crc"),
        *("state.json", "dataset_info.json", "a.py", "a.bin", "model-00001-of-00002.safetensors", "a.tar.gz"),
        *(
            "a.zip",
            "a.pdf",
            "a.html",
            "a.txt.part",
            "a.txt~",
            "a.log.1",
            "_part-00000",
            "a.csv",
            "vocab.bpe",
            "b.tsv.gz",
            "cache-0123456789abcdef.arrow",
            "cache-0123456789abcdef_00001_of_00004.arrow",
        ),
    ],
)
def test_other_files_in_a_folder_are_skipped(folder: Path, name: str) -> None:
    (folder / "set").mkdir()
    (folder / "set" / name).write_text("text")
    (folder / "set" / "0.txt").write_text("text")
    assert found("set") == ["set/0.txt"]


def test_tables_in_text_are_read_from_a_folder_that_has_no_other_data(folder: Path) -> None:
    (folder / "set").mkdir()
    for name in ("10.csv", "2.CSV", "3.tsv.gz", "README.md", ".4.csv"):
        (folder / "set" / name).write_text("text")
    assert found("set") == ["set/2.CSV", "set/3.tsv.gz", "set/10.csv"]
    assert find_inputs(["set"], home=None).notices == (
        "notice: set: skipped 2 other entries, 8 bytes (.4.csv, README.md)",
    )


def test_a_file_with_two_names_in_a_folder_is_read_once_and_named(folder: Path) -> None:
    (folder / "sub" / "a4.txt").symlink_to("a3.txt")
    (folder / "sub" / "a5.txt").hardlink_to(folder / "sub" / "a3.txt")
    listed = find_inputs(["b.txt", "sub"], home=None)
    assert [str(one) for one in listed.inputs] == ["b.txt", "sub/a3.txt"]
    assert listed.notices == (
        "notice: sub: 2 files have another name too, and are read once (sub/a4.txt is sub/a3.txt)",
    )
    (folder / "sub" / "a5.txt").unlink()
    assert find_inputs(["sub/*"], home=None).notices == (
        "notice: sub/*: 1 file has another name too, and is read once (sub/a4.txt is sub/a3.txt)",
    )
    assert "sub/a3.txt is given twice" in refusal("sub/a3.txt", "sub")
    assert "sub/a3.txt is given also as sub/a4.txt" in refusal("sub/a4.txt", "sub/a3.txt")


def test_a_folder_without_inputs_is_refused_with_a_command_that_reads_its_files(folder: Path) -> None:
    (folder / "none").mkdir()
    assert "the folder none is empty" in refusal("none")
    (folder / "none" / "a.md").write_text("text")
    message = refusal("a1.txt", "none")
    assert (
        "the folder none has no .txt, .jsonl, .parquet or similar files, only 1 other entry (a.md)" in message
    )
    assert message.endswith("--input a1.txt 'none/*.md'")
    (folder / "none" / "deep").mkdir()
    (folder / "none" / "deep" / "b.md").write_text("text")
    assert refusal("none").endswith("--input 'none/**/*.md'")


def test_two_files_with_the_same_text_are_two_inputs(folder: Path) -> None:
    assert found("a1.txt", "a2.txt") == ["a1.txt", "a2.txt"]
