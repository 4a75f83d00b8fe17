"""Predictions over gRPC and PRPC, which need no task each: every call has one answer, whatever happens on its way.

The connections have no network, and the engine is a list: each test settles the calls that it finds there.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import msgspec
import pytest
from hyperframe import frame as frames

from pdserver.dialects.rpc import Answer, Code, Message, Prediction, PredictionCall, RpcCall, RpcError
from pdserver.engine.queue import BatchQueue, Call
from pdserver.errors import Kind, Overloaded, Unsupported
from pdserver.memory_file import MemoryFile
from pdserver.prpc.connection import PrpcConnection
from pdserver.prpc.port import PrpcPort
from pdserver.security.access import OPEN
from pdserver.server.grpc_ports import error_of
from pdserver.system.budget import Budget
from pdserver.system.connections import Connections
from pdserver.types import Failure, Outcome, Part, Reply, Request
from tests import prpc_client
from tests.grpc_testbed import LIMITS
from tests.http2_wire import Transport, Wire, framed, port
from tests.test_http2_turns import in_loop, rounds, worked_off

PATH = "/s/predict"
IN_PIECES = "it answers in pieces"


class Desk:
    """Reads and writes as the messages say, and keeps what was submitted."""

    def __init__(self) -> None:
        self.queue = BatchQueue(8, 0, 2000)
        self.calls: list[PredictionCall] = []
        self.lines: list[Any] = []
        """Of the access log."""
        self.noted = asyncio.Event()
        self.gate = asyncio.Event()
        self.written: list[Outcome] = []
        """What `write` was asked to write."""
        prediction = Prediction(self.read, self.write, self.submit, OPEN, IN_PIECES)
        self.methods = {"predict": prediction, "whole": msgspec.structs.replace(prediction, no_pieces="")}

    def note(self, line: Any) -> None:
        self.lines.append(line)
        self.noted.set()

    def read(self, message: Message, call: RpcCall) -> Request | asyncio.Task[Request]:
        said = bytes(message).decode()
        call.request_id = call.model = said
        if said.startswith("read slowly"):
            return asyncio.ensure_future(self._read_slowly(said, call))
        _go_wrong("read", said)
        return _request(said)

    async def _read_slowly(self, said: str, call: RpcCall) -> Request:
        await self.gate.wait()
        _go_wrong("read slowly", said)
        file = MemoryFile([b"large"])
        file.seal()
        call.kept = [file]
        return msgspec.structs.replace(_request(said), files=[file.fd])

    def submit(self, call: Call) -> None:
        if call.request.id == "submit overloaded":
            raise Overloaded("too much")
        assert isinstance(call, PredictionCall)
        self.queue.put(call)
        self.calls.append(call)

    def write(self, request: Request, outcome: Outcome, call: RpcCall) -> Answer | asyncio.Task[Answer]:
        self.written.append(outcome)
        if isinstance(outcome, Failure):
            raise RpcError.of(outcome)
        if request.id.startswith("write slowly"):
            return asyncio.ensure_future(self._write_slowly(request, outcome))
        _go_wrong("write", request.id)
        return outcome.body

    async def _write_slowly(self, request: Request, reply: Reply) -> Answer:
        await self.gate.wait()
        _go_wrong("write slowly", request.id)
        return reply.body

    def take(self) -> list[Call]:
        """As a worker does."""
        return self.queue.take(time.monotonic())

    def settle(self) -> None:
        """All of them, each with its own name, but for those that nobody waits for."""
        self.take()
        for call in self.calls:
            if not call.cancelled:
                call.settle(Reply(call.request.id.encode(), ""))
        self.calls.clear()


def _request(said: str) -> Request:
    return Request("m", None, said, [Part("body", "", said.encode())])


def _go_wrong(where: str, said: str) -> None:
    errors: dict[str, Callable[[], Exception]] = {
        "unsupported": lambda: Unsupported("not this"),
        "aborted": lambda: RpcError(Code.ABORTED, "not now"),
        "broken": ZeroDivisionError,
    }
    for name, error in errors.items():
        if said == f"{where} {name}":
            raise error()


class Heard(NamedTuple):
    """An answer: gRPC's status or brpc's number of an error, what it says, and the message."""

    status: int
    text: str
    message: bytes


class Client(Protocol):
    """A connection to a desk. Calls have numbers, from 0 on."""

    stopped: str
    """What the access log has for a call whose client has left."""
    late: tuple[int, str]
    """The status and the log's word for a call whose time was over."""
    connection: Any

    def frame(self, number: int, message: bytes, method: str = "predict", milliseconds: int = 0) -> bytes: ...

    def answers(self) -> dict[int, Heard]: ...


