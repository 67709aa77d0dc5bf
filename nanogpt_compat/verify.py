"""Verify finished output: encode all of the input again with tiktoken, and compare every token.

Of what made the output nothing is asked but where text may be cut and which split it goes to: no other
engine, no journal, no checkpoint.
"""

import codecs
from bisect import bisect_right
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanogpt_compat import report
from nanogpt_compat.encoders.block import encode_block
from nanogpt_compat.errors import CheckpointError, DifferenceError, InputError, OutputError
from nanogpt_compat.input.pipes import Pipe
from nanogpt_compat.input.text import as_utf8
from nanogpt_compat.output.layout import by_split, by_stream, files_of
from nanogpt_compat.output.reader import MAKE_AGAIN, Difference, FinishedFiles
from nanogpt_compat.output.writer import is_there, others
from nanogpt_compat.pipeline import all_blocks
from nanogpt_compat.preflight import REPORTED_OPTIONS, Job
from nanogpt_compat.resume.counters import InputTally, Tally
from nanogpt_compat.resume.fingerprint import differences
from nanogpt_compat.resume.state import changed_inputs, consumed_in
from nanogpt_compat.supervise import Check, Say, Watch, locked
from nanogpt_compat.system.display import Display
from nanogpt_compat.system.units import plural
from nanogpt_compat.text.blocks import Block, Blocks
from nanogpt_compat.text.documents import END_OF_TEXT

_A_FEW_BYTES = 256
_COUNTS = ("documents", "empty_documents", "skipped_records", "invalid_bytes")


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
            tally = _compare(job, files, watch)
        _check_counts(job, made, tally, files.n_ends)
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
            read = consumed_in(made, job.max_chars)
            files = [index for index, one in enumerate(job.config.inputs) if not isinstance(one, Pipe)]
            changes = changed_inputs(
                job.source, read, made["inputs"], job.inputs, say=watch.say, check=watch.check, only=files
            )
            found = [f"{one} {change}" for one, change in changes]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise OutputError(f"{path} is not as this program writes it; {MAKE_AGAIN}") from error
    if found:
        raise CheckpointError(
            f"{path} is of a run that this one cannot verify: {'; '.join(found)}. Give the input and the "
            f"options of that run; or {MAKE_AGAIN}"
        )


def _compare(job: Job, files: FinishedFiles, watch: Watch) -> Tally:
    """Run the pipeline from the beginning, and compare; return what was counted.

    Raises:
        DifferenceError: at the first token that is not as it should be.
    """
    tally = Tally([InputTally() for _ in job.inputs])
    try:
        watch.go_through(job, files, tally, flush=_do_nothing, after_block=_do_nothing)
    except Difference as difference:
        raise DifferenceError(_describe(difference, job, tally, watch.check)) from difference
    except MemoryError as error:
        raise watch.memory_refused() from error
    files.finish()
    return tally


def _check_counts(job: Job, made: Mapping[str, Any], tally: Tally, n_ends: int) -> None:
    """Make sure that each document has one end-of-text token, and that the report counts as was counted.

    Text that reads `<|endoftext|>` is never that token.

    Raises:
        DifferenceError: it is not so.
    """
    n_documents = 0 if job.config.eot == "none" else tally.documents
    if n_ends != n_documents:
        raise DifferenceError(
            f"{plural(n_documents, 'document has', 'documents have')} "
            f"{plural(n_ends, 'end-of-text token')} ({END_OF_TEXT}); "
            f"{MAKE_AGAIN}"
        )
    tokens = by_split(job.outputs, {"train": tally.train_tokens, "val": tally.val_tokens})
    found = {"tokens": tokens, **{name: getattr(tally, name) for name in _COUNTS}}
    for name, count in found.items():
        if made.get(name) != count and not (made.get(name) is None and not count):  # null: not counted
            raise DifferenceError(
                f"{job.config.output_dir / report.REPORT_NAME}: {name} is {made.get(name)!r} and should be "
                f"{count!r}; {MAKE_AGAIN}"
            )


