"""An append-only token file that is written through a small memory-mapped window.

A plain np.memmap has three problems here: on a full disk, a store into a sparse file raises SIGBUS, which no
`except` catches; its dirty pages count as memory of this process; and it cannot grow. Therefore disk space is
allocated before a window is mapped, only one window is mapped at a time, and a full window is unmapped and
written back while the next one fills.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat.errors import OutputError
from nanogpt_compat.system.filesystem import advice, drop_cache, file_system, pwrite_all, sync_folder
from nanogpt_compat.system.threads import start_pool
from nanogpt_compat.system.units import format_bytes, plural

TOKEN = np.dtype("<u2")

# MB/s by window size: 1 MiB 340-420, 4 MiB 870-1,010, 8 MiB 950-1,300, 16 MiB 1,060-1,310, 32 MiB
# 1,230-2,090, 64 MiB 810-950; with pwrite 1,900. (512 MiB in appends of 1.7 MB, mapped, ext4, idle 2-core AMD
# EPYC VM, Linux 6.18, numpy 2.4.) RSS grows by one window. More speed would not help: a tokeniser makes
# 100 MB/s.
WINDOW_BYTES = 8 << 20
_MIN_WINDOW_BYTES = 64 << 10

# On these, posix_fallocate reserves the blocks that a store will use. btrfs writes to other blocks, so a full
# disk still means SIGBUS; network file systems report a full disk only at msync. These get pwrite.
MAPPED_FILE_SYSTEMS = frozenset({"ext4", "xfs", "tmpfs"})

_INTERRUPTED = OSError(errno.EIO, "a sync was interrupted")

_MADV_POPULATE_WRITE = 23  # the mmap module has no name for it
_MADV_HUGEPAGE = 14  # nor does it have this one outside Linux
_HUGE_BYTES = 2 << 20


def window_for(output_bytes: int) -> int:
    """Return the window size for an output: an eighth of it at most, to waste little disk space.

    >>> window_for(6_600_000_000), window_for(1_000_000)
    (8388608, 131072)
    """
    eighth = _round_up(output_bytes // 8, _MIN_WINDOW_BYTES)
    return min(WINDOW_BYTES, max(_MIN_WINDOW_BYTES, eighth))


class GrowingMemmap:
    """Append tokens to a file in bounded memory; a context manager.

    At most one window is mapped, and at most two are dirty. Use it from one thread; only the function that
    `begin_sync` returns may be called in another. After a failed write, everything raises: the system reports
    such an error only once, and a second fsync would succeed although the data are lost.

        with GrowingMemmap(path) as tokens:
            tokens.append(np.array([464, 3290], dtype=np.uint16))
            tokens.finish()
    """

    def __init__(
        self, path: Path, *, n_tokens: int = 0, window_bytes: int = WINDOW_BYTES, mapped: bool | None = None
    ) -> None:
        """Create or open `path`, and truncate it to `n_tokens`.

        `mapped` chooses between np.memmap (needs os.posix_fallocate) and pwrite; None: by the file system.
        """
        self._path = path
        self._n_tokens = n_tokens
        self._window_tokens = window_bytes // TOKEN.itemsize
        self._file = _open(path, n_tokens)
        if mapped is None:
            mapped = hasattr(os, "posix_fallocate") and file_system(path) in MAPPED_FILE_SYSTEMS
        self._form = _Mapped(self._file, self._window_tokens) if mapped else _Written(self._file)
        self._background = start_pool(1, f"write back {path.name}")
        self._last_write_back: Future[None] | None = None
        self._failure: OSError | None = None

    @property
    def n_tokens(self) -> int:
        """The number of tokens in the file."""
        return self._n_tokens

    def append(self, tokens: NDArray[np.uint16]) -> None:
        """Append `tokens`, (n,) uint16 of any length: all of them or, if the disk is full, none.

        If the mapped form is refused an allocation, all earlier tokens can still be synced. A failed pwrite
        may report the loss of earlier data, so after that nothing can. It is a MemoryError if the next window
        cannot be mapped.
        """
        self._refuse_after_failure()
        if tokens.dtype != np.uint16 or tokens.ndim != 1:  # a store would cast 100277 to 34741 silently
            raise TypeError(f"expected tokens as (n,) uint16, found {tokens.shape} {tokens.dtype}")
        n_before = self._n_tokens
        try:
            self._form.reserve(n_before + len(tokens))
            self._store(tokens)
        except OSError as error:
            self._n_tokens = n_before
            with contextlib.suppress(OSError):  # report the first error
                self._cut_to_size()  # ext4 keeps a failed allocation's blocks, which the journal needs
            if error.errno == errno.ENOMEM:  # a window cannot be mapped: not the disk's fault
                raise MemoryError(f"{self._path} cannot take {tokens.nbytes:,} bytes more") from error
            free_bytes = shutil.disk_usage(self._path.parent).free
            step_bytes = self._window_tokens * TOKEN.itemsize
            raise OutputError(
                f"{self._path} cannot take {format_bytes(tokens.nbytes)} more: {error.strerror}. It grows by "
                f"up to {format_bytes(step_bytes)} at a time; {format_bytes(free_bytes)} are free there. "
                f"{advice(error).capitalize()} and run the same command again: "
                "it resumes from the last checkpoint."
            ) from error

    def begin_sync(self) -> Callable[[], None]:
        """Start to make all tokens so far durable; return a function that waits until they are.

        `append` may be called in the meantime. The returned function may be called in any thread and
        repeatedly; it raises OutputError if any write has failed by then.
        """
        self._refuse_after_failure()
        write_back = self._begin_write_back()

        def wait() -> None:
            write_back.result()
            self._refuse_after_failure()

        return wait

    def sync(self) -> None:
        """Make all tokens so far durable, and release all mapped and cached memory until the next append."""
        self.begin_sync()()

    def finish(self, *, header: bytes = b"") -> None:
        """Truncate the file to its exact size, make it durable and close it.

        `header` overwrites the first tokens, which only reserved its place.
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
        # An error here can only concern data that was never synced, and so never promised.
        with contextlib.suppress(OSError):
            self._file.close()

    def __enter__(self) -> "GrowingMemmap":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _store(self, tokens: NDArray[np.uint16]) -> None:
        while len(tokens):
            n_free = self._window_tokens - self._n_tokens % self._window_tokens
            some, tokens = tokens[:n_free], tokens[n_free:]
            try:
                self._form.store(some, self._n_tokens)
            except OSError as error:
                if error.errno != errno.ENOMEM:
                    self._failure = error  # NFS reports failed earlier writes here, once
                raise
            self._n_tokens += len(some)
            if self._n_tokens % self._window_tokens == 0:  # the window is full
                if self._last_write_back is not None:
                    self._last_write_back.result()  # else dirty pages pile up if the disk is slow
                    self._refuse_after_failure()
                self._begin_write_back()

    def _begin_write_back(self) -> "Future[None]":
        # After unmapping, the dirty pages are still in the page cache, so fsync writes them.
        self._form.release()
        self._last_write_back = self._background.submit(self._write_back, self._n_tokens)
        return self._last_write_back

    def _write_back(self, n_tokens: int) -> None:
        """Write dirty pages and drop them from the page cache; runs in the background thread."""
        if self._failure is not None:
            return
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self._failure = error
            return
        except BaseException:  # e.g. MemoryError: the system may have reported a failed write meanwhile
            self._failure = _INTERRUPTED
            raise
        # Drop two windows: pages of the one before could have been in use when it was dropped. Drop up to the
        # end of the window: a large folio is dropped only as a whole, and may reach past the last token.
        end_tokens = _round_up(n_tokens, self._window_tokens)
        start_tokens = max(0, end_tokens - 2 * self._window_tokens)
        drop_cache(self._file.fileno(), start_tokens * TOKEN.itemsize, end_tokens * TOKEN.itemsize)

    def _cut_to_size(self) -> None:
        self._form.release()  # a store past the end of a file raises SIGBUS
        os.ftruncate(self._file.fileno(), self._n_tokens * TOKEN.itemsize)

    def _refuse_after_failure(self) -> None:
        if self._failure is not None:
            raise OutputError(_not_written(self._path, self._failure)) from self._failure


