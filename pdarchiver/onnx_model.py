"""What an ONNX model takes and gives, and which files hold its weights, read without the onnx package.

Source: onnx/onnx.proto.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pdarchiver.dtypes import BY_ONNX_NUMBER
from pdarchiver.errors import InvalidModel, UnsafeModel
from pdarchiver.manifest import Signature, TensorSpec
from pdarchiver.names import path_problem
from pdarchiver.onnx_wire import GRAPH, INITIALIZER, INPUT, OUTPUT, SPARSE_INITIALIZER, TENSOR_NAME, Reader
from pdarchiver.wire import varint

SUFFIX = ".onnx"
_VALUE_NAME, _TYPE, _TENSOR_TYPE, _ELEMENT, _SHAPE, _DIM, _DIM_VALUE = 1, 2, 1, 1, 2, 1, 1
_VALUES = 1
_KEY, _VALUE = 1, 2
_PARTS = {
    "model": {GRAPH: "graph", 25: "function"},
    "graph": {1: "node", INITIALIZER: "tensor", SPARSE_INITIALIZER: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""Message → its fields that lead to tensors, and to the entries that name the files of their values."""
_OTHER_TYPES = {4: "uint16", 8: "string", 12: "uint32", 13: "uint64"}


@dataclass(frozen=True)
class Outside:
    """What an ONNX file says of its outside."""

    signature: Signature
    files: tuple[str, ...]
    """Files beside the model's that hold weights, sorted: paths from its folder."""


def read(path: Path) -> Outside:
    """Raises InvalidModel, naming the file, and OSError."""
    with path.open("rb") as file:
        try:
            return outside(file)
        except InvalidModel as error:
            raise InvalidModel(f"{path}: {error}") from None


def outside(file: BinaryIO) -> Outside:
    """Raises InvalidModel for what is no model, for weights in files that are not beside it, and for what the server
    can't take or give."""
    try:
        return _read(Reader(file))
    except (ValueError, LookupError) as error:
        raise InvalidModel(
            "not a model in ONNX's form, as torch.onnx.export and paddle2onnx write it "
            f"({type(error).__name__}: {str(error)[:200]})"
        ) from None


def check(file: BinaryIO) -> None:
    """Raises UnsafeModel if the model names a file that is not beside it, or if that can't be ruled out.

    All else in it computes: an operation that is none of the engine's own is refused by the engine.
    """
    try:
        named = _external(Reader(file))
    except ValueError as error:
        raise UnsafeModel(f"it can't be looked through: {error}") from None
    for location in named:
        # ONNX Runtime reads memory for some locations with asterisks.
        if problem := path_problem(location) or ("has an asterisk" if "*" in location else None):
            raise UnsafeModel(f"it takes weights from {location[:200]!r}, whose name {problem}")


def _read(reader: Reader) -> Outside:
    signature = signature_in(reader)
    files = _external(reader)
    for location in files:
        if problem := path_problem(location):
            raise InvalidModel(f"it takes weights from {location[:200]!r}: the name {problem}; save it anew")
    return Outside(signature, tuple(sorted(files)))


def signature_in(reader: Reader) -> Signature:
    """Raises InvalidModel for what the server can't take or give, ValueError for what is no model."""
    graphs = reader.all(reader.data, GRAPH)
    if not graphs:
        raise ValueError("it has no graph")
    inputs, outputs, own = [], [], set()
    for graph in graphs:
        for number, value in reader.fields(graph):
            if number == INPUT:
                inputs.append(value)
            elif number == OUTPUT:
                outputs.append(value)
            elif number == INITIALIZER:
                own.add(reader.text(value, TENSOR_NAME))
            elif number == SPARSE_INITIALIZER:
                own.update(reader.text(values, TENSOR_NAME) for values in reader.all(value, _VALUES))
    # Weights that may be given from outside, as old files have them, are among the inputs.
    asked = [value for value in inputs if reader.text(value, _VALUE_NAME) not in own]
    signature = Signature(
        tuple(_spec(reader, value, "input") for value in asked),
        tuple(_spec(reader, value, "output") for value in outputs),
    )
    for side, specs in (("inputs", signature.inputs), ("outputs", signature.outputs)):
        if len({spec.name for spec in specs}) < len(specs):
            raise InvalidModel(f"two of its {side} have the same name")
    return signature


def _spec(reader: Reader, value: memoryview, side: str) -> TensorSpec:
    name = reader.text(value, _VALUE_NAME)
    tensors = [tensor for kind in reader.all(value, _TYPE) for tensor in reader.all(kind, _TENSOR_TYPE)]
    if not tensors:
        raise InvalidModel(f"the {side} {name!r} is no tensor, or its type is not said")
    tensor = tensors[-1]
    element = next((varint(number, 0)[0] for number in reader.all(tensor, _ELEMENT)), 0)
    dtype = BY_ONNX_NUMBER.get(element)
    if dtype is None:
        kind = _OTHER_TYPES.get(element, f"of ONNX's type {element}")
        raise InvalidModel(
            f"the {side} {name!r} is {kind}, which the server cannot {'take' if side == 'input' else 'give'}: have the "
            "model cast it"
        )
    shapes = reader.all(tensor, _SHAPE)
    if not shapes:
        raise InvalidModel(
            f"the {side} {name!r} has no shape, not even a number of axes: add it, as onnx.shape_inference does"
        )
    return TensorSpec(name, dtype.name, tuple(_length(reader, dim) for dim in reader.all(shapes[-1], _DIM)), name)


def _length(reader: Reader, dim: memoryview) -> int:
    """-1 for a length that is open: one with a name, or with nothing."""
    length = next((varint(number, 0)[0] for number in reader.all(dim, _DIM_VALUE)), 0)
    return length if 0 < length < 1 << 63 else -1


def _external(reader: Reader) -> set[str]:
    """The locations of values that are in other files. Raises ValueError for what is no message."""
    found = set()
    left = [("model", reader.data)]
    while left:
        kind, data = left.pop()
        if kind == "entry":
            if reader.text(data, _KEY) == "location":
                found.add(reader.text(data, _VALUE))
            continue
        parts = _PARTS[kind]
        left += [(parts[number], value) for number, value in reader.fields(data) if number in parts]
    return found
