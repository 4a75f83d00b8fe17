"""Large data beside the frames: all of it arrives, in its place, however much there is; or is known to be missing."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdserver.errors import Kind
from pdserver.memory_file import THRESHOLD_BYTES, MemoryFile
from pdserver.types import Failure, Outcome, Part, Reply, Request, Tensor, Values
from pdserver.worker import files

LARGE = THRESHOLD_BYTES


@pytest.fixture
def line() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """This process can have so many more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def sealed(*contents: bytes) -> list[MemoryFile]:
    made = [MemoryFile([data]) for data in contents]
    for file in made:
        file.seal()
    return made


def send(sock: socket.socket, data: bytes, held: list[MemoryFile]) -> None:
    for piece, fds in files.pieces(bytearray(data), [file.fd for file in held]):
        assert sock.sendmsg([piece], files.rights(fds)) == len(piece)


def receive(sock: socket.socket, received: files.Received[bytes], size: int) -> bytes:
    """`size` bytes, with all that comes along."""
    data = b""
    while len(data) < size:
        piece, ancillary, flags, _ = sock.recvmsg(size - len(data), files.ANCILLARY_BYTES)
        assert piece
        received.add(ancillary, flags)
        data += piece
    return data


def read(contents: list[bytes] | None) -> list[bytes]:
    assert contents is not None
    return [bytes(data) for data in contents]


# On the way


@given(st.binary(min_size=100, max_size=200), st.integers(0, 20 * files.GROUP))
def test_descriptors_go_in_groups_and_in_order(frame: bytes, count: int) -> None:
    pieces = files.pieces(bytearray(frame), range(count))
    assert b"".join(bytes(piece) for piece, _ in pieces) == frame
    assert [fd for _, fds in pieces for fd in fds] == list(range(count))
    assert all(len(piece) > 0 and len(fds) <= files.GROUP for piece, fds in pieces)


@pytest.mark.parametrize("count", [0, 1, files.GROUP - 1, files.GROUP, files.GROUP + 1, 253, 254, 600])
def test_any_number_of_files_arrives(line: tuple[socket.socket, socket.socket], count: int) -> None:
    ours, theirs = line
    contents = [b"%d" % number for number in range(count)]
    send(ours, b"x" * 100, sealed(*contents))
    received = files.Received(files.take_views)
    assert receive(theirs, received, 100) == b"x" * 100
    assert read(received.take(count)) == contents


