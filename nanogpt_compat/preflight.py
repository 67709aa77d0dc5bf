"""Before a run: sample the inputs, choose the engine, forecast the output; write nothing."""

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

from nanogpt_compat import report
from nanogpt_compat.config import SEED, Config
from nanogpt_compat.encoders.choose import OPENING_BYTES, Choice, choose_encoder
from nanogpt_compat.encoders.forecast import Estimate, Estimator
from nanogpt_compat.encoders.interface import Encoder
from nanogpt_compat.encoders.reference import TiktokenEncoder, with_mark
from nanogpt_compat.encoders.vocabulary import Vocabulary, find_gpt2
from nanogpt_compat.errors import InputError, OutputError
from nanogpt_compat.input.compressed import UNPACK_BYTES_PER_S
from nanogpt_compat.input.fields import check_text_fields
from nanogpt_compat.input.kinds import Kind
from nanogpt_compat.input.location import Format, Input, Location
from nanogpt_compat.input.open import open_input
from nanogpt_compat.input.pipes import UNKNOWN, Pipe
from nanogpt_compat.input.reader import Reader
from nanogpt_compat.input.remedies import refusal
from nanogpt_compat.input.samples import Share, foreign_kind, take_samples
from nanogpt_compat.input.source import Source, reader_bytes, reader_of
from nanogpt_compat.memory.guard import Sampler, check_fits
from nanogpt_compat.memory.limits import MAX_MEMORY, own_bytes_reader
from nanogpt_compat.memory.policy import SMALLEST_BYTES, margin_bytes, room_bytes
from nanogpt_compat.output.ends import END, lay_out_ends
from nanogpt_compat.output.index import DOCUMENT_BYTES, SUFFIX, lay_out_indexes
from nanogpt_compat.output.layout import Shards, by_split, lay_out
from nanogpt_compat.output.shuffle import most_spill_bytes
from nanogpt_compat.output.spill import SpillFiles, spill_bytes
from nanogpt_compat.output.token_file import TOKEN, window_for
from nanogpt_compat.output.writer import full_shards, n_begun, others, written_bytes
from nanogpt_compat.pipeline import block_size
from nanogpt_compat.resume.checkpoint import Found
from nanogpt_compat.resume.counters import Tally
from nanogpt_compat.resume.fingerprint import (
    DOCUMENT_SHARE,
    TEXT_BYTES,
    TOKEN_FORMAT,
    describe_input,
    digest_of,
)
from nanogpt_compat.system.commands import show, this_command
from nanogpt_compat.system.units import format_bytes
from nanogpt_compat.text.documents import Documents
from nanogpt_compat.text.val_split import (
    CHARS_PER_CHUNK,
    LOOK_AHEAD_BYTES,
    Interval,
    Windows,
    document_ratio,
    total_bytes,
    val_bytes,
    windows_for,
)

_MANY_FILES = 10
_SMALL_FILE_BYTES = 64 * 1024
_TIKTOKEN_BYTES = 16 * 1024 * 1024  # with the vocabulary
_SHUFFLED_BYTES_PER_S = 100e6  # of tokens: sorted, written, read and written again (busy 2-core VM, SSD)

REPORTED_OPTIONS = {
    "--errors": "errors",
    "--n": "n_chunks",
    "--max-tokens": "max_tokens",
    "--val-ratio": "val_ratio",
    "--val-split": "val_split",
    "--document-separator": "separator",
    "--one-document-per-file": "one_document_per_file",
    "--eot": "eot",
    "--text-field": "text_field",
    "--skip-bad-records": "skip_bad_records",
    "--format": "output_format",
    "--shard-tokens": "shard_tokens",
    "--shard-name": "shard_name",
    "--index": "index",
    "--shuffle": "shuffle",
    "--seed": "seed",
}
"""The options that decide the output, and their names in `Config` and in `options` of prepare.json."""

_LATER_OPTIONS = {"--max-tokens", "--one-document-per-file", "--index", "--shuffle", "--seed"}
"""Those that earlier versions did not have. They count only if they are given, so that the output and saved
work of those versions stay valid."""


