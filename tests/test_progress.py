"""The output during a run: a bar on a terminal, a line every ten seconds in a log."""

import contextlib
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
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from nanogpt_compat.system.display import CalmStream
from nanogpt_compat.system.progress import Bar, Display, Lines, Moment, draw
from nanogpt_compat.system.voice import Voice
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
def test_a_stream_that_fails_ends_nothing_else(error: Exception) -> None:
    stream = CalmStream(Broken(error))
    for _ in range(3):
        stream.write("anybody there?\n")
    stream.flush()
    assert not stream.isatty()
    assert CalmStream(None).write("nobody") == 6
    assert not CalmStream(None).isatty()


def test_a_log_on_a_full_disk_continues_when_there_is_room_again() -> None:
    log = Broken(OSError(28, "No space left on device"))
    stream = CalmStream(log)
    stream.write("lost, or late\n")
    log._error = None  # type: ignore[assignment]
    log.flush = lambda: None  # type: ignore[method-assign]
    stream.write("here again\n")
    assert log.getvalue().endswith("here again\n")


def test_output_is_ascii() -> None:
    log = io.StringIO()
    CalmStream(log).write("caf\xe9 \u4e2d\U0001f600\udcff\n")
    assert log.getvalue() == "caf\\xe9 \\u4e2d\\U0001f600\\udcff\n"


def test_unchanged_text_has_the_encoding_of_the_stream() -> None:
    for encoding, expected in (
        ("utf-8", "caf\xe9 \u4e2d"),
        ("latin-1", "caf\xe9 \\u4e2d"),
        ("ascii", "caf\\xe9 \\u4e2d"),
    ):
        file = io.BytesIO()
        stream = io.TextIOWrapper(file, encoding)
        CalmStream(stream).write_as_is("caf\xe9 \u4e2d")
        assert file.getvalue().decode(encoding) == expected


def shown_by(log: io.StringIO, **settings: Any) -> str:
    """Return the output of a display after 10 s."""
    voice = Voice(CalmStream(log), is_quiet=settings.pop("is_quiet", False), **settings)
    with voice.open_display(10, 0, lambda: 100) as display:
        display.show(bytes_read=10, tokens=3)
    return log.getvalue()


def test_the_display_fits_the_stream_unless_another_is_asked_for() -> None:
    assert shown_by(io.StringIO()) == ""  # the first line would come after ten seconds
    assert shown_by(io.StringIO(), progress="lines") == ""
    assert shown_by(io.StringIO(), progress="bar").startswith("\r  0%|")
    assert shown_by(io.StringIO(), progress="bar", is_quiet=True) == ""


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    def set_clock(seconds: float) -> None:
        monkeypatch.setattr("time.monotonic", lambda: seconds)

    return set_clock


def test_a_log_gets_a_line_every_ten_seconds(set_clock: Callable[[float], None]) -> None:
    log = io.StringIO()
    set_clock(100.0)
    lines = Display(
        Lines(CalmStream(log)), total_bytes=15 * GB, done_bytes=0, memory_bytes=lambda: 107_000_000
    )
    for tenth in range(1000, 1400):
        set_clock(tenth / 10)
        lines.show(bytes_read=(tenth - 1000) * 3_000_000, tokens=tenth * 1000)
    assert log.getvalue().splitlines() == [
        "  2%  300 MB of 15.0 GB  30.0 MB/s  1.1M tokens  107 MB memory  8 min left",
        "  4%  600 MB of 15.0 GB  30.0 MB/s  1.2M tokens  107 MB memory  8 min left",
        "  6%  900 MB of 15.0 GB  30.0 MB/s  1.3M tokens  107 MB memory  8 min left",
    ]


def test_work_of_an_earlier_run_counts_for_the_share_and_not_for_the_speed(
    set_clock: Callable[[float], None],
) -> None:
    log = io.StringIO()
    set_clock(0.0)
    lines = Display(
        Lines(CalmStream(log)), total_bytes=10 * GB, done_bytes=5 * GB, memory_bytes=lambda: 10**8
    )
    set_clock(10.0)
    lines.show(bytes_read=6 * GB, tokens=10**9)
    assert log.getvalue() == " 60%  6.0 GB of 10.0 GB  100.0 MB/s  1.0B tokens  100 MB memory  40 s left\n"


def test_a_forecast_that_was_too_low_gives_at_most_100_percent_and_at_least_0_s(
    set_clock: Callable[[float], None],
) -> None:
    log = io.StringIO()
    set_clock(0.0)
    lines = Display(Lines(CalmStream(log)), total_bytes=GB, done_bytes=0, memory_bytes=lambda: 10**8)
    set_clock(10.0)
    lines.show(bytes_read=GB + 10**8, tokens=10**9)
    assert log.getvalue().startswith("100%  1.1 GB of 1.0 GB  ")
    assert log.getvalue().endswith("  0.0 s left\n")


