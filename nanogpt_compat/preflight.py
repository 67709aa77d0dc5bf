"""What a run is about to do: the input looked into, the output foreseen, and nothing written yet."""

import contextlib
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanogpt_compat import report
from nanogpt_compat.config import Config
from nanogpt_compat.encoders.choose import OPENING_BYTES, Choice, choose_encoder
from nanogpt_compat.encoders.interface import Encoder
from nanogpt_compat.encoders.reference import TiktokenEncoder, with_mark
from nanogpt_compat.encoders.vocabulary import Vocabulary, find_gpt2
from nanogpt_compat.errors import InputError, OutputError
from nanogpt_compat.forecast import Estimate, Estimator
from nanogpt_compat.input.excerpts import Excerpts, Share, take_records, take_text
from nanogpt_compat.input.fields import check_text_fields
from nanogpt_compat.input.kinds import Kind
from nanogpt_compat.input.location import Location, Url
from nanogpt_compat.input.open import open_input
from nanogpt_compat.input.pipes import UNKNOWN, Pipe
from nanogpt_compat.input.records import READER_BYTES, size_of_text
from nanogpt_compat.input.remedies import refusal
from nanogpt_compat.input.samples import foreign_kind, take_packed_samples, take_samples
from nanogpt_compat.input.source import Source
from nanogpt_compat.memory.guard import Sampler, check_fits
from nanogpt_compat.memory.limits import own_bytes_reader
from nanogpt_compat.memory.policy import SMALLEST_BYTES, margin_bytes
from nanogpt_compat.output.layout import Shards, lay_out
from nanogpt_compat.output.token_file import TOKEN, window_for
from nanogpt_compat.output.writer import full_shards, n_begun, others, written_bytes
from nanogpt_compat.pipeline import block_size
from nanogpt_compat.resume.checkpoint import Found
from nanogpt_compat.resume.fingerprint import (
    DOCUMENT_SHARE,
    TEXT_BYTES,
    TOKEN_FORMAT,
    describe_input,
    digest_of,
)
from nanogpt_compat.system.units import format_bytes
from nanogpt_compat.text.documents import END_OF_TEXT_NAME, MARK, Documents
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

_TIKTOKEN_BYTES = 16 * 1024 * 1024  # with the vocabulary

REPORTED_OPTIONS = {
    "--errors": "errors",
    "--n": "n_chunks",
    "--val-ratio": "val_ratio",
    "--val-split": "val_split",
    "--document-separator": "separator",
    "--eot": "eot",
    "--text-field": "text_field",
    "--skip-bad-records": "skip_bad_records",
    "--format": "output_format",
    "--shard-tokens": "shard_tokens",
    "--shard-name": "shard_name",
}
"""The options that decide the tokens, and their names in `Config` and so in `options` of prepare.json."""


