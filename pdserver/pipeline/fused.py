"""A fused graph as a worker is given it: the engine packs it into a spec, and the worker reads it out again."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

from pdarchiver.pipeline.graph import Graph, ModelBody, Node, PythonBody
from pdserver.configuration.model import ModelSpec
from pdserver.types import ModelRef

HANDLER = ":fused"
"""The handler of a fused graph's spec. No file is called so."""
_SECTION = "fused"
_Made = TypeVar("_Made")


def spec(own: ModelSpec, graph: Graph, nodes: Mapping[str, ModelSpec], place: str = "") -> ModelSpec:
    """What a worker needs to run the graph: `own`, with the graph and the specs of its models and steps in Python.

    These are by their paths, also those in inner graphs. `place` is the path of the node whose graph it is, with which
    the paths begin; "" for a whole pipeline's.
    """
    keys = {path: node.key for path, node in nodes.items() if node.key}
    without = {path: dataclasses.replace(node, key=b"") for path, node in nodes.items()}
    section = {"place": place, "graph": in_one_process(graph), "nodes": without}
    config = {**own.model_config, _SECTION: msgspec.to_builtins(section)}
    if threads := max((_threads(node.model_config) for node in nodes.values()), default=0):
        config["predictor"] = {"threads": threads}  # what libraries are told before they are imported
    return dataclasses.replace(own, handler=HANDLER, model_config=config, key=msgspec.msgpack.encode(keys))


class Fused(NamedTuple):
    graph: Graph
    place: str
    """The path of the node whose graph it is; "" for a whole pipeline's."""
    nodes: Mapping[str, ModelSpec]
    """By their paths, which begin with `place`."""


def read(own: ModelSpec) -> Fused:
    """What `spec` has made."""
    section = own.model_config[_SECTION]
    keys = msgspec.msgpack.decode(own.key, type=dict[str, bytes])
    nodes = {
        path: dataclasses.replace(msgspec.convert(held, ModelSpec), key=keys.get(path, b""))
        for path, held in section["nodes"].items()
    }
    return Fused(_graph(section["graph"]), section["place"], nodes)


def refs(own: ModelSpec) -> dict[str, ModelRef]:
    """Under which the nodes of the graph are counted, by their paths; none where the spec is no fused graph's."""
    pipeline = own.name.partition(":")[0]
    nodes = own.model_config[_SECTION]["nodes"] if own.handler == HANDLER else ()
    return {path: ModelRef(f"{pipeline}:{path}", own.version) for path in nodes}


def in_one_process(graph: Graph) -> Graph:
    """The graph without its inner ones being fused apart from it."""
    nodes = {
        name: dataclasses.replace(node, body=in_one_process(node.body)) if isinstance(node.body, Graph) else node
        for name, node in graph.nodes.items()
    }
    return dataclasses.replace(graph, nodes=nodes, fuse="no")


def _threads(config: Mapping[str, Any]) -> int:
    section = config.get("predictor")
    threads = section.get("threads") if isinstance(section, dict) else None
    return threads if isinstance(threads, int) else 0


def _graph(held: Mapping[str, Any]) -> Graph:
    return _made(Graph, held, nodes={name: _node(node) for name, node in held["nodes"].items()})


def _node(held: Mapping[str, Any]) -> Node:
    body = held["body"]
    kind = Graph if "nodes" in body else PythonBody if "entry" in body else ModelBody
    return _made(Node, held, body=_graph(body) if kind is Graph else msgspec.convert(body, kind))


def _made(kind: type[_Made], held: Mapping[str, Any], **own: Any) -> _Made:
    """A dataclass of its builtins, but for the fields that are given."""
    types = typing.get_type_hints(kind)
    return kind(**own, **{name: msgspec.convert(held[name], types[name]) for name in held.keys() - own.keys()})
