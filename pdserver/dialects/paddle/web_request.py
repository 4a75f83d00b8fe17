"""What the two web services have in common: what is known of a request, and how requests fail that are none.

`PdError.status` tells apart the ways to fail. What is no request of either service, or asks for what is not there, has
an HTTP status from 400. What the old service says of its input is a result, with 200. Any other error is Pipeline's, in
a field of its answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import orjson

from pdserver.configuration.model import ModelSpec
from pdserver.dialects.base import Headers, Response, retry_headers
from pdserver.dialects.known import Known as KnownMessage
from pdserver.dialects.rpc import CODES
from pdserver.dtypes import BYTES
from pdserver.errors import InvalidRequest, Kind
from pdserver.types import Failure, Interface, Port, Reply, Request

JSON = b"application/json"
MOST_FIELDS = 1000
"""Of a request: each is a part or a tensor for the handler. Forms may have as many."""


class Known(msgspec.Struct, frozen=True, array_like=True):
    """What is known of a request before its body is read."""

    spec: ModelSpec
    interface: Interface
    headers: Headers
    id: str
    timeout_seconds: float = 0.0
    """As in a Request."""


class WebRequest(Request, frozen=True, array_like=True, gc=False):
    """A request of a web service, with what only the writer of its answer needs."""

    form: Literal["pipeline", "prediction"] = "pipeline"
    """The old service is the prediction."""
    in_tensors: bool = False
    """Pipeline: whether tensors came, and so the answer has tensors, too."""
    profiled_since_us: int = 0
    """Pipeline: when the request came, in microseconds since 1970, if the client wants to know; else 0."""
    service: str = ""
    """Pipeline's message: the service that it names, which is the model."""


class Malformed(InvalidRequest):
    """A body that is no request of either service."""

    status = 400


def again(known: Known, found: KnownMessage[WebRequest] | None, data: bytes) -> WebRequest | None:
    """The request of a message that differs in its numbers only from the one that was found."""
    if found is None or found.spec is not known.spec or found.interface is not known.interface:
        return None
    inputs = found.inputs(data)
    if inputs is None:
        return None
    return msgspec.structs.replace(
        found.request, id=known.id, inputs=inputs, headers=known.headers, timeout_seconds=known.timeout_seconds
    )


def holds_again(known: Known, request: WebRequest) -> bool:
    """Whether `again` may have it: nothing in it but `known` is of use to this request only."""
    return request.typed and not request.profiled_since_us and request.headers == known.headers


_STATUSES: Mapping[Kind, int] = {
    Kind.INVALID: 400,
    Kind.NOT_FOUND: 404,
    Kind.VERSION_NOT_FOUND: 404,
    Kind.CONFLICT: 409,
    Kind.FORBIDDEN: 403,
    Kind.UNSUPPORTED: 501,
    Kind.TOO_LARGE: 413,
    Kind.UNAVAILABLE: 503,
    Kind.OVERLOADED: 503,
    Kind.DEADLINE: 504,
    Kind.WORKER_DIED: 500,
    Kind.LOAD_FAILED: 500,
    Kind.HANDLER: 500,
    Kind.OUT_OF_MEMORY: 507,
    Kind.CONFIG: 400,
}


def refused(failure: Failure) -> Response:
    """The error as Pipeline's gateway words it: gRPC's code and message in JSON.

    Source: the errors of grpc-gateway 1, with which Paddle Serving 0.9 was built.
    """
    text = failure.message
    body = {"error": text, "code": int(CODES[failure.kind]), "message": text, "details": []}
    status = failure.status or _STATUSES[failure.kind]
    return Response(status, JSON, orjson.dumps(body), retry_headers(failure))


def by_any_name(ports: Sequence[Port]) -> dict[str, Port]:
    """Ports by the names under which clients may know them: the public one, and the model's own."""
    return {port.source: port for port in ports if port.source} | {port.name: port for port in ports}


def is_opaque(interface: Interface) -> bool:
    """Whether the handler takes no tensors, but reads requests itself."""
    return [(port.name, port.dtype) for port in interface.inputs] == [("body", BYTES)]


def said(reply: Reply) -> Any:
    """What a handler answered, as Python's value: its JSON, else its text."""
    body = bytes(reply.body)
    if reply.content_type.startswith("application/json"):
        with contextlib.suppress(orjson.JSONDecodeError):
            return orjson.loads(body)
    return body.decode(errors="replace")
