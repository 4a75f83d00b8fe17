"""The refusal of a request before a dialect sees it."""

from __future__ import annotations

import orjson

_TYPES = {
    400: "BadRequestException",
    401: "InvalidKeyException",
    403: "InvalidKeyException",
    408: "RequestTimeoutException",
    413: "RequestTooLargeException",
    414: "RequestTooLargeException",
    415: "UnsupportedMediaTypeException",
    417: "ExpectationFailedException",
    421: "MisdirectedRequestException",
    429: "TooManyRequestsException",
    431: "RequestTooLargeException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}


class Refused(Exception):
    """`status` is HTTP's. The message says what was wrong and what is expected, and never repeats a secret."""

    def __init__(self, status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers

    def body(self) -> bytes:
        """JSON for the clients of every dialect: TorchServe's read `message`, others `error`."""
        said = {"code": self.status, "type": _TYPES[self.status], "message": self.message, "error": self.message}
        return orjson.dumps(said, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
