"""Which web pages may use a port from a browser.

A browser sends simple requests of any page to any server, also to one that listens on loopback only; the page can't
read the answer, but a model would be unregistered. Browsers say which page it is.
"""

from __future__ import annotations

import msgspec

from pdserver.security.refused import Refused
from pdserver.values import shown

_OWN = (b"same-origin", b"none")
"""Sec-Fetch-Site of a page that this port served itself, and of an address that somebody typed."""


class Cors(msgspec.Struct, frozen=True):
    """What TorchServe's keys cors_allowed_origin, cors_allowed_methods and cors_allowed_headers say; empty: nothing."""

    origin: str = ""
    methods: str = ""
    headers: str = ""

    def response_headers(self) -> list[tuple[str, str]]:
        """For every answer."""
        if not self.origin:
            return []
        given = [
            ("access-control-allow-origin", self.origin),
            ("access-control-allow-methods", self.methods),
            ("access-control-allow-headers", self.headers),
            ("vary", "" if self.origin == "*" else "origin"),
        ]
        return [(name, value) for name, value in given if value]


class Origins:
    """Refuses what a page of somebody else's asks for."""

    def __init__(self, cors: Cors, *, tokens: bool) -> None:
        """With tokens a page can do nothing unless it has one, so then `*` is believed."""
        self._allowed = cors.origin.encode()
        self._any = self._allowed == b"*" and tokens

    def check(self, origin: bytes | None, fetch_site: bytes | None, host: bytes | None, scheme: bytes) -> None:
        """Raises Refused."""
        if self._any or (origin is None and (fetch_site is None or fetch_site in _OWN)):
            return
        if origin is not None and (origin == self._allowed or origin == b"%b://%b" % (scheme, host or b"")):
            return
        page = shown(origin.decode("latin-1")) if origin is not None else "another site"
        raise Refused(403, f"web pages of {page} may not use this port: see cors_allowed_origin")