def test_each_frame_has_its_own_files(line: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = line
    received = files.Received(files.take_views)
    many = [b"%d" % number for number in range(100)]
    send(ours, b"a" * 50, [])
    send(ours, b"b" * 50, sealed(b"1", b"2"))
    send(ours, b"c" * 50, sealed(*many))
    send(ours, b"d" * 50, sealed(b"3"))
    assert receive(theirs, received, 200) == b"a" * 50 + b"b" * 50 + b"c" * 50 + b"d" * 50
    assert received.take(0) == []
    assert read(received.take(2)) == [b"1", b"2"]
    assert read(received.take(100)) == many
    assert read(received.take(1)) == [b"3"]


def test_more_files_arrive_than_there_are_descriptors(line: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = line
    contents = [b"%d" % number for number in range(500)]
    send(ours, b"x" * 100, sealed(*contents))
    received = files.Received(files.take_views)
    with descriptors_left(2 * files.GROUP):
        receive(theirs, received, 100)
    taken = received.take(500)
    assert read(taken) == contents
    assert all(memoryview(data).readonly for data in taken or [])


def test_what_is_lost_for_want_of_descriptors_is_known_to_be(line: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = line
    received = files.Received(files.take_views)
    send(ours, b"x" * 50, sealed(*[b"lost"] * 100))
    send(ours, b"y" * 50, sealed(b"kept"))
    with descriptors_left(0):
        assert receive(theirs, received, 50) == b"x" * 50
    assert receive(theirs, received, 50) == b"y" * 50
    assert received.take(100) is None
    assert read(received.take(1)) == [b"kept"]


def test_some_of_a_group_is_none_of_it(line: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = line
    received = files.Received(files.take_views)
    spare = [os.dup(0) for _ in range(3)]
    send(ours, b"x" * 50, sealed(*[b"data"] * 10))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with descriptors_left(0):
        for fd in spare:
            os.close(fd)
        receive(theirs, received, 50)
    assert received.take(10) is None
    assert len(list(Path("/proc/self/fd").iterdir())) == before - 3, "those that came are closed"


def test_files_that_are_not_sealed_are_refused(line: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = line
    send(ours, b"x" * 50, [MemoryFile([b"data"])])
    with pytest.raises(ValueError, match="not sealed"):
        receive(theirs, files.Received(files.take_views), 50)


def test_other_files_than_a_message_announced_are_told(line: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = line
    send(ours, b"x" * 50, sealed(b"1", b"2"))
    received = files.Received(files.take_views)
    receive(theirs, received, 50)
    with pytest.raises(ValueError, match="2 descriptors came with a message that announced 3"):
        received.take(3)


def test_files_that_cannot_be_mapped_are_known_to_be_missing(line: tuple[socket.socket, socket.socket]) -> None:
    def take_over(fds: list[int]) -> list[bytes]:
        files.close_all(fds)
        raise OSError("Cannot allocate memory")

    ours, theirs = line
    send(ours, b"x" * 50, sealed(b"1", b"2"))
    received = files.Received(take_over)
    assert receive(theirs, received, 50) == b"x" * 50
    assert received.take(2) is None


# Inputs


def test_inputs_come_to_their_places() -> None:
    requests = [
        Request("m", None, "a", [Part("body", "", b"small")]),
        Request("m", None, "b", [Part("one", "", b"", 1, 0, 6), Part("two", "", b"", 0, 2, 3)], files=[7, 8]),
        Request("m", None, "c", [Tensor("x", "uint8", (2,), b"", file=0, start=1, size=2)], files=[9]),
    ]
    files.put_inputs_in_place(requests, [b"first", b"second", b"third"])
    assert [given.data for request in requests for given in request.inputs] == [b"small", b"second", b"rst", b"hi"]


def test_what_came_in_files_is_let_go_and_nothing_else() -> None:
    small = Request("m", None, "a", [Part("body", "", b"small")])
    large = Request("m", None, "b", [Part("body", "", b"large")], files=[7])
    files.let_inputs_go([small, large])
    assert (len(small.inputs), large.inputs) == (1, [])


# Answers


def carry(outcomes: list[Outcome]) -> tuple[list[Outcome], int]:
    """To the other side; with the number of files that it took."""
    beside = files.put_answers_beside(outcomes)
    assert all(not isinstance(o, Reply) or len(o.body) < LARGE for o in outcomes)
    files.put_answers_in_place(outcomes, files.take_views([os.dup(file.fd) for file in beside]))
    return outcomes, len(beside)


def body(number: int, size: int) -> bytes:
    return (b"%09d " % number) * (size // 10 + 1)


@pytest.mark.parametrize("count", [1, 2, files.GROUP, files.GROUP + 1, 300])
def test_large_answers_go_beside_however_many(count: int) -> None:
    sent = [body(number, LARGE + number) for number in range(count)]
    outcomes, used = carry([Reply(data, "text/plain") for data in sent])
    assert [bytes(o.body) for o in outcomes if isinstance(o, Reply)] == sent
    assert used <= min(count, files.GROUP)
    assert used == count or count > files.GROUP, "answers share files only where there are too many"


def test_bodies_tensors_parts_and_failures_keep_their_places() -> None:
    def tensors(first: int) -> list[Tensor]:
        return [Tensor(f"{i}", "uint8", (1,), body(i, 10 if i % 2 else LARGE)) for i in range(first, first + 3)]

    def parts(first: int) -> list[Part]:
        return [Part(tensor.name, "image/png", tensor.data) for tensor in tensors(first)]

    def told(outcome: Outcome) -> object:
        if isinstance(outcome, Failure):
            return outcome.message
        own: list[Any] = outcome.parts if isinstance(outcome, Values) else []
        return bytes(outcome.body), [(given.name, bytes(given.data)) for given in [*outcome.tensors, *own]]

    sent: list[Outcome] = [
        *(Reply(b"", "", tensors=tensors(3 * i)) for i in range(60)),
        *(Values(b"", "", tensors=tensors(3 * i), parts=parts(3 * i + 1)) for i in range(30)),
        Failure(Kind.HANDLER, "no"),
        Reply(b"small", "text/plain"),
        Values(b"", "", parts=parts(7)),
        Reply(body(7, LARGE), "text/plain"),
    ]
    wanted = list(map(told, sent))
    outcomes, _ = carry(sent)
    assert wanted == list(map(told, outcomes))


def test_answers_for_which_there_is_no_file_fail_and_no_others() -> None:
    outcomes: list[Outcome] = [Reply(b"small", ""), Reply(body(1, LARGE), ""), Failure(Kind.HANDLER, "no")]
    outcomes.append(Reply(b"", "", tensors=[Tensor("t", "uint8", (1,), body(2, LARGE))]))
    outcomes.append(Values(b"", "", parts=[Part("p", "", b"small"), Part("q", "", body(3, LARGE))]))
    with descriptors_left(0):
        assert files.put_answers_beside(outcomes) == []
    assert [getattr(outcome, "kind", None) for outcome in outcomes] == [
        None,
        Kind.UNAVAILABLE,
        Kind.HANDLER,
        Kind.UNAVAILABLE,
        Kind.UNAVAILABLE,
    ]


def test_answers_that_were_lost_on_the_way_fail_and_no_others() -> None:
    outcomes: list[Outcome] = [Reply(b"small", ""), Reply(body(1, LARGE), ""), Failure(Kind.HANDLER, "no")]
    outcomes.append(Reply(b"", "", tensors=[Tensor("t", "uint8", (1,), body(2, LARGE))]))
    outcomes.append(Values(b"", "", parts=[Part("p", "", body(3, LARGE))]))
    files.put_answers_beside(outcomes)
    files.put_answers_in_place(outcomes, None)
    assert [outcomes[0], outcomes[2]] == [Reply(b"small", ""), Failure(Kind.HANDLER, "no")]
    assert [outcomes[1], *outcomes[3:]] == [files.LOST_ANSWER] * 3
