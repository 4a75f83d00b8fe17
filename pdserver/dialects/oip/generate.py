"""Triton's generate extension: plain JSON instead of tensors, in and out.

Keys that are the names of inputs become tensors, the others parameters; those of a nested "parameters" count like
those beside it. A list is one row, or all the model takes; an answer of one element is written without a list.
"""

from __future__ import annotations

import math
from typing import Any

import orjson

from pdserver.configuration.model import ModelSpec
from pdserver.dialects.base import Headers
from pdserver.dialects.oip.request import InferRequest, treatment
from pdserver.dialects.tensors import check, check_shape, from_values, to_json
from pdserver.errors import InvalidRequest
from pdserver.formats.values import shown
from pdserver.types import Interface, Part, Port, Reply, Tensor

_DEPTH = 32


def read_generation(
    spec: ModelSpec, interface: Interface, headers: Headers, given: dict[str, Any], request_id: str
) -> InferRequest:
    """Raises InvalidRequest."""
    nested = given.get("parameters", {})
    own_id = given.get("id", "")
    if not isinstance(nested, dict):
        raise InvalidRequest(f"'parameters' is {shown(nested)}: expected an object")
    if not isinstance(own_id, str):
        raise InvalidRequest(f"'id' is {shown(own_id)}: expected text")
    flat = {name: value for name, value in given.items() if name not in ("parameters", "id")} | nested
    ports = {port.name: port for port in interface.inputs}
    inputs = [_tensor(ports[name], interface, value) for name, value in flat.items() if name in ports]
    asked = treatment({name: value for name, value in flat.items() if name not in ports}, spec)
    rows = check(spec, interface, inputs)
    tensors: list[Part | Tensor] = [*inputs]
    return InferRequest(
        spec.name,
        spec.version,
        own_id or request_id,
        tensors,
        headers + asked.headers,
        typed=True,
        parameters=asked.parameters,
        rows=rows,
        timeout_seconds=asked.timeout_seconds,
        priority=asked.priority,
        sequence=asked.sequence,
        own_id=bool(own_id),
    )


def generated(request: InferRequest, reply: Reply) -> bytes:
    """The JSON of one response. Raises InvalidRequest for outputs that JSON can't have."""
    answer: dict[str, Any] = {"id": request.id} if request.own_id else {}
    answer |= {"model_name": request.model, "model_version": request.version}
    for tensor in reply.tensors:
        values = to_json(tensor)
        single = tensor.shape.count(1) == len(tensor.shape)
        answer[tensor.name] = orjson.Fragment(values[1:-1] if single else values)
    return orjson.dumps(answer)


def event(data: bytes | memoryview) -> bytes:
    """A server-sent event."""
    return b"".join((b"data: ", data, b"\n\n"))


def _tensor(port: Port, interface: Interface, value: Any) -> Tensor:
    title = f"input '{port.name}'"
    shape = _shape(value)
    one = (1, *port.shape[1:]) if interface.batched else port.shape
    if len(shape) < 2 and (fitting := _filled(one, shape[0] if shape else 1)):
        shape = fitting
    elif interface.batched and len(shape) == len(port.shape) - 1:
        shape = (1, *shape)
    check_shape(shape, title)
    return Tensor(port.name, port.dtype, shape, from_values(title, port.dtype, shape, value))


def _filled(shape: tuple[int, ...], count: int) -> tuple[int, ...] | None:
    """`shape` with its open axes set so that it has `count` elements: the last one as long as needed, the others 1.

    None when that is not possible."""
    found = [1 if length == -1 else length for length in shape]
    if -1 in shape:
        last = len(shape) - 1 - shape[::-1].index(-1)
        found[last] = count // (math.prod(found) or 1)
    return tuple(found) if math.prod(found) == count else None


def _shape(value: Any) -> tuple[int, ...]:
    """By the first elements alone; `from_values` counts them all."""
    shape: list[int] = []
    while isinstance(value, list) and len(shape) < _DEPTH:
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape)
