"""Routes that declare what they need, and the look-up of a request's need."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote

import httptools
from starlette.routing import BaseRoute, Match
from starlette.routing import Route as PlainRoute
from starlette.types import Scope

from pdserver.security.access import Need

_MOST_KNOWN = 1024


class Route(PlainRoute):
    """Starlette's route, which must also say who may call it. A slash at the end of the path changes nothing."""

    def __init__(self, path: str, endpoint: Any, need: Need, methods: Sequence[str] = ("GET",)) -> None:
        super().__init__(path, endpoint, methods=list(methods))
        if path != "/":
            self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + "/?$")
        self.need = need


class Rules:
    """The needs of one port's routes, in the router's order."""

    def __init__(self, routes: Iterable[BaseRoute], undeclared: Need) -> None:
        self._routes = tuple(routes)
        self._undeclared = undeclared
        self._known = functools.lru_cache(_MOST_KNOWN)(self._look_up)

    def need(self, method: bytes, target: bytes) -> Need:
        """What a request needs. This runs before the router, and finds the same route as the router will."""
        return self._known(method, target.partition(b"?")[0])

    def _look_up(self, method: bytes, target: bytes) -> Need:
        try:
            path = httptools.parse_url(target).path.decode("ascii")
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
            return self._undeclared  # the request will be refused
        scope = {"type": "http", "method": method.decode(), "path": unquote(path), "root_path": "", "headers": []}
        found = _find(self._routes, scope) or self._undeclared
        if not found.scopes and "%" in path:
            return self._undeclared  # a path is open only in its plain spelling: a proxy may check only that
        return found


def _find(routes: Iterable[BaseRoute], scope: Scope) -> Need | None:
    for route in routes:
        match, below = route.matches(scope)
        if match is Match.FULL:
            if isinstance(route, Route):
                return route.need
            return _find(getattr(route, "routes", None) or (), {**scope, **below})
    return None
