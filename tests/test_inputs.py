"""From `--input` to files: in order, each once, all of them there."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_compat.errors import InputError
from nanogpt_compat.sources.inputs import find_inputs, natural_key

names = st.text("ab.-_ 019", max_size=12)


@given(numbers=st.lists(st.integers(0, 10**20), unique=True), seed=st.integers())
def test_numbered_names_sort_by_number(numbers: list[int], seed: int) -> None:
    expected = [f"part-{number}.txt" for number in sorted(numbers)]
    assert sorted(random.Random(seed).sample(expected, len(expected)), key=natural_key) == expected


@given(names=st.lists(names, unique=True), seed=st.integers())
def test_the_order_of_names_does_not_depend_on_how_they_came(names: list[str], seed: int) -> None:
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


def test_folders_that_a_glob_matches_are_passed_over_and_that_is_said(folder: Path) -> None:
    listed = find_inputs(["*b*"], home=None)
    assert [str(one) for one in listed.inputs] == ["b.txt"]
    assert listed.notices == (
        "notice: *b* holds 1 more that are folders, hidden or of no known suffix and are left out, the first "
        "of them sub",
    )
    assert find_inputs(["**"], home=None).notices == ()


def test_a_file_whose_name_looks_like_a_glob_is_that_file(folder: Path) -> None:
    assert found("[x].txt") == ["[x].txt"]


def refusal(*patterns: str, home: Path | None = None) -> str:
    with pytest.raises(InputError) as error:
        find_inputs(patterns, home=home)
    return str(error.value)


def test_a_missing_file_is_named_with_the_folder_it_was_looked_for_from(folder: Path) -> None:
    assert f"there is no c.txt (looked from {folder})" in refusal("c.txt")
    assert "there is no /no/c.txt" in refusal("/no/c.txt")


def test_a_missing_file_that_stands_beside_the_script_is_pointed_at(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = folder / "my data"
    home.mkdir()
    (home / "c.txt").write_text("text")
    message = refusal("c.txt", home=home)
    assert message.endswith(f"did you mean '{home}/c.txt', which is next to prepare.py?")
    assert "beside" not in refusal("d.txt", home=home)
    assert "beside" not in refusal("c.txt")


def test_what_is_no_readable_file_is_refused_by_what_it_is(folder: Path) -> None:
    Path("link").symlink_to("nowhere")
    Path("loop").symlink_to("loop")
    assert "/dev/null is not a file, nor a pipe" in refusal("/dev/null")
    assert "link is a link to nowhere, which is not there" in refusal("link")
    assert "link is a link to nowhere, which is not there" in refusal("l*nk")
    assert "loop is a link to loop, which is not there" in refusal("loop")
    assert "File name too long" in refusal("x" * 300)
    assert "empty name" in refusal("")
    assert f"no file matches 'c*.txt' (looked from {folder})" in refusal("b.txt", "c*.txt")
    assert "no file matches 's*b'" in refusal("s*b")  # a folder alone


@pytest.mark.parametrize("how", ["again", "by another path", "by a symlink", "by a hard link", "by a glob"])
def test_the_same_file_twice_is_refused_however_it_is_named(folder: Path, how: str) -> None:
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
        "notice: set holds 2 more that are folders, hidden or of no known suffix and are left out, the first "
        "of them more",
    )


def test_what_is_left_out_of_a_folder_is_said(folder: Path) -> None:
    assert find_inputs(["sub"], home=None).notices == ()
    for name in (
        "README.md",
        "state.json",
        "_SUCCESS",
        ".git/a.txt",
        "_tmp/a.txt",
        "a.txt.part",
        "train.bin",
    ):
        (folder / "sub" / name).parent.mkdir(exist_ok=True)
        (folder / "sub" / name).write_text("text")
    listed = find_inputs(["sub", "b.txt"], home=None)
    assert [str(one) for one in listed.inputs] == ["sub/a3.txt", "b.txt"]
    assert listed.notices == (
        "notice: sub holds 7 more that are folders, hidden or of no known suffix and are left out, the first "
        "of them .git/a.txt",
    )


def test_a_folder_without_inputs_is_refused(folder: Path) -> None:
    (folder / "none").mkdir()
    assert "the folder none has no input in it: of 0 files none is a .txt, .jsonl" in refusal("none")
    (folder / "none" / "a.md").write_text("text")
    assert "the folder none has no input in it: of 1 files" in refusal("a1.txt", "none")


def test_two_files_with_the_same_text_are_two_inputs(folder: Path) -> None:
    assert found("a1.txt", "a2.txt") == ["a1.txt", "a2.txt"]
