"""What a run says of itself: `prepare.json`, and the lines before and after. ASCII only."""

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nanogpt_compat import __version__
from nanogpt_compat.errors import OutputError
from nanogpt_compat.estimate import Estimate
from nanogpt_compat.files import write_atomically
from nanogpt_compat.tally import Tally
from nanogpt_compat.units import format_bytes, format_count, format_duration, format_rate

REPORT_NAME = "prepare.json"
_PACKAGES = ("numpy", "psutil", "tiktoken", "tqdm")


def rss_bytes() -> int:
    """Read how much memory this process has now, file-backed pages included; or the peak."""
    return _status_bytes("VmRSS:") or peak_rss_bytes()


def peak_rss_bytes() -> int:
    """Read the most memory this process has had, file-backed pages included; 0 where it is not known."""
    peak = _status_bytes("VmHWM:")  # ru_maxrss would count what the parent had when it forked
    if peak:
        return peak
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status_bytes(field: str) -> int:
    """Read one figure of /proc/self/status; 0 where there is none."""
    try:
        with Path("/proc/self/status").open(encoding="ascii", errors="replace") as status:
            return next((int(line.split()[1]) * 1024 for line in status if line.startswith(field)), 0)
    except OSError:
        return 0


def versions() -> dict[str, str]:
    """Name the versions of everything that has a part in the result."""
    found = {"nanogpt_compat": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def build_report(
    *,
    tally: Tally,
    tokens: Mapping[str, int],
    paths: Sequence[Path],
    sizes: Sequence[int],
    engine: str,
    val_split: Mapping[str, object],
    options: Mapping[str, object],
    wall_s: float,
) -> dict[str, object]:
    """Build the content of `prepare.json`; its fields are those of the design."""
    inputs = [
        {
            "path": str(path),
            "format": "text",
            "bytes": size,
            "tokens": one.tokens,
            "invalid_bytes": one.invalid_bytes,
        }
        for path, size, one in zip(paths, sizes, tally.inputs, strict=True)
    ]
    return {
        "tokens": dict(tokens),
        "inputs": inputs,
        "bytes_read": tally.bytes_read,
        "bytes_total": sum(sizes),
        "text_bytes": tally.bytes_read,
        "invalid_bytes": tally.invalid_bytes,
        "invalid_offsets": [[str(paths[index]), offset] for index, offset in tally.invalid_offsets],
        "forced_cuts": tally.forced_cuts,
        "engine": engine,
        "val_split": dict(val_split),
        "peak_rss_bytes": peak_rss_bytes(),
        "wall_s": round(wall_s, 3),
        "options": dict(options),
        "versions": versions(),
        "files": [
            {"name": f"{split}.bin", "tokens": n_tokens, "bytes": 2 * n_tokens}
            for split, n_tokens in tokens.items()
        ],
    }


def write_report(folder: Path, report: Mapping[str, object]) -> None:
    """Write `prepare.json` into the output folder; durable when this returns.

    Raises:
        OutputError: the disk is full or failing.
    """
    path = folder / REPORT_NAME
    try:
        write_atomically(path, (json.dumps(report, indent=2) + "\n").encode("ascii"))
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; the token files are complete") from error


def name_inputs(paths: Sequence[Path]) -> str:
    """Name one input, or the first of several."""
    return paths[0].name if len(paths) == 1 else f"{paths[0].name} and {len(paths) - 1} more"


def start_line(paths: Sequence[Path], forecast: Estimate, *, free_bytes: int, n_workers: int) -> str:
    """Say what the run is about to do."""
    threads = "1 thread" if n_workers == 1 else f"{n_workers} threads"
    return (
        f"{name_inputs(paths)} {format_bytes(forecast.text_bytes)} -> about {format_count(forecast.tokens)} "
        f"tokens, {format_bytes(forecast.output_bytes)} ({format_bytes(free_bytes)} free); {threads}; "
        f"about {format_duration(forecast.seconds)}"
    )


def describe_val(split: str, windows: Sequence[tuple[int, int]]) -> str:
    """Say where the validation tokens come from."""
    n_bytes = sum(end - start for start, end in windows)
    if split in ("head", "tail"):
        return f"the {'first' if split == 'head' else 'last'} {format_bytes(n_bytes)}"
    return "1 window in the middle" if len(windows) == 1 else f"{len(windows)} windows spread over the file"


def end_lines(
    tally: Tally, paths: Sequence[Path], tokens: Mapping[str, int], *, val: str, wall_s: float
) -> list[str]:
    """Say what was made, how fast, and everything that was lost on the way."""
    where = {"train": "", "val": f": {val}"}
    lines = [
        f"{split}.bin: {n_tokens:,} tokens, {format_bytes(2 * n_tokens)}{where[split]}"
        for split, n_tokens in tokens.items()
    ]
    lines.append(
        f"{format_bytes(tally.bytes_read)} in {format_duration(wall_s)}: "
        f"{format_rate(tally.bytes_read, wall_s)}, peak memory {format_bytes(peak_rss_bytes())}"
    )
    return lines + loss_lines(tally, paths)


def loss_lines(tally: Tally, paths: Sequence[Path]) -> list[str]:
    """Say what is not in the output as it was in the input."""
    lines = []
    if tally.invalid_bytes:
        index, offset = tally.invalid_offsets[0]
        lines.append(
            f"{tally.invalid_bytes:,} bytes were not UTF-8, "
            f"the first of them byte {offset:,} of {paths[index]}"
        )
    if tally.forced_cuts:
        lines.append(
            f"{tally.forced_cuts:,} cuts by force in stretches of over 512 KiB without a break; "
            "tokens may differ just around them"
        )
    return lines
