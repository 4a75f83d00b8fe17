"""Which other nodes serve what is missing here. Pure: made of what the file of peers says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from pdserver.errors import Missing
from pdserver.peers.base import Addresses, Peers, Route

_ZEROS = re.compile(r"(?:\.0){1,2}\Z")


class Ways(NamedTuple):
    """The nodes that serve what is missing."""

    nodes: tuple[str, ...]
    sequences: bool
    """Whether the first of these nodes that can be reached has to have all requests."""


NOWHERE = Ways((), sequences=False)


class Table:
    """What one file says, for look-ups."""

    def __init__(self, peers: Peers) -> None:
        self.node = peers.node
        self.nodes: Mapping[str, Addresses] = peers.nodes
        self._routes: dict[str, list[Route]] = {}
        self._contracts: dict[str, Route] = {}
        for route in peers.routes:
            self._routes.setdefault(route.ref.name, []).append(route)
            if route.contract and route.default and self._others(route):
                self._contracts.setdefault(route.contract, route)
        self.defaults = {
            route.ref.name: route.ref.version for route in peers.routes if route.default and self._others(route)
        }
        """Model → its default version, if another node serves that."""

    def ways(self, missing: Missing) -> Ways:
        """A version is found by its name, and else by its number: "3" and "3.0.0" are the same one."""
        route = self._contracts.get(missing.contract) if missing.contract else self._route(missing)
        return NOWHERE if route is None else Ways(self._others(route), route.sequences)

    def _route(self, missing: Missing) -> Route | None:
        routes = self._routes.get(missing.model, ())
        if missing.version is None:
            fitting = [route for route in routes if route.default]
        else:
            number = _ZEROS.sub("", missing.version)
            fitting = [route for route in routes if route.ref.version == missing.version]
            fitting = fitting or [route for route in routes if _ZEROS.sub("", route.ref.version) == number]
        return fitting[0] if fitting else None

    def _others(self, route: Route) -> tuple[str, ...]:
        """Those of a route's nodes that are known, without this one."""
        return tuple(node for node in route.nodes if node != self.node and node in self.nodes)
