"""Run a fixed set of commands on a checkout and record the results, to compare two checkouts.

    python -m benchmarks.safety_net record TREE before.json      some 70 runs of TREE/prepare.py, five minutes
    python -m benchmarks.safety_net compare before.json after.json

The record has each run's exit code, the SHA-256 of every token file, and prepare.json without times, memory,
versions and fingerprints. It also has everything that was printed, which is compared only with --messages.
Runs that are to be killed at a checkpoint are started by the checkout's own tests/driver.py.
"""

import bz2
import gzip
import hashlib
import json
import lzma
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from benchmarks import new_parser
from tests.texts import real_text

TIMEOUT_S = 300.0
KILL = json.dumps({"at": "fdatasync journal", "skip": 2, "do": "SIGKILL", "every_bytes": 100_000})
# Fields of prepare.json that differ between two runs of the same checkout.
PASSING = {
    *("wall_s", "guard", "peak_rss_bytes", "peak_own_bytes", "versions", "fingerprint", "cluster", "span_s"),
    *("engine_checked_slices", "engine_fallback_blocks", "mtime_ctime_inode", "vocabulary", "n_workers"),
}
TEXT = "--input {in}/prose.txt"
SEPARATED = "--input {in}/prose.txt --document-separator \\n\\n"
JSONL = "--input {in}/a.jsonl"
PARQUET = "--input {in}/a.parquet"
INPUTS = {"text": TEXT, "separated": SEPARATED, "jsonl": JSONL, "parquet": PARQUET}
RUN_ON_EACH = {
    "tiktoken": "--engine tiktoken",
    "gigatoken": "--engine gigatoken",
    **{f"--format {form}": f"--format {form} --shard-tokens 50K" for form in ("npy", "llmc", "bin")},
    "cluster": "--cluster local --workers 2 --span-size 300K --work-dir work --merge",
}
RUN_ONCE = (
    *(f"{TEXT} --val-split {one} --val-ratio 0.1" for one in ("spread", "head", "tail")),
    *(f"--input {{in}}/invalid.txt --errors {one}" for one in ("ignore", "replace", "strict")),
    *(f"{SEPARATED} --eot {one}" for one in ("append", "prepend", "none")),
    *(f"--input - < {{in}}/{name}" for name in ("prose.txt", "prose.txt.gz", "a.jsonl")),
    "--input - --document-separator \\n\\n < {in}/prose.txt",
    f"{TEXT} --val-split none",
    # These are refused.
    *("--input {in}/none.txt", "--input {in}/empty.txt", "--input {in}/bad.jsonl", "--val-ratio 2"),
    *("--input {in}/utf16.txt", "--input {in}/prose.txt.xz", "--input {in}/prose.txt.bz2"),
    *(f"{JSONL} --text-field nope", f"{TEXT} --eot append", f"{TEXT} --format llmc --val-ratio 0.1"),
    *(f"{TEXT} --max-memory 20M", f"{TEXT} --vocab-dir {{in}}", f"{TEXT} --no-such-option"),
    *(f"{TEXT} --verify", f"{TEXT} --merge --work-dir work", f"{TEXT} --dry-run"),
)
RUN_VERIFY_RUN = (
    "--input {in}/folder {in}/prose.txt {in}/invalid.txt",
    "--input {in}/folder/part*.txt",
    "--input {in}/prose.txt {in}/a.jsonl {in}/a.parquet --document-separator \\n\\n",
    *(f"--input {{in}}/{name}" for name in ("prose.txt.gz", "prose.txt.zst", "a.jsonl.gz", "small.txt")),
    *("--input {in}/crlf.txt", "--input {in}/unbroken.txt", "--input {in}/long.txt --n 1"),
    "--input {in}/content.jsonl --text-field content",
    "--input {in}/bad.jsonl --skip-bad-records",
)
KILL_AND_RESUME = (
    *INPUTS.values(),
    "--input {in}/prose.txt.gz",
    f"{JSONL} --format npy --shard-tokens 50K",
)
RANK = f"{TEXT} --work-dir work --span-size 300K --world-size 2 --rank"


def cases() -> dict[str, list[str]]:
    """Return the commands of each case, which run one after another in a folder of their own.

    One that begins with `killed` is killed at a checkpoint; `< FILE` at the end is its standard input.
    """
    return {
        **{
            f"{name}, {more}": [f"{INPUTS[name]} {RUN_ON_EACH[more]}"]
            for more in RUN_ON_EACH
            for name in INPUTS
        },
        **{f"once: {args}": [args] for args in RUN_ONCE},
        **{f"verified: {args}": [args, f"{args} --verify", args] for args in RUN_VERIFY_RUN},
        **{
            f"resumed: {args}": [f"killed {args} --block-size 50K", f"{args} --block-size 20K"]
            for args in KILL_AND_RESUME
        },
        "ranks": [f"{RANK} 0", f"{RANK} 1", f"{TEXT} --merge --work-dir work"],
        "not replaced": [TEXT, f"{TEXT} --val-ratio 0.2", f"{TEXT} --val-ratio 0.2 --overwrite"],
        "other options": [f"killed {TEXT}", f"{TEXT} --val-ratio 0.2", f"{TEXT} --restart"],
    }


