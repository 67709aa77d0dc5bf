"""Print what a run does before its first token and after its last, with warnings and the next step."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nanogpt_compat.output.consumers import Output, find_odd, find_short, find_small_val, next_step
from nanogpt_compat.output.layout import OutputFile, by_stream, files_of
from nanogpt_compat.preflight.checks import foreseen_tokens
from nanogpt_compat.preflight.job import Job
from nanogpt_compat.preflight.words import describe_val, notices, offer_documents
from nanogpt_compat.report import REPORT_NAME, describe_skipped, warn_of_empty
from nanogpt_compat.system.checkout import notice_unignored
from nanogpt_compat.system.units import format_bytes, format_duration, format_rate, plural
from nanogpt_compat.system.voice import Voice
from nanogpt_compat.text.blocks import LONG_RECORD_BYTES


class Notices:
    """Prints the messages about the output of a job; each kind of fault once.

    A merge cannot change its plan, so it gets no offer that would.
    """

    def __init__(self, job: Job, voice: Voice, *, is_merge: bool) -> None:
        self._job = job
        self._voice = voice
        self._is_merge = is_merge
        self._warned_of: set[str] = set()

    def before(self, redo: Sequence[str], *, has_saved: bool, is_dry: bool) -> None:
        """Print how the run departs from its options, and which output a training program could not read.

        `redo` are the options that start over; `has_saved`: an earlier run has saved something.
        """
        job = self._job
        self._voice.say(*notices(job))
        if job.expected_bytes is not None:
            foreseen = self._output(foreseen_tokens(job), is_made=False, redo=redo)
            self._warn_of(find_odd(foreseen))
            if not has_saved:  # else another ratio would cost what is saved
                self._warn_of(self._find_small_val(foreseen))
                if not self._is_merge:
                    self._voice.say(*offer_documents(job, redo))
            short = find_short(foreseen)
            if is_dry:  # a run warns at its end, of its real output
                self._warn_of(short)
            elif job.config.n_val_inputs:  # other inputs can be given now, and nothing is lost
                self._warn_of({kind: line for kind, line in short.items() if kind == "splits"})

    def complete(self, made: Mapping[str, Any]) -> None:
        """Print which files of the report `made` are complete already."""
        self._voice.say("already complete:", *_name_files(self._job, made), "--overwrite makes it again")
        self._voice.found_complete()

    def after(self, made: Mapping[str, Any]) -> None:
        """Print the result, warnings and the next step; `made` is the report."""
        job = self._job
        self._voice.say(*_name_files(job, made), *_result_lines(made))
        with suppress(OSError):  # these look into the folder; the output is complete
            tokens = by_stream(job.outputs, made["tokens"])
            output = self._output(tokens, is_made=True, redo=["--overwrite"], n_documents=made["documents"])
            self._warn_of(find_short(output) | find_odd(output) | self._find_small_val(output))
        self._voice.warn(*warn_of_empty(made["inputs"]), *_warn_of_separator(job, made))
        files = _files_of(job, made)
        if not self._voice.is_quiet:
            folder = job.config.output_dir
            made_here = [folder / REPORT_NAME, *(one.path for one in files)]
            made_here += [one.path(0) for one in job.indexes.values()]
            read = [one.location for one in job.inputs if isinstance(one.location, Path)]
            with suppress(OSError):  # the output is complete
                if line := notice_unignored(folder, [*made_here, *read]):
                    self._voice.say(line)
        step = next_step(job.config, files)
        if step:
            self._voice.say(step)

    def _output(
        self, tokens: Mapping[str, int], *, is_made: bool, redo: Sequence[str], n_documents: int | None = None
    ) -> Output:
        job = self._job
        return Output(job.config, job.outputs, tokens, is_made, n_documents, redo, is_merge=self._is_merge)

    def _find_small_val(self, output: Output) -> dict[str, str]:
        return {} if self._is_merge else find_small_val(output)

    def _warn_of(self, faults: Mapping[str, str]) -> None:
        for kind, line in faults.items():
            if kind not in self._warned_of:
                (self._voice.say if line.startswith("notice:") else self._voice.warn)(line)
        self._warned_of |= faults.keys()


def _files_of(job: Job, made: Mapping[str, Any]) -> list[OutputFile]:
    return list(files_of(job.outputs, by_stream(job.outputs, made["tokens"])))


def _name_files(job: Job, made: Mapping[str, Any]) -> list[str]:
    """Return a line for each split: its files, tokens and bytes; and one for the indexes, if any."""
    lines = []
    for split, where in (("train", ""), ("val", f": {describe_val(job)}")):
        some = [one for one in _files_of(job, made) if one.split == split]
        if some:
            shards = "" if len(some) == 1 else f" to {some[-1].name}, {len(some):,} shards"
            n_tokens, n_bytes = sum(one.n_tokens for one in some), sum(one.n_bytes for one in some)
            size = f"{plural(n_tokens, 'token')}, {format_bytes(n_bytes)}"
            lines.append(f"{some[0].name}{shards}: {size}{where}")
    if job.indexes:
        lines.append(f"{' and '.join(reversed(job.indexes))}: where each document is, as Megatron reads it")
    return lines


def _warn_of_separator(job: Job, made: Mapping[str, Any]) -> list[str]:
    """Return a warning if the separator is in none of the plain texts, and one of them is long."""
    separator = job.config.separator
    counts = [
        one for given, one in zip(job.inputs, made["inputs"], strict=True) if given.form.container == "text"
    ]
    is_missing = separator is not None and all(one["documents"] in (0, 1) for one in counts)
    longest_bytes = max((one["text_bytes"] for one in counts), default=0)
    if not is_missing or made["stopped_at"] is not None or longest_bytes <= LONG_RECORD_BYTES:
        return []
    return [
        f"warning: the separator {separator!a} is not in the text, so each text file is one document: to "
        "split it, give another --document-separator"
    ]


def _result_lines(made: Mapping[str, Any]) -> list[str]:
    """Return how fast the run was, and lines about all that was dropped, replaced or cut."""
    memory = format_bytes(made["peak_rss_bytes"])
    own_bytes = made["peak_own_bytes"]  # what --max-memory limits
    memory = memory if own_bytes is None else f"{format_bytes(own_bytes)}, {memory} with mapped files"
    lines = [
        f"{format_bytes(made['bytes_read'])} in {format_duration(made['wall_s'])}: "
        f"{format_rate(made['bytes_read'], made['wall_s'])}, peak memory {memory}"
    ]
    if made["documents"] or made["empty_documents"]:
        empty = f"; {plural(made['empty_documents'], 'empty one')} dropped" if made["empty_documents"] else ""
        longest = format_bytes(made["longest_document_bytes"])
        order = f", shuffled with seed {made['shuffle']['seed']}" if made.get("shuffle") else ""
        lines.append(f"{plural(made['documents'], 'document')}{order}, the longest of {longest}{empty}")
    if (stop := made["stopped_at"]) is not None:
        unit = next(name for name in ("rows", "records", "lines", "bytes") if name in stop)
        place = plural(stop[unit], unit.removesuffix("s"))
        lines.append(f"stopped by {stop['option']} after {place} of {stop['input']}")
    elif made["options"]["max_tokens"] is not None:
        lines.append(
            f"notice: the input ended before the {made['options']['max_tokens']:,} tokens of --max-tokens"
        )
    if made["engine_checked_slices"]:
        lines.append(f"{plural(made['engine_checked_slices'], 'slice')} checked against tiktoken: 0 differ")
    if made["engine_mismatch"]:
        lines.append(f"warning: {made['engine_mismatch']}; all tokens were made by tiktoken")
    if made["invalid_bytes"]:
        path, offset = made["invalid_offsets"][0]
        lines.append(
            f"{plural(made['invalid_bytes'], 'byte was', 'bytes were')} not UTF-8, the first at byte "
            f"{offset:,} of {path}"
        )
    if made["skipped_records"]:
        lines.append(describe_skipped(made["skipped_records"], *made["first_skipped_records"][0]))
    if made["replaced_surrogates"]:
        halves = plural(made["replaced_surrogates"], "half of a character", "halves of characters")
        lines.append(f"{halves} (surrogates) became U+FFFD")
    if made["forced_cuts"]:
        lines.append(
            f"{plural(made['forced_cuts'], 'forced cut')} in stretches of over 512 KiB without a break; only "
            "tokens next to a cut may differ"
        )
    return lines
