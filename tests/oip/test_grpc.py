"""The Open Inference Protocol over gRPC: inference, as Triton's own client asks for it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient import grpc as triton
from tritonclient.grpc import aio, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.conftest import Lent
from tests.grpc_client import access_log, refusal
from tests.oip.triton_grpc import ARRAYS, answer, body, chaos, echo, fit, tensor
from tests.running import RunningServer, eventually


@pytest.fixture(scope="module")
def client(oip_server: RunningServer) -> Iterator[Any]:
    with triton.InferenceServerClient(oip_server.grpc_inference) as client:
        yield client


@pytest.fixture(scope="module")
def stub(oip_server: RunningServer) -> Iterator[Any]:
    """For what the client would not send."""
    with grpc.insecure_channel(oip_server.grpc_inference) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


# Tensors


def test_a_real_model_answers_what_its_weights_say(client: Any, fit_model: Path) -> None:
    weights = np.load(fit_model / "weights.npz")
    rows = np.random.default_rng(1).normal(size=(3, 13)).astype(np.float32)
    [port] = client.get_model_metadata("fit").outputs
    result = client.infer("fit", [tensor("x", rows, "FP32")], model_version="2", request_id="mine")
    np.testing.assert_allclose(result.as_numpy(port.name), rows @ weights["w"] + weights["b"], rtol=1e-5)
    response = result.get_response()
    assert (response.model_name, response.model_version, response.id) == ("fit", "2", "mine")
    [output] = response.outputs
    assert (output.datatype, output.shape, output.HasField("contents")) == ("FP32", [3, 1], False)
    assert client.infer("fit", [tensor("x", rows, "FP32")]).get_response().id == ""


def test_every_datatype_goes_raw(client: Any) -> None:
    result = client.infer("echo", echo())
    for name, array in ARRAYS.items():
        answered = result.as_numpy(name.lower())
        assert answered.dtype == array.dtype
        np.testing.assert_array_equal(answered, array)


def contents(datatype: str, array: Any, name: str) -> dict[str, object]:
    """An input that is not raw."""
    kind, bits = array.dtype.kind, array.dtype.itemsize * 8
    number = "64" if bits == 64 else ""
    field = {"b": "bool", "i": f"int{number}", "u": f"uint{number}", "f": f"fp{bits}", "O": "bytes"}[kind]
    values = {f"{field}_contents": array.ravel().tolist()}
    return {"name": name, "datatype": datatype, "shape": array.shape, "contents": values}


def test_every_datatype_that_has_contents_goes_as_such(stub: Any) -> None:
    """The two that have none are empty here."""
    empty = [{"name": name.lower(), "datatype": name, "shape": [1, 0]} for name in ("FP16", "BF16")]
    typed = {name: array for name, array in ARRAYS.items() if name not in ("FP16", "BF16")}
    inputs = [contents(name, array, name.lower()) for name, array in typed.items()]
    request = service_pb2.ModelInferRequest(model_name="echo", inputs=inputs + empty)
    result = triton.InferResult(stub.ModelInfer(request, timeout=60))
    for name, array in typed.items():
        np.testing.assert_array_equal(result.as_numpy(name.lower()), array)


def test_large_tensors_go_in_and_out(client: Any) -> None:
    random = np.random.default_rng(2)
    fp32 = random.normal(size=(1, 2_500_000)).astype(np.float32)
    int8 = np.frombuffer(random.bytes(300_001), np.int8).reshape(1, -1)
    result = client.infer("echo", echo(fp32=fp32, int8=int8))
    assert result.as_numpy("fp32").tobytes() == fp32.tobytes()
    assert result.as_numpy("int8").tobytes() == int8.tobytes()
    np.testing.assert_array_equal(result.as_numpy("bytes"), ARRAYS["BYTES"])


def test_opaque_models_take_and_give_bytes(client: Any) -> None:
    rows = np.array([[b'{"nonce": 1}'], [b'{"nonce": 2}']], object)
    result = client.infer("chaos", [tensor("body", rows, "BYTES")]).as_numpy("answer")
    assert [json.loads(text)["nonce"] for text in result.ravel()] == [1, 2]


def test_outputs_are_those_that_were_asked_for(client: Any) -> None:
    asked = [triton.InferRequestedOutput(name) for name in ("int8", "bool")]
    result = client.infer("echo", echo(), outputs=asked)
    assert [output.name for output in result.get_response().outputs] == ["int8", "bool"]


def test_classification(client: Any) -> None:
    scores = np.array([[0.25, 3.5, 1.0]], np.float32)
    result = client.infer("echo", echo(fp32=scores), outputs=[triton.InferRequestedOutput("fp32", class_count=2)])
    assert result.as_numpy("fp32").tolist() == [[b"3.500000:1:dog", b"1.000000:2"]]


# What is wrong


INVALID = "INVALID_ARGUMENT"
ONES = {"contents": {"fp32_contents": [1.0] * 13}}


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (fit(model_name="nobody"), "NOT_FOUND", "Request for unknown model: 'nobody' is not found"),
        (fit(model_version="9"), "NOT_FOUND", "'fit' version 9 is not found"),
        (fit(input=ONES), INVALID, "contents field must not be specified when using raw_input_contents"),
        (fit(raw=[]), INVALID, "input byte size mismatch for input 'x'"),
        (fit(raw=[b"", b""]), INVALID, "has 2 entries, which is more than"),
        (fit(raw=[b"abcd"]), INVALID, "Expected 52, got 4"),
        (fit(input={"shape": [1, 14]}), INVALID, "unexpected shape for input 'x'"),
        (fit(input={"shape": [-1, 13]}), INVALID, "negative length"),
        (fit(input={"datatype": "FP23"}), INVALID, "did you mean FP32?"),
        (fit(input={"datatype": "INT32"}), INVALID, "data-type is 'INT32', but model 'fit' expects 'FP32'"),
        (fit(input={"name": "y"}), INVALID, "unexpected inference input 'y'"),
        (fit(inputs=[], raw=[]), INVALID, "expected 1 inputs but got 0"),
        (fit(outputs=[{"name": "z"}]), INVALID, "unexpected inference output 'z'"),
        (fit(parameters={"triton_x": {"bool_param": True}}), INVALID, "reserved"),
        (fit(parameters={"timeout": {"string_param": "1 s"}}), INVALID, "expected a whole number"),
        (fit(parameters={"x": {}}), INVALID, "parameter 'x' has no value"),
        (
            fit(input={"contents": {"int_contents": [1]}}, raw=[]),
            INVALID,
            "elements of FP32 are fp32_contents, not int_contents",
        ),
        (
            fit(input={"datatype": "INT8", "contents": {"int_contents": [128]}}, raw=[]),
            INVALID,
            "a number that is not a INT8",
        ),
        (
            fit(input={"datatype": "FP16", "contents": {"fp32_contents": [1]}}, raw=[]),
            INVALID,
            "FP16 has no contents: send raw_input_contents",
        ),
        (
            fit(input={"parameters": {"shared_memory_region": {"string_param": "r"}}}, raw=[]),
            INVALID,
            "shared_memory_byte_size",
        ),
    ],
)
def test_what_is_wrong_is_said(stub: Any, request_: Any, code: str, words: str) -> None:
    said = refusal(lambda: stub.ModelInfer(request_, timeout=60))
    assert said[0].name == code
    assert words in said[1]


def test_a_raw_entry_too_few_is_said(stub: Any) -> None:
    inputs = [{"name": name, "datatype": "FP32", "shape": [1, 1]} for name in ("fp32", "fp64")]
    request = service_pb2.ModelInferRequest(model_name="echo", inputs=inputs, raw_input_contents=[bytes(4)])
    assert "has 1 entries, and none for input 'fp64'" in refusal(lambda: stub.ModelInfer(request, timeout=60))[1]


def test_a_handlers_failure_is_its_requests_alone(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="own fault") as failed:
        client.infer("chaos", [body({"op": "fail"})])
    assert failed.value.status() == "StatusCode.INTERNAL"


def test_answers_in_pieces_need_the_stream(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="doesn't support") as failed:
        client.infer("stream", [body({"count": 1})])
    assert failed.value.status() == "StatusCode.UNIMPLEMENTED"


# Parameters


def test_parameters_of_all_kinds_are_taken(client: Any) -> None:
    given = {"a": 1, "b": "c", "d": True}
    result = client.infer("chaos", [body({"nonce": 5})], priority=1, timeout=60_000_000, parameters=given)
    assert answer(result)["nonce"] == 5


def test_metadata_and_ids_reach_the_handler(client: Any) -> None:
    said = client.infer("chaos", [body({"op": "request_id"})], request_id="abc-3").as_numpy("answer")
    assert said.tolist() == [[b"abc-3"]]
    asked = [body({"op": "header", "name": "x-mine"})]
    assert client.infer("chaos", asked, headers={"x-mine": "yes"}).as_numpy("answer").tolist() == [[b"yes"]]


def test_sequences(client: Any) -> None:
    def total(number: int, sequence: Any, **marks: bool) -> int:
        return int(answer(client.infer("counter", [body({"add": number})], sequence_id=sequence, **marks))["total"])

    assert total(1, 7, sequence_start=True) == 1
    assert total(2, "text", sequence_start=True) == 2
    assert total(3, 7) == 4
    assert total(4, "text", sequence_end=True) == 6
    assert total(5, 7, sequence_end=True) == 9


# Time, and clients that go


class Held:
    """The one worker of `chaos`, kept busy until `release`."""

    def __init__(self, server: RunningServer, channel: grpc.Channel, folder: Path) -> None:
        self._server = server
        self._go, self.mark = folder / "go", folder / "mark"
        self.stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        self._given_up_before = self._given_up()
        begun = folder / "begun"
        self._first = self.stub.ModelInfer.future(self._waits(begun), timeout=60)
        eventually(begun.exists)

    def _waits(self, begun: Path) -> Any:
        return chaos({"op": "wait_for", "begun": str(begun), "go": str(self._go)})

    def _given_up(self) -> int:
        ends = "CANCELLED|UNAVAILABLE|DEADLINE_EXCEEDED"
        return len(re.findall(rf'Infer HTTP/2.0" (?:{ends}) ', access_log(self._server)))

    def marking(self) -> Any:
        """A request that leaves a mark when a worker has it."""
        return self._waits(self.mark)

    def until_waiting(self, count: int) -> None:
        """Until so many requests wait for the worker."""
        eventually(lambda: self._server.metric("pd_queue_length", model_name="chaos") == count)

    def until_given_up(self) -> None:
        """Until a call has ended without an answer, because the time was over or the client gone."""
        eventually(lambda: self._given_up() > self._given_up_before)

    def release(self) -> None:
        """Everything that waited is served when this returns. Idempotent."""
        self._go.touch()
        self._first.result(timeout=60)
        self.stub.ModelInfer(chaos({}), timeout=60)


@pytest.fixture
def held(lent: Lent, tmp_path: Path) -> Iterator[Held]:
    server = lent("chaos", config="jobQueueSize: 2\n")
    with grpc.insecure_channel(server.grpc_inference) as channel:
        held = Held(server, channel, tmp_path)
        yield held
        held.release()


def test_a_request_whose_deadline_passed_is_not_run(held: Held) -> None:
    code, _ = refusal(lambda: held.stub.ModelInfer(held.marking(), timeout=0.2))
    assert code.name == "DEADLINE_EXCEEDED"
    held.until_given_up()
    held.release()
    assert not held.mark.exists()


def test_a_request_whose_client_cancelled_it_is_not_run(held: Held) -> None:
    cancelled = held.stub.ModelInfer.future(held.marking())
    held.until_waiting(1)
    cancelled.cancel()
    held.until_given_up()
    held.release()
    assert not held.mark.exists()


def test_a_request_that_waits_longer_than_its_timeout_parameter_is_not_run(held: Held) -> None:
    expiring = held.marking()
    expiring.parameters["timeout"].int64_param = 1
    code, words = refusal(lambda: held.stub.ModelInfer(expiring, timeout=60))
    assert (code.name, "Request timeout expired" in words) == ("UNAVAILABLE", True)
    held.release()
    assert not held.mark.exists()


def test_a_full_queue_refuses_at_once(held: Held) -> None:
    waiting = [held.stub.ModelInfer.future(chaos({}), timeout=60) for _ in range(2)]
    held.until_waiting(2)
    code, words = refusal(lambda: held.stub.ModelInfer(chaos({}), timeout=60))
    assert (code.name, "Exceeds maximum queue size" in words) == ("UNAVAILABLE", True)
    held.release()
    assert all(call.result(timeout=60).outputs for call in waiting)


# Streams


class Streaming:
    """A stream of Triton's client; `answers` are its results and errors in their order."""

    def __init__(self, server: RunningServer, **how: Any) -> None:
        self.client: Any = triton.InferenceServerClient(server.grpc_inference)
        self.answers: list[Any] = []
        self.client.start_stream(lambda result, error: self.answers.append(error or result), **how)

    def __enter__(self) -> Streaming:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_stream()
        self.client.close()

    def ask(self, model: str, asked: object, **how: Any) -> None:
        self.client.async_stream_infer(model, [body(asked)], **how)

    def get(self, count: int) -> list[Any]:
        eventually(lambda: len(self.answers) >= count)
        return self.answers


