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
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Case:
    """Commands that run one after another in a folder of their own."""

    name: str
    commands: Sequence[str]
    killed: str | None = None  # a command to run first, and to kill at a checkpoint
    stdin: str | None = None  # path of a file


TEXT = "--input {in}/prose.txt"
SEPARATED = "--input {in}/prose.txt --document-separator \\n\\n"
JSONL = "--input {in}/a.jsonl"
PARQUET = "--input {in}/a.parquet"


def cases() -> list[Case]:
    """Return all cases."""
    inputs = {"text": TEXT, "separated": SEPARATED, "jsonl": JSONL, "parquet": PARQUET}
    of_inputs = {
        "tiktoken": "--engine tiktoken",
        "gigatoken": "--engine gigatoken",
        **{f"--format {form}": f"--format {form} --shard-tokens 50K" for form in ("npy", "llmc", "bin")},
        "cluster": "--cluster local --workers 2 --span-size 300K --work-dir work --merge",
    }
    single = {
        **{f"{name}, {more}": f"{inputs[name]} {of_inputs[more]}" for more in of_inputs for name in inputs},
        **{f"text, {one}": f"{TEXT} --val-split {one} --val-ratio 0.1" for one in ("spread", "head", "tail")},
        "text, none": f"{TEXT} --val-split none",
        **{f"separated, --eot {one}": f"{SEPARATED} --eot {one}" for one in ("append", "prepend", "none")},
        **{
            f"text, --errors {one}": f"--input {{in}}/invalid.txt --errors {one}"
            for one in ("ignore", "replace", "strict")
        },
    }
    verified = {
        "several inputs": "--input {in}/folder {in}/prose.txt {in}/invalid.txt",
        "glob": "--input {in}/folder/part*.txt",
        "all kinds": "--input {in}/prose.txt {in}/a.jsonl {in}/a.parquet --document-separator \\n\\n",
        "txt.gz": "--input {in}/prose.txt.gz",
        "txt.zst": "--input {in}/prose.txt.zst",
        "jsonl.gz": "--input {in}/a.jsonl.gz",
        "small": "--input {in}/small.txt",
        "windows line ends": "--input {in}/crlf.txt",
        "no break": "--input {in}/unbroken.txt",
        "--n": "--input {in}/long.txt --n 1",
        "other field": "--input {in}/content.jsonl --text-field content",
        "bad records": "--input {in}/bad.jsonl --skip-bad-records",
    }
    killed = {
        **inputs,
        "gz": "--input {in}/prose.txt.gz",
        "npy": f"{JSONL} --format npy --shard-tokens 50K",
    }
    piped = (
        ("prose.txt", ""),
        ("prose.txt.gz", ""),
        ("a.jsonl", ""),
        ("prose.txt", " --document-separator \\n\\n"),
    )
    ranks = [f"{TEXT} --rank {rank} --world-size 2 --work-dir work --span-size 300K" for rank in (0, 1)]
    refused = (
        *("--input {in}/none.txt", "--input {in}/empty.txt", "--input {in}/bad.jsonl", "--val-ratio 2"),
        *("--input {in}/utf16.txt", "--input {in}/prose.txt.xz", "--input {in}/prose.txt.bz2"),
        *(f"{JSONL} --text-field nope", f"{TEXT} --eot append", f"{TEXT} --format llmc --val-ratio 0.1"),
        *(f"{TEXT} --max-memory 20M", f"{TEXT} --vocab-dir {{in}}", f"{TEXT} --no-such-option"),
        *(f"{TEXT} --verify", f"{TEXT} --merge --work-dir work", f"{TEXT} --dry-run"),
    )
    return [
        *(Case(name, [args]) for name, args in single.items()),
        *(Case(name, [args, f"{args} --verify", args]) for name, args in verified.items()),
        *(
            Case(
                f"{name}, killed and resumed", [f"{args} --block-size 20K"], killed=f"{args} --block-size 50K"
            )
            for name, args in killed.items()
        ),
        *(Case(f"pipe, {name}{more}", [f"--input -{more}"], stdin=f"{{in}}/{name}") for name, more in piped),
        Case("ranks", [*ranks, f"{TEXT} --merge --work-dir work"]),
        *(Case(f"refused: {args}", [args]) for args in refused),
        Case("not replaced", [TEXT, f"{TEXT} --val-ratio 0.2", f"{TEXT} --val-ratio 0.2 --overwrite"]),
        Case("other options", [f"{TEXT} --val-ratio 0.2", f"{TEXT} --restart"], killed=TEXT),
    ]


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


def run_case(tree: Path, case: Case, inputs: Path, folder: Path) -> dict[str, Any]:
    """Run the commands of a case in `folder`; return their results."""

    def run(program: Sequence[str | Path], args: str) -> subprocess.CompletedProcess[bytes]:
        words = [word.format_map({"in": inputs}) for word in args.split()]
        given = Path((case.stdin or os.devnull).format_map({"in": inputs}))
        with given.open("rb") as stdin:
            return subprocess.run(
                [sys.executable, *map(str, program), *words, "--output-dir", "out"],
                cwd=folder,
                stdin=stdin,
                capture_output=True,
                timeout=TIMEOUT_S,
                check=False,
                env=os.environ | {"PYTHONPATH": str(tree)},
            )

    done = [run([tree / "tests" / "driver.py", KILL], case.killed)] if case.killed else []
    done += [run([tree / "prepare.py"], args) for args in case.commands]
    out = folder / "out"
    report = out / "prepare.json"
    return {
        "exit_codes": [one.returncode for one in done],
        "files": {
            str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(out.glob("**/*"))
            if path.is_file() and path.suffix in (".bin", ".npy") and ".prepare" not in path.parts
        },
        "report": _lasting(json.loads(report.read_text()), inputs, folder) if report.exists() else None,
        "printed": [(one.stdout + one.stderr).decode(errors="replace") for one in done],
    }


def _lasting(value: Any, inputs: Path, folder: Path) -> Any:
    """Return a report without the fields that differ each time, and without the names of folders."""
    if isinstance(value, Mapping):
        return {key: _lasting(one, inputs, folder) for key, one in value.items() if key not in PASSING}
    if isinstance(value, list):
        return [_lasting(one, inputs, folder) for one in value]
    return value.replace(str(inputs), "IN").replace(str(folder), "HERE") if isinstance(value, str) else value


def record(tree: Path, only: str) -> dict[str, Any]:
    """Run all cases whose names contain `only`."""
    found = {}
    with tempfile.TemporaryDirectory() as root:
        inputs = Path(root) / "inputs"
        write_inputs(inputs)
        for number, case in enumerate(one for one in cases() if only in one.name):
            folder = Path(root) / str(number)
            folder.mkdir()
            found[case.name] = run_case(tree, case, inputs, folder)
            print(case.name, found[case.name]["exit_codes"], file=sys.stderr, flush=True)
    return found


def differences(before: Mapping[str, Any], after: Mapping[str, Any], *, messages: bool) -> list[str]:
    """Return a line for each difference."""
    lines = [f"{name}: only in one" for name in sorted(before.keys() ^ after.keys())]
    fields = ("exit_codes", "files", "report", *(("printed",) if messages else ()))
    for name in (name for name in before if name in after):
        for field in fields:
            one, other = before[name][field], after[name][field]
            if field == "report" and one and other:
                keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
                lines += [f"{name}: report {key}: {one.get(key)} -> {other.get(key)}" for key in keys]
            elif one != other:
                lines.append(f"{name}: {field}: {one} -> {other}")
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
