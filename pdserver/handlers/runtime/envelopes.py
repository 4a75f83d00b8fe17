"""TorchServe's service envelopes: how requests wrap what a handler is given, and what it answers is wrapped.

An envelope opens every request of a batch into instances. The handler is called once with those of all requests, and
the answers to a request's instances are sealed into its one answer: `json` and `kserve` as in TensorFlow Serving's
REST API ({"instances": […]} → {"predictions": […]}), `kservev2` as in the Open Inference Protocol, `body` without
anything around it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from pdserver.dtypes import DATATYPES
from pdserver.errors import InvalidRequest
from pdserver.formats import strict_json
from pdserver.formats.strict_json import InvalidJson
from pdserver.formats.values import listed, shown
from pdserver.handlers.context import Context
from pdserver.handlers.runtime.answers import counted
from pdserver.handlers.runtime.base64_text import from_base64
from pdserver.handlers.runtime.loader import EntryPoint

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


@dataclass(frozen=True)
class Envelope:
    open: Callable[[Any], list[Any]]
    """A request's body → its instances. Raises InvalidRequest."""
    seal: Callable[[list[Any], Any, Context, int], Any]
    """The answers to its instances, the body, and the request's position in the batch → its answer."""


def wrap(entry: EntryPoint, name: str) -> EntryPoint:
    """`entry`, for requests in the envelope `name`; itself for ""."""
    if not name:
        return entry
    envelope = ENVELOPES[name]
    return EntryPoint(entry.initialize, lambda rows, context: _answer(envelope, entry, rows, context))


def _answer(envelope: Envelope, entry: EntryPoint, rows: list[dict[str, Any]], context: Context) -> list[Any]:
    """One answer for each row, or the exception that it fails with."""
    opened: list[tuple[Any, list[Any]] | InvalidRequest] = []
    for row in rows:
        try:
            body = _body(row)
            opened.append((body, envelope.open(body)))
        except InvalidRequest as error:
            opened.append(error)
    owners = [idx for idx, found in enumerate(opened) if isinstance(found, tuple) for _ in found[1]]
    flat = [instance for found in opened if isinstance(found, tuple) for instance in found[1]]
    answers = iter(_handled(entry, flat, owners, context))
    sealed: list[Any] = []
    for idx, found in enumerate(opened):
        if isinstance(found, InvalidRequest):
            sealed.append(found)
            continue
        body, instances = found
        own = [next(answers) for _ in instances]
        failed = [answer for answer in own if isinstance(answer, BaseException)]
        sealed.append(failed[0] if failed else envelope.seal(own, body, context, idx))
    return sealed


def _handled(entry: EntryPoint, instances: list[Any], owners: list[int], context: Context) -> list[Any]:
    if not instances:
        return []
    with context.opened(owners):
        return counted(entry.handle(instances, context), len(instances))


def _body(row: dict[str, Any]) -> Any:
    for name in ("data", "body"):
        if name in row:
            return row[name]
    raise InvalidRequest(f'expected the body, or a part called "data", got {listed(row)}')


def _listed(body: Any, key: str) -> list[Any]:
    """The list under `key` of a JSON object, which comes as text where inputs are not decoded."""
    if isinstance(body, bytes | bytearray | str):
        try:
            body = strict_json.loads(body.encode() if isinstance(body, str) else body)
        except (InvalidJson, UnicodeEncodeError) as error:
            raise InvalidRequest(f"expected JSON: {error}") from None
    if not isinstance(body, dict) or not isinstance(body.get(key), list):
        raise InvalidRequest(f'expected a JSON object with a list "{key}"')
    return body[key]  # type: ignore[no-any-return]


def _open_json(body: Any) -> list[Any]:
    return [
        {name: _from_base64(value) for name, value in instance.items()}
        if isinstance(instance, dict) and instance.keys() != {"b64"}
        else _from_base64(instance)
        for instance in _listed(body, "instances")
    ]


def _from_base64(value: Any) -> Any:
    """The bytes that {"b64": …} stands for; anything else as it is."""
    if not isinstance(value, dict) or value.keys() != {"b64"}:
        return value
    if not isinstance(value["b64"], str):
        raise InvalidRequest(f'"b64" is not base64: expected text, got {shown(orjson.dumps(value["b64"]).decode())}')
    try:
        return from_base64(value["b64"])
    except InvalidRequest as error:
        raise InvalidRequest(f'"b64" is not base64: {error}') from None


def _in_json(answer: Any) -> Any:
    """The answer with {"b64": …} for bytes, which JSON does not have."""
    if isinstance(answer, bytes | bytearray | memoryview):
        return {"b64": base64.b64encode(answer).decode()}
    return {name: _in_json(value) for name, value in answer.items()} if type(answer) is dict else answer


def _prediction(answer: Any) -> Any:
    """The answer in JSON; the row of a model's only output without its name, as in TensorFlow Serving and KServe."""
    if type(answer) is dict and len(answer) == 1:
        [value] = answer.values()
        if isinstance(value, np.ndarray | np.generic):
            return value
    return _in_json(answer)


def _seal_json(answers: list[Any], *_: Any) -> dict[str, Any]:
    return {"predictions": [_prediction(answer) for answer in answers]}


def _seal_kserve(answers: list[Any], body: Any, context: Context, idx: int) -> dict[str, Any]:
    name = "explanations" if context.verb == "explain" else "predictions"
    return {name: [_prediction(answer) for answer in answers]}


def _seal_kserve_v2(answers: list[Any], body: Any, context: Context, idx: int) -> dict[str, Any]:
    given = orjson.loads(body) if isinstance(body, bytes | bytearray | str) else body
    name = "explain" if context.verb == "explain" else "predict"
    return {
        "id": given.get("id", context.get_request_id(idx)),
        "model_name": context.model_name,
        "model_version": context.model_version,
        "outputs": [{"name": name, **_tensor(answer)} for answer in answers],
    }


def _tensor(answer: Any) -> dict[str, Any]:
    """`shape`, `datatype` and `data` of one output; what is no array of numbers is JSON as text."""
    if isinstance(answer, bytes | bytearray | memoryview):
        answer = bytes(answer).decode(errors="replace")
    try:
        array = np.atleast_1d(np.asarray(answer))
    except ValueError:  # lists of different lengths
        array = np.empty(1, object)
        array[0] = answer
    datatype = DATATYPES.get(array.dtype.name, "BYTES")
    data = array.ravel().tolist()
    if datatype == "BYTES":
        data = [item if isinstance(item, str) else orjson.dumps(item, option=_OPTIONS).decode() for item in data]
    return {"shape": list(array.shape), "datatype": datatype, "data": data}


ENVELOPES = {
    "body": Envelope(lambda body: [body], lambda answers, *_: answers[0]),
    "json": Envelope(_open_json, _seal_json),
    "kserve": Envelope(lambda body: _listed(body, "instances"), _seal_kserve),
    "kservev2": Envelope(lambda body: _listed(body, "inputs"), _seal_kserve_v2),
}
