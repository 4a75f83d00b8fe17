"""The controller as an actor."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import ray

from pdserver.cluster.actors.machines import RayMachines
from pdserver.cluster.actors.nodes import RayHolder
from pdserver.cluster.base import ClusterView, Wanted
from pdserver.cluster.head import Head
from pdserver.cluster.options import ClusterOptions
from pdserver.errors import ConfigError, Conflict

_PROGRESS_SECONDS = 0.5


class ControllerShell:
    """A `Head` as an actor."""

    async def __init__(self, options: ClusterOptions) -> None:  # type: ignore[misc]
        self._options = options
        self._machines = RayMachines(options)
        self._me = RayHolder("the controller", ray.get_runtime_context().current_actor)
        self._opening = asyncio.create_task(self._open())
        self._upgrade: asyncio.Task[None] | None = None
        self._lines: list[str] = []
        """What the last upgrade has told."""

    async def _open(self) -> Head:
        try:
            head = Head(self._options, self._machines, self._me, ray.util.get_node_ip_address())
        except OSError as error:
            raise ConfigError(f"state_location={self._options.state}: {error.strerror}: name another folder") from None
        await head.open()
        return head

    async def _head(self) -> Head:
        """Raises what keeps it from running."""
        head = await asyncio.shield(self._opening)
        head.check()
        return head

    async def opened(self) -> None:
        """Until it runs, and the entrances on the machines that are there take requests. Raises what keeps them from
        it."""
        await self._head()
        there, _ = await self._machines.ray_entrances()
        await asyncio.gather(*(entrance.opened() for entrance in there.values()))

    async def addresses(self) -> dict[str, str]:
        """Its own, by the names of its ports: those of a cluster without entrances."""
        return (await self._head()).addresses

    async def names(self) -> list[str]:
        """Of the archives of the model store."""
        return await asyncio.to_thread((await self._head()).models.names)

    async def register(self, url: str, **given: Any) -> Wanted:
        return await (await self._head()).controller.register(url, **given)

    async def scale(self, name: str, version: str | None = None, **given: Any) -> Wanted:
        return await (await self._head()).controller.scale(name, version, **given)

    async def set_default(self, name: str, version: str) -> None:
        await (await self._head()).controller.set_default(name, version)

    async def unregister(self, name: str, version: str | None = None) -> None:
        await (await self._head()).controller.unregister(name, version)

    async def upgrade(self) -> None:
        """Begin; `upgraded` tells how far it is. Raises Conflict."""
        if self._upgrade is not None and not self._upgrade.done():
            raise Conflict("an upgrade is running already: pdserver cluster status")
        self._lines = []
        self._upgrade = asyncio.create_task(self._collect((await self._head()).controller.upgrade()))

    async def _collect(self, lines: AsyncIterator[str]) -> None:
        async for line in lines:
            self._lines.append(line)

    async def upgraded(self, seen: int) -> tuple[list[str], bool]:
        """What was told after so many lines, and whether all is done. Raises PdError, once all lines are seen."""
        assert self._upgrade is not None, "upgrade() comes first"  # noqa: S101
        await asyncio.wait([self._upgrade], timeout=_PROGRESS_SECONDS)
        lines = self._lines[seen:]
        if self._upgrade.done() and not lines:
            self._upgrade.result()
        return lines, self._upgrade.done() and not lines

    async def ready(self) -> None:
        """Until it answers at the cluster's management address."""
        await (await self._head()).ready()

    async def process(self) -> int:
        """Its number: another one after it has begun anew."""
        return os.getpid()

    async def view(self) -> ClusterView:
        return (await self._head()).controller.view()

    async def piece(self, sha256: str, offset: int) -> bytes:
        return await (await self._head()).controller.piece(sha256, offset)

    async def end(self) -> None:
        await (await self._head()).close()
