"""What gRPC is to a dialect: methods from bytes to bytes, and how one fails. Nothing here knows a transport.

Methods run in the engine's event loop. A call whose client left, or whose deadline passed, is cancelled.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from enum import IntEnum
from typing import Any

import msgspec

from pdserver.errors import Kind
from pdserver.security.access import Need
from pdserver.types import Failure

_MAX_MESSAGE_BYTES = 2048
"""A status travels in trailers, of which clients take 8 KiB, and each byte that is not ASCII takes three there."""


class Code(IntEnum):
    """gRPC's status codes. Source: https://github.com/grpc/grpc/blob/master/doc/statuscodes.md"""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


CODES: Mapping[Kind, Code] = {
    Kind.INVALID: Code.INVALID_ARGUMENT,
    Kind.NOT_FOUND: Code.NOT_FOUND,
    Kind.VERSION_NOT_FOUND: Code.NOT_FOUND,
    Kind.CONFLICT: Code.ALREADY_EXISTS,
    Kind.FORBIDDEN: Code.PERMISSION_DENIED,
    Kind.UNSUPPORTED: Code.UNIMPLEMENTED,
    Kind.TOO_LARGE: Code.RESOURCE_EXHAUSTED,
    Kind.UNAVAILABLE: Code.UNAVAILABLE,
    Kind.OVERLOADED: Code.RESOURCE_EXHAUSTED,
    Kind.DEADLINE: Code.DEADLINE_EXCEEDED,
    Kind.WORKER_DIED: Code.INTERNAL,
    Kind.LOAD_FAILED: Code.INTERNAL,
    Kind.HANDLER: Code.INTERNAL,
    Kind.OUT_OF_MEMORY: Code.INTERNAL,
    Kind.CONFIG: Code.INVALID_ARGUMENT,
}
# As TorchServe translates them.
_CODES_OF_HTTP: Mapping[int, Code] = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    409: Code.ABORTED,
    413: Code.RESOURCE_EXHAUSTED,
    416: Code.OUT_OF_RANGE,
    429: Code.RESOURCE_EXHAUSTED,
    499: Code.CANCELLED,
    501: Code.UNIMPLEMENTED,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}


class RpcError(Exception):
    """Ends the call with this status."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message.encode(errors="backslashreplace")[:_MAX_MESSAGE_BYTES].decode(errors="ignore")

    @classmethod
    def of(cls, failure: Failure) -> RpcError:
        code = code_of_http(failure.status) if failure.status else CODES[failure.kind]
        return cls(code, failure.message)


def code_of_http(status: int) -> Code:
    """The code for an HTTP status of 400 and more, which is what handlers ask for."""
    return _CODES_OF_HTTP.get(status, Code.FAILED_PRECONDITION if status < 500 else Code.INTERNAL)


Metadata = list[tuple[str, str | bytes]]
"""Of an answer. Bytes have a name that ends with -bin; what gRPC can't carry is left out."""


class RpcCall(msgspec.Struct):
    """What a method knows of a call besides its messages."""

    metadata: list[tuple[bytes, bytes]]
    """As received, names in lower case, without the transport's own. Don't change the list: later calls share it."""
    initial: Metadata = msgspec.field(default_factory=list)
    """For the beginning of the answer; a method may add to it before its first message."""
    trailers: Metadata = msgspec.field(default_factory=list)
    """For the end of the answer, if it ends well."""
    timeout_seconds: float = 0.0
    """How long the client waits for the answer, from now; 0: for ever."""
    client: str = ""
    """Its address and port."""
    token: str = ""
    """The scope of the token that it has shown, if it needed one."""
    request_id: str = ""
    model: str = ""
    """Set by methods, for the access log: the request's id and model. Of the last request, where a call has several."""


Message = bytes | memoryview
"""Large ones are views of the buffer that they arrived in."""
Answer = bytes | list[bytes]
"""A message that goes out; a large one may come in pieces, which nobody joins."""


class Unary(msgspec.Struct, frozen=True):
    """One message in, one out."""

    function: Callable[[Message, RpcCall], Coroutine[Any, Any, Answer]]
    need: Need


class ServerStreaming(msgspec.Struct, frozen=True):
    """One message in, a stream out."""

    function: Callable[[Message, RpcCall], AsyncGenerator[Answer, None]]
    need: Need


class BidiStreaming(msgspec.Struct, frozen=True):
    """A stream in, a stream out."""

    function: Callable[[AsyncIterator[Message], RpcCall], AsyncGenerator[Answer, None]]
    need: Need


Method = Unary | ServerStreaming | BidiStreaming
"""A method raises RpcError, or PdError, whose code CODES has. `need` says who may call it."""


class Service(msgspec.Struct, frozen=True):
    """Methods under the service's full name."""

    name: str
    methods: Mapping[str, Method]
