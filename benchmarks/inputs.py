"""Have an input made by a process of its own, and read it into the page cache: this process stays small."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_BUFFER_BYTES = 1 << 20


def make_input(kind: str, size_bytes: int, *, corpus_dir: Path, text: str) -> Path:
    """Return a file of this kind and size, made now or before; see corpus.py."""
    command = ["-m", "benchmarks.corpus", "--kind", kind, "--size", str(size_bytes), "--text", text]
    made = subprocess.run(
        [sys.executable, *command, "--dir", str(corpus_dir)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return Path(made.stdout.rstrip("\n"))


def read_into_cache(path: Path) -> None:
    """Read a file once, after what is not yet on the disk of it is there: prepare.py drops it as it reads."""
    buffer = bytearray(_BUFFER_BYTES)
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        while file.readinto(buffer):
            pass
