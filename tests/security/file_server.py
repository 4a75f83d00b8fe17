"""An HTTP server that tests tell what to answer, down to the byte."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

Answer = Callable[[socket.socket], None]
"""Writes what it likes; the connection is closed behind it."""


class FileServer:
    """`answers` maps a path to what is done; a path that it does not have is 404. `asked` is what was asked for."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._socket = socket.create_server((host, 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{host}:{self.port}"
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.heads: list[str] = []
        self.closing = threading.Event()

    def __enter__(self) -> FileServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def serve(self, path: str, data: bytes) -> str:
        """The URL at which `data` is from now on."""
        self.answers[path] = lambda sock: sock.sendall(response(data))
        return self.url + path

    def hang(self, _: socket.socket) -> None:
        """An answer: none, while this server runs."""
        self.closing.wait(60)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=[sock], daemon=True).start()

    def _answer(self, sock: socket.socket) -> None:
        with sock, suppress(OSError):
            sock.settimeout(60)
            head = b""
            while b"\r\n\r\n" not in head:
                piece = sock.recv(65536)
                if not piece:
                    return
                head += piece
            path = head.split(b" ", 2)[1].decode()
            self.asked.append(path)
            self.heads.append(head.decode("latin-1"))
            self.answers.get(path, _not_found)(sock)


def _not_found(sock: socket.socket) -> None:
    sock.sendall(response(b"", "404 Not Found"))


def response(data: bytes, status: str = "200 OK", length: int | None = None, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data) if length is None else length}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + data
