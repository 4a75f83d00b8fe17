"""The other nodes of a server, as its configuration says: the file, and who asks them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections import Counter
from pathlib import Path

from pdserver.configuration.server import Config
from pdserver.engine.names import Elsewhere
from pdserver.errors import ConfigError
from pdserver.peers.base import Peers
from pdserver.peers.file import PeersFile
from pdserver.peers.http import HttpPeers
from pdserver.peers.others import Others

_log = logging.getLogger("pdserver.peers")


class PeerServers:
    """All that passes requests on. Raises ConfigError for a file that can't be used."""

    def __init__(self, path: Path, config: Config, elsewhere: Elsewhere, counted: Counter[tuple[str, str]]) -> None:
        """`counted` counts (node, outcome)."""
        self._file = PeersFile(path)
        self._others = Others(self._file.peers, elsewhere, counted)
        self.http = HttpPeers(self._others, _tls(config), config.receive_buffer_bytes)

    async def follow(self) -> None:
        """Go by what the file says, whenever it changes, until this is cancelled."""
        await self._file.follow(self._replace)

    def _replace(self, peers: Peers) -> None:
        self._others.replace(peers)
        self.http.nodes_changed()
        _log.info("peers_file has changed, and is in use: %d nodes, %d routes", len(peers.nodes), len(peers.routes))

    async def close(self) -> None:
        """Break off what is not answered. Idempotent."""
        self.http.close()


async def opened(
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


def _tls(config: Config) -> ssl.SSLContext:
    """Nodes must show a certificate for their host, and are shown the server's own if they ask."""
    context = ssl.create_default_context()
    try:
        if config.peers_ca_file is not None:
            context = ssl.create_default_context(cafile=config.peers_ca_file)
        if config.certificate_file and config.private_key_file:
            context.load_cert_chain(config.certificate_file, config.private_key_file)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"peers_ca_file={config.peers_ca_file}: {error}: expected certificates, PEM") from None
    context.set_alpn_protocols(["http/1.1"])
    return context