class _Mapped:
    """Write through an np.memmap, which maps from the first token stored to the next multiple of a window."""

    def __init__(self, file: FileIO, window_tokens: int) -> None:
        self._file = file
        self._window_tokens = window_tokens
        self._start_tokens = 0
        # Must be the only reference: np.memmap has no close, and is unmapped when it is freed. (If the mmap
        # inside it is closed, an access segfaults.)
        self._window: np.memmap[Any, np.dtype[np.uint16]] | None = None
        self._madvise = ctypes.CDLL(None, use_errno=True).madvise
        self._madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    def reserve(self, end_tokens: int) -> None:
        """Reserve disk space for tokens up to `end_tokens`, or raise OSError."""
        size_bytes = os.fstat(self._file.fileno()).st_size
        end_bytes = _round_up(end_tokens, self._window_tokens) * TOKEN.itemsize
        if end_bytes > size_bytes:
            os.posix_fallocate(self._file.fileno(), size_bytes, end_bytes - size_bytes)

    def store(self, tokens: NDArray[np.uint16], start_tokens: int) -> None:
        """Write `tokens` at `start_tokens`; they must not cross the end of a window."""
        if self._window is None:
            n_tokens = _round_up(start_tokens + 1, self._window_tokens) - start_tokens
            offset_bytes = start_tokens * TOKEN.itemsize
            self._window = np.memmap(self._file, TOKEN, "r+", offset_bytes, (n_tokens,))
            self._start_tokens = start_tokens
            if self._window.nbytes >= _HUGE_BYTES:
                # A fault then maps 2 MiB instead of 4 KiB, if the system can: a megabyte takes 0.5 ms of CPU
                # time instead of 1.7, hardly more than with pwrite (ext4, Linux 6.18).
                self._advise(0, n_tokens, _MADV_HUGEPAGE)
        first = start_tokens - self._start_tokens
        last = first + len(tokens)
        # Make the pages writable. A file system may shut down after an error; then this call fails, where a
        # store would raise SIGBUS. It has no measurable cost, since the store needs the pages anyway.
        if self._advise(first, last, _MADV_POPULATE_WRITE):
            number = ctypes.get_errno()
            if number != errno.EINVAL:  # Linux before 5.14
                number = errno.EIO if number == errno.EFAULT else number
                raise OSError(number, os.strerror(number))
        self._window[first:last] = tokens

    def _advise(self, first: int, last: int, advice: int) -> int:
        """Call madvise for the pages of `self._window[first:last]`; return 0 unless it fails."""
        assert self._window is not None
        base = self._window.ctypes.data
        start, end = (base + place * TOKEN.itemsize for place in (first, last))
        start -= start % mmap.PAGESIZE
        # Not with mmap.madvise, which holds the GIL for the 0.1 ms of a call.
        found: int = self._madvise(start, end - start, advice)
        return found

    def release(self) -> None:
        """Unmap the window; the next store maps one again."""
        self._window = None


