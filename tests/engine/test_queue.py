"""The batching rule, with a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdserver.engine.queue import BatchQueue, Call
from pdserver.errors import Overloaded
from pdserver.types import Part, Request


def call(arrived: float) -> Call:
    return Call(Request("m", None, "id", []), arrived)


def fill(queue: BatchQueue, *arrivals: float) -> list[Call]:
    calls = [call(arrived) for arrived in arrivals]
    for one in calls:
        queue.put(one)
    return calls


def test_without_a_delay_whatever_waits_leaves_at_once() -> None:
    queue = BatchQueue(batch_size=4, max_delay_seconds=0, capacity=10)
    calls = fill(queue, 1.0, 1.0)
    assert queue.take(1.0) == calls
    assert queue.take(1.0) == []


def test_a_full_batch_leaves_at_once_and_the_next_one_waits() -> None:
    queue = BatchQueue(batch_size=2, max_delay_seconds=5, capacity=10)
    calls = fill(queue, 1.0, 1.1, 1.2)
    assert queue.take(1.2) == calls[:2]
    assert queue.take(1.2) == []
    assert queue.due_at() == pytest.approx(6.2)


def test_a_batch_leaves_when_its_oldest_request_has_waited_the_delay_since_it_arrived() -> None:
    queue = BatchQueue(batch_size=4, max_delay_seconds=0.5, capacity=10)
    calls = fill(queue, 1.0, 1.4)
    assert queue.take(1.49) == []
    assert queue.take(1.5) == calls


def test_a_full_queue_refuses() -> None:
    queue = BatchQueue(batch_size=1, max_delay_seconds=0, capacity=2)
    fill(queue, 1.0, 1.0)
    with pytest.raises(Overloaded, match="job_queue_size"):
        queue.put(call(1.0))


def test_what_a_worker_died_with_goes_first_and_alone_and_is_never_refused() -> None:
    queue = BatchQueue(batch_size=4, max_delay_seconds=9, capacity=1)
    waiting = fill(queue, 2.0)
    first, second = call(1.0), call(1.0)
    queue.put_again([first, second], 2.0)
    assert queue.take(2.0) == [first]
    assert queue.take(2.0) == [second]
    assert queue.take(2.0) == []
    assert queue.take(11.0) == waiting


def test_a_worker_that_is_full_is_given_nothing_not_even_what_another_one_died_with() -> None:
    queue = BatchQueue(batch_size=2, max_delay_seconds=0, capacity=9)
    waiting, again = fill(queue, 1.0), [call(1.0)]
    assert queue.take(1.0, room=0) == []
    assert queue.take(1.0, held=2) == []
    queue.put_again(again, 1.0)
    assert queue.take(1.0, room=0) == []
    assert queue.take(1.0, held=2) == []
    assert queue.take(1.0, held=1) == []  # it would not be alone; and who waits behind it does not get past it
    assert queue.take(1.0) == again
    assert queue.take(1.0, held=1) == waiting


def test_requests_whose_client_is_gone_are_dropped_before_work() -> None:
    queue = BatchQueue(batch_size=2, max_delay_seconds=0, capacity=10)
    calls = fill(queue, 1.0, 1.0, 1.0)
    calls[0].cancel()
    assert queue.take(1.0) == calls[1:]


def test_who_leaves_gives_the_place_to_another() -> None:
    queue = BatchQueue(batch_size=1, max_delay_seconds=0, capacity=2)
    first, second = fill(queue, 1.0, 1.0)
    first.cancel()
    first.cancel()
    [third] = fill(queue, 1.0)
    assert len(queue) == queue.rows == 2
    assert queue.take(1.0) == [second]
    second.cancel()  # with a worker: there is no place of its own any more
    assert queue.take(1.0) == [third]
    assert len(queue) == queue.rows == 0


def test_who_leaves_gives_back_the_bytes() -> None:
    queue = BatchQueue(batch_size=1, max_delay_seconds=0, capacity=9, capacity_bytes=10)
    large = [Call(Request("m", None, "id", [Part("body", "", bytes(8))]), 1.0) for _ in range(2)]
    queue.put(large[0])
    with pytest.raises(Overloaded, match="job_queue_bytes"):
        queue.put(large[1])
    large[0].cancel()
    queue.put(large[1])


def test_take_older_than() -> None:
    queue = BatchQueue(batch_size=9, max_delay_seconds=9, capacity=10)
    calls = fill(queue, 1.0, 2.0, 3.0)
    assert queue.take_older_than(2.5, 0.0) == calls[:2]
    assert len(queue) == 1


Step = tuple[str, float]
STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "cancel", "take", "again", "expire"]), st.floats(0, 0.3)), max_size=60
)


@given(STEPS, st.integers(1, 5), st.sampled_from([0.0, 0.1, 1.0]), st.integers(1, 8))
def test_every_request_leaves_exactly_once_in_order_and_on_time(
    steps: list[Step], size: int, delay: float, capacity: int
) -> None:
    queue = BatchQueue(size, delay, capacity)
    now = 0.0
    put: list[Call] = []
    left: list[Call] = []
    again: list[Call] = []
    for step, pause in steps:
        now += pause
        if step == "put":
            one = call(now)
            try:
                queue.put(one)
            except Overloaded:
                assert len(queue) >= capacity
            else:
                put.append(one)
        elif step == "cancel" and len(put) > len(left):
            put[-1].cancel()
        elif step == "expire":
            left += queue.take_older_than(now - 0.5, now - 0.5)
        elif step in ("take", "again"):
            due = queue.due_at()
            batch = queue.take(now)
            assert len(batch) <= size
            assert not any(one.cancelled for one in batch)
            assert all(one.taken == now for one in batch)
            if batch:
                assert due is not None
                assert due <= now
            if batch and step == "again" and not any(one in again for one in batch):
                again += batch
                queue.put_again(batch, now)
            else:
                left += batch
    left += queue.take_all()
    assert len({id(one) for one in left}) == len(left)
    gone = {id(one) for one in left}
    assert all(id(one) in gone or one.cancelled for one in put)
    first_timers = [one.arrived for one in left if one not in again]
    assert first_timers == sorted(first_timers)
