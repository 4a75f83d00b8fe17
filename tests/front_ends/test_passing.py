"""What front ends are told of the configuration and of the routes is what the main process has, and what they pass on
is answered as if it had come to the main process."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount
from starlette.routing import Route as PlainRoute

from pdserver.configuration.passing import decoded, encoded
from pdserver.configuration.server import Config
from pdserver.configuration.sources import parse_image_urls
from pdserver.configuration.tokens import Scope, Token
from pdserver.dialects.base import ErrorWords
from pdserver.dialects.dialect import Dialect
from pdserver.dialects.rpc import Answer, BidiStreaming, Code, Message, RpcCall, RpcError, Service
from pdserver.front_ends.answering import Answering, methods_of
from pdserver.front_ends.passing import Passing
from pdserver.http.asgi import Below
from pdserver.security.access import ADMIN, INFERENCE, MANAGEMENT, OPEN, PREDICTION, Need
from pdserver.security.routes import Route, Rule, Rules, rules_of

ROUTES: list[BaseRoute] = [
    Route("/ping", None, OPEN),
    Route("/models/{name}", None, INFERENCE),
    Route("/models/{name}", None, MANAGEMENT, ["DELETE", "PUT"]),
    Below("/v2", Starlette(routes=[Route("/v2", None, OPEN), Route("/v2/models/{name}/infer", None, PREDICTION)])),
    Mount("/mine", routes=[Route("/keys/{path:path}", None, ADMIN), PlainRoute("/more", lambda _: None)]),
    PlainRoute("/plain", lambda _: None),
]
OTHERS = Need(frozenset({Scope.INFERENCE}), guarded=True)
PATHS = (
    *("/", "/ping", "/ping/", "/Ping", "/ping/x", "/models/a", "/models/a/", "/models/a/b", "/models/%61", "/p%69ng"),
    *("/v2", "/V2", "/v2/", "/v2x", "/v2/models/a/infer", "/V2/models/a/infer", "/v2/models/a/infer/x", "/v2/nothing"),
    *("/mine", "/mine/", "/mine/keys/", "/mine/keys/a/b", "/mine/more", "/mine/keys", "/plain", "/plain/x", "/a%0Ab"),
)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "HEAD"])
def test_calls_need_the_same_by_rules_as_by_routes(method: str, path: str) -> None:
    told = msgspec.msgpack.decode(msgspec.msgpack.encode(rules_of(ROUTES)), type=list[Rule])
    by_rules, by_routes = Rules(told, OTHERS), Rules(ROUTES, OTHERS)
    asked = method.encode(), path.encode()
    assert by_rules.need(*asked) == by_routes.need(*asked)


def test_rules_tell_routes_apart() -> None:
    rules = Rules(rules_of(ROUTES), OTHERS)
    found = [rules.need(*asked) for asked in ((b"GET", b"/ping"), (b"PUT", b"/models/a"), (b"GET", b"/mine/keys/a"))]
    assert found == [OPEN, MANAGEMENT, ADMIN]


def test_the_configuration_arrives_as_it_is_but_for_secrets_and_models() -> None:
    config = Config(
        image_urls=parse_image_urls("https://pictures.example/,10.0.0.0/8,2001:db8::/32"),
        blacklist_env_vars=re.compile("SECRET_.*"),
        tokens=(Token.of("a" * 40, Scope.ADMIN),),
        http_restricted_api={"inference": ("x-key", "value")},
        model_repository=(Path("/models"),),
        model_key=b"k" * 32,
    )
    assert decoded(encoded(config)) == dataclasses.replace(config, model_key=b"")
    assert b"kkkk" not in encoded(config)


Function = Callable[[AsyncIterator[Message], RpcCall], AsyncGenerator[Answer, None]]


class Outcome:
    """Of a call that was passed on."""

    def __init__(self) -> None:
        self.call = RpcCall([])
        self.answers: list[bytes] = []
        self.error: RpcError | None = None

    async def wait(self, answers: AsyncGenerator[Answer, None]) -> None:
        try:
            async for answer in answers:
                assert isinstance(answer, bytes)
                self.answers.append(answer)
        except RpcError as error:
            self.error = error


def passed(function: Function, messages: Iterable[bytes | RpcError]) -> Outcome:
    """A call of a method of the main process by a front end, which tell one another of it at once."""
    service = Service("Of", {"plugin": BidiStreaming(function, MANAGEMENT)})
    dialect = Dialect(name="of", words=ErrorWords(lambda _: (500, b""), lambda _, __: b""), services=[service])

    async def seen() -> None:
        pass

    async def come() -> AsyncIterator[bytes]:
        for message in messages:
            if isinstance(message, RpcError):
                raise message
            yield message

    async def run() -> Outcome:
        outcome = Outcome()
        answering: Any = None
        passing = Passing(lambda message: answering.take(message))
        answering = Answering({}, methods_of([service]), passing.take, seen)
        method = passing.dialect(dialect).services[0].methods["plugin"]
        assert isinstance(method, BidiStreaming)
        async with contextlib.aclosing(method.function(come(), outcome.call)) as answers:
            await asyncio.wait_for(outcome.wait(answers), 20)
        return outcome

    return asyncio.run(run())


async def _echo(messages: AsyncIterator[Message], call: RpcCall) -> AsyncGenerator[Answer, None]:
    call.initial.append(("begun", "yes"))
    async for message in messages:
        yield bytes(message)
    call.trailers.append(("ended", "yes"))
    call.model = "echo"


def test_a_stream_is_answered_message_by_message() -> None:
    outcome = passed(_echo, [b"a", b"b"])
    assert (outcome.answers, outcome.error, outcome.call.model) == ([b"a", b"b"], None, "echo")
    assert (outcome.call.initial, outcome.call.trailers) == ([("begun", "yes")], [("ended", "yes")])


def test_metadata_come_also_without_a_message() -> None:
    outcome = passed(_echo, [])
    assert (outcome.call.initial, outcome.call.trailers) == ([("begun", "yes")], [("ended", "yes")])


def test_a_message_that_can_not_be_read_ends_the_call() -> None:
    unreadable = RpcError(Code.INTERNAL, "a message is not gzip")
    outcome = passed(_echo, [b"a", unreadable])
    assert outcome.error is unreadable


def test_an_error_keeps_its_metadata() -> None:
    async def fail(messages: AsyncIterator[Message], call: RpcCall) -> AsyncGenerator[Answer, None]:
        call.initial.append(("begun", "yes"))
        async for message in messages:
            yield bytes(message)
        raise RpcError(Code.ABORTED, "no", trailers=[("why-bin", b"\0")])

    outcome = passed(fail, [])
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.message) == (Code.ABORTED, "no")
    assert (outcome.call.initial, outcome.error.trailers) == ([("begun", "yes")], [("why-bin", b"\0")])
