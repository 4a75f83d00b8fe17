"""TorchServe's inference API over gRPC, as its clients use it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from pdserver.dialects.rpc import CODES, Code, RpcError
from pdserver.errors import Kind
from pdserver.types import Failure
from tests.conftest import Lent, pack_handler
from tests.grpc_client import Client, access_log, chaos, inference_pb2, prediction, refusal
from tests.running import RunningServer, eventually

SEQUENCES = "sequenceBatching: true\nmaxNumSequence: 4\nmaxSequenceJobQueueSize: 100\nbatchSize: 4\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("grpc")
    store = folder / "store"
    store.mkdir()
    pack_handler(store, "chaos")
    for name in ("parts", "mirror", "stream"):
        pack_handler(store, name)
    pack_handler(store, "counter", config=SEQUENCES)
    with RunningServer(folder / "server", store, settings={"max_request_size": "30000000"}) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server) as client:
        yield client


def test_ping_says_what_rest_says(client: Client, server: RunningServer) -> None:
    assert client.ping() == server.ping().json() == {"status": "Healthy"}


def test_json_in_json_out(client: Client) -> None:
    assert client.ask(nonce=42)["nonce"] == 42


def test_each_input_reaches_the_handler_under_its_name(client: Client) -> None:
    answer = json.loads(client.predict(prediction("parts", data=b"\xff\x00", body=b'{"a": 1}')))
    assert answer == {"data": ["bytearray", "ff00"], "body": ["bytearray", b'{"a": 1}'.hex()]}


def test_a_prediction_may_name_its_version(client: Client) -> None:
    assert client.predict(prediction("mirror", version="1.0", body=b"abc")) == b"cba"
    code, words = refusal(lambda: client.predict(prediction("mirror", version="2.0", body=b"")))
    assert code == StatusCode.NOT_FOUND
    assert "2.0" in words


def test_metadata_headers_and_request_id_go_both_ways(client: Client) -> None:
    metadata = (("x-to-handler", "hello"), ("x-request-id", "abc-1"), ("data-bin", b"\xff"))
    answer, call = client.inference.Predictions.with_call(chaos("headers"), metadata=metadata, timeout=60)
    assert answer.prediction == b"a,b"
    assert dict(call.trailing_metadata()) == {"x-request-id": "abc-1", "x-from-handler": "hello"}
    assert client.predict(chaos("request_id"), metadata=(("x-request-id", "abc-2"),)) == b"abc-2"


def test_every_request_has_an_id_of_its_own(client: Client) -> None:
    unfit = "a b"
    ids = {client.predict(chaos("request_id"), metadata=metadata) for metadata in ((), (), (("x-request-id", unfit),))}
    assert len(ids) == 3
    assert unfit.encode() not in ids


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        (prediction("nobody"), StatusCode.NOT_FOUND, "Model not found: nobody"),
        (prediction(""), StatusCode.INVALID_ARGUMENT, "model_name is required"),
        (chaos("fail"), StatusCode.INTERNAL, "the handler's own fault"),
        (chaos("short"), StatusCode.INTERNAL, "answers"),
        (chaos("out_of_memory"), StatusCode.INTERNAL, "MemoryError"),
        (chaos("exit"), StatusCode.INTERNAL, "worker"),
        (chaos("fail_item"), StatusCode.INVALID_ARGUMENT, "this one is bad"),
        (chaos("prediction_exception"), StatusCode.FAILED_PRECONDITION, "teapots only"),
        (chaos("fail_item_torchserve"), StatusCode.INTERNAL, "no room"),
    ],
    ids=lambda value: value.name if isinstance(value, StatusCode) else None,
)
def test_a_failure_has_its_code_and_its_words(client: Client, message: Any, code: StatusCode, words: str) -> None:
    said = refusal(lambda: client.predict(message))
    assert said[0] == code
    assert words in said[1]


def test_bytes_that_are_no_message_are_the_clients_fault(client: Client) -> None:
    method = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"
    raw: Any = client.inference_channel.unary_unary(method)
    code, words = refusal(lambda: raw(b"\xff\xff", timeout=60))
    assert code == StatusCode.INVALID_ARGUMENT
    assert "PredictionsRequest" in words


def test_there_are_no_other_methods(client: Client) -> None:
    method = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Nothing"
    raw: Any = client.inference_channel.unary_unary(method)
    assert refusal(lambda: raw(b"", timeout=60))[0] == StatusCode.UNIMPLEMENTED


def test_every_kind_of_failure_has_a_code() -> None:
    assert set(CODES) == set(Kind)
    assert [code.name for code in Code] == [status.name for status in StatusCode]
    assert [code.value for code in Code] == [status.value[0] for status in StatusCode]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, Code.INVALID_ARGUMENT),
        (401, Code.UNAUTHENTICATED),
        (403, Code.PERMISSION_DENIED),
        (404, Code.NOT_FOUND),
        (409, Code.ABORTED),
        (413, Code.RESOURCE_EXHAUSTED),
        (416, Code.OUT_OF_RANGE),
        (418, Code.FAILED_PRECONDITION),
        (429, Code.RESOURCE_EXHAUSTED),
        (499, Code.CANCELLED),
        (501, Code.UNIMPLEMENTED),
        (503, Code.UNAVAILABLE),
        (504, Code.DEADLINE_EXCEEDED),
        (507, Code.INTERNAL),
    ],
)
def test_a_status_that_the_handler_asked_for_has_torchserves_code(status: int, code: Code) -> None:
    assert RpcError.of(Failure(Kind.HANDLER, "no", status)).code == code


def test_a_long_message_is_cut_between_characters() -> None:
    message = RpcError(Code.INTERNAL, "€" * 10_000).message
    assert set(message) == {"€"}
    assert 2000 < len(message.encode()) <= 2048


def test_large_messages_go_both_ways(client: Client) -> None:
    data = bytes(range(256)) * 80_000
    assert client.predict(prediction("mirror", body=data)) == data[::-1]


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
def test_a_message_that_is_too_large_is_refused(client: Client, compression: grpc.Compression | None) -> None:
    call = lambda: client.predict(prediction("mirror", body=bytes(31_000_000)), compression=compression)  # noqa: E731
    code, words = refusal(call)
    assert code == StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in words
    assert client.predict(prediction("mirror", body=b"ab"), compression=compression) == b"ba"


# Time, and clients that go


class Held:
    """A server whose only worker of `chaos` is kept busy until `release`."""

    def __init__(self, server: RunningServer, folder: Path) -> None:
        self.server = server
        self.client = Client(server)
        self._folder = folder
        self._logged = len(access_log(server))
        self._begun, self._go = folder / "begun", folder / "go"
        self.first = self.client.inference.Predictions.future(
            chaos("wait_for", begun=str(self._begun), go=str(self._go))
        )
        eventually(self._begun.exists)

    def marking(self) -> tuple[Any, Path]:
        """A request that leaves a mark when a worker has it."""
        mark = self._folder / "mark"
        return chaos("wait_for", begun=str(mark), go=str(self._go)), mark

    def has_ended(self, method: str, codes: str) -> bool:
        """Whether the access log has such a call, which was made since this began."""
        return bool(re.search(rf'/{method} HTTP/2.0" ({codes}) ', access_log(self.server)[self._logged :]))

    def release(self) -> None:
        """Everything that waited is served when this returns."""
        self._go.touch()
        self.first.result(timeout=60)
        self.client.ask()


@pytest.fixture
def held(lent: Lent, tmp_path: Path) -> Iterator[Held]:
    held = Held(lent("chaos", config="jobQueueSize: 1\n"), tmp_path)
    with held.client:
        yield held


def waiting(server: RunningServer) -> float:
    return server.metric("pd_queue_length", model_name="chaos")


def test_a_request_whose_deadline_passed_is_not_run(held: Held) -> None:
    request, mark = held.marking()
    code, _ = refusal(lambda: held.client.predict(request, timeout=0.2))
    assert code == StatusCode.DEADLINE_EXCEEDED
    # Whichever the server notices first: that the time is over, or that the client is gone.
    eventually(lambda: held.has_ended("Predictions", "CANCELLED|DEADLINE_EXCEEDED"))
    held.release()
    assert not mark.exists()


@pytest.mark.parametrize("method", ["Predictions", "StreamPredictions", "StreamPredictions2"])
def test_a_request_whose_client_cancelled_it_is_not_run(held: Held, method: str) -> None:
    request, mark = held.marking()
    if method == "Predictions":
        call = held.client.inference.Predictions.future(request)
    elif method == "StreamPredictions":
        call = held.client.inference.StreamPredictions(request)
    else:
        call = held.client.inference.StreamPredictions2(iter([request]))
    eventually(lambda: waiting(held.server) == 1)
    call.cancel()
    assert call.code() == StatusCode.CANCELLED
    eventually(lambda: held.has_ended(method, "CANCELLED"))
    held.release()
    assert not mark.exists()


def test_a_full_queue_refuses_at_once(held: Held) -> None:
    second = held.client.inference.Predictions.future(chaos())
    eventually(lambda: waiting(held.server) == 1)
    code, words = refusal(lambda: held.client.predict(chaos()))
    assert code == StatusCode.RESOURCE_EXHAUSTED
    assert "job_queue_size" in words
    held.release()
    assert second.result(timeout=60).prediction


def test_a_model_without_workers_is_unavailable(lent: Lent) -> None:
    with Client(lent("chaos", config="minWorkers: 0\n")) as client:
        code, words = refusal(lambda: client.predict(chaos()))
    assert code == StatusCode.UNAVAILABLE
    assert "min_worker" in words


def test_a_worker_that_does_not_answer_in_time_exceeds_the_deadline(lent: Lent) -> None:
    with Client(lent("chaos", config="responseTimeout: 0.3\n")) as client:
        code, words = refusal(lambda: client.predict(chaos("sleep", seconds=60)))
    assert code == StatusCode.DEADLINE_EXCEEDED
    assert "responseTimeout" in words


# Streams


def stream(count: int, **fields: object) -> Any:
    return prediction("stream", body=json.dumps({"count": count, **fields}).encode())


def test_an_answer_in_pieces(client: Client, tmp_path: Path) -> None:
    go = tmp_path / "go"
    pieces = client.inference.StreamPredictions(stream(3, go=str(go)), timeout=60)
    assert next(pieces).prediction == b"0 "  # while the handler waits
    go.touch()
    assert [piece.prediction for piece in pieces] == [b"1 ", b"2 ", b"end"]
    assert "x-request-id" in dict(pieces.trailing_metadata())


def test_an_answer_in_one_piece_is_a_stream_of_one(client: Client) -> None:
    [piece] = client.inference.StreamPredictions(chaos(nonce=7), timeout=60)
    assert json.loads(piece.prediction)["nonce"] == 7


def test_pieces_are_joined_for_who_wants_one_answer(client: Client) -> None:
    assert client.predict(stream(2)) == b"0 1 end"


@pytest.mark.parametrize("how", ["raise", "die"])
def test_a_stream_that_fails_says_so_after_its_pieces(client: Client, how: str) -> None:
    pieces = client.inference.StreamPredictions(stream(2, **{how: True}), timeout=60)
    assert [next(pieces).prediction, next(pieces).prediction] == [b"0 ", b"1 "]
    assert refusal(lambda: next(pieces))[0] == StatusCode.INTERNAL


def test_a_sequence_is_answered_in_order_and_failures_do_not_end_it(client: Client) -> None:
    def messages() -> Iterator[Any]:
        yield chaos(nonce=1)
        yield chaos("fail")
        yield stream(1)
        yield prediction("nobody")
        yield chaos(nonce=2)

    answers = list(client.inference.StreamPredictions2(messages(), timeout=60))
    assert [answer.status.code for answer in answers] == [0, StatusCode.INTERNAL.value[0], 0, 0, 5, 0]
    assert "own fault" in answers[1].status.message
    assert [answers[2].prediction, answers[3].prediction] == [b"0 ", b"end"]
    assert [json.loads(answers[place].prediction)["nonce"] for place in (0, 5)] == [1, 2]
    assert not answers[0].HasField("status")
    assert not answers[0].HasField("sequence_id")


def test_a_client_may_wait_for_each_answer_of_a_sequence(client: Client) -> None:
    answered = threading.Semaphore(1)

    def messages() -> Iterator[Any]:
        for nonce in range(5):
            answered.acquire(timeout=60)
            yield chaos(nonce=nonce)

    nonces = []
    for answer in client.inference.StreamPredictions2(messages(), timeout=60):
        nonces.append(json.loads(answer.prediction)["nonce"])
        answered.release()
    assert nonces == list(range(5))


def counter(number: int, **fields: str) -> Any:
    body = json.dumps({"add": number}).encode()
    return inference_pb2.PredictionsRequest(model_name="counter", input={"body": body}, **fields)


def test_a_stateful_model_knows_its_sequence(client: Client) -> None:
    named = [counter(number, sequence_id="mine") for number in (1, 2, 3)]
    answers = list(client.inference.StreamPredictions2(iter(named), timeout=60))
    assert [json.loads(answer.prediction)["total"] for answer in answers] == [1, 3, 6]
    assert {answer.sequence_id for answer in answers} == {"mine"}
    [opened] = client.inference.StreamPredictions2(iter([counter(5)]), timeout=60)
    assert opened.sequence_id.startswith("ts-seq-")
    more = client.inference.Predictions(counter(6, sequence_id=opened.sequence_id), timeout=60)
    assert json.loads(more.prediction)["total"] == 11


# Beside REST


def test_grpc_and_rest_at_once_each_get_their_own_answer(client: Client, server: RunningServer) -> None:
    def by_grpc(nonce: int) -> int:
        return int(client.ask(nonce=nonce)["nonce"])

    def by_rest(nonce: int) -> int:
        return int(server.predict("chaos", json={"nonce": nonce}).json()["nonce"])

    with ThreadPoolExecutor(16) as threads:
        results = [threads.submit((by_grpc, by_rest)[nonce % 2], nonce) for nonce in range(300)]
        assert [result.result() for result in results] == list(range(300))


def test_concurrent_calls_share_batches(lent: Lent) -> None:
    with Client(lent("chaos", config="batchSize: 4\nmaxBatchDelay: 600000\n")) as client:
        calls = [client.inference.Predictions.future(chaos(nonce=nonce)) for nonce in range(4)]
        answers = [json.loads(call.result(timeout=60).prediction) for call in calls]
    assert [answer["batch"] for answer in answers] == [4] * 4
    assert [answer["nonce"] for answer in answers] == list(range(4))


def test_calls_are_in_the_access_log(client: Client, server: RunningServer) -> None:
    client.predict(prediction("mirror", body=b""))
    refusal(lambda: client.predict(prediction("nobody")))
    line = '"gRPC /org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions HTTP/2.0"'
    eventually(lambda: f"{line} OK " in access_log(server) and f"{line} NOT_FOUND " in access_log(server))
    assert "/127.0.0.1:" in access_log(server)
