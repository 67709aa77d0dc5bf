"""What the spans of a plan have become: parts, files of tokens, and beside them what is to be known of them.

In `parts-<hash of the plan>/` there is for each span that is done

    00000041.json                             the commit, written last: its files, and what it counted
    00000041.<host>.<pid>.<word>.train.bin    raw tokens; no file where a split has none

A task draws the names of its files, so two that work on the same span do not meet; whichever writes the .json
last is the one that counts. What no .json names is of no use any more.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from nanogpt_compat.blocks import Position
from nanogpt_compat.encoders import TiktokenEncoder
from nanogpt_compat.errors import OutputError, SpansError
from nanogpt_compat.files import advice, drop_cache, write_atomically
from nanogpt_compat.memmap import TOKEN
from nanogpt_compat.plan import PLAN_NAME, Plan, Span
from nanogpt_compat.sinks import Sink
from nanogpt_compat.tally import InputTally, Tally
from nanogpt_compat.units import format_bytes, format_duration

_CHUNK_BYTES = 4 << 20
_MAX_LISTED = 10
_INDEX_NAME = "index.json"


def parts_folder(work_dir: Path, plan: Plan) -> Path:
    """Name the folder that the parts of a plan are in."""
    return work_dir / f"parts-{plan.hash[:12]}"


def _sidecar(work_dir: Path, plan: Plan, index: int) -> Path:
    return parts_folder(work_dir, plan) / f"{index:08d}.json"


def _mismatch_file(work_dir: Path, plan: Plan) -> Path:
    return parts_folder(work_dir, plan) / "mismatch"


def commit_part(work_dir: Path, plan: Plan, part: Mapping[str, Any]) -> None:
    """Write the sidecar of a part whose files are durable.

    Raises:
        OSError: it cannot be written.
    """
    write_atomically(_sidecar(work_dir, plan, part["span"]), (json.dumps(part) + "\n").encode("ascii"))


def read_part(work_dir: Path, plan: Plan, index: int, *, mismatch: str) -> dict[str, Any] | None:
    """Read the sidecar of a span; None if it is not done, or by an engine that has erred elsewhere.

    Raises:
        OutputError: it cannot be read.
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
    return part


def read_mismatch(work_dir: Path, plan: Plan) -> str:
    """Say in what an engine has erred on some span; "" if none has."""
    with suppress(OSError):
        return _mismatch_file(work_dir, plan).read_text(encoding="utf-8")
    return ""


def write_mismatch(work_dir: Path, plan: Plan, mismatch: str) -> None:
    """Take note that an engine has erred: what it has made of other spans does not count any more.

    Raises:
        OSError: it cannot be written.
    """
    write_atomically(_mismatch_file(work_dir, plan), mismatch.encode("utf-8"))


def spans_to_do(work_dir: Path, plan: Plan) -> list[Span]:
    """List the spans that are not done."""
    names: set[str] = set()
    with suppress(FileNotFoundError):
        names = set(os.listdir(parts_folder(work_dir, plan)))  # noqa: PTH208 - names are all that is wanted
    mismatch = read_mismatch(work_dir, plan)
    return [
        span
        for span in plan.spans
        if f"{span.index:08d}.json" not in names
        or (mismatch and read_part(work_dir, plan, span.index, mismatch=mismatch) is None)
    ]


