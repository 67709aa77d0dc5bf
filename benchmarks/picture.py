"""Draw memory over time from a record of peak_rss.py: one line for each strategy, on the same input.

python -m benchmarks.picture benchmarks/results/peak_rss.json benchmarks/results/peak_rss.svg
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from nanogpt_compat.system.units import format_bytes

_LABELS = {
    "whole": "whole file at once",
    "list": "chunks into one list",
    "stream": "chunk by chunk, inexact",
    "tiktoken": "prepare.py, tiktoken",
    "gigatoken": "prepare.py, gigatoken",
}
_COLORS = {
    "whole": "#b0413e",
    "list": "#d98324",
    "stream": "#7a7a7a",
    "tiktoken": "#1b6ca8",
    "gigatoken": "#1f8a5b",
}
_TICKS_BYTES = (50e6, 100e6, 200e6, 500e6, 1e9, 2e9, 5e9)
_N_WORKERS = 2


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw all strategies on the input that the naive ones ran on.

    Raises:
        SystemExit: no naive strategy is in the record.
    """
    results = record["results"]
    naive = [result for result in results if result["case"]["strategy"] != "prepare"]
    if not naive:
        sys.exit(
            "the record has no naive strategy to draw; run peak_rss.py without --only, or with --only prose"
        )
    size_bytes, kind = naive[0]["case"]["size_bytes"], naive[0]["case"]["kind"]
    shown = [
        result
        for result in results
        if (result["case"]["size_bytes"], result["case"]["kind"]) == (size_bytes, kind)
    ]
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "nanogpt", "font.size": 10})
    figure = Figure(figsize=(8.6, 4), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.25, h_pad=0.1)  # inches: a browser's font may be wider than ours
    axes = figure.add_subplot()
    for result in shown:
        _draw_line(axes, result)
    _dress(axes, _title(results, size_bytes), size_bytes)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw_line(axes: Any, result: dict[str, Any]) -> None:
    """Draw one run, and write its peak and strategy into the right margin at the height of the peak."""
    case, run = result["case"], result["run"]
    is_ours = case["strategy"] == "prepare"
    name = case["engine"] if is_ours else case["strategy"]
    seconds, resident_bytes = zip(*run["samples"], strict=True)
    color, peak_bytes = _COLORS[name], run["peak_rss_bytes"]
    width = 3.0 if is_ours else 1.6
    axes.plot(seconds, resident_bytes, color=color, linewidth=width, solid_capstyle="round")
    axes.annotate(
        f"{format_bytes(peak_bytes)}  {_LABELS[name]}",
        (1.01, peak_bytes),
        xycoords=axes.get_yaxis_transform(),
        color=color,
        va="center",
        fontweight="bold",
        annotation_clip=False,
    )


def _title(results: list[dict[str, Any]], size_bytes: int) -> str:
    """Return the claim: the most that prepare.py needed, on the drawn text and on the largest."""
    ours = [
        result["run"]["peak_rss_bytes"]
        for result in sorted(results, key=lambda result: result["case"]["size_bytes"])
        if result["case"]["strategy"] == "prepare" and result["case"]["n_workers"] == _N_WORKERS
    ]
    largest_bytes = max(result["case"]["size_bytes"] for result in results)
    sizes = " and ".join(format_bytes(size) for size in sorted({size_bytes, largest_bytes}))
    return f"prepare.py stays under {format_bytes(_round_up(max(ours)))}, on {sizes} of text"


def _round_up(n_bytes: int) -> int:
    """Round up to 10 MB."""
    return -(-n_bytes // 10_000_000) * 10_000_000


def _dress(axes: Any, title: str, size_bytes: int) -> None:
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    axes.set_xlabel(
        f"seconds for {format_bytes(size_bytes)} of multilingual text on 2 cores (less is better)"
    )
    axes.set_ylabel("resident memory, log scale (less is better)")
    axes.set_yscale("log")
    axes.set_yticks(_TICKS_BYTES, [f"{format_bytes(tick).replace('.0', '')}" for tick in _TICKS_BYTES])
    axes.minorticks_off()
    axes.set_ylim(_TICKS_BYTES[0], _TICKS_BYTES[-1] * 1.4)
    axes.set_xlim(left=0)
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def main(arguments: list[str]) -> int:
    """Draw a picture; the arguments are the paths of the record and of the picture."""
    record_path, picture_path = map(Path, arguments)
    draw(json.loads(record_path.read_text()), picture_path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
