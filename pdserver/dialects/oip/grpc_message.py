"""ModelInferRequest → InferRequest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pdserver.dialects.base import Headers
from pdserver.dialects.oip.grpc_tensors import parameters, read_inputs
from pdserver.dialects.oip.request import InferRequest, Shared, read_outputs, treatment
from pdserver.dialects.tensors import check, check_outputs
from pdserver.types import Interface, ModelSpec

_EMPTY_FINAL = "triton_enable_empty_final_response"


def read_message(
    spec: ModelSpec,
    interface: Interface,
    message: Any,
    raw: Sequence[bytes | memoryview],
    headers: Headers,
    request_id: str,
    timeout_seconds: float,
) -> InferRequest:
    """`raw` are its raw_input_contents, wherever they are, `timeout_seconds` the call's own timeout.

    What is in shared memory is still to be taken from there, by `Regions.settle`. Raises InvalidRequest.
    """
    shared: Shared = []
    inputs = read_inputs(message, raw, shared)
    given = parameters(message.parameters)
    empty_final = given.pop(_EMPTY_FINAL, False) is True
    how = treatment(given, spec)
    wanted = ((item.name, parameters(item.parameters)) for item in message.outputs)
    outputs, forms = read_outputs(wanted, how, shared)
    check_outputs(spec, interface, outputs)
    return InferRequest(
        spec.name,
        spec.version,
        request_id,
        [*inputs],
        headers + how.headers,
        typed=True,
        outputs=outputs,
        parameters=how.parameters,
        rows=check(spec, interface, inputs),
        timeout_seconds=_earlier(how.timeout_seconds, timeout_seconds),
        priority=how.priority,
        sequence=how.sequence,
        own_id=bool(message.id),
        forms=forms,
        shared=shared,
        empty_final=empty_final,
    )


def _earlier(first: float, second: float) -> float:
    """Of two timeouts, where 0 is none."""
    return min(first, second) if first and second else first or second