class _Written:
    """Write with pwrite, which reports a full disk as an error on every file system."""

    def __init__(self, file: FileIO) -> None:
        self._file = file

    def reserve(self, end_tokens: int) -> None:
        pass  # pwrite allocates

    def store(self, tokens: NDArray[np.uint16], start_tokens: int) -> None:
        data = np.ascontiguousarray(tokens, dtype=TOKEN).view(np.uint8).data
        pwrite_all(self._file.fileno(), data, start_tokens * TOKEN.itemsize)

    def release(self) -> None:
        pass  # nothing is held


def _open(path: Path, n_tokens: int) -> FileIO:
    """Open or create `path`, truncate it to `n_tokens`, and make its name durable."""
    try:
        file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+")
        with contextlib.ExitStack() as undo:
            undo.callback(file.close)
            n_found = os.fstat(file.fileno()).st_size // TOKEN.itemsize
            if n_found < n_tokens:
                raise OutputError(
                    f"{path} holds {plural(n_found, 'token')}, but {n_tokens:,} were saved there: another "
                    "program has truncated or replaced it. Pass --restart to start from scratch."
                )
            os.ftruncate(file.fileno(), n_tokens * TOKEN.itemsize)
            sync_folder(path.parent)
            undo.pop_all()
    except OSError as error:
        raise OutputError(
            f"{path} cannot be opened for writing: {error.strerror}; {advice(error)} and run the same "
            "command again, or give another --output-dir"
        ) from error
    return file


def _round_up(n: int, step: int) -> int:
    return -(-n // step) * step


def _not_written(path: Path, error: OSError) -> str:
    return (
        f"{path} could not be written to the disk: {error.strerror}. Data after the last checkpoint may be "
        "lost, and another try now would hide that. Check the disk (dmesg), then run the same command again: "
        "it checks what is there and resumes."
    )
