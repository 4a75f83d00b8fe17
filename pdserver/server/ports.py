"""Opens the ports of the configuration, before anything else begins."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Mapping, Sequence
from itertools import chain

from pdserver.configuration.server import Config
from pdserver.configuration.values import Address
from pdserver.errors import ConfigError
from pdserver.server import grpc_ports
from pdserver.server.sockets import listening, share

_JOINING = ("management", "metrics")
"""These may share the address of the inference port, or of each other."""
_OF_ONE_PROCESS = frozenset({*_JOINING, "grpc_management"})
"""The main process serves these itself, unless they share the address of another."""


class Ports:
    """The open ports by name: inference, management, metrics, grpc_inference, …"""

    def __init__(self, config: Config, stack: contextlib.AsyncExitStack) -> None:
        """Open all ports, and close them with `stack`. Raises ConfigError if one can't be opened."""
        self.sockets: dict[str, list[socket.socket]] = {}
        """Those of the ports that this process serves."""
        several = config.front_ends > 1
        self.of_front_ends: list[dict[str, list[socket.socket]]] = [{} for _ in range(config.front_ends * several)]
        """For each front end the sockets that it serves, by port. They stay open here, so that connections wait for the
        successor of a front end that dies. Empty if this process serves all ports itself."""
        self.joined: dict[str, str] = {}
        """Port → the other port whose address it shares."""
        self.addresses: dict[str, str] = {}
        """URLs, and host:port for gRPC. If the configuration says 0, they have the real port."""
        first: dict[Address, str] = {}
        taken: dict[int, str] = {}
        for key, address in config.addresses.items():
            name = key.removesuffix("_address")
            if name in _JOINING and address.port and address in first:
                self.joined[name] = first[address]
                self.addresses[name] = self.addresses[first[address]]
                continue
            if name in ("inference", *_JOINING):
                first[address] = name
            grpc = "grpc" in name
            setting = grpc_ports.setting(name, address) if grpc else f"{key}={address}"
            servers = [self.sockets] if name in _OF_ONE_PROCESS else self.of_front_ends or [self.sockets]
            by_host = _bind(setting, address, taken, len(servers))
            taken[by_host[0][0].getsockname()[1]] = setting
            for sock in chain(*by_host):
                stack.callback(sock.close)
            for server, sockets in zip(servers, zip(*by_host, strict=True), strict=True):
                server[name] = list(sockets)
            bound = [_where(sockets[0], tls=address.tls) for sockets in by_host]
            self.addresses[name] = " ".join(each.host_and_port if grpc else str(each) for each in bound)

    def share(self, among: Sequence[int]) -> None:
        """Have new connections go to these front ends only, as long as there are others that answer none."""
        first, *_ = self.of_front_ends
        for name, sockets in first.items():
            for host in range(len(sockets)):
                share([each[name][host] for each in self.of_front_ends], among)


def _where(sock: socket.socket, *, tls: bool) -> Address:
    host, port = sock.getsockname()[:2]
    return Address(host, port, tls)


def _bind(setting: str, address: Address, taken: Mapping[int, str], count: int) -> list[list[socket.socket]]:
    """So many sockets for each address of the host, all with the same port. `taken` maps ports of this server to the
    setting of each."""
    hosts = ("127.0.0.1", "::1") if address.host.lower() == "localhost" else (address.host,)
    try:
        found = [each for host in hosts for each in socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM)]
    except socket.gaierror as error:
        raise ConfigError(f"{setting}: {error.strerror}: name an address of this machine") from None
    by_host: list[list[socket.socket]] = []
    port = address.port
    for family, kind, protocol, _, where in dict.fromkeys(found):
        try:
            sockets = listening(family, kind, protocol, (where[0], port, *where[2:]), count)
        except OSError as error:
            if by_host and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue  # this machine has no IPv6
            for other in chain(*by_host):
                other.close()
            fix = "stop what uses it, or choose another port"
            if error.errno == errno.EADDRINUSE and port in taken:
                fix = f"{taken[port]} has the same port: choose another for one of them"
            raise ConfigError(f"{setting}: {error.strerror}: {fix}") from None
        port = sockets[0].getsockname()[1]
        by_host.append(sockets)
    return by_host
