"""ModelInfer and ModelStreamInfer: requests are read, here or in codec processes, and answers are written.

In a stream, answers of one piece keep the order of their requests; other answers go out piece by piece, as they come. A
request of a sequence waits until the one before it is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence

import msgspec

from pdserver.dialects.beside import request_by, slim
from pdserver.dialects.codec import LARGE_BYTES
from pdserver.dialects.oip.errors import of_inference, rpc_error
from pdserver.dialects.oip.grpc_known import KnownMessages, plain_head
from pdserver.dialects.oip.grpc_message import read_message, set_parameters
from pdserver.dialects.oip.grpc_wire import CUT_BYTES, cut, id_of, join, streamed, whole
from pdserver.dialects.oip.large import READ_MESSAGE, Message
from pdserver.dialects.oip.protocol import OpenInference
from pdserver.dialects.oip.request import InferRequest
from pdserver.dialects.protos import message_class
from pdserver.dialects.request_id import of_call
from pdserver.dialects.rpc import Answer, RpcCall, missing_in
from pdserver.dtypes import DATATYPES
from pdserver.engine import queue
from pdserver.engine.catalogue import interface_of
from pdserver.engine.pieces import NOT_TAKEN, Waiting
from pdserver.errors import PdError
from pdserver.large_data import put_beside
from pdserver.memory_file import MemoryFile
from pdserver.types import Failure, Outcome, Reply

_log = logging.getLogger("pdserver.grpc")
_Response = message_class("inference.ModelInferResponse")
_StreamResponse = message_class("inference.ModelStreamInferResponse")
_FINAL = "triton_final_response"
SMALL_BYTES = CUT_BYTES
"""`Inference.read` takes messages of less, `read_large` the others."""
_ERRORS_END = (b"triton_grpc_error", b"true")
"""Metadata of clients that want an error to end the stream, with its status."""
_UNANSWERED = 64
"""Unanswered requests that a stream may have; then the client has to wait before it sends more."""
_NOT_READ = InferRequest("", None, "", [])


class Inference:
    """Reads the requests, and writes the answers, of one server.

    `read` and `read_large` give a request and its files. They raise InvalidRequest, ModelNotFound, VersionNotFound, and
    Unavailable until the model has been loaded.
    """

    def __init__(self, protocol: OpenInference) -> None:
        self._find = protocol.find
        self._regions = protocol.regions
        self._codec = protocol.codec
        self.elsewhere = protocol.engine.catalogue.elsewhere
        self._known = KnownMessages(protocol.find)

    def read(self, data: bytes | memoryview, call: RpcCall) -> tuple[InferRequest, list[MemoryFile]]:
        if isinstance(data, bytes) and (known := self._known.find(data, call)) is not None:
            return known, []
        message = whole(data)
        own_id = of_call(call, message.model_name, message.id)
        served = self._find(message.model_name, message.model_version)
        request = read_message(
            served.spec,
            interface_of(served),
            message,
            message.raw_input_contents,
            call.metadata,
            own_id,
            call.timeout_seconds,
        )
        files: list[MemoryFile] = []
        if request.shared:
            self._regions.settle(request, files)
        elif isinstance(data, bytes):
            self._known.learn(data, message, served, request)
        return request, files

    async def read_large(self, data: bytes | memoryview, call: RpcCall) -> tuple[InferRequest, list[MemoryFile]]:
        found = cut(data)
        own_id = of_call(call, found.model, found.id)
        served = self._find(found.model, found.version)
        spec, interface = served.spec, interface_of(served)
        if found.rest_bytes >= LARGE_BYTES:
            given = Message(slim(spec), interface, call.metadata, own_id, call.timeout_seconds)
            request, files = await request_by(self._codec, READ_MESSAGE, given, [await self._codec.filed([data])])
        else:
            request = read_message(
                spec, interface, found.message(), found.raw, call.metadata, own_id, call.timeout_seconds
            )
            pieces = put_beside(request.inputs, 0)
            files = [await self._codec.filed(pieces)] if pieces else []
            request = msgspec.structs.replace(request, files=[file.fd for file in files])
        self._regions.settle(request, files)
        return request, files

    def write(self, request: InferRequest, reply: Reply, *, final: bool | None = None) -> Answer:
        """`final`: in a stream, whether this is the last answer to its request. Raises InvalidRequest for a region of
        shared memory that is too small."""
        if not (request.shared or request.client_id or reply.parameters) and final is None:
            forms = tuple([(tensor.name, tensor.dtype, tensor.shape) for tensor in reply.tensors])
            head = plain_head(request.model, request.version or "", forms)
            return join(head, [tensor.data for tensor in reply.tensors])
        response = _Response(model_name=request.model, model_version=request.version, id=request.client_id)
        if reply.parameters or final is not None:
            said = reply.parameters if final is None else {**reply.parameters, _FINAL: final}
            set_parameters(response.parameters, said)
        placed = self._regions.place_all(request, reply.tensors) if request.shared else {}
        raw: list[bytes] = []
        for tensor in reply.tensors:
            written = response.outputs.add(name=tensor.name, datatype=DATATYPES[tensor.dtype], shape=tensor.shape)
            if tensor.name in placed:
                set_parameters(written.parameters, placed[tensor.name])
                raw.append(b"")
            else:
                raw.append(tensor.data)
        return join(response.SerializeToString(), raw)

    def done(self, request: InferRequest) -> None:
        """The request is answered to its end, or given up. Idempotent."""
        if request.shared:
            self._regions.done(request)


class _Streamed(queue.Call):
    """A request of a stream, whose answers go to the stream's events. `asked` is None when it could not be read."""

    def __init__(
        self,
        asked: InferRequest | None,
        own_id: str,
        events: asyncio.Queue[_Event | None],
        waiting: Waiting,
        kept: Sequence[MemoryFile] = (),
    ) -> None:
        super().__init__(asked or _NOT_READ, time.monotonic(), kept)
        self.asked = asked
        self.id = own_id
        self.events = events
        self.waiting = waiting
        """Of all answers of the stream."""
        self.answered = asyncio.Event()
        self.in_pieces = False
        self.last: Outcome | None = None
        """The answer, while answers to earlier requests are missing."""

    @property
    def sequence(self) -> str:
        """Its id; empty when the request is of none."""
        step = self.request.sequence
        return step.id if step else ""

    def chunk(self, piece: Reply) -> None:
        if self.waiting.add(piece):
            self.events.put_nowait((self, piece, False))
        else:
            self.cancelled = True
            self._end(NOT_TAKEN)

    def settle(self, outcome: Outcome) -> None:
        if isinstance(outcome, Reply):
            self.waiting.add(outcome)
        if not self.cancelled:
            self._end(outcome)

    def _end(self, outcome: Outcome) -> None:
        self.answered.set()
        self.events.put_nowait((self, outcome, True))


