"""Sockets of the cluster's own ports."""

from __future__ import annotations

import os
import socket

from pdserver.configuration.values import Address
from pdserver.errors import ConfigError
from pdserver.security.listening import BACKLOG

_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104


def listening(what: str, address: Address) -> socket.socket:
    """A socket that listens there. Raises ConfigError; `what` names the port."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
    except OSError as error:
        said = os.strerror(error.errno or 0)
        raise ConfigError(f"{what}={address}: {said}: name an address of this machine, and a free port") from None


def where(sock: socket.socket, machine: str = "") -> str:
    """HOST:PORT, with the real port where 0 was asked for, and with this machine's address, if it is given, where the
    socket listens at all of them."""
    host, port = sock.getsockname()[:2]
    return Address(machine if machine and host in _EVERYWHERE else host, port).host_and_port
