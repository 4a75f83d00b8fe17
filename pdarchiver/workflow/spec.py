"""Reads a workflow's specification: which models and functions answer a request, and in which order.

    models:
      batch-size: 4                 # settings of all models
      m1: {url: m1.pdar, batch-size: 8}
    dag:
      prepare: [m1]                 # node: the nodes that take what it gives
      m1: [finish]

A node that is not among the models is a function of the workflow's handler file. Source of keys and defaults:
TorchServe 0.12: its page on workflows, and WorkFlow.java.
"""

from __future__ import annotations

import graphlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pdarchiver import safe_yaml
from pdarchiver.errors import InvalidPipeline, nearest
from pdarchiver.handler import top_level_names
from pdarchiver.jsonfields import shown
from pdarchiver.manifest import check_name

_NODE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
MAX_NODES = 100
"""Each has a worker of its own, which is a process."""
_MOST_MS = 3_600_000
_RANGES = {
    "min-workers": (1, 1024),
    "max-workers": (1, 1024),
    "batch-size": (1, 4096),
    "max-batch-delay": (0, _MOST_MS),
    "retry-attempts": (0, 100),
    "timeout-ms": (1, _MOST_MS),
}


@dataclass(frozen=True)
class NodeSettings:
    min_workers: int = 1
    max_workers: int = 1
    batch_size: int = 1
    max_batch_delay: int = 50
    """Milliseconds."""
    retry_attempts: int = 1
    """Tries after the first one."""
    timeout_ms: int = 10_000
    """Milliseconds, for each try."""


@dataclass(frozen=True)
class WorkflowNode:
    name: str
    url: str
    """The archive of its model; "" for a function of the handler file."""
    settings: NodeSettings
    parents: tuple[str, ...]
    """The nodes that it takes from; () for one that takes the request."""


@dataclass(frozen=True)
class Workflow:
    settings: NodeSettings
    """What holds for models that say nothing else."""
    nodes: tuple[WorkflowNode, ...]
    """Each after its parents."""
    dag: Mapping[str, tuple[str, ...]]
    """As it is written."""

    @property
    def functions(self) -> tuple[str, ...]:
        """The nodes that are functions of the handler file."""
        return tuple(node.name for node in self.nodes if not node.url)

    @property
    def leaves(self) -> tuple[str, ...]:
        """The nodes from which no other one takes: they are the answer."""
        parents = {parent for node in self.nodes for parent in node.parents}
        return tuple(node.name for node in self.nodes if node.name not in parents)


def read(data: bytes, where: str) -> Workflow:
    """Read a specification. `where` names the file in errors. Raises InvalidPipeline for what is wrong with it."""
    try:
        found = safe_yaml.load(data, aliases=True)
    except safe_yaml.InvalidYaml as error:
        raise InvalidPipeline("", str(error)[:200], f"{where}{error.place}") from None
    try:
        return _workflow(found)
    except InvalidPipeline as error:
        raise error.within(where) from None


def check_functions(workflow: Workflow, handler: Path | None, where: str) -> None:
    """Check that the handler file has all functions, without running it. Raises InvalidPipeline, PackingError."""
    if not workflow.functions:
        return
    if handler is None:
        raise InvalidPipeline(
            f"dag.{workflow.functions[0]}",
            f"it is none of the models{nearest(workflow.functions[0], _models(workflow))}, and the workflow has no "
            "handler file with a function of that name",
            where,
        )
    names = top_level_names(handler)
    for name in workflow.functions if "*" not in names else ():  # what a star import brings shows when it is run
        if name not in names:
            raise InvalidPipeline(
                f"dag.{name}",
                f"neither a model nor a function of {handler.name}{nearest(name, [*_models(workflow), *names])}",
                where,
            )


def _models(workflow: Workflow) -> list[str]:
    return [node.name for node in workflow.nodes if node.url]


def _workflow(found: Any) -> Workflow:
    top = _mapping("", found)
    for key in top:
        if key not in ("models", "dag"):
            hint = nearest(key[:100], ("models", "dag"))
            raise InvalidPipeline(key[:100], f"unknown key{hint}; there are models and dag")
    settings, models = _read_models(_mapping("models", top.get("models") or {}))
    dag = _read_dag(_mapping("dag", top.get("dag")))
    names = dict.fromkeys(name for node, following in dag.items() for name in (node, *following))
    if len(names) > MAX_NODES:
        raise InvalidPipeline("dag", f"{len(names)} nodes; at most {MAX_NODES} are accepted")
    for name in models:
        if name not in names:
            raise InvalidPipeline(f"models.{name}", f"the dag does not have it{nearest(name, names)}")
    parents = {name: tuple(node for node, following in dag.items() if name in following) for name in names}
    of_functions = replace(settings, min_workers=1, max_workers=1, batch_size=1, max_batch_delay=0)
    nodes = tuple(
        WorkflowNode(name, *models.get(name, ("", of_functions)), parents=parents[name]) for name in _ordered(parents)
    )
    return Workflow(settings, nodes, dag)


