"""Where an input is, and how it is read."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote

from nanogpt_compat.input.pipes import Pipe
from nanogpt_compat.system import redaction

_ADDRESS = re.compile(r"[A-Za-z][\w+.-]+(?:://|::(?=/|[A-Za-z][\w+.-]*:))")
_FAMILIES = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "https": "http"}
_LOCAL = re.compile(r"(?:file|local)://(?:localhost(?=/))?", re.IGNORECASE)

Container: TypeAlias = Literal["text", "jsonl", "parquet", "arrow", "csv", "tsv"]
Compression: TypeAlias = Literal["none", "gz", "bz2", "xz", "zst"]


@dataclass(frozen=True, slots=True)
class Url:
    """A file on a server, printed without the secrets in its address.

    >>> str(Url("https://me:s3cret@host/some/part.txt?signature=abc"))
    'https://...@host/some/part.txt?...'
    """

    address: str = field(repr=False)
    mark: str = field(default="", compare=False)  # a suffix for addresses that would print alike

    def __post_init__(self) -> None:
        redaction.learn(self.address)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return redaction.split_query(self.address)[0].rpartition("/")[2]

    @property
    def scheme(self) -> str:
        """The scheme in lower case, such as s3."""
        return self.address.partition("://")[0].lower()

    @property
    def family(self) -> str:
        """The scheme; one name for all schemes of the same kind of server."""
        return _FAMILIES.get(self.scheme, self.scheme)

    def __str__(self) -> str:
        return redaction.hide(self.address) + self.mark


def is_url(text: str) -> bool:
    """Whether `text` is the address of something on a server."""
    return _ADDRESS.match(text) is not None


def local_path(text: str) -> str:
    """Turn the address of a local file into its path; return anything else unchanged.

    >>> local_path("file:///data/my%20text.txt"), local_path("data/*.txt"), local_path("s3://bucket/a")
    ('/data/my text.txt', 'data/*.txt', 's3://bucket/a')
    """
    match = _LOCAL.match(text)
    if match is None:
        return text
    path = text[match.end() :]
    return path if os.path.exists(path) else unquote(path)  # noqa: PTH110 - Path.exists may raise


Location: TypeAlias = Path | Url | Pipe


@dataclass(frozen=True, slots=True)
class Format:
    """How documents are stored in a file.

    >>> str(Format("jsonl", "zst")), str(Format("text"))
    ('jsonl.zst', 'text')
    """

    container: Container
    compression: Compression = "none"

    @classmethod
    def named(cls, text: str) -> "Format":
        """Parse what `str` returns."""
        return cls(*text.split("."))  # type: ignore[arg-type]

    @property
    def is_one_span(self) -> bool:
        """Whether a file can only be read from its beginning, or from where another reading has ended."""
        return self.compression != "none" or self.container in ("csv", "tsv")

    @property
    def has_records(self) -> bool:
        """Whether a file holds separate documents (JSON lines or rows), not continuous text."""
        return self.container != "text"

    def __str__(self) -> str:
        return self.container if self.compression == "none" else f"{self.container}.{self.compression}"


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a run: where it is, how it is stored, and what it holds."""

    location: Location
    form: Format
    description: Mapping[str, Any] = field(default_factory=dict)
    """From `resume.fingerprint.describe_input`; empty until preflight has looked at the input."""

    @property
    def size_bytes(self) -> int | None:
        """The size of the file; None for a pipe that has more than preflight has looked at."""
        size: int | None = self.description.get("size")
        return size

    @property
    def is_stream(self) -> bool:
        """Whether the size of its text is unknown until it has been read: a pipe, or compressed text."""
        is_packed_text = self.form.container == "text" and self.form.compression != "none"
        return isinstance(self.location, Pipe) or is_packed_text

    def as_record(self) -> dict[str, Any]:
        """Return it without the location, as JSON can hold it."""
        return {**self.description, "format": str(self.form)}
