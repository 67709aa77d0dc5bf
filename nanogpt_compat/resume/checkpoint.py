"""Checkpoints: journal what is durable, so that a later run can resume from it.

The first record of the journal is a header with the inputs and options. One record for each checkpoint
follows, written once its tokens are on the disk. A last record holds the report when everything is finished.

A checkpoint's record says: the files hold this many tokens, their last segment has this CRC-32, and reading
resumes at this position. If a run resumes with other inputs or options that are allowed to change, it writes
a new header before its first record. The last header counts.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanogpt_compat.errors import OutputError
from nanogpt_compat.output.layout import WORK_FOLDER
from nanogpt_compat.output.token_file import TOKEN
from nanogpt_compat.output.writer import TokenFiles
from nanogpt_compat.output.written import Segment, Written, is_sound
from nanogpt_compat.resume.counters import InputTally, Tally
from nanogpt_compat.resume.journal import Journal, read_journal
from nanogpt_compat.system.threads import start_pool

EVERY_OUTPUT_BYTES = 64 * 1024 * 1024
EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class Mark:
    """A point to resume from: the length of the journal up to it, and the segment that ends there."""

    end_byte: int
    segment: Segment
    n_tokens: int = 0  # in the output


@dataclass(slots=True)
class Found:
    """The contents of an earlier run's journal."""

    header: Mapping[str, Any] | None = None  # the last one
    header_end_byte: int = 0
    marks: list[Mark] = field(default_factory=list)  # the first is right after the header: no tokens yet
    report: Mapping[str, Any] | None = None  # from a run that only had to rename its files
    end_byte: int = 0  # where the last valid line ends
    is_torn: bool = False  # invalid bytes follow that line
    mismatch: str = ""  # what the chosen engine got wrong, if tiktoken replaced it

    @property
    def has_anything(self) -> bool:
        """Whether any tokens are saved."""
        return self.report is not None or any(any(mark.segment.tokens.values()) for mark in self.marks)

    @property
    def tokens(self) -> Mapping[str, int]:
        """The number of tokens of each stream in the journal; empty without a checkpoint."""
        return self.marks[-1].segment.tokens if self.marks else {}

    @property
    def n_tokens(self) -> int:
        """The number of tokens of the output in the journal."""
        return self.marks[-1].n_tokens if self.marks else 0


def journal_in(output_dir: Path) -> Path:
    """Return the path of the journal for output in `output_dir`."""
    return output_dir / WORK_FOLDER / "journal"


def read_found(journal: Path) -> Found:
    """Read the journal up to its first invalid line; takes some hundred bytes of memory per checkpoint."""
    found = Found()
    for entry in read_journal(journal):
        record, found.end_byte = entry.record, entry.end_byte
        if found.header is None or "options" in record:
            if found.header is None:
                found.marks.append(Mark(entry.end_byte, Segment({}, {})))
            found.header, found.header_end_byte = record, entry.end_byte
            found.mismatch = record.get("engine_mismatch", "")
        elif "report" in record:
            found.report = record["report"]
        else:
            n_tokens = record["tally"]["train_tokens"] + record["tally"]["val_tokens"]
            found.marks.append(Mark(entry.end_byte, Segment(record["tokens"], record["crcs"]), n_tokens))
    found.is_torn = journal.is_file() and journal.stat().st_size > found.end_byte
    return found


def last_sound_mark(found: Found, files: Mapping[str, Written]) -> int:
    """Return the index of the last mark whose segment is intact in the files; 0 is the beginning."""
    marks = found.marks
    backwards = range(len(marks) - 1, 0, -1)
    return next((k for k in backwards if is_sound(files, marks[k - 1].segment.tokens, marks[k].segment)), 0)


def first_unsound_mark(
    marks: list[Mark], files: Mapping[str, Written], check: Callable[[], None]
) -> int | None:
    """Return the index of the first mark whose segment is not intact in the files. `check` may raise."""
    for index in range(1, len(marks)):
        check()
        if not is_sound(files, marks[index - 1].segment.tokens, marks[index].segment):
            return index
    return None


