"""Classify, Regress and MultiInference of PredictionService: tf.Examples in, labels and scores or values out.

Source: prediction_service.proto, and multi_inference.cc for the texts of errors.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from pdserver.dialects.codec import LARGE_BYTES, Codec
from pdserver.dialects.protos import decode, message_class
from pdserver.dialects.protos.wire import field
from pdserver.dialects.rpc import Code, Message, RpcCall, RpcError
from pdserver.dialects.tensorflow.calls import IN_PIECES, asked_by
from pdserver.dialects.tensorflow.errors import rpc_error
from pdserver.dialects.tensorflow.examples_json import LongContext, scores_of
from pdserver.dialects.tensorflow.examples_message import classified, cut, read_input, regressed
from pdserver.dialects.tensorflow.message_large import examples_elsewhere
from pdserver.dialects.tensorflow.model_spec import answered_by
from pdserver.dialects.tensorflow.request import SIGNATURE, Asked, Form, ServingRequest
from pdserver.dialects.tensorflow.served import Models
from pdserver.engine.catalogue import InferenceEngine
from pdserver.errors import InvalidRequest, Unsupported
from pdserver.formats.values import shown
from pdserver.memory_file import MemoryFile
from pdserver.types import Failure, Interface, Tensor

FORMS: dict[str, Form] = {"tensorflow/serving/classify": "classify", "tensorflow/serving/regress": "regress"}
"""By the methods' names."""
_Classification = message_class("tensorflow.serving.ClassificationRequest")
_Regression = message_class("tensorflow.serving.RegressionRequest")
_MultiInference = message_class("tensorflow.serving.MultiInferenceRequest")
_RESULT, _MODEL_SPEC, _RESULTS = b"\x0a", b"\x12", b"\x0a"
"""Of ClassificationResponse and RegressionResponse; of MultiInferenceResponse."""
_RESULT_OF = {"classify": b"\x12", "regress": b"\x1a"}
"""Of InferenceResult, whose model_spec comes first."""


class ExampleMethods:
    """`limit_bytes`: of a context, in all examples together.

    All raise PdError, and RpcError.
    """

    def __init__(self, engine: InferenceEngine, models: Models, codec: Codec, limit_bytes: int) -> None:
        self._engine = engine
        self._models = models
        self._codec = codec
        self._limit_bytes = limit_bytes

    async def classify(self, data: Message, call: RpcCall) -> bytes:
        return await self._answer(_Classification, data, call, "classify")

    async def regress(self, data: Message, call: RpcCall) -> bytes:
        return await self._answer(_Regression, data, call, "regress")

    async def multi_inference(self, data: Message, call: RpcCall) -> bytes:
        rest, given = cut(data, _MultiInference.DESCRIPTOR.full_name)
        tasks = decode(_MultiInference, rest).tasks
        forms = _forms_of(tasks)
        if not forms:
            return b""
        asked = asked_by(self._models, tasks[0], call)
        for form in forms:
            scores_of(asked.interface, form)
        scores = await self._scores(asked, given, forms[0])
        spec = b"".join(field(b"\x0a", answered_by(asked.spec.name, asked.spec.version)))
        results = [b"".join([spec, *field(_RESULT_OF[form], _result(form, scores, asked.interface))]) for form in forms]
        return b"".join([b"".join(field(_RESULTS, result)) for result in results])

    async def _answer(self, message_class: Any, data: Message, call: RpcCall, form: Form) -> bytes:
        rest, given = cut(data, message_class.DESCRIPTOR.full_name)
        asked = asked_by(self._models, decode(message_class, rest), call)
        result = _result(form, await self._scores(asked, given, form), asked.interface)
        spec = answered_by(asked.spec.name, asked.spec.version)
        return b"".join([*field(_RESULT, result), *field(_MODEL_SPEC, spec)])

    async def _scores(self, asked: Asked, given: bytes, form: Form) -> Tensor:
        """What the model answers to an Input."""
        outcome = await self._engine.ask(*await self._read(asked, given, form))
        if isinstance(outcome, Failure):
            raise rpc_error(outcome)
        if not outcome.tensors:
            raise Unsupported(IN_PIECES)
        return outcome.tensors[0]

    async def _read(self, asked: Asked, given: bytes, form: Form) -> tuple[ServingRequest, list[MemoryFile]]:
        if len(given) < LARGE_BYTES:
            with suppress(LongContext):
                return read_input(asked, given, form, LARGE_BYTES), []
        return await examples_elsewhere(self._codec, asked, given, form, self._limit_bytes)


def _result(form: Form, scores: Tensor, interface: Interface) -> bytes:
    """Raises InvalidRequest for an output that is none of that form."""
    return classified(scores, scores_of(interface, form).labels) if form == "classify" else regressed(scores)


def _forms_of(tasks: Any) -> list[Form]:
    """What is asked of the one model of these tasks. Raises InvalidRequest, RpcError."""
    forms: list[Form] = []
    specs = {(task.model_spec.name, task.model_spec.version.value, task.model_spec.version_label) for task in tasks}
    if "" in {name for name, *_ in specs}:
        raise InvalidRequest("Found ModelSpec with an empty model name.")
    if len(specs) > 1:
        raise InvalidRequest("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    for task in tasks:
        signature = task.model_spec.signature_name
        if signature not in ("", SIGNATURE):
            raise InvalidRequest(f"Requested signature not found in model graph: {shown(signature)}")
        form = FORMS.get(task.method_name)
        if form is None:
            raise RpcError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {shown(task.method_name)}")
        if form in forms:
            raise InvalidRequest(f"Duplicate evaluation of signature: {SIGNATURE}, as {task.method_name}")
        forms.append(form)
    return forms