@dataclass(frozen=True, slots=True)
class Job:
    """A run that has been looked into."""

    config: Config
    inputs: tuple[Mapping[str, Any], ...]  # as `describe_input` has them
    vocabulary: Vocabulary
    encoder: Encoder
    engine_line: str  # says which engine it is, and why
    forecast: Estimate  # of the samples alone, where a size is not known
    text_bytes: int | None  # of all inputs, uncompressed; None: nobody knows
    document_ratio: float  # the share of documents for validation, raised where there is little text
    shows_end_of_text: bool = False  # the samples hold `<|endoftext|>` as text

    @property
    def sizes(self) -> list[int | None]:
        """Bytes of each input; None of a pipe that goes on behind what was looked at."""
        return [one["size"] for one in self.inputs]

    @property
    def expected_bytes(self) -> int | None:
        """Say how much will be read, of the files; None if nobody knows."""
        return None if None in self.sizes else self.forecast.text_bytes

    @property
    def windows(self) -> Windows:
        """The nominal windows for validation, in the order of the input."""
        return windows_for(self.split_bytes, self.config.val_ratio, self.config.val_split)

    @property
    def block_bytes(self) -> int:
        """How much text is encoded at a time."""
        return self.config.block_bytes or block_size(self.config.n_workers, self.encoder.most_block_bytes)

    @property
    def source(self) -> Source:
        """What is read, and how it is cut."""
        config = self.config
        return Source(
            paths=config.inputs,
            sizes=self.sizes,
            formats=config.formats,
            windows=self.windows,
            documents=self.documents,
            errors=config.errors,
            block_bytes=self.block_bytes,
        )

    @property
    def documents(self) -> Documents | None:
        """What to do about documents, with the share that goes to validation; None if there are none."""
        documents = self.config.documents
        if documents is None or not documents.val_ratio:
            return documents
        return replace(documents, val_ratio=self.document_ratio)

    @property
    def outputs(self) -> dict[str, Shards]:
        """As `outputs_of`; may raise OutputError."""
        return outputs_of(self.config)

    @property
    def window_bytes(self) -> int:
        """How much of a file is mapped at a time, and so by how much it grows."""
        shard_bytes = self.outputs["train"].shard_tokens * TOKEN.itemsize
        if self.expected_bytes is None:
            return window_for(shard_bytes)
        return window_for(min(shard_bytes, self.forecast.output_bytes))

    @property
    def folders(self) -> list[Path]:
        """All folders that are written to: links may lead out of the output folder."""
        parents = [shards.folder for shards in self.outputs.values()]
        return [*{folder.resolve(): folder for folder in (*parents, self.config.output_dir)}.values()]

    @property
    def max_chars(self) -> int | None:
        """What `--n` lets through."""
        return _max_chars(self.config)

    @property
    def token_options(self) -> dict[str, Any]:
        """Everything but the input that decides the tokens, by the name of its option where it has one."""
        is_split_by_hash = self.config.val_split == "documents"
        return {
            **({TEXT_BYTES: self.split_bytes} if self.windows else {}),
            **({DOCUMENT_SHARE: self.document_ratio} if is_split_by_hash else {}),
            "documents": "no" if self.config.documents is None else "yes",
            "token format": TOKEN_FORMAT,
            "tiktoken": report.versions()["tiktoken"],
            "vocabulary": self.vocabulary.sha256,
            **{option: getattr(self.config, name) for option, name in REPORTED_OPTIONS.items()},
        }

    @property
    def fingerprint(self) -> str:
        """Equal for two runs that make the same files of the same input."""
        return digest_of(self.token_options, self.inputs)

    @property
    def split_bytes(self) -> int | None:
        """What the validation windows are a share of: with `--n`, a character counts as one byte."""
        if self.text_bytes is None:
            return None
        return min(self.text_bytes, self.max_chars or self.text_bytes)

    @property
    def free_bytes(self) -> int:
        """Free space where the tokens for training go, for this user."""
        for folder in self.outputs["train"].path(0).parents:
            with contextlib.suppress(OSError):  # it is still to be made
                return shutil.disk_usage(folder).free
        return 0


def look_into(config: Config, *, is_planned: bool = False, check: Callable[[], None] = lambda: None) -> Job:
    """Load the vocabulary, sample the inputs, and forecast; holds the samples of one input at a time.

    `is_planned`: for a plan, which cannot read standard input. `check` is called for each input; what it
    raises ends the work.

    Raises:
        InputError: an input is unreadable, empty or not UTF-8 text, or there is no vocabulary.
    """
    check_text_fields(
        config.inputs,
        config.formats,
        text_field=config.text_field,
        skip_bad=config.skip_bad_records,
        may_pipe=not is_planned,
        check=check,
    )
    sizes = [_size_of(path, check) for path in config.inputs]
    stored_bytes = sum(LOOK_AHEAD_BYTES if size is None else size for size in sizes)
    if not stored_bytes:
        raise InputError(f"there is no text: {report.name_inputs(config.inputs)} has 0 bytes")
    has_parquet = any(form.container == "parquet" for form in config.formats)
    has_documents = config.documents is not None
    vocabulary, chosen = open_engine(config, has_documents=has_documents, has_parquet=has_parquet)
    estimator = Estimator(
        chosen.encoder.encode, slowness=chosen.encoder.slowness, max_chars=_max_chars(config)
    )
    errors = "replace" if config.errors == "replace" else "ignore"
    inputs, text_sizes, shows_end_of_text = [], [], False
    refused: list[tuple[Location, Kind]] = []
    mark = MARK.decode() if config.eot != "none" else ""
    for path, form, size in zip(config.inputs, config.formats, sizes, strict=True):
        check()
        with open_input(path, check=check) as file:
            samples = take_samples(file, total_bytes=stored_bytes, n_inputs=len(sizes))
            inputs.append(describe_input(size, file.hints, (sample.data for sample in samples)))
            sampled_bytes, text_size = sum(len(sample.data) for sample in samples), size
            if form.is_packed_text:
                samples, sampled_bytes, text_size = take_packed_samples(
                    file, form.compression, total_bytes=stored_bytes, n_inputs=len(sizes)
                )
            share = Share(len(sizes), file.size_bytes, stored_bytes)
            if not (form.has_records or form.is_packed_text or isinstance(path, Pipe | Url)):
                pieces = take_text(file, share)
                sampled_bytes = sum(len(piece.data) for piece in pieces)
            else:
                pieces = samples
        text_sizes.append(text_size)
        if form.has_records:
            found = take_records(path, form, text_field=config.text_field, share=share)
            found = replace(found, texts=[text + mark for text in found.texts])
            text_sizes[-1] = size_of_text(
                path, form, size_bytes=size, text_field=config.text_field, check=check
            )
        else:
            kind = foreign_kind(samples, separator=config.separator, errors_given=config.errors_given)
            if kind is not None:
                refused.append((path, kind))
                continue
            texts = [piece.data.decode("utf-8", errors) for piece in pieces]
            # Of records the documents are known.
            shows_end_of_text |= any(_shows_end(one.data, config.separator) for one in (*samples, *pieces))
            if config.separator is not None:
                texts = [text.replace(config.separator, mark) for text in texts]
            found = Excerpts(texts, [1.0] * len(texts), sampled_bytes)
        size_bytes = round(found.n_bytes) if size is None else size
        estimator.add(found.texts, weights=found.weights, sampled_bytes=found.n_bytes, size_bytes=size_bytes)
        chosen.encoder.expect("".join(found.texts).encode())
    if refused:
        raise refusal(refused, n_inputs=len(config.inputs), may_pipe=not is_planned)
    config = replace(config, n_workers=min(config.n_workers, chosen.encoder.most_workers))
    forecast = estimator.estimate(n_workers=config.n_workers)
    text_bytes = total_bytes(text_sizes, has_streams=config.has_streams)
    return Job(
        config,
        tuple(inputs),
        vocabulary,
        chosen.encoder,
        chosen.line,
        forecast,
        text_bytes,
        document_ratio(text_sizes, config.val_ratio, max_bytes=_max_chars(config)),
        shows_end_of_text,
    )


