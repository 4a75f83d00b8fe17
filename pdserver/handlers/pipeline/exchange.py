"""What a client sent → what the first Ops are given; what the last Op gave → the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pdserver.errors import InvalidRequest
from pdserver.handlers.pipeline.failures import CustomExceptionCode, raise_product_error
from pdserver.handlers.pipeline.op import ChannelData, PipelineRequest, PipelineResponse, RequestOp, ResponseOp
from pdserver.handlers.pipeline.run import Attempt
from pdserver.handlers.runtime.parts import opened

ERROR_HEADER = "x-pipeline-err-no"
"""On an answer that is a failure: its number. Pipeline's dialect reads it there, and writes the next one."""
LOG_ID_HEADER = "x-pipeline-logid"


class Answer(NamedTuple):
    """`body`: texts by name, or the text of a failure, whose number is not 0."""

    body: dict[str, str] | str
    number: int
    status: int


def given(op: RequestOp, attempt: Attempt, row: dict[str, Any], log_id_text: str | None) -> dict[str, Any]:
    """What a request says to the first Ops; its log id becomes that of `attempt`, which has failed if this does."""
    found: dict[str, Any] = {}
    with attempt.failing("the request"):
        found, log_id, number, text = op.unpack_request_package(_request(row, log_id_text or "0"))
        raise_product_error(number, text)
        attempt.log_id = log_id or 0
    return found


def answered(op: ResponseOp, attempt: Attempt, answer: dict[str, Any] | None) -> Answer:
    """`answer` is None where `attempt` has failed."""
    response = PipelineResponse()
    if answer is not None:
        with attempt.failing("the answer"):
            response = op.pack_response_package(ChannelData(attempt.data_id, attempt.log_id, 0, "", answer))
    if attempt.failure is not None:
        number, text = attempt.failure.number, str(attempt.failure)
        response = op.pack_response_package(ChannelData(attempt.data_id, attempt.log_id, number, text))
    if response.err_no:
        return Answer(response.err_msg, response.err_no, _status(response.err_no))
    return Answer(dict(zip(response.key, response.value, strict=True)), 0, 200)


def _request(row: dict[str, Any], log_id: str) -> PipelineRequest:
    """Keys and values as Pipeline's protocol has them, or as JSON, or as a form."""
    values: Mapping[str, Any] = row
    if row.keys() == {"body"} and isinstance(body := opened(row["body"]), dict):
        values = body
        if body.keys() >= {"key", "value"} and isinstance(body["key"], list) and isinstance(body["value"], list):
            values = _paired(body["key"], body["value"])
    request = PipelineRequest(logid=int(log_id) if log_id.removeprefix("-").isdecimal() else 0)
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            request.arrays[name] = value if value.flags.writeable else value.copy()
        else:
            request.key.append(name)
            request.value.append(_text(value))
    return request


def _paired(names: list[Any], values: list[Any]) -> dict[str, Any]:
    """Raises InvalidRequest."""
    if len(names) != len(values) or not all(isinstance(name, str) for name in names):
        raise InvalidRequest(f"{len(names)} keys, {len(values)} values: expected one value for each key, which is text")
    return dict(zip(names, values, strict=True))


def _text(value: Any) -> Any:
    """Pipeline's values are texts; what is not UTF-8 stays bytes."""
    if not isinstance(value, bytearray):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return bytes(value)


def _status(number: int) -> int:
    """400 for what is wrong with the request, and for what the operator's own code says of it."""
    of_request = number in (CustomExceptionCode.INPUT_PARAMS_ERROR.value, CustomExceptionCode.RPC_PACKAGE_ERROR.value)
    return 400 if of_request or 50 <= number <= 99 else 500
