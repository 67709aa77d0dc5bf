"""An append-only file of tokens that grows through a small window of memory.

np.memmap alone has three traps here: on a full disk a store into a sparse file is SIGBUS, which no `except`
sees; dirty pages count as our memory; and it cannot grow. So the file grows by real allocation before it is
mapped, one window is mapped at a time, and a full one is unmapped and written back while the next one fills.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import cache
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.errors import OutputError
from nanogpt_compat.system.filesystem import advice, drop_cache, file_system, pwrite_all, sync_folder
from nanogpt_compat.system.threads import start_pool
from nanogpt_compat.system.units import format_bytes, plural

TOKEN = np.dtype("<u2")

# 512 MiB in appends of 1.7 MB, mapped, ext4, idle 2-core AMD EPYC VM, Linux 6.18, numpy 2.4: windows of 1 MiB
# 340-420 MB/s, 4 MiB 870-1,010, 8 MiB 950-1,300, 16 MiB 1,060-1,310, 32 MiB 1,230-2,090, 64 MiB 810-950. RSS
# rises by one window, and more speed than this is no use: a tokeniser makes 100 MB/s. (pwrite: 1,900 MB/s.)
WINDOW_BYTES = 8 << 20
_MIN_WINDOW_BYTES = 64 << 10

# posix_fallocate there reserves the very blocks that a store will use. btrfs writes elsewhere (SIGBUS on a
# full disk all the same), network file systems tell of a full disk at msync only: these get pwrite.
MAPPED_FILE_SYSTEMS = frozenset({"ext4", "xfs", "tmpfs"})

_INTERRUPTED = OSError(errno.EIO, "a sync was interrupted")

_MADV_POPULATE_WRITE = 23  # the mmap module has no name for it


def window_for(output_bytes: int) -> int:
    """Choose windows so that a small output needs little more room on the disk than it has in the end.

    >>> window_for(6_600_000_000), window_for(1_000_000)
    (8388608, 131072)
    """
    eighth = _round_up(output_bytes // 8, _MIN_WINDOW_BYTES)
    return min(WINDOW_BYTES, max(_MIN_WINDOW_BYTES, eighth))


class GrowingMemmap:
    """Append tokens to a file in bounded memory; a context manager.

    At most one window is mapped and at most two are dirty. All methods belong to one thread; only the call
    that `begin_sync` returns may be made in another. After one failed write the object refuses everything:
    the system forgets such an error once it is told, and a second fsync would succeed with the data gone.

        with GrowingMemmap(path) as tokens:
            tokens.append(np.array([464, 3290], dtype=np.uint16))
            tokens.finish()
    """

    def __init__(
        self, path: Path, *, n_tokens: int = 0, window_bytes: int = WINDOW_BYTES, mapped: bool | None = None
    ) -> None:
        """Create or open `path` and cut it to `n_tokens`; what lies behind them is thrown away.

        `mapped` chooses np.memmap (needs os.posix_fallocate) or pwrite; None lets the file system choose.

        Raises:
            OutputError: the file cannot be opened, or holds fewer than `n_tokens`.
        """
        self._path = path
        self._n_tokens = n_tokens
        self._window_tokens = window_bytes // TOKEN.itemsize
        self._file = _open(path, n_tokens)
        mapped = _is_safe_to_map(path) if mapped is None else mapped
        self._form: _Form = _Mapped(self._file, self._window_tokens) if mapped else _Written(self._file)
        self._background = start_pool(1, f"write back {path.name}")
        self._last_write_back: Future[None] | None = None
        self._failure: OSError | None = None

    @property
    def n_tokens(self) -> int:
        """How many tokens have been appended, those of earlier runs included."""
        return self._n_tokens

    def append(self, tokens: NDArray[np.uint16]) -> None:
        """Append `tokens`, (n,) uint16 of any length: all of them or, if there is no room, none.

        After a refused allocation (the mapped form) everything appended before can still be synced; a failed
        pwrite may be the news of an earlier loss, so after that nothing can.

        Raises:
            OutputError: no space, quota or file size left, or an earlier write failed.
            MemoryError: the next window cannot be mapped.
            TypeError: not (n,) uint16.
        """
        self._refuse_after_failure()
        _require_uint16(tokens)
        n_before = self._n_tokens
        try:
            self._form.reserve(n_before + len(tokens))
            self._store(tokens)
        except OSError as error:
            self._n_tokens = n_before
            with contextlib.suppress(OSError):  # the first error is the one to tell
                self._cut_to_size()  # ext4 keeps what a failed allocation got, and the journal needs it
            if error.errno == errno.ENOMEM:  # a window cannot be mapped: the disk is not to blame
                raise MemoryError(f"{self._path} cannot take {tokens.nbytes:,} bytes more") from error
            raise OutputError(self._no_room(tokens.nbytes, error)) from error

    def begin_sync(self) -> Callable[[], None]:
        """Begin to make everything appended so far durable; it is, once the returned call has returned.

        `append` may go on meanwhile. The returned call may be made in any thread and more than once; it
        raises OutputError if this or any other write has failed by then.
        """
        self._refuse_after_failure()
        write_back = self._begin_write_back()

        def wait() -> None:
            write_back.result()
            self._refuse_after_failure()

        return wait

    def sync(self) -> None:
        """Make everything appended so far durable. Raises OutputError if it is not."""
        self.begin_sync()()

    def drop_pages(self) -> None:
        """Write back and give back all memory now, mapped or cached; the next append maps anew."""
        self.sync()

    def finish(self, *, header: bytes = b"") -> None:
        """Cut the file to its exact size, make it durable and close it.

        `header` takes the place of the first tokens, which have only kept it free.

        Raises:
            OutputError: it could not be cut or written; what follows the last sync is in doubt.
        """
        self._refuse_after_failure()
        try:
            self._cut_to_size()
            pwrite_all(self._file.fileno(), header, 0)
        except OSError as error:
            raise OutputError(_not_written(self._path, error)) from error
        self.sync()
        self.close()

    def close(self) -> None:
        """Close the file as it is: not synced, and up to a window too long. A second call does nothing."""
        self._form.release()
        self._background.shutdown()
        # What close can report concerns data that was never synced, and so never promised.
        with contextlib.suppress(OSError):
            self._file.close()

    def __enter__(self) -> "GrowingMemmap":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _store(self, tokens: NDArray[np.uint16]) -> None:
        start = self._n_tokens
        for first, last in _cut_at_multiples(start, start + len(tokens), self._window_tokens):
            try:
                self._form.store(tokens[first - start : last - start], first)
            except OSError as error:
                if error.errno != errno.ENOMEM:
                    self._failure = error  # NFS tells here, once, what became of earlier writes
                raise
            self._n_tokens = last
            if last % self._window_tokens == 0:
                self._leave_full_window()

    def _leave_full_window(self) -> None:
        """Begin to write back the window that is full, once the one before it has reached the disk."""
        if self._last_write_back is not None:
            self._last_write_back.result()  # or dirty pages would pile up before a slow disk
            self._refuse_after_failure()
        self._begin_write_back()

    def _begin_write_back(self) -> "Future[None]":
        # Unmapping leaves the dirty pages in the page cache, where fsync finds them without a map.
        self._form.release()
        self._last_write_back = self._background.submit(self._write_back, self._n_tokens)
        return self._last_write_back

    def _write_back(self, n_tokens: int) -> None:
        """Write what is dirty and drop it from the page cache; in the background, one after the other."""
        if self._failure is not None:
            return
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self._failure = error
            return
        except BaseException:  # MemoryError, for example: the system may have reported a failure all the same
            self._failure = _INTERRUPTED
            raise
        # Two windows, since the last pages of the one before could be in use when that was dropped. Up to the
        # end of the window, since large folios are dropped whole or not, and one may reach past the tokens.
        end_tokens = _round_up(n_tokens, self._window_tokens)
        start_tokens = max(0, end_tokens - 2 * self._window_tokens)
        drop_cache(self._file.fileno(), start_tokens * TOKEN.itemsize, end_tokens * TOKEN.itemsize)

    def _cut_to_size(self) -> None:
        self._form.release()  # a store behind the end of a file is SIGBUS
        os.ftruncate(self._file.fileno(), self._n_tokens * TOKEN.itemsize)

    def _refuse_after_failure(self) -> None:
        if self._failure is not None:
            raise OutputError(_not_written(self._path, self._failure)) from self._failure

    def _no_room(self, needed_bytes: int, error: OSError) -> str:
        free_bytes = shutil.disk_usage(self._path.parent).free
        step_bytes = self._window_tokens * TOKEN.itemsize
        return (
            f"{self._path} cannot take {format_bytes(needed_bytes)} more: {error.strerror}. It grows by up "
            f"to {format_bytes(step_bytes)} at a time; {format_bytes(free_bytes)} are free there. "
            f"{advice(error).capitalize()} and run the same command again: "
            "it goes on from the last checkpoint."
        )


class _Form(Protocol):
    """How tokens get into the file."""

    def reserve(self, end_tokens: int) -> None:
        """Make sure that tokens up to `end_tokens` have a place on the disk, or raise OSError."""

    def store(self, tokens: NDArray[np.uint16], start_tokens: int) -> None:
        """Put `tokens` at `start_tokens`; they end in the window in which they begin."""

    def release(self) -> None:
        """Let go of the window; the next store enters one anew."""


class _Mapped:
    """Through an np.memmap, from the token at which a window is entered to the next multiple of its size."""

    def __init__(self, file: FileIO, window_tokens: int) -> None:
        self._file = file
        self._window_tokens = window_tokens
        self._start_tokens = 0
        # The only reference: np.memmap has no close, dropping it unmaps. (A closed mmap under it segfaults.)
        self._window: np.memmap[Any, np.dtype[np.uint16]] | None = None

    def reserve(self, end_tokens: int) -> None:
        size_bytes = os.fstat(self._file.fileno()).st_size
        end_bytes = _round_up(end_tokens, self._window_tokens) * TOKEN.itemsize
        if end_bytes > size_bytes:
            os.posix_fallocate(self._file.fileno(), size_bytes, end_bytes - size_bytes)

    def store(self, tokens: NDArray[np.uint16], start_tokens: int) -> None:
        if self._window is None:
            n_tokens = _round_up(start_tokens + 1, self._window_tokens) - start_tokens
            offset_bytes = start_tokens * TOKEN.itemsize
            self._window = np.memmap(self._file, TOKEN, "r+", offset_bytes, (n_tokens,))
            self._start_tokens = start_tokens
        first = start_tokens - self._start_tokens
        self._fault_in(first, first + len(tokens))
        self._window[first : first + len(tokens)] = tokens

    def _fault_in(self, first: int, last: int) -> None:
        """Make the pages of `self._window[first:last]` writable, or raise OSError.

        After an error a file system may shut itself down: then this call fails where a store would be SIGBUS.
        It costs nothing that can be measured: the store finds its pages there.
        """
        assert self._window is not None
        base = self._window.ctypes.data
        start, end = (base + place * TOKEN.itemsize for place in (first, last))
        start -= start % mmap.PAGESIZE
        # Not by mmap.madvise, which keeps the GIL for the 0.1 ms that it takes.
        if _system_madvise()(start, end - start, _MADV_POPULATE_WRITE):
            number = ctypes.get_errno()
            if number != errno.EINVAL:  # Linux before 5.14
                number = errno.EIO if number == errno.EFAULT else number
                raise OSError(number, os.strerror(number))

    def release(self) -> None:
        self._window = None


class _Written:
    """With pwrite, which reports a full disk as an error on every file system."""

    def __init__(self, file: FileIO) -> None:
        self._file = file

    def reserve(self, end_tokens: int) -> None:
        pass  # pwrite allocates

    def store(self, tokens: NDArray[np.uint16], start_tokens: int) -> None:
        data = np.ascontiguousarray(tokens, dtype=TOKEN).view(np.uint8).data
        pwrite_all(self._file.fileno(), data, start_tokens * TOKEN.itemsize)

    def release(self) -> None:
        pass  # nothing is held


@cache
def _system_madvise() -> Any:
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return madvise


def _is_safe_to_map(path: Path) -> bool:
    return hasattr(os, "posix_fallocate") and file_system(path) in MAPPED_FILE_SYSTEMS


def _open(path: Path, n_tokens: int) -> FileIO:
    """Open or create `path`, cut it to `n_tokens` and make its name durable."""
    try:
        file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+")
        try:
            _cut_to_checkpoint(path, file, n_tokens)
            sync_folder(path.parent)
        except BaseException:
            file.close()
            raise
    except OSError as error:
        raise OutputError(
            f"{path} cannot be opened for writing: {error.strerror}; {advice(error)} and run the same "
            "command again, or give another --output-dir"
        ) from error
    return file


def _cut_to_checkpoint(path: Path, file: FileIO, n_tokens: int) -> None:
    n_found = os.fstat(file.fileno()).st_size // TOKEN.itemsize
    if n_found < n_tokens:
        raise OutputError(
            f"{path} holds {plural(n_found, 'token')}, but {n_tokens:,} were saved there: "
            "something else has cut or replaced it. Start again with --restart."
        )
    os.ftruncate(file.fileno(), n_tokens * TOKEN.itemsize)


def _require_uint16(tokens: NDArray[np.uint16]) -> None:
    """Refuse what a store would cast without a word: in uint16, 100277 is 34741."""
    if tokens.dtype != np.uint16 or tokens.ndim != 1:
        raise TypeError(f"expected tokens as (n,) uint16, found {tokens.shape} {tokens.dtype}")


def _cut_at_multiples(start: int, end: int, step: int) -> Iterator[tuple[int, int]]:
    """Cut `[start, end)` wherever a multiple of `step` falls.

    >>> list(_cut_at_multiples(3, 9, 4))
    [(3, 4), (4, 8), (8, 9)]
    """
    while start < end:
        middle = min(_round_up(start + 1, step), end)
        yield start, middle
        start = middle


def _round_up(n: int, step: int) -> int:
    return -(-n // step) * step


def _not_written(path: Path, error: OSError) -> str:
    return (
        f"{path} could not be written to the disk: {error.strerror}. What follows the last checkpoint is in "
        "doubt, and trying again would hide that. Look at the disk (dmesg), then run the same command: "
        "it checks what is there and goes on."
    )
