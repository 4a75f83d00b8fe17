"""The calls over gRPC."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import orjson

from pdserver.client.answers import ModelMetadata, ServerMetadata, TensorMetadata
from pdserver.client.arrays import Arrays, Inputs, Wire, from_wire, to_wires
from pdserver.client.calls import Call, Parameter, Parameters, opaque, sendable
from pdserver.client.errors import InvalidInput
from pdserver.client.http_calls import MODELS_A_PAGE, models_page
from pdserver.dialects.protos import message_class

T = TypeVar("T")
_OPEN_INFERENCE = ("inference", "GRPCInferenceService")
_PREDICTIONS = ("org.pytorch.serve.grpc.inference", "InferenceAPIsService")
_MANAGEMENT = ("org.pytorch.serve.grpc.management", "ManagementAPIsService")


def _call(service: tuple[str, str], method: str, request: Any, response: str, parse: Callable[[Any], T]) -> Call[T]:
    package, name = service
    message = message_class(f"{package}.{response}")
    path = f"/{package}.{name}/{method}"
    return Call("POST", path, lambda answer: parse(message.FromString(answer.body)), request.SerializeToString())


def _message(service: tuple[str, str], kind: str, /, **fields: object) -> Any:
    """Leaves out fields that are None. Raises InvalidInput for an unknown field, or a value that it can't hold."""
    try:
        return message_class(f"{service[0]}.{kind}")(**{k: v for k, v in fields.items() if v is not None})
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{kind}: {error}") from None


# The inference port


def infer(
    model: str, inputs: Inputs, version: str | None, outputs: Sequence[str], parameters: Parameters, request_id: str
) -> Call[Arrays]:
    wires = to_wires(inputs)
    request = _message(
        _OPEN_INFERENCE,
        "ModelInferRequest",
        model_name=model,
        model_version=version,
        id=request_id,
        inputs=[{"name": wire.name, "datatype": wire.datatype, "shape": wire.shape} for wire in wires],
        outputs=[{"name": name} for name in outputs],
        raw_input_contents=[bytes(wire.data) for wire in wires],
    )
    for name, value in parameters.items():
        setattr(request.parameters[name], _field(value), value)
    return _call(_OPEN_INFERENCE, "ModelInfer", request, "ModelInferResponse", _arrays)


def _field(value: Parameter) -> str:
    if isinstance(value, bool):
        return "bool_param"
    if isinstance(value, int):
        return "int64_param"
    return "double_param" if isinstance(value, float) else "string_param"


def _arrays(response: Any) -> Arrays:
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    return {
        output.name: from_wire(Wire(output.name, output.datatype, list(output.shape), data)) for output, data in pairs
    }


def predict(model: str, data: object, version: str | None, headers: Mapping[str, str]) -> Call[bytes]:
    body, _ = opaque(data)
    request = _message(
        _PREDICTIONS, "PredictionsRequest", model_name=model, model_version=version, input={"body": body}
    )
    call = _call(_PREDICTIONS, "Predictions", request, "PredictionResponse", lambda answer: bytes(answer.prediction))
    return msgspec.structs.replace(call, headers=sendable(headers))


def live() -> Call[bool]:
    request = _message(_OPEN_INFERENCE, "ServerLiveRequest")
    return _call(_OPEN_INFERENCE, "ServerLive", request, "ServerLiveResponse", lambda answer: bool(answer.live))


def ready(model: str | None, version: str | None) -> Call[bool]:
    if model is None:
        request, kind = _message(_OPEN_INFERENCE, "ServerReadyRequest"), "ServerReady"
    else:
        request, kind = _message(_OPEN_INFERENCE, "ModelReadyRequest", name=model, version=version), "ModelReady"
    return _call(_OPEN_INFERENCE, kind, request, f"{kind}Response", lambda answer: bool(answer.ready))


def server_metadata() -> Call[ServerMetadata]:
    request = _message(_OPEN_INFERENCE, "ServerMetadataRequest")
    return _call(_OPEN_INFERENCE, "ServerMetadata", request, "ServerMetadataResponse", _server_metadata)


def _server_metadata(answer: Any) -> ServerMetadata:
    return ServerMetadata(answer.name, answer.version, list(answer.extensions))


def model_metadata(model: str, version: str | None) -> Call[ModelMetadata]:
    request = _message(_OPEN_INFERENCE, "ModelMetadataRequest", name=model, version=version)
    return _call(_OPEN_INFERENCE, "ModelMetadata", request, "ModelMetadataResponse", _model_metadata)


def _tensor_metadata(tensor: Any) -> TensorMetadata:
    parameters = {
        name: getattr(value, value.WhichOneof("parameter_choice") or "string_param")
        for name, value in tensor.parameters.items()
    }
    return TensorMetadata(tensor.name, tensor.datatype, list(tensor.shape), parameters)


def _model_metadata(answer: Any) -> ModelMetadata:
    inputs, outputs = ([_tensor_metadata(tensor) for tensor in tensors] for tensors in (answer.inputs, answer.outputs))
    return ModelMetadata(answer.name, list(answer.versions), answer.platform, inputs, outputs)


# The management port


def register(url: str, parameters: Parameters) -> Call[str]:
    return _manage("RegisterModel", _words, url=url, **{"synchronous": True, **parameters})


def scale(model: str, version: str | None, parameters: Parameters) -> Call[str]:
    return _manage("ScaleWorker", _words, model_name=model, model_version=version, **parameters)


def set_default(model: str, version: str) -> Call[str]:
    return _manage("SetDefault", _words, model_name=model, model_version=version)


def unregister(model: str, version: str | None) -> Call[str]:
    return _manage("UnregisterModel", _words, model_name=model, model_version=version)


def describe(model: str, version: str | None) -> Call[list[dict[str, Any]]]:
    return _manage("DescribeModel", orjson.loads, model_name=model, model_version=version)


def models(page: str) -> Call[tuple[dict[str, str], str]]:
    return _manage("ListModels", models_page, limit=MODELS_A_PAGE, next_page_token=int(page) if page else None)


def _manage(method: str, parse: Callable[[str], T], **fields: object) -> Call[T]:
    """The fields are the parameters of the REST call. The answer is that call's text."""
    request = _message(_MANAGEMENT, f"{method}Request", **fields)
    return _call(_MANAGEMENT, method, request, "ManagementResponse", lambda answer: parse(answer.msg))


def _words(text: str) -> str:
    return text
