"""The benchmark of speed fails if a threshold is missed, and names it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import throughput
from benchmarks.contest import Case, Ratio, Result, add_reference, has_reference_tokens, judge, run_in_turn
from benchmarks.parts import FULL, SHORT, Part
from benchmarks.strategies import BY_NAME, Strategy

OURS = Case(BY_NAME["gigatoken"], "prose", 100_000_000)
OTHER = Case(BY_NAME["stream"], "prose", 100_000_000)
RATIO = Ratio(OURS, OTHER, at_least=10)


def measured(
    case: Case, wall_s: Sequence[float], *, peak_bytes: int = 1, tokens: str = "a", failure: str = ""
) -> Result:
    n = len(wall_s)
    return Result(case, [*wall_s], [1.0] * n, [peak_bytes] * n, [tokens] * n, failure=failure)


def broken(results: Sequence[Result], reference: dict[tuple[str, int], str] | None = None) -> list[str]:
    return [one.sentence for one in judge([RATIO], results, reference or {}) if one.is_broken]


def test_a_ratio_that_is_reached_passes() -> None:
    assert broken([measured(OURS, [1, 9, 1]), measured(OTHER, [10, 10, 1])]) == []


def test_a_ratio_that_is_missed_is_reported_with_both_numbers() -> None:
    (sentence,) = broken([measured(OURS, [1, 1, 1]), measured(OTHER, [9, 9, 9])])
    assert "100.0 MB/s, 9.00 times the 11.1 MB/s" in sentence
    assert "at least 10.00 times" in sentence


def test_the_start_is_subtracted_from_both_if_it_was_measured() -> None:
    ratio = Ratio(OURS, OTHER, at_least=10, start_bytes=2000)
    results = [measured(OURS, [1.5, 1.5]), measured(OTHER, [10, 10])]
    starts = [measured(ratio.start(OURS), [0.5]), measured(ratio.start(OTHER), [1])]
    whole, loop = (judge([ratio], some, {})[0].sentence for some in (results, [*results, *starts]))
    assert "66.7 MB/s, 6.67 times the 10.0 MB/s" in whole
    assert whole.endswith("at least 10.00 times")
    assert "100.0 MB/s, 9.00 times the 11.1 MB/s" in loop
    assert loop.endswith("(round by round 9.00 to 9.00); at least 10.00 times, start-up taken off both")


def test_a_peak_over_the_bound_is_reported() -> None:
    (sentence,) = broken([measured(OURS, [1], peak_bytes=256_000_001)])
    assert "peak memory 256 MB; at most 256 MB" in sentence


def test_other_tokens_than_those_of_the_whole_file_are_reported_only_for_ours() -> None:
    reference: dict[tuple[str, int], str] = {}
    add_reference(reference, [measured(Case(BY_NAME["tiktoken"], *OURS.input), [1], tokens="b")])
    ours, other = measured(OURS, [1], tokens="a"), measured(OTHER, [10], tokens="a")
    assert not has_reference_tokens(other, reference)
    (sentence,) = broken([ours, other], reference)
    assert "its tokens are not those of the whole file" in sentence


def test_a_failure_is_reported_and_does_not_count_as_fast() -> None:
    (sentence,) = broken([measured(OURS, [], failure="exit code 1: no such engine"), measured(OTHER, [1])])
    assert "no such engine" in sentence


def test_strategies_take_turns_and_one_that_fails_is_not_run_again(tmp_path: Path) -> None:
    path = tmp_path / "input.txt"
    path.write_text("text")
    log = tmp_path / "log"

    def logging(name: str, code: int) -> Case:
        program = f"import sys; open({str(log)!r}, 'a').write({name!r}); sys.exit({code})"
        return Case(Strategy(name, name, ("-c", program)), "prose", 4)

    cases = [logging("a", 0), logging("b", 1), logging("c", 0)]
    *_, results = run_in_turn(cases, {("prose", 4): path}, n_rounds=2, scratch_dir=tmp_path)
    assert log.read_text() == "abcac"
    assert [len(result.wall_s) for result in results] == [2, 0, 2]
    assert results[1].failure == "exit code 1: no message"


def test_an_earlier_version_runs_from_its_checkout_and_is_skipped_without_one(tmp_path: Path) -> None:
    path = tmp_path / "input.txt"
    path.write_text("text")
    (tmp_path / "prepare.py").write_text(
        "import sys; print('an earlier version', file=sys.stderr); sys.exit(1)"
    )
    case = Case(BY_NAME["gigatoken-earlier"], "prose", 4)
    for earlier in (None, tmp_path):
        *_, (result,) = run_in_turn(
            [case], {case.input: path}, n_rounds=1, scratch_dir=tmp_path, earlier=earlier
        )
        assert result.skipped == ("" if earlier else "needs --earlier")
        assert result.failure == ("exit code 1: an earlier version" if earlier else "")


@pytest.mark.parametrize(
    "part", [*FULL.values(), *SHORT.values()], ids=[*FULL, *(f"{name}, short" for name in SHORT)]
)
def test_every_ratio_compares_cases_that_run(part: Part) -> None:
    assert len(set(part.cases)) == len(part.cases)
    assert {case for ratio in part.ratios for case in (ratio.ours, ratio.other)} <= {*part.cases}


def test_check_exits_1_if_a_threshold_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(throughput, "_run_part", lambda *_: judge([], [measured(OURS, [], failure="no")], {}))
    monkeypatch.setattr(throughput, "_compile", lambda: None)
    monkeypatch.setattr(throughput, "tables", lambda _: "")
    monkeypatch.setattr(throughput, "_read_record", lambda _: {"hard": {}})
    arguments = ["--part", "hard", "--short", "--corpus-dir", str(tmp_path)]
    assert throughput.main(arguments) == 0
    assert throughput.main([*arguments, "--check"]) == 1
    assert "BROKEN hard: prepare.py, gigatoken on 100 MB of prose: no" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--only", "pool"], ["--short"]])
def test_a_part_without_the_strategy_is_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        throughput.main(["--part", "memory", *arguments, "--corpus-dir", str(tmp_path)])
    assert "no such part has such a strategy" in capsys.readouterr().err
