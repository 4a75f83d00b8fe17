"""The operations of a Paddle model, and what goes from one to the next.

There is one vocabulary, that of PIR (Paddle 3): operations by their names without dialect, operands in the order of
their definition, attributes by name. `graph_files` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Id: TypeAlias = "int | str"
"""Of a value."""
Shape = tuple[int, ...]
"""-1 where a length is not fixed."""


@dataclass(frozen=True)
class Operation:
    """One step. `inputs` has None where an operand is left out, and a list where it is several."""

    kind: str
    inputs: Sequence[Id | list[Id] | None]
    outputs: Sequence[Id | list[Id]]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    changes: Sequence[Id] = ()
    """Values that it writes to, or may, besides making `outputs`."""


@dataclass
class Graph:
    """The outermost block of a model; what is within loops and conditions stands behind one operation."""

    operations: list[Operation] = field(default_factory=list)
    shapes: dict[Id, Shape | list[Shape]] = field(default_factory=dict)
    """Those of several tensors are a list; what is no dense tensor has none."""
    inputs: dict[str, Id] = field(default_factory=dict)
    """By the model's own names."""
    outputs: dict[str, Id] = field(default_factory=dict)
    parameters: set[Id] = field(default_factory=set)
