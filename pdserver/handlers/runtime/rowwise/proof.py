"""A model's graph → what each of its outputs is to the rows of its inputs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Literal

from pdarchiver import graph_files, graph_onnx, onnx_model
from pdarchiver.errors import InvalidModel
from pdarchiver.graph import Graph, Id, Operation, Shape
from pdarchiver.manifest import TensorSpec
from pdserver.handlers.runtime.rowwise import elementwise, layers, making, onnx, picking, reducing, shaping
from pdserver.handlers.runtime.rowwise.dims import ROWS, Dim
from pdserver.handlers.runtime.rowwise.rules import RULES, Step
from pdserver.handlers.runtime.rowwise.value import MOST_AXES, MOST_NUMBERS, Argument, Mixed, Value

_log = logging.getLogger("pdserver.handlers")
_ROOMS = (elementwise, layers, making, picking, reducing, shaping, *onnx.ROOMS)
"""They enter their rules when they are imported."""

_SHARING = ("builtin.combine", "builtin.split", "builtin.slice", "share_data")
"""Operations whose outputs are their operands' memory."""

FirstAxis = Literal["batch", "other", "unknown"]
"""Of an output. batch: row i comes of row i of the inputs and of nothing else. other: it is something else. unknown:
neither can be told."""


@dataclass(frozen=True)
class Proof:
    """Outputs and inputs are called by the model's own names."""

    outputs: Mapping[str, FirstAxis] = field(default_factory=dict)
    because_of: Mapping[str, str] = field(default_factory=dict)
    """The operation for which an output is not known to be rows; empty where it is no single one."""
    sized_by_data: frozenset[str] = frozenset()
    """Outputs whose length depends on what the rows hold."""
    ids_below: Mapping[str, int] = field(default_factory=dict)
    """Of inputs that are numbers of an embedding's rows: how many it has."""

    def first_axis(self, output: str) -> FirstAxis:
        return self.outputs.get(output, "unknown")


def of_file(model: Path, inputs: Sequence[TensorSpec]) -> Proof:
    """`prove`, of the model in a file: one of Paddle's, or .onnx. Raises OSError."""
    try:
        is_onnx = model.suffix == onnx_model.SUFFIX
        graph = graph_onnx.read(model) if is_onnx else graph_files.read(model.read_bytes())
    except InvalidModel as error:
        _log.warning("the model's operations are not looked at: %s", error)
        return Proof()
    return prove(graph, inputs)


def prove(graph: Graph, inputs: Sequence[TensorSpec]) -> Proof:
    """What can be said of a model when its inputs have their rows along the first axis."""
    shapes = [graph.shapes.get(value) for value in graph.inputs.values()]
    firsts = {shape[:1] if isinstance(shape, tuple) else () for shape in shapes}
    if len(firsts) != 1 or firsts == {()}:
        return Proof()
    (first,) = firsts.pop()
    prover = _Prover(graph, {spec.source: spec.dtype for spec in inputs}, Dim(first) if first >= 0 else Dim(1, (ROWS,)))
    return prover.proof() if first != 1 else prover.proof_of_one()


