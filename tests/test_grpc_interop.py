"""What gRPC's own interoperability tests ask of a server: of ours, and of grpcio's as the reference.

Source: https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from tests.grpc_client import refusal
from tests.grpc_testbed import ECHO_INITIAL, ECHO_TRAILING, NAME, asked, ours, read, reference

SECONDS = 20
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
INITIAL, TRAILING = (ECHO_INITIAL, "test_initial_metadata_value"), (ECHO_TRAILING, b"\xab\xab\xab")


@pytest.fixture(scope="module", params=["ours", "reference"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "ours":
        with ours() as server:
            yield server.address
    else:
        with reference() as place:
            yield place


@pytest.fixture(scope="module")
def channel(address: str) -> Iterator[Any]:
    with grpc.insecure_channel(address) as channel:
        yield channel


def unary(channel: Any, method: str = "Unary", service: str = NAME) -> Any:
    return channel.unary_unary(f"/{service}/{method}")


def chat(channel: Any) -> Any:
    return channel.stream_stream(f"/{NAME}/Chat")


def test_empty_unary(channel: Any) -> None:
    assert unary(channel, "Empty")(b"", timeout=SECONDS) == b""


def test_large_unary(channel: Any) -> None:
    assert unary(channel)(asked(bytes(271_828), size=314_159), timeout=SECONDS) == bytes(314_159)


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_client_compressed_unary(channel: Any, algorithm: Any) -> None:
    how = {"timeout": SECONDS, "compression": algorithm}
    assert unary(channel)(asked(bytes(271_828), size=314_159), **how) == bytes(314_159)


def test_messages_are_unpacked_up_to_the_limit(channel: Any) -> None:
    call = channel.stream_unary(f"/{NAME}/Collect")
    how = {"timeout": SECONDS, "compression": grpc.Compression.Gzip}
    assert read(call(iter([asked(bytes(4_000_000))] * 3), **how))["received"] == 12_000_000
    assert refusal(lambda: call(iter([asked(bytes(5_000_000))]), **how))[0] == StatusCode.RESOURCE_EXHAUSTED


def test_client_streaming(channel: Any) -> None:
    sizes = [27_182, 8, 1_828, 45_904]
    answer = channel.stream_unary(f"/{NAME}/Collect")((asked(bytes(size)) for size in sizes), timeout=SECONDS)
    assert read(answer)["received"] == 74_922


def test_server_streaming(channel: Any) -> None:
    sizes = [31_415, 9, 2_653, 58_979]
    answers = channel.unary_stream(f"/{NAME}/Stream")(asked(sizes=sizes), timeout=SECONDS)
    assert [len(answer) for answer in answers] == sizes


def test_ping_pong(channel: Any) -> None:
    answered = threading.Semaphore()

    def questions() -> Iterator[bytes]:
        for size, answer in ((27_182, 31_415), (8, 9), (1_828, 2_653), (45_904, 58_979)):
            assert answered.acquire(timeout=SECONDS)
            yield asked(bytes(size), size=answer)

    sizes = []
    for answer in chat(channel)(questions(), timeout=SECONDS):
        sizes.append(len(answer))
        answered.release()
    assert sizes == [31_415, 9, 2_653, 58_979]


def test_empty_stream(channel: Any) -> None:
    call = chat(channel)(iter([]), timeout=SECONDS)
    assert (list(call), call.code()) == ([], StatusCode.OK)


def test_custom_metadata(channel: Any) -> None:
    answer, call = unary(channel).with_call(asked(size=7), metadata=[INITIAL, TRAILING], timeout=SECONDS)
    assert (len(answer), INITIAL in call.initial_metadata(), TRAILING in call.trailing_metadata()) == (7, True, True)
    call = chat(channel)(iter([asked(size=7)]), metadata=[INITIAL, TRAILING], timeout=SECONDS)
    assert INITIAL in call.initial_metadata()
    assert [len(each) for each in call] == [7]
    assert TRAILING in call.trailing_metadata()


@pytest.mark.parametrize("message", ["test status message", SPECIAL], ids=["plain", "special"])
def test_status_code_and_message(channel: Any, message: str) -> None:
    ask = asked(code=2, message=message)
    assert refusal(lambda: unary(channel)(ask, timeout=SECONDS)) == (StatusCode.UNKNOWN, message)
    assert refusal(lambda: list(chat(channel)(iter([ask]), timeout=SECONDS))) == (StatusCode.UNKNOWN, message)


@pytest.mark.parametrize(("service", "method"), [(NAME, "Nothing"), ("testbed.Other", "Unary")])
def test_unimplemented(channel: Any, service: str, method: str) -> None:
    code, _ = refusal(lambda: unary(channel, method, service)(asked(), timeout=SECONDS))
    assert code == StatusCode.UNIMPLEMENTED


def test_cancel_after_begin(channel: Any) -> None:
    wait = threading.Event()

    def questions() -> Iterator[bytes]:
        wait.wait(SECONDS)
        yield asked()

    call = channel.stream_unary(f"/{NAME}/Collect").future(questions())
    call.cancel()
    wait.set()
    assert call.cancelled()
    assert call.code() == StatusCode.CANCELLED


def test_cancel_after_first_response(channel: Any) -> None:
    wait = threading.Event()

    def questions() -> Iterator[bytes]:
        yield asked(bytes(27_182), size=31_415)
        wait.wait(SECONDS)

    call = chat(channel)(questions(), timeout=SECONDS)
    assert len(next(call)) == 31_415
    call.cancel()
    wait.set()
    assert refusal(lambda: next(call))[0] == StatusCode.CANCELLED


def test_timeout_on_sleeping_server(channel: Any) -> None:
    call = chat(channel)(iter([asked(seconds=1)]), timeout=0.001)
    assert refusal(lambda: list(call))[0] == StatusCode.DEADLINE_EXCEEDED
    assert refusal(lambda: unary(channel)(asked(seconds=1), timeout=0.05))[0] == StatusCode.DEADLINE_EXCEEDED


def test_many_calls_at_the_same_time(channel: Any) -> None:
    futures = [unary(channel).future(asked(bytes(size), size=size), timeout=SECONDS) for size in range(0, 30_000, 100)]
    assert [len(future.result()) for future in futures] == list(range(0, 30_000, 100))
