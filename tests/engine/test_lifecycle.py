from __future__ import annotations

import itertools

import pytest

from pdserver.engine.lifecycle import (
    TRANSITIONS,
    VersionState,
    WorkerState,
    backoff_seconds,
    check,
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


def test_the_first_failure_is_forgiven_and_further_ones_wait_longer_and_longer() -> None:
    waits = [backoff_seconds(failures, 0, 300) for failures in range(1, 20)]
    assert waits[0] == 0
    assert waits == sorted(waits)
    assert waits[-1] == 5


def test_what_fails_for_long_is_only_probed() -> None:
    assert backoff_seconds(50, 301, 300) == 30
    assert backoff_seconds(1, 1, 0) == 30
