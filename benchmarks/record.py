"""The record that throughput.py keeps of each part, and the tables made from it."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.contest import Result
from benchmarks.measure import describe_machine
from benchmarks.thresholds import Finding, Reference, has_reference_tokens
from nanogpt_compat.system.units import format_bytes

_LEAST_RATE = 0.1  # MB/s; below it, there is nothing but start-up
_SAID = {True: "yes", False: "no", None: "-"}


def describe(results: Sequence[Result], findings: Sequence[Finding], reference: Reference) -> dict[str, Any]:
    """Return the record of a part, as JSON can hold it."""
    return {
        "machine": describe_machine(),
        "cases": [_describe_case(result, reference) for result in results],
        "thresholds": [{"kept": not one.is_broken, "what": one.sentence} for one in findings],
    }


def _describe_case(result: Result, reference: Reference) -> dict[str, Any]:
    case = result.case
    record: dict[str, Any] = {
        "strategy": case.strategy.name,
        "label": case.strategy.label,
        "command": case.strategy.shown_command,
        "kind": case.kind,
        "input": case.input_label,
        "size_bytes": case.size_bytes,
        "wall_s": [round(seconds, 3) for seconds in result.wall_s],
        "cpu_s": [round(seconds, 3) for seconds in result.cpu_s],
        "peak_bytes": result.peak_bytes,
        "tokens_as_whole_file": has_reference_tokens(result, reference),
    }
    if result.wall_s:
        record |= {"median_s": round(result.median_s, 3), "rate_mb_per_s": round(result.rate, 2)}
    return record | {key: why for key in ("failure", "skipped") if (why := getattr(result, key))}


def tables(record: Mapping[str, Any]) -> str:
    """Return parts as Markdown: for each a table of measurements and a list of its thresholds."""
    return "\n".join(_render_part(name, part) for name, part in record.items())


def _render_part(name: str, part: Mapping[str, Any]) -> str:
    rows = [
        f"### {name}\n",
        "| strategy | input | rate | time (min to max) | CPU time | peak memory | tokens as whole file |",
        "|---|---|---:|---:|---:|---:|---|",
        *(_render_case(case) for case in part["cases"]),
        "",
    ]
    kept = {True: "kept", False: "**missed**"}
    return "\n".join([*rows, *(f"- {kept[one['kept']]}: {one['what']}" for one in part["thresholds"]), ""])


def _render_case(case: Mapping[str, Any]) -> str:
    start = f"| {case['label']} | {case['input']} |"
    if not case["wall_s"]:
        return f"{start} - | {case.get('failure') or case.get('skipped') or 'not yet'} | - | - | - |"
    wall, cpu_s = case["wall_s"], sorted(case["cpu_s"])[len(case["cpu_s"]) // 2]
    spread = f"{case['median_s']:.2f} s ({min(wall):.2f} to {max(wall):.2f})"
    peak, same = format_bytes(max(case["peak_bytes"])), _SAID[case["tokens_as_whole_file"]]
    rate = f"{case['rate_mb_per_s']:.1f} MB/s" if case["rate_mb_per_s"] >= _LEAST_RATE else "-"
    return f"{start} {rate} | {spread} | {cpu_s:.2f} s | {peak} | {same} |"
