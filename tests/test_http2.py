"""HTTP/2 on the gRPC ports, frame by frame: what clients may do that few do, and what no client should."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import h2.config
import h2.connection
import h2.events
import hpack
import pytest
from grpc_reflection.v1alpha import reflection_pb2
from hyperframe import frame as frames
from hyperframe.frame import Frame, SettingsFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import pack_handler
from tests.grpc_client import access_log, chaos
from tests.http2_client import PREDICTIONS, PREFACE, STREAM, Answer, Http2, head, message, mirror, unharmed
from tests.running import RunningServer, eventually
from tests.security.raw import connect, read_all

LIMIT = 3_000_000
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, REFUSED, COMPRESSION_ERROR, CALM = 1, 3, 6, 7, 9, 11
INTERNAL, UNIMPLEMENTED, EXHAUSTED, LATE = 13, 12, 8, 4
WINDOW, FRAME_SIZE = SettingsFrame.INITIAL_WINDOW_SIZE, SettingsFrame.MAX_FRAME_SIZE


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("http2")
    store = folder / "store"
    store.mkdir()
    for name in ("chaos", "mirror"):
        pack_handler(store, name)
    limits = {"max_request_size": str(LIMIT), "slow_client_timeout": "1", "job_queue_size": "2000"}
    limits |= {"max_connections": "50", "grpc_management_max_connection_age_ms": "700"}
    with RunningServer(folder / "server", store, settings=limits) as server:
        yield server


@pytest.fixture(autouse=True, scope="module")
def watched(server: RunningServer) -> Iterator[None]:
    with unharmed(server):
        yield


@pytest.fixture
def client(server: RunningServer) -> Iterator[Http2]:
    with Http2(server.grpc_inference) as client:
        yield client


# What clients may do


def test_pings_amid_a_large_answer_are_answered(server: RunningServer) -> None:
    """Clients learn from them how fast the connection is: what waits to be read is the answer, not theirs."""
    with Http2(server.grpc_inference, (WINDOW, 2**30)) as client:
        client.send(frames.WindowUpdateFrame(0, 2**30), *client.request(1, message(chaos("large", bytes=30_000_000))))
        next(found for found in client.frames() if isinstance(found, frames.HeadersFrame))
        for _ in range(20):
            client.send(frames.PingFrame(0, b"how fast"))
        size = pings = 0
        for found in client.frames():
            size += len(found.data) if isinstance(found, frames.DataFrame) else 0
            pings += isinstance(found, frames.PingFrame)
            if pings == 20 and "END_STREAM" in found.flags:
                break
    assert size > 30_000_000


def test_another_implementation_agrees(server: RunningServer) -> None:
    """h2 checks what it receives."""
    peer = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    peer.initiate_connection()
    data = bytes(range(256)) * 2000
    with connect(f"http://{server.grpc_inference}") as sock:
        for stream in (1, 3, 5):
            peer.send_headers(stream, head())
            body = mirror(data[: stream * 1000])
            peer.send_data(stream, body, end_stream=True)
        got: dict[int, bytes] = {1: b"", 3: b"", 5: b""}
        ended: set[int] = set()
        while len(ended) < 3:
            sock.sendall(peer.data_to_send())
            for event in peer.receive_data(sock.recv(65536)):
                if isinstance(event, h2.events.DataReceived):
                    assert event.stream_id is not None
                    got[event.stream_id] += event.data or b""
                    peer.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    assert event.stream_id is not None
                    ended.add(event.stream_id)
    for stream, answer in got.items():
        assert data[: stream * 1000][::-1] in answer


def test_a_conversation_may_come_byte_by_byte(client: Http2) -> None:
    said = b"".join(each.serialize() for each in client.request(1, mirror(b"abc")))
    for place in range(len(said)):
        client.sock.sendall(said[place : place + 1])
    assert client.answers([1])[1].prediction == b"cba"


def test_heads_may_be_padded_continued_and_have_priorities(client: Http2) -> None:
    block = client.block(head())
    first = frames.HeadersFrame(1, block[:7], pad_length=9, depends_on=3, flags=["PADDED", "PRIORITY"])
    rest = [frames.ContinuationFrame(1, block[7:9]), frames.ContinuationFrame(1, block[9:], flags=["END_HEADERS"])]
    body = mirror(b"abc")
    data = [
        frames.DataFrame(1, body[:3], pad_length=200, flags=["PADDED"]),
        frames.DataFrame(1, b"", pad_length=10, flags=["PADDED"]),
        frames.DataFrame(1, body[3:]),
        frames.DataFrame(1, b"", flags=["END_STREAM"]),
    ]
    client.send(frames.PriorityFrame(1), first, *rest)
    client.sock.sendall(b"\0\0\3\xbe\0\0\0\0\1???")  # of a kind that nobody knows
    client.send(*data)
    assert client.answers([1])[1].prediction == b"cba"


def test_a_request_may_end_with_trailers(client: Http2) -> None:
    client.send(client.headers(1, head()), frames.DataFrame(1, mirror(b"abc")))
    client.send(client.headers(1, [("x", "y")], "END_STREAM"))
    assert client.answers([1])[1].prediction == b"cba"


def test_each_head_means_what_it_says_though_blocks_repeat(client: Http2) -> None:
    """The blocks of clients with tables look the same and are not, and the other way round."""
    for number in range(120):
        if number == 60:
            client.encoder.header_table_size = 128
        request_id = f"id-{number % 3 if number % 4 else number}"
        headers = head(PREDICTIONS, ("x-request-id", request_id))
        answer = client.ask(2 * number + 1, message(chaos("request_id")), headers)
        assert answer.prediction == answer.headers["x-request-id"].encode() == request_id.encode()


def test_many_requests_at_once_each_get_their_own_answer(client: Http2) -> None:
    asked = {2 * number + 1: f"{number:x}".encode() * (number % 50 * 100) for number in range(400)}
    order = [iter(client.request(stream, mirror(data))) for stream, data in asked.items()]
    chance = random.Random(7)
    mixed = [next(one) for one in order]  # heads in order, and the rest as it comes
    waiting = [one for one in order for _ in range(2)]
    chance.shuffle(waiting)
    mixed += [each for one in waiting if (each := next(one, None)) is not None]
    client.send(*mixed)
    answers = client.answers(asked)
    assert {stream: answer.prediction for stream, answer in answers.items()} == {
        stream: data[::-1] for stream, data in asked.items()
    }


@pytest.mark.parametrize("window", [0, 10, 5000])
def test_answers_keep_to_the_clients_windows(server: RunningServer, window: int) -> None:
    data = bytes(range(256)) * 40
    with Http2(server.grpc_inference, (WINDOW, window)) as client:
        client.send(*client.request(1, mirror(data)), frames.PingFrame(0, b"12345678"))
        sent = 0
        answers = {1: Answer({}, b"")}
        for found in client.frames():
            if isinstance(found, frames.DataFrame):
                sent += len(found.data)
            if isinstance(found, frames.HeadersFrame):
                break
            client.take(found, answers)
        assert sent == 0
        client.send(SettingsFrame(settings={WINDOW: 3000, FRAME_SIZE: 20_000}))
        if window > 3000:
            client.send(frames.WindowUpdateFrame(1, 100_000))
        client.take(found, answers)
        while "grpc-status" not in answers[1].headers:
            client.take(next(client.frames()), answers)
        assert answers[1].prediction == data[::-1]


def test_streams_go_both_ways_at_once(client: Http2) -> None:
    client.send(client.headers(1, head(STREAM)))
    answers = {1: Answer({}, b"")}
    for nonce in range(30):
        client.send(frames.DataFrame(1, message(chaos(nonce=nonce))))
        before = answers[1].data
        while answers[1].data == before:
            client.take(next(client.frames()), answers)
        assert b'"nonce":%d' % nonce in answers[1].data[len(before) :]
    client.send(frames.DataFrame(1, b"", flags=["END_STREAM"]))
    while "grpc-status" not in answers[1].headers:
        client.take(next(client.frames()), answers)
    assert answers[1].headers["grpc-status"] == "0"


def test_a_request_that_is_on_its_way_when_the_connection_retires_is_answered(server: RunningServer) -> None:
    path = "/org.pytorch.serve.grpc.management.ManagementAPIsService/ListModels"
    with Http2(server.grpc_management) as client:
        goodbyes = []
        for found in client.frames():
            if isinstance(found, frames.GoAwayFrame):
                goodbyes.append(found.last_stream_id)
            elif isinstance(found, frames.PingFrame):
                client.send(*client.request(1, b"\0\0\0\0\0", head(path)))
                answer = client.answers([1])[1]
                client.take(found, {})
        assert goodbyes == [2**31 - 1, 1]
        assert answer.headers["grpc-status"] == "0"
        assert b"mirror" in answer.data


def test_a_request_that_crosses_the_farewell_harms_nobody(server: RunningServer) -> None:
    """The client may have begun one, with all of its data, before it hears that nothing more is taken in."""
    reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    path = "/org.pytorch.serve.grpc.management.ManagementAPIsService/ListModels"
    with Http2(server.grpc_management) as client:
        client.send(client.headers(1, head(reflection)))
        goodbyes = 0
        for found in client.frames():
            client.take(found, {})
            goodbyes += isinstance(found, frames.GoAwayFrame)
            if goodbyes == 2:
                break
        late = client.request(3, b"\0\0\0\0\0", head(path))
        client.send(*late, frames.WindowUpdateFrame(3, 10), frames.RstStreamFrame(3, 8))
        client.send(frames.DataFrame(1, message(reflection_pb2.ServerReflectionRequest(list_services=""))))
        client.send(frames.DataFrame(1, b"", flags=["END_STREAM"]))
        answer = client.answers([1])[1]
    assert answer.headers["grpc-status"] == "0"
    assert b"ManagementAPIsService" in answer.data


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_messages_may_be_compressed(client: Http2, encoding: str, pack: Any) -> None:
    packed = pack(mirror(b"abc" * 1000)[5:])
    body = b"\1" + len(packed).to_bytes(4, "big") + packed
    assert client.ask(1, body, head(grpc_encoding=encoding)).prediction == b"cba" * 1000
    assert client.ask(3, mirror(b"abc"), head(grpc_encoding=encoding)).prediction == b"cba"
    code, words = client.ask(5, body[:40] + b"!" + body[41:], head(grpc_encoding=encoding)).refusal
    assert (code, encoding in words) == (INTERNAL, True)


# What is refused, and the connection goes on


@pytest.mark.parametrize(
    ("headers", "body", "code", "words"),
    [
        (head(grpc_encoding="br"), mirror(b""), UNIMPLEMENTED, "identity, gzip, deflate"),
        (head(grpc_timeout="1d"), mirror(b""), INTERNAL, "H, M, S, m, u, n"),
        (head(grpc_timeout="1n"), mirror(b""), LATE, "no answer within"),
        (head(PREDICTIONS, ("x-bin", "a=b")), mirror(b""), INTERNAL, "x-bin"),
        (head(PREDICTIONS, ("x", "y" * 17_000)), mirror(b""), EXHAUSTED, "at most 16,384"),
        (head("/nowhere"), mirror(b""), UNIMPLEMENTED, "/nowhere"),
        (head(), b"", INTERNAL, "no message"),
        (head(), b"\0\0\0", INTERNAL, "within a message"),
        (head(), mirror(b"abc")[:-1], INTERNAL, "within a message"),
        (head(), mirror(b"a") + mirror(b"b"), INTERNAL, "more than one message"),
        (head(), b"\2" + mirror(b"")[1:], INTERNAL, "begins with 2"),
        (head(), b"\1" + mirror(b"")[1:], INTERNAL, "grpc-encoding"),
        (head(), b"\0\xff\xff\xff\xff", EXHAUSTED, "max_request_size"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_call_that_is_wrong(client: Http2, headers: Any, body: bytes, code: int, words: str) -> None:
    for stream in (1, 3):
        answer = client.ask(stream, body, headers)
        assert answer.headers[":status"] == "200"
        assert answer.refusal[0] == code, answer
        assert words in answer.refusal[1]
    assert client.ask(5, mirror(b"abc")).prediction == b"cba"


@pytest.mark.parametrize(
    ("headers", "status"),
    [(head(method="GET"), "405"), (head(content_type="text/html"), "415"), (head(content_type=""), "415")],
)
def test_what_is_no_grpc_has_an_answer_of_https(client: Http2, headers: Any, status: str) -> None:
    answer = client.ask(1, mirror(b""), headers)
    assert answer.headers[":status"] == status
    assert "application/grpc" in answer.headers["grpc-message"]
    assert client.ask(3, mirror(b"abc")).prediction == b"cba"


def test_http_1_is_told_where_it_is_spoken(server: RunningServer) -> None:
    with connect(f"http://{server.grpc_inference}") as sock:
        sock.sendall(b"GET /ping HTTP/1.1\r\nhost: localhost\r\n\r\n")
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"inference_address" in answer


def test_more_requests_than_a_connection_may_have(client: Http2) -> None:
    streams = [2 * number + 1 for number in range(1025)]
    client.send(*(client.headers(stream, head(STREAM)) for stream in streams))
    assert client.answers(streams[-1:])[streams[-1]].headers == {"reset": str(REFUSED)}
    client.send(*(frames.DataFrame(stream, b"", flags=["END_STREAM"]) for stream in streams[:-1]))
    assert {each.headers["grpc-status"] for each in client.answers(streams[:-1]).values()} == {"0"}
    assert client.ask(3001, mirror(b"abc")).prediction == b"cba"


def test_a_request_that_does_not_come_to_its_end(client: Http2) -> None:
    client.send(client.headers(1, head()), frames.DataFrame(1, b"\0\0"), client.headers(3, head(STREAM)))
    code, words = client.answers([1])[1].refusal
    assert (code, "nothing of the request came for 1 s" in words) == (LATE, True)
    client.send(frames.DataFrame(3, b"", flags=["END_STREAM"]))  # an idle stream is none that is slow
    assert client.answers([3])[3].headers["grpc-status"] == "0"


def test_data_after_the_end(client: Http2) -> None:
    client.send(*client.request(1, message(chaos("sleep", seconds=0.3))))
    client.send(frames.DataFrame(1, b"more"))
    assert "reset" in client.answers([1])[1].headers
    assert client.ask(3, mirror(b"abc")).prediction == b"cba"


def test_what_a_client_takes_back_is_not_answered(client: Http2, server: RunningServer) -> None:
    client.send(*client.request(1, message(chaos("sleep", seconds=0.5))))
    client.send(frames.RstStreamFrame(1, 8), *client.request(3, mirror(b"abc")))
    streams = set()
    for found in client.frames():
        streams.add(found.stream_id)
        if "END_STREAM" in found.flags:
            break
    assert streams - {0} == {3}
    eventually(lambda: '/Predictions HTTP/2.0" CANCELLED' in access_log(server))


# What ends the connection


def bad_connections() -> dict[str, tuple[int, list[Frame] | bytes]]:
    block = hpack.Encoder().encode(head(STREAM))
    headers = frames.HeadersFrame(1, block, flags=["END_HEADERS"])
    return {
        "a stream of the server's": (PROTOCOL_ERROR, [frames.HeadersFrame(2, block, flags=["END_HEADERS"])]),
        "data of no stream": (PROTOCOL_ERROR, [frames.DataFrame(1, b"x")]),
        "data of the connection": (PROTOCOL_ERROR, b"\0\0\1\0\0\0\0\0\0x"),
        "a window of no stream": (PROTOCOL_ERROR, [frames.WindowUpdateFrame(9, 1)]),
        "a reset of no stream": (PROTOCOL_ERROR, [frames.RstStreamFrame(9, 8)]),
        "a promise": (PROTOCOL_ERROR, b"\0\0\4\5\4\0\0\0\1\0\0\0\2"),
        "a continuation of nothing": (PROTOCOL_ERROR, [frames.ContinuationFrame(1, b"x")]),
        "a head that is not continued": (
            PROTOCOL_ERROR,
            [frames.HeadersFrame(1, block), frames.PingFrame(0, b"x" * 8)],
        ),
        "another head's continuation": (
            PROTOCOL_ERROR,
            [frames.HeadersFrame(1, block), frames.ContinuationFrame(3, b"", flags=["END_HEADERS"])],
        ),
        "an endless head": (CALM, [frames.HeadersFrame(1, b""), *[frames.ContinuationFrame(1, b"\0" * 16384)] * 9]),
        "a head that unpacks to a large one": (
            COMPRESSION_ERROR,
            [frames.HeadersFrame(1, b"\x40\x01x\x7f\xe1\x1e" + b"y" * 4000 + b"\xbe" * 4000, flags=["END_HEADERS"])],
        ),
        "no header block": (COMPRESSION_ERROR, [frames.HeadersFrame(1, b"\xff\xff\xff", flags=["END_HEADERS"])]),
        "too much padding": (PROTOCOL_ERROR, b"\0\0\2\0\x08\0\0\0\1\xffx"),
        "too large a frame": (FRAME_SIZE_ERROR, b"\0\x40\1\0\0\0\0\0\1"),
        "too large a window": (FLOW_CONTROL_ERROR, [frames.WindowUpdateFrame(0, 2**31 - 1)]),
        "more data than the window": (FLOW_CONTROL_ERROR, over_the_window(headers)),
        "half a setting": (FRAME_SIZE_ERROR, b"\0\0\4\4\0\0\0\0\0abcd"),
        "a setting that is none": (PROTOCOL_ERROR, [SettingsFrame(settings={FRAME_SIZE: 5})]),
        "a push setting": (PROTOCOL_ERROR, [SettingsFrame(settings={SettingsFrame.ENABLE_PUSH: 2})]),
        "a window that is none": (FLOW_CONTROL_ERROR, [SettingsFrame(settings={WINDOW: 2**31})]),
        "half a ping": (FRAME_SIZE_ERROR, b"\0\0\4\6\0\0\0\0\0abcd"),
        "half a window": (FRAME_SIZE_ERROR, b"\0\0\2\x08\0\0\0\0\0ab"),
        "half a reset": (FRAME_SIZE_ERROR, b"\0\0\2\3\0\0\0\0\1ab"),
        "half a priority": (FRAME_SIZE_ERROR, b"\0\0\2\2\0\0\0\0\1ab"),
        "half a farewell": (PROTOCOL_ERROR, b"\0\0\2\7\0\0\0\0\0ab"),
    }


def over_the_window(headers: Frame) -> list[Frame]:
    """For a method that reads the first message, and answers it much later."""
    late = message(chaos("sleep", seconds=5, filling="x" * 16_000))
    return [headers, *[frames.DataFrame(1, late)] * 80]


@pytest.mark.parametrize("name", list(bad_connections()))
def test_what_ends_a_connection(client: Http2, name: str) -> None:
    code, said = bad_connections()[name]
    client.sock.sendall(said if isinstance(said, bytes) else b"".join(each.serialize() for each in said))
    assert client.farewell()[0] == code


def test_what_must_come_first(server: RunningServer) -> None:
    with connect(f"http://{server.grpc_inference}") as sock:
        sock.sendall(PREFACE + frames.PingFrame(0, b"x" * 8).serialize())
        assert b"has to come" in read_all(sock)


@pytest.mark.parametrize("said", [b"", PREFACE[:10], PREFACE, PREFACE + b"\0\0\0"])
def test_connections_that_do_not_get_on(server: RunningServer, said: bytes) -> None:
    with connect(f"http://{server.grpc_inference}") as sock:
        sock.sendall(said)
        assert (b"did not come in time" in read_all(sock)) == (len(said) >= len(PREFACE))


def test_a_head_that_does_not_come_to_its_end(client: Http2) -> None:
    client.send(frames.HeadersFrame(1, b"\x82"))
    assert client.farewell() == (CALM, "the head did not come in time")


def test_requests_that_are_begun_and_reset(client: Http2) -> None:
    block = client.block(head(STREAM))
    for number in range(2000):
        stream = 2 * number + 1
        with suppress(ConnectionError):
            client.send(frames.HeadersFrame(stream, block, flags=["END_HEADERS"]), frames.RstStreamFrame(stream, 8))
        block = client.block(head(STREAM))
    assert client.farewell()[0] == CALM


def test_pings_whose_answers_are_not_read(client: Http2) -> None:
    ping = frames.PingFrame(0, b"x" * 8).serialize() * 1000

    def flood() -> None:
        while True:
            client.sock.sendall(ping)

    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        flood()


def test_a_client_that_does_not_read_is_hung_up_on(server: RunningServer) -> None:
    with Http2(server.grpc_inference, (WINDOW, 2**31 - 1)) as client:
        client.send(frames.WindowUpdateFrame(0, 2**30))
        with suppress(ConnectionError):  # who does not read its answers is not read from, either
            for stream in range(1, 21, 2):
                client.send(*client.request(stream, mirror(bytes(2_900_000))))
        server.logged("does not read its answers: hung up")


def test_too_many_connections(server: RunningServer) -> None:
    clients = []
    try:
        for _ in range(60):
            clients.append(Http2(server.grpc_inference))
        assert clients[-1].farewell() == (CALM, "too many connections (max_connections)")
        assert clients[0].ask(1, mirror(b"abc")).prediction == b"cba"
    finally:
        for each in clients:
            each.sock.close()


frame_bytes = st.tuples(
    st.integers(0, 10), st.integers(0, 255), st.sampled_from([0, 1, 2, 3, 5]), st.binary(max_size=40)
)


@settings(max_examples=100)
@given(said=st.lists(frame_bytes, max_size=12))
def test_any_frames_are_survived(server: RunningServer, said: list[tuple[int, int, int, bytes]]) -> None:
    with Http2(server.grpc_inference) as client, suppress(ConnectionError):
        for kind, flags, stream, body in said:
            client.sock.sendall(len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body)
    with Http2(server.grpc_inference) as client:
        assert client.ask(1, mirror(b"abc")).prediction == b"cba"
