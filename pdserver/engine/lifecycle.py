"""The states of a worker and of a version, and which may follow which.

A worker      NEW → LOADING → READY ⇄ BUSY → STOPPING → DEAD; it can fail or die in any state before DEAD. A NEW one
              replaces a worker that failed, or that is due for replacement.
A version     is derived from its workers, never stored: `version_state` says how.

Pure: decisions only. An illegal transition raises and changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum


class WorkerState(str, Enum):
    NEW = "new"
    LOADING = "loading"
    READY = "ready"
    BUSY = "busy"
    STOPPING = "stopping"
    FAILED = "failed"
    """It could not load the model, or died; it is tried again after a while."""
    DEAD = "dead"


_S = WorkerState
TRANSITIONS: dict[WorkerState, frozenset[WorkerState]] = {
    _S.NEW: frozenset({_S.LOADING, _S.FAILED, _S.STOPPING}),
    _S.LOADING: frozenset({_S.READY, _S.FAILED, _S.STOPPING}),
    _S.READY: frozenset({_S.BUSY, _S.NEW, _S.FAILED, _S.STOPPING}),
    _S.BUSY: frozenset({_S.READY, _S.FAILED, _S.STOPPING}),
    _S.FAILED: frozenset({_S.NEW, _S.STOPPING}),
    _S.STOPPING: frozenset({_S.DEAD}),
    _S.DEAD: frozenset(),
}
SERVING = frozenset({_S.READY, _S.BUSY})


def check(before: WorkerState, after: WorkerState) -> WorkerState:
    """`after`, when it may follow `before`. Raises RuntimeError otherwise."""
    if after not in TRANSITIONS[before]:
        raise RuntimeError(f"a worker can't go from {before.value} to {after.value}")
    return after


class VersionState(str, Enum):
    EMPTY = "empty"
    """No workers are wanted."""
    LOADING = "loading"
    READY = "ready"
    DEGRADED = "degraded"
    """Served, by fewer workers than wanted."""
    FAILED = "failed"
    UNLOADING = "unloading"


def version_state(
    workers: Collection[WorkerState], wanted: int, *, closing: bool, given_up: bool = False
) -> VersionState:
    """The state of a version whose workers are in these states; `given_up`: they died again and again."""
    serving = sum(state in SERVING for state in workers)
    if closing:
        return VersionState.UNLOADING
    if wanted == 0:
        return VersionState.EMPTY
    if serving >= wanted:
        return VersionState.READY
    if serving:
        return VersionState.DEGRADED
    if given_up or (_S.FAILED in workers and not any(state in (_S.NEW, _S.LOADING) for state in workers)):
        return VersionState.FAILED
    return VersionState.LOADING


def may_be_replaced(others: Collection[WorkerState]) -> bool:
    """Whether a worker may be replaced now, by the states of the version's others: one at a time."""
    return all(state in SERVING for state in others)


def backoff_seconds(failures: int, random: float) -> float:
    """How long to wait before a worker is started again, after so many failures in a row (1: the first).

    At once after the first, then longer and longer, up to 5 s; `random` in [0, 1) takes up to half of it off, so that
    workers that died together are not started together.
    """
    return 0.0 if failures <= 1 else min(5.0, 0.1 * 2.0 ** (failures - 1)) * (1 - random / 2)


def probe_seconds(interval_seconds: float, random: float) -> float:
    """How long to wait before a worker of a version that was given up is tried, a quarter more or less."""
    return interval_seconds * (0.75 + random / 2)
