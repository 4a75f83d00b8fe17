"""How the C++ server tells over HTTP that something went wrong: a status, brpc's number for it, and a text.

Source: brpc's errno.proto and its table from these numbers to HTTP's; -5001 and -5100 are Paddle Serving's own.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from pdserver.dialects.base import ErrorWords, Response, retry_headers
from pdserver.errors import Kind
from pdserver.types import Failure

_NO_SERVICE, _NO_METHOD, _BAD_REQUEST, _NO_PERMISSION, _TIMED_OUT = 1001, 1002, 1003, 1004, 1008
_STOPPING, _TOO_MANY = 2003, 2004
_NO_MEMORY, _INFERENCE_FAILED = -5001, -5100
_ERRORS: Mapping[Kind, tuple[int, int]] = {
    Kind.INVALID: (400, _BAD_REQUEST),
    Kind.NOT_FOUND: (404, _NO_SERVICE),
    Kind.VERSION_NOT_FOUND: (404, _NO_SERVICE),
    Kind.CONFLICT: (409, _BAD_REQUEST),
    Kind.FORBIDDEN: (403, _NO_PERMISSION),
    Kind.UNSUPPORTED: (501, _NO_METHOD),
    Kind.TOO_LARGE: (413, _BAD_REQUEST),
    Kind.UNAVAILABLE: (503, _STOPPING),
    Kind.OVERLOADED: (503, _TOO_MANY),
    Kind.DEADLINE: (504, _TIMED_OUT),
    Kind.WORKER_DIED: (500, _INFERENCE_FAILED),
    Kind.LOAD_FAILED: (500, _INFERENCE_FAILED),
    Kind.HANDLER: (500, _INFERENCE_FAILED),
    Kind.OUT_OF_MEMORY: (500, _NO_MEMORY),
    Kind.CONFIG: (400, _BAD_REQUEST),
}


def failed(failure: Failure) -> Response:
    """The answer to a prediction that failed."""
    status, number = _ERRORS[failure.kind]
    text = f"InferService inference failed! {failure.message}"
    headers = [(b"x-bd-error-code", b"%d" % number), *retry_headers(failure)]
    return Response(failure.status or status, b"text/plain", text.encode(errors="backslashreplace"), headers)


def _of_failure(failure: Failure) -> tuple[int, bytes]:
    status, number = _ERRORS[failure.kind]
    return failure.status or status, orjson.dumps({"err_no": number, "err_msg": failure.message})


def _of_route(status: int, detail: str) -> bytes:
    return orjson.dumps({"err_no": _NO_METHOD if status in (404, 405) else _BAD_REQUEST, "err_msg": detail})


WORDS = ErrorWords(_of_failure, _of_route)
