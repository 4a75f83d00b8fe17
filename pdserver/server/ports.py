"""Opens the ports of the configuration, before anything else begins."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Mapping
from typing import Any

from pdserver.configuration.server import Config
from pdserver.configuration.values import Address
from pdserver.errors import ConfigError
from pdserver.security.listening import BACKLOG
from pdserver.server import grpc_ports

_JOINING = ("management", "metrics")
"""These may share the address of the inference port, or of each other."""


class Ports:
    """The open ports by name: inference, management, metrics, grpc_inference, …"""

    def __init__(self, config: Config, stack: contextlib.AsyncExitStack) -> None:
        """Open all ports, and close them with `stack`. Raises ConfigError if one can't be opened."""
        self.sockets: dict[str, list[socket.socket]] = {}
        self.joined: dict[str, str] = {}
        """Port → the other port whose address it shares."""
        self.addresses: dict[str, str] = {}
        """URLs, and host:port for gRPC. If the configuration says 0, they have the real port."""
        listening: dict[Address, str] = {}
        taken: dict[int, str] = {}
        for key, address in config.addresses.items():
            name = key.removesuffix("_address")
            if name in _JOINING and address.port and address in listening:
                self.joined[name] = listening[address]
                self.addresses[name] = self.addresses[listening[address]]
                continue
            if name in ("inference", *_JOINING):
                listening[address] = name
            grpc = "grpc" in name
            setting = grpc_ports.setting(name, address) if grpc else f"{key}={address}"
            sockets = _bind(setting, address, taken)
            taken[sockets[0].getsockname()[1]] = setting
            for sock in sockets:
                stack.callback(sock.close)
            bound = [_where(sock, tls=address.tls) for sock in sockets]
            self.sockets[name] = sockets
            self.addresses[name] = " ".join(each.host_and_port if grpc else str(each) for each in bound)


def _where(sock: socket.socket, *, tls: bool) -> Address:
    host, port = sock.getsockname()[:2]
    return Address(host, port, tls)


def _bind(setting: str, address: Address, taken: Mapping[int, str]) -> list[socket.socket]:
    """A socket for each address of the host, all with the same port. `taken` maps ports of this server to the setting
    of each."""
    hosts = ("127.0.0.1", "::1") if address.host.lower() == "localhost" else (address.host,)
    try:
        found = [each for host in hosts for each in socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM)]
    except socket.gaierror as error:
        raise ConfigError(f"{setting}: {error.strerror}: name an address of this machine") from None
    sockets: list[socket.socket] = []
    port = address.port
    for family, kind, protocol, _, where in dict.fromkeys(found):
        try:
            sock = _listening(family, kind, protocol, (where[0], port, *where[2:]))
        except OSError as error:
            if sockets and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue  # this machine has no IPv6
            for other in sockets:
                other.close()
            fix = "stop what uses it, or choose another port"
            if error.errno == errno.EADDRINUSE and port in taken:
                fix = f"{taken[port]} has the same port: choose another for one of them"
            raise ConfigError(f"{setting}: {error.strerror}: {fix}") from None
        port = sock.getsockname()[1]
        sockets.append(sock)
    return sockets


def _listening(family: int, kind: int, protocol: int, where: Any) -> socket.socket:
    """Raises OSError."""
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock
