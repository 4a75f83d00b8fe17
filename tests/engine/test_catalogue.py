"""What others see of what is served: it is shown when it changes, and what a reader holds stays as it was."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from pdserver.configuration.model import ModelSpec, PartialSettings
from pdserver.configuration.models_to_load import ModelToLoad
from pdserver.engine.catalogue import Catalogue, ServedVersion
from pdserver.engine.lifecycle import VersionState
from pdserver.engine.queue import Call
from pdserver.engine.registry import Registry
from pdserver.engine.served import Details
from pdserver.errors import Conflict, InvalidRequest, ModelNotFound, VersionNotFound
from pdserver.metrics.counters import ModelMetrics, PoolGauges, Totals
from pdserver.types import Interface, ModelRef, Reply, Request
from tests.engine.changing import EngineWorld


class Echo:
    """A throw-away Served, without workers: it answers at once, by itself."""

    def __init__(self, name: str, version: str = "1") -> None:
        texts: dict[str, Any] = dict.fromkeys(("url", "directory", "handler"), "")
        self.spec = ModelSpec(name=name, version=version, manifest={}, model_config={}, min_workers=0, **texts)
        self.answered = 0
        self.uses = frozenset[str]()
        self.node_refs = frozenset[ModelRef]()
        self.metrics = ModelMetrics()
        self.min_workers = 0
        self.max_workers: int | None = None
        self.interface = Interface([], [], batched=False)

    def submit(self, call: Call) -> None:
        self.answered += 1
        call.settle(Reply(call.request.id.encode(), "text/plain"))

    def view(self) -> ServedVersion:
        return ServedVersion(self.spec, self.interface, VersionState.READY, 1, 0, None, "")

    def details(self) -> Details:
        return Details([], 0, 0, loaded_at_start=False)

    def gauges(self) -> Sequence[PoolGauges]:
        return [PoolGauges(self.spec.ref, 0, {}, 0)]

    def statistics(self) -> Totals:
        return Totals(succeeded=self.answered)

    def scale(self, min_workers: int, max_workers: int | None = None) -> None:
        raise InvalidRequest("it has no workers")

    def change(self, settings: PartialSettings) -> None:
        """Nothing of it can be set."""

    def change_manifest(self, manifest: Mapping[str, Any]) -> None:
        """It needs none."""

    async def settled(self) -> None:
        """It is ready from the start."""

    async def close(self, drain_seconds: float) -> None:
        """It holds nothing."""

    def hurry(self) -> None:
        """It never waits."""


def test_a_version_is_shown_as_it_loads_serves_and_fails() -> None:
    w = EngineWorld()
    catalogue = w.engine.catalogue
    w.run(w.register("a-1.pdar", synchronous=False))
    loading = catalogue.resolve("a", None)
    assert (loading.state, loading.is_ready, loading.interface) == (VersionState.LOADING, False, None)
    w.advance(1)
    ready = catalogue.resolve("a", "1")
    assert (ready.state, ready.is_ready, ready.interface is None) == (VersionState.READY, True, False)
    assert not loading.is_ready, "what was read before stays as it was"
    w.backend.broken = True
    next(iter(w.backend.alive)).kill("was killed by SIGKILL")
    w.advance(1)
    assert not catalogue.resolve("a", "1").is_ready
    assert catalogue.health().problems["a/1"] == "it is broken"
    w.backend.broken = False
    w.advance(200)
    w.close()
    with pytest.raises(ModelNotFound):
        catalogue.resolve("a", None)


def test_health_tells_of_the_start_of_what_is_missing_and_of_the_end() -> None:
    catalogue = Catalogue()
    assert catalogue.health().problems.keys() == {"server"}
    catalogue.starting = False
    assert catalogue.health().healthy
    catalogue.missing = {"a.pdar": "it is not there"}
    assert catalogue.health().problems == {"a.pdar": "it is not there"}
    catalogue.stopping = True
    assert catalogue.health().problems == {"server": "it is stopping"}


def test_what_is_missing_is_told_one_by_one() -> None:
    """Clients may ask for thousands of models that are not there: each takes the time of one, not of all before it."""
    w = EngineWorld()
    engine = w.engine
    shown = engine.catalogue.missing
    for name in ("a", "b"):
        engine.miss(ModelToLoad(name), "it is not there")
    engine.dismiss("a")
    assert engine.catalogue.missing is shown
    assert shown == {"b": "it is not there"}
    w.loop.close()


def test_something_other_than_a_pool_can_be_served() -> None:
    w = EngineWorld()
    w.engine._registry.add(Echo("echo"))
    outcome = w.run(w.engine.ask(Request("echo", None, "7", [])))
    assert isinstance(outcome, Reply)
    assert outcome.body == b"7"
    served = w.engine.catalogue.resolve("echo", "1")
    assert w.engine.statistics(served.spec.ref).succeeded == 1
    assert b"echo" in w.metrics.render()[0]
    with pytest.raises(InvalidRequest, match="no workers"):
        w.run(w.engine.scale("echo", None, 2))
    assert not asyncio.all_tasks(w.loop)
    w.loop.close()


def test_versions_come_and_go_and_one_of_them_is_the_default() -> None:
    catalogue, changes = Catalogue(), [0]

    def count() -> None:
        changes[0] += 1

    registry = Registry(catalogue, count)
    first, second = Echo("m", "1"), Echo("m", "2")
    registry.add(first)
    registry.add(second)
    assert catalogue.only_model() == "m"
    before = catalogue.model("m")
    registry.set_default("m", "2")
    assert (before.default_version, catalogue.model("m").default_version) == ("1", "2")
    with pytest.raises(Conflict):
        registry.add(Echo("m", "2"))
    successor = Echo("m", "2")
    assert registry.put(successor) is second
    assert registry.resolve("m", None) is successor
    assert registry.drop(successor)
    assert not registry.drop(successor)
    assert catalogue.model("m").default_version == "1"
    with pytest.raises(VersionNotFound):
        catalogue.resolve("m", "2")
    with pytest.raises(ModelNotFound, match="is it m"):
        catalogue.resolve("nothing like it", None)
    registry.remove("m", None)
    assert (list(catalogue), changes) == ([], [6])
    with pytest.raises(InvalidRequest):
        catalogue.only_model()
