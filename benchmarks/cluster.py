"""Measure what spans cost: two processes against a run with two threads, and a plan of 100,000 spans.

    python -m benchmarks.cluster INPUT [--spans 8] [--repeat 3] [--check]
    python -m benchmarks.cluster --short --check          for CI: built-in text, half a minute

Rates are those of the work itself, without the start of Python: for processes, from the beginning of the
first span to the sidecar of the last one. The time of the merge is printed separately. Threads and processes
run in turn, and their medians are compared. `--check` exits with 1 if processes reach less than 0.9 of the
rate of threads, or if planning takes more than 5 s or 200 MB. With `--short` 0.6 is enough, because spans of
15 MB spend most of their time starting.
"""

import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks import ROOT, new_parser
from benchmarks.measure import Measurement, make_input, measure

MIN_SHARE = 0.9
MIN_SHORT_SHARE = 0.6
MAX_PLAN_S = 5.0
MAX_PLAN_BYTES = 200_000_000
_N_PLANNED = 100_000
_SHORT_BYTES = 120_000_000


def _run(*args: object) -> Measurement:
    command = [sys.executable, str(ROOT / "prepare.py"), *map(str, args), "--quiet"]
    run = measure(command, with_children=False)
    if run.exit_code:
        raise SystemExit(run.stderr)
    return run


def _measure_processes(source: Path, folder: Path, n_spans: int) -> tuple[float, float]:
    """Return the seconds that two processes take for all spans, and the seconds of the merge."""
    out, work = folder / "processes", folder / "work"
    shared = ("--input", source, "--output-dir", out, "--work-dir", work)
    span_bytes = -(-source.stat().st_size // n_spans)
    _run(*shared, "--cluster", "local", "--workers", 2, "--span-size", span_bytes, "--restart")
    ends = {path: path.stat().st_mtime for path in work.glob("parts-*/*.json")}
    assert len(ends) == n_spans
    starts = [end - json.loads(path.read_text())["tally"]["wall_s"] for path, end in ends.items()]
    shutil.rmtree(out, ignore_errors=True)  # otherwise the output is already complete
    merge = _run(*shared, "--merge")
    return max(ends.values()) - min(starts), merge.wall_s


def main() -> int:
    """Measure, print, and return 1 if a bound is broken."""
    parser = new_parser("cluster", __doc__)
    parser.add_argument("input", type=Path, nargs="?")
    parser.add_argument("--spans", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if (options.input is None) != options.short:
        parser.error("give an input, or --short")
    rounds: list[tuple[float, float, float]] = []
    with tempfile.TemporaryDirectory(dir=options.input and options.input.resolve().parent) as name:
        folder = Path(name)
        source = options.input or make_input("prose", _SHORT_BYTES, corpus_dir=folder, text="builtin")
        source = source.resolve()
        n_bytes = source.stat().st_size
        for _ in range(options.repeat):
            out = folder / "threads"
            _run("--input", source, "--output-dir", out, "--workers", 2, "--restart", "--overwrite")
            threads_s = float(json.loads((out / "prepare.json").read_text())["wall_s"])
            rounds.append((threads_s, *_measure_processes(source, folder, options.spans)))
            print("threads {:.2f} s, processes {:.2f} s, merge {:.2f} s".format(*rounds[-1]), flush=True)
        # As a rank that has none of the spans to encode.
        rank = ("--rank", _N_PLANNED, "--world-size", _N_PLANNED + 1, "--work-dir", folder / "planned")
        planned = _run("--input", source, "--span-size", max(1, n_bytes // _N_PLANNED), *rank)
    threads_s, processes_s, merge_s = map(statistics.median, zip(*rounds, strict=True))
    share, at_least = threads_s / processes_s, MIN_SHORT_SHARE if options.short else MIN_SHARE
    for what, seconds in (("2 threads", threads_s), ("2 processes", processes_s), ("merge", merge_s)):
        print(f"{what}: {n_bytes / seconds / 1e6:.1f} MB/s of text")
    print(f"processes at {share:.2f} of threads, {options.spans} spans (at least {at_least})")
    print(
        f"{_N_PLANNED:,} spans planned in {planned.wall_s:.1f} s with {planned.peak_rss_bytes / 1e6:.0f} MB "
        f"(at most {MAX_PLAN_S:.0f} s, {MAX_PLAN_BYTES / 1e6:.0f} MB), start of the program included"
    )
    is_good = share >= at_least and planned.wall_s <= MAX_PLAN_S and planned.peak_rss_bytes <= MAX_PLAN_BYTES
    return 1 if options.check and not is_good else 0


if __name__ == "__main__":
    sys.exit(main())
