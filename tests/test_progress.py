"""What is printed while a run works: a bar on a terminal, a line every ten seconds in a log."""

import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nanogpt_compat.system.display import Bar, CalmStream, Lines, Nobody, Voice
from tests.conftest import REPOSITORY
from tests.faults import make_text

GB = 10**9


class Broken(io.StringIO):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def flush(self) -> None:
        raise self._error


@pytest.mark.parametrize(
    "error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "full"), ValueError("closed")]
)
def test_a_stream_that_fails_is_nobodys_failure(error: Exception) -> None:
    stream = CalmStream(Broken(error))
    for _ in range(3):
        stream.write("anybody there?\n")
    stream.flush()
    assert not stream.isatty()
    assert CalmStream(None).write("nobody") == 6
    assert not CalmStream(None).isatty()


def test_a_log_on_a_full_disk_goes_on_when_there_is_room_again() -> None:
    log = Broken(OSError(28, "No space left on device"))
    stream = CalmStream(log)
    stream.write("lost, or late\n")
    log._error = None  # type: ignore[assignment]
    log.flush = lambda: None  # type: ignore[method-assign]
    stream.write("here again\n")
    assert log.getvalue().endswith("here again\n")


def test_what_is_written_is_ascii() -> None:
    log = io.StringIO()
    CalmStream(log).write("caf\xe9 \u4e2d\U0001f600\udcff\n")
    assert log.getvalue() == "caf\\xe9 \\u4e2d\\U0001f600\\udcff\n"


def test_the_display_fits_the_stream() -> None:
    log = CalmStream(io.StringIO())
    assert isinstance(Voice(log, is_quiet=True).open_display(1, 0), Nobody)
    assert isinstance(Voice(log, is_quiet=False).open_display(1, 0), Lines)


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    def set_clock(seconds: float) -> None:
        monkeypatch.setattr("time.monotonic", lambda: seconds)

    return set_clock


def test_a_log_gets_a_line_every_ten_seconds(set_clock: Callable[[float], None]) -> None:
    log = io.StringIO()
    set_clock(100.0)
    lines = Lines(CalmStream(log), total_bytes=15 * GB)
    for tenth in range(1000, 1400):
        set_clock(tenth / 10)
        lines.show(bytes_read=(tenth - 1000) * 3_000_000, tokens=tenth * 1000, memory_bytes=107_000_000)
    lines.close()
    assert log.getvalue().splitlines() == [
        "  2%  300 MB of 15.0 GB  30.0 MB/s  1.1M tokens  107 MB memory  8 min left",
        "  4%  600 MB of 15.0 GB  30.0 MB/s  1.2M tokens  107 MB memory  8 min left",
        "  6%  900 MB of 15.0 GB  30.0 MB/s  1.3M tokens  107 MB memory  8 min left",
    ]


def test_what_an_earlier_run_did_counts_for_the_share_and_not_for_the_speed(
    set_clock: Callable[[float], None],
) -> None:
    log = io.StringIO()
    set_clock(0.0)
    lines = Lines(CalmStream(log), total_bytes=10 * GB, done_bytes=5 * GB)
    set_clock(10.0)
    lines.show(bytes_read=6 * GB, tokens=10**9, memory_bytes=10**8)
    assert log.getvalue() == " 60%  6.0 GB of 10.0 GB  100.0 MB/s  1.0B tokens  100 MB memory  40 s left\n"


def test_a_forecast_that_was_too_low_gives_no_more_than_all_and_no_less_than_nothing(
    set_clock: Callable[[float], None],
) -> None:
    log = io.StringIO()
    set_clock(0.0)
    lines = Lines(CalmStream(log), total_bytes=GB)
    set_clock(10.0)
    lines.show(bytes_read=GB + 10**8, tokens=10**9, memory_bytes=10**8)
    assert log.getvalue().startswith("100%  1.1 GB of 1.0 GB  ")
    assert log.getvalue().endswith("  0.0 s left\n")


