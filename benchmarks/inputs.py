"""Make an input in a separate process, so that this one stays small, and read it into the page cache."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_BUFFER_BYTES = 1 << 20


def make_input(kind: str, size_bytes: int, *, corpus_dir: Path, text: str) -> Path:
    """Return the path of a file of this kind and size, which is made unless it exists; see corpus.py."""
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
    """Sync a file to the disk and read it once: prepare.py drops it from the cache while it reads."""
    buffer = bytearray(_BUFFER_BYTES)
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        while file.readinto(buffer):
            pass
