"""TensorFlow Serving over gRPC: tensorflow.serving.PredictionService and ModelService.

Source: prediction_service.proto and model_service.proto; and get_model_metadata_impl.cc, get_model_status_impl.cc and
model_service_impl.cc for the texts of errors.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from google.protobuf.json_format import ParseDict

from pdserver.dialects.codec import Codec
from pdserver.dialects.protos import decode, message_class
from pdserver.dialects.rpc import Code, Message, Prediction, RpcCall, Service, Unary
from pdserver.dialects.tensorflow import needs
from pdserver.dialects.tensorflow.calls import IN_PIECES
from pdserver.dialects.tensorflow.errors import rpc_error
from pdserver.dialects.tensorflow.examples_methods import ExampleMethods
from pdserver.dialects.tensorflow.metadata import metadata_json
from pdserver.dialects.tensorflow.model_spec import meant, spec_of
from pdserver.dialects.tensorflow.predict import Predictions
from pdserver.dialects.tensorflow.served import Models
from pdserver.dialects.tensorflow.versions import number
from pdserver.engine.catalogue import InferenceEngine
from pdserver.errors import InvalidRequest, PdError, TooLarge
from pdserver.formats.values import listed, shown
from pdserver.security import changes
from pdserver.security.access import PREDICTION, Need
from pdserver.types import Failure

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"
_SIGNATURES = message_class("tensorflow.serving.SignatureDefMap")
_SIGNATURE_DEF = "signature_def"
_MAX_BYTES = 1024 * 1024
"""Of messages that bring no inputs."""
_Fill = Callable[[Any, Any, RpcCall], Coroutine[Any, Any, None]]
"""Takes a request and fills its response."""
_Method = Callable[[Message, RpcCall], Coroutine[Any, Any, bytes]]


class GrpcServices:
    """The methods."""

    def __init__(
        self, engine: InferenceEngine, models: Models, codec: Codec, *, as_content: bool, limit_bytes: int
    ) -> None:
        self._engine = engine
        self._models = models
        self._predictions = Predictions(models, codec, as_content=as_content, limit_bytes=limit_bytes)
        self._examples = ExampleMethods(engine, models, codec, limit_bytes)

    def services(self) -> Sequence[Service]:
        given, examples = self._predictions, self._examples
        predicting = {
            "Classify": (examples.classify, PREDICTION),
            "Regress": (examples.regress, PREDICTION),
            "MultiInference": (examples.multi_inference, PREDICTION),
            "GetModelMetadata": (_method("GetModelMetadata", self.metadata), needs.METADATA),
        }
        models = {
            "GetModelStatus": (_method("GetModelStatus", self.status), needs.STATUS),
            "HandleReloadConfigRequest": (_method("ReloadConfig", self.reload), needs.CONFIG),
        }
        predict = Prediction(given.read, given.write, self._engine.submit, PREDICTION, IN_PIECES)
        return [
            Service(PREDICTION_SERVICE, {"Predict": predict, **_with_codes(predicting)}),
            Service(MODEL_SERVICE, _with_codes(models)),
        ]

    async def metadata(self, request: Any, response: Any, _: RpcCall) -> None:
        spec_of(request)
        if not request.metadata_field:
            raise InvalidRequest("GetModelMetadataRequest must specify at least one metadata_field")
        for name in request.metadata_field:
            if name != _SIGNATURE_DEF:
                raise InvalidRequest(f"Metadata field {shown(name)} is not supported: the one is {_SIGNATURE_DEF}")
        served = meant(self._models, request)
        signatures = ParseDict(metadata_json(served)["metadata"][_SIGNATURE_DEF], _SIGNATURES())
        response.model_spec.name = served.spec.name
        if (version := number(served.spec.version)) is not None:
            response.model_spec.version.value = version
        response.metadata[_SIGNATURE_DEF].Pack(signatures)

    async def status(self, request: Any, response: Any, _: RpcCall) -> None:
        spec = spec_of(request)  # its label does not matter
        version = str(spec.version.value) if spec.HasField("version") else ""
        for status in self._models.statuses(spec.name, version):
            told = response.model_version_status.add(version=status.version, state=status.state)
            told.status.error_code, told.status.error_message = status.code, status.message

    async def reload(self, request: Any, response: Any, call: RpcCall) -> None:
        if request.config.WhichOneof("config") != "model_config_list":
            raise InvalidRequest(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
                "supported"
            )
        await self._models.control.reload(request.config)
        names = listed(config.name for config in request.config.model_config_list.config)
        changes.note(call.client, call.token, f"Models configured anew: {names}")
        response.status.error_code = Code.OK


def _method(name: str, fill: _Fill) -> _Method:
    request_class, response_class = (
        message_class(f"tensorflow.serving.{name}{end}") for end in ("Request", "Response")
    )

    async def method(data: Message, call: RpcCall) -> bytes:
        if len(data) > _MAX_BYTES:
            raise TooLarge(f"the message has {len(data):,} bytes: at most {_MAX_BYTES:,} here")
        response = response_class()
        await fill(decode(request_class, data), response, call)
        return bytes(response.SerializeToString())

    return method


def _with_codes(methods: Mapping[str, tuple[_Method, Need]]) -> dict[str, Unary]:
    """The methods, their errors with this protocol's codes."""
    return {name: Unary(_coded(method), need) for name, (method, need) in methods.items()}


def _coded(method: _Method) -> _Method:
    async def coded(data: Message, call: RpcCall) -> bytes:
        try:
            return await method(data, call)
        except PdError as error:
            raise rpc_error(Failure.of(error)) from None

    return coded
