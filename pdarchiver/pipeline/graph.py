"""What a pipeline is: nodes, and which values go from one to the other. Frozen; `reading` makes it, `checks` checks it.

graph       inputs → nodes → outputs
node        runs a model, a function or class in Python, or a graph of its own; perhaps for each item of a list,
            under a condition, or several times
reference   "image" is an input of the graph, "detect.boxes" an output of its node `detect`
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

PIPELINE_FILE = "pipeline.yaml"
OPAQUE = ("bytes", "text", "json")
"""What a value may be beside a tensor: as received, text in UTF-8, or JSON."""
WEB_SERVICE = "paddle-serving/pipeline"
"""Inputs `request`, all that a client sent as a list, and `names`, theirs; outputs `answer`, as it is sent, and `head`,
its {status, headers} if that is no success."""
CONTRACTS = (
    "paddlex/ocr",
    "paddlex/image-classification",
    "paddlex/object-detection",
    "paddlex/semantic-segmentation",
    "paddlex/layout-parsing",
    WEB_SERVICE,
)
"""The forms of requests and answers that a pipeline may keep to."""


@dataclass(frozen=True)
class Type:
    """Of a value."""

    kind: Literal["any", "tensor", "bytes", "text", "json", "list", "parts"] = "any"
    """ "any": what it is shows when it is there. "parts": all that a plain HTTP request has, by the client's names; an
    input of a pipeline that takes nothing else. A pipeline.yaml can't say it."""
    dtype: str = ""
    """Of a tensor, as in a manifest's signature; "" any."""
    shape: tuple[int, ...] | None = None
    """Of a tensor; -1: any length; None: any shape."""
    item: Type | None = None
    """Of each item of a list; None: any."""

    def __str__(self) -> str:
        """As in a pipeline.yaml."""
        if self.kind == "list":
            return f"list of {self.item}" if self.item else "list"
        if self.kind == "tensor":
            return (self.dtype or "tensor") + ("" if self.shape is None else str(list(self.shape)))
        return self.kind


ANY = Type()


class Ref(NamedTuple):
    """A value of a graph."""

    node: str
    """The node that gives it; "" for an input of the graph."""
    name: str

    def __str__(self) -> str:
        return f"{self.node}.{self.name}" if self.node else self.name


FAILURES = "$failures"
"""The output that each node with `on_error: skip` has beside its own: JSON, a list of {item, message}."""
POSITIONS = "$positions"
"""The output that each node with `each` has beside its own: int64 [items], which items have been answered."""


@dataclass(frozen=True)
class Source:
    """Where a value comes from: the first of `refs` that is there."""

    refs: tuple[Ref, ...]
    optional: bool = False
    """Whether the node runs without it. Else it does not run, when none of them is there."""


@dataclass(frozen=True)
class Condition:
    ref: Ref
    holds: bool = True
    """False: the node runs unless the value is true (`unless`)."""


@dataclass(frozen=True)
class ModelBody:
    """A model: of the store, by name, or one that is packed inside."""

    name: str = ""
    version: str | None = None
    """None: the default version, whichever it is when the request comes."""
    archive: str = ""
    """The archive's path beside the pipeline's file; "" for a model of the store."""
    opaque: bool = False
    """Whether the model is asked as by a plain HTTP request, not by tensors. What it answers is its output `body`."""


@dataclass(frozen=True)
class PythonBody:
    """Code of the archive, with a handler's contract."""

    entry: str
    """`file.py`, or `file.py:name` of a function or class."""


@dataclass(frozen=True)
class Repeat:
    """The node runs again with what it gave, while its output `while_` is true; at most `at_most` times in all."""

    while_: str
    at_most: int
    carry: Mapping[str, str] = field(default_factory=dict)
    """Input → the output of the round before that it takes from the second round on. Others stay as they are."""


@dataclass(frozen=True)
class Node:
    name: str
    body: Body
    inputs: Mapping[str, Source]
    outputs: Mapping[str, Type] = field(default_factory=dict)
    """What it gives. Of a model: empty, for its signature says it. Of a graph: the graph's outputs."""
    each: tuple[str, ...] = ()
    """Inputs that are lists, or tensors whose rows are the items, all of one length. The node runs once for each item,
    and its outputs become lists."""
    when: Condition | None = None
    repeat: Repeat | None = None
    on_error: Literal["fail", "skip"] = "fail"
    """Whether the failure of an item fails the request, or leaves the item out. Of a node without `each`: whether its
    outputs are missing then."""
    timeout_seconds: float = 0.0
    """For each try of each item; 0: only the request's own time counts."""
    retry: int = 0
    """How many more tries an item has that failed otherwise than by its input."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings for its workers, as in a model's YAML."""


@dataclass(frozen=True)
class Graph:
    inputs: Mapping[str, Type]
    nodes: Mapping[str, Node]
    """In an order in which each comes after those that it takes from."""
    outputs: Mapping[str, Source]
    fuse: Literal["no", "yes", "auto"] = "no"
    """Whether all nodes run in one worker process, in a row; "auto": where that is faster, as measured at loading."""

    def walk(self, place: str = "") -> Iterator[tuple[str, Node]]:
        """All nodes, also those of nodes' own graphs, each with its path, such as "read/rotate"."""
        for node in self.nodes.values():
            path = f"{place}/{node.name}" if place else node.name
            yield path, node
            if isinstance(node.body, Graph):
                yield from node.body.walk(path)


Body: TypeAlias = ModelBody | PythonBody | Graph


@dataclass(frozen=True)
class Pipeline:
    """A whole pipeline.yaml."""

    graph: Graph
    batched: bool = False
    """Whether the first axis of every tensor that goes in or comes out is the batch."""
    contract: str = ""
    """The form of requests and answers over HTTP that it keeps to, such as "paddlex/ocr"; "" for none."""
    samples: tuple[Mapping[str, str], ...] = ()
    """Requests for the warm-up: input → a file of the archive."""
