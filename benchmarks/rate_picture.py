"""Draw speed against memory from a record of throughput.py: a point for each strategy, on the same input.

python -m benchmarks.rate_picture benchmarks/results/throughput.json benchmarks/results/throughput.svg
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from nanogpt_compat.units import format_bytes

_OURS, _OTHERS = "#1b6ca8", "#7a7a7a"
_PEAK_TICKS = (100e6, 200e6, 500e6, 1e9, 2e9, 5e9)
_RATE_TICKS = (5, 10, 20, 50, 100, 200, 500)


def draw(part: dict[str, Any], path: Path) -> None:
    """Draw the part `compare`: what was measured on its smallest input, which all strategies can take.

    Raises:
        SystemExit: nothing was measured.
    """
    measured = [case for case in part["cases"] if case["wall_s"]]
    if not measured:
        sys.exit("the record has nothing to draw; run throughput.py with --part compare")
    size_bytes = min(case["size_bytes"] for case in measured)
    shown = [case for case in measured if case["size_bytes"] == size_bytes]
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "nanogpt", "font.size": 10})
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for case in shown:
        _draw_point(axes, case)
    _dress(axes, size_bytes, part["machine"]["n_cores"])
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw_point(axes: Any, case: dict[str, Any]) -> None:
    """Draw the median, a bar from the slowest to the fastest round, and the strategy's name beside it."""
    rates = [case["size_bytes"] / seconds / 1e6 for seconds in case["wall_s"]]
    rate, peak_bytes = case["rate_mb_per_s"], max(case["peak_bytes"])
    is_ours = case["label"].startswith("prepare.py")
    color = _OURS if is_ours else _OTHERS
    axes.plot([peak_bytes, peak_bytes], [min(rates), max(rates)], color=color, linewidth=1.5)
    axes.plot(peak_bytes, rate, "o", color=color, markersize=9 if is_ours else 6)
    axes.annotate(
        f"{case['label']}: {rate:.0f} MB/s",
        (peak_bytes, rate),
        xytext=(9, 0),
        textcoords="offset points",
        color=color,
        va="center",
        fontweight="bold" if is_ours else "normal",
    )


def _dress(axes: Any, size_bytes: int, n_cores: int) -> None:
    axes.set_title("Text per second, and the memory it takes", loc="left", fontsize=12, fontweight="bold")
    axes.set_xlabel("peak memory of all processes, log scale: less is better")
    axes.set_ylabel(f"MB/s, {format_bytes(size_bytes)} of text, {n_cores} cores, log scale")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(_PEAK_TICKS, [format_bytes(tick).replace(".0 ", " ") for tick in _PEAK_TICKS])
    axes.set_yticks(_RATE_TICKS, [str(tick) for tick in _RATE_TICKS])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * 4)  # room for the last name


def main(arguments: list[str]) -> int:
    """Read the record named first and draw the picture named second."""
    record_path, picture_path = map(Path, arguments)
    draw(json.loads(record_path.read_text())["compare"], picture_path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
