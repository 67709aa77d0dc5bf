"""Do a job: resume an earlier run or start, tokenise, check, publish, report."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from nanogpt_compat import report
from nanogpt_compat.encoders.interface import EngineMismatch
from nanogpt_compat.encoders.reference import TiktokenEncoder
from nanogpt_compat.errors import CheckpointError, InputError, OutputError
from nanogpt_compat.input.location import Location
from nanogpt_compat.input.pipes import Pipe
from nanogpt_compat.input.reader import Consumed
from nanogpt_compat.output.folders import check_writable, remove_work_files
from nanogpt_compat.output.layout import WORK_FOLDER
from nanogpt_compat.output.written import (
    Written,
    all_shards,
    foreign_files,
    found_shards,
    full_shards,
    take_back,
    unpublished,
    written_bytes,
)
from nanogpt_compat.preflight.checks import check_disk, check_names
from nanogpt_compat.preflight.job import Job, indexes_of, with_reference
from nanogpt_compat.resume.checkpoint import (
    Found,
    Saved,
    first_unsound_mark,
    journal_in,
    last_sound_mark,
    load_tally,
    read_found,
)
from nanogpt_compat.resume.counters import InputTally, Tally
from nanogpt_compat.resume.fingerprint import TEXT_BYTES, differences
from nanogpt_compat.resume.journal import Journal
from nanogpt_compat.resume.state import (
    changed_inputs,
    consumed_at,
    consumed_by,
    consumed_in,
    differences_at,
    fixed_differences,
)
from nanogpt_compat.run.complete import differences_from, have_sizes, is_as_reported
from nanogpt_compat.run.contents import build_report, stopped_by
from nanogpt_compat.run.notices import Notices
from nanogpt_compat.run.passes import Damaged, Passes
from nanogpt_compat.run.publishing import publish_output
from nanogpt_compat.run.supervise import Fill, Watch, check_unlocked, locked
from nanogpt_compat.system.units import format_bytes, format_count, format_duration, plural
from nanogpt_compat.system.voice import Voice


class Run:
    """One process's work on a job: fill the output by tokenising its input, or with `fill` if it is given.

    If `voice.check` raises, the run saves its work and ends.
    """

    def __init__(self, job: Job, voice: Voice, *, fill: Fill | None = None) -> None:
        self._job = job
        self._fill = fill
        self._voice = voice
        self._watch = Watch(job, voice)
        self._outputs = job.outputs
        self._streams = job.outputs | job.temporary  # all that the journal counts
        self._indexes = indexes_of(job.config)  # indexes to make, or that must not be there
        self._folders = job.folders
        self._work = job.config.output_dir / WORK_FOLDER
        self._journal = journal_in(job.config.output_dir)
        self._saved = ""  # the saved progress, for messages
        self._notices = Notices(job, voice, is_merge=fill is not None)

    def do(self, *, restart: bool) -> None:
        """Make the token files and prepare.json, unless they are complete already."""
        if self.has_nothing_to_do(restart=restart):
            self._clear_up()
            return
        check_writable(self._folders)
        with locked(self._folders):
            with self._reporting_saved():
                found, old = self._find(restart=restart)
                made = found.report
                if made is None:
                    redo = ["--restart", "--overwrite"]
                    self._notices.before(redo, has_saved=found.has_anything, is_dry=False)
                if old is not None:
                    remove_work_files(self._folders)
                if made is None:
                    with self._watch:
                        made = self._tokenise_or_fall_back(found)
            self._voice.enter("finishing")
            publish_output(self._job, made, self._watch.check)
            with suppress(OSError):  # the output is complete: a failing disk no longer matters
                remove_work_files(self._folders)
        self._notices.after(made)

    def rehearse(self, *, restart: bool) -> None:
        """Make the same checks as `do` before its first token, by the same calls; write nothing.

        Raises the same errors as `do`.
        """
        if self.has_nothing_to_do(restart=restart):
            return
        check_writable(self._folders)
        check_unlocked(self._folders)
        with self._reporting_saved():
            found, old = self._find(restart=restart)
            redo = ["--restart", "--overwrite"] if (old or found).has_anything else []
            self._notices.before(redo, has_saved=found.has_anything, is_dry=True)
            if found.report is not None:
                self._voice.say(f"all tokens are saved ({self._saved}); only the files must still be renamed")
                return
            with self._watch:
                self._load(found, last_sound_mark(found, self._files_of(found)))

    def has_nothing_to_do(self, *, restart: bool) -> bool:
        """Return whether the output is complete and is not to be made again; then print what is complete."""
        if restart or self._job.config.overwrite:
            return False
        made = report.read_report(self._job.config.output_dir)
        if made is None:
            return False
        is_complete = False
        with suppress(AttributeError, KeyError, TypeError, ValueError):  # written by another program
            is_complete = is_as_reported(self._job, made) and self._has_same_text(made)
        if is_complete:
            self._notices.complete(made)
        return is_complete

    def _find(self, *, restart: bool) -> tuple[Found, Found | None]:
        """Return the run to resume, and the run to discard, if any; check that this run can start. Read only.

        If the first has a report, its files are complete.
        """
        found, old = read_found(self._journal), None
        if found.is_torn:
            self._voice.warn(
                f"{self._journal} is torn or damaged at byte {found.end_byte:,}: redoing the work after it"
            )
        elif found.header is None and written_bytes(full_shards(self._outputs, {})):
            self._voice.warn(f"{self._journal} is missing or empty: starting from scratch")
        if restart:
            found, old = Found(), found
        elif not found.has_anything and self._misfits(found):
            found, old = Found(mismatch=found.mismatch), found  # no tokens are lost
        if misfits := self._misfits(found):
            self._saved = f"{format_count(found.n_tokens)} tokens"
            raise CheckpointError("; ".join(misfits))
        if found.report is not None and not self._is_whole(found.report, found):
            found.report, found.is_torn = None, True  # its files may have their final names already
        if found.report is None:
            # All of these may raise: check before saved work is discarded.
            self._check_other_output(found)
            check_names(self._job.config, self._job.inputs, found, is_restart=restart)
            check_disk(self._job, found.tokens)
        return found, old

    def _check_other_output(self, found: Found) -> None:
        """Raise OutputError, with the differences, if there is complete output of a different run.

        Without differences, or with `--overwrite`, do nothing.
        """
        config = self._job.config
        made = report.read_report(config.output_dir)
        if made is None or config.overwrite or found.has_anything or not self._has_named:
            return
        differing = differences_from(self._job, made)
        if differing:
            raise OutputError(
                f"{config.output_dir} holds complete output that does not match this run: "
                f"{'; '.join(differing)}. Run with the original options and inputs to keep it, pass "
                "--overwrite to replace it once the new one is complete, or choose another --output-dir"
            )

    @contextmanager
    def _reporting_saved(self) -> Iterator[None]:
        """Warn how much is saved if the block raises; add to a CheckpointError what to do next."""
        try:
            yield
        except BaseException as error:
            if self._saved:
                next_step = "the same command resumes from there"
                if isinstance(error, CheckpointError):
                    next_step = "it is kept"
                elif isinstance(error, InputError):
                    n_bytes = self._options().get(TEXT_BYTES)
                    size = f" if the input still has {plural(n_bytes, 'byte')}" if n_bytes is not None else ""
                    next_step = f"once that is fixed, {next_step}{size}"
                self._voice.warn(f"saved: {self._saved}; {next_step}")
            if isinstance(error, CheckpointError):
                # An unfinished run may have given full shards their final names.
                discard = "--restart --overwrite" if self._has_named else "--restart"
                raise CheckpointError(
                    f"{self._work} holds an unfinished run that cannot be resumed: {error}. Run with the "
                    f"original input and settings to resume it, or pass {discard} to discard it"
                ) from error
            raise

    def _has_same_text(self, made: Mapping[str, Any]) -> bool:
        """Return whether the inputs are those of a report; read them again if they may have changed.

        Raises:
            CheckpointError: a pipe has other text than before, and cannot be read again.
        """
        for path, change in self._changes(consumed_in(made, self._job.config.max_chars), made["inputs"]):
            if isinstance(path, Pipe):
                raise CheckpointError(
                    f"{path} {change}, and cannot be read again; pass --overwrite to make the output in "
                    f"{self._job.config.output_dir} again"
                )
            return False
        return True

    def _changes(
        self, read: Sequence[Consumed], old: Sequence[Mapping[str, Any]], *, is_read_later: bool = False
    ) -> Iterator[tuple[Location, str]]:
        """Yield the inputs of this run that have changed, as `changed_inputs` does."""
        return changed_inputs(
            self._job.source,
            read,
            old,
            say=self._voice.say,
            check=self._watch.check,
            is_read_later=is_read_later,
        )

    def _is_whole(self, made: Mapping[str, Any], found: Found) -> bool:
        """Return whether an earlier run with the same header has all its tokens intact in the files."""
        if found.header != self._header(found.mismatch):
            return False  # its report would differ
        self._note_saved(Saved(made["bytes_read"], sum(made["tokens"].values())))
        if (
            have_sizes(self._job, made, are_named=False)
            and first_unsound_mark(found.marks, all_shards(self._streams, found.tokens), self._watch.check)
            is None
        ):
            self._check_inputs(found, self._tally_at(found, len(found.marks) - 1), is_read_later=False)
            return True
        self._saved = ""  # not known yet
        return False

    def _clear_up(self) -> None:
        """Remove the work files of a run that was killed after it had published its output."""
        if not self._work.exists():
            return
        with suppress(OutputError), locked(self._folders):  # another run may be using it
            found = read_found(self._journal)
            header = found.header
            if header is None or not differences(
                header["options"], self._options(), header["inputs"], self._job.inputs
            ):  # else it belongs to another, stopped run
                remove_work_files(self._folders)

    def _misfits(self, found: Found) -> list[str]:
        """Return the reasons why this run cannot resume the saved one; reads no input."""
        if found.header is None:
            return []
        old, options, inputs = found.header, self._options(), self._job.inputs
        return fixed_differences(old, options, inputs) or differences_at(
            self._tally_at(found, len(found.marks) - 1), old, options, inputs
        )

    def _tally_at(self, found: Found, mark: int) -> Tally:
        """Restore the counters at a mark, with room for the inputs of both runs."""
        n_then = len(found.header["inputs"]) if found.header is not None else 0
        return load_tally(
            self._journal, n_inputs=max(n_then, len(self._job.inputs)), end_byte=found.marks[mark].end_byte
        )

    def _check_inputs(self, found: Found, tally: Tally, *, is_read_later: bool) -> None:
        """Raise CheckpointError if an input has changed within the part that was read."""
        if self._fill is None and found.header is not None:  # else they were checked before
            is_read = tally.shuffled is not None
            read = consumed_at(tally)
            if is_read:
                has_ended = stopped_by(tally, self._job) is None
                read = consumed_by(tally, has_ended, n_limited=self._job.n_train_inputs)
            is_read_later = is_read_later and not is_read
            for path, change in self._changes(read, found.header["inputs"], is_read_later=is_read_later):
                raise CheckpointError(f"{path} {change}")

    @property
    def _has_named(self) -> bool:
        return any(foreign_files(shards, n_own=0) for shards in (self._outputs | self._indexes).values())

    def _tokenise_or_fall_back(self, found: Found) -> Mapping[str, Any]:
        """Make and finish the files; if the engine gives a wrong token, start over with tiktoken."""
        try:
            return self._tokenise(found)
        except EngineMismatch as error:
            erring = self._job.encoder
            erring.drop_caches()
            mismatch = f"{erring.name} {erring.version} gave other tokens than tiktoken for {error}"
        self._voice.warn(f"{mismatch}: starting over with tiktoken")
        take_back(full_shards(self._streams, read_found(self._journal).tokens), {})
        remove_work_files(self._folders)  # earlier tokens may be wrong, too
        self._saved = ""
        return self._tokenise(Found(mismatch=mismatch))

    def _tokenise(self, found: Found) -> Mapping[str, Any]:
        """Make and finish the files; return the report, which is then in the journal."""
        mark = last_sound_mark(found, self._files_of(found))
        if found.mismatch:
            if found.header is not None and self._job.encoder.name != TiktokenEncoder.name:
                self._voice.say(
                    f"{found.mismatch}: resuming with tiktoken"
                )  # only an earlier run has printed it
            self._job = with_reference(self._job)
        while True:
            tally = self._load(found, mark)
            earlier = found.marks[: mark + 1]
            take_back(self._files_of(found), earlier[-1].segment.tokens if earlier else {})
            header: dict[str, object] | None = self._header(found.mismatch)
            try:
                with Journal(self._journal, valid_bytes=earlier[-1].end_byte if earlier else 0) as journal:
                    if not earlier:
                        journal.append(self._header(found.mismatch))
                        header = None
                    elif found.header == header and found.header_end_byte <= earlier[-1].end_byte:
                        header = None  # it is in the journal already
                    Passes(
                        self._job, self._watch, journal, tally, earlier, header, self._fill, self._note_saved
                    ).make()
                    made = self.build_report(tally, found.mismatch)
                    journal.append({"report": made})
                    return made
            except Damaged as damage:  # redo the damaged segment, and everything after it
                found, mark = read_found(self._journal), damage.mark - 1

    def _files_of(self, found: Found) -> dict[str, Written]:
        """Return the token files of the saved run and, if it shuffles, those of the spills it has written."""
        n_spills = 0
        while any(self._job.spill(n_spills).outputs.keys() & mark.segment.crcs for mark in found.marks):
            n_spills += 1
        spills = unpublished({k: v for n in range(n_spills) for k, v in self._job.spill(n).outputs.items()})
        if self._job.config.overwrite:  # files with final names may be from another run
            return full_shards(self._streams, found.tokens) | spills
        return found_shards(self._streams, found.tokens, is_torn=found.is_torn) | spills

    def _header(self, mismatch: str) -> dict[str, object]:
        """Return the journal's header: what a later run must know, or must have the same."""
        inputs = [one.as_record() for one in self._job.inputs]
        return {"options": self._options(), "inputs": inputs, "engine_mismatch": mismatch}

    def _options(self) -> dict[str, Any]:
        """Return all options that decide the tokens."""
        return {**self._job.token_options, **({} if self._fill is None else self._fill.options)}

    def _load(self, found: Found, mark: int) -> Tally:
        """Restore the counters at a mark, and print that."""
        if found.header is None:
            return Tally([InputTally() for _ in self._job.inputs])
        tally = self._tally_at(found, mark)
        self._note_saved(Saved.of(tally))
        at = tally.position
        is_inside = at.input_index >= self._job.n_train_inputs or at.anchor != at.offset or bool(at.document)
        # At a limit that is reached, no more of the current input will be read.
        is_read_later = is_inside or stopped_by(tally, self._job) is None
        self._check_inputs(found, tally, is_read_later=is_read_later)
        del tally.inputs[len(self._job.inputs) :]
        begun = tally.inputs[: tally.position.input_index]
        for one, counts in zip(self._job.inputs, begun, strict=False):
            if not counts.is_left:  # a compressed file may have been replaced
                counts.bytes_read = one.size_bytes or counts.bytes_read
        tally.resumes += 1
        n_given_up = len(found.marks) - 1 - mark
        if n_given_up:
            tally.checkpoint_fallbacks += n_given_up
            self._voice.warn(
                f"{plural(n_given_up, 'checkpoint')} did not match what is on the disk: going back"
            )
        done = "nothing was saved"
        if tally.tokens:
            done = f"{format_duration(tally.wall_s)} of work already done"
        self._voice.say(f"resuming at {self._progress(Saved.of(tally))}: {done}")
        return tally

    def _note_saved(self, saved: Saved) -> None:
        self._saved = self._progress(saved) if saved.n_tokens else ""

    def _progress(self, saved: Saved) -> str:
        """Return the progress for a message: share, bytes and tokens."""
        n_tokens = f"{format_count(saved.n_tokens)} tokens"
        if saved.n_shuffled is not None:
            share = saved.n_shuffled / max(1, saved.n_tokens)
            return f"{share:.0%} of the second pass (all {n_tokens} are made, and are being shuffled)"
        what = " of the first of two passes" if self._job.config.shuffle else ""
        total_bytes = self._job.expected_bytes
        if total_bytes is None:
            return f"{format_bytes(saved.n_bytes)}, {n_tokens}{what}"
        share = saved.n_bytes / max(1, total_bytes)
        return f"{share:.0%}{what} ({format_bytes(saved.n_bytes)} of {format_bytes(total_bytes)}, {n_tokens})"

    def build_report(self, tally: Tally, mismatch: str) -> dict[str, Any]:
        """Return the contents of prepare.json except `files`."""
        made = build_report(self._job, tally, self._watch.guard, mismatch=mismatch)
        return made if self._fill is None else self._fill.complete(made)
