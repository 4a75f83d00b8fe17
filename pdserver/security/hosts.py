"""The names by which the server may be called.

A web page can make its own host name resolve to this machine's address (DNS rebinding). Then its scripts can talk to
this server as if it were the page's own, but the Host header still has the page's name. This is impossible with an
address, so addresses are always allowed.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable

from pdserver.formats.values import shown
from pdserver.security.refused import Refused

_HOST = re.compile(rb"(?:\[(?P<six>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[A-Za-z0-9_.-]{1,255}))(?::[0-9]{0,5})?")
_MAX_KNOWN = 1024


class Hosts:
    """The allowed names: this machine's own, those given, `*.example.com` for all below one, `*` for any."""

    def __init__(self, names: Iterable[str]) -> None:
        given = {name.lower().rstrip(".") for name in names}
        self._any = "*" in given
        self._names = {"localhost", socket.gethostname().lower()} | {name for name in given if "*" not in name}
        self._ends = tuple(name[1:] for name in given if name.startswith("*."))
        self.known: set[bytes] = set()
        """Values that were checked and are allowed."""

    def check(self, value: bytes) -> None:
        """Raises Refused unless this value of a Host header is allowed."""
        match = _HOST.fullmatch(value)
        if not match:
            raise Refused(400, f"the header host: {shown(value)} is not a host name and a port")
        if not self._allows(match["six"] or match["name"]):
            raise Refused(
                421,
                f"{shown(value.decode())} is not a name of this server: call it by its address, or add the name to"
                " allowed_hosts",
            )
        if len(self.known) < _MAX_KNOWN:
            self.known.add(value)

    def _allows(self, host: bytes) -> bool:
        name = host.decode().lower().rstrip(".")
        return self._any or name in self._names or name.endswith(self._ends or ("\0",)) or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
