"""Tensors as protocols write them: datatypes, JSON, and checks against what a model takes.

Source: the Open Inference Protocol (https://github.com/kserve/open-inference-protocol). Clients of Triton compare its
texts, so errors here begin with its words.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from pdserver.configuration.model import ModelSpec
from pdserver.dtypes import BFLOAT16, BYTES, DATATYPES, DTYPES
from pdserver.errors import InvalidRequest
from pdserver.formats.elements import packed, rounded
from pdserver.formats.values import listed, nearest, shown
from pdserver.tensors import array, byte_size
from pdserver.types import Interface, Output, Port, Tensor

_MAX_ELEMENTS = 2**31 - 1
_MAX_RANK = 32
_MAX_DEPTH = 100
_BOOL: tuple[type, str] = (bool, "true or false")
_WHOLE: tuple[type, str] = (int, "whole numbers")
_NUMBER: tuple[type, str] = (float, "numbers")
_TEXT: tuple[type, str] = (str, "strings")
IN_JSON: dict[str, tuple[tuple[type, str], str]] = {
    "bool": (_BOOL, "?"),
    "uint8": (_WHOLE, "B"),
    "uint16": (_WHOLE, "H"),
    "uint32": (_WHOLE, "I"),
    "uint64": (_WHOLE, "Q"),
    "int8": (_WHOLE, "b"),
    "int16": (_WHOLE, "h"),
    "int32": (_WHOLE, "i"),
    "int64": (_WHOLE, "q"),
    "float16": (_NUMBER, "e"),
    "bfloat16": (_NUMBER, "f"),
    "float32": (_NUMBER, "f"),
    "float64": (_NUMBER, "d"),
    BYTES: (_TEXT, ""),
}
"""What the elements of a dtype are in JSON, what errors call them, and struct's letter for them. Packing a list of
numbers with struct is faster than making an array of it, and refuses what the dtype can't hold."""


def dtype_of(datatype: object, title: str) -> str:
    """Raises InvalidRequest for an unknown datatype; `title` says whose it is."""
    dtype = DTYPES.get(datatype) if isinstance(datatype, str) else None
    if dtype is None:
        raise InvalidRequest(f"{title}: datatype {shown(datatype)} is unknown{nearest(str(datatype), DTYPES)}")
    return dtype


def check_shape(shape: Sequence[int], title: str) -> tuple[int, ...]:
    """Raises InvalidRequest for a negative length, and for more elements than a tensor can have."""
    if shape and min(shape) < 0:
        raise InvalidRequest(f"{title}: shape {_written(shape)} has a negative length")
    if len(shape) > _MAX_RANK or math.prod(shape) > _MAX_ELEMENTS:
        raise InvalidRequest(
            f"{title}: shape {_written(shape)} causes total element count to exceed maximum size of {_MAX_ELEMENTS}"
        )
    return tuple(shape)


def check(spec: ModelSpec, interface: Interface, inputs: Sequence[Tensor], *, any_rows: bool = False) -> int:
    """How many rows of a batch these inputs take. With `any_rows`, inputs of more rows than that take a whole one.

    Raises InvalidRequest for inputs that the model does not take.
    """
    name = spec.name
    ports: Sequence[Port] = interface.inputs
    if [tensor.name for tensor in inputs] != [port.name for port in ports]:
        ports = _in_their_order(name, ports, inputs)
    for port, tensor in zip(ports, inputs, strict=True):
        _check_input(spec, interface, port, tensor)
    if not interface.batched or not inputs:
        return spec.batch_size  # it has the model for itself
    rows = inputs[0].shape[0]
    if len(inputs) > 1 and any(tensor.shape[0] != rows for tensor in inputs):
        lengths = ", ".join(f"{tensor.name} {tensor.shape[0]}" for tensor in inputs)
        raise InvalidRequest(f"the batch size of all inputs of model '{name}' must be the same; got {lengths}")
    if rows > spec.batch_size:
        if any_rows:
            return spec.batch_size
        raise InvalidRequest(
            f"inference request batch-size must be <= {spec.batch_size} for '{name}'; got {rows}. More rows need a"
            f" larger batchSize: set batchSize: {rows} in the model's config file, packed with --config-file, or under"
            " models= in config.properties (max_batch_size in a config.pbtxt)"
        )
    return rows


