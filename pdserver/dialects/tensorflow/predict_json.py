"""POST …:predict in JSON: {"instances": […]}, which is rows, or {"inputs": …}, which is columns, → a request.

Source: TensorFlow Serving's REST API.
"""

from __future__ import annotations

from typing import Any

from pdserver.dialects.tensorflow.json_values import elements, is_bytes, loads, written
from pdserver.dialects.tensorflow.request import Asked, ServingRequest, check_signature, fitted, put_together
from pdserver.errors import InvalidRequest
from pdserver.formats.values import listed, shown
from pdserver.types import Port, Tensor


def read_predict(asked: Asked, text: bytes | memoryview) -> ServingRequest:
    """Raises InvalidRequest."""
    ports = asked.interface.inputs
    given = loads(text)
    check_signature(signature_of(given))
    if "instances" in given:
        if "inputs" in given:
            raise InvalidRequest(
                f"JSON Value: {written(given)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
                "keys to exist"
            )
        columns = _columns_of_rows(ports, given["instances"])
        return put_together(asked, _tensors(ports, columns, "'instances'"), form="row")
    if "inputs" not in given:
        raise InvalidRequest("Missing 'inputs' or 'instances' key")
    columns = _columns(ports, given["inputs"])
    return put_together(asked, _tensors(ports, columns, "'inputs'"), form="column")


def signature_of(given: dict[str, Any]) -> str:
    """The name of the signature that a request asks for, or empty. Raises InvalidRequest."""
    name = given.get("signature_name", "")
    if not isinstance(name, str):
        raise InvalidRequest(
            f"JSON Value: {written(given)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def _tensors(ports: list[Port], columns: dict[str, Any], where: str) -> list[Tensor]:
    return [_tensor(port, columns[port.name], where) for port in ports if port.name in columns]


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
        needed = _needed(ports)
        if len(needed) > 1:
            raise InvalidRequest(
                "instances is a plain list, but expecting list of objects as multiple input tensors required: "
                f"{listed(needed)}"
            )
        if (place := next((i for i, row in enumerate(rows) if _is_named(row)), None)) is not None:
            raise InvalidRequest(f"Expecting value/list but got object at item {place} of input list")
        return {needed[0]: rows}
    wanted = {port.name for port in ports if not port.optional or port.name in rows[0]}
    for place, row in enumerate(rows):
        if not _is_named(row):
            raise InvalidRequest(f"Expecting object but got list at item {place} of input list")
        if row.keys() != wanted:
            raise InvalidRequest(
                f"Failed to process element: {place} of 'instances' list. JSON object: {written(row)} keys must be "
                f"equal to: {','.join(sorted(wanted))}"
            )
    return {name: [row[name] for row in rows] for name in names if name in wanted}


def _columns(ports: list[Port], given: Any) -> dict[str, Any]:
    if _is_named(given):
        if missing := [port.name for port in ports if port.name not in given and not port.optional]:
            raise InvalidRequest(f"Missing named input: {shown(missing[0])} in 'inputs' object.")
        return {port.name: given[port.name] for port in ports if port.name in given}
    needed = _needed(ports)
    if len(needed) > 1:
        raise InvalidRequest(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required: "
            f"{listed(needed)}"
        )
    return {needed[0]: given}


def _needed(ports: list[Port]) -> list[str]:
    """The inputs that a value without a name can stand for: if all of them are optional, any of them."""
    return [port.name for port in ports if not port.optional] or [port.name for port in ports]


def _is_named(value: Any) -> bool:
    return type(value) is dict and not is_bytes(value)
