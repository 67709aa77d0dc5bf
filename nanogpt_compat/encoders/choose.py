"""Choose the engine of a run."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import tiktoken

from nanogpt_compat.encoders import GIGATOKEN_VERSIONS
from nanogpt_compat.encoders.fast import MOST_WORKERS, GigatokenEncoder, cache_bytes_for
from nanogpt_compat.encoders.interface import Encoder, is_failure
from nanogpt_compat.encoders.reference import TiktokenEncoder, with_mark
from nanogpt_compat.errors import UsageError
from nanogpt_compat.memory.limits import available_cpus
from nanogpt_compat.system.commands import install, show
from nanogpt_compat.system.units import format_bytes

OPENING_BYTES = 48 * 1024 * 1024  # gigatoken takes 42 MB to open and try; it aborts if there is less
_TABLES_BYTES = 24 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine, and a line for the user that names it."""

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
    cache_bytes: int = 0,
    reader_bytes: int = 0,
) -> Choice:
    """Open an engine: `tiktoken`, `gigatoken`, or `auto`, which is gigatoken if it is tested and fits.

    `own_bytes` reads this process's anonymous memory; `spare_bytes` is what is available on top of it, and
    `auto` takes gigatoken only if that suffices. With `has_documents`, the mark between documents becomes the
    end-of-text token. gigatoken's word caches get `cache_bytes` if that is more than the default;
    `reader_bytes`, which reading takes in addition to the blocks, do not count as cache.
    """
    reference = TiktokenEncoder(with_mark(encoding) if has_documents else encoding)
    plain = f"engine: tiktoken {reference.version}"
    found = None
    with suppress(PackageNotFoundError):
        found = version("gigatoken")
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
        tested = " and ".join(GIGATOKEN_VERSIONS)
        why = (
            f"gigatoken {found} is installed, but only {tested} was tested; --engine gigatoken uses it anyway"
        )
        return Choice(reference, f"{plain}; {why}")
    # Each thread has a word cache of its own, so more threads than CPUs would cost memory for nothing.
    n_workers = min(n_workers, available_cpus(), MOST_WORKERS)
    if engine == "auto" and spare_bytes < needed_bytes(n_workers):
        have, need = format_bytes(max(0, spare_bytes)), format_bytes(needed_bytes(n_workers))
        return Choice(reference, f"{plain}; gigatoken needs {need} more memory, but only {have} is available")
    try:
        fast = GigatokenEncoder(
            reference,
            version=found,
            n_workers=n_workers,
            own_bytes=own_bytes,
            cache_bytes=max(cache_bytes, cache_bytes_for(n_workers)) + reader_bytes,
        )
    except BaseException as error:  # a broken package may fail in any way, even with a panic
        if not (isinstance(error, Exception) or is_failure(error)):
            raise
        if engine == "auto":
            return Choice(reference, f"{plain}; gigatoken {found} is installed, but fails: {error}")
        raise UsageError(f"--engine gigatoken: version {found} fails: {error}; use --engine auto") from error
    return Choice(fast, f"engine: gigatoken {found}, checked against tiktoken {reference.version} as it goes")


def needed_bytes(n_workers: int) -> int:
    """Return how much memory gigatoken takes in addition to Python, tiktoken and the output.

    >>> needed_bytes(2)
    159383552
    """
    return _TABLES_BYTES + cache_bytes_for(n_workers)


def is_tested(version: str) -> bool:
    """Whether a version of gigatoken was tested with this program.

    >>> is_tested("0.10.3"), is_tested("0.1")
    (True, False)
    """
    return ".".join(version.split(".")[:2]) in GIGATOKEN_VERSIONS


def _how_to_install() -> str:
    return show(install(f"gigatoken=={GIGATOKEN_VERSIONS[-1]}.*"))
