"""Graphs of all shapes, for property tests. Dice make them: that is fifty times as fast as hypothesis' own drawing."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Literal

from pdarchiver.pipeline.graph import ANY, FAILURES, POSITIONS, Condition, Graph, Node, PythonBody, Ref, Repeat, Source
from tests.pipeline.virtual import Flag, Nature, Plain

Form = Literal["one", "list", "flag", "many", "flags", "failures", "positions"]
"""What a value is: a name, a list of names in any form, a flag, the names or flags that the items of a fan-out gave."""
_LEAF: dict[str, Form] = {"y": "one", "l": "list", "f": "flag"}
_LISTS: dict[Form, Form] = {"one": "many", "flag": "flags"}
"""What a fan-out makes of an output."""
_INPUTS: dict[str, Form] = {"of": "one", "l": "list", "f": "flag", "gone": "one"}


def graph(dice: random.Random, most: int, depth: int = 3) -> Graph:
    """One of at most so many nodes, with graphs of their own nested so deep."""
    return _Making(dice, most).graph(_INPUTS, depth)[0]


def inputs_of(nature: Nature, number: int, flag: Flag) -> dict[str, Plain]:
    """A request's, but `gone`."""
    name = f"request {number}"
    return {"of": name, "l": tuple(f"{name}@{index}" for index in range(nature.length(""))), "f": flag}


class _Making:
    """All nodes take what tells an item from others, and from the same one on another way: `of`, the innermost item or
    the request, and `in`…, those around it."""

    def __init__(self, dice: random.Random, most: int) -> None:
        self._dice = dice
        self._most = most

    def _once_in(self, times: int) -> bool:
        return self._dice.randrange(times) == 0

    def graph(self, inputs: Mapping[str, Form], depth: int) -> tuple[Graph, dict[str, Form]]:
        """The graph, and what its outputs are."""
        values: dict[Ref, Form] = {Ref("", name): form for name, form in inputs.items()}
        nodes: dict[str, Node] = {}
        for index in range(self._dice.randint(1, self._most)):
            node, outputs = self._node(f"n{index}", values, depth)
            nodes[node.name] = node
            values |= {Ref(node.name, name): form for name, form in outputs.items()}
        given = [ref for ref in values if ref.node]
        kept = self._dice.sample(given, self._dice.randint(1, len(given)))
        sources = {str(ref): self._source(ref, values) for ref in kept}
        for name, form in _LEAF.items():  # names as leaves have, which repeats take
            fitting = [ref for ref in given if values[ref] == form]
            if fitting and self._once_in(2):
                sources[name] = self._source(self._dice.choice(fitting), values)
        return Graph(dict.fromkeys(inputs, ANY), nodes, sources), {
            name: values[source.refs[0]] for name, source in sources.items()
        }

    def _source(self, ref: Ref, values: Mapping[Ref, Form], optional: bool = False) -> Source:
        """The value, and perhaps an alternative to it."""
        alike = [other for other, form in values.items() if form == values[ref] and other.node not in ("", ref.node)]
        return Source((ref, self._dice.choice(alike)) if alike and self._once_in(3) else (ref,), optional)

    def _node(self, name: str, values: Mapping[Ref, Form], depth: int) -> tuple[Node, dict[str, Form]]:
        refs = list(values)
        ids = [ref for ref in refs if not ref.node and ref.name.startswith(("of", "in"))]
        taken = {ref.name: Source((ref,)) for ref in ids}
        forms: dict[str, Form] = dict.fromkeys(taken, "one")
        for other in self._dice.sample("abc", self._dice.randint(0, 3)):
            ref = self._dice.choice(refs)
            taken[other] = self._source(ref, values, optional=self._once_in(2))
            forms[other] = values[ref]
        each: tuple[str, ...] = ()
        lists = [ref for ref in refs if values[ref] in ("list", "many")]
        if lists and self._once_in(2):
            each = ("of",)
            taken[f"in{depth}"], forms[f"in{depth}"] = taken["of"], "one"
            taken["of"] = self._source(self._dice.choice(lists), values, optional=self._once_in(6))
            if self._once_in(4):
                each, taken["pair"], forms["pair"] = ("of", "pair"), Source((self._dice.choice(lists),)), "one"
        inside = _LEAF
        body: Graph | PythonBody = PythonBody("nodes.py")
        if depth and self._once_in(3):
            body, inside = _Making(self._dice, min(self._most, 3)).graph(forms, depth - 1)
        more: dict[str, Any] = {}
        conditions = [ref for ref in refs if values[ref] in ("flag", "one", "many", "flags", "failures")]
        if self._once_in(4):
            more["when"] = Condition(self._dice.choice(conditions), holds=self._once_in(2))
        if inside.get("f") == "flag" and self._once_in(4):
            carry = {"of": "y"} if inside.get("y") == "one" and self._once_in(2) else {}
            carry |= {"a": "l"} if inside.get("l") == forms.get("a") == "list" else {}
            more["repeat"] = Repeat("f", self._dice.randint(1, 4), carry)
        if self._once_in(4):
            more["timeout_seconds"] = self._dice.uniform(0.1, 3.0)
        node = Node(
            name, body, taken, dict.fromkeys(inside, ANY), each,
            on_error=self._dice.choice(["fail", "skip"]), retry=self._dice.choice([0, 0, 1, 3]), **more,
        )  # fmt: skip
        outputs = inside.copy()
        if each:
            outputs = {key: _LISTS[form] for key, form in inside.items() if form in _LISTS}
            if self._once_in(5):
                outputs |= {key: "flags" for key, form in inside.items() if form in ("many", "flags")}  # fails
            outputs[POSITIONS] = "positions"
        if node.on_error == "skip":
            outputs[FAILURES] = "failures"
        return node, outputs
