"""ModelInferRequest → Request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from pdserver.dialects.base import Headers
from pdserver.dialects.oip.grpc_tensors import parameters, read_inputs
from pdserver.dialects.oip.inference import Shared, output
from pdserver.dialects.oip.parameters import id_header, treatment
from pdserver.dialects.tensors import check, check_outputs
from pdserver.types import Interface, ModelSpec, Request

_EMPTY_FINAL = "triton_enable_empty_final_response"


class Asked(msgspec.Struct, array_like=True):
    """A request, and what else its answer needs."""

    request: Request
    id: str
    """The client's own; empty, if it gave none."""
    empty_final: bool
    """Whether the client wants to be told of the end of a stream by an empty answer, when there is no other way."""
    shared: Shared
    sequence: bytes = b""
    """Its name; empty, if the model has none."""


def read_message(
    spec: ModelSpec,
    interface: Interface,
    message: Any,
    raw: Sequence[bytes | memoryview],
    headers: Headers,
    request_id: str,
    timeout_seconds: float,
) -> Asked:
    """`raw` are its raw_input_contents, wherever they are, `timeout_seconds` the call's own timeout.

    What is in shared memory is still to be taken from there, by `Regions.settle`. Raises InvalidRequest.
    """
    shared: Shared = []
    inputs = read_inputs(message, raw, shared)
    given = parameters(message.parameters)
    empty_final = given.pop(_EMPTY_FINAL, False) is True
    how = treatment(given, spec)
    outputs = [output(item.name, parameters(item.parameters), how, shared) for item in message.outputs]
    check_outputs(spec, interface, outputs)
    request = Request(
        spec.name,
        spec.version,
        request_id,
        [*inputs],
        headers + how.headers,
        outputs=outputs,
        parameters=how.parameters,
        rows=check(spec, interface, inputs),
        timeout_seconds=_earlier(how.timeout_seconds, timeout_seconds),
        priority=how.priority,
    )
    sequence = b""
    if how.headers or spec.sequence_batching:
        header = id_header(spec)
        sequence = next((value for name, value in request.headers if name == header), b"")
    return Asked(request, message.id, empty_final, shared, sequence)


def _earlier(first: float, second: float) -> float:
    """Of two timeouts, where 0 is none."""
    return min(first, second) if first and second else first or second
