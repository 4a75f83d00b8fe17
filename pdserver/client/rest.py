"""The clients over REST: `Client` blocks, `AsyncClient` is for an event loop. Both use httpx."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

try:
    import httpx
except ModuleNotFoundError as error:
    raise ImportError(f"pdserver.client needs {error.name}: pip install 'pdserver[client]'", name=error.name) from None

from pdserver.client import http_calls
from pdserver.client.calls import Answer, Calls, Port
from pdserver.client.errors import TimedOut, Unreachable
from pdserver.client.faces import Attempt, Awaited, Blocking
from pdserver.client.verbs import Verbs

_NUMBERS = re.compile(r"^\[.*?\] ?| \(_ssl\.c:\d+\)$")
"""What surrounds a message of the system or of TLS, as in "[Errno 111] Connection refused"."""


class _Rest(Verbs):
    _calls: Calls = http_calls
    _example = "http://HOST:8081"
    _library: type[httpx.Client] | type[httpx.AsyncClient]

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
        """`url` is the inference port's; `management` is the management port's, which only managing models needs.

        `token` goes to both ports, unless `management_token` goes to the management port.
        `verify` is a file with the certificates of the authorities to trust; False trusts any server.
        `cert` holds the files of the client's own certificate and its key.
        `timeout_seconds` is how long the server may be silent, unless a call sets its own.
        `retries` is how many times to ask again when the server is too busy, each time after the wait that the server
        asks for, if that ends before the timeout.

        Raises ValueError for a URL of another form, OSError for a file that can't be read.
        """
        for name, given in (("url", url), ("management", management)):
            if (given or name == "url") and not _is_address(given):
                raise ValueError(f"{name}={given!r}: expected http://HOST:PORT or https://HOST:PORT")
        inference = Port(url.rstrip("/"), token)
        manager = Port(management.rstrip("/"), management_token or token)
        super().__init__(inference, manager, timeout_seconds, retries)
        tls = any(port.address.startswith("https:") for port in (inference, manager))
        self._http: Any = self._library(
            verify=_context(verify, cert) if tls else False,  # reading the authorities takes a while
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        )

    def _request(self, attempt: Attempt) -> httpx.Request:
        port, call = attempt.port, attempt.call
        request: httpx.Request = self._http.build_request(
            call.method,
            port.address + call.path,
            content=call.body,
            headers={**port.headers(), **call.headers},
            timeout=attempt.timeout_seconds,
        )
        return request


class Client(_Rest, Blocking):
    """Keeps its connections. Several threads may use it at once."""

    _library = httpx.Client

    def close(self) -> None:
        self._http.close()

    def _send(self, attempt: Attempt) -> Answer:
        with _failures(attempt):
            return _answer(attempt, self._http.send(self._request(attempt)))


class AsyncClient(_Rest, Awaited):
    """Keeps its connections. Any number of calls may run at once."""

    _library = httpx.AsyncClient

    async def close(self) -> None:
        await self._http.aclose()

    async def _send(self, attempt: Attempt) -> Answer:
        with _failures(attempt):
            return _answer(attempt, await self._http.send(self._request(attempt)))


def _is_address(url: str) -> bool:
    try:
        return url.startswith(("http://", "https://")) and httpx.URL(url).host != ""
    except httpx.InvalidURL:
        return False


def _answer(attempt: Attempt, response: httpx.Response) -> Answer:
    if response.has_redirect_location:
        here, there = attempt.port.address, response.headers["location"]
        raise Unreachable(f"{here} redirects to {there}: give the client that address", response.status_code)
    return Answer(response.status_code, response.headers, response.content)


@contextmanager
def _failures(attempt: Attempt) -> Iterator[None]:
    """Raises the client's own errors for those of httpx."""
    address = attempt.port.address
    try:
        yield
    except httpx.TimeoutException:
        raise TimedOut(f"no answer from {address} in {attempt.timeout_seconds:g} s") from None
    except httpx.HTTPError as error:
        wrong = _NUMBERS.sub("", str(error)) or "the connection broke"
        certificates = ", the certificates in verify and cert," if address.startswith("https:") else ""
        remedy = f"check the address{certificates} and that the server runs"
        raise Unreachable(f"no answer from {address} ({wrong}): {remedy}") from None


def _context(verify: bool | str, cert: tuple[str, str] | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=verify if isinstance(verify, str) else None)
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert:
        context.load_cert_chain(*cert)
    return context
