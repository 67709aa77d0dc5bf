"""Build the inputs of the benchmarks from packages: Debian's documentation, or installed Python packages.

    python -m benchmarks.corpus --dir /tmp/corpus --kind prose --size 1G
    python -m benchmarks.corpus --dir /tmp/corpus --kind letters --size 256M --text builtin

Prints the path of the file. `--text debian` takes real text from Debian's documentation packages (apt, no
root; 10 minutes the first time, see real_text.py), and generates similar text when that runs out. `--text
builtin` needs no network (see builtin_text.py). A file is made once, and made again if its text or this
recipe has changed.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.builtin_text import BuiltinText
from benchmarks.kinds import KINDS, Text
from benchmarks.real_text import build_real_text
from benchmarks.stored import FORMS, store
from nanogpt_compat.errors import InputError, PrepareError
from nanogpt_compat.system.units import format_bytes, parse_size

RECIPE = 1  # raise it when a generator's output changes
SEED = 2357
_MAX_CHARACTER_BYTES = 4


def make_corpus(folder: Path, kind: str, size_bytes: int, text: Text) -> Path:
    """Return the path of a file of exactly `size_bytes`, which is made unless it exists.

    Raises:
        InputError: the kind has no more text than that.
    """
    path = folder / f"{kind}-{size_bytes}.txt"
    stamp_path = path.with_suffix(".json")
    stamp = {"recipe": RECIPE, "kind": kind, "size_bytes": size_bytes, "seed": SEED, "text": text.fingerprint}
    if _is_made(path, stamp_path, stamp):
        return path
    folder.mkdir(parents=True, exist_ok=True)
    stamp_path.unlink(missing_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        for chunk in take_bytes(KINDS[kind].make(text, SEED), size_bytes):
            file.write(chunk)
        found_bytes = file.tell()
    if found_bytes < size_bytes:
        raise InputError(
            f"{kind} has {format_bytes(found_bytes)}, not {format_bytes(size_bytes)}; ask for less"
        )
    partial.replace(path)
    stamp_path.write_text(json.dumps(stamp) + "\n")
    return path


def _is_made(path: Path, stamp_path: Path, stamp: dict[str, object]) -> bool:
    if not path.exists() or not stamp_path.exists():
        return False
    return path.stat().st_size == stamp["size_bytes"] and json.loads(stamp_path.read_text()) == stamp


def take_bytes(chunks: Iterator[bytes], n_bytes: int) -> Iterator[bytes]:
    """Yield the first `n_bytes` of `chunks`; a character that would be cut at the end becomes full stops.

    >>> b"".join(take_bytes(iter(["aä".encode(), b"c"]), 2))
    b'a.'
    """
    for chunk in chunks:
        if len(chunk) >= n_bytes:
            yield _cut_at_character(chunk, n_bytes).ljust(n_bytes, b".")
            return
        yield chunk
        n_bytes -= len(chunk)


def _cut_at_character(data: bytes, n_bytes: int) -> bytes:
    end = n_bytes
    while end < len(data) and data[end] & 0xC0 == 0x80 and n_bytes - end < _MAX_CHARACTER_BYTES - 1:
        end -= 1
    return data[:end]


def open_text(folder: Path, name: str) -> Text:
    """Return the text `name`: `debian`, which is built in `folder` unless it exists, or `builtin`."""
    return build_real_text(folder / "debian") if name == "debian" else BuiltinText()


def main(arguments: list[str] | None = None) -> int:
    """Make one file and print its path."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.corpus", description=(__doc__ or "").split("\n")[0]
    )
    summaries = "; ".join(f"{name}: {kind.summary}" for name, kind in KINDS.items())
    parser.add_argument("--dir", type=Path, required=True, help="where corpora are kept, and looked for")
    parser.add_argument("--size", type=parse_size, required=True, help="bytes, or 100M, 1G, 256MiB")
    kinds = [*KINDS, *(f"{name}.{form}" for name in KINDS for form in FORMS)]
    parser.add_argument(
        "--kind",
        choices=kinds,
        default="prose",
        metavar="KIND",
        help=f"{summaries}; with .jsonl, .parquet, .csv or .arrow after it, that much text in such a file",
    )
    parser.add_argument(
        "--text", choices=("debian", "builtin"), default="debian", help="builtin needs no apt"
    )
    options = parser.parse_args(arguments)
    try:
        text = open_text(options.dir, options.text)
        kind, _, form = options.kind.partition(".")
        path = make_corpus(options.dir / text.name, kind, options.size, text)
        if form:
            path = store(path, form)
    except PrepareError as error:
        parser.exit(error.exit_code, f"{error}\n")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
