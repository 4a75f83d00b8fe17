"""TensorProto ↔ Tensor.

Source: TensorFlow's tensor.proto, and Tensor::FromProto for what is left out: elements are as they are in memory
(tensor_content), or in the field of their type. If that has fewer than the shape asks for, its last element stands for
the rest, and without any, all are zero. Where TensorFlow cuts off elements that are too many, or too large for their
dtype, ours are errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from pdserver.dialects.protos import decode, message_class, varints
from pdserver.dialects.protos.packed import with_bytes
from pdserver.dialects.protos.wire import field, varint, varint_in
from pdserver.dialects.tensorflow.data_types import DATA_TYPES
from pdserver.dialects.tensors import check_shape
from pdserver.dtypes import BFLOAT16, BYTES
from pdserver.errors import InvalidRequest
from pdserver.formats.elements import elements, packed
from pdserver.formats.values import shown
from pdserver.tensors import byte_size
from pdserver.types import Tensor

Data = bytes | memoryview
Pieces = Mapping[str, Sequence[Data]]
"""Elements that were cut out of a TensorProto, by their fields."""
CONTENT = "tensor_content"
_CONTENT, _TEXT = 4, b"\x42"
"""The number of tensor_content, and how a string of string_val begins."""
_LENGTH = 2
"""The wire type of fields with a length."""


class _Form(NamedTuple):
    field: str
    number: int
    varints: str = ""
    """The dtype by which its packed numbers are read. Empty: they are as in memory."""


_INT = _Form("int_val", 7, "int32")
_HALF = _Form("half_val", 13, "int32")
_FORMS: Mapping[str, _Form] = {
    "float32": _Form("float_val", 5),
    "float64": _Form("double_val", 6),
    "int32": _INT,
    "int16": _INT,
    "int8": _INT,
    "uint8": _INT,
    "uint16": _INT,
    BYTES: _Form("string_val", 8),
    "int64": _Form("int64_val", 10, "int64"),
    "bool": _Form("bool_val", 11, "bool"),
    "float16": _HALF,
    BFLOAT16: _HALF,
    "uint32": _Form("uint32_val", 16, "uint32"),
    "uint64": _Form("uint64_val", 17, "uint64"),
}
_BITS = {"float16": "uint16", BFLOAT16: "uint16"}
"""The dtypes whose bits are sent as numbers, and what these are."""
_DTYPES = {data_type.number: dtype for dtype, data_type in DATA_TYPES.items()}
PACKED = [form.field for form in _FORMS.values()]
_PLAIN = message_class("tensorflow.serving.PredictRequest")
Predict, Proto = with_bytes(
    "tensorflow.TensorProto", PACKED, "tensorflow.serving.PredictRequest", "tensorflow.TensorProto"
)
"""The classes of PredictRequest and TensorProto, with packed numbers as bytes."""
_AS_IN_MEMORY = frozenset({"float32", "float64", "bool"})
"""The dtypes whose elements are in their fields as they are in memory."""
CUT_OUT = {0x22: CONTENT, 0x2A: "float_val", 0x32: "double_val"}
"""The fields that hold elements as they are in memory, by how they begin on the wire."""


class FewElements(Exception):
    """A tensor has fewer elements than its shape: the others are left out, or they are not packed."""


def repacked(data: Data) -> bytes:
    """A PredictRequest, its numbers packed. Raises InvalidRequest."""
    return bytes(decode(_PLAIN, data).SerializeToString())


def dtype_of(name: str, proto: Any) -> str:
    """The dtype of the tensor with this name. Raises InvalidRequest."""
    dtype = _DTYPES.get(proto.dtype)
    if dtype is None:
        kind = Proto.DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_number.get(proto.dtype)
        given = kind.name if kind else proto.dtype
        raise _error(name, f"dtype {given} is none of {', '.join([held.name for held in DATA_TYPES.values()])}")
    return dtype


def read_tensor(name: str, dtype: str, proto: Any, pieces: Pieces, most_bytes: int) -> Tensor:
    """A tensor, from a `Proto` without the pieces. What is left out is filled in, up to `most_bytes` with that. Raises
    InvalidRequest; FewElements for a tensor that would have more."""
    shape = _shape(name, proto)
    content = pieces[CONTENT][-1] if CONTENT in pieces else proto.tensor_content
    if dtype == BYTES:
        count = math.prod(shape)
        texts = _texts_in(name, content, count) if content else proto.string_val
        return Tensor(name, dtype, shape, _filled(name, texts, count, most_bytes))
    size = byte_size(dtype, shape) or 0
    form = _FORMS[dtype]
    data = content or _numbers(name, dtype, form, pieces.get(form.field) or getattr(proto, form.field))
    if len(data) != size:
        if content or len(data) > size:
            held_by = CONTENT if content else form.field
            raise _error(name, f"shape {list(shape)} of {dtype} takes {size:,} bytes; {held_by} has {len(data):,}")
        if size > most_bytes:
            raise FewElements
        data = _repeated(data, size, size // math.prod(shape))
    return Tensor(name, dtype, shape, data)  # type: ignore[arg-type]


def write_tensor(name: str, tensor: Tensor, *, as_content: bool) -> list[bytes]:
    """An entry of PredictResponse.outputs, in pieces."""
    if tensor.dtype == BYTES:
        strings = [_with_length(_TEXT, text) for text in elements(tensor.data, math.prod(tensor.shape))]
        data = b"".join(strings)
        return [_head(name, tensor.dtype, tensor.shape, 0, len(data)), data]
    form = _FORMS[tensor.dtype]
    data = tensor.data
    if not as_content and tensor.dtype not in _AS_IN_MEMORY:
        data = varints.write(data, _BITS.get(tensor.dtype, tensor.dtype))
    return [_head(name, tensor.dtype, tensor.shape, _CONTENT if as_content else form.number, len(data)), data]


def looked_at(tensors: Sequence[Tensor], *, as_content: bool) -> int:
    """How many bytes of their data are looked at when they are written."""
    size = 0
    for tensor in tensors:
        if tensor.dtype == BYTES or not (as_content or tensor.dtype in _AS_IN_MEMORY):
            size += len(tensor.data)
    return size


@lru_cache(maxsize=4096)
def _head(name: str, dtype: str, shape: tuple[int, ...], number: int, size: int) -> bytes:
    """What comes before the `size` bytes of elements in an entry; they are in the field with this number, or a tensor
    of strings has them as fields (0)."""
    dims = b"".join([_with_length(b"\x12", b"\x08" + varint(length)) for length in shape])
    head = b"\x08" + varint(DATA_TYPES[dtype].number) + _with_length(b"\x12", dims)
    if number:
        head += varint(number << 3 | _LENGTH) + varint(size)
    head = _with_length(b"\x0a", name.encode()) + b"\x12" + varint(len(head) + size) + head
    return b"\x0a" + varint(len(head) + size) + head


def _shape(name: str, proto: Any) -> tuple[int, ...]:
    given = proto.tensor_shape
    if given.unknown_rank:
        raise _error(name, "its shape has an unknown rank")
    try:
        return check_shape([dim.size for dim in given.dim], "tensor_shape")
    except InvalidRequest as error:
        raise _error(name, str(error)) from None


def _numbers(name: str, dtype: str, form: _Form, given: Sequence[Data]) -> Data:
    """The data of a typed list. Raises InvalidRequest."""
    data = given[0] if len(given) == 1 else b"".join(given)
    if not form.varints or not data:
        return data
    data = varints.read(bytes(data), form.varints)
    dtype = _BITS.get(dtype, dtype)
    if dtype == form.varints:
        return data
    numbers = np.frombuffer(data, form.varints)
    bounds = np.iinfo(dtype)
    if numbers.min() < bounds.min or numbers.max() > bounds.max:
        raise _error(name, f"{form.field} has a number that is not a {dtype}")
    return numbers.astype(dtype).tobytes()


def _repeated(data: Data, size: int, item_bytes: int) -> bytes:
    """The data, with the last element in the place of those that are left out; zeros, if there is none."""
    last = bytes(data[-item_bytes:]) or bytes(item_bytes)
    return bytes(data) + last * ((size - len(data)) // item_bytes)


def _filled(name: str, texts: Sequence[bytes], count: int, most_bytes: int) -> bytes:
    """The data of so many strings, the last one in the place of those that are left out. Raises InvalidRequest,
    FewElements."""
    missing = count - len(texts)
    if missing < 0:
        raise _error(name, f"string_val has {len(texts):,} strings, its shape {count:,}")
    if not missing:
        return packed(texts)
    last = packed([texts[-1] if texts else b""])
    if missing * len(last) > most_bytes:
        raise FewElements
    return packed(texts) + last * missing


def _texts_in(name: str, content: Data, count: int) -> list[bytes]:
    """The strings of a tensor_content: the lengths of all of them come first."""
    lengths: list[int] = []
    place = 0
    try:
        while len(lengths) < count:
            length, place = varint_in(content, place)
            lengths.append(length)
    except IndexError:
        pass
    if len(lengths) < count or place + sum(lengths) != len(content):
        raise _error(name, f"tensor_content of {len(content):,} bytes is not {count:,} strings")
    texts: list[bytes] = []
    for length in lengths:
        texts.append(bytes(content[place : place + length]))
        place += length
    return texts


def _with_length(tag: bytes, data: bytes) -> bytes:
    return b"".join(field(tag, data))


def _error(name: str, words: str) -> InvalidRequest:
    return InvalidRequest(f"tensor parsing error: {shown(name)}: {words}")
