"""A real S3 server on this machine (moto), and a server that answers everything with the same error."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

_MAIN = "import sys; from moto.server import main; main(sys.argv[1:])"
_STARTS_S = 60.0
# moto checks no signature, and takes a request without one as anonymous.
_HEADERS = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/s3/aws4_request, Signature=s",
    "Content-Type": "application/octet-stream",
}


@dataclass
class Store:
    """An S3 server; `environment` has the variables that its client needs."""

    base: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.base,
            "AWS_ACCESS_KEY_ID": "AKIA0123456789",
            "AWS_SECRET_ACCESS_KEY": "KEYOFTHETESTS0123456789",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }

    def put(self, name: str, data: bytes = b"") -> None:
        """Store an object under `bucket/key`; without a key, make the bucket."""
        request = Request(f"{self.base}/{quote(name)}", data=data, method="PUT", headers=_HEADERS)
        with build_opener(ProxyHandler({})).open(request, timeout=60):
            pass


@contextmanager
def open_store(folder: Path) -> Iterator[Store]:
    """Start moto; its log is in `folder`."""
    log = folder / "moto.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _MAIN, "-H", "127.0.0.1", "-p", "0"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        end_s = time.monotonic() + _STARTS_S
        while (match := re.search(r"Running on (http://127\.0\.0\.1:\d+)", log.read_text())) is None:
            assert process.poll() is None and time.monotonic() < end_s, log.read_text()
            time.sleep(0.05)
        yield Store(match[1])
    finally:
        process.kill()
        process.wait()


@dataclass
class Refusing(Store):
    """A store that answers with one error."""

    status: int = 403
    code: str = "AccessDenied"
    requests: list[str] = field(default_factory=list)


@contextmanager
def open_refusing_store(status: int, code: str) -> Iterator[Refusing]:
    store = Refusing("", status, code)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            store.requests.append(f"{self.command} {self.path}")
            body = f"<Error><Code>{store.code}</Code><Message>as told</Message></Error>".encode()
            self.send_response(store.status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.daemon_threads = True
    store.base = f"http://127.0.0.1:{web.server_port}"
    thread = Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        web.shutdown()
        web.server_close()
        thread.join()
