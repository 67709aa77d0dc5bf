"""Run strategies in turn, A B C A B C ..., each time in a fresh process on a file in the page cache.

Their thresholds are ratios between two of them, peaks of memory, and equal tokens.
"""

import hashlib
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import psutil

from benchmarks.measure import measure
from benchmarks.strategies import EARLIER, Strategy
from nanogpt_compat.system.units import format_bytes, format_duration, format_rate

_CHUNK_BYTES = 1 << 20
_MOST_OF_MEMORY = 0.8
Reference: TypeAlias = Mapping[tuple[str, int], str]  # input -> sha256 of the tokens of the whole file


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


@dataclass(frozen=True, slots=True)
class Ratio:
    """A threshold: `ours` must be at least `at_least` times as fast, in MB/s, as `other`.

    With `start_bytes`, the time that the same strategy takes for a text of that size is subtracted from both.
    """

    ours: Case
    other: Case
    at_least: float
    start_bytes: int = 0

    def start(self, case: Case) -> Case:
        """Return the case whose time is subtracted from that of `case`."""
        return replace(case, size_bytes=self.start_bytes)


@dataclass(frozen=True, slots=True)
class Finding:
    """A threshold, compared with the measurement."""

    sentence: str
    is_broken: bool


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
    buffer = bytearray(_CHUNK_BYTES)
    with path.open("rb", buffering=0) as file:  # into the page cache: prepare.py drops it while it reads
        os.fsync(file.fileno())
        while file.readinto(buffer):
            pass
    with tempfile.TemporaryDirectory(dir=scratch_dir, prefix="output-") as folder:
        command = case.strategy.command(path, Path(folder), earlier)
        run = measure(command, with_children=case.strategy.has_children)
        digest = _digest(Path(folder, "train.bin"))
    if run.exit_code:
        last_line = next((line for line in reversed(run.stderr.splitlines()) if line.strip()), "no message")
        result.failure = f"exit code {run.exit_code}: {last_line}"
        sys.stderr.write(f"{case}: {result.failure}\n")
        return
    # The kernel's peak of the process, or the largest sampled sum with descendants if that is higher.
    peak_bytes = max(run.peak_rss_bytes, *(resident_bytes for _, resident_bytes in run.samples), 0)
    result.wall_s.append(run.wall_s)
    result.cpu_s.append(run.cpu_s)
    result.peak_bytes.append(peak_bytes)
    result.digests.append(digest)
    rate = format_rate(case.size_bytes, run.wall_s)
    sys.stderr.write(f"{case}: {format_duration(run.wall_s)}, {rate}, {format_bytes(peak_bytes)}\n")


def _digest(path: Path) -> str:
    """Compute the sha256 of a file; empty if there is none."""
    if not path.exists():
        return ""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def judge(ratios: Sequence[Ratio], results: Sequence[Result], reference: Reference) -> list[Finding]:
    """Compare the results with all thresholds that concern them.

    A strategy that failed breaks its threshold; one that was skipped does not.
    """
    found = [Finding(f"{one.case}: {one.failure}", is_broken=True) for one in results if one.failure]
    by_case = {result.case: result for result in results if result.wall_s}
    for ratio in ratios:
        if ratio.ours in by_case and ratio.other in by_case:
            found.append(_judge_ratio(ratio, by_case))
    for case, result in by_case.items():
        if limit_bytes := case.strategy.max_peak_bytes(case.kind):
            peak_bytes = max(result.peak_bytes)
            peak, limit = format_bytes(peak_bytes), format_bytes(limit_bytes)
            found.append(Finding(f"{case}: peak memory {peak}; at most {limit}", peak_bytes > limit_bytes))
        if case.strategy.engine and has_reference_tokens(result, reference) is False:
            found.append(Finding(f"{case}: its tokens are not those of the whole file", is_broken=True))
    return found


def _judge_ratio(ratio: Ratio, by_case: Mapping[Case, Result]) -> Finding:
    ours, other = by_case[ratio.ours], by_case[ratio.other]
    starts = [by_case.get(ratio.start(case)) for case in (ratio.ours, ratio.other)]
    ours_off, other_off = (one.median_s if one else 0.0 for one in starts)
    ours_rate = ours.case.size_bytes / (ours.median_s - ours_off) / 1e6
    other_rate = other.case.size_bytes / (other.median_s - other_off) / 1e6
    rounds = [
        ((theirs_s - other_off) / other.case.size_bytes) / ((ours_s - ours_off) / ours.case.size_bytes)
        for ours_s, theirs_s in zip(ours.wall_s, other.wall_s, strict=False)
    ]
    sentence = (
        f"{ours.case}: {ours_rate:.1f} MB/s, {ours_rate / other_rate:.2f} times the {other_rate:.1f} MB/s of "
        f"{other.case} (round by round {min(rounds):.2f} to {max(rounds):.2f}); at least "
        f"{ratio.at_least:.2f} times{', start-up taken off both' * all(starts)}"
    )
    return Finding(sentence, is_broken=ours_rate < ratio.at_least * other_rate)


def add_reference(reference: dict[tuple[str, int], str], results: Sequence[Result]) -> None:
    """Store the digests of prepare.py with tiktoken; the tests compare its tokens with `encode_ordinary`."""
    for result in results:
        if result.case.strategy.engine == "tiktoken" and result.digests:
            reference.setdefault(result.case.input, result.digests[0])


def has_reference_tokens(result: Result, reference: Reference) -> bool | None:
    """Whether every round wrote the tokens of the whole file; None if they are unknown."""
    expected = reference.get(result.case.input)
    return set(result.digests) == {expected} if expected and result.digests else None