def write_inputs(folder: Path) -> None:
    """Write the inputs, the same at every call."""
    prose = real_text()[:1_200_000].replace(b"\r", b"")
    rng = random.Random(0)
    invalid = bytearray(prose[:400_000])
    for place in rng.sample(range(len(invalid)), 50):
        invalid[place] = 0xFF
    documents = prose.decode("utf-8", "ignore").split("\n\n")
    lines = "".join(json.dumps({"id": k, "text": one}) + "\n" for k, one in enumerate(documents)).encode()
    contents = {
        "prose.txt": prose,
        "small.txt": prose[:2_000],
        "invalid.txt": bytes(invalid),
        "crlf.txt": prose[:400_000].replace(b"\n", b"\r\n"),
        "unbroken.txt": prose[:100_000] + b"x" * 1_300_000 + prose[:1_000],
        "long.txt": prose * 9,
        "empty.txt": b"",
        "utf16.txt": prose[:50_000].decode("utf-8", "ignore").encode("utf-16"),
        "prose.txt.gz": gzip.compress(prose, mtime=0),
        "prose.txt.bz2": bz2.compress(prose),
        "prose.txt.xz": lzma.compress(prose),
        "a.jsonl": lines,
        "a.jsonl.gz": gzip.compress(lines, mtime=0),
        "content.jsonl": lines.replace(b'"text":', b'"content":'),
        "bad.jsonl": lines[: len(lines) // 2].rpartition(b"\n")[0] + b"\n{bad\n" + b'{"text": "good"}\n',
        "folder/part2.txt": prose[:100_000],
        "folder/part10.txt": prose[100_000:200_000],
    }
    (folder / "folder").mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    table = pyarrow.table({"text": documents})
    pyarrow.parquet.write_table(table, folder / "a.parquet", row_group_size=1000)
    subprocess.run(["zstd", "-q", str(folder / "prose.txt"), "-o", str(folder / "prose.txt.zst")], check=True)


def run_case(tree: Path, commands: Sequence[str], inputs: Path, folder: Path) -> dict[str, Any]:
    """Run the commands of a case in `folder`; return their results."""
    found: dict[str, Any] = {"exit codes": [], "printed": []}
    for command in commands:
        args, _, given = command.format_map({"in": inputs}).partition(" < ")
        words = [str(tree / "prepare.py"), *args.split()]
        if words[1] == "killed":
            words = [str(tree / "tests" / "driver.py"), KILL, *words[2:]]
        with Path(given or os.devnull).open("rb") as stdin:
            done = subprocess.run(
                [sys.executable, *words, "--output-dir", "out"],
                cwd=folder,
                stdin=stdin,
                capture_output=True,
                timeout=TIMEOUT_S,
                check=False,
                env=os.environ | {"PYTHONPATH": str(tree)},
            )
        found["exit codes"].append(done.returncode)
        found["printed"].append((done.stdout + done.stderr).decode(errors="replace"))
    out = folder / "out"
    for path in sorted(out.glob("**/*")):
        if path.is_file() and path.suffix in (".bin", ".npy") and ".prepare" not in path.parts:
            found[str(path.relative_to(out))] = hashlib.sha256(path.read_bytes()).hexdigest()
    if (out / "prepare.json").exists():
        text = (out / "prepare.json").read_text().replace(str(inputs), "IN").replace(str(folder), "HERE")
        report = json.loads(
            text, object_pairs_hook=lambda pairs: {k: v for k, v in pairs if k not in PASSING}
        )
        found |= {f"report {key}": value for key, value in report.items()}
    return found


def record(tree: Path, only: str) -> dict[str, Any]:
    """Run all cases whose names contain `only`."""
    found = {}
    with tempfile.TemporaryDirectory() as root:
        inputs = Path(root) / "inputs"
        write_inputs(inputs)
        for name, commands in cases().items():
            if only in name:
                folder = Path(tempfile.mkdtemp(dir=root))
                found[name] = run_case(tree, commands, inputs, folder)
                print(name, found[name]["exit codes"], file=sys.stderr, flush=True)
    return found


def differences(before: Mapping[str, Any], after: Mapping[str, Any], *, messages: bool) -> list[str]:
    """Return a line for each difference."""
    lines = [f"{name}: only in one" for name in sorted(before.keys() ^ after.keys())]
    for name in (name for name in before if name in after):
        one, other = before[name], after[name]
        keys = [key for key in {**one, **other} if messages or key != "printed"]
        changed = [key for key in keys if one.get(key) != other.get(key)]
        lines += [f"{name}: {key}: {one.get(key)} -> {other.get(key)}" for key in changed]
    return lines


def main() -> int:
    """Record, or compare and return 1 if there are differences."""
    parser = new_parser("safety_net", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("tree", type=Path)
    recording.add_argument("output", type=Path)
    recording.add_argument("--only", default="")
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    comparing.add_argument("--messages", action="store_true")
    options = parser.parse_args()
    if options.command == "record":
        options.output.write_text(json.dumps(record(options.tree.resolve(), options.only), indent=1))
        return 0
    before, after = (json.loads(path.read_text()) for path in (options.before, options.after))
    lines = differences(before, after, messages=options.messages)
    print("\n".join(lines) or f"{len(before)} cases, no difference")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