class Grpc:
    stopped, late = "CANCELLED", (4, "DEADLINE_EXCEEDED")

    def __init__(self, desk: Desk) -> None:
        methods = {f"/s/{name}".encode(): method for name, method in desk.methods.items()}
        shared = port(methods=methods)
        shared.access, shared.error_of = desk.note, error_of
        self.connection = Wire(shared)
        self._heard: dict[int, Any] = {}

    def frame(self, number: int, message: bytes, method: str = "predict", milliseconds: int = 0) -> bytes:
        """With a WINDOW_UPDATE between head and body, as gRPC's C library sends it."""
        stream = 2 * number + 1
        more = [("grpc-timeout", f"{milliseconds}m")] if milliseconds else []
        begun = self.connection.call(stream, None, f"/s/{method}", *more)
        window = frames.WindowUpdateFrame(stream, window_increment=5).serialize()
        body = frames.DataFrame(stream, framed(message), flags=["END_STREAM"]).serialize()
        return begun + bytes(window) + bytes(body)

    def answers(self) -> dict[int, Heard]:
        for stream, answer in self.connection.answers().items():
            if "grpc-status" in answer.headers:
                number = (stream - 1) // 2
                assert number not in self._heard, "a second answer"
                said = answer.headers.get("grpc-message", "")
                self._heard[number] = Heard(int(answer.headers["grpc-status"]), said, answer.data[5:])
        return self._heard


class _Kept(Transport):
    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))


class Prpc:
    stopped, late = "ECANCELED", (1008, "ERPCTIMEDOUT")

    def __init__(self, desk: Desk) -> None:
        shared = PrpcPort(
            services={"s": desk.methods}, limits=LIMITS, memory=Budget(10**9), check=None, error_of=error_of,
            access=desk.note, connections=Connections(),
        )  # fmt: skip
        self.connection = PrpcConnection(shared)
        self.wire = _Kept(self.connection)  # type: ignore[arg-type]
        self.connection.connection_made(self.wire)

    def frame(self, number: int, message: bytes, method: str = "predict", milliseconds: int = 0) -> bytes:
        return prpc_client.frame(f"s/{method}", message, number, request={"timeout_ms": milliseconds})

    def answers(self) -> dict[int, Heard]:
        heard: dict[int, Heard] = {}
        for answer in prpc_client.answers(b"".join(self.wire.written)):
            assert answer.number not in heard, "a second answer"
            heard[answer.number] = Heard(answer.errno, answer.text, answer.body)
        return heard


CLIENTS = [Grpc, Prpc]
OVER_ALL = pytest.mark.parametrize("over", CLIENTS)


def hears(client: Client, *pieces: bytes) -> None:
    for piece in pieces:
        client.connection.data_received(piece)


@pytest.mark.parametrize(("last", "is_answered"), [(b"call", True), (b"calls", False), (b"cal", False)])
@in_loop
async def test_a_body_is_as_long_as_the_client_says(last: bytes, is_answered: bool) -> None:
    """The head is known by then."""
    desk = Desk()
    client = Grpc(desk)
    for number, message in enumerate((b"call", b"call", b"call", last)):
        stream, length = 2 * number + 1, str(len(framed(b"call")))
        begun = client.connection.call(stream, None, "/s/predict", ("content-length", length))
        hears(client, begun + bytes(frames.DataFrame(stream, framed(message), flags=["END_STREAM"]).serialize()))
    desk.settle()
    assert client.answers().keys() == ({0, 1, 2, 3} if is_answered else {0, 1, 2})


@OVER_ALL
@in_loop
async def test_many_calls_in_one_piece(over: Any) -> None:
    desk = Desk()
    client: Client = over(desk)
    hears(client, b"".join(client.frame(number, b"call %d" % number) for number in range(20)))
    for _ in range(20):  # a connection gives way to others when it has taken its time
        await rounds()
    assert [call.request.id for call in desk.calls] == [f"call {number}" for number in range(20)]
    assert not client.answers()
    desk.settle()
    assert client.answers() == {number: Heard(0, "", b"call %d" % number) for number in range(20)}
    assert [(line[4], line[6]) for line in desk.lines] == [("OK", f"call {number}") for number in range(20)]


@OVER_ALL
@in_loop
async def test_a_piece_may_end_anywhere(over: Any) -> None:
    """Two calls with heads that are known, in two pieces, for each place where the first one can end."""
    desk = Desk()
    client: Client = over(desk)
    hears(client, client.frame(0, b"first"), client.frame(1, b"second"))
    desk.settle()
    number = place = size = 2
    while place <= size:
        both = client.frame(number, b"one") + client.frame(number + 1, b"another")
        place, size = (1 if number == 2 else place + 1), len(both)
        hears(client, both[:place], both[place:])
        desk.settle()
        heard = client.answers()
        assert [heard[number].message, heard[number + 1].message] == [b"one", b"another"], place
        number += 2
    assert number > 2 * size
    assert {line[4] for line in desk.lines} == {"OK"}


