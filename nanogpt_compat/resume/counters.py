"""The progress of a run: its position in the input, and all its counters."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from nanogpt_compat.output.shuffle import Place
from nanogpt_compat.system.checksum import combine_crcs
from nanogpt_compat.text.blocks import Position, Records
from nanogpt_compat.text.documents import Counts

MAX_OFFSETS = 10
_ADDED = ("tokens", "val_tokens", "documents", "invalid_bytes", "text_bytes", "records", "skipped_records")
_LINE = re.compile(r"^line (\d+(?:,\d{3})*)")


@dataclass(slots=True)
class InputTally:
    """The counters of one input."""

    tokens: int = 0
    val_tokens: int = 0  # the part of `tokens` for val; too few if an older version began the run
    documents: int = 0  # finished ones that are not empty
    invalid_bytes: int = 0
    bytes_read: int = 0  # from the file, as stored
    text_bytes: int = 0  # uncompressed; for columns, only the texts
    records: int = 0  # lines or rows
    crc: int = 0  # zlib.crc32 of the uncompressed content; for columns, the texts and their lengths
    skipped_records: int = 0
    first_skipped: str = ""  # its place and the reason
    is_left: bool = False  # a limit such as --n was reached, so the rest, or all of it, is not read


@dataclass(slots=True)
class Tally:
    """The state of a run between two blocks. Only the writing thread changes it."""

    inputs: list[InputTally]
    position: Position = field(default_factory=lambda: Position(0))
    train_tokens: int = 0
    val_tokens: int = 0
    chars: int = 0  # counted only with --n
    forced_cuts: int = 0
    checked_slices: int = 0  # also encoded by tiktoken, and compared
    fallback_blocks: int = 0  # encoded by tiktoken because the engine would give wrong tokens
    documents: int = 0  # finished ones that are not empty
    empty_documents: int = 0
    longest_document_bytes: int = 0  # UTF-8, of finished documents
    open_document_bytes: int = 0  # the unfinished document so far
    skipped_records: int = 0
    skipped: list[tuple[int, str]] = field(default_factory=list)  # the first ten: input index, and why
    replaced_surrogates: int = 0
    invalid_offsets: list[tuple[int, int]] = field(default_factory=list)  # (input index, byte offset)
    resumes: int = 0
    checkpoint_fallbacks: int = 0
    wall_s: float = 0.0  # in the earlier runs
    shuffled: Place | None = None  # all input is read and counted, and its documents are shuffled up to here

    @property
    def tokens(self) -> int:
        """The number of tokens so far, train and val."""
        return self.train_tokens + self.val_tokens

    @property
    def written_tokens(self) -> int:
        """The number of tokens in the files that are being written."""
        return self.tokens if self.shuffled is None else self.shuffled.n_tokens

    @property
    def bytes_read(self) -> int:
        """The number of stored bytes read so far, of all inputs."""
        return sum(one.bytes_read for one in self.inputs)

    @property
    def text_bytes_before(self) -> int:
        """The part of `text_bytes` from the inputs before the current one."""
        return sum(one.text_bytes for one in self.inputs[: self.position.input_index])

    @property
    def text_bytes(self) -> int:
        """The number of uncompressed bytes of text so far, of all inputs."""
        return sum(one.text_bytes for one in self.inputs)

    @property
    def invalid_bytes(self) -> int:
        """The number of undecodable bytes so far."""
        return sum(one.invalid_bytes for one in self.inputs)

    def count_block(
        self,
        end: Position,
        *,
        n_train_tokens: int,
        n_val_tokens: int,
        n_chars: int,
        n_forced: int,
        n_invalid: int,
        invalid_offsets: Sequence[int],
        records: Records,
    ) -> None:
        """Count a block after it was written; keep the first ten places of faults in the run."""
        one = self.inputs[end.input_index]
        one.tokens += n_train_tokens + n_val_tokens
        one.val_tokens += n_val_tokens
        one.bytes_read = end.stored_bytes or end.offset
        one.text_bytes = end.offset
        one.records = end.records
        one.crc = end.crc
        one.invalid_bytes += n_invalid
        one.skipped_records += records.n_bad
        one.first_skipped = one.first_skipped or next(iter(records.bad), "")
        self.train_tokens += n_train_tokens
        self.val_tokens += n_val_tokens
        self.chars += n_chars
        self.forced_cuts += n_forced
        self.skipped_records += records.n_bad
        self.replaced_surrogates += records.n_replaced
        self.position = end
        self._keep_offsets(invalid_offsets)
        self._keep_skipped(records.bad)

    def _keep_offsets(self, offsets: Sequence[int]) -> None:
        some = offsets[: MAX_OFFSETS - len(self.invalid_offsets)]
        self.invalid_offsets += [(self.position.input_index, offset) for offset in some]

    def count_documents(self, counts: Counts) -> None:
        """Count the documents of the last counted block."""
        n_before = self.documents
        self.longest_document_bytes = max(self.longest_document_bytes, counts.longest_bytes)
        if counts.head_bytes is not None:
            self.open_document_bytes += counts.head_bytes
            if counts.head_ends:
                self.longest_document_bytes = max(self.longest_document_bytes, self.open_document_bytes)
                self.documents += 1
                self.open_document_bytes = 0
        self.documents += counts.n_whole
        self.empty_documents += counts.n_empty
        if counts.tail_bytes is not None:
            self.open_document_bytes = counts.tail_bytes
        self.inputs[self.position.input_index].documents += self.documents - n_before

    def _keep_skipped(self, bad: Sequence[str]) -> None:
        some = bad[: MAX_OFFSETS - len(self.skipped)]
        self.skipped += [(self.position.input_index, where_and_why) for where_and_why in some]

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "Tally":
        """Build a tally of one input from its `record`."""
        tally = cls([InputTally()])
        tally.apply_record(record)
        return tally

    def to_record(self, *, since_input: int) -> dict[str, object]:
        """Return all counters as a record, but only the inputs from `since_input` up to the current one.

        With 100,000 inputs, a record with all of them would be larger than the tokens of a checkpoint. An
        input has only its counters that are not zero.
        """
        record = {name: value for name, value in asdict(self).items() if name != "inputs"}
        if self.shuffled is None:
            del record["shuffled"]
        changed = {
            str(index): {name: value for name, value in asdict(self.inputs[index]).items() if value}
            for index in range(since_input, self.position.input_index + 1)
        }
        return record | {"inputs": changed}

    def apply_record(self, record: Mapping[str, Any]) -> None:
        """Update the state to `record`; all earlier records must have been applied before, in order."""
        for index, one in record["inputs"].items():
            self.inputs[int(index)] = InputTally(**one)
        self.position = Position(**record["position"])
        self.shuffled = Place(**record["shuffled"]) if "shuffled" in record else None
        self.skipped = [(index, why) for index, why in record["skipped"]]
        self.invalid_offsets = [(index, offset) for index, offset in record["invalid_offsets"]]
        for name in _PLAIN:
            setattr(self, name, record[name])

    def add(self, part: "Tally", end: Position, *, crc_bytes: int, n_lines_before: int = 0) -> None:
        """Add the counters of another process, which has read one input from here up to `end`.

        `crc_bytes`: the number of bytes that the CRC of `part` covers.
        """
        one, new = self.inputs[end.input_index], part.inputs[0]
        for name in _ADDED:
            setattr(one, name, getattr(one, name) + getattr(new, name))
        one.bytes_read = max(one.bytes_read, new.bytes_read)
        one.first_skipped = one.first_skipped or _renumber(new.first_skipped, n_lines_before)
        one.crc = combine_crcs(one.crc, new.crc, crc_bytes)
        longest_bytes = max(self.longest_document_bytes, part.longest_document_bytes)
        wall_s = self.wall_s  # not added: the processes may have run at the same time
        for name in _PLAIN:
            setattr(self, name, getattr(self, name) + getattr(part, name))
        self.longest_document_bytes, self.wall_s = longest_bytes, wall_s
        self.position = end
        self._keep_offsets([offset for _, offset in part.invalid_offsets])
        self._keep_skipped([_renumber(why, n_lines_before) for _, why in part.skipped])


# What a record holds unchanged.
_PLAIN = [one.name for one in fields(Tally) if isinstance(one.default, int | float)]


def _renumber(why: str, n_lines_before: int) -> str:
    """Return the message with its line counted from the beginning of the file, not of the span.

    >>> _renumber("line 2, at byte 1,234: not JSON", 9999)
    'line 10,001, at byte 1,234: not JSON'
    """
    return _LINE.sub(lambda match: f"line {int(match[1].replace(',', '')) + n_lines_before:,}", why)
