"""`python -m bench.rings KIND IN_FLIGHT SECONDS`: what a message between a front end and the main process costs.

KIND is what it goes through: a socketpair, or a ring of shared memory.

Both carry the same frames of the worker's wire format. The front end sends its messages in frames of up to eight, the
other side answers each frame with one, and every answer is the next message. A side that finds nothing sleeps in its
event loop. The writer of a ring wakes it by an eventfd, which it need not do while the reader is awake.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Protocol

import msgspec
import uvloop

from bench.paths import ROOT
from pdserver.backends.channel import Channel
from pdserver.worker import wire

SOCKETPAIR, RING = "socketpair", "ring"
_AT_ONCE = 8
"""Messages in a frame."""
_BODY = b'{"x": [0.0012, 0.2987, -0.2741, -0.8906, -0.4547, -0.9916, 0.0601, 1.3402, -0.4926, -0.5781, 0.4412]}'
_RING_BYTES = 1 << 20
_NUMBER_BYTES = 8
_WRITTEN, _READ, _SLEEPING, _DATA = 0, 8, 16, 24
"""Where a ring's numbers are: each in a cache line of its own, for only one side writes it."""
_DATA_BYTES = _DATA * _NUMBER_BYTES
_POLL_SECONDS = 0.005
"""A reader that is about to sleep and a writer may just miss one another, so the reader looks again after a while."""


class _Message(msgspec.Struct, array_like=True):
    id: int
    model: str
    body: bytes


class _Messages(msgspec.Struct, array_like=True):
    items: list[_Message]


_decoder = wire.decoder(_Messages)


class Ring:
    """Frames in one direction, of at most half its size. One process writes and one reads.

    A frame begins where a number fits, after its size in bytes. It is never split: a size of 0 says that the rest of
    the ring is skipped. Numbers are written as a whole, as `struct` would not: the other side may read them meanwhile.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _DATA_BYTES + _RING_BYTES)
        self._numbers = memoryview(self._memory).cast("Q")
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK)

    def write(self, frame: bytearray) -> bool:
        """False if there is no room now."""
        numbers = self._numbers
        begin = numbers[_WRITTEN]
        place, size = begin % _RING_BYTES, _NUMBER_BYTES + _rounded(len(frame))
        skipped = _RING_BYTES - place if place + size > _RING_BYTES else 0
        if begin + skipped + size - numbers[_READ] > _RING_BYTES:
            return False
        if skipped:
            numbers[_DATA + place // _NUMBER_BYTES] = 0
            place = 0
        numbers[_DATA + place // _NUMBER_BYTES] = len(frame)
        at = _DATA_BYTES + place + _NUMBER_BYTES
        self._memory[at : at + len(frame)] = frame
        numbers[_WRITTEN] = begin + skipped + size
        if numbers[_SLEEPING]:
            numbers[_SLEEPING] = 0
            os.eventfd_write(self.wake_fd, 1)
        return True

    def read(self) -> bytes | None:
        """The next frame, or None if there is none now."""
        numbers = self._numbers
        begin = numbers[_READ]
        if begin == numbers[_WRITTEN]:
            return None
        place = begin % _RING_BYTES
        length = numbers[_DATA + place // _NUMBER_BYTES]
        if not length:
            begin, place = begin + _RING_BYTES - place, 0
            length = numbers[_DATA]
        at = _DATA_BYTES + place + _NUMBER_BYTES
        frame = self._memory[at : at + length]
        numbers[_READ] = begin + _NUMBER_BYTES + _rounded(length)
        return frame

    def sleep(self) -> bool:
        """Ask to be woken. False if something came meanwhile."""
        numbers = self._numbers
        numbers[_SLEEPING] = 1
        if numbers[_READ] == numbers[_WRITTEN]:
            return True
        numbers[_SLEEPING] = 0
        return False


def _rounded(size: int) -> int:
    """To whole numbers' sizes."""
    return -(-size // _NUMBER_BYTES) * _NUMBER_BYTES


class _Line(Protocol):
    def send(self, frame: bytearray) -> None: ...


class _Rings:
    """Both directions, in the event loop."""

    def __init__(self, out: Ring, into: Ring, on_frame: Callable[[memoryview], None]) -> None:
        self._out, self._in, self._on_frame = out, into, on_frame
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(into.wake_fd, self._woken)
        self._loop.call_soon(self._poll)

    def send(self, frame: bytearray) -> None:
        if not self._out.write(frame):
            raise BufferError("the ring is full")

    def _woken(self) -> None:
        os.eventfd_read(self._in.wake_fd)
        self._drain()

    def _poll(self) -> None:
        self._drain()
        self._loop.call_later(_POLL_SECONDS, self._poll)

    def _drain(self) -> None:
        while True:
            while (frame := self._in.read()) is not None:
                self._on_frame(memoryview(frame)[wire.HEADER.size :])
            if self._in.sleep():
                return


async def _front_end(connect: Callable[[Callable[[memoryview], None]], _Line], in_flight: int, seconds: float) -> int:
    """Returns how many messages were answered."""
    done = 0

    def again(frame: memoryview) -> None:
        nonlocal done
        answers = _decoder.decode(frame).items
        done += len(answers)
        line.send(wire.encode(_Messages([_Message(answer.id, "fit", _BODY) for answer in answers])))

    line = connect(again)
    for first in range(0, in_flight, _AT_ONCE):
        ids = range(first, min(first + _AT_ONCE, in_flight))
        line.send(wire.encode(_Messages([_Message(number, "fit", _BODY) for number in ids])))
    await asyncio.sleep(seconds)
    return done


async def _main_side(connect: Callable[[Callable[[memoryview], None]], _Line], seconds: float) -> None:
    def answer(frame: memoryview) -> None:
        asked = _decoder.decode(frame).items
        line.send(wire.encode(_Messages([_Message(each.id, each.model, each.body) for each in asked])))

    line = connect(answer)
    await asyncio.sleep(seconds)


def _ended() -> None:
    """The other side's time is over, too."""


def _broken(reason: str) -> None:
    raise RuntimeError(reason)


def measure(kind: str, in_flight: int, seconds: float) -> dict[str, float]:
    """In two processes of their own: messages per second, and CPU µs for each message on either side."""
    command = [sys.executable, "-W", "ignore", "-m", "bench.rings", kind, str(in_flight), str(seconds)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=seconds + 60)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main(kind: str, in_flight: int, seconds: float) -> None:
    ends, rings = socket.socketpair(), (Ring(), Ring())
    read_fd, write_fd = os.pipe()
    child = os.fork()
    own = 0 if child else 1

    def connect(on_frame: Callable[[memoryview], None]) -> _Line:
        if kind == RING:
            return _Rings(rings[own], rings[1 - own], on_frame)
        channel: _Line = Channel(ends[own], lambda fds: fds, lambda frame, _: on_frame(frame), _broken, _ended)
        return channel

    before = time.process_time()
    if child:
        uvloop.run(_main_side(connect, seconds))
    else:
        done = uvloop.run(_front_end(connect, in_flight, seconds))
    spent = time.process_time() - before
    if not child:
        os.write(write_fd, json.dumps([done, spent]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    done, front_end = json.loads(os.read(read_fd, 1000))
    values = {
        "messages_per_second": done / seconds,
        "front_end_us": front_end / done * 1e6,
        "main_us": spent / done * 1e6,
    }
    print(json.dumps(values))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
