"""What differs in a pipeline that keeps to the contract of Paddle Serving's web services (`graph.WEB_SERVICE`): clients
send values under any names, and an answer may have a status and headers of its own."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pdarchiver.pipeline.graph import Type
from pdserver.dtypes import BYTES
from pdserver.engine.pipeline import requests
from pdserver.engine.pipeline.answers import reply_of as usual
from pdserver.errors import HandlerFailed, Kind
from pdserver.pipeline.values import Item, Value, Values, json_item
from pdserver.types import Interface, Port, Reply, Request

_BODY, _ANSWER = "body", "answer"
INTERFACE = Interface([Port(_BODY, BYTES, (1,))], [Port(_ANSWER, BYTES, (1,))], batched=False, opaque=True)


class _Head(msgspec.Struct):
    status: int
    headers: dict[str, str]


def values_of(
    request: Request, items: list[Item], inputs: Mapping[str, Type], needed: frozenset[str]
) -> dict[str, Value]:
    """As `requests.values_of`. Raises InvalidRequest for a typed request with anything but one body."""
    if request.typed:
        body = requests.values_of(request, items, {_BODY: Type("bytes")}, frozenset({_BODY}))[_BODY]
        items = body if isinstance(body, list) else [body]
    return {"request": [*items], "names": json_item([item.given.name for item in items])}


def reply_of(request: Request, outputs: Values, interface: Interface | None, declared: int) -> Reply:
    """As `answers.reply_of`. Raises HandlerFailed where a typed request gets no success."""
    reply = usual(request, {_ANSWER: outputs[_ANSWER]}, interface, 1)
    head, answer = outputs.get("head"), outputs[_ANSWER]
    if not isinstance(head, Item) or not isinstance(answer, Item):
        return reply
    said = msgspec.json.decode(head.data, type=_Head)
    if request.typed:
        text = bytes(answer.data).decode(errors="replace")
        raise HandlerFailed(text, Kind.INVALID if said.status < 500 else Kind.HANDLER, said.status)
    return msgspec.structs.replace(reply, status=said.status, headers=list(said.headers.items()))
