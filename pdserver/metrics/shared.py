"""What a front end counts, in the page that it shares with the main process. So nothing is lost when it dies."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from typing import Protocol

import msgspec

from pdserver.metrics.counters import SECONDS_BOUNDS, Histogram
from pdserver.system.shared_page import COUNTED, STATE, SharedPage

BEAT_SECONDS = 0.1
_STATUSES = 1000
_LAGS = COUNTED + _STATUSES
_LAG_NANOSECONDS = _LAGS + len(SECONDS_BOUNDS) + 1
_BEAT, _CPU = STATE, STATE + 1


class Statuses(Protocol):
    """Answers by their status over HTTP."""

    def __getitem__(self, status: int, /) -> int: ...

    def __setitem__(self, status: int, count: int, /) -> None: ...


class FrontEndGauges(msgspec.Struct, frozen=True):
    """The current state of a front end."""

    number: int
    pid: int | None
    """None while there is none."""
    alive: bool
    """Whether it accepts clients."""
    restarts: int
    connections: int
    cpu_seconds: float


def own_statuses(page: SharedPage) -> Statuses:
    """Those that this process counts."""
    return page.own[COUNTED : COUNTED + _STATUSES]


def all_statuses(page: SharedPage) -> dict[int, int]:
    """Those that any process has counted."""
    counts = [page.total(COUNTED + status) for status in range(_STATUSES)]
    return {status: count for status, count in enumerate(counts) if count}


def all_lags(page: SharedPage) -> Histogram:
    """How late the front ends' event loops were, in seconds."""
    histogram = Histogram(SECONDS_BOUNDS)
    histogram.add([page.total(place) for place in range(_LAGS, _LAG_NANOSECONDS)], page.total(_LAG_NANOSECONDS) / 1e9)
    return histogram


async def beat(page: SharedPage) -> None:
    """Note ten times a second that the event loop runs, and how late it was. Runs until it is cancelled."""
    own = page.own
    while True:
        own[_BEAT], own[_CPU] = time.monotonic_ns(), time.process_time_ns()
        due = time.monotonic_ns() + int(BEAT_SECONDS * 1e9)
        await asyncio.sleep(BEAT_SECONDS)
        late = max(0, time.monotonic_ns() - due)
        own[_LAGS + bisect_left(SECONDS_BOUNDS, late / 1e9)] += 1
        own[_LAG_NANOSECONDS] += late


def last_beat(page: SharedPage, number: int) -> int:
    """When a front end has noted that it runs, in nanoseconds of the monotonic clock. 0 for one that has not begun."""
    return page.rows[number][_BEAT]


def cpu_seconds(page: SharedPage, number: int) -> float:
    """The CPU time that a front end has used."""
    return page.rows[number][_CPU] / 1e9
