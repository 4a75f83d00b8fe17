"""What flows through a graph: the type of each value, and where one can't go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import NoReturn, TypeAlias

from pdarchiver.errors import InvalidPipeline, nearest
from pdarchiver.manifest import DEFAULT_HANDLER, Manifest
from pdarchiver.pipeline import types
from pdarchiver.pipeline.graph import ANY, FAILURES, OPAQUE, POSITIONS, Graph, ModelBody, Node, Ref, Source, Type
from pdarchiver.pipeline.order import GROUP, ordered, refs_of, shared_settings, ungrouped

MAX_ROUNDS = 1000
MAX_RETRY = 100
MAX_TIMEOUT_SECONDS = 24 * 60 * 60.0
BODY = "body"
"""The one output of a model that is asked as by a plain HTTP request."""
CLASSIFIERS = {"image_classifier": "image", "text_classifier": "text"}
"""The built-in handlers that give probabilities, and what their one input is called: files or texts, as bytes."""


@dataclass(frozen=True)
class Sides:
    """What a model takes and gives."""

    inputs: Mapping[str, Type]
    outputs: Mapping[str, Type]
    optional: frozenset[str] = frozenset()
    """The inputs that may be left out."""


Signatures: TypeAlias = Callable[[str, ModelBody], Sides | None]
"""What is known of the model of a node, given the node's path, such as "read/recognise"; None: nothing."""
_Given: TypeAlias = Mapping[str, "list[tuple[str, Type]]"]
"""By input: where each of its references stands, and the type of what that gives."""


def sides(manifest: Manifest) -> Sides | None:
    """Of a model that is packed; None: nothing is known of it, for a handler of its own may take and give what it
    likes."""
    signature = manifest.signature
    if signature is None:
        return None
    if manifest.handler in CLASSIFIERS and signature.outputs:
        classes = signature.outputs[0].shape[-1:] or (-1,)
        return Sides({CLASSIFIERS[manifest.handler]: ANY}, {"probabilities": Type("tensor", "float32", (-1, *classes))})
    if manifest.handler != DEFAULT_HANDLER:
        return None
    inputs, outputs = (
        {spec.name: Type("tensor", spec.dtype, spec.shape) for spec in specs}
        for specs in (signature.inputs, signature.outputs)
    )
    return Sides(inputs, outputs)


@dataclass(frozen=True)
class _Spot:
    """Where a graph is."""

    place: str = ""
    """In the YAML, with its dot, such as "nodes.read."; "" for the whole."""
    path: str = ""
    """As `Graph.walk` has it, with its slash, such as "read/"."""
    fused: bool = False
    """Whether its nodes run in one process."""


class Flow:
    """One graph, as it was written: nodes that `fuse` put together are looked at one by one."""

    def __init__(
        self,
        graph: Graph,
        given: Mapping[str, Type],
        signatures: Signatures,
        *,
        spot: _Spot = _Spot(),
        contract: bool = False,
    ) -> None:
        self.graph = ungrouped(graph)
        self.given = given
        self.signatures = signatures
        self.spot = replace(spot, fused=spot.fused or graph.fuse == "yes")
        self.all_inputs_used = not contract
        """A contract says what clients send, whether a pipeline needs it or not."""
        self.groups = {
            inner: group.name
            for group in graph.nodes.values()
            if GROUP in group.name and isinstance(group.body, Graph)
            for inner in group.body.nodes
        }
        self.found: dict[str, Mapping[str, Type] | None] = {}
        """By node, what it gives; None where that is not known."""

    def outputs(self) -> dict[str, Type]:
        """The types of what the graph gives. Raises InvalidPipeline."""
        place = self.spot.place
        ordered(self.graph.nodes.values(), f"{place}nodes")
        for name, node in self.graph.nodes.items():
            self.found[name] = _NodeFlow(self, node, f"{place}nodes.{name}").outputs()
        outputs = {
            name: _joined(self.types_of(f"{place}outputs.{name}", source))
            for name, source in self.graph.outputs.items()
        }
        self._check_dead()
        if self.spot.fused:
            shared_settings((f"{place}nodes.{name}", node) for name, node in self.graph.nodes.items())
        return outputs

    def _check_dead(self) -> None:
        taken = {ref for node in self.graph.nodes.values() for ref in refs_of(node)}
        taken |= {ref for source in self.graph.outputs.values() for ref in source.refs}
        used = {ref.node for ref in taken}
        for name in self.graph.nodes:
            if name not in used:
                _fail(f"{self.spot.place}nodes.{name}", "nothing takes from it: use an output of it, or leave it out")
        for name in self.graph.inputs if self.all_inputs_used else ():
            if Ref("", name) not in taken:
                _fail(f"{self.spot.place}inputs.{name}", "nothing takes it: use it in a node, or leave it out")

    def types_of(self, place: str, source: Source) -> list[tuple[str, Type]]:
        """Of each reference, with its place."""
        if len(source.refs) == 1:
            return [(place, self.type_of(place, source.refs[0]))]
        return [(f"{place}[{i}]", self.type_of(f"{place}[{i}]", ref)) for i, ref in enumerate(source.refs)]

    def type_of(self, place: str, ref: Ref) -> Type:
        """Of what a reference gives. Raises InvalidPipeline if it leads nowhere."""
        if not ref.node:
            if ref.name not in self.given and ref.name in self.graph.nodes:
                _fail(place, f"{ref.name!r} is a node: say which output, as in {ref.name}.OUTPUT")
            if ref.name not in self.given and self.spot.place:
                hint = nearest(ref.name[:100], self.given) or self._walls()
                _fail(place, f"the graph has no input {ref.name[:100]!r}; it has {_listed(self.given)}{hint}")
            return _named(place, "input", ref.name, self.given, "the pipeline")
        if ref.node not in self.graph.nodes:
            hint = nearest(ref.node[:100], self.graph.nodes) or self._walls()
            _fail(place, f"no node {ref.node[:100]!r}{hint}")
        if ref.node not in self.found:
            _fail(place, f"the node {ref.node!r} comes later: nodes have to be in the order in which they run")
        node, outputs = self.graph.nodes[ref.node], self.found[ref.node]
        if ref.name == POSITIONS and not node.each:
            _fail(place, f"the node {ref.node!r} has no {POSITIONS}, because it has no `each`")
        if ref.name == FAILURES and node.on_error != "skip":
            _fail(place, f"the node {ref.node!r} has no {FAILURES}, because it has no `on_error: skip`")
        extra = {POSITIONS: Type("tensor", "int64", (-1,)), FAILURES: Type("json")}.get(ref.name)
        if not extra and ref.name.startswith("$"):
            special = (POSITIONS, FAILURES)
            _fail(
                place,
                f"no node has {ref.name[:100]!r}{nearest(ref.name[:100], special)}; there are {' and '.join(special)}",
            )
        return extra or _named(place, "output", ref.name, outputs, f"the node {ref.node!r}")

    def _walls(self) -> str:
        """What the nodes of a node do not see."""
        node = self.spot.place.removesuffix(".")
        return f"; the nodes of {node} see each other and its inputs only: add one to its `inputs`" if node else ""


