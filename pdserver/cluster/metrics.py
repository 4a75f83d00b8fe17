"""One /metrics for a cluster: those of all nodes with a label `node`, merged by family, and the cluster's own.

The nodes' text is not parsed further than into families and lines: their servers write one form of it, and a cluster
may have a great deal.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from pdserver.cluster.base import ClusterView, DoorView, NodeLost, NodeView
from pdserver.cluster.node_http import NodeHttp
from pdserver.metrics.exposition import CONTENT_TYPE, Family, render
from pdserver.security.access import Need
from pdserver.security.routes import Route

_SECONDS = 3.0
"""For all nodes at the same time. Prometheus waits for 10 seconds by default."""
_SAMPLE = re.compile(rb"([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})? (\S+)")


class ClusterMetrics:
    """Asks the nodes at each scrape. `view` tells how the cluster is."""

    def __init__(self, view: Callable[[], ClusterView], nodes: NodeHttp) -> None:
        self._view = view
        self._nodes = nodes
        self._left_out: Counter[str] = Counter()

    async def rendered(self, names: Sequence[str]) -> bytes:
        """The text; with `names`, only these metrics. A node that does not answer in time is left out and counted."""
        view = self._view()
        present = {each.node: url for each in view.nodes if not each.lost and (url := _url(each))}
        query = "&".join(f"name[]={name}" for name in names if name.replace(":", "_").isidentifier())
        asked = [self._asked(node, f"{url}?{query}" if query else url) for node, url in present.items()]
        texts = dict(zip(present, await asyncio.gather(*asked), strict=True))
        own = render(self._own(view), names)
        return own + merged({node: text for node, text in texts.items() if text})

    async def _asked(self, node: str, url: str) -> bytes:
        try:
            return await self._nodes.get(url, seconds=_SECONDS)
        except NodeLost:
            self._left_out[node] += 1
            return b""

    def _own(self, view: ClusterView) -> Iterator[Family]:
        nodes = Family("pd_cluster_nodes", "Nodes by state.", "gauge")
        states = Counter(map(_state, view.nodes))
        for state in ("ready", "draining", "lost"):
            nodes.add({"state": state}, states[state])
        entrances = Family("pd_cluster_entrances", "Entrances by state.", "gauge")
        states = Counter(map(_entrance_state, view.entrances))
        for state in ("ready", "failed", "lost"):
            entrances.add({"state": state}, states[state])
        wanted = Family("pd_cluster_copies_wanted", "Nodes that are to serve a version.", "gauge")
        ready = Family("pd_cluster_copies_ready", "Nodes that requests for a version are sent to.", "gauge")
        for model in view.models:
            ref = model.wanted.ref
            labels = {"model_name": ref.name, "model_version": ref.version}
            wanted.add(labels, model.wanted.copies)
            ready.add(labels, sum(copy.ready for copy in model.copies))
        revision = Family("pd_cluster_revision", "Grows with each change of what the cluster serves.", "gauge")
        revision.add({}, view.revision)
        left_out = Family("pd_cluster_scrapes_failed_total", "Scrapes in which a node did not answer.", "counter")
        for each in view.nodes:
            left_out.add({"node": each.node}, self._left_out[each.node])
        yield from (nodes, entrances, wanted, ready, revision, left_out)


def routes(metrics: ClusterMetrics, need: Need) -> list[BaseRoute]:
    async def scrape(request: Request) -> Response:
        body = await metrics.rendered(request.query_params.getlist("name[]"))
        return Response(body, headers={"content-type": CONTENT_TYPE})

    return [Route("/metrics", scrape, need)]


def merged(texts: Mapping[str, bytes]) -> bytes:
    """The expositions of nodes as one: each family once, with the head that the first node gives it."""
    heads: dict[bytes, list[bytes]] = {}
    samples: dict[bytes, list[bytes]] = {}
    for node, text in texts.items():
        family = b""
        for line in text.splitlines():
            if line.startswith((b"# HELP ", b"# TYPE ")):
                family = line.split(b" ", 3)[2]
                head = heads.setdefault(family, [])
                if not any(known.startswith(line[:7]) for known in head):
                    head.append(line)
            elif (found := _SAMPLE.fullmatch(line)) and family:
                samples.setdefault(family, []).append(_labelled(found, node))
    return b"".join(line + b"\n" for family, lines in samples.items() for line in (*heads[family], *lines))


def _labelled(sample: re.Match[bytes], node: str) -> bytes:
    name, labels, value = sample.groups()
    own = 'node="{}"'.format(node.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")).encode()
    return b"%b{%b,%b} %b" % (name, own, labels.rstrip(b","), value) if labels else b"%b{%b} %b" % (name, own, value)


def _url(node: NodeView) -> str:
    return f"{node.status.addresses.metrics}/metrics" if node.status and node.status.addresses.metrics else ""


def _state(node: NodeView) -> str:
    return "lost" if node.lost else "draining" if node.draining else "ready"


def _entrance_state(door: DoorView) -> str:
    if door.lost or door.status is None:
        return "lost"
    return "failed" if door.problem or door.status.problem else "ready"
