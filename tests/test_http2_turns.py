"""How connections share the event loop, and what each may have of the memory; without a network and without a clock."""

from __future__ import annotations

import asyncio
import functools
import gzip
import itertools
import tracemalloc
from collections.abc import Callable, Coroutine
from typing import Any

import psutil
import pytest
from hyperframe import frame as frames
from hyperframe.frame import SettingsFrame

from pdserver.grpc.http2 import turns
from pdserver.grpc.http2.stream import Stream
from pdserver.system.budget import Budget
from tests.grpc_testbed import asked
from tests.http2_wire import CHAT, UNARY, Wire, port

UNIMPLEMENTED = "12"
WINDOW = SettingsFrame.INITIAL_WINDOW_SIZE
MIB = 1024 * 1024


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(test(**fixtures))

    return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at it takes half a turn."""
    ticks = itertools.count(1)
    monkeypatch.setattr(turns, "monotonic", lambda: next(ticks) * turns.TURN_SECONDS / 2)


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time passes: a turn ends with what came in one piece."""
    monkeypatch.setattr(turns, "monotonic", lambda: 1.0)


async def rounds(count: int = 1) -> None:
    """Of the event loop."""
    for _ in range(count):
        await asyncio.sleep(0)


async def worked_off(*wires: Wire) -> int:
    """Until they have; gives how many rounds of the event loop it took."""
    count = 0
    while any(wire.wire.paused for wire in wires):
        await rounds()
        count += 1
    return count


def unknown(wire: Wire, count: int) -> bytes:
    """Calls of a path that is not there."""
    return b"".join(wire.call(2 * number + 1, path="/nowhere") for number in range(count))


# Turns


@in_loop
async def test_a_flood_of_calls_is_worked_off_turn_by_turn(clock: None) -> None:
    wire = Wire(port())
    wire.said()
    wire.hears(unknown(wire, 3000))
    first = len(wire.answers())
    assert 0 < first < 100
    assert wire.wire.paused, "it reads on with a backlog"
    assert await worked_off(wire) > 20
    assert first + len(wire.answers()) == 3000


@in_loop
async def test_all_that_wait_share_one_turn(clock: None) -> None:
    shared = port()
    wires = [Wire(shared) for _ in range(20)]
    for wire in wires:
        wire.hears(unknown(wire, 500))
        wire.said()
    for _ in range(30):
        await rounds()
        assert sum(len(wire.answers()) for wire in wires) < 100
    await worked_off(*wires)
    assert not any(wire.wire.paused for wire in wires)


@in_loop
async def test_all_that_receive_something_share_one_turn(clock: None) -> None:
    """A hundred connections that are flooded in the same round of the loop; and who asks for little has his answer."""
    shared = port(max_connections=200)
    wires = [Wire(shared) for _ in range(100)]
    said = [unknown(wire, 200) for wire in wires]
    for wire, calls in zip(wires, said, strict=True):
        wire.said()
        wire.hears(calls)
    small = Wire(shared)
    small.said()
    small.hears(unknown(small, 5))
    assert len(small.answers()) == 5
    assert sum(len(wire.answers()) for wire in wires) < 100 * 20
    await worked_off(*wires)


@in_loop
async def test_a_turn_is_written_at_once(clock: None) -> None:
    wire = Wire(port())
    before = len(wire.wire.written)
    wire.hears(unknown(wire, 1000))
    turns_taken = 1 + await worked_off(wire)
    assert len(wire.wire.written) - before <= turns_taken


@in_loop
async def test_who_does_not_read_is_not_read_from() -> None:
    """Else what it asks for would pile up, however little it is."""
    wire = Wire(port())
    wire.wire.full = True
    wire.hears(unknown(wire, 1))
    wire.wire.unread += 2 * MIB
    for number in range(1, 200):
        if not wire.wire.paused:
            wire.hears(*[wire.call(200 * number + 2 * stream + 1, path="/nowhere") for stream in range(100)])
    assert wire.wire.paused
    written = len(b"".join(wire.wire.written))
    await rounds(10)
    assert len(b"".join(wire.wire.written)) == written < 100_000
    wire.wire.drain()
    await worked_off(wire)
    assert not wire.wire.paused


