"""Read files on servers by ranges, through fsspec, without downloading them to the disk.

A file that is read in order is fetched ahead in pieces that grow from 256 KiB to 4 MiB, up to four at a time:
one connection is seldom as fast as the line. So 16 MiB are held, and for a moment up to twice that, since
aiohttp joins the chunks that it received. Each request runs in its own thread, so that the wait for it can be
interrupted.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

from nanogpt_compat.errors import InputError
from nanogpt_compat.input.failures import access_hint, no_parts
from nanogpt_compat.input.location import Url
from nanogpt_compat.input.server import Server
from nanogpt_compat.system.redaction import user_of

_Range = tuple[int, int]  # bytes [start, end)

_FIRST_PIECE_BYTES = 256 * 1024
_PIECE_BYTES = 4 * 1024 * 1024
_MOST_PIECES = 4
_HINTS = ("ETag", "Last-Modified", "LastModified", "blob_id", "mtime", "updated", "created")
_THROUGH = re.compile(r"[A-Za-z][\w+.-]*::|(?:zip|tar|libarchive)://|.*::[A-Za-z][\w+.-]*://", re.IGNORECASE)
_WITHOUT_USERS = ("s3", "gs", "az")  # their packages take `user:password@` as part of the bucket's name


def find_urls(pattern: str) -> tuple[dict[Url, int], str]:
    """Return the files that an address, a glob or a folder names, and the folder's address, else "".

    Each file has its size in bytes if it is in a folder, else 0. Files on the Hub are pinned to the branch's
    current commit. Raise an InputError if the address cannot be read.
    """
    scheme, _, rest = pattern.partition("://")
    url = Url(f"{scheme.lower()}://{rest}" if rest else pattern)
    if _THROUGH.match(pattern):
        raise InputError(
            f"{url} leads through an archive or a cache; unpack it, or give the address of the file itself"
        )
    if not rest.strip("/"):
        raise InputError(f"{url} names no file, folder or bucket")
    if url.family in _WITHOUT_USERS and user_of(url.address):
        raise InputError(f"{url}: credentials in the address are not supported; {access_hint(url)}")
    if url.family == "http":
        if "*" in url.name or not url.name:
            raise InputError(f"{url}: a web server has no list of its files; give the address of each")
        return {url: 0}, ""
    with closing(Server(url)) as server:
        return _list(url, server)


def _list(url: Url, server: Server) -> tuple[dict[Url, int], str]:
    name = _pin(server) if url.scheme == "hf" else server.name
    before, root = (f"{url.scheme}://", "") if name != server.name else _root(url.address, name)

    def addresses(names: Iterable[str]) -> list[Url]:
        # The consoles of S3 and other stores mark a folder with a zero-byte object named `folder/`.
        return [Url(before + one.removeprefix(root)) for one in names if not one.endswith("/")]

    if any(char in name for char in "*?["):
        found = server.ask(server.files.glob, name, detail=True)
        files = addresses(one for one, info in found.items() if info["type"] == "file")
        if not files and "*" not in name and server.ask(server.files.isfile, name):
            return {url: 0}, ""  # its name only looks like a glob
        if not files:
            raise InputError(f"no file matches {url}")
        return dict.fromkeys(files, 0), ""
    if not server.ask(server.files.isdir, name):
        return dict.fromkeys(addresses([name]) or [url], 0), ""
    listed = server.ask(server.files.find, name, detail=True)
    sizes = {url: int(info.get("size") or 0) for one, info in listed.items() for url in addresses([one])}
    if not sizes:
        raise InputError(f"{url} is empty: there is no file in it")
    return sizes, f"{before}{name.removeprefix(root).rstrip('/')}/"


def _root(address: str, name: str) -> tuple[str, str]:
    """Return the part of an address before the name, and the beginning of the name that this part contains.

    >>> _root("ftp://me@host/folder/*.txt", "/folder/*.txt"), _root("s3://bucket/folder/", "bucket/folder")
    (('ftp://me@host', ''), ('s3://', ''))
    >>> _root("abfs://container@account.host/folder", "container/folder")
    ('abfs://container@account.host', 'container')
    """
    address, name = address.rstrip("/"), name.rstrip("/")
    if address.endswith(name):
        return address.removesuffix(name), ""
    parts = name.split("/")
    ends = ((k, "".join("/" + part for part in parts[k:])) for k in range(1, len(parts) + 1))
    k, end = next((k, end) for k, end in ends if address.endswith(end))
    return address.removesuffix(end), "/".join(parts[:k])


def _pin(server: Server) -> str:
    """Return a path on the Hub at the branch's current commit, so that it cannot change during the run."""
    from huggingface_hub import HfApi

    where = server.ask(server.files.resolve_path, server.name)
    if not hasattr(where, "repo_id"):  # a bucket has no commits
        return server.name
    api = HfApi(endpoint=server.files.endpoint, token=server.files.token)
    info = server.ask(api.repo_info, where.repo_id, repo_type=where.repo_type, revision=where.revision)
    kind = "" if where.repo_type == "model" else f"{where.repo_type}s/"
    return f"{kind}{where.repo_id}@{info.sha}/{where.path_in_repo}"


@dataclass(frozen=True, slots=True)
class _Piece:
    start: int
    end: int
    data: "Future[bytes]"