class _Prover:
    """Goes through the operations in their order."""

    def __init__(self, graph: Graph, dtypes: Mapping[str, str], rows: Dim) -> None:
        self._graph = graph
        self._rows = rows
        self._symbols = count()
        self._limits: dict[str, int] = {}
        self._known: dict[Id, Argument] = {}
        self._shared: dict[Id, set[Id]] = {}
        """Values that may be one and the same memory."""
        for value in graph.parameters:
            shape = graph.shapes.get(value)
            self._known[value] = Value(self._dims(shape)) if isinstance(shape, tuple) else None
        for name, value in graph.inputs.items():
            shape = graph.shapes[value]
            if isinstance(shape, tuple):
                ids_of = name if dtypes.get(name, "").startswith(("int", "uint")) else ""
                self._known[value] = Value((rows, *self._dims(shape[1:])), 0, ids_of=ids_of)

    def proof(self) -> Proof:
        for operation in self._graph.operations:
            self._step(operation)
        outputs = {name: self._known.get(value) for name, value in self._graph.outputs.items()}
        found = {name: value if isinstance(value, Value) else Value(mixed="?") for name, value in outputs.items()}
        return Proof(
            {name: self._first_axis(value) for name, value in found.items()},
            {name: value.mixed for name, value in found.items()},
            frozenset(name for name, value in found.items() if value.sized_by_data),
            self._limits,
        )

    def proof_of_one(self) -> Proof:
        """For a model that takes one row and no more, so that none is beside it: all that there is to be known is
        whether an output is one row, too."""
        found = self.proof()
        shapes = {name: self._graph.shapes.get(value) for name, value in self._graph.outputs.items()}
        kinds: dict[str, FirstAxis] = {
            name: "batch" if shape and shape[0] == 1 else "other" for name, shape in shapes.items()
        }
        return Proof(kinds, found.because_of, found.sized_by_data, found.ids_below)

    def _first_axis(self, value: Value) -> FirstAxis:
        if value.mixed:
            return "other" if value.sized_by_data else "unknown"
        if value.axis is None and value.dims[:1] == (self._rows,):  # as many as a fixed number of rows
            return "batch" if value.uniform else "unknown"
        return "batch" if value.axis == 0 and value.dims[0] == self._rows else "other"

    def _step(self, operation: Operation) -> None:
        inputs: list[Argument] = [self._operand(given) for given in operation.inputs]
        shapes = [self._shapes(output) for output in operation.outputs]
        step = Step(operation.kind, inputs, operation.attributes, shapes, self._rows, self._symbols, self._limits)
        rule = RULES.get(operation.kind)
        outputs: Sequence[Argument] = ()
        mixed = Value(mixed=(self._first_reason(inputs) if rule else "") or operation.kind)
        if rule is not None:
            try:
                outputs = rule(step)
            except Mixed as reason:
                mixed = Value(mixed=mixed.mixed, sized_by_data=reason.sized_by_data)
            except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
                pass  # an operation that is not written as its rule takes it
        for i, output in enumerate(operation.outputs):
            self._note(output, outputs[i] if i < len(outputs) else None, mixed)
        written = operation.changes if step.writes else ()
        self._written(written, outputs[0] if outputs else None, mixed)
        if written or operation.kind in _SHARING:
            self._share(_flat([*operation.outputs, *(written or operation.inputs)]))

    def _operand(self, given: Id | list[Id] | None) -> Argument:
        if given is None:
            return None
        if not isinstance(given, list):
            return self._known.get(given, Value(mixed="?"))
        held = [self._known.get(value) for value in given]
        return [value if isinstance(value, Value) else Value(mixed="?") for value in held]

    def _note(self, output: Id | list[Id], value: Argument, mixed: Value) -> None:
        if not isinstance(output, list):
            self._known[output] = value if value is not None and _is_small(value) else mixed
            return
        items = value if isinstance(value, Sequence) and len(value) == len(output) else [mixed] * len(output)
        self._known.update(zip(output, (item if _is_small(item) else mixed for item in items), strict=True))

    def _written(self, values: Sequence[Id], result: Argument, mixed: Value) -> None:
        """These, and all that may be the same memory, have changed."""
        for shared in self._together(values):
            self._change(shared, result, mixed)

    def _share(self, values: Sequence[Id]) -> None:
        """From now on, these may be one and the same memory."""
        together = self._together(values)
        self._shared.update(dict.fromkeys(together, together))

    def _together(self, values: Sequence[Id]) -> set[Id]:
        return {shared for value in values for shared in self._shared.get(value, {value})}

    def _change(self, value: Id, result: Argument, mixed: Value) -> None:
        """What is written to is no more than what it was and what is written have in common."""
        before = self._known.get(value)
        if isinstance(before, Value) and isinstance(result, Value) and not result.mixed and before.lies_as(result):
            self._known[value] = before.plain()
        else:
            self._known[value] = mixed

    def _first_reason(self, inputs: Sequence[Argument]) -> str:
        flat = [value for given in inputs for value in (given if isinstance(given, Sequence) else [given])]
        return next((value.mixed for value in flat if isinstance(value, Value) and value.mixed), "")

    def _shapes(self, output: Id | list[Id]) -> list[Shape | None]:
        found = [self._graph.shapes.get(value) for value in (output if isinstance(output, list) else [output])]
        flat = [shape for held in found for shape in (held if isinstance(held, list) else [held])]
        return [shape if isinstance(shape, tuple) else None for shape in flat]

    def _dims(self, shape: Sequence[int]) -> tuple[Dim, ...]:
        return tuple(Dim(length) if length >= 0 else Dim(1, (f"_{next(self._symbols)}",)) for length in shape)


def _flat(given: Sequence[Id | list[Id] | None]) -> list[Id]:
    items = [value for held in given for value in (held if isinstance(held, list) else [held])]
    return [value for value in items if value is not None]


def _is_small(given: Argument) -> bool:
    """Whether no more is known of it than of what real models have: operations could double that again and again."""
    values = [given] if isinstance(given, Value) else given or ()
    return all(_has_small_parts(value) for value in values)


def _has_small_parts(value: Value) -> bool:
    numbers = [number for number in value.numbers or () if number is not None]
    if value.rank > MOST_AXES or len(value.numbers or ()) > MOST_NUMBERS:
        return False
    return all(abs(dim.number) <= 2**63 and len(dim.symbols) <= MOST_AXES for dim in (*value.dims, *numbers))
