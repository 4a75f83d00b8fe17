"""Reads the graph of a Paddle model's file, without importing paddle.

Source of PIR's form: paddle/fluid/pir/serialize_deserialize (schema.h).
"""

from __future__ import annotations

import json
from typing import Any

from pdarchiver import graph_legacy
from pdarchiver.errors import InvalidModel
from pdarchiver.graph import Graph, Operation, Shape

_PARAMETER = "p"
_BUILT_IN, _PADDLES = ("0", "builtin"), ("1", "pd_op")
"""The names of dialects in the two spellings of the format."""
_INPUT, _OUTPUT = "data", "fetch"


def read(data: bytes) -> Graph:
    """The graph in the bytes of a .json or .pdmodel file. Raises InvalidModel if there is none."""
    try:
        return _pir(data) if data[:1] == b"{" else graph_legacy.read(data)
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration, RecursionError) as error:
        raise InvalidModel(f"its operations cannot be read: {type(error).__name__}: {str(error)[:200]}") from None


def _pir(data: bytes) -> Graph:
    graph = Graph()
    for operation in json.loads(data)["program"]["regions"][0]["blocks"][0]["ops"]:
        results = operation["O"] if isinstance(operation["O"], list) else [operation["O"]]
        outputs = [result["%"] for result in results]
        for result in results:
            if (shape := _shape(result["TT"])) is not None:
                graph.shapes[result["%"]] = shape
        if operation["#"] == _PARAMETER:
            graph.parameters.add(outputs[0])
            continue
        kind = _kind(operation["#"])
        attributes = {given["N"]: _plain(given["AT"]) for given in operation["A"]}
        inputs = [operand["%"] or None for operand in operation["I"]]
        if kind == _INPUT:
            graph.inputs[attributes["name"]] = outputs[0]
        elif kind == _OUTPUT:
            graph.outputs[attributes["name"]] = operation["I"][0]["%"]
        else:
            changes = [value for value in inputs if value] if kind.endswith("_") else _changed_within(operation)
            graph.operations.append(Operation(kind.removesuffix("_"), inputs, outputs, attributes, changes))
    return graph


def _kind(name: str) -> str:
    """The operation's kind. One of a library keeps its dialect, so that it is not taken for one of Paddle's."""
    dialect, _, kind = name.partition(".")
    if dialect in _PADDLES:
        return kind
    return f"builtin.{kind}" if dialect in _BUILT_IN else name


def _shape(value_type: dict[str, Any]) -> Shape | list[Shape] | None:
    if value_type["#"] == "0.t_dtensor":
        return tuple(int(length) for length in value_type["D"][1])
    if value_type["#"] == "0.t_vec":
        shapes = [_shape(item) for item in value_type["D"]]
        found = [shape for shape in shapes if isinstance(shape, tuple)]
        return found if len(found) == len(shapes) else None
    return None


def _plain(attribute: dict[str, Any]) -> Any:
    value: Any = attribute.get("D")
    return [item.get("D") for item in value] if attribute["#"] == "0.a_array" else value


def _changed_within(operation: dict[str, Any]) -> list[int]:
    """The values that the operation's own blocks may write to. They may use other names for its operands."""
    found: list[int] = []
    for region in operation.get("regions", ()):
        for block in region["blocks"]:
            for inner in block["ops"]:
                found += _changed_within(inner)
                if inner["#"].endswith("_"):
                    found += [operand["%"] for operand in [*inner["I"], *operation["I"]]]
    return found
