"""TorchServe's way to say what went wrong: a status, and JSON with its own exceptions' names.

Source: TorchServe 0.12's REST API. Where it answers 503 for a fault of the handler, ours says 500, so that load
balancers don't take a healthy server out for one bad request.
"""

from __future__ import annotations

import orjson

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
RETRY_AFTER_SECONDS = 1
RETRY_LATER = frozenset({Kind.UNAVAILABLE, Kind.OVERLOADED})


def error_json(status: int, type_name: str, message: str) -> bytes:
    body = {"code": status, "type": type_name, "message": message}
    return orjson.dumps(body, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def failure_json(failure: Failure) -> tuple[int, bytes]:
    """The status and the body for a failure."""
    status, type_name = STATUS[failure.kind]
    status = failure.status or status
    return status, error_json(status, type_name, failure.message)
