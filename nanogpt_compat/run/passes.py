"""Make the output of a job, with checkpoints: in one pass or, with --shuffle, in two or more.

A pass fills one set of files: the output itself, or a spill that the next pass reads.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from nanogpt_compat import report
from nanogpt_compat.encoders.interface import EngineMismatch
from nanogpt_compat.errors import CheckpointError, InputError
from nanogpt_compat.output.ends import WithEnds
from nanogpt_compat.output.folders import remove_work_files
from nanogpt_compat.output.shuffle import Place
from nanogpt_compat.output.spill import Spill, SpillReader, SpillWriter, remove_spill
from nanogpt_compat.output.writer import Sink, TokenFiles
from nanogpt_compat.output.written import Written, full_shards, unpublished
from nanogpt_compat.preflight.job import Job
from nanogpt_compat.resume.checkpoint import Checkpointer, Mark, Savable, Saved, first_unsound_mark
from nanogpt_compat.resume.counters import Tally
from nanogpt_compat.resume.journal import Journal
from nanogpt_compat.run.supervise import Fill, Watch


class Passes:
    """Makes the output of a job by tokenising its input, or with `fill` if it is given.

    `note_saved` is called with the saved progress when a pass ends, for whatever reason.
    """

    def __init__(
        self, job: Job, watch: Watch, *, fill: Fill | None, note_saved: Callable[[Saved], None]
    ) -> None:
        self._job = job
        self._watch = watch
        self._fill = fill
        self._note_saved = note_saved

    def make(
        self, journal: Journal, tally: Tally, earlier: list[Mark], header: Mapping[str, object] | None
    ) -> None:
        """Make the output from `tally` to the end, make it durable at its exact sizes, and check `earlier`.

        These are the marks that this run resumes from. `header` is journaled with the first checkpoint:
        before that, nothing of this run counts.

        Raises:
            Damaged: the files of an earlier run have changed.
        """
        n_tokens = self._fill_files(journal, tally, earlier, header)
        self._check_marks(earlier, full_shards(self._job.outputs | self._job.temporary, n_tokens))

    def _fill_files(
        self, journal: Journal, tally: Tally, earlier: list[Mark], header: Mapping[str, object] | None
    ) -> Mapping[str, int]:
        """Return the number of tokens in each stream."""
        n_tokens = earlier[-1].segment.tokens if earlier else {}
        if self._job.config.shuffle:
            if tally.shuffled is None:
                self._spill(journal, tally, n_tokens, header)
                n_tokens, header = {}, None
            return self._shuffle(journal, tally, earlier, n_tokens, header)
        with self._open_output(n_tokens) as files:

            def fill(after_block: Callable[[], None]) -> None:
                self._encode(self._sink_of(files), tally, files.drop_pages, after_block)
                self._watch.voice.enter("finishing")

            self._save_as_it_goes(journal, files, tally, header, fill)
            files.finish()
            return files.tokens

    def _check_marks(self, earlier: list[Mark], files: Mapping[str, Written]) -> None:
        """Raise Damaged if a segment in these files was damaged after an earlier run had written it."""
        unsound = first_unsound_mark(earlier, files, self._watch.check)
        if unsound is not None:
            raise Damaged(unsound)

    def _open_output(self, n_tokens: Mapping[str, int]) -> TokenFiles:
        job = self._job
        return TokenFiles(
            job.outputs, n_tokens=n_tokens, window_bytes=job.window_bytes, temporary=job.temporary
        )

    def _sink_of(self, files: TokenFiles) -> Sink:
        """Return what writes tokens, and the temporary streams, to `files`."""
        return WithEnds(files) if self._job.temporary else files

    def _encode(
        self, sink: Sink, tally: Tally, flush: Callable[[], None], after_block: Callable[[], None]
    ) -> None:
        """Append all tokens after `tally` to `sink`."""
        if self._fill is None:
            self._watch.go_through(self._job, sink, tally, flush=flush, after_block=after_block)
        else:
            self._watch.fill(self._fill, sink, tally, after_part=after_block)

    def _spill(
        self,
        journal: Journal,
        tally: Tally,
        n_tokens: Mapping[str, int],
        header: Mapping[str, object] | None,
    ) -> None:
        """Make the first pass of a shuffle: all tokens after `tally`, to the first spill."""
        job = self._job
        with Spill(
            job.spill(0), seed=job.seed, n_tokens=n_tokens, file_window_bytes=job.window_bytes
        ) as spill:

            def fill(after_block: Callable[[], None]) -> None:
                self._encode(spill, tally, spill.drop_pages, after_block)

            self._save_as_it_goes(journal, spill, tally, header, fill)
            spill.finish()
            tally.shuffled = Place(0, spill.n_windows)

    def _shuffle(
        self,
        journal: Journal,
        tally: Tally,
        earlier: list[Mark],
        n_tokens: Mapping[str, int],
        header: Mapping[str, object] | None,
    ) -> Mapping[str, int]:
        """Make the other passes of a shuffle after `tally`: from spill to spill, then to the output."""
        while (place := tally.shuffled) is not None:
            names = self._job.spill(place.number)
            self._check_marks(earlier, unpublished(names.outputs))  # before it is read
            with SpillReader(names, place.n_windows) as spill, self._open_next(place, n_tokens) as sink:
                fill = partial(self._read_spill, spill, place, sink, tally)
                self._save_as_it_goes(journal, sink, tally, header, fill, is_new=not n_tokens)
                sink.finish()
                if isinstance(sink, TokenFiles):
                    break
                tally.shuffled = Place(place.number + 1, sink.n_windows)
            n_tokens, header = {}, None
        return sink.tokens

    def _open_next(self, place: Place, n_tokens: Mapping[str, int]) -> TokenFiles | SpillWriter:
        """Open the files that a spill is written to: the output, or a spill with fewer windows."""
        if place.is_last:
            return self._open_output(n_tokens)
        names = self._job.spill(place.number + 1)
        return SpillWriter(names, n_tokens=n_tokens, window_bytes=self._job.window_bytes)

    def _read_spill(
        self,
        spill: SpillReader,
        place: Place,
        sink: TokenFiles | SpillWriter,
        tally: Tally,
        after_chunk: Callable[[], None],
    ) -> None:
        """Append the rest of a spill to `sink`; the spill that it was made from is not needed any more."""
        if place.number:
            remove_spill(self._job.spill(place.number - 1))
        target = sink if isinstance(sink, SpillWriter) else self._sink_of(sink)
        self._watch.shuffle(spill, place, target, tally, flush=sink.drop_pages, after_chunk=after_chunk)
        if place.is_last:
            self._watch.voice.enter("finishing")

    def _save_as_it_goes(
        self,
        journal: Journal,
        sink: Savable,
        tally: Tally,
        header: Mapping[str, object] | None,
        fill: Callable[[Callable[[], None]], None],
        *,
        is_new: bool = False,
    ) -> None:
        """Fill `sink`, with checkpoints; save the work so far if anything stops it.

        `is_new`: a pass of a shuffle begins, so that the reading of the pass before counts.
        """
        publishes = not self._job.config.overwrite
        with Checkpointer(journal, sink, tally, publishes=publishes, header=header) as checkpointer:
            try:
                if is_new:
                    checkpointer.now()
                fill(checkpointer.after_block)
                checkpointer.now()
            except (EngineMismatch, CheckpointError):
                raise  # do not save this work
            except BaseException as error:
                self._watch.voice.enter("saving")
                with suppress(Exception):  # report the error that ended the run
                    checkpointer.now()
                if isinstance(error, MemoryError):
                    raise self._watch.memory_refused() from error
                raise
            finally:
                self._note_saved(checkpointer.saved)
            if not tally.tokens or (self._job.config.n_val_inputs and not tally.train_tokens):
                remove_work_files(self._job.folders)  # without tokens, other options may be used next
                raise InputError(self._why_no_text(tally))
            tally.wall_s = checkpointer.wall_s

    def _why_no_text(self, tally: Tally) -> str:
        """Return the message for an input without text."""
        inputs = self._job.inputs
        message = f"there is no text in {report.name_inputs(inputs[: self._job.n_train_inputs])}"
        if n_empty := self._job.empty_documents(tally):
            message += f"; {n_empty:,} document{' is' if n_empty == 1 else 's are'} empty"
        if tally.skipped:
            index, why = tally.skipped[0]
            message += f"; {report.describe_skipped(tally.skipped_records, inputs[index].location, why)}"
        return message


class Damaged(Exception):
    """A segment differs from what an earlier run wrote; `mark` is the index of its mark."""

    def __init__(self, mark: int) -> None:
        super().__init__(mark)
        self.mark = mark
