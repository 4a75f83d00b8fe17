"""Another client, for tests of what one client can do to it."""

from __future__ import annotations

import http.client
import threading
import time
from types import TracebackType
from urllib.parse import urlsplit

from tests.running import RunningServer

FEW = 10
"""Answers to others: where the event loop is held up, it is two or three, however long that takes."""


class Other:
    """A client of another model that asks for one small prediction after the other."""

    def __init__(self, server: RunningServer) -> None:
        self.answers = 0
        self._address = urlsplit(server.inference).netloc
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Other:
        self._thread.start()
        while not self.answers:
            assert self._thread.is_alive()
            time.sleep(0.001)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=60)
        while not self._stop.is_set():
            connection.request("POST", "/predictions/mirror", b"abc")
            assert connection.getresponse().read() == b"cba"
            self.answers += 1
        connection.close()
