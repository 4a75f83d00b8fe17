"""The old web service of Paddle Serving: rows in, and the outputs that the client names.

{"feed": [{"x": [...]}, ...], "fetch": ["price"]} → {"result": {"price": [[...], ...]}}

Each item of `feed` is one row, in any nesting: it comes to the model's shape, and the rows go as one batch. What is
wrong with the input is the result, as text. A handler that reads requests itself is given the one item as a form.

Source: WebService.get_prediction of Paddle Serving 0.9.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import orjson

from pdserver.dialects.base import Response
from pdserver.dialects.paddle.shapes import Shape, regular
from pdserver.dialects.paddle.web_request import (
    JSON,
    MOST_FIELDS,
    Known,
    Malformed,
    WebRequest,
    by_any_name,
    is_opaque,
    refused,
    said,
)
from pdserver.dialects.tensors import check, check_outputs, check_shape, from_values
from pdserver.dtypes import BYTES
from pdserver.errors import InvalidRequest, Kind, PdError
from pdserver.formats.values import listed, nearest, shown
from pdserver.tensors import array
from pdserver.types import Failure, Outcome, Output, Part, Port, Reply, Request, Tensor

Item = dict[str, msgspec.Raw]
"""The values of a row by name, as they are written."""

_feed = msgspec.json.Decoder(list[Item] | Item)
_fetch = msgspec.json.Decoder(list[str])
_text = msgspec.json.Decoder(str)
_value = msgspec.json.Decoder()


class _Complaint(InvalidRequest):
    """About the input of a request whose form nobody else knows: it is the result."""

    status = 200


def is_prediction(fields: dict[str, msgspec.Raw]) -> bool:
    """Whether a body is a request of the old service, rather than one of Pipeline's."""
    return ("feed" in fields or "fetch" in fields) and not fields.keys() & {"key", "tensors"}


def request_of(known: Known, fields: dict[str, msgspec.Raw]) -> WebRequest:
    """Raises Malformed for what is no request of the old service, InvalidRequest with the status 200 for its input."""
    if "fetch" not in fields or "feed" not in fields:
        missing = "fetch" if "feed" in fields else "feed"
        raise Malformed(f'the body has no "{missing}": expected {{"feed": [{{"INPUT": [...]}}], "fetch": ["OUTPUT"]}}')
    feed, fetch = _read(_feed, fields["feed"], "feed"), _read(_fetch, fields["fetch"], "fetch")
    items = [feed] if isinstance(feed, dict) else feed
    try:
        return _request(known, items, fetch)
    except Malformed:
        raise
    except InvalidRequest as error:
        raise _Complaint(str(error)) from None


def numbers_of(fields: dict[str, msgspec.Raw]) -> bytes:
    """The text of a request's numbers; empty unless it has one row and one input. Raises Malformed."""
    items = _read(_feed, fields.get("feed", msgspec.Raw(b"[]")), "feed")
    [item] = [items] if isinstance(items, dict) else items if len(items) == 1 else [{}]
    return bytes(next(iter(item.values()))) if len(item) == 1 else b""


def response_of(outcome: Outcome) -> Response:
    """The answer to a request that has been run, or was refused after it had been read."""
    if isinstance(outcome, Reply):
        try:
            return Response(outcome.status, JSON, _result(outcome))
        except PdError as error:
            outcome = Failure.of(error)
    return complaint(outcome) if outcome.kind is Kind.INVALID else refused(outcome)


def complaint(failure: Failure) -> Response:
    """What is wrong with the input, as the result."""
    return Response(200, JSON, orjson.dumps({"result": failure.message}))


def is_complaint(request: Request, failure: Failure) -> bool:
    """Whether the failure of a request that could not be read is about the input of the old service."""
    return failure.kind is Kind.INVALID and failure.status == _Complaint.status and not isinstance(request, WebRequest)


def _read(decoder: Any, data: msgspec.Raw, name: str) -> Any:
    try:
        return decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise Malformed(f'"{name}": {error}') from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f'"{name}" is not JSON: {error}') from None


