"""The contents of prepare.json."""

from typing import Any

from nanogpt_compat import report
from nanogpt_compat.input.location import Input
from nanogpt_compat.memory.guard import MemoryGuard
from nanogpt_compat.memory.limits import peak_rss_bytes
from nanogpt_compat.output.layout import by_split
from nanogpt_compat.output.token_file import TOKEN
from nanogpt_compat.preflight.job import Job
from nanogpt_compat.resume.counters import InputTally, Tally
from nanogpt_compat.text.val_split import VAL_INPUT, Interval

_RECORDS = {"text": "bytes", "jsonl": "lines", "csv": "records", "tsv": "records"}
"""The unit in which inputs of each format are counted; other formats count rows. CSV's header is a record."""


def build_report(job: Job, tally: Tally, guard: MemoryGuard, *, mismatch: str) -> dict[str, Any]:
    """Return the contents of prepare.json, except `files`. A count that was not taken is None."""
    config, has_documents = job.config, job.documents is not None
    # An earlier version, which began the run, did not count them for each input.
    counts_val = sum(one.val_tokens for one in tally.inputs) == tally.val_tokens
    described = [
        _describe_input(one, counts, has_documents=has_documents, counts_val=counts_val)
        for one, counts in zip(job.inputs, tally.inputs, strict=True)
    ]
    names = [str(one.location) for one in job.inputs]
    return {
        "tokens": by_split(job.outputs, {"train": tally.train_tokens, "val": tally.val_tokens}),
        "dtype": TOKEN.str,
        "vocabulary_sha256": job.vocabulary.sha256,
        "inputs": described,
        "bytes_read": tally.bytes_read,
        "bytes_total": sum(one["bytes"] for one in described),
        "text_bytes": tally.text_bytes,
        "chars": None if config.max_chars is None else tally.chars,
        "stopped_at": _describe_stop(job, tally),
        "invalid_bytes": tally.invalid_bytes,
        "invalid_offsets": [[names[index], offset] for index, offset in tally.invalid_offsets],
        "forced_cuts": tally.forced_cuts,
        "documents": tally.documents if has_documents else None,
        "empty_documents": job.empty_documents(tally) if has_documents else None,
        "longest_document_bytes": tally.longest_document_bytes if has_documents else None,
        "skipped_records": tally.skipped_records,
        "first_skipped_records": [[names[index], why] for index, why in tally.skipped],
        "replaced_surrogates": tally.replaced_surrogates,
        "engine": job.encoder.name,
        "engine_checked_slices": tally.checked_slices,
        "engine_fallback_blocks": tally.fallback_blocks,
        "engine_mismatch": mismatch,
        "val_split": _describe_split(job),
        "shuffle": None if config.seed is None else {"seed": config.seed},
        "resumes": tally.resumes,
        "checkpoint_fallbacks": tally.checkpoint_fallbacks,
        "guard": guard.summary(),
        "peak_rss_bytes": peak_rss_bytes(),
        "peak_own_bytes": guard.peak_own_bytes,
        "wall_s": round(tally.wall_s, 3),
        "options": config.as_options(),
        "fingerprint": job.fingerprint,
        "versions": report.versions(),
    }


def stopped_by(tally: Tally, job: Job) -> tuple[str, int] | None:
    """Return the option whose limit is reached, and the index of the input in which it was."""
    train = tally.inputs[: job.n_train_inputs]
    n_tokens = sum(one.tokens for one in train)
    limits = {"--max-tokens": (job.config.max_tokens, n_tokens), "--n": (job.config.max_chars, tally.chars)}
    for option, (most, n) in limits.items():
        if most is not None and n >= most:
            return option, max(index for index, one in enumerate(train) if one.text_bytes or one.records)
    return None


def _describe_stop(job: Job, tally: Tally) -> dict[str, object] | None:
    """Return which limit was reached, if one was, and where: the input, and what was read of it."""
    found = stopped_by(tally, job)
    if found is None:
        return None
    option, index = found
    one, counts = job.inputs[index], tally.inputs[index]
    unit = _RECORDS.get(one.form.container, "rows")
    # A text in a table of columns has no place in the file.
    places = {} if unit == "rows" else {"bytes": counts.text_bytes}
    if unit != "bytes":
        places[unit] = counts.records
    return {"option": option, "input": str(one.location), **places}


def _describe_split(job: Job) -> dict[str, object]:
    config, windows = job.config, job.windows
    if config.val_split == VAL_INPUT:
        return {"name": config.val_split, "ratio": None, "inputs": config.n_val_inputs}
    found: dict[str, object] = {"name": config.val_split, "ratio": config.val_ratio}
    if config.val_split == "documents":
        return found | {"document_ratio": job.document_ratio}
    if isinstance(windows, Interval):
        return found | {"window_bytes": windows.width, "every_bytes": windows.period}
    return found | {"windows": len(windows), "bytes": sum(end - start for start, end in windows)}


def _describe_input(
    one: Input, counts: InputTally, *, has_documents: bool, counts_val: bool
) -> dict[str, Any]:
    """Return the counts of one input, and what identifies it in a later run."""
    return {
        "path": str(one.location),
        "format": str(one.form),
        "bytes": counts.bytes_read if one.size_bytes is None else one.size_bytes,
        "bytes_read": counts.bytes_read,
        "text_bytes": counts.text_bytes,
        "records": counts.records,
        "tokens": counts.tokens,
        "val_tokens": counts.val_tokens if counts_val else None,
        "documents": counts.documents if has_documents else None,
        "invalid_bytes": counts.invalid_bytes,
        "skipped_records": counts.skipped_records,
        **({"first_skipped_record": counts.first_skipped} if counts.first_skipped else {}),
        "crc32": counts.crc,
        **one.description,
    }
