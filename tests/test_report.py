"""prepare.json and the last lines: counts, missing counts, and complete output of another run."""

import json
import re
from pathlib import Path

import pytest

from nanogpt_compat.encoders.vocabulary import VOCAB_SHA256
from tests.faults import Args, make_text, prepare, report_of

pytestmark = pytest.mark.costly


def make_records(path: Path, n: int) -> Path:
    path.write_text("".join(json.dumps({"text": f"Document {k}. " * 20}) + "\n" for k in range(n)))
    return path


def test_missing_counts_are_null_and_settings_that_decide_the_tokens_are_reported(tmp_path: Path) -> None:
    text = make_text(tmp_path / "a.txt", 100_000)
    assert prepare("--input", text, "--output-dir", tmp_path / "out").returncode == 0
    made = report_of(tmp_path / "out")
    assert {made[name] for name in ("chars", "documents", "empty_documents", "longest_document_bytes")} == {
        None
    }
    assert made["inputs"][0]["documents"] is None
    assert (made["dtype"], made["vocabulary_sha256"]) == ("<u2", VOCAB_SHA256)
    assert prepare("--input", text, "--output-dir", tmp_path / "n", "--n", "1").returncode == 0
    assert report_of(tmp_path / "n")["chars"] > 90_000


def test_documents_are_counted_for_each_input(tmp_path: Path) -> None:
    first, second = make_records(tmp_path / "a.jsonl", 300), make_records(tmp_path / "b.jsonl", 41)
    args: Args = ("--input", first, second, "--output-dir", tmp_path / "out", "--block-size", "16K")
    assert prepare(*args).returncode == 0
    made = report_of(tmp_path / "out")
    assert [one["documents"] for one in made["inputs"]] == [300, 41]
    assert made["documents"] == 341


def test_a_document_over_many_blocks_counts_once(tmp_path: Path) -> None:
    text = make_text(tmp_path / "a.txt", 300_000)
    args: Args = (
        "--input",
        text,
        text.parent / "b.txt",
        "--document-separator",
        r"\x1e",
        "--block-size",
        "16K",
    )
    make_text(tmp_path / "b.txt", 200_000, seed=1)
    assert prepare(*args, "--output-dir", tmp_path / "out").returncode == 0
    assert [one["documents"] for one in report_of(tmp_path / "out")["inputs"]] == [1, 1]


def test_memory_that_a_limit_counts_is_reported_next_to_resident_memory(tmp_path: Path) -> None:
    text = make_text(tmp_path / "a.txt", 100_000)
    done = prepare("--input", text, "--output-dir", tmp_path / "out")
    assert re.search(r"peak memory \d+(\.\d)? [MG]B, \d+(\.\d)? [MG]B with mapped files\n", done.stderr)
    made = report_of(tmp_path / "out")
    assert 0 < made["peak_own_bytes"] < made["peak_rss_bytes"]


def test_a_count_of_one_is_singular(tmp_path: Path) -> None:
    path = make_records(tmp_path / "a.jsonl", 1)
    done = prepare("--input", path, "--output-dir", tmp_path / "out")
    assert "\n1 document, the longest of" in done.stderr


@pytest.mark.parametrize("is_dry", [False, True])
def test_complete_output_of_other_options_is_refused_with_those_options(is_dry: bool, tmp_path: Path) -> None:
    text, more = make_text(tmp_path / "a.txt", 100_000), ["--dry-run"] if is_dry else []
    same: Args = ("--input", text, "--output-dir", tmp_path / "out")
    assert prepare(*same, "--val-ratio", "0.1").returncode == 0
    refused = prepare(*same, "--val-ratio", "0.2", *more)
    assert refused.returncode == 4
    assert (
        "holds complete output that does not match this run: --val-ratio was 0.1 and is 0.2. Run "
        in refused.stderr
    )
    assert prepare(*same, "--val-ratio", "0.1").returncode == 0  # the original options keep it
    assert prepare(*same, "--val-ratio", "0.2", "--overwrite").returncode == 0


def test_complete_output_of_another_text_or_size_is_refused_with_the_reason(
    tmp_path: Path,
) -> None:
    text = make_text(tmp_path / "a.txt", 100_000)
    same: Args = ("--input", text, "--output-dir", tmp_path / "out")
    assert prepare(*same).returncode == 0
    with (tmp_path / "out" / "val.bin").open("ab") as file:
        file.write(b"12")
    n_bytes = (tmp_path / "out" / "val.bin").stat().st_size
    refused = prepare(*same)
    assert refused.returncode == 4
    assert f"val.bin had {n_bytes - 2:,} bytes and has {n_bytes:,}" in refused.stderr
    make_text(text, 90_000)
    refused = prepare(*same)
    assert refused.returncode == 4
    assert f"{text} had 100,000 bytes and has 90,000" in refused.stderr


@pytest.mark.parametrize("more", [(), ("--format", "npy", "--shard-tokens", "10K")])
def test_complete_output_is_named_with_its_tokens_and_sizes(
    more: Args, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = make_text(tmp_path / "a.txt", 100_000)
    args: Args = ("--input", text, "--output-dir", tmp_path / "out", *more)
    first = prepare(*args)
    assert first.returncode == 0, first.stderr
    files = [
        line for line in first.stderr.splitlines() if re.match(r"\S+: [\d,]+ tokens, |.* shards: ", line)
    ]
    assert len(files) == 2
    lines = "\n".join(["already complete:", *files, "--overwrite makes it again", ""])
    assert lines in prepare(*args).stderr
    assert prepare(*args, "--dry-run").returncode == 0
    assert lines in capsys.readouterr().out
    many: Args = (*args, "--work-dir", tmp_path / "work", "--merge")
    assert lines in prepare(*many).stderr
