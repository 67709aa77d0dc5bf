"""A web server on this machine that can be made to fail in many ways."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_PART_BYTES = 64 * 1024


@dataclass
class Server:
    """Its folder, its behaviour, and the requests that it got."""

    folder: Path
    base: str = ""  # its address
    fails_every: int = 0  # counts requests for content
    fails_from: int = 1 << 60  # and from this one on
    how: str = "500"  # a status; `reset`, `short` (and breaks off), `less` (than was asked for)
    retry_after: str = ""
    has_ranges: bool = True
    has_length: bool = True
    by_query: bool = False  # the file is the `token` of the query
    etag: str = "one"
    bytes_per_s: float = 0.0
    hangs_from: int = 1 << 60  # number of the first request for content without an answer
    n_requests: int = 0  # for content
    n_bytes: int = 0  # sent as content
    ranges: list[tuple[str, int, int]] = field(default_factory=list)
    authorizations: str = ""
    is_hanging: Event = field(default_factory=Event)
    hub_commit: str = ""  # like the Hub: the folder is dataset `some/set`, and `main` is at this commit
    released: Event = field(default_factory=Event)
    lock: Lock = field(default_factory=Lock)

    def url(self, name: str) -> str:
        return f"{self.base}/{name}"

    def forget(self) -> None:
        self.n_requests = self.n_bytes = 0
        self.ranges.clear()


@contextmanager
def serve(folder: Path, **behaviour: Any) -> Iterator[Server]:
    """Serve a folder until the end of the context."""
    server = Server(folder, **behaviour)

    class Handler(_Handler):
        state = server

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.daemon_threads = True
    server.base = f"http://127.0.0.1:{web.server_port}"
    thread = Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        web.shutdown()
        web.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state: Server

    def do_HEAD(self) -> None:
        self._answer(self._file())

    def do_GET(self) -> None:
        state = self.state
        if state.hub_commit and self.path.startswith("/api/"):
            self._answer_hub()
            return
        path = self._file()
        with state.lock:
            state.n_requests += 1
            state.authorizations += self.headers.get("Authorization", "")
            number = state.n_requests
        if number >= state.hangs_from:
            state.is_hanging.set()
            state.released.wait(60)
            self.close_connection = True
            return
        if number >= state.fails_from or (state.fails_every and number % state.fails_every == 0):
            self._fail(path)
        else:
            self._answer(path)

    def _file(self) -> Path:
        path = unquote(urlsplit(self.path).path)
        if self.state.by_query:
            path = parse_qs(urlsplit(self.path).query)["token"][0]
        if self.state.hub_commit:
            path = path.removeprefix(f"/datasets/some/set/resolve/{self.state.hub_commit}/")
        return self.state.folder / path.lstrip("/")

    def _answer_hub(self) -> None:
        """Answer the requests of huggingface_hub for a dataset."""
        state, path = self.state, unquote(urlsplit(self.path).path)
        tree = f"/api/datasets/some/set/tree/{state.hub_commit}"
        if path.startswith(tree):
            folder = state.folder / path.removeprefix(tree).lstrip("/")
            one_level = "recursive=True" not in self.path and "recursive=true" not in self.path
            found = sorted(folder.glob("*" if one_level else "**/*"))
            answer: Any = [
                {
                    "type": "directory" if one.is_dir() else "file",
                    "path": one.relative_to(state.folder).as_posix(),
                    "size": one.stat().st_size,
                    "oid": "0" * 40,
                }
                for one in found
            ]
        elif re.fullmatch(rf"/api/datasets/some/set(/revision/(main|{state.hub_commit}))?", path):
            answer = {"id": "some/set", "sha": state.hub_commit}
        else:
            self.send_error(404)
            return
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _range(self, size: int) -> tuple[int, int] | None:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match is None or not self.state.has_ranges:
            return None
        return int(match[1]), min(size, int(match[2] or size - 1) + 1)

    def _fail(self, path: Path) -> None:
        state = self.state
        if state.how == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.close_connection = True
            self.connection.close()
        elif state.how == "short":
            self._answer(path, share=0.5)
            self.close_connection = True
        elif state.how == "less":
            self._answer(path, less_bytes=1)
        else:
            self.send_response(int(state.how))
            if state.retry_after:
                self.send_header("Retry-After", state.retry_after)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _answer(self, path: Path, *, share: float = 1.0, less_bytes: int = 0) -> None:
        state = self.state
        if not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        part = self._range(size)
        start, end = part or (0, size)
        end -= less_bytes
        self.send_response(206 if part else 200)
        if part:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        if state.has_length:
            self.send_header("Content-Length", str(end - start))
        else:
            self.send_header("Connection", "close")
        if state.etag:
            self.send_header("ETag", f'"{state.etag}"')
        self.send_header("Last-Modified", formatdate(path.stat().st_mtime, usegmt=True))
        self.end_headers()
        if self.command == "HEAD":
            return
        with state.lock:
            state.ranges.append((path.name, start, end))
        with path.open("rb") as file, suppress(OSError):
            file.seek(start)
            self._send(file, round((end - start) * share))

    def _send(self, file: Any, n_bytes: int) -> None:
        state = self.state
        while n_bytes > 0:
            data = file.read(min(_PART_BYTES, n_bytes))
            if state.bytes_per_s:
                state.released.wait(len(data) / state.bytes_per_s)
            self.wfile.write(data)
            n_bytes -= len(data)
            with state.lock:
                state.n_bytes += len(data)

    def log_message(self, *args: object) -> None:
        pass
