"""Verify finished output: encode all of the input again with tiktoken, and compare every token.

Of what made the output nothing is asked but where text may be cut and which split it goes to: no other
engine, no journal, no checkpoint. Besides the blocks in flight, at most 1 MiB of the output is held.
"""

import codecs
import hashlib
import os
from bisect import bisect_right
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat import pipeline, report
from nanogpt_compat.blocks import Block, Blocks
from nanogpt_compat.encode import encode_block
from nanogpt_compat.errors import CheckpointError, DifferenceError, OutputError
from nanogpt_compat.files import advise_sequential, drop_cache
from nanogpt_compat.fingerprint import differences
from nanogpt_compat.job import REPORTED_OPTIONS, Job
from nanogpt_compat.memmap import TOKEN
from nanogpt_compat.pipes import Pipe
from nanogpt_compat.progress import Display
from nanogpt_compat.shards import OutputFile, Outputs, Shards, by_stream, files_of
from nanogpt_compat.sinks import is_there, others
from nanogpt_compat.sources.text import as_utf8
from nanogpt_compat.tally import InputTally, Tally
from nanogpt_compat.watch import Check, Say, Watch, locked

_CHUNK_TOKENS = 512 * 1024
_DROP_EVERY_BYTES = 8 * 1024 * 1024
_A_FEW_BYTES = 256
_MAKE_AGAIN = "the same command with --restart --overwrite in the place of --verify makes the output again"


def verify(job: Job, *, open_display: Callable[[int], Display], say: Say, check: Check) -> None:
    """Compare the finished files with the input, and put the SHA-256 of each into prepare.json.

    `job` has tiktoken for its engine. `check` is called several times a second; what it raises ends the work.

    Raises:
        DifferenceError: the files are not what tiktoken makes of the input.
        OutputError: there are none, they cannot be read, or another run is at work there.
        CheckpointError: they belong to another input or other options.
        InputError: an input changes or fails while it is read.
        MemoryLimitError: memory is about to run out.
        TooSmallError: memory cannot suffice.
    """
    watch = Watch(job, open_display=open_display, say=say, check=check)
    _finished(job)  # or else locking would make the folder
    with locked(job.folders):
        made = _finished(job)
        _check_belongs(job, made, watch)
        _check_names(job, made)
        with watch, FinishedFiles(job.outputs) as files:
            _compare(job, files, watch)
        report.write_report(job.config.output_dir, made | {"files": files.describe()})
    say(f"verified: {files.summary()}, all as tiktoken {job.encoder.version} makes them")


def _finished(job: Job) -> dict[str, Any]:
    """Return the report of a complete output.

    Raises:
        OutputError: it is not complete.
        DifferenceError: there is a val.bin and should be none.
    """
    folder = job.config.output_dir
    made = report.read_report(folder)
    first = [shards.path(0) for shards in job.outputs.values()]
    if made is None or not all(map(is_there, first)):
        raise _incomplete(next((path for path in first if not is_there(path)), folder / report.REPORT_NAME))
    val = folder / "val.bin"
    if not job.config.has_val and job.config.output_format == "bin" and is_there(val):
        raise DifferenceError(f"{val} is there, but this run makes none: nanoGPT would take it; remove it")
    return made


def _incomplete(path: Path) -> OutputError:
    return OutputError(
        f"there is no complete output to verify: {path} is not there, or cannot be read; run the same "
        "command without --verify first"
    )


def _check_names(job: Job, made: Mapping[str, Any]) -> None:
    """Make sure that there are the shards that `made` tells of, and no more.

    Raises:
        OutputError: one is missing.
        DifferenceError: there is one more.
    """
    own = {one.path for one in files_of(job.outputs, by_stream(job.outputs, made["tokens"]))}
    missing = [path for path in own if not is_there(path)]
    if missing:
        raise _incomplete(min(missing))
    for path in (path for shards in job.outputs.values() for path in others(shards, n_own=0)):
        if path not in own:
            raise DifferenceError(
                f"{path} is there, but this run makes none: whoever reads the shards would take it; remove it"
            )


