"""TorchServe's way to say what went wrong: a status, and JSON with its own exceptions' names.

Source: TorchServe 0.12's REST API. Where it answers 503 for a fault of the handler, ours says 500, so that load
balancers don't take a healthy server out for one bad request.
"""

from __future__ import annotations

import orjson

from pdserver.dialects.base import ErrorWords
from pdserver.errors import Kind
from pdserver.types import Failure

STATUS: dict[Kind, tuple[int, str]] = {
    Kind.INVALID: (400, "BadRequestException"),
    Kind.NOT_FOUND: (404, "ModelNotFoundException"),
    Kind.VERSION_NOT_FOUND: (404, "ModelVersionNotFoundException"),
    Kind.CONFLICT: (409, "ConflictStatusException"),
    Kind.FORBIDDEN: (403, "InvalidModelVersionException"),
    Kind.UNSUPPORTED: (501, "NotImplementedException"),
    Kind.TOO_LARGE: (413, "RequestTooLargeException"),
    Kind.UNAVAILABLE: (503, "ServiceUnavailableException"),
    Kind.OVERLOADED: (503, "ServiceUnavailableException"),
    Kind.DEADLINE: (504, "RequestTimeoutException"),
    Kind.WORKER_DIED: (500, "InternalServerException"),
    Kind.LOAD_FAILED: (500, "InternalServerException"),
    Kind.HANDLER: (500, "InternalServerException"),
    Kind.OUT_OF_MEMORY: (507, "InternalServerException"),
    Kind.CONFIG: (400, "BadRequestException"),
}
_OF_ROUTES = {
    404: ("ResourceNotFoundException", "Requested resource is not found, please refer to API document."),
    405: ("MethodNotAllowedException", "Requested method is not allowed, please refer to API document."),
}


def error_json(status: int, type_name: str, message: str) -> bytes:
    body = {"code": status, "type": type_name, "message": message}
    return orjson.dumps(body, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def failure_json(failure: Failure) -> tuple[int, bytes]:
    """The status and the body for a failure."""
    status, type_name = STATUS[failure.kind]
    status = failure.status or status
    return status, error_json(status, type_name, failure.message)


def refusal_json(status: int, detail: str) -> bytes:
    """The body for a request that no route takes."""
    return error_json(status, *_OF_ROUTES.get(status, ("BadRequestException", detail)))


WORDS = ErrorWords(failure_json, refusal_json)
