"""Tells Prometheus where the nodes' metrics are: a file for `file_sd_configs`, and the same for `http_sd_configs`.

With either, Prometheus scrapes each node itself; the cluster's own /metrics has all of them in one answer.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from pdarchiver.staging import staged_file
from pdserver.cluster.base import ClusterView, NodeView
from pdserver.cluster.controller import Controller
from pdserver.errors import Unavailable
from pdserver.http.asgi import json_response
from pdserver.security.access import Need
from pdserver.security.routes import Route

FILE = "prometheus-targets.json"


def targets(view: ClusterView) -> bytes:
    """The nodes that are there, as JSON."""
    return orjson.dumps([_target(node) for node in view.nodes if node.status and not node.lost])


def _target(node: NodeView) -> dict[str, object]:
    assert node.status is not None  # noqa: S101 - `targets` leaves out others
    url = urlsplit(node.status.addresses.metrics)
    labels = {"node": node.node, "host": node.status.host, "__scheme__": url.scheme}
    return {"targets": [url.netloc], "labels": labels}


class TargetsFile:
    """The file, which appears whole and changes only when its content does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = b""

    def write(self, view: ClusterView) -> None:
        """Raises Unavailable."""
        told = targets(view)
        if told == self._written:
            return
        try:
            with staged_file(self._path) as stage:
                stage.write_bytes(told)
        except OSError as error:
            raise Unavailable(f"{self._path}: Prometheus is not told of the nodes: {error.strerror}") from None
        self._written = told


def routes(controller: Controller, need: Need) -> list[BaseRoute]:
    async def answer(_: Request) -> Response:
        return json_response(200, targets(controller.view()))

    return [Route("/prometheus/targets", answer, need)]
