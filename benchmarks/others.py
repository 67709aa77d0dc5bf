"""Other ways to prepare a corpus for training: the scripts that prepare.py replaces, and its neighbours.

    python -m benchmarks.others {whole,list,stream,datasets,pool,encode_files} INPUT OUTPUT_DIR

The first three are reduced to their simplest form, and write only train.bin: their val.bin costs hardly any
time or memory. The comments say how much memory a step takes. The others are rewritten after their scripts.
`datasets` and `pool` tokenise documents with an end-of-text token after or before each, so their tokens are
not those of the whole file; stored.py cuts plain text into documents. None of the six waits for the disk.
They write only into OUTPUT_DIR.

Sources: karpathy/nanoGPT, data/openwebtext/prepare.py; karpathy/build-nanogpt, fineweb.py;
marcelroed/gigatoken, README.md.
"""

import base64
import functools
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import new_parser
from benchmarks.stored import documents
from nanogpt_compat.encoders.vocabulary import load_gpt2

_CHUNK_CHARS = 10_000_000
_END_OF_TEXT = 50_256
_N_PROCESSES = 2
_N_BATCHES = 1024  # nanoGPT's
_VAL_RATIO = 0.0005
_SHARD_TOKENS = 100_000_000  # build-nanogpt's
_CHUNK_DOCUMENTS = 16

_encoding_of_process = functools.cache(load_gpt2)  # for each process of the pool


def whole(source: Path, output_dir: Path) -> None:
    """Read everything, encode everything, write everything."""
    encoding = load_gpt2()
    # 1, 2 or 4 bytes for each character, depending on the widest
    text = source.read_text(encoding="utf-8", errors="ignore")
    tokens = encoding.encode_ordinary(text)  # 8 bytes for each token, and 28 for the integer it points to
    np.array(tokens, dtype=np.uint16).tofile(output_dir / "train.bin")


def growing_list(source: Path, output_dir: Path) -> None:
    """Encode chunks of ten million characters into one list."""
    encoding = load_gpt2()
    tokens: list[int] = []
    with source.open(encoding="utf-8", errors="ignore") as file:
        while chunk := file.read(_CHUNK_CHARS):
            tokens.extend(encoding.encode_ordinary(chunk))  # 8 bytes for each token, and 28 for the integer
    np.array(tokens, dtype=np.uint16).tofile(output_dir / "train.bin")


def stream(source: Path, output_dir: Path) -> None:
    """Append each chunk's tokens to the file: memory is bounded, but chunks cut words, so tokens differ."""
    encoding = load_gpt2()
    target = output_dir / "train.bin"
    with source.open(encoding="utf-8", errors="ignore") as file, target.open("wb") as out:
        while chunk := file.read(_CHUNK_CHARS):
            np.array(encoding.encode_ordinary(chunk), dtype=np.uint16).tofile(out)


def hugging_face(source: Path, output_dir: Path) -> None:
    """Make a data set, split it at random, map it to tokens in processes, and copy these into a memmap."""
    os.environ.update(HF_HOME=str(output_dir), HF_HUB_OFFLINE="1")
    import datasets  # here: it is an extra, and takes longer to import than everything else together

    encoding = load_gpt2()

    def rows() -> Iterator[dict[str, str]]:
        return ({"text": text} for text in documents(source))

    def tokenize(row: dict[str, str]) -> dict[str, Any]:
        ids = [*encoding.encode_ordinary(row["text"]), _END_OF_TEXT]
        return {"ids": ids, "len": len(ids)}

    everything = datasets.Dataset.from_generator(rows, cache_dir=str(output_dir))
    split = everything.train_test_split(test_size=_VAL_RATIO, seed=2357, shuffle=True)
    tokenized = split.map(tokenize, remove_columns=["text"], num_proc=_N_PROCESSES)
    for name, split_rows in (("train", tokenized["train"]), ("val", tokenized["test"])):
        n_tokens = int(np.sum(split_rows["len"], dtype=np.uint64))
        tokens = np.memmap(output_dir / f"{name}.bin", dtype=np.uint16, mode="w+", shape=(n_tokens,))
        # In 1,024 batches, as nanoGPT does, or in one for each document if there are fewer.
        n_batches, at = min(_N_BATCHES, len(split_rows)), 0
        for index in range(n_batches):
            batch = split_rows.shard(num_shards=n_batches, index=index, contiguous=True).with_format("numpy")
            ids = np.concatenate(batch["ids"])
            tokens[at : at + len(ids)] = ids
            at += len(ids)
        tokens.flush()


def _tokenize(text: str) -> NDArray[np.uint16]:
    return np.array([_END_OF_TEXT, *_encoding_of_process().encode_ordinary(text)]).astype(np.uint16)


def pool(source: Path, output_dir: Path) -> None:
    """Tokenise documents in a pool of processes, and write shards of 100 million tokens."""
    shard = np.empty(_SHARD_TOKENS, np.uint16)
    n_tokens = n_shards = 0
    with multiprocessing.Pool(_N_PROCESSES) as workers:
        for tokens in workers.imap(_tokenize, documents(source), chunksize=_CHUNK_DOCUMENTS):
            while n_tokens + len(tokens) >= _SHARD_TOKENS:
                n_fitting = _SHARD_TOKENS - n_tokens
                shard[n_tokens:] = tokens[:n_fitting]
                np.save(output_dir / f"shard_{n_shards:06d}.npy", shard)
                tokens, n_tokens, n_shards = tokens[n_fitting:], 0, n_shards + 1
            shard[n_tokens : n_tokens + len(tokens)] = tokens
            n_tokens += len(tokens)
        workers.close()  # and join, so that the CPU time of the workers is counted
        workers.join()
    np.save(output_dir / f"shard_{n_shards:06d}.npy", shard[:n_tokens])


def load_gigatoken() -> Any:
    """Build gigatoken's tokenizer from tiktoken's ranks, so that both have the same vocabulary."""
    import gigatoken  # here: it is an extra

    ranks = load_gpt2()._mergeable_ranks
    with tempfile.NamedTemporaryFile(suffix=".tiktoken") as file:
        file.writelines(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())
        file.flush()
        return gigatoken.Tokenizer.from_tiktoken(file.name, pretokenizer="gpt2", special_tokens={})


def encode_files(source: Path, output_dir: Path) -> None:
    """Let gigatoken read and encode the file in its own threads, and write the tokens as uint16."""
    documents_of_ids = load_gigatoken().encode_files(str(source))  # ragged: (n_documents, any) uint32
    ids: NDArray[np.uint32] = documents_of_ids.layout.content.data
    ids.astype(np.uint16).tofile(output_dir / "train.bin")


STRATEGIES: dict[str, Callable[[Path, Path], None]] = {
    "whole": whole,
    "list": growing_list,
    "stream": stream,
    "datasets": hugging_face,
    "pool": pool,
    "encode_files": encode_files,
}


def main() -> int:
    """Run one strategy in this process and its children."""
    parser = new_parser("others", __doc__)
    parser.add_argument("strategy", choices=STRATEGIES)
    parser.add_argument("input", type=Path)
    parser.add_argument("output_dir", type=Path)
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    STRATEGIES[options.strategy](options.input, options.output_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
