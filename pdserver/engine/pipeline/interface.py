"""What a pipeline takes and gives, in tensors: what its file says, and else what its models say."""

from __future__ import annotations

from collections.abc import Mapping

from pdarchiver.pipeline.graph import Graph, ModelBody, Node, Pipeline, Ref, Type
from pdserver.dtypes import BYTES
from pdserver.types import Interface, Port

_OPAQUE_SHAPE = (1,)
_UNKNOWN_SHAPE = (-1,)


def interface_of(pipeline: Pipeline, interfaces: Mapping[str, Interface]) -> Interface:
    """`interfaces` are those of its models that are asked by tensors, by the nodes' paths."""
    graph = pipeline.graph
    inputs = [_input(name, kind, graph, interfaces) for name, kind in graph.inputs.items()]
    outputs = [_output(name, source.refs[0], graph, interfaces) for name, source in graph.outputs.items()]
    return Interface(inputs, outputs, pipeline.batched)


def _port(name: str, kind: Type) -> Port:
    if kind.kind == "tensor":
        return Port(name, kind.dtype or "float32", _UNKNOWN_SHAPE if kind.shape is None else kind.shape)
    if kind.kind == "list" and kind.item is not None:
        item = _port(name, kind.item)
        return Port(name, item.dtype, (-1,) if item.dtype == BYTES else (-1, *item.shape))
    return Port(name, BYTES, (-1,) if kind.kind == "list" else _OPAQUE_SHAPE)


def _input(name: str, kind: Type, graph: Graph, interfaces: Mapping[str, Interface]) -> Port:
    """Where the file leaves dtype or shape open, the model's that takes it."""
    if kind.kind == "tensor" and (not kind.dtype or kind.shape is None):
        for node in graph.nodes.values():
            for own, source in node.inputs.items():
                if Ref("", name) in source.refs and node.name in interfaces and not node.each:
                    port = next((port for port in interfaces[node.name].inputs if port.name == own), None)
                    if port is not None:
                        return Port(name, port.dtype, port.shape)
    return _port(name, kind)


def _output(name: str, ref: Ref, graph: Graph, interfaces: Mapping[str, Interface], place: str = "") -> Port:
    if not ref.node:
        return _port(name, graph.inputs[ref.name])
    node = graph.nodes[ref.node]
    path = f"{place}/{node.name}" if place else node.name
    port = _given(name, ref, node, path, interfaces)
    if node.each and not ref.name.startswith("$"):
        return Port(name, port.dtype, (-1,) if port.shape == _OPAQUE_SHAPE else (-1, *port.shape), port.labels)
    return port


def _given(name: str, ref: Ref, node: Node, path: str, interfaces: Mapping[str, Interface]) -> Port:
    if ref.name.startswith("$"):
        return Port(name, "int64", (-1,)) if ref.name == "$positions" else Port(name, BYTES, _OPAQUE_SHAPE)
    if isinstance(node.body, Graph):
        return _output(name, node.body.outputs[ref.name].refs[0], node.body, interfaces, path)
    if isinstance(node.body, ModelBody) and path in interfaces:
        interface = interfaces[path]
        found = next((port for port in interface.outputs if port.name == ref.name), None)
        if found is not None:
            shape = found.shape[1:] if node.each and interface.batched else found.shape
            return Port(name, found.dtype, shape, found.labels)
    return _port(name, node.outputs.get(ref.name, Type()))
