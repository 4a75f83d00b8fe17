"""What every engine has in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pdarchiver.manifest import Signature
from pdserver.handlers.runtime.rows import Arrays

EngineName = Literal["paddle", "onnxruntime", "openvino"]
Precision = Literal["float32", "bfloat16", "float16", "int8"]


@dataclass(frozen=True)
class Candidate:
    """A way to run a model: an engine, and the files that it reads."""

    engine: EngineName
    model_file: Path
    """PIR's .json, .pdmodel, __model__ or .onnx."""
    params_file: Path | None
    """The weights beside it, of Paddle's forms."""
    signature: Signature
    """With the names that inputs and outputs have in `model_file` as sources."""
    precision: Precision = "float32"
    """In which the engine may compute; int8: the operations of a model that was quantized before."""

    def __str__(self) -> str:
        return f"{self.engine} ({self.precision})" if self.precision != "float32" else self.engine


class Engine(Protocol):
    """A model, loaded. It belongs to the process and the thread that have loaded it."""

    def run(self, inputs: Arrays) -> Arrays:
        """All outputs for all inputs, by the signature's public names.

        `inputs` have the signature's dtypes, C order, and at least one element; bfloat16 is held as float32, in
        outputs as well. Nothing given back changes with the next run. Raises whatever the engine raises.
        """

    def close(self) -> None:
        """Free what it holds. Nothing runs after that. Idempotent."""


KEPT_OPERATIONS = 1024
"""What an engine keeps by itself at most of the operations that it has prepared, each for the shapes of its inputs."""


def kept_operations(operations: int, shapes: int) -> int:
    """How many it should keep, of a model of so many operations whose inputs have so many shapes (0: nobody knows)."""
    return max(KEPT_OPERATIONS, operations * shapes)