@dataclass(frozen=True, slots=True)
class Job:
    """A run that is ready to start: its options, and what preflight found out."""

    config: Config
    inputs: tuple[Input, ...]  # with their descriptions
    vocabulary: Vocabulary
    encoder: Encoder
    engine_line: str  # for people: which engine, and why
    forecast: Estimate  # for the samples alone, if the size of an input is unknown
    text_bytes: int | None  # of all inputs, uncompressed; None: unknown
    document_ratio: float  # the share of documents for validation, raised if there is little text
    shows_end_of_text: bool = False  # the samples hold `<|endoftext|>` as text

    @property
    def n_train_inputs(self) -> int:
        """How many of `inputs` are from --input; only these are split into train and val."""
        return len(self.inputs) - self.config.n_val_inputs

    @property
    def expected_bytes(self) -> int | None:
        """Bytes of the inputs that will be read, as they are stored; None if unknown."""
        return None if any(one.size_bytes is None for one in self.inputs) else self.forecast.text_bytes

    @property
    def windows(self) -> Windows:
        """The nominal windows for validation, in the order of the input."""
        return windows_for(self.split_bytes, self.config.val_ratio, self.config.val_split)

    @property
    def block_bytes(self) -> int:
        """Bytes of text that are encoded at a time."""
        return self.config.block_bytes or block_size(self.config.n_workers, self.encoder.most_block_bytes)

    @property
    def source(self) -> Source:
        """The inputs, and how they are cut into blocks."""
        config = self.config
        return Source(
            inputs=self.inputs,
            n_val_inputs=config.n_val_inputs,
            windows=self.windows,
            documents=self.documents,
            errors=config.errors,
            block_bytes=self.block_bytes,
        )

    @property
    def documents(self) -> Documents | None:
        """`Config.documents`, with the share for validation raised if there is little text."""
        documents = self.config.documents
        if documents is None or not documents.val_ratio:
            return documents
        return replace(documents, val_ratio=self.document_ratio)

    @property
    def outputs(self) -> dict[str, Shards]:
        """The files to be written; see `outputs_of`."""
        return outputs_of(self.config)

    @property
    def beside(self) -> dict[str, Shards]:
        """What is written beside them until they are complete; see `TokenFiles`."""
        return lay_out_ends(self.outputs) if self.config.index else {}

    @property
    def indexes(self) -> dict[str, Shards]:
        """The indexes to be written, by name."""
        return indexes_of(self.config) if self.config.index else {}

    @property
    def seed(self) -> int:
        """The seed of a shuffle."""
        return SEED if self.config.seed is None else self.config.seed

    def spill(self, number: int, *, word: str = "spill") -> SpillFiles:
        """Return the names of a spill of a shuffle, on the disk of train.bin."""
        return SpillFiles(self.outputs["train"].folder, number, word)

    @property
    def window_bytes(self) -> int:
        """How much of an output file is mapped at a time; the file grows in steps of this size."""
        shard_bytes = self.outputs["train"].shard_tokens * TOKEN.itemsize
        if self.expected_bytes is None:
            return window_for(shard_bytes)
        return window_for(min(shard_bytes, self.forecast.output_bytes))

    @property
    def folders(self) -> list[Path]:
        """All folders that are written to: a link in the output folder may lead to another folder."""
        parents = [shards.folder for shards in (self.outputs | self.indexes).values()]
        return [*{folder.resolve(): folder for folder in (*parents, self.config.output_dir)}.values()]

    @property
    def max_chars(self) -> int | None:
        """The limit that `--n` sets, in characters."""
        return _max_chars(self.config)

    @property
    def token_options(self) -> dict[str, Any]:
        """Everything except the inputs that decides the tokens, by option name if it has one."""
        is_split_by_hash = self.config.val_split == "documents"
        return {
            **({TEXT_BYTES: self.split_bytes} if self.windows else {}),
            **({DOCUMENT_SHARE: self.document_ratio} if is_split_by_hash else {}),
            "documents": "yes" if self.config.has_documents else "no",
            "token format": TOKEN_FORMAT,
            "tiktoken": report.versions()["tiktoken"],
            "vocabulary": self.vocabulary.sha256,
            **reported_options(self.config.as_options()),
        }

    @property
    def fingerprint(self) -> str:
        """Equal for two runs that make the same files from the same inputs."""
        return digest_of(self.token_options, self.inputs)

    @property
    def split_bytes(self) -> int | None:
        """Size of the text that the windows are a share of, as far as it may be read; None if unknown."""
        most_bytes = _most_bytes(self.config)
        if self.text_bytes is None or most_bytes is None:
            return self.text_bytes
        return min(self.text_bytes, most_bytes)

    def empty_documents(self, tally: Tally) -> int:
        """Return the number of documents without characters; an empty file has no block that counts it."""
        if not self.config.one_document_per_file:
            return tally.empty_documents
        rows = zip(self.inputs, tally.inputs, strict=False)
        return tally.empty_documents + sum(
            not (one.form.has_records or counts.text_bytes or counts.is_left) for one, counts in rows
        )

    @property
    def free_bytes(self) -> int:
        """Free disk space for train.bin, as this user may use it."""
        for folder in self.outputs["train"].path(0).parents:
            with contextlib.suppress(OSError):  # this folder does not exist yet
                return shutil.disk_usage(folder).free
        return 0


