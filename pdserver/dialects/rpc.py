"""What gRPC is to a dialect: methods from bytes to bytes, and how one fails. Nothing here knows a transport.

Methods run in the engine's event loop. A call whose client left, or whose deadline passed, is cancelled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from enum import IntEnum
from functools import partial
from typing import Any, Protocol

import msgspec

from pdserver.engine.queue import Call
from pdserver.errors import Kind, Missing, PdError
from pdserver.memory_file import MemoryFile
from pdserver.security.access import Need
from pdserver.types import Failure, Outcome, Reply, Request

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
    """Ends the call with this status. `missing`: the model that is not served here, if that is why. `trailers` are sent
    with the status."""

    def __init__(
        self, code: Code, message: str, missing: Missing | None = None, trailers: Metadata | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.missing = missing
        self.trailers = trailers or []
        self.message = message.encode(errors="backslashreplace")[:_MAX_MESSAGE_BYTES].decode(errors="ignore")

    @classmethod
    def of(cls, failure: Failure) -> RpcError:
        code = code_of_http(failure.status) if failure.status else CODES[failure.kind]
        return cls(code, failure.message, failure.missing)


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
    kept: list[MemoryFile] = []
    """The files of a prediction's request. They live until it is answered."""


Message = bytes | memoryview
"""Large ones are views of the buffer that they arrived in."""
Answer = bytes | list[bytes]
"""A message that goes out; a large one may come in pieces, which nobody joins."""


FORWARDED_BY = b"pd-forwarded-by"
"""Metadata of calls, and header of requests: which server has passed it on. Nobody passes such a one on again."""
LACKS_MODEL = b"pd-lacks-model"
"""Trailer and header of answers to these: this server does not serve the model either."""
ANSWERED = b"pd-answered"
"""Trailer of statuses that end these: they are the server's, so the connection is sound."""


def is_forwarded(metadata: Sequence[tuple[bytes, bytes]]) -> bool:
    return any(name == FORWARDED_BY for name, _ in metadata)


def missing_in(error: BaseException) -> Missing | None:
    """What is not served here, if that is the error."""
    return error.missing if isinstance(error, (PdError, RpcError)) else None


class PassedCall(msgspec.Struct, frozen=True):
    """A call that another server is to answer."""

    missing: Missing
    path: bytes
    """/package.Service/Method"""
    metadata: list[tuple[bytes, bytes]]
    """As received, with the token."""
    deadline: float
    """In seconds of `time.monotonic`; infinity: none."""
    rpc: RpcCall
    """Gets the metadata of the answer."""
    first: Message
    rest: AsyncIterator[Message] | None = None
    """Of a stream, the messages after the first."""


class OtherServers(Protocol):
    """Who answers calls for what is not served here."""

    def takes(self, missing: Missing | None, metadata: Sequence[tuple[bytes, bytes]]) -> bool:
        """Whether another server is to answer a call with this metadata."""

    def answers(self, call: PassedCall) -> AsyncGenerator[Answer, None]:
        """The messages of the answer. Raises RpcError."""


class Unary(msgspec.Struct, frozen=True):
    """One message in, one out."""

    function: Callable[[Message, RpcCall], Coroutine[Any, Any, Answer]]
    need: Need


class Prediction(msgspec.Struct, frozen=True):
    """One message in, one out, by a prediction. It needs no coroutine: a `PredictionCall` takes it to the queue."""

    read: Callable[[Message, RpcCall], Request | asyncio.Task[Request]]
    """The request, or a task that reads it if that takes long. Its files are put into `RpcCall.kept`. Both may raise
    PdError."""
    write: Callable[[Any, Outcome, RpcCall], Answer | asyncio.Task[Answer]]
    """The answer, or a task that writes it if that takes long. It takes what `read` has made. It raises RpcError for a
    failure that is one to the client. Both may raise PdError for a reply that can't be written. A PdError on the way
    comes as a Failure, too, and its request may be one that names no model."""
    submit: Callable[[Call], None]
    """The engine's."""
    need: Need
    no_pieces: str = ""
    """What the client is told if the model answers in pieces. Empty: it gets the pieces as one."""


class ServerStreaming(msgspec.Struct, frozen=True):
    """One message in, a stream out."""

    function: Callable[[Message, RpcCall], AsyncGenerator[Answer, None]]
    need: Need


class BidiStreaming(msgspec.Struct, frozen=True):
    """A stream in, a stream out."""

    function: Callable[[AsyncIterator[Message], RpcCall], AsyncGenerator[Answer, None]]
    need: Need


Method = Unary | Prediction | ServerStreaming | BidiStreaming
"""A method raises RpcError, or PdError, whose code CODES has. `need` says who may call it."""


