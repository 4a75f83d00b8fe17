"""Binary requests whose JSON, or whose other fields, were read before: each has its own data, and nothing else is taken
from the earlier one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests
from tritonclient.grpc import service_pb2, service_pb2_grpc

from pdserver.dialects.oip.grpc_wire import named
from tests.oip.conftest import OipServer, pack_fit

ROWS = np.arange(26, dtype=np.float32).reshape(2, 13) / 8


def infer(
    server: OipServer, rows: Any, model: str = "fit", said_bytes: int | None = None, shape: Sequence[int] = (1, 13)
) -> requests.Response:
    """The JSON says that there are `said_bytes` of data."""
    data = np.asarray(rows, np.float32).tobytes()
    size = len(data) if said_bytes is None else said_bytes
    given = {"name": "x", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    url = f"http://{server.oip}/v2/models/{model}/infer"
    return server.session.post(url, data=head + data, headers=headers, timeout=60)


def value(answer: requests.Response) -> float:
    assert answer.status_code == 200, answer.text
    head = int(answer.headers["Inference-Header-Content-Length"])
    return float(np.frombuffer(answer.content[head:], np.float32)[0])


def test_each_has_the_answer_to_its_own_data(oip_server: OipServer, fit_model: Path) -> None:
    weights = np.load(fit_model / "weights.npz")
    for row in [*ROWS, ROWS[0] + 1, *ROWS]:
        assert value(infer(oip_server, row)) == pytest.approx((row @ weights["w"] + weights["b"]).item(), rel=1e-5)


def test_data_that_do_not_fit_the_json_are_refused(oip_server: OipServer) -> None:
    for _ in range(2):
        value(infer(oip_server, ROWS[0]))
        short = infer(oip_server, ROWS[0, :12], said_bytes=52)
        assert short.status_code == 400
        assert "52" in short.text
        long = infer(oip_server, [*ROWS[0], 1.0], said_bytes=52)
        assert long.status_code == 400
        assert "additional input data" in long.text


def test_what_was_known_of_another_version_does_not_count(oip_server: OipServer, fit_model: Path) -> None:
    """The JSON is the same, and the model takes fewer rows by then."""
    store = Path(oip_server.settings["model_store"])
    try:
        for batch_size, status in ((2, 200), (1, 400)):
            pack_fit(store, fit_model, name="known", batch_size=batch_size)
            oip_server.manage("POST", "/models?url=known-1.pdar&initial_workers=1&synchronous=true").raise_for_status()
            for _ in range(2):
                assert infer(oip_server, ROWS, "known", shape=[2, 13]).status_code == status
            oip_server.manage("DELETE", "/models/known").raise_for_status()
            assert infer(oip_server, ROWS, "known", shape=[2, 13]).status_code == 404
    finally:
        (store / "known-1.pdar").unlink()


# Over gRPC


@pytest.fixture(scope="module")
def stub(oip_server: OipServer) -> Iterator[Any]:
    with grpc.insecure_channel(oip_server.grpc_inference) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def message(rows: Any, model: str = "fit", **fields: Any) -> Any:
    rows = np.atleast_2d(np.asarray(rows, np.float32))
    given = {"name": "x", "datatype": "FP32", "shape": fields.pop("shape", rows.shape)}
    return service_pb2.ModelInferRequest(
        model_name=model, inputs=[given], raw_input_contents=[rows.tobytes()], **fields
    )


def test_each_message_has_the_answer_to_its_own_data(stub: Any, fit_model: Path) -> None:
    weights = np.load(fit_model / "weights.npz")
    every: list[dict[str, Any]] = [{}, {"id": "mine"}, {"model_version": "1"}, {"outputs": []}]
    for fields in every:
        for number, row in enumerate([*ROWS, ROWS[0] + 1, *ROWS, ROWS]):
            if "outputs" in fields:
                [output] = stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="fit"), timeout=60).outputs
                fields["outputs"] = [{"name": output.name}]
            if "id" in fields:
                fields["id"] = f"mine {number}"
            answer = stub.ModelInfer(message(row, **fields), timeout=60)
            assert answer.id == fields.get("id", "")
            assert [tuple(output.shape) for output in answer.outputs] == [(len(np.atleast_2d(row)), 1)]
            expected = np.atleast_2d(row) @ weights["w"] + weights["b"]
            [raw] = answer.raw_output_contents
            np.testing.assert_allclose(np.frombuffer(raw, np.float32), expected.ravel(), rtol=1e-5)


def test_messages_that_do_not_fit_are_refused_though_such_are_known(stub: Any) -> None:
    for _ in range(3):
        stub.ModelInfer(message(ROWS[0]), timeout=60)
        for wrong in (
            message(ROWS[0, :12], shape=[1, 13]),
            message(ROWS[0], shape=[1, 12]),
            message(ROWS[0], "nowhere"),
            message(ROWS[0], model_version="77"),
        ):
            with pytest.raises(grpc.RpcError):
                stub.ModelInfer(wrong, timeout=60)


def test_a_message_of_another_version_is_read_anew(oip_server: OipServer, stub: Any, fit_model: Path) -> None:
    store = Path(oip_server.settings["model_store"])
    try:
        for batch_size in (2, 1):
            pack_fit(store, fit_model, name="anew", batch_size=batch_size)
            oip_server.manage("POST", "/models?url=anew-1.pdar&initial_workers=1&synchronous=true").raise_for_status()
            for _ in range(3):
                if batch_size == 2:
                    stub.ModelInfer(message(ROWS, "anew"), timeout=60)
                else:
                    with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
                        stub.ModelInfer(message(ROWS, "anew"), timeout=60)
            oip_server.manage("DELETE", "/models/anew").raise_for_status()
            with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
                stub.ModelInfer(message(ROWS, "anew"), timeout=60)
    finally:
        (store / "anew-1.pdar").unlink()


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"", (b"", b"")), (b"\n", (b"", b"")), (b"\n\0", (b"", b"")), (b"\n\3fit", (b"fit", b"")),
        (b"\n\3fit\x12\0011", (b"fit", b"1")), (b"\n\3fit\x12", (b"fit", b"")), (b"\x12\0011", (b"", b"")),
        (b"\n\3fit\x1a\1a", (b"fit", b"")), (b"\n\x83\0fit", (b"\0fit", b"")),
    ],
)  # fmt: skip
def test_names_at_the_beginning_of_a_message(data: bytes, names: tuple[bytes, bytes]) -> None:
    assert named(data) == names