@in_loop
async def test_what_came_though_reading_was_paused_is_not_lost(clock: None) -> None:
    """TLS may have it decrypted already."""
    wire = Wire(port())
    wire.said()
    wire.hears(unknown(wire, 500))
    assert wire.wire.paused
    last = wire.call(1001, asked(size=3))
    wire.hears(last[:15])
    await worked_off(wire)
    assert len(wire.answers()) == 500
    wire.hears(last[15:])
    await rounds(5)
    assert wire.answers()[1001].data == b"\0\0\0\0\3" + bytes(3)


class Unwalked(dict[int, Stream]):
    """Streams that are found by their number, and not by looking at all of them."""

    def values(self) -> Any:
        raise AssertionError("all streams were walked")

    items = __iter__ = values


@in_loop
async def test_no_frame_walks_all_streams() -> None:
    wire = Wire(port(), (WINDOW, 0))
    for number in range(500):
        wire.hears(wire.call(2 * number + 1, asked(size=10)))
    await rounds(5)
    wire.said()
    wire.streams = Unwalked(wire.streams)
    for number in range(100):
        wire.hears(
            frames.WindowUpdateFrame(0, 1),
            frames.WindowUpdateFrame(2 * number + 1, 1),
            SettingsFrame(settings={WINDOW: number % 2}),
            frames.PingFrame(0, b"12345678"),
            frames.PriorityFrame(1),
        )
    assert sum(isinstance(found, frames.DataFrame) for found in wire.said()) > 500


@in_loop
async def test_windows_that_open_byte_by_byte_give_large_frames(still: None) -> None:
    wire = Wire(port(), (WINDOW, 0))
    wire.hears(wire.call(1, asked(size=100_000)))
    await rounds(5)
    wire.said()
    wire.hears(*[frames.WindowUpdateFrame(1, 1)] * 900)
    assert [len(found.data) for found in wire.said() if isinstance(found, frames.DataFrame)] == [900]


@in_loop
async def test_large_answers_take_turns() -> None:
    """The one that was asked for last does not wait for the others' end."""
    wire = Wire(port(), (WINDOW, MIB))
    for number in range(3):
        wire.hears(wire.call(2 * number + 1, asked(size=200_000)))
    await rounds(5)
    wire.said()
    wire.hears(frames.WindowUpdateFrame(0, 98_304))
    assert [found.stream_id for found in wire.said() if isinstance(found, frames.DataFrame)] == [1, 3, 5, 1, 3, 5]


@in_loop
async def test_a_window_may_get_smaller_than_nothing() -> None:
    wire = Wire(port(), (WINDOW, 100))
    wire.hears(wire.call(1, asked(size=300)))
    await rounds(5)
    data = [found for found in wire.said() if isinstance(found, frames.DataFrame)]
    assert sum(len(found.data) for found in data) == 100
    wire.hears(SettingsFrame(settings={WINDOW: 40}), frames.WindowUpdateFrame(1, 60))
    assert not [found for found in wire.said() if isinstance(found, frames.DataFrame)]
    wire.hears(frames.WindowUpdateFrame(1, 1))
    assert [len(found.data) for found in wire.said() if isinstance(found, frames.DataFrame)] == [1]


@in_loop
async def test_a_stream_that_has_ended_does_not_limit_the_windows() -> None:
    wire = Wire(port())
    wire.hears(wire.call(1, path=CHAT), frames.WindowUpdateFrame(1, 2**31 - 1 - 65_535))
    wire.hears(frames.RstStreamFrame(1, 8), SettingsFrame(settings={WINDOW: 70_000}))
    assert not [found for found in wire.said() if isinstance(found, frames.GoAwayFrame)]
    wire.hears(wire.call(3, path=CHAT), frames.WindowUpdateFrame(3, 2**31 - 1 - 70_000))
    wire.hears(SettingsFrame(settings={WINDOW: 70_001}))
    assert [found.error_code for found in wire.said() if isinstance(found, frames.GoAwayFrame)] == [3]


# Memory


