"""A run that is ready to start, and the options that decide its output."""

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanogpt_compat import report
from nanogpt_compat.config import SEED, Config
from nanogpt_compat.encoders.forecast import Estimate
from nanogpt_compat.encoders.interface import Encoder
from nanogpt_compat.encoders.reference import TiktokenEncoder, with_mark
from nanogpt_compat.encoders.vocabulary import Vocabulary
from nanogpt_compat.input.location import Input
from nanogpt_compat.input.source import Source
from nanogpt_compat.output.ends import lay_out_ends
from nanogpt_compat.output.index import lay_out_indexes
from nanogpt_compat.output.layout import Shards, lay_out
from nanogpt_compat.output.spill import SpillFiles
from nanogpt_compat.output.token_file import TOKEN, window_for
from nanogpt_compat.pipeline import block_size
from nanogpt_compat.resume.counters import Tally
from nanogpt_compat.resume.fingerprint import DOCUMENT_SHARE, TEXT_BYTES, TOKEN_FORMAT, digest_of
from nanogpt_compat.text.documents import Documents
from nanogpt_compat.text.val_split import Windows, windows_for

REPORTED_OPTIONS = {
    "--errors": "errors",
    "--n": "n_chunks",
    "--max-tokens": "max_tokens",
    "--val-ratio": "val_ratio",
    "--val-split": "val_split",
    "--document-separator": "separator",
    "--one-document-per-file": "one_document_per_file",
    "--eot": "eot",
    "--text-field": "text_field",
    "--skip-bad-records": "skip_bad_records",
    "--format": "output_format",
    "--shard-tokens": "shard_tokens",
    "--shard-name": "shard_name",
    "--index": "index",
    "--shuffle": "shuffle",
    "--seed": "seed",
}
"""The options that decide the output, and their names in `Config` and in `options` of prepare.json."""

_LATER_OPTIONS = {"--max-tokens", "--one-document-per-file", "--index", "--shuffle", "--seed"}
"""Those that earlier versions did not have. They count only if they are given, so that the output and saved
work of those versions stay valid."""


