"""Where an input is, and how it is read."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import unquote

from nanogpt_compat.input.pipes import Pipe
from nanogpt_compat.system import redaction

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
