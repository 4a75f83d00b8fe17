"""The valid tokens: those in the environment, and those in a file that may change while the server runs."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path

from pdserver.configuration.tokens import Scope, Token, matching, scopes_of
from pdserver.errors import ConfigError, Conflict
from pdserver.security import token_file
from pdserver.security.failures import Failures
from pdserver.security.refused import Refused
from pdserver.security.watched import Watched

_log = logging.getLogger("pdserver.security")
OVERLAP_SECONDS = 300
"""How long a replaced token stays valid."""


class Keyring:
    """Checks clients' tokens."""

    def __init__(
        self,
        given: Sequence[Token],
        file: Path | None,
        expire_after_seconds: float = math.inf,
        failures: Failures | None = None,
        *,
        makes_tokens: bool = True,
    ) -> None:
        """Without a file there are only the `given` tokens. Unless another process does it, a missing file is created,
        and tokens that have all expired are renewed. Raises ConfigError."""
        self._given = tuple(given)
        self._makes_tokens = makes_tokens
        self._file = file
        self._expire_after = expire_after_seconds
        self._failures = failures or Failures()
        self.tokens = self._given
        """The valid tokens, and those that have expired. Another tuple once they change."""
        self.watched: Watched | None = None
        if file is not None:
            if makes_tokens:
                self._make(file)
            else:
                self._load(file)
            self.watched = Watched([file], self._reload)
        missing = {scope.value for scope in Scope} - {token.scope.value for token in self.tokens}
        if missing and makes_tokens:
            _log.warning("there is no token for %s: calls that need one are refused", ", ".join(sorted(missing)))

    def _make(self, file: Path) -> None:
        """Make the tokens that are wanting."""
        now = time.time()
        if not file.exists():
            token_file.write(file, {scope.value: token_file.new_entry(self._expiry(scope, now)) for scope in Scope})
            _log.info("made tokens for inference, management and admin: %s", file)
        self._load(file)
        for scope in Scope:
            of_scope = [token for token in self.tokens if token.scope is scope]
            if of_scope and all(token.expires_at <= now for token in of_scope):
                self.renew(scope)

    def _load(self, file: Path) -> None:
        self.tokens = (*self._given, *token_file.tokens(file, token_file.read(file)))

    def _reload(self) -> None:
        assert self._file is not None  # noqa: S101
        try:
            self._load(self._file)
        except ConfigError as error:
            _log.error("%s; the tokens that there were stay in force", error)
        else:
            _log.info("%s has changed: its tokens are in force", self._file)

    def _expiry(self, scope: Scope, now: float) -> float:
        return math.inf if scope is Scope.ADMIN else now + self._expire_after

    def renew(self, scope: Scope) -> str:
        """Make a new token of that scope. The old one stays valid for OVERLAP_SECONDS. Raises Conflict."""
        if self._file is None:
            raise Conflict("the tokens are given in the environment: change them there")
        now = time.time()
        try:
            content = token_file.with_new_key(
                token_file.read(self._file), scope, self._expiry(scope, now), now + OVERLAP_SECONDS, now
            )
            token_file.write(self._file, content)
        except ConfigError as error:
            raise Conflict(str(error)) from None
        self._load(self._file)
        key: str = content[scope.value]["key"]
        return key

    def check(self, authorization: bytes | None, allowed: frozenset[Scope], client: str) -> str:
        """The scope of the token in the header `authorization`. Raises Refused unless it is one of `allowed`."""
        scopes = self._scopes(authorization)
        if not scopes & allowed and self._has_news():
            scopes = self._scopes(authorization)
        if fitting := scopes & allowed:
            return next(iter(fitting)).value
        names = " or ".join(sorted(scope.value for scope in allowed))
        if self._failures.another(client, time.monotonic()):
            raise too_many()
        if scopes:
            challenge = b'Bearer realm="pdserver", error="insufficient_scope"'
            message = f"this token is for {', '.join(sorted(scopes))}: this call needs one for {names}"
            raise Refused(403, message, ((b"www-authenticate", challenge),))
        if authorization is None:
            challenge, message = b'Bearer realm="pdserver"', f"send `Authorization: Bearer …` with a token for {names}"
        else:
            challenge = b'Bearer realm="pdserver", error="invalid_token"'
            message = f"not a valid token; expected `Authorization: Bearer …` with one for {names}"
        raise Refused(401, message, ((b"www-authenticate", challenge),))

    def _scopes(self, authorization: bytes | None) -> set[Scope]:
        scheme, _, token = (authorization or b"").partition(b" ")
        return scopes_of(token.strip(), self.tokens, time.time()) if scheme.lower() == b"bearer" else set()

    def _has_news(self) -> bool:
        """Whether the process that makes the tokens has just made others."""
        return not self._makes_tokens and self.watched is not None and self.watched.has_changed()

    def valid_until(self, authorization: bytes) -> float:
        """When the token in a header that `check` has just let pass expires, in seconds since 1970."""
        token = authorization.partition(b" ")[2].strip()
        return min((each.expires_at for each in matching(token, self.tokens, time.time())), default=0.0)


def too_many() -> Refused:
    """The refusal of a client that fails too often."""
    return Refused(429, "too many failed attempts: try again in a second", ((b"retry-after", b"1"),))
