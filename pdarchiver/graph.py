"""A model's operations, and the values that flow between them.

The vocabulary of Paddle's models is that of PIR (Paddle 3): operations have names without a dialect, operands are in
the order of their definition, attributes have names. `graph_files` reads it. ONNX models have ONNX's, whose names begin
with a capital letter; `graph_onnx` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

Id: TypeAlias = "int | str"
"""The id of a value."""
Shape = tuple[int, ...]
"""A length of -1 is not fixed."""


class Tensor(NamedTuple):
    """A constant that is an attribute."""

    shape: Shape
    numbers: Sequence[float] | None
    """Its elements, unless they are many."""


@dataclass(frozen=True)
class Operation:
    """One step. In `inputs`, None stands for a missing operand, and a list for an operand of several values."""

    kind: str
    inputs: Sequence[Id | list[Id] | None]
    outputs: Sequence[Id | list[Id]]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    changes: Sequence[Id] = ()
    """Values that it writes to, or may write to, in addition to `outputs`."""


@dataclass
class Graph:
    """The outermost block of a model. A loop or a condition, with all in it, is one operation."""

    operations: list[Operation] = field(default_factory=list)
    shapes: dict[Id, Shape | list[Shape]] = field(default_factory=dict)
    """A value of several tensors has a list of shapes. One that is no dense tensor has none."""
    inputs: dict[str, Id] = field(default_factory=dict)
    """Inputs by the model's own names."""
    outputs: dict[str, Id] = field(default_factory=dict)
    parameters: set[Id] = field(default_factory=set)
