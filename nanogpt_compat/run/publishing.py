"""Give finished files their final names, with the report that lists them and their checksums."""

from collections.abc import Mapping
from typing import Any

from nanogpt_compat import report
from nanogpt_compat.output.check import read_crcs
from nanogpt_compat.output.checksums import crcs_of_files, describe
from nanogpt_compat.output.ends import ends_stream, n_ends
from nanogpt_compat.output.index import index_name, write_index
from nanogpt_compat.output.layout import by_stream, files_of
from nanogpt_compat.output.written import Written, all_shards, check_vacant, publish
from nanogpt_compat.preflight.job import Job, indexes_of
from nanogpt_compat.resume.checkpoint import journal_in, read_found, segments_in
from nanogpt_compat.run.supervise import Check


def publish_output(job: Job, made: Mapping[str, Any], check: Check) -> None:
    """Remove an old report, rename the finished files to their final names, and write the report last.

    `made` is the report but for the files.
    """
    folder, config = job.config.output_dir, job.config
    written = all_shards(job.outputs, by_stream(job.outputs, made["tokens"]))
    described = _describe(job, made, written, check)
    if config.index:
        # A run that was stopped in between writes them again: that takes seconds, and needs no record of
        # whether they are complete.
        tokens = read_found(journal_in(folder)).tokens
        for split in reversed(job.outputs):
            name, ends = index_name(split), job.temporary[ends_stream(split)].partial(0)
            described.append(write_index(name, job.indexes[name], ends, n_ends(tokens, split), check))
    # In the order of publishing: an index comes right before its tokens. Without --index, one that an earlier
    # run left is refused, or removed.
    indexes, files = indexes_of(config), dict[str, Written]()
    for split, one in written.items():
        if (name := index_name(split)) in indexes:
            files[name] = Written(indexes[name], int(config.index))
        files[split] = one
    if not config.overwrite:
        check_vacant(files)  # before the old report is removed
    report.remove_report(folder)
    publish(files, may_replace=config.overwrite)
    # The journal omits the list of files, which may be too long for one line.
    report.write_report(folder, {**made, "files": described})


def _describe(
    job: Job, made: Mapping[str, Any], files: Mapping[str, Written], check: Check
) -> list[dict[str, Any]]:
    """Return the entries of prepare.json for the files, with their checksums from the journal."""
    tokens, journal = by_stream(job.outputs, made["tokens"]), journal_in(job.config.output_dir)
    crcs = {
        stream: crcs_of_files(segments_in(journal, stream), stream, shards, tokens[stream])
        for stream, shards in job.outputs.items()
    }
    described = []
    for one in files_of(job.outputs, tokens):
        of_stream, path = crcs[one.stream], files[one.stream].path(one.k)
        # None: an older version began this run, and its journal has too little.
        sections = read_crcs(path, check) if of_stream is None else of_stream[one.k]
        described.append(describe(one, sections))
    return described
