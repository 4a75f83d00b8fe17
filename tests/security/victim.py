"""A real server that is asked badly, and what must hold after every question."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import psutil

from tests.running import RunningServer, eventually, open_descriptors, run_directory

_TELLS_TOO_MUCH = re.compile(
    r"Traceback|\bpdserver/|line \d+, in |/tmp/|/home/|/root/|/var/|/proc/|/dev/shm|site-packages|object at 0x|\bpid\b"
    r"|_[A-Z]\w*Error|\bself\.|NoneType"
)
_IDLE_SECONDS = 3.0
"""After five, the server hangs up on a connection that has nothing to say."""
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
GOOD_BODY = b'{"x": [1,2,3,4,5,6,7,8,9,10,11,12,13]}'


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def message(self) -> str:
        said: dict[str, Any] = json.loads(self.body)
        assert {"code", "type", "message"} <= said.keys() <= {"code", "type", "message", "error"}, said
        assert said["code"] == self.status
        assert said["type"].endswith("Exception")
        message: str = said["message"]
        return message

    @property
    def error(self) -> str:
        """The message, in the words of TensorFlow Serving and KServe."""
        said: dict[str, str] = json.loads(self.body)
        assert said.keys() == {"error"}, said
        return said["error"]


class Victim:
    """One keep-alive connection to each port; what a bad request leaves of them is part of the question."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self._connections: dict[str, http.client.HTTPConnection] = {}
        self._used: dict[str, float] = {}
        self.good = self.ask("POST", "/predictions/fit", GOOD_BODY, {"Content-Type": "application/json"})
        assert self.good.status == 200, self.good.body
        self.ask("GET", "/models", port="management")
        large = b"a=" + b"1" * 300_000  # it begins the process that reads what is large, and stays
        assert self.ask("POST", "/predictions/parts", large, FORM).status == 200
        self.refused = 0

    def ask(
        self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None, port: str = ""
    ) -> Answer:
        port = port or "inference"
        connection = self._connection(port)
        if time.monotonic() - self._used.get(port, 0.0) > _IDLE_SECONDS:
            connection.close()  # which the server may have done; it is opened again by itself
        connection.putrequest(method, target, skip_accept_encoding=True)
        given = {"Content-Length": str(len(body)), **(headers or {})}
        for name, value in given.items():
            connection.putheader(name, value.encode("latin-1"))
        connection.endheaders(body)
        response = connection.getresponse()
        self._used[port] = time.monotonic()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def refuses(
        self,
        status: int,
        words: str,
        method: str,
        target: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        port: str = "",
    ) -> None:
        """Asks, and looks at everything: the status, the message, the connection, and the next who asks."""
        answer = self.ask(method, target, body, headers, port)
        assert answer.status == status, answer
        message = answer.error if target.startswith("/v1/") else answer.message
        assert words in message, message
        assert message.isprintable() or "\n" in message, message
        assert len(message) < 2000, message
        assert not _TELLS_TOO_MUCH.search(message), message
        assert answer.headers["content-type"] == "application/json"
        assert "connection" not in answer.headers, answer.headers
        assert self._connection(port or "inference").sock is not None, "the connection was closed"
        self.answers()
        self.refused += 1

    def answers(self) -> None:
        """The same as ever."""
        again = self.ask("POST", "/predictions/fit", GOOD_BODY, {"Content-Type": "application/json"})
        assert (again.status, again.body) == (self.good.status, self.good.body)

    def _connection(self, port: str) -> http.client.HTTPConnection:
        if port not in self._connections:
            url: str = getattr(self.server, port)
            host, _, number = url.removeprefix("http://").partition(":")
            self._connections[port] = http.client.HTTPConnection(host, int(number), timeout=60)
        return self._connections[port]

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()


class Belongings:
    """What a server has: compared before and after, it shows what leaked."""

    def __init__(self, server: RunningServer) -> None:
        assert server.process is not None
        self._process = psutil.Process(server.process.pid)
        self._server = server
        self.workers = {process.pid for process in server.behind()}
        self.files = self._files()
        self.folders = self._folders()

    def _files(self) -> Counter[str]:
        """What the server has open, by name; but for its logs, which it opens when there is something to say."""
        return Counter(re.sub(r"\d+", "N", name) for name in open_descriptors(self._process.pid))

    def _folders(self) -> set[str]:
        """What lies in the server's run directory."""
        run = run_directory(self._process.pid)
        return {str(path.relative_to(run)) for path in run.rglob("*") if path.name != "downloads"}

    def check(self) -> None:
        """The same workers as before, no file open and no file lying about that was not, and no word of trouble."""
        assert {process.pid for process in self._server.behind()} == self.workers
        eventually(lambda: not self._files() - self.files)
        assert self._folders() == self.folders
        assert "Traceback" not in self._server.log()
        assert "never retrieved" not in self._server.log()
