"""The pool with a clock of the test's own: what becomes of requests when workers die, hang, grow old or do not load."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterator
from typing import Any

import pytest

from pdserver.engine.dispatch import Dispatch
from pdserver.engine.queue import BatchQueue
from pdserver.errors import Conflict, Kind, LoadFailed
from pdserver.types import Failure, Outcome, Reply, Request
from tests.engine.virtual import FakeBackend, SeenCall, World, kinds


@pytest.fixture
def worlds() -> Iterator[list[World]]:
    made: list[World] = []
    yield made
    for world in made:
        world.close()
        assert not world.backend.alive


def world(worlds: list[World], **settings: Any) -> World:
    made = World(**settings)
    worlds.append(made)
    made.advance(0.1)
    return made


def state(w: World) -> str:
    return w.pool.state.value


def is_given_up(w: World) -> bool:
    return "CrashLoop open" in repr(w.pool)


def failure(call: SeenCall | None) -> Failure:
    assert call is not None
    [outcome] = call.settled
    assert isinstance(outcome, Failure)
    return outcome


def test_the_neighbours_of_a_killer_get_their_answers(worlds: list[World]) -> None:
    w = world(worlds, min_workers=1, max_batch_delay_seconds=0.05)
    calls = [w.submit(op) for op in ("", "die", "")]
    w.advance(2)
    assert kinds(w.oracle.calls) == ["ok", "worker_died", "ok"]
    assert "exited with status 3" in failure(calls[1]).message
    assert w.metrics.retried == 3
    w.oracle.check_end()


def test_the_neighbours_of_one_who_hangs_get_their_answers(worlds: list[World]) -> None:
    w = world(worlds, min_workers=1, max_batch_delay_seconds=0.05)
    calls = [w.submit(op) for op in ("hang", "", "")]
    w.advance(10)
    assert kinds(w.oracle.calls) == ["deadline", "ok", "ok"]
    assert "responseTimeout" in failure(calls[0]).message
    w.oracle.check_end()


def test_the_engines_are_those_of_the_workers_that_serve(worlds: list[World]) -> None:
    """Another worker may run the model by another one."""
    w = world(worlds, min_workers=2)

    def engines() -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
        [gauges] = w.pool.gauges()
        return [tuple(one.name for one in worker.engines) for worker in w.pool.details().workers], gauges.engines

    assert engines() == ([("paddle",), ("paddle",)], ("paddle",))
    w.backend.engine = "openvino"
    w.kill(0)
    w.advance(0)
    assert engines()[1] == ("paddle",)
    w.advance(5)
    assert sorted(engines()[0]) == [("openvino",), ("paddle",)]
    assert sorted(engines()[1]) == ["openvino", "paddle"]
    w.kill(0)
    w.kill(1)
    w.advance(5)
    assert engines() == ([("openvino",), ("openvino",)], ("openvino",))


def fast_world(worlds: list[World], **settings: Any) -> World:
    """One worker whose model takes a millisecond, and has shown it."""
    w = world(worlds, min_workers=1, batch_size=3, **{"handler": "base_handler"} | settings)
    w.backend.seconds = 0.001
    w.submit()
    w.advance(0.1)
    return w


def test_a_fast_worker_has_its_next_batch_before_it_has_answered(worlds: list[World]) -> None:
    w = fast_world(worlds)
    [slot] = w.pool.slots
    sizes = []
    for _ in range(6):
        w.submit()
        w.advance(0)
        sizes.append([len(batch) for batch in slot.batches])
    assert sizes == [[1], [1, 1], [1, 1], [1, 1], [1, 1], [1, 1]]
    w.advance(0.001)
    assert [len(batch) for batch in slot.batches] == [1, 3]
    w.advance(0.001)
    assert [len(batch) for batch in slot.batches] == [3], "one that is smaller waits for company"
    assert len(w.pool.queue) == 1
    w.advance(0.1)
    assert set(kinds(w.oracle.calls)) == {"ok"}
    w.oracle.check_end()


@pytest.mark.parametrize(("seconds", "handler"), [(0.01, "base_handler"), (0.001, "handler.py")])
def test_a_slow_worker_and_one_that_may_be_slow_next_have_one_batch(
    worlds: list[World], seconds: float, handler: str
) -> None:
    w = fast_world(worlds, handler=handler)
    w.backend.seconds = seconds
    w.submit()
    w.advance(0.1)
    [slot] = w.pool.slots
    for _ in range(9):
        w.submit()
        w.advance(0)
    assert [len(batch) for batch in slot.batches] == [1]


def test_a_batch_that_a_dead_worker_had_not_begun_is_not_blamed(worlds: list[World]) -> None:
    w = fast_world(worlds, retry_on_worker_death=False)
    [slot] = w.pool.slots
    first = w.submit("hang")
    w.advance(0)
    second = w.submit()
    w.advance(0)
    assert len(slot.batches) == 2
    w.kill(0)
    w.advance(5)
    assert failure(first).kind is Kind.WORKER_DIED
    assert second
    assert len(second.runs) == 1
    assert isinstance(second.settled[0], Reply)
    w.oracle.check_end()


def test_the_neighbours_of_an_answer_that_cannot_be_written_get_theirs(
    worlds: list[World], monkeypatch: pytest.MonkeyPatch
) -> None:
    w = world(worlds, min_workers=1, max_batch_delay_seconds=0.05)
    calls = [w.submit(op) for op in ("", "", "")]
    broken, settle = calls[1], SeenCall.settle

    def settled(call: SeenCall, outcome: Outcome) -> None:
        if call is broken and isinstance(outcome, Reply):
            raise UnicodeEncodeError("latin-1", "\u2603", 0, 1, "a snowman in a header")
        settle(call, outcome)

    monkeypatch.setattr(SeenCall, "settle", settled)
    w.advance(2)
    assert kinds(w.oracle.calls) == ["ok", "handler", "ok"]
    assert failure(broken).message == "the answer could not be written: UnicodeEncodeError"
    w.oracle.check_end()


def test_what_a_worker_died_with_joins_no_batch_that_goes_on_step_by_step(worlds: list[World]) -> None:
    w = world(worlds, batch_size=3, max_batch_delay_seconds=0.05, continuous_batching=True)
    until = w.loop.time() + 2.0

    def step(requests: list[Request]) -> list[Outcome]:
        goes_on = "true" if w.loop.time() < until else "false"
        return [
            Reply(b"", "", headers=[("ts_stream_next", goes_on if r.path == "long" else "false")]) for r in requests
        ]

    w.backend.answers = step  # type: ignore[method-assign]
    long = [w.submit("long") for _ in range(2)]
    w.advance(0.104)  # between two steps: the worker that is idle gets it
    killer = w.submit("die")
    w.backend.load_seconds = 0.3
    w.advance(0.4)  # the worker that has died twice loads
    after = w.submit("long")
    w.advance(4)
    assert kinds(w.oracle.calls) == ["ok", "ok", "worker_died", "ok"]
    assert [len(call.runs) for call in (killer,) if call] == [2]
    assert all(call and call.settled_at < math.inf for call in (*long, after))
    assert max(w.oracle.batches) == 2 + 1  # `after` joined those that went on


def test_what_must_not_run_twice_does_not(worlds: list[World]) -> None:
    w = world(worlds, min_workers=1, max_batch_delay_seconds=0.05, retry_on_worker_death=False)
    calls = [w.submit(op) for op in ("", "die")]
    w.advance(2)
    assert kinds(w.oracle.calls) == ["worker_died", "worker_died"]
    assert "retryOnWorkerDeath" in failure(calls[0]).message
    w.oracle.check_end()


def test_a_deadline_passes_in_the_queue_and_it_is_not_run(worlds: list[World]) -> None:
    w = world(worlds, min_workers=1, batch_size=1)
    w.backend.seconds = 1.0
    first, second, third = w.submit(), w.submit(timeout_seconds=0.5), w.submit()
    w.advance(0.8)
    assert kinds(w.oracle.calls) == ["", "deadline", ""]
    w.advance(3)
    assert second is not None
    assert second.runs == []
    assert kinds(w.oracle.calls) == ["ok", "deadline", "ok"]
    assert first is not None
    assert third is not None


def test_a_deadline_passes_in_the_handler_and_only_that_one_is_told(worlds: list[World]) -> None:
    w = world(worlds, min_workers=1, max_batch_delay_seconds=0.05)
    w.backend.seconds = 1.0
    for timeout in (0.5, 0.0):
        w.submit(timeout_seconds=timeout)
    w.advance(0.8)
    assert kinds(w.oracle.calls) == ["deadline", ""]
    w.advance(1)
    assert kinds(w.oracle.calls) == ["deadline", "ok"]
    assert w.pool.restarts == 0, "the worker has done nothing wrong"
    w.oracle.check_end()
    assert (w.metrics.succeeded, w.metrics.failed[Kind.DEADLINE]) == (1, 1)


def test_a_crash_loop_is_given_up_says_why_and_heals(worlds: list[World]) -> None:
    w = world(worlds, min_workers=1)
    w.backend.broken = True
    w.kill(0)
    waiting = w.submit()
    while w.pool.restarts < 5:
        w.advance(0.1)
    assert "it is broken" in failure(waiting).message
    assert state(w) == "failed"
    spawned = w.backend.spawned
    w.advance(3.6)  # of at least 3.75, of which up to 0.1 have passed
    assert w.backend.spawned == spawned, "it is left alone before the probe"
    w.advance(3)
    assert w.backend.spawned == spawned + 1
    assert w.submit() is None
    w.backend.broken = False
    w.advance(7)
    assert state(w) == "ready"
    w.submit()
    w.advance(1)
    assert kinds(w.oracle.calls)[-1] == "ok"
    w.oracle.check_end()


def test_workers_that_die_on_their_first_request_are_a_crash_loop_too(worlds: list[World]) -> None:
    w = world(worlds, min_workers=1)
    for _ in range(2):
        w.submit("die")
        w.advance(1)
    assert w.submit("die") is not None
    w.advance(1)
    assert w.submit() is None, "given up after five"
    assert w.pool.restarts == 5
    w.advance(7)
    w.submit()
    w.advance(1)
    assert kinds(w.oracle.calls)[-1] == "ok", "one that answers is enough"
    w.submit("die")
    w.advance(1)
    assert state(w) == "ready"


@pytest.mark.parametrize("op", ["die", "hang"])
@pytest.mark.parametrize("first", [0, 17, 90])
@pytest.mark.parametrize("batch_size", [1, 8, 32])
def test_many_deadly_requests_take_no_others_along(worlds: list[World], op: str, first: int, batch_size: int) -> None:
    """Ten in a row among a hundred, by one worker: nobody answers anything between their deaths."""
    w = world(worlds, min_workers=1, batch_size=batch_size, queue_size=200, response_timeout_seconds=20.0)
    w.submit()
    w.advance(1)
    calls = [w.submit(op if first <= number < first + 10 else "") for number in range(100)]
    for _ in range(300):
        w.advance(0.1 if op == "die" else 1)  # workers are started again at once
        assert not is_given_up(w)
    if op == "die":
        lost = [number for number, call in enumerate(calls) if call and isinstance(call.settled[0], Failure)]
        assert lost == [*range(first, first + 10)]
    w.oracle.check_end()


def test_deadly_requests_before_any_answer_let_others_go_first(worlds: list[World]) -> None:
    w = world(worlds, min_workers=1, batch_size=8, queue_size=200)
    for number in range(100):
        w.submit("die" if number < 5 else "")
    w.advance(30)
    assert kinds(w.oracle.calls) == ["worker_died"] * 5 + ["ok"] * 95
    assert state(w) == "ready"


def test_workers_that_die_of_every_request_are_given_up_though_others_have_answered(worlds: list[World]) -> None:
    w = world(worlds, min_workers=1, batch_size=8, queue_size=200)
    w.submit()
    w.advance(1)
    for _ in range(100):
        w.submit("die")
    while not is_given_up(w):
        w.advance(0.1)
    assert w.pool.restarts <= 50
    assert all(call.settled for call in w.oracle.calls.values()), "at once"


def test_workers_that_answer_are_no_crash_loop_however_often_they_are_killed(worlds: list[World]) -> None:
    w = world(worlds)
    for number in range(50):
        assert w.submit() is not None
        w.advance(0.3)
        w.kill(number)
        w.advance(0.7)
    assert kinds(w.oracle.calls) == ["ok"] * 50


def test_workers_that_die_together_are_no_crash_loop(worlds: list[World]) -> None:
    w = world(worlds, min_workers=8, max_workers=8)
    for _ in range(4):
        for _ in range(8):
            w.kill(0)
        assert w.submit() is not None, "it is served as soon as one of them is back"
        w.advance(0.02)
        assert state(w) == "loading"
        w.advance(10)
        assert state(w) == "ready"
    assert kinds(w.oracle.calls) == ["ok"] * 4
    assert w.pool.restarts == 32


def test_a_request_outlives_workers_that_are_killed_one_right_after_the_other(worlds: list[World]) -> None:
    w = world(worlds, min_workers=5, max_workers=5)
    w.backend.seconds = 1.0
    assert w.submit() is not None
    w.advance(0.5)
    for _ in range(5):
        w.kill(0)
        w.advance(0.001)
    w.advance(10)
    assert kinds(w.oracle.calls) == ["ok"]


def test_a_request_is_settled_when_the_pool_ends_right_after_its_worker_was_killed(worlds: list[World]) -> None:
    w = world(worlds)
    w.backend.seconds = 1.0
    assert w.submit() is not None
    w.advance(0.5)
    w.kill(0)
    w.advance(0.01)
    w.run(w.pool.close(0.0))
    assert kinds(w.oracle.calls) == ["unavailable"]


def test_a_pool_says_what_it_is_about(worlds: list[World]) -> None:
    w = world(worlds, min_workers=1, max_workers=1)
    w.backend.seconds = 1.0
    assert w.submit() is not None
    w.advance(0.5)
    assert repr(w.pool) == (
        "<Pool m/1, [<Slot 1 busy>], <Dispatch <BatchQueue 0 waiting, 0 again>, 0 idle>, <CrashLoop closed, deaths []>>"
    )


def test_workers_that_die_together_while_they_load_are_no_crash_loop(worlds: list[World]) -> None:
    w = world(worlds, min_workers=8, max_workers=8)
    w.backend.load_seconds = 0.5
    for _ in range(4):
        for _ in range(8):
            w.kill(0)
        w.advance(0.3)
    w.advance(10)
    assert state(w) == "ready"


def test_the_death_of_the_nursery_is_not_the_models(worlds: list[World]) -> None:
    w = world(worlds, response_timeout_seconds=60.0)
    w.backend.orphaned = 12
    for _ in range(2):
        w.kill(0)
    for _ in range(4):
        assert w.submit() is not None, "it is not given up"
        w.advance(2)
    w.advance(50)
    assert w.backend.orphaned == 0
    assert kinds(w.oracle.calls) == ["ok"] * 4
    assert state(w) == "ready"


@pytest.mark.catalogue("R2")
def test_there_is_no_room_for_another_process(worlds: list[World]) -> None:
    w = world(worlds)
    w.backend.full = True
    w.kill(0)
    for _ in range(60):
        assert w.submit() is not None
        w.advance(1)
    assert kinds(w.oracle.calls) == ["ok"] * 60, "who is there serves on"
    assert w.pool.restarts < 30, "and the other is not tried all the time"
    w.backend.full = False
    w.advance(10)
    assert state(w) == "ready"


def test_one_death_an_hour_is_no_crash_loop(worlds: list[World]) -> None:
    w = world(worlds, min_workers=1)
    for _ in range(10):
        w.advance(3600)
        w.kill(0)
        w.advance(1)
        assert state(w) == "ready"


def test_the_same_failure_after_many_minutes_is_one_too(worlds: list[World]) -> None:
    w = world(worlds, min_workers=1, startup_timeout_seconds=100.0, max_retry_timeout_seconds=300.0)
    w.backend.load_seconds = 1000.0
    w.kill(0)
    w.advance(600)
    assert w.pool.restarts < 7
    assert w.submit() is None


def test_workers_that_are_due_are_replaced_one_after_the_other_and_nothing_is_lost(worlds: list[World]) -> None:
    w = world(worlds, min_workers=3, max_workers=3, batch_size=1, max_requests_per_worker=5)
    least = 3
    for _ in range(100):
        for _ in range(3):
            w.submit()
        w.advance(0.02)
        least = min(least, sum(slot.state.value in ("ready", "busy") for slot in w.pool.slots))
    w.advance(1)
    assert kinds(w.oracle.calls) == ["ok"] * 300
    assert least == 2
    assert w.backend.spawned > 20
    assert w.pool.restarts == 0
    w.oracle.check_end()


def test_a_worker_that_has_grown_is_replaced(worlds: list[World]) -> None:
    w = world(worlds, min_workers=1, max_worker_memory_bytes=100)
    w.backend.seconds = 0.5
    [old] = w.backend.alive
    w.submit()
    w.advance(1)
    assert w.backend.alive == {old}
    old.size = 101
    w.submit()
    w.advance(1)
    assert old not in w.backend.alive
    assert len(w.backend.alive) == 1
    assert kinds(w.oracle.calls) == ["ok", "ok"]


def goodput(load: float, timeout_seconds: float, batch_size: int) -> float:
    """Answers within their time, by what the worker could give in 5 s; `load` times as many come, at random."""
    service_seconds, seconds, dice = 0.02, 5.0, random.Random(5)
    w = World(min_workers=1, max_workers=1, batch_size=batch_size, queue_size=100, response_timeout_seconds=60.0)
    w.backend.seconds = service_seconds
    w.advance(0.1)
    capacity = batch_size / service_seconds
    for _ in range(int(load * capacity * seconds)):
        w.submit(timeout_seconds=timeout_seconds)
        w.advance(dice.expovariate(load * capacity))
    w.advance(2)
    w.oracle.check_end()
    w.close()
    return w.good() / (capacity * seconds)


@pytest.mark.catalogue("Q1")
@pytest.mark.parametrize("timeout_seconds", [0.1, 0.5])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_ten_times_the_load_takes_nothing_from_what_is_answered_in_time(
    timeout_seconds: float, batch_size: int
) -> None:
    ladder = {load: goodput(load, timeout_seconds, batch_size) for load in (0.5, 1.0, 2.0, 10.0)}
    assert ladder[10.0] >= 0.9 * max(ladder.values()), ladder
    assert ladder[10.0] >= 0.9, ladder


def test_first_come_first_served_would_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the oldest first, all are answered just too late."""
    monkeypatch.setattr(BatchQueue, "_is_swamped", lambda *_: False)
    assert goodput(10.0, 0.1, 1) < 0.2


