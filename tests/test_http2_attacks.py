"""What a client can do to a gRPC port to keep the server from others: it is hung up on, and they do not notice."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from hyperframe import frame as frames
from hyperframe.frame import Frame, SettingsFrame

from tests.conftest import Lent, pack_handler
from tests.grpc_client import access_log, chaos, prediction
from tests.grpc_testbed import ours
from tests.http2_client import STREAM, Answer, Frames, Http2, head, message, mirror, unharmed
from tests.http2_wire import CHAT, UNARY
from tests.running import RunningServer, eventually

CALM, STREAM_CLOSED, NO_ERROR = 11, 5, 0
UNAVAILABLE, EXHAUSTED = 14, 8
PIECES = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/StreamPredictions"
WINDOW = SettingsFrame.INITIAL_WINDOW_SIZE
MIB = 1024 * 1024
WATCH = "/grpc.health.v1.Health/Watch"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("attacks")
    store = folder / "store"
    store.mkdir()
    for name in ("chaos", "mirror", "faults"):
        pack_handler(store, name)
    limits = {"max_request_size": "3000000", "slow_client_timeout": "1", "job_queue_size": "4000"}
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


def raw(*said: Frame) -> bytes:
    return b"".join(each.serialize() for each in said)


# What asks for nothing


def floods() -> dict[str, bytes]:
    """One frame each, behind a stream 1 that is open."""
    return {
        "PING": raw(frames.PingFrame(0, b"x" * 8)),
        "answers to no PING": raw(frames.PingFrame(0, b"x" * 8, flags=["ACK"])),
        "SETTINGS": raw(SettingsFrame()),
        "windows of SETTINGS": raw(SettingsFrame(settings={WINDOW: 1}), SettingsFrame(settings={WINDOW: 70_000})),
        "long SETTINGS": b"\0\x3f\xfc\4\0\0\0\0\0" + b"\0\x77\0\0\0\1" * 2730,
        "acknowledged SETTINGS": raw(SettingsFrame(flags=["ACK"])),
        "PRIORITY": raw(frames.PriorityFrame(1, depends_on=3)),
        "the connection's window": raw(frames.WindowUpdateFrame(0, 1)),
        "a stream's window": raw(frames.WindowUpdateFrame(1, 1)),
        "empty DATA": raw(frames.DataFrame(1)),
        "padded DATA": raw(frames.DataFrame(1, pad_length=200, flags=["PADDED"])),
        "unknown frames": b"\0\0\3\xbe\0\0\0\0\1???",
        "GOAWAY": raw(frames.GoAwayFrame(0)),
        "empty CONTINUATION": raw(frames.ContinuationFrame(3)),
    }


@pytest.mark.parametrize("name", floods())
def test_who_floods_is_hung_up_on(server: RunningServer, client: Http2, name: str) -> None:
    client.send(client.headers(1, head(STREAM)))
    if "CONTINUATION" in name:
        client.send(frames.HeadersFrame(3, b"\x82"))
    with contextlib.suppress(ConnectionError):
        client.sock.sendall(floods()[name] * 4000)
    code, said = client.farewell()
    assert (code, "too many frames that ask for nothing" in said) == (CALM, True)


def test_large_heads_are_dear(server: RunningServer) -> None:
    """To read one that is coded by Huffman takes as long as a hundred calls do."""
    block = Frames().block(head("/nowhere", ("x", "01234" * 8_000)))  # which empties the table: it may come again
    said = b""
    for stream in range(1, 400, 2):
        begun = frames.HeadersFrame(stream, block[:16_384], flags=["END_STREAM"])
        said += raw(begun, frames.ContinuationFrame(stream, block[16_384:], flags=["END_HEADERS"]))
    with Http2(server.grpc_inference) as client:
        with contextlib.suppress(ConnectionError):
            client.sock.sendall(said)
        assert client.farewell()[0] == CALM


def test_what_belongs_to_calls_is_not_counted_against_them(client: Http2) -> None:
    """5,000 frames that ask for nothing, by a client that asks for something, too."""
    for number in range(500):
        stream = 2 * number + 1
        client.send(*[frames.PingFrame(0, b"x" * 8)] * 2, *[frames.WindowUpdateFrame(0, 1)] * 6, SettingsFrame())
        client.send(frames.PriorityFrame(stream), *client.request(stream, mirror(b"abc")))
        assert client.answers([stream])[stream].prediction == b"cba"


# Calls that are given up


def rapid_reset(client: Frames, stream: int) -> bytes:
    return raw(client.headers(stream, head(STREAM)), frames.RstStreamFrame(stream, 8))


def zero_window(client: Frames, stream: int) -> bytes:
    """The server makes the reset (CVE-2025-8671)."""
    return raw(client.headers(stream, head(STREAM)), frames.WindowUpdateFrame(stream, 0))


def late_data(client: Frames, stream: int) -> bytes:
    held = client.request(stream, message(chaos("sleep", seconds=0)))
    return raw(*held, frames.DataFrame(stream, b"more"))


def malformed(client: Frames, stream: int) -> bytes:
    return raw(client.headers(stream, head(STREAM, ("X", "capital"))))


def two_messages(client: Frames, stream: int) -> bytes:
    """The second one ends a call whose first one is with a worker."""
    first = message(chaos("sleep", seconds=0))
    return raw(
        client.headers(stream, head(STREAM)), frames.DataFrame(stream, first), frames.DataFrame(stream, b"\2" * 9)
    )


@pytest.mark.parametrize("attack", [rapid_reset, zero_window, late_data, malformed, two_messages])
def test_calls_that_are_given_up_are_not_paid_for_by_cheap_ones(
    server: RunningServer, attack: Callable[[Frames, int], bytes]
) -> None:
    """As many calls are answered as are given up."""
    attacker = Frames()
    asked = raw(frames.WindowUpdateFrame(0, 2**30))
    for number in range(3000):
        asked += attack(attacker, 4 * number + 1)
        asked += raw(attacker.headers(4 * number + 3, head("/nowhere"), "END_STREAM"))
    with Http2(server.grpc_inference) as client:

        def send() -> None:
            with contextlib.suppress(OSError):
                client.sock.sendall(asked)

        sending = threading.Thread(target=send)
        sending.start()
        code, said = client.farewell()
        client.sock.shutdown(socket.SHUT_RDWR)
        sending.join()
    if attack is late_data and code == STREAM_CLOSED:  # a call was answered before the data came
        return
    assert (code, "ended by a reset" in said) == (CALM, True)


def test_some_calls_may_be_given_up(client: Http2) -> None:
    for number in range(400):
        client.sock.sendall(rapid_reset(client, 4 * number + 1))
        assert client.ask(4 * number + 3, mirror(b"abc")).prediction == b"cba"


# Others


class Others:
    """Who asks by REST, one after the other, while something happens."""

    def __init__(self, server: RunningServer) -> None:
        self.answers = 0
        self._url = f"{server.inference}/ping"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        with requests.Session() as session:
            while not self._over.is_set():
                assert session.get(self._url, timeout=60).status_code == 200
                self.answers += 1

    def __enter__(self) -> Others:
        self._thread.start()
        eventually(lambda: self.answers > 0)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)


def test_others_are_answered_during_a_flood_of_calls(server: RunningServer) -> None:
    """What came in one piece, thousands of calls, was answered before REST had its turn."""
    count, path = 10_000, "/nowhere/flood"
    attacker = Frames()
    said = raw(attacker.headers(1, head(path), "END_STREAM"))
    block = attacker.block(head(path))
    said += b"".join(
        raw(frames.HeadersFrame(2 * number + 1, block + b"\0\1n\5%05d" % number, flags=["END_HEADERS", "END_STREAM"]))
        for number in range(1, count)
    )
    with Others(server), Http2(server.grpc_inference) as client:
        sending = threading.Thread(target=client.sock.sendall, args=(said,))
        sending.start()
        for found in client.frames():
            if found.stream_id == 2 * count - 1 and "END_STREAM" in found.flags:
                break
        sending.join()
    eventually(lambda: access_log(server).count(path) == count)
    lines = access_log(server).splitlines()
    during = lines[[path in line for line in lines].index(True) :]
    while path not in during[-1]:
        during.pop()
    assert sum("/ping" in line for line in during) > 20


# Memory


def resident(server: RunningServer) -> int:
    return sum(int(process.memory_info().rss) for process in server.before())


@pytest.mark.parametrize("leaves", [False, True])
def test_a_streamed_answer_that_is_not_read_is_bounded(lent: Lent, tmp_path: Path, leaves: bool) -> None:
    """A worker that makes 250 MiB can't be told to wait. What came before its client left goes with it."""
    server = lent("stream")
    go = tmp_path / "go"
    asked = {"count": 250, "size": MIB, "go": str(go)}
    with Http2(server.grpc_inference, (WINDOW, 0)) as client:
        client.send(*client.request(1, message(prediction("stream", body=json.dumps(asked).encode())), head(PIECES)))
        next(found for found in client.frames() if isinstance(found, frames.HeadersFrame))
        before = resident(server)
        go.touch()
        eventually(lambda: resident(server) > before + 40 * MIB)
        if leaves:
            client.sock.close()
            eventually(lambda: resident(server) < before + 30 * MIB)
        else:
            assert server.predict("stream", json.dumps({"count": 0})).text == "end"  # the worker is done with the first
            assert resident(server) < before + 120 * MIB
            client.send(SettingsFrame(settings={WINDOW: 2**30}), frames.WindowUpdateFrame(0, 2**30))
            heads = (found for found in client.frames() if isinstance(found, frames.HeadersFrame))
            answers = {1: Answer({}, b"")}
            client.take(next(heads), answers)
            code, said = answers[1].refusal
            assert (code, "not taken as fast as it comes" in said) == (EXHAUSTED, True)


