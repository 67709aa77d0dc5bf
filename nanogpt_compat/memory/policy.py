"""When to throttle and when to stop, as pure functions from readings to decisions (the model is earlyoom's).

       a headroom below its throttle reserve             two readings below an abort reserve
    OK --------------------------------------> THROTTLE ------------------------------------> ABORT
       <--------------------------------------
       all above 1.25 x throttle reserve for 5 s

Each limit has its own reserves, and the tightest limit decides. The readings (limits.py) count neither swap
as headroom nor page cache as use.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache

_MIB, _GIB = 1 << 20, 1 << 30
READINGS_TO_ABORT = 2  # one alone may fall between another program's malloc and its free
HOLD_S = 5.0  # how long it must be calm before a halving is undone
STEP_EVERY_S = 1.0
LATER_STEP_EVERY_S = 10.0  # at the smallest settings: a dropped engine cache takes 36 ms, and starts cold
MAX_HALVINGS = 6  # 1 GiB -> 16 MiB
MAX_FILL_RATE = 6 * _GIB  # bytes/s; programs fill memory slower, so a poll sees a reserve before it is gone
MOST_BYTES = _GIB  # 64 workers with two blocks of 1 MiB each
SMALLEST_BYTES = 32 * _MIB  # one block of 1 MiB at 8 bytes a byte, 512 KiB of it unbroken at 45 more
SMALL_BLOCK_BYTES = 128 * 1024  # smaller ones hardly save memory
IN_FLIGHT_BYTES = 64 * 1024 * 1024
"""Memory for the blocks between reading and writing: two unbroken pieces at 26 MiB of tiktoken's each, or
32 threads at the 2 MiB that 512 KiB of prose take."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One limit and its use, both read at the same time."""

    name: str  # "cgroup memory.max"
    source: str  # the file that holds the limit, or who set it
    limit_bytes: int
    used_bytes: int  # without what the kernel can take back at once
    flushable_bytes: int = 0  # the part of used_bytes that is dirty file pages, free once written to disk
    private: bool = False  # only this process and its children count towards it
    advisory: bool = False  # accurate enough to throttle, not to stop
    floor_bytes: int | None = None  # the reserve the user asked for, instead of the computed one

    @property
    def headroom_bytes(self) -> int:
        """What is left; negative if more is used than allowed."""
        return self.limit_bytes - self.used_bytes


class Level(Enum):
    """How short memory is."""

    OK = "ok"
    THROTTLE = "throttle"
    ABORT = "abort"


class Step(Enum):
    """A way to hold less memory; the value describes it in messages."""

    FLUSH = "flushed and dropped output pages"
    DROP_CACHES = "dropped the engine's caches"
    HALVE = "halved the work in flight"


LADDER = (Step.FLUSH, Step.DROP_CACHES, *[Step.HALVE] * MAX_HALVINGS)


@dataclass(frozen=True, slots=True)
class Reserves:
    """The headroom below which the run stops, throttles, and does not recover yet."""

    abort_bytes: int
    throttle_bytes: int
    recover_bytes: int


@dataclass(frozen=True, slots=True)
class State:
    """What the policy remembers from one round of readings to the next."""

    level: Level = Level.OK
    cause: Reading | None = None  # the tightest of the limits that are too near
    n_low: int = 0  # consecutive readings below an abort reserve
    n_steps: int = 0  # since throttling began
    n_halvings: int = 0
    next_step_s: float = 0.0
    calm_since_s: float | None = None


def reserves_for(reading: Reading) -> Reserves:
    """Compute one limit's reserves.

    The caps are below the usual 2 and 6 GiB: stopping a program of 200 MB on a desktop with 5 GB free only
    annoys. `--min-available` shifts all three by the same amount: 1.25 x 20 GB may be more than there is.

    >>> reserves_for(Reading("--max-memory", "the command line", 300_000_000, 160_000_000))
    Reserves(abort_bytes=45000000, throttle_bytes=90000000, recover_bytes=112500000)
    """
    return _reserves(reading.limit_bytes, reading.floor_bytes)


