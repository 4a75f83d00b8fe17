"""The values that come out of a pipeline → what the client gets.

A typed request gets tensors. An opaque one gets the only output as it is, or a JSON object of all of them: numbers as
nested lists, text as text, JSON as it is, and bytes as base64 text.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import orjson

from pdarchiver.pipeline.graph import Pipeline
from pdserver.dtypes import BYTES
from pdserver.engine.pipeline.requests import required
from pdserver.errors import InvalidRequest
from pdserver.formats.elements import packed
from pdserver.formats.values import listed, nearest, shown
from pdserver.handlers.runtime.classes import classified
from pdserver.pipeline.files import data_of, stacked
from pdserver.pipeline.values import JSON, Item, Value, Values
from pdserver.tensors import array
from pdserver.types import Interface, Output, Part, RelayedRequest, Reply, Request, Tensor

_MOST_CLASSIFIED_BYTES = 1024 * 1024
"""The front end sorts them, in some 10 ms at most."""


def reply_of(request: Request, outputs: Values, interface: Interface | None, declared: int) -> Reply:
    """`interface` is the pipeline's, and `declared` how many outputs it has: those that are not there do not change the
    form of the answer. Raises InvalidRequest for outputs that are asked for and not there, HandlerFailed
    for what can't be sent."""
    keep = isinstance(request, RelayedRequest)  # of another pipeline
    if request.typed:
        wanted = _wanted(request.outputs, outputs)
        return Reply(b"", "", tensors=[_asked(each, outputs[each.name], interface, keep=keep) for each in wanted])
    if declared == len(outputs) == 1:
        ((name, value),) = outputs.items()
        if isinstance(value, Item) and isinstance(value.given, Part):
            given = value.given
            return Reply(data_of(value, keep=keep), given.content_type, start=given.start, size=given.size)
        return Reply(_json(_plain(name, value)), JSON)
    return Reply(_json({name: _plain(name, value) for name, value in outputs.items()}), JSON)


def _wanted(asked: tuple[Output, ...], outputs: Values) -> Sequence[Output]:
    for output in asked:
        if not output.name:
            return [*map(Output, outputs)]
        if output.name not in outputs:
            raise InvalidRequest(
                f'output "{shown(output.name)}" is not there for this request, which has {listed(outputs)}'
                f"{nearest(output.name, outputs)}"
            )
    return asked or [*map(Output, outputs)]


def _asked(output: Output, value: Value, interface: Interface | None, *, keep: bool) -> Tensor:
    """The tensor, or the names of its likeliest classes."""
    if not output.classes:
        return _tensor(output.name, value, keep=keep)
    tensor = _tensor(output.name, value, keep=False)
    if len(tensor.data) > _MOST_CLASSIFIED_BYTES:
        raise InvalidRequest(
            f"output '{output.name}' has {len(tensor.data):,} bytes: of more than {_MOST_CLASSIFIED_BYTES:,}, no "
            "classes are named: leave its parameter 'classification' out"
        )
    ports = {port.name: port.labels for port in interface.outputs} if interface else {}
    batched = interface is not None and interface.batched
    return classified(output, array(tensor), ports.get(output.name, {}), batched=batched)


def _tensor(name: str, value: Value, *, keep: bool) -> Tensor:
    if isinstance(value, list):
        return stacked(name, value)
    given = value.given
    if isinstance(given, Part):
        return Tensor(name, BYTES, (1,), packed([bytes(data_of(value))]))
    return msgspec.structs.replace(given, name=name, data=data_of(value, keep=keep), file=-1)


def _json(plain: Any) -> bytes:
    return orjson.dumps(plain, option=orjson.OPT_SERIALIZE_NUMPY)


def _plain(name: str, value: Value) -> Any:
    """What `_json` writes for a value. Of arrays, it writes each number as short as its dtype allows."""
    if isinstance(value, list):
        return [_plain(name, item) for item in value]
    given = value.given
    if isinstance(given, Tensor):
        held = array(msgspec.structs.replace(given, data=data_of(value), file=-1))
        if held.dtype == object:
            return np.vectorize(_text, otypes=[object])(held).tolist() if held.size else held.tolist()
        return np.ascontiguousarray(held) if held.ndim else held[()]
    data = bytes(data_of(value))
    if given.content_type == JSON:
        return orjson.Fragment(data)
    if given.content_type.startswith("text/"):
        return data.decode(errors="replace")
    return base64.b64encode(data).decode()


def _text(element: bytes) -> str:
    return bytes(element).decode(errors="replace")


def described(pipeline: Pipeline) -> bytes:
    """What a pipeline says of itself: its inputs with their types, which of them may be left out, its outputs, and its
    nodes."""
    graph = pipeline.graph
    inputs = {name: str(kind) for name, kind in graph.inputs.items()}
    optional = [name for name in inputs if name not in required(graph)]
    nodes = [path for path, _ in graph.walk()]
    return orjson.dumps({"inputs": inputs, "optional": optional, "outputs": list(graph.outputs), "nodes": nodes})
