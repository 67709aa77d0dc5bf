"""Read files on servers by ranges, through fsspec: none is downloaded whole, nothing is kept on the disk.

What is read in order is fetched ahead in pieces that grow from 256 KiB to 4 MiB, up to four at a time: one
connection alone is seldom as fast as the line. So 16 MiB are held, and for a moment up to twice that, since
aiohttp joins what has come. Each request is made in a thread of its own, so that whoever waits for it can be
stopped meanwhile.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from threading import Event
from typing import Any, TypeVar

from nanogpt_compat.config import Url
from nanogpt_compat.errors import InputError
from nanogpt_compat.redaction import redact
from nanogpt_compat.refusals import start_daemon

_T = TypeVar("_T")
_Range = tuple[int, int]  # bytes [start, end)

_FIRST_PIECE_BYTES = 256 * 1024
_PIECE_BYTES = 4 * 1024 * 1024
_MOST_PIECES = 4
_WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # before each further try
_MOST_WAIT_S = 60.0  # if the server asks for more
_LOOK_UP_EVERY_S = 0.1
_CONNECT_S = 30.0
_SILENCE_S = 60.0  # after which a request is given up
_PASSING = {408, 425, 429}  # of the answers 4xx, those that another try may change
_HINTS = ("ETag", "Last-Modified", "LastModified", "blob_id", "mtime", "updated", "created")
_PACKAGES = {
    "http": "aiohttp",
    "https": "aiohttp",
    "hf": "huggingface_hub",
    "s3": "s3fs",
    "gs": "gcsfs",
    "az": "adlfs",
}
_UNLISTABLE = ("http", "https")
_FINAL = (
    *(FileNotFoundError, IsADirectoryError, PermissionError, NotImplementedError, ImportError, MemoryError),
    *(ValueError, TypeError, LookupError, AttributeError),
)


def find_urls(pattern: str) -> tuple[list[Url], str]:
    """Turn an address, a glob or a folder's address into the files there; for a folder, say where it is.

    The Hub is asked which commit it is at, and the files are those of that commit.

    Raises:
        InputError: there is nothing of the kind, or no way to ask.
    """
    url = Url(pattern)
    protocol = _protocol(url)
    if protocol in _UNLISTABLE:
        if "*" in url.name or not url.name:
            raise InputError(f"{url}: a web server has no list of its files; give the address of each")
        return [url], ""
    server = _Server(url)
    name = _pin(server) if protocol == "hf" else server.name
    if any(char in name for char in "*?["):
        found = server.ask(partial(server.files.glob, name, detail=True))
        names = [one for one, info in found.items() if info["type"] == "file"]
        if not names:
            raise InputError(f"no file matches {url}")
        return [Url(f"{protocol}://{one}") for one in names], ""
    if server.ask(partial(server.files.isdir, name)):
        names = server.ask(partial(server.files.find, name))
        return [Url(f"{protocol}://{one}") for one in names], f"{protocol}://{name.rstrip('/')}/"
    return [Url(f"{protocol}://{name}")], ""


def _pin(server: "_Server") -> str:
    """Name a path on the Hub at the commit its branch is at now: it will not change during the run."""
    from huggingface_hub import HfApi

    where = server.ask(partial(server.files.resolve_path, server.name))
    if not hasattr(where, "repo_id"):  # a bucket has no commits
        return server.name
    api = HfApi(endpoint=server.files.endpoint, token=server.files.token)
    info = server.ask(
        partial(api.repo_info, where.repo_id, repo_type=where.repo_type, revision=where.revision)
    )
    kind = "" if where.repo_type == "model" else f"{where.repo_type}s/"
    return f"{kind}{where.repo_id}@{info.sha}/{where.path_in_repo}"


class _Server:
    """A file system, asked in threads while somebody waits."""

    def __init__(self, url: Url, check: Callable[[], None] = lambda: None) -> None:
        """Open it; that makes no connection yet."""
        self.url = url
        self._check = check
        self._closed = Event()
        self.files, self.name = _file_system(url)

    def close(self) -> None:
        """Let threads that nobody waits for any more end."""
        self._closed.set()

    def ask(self, call: Callable[[], _T]) -> _T:
        """Make a call, and wait for what it returns."""
        return self.result(self.begin(call), "")

    def begin(self, call: Callable[[], _T]) -> "Future[_T]":
        """Make a call in a thread."""
        future: Future[_T] = Future()

        def run() -> None:
            try:
                future.set_result(self._persist(call))
            except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
                future.set_exception(error)

        start_daemon(run)
        return future

    def result(self, future: "Future[_T]", where: str) -> _T:
        """Wait for a call, and look up every now and then.

        Raises:
            InputError: it has failed for good. And what `check` raises.
        """
        while not wait([future], _LOOK_UP_EVERY_S).done:
            self._check()
        error = future.exception()
        if isinstance(error, MemoryError):
            raise error
        if error is not None:
            raise _failure(self.url, where, error) from error
        return future.result()

    def _persist(self, call: Callable[[], _T]) -> _T:
        """Try again what may only have failed for now, later each time."""
        for wait_s in _WAITS_S:
            try:
                return call()
            except Exception as error:
                if _is_final(error) or self._closed.wait(max(wait_s, _wished_wait_s(error))):
                    raise
        return call()


@dataclass(frozen=True, slots=True)
class _Piece:
    start: int
    end: int
    data: "Future[bytes]"


class RemoteFile:
    """A file on a server, of a size that must not change while it is read."""

    def __init__(
        self, url: Url, *, size_bytes: int | None = None, check: Callable[[], None] = lambda: None
    ) -> None:
        """Ask for its size, which must be `size_bytes` if that is given.

        `check` is called several times a second while the server is waited for; what it raises ends the wait.

        Raises:
            InputError: it is missing or may not be read; its size is not told, or another by now; the
                package for such servers is missing.
        """
        self.path = url
        self._server = _Server(url, check)
        self._pieces: deque[_Piece] = deque()
        self._plan: Iterator[_Range] = iter(())
        self._n_pieces = 1  # fetched at a time
        self._is_guess = False  # the plan; or somebody has told it
        self._next: int | None = None  # where reading in order would go on
        now_bytes, self.hints = self._look()
        self.size_bytes = now_bytes if size_bytes is None else size_bytes
        if now_bytes != self.size_bytes:
            raise self._changed(f"had {self.size_bytes:,} bytes when the run began and has {now_bytes:,} now")

    def __enter__(self) -> "RemoteFile":
        """Return the file itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Forget what was fetched ahead; a request that is still out ends by itself."""
        self._server.close()
        self._pieces.clear()

    def read(self, n_bytes: int, offset: int) -> bytes:
        """Read exactly `[offset, offset + n_bytes)`, or up to the end.

        Raises:
            InputError: the server fails for longer than is waited for, or sends no parts of files.
        """
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
        """Take note of all that will be read, in order."""
        self._pieces.clear()
        self._plan = (piece for one in ranges for piece in _cut(*one, first_bytes=_PIECE_BYTES))
        self._n_pieces, self._is_guess = 1, False

    def drop_before(self, offset: int) -> None:
        """Do nothing: what was read is not kept."""

    def check_unchanged(self) -> None:
        """Ask again what it is.

        Raises:
            InputError: its size, its ETag or the like is another.
        """
        self._server.files.invalidate_cache()
        if (self.size_bytes, self.hints) != self._look():
            raise self._changed("was changed while it was read, so the tokens may belong to neither version")

    def _look(self) -> tuple[int, list[str]]:
        """Ask for its size, and for what would be another if it were changed."""
        info = self._server.ask(partial(self._server.files.info, self._server.name))
        size = info.get("size")
        if info.get("type") == "directory":
            raise InputError(f"{self.path} is a folder")
        if size is None or not info.get("partial", True):
            raise _no_parts(self.path)
        return size, [str(info[name]) for name in _HINTS if info.get(name)]

    def _changed(self, how: str) -> InputError:
        return InputError(f"{self.path} {how}: wait until whatever writes to it is done and run again")

    def _read_some(self, offset: int, end: int) -> bytes:
        """Return the first bytes of `[offset, end)`, out of a piece fetched ahead if there is one."""
        while self._pieces and self._pieces[0].end <= offset:
            self._pieces.popleft()
            self._n_pieces = min(_MOST_PIECES, self._n_pieces + 1)
        self._fetch_ahead(offset)
        if not self._pieces and offset == self._next:  # the second read in order
            self._plan = _cut(offset, self.size_bytes, first_bytes=_FIRST_PIECE_BYTES)
            self._n_pieces, self._is_guess = 1, True
            self._fetch_ahead(offset)
        if self._pieces and self._pieces[0].start <= offset:
            piece = self._pieces[0]
            data = self._server.result(piece.data, f" at byte {piece.start:,}")
            return data[offset - piece.start : end - piece.start]
        return self._server.result(self._begin(offset, end), f" at byte {offset:,}")

    def _fetch_ahead(self, offset: int) -> None:
        """Begin to fetch what comes next of the plan and does not lie before `offset`."""
        while len(self._pieces) < self._n_pieces:
            piece = next((one for one in self._plan if one[1] > offset), None)
            if piece is None:
                return
            self._pieces.append(_Piece(*piece, self._begin(*piece)))

    def _begin(self, start: int, end: int) -> "Future[bytes]":
        return self._server.begin(partial(self._fetch, start, end))

    def _fetch(self, start: int, end: int) -> bytes:
        """Make one request."""
        server = self._server
        with server.files.open(server.name, "rb", cache_type="none", size=self.size_bytes) as file:
            file.seek(start)
            data: bytes = file.read(end - start)
        if len(data) != end - start:
            raise OSError(f"{len(data):,} of {end - start:,} bytes came")
        return data


def read_ahead(file: object, ranges: Iterable[_Range]) -> None:
    """Tell a file on a server all that will be read of it, in order; others need not know."""
    if isinstance(file, RemoteFile):
        file.read_ahead(ranges)


def _cut(start: int, end: int, *, first_bytes: int) -> Iterator[_Range]:
    """Cut a range into pieces, the next one twice as long until that is enough.

    >>> list(_cut(0, 10_000_000, first_bytes=_PIECE_BYTES))
    [(0, 4194304), (4194304, 8388608), (8388608, 10000000)]
    """
    n_bytes = first_bytes
    while start < end:
        yield start, min(end, start + n_bytes)
        start += n_bytes
        n_bytes = min(2 * n_bytes, _PIECE_BYTES)


def _protocol(url: Url) -> str:
    return url.address.partition("://")[0].lower()


def _file_system(url: Url) -> tuple[Any, str]:
    """Make what fsspec has for such an address, and the name that it has for the file."""
    protocol = _protocol(url)
    package = _PACKAGES.get(protocol)
    try:
        from fsspec.core import url_to_fs

        options: dict[str, Any] = {}
        if protocol in ("http", "https"):
            from aiohttp import ClientTimeout

            timeout = ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
            options["client_kwargs"] = {"timeout": timeout, "trust_env": True}  # proxies
            options["encoded"] = "%" in url.address
        files, name = url_to_fs(url.address, **options)
    except ImportError as error:
        pip = f"`pip install fsspec {package}`" if package else str(error)
        raise InputError(f"what reads {url} is not installed: {pip}") from error
    except ValueError as error:
        raise InputError(f"{url} is no address that can be read ({_say(error)})") from error
    return files, str(name)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes: fsspec says `not found` of everything that happens to it."""
    while error is not None:
        yield error
        error = error.__cause__


