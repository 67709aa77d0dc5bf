"""Draw speed against memory from a record of throughput.py: a point for each strategy, on the same input.

python -m benchmarks.rate_picture benchmarks/results/throughput.json benchmarks/results/throughput.svg
"""

import json
import sys
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl
from matplotlib.figure import Figure

from nanogpt_compat.system.units import format_bytes

_OURS, _OTHERS = "#1b6ca8", "#7a7a7a"
_PEAK_TICKS = (50e6, 100e6, 200e6, 500e6, 1e9, 2e9, 5e9, 10e9)
_RATE_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_GAP_PT, _CHAR_PT, _LINE_PT, _POINT_PT = 9.0, 5.8, 12.0, 5.0
_PLACES = ((1, 0.0), (1, -0.6), (1, 0.6), (-1, 0.0), (-1, -0.6), (-1, 0.6), (1, -1.2), (1, 1.2), (-1, -1.2))
Box: TypeAlias = tuple[float, float, float, float]  # left, bottom, right, top, in points


def draw(part: dict[str, Any], path: Path) -> None:
    """Draw the part `compare` on its smallest input, on which all strategies ran.

    Raises:
        SystemExit: nothing was measured.
    """
    measured = [case for case in part["cases"] if case["wall_s"]]
    if not measured:
        sys.exit("the record has nothing to draw; run throughput.py with --part compare")
    size_bytes = min(case["size_bytes"] for case in measured)
    shown = [case for case in measured if case["size_bytes"] == size_bytes]
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "nanogpt", "font.size": 10})
    figure = Figure(figsize=(8.4, 4.5), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.1)  # inches: a browser's font may be wider than ours
    axes = figure.add_subplot()
    for case in shown:
        _draw_point(axes, case)
    kind, n_cores = shown[0]["kind"], part["machine"]["n_cores"]
    _dress(axes, _title(shown), f"{format_bytes(size_bytes)} of {kind.title()} on {n_cores} cores")
    figure.draw_without_rendering()  # computes the layout, and so the places of the points
    _write_names(axes, shown)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw_point(axes: Any, case: dict[str, Any]) -> None:
    """Draw the median, and a bar from the slowest to the fastest round."""
    rates = [case["size_bytes"] / seconds / 1e6 for seconds in case["wall_s"]]
    peak_bytes, is_ours = max(case["peak_bytes"]), _is_ours(case)
    color = _OURS if is_ours else _OTHERS
    axes.plot([peak_bytes, peak_bytes], [min(rates), max(rates)], color=color, linewidth=1.5)
    axes.plot(peak_bytes, case["rate_mb_per_s"], "o", color=color, markersize=9 if is_ours else 6)


def _is_ours(case: dict[str, Any]) -> bool:
    return str(case["label"]).startswith("prepare.py")


def _write_names(axes: Any, cases: list[dict[str, Any]]) -> None:
    """Write each name next to its point, without covering another name or point."""
    points = [(max(case["peak_bytes"]), case["rate_mb_per_s"]) for case in cases]
    scale = 72 / axes.figure.dpi
    places = [tuple(scale * axes.transData.transform(point)) for point in points]
    left_end = scale * axes.bbox.x0
    taken: list[Box] = [(x - _POINT_PT, y - _POINT_PT, x + _POINT_PT, y + _POINT_PT) for x, y in places]
    for case, point, place in sorted(zip(cases, points, places, strict=True), key=lambda one: -one[1][1]):
        text = f"{case['label']}: {case['rate_mb_per_s']:.3g} MB/s"
        width = _CHAR_PT * len(text)
        side, n_lines = next(
            (at for at in _PLACES if _is_free(_box(place, width, *at), taken, left_end)), _PLACES[0]
        )
        taken.append(_box(place, width, side, n_lines))
        is_ours = _is_ours(case)
        axes.annotate(
            text,
            point,
            xytext=(side * _GAP_PT, n_lines * _LINE_PT),
            textcoords="offset points",
            color=_OURS if is_ours else _OTHERS,
            ha="left" if side > 0 else "right",
            va="center",
            fontweight="bold" if is_ours else "normal",
        )


def _box(place: tuple[float, float], width: float, side: int, n_lines: float) -> Box:
    """Return the box of a name of this width: right (1) or left (-1) of its point, `n_lines` above it."""
    x, y = place[0] + side * _GAP_PT, place[1] + n_lines * _LINE_PT
    left, right = (x, x + width) if side > 0 else (x - width, x)
    return left, y - _LINE_PT / 2 + 1, right, y + _LINE_PT / 2 - 1


def _is_free(box: Box, taken: list[Box], left_end: float) -> bool:
    return box[0] > left_end and not any(_overlap(box, other) for other in taken)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _title(shown: list[dict[str, Any]]) -> str:
    """Return the claim: our fastest against the fastest other that also takes less than 1 GB."""
    ours = max((case for case in shown if _is_ours(case)), key=lambda case: float(case["rate_mb_per_s"]))
    modest = [case for case in shown if not _is_ours(case) and max(case["peak_bytes"]) < 1e9]
    if not modest:
        return "prepare.py is the fastest"
    factor = ours["rate_mb_per_s"] / max(case["rate_mb_per_s"] for case in modest)
    return f"prepare.py is {factor:.0f} times as fast as any other that stays below 1 GB"


def _dress(axes: Any, title: str, conditions: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    axes.set_xlabel(f"peak memory of all processes for {conditions}, log scale (less is better)")
    axes.set_ylabel("MB/s, log scale (more is better)")
    axes.set_xscale("log")
    axes.set_yscale("log")
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    axes.set_xticks(_PEAK_TICKS, [format_bytes(tick).replace(".0 ", " ") for tick in _PEAK_TICKS])
    axes.set_yticks(_RATE_TICKS, [str(tick) for tick in _RATE_TICKS])
    axes.minorticks_off()
    axes.set_xlim(left / 1.1, right * 5)  # room for the last name
    axes.set_ylim(bottom / 1.5, top * 1.3)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def main(arguments: list[str]) -> int:
    """Draw a picture; the arguments are the paths of the record and of the picture."""
    record_path, picture_path = map(Path, arguments)
    draw(json.loads(record_path.read_text())["compare"], picture_path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
