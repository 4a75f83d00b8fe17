"""The Open Inference Protocol over gRPC, beside inference: health, metadata, and Triton's extensions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import requests
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException, shared_memory

from pdserver.dialects.oip.grpc import NAME
from tests.conftest import Lent
from tests.oip.conftest import OipServer
from tests.oip.triton_grpc import ARRAYS, body, echo, tensor


@pytest.fixture(scope="module")
def client(oip_server: OipServer) -> Iterator[Any]:
    with triton.InferenceServerClient(oip_server.grpc_inference) as client:
        yield client


def refused(call: Callable[[], object]) -> tuple[str, str]:
    """The code and the words."""
    with pytest.raises(InferenceServerException) as raised:
        call()
    return str(raised.value.status()).removeprefix("StatusCode."), str(raised.value.message())


def rest(server: OipServer, path: str) -> Any:
    return requests.get(f"http://{server.oip}/v2{path}", timeout=60).json()


def told(message: Any) -> Any:
    """A message as REST tells it: with the fields' own names, and those that have their default."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def test_health(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("fit")
    assert client.is_model_ready("fit", "2")
    assert not client.is_model_ready("fit", "9")
    assert not client.is_model_ready("nobody")


def test_the_server_and_its_models_say_what_they_say_over_rest(client: Any, oip_server: OipServer) -> None:
    assert told(client.get_server_metadata()) == rest(oip_server, "")
    assert client.get_server_metadata().name == "triton"
    metadata = client.get_model_metadata("fit", "2")
    assert list(metadata.versions) == ["2"]
    assert [(port.name, port.datatype, list(port.shape)) for port in metadata.inputs] == [("x", "FP32", [-1, 13])]
    assert len(client.get_model_metadata("echo").inputs) == len(ARRAYS)
    config = client.get_model_config("fit").config
    over_rest = rest(oip_server, "/models/fit/config")
    assert config.max_batch_size == over_rest["max_batch_size"] == 8
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert list(config.input[0].dims) == over_rest["input"][0]["dims"] == [13]
    assert client.get_model_config("counter").config.HasField("sequence_batching")
    assert "'nobody' is not found" in refused(lambda: client.get_model_config("nobody"))[1]


def test_statistics_count_rows_and_requests(client: Any) -> None:
    def stats() -> Any:
        [model] = client.get_inference_statistics("mirror").model_stats
        return model

    before = stats()
    client.infer("mirror", [tensor("body", np.array([[b"ab"], [b"cd"]], object), "BYTES")])
    after = stats()
    assert after.inference_count - before.inference_count == 2
    assert after.inference_stats.success.count - before.inference_stats.success.count == 1
    assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns
    assert after.last_inference > 1_700_000_000_000
    versions = [model.version for model in client.get_inference_statistics("fit").model_stats]
    assert versions == ["1", "2"]
    names = {model.name for model in client.get_inference_statistics().model_stats}
    assert {"fit", "echo", "mirror"} <= names
    assert refused(lambda: client.get_inference_statistics("nobody"))[0] == "NOT_FOUND"
    assert refused(lambda: client.get_inference_statistics("fit", "9"))[0] == "NOT_FOUND"


def test_models_are_unloaded_and_loaded(client: Any) -> None:
    def state() -> list[tuple[str, str]]:
        models = client.get_model_repository_index().models
        return [(model.version, model.state) for model in models if model.name == "mirror"]

    assert state() == [("1", "READY")]
    client.unload_model("mirror")
    assert state() == [("", "")]
    assert not client.is_model_ready("mirror")
    client.load_model("mirror")
    assert state() == [("1", "READY")]
    client.unload_model("nobody")  # isn't loaded: as it should be
    code, words = refused(lambda: client.load_model("nobody"))
    assert (code, "failed to load 'nobody'" in words) == ("INTERNAL", True)
    code, words = refused(lambda: client.load_model("mirror", config="{}"))
    assert (code, "config" in words) == ("INVALID_ARGUMENT", True)


