"""In which order nodes run, and nodes that are fused to one."""

from __future__ import annotations

import graphlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from pdarchiver.errors import InvalidPipeline, nearest
from pdarchiver.pipeline.fields import shown
from pdarchiver.pipeline.graph import ANY, Graph, Node, Ref, Source, Type

GROUP = "+"
"""Joins the names of nodes that `fuse` puts into one process, such as "decode+normalise"; no other node has it."""
_Moved: TypeAlias = Callable[[Ref], Ref]


def refs_of(node: Node) -> list[Ref]:
    """What a node takes from its graph."""
    found = [ref for source in node.inputs.values() for ref in source.refs]
    return found if node.when is None else [*found, node.when.ref]


def ordered(nodes: Iterable[Node], place: str = "nodes") -> dict[str, Node]:
    """The nodes, each after those that it takes from; else in their order.

    Raises InvalidPipeline, at `place`, for a circle. Nodes that are named but not there are left to `checks`.
    """
    by_name = {node.name: node for node in nodes}
    order, circle = _sorted({name: [ref.node for ref in refs_of(node)] for name, node in by_name.items()})
    if circle:
        raise InvalidPipeline(
            place, f"{_arrows(circle)} is a circle: nodes may only take from those before them; `repeat` is for loops"
        )
    return {name: by_name[name] for name in order}


def grouped(graph: Graph, groups: Sequence[Sequence[str]], place: str = "") -> Graph:
    """The graph with each group of nodes fused to a node of its own, whose body is their graph.

    The group's inputs have the names of what it takes from outside, its outputs are `NODE.OUTPUT`. Each input is
    optional, because each node of the group decides for itself whether it runs.

    `place` is the graph's. Raises InvalidPipeline for a group that is none, one that a node outside lies between, and
    settings that contradict each other.
    """
    of: dict[str, str] = {}
    members: dict[str, list[str]] = {}
    for index, group in enumerate(groups):
        _check_group(graph, group, of, f"{place}fuse[{index}]")
        wanted = set(group)
        members[GROUP.join(group)] = [name for name in graph.nodes if name in wanted]
        of |= dict.fromkeys(group, GROUP.join(group))
    _check_convex(graph, of, list(members), place)

    def moved(ref: Ref) -> Ref:
        return Ref(of[ref.node], str(ref)) if ref.node in of else ref

    outside = [_moved_node(node, moved) for name, node in graph.nodes.items() if name not in of]
    taken = {ref for name, node in graph.nodes.items() for ref in refs_of(node) if of.get(name) != of.get(ref.node)}
    taken |= {ref for source in graph.outputs.values() for ref in source.refs}
    fused = [
        _fused(name, graph, names, [ref for ref in sorted(taken, key=str) if ref.node in names], moved, place)
        for name, names in members.items()
    ]
    outputs = {name: replace(source, refs=tuple(map(moved, source.refs))) for name, source in graph.outputs.items()}
    return replace(graph, nodes=ordered([*outside, *fused]), outputs=outputs)


def _check_group(graph: Graph, group: Sequence[str], of: Mapping[str, str], place: str) -> None:
    if len(group) < 2:
        raise InvalidPipeline(place, "expected at least two nodes to run in one process")
    for index, name in enumerate(group):
        here = f"{place}[{index}]"
        if name not in graph.nodes:
            raise InvalidPipeline(here, f"no node {name[:100]!r}{nearest(name[:100], graph.nodes)}")
        if name in of or name in group[:index]:
            raise InvalidPipeline(here, f"{name!r} is in a group already; a node can be in one")


def _check_convex(graph: Graph, of: Mapping[str, str], names: list[str], place: str) -> None:
    edges: dict[str, list[str]] = {}
    for name, node in graph.nodes.items():
        here = of.get(name, name)
        befores = [of.get(ref.node, ref.node) for ref in refs_of(node)]
        edges.setdefault(here, []).extend(before for before in befores if before != here)
    _, circle = _sorted(edges)
    if not circle:
        return
    group = next(name for name in names if name in circle)
    between = [name for name in circle if GROUP not in name]
    if between:
        problem = f"{between[0]} lies between {group.replace(GROUP, ', ')}: add it to the group, or split the group"
    else:
        problem = f"the groups {_arrows(circle)} wait for each other; fuse fewer nodes"
    raise InvalidPipeline(f"{place}fuse[{names.index(group)}]", problem)


