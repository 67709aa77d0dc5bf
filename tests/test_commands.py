"""Commands in messages are quoted so that a shell reads them right. The messages are in test_advice.py."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt_compat.system import commands


def words_in_bash(command: str) -> list[bytes]:
    """Return the words of a command as bash reads them."""
    script = "import os, sys; sys.stdout.buffer.write(b'\\0'.join(map(os.fsencode, sys.argv[1:])))"
    line = f"{commands.join(sys.executable, '-c', script)} {command}"
    return subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout.split(b"\0")


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1, max_size=4
    )
)
@settings(max_examples=30)
def test_the_shell_gives_a_program_the_words_as_they_were(words: list[str]) -> None:
    assert commands.join(*words).isascii()
    assert words_in_bash(commands.join(*words)) == [word.encode() for word in words]


@pytest.mark.parametrize(
    "name", [b"-n.txt", b"a b.txt", b"caf\xe9\xff.txt", "é$x`'\".txt".encode(), b"two\nlines"]
)
def test_a_file_of_any_name_is_the_one_that_the_command_opens(tmp_path: Path, name: bytes) -> None:
    path = bytes(tmp_path) + b"/" + name
    Path(path.decode(errors="surrogateescape")).write_bytes(b"its text")
    line = f"cat {commands.quote(Path(name.decode(errors='surrogateescape')))}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout == b"its text"


def test_no_command_shows_the_secret_in_an_address() -> None:
    shown = commands.show(commands.this_program("--input", "s3://key:word@bucket/a.txt"))
    assert "key" not in shown
    assert "word" not in shown
    assert shown.endswith("(replace ... in the address with its secret part)")


def test_an_option_that_is_replaced_goes_with_all_its_values() -> None:
    words = ["--restart", "--input", "a", "-", "--workers", "8", "--n=3", "--quiet"]
    shown = commands.this_command("--input", "b", without=["--input", "--n"], words=words)
    assert shown.endswith("--restart --workers 8 --quiet --input b")
