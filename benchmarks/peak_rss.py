"""Measure the peak memory of prepare.py and of the scripts that it replaces, on many kinds of input.

    python -m benchmarks.peak_rss --corpus-dir /tmp/corpus --output benchmarks/results
    python -m benchmarks.peak_rss --short --check      for CI: no apt, no matplotlib, under 3 minutes

Each run is a separate process (see measure.py), and so is the making of its input, because this process must
stay small. Prints a table in Markdown, and writes peak_rss.json, peak_rss.md and peak_rss.svg to `--output`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.inputs import ROOT, make_input
from benchmarks.measure import Measurement, describe_machine, measure
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
_NAIVE = {
    "whole": "whole file at once",
    "list": "chunks into one list",
    "stream": "chunk by chunk to the file",
}


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
            return _NAIVE[self.strategy]
        workers = "" if self.n_workers == _N_WORKERS else f", {self.n_workers} workers"
        return f"prepare.py, {self.engine}{workers}"


@dataclass(frozen=True, slots=True)
class Result:
    """A case and its measurement."""

    case: Case
    run: Measurement


def _on_both(kind: str, *sizes_bytes: int, n_workers: int = _N_WORKERS) -> tuple[Case, ...]:
    """Return the cases of prepare.py on each size with each engine."""
    return tuple(
        Case(kind, size_bytes, engine=engine, n_workers=n_workers)
        for size_bytes in sizes_bytes
        for engine in _MAX_PEAK_BYTES
    )


_SAME = Case("prose", 0)  # with any size: the cases whose peaks must not grow with the size
_SHUFFLED = ("separated", "fifty")  # kinds of documents, which prepare.py shuffles
_KINDS = ("no_space", "cjk", "letters", "short_lines", "invalid")
FULL = (
    *_on_both("prose", 300_000_000),
    *(Case("prose", 300_000_000, strategy) for strategy in _NAIVE),
    *_on_both("prose", 100_000_000, 1_000_000_000, 4_000_000_000),
    *_on_both("one_line", 1_000_000_000),
    *(case for kind in _KINDS for case in _on_both(kind, 256_000_000)),
    *_on_both("prose", 1_000_000_000, n_workers=_MANY_WORKERS),
    *(case for kind in _SHUFFLED for case in _on_both(kind, 1_000_000_000)),
)
SHORT = (
    *(Case("prose", 24_000_000, strategy) for strategy in _NAIVE),
    *_on_both("prose", 40_000_000, 120_000_000),
    *(case for kind in ("one_line", *_KINDS) for case in _on_both(kind, 24_000_000)),
    *_on_both("prose", 120_000_000, n_workers=_MANY_WORKERS),
    *(case for kind in _SHUFFLED for case in _on_both(kind, 40_000_000)),
)


def run_case(case: Case, corpus_dir: Path, text: str) -> Result:
    """Make the input, run the case in a scratch folder next to it, and print one line about it."""
    path = make_input(case.kind, case.size_bytes, corpus_dir=corpus_dir, text=text)
    with tempfile.TemporaryDirectory(dir=corpus_dir, prefix="output-") as output_dir:
        run = measure(_command(case, path, output_dir), cwd=ROOT)
    summary = (
        f"{format_bytes(run.peak_rss_bytes)} in {format_duration(run.wall_s)}, exit code {run.exit_code}"
    )
    sys.stderr.write(f"{case.label} on {case.kind}, {format_bytes(case.size_bytes)}: {summary}\n")
    if run.exit_code:
        sys.stderr.write("".join(run.stderr.splitlines(keepends=True)[-_ERROR_LINES:]))
    return Result(case, run)


def _command(case: Case, path: Path, output_dir: str) -> list[str]:
    if case.strategy != "prepare":
        return [sys.executable, "-m", "benchmarks.naive", case.strategy, str(path), output_dir]
    options = [
        "--output-dir",
        output_dir,
        "--engine",
        case.engine,
        "--workers",
        str(case.n_workers),
        "--quiet",
    ]
    if case.kind == "invalid":  # it has too many invalid bytes for prepare.py without --errors
        options += ["--errors", "ignore"]
    if case.kind in _SHUFFLED:
        options += ["--document-separator", r"\x1e", "--shuffle"]
    return [sys.executable, "prepare.py", "--input", str(path), *options]


def broken_bounds(results: Sequence[Result]) -> list[str]:
    """Return a sentence for each bound that is broken; only prepare.py has bounds."""
    ours = [result for result in results if result.case.strategy == "prepare"]
    found = [*map(_broken_run, ours), _broken_growth(ours)]
    return [sentence for sentence in found if sentence]


def _broken_growth(ours: Sequence[Result]) -> str:
    """Return by how much the peak grows with the input if that is too much, else an empty string.

    Only for tiktoken, because gigatoken's cache takes a while to fill.
    """
    prose = [result for result in ours if result.case == replace(_SAME, size_bytes=result.case.size_bytes)]
    if not prose:
        return ""
    least = min(prose, key=lambda result: result.case.size_bytes)
    most = max(prose, key=lambda result: result.case.size_bytes)
    growth_bytes = most.run.peak_rss_bytes - least.run.peak_rss_bytes
    if growth_bytes <= MAX_GROWTH_BYTES:
        return ""
    sizes = f"from {format_bytes(least.case.size_bytes)} to {format_bytes(most.case.size_bytes)} of prose"
    growth, limit = format_bytes(growth_bytes), format_bytes(MAX_GROWTH_BYTES)
    return f"{most.case.label}: {sizes} the peak grows by {growth}; at most {limit} are allowed"


def _broken_run(result: Result) -> str:
    """Return what is wrong with one run of prepare.py, else an empty string."""
    case, run = result.case, result.run
    where = f"{case.label} on {case.kind}, {format_bytes(case.size_bytes)}"
    limit_bytes = _MAX_PEAK_BYTES[case.engine]
    if run.exit_code:
        return f"{where}: exit code {run.exit_code}"
    if run.peak_rss_bytes > limit_bytes:
        peak = format_bytes(run.peak_rss_bytes)
        return f"{where}: the peak is {peak}; at most {format_bytes(limit_bytes)} are allowed"
    return ""


def as_table(results: Sequence[Result]) -> str:
    """Return the results as a table in Markdown, in the order of the runs."""
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
    """Return at most 400 samples, each the highest of those that it replaces."""
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
        "peak_gigatoken_bytes": MAX_PEAK_GIGATOKEN_BYTES,
        "growth_bytes": MAX_GROWTH_BYTES,
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
    """Draw the picture in a separate process, so that --short needs no matplotlib."""
    names = [str(output_dir / f"peak_rss.{suffix}") for suffix in ("json", "svg")]
    subprocess.run([sys.executable, "-m", "benchmarks.pictures", "memory", *names], cwd=ROOT, check=True)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peak_rss", description=(__doc__ or "").split("\n")[0]
    )
    kinds = sorted({case.kind for case in FULL})
    parser.add_argument(
        "--corpus-dir", type=Path, default=Path("/tmp/bench_corpus"), help="inputs; up to 20 GB"
    )
    parser.add_argument("--output", type=Path, help="a folder for the record, the table and the picture")
    parser.add_argument("--only", action="append", choices=kinds, help="only this kind; may be repeated")
    parser.add_argument("--short", action="store_true", help="tens of megabytes of built-in text, no picture")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bound is broken")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen cases, and return 1 with `--check` if a bound is broken."""
    options = _parse(arguments)
    cases = [
        case for case in (SHORT if options.short else FULL) if not options.only or case.kind in options.only
    ]
    corpus_dir, text = options.corpus_dir.resolve(), "builtin" if options.short else "debian"
    corpus_dir.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    for case in cases:
        results.append(run_case(case, corpus_dir, text))
        if options.output:  # after each, so that the results are kept if this is stopped
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
