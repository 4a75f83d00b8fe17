"""A throw-away dialect: POST /shout/{model} with a text, answered in capitals; Shout/Say over gRPC is the same.

/{model}/shout is the same, too.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse

from pdserver.dialects.base import Decode, ErrorWords, Headers, Response
from pdserver.dialects.dialect import Dialect
from pdserver.dialects.rpc import Message, Prediction, RpcCall, RpcError, Service
from pdserver.security.access import INFERENCE, OPEN
from pdserver.security.routes import Route
from pdserver.types import Failure, Outcome, Part, Reply, Request


class ShoutDoor:
    """`place` is that of the model in the path."""

    def __init__(self, place: int) -> None:
        self.place = place

    def matches(self, method: bytes, target: bytes) -> bool:
        return method == b"POST" and target.count(b"/") == 2 and target.split(b"/")[3 - self.place] == b"shout"

    def prepare(self, target: bytes, headers: Headers) -> Decode:
        model = target.decode().split("/")[self.place]
        return lambda headers, body, request_id: _request(model, bytes(body.read()), request_id)

    def encode(self, request: Request, outcome: Outcome) -> Response:
        if isinstance(outcome, Failure):
            status, said = _failed(outcome)
            return Response(status, b"text/plain", said)
        return Response(200, b"text/plain", bytes(outcome.body).upper())

    def encode_chunk(self, request: Request, piece: Reply) -> Response:
        return self.encode(request, piece)


def _request(model: str, data: bytes, request_id: str) -> Request:
    return Request(model, None, request_id, [Part("body", "application/octet-stream", data)])


def _failed(failure: Failure) -> tuple[int, bytes]:
    return 418, f"ALAS: {failure.message}".encode()


def dialect(engine: Any) -> Dialect:
    async def loud(_: HttpRequest) -> PlainTextResponse:
        return PlainTextResponse("VERY")

    def read(message: Message, _: RpcCall) -> Request:
        return _request("mirror", bytes(message), "say")

    def write(_: Request, outcome: Outcome, __: RpcCall) -> bytes:
        if isinstance(outcome, Failure):
            raise RpcError.of(outcome)
        return bytes(outcome.body).upper()

    return Dialect(
        name="shout",
        words=ErrorWords(_failed, lambda status, detail: b"NO SUCH SHOUT"),
        doors={b"shout": ShoutDoor(2)},
        other_doors=[ShoutDoor(1)],
        path="/shout",
        routes=[Route("/shout/loudness", loud, OPEN)],
        services=[Service("Shout", {"Say": Prediction(read, write, engine.submit, INFERENCE)})],
    )