def piece(result: Any) -> tuple[str, bytes, bool]:
    """Id, what it says, and whether it is the last."""
    response = result.get_response()
    last = response.parameters["triton_final_response"].bool_param
    return response.id, result.as_numpy("answer")[0, 0], last


def test_a_stream_answers_in_order_and_errors_do_not_end_it(oip_server: RunningServer) -> None:
    with Streaming(oip_server) as stream:
        for number in range(200):
            op = "fail_item" if number == 50 else "echo"
            stream.ask("chaos", {"op": op, "nonce": number}, request_id=str(number))
        stream.ask("nobody", b"", request_id="gone")
        answers = stream.get(201)
    assert "this one is bad" in answers[50].message()
    assert "unknown model: 'nobody'" in answers[200].message()
    good = [answer for answer in answers if not isinstance(answer, InferenceServerException)]
    assert [int(piece(answer)[0]) for answer in good] == [*range(50), *range(51, 200)]
    assert all(json.loads(text)["nonce"] == int(own_id) and last for own_id, text, last in map(piece, good))


def test_errors_name_their_request(stub: Any) -> None:
    [answer] = stub.ModelStreamInfer(iter([fit(model_name="nobody", id="7")]), timeout=60)
    assert answer.infer_response.id == "7"
    assert "nobody" in answer.error_message