class Service(msgspec.Struct, frozen=True):
    """Methods under the service's full name."""

    name: str
    methods: Mapping[str, Method]


_NOT_READ = Request("", None, "", [])


class PredictionCall(Call):
    """A call that may be of a `Prediction`. A transport's subclass says what becomes of its end.

    After `predict`, either `answered` or `failed` is called, once; neither after `cancel`.
    """

    request = _NOT_READ
    kept: Sequence[MemoryFile] = ()
    task: asyncio.Task[Any] | None = None
    """What is at work on the call, if anything is."""
    pieces: list[bytes] | None = None
    """Of an answer that comes in pieces."""
    message_bytes = 0
    prediction: Prediction

    def __init__(self, rpc: RpcCall) -> None:
        self.rpc = rpc
        self.arrived = time.monotonic()

    # What a transport adds

    def answered(self, answer: Answer) -> None:
        raise NotImplementedError

    def failed(self, error: BaseException) -> None:
        """The call fails by an RpcError; by another error if nobody foresaw it, or if it is about an answer."""
        raise NotImplementedError

    def passed_on(self, error: BaseException, message: Message) -> bool:
        """Whether another server answers, since this one has failed so. A transport that can't do this leaves it."""
        return False

    # A prediction's way

    @property
    def held_bytes(self) -> int:
        return super().held_bytes if self.kept else self.message_bytes

    def predict(self, prediction: Prediction, message: Message) -> None:
        """Read the request and submit it. Never raises."""
        self.prediction = prediction
        self.message_bytes = len(message)
        try:
            request = prediction.read(message, self.rpc)
            if isinstance(request, Request):
                self.request = request
                if self.rpc.kept:
                    self.kept = self.rpc.kept
                prediction.submit(self)
            else:
                self.task = request
                request.add_done_callback(partial(self._read, message))
        except Exception as error:  # noqa: BLE001 - whatever it is, the client waits for an answer
            self._not_taken(error, message)

    def _read(self, message: Message, reading: asyncio.Task[Request]) -> None:
        """The task that reads the request has ended."""
        error = None if reading.cancelled() else reading.exception()
        if self.cancelled:
            return
        if error is not None:  # not raised here: its traceback would keep this frame, and with it the request's files
            self._not_taken(error, message)
            return
        try:
            self.request, self.kept = reading.result(), self.rpc.kept
            self.prediction.submit(self)
        except Exception as refused:  # noqa: BLE001 - the same
            self._not_taken(refused, message)

    def _not_taken(self, error: BaseException, message: Message) -> None:
        """The request could not be read or submitted."""
        if not self.passed_on(error, message):
            self._fail(error)

    def cancel(self) -> None:
        super().cancel()
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()

    def chunk(self, piece: Reply) -> None:
        if self.pieces is None:
            self.pieces = []
        if not self.prediction.no_pieces:
            self.pieces.append(piece.body)

    def settle(self, outcome: Outcome) -> None:
        if self.kept:
            self.kept = self.rpc.kept = []
        if self.pieces is not None:
            outcome = self._joined(outcome, self.pieces)
        try:
            self._write(outcome)
        except Exception as error:  # noqa: BLE001 - the same
            self._fail(error)

    def _joined(self, outcome: Outcome, pieces: list[bytes]) -> Outcome:
        """The outcome of an answer that came in pieces."""
        self.pieces = None
        if self.prediction.no_pieces:
            return Failure(Kind.UNSUPPORTED, self.prediction.no_pieces)
        if isinstance(outcome, Reply):
            return msgspec.structs.replace(outcome, body=b"".join([*pieces, outcome.body]))
        return outcome

    def _write(self, outcome: Outcome) -> None:
        request, self.request = self.request, _NOT_READ  # its inputs need not wait until a slow client has the answer
        answer = self.prediction.write(request, outcome, self.rpc)
        if isinstance(answer, asyncio.Task):
            self.task = answer
            answer.add_done_callback(self._written)
        else:
            self.answered(answer)

    def _written(self, writing: asyncio.Task[Answer]) -> None:
        """The task that writes the answer has ended."""
        error = None if writing.cancelled() else writing.exception()
        if self.cancelled:
            return
        if error is not None:
            self._fail(error)
            return
        try:
            self.answered(writing.result())
        except Exception as unsendable:  # noqa: BLE001 - the same
            self.failed(unsendable)

    def _fail(self, error: BaseException) -> None:
        """Something went wrong: the dialect has the words for it."""
        if isinstance(error, PdError):
            try:
                self._write(Failure.of(error))
                return
            except Exception as failed:  # noqa: BLE001 - the same
                error = failed
        self.failed(error)
