"""POST …:classify and …:regress in JSON: {"examples": […], "context": {…}} → a request.

Source: TensorFlow Serving's REST API. An example maps features to a value or a flat list of values, as a tf.Example
does; the features of the context are those of every example. A feature is the input of its name; others are ignored,
as where an Example is parsed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pdserver.dialects.tensorflow.data_types import DATA_TYPES
from pdserver.dialects.tensorflow.json_values import elements, loads, written
from pdserver.dialects.tensorflow.predict_json import signature_of
from pdserver.dialects.tensorflow.request import (
    Asked,
    Form,
    ServingRequest,
    check_signature,
    flat_fitted,
    put_together,
)
from pdserver.dtypes import DATATYPES
from pdserver.errors import InvalidRequest
from pdserver.formats.values import listed, shown
from pdserver.types import Interface, Output, Port, Tensor

_VALUE_BYTES = 8
"""What a number or a text takes at least while it is read."""


class LongContext(InvalidRequest):
    """The features of the context are those of so many examples that they take more bytes than they may."""


def read_examples(asked: Asked, text: bytes | memoryview, form: Form, most_bytes: int) -> ServingRequest:
    """The context may have `most_bytes` in all examples together. Raises InvalidRequest, LongContext."""
    given = loads(text)
    check_signature(signature_of(given))
    examples = given.get("examples")
    if examples is None:
        raise InvalidRequest(
            f"JSON Value: {written(given)} When method is {form}, key 'examples' is expected and was not found"
        )
    if not isinstance(examples, list):
        raise InvalidRequest(f"JSON Value: {written(given)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise InvalidRequest("JSON Value: 'examples' value is an empty array")
    ports = asked.interface.inputs
    context = _example(given.get("context", {}))
    context = {port.name: context[port.name] for port in ports if port.name in context}
    inputs = inputs_of(ports, rows_of(context, len(examples), map(_example, examples), most_bytes))
    return put_together(asked, inputs, (Output(scores_of(asked.interface, form).name),), form)


def scores_of(interface: Interface, form: Form) -> Port:
    """The output that has the scores, or the values. Raises InvalidRequest if that can't be told."""
    numbers = [port for port in interface.outputs if "float" in port.dtype]
    if len(numbers) == 1:
        return numbers[0]
    outputs = listed(f"{port.name} ({DATATYPES.get(port.dtype, port.dtype)})" for port in interface.outputs)
    raise InvalidRequest(
        f"the model can't {form}: that needs exactly one output of floating-point numbers; its outputs are {outputs}. "
        "Use predict"
    )


def rows_of(
    context: Mapping[str, Any], count: int, examples: Iterable[Mapping[str, Any]], most_bytes: int
) -> list[dict[str, Any]]:
    """The features of each of `count` examples. Raises LongContext."""
    size = _bytes_of(context)
    if size * count > most_bytes:
        raise LongContext(
            f"the context has {size:,} bytes, and {count:,} examples have all of them: {most_bytes:,} bytes at most"
        )
    return [{**context, **example} for example in examples]


def _bytes_of(context: Mapping[str, Any]) -> int:
    """Of the values, however they are nested."""
    size, values = 0, [*context.values()]
    while values:
        value = values.pop()
        size += _VALUE_BYTES
        if isinstance(value, list):
            values += value
        elif isinstance(value, dict):
            values += value.values()
        elif isinstance(value, str | bytes):
            size += len(value)
    return size


def inputs_of(ports: Sequence[Port], rows: list[dict[str, Any]]) -> list[Tensor]:
    """The inputs, each of the feature of its name in all examples. Raises InvalidRequest."""
    return [_input(port, rows) for port in ports if not (port.optional and all(port.name not in row for row in rows))]


def _example(given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise InvalidRequest(f"Example must be JSON object but got JSON {written(given)}")
    return given


def _input(port: Port, rows: list[dict[str, Any]]) -> Tensor:
    name = port.name
    if missing := [place for place, row in enumerate(rows) if name not in row]:
        raise InvalidRequest(
            f"Example {missing[0]}, Feature: {shown(name)} (data type: {DATA_TYPES[port.dtype].word}) is required but "
            "could not be found."
        )
    lists = [_values(row[name]) for row in rows]
    if port.dtype != "bool":
        lists = [[int(value) if isinstance(value, bool) else value for value in values] for values in lists]
    try:
        shape, data = elements(port.dtype, lists)
    except InvalidRequest as error:
        raise InvalidRequest(f"Feature: {shown(name)}: {error}") from None
    return Tensor(name, port.dtype, flat_fitted(port, shape), data)


def _values(feature: Any) -> list[Any]:
    return feature if isinstance(feature, list) else [feature]
