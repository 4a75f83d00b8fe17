"""Pipeline's requests and answers, whatever carries them: values by key, tensors, or both.

A model that takes tensors of numbers is given what the texts say, or the tensors, and answers arrays. Any other handler
is given {key: text}, with arrays for tensors, and answers a dict.

Source: PipelineServer, RequestOp and ResponseOp of Paddle Serving 0.9.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pdserver.dialects.paddle.pipeline_tensors import for_handler, for_port
from pdserver.dialects.paddle.pipeline_text import read_text, written
from pdserver.dialects.paddle.web_request import MOST_FIELDS, Known, WebRequest, by_any_name, is_opaque, said
from pdserver.dialects.tensors import check
from pdserver.dtypes import BYTES
from pdserver.errors import InvalidRequest, Kind, PdError
from pdserver.formats.elements import packed
from pdserver.formats.values import shown
from pdserver.types import Failure, Outcome, Part, Reply, Tensor

PROFILE = "pipeline.profile"
"""A key with the value "1" asks for the times of the request; the answer has them under the same key."""
LOG_ID = b"x-pipeline-logid"
CLIENT_IP = b"x-pipeline-clientip"
"""The headers under which a handler finds what the client said of itself."""
ERR_NO = "x-pipeline-err-no"
"""A header that a handler sets on an answer which is its own error: the number; the answer is the message."""
_RESULT = "result"
"""The key of an answer that is no dict."""
_NO_NAME = "Failed to inference: Service name error. "

ERR_NOS: Mapping[Kind, int] = {
    Kind.INVALID: 5000,
    Kind.NOT_FOUND: 3002,
    Kind.VERSION_NOT_FOUND: 3002,
    Kind.CONFLICT: 4000,
    Kind.FORBIDDEN: 3000,
    Kind.UNSUPPORTED: 3000,
    Kind.TOO_LARGE: 5000,
    Kind.UNAVAILABLE: 3001,
    Kind.OVERLOADED: 3001,
    Kind.DEADLINE: 6000,
    Kind.WORKER_DIED: 9000,
    Kind.LOAD_FAILED: 3003,
    Kind.HANDLER: 9000,
    Kind.OUT_OF_MEMORY: 9000,
    Kind.CONFIG: 4000,
}
"""3000 to 3999 are the service's errors, 4000 those of its configuration, 5000 those of the input, 6000 time-outs, 7000
wrong types, 9000 errors of the inference."""


class Given(msgspec.Struct):
    """A Request of Pipeline's."""

    keys: Sequence[str]
    values: Sequence[str]
    tensors: list[Tensor]
    lods: dict[str, list[int]] = {}
    """By the tensors' names."""
    log_id: int = 0
    client_ip: str = ""
    service: str = ""
    """What a message names."""


class Answer(msgspec.Struct):
    """A Response of Pipeline's, with its fields in their order."""

    err_no: int = 0
    err_msg: str = ""
    key: list[str] = []
    value: list[str] = []
    tensors: list[Tensor] = []


def check_count(keys: Sequence[str], tensors: Sequence[Any]) -> None:
    """Before the tensors are read, which takes a while for each. Raises InvalidRequest."""
    if len(keys) + len(tensors) > MOST_FIELDS:
        raise InvalidRequest(f"the request has more than {MOST_FIELDS} keys and tensors")


def request_of(known: Known, given: Given) -> WebRequest:
    """Raises InvalidRequest."""
    texts = _texts(given)
    since = time.time_ns() // 1000 if texts.pop(PROFILE, "") == "1" else 0
    interface = known.interface
    ports = by_any_name(interface.inputs)
    typed = not is_opaque(interface) and (
        bool(given.tensors) or (texts.keys() <= ports.keys() and all(port.dtype != BYTES for port in interface.inputs))
    )
    inputs: list[Part | Tensor]
    rows = 1
    if typed:
        tensors = [for_port(ports[t.name], t) if t.name in ports else t for t in given.tensors]
        tensors += [read_text(ports[key], text) if key in ports else _as_sent(key, text) for key, text in texts.items()]
        _check_lods(given.lods)
        rows = check(known.spec, interface, tensors)
        inputs = [*tensors]
    else:
        inputs = [Part(key, "text/plain", text.encode()) for key, text in texts.items()]
        inputs += map(for_handler, given.tensors)
        inputs += [_lod(name, lod) for name, lod in given.lods.items()]
    return WebRequest(
        known.spec.name,
        known.spec.version,
        known.id,
        inputs,
        known.headers + _said(given),
        typed=typed,
        rows=rows,
        timeout_seconds=known.timeout_seconds,
        in_tensors=bool(given.tensors),
        profiled_since_us=since,
        service=given.service,
    )