def _request(known: Known, items: list[Item], fetch: list[str]) -> WebRequest:
    spec, interface = known.spec, known.interface
    if not items:
        raise InvalidRequest("empty input: feed has no rows")
    inputs: list[Part | Tensor]
    outputs: tuple[Output, ...] = ()
    rows = 1
    typed = not is_opaque(interface)
    if typed:
        ports = by_any_name(interface.outputs)
        outputs = tuple(Output(ports[name].name if name in ports else name) for name in fetch)
        check_outputs(spec, interface, outputs)
        tensors = _columns(interface.inputs, items)
        rows = check(spec, interface, tensors)
        inputs = [*tensors]
    elif len(items) == 1 and len(items[0]) > MOST_FIELDS:
        raise InvalidRequest(f"feed: the item has more than {MOST_FIELDS} fields")
    elif len(items) == 1:
        inputs = [_part(name, value) for name, value in items[0].items()]
    else:
        raise InvalidRequest(
            f"'{spec.name}' has a handler that takes one item a request, feed has {len(items)}: send them one by one"
        )
    return WebRequest(
        spec.name, spec.version, known.id, inputs, known.headers, typed=typed, outputs=outputs, rows=rows,
        timeout_seconds=known.timeout_seconds, form="prediction",
    )  # fmt: skip


def _columns(ports: list[Port], items: list[Item]) -> list[Tensor]:
    """The inputs, with a row for each item. Raises InvalidRequest."""
    named = by_any_name(ports)
    for item in items:
        for name in item:
            if name not in named:
                raise InvalidRequest(
                    f"feed: unknown input '{shown(name)}'{nearest(name, named)}; {listed(named)} are known"
                )
    return [
        _column(port, [_find(port, item, idx) for idx, item in enumerate(items)])
        for port in ports
        if not port.optional or any(_held(port, item) is not None for item in items)
    ]


def _held(port: Port, item: Item) -> msgspec.Raw | None:
    return next((item[name] for name in (port.name, port.source) if name and name in item), None)


def _find(port: Port, item: Item, idx: int) -> msgspec.Raw:
    value = _held(port, item)
    if value is not None:
        return value
    raise InvalidRequest(f"feed[{idx}]: '{port.name}' is missing; it has {listed(item)}")


def _column(port: Port, values: list[msgspec.Raw]) -> Tensor:
    shapes: list[Shape] = []
    flat: list[Any] = []
    for idx, value in enumerate(values):
        title = f"feed[{idx}], '{port.name}'"
        shape, elements = regular(title, _read(_value, value, title))
        shapes.append(_row(port, title, shape))
        flat += elements
    if len(set(shapes)) != 1:
        raise InvalidRequest(f"feed: the rows of '{port.name}' differ in shape: {listed(map(list, shapes))}")
    title = f"feed, '{port.name}'"
    whole = check_shape((len(values), *shapes[0]), title)
    return Tensor(port.name, port.dtype, whole, from_values(title, port.dtype, whole, flat))


def _row(port: Port, title: str, shape: Shape) -> Shape:
    """The shape of a row, whatever the nesting that it came in. Raises InvalidRequest."""
    if port.any_rank:
        return shape
    row = port.shape[1:]
    count = math.prod(shape)
    if -1 not in row and math.prod(row) == count:
        return row
    known = math.prod(length for length in row if length != -1)
    if row.count(-1) == 1 and known and count and count % known == 0 and len(shape) != len(row):
        return tuple(count // known if length == -1 else length for length in row)
    if len(shape) == len(row):
        return shape  # and `check` says what is wrong with it, if anything is
    raise InvalidRequest(f"{title}: {count} elements of shape {list(shape)} do not fit a row of shape {list(row)}")


def _part(name: str, value: msgspec.Raw) -> Part:
    """A text as text, anything else as the JSON that it is."""
    data = bytes(value)
    if data.startswith(b'"'):
        return Part(name, "text/plain", _read(_text, value, name).encode())
    return Part(name, "application/json", data)


def _result(reply: Reply) -> bytes:
    """Raises InvalidRequest for tensors whose data do not fit them."""
    result = {tensor.name: _listed(tensor) for tensor in reply.tensors} if reply.tensors else said(reply)
    return orjson.dumps({"result": result}, option=orjson.OPT_SERIALIZE_NUMPY)


def _listed(tensor: Tensor) -> Any:
    values = array(tensor)
    if tensor.dtype == BYTES:
        return np.vectorize(lambda item: item.decode(errors="replace"), otypes=[object])(values).tolist()
    return values if values.ndim else values.item()
