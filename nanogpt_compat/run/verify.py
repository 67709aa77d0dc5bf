"""Verify finished output: encode all of the input again with tiktoken, and compare every token.

It shares with the run only the rules for cutting text into blocks and for choosing the split. It uses no
other engine, no journal and no checkpoint.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

from nanogpt_compat import report
from nanogpt_compat.errors import CheckpointError, DifferenceError, InputError, OutputError
from nanogpt_compat.input.pipes import Pipe
from nanogpt_compat.output.check import find_surplus
from nanogpt_compat.output.finished import FinishedFiles
from nanogpt_compat.output.layout import by_split, by_stream, files_of, name_tokens
from nanogpt_compat.output.reader import MAKE_AGAIN, Difference
from nanogpt_compat.output.shuffle import Place
from nanogpt_compat.output.spill import Spill, SpillReader, SpillWriter, remove_spill
from nanogpt_compat.output.written import is_there
from nanogpt_compat.preflight.checks import needed_for_spill
from nanogpt_compat.preflight.job import Job, reported_options
from nanogpt_compat.resume.counters import InputTally, Tally
from nanogpt_compat.resume.fingerprint import differences
from nanogpt_compat.resume.state import changed_inputs, consumed_in
from nanogpt_compat.run.supervise import Check, Watch, locked
from nanogpt_compat.system.units import format_bytes, plural
from nanogpt_compat.system.voice import Voice
from nanogpt_compat.text.documents import END_OF_TEXT

_COUNTS = ("documents", "skipped_records", "invalid_bytes")


def verify(job: Job, voice: Voice) -> None:
    """Compare the finished files with the input, and write the SHA-256 of each into prepare.json.

    The engine of `job` must be tiktoken. `voice.check` may raise to stop.
    """
    watch = Watch(job, voice)
    _finished(job)  # before locking, which creates a missing folder
    with locked(job.folders):
        made = _finished(job)
        _check_belongs(job, made, watch)
        own = {one.path for one in files_of(job.outputs, by_stream(job.outputs, made["tokens"]))}
        own |= {shards.path(0) for shards in job.indexes.values()}
        if missing := [path for path in own if not is_there(path)]:
            raise _incomplete(min(missing))
        for line in find_surplus(job.outputs, job.config.output_dir, own):
            raise DifferenceError(line)
        with watch, FinishedFiles(job.outputs, job.indexes) as files:
            tally = _compare(job, files, watch)
        _check_report(job, made, tally, files.n_ends, files.described)
        report.write_report(job.config.output_dir, made | {"files": files.described})
    made_files = list(files_of(job.outputs, by_stream(job.outputs, made["tokens"])))
    names = ", ".join([name_tokens(made_files), *reversed(job.indexes)])
    voice.say(f"verified: {names}, all as tiktoken {job.encoder.version} makes them")


def _finished(job: Job) -> dict[str, Any]:
    """Return the report of complete output; raise if it, or the first file of a stream, is missing."""
    folder = job.config.output_dir
    made = report.read_report(folder)
    first = [shards.path(0) for shards in job.outputs.values()]
    if made is None or not all(map(is_there, first)):
        raise _incomplete(next((path for path in first if not is_there(path)), folder / report.REPORT_NAME))
    return made


def _incomplete(path: Path) -> OutputError:
    return OutputError(
        f"there is no complete output to verify: {path} is missing or cannot be read; run the same command "
        "without --verify first"
    )


def _check_belongs(job: Job, made: Mapping[str, Any], watch: Watch) -> None:
    """Raise if the report is from a run with other inputs or options, or was not written by this program."""
    path = job.config.output_dir / report.REPORT_NAME
    try:
        old, new = map(reported_options, (made["options"], job.config.as_options()))
        old["tiktoken"], new["tiktoken"] = made["versions"]["tiktoken"], job.token_options["tiktoken"]
        found = differences(old, new, made["inputs"], job.inputs)
        if not found and made["fingerprint"] != job.fingerprint:
            found = [
                "the vocabulary or the version of this program is not the same, so the tokens may differ"
            ]
        if not found:
            read = consumed_in(made, job.config.max_chars)
            files = [index for index, one in enumerate(job.inputs) if not isinstance(one.location, Pipe)]
            changes = changed_inputs(
                job.source, read, made["inputs"], say=watch.voice.say, check=watch.check, only=files
            )
            found = [f"{one} {change}" for one, change in changes]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise OutputError(f"{path} is not a report that this version can read; {MAKE_AGAIN}") from error
    if found:
        raise CheckpointError(
            f"{path} belongs to a different run: {'; '.join(found)}. Use the inputs and options of that "
            f"run, or {MAKE_AGAIN}"
        )


def _compare(job: Job, files: FinishedFiles, watch: Watch) -> Tally:
    """Run the pipeline from the beginning, compare, and return its counters."""
    tally = Tally([InputTally() for _ in job.inputs])
    try:
        if job.config.shuffle:
            _compare_shuffled(job, files, tally, watch)
        else:
            watch.go_through(job, files, tally)
    except Difference as difference:
        raise DifferenceError(_describe(difference, job, tally, watch.check)) from difference
    except MemoryError as error:
        raise watch.memory_refused() from error
    files.finish()
    return tally


def _compare_shuffled(job: Job, files: FinishedFiles, tally: Tally, watch: Watch) -> None:
    """Make both passes of the shuffle again, with a spill of its own, and compare what the second makes."""
    needed_bytes = needed_for_spill(job, with_output=False)
    if needed_bytes > job.free_bytes:
        raise OutputError(
            f"to verify shuffled documents, {job.config.output_dir} needs about "
            f"{format_bytes(needed_bytes)} for a while and has {format_bytes(job.free_bytes)}; free "
            "some space, or run --check, which compares the files with their checksums"
        )
    names = partial(job.spill, word="verify")
    place = Place(0, 0)
    try:
        with Spill(names(0), seed=job.seed, n_tokens={}, file_window_bytes=job.window_bytes) as spill:
            watch.go_through(job, spill, tally, flush=spill.drop_pages)
            spill.end_window()
            spill.finish()
            place = Place(0, spill.n_windows)
        while not place.is_last:
            following = names(place.number + 1)
            with (
                SpillReader(names(place.number), place.n_windows) as reader,
                SpillWriter(following, n_tokens={}, window_bytes=job.window_bytes) as writer,
            ):
                watch.shuffle(reader, place, writer, tally, flush=writer.drop_pages)
                writer.finish()
            remove_spill(names(place.number))
            place = Place(following.number, writer.n_windows)
        with SpillReader(names(place.number), place.n_windows) as reader:
            watch.shuffle(reader, place, files, tally)
    finally:
        for number in (place.number, place.number + 1):
            remove_spill(names(number))


def _check_report(
    job: Job, made: Mapping[str, Any], tally: Tally, n_ends: int, described: Sequence[Mapping[str, Any]]
) -> None:
    """Raise unless the report has the right counts and describes the files; older versions omitted some.

    Each document has one end-of-text token. Literal `<|endoftext|>` in the text never becomes that token.
    """
    n_documents = 0 if job.config.eot == "none" else tally.documents
    if n_ends != n_documents:
        raise DifferenceError(
            f"{plural(n_documents, 'document has', 'documents have')} "
            f"{plural(n_ends, 'end-of-text token')} ({END_OF_TEXT}); "
            f"{MAKE_AGAIN}"
        )
    tokens = by_split(job.outputs, {"train": tally.train_tokens, "val": tally.val_tokens})
    counts = {name: getattr(tally, name) for name in _COUNTS}
    found = {"tokens": tokens, **counts, "empty_documents": job.empty_documents(tally)}
    wrong = [
        (name, made.get(name), count)
        for name, count in found.items()
        if made.get(name) != count and not (made.get(name) is None and not count)  # null: was not counted
    ]
    listed = made.get("files")
    entries = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    was = {one.get("name"): one for one in entries}
    for new in described:
        old = was.get(new["name"], {})
        wrong += [(f"{k} of {new['name']}", old[k], new[k]) for k in new if k in old and old[k] != new[k]]
    for name, there, right in wrong:
        raise DifferenceError(
            f"{job.config.output_dir / report.REPORT_NAME}: {name} is {there!r} and should be {right!r}; "
            f"{MAKE_AGAIN}"
        )


def _describe(difference: Difference, job: Job, done: Tally, check: Check) -> str:
    """Return the message about a wrong token; `done` counts all blocks before the one with the token."""
    encoding = job.vocabulary.encoding

    def show(token: int) -> str:
        if token >= encoding.n_vocab:
            return f"{token}, which is no token of GPT-2"
        return f"{token} ({encoding.decode_single_token_bytes(token)!r})"

    found = "missing (the file ends there)" if difference.found is None else show(difference.found)
    return (
        f"{difference.path}: token {difference.index:,}, at byte {difference.byte:,}, is {found} and should "
        f"be {show(difference.expected)}, which comes from {_next_block(job, done, check)}; {MAKE_AGAIN}"
    )


def _next_block(job: Job, done: Tally, check: Check) -> str:
    """Return where in the input the first block after `done` is, in words; reads that block again."""
    if done.shuffled is not None:
        return "an unknown place in the input, because the documents are shuffled"
    path = job.inputs[done.position.input_index].location
    with suppress(InputError):  # the difference stands even if the input cannot be read again
        if not isinstance(path, Pipe):
            blocks = job.source.blocks(done.position, bytes_before=done.text_bytes_before, check=check)
            with closing(blocks):
                block = next(blocks)
            path = job.inputs[block.start.input_index].location
            return f"the block of {block.where} of {path}"
    return f"the text after byte {done.position.offset:,} of {path}, if that text has not changed"
