"""brpc's baidu_std: what a client may ask, how it is answered, and how a connection ends."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from pdserver.dialects.rpc import Code, Message, RpcCall, Service, Unary
from pdserver.prpc.errors import Errno
from pdserver.prpc.port import by_name
from pdserver.security.access import OPEN
from tests.grpc_testbed import SERVICE, asked
from tests.prpc_client import GZIP, LZ4, NONE, SNAPPY, ZLIB, Prpc, frame, raw
from tests.prpc_testbed import UNARY, Testbed, running
from tests.running import eventually


@pytest.fixture(scope="module")
def bed() -> Iterator[Testbed]:
    with running() as bed:
        yield bed


@pytest.fixture
def client(bed: Testbed) -> Iterator[Prpc]:
    with Prpc(bed.address) as client:
        yield client


# Calls


@pytest.mark.parametrize("service", ["testbed.Test", "Test"])
@pytest.mark.parametrize("size", [0, 3, 70_000, 3_000_000])
def test_calls_by_both_names_of_a_service(client: Prpc, service: str, size: int) -> None:
    for number in (1, 2):
        answer = client.call(f"{service}/Unary", asked(bytes(size), size=size), number)
        assert (answer.errno, answer.body, answer.compress_type) == (0, bytes(size), NONE)


def test_a_name_that_two_services_end_with_is_nobodys() -> None:
    names = by_name([SERVICE, Service("other.Test", {}), Service("other.Single", {})])
    assert set(names) == {"testbed.Test", "other.Test", "other.Single", "Single"}


@pytest.mark.parametrize("number", [0, 1, -1, 2**63 - 1, -(2**63), 0x1_0000_0005])
def test_the_answer_has_the_number_of_the_call(client: Prpc, number: int) -> None:
    assert client.call(UNARY, number=number).errno == 0
    assert client.call("nowhere/none", number=number).errno == Errno.ENOSERVICE


def test_calls_are_answered_as_they_are_done(client: Prpc) -> None:
    client.send(frame(UNARY, asked(seconds=30), 1) + frame(UNARY, asked(seconds=0.2), 2) + frame(UNARY, b"", 3))
    assert [client.answer().number, client.answer().number] == [3, 2]


@pytest.mark.parametrize("count", [1, 5, 11, 12, 13, 40, 1000])
def test_frames_in_pieces_of_any_size(client: Prpc, count: int) -> None:
    data = b"".join(frame(UNARY, asked(b"x" * 50, size=number), number) for number in range(1, 20))
    sizes = {}
    for place in range(0, len(data), count):
        client.send(data[place : place + count])
    for _ in range(1, 20):
        answer = client.answer()
        sizes[answer.number] = len(answer.body)
    assert sizes == {number: number for number in range(1, 20)}


def test_an_attachment_is_no_part_of_the_message(client: Prpc) -> None:
    body = asked(size=5)
    answer = client.call(UNARY, body + b"attached", attachment_size=8)
    assert answer.body == bytes(5)
    for size in (-1, len(body) + 1, 2**31 - 1):
        answer = client.call(UNARY, body, attachment_size=size)
        assert (answer.errno, str(size) in answer.text) == (Errno.EREQUEST, True)


# Compression


@pytest.mark.parametrize(("kind", "compress"), [(GZIP, gzip.compress), (ZLIB, zlib.compress)])
@pytest.mark.parametrize("size", [511, 512, 100_000])
def test_the_answer_is_compressed_as_the_request_was_if_that_pays(
    client: Prpc, kind: int, compress: Any, size: int
) -> None:
    answer = client.call(UNARY, compress(asked(bytes(9000), size=size)), compress_type=kind)
    assert answer.compress_type == (kind if size >= 512 else NONE)
    assert answer.message == bytes(size)


@pytest.mark.parametrize(("kind", "name"), [(SNAPPY, "snappy"), (LZ4, "lz4"), (5, "5"), (-1, "-1")])
def test_other_compression_is_refused_with_what_to_send(client: Prpc, kind: int, name: str) -> None:
    answer = client.call(UNARY, b"abc", compress_type=kind)
    assert answer.errno == Errno.EREQUEST
    assert name in answer.text
    assert "2 (gzip)" in answer.text
    assert client.call(UNARY).errno == 0


@pytest.mark.parametrize("kind", [GZIP, ZLIB])
@pytest.mark.parametrize(
    "body", [b"", b"abc", gzip.compress(asked(bytes(99)), mtime=0)[:-9], zlib.compress(bytes(99))[:-6]]
)
def test_what_is_not_compressed_as_it_says(client: Prpc, kind: int, body: bytes) -> None:
    answer = client.call(UNARY, body, compress_type=kind)
    assert (answer.errno, f"compress_type={kind}" in answer.text) == (Errno.EREQUEST, True)
    assert client.call(UNARY).errno == 0


# Errors


@pytest.mark.parametrize(
    ("code", "errno"),
    [
        (Code.INVALID_ARGUMENT, Errno.EREQUEST), (Code.NOT_FOUND, Errno.ENOSERVICE),
        (Code.RESOURCE_EXHAUSTED, Errno.ELIMIT), (Code.UNAVAILABLE, Errno.ELIMIT),
        (Code.DEADLINE_EXCEEDED, Errno.ERPCTIMEDOUT), (Code.UNAUTHENTICATED, Errno.ERPCAUTH),
        (Code.DATA_LOSS, Errno.EINTERNAL), (Code.UNKNOWN, Errno.EINTERNAL),
    ],
)  # fmt: skip
def test_errors_have_the_numbers_of_brpc(client: Prpc, code: Code, errno: Errno) -> None:
    answer = client.call(UNARY, asked(code=code, message="said why: \u00e9"))
    assert (answer.errno, answer.body) == (errno, b"")
    assert answer.text.startswith("said why: \u00e9")


def test_a_fault_of_the_servers_own_says_no_more_than_that(client: Prpc) -> None:
    answer = client.call(UNARY, asked(b"", **{"raise": "secret"}))
    assert (answer.errno, "secret" in answer.text) == (Errno.EINTERNAL, False)


@pytest.mark.parametrize(
    ("method", "errno", "words"),
    [
        ("nowhere/Unary", Errno.ENOSERVICE, "nowhere"), ("/Unary", Errno.ENOSERVICE, "''"),
        ("testbed.Test/unary", Errno.ENOMETHOD, "unary"), ("testbed.Test/", Errno.ENOMETHOD, "''"),
        ("testbed.Test/Chat", Errno.ENOMETHOD, "gRPC"), ("x" * 5000 + "/Unary", Errno.ENOSERVICE, "xxx"),
    ],
)  # fmt: skip
def test_methods_that_there_are_not(client: Prpc, method: str, errno: Errno, words: str) -> None:
    answer = client.call(method)
    assert (answer.errno, words in answer.text) == (errno, True)
    assert len(answer.text) < 300


def test_a_frame_without_a_request(client: Prpc) -> None:
    client.send(raw(b"", b"abc"))
    answer = client.answer()
    assert (answer.number, answer.errno, "service_name" in answer.text) == (0, Errno.EREQUEST, True)


def test_a_call_ends_with_its_clients_patience(client: Prpc) -> None:
    answer = client.call(UNARY, asked(seconds=30), request={"timeout_ms": 50})
    assert (answer.errno, "timeout_ms" in answer.text) == (Errno.ERPCTIMEDOUT, True)
    for milliseconds in (0, -1):
        assert client.call(UNARY, request={"timeout_ms": milliseconds}).errno == 0


# What is noted of calls


def test_each_call_has_its_line_and_methods_see_what_the_client_says() -> None:
    lines: list[Any] = []
    seen: list[Any] = []

    async def look(_: Message, call: RpcCall) -> bytes:
        seen.append(call.metadata)
        call.request_id, call.model = "id1", "fit"
        return b""

    service = Service("a.B", {"c": Unary(look, OPEN)})
    fields = {"X-Tenant": "t1", "Authorization": "Bearer secret", "sp ace": "x", "": "y"}
    request = {"log_id": 7, "request_id": "r1"}
    with running(access=lines.append, service=service) as bed, Prpc(bed.address) as client:
        assert client.call("B/c", user_fields=fields, request=request).errno == 0
        assert client.call("B/d").errno == Errno.ENOMETHOD
        client.send(b"PRPC" + bytes(4) + b"\1" * 4)
        assert [answer.errno for answer in client.rest()] == [Errno.EREQUEST]
    assert sorted(seen[0]) == [(b"log-id", b"7"), (b"x-request-id", b"r1"), (b"x-tenant", b"t1")]
    assert [(line[2:5], line[6:]) for line in lines] == [
        ((b"PRPC", b"/B/c", "OK"), ("id1", "fit")),
        ((b"PRPC", b"/B/d", "ENOMETHOD"), ("", "")),
        ((b"PRPC", b"-", "EREQUEST"), ("", "")),
    ]


# The end of a connection


def test_calls_end_with_their_client() -> None:
    statuses: list[Any] = []
    with running(access=lambda entry: statuses.append(entry[4])) as bed:
        for leave in ("close", "shutdown"):
            with Prpc(bed.address) as client:
                client.send(frame(UNARY, asked(seconds=60)) + frame(UNARY, bytes(9999))[:100])
                if leave == "shutdown":
                    client.sock.shutdown(1)
                    assert client.rest() == []
            eventually(lambda: statuses == ["ECANCELED"])
            statuses.clear()
        eventually(lambda: not bed.port.connections)
        assert bed.memory.held_bytes == 0


def test_what_runs_when_the_server_stops_is_answered_and_later_calls_are_sent_elsewhere() -> None:
    gate = asyncio.Event()

    async def wait(_: Message, __: RpcCall) -> bytes:
        await gate.wait()
        return b"waited"

    service = Service("a.B", {"wait": Unary(wait, OPEN), "go": SERVICE.methods["Unary"]})
    with (
        running(service=service) as bed,
        Prpc(bed.address) as idle,
        Prpc(bed.address) as busy,
        Prpc(bed.address) as half,
    ):
        for client in (idle, busy, half):
            assert client.call("B/go").errno == 0
        busy.send(frame("B/wait", number=1))
        half.send(frame("B/go", asked(b"x" * 100, size=8), 2)[:60])
        eventually(lambda: sum(each.is_busy for each in bed.port.connections) == 2)
        bed.run(bed.shutdown)
        assert idle.rest() == []
        late = busy.call("B/go", number=3)
        assert (late.errno, late.text) == (Errno.ELOGOFF, "the server stops")
        half.send(frame("B/go", asked(b"x" * 100, size=8), 2)[60:])
        assert [(answer.number, len(answer.body)) for answer in half.rest()] == [(2, 8)]
        bed.run(gate.set)
        assert [(answer.number, answer.body) for answer in busy.rest()] == [(1, b"waited")]


def test_who_asks_nothing_for_long_is_hung_up_on() -> None:
    with running(idle_seconds=1.5) as bed, Prpc(bed.address) as client:
        assert client.call(UNARY).errno == 0
        assert client.rest() == []
