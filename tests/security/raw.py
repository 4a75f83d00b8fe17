"""A client that sends what it is told to, byte for byte, and says what came back."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

import orjson

from tests.running import RunningServer, eventually, open_descriptors

SECONDS = 20.0


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> str:
        """What a refusal says; it has the shape that every refusal has."""
        said = orjson.loads(self.body)
        assert said["code"] == self.status
        assert said.get("error", said["message"]) == said["message"]
        return str(said["message"])


def place(url: str) -> tuple[str, int]:
    host, _, port = url.partition("://")[2].rpartition(":")
    return host, int(port)


def connect(url: str) -> socket.socket:
    sock = socket.create_connection(place(url), timeout=SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def talk(url: str, *pieces: bytes) -> list[Answer]:
    """All answers until the server hangs up; a server that doesn't makes this fail."""
    with connect(url) as sock:
        for piece in pieces:
            with contextlib.suppress(ConnectionError):  # it may have refused, and hung up, before all is sent
                sock.sendall(piece)
        return answers(read_all(sock))


def read_all(sock: socket.socket) -> bytes:
    """Until the other side has said that nothing more comes."""
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(65536):
            received += piece
    return bytes(received)


def one(sock: socket.socket) -> Answer:
    """The next answer, whole; it has a length, and nothing comes behind it."""
    received = b""
    while (head := received.partition(b"\r\n\r\n"))[1] == b"" or len(head[2]) < _length(head[0]):
        piece = sock.recv(65536)
        assert piece, f"half an answer: {received!r}"
        received += piece
    [answer] = answers(received)
    return answer


def _length(head: bytes) -> int:
    return int(head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])


def answers(data: bytes) -> list[Answer]:
    """The answers in what was received; every one is whole, and has a length."""
    found = []
    while data:
        head, separator, data = data.partition(b"\r\n\r\n")
        assert separator, f"half an answer: {head!r}"
        line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(line.split(" ")[1])
        if status >= 200:
            length = int(headers["content-length"])
            assert len(data) >= length, f"half an answer: {head!r}"
            found.append(Answer(status, headers, data[:length]))
            data = data[length:]
    return found


def reset(sock: socket.socket) -> None:
    """Close so that the other side gets a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Oracle:
    """What must still be so after a server was ill-treated."""

    def __init__(self, server: RunningServer) -> None:
        assert server.process is not None
        self._server = server
        self._pid = server.process.pid
        server.session.close()
        self._descriptors = len(open_descriptors(self._pid))

    def check(self, canaries: Iterable[tuple[str, str]]) -> None:
        """It answers, has no more open than before, and has logged no fault of its own. `canaries`: (URL, path)."""
        for url, path in canaries:
            [answer] = talk(url, b"GET %b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n" % path.encode())
            assert answer.status == 200, answer
        self._server.session.close()
        eventually(lambda: len(open_descriptors(self._pid)) <= self._descriptors)
        log = self._server.log()
        assert "Traceback" not in log, log
        assert " ERROR " not in log, log
