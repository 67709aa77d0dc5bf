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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ROOT, new_parser
from benchmarks.contest import (
    Finding,
    Reference,
    Result,
    add_reference,
    has_reference_tokens,
    judge,
    run_in_turn,
)
from benchmarks.measure import make_input
from benchmarks.parts import FULL, SHORT, Part
from benchmarks.record import describe_machine, draw, exit_code, write_record
from benchmarks.strategies import BY_NAME
from nanogpt_compat.system.units import format_bytes

_LEAST_RATE = 0.1  # MB/s; below it, there is nothing but start-up


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen parts, and return 1 with `--check` if a threshold is missed."""
    parser = new_parser("throughput", __doc__)
    only_help = f"one of {', '.join(BY_NAME)}; may be repeated"
    earlier_help = "a checkout of an earlier version, for the part of that name"
    default_dir = Path("/tmp/bench_corpus")
    parser.add_argument("--part", action="append", choices=FULL, help="only this part; may be repeated")
    parser.add_argument("--only", action="append", choices=BY_NAME, metavar="STRATEGY", help=only_help)
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="rounds; the median counts")
    parser.add_argument(
        "--corpus-dir", type=Path, default=default_dir, help="inputs and scratch; up to 60 GB"
    )
    parser.add_argument("--earlier", type=Path, metavar="DIR", help=earlier_help)
    parser.add_argument("--output", type=Path, help="a folder for the record, the tables and the picture")
    parser.add_argument("--short", action="store_true", help="tens of megabytes of built-in text, no picture")
    parser.add_argument("--check", action="store_true", help="exit 1 if a threshold is missed")
    options = parser.parse_args(arguments)
    options.corpus_dir.mkdir(parents=True, exist_ok=True)
    record = _read_record(options.output)
    reference: dict[tuple[str, int], str] = {}
    broken: list[str] = []
    parts = SHORT if options.short else FULL
    chosen = {name: parts[name].only(options.only) for name in options.part or parts if name in parts}
    if not any(part.cases for part in chosen.values()):
        parser.error("no such part has such a strategy; parts.py lists the strategies of each part")
    _compile()
    for name, part in chosen.items():
        if not part.cases:
            continue
        findings = _run_part(name, part, options, record, reference)
        print(tables({name: record[name]}), flush=True)
        broken += [f"{name}: {one.sentence}" for one in findings if one.is_broken]
    if options.output and not options.short and "compare" in record:
        draw("rates", options.output.resolve(), "throughput")
    return exit_code(broken, is_check=options.check)


def _run_part(
    name: str,
    part: Part,
    options: argparse.Namespace,
    record: dict[str, Any],
    reference: dict[tuple[str, int], str],
) -> list[Finding]:
    """Run one part; `record`, the files made from it, and `reference` are updated after each run."""
    corpus_dir, text = options.corpus_dir.resolve(), "builtin" if options.short else "debian"
    inputs = {
        (kind, size_bytes): make_input(kind, size_bytes, corpus_dir=corpus_dir, text=text)
        for kind, size_bytes in dict.fromkeys(case.input for case in part.cases)
    }
    findings: list[Finding] = []
    for results in run_in_turn(
        part.cases, inputs, n_rounds=options.repeat, scratch_dir=corpus_dir, earlier=options.earlier
    ):
        add_reference(reference, results)
        findings = judge(part.ratios, results, reference)
        record[name] = describe(results, findings, reference)
        if options.output:
            write_record(options.output.resolve(), "throughput", record, tables(record))
    return findings


def _compile() -> None:
    """Compile the modules, as pip does; with PYTHONDONTWRITEBYTECODE set, every run would compile them."""
    command = [sys.executable, "-m", "compileall", "-q", "nanogpt_compat", "benchmarks"]
    subprocess.run(command, cwd=ROOT, check=True)


def _read_record(output_dir: Path | None) -> dict[str, Any]:
    """Read the record of parts that were measured before."""
    path = output_dir / "throughput.json" if output_dir else None
    found: dict[str, Any] = json.loads(path.read_text()) if path and path.exists() else {}
    return {name: found[name] for name in FULL if name in found}


def describe(results: Sequence[Result], findings: Sequence[Finding], reference: Reference) -> dict[str, Any]:
    """Return the record of a part, as JSON can hold it."""
    cases = []
    for result in results:
        case, strategy = result.case, result.case.strategy
        pin = ["taskset --cpu-list CORE"] if strategy.is_pinned else []
        described: dict[str, Any] = {
            "strategy": strategy.name,
            "label": strategy.label,
            "command": " ".join([*pin, "python", *strategy.arguments]),
            "kind": case.kind,
            "input": case.input_label,
            "size_bytes": case.size_bytes,
            "wall_s": [round(seconds, 3) for seconds in result.wall_s],
            "cpu_s": [round(seconds, 3) for seconds in result.cpu_s],
            "peak_bytes": result.peak_bytes,
            "tokens_as_whole_file": has_reference_tokens(result, reference),
        }
        if result.wall_s:
            rate = case.size_bytes / result.median_s / 1e6
            described |= {"median_s": round(result.median_s, 3), "rate_mb_per_s": round(rate, 2)}
        described |= {key: why for key in ("failure", "skipped") if (why := getattr(result, key))}
        cases.append(described)
    thresholds = [{"kept": not one.is_broken, "what": one.sentence} for one in findings]
    return {"machine": describe_machine(), "cases": cases, "thresholds": thresholds}


def tables(record: Mapping[str, Any]) -> str:
    """Return parts as Markdown: for each a table of measurements and a list of its thresholds."""
    kept = {True: "kept", False: "**missed**"}
    lines = []
    for name, part in record.items():
        lines += [
            f"### {name}\n",
            "| strategy | input | rate | time (min to max) | CPU time | peak memory | tokens as whole file |",
            "|---|---|---:|---:|---:|---:|---|",
            *(_row(case) for case in part["cases"]),
            "",
            *(f"- {kept[one['kept']]}: {one['what']}" for one in part["thresholds"]),
            "",
        ]
    return "\n".join(lines)


def _row(case: Mapping[str, Any]) -> str:
    start = f"| {case['label']} | {case['input']} |"
    if not case["wall_s"]:
        return f"{start} - | {case.get('failure') or case.get('skipped') or 'not yet'} | - | - | - |"
    wall, cpu_s = case["wall_s"], sorted(case["cpu_s"])[len(case["cpu_s"]) // 2]
    spread = f"{case['median_s']:.2f} s ({min(wall):.2f} to {max(wall):.2f})"
    peak = format_bytes(max(case["peak_bytes"]))
    same = {True: "yes", False: "no", None: "-"}[case["tokens_as_whole_file"]]
    rate = f"{case['rate_mb_per_s']:.1f} MB/s" if case["rate_mb_per_s"] >= _LEAST_RATE else "-"
    return f"{start} {rate} | {spread} | {cpu_s:.2f} s | {peak} | {same} |"


if __name__ == "__main__":
    sys.exit(main())
