"""The ends of documents travel with their tokens through the parts of a plan and into an index."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import tiktoken

from nanogpt_compat.cluster.parts import Parts
from nanogpt_compat.cluster.plan import Plan, make_plan
from nanogpt_compat.cluster.worker import run_span
from nanogpt_compat.config import Config
from nanogpt_compat.errors import SpansError
from nanogpt_compat.input.location import Format, Input
from nanogpt_compat.preflight.look import look_into
from nanogpt_compat.resume.counters import InputTally, Tally
from nanogpt_compat.text.documents import Documents
from tests.engines import Lists
from tests.test_documents import assert_same, expected_ends, expected_pair
from tests.texts import real_text

pytestmark = pytest.mark.costly

SEPARATOR = "\n--\n"


def make_parts(folder: Path, config: Config) -> Plan:
    """All parts of some documents, in spans of 20 kB."""
    inputs = [Input(folder / "text.txt", Format("text"))]
    plan = make_plan(look_into(config, inputs), span_bytes=20_000)
    for span in plan.spans:
        run_span(folder, plan, span, config, check=lambda: None)
    assert len(plan.spans) > 3
    return plan


def merge(folder: Path, plan: Plan, config: Config) -> Lists:
    sink = Lists()
    tally = Tally([InputTally() for _ in plan.inputs])
    Parts(folder, plan, config).copy_into(sink, tally, after_part=lambda: None, check=lambda: None)
    return sink


def some_config(folder: Path, eot: str) -> tuple[Config, str]:
    rng, prose = random.Random(3), real_text().decode()
    text = SEPARATOR.join(
        prose[start : start + rng.randrange(2_000)] for start in rng.sample(range(100_000), 200)
    )
    (folder / "text.txt").write_text(text, encoding="utf-8")
    config = Config(
        output_dir=folder,
        has_documents=True,
        val_ratio=0.3,
        val_split="documents",
        separator=SEPARATOR,
        eot=eot,
        engine="tiktoken",
        index=True,
    )
    return config, text


@pytest.mark.parametrize("eot", ["append", "prepend", "none"])
def test_parts_hand_the_ends_of_their_documents_to_the_merge(
    eot: str, tmp_path: Path, gpt2: tiktoken.Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, text = some_config(tmp_path, eot)
    plan = make_parts(tmp_path, config)
    documents = Documents(SEPARATOR, eot, plan.document_ratio)
    for chunk_bytes in (4 << 20, 1_000):
        monkeypatch.setattr("nanogpt_compat.cluster.parts._CHUNK_BYTES", chunk_bytes)
        monkeypatch.setattr("nanogpt_compat.output.ends._CHUNK_BYTES", 64)
        sink = merge(tmp_path, plan, config)
        assert_same(sink.pair(), expected_pair([text], documents, gpt2))
        assert sink.ends == expected_ends([text], documents, gpt2)


def test_parts_have_no_ends_unless_they_are_needed(tmp_path: Path) -> None:
    config, _ = some_config(tmp_path, "append")
    config = replace(config, index=False)
    plan = make_parts(tmp_path, config)
    assert not list(tmp_path.glob("parts-*/*.ends"))
    assert merge(tmp_path, plan, config).ends == {False: [], True: []}


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "longer"])
def test_damaged_ends_make_a_part_that_has_to_be_made_again(damage: str, tmp_path: Path) -> None:
    config, _ = some_config(tmp_path, "append")
    plan = make_parts(tmp_path, config)
    whole = merge(tmp_path, plan, config)
    path = next(tmp_path.glob("parts-*/00000002.*.train.bin.ends"))
    data = path.read_bytes()
    flipped = data[:8] + bytes([data[8] ^ 1]) + data[9:]
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"flipped": flipped, "cut": data[:-8], "longer": data + bytes(8)}[damage])
    with pytest.raises(SpansError, match="is missing or damaged; to make span 2 again"):
        merge(tmp_path, plan, config)
    run_span(tmp_path, plan, plan.spans[2], config, check=lambda: None)
    again = merge(tmp_path, plan, config)
    assert (again.ends, again.pair()[0].tolist()) == (whole.ends, whole.pair()[0].tolist())


def test_the_list_of_parts_names_the_files_with_the_ends(tmp_path: Path) -> None:
    config, _ = some_config(tmp_path, "append")
    plan = make_parts(tmp_path, config)
    listed = Parts(tmp_path, plan, config).files()
    assert {(tmp_path / one["ends"]["name"]).stat().st_size for one in listed} == {
        8 * one["ends"]["documents"] for one in listed
    }
    path = tmp_path / listed[0]["ends"]["name"]
    path.write_bytes(path.read_bytes() + bytes(8))
    with pytest.raises(SpansError, match="is missing or damaged"):
        Parts(tmp_path, plan, config).files()
