"""What front ends are told of the configuration and of the routes is what the main process has."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount
from starlette.routing import Route as PlainRoute

from pdserver.configuration.passing import decoded, encoded
from pdserver.configuration.server import Config
from pdserver.configuration.sources import parse_image_urls
from pdserver.configuration.tokens import Scope, Token
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
