"""Show how far a run is: as a bar on a terminal, or as a line every ten seconds. `feed` is for programs."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from nanogpt_compat.system.display import CalmStream
from nanogpt_compat.system.units import (
    format_bytes,
    format_count,
    format_duration,
    format_part,
    format_rate,
    format_short,
)

PROGRESS = ("auto", "bar", "lines", "json")

_BAR_CHARS = "\u2588\u258f"  # the first and the last of the blocks that tqdm draws with
_MIN_BAR = 5
_EDGES = len("100%|| ")
_ROOM = 3  # columns left for the `^C` that a terminal prints after the bar, and for the cursor
_GAP = "  "
# The most important first; a narrow terminal has no room for the last. Each with the most columns it takes.
_WIDTHS = {"left": 11, "rate": 9, "size": 0, "tokens": 12, "memory": 11}
_IN_ORDER = ("size", "rate", "tokens", "memory", "left")


@dataclass(frozen=True, slots=True)
class Moment:
    """How far a run is at one moment. None stands for unknown."""

    bytes_read: int
    total_bytes: int | None  # with --n a forecast, which may be too low
    tokens: int | None = None
    memory_bytes: int | None = None
    new_bytes: int = 0  # without those that an earlier run has read
    elapsed_s: float = 0.0

    @property
    def share(self) -> float | None:
        """The share of the input that is done, from 0 to 1."""
        return None if self.total_bytes is None else min(1.0, self.bytes_read / max(1, self.total_bytes))

    @property
    def bytes_per_s(self) -> float | None:
        """The speed since this run began."""
        return self.new_bytes / self.elapsed_s if self.new_bytes > 0 and self.elapsed_s > 0 else None

    @property
    def left_s(self) -> float | None:
        """The time that the rest takes at this speed."""
        if self.total_bytes is None or self.bytes_per_s is None:
            return None
        return max(0, self.total_bytes - self.bytes_read) / self.bytes_per_s


class Screen(Protocol):
    """Shows moments."""

    every_s: float  # least time between two of them
    begins_at_once: bool

    def draw(self, moment: Moment) -> None:
        """Show a moment."""

    def end(self, last: Moment | None, *, has_failed: bool) -> None:
        """Stop showing; `last` is a moment that has not been shown yet."""


class Display:
    """Takes the state of a run as often as it changes, and shows it as often as its screen allows.

    As a context manager, it ends with the last state.
    """

    def __init__(
        self,
        screen: Screen | None,
        *,
        total_bytes: int | None,
        done_bytes: int,
        memory_bytes: Callable[[], int],
    ) -> None:
        """Begin at `done_bytes`, which do not count towards the speed; without a screen, show nothing.

        `memory_bytes` is called for each state that is shown.
        """
        self._screen = screen
        self._total_bytes, self._done_bytes = total_bytes, done_bytes
        self._memory_bytes = memory_bytes
        self._started_s = self._shown_s = time.monotonic()
        self._pending: tuple[int, int] | None = None
        if screen is not None and screen.begins_at_once:
            screen.draw(Moment(done_bytes, total_bytes))

    def show(self, *, bytes_read: int, tokens: int) -> None:
        """Show the state of the run, unless the last one was shown a moment ago; takes 1 us then."""
        if self._screen is None:
            return
        self._pending = bytes_read, tokens
        now_s = time.monotonic()
        if now_s - self._shown_s >= self._screen.every_s:
            self._screen.draw(self._moment(bytes_read, tokens))
            self._pending, self._shown_s = None, now_s

    def _moment(self, bytes_read: int, tokens: int) -> Moment:
        return Moment(
            bytes_read,
            self._total_bytes,
            tokens,
            self._memory_bytes(),
            new_bytes=bytes_read - self._done_bytes,
            elapsed_s=time.monotonic() - self._started_s,
        )

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if self._screen is not None:
            last = None if self._pending is None else self._moment(*self._pending)
            self._screen.end(last, has_failed=kind is not None)


class Bar:
    """A bar with numbers, as many as there is room for."""

    every_s = 0.1
    begins_at_once = True

    def __init__(self, stream: CalmStream) -> None:
        self._stream = stream
        self._is_ascii = False
        try:
            _BAR_CHARS.encode(stream.encoding)
        except UnicodeEncodeError:
            self._is_ascii = True

    def draw(self, moment: Moment) -> None:
        """Draw the bar in the place of the one before; the width of the terminal may have changed."""
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns or 80
        except (OSError, ValueError):  # no terminal
            columns = 80
        self._stream.draw_bar(draw(moment, columns - _ROOM, is_ascii=self._is_ascii))

    def end(self, last: Moment | None, *, has_failed: bool) -> None:
        """Leave the bar on the screen; after a failure unchanged, since a `^C` may follow it."""
        if last is not None and not has_failed:
            self.draw(last)
        self._stream.end_bar()


def draw(moment: Moment, columns: int, *, is_ascii: bool) -> str:
    """Return a bar of at most `columns`; what does not fit as a whole is omitted.

    >>> draw(Moment(15 * 10**8, 3 * 10**9, 700_000_000, 107_000_000, 15 * 10**8, 50.0), 77, is_ascii=True)
    ' 50%|#######       | 1.5/3.0 GB  30.0 MB/s  700M tokens  107 MB RAM  50s left'
    """
    from tqdm import tqdm  # only where a bar is drawn

    texts, widths = _describe(moment), dict(_WIDTHS)
    if moment.total_bytes is not None:
        widths["size"] = len(format_part(moment.total_bytes, moment.total_bytes))
    used = 0 if moment.share is None else _EDGES + _MIN_BAR
    chosen: list[str] = []
    for name in widths if moment.share is not None else [name for name in widths if name != "left"]:
        used += max(widths[name], len(texts[name])) + len(_GAP)
        if used > columns + (len(_GAP) if moment.share is None else 0):
            break
        chosen.append(name)
    fields = _GAP.join(texts[name] for name in _IN_ORDER if name in chosen and texts[name])
    if moment.share is None:
        return fields
    if columns < _EDGES + _MIN_BAR:
        percent = f"{moment.share:4.0%}"
        return percent if len(percent) <= columns else ""
    return str(
        tqdm.format_meter(
            moment.share,
            1,
            0,
            ncols=columns,
            ascii=is_ascii,
            bar_format="{percentage:3.0f}%|{bar}| " + fields,
        )
    ).rstrip(" ")


def _describe(moment: Moment) -> dict[str, str]:
    """Return the numbers next to the bar, by name; "" for an unknown one."""
    size = format_bytes(moment.bytes_read)
    if moment.total_bytes is not None:
        size = format_part(min(moment.bytes_read, moment.total_bytes), moment.total_bytes)
    return {
        "size": size,
        "rate": "" if moment.bytes_per_s is None else f"{format_bytes(moment.bytes_per_s)}/s",
        "tokens": "" if moment.tokens is None else f"{format_count(moment.tokens)} tokens",
        "memory": "" if moment.memory_bytes is None else f"{format_bytes(moment.memory_bytes)} RAM",
        "left": "" if moment.left_s is None else f"{format_short(moment.left_s)} left",
    }


class Lines:
    """A line every ten seconds, for a log."""

    every_s = 10.0
    begins_at_once = False

    def __init__(self, stream: CalmStream) -> None:
        self._stream = stream

    def draw(self, moment: Moment) -> None:
        """Print a line."""
        done, left = format_bytes(moment.bytes_read), ""
        if moment.total_bytes is not None:
            done = f"{moment.share:4.0%}  {done} of {format_bytes(moment.total_bytes)}"
            left = "" if moment.left_s is None else f"  {format_duration(moment.left_s)} left"
        self._stream.write(
            f"{done}  {format_rate(moment.new_bytes, moment.elapsed_s)}  "
            f"{format_count(moment.tokens or 0)} tokens  {format_bytes(moment.memory_bytes or 0)} memory"
            f"{left}\n"
        )

    def end(self, last: Moment | None, *, has_failed: bool) -> None:
        """Do nothing."""
