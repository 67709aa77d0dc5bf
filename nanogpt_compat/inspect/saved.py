"""Describe what an unfinished run has saved in a folder, as far as its journal shows."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from nanogpt_compat.config import Config
from nanogpt_compat.errors import OutputError
from nanogpt_compat.output.layout import WORK_FOLDER
from nanogpt_compat.preflight.job import REPORTED_OPTIONS
from nanogpt_compat.resume.checkpoint import journal_in, load_tally, read_found
from nanogpt_compat.run.supervise import check_unlocked
from nanogpt_compat.system.commands import join
from nanogpt_compat.system.units import format_bytes, plural
from nanogpt_compat.text.val_split import FIRST_SHARD, VAL_INPUT


def describe_saved(folder: Path) -> Iterator[str]:
    """Yield lines about an unfinished run in a folder; none if there is no such run."""
    found = read_found(journal_in(folder))
    if found.header is None:
        return
    n_inputs = len(found.header["inputs"])
    tally = load_tally(journal_in(folder), n_inputs=n_inputs, end_byte=found.marks[-1].end_byte)
    is_running = False
    try:
        check_unlocked([folder])
    except OutputError:
        is_running = True
    shuffled = ""  # how far the second pass of a shuffle is
    if tally.shuffled is not None:
        shuffled = f"; {tally.written_tokens / max(1, tally.tokens):.0%} of them are shuffled"
    yield (
        f"{folder / WORK_FOLDER}: {'a run is at work' if is_running else 'a stopped run'}, with "
        f"{plural(tally.tokens, 'token')} saved, from {format_bytes(tally.bytes_read)} of "
        f"{plural(n_inputs, 'input')}{shuffled}"
    )
    if is_running:
        return
    defaults = {one.name: one.default for one in fields(Config)}
    typed: list[object] = []  # the options that are not the defaults
    for option, name in REPORTED_OPTIONS.items():
        value = found.header["options"].get(option)
        if value in (None, False, FIRST_SHARD) or value == defaults[name]:
            continue
        typed += [option] if value is True else [VAL_INPUT] if value == VAL_INPUT else [option, str(value)]
    options = join(*typed)
    yield f"resume it with the command that began it{f', which had {options}' if options else ''}"
