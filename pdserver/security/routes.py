"""Routes that say what they need, and which of them a request will come to."""

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
    """Starlette's, which nobody can add without saying who may call it; a slash at the end changes nothing."""

    def __init__(self, path: str, endpoint: Any, need: Need, methods: Sequence[str] = ("GET",)) -> None:
        super().__init__(path, endpoint, methods=list(methods))
        if path != "/":
            self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + "/?$")
        self.need = need


class Rules:
    """Of one port with these routes, in the router's order."""

    def __init__(self, routes: Iterable[BaseRoute], undeclared: Need) -> None:
        self._routes = tuple(routes)
        self._undeclared = undeclared
        self._known = functools.lru_cache(_MOST_KNOWN)(self._look_up)

    def need(self, method: bytes, target: bytes) -> Need:
        """What a request needs. Asked before the router is: it answers as the router will."""
        return self._known(method, target.partition(b"?")[0])

    def _look_up(self, method: bytes, target: bytes) -> Need:
        try:
            path = httptools.parse_url(target).path.decode("ascii")
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
            return self._undeclared  # and it will be refused
        scope = {"type": "http", "method": method.decode(), "path": unquote(path), "root_path": "", "headers": []}
        found = _find(self._routes, scope) or self._undeclared
        if not found.scopes and "%" in path:
            return self._undeclared  # what is open is so in its plain spelling alone: a proxy may know no other
        return found


def _find(routes: Iterable[BaseRoute], scope: Scope) -> Need | None:
    for route in routes:
        match, below = route.matches(scope)
        if match is Match.FULL:
            if isinstance(route, Route):
                return route.need
            return _find(getattr(route, "routes", None) or (), {**scope, **below})
    return None
