"""A pipe can be looked into and is read once; signals are noticed while the program waits for it."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanogpt_compat.errors import InputError, UsageError
from nanogpt_compat.input.find import find_inputs
from nanogpt_compat.input.pipes import KEPT_BYTES, UNKNOWN, Pipe
from tests.faults import Stopped

DATA = os.urandom(3 * KEPT_BYTES + 12_345)


@pytest.fixture
def ends() -> Iterator[tuple[Pipe, int]]:
    reading, writing = os.pipe()
    yield Pipe(reading, "a pipe"), writing
    os.close(reading)


def write(fd: int, data: bytes) -> threading.Thread:
    def write_and_close() -> None:
        with os.fdopen(fd, "wb") as file:
            file.write(data)

    thread = threading.Thread(target=write_and_close)
    thread.start()
    return thread


def test_its_beginning_is_kept_until_reading_continues_after_it(ends: tuple[Pipe, int]) -> None:
    pipe, fd = ends
    thread = write(fd, DATA)
    assert pipe.read(1000, 0) == DATA[:1000]
    assert pipe.read(1 << 20, 500) == DATA[500 : 500 + (1 << 20)]
    assert pipe.size_bytes == UNKNOWN
    offset = 0
    while data := pipe.read(70_000, offset):
        assert data == DATA[offset : offset + 70_000]
        offset += len(data)
    thread.join()
    assert offset == pipe.size_bytes == len(DATA)
    with pytest.raises(InputError, match="a pipe cannot be read twice: run the same command again"):
        pipe.read(1, 0)


def test_a_small_pipe_can_be_read_any_number_of_times(ends: tuple[Pipe, int]) -> None:
    pipe, fd = ends
    thread = write(fd, DATA[:100_000])
    for _ in range(3):
        assert pipe.read(200_000, 0) == DATA[:100_000]
    thread.join()
    assert pipe.size_bytes == 100_000


def test_whether_its_end_is_known_depends_only_on_the_reads(ends: tuple[Pipe, int]) -> None:
    pipe, fd = ends
    write(fd, b"12345").join()
    assert (pipe.read(5, 0), pipe.size_bytes) == (b"12345", UNKNOWN)
    assert (pipe.read(6, 0), pipe.size_bytes) == (b"12345", 5)


@pytest.mark.parametrize("written", [b"", b"some, but not enough"])
def test_while_it_waits_it_can_be_stopped(ends: tuple[Pipe, int], written: bytes) -> None:
    pipe, fd = ends
    n_checks = 0

    def check() -> None:
        nonlocal n_checks
        n_checks += 1
        if n_checks == 4:
            raise Stopped

    pipe.check = check
    os.write(fd, written)
    with pytest.raises(Stopped):
        pipe.read(1000, 0)
    pipe.check = lambda: None
    write(fd, b" and the rest").join()
    assert pipe.read(1000, 0) == written + b" and the rest"  # nothing is lost


def test_an_end_together_with_a_signal_does_not_count(ends: tuple[Pipe, int]) -> None:
    """Ctrl-C reaches the writer, too."""
    pipe, fd = ends
    is_over = False

    def check() -> None:
        nonlocal is_over
        if is_over:
            raise Stopped
        os.close(fd)
        is_over = True

    pipe.check = check
    with pytest.raises(Stopped):
        pipe.read(1, 0)
    assert pipe.size_bytes == UNKNOWN


def test_a_read_error_is_reported_with_its_place(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(InputError, match="cannot read standard input at byte 0: Is a directory"):
        Pipe(fd, "standard input").read(1, 0)
    os.close(fd)


def test_a_minus_is_standard_input_and_not_a_file_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-").write_text("a file")
    stream, file = find_inputs(["-", "./-"], home=None).inputs
    assert isinstance(stream, Pipe)
    assert str(stream) == "standard input"
    assert file == Path("-")
    with pytest.raises(InputError, match="standard input is given twice"):
        find_inputs(["-", "-"], home=None)


def test_a_terminal_is_no_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda fd: fd == 0)
    with pytest.raises(UsageError, match="reads standard input, which is a terminal here: pipe text"):
        find_inputs(["-"], home=None)


def test_a_fifo_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    thread = threading.Thread(target=(tmp_path / "a.txt").write_bytes, args=(b"text",))
    thread.start()
    (pipe,) = find_inputs([str(tmp_path / "*.txt")], home=None).inputs
    assert isinstance(pipe, Pipe)
    assert pipe.read(10, 0) == b"text"
    assert str(pipe) == str(tmp_path / "a.txt")
    thread.join()
