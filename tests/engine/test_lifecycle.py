from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdserver.engine.crash_loop import CrashLoop
from pdserver.engine.lifecycle import (
    SERVING,
    TRANSITIONS,
    VersionState,
    WorkerState,
    backoff_seconds,
    check,
    may_be_relieved,
    probe_seconds,
    version_state,
)

S = WorkerState


def test_illegal_transitions_raise() -> None:
    for before, after in itertools.product(S, S):
        if after in TRANSITIONS[before]:
            assert check(before, after) is after
        else:
            with pytest.raises(RuntimeError, match=f"{before.value} to {after.value}"):
                check(before, after)


def test_every_state_leads_to_the_end() -> None:
    for state in S:
        reached = {state}
        while more := {after for before in reached for after in TRANSITIONS[before]} - reached:
            reached |= more
        assert S.DEAD in reached


@pytest.mark.parametrize(
    ("workers", "wanted", "state"),
    [
        ([], 0, VersionState.EMPTY),
        ([S.NEW, S.LOADING], 2, VersionState.LOADING),
        ([S.READY, S.BUSY], 2, VersionState.READY),
        ([S.READY, S.LOADING], 2, VersionState.DEGRADED),
        ([S.READY, S.FAILED], 2, VersionState.DEGRADED),
        ([S.FAILED, S.FAILED], 2, VersionState.FAILED),
        ([S.FAILED, S.LOADING], 2, VersionState.LOADING),
    ],
)
def test_a_versions_state_follows_from_its_workers(
    workers: list[WorkerState], wanted: int, state: VersionState
) -> None:
    assert version_state(workers, wanted, closing=False) is state
    assert version_state(workers, wanted, closing=True) is VersionState.UNLOADING


def test_a_version_that_was_given_up_has_failed_until_one_of_its_workers_serves() -> None:
    assert version_state([S.LOADING], 1, closing=False, given_up=True) is VersionState.FAILED
    assert version_state([S.READY, S.LOADING], 2, closing=False, given_up=True) is VersionState.DEGRADED


def test_workers_are_relieved_one_at_a_time() -> None:
    assert may_be_relieved([])
    assert may_be_relieved([S.READY, S.BUSY])
    for state in set(S) - SERVING:
        assert not may_be_relieved([S.READY, state])


@pytest.mark.parametrize("random", [0.0, 0.5, 0.99])
def test_the_first_failure_is_forgiven_and_further_ones_wait_longer_and_longer(random: float) -> None:
    waits = [backoff_seconds(failures, random) for failures in range(1, 20)]
    assert waits[0] == 0
    assert waits == sorted(waits)
    assert 2.5 < waits[-1] <= 5


def test_those_that_died_together_are_not_started_together() -> None:
    assert backoff_seconds(5, 0.1) != backoff_seconds(5, 0.9)
    assert (probe_seconds(30, 0.0), probe_seconds(30, 0.5)) == (22.5, 30)
    assert probe_seconds(30, 0.999) < 37.5


DEATHS = st.lists(st.tuples(st.sampled_from(["dies", "dies", "dies late", "answers"]), st.floats(0, 30)), max_size=40)


@given(DEATHS, st.integers(1, 6))
def test_a_crash_loop_is_so_many_deaths_in_a_window_without_an_answer(
    events: list[tuple[str, float]], most: int
) -> None:
    loop = CrashLoop(most, 60, 300)
    now = 0.0
    deaths: list[float] = []
    given_up = False
    for event, pause in events:
        now += pause
        if event == "answers":
            loop.answered()
            deaths, given_up = [], False
        else:
            if event == "dies late":  # it had been well for longer than the window
                deaths, given_up = [], False
            loop.died(now, 61 if event == "dies late" else 0)
            deaths.append(now)
            many = len(deaths) >= most and now - deaths[-most] <= 60
            given_up = given_up or many or now - deaths[0] > 300
        assert loop.open == given_up
        assert loop.troubled == bool(deaths)
