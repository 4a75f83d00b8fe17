"""Requests in binary whose JSON need not be read again.

A client sends the same JSON with each of its requests, and other tensors behind it. What the JSON says, checked against
a version, holds until that version changes in the catalogue.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec

from pdserver.dialects.base import Body, Headers
from pdserver.dialects.oip.request import Forms, InferRequest
from pdserver.dtypes import BYTES
from pdserver.engine.catalogue import ServedVersion
from pdserver.types import Output, Part, Tensor

_MOST = 1000
_MAX_BYTES = 2048


class _Known(msgspec.Struct, frozen=True, gc=False):
    """A request without its tensors' data."""

    served: ServedVersion
    """The version that it was checked against."""
    size: int
    """Of the body, in bytes."""
    inputs: tuple[tuple[str, str, tuple[int, ...], slice], ...]
    """Name, dtype, shape, and where in the body the data are."""
    outputs: tuple[Output, ...]
    forms: Forms
    rows: int


class KnownRequests:
    """A bounded cache."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Known] = {}
        """By the JSON."""

    def find(
        self, served: ServedVersion, headers: Headers, body: Body, head_bytes: int, request_id: str, accepts: bytes
    ) -> InferRequest | None:
        """The request of this body, if all but the tensors' data are known."""
        data = body.data
        known = self._known.get(data[:head_bytes]) if head_bytes <= _MAX_BYTES else None
        if known is None or known.served is not served or known.size != len(data):
            return None
        view: Any = memoryview(data)
        inputs: list[Part | Tensor] = [Tensor(name, dtype, shape, view[at]) for name, dtype, shape, at in known.inputs]
        spec = served.spec
        return InferRequest(
            spec.name, spec.version, request_id, inputs, headers, "", "predict", [], "", True, known.outputs, {},
            known.rows, 0.0, 0, None, False, known.forms, [], accepts,
        )  # fmt: skip

    def learn(
        self, served: ServedVersion, headers: Headers, body: Body, head_bytes: int, request: InferRequest
    ) -> None:
        """Keep the request that was read from this body, if there is nothing in it but tensors in binary."""
        own = request.own_id or request.shared or request.files or request.parameters or request.headers is not headers
        if own or request.timeout_seconds or request.priority or head_bytes > _MAX_BYTES:
            return
        place = head_bytes
        inputs = []
        for tensor in cast(list[Tensor], request.inputs):
            data: Any = tensor.data
            if type(data) is not memoryview or tensor.dtype == BYTES:
                return
            inputs.append((tensor.name, tensor.dtype, tensor.shape, slice(place, place + len(data))))
            place += len(data)
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[body.data[:head_bytes]] = _Known(
            served, len(body.data), tuple(inputs), request.outputs, request.forms, request.rows
        )