class _NodeFlow:
    """One node of a graph."""

    def __init__(self, around: Flow, node: Node, place: str) -> None:
        self.around = around
        self.node = node
        self.place = place
        group = around.groups.get(node.name)
        self.fused = around.spot.fused or group is not None
        self.path = around.spot.path + (f"{group}/" if group else "") + node.name
        self.known = around.signatures(self.path, node.body) if isinstance(node.body, ModelBody) else None

    def outputs(self) -> Mapping[str, Type] | None:
        node, place = self.node, self.place
        _check_bounds(node, place)
        given = {name: self.around.types_of(f"{place}.inputs.{name}", source) for name, source in node.inputs.items()}
        given |= self._items(given)
        if node.when is not None:
            here = f"{place}.{'when' if node.when.holds else 'unless'}"
            _check_condition(here, self.around.type_of(here, node.when.ref))
        found = self._body(given)
        self._check_repeat(found)
        if not node.each or found is None:
            return found
        for name, type_ in found.items():
            if type_.kind == "list":
                _fail(place, f"gives a list {name!r} for each item, and there are no lists of lists: give json")
        return {name: Type("list", item=None if type_ == ANY else type_) for name, type_ in found.items()}

    def _items(self, given: _Given) -> _Given:
        """Of the inputs in `each`: the types of one item."""
        node, found = self.node, {}
        for index, name in enumerate(node.each):
            here = f"{self.place}.each" if len(node.each) == 1 else f"{self.place}.each[{index}]"
            _named(here, "input", name, node.inputs, "the node")
            if name in node.each[:index]:
                _fail(here, f"{name!r} is given twice")
            if node.inputs[name].optional:
                _fail(here, f"the input {name!r} is optional, and `each` needs it")
            found[name] = [(source, _item(source, type_)) for source, type_ in given[name]]
        return found

    def _body(self, given: _Given) -> Mapping[str, Type] | None:
        node = self.node
        if isinstance(node.body, Graph):
            return self._inner(node.body, given)
        if not isinstance(node.body, ModelBody):
            return node.outputs
        if not node.body.archive and self.fused:
            _fail(
                f"{self.place}.model",
                "a model of the store has its own processes and can't be fused: pack it inside, with `archive:`",
            )
        if not node.body.archive and node.settings:
            _fail(f"{self.place}.settings", "a model of the store has its own settings: change them there")
        return _opaque(given) if node.body.opaque else self._model(given)

    def _inner(self, graph: Graph, given: _Given) -> Mapping[str, Type]:
        node = self.node
        if node.settings and not self.fused and graph.fuse == "no":
            _fail(f"{self.place}.settings", "settings are for a process, which the whole has with `fuse: yes` only")
        inside = {name: _joined(found) for name, found in given.items()}
        if node.repeat is not None:
            inside |= {name: ANY for name in node.repeat.carry if name in inside}
        spot = _Spot(f"{self.place}.", f"{self.path}/", self.fused)
        found = Flow(graph, inside, self.around.signatures, spot=spot).outputs()
        if self.fused or graph.fuse == "yes":
            inner = ((f"{self.place}.nodes.{name}", each) for name, each in ungrouped(graph).nodes.items())
            shared_settings([(self.place, node), *inner])
        return found

    def _model(self, given: _Given) -> Mapping[str, Type] | None:
        if self.known is None:
            return None
        for name, found in given.items():
            wanted = _named(f"{self.place}.inputs.{name}", "input", name, self.known.inputs, "the model")
            if self.node.inputs[name].optional and name not in self.known.optional:
                _fail(
                    f"{self.place}.inputs.{name}", "a model can't run without one of its inputs: leave `optional` out"
                )
            for here, type_ in found:
                _check_fits(here, type_, wanted)
        for name in self.known.inputs:
            if name not in given and name not in self.known.optional:
                here = f"{self.place}.inputs"
                _fail(here, f"the model's input {name!r} is missing: it takes {_listed(self.known.inputs)}")
        pairs = [(type_, self.known.inputs[name]) for name, found in given.items() for _, type_ in found]
        return {name: _answered(type_, pairs) for name, type_ in self.known.outputs.items()}

    def _check_repeat(self, found: Mapping[str, Type] | None) -> None:
        repeat = self.node.repeat
        if repeat is None:
            return
        here = f"{self.place}.repeat.while"
        _check_condition(here, _named(here, "output", repeat.while_, found, "the node"))
        for name, output in repeat.carry.items():
            here = f"{self.place}.repeat.carry.{name}"
            _named(here, "input", name, self.node.inputs, "the node")
            type_ = _named(here, "output", output, found, "the node")
            if self.known is not None and name in self.known.inputs:
                _check_fits(here, type_, self.known.inputs[name])


