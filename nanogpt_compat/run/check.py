"""Check finished files by their checksums in prepare.json; this needs no input and no vocabulary.

It takes no lock. A copy of the output may be read-only, and the old files stay complete while a run with
--overwrite makes new ones.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from nanogpt_compat import report
from nanogpt_compat.errors import DifferenceError, OutputError, PrepareError
from nanogpt_compat.memory.limits import rss_bytes
from nanogpt_compat.output.check import Listed, find_faults, find_surplus, list_files, outputs_of
from nanogpt_compat.output.index import IndexFile, lay_out_indexes
from nanogpt_compat.output.layout import WORK_FOLDER, OutputFile, Outputs, name_tokens
from nanogpt_compat.output.token_file import TOKEN
from nanogpt_compat.resume.checkpoint import journal_in
from nanogpt_compat.resume.lock import check_free
from nanogpt_compat.system.units import format_bytes, format_duration
from nanogpt_compat.system.voice import Voice

_MAKE_AGAIN = "run the command that made the output with --overwrite"


def check(output_dir: Path, voice: Voice) -> None:
    """Read each file of the output once, and compare it with prepare.json. Write nothing.

    `voice.check` may raise to stop.
    """
    outputs, listed = _find_listed(output_dir)
    found: list[str] = []  # a line for each file that is damaged or cannot be read
    kind: type[PrepareError] = OutputError
    n_bytes, began_s = 0, time.monotonic()
    with voice.open_display(sum(one.file.n_bytes for one in listed), 0, rss_bytes) as display:

        def after_chunk(n_more: int) -> None:
            nonlocal n_bytes
            voice.check()
            n_bytes += n_more
            display.show(bytes_read=n_bytes, tokens=n_bytes // TOKEN.itemsize)

        try:
            for one in listed:
                try:
                    faults = find_faults(one, after_chunk)
                except OutputError as error:
                    found.append(str(error))
                else:
                    if faults:
                        found.append(f"{one.file.path}: {'; '.join(faults)}")
                        kind = DifferenceError
        except BaseException:  # a signal: do not lose what was found until then
            voice.warn(*found)
            raise
    surplus = find_surplus(outputs, output_dir, {one.file.path for one in listed})
    if found or surplus:
        _check_same(output_dir, listed)
        raise (DifferenceError if surplus else kind)(_explain(output_dir, found, surplus))
    elapsed_s = max(1e-9, time.monotonic() - began_s)
    files = [one.file for one in listed if isinstance(one.file, OutputFile)]
    names = [name_tokens(files), *(one.file.name for one in listed if isinstance(one.file, IndexFile))]
    voice.say(
        f"checked: {', '.join(names)}, all as they were written ({format_bytes(n_bytes)} in "
        f"{format_duration(elapsed_s)}, {format_bytes(n_bytes / elapsed_s)}/s)"
    )
    if journal_in(output_dir).is_file():
        voice.say(f"notice: {output_dir / WORK_FOLDER} holds an unfinished run, which was not checked")


def _find_listed(output_dir: Path) -> tuple[Outputs, list[Listed]]:
    """Return the layout of the output, and the files that prepare.json lists, with their checksums."""
    path = output_dir / report.REPORT_NAME
    made = report.read_report(output_dir)
    if made is None:
        raise _incomplete(output_dir, path)
    try:
        outputs = outputs_of(output_dir, made)
        listed = list_files(outputs, lay_out_indexes(output_dir, outputs), made)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise OutputError(
            f"{path} is damaged, or not a report that this version can read ({_describe(error)}); "
            f"copy it again, or {_MAKE_AGAIN}"
        ) from error
    if listed is None:
        raise OutputError(
            f"{path} has no checksums, because an older version wrote it. The command that made the output, "
            "with --verify, compares every token with the input, and adds the checksums"
        )
    return outputs, listed


def _describe(error: Exception) -> str:
    return f"without {error}" if isinstance(error, KeyError) else str(error)


def _incomplete(output_dir: Path, path: Path) -> OutputError:
    """Return the error for a folder without a report, which is written when the output is complete."""
    why = f"there is no complete output to check: {path} is missing or cannot be read"
    if journal_in(output_dir).is_file():
        check_free(output_dir / WORK_FOLDER / "lock")  # raises if that run is at work
        return OutputError(f"{why}. An unfinished run is there: its command, run again, completes it")
    return OutputError(f"{why}; make the output first, or give its folder with --output-dir")


def _check_same(output_dir: Path, listed: Sequence[Listed]) -> None:
    """Raise OutputError if another run has replaced the output meanwhile: differences mean nothing then."""
    now = None
    with suppress(OutputError):
        now = _find_listed(output_dir)[1]
    if now != listed:
        raise OutputError(
            f"another run has replaced the output in {output_dir} while it was checked; run the same command "
            "again when that run has ended"
        )


def _explain(output_dir: Path, damaged: Sequence[str], surplus: Sequence[str]) -> str:
    """Return the message about files that are damaged or cannot be read, and about surplus files."""
    way_out = f"Copy what is damaged again from where it is whole, or {_MAKE_AGAIN}"
    lines = [*damaged, *surplus]
    if len(lines) == 1:
        return f"{lines[0]}. {way_out}" if damaged else lines[0]
    start = f"the files in {output_dir} are not as they were written:"
    return "\n  ".join([start, *lines]) + (f"\n{way_out}" if damaged else "")