def check_outputs(spec: ModelSpec, interface: Interface, outputs: Sequence[Output]) -> None:
    """Raises InvalidRequest for an output that the model does not have, or that is asked for twice."""
    if not outputs:
        return
    known = [port.name for port in interface.outputs]
    names = [output.name for output in outputs]
    for name in names:
        if name and name not in known:
            raise InvalidRequest(
                f"unexpected inference output '{shown(name)}' for model '{spec.name}'{nearest(name, known)};"
                f" its outputs are {', '.join(known)}"
            )
    if len(set(names)) != len(names):
        raise InvalidRequest(f"an output is asked for twice of model '{spec.name}': {listed(names)}")


def from_json(title: str, dtype: str, shape: tuple[int, ...], data: bytes | msgspec.Raw) -> bytes:
    """The data of a tensor from a JSON list, flat or nested by rows. Raises InvalidRequest."""
    try:
        values = _decoders[IN_JSON[dtype][0][0]].decode(data)
    except msgspec.ValidationError:
        try:
            nested = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidRequest(f"{title}: 'data' is not JSON that can be read: {error}") from None
        return from_values(title, dtype, shape, nested)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{title}: 'data' is not JSON: {error}") from None
    return _data(title, dtype, shape, values)


def from_values(title: str, dtype: str, shape: tuple[int, ...], nested: Any) -> bytes:
    """The data of a tensor from JSON that was decoded already. Raises InvalidRequest."""
    kind, words = IN_JSON[dtype][0]
    try:
        values: list[Any] = msgspec.convert(_flat(nested), list[kind])  # type: ignore[valid-type]
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{title}: 'data' must be a list of {words}: {error}") from None
    except RecursionError as error:
        raise InvalidRequest(f"{title}: 'data': {error}") from None
    return _data(title, dtype, shape, values)


def to_json(tensor: Tensor, *, quoted: bool = False) -> bytes:
    """A tensor's elements as a flat JSON list; NaN and infinities as Triton writes them, by name, or `quoted`.

    Raises InvalidRequest for bytes that are not text.
    """
    return json_writer(tensor.dtype, tensor.shape, len(tensor.data), quoted)(tensor)


@lru_cache(maxsize=1024)
def json_writer(dtype: str, shape: tuple[int, ...], size: int, quoted: bool) -> Callable[[Tensor], bytes]:
    """`to_json` for tensors of this dtype and shape with so many bytes."""
    if dtype == BYTES:
        return _texts_json
    usual = None if dtype == BFLOAT16 or not size or size != byte_size(dtype, shape) else np.dtype(dtype)

    def write(tensor: Tensor) -> bytes:
        values = array(tensor).reshape(-1) if usual is None else np.frombuffer(tensor.data, usual)
        return numbers_json(values, quoted=quoted)

    return write


def numbers_json(values: NDArray[Any], *, quoted: bool = False) -> bytes:
    """Numbers as JSON lists, as nested as the array has axes, at least one; NaN and infinities by name, or `quoted`."""
    text = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
    return _with_names(text, values, b'"%b"' if quoted else b"%b") if b"null" in text else text


def _texts_json(tensor: Tensor) -> bytes:
    try:
        return orjson.dumps([value.decode() for value in array(tensor).reshape(-1)])
    except UnicodeDecodeError:
        raise InvalidRequest(
            f"output '{tensor.name}' is not UTF-8, which JSON needs: ask for it as binary data (binary_data: true)"
        ) from None


def _with_names(text: bytes, values: NDArray[Any], written: bytes) -> bytes:
    """Replace the nulls, which orjson writes for numbers that JSON does not have. `written` is how to write a name."""
    first, *rest = text.split(b"null")
    odd = values[~np.isfinite(values)].tolist()
    names = [b"NaN" if math.isnan(value) else b"Infinity" if value > 0 else b"-Infinity" for value in odd]
    return b"".join([first, *(written % name + piece for name, piece in zip(names, rest, strict=True))])


_decoders: dict[type, Any] = {
    bool: msgspec.json.Decoder(list[bool]),
    int: msgspec.json.Decoder(list[int]),
    float: msgspec.json.Decoder(list[float]),
    str: msgspec.json.Decoder(list[str]),
}


def _in_their_order(model: str, ports: Sequence[Port], inputs: Sequence[Tensor]) -> list[Port]:
    """The ports of the inputs. Raises InvalidRequest unless each of the model's inputs is given once; those that are
    optional may be left out."""
    known = {port.name: port for port in ports}
    given = [tensor.name for tensor in inputs]
    for name in given:
        if name not in known:
            raise InvalidRequest(
                f"unexpected inference input '{shown(name)}' for model '{model}'{nearest(name, known)};"
                f" its inputs are {', '.join(known)}"
            )
    if len(set(given)) != len(given):
        raise InvalidRequest(f"an input is given twice for model '{model}': {listed(given)}")
    if missing := [port.name for port in ports if port.name not in given and not port.optional]:
        raise InvalidRequest(
            f"expected {_count(ports)} inputs but got {len(given)} inputs for model '{model}'. Got input(s)"
            f" [{listed(map(repr, given))}], but missing required input(s) {missing}. Please provide all required"
            " input(s)."
        )
    return [known[name] for name in given]


