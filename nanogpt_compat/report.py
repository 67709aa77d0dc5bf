"""The report of a run, `prepare.json`, and the lines that are printed before and after it. ASCII only."""

import json
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanogpt_compat import __version__
from nanogpt_compat.errors import OutputError
from nanogpt_compat.input.location import Input
from nanogpt_compat.memory.usage import peak_rss_bytes
from nanogpt_compat.output.layout import OutputFile
from nanogpt_compat.output.token_file import TOKEN
from nanogpt_compat.resume.counters import InputTally, Tally
from nanogpt_compat.system.filesystem import advice, sync_folder, write_json
from nanogpt_compat.system.units import format_bytes, format_count, format_duration, format_rate, plural
from nanogpt_compat.text.blocks import LONG_RECORD_BYTES
from nanogpt_compat.text.val_split import FIRST_SHARD, VAL_INPUT, Interval, Windows

if TYPE_CHECKING:  # --check imports no encoder
    from nanogpt_compat.encoders.forecast import Estimate

REPORT_NAME = "prepare.json"
_RECORDS = {"text": "bytes", "jsonl": "lines", "csv": "records", "tsv": "records"}
"""The unit in which inputs of each format are counted; other formats count rows. CSV's header is a record."""
_PACKAGES = ("numpy", "psutil", "tiktoken", "tqdm", "gigatoken")


