"""Print what a run does before its first token and after its last, with warnings and the next step."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nanogpt_compat import report
from nanogpt_compat.output.consumers import Output, find_odd, find_short, find_small_val, next_step
from nanogpt_compat.output.layout import OutputFile, by_stream, files_of
from nanogpt_compat.preflight.checks import foreseen_tokens
from nanogpt_compat.preflight.job import Job
from nanogpt_compat.preflight.words import describe_val, notices, offer_documents
from nanogpt_compat.system.checkout import notice_unignored
from nanogpt_compat.system.display import Voice


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
        for line in notices(job):
            self._voice.say(line)
        if job.expected_bytes is not None:
            foreseen = Output(job.config, job.outputs, foreseen_tokens(job), is_made=False, redo=redo)
            self._warn_of(find_odd(foreseen))
            if not has_saved:  # else another ratio would cost what is saved
                self._warn_of(self._find_small_val(foreseen))
                for line in () if self._is_merge else offer_documents(job, redo):
                    self._voice.say(line)
            short = find_short(foreseen)
            if is_dry:  # a run warns at its end, of its real output
                self._warn_of(short)
            elif job.config.n_val_inputs:  # other inputs can be given now, and nothing is lost
                self._warn_of({kind: line for kind, line in short.items() if kind == "splits"})

    def complete(self, made: Mapping[str, Any]) -> None:
        """Print which files of the report `made` are complete already."""
        self._voice.say("already complete:")
        for line in report.name_files(self._files(made), **self._names()):
            self._voice.say(line)
        self._voice.say("--overwrite makes it again")
        self._voice.found_complete()

    def after(self, made: Mapping[str, Any]) -> None:
        """Print the result, warnings and the next step; `made` is the report."""
        job = self._job
        files = self._files(made)
        for line in report.end_lines(made, files, **self._names()):
            self._voice.say(line)
        with suppress(OSError):  # these look into the folder; the output is complete
            tokens = by_stream(job.outputs, made["tokens"])
            output = Output(job.config, job.outputs, tokens, True, made["documents"], ["--overwrite"])
            self._warn_of(find_short(output) | find_odd(output) | self._find_small_val(output))
        wrong_separator = report.warn_of_separator(made, job.config.separator, job.inputs)
        for line in (*report.warn_of_empty(made["inputs"]), *wrong_separator):
            self._voice.warn(line)
        if not self._voice.is_quiet:
            self._tell_of_git([one.path for one in files])
        step = next_step(job.config, files)
        if step:
            self._voice.say(step)

    def _files(self, made: Mapping[str, Any]) -> list[OutputFile]:
        return list(files_of(self._job.outputs, by_stream(self._job.outputs, made["tokens"])))

    def _names(self) -> dict[str, Any]:
        """Return the further arguments that the report of files needs."""
        return {"val": describe_val(self._job), "indexes": list(reversed(self._job.indexes))}

    def _find_small_val(self, output: Output) -> dict[str, str]:
        return {} if self._is_merge else find_small_val(output)

    def _warn_of(self, faults: Mapping[str, str]) -> None:
        for kind, line in faults.items():
            if kind not in self._warned_of:
                (self._voice.say if line.startswith("notice:") else self._voice.warn)(line)
        self._warned_of |= faults.keys()

    def _tell_of_git(self, files: Sequence[Path]) -> None:
        """Print which of the files that this run has read or made git would add to a checkout."""
        config = self._job.config
        made_here = [config.output_dir / report.REPORT_NAME, *files]
        made_here += [one.path(0) for one in self._job.indexes.values()]
        read = [one.location for one in self._job.inputs if isinstance(one.location, Path)]
        with suppress(OSError):  # the output is complete
            if line := notice_unignored(config.output_dir, [*made_here, *read]):
                self._voice.say(line)
