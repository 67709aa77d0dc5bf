"""Keep this process inside the memory it may use: read the limits, decide, and tell the pipeline.

    Sampler       read every limit that applies to this process      -> [Reading, ...]
    policy.py     decide what follows from the readings              -> State, Step | None
    MemoryGuard   poll both from a thread; the pipeline asks it before it admits a block, carries out its
                  steps, and stops when `aborting` is set

A poll takes 50 to 500 us, 2 to 10 times a second.
"""

import contextlib
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import psutil

from nanogpt_compat.errors import MemoryLimitError, TooSmallError
from nanogpt_compat.memory import limits, policy
from nanogpt_compat.memory.malloc import trim_heap, used_bytes
from nanogpt_compat.memory.policy import MOST_BYTES, SMALLEST_BYTES, Level, Reading, State, Step
from nanogpt_compat.system.units import format_bytes
from nanogpt_compat.text.blocks import Need

REFRESH_EVERY_S = 3.0  # limits can change: systemctl set-property, docker update
_LISTING_SHARE = 0.0005  # share of the time for listing children: 15 ms for 400 processes, so every 30 s

# Growth of this process that is not work in flight: threads, page tables, fragmentation.
_UNSURE_BYTES = 16 << 20

_log = logging.getLogger(__name__)


def check_fits(readings: Sequence[Reading], *, own_bytes: int, smallest_bytes: int) -> None:
    """Raise an error if the memory for the smallest settings is not available.

    `own_bytes` is what this process holds now; `smallest_bytes` is what the smallest settings need on top.

    Raises:
        TooSmallError: this process alone exceeds a limit; a retry will not help.
        MemoryLimitError: it fits once other programs free memory; a retry may work.
    """
    for reading in readings:
        if reading.advisory or policy.margin_bytes(reading) >= smallest_bytes:
            continue
        reserve_bytes = policy.reserves_for(reading).abort_bytes
        used_bytes = reading.used_bytes if _is_ours(reading, own_bytes) else own_bytes
        needed_bytes = used_bytes + smallest_bytes + reserve_bytes
        found = f"the smallest settings need {format_bytes(needed_bytes)} of memory; {_describe(reading)}"
        if needed_bytes > reading.limit_bytes:
            raise TooSmallError(f"{found}. Allow more memory; running it again unchanged will not help")
        raise MemoryLimitError(
            f"{found}, too much of it by other programs. Close some, or try again later", smaller_helps=False
        )


def _is_ours(reading: Reading, own_bytes: int) -> bool:
    """Whether other processes use little of a limit. A cgroup also counts what the kernel holds for us."""
    return reading.private or reading.used_bytes - own_bytes < _UNSURE_BYTES


def _describe(reading: Reading) -> str:
    """Describe a limit: its name, who set it, its size, the reserve that we keep of it, and its use."""
    reserve_bytes = policy.reserves_for(reading).abort_bytes
    limit, reserve, used = map(format_bytes, (reading.limit_bytes, reserve_bytes, reading.used_bytes))
    return f"{reading.name} ({reading.source}) is {limit}, {reserve} kept in reserve, {used} in use"


def describe_limits(readings: Sequence[Reading], budget_bytes: int) -> str:
    """Return the start line: what is available, the tightest limit set, the reserve, and the budget.

    >>> describe_limits([Reading("cgroup memory.max", "/sys/fs/cgroup/memory.max", 4 * 10**9, 10**8)], 10**9)
    'memory: limit 4.0 GB from cgroup memory.max, reserve 268 MB, budget 1.0 GB'
    """
    free = [format_bytes(one.headroom_bytes) for one in readings if one.name == "MemAvailable"]
    parts = [f"{n_bytes} available" for n_bytes in free]
    limit = policy.tightest([one for one in readings if one.name != "MemAvailable"])
    if limit is not None:
        parts.append(f"limit {format_bytes(limit.limit_bytes)} from {limit.name}")
    deciding = policy.tightest(readings)
    if deciding is not None:
        parts.append(f"reserve {format_bytes(policy.reserves_for(deciding).abort_bytes)}")
    return "memory: " + ", ".join([*parts, f"budget {format_bytes(budget_bytes)}"])


def describe_abort(reading: Reading | None, tried: Mapping[Step, int], *, refused: bool = False) -> str:
    """Return why the run stops, and how often each step was tried; the caller adds what is saved.

    `reading` is the limit that decided, or the tightest one if the system `refused` memory (MemoryError).
    """
    why = "the system refused memory" if refused else "memory is about to run out"
    which = "" if reading is None else f": {_describe(reading)}"
    steps = ", ".join(step.value + (f" {n} times" if n > 1 else "") for step, n in tried.items() if n)
    return f"{why}{which}. tried: {steps or 'nothing, it came too fast'}"