def segments_in(journal: Path, stream: str) -> Iterator[Segment]:
    """Yield the segments of a complete run that have a stream, with the checksums of sections."""
    for entry in read_journal(journal):
        if stream in (record := entry.record).get("crcs", ()):
            yield Segment(record["tokens"], record["crcs"], record.get("section_crcs", {}))


def load_tally(journal: Path, *, n_inputs: int, end_byte: int) -> Tally:
    """Restore the counters at the mark that ends at `end_byte`."""
    tally = Tally([InputTally() for _ in range(n_inputs)])
    for entry in read_journal(journal):
        if entry.end_byte > end_byte:
            break
        if "tally" in entry.record:  # all but headers
            tally.apply_record(entry.record["tally"])
    return tally


@dataclass(frozen=True, slots=True)
class Saved:
    """How much is in the journal."""

    n_bytes: int  # read from the input
    n_tokens: int
    n_shuffled: int | None = None  # how many of these the current pass has written; None: no shuffling yet

    @classmethod
    def of(cls, tally: Tally) -> "Saved":
        """Return what a checkpoint at `tally` saves."""
        return cls(tally.bytes_read, tally.tokens, None if tally.shuffled is None else tally.written_tokens)


class Checkpointer:
    """Writes a checkpoint every 64 MiB of output or 30 s, in a background thread.

    It writes a line to the journal only after its data are on the disk. A failed sync is not repeated: the
    system reports such an error only once, and a second sync would succeed although the data are lost.
    """

    def __init__(
        self,
        journal: Journal,
        sink: TokenFiles,
        tally: Tally,
        *,
        publishes: bool,
        header: Mapping[str, object] | None = None,
    ) -> None:
        """Start at `tally`.

        If `publishes`, full shards get their final names as soon as they are journaled. `header` is written
        before the first record.
        """
        self._journal = journal
        self._header = header
        self._sink = sink
        self._tally = tally
        self._publishes = publishes
        self._thread = start_pool(1, "checkpoint")
        self._pending: Future[None] | None = None
        self._input_index = tally.position.input_index
        self._tokens = tally.written_tokens
        self.saved = Saved.of(tally)
        self._started_s = self._last_s = time.monotonic()

    @property
    def wall_s(self) -> float:
        """The seconds that all runs have taken so far, including earlier ones."""
        return self._tally.wall_s + time.monotonic() - self._started_s

    def after_block(self) -> None:
        """Start a checkpoint if one is due; raise OutputError if the one before failed."""
        if self._pending is not None and self._pending.done():
            self._settle()
        n_bytes = (self._tally.written_tokens - self._tokens) * TOKEN.itemsize
        if n_bytes >= EVERY_OUTPUT_BYTES or (n_bytes and time.monotonic() - self._last_s >= EVERY_S):
            self._begin()

    def now(self) -> None:
        """Write a checkpoint and wait for it; raise OutputError if it fails."""
        self._begin()
        self._settle()

    def _begin(self) -> None:
        self._settle()
        if self._sink.n_tokens != self._tally.written_tokens:
            raise OutputError("the last block is only partly written; the checkpoint before it is valid")
        segment, wait = self._sink.begin_checkpoint()
        state = self._tally.to_record(since_input=self._input_index)
        record = {
            "tokens": segment.tokens,
            "crcs": segment.crcs,
            "section_crcs": {stream: crcs for stream, crcs in segment.section_crcs.items() if crcs},
            "tally": state | {"wall_s": round(self.wall_s, 3)},
        }
        self._pending = self._thread.submit(self._write, wait, record, Saved.of(self._tally))
        self._input_index = self._tally.position.input_index
        self._tokens = self._tally.written_tokens
        self._last_s = time.monotonic()

    def _write(self, wait: Callable[[], None], record: Mapping[str, Any], saved: Saved) -> None:
        if self._header is not None:
            self._journal.append(self._header)
            self._header = None
        wait()
        self._journal.append(record)
        self.saved = saved
        if self._publishes:
            self._sink.publish_full(record["tokens"])

    def _settle(self) -> None:
        """Wait for the checkpoint in progress, and raise its error."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread.shutdown()
