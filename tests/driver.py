"""Run the program in a separate process, with frequent checkpoints, and inject a fault at a chosen call.

    python tests/driver.py '{"at": "rename train.bin.partial", "do": "SIGKILL"}' --input a.txt

A call that changes the disk is named by function and file, just before it is made: `mkdir .prepare`, `open
train.bin.partial` (for writing), `write journal`, `fdatasync journal`, `fallocate train.bin.partial`, `rename
train.bin.partial` (replace, too), `remove journal`, and so on; a folder by its own name. Two more calls are
`encode samples` of an input, before there are any threads, and `encode text` in the encoding threads. The
settings are all optional:

    at            a regular expression; the fault happens just before a call that matches
    skip          number of matching calls to let pass
    do            a signal to send to itself; `sleep`, as on a slow disk; `fork+SIGKILL`, to leave a child
                  running; or the name of an exception to raise there, `SystemExit` with code 0
    log           a file to write the calls to, each before it is made
    every_bytes   bytes of output between two checkpoints
    section_bytes bytes of a file that have a checksum of their own in prepare.json
    window_bytes  bytes of output that are mapped at a time
    spill_bytes   memory of a window of a shuffle
    range_bytes   memory of a range of keys of a shuffle
    chunk_tokens  tokens of a shuffle that are written at a time
    most_windows  windows of a shuffle that are read at a time
    mapped        whether the output is mapped at all; otherwise the file system decides
    errs_at       a word at which gigatoken errs: wherever it begins in the text, the token is wrong
    check_every_bytes  distance of the places at which gigatoken is checked
"""

import builtins
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from nanogpt_compat import pipeline
from nanogpt_compat.__main__ import start
from nanogpt_compat.encoders.bounded import BoundedTokenizer
from nanogpt_compat.encoders.fast import GigatokenEncoder
from nanogpt_compat.encoders.forecast import Estimator
from nanogpt_compat.encoders.interface import Tokens
from nanogpt_compat.encoders.reference import TiktokenEncoder
from nanogpt_compat.output import layout, pieces, shuffle, spill, token_file
from nanogpt_compat.resume import checkpoint

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_AUDITED = {
    "open": "open",
    "os.mkdir": "mkdir",
    "os.remove": "remove",
    "os.rename": "rename",
    "os.rmdir": "rmdir",
    "os.truncate": "truncate",
    "mmap.__new__": "mmap",
}
_WRAPPED = {
    "fsync": "fsync",
    "fdatasync": "fdatasync",
    "posix_fallocate": "fallocate",
    "pwrite": "pwrite",
    "write": "write",
}


