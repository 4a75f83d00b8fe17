"""The machines of a Ray cluster, with a node on each and entrances on some."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from pdserver.cluster.actors.entrances import EntranceShell, RayEntrance
from pdserver.cluster.actors.making import is_head, machines_alive, made, of_names, on
from pdserver.cluster.actors.nodes import NodeShell, RayNode
from pdserver.cluster.entrances import Spot, chosen
from pdserver.cluster.fleet import Entrances
from pdserver.cluster.options import ClusterOptions

_log = logging.getLogger("pdserver.cluster")


class RayMachines:
    """The `Machines` of a Ray cluster: it makes the actor of a node on each, and those of entrances on some."""

    def __init__(self, options: ClusterOptions) -> None:
        self._options = options
        self._nodes: dict[str, RayNode] = {}
        self._entrances: dict[str, RayEntrance] = {}
        self._refused: set[str] = set()

    async def nodes(self) -> Mapping[str, RayNode]:
        there = await asyncio.to_thread(machines_alive)
        for node, machine in there.items():
            if node not in self._nodes and self._may_serve(node, machine, there):
                make = partial(made, NodeShell, f"node-{node}", on(node), node, self._options)
                name = f"the node {node[:8]} ({machine['NodeManagerHostname']})"
                self._nodes[node] = await asyncio.to_thread(RayNode, name, make)
        self._nodes = {node: shell for node, shell in self._nodes.items() if node in there}
        return dict(self._nodes)

    def _may_serve(self, node: str, machine: Mapping[str, Any], there: Mapping[str, Mapping[str, Any]]) -> bool:
        """Nodes that listen on loopback reach each other on one machine alone."""
        head = next((other for other in there.values() if is_head(other)), machine)
        if self._options.listen or machine["NodeManagerAddress"] == head["NodeManagerAddress"]:
            return True
        if node not in self._refused:
            self._refused.add(node)
            _log.error(
                "the machine %s is left out, since the cluster's nodes listen on loopback: start it with --listen node",
                machine["NodeManagerAddress"],
            )
        return False

    async def entrances(self) -> Entrances:
        there, problem = await self.ray_entrances()
        return Entrances(there, problem)

    async def ray_entrances(self) -> tuple[Mapping[str, RayEntrance], str]:
        """Those that another controller has made stay where they are."""
        if self._options.entrances == 0:
            return {}, ""
        machines = await asyncio.to_thread(machines_alive)
        having = set(self._entrances) or await asyncio.to_thread(of_names, "entrance-")
        spots = [Spot(node, each["NodeManagerAddress"], is_head(each)) for node, each in machines.items()]
        nodes, problem = chosen(spots, having, self._options.entrances)
        self._entrances = {node: self._entrances.get(node) or await self._entrance(node) for node in nodes}
        return dict(self._entrances), problem

    async def _entrance(self, node: str) -> RayEntrance:
        name = f"entrance-{node}"
        return RayEntrance(name, await asyncio.to_thread(made, EntranceShell, name, on(node), self._options))