@cache  # looking them up on the disk takes 7 ms
def versions() -> Mapping[str, str]:
    """Return the versions of Python, this package and the packages that it uses."""
    found = {"nanogpt_compat": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def build_report(
    *,
    tally: Tally,
    inputs: Sequence[Input],
    tokens: Mapping[str, int],
    engine: str,
    engine_mismatch: str,
    val_split: Mapping[str, object],
    shuffle_seed: int | None,
    options: Mapping[str, object],
    guard: Mapping[str, object],
    peak_own_bytes: int | None,
    empty_documents: int | None,
    has_documents: bool,
    counts_chars: bool,
    stopped_by: tuple[str, int] | None,
    vocabulary: str,
    fingerprint: str,
) -> dict[str, Any]:
    """Build the content of `prepare.json`, except `files`. A count that was not taken is None."""
    # An earlier version, which began the run, did not count them for each input.
    counts_val = sum(one.val_tokens for one in tally.inputs) == tally.val_tokens
    described = [
        _describe_input(one, counts, has_documents=has_documents, counts_val=counts_val)
        for one, counts in zip(inputs, tally.inputs, strict=True)
    ]
    names = [str(one.location) for one in inputs]
    return {
        "tokens": dict(tokens),
        "dtype": TOKEN.str,
        "vocabulary_sha256": vocabulary,
        "inputs": described,
        "bytes_read": tally.bytes_read,
        "bytes_total": sum(one["bytes"] for one in described),
        "text_bytes": tally.text_bytes,
        "chars": tally.chars if counts_chars else None,
        "stopped_at": None if stopped_by is None else _describe_stop(*stopped_by, tally, inputs),
        "invalid_bytes": tally.invalid_bytes,
        "invalid_offsets": [[names[index], offset] for index, offset in tally.invalid_offsets],
        "forced_cuts": tally.forced_cuts,
        "documents": tally.documents if has_documents else None,
        "empty_documents": empty_documents,
        "longest_document_bytes": tally.longest_document_bytes if has_documents else None,
        "skipped_records": tally.skipped_records,
        "first_skipped_records": [[names[index], why] for index, why in tally.skipped],
        "replaced_surrogates": tally.replaced_surrogates,
        "engine": engine,
        "engine_checked_slices": tally.checked_slices,
        "engine_fallback_blocks": tally.fallback_blocks,
        "engine_mismatch": engine_mismatch,
        "val_split": dict(val_split),
        "shuffle": None if shuffle_seed is None else {"seed": shuffle_seed},
        "resumes": tally.resumes,
        "checkpoint_fallbacks": tally.checkpoint_fallbacks,
        "guard": dict(guard),
        "peak_rss_bytes": peak_rss_bytes(),
        "peak_own_bytes": peak_own_bytes,
        "wall_s": round(tally.wall_s, 3),
        "options": dict(options),
        "fingerprint": fingerprint,
        "versions": versions(),
    }


def _describe_stop(option: str, index: int, tally: Tally, inputs: Sequence[Input]) -> dict[str, object]:
    """Return which limit was reached, and where: the input, and what was read of it."""
    one = tally.inputs[index]
    unit = _RECORDS.get(inputs[index].form.container, "rows")
    # A text in a table of columns has no place in the file.
    places = {} if unit == "rows" else {"bytes": one.text_bytes}
    if unit != "bytes":
        places[unit] = one.records
    return {"option": option, "input": str(inputs[index].location), **places}


def _describe_input(
    one: Input, counts: InputTally, *, has_documents: bool, counts_val: bool
) -> dict[str, Any]:
    """Return the counts of one input, and what identifies it in a later run."""
    return {
        "path": str(one.location),
        "format": str(one.form),
        "bytes": counts.bytes_read if one.size_bytes is None else one.size_bytes,
        "bytes_read": counts.bytes_read,
        "text_bytes": counts.text_bytes,
        "records": counts.records,
        "tokens": counts.tokens,
        "val_tokens": counts.val_tokens if counts_val else None,
        "documents": counts.documents if has_documents else None,
        "invalid_bytes": counts.invalid_bytes,
        "skipped_records": counts.skipped_records,
        **({"first_skipped_record": counts.first_skipped} if counts.first_skipped else {}),
        "crc32": counts.crc,
        **one.description,
    }


def read_report(folder: Path) -> dict[str, Any] | None:
    """Read the `prepare.json` of an earlier run; None if it is missing or cannot be read."""
    try:
        made = json.loads((folder / REPORT_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return made if isinstance(made, dict) else None


def remove_report(folder: Path) -> None:
    """Remove an old `prepare.json`, durably: it must never be next to files of another run."""
    path = (folder / REPORT_NAME).resolve()
    try:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"cannot remove {path}: {error.strerror}; {_what_is_left(error)}") from error


def write_report(folder: Path, report: Mapping[str, object]) -> None:
    """Write `prepare.json` into the output folder; it is durable when this returns."""
    path = (folder / REPORT_NAME).resolve()  # the target of a link: a rename would replace the link
    try:
        write_json(path, report, indent=2, is_locked=True)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; {_what_is_left(error)}") from error


def _what_is_left(error: OSError) -> str:
    return f"the token files are complete: {advice(error)} and run the same command again"


def name_inputs(inputs: Sequence[Input]) -> str:
    """Return the name of the only input, or of the first and how many more there are."""
    name = inputs[0].location.name
    return name if len(inputs) == 1 else f"{name} and {len(inputs) - 1} more"


def start_line(
    inputs: Sequence[Input], forecast: "Estimate | None", *, free_bytes: int, n_workers: int
) -> str:
    """Return the first line of a run; `forecast` is None for a pipe, whose size is unknown."""
    threads = "1 thread" if n_workers == 1 else f"{n_workers} threads"
    if forecast is None:
        return f"{name_inputs(inputs)}, size unknown ({format_bytes(free_bytes)} free); {threads}"
    return (
        f"{name_inputs(inputs)} {format_bytes(forecast.text_bytes)} -> about {format_count(forecast.tokens)} "
        f"tokens, {format_bytes(forecast.output_bytes)} ({format_bytes(free_bytes)} free); {threads}; "
        f"about {format_duration(forecast.seconds)}"
    )


def val_split(
    split: str, windows: Windows, *, ratio: float, document_ratio: float, n_inputs: int
) -> dict[str, object]:
    """Return the validation split as the report has it; `n_inputs`: those for val alone."""
    if split == VAL_INPUT:
        return {"name": split, "ratio": None, "inputs": n_inputs}
    found: dict[str, object] = {"name": split, "ratio": ratio}
    if split == "documents":
        return found | {"document_ratio": document_ratio}
    if isinstance(windows, Interval):
        return found | {"window_bytes": windows.width, "every_bytes": windows.period}
    return found | {"windows": len(windows), "bytes": sum(end - start for start, end in windows)}


def describe_val(split: str, windows: Windows, *, ratio: float, inputs: Sequence[Input]) -> str:
    """Describe in a few words where the validation tokens come from; `inputs`: those for val alone."""
    if split == VAL_INPUT:
        return f"all of {name_inputs(inputs)}"
    if split == FIRST_SHARD:
        return "the first shard"
    if split == "documents":
        return f"{100 * ratio:.3g} % of all documents"
    if isinstance(windows, Interval):
        return f"{format_bytes(windows.width)} of every {format_bytes(windows.period)}"
    n_bytes = sum(end - start for start, end in windows)
    if split in ("head", "tail"):
        return f"the {'first' if split == 'head' else 'last'} {format_bytes(n_bytes)}"
    return "1 window in the middle" if len(windows) == 1 else f"{len(windows)} windows spread over the input"


def warn_of_empty(inputs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a warning for each input of which all records were skipped; `inputs` is from the report."""
    return [
        f"warning: nothing is left of {one['path']}: "
        f"{describe_skipped(one['skipped_records'], one['path'], one['first_skipped_record'])}"
        for one in inputs
        if one["skipped_records"] and not one["tokens"]
    ]


def warn_of_separator(made: Mapping[str, Any], separator: str | None, inputs: Sequence[Input]) -> list[str]:
    """Return a warning if the separator is in none of the texts among `inputs`, and one of them is long."""
    counts = [
        one for given, one in zip(inputs, made["inputs"], strict=True) if given.form.container == "text"
    ]
    is_missing = separator is not None and all(one["documents"] in (0, 1) for one in counts)
    longest_bytes = max((one["text_bytes"] for one in counts), default=0)
    if not is_missing or made["stopped_at"] is not None or longest_bytes <= LONG_RECORD_BYTES:
        return []
    return [
        f"warning: the separator {separator!a} is not in the text, so each text file is one document: to "
        "split it, give another --document-separator"
    ]


def describe_skipped(n_records: int, path: object, why: str) -> str:
    """Describe how many records were skipped, and why the first one was.

    >>> describe_skipped(2, "a.jsonl", "line 1, at byte 0: not JSON")
    '2 records were skipped, the first in a.jsonl: line 1, at byte 0: not JSON'
    """
    return f"{n_records:,} record{' was' if n_records == 1 else 's were'} skipped, the first in {path}: {why}"


def name_files(files: Sequence[OutputFile], *, val: str, indexes: Sequence[str]) -> list[str]:
    """Return a line for each split: its files, tokens and bytes; `val`: where those of val come from.

    `indexes` are the names of those that were made, which get a line.
    """
    lines = []
    for split, where in (("train", ""), ("val", f": {val}")):
        some = [one for one in files if one.split == split]
        if some:
            shards = "" if len(some) == 1 else f" to {some[-1].name}, {len(some):,} shards"
            n_tokens, n_bytes = sum(one.n_tokens for one in some), sum(one.n_bytes for one in some)
            size = f"{plural(n_tokens, 'token')}, {format_bytes(n_bytes)}"
            lines.append(f"{some[0].name}{shards}: {size}{where}")
    if indexes:
        lines.append(f"{' and '.join(indexes)}: where each document is, as Megatron reads it")
    return lines


def end_lines(
    made: Mapping[str, Any], files: Sequence[OutputFile], *, val: str, indexes: Sequence[str]
) -> list[str]:
    """Return the last lines: what was made, how fast, and everything that was dropped, replaced or cut."""
    lines = name_files(files, val=val, indexes=indexes)
    memory = format_bytes(made["peak_rss_bytes"])
    own_bytes = made["peak_own_bytes"]  # what --max-memory limits
    memory = memory if own_bytes is None else f"{format_bytes(own_bytes)}, {memory} with mapped files"
    lines.append(
        f"{format_bytes(made['bytes_read'])} in {format_duration(made['wall_s'])}: "
        f"{format_rate(made['bytes_read'], made['wall_s'])}, "
        f"peak memory {memory}"
    )
    if made["documents"] or made["empty_documents"]:
        empty = f"; {plural(made['empty_documents'], 'empty one')} dropped" if made["empty_documents"] else ""
        longest = format_bytes(made["longest_document_bytes"])
        order = f", shuffled with seed {made['shuffle']['seed']}" if made.get("shuffle") else ""
        lines.append(f"{plural(made['documents'], 'document')}{order}, the longest of {longest}{empty}")
    if (stop := made["stopped_at"]) is not None:
        unit = next(name for name in ("rows", "records", "lines", "bytes") if name in stop)
        place = plural(stop[unit], unit.removesuffix("s"))
        lines.append(f"stopped by {stop['option']} after {place} of {stop['input']}")
    elif made["options"]["max_tokens"] is not None:
        lines.append(
            f"notice: the input ended before the {made['options']['max_tokens']:,} tokens of --max-tokens"
        )
    if made["engine_checked_slices"]:
        lines.append(f"{plural(made['engine_checked_slices'], 'slice')} checked against tiktoken: 0 differ")
    if made["engine_mismatch"]:
        lines.append(f"warning: {made['engine_mismatch']}; all tokens were made by tiktoken")
    if made["invalid_bytes"]:
        path, offset = made["invalid_offsets"][0]
        lines.append(
            f"{plural(made['invalid_bytes'], 'byte was', 'bytes were')} not UTF-8, the first at byte "
            f"{offset:,} of {path}"
        )
    if made["skipped_records"]:
        lines.append(describe_skipped(made["skipped_records"], *made["first_skipped_records"][0]))
    if made["replaced_surrogates"]:
        halves = plural(made["replaced_surrogates"], "half of a character", "halves of characters")
        lines.append(f"{halves} (surrogates) became U+FFFD")
    if made["forced_cuts"]:
        lines.append(
            f"{plural(made['forced_cuts'], 'forced cut')} in stretches of over 512 KiB without a break; only "
            "tokens next to a cut may differ"
        )
    return lines
