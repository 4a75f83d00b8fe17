"""What a client sends by the hundred kilobytes never comes back to it in an error, wherever in a request it is."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc

from tests.grpc_client import Client, management_pb2, prediction
from tests.oip.conftest import OipServer

LARGE = "ä\\é'\"" * 20_000
LONG = ["many"] * 20_000
MOST = 4096
X = {"name": "x", "shape": [1, 13], "datatype": "FP32", "data": [0.5] * 3, "parameters": {"p": 1}}
Y = {"name": "y", "parameters": {"classification": 1, "binary_data": False}}
INFER = {"id": "1", "inputs": [X], "outputs": [Y], "parameters": {"priority": 1, "sequence_id": "a", "mine": "b"}}
DOCUMENTS: list[tuple[str, Any]] = [
    ("/v2/models/fit/infer", INFER),
    ("/v2/models/fit/generate", {"x": [0.5], "parameters": {"mine": 1}, "id": "1"}),
    ("/v2/repository/index", {"ready": True}),
    ("/v2/repository/models/nobody/load", {"parameters": {"config": '{"a": 1}', "file:1/a": "AAAA"}}),
    ("/v2/repository/models/nobody/unload", {"parameters": {"unload_dependents": True}}),
    ("/v2/trace/setting", {"trace_level": ["OFF"], "trace_rate": "1"}),
    ("/v2/logging", {"log_info": 1, "log_format": "x", "log_verbose_level": "y"}),
    ("/v2/systemsharedmemory/region/r/register", {"key": "nobody", "offset": 0, "byte_size": 1}),
    ("/predictions/fit", {"x": [0.5, 0.5]}),
    ("/v1/models/fit:predict", {"instances": [{"x": [0.5]}, {"b64": "AAAA"}, [0.5], "text"]}),
    ("/v1/models/fit:explain", {"instances": [{"x": [0.5], "target": "a"}]}),
    ("/predictions/chaos", {"op": "header", "name": "a b", "value": "c"}),
    ("/predictions/chaos", {"op": "kill_self", "signal": "no number"}),
]


def variants(document: Any) -> Iterator[Any]:
    """The document with each value, and each name, in turn replaced by very much."""
    if isinstance(document, dict):
        for name, value in document.items():
            yield {LARGE if key == name else key: held for key, held in document.items()}
            yield document | {f"{LARGE}{i}": 1 for i in range(3)}
            for changed in variants(value):
                yield document | {name: changed}
    elif isinstance(document, list) and document:
        for changed in variants(document[0]):
            yield [changed, *document[1:]]
    yield LARGE
    yield LONG
    yield [LARGE, LARGE]
    yield {str(i): i for i in range(10_000)}
    yield [[[[LONG]]]]


@pytest.mark.parametrize(("path", "document"), DOCUMENTS, ids=[f"{path} {i}" for i, (path, _) in enumerate(DOCUMENTS)])
def test_over_rest(oip_server: OipServer, path: str, document: Any) -> None:
    errors = 0
    for changed in variants(copy.deepcopy(document)):
        answer = oip_server.session.post(oip_server.inference + path, data=json.dumps(changed).encode(), timeout=60)
        if answer.status_code >= 400:
            errors += 1
            assert len(answer.content) <= MOST, (answer.status_code, answer.text[:300])
    assert errors > 3


@pytest.mark.parametrize("parameter", ["url", "model_name", "handler", "runtime", "batch_size", "nonsense", "sha256"])
def test_over_management(oip_server: OipServer, parameter: str) -> None:
    given = {"url": "nobody.pdar", parameter: LARGE}
    answer = oip_server.manage("POST", "/models", json=given)
    assert 400 <= answer.status_code < 500
    assert len(answer.content) <= MOST
    for method in ("GET", "PUT", "DELETE"):
        assert len(oip_server.manage(method, f"/models/{'x' * 10_000}").content) <= MOST


def infer(**changes: Any) -> Any:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], **changes.pop("input", {})}
    return oip.ModelInferRequest(**{"model_name": "fit", "inputs": [tensor], **changes})


MODEL_INFER = [
    infer(model_name=LARGE),
    infer(model_version=LARGE),
    infer(input={"name": LARGE}),
    infer(input={"datatype": LARGE}),
    infer(input={"shape": [2**62] * 50_000}),
    infer(input={"shape": [-1] * 50_000}),
    infer(input={"parameters": {"shared_memory_region": {"string_param": LARGE}}}),
    infer(
        input={
            "parameters": {
                "shared_memory_region": {"string_param": LARGE}, "shared_memory_byte_size": {"int64_param": 1}
            }
        }
    ),
    infer(inputs=[{"name": f"{i}" * 100, "datatype": "FP32", "shape": [1]} for i in range(5000)]),
    infer(outputs=[{"name": LARGE}]),
    infer(outputs=[{"name": "fetch_name_0"}] * 50_000),
    infer(parameters={LARGE: {"string_param": "a"}}),
    infer(parameters={LARGE: {}}),
    infer(parameters={"triton_" + LARGE: {"string_param": "a"}}),
    infer(parameters={"sequence_id": {"string_param": LARGE}}),
    infer(parameters={"priority": {"string_param": LARGE}}),
]  # fmt: skip


def said(call: Any) -> int:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    details: Any = raised.value
    return len(details.details().encode())


def test_over_grpc(oip_server: OipServer) -> None:
    with Client(oip_server) as client:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(client.inference_channel)
        health: Any = health_pb2_grpc.HealthStub(client.inference_channel)
        for request in MODEL_INFER:
            assert said(lambda request=request: stub.ModelInfer(request, timeout=60)) <= MOST
        for name, request in (
            ("ModelMetadata", oip.ModelMetadataRequest(name=LARGE)),
            ("ModelConfig", oip.ModelConfigRequest(name="fit", version=LARGE)),
            ("ModelStatistics", oip.ModelStatisticsRequest(name=LARGE)),
            ("RepositoryModelLoad", oip.RepositoryModelLoadRequest(model_name=LARGE)),
            ("SystemSharedMemoryStatus", oip.SystemSharedMemoryStatusRequest(name=LARGE)),
            ("SystemSharedMemoryRegister", oip.SystemSharedMemoryRegisterRequest(name=LARGE, key="a", byte_size=1)),
            ("SystemSharedMemoryRegister", oip.SystemSharedMemoryRegisterRequest(name="a", key=LARGE, byte_size=1)),
            ("CudaSharedMemoryStatus", oip.CudaSharedMemoryStatusRequest(name=LARGE)),
            ("CudaSharedMemoryRegister", oip.CudaSharedMemoryRegisterRequest(name=LARGE)),
            ("TraceSetting", oip.TraceSettingRequest(settings={LARGE: {"value": ["a"]}})),
            ("TraceSetting", oip.TraceSettingRequest(model_name=LARGE)),
            ("LogSettings", oip.LogSettingsRequest(settings={LARGE: {"bool_param": True}})),
            ("LogSettings", oip.LogSettingsRequest(settings={"log_format": {"string_param": LARGE}})),
        ):
            assert said(lambda name=name, request=request: getattr(stub, name)(request, timeout=60)) <= MOST, name
        assert said(lambda: health.Check(health_pb2.HealthCheckRequest(service=LARGE), timeout=60)) <= MOST
        for request in (prediction(LARGE), prediction("fit", LARGE), prediction("fit", "", **{LARGE: b"x"})):
            assert said(lambda request=request: client.predict(request)) <= MOST
        register = management_pb2.RegisterModelRequest(url=LARGE)
        assert said(lambda: client.management.RegisterModel(register, timeout=60)) <= MOST


def test_over_a_stream(oip_server: OipServer) -> None:
    with grpc.insecure_channel(oip_server.grpc_inference) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for request in MODEL_INFER:
            [answer] = stub.ModelStreamInfer(iter([request]), timeout=60)
            assert answer.error_message
            assert len(answer.error_message.encode()) <= MOST
