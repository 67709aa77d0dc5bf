"""Make the output of a job, with checkpoints: in one pass or, with --shuffle, in two or more.

A pass fills one set of files: the output itself, or a spill that the next pass reads.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from nanogpt_compat import report
from nanogpt_compat.encoders.interface import EngineMismatch
from nanogpt_compat.errors import CheckpointError, InputError
from nanogpt_compat.output.folders import remove_work_files
from nanogpt_compat.output.shuffle import Place
from nanogpt_compat.output.spill import Spill, SpillReader, SpillWriter, remove_spill
from nanogpt_compat.output.writer import Sink, TokenFiles
from nanogpt_compat.output.written import Written, full_shards, unpublished
from nanogpt_compat.preflight.job import Job
from nanogpt_compat.resume.checkpoint import Checkpointer, Mark, Saved, first_unsound_mark
from nanogpt_compat.resume.counters import Tally
from nanogpt_compat.resume.journal import Journal
from nanogpt_compat.run.supervise import Fill, Watch


@dataclass(slots=True)
class Passes:
    """Makes the output of a job by tokenising its input, or with `fill` if it is given."""

    job: Job
    watch: Watch
    journal: Journal
    tally: Tally  # counts what is made, from where this run begins
    earlier: list[Mark]  # those that this run resumes from
    header: Mapping[str, object] | None  # goes into the journal with the first checkpoint
    fill: Fill | None
    note_saved: Callable[[Saved], None]  # called when a pass ends, for whatever reason

    def make(self) -> None:
        """Make the output from `tally` to the end, make it durable at its exact sizes, and check `earlier`.

        Raises:
            Damaged: the files of an earlier run have changed.
        """
        n_tokens = self.earlier[-1].segment.tokens if self.earlier else {}
        if self.job.config.shuffle:
            if self.tally.shuffled is None:
                self._spill(n_tokens)
                n_tokens = {}
            n_tokens = self._shuffle(n_tokens)
        else:
            with self._open_output(n_tokens) as files:
                self._save_as_it_goes(files, partial(self._encode, files, files.drop_pages))
                files.finish()
                n_tokens = files.tokens
        self._check_marks(full_shards(self.job.outputs | self.job.temporary, n_tokens))

    def _check_marks(self, files: Mapping[str, Written]) -> None:
        """Raise Damaged if a segment in these files was damaged after an earlier run had written it."""
        unsound = first_unsound_mark(self.earlier, files, self.watch.check)
        if unsound is not None:
            raise Damaged(unsound)

    def _open_output(self, n_tokens: Mapping[str, int]) -> TokenFiles:
        job = self.job
        return TokenFiles(
            job.outputs, n_tokens=n_tokens, window_bytes=job.window_bytes, temporary=job.temporary
        )

    def _encode(self, sink: Sink, flush: Callable[[], None], after_block: Callable[[], None]) -> None:
        if self.fill is None:
            self.watch.go_through(self.job, sink, self.tally, flush=flush, after_block=after_block)
        else:
            self.watch.fill(self.fill, sink, self.tally, after_part=after_block)
        if not self.job.config.shuffle:
            self.watch.voice.enter("finishing")

    def _spill(self, n_tokens: Mapping[str, int]) -> None:
        """Make the first pass of a shuffle: all tokens after `tally`, to the first spill."""
        job = self.job
        with Spill(
            job.spill(0), seed=job.seed, n_tokens=n_tokens, file_window_bytes=job.window_bytes
        ) as spill:
            self._save_as_it_goes(spill, partial(self._encode, spill, spill.drop_pages))
            spill.finish()
            self.tally.shuffled = Place(0, spill.n_windows)

    def _shuffle(self, n_tokens: Mapping[str, int]) -> Mapping[str, int]:
        """Make the other passes of a shuffle after `tally`: from spill to spill, then to the output."""
        while (place := self.tally.shuffled) is not None:
            names = self.job.spill(place.number)
            self._check_marks(unpublished(names.outputs))  # before it is read
            with SpillReader(names, place.n_windows) as spill, self._open_next(place, n_tokens) as sink:
                self._save_as_it_goes(
                    sink, partial(self._read_spill, spill, place, sink), is_new=not n_tokens
                )
                sink.finish()
                if not isinstance(sink, SpillWriter):
                    break
                self.tally.shuffled = Place(place.number + 1, sink.n_windows)
            n_tokens = {}
        return sink.tokens

    def _open_next(self, place: Place, n_tokens: Mapping[str, int]) -> TokenFiles:
        """Open the files that a spill is written to: the output, or a spill with fewer windows."""
        if place.is_last:
            return self._open_output(n_tokens)
        names = self.job.spill(place.number + 1)
        return SpillWriter(names, n_tokens=n_tokens, window_bytes=self.job.window_bytes)

    def _read_spill(
        self, spill: SpillReader, place: Place, sink: TokenFiles, after_chunk: Callable[[], None]
    ) -> None:
        """Append the rest of a spill to `sink`; the spill that it was made from is not needed any more."""
        if place.number:
            remove_spill(self.job.spill(place.number - 1))
        self.watch.shuffle(spill, place, sink, self.tally, flush=sink.drop_pages, after_chunk=after_chunk)
        if place.is_last:
            self.watch.voice.enter("finishing")

    def _save_as_it_goes(
        self, sink: TokenFiles, fill: Callable[[Callable[[], None]], None], *, is_new: bool = False
    ) -> None:
        """Fill `sink`, with checkpoints; save the work so far if anything stops it.

        `is_new`: a pass of a shuffle begins, so that the reading of the pass before counts.
        """
        job, tally = self.job, self.tally
        publishes = not job.config.overwrite
        with Checkpointer(self.journal, sink, tally, publishes=publishes, header=self.header) as checkpointer:
            try:
                if is_new:
                    checkpointer.now()
                fill(checkpointer.after_block)
                checkpointer.now()
            except (EngineMismatch, CheckpointError):
                raise  # do not save this work
            except BaseException as error:
                self.watch.voice.enter("saving")
                with suppress(Exception):  # report the error that ended the run
                    checkpointer.now()
                if isinstance(error, MemoryError):
                    raise self.watch.memory_refused() from error
                raise
            finally:
                self.note_saved(checkpointer.saved)
            if not tally.tokens or (job.config.n_val_inputs and not tally.train_tokens):
                remove_work_files(job.folders)  # without tokens, other options may be used next
                raise InputError(self._why_no_text())
            tally.wall_s = checkpointer.wall_s
        self.header = None

    def _why_no_text(self) -> str:
        inputs, tally = self.job.inputs, self.tally
        message = f"there is no text in {report.name_inputs(inputs[: self.job.n_train_inputs])}"
        if n_empty := self.job.empty_documents(tally):
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
