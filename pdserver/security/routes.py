"""Routes that declare what they need, and the look-up of a request's need."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote

import httptools
import msgspec
from starlette.routing import BaseRoute, Match, Mount
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


class Rule(msgspec.Struct, frozen=True, array_like=True):
    """What one route needs, for a process that does not have the route."""

    path: str
    """A regular expression."""
    methods: frozenset[str]
    """Empty: all."""
    need: Need | None
    """None: the route says nothing, or those below it do."""
    below: list[Rule]
    mounted: bool
    """Whether routes below see only the rest of the path, the group `path`."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As Starlette's routes do."""
        found = re.match(self.path, scope["path"])
        if found is None or (self.methods and scope["method"] not in self.methods):
            return Match.NONE, {}
        return Match.FULL, {"path": "/" + found["path"]} if self.mounted else {}


def rules_of(routes: Iterable[BaseRoute]) -> list[Rule]:
    """The routes' rules, in their order. A route that has no path has none."""
    return [
        Rule(
            route.path_regex.pattern,
            frozenset(getattr(route, "methods", None) or ()),
            route.need if isinstance(route, Route) else None,
            rules_of(getattr(route, "routes", None) or ()),
            isinstance(route, Mount),
        )
        for route in routes
        if hasattr(route, "path_regex")
    ]


class Rules:
    """The needs of one port's routes, in the router's order."""

    def __init__(self, routes: Iterable[BaseRoute | Rule], undeclared: Need) -> None:
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


def _find(routes: Iterable[BaseRoute | Rule], scope: Scope) -> Need | None:
    for route in routes:
        match, below = route.matches(scope)
        if match is Match.FULL:
            if isinstance(route, Route):
                return route.need
            if isinstance(route, Rule):
                return route.need or _find(route.below, {**scope, **below})
            return _find(getattr(route, "routes", None) or (), {**scope, **below})
    return None
