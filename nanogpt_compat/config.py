"""What a run was asked to do."""

import os
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import unquote

from nanogpt_compat import redaction
from nanogpt_compat.documents import Documents
from nanogpt_compat.pipes import Pipe

DEFAULT_INPUT = "train_fineweb.txt"
DEFAULT_TEXT_FIELD = "text"
VAL_RATIO = 0.0005

_ADDRESS = re.compile(r"[A-Za-z][\w+.-]+(?:://|::(?=/|[A-Za-z][\w+.-]*:))")
_LOCAL = re.compile(r"(?:file|local)://(?:localhost(?=/))?", re.IGNORECASE)

Container: TypeAlias = Literal["text", "jsonl", "parquet"]
Compression: TypeAlias = Literal["none", "gz", "zst"]


@dataclass(frozen=True, slots=True)
class Url:
    """A file on a server, printed without the secrets in its address.

    >>> str(Url("https://me:s3cret@host/some/part.txt?signature=abc"))
    'https://...@host/some/part.txt?...'
    """

    address: str = field(repr=False)
    mark: str = field(default="", compare=False)  # tells it from another that is printed the same

    def __post_init__(self) -> None:
        redaction.learn(self.address)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return redaction.split_query(self.address)[0].rpartition("/")[2]

    @property
    def is_shown_whole(self) -> bool:
        """Whether another address cannot be printed as this one is."""
        return str(self) == self.address

    def __str__(self) -> str:
        return redaction.hide(self.address) + self.mark


def is_url(text: str) -> bool:
    """Whether `text` names something on a server."""
    return _ADDRESS.match(text) is not None


def local_path(text: str) -> str:
    """Turn the address of a file of this machine into its path; return all else as it is.

    >>> local_path("file:///data/my%20text.txt"), local_path("data/*.txt"), local_path("s3://bucket/a")
    ('/data/my text.txt', 'data/*.txt', 's3://bucket/a')
    """
    match = _LOCAL.match(text)
    if match is None:
        return text
    path = text[match.end() :]
    return path if os.path.exists(path) else unquote(path)  # noqa: PTH110 - Path.exists may raise


Location: TypeAlias = Path | Url | Pipe
"""Where an input is."""


@dataclass(frozen=True, slots=True)
class Format:
    """How documents are stored in a file.

    >>> str(Format("jsonl", "zst")), str(Format("text"))
    ('jsonl.zst', 'text')
    """

    container: Container
    compression: Compression = "none"

    @property
    def is_packed_text(self) -> bool:
        """Whether nobody knows how much text it is, before it is unpacked."""
        return self.container == "text" and self.compression != "none"

    @classmethod
    def named(cls, text: str) -> "Format":
        """Do the reverse of `str`."""
        return cls(*text.split("."))  # type: ignore[arg-type]

    @property
    def has_records(self) -> bool:
        """Whether it brings its documents one by one."""
        return self.container != "text"

    def __str__(self) -> str:
        return self.container if self.compression == "none" else f"{self.container}.{self.compression}"


@dataclass(frozen=True, slots=True)
class Share:
    """What is asked of this process, of a run that others have a share in."""

    work_dir: Path
    span_bytes: int
    scheduler: str | None = None  # whom to give spans to: `local`, an address, a scheduler file
    rank: tuple[int, int] | None = None  # R of N: which spans to do here
    merge: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """The options of one run, checked and complete."""

    inputs: tuple[Location, ...]
    formats: tuple[Format, ...]  # of each of them
    output_dir: Path
    n_chunks: int | None = None  # of 10,000,000 characters each
    val_ratio: float = VAL_RATIO
    val_split: str = "spread"
    separator: str | None = None  # between documents; None: there are none
    eot: str = "append"
    output_format: str = "bin"
    shard_tokens: int | None = None
    shard_name: str | None = None
    text_field: str = DEFAULT_TEXT_FIELD
    skip_bad_records: bool = False
    errors: str = "ignore"
    errors_given: bool = False  # whoever says what to do with undecodable bytes knows of them
    vocab_dir: Path | None = None
    engine: str = "auto"
    n_workers: int = 1
    block_bytes: int | None = None  # None: by the number of workers
    overwrite: bool = False
    max_memory_bytes: int | None = None
    min_available_bytes: int | None = None

    @property
    def documents(self) -> Documents | None:
        """What to do about documents; None if the text is one stream."""
        if self.separator is None and not any(one.has_records for one in self.formats):
            return None
        return Documents(
            self.separator,
            self.eot,
            self.val_ratio if self.val_split == "documents" else 0.0,
            text_field=self.text_field,
            skip_bad=self.skip_bad_records,
        )

    @property
    def has_streams(self) -> bool:
        """Whether there is text of which nobody knows how much it is before it has been read."""
        return any(isinstance(one, Pipe) for one in self.inputs) or any(
            one.is_packed_text for one in self.formats
        )

    @property
    def has_val(self) -> bool:
        """Whether there is a val.bin at all."""
        return self.val_split != "none" and self.val_ratio > 0

    def as_options(self) -> dict[str, object]:
        """List the options as JSON can hold them."""
        names = [one.name for one in fields(self) if one.name not in ("inputs", "formats")]
        values = ((name, getattr(self, name)) for name in names)
        return {name: str(value) if isinstance(value, Path) else value for name, value in values}
