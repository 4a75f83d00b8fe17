"""The blocking client over REST, with requests."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TypeVar

try:
    import requests
except ModuleNotFoundError as error:
    raise ImportError(f"pdserver.client needs {error.name}: pip install 'pdserver[client]'", name=error.name) from None

from pdserver.client import http_calls
from pdserver.client.calls import Answer, Call, Calls
from pdserver.client.errors import TimedOut, Unreachable
from pdserver.client.settings import Port, Settings, Tries
from pdserver.client.verbs import Verbs

T = TypeVar("T")


class Client(Verbs):
    """Keeps its connections. Not for several threads at once: make one for each."""

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
        """`url` is that of the inference port, `management` that of the management port, for who manages models;
        `token` lets calls in, `management_token` those of management, if it is another.

        `verify`: a file with the certificates of who may vouch for the server, or False to believe any; `cert`: files
        with a certificate and a key of the client's own. `timeout_seconds`: how long the server may be silent, unless a
        call says otherwise. `retries`: how many times to ask again when the server is too busy, after the time that it
        names, if that ends before the timeout.
        """
        self._settings = Settings(url, management, token, management_token)
        self._timeout_seconds = timeout_seconds
        self._retries = retries
        self._verify = verify
        self._session = requests.Session()
        self._session.cert = cert

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        self._session.close()

    def _ask(self, call: Call[T], timeout_seconds: float | None = None) -> T:
        return self._exchange(self._settings.inference, call, timeout_seconds)

    def _manage(self, call: Call[T]) -> T:
        return self._exchange(self._settings.management(), call, None)

    def _exchange(self, port: Port, call: Call[T], timeout_seconds: float | None) -> T:
        tries = Tries(self._timeout_seconds if timeout_seconds is None else timeout_seconds, self._retries)
        while True:
            answer = self._send(port, call, tries.left_seconds())
            wait_seconds = tries.wait_seconds(answer)
            if wait_seconds is None:
                return call.parse(answer)
            time.sleep(wait_seconds)

    def _send(self, port: Port, call: Call[T], timeout_seconds: float) -> Answer:
        try:
            response = self._session.request(
                call.method,
                port.url + call.path,
                data=call.body,
                headers={**port.headers(), **call.headers},
                timeout=timeout_seconds,
                verify=self._verify,  # not the session's: the environment would have the last word
            )
            return Answer(response.status_code, response.headers, response.content)
        except requests.Timeout:
            raise TimedOut(f"no answer from {port.url} in {timeout_seconds:g} s") from None
        except requests.RequestException as error:
            raise Unreachable(f"{port.url}: {error}") from None
