"""The CRC-32 of finished files: of each whole file, as any program computes it, and of each section of it.

A run does not read its output again for them. Its checkpoints have the CRC-32 of the tokens between two of
them, also up to each end of a section in between, and these can be combined. So the checksums do not depend
on where the checkpoints were.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from nanogpt_compat.output import layout
from nanogpt_compat.output.layout import OutputFile, Shards, describe_files
from nanogpt_compat.output.token_file import TOKEN
from nanogpt_compat.output.written import Segment
from nanogpt_compat.system.checksum import combine_crcs, crc32

CRC, SECTIONS = "crc32", "crc32_per_64_mib"
"""The names of both in prepare.json."""


class SectionCrcs:
    """The CRC-32 of each section of a file whose bytes are given in order."""

    def __init__(self) -> None:
        self.crcs: list[int] = []
        self.n_bytes = 0  # so far

    def update(self, data: memoryview) -> None:
        """Add the next bytes of the file; `data` must be of bytes."""
        while data:
            n_in_section = self.n_bytes % layout.SECTION_BYTES
            if not n_in_section:
                self.crcs.append(0)
            some = data[: layout.SECTION_BYTES - n_in_section]
            self.crcs[-1] = crc32(some, self.crcs[-1])
            self.n_bytes += len(some)
            data = data[len(some) :]


def combine_sections(crcs: Sequence[int], n_bytes: int) -> int:
    """Compute the CRC-32 of a file of `n_bytes` from those of its sections."""
    whole = 0
    for k, crc in enumerate(crcs):
        whole = combine_crcs(whole, crc, min(layout.SECTION_BYTES, n_bytes - k * layout.SECTION_BYTES))
    return whole


def describe(file: OutputFile, crcs: Sequence[int]) -> dict[str, Any]:
    """Return the entry of prepare.json for a finished file whose sections have these CRC-32."""
    (described,) = describe_files([file])
    return {**described, CRC: combine_sections(crcs, file.n_bytes), SECTIONS: list(crcs)}


def crcs_of_files(
    segments: Iterable[Segment], stream: str, shards: Shards, n_tokens: int
) -> list[list[int]] | None:
    """Compute the CRC-32 of the sections of each file of a stream from all segments of the run.

    Return None if a segment has no checksums for these sections, because another version wrote it.
    """

    @cache
    def header_crc(n_shard_tokens: int) -> int:
        return crc32(shards.header(n_shard_tokens))

    found: list[list[int]] = []
    position = crc = 0  # the CRC-32 of the last section so far
    is_open = False  # whether that section has not ended
    for segment in segments:
        ends, before = iter(segment.section_crcs.get(stream, ())), 0
        for k, first, last in shards.sections(position, segment.tokens[stream]):
            if first == 0:
                found.append([])
                crc = header_crc(min(n_tokens - k * shards.shard_tokens, shards.shard_tokens))
            is_open = not shards.ends_section(last)
            after = segment.crcs[stream] if is_open else next(ends, None)
            if after is None:
                return None
            # `before` and `after` begin where the segment does: the section has only what is between them.
            crc = combine_crcs(crc ^ before, after, (last - first) * TOKEN.itemsize)
            before = after
            if not is_open:
                found[-1].append(crc)
                crc = 0
        if next(ends, None) is not None:
            return None
        position = segment.tokens[stream]
    if not n_tokens:
        return [[header_crc(0)] if shards.header_bytes else []]
    if is_open:
        found[-1].append(crc)
    return found
