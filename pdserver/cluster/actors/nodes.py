"""Nodes as actors: on their machine, and as the controller and other nodes see them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import ray

from pdserver.cluster.actors.asking import answered
from pdserver.cluster.actors.making import BACK_SECONDS, POLL_SECONDS
from pdserver.cluster.base import Archive, Holder, NodeLost, NodeStatus, Target
from pdserver.cluster.folders import OwnFolder, log_to
from pdserver.cluster.node import NodeAgent
from pdserver.cluster.options import ClusterOptions
from pdserver.errors import PdError, Unavailable


class NodeShell:
    """A `NodeAgent` as an actor."""

    async def __init__(self, node: str, options: ClusterOptions) -> None:  # type: ignore[misc] # Ray awaits it
        self._options = options
        self._own = OwnFolder(options.folder(), "node")
        log_to(self._own.path)
        self._agent = NodeAgent(self._own.path, options.node(node, ray.util.get_node_ip_address()))
        self._started = asyncio.create_task(self._agent.start())

    async def status(self) -> NodeStatus:
        return await self._agent.status()

    async def fetch(self, archive: Archive, holder: Holder) -> None:
        try:
            await self._agent.fetch(archive, holder)
        except NodeLost as error:  # which is another node
            raise Unavailable(str(error)) from None

    async def apply(self, target: Target) -> NodeStatus:
        await self._started
        return await self._agent.apply(target)

    async def piece(self, sha256: str, offset: int) -> bytes:
        return await self._agent.piece(sha256, offset)

    async def keep(self, revision: int, snapshot: bytes) -> None:
        await self._agent.keep(revision, snapshot)

    async def kept(self) -> tuple[int, bytes]:
        return await self._agent.kept()

    async def options(self) -> ClusterOptions:
        return self._options

    async def started(self) -> None:
        """Until its server runs. Raises Unavailable when that does not start."""
        await self._started
        self._agent.check()

    async def end(self) -> None:
        """End the server, after it has answered what it took."""
        self._started.cancel()
        await self._agent.close()
        self._own.close()


class RayHolder:
    """A `Holder` that is an actor."""

    def __init__(self, name: str, actor: Any) -> None:
        self._name = name
        self._actor = actor

    async def piece(self, sha256: str, offset: int) -> bytes:
        return await answered(self._name, self._actor.piece.remote(sha256, offset))


class RayNode(RayHolder):
    """A `Node` that is an actor."""

    def __init__(self, name: str, make: Callable[..., Any]) -> None:
        """`make` returns the actor, and makes it if it is not there; with `anew`, it raises ValueError if it is."""
        super().__init__(name, make())
        self._make = make

    async def status(self) -> NodeStatus:
        return await answered(self._name, self._actor.status.remote())

    async def fetch(self, archive: Archive, holder: Holder) -> None:
        await answered(self._name, self._actor.fetch.remote(archive, holder))

    async def apply(self, target: Target) -> NodeStatus:
        return await answered(self._name, self._actor.apply.remote(target))

    async def keep(self, revision: int, snapshot: bytes) -> None:
        await answered(self._name, self._actor.keep.remote(revision, snapshot))

    async def kept(self) -> tuple[int, bytes]:
        return await answered(self._name, self._actor.kept.remote())

    async def restart(self) -> None:
        """With the agent, since an installation is replaced as a whole; one that can't begin is made anew likewise."""
        with contextlib.suppress(PdError):
            await answered(self._name, self._actor.end.remote())
        await asyncio.to_thread(ray.kill, self._actor)
        for _ in range(int(BACK_SECONDS / POLL_SECONDS)):
            try:
                self._actor = await asyncio.to_thread(self._make, anew=True)
            except ValueError:  # the one before has not gone yet
                await asyncio.sleep(POLL_SECONDS)
            else:
                return await answered(self._name, self._actor.started.remote())
        raise Unavailable("Ray has not ended the one before")

    def __reduce__(self) -> tuple[Any, ...]:
        """For other nodes."""
        return RayHolder, (self._name, self._actor)