def _check_belongs(job: Job, made: Mapping[str, Any], watch: Watch) -> None:
    """Compare the run that `made` is the report of with this one.

    Raises:
        CheckpointError: it had another input or other options.
        OutputError: the report is none of ours.
    """
    path = job.config.output_dir / report.REPORT_NAME
    try:
        old = {name: made["options"][field] for name, field in REPORTED_OPTIONS.items()}
        old["tiktoken"] = made["versions"]["tiktoken"]
        new = {name: job.token_options[name] for name in old}
        found = differences(old, new, made["inputs"], job.inputs, job.config.inputs)
        if not found and made["fingerprint"] != job.fingerprint:
            found = ["the vocabulary, or the version of this program, makes other tokens"]
        if not found:
            found = [
                f"{job.config.inputs[index]} has other content than it had"
                for index, (was, now) in enumerate(zip(made["inputs"], job.inputs, strict=True))
                if not isinstance(job.config.inputs[index], Pipe)  # which can be read only once
                and not watch.is_unchanged(index, was, now, was["crc32"], was["text_bytes"], is_all=True)
            ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise OutputError(f"{path} is not as this program writes it; {_MAKE_AGAIN}") from error
    if found:
        raise CheckpointError(
            f"{path} is of a run that this one cannot verify: {'; '.join(found)}. Give the input and the "
            f"options of that run; or {_MAKE_AGAIN}"
        )


class _Difference(Exception):
    """A token that is not as it should be: number `n_same` of `expected`, which is a block's."""

    def __init__(
        self, path: Path, index: int, byte: int, found: int | None, expected: NDArray[np.uint16], n_same: int
    ):
        super().__init__(f"{path}, token {index}")
        self.path = path
        self.is_val = False
        self.place = 0  # among all tokens of the split
        self.index = index  # in the file
        self.byte = byte  # where it stands there
        self.found = found  # None: the file ends there
        self.expected = expected
        self.n_same = n_same


class _FinishedFile:
    """A finished file of tokens that is read once, from the beginning, off the disk."""

    def __init__(self, path: Path, *, header_bytes: int) -> None:
        """Open it, and read its header.

        Raises:
            OutputError: it cannot be read.
        """
        self.path = path
        self.n_tokens = 0  # that were compared
        self.sha256 = hashlib.sha256()
        self._offset = self._dropped_bytes = 0
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise self._unreadable(error) from error
        self._drop_all()  # what is in the page cache need not be what is on the disk
        advise_sequential(self._file.fileno())
        self._header = self._read(header_bytes // TOKEN.itemsize).tobytes()
        self._header_bytes = header_bytes

    def close(self) -> None:
        """Close it; nothing of it stays in the page cache."""
        if not self._file.closed:
            self._drop_all()
            self._file.close()

    def compare(self, tokens: NDArray[np.uint16], start: int, end: int) -> None:
        """Read on, as far as `tokens[start:end]` go.

        Raises:
            OutputError: the disk is failing.
            _Difference: there are other tokens, or fewer.
        """
        for first in range(start, end, _CHUNK_TOKENS):
            expected = tokens[first : min(first + _CHUNK_TOKENS, end)]
            found = self._read(len(expected))
            if not np.array_equal(found, expected):
                differs = np.flatnonzero(found != expected[: len(found)])
                n_same = int(differs[0]) if len(differs) else len(found)
                one = int(found[n_same]) if len(differs) else None
                index = self.n_tokens + n_same
                byte = self._header_bytes + TOKEN.itemsize * index
                raise _Difference(self.path, index, byte, one, tokens, first + n_same)
            self.n_tokens += len(expected)

    def check_ends(self, header: bytes) -> None:
        """Make sure that there is no more, and that it began with `header`.

        Raises:
            DifferenceError: it is not so.
        """
        if self._header != header:
            place = next(k for k in range(len(header)) if self._header[k : k + 1] != header[k : k + 1])
            raise DifferenceError(
                f"{self.path} should begin with the {len(header):,} bytes of a header for {self.n_tokens:,} "
                f"tokens, and differs at byte {place:,}; {_MAKE_AGAIN}"
            )
        n_more = os.fstat(self._file.fileno()).st_size - self._offset
        if n_more:
            raise DifferenceError(
                f"{self.path} should end after {self.n_tokens:,} tokens, at byte {self._offset:,}, and "
                f"has {n_more:,} bytes more; {_MAKE_AGAIN}"
            )

    def _read(self, n_tokens: int) -> NDArray[np.uint16]:
        """Read so many whole tokens, or as many as there are."""
        tokens = np.empty(n_tokens, TOKEN)
        data, n_read = tokens.view(np.uint8).data, 0
        try:
            while n_read < len(data) and (n_new := self._file.readinto(data[n_read:])):
                n_read += n_new
        except OSError as error:
            raise self._unreadable(error) from error
        self.sha256.update(data[:n_read])
        self._offset += n_read
        if self._offset - self._dropped_bytes >= _DROP_EVERY_BYTES:
            drop_cache(self._file.fileno(), self._dropped_bytes, self._offset)
            self._dropped_bytes = self._offset
        return tokens[: n_read // TOKEN.itemsize]

    def _drop_all(self) -> None:
        drop_cache(self._file.fileno(), 0, os.fstat(self._file.fileno()).st_size)

    def _unreadable(self, error: OSError) -> OutputError:
        return OutputError(f"cannot read {self.path} at byte {self._offset:,}: {error.strerror}")


class _FinishedShards:
    """The files of one stream, one after the other."""

    def __init__(self, shards: Shards) -> None:
        """Open the first.

        Raises:
            OutputError: it cannot be read.
        """
        self.described: list[dict[str, Any]] = []  # those that were compared, as `files` of prepare.json
        self.n_tokens = 0
        self._shards = shards
        self._file = self._open(0)

    def _open(self, k: int) -> _FinishedFile:
        return _FinishedFile(self._shards.path(k), header_bytes=self._shards.header_bytes)

    def compare(self, tokens: NDArray[np.uint16]) -> None:
        """Read on, as far as `tokens` go.

        Raises:
            OutputError: the disk is failing, or a shard is missing.
            DifferenceError: a shard that should end has not the right header, or goes on.
            _Difference: there are other tokens, or fewer.
        """
        start = self.n_tokens
        for k, first, last in self._shards.pieces(start, start + len(tokens)) if len(tokens) else ():
            if first == 0 and k:
                self.finish()
                self._file = self._open(k)
            begin = self.n_tokens - start
            self._file.compare(tokens, begin, begin + last - first)
            self.n_tokens += last - first

    def finish(self) -> None:
        """Make sure that the open file ends here.

        Raises:
            DifferenceError: it does not.
        """
        file = self._file
        file.check_ends(self._shards.header(file.n_tokens))
        file.close()
        one = OutputFile("", self._shards, len(self.described), file.n_tokens)
        self.described += [
            described | {"sha256": file.sha256.hexdigest()} for described in report.describe_files([one])
        ]

    def close(self) -> None:
        """Close the file that is open."""
        self._file.close()


class FinishedFiles:
    """The output as a sink that compares where `TokenFiles` writes."""

    def __init__(self, outputs: Outputs) -> None:
        """Open the first file of each stream.

        Raises:
            OutputError: one cannot be read.
        """
        with ExitStack() as stack:
            self._streams = {}
            for split, shards in outputs.items():
                self._streams[split] = _FinishedShards(shards)
                stack.callback(self._streams[split].close)
            self._stack = stack.pop_all()

    def __enter__(self) -> "FinishedFiles":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def describe(self) -> list[dict[str, Any]]:
        """Describe what was compared, as `files` of prepare.json."""
        return [one for stream in reversed(self._streams.values()) for one in stream.described]

    def summary(self) -> str:
        """Say in words how much that is."""
        counts = []
        for stream in reversed(self._streams.values()):
            first, last = stream.described[0]["name"], stream.described[-1]["name"]
            names = first if first == last else f"{first} to {last}"
            counts.append(f"{names} {stream.n_tokens:,} tokens")
        return ", ".join(counts)

    def append(self, tokens: NDArray[np.uint16], *, is_val: bool) -> None:
        """Compare `(n,) uint16` with what comes next in a split."""
        stream = self._streams["val" if is_val else "train"]
        n_before = stream.n_tokens
        try:
            stream.compare(tokens)
        except _Difference as difference:
            difference.is_val = is_val
            difference.place = n_before + difference.n_same
            raise

    def finish(self) -> None:
        """Make sure that all files end here.

        Raises:
            DifferenceError: one does not.
        """
        for stream in reversed(self._streams.values()):
            stream.finish()


def _compare(job: Job, files: FinishedFiles, watch: Watch) -> None:
    """Run the pipeline from the beginning, and compare.

    Raises:
        DifferenceError: at the first token that is not as it should be.
    """
    tally = Tally([InputTally() for _ in job.inputs])
    try:
        watch.go_through(job, files, tally, flush=_do_nothing, after_block=_do_nothing)
    except _Difference as difference:
        raise DifferenceError(_describe(difference, job, tally, watch.check)) from difference
    except MemoryError as error:
        raise watch.memory_refused() from error
    files.finish()


def _do_nothing() -> None:
    """There is nothing to save, and nothing to write back."""


def _describe(difference: _Difference, job: Job, done: Tally, check: Check) -> str:
    """Say what differs, where, and of what it should be made; `done` is what came before its block."""
    encoding = job.vocabulary.encoding
    token = int(difference.expected[difference.n_same])

    def show(token: int) -> str:
        if token >= encoding.n_vocab:
            return f"{token}, which is no token of GPT-2"
        return f"{token} ({encoding.decode_single_token_bytes(token)!r})"

    find = _bytes_of if job.config.documents is None else _documents_of
    path = job.config.inputs[done.position.input_index]
    if isinstance(path, Pipe):
        made_of = f"what follows byte {done.position.offset:,} of {path}, if this is the same text"
    else:
        made_of = f"{find(difference, job, done, check)} of {path}"
    found = "missing, the file ends there," if difference.found is None else show(difference.found)
    return (
        f"{difference.path}: token {difference.index:,}, at byte {difference.byte:,}, is "
        f"{found} and should be {show(token)}, made of {made_of}; {_MAKE_AGAIN}"
    )


def _bytes_of(difference: _Difference, job: Job, done: Tally, check: Check) -> str:
    """Find the bytes of a text that is one stream."""
    encoding = job.vocabulary.encoding
    n_before = len(encoding.decode_bytes(difference.expected[: difference.n_same].tolist()))
    n_bytes = len(encoding.decode_single_token_bytes(int(difference.expected[difference.n_same])))
    with closing(_blocks_from(done, job, job.block_bytes, check)) as blocks:
        block = next(blocks)
    first, last = (
        block.start.offset + place_in_raw(block, place, job.config.errors)
        for place in (n_before, n_before + n_bytes - 1)
    )
    return f"bytes {first:,} to {last + 1:,}"


def _documents_of(difference: _Difference, job: Job, done: Tally, check: Check) -> str:
    """Find the documents, or a part of one, by encoding them a few at a time."""
    config, is_val = job.config, difference.is_val
    form = config.formats[done.position.input_index]
    n_before = difference.place - (done.val_tokens if is_val else done.train_tokens)
    with closing(_blocks_from(done, job, _A_FEW_BYTES, check)) as blocks:
        for block in blocks:
            check()
            path = config.inputs[block.start.input_index]
            made = encode_block(block, job.encoder, config.errors, path, [], config.documents, form)
            n_before -= sum(len(ids) for ids_are_val, ids in made.tokens if ids_are_val == is_val)
            if n_before < 0:
                break
    if not form.has_records:
        return f"bytes {block.start.offset:,} to {block.end.offset:,}"
    name, number = ("row", 0) if form.container == "parquet" else ("line", 1)
    first, end = block.start.records + number, block.end.records + number
    which = f"{name} {first:,}" if end - first <= 1 else f"{name}s {first:,} to {end - 1:,}"
    return f"{which} (counted from {number})"


def _blocks_from(done: Tally, job: Job, block_bytes: int, check: Check) -> Blocks:
    config = job.config
    return pipeline.all_blocks(
        config.inputs,
        job.sizes,
        config.formats,
        start=done.position,
        bytes_before=done.text_bytes_before,
        windows=job.windows,
        documents=config.documents,
        block_bytes=block_bytes,
        errors=config.errors,
        check=check,
    )


def place_in_raw(block: Block, place: int, errors: str) -> int:
    r"""Find the byte of `block.raw` that byte `place` of the block's text comes from.

    >>> from nanogpt_compat.blocks import Position
    >>> place_in_raw(Block(b"a\r\nb\xffc", Position(0), Position(0, 6, 6), is_val=False), 3, "ignore")
    5
    """

    def whole(n_raw: int) -> int:
        """Leave out a character that is cut in two."""
        is_all = n_raw == len(block.raw)
        return n_raw if is_all else codecs.utf_8_decode(block.raw[:n_raw], "ignore", False)[1]

    def n_made(n_raw: int) -> int:
        return len(as_utf8(replace(block, raw=block.raw[: whole(n_raw)]), errors))

    char_end = bisect_right(range(len(block.raw) + 1), place, key=n_made)
    # U+FFFD is longer than the one byte that it may stand for.
    return max(whole(char_end - 1), char_end - (n_made(char_end) - place))
