"""What checkpoints cost: the same run with them and without, in turn, each in a fresh process.

    python -m benchmarks.checkpoint_cost INPUT [--repeat 3] [--check]

Without them means that none falls due before the end; the journal, the checksums and the last sync remain.
`--check` exits 1 if the median of CPU time is over 2 % higher with them.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import measure

ROOT = Path(__file__).resolve().parents[1]
MAX_COST = 0.02
_NEVER = "import nanogpt_compat.checkpoint as c; c.EVERY_OUTPUT_BYTES = 1 << 60; c.EVERY_S = 1e9; "
_MAIN = "import sys; from nanogpt_compat.cli import main; sys.exit(main(sys.argv[1:]))"
_VARIANTS = {"with": _MAIN, "without": _NEVER + _MAIN}


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    cpu_s: dict[str, list[float]] = {name: [] for name in _VARIANTS}
    wall_s: dict[str, list[float]] = {name: [] for name in _VARIANTS}
    for _ in range(options.repeat):
        for name, program in _VARIANTS.items():
            with tempfile.TemporaryDirectory(dir=options.input.parent) as folder:
                command = [sys.executable, "-c", program, "--input", str(options.input.resolve())]
                run = measure([*command, "--output-dir", folder, "--quiet"], cwd=ROOT)
            if run.exit_code:
                sys.stderr.write(run.stderr)
                return 1
            cpu_s[name].append(run.cpu_s)
            wall_s[name].append(run.wall_s)
    for name in _VARIANTS:
        cpu, wall = statistics.median(cpu_s[name]), statistics.median(wall_s[name])
        print(f"{name:8} checkpoints: {cpu:6.2f} s CPU, {wall:6.2f} s wall (medians of {options.repeat})")
    costs = [
        statistics.median(seconds["with"]) / statistics.median(seconds["without"]) - 1
        for seconds in (cpu_s, wall_s)
    ]
    print(f"cost: {costs[0]:+.1%} of CPU time, {costs[1]:+.1%} of wall time")
    return int(options.check and costs[0] > MAX_COST)


if __name__ == "__main__":
    sys.exit(main())
