"""A node that answers as a test says, byte for byte, and keeps what it was asked."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import NamedTuple


class Received(NamedTuple):
    """A request as it came."""

    line: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def all(self, name: bytes) -> list[bytes]:
        return [value for each, value in self.headers if each == name]


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class FakeNode:
    """`answer` is given the connection of each request; it returns whether the connection is kept."""

    def __init__(self) -> None:
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._sock.getsockname()[1]}"
        self.received: list[Received] = []
        self.left = threading.Event()
        """Set when a client has closed its connection."""
        self.answer: Callable[[socket.socket], bool] = said(OK)
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self, answer: Callable[[socket.socket], bool]) -> None:
        self.received.clear()
        self.left.clear()
        self.answer = answer

    def close(self) -> None:
        self._sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock = self._sock.accept()[0]
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            while True:
                data = b""
                while b"\r\n\r\n" not in data:
                    piece = sock.recv(65536)
                    if not piece:
                        self.left.set()
                        return
                    data += piece
                head, _, body = data.partition(b"\r\n\r\n")
                line, *lines = head.split(b"\r\n")
                headers = [(name, value) for name, _, value in (each.partition(b": ") for each in lines)]
                length = int(dict(headers).get(b"content-length", 0))
                while len(body) < length:
                    body += sock.recv(65536)
                self.received.append(Received(line, headers, body))
                if not self.answer(sock):
                    return


def said(data: bytes, *, kept: bool = True) -> Callable[[socket.socket], bool]:
    def answer(sock: socket.socket) -> bool:
        sock.sendall(data)
        return kept

    return answer