def _do_nothing() -> None:
    """There is nothing to save, and nothing to write back."""


def _describe(difference: Difference, job: Job, done: Tally, check: Check) -> str:
    """Say what differs, where, and of what it should be made; `done` is what came before its block."""
    encoding = job.vocabulary.encoding
    token = int(difference.expected[difference.n_same])

    def show(token: int) -> str:
        if token >= encoding.n_vocab:
            return f"{token}, which is no token of GPT-2"
        return f"{token} ({encoding.decode_single_token_bytes(token)!r})"

    made_of = _made_of(difference, job, done, check)
    found = "missing, the file ends there," if difference.found is None else show(difference.found)
    return (
        f"{difference.path}: token {difference.index:,}, at byte {difference.byte:,}, is "
        f"{found} and should be {show(token)}, made of {made_of}; {MAKE_AGAIN}"
    )


def _made_of(difference: Difference, job: Job, done: Tally, check: Check) -> str:
    """Find what of which input the token should be made of."""
    config = job.config
    path = config.inputs[done.position.input_index]
    with suppress(InputError):  # that it cannot be read again says nothing against the difference
        if not isinstance(path, Pipe):
            find = _bytes_of if config.documents is None else _documents_of
            block, place = find(difference, job, done, check)
            return f"{place} of {config.inputs[block.start.input_index]}"
    return f"what follows byte {done.position.offset:,} of {path}, if this is the same text"


def _bytes_of(difference: Difference, job: Job, done: Tally, check: Check) -> tuple[Block, str]:
    """Find the block, and the bytes, of a text that is one stream."""
    encoding = job.vocabulary.encoding
    n_before = len(encoding.decode_bytes(difference.expected[: difference.n_same].tolist()))
    n_bytes = len(encoding.decode_single_token_bytes(int(difference.expected[difference.n_same])))
    with closing(_blocks_from(done, job, job.block_bytes, check)) as blocks:
        block = next(blocks)
    first, last = (
        block.start.offset + place_in_raw(block, place, job.config.errors)
        for place in (n_before, n_before + n_bytes - 1)
    )
    return block, f"bytes {first:,} to {last + 1:,}"


def _documents_of(difference: Difference, job: Job, done: Tally, check: Check) -> tuple[Block, str]:
    """Find a small block, and in words the documents, or a part of one, by encoding them a few at a time."""
    config, is_val = job.config, difference.is_val
    n_before = difference.place - (done.val_tokens if is_val else done.train_tokens)
    with closing(_blocks_from(done, job, _A_FEW_BYTES, check)) as blocks:
        for block in blocks:
            check()
            index = block.start.input_index
            path, form = config.inputs[index], config.formats[index]
            made = encode_block(block, job.encoder, config.errors, path, [], job.documents, form)
            n_before -= sum(len(ids) for ids_are_val, ids in made.tokens if ids_are_val == is_val)
            if n_before < 0:
                break
    if not form.has_records:
        return block, f"bytes {block.start.offset:,} to {block.end.offset:,}"
    name, number = ("row", 0) if form.container == "parquet" else ("line", 1)
    first, end = block.start.records + number, block.end.records + number
    which = f"{name} {first:,}" if end - first <= 1 else f"{name}s {first:,} to {end - 1:,}"
    return block, f"{which} (counted from {number})"


def _blocks_from(done: Tally, job: Job, block_bytes: int, check: Check) -> Blocks:
    source = replace(job.source, block_bytes=block_bytes)
    return all_blocks(source, done.position, bytes_before=done.text_bytes_before, check=check)


def place_in_raw(block: Block, place: int, errors: str) -> int:
    r"""Find the byte of `block.raw` that byte `place` of the block's text comes from.

    >>> from nanogpt_compat.text.blocks import Position
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
