"""The states of a worker and of a version, and which may follow which.

A worker      NEW → LOADING → READY ⇄ BUSY → STOPPING → DEAD; it can fail or die from any state before DEAD.
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
    _S.READY: frozenset({_S.BUSY, _S.FAILED, _S.STOPPING}),
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


def version_state(workers: Collection[WorkerState], wanted: int, *, closing: bool) -> VersionState:
    """The state of a version whose workers are in these states."""
    serving = sum(state in SERVING for state in workers)
    if closing:
        return VersionState.UNLOADING
    if wanted == 0:
        return VersionState.EMPTY
    if serving >= wanted:
        return VersionState.READY
    if serving:
        return VersionState.DEGRADED
    if _S.FAILED in workers and not any(state in (_S.NEW, _S.LOADING) for state in workers):
        return VersionState.FAILED
    return VersionState.LOADING


def backoff_seconds(failures: int, failing_seconds: float, max_retry_seconds: float) -> float:
    """How long to wait before a worker is started again, after so many failures in a row (1: the first).

    Longer and longer, up to 5 s; and 30 s once it has failed for `max_retry_seconds`, to see whether it has healed.
    """
    if failing_seconds > max_retry_seconds:
        return 30.0
    return 0.0 if failures <= 1 else min(5.0, 0.1 * 2.0 ** (failures - 1))
