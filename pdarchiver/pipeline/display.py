"""Shows a pipeline: what runs, and what goes where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.text import Text
from rich.tree import Tree

from pdarchiver.pipeline.graph import ANY, Graph, ModelBody, Node, Pipeline, PythonBody, Source, Type
from pdarchiver.pipeline.order import GROUP, ungrouped, written


def store_models(pipeline: Pipeline) -> list[str]:
    """The names of the models of the store that it asks."""
    bodies = [node.body for _, node in pipeline.graph.walk()]
    return sorted({body.name for body in bodies if isinstance(body, ModelBody) and body.name})


def facts(pipeline: Pipeline) -> list[tuple[str, str]]:
    """What is said of the whole, each with its label."""
    graph = pipeline.graph
    count = sum(1 for _ in written(graph))
    traits = [f"{count} node{'s' if count > 1 else ''}"]
    traits += ["batched"] if pipeline.batched else []
    traits += [f"contract {pipeline.contract}"] if pipeline.contract else []
    traits += [f"fuse {graph.fuse}"] if graph.fuse != "no" else []
    groups = [("fused", name.replace(GROUP, ", ")) for name in graph.nodes if GROUP in name]
    return [("pipeline", "  ".join(traits)), *groups]


def lines(pipeline: Pipeline) -> list[tuple[str, str]]:
    """The inputs, outputs and nodes, in lines of columns with at least two spaces between them, each with its label."""
    found = [("input", f"{name}  {type_}") for name, type_ in pipeline.graph.inputs.items()]
    found += [("output", f"{name}  {_source(source)}") for name, source in ungrouped(pipeline.graph).outputs.items()]
    rows = [("/".join(names), _runs(node), _flow(node)) for names, node in written(pipeline.graph)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    found += [("node", f"{path:<{widths[0]}}  {runs:<{widths[1]}}  {flow}".rstrip()) for path, runs, flow in rows]
    return found


def tree(pipeline: Pipeline) -> Tree:
    root = Tree(Text("nodes", "bold"))
    branches: dict[tuple[str, ...], Tree] = {(): root}
    for names, node in written(pipeline.graph):
        label = Text(names[-1], "bold").append(f"  {_runs(node)}", "not bold")
        branch = branches[names] = branches[names[:-1]].add(label)
        for name, source in node.inputs.items():
            branch.add(Text(f"{name} ← {_source(source)}", "dim"))
        if traits := _traits(node):
            branch.add(Text(traits, "dim"))
        if outputs := _outputs(node):
            branch.add(Text(f"→ {outputs}", "dim"))
    return root


def as_json(pipeline: Pipeline) -> dict[str, Any]:
    return {
        "inputs": {name: str(type_) for name, type_ in pipeline.graph.inputs.items()},
        "outputs": {name: list(map(str, source.refs)) for name, source in ungrouped(pipeline.graph).outputs.items()},
        "nodes": [
            {
                "path": "/".join(names),
                "runs": _runs(node),
                "inputs": {name: list(map(str, source.refs)) for name, source in node.inputs.items()},
                "outputs": {name: str(type_) for name, type_ in node.outputs.items()},
            }
            for names, node in written(pipeline.graph)
        ],
    }


def types(found: Mapping[str, Type]) -> str:
    """Such as "boxes float32[-1, 4], label"."""
    return ", ".join(name if type_ == ANY else f"{name} {type_}" for name, type_ in found.items())


def _runs(node: Node) -> str:
    body = node.body
    if isinstance(body, PythonBody):
        return body.entry
    if isinstance(body, Graph):
        count = len([*written(body)])
        return f"{count} node{'s' if count > 1 else ''}"
    version = f" version {body.version}" if body.version else ""
    return body.archive or f"model {body.name}{version}"


def _flow(node: Node) -> str:
    inputs = ", ".join(f"{name}: {_source(source)}" for name, source in node.inputs.items())
    outputs = _outputs(node)
    return "  ".join(part for part in (inputs, f"-> {outputs}" if outputs else "", _traits(node)) if part)


def _outputs(node: Node) -> str:
    if isinstance(node.body, Graph):
        return ", ".join(f"{name}: {_source(source)}" for name, source in ungrouped(node.body).outputs.items())
    return types(node.outputs)


def _source(source: Source) -> str:
    return " or ".join(map(str, source.refs)) + (" if there" if source.optional else "")


def _traits(node: Node) -> str:
    traits = [f"each {' '.join(node.each)}"] if node.each else []
    if node.when is not None:
        traits.append(f"{'when' if node.when.holds else 'unless'} {node.when.ref}")
    if node.repeat is not None:
        traits.append(f"again while {node.repeat.while_}, at most {node.repeat.at_most} times")
    traits += ["on_error skip"] if node.on_error == "skip" else []
    traits += [f"timeout {node.timeout_seconds:g} s"] if node.timeout_seconds else []
    traits += [f"retry {node.retry}"] if node.retry else []
    return "  ".join(traits)
