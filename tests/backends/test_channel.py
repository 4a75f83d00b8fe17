"""A channel carries whole frames, both ways, with all that belongs to them; and says once that it has ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import pytest

from pdserver.backends.channel import Channel
from pdserver.memory_file import MemoryFile
from pdserver.worker import files, wire


class Note(msgspec.Struct):
    number: int
    filling: bytes = b""


_decode = msgspec.msgpack.Decoder(Note).decode
Frame = tuple[int, list[bytes] | None]


class Ends:
    """A channel, and the socket at its other end."""

    def __init__(self, theirs: socket.socket, channel_socket: socket.socket) -> None:
        self.theirs = theirs
        self.frames: list[Frame] = []
        self.broken: list[str] = []
        self.ended = 0
        self.channel = Channel(channel_socket, files.take_views, self._frame, self.broken.append, self._end)
        self._reader = wire.FrameReader()
        self._files = files.Received(files.take_views)

    def _frame(self, frame: memoryview, contents: list[bytes] | None) -> None:
        held = None if contents is None else [bytes(data) for data in contents]
        self.frames.append((_decode(frame).number, held))

    def _end(self) -> None:
        self.ended += 1

    def write(self, number: int, *contents: bytes, filling: bytes = b"") -> None:
        """A frame, from the other end, with files."""
        held = sealed(*contents)
        fds = [file.fd for file in held]
        for piece, group in files.pieces(wire.encode(Note(number, filling), len(fds)), fds):
            self.theirs.sendmsg([piece], files.rights(group))

    async def read(self, count: int) -> list[Frame]:
        """So many frames, as they come to the other end."""
        loop = asyncio.get_running_loop()
        frames: list[Frame] = []
        while len(frames) < count:
            readable = loop.create_future()
            loop.add_reader(self.theirs, readable.set_result, None)
            await readable
            loop.remove_reader(self.theirs)
            size, ancillary, flags, _ = self.theirs.recvmsg_into([self._reader.buffer()], files.ANCILLARY_BYTES)
            assert size, "hung up"
            self._files.add(ancillary, flags)
            for frame, brought in self._reader.received(size):
                contents = self._files.take(brought)
                frames.append((_decode(frame).number, contents and [bytes(data) for data in contents]))
        return frames


def sealed(*contents: bytes) -> list[MemoryFile]:
    held = [MemoryFile([data]) for data in contents]
    for file in held:
        file.seal()
    return held


async def until(check: Callable[[], object]) -> None:
    while not check():  # noqa: ASYNC110 - a turn of the loop, and no time
        await asyncio.sleep(0)


def play(scene: Callable[[Ends], Awaitable[None]]) -> Ends:
    async def run() -> Ends:
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.setblocking(False)
            ends = Ends(theirs, ours)
            await asyncio.wait_for(scene(ends), 30)
            ends.channel.close()
            return ends

    return asyncio.run(run())


@contextlib.contextmanager
def no_more_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Out


@pytest.mark.parametrize("count", [0, 1, 250, 251, 1000])
def test_a_frame_takes_any_number_of_files_along(count: int) -> None:
    contents = [b"%d" % number for number in range(count)]

    async def scene(ends: Ends) -> None:
        held = sealed(*contents)
        ends.channel.send(wire.encode(Note(1), count), [file.fd for file in held])
        del held
        assert await ends.read(1) == [(1, contents)]

    play(scene)


def test_what_there_is_no_room_for_is_sent_later_with_the_files_that_it_had() -> None:
    async def scene(ends: Ends) -> None:
        filling = bytes(1 << 20)
        for number in range(8):
            held = sealed(*[b"%d" % number] * 100)
            ends.channel.send(wire.encode(Note(number, filling), 100), [file.fd for file in held])
            for file in held:
                file.close()
        others = sealed(*[b"another's"] * 800)  # have the numbers now
        assert await ends.read(8) == [(number, [b"%d" % number] * 100) for number in range(8)]
        del others
        assert not ends.channel.cut_off

    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    play(scene)
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


def test_a_frame_that_is_not_sent_whole_is_known() -> None:
    async def scene(ends: Ends) -> None:
        ends.channel.send(wire.encode(Note(1, bytes(1 << 22))))
        assert not ends.channel.cut_off
        ends.channel.close()
        assert ends.channel.cut_off

    assert play(scene).ended == 1


def test_nothing_is_sent_once_it_is_closed() -> None:
    async def scene(ends: Ends) -> None:
        ends.channel.close()
        ends.channel.send(wire.encode(Note(1)))
        assert ends.channel.cut_off

    play(scene)


def test_descriptors_that_cannot_be_passed_are_told_of() -> None:
    async def scene(ends: Ends) -> None:
        [file] = sealed(b"data")
        fd = file.fd
        file.close()
        ends.channel.send(wire.encode(Note(1), 1), [fd])
        await until(lambda: ends.broken)
        assert ends.channel.cut_off

    assert play(scene).broken == ["can't be written to: Bad file descriptor"]


# In


def test_each_frame_has_its_own_files_however_they_are_read() -> None:
    async def scene(ends: Ends) -> None:
        many = [b"%d" % number for number in range(300)]
        ends.write(1)
        ends.write(2, b"a", b"b")
        ends.write(3, *many)
        ends.write(4)
        ends.write(5, b"c", filling=bytes(100_000))
        await until(lambda: len(ends.frames) == 5)
        assert ends.frames == [(1, []), (2, [b"a", b"b"]), (3, many), (4, []), (5, [b"c"])]

    play(scene)


def test_files_that_are_lost_are_known_to_be_and_the_next_ones_are_not() -> None:
    async def scene(ends: Ends) -> None:
        ends.write(1, *[b"lost"] * 100)
        with no_more_descriptors():
            await until(lambda: ends.frames)
        ends.write(2, b"kept")
        await until(lambda: len(ends.frames) == 2)
        assert ends.frames == [(1, None), (2, [b"kept"])]

    assert play(scene).broken == []


def test_what_is_no_frame_is_told_of() -> None:
    async def scene(ends: Ends) -> None:
        ends.theirs.send(b"hello, this is a handler that prints to a descriptor not its own")
        await until(lambda: ends.broken)

    assert play(scene).broken == ["broke the protocol: what was written is not a message"]


def test_a_frame_that_makes_no_sense_is_told_of() -> None:
    async def scene(ends: Ends) -> None:
        ends.theirs.send(wire.HEADER.pack(wire.MARK, 0, 1) + b"\xc1")
        await until(lambda: ends.broken)

    [why] = play(scene).broken
    assert why.startswith("broke the protocol: ")


def test_a_file_that_is_not_sealed_is_told_of() -> None:
    async def scene(ends: Ends) -> None:
        file = MemoryFile([b"data"])
        ends.theirs.sendmsg([wire.encode(Note(1), 1)], files.rights([file.fd]))
        await until(lambda: ends.broken)

    assert play(scene).broken == ["broke the protocol: the memory file is not sealed"]


def test_the_end_is_told_once() -> None:
    async def scene(ends: Ends) -> None:
        ends.write(1)
        ends.theirs.shutdown(socket.SHUT_RDWR)
        await until(lambda: ends.ended)
        ends.channel.close()

    ends = play(scene)
    assert (ends.frames, ends.ended, ends.channel.closed) == ([(1, [])], 1, True)