def test_without_a_total_a_rate_is_shown_and_no_share(set_clock: Callable[[float], None]) -> None:
    log = io.StringIO()
    set_clock(0.0)
    lines = Voice(CalmStream(log), is_quiet=False).open_display(None, GB, lambda: 10**8)
    set_clock(10.0)
    lines.show(bytes_read=2 * GB, tokens=10**9)
    assert log.getvalue() == "2.0 GB  100.0 MB/s  1.0B tokens  100 MB memory\n"


@pytest.mark.parametrize("total_bytes", [None, 900, 15 * GB])
def test_a_bar_has_whole_fields_and_never_more_than_its_columns(total_bytes: int | None) -> None:
    counts = ((None, None), (999_499, 10**8), (10**10, 99_900_000))
    times_s = (0, 3, 10**6)
    for columns, share, (tokens, memory_bytes), elapsed_s in product(
        range(130), (0, 0.3, 1.2), counts, times_s
    ):
        n_bytes = int(share * (total_bytes or GB))
        moment = Moment(n_bytes, total_bytes, tokens, memory_bytes, n_bytes, elapsed_s)
        line = draw(moment, columns, is_ascii=columns % 2 == 0)
        assert len(line) <= columns, line
        assert re.fullmatch(WHOLE, line), line


WHOLE = (
    r"( *\d+%|)(\|[#\d \u2588-\u258f]*\|)? ?"
    r"([\d.]+(/[\d.]+)? ([kMGT]B|bytes?)|)( *[\d.]+ ([kMGT]B|bytes?)/s)?"
    r"( *[\d.]+[KMB]? tokens)?( *[\d.]+ MB RAM)?( *(\d+s|\d+m|\d+h\d\dm) left)?"
)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (120, " 45%|{:56}| 6.7/15.0 GB  31.5 MB/s  3.3B tokens  217 MB RAM  4m left"),
        (77, " 45%|{:13}| 6.7/15.0 GB  31.5 MB/s  3.3B tokens  217 MB RAM  4m left"),
        (65, " 45%|{:14}| 6.7/15.0 GB  31.5 MB/s  3.3B tokens  4m left"),
        (47, " 45%|{:22}| 31.5 MB/s  4m left"),
        (27, " 45%|{:13}| 4m left"),
        (17, " 45%|{:10}|"),
        (9, " 45%"),
    ],
)
def test_a_narrow_bar_drops_the_less_important_fields(columns: int, expected: str) -> None:
    moment = Moment(int(6.72 * GB), 15 * GB, 3_300_000_000, 217_000_000, int(6.72 * GB), 213.5)
    line = draw(moment, columns, is_ascii=False)
    bar = line.partition("|")[2].partition("|")[0]
    assert line == expected.format(bar)
    if bar:
        assert columns - len(line) in (0, 1)
        assert abs(len(bar.rstrip()) / len(bar) - 0.448) < 1 / len(bar)


def test_unknown_values_have_no_place_in_the_bar() -> None:
    assert draw(Moment(GB, None, 10**9, 10**8, GB, 10.0), 77, is_ascii=True) == (
        "1.0 GB  100 MB/s  1.0B tokens  100 MB RAM"
    )
    begun = draw(Moment(GB, 2 * GB), 77, is_ascii=True)  # a resumed run
    assert begun.startswith(" 50%|####")
    assert begun.endswith("| 1.0/2.0 GB")


def test_a_message_replaces_the_bar_and_a_bar_follows_it() -> None:
    log = io.StringIO()
    stream = CalmStream(log)
    stream.draw_bar(" 50%|##  |")
    stream.write("warning: one\n")
    stream.write("warning: two\n")
    stream.draw_bar(" 60%|##  |")
    stream.end_bar()
    stream.end_bar()
    stream.write("done\n")
    assert log.getvalue() == (
        "\r 50%|##  |\x1b[K\r\x1b[Kwarning: one\nwarning: two\n\r 60%|##  |\x1b[K\ndone\n"
    )


def test_the_last_state_is_drawn_unless_the_run_fails(set_clock: Callable[[float], None]) -> None:
    for error in (None, KeyError):
        log = io.StringIO()
        set_clock(0.0)
        with (
            contextlib.suppress(KeyError),
            Display(
                Bar(CalmStream(log)), total_bytes=10, done_bytes=0, memory_bytes=lambda: 10**8
            ) as display,
        ):
            display.show(bytes_read=10, tokens=3)
            if error is not None:
                raise error
        assert ("100%" in log.getvalue()) == (error is None)
        assert log.getvalue().endswith("\n")


PROGRAM = (sys.executable, str(REPOSITORY / "prepare.py"))


