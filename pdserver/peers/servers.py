"""The other nodes of a server, as its configuration says: the file, and who asks them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
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
        tls, budget = tls_to_nodes(config), Budget(config.receive_buffer_bytes)
        self.http = HttpPeers(self._others, tls, budget)
        self.calls = _calls(config, self._others, tls, budget) if config.enable_grpc else None

    async def follow(self) -> None:
        """Go by what the file says, whenever it changes, until this is cancelled."""
        await self._file.follow(self._replace)

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
        tls_to_nodes(config)


def _calls(config: Config, others: Others, tls: ssl.SSLContext, budget: Budget) -> GrpcPeers:
    try:
        from pdserver.peers.calls import GrpcPeers  # only servers with peers need its library
    except ModuleNotFoundError:
        fix = "pip install 'pdserver[cluster]', or set enable_grpc=false"
        raise ConfigError(f"peers_file={config.peers_file}: to pass on calls over gRPC needs grpcio: {fix}") from None
    roots = "".join(map(ssl.DER_cert_to_PEM_cert, tls.get_ca_certs(binary_form=True))).encode()
    own = [path.read_bytes() for path in (config.private_key_file, config.certificate_file) if path is not None]
    return GrpcPeers(others, roots, own, budget)


def tls_to_nodes(config: Config) -> ssl.SSLContext:
    """Nodes must show a certificate for their host, and are shown the server's own if they ask."""
    try:
        context = ssl.create_default_context(cafile=config.peers_ca_file)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"peers_ca_file={config.peers_ca_file}: {error}: expected certificates, PEM") from None
    if config.certificate_file and config.private_key_file:
        context.load_cert_chain(config.certificate_file, config.private_key_file)
    context.set_alpn_protocols(["http/1.1"])
    return context
