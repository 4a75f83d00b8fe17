"""An .onnx file → its graph, in ONNX's own words.

An operation's kind is its name in ONNX, with the domain before it unless that is ONNX's own: else a library's operation
could be taken for one of ONNX's. Weights are stepped over; where a tensor has few elements, its numbers are read, since
shapes are among them. What the file says of shapes between operations is not read: engines find them themselves.

Source: onnx/onnx.proto.
"""

from __future__ import annotations

import math
import struct
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pdarchiver import onnx_model
from pdarchiver.errors import InvalidModel
from pdarchiver.graph import Graph, Id, Operation, Tensor
from pdarchiver.onnx_wire import GRAPH, INITIALIZER, NODE, OPSETS, TENSOR_NAME, Reader, signed, whole_numbers
from pdarchiver.wire import varint

_VERSIONS = range(7, 26)
"""Of ONNX's own operations: those whose meaning is known here. Before the first one, operands had axes."""
_CHANGED = {"Softmax": 13, "LogSoftmax": 13, "Hardmax": 13}
"""Operations that mean something else since a version. The earlier one's kind has "-1" after its name."""
_OWN_DOMAINS = ("", "ai.onnx")
_MAX_NUMBERS = 64
_MAX_OPERATIONS = 100_000
"""With constants. An operation of two bytes takes a kilobyte in memory."""
_NODE_INPUT, _NODE_OUTPUT, _NODE_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_ATTRIBUTE_NAME, _ATTRIBUTE_TYPE = 1, 20
_FLOAT, _INT, _STRING, _TENSOR, _FLOATS, _INTS = 1, 2, 3, 4, 6, 7
_FIELDS = {_FLOAT: 2, _INT: 3, _STRING: 4, _TENSOR: 5, _FLOATS: 7, _INTS: 8}
"""An attribute's type → the field with its value."""
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_RAW, _TENSOR_FILE, _TENSOR_PLACE = 1, 2, 9, 13, 14
_FORMS = {1: ("f", 4), 6: ("i", 5), 7: ("q", 7), 9: ("?", 5), 11: ("d", 10)}
"""The type of a tensor's elements → how struct calls it, and the field with the elements if they are not raw."""


def read(path: Path) -> Graph:
    """The model's outermost graph. Raises InvalidModel, OSError."""
    with path.open("rb") as file:
        try:
            reader = Reader(file)
            signature, graph = onnx_model.signature_in(reader), _graph(reader)
        except (ValueError, LookupError, struct.error) as error:
            raise InvalidModel(f"its operations cannot be read: {str(error)[:200]}") from None
    graph.inputs = {spec.source: spec.source for spec in signature.inputs}
    graph.shapes = {spec.source: spec.shape for spec in signature.inputs}
    _check_names(graph)
    for number, spec in enumerate(signature.outputs):  # each a value of its own, of the shape that the file says
        graph.operations.append(Operation("Identity", (spec.source,), (number,)))
        graph.outputs[spec.source], graph.shapes[number] = number, spec.shape
    return graph


def _graph(reader: Reader) -> Graph:
    version = _version(reader)
    constants, operations = list[Operation](), list[Operation]()
    for data in reader.all(reader.data, GRAPH):
        for number, value in reader.fields(data):
            if len(constants) + len(operations) > _MAX_OPERATIONS:
                raise ValueError(f"they are more than {_MAX_OPERATIONS:,}")
            if number == INITIALIZER:
                name = reader.text(value, TENSOR_NAME)
                constants.append(Operation("Constant", (), (name,), {"value": _tensor(reader, value)}))
            elif number == NODE:
                operations.append(_operation(reader, value, version))
    return Graph([*constants, *operations])


def _version(reader: Reader) -> int:
    """Of ONNX's own operations. Raises ValueError for one that is not known."""
    found = set()
    for opset in reader.all(reader.data, OPSETS):
        if reader.text(opset, _OPSET_DOMAIN) in _OWN_DOMAINS:
            found.add(_number(reader.all(opset, _OPSET_VERSION)))
    if len(found) != 1 or not found <= set(_VERSIONS):
        said = " and ".join(map(str, sorted(found))) or "no version"
        raise ValueError(f"they are of ONNX's operator set {said}; {_VERSIONS[0]} to {_VERSIONS[-1]} are known")
    return found.pop()