class Terminal:
    """The program on a terminal of its own, and the output seen there."""

    def __init__(
        self, *args: str | Path, columns: int = 100, encoding: str = "ascii", program: Sequence[str] = PROGRAM
    ) -> None:
        self.seen = ""
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.environ |= {"TERM": "xterm", "PYTHONIOENCODING": encoding}
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            os.execvp(program[0], [*program, *map(str, args)])

    def read_until(self, pattern: str | None, timeout_s: float = 60) -> None:
        """Read until the pattern has been seen, or to the end if it is None."""
        deadline_s = time.monotonic() + timeout_s
        while pattern is None or not re.search(pattern, self.seen):
            assert time.monotonic() < deadline_s, self.seen
            if not select.select([self._fd], [], [], 1)[0]:
                continue
            try:
                new = os.read(self._fd, 65536)
            except OSError:  # Linux: the other side is closed
                new = b""
            if not new:
                assert pattern is None, self.seen
                return
            self.seen += new.decode()

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait(self) -> int:
        """Return the exit code, or minus the signal."""
        self.read_until(None)
        os.close(self._fd)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


BAR = (
    r"\r *\d+%\|[#\d ]*\| [\d.]+/3\.0 MB  [\d.]+ [kM]B/s  [\d.]+[KM]? tokens  [\d.]+ MB RAM  \d+s left\x1b\[K"
)


def text_of(terminal: Terminal) -> list[str]:
    """Return the lines that are left on the terminal, where each `\\r` goes back to the beginning."""
    lines = terminal.seen.replace("\r\n", "\n").replace("\x1b[K", "").split("\n")
    return [line.rpartition("\r")[2] for line in lines]


@pytest.mark.costly
@pytest.mark.parametrize("columns", [100, 80])
def test_a_terminal_has_a_bar_with_all_fields(columns: int, tmp_path: Path) -> None:
    text = make_text(tmp_path / "text.txt", 3_000_000)
    args = ("--input", text, "--output-dir", tmp_path / "out", "--block-size", "50K")
    terminal = Terminal(*args, columns=columns)
    assert terminal.wait() == 0, terminal.seen
    assert re.search(BAR, terminal.seen), terminal.seen
    assert max(map(len, re.findall(r"\r([^\r\n]*)\x1b", terminal.seen))) == columns - 3
    lines = text_of(terminal)
    last = next(k for k, line in enumerate(lines) if "%|" in line)
    assert lines[last].startswith("100%|#")
    assert "| 3.0/3.0 MB  " in lines[last]
    assert lines[last + 1].startswith("train.bin: ")
    assert any(re.match(r"\d+ slices? checked against tiktoken", line) for line in lines[last:])


@pytest.mark.costly
@pytest.mark.parametrize(
    ("columns", "encoding"), [(50, "utf-8"), (50, "ascii"), (30, "utf-8"), (10, "latin-1")]
)
def test_a_narrow_terminal_has_a_whole_bar_of_one_line(columns: int, encoding: str, tmp_path: Path) -> None:
    text = make_text(tmp_path / "text.txt", 300_000)
    terminal = Terminal("--input", text, "--output-dir", tmp_path / "out", columns=columns, encoding=encoding)
    assert terminal.wait() == 0, terminal.seen
    drawn = re.findall(r"\r([^\r\n]*)\x1b", terminal.seen)
    assert len(drawn) >= 2
    assert all(len(line) <= columns - 3 and re.fullmatch(WHOLE, line) for line in drawn)
    assert ("\u2588" in terminal.seen) == (encoding == "utf-8")


@pytest.mark.costly
def test_ctrl_c_ends_it_with_a_message_on_its_own_line_and_the_shell_sees_the_signal(tmp_path: Path) -> None:
    text = make_text(tmp_path / "text.txt", 20_000_000)
    out = tmp_path / "out"
    terminal = Terminal("--input", text, "--output-dir", out, "--workers", "1", "--block-size", "50K")
    terminal.read_until(BAR.replace(r"3\.0", r"20\.0"))
    terminal.type("\x03")
    assert terminal.wait() == -signal.SIGINT, terminal.seen
    assert "Traceback" not in terminal.seen
    lines = text_of(terminal)
    (last,) = (k for k, line in enumerate(lines) if "%|" in line)
    assert re.fullmatch(r" *\d+%\|.* left(\^C)?", lines[last])
    assert lines[last + 1].startswith("saved: ")
    assert lines[last + 2] == "prepare: stopped by SIGINT"
    assert not (out / "train.bin").exists()
    assert not (out / "val.bin").exists()


def test_a_terminal_that_cannot_draw_gets_lines(tmp_path: Path) -> None:
    text = make_text(tmp_path / "text.txt", 300_000)
    command = ("env", "TERM=dumb", sys.executable, str(REPOSITORY / "prepare.py"))
    terminal = Terminal("--input", text, "--output-dir", tmp_path / "out", program=command)
    assert terminal.wait() == 0, terminal.seen
    assert "\x1b" not in terminal.seen
    assert "%|" not in terminal.seen
