"""Look into the inputs: sample them, choose the engine, forecast the output; write nothing."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import repeat

from nanogpt_compat import report
from nanogpt_compat.config import Config
from nanogpt_compat.encoders.choose import OPENING_BYTES, Choice, choose_encoder
from nanogpt_compat.encoders.forecast import Estimator
from nanogpt_compat.encoders.vocabulary import Vocabulary, find_gpt2
from nanogpt_compat.errors import InputError
from nanogpt_compat.input.compressed import UNPACK_BYTES_PER_S
from nanogpt_compat.input.fields import check_text_fields
from nanogpt_compat.input.kinds import Kind
from nanogpt_compat.input.location import Input, Location
from nanogpt_compat.input.open import open_input
from nanogpt_compat.input.pipes import UNKNOWN, Pipe
from nanogpt_compat.input.reader import Reader
from nanogpt_compat.input.remedies import refusal
from nanogpt_compat.input.samples import Share, foreign_kind, take_samples
from nanogpt_compat.input.source import reader_bytes, reader_of
from nanogpt_compat.memory.guard import Sampler, check_fits
from nanogpt_compat.memory.limits import MAX_MEMORY, own_bytes_reader
from nanogpt_compat.memory.policy import SMALLEST_BYTES, margin_bytes, room_bytes
from nanogpt_compat.preflight.job import Job
from nanogpt_compat.resume.fingerprint import describe_input
from nanogpt_compat.text.blocks import LONG_RECORD_BYTES
from nanogpt_compat.text.val_split import LOOK_AHEAD_BYTES, document_ratio, total_bytes

_TIKTOKEN_BYTES = 16 * 1024 * 1024  # with the vocabulary
_SHUFFLED_BYTES_PER_S = 100e6  # tokens sorted, written, read and written again (busy 2-core VM, SSD)


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
    may_pipe = not (is_planned or config.n_val_inputs)  # one pipe cannot be both inputs
    check_text_fields(readers, n_inputs=len(inputs), may_pipe=may_pipe, check=check)
    sizes = [_size_of(one.location, check) for one in inputs]
    if not any(size is None or size for size in sizes[:n_train]):
        raise InputError(f"there is no text: {report.name_inputs(inputs[:n_train])} has 0 bytes")
    stored_bytes = sum(LOOK_AHEAD_BYTES if size is None else size for size in sizes)
    vocabulary, chosen = open_engine(config, reader_bytes=reader_bytes(one.form for one in inputs))
    estimator = Estimator(
        chosen.encoder.encode,
        slowness=chosen.encoder.slowness,
        max_chars=config.max_chars,
        max_tokens=config.max_tokens,
    )
    described: list[Input] = []
    text_sizes, shows_end_of_text = [], False
    lack_separator = []  # whether each text with separated documents lacks it, and is long
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
        if found.lacks_separator is not None:
            is_long = found.text_bytes is None or found.text_bytes > LONG_RECORD_BYTES
            lack_separator.append((found.lacks_separator, is_long))
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
        document_ratio(text_sizes[:n_train], config.val_ratio, max_bytes=config.most_bytes),
        shows_end_of_text,
        lacks_separator=all(lacks for lacks, _ in lack_separator) and any(long for _, long in lack_separator),
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
