"""Pipelines in a cluster: each has the models that it asks on its own node, whatever changes. The nodes are fakes."""

from __future__ import annotations

import asyncio

import pytest

from pdserver.engine.pipeline.signatures import NodeMissing
from pdserver.errors import Conflict, Forbidden, InvalidRequest, LoadFailed, Unavailable
from pdserver.types import ModelRef
from tests.cluster.fakes import World, running
from tests.cluster.test_controller import model, ready_on
from tests.cluster.virtual import run, until

FIT, FIT2, PAGE = ModelRef("fit", "1"), ModelRef("fit", "2"), ModelRef("page", "1")
PIPELINE = "page-1-10-fit.pdar"


def lacking(world: World) -> list[str]:
    """The nodes that serve the pipeline without the model."""
    served = {node: {str(ref) for ref in world.members[node].copies} for node in world.serving(PAGE)}
    return [node for node, refs in served.items() if not any(ref.startswith("fit/") for ref in refs)]


def test_a_pipeline_brings_the_models_that_it_asks() -> None:
    async def work() -> None:
        world = World()
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", synchronous=True)
            [first] = world.serving(FIT)
            await controller.register(PIPELINE, synchronous=True)
            assert world.serving(PAGE) == [first], "where the model is already"
            await controller.scale("page", copies=3, synchronous=True)
            assert len(world.serving(PAGE)) == 3
            assert world.serving(FIT) == world.serving(PAGE)
            assert model(controller, FIT).wanted.copies == 1
            assert (model(controller, PAGE).asks, model(controller, FIT).asked_by) == ((FIT,), (PAGE,))
            await controller.scale("page", copies=1, synchronous=True)
            await until(lambda: world.serving(FIT) == world.serving(PAGE) and len(world.serving(FIT)) == 1)
            await controller.unregister("page")
            assert len(ready_on(controller, FIT)) == 1
            await controller.unregister("fit")
        assert not world.faults

    run(work())


def test_what_a_pipeline_asks_is_registered_first_and_goes_last() -> None:
    async def work() -> None:
        world = World()
        async with running(world) as controller:
            with pytest.raises(NodeMissing, match=r"page-1-10-fit.pdar: .* Model not found: fit: register that model"):
                await controller.register(PIPELINE)
            assert not controller.view().models
            await controller.register("fit-1-100.pdar", synchronous=True)
            with pytest.raises(NodeMissing, match="Model version: 2 does not exist for model: fit"):
                await controller.register("page-1-10-fit@2.pdar")
            await controller.register(PIPELINE, synchronous=True)
            await controller.register("book-1-10-page.pdar", synchronous=True)
            with pytest.raises(Conflict, match="fit/1 is asked by page/1, book/1: unregister that first"):
                await controller.unregister("fit")
            with pytest.raises(InvalidRequest, match="it asks book, page, fit: a pipeline can't ask itself"):
                await controller.register("fit-2-10-book.pdar")
            await controller.register("fit-2-100.pdar", synchronous=True)
            with pytest.raises(Forbidden, match="is the default"):
                await controller.unregister("fit", "1")
            await controller.unregister("fit", "2")
            for name in ("book", "page", "fit"):
                await controller.unregister(name)
            assert not any(node.copies for node in world.members.values())
        assert not world.faults

    run(work())


def test_a_pipeline_takes_its_models_along_when_its_node_dies() -> None:
    async def work() -> None:
        world = World()
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", synchronous=True)
            await controller.register(PIPELINE, copies=2, synchronous=True)
            dead, _ = world.serving(PAGE)
            world.members[dead].kill()
            await until(lambda: len(world.serving(PAGE)) == 2)
            assert not lacking(world)
            world.members[dead].bring_back()
            await until(lambda: len(world.serving(FIT)) == 2)
        assert not world.faults

    run(work())


def test_an_upgrade_has_another_node_serve_all_of_it() -> None:
    async def work() -> None:
        world = World()
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", synchronous=True)
            await controller.register(PIPELINE, synchronous=True)
            world.installed = "1.1"
            watched = asyncio.create_task(always_answered(world))
            async for _ in controller.upgrade():
                pass
            watched.cancel()
            assert not watched.done(), "somebody answered at every moment"
            assert {node.version for node in world.members.values()} == {"1.1"}
        assert not world.faults

    run(work())


async def always_answered(world: World) -> None:
    """Until nobody serves the pipeline, with its model."""
    await until(lambda: not set(world.serving(PAGE)) - set(lacking(world)), 1e6)


