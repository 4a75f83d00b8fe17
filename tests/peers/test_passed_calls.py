"""How calls over gRPC are passed on: what is changed, what fails, what is repeated."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
import pytest

from pdserver.dialects.protos import message_class
from pdserver.peers.base import Addresses
from tests.peers.fake_calls import FakeCalls
from tests.peers.nodes import Node
from tests.peers.test_calls import OIP, TORCHSERVE, UNLIMITED, called, infer, oip, predictions
from tests.running import eventually

PREDICT, STREAM, BOTH = (f"/{TORCHSERVE}/{name}" for name in ("Predictions", "StreamPredictions", "StreamPredictions2"))
INFER, INFER_STREAM = f"/{OIP}/ModelInfer", f"/{OIP}/ModelStreamInfer"
DETAILS = b"\x08\x05details\xff"


def ask(node: Node, path: str, *messages: Any, metadata: Any = (), timeout: float = 30) -> tuple[Any, ...]:
    return called(node.server.grpc_inference, path, messages, metadata, timeout)


def fail(code: grpc.StatusCode, *answers: bytes) -> Any:
    def answer(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        next(messages)
        yield from answers
        context.set_trailing_metadata((("pd-answered", "1"), ("grpc-status-details-bin", DETAILS), ("last", "2")))
        context.abort(code, "the node's own words: ü")

    return answer


def test_what_came_goes_on(nodes: dict[str, Node], fake_calls: FakeCalls) -> None:
    def answer(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        context.send_initial_metadata((("first", "1"), ("first-bin", b"\xff\0")))
        context.set_trailing_metadata((("last", "2"), ("last-bin", b"\0\1")))
        yield from messages

    fake_calls.reset(answer)
    message = predictions("fake")
    given = (("x-mine", "a"), ("x-mine", "b"), ("mine-bin", b"\0\xff"), ("authorization", "Bearer abc"))
    initial, answers, code, _, trailing = ask(nodes["a"], PREDICT, message, metadata=given)
    assert answers == [message.SerializeToString()]
    assert code is grpc.StatusCode.OK
    assert initial == [("first", "1"), ("first-bin", b"\xff\0")]
    assert trailing == [("last", "2"), ("last-bin", b"\0\1")]
    [metadata] = fake_calls.metadata
    assert {*given, ("x-request-id", "mine"), ("pd-forwarded-by", "a")} <= set(metadata)
    assert [name for name, _ in metadata].count("x-request-id") == 1


@pytest.mark.parametrize(("path", "answers"), [(PREDICT, []), (STREAM, [b"1", b"2"]), (BOTH, [b"1"])])
def test_a_failure_is_the_nodes(nodes: dict[str, Node], fake_calls: FakeCalls, path: str, answers: list[bytes]) -> None:
    fake_calls.reset(fail(grpc.StatusCode.UNAVAILABLE, *answers))
    _, found, code, details, trailing = ask(nodes["a"], path, predictions("fake"))
    assert (found, code, details) == (answers, grpc.StatusCode.UNAVAILABLE, "the node's own words: ü")
    assert dict(trailing)["last"] == "2"
    assert len(fake_calls.metadata) == 1


def test_deadlines_go_on_reduced(nodes: dict[str, Node], fake_calls: FakeCalls) -> None:
    left = []

    def answer(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterable[bytes]:
        left.append(context.time_remaining())
        return messages

    def message() -> Iterator[bytes]:
        time.sleep(0.7)  # gRPC tells so short times to a tenth of a second
        yield predictions("fake").SerializeToString()

    def is_reduced() -> bool:
        method: Any = channel.stream_stream(PREDICT)
        list(method(message(), timeout=60))
        return 0 < left[-1] < 59.5

    fake_calls.reset(answer)
    with grpc.insecure_channel(nodes["a"].server.grpc_inference) as channel:
        eventually(is_reduced)  # unless the head came together with the message
    fake_calls.reset(never(fake_calls))
    assert ask(nodes["a"], PREDICT, predictions("fake"), timeout=0.2)[2] is grpc.StatusCode.DEADLINE_EXCEEDED
    assert fake_calls.left.wait(60)


def never(fake_calls: FakeCalls) -> Any:
    def answer(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield next(messages)
        while context.is_active():
            time.sleep(0.01)
        fake_calls.left.set()

    return answer


@pytest.mark.parametrize("path", [STREAM, BOTH])
def test_a_client_that_leaves(nodes: dict[str, Node], fake_calls: FakeCalls, path: str) -> None:
    fake_calls.reset(never(fake_calls))
    open_ = threading.Event()

    def messages() -> Iterator[bytes]:
        yield predictions("fake").SerializeToString()
        open_.wait(60)

    with grpc.insecure_channel(nodes["a"].server.grpc_inference) as channel:
        method: Any = channel.stream_stream(path)
        call = method(messages() if path == BOTH else iter([next(messages())]))
        next(call)
        call.cancel()
        assert fake_calls.left.wait(60)
    open_.set()


def test_messages_come_as_they_are_sent(nodes: dict[str, Node], fake_calls: FakeCalls) -> None:
    """In both directions: each waits for the one before it."""
    fake_calls.reset(lambda messages, _: messages)
    answered = threading.Semaphore(1)

    def messages() -> Iterator[bytes]:
        for number in range(5):
            assert answered.acquire(timeout=60)
            yield predictions("fake", b"%d" % number).SerializeToString()

    with grpc.insecure_channel(nodes["a"].server.grpc_inference) as channel:
        method: Any = channel.stream_stream(BOTH)
        call = method(messages(), timeout=60)
        count = 0
        for _ in call:
            count += 1
            answered.release()
    assert count == 5


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (PREDICT, predictions("ghost")),
        (STREAM, predictions("ghost")),
        (INFER, infer("ghost")),
        (f"/{OIP}/ModelMetadata", oip("ModelMetadata", "ghost")),
    ],
)
def test_nothing_goes_in_circles(nodes: dict[str, Node], path: str, message: Any) -> None:
    told = ask(nodes["c"], path, message, metadata=[("pd-forwarded-by", "somebody")])
    assert {"pd-lacks-model", "pd-answered"} <= dict(told[-1]).keys()
    for name in "abc":
        _, answers, code, details, trailing = ask(nodes[name], path, message)
        assert (answers, code) == ([], grpc.StatusCode.NOT_FOUND)
        assert "ghost" in details
        assert not [each for each, _ in trailing if each.startswith("pd-")]


def test_a_stream_for_another_model_later(nodes: dict[str, Node]) -> None:
    """The node that has the stream answers for it: the first message says where it goes."""
    _, answers, code, *_ = ask(nodes["a"], BOTH, predictions("mirror"), predictions("own"), predictions("nowhere"))
    assert (len(answers), code) == (3, grpc.StatusCode.OK)
    assert b"cba" in answers[0]
    assert b"not found" in answers[2]


def test_a_node_that_can_not_be_reached(nodes: dict[str, Node]) -> None:
    before = nodes["a"].forwarded("gone", "not_connected")
    _, answers, code, *_ = ask(nodes["a"], PREDICT, predictions("gone_or_b"))
    assert (len(answers), code) == (1, grpc.StatusCode.OK)
    assert nodes["a"].forwarded("gone", "not_connected") == before + 1
    _, answers, code, details, _ = ask(nodes["a"], PREDICT, predictions("gone"))
    assert (answers, code) == ([], grpc.StatusCode.UNAVAILABLE)
    assert "is served by other nodes: gone no connection could be made" in details


class Breaking:
    """A node that speaks HTTP/2, and breaks off when it has a call."""

    def __init__(self) -> None:
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._sock.getsockname()[1]}"
        self.calls = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                sock = self._sock.accept()[0]
            except OSError:
                return
            with sock:
                sock.settimeout(60)
                sock.sendall(b"\0\0\0\4\0\0\0\0\0")  # SETTINGS
                data = b""
                while b"Predictions" not in data:
                    piece = sock.recv(65536)
                    if not piece:
                        break
                    data += piece
                else:
                    self.calls += 1

    def close(self) -> None:
        self._sock.close()


def _unavailable(node: Node, path: str, model: str) -> str:
    """Why; empty if a front end answered that does not know of the new node yet."""
    _, answers, code, details, _ = ask(node, path, predictions(model))
    assert (answers == []) == (code is grpc.StatusCode.UNAVAILABLE)
    return details if code is grpc.StatusCode.UNAVAILABLE else ""


def test_a_node_that_breaks_off(nodes: dict[str, Node]) -> None:
    """Another one answers, but for sequences and streams."""
    node, a = Breaking(), nodes["a"]
    before = a.said
    a.tell({**before.nodes, "fake": Addresses("http://127.0.0.1:1", "", "", node.address)}, before.routes)
    try:
        for _ in range(100):
            _, answers, code, *_ = ask(a, PREDICT, predictions("fake_or_b"))
            assert (len(answers), code) == (1, grpc.StatusCode.OK)
            if node.calls:
                break
        assert node.calls == 1
        for path, model in ((PREDICT, "fake_sequences"), (PREDICT, "fake"), (BOTH, "fake")):
            assert "fake broke off" in eventually(lambda path=path, model=model: _unavailable(a, path, model))  # type: ignore[misc]
        assert node.calls == 4
    finally:
        a.tell(before.nodes, before.routes)
        node.close()


def test_large_messages_both_ways(nodes: dict[str, Node]) -> None:
    body = bytes(range(256)) * (20 * 4096)
    _, [answer], *_ = ask(nodes["a"], PREDICT, predictions("mirror", body), timeout=60)
    assert answer.endswith(body[::-1])


def test_a_slow_client_slows_the_other_node_down(nodes: dict[str, Node], fake_calls: FakeCalls) -> None:
    sent = [0]

    def much(_: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for _number in range(400):
            sent[0] += 1
            yield bytes(2**20)

    fake_calls.reset(much)
    with grpc.insecure_channel(nodes["a"].server.grpc_inference, UNLIMITED) as channel:
        call: Any = channel.stream_stream(STREAM)(iter([predictions("fake").SerializeToString()]), timeout=60)
        next(call)
        time.sleep(1)
        held = sent[0]
        assert held < 200
        assert sum(1 for _ in call) == 399


def test_management_is_not_passed_on(nodes: dict[str, Node]) -> None:
    message = infer("only_b")
    unload = message_class("inference.RepositoryModelUnloadRequest")(model_name="only_b")
    assert ask(nodes["a"], f"/{OIP}/RepositoryModelUnload", unload)[2] is not grpc.StatusCode.OK
    assert ask(nodes["b"], INFER, message)[2] is grpc.StatusCode.OK


def test_the_access_log_has_the_call(nodes: dict[str, Node]) -> None:
    ask(nodes["a"], PREDICT, predictions("mirror"), metadata=[("x-request-id", "of-a-call")])
    log = nodes["a"].server.log
    [line] = eventually(lambda: [each for each in log().splitlines() if "Predictions" in each and "of-a-call" in each])
    assert line.endswith("of-a-call mirror")