def test_draining_waits_for_a_worker_that_comes_back(worlds: list[World]) -> None:
    w = World(min_workers=1, max_workers=1, batch_size=1)
    w.advance(0.1)
    for _ in range(3):
        w.submit()
    w.kill(0)
    w.close(drain_seconds=10)
    assert kinds(w.oracle.calls) == ["ok"] * 3
    w.oracle.check_end()


def test_what_is_not_answered_when_the_time_is_over_is_told_so(worlds: list[World]) -> None:
    w = World(min_workers=1, max_workers=1, batch_size=1, response_timeout_seconds=100.0)
    w.advance(0.1)
    for op in ("hang", ""):
        w.submit(op)
    w.advance(0.1)
    w.close(drain_seconds=1)
    assert kinds(w.oracle.calls) == ["unavailable", "unavailable"]
    w.oracle.check_end()
    assert not w.backend.alive


# Waiting until the wanted workers serve


def settling(w: World) -> asyncio.Task[None]:
    task = w.loop.create_task(w.pool.settled())
    w.advance(0.001)
    return task


def test_a_worker_that_is_killed_while_it_loads_is_waited_for_again(worlds: list[World]) -> None:
    w = world(worlds, startup_timeout_seconds=60.0)
    w.backend.load_seconds = 1.0
    for index in (0, 1):
        w.kill(index)
    waiting = settling(w)
    for _ in range(2):
        w.kill(0)
        w.advance(0.5)
        assert not waiting.done()
    w.advance(5)
    assert waiting.exception() is None
    assert state(w) == "ready"


