"""What the controller says of each copy and each node: why it is so, and since when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from pdserver.cluster.base import ClusterView, CopyView
from pdserver.cluster.controller import Controller
from pdserver.cluster.since import Since, written
from pdserver.types import ModelRef
from tests.cluster.fakes import World, running
from tests.cluster.virtual import run, until

FIT = ModelRef("fit", "1")


def copies(view: ClusterView) -> dict[str, CopyView]:
    return {copy.node: copy for model in view.models for copy in model.copies}


def has(controller: Controller, state: str, count: int = 1) -> Callable[[], bool]:
    return lambda: [copy.state for copy in copies(controller.view()).values()].count(state) == count


def said(view: ClusterView, capsys: pytest.CaptureFixture[str]) -> str:
    """What `pdserver cluster status` prints of it."""
    from pdserver.cluster.running import say_served  # which imports Ray: every process of tests collects this file

    capsys.readouterr()
    say_served(view, {})
    return capsys.readouterr().out


def test_each_state_of_a_copy_tells_why_and_since_when(capsys: pytest.CaptureFixture[str]) -> None:
    async def work() -> None:
        world = World()
        world.models.broken_on.add(("n3", "fit-1-100.pdar"))
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", copies=3)
            await until(has(controller, "LOADING", 3))
            reasons = {copy.reason for copy in copies(controller.view()).values()}
            assert reasons <= {"its archive is on the way to the node", "the node loads it"}
            await until(has(controller, "READY", 2))
            await until(has(controller, "FAILED"))
            view = controller.view()
            failed = copies(view)["n3"]
            assert failed.reason == "fit-1-100.pdar can't be loaded"
            assert f"fit/1 on n3, FAILED since {written(failed.since)}: {failed.reason}" in said(view, capsys)
            assert "fit/1 on n1" not in said(view, capsys), "what is READY needs no words"
            await asyncio.sleep(5)
            assert copies(controller.view())["n1"].since == copies(view)["n1"].since, "nothing has changed"
            world.members["n2"].kill()
            await until(has(controller, "LOST"))
            view = controller.view()
            [lost] = [node for node in view.nodes if node.lost]
            assert f"lost since {written(lost.since)}" in said(view, capsys)
            assert copies(view)["n2"].reason == "its node does not answer"
            assert copies(view)["n2"].since >= copies(view)["n1"].since

    run(work())


def test_a_copy_that_leaves_says_so() -> None:
    async def work() -> None:
        world = World()
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", copies=2, synchronous=True)
            scaling = asyncio.create_task(controller.scale("fit", copies=1, synchronous=True))
            await until(has(controller, "UNLOADING"))
            [leaving] = [copy for copy in copies(controller.view()).values() if copy.leaving]
            assert leaving.reason == "it answers what it has taken, and is then ended"
            await scaling

    run(work())


def test_a_state_is_dated_when_it_was_first_seen() -> None:
    clock = iter(range(100, 200))
    since = Since(lambda: next(clock))
    assert since.of("a", "LOADING") == 100, "not noted yet"
    since.note({"a": "LOADING", "b": "READY"})
    before = since.of("a", "LOADING"), since.of("b", "READY")
    since.note({"a": "LOADING", "b": "READY"})
    assert (since.of("a", "LOADING"), since.of("b", "READY")) == before
    changed = since.of("a", "READY")
    assert changed > before[0]
    since.note({"a": "READY"})
    assert since.of("b", "READY") > before[1], "it was forgotten"


def test_times_are_written_as_in_other_descriptions() -> None:
    assert written(0) == "1970-01-01T00:00:00Z"
