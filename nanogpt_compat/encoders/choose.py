"""Which engine a run gets."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import tiktoken

from nanogpt_compat.encoders.fast import MOST_WORKERS, GigatokenEncoder, cache_bytes_for
from nanogpt_compat.encoders.interface import Encoder, is_failure
from nanogpt_compat.encoders.reference import TiktokenEncoder, with_mark
from nanogpt_compat.errors import UsageError
from nanogpt_compat.memory.limits import available_cpus
from nanogpt_compat.system.commands import install, show
from nanogpt_compat.system.units import format_bytes

ENGINES = ("auto", "tiktoken", "gigatoken")
OPENING_BYTES = 48 * 1024 * 1024  # gigatoken, opened and tried, takes 42 MB; it aborts where there is less
_TABLES_BYTES = 24 * 1024 * 1024
TESTED = ("0.10",)  # gigatoken's; before it, ranks could not be given


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine, and one line for whoever reads along."""

    encoder: Encoder
    line: str


def choose_encoder(
    engine: str,
    encoding: tiktoken.Encoding,
    *,
    has_documents: bool = False,
    n_workers: int,
    own_bytes: Callable[[], int],
    spare_bytes: int,
    reader_bytes: int = 0,
) -> Choice:
    """Open an engine: `tiktoken`, `gigatoken`, or `auto`: gigatoken in a version that was tested.

    `own_bytes` reads this process's anonymous memory; `auto` wants `spare_bytes` of more to be had. With
    `has_documents` it takes the mark between documents for the end-of-text token. `reader_bytes` is what
    reading will take beside the blocks, so that it does not count as words.

    Raises:
        UsageError: gigatoken was asked for, and cannot be had.
    """
    reference = TiktokenEncoder(with_mark(encoding) if has_documents else encoding)
    plain = f"engine: tiktoken {reference.version}"
    found = _installed()
    if engine == "tiktoken":
        return Choice(reference, plain)
    if engine == "auto" and found is None:
        return Choice(
            reference, f"{plain}; gigatoken, many times as fast, is not installed:{_how_to_install()}"
        )
    if found is None:
        raise UsageError(
            f"--engine gigatoken: it is not installed; give --engine auto, or install it:{_how_to_install()}"
        )
    if engine == "auto" and not is_tested(found):
        tested = " and ".join(TESTED)
        why = f"gigatoken {found} is installed, but only {tested} was tested; --engine gigatoken takes it"
        return Choice(reference, f"{plain}; {why}")
    # Each thread has its own memory of words, so one that has no CPU of its own only costs.
    n_workers = min(n_workers, available_cpus(), MOST_WORKERS)
    if engine == "auto" and spare_bytes < needed_bytes(n_workers):
        have, need = format_bytes(max(0, spare_bytes)), format_bytes(needed_bytes(n_workers))
        return Choice(reference, f"{plain}; gigatoken wants {need} of memory more, and {have} can be had")
    try:
        fast = GigatokenEncoder(
            reference, version=found, n_workers=n_workers, own_bytes=own_bytes, reader_bytes=reader_bytes
        )
    except BaseException as error:  # a package that is broken may fail in any way, a panic too
        if not (isinstance(error, Exception) or is_failure(error)):
            raise
        if engine == "auto":
            return Choice(reference, f"{plain}; gigatoken {found} is installed, but fails: {error}")
        raise UsageError(f"--engine gigatoken: version {found} fails: {error}; --engine auto") from error
    return Choice(fast, f"engine: gigatoken {found}, checked against tiktoken {reference.version} as it goes")


def needed_bytes(n_workers: int) -> int:
    """Say how much memory gigatoken takes besides Python, tiktoken and the output.

    >>> needed_bytes(2)
    159383552
    """
    return _TABLES_BYTES + cache_bytes_for(n_workers)


def is_tested(version: str) -> bool:
    """Whether a version of gigatoken is one of those that were tested.

    >>> is_tested("0.10.3"), is_tested("0.1")
    (True, False)
    """
    return ".".join(version.split(".")[:2]) in TESTED


def _how_to_install() -> str:
    return show(install(f"gigatoken=={TESTED[-1]}.*"))


def _installed() -> str | None:
    try:
        return version("gigatoken")
    except PackageNotFoundError:
        return None