def test_workers_that_die_and_come_back_in_turn_keep_nobody_waiting(worlds: list[World]) -> None:
    w = world(worlds, min_workers=2, startup_timeout_seconds=60.0)
    w.backend.load_seconds = 1.0
    for index in (0, 1):
        w.kill(index)
    waiting = settling(w)
    for _ in range(6):  # never do both serve at the same time, but both have shown that they can
        w.advance(0.9)
        w.kill(0)
    assert waiting.done()
    assert waiting.exception() is None


@pytest.mark.parametrize(
    ("trouble", "words", "tries"),
    [("broken", "it is broken", 1), ("slow", "startupTimeout", 1), ("dying", "SIGKILL", 3), ("full", "temporarily", 3)],
)
def test_a_model_that_cannot_be_loaded_is_not_waited_for(
    worlds: list[World], trouble: str, words: str, tries: int
) -> None:
    w = world(worlds, min_workers=0)
    w.backend.broken = trouble == "broken"
    w.backend.full = trouble == "full"
    w.backend.load_seconds = 100.0 if trouble in ("slow", "dying") else 0.05

    async def scale() -> None:
        w.pool.scale(1)

    w.run(scale())
    waiting = settling(w)
    failed: list[int] = []
    waiting.add_done_callback(lambda _: failed.append(w.pool.restarts))
    while not waiting.done():
        w.advance(0.1)
        if trouble == "dying":
            w.kill(0)
    error = waiting.exception()
    assert isinstance(error, LoadFailed)
    assert words in str(error)
    assert failed == [tries]


