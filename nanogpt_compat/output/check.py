"""Check finished files against what prepare.json says of them, without the input.

Each file is read once. At most 1 MiB of it is in memory.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanogpt_compat.errors import OutputError
from nanogpt_compat.output import layout
from nanogpt_compat.output.checksums import CRC, SECTIONS, SectionCrcs, combine_sections
from nanogpt_compat.output.index import IndexFile, is_index
from nanogpt_compat.output.layout import OutputFile, Outputs, by_stream, describe_files, files_of, lay_out
from nanogpt_compat.output.reader import first_difference, read_chunks
from nanogpt_compat.output.token_file import TOKEN
from nanogpt_compat.output.written import foreign_files, is_there
from nanogpt_compat.system.units import plural
from nanogpt_compat.text.documents import END_OF_TEXT


@dataclass(frozen=True, slots=True)
class Listed:
    """A finished file and its CRC-32 as prepare.json lists them."""

    file: OutputFile | IndexFile
    crc: int
    sections: Sequence[int]


def outputs_of(output_dir: Path, made: Mapping[str, Any]) -> Outputs:
    """Return the streams of the run that wrote `made`, its report.

    Raises:
        KeyError, TypeError: it is not a report of this version.
    """
    options = made["options"]
    return lay_out(
        output_dir,
        form=options["output_format"],
        shard_tokens=options["shard_tokens"],
        word=options["shard_name"],
        has_val="val" in made["tokens"],
        has_val_inputs=options.get("n_val_inputs", 0) > 0,
    )


def list_files(outputs: Outputs, indexes: Outputs, made: Mapping[str, Any]) -> list[Listed] | None:
    """Return the files of a report; None if an older version wrote it, without checksums.

    `indexes`: all that the output can have.

    Raises:
        KeyError, TypeError, ValueError: it is not a report of this version, or its parts disagree.
    """
    files = list(files_of(outputs, by_stream(outputs, made["tokens"])))
    described = describe_files(files)
    entries = [one for one in made["files"] if not is_index(one)]
    if [{name: one[name] for name in ("name", "tokens", "bytes")} for one in entries] != described:
        raise ValueError("the list of files does not fit the number of tokens")
    if not all(CRC in one for one in made["files"]):
        return None
    listed = [Listed(file, one[CRC], one[SECTIONS]) for file, one in zip(files, entries, strict=True)]
    for entry in filter(is_index, made["files"]):
        name = entry["name"]
        index = IndexFile(name, indexes[name].path(0), entry["documents"], entry["bytes"])
        listed.append(Listed(index, entry[CRC], entry[SECTIONS]))
    for one in listed:
        n_sections = -(-one.file.n_bytes // layout.SECTION_BYTES)
        if len(one.sections) != n_sections or combine_sections(one.sections, one.file.n_bytes) != one.crc:
            raise ValueError(f"the checksums of {one.file.name} contradict one another")
    return listed


def find_surplus(outputs: Outputs, output_dir: Path, own: set[Path]) -> list[str]:
    """Return a line for each file that is not in `own` but would be read as part of this output."""
    found = []
    val = output_dir / "val.bin"
    if all(one.form == "bin" for one in outputs.values()) and "val" not in outputs and is_there(val):
        found.append(f"{val} exists, but this run makes no val.bin, and nanoGPT would read it; remove it")
    return found + [
        f"{path} exists, but this run makes no such shard, and readers of shards would read it; remove it"
        for shards in outputs.values()
        for path in foreign_files(shards, n_own=0)
        if path not in own
    ]


def find_faults(listed: Listed, after_chunk: Callable[[int], None]) -> list[str]:
    """Return phrases for all differences between a file and its list entry; none if it is unchanged.

    `after_chunk` is called with the number of bytes of each chunk, and may raise to stop.
    """
    file, crcs = listed.file, SectionCrcs()
    path = file.path
    if not is_there(path):
        raise OutputError(f"{path} is missing")
    if (n_bytes := path.stat().st_size) != file.n_bytes:
        return [_wrong_size(n_bytes, file)]
    faults = []
    n_tokens, has_odd = 0, False
    for chunk in read_chunks(path):
        if isinstance(file, OutputFile):
            header = file.shards.header(file.n_tokens)
            if not crcs.n_bytes and (place := first_difference(chunk[: len(header)], header)) is not None:
                faults.append(
                    f"its header is not that of {plural(file.n_tokens, 'token')}, from byte {place} on"
                )
            start = max(0, len(header) - crcs.n_bytes)
            end = len(chunk) - len(chunk) % TOKEN.itemsize
            tokens = np.frombuffer(chunk, np.uint8)[start:end].view(TOKEN)
            if not has_odd and len(tokens) and tokens.max() > END_OF_TEXT:
                has_odd = True
                k = int(np.argmax(tokens > END_OF_TEXT))
                index = n_tokens + k  # in the file
                faults.append(
                    f"token {index:,}, at byte {len(header) + TOKEN.itemsize * index:,}, is "
                    f"{int(tokens[k])}, and GPT-2 has only 0 to {END_OF_TEXT}"
                )
            n_tokens += len(tokens)
        crcs.update(chunk)
        after_chunk(len(chunk))
    if crcs.n_bytes != file.n_bytes:  # it has changed meanwhile
        return [_wrong_size(crcs.n_bytes, file)]
    return _wrong_sections(listed, crcs.crcs) + faults


def read_crcs(path: Path, check: Callable[[], None]) -> list[int]:
    """Read a file, and return the CRC-32 of its sections; `check` may raise to stop."""
    crcs = SectionCrcs()
    for chunk in read_chunks(path):
        check()
        crcs.update(chunk)
    return crcs.crcs


def _wrong_size(n_bytes: int, file: OutputFile | IndexFile) -> str:
    return f"it has {plural(n_bytes, 'byte')} and should have {file.n_bytes:,}"


def _wrong_sections(listed: Listed, found: Sequence[int]) -> list[str]:
    differing = [k for k, crc in enumerate(found) if crc != listed.sections[k]]
    if not differing:
        return []
    first, size = differing[0], layout.SECTION_BYTES
    start, end = first * size, min((first + 1) * size, listed.file.n_bytes)
    more = f", the first of {len(differing)} damaged sections," if len(differing) > 1 else ""
    return [
        f"bytes {start:,} to {end:,}{more} have the crc32 {found[first]} and should have "
        f"{listed.sections[first]}"
    ]