def _operation(reader: Reader, data: memoryview, version: int) -> Operation:
    parts = _parts(reader, data)
    kind, domain = _text(parts[_NODE_TYPE]), _text(parts[_NODE_DOMAIN])
    if domain not in _OWN_DOMAINS:
        kind = f"{domain}.{kind}"
    elif version < _CHANGED.get(kind, 0):
        kind = f"{kind}-1"
    given = [_attribute(reader, value) for value in parts[_NODE_ATTRIBUTE]]
    attributes = dict(given)
    if len(attributes) < len(given):
        raise ValueError(f"an operation {kind} has two attributes of one name")
    inputs: list[Id | list[Id] | None] = [str(name, "utf-8") or None for name in parts[_NODE_INPUT]]
    return Operation(kind, inputs, [str(name, "utf-8") for name in parts[_NODE_OUTPUT]], attributes)


def _attribute(reader: Reader, data: memoryview) -> tuple[str, Any]:
    """Its name, and its value: `...` for one of another type, and for long lists."""
    parts = _parts(reader, data)
    kind = _number(parts[_ATTRIBUTE_TYPE])
    values = parts[_FIELDS.get(kind, 0)]
    return _text(parts[_ATTRIBUTE_NAME]), _value(reader, kind, values)


def _value(reader: Reader, kind: int, values: list[memoryview]) -> Any:
    found: Any = None
    if kind == _INT:
        found = _number(values)
    elif kind == _INTS:
        found = whole_numbers(values, _MAX_NUMBERS)
    elif kind == _STRING:
        found = _text(values)
    elif kind == _FLOATS:
        found = _unpacked("f", values)
    elif kind == _FLOAT:
        [found] = _unpacked("f", values[-1:]) or [0.0]
    elif kind == _TENSOR and len(values) == 1:
        found = _tensor(reader, values[0])
    return ... if found is None else found


def _tensor(reader: Reader, data: memoryview) -> Tensor:
    """Raises ValueError for lengths that cannot be."""
    parts = _parts(reader, data)
    dims = whole_numbers(parts[_TENSOR_DIMS], _MAX_NUMBERS)
    if dims is None or any(length < 0 for length in dims):
        raise ValueError("a tensor's lengths cannot be read")
    return Tensor(tuple(dims), _elements(parts, math.prod(dims)))


def _elements(parts: dict[int, list[memoryview]], count: int) -> Sequence[float] | None:
    """None for many, for those of other types, and for those in a file of their own."""
    code, field = _FORMS.get(_number(parts[_TENSOR_TYPE]), ("", 0))
    if not code or count > _MAX_NUMBERS or parts[_TENSOR_FILE] or parts[_TENSOR_PLACE]:
        return None
    found: Sequence[float] | None
    if parts[_TENSOR_RAW]:
        found = _unpacked(code, parts[_TENSOR_RAW][-1:])
    elif code in "fd":
        found = _unpacked(code, parts[field])
    else:
        found = whole_numbers(parts[field], _MAX_NUMBERS)
    return found if found is not None and len(found) == count else None


def _unpacked(code: str, values: list[memoryview]) -> Sequence[float] | None:
    """None for more than _MAX_NUMBERS, and for what is not a whole number of them."""
    size = struct.calcsize(f"<{code}")
    if any(len(value) % size for value in values) or sum(map(len, values)) > size * _MAX_NUMBERS:
        return None
    return [number for value in values for (number,) in struct.iter_unpack(f"<{code}", value)]


def _parts(reader: Reader, data: memoryview) -> dict[int, list[memoryview]]:
    """A message's fields by their number."""
    found = defaultdict[int, list[memoryview]](list)
    for number, value in reader.fields(data):
        found[number].append(value)
    return found


def _number(values: list[memoryview]) -> int:
    return signed(varint(values[-1], 0)[0]) if values else 0


def _text(values: list[memoryview]) -> str:
    return str(values[-1], "utf-8") if values else ""


def _check_names(graph: Graph) -> None:
    """Raises InvalidModel if a name stands for two values."""
    names = [*graph.inputs.values(), *(name for made in graph.operations for name in made.outputs if name)]
    if len(set(map(str, names))) < len(names):
        raise InvalidModel("its operations cannot be read: two of its values have the same name")
