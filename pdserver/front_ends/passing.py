"""What a front end passes on: requests over HTTP and calls over gRPC that are no predictions."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from pdserver.dialects.dialect import Dialect
from pdserver.dialects.rpc import (
    Answer,
    BidiStreaming,
    Code,
    Message,
    Method,
    Prediction,
    RpcCall,
    RpcError,
    ServerStreaming,
    Service,
    Unary,
)
from pdserver.errors import Unavailable
from pdserver.front_ends.conversation import Conversation
from pdserver.front_ends.messages import (
    Data,
    Ended,
    HttpAsked,
    HttpHead,
    Last,
    Left,
    RpcAsked,
    RpcBegan,
    RpcHead,
    Taken,
)
from pdserver.http.asgi import application
from pdserver.http.passing import SENT
from pdserver.peers.http import HttpPeers
from pdserver.security.access import PREDICTION
from pdserver.security.routes import Route

Passed = HttpAsked | RpcAsked | Data | Taken | Last | Left


class Passing:
    """The calls that the main process answers. `say` sends a message there."""

    def __init__(self, say: Callable[[Any], None]) -> None:
        self._say = say
        self._numbers = itertools.count(1)
        self._open: dict[int, Conversation] = {}

    def take(self, message: Any) -> None:
        """What the main process says of a call."""
        conversation = self._open.get(message.number)
        if conversation is not None:
            conversation.take(message)

    @contextlib.contextmanager
    def conversation(self, asked: Callable[[int], HttpAsked | RpcAsked]) -> Iterator[Conversation]:
        """The main process learns how it ends, unless it has ended it itself."""
        number = next(self._numbers)
        self._open[number] = conversation = Conversation(number, self._say)
        self._say(asked(number))
        try:
            yield conversation
        finally:
            del self._open[number]
            self._say(Left(number))

    # HTTP

    def routes(self, port: str, dialects: Sequence[Dialect], peers: HttpPeers | None) -> list[BaseRoute]:
        """Of a port: those by which a front end answers itself, and one for all others. `peers` answer for what is not
        served here."""
        return [*(Own(each, peers) for each in dialects if each.routes), All(partial(self._http, port))]

    async def _http(self, port: str, scope: Scope, receive: Receive, send: Send) -> None:
        head = _head(port, scope)
        with self.conversation(lambda number: HttpAsked(number, head)) as conversation:
            sending = asyncio.create_task(self._body(conversation, receive))
            try:
                began = await conversation.next()
                if isinstance(began, Left):
                    raise Unavailable("the server could not finish this; see its log")
                scope["path_params"] = {"name": began.model}
                await send({"type": "http.response.start", "status": began.status, "headers": began.headers})
                while isinstance(message := await conversation.next(), Data):
                    await send({"type": "http.response.body", "body": message.data, "more_body": True})
                if isinstance(message, Ended):
                    await send({"type": "http.response.body"})
            finally:
                sending.cancel()

    async def _body(self, conversation: Conversation, receive: Receive) -> None:
        """Pass the body on, and then tell when the client leaves."""
        while (message := await receive())["type"] == "http.request":
            if message.get("body"):
                await conversation.send(message["body"])
            if not message.get("more_body"):
                self._say(Last(conversation.number))
        self._say(Left(conversation.number))
        conversation.take(Left(conversation.number))

    # gRPC

    def dialect(self, dialect: Dialect) -> Dialect:
        """The dialect as a front end speaks it."""
        return msgspec.structs.replace(
            dialect,
            routes=[route for route in dialect.routes if isinstance(route, Route) and route.need == PREDICTION],
            services=list(map(self._service, dialect.services)),
        )

    def _service(self, service: Service) -> Service:
        methods = {name: self._method(f"/{service.name}/{name}", each) for name, each in service.methods.items()}
        return Service(service.name, methods)

    def _method(self, path: str, method: Method) -> Method:
        if isinstance(method, Prediction) or method.need == PREDICTION:
            return method
        if isinstance(method, Unary):
            return Unary(partial(self._unary, path), method.need)
        if isinstance(method, ServerStreaming):
            return ServerStreaming(partial(self._stream, path), method.need)
        return BidiStreaming(partial(self._streams, path), method.need)

    async def _unary(self, path: str, message: Message, call: RpcCall) -> Answer:
        answers = [answer async for answer in self._stream(path, message, call)]
        return answers[0]

    async def _stream(self, path: str, message: Message, call: RpcCall) -> AsyncGenerator[Answer, None]:
        async def one() -> AsyncIterator[Message]:
            yield message

        async with contextlib.aclosing(self._streams(path, one(), call)) as answers:
            async for answer in answers:
                yield answer

    async def _streams(
        self, path: str, messages: AsyncIterator[Message], call: RpcCall
    ) -> AsyncGenerator[Answer, None]:
        head = RpcHead(path, call.metadata, call.timeout_seconds, call.client, call.token)
        with self.conversation(lambda number: RpcAsked(number, head)) as conversation:
            sending = asyncio.create_task(self._messages(conversation, messages))
            try:
                while not isinstance(message := await conversation.next(), Ended):
                    if isinstance(message, RpcError):
                        raise message
                    if isinstance(message, RpcBegan):
                        call.initial.extend(message.initial)
                    else:
                        yield message.data
            finally:
                sending.cancel()
        call.request_id, call.model = message.request_id, message.model
        if message.code != Code.OK:
            raise RpcError(Code(message.code), message.message, message.missing, message.trailers)
        call.trailers.extend(message.trailers)

    async def _messages(self, conversation: Conversation, messages: AsyncIterator[Message]) -> None:
        try:
            async for message in messages:
                await conversation.send(bytes(message))
        except RpcError as unreadable:
            conversation.take(unreadable)
        else:
            self._say(Last(conversation.number))


class Own(BaseRoute):
    """A dialect's routes by which predictions are asked for."""

    def __init__(self, dialect: Dialect, peers: HttpPeers | None) -> None:
        self._routes = dialect.routes
        self._app = application(dialect.routes, dialect.words, peers)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        found = any(route.matches(scope)[0] is Match.FULL for route in self._routes)
        return (Match.FULL if found else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


class All(BaseRoute):
    """A route for everything, to an application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return (Match.FULL if scope["type"] == "http" else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def _head(port: str, scope: Scope) -> HttpHead:
    state = scope.get("state", {})
    return HttpHead(
        port, scope["method"], scope["scheme"], scope["http_version"], scope["path"], scope["raw_path"],
        scope["query_string"], scope["headers"], scope["client"], scope["server"],
        state.get("token", ""), state.get(SENT),
    )  # fmt: skip
