"""Tokenise without any safety: read a block, encode it, write it, and call fsync once at the end.

    python -m benchmarks.bare_loop {ordinary,tiktoken,gigatoken} INPUT OUTPUT_DIR [--threads N]

The baseline for what the safety of prepare.py costs. A block ends before its last space or newline, without
regard to what comes before that. Nothing is checked, counted, journaled or dropped from the page cache;
memory is not watched, and gigatoken's cache grows without limit. Tokens are written in order. gigatoken gets
bytes, tiktoken gets text. `ordinary` is tiktoken's `encode_ordinary`, which returns a list.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks import new_parser
from nanogpt_compat.encoders.vocabulary import load_gpt2

Tokens: TypeAlias = NDArray[np.uint16]
Encode: TypeAlias = Callable[[bytes], Tokens]
_BLOCK_BYTES = 1 << 20


def ordinary(_: int) -> Encode:
    """Encode as most scripts do, by way of a Python list."""
    encode = load_gpt2().encode_ordinary
    return lambda block: np.array(encode(block.decode("utf-8", "ignore")), dtype=np.uint16)


def tiktoken(_: int) -> Encode:
    """Encode with tiktoken, without the list and with the GIL released."""
    encode = partial(load_gpt2().encode_to_numpy, disallowed_special=())
    return lambda block: encode(block.decode("utf-8", "ignore")).astype(np.uint16)


def gigatoken(n_threads: int) -> Encode:
    """Encode with the call of gigatoken 0.10 with the least overhead, and with the GIL released.

    `encode` holds the GIL. `encode_batch` imports awkward (0.3 s), and with `parallel=False` it admits one
    thread at a time: by schedstat, each of two threads was blocked for a third of the time. With this call
    each is blocked for a hundredth.
    """
    os.environ.setdefault("RAYON_NUM_THREADS", str(max(1, n_threads)))  # before gigatoken is imported
    from gigatoken import BytesSource  # here: it is an extra

    from benchmarks.others import load_gigatoken

    tokenizer = load_gigatoken()

    def encode(block: bytes) -> Tokens:
        ids, _ = tokenizer.encode_batch_padded(BytesSource([block]), 0, parallel=True)
        return np.asarray(ids[0], np.uint16)

    return encode


ENGINES = {"ordinary": ordinary, "tiktoken": tiktoken, "gigatoken": gigatoken}


def _read_blocks(fd: int) -> Iterator[bytes]:
    """Yield the file in blocks, each ending before its last space or newline if it has one."""
    offset = 0
    while block := os.pread(fd, _BLOCK_BYTES, offset):
        cut = max(block.rfind(b" "), block.rfind(b"\n"))
        if cut > 0 and len(block) == _BLOCK_BYTES:
            block = block[:cut]
        yield block
        offset += len(block)


def _in_order(encode: Encode, blocks: Iterable[bytes], n_threads: int) -> Iterator[Tokens]:
    """Encode in threads, with at most two blocks in flight for each thread."""
    pending: deque[Future[Tokens]] = deque()
    with ThreadPoolExecutor(n_threads) as pool:
        for block in blocks:
            pending.append(pool.submit(encode, block))
            if len(pending) == 2 * n_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def main() -> int:
    """Tokenise with one engine in this process, in this thread if `--threads` is 0."""
    parser = new_parser("bare_loop", __doc__)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("input", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--threads", type=int, default=2, help="encoding threads; 0: no further thread")
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    encode, n_threads = ENGINES[options.engine](options.threads), options.threads
    with options.input.open("rb") as file, (options.output_dir / "train.bin").open("wb") as out:
        blocks = _read_blocks(file.fileno())
        for tokens in _in_order(encode, blocks, n_threads) if n_threads else map(encode, blocks):
            tokens.tofile(out)
        out.flush()
        os.fsync(out.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
