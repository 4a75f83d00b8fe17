"""What a client raises.

ClientError          `str(error)` is the server's message, if it answered
├── InvalidInput     the request is malformed, or does not fit the model
├── Denied           the token is missing or has the wrong scope, or the server's configuration forbids the call
├── NotFound         no such model, version or archive
├── Conflict         the name is taken, or the state forbids it
├── TooLarge         the request is larger than the server accepts
├── Unavailable      no worker can serve this now, or too many requests wait; try again later
├── TimedOut         no answer came within the client's time or the server's
├── ServerFailed     the handler raised, a worker died, or a model could not be loaded
└── Unreachable      no server answers at this address, or the connection broke
"""

from __future__ import annotations

from collections.abc import Mapping


class ClientError(Exception):
    """The class of all errors that a client raises for a call."""

    def __init__(self, message: str, status: int = 0, code: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status; 0 over gRPC, and when there was no answer."""
        self.code = code
        """The gRPC status by name, such as "NOT_FOUND"; empty over REST."""
        self.retry_after_seconds = retry_after_seconds
        """How long the server asks to wait before the next try; None if it does not say."""


class InvalidInput(ClientError):
    pass


class Denied(ClientError):
    pass


class NotFound(ClientError):
    pass


class Conflict(ClientError):
    pass


class TooLarge(ClientError):
    pass


class Unavailable(ClientError):
    pass


class TimedOut(ClientError):
    pass


class ServerFailed(ClientError):
    pass


class Unreachable(ClientError):
    pass


_OF_STATUS: Mapping[int, type[ClientError]] = {
    401: Denied,
    403: Denied,
    404: NotFound,
    408: TimedOut,
    409: Conflict,
    413: TooLarge,
    429: Unavailable,
    503: Unavailable,
    504: TimedOut,
}
_OF_CODE: Mapping[str, type[ClientError]] = {
    "ALREADY_EXISTS": Conflict,
    "ABORTED": Conflict,
    "DEADLINE_EXCEEDED": TimedOut,
    "FAILED_PRECONDITION": InvalidInput,
    "INVALID_ARGUMENT": InvalidInput,
    "NOT_FOUND": NotFound,
    "OUT_OF_RANGE": InvalidInput,
    "PERMISSION_DENIED": Denied,
    "RESOURCE_EXHAUSTED": Unavailable,
    "UNAUTHENTICATED": Denied,
    "UNAVAILABLE": Unavailable,
}


def of_status(status: int, message: str, retry_after_seconds: float | None = None) -> ClientError:
    """The error for an HTTP status of 400 or more."""
    kind = _OF_STATUS.get(status, InvalidInput if status < 500 else ServerFailed)
    return kind(message, status=status, retry_after_seconds=retry_after_seconds)


def of_code(code: str, message: str) -> ClientError:
    """The error for a gRPC status, by its name."""
    return _OF_CODE.get(code, ServerFailed)(message, code=code)