def test_a_version_that_is_unloaded_first_says_so(worlds: list[World]) -> None:
    w = world(worlds)
    w.backend.load_seconds = 1.0
    w.kill(0)
    waiting = settling(w)
    w.run(w.pool.close(0))
    assert isinstance(waiting.exception(), Conflict)


# Negative controls: each of the oracle's eyes sees what it is there to see.


def play(worlds: list[World]) -> None:
    w = world(worlds, max_batch_delay_seconds=0.05)
    for op in ("", "", "die", "", "", ""):
        w.submit(op)
    w.advance(5)
    w.oracle.check_end()


def test_the_oracle_is_content_without_a_bug(worlds: list[World]) -> None:
    play(worlds)


def mixed_up(self: FakeBackend, requests: list[Request]) -> list[Outcome]:
    return [Reply(request.inputs[0].data, "") for request in reversed(requests)]


def lost(self: Dispatch, calls: list[Any], *_: Any, **__: Any) -> None:
    pass


def failed(self: Dispatch, calls: list[Any], error: Any, **_: Any) -> None:
    self.fail(calls, error)


def for_ever(self: Dispatch, calls: list[Any], *_: Any, **__: Any) -> None:
    self.queue.put_again(calls, 0)
    self.wake()


class Twice(SeenCall):
    def settle(self, outcome: Outcome) -> None:
        super().settle(outcome)
        super().settle(outcome)


@pytest.mark.parametrize(
    ("owner", "name", "bug", "words"),
    [
        (FakeBackend, "answers", mixed_up, "another one's answer"),
        (Dispatch, "_rescue", lost, "was lost"),
        (Dispatch, "_rescue", failed, "no part in"),
        (Dispatch, "_rescue", for_ever, "too often"),
        (SeenCall, "settle", Twice.settle, "settled twice"),
    ],
    ids=["mix up two answers", "lose what a worker died with", "fail it at once", "try it for ever", "settle twice"],
)
def test_the_oracle_sees(
    owner: type, name: str, bug: Any, words: str, worlds: list[World], monkeypatch: pytest.MonkeyPatch
) -> None:
    if owner is SeenCall:
        monkeypatch.setattr("tests.engine.virtual.SeenCall", Twice)
    else:
        monkeypatch.setattr(owner, name, bug)
    with pytest.raises(AssertionError, match=words):
        play(worlds)
