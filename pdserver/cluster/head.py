"""The controller with all that it needs on its machine."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pdserver import __version__
from pdserver.cluster.base import Holder
from pdserver.cluster.controller import Controller
from pdserver.cluster.fleet import Machines
from pdserver.cluster.folders import OwnFolder, log_to
from pdserver.cluster.management import ManagementPort
from pdserver.cluster.node_http import NodeHttp, token_of
from pdserver.cluster.options import ClusterOptions
from pdserver.cluster.state import SnapshotFile
from pdserver.cluster.stored import StoredModels
from pdserver.configuration.tokens import Scope
from pdserver.errors import Unavailable
from pdserver.peers.tls import TlsToNodes


class Head:
    """A controller that runs and answers at the management address."""

    def __init__(self, options: ClusterOptions, machines: Machines, holder: Holder, machine: str) -> None:
        """`machine` is this one's address. Raises ConfigError, OSError when its folder can't be made."""
        enter(options.directory)
        self._own = OwnFolder(options.folder(), "controller")
        log_to(self._own.path)
        config = options.config()
        self.models = StoredModels(config, self._own.path)
        snapshots = SnapshotFile(self._own.path / "snapshots" / options.cluster)
        self.controller = Controller(machines, self.models, snapshots, version=__version__, holder=holder)
        nodes = NodeHttp(token_of(options.environment, Scope.MANAGEMENT), TlsToNodes(config))
        self._port = ManagementPort(
            self.controller, config, self._own.path, nodes, self.models.names,
            machine=machine, address=options.behind(machine),
        )  # fmt: skip
        self._running: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Raises ConfigError when the port can't be opened."""
        await self._port.open()
        self.controller.answers_at(self._port.url, self._port.grpc_url)
        self._running = asyncio.create_task(self.controller.run())

    @property
    def addresses(self) -> dict[str, str]:
        """Of the management, once it is open: its URL, and HOST:PORT of gRPC."""
        return {"management": self._port.url} | ({"grpc_management": self._port.grpc} if self._port.grpc else {})

    def check(self) -> None:
        """Raises what has ended the controller, if it has."""
        if self._running is not None and self._running.done():
            self._running.result()

    async def ready(self) -> None:
        """As the controller's, and raises what has ended it meanwhile."""
        try:
            await self.controller.ready()
        except Unavailable:
            if self._running is not None:
                await asyncio.wait([self._running])
            self.check()
            raise

    async def close(self) -> None:
        """Let changes go to their ends, and leave the nodes as they are."""
        await self.controller.close()
        await self._port.close()
        self._own.close()


def enter(directory: str) -> None:
    """Relative paths of the configuration begin there, if the machine has it."""
    if Path(directory).is_dir():
        os.chdir(directory)
