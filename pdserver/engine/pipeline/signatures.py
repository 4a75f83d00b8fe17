"""Whether a pipeline fits the models that it asks, and what it takes and gives itself, in tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pdarchiver.errors import ArchiveError
from pdarchiver.pipeline import checks
from pdarchiver.pipeline.flow import Sides, sides
from pdarchiver.pipeline.graph import WEB_SERVICE, Graph, ModelBody, Pipeline, Ref, Type
from pdserver.dtypes import BYTES
from pdserver.engine.pipeline import web_service
from pdserver.engine.pipeline.requests import required
from pdserver.engine.registry import Registry
from pdserver.errors import InvalidRequest, ModelNotFound, VersionNotFound
from pdserver.store.model import StoredModel
from pdserver.types import Interface, Port

_ONE = (1,)
"""The shape of an opaque value as a tensor of bytes."""
_UNKNOWN = (-1,)


class NodeMissing(InvalidRequest):
    """A model that the pipeline asks is not registered. At the start, it may come later."""


def check(name: str, pipeline: Pipeline, stored: StoredModel, registry: Registry) -> None:
    """`name` is the pipeline's. Raises NodeMissing, and InvalidRequest for what does not fit, as far as the models are
    known, and for what asks itself."""

    def signature(path: str, body: ModelBody) -> Sides | None:
        if body.archive:
            return sides(stored.nested[body.archive].manifest)
        interface = registry.resolve(body.name, body.version, name).interface
        return None if interface is None else sides_of(interface)

    for path, node in pipeline.graph.walk():
        if isinstance(node.body, ModelBody) and node.body.name:
            try:
                registry.resolve(node.body.name, node.body.version, name)
            except (ModelNotFound, VersionNotFound) as error:
                raise NodeMissing(
                    f"{stored.url}: node {path}: {error}: register that model first, or pack it inside (archive)"
                ) from None
            if way := _way(node.body.name, name, registry):
                told = " asks ".join((name, *way))
                raise InvalidRequest(
                    f"{stored.url}: node {path}: {told}: a pipeline can't ask itself, in whatever version"
                )
    try:
        checks.check(pipeline, signature)
    except ArchiveError as error:
        raise InvalidRequest(f"{stored.url}: {error}") from None


def _way(start: str, end: str, registry: Registry) -> tuple[str, ...]:
    """The names by which one asks the other; empty for none."""
    uses: dict[str, set[str]] = {}
    for served in registry.versions():
        uses.setdefault(served.spec.name, set()).update(served.uses)
    ways: dict[str, tuple[str, ...]] = {start: (start,)}
    due = [start]
    while due and end not in ways:
        name = due.pop()
        for used in uses.get(name, set()) - ways.keys():
            ways[used] = (*ways[name], used)
            due.append(used)
    return ways.get(end, ())


def interface_of(pipeline: Pipeline, models: Mapping[str, Sides]) -> Interface:
    """`models` is what is known of its models that are asked by tensors, by the nodes' paths.

    Raises InvalidRequest for what does not fit them.
    """
    try:
        given = checks.output_types(pipeline, lambda path, _: models.get(path))
    except ArchiveError as error:
        raise InvalidRequest(str(error)) from None
    if pipeline.contract == WEB_SERVICE:
        return web_service.INTERFACE
    inputs = [_input(name, kind, pipeline, models) for name, kind in pipeline.graph.inputs.items()]
    outputs = [_port(name, kind) for name, kind in given.items()]
    return Interface(inputs, outputs, pipeline.batched)


def sides_of(interface: Interface) -> Sides:
    inputs, outputs = ({port.name: _type(port) for port in ports} for ports in (interface.inputs, interface.outputs))
    return Sides(inputs, outputs, frozenset(port.name for port in interface.inputs if port.optional))


def _type(port: Port) -> Type:
    if port.dtype == BYTES:
        return Type()
    return Type("tensor", port.dtype, None if port.any_rank else port.shape)


def _port(name: str, kind: Type, *, optional: bool = False) -> Port:
    if kind.kind == "tensor":
        any_rank = kind.shape is None
        shape = _UNKNOWN if kind.shape is None else kind.shape
        return Port(name, kind.dtype or "float32", shape, optional=optional, any_rank=any_rank)
    if kind.kind == "list":
        item = _port(name, kind.item or Type())
        shape = _UNKNOWN if item.dtype == BYTES or item.any_rank else (-1, *item.shape)
        return Port(name, item.dtype, shape, optional=optional, any_rank=item.any_rank)
    return Port(name, BYTES, _ONE, optional=optional)


def _input(name: str, kind: Type, pipeline: Pipeline, models: Mapping[str, Sides]) -> Port:
    """Where the pipeline leaves dtype or shape open, they are those of the model that takes it."""
    optional = name not in required(pipeline.graph)
    if kind.kind == "tensor" and (not kind.dtype or kind.shape is None):
        for found in _taken_as(name, pipeline.graph, models):
            shape = found.shape if kind.shape is None else kind.shape
            return _port(name, Type("tensor", kind.dtype or found.dtype, shape), optional=optional)
    return _port(name, kind, optional=optional)


def _taken_as(name: str, graph: Graph, models: Mapping[str, Sides], place: str = "") -> Iterator[Type]:
    """The tensors as which models take an input of the graph, whole."""
    for node in graph.nodes.values():
        own = [each for each, source in node.inputs.items() if Ref("", name) in source.refs and not node.each]
        for each in own:
            if isinstance(node.body, Graph):
                yield from _taken_as(each, node.body, models, f"{place}{node.name}/")
            elif place + node.name in models:
                found = models[place + node.name].inputs.get(each, Type())
                if found.kind == "tensor":
                    yield found