_Event = tuple[_Streamed, Outcome, bool]
"""A request's next answer, and whether it is the last."""


class Stream:
    """One call of ModelStreamInfer."""

    def __init__(self, inference: Inference, submit: Callable[[queue.Call], None], call: RpcCall) -> None:
        self._inference = inference
        self._submit = submit
        self._call = call
        self._events: asyncio.Queue[_Event | None] = asyncio.Queue()
        """None: there are no more requests."""
        self._waiting = Waiting()
        self._open: list[_Streamed] = []
        """Those that are not answered to the end."""
        self._due: deque[_Streamed] = deque()
        """Those of which nothing has been sent yet, the oldest first."""
        self._room = asyncio.Semaphore(_UNANSWERED)
        self._begun = False
        """Whether the first request was read."""

    async def answers(self, messages: AsyncIterator[bytes | memoryview]) -> AsyncGenerator[Answer, None]:
        """Raises RpcError for what fails, if the client wants errors to end the stream, and if the first request is for
        a model that another server serves: that one can have the whole stream."""
        reading = asyncio.ensure_future(self._read(messages))
        try:
            ended = False
            while not ended or self._open:
                event = await self._events.get()
                ended = ended or event is None
                if event:
                    self._waiting.take(event[1])
                for answer in self._take(event) if event else ():
                    yield answer
            await reading
        finally:
            reading.cancel()
            for call in self._open:
                call.cancel()
                call.events = asyncio.Queue()  # the worker's batch may still hold the call, and answer it
            with contextlib.suppress(asyncio.CancelledError):
                await reading

    async def _read(self, messages: AsyncIterator[bytes | memoryview]) -> None:
        try:
            async for data in messages:
                await self._room.acquire()
                await self._begin(data)
        finally:
            self._events.put_nowait(None)

    async def _begin(self, data: bytes | memoryview) -> None:
        try:
            if len(data) < SMALL_BYTES:
                asked, files = self._inference.read(data, self._call)
            else:
                asked, files = await self._inference.read_large(data, self._call)
        except Exception as error:  # noqa: BLE001 - the other requests of the stream go on
            missing = missing_in(error)
            if not self._begun and missing is not None and self._inference.elsewhere.serves(missing):
                raise rpc_error(_failure(error)) from None
            self._begun = True
            self._add(_Streamed(None, id_of(data), self._events, self._waiting)).settle(_failure(error))
            return
        self._begun = True
        call = _Streamed(asked, asked.client_id, self._events, self._waiting, files)
        sequence = call.sequence
        earlier = [other for other in self._open if sequence and other.sequence == sequence]
        if earlier:
            await earlier[-1].answered.wait()
        self._add(call)
        try:
            self._submit(call)
        except Exception as error:  # noqa: BLE001 - likewise
            call.settle(_failure(error))

    def _add(self, call: _Streamed) -> _Streamed:
        self._open.append(call)
        self._due.append(call)
        return call

    def _take(self, event: _Event) -> Iterator[Answer]:
        """What can be sent now."""
        call, outcome, last = event
        if not last and not call.in_pieces:
            call.in_pieces = True
            self._due.remove(call)
        if call.in_pieces:
            yield from self._written(call, outcome, last=last)
        else:
            call.last = outcome
        while self._due and (outcome_of_oldest := self._due[0].last) is not None:
            yield from self._written(self._due.popleft(), outcome_of_oldest, last=True)

    def _written(self, call: _Streamed, outcome: Outcome, *, last: bool) -> Iterator[Answer]:
        if last:
            self._open.remove(call)
            self._room.release()
        if isinstance(outcome, Reply) and call.asked is not None:
            if last and not outcome.tensors and not call.asked.empty_final:
                return
            try:
                yield streamed(self._inference.write(call.asked, outcome, final=last))
                return
            except PdError as error:
                outcome = Failure.of(error)
            finally:
                if last:
                    self._inference.done(call.asked)
        assert isinstance(outcome, Failure)  # noqa: S101 - what was not read has no other outcome
        failure = of_inference(outcome)
        if _ERRORS_END in self._call.metadata:
            raise rpc_error(failure)
        yield _StreamResponse(error_message=failure.message, infer_response={"id": call.id}).SerializeToString()


def _failure(error: Exception) -> Failure:
    """Why a request was not accepted."""
    if isinstance(error, PdError):
        return Failure.of(error)
    _log.error("a request of a stream could not be taken in", exc_info=error)
    return Failure.internal(error)
