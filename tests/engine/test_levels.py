"""Priorities, queue policies and preferred batch sizes, with a clock of the test's own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdserver.configuration.model import ModelSpec, QueuePolicy
from pdserver.engine.levels import LevelQueue, is_needed
from pdserver.engine.queue import Call
from pdserver.errors import Overloaded
from pdserver.types import Request
from tests.engine.virtual import World, kinds


def spec(**settings: Any) -> ModelSpec:
    given: dict[str, Any] = {"batch_size": 4, "priority_levels": 2, "default_priority": 2, **settings}
    return ModelSpec(
        name="m", version="1", url="", directory="", handler="", manifest={}, model_config={}, min_workers=1,
        max_workers=1, **given,
    )  # fmt: skip


def call(arrived: float, priority: int = 0, rows: int = 1, timeout: float = 0.0) -> Call:
    return Call(Request("m", None, "id", [], rows=rows, priority=priority, timeout_seconds=timeout), arrived)


def fill(queue: LevelQueue, *calls: Call) -> list[Call]:
    for one in calls:
        queue.put(one)
    return list(calls)


def test_a_plain_model_has_the_plain_queue() -> None:
    plain: dict[str, Any] = {"priority_levels": 0, "default_priority": 0}
    assert not is_needed(spec(**plain))
    assert not is_needed(spec(**plain, queue_policy=QueuePolicy(allow_timeout_override=False)))
    assert is_needed(spec(**plain, queue_policy=QueuePolicy(timeout_seconds=1.0)))
    assert is_needed(spec())


def test_higher_priorities_go_first_and_equal_ones_in_order() -> None:
    queue = LevelQueue(spec(batch_size=2))
    low, default, high, higher_than_any = fill(queue, call(1, 2), call(2), call(3, 1), call(4, 7))
    assert queue.take(5) == [high, low]
    assert queue.take(5) == [default, higher_than_any]


def test_the_oldest_of_all_says_when_a_batch_leaves() -> None:
    queue = LevelQueue(spec(max_batch_delay_seconds=1.0))
    low, high = fill(queue, call(1, 2), call(1.9, 1))
    assert queue.due_at() == pytest.approx(2.0)
    assert queue.take(2.0) == [high, low]


def test_a_priority_has_a_limit_of_its_own() -> None:
    queue = LevelQueue(spec(priority_queue_policies={2: QueuePolicy(max_queue_size=1)}))
    fill(queue, call(1, 2), call(1, 1), call(1, 1))
    with pytest.raises(Overloaded, match=r"1 requests like this wait already \(queuePolicy.maxQueueSize\)"):
        queue.put(call(1, 2))


def test_one_that_waited_too_long_fails() -> None:
    queue = LevelQueue(spec(queue_policy=QueuePolicy(timeout_seconds=1.0)))
    late, lower_timeout, in_time = fill(queue, call(1), call(2, timeout=0.2), call(2, timeout=5))
    assert queue.take_expired(2.3) == [late, lower_timeout]
    assert queue.take(2.3) == [in_time]


def test_requests_cannot_ask_for_less_time_where_that_is_not_allowed() -> None:
    queue = LevelQueue(spec(queue_policy=QueuePolicy(allow_timeout_override=False)))
    one = fill(queue, call(1, timeout=0.1))
    assert queue.take(5) == one


def test_one_that_waited_too_long_is_put_off() -> None:
    policy = QueuePolicy(timeout_seconds=1.0, timeout_action="delay")
    queue = LevelQueue(spec(batch_size=2, queue_policy=policy))
    late, in_time, second, high = fill(queue, call(1), call(2.5), call(2.5), call(1, 1))
    assert queue.take(3) == [high, in_time]
    assert queue.take(3) == [second, late]
    assert len(queue) == 0


def test_a_preferred_size_does_not_wait_and_what_is_over_does() -> None:
    queue = LevelQueue(spec(batch_size=16, max_batch_delay_seconds=9.0, preferred_batch_sizes=(4, 8)))
    calls = fill(queue, *(call(1) for _ in range(3)))
    assert queue.take(1) == []
    calls += fill(queue, call(1), call(1))
    assert queue.take(1) == calls[:4]
    assert queue.take(1) == []
    assert queue.take(10) == calls[4:]


def test_rows_count_towards_a_preferred_size() -> None:
    queue = LevelQueue(spec(batch_size=16, max_batch_delay_seconds=9.0, preferred_batch_sizes=(4,)))
    calls = fill(queue, call(1, rows=3), call(1, rows=2))
    assert queue.take(1) == calls[:1]


@pytest.mark.parametrize(
    ("rows", "now", "taken"),
    [
        ([1] * 3, 1, []),
        ([1] * 3, 10, [3]),  # the delay is over: all that there is
        ([1] * 4, 1, [4]),
        ([1] * 7, 1, [4]),  # the others wait
        ([1] * 11, 1, [8]),
        ([1] * 6, 10, [6]),  # the delay is over: the largest batch, of no preferred size
        ([1] * 20, 10, [16, 4]),
        ([3, 3], 1, []),  # of no preferred size, and there is room for more
        ([3, 3, 3], 1, [6]),  # the third does not fit into the largest preferred size
        ([3, 5], 1, [8]),
        ([3, 1, 2], 1, [4]),
        ([10], 1, [10]),  # more than any
        ([10, 1], 1, [10]),
    ],
)
def test_batches_of_preferred_sizes_are_tritons(rows: list[int], now: float, taken: list[int]) -> None:
    queue = LevelQueue(spec(batch_size=16, max_batch_delay_seconds=9.0, preferred_batch_sizes=(4, 8)))
    fill(queue, *(call(1, rows=count) for count in rows))
    found = [sum(one.request.rows for one in queue.take(now)) for _ in range(len(rows))]
    assert [count for count in found if count] == taken


def test_without_a_delay_what_is_no_preferred_size_goes_too() -> None:
    queue = LevelQueue(spec(batch_size=16, max_batch_delay_seconds=0.0, preferred_batch_sizes=(4, 8)))
    calls = fill(queue, *(call(1) for _ in range(7)))
    assert queue.take(1, room=2) == calls[:4], "whatever a worker's share is"
    assert queue.take(1) == calls[4:]


def test_nor_in_the_plain_queue() -> None:
    w = World(min_workers=1, batch_size=1, queue_policy=QueuePolicy(allow_timeout_override=False))
    w.advance(0.1)
    w.backend.seconds = 1.0
    w.submit()
    w.submit(timeout_seconds=0.5)
    w.advance(3)
    assert kinds(w.oracle.calls) == ["ok", "ok"]
    w.close()


def test_the_time_to_wait_ends_when_a_worker_takes_it() -> None:
    w = World(min_workers=1, batch_size=1, queue_policy=QueuePolicy(timeout_seconds=0.5))
    w.advance(0.1)
    w.backend.seconds = 1.0
    w.submit()
    w.submit()
    w.advance(3)
    assert kinds(w.oracle.calls) == ["ok", "deadline"]
    w.close()


STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "take", "older", "expired", "cancel"]), st.floats(0, 0.6), st.integers(0, 3)),
    max_size=60,
)


@given(STEPS, st.sampled_from(["reject", "delay"]), st.sampled_from([(), (2,), (1, 3)]), st.sampled_from([0.0, 0.5]))
def test_every_request_leaves_exactly_once_and_none_before_a_higher_one(
    steps: list[tuple[str, float, int]], action: Any, preferred: tuple[int, ...], delay: float
) -> None:
    policies = {1: QueuePolicy(timeout_seconds=1.0, timeout_action=action, max_queue_size=5)}
    queue = LevelQueue(
        spec(
            priority_levels=3, default_priority=2, priority_queue_policies=policies, preferred_batch_sizes=preferred,
            max_batch_delay_seconds=delay,
        )
    )  # fmt: skip
    now = 0.0
    put: list[Call] = []
    left: list[Call] = []
    for step, pause, priority in steps:
        now += pause
        if step == "put":
            one = call(now, priority, rows=1 + priority % 2)
            try:
                queue.put(one)
            except Overloaded:
                continue
            put.append(one)
        elif step == "cancel" and put:
            put[-1].cancel()
        elif step == "older":
            left += queue.take_older_than(now - 3, now - 3)
        elif step == "expired":
            left += queue.take_expired(now)
        else:
            batch = queue.take(now)
            priorities = [one.request.priority or 2 for one in batch]
            assert priorities == sorted(priorities)
            left += batch + queue.expired
            queue.expired = []
        assert sum(queue._counts) == len(queue)
    left += queue.take_all()
    assert len(queue) == 0
    assert len({id(one) for one in left}) == len(left)
    gone = {id(one) for one in left}
    assert all(id(one) in gone or one.cancelled for one in put)
