"""Entrances as actors: on their machine, and as the controller sees them."""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import Any

import ray

from pdserver.cluster.actors.asking import answered
from pdserver.cluster.base import EntranceStatus, EntranceView
from pdserver.cluster.entrance import HaproxyEntrance, settings
from pdserver.cluster.folders import OwnFolder, log_to
from pdserver.cluster.head import enter
from pdserver.cluster.node_http import token_of
from pdserver.cluster.options import ClusterOptions
from pdserver.configuration.tokens import Scope
from pdserver.errors import ConfigError, PdError, Unavailable

_PORTS = {
    **{name: name for name in ("inference", "management", "metrics", "grpc_management")},
    "grpc": "grpc_inference",
}
"""Of an entrance, with those of a server for which they stand."""
_OPEN_AGAIN_SECONDS = 1.0
_log = logging.getLogger("pdserver.cluster")


class EntranceShell:
    """A `HaproxyEntrance` as an actor. One whose ports can't be opened tries again."""

    async def __init__(self, options: ClusterOptions) -> None:  # type: ignore[misc]
        self._options = options
        self._own = OwnFolder(options.folder(), "entrance")
        log_to(self._own.path)
        self._host = ray.util.get_node_ip_address()
        self._life = uuid.uuid4().hex
        self._entrance: HaproxyEntrance | None = None
        self._error: PdError = Unavailable("it has not started")
        self._tried = asyncio.Event()
        self._opening = asyncio.create_task(self._open())

    async def _open(self) -> None:
        while self._entrance is None:
            try:
                entrance = self._made()
                await entrance.open()
                self._entrance = entrance
            except PdError as error:
                if str(error) != str(self._error):
                    _log.error("the entrance can't open: %s", error)
                self._error = error
            self._tried.set()
            await asyncio.sleep(_OPEN_AGAIN_SECONDS)

    def _made(self) -> HaproxyEntrance:
        enter(self._options.directory)
        config = self._options.config()
        wanted = {
            name: config.addresses[f"{key}_address"]
            for name, key in _PORTS.items()
            if f"{key}_address" in config.addresses
        }
        token = token_of(self._options.environment, Scope.INFERENCE)
        return HaproxyEntrance(self._own.path, settings(config, wanted, token=token))

    async def _opened(self) -> HaproxyEntrance:
        """Raises why it can't open."""
        await self._tried.wait()
        if self._entrance is None:
            raise self._error
        return self._entrance

    async def opened(self) -> None:
        """Raises PdError, which names the machine."""
        try:
            await self._opened()
        except PdError as error:
            kind = ConfigError if isinstance(error, ConfigError) else Unavailable
            raise kind(f"the entrance on {self._host}: {error}") from None

    async def show(self, view: EntranceView) -> None:
        await (await self._opened()).show(view)

    async def status(self) -> EntranceStatus:
        if self._entrance is None:
            starting = not self._tried.is_set()
            return EntranceStatus(host=self._host, life=self._life, problem=str(self._error), starting=starting)
        return EntranceStatus(host=self._host, life=self._life, addresses=self._entrance.told(self._host))

    async def end(self, grace_seconds: float) -> None:
        self._opening.cancel()
        if self._entrance is not None:
            await self._entrance.close(grace_seconds)


class RayEntrance:
    """An `Entrance` that is an actor."""

    def __init__(self, name: str, actor: Any) -> None:
        self._name = name
        self._actor = actor

    async def show(self, view: EntranceView) -> None:
        await answered(self._name, self._actor.show.remote(view))

    async def status(self) -> EntranceStatus:
        return await answered(self._name, self._actor.status.remote())

    async def opened(self) -> None:
        """Until it takes requests. Raises PdError."""
        await answered(self._name, self._actor.opened.remote())
