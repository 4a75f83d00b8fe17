"""How TensorFlow Serving says what went wrong: a code of gRPC, and over REST its status and JSON with the key "error".

Source: TensorFlow Serving's HTTP REST API, util/net_http's statuses for codes, and the texts that its clients look for.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from pdserver.dialects.base import ErrorWords, Response, retry_headers
from pdserver.dialects.rpc import Code, RpcError, code_of_http
from pdserver.errors import InvalidRequest, Kind, Missing, ModelNotFound, VersionNotFound
from pdserver.formats.values import shown
from pdserver.types import Failure

CODES: Mapping[Kind, Code] = {
    Kind.INVALID: Code.INVALID_ARGUMENT,
    Kind.NOT_FOUND: Code.NOT_FOUND,
    Kind.VERSION_NOT_FOUND: Code.NOT_FOUND,
    Kind.CONFLICT: Code.FAILED_PRECONDITION,
    Kind.FORBIDDEN: Code.PERMISSION_DENIED,
    Kind.UNSUPPORTED: Code.UNIMPLEMENTED,
    Kind.TOO_LARGE: Code.INVALID_ARGUMENT,
    Kind.UNAVAILABLE: Code.UNAVAILABLE,
    Kind.OVERLOADED: Code.UNAVAILABLE,
    Kind.DEADLINE: Code.DEADLINE_EXCEEDED,
    Kind.WORKER_DIED: Code.INTERNAL,
    Kind.LOAD_FAILED: Code.INTERNAL,
    Kind.HANDLER: Code.INTERNAL,
    Kind.OUT_OF_MEMORY: Code.RESOURCE_EXHAUSTED,
    Kind.CONFIG: Code.INVALID_ARGUMENT,
}
_HTTP: Mapping[Code, int] = {
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.ABORTED: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.CANCELLED: 499,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}


def error_json(text: str) -> bytes:
    return orjson.dumps({"error": text})


def _of_failure(failure: Failure) -> tuple[int, bytes]:
    """The HTTP status and the body for a failure."""
    return failure.status or _HTTP.get(CODES[failure.kind], 500), error_json(failure.message)


def malformed(method: str, path: bytes) -> InvalidRequest:
    """The error for a path below /v1 that is none of the protocol's."""
    return InvalidRequest(f"Malformed request: {method} {shown(path.decode('latin-1'))}")


def _unrouted(method: str, path: bytes) -> InvalidRequest | None:
    return malformed(method, path) if path.lower().startswith(b"/v1/") or path.lower() == b"/v1" else None


WORDS = ErrorWords(_of_failure, lambda _, detail: error_json(detail), _unrouted)


def failed(failure: Failure) -> Response:
    """The answer to a prediction that failed."""
    status, body = _of_failure(failure)
    return Response(status, b"application/json", body, retry_headers(failure))


def rpc_error(failure: Failure) -> RpcError:
    """The gRPC error for a failure."""
    code = code_of_http(failure.status) if failure.status else CODES[failure.kind]
    return RpcError(code, failure.message, failure.missing)


def unknown_latest(missing: Missing) -> ModelNotFound:
    """The error of a prediction for a model's default version, when that is not served."""
    return ModelNotFound(f"Servable not found for request: Latest({shown(missing.model)})", missing)


def unknown_version(name: str, version: int | str) -> VersionNotFound:
    """The error of a prediction for a version that is not served."""
    said = f"Servable not found for request: Specific({shown(name)}, {shown(version)})"
    return VersionNotFound(said, Missing(name, str(version)))