def _shows_end(data: bytes, separator: str | None) -> bool:
    """Whether `<|endoftext|>` is in a piece of text, other than as the separator, or a part of it."""
    if separator is not None:
        data = data.replace(separator.encode(), b"")
    return END_OF_TEXT_NAME.encode() in data


def _size_of(path: Location, check: Callable[[], None]) -> int | None:
    """Look how large an input is; None if it is a pipe and goes on behind what one looks at."""
    check()
    with open_input(path, check=check) as file:
        if isinstance(path, Pipe):
            file.read(LOOK_AHEAD_BYTES + 1, 0)
        return None if file.size_bytes == UNKNOWN else file.size_bytes


def open_engine(config: Config, *, has_documents: bool, has_parquet: bool) -> tuple[Vocabulary, Choice]:
    """Load the vocabulary, and what encodes.

    Raises:
        InputError: there is no vocabulary.
        UsageError: there is no such engine.
        TooSmallError, MemoryLimitError: there is too little memory for them.
    """
    engine_bytes = _TIKTOKEN_BYTES + (OPENING_BYTES if config.engine == "gigatoken" else 0)
    _check_room(config, engine_bytes + SMALLEST_BYTES)
    vocabulary = find_gpt2(config.vocab_dir)
    chosen = choose_encoder(
        config.engine,
        vocabulary.encoding,
        has_documents=has_documents,
        n_workers=config.n_workers,
        own_bytes=own_bytes_reader(),
        spare_bytes=_spare_bytes(config),
        reader_bytes=READER_BYTES if has_parquet else 0,
    )
    return vocabulary, chosen


def _check_room(config: Config, n_bytes: int) -> None:
    """Raise what `check_fits` raises unless so much can be had: the engines abort where there is less."""
    sampler = _sampler(config)
    check_fits(sampler.sample(), own_bytes=sampler.own_bytes(), smallest_bytes=n_bytes)


def _spare_bytes(config: Config) -> int:
    """Return how much memory there is above the reserve of the tightest limit."""
    return min(map(margin_bytes, _sampler(config).sample()), default=sys.maxsize)


def _sampler(config: Config) -> Sampler:
    return Sampler(max_memory_bytes=config.max_memory_bytes, min_available_bytes=config.min_available_bytes)


def with_reference(job: Job) -> Job:
    """Replace the engine by tiktoken."""
    encoding = job.vocabulary.encoding
    return replace(job, encoder=TiktokenEncoder(with_mark(encoding) if job.config.documents else encoding))


def outputs_of(config: Config) -> dict[str, Shards]:
    """Say what files there will be, as `lay_out` does, which looks into the output folder.

    Raises:
        OutputError: a link in it leads back to itself.
    """
    return lay_out(
        config.output_dir,
        form=config.output_format,
        shard_tokens=config.shard_tokens,
        word=config.shard_name,
        has_val=config.has_val,
    )


def _max_chars(config: Config) -> int | None:
    return None if config.n_chunks is None else config.n_chunks * CHARS_PER_CHUNK


