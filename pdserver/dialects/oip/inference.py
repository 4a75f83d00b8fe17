"""Inference over REST: a request's body → an InferRequest; its outcome → JSON, with binary tensors behind it.

Source: the Open Inference Protocol and Triton's extensions: binary tensor data, classification, shared memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import orjson

from pdserver.configuration.model import ModelSpec
from pdserver.dialects.base import Body, Headers, Response, retry_headers
from pdserver.dialects.codec import LARGE_BYTES
from pdserver.dialects.compression import chosen, compressed
from pdserver.dialects.oip.body import NO_DATA, InputJson, LooseInputJson, Source, read_json
from pdserver.dialects.oip.errors import failure_json, of_inference
from pdserver.dialects.oip.request import (
    ALL_BINARY,
    ALL_JSON,
    AS_JSON,
    Form,
    InferRequest,
    read_outputs,
    treatment,
    whole,
    window,
)
from pdserver.dialects.tensors import check, check_outputs, check_shape, dtype_of, from_json, from_values, json_writer
from pdserver.dtypes import BYTES, DATATYPES
from pdserver.errors import InvalidRequest
from pdserver.formats.values import shown
from pdserver.types import Failure, Interface, Output, Part, Reply, Tensor

_JSON = b"application/json"
_BINARY = b"application/octet-stream"
_LENGTH = b"Inference-Header-Content-Length"


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
    outputs: tuple[Output, ...] = ()
    if head_bytes == 0:
        inputs = [source.raw(spec, interface)]
        asked = treatment(None, spec)
        forms = ALL_BINARY
        own_id = None
    else:
        head = read_json(source.json())
        items: Sequence[InputJson | LooseInputJson] = head.inputs
        inputs = [_input(item, place, source) for place, item in enumerate(items)]
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
        None,
        bool(own_id),
        forms,
        source.shared,
        accepts,
    )


def is_long(head_bytes: int | None, interface: Interface) -> bool:
    """Whether a large body takes long to read: much of it is JSON, or has to be copied."""
    if head_bytes == 0:
        return any(port.dtype == BYTES for port in interface.inputs)
    return head_bytes is None or head_bytes >= LARGE_BYTES


@lru_cache(maxsize=1024)
def _title(name: str) -> str:
    """What errors call an input."""
    return f"input '{shown(name)}'"


def _input(given: InputJson | LooseInputJson, place: int, source: Source) -> Tensor:
    name = given.name
    title = _title(name)
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
    if isinstance(given, InputJson):
        return Tensor(name, dtype, shape, from_json(title, dtype, shape, given.data))
    return Tensor(name, dtype, shape, from_values(title, dtype, shape, given.data))


def failed(failure: Failure) -> Response:
    status, body = failure_json(of_inference(failure))
    return Response(status, _JSON, body, retry_headers(failure))


def is_long_answer(request: InferRequest, reply: Reply) -> bool:
    """Whether the answer takes long to write: much of it is JSON, or is to be compressed."""
    size = 0
    for tensor in reply.tensors:
        size += len(tensor.data)
    if size < LARGE_BYTES:
        return False
    default = request.forms.get("", AS_JSON)
    asked = [(tensor, request.forms.get(tensor.name, default)) for tensor in reply.tensors]
    as_json = sum(len(tensor.data) for tensor, form in asked if not (form.binary or form.region))
    binary = sum(len(tensor.data) for tensor, form in asked if form.binary)
    return as_json >= LARGE_BYTES or bool(request.accepts and chosen(request.accepts, binary, numbers=True))


def answered(request: InferRequest, reply: Reply) -> Response:
    """The response. Outputs for shared memory have been written there before.

    Raises InvalidRequest for outputs that can't be given as they were asked for.
    """
    pieces: list[bytes] = []
    text = _beginning(request.model, request.version)
    if request.own_id:
        text += b'"id":%b,' % orjson.dumps(request.id)
    if reply.parameters:
        text += b'"parameters":%b,' % orjson.dumps(reply.parameters)
    forms = request.forms
    default = forms.get("", AS_JSON) if forms else AS_JSON
    outputs = []
    for tensor in reply.tensors:
        outputs.append(_output(tensor, forms.get(tensor.name, default) if forms else AS_JSON, pieces))
    text = b'%b"outputs":[%b]}' % (text, b",".join(outputs))
    if request.accepts:
        return _maybe_compressed(request.accepts, text, pieces)
    if not pieces:
        return Response(200, _JSON, text)
    return Response(200, _BINARY, text, [(_LENGTH, b"%d" % len(text))], more=tuple(pieces))


def _maybe_compressed(accepts: bytes, text: bytes, pieces: list[bytes]) -> Response:
    headers: Headers = [(_LENGTH, b"%d" % len(text))] if pieces else []
    content_type = _BINARY if pieces else _JSON
    encoding = chosen(accepts, len(text) + sum(map(len, pieces)), numbers=bool(pieces))
    if not encoding:
        return Response(200, content_type, text, headers, more=tuple(pieces))
    headers.append((b"content-encoding", encoding.encode()))
    return Response(200, content_type, compressed([text, *pieces], encoding), headers)


@lru_cache(maxsize=1024)
def _beginning(model: str, version: str | None) -> bytes:
    """Of an answer's JSON."""
    return orjson.dumps({"model_name": model, "model_version": version})[:-1] + b","


def _output(tensor: Tensor, form: Form, pieces: list[bytes]) -> bytes:
    """An output's JSON; its binary data, which go behind all JSON, are added to `pieces`."""
    size = len(tensor.data)
    described, write = _description(tensor.name, tensor.dtype, tensor.shape, size)
    if form.region:
        return described + b"}"  # without parameters, as from Triton: its C++ client takes any for those of binary data
    if not form.binary:
        return b'%b,"data":%b}' % (described, write(tensor))
    if size:
        pieces.append(tensor.data)
    return b'%b,"parameters":{"binary_data_size":%d}}' % (described, size)


@lru_cache(maxsize=1024)
def _description(name: str, dtype: str, shape: tuple[int, ...], size: int) -> tuple[bytes, Callable[[Tensor], bytes]]:
    """The beginning of an output's JSON, and what writes its data of so many bytes as JSON."""
    text = orjson.dumps({"name": name, "datatype": DATATYPES[dtype], "shape": shape})
    return text[:-1], json_writer(dtype, shape, size, quoted=False)