def _fail(place: str, problem: str) -> NoReturn:
    raise InvalidPipeline(place, problem)


def _named(place: str, what: str, name: str, there: Mapping[str, object] | None, whose: str) -> Type:
    """The type of that input or output; ANY where nothing is known of those that there are."""
    if there is None:
        return ANY
    if name not in there:
        hint = nearest(name[:100], there)
        _fail(place, f"{whose} has no {what} {name[:100]!r}{hint}; it has {_listed(there)}")
    found = there[name]
    return found if isinstance(found, Type) else ANY


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    return (", ".join(found[:20]) or "none") + (" and more" if len(found) > 20 else "")


def _joined(found: Iterable[tuple[str, Type]]) -> Type:
    return reduce(types.joined, (type_ for _, type_ in found))


def _item(place: str, type_: Type) -> Type:
    """Of one item of what `each` goes through."""
    if type_.kind == "list":
        return type_.item or ANY
    if type_.kind == "any":
        return ANY
    if type_.kind != "tensor" or type_.shape == ():
        _fail(place, f"`each` goes through a list, or through a tensor's rows, and this is {type_}")
    return types.row(type_)


def _opaque(given: _Given) -> Mapping[str, Type]:
    for found in given.values():
        for here, type_ in found:
            if type_.kind not in ("any", "parts", *OPAQUE):
                _fail(here, f"is {type_}; a model with `opaque: true` takes bytes, text and json only")
    return {BODY: ANY}


def _check_fits(place: str, given: Type, wanted: Type) -> None:
    """A model takes an item with the batch axis or without."""
    if types.fits(given, wanted) or _is_row(given, wanted):
        return
    hint = "; `each` runs the node for each item" if given.kind == "list" and wanted.kind != "list" else ""
    _fail(place, f"is {given}, and the model takes {wanted}{hint}")


def _is_row(given: Type, wanted: Type) -> bool:
    return bool(wanted.kind == "tensor" and wanted.shape and wanted.shape[0] == -1) and types.fits(
        given, types.row(wanted)
    )


def _answered(output: Type, inputs: Iterable[tuple[Type, Type]]) -> Type:
    """The type of a model's output: without the batch axis, if it was asked without."""
    if output.kind != "tensor" or not output.shape or output.shape[0] != -1:
        return output
    for given, wanted in inputs:
        if given.kind == "tensor" and given.shape is not None and wanted.shape is not None:
            return output if len(given.shape) == len(wanted.shape) else types.row(output)
    return Type("tensor", output.dtype)


def _check_condition(place: str, type_: Type) -> None:
    if not types.may_be_true_or_false(type_):
        _fail(place, f"is {type_}, which is neither true nor false: a condition takes one number, json, text or a list")


def _check_bounds(node: Node, place: str) -> None:
    if not 0 <= node.retry <= MAX_RETRY:
        _fail(f"{place}.retry", f"{node.retry}: expected 0 to {MAX_RETRY}")
    if not 0 <= node.timeout_seconds <= MAX_TIMEOUT_SECONDS:
        _fail(f"{place}.timeout", f"{node.timeout_seconds:g} s: expected at most {MAX_TIMEOUT_SECONDS:g} s")
    if node.repeat is not None and not 1 <= node.repeat.at_most <= MAX_ROUNDS:
        _fail(f"{place}.repeat.at_most", f"{node.repeat.at_most}: expected 1 to {MAX_ROUNDS}")
