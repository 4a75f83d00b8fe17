"""The public stubs of tensorflow-serving-api, as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import MadeOnce
from tests.running import RunningServer
from tests.tensorflow_clients import TensorflowClients
from tests.tensorflow_clients import tensorflow_clients as tensorflow_clients
from tests.tfserving.site import Site, made_versions

SCRIPT = """
from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow_serving.apis import (
    classification_pb2, get_model_metadata_pb2, get_model_status_pb2, inference_pb2, model_management_pb2,
    model_service_pb2_grpc, predict_pb2, prediction_service_pb2_grpc, regression_pb2,
)

channel = grpc.insecure_channel(sys.argv[1])
stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
models = model_service_pb2_grpc.ModelServiceStub(channel)
found = {}

def described(spec):
    return [spec.name, spec.version.value, spec.signature_name]

request = predict_pb2.PredictRequest()
request.model_spec.name = "fit"
request.model_spec.signature_name = "serving_default"
dims = [tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in (2, 13)]
request.inputs["x"].CopyFrom(tensor_pb2.TensorProto(
    dtype=types_pb2.DT_FLOAT, tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=dims), float_val=range(26),
))
response = stub.Predict(request, timeout=60)
[(name, output)] = response.outputs.items()
found["predict"] = [described(response.model_spec), types_pb2.DataType.Name(output.dtype), list(output.float_val),
                    [dim.size for dim in output.tensor_shape.dim]]
request.output_filter.append(name)
found["filtered"] = list(stub.Predict(request, timeout=60).outputs) == [name]
request.model_spec.version.value = 9
try:
    stub.Predict(request, timeout=60)
except grpc.RpcError as error:
    found["missing"] = [error.code().name, error.details()]

def example(**features):
    made = example_pb2.Example()
    for name, values in features.items():
        kind = {bytes: "bytes_list", int: "int64_list", float: "float_list"}[type(values[0])]
        getattr(made.features.feature[name], kind).value.extend(values)
    return made

graded = example(x=[0.5, 1.5], count=[7], sure=[1], tag=[b"abc"])
request = classification_pb2.ClassificationRequest()
request.model_spec.name = "grader"
request.input.example_list.examples.append(graded)
response = stub.Classify(request, timeout=60)
found["classify"] = [described(response.model_spec),
                     [[[each.label, each.score] for each in row.classes] for row in response.result.classifications]]

row = example(x=[float(number) for number in range(13)])
request = regression_pb2.RegressionRequest()
request.model_spec.name = "fit"
request.input.example_list_with_context.examples.append(example_pb2.Example())
request.input.example_list_with_context.context.CopyFrom(row)
response = stub.Regress(request, timeout=60)
found["regress"] = [each.value for each in response.result.regressions]

request = inference_pb2.MultiInferenceRequest()
for method in ("classify", "regress"):
    task = request.tasks.add(method_name="tensorflow/serving/" + method)
    task.model_spec.name = "fit"
request.input.example_list.examples.append(row)
response = stub.MultiInference(request, timeout=60)
found["multi"] = [[described(each.model_spec), each.WhichOneof("result")] for each in response.results]
found["multi_value"] = response.results[1].regression_result.regressions[0].value

request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
request.model_spec.name = "grader"
response = stub.GetModelMetadata(request, timeout=60)
signatures = get_model_metadata_pb2.SignatureDefMap()
assert response.metadata["signature_def"].Unpack(signatures)
signature = signatures.signature_def["serving_default"]
def told(tensors):
    return {name: [types_pb2.DataType.Name(each.dtype), [dim.size for dim in each.tensor_shape.dim], each.name]
            for name, each in tensors.items()}
found["metadata"] = [described(response.model_spec), told(signature.inputs), told(signature.outputs),
                     signature.method_name]

request = get_model_status_pb2.GetModelStatusRequest()
request.model_spec.name = "fit"
[status] = models.GetModelStatus(request, timeout=60).model_version_status
State = get_model_status_pb2.ModelVersionStatus.State
found["status"] = [status.version, State.Name(status.state), status.status.error_code, status.status.error_message]

request = model_management_pb2.ReloadConfigRequest()
request.config.model_config_list.config.add(name="m", base_path="/m", model_platform="tensorflow")
try:
    models.HandleReloadConfigRequest(request, timeout=60)
except grpc.RpcError as error:
    found["reload"] = error.code().name
