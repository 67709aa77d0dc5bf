"""The command line: options in, exit code out. Only this module decides what is printed.

A run imports what it needs when it starts: --help and a wrong option do not wait for numpy.
"""

import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from nanogpt_compat.errors import InputError, MemoryLimitError, OutputError, PrepareError, TooSmallError
from nanogpt_compat.memory.policy import SMALL_BLOCK_BYTES
from nanogpt_compat.options import Options, name_inputs, parse_options, wants_json
from nanogpt_compat.system.commands import drop_options, show, this_command
from nanogpt_compat.system.display import LOG, CalmStream, calm, calm_streams
from nanogpt_compat.system.feed import Feed
from nanogpt_compat.system.filesystem import advice
from nanogpt_compat.system.redaction import learn_all
from nanogpt_compat.system.signals import StoppedBySignal, StopSignals, die_by, last_words
from nanogpt_compat.system.units import plural
from nanogpt_compat.system.voice import Voice
from nanogpt_compat.text.documents import END_OF_TEXT_NAME

_MIN_COLUMNS = 40
_SMALLER = {"--workers": "1", "--block-size": f"{SMALL_BLOCK_BYTES // 1024}KiB"}


def main(argv: Sequence[str] | None = None, *, home: Path | None = None) -> int:
    """Run the command line and return the exit code.

    `home` is the folder that default paths refer to, that of prepare.py; None is the current one.
    """
    words = name_inputs(sys.argv[1:] if argv is None else argv)
    if argv is None:
        sys.argv[1:] = words  # commands in messages are made of them, also in processes that this one starts
    learn_all(words, os.environ)
    logging.getLogger(LOG).setLevel(logging.ERROR if "--quiet" in words else logging.NOTSET)
    with calm_streams():
        return _main(words, home=home)


def _main(words: Sequence[str], *, home: Path | None) -> int:
    stderr = calm(sys.stderr)
    feed = Feed(calm(sys.stdout)) if wants_json(words) else None
    last_words[:] = [] if feed is None else [partial(_last_words, feed)]

    def end(state: str, exit_code: int, message: str) -> int:
        stderr.write(f"prepare: {message}\n")
        if feed is not None:
            feed.finish(state, exit_code, message)
        return exit_code

    try:
        _keep_standard_streams()
        options = _parse(words, home)
        try:
            _do(options, words, home=home, stderr=stderr, feed=feed)
        except SystemExit as error:  # not from here; its exit code might be 0
            raise RuntimeError("a library has ended the program") from error
    except (MemoryLimitError, MemoryError) as error:
        why = error if isinstance(error, MemoryLimitError) else "the system refused memory"
        return end("memory", MemoryLimitError.exit_code, f"stopped: {why}\n{_how_to_resume(error, words)}")
    except PrepareError as error:
        more = _advise_on_record(error, words) if isinstance(error, TooSmallError) else ""
        return end("failed", error.exit_code, f"error: {error}{more}")
    except StoppedBySignal as stop:
        end("stopped", 128 + stop.number, str(stop))
        die_by(stop.number)
    except BaseException as error:
        if feed is not None and not isinstance(error, SystemExit):
            feed.finish("failed", PrepareError.exit_code, f"{type(error).__name__}: {error}")
        raise
    if feed is not None:
        feed.finish("done", 0)
    return 0


def _parse(words: Sequence[str], home: Path | None) -> Options:
    try:
        return parse_options(words, home=home)
    except SystemExit:  # --help or --version
        _check_printed(sys.stdout)
        raise


def _last_words(feed: Feed, number: int) -> str:
    """Return the last line of the feed for a run that a signal ends at once."""
    return feed.last_line("stopped", 128 + number, str(StoppedBySignal(number)))


def _how_to_resume(error: MemoryLimitError | MemoryError, words: Sequence[str]) -> str:
    """Return advice after a stop for memory: smaller settings, or more memory if they will not help."""
    smaller = [word for option in _SMALLER.items() for word in option]
    typed = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    are_smallest = sorted([*drop_options(typed, _SMALLER), *smaller]) == sorted(typed)
    if are_smallest or (isinstance(error, MemoryLimitError) and not error.smaller_helps):
        command = this_command(words=words)
        return (
            "smaller settings will not help. With more free memory, or with a larger --max-memory if that is "
            f"the limit, resume with{show(command)}"
        )
    return f"resume with smaller settings:{show(this_command(*smaller, without=_SMALLER, words=words))}"


def _advise_on_record(error: TooSmallError, words: Sequence[str]) -> str:
    """Return further advice for a record that is too large; a command if `--max-memory` is the limit."""
    if not error.way_out:
        return ""
    if error.enough_max_memory_bytes is None:
        return f". Or {error.way_out}"
    from nanogpt_compat.memory.limits import MAX_MEMORY

    enough = f"{-(-error.enough_max_memory_bytes // 1_000_000)}M"
    command = this_command(MAX_MEMORY, enough, without=[MAX_MEMORY], words=words)
    return f". Or {error.way_out}, or run with more memory:{show(command)}"