def test_a_window_that_stays_closed_ends_its_stream_alone(server: RunningServer) -> None:
    with Http2(server.grpc_inference, (WINDOW, 0)) as client:
        client.send(*client.request(1, mirror(b"abc" * 1000)), frames.PingFrame(0, b"12345678"))
        answers = client.answers([1])
        assert answers[1].headers["reset"] == str(CALM)
        client.send(SettingsFrame(settings={WINDOW: 65_535}))
        assert client.ask(3, mirror(b"abc")).prediction == b"cba"


def test_a_window_that_opens_by_a_byte_now_and_then_stays_closed(server: RunningServer) -> None:
    with Http2(server.grpc_inference, (WINDOW, 0)) as client:
        client.send(*client.request(1, mirror(b"abc" * 1000)))
        over = threading.Event()

        def trickle() -> None:
            with contextlib.suppress(OSError):
                while not over.wait(0.2):
                    client.send(frames.WindowUpdateFrame(1, 1))

        thread = threading.Thread(target=trickle)
        thread.start()
        ends = (found.error_code for found in client.frames() if isinstance(found, frames.RstStreamFrame))
        assert next(ends) == CALM
        over.set()
        thread.join()


def test_a_connection_whose_window_stays_closed_is_hung_up_on(server: RunningServer) -> None:
    with Http2(server.grpc_inference, (WINDOW, 2**20)) as client:
        client.send(*client.request(1, mirror(bytes(100_000))))
        said = list(client.frames())
        assert sum(len(found.data) for found in said if isinstance(found, frames.DataFrame)) == 65_535
        assert [found.error_code for found in said if isinstance(found, frames.GoAwayFrame)] == [CALM]
    server.logged("does not read its answers: hung up")


