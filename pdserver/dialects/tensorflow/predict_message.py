"""PredictRequest → a request, its reply → PredictResponse, without copies of large tensors.

Source: predict.proto, and predict_util.cc for the texts of errors, for which clients look.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from pdserver.dialects.codec import LARGE_BYTES
from pdserver.dialects.protos import decode
from pdserver.dialects.protos.wire import TooManyFields, field, fields, joined
from pdserver.dialects.rpc import Answer
from pdserver.dialects.tensorflow.data_types import DATA_TYPES
from pdserver.dialects.tensorflow.model_spec import answered_by
from pdserver.dialects.tensorflow.request import Asked, ServingRequest, fitted, put_together
from pdserver.dialects.tensorflow.tensor_proto import (
    CONTENT,
    CUT_OUT,
    PACKED,
    Data,
    Pieces,
    Predict,
    Proto,
    dtype_of,
    read_tensor,
    repacked,
    write_tensor,
)
from pdserver.dtypes import BYTES
from pdserver.errors import InvalidRequest
from pdserver.formats.values import listed, shown
from pdserver.types import Interface, Output, Port, Reply, Tensor

_NAME = Predict.DESCRIPTOR.full_name
_INPUT = 0x12
"""How an entry of PredictRequest.inputs begins. In it, and in any other map, its name and value begin with the next."""
_KEY, _VALUE = 0x0A, 0x12
_MODEL_SPEC = b"\x12"
"""Of PredictResponse."""


class Input(NamedTuple):
    name: str
    proto: Any
    """A `Proto`, without the pieces."""
    pieces: Pieces


def whole(data: Data) -> tuple[Any, list[Input]]:
    """A small message. Raises InvalidRequest."""
    message = decode(Predict, data)
    return message, [Input(name, proto, {}) for name, proto in message.inputs.items()]


def numbers_of(data: bytes) -> bytes:
    """The bytes of all numbers in a message; empty if they are in several places, and for what is no message."""
    try:
        [(_, proto)] = decode(Predict, data).inputs.items()
    except (InvalidRequest, ValueError):
        return b""
    pieces = [piece for name in PACKED for piece in getattr(proto, name)]
    if proto.tensor_content:
        pieces.append(proto.tensor_content)
    return pieces[0] if len(pieces) == 1 else b""


def cut(data: Data) -> tuple[Any, list[memoryview]]:
    """A large message without its inputs, and these. Raises InvalidRequest."""
    view = memoryview(data)
    rest, inputs, begin = [], [], 0
    for tag, start, place, end in fields(data, _NAME):
        if tag == _INPUT:
            rest.append(view[begin:start])
            inputs.append(view[place:end])
            begin = end
    rest.append(view[begin:])
    return decode(Predict, b"".join(rest)), inputs


def cut_inputs(inputs: Iterable[memoryview]) -> list[Input] | None:
    """The inputs, what is large cut out of each; None if they have to be read whole, which takes long. Raises
    InvalidRequest."""
    found: dict[str, Input] = {}
    left = LARGE_BYTES
    for entry in inputs:
        try:
            given = [(tag, entry[place:end]) for tag, _, place, end in fields(entry, _NAME)]
            parts = dict(given)
            if len(parts) < len(given) or not parts.keys() <= {_KEY, _VALUE}:
                return None  # nobody writes such a one; protobuf knows what it means
            rest, pieces = _cut_tensor(parts.get(_VALUE, entry[:0]))
        except TooManyFields:
            return None
        left -= sum(map(len, rest))
        if left < 0:
            return None
        proto = decode(Proto, b"".join(rest))
        if proto.dtype == DATA_TYPES[BYTES].number and CONTENT in pieces:
            return None
        name = _text(parts.get(_KEY, entry[:0]))
        found[name] = Input(name, proto, pieces)
    return [*found.values()]


def _text(data: memoryview) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest(f"what was sent is not a {_NAME}") from None


def _cut_tensor(tensor: memoryview) -> tuple[list[memoryview], Pieces]:
    rest: list[memoryview] = []
    pieces: dict[str, list[Data]] = {}
    begin = 0
    for tag, start, place, end in fields(tensor, Proto.DESCRIPTOR.full_name):
        if tag in CUT_OUT:
            rest.append(tensor[begin:start])
            pieces.setdefault(CUT_OUT[tag], []).append(tensor[place:end])
            begin = end
    rest.append(tensor[begin:])
    return rest, pieces


def read_filled(asked: Asked, data: Data, most_bytes: int) -> ServingRequest:
    """A request with tensors whose elements are not packed, or not all there. With those that are left out, each may
    have `most_bytes`. Raises InvalidRequest, FewElements."""
    message, inputs = whole(repacked(data))
    return read_inputs(asked, inputs, message.output_filter, most_bytes)


def read_inputs(
    asked: Asked, inputs: Collection[Input], output_filter: Sequence[str], most_bytes: int = 0
) -> ServingRequest:
    """Raises InvalidRequest, FewElements."""
    ports = {port.name: port for port in asked.interface.inputs}
    if len(inputs) != len(ports):
        _check_names([given.name for given in inputs], ports)
    tensors = [_input(given, ports, most_bytes) for given in inputs]
    outputs = _outputs(asked.interface, output_filter) if output_filter else ()
    return put_together(asked, tensors, outputs)


def write(request: ServingRequest, reply: Reply, *, as_content: bool) -> Answer:
    """A PredictResponse. Its numbers are in typed lists, unless they are asked for as tensor_content."""
    pieces: list[bytes] = []
    for tensor in reply.tensors:
        pieces += write_tensor(tensor.name, tensor, as_content=as_content)
    pieces += field(_MODEL_SPEC, answered_by(request.model, request.version or ""))
    return joined(pieces)


def _input(given: Input, ports: dict[str, Port], most_bytes: int) -> Tensor:
    name = given.name
    port = ports.get(name)
    if port is None:
        raise InvalidRequest(
            f"input tensor alias not found in signature: {shown(name)}. Inputs expected to be in the set"
            f" {{{','.join(ports)}}}."
        )
    dtype = dtype_of(name, given.proto)
    if dtype != port.dtype:
        expected, provided = (DATA_TYPES[held].word for held in (port.dtype, dtype))
        raise InvalidRequest(f"Expects {name} to be {expected} but {provided} is provided")
    tensor = read_tensor(name, dtype, given.proto, given.pieces, most_bytes)
    if len(tensor.shape) == len(port.shape) or port.any_rank:
        return tensor
    return msgspec.structs.replace(tensor, shape=fitted(port, tensor.shape))


def _check_names(given: list[str], ports: Mapping[str, Port]) -> None:
    """Raises InvalidRequest unless each input is given once, and none but optional ones are left out."""
    wanted = [*ports]
    extra = [name for name in given if name not in wanted]
    missing = [name for name, port in ports.items() if name not in given and not port.optional]
    if not (extra or missing) and len(set(given)) == len(given):
        return
    sets = [listed(names) if names else "" for names in (given, wanted, extra, missing)]
    raise InvalidRequest(
        f"input size does not match signature: {len(given)}!={len(wanted)} len({{{sets[0]}}}) != len({{{sets[1]}}})."
        f" Sent extra: {{{sets[2]}}}. Missing but required: {{{sets[3]}}}."
    )


def _outputs(interface: Interface, names: Sequence[str]) -> tuple[Output, ...]:
    known = [port.name for port in interface.outputs]
    for name in names:
        if name not in known:
            raise InvalidRequest(
                f"output tensor alias not found in signature: {shown(name)}. Outputs expected to be in the set"
                f" {{{','.join(known)}}}."
            )
    if len(set(names)) != len(names):
        raise InvalidRequest(
            f"duplicate output tensor alias: {shown(next(n for n in names if list(names).count(n) > 1))}"
        )
    return tuple(map(Output, names))