give(found)
"""


def test_all_methods(served: RunningServer, fit_model: Path, tensorflow_clients: TensorflowClients) -> None:
    found = tensorflow_clients.run(SCRIPT, served.grpc_inference)
    weights = np.load(fit_model / "weights.npz")
    rows = np.arange(26, dtype=np.float32).reshape(2, 13)
    values = (rows @ weights["w"] + weights["b"]).ravel().tolist()
    fit, grader = ["fit", 1, "serving_default"], ["grader", 1, "serving_default"]
    assert found["predict"] == [fit, "DT_FLOAT", pytest.approx(values, rel=1e-5), [2, 1]]
    assert found["filtered"]
    assert found["missing"] == ["NOT_FOUND", "Servable not found for request: Specific(fit, 9)"]
    assert found["classify"] == [grader, [[["cat", 0.5], ["dog", 1.5], ["2", 10.0]]]]
    assert found["regress"] == pytest.approx(values[:1], rel=1e-5)
    assert found["multi"] == [[fit, "classification_result"], [fit, "regression_result"]]
    assert found["multi_value"] == pytest.approx(values[0], rel=1e-5)
    inputs = {
        "x": ["DT_FLOAT", [-1, 2], "x"],
        "count": ["DT_INT64", [-1, 1], "count"],
        "sure": ["DT_BOOL", [-1, 1], "sure"],
        "tag": ["DT_STRING", [-1, 1], "tag"],
    }
    outputs = {"scores": ["DT_FLOAT", [-1, 3], "scores"], "tag": inputs["tag"]}
    assert found["metadata"] == [["grader", 1, ""], inputs, outputs, "tensorflow/serving/predict"]
    assert found["status"] == [1, "AVAILABLE", 0, ""]
    assert found["reload"] == "FAILED_PRECONDITION"


RELOAD = """
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow_serving.apis import (
    get_model_status_pb2, model_management_pb2, model_service_pb2_grpc, predict_pb2, prediction_service_pb2_grpc,
)

channel = grpc.insecure_channel(sys.argv[1])
stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
models = model_service_pb2_grpc.ModelServiceStub(channel)
found = {}

def reload(base_path, versions=(), **labels):
    request = model_management_pb2.ReloadConfigRequest()
    config = request.config.model_config_list.config.add(name="fit", base_path=base_path, model_platform="tensorflow")
    if versions:
        config.model_version_policy.specific.versions.extend(versions)
    for label, version in labels.items():
        config.version_labels[label] = version
    try:
        return models.HandleReloadConfigRequest(request, timeout=60).status.error_code
    except grpc.RpcError as error:
        return error.code().name

def predict(**spec):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "fit"
    for name, value in spec.items():
        if name == "version":
            request.model_spec.version.value = value
        else:
            setattr(request.model_spec, name, value)
    request.inputs["x"].CopyFrom(tensor_pb2.TensorProto(
        dtype=types_pb2.DT_FLOAT, tensor_content=b"\\0\\0\\x80\\x40",
        tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=1)]),
    ))
    try:
        response = stub.Predict(request, timeout=60)
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    [output] = response.outputs.values()
    return [response.model_spec.version.value, output.float_val[0]]

folder = sys.argv[2]
found["at_first"] = [predict(), predict(version_label="new")]
found["reload"] = [reload(folder, [1, 2], new=2), reload(folder, [1, 2]), reload(folder, [1, 2], stable=1, new=2)]
found["by"] = [predict(), predict(version=1), predict(version_label="stable"), predict(version_label="new")]
request = get_model_status_pb2.GetModelStatusRequest()
request.model_spec.name = "fit"
response = models.GetModelStatus(request, timeout=60)
found["states"] = [[each.version, each.state] for each in response.model_version_status]
found["refused"] = [reload("/"), reload(folder, [1], new=7)]
found["moved"] = [reload(folder, [1, 2], stable=2), predict(version_label="stable"), predict(version_label="new")]
give(found)
"""


def test_reload_versions_and_labels(made_once: MadeOnce, tmp_path: Path, tensorflow_clients: TensorflowClients) -> None:
    site = Site(tmp_path, made_versions(made_once))
    for version in (1, 2):
        site.put(version)
    site.write(site.model("fit", "model_version_policy { specific { versions: 1 } }"))
    with site.start(f"--model_config_file={site.config}"):
        found = tensorflow_clients.run(RELOAD, f"localhost:{site.grpc_port}", site.folder / "fit")
    unknown = ["INVALID_ARGUMENT", "Unrecognized servable version label: new"]
    assert found["at_first"] == [[1, 3.0], unknown]
    assert found["reload"] == [0, 0, 0], "a new label may go to what is loaded with it"
    assert found["by"] == [[2, 4.0], [1, 3.0], [1, 3.0], [2, 4.0]]
    assert found["states"] == [[2, 30], [1, 30]]
    assert found["refused"] == ["PERMISSION_DENIED", "INVALID_ARGUMENT"]
    assert found["moved"] == [0, [2, 4.0], unknown]
