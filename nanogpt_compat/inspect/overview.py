"""Describe what token files hold: counts, ids, texts and the inputs; and what a stopped run has saved."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from nanogpt_compat.config import Config
from nanogpt_compat.encoders.decode import excerpt, tokens_for
from nanogpt_compat.errors import OutputError
from nanogpt_compat.inspect.dataset import Dataset, Part
from nanogpt_compat.inspect.table import fold, table_of
from nanogpt_compat.output.layout import WORK_FOLDER
from nanogpt_compat.output.stream import survey
from nanogpt_compat.preflight.job import REPORTED_OPTIONS
from nanogpt_compat.report import REPORT_NAME
from nanogpt_compat.resume.checkpoint import journal_in, load_tally, read_found
from nanogpt_compat.run.supervise import check_unlocked
from nanogpt_compat.system.commands import join, show, this_program
from nanogpt_compat.system.display import visible
from nanogpt_compat.system.units import format_bytes, plural
from nanogpt_compat.text.blocks import MAX_LISTED
from nanogpt_compat.text.documents import END_OF_TEXT
from nanogpt_compat.text.val_split import FIRST_SHARD, VAL_INPUT

_TEXT_CHARS = 200
_META = "meta.pkl"

Decode = Callable[[Sequence[int]], str]


def overview(dataset: Dataset, decode: Decode | None, *, width: int) -> Iterator[str]:
    """Yield the lines about a folder or a file; without `decode` there are no texts."""
    made = dataset.made if dataset.is_folder else None
    if made is not None:
        yield from fold(visible(f"{dataset.path}: {_describe_run(made)}"), width=width, indent="  ")
    elif dataset.is_folder and dataset.parts:
        yield from fold(
            visible(f"{dataset.path}: no {REPORT_NAME} of this program"), width=width, indent="  "
        )
    for part in dataset.parts:
        if dataset.is_folder:
            yield ""
        yield from _describe_part(part, decode, width=width)
    if dataset.indexes:
        yield ""
    for name, n_documents in dataset.indexes.items():
        yield f"{name}: an index of {plural(n_documents, 'document')}, as Megatron reads it"
    if dataset.parts and (dataset.parts[0].stream.files[0].path.parent / _META).exists():
        yield f"{_META} is next to these files: their tokens may be of another vocabulary than GPT-2's"
    if made is not None and made["inputs"]:
        yield ""
        yield from table_of(made["inputs"], width=width)
    yield from _describe_misfits(dataset)
    if dataset.is_folder and (saved := list(describe_saved(dataset.path))):
        yield from ("", *saved)


def _describe_run(made: Mapping[str, Any]) -> str:
    by = f"made by nanogpt-compat {made['versions']['nanogpt_compat']}"
    if made["documents"] is None:
        return f"{by} from one stream of text, without documents"
    eot = {"append": "after", "prepend": "before"}.get(made["options"]["eot"])
    end = "without end-of-text tokens" if eot is None else f"with an end-of-text token {eot} each"
    order = f", shuffled with seed {made['shuffle']['seed']}" if made.get("shuffle") else ""
    return f"{by} from {plural(made['documents'], 'document')}{order}, {end}"


def _describe_part(part: Part, decode: Decode | None, *, width: int) -> Iterator[str]:
    stream = part.stream
    title = f"{part.name}: {plural(stream.n_tokens, 'token')}, {format_bytes(stream.n_bytes)}"
    yield from fold(visible(title), width=width, indent="  ")
    if not stream.n_tokens:
        return
    found = survey(stream)
    share = f"{100 * found.n_ends / found.n_seen:.3g} % end-of-text" if found.n_ends else "no end-of-text"
    sample = "" if found.n_seen == stream.n_tokens else f" (in samples of {plural(found.n_seen, 'token')})"
    ids = f"ids {found.lowest:,} to {found.highest:,}, {share}{sample}"
    yield from fold(ids, width=width, first="  ", indent="  ")
    if found.highest > END_OF_TEXT:
        yield f"  GPT-2's tokens end at {END_OF_TEXT:,}: these are of another kind, or damaged"
    if decode is not None:
        n_tokens = min(tokens_for(_TEXT_CHARS), stream.n_tokens)
        first = decode(stream.read(0, n_tokens).tolist())
        last = decode(stream.read(stream.n_tokens - n_tokens, stream.n_tokens).tolist())
        yield from text_lines("first: ", excerpt(first, _TEXT_CHARS), width=width)
        yield from text_lines("last:  ", excerpt(last, _TEXT_CHARS, from_end=True), width=width)


def text_lines(title: str, text: str, *, width: int) -> list[str]:
    """Return a text, made visible, in lines after a title."""
    return fold(visible(text), width=width, first=f"  {title}", indent=" " * (2 + len(title)))


def _describe_misfits(dataset: Dataset) -> Iterator[str]:
    """Yield the differences from prepare.json, and the command that finds out more."""
    if dataset.unlisted:
        names = ", ".join(_some(sorted(dataset.unlisted)))
        yield f"not made by this run ({REPORT_NAME} does not list them): {visible(names)}"
    if dataset.misfits:
        yield ""
        yield from (f"warning: {visible(one)}" for one in _some([*dataset.misfits.values()]))
        if dataset.made is not None:
            yield f"to check every file, run:{show(this_program('--check', '--output-dir', dataset.path))}"


def _some(items: Sequence[str]) -> list[str]:
    """Return the first ten items, and how many more there are."""
    more = [f"{len(items) - MAX_LISTED:,} more"] if len(items) > MAX_LISTED else []
    return [*items[:MAX_LISTED], *more]


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
