"""The two web services over HTTP: bodies to requests, outcomes to bodies.

POST /{model}/prediction is a path of both. The body tells which one is asked.
"""

from __future__ import annotations

from collections.abc import Hashable

from pdserver.dialects.base import Response
from pdserver.dialects.codec import LARGE_BYTES
from pdserver.dialects.known import KnownRequests
from pdserver.dialects.paddle import pipeline, pipeline_json, prediction
from pdserver.dialects.paddle.pipeline_json import read_fields, read_request, write_answer
from pdserver.dialects.paddle.pipeline_text import SPELLING
from pdserver.dialects.paddle.web_request import JSON, Known, Malformed, WebRequest, again, holds_again, refused
from pdserver.errors import Kind
from pdserver.types import Failure, Outcome, Reply, Request

_OF_THE_GATEWAY = (Kind.UNAVAILABLE, Kind.OVERLOADED, Kind.TOO_LARGE)
"""As if Pipeline's server were not there, or had not taken the message: with a status that balancers know."""


def read_body(known: Known, body: bytes, *, either: bool) -> WebRequest:
    """`either`: the path is one of both services. Raises PdError; its status says how to answer: see `web_request`."""
    key = known.spec.name, either
    return again(known, _read_before.find(key, body), body) or _read_anew(known, key, body, either=either)


def _read_anew(known: Known, key: Hashable, body: bytes, *, either: bool) -> WebRequest:
    fields = read_fields(body)
    if either and prediction.is_prediction(fields):
        request = prediction.request_of(known, fields)
    else:
        request = pipeline.request_of(known, read_request(fields))
    if holds_again(known, request):
        _read_before.learn(key, body, known.spec, known.interface, request)
    return request


def numbers_of(body: bytes) -> bytes:
    """The text of all numbers in a body; empty if they are in several places, and for what is no request."""
    try:
        fields = read_fields(body)
        if prediction.is_prediction(fields):
            return prediction.numbers_of(fields)
        return pipeline_json.numbers_of(fields)
    except Malformed:
        return b""


_read_before: KnownRequests[WebRequest] = KnownRequests(numbers_of, SPELLING)


def asks_old_service(body: bytes) -> bool:
    """Whether a body is a request of the old service. Raises Malformed."""
    return prediction.is_prediction(read_fields(body))


def response_of(request: Request, outcome: Outcome) -> Response:
    """The answer to a request that has been run, or could not be. Raises InvalidRequest for a reply that is broken."""
    if isinstance(request, WebRequest):
        if request.form == "prediction":
            return prediction.response_of(outcome)
        if isinstance(outcome, Reply):
            return Response(200, JSON, write_answer(pipeline.answer_of(request, outcome)))
    assert isinstance(outcome, Failure)  # noqa: S101
    if prediction.is_complaint(request, outcome):
        return prediction.complaint(outcome)
    if outcome.kind in _OF_THE_GATEWAY or (outcome.status and not isinstance(request, WebRequest)):
        return refused(outcome)
    return Response(200, JSON, write_answer(pipeline.failed(outcome)))


def is_long_answer(reply: Reply) -> bool:
    """Whether the answer takes long to write."""
    size = len(reply.body)
    for tensor in reply.tensors:
        size += len(tensor.data)
    return size >= LARGE_BYTES