@dataclass(frozen=True, slots=True)
class Job:
    """A run that is ready to start: its options, and what preflight found out."""

    config: Config
    inputs: tuple[Input, ...]  # with their descriptions
    vocabulary: Vocabulary
    encoder: Encoder
    engine_line: str  # for messages: which engine, and why
    forecast: Estimate  # for the samples alone, if the size of an input is unknown
    text_bytes: int | None  # all inputs together, uncompressed; None: unknown
    document_ratio: float  # the share of documents for validation, raised if there is little text
    shows_end_of_text: bool = False  # the samples hold `<|endoftext|>` as text
    lacks_separator: bool = False  # no sample holds the separator of documents, and there is a long text

    @property
    def n_train_inputs(self) -> int:
        """How many of `inputs` are from --input; only these are split into train and val."""
        return len(self.inputs) - self.config.n_val_inputs

    @property
    def expected_bytes(self) -> int | None:
        """Bytes of the inputs that will be read, as they are stored; None if unknown."""
        return None if any(one.size_bytes is None for one in self.inputs) else self.forecast.text_bytes

    @property
    def windows(self) -> Windows:
        """The nominal windows for validation, in the order of the input."""
        return windows_for(self.split_bytes, self.config.val_ratio, self.config.val_split)

    @property
    def block_bytes(self) -> int:
        """Bytes of text that are encoded at a time."""
        return self.config.block_bytes or block_size(self.config.n_workers)

    @property
    def source(self) -> Source:
        """The inputs, and how they are cut into blocks."""
        config = self.config
        return Source(
            inputs=self.inputs,
            n_val_inputs=config.n_val_inputs,
            windows=self.windows,
            documents=self.documents,
            errors=config.errors,
            block_bytes=self.block_bytes,
        )

    @property
    def documents(self) -> Documents | None:
        """`Config.documents`, with the share for validation raised if there is little text."""
        documents = self.config.documents
        if documents is None or not documents.val_ratio:
            return documents
        return replace(documents, val_ratio=self.document_ratio)

    @property
    def outputs(self) -> dict[str, Shards]:
        """The files to be written; see `outputs_of`."""
        return outputs_of(self.config)

    @property
    def temporary(self) -> dict[str, Shards]:
        """The streams that exist only while the run lasts; see `TokenFiles`."""
        return lay_out_ends(self.outputs) if self.config.index else {}

    @property
    def indexes(self) -> dict[str, Shards]:
        """The indexes to be written, by name."""
        return indexes_of(self.config) if self.config.index else {}

    @property
    def seed(self) -> int:
        """The seed of a shuffle."""
        return SEED if self.config.seed is None else self.config.seed

    def spill(self, number: int, *, word: str = "spill") -> SpillFiles:
        """Return the names of a spill of a shuffle, on the disk of train.bin."""
        return SpillFiles(self.outputs["train"].folder, number, word)

    @property
    def window_bytes(self) -> int:
        """How much of an output file is mapped at a time; the file grows in steps of this size."""
        shard_bytes = self.outputs["train"].shard_tokens * TOKEN.itemsize
        if self.expected_bytes is None:
            return window_for(shard_bytes)
        return window_for(min(shard_bytes, self.forecast.output_bytes))

    @property
    def folders(self) -> list[Path]:
        """All folders that are written to: a link in the output folder may lead to another folder."""
        parents = [shards.folder for shards in (self.outputs | self.indexes).values()]
        return [*{folder.resolve(): folder for folder in (*parents, self.config.output_dir)}.values()]

    @property
    def token_options(self) -> dict[str, Any]:
        """Everything except the inputs that decides the tokens, by option name if it has one."""
        is_split_by_hash = self.config.val_split == "documents"
        return {
            **({TEXT_BYTES: self.split_bytes} if self.windows else {}),
            **({DOCUMENT_SHARE: self.document_ratio} if is_split_by_hash else {}),
            "documents": "yes" if self.config.has_documents else "no",
            "token format": TOKEN_FORMAT,
            "tiktoken": report.versions()["tiktoken"],
            "vocabulary": self.vocabulary.sha256,
            **reported_options(self.config.as_options()),
        }

    @property
    def fingerprint(self) -> str:
        """Equal for two runs that make the same files from the same inputs."""
        return digest_of(self.token_options, self.inputs)

    @property
    def split_bytes(self) -> int | None:
        """Size of the text that may be read, of which the windows are a share; None if unknown."""
        most_bytes = self.config.most_bytes
        if self.text_bytes is None or most_bytes is None:
            return self.text_bytes
        return min(self.text_bytes, most_bytes)

    def empty_documents(self, tally: Tally) -> int:
        """Return the number of documents without characters; an empty file has no block that counts it."""
        if not self.config.one_document_per_file:
            return tally.empty_documents
        rows = zip(self.inputs, tally.inputs, strict=False)
        return tally.empty_documents + sum(
            not (one.form.has_records or counts.text_bytes or counts.is_left) for one, counts in rows
        )

    @property
    def free_bytes(self) -> int:
        """Free disk space for train.bin, as this user may use it."""
        for folder in self.outputs["train"].path(0).parents:
            with contextlib.suppress(OSError):  # this folder does not exist yet
                return shutil.disk_usage(folder).free
        return 0


def with_reference(job: Job) -> Job:
    """Replace the engine by tiktoken."""
    encoding = job.vocabulary.encoding
    encoder = TiktokenEncoder(with_mark(encoding) if job.config.has_documents else encoding)
    return replace(job, encoder=encoder)


def outputs_of(config: Config) -> dict[str, Shards]:
    """Return the files to be written, by split or stream; looks into the output folder for links."""
    return lay_out(
        config.output_dir,
        form=config.output_format,
        shard_tokens=config.shard_tokens,
        word=config.shard_name,
        has_val=config.has_val,
        has_val_inputs=config.n_val_inputs > 0,
    )


def indexes_of(config: Config) -> dict[str, Shards]:
    """Return the indexes that belong to the files of a run, by name, whether it makes them or not."""
    return lay_out_indexes(config.output_dir, outputs_of(config))


def reported_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that decide the tokens, from `options` of prepare.json, by the names of the options.

    Raises:
        KeyError: it is not a report of this program.
    """
    found = {}
    for option, name in REPORTED_OPTIONS.items():
        value = options.get(name) if option in _LATER_OPTIONS else options[name]
        if option not in _LATER_OPTIONS or (value is not None and value is not False):  # 0 is a seed
            found[option] = value
    return found
