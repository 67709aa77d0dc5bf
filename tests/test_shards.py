"""Shards: byte for byte like those of build-nanogpt and llm.c, and named once they are complete."""

import ast
import random
import shutil
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nanogpt_compat.output.layout import Outputs, Shards, lay_out
from nanogpt_compat.output.writer import TokenFiles
from nanogpt_compat.output.written import Segment, all_shards, full_shards, is_sound, publish
from nanogpt_compat.text.documents import END_OF_TEXT
from tests import faults
from tests.faults import Args, Expected, Stopped, expect, make_text, prepare, report_of, sha256s
from tests.reference import read_as_text
from tests.test_records import some_documents, write

pytestmark = pytest.mark.costly

Tokens = NDArray[np.uint16]
FORMATS = ("bin", "npy", "llmc")
SHARD = 20_011
OPTIONS: Args = ("--document-separator", r"\n\n", "--shard-tokens", str(SHARD))
EVERY_CALL = "(?!encode).*"


def npy_bytes(tokens: Sequence[int]) -> bytes:
    """Write by the format's description: magic, version 1.0, length of a dict literal; 64 divides the sum."""
    head = f"{{'descr': '<u2', 'fortran_order': False, 'shape': ({len(tokens)},), }}".encode()
    head += b" " * (-(10 + len(head) + 1) % 64) + b"\n"
    return (
        b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + struct.pack(f"<{len(tokens)}H", *tokens)
    )


def llmc_bytes(tokens: Sequence[int]) -> bytes:
    """Write llm.c's format: a header of 256 int32, only three of which are used, then the tokens."""
    return struct.pack("<256i", 20240520, 1, len(tokens), *[0] * 253) + struct.pack(
        f"<{len(tokens)}H", *tokens
    )


def raw_bytes(tokens: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(tokens)}H", *tokens)


def read_npy(path: Path) -> list[int]:
    raw = path.read_bytes()
    assert raw[:8] == b"\x93NUMPY\x01\x00"
    length = int.from_bytes(raw[8:10], "little")
    assert (10 + length) % 64 == 0
    fields = ast.literal_eval(raw[10 : 10 + length].decode("latin-1"))
    assert (fields["descr"], fields["fortran_order"]) == ("<u2", False)
    tokens = np.frombuffer(raw, "<u2", offset=10 + length).tolist()
    assert fields["shape"] == (len(tokens),)
    assert np.load(path).tolist() == tokens
    return tokens  # type: ignore[no-any-return]


def read_llmc(path: Path) -> list[int]:
    """Read a shard like modded-nanogpt."""
    raw = path.read_bytes()
    header = struct.unpack("<256i", raw[:1024])
    assert header[:2] == (20240520, 1)
    assert len(raw) == 1024 + 2 * header[2]
    assert header[2] < 2**31
    return np.frombuffer(raw, "<u2", offset=1024).tolist()  # type: ignore[no-any-return]


def read_raw(path: Path) -> list[int]:
    return np.memmap(path, "<u2", "r").tolist() if path.stat().st_size else []


WRITE = {"bin": raw_bytes, "npy": npy_bytes, "llmc": llmc_bytes}
READ = {"bin": read_raw, "npy": read_npy, "llmc": read_llmc}
NAMES = {
    "bin": ("train_shard_{:04d}.bin", "train_shard_{:04d}.bin"),
    "npy": ("edufineweb_val_{:06d}.npy", "edufineweb_train_{:06d}.npy"),
    "llmc": ("fineweb_val_{:06d}.bin", "fineweb_train_{:06d}.bin"),
}


def as_fineweb_py(documents: Iterator[list[int]], shard_size: int) -> Iterator[list[int]]:
    """Yield shards like both scripts: fill one, split the document that does not fit, start over."""
    shard: list[int] = []
    for tokens in documents:
        while len(shard) + len(tokens) >= shard_size:
            n_fit = shard_size - len(shard)
            yield shard + tokens[:n_fit]
            shard, tokens = [], tokens[n_fit:]
        shard += tokens
    if shard:
        yield shard


def expected_files(form: str, shards: Sequence[list[int]]) -> dict[str, bytes]:
    return {NAMES[form][k > 0].format(k): WRITE[form](tokens) for k, tokens in enumerate(shards)}


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*") if path.suffix in faults.SUFFIXES}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text(tmp_path_factory.mktemp("shards") / "text.txt", 600_000)