def check_names(config: Config, found: Found, *, is_restart: bool = False) -> None:
    """Refuse to replace files that are there, and what is no file of ours to replace.

    The shards that the run which left what was `found` may have named can be there, but not if it is to be
    discarded (`is_restart`): those of the new run may be others.

    Raises:
        OutputError: one is there and there is no `--overwrite`; or it is a folder, an input, or both files.
    """
    outputs = outputs_of(config)
    first = [shards.path(0) for shards in outputs.values()]
    if len(set(first)) < len(first):
        raise OutputError(f"train.bin and val.bin are links to one file, {first[-1]}; remove one of them")
    for final in [
        final
        for split, shards in outputs.items()
        for n_tokens in [found.tokens.get(split, 0)]
        for n_own in [0 if is_restart else n_begun(shards, n_tokens, is_torn=found.is_torn)]
        for final in others(shards, n_own=n_own, n_tokens=n_tokens)
    ]:
        if final.is_dir():
            raise OutputError(f"{final} is a folder; move it away, or give another --output-dir")
        if final.exists() and any(final.samefile(path) for path in config.inputs if isinstance(path, Path)):
            raise OutputError(f"{final} is an input of this run; give another --output-dir")
        if not config.overwrite:
            raise OutputError(
                f"{final} exists already; give --overwrite to replace it once the new one is complete, "
                "or another --output-dir"
            )


def check_disk(job: Job, tokens: Mapping[str, int]) -> None:
    """Refuse to begin what cannot end; what an earlier run has written counts as room.

    Raises:
        OutputError: the disk is too small.
    """
    config = job.config
    if job.expected_bytes is None:
        return  # a disk that runs full stops it, and more room lets it go on
    have_bytes = job.free_bytes + written_bytes(full_shards(job.outputs, tokens))
    if needed_bytes(job) > have_bytes:
        raise OutputError(
            f"the output will need about {format_bytes(needed_bytes(job))} and {config.output_dir} has "
            f"{format_bytes(have_bytes)} for it; make room, or give an --output-dir on a larger disk"
        )


def needed_bytes(job: Job) -> int:
    """Say how much room the run takes at most: each file grows by whole windows."""
    header_bytes = job.outputs["train"].size_bytes(job.forecast.tokens) - job.forecast.output_bytes
    return job.forecast.output_bytes + header_bytes + len(job.outputs) * job.window_bytes


def start_line(job: Job) -> str:
    """Say in one line what the run is about to do."""
    return report.start_line(
        job.config.inputs,
        None if job.expected_bytes is None else job.forecast,
        free_bytes=job.free_bytes,
        n_workers=job.config.n_workers,
    )


def describe_val(job: Job) -> str:
    """Say where the validation tokens come from."""
    documents = job.documents
    ratio = job.config.val_ratio if documents is None else documents.val_ratio
    return report.describe_val(job.config.val_split, job.windows, ratio=ratio)


def foreseen_tokens(job: Job) -> dict[str, int]:
    """Forecast the tokens of each stream."""
    n_tokens, windows = job.forecast.tokens, job.windows
    if set(job.outputs) == {"train"}:
        return {"train": n_tokens}
    if job.documents is not None:
        share = job.documents.val_ratio
    elif isinstance(windows, Interval):
        share = windows.width / windows.period
    else:
        share = sum(end - start for start, end in windows) / max(1, job.split_bytes or 0)
    n_val = round(share * n_tokens)
    return {"train": n_tokens - n_val, "val": n_val}


def notices(job: Job) -> list[str]:
    """Say what is not as the options say."""
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
            f"{config.val_ratio:.2%}: from so little text val.bin would hardly hold a block to sample"
        )
    return lines


def dry_run_lines(job: Job) -> list[str]:
    """Say what a run would need and make."""
    config, forecast = job.config, job.forecast
    lines = [start_line(job), job.engine_line, f"vocabulary: {job.vocabulary.source}"]
    across = "of its beginning" if job.text_bytes is None else "across the input"
    lines.append(f"tokens per byte: {forecast.tokens / forecast.text_bytes:.3f}, from samples {across}")
    if job.expected_bytes is None:
        lines.append(
            f"output: {format_bytes(job.free_bytes)} free in {config.output_dir}; nobody knows the size of "
            "the input"
        )
    else:
        lines.append(
            f"output: {format_bytes(forecast.output_bytes)} of {format_bytes(job.free_bytes)} free in "
            f"{config.output_dir}"
        )
    lines.append(f"memory: at most {format_bytes(job.encoder.peak_bytes)} of its own")
    if config.has_val:
        name = next(shards.listed_name(0) for shards in job.outputs.values() if shards.first_is_val)
        lines.append(f"{name}: {describe_val(job)}")
    return lines