@in_loop
async def test_what_does_not_come_whole_or_is_not_plain_goes_the_general_way() -> None:
    """Over gRPC. Each call is between two that are taken at once, and all windows are as if none had been."""
    desk = Desk()
    client = Grpc(desk)
    wire = client.connection
    hears(client, client.frame(0, b"a"), client.frame(1, b"b"))
    begun = [wire.call(stream, None, PATH) for stream in range(5, 60, 2)]
    update = struct.Struct(">IBII").pack
    end = ["END_STREAM"]
    body = framed(b"odd")

    def data(stream: int, content: bytes, *flags: str) -> bytes:
        return bytes(frames.DataFrame(stream, content, flags=flags).serialize())

    hears(
        client,
        begun[0] + data(5, body[:3]) + data(5, body[3:], *end),
        client.frame(3, b"c"),
        begun[2] + data(9, body) + data(9, b"", *end),
        begun[3] + update(4 << 8 | 8, 0, 11, 0) + data(11, body, *end),  # opens the window by nothing
        client.frame(6, b"d"),
        begun[5] + update(4 << 8 | 8, 0, 13, 5) + data(15, body, *end),  # that of another stream
        begun[6] + data(17, framed(bytes(LIMITS.max_message_bytes + 1))[:16_000]),
        begun[7] + data(19, b"\0\0\0\0\1ab", *end),
        begun[8] + data(21, b"", *end),
        begun[9] + bytes(frames.RstStreamFrame(23, 8).serialize()) + client.frame(12, b"e"),
    )
    desk.settle()
    answers = client.answers()
    assert {number: heard.status for number, heard in answers.items()} == {
        0: 0, 1: 0, 2: 0, 3: 0, 4: 0, 6: 0, 7: 0, 8: 8, 9: 13, 10: 13, 12: 0,
    }  # fmt: skip
    assert wire.streams == {}
    assert wire.last == 25


@in_loop
async def test_limits_hold_for_calls_that_come_whole() -> None:
    desk = Desk()
    client = Grpc(desk)
    wire = client.connection
    hears(client, b"".join([client.frame(number, b"x") for number in range(1026)]))
    await worked_off(wire)
    assert len(desk.calls) == len(wire.streams) == 1024
    resets = {said.stream_id: said.error_code for said in wire.said() if isinstance(said, frames.RstStreamFrame)}
    assert resets == {2049: 7, 2051: 7}, "they may be asked again elsewhere"
    desk.settle()
    assert len(client.answers()) == 1024
    assert wire.streams == {}
    before = wire.credit, wire.window
    hears(client, client.frame(1030, bytes(1000)))
    assert (wire.credit, wire.window) == (before[0] - 1005, before[1])
    wire.retire_at_last()
    hears(client, client.frame(1031, b"too late"))
    assert [call.request.id for call in desk.calls] == ["\0" * 1000]
    desk.settle()
    assert wire.wire.closed


@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
@pytest.mark.parametrize("at", ["waiting", "running", "read slowly", "write slowly"])
@pytest.mark.parametrize(
    ("over", "leaves"),
    [
        *((Grpc, leaves) for leaves in ("deadline", "connection", "reset", "stop")),
        (Prpc, "deadline"),
        (Prpc, "connection"),
    ],
)
@in_loop
async def test_a_call_that_nobody_waits_for(over: Any, at: str, leaves: str, known: bool) -> None:
    desk = Desk()
    client: Client = over(desk)
    patience = 50 if leaves == "deadline" else 60_000
    for number in range(2 if known else 0):
        hears(client, client.frame(number, b"before", milliseconds=patience))
        desk.settle()
    desk.noted.clear()
    number = 2
    hears(client, client.frame(number, at.encode(), milliseconds=patience))
    if at in ("running", "write slowly"):
        desk.take()
    calls = list(desk.calls)
    if at == "write slowly":
        desk.settle()
    await rounds(2)
    if leaves == "deadline":
        await desk.noted.wait()
        assert client.answers()[number].status == client.late[0]
    elif leaves == "connection":
        client.connection.connection_lost(None)
    elif leaves == "reset":
        hears(client, bytes(frames.RstStreamFrame(2 * number + 1, 8).serialize()))
        hears(client, client.frame(3, b"the next one"))
        desk.settle()
        assert client.answers()[3] == Heard(0, "", b"the next one")
    else:
        await asyncio.gather(*client.connection.end_now(), return_exceptions=True)
        assert client.answers()[number].status == Code.UNAVAILABLE
    words = {"deadline": client.late[1], "stop": "UNAVAILABLE"}
    desk.gate.set()
    await rounds(5)
    assert len(desk.queue) == 0, "it waits though nobody needs it"
    assert all(call.cancelled for call in calls)
    assert bool(calls) == (at != "read slowly")
    assert not [call for call in desk.calls if call not in calls], "it was submitted though nobody needs it"
    assert [line[4] for line in desk.lines if line[6] == at] == [words.get(leaves, client.stopped)]