def _check_input(spec: ModelSpec, interface: Interface, port: Port, tensor: Tensor) -> None:
    if tensor.dtype != port.dtype:
        raise InvalidRequest(
            f"inference input '{port.name}' data-type is '{DATATYPES[tensor.dtype]}', but model '{spec.name}' expects"
            f" '{DATATYPES.get(port.dtype, port.dtype)}'"
        )
    if not _fits(tensor.shape, port) or (interface.batched and not (tensor.shape and tensor.shape[0])):
        raise InvalidRequest(
            f"unexpected shape for input '{port.name}' for model '{spec.name}'. Expected {_written(port.shape)}, got"
            f" {_written(tensor.shape)}"
        )
    expected = byte_size(tensor.dtype, tensor.shape)
    size = tensor.size or len(tensor.data)
    if expected is not None and size != expected:
        raise InvalidRequest(
            f"input byte size mismatch for input '{port.name}' for model '{spec.name}'. Expected {expected}, got {size}"
        )


def _data(title: str, dtype: str, shape: tuple[int, ...], values: list[Any]) -> bytes:
    """Raises InvalidRequest for another number of elements than the shape has, and for values out of range."""
    count = math.prod(shape)
    if len(values) != count:
        raise InvalidRequest(
            f"{title}: Unable to parse 'data': Shape does not match true shape of 'data' field: shape"
            f" {_written(shape)} has {count} elements, 'data' has {len(values)}"
        )
    if dtype == BYTES:
        return packed(_encoded(title, value) for value in values)
    return _numbers(title, dtype, values)


def _count(ports: Sequence[Port]) -> str:
    """How many inputs a request may have, such as "2" or "1 to 3"."""
    least = sum(not port.optional for port in ports)
    return str(least) if least == len(ports) else f"{least} to {len(ports)}"


def _fits(shape: tuple[int, ...], port: Port) -> bool:
    wanted = port.shape
    if port.any_rank:
        return True
    if len(shape) != len(wanted):
        return False
    for length, expected in zip(shape, wanted, strict=True):  # noqa: SIM110 - half the time of all()
        if length != expected != -1:
            return False
    return True


def packed_numbers(dtype: str, values: Sequence[Any]) -> bytes:
    """The data of a tensor with these elements. Raises struct.error or OverflowError for what the dtype can't hold."""
    numbers = struct.pack(f"<{len(values)}{IN_JSON[dtype][1]}", *values)
    return rounded(np.frombuffer(numbers, np.float32)).tobytes() if dtype == BFLOAT16 else numbers


def _numbers(title: str, dtype: str, values: list[Any]) -> bytes:
    try:
        return packed_numbers(dtype, values)
    except (struct.error, OverflowError):
        raise _out_of_range(title, dtype, values) from None


def _out_of_range(title: str, dtype: str, values: list[Any]) -> InvalidRequest:
    if IN_JSON[dtype][0] is _NUMBER:
        return InvalidRequest(f"{title}: 'data' has a number that is too large for {DATATYPES[dtype]}")
    bounds = np.iinfo(dtype)
    worst = next(value for value in values if not bounds.min <= value <= bounds.max)
    return InvalidRequest(f"{title}: 'data': {shown(worst)} is not a {DATATYPES[dtype]}")


def _encoded(title: str, value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{title}: 'data' has a string with half of a surrogate pair") from None


def _flat(nested: Any) -> list[Any]:
    """The elements of nested lists. Lists are joined level by level, since C does that."""
    values = [nested]
    depth = _MAX_DEPTH
    while (kinds := set(map(type, values))) == {list} and depth:
        values = list(chain.from_iterable(values))
        depth -= 1
    if list not in kinds:
        return values
    flat: list[Any] = []
    for value in values:
        _flatten(value, flat, depth)
    return flat


def _flatten(value: Any, values: list[Any], depth: int) -> None:
    if not isinstance(value, list):
        values.append(value)
    elif depth:
        for item in value:
            _flatten(item, values, depth - 1)
    else:
        raise RecursionError(f"lists are nested deeper than {_MAX_DEPTH}")


def _written(shape: Sequence[int]) -> str:
    first = ",".join(map(shown, shape[:_MAX_RANK]))
    return f"[{first}]" if len(shape) <= _MAX_RANK else f"[{first},…] of {len(shape)} dimensions"
