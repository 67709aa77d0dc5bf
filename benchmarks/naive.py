"""The three scripts that prepare.py replaces, reduced to their simplest form.

    python -m benchmarks.naive {whole,list,stream} INPUT OUTPUT_DIR

Only train.bin is written: their val.bin costs hardly any time or memory. The comments say how much memory a
step takes.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nanogpt_compat.encoders.vocabulary import load_gpt2

_CHUNK_CHARS = 10_000_000


def whole(source: Path, target: Path) -> None:
    """Read everything, encode everything, write everything."""
    encoding = load_gpt2()
    text = source.read_text(
        encoding="utf-8", errors="ignore"
    )  # 1, 2 or 4 bytes for each character, depending on the widest
    tokens = encoding.encode_ordinary(text)  # 8 bytes for each token, and 28 for the integer it points to
    np.array(tokens, dtype=np.uint16).tofile(target)


def growing_list(source: Path, target: Path) -> None:
    """Encode chunks of ten million characters into one list."""
    encoding = load_gpt2()
    tokens: list[int] = []
    with source.open(encoding="utf-8", errors="ignore") as file:
        while chunk := file.read(_CHUNK_CHARS):
            tokens.extend(encoding.encode_ordinary(chunk))  # 8 bytes for each token, and 28 for the integer
    np.array(tokens, dtype=np.uint16).tofile(target)


def stream(source: Path, target: Path) -> None:
    """Append each chunk's tokens to the file: memory is bounded, but chunks cut words, so tokens differ."""
    encoding = load_gpt2()
    with source.open(encoding="utf-8", errors="ignore") as file, target.open("wb") as out:
        while chunk := file.read(_CHUNK_CHARS):
            np.array(encoding.encode_ordinary(chunk), dtype=np.uint16).tofile(out)


STRATEGIES: dict[str, Callable[[Path, Path], None]] = {"whole": whole, "list": growing_list, "stream": stream}


def main(arguments: list[str] | None = None) -> int:
    """Run one strategy in this process."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.naive", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("strategy", choices=STRATEGIES)
    parser.add_argument("input", type=Path)
    parser.add_argument("output_dir", type=Path)
    options = parser.parse_args(arguments)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    STRATEGIES[options.strategy](options.input, options.output_dir / "train.bin")
    return 0


if __name__ == "__main__":
    sys.exit(main())