def _ordered(parents: Mapping[str, tuple[str, ...]]) -> list[str]:
    try:
        return list(graphlib.TopologicalSorter(parents).static_order())
    except graphlib.CycleError as error:
        circle = " -> ".join(error.args[1])
        raise InvalidPipeline("dag", f"it goes in a circle: {circle}") from None


def _read_models(models: Mapping[str, Any]) -> tuple[NodeSettings, dict[str, tuple[str, NodeSettings]]]:
    """The settings of all models, and each model's URL and settings."""
    shared = {key: value for key, value in models.items() if key in _RANGES}
    settings = _settings("models", shared, NodeSettings())
    found = {}
    for name, value in models.items():
        if name in _RANGES:
            continue
        place = f"models.{name[:100]}"
        if not isinstance(value, dict):  # more likely a slip in a setting's name than a model
            raise InvalidPipeline(
                place,
                f"expected a model, such as {{url: m1.pdar}}, or one of the settings {', '.join(_RANGES)}"
                f"{nearest(name[:100], _RANGES)}",
            )
        _check_node(place, name)
        given = dict(_mapping(place, value))
        url = given.pop("url", None)
        if not isinstance(url, str) or not url or not url.isprintable():
            raise InvalidPipeline(f"{place}.url", "expected the name of an archive in the model store, or its URL")
        for key in given:
            if key not in _RANGES:
                known = ("url", *_RANGES)
                raise InvalidPipeline(
                    f"{place}.{key[:100]}",
                    f"unknown key{nearest(key[:100], known)}; there are {', '.join(known)}",
                )
        found[name] = (url, _settings(place, given, settings, limited="max-workers" in {*given, *shared}))
    return settings, found


def _settings(
    place: str, given: Mapping[str, Any], others: NodeSettings, *, limited: bool | None = None
) -> NodeSettings:
    """`others`, with what is given. `limited`: whether anybody has said how many workers there may be."""
    for key, value in given.items():
        low, high = _RANGES[key]
        if type(value) is not int or not low <= value <= high:
            raise InvalidPipeline(
                f"{place}.{key}", f"expected a whole number from {low} to {high}, found {shown(value)}"
            )
    settings = replace(others, **{key.replace("-", "_"): value for key, value in given.items()})
    if settings.min_workers > settings.max_workers:
        if limited is None:
            limited = "max-workers" in given
        if limited:
            raise InvalidPipeline(
                f"{place}.max-workers", f"{settings.max_workers} is less than min-workers, {settings.min_workers}"
            )
        settings = replace(settings, max_workers=settings.min_workers)
    return settings


def _read_dag(dag: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    if not dag:
        raise InvalidPipeline("dag", "expected at least one node, such as prepare: [m1]")
    found = {}
    for name, following in dag.items():
        place = f"dag.{name[:100]}"
        _check_node(place, name)
        if following is None:
            following = []
        if not isinstance(following, list):
            raise InvalidPipeline(place, f"expected a list of nodes, such as [m1], found {shown(following)}")
        nodes = [other for other in following if other not in (None, "")]  # TorchServe leaves these out, too
        for other in nodes:
            if not isinstance(other, str):
                raise InvalidPipeline(place, f"expected names of nodes, found {shown(other)}")
            _check_node(place, other)
        found[name] = tuple(dict.fromkeys(nodes))
    return found


def _check_node(place: str, name: str) -> None:
    if not _NODE.fullmatch(name) or len(name) > 100:
        raise InvalidPipeline(
            place, f"{name[:200]!r} is no name for a node: expected letters, digits, dots, dashes or underscores"
        )


def _mapping(place: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidPipeline(place, f"expected a mapping (key: value), found {shown(value)}")
    for key in value:
        if not isinstance(key, str):
            raise InvalidPipeline(place, f"the key {shown(key)} is not text; put it in quotes")
    return value


def node_model(workflow: str, node: str) -> str:
    """The name under which a node is served. Raises ValueError when the two names are too long together."""
    return check_name(f"{workflow}__{node}")
