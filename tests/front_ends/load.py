"""Clients that ask on and on, each for something of its own, and count what they get."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Protocol

import grpc

from tests.grpc_client import Client, prediction
from tests.running import RunningServer, eventually

GONE = (http.client.HTTPException, ConnectionError)
"""What a client gets whose connection broke."""


class Asking(Protocol):
    def ask(self, data: bytes) -> bytes:
        """What `mirror` makes of the data. Raises one of GONE."""

    def close(self) -> None: ...


class Rest:
    def __init__(self, server: RunningServer) -> None:
        self._connection = http.client.HTTPConnection(server.inference.removeprefix("http://"), timeout=60)

    def ask(self, data: bytes) -> bytes:
        self._connection.request("POST", "/predictions/mirror", data)
        answer = self._connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        return body

    def close(self) -> None:
        self._connection.close()


class Grpc:
    def __init__(self, server: RunningServer) -> None:
        self._client = Client(server)

    def ask(self, data: bytes) -> bytes:
        try:
            return bytes(self._client.predict(prediction("mirror", body=data)))
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                raise ConnectionError(error.details()) from None
            raise

    def close(self) -> None:
        self._client.__exit__(None, None, None)


class Load:
    """What the clients have got so far."""

    def __init__(self, clients: int) -> None:
        self.over = threading.Event()
        self.right = Counter[int](dict.fromkeys(range(clients), 0))
        """By client."""
        self.lost = 0
        """Requests whose connection broke."""
        self.wrong: list[str] = []

    def wait_for(self, more: int) -> None:
        """Until each client has so many more right answers."""
        before = self.right.copy()
        eventually(lambda: all(self.right[each] >= before[each] + more for each in before))

    def ask(self, number: int, connect: Callable[[], Asking]) -> None:
        """Until it is over."""
        asked = 0
        while not self.over.is_set():
            with contextlib.closing(connect()) as client, contextlib.suppress(_Lost):
                while not self.over.is_set():
                    asked += 1
                    self._once(client, b"request %d of client %d, " % (asked, number) * 500, number)

    def _once(self, client: Asking, data: bytes, number: int) -> None:
        try:
            answer = client.ask(data)
        except GONE:
            self.lost += 1
            raise _Lost from None
        except Exception as error:
            self.wrong.append(repr(error))
            raise _Lost from None
        if answer == data[::-1]:
            self.right[number] += 1
        else:
            self.wrong.append(f"{data[:30]!r} → {answer[-30:]!r}, {len(answer)} bytes of {len(data)}")


class _Lost(Exception):
    """The client needs another connection."""


@contextlib.contextmanager
def load(*clients: Callable[[], Asking]) -> Iterator[Load]:
    """A thread for each of the clients, which are made anew whenever their connection breaks."""
    found = Load(len(clients))
    threads = [threading.Thread(target=found.ask, args=each) for each in enumerate(clients)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        found.over.set()
        for thread in threads:
            thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
