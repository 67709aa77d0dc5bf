"""Draw the pictures of the README and of docs/benchmarks.md from what the benchmarks have recorded.

    python -m benchmarks.pictures memory benchmarks/results/peak_rss.json benchmarks/results/peak_rss.svg
    python -m benchmarks.pictures rates benchmarks/results/throughput.json benchmarks/results/throughput.svg

`memory` has a line for each strategy over time, `rates` a bar for each, all on the same input.
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from nanogpt_compat.system.units import format_bytes

_LINES = {  # of `memory`: label, color
    "whole": ("whole file at once", "#b0413e"),
    "list": ("chunks into one list", "#d98324"),
    "stream": ("chunk by chunk, inexact", "#7a7a7a"),
    "tiktoken": ("prepare.py, tiktoken", "#1b6ca8"),
    "gigatoken": ("prepare.py, gigatoken", "#1f8a5b"),
}
_OURS, _OTHERS = "#1b6ca8", "#7a7a7a"
_TICKS_BYTES = (50e6, 100e6, 200e6, 500e6, 1e9, 2e9, 5e9)
_N_WORKERS = 2


def draw_memory(results: list[dict[str, Any]], path: Path) -> None:
    """Draw all strategies on the input that the naive ones ran on.

    The title claims the most that prepare.py needed, on the drawn text and on the largest.
    """
    naive = [result["case"] for result in results if result["case"]["strategy"] != "prepare"]
    if not naive:
        sys.exit("the record has no naive strategy to compare with; run peak_rss.py without --only")
    size_bytes, kind = naive[0]["size_bytes"], naive[0]["kind"]
    figure, axes = _begin(height=4.0)
    for case, run in ((result["case"], result["run"]) for result in results):
        if (case["size_bytes"], case["kind"]) != (size_bytes, kind):
            continue
        is_ours = case["strategy"] == "prepare"
        label, color = _LINES[case["engine"] if is_ours else case["strategy"]]
        seconds, resident_bytes = zip(*run["samples"], strict=True)
        width, peak_bytes = 3.0 if is_ours else 1.6, run["peak_rss_bytes"]
        axes.plot(seconds, resident_bytes, color=color, linewidth=width, solid_capstyle="round")
        axes.annotate(
            f"{format_bytes(peak_bytes)}  {label}",
            (1.01, peak_bytes),  # in the right margin, at the height of the peak
            xycoords=axes.get_yaxis_transform(),
            color=color,
            va="center",
            fontweight="bold",
            annotation_clip=False,
        )
    most_bytes = max(
        result["run"]["peak_rss_bytes"]
        for result in results
        if result["case"]["strategy"] == "prepare" and result["case"]["n_workers"] == _N_WORKERS
    )
    bound_bytes = -(-most_bytes // 10_000_000) * 10_000_000
    largest_bytes = max(result["case"]["size_bytes"] for result in results)
    sizes = " and ".join(format_bytes(size) for size in sorted({size_bytes, largest_bytes}))
    _claim(axes, f"prepare.py stays under {format_bytes(bound_bytes)}, on {sizes} of text")
    axes.set_xlabel(
        f"seconds for {format_bytes(size_bytes)} of multilingual text on 2 cores (less is better)"
    )
    axes.set_ylabel("resident memory, log scale (less is better)")
    axes.set_yscale("log")
    axes.set_yticks(_TICKS_BYTES, [format_bytes(tick).replace(".0", "") for tick in _TICKS_BYTES])
    axes.minorticks_off()
    axes.set_ylim(_TICKS_BYTES[0], _TICKS_BYTES[-1] * 1.4)
    axes.set_xlim(left=0)
    axes.grid(axis="y", alpha=0.25)
    _save(figure, path)


def _begin(height: float) -> tuple[Figure, Any]:
    """Return a figure of this height in inches, and its axes."""
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "nanogpt", "font.size": 10})
    figure = Figure(figsize=(8.6, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.25, h_pad=0.1)  # inches: a browser's font may be wider than ours
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _claim(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def draw_rates(part: dict[str, Any], path: Path) -> None:
    """Draw a part: the median rates with their ranges, and the peaks of memory as text."""
    measured = [case for case in part["cases"] if case["wall_s"]]
    if not measured:
        sys.exit("the record has nothing to draw; run throughput.py with --part compare")
    shown = sorted(measured, key=lambda case: float(case["rate_mb_per_s"]))
    figure, axes = _begin(height=3.6)
    for place, case in enumerate(shown):
        rates = [case["size_bytes"] / seconds / 1e6 for seconds in case["wall_s"]]
        color, weight = (_OURS, "bold") if _is_ours(case) else (_OTHERS, "normal")
        axes.barh(place, case["rate_mb_per_s"], color=color, height=0.7)
        axes.plot([min(rates), max(rates)], [place, place], color="black", linewidth=1)
        text = f"  {case['rate_mb_per_s']:.3g} MB/s, {format_bytes(max(case['peak_bytes']))} of memory"
        axes.text(max(rates), place, text, va="center", color=color, fontweight=weight)
    ours = max(float(case["rate_mb_per_s"]) for case in shown if _is_ours(case))
    others = [case for case in shown if not _is_ours(case) and max(case["peak_bytes"]) < 1e9]
    factor = ours / max((case["rate_mb_per_s"] for case in others), default=float("inf"))
    rest = f"{factor:.0f} times as fast as any other that stays below 1 GB" if others else "the fastest"
    _claim(axes, f"prepare.py is {rest}")
    input_bytes, kind, n_cores = shown[0]["size_bytes"], shown[0]["kind"], part["machine"]["n_cores"]
    axes.set_xlabel(
        f"MB/s on {format_bytes(input_bytes)} of {kind.title()} on {n_cores} cores (more is better)"
    )
    axes.set_yticks(range(len(shown)), [case["label"] for case in shown])
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, axes.get_xlim()[1] * 1.6)  # room for the longest text
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    _save(figure, path)


def _is_ours(case: dict[str, Any]) -> bool:
    return str(case["label"]).startswith("prepare.py")


def main(arguments: list[str]) -> int:
    """Draw a picture; the arguments are `memory` or `rates`, and the files of the record and the picture."""
    name, record_path, picture_path = arguments
    record = json.loads(Path(record_path).read_text())
    if name == "memory":
        draw_memory(record["results"], Path(picture_path))
    else:
        draw_rates(record["compare"], Path(picture_path))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
