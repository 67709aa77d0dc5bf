"""Check that the output may be written: its names are free, and it fits on the disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nanogpt_compat.config import Config
from nanogpt_compat.errors import OutputError
from nanogpt_compat.input.location import Input
from nanogpt_compat.output.ends import END
from nanogpt_compat.output.index import DOCUMENT_BYTES, SUFFIX
from nanogpt_compat.output.shuffle import most_spill_bytes
from nanogpt_compat.output.spill import spill_bytes
from nanogpt_compat.output.written import foreign_files, full_shards, n_begun, written_bytes
from nanogpt_compat.preflight.job import Job, indexes_of, outputs_of
from nanogpt_compat.resume.checkpoint import Found
from nanogpt_compat.system.units import format_bytes
from nanogpt_compat.text.val_split import Interval


def check_names(config: Config, inputs: Sequence[Input], found: Found, *, is_restart: bool = False) -> None:
    """Refuse to write over files that exist, unless `--overwrite` allows it and they may be replaced.

    Shards that the saved run (`found`) has named already may exist. With `is_restart` they may not, because
    the new run may have different ones.
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
    for path in [path for shards in indexes.values() for path in foreign_files(shards, n_own=0)]:
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
        for final in foreign_files(shards, n_own=n_own, n_tokens=n_tokens)
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
    have_bytes = job.free_bytes + written_bytes(full_shards(job.outputs | job.temporary, tokens))
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
    n_bytes += (len(job.outputs) + len(job.temporary)) * job.window_bytes
    return n_bytes + needed_for_spill(job)


def needed_for_spill(job: Job, *, with_output: bool = True) -> int:
    """Return the disk space that a shuffle takes until the output is complete.

    `with_output`: in addition to the space for the output, which it uses while there is no output.
    """
    if not job.config.shuffle:
        return 0
    n_files = len(job.spill(0).outputs)
    counts = job.forecast.tokens, job.forecast.documents
    before_output = most_spill_bytes(*counts) - (job.forecast.output_bytes if with_output else 0)
    return max(spill_bytes(*counts), before_output) + n_files * job.window_bytes


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
