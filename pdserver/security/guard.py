"""What stands before one port: by which names it may be called, by which pages, and with which tokens."""

from __future__ import annotations

from collections.abc import Sequence

from pdserver.security.access import Need
from pdserver.security.hosts import Hosts
from pdserver.security.keyring import Keyring
from pdserver.security.origins import Cors, Origins
from pdserver.security.routes import Rules

Headers = Sequence[tuple[bytes, bytes]]


class Guard:
    """Of one port. `keyring` None: nobody needs a token."""

    def __init__(
        self, rules: Rules, undeclared: Need, hosts: Hosts, keyring: Keyring | None, origins: Origins, cors: Cors
    ) -> None:
        self.rules = rules
        self.undeclared = undeclared
        """What a call needs that none of the port's routes or RPCs answers."""
        self.hosts = hosts
        self.keyring = keyring
        self.cors = cors
        self._origins = origins

    def check_page(self, need: Need, headers: Headers, own: bytes = b"") -> None:
        """Raises Refused for a page that may not make such a call. `own` is the origin of pages of this port."""
        if need.guarded:
            self._origins.check(headers, own)

    def check_token(self, need: Need, authorization: bytes | None, client: str) -> None:
        """Raises Refused unless the header `authorization` has a token for such a call."""
        if self.keyring is not None and need.scopes:
            self.keyring.check(authorization, need.scopes, client)
