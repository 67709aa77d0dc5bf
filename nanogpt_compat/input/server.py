"""A file server, reached through fsspec; a request is repeated where that may help."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from threading import Event, Lock
from typing import Any, TypeVar

from nanogpt_compat.errors import InputError, PrepareError
from nanogpt_compat.input.failures import chain, describe, failure, kind_of, status_of, wished_wait_s
from nanogpt_compat.input.location import Url
from nanogpt_compat.system.commands import install, show
from nanogpt_compat.system.redaction import redact
from nanogpt_compat.system.threads import start_daemon

_T = TypeVar("_T")
_LOG = logging.getLogger(__name__)

_WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # before each further try
_STRANGER_S = 3.0  # give up on a server that has never answered after this time: its name may be wrong
_QUIET_WAIT_S = 1.0  # shorter waits are not worth a notice
_QUIET_ANSWER_S = 10.0
_LOOK_UP_EVERY_S = 0.1
_CONNECT_S = 30.0
_SILENCE_S = 60.0  # give up a request after this time without data
_PACKAGES = {"http": "aiohttp", "hf": "huggingface_hub", "s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}
# Packages whose module has another name.
_DISTRIBUTIONS = {"libarchive": "libarchive-c", "smbclient": "smbprotocol"}
_THREAD_SAFE = {"hf", "memory"}  # and all asynchronous file systems

_answered: set[str] = set()
"""Schemes and hosts (or buckets) that have answered this process at least once."""


class Server:
    """An fsspec file system. Each request runs in its own thread, so that the wait for it can be interrupted.

    `check` is called several times a second during waits; an error that it raises ends the wait.
    """

    def __init__(self, url: Url, check: Callable[[], None] = lambda: None) -> None:
        """Open the file system, which connects to some kinds of servers."""
        self.url = url
        self._check = check
        self._closed = Event()
        self._key = "/".join(url.address.split("/", 3)[:3])  # its scheme and host, or bucket
        self._turns: AbstractContextManager[object] = nullcontext()
        self._quiet_until_s = 0.0
        self._is_open = False
        self.files, self.name = self.ask(_open_files, url)
        self._is_open = True
        if not self.files.async_impl and url.scheme not in _THREAD_SAFE:
            self._turns = Lock()  # ftplib and its like have one connection

    def close(self) -> None:
        """End threads that still wait to repeat a request."""
        self._closed.set()

    def ask(self, function: Callable[..., _T], *args: object, **options: object) -> _T:
        """Call a function in a thread, and wait for its result."""
        return self.result(self.begin(partial(function, *args, **options)))

    def begin(self, call: Callable[[], _T], where: str = "") -> "Future[_T]":
        """Make a call in a thread; `where` is the place in the file, for messages."""
        future: Future[_T] = Future()

        def run() -> None:
            try:
                with self._turns:
                    future.set_result(self._persist(call, where))
            except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
                future.set_exception(error)

        start_daemon(run)
        return future

    def result(self, future: "Future[_T]") -> _T:
        """Wait for the result of a call, or raise its error."""
        started_s = time.monotonic()
        while not wait([future], _LOOK_UP_EVERY_S).done:
            self._check()
            if self._key not in _answered and time.monotonic() - started_s > _QUIET_ANSWER_S:
                self._log(f"waiting for an answer from {self.url}", _SILENCE_S)
        return future.result()

    def _persist(self, call: Callable[[], _T], where: str) -> _T:
        """Repeat a call, with longer and longer waits, while that may help; else raise an InputError."""
        started_s, n_tries = time.monotonic(), 0
        while True:
            try:
                result = call()
            except (MemoryError, PrepareError):
                raise
            except Exception as error:
                n_tries += 1
                if status_of(error) is not None:
                    _answered.add(self._key)
                has_answered = self._key in _answered
                is_stranger = not has_answered and time.monotonic() - started_s > _STRANGER_S
                if kind_of(error) != "passing" or is_stranger or n_tries > len(_WAITS_S):
                    raise failure(
                        self.url, where, error, n_tries=n_tries, has_answered=has_answered
                    ) from error
                wait_s = max(_WAITS_S[n_tries - 1], wished_wait_s(error))
                if wait_s > _QUIET_WAIT_S:
                    self._log(f"{self.url}: {describe(error)}; trying again in {wait_s:g} s", wait_s)
                if self._closed.wait(wait_s):
                    raise
            else:
                if self._is_open and result is not False:  # `isdir` returns False for any error
                    _answered.add(self._key)
                return result

    def _log(self, notice: str, valid_s: float) -> None:
        """Log a notice, unless one for another request was logged less than `valid_s` ago."""
        now_s = time.monotonic()
        if now_s >= self._quiet_until_s:
            self._quiet_until_s = now_s + valid_s
            _LOG.warning(redact(notice))


def _open_files(url: Url) -> tuple[Any, str]:
    """Return fsspec's file system for an address, and its name for the file."""
    try:
        from fsspec.core import url_to_fs

        files, name = url_to_fs(url.address, **_options(url))
    except ImportError as error:
        missing = [one.name for one in chain(error) if isinstance(one, ModuleNotFoundError) and one.name]
        if not missing:
            raise InputError(f"the package that reads {url} cannot be imported: {describe(error)}") from error
        module, family = missing[-1].partition(".")[0], url.family
        packages = [_PACKAGES.get(family, _DISTRIBUTIONS.get(module, module))]
        if packages != ["fsspec"] and (module == "fsspec" or family in _PACKAGES):
            packages.insert(0, "fsspec")
        command = show(install(*packages))
        raise InputError(
            f"the package that reads {url} is not installed; install it with:{command}"
        ) from error
    except (TypeError, AttributeError) as error:  # it needs more arguments: the name of a repository, ...
        raise InputError(
            f"{url} cannot be opened by its address alone ({describe(error)}); copy the file to this machine"
        ) from error
    except ValueError as error:
        if kind_of(error) == "denied":
            raise
        raise InputError(f"{url} is not an address that can be read ({describe(error)})") from error
    return files, str(name)


def _options(url: Url) -> dict[str, Any]:
    """Return fsspec's options. Time limits and retries are set here, not in the package for the scheme."""
    if url.family == "http":
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
        return {
            "client_kwargs": {"timeout": timeout, "trust_env": True},  # proxies
            "encoded": "%" in url.address,
        }
    if url.family == "s3":
        from fsspec.config import conf

        # botocore would try five times, and s3fs five times each of these, before the user sees a notice.
        own = conf.get(url.scheme, {}).get("config_kwargs", {})
        return {
            "config_kwargs": {"retries": {"total_max_attempts": 1}} | own,
            "use_listings_cache": False,  # it would hide that an object has changed
        }
    return {}
