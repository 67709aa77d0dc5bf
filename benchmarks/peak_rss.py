"""Measure the peak memory of prepare.py and of the scripts that it replaces, on many kinds of input.

    python -m benchmarks.peak_rss --corpus-dir /tmp/corpus --output benchmarks/results
    python -m benchmarks.peak_rss --short --check      for CI: no apt, no matplotlib, under 3 minutes

Each run is a separate process (see measure.py), and so is the making of its input, because this process must
stay small. Prints a table in Markdown, and writes peak_rss.json, peak_rss.md and peak_rss.svg to `--output`.
"""

import itertools
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

from benchmarks import new_parser
from benchmarks.measure import Measurement, make_input, measure
from benchmarks.record import describe_machine, draw, exit_code, write_record
from benchmarks.strategies import BY_NAME
from nanogpt_compat.system.units import format_bytes, format_duration, format_rate

# The bounds that --check enforces, decimal.
MAX_PEAK_BYTES = 160_000_000  # every input, on 2 workers and on 64, with tiktoken
MAX_PEAK_GIGATOKEN_BYTES = 256_000_000  # the same with gigatoken
MAX_GROWTH_BYTES = 16_000_000  # the largest prose over the smallest, with tiktoken

_N_WORKERS = 2
_MANY_WORKERS = 64
_MAX_PEAK_BYTES = {"tiktoken": MAX_PEAK_BYTES, "gigatoken": MAX_PEAK_GIGATOKEN_BYTES}
_MAX_SAMPLES = 400  # a run in the record, and in the picture
_ERROR_LINES = 3
_NAIVE = ("whole", "list", "stream")


@dataclass(frozen=True, slots=True)
class Case:
    """One run: prepare.py with `n_workers` threads, or a naive strategy, whose engine is tiktoken."""

    kind: str
    size_bytes: int
    strategy: str = "prepare"
    engine: str = "tiktoken"
    n_workers: int = _N_WORKERS

    @property
    def label(self) -> str:
        """The strategy's name in the table."""
        if self.strategy != "prepare":
            return BY_NAME[self.strategy].label
        workers = "" if self.n_workers == _N_WORKERS else f", {self.n_workers} workers"
        return f"prepare.py, {self.engine}{workers}"

    def __str__(self) -> str:
        """Name the strategy and the input."""
        return f"{self.label} on {self.kind}, {format_bytes(self.size_bytes)}"


Run: TypeAlias = tuple[Case, Measurement]


def _on_both(kinds: str, *sizes_bytes: int, n_workers: int = _N_WORKERS) -> tuple[Case, ...]:
    """Return the cases of prepare.py on each kind in each size with each engine."""
    on_each = itertools.product(kinds.split(), sizes_bytes, _MAX_PEAK_BYTES)
    return tuple(Case(kind, size, engine=engine, n_workers=n_workers) for kind, size, engine in on_each)


FULL = (
    *_on_both("prose", 300_000_000),
    *(Case("prose", 300_000_000, strategy) for strategy in _NAIVE),
    *_on_both("prose", 100_000_000, 1_000_000_000, 4_000_000_000),
    *_on_both("one_line", 1_000_000_000),
    *_on_both("no_space cjk letters short_lines invalid", 256_000_000),
    *_on_both("prose", 1_000_000_000, n_workers=_MANY_WORKERS),
    *_on_both("separated fifty", 1_000_000_000),
)
SHORT = (
    *(Case("prose", 24_000_000, strategy) for strategy in _NAIVE),
    *_on_both("prose", 40_000_000, 120_000_000),
    *_on_both("one_line no_space cjk letters short_lines invalid", 24_000_000),
    *_on_both("prose", 40_000_000, n_workers=_MANY_WORKERS),
    *_on_both("separated fifty", 40_000_000),
)


def command(case: Case, path: Path, output_dir: str) -> list[str]:
    """Return the command of a case."""
    if case.strategy != "prepare":
        return BY_NAME[case.strategy].command(path, Path(output_dir))
    options = ["--engine", case.engine, "--workers", str(case.n_workers), "--quiet"]
    if case.kind == "invalid":  # it has too many invalid bytes for prepare.py without --errors
        options += ["--errors", "ignore"]
    if case.kind in ("separated", "fifty"):  # documents
        options += ["--document-separator", r"\x1e", "--shuffle"]
    return [sys.executable, "prepare.py", "--input", str(path), "--output-dir", output_dir, *options]


