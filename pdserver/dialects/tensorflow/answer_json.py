"""Answers in JSON: "predictions" to rows, "outputs" to columns, "results" of classify and regress.

Source: TensorFlow Serving's REST API. NaN and infinities are written by name, which JSON does not have. Bytes are
{"b64": …} in outputs whose name ends in _bytes, and here wherever they are no text, too.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from pdserver.dialects.tensorflow.request import ServingRequest
from pdserver.dialects.tensors import numbers_json
from pdserver.dtypes import BYTES
from pdserver.errors import InvalidRequest
from pdserver.formats.values import shown
from pdserver.tensors import array
from pdserver.types import Reply, Tensor

_NUMPY = orjson.OPT_SERIALIZE_NUMPY
_BYTES_SUFFIX = "_bytes"
Labels = Mapping[int, str]


def write(request: ServingRequest, reply: Reply, labels: Labels) -> bytes:
    """`labels` are those of the classes, where they have any. Raises InvalidRequest for what can't be written so."""
    tensors = reply.tensors
    match request.form:
        case "row":
            return b'{"predictions":%b}' % _rows(tensors)
        case "column":
            return b'{"outputs":%b}' % (_whole(tensors[0]) if len(tensors) == 1 else _by_name(tensors))
        case "classify":
            return b'{"results":%b}' % _classes(tensors[0], labels)
        case _:
            return b'{"results":%b}' % _values(tensors[0])


def _rows(tensors: list[Tensor]) -> bytes:
    """A value for each row, or an object of them if there are several outputs."""
    if len(tensors) == 1 and tensors[0].shape:
        [tensor] = tensors
        return numbers_json(array(tensor)) if tensor.dtype != BYTES else orjson.dumps(_texts(tensor))
    counts = {tensor.shape[:1] for tensor in tensors}
    if len(counts) != 1 or () in counts:
        shapes = ", ".join(f"{tensor.name} {list(tensor.shape)}" for tensor in tensors)
        raise InvalidRequest(
            f'"predictions" needs outputs with the same number of rows; inconsistent batch size: {shapes}. Send '
            '"inputs" instead of "instances": then the answer has each output as a whole'
        )
    columns = [(tensor.name, _as_rows(tensor)) for tensor in tensors]
    return orjson.dumps([{name: rows[i] for name, rows in columns} for i in range(tensors[0].shape[0])], option=_NUMPY)


def _as_rows(tensor: Tensor) -> Any:
    """What gives the JSON of row i at [i]."""
    if tensor.dtype == BYTES:
        return _texts(tensor)
    rows = array(tensor)
    if rows.dtype.kind != "f" or np.isfinite(rows).all():
        return rows
    return [orjson.Fragment(_number_json(row)) for row in rows]


def _by_name(tensors: list[Tensor]) -> bytes:
    return orjson.dumps({tensor.name: orjson.Fragment(_whole(tensor)) for tensor in tensors})


def _whole(tensor: Tensor) -> bytes:
    """The tensor as nested lists."""
    return orjson.dumps(_texts(tensor)) if tensor.dtype == BYTES else _number_json(array(tensor))


def _number_json(values: NDArray[Any]) -> bytes:
    return numbers_json(values) if values.ndim else numbers_json(values.reshape(1))[1:-1]


def _texts(tensor: Tensor) -> Any:
    """Strings, or objects for bytes, in nested lists."""
    always = tensor.name.endswith(_BYTES_SUFFIX)
    held = array(tensor)
    found = np.empty(held.size, object)
    found[:] = [_text(value, always=always) for value in held.reshape(-1)]
    return found.reshape(held.shape).tolist()


def _text(value: bytes, *, always: bool) -> str | dict[str, str]:
    if not always:
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": b64encode(value).decode()}


def _classes(tensor: Tensor, labels: Labels) -> bytes:
    """For each row, the label and the score of each class, in the classes' order."""
    scores = by_row(tensor)
    names = labels_of(labels, scores.shape[1])
    rows: Any = scores
    if not np.isfinite(scores).all():
        rows = [[orjson.Fragment(_number_json(score)) for score in row] for row in scores]
    return orjson.dumps([list(zip(names, row, strict=True)) for row in rows], option=_NUMPY)


def labels_of(labels: Labels, classes: int) -> list[str]:
    """The name of each class: its index, if it has no label."""
    return [labels.get(i, str(i)) for i in range(classes)]


def _values(tensor: Tensor) -> bytes:
    """One number for each row."""
    return numbers_json(single(tensor).reshape(-1))


def single(tensor: Tensor) -> NDArray[Any]:
    """One number for each row, of two axes. Raises InvalidRequest for several."""
    values = by_row(tensor)
    if values.shape[1] != 1:
        raise InvalidRequest(
            f"output '{shown(tensor.name)}' has shape {list(tensor.shape)}: regress needs one number for each example. "
            "Use predict"
        )
    return values


def by_row(tensor: Tensor) -> NDArray[Any]:
    """The numbers of each row. Raises InvalidRequest for a single value."""
    values = array(tensor)
    if not values.ndim:
        raise InvalidRequest(f"output '{shown(tensor.name)}' is a single value, not one for each example. Use predict")
    return values.reshape(len(values), -1) if values.size else values.reshape(len(values), 0)
