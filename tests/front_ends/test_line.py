"""Frames between the processes, where one thing in them can't be sent: all else arrives."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from pdserver.errors import Kind
from pdserver.front_ends.front_end import FrontEnd
from pdserver.front_ends.messages import Ended, Last, ToFrontEnd, ToMain
from pdserver.front_ends.remote import RemoteEngine
from pdserver.logs.forwarding import Logged
from pdserver.types import Failure, Reply
from pdserver.worker import wire

HALF = "\ud800"
"""Of a surrogate pair: Python's text may have it, UTF-8 and MessagePack don't."""


def nothing(*_: Any) -> None:
    pass


def of_main(ours: socket.socket) -> FrontEnd:
    return FrontEnd(ours, nothing, nothing, nothing)


def of_front_end(ours: socket.socket) -> RemoteEngine:
    return RemoteEngine(ours, nothing, nothing)


def sent(make: Callable[[socket.socket], Any], say: Callable[[Any], None], kind: type[Any]) -> Any:
    """The frame that this end sends when it has said this."""

    async def run() -> bytes:
        ours, theirs = socket.socketpair()
        with theirs:
            line = make(ours)
            say(line)
            line.flush()
            line.close()
            return theirs.recv(1 << 20)

    return wire.decoder(kind).decode(memoryview(asyncio.run(run()))[wire.HEADER.size :])


def test_text_that_can_not_be_sent_is_escaped() -> None:
    def say(line: RemoteEngine) -> None:
        line.say(Logged("pdserver.http", 20, 1.0, 2, HALF, f"ValueError: {HALF}", {"own": HALF}))
        line.say(Last(7))

    logged, last = sent(of_front_end, say, ToMain).others
    assert (logged.message, logged.exception, logged.own) == (r"\ud800", r"ValueError: \ud800", {"own": r"\ud800"})
    assert last == Last(7)


def test_an_answer_that_can_not_be_sent_fails_alone() -> None:
    piece, whole, bad = Reply(b"a", "text/plain"), Reply(b"b", "text/plain"), Reply(b"", "", headers=[("x", HALF)])

    def say(line: FrontEnd) -> None:
        line.say(Ended(7, message=HALF))
        line.piece(1, piece)
        line.piece(2, bad)
        line.settle(3, whole)
        line.settle(4, bad)

    frame: ToFrontEnd = sent(of_main, say, ToFrontEnd)
    assert frame.others == [Ended(7, message=r"\ud800")]
    assert frame.pieces[0] == (1, piece)
    assert frame.settled[0] == (3, whole)
    for (number, failure), expected in ((frame.pieces[1], 2), (frame.settled[1], 4)):
        assert number == expected
        assert isinstance(failure, Failure)
        assert failure.kind is Kind.HANDLER
