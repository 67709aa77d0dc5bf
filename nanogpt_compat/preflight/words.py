"""The messages about a run before it starts."""

from collections.abc import Sequence

from nanogpt_compat.input.location import Format
from nanogpt_compat.output.layout import by_split
from nanogpt_compat.preflight.checks import foreseen_tokens, needed_for_spill
from nanogpt_compat.preflight.job import Job
from nanogpt_compat.report import name_inputs
from nanogpt_compat.system.commands import show, this_command
from nanogpt_compat.system.units import format_bytes, format_count, format_duration
from nanogpt_compat.text.val_split import FIRST_SHARD, VAL_INPUT, Interval, val_bytes

_MANY_FILES = 10
_SMALL_FILE_BYTES = 64 * 1024


def start_line(job: Job) -> str:
    """Return the first line of a run: what it is about to do."""
    name, free, n_workers = name_inputs(job.inputs), format_bytes(job.free_bytes), job.config.n_workers
    threads = "1 thread" if n_workers == 1 else f"{n_workers} threads"
    if job.expected_bytes is None:
        return f"{name}, size unknown ({free} free); {threads}"
    forecast = job.forecast
    return (
        f"{name} {format_bytes(forecast.text_bytes)} -> about {format_count(forecast.tokens)} tokens, "
        f"{format_bytes(forecast.output_bytes)} ({free} free); {threads}; "
        f"about {format_duration(forecast.seconds)}"
    )


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
    split, windows = job.config.val_split, job.windows
    if split == VAL_INPUT:
        return f"all of {name_inputs(job.inputs[job.n_train_inputs :])}"
    if split == FIRST_SHARD:
        return "the first shard"
    if split == "documents":
        return f"{100 * job.document_ratio:.3g} % of all documents"
    if isinstance(windows, Interval):
        return f"{format_bytes(windows.width)} of every {format_bytes(windows.period)}"
    n_bytes = sum(end - start for start, end in windows)
    if split in ("head", "tail"):
        return f"the {'first' if split == 'head' else 'last'} {format_bytes(n_bytes)}"
    return "1 window in the middle" if len(windows) == 1 else f"{len(windows)} windows spread over the input"


def notices(job: Job) -> list[str]:
    """Return notices about a larger share for validation than `--val-ratio`, and about a wrong separator."""
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
    if job.lacks_separator:
        lines.append(
            f"notice: the separator {config.separator!a} is in none of the samples of the text: unless "
            "documents have hundreds of kilobytes, give another --document-separator"
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