class Calls:
    """See the calls, write them to the log if there is one, and cause the fault."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._at = re.compile(settings["at"]) if "at" in settings else None
        self._skip = settings.get("skip", 0)
        self._do = settings.get("do", "SIGKILL")
        self._log = os.open(settings["log"], os.O_WRONLY | os.O_CREAT) if "log" in settings else None
        self._write = os.write
        self._lock = threading.Lock()

    def install(self) -> None:
        for name, shown in _WRAPPED.items():
            setattr(os, name, self._wrap(getattr(os, name), shown))
        sys.addaudithook(self._audit)
        for engine in (TiktokenEncoder, GigatokenEncoder):
            self._wrap_encode(engine)
        estimator: Any = Estimator
        estimator.add = self._wrap_samples(estimator.add)

    def _wrap_samples(self, add: Callable[..., None]) -> Callable[..., None]:
        def wrapped(*args: Any, **options: Any) -> None:
            self._see("encode", "samples")
            add(*args, **options)

        return wrapped

    def _wrap_encode(self, engine: Any) -> None:
        encode_checked = engine.encode_checked

        def see_and_encode(engine: Any, *args: Any) -> Tokens:
            self._see("encode", "text")
            tokens: Tokens = encode_checked(engine, *args)
            return tokens

        engine.encode_checked = see_and_encode

    def _wrap(self, call: Callable[..., Any], shown: str) -> Callable[..., Any]:
        def wrapped(fd: int, *args: Any) -> Any:
            self._see(shown, fd)
            return call(fd, *args)

        return wrapped

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event in _AUDITED and not (event == "open" and not args[2] & _WRITING):
            self._see(_AUDITED[event], args[0])

    def _see(self, shown: str, file: Any) -> None:
        if isinstance(file, int):
            file = os.readlink(f"/proc/self/fd/{file}") if file >= 0 else "memory"  # noqa: PTH115 - a link to a socket is no path
        call = f"{shown} {os.path.basename(os.fsdecode(file))}"  # noqa: PTH119 - a Path would be slower, and this is seen often
        with self._lock:
            if self._log is not None:
                self._write(self._log, f"{call}\n".encode())
            if self._at is None or not self._at.fullmatch(call):
                return
            self._skip -= 1
            if self._skip != -1:
                return
        if self._do.startswith("SIG"):
            os.kill(os.getpid(), signal.Signals[self._do])
        elif self._do == "sleep":
            time.sleep(60)
        elif self._do == "fork+SIGKILL":
            if os.fork() == 0:
                signal.pause()
            os.kill(os.getpid(), signal.SIGKILL)
        elif self._do == "SystemExit":
            raise SystemExit(0)
        else:
            raise getattr(builtins, self._do)("injected")


def err_at(word: bytes) -> None:
    """Make gigatoken return a wrong token, of the same length, wherever `word` begins in a text."""
    engine: Any = GigatokenEncoder
    encode = engine.encode_checked
    tokenizer: Any = BoundedTokenizer
    encode_with = tokenizer._encode_with
    length_of: list[Any] = []

    def take_lengths(self: Any, *args: Any) -> Any:
        length_of[:] = [self._length_of]
        return encode(self, *args)

    def err(self: Any, tokenizer: Any, text: bytes) -> Any:
        ids = encode_with(self, tokenizer, text)
        places = [match.start() for match in re.finditer(re.escape(word), text)]
        lengths = length_of[0] if places and length_of else np.empty(0, np.uint8)
        if not len(lengths):
            return ids
        ends = np.cumsum(lengths[ids], dtype=np.int64)
        for index in np.searchsorted(ends, places, side="right").tolist():
            same_length = np.flatnonzero(lengths == lengths[ids[index]])
            ids[index] = same_length[0] if ids[index] != same_length[0] else same_length[1]
        return ids

    engine.encode_checked = take_lengths
    tokenizer._encode_with = err


def main() -> int:
    settings = json.loads(sys.argv[1])
    checkpoint.EVERY_OUTPUT_BYTES = settings.get("every_bytes", 200_000)
    layout.SECTION_BYTES = settings.get("section_bytes", layout.SECTION_BYTES)
    token_file.WINDOW_BYTES = settings.get("window_bytes", token_file.WINDOW_BYTES)
    spill.WINDOW_BYTES = settings.get("spill_bytes", spill.WINDOW_BYTES)
    shuffle.RANGE_BYTES = settings.get("range_bytes", shuffle.RANGE_BYTES)
    pieces.CHUNK_TOKENS = settings.get("chunk_tokens", pieces.CHUNK_TOKENS)
    shuffle.MOST_WINDOWS = settings.get("most_windows", shuffle.MOST_WINDOWS)
    defaults = token_file.GrowingMemmap.__init__.__kwdefaults__ or {}
    defaults["mapped"] = settings.get("mapped")
    pipeline._CHECK_EVERY_BYTES = settings.get("check_every_bytes", pipeline._CHECK_EVERY_BYTES)
    if "errs_at" in settings:
        err_at(settings["errs_at"].encode())
    Calls(settings).install()
    del sys.argv[1]
    return start()


if __name__ == "__main__":
    sys.exit(main())
