"""Outcomes of inferences → JSON, with binary tensors behind it or written to shared memory.

Source: the Open Inference Protocol and Triton's binary tensor data extension.
"""

from __future__ import annotations

from typing import Any

import orjson

from pdserver.dialects.base import Headers, Response, retry_headers
from pdserver.dialects.codec import LARGE_BYTES
from pdserver.dialects.oip.compression import chosen, compressed
from pdserver.dialects.oip.errors import failure_json, of_inference
from pdserver.dialects.oip.request import AS_JSON, Form, InferRequest
from pdserver.dialects.tensors import DATATYPES, to_json
from pdserver.types import Failure, Reply, Tensor

JSON = b"application/json"
_BINARY = b"application/octet-stream"
_LENGTH = b"Inference-Header-Content-Length"


def failed(failure: Failure) -> Response:
    status, body = failure_json(of_inference(failure))
    return Response(status, JSON, body, retry_headers(failure))


def is_long_answer(request: InferRequest, reply: Reply) -> bool:
    """Whether it takes long to write the answer: much of it is JSON, or is to be compressed."""
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
    """What is in shared memory is there already.

    Raises InvalidRequest for outputs that can't be given as they were asked for.
    """
    pieces: list[bytes] = []
    head: dict[str, Any] = {"model_name": request.model, "model_version": request.version}
    if request.own_id:
        head["id"] = request.id
    if reply.parameters:
        head["parameters"] = reply.parameters
    default = request.forms.get("", AS_JSON)
    head["outputs"] = [_tensor(t, request.forms.get(t.name, default), pieces) for t in reply.tensors]
    text = orjson.dumps(head)
    if request.accepts:
        return _maybe_compressed(request.accepts, text, pieces)
    if not pieces:
        return Response(200, JSON, text)
    return Response(200, _BINARY, text, [(_LENGTH, b"%d" % len(text))], more=tuple(pieces))


def _maybe_compressed(accepts: bytes, text: bytes, pieces: list[bytes]) -> Response:
    headers: Headers = [(_LENGTH, b"%d" % len(text))] if pieces else []
    content_type = _BINARY if pieces else JSON
    encoding = chosen(accepts, len(text) + sum(map(len, pieces)), numbers=bool(pieces))
    if not encoding:
        return Response(200, content_type, text, headers, more=tuple(pieces))
    headers.append((b"content-encoding", encoding.encode()))
    return Response(200, content_type, compressed([text, *pieces], encoding), headers)


def _tensor(tensor: Tensor, form: Form, pieces: list[bytes]) -> dict[str, Any]:
    """An output's JSON; what goes behind it is added to `pieces`."""
    described: dict[str, Any] = {
        "name": tensor.name,
        "datatype": DATATYPES[tensor.dtype],
        "shape": tensor.shape,
    }
    size = len(tensor.data)
    if form.region:
        return described  # without parameters, as from Triton: its C++ client takes any for those of binary data
    if form.binary:
        described["parameters"] = {"binary_data_size": size}
        if size:
            pieces.append(tensor.data)
    else:
        described["data"] = orjson.Fragment(to_json(tensor))
    return described
