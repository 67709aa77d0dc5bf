"""Call the program from Python: what `prepare.py` does, without its signal handlers and its printing.

`nanogpt_compat` exports these functions, and imports this module when one of them is first used.
"""

import difflib
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from nanogpt_compat import report
from nanogpt_compat.encoders.interface import EngineMismatch
from nanogpt_compat.errors import MemoryLimitError, OutputError, PrepareError, UsageError
from nanogpt_compat.options import parse_options
from nanogpt_compat.preflight.job import Job, with_reference
from nanogpt_compat.preflight.look import look_into
from nanogpt_compat.preflight.words import start_line
from nanogpt_compat.resolve import resolve
from nanogpt_compat.resume.counters import InputTally, Tally
from nanogpt_compat.run.run import Run
from nanogpt_compat.run.supervise import Watch
from nanogpt_compat.system.commands import module, typed
from nanogpt_compat.system.display import LOG, CalmStream
from nanogpt_compat.system.redaction import learn_all, redact
from nanogpt_compat.system.voice import Voice

if TYPE_CHECKING:
    from typing_extensions import Unpack

_log = logging.getLogger(LOG)
_log.addHandler(logging.NullHandler())  # a library is silent unless its caller sets up logging

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A file, glob, folder or address, or several of them, as for `--input`."""


class TextOptions(TypedDict, total=False):
    """The options that decide which tokens a text becomes, and how fast: those of the command line.

    A size is a number of bytes, or a text such as "500M"; None stands for the default.
    """

    n: int | None
    max_tokens: int | str | None
    document_separator: str | None
    one_document_per_file: bool
    text_field: str | None
    skip_bad_records: bool
    errors: str | None
    vocab_dir: str | os.PathLike[str] | None
    eot: str | None
    engine: str | None
    workers: int | None
    block_size: int | str | None
    max_memory: int | str | None
    min_available: int | str | None


class PrepareOptions(TextOptions, total=False):
    """All options of `prepare`."""

    val_input: Paths | None
    val_ratio: float | None
    val_split: str | None
    format: str | None
    shard_tokens: int | str | None
    shard_name: str | None
    index: bool
    shuffle: bool
    seed: int | None
    overwrite: bool
    restart: bool


def prepare(
    inputs: Paths,
    output_dir: str | os.PathLike[str],
    *,
    verbose: bool = False,
    **options: "Unpack[PrepareOptions]",
) -> dict[str, Any]:
    r"""Turn text into train.bin and val.bin in a folder, as the command line does, and return the report.

    The options are those of the command line, with `_` for `-`: `val_ratio=0.01` is `--val-ratio 0.01`. As
    there, complete output is left as it is, and the saved work of a stopped call is resumed.

    Nothing is printed, unless `verbose` asks for the messages and the progress on stderr. Otherwise they go
    to the logger "nanogpt_compat". No signal handler is set, so this works in any thread. Ctrl-C in a
    notebook saves the work and raises KeyboardInterrupt. Limits such as `max_memory` apply to the whole
    process, with everything else that it holds.

    Args:
        inputs: files, globs, folders or addresses.
        output_dir: created if it is missing.
        verbose: print on stderr what the command line prints.

    Returns:
        The contents of prepare.json, among them `tokens`, {"train": n, "val": n}.

    Raises:
        PrepareError: the command line would fail, too; `exit_code` is its exit code, and the text says what
            to do.

    >>> made = prepare("stories.txt", "data", val_ratio=0.1)
    >>> made["tokens"]
    {'train': 99000, 'val': 11000}
    """
    words = _words(inputs, _known(options, PrepareOptions))
    words += ["--output-dir", _path(output_dir)]
    with _called_as(words):
        job, voice = _look_into(words, verbose=verbose)
        Run(job, voice).do(restart=bool(options.get("restart")))
        made = report.read_report(job.config.output_dir)
        if made is None:
            raise OutputError(
                f"{job.config.output_dir / report.REPORT_NAME} has just been written, and is gone"
            )
        return made


def count_tokens(inputs: Paths, **options: "Unpack[TextOptions]") -> int:
    """Return the number of tokens that `prepare` would write for a text; write nothing.

    It takes as long as `prepare`, and memory does not grow with the text. Documents count with their
    end-of-text tokens. For a quick estimate, use `--dry-run` on the command line.

    Raises:
        PrepareError: as `prepare` does.

    >>> count_tokens("stories.txt")
    110000
    """
    words = [*_words(inputs, _known(options, TextOptions)), "--val-ratio=0"]
    with _called_as(words):
        job, voice = _look_into(words, verbose=False)
        try:
            return _count(job, voice)
        except EngineMismatch as error:
            voice.warn(
                f"{job.encoder.name} gave other tokens than tiktoken for {error}: counting with tiktoken"
            )
        return _count(with_reference(job), voice)


def _count(job: Job, voice: Voice) -> int:
    tally = Tally([InputTally() for _ in job.inputs])
    with Watch(job, voice) as watch:
        try:
            watch.go_through(job, _Nowhere(), tally)
        except MemoryError as error:
            raise watch.memory_refused() from error
    return tally.tokens


class _Nowhere:
    """A sink that drops the tokens: the pipeline counts them."""

    def append(
        self, tokens: NDArray[np.uint16], *, is_val: bool, ends: NDArray[np.int64] | None = None
    ) -> None:
        """Drop `tokens`."""


def _look_into(words: Sequence[str], *, verbose: bool) -> tuple[Job, Voice]:
    voice = (
        Voice(CalmStream(sys.stderr), is_quiet=False) if verbose else _Log(CalmStream(None), is_quiet=True)
    )
    request = resolve(parse_options(words, home=None), home=None)
    job = look_into(request.config, request.inputs)
    voice.say(*request.notices, start_line(job), job.engine_line)
    return job, voice


@dataclass(frozen=True, slots=True)
class _Log(Voice):
    """Sends messages to the log of the calling program."""

    def warn(self, *lines: str) -> None:
        """Log warnings."""
        for line in lines:
            _log.warning("%s", redact(line))

    def say(self, *lines: str) -> None:
        """Log messages."""
        for line in lines:
            level = logging.WARNING if line.startswith("warning:") else logging.INFO
            _log.log(level, "%s", redact(line))


@contextmanager
def _called_as(words: Sequence[str]) -> Iterator[None]:
    """Let messages offer the equivalent command line, and hide the secrets in errors."""
    learn_all(words, os.environ)
    try:
        with typed(words, program=module("nanogpt_compat")):
            yield
    except PrepareError as error:
        error.args = tuple(redact(one) if isinstance(one, str) else one for one in error.args)
        cause: BaseException | None = error.__cause__ or error.__context__
        while cause is not None:  # drop the causes if they hold any secrets
            if redact(text := f"{cause!s} {cause!r}") != text:
                error.__cause__ = error.__context__ = None
                break
            cause = cause.__cause__ or cause.__context__
        raise
    except MemoryError as error:
        raise MemoryLimitError("the system refused memory") from error


def _known(options: object, kind: type) -> dict[str, object]:
    """Return the options, or raise UsageError for one that this function does not have."""
    given = cast("dict[str, object]", options)
    names: frozenset[str] = kind.__optional_keys__  # type: ignore[attr-defined]  # it is a TypedDict
    for name in given:
        if name not in names:
            similar = difflib.get_close_matches(name, names, 1)
            advice = f"did you mean {similar[0]}?" if similar else f"there are {', '.join(sorted(names))}"
            raise UsageError(f"there is no option {name!r} here; {advice}")
    return given


def _words(inputs: Paths, options: Mapping[str, object]) -> list[str]:
    """Return the words of the command line with these inputs and options.

    >>> _words("a.txt", {"workers": 2, "restart": True, "n": None})
    ['--input', 'a.txt', '--workers=2', '--restart']
    """
    words = _input_words("inputs", "--input", inputs)
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if name == "val_input" and value is not None:
            words += _input_words(name, option, cast("Paths", value))
            continue
        if name == "document_separator" and isinstance(value, str):
            value = value.replace("\\", r"\\")  # the command line knows escapes
        if value is True:
            words.append(option)
        elif value is not None and value is not False:
            words.append(f"{option}={value}")
    return words


def _input_words(name: str, option: str, inputs: Paths) -> list[str]:
    paths = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    if not paths:
        raise UsageError(f"{name} is empty; give at least one file, glob, folder or address")
    return [option, *map(_path, paths)]


def _path(path: str | os.PathLike[str]) -> str:
    word = os.fspath(path)
    return f"./{word}" if word.startswith("-") and word != "-" else word