# Time


@pytest.fixture(scope="module")
def hasty() -> Iterator[str]:
    """The address of a server that waits for nobody."""
    with ours(slow_client_seconds=1, idle_seconds=1, silent_seconds=2) as server:
        yield server.address


def test_idle_connections_end(hasty: str) -> None:
    with Http2(hasty) as client:
        assert client.ask(1, b"\0\0\0\0\0", head(UNARY)).headers["grpc-status"] == "0"
        farewells = []
        for found in client.frames():
            client.take(found, {})
            if isinstance(found, frames.GoAwayFrame):
                farewells.append((found.error_code, found.last_stream_id))
    assert farewells == [(NO_ERROR, 2**31 - 1), (NO_ERROR, 1)]


@pytest.mark.parametrize("answers", [0, 2])
def test_who_is_silent_is_asked_and_hung_up_on_without_an_answer(hasty: str, answers: int) -> None:
    with Http2(hasty) as client:
        client.send(client.headers(1, head(CHAT)))  # it is not idle
        pings = 0
        for found in client.frames():
            if isinstance(found, frames.PingFrame):
                pings += 1
                if pings <= answers:
                    client.send(frames.PingFrame(0, found.opaque_data, flags=["ACK"]))
    assert pings == answers + 1


# One call's fault


def test_a_malformed_message_on_a_settled_call_harms_nobody(server: RunningServer) -> None:
    """Its answer waits for the client's window, so the stream is still there when the rest comes."""
    with Http2(server.grpc_inference, (WINDOW, 0)) as client:
        client.send(client.headers(1, head(STREAM)), frames.DataFrame(1, message(chaos())))
        next(found for found in client.frames() if isinstance(found, frames.HeadersFrame))
        client.send(frames.DataFrame(1, b"\2\0\0\0\0"), frames.DataFrame(1, b"x"), frames.DataFrame(1, b"yz"))
        client.send(SettingsFrame(settings={WINDOW: 65_535}))
        assert client.ask(3, mirror(b"abc")).prediction == b"cba"


def test_long_paths_are_not_repeated(client: Http2) -> None:
    answer = client.ask(1, b"", head("/" + "x" * 8_000))
    assert answer.refusal[0] == 12
    assert len(answer.refusal[1]) < 200


def test_the_farewell_says_nothing_of_the_memory(client: Http2) -> None:
    for block in (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x40\x05ab", b"\xbf"):
        with Http2(f"127.0.0.1:{client.sock.getpeername()[1]}") as other:
            other.send(frames.HeadersFrame(1, block, flags=["END_HEADERS"]))
            code, said = other.farewell()
            assert code == 9
            assert "0x" not in said