# Content


@pytest.mark.parametrize("form", ["npy", "llmc"])
def test_shards_are_those_that_the_scripts_write_from_the_same_documents(
    form: str, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    documents = [one for one in some_documents()[7:] if one]
    path = write(tmp_path, "jsonl", documents)
    out = tmp_path / "out"
    done = prepare("--input", path, "--output-dir", out, "--format", form, "--shard-tokens", "50K")
    assert done.returncode == 0, done.stderr
    tokens = ([END_OF_TEXT, *gpt2.encode_ordinary(one)] for one in documents)
    expected = expected_files(form, list(as_fineweb_py(tokens, 50_000)))
    assert len(expected) > 10
    assert files_in(out) == expected
    report = report_of(out)
    listed = [{key: one[key] for key in ("name", "tokens", "bytes")} for one in report["files"]]
    assert listed == [
        {"name": name, "tokens": len(READ[form](out / name)), "bytes": len(content)}
        for name, content in expected.items()
    ]
    n_all = sum(one["tokens"] for one in report["files"])
    assert report["tokens"] == {"train": n_all - 50_000, "val": 50_000}
    assert report["val_split"]["name"] == "first shard"


@pytest.mark.parametrize("form", FORMATS)
def test_one_stream_without_documents_has_no_end_of_text(
    form: str, text: Path, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    done = prepare(
        *(
            "--input",
            text,
            "--output-dir",
            tmp_path,
            "--format",
            form,
            "--shard-tokens",
            "30_000".replace("_", ""),
        ),
        *("--val-split", "none"),
    )
    assert done.returncode == 0, done.stderr
    tokens = gpt2.encode_ordinary(read_as_text(text, "ignore"))
    found = [READ[form](path) for path in sorted(tmp_path.glob("*")) if path.suffix in faults.SUFFIXES]
    assert [len(one) for one in found[:-1]] == [30_000] * (len(found) - 1)
    assert [token for one in found for token in one] == tokens
    assert not [name for name in files_in(tmp_path) if "val" in name]


def test_raw_shards_joined_are_train_bin_and_val_bin_is_unchanged(text: Path, tmp_path: Path) -> None:
    plain, out = tmp_path / "plain", tmp_path / "out"
    same: Args = ("--input", text, "--document-separator", r"\n\n", "--val-ratio", "0.1")
    assert prepare(*same, "--output-dir", plain).returncode == 0
    done = prepare(*same, "--output-dir", out, "--shard-tokens", "20000")
    assert done.returncode == 0, done.stderr
    shards = sorted(out.glob("train_shard_*.bin"))
    assert len(shards) > 5
    assert b"".join(path.read_bytes() for path in shards) == (plain / "train.bin").read_bytes()
    assert (out / "val.bin").read_bytes() == (plain / "val.bin").read_bytes()
    assert (
        f"(cd {out} && seq -f train_shard_%04.0f.bin 0 {len(shards) - 1} | xargs cat > train.bin)"
        in done.stderr
    )


@pytest.mark.parametrize("name", ["mine", "a-b.c_d"])
def test_the_first_word_of_the_names_can_be_chosen(name: str, text: Path, tmp_path: Path) -> None:
    args: Args = ("--input", text, "--output-dir", tmp_path, "--format", "npy", "--shard-tokens", "100K")
    assert prepare(*args, "--shard-name", name).returncode == 0
    first, *others = sorted(files_in(tmp_path), key=lambda name: name[-10:])
    assert first == f"{name}_val_000000.npy"
    assert others[:2] == [f"{name}_train_000001.npy", f"{name}_train_000002.npy"]


def test_a_first_shard_that_holds_all_gets_a_warning(text: Path, tmp_path: Path) -> None:
    args: Args = ("--input", text, "--output-dir", tmp_path, "--format", "llmc")
    done = prepare(*args)
    assert done.returncode == 0
    assert "warning: the train split has 0 tokens" in done.stderr
    assert list(files_in(tmp_path)) == ["fineweb_val_000000.bin"]
    assert report_of(tmp_path)["tokens"]["train"] == 0
    again = prepare(*args)
    assert (again.returncode, "already complete" in again.stderr) == (0, True), again.stderr


# The writer alone


def open_files(outputs: Outputs, n_tokens: int) -> TokenFiles:
    return TokenFiles(outputs, n_tokens={"train": n_tokens}, window_bytes=1 << 16)


@given(
    sizes=st.lists(st.integers(0, 300) | st.sampled_from([0, 40, 64, 100, 200]), max_size=6),
    shard_tokens=st.sampled_from([40, 64, 100, 1000]),
    form=st.sampled_from(FORMATS),
    cuts=st.lists(st.integers(0, 5), max_size=3),
)
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_joined_shards_are_the_stream_after_stops_at_any_point(
    sizes: list[int], shard_tokens: int, form: str, cuts: list[int], tmp_path: Path
) -> None:
    folder = tmp_path / "any"
    shutil.rmtree(folder, ignore_errors=True)
    outputs = lay_out(folder, form=form, shard_tokens=shard_tokens, word="a", has_val=False)
    stream = np.random.default_rng(0).integers(0, 50257, sum(sizes)).astype(np.uint16)
    start, sink, segments = 0, open_files(outputs, 0), [Segment({}, {})]
    for index, size in enumerate(sizes):
        sink.append(stream[start : start + size], is_val=False)
        start += size
        segment, wait = sink.begin_checkpoint()
        wait()
        segments.append(segment)
        assert is_sound(full_shards(outputs, segment.tokens), segments[-2].tokens, segment)
        sink.publish_full(segment.tokens)
        assert is_sound(full_shards(outputs, segment.tokens), segments[-2].tokens, segment)
        if index in cuts:
            sink.append(np.arange(500, dtype=np.uint16), is_val=False)  # these tokens are discarded
            sink.__exit__()
            sink = open_files(outputs, start)
    sink.finish()
    sink.__exit__()
    publish(all_shards(outputs, {"train": start}), may_replace=False)
    found = sorted(path for path in folder.glob("*") if path.suffix in faults.SUFFIXES)
    pieces = [stream[k : k + shard_tokens].tolist() for k in range(0, max(1, start), shard_tokens)]
    assert [path.read_bytes() for path in found] == [WRITE[form](one) for one in pieces]
    assert [READ[form](path) for path in found] == pieces


@pytest.mark.parametrize("n_tokens", [0, 1, 9, 10**8, 2**31 - 1, 10**18])
def test_a_header_has_the_same_length_for_any_count(n_tokens: int) -> None:
    npy = Shards(Path(), "a", "npy", 10)
    assert len(npy.header(n_tokens)) == npy.header_bytes == 128
    if n_tokens < 2**31:
        llmc = Shards(Path(), "a", "llmc", 10)
        assert len(llmc.header(n_tokens)) == llmc.header_bytes == 1024


def test_a_token_too_large_for_uint16_is_never_cast(tmp_path: Path) -> None:
    outputs = lay_out(tmp_path, form="npy", shard_tokens=10, word="a", has_val=True)
    with open_files(outputs, 0) as sink, pytest.raises(TypeError, match="expected tokens as"):
        sink.append(np.array([100_277], np.int32), is_val=False)


# Stopped and resumed


def published(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the shards with final names, each with inode and time of its last write."""
    paths = [path for path in folder.glob("*") if path.suffix in faults.SUFFIXES]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


@pytest.mark.sample(1)
@pytest.mark.parametrize("form", ["bin", "npy", pytest.param("llmc", marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_in_the_same_shards(form: str, tmp_path: Path) -> None:
    path = make_text(tmp_path / "text.txt", 2_000_000, n_invalid=20)
    same: Args = ("--input", path, "--format", form, *OPTIONS)
    expected = expect(tmp_path / "expected", *same)
    assert len(expected.sha256s) > 30
    rng = random.Random(form)
    n_kills, out = 0, tmp_path / "out"
    seen: dict[str, tuple[int, int]] = {}

    def choose() -> tuple[Args, dict[str, Any]]:
        now = published(out)
        assert seen.items() <= now.items()
        seen.update(now)
        args: Args = (*same, "--output-dir", out, "--block-size", str(rng.choice([20_000, 200_000])))
        return args, {"every_bytes": rng.choice([10_000, 100_000]), "mapped": rng.choice([None, False])}

    while n_kills < 4:
        n_kills += faults.kill_until_done(rng, expected, out, choose, seconds=expected.seconds)[0]
        choose()
        seen.clear()
        shutil.rmtree(out)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("form", "is_over_old"),
    [("bin", True), ("npy", False), pytest.param("llmc", True, marks=pytest.mark.slow)],
    ids=["bin, with --overwrite", "npy", "llmc, with --overwrite"],
)
def test_killed_a_few_calls_later_each_time_it_finishes(form: str, is_over_old: bool, tmp_path: Path) -> None:
    path = make_text(tmp_path / "a.txt", 300_000)
    same: Args = ("--input", path, "--format", form, *OPTIONS)
    expected = expect(tmp_path / "expected", *same)
    out = tmp_path / "out"
    if is_over_old:
        make_old_shards(out, form, n=len(expected.sha256s) + 3)
        expected.old, same = sha256s(out), (*same, "--overwrite")
        (out / "prepare.json").write_text('{"made": "before"}')
    args: Args = (*same, "--output-dir", out, "--block-size", "30000")
    for n_calls in range(0, 4000, 7):
        done = faults.run(*args, at=EVERY_CALL, skip=n_calls, every_bytes=25_000)
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        assert "did not match" not in done.stderr
        expected.assert_nothing_partial(out)
    assert n_calls > 20
    expected.assert_reached(out)


def make_old_shards(folder: Path, form: str, *, n: int) -> None:
    """Write shards of an earlier run, more of them than the next run makes."""
    folder.mkdir()
    for k in range(n):
        (folder / NAMES[form][k > 0].format(k)).write_bytes(WRITE[form]([k] * 1000))


def stop_after_some(args: Args, out: Path) -> dict[str, tuple[int, int]]:
    with pytest.raises(Stopped):
        prepare(*args, "--output-dir", out, "--block-size", "30000", stop_after_bytes=400_000)
    found = published(out)
    assert 3 < len(found) < 12
    return found


@pytest.fixture(params=["npy", "llmc"])
def args(request: pytest.FixtureRequest, text: Path) -> Args:
    return ("--input", text, "--format", request.param, *OPTIONS)


@pytest.fixture
def expected(args: Args, tmp_path: Path) -> Expected:
    done = prepare(*args, "--output-dir", tmp_path / "expected")
    assert done.returncode == 0, done.stderr
    return Expected(sha256s(tmp_path / "expected"), report_of(tmp_path / "expected"), 0.0)


def test_a_shard_gets_its_name_once_complete_and_is_not_written_again(
    args: Args, expected: Expected, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    before = stop_after_some(args, out)
    assert sha256s(out).items() <= expected.sha256s.items()
    done = prepare(*args, "--output-dir", out)
    assert done.returncode == 0, done.stderr
    expected.assert_reached(out)
    assert before.items() <= published(out).items()
    again = prepare(*args, "--output-dir", out)
    assert (again.returncode, "already complete" in again.stderr) == (0, True), again.stderr


def flip(path: Path, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 8
    path.write_bytes(content)


@pytest.mark.sample(5)
@pytest.mark.parametrize("damage", ["a token", "the header", "the end", "the file"])
def test_a_shard_damaged_after_it_got_its_name_is_made_again(
    damage: str, args: Args, expected: Expected, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shard = out / sorted(stop_after_some(args, out))[2]
    if damage == "the file":
        shard.unlink()
    elif damage == "the end":
        shard.write_bytes(shard.read_bytes() + b"\0")
    else:
        flip(shard, 5 if damage == "the header" else 10_000)
    done = prepare(*args, "--output-dir", out)
    assert done.returncode == 0, done.stderr
    assert "did not match what is on the disk" in done.stderr
    expected.assert_reached(out, fallbacks=report_of(out)["checkpoint_fallbacks"])


def test_starting_over_needs_the_option_to_replace_named_shards(
    args: Args, expected: Expected, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    before = stop_after_some(args, out)
    refused = prepare(*args, "--output-dir", out, "--restart")
    assert refused.returncode == 4
    assert "pass --overwrite" in refused.stderr
    assert published(out) == before
    assert (out / ".prepare" / "journal").stat().st_size > 1000  # the stopped run can still resume
    assert prepare(*args, "--output-dir", out, "--restart", "--overwrite").returncode == 0
    expected.assert_reached(out)


def test_old_shards_are_refused_and_with_overwrite_stay_until_the_new_are_complete(
    args: Args, expected: Expected, tmp_path: Path
) -> None:
    out, form = tmp_path / "out", str(args[3])
    make_old_shards(out, form, n=len(expected.sha256s) + 3)
    stale = out / NAMES[form][1].format(len(expected.sha256s) + 2)
    old = sha256s(out)
    refused = prepare(*args, "--output-dir", out)
    assert refused.returncode == 4
    assert "exists already; pass --overwrite" in refused.stderr
    with pytest.raises(Stopped):
        prepare(*args, "--output-dir", out, "--overwrite", stop_after_bytes=500_000)
    assert sha256s(out) == old
    assert prepare(*args, "--output-dir", out).returncode == 4
    done = prepare(*args, "--output-dir", out, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert "resuming at" in done.stderr
    assert not stale.exists()
    expected.assert_reached(out)


@pytest.mark.parametrize("name", ["train_000999", "val_000000", "train_1000000"])
def test_one_stray_shard_is_enough_for_a_refusal(name: str, text: Path, tmp_path: Path) -> None:
    args: Args = (
        "--input",
        text,
        "--output-dir",
        tmp_path,
        "--format",
        "npy",
        *OPTIONS,
        "--val-split",
        "none",
    )
    stray = tmp_path / f"edufineweb_{name}.npy"
    stray.write_bytes(b"")
    refused = prepare(*args)
    assert refused.returncode == 4
    assert f"{stray} exists already" in refused.stderr
    (tmp_path / "edufineweb_other.npy").write_bytes(b"")
    stray.unlink()
    assert prepare(*args).returncode == 0


def test_a_file_that_appears_with_the_name_of_a_shard_is_left_alone(args: Args, tmp_path: Path) -> None:
    out, form = tmp_path / "out", str(args[3])
    stop_after_some(args, out)
    other = out / NAMES[form][1].format(11)
    other.write_bytes(b"other")
    refused = prepare(*args, "--output-dir", out)
    assert refused.returncode == 4
    assert str(other) in refused.stderr
    assert other.read_bytes() == b"other"


def test_an_engine_that_errs_has_its_shards_made_again(
    text: Path, gpt2: tiktoken.Encoding, tmp_path: Path
) -> None:
    word = b"qwertzuiop"
    path = tmp_path / "placed.txt"
    content = bytearray(text.read_bytes())
    content[400_000 : 400_000 + 200_000] = (b" " + word) * (200_000 // 11 + 1)
    path.write_bytes(bytes(content[:600_000]))
    same: Args = ("--input", path, "--format", "npy", "--shard-tokens", "5000", "--block-size", "20000")
    done = faults.run(
        *(*same, "--output-dir", tmp_path / "out"),
        errs_at=word.decode(),
        check_every_bytes=50_000,
        every_bytes=20_000,
    )
    assert done.returncode == 0, done.stderr
    assert "starting over with tiktoken" in done.stderr
    expected = expect(tmp_path / "expected", *same, "--engine", "tiktoken")
    assert sha256s(tmp_path / "out") == expected.sha256s


# Verified


def verified(args: Args, out: Path) -> faults.Outcome:
    return prepare(*args, "--output-dir", out, "--verify")


@pytest.fixture
def made(args: Args, tmp_path: Path) -> Path:
    out = tmp_path / "made"
    done = prepare(*args, "--output-dir", out)
    assert done.returncode == 0, done.stderr
    return out


def test_right_shards_pass_and_each_gets_its_checksum(args: Args, made: Path) -> None:
    done = verified(args, made)
    assert done.returncode == 0, done.stderr
    assert {one["name"]: one["sha256"] for one in report_of(made)["files"]} == sha256s(made)
    again = prepare(*args, "--output-dir", made)
    assert (again.returncode, "already complete" in again.stderr) == (0, True), again.stderr


@pytest.mark.parametrize("token", [0, 1234, SHARD - 1])
def test_the_first_difference_is_reported_with_shard_token_and_byte(
    args: Args, made: Path, token: int
) -> None:
    shard = made / NAMES[str(args[3])][1].format(3)
    byte = {"npy": 128, "llmc": 1024}[str(args[3])] + 2 * token
    flip(shard, byte)
    done = verified(args, made)
    assert done.returncode == 1
    assert f"{shard}: token {token:,}, at byte {byte:,}, is " in done.stderr


def test_a_wrong_header_and_a_longer_a_missing_and_an_extra_shard_are_reported(
    args: Args, made: Path
) -> None:
    shard = made / NAMES[str(args[3])][1].format(3)
    content = shard.read_bytes()
    flip(shard, 8)
    done = verified(args, made)
    assert done.returncode == 1
    assert f"{shard} should begin with the" in done.stderr
    assert "and differs at byte 8;" in done.stderr
    shard.write_bytes(content + b"\0\0")
    done = verified(args, made)
    assert done.returncode == 1
    assert (
        f"{shard} should end after {SHARD:,} tokens, at byte {len(content):,}, and has 2 bytes more"
        in done.stderr
    )
    shard.unlink()
    done = verified(args, made)
    assert done.returncode == 4
    assert f"{shard} is missing" in done.stderr
    shard.write_bytes(content)
    (made / NAMES[str(args[3])][1].format(99)).write_bytes(b"")
    done = verified(args, made)
    assert done.returncode == 1
    assert "_000099" in done.stderr
    assert "exists, but this run makes no such shard" in done.stderr


# Options


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("--format npy --val-split tail", "--val-split tail does not go with --format npy"),
        ("--format llmc --val-split documents", "take the first shard for validation"),
        ("--format llmc --val-ratio 0.1", "--val-ratio 0.1 does not go with --format llmc"),
        ("--shard-name a", "--shard-name is for --format npy and llmc"),
        ("--format npy --shard-name a/b", "'a/b' is not a word"),
        ("--format npy --shard-name .a", "'.a' is not a word"),
        ("--format npy --shard-name validated", "reads every file with 'val' in its name as part of the val"),
        ("--format llmc --shard-tokens 1073741312", "1,073,741,311 tokens at most"),
        ("--shard-tokens 0", "'0' is not a whole number of at least 1, such as 100000000 or 100M"),
        ("--shard-tokens 1.5", "is not a whole number"),
        ("--shard-tokens 4MiB", "is not a whole number"),
        ("--format npz", "invalid choice"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: str, why: str, text: Path, tmp_path: Path) -> None:
    refused = prepare("--input", text, "--output-dir", tmp_path, *options.split())
    assert refused.returncode == 2
    assert why in refused.stderr
    assert not list(tmp_path.iterdir())


def test_other_options_for_shards_are_another_run(args: Args, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stop_after_some(args, out)
    for other in (
        ("--shard-tokens", "30000"),
        ("--shard-name", "other"),
        ("--val-ratio", "0"),
        ("--eot", "append"),
    ):
        refused = prepare(*args, *other, "--output-dir", out)
        assert refused.returncode == 5, refused.stderr
        assert f"{other[0]} was" in refused.stderr
    assert list(out.glob("*_000000.*"))
    assert "pass --restart --overwrite to discard it" in refused.stderr  # full shards exist already
    done = prepare(*args, *other, "--output-dir", out, "--restart", "--overwrite")
    assert done.returncode == 0, done.stderr


def test_a_train_bin_from_another_run_gets_a_warning(text: Path, tmp_path: Path) -> None:
    (tmp_path / "train.bin").write_bytes(b"old")
    done = prepare("--input", text, "--output-dir", tmp_path, "--shard-tokens", "100000")
    assert done.returncode == 0
    assert f"warning: {tmp_path / 'train.bin'} is from another run, and this run makes no" in done.stderr


def test_shards_that_are_joined_first_may_have_a_short_last_one(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "mine"
    folder.mkdir(parents=True)
    (tmp_path / "train.py").touch()
    (folder / "a.txt").write_text("word " * 28_333)
    done = prepare(
        "--input", folder / "a.txt", "--output-dir", folder, "--shard-tokens", "5000", "--val-ratio", "0.1"
    )
    assert done.returncode == 0, done.stderr
    last = report_of(folder)["files"][-2]
    assert (last["name"], last["tokens"] < 1025) == ("train_shard_0005.bin", True)
    commands = [line for line in done.stderr.splitlines() if line.startswith("    ")]
    assert [
        next(end for end in ("xargs cat > train.bin)", "train.py") if end in line) for line in commands
    ] == ["xargs cat > train.bin)", "train.py"]
