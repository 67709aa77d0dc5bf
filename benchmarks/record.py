"""Write what peak_rss.py and throughput.py record: JSON, a page of tables, a picture, and what is broken."""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks import ROOT
from benchmarks.measure import proc_field

_PACKAGES = ("numpy", "psutil", "tiktoken", "tqdm", "gigatoken", "datasets")


def describe_machine() -> dict[str, str | int]:
    """Return the machine, the Python and the packages with which measurements are made."""
    record: dict[str, str | int] = {
        "system": f"{platform.system()} {platform.release()}",
        "processor": proc_field("/proc/cpuinfo", "model name") or platform.machine(),
        "n_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            record[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            record[package] = "not installed"
    return record


def write_record(output_dir: Path, name: str, record: Mapping[str, Any], tables: str) -> None:
    """Write NAME.json, with a line for each run, and NAME.md."""
    output_dir.mkdir(parents=True, exist_ok=True)
    text = re.sub(r'(\{"(?:case|strategy)")', r"\n\1", json.dumps(record, separators=(",", ":")))
    (output_dir / f"{name}.json").write_text(text + "\n")
    (output_dir / f"{name}.md").write_text(tables)


def draw(picture: str, output_dir: Path, name: str) -> None:
    """Draw NAME.svg from NAME.json in a separate process, so that --short needs no matplotlib."""
    command = [sys.executable, "-m", "benchmarks.pictures", picture]
    paths = [str(output_dir / f"{name}.{suffix}") for suffix in ("json", "svg")]
    subprocess.run([*command, *paths], cwd=ROOT, check=True)


def exit_code(broken: Sequence[str], *, is_check: bool) -> int:
    """Print a line for each bound that is broken; return 1 if there are any and this is a check."""
    for sentence in broken:
        sys.stderr.write(f"BROKEN {sentence}\n")
    return 1 if is_check and broken else 0
