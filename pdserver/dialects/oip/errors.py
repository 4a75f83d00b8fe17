"""The errors of the Open Inference Protocol: a status, and JSON with the one key "error".

Source: Triton Inference Server's HTTP and gRPC endpoints, whose statuses and phrases its clients look for. Where Triton
answers 500 for data that is malformed, ours says 400.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import orjson

from pdserver.dialects.base import ErrorWords
from pdserver.dialects.rpc import Code, RpcError, code_of_http
from pdserver.errors import Kind, Missing, ModelNotFound, VersionNotFound
from pdserver.formats.values import shown
from pdserver.types import Failure


class Status(NamedTuple):
    http: int
    grpc: Code


STATUSES: Mapping[Kind, Status] = {
    Kind.INVALID: Status(400, Code.INVALID_ARGUMENT),
    Kind.NOT_FOUND: Status(404, Code.NOT_FOUND),
    Kind.VERSION_NOT_FOUND: Status(404, Code.NOT_FOUND),
    Kind.CONFLICT: Status(400, Code.ALREADY_EXISTS),
    Kind.FORBIDDEN: Status(403, Code.PERMISSION_DENIED),
    Kind.UNSUPPORTED: Status(501, Code.UNIMPLEMENTED),
    Kind.TOO_LARGE: Status(400, Code.INVALID_ARGUMENT),
    Kind.UNAVAILABLE: Status(503, Code.UNAVAILABLE),
    Kind.OVERLOADED: Status(503, Code.UNAVAILABLE),
    Kind.DEADLINE: Status(503, Code.UNAVAILABLE),
    Kind.WORKER_DIED: Status(500, Code.INTERNAL),
    Kind.LOAD_FAILED: Status(500, Code.INTERNAL),
    Kind.HANDLER: Status(500, Code.INTERNAL),
    Kind.OUT_OF_MEMORY: Status(500, Code.INTERNAL),
    Kind.CONFIG: Status(400, Code.INVALID_ARGUMENT),
}
_PHRASES: Mapping[Kind, str] = {
    Kind.UNAVAILABLE: "the model is not at ready state",
    Kind.OVERLOADED: "Exceeds maximum queue size",
    Kind.DEADLINE: "Request timeout expired",
    Kind.TOO_LARGE: "the request exceeds the maximum allowed input size of the server",
}


def of_inference(failure: Failure) -> Failure:
    """The failure of an inference. Its message begins with the phrase that clients look for."""
    phrase = _PHRASES.get(failure.kind)
    return Failure(failure.kind, f"{phrase}: {failure.message}", failure.status) if phrase else failure


def error_json(text: str) -> bytes:
    return orjson.dumps({"error": text})


def failure_json(failure: Failure) -> tuple[int, bytes]:
    """The HTTP status and the body for a failure."""
    return failure.status or STATUSES[failure.kind].http, error_json(failure.message)


WORDS = ErrorWords(failure_json, lambda status, detail: error_json(detail))


def rpc_error(failure: Failure) -> RpcError:
    """The gRPC error for a failure."""
    code = code_of_http(failure.status) if failure.status else STATUSES[failure.kind].grpc
    return RpcError(code, failure.message, failure.missing)


def unknown_model(missing: Missing) -> ModelNotFound:
    return ModelNotFound(f"Request for unknown model: '{shown(missing.model)}' is not found", missing)


def without_versions(missing: Missing) -> ModelNotFound:
    """The error for a model that was loaded, or asked for, and has no version now."""
    return ModelNotFound(f"Request for unknown model: '{shown(missing.model)}' has no available versions", missing)


def unknown_version(missing: Missing) -> VersionNotFound:
    name, version = shown(missing.model), shown(missing.version or "")
    return VersionNotFound(f"Request for unknown model: '{name}' version {version} is not found", missing)
