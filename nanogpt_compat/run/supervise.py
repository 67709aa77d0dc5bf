"""Locks, memory guard, signals and progress: what a run and --verify have in common."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from nanogpt_compat import pipeline
from nanogpt_compat.errors import MemoryLimitError, TooSmallError
from nanogpt_compat.memory.guard import MemoryGuard, Sampler, describe_limits
from nanogpt_compat.memory.limits import rss_bytes
from nanogpt_compat.memory.malloc import trim_heap
from nanogpt_compat.memory.policy import IN_FLIGHT_BYTES, SMALL_BLOCK_BYTES, Step, room_bytes
from nanogpt_compat.output.folders import remove_work_folder, work_folder
from nanogpt_compat.output.layout import WORK_FOLDER
from nanogpt_compat.output.shuffle import Place, regroup, write_out
from nanogpt_compat.output.spill import SORTING_BYTES, SpillReader, SpillWriter
from nanogpt_compat.output.token_file import TOKEN
from nanogpt_compat.output.writer import Sink
from nanogpt_compat.preflight.job import Job
from nanogpt_compat.resume.counters import Tally
from nanogpt_compat.resume.lock import FolderLock, check_free
from nanogpt_compat.system.voice import Voice
from nanogpt_compat.text.blocks import Need

Check = Callable[[], None]


@contextmanager
def locked(folders: Sequence[Path]) -> Iterator[None]:
    """Lock all folders that a run writes to. Links in several output folders may lead to one file.

    Raises:
        OutputError: a folder is in use by another run, or cannot be written to.
    """
    try:
        with ExitStack() as locks:
            for folder in folders:
                locks.enter_context(FolderLock(work_folder(folder) / "lock"))
            yield
    finally:
        for folder in folders:
            remove_work_folder(folder)


def check_unlocked(folders: Sequence[Path]) -> None:
    """Raise OutputError if `locked` would fail now because of another run; writes nothing."""
    for folder in folders:
        check_free(folder / WORK_FOLDER / "lock")


class Fill(Protocol):
    """Fills the output in place of the pipeline, with tokens that were made before."""

    @property
    def options(self) -> Mapping[str, Any]:
        """What must be the same in a later run that resumes this one."""

    def copy_into(
        self, sink: Sink, tally: Tally, *, after_part: Callable[[], None], check: Callable[[], None]
    ) -> None:
        """Append all tokens after `tally.position` to `sink`, and count them in `tally`."""

    def complete(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """Return the report of the run, with how the tokens were made as far as known."""


class Watch:
    """Processes the input of a job; as a context manager, it watches memory."""

    def __init__(self, job: Job, voice: Voice) -> None:
        self.voice = voice
        self._encoder = job.encoder
        self._expected_bytes = job.expected_bytes
        self._sorting_bytes = SORTING_BYTES if job.config.shuffle else 0
        self._is_smallest = job.config.n_workers == 1 and job.block_bytes <= SMALL_BLOCK_BYTES
        self._has_written: Callable[[], bool] = lambda: False
        sampler = Sampler(
            max_memory_bytes=job.config.max_memory_bytes, min_available_bytes=job.config.min_available_bytes
        )
        self.guard = MemoryGuard(sampler, most_bytes=IN_FLIGHT_BYTES)

    def __enter__(self) -> "Watch":
        """Start the guard, which may raise, and limit the engine's cache to the available memory."""
        self.guard.__enter__()
        self.voice.say(describe_limits(self.guard.readings, self.guard.budget_bytes))
        most_bytes = room_bytes(self.guard.readings)
        if most_bytes is not None:
            self._encoder.lower_cache_bytes(min(self._encoder.cache_bytes, most_bytes))
        if self._sorting_bytes:
            self._encoder.lower_cache_bytes(max(0, self._encoder.cache_bytes - self._sorting_bytes))
        return self

    def __exit__(self, *exc: object) -> None:
        self.guard.__exit__(*exc)

    def check(self) -> None:
        """Raise if the work should stop: after a signal, or when memory is about to run out."""
        self.voice.check()
        if self.guard.aborting.is_set():
            raise self._stop_for_memory()

    def memory_refused(self) -> MemoryLimitError | TooSmallError:
        """Return the error to raise from a MemoryError."""
        self.guard.abort()
        return self._stop_for_memory()

    def _stop_for_memory(self) -> MemoryLimitError | TooSmallError:
        """Return the error that ends the work; it must not advise a run that would end the same way."""
        found = self.guard.explain()
        if self._is_smallest and self.guard.is_our_own_doing and not self._has_written():
            return TooSmallError(
                f"{found}. Nothing could be written, with the smallest settings: allow more memory; running "
                "it again unchanged will not help"
            )
        return MemoryLimitError(found, smaller_helps=not self._is_smallest)

    def go_through(
        self,
        job: Job,
        sink: Sink,
        tally: Tally,
        *,
        flush: Callable[[], None] = lambda: None,
        after_block: Callable[[], None] = lambda: None,
        end: int | None = None,
    ) -> None:
        """Run the pipeline from `tally` to `end`, as in `Source`; `flush` writes back what `sink` holds."""
        encoder, beginning = job.encoder, tally.position
        self._has_written = lambda: tally.position != beginning
        with self.voice.open_display(self._expected_bytes, tally.bytes_read, rss_bytes) as display:

            def after_each_block() -> None:
                after_block()
                step = self.guard.take_step()
                if step is Step.FLUSH:
                    flush()
                elif step is Step.DROP_CACHES:
                    encoder.drop_caches()
                    trim_heap()
                display.show(bytes_read=tally.bytes_read, tokens=tally.tokens)

            def make_room(n_bytes: int, need: Callable[[], Need]) -> None:
                if self.guard.too_near(n_bytes):
                    flush()
                    encoder.drop_caches()
                    trim_heap()
                    self.guard.check_room(n_bytes, need)

            pipeline.run(
                replace(job.source, end=end),
                tally,
                sink,
                encoder,
                n_workers=job.config.n_workers,
                max_chars=job.config.max_chars,
                max_tokens=job.config.max_tokens,
                admit=self.guard.admit,
                after_block=after_each_block,
                check=self.check,
                make_room=make_room,
                check_room=self.guard.check_room,
            )
            display.show(bytes_read=tally.bytes_read, tokens=tally.tokens)  # there may have been no block

    def fill(self, fill: Fill, sink: Sink, tally: Tally, *, after_part: Callable[[], None]) -> None:
        """Fill the output after `tally`, and show progress."""
        with self.voice.open_display(
            self._expected_bytes, tally.bytes_read, rss_bytes, state="merging"
        ) as display:

            def after_each() -> None:
                after_part()
                display.show(bytes_read=tally.bytes_read, tokens=tally.tokens)

            fill.copy_into(sink, tally, after_part=after_each, check=self.check)

    def shuffle(
        self,
        spill: SpillReader,
        place: Place,
        sink: Sink | SpillWriter,
        tally: Tally,
        *,
        flush: Callable[[], None] = lambda: None,
        after_chunk: Callable[[], None] = lambda: None,
    ) -> None:
        """Append the rest of a spill to `sink`, in the order of its keys, and count it in `tally`.

        The engine is not needed any more, and its memory is used for reading.
        """
        self._encoder.drop_caches()
        trim_heap()
        tally.shuffled = place
        self._has_written = lambda: tally.shuffled != place
        n_bytes, n_done = (TOKEN.itemsize * n for n in (tally.tokens, place.n_tokens))
        with self.voice.open_display(n_bytes, n_done, rss_bytes, state="shuffling") as display:

            def after(place: Place) -> None:
                tally.shuffled = place
                after_chunk()
                if self.guard.take_step() is not None:
                    flush()
                display.show(bytes_read=TOKEN.itemsize * place.n_tokens, tokens=place.n_tokens)

            if isinstance(sink, SpillWriter):
                regroup(spill, place, sink, after=after, check=self.check)
            else:
                write_out(spill, place, sink, after=after, check=self.check)
