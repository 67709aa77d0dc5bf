"""The thresholds of throughput.py: ratios between strategies, peaks of memory, and equal tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from benchmarks.contest import Case, Result
from nanogpt_compat.system.units import format_bytes

Reference: TypeAlias = Mapping[tuple[str, int], str]  # input -> sha256 of the tokens of the whole file


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


def judge(ratios: Sequence[Ratio], results: Sequence[Result], reference: Reference) -> list[Finding]:
    """Compare the results with all thresholds that concern them.

    A strategy that failed breaks its threshold; one that was skipped does not.
    """
    found = [Finding(f"{one.case}: {one.failure}", is_broken=True) for one in results if one.failure]
    by_case = {result.case: result for result in results if result.wall_s}
    for ratio in ratios:
        if ratio.ours in by_case and ratio.other in by_case:
            found.append(_judge_ratio(ratio, by_case))
    for result in by_case.values():
        most_bytes = result.case.strategy.max_peak_bytes(result.case.kind)
        if most_bytes:
            found.append(_judge_peak(result, most_bytes))
        if result.case.strategy.engine and has_reference_tokens(result, reference) is False:
            found.append(
                Finding(f"{result.case}: its tokens are not those of the whole file", is_broken=True)
            )
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


def _judge_peak(result: Result, max_peak_bytes: int) -> Finding:
    sentence = (
        f"{result.case}: peak memory {format_bytes(result.peak)}; at most {format_bytes(max_peak_bytes)}"
    )
    return Finding(sentence, is_broken=result.peak > max_peak_bytes)


def add_reference(reference: dict[tuple[str, int], str], results: Sequence[Result]) -> None:
    """Store the digests of prepare.py with tiktoken; the tests compare its tokens with `encode_ordinary`."""
    for result in results:
        if result.case.strategy.engine == "tiktoken" and result.digests:
            reference.setdefault(result.case.input, result.digests[0])


def has_reference_tokens(result: Result, reference: Reference) -> bool | None:
    """Whether every round wrote the tokens of the whole file; None if they are unknown."""
    expected = reference.get(result.case.input)
    return set(result.digests) == {expected} if expected and result.digests else None
