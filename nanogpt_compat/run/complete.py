"""Decide whether complete output of an earlier run is what this job would make."""

from collections.abc import Mapping
from typing import Any

from nanogpt_compat.output.index import is_index
from nanogpt_compat.output.layout import by_stream, describe_files, files_of
from nanogpt_compat.output.written import all_shards
from nanogpt_compat.preflight.job import Job, reported_options
from nanogpt_compat.resume.fingerprint import differences
from nanogpt_compat.system.units import plural


def differences_from(job: Job, made: Mapping[str, Any]) -> list[str]:
    """Return how complete output with the report `made` differs from a job: options, inputs, then files.

    Empty also for the report of another program.
    """
    folder = job.config.output_dir
    try:
        old, new = map(reported_options, (made["options"], job.config.as_options()))
        differing = differences(old, new, made["inputs"], job.inputs)
        for one in made["files"] if not differing else ():
            path, n_bytes = folder / one["name"], one["bytes"]
            now_bytes = path.stat().st_size if path.exists() else None
            if now_bytes is None:
                differing.append(f"{path} is gone")
            elif now_bytes != n_bytes:
                differing.append(f"{path} had {plural(n_bytes, 'byte')} and has {now_bytes:,}")
    except (AttributeError, KeyError, TypeError, ValueError):  # written by another program or version
        return []
    return differing


def is_as_reported(job: Job, made: Mapping[str, Any]) -> bool:
    """Return whether a report is of this job, and its files are there with their sizes.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: it is the report of another program.
    """
    if made.get("fingerprint") != job.fingerprint:
        return False
    listed = [one for one in made["files"] if not is_index(one)]
    listed = [{name: one[name] for name in ("name", "tokens", "bytes")} for one in listed]
    files = describe_files(list(files_of(job.outputs, by_stream(job.outputs, made["tokens"]))))
    if listed != files:
        return False
    index_bytes = {one["name"]: one["bytes"] for one in made["files"] if is_index(one)}
    paths = {name: shards.path(0) for name, shards in job.indexes.items()}
    has_indexes = index_bytes.keys() == paths.keys() and all(
        path.exists() and path.stat().st_size == index_bytes[name] for name, path in paths.items()
    )
    return has_indexes and have_sizes(job, made, are_named=True)


def have_sizes(job: Job, made: Mapping[str, Any], *, are_named: bool) -> bool:
    """Return whether all token files exist, with their final names if `are_named`, and have their sizes."""
    tokens = by_stream(job.outputs, made["tokens"])
    found = all_shards(job.outputs, tokens)
    for one in files_of(job.outputs, tokens):
        path = one.path if are_named else found[one.stream].path(one.k)
        if not path.exists() or path.stat().st_size != one.n_bytes:
            return False
    return True
