"""The benchmarks that give the numbers in README.md and docs/: corpora, strategies, speed and memory."""

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def new_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser for `python -m benchmarks.MODULE` whose help shows the module's whole docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
