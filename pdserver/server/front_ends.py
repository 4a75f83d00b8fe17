"""The processes that serve the ports for predictions, where there are several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.routing import BaseRoute

from pdserver.configuration.passing import encoded
from pdserver.configuration.server import Config
from pdserver.dialects.dialect import Dialect
from pdserver.front_ends.answering import methods_of
from pdserver.front_ends.catalogue import Shown
from pdserver.front_ends.messages import Begin
from pdserver.front_ends.processes import FrontEnds
from pdserver.metrics.registry import Metrics
from pdserver.security.routes import rules_of
from pdserver.server.core import Core
from pdserver.server.http_ports import HttpPorts
from pdserver.server.ports import Ports
from pdserver.system.shared_page import SharedPage


def front_ends(
    config: Config,
    core: Core,
    shown: Shown,
    metrics: Metrics,
    page: SharedPage,
    ports: Ports,
    dialects: Mapping[str, Sequence[Dialect]],
    routes: Mapping[str, Sequence[BaseRoute]],
    http_ports: HttpPorts,
) -> FrontEnds:
    """One for each set of sockets. What is no prediction, they have answered by `http_ports` and the dialects here."""
    served = ports.of_front_ends[0].keys() & routes.keys()
    found = FrontEnds(
        core.engine,
        shown,
        Begin(encoded(config), str(core.state), {name: rules_of(routes[name]) for name in served}, page.fd),
        page,
        metrics.forwarded,
        ports.of_front_ends,
        ports.share,
        {name: http_ports.app(name, routes[name]) for name in served},
        methods_of(service for those in dialects.values() for each in those for service in each.services),
    )
    metrics.front_ends(found.gauges)
    return found