def _keep_standard_streams() -> None:
    """Open /dev/null for every standard stream that is closed.

    Otherwise the next file to be opened, perhaps train.bin, would get its number, and whatever a library
    writes to that stream.
    """
    with contextlib.suppress(OSError):
        while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(fd)


def _notice_of_end_of_text(output_dir: Path, words: Sequence[str], *, is_dry: bool) -> str:
    """Return the notice that the text seems to hold a separator."""
    # The offered run starts over, and uses nothing that is saved, now or later.
    new = ["--document-separator", END_OF_TEXT_NAME, "--restart"]
    command = this_command(*new, without=["--dry-run", "--restart", "--one-document-per-file"], words=words)
    n_saved = _saved_tokens(output_dir)
    cost = f" (which discards {plural(n_saved, 'saved token')})" if n_saved else ""
    return (
        f"notice: {END_OF_TEXT_NAME} is in the input, and is encoded as seven tokens of ordinary text. If it "
        f"ends a document there, {'run' if is_dry else 'stop this run and start over with'}{cost}:"
        f"{show(command)}"
    )


def _do(
    options: Options, words: Sequence[str], *, home: Path | None, stderr: CalmStream, feed: Feed | None
) -> None:
    signals = StopSignals()
    voice = Voice(stderr, options.quiet, signals.check, progress=options.progress, feed=feed)
    voice.enter("preparing")  # before the imports, which take longer than all before them
    folder = options.output_dir or home or Path()
    if options.inspect is not None:
        from nanogpt_compat.inspect.show import inspect

        path = Path(options.inspect) if options.inspect else folder
        stdout = calm(sys.stdout)
        width = max(_MIN_COLUMNS, shutil.get_terminal_size().columns)
        for line in inspect(path, options.at, vocab_dir=options.vocab_dir, width=width):
            stdout.write_as_is(line + "\n")
        _check_printed(stdout)
    elif options.check:
        from nanogpt_compat.run.check import check

        with signals:
            check(folder, voice)
    else:
        _run(options, words, signals, voice, home=home)


def _run(
    options: Options, words: Sequence[str], signals: StopSignals, voice: Voice, *, home: Path | None
) -> None:
    """Make output; or do what --dry-run or --verify asks for."""
    from nanogpt_compat.preflight.look import look_into
    from nanogpt_compat.preflight.words import dry_run_lines, forecast_record, start_line
    from nanogpt_compat.resolve import resolve

    request = resolve(options, home=home)
    config = request.config
    if request.share is not None:
        from nanogpt_compat.cluster.driver import Driver

        voice.say(*request.notices)
        with signals:
            Driver(config, request.inputs, request.share, voice).do(restart=options.restart)
        return
    try:
        work = look_into(config, request.inputs)
    except InputError:
        # The error that follows must not seem to lose them.
        if n_tokens := _saved_tokens(config.output_dir):
            voice.warn(f"saved: {plural(n_tokens, 'token')}, kept as before")
        raise
    voice.say(*request.notices)
    if work.shows_end_of_text and not options.verify:
        voice.say(_notice_of_end_of_text(config.output_dir, words, is_dry=options.dry_run))
    stdout = calm(sys.stdout)
    if options.dry_run and voice.feed is not None:
        voice.feed.forecast(forecast_record(work))
    elif options.dry_run:
        voice = replace(voice, is_quiet=False, stdout=stdout)
    voice.say(*(dry_run_lines(work) if options.dry_run else (start_line(work), work.engine_line)))
    with signals:
        if options.verify:
            from nanogpt_compat.run.verify import verify

            verify(work, voice)
            return
        from nanogpt_compat.run.run import Run

        run = Run(work, voice)
        (run.rehearse if options.dry_run else run.do)(restart=options.restart)
    if options.dry_run:
        voice.say("dry run: nothing was written")
        _check_printed(stdout)


def _check_printed(stdout: object) -> None:
    """Raise OutputError if the requested output could not be printed: the exit code must not be 0."""
    if isinstance(stdout, CalmStream) and (why := stdout.failure) is not None:
        raise OutputError(f"cannot write to standard output: {why.strerror}; {advice(why)} and run again")


def _saved_tokens(output_dir: Path) -> int:
    """Return the number of tokens that an earlier run has saved; 0 if that cannot be read."""
    from nanogpt_compat.resume.checkpoint import journal_in, read_found

    with contextlib.suppress(OutputError):  # the caller has something more important to report
        return read_found(journal_in(output_dir)).n_tokens
    return 0
