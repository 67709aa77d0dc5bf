"""A whole run: look at the input, check that the result will fit, tokenise, publish, report."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass

from nanogpt_compat import pipeline, report
from nanogpt_compat.config import Config
from nanogpt_compat.encoders import TiktokenEncoder
from nanogpt_compat.errors import InputError, OutputError
from nanogpt_compat.estimate import Estimate, estimate
from nanogpt_compat.lock import FolderLock
from nanogpt_compat.progress import Display
from nanogpt_compat.sinks import BinPair, final_files, remove_work_folders, work_folder
from nanogpt_compat.sources.samples import check_is_utf8, take_samples
from nanogpt_compat.split import CHARS_PER_CHUNK, val_bytes, val_windows
from nanogpt_compat.tally import Tally
from nanogpt_compat.units import format_bytes
from nanogpt_compat.vocabulary import Vocabulary, find_gpt2

MIN_VAL_TOKENS = 1025  # nanoGPT's block_size 1024, and the token after it

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Job:
    """A run that has been looked into; nothing is written yet."""

    config: Config
    sizes: tuple[int, ...]
    vocabulary: Vocabulary
    encoder: TiktokenEncoder
    forecast: Estimate
    windows: tuple[tuple[int, int], ...]

    @property
    def text_bytes(self) -> int:
        """Bytes that will be read: those of all inputs, or as many as `--n` lets through."""
        return _limited(sum(self.sizes), self.config.n_chunks)

    @property
    def free_bytes(self) -> int:
        """Free space where the output goes, for this user."""
        folder = self.config.output_dir.absolute()
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        return shutil.disk_usage(existing).free


def look_into(config: Config) -> Job:
    """Load the vocabulary, sample the inputs, and forecast; writes nothing.

    Raises:
        InputError: an input is unreadable, empty or not UTF-8 text, or there is no vocabulary.
    """
    sizes = tuple(path.stat().st_size for path in config.inputs)
    if not sum(sizes):
        raise InputError(f"there is no text: {report.name_inputs(config.inputs)} has 0 bytes")
    samples = list(take_samples(config.inputs))
    if not config.errors_given:
        check_is_utf8(samples)
    vocabulary = find_gpt2(config.vocab_dir)
    encoder = TiktokenEncoder(vocabulary.encoding)
    texts: dict[int, list[str]] = {}
    for sample in samples:
        texts.setdefault(config.inputs.index(sample.path), []).append(sample.data.decode("utf-8", "ignore"))
    text_bytes = _limited(sum(sizes), config.n_chunks)
    forecast = estimate(texts, sizes, encoder.encode, text_bytes=text_bytes, n_workers=config.n_workers)
    windows = tuple(val_windows(text_bytes, config.val_ratio, config.val_split))
    return Job(config, sizes, vocabulary, encoder, forecast, windows)


def _limited(total_bytes: int, n_chunks: int | None) -> int:
    """Bound the input by `--n`; a character has at least one byte."""
    return total_bytes if n_chunks is None else min(total_bytes, n_chunks * CHARS_PER_CHUNK)


def check_output(job: Job) -> None:
    """Refuse to begin what cannot end: final files that exist, a disk that is too small.

    Raises:
        OutputError: as said.
    """
    config = job.config
    if not config.overwrite:
        for final in final_files(config.output_dir, has_val=config.has_val):
            if final.exists():
                raise OutputError(
                    f"{final} exists already; give --overwrite to replace it once the new one is complete, "
                    "or another --output-dir"
                )
    if job.forecast.output_bytes > job.free_bytes:
        raise OutputError(
            f"the output will need about {format_bytes(job.forecast.output_bytes)} and {config.output_dir} "
            f"has {format_bytes(job.free_bytes)} free; make room, or give an --output-dir on a larger disk"
        )


def start_line(job: Job) -> str:
    """Say in one line what the run is about to do."""
    return report.start_line(
        job.config.inputs, job.forecast, free_bytes=job.free_bytes, n_workers=job.config.n_workers
    )


def tokenise(job: Job, *, open_display: Callable[[], Display], say: Say) -> None:
    """Make train.bin, val.bin and prepare.json.

    Raises:
        InputError: an input changes or fails while it is read, or there is no text in it.
        OutputError: the output folder cannot be written, is taken by another run, or runs full.
    """
    config, started_s = job.config, time.monotonic()
    with FolderLock(work_folder(config.output_dir) / "lock"):
        display = open_display()
        with BinPair(config.output_dir, has_val=config.has_val) as sink:
            try:
                tally = _run_pipeline(job, sink, display)
            finally:
                display.close()
            if not tally.tokens:
                raise InputError(f"there is no text in {report.name_inputs(config.inputs)}")
            tokens = sink.tokens
            finals = sink.publish()
        wall_s = time.monotonic() - started_s
        report.write_report(config.output_dir, _report(job, tally, tokens, wall_s))
        remove_work_folders(finals, config.output_dir)
    for line in report.end_lines(tally, config.inputs, tokens, val=_describe_val(job), wall_s=wall_s):
        say(line)
    for line in _notices(job, tokens):
        say(line)
    say(f"next: python train.py --dataset={config.output_dir.resolve().name}")


def _run_pipeline(job: Job, sink: BinPair, display: Display) -> Tally:
    config = job.config

    def show(tally: Tally) -> None:
        display.show(bytes_read=tally.bytes_read, tokens=tally.tokens, memory_bytes=report.rss_bytes())

    return pipeline.run(
        paths=config.inputs,
        sink=sink,
        encoder=job.encoder,
        windows=job.windows,
        errors=config.errors,
        n_workers=config.n_workers,
        block_bytes=config.block_bytes or pipeline.block_size(config.n_workers),
        max_chars=None if config.n_chunks is None else config.n_chunks * CHARS_PER_CHUNK,
        on_progress=show,
    )


def _describe_val(job: Job) -> str:
    return report.describe_val(job.config.val_split, job.windows)


def _report(job: Job, tally: Tally, tokens: dict[str, int], wall_s: float) -> dict[str, object]:
    config = job.config
    return report.build_report(
        tally=tally,
        tokens=tokens,
        paths=config.inputs,
        sizes=job.sizes,
        engine=job.encoder.name,
        val_split={
            "name": config.val_split,
            "ratio": config.val_ratio,
            "windows": len(job.windows),
            "bytes": sum(end - start for start, end in job.windows),
        },
        options=config.as_options(),
        wall_s=wall_s,
    )


def _notices(job: Job, tokens: dict[str, int]) -> list[str]:
    """Say what nanoGPT will trip over, or what is not as the options say."""
    config, lines = job.config, []
    n_nominal, n_val = round(job.text_bytes * config.val_ratio), val_bytes(job.text_bytes, config.val_ratio)
    if config.has_val and n_val > n_nominal:
        lines.append(
            f"notice: val.bin was raised from {format_bytes(n_nominal)} to {format_bytes(n_val)} of text "
            "so that blocks can be sampled from it"
        )
    if config.has_val and tokens["val"] < MIN_VAL_TOKENS:
        lines.append(
            f"warning: val.bin has {tokens['val']:,} tokens; nanoGPT cannot sample blocks of 1,024 from "
            f"fewer than {MIN_VAL_TOKENS:,}: raise --val-ratio"
        )
    if (config.output_dir / "meta.pkl").exists():
        lines.append(
            f"warning: {config.output_dir / 'meta.pkl'} is from another dataset; train.py would take its "
            "vocabulary size from there: remove it"
        )
    return lines


def dry_run_lines(job: Job, *, available_bytes: int) -> list[str]:
    """Say what a run would need and make."""
    config, forecast = job.config, job.forecast
    lines = [start_line(job), f"vocabulary: {job.vocabulary.source}"]
    lines.append(
        f"tokens per byte: {forecast.tokens / forecast.text_bytes:.3f}, from samples across the input"
    )
    fits = "fits" if forecast.output_bytes <= job.free_bytes else "DOES NOT FIT"
    lines.append(
        f"output: {format_bytes(forecast.output_bytes)} of {format_bytes(job.free_bytes)} free in "
        f"{config.output_dir}: {fits}"
    )
    fits = "fits" if available_bytes >= pipeline.PEAK_BYTES else "DOES NOT FIT"
    lines.append(
        f"memory: at most {format_bytes(pipeline.PEAK_BYTES)} of {format_bytes(available_bytes)} available: "
        f"{fits}"
    )
    if config.has_val:
        lines.append(f"val.bin: {_describe_val(job)}")
    lines.append("dry run: nothing was written")
    return lines