@in_loop
async def test_the_heads_that_a_connection_keeps_are_bounded() -> None:
    """100 idle connections held 770 MiB."""
    shared = port(max_connections=100)
    tracemalloc.start()
    wires = []
    for _ in range(5):
        wire = Wire(shared)
        wires.append(wire)
        for number in range(60):
            path = f"/{number:03}" + "x" * 8_000
            block = b"\x83\x86\x04\x7f" + bytes((len(path) - 127 & 0x7F | 0x80, len(path) - 127 >> 7)) + path.encode()
            wire.hears(frames.HeadersFrame(2 * number + 1, block, flags=["END_HEADERS", "END_STREAM"]))
            await worked_off(wire)
        wire.wire.written.clear()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 5 * 200_000


@in_loop
async def test_answers_that_are_not_taken_are_bounded() -> None:
    """64 MiB of one connection, and one more answer; whose call comes later is refused."""
    wire = Wire(port(max_message_bytes=64 * MIB), (WINDOW, 0))
    for number in range(40):
        wire.hears(wire.call(2 * number + 1, asked(size=4 * MIB)))
    await rounds(10)
    assert 60 * MIB < wire.waiting_bytes <= 68 * MIB + 200
    refused = [answer for answer in wire.answers().values() if answer.headers.get("grpc-status") == "8"]
    assert len(refused) == 40 - 16
    wire.hears(wire.call(99, asked()))
    assert wire.answers()[99].headers["grpc-status"] == "8"
    wire.connection_lost(None)
    assert wire.waiting_bytes == 0


@in_loop
async def test_messages_that_are_only_announced_cost_nothing() -> None:
    """Neither memory nor, of what all have together, more than has come."""
    memory = Budget(512 * MIB)
    wire = Wire(port(memory, max_message_bytes=64 * MIB))
    before = psutil.Process().memory_info().rss
    for number in range(500):
        start = frames.DataFrame(2 * number + 1, b"\0" + (60 * MIB).to_bytes(4, "big") + b"x")
        wire.hears(wire.call(2 * number + 1), start)
    assert psutil.Process().memory_info().rss - before < 100 * MIB
    assert memory.held_bytes == 500 * 64 * 1024
    wire.connection_lost(None)
    assert memory.held_bytes == 0


@in_loop
async def test_messages_that_have_half_come_are_bounded() -> None:
    """Of one connection, and of all together; what is refused gives back what it had."""
    memory = Budget(8 * MIB)
    shared = port(memory, max_held_bytes=4 * MIB)
    wires = [Wire(shared) for _ in range(3)]
    piece = bytes(16_384)
    for wire in wires:
        wire.said()
        for number in range(10):
            stream = 2 * number + 1
            wire.hears(wire.call(stream), frames.DataFrame(stream, b"\0" + (2 * MIB).to_bytes(4, "big")))
            for _ in range(60):
                wire.hears(frames.DataFrame(stream, piece))
                await worked_off(wire)
        refused = [answer for answer in wire.answers().values() if answer.headers.get("grpc-status") == "8"]
        assert len(refused) >= 6
    assert memory.held_bytes <= 8 * MIB
    for wire in wires:
        wire.connection_lost(None)
    assert memory.held_bytes == 0


@in_loop
async def test_unpacking_is_bounded_and_given_back() -> None:
    """6 MB were 6 GB."""
    memory = Budget(8 * MIB)
    wire = Wire(port(memory, max_message_bytes=64 * MIB, max_held_bytes=8 * MIB))
    wire.said()
    packed = gzip.compress(bytes(6 * MIB))
    for number in range(20):
        body = b"\1" + len(packed).to_bytes(4, "big") + packed
        stream = 2 * number + 1
        begun = wire.call(stream, None, UNARY, ("grpc-encoding", "gzip"))
        wire.hears(begun, frames.DataFrame(stream, body, flags=["END_STREAM"]))
    most = 0
    while wire.streams:
        most = max(most, memory.held_bytes)
        await asyncio.sleep(0.001)
    codes = [answer.headers["grpc-status"] for answer in wire.answers().values()]
    assert "8" in codes
    assert 6 * MIB < most <= 8 * MIB
    assert memory.held_bytes == 0
