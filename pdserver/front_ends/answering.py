"""Answers in the main process what front ends pass on, with the applications and services that it has anyway."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pdserver.dialects import rpc
from pdserver.dialects.rpc import Code, Prediction, RpcCall, RpcError, Service, Unary
from pdserver.errors import PdError
from pdserver.front_ends.conversation import Conversation
from pdserver.front_ends.messages import (
    Data,
    Ended,
    HttpAsked,
    HttpBegan,
    HttpHead,
    Last,
    Left,
    RpcAsked,
    RpcBegan,
    RpcHead,
)
from pdserver.http.passing import SENT
from pdserver.types import Failure

_log = logging.getLogger("pdserver.front_ends")
WhenSeen = Callable[[], Awaitable[None]]
"""Returns when all front ends have seen what the catalogue has."""


class Answering:
    """What one front end has passed on. `apps` are by port, and `say` sends it a message.

    `seen` is awaited before an answer over gRPC begins: what it says must be so at all front ends.
    """

    def __init__(
        self,
        apps: Mapping[str, ASGIApp],
        methods: Mapping[str, rpc.Method],
        say: Callable[[Any], None],
        seen: WhenSeen,
    ) -> None:
        self._apps = apps
        self._methods = methods
        self._say = say
        self._seen = seen
        self._open: dict[int, tuple[Conversation, asyncio.Task[None]]] = {}

    def take(self, message: Any) -> None:
        """What the front end says of a call."""
        number = message.number
        if isinstance(message, HttpAsked | RpcAsked):
            conversation = Conversation(number, self._say)
            work = self._http if isinstance(message, HttpAsked) else self._rpc
            task = asyncio.create_task(work(conversation, message.head))  # type: ignore[arg-type]
            self._open[number] = conversation, task
            task.add_done_callback(lambda _: self._open.pop(number, None))
        elif number in self._open:
            conversation, task = self._open[number]
            conversation.take(message)
            if isinstance(message, Left):
                asyncio.get_running_loop().call_soon(task.cancel)

    def close(self) -> None:
        """The front end is gone."""
        for _, task in self._open.values():
            task.cancel()

    # HTTP

    async def _http(self, conversation: Conversation, head: HttpHead) -> None:
        number, scope = conversation.number, _scope(head)

        async def receive() -> Message:
            message = await conversation.next()
            if isinstance(message, Data):
                return {"type": "http.request", "body": message.data, "more_body": True}
            if isinstance(message, Last):
                return {"type": "http.request", "body": b"", "more_body": False}
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
                model = scope.get("path_params", {}).get("name", "")
                self._say(HttpBegan(number, message["status"], headers, model))
            else:
                if body := message.get("body"):
                    await conversation.send(bytes(body))
                if not message.get("more_body"):
                    self._say(Ended(number))

        try:
            await self._apps[head.port](scope, receive, send)
        except Exception:  # noqa: BLE001 - whatever it is, the client waits for an answer
            _log.exception("%s %s failed", head.method, head.path)
            self._say(Left(number))

    # gRPC

    async def _rpc(self, conversation: Conversation, head: RpcHead) -> None:
        call = RpcCall(head.metadata, timeout_seconds=head.timeout_seconds, client=head.client, token=head.token)
        code, message, trailers, missing = Code.OK, "", call.trailers, None
        try:
            async with contextlib.aclosing(conversation.pieces()) as messages:
                await self._call(self._methods[head.method], messages, conversation, call)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client waits for an answer
            said = _said(error, head, call)
            code, message, trailers, missing = said.code, said.message, said.trailers, said.missing
        await self._seen()
        self._begin(conversation, call)
        self._say(Ended(conversation.number, code, message, trailers, call.request_id, call.model, missing))

    async def _call(
        self, method: rpc.Method, messages: AsyncIterator[bytes], conversation: Conversation, call: RpcCall
    ) -> None:
        assert not isinstance(method, Prediction), "front ends see to predictions"  # noqa: S101
        if isinstance(method, Unary):
            await self._answer(conversation, call, await method.function(await anext(messages), call))
            return
        given: Any = messages if isinstance(method, rpc.BidiStreaming) else await anext(messages)
        async with contextlib.aclosing(method.function(given, call)) as answers:
            async for answer in answers:
                await self._answer(conversation, call, answer)

    async def _answer(self, conversation: Conversation, call: RpcCall, answer: rpc.Answer) -> None:
        await self._seen()
        self._begin(conversation, call)
        await conversation.send(b"".join(answer) if isinstance(answer, list) else bytes(answer))

    def _begin(self, conversation: Conversation, call: RpcCall) -> None:
        if call.initial:
            self._say(RpcBegan(conversation.number, list(call.initial)))
            call.initial.clear()


class SeenFirst:
    """Has an application's answers wait until all front ends have seen what the catalogue has."""

    def __init__(self, app: ASGIApp, seen: WhenSeen) -> None:
        self._app = app
        self._seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def later(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self._seen()
            await send(message)

        await self._app(scope, receive, later)


def seen_first(service: Service, seen: WhenSeen) -> Service:
    """The same of a service whose methods are all `Unary`."""

    def later(method: rpc.Method) -> rpc.Method:
        assert isinstance(method, Unary)  # noqa: S101

        async def function(message: rpc.Message, call: RpcCall) -> rpc.Answer:
            try:
                return await method.function(message, call)
            finally:
                await seen()

        return Unary(function, method.need)

    return Service(service.name, {name: later(method) for name, method in service.methods.items()})


def methods_of(services: Iterable[Service]) -> dict[str, rpc.Method]:
    """/package.Service/Method → the method."""
    return {f"/{each.name}/{name}": method for each in services for name, method in each.methods.items()}


def _said(error: Exception, head: RpcHead, call: RpcCall) -> RpcError:
    if isinstance(error, RpcError):
        return error
    if isinstance(error, PdError):
        return RpcError.of(Failure.of(error))
    _log.error("%s: request %s for %s failed", head.method, call.request_id, call.model, exc_info=error)
    return RpcError(Code.INTERNAL, Failure.internal(error).message)


def _scope(head: HttpHead) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": head.http_version,
        "method": head.method,
        "scheme": head.scheme,
        "root_path": "",
        "path": head.path,
        "raw_path": head.raw_path,
        "query_string": head.query_string,
        "headers": head.headers,
        "client": head.client,
        "server": head.server,
        "state": {"token": head.token, SENT: head.sent},
    }
