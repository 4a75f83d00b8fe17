"""The client over REST for an event loop, with httpx."""

from __future__ import annotations

import asyncio
import ssl
from types import TracebackType
from typing import TypeVar

try:
    import httpx
except ModuleNotFoundError as error:
    raise ImportError(f"pdserver.client needs {error.name}: pip install 'pdserver[client]'", name=error.name) from None

from pdserver.client import http_calls
from pdserver.client.calls import Answer, Call, Calls
from pdserver.client.errors import TimedOut, Unreachable
from pdserver.client.settings import Port, Settings, Tries
from pdserver.client.verbs import AsyncVerbs

T = TypeVar("T")


class AsyncClient(AsyncVerbs):
    """Keeps its connections; for any number of calls at once."""

    _calls: Calls = http_calls

    def __init__(
        self,
        url: str,
        *,
        management: str = "",
        token: str = "",
        management_token: str = "",
        verify: bool | str = True,
        cert: tuple[str, str] | None = None,
        timeout_seconds: float = 60.0,
        retries: int = 0,
    ) -> None:
        """As `Client`."""
        self._settings = Settings(url, management, token, management_token)
        self._timeout_seconds = timeout_seconds
        self._retries = retries
        self._http = httpx.AsyncClient(
            verify=_context(verify, cert) if self._settings.tls() else False,  # there is nothing to verify
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        )

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Idempotent."""
        await self._http.aclose()

    async def _ask(self, call: Call[T], timeout_seconds: float | None = None) -> T:
        return await self._exchange(self._settings.inference, call, timeout_seconds)

    async def _manage(self, call: Call[T]) -> T:
        return await self._exchange(self._settings.management(), call, None)

    async def _exchange(self, port: Port, call: Call[T], timeout_seconds: float | None) -> T:
        tries = Tries(self._timeout_seconds if timeout_seconds is None else timeout_seconds, self._retries)
        while True:
            answer = await self._send(port, call, tries.left_seconds())
            wait_seconds = tries.wait_seconds(answer)
            if wait_seconds is None:
                return call.parse(answer)
            await asyncio.sleep(wait_seconds)

    async def _send(self, port: Port, call: Call[T], timeout_seconds: float) -> Answer:
        try:
            response = await self._http.request(
                call.method,
                port.url + call.path,
                content=call.body,
                headers={**port.headers(), **call.headers},
                timeout=timeout_seconds,
            )
            return Answer(response.status_code, response.headers, response.content)
        except httpx.TimeoutException:
            raise TimedOut(f"no answer from {port.url} in {timeout_seconds:g} s") from None
        except httpx.HTTPError as error:
            raise Unreachable(f"{port.url}: {str(error) or repr(error)}") from None


def _context(verify: bool | str, cert: tuple[str, str] | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=verify if isinstance(verify, str) else None)
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert:
        context.load_cert_chain(*cert)
    return context
