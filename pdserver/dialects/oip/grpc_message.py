"""ModelInferRequest → InferRequest: tensors that are raw, in typed `contents`, or in shared memory; and parameters.

Source: the Open Inference Protocol's and Triton's gRPC services.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pdserver.configuration.model import ModelSpec
from pdserver.dialects.base import Headers
from pdserver.dialects.oip.request import InferRequest, Shared, read_outputs, treatment, window
from pdserver.dialects.tensors import check, check_outputs, check_shape, dtype_of
from pdserver.dtypes import BYTES, DATATYPES
from pdserver.errors import InvalidRequest
from pdserver.formats.elements import packed
from pdserver.formats.values import shown
from pdserver.types import Interface, Parameter, Tensor

_FIELDS: Mapping[str, str] = {
    "bool": "bool_contents",
    "int8": "int_contents",
    "int16": "int_contents",
    "int32": "int_contents",
    "int64": "int64_contents",
    "uint8": "uint_contents",
    "uint16": "uint_contents",
    "uint32": "uint_contents",
    "uint64": "uint64_contents",
    "float32": "fp32_contents",
    "float64": "fp64_contents",
    BYTES: "bytes_contents",
}
"""The field of `contents` that holds the elements of a dtype. Other dtypes are always sent raw."""
_REGION = "shared_memory_region"
_EMPTY_FINAL = "triton_enable_empty_final_response"


def read_message(
    spec: ModelSpec,
    interface: Interface,
    message: Any,
    raw: Sequence[bytes | memoryview],
    headers: Headers,
    request_id: str,
    timeout_seconds: float,
) -> InferRequest:
    """`raw` are the message's raw_input_contents, wherever they are; `timeout_seconds` is the call's own timeout.

    What is in shared memory is still to be taken from there, by `Regions.settle`. Raises InvalidRequest.
    """
    shared: Shared = []
    inputs = _inputs(message, raw, shared)
    given = parameters(message.parameters)
    empty_final = given.pop(_EMPTY_FINAL, False) is True
    how = treatment(given, spec)
    wanted = ((item.name, parameters(item.parameters)) for item in message.outputs)
    outputs, forms = read_outputs(wanted, how, shared)
    check_outputs(spec, interface, outputs)
    return InferRequest(
        spec.name,
        spec.version,
        request_id,
        [*inputs],
        headers + how.headers,
        typed=True,
        outputs=outputs,
        parameters=how.parameters,
        rows=check(spec, interface, inputs),
        timeout_seconds=_earlier(how.timeout_seconds, timeout_seconds),
        priority=how.priority,
        sequence=how.sequence,
        own_id=bool(message.id),
        forms=forms,
        shared=shared,
        empty_final=empty_final,
    )


def parameters(given: Mapping[str, Any]) -> dict[str, Parameter]:
    """The values of a map of InferParameter. Raises InvalidRequest for one without a value."""
    return chosen(given, "parameter ")


def chosen(given: Mapping[str, Any], called: str = "") -> dict[str, Any]:
    """The values of a map of messages with a `parameter_choice`. Raises InvalidRequest for one without a value; the
    error puts `called` before its name."""
    found = {}
    for name, parameter in given.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidRequest(f"{called}'{shown(name)}' has no value")
        found[name] = getattr(parameter, kind)
    return found


def set_parameters(message: Any, given: Mapping[str, Parameter]) -> None:
    """Put values into a map of InferParameter."""
    for name, value in given.items():
        if isinstance(value, bool):
            message[name].bool_param = value
        elif isinstance(value, int):
            if value < 2**63:
                message[name].int64_param = value
            else:
                message[name].uint64_param = value
        elif isinstance(value, float):
            message[name].double_param = value
        else:
            message[name].string_param = value


def _inputs(message: Any, raw: Sequence[bytes | memoryview], shared: Shared) -> list[Tensor]:
    """The inputs of a ModelInferRequest; regions of shared memory are added to `shared`. Raises InvalidRequest."""
    model = message.model_name
    tensors: list[Tensor] = []
    left = iter(raw)
    for given in message.inputs:
        title = f"input '{shown(given.name)}' for model '{shown(model)}'"
        dtype = dtype_of(given.datatype, title)
        shape = check_shape(tuple(given.shape), title)
        if _REGION in given.parameters:
            region, tensor = _shared(given, dtype, shape, title)
            shared.append((len(tensors), region))
            tensors.append(tensor)
        elif not raw:
            tensors.append(Tensor(given.name, dtype, shape, _contents(given, dtype, title)))
        elif given.HasField("contents"):
            raise InvalidRequest(f"contents field must not be specified when using raw_input_contents for {title}")
        elif (data := next(left, None)) is None:
            raise InvalidRequest(f"raw_input_contents has {len(raw)} entries, and none for {title}")
        else:
            tensors.append(Tensor(given.name, dtype, shape, data))  # type: ignore[arg-type]
    if next(left, None) is not None:
        raise InvalidRequest(
            f"raw_input_contents has {len(raw)} entries, which is more than there are inputs for model"
            f" '{shown(model)}' that are not in shared memory"
        )
    return tensors


def _shared(given: Any, dtype: str, shape: tuple[int, ...], title: str) -> tuple[str, Tensor]:
    if given.HasField("contents"):
        raise InvalidRequest(f"{title} is in shared memory, and has contents, too: leave one of them out")
    region, offset, size = window(f"{title}: ", parameters(given.parameters))
    return region, Tensor(given.name, dtype, shape, b"", -1, offset, size)


def _contents(given: Any, dtype: str, title: str) -> bytes:
    """The elements that came as `contents`, as a tensor's data. Raises InvalidRequest."""
    fields = [field.name for field, _ in given.contents.ListFields()]
    if not fields:
        return b""
    expected = _FIELDS.get(dtype)
    if expected is None:
        raise InvalidRequest(f"{title}: {DATATYPES[dtype]} has no contents: send raw_input_contents")
    if fields != [expected]:
        raise InvalidRequest(f"{title}: elements of {DATATYPES[dtype]} are {expected}, not {', '.join(fields)}")
    values = getattr(given.contents, expected)
    if dtype == BYTES:
        return packed(values)
    held = np.dtype(dtype)
    wide = np.fromiter(values, np.int64 if held.kind == "i" else np.uint64 if held.kind == "u" else held, len(values))
    if held.kind in "iu" and held.itemsize < 4 and len(wide):
        bounds = np.iinfo(held)
        if wide.min() < bounds.min or wide.max() > bounds.max:
            raise InvalidRequest(f"{title}: {expected} has a number that is not a {DATATYPES[dtype]}")
    return wide.astype(held).tobytes()


def _earlier(first: float, second: float) -> float:
    """The shorter one of two timeouts, where 0 is none."""
    return min(first, second) if first and second else first or second