class Sampler:
    """Reads the limits that apply to this process.

    The less headroom a limit has, the more often it is read. One that cannot be read is skipped, logged once
    (debug), and tried again half a second later. `max_memory_bytes` and `min_available_bytes` are the user's
    options; `root` is for tests.
    """

    def __init__(
        self,
        *,
        max_memory_bytes: int | None = None,
        min_available_bytes: int | None = None,
        root: Path = Path("/"),
    ) -> None:
        self._max_memory_bytes = max_memory_bytes
        self._min_available_bytes = min_available_bytes
        self._root = root
        self._processes = [psutil.Process()]  # this one, then its children
        self._list_at_s = self._refresh_at_s = float("-inf")
        self._signals: dict[str, Callable[[], Reading | None]] = {}
        self._last: dict[str, tuple[float, Reading | None]] = {}  # (due again at, reading)
        self._noted: set[str] = set()  # signals that could not be read
        self._lock = threading.Lock()

    def sample(self, *, is_fresh: bool = False) -> list[Reading]:
        """Return a reading of every limit; unless `is_fresh`, one of a distant limit may be 0.5 s old."""
        with self._lock:
            now_s = time.monotonic()
            if now_s >= self._refresh_at_s:
                self._refresh_at_s = now_s + REFRESH_EVERY_S
                self._last.clear()
                self._signals = {"MemAvailable": partial(limits.read_available, self._min_available_bytes)}
                for limit in limits.cgroup_limits(self._root):
                    self._signals[str(limit.path)] = partial(limits.read_cgroup, limit)
                for name in ("RLIMIT_AS", "RLIMIT_DATA"):
                    self._signals[name] = partial(limits.read_rlimit, name, self._processes[0])
                if self._max_memory_bytes is not None:
                    self._signals[limits.MAX_MEMORY] = partial(self._read_own_use, self._max_memory_bytes)
            for name in self._signals:
                if is_fresh or now_s >= self._last.get(name, (now_s,))[0]:
                    reading = self._take(name)
                    self._last[name] = now_s + policy.poll_delay_s([reading] if reading else []), reading
            return [reading for _, reading in self._last.values() if reading is not None]

    def _take(self, name: str) -> Reading | None:
        """Read one signal; None if it sets no limit now, or cannot be read."""
        try:
            return self._signals[name]()
        except (OSError, ValueError, psutil.Error, NotImplementedError) as error:
            if name not in self._noted:
                self._noted.add(name)
                _log.debug("memory guard: skipping %s, which cannot be read: %s", name, error)
            return None

    def _read_own_use(self, max_memory_bytes: int) -> Reading:
        """Read the use of this process and its children; listing those walks all of /proc, so it is rare."""
        start_s = time.monotonic()
        if start_s >= self._list_at_s:
            with contextlib.suppress(OSError, psutil.Error):
                self._processes[1:] = self._processes[0].children(recursive=True)
            self._list_at_s = start_s + max(REFRESH_EVERY_S, (time.monotonic() - start_s) / _LISTING_SHARE)
        return limits.read_own_use(max_memory_bytes, self._processes, self._root)

    def own_bytes(self) -> int:
        """Read this process's anonymous memory, swapped out or not."""
        return limits.anonymous_bytes(self._processes[0], self._root)


