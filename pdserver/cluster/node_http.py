"""What the cluster asks the servers of its nodes over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp

from pdserver.cluster.base import NodeLost
from pdserver.configuration.tokens import Scope
from pdserver.peers.tls import TlsToNodes

_MOST_BYTES = 64 * 1024 * 1024
"""Of an answer."""


def token_of(environment: Mapping[str, str], scope: Scope) -> str:
    """A token of the environment for calls of this scope; empty without one. `PD_…_TOKEN` may name several."""
    texts = [environment.get(f"PD_{each.name}_TOKEN", "") for each in (scope, Scope.ADMIN)]
    return next((text.split(",")[0].strip() for text in texts if text), "")


class NodeHttp:
    """`token` is for servers that need one; `tls` says whom to believe where URLs begin with https, None: whom the
    system believes."""

    def __init__(self, token: str = "", tls: TlsToNodes | None = None) -> None:
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def get(self, url: str, *, seconds: float, query: Mapping[str, str] | None = None) -> bytes:
        """The body of an answer with the status 200. Raises NodeLost for any other, and when none comes in time."""
        if self._tls is not None:
            self._tls.watched.has_changed()
        if self._session is None:
            self._session = aiohttp.ClientSession(headers=self._headers, connector=aiohttp.TCPConnector(limit=0))
        tls = self._tls.context if self._tls else True
        limit = aiohttp.ClientTimeout(total=seconds)
        try:
            async with self._session.get(url, params=query, allow_redirects=False, timeout=limit, ssl=tls) as answer:
                body = bytearray()
                async for piece in answer.content.iter_any():
                    body += piece
                    if len(body) > _MOST_BYTES:
                        raise NodeLost(f"{url}: more than {_MOST_BYTES:,} bytes")
                if answer.status != 200:
                    raise NodeLost(f"{url}: status {answer.status}: {body[:200].decode(errors='replace')}")
                return bytes(body)
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            raise NodeLost(f"{url}: {error or type(error).__name__}") from None

    async def close(self) -> None:
        """Idempotent."""
        if self._session is not None:
            await self._session.close()
            self._session = None
