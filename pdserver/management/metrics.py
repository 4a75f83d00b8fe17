"""The metrics, for Prometheus."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from pdserver.metrics.registry import Metrics
from pdserver.security.access import Need
from pdserver.security.routes import Route


def routes(metrics: Metrics, need: Need, path: str = "/metrics") -> list[BaseRoute]:
    async def scrape(request: Request) -> Response:
        body, content_type = await metrics.rendered(request.query_params.getlist("name[]"))
        return Response(body, headers={"content-type": content_type})

    return [Route(path, scrape, need)]
