"""The other nodes of a server, as its configuration says: the file, and who asks them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from pdserver.configuration.server import Config
from pdserver.engine.names import Elsewhere
from pdserver.errors import ConfigError
from pdserver.peers.base import Peers
from pdserver.peers.file import PeersFile, read
from pdserver.peers.http import HttpPeers
from pdserver.peers.others import Others
from pdserver.peers.tls import TlsToNodes
from pdserver.system.budget import Budget

if TYPE_CHECKING:
    from pdserver.peers.calls import GrpcPeers

_log = logging.getLogger("pdserver.peers")


class PeerServers:
    """All that passes requests on. Raises ConfigError for a configuration that can't be used."""

    def __init__(self, path: Path, config: Config, elsewhere: Elsewhere, counted: Counter[tuple[str, str]]) -> None:
        """`counted` counts (node, outcome)."""
        self._file = PeersFile(path)
        self._others = Others(self._file.peers, elsewhere, counted)
        self._tls, budget = TlsToNodes(config, self._trust), Budget(config.receive_buffer_bytes)
        self.http = HttpPeers(self._others, self._tls, budget)
        self.calls = _calls(config, self._others, self._tls, budget) if config.enable_grpc else None

    async def follow(self) -> None:
        """Go by what the file says, whenever it changes, and by renewed certificates, until this is cancelled."""
        await asyncio.gather(self._file.follow(self._replace), self._tls.watched.watch())

    def _trust(self) -> None:
        if self.calls is not None:
            self.calls.trust(self._tls)

    def _replace(self, peers: Peers) -> None:
        self._others.replace(peers)
        self.http.nodes_changed()
        if self.calls is not None:
            self.calls.nodes_changed()
        _log.info("peers_file has changed, and is in use: %d nodes, %d routes", len(peers.nodes), len(peers.routes))

    async def close(self) -> None:
        """Break off what is not answered. Idempotent."""
        self.http.close()
        if self.calls is not None:
            await self.calls.close()


def opened(
    config: Config, elsewhere: Elsewhere, counted: Counter[tuple[str, str]], stack: contextlib.AsyncExitStack
) -> PeerServers | None:
    """What passes requests on, until `stack` ends it; None: the configuration names no other servers.

    Raises ConfigError.
    """
    if config.peers_file is None:
        return None
    peers = PeerServers(config.peers_file, config, elsewhere, counted)
    stack.push_async_callback(peers.close)
    following = asyncio.create_task(peers.follow())
    stack.callback(following.cancel)
    return peers


def check(config: Config) -> None:
    """Raises ConfigError where `opened` would, but for a library that is missing."""
    if config.peers_file is not None:
        read(config.peers_file)
        TlsToNodes(config)


def _calls(config: Config, others: Others, tls: TlsToNodes, budget: Budget) -> GrpcPeers:
    try:
        from pdserver.peers.calls import GrpcPeers  # only servers with peers need its library
    except ModuleNotFoundError:
        fix = "pip install 'pdserver[cluster]', or set enable_grpc=false"
        raise ConfigError(f"peers_file={config.peers_file}: to pass on calls over gRPC needs grpcio: {fix}") from None
    return GrpcPeers(others, tls, budget)
