"""Which graphs of a pipeline run in one process: as its file says, or as measured where it says `fuse: auto`."""

from __future__ import annotations

import dataclasses
from typing import Literal

from pdarchiver.pipeline.graph import Graph, Node, Ref, Source
from pdserver.engine.pipeline.requests import required

WHOLE = "pipeline"
"""The node that a pipeline becomes which is fused as a whole."""


def variants(graph: Graph) -> list[Graph]:
    """The graphs that could be served, the first of them until it is known which is faster. None says "auto"."""
    if graph.fuse == "auto" or any(
        isinstance(node.body, Graph) and node.body.fuse == "auto" for _, node in graph.walk()
    ):
        return [_whole(_decided(graph, "no")), _whole(_decided(graph, "yes"))]
    return [_whole(graph)]


def _decided(graph: Graph, fuse: Literal["no", "yes"]) -> Graph:
    nodes = {
        name: dataclasses.replace(node, body=_decided(node.body, fuse)) if isinstance(node.body, Graph) else node
        for name, node in graph.nodes.items()
    }
    return dataclasses.replace(graph, nodes=nodes, fuse=fuse if graph.fuse == "auto" else graph.fuse)


def _whole(graph: Graph) -> Graph:
    """A graph that is fused as a whole as the one node of another."""
    if graph.fuse != "yes":
        return graph
    needed = required(graph)
    inputs = {name: Source((Ref("", name),), optional=name not in needed) for name in graph.inputs}
    whole = WHOLE
    while whole in graph.nodes:  # which has workers under its name where it runs apart
        whole += "_"
    outputs = {name: Source((Ref(whole, name),)) for name in graph.outputs}
    return Graph(graph.inputs, {whole: Node(whole, graph, inputs)}, outputs)
