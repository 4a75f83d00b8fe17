"""The open ports of one process, and what its ports share: the access log, and the way to other servers."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from starlette.routing import BaseRoute

from pdserver.configuration.server import Config
from pdserver.dialects.dialect import Dialect
from pdserver.dialects.rpc import Service
from pdserver.engine.catalogue import InferenceEngine
from pdserver.front_ends.answering import WhenSeen
from pdserver.logs.access import access_log
from pdserver.metrics.shared import Statuses
from pdserver.peers import servers
from pdserver.security.guards import Guards
from pdserver.security.routes import Rule
from pdserver.server import grpc_ports
from pdserver.server.http_ports import HttpPorts
from pdserver.server.one_port import OnePort


class Listener(Protocol):
    """One port, or several that are closed together."""

    async def stop(self, grace_seconds: float) -> None:
        """Take no more in, and answer what was accepted, within this time."""

    def hurry(self) -> None:
        """No time is left."""


class Counts(NamedTuple):
    """What is counted of a process's answers."""

    statuses: Statuses
    """By status, over HTTP."""
    forwarded: Counter[tuple[str, str]]
    """Those of other servers, by node and outcome."""


class Transports:
    """All over which a process serves: gRPC, and HTTP with what is spoken beside it."""

    def __init__(
        self,
        config: Config,
        engine: InferenceEngine,
        dialects: Mapping[str, Sequence[Dialect]],
        guards: Guards,
        counts: Counts,
        stack: contextlib.AsyncExitStack,
        seen: WhenSeen | None = None,
    ) -> None:
        """`dialects` are those of each port, by its name. `stack` closes what is opened here. Answers wait for `seen`.

        Raises ConfigError.
        """
        self._config = config
        self._engine = engine
        self._dialects = dialects
        self._guards = guards
        self._stack = stack
        self.listeners: list[Listener] = []
        """Of the ports that are open."""
        access = access_log(config)
        if access is not None:
            stack.callback(access.close)
        noted = access.add if access is not None else None
        others = servers.opened(config, engine.catalogue.elsewhere, counts.forwarded, stack)
        self.peers = others.http if others else None
        """Who answers over HTTP for what is not served here."""
        calls = others.calls if others else None
        self._grpc = grpc_ports.make(noted, guards, calls) if config.enable_grpc else None
        one_port = OnePort(config, dialects, engine, guards, noted, self._grpc)
        self.http_ports = HttpPorts(
            config, dialects, engine.submit, counts.statuses, noted, guards, one_port, self.peers, seen
        )

    async def serve_grpc(
        self, sockets: Mapping[str, Sequence[socket.socket]], management: Sequence[Service] = ()
    ) -> None:
        """Open the ports for which there are sockets, if gRPC is wanted. `management` are the services of its port.

        Raises ConfigError.
        """
        if self._grpc is not None:
            self.listeners.append(self._grpc)
            self._stack.push_async_callback(self._grpc.stop, 0)
            await grpc_ports.serve(
                self._grpc, self._config, self._dialects, self._engine, management, self._guards, sockets
            )

    def serve_http(
        self, name: str, routes: Sequence[BaseRoute], rules: Iterable[BaseRoute | Rule], sockets: list[socket.socket]
    ) -> None:
        """Open a port (`HttpPorts.listener`)."""
        listener = self.http_ports.listener(name, routes, rules, sockets)
        self.listeners.append(listener)
        listener.serve()
