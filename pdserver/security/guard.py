"""The checks of one port: by which names, by which pages, and with which tokens it may be called."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from pdserver.configuration.tokens import Scope
from pdserver.security.access import Need
from pdserver.security.failures import Failures
from pdserver.security.hosts import Hosts
from pdserver.security.keyring import Keyring, too_many
from pdserver.security.origins import Cors, Origins
from pdserver.security.refused import Refused
from pdserver.security.restricted import Restriction
from pdserver.security.routes import Rules

Headers = list[tuple[bytes, bytes]]


class Guard:
    """The guard of one port. Without a `keyring`, nobody needs a token."""

    def __init__(
        self,
        rules: Rules,
        undeclared: Need,
        hosts: Hosts,
        keyring: Keyring | None,
        origins: Origins,
        cors: Cors,
        restricted: Mapping[str, Restriction],
        failures: Failures,
    ) -> None:
        self.rules = rules
        self.undeclared = undeclared
        """What a call needs if none of the port's routes or RPCs answers it."""
        self.hosts = hosts
        self.keyring = keyring
        self.cors = cors
        self.asks = keyring is not None or bool(restricted)
        """Whether some calls need a token, or a header that counts as one."""
        self._origins = origins
        self._restricted = restricted
        self._secret = frozenset(restriction.header for restriction in restricted.values())
        self._failures = failures

    def check_page(self, need: Need, headers: Headers, own: bytes = b"") -> None:
        """Raises Refused for a page that may not make such a call. `own` is the origin of this port's own pages."""
        if need.guarded:
            self._origins.check(headers, own)

    def check_token(self, need: Need, headers: Headers, authorization: bytes | None, client: str) -> str:
        """The scope of the token, if the call needs one. Raises Refused if the header `authorization` has no such
        token, unless the call's API is restricted to another header and that one is sent."""
        restriction = self._restricted.get(need.api)
        if restriction is not None:
            if restriction.is_met(headers):
                return ""
            if self.keyring is None or authorization is None:
                guessed = any(name == restriction.header for name, _ in headers)
                if guessed and self._failures.another(client, time.monotonic()):
                    raise too_many()
                raise Refused(restriction.status, restriction.message)
            return self.keyring.check(authorization, need.scopes or frozenset(Scope), client)
        if self.keyring is not None and need.scopes:
            return self.keyring.check(authorization, need.scopes, client)
        return ""

    def allowed_until(self, need: Need, authorization: bytes | None) -> float:
        """How long the call that `check_token` has just allowed is allowed, in seconds since 1970. 0: not known."""
        if self.keyring is None:
            return math.inf
        if authorization is None or need.api in self._restricted:
            return 0.0
        return self.keyring.valid_until(authorization)

    def shown(self, headers: Headers) -> Headers:
        """The headers that models may see: without those of restricted APIs, whichever API was called."""
        return [header for header in headers if header[0] not in self._secret] if self._secret else headers
