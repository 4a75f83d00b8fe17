"""What no client of PRPC should send: each frame that is one gets one answer, and the server goes on."""

from __future__ import annotations

import gzip
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdserver.prpc.errors import Errno
from pdserver.prpc.frames import MAX_META_BYTES
from pdserver.system.budget import Budget
from tests.grpc_testbed import asked
from tests.prpc_client import GZIP, HEAD, Prpc, frame, meta, raw
from tests.prpc_testbed import UNARY, Testbed, running
from tests.running import eventually
from tests.security.raw import reset

LIMIT = 4 * 1024 * 1024
MIB = 1 << 20


@pytest.fixture(scope="module")
def bed() -> Iterator[Testbed]:
    with running() as bed:
        yield bed
        eventually(lambda: not bed.port.connections)
        assert bed.memory.held_bytes == 0


@pytest.fixture
def client(bed: Testbed) -> Iterator[Prpc]:
    with Prpc(bed.address) as client:
        yield client


@pytest.fixture(autouse=True)
def unharmed(bed: Testbed) -> Iterator[None]:
    yield
    with Prpc(bed.address) as client:
        assert client.call(UNARY, asked(size=3)).body == bytes(3)


# Heads that lie

BAD_HEADS = {
    "another magic": (b"HULU" + bytes(8), "PRPC"),
    "a meta that is larger than the rest": (HEAD.pack(b"PRPC", 9, 10), "10 bytes"),
    "a meta of 4 GiB": (HEAD.pack(b"PRPC", 2**32 - 1, 2**32 - 1), "4,294,967,295"),
    "a meta that is too large": (HEAD.pack(b"PRPC", 2**20, MAX_META_BYTES + 1), "65,536"),
    "a meta that is none": (raw(b"\xff" * 9), "RpcMeta"),
    "a meta that breaks off": (raw(meta(UNARY)[:-1]), "RpcMeta"),
    "names that are no text": (raw(b"\x0a\x04\x0a\x02\xff\xfe"), "RpcMeta"),
}


@pytest.mark.parametrize(("data", "words"), BAD_HEADS.values(), ids=BAD_HEADS)
@pytest.mark.parametrize("piece", [1, 1000])
def test_heads_that_lie_end_the_connection_after_the_answers(client: Prpc, data: bytes, words: str, piece: int) -> None:
    client.send(frame(UNARY, asked(seconds=0.1), 1))
    with suppress(ConnectionError):
        for place in range(0, len(data), piece):
            client.send(data[place : place + piece])
    first, second = sorted(client.rest(), key=lambda answer: answer.number)
    assert (first.number, first.errno, words in first.text) == (0, Errno.EREQUEST, True)
    assert (second.number, second.errno) == (1, 0)


@pytest.mark.parametrize("size", [LIMIT + 1, 2**31, 2**32 - 1 - 60])
def test_a_message_that_is_too_large_is_not_waited_for(client: Prpc, size: int) -> None:
    """The client has its answer, with the number of its call, before it has sent more than the head."""
    head = meta(UNARY, 77)
    client.send(HEAD.pack(b"PRPC", len(head) + size, len(head)) + head)
    [answer] = client.rest()
    assert (answer.number, answer.errno) == (77, Errno.EREQUEST)
    assert f"{size:,}" in answer.text
    assert "max_request_size" in answer.text


@settings(max_examples=150)
@given(data=st.binary(max_size=200))
def test_anything_behind_the_magic_is_answered_or_waited_for(bed: Testbed, data: bytes) -> None:
    with Prpc(bed.address) as client:
        client.send(b"PRPC" + data)
        client.sock.shutdown(1)
        assert len(client.rest()) <= 20


@settings(max_examples=150)
@given(data=st.binary(max_size=100), body=st.binary(max_size=100), kind=st.integers(-3, 6))
def test_any_meta_and_any_body_have_one_answer(bed: Testbed, data: bytes, body: bytes, kind: int) -> None:
    with Prpc(bed.address) as client:
        client.send(frame(UNARY, body, 5, compress_type=kind))
        assert client.answer().number == 5
        client.send(raw(data, body))
        client.answer()


# Compressed bombs


@pytest.mark.parametrize("bomb", [gzip.compress(bytes(200 * MIB), mtime=0), gzip.compress(bytes(LIMIT + 1), mtime=0)])
def test_a_small_message_that_unpacks_to_a_large_one(client: Prpc, bed: Testbed, bomb: bytes) -> None:
    answer = client.call(UNARY, bomb, compress_type=GZIP)
    assert (answer.errno, "max_request_size" in answer.text) == (Errno.ELIMIT, True)
    assert bed.memory.held_bytes == 0


