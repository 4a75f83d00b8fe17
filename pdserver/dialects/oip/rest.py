"""The Open Inference Protocol's inference over REST: POST /v2/models/{model}[/versions/{version}]/infer."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from pdserver.dialects.base import Body, Headers, Response
from pdserver.dialects.oip.answers import answered, failed
from pdserver.dialects.oip.compression import decompressed
from pdserver.dialects.oip.inference import InferRequest, read_request
from pdserver.dialects.oip.models import find, interface_of
from pdserver.dialects.oip.protocol import OpenInference
from pdserver.errors import InvalidRequest, PdError, Unavailable
from pdserver.types import Failure, Outcome, Reply, Request
from pdserver.values import shown

_INFER = re.compile(rb"/v2/models/([^/?]+)(?:/versions/([^/?]+))?/infer/?(?:\?.*)?", re.DOTALL)


class Target(NamedTuple):
    """What a URL names; `version` None is the default version."""

    model: str
    version: str | None = None


class OipDoor:
    """Decodes inferences and encodes their outcomes."""

    def __init__(self, protocol: OpenInference) -> None:
        self._registry = protocol.engine.registry
        self._regions = protocol.regions
        self._limit_bytes = protocol.limit_bytes

    def matches(self, method: bytes, target: bytes) -> bool:
        return method == b"POST" and infer_target(target) is not None

    def decode(self, target: bytes, headers: Headers, body: Body, request_id: str) -> Request:
        named = infer_target(target)
        assert named is not None, "matches() comes first"  # noqa: S101
        head_bytes: int | None = None
        encoding = accepts = b""
        for name, value in headers:
            if name == b"inference-header-content-length":
                head_bytes = _head_bytes(value)
            elif name == b"content-encoding":
                encoding = value
            elif name == b"accept-encoding":
                accepts = value
        pool = find(self._registry, named.model, named.version)
        interface = interface_of(pool)
        try:
            if encoding:
                body = decompressed(body, encoding, self._limit_bytes)
            return read_request(pool.spec, interface, self._regions, headers, body, head_bytes, request_id, accepts)
        except OSError as error:
            raise Unavailable(f"the server has no room for the request now: {error.strerror}") from None

    def encode(self, request: Request, outcome: Outcome) -> Response:
        if not isinstance(outcome, Reply):
            return failed(outcome)
        assert isinstance(request, InferRequest)  # noqa: S101
        try:
            return answered(request, outcome, self._regions)
        except PdError as error:
            return failed(Failure.of(error))

    def encode_chunk(self, request: Request, piece: Reply) -> Response:
        """An inference response in JSON by itself, on a line: the protocol has nothing for streams but `generate`."""
        response = self.encode(request, piece)
        body = b"".join([response.body, *response.more, b"\n"])
        return Response(response.status, response.content_type, body, response.headers)


@lru_cache(maxsize=1024)
def infer_target(target: bytes) -> Target | None:
    """None for a URL that is no inference, and for one that is not UTF-8."""
    match = _INFER.fullmatch(target)
    if match is None:
        return None
    try:
        model, version = (unquote_to_bytes(part).decode() if part else None for part in match.groups())
    except UnicodeDecodeError:
        return None
    return Target(model or "", version)


def _head_bytes(value: bytes) -> int:
    """Raises InvalidRequest."""
    if value.isdigit() and len(value) < 19:
        return int(value)
    raise InvalidRequest(
        f"Invalid Inference-Header-Content-Length '{shown(value.decode('latin-1'))}': expected the length in bytes of "
        "the JSON at the body's beginning, or 0 for a raw request"
    )
