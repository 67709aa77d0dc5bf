"""The memory policy as tables and properties, without real figures."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_compat.memory import policy
from nanogpt_compat.memory.policy import LADDER, Level, Reading, Reserves, State, Step

MIB, GIB, MB, GB = 1 << 20, 1 << 30, 10**6, 10**9


def reading(
    headroom_bytes: int,
    *,
    limit_bytes: int = 4 * GIB,
    flushable_bytes: int = 0,
    advisory: bool = False,
    floor_bytes: int | None = None,
    name: str = "cgroup memory.max",
) -> Reading:
    return Reading(
        name,
        "a test",
        limit_bytes,
        limit_bytes - headroom_bytes,
        flushable_bytes,
        advisory=advisory,
        floor_bytes=floor_bytes,
    )


# With a limit of 4 GiB the reserves are 256, 768 and 960 MiB.
ABORTS, THROTTLES, BETWEEN, CALM = (reading(n * MIB) for n in (255, 767, 959, 960))


def run(rounds: Sequence[Sequence[Reading]], *, every_s: float = 0.5) -> list[tuple[Level, Step | None]]:
    """Judge rounds of readings one after another and return the level and the step of each."""
    state, judged = State(), []
    for n, readings in enumerate(rounds):
        state, step = policy.decide(readings, state, 1000 + n * every_s)
        judged.append((state.level, step))
    return judged


def levels(rounds: Sequence[Sequence[Reading]], *, every_s: float = 0.5) -> list[Level]:
    return [level for level, _ in run(rounds, every_s=every_s)]


# Reserves


@pytest.mark.parametrize(
    ("limit_bytes", "abort_bytes", "throttle_bytes"),
    [
        (100 * MB, 15 * MB, 30 * MB),
        (300 * MB, 45 * MB, 90 * MB),
        (1000 * MB, 150 * MB, 300 * MB),
        (2 * GIB, 256 * MIB, 30 * 2 * GIB // 100),
        (4 * GIB, 256 * MIB, 768 * MIB),
        (8 * GB, 400 * MB, 960 * MB),
        (15 * GB, 512 * MIB, 1800 * MB),
        (24 * GB, 512 * MIB, 2 * GIB),
        (1000 * GB, 512 * MIB, 2 * GIB),
    ],
)
def test_the_reserves_are_those_of_the_table(limit_bytes: int, abort_bytes: int, throttle_bytes: int) -> None:
    found = policy.reserves_for(reading(0, limit_bytes=limit_bytes))
    assert found == Reserves(abort_bytes, throttle_bytes, throttle_bytes * 5 // 4)


@given(st.integers(0, 1 << 50))
def test_the_reserves_of_any_limit_are_in_order_and_leave_room(limit_bytes: int) -> None:
    found = policy.reserves_for(reading(0, limit_bytes=limit_bytes))
    assert 0 <= found.abort_bytes <= found.throttle_bytes <= found.recover_bytes <= limit_bytes * 3 // 8


@given(st.integers(0, 1 << 45), st.integers(0, 1 << 45))
def test_min_available_moves_the_zones_and_keeps_their_width(limit_bytes: int, floor_bytes: int) -> None:
    usual = policy.reserves_for(reading(0, limit_bytes=limit_bytes))
    moved = policy.reserves_for(reading(0, limit_bytes=limit_bytes, floor_bytes=floor_bytes))
    assert moved.abort_bytes == floor_bytes
    assert moved.throttle_bytes - moved.abort_bytes == usual.throttle_bytes - usual.abort_bytes
    assert moved.recover_bytes - moved.abort_bytes == usual.recover_bytes - usual.abort_bytes


# Levels


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        ([[CALM]], Level.OK),
        ([[BETWEEN]], Level.OK),
        ([[THROTTLES]], Level.THROTTLE),
        ([[ABORTS]], Level.THROTTLE),
        ([[ABORTS], [ABORTS]], Level.ABORT),
        ([[ABORTS], [CALM], [ABORTS]], Level.THROTTLE),
        ([[ABORTS], [THROTTLES], [ABORTS]], Level.THROTTLE),
        ([[ABORTS], [ABORTS], [CALM]], Level.ABORT),
        ([[THROTTLES], [BETWEEN]], Level.THROTTLE),
        ([[THROTTLES], [CALM]], Level.THROTTLE),
        ([[CALM, CALM], [CALM, THROTTLES]], Level.THROTTLE),
        ([[ABORTS, CALM], [CALM, ABORTS]], Level.ABORT),
        ([[ABORTS], []], Level.THROTTLE),
        ([[]], Level.OK),
    ],
)
def test_the_level_follows_the_table(rounds: list[list[Reading]], expected: Level) -> None:
    assert levels(rounds)[-1] is expected


def test_calm_for_five_seconds_and_no_less_returns_to_ok() -> None:
    found = levels([[THROTTLES], *[[CALM]] * 11])
    assert found == [Level.THROTTLE] * 11 + [Level.OK]


def test_interrupted_calm_starts_over_after_the_interruption() -> None:
    found = levels([[THROTTLES], *[[CALM]] * 10, [BETWEEN], *[[CALM]] * 11])
    assert found == [Level.THROTTLE] * 22 + [Level.OK]


def test_one_limit_that_is_not_calm_is_enough_to_stay_throttled() -> None:
    assert set(levels([[THROTTLES, CALM], *[[BETWEEN, CALM]] * 100])) == {Level.THROTTLE}


def test_dirty_pages_throttle_and_do_not_abort() -> None:
    dirty = reading(-100 * MIB, flushable_bytes=356 * MIB)
    assert set(levels([[dirty]] * 20)) == {Level.THROTTLE}
    too_few = reading(-100 * MIB, flushable_bytes=355 * MIB)
    assert levels([[too_few]] * 2)[-1] is Level.ABORT


def test_advice_throttles_and_does_not_abort() -> None:
    assert set(levels([[reading(0, advisory=True)]] * 20)) == {Level.THROTTLE}


def test_the_deciding_reading_is_known() -> None:
    near = reading(300 * MIB, name="near")
    first, _ = policy.decide([CALM, near, THROTTLES], State(), 0)
    assert first.cause is not None
    assert first.cause.name == "near"
    low, lower = reading(200 * MIB, name="low"), reading(100 * MIB, name="lower")
    advice = reading(0, name="advice", advisory=True)
    state = State()
    for now_s in (0, 1):
        state, _ = policy.decide([low, lower, advice, CALM], state, now_s)
    assert state.cause is not None
    assert (state.level, state.cause.name) == (Level.ABORT, "lower")


READINGS = st.builds(
    reading,
    st.integers(-GIB, 3 * GIB),
    limit_bytes=st.integers(MIB, 8 * GIB),
    flushable_bytes=st.integers(0, GIB),
    advisory=st.booleans(),
    floor_bytes=st.none() | st.integers(0, GIB),
)
ROUNDS = st.lists(st.tuples(st.floats(0.05, 2), st.lists(READINGS, max_size=3)), max_size=60)


def is_low(readings: Sequence[Reading]) -> bool:
    return any(policy.margin_bytes(one) < 0 and not one.advisory for one in readings)


@given(ROUNDS)
def test_the_rules_of_the_levels_hold_for_any_readings(rounds: list[tuple[float, list[Reading]]]) -> None:
    state, now_s, history = State(), 0.0, list[tuple[float, list[Reading]]]()
    last_step_s = float("-inf")
    for wait_s, readings in rounds:
        now_s += wait_s
        history.append((now_s, readings))
        before = state
        state, step = policy.decide(readings, state, now_s)
        abort_due = len(history) > 1 and is_low(readings) and is_low(history[-2][1])
        assert (state.level is Level.ABORT) == (before.level is Level.ABORT or abort_due)
        if before.level is Level.THROTTLE and state.level is Level.OK:
            calm = [list_ for at_s, list_ in history if at_s >= now_s - policy.HOLD_S + 1e-6]
            assert all(
                one.headroom_bytes >= policy.reserves_for(one).recover_bytes
                for list_ in calm
                for one in list_
            )
        if before.level is Level.OK and state.level is Level.THROTTLE:
            assert any(one.headroom_bytes < policy.reserves_for(one).throttle_bytes for one in readings)
            assert step is Step.FLUSH
        elif step is not None:
            assert state.level is Level.THROTTLE
            assert now_s - last_step_s >= policy.STEP_EVERY_S - 1e-6
        last_step_s = last_step_s if step is None else now_s
        assert 0 <= state.n_halvings <= policy.MAX_HALVINGS


@given(ROUNDS)
def test_the_level_changes_at_most_twice_in_five_seconds(rounds: list[tuple[float, list[Reading]]]) -> None:
    state, now_s, n_changes = State(), 0.0, 0
    for wait_s, readings in rounds:
        now_s += wait_s
        before = state
        state, _ = policy.decide(readings, state, now_s)
        n_changes += state.level is not before.level
    assert n_changes <= 2 + 2 * now_s / policy.HOLD_S


# Steps


def test_throttling_takes_one_step_a_second_down_the_ladder_and_then_continues() -> None:
    judged = run([[THROTTLES]] * 200, every_s=0.25)
    steps = [(n * 0.25, step) for n, (_, step) in enumerate(judged) if step is not None]
    assert steps[: len(LADDER)] == [(float(n), step) for n, step in enumerate(LADDER)]
    later = [step for _, step in steps[len(LADDER) :]]
    assert later[:4] == [Step.FLUSH, Step.DROP_CACHES, Step.FLUSH, Step.DROP_CACHES]
    assert len(later) == 4  # in 50 s: every ten seconds
    assert {level for level, _ in judged} == {Level.THROTTLE}


def test_between_the_reserves_no_step_is_taken() -> None:
    assert [step for _, step in run([[THROTTLES], *[[BETWEEN]] * 100]) if step] == [Step.FLUSH]


def test_a_second_throttling_begins_at_the_gentlest_step() -> None:
    rounds = [*[[THROTTLES]] * 8, *[[CALM]] * 11, [THROTTLES]]
    assert run(rounds)[-1] == (Level.THROTTLE, Step.FLUSH)


def test_halvings_are_undone_one_doubling_at_a_time() -> None:
    state, now_s, halvings = State(), 0.0, list[int]()
    for readings in ([THROTTLES],) * 10 + ([CALM],) * 60:
        now_s += 0.5
        state, _ = policy.decide(readings, state, now_s)
        halvings.append(state.n_halvings)
    assert max(halvings) == 3
    given_back = [n for n in range(1, len(halvings)) if halvings[n] < halvings[n - 1]]
    assert [later - earlier for earlier, later in pairwise(given_back)] == [10, 10]
    assert halvings[-1] == 0


@given(
    limit_bytes=st.integers(200 * MB, 64 * GB),
    others=st.lists(st.floats(0, 1), min_size=1, max_size=3),
    floor=st.none() | st.floats(0, 1),
)
def test_our_own_use_never_makes_the_level_flap(
    limit_bytes: int, others: list[float], floor: float | None
) -> None:
    """The level settles after others take memory and keep it: at most one change for each of their moves."""
    floor_bytes = None if floor is None else int(floor * limit_bytes)
    free = reading(limit_bytes, limit_bytes=limit_bytes, floor_bytes=floor_bytes)
    budget_bytes = policy.default_budget([free], smallest_bytes=0)
    state, now_s = State(), 0.0
    for share in others:
        changes = 0
        for _ in range(400):
            now_s += 0.25
            ours_bytes = budget_bytes >> state.n_halvings
            left = replace(free, used_bytes=int(share * limit_bytes) + ours_bytes)
            before = state
            state, _ = policy.decide([left], state, now_s)
            changes += state.level is not before.level
        assert changes <= 1 or state.level is Level.ABORT


# Polling and budget


@pytest.mark.parametrize(
    ("headroom_bytes", "delay_s"),
    [
        (-GIB, 0.05),
        (256 * MIB - 1, 0.05),
        (256 * MIB, 0.1),
        (256 * MIB + 3 * GIB // 2, 0.25),
        (3400 * MIB, 0.5),
        (4 * GIB, 0.5),
    ],
)
def test_polls_come_faster_the_less_is_left(headroom_bytes: int, delay_s: float) -> None:
    assert policy.poll_delay_s([reading(headroom_bytes)]) == pytest.approx(delay_s, rel=0.03)
    assert policy.poll_delay_s([CALM, reading(headroom_bytes)]) <= 0.5


def test_without_readings_polls_continue() -> None:
    assert policy.poll_delay_s([]) == 0.5


@pytest.mark.parametrize(
    ("limit_bytes", "free_bytes", "budget_bytes"),
    [
        (24 * GIB, 23 * GIB, GIB),  # the gap between 2 and 2.5 GiB, twice
        (16 * GB, 8 * GB, 500 * MB),  # a desktop with a browser: a sixteenth
        (4 * GIB, 4 * GIB - 90 * MB, (4 * GIB - 90 * MB) // 16),
        (512 * MB, 420 * MB, 64 * MIB),
        (300 * MB, 210 * MB, 45 * MB),
        (200 * MB, 120 * MB, 32 * MIB),  # the smallest, though 30 MB would be kinder
    ],
)
def test_the_default_budget_is_that_of_the_table(
    limit_bytes: int, free_bytes: int, budget_bytes: int
) -> None:
    assert policy.default_budget([reading(free_bytes, limit_bytes=limit_bytes)]) == budget_bytes


def test_the_default_budget_is_capped_if_more_will_not_help() -> None:
    plenty = [reading(23 * GIB, limit_bytes=24 * GIB)]
    assert policy.default_budget(plenty, most_bytes=64 * MB) == 64 * MB
    assert policy.default_budget([], most_bytes=64 * MB) == 64 * MB
    assert policy.default_budget([]) == 64 * MIB


@given(st.lists(READINGS, max_size=3))
def test_the_default_budget_leaves_us_ok_or_is_the_smallest(readings: list[Reading]) -> None:
    budget_bytes = policy.default_budget(readings)
    assert policy.SMALLEST_BYTES <= budget_bytes <= GIB
    if budget_bytes > policy.SMALLEST_BYTES:
        used = [replace(one, used_bytes=one.used_bytes + budget_bytes) for one in readings]
        assert policy.decide(used, State(), 0)[0].level is Level.OK


def test_no_readings_have_no_tightest() -> None:
    assert policy.tightest([]) is None
    assert policy.tightest([CALM, ABORTS, THROTTLES]) is ABORTS