class RemoteFile:
    """A file on a server, whose size must not change while it is read."""

    reads_anywhere = False  # it fetches ahead what is read in order

    def __init__(
        self, url: Url, *, size_bytes: int | None, check: Callable[[], None], end: int | None
    ) -> None:
        """Ask for the file's size, which must be `size_bytes` if that is given; see `open_input`."""
        self.path = url
        self._server = Server(url, check)
        self._pieces: deque[_Piece] = deque()
        self._plan: Iterator[_Range] = iter(())
        self._n_pieces = 1  # fetched at a time
        self._is_guess = False  # the plan is a guess from reads in order, not from `read_ahead`
        self._next: int | None = None  # where the next read in order would begin
        self._file_bytes, self.hints = self._look()
        if size_bytes not in (None, self._file_bytes):
            raise self._changed(
                f"had {size_bytes:,} bytes when the run began and has {self._file_bytes:,} now"
            )
        self.size_bytes = self._file_bytes if end is None else end

    def __enter__(self) -> "RemoteFile":
        return self

    def __exit__(self, *exc: object) -> None:
        """Drop the pieces that were fetched ahead; pending requests end by themselves."""
        self._server.close()
        self._pieces.clear()

    def read(self, n_bytes: int, offset: int) -> bytes:
        """Read exactly `[offset, offset + n_bytes)`, or up to `size_bytes`."""
        end = min(offset + n_bytes, self.size_bytes)
        if self._is_guess and offset != self._next:
            self.read_ahead(())
        parts = []
        while offset < end:
            parts.append(self._read_some(offset, end))
            offset += len(parts[-1])
        self._next = offset
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_ahead(self, ranges: Iterable[_Range]) -> None:
        """Plan to fetch these ranges ahead: all that will be read, in order."""
        self._pieces.clear()
        self._plan = (piece for one in ranges for piece in _cut(*one, first_bytes=_PIECE_BYTES))
        self._n_pieces, self._is_guess = 1, False

    def drop_before(self, offset: int) -> None:
        """Do nothing: the bytes that were read are not kept."""

    def check_unchanged(self) -> None:
        """Raise an InputError if the size, ETag or the like has changed since the file was opened."""
        self._server.files.invalidate_cache()
        if (self._file_bytes, self.hints) != self._look():
            raise self._changed("was changed while it was read, so the tokens may belong to neither version")

    def _look(self) -> tuple[int, list[str]]:
        """Ask for the size, and for the ETag, modification time and the like."""
        info = self._server.ask(self._server.files.info, self._server.name)
        size = info.get("size")
        if info.get("type") == "directory":
            raise InputError(f"{self.path} is a folder")
        if size is None or not info.get("partial", True):
            raise no_parts(self.path)
        return size, [str(info[name]) for name in _HINTS if info.get(name)]

    def _changed(self, how: str) -> InputError:
        return InputError(f"{self.path} {how}: wait until nothing writes to it any more, then run again")

    def _read_some(self, offset: int, end: int) -> bytes:
        """Return the first bytes of `[offset, end)`, from a piece fetched ahead if there is one."""
        while self._pieces and self._pieces[0].end <= offset:
            self._pieces.popleft()
            self._n_pieces = min(_MOST_PIECES, self._n_pieces + 1)
        self._fetch_ahead(offset)
        if not self._pieces and offset == self._next:  # the second read in order
            self._plan = _cut(offset, self._file_bytes, first_bytes=_FIRST_PIECE_BYTES)
            self._n_pieces, self._is_guess = 1, True
            self._fetch_ahead(offset)
        if self._pieces and self._pieces[0].start <= offset:
            piece = self._pieces[0]
            return self._server.result(piece.data)[offset - piece.start : end - piece.start]
        return self._server.result(self._fetch(offset, end))

    def _fetch_ahead(self, offset: int) -> None:
        """Begin to fetch the next pieces of the plan that end after `offset`."""
        ahead = (one for one in self._plan if one[1] > offset)
        for piece in islice(ahead, max(0, self._n_pieces - len(self._pieces))):
            self._pieces.append(_Piece(*piece, self._fetch(*piece)))

    def _fetch(self, start: int, end: int) -> "Future[bytes]":
        """Begin one request."""
        server = self._server

        def request() -> bytes:
            with server.files.open(server.name, "rb", cache_type="none", size=self._file_bytes) as file:
                file.seek(start)
                data: bytes = file.read(end - start)
            if len(data) != end - start:
                raise OSError(f"{len(data):,} of {end - start:,} bytes came")
            return data

        return server.begin(request, f" at byte {start:,}")


def read_ahead(file: object, ranges: Iterable[_Range]) -> None:
    """Plan to fetch these ranges ahead if the file is on a server; else do nothing."""
    if isinstance(file, RemoteFile):
        file.read_ahead(ranges)


def _cut(start: int, end: int, *, first_bytes: int) -> Iterator[_Range]:
    """Cut a range into pieces, each twice as long as the one before, up to 4 MiB.

    >>> list(_cut(0, 10_000_000, first_bytes=_PIECE_BYTES))
    [(0, 4194304), (4194304, 8388608), (8388608, 10000000)]
    """
    n_bytes = first_bytes
    while start < end:
        yield start, min(end, start + n_bytes)
        start += n_bytes
        n_bytes = min(2 * n_bytes, _PIECE_BYTES)
