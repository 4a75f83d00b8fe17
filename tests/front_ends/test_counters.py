"""What front ends count is one sum, and survives them."""

from __future__ import annotations

import asyncio
import contextlib
import time

from pdserver.metrics import shared
from pdserver.metrics.registry import Metrics
from tests.front_ends.pages import pages
from tests.test_metrics import value


def test_answers_of_all_processes_are_one_sum_also_of_those_that_died() -> None:
    main, one, two = pages(3)
    metrics = Metrics(page=main)
    metrics.http_responses[200] += 1
    for page in (one, two):
        statuses = shared.own_statuses(page)
        statuses[200] += 10
        statuses[503] += 2
    assert value(metrics, "pd_http_responses_total", status="200") == 21
    assert value(metrics, "Requests5XX") == 4
    main.bury(1)
    assert value(metrics, "pd_http_responses_total", status="200") == 21
    shared.own_statuses(one)[200] += 1  # its successor
    assert value(metrics, "pd_http_responses_total", status="200") == 22
    assert value(metrics, "Requests5XX") == 4


def test_a_front_end_notes_that_it_runs_and_how_late_it_is() -> None:
    main, one = pages(2)
    metrics = Metrics(page=main)
    assert shared.last_beat(main, 1) == 0, "it has not begun"

    async def run() -> None:
        beating = asyncio.create_task(shared.beat(one))
        while shared.all_lags(main).total < 0.2:
            await asyncio.sleep(shared.BEAT_SECONDS)
            time.sleep(0.3)  # noqa: ASYNC251 - nobody else runs meanwhile
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating

    asyncio.run(run())
    metrics.loop_lag_seconds.observe(50)
    assert value(metrics, "pd_event_loop_lag_seconds_sum") > 50.2
    assert shared.cpu_seconds(main, 1) > 0
    assert 0 < shared.last_beat(main, 1) < time.monotonic_ns()
    main.bury(1)
    assert shared.last_beat(main, 1) == 0
    assert value(metrics, "pd_event_loop_lag_seconds_sum") > 50.2, "what it has measured stays"


def test_nothing_of_front_ends_is_exposed_where_there_are_none() -> None:
    assert b"pd_front_end" not in Metrics().render()[0]
