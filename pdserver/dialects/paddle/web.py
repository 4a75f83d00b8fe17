"""The two web services over HTTP: bodies to requests, outcomes to bodies.

POST /{model}/prediction is a path of both. The body tells which one is asked.
"""

from __future__ import annotations

from pdserver.dialects.base import Response
from pdserver.dialects.codec import LARGE_BYTES
from pdserver.dialects.paddle import pipeline, prediction
from pdserver.dialects.paddle.pipeline_json import read_fields, read_request, write_answer
from pdserver.dialects.paddle.web_request import JSON, Known, WebRequest, refused
from pdserver.errors import Kind
from pdserver.types import Failure, Outcome, Reply, Request

_OF_THE_GATEWAY = (Kind.UNAVAILABLE, Kind.OVERLOADED, Kind.TOO_LARGE)
"""As if Pipeline's server were not there, or had not taken the message: with a status that balancers know."""


def read_body(known: Known, body: bytes, *, either: bool) -> WebRequest:
    """`either`: the path is one of both services. Raises PdError; its status says how to answer: see `web_request`."""
    fields = read_fields(body)
    if either and prediction.is_prediction(fields):
        return prediction.request_of(known, fields)
    return pipeline.request_of(known, read_request(fields))


def asks_old_service(body: bytes) -> bool:
    """Whether a body is a request of the old service. Raises Malformed."""
    return prediction.is_prediction(read_fields(body))


def response_of(request: Request, outcome: Outcome) -> Response:
    """The answer to a request that has been run, or could not be. Raises InvalidRequest for a reply that is broken."""
    if isinstance(request, WebRequest) and request.form == "prediction":
        return prediction.response_of(outcome)
    if not isinstance(outcome, Failure):
        assert isinstance(request, WebRequest)  # noqa: S101
        return Response(200, JSON, write_answer(pipeline.answer_of(request, outcome)))
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
