"""POST …:predict in JSON: {"instances": […]}, which is rows, or {"inputs": …}, which is columns, → a request.

Source: TensorFlow Serving's REST API. The usual case, one input and its numbers as nested lists, has typed decoders,
which do nearly all of it at once; what these do not take is read as JSON of any kind, and says what is wrong with it.
"""

from __future__ import annotations

import struct
from itertools import chain
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from pdserver.dialects.tensorflow.json_values import elements, is_bytes, loads, written
from pdserver.dialects.tensorflow.request import SIGNATURE, Asked, ServingRequest, check_signature, fitted, put_together
from pdserver.dialects.tensors import packed_numbers
from pdserver.errors import InvalidRequest
from pdserver.formats.values import listed, shown
from pdserver.types import Port, Tensor

_FLOATS = ("float32", "float64", "float16", "bfloat16")
_WHOLE = ("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64")


def read_predict(asked: Asked, text: bytes | memoryview) -> ServingRequest:
    """Raises InvalidRequest."""
    ports = asked.interface.inputs
    if len(ports) == 1 and (usual := _usual(asked, ports[0], text)):
        return usual
    given = loads(text)
    check_signature(signature_of(given))
    if "instances" in given:
        if "inputs" in given:
            raise InvalidRequest(
                f"JSON Value: {written(given)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
                "keys to exist"
            )
        columns = _columns_of_rows(ports, given["instances"])
        inputs = [_tensor(port, columns[port.name], "'instances'") for port in ports]
        return put_together(asked, inputs, form="row")
    if "inputs" not in given:
        raise InvalidRequest("Missing 'inputs' or 'instances' key")
    columns = _columns(ports, given["inputs"])
    return put_together(asked, [_tensor(port, columns[port.name], "'inputs'") for port in ports], form="column")


def signature_of(given: dict[str, Any]) -> str:
    """The name of the signature that a request asks for, or empty. Raises InvalidRequest."""
    name = given.get("signature_name", "")
    if not isinstance(name, str):
        raise InvalidRequest(
            f"JSON Value: {written(given)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def _decoder(element: type, depth: int) -> Any:
    """Reads requests with elements that are in so many lists."""
    nested: Any = element
    for _ in range(depth):
        nested = list[nested]
    fields = [("instances", nested | UnsetType, UNSET), ("inputs", nested | UnsetType, UNSET)]
    return msgspec.json.Decoder(
        msgspec.defstruct("Usual", [*fields, ("signature_name", str, SIGNATURE)], gc=False)
    ).decode


_DECODERS: dict[tuple[str, int], Any] = {
    (dtype, depth): decode
    for element, dtypes in ((float, _FLOATS), (int, _WHOLE))
    for depth in range(1, 5)
    for decode in (_decoder(element, depth),)
    for dtype in dtypes
}
"""By an input's dtype and rank."""


def _usual(asked: Asked, port: Port, text: bytes | memoryview) -> ServingRequest | None:
    """The request for a model with one input, if its numbers are nested as in that input's shape.

    Raises InvalidRequest for a shape that the model does not take.
    """
    wanted = port.shape
    decode = _DECODERS.get((port.dtype, len(wanted)))
    if decode is None:
        return None
    try:
        given = decode(text)
        rows = given.instances
        if (rows is UNSET) is (given.inputs is UNSET) or given.signature_name != SIGNATURE:
            return None
        is_row = rows is not UNSET
        values = rows if is_row else given.inputs
        shape = [len(values)]
        for _ in wanted[1:]:
            lengths = {*map(len, values)}
            if len(lengths) != 1:
                return None
            shape += lengths
            values = values[0] if len(values) == 1 else [*chain.from_iterable(values)]
        if not values:
            return None
        data = packed_numbers(port.dtype, values)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, struct.error, OverflowError):
        return None
    return put_together(asked, [Tensor(port.name, port.dtype, tuple(shape), data)], form="row" if is_row else "column")


def _tensor(port: Port, value: Any, where: str) -> Tensor:
    try:
        shape, data = elements(port.dtype, value)
    except InvalidRequest as error:
        raise InvalidRequest(f"Failed to process input '{port.name}' of {where}. Error: {error}") from None
    return Tensor(port.name, port.dtype, fitted(port, shape), data)


def _columns_of_rows(ports: list[Port], rows: Any) -> dict[str, list[Any]]:
    """The values of each input, row by row."""
    if not isinstance(rows, list):
        raise InvalidRequest(f"JSON Value: {written(rows)} Expecting 'instances' to be an list/array")
    if not rows:
        raise InvalidRequest("No values in 'instances' array")
    names = [port.name for port in ports]
    if not _is_named(rows[0]):
        if len(ports) > 1:
            raise InvalidRequest(
                "instances is a plain list, but expecting list of objects as multiple input tensors required: "
                f"{listed(names)}"
            )
        if (place := next((i for i, row in enumerate(rows) if _is_named(row)), None)) is not None:
            raise InvalidRequest(f"Expecting value/list but got object at item {place} of input list")
        return {names[0]: rows}
    wanted = {*names}
    for place, row in enumerate(rows):
        if not _is_named(row):
            raise InvalidRequest(f"Expecting object but got list at item {place} of input list")
        if row.keys() != wanted:
            raise InvalidRequest(
                f"Failed to process element: {place} of 'instances' list. JSON object: {written(row)} keys must be "
                f"equal to: {','.join(sorted(names))}"
            )
    return {name: [row[name] for row in rows] for name in names}


def _columns(ports: list[Port], given: Any) -> dict[str, Any]:
    if _is_named(given):
        if missing := [port.name for port in ports if port.name not in given]:
            raise InvalidRequest(f"Missing named input: {shown(missing[0])} in 'inputs' object.")
        return {port.name: given[port.name] for port in ports}
    if len(ports) > 1:
        raise InvalidRequest(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required: "
            f"{listed(port.name for port in ports)}"
        )
    return {ports[0].name: given}


def _is_named(value: Any) -> bool:
    return type(value) is dict and not is_bytes(value)
