"""What a graph means, by recursion and without events: when each node ends, and with what."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pdarchiver.pipeline.graph import Graph, Node, Ref, Source
from pdserver.errors import Kind
from pdserver.types import Failure
from tests.pipeline.virtual import Failed, Flag, Nature, Plain, Start


class Unfit(Exception):
    """For a test: it is too long, or hangs on the order of what happens at the same time, which is nowhere defined."""


_MOST = 600
"""Tries."""


@dataclass
class Meaning:
    """When it ends (inf: never), and with what: outputs, or one of several failures at the same time."""

    at: float
    outputs: dict[str, Plain] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    """The tries of nodes in it."""
    maybe: list[Start] = field(default_factory=list)
    """Those that began just when it ended, or did not."""

    @property
    def messages(self) -> frozenset[str]:
        return frozenset(failure.message for failure in self.failures)


class Definition:
    def __init__(self, nature: Nature) -> None:
        self._nature = nature
        self._tries: Counter[Start] = Counter()
        self._maybe: set[Start] = set()

    def graph(self, graph: Graph, path: str, inputs: Mapping[str, Plain], at: float) -> Meaning:
        values = {Ref("", name): plain for name, plain in inputs.items()}
        refs = [ref for source in graph.outputs.values() for ref in source.refs]
        for node in graph.nodes.values():
            refs += _refs(node)
        ends: dict[str, Meaning] = {}
        for node in graph.nodes.values():
            before = [ends[ref.node] for ref in _refs(node) if ref.node]
            if any(other.failures or other.at == math.inf for other in before):
                ends[node.name] = Meaning(math.inf)
                continue
            begin = max((other.at for other in before), default=at)
            wanted = {ref.name for ref in refs if ref.node == node.name}
            end = ends[node.name] = self._node(node, f"{path}{node.name}", values, begin, wanted)
            values |= {Ref(node.name, name): plain for name, plain in end.outputs.items()}
        whole = self._all_of(ends.values(), at)
        if not whole.failures and whole.at < math.inf:
            whole.outputs = {
                name: value for name, source in graph.outputs.items() if (value := _first(source, values)) is not None
            }
        return whole

    def _all_of(self, parts: Iterable[Meaning], at: float) -> Meaning:
        """What ends with the last of them, or with the first failure."""
        parts = list(parts)
        failing = min((part.at for part in parts if part.failures), default=math.inf)
        whole = Meaning(failing if failing < math.inf else max((part.at for part in parts), default=at))
        for part in parts:
            whole.starts += part.starts
            whole.maybe += part.maybe
            if part.failures and part.at == failing:
                whole.failures += part.failures
        return self._cut(whole, failing)

    def _cut(self, whole: Meaning, at: float) -> Meaning:
        """Without the tries that would have begun later."""
        for start in (*whole.starts, *whole.maybe):
            if start.at > at:
                self._tries[start] -= 1
        whole.maybe = [start for start in whole.maybe if start.at <= at]
        whole.maybe += (unsure := [start for start in whole.starts if start.at == at])
        whole.starts = [start for start in whole.starts if start.at < at]
        self._maybe.update(unsure)
        return whole

    def _node(self, node: Node, path: str, values: Mapping[Ref, Plain], at: float, wanted: set[str]) -> Meaning:
        failed = f"node {path}: "
        if node.when:
            value = values.get(node.when.ref)
            if value is None:
                return Meaning(at)
            if value is Flag.BAD:
                return Meaning(
                    at, failures=[Failure(_blame([node.when.ref]), f"{failed}its condition {node.when.ref}: …")]
                )
            if (value not in (Flag.FALSE, ())) != node.when.holds:
                return Meaning(at)
        inputs: dict[str, Plain] = {}
        for name, source in node.inputs.items():
            value = _first(source, values)
            if value is not None:
                inputs[name] = value
            elif not source.optional:
                return Meaning(at)
        if not node.each:
            end = self._item(node, path, inputs, at)
            end.failures = [_placed(node, path, failure, "") for failure in end.failures]
            if end.failures and node.on_error == "skip":
                bare = frozenset(failure.message.removeprefix(failed) for failure in end.failures)
                messages = bare if not isinstance(node.body, Graph) else end.messages
                return Meaning(end.at, {"$failures": (Failed(0, messages),)}, [], end.starts, end.maybe)
            return end
        columns = {name: inputs[name] for name in node.each if name in inputs}
        lists = {name: value for name, value in columns.items() if isinstance(value, tuple)}
        if len(lists) < len(columns) or len({len(column) for column in lists.values()}) > 1:
            refs = [ref for name in node.each for ref in node.inputs[name].refs]
            return Meaning(at, failures=[Failure(_blame(refs), f"{failed}input…")])
        rows: list[dict[str, Plain]] = [
            inputs | {name: column[index] for name, column in lists.items()}
            for index in range(len(next(iter(lists.values()), ())))
        ]
        names = {name for name in wanted if not name.startswith("$")}
        ends = [self._item(node, path, row, at) for row in rows]
        skipped: list[Failed] = []
        for index, end in enumerate(ends):
            if any(isinstance(end.outputs.get(name), tuple) for name in names):
                text = f"node {path}: its output …" if isinstance(node.body, Graph) else "its output …"
                end.outputs, end.failures = {}, [Failure(Kind.HANDLER, text)]
            if end.failures and node.on_error == "skip":
                skipped.append(Failed(index, end.messages))
                end.failures, end.outputs = [], {"$failed": ()}
            else:
                end.failures = [_placed(node, path, failure, str(index)) for failure in end.failures]
        whole = self._all_of(ends, at)
        if not whole.failures:
            answered = {i: end.outputs for i, end in enumerate(ends) if names <= set(end.outputs) - {"$failed"}}
            answered = {index: outputs for index, outputs in answered.items() if "$failed" not in outputs}
            whole.outputs = {name: tuple(outputs[name] for outputs in answered.values()) for name in names}
            whole.outputs["$positions"] = tuple(map(str, answered))
            if node.on_error == "skip":
                whole.outputs["$failures"] = tuple(skipped)
        return whole

    def _item(self, node: Node, path: str, inputs: dict[str, Plain], at: float) -> Meaning:
        """The rounds, and their tries."""
        whole = Meaning(at)
        rounds = node.repeat.at_most if node.repeat else 1
        nested = f"node {path}: " if isinstance(node.body, Graph) else ""
        for turn in range(1, rounds + 1):
            for again in range(node.retry + 1):
                end = self._try(node, path, inputs, whole.at)
                if node.timeout_seconds and end.at > whole.at + node.timeout_seconds:
                    end = self._cut(end, whole.at + node.timeout_seconds)
                    end.at, end.outputs = whole.at + node.timeout_seconds, {}
                    end.failures = [
                        Failure(Kind.DEADLINE, f"{nested}it took longer than {node.timeout_seconds:g} s (timeout)")
                    ]
                whole.at, whole.outputs, whole.failures = end.at, end.outputs, end.failures
                whole.starts += end.starts
                whole.maybe += end.maybe
                if not end.failures or again == node.retry:
                    break
                same = [failure.kind in (Kind.INVALID, Kind.TOO_LARGE, Kind.WORKER_DIED) for failure in end.failures]
                if all(same):
                    break
                if any(same):
                    raise Unfit
            if whole.failures or whole.at == math.inf or node.repeat is None or turn == rounds:
                break
            more = whole.outputs.get(node.repeat.while_)
            if more is Flag.BAD:
                whole.outputs = {}
                whole.failures = [Failure(Kind.HANDLER, f"{nested}its output {node.repeat.while_} (repeat): …")]
            if more in (None, Flag.FALSE, Flag.BAD, ()):
                break
            carry = {name: whole.outputs.get(output) for name, output in node.repeat.carry.items()}
            inputs = inputs | {name: value for name, value in carry.items() if value is not None}
        return whole

    def _try(self, node: Node, path: str, inputs: dict[str, Plain], at: float) -> Meaning:
        if isinstance(node.body, Graph) and node.body.fuse != "yes":
            return self.graph(node.body, f"{path}/", inputs, at)
        start = Start.of(at, path, inputs)
        if start in self._maybe or len(self._tries) == _MOST:
            raise Unfit
        behaviour = self._nature.of(start, self._tries[start])
        self._tries[start] += 1
        end = Meaning(at + behaviour.seconds, starts=[start])
        if end.at < math.inf:
            if isinstance(behaviour.outcome, Failure):
                end.failures = [behaviour.outcome]
            else:
                end.outputs = behaviour.outcome
        return end


def _refs(node: Node) -> list[Ref]:
    refs = [ref for source in node.inputs.values() for ref in source.refs]
    return [*refs, node.when.ref] if node.when else refs


def _first(source: Source, values: Mapping[Ref, Plain]) -> Plain | None:
    return next((values[ref] for ref in source.refs if ref in values), None)


def _blame(refs: list[Ref]) -> Kind:
    """Who gave what doesn't fit."""
    return Kind.HANDLER if all(ref.node for ref in refs) else Kind.INVALID


def _placed(node: Node, path: str, failure: Failure, item: str) -> Failure:
    if isinstance(node.body, Graph) and node.body.fuse != "yes":
        return Failure(failure.kind, f"{failure.message} (item {item} of {path})" if item else failure.message)
    return Failure(failure.kind, f"node {path}{f', item {item}' if item else ''}: {failure.message}")