def test_errors_end_the_stream_when_the_client_says_so(stub: Any) -> None:
    answers = stub.ModelStreamInfer(
        iter([fit(id="1"), fit(model_name="nobody")]), timeout=60, metadata=(("triton_grpc_error", "true"),)
    )
    assert next(answers).infer_response.id == "1"
    code, words = refusal(lambda: next(answers))
    assert (code.name, "nobody" in words) == ("NOT_FOUND", True)


def test_pieces_go_out_as_they_come(oip_server: RunningServer, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with Streaming(oip_server) as stream:
        asked = {"count": 2, "go": str(go)}
        stream.ask("stream", asked, request_id="s", enable_empty_final_response=True)
        assert piece(stream.get(1)[0]) == ("s", b"0 ", False)  # while the handler waits
        stream.ask("chaos", {"nonce": 1}, request_id="c")
        assert piece(stream.get(2)[1])[0] == "c"  # it does not wait for the end of the pieces
        go.touch()
        assert [piece(answer) for answer in stream.get(4)[2:]] == [("s", b"1 ", False), ("s", b"end", True)]


def test_a_stream_of_sequences_keeps_their_order(oip_server: RunningServer) -> None:
    with Streaming(oip_server) as stream:
        for number in range(1, 7):
            for sequence in (31, 32):
                asked = {"add": number * sequence}
                marks = {"sequence_start": number == 1, "sequence_end": number == 6}
                stream.ask("counter", asked, request_id=str(sequence), sequence_id=sequence, **marks)
        answers = [piece(answer)[:2] for answer in stream.get(12)]
    for sequence in (31, 32):
        totals = [json.loads(text)["total"] for own_id, text in answers if own_id == str(sequence)]
        assert totals == [sequence * total for total in (1, 3, 6, 10, 15, 21)]


def test_a_cancelled_stream_gives_up_what_waits(held: Held) -> None:
    stream = held.stub.ModelStreamInfer(iter([held.marking()]))
    held.until_waiting(1)
    stream.cancel()
    held.until_given_up()
    held.release()
    assert not held.mark.exists()


# Many at once


def test_the_asynchronous_client(oip_server: RunningServer) -> None:
    async def ask() -> None:
        async with aio.InferenceServerClient(oip_server.grpc_inference) as client:
            asked = [client.infer("chaos", [body({"nonce": number})]) for number in range(50)]
            assert [answer(result)["nonce"] for result in await asyncio.gather(*asked)] == list(range(50))

            async def requests() -> Any:
                for number in range(3):
                    yield {"model_name": "chaos", "inputs": [body({})], "request_id": str(number)}

            answers = [(result, error) async for result, error in client.stream_infer(requests())]
            assert [result.get_response().id for result, error in answers if error is None] == ["0", "1", "2"]

    asyncio.run(ask())


def test_rows_of_several_calls_share_a_batch_and_each_gets_its_own(client: Any, fit_model: Path) -> None:
    weights = np.load(fit_model / "weights.npz")
    arrays = [np.full((1 + n % 3, 13), n, np.float32) for n in range(60)]
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda rows: client.infer("fit", [tensor("x", rows, "FP32")]), arrays))
    for rows, result in zip(arrays, results, strict=True):
        [output] = result.get_response().outputs
        np.testing.assert_allclose(result.as_numpy(output.name), rows @ weights["w"] + weights["b"], rtol=1e-4)


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compressed_messages(client: Any, compression: str) -> None:
    row = np.ones((1, 13), np.float32)
    plain, packed = (
        client.infer("fit", [tensor("x", row, "FP32")], compression_algorithm=algorithm).get_response()
        for algorithm in (None, compression)
    )
    assert plain.raw_output_contents == packed.raw_output_contents


def test_a_message_beyond_the_limit_is_refused(oip_server: RunningServer) -> None:
    with grpc.insecure_channel(oip_server.grpc_inference) as channel:
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        code, _ = refusal(lambda: stub.ModelInfer(chaos({"nonce": "x" * 7_000_000}), timeout=60))
    assert code.name == "RESOURCE_EXHAUSTED"
