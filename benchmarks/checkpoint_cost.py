"""Measure what checkpoints cost, from inside runs with and without them, in turn, each in a fresh process.

    python -m benchmarks.checkpoint_cost INPUT [--repeat 3] [--check]

"Without" means that no checkpoint falls due before the end; the journal, the checksums and the last sync
remain. The times of whole runs vary by ten percent, so the cost is measured where it arises. It has two
parts: the time that the writing thread spends to begin a checkpoint or to wait for the one before, and the
CPU time of the threads that sync and journal, in both cases minus that of a run without checkpoints.
`--check` exits with 1 if both together are over 2 % of the run.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks import new_parser
from benchmarks.measure import measure

MAX_COST = 0.02
_NEVER = "import nanogpt_compat.resume.checkpoint as c; c.EVERY_OUTPUT_BYTES = 1 << 60; c.EVERY_S = 1e9\n"
_COUNTED = """
import functools, json, sys, time
from nanogpt_compat.resume.checkpoint import Checkpointer
from nanogpt_compat.output.token_file import GrowingMemmap
seconds = {"n": 0, "blocked_s": 0.0, "background_s": 0.0}
def count(cls, name, key, clock):
    call = getattr(cls, name)
    @functools.wraps(call)
    def counted(*args):
        start_s = clock()
        try:
            return call(*args)
        finally:
            seconds[key] += clock() - start_s
            seconds["n"] += name == "_write"
    setattr(cls, name, counted)
count(Checkpointer, "after_block", "blocked_s", time.monotonic)
count(Checkpointer, "_write", "background_s", time.thread_time)
count(GrowingMemmap, "_write_back", "background_s", time.thread_time)
from nanogpt_compat.cli import main
code = main(sys.argv[1:])
print(json.dumps(seconds), file=sys.stderr)
sys.exit(code)
"""
_VARIANTS = {"with": _COUNTED, "without": _NEVER + _COUNTED}


def main() -> int:
    """Measure, print, and return 1 if checkpoints cost too much."""
    parser = new_parser("checkpoint_cost", __doc__)
    parser.add_argument("input", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in _VARIANTS}
    for _ in range(options.repeat):
        for name, program in _VARIANTS.items():
            with tempfile.TemporaryDirectory(dir=options.input.parent) as folder:
                command = [sys.executable, "-c", program, "--input", str(options.input.resolve())]
                run = measure([*command, "--output-dir", folder, "--quiet"])
            if run.exit_code:
                raise SystemExit(run.stderr)
            counts = json.loads(run.stderr.splitlines()[-1])
            runs[name].append({**counts, "cpu_s": run.cpu_s, "wall_s": run.wall_s})
    medians: dict[str, dict[str, float]] = {}
    for name, found in runs.items():
        row = medians[name] = {key: statistics.median(one[key] for one in found) for key in found[0]}
        print(f"{name:7} {row['n']:3.0f} checkpoints", end=": ")
        print(f"{row['cpu_s']:6.2f} s CPU, {row['wall_s']:6.2f} s wall", end="; ")
        print(f"writing held up {row['blocked_s']:.3f} s, {row['background_s']:.3f} s CPU in the background")
    row, base = medians["with"], medians["without"]
    held_up = (row["blocked_s"] - base["blocked_s"]) / row["wall_s"]
    cost = (row["background_s"] - base["background_s"]) / row["cpu_s"]
    print(f"cost: {held_up:.2%} of wall time, and {cost:.2%} of CPU time (medians of {options.repeat})")
    return int(options.check and held_up + cost > MAX_COST)


if __name__ == "__main__":
    sys.exit(main())
