"""Measure how fast prepare.py is, and the scripts that it replaces, its neighbours, and the bare engines.

    python -m benchmarks.throughput --corpus-dir /tmp/corpus --output benchmarks/results      two hours, 60 GB
    python -m benchmarks.throughput --part compare --only gigatoken --only encode_files       a minute
    python -m benchmarks.throughput --short --check           for CI: no apt, no picture, a minute

Strategies that are compared run in turn, three rounds by default, on the same file, which is read into the
page cache before each run. Each run is a separate process, timed from its start to its end; its output is
removed afterwards. Tables are printed. `--output` gets throughput.json, throughput.md and throughput.svg; a
part that is measured again replaces its old results there. `--check` exits with 1 if a threshold is missed.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contest import Case, run_in_turn
from benchmarks.inputs import ROOT, make_input
from benchmarks.parts import PARTS
from benchmarks.record import describe, tables
from benchmarks.strategies import BY_NAME
from benchmarks.thresholds import Finding, add_reference, judge


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen parts, and return 1 with `--check` if a threshold is missed."""
    options = _parse(arguments)
    options.corpus_dir.mkdir(parents=True, exist_ok=True)
    _compile()
    record = _read_record(options.output)
    reference: dict[tuple[str, int], str] = {}
    broken: list[str] = []
    for name in options.part or PARTS:
        if not PARTS[name](is_short=options.short).cases:
            continue
        findings = _run_part(name, options, record, reference)
        print(tables({name: record[name]}), flush=True)
        broken += [f"{name}: {one.sentence}" for one in findings if one.is_broken]
    if options.output and not options.short and "compare" in record:
        _draw(options.output.resolve())
    for sentence in broken:
        sys.stderr.write(f"BROKEN {sentence}\n")
    return 1 if options.check and broken else 0


def _run_part(
    name: str, options: argparse.Namespace, record: dict[str, Any], reference: dict[tuple[str, int], str]
) -> list[Finding]:
    """Run one part; `record`, the files made from it, and `reference` are updated after each run."""
    corpus_dir = options.corpus_dir.resolve()
    part = PARTS[name](is_short=options.short)
    cases = [case for case in part.cases if not options.only or case.strategy.name in options.only]
    inputs = _make_inputs(cases, corpus_dir, "builtin" if options.short else "debian")
    findings: list[Finding] = []
    for results in run_in_turn(
        cases, inputs, n_rounds=options.repeat, scratch_dir=corpus_dir, earlier=options.earlier
    ):
        add_reference(reference, results)
        findings = judge(part.ratios, results, reference)
        record[name] = describe(results, findings, reference)
        if options.output:
            _write_record(record, options.output.resolve())
    return findings


def _make_inputs(cases: Sequence[Case], corpus_dir: Path, text: str) -> dict[tuple[str, int], Path]:
    """Make the inputs of these cases, unless they exist; return their paths."""
    wanted = dict.fromkeys(case.input for case in cases)
    return {
        (kind, size_bytes): make_input(kind, size_bytes, corpus_dir=corpus_dir, text=text)
        for kind, size_bytes in wanted
    }


def _compile() -> None:
    """Compile the modules, as pip does; with PYTHONDONTWRITEBYTECODE set, every run would compile them."""
    command = [sys.executable, "-m", "compileall", "-q", "nanogpt_compat", "benchmarks"]
    subprocess.run(command, cwd=ROOT, check=True)


def _read_record(output_dir: Path | None) -> dict[str, Any]:
    """Read the record of parts that were measured before."""
    path = output_dir / "throughput.json" if output_dir else None
    found: dict[str, Any] = json.loads(path.read_text()) if path and path.exists() else {}
    return {name: found[name] for name in PARTS if name in found}


def _write_record(record: dict[str, Any], output_dir: Path) -> None:
    output_dir.mkdir(parents=True, exist_ok=True)
    lines = json.dumps(record, separators=(",", ":")).replace('{"strategy"', '\n{"strategy"')
    (output_dir / "throughput.json").write_text(lines + "\n")
    (output_dir / "throughput.md").write_text(tables(record))


def _draw(output_dir: Path) -> None:
    """Draw the picture in a separate process, so that --short needs no matplotlib."""
    names = [str(output_dir / f"throughput.{suffix}") for suffix in ("json", "svg")]
    subprocess.run([sys.executable, "-m", "benchmarks.pictures", "rates", *names], cwd=ROOT, check=True)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part; may be repeated")
    parser.add_argument(
        "--only",
        action="append",
        choices=BY_NAME,
        metavar="STRATEGY",
        help=f"one of {', '.join(BY_NAME)}; may be repeated",
    )
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="rounds; the median counts")
    parser.add_argument(
        "--corpus-dir", type=Path, default=Path("/tmp/bench_corpus"), help="inputs and scratch; up to 60 GB"
    )
    parser.add_argument(
        "--earlier",
        type=Path,
        metavar="DIR",
        help="a checkout of an earlier version, for the part of that name",
    )
    parser.add_argument("--output", type=Path, help="a folder for the record, the tables and the picture")
    parser.add_argument("--short", action="store_true", help="tens of megabytes of built-in text, no picture")
    parser.add_argument("--check", action="store_true", help="exit 1 if a threshold is missed")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