def _moved_node(node: Node, moved: _Moved) -> Node:
    inputs = {name: replace(source, refs=tuple(map(moved, source.refs))) for name, source in node.inputs.items()}
    return replace(node, inputs=inputs, when=node.when and replace(node.when, ref=moved(node.when.ref)))


def _fused(name: str, graph: Graph, names: list[str], given: list[Ref], moved: _Moved, place: str) -> Node:
    inputs: dict[str, Source] = {}
    types: dict[str, Type] = {}

    def inside(ref: Ref) -> Ref:
        if ref.node in names:
            return ref
        inputs[str(ref)] = Source((moved(ref),), optional=True)
        types[str(ref)] = ANY if ref.node else graph.inputs.get(ref.name, ANY)
        return Ref("", str(ref))

    nodes = {each: _moved_node(graph.nodes[each], inside) for each in names}
    outputs = {str(ref): Source((ref,)) for ref in given}
    body = Graph(types, nodes, outputs, fuse="yes")
    return Node(
        name,
        body,
        inputs,
        dict.fromkeys(outputs, ANY),
        settings=shared_settings((f"{place}nodes.{each}", node) for each, node in nodes.items()),
    )


def ungrouped(graph: Graph) -> Graph:
    """The graph as it was before `grouped`, with the nodes as they were written."""
    bodies = {name: node.body for name, node in graph.nodes.items() if GROUP in name and isinstance(node.body, Graph)}

    def moved(ref: Ref) -> Ref:
        return bodies[ref.node].outputs[ref.name].refs[0] if ref.node in bodies else ref

    nodes: dict[str, Node] = {}
    for name, node in graph.nodes.items():
        if name not in bodies:
            nodes[name] = _moved_node(node, moved)
            continue

        def taken(ref: Ref, group: Node = node) -> Ref:
            return ref if ref.node else moved(group.inputs[ref.name].refs[0])

        nodes |= {each.name: _moved_node(each, taken) for each in bodies[name].nodes.values()}
    outputs = {name: replace(source, refs=tuple(map(moved, source.refs))) for name, source in graph.outputs.items()}
    return replace(graph, nodes=nodes, outputs=outputs)


def written(graph: Graph, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Node]]:
    """All nodes as they were written, each with its name after the names of the nodes that it is in."""
    for name, node in ungrouped(graph).nodes.items():
        yield (*above, name), node
        if isinstance(node.body, Graph):
            yield from written(node.body, (*above, name))


def shared_settings(nodes: Iterable[tuple[str, Node]]) -> dict[str, Any]:
    """The settings of the process that nodes share, each given with its place.

    Raises InvalidPipeline for two that contradict each other.
    """
    found: dict[str, Any] = {}
    first: dict[str, str] = {}
    for place, node in nodes:
        for key, value in node.settings.items():
            if key in found and found[key] != value:
                raise InvalidPipeline(
                    f"{place}.settings.{key}",
                    f"{shown(value)}, but {first[key]} says {shown(found[key])}, and the two run in one process",
                )
            first.setdefault(key, node.name)
            found[key] = value
    return found


def _sorted(before: Mapping[str, Iterable[str]]) -> tuple[list[str], list[str]]:
    """The names in order, and the circle that there is, in the direction in which values go."""
    sorter = graphlib.TopologicalSorter(
        {name: [each for each in names if each in before] for name, names in before.items()}
    )
    try:
        return list(sorter.static_order()), []
    except graphlib.CycleError as error:
        return [], error.args[1]


def _arrows(names: list[str]) -> str:
    shown = names if len(names) <= 12 else [*names[:10], "…", names[-1]]
    return " → ".join(shown)
