"""The envelope of all answers: {logId, errorCode, errorMsg, result}. `logId` is the request's id."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pdserver.dialects.base import ErrorWords, Response, retry_headers
from pdserver.dialects.request_id import request_id
from pdserver.errors import Kind
from pdserver.types import Failure, Reply

JSON = b"application/json"
RESULT = "result"
"""The output of a pipeline that the client gets."""
_STATUSES: Mapping[Kind, int] = {
    Kind.INVALID: 422,
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
    Kind.CONFIG: 422,
}


class Envelope(msgspec.Struct, rename="camel"):
    """Without a result: of errors, and of the health check. An error's code is its status."""

    log_id: str
    error_code: int
    error_msg: str


def enveloped(status: int, message: str, log_id: str = "") -> bytes:
    return msgspec.json.encode(Envelope(log_id or request_id(), status, message))


def failed(failure: Failure, log_id: str) -> Response:
    status = failure.status or _STATUSES[failure.kind]
    return Response(status, JSON, enveloped(status, failure.message, log_id), retry_headers(failure))


def answered(reply: Reply, log_id: str, *, alone: bool) -> Response:
    """`alone`: the reply is the pipeline's one output, the result; else an object of all of its outputs."""
    body: bytes | memoryview | None = reply.body
    if not reply.content_type.startswith("application/json"):
        body = None
    elif not alone:
        outputs = msgspec.json.decode(reply.body, type=dict[str, msgspec.Raw])
        body = outputs.get(RESULT)
    if body is None:
        said = f"the pipeline gave no output {RESULT!r} of JSON, which its contract has"
        return failed(Failure(Kind.HANDLER, said), log_id)
    head = b'{"logId":%b,"result":' % msgspec.json.encode(log_id)
    return Response(200, JSON, head, more=(bytes(body), b',"errorCode":0,"errorMsg":"Success"}'))


def _of_failure(failure: Failure) -> tuple[int, bytes]:
    response = failed(failure, request_id())
    return response.status, response.body


WORDS = ErrorWords(_of_failure, enveloped)
