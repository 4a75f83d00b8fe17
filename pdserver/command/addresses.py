"""Where servers are managed that were started with the flags of another server, which has no such port."""

from __future__ import annotations

from pdserver.configuration.server import Config
from pdserver.configuration.values import Address

_DISTANCE = 20_000


def management_address(port: int, said: Config) -> Address:
    """That of the server with this port, unless the operator's configuration, `said`, has one.

    It is a port of its own on this machine, so that several such servers can run side by side.
    """
    if "management_address" in said.given:
        return said.management_address
    return Address("localhost", port + (_DISTANCE if port + _DISTANCE <= 65535 else -_DISTANCE))