def _first(error: BaseException) -> BaseException:
    return list(_chain(error))[-1]


def _status(error: BaseException) -> int | None:
    """Find out what the server answered, if it did: aiohttp and httpx keep it in different places."""
    for one in _chain(error):
        for owner, name in ((one, "status"), (getattr(one, "response", None), "status_code")):
            status = getattr(owner, name, None)
            if isinstance(status, int):
                return status
    return None


def _is_final(error: BaseException) -> bool:
    """Whether the same would happen again; what is not known here may be the network's fault."""
    status = _status(error)
    if status is not None:
        return 400 <= status < 500 and status not in _PASSING
    return isinstance(_first(error), _FINAL)


def _wished_wait_s(error: BaseException) -> float:
    """Read how many seconds the server wants to be left alone; 0 if it does not say."""
    for one in _chain(error):
        headers = getattr(one, "headers", None) or getattr(getattr(one, "response", None), "headers", None)
        asked = str((headers or {}).get("Retry-After", ""))
        if asked.isdecimal():
            return min(_MOST_WAIT_S, float(asked))
    return 0.0


def _say(error: BaseException) -> str:
    """Say an error in one line without what may be secret in an address."""
    status = _status(error)
    if status is not None and status in set(HTTPStatus):
        return f"{status} {HTTPStatus(status).phrase}"
    first = _first(error)
    text = redact(" ".join(str(first).split()))
    return f"{type(first).__name__}: {text}" if text else type(first).__name__


def _no_parts(url: Url) -> InputError:
    return InputError(
        f"{url}: its server does not say how large it is, or does not send parts of files; download it, or "
        "give it as a stream: `curl -L ADDRESS | python prepare.py --input -`"
    )


def _failure(url: Url, where: str, error: BaseException) -> InputError:
    """Say what came of all tries."""
    said = _say(error)
    status = _status(error)
    if isinstance(error, ValueError) and "range" in str(error):
        return _no_parts(url)
    if status in (404, 410) or (status is None and isinstance(_first(error), FileNotFoundError)):
        return InputError(f"there is no {url} ({said}); look up its address, and name it with --input")
    if status in (401, 403) or isinstance(error, PermissionError):
        return InputError(f"{url} may not be read ({said}); log in first (to the Hub with `hf auth login`)")
    tries = "" if _is_final(error) else f", {len(_WAITS_S) + 1} times in a row"
    return InputError(
        f"cannot read {url}{where}{tries}: {said}; when the server answers again, the same command goes on"
    )
