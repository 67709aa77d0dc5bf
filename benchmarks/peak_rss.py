"""Measure the peak memory of prepare.py, and of what it replaces, over inputs of every kind and size.

    python -m benchmarks.peak_rss --corpus-dir /tmp/corpus --output benchmarks/results
    python -m benchmarks.peak_rss --short --check      for CI: no apt, no matplotlib, under 3 minutes

Each run is a process of its own (see measure.py), and so is the making of its input: this process must stay
small. Prints a table in Markdown; `--output` gets peak_rss.json, peak_rss.md and peak_rss.svg.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measure import Measurement, describe_machine, measure
from nanogpt_compat.units import format_bytes, format_duration, format_rate

ROOT = Path(__file__).resolve().parents[1]

# The bounds that --check enforces, decimal.
MAX_PEAK_BYTES = 160_000_000  # every input, on 2 workers
MAX_GROWTH_BYTES = 16_000_000  # the largest prose over the smallest
MAX_PEAK_64_WORKERS_BYTES = 160_000_000

_N_WORKERS = 2
_MANY_WORKERS = 64
_MAX_SAMPLES = 400  # a run in the record, and in the picture
_ERROR_LINES = 3
_NAIVE = {
    "whole": "whole file at once",
    "list": "chunks into one list",
    "stream": "chunk by chunk to the file",
}


@dataclass(frozen=True, slots=True)
class Case:
    """One run: prepare.py on so many workers, or a naive strategy."""

    kind: str
    size_bytes: int
    strategy: str = "prepare"
    n_workers: int = _N_WORKERS

    @property
    def label(self) -> str:
        """Name the strategy as the table does."""
        if self.strategy != "prepare":
            return _NAIVE[self.strategy]
        return "prepare.py" if self.n_workers == _N_WORKERS else f"prepare.py, {self.n_workers} workers"


@dataclass(frozen=True, slots=True)
class Result:
    """A case and what came of it."""

    case: Case
    run: Measurement


FULL = (
    *(Case("prose", 300_000_000, strategy) for strategy in ("prepare", *_NAIVE)),
    *(Case("prose", size_bytes) for size_bytes in (100_000_000, 1_000_000_000, 4_000_000_000)),
    Case("one_line", 1_000_000_000),
    *(Case(kind, 256_000_000) for kind in ("no_space", "cjk", "letters", "short_lines", "invalid")),
    Case("prose", 1_000_000_000, n_workers=_MANY_WORKERS),
)
SHORT = (
    *(Case("prose", 24_000_000, strategy) for strategy in _NAIVE),
    *(Case("prose", size_bytes) for size_bytes in (40_000_000, 120_000_000)),
    *(
        Case(kind, 24_000_000)
        for kind in ("one_line", "no_space", "cjk", "letters", "short_lines", "invalid")
    ),
    Case("prose", 120_000_000, n_workers=_MANY_WORKERS),
)


def run_case(case: Case, corpus_dir: Path, text: str) -> Result:
    """Make the input, run the case in a scratch folder beside it, and say in one line how it went."""
    path = _input_path(case, corpus_dir, text)
    with tempfile.TemporaryDirectory(dir=corpus_dir, prefix="output-") as output_dir:
        run = measure(_command(case, path, output_dir), cwd=ROOT)
    summary = (
        f"{format_bytes(run.peak_rss_bytes)} in {format_duration(run.wall_s)}, exit code {run.exit_code}"
    )
    sys.stderr.write(f"{case.label} on {case.kind}, {format_bytes(case.size_bytes)}: {summary}\n")
    if run.exit_code:
        sys.stderr.write("".join(run.stderr.splitlines(keepends=True)[-_ERROR_LINES:]))
    return Result(case, run)


def _input_path(case: Case, corpus_dir: Path, text: str) -> Path:
    command = ["-m", "benchmarks.corpus", "--kind", case.kind, "--size", str(case.size_bytes), "--text", text]
    made = subprocess.run(
        [sys.executable, *command, "--dir", corpus_dir],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return Path(made.stdout.rstrip("\n"))


def _command(case: Case, path: Path, output_dir: str) -> list[str]:
    if case.strategy != "prepare":
        return [sys.executable, "-m", "benchmarks.naive", case.strategy, str(path), output_dir]
    options = ["--output-dir", output_dir, "--workers", str(case.n_workers), "--quiet"]
    if case.kind == "invalid":  # so much of it that prepare.py asks whether it is text at all
        options += ["--errors", "ignore"]
    return [sys.executable, "prepare.py", "--input", str(path), *options]


def broken_bounds(results: Sequence[Result]) -> list[str]:
    """Say in a sentence each what is not as promised; only prepare.py has promised anything."""
    ours = [result for result in results if result.case.strategy == "prepare"]
    found = [_broken_run(result) for result in ours]
    prose = [result for result in ours if result.case.kind == "prose" and result.case.n_workers == _N_WORKERS]
    if len(prose) > 1:
        least = min(prose, key=lambda result: result.case.size_bytes)
        most = max(prose, key=lambda result: result.case.size_bytes)
        growth_bytes = most.run.peak_rss_bytes - least.run.peak_rss_bytes
        if growth_bytes > MAX_GROWTH_BYTES:
            sizes = (
                f"from {format_bytes(least.case.size_bytes)} to {format_bytes(most.case.size_bytes)} of prose"
            )
            limit = format_bytes(MAX_GROWTH_BYTES)
            found.append(
                f"{sizes} the peak grows by {format_bytes(growth_bytes)}; at most {limit} are allowed"
            )
    return [sentence for sentence in found if sentence]


def _broken_run(result: Result) -> str:
    """Say what is wrong with one run of prepare.py, or nothing."""
    case, run = result.case, result.run
    where = f"{case.label} on {case.kind}, {format_bytes(case.size_bytes)}"
    limit_bytes = MAX_PEAK_BYTES if case.n_workers == _N_WORKERS else MAX_PEAK_64_WORKERS_BYTES
    if run.exit_code:
        return f"{where}: exit code {run.exit_code}"
    if run.peak_rss_bytes > limit_bytes:
        peak = format_bytes(run.peak_rss_bytes)
        return f"{where}: the peak is {peak}; at most {format_bytes(limit_bytes)} are allowed"
    return ""


def as_table(results: Sequence[Result]) -> str:
    """Render the results as Markdown, in the order in which they were measured."""
    rows = [
        "| strategy | input | size | peak memory | time | CPU time | rate |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for case, run in ((result.case, result.run) for result in results):
        end = f"exit code {run.exit_code}" if run.exit_code else format_rate(case.size_bytes, run.wall_s)
        peak, wall, cpu = (
            format_bytes(run.peak_rss_bytes),
            format_duration(run.wall_s),
            format_duration(run.cpu_s),
        )
        size = format_bytes(case.size_bytes)
        rows.append(f"| {case.label} | {case.kind} | {size} | {peak} | {wall} | {cpu} | {end} |")
    return "\n".join(rows) + "\n"


def thin_out(samples: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """Keep at most 400 samples, each the highest of its stretch."""
    step = -(-len(samples) // _MAX_SAMPLES) or 1
    return [max(samples[at : at + step], key=lambda sample: sample[1]) for at in range(0, len(samples), step)]


def write_results(results: Sequence[Result], output_dir: Path) -> None:
    """Write the record and the table."""
    output_dir.mkdir(parents=True, exist_ok=True)
    runs = [asdict(result) for result in results]
    for run, result in zip(runs, results, strict=True):
        run["run"]["samples"] = thin_out(result.run.samples)
    bounds = {
        "peak_bytes": MAX_PEAK_BYTES,
        "growth_bytes": MAX_GROWTH_BYTES,
        "peak_64_workers_bytes": MAX_PEAK_64_WORKERS_BYTES,
    }
    record = {
        "machine": describe_machine(),
        "bounds": bounds,
        "broken": broken_bounds(results),
        "results": runs,
    }
    lines = json.dumps(record, separators=(",", ":")).replace('{"case"', '\n{"case"')  # a line for each run
    (output_dir / "peak_rss.json").write_text(lines + "\n")
    (output_dir / "peak_rss.md").write_text(as_table(results))


def _draw(output_dir: Path) -> None:
    """Draw the picture in a process of its own, so that --short needs no matplotlib."""
    names = [str(output_dir / f"peak_rss.{suffix}") for suffix in ("json", "svg")]
    subprocess.run([sys.executable, "-m", "benchmarks.picture", *names], cwd=ROOT, check=True)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peak_rss", description=(__doc__ or "").split("\n")[0]
    )
    kinds = sorted({case.kind for case in FULL})
    parser.add_argument(
        "--corpus-dir", type=Path, default=Path("/tmp/bench_corpus"), help="inputs; up to 20 GB"
    )
    parser.add_argument("--output", type=Path, help="a folder for the record, the table and the picture")
    parser.add_argument("--only", action="append", choices=kinds, help="this kind alone; may be repeated")
    parser.add_argument("--short", action="store_true", help="tens of megabytes of built-in text, no picture")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bound is broken")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the cases that were asked for."""
    options = _parse(arguments)
    cases = [
        case for case in (SHORT if options.short else FULL) if not options.only or case.kind in options.only
    ]
    corpus_dir, text = options.corpus_dir.resolve(), "builtin" if options.short else "debian"
    corpus_dir.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    for case in cases:
        results.append(run_case(case, corpus_dir, text))
        if options.output:  # after each, so that a run that is stopped has not been for nothing
            write_results(results, options.output.resolve())
    print(as_table(results), end="")
    if options.output and not options.short and any(case.strategy in _NAIVE for case in cases):
        _draw(options.output.resolve())
    broken = broken_bounds(results)
    for sentence in broken:
        sys.stderr.write(f"BROKEN {sentence}\n")
    return 1 if options.check and broken else 0


if __name__ == "__main__":
    sys.exit(main())
