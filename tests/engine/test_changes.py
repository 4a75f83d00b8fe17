"""A change of what is served is made or is not made, wherever its caller leaves, whatever else is asked meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdserver.errors import PdError, Unavailable
from tests.engine.changing import Change, EngineWorld


def begun() -> EngineWorld:
    """One model with two versions; the first is the default, and is busy."""
    w = EngineWorld()
    w.run(w.register("a-1.pdar", workers=2))
    w.run(w.register("a-2.pdar"))
    w.backend.seconds = 0.2
    w.submit("a")
    return w


def broken(change: Change) -> Change:
    """With models that can't be loaded."""

    def begin(w: EngineWorld) -> Any:
        w.backend.broken = True
        return change(w)

    return begin


def load_newer(w: EngineWorld) -> Any:
    w.store.newer["a-1.pdar"] = "3"
    return w.repository.load("a", {})


def register(url: str, workers: int = 1, *, synchronous: bool = True) -> Change:
    """The management call."""
    return lambda w: w.verbs.register({"url": url, "initial_workers": str(workers)}, synchronous=synchronous)


def scale(version: str, workers: int) -> Change:
    """The management call."""
    return lambda w: w.verbs.scale("a", version, {"min_worker": str(workers), "max_worker": "4", "synchronous": "true"})


CHANGES: dict[str, tuple[Change, dict[str, int]]] = {
    "register": (register("b-1.pdar", 2), {"a/1*": 2, "a/2": 1, "b/1*": 2}),
    "register later": (register("a-3.pdar", synchronous=False), {"a/1*": 2, "a/2": 1, "a/3": 1}),
    "register what is there": (register("a-1.pdar"), {"a/1*": 2, "a/2": 1}),
    "register what cannot load": (broken(register("b-1.pdar")), {"a/1*": 2, "a/2": 1}),
    "replace": (lambda w: w.register("a-1.pdar", workers=3, replace=True), {"a/1*": 3, "a/2": 1}),
    "replace by what cannot load": (
        broken(lambda w: w.register("a-1.pdar", workers=3, replace=True)), {"a/1*": 2, "a/2": 1}
    ),
    "unregister": (lambda w: w.verbs.unregister("a", "2"), {"a/1*": 2}),
    "scale up": (scale("1", 4), {"a/1*": 4, "a/2": 1}),
    "scale down": (scale("1", 1), {"a/1*": 1, "a/2": 1}),
    "set the default": (lambda w: w.verbs.set_default("a", "2"), {"a/1": 2, "a/2*": 1}),
    "load a new version": (load_newer, {"a/2": 1, "a/3*": 1}),
    "unload": (lambda w: w.repository.unload("a", {}), {}),
}  # fmt: skip


def play(change: Change, leave_at: int) -> tuple[EngineWorld, bool]:
    """The world some time after it, and whether the caller has left; before the loop went round that many times."""
    w = begun()
    caller = w.loop.create_task(change(w))
    w.loop.at_turn(leave_at, caller.cancel)
    w.run(asyncio.wait([caller]))
    left = caller.cancelled()
    assert left or caller.exception() is None or isinstance(caller.exception(), PdError)
    w.advance(5)
    return w, left


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_carried_through_wherever_its_caller_leaves(name: str) -> None:
    change, after = CHANGES[name]
    turn, left = 1, True
    while left:
        turn += 1
        w, left = play(change, turn)
        w.backend.broken = False
        assert w.served() == after, f"left at turn {turn}"
        w.check()
        w.close()
    assert turn > 4, "it left nowhere"


async def left_alone(change: Any, seconds: float) -> None:
    """Ask for it, and leave after so long."""
    task = asyncio.ensure_future(change)
    await asyncio.wait([task], timeout=seconds)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        assert task.exception() is None or isinstance(task.exception(), PdError)


ACTIONS: dict[str, Change] = {
    "register a 1": lambda w: w.register("a-1.pdar"),
    "register a 2": lambda w: w.register("a-2.pdar", workers=2),
    "register a 2 later": lambda w: w.register("a-2.pdar", synchronous=False),
    "unregister a": lambda w: w.engine.unregister("a"),
    "unregister a 1": lambda w: w.engine.unregister("a", "1"),
    "unregister a 2": lambda w: w.engine.unregister("a", "2"),
    "scale a 0": lambda w: w.engine.scale("a", None, 0, synchronous=True),
    "scale a 3": lambda w: w.engine.scale("a", None, 3, synchronous=True),
    "unload a": lambda w: w.repository.unload("a", {}),
}
SCHEDULE = st.lists(
    st.tuples(
        st.sampled_from([*ACTIONS, "break", "mend", "kill"]),
        st.sampled_from([0.0, 0.004, 0.02, 0.1]),  # until the next
        st.sampled_from([0.001, 0.03, 0.08, 1000.0]),  # until its caller leaves
    ),
    max_size=12,
)


def schedule(w: EngineWorld, events: list[tuple[str, float, float]]) -> list[asyncio.Task[None]]:
    callers = []
    for action, pause, patience in events:
        if action in ("break", "mend"):
            w.backend.broken = action == "break"
        elif action == "kill":
            for worker in list(w.backend.alive)[:1]:
                worker.kill("was killed by SIGKILL")
        else:
            callers.append(w.loop.create_task(left_alone(ACTIONS[action](w), patience)))
        w.advance(pause)
    return callers


@settings(max_examples=150)
@given(SCHEDULE)
def test_changes_of_the_same_model_at_the_same_time_are_made_one_by_one(
    events: list[tuple[str, float, float]],
) -> None:
    w = EngineWorld()
    made: list[asyncio.Task[Any]] = []
    begin = w.engine.changes.begin

    def record(work: Any, what: str) -> Any:
        made.append(begin(work, what))
        return made[-1]

    w.engine.changes.begin = record  # type: ignore[method-assign]
    callers = schedule(w, events)
    w.advance(5)
    w.backend.broken = False
    w.advance(200)
    w.run(asyncio.wait([w.loop.create_task(asyncio.sleep(0)), *callers]))
    assert all(caller.result() is None for caller in callers)
    w.check()
    # Each that says that it was made was made, once, and no other.
    there = 0
    for task in made:
        verb = task.get_name().partition(" ")[0]
        error = task.exception()
        if verb == "register":
            there += error is None or "was unloaded before its workers were ready" in str(error)
        elif verb == "unregister":
            there -= error is None
    assert there == len(w.served())
    w.close()


@settings(max_examples=100)
@given(SCHEDULE)
def test_when_the_server_stops_every_change_ends_and_no_worker_is_left(
    events: list[tuple[str, float, float]],
) -> None:
    w = EngineWorld()
    w.run(w.register("a-1.pdar"))
    callers = schedule(w, events)
    closing = w.loop.create_task(w.engine.close(5))
    w.run(asyncio.wait([closing, *callers]))
    assert closing.exception() is None
    assert not w.backend.alive
    with pytest.raises(Unavailable, match="stopping"):
        w.run(w.register("b-1.pdar"))
    assert not asyncio.all_tasks(w.loop)
    w.loop.close()
