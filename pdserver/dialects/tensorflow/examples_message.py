"""Input of tf.Examples → a request; its reply → results of Classify and Regress.

Source: input.proto, classification.proto, regression.proto, and the texts of errors where TensorFlow parses Examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdserver.dialects.protos import decode, message_class
from pdserver.dialects.protos.wire import field, fields
from pdserver.dialects.tensorflow.answer_json import by_row, labels_of, single
from pdserver.dialects.tensorflow.data_types import DATA_TYPES
from pdserver.dialects.tensorflow.examples_json import inputs_of, rows_of, scores_of
from pdserver.dialects.tensorflow.request import Asked, Form, ServingRequest, put_together
from pdserver.dialects.tensorflow.tensor_proto import Data
from pdserver.dtypes import BYTES
from pdserver.errors import InvalidRequest
from pdserver.formats.values import shown
from pdserver.types import Output, Port, Tensor

_Input = message_class("tensorflow.serving.Input")
_INPUT = 0x12
"""How the input begins in the requests of all methods."""
_ROWS, _CLASSES, _LABEL = b"\x0a", b"\x0a", b"\x0a"
"""Of ClassificationResult and RegressionResult; of Classifications; of Class."""
_SCORE, _VALUE = b"\x15\0\0\0\0", b"\x0d\0\0\0\0"
"""Of Class, of Regression; the number is still to come."""
_FLOAT_BYTES = 4
_KINDS = {"bytes_list": "string", "float_list": "float", "int64_list": "int64"}


def cut(data: Data, name: str) -> tuple[bytes, bytes]:
    """The message called `name` without its Input, and this, unread. Raises InvalidRequest."""
    rest, given = [], []
    for tag, start, place, end in fields(data, name):
        if tag == _INPUT:
            given.append(data[place:end])
        else:
            rest.append(data[start:end])
    return b"".join(rest), b"".join(given)


def read_input(asked: Asked, data: Data, form: Form, most_bytes: int) -> ServingRequest:
    """A request for the one output that has the scores or the values. The context may have `most_bytes` in all
    examples together. Raises InvalidRequest, LongContext."""
    given = decode(_Input, data)
    kind = given.WhichOneof("kind")
    examples = getattr(given, kind).examples if kind else ()
    if not examples:
        raise InvalidRequest("Input is empty")
    ports = asked.interface.inputs
    context = _features(given.example_list_with_context.context, ports) if kind != "example_list" else {}
    rows = rows_of(context, len(examples), (_features(example, ports) for example in examples), most_bytes)
    return put_together(asked, inputs_of(ports, rows), (Output(scores_of(asked.interface, form).name),), form)


def classified(tensor: Tensor, labels: Mapping[int, str]) -> bytes:
    """A ClassificationResult: for each row the label and the score of each class, in the classes' order."""
    scores = by_row(tensor)
    classes = [b"".join(field(_LABEL, name.encode())) + _SCORE for name in labels_of(labels, scores.shape[1])]
    return _results(scores, [b"".join(field(_CLASSES, each)) for each in classes])


def regressed(tensor: Tensor) -> bytes:
    """A RegressionResult: one number for each row. Raises InvalidRequest for several."""
    return _results(single(tensor), [_VALUE])


def _results(numbers: NDArray[Any], columns: Sequence[bytes]) -> bytes:
    """A message for each row, of one piece for each column, whose last four bytes are the number's.

    The bytes of all rows are the same but for the numbers. So these are put into copies of one row.
    """
    row = b"".join(field(_ROWS, b"".join(columns)))
    written = np.frombuffer(row * len(numbers), np.uint8).reshape(len(numbers), len(row)).copy()
    held = np.ascontiguousarray(numbers, "<f4").view(np.uint8).reshape(len(numbers), len(columns), _FLOAT_BYTES)
    place = len(row) - sum(map(len, columns))
    for column, piece in enumerate(columns):
        place += len(piece)
        written[:, place - _FLOAT_BYTES : place] = held[:, column]
    return bytes(written.data)


def _features(example: Any, ports: Sequence[Port]) -> dict[str, list[Any]]:
    """The features that are inputs, as lists. Raises InvalidRequest for another type."""
    given = example.features.feature
    found = {}
    for port in ports:
        kind = given[port.name].WhichOneof("kind") if port.name in given else None
        if kind:
            _check_kind(port, kind)
            values = list(getattr(given[port.name], kind).value)
            found[port.name] = list(map(bool, values)) if port.dtype == "bool" else values
    return found


def _check_kind(port: Port, kind: str) -> None:
    numbers = {"float_list", "int64_list"} if "float" in port.dtype else {"int64_list"}
    if kind not in ({"bytes_list"} if port.dtype == BYTES else numbers):
        raise InvalidRequest(
            f"Key: {shown(port.name)}. Data types don't match. Data type: {_KINDS[kind]} but expected type:"
            f" {DATA_TYPES[port.dtype].word}"
        )
