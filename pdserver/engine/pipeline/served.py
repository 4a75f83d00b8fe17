"""A pipeline under a name and version: what asks its nodes for each request (`engine.served.Served`)."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import structs

from pdarchiver.pipeline.flow import Sides
from pdarchiver.pipeline.graph import ModelBody, Pipeline
from pdserver.configuration.model import ModelSpec, PartialSettings
from pdserver.engine.catalogue import ServedVersion
from pdserver.engine.lifecycle import VersionState
from pdserver.engine.pipeline.elsewhere import Elsewhere
from pdserver.engine.pipeline.measuring import measured
from pdserver.engine.pipeline.nodes import CodeTarget, Target, target
from pdserver.engine.pipeline.running import Running
from pdserver.engine.pipeline.samples import requests_of
from pdserver.engine.pipeline.signatures import interface_of, sides_of
from pdserver.engine.pipeline.variants import variants
from pdserver.engine.pool import Pool
from pdserver.engine.queue import Call, ask
from pdserver.engine.served import Details, NodeDetails, Served, most_workers
from pdserver.errors import (
    Conflict,
    InvalidRequest,
    Kind,
    LoadFailed,
    ModelNotFound,
    PdError,
    Unavailable,
    VersionNotFound,
)
from pdserver.metrics.counters import ModelMetrics, PoolGauges, Totals
from pdserver.pipeline import fused
from pdserver.pipeline.run import Plan, Step
from pdserver.types import Failure, Interface, Request

_log = logging.getLogger("pdserver.pipeline")
_ORDER = (VersionState.FAILED, VersionState.LOADING, VersionState.DEGRADED, VersionState.EMPTY, VersionState.READY)
"""A pipeline is in the first of these states that one of its nodes is in."""


class PipelineServed:
    """`pools` serve the nodes with a model that is packed inside, with Python, and with a fused graph, by their paths,
    in whatever variant. `find` gives a model of the store, `packed` what is known of a model that is packed inside."""

    def __init__(
        self,
        spec: ModelSpec,
        pipeline: Pipeline,
        metrics: ModelMetrics,
        pools: Mapping[str, Pool],
        find: Callable[[str, str | None], Served],
        packed: Callable[[ModelBody], Sides | None],
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[], None] = lambda: None,
        *,
        loaded_at_start: bool = False,
        said: Interface | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """`said`: what it takes and gives; None: as its models say. `elsewhere`: does what would take long here."""
        self.spec = spec
        self.metrics = metrics
        self.min_workers = spec.min_workers
        self.max_workers = spec.max_workers
        self.uses = frozenset(
            node.body.name for _, node in pipeline.graph.walk() if isinstance(node.body, ModelBody) and node.body.name
        )
        """The models of the store that it asks."""
        self.pipeline = pipeline
        self._said = said
        self.pools = dict(pools)
        self.node_refs = frozenset(
            ref for pool in pools.values() for ref in (pool.spec.ref, *fused.refs(pool.spec).values())
        )
        """Under which its nodes are counted."""
        self._plans = [Plan(graph) for graph in variants(pipeline.graph)]
        """The first one answers. The others are gone once it is known which is the fastest."""
        self._packed = packed
        self._preparing: asyncio.Task[None] | None = None
        self._find = find
        self._clock = clock
        self._on_change = on_change
        self._loaded_at_start = loaded_at_start
        self._loop = asyncio.get_running_loop()
        self._started = False
        self._closing = False
        self._drain_until = float("inf")
        self._described: dict[str, Sides] | None = None
        """What `interface` was made from."""
        self._misfit = ""
        """Why it does not fit its models."""
        self.targets = {step.path: self._target(step) for plan in self._plans for step in plan.leaves()}
        self._running = Running(spec, pipeline, metrics, self.targets, elsewhere, clock)

    def __repr__(self) -> str:
        closing = ", closing" if self._closing else ""
        return f"<PipelineServed {self.spec.ref}, {len(self._running)} running{closing}>"

    def _target(self, step: Step) -> Target:
        body = step.node.body
        if not isinstance(body, ModelBody):
            return CodeTarget(self.pools[step.path])
        pool = self.pools.get(step.path)
        wanted = step.wanted if step.node.repeat is None else ()
        if pool is not None:
            return target(body, lambda: pool, wanted)
        return target(body, lambda: self._of_the_store(body), wanted)

    def _of_the_store(self, body: ModelBody) -> Served:
        try:
            return self._find(body.name, body.version)
        except (ModelNotFound, VersionNotFound) as error:
            raise Unavailable(f"{error}: register it again") from None

    # Requests

    def submit(self, call: Call) -> None:
        self._submit(call, self._plans[0])

    def _submit(self, call: Call, plan: Plan) -> None:
        try:
            if self._closing:
                raise Unavailable(f"model {self.spec.ref} was unloaded")
            if self._misfit:
                raise Unavailable(f"{self.spec.ref} does not fit its models any more: {self._misfit}")
            self._running.take(call, plan)
        except PdError as error:
            self.metrics.failed[error.kind] += 1
            raise

    # What others see

    @property
    def interface(self) -> Interface | None:
        return self._running.interface

    def _describe(self) -> None:
        """Find its interface, when one of its models has another one than before."""
        known = self._known()
        if known == self._described:
            return
        self._described, self._running.interface, self._misfit = known, None, ""
        if known is not None:
            try:
                found = interface_of(self.pipeline, known)
                self._running.interface = self._said or found
            except InvalidRequest as error:
                self._misfit = str(error)

    def _known(self) -> dict[str, Sides] | None:
        """What its models take and give, by the nodes' paths; None until all of them are loaded."""
        known: dict[str, Sides] = {}
        for path, node in self.pipeline.graph.walk():
            body = node.body
            if not isinstance(body, ModelBody) or body.opaque:
                continue
            if path not in self.pools and body.archive:  # of a fused graph
                sides = self._packed(body)
                if sides is not None:
                    known[path] = sides
                continue
            try:
                served = self.pools.get(path) or self._of_the_store(body)
            except Unavailable:
                return None
            if served.interface is None:
                return None
            known[path] = sides_of(served.interface)
        return known

    def _served(self) -> list[Served]:
        """What it asks: its own pools, and models of the store as far as they are there."""
        found: list[Served] = list(self.pools.values())
        for _, node in self.pipeline.graph.walk():
            if isinstance(node.body, ModelBody) and node.body.name:
                with contextlib.suppress(Unavailable):
                    found.append(self._of_the_store(node.body))
        return found

    def _problem(self) -> str:
        """What keeps it from answering; "" for nothing."""
        if self._misfit:
            return self._misfit
        for path, node in self.pipeline.graph.walk():
            if not isinstance(node.body, ModelBody) or not node.body.name:
                continue
            try:
                self._of_the_store(node.body)
            except Unavailable as error:
                return f"node {path}: {error}"
        for served in self._served():
            if (view := served.view()).last_error and not view.is_ready:
                return f"{served.spec.name}: {view.last_error}"
        return ""

    @property
    def state(self) -> VersionState:
        if self._closing:
            return VersionState.UNLOADING
        if self._problem():
            return VersionState.FAILED
        states = {served.view().state for served in self._served()}
        return next((state for state in _ORDER if state in states), VersionState.READY)

    def view(self) -> ServedVersion:
        self._describe()
        problem = self._problem()
        serving = 0 if problem else min((served.view().serving for served in self._served()), default=1)
        return ServedVersion(
            self.spec, self.interface, self.state, serving, self.min_workers, self.max_workers, problem,
            self.pipeline.contract,
        )  # fmt: skip

    def details(self) -> Details:
        own = {path: pool.details() for path, pool in self.pools.items()}
        return Details(
            [structs.replace(worker, node=path) for path, details in own.items() for worker in details.workers],
            sum(details.waiting for details in own.values()),
            sum(details.restarts for details in own.values()),
            self._loaded_at_start,
            [node for step in self._plans[0].leaves() for node in self._nodes(step)],
        )

    def _nodes(self, step: Step) -> list[NodeDetails]:
        """The step, and the nodes that run in its process."""
        found = [self._node(step)]
        if (pool := self.pools.get(step.path)) is not None:
            for path, ref in fused.refs(pool.spec).items():
                totals = pool.inner[path].since_begin()
                engines = tuple(engine for engine in found[0].engines if engine.node == path)
                inner = {"path": path, "model": str(ref), "waiting": 0, "totals": totals, "engines": engines}
                found.append(structs.replace(found[0], **inner, fused_in=step.path))
        return found

    def _node(self, step: Step) -> NodeDetails:
        path, body = step.path, step.node.body
        try:
            served = (
                self.pools.get(path) or self._of_the_store(body) if isinstance(body, ModelBody) else self.pools[path]
            )
        except Unavailable as error:
            return NodeDetails(path, str(error), VersionState.FAILED, 0, 0, 0, Totals())
        view = served.view()
        engines = view.interface.engines if view.interface is not None else ()
        waiting, totals = served.details().waiting, served.statistics()
        workers = (view.state, view.serving, view.min_workers)
        return NodeDetails(path, str(view.spec.ref), *workers, waiting, totals, engines)

    def gauges(self) -> Sequence[PoolGauges]:
        own = PoolGauges(self.spec.ref, len(self._running), {}, 0)
        return [own, *(gauges for pool in self.pools.values() for gauges in pool.gauges())]

    def statistics(self) -> Totals:
        return self.metrics.since_begin()

    # What is wanted

    def scale(self, min_workers: int, max_workers: int | None = None) -> None:
        """The first time, nodes that say how many workers they have get these."""
        most = most_workers(self, min_workers, max_workers)
        for pool in self.pools.values():
            pool.scale(min_workers if self._started else pool.spec.min_workers, max_workers)
        self.min_workers, self.max_workers = min_workers, most
        if not self._started:
            self._started = True
            self._prepare()
        self._on_change()

    def change(self, settings: PartialSettings) -> None:
        names = ("batch_size", "max_batch_delay_seconds", "response_timeout_seconds")
        given = {name: settings[name] for name in names if name in settings}
        self.spec = self._running.spec = dataclasses.replace(self.spec, **given)
        for pool in self.pools.values():
            pool.change(settings)
        self._on_change()

    def change_manifest(self, manifest: Mapping[str, Any]) -> None:
        self.spec = self._running.spec = dataclasses.replace(self.spec, manifest=dict(manifest))
        self._on_change()

    async def settled(self) -> None:
        await asyncio.shield(self._prepare())
        await self._loaded()

    def _prepare(self) -> asyncio.Task[None]:
        """Get it ready once, whoever waits for that. When that fails, who waits next has it tried again."""
        task = self._preparing
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._preparing = self._loop.create_task(self._ready(), name=f"{self.spec.ref} warm-up")
            task.add_done_callback(self._prepared)
        return task

    def _prepared(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._closing:
            _log.warning("%s: %s", self.spec.ref, error)

    async def _ready(self) -> None:
        await self._loaded()
        requests = await asyncio.to_thread(requests_of, self.spec, self.pipeline.samples)
        for request in requests:
            await self._sample(request, self._plans[0])
        if len(self._plans) > 1:
            await self._choose(requests)

    async def _loaded(self) -> None:
        """Raises LoadFailed, Conflict."""
        await asyncio.gather(*(pool.settled() for pool in list(self.pools.values())))
        for path, node in self.pipeline.graph.walk():
            if isinstance(node.body, ModelBody) and node.body.name:
                try:
                    await self._of_the_store(node.body).settled()
                except Unavailable as error:
                    raise LoadFailed(f"node {path}: {error}") from None
        if self._closing:
            raise Conflict(f"model {self.spec.ref} was unloaded before its workers were ready")
        self._describe()
        if self.interface is None:
            raise LoadFailed(self._problem() or "a model that it asks is not loaded", Kind.INVALID)
        self._on_change()

    async def _sample(self, request: Request, plan: Plan) -> None:
        """Raises LoadFailed when it is not answered."""
        try:
            outcome = await ask(partial(self._submit, plan=plan), request)
        except PdError as error:
            outcome = Failure.of(error)
        if isinstance(outcome, Failure):
            raise LoadFailed(f"{request.id}: {outcome.message}", outcome.kind)

    async def _choose(self, requests: Sequence[Request]) -> None:
        """Keep the variant that answers the samples fastest, and end the workers of the others."""
        plans = self._plans
        if requests:
            rates = [await measured(partial(self._sample, plan=plan), requests) for plan in plans]
            best = max(range(len(plans)), key=lambda index: rates[index].score)
            _log.info(
                "%s: fuse: auto: %s apart; %s in one process: it runs %s",
                self.spec.ref, *rates, "in one process" if best else "apart",
            )  # fmt: skip
        else:
            best = 0
            _log.warning("%s: fuse: auto: there are no samples to measure with, so it runs apart", self.spec.ref)
        self._plans = [plans[best]]
        kept = {step.path for step in plans[best].leaves()}
        dropped = [self.pools.pop(path) for path in list(self.pools) if path not in kept]
        self._on_change()
        await asyncio.gather(*(pool.close(self.spec.response_timeout_seconds) for pool in dropped))

    async def close(self, drain_seconds: float) -> None:
        self._closing = True
        if self._preparing is not None:
            self._preparing.cancel()
        self._drain_until = min(self._drain_until, self._clock() + drain_seconds)
        self._on_change()
        while self._running and (remaining := self._drain_until - self._clock()) > 0:
            await self._running.rest(min(remaining, 3600))
        self._running.fail(Unavailable(f"model {self.spec.ref} was unloaded"))
        await asyncio.gather(*(pool.close(0) for pool in self.pools.values()))

    def hurry(self) -> None:
        self._drain_until = 0.0
        self._running.rouse()
        for pool in self.pools.values():
            pool.hurry()
