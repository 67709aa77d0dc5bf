"""Build the inputs of the benchmarks from packages: Debian's documentation, or installed Python packages.

    python -m benchmarks.corpus --dir /tmp/corpus --kind prose --size 1G
    python -m benchmarks.corpus --dir /tmp/corpus --kind letters --size 256M --text builtin

Prints the path of the file. `--text debian` takes real text from Debian's documentation packages (apt, no
root; 10 minutes the first time, see real_text.py), and generates similar text when that runs out. `--text
builtin` needs no network (see builtin_text.py). A file is made once, and made again if its text or this
recipe has changed.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import new_parser
from benchmarks.builtin_text import builtin_text
from benchmarks.kinds import KINDS, Text
from benchmarks.real_text import debian_text
from benchmarks.stored import FORMS, store
from nanogpt_compat.errors import InputError, PrepareError
from nanogpt_compat.system.units import format_bytes, parse_size

RECIPE = 1  # raise it when a generator's output changes
SEED = 2357
_MAX_CHARACTER_BYTES = 4


def _make(folder: Path, kind: str, size_bytes: int, text: Text) -> Path:
    """Return the path of a file of exactly `size_bytes`, which is made unless it exists."""
    path = folder / f"{kind}-{size_bytes}.txt"
    stamp_path = path.with_suffix(".json")
    stamp = {"recipe": RECIPE, "kind": kind, "size_bytes": size_bytes, "seed": SEED, "text": text.fingerprint}
    is_made = path.exists() and path.stat().st_size == size_bytes and stamp_path.exists()
    if is_made and json.loads(stamp_path.read_text()) == stamp:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    stamp_path.unlink(missing_ok=True)
    partial = path.with_suffix(".partial")
    make, _ = KINDS[kind]
    with partial.open("wb") as file:
        file.writelines(take_bytes(make(text, SEED), size_bytes))
        found_bytes = file.tell()
    if found_bytes < size_bytes:
        raise InputError(
            f"{kind} has {format_bytes(found_bytes)}, not {format_bytes(size_bytes)}; ask for less"
        )
    partial.replace(path)
    stamp_path.write_text(json.dumps(stamp) + "\n")
    return path


def take_bytes(chunks: Iterator[bytes], n_bytes: int) -> Iterator[bytes]:
    """Yield the first `n_bytes` of `chunks`; a character that would be cut at the end becomes full stops.

    >>> b"".join(take_bytes(iter(["aä".encode(), b"c"]), 2))
    b'a.'
    """
    for chunk in chunks:
        if len(chunk) >= n_bytes:
            end = n_bytes
            while end < len(chunk) and chunk[end] & 0xC0 == 0x80 and n_bytes - end < _MAX_CHARACTER_BYTES - 1:
                end -= 1
            yield chunk[:end].ljust(n_bytes, b".")
            return
        yield chunk
        n_bytes -= len(chunk)


def main() -> int:
    """Make one file and print its path."""
    parser = new_parser("corpus", __doc__)
    summaries = "; ".join(f"{name}: {summary}" for name, (_, summary) in KINDS.items())
    kinds = [*KINDS, *(f"{name}.{form}" for name in KINDS for form in FORMS)]
    kind_help = f"{summaries}; with .jsonl, .parquet, .csv or .arrow after it, that much text in such a file"
    parser.add_argument("--dir", type=Path, required=True, help="where corpora are kept, and looked for")
    parser.add_argument("--size", type=parse_size, required=True, help="bytes, or 100M, 1G, 256MiB")
    parser.add_argument("--kind", choices=kinds, default="prose", metavar="KIND", help=kind_help)
    parser.add_argument(
        "--text", choices=("debian", "builtin"), default="debian", help="builtin needs no apt"
    )
    options = parser.parse_args()
    kind, _, form = options.kind.partition(".")
    try:
        text = debian_text(options.dir / "debian") if options.text == "debian" else builtin_text()
        path = _make(options.dir / text.name, kind, options.size, text)
        print(store(path, form) if form else path)
    except PrepareError as error:
        parser.exit(error.exit_code, f"{error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