def test_system_shared_memory_holds_inputs_and_outputs(client: Any) -> None:
    large = np.random.default_rng(5).normal(size=(1, 100_000)).astype(np.float32)
    size = large.nbytes
    handle = shared_memory.create_shared_memory_region("pd_in_out", "/pd_test_grpc", 2 * size)
    try:
        shared_memory.set_shared_memory_region(handle, [large])
        client.register_system_shared_memory("pd_in_out", "/pd_test_grpc", 2 * size)
        [region] = client.get_system_shared_memory_status().regions.values()
        assert (region.name, region.key, region.offset, region.byte_size) == ("pd_in_out", "/pd_test_grpc", 0, 2 * size)
        inputs = echo(fp32=large)
        [place] = [index for index, name in enumerate(ARRAYS) if name == "FP32"]
        inputs[place].set_shared_memory("pd_in_out", size)
        asked = [triton.InferRequestedOutput("int8"), triton.InferRequestedOutput("fp32")]
        asked[1].set_shared_memory("pd_in_out", size, offset=size)
        result = client.infer("echo", inputs, outputs=asked)
        np.testing.assert_array_equal(result.as_numpy("int8"), ARRAYS["INT8"])
        response = result.get_response()
        assert response.raw_output_contents[1] == b""
        assert response.outputs[1].parameters["shared_memory_byte_size"].int64_param == size
        written = shared_memory.get_contents_as_numpy(handle, np.float32, [1, 100_000], offset=size)
        np.testing.assert_array_equal(written, large)
        asked[1].set_shared_memory("pd_in_out", 4)
        assert "should be at least" in refused(lambda: client.infer("echo", inputs, outputs=asked))[1]
        code, words = refused(lambda: client.register_system_shared_memory("pd_in_out", "/pd_test_grpc", 8))
        assert (code, "already in manager" in words) == ("ALREADY_EXISTS", True)
        client.unregister_system_shared_memory()
        assert not client.get_system_shared_memory_status().regions
    finally:
        shared_memory.destroy_shared_memory_region(handle)


def test_there_is_no_cuda_shared_memory(client: Any) -> None:
    client.unregister_cuda_shared_memory()
    assert not client.get_cuda_shared_memory_status().regions
    assert refused(lambda: client.get_cuda_shared_memory_status("r"))[0] == "NOT_FOUND"
    code, words = refused(lambda: client.register_cuda_shared_memory("r", b"", 0, 1))
    assert (code, "CUDA" in words) == ("INVALID_ARGUMENT", True)


def test_trace_settings(client: Any) -> None:
    settings = client.update_trace_settings("fit", {"trace_level": ["TIMESTAMPS"], "trace_rate": None}).settings
    assert list(settings["trace_level"].value) == ["OFF"]
    assert list(settings["trace_rate"].value) == ["1000"]
    assert client.get_trace_settings("fit").settings == client.get_trace_settings().settings == settings
    assert refused(lambda: client.update_trace_settings(None, {"trace_speed": "1"}))[0] == "INVALID_ARGUMENT"
    assert refused(lambda: client.get_trace_settings("nobody"))[0] == "NOT_FOUND"


def test_log_settings(client: Any) -> None:
    client.update_log_settings({"log_verbose_level": 1})
    settings = client.get_log_settings().settings
    assert settings["log_verbose_level"].uint32_param == 1
    assert settings["log_info"].bool_param
    assert settings["log_format"].string_param == "default"
    client.update_log_settings({"log_verbose_level": 0})
    assert refused(lambda: client.update_log_settings({"log_file": "x"}))[0] == "UNIMPLEMENTED"


def test_health_and_reflection_know_the_service(oip_server: OipServer) -> None:
    with grpc.insecure_channel(oip_server.grpc_inference) as channel:
        asked = health_pb2.HealthCheckRequest(service=NAME)
        stub: Any = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(asked, timeout=60).status == health_pb2.HealthCheckResponse.SERVING
        database = ProtoReflectionDescriptorDatabase(channel)
        assert NAME in database.get_services()
        assert database.FindFileContainingSymbol("inference.ModelConfig").name == "model_config.proto"


def test_a_port_of_its_own(oip_server: OipServer) -> None:
    assert f"oip_grpc        {oip_server.oip_grpc}" in oip_server.log()
    with triton.InferenceServerClient(oip_server.oip_grpc) as client:
        assert client.get_server_metadata().name == "triton"
    with grpc.insecure_channel(oip_server.oip_grpc) as channel:
        services = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert NAME in services
    assert {service for service in services if "pytorch" in service} == set()


def test_what_is_off_by_default(servant: Lent) -> None:
    with triton.InferenceServerClient(servant.server.grpc_inference) as client:
        assert client.get_server_metadata().name == "pdserver"
        code, words = refused(lambda: client.load_model("fit"))
        assert (code, "model_control_mode" in words) == ("UNAVAILABLE", True)
        for call in (
            lambda: client.register_system_shared_memory("r", "/r", 1),
            lambda: client.unregister_system_shared_memory("r"),
            client.unregister_cuda_shared_memory,
        ):
            code, words = refused(call)
            assert (code, "allow_client_shm" in words) == ("UNIMPLEMENTED", True)
        assert refused(lambda: client.update_log_settings({"log_info": False}))[0] == "PERMISSION_DENIED"
        assert refused(lambda: client.infer("chaos", [body({})]))[0] == "NOT_FOUND"
