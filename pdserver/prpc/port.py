"""What all PRPC connections of one port share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from pdserver.dialects.rpc import Method, OtherServers, Prediction, RpcError, Service, Unary
from pdserver.grpc.port import Access, Check, Connections, Memory, PortLimits


class PrpcPort(msgspec.Struct, kw_only=True):
    """A port on which PRPC is spoken."""

    services: Mapping[str, Mapping[str, Method]]
    """See `by_name`."""
    limits: PortLimits
    memory: Memory
    check: Check | None
    """None if all calls are allowed."""
    error_of: Callable[[BaseException], RpcError | None]
    """Translates a method's exception for the client. None if it is an error of the server's own."""
    access: Access | None
    peers: OtherServers | None = None
    """Who answers for what is not served here, over gRPC."""
    known: dict[tuple[str, str], tuple[Unary | Prediction, bytes]] = msgspec.field(default_factory=dict)
    """Methods that were called: service and method → the method, and how the access log names it."""
    connections: Connections
    """The port's connections, of whatever protocol. The listener ends them by `shutdown`."""


class Caller(Protocol):
    """A client's connection, as its calls see it."""

    port: PrpcPort
    loop: asyncio.AbstractEventLoop
    host: str
    client: str
    authorization: bytes | None
    """The token that the client has shown, as the header of HTTP has it."""

    def unread_bytes(self) -> int: ...

    def send(self, pieces: Sequence[bytes]) -> None: ...

    def hold(self, more_bytes: int, own_bytes: int) -> bool: ...

    def ended(self, call: Any) -> None: ...


def full_name(services: Mapping[str, Mapping[str, Method]], name: str) -> str:
    """The full name of a service that has one of its names."""
    return max((each for each, methods in services.items() if methods is services[name]), key=len)


def by_name(services: Iterable[Service]) -> dict[str, Mapping[str, Method]]:
    """Service → method → what it does. Services have their full names, and what comes behind the last dot unless two
    services have the same there: some of brpc's clients leave the package out."""
    found = {service.name: service.methods for service in services}
    short = [name.rpartition(".")[2] for name in found]
    return {name.rpartition(".")[2]: found[name] for name in found if short.count(name.rpartition(".")[2]) == 1} | found
