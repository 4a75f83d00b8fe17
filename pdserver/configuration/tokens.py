"""Tokens: what each of them allows, and how one is recognised.

Only hashes are kept. A token is looked up by comparing its hash with every known one, each in constant time, so that
neither the time nor a memory dump of the server says anything of a token that is not known already.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
from collections.abc import Iterable
from enum import Enum

import msgspec

MIN_CHARACTERS = 32
_TOKEN = re.compile(rf"[\x21-\x7e]{{{MIN_CHARACTERS},512}}")


class Scope(str, Enum):
    """What a token allows."""

    INFERENCE = "inference"
    MANAGEMENT = "management"
    ADMIN = "admin"


class Token(msgspec.Struct, frozen=True):
    """A known token, by its hash."""

    digest: bytes
    scope: Scope
    expires_at: float = math.inf
    """Seconds since 1970."""

    @classmethod
    def of(cls, text: str, scope: Scope, expires_at: float = math.inf) -> Token:
        """Raises ValueError, without the text, when it could be guessed or can't be sent."""
        if not _TOKEN.fullmatch(text):
            raise ValueError(
                f"expected {MIN_CHARACTERS} to 512 visible ASCII characters for the {scope.value} token:"
                " openssl rand -hex 32 makes one"
            )
        return cls(digest(text.encode()), scope, expires_at)


def new_token() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


def scopes_of(token: bytes, known: Iterable[Token], now: float) -> set[Scope]:
    """What `token` allows at `now` (seconds since 1970); nothing when it is not known."""
    return {each.scope for each in matching(token, known, now)}


def matching(token: bytes, known: Iterable[Token], now: float) -> list[Token]:
    """The known tokens that `token` is, without those that have expired at `now`."""
    given = digest(token)
    return [each for each in known if hmac.compare_digest(each.digest, given) and now < each.expires_at]


def digest(token: bytes) -> bytes:
    """The hash by which a token is known."""
    return hashlib.sha256(token).digest()
