"""An inference request's body → a Request.

Source: the Open Inference Protocol and Triton's extensions: binary tensor data, classification, shared memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from pdserver.dialects.base import Body, Headers
from pdserver.dialects.codec import LARGE_BYTES
from pdserver.dialects.oip import inference_json
from pdserver.dialects.oip.inference_json import NO_DATA, Input, LooseInput, read_head
from pdserver.dialects.oip.parameters import Treatment, treatment, truth, whole
from pdserver.dialects.oip.source import Source
from pdserver.dialects.tensors import check, check_outputs, check_shape, dtype_of, from_json, from_values
from pdserver.errors import InvalidRequest
from pdserver.formats.values import shown
from pdserver.tensors import BYTES
from pdserver.types import Interface, ModelSpec, Output, Part, Request, Tensor

Shared = list[tuple[int, str]]
"""The regions of shared memory that a request names, each with the input's place whose window is `start` and `size` of
its tensor, or -1 for an output, which has its own."""
_ALL: list[Output] = []
_ALL_BINARY = [Output("", binary=True)]


class InferRequest(Request, frozen=True, array_like=True, gc=False):
    """With what only the answer's writer needs to know; workers don't read it."""

    own_id: bool = False
    """Whether the client gave the id: then it gets it back."""
    accepts: bytes = b""
    """The client's Accept-Encoding."""
    shared: Shared = msgspec.field(default_factory=list)


def read_request(
    spec: ModelSpec,
    interface: Interface,
    headers: Headers,
    body: Body,
    head_bytes: int | None,
    request_id: str,
    accepts: bytes,
) -> InferRequest:
    """`head_bytes` is how much of the body is JSON: None, all of it; 0, none, for it is one input's data.

    What is in shared memory is still to be taken from there, by `Regions.settle`. Raises InvalidRequest.
    """
    source = Source(spec.name, body, head_bytes)
    inputs: list[Tensor]
    if head_bytes == 0:
        inputs = [source.raw(spec, interface)]
        asked = treatment(None, spec)
        outputs = _ALL_BINARY
        own_id = None
    else:
        head = read_head(source.json())
        items: Sequence[Input | LooseInput] = head.inputs
        inputs = [_tensor(item, place, source) for place, item in enumerate(items)]
        source.check_end()
        asked = treatment(head.parameters, spec)
        outputs = _ALL_BINARY if asked.binary_output else _ALL
        if head.outputs:
            outputs = _outputs(head.outputs, asked, source.shared)
            check_outputs(spec, interface, outputs)
        own_id = head.id
    rows = check(spec, interface, inputs)
    if source.files:
        body.kept.extend(source.files)
    given: list[Part | Tensor] = [*inputs]
    return InferRequest(
        spec.name,
        spec.version,
        own_id or request_id,
        given,
        headers + asked.headers if asked.headers else headers,
        "",
        "predict",
        [file.fd for file in source.files] if source.files else [],
        "",
        outputs,
        asked.parameters,
        rows,
        asked.timeout_seconds,
        asked.priority,
        bool(own_id),
        accepts,
        source.shared,
    )


def is_long(head_bytes: int | None, interface: Interface) -> bool:
    """Whether it takes long to read a large body: much of it is JSON, or it has to be copied."""
    if head_bytes == 0:
        return any(port.dtype == BYTES for port in interface.inputs)
    return head_bytes is None or head_bytes >= LARGE_BYTES


def _tensor(given: Input | LooseInput, place: int, source: Source) -> Tensor:
    name = given.name
    title = f"input '{shown(name)}'"
    dtype = dtype_of(given.datatype, title)
    shape = check_shape(given.shape, title)
    parameters = given.parameters or {}
    size = parameters.get("binary_data_size")
    in_region = parameters.get("shared_memory_region") is not None
    if (given.data is not NO_DATA) + (size is not None) + in_region != 1:
        raise InvalidRequest(
            f"{title} must have exactly one of 'data', the parameter 'binary_data_size' and the parameter "
            "'shared_memory_region'"
        )
    if size is not None:
        return source.take(name, dtype, shape, whole("binary_data_size", size, f"{title}: "))
    if in_region:
        region, offset, size = window(f"{title}: ", parameters)
        source.shared.append((place, region))
        return Tensor(name, dtype, shape, b"", -1, offset, size)
    if isinstance(given, Input):
        return Tensor(name, dtype, shape, from_json(title, dtype, shape, given.data))
    return Tensor(name, dtype, shape, from_values(title, dtype, shape, given.data))


def _outputs(wanted: list[inference_json.Output], asked: Treatment, shared: Shared) -> list[Output]:
    return [
        output(item.name, item.parameters, asked, shared)
        if item.parameters
        else Output(item.name, binary=asked.binary_output)
        for item in wanted
    ]


def output(name: str, parameters: dict[str, Any], asked: Treatment, shared: Shared) -> Output:
    """What is asked for of an output; a region of shared memory is added to `shared`. Raises InvalidRequest."""
    title = f"output '{shown(name)}': "
    classes = whole("classification", parameters.get("classification", 0), title)
    binary = parameters.get("binary_data")
    if "classification" in parameters and not classes:
        raise InvalidRequest(f"{title}parameter 'classification' is 0: expected the number of classes, from 1")
    if parameters.get("shared_memory_region") is None:
        return Output(name, classes, asked.binary_output if binary is None else truth("binary_data", binary, title))
    if classes or binary:
        raise InvalidRequest(
            f"{title}shared memory can't be combined with 'classification' or 'binary_data': leave one of them out"
        )
    region, offset, size = window(title, parameters)
    shared.append((-1, region))
    return Output(name, 0, False, region, offset, size)


def window(title: str, parameters: dict[str, Any]) -> tuple[str, int, int]:
    """The region, offset and size of a tensor in shared memory. Raises InvalidRequest."""
    region = parameters["shared_memory_region"]
    if not isinstance(region, str):
        raise InvalidRequest(f"{title}parameter 'shared_memory_region' is {shown(region)}: expected a region's name")
    if "shared_memory_byte_size" not in parameters:
        raise InvalidRequest(f"{title}'shared_memory_region' needs the parameter 'shared_memory_byte_size'")
    size = whole("shared_memory_byte_size", parameters["shared_memory_byte_size"], title)
    return region, whole("shared_memory_offset", parameters.get("shared_memory_offset", 0), title), size
