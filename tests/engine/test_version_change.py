"""From one version to the next: what waits, what comes late, and what a new worker does before it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from pdserver.configuration.model import ModelSpec
from pdserver.errors import InvalidRequest, LoadFailed, VersionNotFound
from pdserver.types import Interface, Part, Reply, Request
from tests.engine.changing import EngineWorld
from tests.engine.virtual import WARM_UP, kinds


@pytest.fixture
def world() -> Iterator[EngineWorld]:
    made = EngineWorld()
    yield made
    made.close()


def test_the_old_version_answers_what_it_has_and_what_was_read_for_it(world: EngineWorld) -> None:
    world.run(world.register("a-1.pdar"))
    world.run(world.register("a-2.pdar"))
    for _ in range(3):
        world.submit("a")

    async def change() -> None:
        world.engine.set_default("a", "2")
        await world.engine.unregister("a", "1")

    changing = world.loop.create_task(change())
    world.advance(0.5)
    assert [*world.engine.catalogue.model("a").versions] == ["2"]
    late = world.submit("a", "1")  # its dialect has looked the default version up, and then read for half a second
    world.submit("a")
    world.run(asyncio.wait_for(changing, 60))
    assert isinstance(late.settled[0], Reply)
    assert kinds(world.oracle.calls) == ["ok"] * 5
    world.oracle.check_end()
    with pytest.raises(VersionNotFound):
        world.submit("a", "1")


def test_a_stop_does_not_wait_for_late_requests(world: EngineWorld) -> None:
    world.run(world.register("a-1.pdar"))
    world.run(world.register("a-2.pdar"))
    world.engine.set_default("a", "2")
    changing = world.loop.create_task(world.engine.unregister("a", "1"))
    world.advance(0.01)
    before = world.loop.time()
    world.engine.stop()
    world.run(asyncio.wait_for(changing, 60))
    assert world.loop.time() - before < 0.5


def asked(*paths: str) -> Iterator[Request]:
    for number, path in enumerate(paths):
        yield Request("a", "1", f"{WARM_UP} {number}", [Part("body", "", b"")], path=path)


def test_each_worker_answers_the_warm_up_before_it_serves(world: EngineWorld) -> None:
    served_before: list[list[int]] = []

    def warm_up(spec: ModelSpec, interface: Interface) -> Iterator[Request]:
        yield from asked("", "")
        served_before.append([*world.oracle.batches])  # all were answered

    world.store.warm_up = warm_up
    registering = world.loop.create_task(world.register("a-1.pdar"))
    world.advance(0.08)
    call = world.submit("a")
    world.run(asyncio.wait_for(registering, 60))
    world.advance(1)
    assert isinstance(call.settled[0], Reply)
    assert served_before == [[]]
    assert world.oracle.warm_ups == [f"{WARM_UP} 0", f"{WARM_UP} 1"]
    [worker] = world.backend.alive
    worker.kill("was killed by SIGKILL")
    world.advance(5)
    assert len(served_before) == 2, "its successor has to, too"
    world.check()


def broken() -> Iterator[Request]:
    yield from asked("")
    raise InvalidRequest("record 1 is broken")


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        (lambda: asked("", "fail"), f"{WARM_UP} 1: it does not fit"),
        (broken, "record 1 is broken"),
    ],
)
def test_a_version_whose_warm_up_fails_is_not_served(world: EngineWorld, requests: object, message: str) -> None:
    assert callable(requests)
    world.store.warm_up = lambda spec, interface: requests()
    with pytest.raises(LoadFailed, match=message):
        world.run(world.register("a-1.pdar"))
    world.store.warm_up = None
    assert world.served() == {}


def test_a_worker_that_dies_in_the_warm_up_is_tried_again(world: EngineWorld) -> None:
    tries = iter(["die", ""])
    world.store.warm_up = lambda spec, interface: asked(next(tries))
    world.run(world.register("a-1.pdar"))
    world.check()


def test_a_worker_that_hangs_in_the_warm_up_has_not_loaded_in_time(world: EngineWorld) -> None:
    world.store.warm_up = lambda spec, interface: asked("hang")
    with pytest.raises(LoadFailed, match="did not load the model within 2 s"):
        world.run(world.register("a-1.pdar"))