def test_bombs_at_the_same_time_share_the_memory_for_requests() -> None:
    memory = Budget(3 * MIB)
    bomb = gzip.compress(asked(bytes(2 * MIB), seconds=0.2))
    with running(memory, max_held_bytes=3 * MIB) as bed, Prpc(bed.address) as client:
        client.send(b"".join(frame(UNARY, bomb, number, compress_type=GZIP) for number in range(8)))
        found = [client.answer() for _ in range(8)]
        assert {answer.number for answer in found} == set(range(8))
        assert {answer.errno for answer in found} <= {0, Errno.ELIMIT}
        assert memory.held_bytes == 0


def test_bodies_that_come_slowly_share_the_memory_for_requests() -> None:
    data = frame(UNARY, bytes(2 * MIB), 9)
    with running(Budget(3 * MIB), max_held_bytes=3 * MIB) as bed, Prpc(bed.address) as one, Prpc(bed.address) as two:
        one.send(data[:-1])
        eventually(lambda: bed.memory.held_bytes == 2 * MIB - 1)
        with suppress(ConnectionError):
            two.send(data[:-1])
        [answer] = two.rest()
        assert (answer.number, answer.errno, "receive_buffer_bytes" in answer.text) == (9, Errno.ELIMIT, True)
        one.send(data[-1:])
        assert one.answer().number == 9
        assert bed.memory.held_bytes == 0


# Slow clients


@pytest.mark.parametrize("cut", [3, 11, 20, 70])
def test_half_a_frame_and_silence(cut: int) -> None:
    with running(slow_client_seconds=1.2) as bed, Prpc(bed.address) as client:
        client.send(frame(UNARY, bytes(100), 8)[:cut])
        answers = client.rest()
        assert [(answer.number, answer.errno) for answer in answers] == ([(8, Errno.EREQUEST)] if cut == 70 else [])
        assert bed.memory.held_bytes == 0


def test_who_does_not_read_is_hung_up_on() -> None:
    with running(slow_client_seconds=1.2, max_message_bytes=LIMIT) as bed, Prpc(bed.address) as client:
        client.send(b"".join(frame(UNARY, asked(size=3 * MIB), number) for number in range(12)))
        eventually(lambda: not bed.port.connections)


# Many


def test_thousands_of_frames_have_as_many_answers(bed: Testbed, client: Prpc) -> None:
    count = 5000
    methods = (UNARY, "nowhere/none", "testbed.Test/none", "testbed.Test/Chat")
    data = b"".join(frame(methods[number % 4], b"", number) for number in range(count))
    sending = threading.Thread(target=client.send, args=(data,))
    sending.start()
    with Prpc(bed.address) as other:
        for _ in range(20):
            assert other.call(UNARY).errno == 0
    assert sorted(client.answer().number for _ in range(count)) == list(range(count))
    sending.join()


def test_calls_that_run_are_bounded(bed: Testbed, client: Prpc) -> None:
    """What comes behind them is read when there is room."""
    data = b"".join(frame(UNARY, asked(seconds=0.3), number) for number in range(3000))
    sending = threading.Thread(target=client.send, args=(data,))
    sending.start()
    assert sorted(client.answer().number for _ in range(3000)) == list(range(3000))
    sending.join()


def test_clients_that_leave_in_the_middle(bed: Testbed) -> None:
    data = frame(UNARY, gzip.compress(asked(bytes(3 * MIB), seconds=9)), compress_type=GZIP) + frame(UNARY, bytes(MIB))
    for cut in (0, 1, 4, 12, 30, len(data) // 2, len(data) - 1, len(data)):
        client = Prpc(bed.address)
        client.send(data[:cut])
        reset(client.sock)
    eventually(lambda: not bed.port.connections)
    assert bed.memory.held_bytes == 0


def test_a_meta_with_much_in_it(client: Prpc) -> None:
    many = {f"k{number}": "v" * 20 for number in range(1500)}
    assert client.call(UNARY, user_fields=many, authentication_data=bytes(1000)).errno == 0
    unknown = b"".join(struct.pack("<BB", 0x82, 0x7D) + b"\1x" for _ in range(5000))  # field 2000, "x"
    client.send(raw(meta(UNARY, 6) + unknown))
    answer = client.answer()
    assert (answer.number, answer.errno) == (6, 0)
