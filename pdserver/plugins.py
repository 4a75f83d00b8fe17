"""Plugins: packages that add endpoints or wire protocols, or receive the metrics, found by their entry points.

    [project.entry-points."pdserver.endpoints"]
    hello = "my_package:endpoints"       # (engine) → {"inference" | "management" | "metrics": [Starlette routes]}

    [project.entry-points."pdserver.dialects"]
    mine = "my_package:dialect"          # (engine) → pdserver.dialects.dialect.Dialect, spoken on the inference ports

    [project.entry-points."pdserver.metric_sinks"]
    statsd = "my_package:StatsdSink"     # () → MetricSink

A plugin that fails is logged and left out. An endpoint that raises answers 500. Neither harms the server.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from starlette.routing import BaseRoute

from pdserver.dialects.dialect import Dialect
from pdserver.engine.catalogue import InferenceEngine
from pdserver.metrics.sinks import RunningSink

_log = logging.getLogger("pdserver.plugins")
_PORTS = ("inference", "management", "metrics")
Port = Literal["inference", "management", "metrics"]
Endpoints = Callable[[InferenceEngine], Mapping[Port, Sequence[BaseRoute]]]
"""What `pdserver.endpoints` names. The server's own routes go before those of plugins."""


def endpoint_routes(engine: InferenceEngine) -> dict[str, list[BaseRoute]]:
    """The routes of all installed plugins, by port."""
    routes: dict[str, list[BaseRoute]] = {port: [] for port in _PORTS}
    for plugin, made in _made("pdserver.endpoints", engine):
        try:
            added = {port: list(made[port]) for port in made}
            if not all(port in _PORTS for port in added):
                raise ValueError(f"ports are {', '.join(_PORTS)}; it names {', '.join(map(str, added))}")
            if not all(isinstance(route, BaseRoute) for port in added for route in added[port]):
                raise TypeError("endpoints are Starlette routes")
        except Exception:  # noqa: BLE001 - whatever a plugin does, the server goes on
            _log.exception("plugin %s is left out", plugin.name)
            continue
        for port in added:
            routes[port] += added[port]
    return routes


def dialects(engine: InferenceEngine) -> list[Dialect]:
    """The dialects of all installed plugins."""
    found = []
    for plugin, made in _made("pdserver.dialects", engine):
        if isinstance(made, Dialect):
            found.append(made)
        else:
            _log.error("plugin %s is left out: it gives a %s, not a Dialect", plugin.name, type(made).__name__)
    return found


def metric_sinks() -> list[RunningSink]:
    """The sinks of all installed plugins, each in its thread."""
    return [RunningSink(plugin.name, sink) for plugin, sink in _made("pdserver.metric_sinks")]


def _made(group: str, *arguments: object) -> Iterator[tuple[EntryPoint, Any]]:
    """The results of calling the entry points of `group`. Those that raise are logged and left out."""
    for plugin in sorted(entry_points(group=group), key=lambda plugin: plugin.name):
        try:
            made = plugin.load()(*arguments)
        except Exception:  # noqa: BLE001 - whatever a plugin does, the server goes on
            _log.exception("plugin %s (%s) is left out", plugin.name, plugin.value)
            continue
        _log.info("plugin %s (%s) is in use", plugin.name, plugin.value)
        yield plugin, made