def look_into(
    config: Config,
    inputs: Sequence[Input],
    *,
    is_planned: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Job:
    """Load the vocabulary, sample the inputs, and forecast; holds the samples of one input at a time.

    `is_planned`: this is for a plan, which cannot read pipes. `check` is called for each input; an exception
    from it ends the work.

    Raises:
        InputError: an input is unreadable, empty or not UTF-8 text, or there is no vocabulary.
    """
    readers = _readers_of(config, inputs, repeat(None))
    n_train = len(inputs) - config.n_val_inputs
    may_pipe = not (is_planned or config.n_val_inputs)  # one pipe cannot be in place of both
    check_text_fields(readers, n_inputs=len(inputs), may_pipe=may_pipe, check=check)
    sizes = [_size_of(one.location, check) for one in inputs]
    if not any(size is None or size for size in sizes[:n_train]):
        raise InputError(f"there is no text: {report.name_inputs(inputs[:n_train])} has 0 bytes")
    stored_bytes = sum(LOOK_AHEAD_BYTES if size is None else size for size in sizes)
    vocabulary, chosen = open_engine(config, reader_bytes=reader_bytes(one.form for one in inputs))
    estimator = Estimator(
        chosen.encoder.encode,
        slowness=chosen.encoder.slowness,
        max_chars=_max_chars(config),
        max_tokens=config.max_tokens,
    )
    described: list[Input] = []
    text_sizes, shows_end_of_text = [], False
    refused: list[tuple[Location, Kind]] = []
    for one, reader in zip(inputs, _readers_of(config, inputs, sizes), strict=True):
        check()
        is_val = len(described) >= n_train
        split = ("val" if is_val else "train") if config.n_val_inputs else ""
        with open_input(reader.location, check=check) as file:
            samples = take_samples(file, total_bytes=stored_bytes, n_inputs=len(sizes))
            data = (sample.data for sample in samples)
            description = describe_input(reader.size_bytes, file.hints, data, split=split)
            described.append(replace(one, description=description))
            share = Share(len(sizes), file.size_bytes, stored_bytes)
            found = reader.sample(file, samples, share, check)
        text_sizes.append(found.text_bytes)
        kind = foreign_kind(found.text, separator=config.separator, errors_given=config.errors_given)
        if kind is not None:
            refused.append((reader.location, kind))
            continue
        shows_end_of_text |= found.shows_end_of_text
        estimator.add(
            found.texts,
            weights=found.weights,
            sampled_bytes=found.n_bytes,
            size_bytes=round(found.n_bytes) if reader.size_bytes is None else reader.size_bytes,
            read_bytes_per_s=UNPACK_BYTES_PER_S.get(reader.form.compression, float("inf")),
            is_val=is_val,
        )
    if refused:
        option = "" if config.n_val_inputs else "--input"
        raise refusal(refused, n_inputs=len(inputs), may_pipe=may_pipe, option=option)
    config = replace(config, n_workers=min(config.n_workers, chosen.encoder.most_workers))
    forecast = estimator.estimate(n_workers=config.n_workers)
    if config.shuffle:
        seconds = forecast.seconds + forecast.output_bytes / _SHUFFLED_BYTES_PER_S
        forecast = replace(forecast, seconds=seconds)
    text_bytes = total_bytes(text_sizes, has_streams=any(one.is_stream for one in inputs))
    return Job(
        config,
        tuple(described),
        vocabulary,
        chosen.encoder,
        chosen.line,
        forecast,
        text_bytes,
        document_ratio(text_sizes[:n_train], config.val_ratio, max_bytes=_most_bytes(config)),
        shows_end_of_text,
    )


def _size_of(path: Location, check: Callable[[], None]) -> int | None:
    """Return the size of an input in bytes; None for a pipe that has more than `LOOK_AHEAD_BYTES`."""
    check()
    with open_input(path, check=check) as file:
        if isinstance(path, Pipe):
            file.read(LOOK_AHEAD_BYTES + 1, 0)
        return None if file.size_bytes == UNKNOWN else file.size_bytes


def _readers_of(config: Config, inputs: Sequence[Input], sizes: Iterable[int | None]) -> Iterator[Reader]:
    documents = config.documents
    for one, size in zip(inputs, sizes, strict=False):
        yield reader_of(one.location, one.form, documents=documents, errors=config.errors, size_bytes=size)


def open_engine(config: Config, *, reader_bytes: int) -> tuple[Vocabulary, Choice]:
    """Load the vocabulary and the engine, if there is memory for them."""
    engine_bytes = _TIKTOKEN_BYTES + (OPENING_BYTES if config.engine == "gigatoken" else 0)
    sampler = Sampler(
        max_memory_bytes=config.max_memory_bytes, min_available_bytes=config.min_available_bytes
    )
    # The engines abort if there is less.
    needed_bytes = engine_bytes + SMALLEST_BYTES
    check_fits(sampler.sample(), own_bytes=sampler.own_bytes(), smallest_bytes=needed_bytes)
    vocabulary = find_gpt2(config.vocab_dir)
    readings = sampler.sample(is_fresh=True)
    chosen = choose_encoder(
        config.engine,
        vocabulary.encoding,
        has_documents=config.has_documents,
        n_workers=config.n_workers,
        own_bytes=own_bytes_reader(),
        spare_bytes=min(map(margin_bytes, readings), default=sys.maxsize),
        cache_bytes=room_bytes([one for one in readings if one.name == MAX_MEMORY]) or 0,
        reader_bytes=reader_bytes,
    )
    return vocabulary, chosen


def reported_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that decide the tokens, from `options` of prepare.json, by the names of the options.

    Raises:
        KeyError: it is not a report of this program.
    """
    return {
        option: options[name]
        for option, name in REPORTED_OPTIONS.items()
        if option not in _LATER_OPTIONS or _is_given(options.get(name))
    }


def _is_given(value: object) -> bool:
    return value is not None and value is not False  # 0 is a seed


def with_reference(job: Job) -> Job:
    """Replace the engine by tiktoken."""
    encoding = job.vocabulary.encoding
    encoder = TiktokenEncoder(with_mark(encoding) if job.config.has_documents else encoding)
    return replace(job, encoder=encoder)


def outputs_of(config: Config) -> dict[str, Shards]:
    """Return the files to be written, by split or stream; looks into the output folder for links."""
    return lay_out(
        config.output_dir,
        form=config.output_format,
        shard_tokens=config.shard_tokens,
        word=config.shard_name,
        has_val=config.has_val,
        has_val_inputs=config.n_val_inputs > 0,
    )


def indexes_of(config: Config) -> dict[str, Shards]:
    """Return the indexes that belong to the files of a run, by name, whether it makes them or not."""
    return lay_out_indexes(config.output_dir, outputs_of(config))


def _max_chars(config: Config) -> int | None:
    return None if config.n_chunks is None else config.n_chunks * CHARS_PER_CHUNK


def _most_bytes(config: Config) -> int | None:
    """Return how many bytes of text a limit lets the run read, for the split: a character counts as one.

    A token counts as four bytes, as in English. None without a limit.
    """
    limits = [_max_chars(config), None if config.max_tokens is None else 4 * config.max_tokens]
    return min((one for one in limits if one is not None), default=None)


def check_names(config: Config, inputs: Sequence[Input], found: Found, *, is_restart: bool = False) -> None:
    """Refuse to write over files that exist, unless `--overwrite` allows it and they may be replaced.

    Shards that the saved run (`found`) has named already may exist. With `is_restart` they may not, because
    the new run may have others.

    Raises:
        OutputError: a file exists and `--overwrite` is missing; or it is a folder, an input, or both outputs.
    """
    outputs, indexes = outputs_of(config), indexes_of(config)
    named = {shards.listed_name(0): shards for shards in reversed(outputs.values())}
    if config.index:
        outputs, named = outputs | indexes, named | indexes
    first: dict[Path, str] = {}
    for name, shards in named.items():
        path = shards.path(0)
        if path in first:
            raise OutputError(f"{first[path]} and {name} are links to one file, {path}; remove one of them")
        first[path] = name
    for path in [path for shards in indexes.values() for path in others(shards, n_own=0)]:
        if not (config.index or config.overwrite):
            raise OutputError(
                f"{path} exists, but this run makes no index, and Megatron would read it with the new "
                "tokens; pass --overwrite to remove it once the output is complete, or another --output-dir"
            )
    for final in [
        final
        for name, shards in outputs.items()
        for n_tokens in [found.tokens.get(name.removesuffix(SUFFIX), 0)]
        for n_own in [0 if is_restart else n_begun(shards, n_tokens, is_torn=found.is_torn)]
        for final in others(shards, n_own=n_own, n_tokens=n_tokens)
    ]:
        if final.is_dir():
            raise OutputError(f"{final} is a folder; move it away, or give another --output-dir")
        paths = [one.location for one in inputs if isinstance(one.location, Path)]
        if final.exists() and any(map(final.samefile, paths)):
            raise OutputError(f"{final} is an input of this run; give another --output-dir")
        if not config.overwrite:
            raise OutputError(
                f"{final} exists already; pass --overwrite to replace it once the new one is complete, "
                "or another --output-dir"
            )


def check_disk(job: Job, tokens: Mapping[str, int]) -> None:
    """Raise OutputError if the output does not fit on the disk; what is written already counts as free."""
    config = job.config
    if job.expected_bytes is None:
        return  # if the disk runs full, the run stops, and resumes when there is space
    have_bytes = job.free_bytes + written_bytes(full_shards(job.outputs | job.beside, tokens))
    shuffling = " while it is shuffled" if config.shuffle else ""
    if needed_bytes(job) > have_bytes:
        raise OutputError(
            f"the output will need about {format_bytes(needed_bytes(job))}{shuffling} and "
            f"{config.output_dir} has {format_bytes(have_bytes)} for it; free some space, or give an "
            "--output-dir on a larger disk"
        )


def needed_bytes(job: Job) -> int:
    """Return the disk space that the run takes at most: each file grows by whole windows."""
    tokens = foreseen_tokens(job)
    n_bytes = sum(shards.size_bytes(tokens[stream]) for stream, shards in job.outputs.items())
    if job.config.index:
        n_bytes += (END.itemsize + DOCUMENT_BYTES) * job.forecast.documents
    n_bytes += (len(job.outputs) + len(job.beside)) * job.window_bytes
    return n_bytes + needed_for_spill(job)


def needed_for_spill(job: Job, *, with_output: bool = True) -> int:
    """Return the disk space that a shuffle takes until the output is complete.

    `with_output`: besides the space for the output, which it uses as long as there is no output.
    """
    if not job.config.shuffle:
        return 0
    n_files = len(job.spill(0).outputs)
    counts = job.forecast.tokens, job.forecast.documents
    before_output = most_spill_bytes(*counts) - (job.forecast.output_bytes if with_output else 0)
    return max(spill_bytes(*counts), before_output) + n_files * job.window_bytes


def start_line(job: Job) -> str:
    """Return the first line of a run: what it is about to do."""
    return report.start_line(
        job.inputs,
        None if job.expected_bytes is None else job.forecast,
        free_bytes=job.free_bytes,
        n_workers=job.config.n_workers,
    )


def forecast_record(job: Job) -> dict[str, object]:
    """Return the forecast of a dry run for a program; null where the size of an input is unknown."""
    forecast, is_known = job.forecast, job.expected_bytes is not None
    return {
        "text_bytes": forecast.text_bytes if is_known else None,
        "tokens": by_split(job.outputs, foreseen_tokens(job)) if is_known else None,
        "tokens_per_byte": round(forecast.tokens / max(1, forecast.text_bytes), 4),
        "output_bytes": forecast.output_bytes if is_known else None,
        "spill_bytes": needed_for_spill(job) if is_known else None,
        "free_bytes": job.free_bytes,
        "memory_bytes": job.encoder.peak_bytes,
        "wall_s": round(forecast.seconds, 1) if is_known else None,
        "engine": job.encoder.name,
        "workers": job.config.n_workers,
    }


def describe_val(job: Job) -> str:
    """Describe in a few words where the validation tokens come from."""
    documents = job.documents
    ratio = job.config.val_ratio if documents is None else documents.val_ratio
    inputs = job.inputs[job.n_train_inputs :]
    return report.describe_val(job.config.val_split, job.windows, ratio=ratio, inputs=inputs)


def foreseen_tokens(job: Job) -> dict[str, int]:
    """Forecast the tokens of train and val."""
    n_tokens, windows = job.forecast.tokens, job.windows
    if set(job.outputs) == {"train"}:
        return {"train": n_tokens}
    if job.config.n_val_inputs:
        return {"train": n_tokens - job.forecast.val_tokens, "val": job.forecast.val_tokens}
    if job.documents is not None:
        share = job.documents.val_ratio
    elif isinstance(windows, Interval):
        share = windows.width / windows.period
    else:
        share = sum(end - start for start, end in windows) / max(1, job.split_bytes or 0)
    n_val = round(share * n_tokens)
    return {"train": n_tokens - n_val, "val": n_val}


def notices(job: Job) -> list[str]:
    """Return notices about a share for validation that is larger than `--val-ratio`."""
    config, lines = job.config, []
    n_bytes = job.split_bytes
    if job.windows and n_bytes is not None:
        n_nominal, n_val = round(n_bytes * config.val_ratio), val_bytes(n_bytes, config.val_ratio)
        if n_val > n_nominal:
            lines.append(
                f"notice: val.bin was raised from {format_bytes(n_nominal)} to {format_bytes(n_val)} of text "
                "so that blocks can be sampled from it"
            )
    if config.val_split == "documents" and job.document_ratio > config.val_ratio:
        lines.append(
            f"notice: {job.document_ratio:.2%} of the documents are for validation instead of "
            f"{config.val_ratio:.2%}, so that blocks can be sampled from val.bin"
        )
    return lines


def offer_documents(job: Job, redo: Sequence[str]) -> list[str]:
    """Return a notice if many small files of text are read as one stream: each may be a document.

    `redo`: the options with which the offered command starts over.
    """
    config = job.config
    sizes = [
        one.size_bytes for one in job.inputs if one.size_bytes is not None and one.form == Format("text")
    ]
    if job.documents is not None or job.shows_end_of_text or len(sizes) < _MANY_FILES:
        return []
    median_bytes = sorted(sizes)[len(sizes) // 2]
    if median_bytes > _SMALL_FILE_BYTES:
        return []
    without = ["--dry-run", *redo, *(["--val-split"] if config.has_val else [])]
    command = this_command("--one-document-per-file", *redo, without=without)
    return [
        f"notice: {len(sizes):,} small text files (the median has {format_bytes(median_bytes)}) are read as "
        f"one stream. If each is a document:{show(command)}"
    ]


def dry_run_lines(job: Job) -> list[str]:
    """Return the lines of a dry run: what a run would need and make."""
    config, forecast = job.config, job.forecast
    lines = [start_line(job), job.engine_line, f"vocabulary: {job.vocabulary.source}"]
    across = "of its beginning" if job.text_bytes is None else "across the input"
    lines.append(f"tokens per byte: {forecast.tokens / forecast.text_bytes:.3f}, from samples {across}")
    if job.expected_bytes is None:
        lines.append(
            f"output: {format_bytes(job.free_bytes)} free in {config.output_dir}; the size of the input is "
            "unknown"
        )
    else:
        lines.append(
            f"output: {format_bytes(forecast.output_bytes)} of {format_bytes(job.free_bytes)} free in "
            f"{config.output_dir}"
        )
        if config.shuffle:
            lines.append(f"shuffling: {format_bytes(needed_for_spill(job))} more there while it runs")
    lines.append(f"memory: at most {format_bytes(job.encoder.peak_bytes)} of its own")
    if config.has_val:
        name = next(shards.listed_name(0) for shards in job.outputs.values() if shards.n_val)
        lines.append(f"{name}: {describe_val(job)}")
    return lines
