"""Typed requests that are alike → one array for each input; the outputs → what each request gets of them.

The general way (`typed`) makes arrays of each request. Here, the data of all requests are joined as bytes, and each
output becomes bytes once, which are cut. Both functions give None for anything odd: the general way takes it, and it
alone refuses requests.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any, cast

import numpy as np

from pdserver.dtypes import BFLOAT16
from pdserver.errors import HandlerFailed, InvalidRequest
from pdserver.handlers.runtime.rows import Array, Arrays
from pdserver.tensors import array, byte_size, tensor
from pdserver.types import Outcome, Output, Reply, Request, Tensor


def joined(requests: Sequence[Request]) -> tuple[Arrays, list[int]] | None:
    """The inputs of all requests, one request's rows after the other's, and how many rows each has.

    None unless all have the same inputs in the same order, of the same dtypes, and of the same shapes but for the first
    axis, along which all inputs of one request are equally long.
    """
    arrays: Arrays = {}
    rows: list[int] = []
    try:
        for column in zip(*[request.inputs for request in requests], strict=True):
            counts, arrays[column[0].name] = _joined(cast(Sequence[Tensor], column))
            if counts != (rows or counts):
                return None
            rows = counts
    except (AttributeError, InvalidRequest, LookupError, ValueError):
        return None
    return (arrays, rows) if rows else None


def _joined(column: Sequence[Tensor]) -> tuple[list[int], Array]:
    """How many rows each request has of one input, and all of them. Raises one of the errors above for what is odd."""
    first = column[0]
    name, dtype, row = first.name, first.dtype, first.shape[1:]
    row_bytes = byte_size(dtype, row)
    if not row_bytes:
        raise ValueError("elements of any length, or none")
    counts: list[int] = []
    for given in column:
        shape = given.shape
        if given.name != name or given.dtype != dtype or shape[1:] != row or len(given.data) != shape[0] * row_bytes:
            raise ValueError("not alike, or the data do not fit the shape")
        counts.append(shape[0])
    pieces = [given.data for given in column]
    whole = pieces[0] if len(pieces) == 1 else cast(bytes, bytearray().join(pieces))
    return counts, array(Tensor(name, dtype, (sum(counts), *row), whole))


def cut(outputs: Arrays, requests: Sequence[Request], rows: Sequence[int], bfloat16: Set[str]) -> list[Outcome] | None:
    """The reply to each request: its rows of the outputs that it asks for. `bfloat16` are the names of such outputs.

    None unless all ask for the same, as numbers, and every output is an array with a row for each of the inputs'.
    """
    asked, total = requests[0].outputs, sum(rows)
    for request in requests:
        if request.outputs != asked:
            return None
    if type(outputs) is not dict or not all(_is_plain(values, total) for values in outputs.values()):
        return None
    columns: list[list[Tensor]] = []
    for output in wanted(asked, outputs):
        name = output.name
        if output.classes or name not in outputs:
            return None
        try:
            columns.append(_cut(tensor(name, outputs[name], BFLOAT16 if name in bfloat16 else None), rows))
        except HandlerFailed:
            return None
    return [Reply(b"", "", tensors=[*own]) for own in zip(*columns, strict=True)] or None


def _cut(whole: Tensor, rows: Sequence[int]) -> list[Tensor]:
    """The rows of each request."""
    name, dtype, row, data = whole.name, whole.dtype, whole.shape[1:], whole.data
    row_bytes = len(data) // whole.shape[0]
    pieces: list[Tensor] = []
    start = 0
    for count in rows:
        end = start + count * row_bytes
        pieces.append(Tensor(name, dtype, (count, *row), data[start:end]))
        start = end
    return pieces


def _is_plain(values: Any, rows: int) -> bool:
    return type(values) is np.ndarray and values.dtype.kind in "biuf" and values.shape[:1] == (rows,) and rows > 0


def wanted(asked: Sequence[Output], outputs: Arrays) -> list[Output]:
    """The outputs that a request gets: those that it asks for, or all."""
    return [output for output in asked if output.name] or [Output(str(name)) for name in outputs]
