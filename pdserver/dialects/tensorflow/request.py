"""A request of this protocol, whether JSON or a message brought it, with its inputs in the shapes that the model takes.

TensorFlow does not compare what clients send with a model's signature, and many send a number where the model has an
axis of one. So that is the same here.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from pdserver.configuration.model import ModelSpec
from pdserver.dialects.base import Headers
from pdserver.dialects.tensors import check, check_outputs
from pdserver.errors import InvalidRequest
from pdserver.formats.values import shown
from pdserver.types import Interface, Output, Port, Request, Tensor

SIGNATURE = "serving_default"
"""The name of the signature that each model has."""
Form = Literal["row", "column", "classify", "regress", ""]
Shape = tuple[int, ...]


class ServingRequest(Request, frozen=True, array_like=True, gc=False):
    """With what only the writer of its answer needs."""

    form: Form = ""
    """What of JSON the answer is to be; empty: it is a message."""
    accepts: bytes = b""
    """The client's Accept-Encoding."""


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """All that is known of a request beside its body."""

    spec: ModelSpec
    interface: Interface
    headers: Headers
    request_id: str
    accepts: bytes = b""
    timeout_seconds: float = 0.0


def put_together(
    asked: Asked, inputs: list[Tensor], outputs: tuple[Output, ...] = (), form: Form = ""
) -> ServingRequest:
    """Of `outputs`, none means all. Raises InvalidRequest."""
    spec, interface = asked.spec, asked.interface
    if outputs:
        check_outputs(spec, interface, outputs)
    rows = check(spec, interface, inputs, any_rows=True)
    return ServingRequest(
        spec.name, spec.version, asked.request_id, [*inputs], asked.headers, "", "predict", [], "", True, outputs, {},
        rows, asked.timeout_seconds, 0, None, None, form, asked.accepts,
    )  # fmt: skip


def fitted(port: Port, shape: Shape) -> Shape:
    """The shape with axes of one more or less at its end, where the model's are of one or any length; else as it is."""
    if port.any_rank:
        return shape
    rank = len(port.shape)
    if len(shape) < rank:
        return shape + (1,) * (rank - len(shape)) if set(port.shape[len(shape) :]) <= {1, -1} else shape
    return shape[:rank] if set(shape[rank:]) == {1} else shape


def flat_fitted(port: Port, shape: Shape) -> Shape:
    """The same for rows that are flat lists, as features of tf.Example are."""
    row = port.shape[1:]
    if len(shape) == 2 and len(row) > 1 and -1 not in row and math.prod(row) == shape[1]:
        return (shape[0], *row)
    return fitted(port, shape)


def check_signature(name: str) -> None:
    """Raises InvalidRequest for a name that no signature has; empty: the default one."""
    if name not in ("", SIGNATURE):
        raise InvalidRequest(
            f'Serving signature name: "{shown(name)}" not found in signature def: models have the one signature '
            f"{SIGNATURE}"
        )
