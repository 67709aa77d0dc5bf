"""The report of a run: read and write `prepare.json`, and describe what it holds."""

import json
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nanogpt_compat import __version__
from nanogpt_compat.errors import OutputError
from nanogpt_compat.input.location import Input
from nanogpt_compat.system.filesystem import advice, sync_folder, write_json

REPORT_NAME = "prepare.json"
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


def warn_of_empty(inputs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a warning for each input of which all records were skipped; `inputs` is from the report."""
    return [
        f"warning: nothing is left of {one['path']}: "
        f"{describe_skipped(one['skipped_records'], one['path'], one['first_skipped_record'])}"
        for one in inputs
        if one["skipped_records"] and not one["tokens"]
    ]


def describe_skipped(n_records: int, path: object, why: str) -> str:
    """Describe how many records were skipped, and why the first one was.

    >>> describe_skipped(2, "a.jsonl", "line 1, at byte 0: not JSON")
    '2 records were skipped, the first in a.jsonl: line 1, at byte 0: not JSON'
    """
    return f"{n_records:,} record{' was' if n_records == 1 else 's were'} skipped, the first in {path}: {why}"