@OVER_ALL
@pytest.mark.parametrize(
    ("said", "grpc", "brpc", "text"),
    [
        ("read unsupported", 12, 1002, "not this"), ("read slowly unsupported", 12, 1002, "not this"),
        ("read aborted", 10, 2001, "not now"), ("read slowly aborted", 10, 2001, "not now"),
        ("read broken", 13, 2001, "ZeroDivisionError"), ("read slowly broken", 13, 2001, "ZeroDivisionError"),
        ("submit overloaded", 8, 2004, "too much"),
        ("write unsupported", 12, 1002, "not this"), ("write slowly unsupported", 12, 1002, "not this"),
        ("write aborted", 10, 2001, "not now"), ("write slowly aborted", 10, 2001, "not now"),
        ("write broken", 13, 2001, "ZeroDivisionError"), ("write slowly broken", 13, 2001, "ZeroDivisionError"),
    ],
)  # fmt: skip
@in_loop
async def test_what_goes_wrong_is_said_once(over: Any, said: str, grpc: int, brpc: int, text: str) -> None:
    desk = Desk()
    client: Client = over(desk)
    desk.gate.set()
    hears(client, client.frame(0, said.encode()) + client.frame(1, b"well"))
    await rounds(3)
    desk.settle()
    await rounds(3)
    answers = client.answers()
    assert answers[0].status == (grpc if over is Grpc else brpc)
    assert text in answers[0].text
    assert answers[1] == Heard(0, "", b"well")
    assert sorted(line[6] for line in desk.lines) == sorted([said, "well"])
    if "unsupported" in said:  # the dialect has the words for it
        assert Failure(Kind.UNSUPPORTED, "not this") in desk.written


@OVER_ALL
@in_loop
async def test_the_answer_of_what_takes_long(over: Any) -> None:
    desk = Desk()
    client: Client = over(desk)
    hears(client, client.frame(0, b"read slowly"), client.frame(1, b"write slowly"), client.frame(2, b"fast"))
    assert [call.request.id for call in desk.calls] == ["write slowly", "fast"]
    desk.settle()
    assert set(client.answers()) == {2}
    desk.gate.set()
    await rounds(3)
    (call,) = desk.calls
    assert (len(call.kept), call.held_bytes > 0) == (1, True)
    desk.settle()
    assert (call.kept, call.rpc.kept) == ([], [])
    assert client.answers() == {number: Heard(0, "", said) for number, said in
                                enumerate([b"read slowly", b"write slowly", b"fast"])}  # fmt: skip


@OVER_ALL
@in_loop
async def test_answers_in_pieces(over: Any) -> None:
    desk = Desk()
    client: Client = over(desk)
    hears(client, client.frame(0, b"x", "whole"), client.frame(1, b"y", "predict"), client.frame(2, b"z", "whole"))
    for call in desk.calls:
        call.streaming = True
        call.chunk(Reply(b"one ", ""))
        call.chunk(Reply(b"two ", ""))
    desk.calls.pop().settle(Failure(Kind.HANDLER, "it broke off"))
    desk.settle()
    answers = client.answers()
    assert answers[0] == Heard(0, "", b"one two x")
    assert (answers[1].text, answers[1].message) == (IN_PIECES, b"")
    assert (answers[2].text, answers[2].message) == ("it broke off", b"")


@in_loop
async def test_an_answer_that_waits_for_a_slow_client_holds_no_request() -> None:
    desk = Desk()
    methods = {PATH.encode(): desk.methods["predict"]}
    wire = Wire(port(methods=methods), (frames.SettingsFrame.INITIAL_WINDOW_SIZE, 0))
    wire.hears(wire.call(1, b"said", PATH))
    (call,) = desk.calls
    desk.settle()
    assert wire.waiting_bytes
    assert call.request.inputs == []
    wire.hears(frames.SettingsFrame(settings={frames.SettingsFrame.INITIAL_WINDOW_SIZE: 99}))
    assert wire.answers()[1].data == framed(b"said")
