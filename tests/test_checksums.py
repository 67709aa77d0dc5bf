"""The CRC-32 of files in prepare.json is that of the bytes on the disk, however it was written."""

import json
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt_compat.output import layout
from nanogpt_compat.output.check import read_crcs
from nanogpt_compat.output.checksums import combine_sections, crcs_of_files
from nanogpt_compat.output.layout import Outputs, files_of, lay_out
from nanogpt_compat.output.writer import TokenFiles
from nanogpt_compat.output.written import Segment, all_shards, publish
from nanogpt_compat.resume.journal import format_line, read_journal
from nanogpt_compat.system.checksum import combine_crcs
from tests import faults
from tests.faults import Args, Stopped, assert_checksums, make_text, prepare, report_of

pytestmark = pytest.mark.costly

SIZES = st.integers(1, 2**40)


@given(a=st.binary(max_size=300), b=st.binary(max_size=300))
def test_checksums_of_neighbours_give_that_of_both(a: bytes, b: bytes) -> None:
    both = zlib.crc32(a + b)
    assert combine_crcs(zlib.crc32(a), zlib.crc32(b), len(b)) == both
    assert combine_crcs(zlib.crc32(a), both, len(b)) == zlib.crc32(b)


@given(crcs=st.lists(st.tuples(st.integers(0, 2**32 - 1), SIZES), min_size=3, max_size=3))
def test_it_does_not_matter_which_neighbours_are_combined_first(crcs: list[tuple[int, int]]) -> None:
    (a, _), (b, b_bytes), (c, c_bytes) = crcs
    left = combine_crcs(combine_crcs(a, b, b_bytes), c, c_bytes)
    assert left == combine_crcs(a, combine_crcs(b, c, c_bytes), b_bytes + c_bytes)


def write(outputs: Outputs, plan: Sequence[tuple[int, bool, bool]], sink_at: dict[str, int]) -> list[Segment]:
    """Append numbers of tokens to val or train, some with a checkpoint after them; return the segments."""
    segments, rng = [], np.random.default_rng(0)
    with TokenFiles(outputs, n_tokens=sink_at, window_bytes=1 << 16) as sink:
        for n_tokens, is_val, ends_segment in plan:
            tokens = rng.integers(0, 50257, n_tokens, np.uint16)
            sink.append(tokens, is_val=is_val and len(outputs) > 1)
            if ends_segment:
                segments.append(sink.begin_checkpoint()[0])
        segments.append(sink.begin_checkpoint()[0])
        sink.finish()
    return segments


def assert_right(outputs: Outputs, segments: Sequence[Segment]) -> None:
    """Compare the checksums that the segments give with those of the files."""
    tokens = segments[-1].tokens
    publish(all_shards(outputs, tokens), may_replace=False)
    for stream, shards in outputs.items():
        found = crcs_of_files(segments, stream, shards, tokens[stream])
        files = [one for one in files_of(outputs, tokens) if one.stream == stream]
        assert found is not None
        for file, crcs in zip(files, found, strict=True):
            data = file.path.read_bytes()
            assert len(data) == file.n_bytes
            assert crcs == read_crcs(file.path, lambda: None)
            size = layout.SECTION_BYTES
            assert crcs == [zlib.crc32(data[k : k + size]) for k in range(0, len(data), size)]
            assert combine_sections(crcs, len(data)) == zlib.crc32(data)


@settings(max_examples=40)
@given(
    form=st.sampled_from(["bin", "shards", "npy", "llmc"]),
    shard_tokens=st.integers(1, 90),
    section_tokens=st.integers(1, 60),
    plan=st.lists(st.tuples(st.integers(0, 100), st.booleans(), st.booleans()), max_size=8),
)
def test_blocks_checkpoints_shards_and_sections_may_end_anywhere(
    form: str, shard_tokens: int, section_tokens: int, plan: list[tuple[int, bool, bool]]
) -> None:
    section_bytes = {"npy": 128, "llmc": 1024}.get(form, 0) + 2 * section_tokens  # a header is in the first
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(layout, "SECTION_BYTES", section_bytes),
    ):
        outputs = lay_out(
            Path(folder),
            form=form if form in ("npy", "llmc") else "bin",
            shard_tokens=None if form == "bin" else shard_tokens,
            word="a",
            has_val=True,
        )
        assert_right(outputs, write(outputs, plan, {}))


def test_a_section_is_64_mib(tmp_path: Path) -> None:
    outputs = lay_out(tmp_path, form="npy", shard_tokens=40_000_000, word="a", has_val=True)
    segments = write(outputs, [(7_000_000, False, True)] * 12, {})
    assert_right(outputs, segments)
    found = crcs_of_files(segments, "train", outputs["train"], 84_000_000)
    assert found is not None
    assert [len(crcs) for crcs in found] == [2, 2, 1]


