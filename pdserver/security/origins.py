"""Which web pages may make calls that change something.

A browser sends any page's simple requests to any server, even to one that listens only on loopback. The page can't read
the answer, but a model would be unregistered. Browsers name the page in a header. In addition, the content types that a
page can send without a preflight request are refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pdserver.formats.values import shown
from pdserver.security.refused import Refused

_OWN, _TYPED = b"same-origin", b"none"
"""Sec-Fetch-Site for a page that this port served itself, and for an address that somebody typed."""
_FORMS = (b"text/plain", b"multipart/form-data")


class Cors(msgspec.Struct, frozen=True):
    """TorchServe's keys cors_allowed_origin, cors_allowed_methods and cors_allowed_headers. Empty if not set."""

    origin: str = ""
    methods: str = ""
    headers: str = ""

    def response_headers(self) -> list[tuple[str, str]]:
        """The headers of every answer."""
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
    """Refuses calls by pages of other sites."""

    def __init__(self, cors: Cors, *, tokens: bool, own_pages: bool) -> None:
        """`*` is accepted only with tokens, without which a page can do nothing then. `own_pages`: whether pages that
        the port served itself may make all calls."""
        self._allowed = cors.origin.encode()
        self._any = self._allowed == b"*" and tokens
        self._own_pages = own_pages

    def check(self, headers: Sequence[tuple[bytes, bytes]], own: bytes) -> None:
        """Raises Refused for a page that is not allowed, and for content types that need no preflight request. `own` is
        the origin of the port's own pages."""
        seen = dict(headers)
        _check_form(seen.get(b"content-type", b""))
        page = seen.get(b"origin")
        site = seen.get(b"sec-fetch-site")
        if page is None and site is None and b"referer" in seen:  # an old browser, or a proxy that removes headers
            page = _origin_of(seen[b"referer"])
        if self._any or self._allows(page, site, own):
            return
        who = shown(page.decode("latin-1")) if page is not None else "another site"
        raise Refused(
            403, f"web pages of {who} may not ask for this: set cors_allowed_origin if they are to manage the server"
        )

    def _allows(self, page: bytes | None, site: bytes | None, own: bytes) -> bool:
        if page is not None:
            return page == self._allowed or (self._own_pages and page == own)
        return site is None or site == _TYPED or (self._own_pages and site == _OWN)


def _check_form(content_type: bytes) -> None:
    """Raises Refused for the content types that any page's form can send, except for curl's default."""
    kind = content_type.partition(b";")[0].strip().lower()
    if kind in _FORMS:
        raise Refused(415, f"content-type: {kind.decode()}: send application/json here: any page could send a form")


def _origin_of(address: bytes) -> bytes:
    """The scheme and host of a page's address."""
    return b"/".join(address.split(b"/", 3)[:3])
