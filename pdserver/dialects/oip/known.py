"""Inference requests that differ from an earlier one in nothing but their numbers, over REST.

These are JSON with one input, and JSON with any inputs in binary behind it.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec

from pdserver.dialects.base import Headers
from pdserver.dialects.known import JSON, KnownRequests, Read
from pdserver.dialects.oip.body import RequestJson, read_json
from pdserver.dialects.oip.request import InferRequest
from pdserver.dtypes import BYTES
from pdserver.engine.catalogue import ServedVersion, interface_of
from pdserver.errors import InvalidRequest
from pdserver.types import Part, Tensor

_with = msgspec.structs.replace


class KnownInferences:
    """A bounded cache. `head_bytes` is how much of a body is JSON; None: all of it."""

    def __init__(self) -> None:
        self._known: KnownRequests[InferRequest] = KnownRequests(_numbers_of, JSON)

    def find(
        self, served: ServedVersion, headers: Headers, data: bytes, head_bytes: int | None, request_id: str,
        accepts: bytes,
    ) -> InferRequest | None:  # fmt: skip
        """The request of this body, if all but its numbers are known."""
        spec = served.spec
        known = self._known.find((spec.name, spec.version, head_bytes), data)
        if known is None or known.spec is not spec or known.interface is not served.interface:
            return None
        inputs = known.inputs(data)
        if inputs is None:
            return None
        return _with(known.request, id=request_id, inputs=inputs, headers=headers, accepts=accepts)

    def learn(
        self, served: ServedVersion, headers: Headers, data: bytes, head_bytes: int | None, request: InferRequest
    ) -> None:
        """Keep the request that was read from this body, if there is nothing in it for this one time."""
        own = request.own_id or request.shared or request.files or request.parameters or request.headers is not headers
        if own or request.timeout_seconds or request.priority:
            return
        spec, interface = served.spec, interface_of(served)
        key = (spec.name, spec.version, head_bytes)
        if head_bytes is None:
            self._known.learn(key, data, spec, interface, request)
            return
        read = _views(data, head_bytes, cast(list[Tensor], request.inputs))
        if read is not None:
            self._known.keep(key, data, head_bytes, len(data), spec, interface, request, read)


def _numbers_of(data: bytes) -> bytes:
    try:
        head = read_json(data)
    except InvalidRequest:
        return b""
    return bytes(head.inputs[0].data) if isinstance(head, RequestJson) and len(head.inputs) == 1 else b""


def _views(data: bytes, place: int, inputs: list[Tensor]) -> Read | None:
    """What takes inputs from bodies of this size, whose data follow one another from `place`; None if they don't."""
    size = len(data)
    taken = []
    for tensor in inputs:
        held: Any = tensor.data
        if type(held) is not memoryview or tensor.dtype == BYTES:
            return None
        taken.append((tensor.name, tensor.dtype, tensor.shape, slice(place, place + len(held))))
        place += len(held)

    def read(data: bytes) -> list[Part | Tensor] | None:
        if len(data) != size:
            return None
        view: Any = memoryview(data)
        return [Tensor(name, dtype, shape, view[at]) for name, dtype, shape, at in taken]

    return read
