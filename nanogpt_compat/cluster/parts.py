"""The parts of a plan: the token files that each span was encoded to, and a sidecar that commits them.

For each finished span, `parts-<hash of the plan>/` has

    00000041.json                             the sidecar, written last: names of the files, and counts
    00000041.<host>.<pid>.<word>.train.bin    raw tokens; no file if a split has none
    00000041.<host>.<pid>.<word>.train.bin.ends
                                              where documents end in these tokens, if the run needs that

File names are random, so two tasks that do the same span do not collide; the last sidecar to be written
counts. Files that no sidecar names are leftovers.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nanogpt_compat.cluster.plan import PLAN_NAME, Plan, Span
from nanogpt_compat.config import Config
from nanogpt_compat.encoders.reference import TiktokenEncoder
from nanogpt_compat.errors import CheckpointError, OutputError, SpansError
from nanogpt_compat.input.open import open_input
from nanogpt_compat.input.reader import Consumed
from nanogpt_compat.input.source import Source, reader_of
from nanogpt_compat.output.ends import END, EndsReader
from nanogpt_compat.output.token_file import TOKEN
from nanogpt_compat.output.writer import Sink
from nanogpt_compat.preflight.job import REPORTED_OPTIONS
from nanogpt_compat.resume.counters import InputTally, Tally
from nanogpt_compat.resume.fingerprint import describe_input
from nanogpt_compat.resume.state import changed_inputs
from nanogpt_compat.system.checksum import crc32
from nanogpt_compat.system.filesystem import advice, drop_cache, write_atomically, write_json
from nanogpt_compat.system.redaction import redact
from nanogpt_compat.system.units import format_bytes, format_duration, plural
from nanogpt_compat.text.blocks import Position

_CHUNK_BYTES = 4 << 20
_MAX_LISTED = 10
_INDEX_NAME = "index.json"


def parts_folder(work_dir: Path, plan: Plan) -> Path:
    """Return the folder that holds the parts of a plan."""
    return work_dir / f"parts-{plan.hash[:12]}"


def _sidecar(work_dir: Path, plan: Plan, index: int) -> Path:
    return parts_folder(work_dir, plan) / f"{index:08d}.json"


def _mismatch_file(work_dir: Path, plan: Plan) -> Path:
    return parts_folder(work_dir, plan) / "mismatch"


def commit_part(work_dir: Path, plan: Plan, part: Mapping[str, Any]) -> None:
    """Write the sidecar of a part, whose files must be durable; raise OSError if that fails."""
    write_json(_sidecar(work_dir, plan, part["span"]), part, indent=None)


def read_part(
    work_dir: Path, plan: Plan, index: int, settings: Config, *, mismatch: str
) -> dict[str, Any] | None:
    """Read the sidecar of a span; return None if the span is not done, or its part is not valid.

    A part is not valid if its engine has given wrong tokens for any span (`mismatch`), or if faults of its
    input were handled differently from `settings`.
    """
    path = _sidecar(work_dir, plan, index)
    try:
        part: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot read {path}: {error}; remove it and run again") from error
    if part.get("plan") != plan.hash or (mismatch and part["engine"] != TiktokenEncoder.name):
        return None
    faults = part["faults"].items()
    return part if all(getattr(settings, REPORTED_OPTIONS[name]) == value for name, value in faults) else None


def read_mismatch(work_dir: Path, plan: Plan) -> str:
    """Return how an engine's tokens differed from tiktoken's on some span; "" if they never did."""
    path = _mismatch_file(work_dir, plan)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except OSError as error:  # there may be a mismatch
        raise OutputError(f"cannot read {path}: {error.strerror}; {advice(error)} and run again") from error


def write_mismatch(work_dir: Path, plan: Plan, mismatch: str) -> None:
    """Record that an engine gave wrong tokens, so that all of its parts become invalid."""
    write_atomically(_mismatch_file(work_dir, plan), redact(mismatch).encode("utf-8"))


def spans_to_do(
    work_dir: Path, plan: Plan, settings: Config, spans: Sequence[Span] | None = None
) -> Iterator[Span]:
    """Yield the spans without a valid part, among these or all; reads 15,000 sidecars in a second."""
    mismatch = read_mismatch(work_dir, plan)
    for span in plan.spans if spans is None else spans:
        if read_part(work_dir, plan, span.index, settings, mismatch=mismatch) is None:
            yield span


class Parts:
    """All parts of a plan, for the merge. Holds one sidecar at a time in memory."""

    def __init__(self, work_dir: Path, plan: Plan, settings: Config) -> None:
        """Read all sidecars; raise SpansError if spans are not done, or two neighbours leave a gap."""
        self.plan = plan
        self.tally = Tally([InputTally() for _ in plan.inputs])  # all parts together
        self._work_dir, self._folder = work_dir, parts_folder(work_dir, plan)
        self._settings = settings
        to_do = [span.index for span in spans_to_do(work_dir, plan, settings)]
        if to_do:
            raise SpansError(
                f"{len(to_do):,} of {plural(len(plan.spans), 'span')} not done ({list_some(to_do)}); run the "
                "command that makes them again"
            )
        self.mismatch = read_mismatch(work_dir, plan)
        self._peak_rss_bytes = 0
        self._span_s = 0.0
        self._started_s = time.time()
        engines, hosts = set[str](), set[str]()
        for part in self._read():
            at = self.tally.position
            end_before = at.offset if part["input"] == at.input_index else 0
            if part["start"] == part["end"]:
                continue
            if part["start"] != end_before:
                raise SpansError(
                    f"span {part['span']:,} of {plan.inputs[part['input']].location} begins at "
                    f"{part['start']:,} and the one before it ends at {end_before:,}: the file was changed "
                    f"in between; remove {self._folder} and run again"
                )
            self._count(self.tally, part)
            self._peak_rss_bytes = max(self._peak_rss_bytes, part["peak_rss_bytes"])
            self._span_s += part["tally"]["wall_s"]
            self._started_s = min(self._started_s, part["ended_s"] - part["tally"]["wall_s"])
            engines.add(part["engine"])
            hosts.add(part["host"])
        self._engine = " and ".join(sorted(engines))
        self._hosts = sorted(hosts)

    def check_texts(self, source: Source, *, say: Callable[[str], None], check: Callable[[], None]) -> None:
        """Check that inputs with a new timestamp still hold the text that the parts were made from.

        Each span compares only samples, so a text may have been edited between two spans unnoticed. Raise a
        CheckpointError if one was.
        """
        old, new = [one.description for one in self.plan.inputs], []
        for one, was in zip(source.inputs, old, strict=True):
            check()
            with open_input(one.location, check=check) as file:
                now = describe_input(file.size_bytes, file.hints, ())
            new.append(replace(one, description={**was, **now, "samples": was["samples"]}))
        source = replace(source, inputs=new)
        read = [Consumed(one.text_bytes, one.records, one.crc, is_all=True) for one in self.tally.inputs]
        for path, change in changed_inputs(source, read, old, say=say, check=check):
            raise CheckpointError(
                f"{path} {change}, after some of its spans were done; remove {self._folder} and run the "
                "command that makes the parts again"
            )

    def _read(self) -> Iterator[dict[str, Any]]:
        for span in self.plan.spans:
            part = read_part(self._work_dir, self.plan, span.index, self._settings, mismatch=self.mismatch)
            if part is None:
                raise SpansError(
                    f"the part of span {span.index:,} is gone; run the command that makes the parts again"
                )
            yield part

    @property
    def options(self) -> Mapping[str, Any]:
        """What must be the same in a later merge that resumes a stopped one."""
        return {"merge of plan": self.plan.hash}

    def complete(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """Return the report of the merge with how, and in which time, the parts were made."""
        return {
            **report,
            "engine": self._engine,
            "engine_mismatch": self.mismatch,
            "peak_rss_bytes": max(report["peak_rss_bytes"], self._peak_rss_bytes),
            "peak_own_bytes": None,
            "wall_s": round(time.time() - self._started_s, 3),  # not only the merge
            "cluster": {
                "plan": self.plan.hash,
                "spans": len(self.plan.spans),
                "span_s": round(self._span_s, 3),
                "hosts": self._hosts,
            },
        }

    def line(self) -> str:
        """Return how, and in which time, the parts were made, as one line of a message."""
        hosts = self._hosts[0] if len(self._hosts) == 1 else f"{len(self._hosts):,} hosts"
        return (
            f"{plural(len(self.plan.spans), 'part')} of {format_bytes(2 * self.tally.tokens)}, made in "
            f"{format_duration(self._span_s)} of work on {hosts}"
        )

    def files(self) -> list[dict[str, Any]]:
        """List the files of all parts in order, with their paths within the work folder.

        Raise a SpansError if one is missing or has the wrong size.
        """
        folder = self._folder
        listed = []
        for part in self._read():
            for split, one in part["files"].items():
                n_bytes = self._check_size(part, one, one["tokens"] * TOKEN.itemsize)
                name = f"{folder.name}/{one['name']}"
                new = {**one, "name": name, "bytes": n_bytes, "split": split, "span": part["span"]}
                if "ends" in one:
                    ends = one["ends"]
                    self._check_size(part, ends, ends["documents"] * END.itemsize)
                    new["ends"] = {**ends, "name": f"{folder.name}/{ends['name']}"}
                listed.append(new)
        return listed

    def _check_size(self, part: Mapping[str, Any], one: Mapping[str, Any], n_bytes: int) -> int:
        """Return `n_bytes`; raise SpansError if a file of a part is missing or has another size."""
        path = self._folder / one["name"]
        if not path.is_file() or path.stat().st_size != n_bytes:
            raise self._not_as_written(part, one["name"])
        return n_bytes

    def copy_into(
        self, sink: Sink, tally: Tally, *, after_part: Callable[[], None], check: Callable[[], None]
    ) -> None:
        """Append all parts after `tally.position` to `sink`, and count them in `tally`.

        `sink` also gets the ends of documents, if the plan's options need them. If a part is missing or
        damaged, remove its sidecar and raise a SpansError.
        """
        for part in self._read():
            is_done = (part["input"], part["end"]) <= (tally.position.input_index, tally.position.offset)
            if is_done or part["start"] == part["end"]:
                continue
            for split, one in part["files"].items():
                self._copy(part, one, sink, check, is_val=split == "val")
            self._count(tally, part)
            after_part()

    def _count(self, tally: Tally, part: Mapping[str, Any]) -> None:
        """Add the counts of the next part to `tally`."""
        new, at = Tally.of_record(part["tally"]), tally.position
        n_lines = at.records if part["input"] == at.input_index else 0
        end = Position(part["input"], part["end"], anchor=part["end"], records=n_lines + new.position.records)
        one = new.inputs[0]
        planned = self.plan.inputs[part["input"]]
        reader = reader_of(planned.location, planned.form)
        crc_bytes = reader.logical_bytes(one.text_bytes, one.records)
        tally.add(new, end, crc_bytes=crc_bytes, n_lines_before=n_lines)

    def _copy(
        self,
        part: Mapping[str, Any],
        one: Mapping[str, Any],
        sink: Sink,
        check: Callable[[], None],
        *,
        is_val: bool,
    ) -> None:
        """Append the tokens of one file of a part to `sink`, with the ends of documents if there are any."""
        crc = n_tokens = 0
        ends, there = None, one.get("ends", {})
        opened: AbstractContextManager[BinaryIO | None] = nullcontext()
        with self._opened(part, there["name"]) if there else opened as ends_file:
            if ends_file is not None:
                ends = EndsReader(ends_file)
            with self._opened(part, one["name"]) as file:
                while data := file.read(_CHUNK_BYTES):
                    check()
                    tokens = np.frombuffer(data, TOKEN, len(data) // TOKEN.itemsize)
                    before, n_tokens = n_tokens, n_tokens + len(tokens)
                    crc = crc32(data, crc)
                    if n_tokens <= one["tokens"]:
                        found = None if ends is None else ends.up_to(n_tokens) - before
                        sink.append(tokens, is_val=is_val, ends=found)
            if (n_tokens, crc) != (one["tokens"], one["crc32"]):
                raise self._not_as_written(part, one["name"])
        if ends is not None and (ends.n_ends, ends.crc) != (there["documents"], there["crc32"]):
            raise self._not_as_written(part, there["name"])

    @contextmanager
    def _opened(self, part: Mapping[str, Any], name: str) -> Iterator[BinaryIO]:
        """Open a file of a part, and drop it from the page cache at the end."""
        path = self._folder / name
        try:
            with path.open("rb") as file:
                yield file
                drop_cache(file.fileno(), 0, file.tell())
        except FileNotFoundError as error:
            raise self._not_as_written(part, name) from error
        except OSError as error:
            raise OutputError(f"cannot read {path}: {error.strerror}; {advice(error)}") from error

    def _not_as_written(self, part: Mapping[str, Any], name: str) -> SpansError:
        """Remove the sidecar of a part, so that its span is done again, and return the error."""
        _sidecar(self._work_dir, self.plan, part["span"]).unlink(missing_ok=True)
        return SpansError(
            f"{self._folder / name} is missing or damaged; to make span {part['span']:,} again, repeat the "
            "command that made it, then --merge"
        )


def write_index(work_dir: Path, index: Mapping[str, Any]) -> Path:
    """Write the list of parts that are used as they are, without a merge."""
    path = work_dir / _INDEX_NAME
    try:
        write_json(path, index, indent=1)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; {advice(error)} and run again") from error
    return path


def remove_parts(work_dir: Path) -> None:
    """Remove the plan and all parts of a work folder, whose lock must be held."""
    try:
        for name in (PLAN_NAME, _INDEX_NAME):  # the plan goes first: without it, parts mean nothing
            for path in sorted(work_dir.glob(f"{name}*")):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot remove {path}: {error.strerror}; {advice(error)}") from error
    # `lock.*`: a process was killed while taking the lock.
    for folder in (*work_dir.glob("parts-*"), *work_dir.glob("lock.*")):
        shutil.rmtree(folder, ignore_errors=True)


def list_some(items: Sequence[object], *, separator: str = ", ") -> str:
    """Join the first ten items.

    >>> list_some(range(12))
    '0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...'
    """
    more = ["..."] if len(items) > _MAX_LISTED else []
    return separator.join([*map(str, items[:_MAX_LISTED]), *more])
