"""The C++ server's predictions over HTTP: POST [/{model}]/GeneralModelService/inference, or /debug, which is the same.

Source: brpc's HTTP for protobuf services. `Content-Type: application/proto` is a message, anything else is JSON, and
the answer is what the request is.
"""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache
from urllib.parse import parse_qs, unquote_to_bytes

import msgspec

from pdserver.dialects.base import TIMEOUT_HEADER, Body, Decode, Headers, Response, parse_timeout
from pdserver.dialects.codec import Codec
from pdserver.dialects.compression import chosen, compressed, soon_decompressed
from pdserver.dialects.paddle.errors import failed
from pdserver.dialects.paddle.general import is_long_answer, long_bytes, read, write
from pdserver.dialects.paddle.large import read_elsewhere, written_elsewhere
from pdserver.dialects.paddle.message import SERVICE
from pdserver.dialects.paddle.models import QUERY, Models, named_in
from pdserver.dialects.paddle.request import Asked, GeneralRequest
from pdserver.engine.catalogue import interface_of
from pdserver.errors import InvalidRequest, PdError
from pdserver.types import Failure, Outcome, Reply, Request

SEGMENTS = (SERVICE.encode(), b"GeneralModelService")
"""The service's names, as the first segment of a path."""
_TARGET = re.compile(
    rb"(?:/(?P<model>[^/?]+))?/(?:%b)/(?:inference|debug)/?(?:\?(?P<query>.*))?" % b"|".join(map(re.escape, SEGMENTS)),
    re.DOTALL,
)
_JSON, _MESSAGE = b"application/json", b"application/proto"
_MESSAGES = (_MESSAGE, b"application/x-proto")
"""What the types of messages begin with."""
_SMALLEST_COMPRESSED_BYTES = 512
_MOST_FIELDS = 100
"""Of a query."""


class GeneralDoor:
    """Decodes predictions and encodes their outcomes. `limit_bytes` is the limit of an unpacked body."""

    def __init__(self, models: Models, codec: Codec, limit_bytes: int) -> None:
        self._models = models
        self._codec = codec
        self._limit_bytes = limit_bytes

    def matches(self, method: bytes, target: bytes) -> bool:
        return method == b"POST" and _TARGET.fullmatch(target) is not None

    def prepare(self, target: bytes, headers: Headers) -> Decode:
        named = model_in(target) or named_in(headers)
        said = dict(headers)
        in_json = not said.get(b"content-type", b"").lower().startswith(_MESSAGES)
        timeout_seconds = parse_timeout(said[TIMEOUT_HEADER]) if TIMEOUT_HEADER in said else 0.0
        encoding, accepts = said.get(b"content-encoding", b""), said.get(b"accept-encoding", b"")
        limit_bytes = long_bytes(in_json=in_json)

        def decode(headers: Headers, body: Body, request_id: str) -> Request | asyncio.Task[Request]:
            served = self._models.meant(named)
            asked = Asked(served.spec, interface_of(served), headers, request_id, in_json, accepts, timeout_seconds)
            plain = soon_decompressed(body, encoding, self._limit_bytes) if encoding else body
            if plain is None or plain.file is not None or len(plain.data) >= limit_bytes:
                return asyncio.ensure_future(self._read_elsewhere(asked, body, encoding))
            return read(asked, plain.data)

        return decode

    async def _read_elsewhere(self, asked: Asked, body: Body, encoding: bytes) -> Request:
        request, files = await read_elsewhere(self._codec, asked, body, encoding, self._limit_bytes)
        body.kept.extend(files)
        return request

    def encode(self, request: Request, outcome: Outcome) -> Response | asyncio.Task[Response]:
        if not isinstance(outcome, Reply):
            return failed(outcome)
        assert isinstance(request, GeneralRequest)  # noqa: S101
        try:
            if is_long_answer(request, outcome):
                return asyncio.ensure_future(self._write_elsewhere(request, outcome))
            data = write(request, outcome)
        except PdError as error:
            return failed(Failure.of(error))
        if not request.accepts:
            return Response(200, _JSON if request.in_json else _MESSAGE, data)
        encoding = _encoding_of(request, len(data))
        return _answered(request, compressed([data], encoding) if encoding else data, encoding)

    async def _write_elsewhere(self, request: GeneralRequest, reply: Reply) -> Response:
        encoding = _encoding_of(request, sum(len(tensor.data) for tensor in reply.tensors))
        try:
            data = await written_elsewhere(self._codec, request, reply, encoding)
        except PdError as error:
            return failed(Failure.of(error))
        return _answered(request, data, encoding)

    def encode_chunk(self, request: Request, piece: Reply) -> Response | asyncio.Task[Response]:
        """One answer for each piece. The protocol has no streams, but readers of protobuf make one message of them."""
        assert isinstance(request, GeneralRequest)  # noqa: S101
        return self.encode(msgspec.structs.replace(request, accepts=b""), piece)


def _encoding_of(request: GeneralRequest, size: int) -> str:
    """What to compress an answer of `size` bytes with; empty: nothing."""
    if not request.accepts or size < _SMALLEST_COMPRESSED_BYTES:
        return ""
    return chosen(request.accepts, size, numbers=not request.in_json)


def _answered(request: GeneralRequest, data: bytes | memoryview, encoding: str) -> Response:
    content_type = _JSON if request.in_json else _MESSAGE
    headers = [(b"content-encoding", encoding.encode())] if encoding else []
    return Response(200, content_type, data, headers)  # type: ignore[arg-type]  # any bytes-like object


@lru_cache(maxsize=1024)
def model_in(target: bytes) -> str:
    """The model that a target of the service names, in its path or its query; empty: none. Raises InvalidRequest."""
    found = _TARGET.fullmatch(target)
    assert found is not None, "matches() comes first"  # noqa: S101
    try:
        if found["model"]:
            return str(unquote_to_bytes(found["model"]), "utf-8")
        query = (found["query"] or b"").decode("ascii")
        fields: dict[str, list[str]] = parse_qs(query, errors="strict", max_num_fields=_MOST_FIELDS)
        return fields.get(QUERY, [""])[-1]
    except ValueError:
        raise InvalidRequest(f"the URL can't be read: expected ?{QUERY}=NAME, or /NAME before the service") from None