def broken_bounds(results: Sequence[Run]) -> list[str]:
    """Return a sentence for each bound that is broken; only prepare.py has bounds."""
    broken = []
    prose: list[Run] = []
    for case, run in results:
        if case.strategy != "prepare":
            continue
        limit_bytes = _MAX_PEAK_BYTES[case.engine]
        if run.exit_code:
            broken.append(f"{case}: exit code {run.exit_code}")
        elif run.peak_rss_bytes > limit_bytes:
            peak, limit = format_bytes(run.peak_rss_bytes), format_bytes(limit_bytes)
            broken.append(f"{case}: the peak is {peak}; at most {limit} are allowed")
        if case == Case("prose", case.size_bytes):  # with tiktoken: gigatoken's cache takes a while to fill
            prose.append((case, run))
    if prose:
        prose.sort(key=lambda one: one[0].size_bytes)
        (smallest, least), (largest, most) = prose[0], prose[-1]
        growth_bytes = most.peak_rss_bytes - least.peak_rss_bytes
        if growth_bytes > MAX_GROWTH_BYTES:
            sizes = f"from {format_bytes(smallest.size_bytes)} to {format_bytes(largest.size_bytes)} of prose"
            growth, limit = format_bytes(growth_bytes), format_bytes(MAX_GROWTH_BYTES)
            broken.append(f"{largest.label}: {sizes} the peak grows by {growth}; at most {limit} are allowed")
    return broken


def as_table(results: Sequence[Run]) -> str:
    """Return the results as a table in Markdown, in the order of the runs."""
    rows = [
        "| strategy | input | size | peak memory | time | CPU time | rate |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for case, run in results:
        end = f"exit code {run.exit_code}" if run.exit_code else format_rate(case.size_bytes, run.wall_s)
        size, peak = format_bytes(case.size_bytes), format_bytes(run.peak_rss_bytes)
        wall, cpu = format_duration(run.wall_s), format_duration(run.cpu_s)
        rows.append(f"| {case.label} | {case.kind} | {size} | {peak} | {wall} | {cpu} | {end} |")
    return "\n".join(rows) + "\n"


def write_results(results: Sequence[Run], output_dir: Path) -> None:
    """Write the record, with at most 400 samples a run, and the table."""
    runs = [{"case": asdict(case), "run": asdict(run)} for case, run in results]
    for one in runs:
        samples = one["run"]["samples"]
        step = -(-len(samples) // _MAX_SAMPLES) or 1
        parts = (samples[at : at + step] for at in range(0, len(samples), step))
        one["run"]["samples"] = [max(part, key=lambda sample: sample[1]) for part in parts]
    record = {
        "machine": describe_machine(),
        "bounds": {
            "peak_bytes": MAX_PEAK_BYTES,
            "peak_gigatoken_bytes": MAX_PEAK_GIGATOKEN_BYTES,
            "growth_bytes": MAX_GROWTH_BYTES,
        },
        "broken": broken_bounds(results),
        "results": runs,
    }
    write_record(output_dir, "peak_rss", record, as_table(results))


def main() -> int:
    """Run the chosen cases, and return 1 with `--check` if a bound is broken."""
    parser = new_parser("peak_rss", __doc__)
    kinds = sorted({case.kind for case in FULL})
    default_dir = Path("/tmp/bench_corpus")
    parser.add_argument("--corpus-dir", type=Path, default=default_dir, help="inputs; up to 20 GB")
    parser.add_argument("--output", type=Path, help="a folder for the record, the table and the picture")
    parser.add_argument("--only", action="append", choices=kinds, help="only this kind; may be repeated")
    parser.add_argument("--short", action="store_true", help="tens of megabytes of built-in text, no picture")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bound is broken")
    options = parser.parse_args()
    cases = SHORT if options.short else FULL
    cases = tuple(case for case in cases if not options.only or case.kind in options.only)
    corpus_dir, text = options.corpus_dir.resolve(), "builtin" if options.short else "debian"
    corpus_dir.mkdir(parents=True, exist_ok=True)
    results: list[Run] = []
    for case in cases:
        path = make_input(case.kind, case.size_bytes, corpus_dir=corpus_dir, text=text)
        with tempfile.TemporaryDirectory(dir=corpus_dir, prefix="output-") as output_dir:
            run = measure(command(case, path, output_dir))
        peak, wall = format_bytes(run.peak_rss_bytes), format_duration(run.wall_s)
        sys.stderr.write(f"{case}: {peak} in {wall}, exit code {run.exit_code}\n")
        if run.exit_code:
            sys.stderr.write("".join(run.stderr.splitlines(keepends=True)[-_ERROR_LINES:]))
        results.append((case, run))
        if options.output:  # after each, so that the results are kept if this is stopped
            write_results(results, options.output.resolve())
    print(as_table(results), end="")
    if options.output and not options.short and any(case.strategy in _NAIVE for case in cases):
        draw("memory", options.output.resolve(), "peak_rss")
    return exit_code(broken_bounds(results), is_check=options.check)


if __name__ == "__main__":
    sys.exit(main())
