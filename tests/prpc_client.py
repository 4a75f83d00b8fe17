"""A client of brpc's baidu_std that sends what it is told to, byte for byte, and says what came back."""

from __future__ import annotations

import gzip
import socket
import struct
import zlib
from types import TracebackType
from typing import Any, NamedTuple

from pdserver.dialects.protos import message_class

RpcMeta = message_class("brpc.policy.RpcMeta")
HEAD = struct.Struct(">4sII")
NONE, SNAPPY, GZIP, ZLIB, LZ4 = range(5)


def meta(method: str, number: int = 1, *, request: dict[str, Any] | None = None, **fields: Any) -> bytes:
    """An RpcMeta; `method` is service/method."""
    service, _, name = method.rpartition("/")
    return bytes(
        RpcMeta(
            correlation_id=number,
            request={"service_name": service, "method_name": name, **(request or {})},
            **fields,
        ).SerializeToString()
    )


def raw(meta: bytes, body: bytes = b"") -> bytes:
    return HEAD.pack(b"PRPC", len(meta) + len(body), len(meta)) + meta + body


def frame(method: str, body: bytes = b"", number: int = 1, **fields: Any) -> bytes:
    return raw(meta(method, number, **fields), body)


class Answer(NamedTuple):
    number: int
    errno: int
    text: str
    body: bytes
    compress_type: int

    @property
    def message(self) -> bytes:
        """The body, unpacked."""
        if self.compress_type == GZIP:
            return gzip.decompress(self.body)
        assert self.compress_type in (NONE, ZLIB)
        return zlib.decompress(self.body) if self.compress_type == ZLIB else self.body


def answers(data: bytes) -> list[Answer]:
    """The answers in what was received; every one is whole."""
    found = []
    while data:
        answer, data = _first(data)
        assert answer is not None, f"half an answer: {data!r}"
        found.append(answer)
    return found


def _first(data: bytes) -> tuple[Answer | None, bytes]:
    if len(data) < HEAD.size:
        return None, data
    magic, size, meta_size = HEAD.unpack_from(data)
    assert magic == b"PRPC", data[:100]
    end = HEAD.size + size
    if len(data) < end:
        return None, data
    body = HEAD.size + meta_size
    meta = RpcMeta.FromString(data[HEAD.size : body])
    assert not meta.HasField("request")
    said = meta.response
    assert (said.error_code == 0) == (said.error_text == "")
    answer = Answer(meta.correlation_id, said.error_code, said.error_text, data[body:end], meta.compress_type)
    return answer, data[end:]


class Prpc:
    """A connection."""

    def __init__(self, address: str, sock: socket.socket | None = None) -> None:
        """`address`: host:port."""
        host, _, port = address.removeprefix("http://").rpartition(":")
        self.sock = sock or socket.create_connection((host, int(port)), timeout=60)
        self._received = b""

    def __enter__(self) -> Prpc:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self) -> Answer:
        """The next one."""
        while True:
            answer, self._received = _first(self._received)
            if answer is not None:
                return answer
            piece = self.sock.recv(1 << 16)
            assert piece, f"hung up on after {self._received!r}"
            self._received += piece

    def rest(self) -> list[Answer]:
        """All answers until the server hangs up."""
        received = self._received
        while piece := self.sock.recv(1 << 16):
            received += piece
        return answers(received)

    def call(self, method: str, body: bytes = b"", number: int = 1, **fields: Any) -> Answer:
        self.send(frame(method, body, number, **fields))
        answer = self.answer()
        assert answer.number == number
        return answer