def test_without_a_total_there_is_a_rate_and_no_share(set_clock: Callable[[float], None]) -> None:
    log = io.StringIO()
    set_clock(0.0)
    lines = Voice(CalmStream(log), is_quiet=False).open_display(None, GB)
    set_clock(10.0)
    lines.show(bytes_read=2 * GB, tokens=10**9, memory_bytes=10**8)
    assert log.getvalue() == "2.0 GB  100.0 MB/s  1.0B tokens  100 MB memory\n"
    log = io.StringIO()
    bar = Bar(CalmStream(log), total_bytes=None)
    bar.show(bytes_read=GB, tokens=10**9, memory_bytes=10**8)
    bar.close()
    assert "1.00GB [" in log.getvalue()
    assert "%" not in log.getvalue()


class Terminal:
    """The program on a terminal of its own, and what is seen there."""

    def __init__(self, *args: str | Path, columns: int = 100) -> None:
        self.seen = ""
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            os.execv(sys.executable, [sys.executable, str(REPOSITORY / "prepare.py"), *map(str, args)])

    def read_until(self, pattern: str | None, timeout_s: float = 60) -> None:
        """Read until the pattern has been seen; None is the end."""
        deadline_s = time.monotonic() + timeout_s
        while pattern is None or not re.search(pattern, self.seen):
            assert time.monotonic() < deadline_s, self.seen
            if not select.select([self._fd], [], [], 1)[0]:
                continue
            try:
                new = os.read(self._fd, 65536)
            except OSError:  # Linux: the other side has gone
                new = b""
            if not new:
                assert pattern is None, self.seen
                return
            self.seen += new.decode("ascii")

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait(self) -> int:
        """Return the exit code, or minus the signal."""
        self.read_until(None)
        os.close(self._fd)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


BAR = (
    r"\r *\d+%\|[#\d ]*\| [\d.]+[kM]?/3\.00M "
    r"\[00:\d\d<(00:\d\d|\?), +([\d.]+[kM]?B/s|\?B/s), [\d.]+[KM]? tokens, [\d.]+ MB memory\]"
)


def test_a_terminal_has_a_bar_with_all_that_matters(tmp_path: Path) -> None:
    text = make_text(tmp_path / "text.txt", 3_000_000)
    terminal = Terminal("--input", text, "--output-dir", tmp_path / "out", "--block-size", "50K")
    assert terminal.wait() == 0, terminal.seen
    assert re.search(BAR, terminal.seen), terminal.seen
    shown = terminal.seen.replace("\r\n", "\n").split("\r")
    assert all(len(line.split("\n")[0]) <= 100 for line in shown)
    # It may have been drawn just before its end, where it is drawn once more: in its place.
    *before, last = (line for line in shown if line.startswith("100%"))
    assert not any("\n" in line for line in before)
    lines = last.splitlines()
    assert lines[0].startswith("100%|#") and "| 3.00M/3.00M [" in lines[0]
    assert lines[1].startswith("train.bin: ")
    assert re.match(r"\d+ slices? checked against tiktoken", lines[-1])


def test_a_narrow_terminal_is_no_problem(tmp_path: Path) -> None:
    text = make_text(tmp_path / "text.txt", 300_000)
    terminal = Terminal("--input", text, "--output-dir", tmp_path / "out", columns=20)
    assert terminal.wait() == 0, terminal.seen
    assert "Traceback" not in terminal.seen


def test_ctrl_c_ends_it_with_a_line_of_its_own_and_the_shell_sees_it(tmp_path: Path) -> None:
    text = make_text(tmp_path / "text.txt", 20_000_000)
    out = tmp_path / "out"
    terminal = Terminal("--input", text, "--output-dir", out, "--workers", "1", "--block-size", "50K")
    terminal.read_until(BAR.replace(r"3\.00M", r"20\.0M"))
    terminal.type("\x03")
    assert terminal.wait() == -signal.SIGINT, terminal.seen
    assert "Traceback" not in terminal.seen
    assert "\nprepare: stopped by SIGINT\r\n" in terminal.seen
    assert not (out / "train.bin").exists()
    assert not (out / "val.bin").exists()


def test_a_bar_goes_to_the_stream_it_was_given() -> None:
    log = io.StringIO()
    bar = Bar(CalmStream(log), total_bytes=1000, done_bytes=500)
    bar.show(bytes_read=1000, tokens=300, memory_bytes=10**8)
    bar.close()
    assert "100%" in log.getvalue()
    assert log.getvalue().isascii()