def answer_of(request: WebRequest, outcome: Outcome) -> Answer:
    """The answer to a request that has been run, or has failed in any way."""
    if isinstance(outcome, Failure):
        return failed(outcome)
    try:
        answer = _of_tensors(request, outcome) if request.typed else _of_handler(outcome)
    except PdError as error:
        return failed(Failure.of(error))
    if request.profiled_since_us:
        answer.key.append(PROFILE)
        answer.value.append(_profile(request.profiled_since_us))
    return answer


def failed(failure: Failure) -> Answer:
    """The answer that says why there is none."""
    err_no = ERR_NOS[failure.kind]
    if failure.kind is Kind.HANDLER and 0 < failure.status < 500:  # the handler says that the input is at fault
        err_no = ERR_NOS[Kind.INVALID]
    return Answer(err_no, _NO_NAME * (failure.kind is Kind.NOT_FOUND) + failure.message)


def _texts(given: Given) -> dict[str, str]:
    """Raises InvalidRequest."""
    if len(given.keys) != len(given.values):
        raise InvalidRequest(
            f"the request has {len(given.keys)} keys and {len(given.values)} values: expected one value for each key"
        )
    texts = dict(zip(given.keys, given.values, strict=True))
    seen = set[str]()
    for name in (*given.keys, *(tensor.name for tensor in given.tensors)):
        if name in seen:
            raise InvalidRequest(f"the request has '{shown(name)}' twice")
        seen.add(name)
    return texts


def _as_sent(key: str, text: str) -> Tensor:
    """For a key that is no input of the model, so that `check` refuses it by its name."""
    return Tensor(key, BYTES, (1, 1), packed([text.encode()]))


def _check_lods(lods: Mapping[str, list[int]]) -> None:
    """Raises InvalidRequest for a tensor with a LoD."""
    for name in lods:
        raise InvalidRequest(
            f"tensor '{shown(name)}' has a lod, which models of today's Paddle don't take: send rows of one length, "
            "padded"
        )


def _lod(name: str, lod: list[int]) -> Tensor:
    """The LoD of a tensor as Pipeline gives it to handlers: two rows. Raises InvalidRequest."""
    if len(lod) % 2 or not all(-(2**31) <= place < 2**31 for place in lod):
        raise InvalidRequest(f"tensor '{shown(name)}' has a lod of {len(lod)} numbers: expected two rows of int32")
    data = b"".join(place.to_bytes(4, "little", signed=True) for place in lod)
    return Tensor(f"{name}.lod", "int32", (2, len(lod) // 2), data)


def _said(given: Given) -> list[tuple[bytes, bytes]]:
    said = [(LOG_ID, b"%d" % given.log_id)] if given.log_id else []
    return [*said, (CLIENT_IP, given.client_ip.encode())] if given.client_ip else said


def _of_tensors(request: WebRequest, reply: Reply) -> Answer:
    """Raises InvalidRequest for outputs that are no tensors."""
    tensors = reply.tensors
    names, texts = [tensor.name for tensor in tensors], list(map(written, tensors))
    return Answer(0, "", names, texts, tensors if request.in_tensors else [])


def _of_handler(reply: Reply) -> Answer:
    body = bytes(reply.body)
    if err_no := dict(reply.headers).get(ERR_NO, ""):
        known = err_no.isascii() and err_no.isdecimal() and len(err_no) < 10
        return Answer(int(err_no) if known else ERR_NOS[Kind.HANDLER], body.decode(errors="replace"))
    if reply.status >= 400:
        kind = Kind.INVALID if reply.status < 500 else Kind.HANDLER
        return Answer(ERR_NOS[kind], body.decode(errors="replace") or reply.reason)
    values = said(reply)
    if not isinstance(values, dict):
        values = {_RESULT: values}
    return Answer(key=list(values), value=[v if isinstance(v, str) else repr(v) for v in values.values()])


def _profile(since_us: int) -> str:
    """When the request came and went, as Pipeline's profiler writes it."""
    now_us = time.time_ns() // 1000
    return f"\nPROFILE\tpid:{os.getpid()}\tcall_0#DAG_0:{since_us} call_0#DAG_1:{now_us} \n"