def test_a_new_default_is_on_the_pipelines_nodes_before_it_is_the_default() -> None:
    async def work() -> None:
        world = World()
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", synchronous=True)
            await controller.register(PIPELINE, copies=3, synchronous=True)
            await controller.register("fit-2-50.pdar", synchronous=True)
            assert len(world.serving(FIT2)) == 1
            switched = asyncio.create_task(controller.set_default("fit", "2"))
            await until(lambda: len(world.serving(FIT2)) == 3)
            assert model(controller, FIT).wanted.default
            await switched
            assert len(world.serving(PAGE)) == 3
            await until(lambda: len(world.serving(FIT)) == 1)  # one copy of it is wanted besides
            await controller.unregister("fit", "1")
            assert len(world.serving(FIT2)) == 3
        assert not world.faults

    run(work())


def test_a_new_default_that_a_pipelines_node_can_not_serve_is_refused() -> None:
    async def work() -> None:
        world = World(memory_mib=1000)
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", synchronous=True)
            await controller.register(PIPELINE, copies=3, synchronous=True)
            await controller.register("fit-2-950.pdar", workers=0, synchronous=True)
            await controller.register("fit-3-50.pdar", synchronous=True)
            for node in set(world.members) - set(world.serving(ModelRef("fit", "3"))):
                world.models.broken_on.add((node, "fit-3-50.pdar"))
            with pytest.raises(LoadFailed, match=r"n\d: fit-3-50.pdar can't be loaded"):
                await controller.set_default("fit", "3")
            assert model(controller, FIT).wanted.default
            assert len(world.serving(PAGE)) == 3, "it stays where it is"
        assert not world.faults

    run(work())


def test_a_model_is_replaced_under_a_pipeline() -> None:
    async def work() -> None:
        world = World()
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", synchronous=True)
            await controller.register(PIPELINE, copies=2, synchronous=True)
            await controller.register("fit-1-200.pdar", synchronous=True, replace=True)
            assert len(world.serving(PAGE)) == 2
            assert not lacking(world)
        assert not world.faults, "no node was asked for the pipeline while it loaded the model anew"

    run(work())


def test_a_pipeline_is_replaced_by_one_that_asks_another_model() -> None:
    async def work() -> None:
        world = World()
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", synchronous=True)
            await controller.register("cut-1-100.pdar", synchronous=True)
            await controller.register(PIPELINE, copies=3, synchronous=True)
            await controller.register("page-1-10-cut.pdar", copies=3, synchronous=True, replace=True)
            assert len(world.serving(ModelRef("cut", "1"))) == 3
            await until(lambda: len(world.serving(FIT)) == 1)
            await controller.unregister("fit")
            with pytest.raises(Conflict, match="cut/1 is asked by page/1"):
                await controller.unregister("cut")
        assert not world.faults

    run(work())


def test_room_is_needed_for_a_pipeline_and_what_it_asks() -> None:
    async def work() -> None:
        world = World(memory_mib=1000)
        async with running(world) as controller:
            await controller.register("fit-1-600.pdar", synchronous=True)
            await controller.register(PIPELINE, synchronous=True)
            await controller.register("big-1-500.pdar", copies=2, synchronous=True)
            with pytest.raises(
                Unavailable, match=r"copy of page/1 .* besides what it asks, fit/1: .*n\d has 500.0 MiB"
            ):
                await controller.scale("page", copies=2, synchronous=True)
            assert model(controller, PAGE).wanted.copies == 1
        assert not world.faults

    run(work())


def test_a_node_that_can_not_serve_the_model_does_not_keep_the_pipeline() -> None:
    async def work() -> None:
        world = World()
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", synchronous=True)
            await controller.register(PIPELINE, synchronous=True)
            [first] = world.serving(PAGE)
            world.models.broken_on.add((first, "fit-1-100.pdar"))
            world.members[first].crash()
            await until(lambda: world.serving(PAGE) != [first] and not lacking(world) and bool(world.serving(PAGE)))

    run(work())


def test_another_controller_knows_what_pipelines_ask() -> None:
    async def work() -> None:
        world = World()
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", synchronous=True)
            await controller.register(PIPELINE, copies=2, synchronous=True)
        async with running(world) as controller:
            await controller.ready()
            with pytest.raises(Conflict):
                await controller.unregister("fit")
            await controller.scale("page", copies=3, synchronous=True)
            assert world.serving(FIT) == world.serving(PAGE)
        assert not world.faults

    run(work())