# Real runs, stopped and resumed


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text(tmp_path_factory.mktemp("input") / "a.txt", 900_000)


RUNS: dict[str, Args] = {
    "bin": ("--val-ratio", "0.3"),
    "shards": ("--val-ratio", "0.3", "--shard-tokens", "30011"),
    "npy": ("--format", "npy", "--shard-tokens", "30011"),
    "llmc": ("--format", "llmc", "--shard-tokens", "30011", "--val-split", "none"),
}


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_without_any_checkpoint_and_one_that_is_killed_again_and_again_write_the_same(
    kind: str, text: Path, tmp_path: Path
) -> None:
    args: Args = ("--input", text, "--block-size", "20K", *RUNS[kind])
    expected = faults.expect(tmp_path / "whole", *args, every_bytes=1 << 30)
    assert_checksums(tmp_path / "whole", section_bytes=faults.SECTION_BYTES)
    assert sum(len(one["crc32_per_64_mib"]) for one in expected.report["files"]) > 10
    out = tmp_path / "out"
    for n_writes in (3, 2, 4):
        done = faults.run(*args, "--output-dir", out, at="write journal", skip=n_writes, every_bytes=30_000)
        assert done.returncode == -9, done.stderr
    assert prepare(*args, "--output-dir", out).returncode == 0
    assert expected.assert_reached(out)["resumes"] == 3


@pytest.mark.parametrize("at", ["rename .*.partial", "remove journal", "open prepare.json.tmp"])
def test_a_run_that_was_killed_while_it_named_its_files_has_them_too(
    at: str, text: Path, tmp_path: Path
) -> None:
    args: Args = ("--input", text, *RUNS["bin"])
    expected = faults.expect(tmp_path / "whole", *args)
    out = tmp_path / "out"
    assert faults.run(*args, "--output-dir", out, at=at).returncode == -9
    assert prepare(*args, "--output-dir", out).returncode == 0
    expected.assert_reached(out)


def without_section_crcs(journal: Path) -> None:
    """Rewrite the journal as versions before --check have written it."""
    records = [dict(entry.record) for entry in read_journal(journal)]
    assert any(record.pop("section_crcs", None) for record in records)
    journal.write_bytes(b"".join(map(format_line, records)))


@pytest.mark.parametrize("kind", ["bin", "npy"])
def test_a_run_that_an_older_version_began_has_them_too(kind: str, text: Path, tmp_path: Path) -> None:
    args: Args = ("--input", text, "--block-size", "20K", *RUNS[kind])
    expected = faults.expect(tmp_path / "whole", *args)
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        prepare(*args, "--output-dir", out, stop_after_bytes=500_000)
    without_section_crcs(out / ".prepare" / "journal")
    done = prepare(*args, "--output-dir", out)
    assert done.returncode == 0, done.stderr
    expected.assert_reached(out)


def link(tmp_path: Path, out: Path) -> None:
    for name in ("train.bin", "val.bin"):
        (out / name).symlink_to(tmp_path / f"disk of {name}")


def nothing(_tmp_path: Path, _out: Path) -> None:
    pass


@pytest.mark.parametrize("arrange", [link, nothing])
def test_files_that_are_links_and_empty_files_have_them(
    arrange: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    arrange(tmp_path, out)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "one document, so one file stays empty"}))
    done = prepare("--input", tmp_path / "a.jsonl", "--output-dir", out)
    assert done.returncode == 0, done.stderr
    assert_checksums(out, section_bytes=faults.SECTION_BYTES)
    (empty,) = [one for one in report_of(out)["files"] if not one["tokens"]]
    assert empty["bytes"] == empty["crc32"] == 0
    assert empty["crc32_per_64_mib"] == []


@pytest.mark.parametrize("form", ["bin", "npy"])
def test_the_merge_of_a_clusters_parts_has_those_of_one_machine(
    form: str, text: Path, tmp_path: Path
) -> None:
    args: Args = ("--input", text, *RUNS[form])
    expected = faults.expect(tmp_path / "whole", *args)
    many: Args = (*args, "--output-dir", tmp_path / "out", "--work-dir", tmp_path / "work")
    assert prepare(*many, "--rank", "0", "--world-size", "1", "--span-size", "200K").returncode == 0
    with pytest.raises(Stopped):  # the merge is stopped, too
        prepare(*many, "--merge", "--span-size", "200K", every_bytes=50_000, stop_after_bytes=400_000)
    assert prepare(*many, "--merge", "--span-size", "200K").returncode == 0
    assert report_of(tmp_path / "out")["files"] == expected.report["files"]
    assert_checksums(tmp_path / "out", section_bytes=faults.SECTION_BYTES)