@lru_cache(maxsize=64)  # limits seldom change, and a poll asks four times for each of them
def _reserves(size: int, floor_bytes: int | None) -> Reserves:
    abort = min(max(size * 5 // 100, 256 * _MIB), size * 15 // 100, 512 * _MIB)
    throttle = min(max(size * 12 // 100, 768 * _MIB), size * 30 // 100, 2 * _GIB)
    shift = 0 if floor_bytes is None else floor_bytes - abort
    return Reserves(abort + shift, throttle + shift, throttle * 5 // 4 + shift)


def limit_for(used_bytes: int) -> int:
    """Return the smallest limit that still has its abort reserve free when `used_bytes` are in use.

    >>> limit_for(127_500_000), limit_for(10_000_000_000)
    (149999999, 10526315789)
    """
    limits = range(used_bytes, used_bytes + 512 * _MIB)
    return limits[bisect_left(limits, used_bytes, key=lambda size: size - _reserves(size, None).abort_bytes)]


def margin_bytes(reading: Reading) -> int:
    """Return how much more may be used before this limit stops the run; a flush frees dirty pages."""
    return reading.headroom_bytes + reading.flushable_bytes - reserves_for(reading).abort_bytes


def tightest(readings: Sequence[Reading]) -> Reading | None:
    """Return the reading with the smallest margin; None if there are no readings."""
    return min(readings, key=margin_bytes, default=None)


def decide(readings: Sequence[Reading], state: State, now_s: float) -> tuple[State, Step | None]:
    """Decide on one round of readings; `now_s` is monotonic. Once the level is ABORT, it stays so."""
    if state.level is Level.ABORT:
        return state, None
    low = [reading for reading in readings if margin_bytes(reading) < 0 and not reading.advisory]
    state = replace(state, n_low=state.n_low + 1 if low else 0)
    if state.n_low >= READINGS_TO_ABORT:
        return replace(state, level=Level.ABORT, cause=tightest(low)), None
    near = [reading for reading in readings if reading.headroom_bytes < reserves_for(reading).throttle_bytes]
    if near:
        return _throttle(replace(state, cause=tightest(near), calm_since_s=None), now_s)
    if any(reading.headroom_bytes < reserves_for(reading).recover_bytes for reading in readings):
        return replace(state, calm_since_s=None), None
    # Undo one halving after each HOLD_S of calm; the level is OK from the first one on.
    since_s = now_s if state.calm_since_s is None else state.calm_since_s
    if now_s - since_s < HOLD_S:
        return replace(state, calm_since_s=since_s), None
    return State(n_halvings=max(0, state.n_halvings - 1), calm_since_s=now_s), None


def _throttle(state: State, now_s: float) -> tuple[State, Step | None]:
    """Return the ladder's next step if it is due; after the last one, flush and drop caches in turn."""
    n_steps = state.n_steps
    state = replace(state, level=Level.THROTTLE)
    if n_steps and now_s < state.next_step_s:
        return state, None
    step = LADDER[n_steps] if n_steps < len(LADDER) else LADDER[n_steps % 2]
    n_halvings = min(state.n_halvings + (step is Step.HALVE), MAX_HALVINGS)
    pause_s = STEP_EVERY_S if n_steps + 1 < len(LADDER) else LATER_STEP_EVERY_S
    return replace(state, n_steps=n_steps + 1, n_halvings=n_halvings, next_step_s=now_s + pause_s), step


def poll_delay_s(readings: Sequence[Reading]) -> float:
    """Return the seconds until the next poll, 0.1 to 0.5: before a program could fill the tightest headroom.

    0.05 if a reading is below its abort reserve, since the second such reading decides: a reserve of 256 MiB
    then lasts until the decision even if it is filled at 1.7 GiB/s. Polling at less than 0.1 s all the time
    would cost more than 0.5 % of a CPU: a poll takes 10 us, but 300 us on a busy machine with cold caches.
    """
    spare_bytes = min(
        (reading.headroom_bytes - reserves_for(reading).abort_bytes for reading in readings),
        default=MAX_FILL_RATE,
    )
    return 0.05 if spare_bytes < 0 else min(max(spare_bytes / MAX_FILL_RATE, 0.1), 0.5)


def default_budget(
    readings: Sequence[Reading], *, smallest_bytes: int = SMALLEST_BYTES, most_bytes: int = MOST_BYTES
) -> int:
    """Return how much memory work in flight may take, so little that a desktop does not notice.

    The least of these, but at least `smallest_bytes`:
    - a sixteenth of what is free (500 MB of 8 GB, a browser tab or two), or 64 MiB if that is more: a few
      workers run at full speed in 64 MiB
    - twice the gap between throttling and recovery, so that undoing a halving cannot cause throttling again
    - what can be used without leaving the level OK
    """
    budget_bytes = most_bytes if readings else min(most_bytes, 64 * _MIB)
    for reading in readings:
        reserves = reserves_for(reading)
        share_bytes = max(64 * _MIB, reading.headroom_bytes // 16)
        gap_bytes = reserves.recover_bytes - reserves.throttle_bytes
        unused_bytes = reading.headroom_bytes - reserves.recover_bytes
        budget_bytes = min(budget_bytes, share_bytes, 2 * gap_bytes, unused_bytes)
    return max(budget_bytes, smallest_bytes)


def room_bytes(readings: Sequence[Reading]) -> int | None:
    """Return how much more caches may take; None without limits.

    It is half of what leaves every limit above its recover reserve. The other half is for blocks, output and
    the system's buffers.
    """
    rooms = [reading.headroom_bytes - reserves_for(reading).recover_bytes for reading in readings]
    return max(0, min(rooms)) // 2 if rooms else None
