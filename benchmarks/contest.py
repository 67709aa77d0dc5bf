"""Run strategies in turn, A B C A B C ..., each time in a fresh process on a file in the page cache."""

import hashlib
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.inputs import ROOT, read_into_cache
from benchmarks.measure import Measurement, measure
from benchmarks.strategies import EARLIER, Strategy
from nanogpt_compat.system.units import format_bytes, format_duration, format_rate

_CHUNK_BYTES = 1 << 20
_MOST_OF_MEMORY = 0.8


@dataclass(frozen=True, slots=True)
class Case:
    """One strategy on one input."""

    strategy: Strategy
    kind: str
    size_bytes: int

    @property
    def input(self) -> tuple[str, int]:
        """Kind and size."""
        return self.kind, self.size_bytes

    @property
    def input_label(self) -> str:
        """Name the input."""
        return f"{format_bytes(self.size_bytes).replace('.0 ', ' ')} of {self.kind}"

    def __str__(self) -> str:
        """Name both."""
        return f"{self.strategy.label} on {self.input_label}"


@dataclass(slots=True)
class Result:
    """A case and its results, one value for each round, up to the first round that failed."""

    case: Case
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)  # the process, or the process and all its descendants
    digests: list[str] = field(default_factory=list)  # sha256 of train.bin, or "" if there is none
    failure: str = ""  # why there are no more rounds
    skipped: str = ""  # why the case was skipped

    @property
    def median_s(self) -> float:
        """The median of wall time."""
        return statistics.median(self.wall_s)

    @property
    def rate(self) -> float:
        """MB/s, by the median of wall time."""
        return self.case.size_bytes / self.median_s / 1e6

    @property
    def peak(self) -> int:
        """The highest peak of all rounds, in bytes."""
        return max(self.peak_bytes)


def run_in_turn(
    cases: Sequence[Case],
    inputs: Mapping[tuple[str, int], Path],
    *,
    n_rounds: int,
    scratch_dir: Path,
    earlier: Path | None = None,
) -> Iterator[list[Result]]:
    """Run every case once a round; yield the results so far after each run.

    `earlier` is a checkout of an earlier version; without it, the cases that need it are skipped.
    """
    results = [Result(case, skipped=_why_not(case, earlier)) for case in cases]
    for _ in range(n_rounds):
        for result in results:
            if not (result.failure or result.skipped):
                _run_once(result, inputs[result.case.input], scratch_dir, earlier)
            yield results


def _why_not(case: Case, earlier: Path | None) -> str:
    """Return why a case is skipped, such as for the memory it would take; empty if it is not."""
    if EARLIER in case.strategy.arguments and earlier is None:
        return "needs --earlier"
    needed_bytes = case.strategy.memory_per_byte * case.size_bytes
    available_bytes = psutil.virtual_memory().available
    if needed_bytes <= _MOST_OF_MEMORY * available_bytes:
        return ""
    needed, available = format_bytes(needed_bytes), format_bytes(available_bytes)
    return f"needs some {needed} of memory, {available} are available"


def _run_once(result: Result, path: Path, scratch_dir: Path, earlier: Path | None) -> None:
    """Add a round to `result`, with the output in a temporary folder; print one line about it."""
    case = result.case
    read_into_cache(path)
    with tempfile.TemporaryDirectory(dir=scratch_dir, prefix="output-") as folder:
        command = case.strategy.command(path, Path(folder), earlier)
        run = measure(command, cwd=ROOT, with_children=case.strategy.has_children)
        digest = _digest(Path(folder, "train.bin"))
    if run.exit_code:
        result.failure = f"exit code {run.exit_code}: {_last_line(run.stderr)}"
        sys.stderr.write(f"{case}: {result.failure}\n")
        return
    result.wall_s.append(run.wall_s)
    result.cpu_s.append(run.cpu_s)
    result.peak_bytes.append(_peak_bytes(run))
    result.digests.append(digest)
    rate, peak = format_rate(case.size_bytes, run.wall_s), format_bytes(result.peak_bytes[-1])
    sys.stderr.write(f"{case}: {format_duration(run.wall_s)}, {rate}, {peak}\n")


def _peak_bytes(run: Measurement) -> int:
    """Return the kernel's peak of the process, or the largest sampled sum with descendants if higher."""
    return max(run.peak_rss_bytes, *(resident_bytes for _, resident_bytes in run.samples), 0)


def _digest(path: Path) -> str:
    """Compute the sha256 of a file; empty if there is none."""
    if not path.exists():
        return ""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no message")
