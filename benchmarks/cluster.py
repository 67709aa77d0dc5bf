"""What spans cost: two processes of this machine beside a run with two threads; and a plan of 100,000 spans.

    python -m benchmarks.cluster INPUT [--spans 8] [--repeat 3] [--check]
    python -m benchmarks.cluster --short --check          for CI: built-in text, half a minute

Rates are those of the work itself, without starting Python: for processes from the first span's beginning to
the last one's sidecar. The merge, which they have on top, stands beside them. The two take turns, and the
medians are compared. `--check` exits 1 if processes are slower than 0.9 of threads, or planning takes more
than 5 s or 200 MB; with `--short`, where spans of 15 MB are mostly beginnings, than 0.6 of threads.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.inputs import ROOT, make_input
from benchmarks.measure import Measurement, measure

MIN_SHARE = 0.9
MIN_SHORT_SHARE = 0.6
MAX_PLAN_S = 5.0
MAX_PLAN_BYTES = 200_000_000
_N_PLANNED = 100_000
_SHORT_BYTES = 120_000_000


def _run(*args: str | Path) -> Measurement:
    command = [sys.executable, str(ROOT / "prepare.py"), *map(str, args), "--quiet"]
    run = measure(command, cwd=ROOT, with_children=False)
    if run.exit_code:
        raise SystemExit(run.stderr)
    return run


def measure_threads(source: Path, folder: Path) -> float:
    """Seconds that one run takes, with two threads."""
    out = folder / "threads"
    _run("--input", source, "--output-dir", out, "--workers", "2", "--restart", "--overwrite")
    return float(json.loads((out / "prepare.json").read_text())["wall_s"])


def measure_processes(source: Path, folder: Path, n_spans: int) -> tuple[float, float]:
    """Seconds that two processes take for all spans, and those of the merge."""
    out, work = folder / "processes", folder / "work"
    shared: Sequence[str | Path] = ("--input", source, "--output-dir", out, "--work-dir", work)
    span_bytes = -(-source.stat().st_size // n_spans)
    _run(*shared, "--cluster", "local", "--workers", "2", "--span-size", str(span_bytes), "--restart")
    ends = {path: path.stat().st_mtime for path in work.glob("parts-*/*.json")}
    assert len(ends) == n_spans
    starts = [end - json.loads(path.read_text())["tally"]["wall_s"] for path, end in ends.items()]
    shutil.rmtree(out, ignore_errors=True)  # or it would be found to be complete
    merge = _run(*shared, "--merge")
    return max(ends.values()) - min(starts), merge.wall_s


def measure_plan(source: Path, folder: Path) -> Measurement:
    """Plan so many spans, and do none."""
    work, nobody = folder / "planned", ("--rank", str(_N_PLANNED), "--world-size", str(_N_PLANNED + 1))
    span_bytes = max(1, source.stat().st_size // _N_PLANNED)
    return _run("--input", source, "--work-dir", work, "--span-size", str(span_bytes), *nobody)


def main() -> int:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(description="Measure what spans cost.")
    parser.add_argument("input", type=Path, nargs="?")
    parser.add_argument("--spans", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if (options.input is None) != options.short:
        parser.error("give an input, or --short")
    threads, processes, merges = [], [], []
    with tempfile.TemporaryDirectory(dir=options.input and options.input.resolve().parent) as name:
        folder = Path(name)
        source = options.input or make_input("prose", _SHORT_BYTES, corpus_dir=folder, text="builtin")
        source = source.resolve()
        n_bytes = source.stat().st_size
        for _ in range(options.repeat):
            threads.append(measure_threads(source, folder))
            seconds, merge_s = measure_processes(source, folder, options.spans)
            processes.append(seconds)
            merges.append(merge_s)
            print(
                f"threads {threads[-1]:.2f} s, processes {seconds:.2f} s, merge {merge_s:.2f} s", flush=True
            )
        planned = measure_plan(source, folder)
    share = statistics.median(threads) / statistics.median(processes)
    at_least = MIN_SHORT_SHARE if options.short else MIN_SHARE
    for what, found in (("2 threads", threads), ("2 processes", processes), ("merge", merges)):
        print(f"{what}: {n_bytes / statistics.median(found) / 1e6:.1f} MB/s of text")
    print(f"processes at {share:.2f} of threads, {options.spans} spans (at least {at_least})")
    print(
        f"{_N_PLANNED:,} spans planned in {planned.wall_s:.1f} s with {planned.peak_rss_bytes / 1e6:.0f} MB "
        f"(at most {MAX_PLAN_S:.0f} s, {MAX_PLAN_BYTES / 1e6:.0f} MB), start of the program included"
    )
    is_good = share >= at_least and planned.wall_s <= MAX_PLAN_S and planned.peak_rss_bytes <= MAX_PLAN_BYTES
    return 1 if options.check and not is_good else 0


if __name__ == "__main__":
    sys.exit(main())
