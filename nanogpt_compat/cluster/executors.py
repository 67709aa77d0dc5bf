"""Executors that run spans in parallel: processes of this machine, or a Dask cluster."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from nanogpt_compat.errors import InputError
from nanogpt_compat.run.supervise import Check
from nanogpt_compat.system.commands import install, module, show
from nanogpt_compat.system.display import use_calm_streams

LOCAL = "local"
_LOOK_UP_EVERY_S = 0.2
_SCHEDULER_STARTS_S = 30.0  # enough to load Python and Dask from a busy shared file system


@contextmanager
def open_executor(
    scheduler: str, n_workers: int, check: Check
) -> Iterator[tuple[Executor, Callable[[], int]]]:
    """Open processes of this machine, or a Dask cluster by its address or scheduler file.

    Also yield a function that returns how many spans should be under way.
    """
    if scheduler == LOCAL:
        with LocalProcesses(n_workers) as processes:
            yield processes, lambda: n_workers
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(
            f"--cluster {scheduler} needs Dask here and on the workers:{show(install('dask', 'distributed'))}"
        ) from error
    is_file = ":" not in scheduler
    if is_file:
        _wait_for_file(Path(scheduler), check)
    try:
        client = Client(scheduler_file=scheduler) if is_file else Client(scheduler)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--cluster {scheduler}: no Dask scheduler answers there ({error}); give its address, or the "
            "file that it writes with --scheduler-file"
        ) from error
    with client:
        # Dask does not repeat a pure task that is submitted again. And when a worker dies, Dask suspects all
        # tasks that are queued there: so submit one for each thread, and queue none.
        yield client.get_executor(pure=False), lambda: sum(client.nthreads().values())


def _wait_for_file(path: Path, check: Check) -> None:
    end_s = time.monotonic() + _SCHEDULER_STARTS_S
    while not path.exists():
        check()
        if time.monotonic() > end_s:
            scheduler = module("dask", "scheduler", "--scheduler-file", path)
            worker = module("dask", "worker", "--scheduler-file", path, "--nthreads", 1, "--memory-limit", 0)
            raise InputError(
                f"--cluster {path}: no scheduler has written such a file; start one and at least one worker, "
                f"then run the same command again:{show(f'{scheduler} &', f'{worker} &')}"
            )
        time.sleep(_LOOK_UP_EVERY_S)


class LocalProcesses(Executor):
    """Processes of this machine, each with its own executor, so that one that dies fails only its own span.

    Each runs one call at a time; calls beyond that wait for the first process. The processes end when this
    one does, however it ends.
    """

    def __init__(self, n_workers: int) -> None:
        self._processes = [_Process() for _ in range(n_workers)]

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Give a call to a free process."""
        free = (one for one in self._processes if one.last is None or one.last.done())
        return next(free, self._processes[0]).submit(fn, *args, **kwargs)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for the calls under way, or end them if an error occurred here."""
        self.shutdown(wait=kind is None, cancel_futures=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes; without `wait`, kill them."""
        if not wait:
            for child in multiprocessing.active_children():
                child.kill()
        while self._processes:  # otherwise Python reports leaked semaphores if a signal ends this process
            one = self._processes.pop()
            one.executor.shutdown(cancel_futures=cancel_futures)
            one.close()


class _Process:
    """An executor with a single process, and the end of a pipe that keeps it alive."""

    def __init__(self) -> None:
        self.last: Future[Any] | None = None
        self._open()

    def _open(self) -> None:
        # A forked process would inherit locks that other threads hold.
        context = multiprocessing.get_context("spawn")
        reader, self._writer = context.Pipe(duplex=False)
        self.executor = ProcessPoolExecutor(
            1, mp_context=context, initializer=_live_with_parent, initargs=(reader,)
        )

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Give a call to the process; start a new one if it has died."""
        with _interrupts_blocked():
            try:
                self.last = self.executor.submit(fn, *args, **kwargs)
            except BrokenExecutor:
                self.close()
                self._open()
                self.last = self.executor.submit(fn, *args, **kwargs)
        return self.last

    def close(self) -> None:
        self._writer.close()
        self.executor.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block SIGINT, also in new child processes: Ctrl-C reaches them, but their parent must end them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _live_with_parent(reader: Connection) -> None:
    """Set up a child process: it ends when the parent's end of the pipe is closed, and ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    use_calm_streams()

    def watch() -> None:
        with suppress(EOFError, OSError):
            reader.recv_bytes()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