class MemoryGuard:
    """Watches the limits from a thread for as long as it is entered.

    All sizes are memory, not input. `budget_bytes` bounds the work in flight; what is free decides how much
    that is, between `smallest_bytes` and `most_bytes`. The watching thread replaces `state` and `readings`
    with new immutable ones. Only the thread that reads and writes in order calls `admit` and `take_step`.
    """

    def __init__(
        self, sampler: Sampler, *, most_bytes: int = MOST_BYTES, smallest_bytes: int = SMALLEST_BYTES
    ) -> None:
        self.aborting = threading.Event()
        self.state = State()
        self.readings: Sequence[Reading] = ()
        self.budget_bytes = self._most_bytes = most_bytes
        self._smallest_bytes = smallest_bytes
        self._sampler = sampler
        self._base_bytes = 0  # what this process held before there was any work
        self._refused = False
        self._pending: deque[Step] = deque()
        self._tried: Counter[Step] = Counter()
        self._n_changes = 0
        self._lowest: Reading | None = None
        self.peak_own_bytes = 0  # the highest polled
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-guard", daemon=True)

    def __enter__(self) -> "MemoryGuard":
        """Take the first readings, raise what `check_fits` raises, and start to watch."""
        trim_heap()  # memory that the previous span has freed
        self.poll()
        self._base_bytes = self._sampler.own_bytes()
        check_fits(self.readings, own_bytes=self._base_bytes, smallest_bytes=self._smallest_bytes)
        self.budget_bytes = policy.default_budget(
            self.readings, smallest_bytes=self._smallest_bytes, most_bytes=self._most_bytes
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        """Poll until `__exit__`. If a poll itself is refused memory, the run must stop."""
        delay_s = 0.05
        while not self._stop.wait(delay_s):
            try:
                delay_s = self.poll()
            except MemoryError:
                self.abort()

    def poll(self) -> float:
        """Take one round of readings and act on it; return the seconds until the next one is due."""
        readings = self._sampler.sample()
        with contextlib.suppress(OSError, psutil.Error):
            self.peak_own_bytes = max(self.peak_own_bytes, self._sampler.own_bytes())
        state, step = policy.decide(readings, self.state, time.monotonic())
        known = [*readings, self._lowest] if self._lowest else readings
        self._lowest = min(known, key=lambda reading: reading.headroom_bytes, default=None)
        self._n_changes += state.level is not self.state.level
        if step is not None and step not in self._pending:
            self._pending.append(step)
        self.readings, self.state = readings, state
        if state.level is Level.ABORT:
            self.aborting.set()
        return policy.poll_delay_s(readings)

    def abort(self) -> None:
        """Stop the run because the system refused memory (MemoryError)."""
        self._refused = True
        self.aborting.set()

    @property
    def in_flight_bytes(self) -> int:
        """The memory that all work in flight may take now."""
        return max(self._smallest_bytes, self.budget_bytes >> self.state.n_halvings)

    def admit(self, cost_bytes: int, in_flight_bytes: int) -> bool:
        """Return whether a block may join those in flight; always if there are none, or the run would hang.

        It may if all fit into `in_flight_bytes`, and if it fits into half of what every limit leaves above
        its reserve. Only half, because readings may be half a second old and other programs take memory too.
        """
        spare_bytes = min(map(policy.margin_bytes, self.readings), default=cost_bytes * 8) // 2
        fits = in_flight_bytes + cost_bytes <= self.in_flight_bytes
        return not in_flight_bytes or (fits and cost_bytes <= spare_bytes)

    def check_room(self, n_bytes: int, need_of: Callable[[], Need]) -> None:
        """Check that a record may take `n_bytes` more, with nothing else in flight.

        Blocks of `malloc.uses_block` count as needed: a new process would hold them too.

        Raises:
            TooSmallError: it will not fit even if other programs free memory.
            MemoryLimitError: it fits once other programs free memory, or in a new process.
        """
        near = self.too_near(n_bytes)
        if not near:
            return
        need = need_of()
        found = f"{need.what}, which needs up to {format_bytes(need.most_bytes)} of memory"
        own_bytes = self._sampler.own_bytes()
        for reading in near:
            base_bytes = self._base_bytes + used_bytes() + _UNSURE_BYTES
            if reading.private:  # what it counts differs from `own_bytes`
                base_bytes += reading.used_bytes - own_bytes
            reserve_bytes = policy.reserves_for(reading).abort_bytes
            if base_bytes + need.n_bytes + reserve_bytes > reading.limit_bytes:
                enough_bytes = policy.limit_for(base_bytes + need.most_bytes)
                raise TooSmallError(
                    f"{found}; {_describe(reading)}. Allow at least {format_bytes(enough_bytes)}; running "
                    "it again unchanged will not help",
                    way_out=need.way_out,
                    enough_max_memory_bytes=enough_bytes if reading.name == limits.MAX_MEMORY else None,
                )
        raise MemoryLimitError(
            f"{found}; {_describe(near[0])}. Try again when less of it is in use", smaller_helps=False
        )

    def too_near(self, n_bytes: int) -> list[Reading]:
        """Read the limits (0.3 ms), and return those that `n_bytes` more would exceed, the tightest first."""
        readings = [one for one in self._sampler.sample(is_fresh=True) if not one.advisory]
        near = [one for one in readings if policy.margin_bytes(one) < n_bytes]
        return sorted(near, key=policy.margin_bytes)

    def take_step(self) -> Step | None:
        """Return the next step to carry out; HALVE has taken effect already and is only reported."""
        step = self._pending.popleft() if self._pending else None
        if step is not None:
            self._tried[step] += 1
        return step

    @property
    def _cause(self) -> Reading | None:
        """The limit that made the run stop, or the tightest one."""
        return self.state.cause if self.state.level is Level.ABORT else policy.tightest(self.readings)

    @property
    def is_our_own_doing(self) -> bool:
        """Whether this process alone, or nearly alone, uses up the limit that made the run stop."""
        return self._cause is not None and _is_ours(self._cause, self._sampler.own_bytes())

    def explain(self) -> str:
        """Return why the run stops, as `describe_abort` does."""
        return describe_abort(self._cause, self._tried, refused=self._refused)

    def summary(self) -> dict[str, object]:
        """Return the `guard` entry of prepare.json."""
        lowest = self._lowest
        return {
            "state_changes": self._n_changes,
            "lowest_headroom_bytes": None if lowest is None else lowest.headroom_bytes,
            "lowest_headroom_of": None if lowest is None else lowest.name,
        }
