"""A request to a model, put together from what JSON or a message says.

Both give objects with the attributes of Paddle Serving's messages: a request has `tensor`, `fetch_var_names`,
`profile_server` and `log_id`; each tensor has `name`, `alias_name`, `elem_type`, `shape` and `lod`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from pdserver.configuration.model import ModelSpec
from pdserver.dialects.base import Headers
from pdserver.dialects.paddle.elem_types import CONTENT, FIELDS, ElemType, described, of_input, of_number
from pdserver.dialects.tensors import check, check_outputs, check_shape
from pdserver.dtypes import BYTES
from pdserver.errors import InvalidRequest
from pdserver.formats.elements import packed
from pdserver.formats.values import nearest, shown
from pdserver.tensors import byte_size
from pdserver.types import Interface, Output, Port, Request, Tensor

_MOST_NAMES = 1000
"""Of tensors and of outputs in one request: reading a tensor takes a while, however short it is."""
Shape = tuple[int, ...]
ReadData = Callable[[Any, ElemType, str], bytes | list[bytes]]
"""Gives the elements of one of these tensors: numbers as the data of a `Tensor`, strings one by one. Takes the tensor,
its type, and what errors call it. Raises InvalidRequest."""


def microseconds() -> int:
    """Since 1970."""
    return time.time_ns() // 1000


class GeneralRequest(Request, frozen=True, array_like=True, gc=False):
    """A request of this protocol, with what only the writer of its answer needs."""

    in_json: bool = False
    accepts: bytes = b""
    """The client's Accept-Encoding."""
    log_id: int = 0
    profiled: bool = False
    """Whether the answer tells when each step began and ended."""
    began_us: int = 0
    """When reading it began and ended, in microseconds since 1970; the latter only if the request is profiled."""
    read_us: int = 0
    sources: dict[str, str] = msgspec.field(default_factory=dict)
    """Public name → the model's own, of the outputs for which they differ."""


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """All that is known of a request beside its body."""

    spec: ModelSpec
    interface: Interface
    headers: Headers
    request_id: str
    in_json: bool = False
    accepts: bytes = b""
    timeout_seconds: float = 0.0
    began_us: int = msgspec.field(default_factory=microseconds)


def put_together(asked: Asked, given: Any, read_data: ReadData) -> GeneralRequest:
    """Raises InvalidRequest."""
    spec, interface = asked.spec, asked.interface
    if len(given.tensor) + len(given.fetch_var_names) > _MOST_NAMES:
        raise InvalidRequest(f"the request has more than {_MOST_NAMES} tensors and fetch_var_names")
    inputs = [_input(spec, interface, tensor, read_data) for tensor in given.tensor]
    outputs = tuple([Output(_public(name, interface.outputs)) for name in given.fetch_var_names])
    check_outputs(spec, interface, outputs)
    if not 0 <= given.log_id < 2**64:
        raise InvalidRequest(f"log_id {shown(given.log_id)}: expected a whole number from 0 to {2**64 - 1}")
    rows = check(spec, interface, inputs)
    return GeneralRequest(
        spec.name,
        spec.version,
        asked.request_id,
        [*inputs],
        asked.headers,
        typed=True,
        outputs=outputs,
        rows=rows,
        timeout_seconds=asked.timeout_seconds,
        in_json=asked.in_json,
        accepts=asked.accepts,
        log_id=given.log_id,
        profiled=given.profile_server,
        began_us=asked.began_us,
        read_us=microseconds() if given.profile_server else 0,
        sources={port.name: port.source for port in interface.outputs if port.source},
    )


def _input(spec: ModelSpec, interface: Interface, given: Any, read_data: ReadData) -> Tensor:
    port = _port(spec, interface.inputs, given.alias_name, given.name)
    title = f"input '{port.name}' of model '{spec.name}'"
    kind = of_number(given.elem_type, title)
    if kind.dtype != port.dtype:
        expected = of_input(port.dtype)
        wanted = described(expected) if expected else f"{port.dtype}, which this protocol does not have"
        raise InvalidRequest(f"{title}: elem_type is {described(kind)}, the model takes {wanted}")
    shape = check_shape(given.shape, title)
    if given.lod:
        shape = _of_equal_rows(shape, given.lod, port, title)
    shape = _whole(shape, port, interface, title)
    return Tensor(port.name, port.dtype, shape, _sized(read_data(given, kind, title), kind, shape, title))


