"""What stands before one port: by which names it may be called, by which pages, and with which tokens."""

from __future__ import annotations

from pdserver.security.access import Rules
from pdserver.security.hosts import Hosts
from pdserver.security.keyring import Keyring
from pdserver.security.origins import Cors, Origins


class Guard:
    """Of one port. `keyring` None: nobody needs a token; `origins` None: any page may send what browsers send."""

    def __init__(
        self, rules: Rules, hosts: Hosts, keyring: Keyring | None, origins: Origins | None, cors: Cors
    ) -> None:
        self.hosts = hosts
        self.keyring = keyring
        self.origins = origins
        self.cors = cors
        self.asks = keyring is not None or origins is not None
        """Whether more than the name has to be right."""
        self._rules = rules

    def check_token(self, path: bytes, authorization: bytes | None, client: str) -> None:
        """Raises Refused unless a call of `path`, a target without its query or a gRPC method, is allowed."""
        if self.keyring is not None and (allowed := self._rules.allowed(path)):
            self.keyring.check(authorization, allowed, client)
