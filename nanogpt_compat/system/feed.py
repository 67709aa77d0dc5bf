"""Report the course of a run as JSON, one object a line, to the program that has started it."""

import json
from collections.abc import Mapping
from typing import Any

from nanogpt_compat.system.display import CalmStream
from nanogpt_compat.system.progress import Moment
from nanogpt_compat.system.redaction import redact_record

_OF_MOMENT = ("percent", "bytes", "bytes_total", "tokens", "bytes_per_s", "left_s", "memory_bytes")


class Feed:
    """Writes the states of a run and, as a screen, its progress.

    Every object has all fields; null stands for unknown. Only the last one has an exit code.
    """

    every_s = 1.0
    begins_at_once = True

    def __init__(self, stream: CalmStream) -> None:
        self._stream = stream
        self._was_complete = False
        self._now: dict[str, Any] = dict.fromkeys(("state", *_OF_MOMENT, "exit_code", "message", "forecast"))

    def at(self, state: str) -> "Feed":
        """Set the state for the next line; return this feed."""
        self._now["state"] = state
        return self

    def enter(self, state: str) -> None:
        """Write that the run has reached a state, unless it is there already."""
        if self._now["state"] != state:
            self.at(state)._write()

    def found_complete(self) -> None:
        """Note that there was nothing to do, for the last line."""
        self._was_complete = True

    def forecast(self, forecast: Mapping[str, object]) -> None:
        """Write the forecast of a dry run."""
        self._now["forecast"] = dict(forecast)
        self._write()

    def draw(self, moment: Moment) -> None:
        """Write a moment."""
        self._now |= {
            "percent": None if moment.share is None else round(100 * moment.share, 1),
            "bytes": moment.bytes_read,
            "bytes_total": moment.total_bytes,
            "tokens": moment.tokens,
            "bytes_per_s": _round(moment.bytes_per_s),
            "left_s": _round(moment.left_s),
            "memory_bytes": moment.memory_bytes,
        }
        self._write()

    def end(self, last: Moment | None, *, has_failed: bool) -> None:
        """Write the moment that has not been written yet."""
        if last is not None:
            self.draw(last)

    def finish(self, state: str, exit_code: int, message: str | None = None) -> None:
        """Write the last line; `state` is how the run has ended."""
        self._stream.write_as_is(self.last_line(state, exit_code, message))

    def last_line(self, state: str, exit_code: int, message: str | None = None) -> str:
        """Return the last line: how the run has ended, and how far it was; "" if there was one already."""
        if self._now["exit_code"] is not None:  # a second signal comes while the process ends
            return ""
        if state == "done":
            state = "complete" if self._was_complete else state
            is_all = self._was_complete or self._now["bytes"] is not None
            self._now |= {"percent": 100.0, "left_s": 0.0} if is_all else {}
        else:
            self._now["left_s"] = None
        self._now |= {"state": state, "exit_code": exit_code, "message": message}
        return self._line()

    def _write(self) -> None:
        self._stream.write_as_is(self._line())

    def _line(self) -> str:
        return json.dumps(redact_record(self._now)) + "\n"


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
