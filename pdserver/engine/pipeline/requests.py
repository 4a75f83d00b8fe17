"""What a client sent → the values that go into a pipeline.

A typed request has tensors by the names of the pipeline's inputs. An opaque one has parts by these names, or one body:
the value of the only input, or a JSON object of all of them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

import msgspec

from pdarchiver.pipeline import types
from pdarchiver.pipeline.graph import Graph, Type
from pdserver.dtypes import BYTES
from pdserver.errors import InvalidRequest
from pdserver.formats import strict_json
from pdserver.formats.values import listed, nearest, shown
from pdserver.pipeline.files import element
from pdserver.pipeline.values import BINARY, JSON, TEXT, Item, Parts, Value, is_json, numbers
from pdserver.tensors import tensor
from pdserver.types import Part, Request, Tensor

_BODIES = ("body", "data")
"""The names of a request of one piece."""
_BYTES = Type("bytes")
_TEXT_TYPES = ("application/json", "text/")
_NAMED = ("bytes", "text", "list")
"""Kinds of an only input that a JSON object may name: no object is one of them itself."""


def required(graph: Graph) -> frozenset[str]:
    """The inputs without which a node or an output of the graph has nothing."""
    sources = [source for node in graph.nodes.values() for source in node.inputs.values()]
    return frozenset(
        source.refs[0].name
        for source in (*sources, *graph.outputs.values())
        if len(source.refs) == 1 and not source.refs[0].node and not source.optional
    )


def values_of(
    request: Request, items: list[Item], inputs: Mapping[str, Type], needed: frozenset[str]
) -> dict[str, Value]:
    """`items` are the request's inputs; `inputs` are the pipeline's, and `needed` those that must be there.

    Raises InvalidRequest for unknown and missing inputs, and for what does not fit their types.
    """
    for name, kind in inputs.items():
        if kind.kind == "parts":
            return {name: Parts(_as_part(item) for item in items)}
    values = None
    if not request.typed and len(items) == 1:
        values = _whole(items[0], inputs)
    if values is None:
        values = {item.given.name: _of_type(item.given.name, _kind(item.given.name, inputs), item) for item in items}
    if missing := needed - values.keys():
        raise InvalidRequest(f"input {listed(sorted(missing))} is missing: this pipeline takes {listed(inputs)}")
    return values


def is_taken_apart(given: Part | Tensor, inputs: Mapping[str, Type]) -> bool:
    """Whether `values_of` may take JSON apart that an opaque request has as this input."""
    if isinstance(given, Tensor):
        return False
    kind = inputs.get(given.name)
    if kind is None:  # the whole body: of several inputs, it is an object
        only = next(iter(inputs.values())) if len(inputs) == 1 else None
        return only is None or only.kind == "tensor" or (only.kind in _NAMED and is_json(given.content_type))
    return kind.kind == "tensor"


def _as_part(item: Item) -> Item:
    return _opaque(item.given.name, _BYTES, item) if isinstance(item.given, Tensor) else item


def _kind(name: str, inputs: Mapping[str, Type]) -> Type:
    kind = inputs.get(name)
    if kind is None:
        raise InvalidRequest(
            f'"{shown(name)}" is no input of this pipeline, whose inputs are {listed(inputs)}{nearest(name, inputs)}'
        )
    return kind


def _whole(item: Item, inputs: Mapping[str, Type]) -> dict[str, Value] | None:
    """The inputs that a single body stands for; None when it is one input, by its name."""
    given = item.given
    if not isinstance(given, Part) or given.name in inputs or given.name not in _BODIES:
        return None
    only = next(iter(inputs)) if len(inputs) == 1 else None
    if only is not None and inputs[only].kind != "tensor" and not _is_named(item, given, only, inputs[only]):
        return {only: _of_type(only, inputs[only], item)}
    try:
        value = _json(item, "the body")
    except InvalidRequest as error:
        if only is not None:
            raise
        raise InvalidRequest(
            f"this pipeline takes {listed(inputs)}: send a form with a part for each, or a JSON object; {error}"
        ) from None
    if only is not None and not (isinstance(value, dict) and only in value):
        return {only: _of_json(only, inputs[only], value)}
    if not isinstance(value, dict):
        raise InvalidRequest(f"the body is JSON, but no object: send one with the inputs {listed(inputs)}")
    return {name: _of_json(name, _kind(name, inputs), each) for name, each in value.items()}


def _is_named(item: Item, given: Part, only: str, kind: Type) -> bool:
    """Whether a body is a JSON object of the only input by its name, where that takes no objects itself."""
    if kind.kind not in _NAMED or not is_json(given.content_type):
        return False
    if item.data.lstrip()[:1] != b"{":
        return False
    value = _json(item, "the body")
    return isinstance(value, dict) and value.keys() == {only}


def _json(item: Item, what: str) -> object:
    try:
        return strict_json.loads(item.data)
    except strict_json.InvalidJson as error:
        raise InvalidRequest(f"{what} is not valid JSON: {error}") from None


def _of_type(name: str, kind: Type, item: Item) -> Value:
    given = item.given
    if isinstance(given, Tensor):
        if kind.kind not in ("tensor", "any", "list"):
            return _opaque(name, kind, item)
        if kind.dtype not in ("", given.dtype):
            raise InvalidRequest(f'input "{name}" has dtype {given.dtype}: expected {kind.dtype}')
        return item
    if kind.kind == "tensor":
        return _of_json(name, kind, _json(item, f'input "{name}"'))
    if kind.kind == "any" or (kind.kind == "bytes" and not given.content_type.startswith(_TEXT_TYPES)):
        return item
    content_type = {"bytes": BINARY, "text": TEXT}.get(kind.kind, JSON)
    return item._replace(given=msgspec.structs.replace(given, content_type=content_type))


def _opaque(name: str, kind: Type, item: Item) -> Item:
    """The one element of a tensor of bytes."""
    given = item.given
    assert isinstance(given, Tensor)  # noqa: S101
    count = 1
    for length in given.shape:
        count *= length
    if given.dtype != BYTES or count != 1:
        raise InvalidRequest(
            f'input "{name}" is {kind.kind}: send a tensor of one element of dtype bytes (BYTES, DT_STRING), not'
            f" {given.dtype} of shape {list(given.shape)}"
        )
    return element(item, name, {"bytes": BINARY, "text": TEXT}.get(kind.kind, JSON))


def _of_json(name: str, kind: Type, value: object) -> Value:
    if kind.kind == "text":
        if not isinstance(value, str):
            found = shown(msgspec.json.encode(value).decode())
            raise InvalidRequest(f'input "{name}" is text: expected a string, got {found}')
        return Item(Part(name, TEXT, value.encode()))
    if kind.kind == "bytes":
        if not isinstance(value, str):
            raise InvalidRequest(f'input "{name}" is bytes: send them as a part of a multipart form, or base64 text')
        return Item(Part(name, BINARY, _from_base64(name, value)))
    if kind.kind != "tensor":
        return Item(Part(name, JSON, msgspec.json.encode(value)))
    try:
        array = numbers(value, kind.dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidRequest(
            f'input "{name}": expected nested lists of {kind.dtype or "numbers"} of equal lengths: {error}'
        ) from None
    if not types.fits(Type("tensor", kind.dtype, array.shape), kind):
        raise InvalidRequest(f'input "{name}": expected {kind}, got shape {list(array.shape)}')
    return Item(tensor(name, array, kind.dtype or None))


def _from_base64(name: str, value: str) -> bytes:
    try:
        return base64.b64decode(value.encode(), validate=True)
    except (ValueError, UnicodeEncodeError):
        raise InvalidRequest(f'input "{name}" is bytes: expected base64 text') from None