class Parts:
    """All parts of a plan, to be put together. Holds one at a time."""

    def __init__(self, work_dir: Path, plan: Plan) -> None:
        """Look through all parts.

        Raises:
            SpansError: some spans are not done, or do not meet their neighbours.
            OutputError: a part cannot be read.
        """
        self.plan = plan
        self._work_dir = work_dir
        to_do = [span.index for span in spans_to_do(work_dir, plan)]
        if to_do:
            raise SpansError(
                f"{len(to_do):,} of {len(plan.spans):,} spans are not done ({list_some(to_do)}); run the "
                "command that makes them again"
            )
        self.mismatch = read_mismatch(work_dir, plan)
        self.n_tokens = 0
        self.peak_rss_bytes = 0
        self._span_s = 0.0
        engines, hosts = set[str](), set[str]()
        at = (0, 0)  # the input, and where in it the part before ends
        for part in self._read():
            at = at if part["input"] == at[0] else (part["input"], 0)
            if at != (part["input"], part["start"]):
                raise SpansError(self._gap(part, at[1]))
            at = (part["input"], part["end"])
            self.n_tokens += sum(one["tokens"] for one in part["files"].values())
            self.peak_rss_bytes = max(self.peak_rss_bytes, part["peak_rss_bytes"])
            self._span_s += part["tally"]["wall_s"]
            engines.add(part["engine"])
            hosts.add(part["host"])
        self.engine = " and ".join(sorted(engines))
        self.hosts = sorted(hosts)

    def _gap(self, part: Mapping[str, Any], end: int) -> str:
        path = self.plan.location(part["input"])
        sidecar = _sidecar(self._work_dir, self.plan, part["span"])
        return (
            f"span {part['span']:,} of {path} begins at {part['start']:,} and the one before it ends at "
            f"{end:,}: the file was changed meanwhile; remove {sidecar.parent} and run again"
        )

    def _read(self) -> Iterator[dict[str, Any]]:
        for span in self.plan.spans:
            part = read_part(self._work_dir, self.plan, span.index, mismatch=self.mismatch)
            if part is None:
                raise SpansError(f"span {span.index:,} is not done any more; run again what makes it")
            yield part

    def describe(self) -> dict[str, Any]:
        """Describe for prepare.json how the parts came about."""
        return {
            "plan": self.plan.hash,
            "spans": len(self.plan.spans),
            "span_s": round(self._span_s, 3),
            "hosts": self.hosts,
        }

    def line(self) -> str:
        """Say the same in a line."""
        hosts = self.hosts[0] if len(self.hosts) == 1 else f"{len(self.hosts):,} hosts"
        return (
            f"{len(self.plan.spans):,} parts of {format_bytes(2 * self.n_tokens)}, made in "
            f"{format_duration(self._span_s)} of work on {hosts}"
        )

    def add_up(self) -> Tally:
        """Count everything that a run would have counted."""
        tally = Tally([InputTally() for _ in self.plan.inputs])
        self.copy_into(None, tally, after_part=lambda: None, check=lambda: None)
        return tally

    def files(self) -> list[dict[str, Any]]:
        """List the files of all parts, of each split in order; their names are those within the work folder.

        Raises:
            SpansError: one is not there, or not of its size.
        """
        folder = parts_folder(self._work_dir, self.plan)
        listed = []
        for part in self._read():
            for split, one in part["files"].items():
                path, n_bytes = folder / one["name"], one["tokens"] * TOKEN.itemsize
                if not path.is_file() or path.stat().st_size != n_bytes:
                    raise self._not_as_written(path, part["span"])
                name = f"{folder.name}/{path.name}"
                listed.append({**one, "name": name, "bytes": n_bytes, "split": split, "span": part["span"]})
        return listed

    def copy_into(
        self, sink: Sink | None, tally: Tally, *, after_part: Callable[[], None], check: Callable[[], None]
    ) -> None:
        """Append all parts from `tally.position` on, and count them; without a sink count them only.

        Raises:
            SpansError: a part is not what was written; its sidecar is gone then.
            OutputError: it cannot be read, or the disk is full or failing. And what `check` raises.
        """
        n_lines = 0
        for part in self._read():
            place = part["input"], part["end"]
            n_lines = part["tally"]["position"]["records"] + n_lines * (part["start"] > 0)
            if place <= (tally.position.input_index, tally.position.offset):
                continue
            if sink is not None:
                for split, one in part["files"].items():
                    self._copy(part, split, one, sink, check)
            n_before = n_lines - part["tally"]["position"]["records"]
            tally.add(
                Tally.of_record(part["tally"]), Position(*place, anchor=part["end"]), n_lines_before=n_before
            )
            after_part()

    def _copy(
        self,
        part: Mapping[str, Any],
        split: str,
        one: Mapping[str, Any],
        sink: Sink,
        check: Callable[[], None],
    ) -> None:
        path = parts_folder(self._work_dir, self.plan) / one["name"]
        crc = n_tokens = 0
        try:
            with path.open("rb", buffering=0) as file:
                while data := file.read(_CHUNK_BYTES):
                    check()
                    crc, n_tokens = crc32(data, crc), n_tokens + len(data) // TOKEN.itemsize
                    if n_tokens <= one["tokens"]:
                        sink.append(
                            np.frombuffer(data, TOKEN, len(data) // TOKEN.itemsize), is_val=split == "val"
                        )
                drop_cache(file.fileno(), 0, file.tell())
        except FileNotFoundError:
            n_tokens = -1
        except OSError as error:
            raise OutputError(f"cannot read {path}: {error.strerror}; {advice(error)}") from error
        if (n_tokens, crc) != (one["tokens"], one["crc32"]):
            raise self._not_as_written(path, part["span"])

    def _not_as_written(self, path: Path, span: int) -> SpansError:
        """Have a span done again."""
        _sidecar(self._work_dir, self.plan, span).unlink(missing_ok=True)
        return SpansError(
            f"{path} is not what was written there: span {span:,} is to be done again; run what makes it, "
            "then --merge"
        )


def write_index(work_dir: Path, index: Mapping[str, Any]) -> Path:
    """Write down what the parts of a work folder are, where they stay as they are.

    Raises:
        OutputError: the disk is full or failing.
    """
    path = work_dir / _INDEX_NAME
    try:
        write_atomically(path, (json.dumps(index, indent=1) + "\n").encode("ascii"))
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; {advice(error)} and run again") from error
    return path


def remove_parts(work_dir: Path) -> None:
    """Remove the plan and all parts of a work folder, whose lock must be held."""
    for name in (PLAN_NAME, _INDEX_NAME):  # the plan goes first: without it, parts mean nothing
        for path in sorted(work_dir.glob(f"{name}*")):
            path.unlink(missing_ok=True)
    for folder in work_dir.glob("parts-*"):
        shutil.rmtree(folder, ignore_errors=True)


def list_some(items: Sequence[object], *, separator: str = ", ") -> str:
    """List the first ten.

    >>> list_some(range(12))
    '0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...'
    """
    more = ["..."] if len(items) > _MAX_LISTED else []
    return separator.join([*map(str, items[:_MAX_LISTED]), *more])
