"""What a call may do, and what its fault does to the others of its connection: nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from hyperframe import frame as frames

from pdserver.dialects.rpc import BidiStreaming, Code, Message, RpcCall, RpcError, ServerStreaming, Unary
from pdserver.grpc import call as calls_of_grpc
from pdserver.security.access import OPEN
from tests.grpc_testbed import asked
from tests.http2_wire import CHAT, STREAM, UNARY, Wire, framed, port
from tests.test_http2_turns import in_loop, rounds, worked_off

MIB = 1024 * 1024
WINDOW = frames.SettingsFrame.INITIAL_WINDOW_SIZE
INTERNAL_ERROR = "2"


async def spoil(message: Message, call: RpcCall) -> Any:
    """Does what it is asked for."""
    what = bytes(message).decode()
    if what == "no bytes":
        return {"an": "object"}
    if what == "no characters":
        raise RpcError(Code.ABORTED, "half a pair: \ud800")
    if what == "no characters in metadata":
        call.trailers.append(("x", "\ud800"))
    if what == "metadata that HTTP/2 can't carry":
        bad: list[tuple[str, str | bytes]] = [
            ("X-Capital", "a"), ("", "a"), ("a b", "a"), (":status", "500"), ("connection", "close"), ("te", "gzip"),
            ("grpc-status", "3"), ("x", "a\r\nb: c"), ("x", "a\0"), ("x", " a"), ("x", "a\t"), ("x", "ä"), ("x", b"a"),
            ("x-bin", "a"),
        ]  # fmt: skip
        good: list[tuple[str, str | bytes]] = [("x-good", "a b"), ("x-good-bin", b"\0\xff")]
        call.initial += bad + good
        call.trailers += bad + good
    if what == "an exception":
        raise ZeroDivisionError
    return b"ok"


async def spoil_stream(message: Message, call: RpcCall) -> AsyncGenerator[Any, None]:
    yield b"first"
    yield await spoil(message, call)


METHODS = {UNARY.encode(): Unary(spoil, OPEN), STREAM.encode(): ServerStreaming(spoil_stream, OPEN)}


@pytest.mark.parametrize("path", [UNARY, STREAM])
@pytest.mark.parametrize(
    ("what", "status"),
    [
        ("no bytes", "13"),
        ("no characters", "10"),
        ("no characters in metadata", "0"),
        ("metadata that HTTP/2 can't carry", "0"),
        ("an exception", "13"),
    ],
)
@in_loop
async def test_a_method_that_goes_wrong_has_a_status(path: str, what: str, status: str) -> None:
    wire = Wire(port(methods=METHODS))
    wire.hears(wire.call(1, what.encode(), path), wire.call(3, b"", path))
    await rounds(10)
    answers = wire.answers()
    assert answers[1].headers["grpc-status"] == status
    assert answers[3].headers["grpc-status"] == "0"
    assert answers[3].data.endswith(framed(b"ok"))
    assert not wire.streams


@in_loop
async def test_metadata_that_can_be_carried_are() -> None:
    wire = Wire(port(methods=METHODS))
    wire.hears(wire.call(1, b"metadata that HTTP/2 can't carry"))
    await rounds(10)
    initial, trailing = (found for found in wire.said() if isinstance(found, frames.HeadersFrame))
    usual = {":status", "content-type", "grpc-status"}
    for found in (initial, trailing):
        fields = {str(name): str(value) for name, value in wire.decoder.decode(found.data)}
        assert {name: value for name, value in fields.items() if name not in usual} == {
            "x-good": "a b",
            "x-good-bin": "AP8",
        }


@in_loop
async def test_a_fault_of_ours_ends_one_call(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    wire = Wire(port())
    wire.hears(wire.call(1, path=CHAT), wire.call(3, path=CHAT))

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(calls_of_grpc, "whole", broken)
        wire.hears(frames.DataFrame(1, framed(asked(size=1))))
    assert "ZeroDivisionError" in caplog.text
    wire.hears(frames.DataFrame(3, framed(asked(size=2)), flags=["END_STREAM"]))
    await rounds(5)
    answers = wire.answers()
    assert answers[1].headers["reset"] == INTERNAL_ERROR
    assert (answers[3].data, answers[3].headers["grpc-status"]) == (framed(bytes(2)), "0")


@in_loop
async def test_a_malformed_message_behind_an_answer_harms_nobody() -> None:
    """The answer waits for the client's window, so the stream is still there."""
    wire = Wire(port(), (WINDOW, 0))
    wire.hears(wire.call(1, path=CHAT), frames.DataFrame(1, framed(asked(code=9)[:-1] + b"\n")))
    wire.hears(wire.call(3, path=CHAT), frames.DataFrame(3, framed(asked(size=9))))
    await rounds(5)
    bad = frames.DataFrame(3, b"\2\0\0\0\1"), frames.DataFrame(3, b"x"), frames.DataFrame(3, b"yz")
    wire.hears(*bad)
    wire.hears(wire.call(5, asked(size=3)), frames.SettingsFrame(settings={WINDOW: 65_535}))
    await rounds(5)
    answers = wire.answers()
    assert answers[3].headers["grpc-status"] == "13"
    assert answers[5].data == framed(bytes(3))


@in_loop
async def test_who_sends_less_than_is_granted_is_slow_and_who_waits_for_us_is_not() -> None:
    """A stream whose method is busy reads no more, so the client can't go on with the message that it began."""
    busy = asyncio.Event()

    async def wait(messages: AsyncIterator[Message], _: RpcCall) -> AsyncGenerator[bytes, None]:
        async for _message in messages:
            await busy.wait()
        yield b"done"

    wire = Wire(port(methods={CHAT.encode(): BidiStreaming(wait, OPEN)}, slow_client_seconds=0))
    small = framed(bytes(900))
    wire.hears(wire.call(1, path=CHAT), wire.call(3, path=CHAT))
    await rounds(2)
    wire.hears(*[frames.DataFrame(stream, small * 17) for stream in (1, 3)])
    wire.hears(*[frames.DataFrame(stream, framed(bytes(2 * MIB))[:5]) for stream in (1, 3)])
    await rounds(3)
    while credit := wire.streams[1].credit:
        wire.hears(frames.DataFrame(1, bytes(min(credit, 16_384))))
        await worked_off(wire)
    calls = wire.calls()
    for _ in range(3):
        for call in calls:
            call.check()
        await asyncio.sleep(0.01)
    answers = wire.answers()
    assert answers[3].headers["grpc-status"] == "4"
    assert 1 not in answers
    wire.connection_lost(None)
    await rounds(2)
