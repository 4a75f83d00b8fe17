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
    may_be_replaced,
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


def test_workers_are_replaced_one_at_a_time() -> None:
    assert may_be_replaced([])
    assert may_be_replaced([S.READY, S.BUSY])
    for state in set(S) - SERVING:
        assert not may_be_replaced([S.READY, state])


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


EVENTS = st.lists(
    st.tuples(st.sampled_from(["dies", "dies", "dies late", "dies with the last", "answers"]), st.floats(0, 30)),
    max_size=40,
)


@given(EVENTS, st.integers(1, 6))
def test_a_crash_loop_is_so_many_deaths_in_a_window_without_an_answer(
    events: list[tuple[str, float]], most: int
) -> None:
    loop = CrashLoop(most, 60, 300)
    now = 0.0
    deaths: list[float] = []
    troubled = given_up = False
    for event, pause in events:
        now += pause
        if event == "answers":
            loop.answered()
            deaths, troubled, given_up = [], False, False
        elif event == "dies late":  # it had been well for longer than the window
            loop.died(now, now - 100, 61)
            deaths, troubled, given_up = [], False, False
        elif event == "dies with the last" and deaths:
            loop.died(now, deaths[-1] - 1, 1)
        else:
            loop.died(now, now, 0)
            deaths.append(now)
            troubled = True
            many = len(deaths) >= most and now - deaths[-most] <= 60
            given_up = given_up or many or now - deaths[0] > 300
        assert loop.open == given_up
        assert loop.troubled == troubled


def test_deaths_by_single_requests_open_it_only_after_long() -> None:
    loop = CrashLoop(5, 60, 300)
    for now in range(0, 301, 20):
        assert not loop.open
        loop.died(now, now - 1, 0.5, 1)
    loop.died(301, 300, 0.5, 1)
    assert loop.open


def test_deaths_that_requests_are_to_blame_for_do_not_count_unless_they_are_many() -> None:
    loop = CrashLoop(5, 60, 300)
    for now in range(20):
        loop.died(now, now - 0.5, 0.1)
        loop.died(now + 0.6, now + 0.5, 0.1, 2)
    assert not loop.open
    for now in range(20, 24):
        loop.died(now, now - 0.5, 0.1)
    assert not loop.open
    loop.died(24, 23.5, 0.1, 2)
    assert loop.open


def test_workers_that_die_together_are_one_event() -> None:
    loop = CrashLoop(5, 60, 300)
    for number in range(100):  # each a little later: they are heard of one by one
        loop.died(10 + number / 1000, number / 100, 1)
    assert not loop.open
    assert loop.troubled
    for generation in range(1, 5):  # those that took their places, and die together again
        assert not loop.open
        for number in range(100):
            loop.died(10 + generation + number / 1000, 9.5 + generation, 0)
    assert loop.open
