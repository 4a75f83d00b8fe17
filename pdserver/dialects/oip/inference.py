"""An inference request's body → a Request.

Source: the Open Inference Protocol and Triton's extensions: binary tensor data, classification, shared memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from pdserver.dialects.base import Body, Headers
from pdserver.dialects.codec import LARGE_BYTES
from pdserver.dialects.oip.body import NO_DATA, Input, LooseInput, Source, read_head
from pdserver.dialects.oip.request import ALL_BINARY, ALL_JSON, InferRequest, read_outputs, treatment, whole, window
from pdserver.dialects.tensors import check, check_outputs, check_shape, dtype_of, from_json, from_values
from pdserver.errors import InvalidRequest
from pdserver.formats.values import shown
from pdserver.tensors import BYTES
from pdserver.types import Interface, ModelSpec, Output, Part, Tensor


def read_request(
    spec: ModelSpec,
    interface: Interface,
    headers: Headers,
    body: Body,
    head_bytes: int | None,
    request_id: str,
    accepts: bytes,
) -> InferRequest:
    """`head_bytes` is how much of the body is JSON: None, all of it; 0, none, for it is one input's data.

    What is in shared memory is still to be taken from there, by `Regions.settle`. Raises InvalidRequest.
    """
    source = Source(spec.name, body, head_bytes)
    inputs: list[Tensor]
    outputs: Sequence[Output] = ()
    if head_bytes == 0:
        inputs = [source.raw(spec, interface)]
        asked = treatment(None, spec)
        forms = ALL_BINARY
        own_id = None
    else:
        head = read_head(source.json())
        items: Sequence[Input | LooseInput] = head.inputs
        inputs = [_tensor(item, place, source) for place, item in enumerate(items)]
        source.check_end()
        asked = treatment(head.parameters, spec)
        forms = ALL_BINARY if asked.form.binary else ALL_JSON
        if head.outputs:
            outputs, forms = read_outputs(((item.name, item.parameters) for item in head.outputs), asked, source.shared)
            check_outputs(spec, interface, outputs)
        own_id = head.id
    rows = check(spec, interface, inputs)
    if source.files:
        body.kept.extend(source.files)
    given: list[Part | Tensor] = [*inputs]
    return InferRequest(
        spec.name,
        spec.version,
        own_id or request_id,
        given,
        headers + asked.headers if asked.headers else headers,
        "",
        "predict",
        [file.fd for file in source.files] if source.files else [],
        "",
        True,
        outputs,
        asked.parameters,
        rows,
        asked.timeout_seconds,
        asked.priority,
        asked.sequence,
        bool(own_id),
        forms,
        source.shared,
        accepts,
    )


def is_long(head_bytes: int | None, interface: Interface) -> bool:
    """Whether it takes long to read a large body: much of it is JSON, or it has to be copied."""
    if head_bytes == 0:
        return any(port.dtype == BYTES for port in interface.inputs)
    return head_bytes is None or head_bytes >= LARGE_BYTES


def _tensor(given: Input | LooseInput, place: int, source: Source) -> Tensor:
    name = given.name
    title = f"input '{shown(name)}'"
    dtype = dtype_of(given.datatype, title)
    shape = check_shape(given.shape, title)
    parameters = given.parameters or {}
    size = parameters.get("binary_data_size")
    in_region = parameters.get("shared_memory_region") is not None
    if (given.data is not NO_DATA) + (size is not None) + in_region != 1:
        raise InvalidRequest(
            f"{title} must have exactly one of 'data', the parameter 'binary_data_size' and the parameter "
            "'shared_memory_region'"
        )
    if size is not None:
        return source.take(name, dtype, shape, whole("binary_data_size", size, f"{title}: "))
    if in_region:
        region, offset, size = window(f"{title}: ", parameters)
        source.shared.append((place, region))
        return Tensor(name, dtype, shape, b"", -1, offset, size)
    if isinstance(given, Input):
        return Tensor(name, dtype, shape, from_json(title, dtype, shape, given.data))
    return Tensor(name, dtype, shape, from_values(title, dtype, shape, given.data))