def _sized(held: bytes | list[bytes], kind: ElemType, shape: Shape, title: str) -> bytes:
    """The data of a tensor. Raises InvalidRequest for another number of elements than the shape has."""
    count = math.prod(shape)
    if isinstance(held, list):
        wanted, said = count, f"{count} strings"
    else:
        wanted = byte_size(kind.dtype, shape) or 0
        said = f"{count} elements of {kind.dtype}, {wanted} bytes"
    if len(held) != wanted:
        hint = "" if shape else " (the tensor has no shape, so it is one number)"
        raise InvalidRequest(f"{title}: shape {list(shape)} takes {said}; {len(held)} came{hint}")
    return packed(held) if isinstance(held, list) else held


def _port(spec: ModelSpec, ports: Sequence[Port], alias: str, name: str) -> Port:
    """The input that is meant: clients send its public name as the alias and the model's own as the name; people mix
    them up, and leave both out where there is one input. Raises InvalidRequest."""
    for given, attribute in ((alias, "name"), (name, "source"), (name, "name"), (alias, "source")):
        if given:
            for port in ports:
                if getattr(port, attribute) == given:
                    return port
    if not (alias or name) and len(ports) == 1:
        return ports[0]
    known = [port.name for port in ports]
    if alias or name:
        given = alias or name
        said = f"model '{spec.name}' has no input '{shown(given)}'{nearest(given, known)}"
    else:
        said = f"a tensor has neither alias_name nor name, and model '{spec.name}' has {len(ports)} inputs"
    raise InvalidRequest(f"{said}; its inputs are {_with_own_names(ports)}")


def _public(name: str, ports: Sequence[Port]) -> str:
    """The public name of an output that is asked for by either of its names; an unknown one as it is."""
    for port in ports:
        if port.name == name:
            return name
    return next((port.name for port in ports if port.source and port.source == name), name)


def _with_own_names(ports: Sequence[Port]) -> str:
    return ", ".join(f"{port.name} (the model's {port.source})" if port.source else port.name for port in ports)


def _whole(shape: Shape, port: Port, interface: Interface, title: str) -> Shape:
    """The shape with its batch. Raises InvalidRequest where a client has left that out.

    Only strings may do without: HttpClient sends texts as a list of rows.
    """
    if not interface.batched or port.any_rank or len(shape) != len(port.shape) - 1:
        return shape
    if port.dtype == BYTES and len(shape) == 1 and port.shape[1] in (1, -1):
        return (*shape, 1)
    raise InvalidRequest(
        f"{title}: shape {list(shape)} has no batch: the number of rows is the first axis, as in "
        f"{[1, *shape]} for one row (batch=False of Paddle Serving's clients adds it)"
    )


def _of_equal_rows(shape: Shape, lod: Sequence[int], port: Port, title: str) -> Shape:
    """The shape of rows that lie one after the other, which `lod` cuts into pieces of one length.

    Raises InvalidRequest for pieces of different lengths.
    """
    rows = len(lod) - 1
    length = lod[1] if rows > 0 else 0
    if not shape or rows < 1 or list(lod) != [row * length for row in range(rows + 1)] or lod[-1] != shape[0]:
        raise InvalidRequest(
            f"{title}: lod {shown(list(lod))} is refused: rows of different lengths (LoD) are not supported; send rows "
            "of one length, padded, with a mask or their lengths as an input of its own, and no lod"
        )
    return shape if port.any_rank or len(shape) == len(port.shape) else (rows, length, *shape[1:])


def unusual(given: Any, kind: ElemType, title: str, read_content: Callable[[Any], bytes]) -> bytes:
    """The elements of a tensor whose usual field is empty: they may be as they are in memory, or there are none.

    Raises InvalidRequest if another field has them.
    """
    others = [name for name in FIELDS if getattr(given, name)]
    if not others:
        return b""
    if others == [CONTENT] and kind.dtype != BYTES:
        return read_content(given.tensor_content)
    raise InvalidRequest(f"{title}: elements of elem_type {described(kind)} are {kind.field}, not {', '.join(others)}")
